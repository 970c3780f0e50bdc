/* fuzz_qmp.c - bytes from a monitor socket; first byte: how many arrive at a time */
#include <string.h>

#include "../../src/guest/qmp_parse.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	size_t step = len ? (size_t)data[0] + 1 : 1;
	struct qmp_parser p = { 0 };
	struct rpl_err err = { 0 };
	int r = 0;

	for (size_t i = 1; i < len && r >= 0; i += step) {
		struct qmp_msg m;

		r = qmp_parser_feed(&p, data + i, len - i < step ? len - i : step, &err);
		while (r >= 0 && (r = qmp_parser_next(&p, &m, &err)) > 0) {
			rpl_assert(m.kind == QMP_ERROR ? m.name != NULL : m.kind == QMP_EVENT ? m.name != NULL : m.data != NULL);
			qmp_msg_fini(&m);
		}
	}
	rpl_assert(r >= 0 || (err.code < 0 && err.msg[0]));
	qmp_parser_fini(&p);
	return 0;
}
