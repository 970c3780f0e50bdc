#include "xen_send.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ev.h>
#include <jansson.h>

#include <replicad/auto.h>
#include <replicad/bitmap.h>
#include <replicad/clock.h>
#include <replicad/guest.h>
#include <replicad/io.h>
#include <replicad/stream.h>
#include <replicad/xen.h>

#include "../guest/xen_standby_xl.h"

#define BATCH RPL_STREAM_PAGES_PER_RECORD
#define HEAD_MAX (8u << 20) /* static records, with the p2m frames of a PV guest */
#define STREAM_SHARE 2 /* the stream may use this part of the allowed pause; the other end needs the rest */

struct xen_send {
	struct xen_send_policy policy;
	struct xen_send_report report;
	struct ev_loop *loop;
	struct rpl_guest *guest;
	struct rpl_memory *memory;
	char name[XEN_SEND_NAME_MAX];
	uint32_t domid;
	bool suspended;
	/* the operation that is waited for */
	bool waiting;
	struct rpl_err op_err;
	int op_result;
	/* what ends it early */
	ev_signal signals[3];
	ev_timer timer, pause_timer;
	ev_io ready;
	bool can_read_or_write, timer_fired;
	bool committed;
	char why[160]; /* "" or the sentence */
	int why_code;
	bool gone;     /* the domain is */
	/* the stream */
	int fd;
	bool nonblock;
	struct rpl_bitmap todo, sent; /* pfns: to be sent; sent with data before */
	uint64_t guest_limit;         /* one more than the guest's highest pfn */
	uint8_t *head;
	size_t head_len;
	uint8_t *pages;
	uint64_t pfns[BATCH], descs[BATCH];
};

/* ---- the guest's operations, waited for */

static void on_done(void *arg, enum rpl_guest_op op, int r, const struct rpl_err *err)
{
	struct xen_send *s = arg;

	(void)op;
	s->op_result = r;
	if (r < 0)
		s->op_err = *err;
	s->waiting = false;
	ev_break(s->loop, EVBREAK_ONE);
}

static void RPL_PRINTF(3, 4) stop(struct xen_send *s, int code, const char *fmt, ...)
{
	va_list ap;

	if (s->why[0] || s->committed)
		return;
	va_start(ap, fmt);
	(void)vsnprintf(s->why, sizeof(s->why), fmt, ap);
	va_end(ap);
	s->why_code = code;
	ev_break(s->loop, EVBREAK_ONE);
}

static void on_event(void *arg, enum rpl_guest_event event, const char *msg)
{
	struct xen_send *s = arg;

	if (event != RPL_GUEST_SHUTDOWN && event != RPL_GUEST_REPLACED && event != RPL_GUEST_LOST)
		return;
	s->gone = true;
	stop(s, -ESRCH, "%s", msg);
}

static void on_signal(EV_P_ ev_signal *w, int revents)
{
	(void)loop;
	(void)revents;
	stop(w->data, -EINTR, "stopped by signal %d", w->signum);
}

static void on_pause_timer(EV_P_ ev_timer *w, int revents)
{
	struct xen_send *s = w->data;

	(void)loop;
	(void)revents;
	stop(s, -ETIME, "it stood still for the %u ms that are allowed (--max-downtime), and was not handed over yet",
	     s->policy.downtime_max_ms);
}

static void on_timer(EV_P_ ev_timer *w, int revents)
{
	struct xen_send *s = w->data;

	(void)revents;
	s->timer_fired = true;
	ev_break(loop, EVBREAK_ONE);
}

static void on_ready(EV_P_ ev_io *w, int revents)
{
	struct xen_send *s = w->data;

	(void)revents;
	s->can_read_or_write = true;
	ev_break(loop, EVBREAK_ONE);
}

static void watch_signals(struct xen_send *s)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP };

	for (size_t i = 0; i < RPL_ARRAY_LEN(signals); i++) {
		struct sigaction now;

		if (sigaction(signals[i], NULL, &now) == 0 && now.sa_handler == SIG_IGN)
			continue; /* nohup's */
		ev_signal_init(&s->signals[i], on_signal, signals[i]);
		s->signals[i].data = s;
		ev_signal_start(s->loop, &s->signals[i]);
	}
}

static void make_watchers(struct xen_send *s)
{
	ev_init(&s->timer, on_timer);
	ev_init(&s->pause_timer, on_pause_timer);
	ev_init(&s->ready, on_ready);
	s->timer.data = s->pause_timer.data = s->ready.data = s;
}

static int run(struct xen_send *s, void (*op)(struct rpl_guest *), struct rpl_err *err)
{
	s->waiting = true;
	op(s->guest);
	while (s->waiting)
		(void)ev_run(s->loop, 0);
	if (s->op_result < 0)
		*err = s->op_err;
	return s->op_result;
}

/* Let what happened be seen: is there a reason to give up? */
static int go_on(struct xen_send *s, struct rpl_err *err)
{
	(void)ev_run(s->loop, EVRUN_NOWAIT);
	return s->why[0] ? rpl_fail(err, s->why_code, "%s: %s", s->name, s->why) : 0;
}

/* 0: the descriptor is ready; -ETIMEDOUT without a sentence; else *err says what came first. */
static int await(struct xen_send *s, int fd, int events, unsigned ms, struct rpl_err *err)
{
	s->can_read_or_write = s->timer_fired = false;
	ev_io_set(&s->ready, fd, events);
	ev_timer_set(&s->timer, ms / 1e3, 0);
	ev_now_update(s->loop);
	ev_io_start(s->loop, &s->ready);
	ev_timer_start(s->loop, &s->timer);
	while (!s->can_read_or_write && !s->timer_fired && !s->why[0])
		(void)ev_run(s->loop, 0);
	ev_io_stop(s->loop, &s->ready);
	ev_timer_stop(s->loop, &s->timer);
	if (s->why[0])
		return rpl_fail(err, s->why_code, "%s: %s", s->name, s->why);
	return s->can_read_or_write ? 0 : -ETIMEDOUT;
}

int xen_send_await(struct xen_send *s, int fd, unsigned ms, struct rpl_err *err)
{
	int r = await(s, fd, EV_READ, ms, err);

	return r == -ETIMEDOUT ? rpl_fail(err, r, "%s: no answer within %u s", s->name, ms / 1000) : r;
}

int xen_send_commit(struct xen_send *s, struct rpl_err *err)
{
	int r = go_on(s, err);

	s->committed = r == 0;
	return r;
}

/* ---- bytes */

/* A peer that takes nothing must not hold the guest for ever: pipes and sockets are waited for in the loop. */
static void find_nonblock(struct xen_send *s)
{
	struct stat st;

	s->nonblock = fstat(s->fd, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode)) && rpl_nonblock(s->fd, true) == 0;
}

static int put_some(struct xen_send *s, const uint8_t **bytes, size_t *len, struct rpl_err *err)
{
	ssize_t n = write(s->fd, *bytes, *len);
	int r;

	if (n >= 0) {
		*bytes += n;
		*len -= (size_t)n;
		s->report.bytes += (uint64_t)n;
		return 0;
	}
	if (errno == EINTR)
		return go_on(s, err);
	if (errno == EPIPE)
		return rpl_fail(err, -EPIPE, "write the stream at byte %" PRIu64 ": who read it has ended; its own messages say why",
				s->report.bytes);
	if (errno != EAGAIN || !s->nonblock)
		return rpl_fail_errno(err, errno, "write the stream at byte %" PRIu64, s->report.bytes);
	r = await(s, s->fd, EV_WRITE, s->policy.stall_ms, err);
	return r == -ETIMEDOUT ? rpl_fail(err, r, "write the stream at byte %" PRIu64 ": nobody took any for %u s", s->report.bytes,
					  s->policy.stall_ms / 1000) : r;
}

static int put(struct xen_send *s, const void *bytes, size_t len, struct rpl_err *err)
{
	const uint8_t *p = bytes;

	while (len)
		if (put_some(s, &p, &len, err) < 0)
			return err->code;
	return 0;
}

/* What stock xl puts in front: the configuration as libxl writes it. */
static char *find_config(const char *name, struct rpl_err *err)
{
	char list[] = "list", lng[] = "-l", xl[] = "xl", *dup = strdup(name);
	char *const argv[] = { xl, list, lng, dup, NULL };
	RPL_AUTO_FREE char *said = NULL;
	char *text = NULL;
	json_error_t jerr;
	json_t *root, *config;

	if (!dup || xl_call(argv, &said, err) < 0) {
		free(dup);
		return NULL;
	}
	free(dup);
	root = json_loads(said, 0, &jerr);
	config = json_object_get(json_array_get(root, 0), "config");
	/* its number here is nothing to insist on where it is built again */
	(void)json_object_del(json_object_get(config, "c_info"), "domid");
	if (json_is_object(config))
		text = json_dumps(config, JSON_INDENT(4));
	json_decref(root);
	if (!text)
		(void)rpl_fail(err, -EPROTO, "xl list -l %s: no configuration in its answer (%s)", name, root ? "unknown form" : jerr.text);
	return text;
}

static int put_headers(struct xen_send *s, struct rpl_err *err)
{
	RPL_AUTO_FREE char *config = find_config(s->name, err);
	uint8_t buf[RPL_XL_HEADER + 8];
	struct rpl_out o = rpl_out(buf, sizeof(buf));
	uint32_t len;

	if (!config)
		return err->code;
	len = (uint32_t)strlen(config) + 1;
	rpl_stream_put_xl_header(&o, RPL_XL_FLAG_JSON | RPL_XL_FLAG_STREAM_V2, len);
	rpl_assert(!o.bad);
	if (put(s, buf, o.len, err) < 0 || put(s, config, len, err) < 0)
		return err->code;
	if (rpl_xen_head(s->guest, s->head, HEAD_MAX, &s->head_len, err) < 0)
		return err->code;
	return put(s, s->head, s->head_len, err);
}

/* One record of at most BATCH pages from `todo`. Pages without memory are left out, unless they had some before. */
static int put_batch(struct xen_send *s, uint64_t *cursor, struct rpl_err *err)
{
	uint8_t head[RPL_STREAM_RECORD_HEAD + 8 + BATCH * 8];
	struct rpl_out o = rpl_out(head, sizeof(head));
	uint32_t n = 0, descs = 0, gone = 0;
	uint64_t pfn = rpl_bitmap_next(&s->todo, *cursor);

	for (; pfn < s->guest_limit && n + gone < BATCH; pfn = rpl_bitmap_next(&s->todo, pfn + 1)) {
		unsigned type = rpl_xen_page_type(s->memory, pfn);

		rpl_bitmap_clear(&s->todo, pfn);
		if (rpl_page_type_has_data(type)) {
			s->pfns[n] = pfn;
			s->descs[descs++] = rpl_desc(pfn, type);
			n++;
			rpl_bitmap_set(&s->sent, pfn);
		} else if (type != RPL_PAGE_XTAB || rpl_bitmap_get(&s->sent, pfn)) {
			s->descs[descs++] = rpl_desc(pfn, type);
			gone++;
		}
	}
	*cursor = pfn;
	if (!descs)
		return 0;
	if (n && (rpl_memory_copy_out(s->memory, s->pfns, n, s->pages, err) < 0 ||
		  rpl_memory_finish(s->memory, s->pfns, n, s->pages, err) < 0))
		return err->code;
	rpl_stream_put_page_data_head(&o, s->descs, descs, NULL);
	rpl_assert(!o.bad);
	if (put(s, head, o.len, err) < 0)
		return err->code;
	s->report.pages += n;
	return put(s, s->pages, (size_t)n * RPL_PAGE_SIZE, err);
}

static int take(struct xen_send *s, struct rpl_err *err)
{
	uint64_t found = 0;

	return rpl_memory_take_dirty(s->memory, &s->todo, &found, err);
}

static int put_round(struct xen_send *s, struct rpl_err *err)
{
	uint64_t total = rpl_bitmap_count(&s->todo), cursor = 0, before = s->report.pages;

	while (cursor < s->guest_limit) {
		if (put_batch(s, &cursor, err) < 0)
			return err->code;
		if (s->policy.progress)
			s->policy.progress(s->policy.arg, s->report.rounds + 1, s->report.pages - before, total);
		if (go_on(s, err) < 0)
			return err->code;
	}
	return 0;
}

/* ---- the phases */

static int start_tracking(struct xen_send *s, struct rpl_err *err)
{
	struct rpl_memory_desc desc;
	int fds[RPL_MEMORY_FDS_MAX];
	size_t n = 0;

	if (rpl_guest_memory(s->guest, &desc, fds, &n, err) < 0)
		return err->code;
	s->memory = rpl_memory_new(&desc, fds, n, err);
	if (!s->memory)
		return err->code;
	s->guest_limit = rpl_xen_types_pfn(&desc.layout);
	if (rpl_bitmap_init(&s->todo, desc.layout.pfn_limit) < 0 || rpl_bitmap_init(&s->sent, desc.layout.pfn_limit) < 0)
		return rpl_fail(err, -ENOMEM, "no memory for maps of %" PRIu64 " pages", desc.layout.pfn_limit);
	for (uint32_t i = 0; i + 1 < desc.layout.count; i++)
		rpl_bitmap_set_range(&s->todo, desc.layout.region[i].pfn, desc.layout.region[i].pages);
	return 0;
}

/* How long so many pages will take, by what was sent so far. */
static uint64_t estimate_ms(const struct xen_send *s, uint64_t pages, uint64_t begun)
{
	uint64_t took = rpl_now_ns() - begun;

	return s->report.pages ? (uint64_t)((double)took / (double)s->report.pages * (double)pages / RPL_MS) : 0;
}

static bool short_enough(const struct xen_send *s, uint64_t ms)
{
	return !s->policy.downtime_max_ms || ms <= s->policy.downtime_max_ms / STREAM_SHARE;
}

/* All pages, then what was written meanwhile, until that is little, does not get less, or it was done often enough. */
static int live(struct xen_send *s, struct rpl_err *err)
{
	uint64_t last = UINT64_MAX, left = 0, begun = rpl_now_ns(), need;

	for (;;) {
		if (put_round(s, err) < 0)
			return err->code;
		s->report.rounds++;
		if (rpl_guest_collect(s->guest, &left, err) < 0 || take(s, err) < 0)
			return err->code;
		need = estimate_ms(s, left, begun);
		if (left <= s->policy.pages_enough && short_enough(s, need))
			break;
		if (s->report.rounds >= s->policy.rounds_max || left >= last)
			break;
		last = left;
	}
	s->report.live_ns = rpl_now_ns() - begun;
	if (short_enough(s, need))
		return 0;
	return rpl_fail(err, -ETIME, "%s: after %u rounds %" PRIu64 " pages are left, about %" PRIu64 " ms of standing still, and %u of the "
			"%u ms that --max-downtime allows are the stream's; it was not stopped", s->name, s->report.rounds, left, need,
			s->policy.downtime_max_ms / STREAM_SHARE, s->policy.downtime_max_ms);
}

/* The state's own static part repeats what was sent already; what follows it is the rest of the stream. */
static int put_tail(struct xen_send *s, struct rpl_err *err)
{
	size_t len = rpl_guest_state_len(s->guest);
	RPL_AUTO_FREE uint8_t *state = malloc(len);

	if (!state)
		return rpl_fail(err, -ENOMEM, "no memory for %zu bytes of device state", len);
	if (pread(rpl_guest_state_fd(s->guest), state, len, 0) != (ssize_t)len)
		return rpl_fail_errno(err, errno, "read the device state");
	if (len < s->head_len || memcmp(state, s->head, s->head_len) != 0)
		return rpl_fail(err, -ESTALE, "%s: the guest's p2m list moved while it was copied: try again", s->name);
	return put(s, state + s->head_len, len - s->head_len, err);
}

static int stop_and_copy(struct xen_send *s, struct rpl_err *err)
{
	uint64_t t = rpl_now_ns(), before;

	if (run(s, rpl_guest_pause, err) < 0)
		return err->code;
	s->suspended = true;
	s->report.paused_at_ns = rpl_now_ns();
	s->report.suspend_ns = s->report.paused_at_ns - t;
	t = s->report.paused_at_ns;
	if (s->policy.downtime_max_ms) {
		ev_timer_set(&s->pause_timer, s->policy.downtime_max_ms / 1e3, 0);
		ev_now_update(s->loop);
		ev_timer_start(s->loop, &s->pause_timer);
	}
	before = s->report.pages;
	if (run(s, rpl_guest_save, err) < 0 || take(s, err) < 0 || put_round(s, err) < 0 || put_tail(s, err) < 0)
		return err->code;
	s->report.pages_paused = s->report.pages - before;
	s->report.pause_ns = rpl_now_ns() - t;
	return 0;
}

int xen_send_stream(struct xen_send *s, int fd, struct xen_send_report *ret, struct rpl_err *err)
{
	struct rpl_err undo;
	int r;

	s->fd = fd;
	s->report = (struct xen_send_report){ 0 };
	find_nonblock(s);
	r = start_tracking(s, err);
	if (r == 0)
		r = put_headers(s, err);
	if (r == 0)
		r = live(s, err);
	if (r == 0)
		r = stop_and_copy(s, err);
	*ret = s->report;
	if (r < 0 && !s->gone && xen_send_resume(s, &undo) < 0)
		(void)rpl_prefix(err, "and the guest could not be resumed (%.60s); before that", undo.msg);
	return r;
}

int xen_send_mark_away(struct xen_send *s, bool away, struct rpl_err *err)
{
	char name[sizeof(s->name) + sizeof(XEN_SEND_AWAY)];

	(void)snprintf(name, sizeof(name), "%s%s", s->name, away ? XEN_SEND_AWAY : "");
	return rpl_xen_call_it(s->guest, name, err);
}

int xen_send_resume(struct xen_send *s, struct rpl_err *err)
{
	int r = run(s, rpl_guest_resume, err);

	ev_timer_stop(s->loop, &s->pause_timer);
	if (r == 0)
		s->suspended = false;
	return r;
}

int xen_send_destroy(struct xen_send *s, struct rpl_err *err)
{
	int r;

	rpl_memory_free(s->memory); /* its frames, mapped here, would keep what is left of it */
	s->memory = NULL;
	r = xl_destroy(s->domid, err);
	(void)ev_run(s->loop, EVRUN_NOWAIT); /* the backend sees the end, and puts its notes away */
	return r;
}

/* ---- the handle */

static int open_guest(struct xen_send *s, struct rpl_err *err)
{
	const char *run_dir = s->policy.run_dir ? s->policy.run_dir : RPL_RUNDIR "/xen";
	const struct rpl_guest_conf conf = { .backend = "xen", .name = s->name, .any_disk = true, .any_netdev = true,
					     .run_dir = run_dir, .op_timeout_ms = s->policy.suspend_timeout_ms };

	if (rpl_mkdir_p(run_dir, 0755, err) < 0)
		return err->code;
	s->head = malloc(HEAD_MAX);
	s->pages = aligned_alloc(RPL_PAGE_SIZE, (size_t)BATCH * RPL_PAGE_SIZE);
	s->loop = ev_loop_new(EVFLAG_AUTO);
	if (!s->head || !s->pages || !s->loop)
		return rpl_fail(err, -ENOMEM, "no memory for sending");
	make_watchers(s);
	s->guest = rpl_guest_new(&conf, s->loop, on_done, on_event, s, err);
	if (!s->guest || run(s, rpl_guest_attach, err) < 0)
		return err->code;
	watch_signals(s);
	return xl_domid(s->name, &s->domid, err);
}

static struct xen_send *make(const char *name, const struct xen_send_policy *policy, struct rpl_err *err)
{
	struct xen_send *s = calloc(1, sizeof(*s));

	if (!s) {
		(void)rpl_fail(err, -ENOMEM, "no memory");
		return NULL;
	}
	s->policy = *policy;
	if ((size_t)snprintf(s->name, sizeof(s->name), "%s", name) >= sizeof(s->name))
		(void)rpl_fail(err, -ENAMETOOLONG, "a domain's name has at most %zu characters", sizeof(s->name) - 1);
	else if (open_guest(s, err) == 0)
		return s;
	xen_send_free(s);
	return NULL;
}

struct xen_send *xen_send_open(const char *name, const struct xen_send_policy *policy, struct rpl_err *err)
{
	struct xen_send *s = make(name, policy, err);
	const struct rpl_guest_info *info = s ? rpl_guest_info(s->guest) : NULL;

	if (!s || info->running || (info->paused_by_us && xen_send_resume(s, err) == 0))
		return s;
	if (!info->paused_by_us)
		(void)rpl_fail(err, -EBUSY, "%s: it is suspended already: is another save, migration or protection under way?", s->name);
	xen_send_free(s);
	return NULL;
}

int xen_send_wake(const char *name, struct rpl_err *err)
{
	const struct xen_send_policy policy = { .suspend_timeout_ms = XEN_SEND_SUSPEND_MS };
	struct xen_send *s = make(name, &policy, err);
	int r;

	if (!s)
		return err->code;
	r = rpl_guest_info(s->guest)->running ? rpl_fail(err, -EALREADY, "%s runs", name) : xen_send_resume(s, err);
	xen_send_free(s);
	return r;
}

void xen_send_free(struct xen_send *s)
{
	if (!s)
		return;
	rpl_memory_free(s->memory);
	rpl_guest_free(s->guest);
	for (size_t i = 0; s->loop && i < RPL_ARRAY_LEN(s->signals); i++)
		ev_signal_stop(s->loop, &s->signals[i]);
	if (s->loop)
		ev_loop_destroy(s->loop);
	rpl_bitmap_fini(&s->todo);
	rpl_bitmap_fini(&s->sent);
	free(s->head);
	free(s->pages);
	free(s);
}
