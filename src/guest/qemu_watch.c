/* qemu_watch.c - was a device plugged in or out?
 *
 * QEMU tells of unplugging (DEVICE_DELETED) but not of plugging in, and a standby without the new device could not load
 * the device state. What the standby matches is what an inspection found, so the names below /machine/peripheral and
 * /machine/peripheral-anon are asked for right before one, and again
 *   - at most once a second right after a resume: the answer comes while the guest runs, long before the next pause needs the
 *     monitor. That is for the operator's sake, and for devices that have no state;
 *   - after the first resume behind rpl_guest_memory(), when a session is about to take its first checkpoint;
 *   - in the pause itself, when a saved device state has other sections than the one before: then the checkpoint is not used.
 * So no checkpoint of a session has a device that the inspection did not see.
 */
#include "qemu_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <replicad/clock.h>

static const char *const containers[QEMU_WATCHED] = { "/machine/peripheral", "/machine/peripheral-anon" };

static uint64_t hash_names(json_t *list)
{
	uint64_t sum = 0;
	json_t *o;
	size_t i;

	json_array_foreach (list, i, o) { /* the order does not count */
		const char *s = json_string_value(json_object_get(o, "name"));

		sum += qemu_hash(QEMU_HASH_BEGIN, s, s ? strlen(s) : 0);
	}
	return sum;
}

/* Other names than the last time. */
static bool names_changed(struct qemu *q, size_t which, json_t *list)
{
	uint64_t before = q->watched_names[which], now;

	if (!list)
		return false; /* such a container is not there; then nothing can appear in it */
	now = hash_names(list) | 1; /* 0: not asked yet */
	q->watched_names[which] = now;
	return before && before != now;
}

static void got_names(struct qemu *q, size_t which, json_t *list)
{
	if (names_changed(q, which, list) && q->g->phase == RPL_GP_LIVE)
		rpl_guest_tell(q->g, RPL_GUEST_CHANGED, "a device was plugged in or out (%zu below %s now)",
			       json_array_size(list), containers[which]); /* the handle may be gone */
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

static int ask(struct qemu *q, qmp_reply_fn *const fns[QEMU_WATCHED], struct rpl_err *err)
{
	int r = 0;

	for (size_t i = 0; i < QEMU_WATCHED && r >= 0; i++)
		r = qmp_call(q->qmp, "qom-list", json_pack("{s:s}", "path", containers[i]), -1, fns[i], err);
	return r;
}

void qemu_watch(struct qemu *q)
{
	static qmp_reply_fn *const fns[QEMU_WATCHED] = { on_peripheral, on_peripheral_anon };
	uint64_t now = rpl_now_ns();

	if (q->watched_ns && now - q->watched_ns < QEMU_WATCH_MS * RPL_MS)
		return;
	q->watched_ns = now;
	(void)ask(q, fns, NULL); /* if the monitor is in trouble, the next operation says so */
}

void qemu_watch_anew(struct qemu *q)
{
	memset(q->watched_names, 0, sizeof(q->watched_names)); /* what is found now is what later looks compare with */
	q->watched_ns = q->sections = 0;
	qemu_watch(q);
}

/* ---- in a saved device state */

static void on_peripheral_saved(void *arg, json_t *ret, const struct rpl_err *err)
{
	struct qemu *q = arg;

	(void)err;
	q->plugged = names_changed(q, 0, ret);
}

static void on_peripheral_anon_saved(void *arg, json_t *ret, const struct rpl_err *err)
{
	struct qemu *q = arg;
	struct rpl_err why;

	(void)err;
	q->plugged = names_changed(q, 1, ret) || q->plugged;
	if (q->plugged) {
		(void)rpl_fail(&why, -ESTALE, "a device was plugged in or out since it was looked at");
		qemu_op_failed(q, &why);
	} else {
		rpl_guest_op_done(q->g, 0, NULL);
	}
}

/* A state that cannot be read is not of the form that is known: then the names have to do, asked for once a second. */
static uint64_t sections_of_saved(struct qemu *q)
{
	struct rpl_guest *g = q->g;

	if (g->state_len > q->saved_cap) {
		free(q->saved);
		q->saved = malloc(g->state_len);
		q->saved_cap = q->saved ? g->state_len : 0;
	}
	if (!q->saved || pread(g->state_fd, q->saved, g->state_len, 0) != (ssize_t)g->state_len)
		return 0;
	return qemu_sections(q->saved, g->state_len);
}

void qemu_watch_saved(struct qemu *q)
{
	static qmp_reply_fn *const fns[QEMU_WATCHED] = { on_peripheral_saved, on_peripheral_anon_saved };
	uint64_t now = sections_of_saved(q), before = q->sections;
	struct rpl_err err;

	q->sections = now;
	if (!now || !before || now == before)
		rpl_guest_op_done(q->g, 0, NULL);
	else if (ask(q, fns, &err) < 0)
		qemu_op_failed(q, &err);
}
