/* The incremental reader: a machine of a dozen phases, each of which needs a small number of bytes at once.
 *
 *   xl head → xl config → xl extra ─┐
 *                                   ├→ libxl head → record ⇄ image head → domain head → record
 *   record = head, fixed part, then pfns and pages, or elements, then padding
 *
 * need() hands out exactly n bytes: from the span if it has them, else from the reader's own buffer, which only ever
 * holds a field, an element or a page that a span boundary cut. So the fast path (whole pages, whole descriptors) never
 * copies. Which layer owns the next record is decided in one place, record_over().
 */
#include <replicad/stream_read.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <replicad/cur.h>

enum phase {
	PH_XL_HEAD, PH_XL_CONFIG_LEN, PH_XL_CONFIG, PH_XL_EXTRA,
	PH_LIBXL_HEAD, PH_IMAGE_HEAD, PH_DOMAIN_HEAD,
	PH_RECORD, PH_FIXED, PH_PFNS, PH_PAGES, PH_BODY, PH_PADDING, PH_RECORD_OVER,
	PH_SKIP, PH_LEGACY, PH_LEGACY_DONE, PH_DONE, PH_REFUSED,
};

#define MORE 0   /* the span is used up */
#define EVENT 1
#define AGAIN 2  /* the phase changed without an event */

enum rpl_stream_format rpl_stream_detect(const void *first, size_t len)
{
	const uint8_t *p = first;
	struct rpl_cur c = rpl_cur(first, len);
	uint64_t be;

	if (len < RPL_STREAM_DETECT)
		return RPL_FORMAT_UNKNOWN;
	be = rpl_cur_be64(&c);
	if (be == RPL_IMAGE_MARKER)
		return RPL_FORMAT_LIBXC;
	if (be == RPL_LIBXL_IDENT)
		return RPL_FORMAT_LIBXL;
	return memcmp(p, RPL_XL_MAGIC, RPL_STREAM_DETECT) ? RPL_FORMAT_LEGACY : RPL_FORMAT_XL;
}

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

/* Refuse the stream because of the bytes at `offset`. */
static int refuse(struct rpl_stream_reader *r, struct rpl_err *err, enum rpl_stream_rule rule, uint64_t offset,
		  int code, const char *fmt, ...) RPL_PRINTF(6, 7);
static int refuse(struct rpl_stream_reader *r, struct rpl_err *err, enum rpl_stream_rule rule, uint64_t offset,
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

/* The next n bytes (n <= sizeof(r->buf)) in one piece, or NULL when the span ended before. */
static const uint8_t *need(struct rpl_stream_reader *r, struct rpl_stream_in *in, uint32_t n)
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

/* Up to `most` bytes in whole elements, at least one; 0 when the span holds less. */
static uint32_t need_some(struct rpl_stream_reader *r, struct rpl_stream_in *in, uint32_t elem, uint32_t most,
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
	*ret = need(r, in, elem);
	return *ret ? elem : 0;
}

static int event(struct rpl_stream_reader *r, struct rpl_stream_event *ev, enum rpl_stream_event_kind kind,
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

/* ---- headers */
static int xl_head(struct rpl_stream_reader *r, struct rpl_stream_in *in, struct rpl_err *err)
{
	uint64_t at = r->offset;
	const uint8_t *p = need(r, in, RPL_XL_HEADER);
	struct rpl_cur c;
	uint32_t order;

	if (!p)
		return MORE;
	if (memcmp(p, RPL_XL_MAGIC, RPL_XL_MAGIC_LEN))
		return refuse(r, err, RPL_RULE_XL_MAGIC, at, -EBADMSG, "the 32 bytes of magic differ");
	c = rpl_cur(p + RPL_XL_MAGIC_LEN, RPL_XL_HEADER - RPL_XL_MAGIC_LEN);
	order = rpl_cur_le32(&c);
	r->xl_flags = rpl_cur_le32(&c);
	r->xl_optional_flags = rpl_cur_le32(&c);
	r->left = rpl_cur_le32(&c);
	if (order != RPL_XL_BYTEORDER)
		return refuse(r, err, RPL_RULE_XL_BYTEORDER, at + 32, -EBADMSG,
			      "byte order mark 0x%08x, expected 0x%08x", order, RPL_XL_BYTEORDER);
	if (r->xl_flags & ~(RPL_XL_FLAG_JSON | RPL_XL_FLAG_STREAM_V2))
		return refuse(r, err, RPL_RULE_XL_FLAGS, at + 36, -EBADMSG, "mandatory flags 0x%x, known are 0x3",
			      r->xl_flags);
	if (r->left > RPL_XL_OPTIONAL_MAX || (r->left > 0 && r->left < 4))
		return refuse(r, err, RPL_RULE_XL_OPTIONAL, at + 44, -EMSGSIZE,
			      "%u bytes of optional data, expected 0 or 4 to %u", r->left, RPL_XL_OPTIONAL_MAX);
	r->phase = PH_XL_CONFIG_LEN;
	return AGAIN;
}

static int xl_config_len(struct rpl_stream_reader *r, struct rpl_stream_in *in, struct rpl_stream_event *ev,
			 struct rpl_err *err)
{
	uint64_t at = r->offset;
	uint32_t optional = r->left;
	struct rpl_cur c;

	if (optional) {
		const uint8_t *p = need(r, in, 4);

		if (!p)
			return MORE;
		c = rpl_cur(p, 4);
		r->xl_config = r->xl_config_left = rpl_cur_le32(&c);
		r->left -= 4;
	}
	if (r->xl_config > r->left)
		return refuse(r, err, RPL_RULE_XL_OPTIONAL, at, -EBADMSG,
			      "configuration of %u bytes in %u bytes of optional data", r->xl_config, r->left);
	(void)event(r, ev, RPL_EV_XL_HEADER, at - RPL_XL_HEADER);
	ev->xl.mandatory_flags = r->xl_flags;
	ev->xl.optional_flags = r->xl_optional_flags;
	ev->xl.optional_len = optional;
	ev->xl.config_len = r->xl_config;
	if (r->xl_optional_flags)
		ev->remarks = RPL_REMARK_RESERVED;
	r->phase = PH_XL_CONFIG;
	return EVENT;
}

static int xl_config(struct rpl_stream_reader *r, struct rpl_stream_in *in, struct rpl_stream_event *ev)
{
	uint64_t at = r->offset;
	const uint8_t *p;
	uint32_t n;

	if (r->xl_config_left == 0) {
		r->phase = PH_XL_EXTRA;
		return AGAIN;
	}
	n = need_some(r, in, 1, r->xl_config_left, &p);
	if (n == 0)
		return MORE;
	(void)event(r, ev, RPL_EV_XL_CONFIG, at);
	ev->bytes = p;
	ev->len = n;
	ev->first = r->xl_config - r->xl_config_left;
	r->xl_config_left -= n;
	r->left -= n;
	return EVENT;
}

static int xl_extra(struct rpl_stream_reader *r, struct rpl_stream_in *in, struct rpl_stream_event *ev)
{
	uint64_t at = r->offset;
	const uint8_t *p;
	uint32_t n;

	if (r->left == 0) {
		bool v2 = r->xl_flags & RPL_XL_FLAG_STREAM_V2;

		r->has_libxl = v2;
		r->layer = v2 ? RPL_LAYER_LIBXL : RPL_LAYER_LEGACY;
		r->phase = v2 ? PH_LIBXL_HEAD : PH_LEGACY;
		return AGAIN;
	}
	n = need_some(r, in, 1, r->left, &p);
	if (n == 0)
		return MORE;
	(void)event(r, ev, RPL_EV_XL_EXTRA, at);
	ev->bytes = p;
	ev->len = n;
	r->left -= n;
	return EVENT;
}

static int libxl_head(struct rpl_stream_reader *r, struct rpl_stream_in *in, struct rpl_stream_event *ev,
		      struct rpl_err *err)
{
	uint64_t at = r->offset, ident;
	const uint8_t *p = need(r, in, RPL_LIBXL_HEADER);
	struct rpl_cur c;
	uint32_t version;

	if (!p)
		return MORE;
	c = rpl_cur(p, RPL_LIBXL_HEADER);
	ident = rpl_cur_be64(&c);
	version = rpl_cur_be32(&c);
	(void)event(r, ev, RPL_EV_LIBXL_HEADER, at);
	ev->libxl_options = rpl_cur_be32(&c);
	if (ident != RPL_LIBXL_IDENT)
		return refuse(r, err, RPL_RULE_LIBXL_IDENT, at, -EBADMSG,
			      "ident 0x%016" PRIx64 ", expected 0x%016" PRIx64, ident, RPL_LIBXL_IDENT);
	if (version != RPL_LIBXL_VERSION)
		return refuse(r, err, RPL_RULE_LIBXL_VERSION, at + 8, -EBADMSG, "version %u, expected %u", version,
			      RPL_LIBXL_VERSION);
	if (ev->libxl_options & RPL_LIBXL_OPT_BIG_ENDIAN)
		return refuse(r, err, RPL_RULE_LIBXL_ENDIAN, at + 12, -EBADMSG,
			      "big-endian (options 0x%x), only little-endian streams exist", ev->libxl_options);
	if (ev->libxl_options & ~(RPL_LIBXL_OPT_BIG_ENDIAN | RPL_LIBXL_OPT_LEGACY))
		ev->remarks = RPL_REMARK_RESERVED;
	r->phase = PH_RECORD;
	return EVENT;
}

static int image_head(struct rpl_stream_reader *r, struct rpl_stream_in *in, struct rpl_stream_event *ev,
		      struct rpl_err *err)
{
	uint64_t at = r->offset, marker;
	const uint8_t *p = need(r, in, RPL_IMAGE_HEADER);
	uint32_t id, reserved;
	uint16_t options;
	struct rpl_cur c;

	if (!p)
		return MORE;
	c = rpl_cur(p, RPL_IMAGE_HEADER);
	marker = rpl_cur_be64(&c);
	id = rpl_cur_be32(&c);
	(void)event(r, ev, RPL_EV_IMAGE_HEADER, at);
	ev->image_version = rpl_cur_be32(&c);
	options = rpl_cur_be16(&c);
	reserved = rpl_cur_be16(&c);
	reserved |= rpl_cur_be32(&c);
	if (marker != RPL_IMAGE_MARKER)
		return refuse(r, err, RPL_RULE_IMAGE_MARKER, at, -EBADMSG,
			      "marker 0x%016" PRIx64 ", expected all ones", marker);
	if (id != RPL_IMAGE_ID)
		return refuse(r, err, RPL_RULE_IMAGE_ID, at + 8, -EBADMSG, "id 0x%08x, expected 0x%08x", id,
			      RPL_IMAGE_ID);
	if (ev->image_version != RPL_IMAGE_V2 && ev->image_version != RPL_IMAGE_V3)
		return refuse(r, err, RPL_RULE_IMAGE_VERSION, at + 12, -EBADMSG, "version %u, expected 2 or 3",
			      ev->image_version);
	if (options & RPL_IMAGE_OPT_BIG_ENDIAN)
		return refuse(r, err, RPL_RULE_IMAGE_ENDIAN, at + 16, -EBADMSG,
			      "big-endian (options 0x%x), only little-endian images exist", options);
	if (options || reserved)
		ev->remarks = RPL_REMARK_RESERVED;
	r->phase = PH_DOMAIN_HEAD;
	return EVENT;
}

static int domain_head(struct rpl_stream_reader *r, struct rpl_stream_in *in, struct rpl_stream_event *ev,
		       struct rpl_err *err)
{
	uint64_t at = r->offset;
	const uint8_t *p = need(r, in, RPL_DOMAIN_HEADER);
	struct rpl_cur c;

	if (!p)
		return MORE;
	c = rpl_cur(p, RPL_DOMAIN_HEADER);
	(void)event(r, ev, RPL_EV_DOMAIN_HEADER, at);
	ev->domain.type = rpl_cur_le32(&c);
	ev->domain.page_shift = rpl_cur_le16(&c);
	if (rpl_cur_le16(&c))
		ev->remarks = RPL_REMARK_RESERVED;
	ev->domain.xen_major = rpl_cur_le32(&c);
	ev->domain.xen_minor = rpl_cur_le32(&c);
	if (ev->domain.type != RPL_DOMAIN_PV && ev->domain.type != RPL_DOMAIN_HVM)
		return refuse(r, err, RPL_RULE_DOMAIN_TYPE, at, -EBADMSG, "domain type %u, expected 1 (PV) or 2 (HVM)",
			      ev->domain.type);
	if (ev->domain.page_shift != RPL_STREAM_PAGE_SHIFT)
		return refuse(r, err, RPL_RULE_DOMAIN_SHIFT, at + 4, -EBADMSG, "page shift %u, expected %u",
			      ev->domain.page_shift, RPL_STREAM_PAGE_SHIFT);
	r->phase = PH_RECORD;
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
		return refuse(r, err, rule, r->rec.offset, -EBADMSG, "mandatory type 0x%08x is not defined",
			      r->rec.type);
	r->head = 0;
	r->elem = 1;
	r->remarks = RPL_REMARK_UNKNOWN;
	return AGAIN;
}

static int record_head(struct rpl_stream_reader *r, struct rpl_stream_in *in, struct rpl_err *err)
{
	uint64_t at = r->offset;
	const uint8_t *p = need(r, in, RPL_STREAM_RECORD_HEAD);
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
		(void)refuse(r, err, RPL_RULE_RECORD_LIMIT, at + 4, -EMSGSIZE, "body of %u bytes, the limit is %u",
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
		return refuse(r, err, rule, at + 4, -EBADMSG,
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
	(void)refuse(r, err, RPL_RULE_LIBXL_LAYER, r->rec.offset, -EBADMSG, "%s", what);
	r->can_skip = false; /* who owns the bytes behind it is anybody's guess */
	return -EBADMSG;
}

static int page_data_fixed(struct rpl_stream_reader *r, struct rpl_stream_event *ev, struct rpl_cur *c,
			   struct rpl_err *err)
{
	ev->pfns.count = rpl_cur_le32(c);
	if (rpl_cur_le32(c))
		r->remarks |= RPL_REMARK_RESERVED;
	if (ev->pfns.count == 0 || ev->pfns.count > r->left / 8)
		return refuse(r, err, RPL_RULE_PAGE_COUNT, r->rec.offset + 8, -EBADMSG,
			      "%u descriptors, %u bytes have room for 1 to %u", ev->pfns.count, r->left, r->left / 8);
	if (ev->pfns.count > r->descs_max)
		return refuse(r, err, RPL_RULE_PAGE_LIMIT, r->rec.offset + 8, -EMSGSIZE,
			      "%u descriptors, this reader takes at most %u", ev->pfns.count, r->descs_max);
	r->count = ev->pfns.count;
	r->got = r->pages = r->pages_done = 0;
	return EVENT;
}

static int vcpu_fixed(struct rpl_stream_reader *r, struct rpl_stream_event *ev, struct rpl_cur *c)
{
	ev->vcpu = rpl_cur_le32(c);
	if (rpl_cur_le32(c))
		r->remarks |= RPL_REMARK_RESERVED;
	return EVENT;
}

static int params_fixed(struct rpl_stream_reader *r, struct rpl_stream_event *ev, struct rpl_cur *c,
			struct rpl_err *err)
{
	ev->n_params = rpl_cur_le32(c);
	if (rpl_cur_le32(c))
		r->remarks |= RPL_REMARK_RESERVED;
	if (ev->n_params != r->left / 16)
		return refuse(r, err, RPL_RULE_HVM_PARAM_COUNT, r->rec.offset + 8, -EBADMSG,
			      "count %u, but %u bytes hold %u", ev->n_params, r->left, r->left / 16);
	return EVENT;
}

static void tsc_fixed(struct rpl_stream_reader *r, struct rpl_stream_event *ev, struct rpl_cur *c)
{
	ev->tsc.mode = rpl_cur_le32(c);
	ev->tsc.khz = rpl_cur_le32(c);
	ev->tsc.nsec = rpl_cur_le64(c);
	ev->tsc.incarnation = rpl_cur_le32(c);
	if (rpl_cur_le32(c))
		r->remarks |= RPL_REMARK_RESERVED;
}

static void pv_info_fixed(struct rpl_stream_reader *r, struct rpl_stream_event *ev, struct rpl_cur *c)
{
	ev->pv_info.width = rpl_cur_u8(c);
	ev->pv_info.levels = rpl_cur_u8(c);
	rpl_cur_zero(c, 6);
	if (c->bad)
		r->remarks |= RPL_REMARK_RESERVED;
}

static void digest_fixed(struct rpl_stream_reader *r, struct rpl_stream_event *ev, struct rpl_cur *c)
{
	ev->digest.algorithm = rpl_cur_le32(c);
	if (rpl_cur_le32(c))
		r->remarks |= RPL_REMARK_RESERVED;
	ev->digest.bytes = rpl_cur_le64(c);
	ev->digest.low = rpl_cur_le64(c);
	ev->digest.high = rpl_cur_le64(c);
}

static int libxc_fixed(struct rpl_stream_reader *r, struct rpl_stream_event *ev, struct rpl_cur *c,
		       struct rpl_err *err)
{
	switch ((int)r->rec.type) {
	case RPL_LIBXC_PAGE_DATA:
		return page_data_fixed(r, ev, c, err);
	case RPL_LIBXC_X86_PV_INFO:
		pv_info_fixed(r, ev, c);
		break;
	case RPL_LIBXC_X86_PV_P2M_FRAMES:
		ev->p2m.first = rpl_cur_le32(c);
		ev->p2m.last = rpl_cur_le32(c);
		break;
	case RPL_LIBXC_X86_PV_VCPU_BASIC:
	case RPL_LIBXC_X86_PV_VCPU_EXTENDED:
	case RPL_LIBXC_X86_PV_VCPU_XSAVE:
	case RPL_LIBXC_X86_PV_VCPU_MSRS:
		return vcpu_fixed(r, ev, c);
	case RPL_LIBXC_X86_TSC_INFO:
		tsc_fixed(r, ev, c);
		break;
	case RPL_LIBXC_HVM_PARAMS:
		return params_fixed(r, ev, c, err);
	case RPL_LIBXC_RPL_DIGEST:
		digest_fixed(r, ev, c);
		break;
	default:
		break;
	}
	return EVENT;
}

static int libxl_fixed(struct rpl_stream_reader *r, struct rpl_stream_event *ev, struct rpl_cur *c)
{
	if (r->rec.type == RPL_LIBXL_EMULATOR_CONTEXT || r->rec.type == RPL_LIBXL_EMULATOR_XENSTORE_DATA) {
		ev->emulator.id = rpl_cur_le32(c);
		ev->emulator.index = rpl_cur_le32(c);
	}
	if (r->rec.type == RPL_LIBXL_CHECKPOINT_STATE)
		ev->colo_state = rpl_cur_le32(c);
	return EVENT;
}

static int fixed(struct rpl_stream_reader *r, struct rpl_stream_in *in, struct rpl_stream_event *ev,
		 struct rpl_err *err)
{
	const uint8_t *p = r->head ? need(r, in, r->head) : r->buf;
	struct rpl_cur c;
	int ret;

	if (!p)
		return MORE;
	ret = check_layer(r, err);
	if (ret < 0)
		return ret;
	r->left -= r->head;
	c = rpl_cur(p, r->head);
	(void)event(r, ev, RPL_EV_RECORD, r->rec.offset);
	ev->bytes = p;
	ev->len = r->head;
	ret = r->rec.layer == RPL_LAYER_LIBXL ? libxl_fixed(r, ev, &c) : libxc_fixed(r, ev, &c, err);
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
		uint32_t n = need_some(r, in, 8, (r->count - r->got) * 8, &p) / 8, good;

		if (n == 0)
			return MORE;
		r->left -= n * 8;
		good = take_descs(r, p, n);
		if (good < n)
			return refuse(r, err, RPL_RULE_PAGE_TYPE, at + (uint64_t)good * 8, -EBADMSG,
				      "descriptor %u: page type %u of pfn 0x%" PRIx64 ", expected 0-4 or 9-15",
				      r->got + good, rpl_desc_type(r->descs[r->got + good]),
				      rpl_desc_pfn(r->descs[r->got + good]));
		r->got += n;
	}
	if (r->left != (uint64_t)r->pages * RPL_STREAM_PAGE)
		return refuse(r, err, RPL_RULE_PAGE_LENGTH, r->rec.offset + 4, -EBADMSG,
			      "%u bytes of pages, expected %" PRIu64 " for %u of %u descriptors", r->left,
			      (uint64_t)r->pages * RPL_STREAM_PAGE, r->pages, r->count);
	(void)event(r, ev, RPL_EV_PFNS, r->rec.offset + RPL_STREAM_RECORD_HEAD + 8);
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
	n = need_some(r, in, RPL_STREAM_PAGE, r->left, &p);
	if (n == 0)
		return MORE;
	(void)event(r, ev, RPL_EV_PAGES, at);
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
	n = need_some(r, in, r->elem, r->left, &p);
	if (n == 0)
		return MORE;
	(void)event(r, ev, RPL_EV_BODY, at);
	ev->bytes = p;
	ev->len = n;
	ev->first = r->rec.len - r->head - r->left;
	r->left -= n;
	return EVENT;
}

static int padding(struct rpl_stream_reader *r, struct rpl_stream_in *in)
{
	const uint8_t *p = r->pad ? need(r, in, r->pad) : NULL;

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
	(void)event(r, ev, RPL_EV_RECORD_END, r->offset);
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
		return xl_head(r, in, err);
	case PH_XL_CONFIG_LEN:
		return xl_config_len(r, in, ev, err);
	case PH_XL_CONFIG:
		return xl_config(r, in, ev);
	case PH_XL_EXTRA:
		return xl_extra(r, in, ev);
	case PH_LIBXL_HEAD:
		return libxl_head(r, in, ev, err);
	case PH_IMAGE_HEAD:
		return image_head(r, in, ev, err);
	case PH_DOMAIN_HEAD:
		return domain_head(r, in, ev, err);
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
		return event(r, ev, RPL_EV_LEGACY, r->offset);
	case PH_LEGACY_DONE:
		return in->len == 0 ? MORE
				    : refuse(r, err, RPL_RULE_LEGACY, r->offset, -EBADMSG,
					     "not a v2 stream: convert it with 'replicad stream convert'");
	case PH_DONE:
		return in->len == 0 ? MORE
				    : refuse(r, err, RPL_RULE_TRAILING, r->offset, -EBADMSG,
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

static int producer_text(struct rpl_cur *c, size_t len, char *ret)
{
	const char *p = rpl_cur_bytes(c, len);

	if (!p || memchr(p, 0, len))
		return -EBADMSG;
	memcpy(ret, p, len);
	ret[len] = '\0';
	return 0;
}

int rpl_stream_get_producer(const void *data, size_t len, struct rpl_stream_producer *ret, struct rpl_err *err)
{
	struct rpl_cur c = rpl_cur(data, len);
	struct rpl_stream_producer p = { 0 };
	uint16_t name_len, machine_len;
	uint32_t version = rpl_cur_le32(&c);

	p.kind = rpl_cur_le32(&c);
	p.n_ranges = rpl_cur_le16(&c);
	name_len = rpl_cur_le16(&c);
	machine_len = rpl_cur_le16(&c);
	rpl_cur_zero(&c, 2);
	if (c.bad || version != RPL_PRODUCER_VERSION)
		return rpl_fail(err, -EBADMSG, "RPL_PRODUCER: version %u in %zu bytes, expected version %u in 16 or more",
				version, len, RPL_PRODUCER_VERSION);
	if (p.n_ranges > RPL_PRODUCER_RANGES_MAX || name_len > RPL_PRODUCER_TEXT_MAX ||
	    machine_len > RPL_PRODUCER_TEXT_MAX || len != 16u + 24u * p.n_ranges + name_len + machine_len)
		return rpl_fail(err, -EBADMSG, "RPL_PRODUCER: %u ranges and texts of %u and %u bytes do not make %zu bytes",
				p.n_ranges, name_len, machine_len, len);
	for (unsigned i = 0; i < p.n_ranges; i++) {
		p.ranges[i].pfn = rpl_cur_le64(&c);
		p.ranges[i].pages = rpl_cur_le64(&c);
		p.ranges[i].offset = rpl_cur_le64(&c);
	}
	if (producer_text(&c, name_len, p.name) < 0 || producer_text(&c, machine_len, p.machine) < 0)
		return rpl_fail(err, -EBADMSG, "RPL_PRODUCER: a text of %u or %u bytes holds a NUL", name_len,
				machine_len);
	*ret = p;
	return 0;
}
