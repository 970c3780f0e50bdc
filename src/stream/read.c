/* The incremental reader: a machine of a dozen phases, each of which needs a small number of bytes at once.
 *
 *   xl head → xl config → xl extra ─┐
 *                                   ├→ libxl head → record ⇄ image head → domain head → record
 *   record = head, fixed part, then pfns and pages, or elements, then padding
 *
 * rpl_read_need() hands out exactly n bytes: from the span if it has them, else from the reader's own buffer, which only
 * ever holds a field, an element or a page that a span boundary cut. So the fast path (whole pages, whole descriptors)
 * never copies. Which layer owns the next record is decided in one place, record_over().
 */
#include "read.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <replicad/cur.h>

void rpl_stream_reader_init(struct rpl_stream_reader *r, enum rpl_stream_format format, uint64_t *descs,
			    uint32_t descs_max)
{
	memset(r, 0, offsetof(struct rpl_stream_reader, buf));
	r->format = format;
	r->descs = descs;
	r->descs_max = descs_max;
	r->has_libxl = format == RPL_FORMAT_LIBXL;
	switch (format) {
	case RPL_FORMAT_XL:
		r->phase = PH_XL_HEAD;
		r->layer = RPL_LAYER_XL;
		break;
	case RPL_FORMAT_LIBXL:
		r->phase = PH_LIBXL_HEAD;
		r->layer = RPL_LAYER_LIBXL;
		break;
	case RPL_FORMAT_LIBXC:
		r->phase = PH_IMAGE_HEAD;
		r->layer = RPL_LAYER_LIBXC;
		break;
	default:
		r->phase = PH_LEGACY_DONE;
		r->layer = RPL_LAYER_LEGACY;
	}
}

static bool inside_record(const struct rpl_stream_reader *r)
{
	return r->phase >= PH_FIXED && r->phase <= PH_RECORD_OVER;
}

int rpl_read_refuse(struct rpl_stream_reader *r, struct rpl_err *err, enum rpl_stream_rule rule, uint64_t offset,
		    int code, const char *fmt, ...)
{
	char what[160];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	r->can_skip = inside_record(r) && r->rule == RPL_RULE_NONE;
	r->rule = rule;
	r->bad_offset = offset;
	if (inside_record(r))
		(void)rpl_fail(err, code, "offset %" PRIu64 ": %s record %" PRIu64 " %s: %s", offset,
			       rpl_stream_layer_name(r->rec.layer), r->rec.nr,
			       rpl_stream_record_name(r->rec.layer, r->rec.type), what);
	else
		(void)rpl_fail(err, code, "offset %" PRIu64 ": %s: %s", offset, rpl_stream_layer_name(r->layer), what);
	r->phase = PH_REFUSED;
	return code;
}

const uint8_t *rpl_read_need(struct rpl_stream_reader *r, struct rpl_stream_in *in, uint32_t n)
{
	const uint8_t *p = in->p;
	uint32_t take;

	if (r->have == 0 && in->len >= n) {
		in->p += n;
		in->len -= n;
		r->offset += n;
		return p;
	}
	take = n - r->have;
	if (in->len < take)
		take = (uint32_t)in->len;
	if (take)
		memcpy(r->buf + r->have, in->p, take);
	in->p += take;
	in->len -= take;
	r->have += take;
	if (r->have < n)
		return NULL;
	r->have = 0;
	r->offset += n;
	return r->buf;
}

uint32_t rpl_read_some(struct rpl_stream_reader *r, struct rpl_stream_in *in, uint32_t elem, uint32_t most,
			  const uint8_t **ret)
{
	size_t n = in->len < most ? in->len : most;

	if (r->have == 0 && n >= elem) {
		n -= n % elem;
		*ret = in->p;
		in->p += n;
		in->len -= n;
		r->offset += n;
		return (uint32_t)n;
	}
	*ret = rpl_read_need(r, in, elem);
	return *ret ? elem : 0;
}

int rpl_read_event(struct rpl_stream_reader *r, struct rpl_stream_event *ev, enum rpl_stream_event_kind kind,
		   uint64_t offset)
{
	ev->kind = kind;
	ev->offset = offset;
	ev->rec = r->rec;
	ev->remarks = 0;
	ev->bytes = NULL;
	ev->len = 0;
	ev->first = 0;
	return EVENT;
}

/* ---- records */
static bool length_fits(const struct rpl_stream_record_def *d, uint32_t len)
{
	if (len < d->min || len > d->max)
		return false;
	return d->type == RPL_LIBXC_PAGE_DATA || (len - d->head) % d->elem == 0;
}

/* In a COLO stream the primary's CHECKPOINT_STATE stands where libxc's next record would. {5, 4} cannot be one of
 * libxc's: its type 5 has at least 8 bytes. */
static bool is_colo_state(const struct rpl_stream_reader *r, uint32_t type, uint32_t len)
{
	return r->after_checkpoint_end && type == RPL_LIBXL_CHECKPOINT_STATE && len == 4;
}

static int record_unknown(struct rpl_stream_reader *r, struct rpl_err *err)
{
	enum rpl_stream_rule rule = r->rec.layer == RPL_LAYER_LIBXL ? RPL_RULE_LIBXL_TYPE : RPL_RULE_RECORD_TYPE;

	if (!(r->rec.type & RPL_RECORD_OPTIONAL))
		return rpl_read_refuse(r, err, rule, r->rec.offset, -EBADMSG, "mandatory type 0x%08x is not defined",
			      r->rec.type);
	r->head = 0;
	r->elem = 1;
	r->remarks = RPL_REMARK_UNKNOWN;
	return AGAIN;
}

static int record_head(struct rpl_stream_reader *r, struct rpl_stream_in *in, struct rpl_err *err)
{
	uint64_t at = r->offset;
	const uint8_t *p = rpl_read_need(r, in, RPL_STREAM_RECORD_HEAD);
	const struct rpl_stream_record_def *d;
	struct rpl_cur c;
	bool libxl;

	if (!p)
		return MORE;
	c = rpl_cur(p, RPL_STREAM_RECORD_HEAD);
	r->rec.type = rpl_cur_le32(&c);
	r->rec.len = rpl_cur_le32(&c);
	r->rec.offset = at;
	r->rec.nr = r->nr++;
	libxl = r->layer == RPL_LAYER_LIBXL || is_colo_state(r, r->rec.type, r->rec.len);
	r->rec.layer = libxl ? RPL_LAYER_LIBXL : RPL_LAYER_LIBXC;
	r->phase = PH_FIXED;
	r->left = r->rec.len;
	r->pad = rpl_stream_padding(r->rec.len);
	r->remarks = 0;
	if (r->rec.len > RPL_STREAM_BODY_MAX) {
		(void)rpl_read_refuse(r, err, RPL_RULE_RECORD_LIMIT, at + 4, -EMSGSIZE, "body of %u bytes, the limit is %u",
			     r->rec.len, RPL_STREAM_BODY_MAX);
		r->can_skip = false; /* nothing behind such a length can be trusted to be a record */
		return -EMSGSIZE;
	}
	d = rpl_stream_record_def(r->rec.layer, r->rec.type);
	if (!d)
		return record_unknown(r, err);
	if (!length_fits(d, r->rec.len)) {
		enum rpl_stream_rule rule = RPL_RULE_RECORD_LENGTH;

		if (!libxl && d->type == RPL_LIBXC_PAGE_DATA)
			rule = RPL_RULE_PAGE_COUNT;
		if (!libxl && d->type == RPL_LIBXC_HVM_PARAMS)
			rule = RPL_RULE_HVM_PARAM_COUNT;
		return rpl_read_refuse(r, err, rule, at + 4, -EBADMSG,
			      "body of %u bytes, expected %u to %u in elements of %u behind %u", r->rec.len, d->min,
			      d->max, d->elem, d->head);
	}
	r->head = d->head;
	r->elem = d->elem;
	return AGAIN;
}

/* LIBXC_CONTEXT and CHECKPOINT_END move between the layers: only where that is possible. */
static int check_layer(struct rpl_stream_reader *r, struct rpl_err *err)
{
	const char *what = NULL;

	if (r->rec.layer != RPL_LAYER_LIBXL)
		return AGAIN;
	if (r->rec.type == RPL_LIBXL_LIBXC_CONTEXT && r->seen_image)
		what = "a second libxc image, one is the limit";
	if (r->rec.type == RPL_LIBXL_CHECKPOINT_END && (!r->seen_image || r->libxc_over))
		what = "outside a checkpoint";
	if (r->rec.type == RPL_LIBXL_END && r->seen_image && !r->libxc_over)
		what = "inside a checkpoint, expected CHECKPOINT_END";
	if (!what)
		return AGAIN;
	(void)rpl_read_refuse(r, err, RPL_RULE_LIBXL_LAYER, r->rec.offset, -EBADMSG, "%s", what);
	r->can_skip = false; /* who owns the bytes behind it is anybody's guess */
	return -EBADMSG;
}

static int fixed(struct rpl_stream_reader *r, struct rpl_stream_in *in, struct rpl_stream_event *ev,
		 struct rpl_err *err)
{
	const uint8_t *p = r->head ? rpl_read_need(r, in, r->head) : r->buf;
	int ret;

	if (!p)
		return MORE;
	ret = check_layer(r, err);
	if (ret < 0)
		return ret;
	r->left -= r->head;
	(void)rpl_read_event(r, ev, RPL_EV_RECORD, r->rec.offset);
	ev->bytes = p;
	ev->len = r->head;
	ret = rpl_read_fixed(r, ev, p, err);
	if (ret < 0)
		return ret;
	ev->remarks = r->remarks;
	r->remarks = 0;
	r->phase = PH_BODY;
	if (r->rec.layer == RPL_LAYER_LIBXC && r->rec.type == RPL_LIBXC_PAGE_DATA)
		r->phase = PH_PFNS;
	return EVENT;
}

/* Take in n descriptors at p. Returns the index of the first bad one, or n. */
static uint32_t take_descs(struct rpl_stream_reader *r, const uint8_t *p, uint32_t n)
{
	uint64_t reserved = 0;
	uint32_t pages = 0, i;

	for (i = 0; i < n; i++) {
		uint64_t d;
		unsigned type;

		memcpy(&d, p + (size_t)i * 8, 8);
		r->descs[r->got + i] = d;
		type = rpl_desc_type(d);
		if (!rpl_page_type_valid(type))
			break;
		reserved |= d & RPL_DESC_RESERVED;
		pages += rpl_page_type_has_data(type);
	}
	if (reserved)
		r->remarks |= RPL_REMARK_RESERVED;
	r->pages += pages;
	return i;
}

static int pfns(struct rpl_stream_reader *r, struct rpl_stream_in *in, struct rpl_stream_event *ev,
		struct rpl_err *err)
{
	while (r->got < r->count) {
		uint64_t at = r->offset;
		const uint8_t *p;
		uint32_t n = rpl_read_some(r, in, 8, (r->count - r->got) * 8, &p) / 8, good;

		if (n == 0)
			return MORE;
		r->left -= n * 8;
		good = take_descs(r, p, n);
		if (good < n)
			return rpl_read_refuse(r, err, RPL_RULE_PAGE_TYPE, at + (uint64_t)good * 8, -EBADMSG,
				      "descriptor %u: page type %u of pfn 0x%" PRIx64 ", expected 0-4 or 9-15",
				      r->got + good, rpl_desc_type(r->descs[r->got + good]),
				      rpl_desc_pfn(r->descs[r->got + good]));
		r->got += n;
	}
	if (r->left != (uint64_t)r->pages * RPL_STREAM_PAGE)
		return rpl_read_refuse(r, err, RPL_RULE_PAGE_LENGTH, r->rec.offset + 4, -EBADMSG,
			      "%u bytes of pages, expected %" PRIu64 " for %u of %u descriptors", r->left,
			      (uint64_t)r->pages * RPL_STREAM_PAGE, r->pages, r->count);
	(void)rpl_read_event(r, ev, RPL_EV_PFNS, r->rec.offset + RPL_STREAM_RECORD_HEAD + 8);
	ev->remarks = r->remarks;
	ev->pfns.count = r->count;
	ev->pfns.pages = r->pages;
	ev->pfns.descs = r->descs;
	r->phase = PH_PAGES;
	return EVENT;
}

static int pages(struct rpl_stream_reader *r, struct rpl_stream_in *in, struct rpl_stream_event *ev)
{
	uint64_t at = r->offset;
	const uint8_t *p;
	uint32_t n;

	if (r->pages_done == r->pages) {
		r->phase = PH_PADDING;
		return AGAIN;
	}
	n = rpl_read_some(r, in, RPL_STREAM_PAGE, r->left, &p);
	if (n == 0)
		return MORE;
	(void)rpl_read_event(r, ev, RPL_EV_PAGES, at);
	ev->bytes = p;
	ev->len = n;
	ev->first = r->pages_done;
	r->pages_done += n / RPL_STREAM_PAGE;
	r->left -= n;
	return EVENT;
}

static int body(struct rpl_stream_reader *r, struct rpl_stream_in *in, struct rpl_stream_event *ev)
{
	uint64_t at = r->offset;
	const uint8_t *p;
	uint32_t n;

	if (r->left == 0) {
		r->phase = PH_PADDING;
		return AGAIN;
	}
	n = rpl_read_some(r, in, r->elem, r->left, &p);
	if (n == 0)
		return MORE;
	(void)rpl_read_event(r, ev, RPL_EV_BODY, at);
	ev->bytes = p;
	ev->len = n;
	ev->first = r->rec.len - r->head - r->left;
	r->left -= n;
	return EVENT;
}

static int padding(struct rpl_stream_reader *r, struct rpl_stream_in *in)
{
	const uint8_t *p = r->pad ? rpl_read_need(r, in, r->pad) : NULL;

	if (r->pad && !p)
		return MORE;
	r->remarks = 0;
	for (uint32_t i = 0; i < r->pad; i++)
		if (p[i])
			r->remarks = RPL_REMARK_PADDING;
	r->phase = PH_RECORD_OVER;
	return AGAIN;
}

static void checkpoint_complete(struct rpl_stream_reader *r)
{
	r->checkpoints++;
	r->good_offset = r->offset;
	r->after_checkpoint_end = true;
	r->layer = RPL_LAYER_LIBXC;
}

static void libxc_record_over(struct rpl_stream_reader *r)
{
	if (r->rec.type == RPL_LIBXC_END) {
		r->libxc_over = true;
		r->layer = r->has_libxl ? RPL_LAYER_LIBXL : RPL_LAYER_LIBXC;
		if (!r->has_libxl)
			r->phase = PH_DONE;
	} else if (r->rec.type == RPL_LIBXC_CHECKPOINT) {
		if (r->has_libxl)
			r->layer = RPL_LAYER_LIBXL;
		else
			checkpoint_complete(r);
	}
}

/* Which layer owns the next byte. */
static int record_over(struct rpl_stream_reader *r, struct rpl_stream_event *ev)
{
	(void)rpl_read_event(r, ev, RPL_EV_RECORD_END, r->offset);
	ev->remarks = r->remarks;
	r->phase = PH_RECORD;
	if (!(r->rec.layer == RPL_LAYER_LIBXL && r->rec.type == RPL_LIBXL_CHECKPOINT_STATE))
		r->after_checkpoint_end = false;
	if (r->rec.layer == RPL_LAYER_LIBXC) {
		libxc_record_over(r);
	} else if (r->rec.type == RPL_LIBXL_LIBXC_CONTEXT) {
		r->seen_image = true;
		r->layer = RPL_LAYER_LIBXC;
		r->phase = PH_IMAGE_HEAD;
	} else if (r->rec.type == RPL_LIBXL_CHECKPOINT_END) {
		checkpoint_complete(r);
	} else if (r->rec.type == RPL_LIBXL_END) {
		r->phase = PH_DONE;
	}
	return EVENT;
}

static int skip(struct rpl_stream_reader *r, struct rpl_stream_in *in)
{
	uint32_t n = in->len < r->left ? (uint32_t)in->len : r->left;

	in->p += n;
	in->len -= n;
	r->offset += n;
	r->left -= n;
	if (r->left)
		return MORE;
	r->pad = 0;
	r->phase = PH_PADDING;
	return AGAIN;
}

static int step(struct rpl_stream_reader *r, struct rpl_stream_in *in, struct rpl_stream_event *ev,
		struct rpl_err *err)
{
	switch ((enum phase)r->phase) {
	case PH_XL_HEAD:
	case PH_XL_CONFIG_LEN:
	case PH_XL_CONFIG:
	case PH_XL_EXTRA:
	case PH_LIBXL_HEAD:
	case PH_IMAGE_HEAD:
	case PH_DOMAIN_HEAD:
		return rpl_read_header(r, in, ev, err);
	case PH_RECORD:
		return record_head(r, in, err);
	case PH_FIXED:
		return fixed(r, in, ev, err);
	case PH_PFNS:
		return pfns(r, in, ev, err);
	case PH_PAGES:
		return pages(r, in, ev);
	case PH_BODY:
		return body(r, in, ev);
	case PH_PADDING:
		return padding(r, in);
	case PH_RECORD_OVER:
		return record_over(r, ev);
	case PH_SKIP:
		return skip(r, in);
	case PH_LEGACY:
		r->phase = PH_LEGACY_DONE;
		return rpl_read_event(r, ev, RPL_EV_LEGACY, r->offset);
	case PH_LEGACY_DONE:
		return in->len == 0 ? MORE
				    : rpl_read_refuse(r, err, RPL_RULE_LEGACY, r->offset, -EBADMSG,
					     "not a v2 stream: convert it with 'replicad stream convert'");
	case PH_DONE:
		return in->len == 0 ? MORE
				    : rpl_read_refuse(r, err, RPL_RULE_TRAILING, r->offset, -EBADMSG,
					     "bytes behind the final END, expected none");
	case PH_REFUSED:
		break;
	}
	return rpl_fail(err, -EBADMSG, "offset %" PRIu64 ": refused before (%s)", r->bad_offset,
			rpl_stream_rule_def(r->rule)->name);
}

int rpl_stream_next(struct rpl_stream_reader *r, struct rpl_stream_in *in, struct rpl_stream_event *ev,
		    struct rpl_err *err)
{
	int ret;

	do
		ret = step(r, in, ev, err);
	while (ret == AGAIN);
	return ret;
}

int rpl_stream_pages_elsewhere(struct rpl_stream_reader *r, uint32_t n, struct rpl_err *err)
{
	if (r->phase != PH_PAGES || r->have || n > r->pages - r->pages_done)
		return rpl_fail(err, -EINVAL, "offset %" PRIu64 ": %u pages from elsewhere, %u of %u are outstanding",
				r->offset, n, r->phase == PH_PAGES ? r->pages - r->pages_done : 0, r->pages);
	r->pages_done += n;
	r->left -= n * RPL_STREAM_PAGE;
	r->offset += (uint64_t)n * RPL_STREAM_PAGE;
	return 0;
}

int rpl_stream_skip_record(struct rpl_stream_reader *r)
{
	uint64_t end = r->rec.offset + RPL_STREAM_RECORD_HEAD + r->rec.len + rpl_stream_padding(r->rec.len);

	if (r->phase != PH_REFUSED || !r->can_skip)
		return -EINVAL;
	r->offset += r->have;
	r->have = 0;
	r->left = (uint32_t)(end - r->offset);
	r->rule = RPL_RULE_NONE;
	r->phase = PH_SKIP;
	return 0;
}

enum rpl_stream_ending rpl_stream_ending(const struct rpl_stream_reader *r)
{
	if (r->phase == PH_REFUSED)
		return RPL_ENDING_REFUSED;
	if (r->phase == PH_DONE)
		return RPL_ENDING_COMPLETE;
	if (r->checkpoints && r->after_checkpoint_end && r->phase == PH_RECORD && r->have == 0)
		return RPL_ENDING_CHECKPOINT;
	return r->checkpoints ? RPL_ENDING_CUT : RPL_ENDING_NOTHING;
}
