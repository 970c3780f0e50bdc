/* Taking checkpoints: what happens while the guest waits.
 *
 * Dirty set into `todo`, pages and device state into the arena, STAGED: the guest may run. What does not fit (into the
 * arena, or into what the backup can stage) goes "direct": the guest stays paused while send.c takes the pages from its
 * memory, and STAGED follows when the last of them is in the link. To keep that rare, the running epoch's dirty pages
 * are looked at now and then, and the keeper is told (FULL) when they approach what is free.
 */
#include "primary.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <replicad/clock.h>
#include <replicad/fault.h>
#include <replicad/log.h>
#include <replicad/replica.h>

size_t primary_gather(const struct rpl_bitmap *b, uint64_t *cursor, uint64_t *pfns, size_t max)
{
	size_t n = 0;

	while (n < max) {
		uint64_t pfn = rpl_bitmap_next(b, *cursor);

		if (pfn >= b->bits) {
			*cursor = b->bits;
			break;
		}
		pfns[n++] = pfn;
		*cursor = pfn + 1;
	}
	return n;
}

/* Add the dirty set to `todo`; all pages, the first time in a session. */
static int take(struct mover *m, struct rpl_err *err)
{
	const struct rpl_ram_layout *l = rpl_memory_layout(m->memory);
	struct primary *p = m->primary;
	uint64_t t = rpl_now_ns(), found = 0;
	int r = rpl_memory_take_dirty(m->memory, &p->todo, &found, err);

	if (r < 0)
		return rpl_prefix(err, "take the dirty set");
	if (p->rounds == 0 && p->phase == SESSION_BULK)
		for (uint32_t i = 0; i < l->count; i++)
			rpl_bitmap_set_range(&p->todo, l->region[i].pfn, l->region[i].pages);
	p->taken_ns = rpl_now_ns();
	mover_set(&m->counters->scan_ns, p->taken_ns - t);
	return 0;
}

int stage_round(struct mover *m, struct rpl_err *err)
{
	struct primary *p = m->primary;

	if (!m->ready || p->phase == SESSION_VOID)
		return 0;
	if (p->phase != SESSION_BULK || p->job.kind != JOB_NONE)
		return rpl_fail(err, -EINVAL, "ROUND: %s", p->phase != SESSION_BULK ? "checkpoints have begun" :
				"the last one is not done");
	if (take(m, err) < 0)
		return err->code;
	p->job = (struct job){ .kind = JOB_ROUND, .number = ++p->rounds, .pages = rpl_bitmap_count(&p->todo) };
	mover_set(&m->counters->bulk_rounds, p->rounds);
	mover_count(&m->counters->bulk_pages_total, p->job.pages);
	send_kick(m);
	return 0;
}

/* ---- checkpoints */

static int copy_pages(struct mover *m, const struct arena_epoch *e, struct rpl_err *err)
{
	struct primary *p = m->primary;
	uint64_t cursor = 0;

	for (uint64_t done = 0; done < e->pages;) {
		uint64_t *pfn;
		size_t n;
		uint8_t *dst = arena_run(&p->arena, e->start + done, e->pages - done, &pfn, &n);

		rpl_assert(primary_gather(&p->todo, &cursor, pfn, n) == n);
		if (rpl_memory_copy_out(m->memory, pfn, n, dst, err) < 0)
			return rpl_prefix(err, "epoch %" PRIu64 ": copy pages", e->epoch);
		done += n;
	}
	return 0;
}

/* After STAGED: the guest runs again, and nobody takes before the keeper's next command. */
static int finish_pages(struct mover *m, const struct arena_epoch *e, struct rpl_err *err)
{
	struct primary *p = m->primary;

	for (uint64_t done = 0; done < e->pages;) {
		uint64_t *pfn;
		size_t n;
		uint8_t *pages = arena_run(&p->arena, e->start + done, e->pages - done, &pfn, &n);

		if (rpl_memory_finish(m->memory, pfn, n, pages, err) < 0)
			return rpl_prefix(err, "epoch %" PRIu64, e->epoch);
		done += n;
	}
	return 0;
}

static int copy_state(struct mover *m, const struct arena_epoch *e, struct rpl_err *err)
{
	struct primary *p = m->primary;

	for (uint64_t at = 0; at < e->state_len;) {
		uint64_t *pfn, left = e->state_len - at;
		size_t n;
		uint8_t *dst = arena_run(&p->arena, e->start + e->pages + at / RPL_PAGE_SIZE,
					 (left + RPL_PAGE_SIZE - 1) / RPL_PAGE_SIZE, &pfn, &n);
		uint64_t bytes = n * RPL_PAGE_SIZE < left ? n * RPL_PAGE_SIZE : left;
		ssize_t got = pread(p->state_fd, dst, bytes, (off_t)at);

		if (got != (ssize_t)bytes)
			return rpl_fail(err, got < 0 ? -errno : -ENODATA, "epoch %" PRIu64 ": read %" PRIu64
					" bytes of device state at %" PRIu64 ": got %zd", e->epoch, bytes, at, got);
		at += bytes;
	}
	return 0;
}

static int check_command(const struct mover *m, const struct rpl_mover_msg *msg, struct rpl_err *err)
{
	const struct primary *p = m->primary;

	if (p->waiting || p->job.kind == JOB_ROUND)
		return rpl_fail(err, -EINVAL, "STAGE %" PRIu64 ": %s", msg->epoch, p->waiting ? "the one before waits for STAGED" :
				"a round is not done");
	if (msg->epoch != p->staged + 1)
		return rpl_fail(err, -EINVAL, "STAGE %" PRIu64 ": the last one was %" PRIu64, msg->epoch, p->staged);
	if (msg->value == 0 || msg->value > RPL_REPLICA_STATE_MAX)
		return rpl_fail(err, -EINVAL, "STAGE %" PRIu64 ": %" PRIu64 " bytes of device state, must be 1 to %d", msg->epoch,
				msg->value, RPL_REPLICA_STATE_MAX);
	if (p->arena.count >= m->conf.max_uncommitted)
		return rpl_fail(err, -EINVAL, "STAGE %" PRIu64 ": %u epochs are not acked, max_uncommitted is %u", msg->epoch,
				p->arena.count, m->conf.max_uncommitted);
	return 0;
}

/* Most of what a guest writes in an epoch is as it was in the end: each of its threads was frozen for the suspend and thawed again. What the
 * backup has is neither copied nor sent. Who has it knows `last`, once all that was staged has gone through it. Returns how many. */
static uint64_t leave_out_same(struct mover *m)
{
	struct primary *p = m->primary;
	uint64_t n = 0;

	if (p->sent != p->staged || p->job.kind != JOB_NONE)
		return 0;
	for (uint64_t pfn = rpl_bitmap_next(&p->todo, 0); pfn < p->todo.bits; pfn = rpl_bitmap_next(&p->todo, pfn + 1)) {
		const void *page = rpl_memory_look(m->memory, pfn);

		if (!page || !sent_is(&p->last, pfn, page))
			continue;
		rpl_bitmap_clear(&p->todo, pfn);
		n++;
	}
	mover_count(&m->counters->same_pages, n);
	return n;
}

static uint64_t free_slots(const struct primary *p)
{
	uint64_t here = arena_free(&p->arena), flying = arena_in_flight(&p->arena);
	uint64_t there = p->peer_slots > flying ? p->peer_slots - flying : 0;

	return here < there ? here : there;
}

static int stage_in_arena(struct mover *m, struct arena_epoch *e, struct rpl_err *err)
{
	struct primary *p = m->primary;
	uint64_t t = m->conf.memory.audit ? rpl_now_ns() : p->taken_ns;

	if (copy_pages(m, e, err) < 0 || copy_state(m, e, err) < 0)
		return err->code;
	mover_set(&m->counters->copy_ns, rpl_now_ns() - t);
	rpl_bitmap_zero(&p->todo);
	rpl_fault_die(RPL_FAULT_DIE_AT_S2);
	mover_report(m, RPL_MOVER_STAGED, e->epoch, e->dirty, &p->session);
	/* the guest waits for whoever reads that, on a host with one processor for us: what comes now waits for nobody */
	(void)sched_yield();
	return finish_pages(m, e, err);
}

/* The guest waits until all of it is in the link. */
static void stage_direct(struct mover *m, struct arena_epoch *e)
{
	struct primary *p = m->primary;
	char why[160];

	mover_count(&m->counters->overflows, 1);
	rpl_log(RPL_LOG_WARNING, "epoch=%" PRIu64 " pages=%" PRIu64 " arena_free=%" PRIu64
		" reason=\"larger than the free arena: the guest waits while it is sent\"", e->epoch, e->pages, free_slots(p));
	if (e->need > p->peer_slots)
		(void)snprintf(why, sizeof(why), "epoch %" PRIu64 " needs %" PRIu64 " pages of staging, the backup has %" PRIu64,
			       e->epoch, e->need, p->peer_slots);
	else if (!m->ready)
		(void)snprintf(why, sizeof(why), "epoch %" PRIu64 " of %" PRIu64 " pages is larger than the free arena, and no "
			       "connection is up", e->epoch, e->pages);
	else {
		p->waiting = e;
		return;
	}
	primary_void(m, why);
}

static int audit(struct mover *m, struct rpl_err *err)
{
	uint64_t missed = 0;

	if (!m->conf.memory.audit)
		return 0;
	if (rpl_memory_audit(m->memory, &m->primary->todo, &missed, err) < 0)
		return rpl_prefix(err, "audit");
	mover_count(&m->counters->audit_missed, missed);
	return 0;
}

int stage_checkpoint(struct mover *m, const struct rpl_mover_msg *msg, struct rpl_err *err)
{
	struct primary *p = m->primary;
	struct arena_epoch *e;
	uint64_t dirty, pages;
	bool direct;

	if (p->phase != SESSION_BULK && p->phase != SESSION_LIVE)
		return 0;
	if (check_command(m, msg, err) < 0 || take(m, err) < 0 || audit(m, err) < 0)
		return err->code;
	dirty = rpl_bitmap_count(&p->todo);
	pages = dirty - leave_out_same(m);
	direct = arena_slots_for(pages, msg->value) > free_slots(p);
	e = arena_push(&p->arena, msg->epoch, pages, msg->value, direct);
	rpl_assert(e);
	e->dirty = dirty;
	e->dropped = rpl_fault_hit(RPL_FAULT_DROP_EPOCH_PAGES);
	p->phase = SESSION_LIVE;
	p->staged = msg->epoch;
	p->last_state_len = msg->value;
	p->full_told = false;
	mover_set(&m->counters->last_dirty_pages, dirty);
	if (direct)
		stage_direct(m, e);
	else if (stage_in_arena(m, e, err) < 0)
		return err->code;
	send_kick(m);
	return 0;
}

/* ---- the running epoch */

static void on_peek(EV_P_ ev_timer *w, int revents)
{
	struct mover *m = w->data;
	struct primary *p = m->primary;
	uint64_t t = rpl_now_ns(), dirty = 0, room;
	double next = PRIMARY_PEEK_MS / 1000.0, cost;

	(void)loop;
	(void)revents;
	if (p->phase != SESSION_LIVE || p->waiting || p->full_told)
		return;
	if (rpl_memory_peek_dirty(m->memory, &dirty, NULL) < 0) {
		ev_timer_stop(m->loop, w);
		return;
	}
	room = free_slots(p);
	if (arena_slots_for(dirty, p->last_state_len) * 100 >= room * PRIMARY_FULL_PERCENT) {
		p->full_told = true;
		mover_report(m, RPL_MOVER_FULL, p->staged + 1, dirty, &p->session);
	}
	cost = (double)(rpl_now_ns() - t) / 1e9 * PRIMARY_PEEK_SHARE;
	w->repeat = cost > next ? cost : next;
	ev_timer_again(m->loop, w);
}

int stage_setup(struct mover *m, struct rpl_err *err)
{
	struct primary *p = m->primary;

	(void)err; /* nothing here can fail */
	ev_timer_init(&p->peek, on_peek, PRIMARY_PEEK_MS / 1000.0, PRIMARY_PEEK_MS / 1000.0);
	p->peek.data = m;
	ev_timer_start(m->loop, &p->peek);
	return 0;
}
