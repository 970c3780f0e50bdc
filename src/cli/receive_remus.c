/* receive_remus.c - the far end of a stock `xl remus`: a replica in this host's memory, activated when the sender is gone
 *
 * Stock feeds libxl directly: a checkpoint that cannot be applied leaves half a domain, and any trouble of the receiver's
 * own counts as the sender's death. Here the domain is built only when it is needed. Until the first checkpoint is
 * complete pages go straight into the image; afterwards those of a checkpoint are staged and become part of the image
 * when its CHECKPOINT_END has been read. The end of the byte stream is the only thing that activates; a stream that is
 * refused, or a lack of memory here, ends in an error: the sender is alive then, and goes on alone.
 */
#include "cli.h"
#include "receive.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <replicad/auto.h>
#include <replicad/exit.h>

#include "../guest/xen_standby_image.h"
#include "../guest/xen_standby_xl.h"

#define IMAGE_PFNS (UINT64_C(1) << 28)      /* 1 TiB of guest frames; address space, not memory */
#define PART_MAX (16u << 20)                /* bytes of state in front of or behind the memory */
#define TYPE_SET 0x80u                      /* in the type table: the frame was in the stream */

struct part {
	uint8_t *bytes;
	size_t len, cap;
};

struct remus {
	struct receive *rx;
	struct rpl_err err;
	/* the image as of the last complete checkpoint */
	uint8_t *pages, *types;
	uint64_t pfns, checkpoints;
	struct part head, tail, emulator;
	/* the checkpoint under way */
	uint8_t *staged;
	uint64_t *staged_desc;
	uint64_t n_staged, staged_max;
	struct part next_tail, next_emulator;
	struct part *to; /* where the record under way goes; NULL: nowhere */
	const uint64_t *descs;
	uint32_t n_descs, desc_at;
	bool seen_memory;
};

static int add(struct part *p, const void *bytes, size_t len, struct rpl_err *err)
{
	if (len > PART_MAX - p->len)
		return rpl_fail(err, -EMSGSIZE, "more than %u bytes of state in one checkpoint", PART_MAX);
	if (p->len + len > p->cap) {
		size_t cap = p->cap ? p->cap * 2 : 65536;
		uint8_t *more;

		while (cap < p->len + len)
			cap *= 2;
		more = realloc(p->bytes, cap);
		if (!more)
			return rpl_fail(err, -ENOMEM, "no memory for %zu bytes of state", cap);
		p->bytes = more;
		p->cap = cap;
	}
	if (len)
		memcpy(p->bytes + p->len, bytes, len);
	p->len += len;
	return 0;
}

static int add_out(struct part *p, const struct rpl_out *o, struct rpl_err *err)
{
	rpl_assert(!o->bad);
	return add(p, o->p, o->len, err);
}

/* ---- pages */

static int set_frame(struct remus *m, uint64_t desc, const uint8_t *page, struct rpl_err *err)
{
	uint64_t pfn = rpl_desc_pfn(desc);

	if (pfn >= IMAGE_PFNS)
		return rpl_fail(err, -ERANGE, "frame %" PRIx64 ": the limit is %" PRIx64, pfn, IMAGE_PFNS);
	if (pfn >= m->pfns)
		m->pfns = pfn + 1;
	m->types[pfn] = (uint8_t)(TYPE_SET | rpl_desc_type(desc));
	if (page)
		memcpy(m->pages + pfn * RPL_STREAM_PAGE, page, RPL_STREAM_PAGE);
	return 0;
}

static int stage(struct remus *m, uint64_t desc, const uint8_t *page, struct rpl_err *err)
{
	if (m->checkpoints == 0)
		return set_frame(m, desc, page, err);
	if (rpl_desc_pfn(desc) >= IMAGE_PFNS)
		return rpl_fail(err, -ERANGE, "frame %" PRIx64 ": the limit is %" PRIx64, rpl_desc_pfn(desc), IMAGE_PFNS);
	if (m->n_staged == m->staged_max)
		return rpl_fail(err, -ENOSPC, "checkpoint %" PRIu64 " has more than %" PRIu64
				" pages: give more room with --staging", m->checkpoints + 1, m->staged_max);
	m->staged_desc[m->n_staged] = desc;
	if (page)
		memcpy(m->staged + m->n_staged * RPL_STREAM_PAGE, page, RPL_STREAM_PAGE);
	m->n_staged++;
	return 0;
}

/* Descriptors without data up to the next one that has some. */
static int pass_empty(struct remus *m, struct rpl_err *err)
{
	int r = 0;

	while (r == 0 && m->desc_at < m->n_descs && !rpl_page_type_has_data(rpl_desc_type(m->descs[m->desc_at])))
		r = stage(m, m->descs[m->desc_at++], NULL, err);
	return r;
}

static int on_pages(struct remus *m, const struct rpl_stream_event *ev, struct rpl_err *err)
{
	int r = 0;

	for (size_t at = 0; at < ev->len && r == 0; at += RPL_STREAM_PAGE) {
		r = pass_empty(m, err);
		rpl_assert(m->desc_at < m->n_descs);
		if (r == 0)
			r = stage(m, m->descs[m->desc_at++], ev->bytes + at, err);
	}
	return r;
}

/* CHECKPOINT_END: the staged pages and the new tail are the guest now. */
static int commit(struct remus *m, struct rpl_err *err)
{
	struct part old_tail = m->tail, old_emulator = m->emulator;
	int r = 0;

	for (uint64_t i = 0; i < m->n_staged && r == 0; i++) {
		uint64_t desc = m->staged_desc[i];

		r = set_frame(m, desc, rpl_page_type_has_data(rpl_desc_type(desc)) ? m->staged + i * RPL_STREAM_PAGE : NULL, err);
	}
	rpl_assert(r == 0); /* every frame was checked when it was staged */
	m->n_staged = 0;
	m->tail = m->next_tail;
	m->emulator = m->next_emulator;
	m->next_tail = old_tail;
	m->next_emulator = old_emulator;
	m->next_tail.len = m->next_emulator.len = 0;
	if (m->checkpoints++ == 0)
		(void)fprintf(stderr, "replicad receive: %s: the first checkpoint is complete, %" PRIu64 " frames; from now on the end "
			      "of the stream activates the copy\n", m->rx->name, m->pfns);
	return r;
}

/* ---- records */

static bool is_marker(const struct rpl_stream_record *rec)
{
	return rec->layer == RPL_LAYER_LIBXC ? rec->type == RPL_LIBXC_CHECKPOINT : rec->type == RPL_LIBXL_CHECKPOINT_END;
}

static int begin_record(struct remus *m, const struct rpl_stream_event *ev, struct rpl_err *err)
{
	bool libxc = ev->rec.layer == RPL_LAYER_LIBXC;
	uint8_t buf[RPL_STREAM_RECORD_HEAD];
	struct rpl_out o = rpl_out(buf, sizeof(buf));
	int r;

	m->to = NULL;
	if (libxc && ev->rec.type == RPL_LIBXC_PAGE_DATA) {
		m->seen_memory = true;
		return 0;
	}
	if (is_marker(&ev->rec))
		return 0;
	if (ev->rec.type == (uint32_t)(libxc ? (int)RPL_LIBXC_END : (int)RPL_LIBXL_END))
		return rpl_fail(err, -EINVAL, "the stream ends as a plain migration does (xl migrate): receive it without --remus");
	if (!libxc && ev->rec.type == RPL_LIBXL_CHECKPOINT_STATE)
		return rpl_fail(err, -ENOTSUP, "the sender speaks COLO (xl remus -c), which is not supported: use plain Remus");
	m->to = !libxc ? (ev->rec.type == RPL_LIBXL_LIBXC_CONTEXT ? &m->head : &m->next_emulator) :
		m->seen_memory ? &m->next_tail : &m->head;
	rpl_stream_put_record_head(&o, ev->rec.type, ev->rec.len);
	r = add_out(m->to, &o, err);
	return r < 0 ? r : add(m->to, ev->bytes, ev->len, err);
}

static int end_record(struct remus *m, const struct rpl_stream_event *ev, struct rpl_err *err)
{
	static const uint8_t zeros[8];

	if (ev->rec.layer == RPL_LAYER_LIBXC && ev->rec.type == RPL_LIBXC_PAGE_DATA)
		return pass_empty(m, err);
	if (ev->rec.layer == RPL_LAYER_LIBXL && ev->rec.type == RPL_LIBXL_CHECKPOINT_END)
		return commit(m, err);
	return m->to ? add(m->to, zeros, rpl_stream_padding(ev->rec.len), err) : 0;
}

static int put_header(struct remus *m, const struct rpl_stream_event *ev, struct rpl_err *err)
{
	uint8_t buf[RPL_STREAM_HEADERS_MAX];
	struct rpl_out o = rpl_out(buf, sizeof(buf));

	if (ev->kind == RPL_EV_LIBXL_HEADER)
		rpl_stream_put_libxl_header(&o, ev->libxl_options & RPL_LIBXL_OPT_LEGACY);
	else if (ev->kind == RPL_EV_IMAGE_HEADER)
		rpl_stream_put_image_header(&o, ev->image_version);
	else
		rpl_stream_put_domain_header(&o, &ev->domain);
	return add_out(&m->head, &o, err);
}

/* A copy that cannot be activated protects nobody: say so before the sender relies on it. */
static int check_room(struct remus *m, struct rpl_err *err)
{
	struct rpl_err none;
	uint32_t domid;
	int r = receive_config_check(m->rx, err);

	if (r < 0)
		return r;
	if (xl_domid(m->rx->name, &domid, &none) == 0)
		return rpl_fail(err, -EEXIST, "a domain called %.150s is here already (%u)", m->rx->name, domid);
	return xl_check_room(NULL, m->rx->name, m->rx->maxmem_kib >> 10, err);
}

static int handle(struct remus *m, const struct rpl_stream_event *ev, struct rpl_err *err)
{
	switch (ev->kind) {
	case RPL_EV_XL_CONFIG:
		stream_config_add(&m->rx->config, ev);
		return 0;
	case RPL_EV_LIBXL_HEADER: {
		int r = check_room(m, err);

		return r < 0 ? r : put_header(m, ev, err);
	}
	case RPL_EV_IMAGE_HEADER:
	case RPL_EV_DOMAIN_HEADER:
		return put_header(m, ev, err);
	case RPL_EV_RECORD:
		return begin_record(m, ev, err);
	case RPL_EV_PFNS:
		m->descs = ev->pfns.descs;
		m->n_descs = ev->pfns.count;
		m->desc_at = 0;
		return 0;
	case RPL_EV_PAGES:
		return on_pages(m, ev, err);
	case RPL_EV_BODY:
		return m->to ? add(m->to, ev->bytes, ev->len, err) : 0;
	case RPL_EV_RECORD_END:
		return end_record(m, ev, err);
	default:
		return 0;
	}
}

static int on_event(void *ctx, const struct rpl_stream_event *ev)
{
	struct remus *m = ctx;
	struct receive *rx = m->rx;
	int r;

	/* Before the checkpoint is made part of the image everything in it has been judged. */
	rpl_stream_check(&rx->check, ev);
	if (rx->bad.code) {
		m->err = rx->bad;
		return m->err.code;
	}
	r = handle(m, ev, &m->err);
	return r < 0 ? r : 0;
}

/* ---- activation */

static unsigned type_of(void *ctx, uint64_t pfn)
{
	const struct remus *m = ctx;

	return m->types[pfn] & TYPE_SET ? m->types[pfn] & 0xfu : XEN_IMAGE_ABSENT;
}

static int copy_pages(void *ctx, const uint64_t *pfns, size_t n, void *dst, struct rpl_err *err)
{
	const struct remus *m = ctx;

	(void)err;
	for (size_t i = 0; i < n; i++)
		memcpy((uint8_t *)dst + i * RPL_STREAM_PAGE, m->pages + pfns[i] * RPL_STREAM_PAGE, RPL_STREAM_PAGE);
	return 0;
}

static int to_xl(void *ctx, const void *bytes, size_t len, struct rpl_err *err)
{
	return xl_feed(ctx, bytes, len, err);
}

/* Both layers' END records behind what the last checkpoint left. */
static int close_stream(struct remus *m, struct rpl_err *err)
{
	uint8_t buf[2 * RPL_STREAM_RECORD_HEAD];
	struct rpl_out o = rpl_out(buf, sizeof(buf));
	int r;

	rpl_stream_put_record(&o, RPL_LIBXC_END, NULL, 0);
	r = add_out(&m->tail, &o, err);
	if (r == 0)
		r = add(&m->tail, m->emulator.bytes, m->emulator.len, err);
	o = rpl_out(buf, sizeof(buf));
	rpl_stream_put_record(&o, RPL_LIBXL_END, NULL, 0);
	return r < 0 ? r : add_out(&m->tail, &o, err);
}

static int activate(struct remus *m, struct rpl_err *err)
{
	char *const run[] = { (char *)"xl", (char *)"restore", (char *)XL_STDIN, NULL };
	char *const run_alone[] = { (char *)"xl", (char *)"restore", (char *)"-e", (char *)XL_STDIN, NULL };
	char *const pause[] = { (char *)"xl", (char *)"restore", (char *)"-p", (char *)XL_STDIN, NULL };
	struct xen_image im = { .pfns = m->pfns, .type = type_of, .copy = copy_pages, .ctx = m };
	RPL_AUTO_FREE char *config = receive_config_named(m->rx, m->rx->name, err);
	struct rpl_err fed = { 0 };
	struct xl_run xl;
	int r, r_fed;

	r = config ? close_stream(m, err) : err->code;
	if (r == 0)
		r = xl_start(&xl, m->rx->paused ? pause : m->rx->no_monitor ? run_alone : run, true, err);
	if (r < 0)
		return r;
	im.head = m->head.bytes;
	im.head_len = m->head.len;
	im.rest = m->tail.bytes;
	im.rest_len = m->tail.len;
	r_fed = xen_image_write(&im, config, to_xl, &xl, NULL, &fed);
	r = xl_end(&xl, NULL, err);
	if (r == 0 && r_fed < 0)
		*err = fed;
	return r < 0 ? r : r_fed;
}

/* ---- the whole */

static void *reserve(uint64_t bytes, struct rpl_err *err)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p != MAP_FAILED)
		return p;
	(void)rpl_fail_errno(err, errno, "reserve %" PRIu64 " MiB of address space", bytes >> 20);
	return NULL;
}

static int prepare(struct remus *m, struct rpl_err *err)
{
	m->staged_max = m->rx->staging_bytes / RPL_STREAM_PAGE;
	m->pages = reserve(IMAGE_PFNS * RPL_STREAM_PAGE, err);
	m->types = m->pages ? reserve(IMAGE_PFNS, err) : NULL;
	m->staged = m->types ? reserve(m->rx->staging_bytes, err) : NULL;
	m->staged_desc = m->staged ? reserve(m->staged_max * sizeof(*m->staged_desc), err) : NULL;
	return m->staged_desc ? 0 : err->code;
}

static void release(struct remus *m)
{
	if (m->pages)
		(void)munmap(m->pages, IMAGE_PFNS * RPL_STREAM_PAGE);
	if (m->types)
		(void)munmap(m->types, IMAGE_PFNS);
	if (m->staged)
		(void)munmap(m->staged, m->rx->staging_bytes);
	if (m->staged_desc)
		(void)munmap(m->staged_desc, m->staged_max * sizeof(*m->staged_desc));
	free(m->head.bytes);
	free(m->tail.bytes);
	free(m->emulator.bytes);
	free(m->next_tail.bytes);
	free(m->next_emulator.bytes);
}

static void warn(void)
{
	(void)fprintf(stderr,
		      "replicad receive: WARNING: the sender is a stock xl remus. It releases the guest's output before this host\n"
		      "replicad receive: WARNING: has the checkpoint, asks nobody who may run the guest, and cannot say that it was\n"
		      "replicad receive: WARNING: stopped on purpose: if the connection ends for any reason, TWO guests may run, and a\n"
		      "replicad receive: WARNING: guest that was shut down comes back. Use `replicad protect` where that matters.\n");
}

static int follow(struct remus *m, struct rpl_err *err)
{
	int r = prepare(m, err);

	if (r < 0)
		return r;
	r = stream_run_events(&m->rx->run, on_event, NULL, m, err);
	if (r < 0 && m->err.code)
		*err = m->err;
	/* A connection that breaks reads as an error of the input; what was refused is not the sender's end. */
	if (r < 0 && (m->err.code || rpl_stream_ending(&m->rx->run.reader) == RPL_ENDING_REFUSED))
		return r;
	if (m->checkpoints == 0)
		return rpl_fail(err, -ENODATA, "the stream ended at byte %" PRIu64 " before its first checkpoint was complete: "
				"nothing to activate", m->rx->run.in.offset);
	return 0;
}

int receive_remus(struct receive *rx)
{
	struct remus m = { .rx = rx };
	struct rpl_err err = { 0 };
	int r;

	warn();
	r = follow(&m, &err);
	if (r == 0) {
		(void)fprintf(stderr, "replicad receive: %s: the stream ended behind checkpoint %" PRIu64 ": activating it\n",
			      rx->name, m.checkpoints);
		r = activate(&m, &err);
	}
	if (r == 0)
		(void)fprintf(stderr, "replicad receive: domain %s is here%s\n", rx->name, rx->paused ? ", paused" : " and runs");
	release(&m);
	return r == 0 ? RPL_EXIT_DONE : rpl_cli_fail("receive", RPL_EXIT_FAILED, "%s", err.msg);
}
