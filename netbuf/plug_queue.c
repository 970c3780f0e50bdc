#include "plug_queue.h"

#include <errno.h>
#include <string.h>

#include <linux/pkt_sched.h>

#include <replicad/auto.h>

#define PRIO_HANDLE 0x52500000u
/* Each band has two handles in turn: a new plug needs another one than the plug that it replaces. */
#define PLUG_HANDLE(band, turn) (PRIO_HANDLE + ((1u + 2 * (band) + (turn)) << 16))
#define STALL_STEPS 20 /* looks without a frame leaving: the command is given again */
#define WAIT 1

static uint32_t class_of(uint32_t band)
{
	return PRIO_HANDLE | (band + 1);
}

static uint32_t filling(const struct plug_queue *q)
{
	return (q->first + q->sealed) % PLUG_BANDS;
}

/* ---- what is read */

/* The root, as told just now: ours, and no more of it left than may? */
static int take_root(struct plug_queue *q, const struct plug_nl_queue *t, struct rpl_err *err)
{
	if (t->r < 0)
		return rpl_fail_errno(err, -t->r, "no answer that can be read");
	if (strcmp(t->q.kind, "prio") != 0 || t->q.handle != PRIO_HANDLE)
		return rpl_fail(err, -EPROTO, "the queue there is %s %x:, not our prio %x:: somebody replaced it", t->q.kind,
				t->q.handle >> 16, PRIO_HANDLE >> 16);
	if (t->q.bands != PLUG_BANDS || t->q.into != (int)filling(q))
		return rpl_fail(err, -EPROTO, "frames go into band %d of %d, not into %u of %d: somebody changed that", t->q.into + 1,
				t->q.bands, filling(q) + 1, PLUG_BANDS);
	q->now = t->q;
	if (q->now.sent_bytes > q->may_leave_bytes)
		return rpl_fail(err, -EPROTO, "%llu bytes have left where %llu might: the kernel's plug does not hold",
				(unsigned long long)q->now.sent_bytes, (unsigned long long)q->may_leave_bytes);
	return 0;
}

static int take_band(const struct plug_queue *q, uint32_t band, const struct plug_nl_queue *t, struct rpl_err *err)
{
	if (t->r < 0)
		return rpl_fail_errno(err, -t->r, "band %u: no answer that can be read", band + 1);
	if (strcmp(t->q.kind, "plug") != 0 || t->q.handle != q->handle[band])
		return rpl_fail(err, -EPROTO, "band %u is %s %x:, not our plug %x:: somebody replaced it", band + 1, t->q.kind,
				t->q.handle >> 16, q->handle[band] >> 16);
	return 0;
}

static struct plug_nl_ask ask_root(const struct plug_queue *q, struct plug_nl_queue *t)
{
	*t = PLUG_NL_QUEUE;
	return (struct plug_nl_ask){ plug_msg_qdisc_get(q->index, TC_H_ROOT), plug_nl_take_queue, t };
}

static struct plug_nl_ask ask_band(const struct plug_queue *q, uint32_t band, struct plug_nl_queue *t)
{
	*t = PLUG_NL_QUEUE;
	return (struct plug_nl_ask){ plug_msg_qdisc_get(q->index, class_of(band)), plug_nl_take_queue, t };
}

static struct plug_nl_ask ask_into(const struct plug_queue *q, uint32_t band, struct plug_nl_queue *t)
{
	*t = PLUG_NL_QUEUE;
	return (struct plug_nl_ask){ plug_msg_prio_into(q->index, PRIO_HANDLE, PLUG_BANDS, (int)band), plug_nl_take_queue, t };
}

static struct plug_nl_ask ask_do(const struct plug_queue *q, uint32_t band, int action)
{
	return (struct plug_nl_ask){ plug_msg_plug_do(q->index, class_of(band), q->handle[band], action), NULL, NULL };
}

/* A command that the kernel refuses as making no sense: what we believe to be there is not. To our caller -EINVAL would be a
 * question of his that makes none. */
static int command(struct plug_nl *nl, const struct plug_nl_ask *ask, uint32_t n, struct rpl_err *err)
{
	int r = plug_nl_batch(nl, ask, n, err);

	if (r == -EINVAL)
		r = err->code = -EPROTO;
	return r;
}

int plug_queue_measure(struct plug_queue *q, struct plug_nl *nl, struct rpl_err *err)
{
	struct plug_nl_queue t;
	const struct plug_nl_ask ask = ask_root(q, &t);
	int r = plug_nl_batch(nl, &ask, 1, err);

	return r < 0 ? r : take_root(q, &t, err);
}

static int read_bands(const struct plug_queue *q, struct plug_nl *nl, struct plug_nl_queue t[PLUG_BANDS], struct rpl_err *err)
{
	struct plug_nl_ask ask[PLUG_BANDS];

	for (uint32_t i = 0; i < PLUG_BANDS; i++)
		ask[i] = ask_band(q, i, &t[i]);
	return plug_nl_batch(nl, ask, PLUG_BANDS, err);
}

int plug_queue_check(struct plug_queue *q, struct plug_nl *nl, struct rpl_err *err)
{
	struct plug_nl_queue t[PLUG_BANDS];
	int r = read_bands(q, nl, t, err);

	for (uint32_t i = 0; r == 0 && i < PLUG_BANDS; i++)
		r = take_band(q, i, &t[i], err);
	return r < 0 ? r : plug_queue_measure(q, nl, err);
}

/* ---- making it, finding it */

static void start_anew(struct plug_queue *q)
{
	q->first = filling(q);
	q->sealed = q->may = q->stalled = 0;
	q->draining = q->opening = q->open = false;
	q->known = true;
}

void plug_queue_forget(struct plug_queue *q)
{
	q->passed_frames += q->now.sent_packets;
	q->passed_bytes += q->now.sent_bytes;
	q->dropped_frames += q->now.dropped + q->now.queued;
	q->now = (struct plug_qdisc){ 0 };
	q->built = q->known = false;
}

int plug_queue_build(struct plug_queue *q, struct plug_nl *nl, struct rpl_err *err)
{
	int r;

	plug_queue_forget(q);
	r = plug_nl_do(nl, plug_msg_root_del(q->index), err);
	if (r < 0 && r != -ENOENT)
		return rpl_prefix(err, "remove the queue that is there");
	q->first = q->sealed = 0;
	start_anew(q);
	q->may_leave_bytes = 0;
	r = plug_nl_do(nl, plug_msg_prio_new(q->index, PRIO_HANDLE, PLUG_BANDS, (int)filling(q)), err);
	if (r < 0)
		return rpl_prefix(err, "make a prio (sch_prio)");
	for (uint32_t i = 0; r == 0 && i < PLUG_BANDS; i++) {
		q->handle[i] = PLUG_HANDLE(i, 0);
		r = plug_nl_do(nl, plug_msg_plug_new(q->index, class_of(i), q->handle[i], q->limit_bytes), err);
	}
	if (r < 0)
		return rpl_prefix(err, "make a plug (sch_plug)");
	r = plug_queue_check(q, nl, err); /* that is what it is, says the kernel */
	q->built = r == 0;
	return r;
}

/* The handles of the plugs that are there; false: something else is. */
static bool know_bands(struct plug_queue *q, const struct plug_nl_queue t[PLUG_BANDS])
{
	for (uint32_t i = 0; i < PLUG_BANDS; i++) {
		q->handle[i] = t[i].q.handle;
		if (t[i].r < 0 || strcmp(t[i].q.kind, "plug") != 0 ||
		    (q->handle[i] != PLUG_HANDLE(i, 0) && q->handle[i] != PLUG_HANDLE(i, 1)))
			return false;
	}
	return true;
}

static bool is_layout(const struct plug_qdisc *root)
{
	return strcmp(root->kind, "prio") == 0 && root->handle == PRIO_HANDLE && root->bands == PLUG_BANDS && root->into >= 0 &&
	       root->into < PLUG_BANDS;
}

int plug_queue_find(struct plug_queue *q, int index, struct plug_nl *nl, struct rpl_err *err)
{
	struct plug_nl_ask ask[PLUG_BANDS + 1];
	struct plug_nl_queue root, t[PLUG_BANDS];
	int r;

	q->index = index;
	q->built = q->known = false;
	r = plug_nl_qdisc(nl, index, TC_H_ROOT, &root.q, err);
	if (r == 0 && is_layout(&root.q))
		r = read_bands(q, nl, t, err);
	else if (r == 0)
		r = -ENOENT;
	if (r == 0 && !know_bands(q, t))
		r = -ENOENT;
	if (r == -ENOENT) /* none, or another one */
		plug_queue_forget(q);
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	/* Used in turn: the oldest is the one after the one that fills. What they were told last is not known: closed they
	 * are now. */
	q->first = ((uint32_t)root.q.into + 1) % PLUG_BANDS;
	q->sealed = PLUG_BANDS - 1;
	memset(q->empty, 0, sizeof(q->empty));
	q->may = q->stalled = 0;
	q->draining = q->opening = q->open = false;
	q->may_leave_bytes = UINT64_MAX;
	for (uint32_t i = 0; i < PLUG_BANDS; i++)
		ask[i] = ask_do(q, i, TCQ_PLUG_BUFFER);
	ask[PLUG_BANDS] = ask_into(q, filling(q), &root);
	r = command(nl, ask, PLUG_BANDS + 1, err);
	if (r == 0)
		r = take_root(q, &root, err);
	if (r < 0)
		return rpl_prefix(err, "close what is there");
	q->may_leave_bytes = q->now.sent_bytes;
	q->built = true;
	return 0;
}

/* ---- throwing away */

static int replace(struct plug_queue *q, struct plug_nl *nl, uint32_t band, struct rpl_err *err)
{
	uint32_t handle = PLUG_HANDLE(band, q->handle[band] == PLUG_HANDLE(band, 0));
	struct plug_nl_queue t;
	int r = plug_nl_do(nl, plug_msg_plug_new(q->index, class_of(band), handle, q->limit_bytes), err);
	struct plug_nl_ask ask;

	if (r < 0)
		return rpl_prefix(err, "make a plug (sch_plug)");
	q->handle[band] = handle;
	ask = ask_band(q, band, &t);
	r = plug_nl_batch(nl, &ask, 1, err);
	return r < 0 ? r : take_band(q, band, &t, err);
}

int plug_queue_clear(struct plug_queue *q, struct plug_nl *nl, struct rpl_err *err)
{
	struct plug_nl_ask ask[PLUG_BANDS + 1];
	struct plug_nl_queue root, t[PLUG_BANDS];
	uint32_t n = 0;
	int r;

	for (uint32_t i = 0; i < PLUG_BANDS; i++)
		if (q->open || (q->draining && i == q->first))
			ask[n++] = ask_do(q, i, TCQ_PLUG_BUFFER);
	ask[n++] = ask_into(q, filling(q), &root);
	r = command(nl, ask, n, err);
	if (r == 0)
		r = take_root(q, &root, err);
	if (r == 0)
		r = read_bands(q, nl, t, err);
	for (uint32_t i = 0; r == 0 && i < PLUG_BANDS; i++) {
		r = take_band(q, i, &t[i], err);
		if (r == 0 && t[i].q.queued)
			r = replace(q, nl, i, err);
	}
	if (r < 0)
		return rpl_prefix(err, "throw away what is held");
	start_anew(q);
	q->may_leave_bytes = q->now.sent_bytes;
	return plug_queue_measure(q, nl, err);
}

bool plug_queue_unused(const struct plug_queue *q)
{
	return q->built && q->known && !q->sealed && !q->opening && q->now.queued == 0;
}

/* ---- epochs */

bool plug_queue_room(const struct plug_queue *q)
{
	return q->sealed + 1 < PLUG_BANDS;
}

/* One message: the guest stands still meanwhile. */
int plug_queue_seal(struct plug_queue *q, struct plug_nl *nl, struct rpl_err *err)
{
	struct plug_nl_queue t;
	struct plug_nl_ask ask;
	int r;

	rpl_assert(q->known);
	rpl_assert(plug_queue_room(q));
	ask = ask_into(q, (filling(q) + 1) % PLUG_BANDS, &t);
	r = command(nl, &ask, 1, err);
	if (r < 0)
		return r;
	q->empty[filling(q)] = false;
	q->sealed++;
	r = take_root(q, &t, err);
	/* Told after the change: what had come to the sealed band before is counted, and in none is anything. */
	q->empty[(filling(q) + PLUG_BANDS - 1) % PLUG_BANDS] = r == 0 && q->now.queued == 0;
	return r;
}

void plug_queue_release(struct plug_queue *q, uint32_t epochs)
{
	q->may += epochs;
	rpl_assert(q->may <= q->sealed);
}

void plug_queue_open(struct plug_queue *q)
{
	q->may = q->sealed;
	q->opening = true;
}

static void retire_first(struct plug_queue *q)
{
	q->first = (q->first + 1) % PLUG_BANDS;
	q->sealed--;
	q->may--;
}

static int let_go(struct plug_queue *q, struct plug_nl *nl, uint32_t band, struct rpl_err *err)
{
	const struct plug_nl_ask ask = ask_do(q, band, TCQ_PLUG_RELEASE_INDEFINITE);

	q->stalled = 0;
	return command(nl, &ask, 1, err);
}

/* The first may leave: opened, or done with at once if nothing is in it. What it holds is known only now that it is asked,
 * and exactly, as nothing has come to it since its seal. */
static int begin_drain(struct plug_queue *q, struct plug_nl *nl, struct rpl_err *err)
{
	struct plug_nl_queue t;
	struct plug_nl_ask ask;
	int r;

	if (q->empty[q->first]) {
		retire_first(q);
		return 0;
	}
	ask = ask_band(q, q->first, &t);
	r = plug_nl_batch(nl, &ask, 1, err);
	if (r == 0)
		r = take_band(q, q->first, &t, err);
	if (r < 0)
		return r;
	if (t.q.queued == 0) {
		retire_first(q);
		return 0;
	}
	q->may_leave_bytes += t.q.backlog_bytes;
	q->draining = true;
	return let_go(q, nl, q->first, err);
}

static int end_drain(struct plug_queue *q, struct plug_nl *nl, struct rpl_err *err)
{
	struct plug_nl_queue t;
	const struct plug_nl_ask ask[] = { ask_do(q, q->first, TCQ_PLUG_BUFFER), ask_band(q, q->first, &t) };
	int r = command(nl, ask, RPL_ARRAY_LEN(ask), err);

	if (r == 0)
		r = take_band(q, q->first, &t, err);
	if (r == 0 && t.q.queued)
		r = rpl_fail(err, -EPROTO, "band %u: all %llu bytes that might leave have, and it holds %u frames more",
			     q->first + 1, (unsigned long long)q->may_leave_bytes, t.q.queued);
	if (r < 0)
		return r;
	q->draining = false;
	retire_first(q);
	return 0;
}

/* Frames that may leave do so in their own time. Do they? */
static int watch_leave(struct plug_queue *q, struct plug_nl *nl, uint32_t band, uint64_t before, struct rpl_err *err)
{
	q->stalled = q->now.sent_bytes == before ? q->stalled + 1 : 0;
	return q->stalled < STALL_STEPS ? 0 : let_go(q, nl, band, err);
}

static int step_open(struct plug_queue *q, struct plug_nl *nl, struct rpl_err *err)
{
	uint64_t before = q->now.sent_bytes;
	int r = plug_queue_measure(q, nl, err);

	return r < 0 || !q->now.queued ? r : watch_leave(q, nl, filling(q), before, err);
}

int plug_queue_step(struct plug_queue *q, struct plug_nl *nl, struct rpl_err *err)
{
	int r = 0;

	if (q->open)
		return step_open(q, nl, err);
	while (q->may > 0) {
		uint64_t before = q->now.sent_bytes;

		if (!q->draining)
			r = begin_drain(q, nl, err);
		if (r == 0 && !q->draining)
			continue;
		if (r == 0)
			r = plug_queue_measure(q, nl, err);
		if (r == 0 && q->now.sent_bytes < q->may_leave_bytes) {
			r = watch_leave(q, nl, q->first, before, err);
			return r < 0 ? r : WAIT;
		}
		if (r == 0)
			r = end_drain(q, nl, err);
		if (r < 0)
			return r;
	}
	if (!q->opening)
		return 0;
	q->open = true;
	q->may_leave_bytes = UINT64_MAX;
	return let_go(q, nl, filling(q), err);
}

int plug_queue_burst(struct plug_queue *q, struct plug_nl *nl, struct rpl_err *err)
{
	struct plug_nl_ask ask[PLUG_BANDS];

	q->opening = q->open = true;
	q->may_leave_bytes = UINT64_MAX;
	for (uint32_t i = 0; i < PLUG_BANDS; i++)
		ask[i] = ask_do(q, i, TCQ_PLUG_RELEASE_INDEFINITE);
	return command(nl, ask, PLUG_BANDS, err);
}
