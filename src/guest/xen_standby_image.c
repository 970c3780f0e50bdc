/* xen_standby_image.c - the pages between the two halves of a saved state
 *
 * Every frame that was ever in the stream is written, also those that hold only zeroes: what populates the new domain's
 * memory is the frame's appearance in PAGE_DATA, and a type that populates without contents (XALLOC) gives what Xen has
 * there, which is zero only where Xen scrubs. Frames of type XTAB are left out: a restored domain starts without them.
 */
#include "xen_standby_image.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <replicad/auto.h>
#include <replicad/stream_check.h>

#define BATCH RPL_STREAM_PAGES_PER_RECORD

/* ---- the place of the pages */

struct split {
	struct rpl_stream_check check;
	struct rpl_stream_finding worst;
	bool found;
	size_t at;
};

static void on_finding(void *ctx, const struct rpl_stream_finding *f)
{
	struct split *s = ctx;

	/* That there is no memory is what makes it a state blob; with it go the rules about pages that others name. */
	if (f->severity == RPL_SEV_WARNING || f->rule == RPL_RULE_MEMORY_MISSING || f->rule == RPL_RULE_P2M_PAGES ||
	    f->rule == RPL_RULE_VCPU_FRAMES || s->worst.text[0])
		return;
	s->worst = *f;
}

static bool goes_before_pages(uint32_t type)
{
	return type == RPL_LIBXC_X86_PV_INFO || type == RPL_LIBXC_X86_CPUID_POLICY || type == RPL_LIBXC_X86_MSR_POLICY ||
	       type == RPL_LIBXC_STATIC_DATA_END || type == RPL_LIBXC_X86_PV_P2M_FRAMES;
}

static int look(struct split *s, const struct rpl_stream_event *ev, struct rpl_err *err)
{
	rpl_stream_check(&s->check, ev);
	if (ev->kind != RPL_EV_RECORD || ev->rec.layer != RPL_LAYER_LIBXC)
		return 0;
	if (ev->rec.type == RPL_LIBXC_PAGE_DATA)
		return rpl_fail(err, -EBADMSG, "device state: memory in it, at byte %" PRIu64, ev->offset);
	if (!s->found && !goes_before_pages(ev->rec.type)) {
		s->found = true;
		s->at = (size_t)ev->rec.offset;
	}
	return 0;
}

static int walk(struct split *s, const void *blob, size_t len, struct rpl_err *err)
{
	static uint64_t descs[1]; /* no PAGE_DATA gets so far */
	struct rpl_stream_in in = { blob, len };
	struct rpl_stream_reader reader;
	struct rpl_stream_event ev;
	int r;

	rpl_stream_check_init(&s->check, on_finding, s);
	rpl_stream_reader_init(&reader, RPL_FORMAT_LIBXL, descs, RPL_ARRAY_LEN(descs));
	while ((r = rpl_stream_next(&reader, &in, &ev, err)) > 0) {
		r = look(s, &ev, err);
		if (r < 0)
			return r;
	}
	if (r < 0)
		return rpl_prefix(err, "device state");
	if (rpl_stream_ending(&reader) != RPL_ENDING_COMPLETE || !s->found)
		return rpl_fail(err, -EBADMSG, "device state: %zu bytes are no complete plain stream", len);
	rpl_stream_check_end(&s->check, &reader, false);
	if (s->worst.text[0])
		return rpl_fail(err, -EBADMSG, "device state: byte %" PRIu64 ": %s: %.150s", s->worst.offset,
				rpl_stream_rule_def(s->worst.rule)->name, s->worst.text);
	return 0;
}

int xen_image_split(const void *blob, size_t len, size_t *ret_at, struct rpl_err *err)
{
	struct split *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return rpl_fail(err, -ENOMEM, "device state: no memory to look at it");
	r = walk(s, blob, len, err);
	if (r == 0)
		*ret_at = s->at;
	free(s);
	return r;
}

/* ---- writing it */

struct writer {
	const struct xen_image *im;
	xen_image_sink *sink;
	void *sink_ctx;
	uint64_t pfn[BATCH];   /* with data, in the order of the pages */
	uint64_t desc[BATCH];
	uint32_t n_desc, n_pfn;
	uint64_t pages;
	uint8_t head[RPL_STREAM_RECORD_HEAD + 8 + 8 * BATCH];
	uint8_t page[BATCH * RPL_STREAM_PAGE];
};

static int flush(struct writer *w, struct rpl_err *err)
{
	struct rpl_out o = rpl_out(w->head, sizeof(w->head));
	int r;

	if (w->n_desc == 0)
		return 0;
	rpl_stream_put_page_data_head(&o, w->desc, w->n_desc, NULL);
	rpl_assert(!o.bad);
	r = w->n_pfn ? w->im->copy(w->im->ctx, w->pfn, w->n_pfn, w->page, err) : 0;
	if (r == 0)
		r = w->sink(w->sink_ctx, w->head, o.len, err);
	if (r == 0 && w->n_pfn)
		r = w->sink(w->sink_ctx, w->page, (size_t)w->n_pfn * RPL_STREAM_PAGE, err);
	w->pages += w->n_pfn;
	w->n_desc = w->n_pfn = 0;
	return r;
}

static int write_memory(struct writer *w, struct rpl_err *err)
{
	const struct xen_image *im = w->im;
	int r;

	for (uint64_t pfn = 0; pfn < im->pfns; pfn++) {
		unsigned type = im->type(im->ctx, pfn);

		if (type == XEN_IMAGE_ABSENT || type == RPL_PAGE_XTAB)
			continue;
		if (!rpl_page_type_valid(type))
			return rpl_fail(err, -EBADMSG, "frame %" PRIx64 ": page type %u", pfn, type);
		w->desc[w->n_desc++] = rpl_desc(pfn, type);
		if (rpl_page_type_has_data(type))
			w->pfn[w->n_pfn++] = pfn;
		if (w->n_desc < BATCH)
			continue;
		r = flush(w, err);
		if (r < 0)
			return r;
	}
	return flush(w, err);
}

static int write_xl_header(const struct writer *w, const char *config, struct rpl_err *err)
{
	uint32_t len = config ? (uint32_t)strlen(config) + 1 : 0;
	uint8_t buf[RPL_XL_HEADER + 4];
	struct rpl_out o = rpl_out(buf, sizeof(buf));
	int r;

	rpl_stream_put_xl_header(&o, RPL_XL_FLAG_STREAM_V2 | (config ? RPL_XL_FLAG_JSON : 0), len);
	if (o.bad)
		return rpl_fail(err, -EMSGSIZE, "a configuration of %" PRIu32 " bytes", len);
	r = w->sink(w->sink_ctx, buf, o.len, err);
	return r == 0 && config ? w->sink(w->sink_ctx, config, len, err) : r;
}

int xen_image_write_memory(const struct xen_image *im, const char *config, xen_image_sink *sink, void *sink_ctx,
			   uint64_t *ret_pages, struct rpl_err *err)
{
	struct writer *w = malloc(sizeof(*w));
	int r;

	if (!w)
		return rpl_fail(err, -ENOMEM, "image: no memory for %zu bytes", sizeof(*w));
	w->im = im;
	w->sink = sink;
	w->sink_ctx = sink_ctx;
	w->n_desc = w->n_pfn = 0;
	w->pages = 0;
	r = write_xl_header(w, config, err);
	if (r == 0)
		r = sink(sink_ctx, im->head, im->head_len, err);
	if (r == 0)
		r = write_memory(w, err);
	if (ret_pages)
		*ret_pages = w->pages;
	free(w);
	return r;
}

int xen_image_write(const struct xen_image *im, const char *config, xen_image_sink *sink, void *sink_ctx,
		    uint64_t *ret_pages, struct rpl_err *err)
{
	int r = xen_image_write_memory(im, config, sink, sink_ctx, ret_pages, err);

	return r < 0 ? r : sink(sink_ctx, im->rest, im->rest_len, err);
}
