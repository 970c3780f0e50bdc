#include "xen_send.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
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

struct xen_send {
	struct xen_send_policy policy;
	struct xen_send_report report;
	struct ev_loop *loop;
	struct rpl_guest *guest;
	struct rpl_memory *memory;
	char name[64];
	uint32_t domid;
	bool suspended;
	/* the operation that is waited for */
	bool waiting;
	struct rpl_err op_err;
	int op_result;
	char ended[160]; /* the domain's end, if it came meanwhile */
	/* the stream */
	int fd;
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

static void on_event(void *arg, enum rpl_guest_event event, const char *msg)
{
	struct xen_send *s = arg;

	if (event == RPL_GUEST_SHUTDOWN || event == RPL_GUEST_CRASH || event == RPL_GUEST_LOST)
		(void)snprintf(s->ended, sizeof(s->ended), "%s", msg);
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

/* Let the events that are there be seen. */
static int still_there(struct xen_send *s, struct rpl_err *err)
{
	(void)ev_run(s->loop, EVRUN_NOWAIT);
	return s->ended[0] ? rpl_fail(err, -ESRCH, "%s: %s", s->name, s->ended) : 0;
}

/* ---- bytes */

static int put(struct xen_send *s, const void *bytes, size_t len, struct rpl_err *err)
{
	int r = rpl_write_full(s->fd, bytes, len);

	if (r < 0)
		return rpl_fail_errno(err, -r, "write the stream at byte %" PRIu64, s->report.bytes);
	s->report.bytes += len;
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
	json_t *root;

	if (!dup || xl_call(argv, &said, err) < 0) {
		free(dup);
		return NULL;
	}
	free(dup);
	root = json_loads(said, 0, &jerr);
	if (json_is_object(json_object_get(json_array_get(root, 0), "config")))
		text = json_dumps(json_object_get(json_array_get(root, 0), "config"), JSON_INDENT(4));
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
		if (!s->suspended && still_there(s, err) < 0)
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

/* All pages, then what was written meanwhile, until that is little, does not get less, or it was done often enough. */
static int live(struct xen_send *s, struct rpl_err *err)
{
	uint64_t last = UINT64_MAX, left = 0;

	for (;;) {
		if (put_round(s, err) < 0)
			return err->code;
		s->report.rounds++;
		if (rpl_guest_collect(s->guest, &left, err) < 0 || take(s, err) < 0)
			return err->code;
		if (left <= s->policy.pages_enough || s->report.rounds >= s->policy.rounds_max || left >= last)
			return 0;
		last = left;
	}
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
	s->report.suspend_ns = rpl_now_ns() - t;
	t = rpl_now_ns();
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
	r = start_tracking(s, err);
	if (r == 0)
		r = put_headers(s, err);
	if (r == 0)
		r = live(s, err);
	if (r == 0)
		r = stop_and_copy(s, err);
	*ret = s->report;
	if (r < 0 && !s->ended[0] && xen_send_resume(s, &undo) < 0)
		(void)rpl_prefix(err, "and the guest could not be resumed (%.60s); before that", undo.msg);
	return r;
}

int xen_send_resume(struct xen_send *s, struct rpl_err *err)
{
	int r = run(s, rpl_guest_resume, err);

	if (r == 0)
		s->suspended = false;
	return r;
}

/* ---- the handle */

uint32_t xen_send_domid(const struct xen_send *s)
{
	return s->domid;
}

static int open_guest(struct xen_send *s, struct rpl_err *err)
{
	const struct rpl_guest_conf conf = { .backend = "xen", .name = s->name, .any_disk = true, .any_netdev = true,
					     .op_timeout_ms = s->policy.suspend_timeout_ms };

	s->head = malloc(HEAD_MAX);
	s->pages = aligned_alloc(RPL_PAGE_SIZE, (size_t)BATCH * RPL_PAGE_SIZE);
	s->loop = ev_loop_new(EVFLAG_AUTO);
	if (!s->head || !s->pages || !s->loop)
		return rpl_fail(err, -ENOMEM, "no memory for sending");
	s->guest = rpl_guest_new(&conf, s->loop, on_done, on_event, s, err);
	if (!s->guest || run(s, rpl_guest_attach, err) < 0)
		return err->code;
	if (!rpl_guest_info(s->guest)->running)
		return rpl_fail(err, -EBUSY, "%s: it is suspended already: is another save, migration or protection under way?", s->name);
	return xl_domid(s->name, &s->domid, err);
}

struct xen_send *xen_send_open(const char *name, const struct xen_send_policy *policy, struct rpl_err *err)
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

void xen_send_free(struct xen_send *s)
{
	if (!s)
		return;
	rpl_memory_free(s->memory);
	rpl_guest_free(s->guest);
	if (s->loop)
		ev_loop_destroy(s->loop);
	rpl_bitmap_fini(&s->todo);
	rpl_bitmap_fini(&s->sent);
	free(s->head);
	free(s->pages);
	free(s);
}
