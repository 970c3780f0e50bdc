/* fuzz_record.c - the arbiter's record as text: what is accepted can be written again and means the same */
#include "failover/arbiter/record_text.h"

#include <string.h>

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	char text[RPL_RECORD_TEXT_MAX];
	struct rpl_record r, again;
	struct rpl_err err = { 0 };
	int n;

	if (rpl_record_decode((const char *)data, len, &r, &err) < 0) {
		rpl_assert(err.code < 0 && err.msg[0]);
		return 0;
	}
	rpl_assert(r.format == RPL_RECORD_FORMAT);
	rpl_assert(r.generation > 0);
	rpl_assert(memchr(r.owner, '\0', sizeof(r.owner)));
	n = rpl_record_encode(&r, text, &err);
	rpl_assert(n > 0);
	rpl_assert(rpl_record_decode(text, (size_t)n, &again, &err) == 0);
	rpl_assert(rpl_record_equal(&r, &again));
	return 0;
}
