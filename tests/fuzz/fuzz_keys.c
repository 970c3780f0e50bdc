/* fuzz_keys.c - the text of key files */
#include <string.h>

#include <replicad/keys.h>

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct rpl_keys *k = NULL;
	struct rpl_err err = { 0 };
	const uint8_t *key;
	size_t key_len;

	if (rpl_keys_parse(data, len, &k, &err) < 0) {
		rpl_assert(err.code < 0 && err.msg[0] && !k);
		return 0;
	}
	rpl_assert(rpl_keys_count(k) >= 1 && rpl_keys_count(k) <= RPL_KEYS_MAX);
	rpl_assert(!rpl_keys_find(k, "", &key, &key_len));
	rpl_keys_free(k);
	return 0;
}
