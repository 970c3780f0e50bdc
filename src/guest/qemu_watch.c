/* qemu_watch.c - was a device plugged in or out?
 *
 * QEMU tells of unplugging (DEVICE_DELETED) but not of plugging in, and a standby without the new device could not load
 * the device state. So the names below /machine/peripheral and /machine/peripheral-anon are asked for at most once a
 * second, right after a resume: the answer comes while the guest runs, long before the next pause needs the monitor.
 */
#include "qemu_impl.h"

#include <string.h>

#include <replicad/clock.h>

static const char *const containers[QEMU_WATCHED] = { "/machine/peripheral", "/machine/peripheral-anon" };

static uint64_t hash_names(json_t *list)
{
	uint64_t sum = 0;
	json_t *o;
	size_t i;

	json_array_foreach (list, i, o) { /* the order does not count */
		const char *s = json_string_value(json_object_get(o, "name"));
		uint64_t h = UINT64_C(0xcbf29ce484222325);

		for (; s && *s; s++)
			h = (h ^ (unsigned char)*s) * UINT64_C(0x100000001b3);
		sum += h;
	}
	return sum;
}

static void got_names(struct qemu *q, size_t which, json_t *ret)
{
	uint64_t now;

	if (!ret)
		return; /* such a container is not there; then nothing can appear in it */
	now = hash_names(ret) | 1; /* 0: not asked yet */
	if (q->watched_names[which] && q->watched_names[which] != now && q->g->phase == RPL_GP_LIVE) {
		q->watched_names[which] = now;
		rpl_guest_tell(q->g, RPL_GUEST_CHANGED, "a device was plugged in or out (%zu below %s now)",
			       json_array_size(ret), containers[which]);
		return; /* the handle may be gone */
	}
	q->watched_names[which] = now;
}

static void on_peripheral(void *arg, json_t *ret, const struct rpl_err *err)
{
	(void)err; /* the guest may have no such container */
	got_names(arg, 0, ret);
}

static void on_peripheral_anon(void *arg, json_t *ret, const struct rpl_err *err)
{
	(void)err; /* the guest may have no such container */
	got_names(arg, 1, ret);
}

void qemu_watch(struct qemu *q)
{
	static qmp_reply_fn *const fns[QEMU_WATCHED] = { on_peripheral, on_peripheral_anon };
	uint64_t now = rpl_now_ns();

	if (q->watched_ns && now - q->watched_ns < QEMU_WATCH_MS * RPL_MS)
		return;
	q->watched_ns = now;
	for (size_t i = 0; i < QEMU_WATCHED; i++)
		if (qmp_call(q->qmp, "qom-list", json_pack("{s:s}", "path", containers[i]), -1, fns[i], NULL) < 0)
			return; /* the monitor is in trouble: the next operation says so */
}
