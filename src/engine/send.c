/* From rounds and staged epochs to frames, a bounded slice at a time.
 *
 * A job walks through its steps and keeps its place in struct job, so it can stop wherever the link has no room and go
 * on when there is. Epochs are sent in order; the arena keeps them, and after a reconnect the first one that the backup
 * does not have begins anew. The digest is over the frames' bodies; bytes are counted as those of the stream, in which a PAGES
 * frame is the PAGE_DATA record that it stands for.
 *
 *   round:  BEGIN [HEAD: the stream's headers, in the first] PAGES... END
 *   epoch:  BEGIN PAGES... TAIL (CHECKPOINT, EMULATOR_CONTEXT's head) STATE... END (CHECKPOINT_END)
 */
#include "primary.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/fault.h>
#include <replicad/stream.h>

#define HEADERS_MAX (RPL_STREAM_HEADERS_MAX + RPL_STREAM_RECORD_HEAD + RPL_PRODUCER_MAX + 8)
#define SMALL_MAX 64 /* a few record heads */

enum progress { DONE_SOME, NEED_ROOM, NOTHING_TO_DO, BROKEN };

/* ---- frames that carry the stream */

static bool room(const struct mover *m, size_t body)
{
	return m->link && rpl_link_room(m->link, body);
}

static bool send_stream(struct mover *m, const void *data, size_t len)
{
	struct primary *p = m->primary;

	if (connection_send(m, RPL_FRAME_STREAM, data, len) < 0)
		return false;
	rpl_digest_add(p->digest, data, len);
	p->job.stream_bytes += len;
	return true;
}

/* A checkpoint's pages as what changed since they were sent; a round's as they are. */
static size_t encode(struct primary *p, const uint64_t *pfns, const uint8_t *pages, size_t n)
{
	struct rpl_pages_out o;
	uint32_t zero = 0;

	if (p->job.kind == JOB_ROUND) {
		for (size_t i = 0; i < n && p->job.remembered; i++)
			sent_note(&p->last, pfns[i], pages + i * RPL_PAGE_SIZE);
		return rpl_pages_encode(pfns, pages, n, p->body, &zero);
	}
	rpl_pages_begin(&o, p->body, n);
	for (size_t i = 0; i < n; i++)
		sent_put(&p->last, &o, pfns[i], pages + i * RPL_PAGE_SIZE, p->job.number, &p->job.forms);
	return o.len;
}

static bool send_pages(struct mover *m, const uint64_t *pfns, const uint8_t *pages, size_t n)
{
	uint8_t head[RPL_STREAM_RECORD_HEAD + 8 + RPL_PAGES_PER_FRAME * 8];
	struct rpl_out o = rpl_out(head, sizeof(head));
	struct primary *p = m->primary;
	size_t len = encode(p, pfns, pages, n);

	if (connection_send(m, RPL_FRAME_PAGES, p->body, len) < 0)
		return false;
	rpl_stream_put_page_data_head(&o, pfns, (uint32_t)n, NULL);
	rpl_assert(!o.bad);
	rpl_digest_add(p->digest, p->body, len);
	p->job.stream_bytes += o.len + n * RPL_PAGE_SIZE;
	p->job.pages_sent += n;
	p->turn_pages += n;
	return true;
}

/* ---- the steps; each does one frame at most */

static enum progress step_begin(struct mover *m)
{
	struct primary *p = m->primary;
	struct job *j = &p->job;
	struct rpl_epoch_begin v = { .epoch = j->number, .pages = j->pages,
				     .flags = j->kind == JOB_ROUND ? RPL_EPOCH_BULK : 0 };
	uint8_t body[24];

	/* Its end fits too, whatever happens meanwhile: only pages and stream fill the queue. */
	if (!room(m, RPL_PAGES_BODY_MAX))
		return NEED_ROOM;
	rpl_epoch_begin_encode(&v, body);
	if (connection_send(m, RPL_FRAME_EPOCH_BEGIN, body, sizeof(body)) < 0)
		return BROKEN;
	rpl_digest_reset(p->digest);
	if (j->kind == JOB_ROUND)
		/* the first checkpoint has to bring much of it again, behind output that is held: what changed since is a fraction */
		j->remembered = (m->peer.features & RPL_FEATURE_ROUND_BASE) && sent_round(&p->last, j->pages);
	j->step = !p->headers_sent ? JOB_HEAD : JOB_PAGES;
	return DONE_SOME;
}

static void put_producer(const struct mover *m, struct rpl_out *o)
{
	const struct rpl_ram_layout *l = rpl_memory_layout(m->memory);
	struct rpl_stream_producer v = { .n_ranges = l->count };

	v.kind = m->conf.memory.kind == RPL_MEMORY_SIM ? RPL_PRODUCER_SIM :
		 m->conf.memory.kind == RPL_MEMORY_XEN ? RPL_PRODUCER_XEN : RPL_PRODUCER_QEMU;
	for (uint32_t i = 0; i < l->count; i++)
		v.ranges[i] = (struct rpl_stream_range){ .pfn = l->region[i].pfn, .pages = l->region[i].pages,
							 .offset = l->region[i].file_page * RPL_PAGE_SIZE };
	(void)snprintf(v.name, sizeof(v.name), "%s", m->conf.producer);
	(void)snprintf(v.machine, sizeof(v.machine), "%s", m->conf.machine);
	rpl_stream_put_producer(o, &v);
}

static enum progress step_head(struct mover *m)
{
	struct rpl_stream_domain_header domain = { .type = RPL_DOMAIN_HVM, .page_shift = RPL_STREAM_PAGE_SHIFT,
						   .xen_major = RPL_XEN_MAJOR_NONE };
	struct primary *p = m->primary;
	uint8_t bytes[HEADERS_MAX];
	struct rpl_out o = rpl_out(bytes, sizeof(bytes));

	if (!room(m, sizeof(bytes)))
		return NEED_ROOM;
	rpl_stream_put_libxl_header(&o, 0);
	rpl_stream_put_record(&o, RPL_LIBXL_LIBXC_CONTEXT, NULL, 0);
	rpl_stream_put_image_header(&o, RPL_IMAGE_V3);
	rpl_stream_put_domain_header(&o, &domain);
	put_producer(m, &o);
	rpl_stream_put_record(&o, RPL_LIBXC_STATIC_DATA_END, NULL, 0);
	rpl_assert(!o.bad);
	if (!send_stream(m, bytes, o.len))
		return BROKEN;
	p->headers_sent = true;
	p->job.step = JOB_PAGES;
	return DONE_SOME;
}

/* The next pages of the job: from the arena, or (rounds, direct epochs) from guest memory by way of the bounce buffer. */
static int next_pages(struct mover *m, uint64_t **ret_pfns, const uint8_t **ret_pages, size_t *ret_n,
		      struct rpl_err *err)
{
	struct primary *p = m->primary;
	struct job *j = &p->job;
	uint64_t left = j->pages - j->pages_sent;

	if (left > RPL_PAGES_PER_FRAME)
		left = RPL_PAGES_PER_FRAME;
	if (j->kind == JOB_EPOCH && !j->epoch->direct) {
		*ret_pages = arena_run(&p->arena, j->epoch->start + j->pages_sent, left, ret_pfns, ret_n);
		return 0;
	}
	*ret_n = primary_gather(&p->todo, &j->cursor, p->bounce_pfn, left);
	*ret_pfns = p->bounce_pfn;
	*ret_pages = p->bounce;
	rpl_assert(*ret_n == left);
	if (rpl_memory_copy_out(m->memory, p->bounce_pfn, *ret_n, p->bounce, err) < 0)
		return err->code;
	return rpl_memory_finish(m->memory, p->bounce_pfn, *ret_n, p->bounce, err);
}

static void pages_are_sent(struct mover *m, const uint64_t *pfns, size_t n)
{
	struct primary *p = m->primary;

	if (p->job.kind == JOB_EPOCH && !p->job.epoch->direct)
		return;
	for (size_t i = 0; i < n; i++)
		rpl_bitmap_clear(&p->todo, pfns[i]);
	if (p->job.kind == JOB_ROUND)
		mover_count(&m->counters->bulk_pages, n);
}

static enum progress step_pages(struct mover *m)
{
	struct primary *p = m->primary;
	struct job *j = &p->job;
	const uint8_t *pages;
	uint64_t *pfns;
	struct rpl_err err;
	size_t n;

	if (j->pages_sent == j->pages) {
		j->step = j->kind == JOB_ROUND ? JOB_END : JOB_TAIL;
		return DONE_SOME;
	}
	if (!room(m, RPL_PAGES_BODY_MAX))
		return NEED_ROOM;
	if (j->kind == JOB_EPOCH) {
		rpl_fault_die(RPL_FAULT_DIE_AT_S3);
		if (rpl_fault_hit(RPL_FAULT_CUT_AT_S3)) {
			connection_drop(m, "fault cut_at_s3");
			return BROKEN;
		}
	}
	if (next_pages(m, &pfns, &pages, &n, &err) < 0) {
		mover_fail(m, &err);
		return BROKEN;
	}
	if (!send_pages(m, pfns, pages, n))
		return BROKEN;
	pages_are_sent(m, pfns, n);
	return DONE_SOME;
}

static enum progress step_tail(struct mover *m)
{
	struct job *j = &m->primary->job;
	uint8_t bytes[SMALL_MAX];
	struct rpl_out o = rpl_out(bytes, sizeof(bytes));

	if (!room(m, sizeof(bytes)))
		return NEED_ROOM;
	rpl_stream_put_record(&o, RPL_LIBXC_CHECKPOINT, NULL, 0);
	rpl_stream_put_emulator_head(&o, RPL_LIBXL_EMULATOR_CONTEXT, RPL_EMULATOR_QEMU, (uint32_t)j->epoch->state_len);
	rpl_assert(!o.bad);
	if (!send_stream(m, bytes, o.len))
		return BROKEN;
	j->step = JOB_STATE;
	return DONE_SOME;
}

static enum progress step_state(struct mover *m)
{
	struct primary *p = m->primary;
	struct job *j = &p->job;
	uint64_t left = j->epoch->state_len - j->state_sent, *pfn;
	uint8_t *data = p->bounce;
	size_t n = left < PRIMARY_STATE_CHUNK ? left : PRIMARY_STATE_CHUNK, slots;

	if (left == 0) {
		j->step = JOB_END;
		return DONE_SOME;
	}
	if (!room(m, PRIMARY_STATE_CHUNK))
		return NEED_ROOM;
	if (!j->epoch->direct) {
		data = arena_run(&p->arena, j->epoch->start + j->epoch->pages + j->state_sent / RPL_PAGE_SIZE,
				 (n + RPL_PAGE_SIZE - 1) / RPL_PAGE_SIZE, &pfn, &slots);
		if (n > slots * RPL_PAGE_SIZE)
			n = slots * RPL_PAGE_SIZE;
	} else if (pread(p->state_fd, data, n, (off_t)j->state_sent) != (ssize_t)n) {
		struct rpl_err err;

		(void)rpl_fail(&err, -EIO, "epoch %" PRIu64 ": read %zu bytes of device state at %" PRIu64, j->number, n,
			       j->state_sent);
		mover_fail(m, &err);
		return BROKEN;
	}
	if (!send_stream(m, data, n))
		return BROKEN;
	j->state_sent += n;
	return DONE_SOME;
}

static void round_is_sent(struct mover *m, const struct job *j)
{
	uint64_t dirty = 0;

	/* A tracker that cannot look without taking: assume as many as this round had. */
	if (rpl_memory_peek_dirty(m->memory, &dirty, NULL) < 0)
		dirty = j->pages;
	mover_report(m, RPL_MOVER_ROUND_DONE, dirty, j->pages_sent, &m->primary->session);
}

static void epoch_is_sent(struct mover *m, const struct job *j)
{
	struct rpl_mover_counters *c = m->counters;
	struct primary *p = m->primary;
	bool waited = p->waiting && p->waiting == j->epoch;
	uint64_t now = rpl_now_ns();

	p->sent = j->number;
	mover_count(&c->epochs, 1);
	mover_count(&c->pages, j->pages_sent);
	mover_count(&c->zero_pages, j->forms.zero);
	mover_count(&c->delta_pages, j->forms.delta);
	mover_count(&c->same_pages, j->forms.same);
	mover_set(&c->encode_ns, j->encode_ns + now - p->turn_ns);
	p->turn_ns = now;
	if (waited) {
		p->waiting = NULL;
		rpl_bitmap_zero(&p->todo);
		mover_report(m, RPL_MOVER_STAGED, j->number, j->epoch->dirty, &p->session);
	}
	mover_set(&c->sent_ns[(j->number + 1) % RPL_MOVER_SENT_EPOCHS], 0); /* an epoch's of long ago */
	mover_set(&c->sent_ns[j->number % RPL_MOVER_SENT_EPOCHS], now);
}

static enum progress step_end(struct mover *m)
{
	struct primary *p = m->primary;
	struct rpl_epoch_end v;
	uint8_t bytes[SMALL_MAX], body[40];
	struct rpl_out o = rpl_out(bytes, sizeof(bytes));
	struct job j;

	if (!room(m, sizeof(bytes)))
		return NEED_ROOM;
	if (p->job.kind == JOB_EPOCH) {
		rpl_stream_put_padding(&o, (uint32_t)p->job.epoch->state_len);
		rpl_stream_put_record(&o, RPL_LIBXL_CHECKPOINT_END, NULL, 0);
		rpl_assert(!o.bad);
		if (!send_stream(m, bytes, o.len))
			return BROKEN;
	}
	v = (struct rpl_epoch_end){ .epoch = p->job.number, .stream_bytes = p->job.stream_bytes, .pages = p->job.pages_sent };
	rpl_digest_end(p->digest, v.digest);
	rpl_epoch_end_encode(&v, body);
	if (connection_send(m, RPL_FRAME_EPOCH_END, body, sizeof(body)) < 0)
		return BROKEN;
	connection_push(m);
	mover_count(&m->counters->raw_bytes, p->job.stream_bytes);
	j = p->job;
	p->job = (struct job){ .kind = JOB_NONE };
	if (j.kind == JOB_ROUND)
		round_is_sent(m, &j);
	else
		epoch_is_sent(m, &j);
	return DONE_SOME;
}

/* ---- the pump */

/* An epoch larger than the arena may have to wait until the backup has room. */
static enum progress start_epoch(struct mover *m)
{
	struct primary *p = m->primary;
	struct arena_epoch *e = arena_find(&p->arena, p->sent + 1);

	if (!e)
		return NOTHING_TO_DO;
	if (e->direct && arena_in_flight(&p->arena) > p->peer_slots)
		return NOTHING_TO_DO; /* an ack makes room and kicks */
	p->job = (struct job){ .kind = JOB_EPOCH, .epoch = e, .number = e->epoch, .pages = e->dropped ? 0 : e->pages };
	return DONE_SOME;
}

static enum progress step(struct mover *m)
{
	static enum progress (*const steps[])(struct mover *) = {
		[JOB_BEGIN] = step_begin, [JOB_HEAD] = step_head, [JOB_PAGES] = step_pages, [JOB_TAIL] = step_tail,
		[JOB_STATE] = step_state, [JOB_END] = step_end,
	};
	const struct job *j = &m->primary->job;

	if (!m->ready)
		return NOTHING_TO_DO;
	return j->kind == JOB_NONE ? start_epoch(m) : steps[j->step](m);
}

/* The keeper, which may have paused the guest for the next epoch, or the peer, whose ack a client waits for. */
static bool is_wanted(const struct mover *m)
{
	struct pollfd at[] = { { .fd = m->sock, .events = POLLIN }, { .fd = rpl_link_fd(m->link), .events = POLLIN } };

	return poll(at, RPL_ARRAY_LEN(at), 0) != 0;
}

/* On some hosts a look at the clock is a system call like any other and costs as much as a page, a turn of the loop as much as six:
 * an epoch is sent in one go if nobody wants anything. *looked: how many of the turn's pages were sent at the last look. */
static bool may_go_on(const struct mover *m, uint64_t *looked)
{
	const struct primary *p = m->primary;

	if (p->job.kind == JOB_ROUND)
		return rpl_now_ns() - p->turn_ns < MOVER_SEND_SLICE_US * UINT64_C(1000);
	if (p->turn_pages - *looked < MOVER_SEND_LOOK_PAGES)
		return true;
	*looked = p->turn_pages;
	return p->turn_pages < MOVER_SEND_TURN_PAGES && !is_wanted(m);
}

static void arm_pump(struct mover *m, double after)
{
	struct primary *p = m->primary;

	if (ev_is_active(&p->pump))
		return;
	ev_timer_set(&p->pump, after, 0.);
	ev_timer_start(m->loop, &p->pump);
}

/* A round is in no hurry, and the guest and whoever carries its packets want the processor too: rest for as long as the
 * slice took (the loop's clock stands at the turn's beginning, hence twice). An epoch is waited for by clients. */
static void pause_pump(struct mover *m)
{
	struct primary *p = m->primary;
	uint64_t took = rpl_now_ns() - p->turn_ns;

	p->job.encode_ns += took;
	arm_pump(m, p->job.kind == JOB_ROUND ? 2 * (double)took / 1e9 : 0.);
}

static void on_pump(EV_P_ ev_timer *w, int revents)
{
	struct mover *m = w->data;
	struct primary *p = m->primary;
	uint64_t looked = 0;
	enum progress made;

	(void)loop;
	(void)revents;
	ev_timer_stop(m->loop, w);
	p->turn_ns = rpl_now_ns();
	p->turn_pages = 0;
	do
		made = step(m);
	while (made == DONE_SOME && may_go_on(m, &looked));
	if (made == DONE_SOME)
		pause_pump(m);
	else if (made == NEED_ROOM)
		p->job.encode_ns += rpl_now_ns() - p->turn_ns;
}

/* In this turn of the loop, behind what is being handled: another turn is a dozen system calls. */
void send_kick(struct mover *m)
{
	struct primary *p = m->primary;

	if (!ev_is_active(&p->pump) && !ev_is_pending(&p->pump))
		ev_feed_event(m->loop, &p->pump, EV_TIMER);
}

void send_reset(struct mover *m)
{
	struct primary *p = m->primary;

	/* Headers belong to the stream, which is the session's: they are not repeated after a resumption. */
	sent_forget(&p->last);
	p->job = (struct job){ .kind = JOB_NONE };
}

int send_setup(struct mover *m, struct rpl_err *err)
{
	struct primary *p = m->primary;

	p->digest = rpl_digest_new();
	p->body = malloc(RPL_PAGES_BODY_MAX);
	p->bounce = aligned_alloc(RPL_PAGE_SIZE, (size_t)RPL_PAGES_PER_FRAME * RPL_PAGE_SIZE);
	if (!p->digest || !p->body || !p->bounce)
		return rpl_fail(err, -ENOMEM, "primary: no memory for encoding");
	memset(p->bounce, 0, (size_t)RPL_PAGES_PER_FRAME * RPL_PAGE_SIZE);
	ev_timer_init(&p->pump, on_pump, 0., 0.);
	p->pump.data = m;
	return 0;
}
_Static_assert(PRIMARY_STATE_CHUNK <= RPL_PAGES_PER_FRAME * RPL_PAGE_SIZE, "a piece of state fits the bounce buffer");
_Static_assert(RPL_RAM_REGIONS_MAX <= RPL_PRODUCER_RANGES_MAX, "the stream can say every layout");
