/* fuzz_etcd.c - what an etcd, or whatever listens there, answers: believed only if it is whole
 *
 * The first byte says how the answer is read: as that of a read, of a transaction, or of a refusal.
 */
#include "failover/arbiter/etcd_text.h"

#include <string.h>

#include "fuzz.h"

static void check_value(const struct rpl_etcd_value *v, const struct rpl_uuid *vm)
{
	struct rpl_record again;

	if (!v->present)
		return;
	rpl_assert(v->mod_revision > 0);
	rpl_assert(memchr(v->text, '\0', sizeof(v->text)));
	rpl_assert(rpl_record_decode(v->text, strlen(v->text), &again, NULL) == 0);
	rpl_assert(rpl_record_equal(&v->record, &again));
	rpl_assert(rpl_uuid_equal(&v->record.vm, vm));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct rpl_record want = { .format = RPL_RECORD_FORMAT, .generation = 2, .owner = "beta" };
	char key[RPL_ETCD_KEY_MAX], request[RPL_ETCD_REQUEST_MAX];
	const char *text = (const char *)data + 1;
	struct rpl_etcd_answer a;
	struct rpl_err err = { 0 };
	int r;

	if (len == 0)
		return 0;
	memset(want.vm.b, 0x11, sizeof(want.vm.b));
	rpl_etcd_key("test", &want.vm, key);
	if (data[0] == 'e') {
		r = rpl_etcd_read_refusal(503, text, len - 1, &err);
		rpl_assert(r < 0);
	} else if (data[0] == 't') {
		r = rpl_etcd_read_txn(text, len - 1, key, &want, &a, &err);
		rpl_assert(r < 0 || !a.swapped || rpl_record_equal(&a.now.record, &want));
	} else {
		r = rpl_etcd_read_range(text, len - 1, key, &want.vm, &a, &err);
		rpl_assert(r < 0 || !a.swapped);
	}
	if (r < 0) {
		rpl_assert(err.code < 0 && err.msg[0]);
		return 0;
	}
	rpl_assert(a.cluster_id > 0);
	check_value(&a.now, &want.vm);
	rpl_assert(rpl_etcd_write_txn(key, &a.now, &want, request, &err) > 0);
	return 0;
}
