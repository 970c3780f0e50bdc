/* Streams of Xen 4.5 and earlier, to v2.
 *
 *   ulong p2m_size; PV: extended info, p2m frame list; chunks {i32 type, ...} up to type 0; tail; HVM: device-model record
 *
 * No magic, no alignment, "ulong" is as wide as the toolstack that wrote it. Everything passes through in pieces: a batch's
 * 1024 descriptors and one page at a time are the most that is held. Records come out in the order in which stock
 * converters write them.
 */
#include <replicad/stream_convert.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <replicad/auto.h>
#include <replicad/cur.h>

#define BATCH_MAX 1024
#define VCPU_ID_MAX 4095
#define PARAMS_MAX 32
#define TOOLSTACK_MAX (64u << 10)
#define STORE_MAX (64u << 10)
#define CONTEXT_MAX RPL_STREAM_BODY_MAX
#define DESC_DROPPED 0xf0000000u
#define QEMU_SIGNATURE "DeviceModelRecord0002"
#define QEMU_SIGNATURE_LEN 21u

enum chunk {
	CHUNK_END = 0, CHUNK_VERIFY = -1, CHUNK_VCPUS = -2, CHUNK_TMEM = -5, CHUNK_TMEM_EXTRA = -6, CHUNK_TSC = -7,
	CHUNK_LAST_CHECKPOINT = -9, CHUNK_COMPRESSED = -12, CHUNK_COMPRESSION = -13, CHUNK_TOOLSTACK = -18,
};

struct state {
	const struct rpl_legacy *l;
	struct rpl_err *err;
	uint64_t offset, at; /* behind what was read; where the last piece began */
	uint64_t ret_dropped;
	unsigned width;      /* bytes of an ulong */
	bool pv, extv;
	uint64_t p2m_size;
	uint32_t guest_width, basic_len;
	uint64_t xsave_len;
	uint64_t vcpus[(VCPU_ID_MAX + 1) / 64];
	uint32_t n_params;
	struct rpl_stream_param params[PARAMS_MAX];
	size_t store_len;
	/* the first bytes were read ahead to guess from */
	uint8_t ahead[16];
	size_t n_ahead, at_ahead;
	uint64_t descs[BATCH_MAX];
	uint8_t page[RPL_STREAM_PAGE];
	char store[STORE_MAX];
	uint8_t toolstack[TOOLSTACK_MAX];
};

/* ---- bytes in */
static int get_some(struct state *s, void *buf, size_t len, size_t *ret_got)
{
	uint8_t *to = buf;
	size_t n = 0, got = 0;
	int r = 1;

	s->at = s->offset;
	while (n < len && s->at_ahead < s->n_ahead)
		to[n++] = s->ahead[s->at_ahead++];
	if (n < len)
		r = s->l->read(s->l->read_ctx, to + n, len - n, &got);
	*ret_got = n + (r == 1 ? len - n : got);
	s->offset += *ret_got;
	return r;
}

static int get(struct state *s, void *buf, size_t len, const char *what)
{
	uint64_t at = s->offset;
	size_t got;
	int r = get_some(s, buf, len, &got);

	if (r == 0)
		return rpl_fail(s->err, -EBADMSG, "offset %" PRIu64 ": legacy: the stream ends inside %s (%zu of %zu bytes)",
				at, what, got, len);
	return r < 0 ? rpl_fail_errno(s->err, -r, "read the legacy stream at byte %" PRIu64, at) : 0;
}

static int get_u32(struct state *s, uint32_t *ret, const char *what)
{
	return get(s, ret, sizeof(*ret), what);
}

static int get_u64(struct state *s, uint64_t *ret, const char *what)
{
	return get(s, ret, sizeof(*ret), what);
}

static int get_ulong(struct state *s, uint64_t *ret, const char *what)
{
	*ret = 0;
	return get(s, ret, s->width, what);
}

static int bad(struct state *s, int code, const char *fmt, ...) RPL_PRINTF(3, 4);
static int bad(struct state *s, int code, const char *fmt, ...)
{
	char what[160];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	return rpl_fail(s->err, code, "offset %" PRIu64 ": legacy: %s", s->at, what);
}

/* ---- bytes out */
static int put_bytes(struct state *s, const void *bytes, size_t len)
{
	int r = len ? s->l->sink->write(s->l->sink->ctx, bytes, len) : 0;

	return r < 0 ? rpl_fail_errno(s->err, -r, "write the converted stream") : 0;
}

static int put(struct state *s, const struct rpl_out *o)
{
	rpl_assert(!o->bad);
	return put_bytes(s, o->p, o->len);
}

static int put_empty(struct state *s, uint32_t type)
{
	uint8_t buf[RPL_STREAM_RECORD_HEAD];
	struct rpl_out o = rpl_out(buf, sizeof(buf));

	rpl_stream_put_record(&o, type, NULL, 0);
	return put(s, &o);
}

/* `len` bytes from input to output, and `padding` zero bytes. */
static int copy(struct state *s, uint64_t len, unsigned padding, const char *what)
{
	static const uint8_t zeros[8];
	int r = 0;

	while (r == 0 && len) {
		size_t n = len < sizeof(s->page) ? (size_t)len : sizeof(s->page);

		r = get(s, s->page, n, what);
		if (r == 0)
			r = put_bytes(s, s->page, n);
		len -= n;
	}
	return r ? r : put_bytes(s, zeros, padding);
}

/* ---- the head */
static int put_headers(struct state *s)
{
	struct rpl_stream_domain_header d = { .type = s->pv ? RPL_DOMAIN_PV : RPL_DOMAIN_HVM, .page_shift = 12,
					      .xen_major = RPL_XEN_MAJOR_CONVERTED, .xen_minor = 1 };
	uint8_t buf[RPL_STREAM_HEADERS_MAX];
	struct rpl_out o = rpl_out(buf, sizeof(buf));
	int r = 0;

	if (s->l->to == RPL_FORMAT_XL) {
		if (!s->l->config || s->l->config_len > RPL_XL_OPTIONAL_MAX - 4)
			return rpl_fail(s->err, -EINVAL, "an xl save file needs a configuration of at most %u bytes",
					RPL_XL_OPTIONAL_MAX - 4);
		rpl_stream_put_xl_header(&o, RPL_XL_FLAG_JSON | RPL_XL_FLAG_STREAM_V2, (uint32_t)s->l->config_len);
		r = put(s, &o);
		if (r == 0)
			r = put_bytes(s, s->l->config, s->l->config_len);
		o = rpl_out(buf, sizeof(buf));
	}
	if (s->l->to != RPL_FORMAT_LIBXC) {
		rpl_stream_put_libxl_header(&o, RPL_LIBXL_OPT_LEGACY);
		rpl_stream_put_record(&o, RPL_LIBXL_LIBXC_CONTEXT, NULL, 0);
		if (r == 0)
			r = put(s, &o);
		o = rpl_out(buf, sizeof(buf));
	}
	if (s->l->sink->image)
		s->l->sink->image(s->l->sink->ctx);
	rpl_stream_put_image_header(&o, s->l->version);
	rpl_stream_put_domain_header(&o, &d);
	if (s->pv)
		rpl_stream_put_pv_info(&o, (uint8_t)s->guest_width, s->guest_width == 8 ? 4 : 3);
	if (s->l->version >= RPL_IMAGE_V3)
		rpl_stream_put_record(&o, RPL_LIBXC_STATIC_DATA_END, NULL, 0);
	return r ? r : put(s, &o);
}

/* From the first 16 bytes: octets 4-7 are zero when a 64-bit toolstack wrote p2m_size; extended info starts with ones. */
static int guess(struct state *s)
{
	static const uint8_t ones[8] = { 255, 255, 255, 255, 255, 255, 255, 255 };
	static const uint8_t zeros[4];
	size_t got;
	int r = get_some(s, s->ahead, sizeof(s->ahead), &got);

	if (r < 0)
		return rpl_fail_errno(s->err, -r, "read the legacy stream");
	s->n_ahead = got;
	s->offset = 0;
	if (got < sizeof(s->ahead))
		return bad(s, -EBADMSG, "%zu bytes are no stream at all", got);
	s->width = s->l->width;
	if (!s->width)
		s->width = memcmp(s->ahead + 4, zeros, 4) ? 4 : 8;
	s->pv = s->l->guest == RPL_LEGACY_PV;
	if (s->l->guest == RPL_LEGACY_GUESS)
		s->pv = memcmp(s->ahead + s->width, ones, s->width) == 0;
	return 0;
}

static int vcpu_block(struct state *s, uint32_t size)
{
	if (size == RPL_PV_BASIC_64)
		s->guest_width = 8;
	else if (size == RPL_PV_BASIC_32)
		s->guest_width = 4;
	else
		return bad(s, -EBADMSG, "vCPU context of %u bytes, expected %u or %u", size, RPL_PV_BASIC_64, RPL_PV_BASIC_32);
	s->basic_len = size;
	return 0;
}

static int block(struct state *s, uint32_t *left)
{
	struct { char id[4]; uint32_t size; } head;
	uint8_t data[16];
	int r = get(s, &head, sizeof(head), "an extended-info block");
	uint32_t keep;

	if (r < 0)
		return r;
	*left -= (uint32_t)sizeof(head);
	if (head.size > *left)
		return bad(s, -EBADMSG, "extended-info block of %u bytes, %u are left", head.size, *left);
	*left -= head.size;
	keep = head.size < sizeof(data) ? head.size : (uint32_t)sizeof(data);
	r = get(s, data, keep, "an extended-info block");
	for (uint32_t skipped = keep; r == 0 && skipped < head.size;) {
		uint32_t n = head.size - skipped < sizeof(s->page) ? head.size - skipped : (uint32_t)sizeof(s->page);

		r = get(s, s->page, n, "an extended-info block");
		skipped += n;
	}
	if (r == 0 && memcmp(head.id, "vcpu", 4) == 0)
		r = vcpu_block(s, head.size);
	if (memcmp(head.id, "extv", 4) == 0)
		s->extv = true;
	if (r == 0 && memcmp(head.id, "xcnt", 4) == 0) {
		uint32_t v;

		if (head.size < sizeof(v))
			return bad(s, -EBADMSG, "block xcnt of %u bytes, expected 4 or more", head.size);
		memcpy(&v, data, sizeof(v));
		if (v < 16 || v > CONTEXT_MAX - 24)
			return bad(s, -EBADMSG, "xsave length %u, expected 16 to %u", v, CONTEXT_MAX - 24);
		s->xsave_len = v;
	}
	return r;
}

static int extended_info(struct state *s)
{
	uint64_t marker;
	uint32_t left;
	int r = get_ulong(s, &marker, "the extended info");

	if (r < 0)
		return r;
	if (marker != (s->width == 8 ? UINT64_MAX : UINT32_MAX))
		return bad(s, -EBADMSG, "no extended info, expected one in a PV stream");
	r = get_u32(s, &left, "the extended info");
	while (r == 0 && left) {
		if (left < 8)
			return bad(s, -EBADMSG, "%u bytes behind the extended info's blocks", left);
		r = block(s, &left);
	}
	if (r == 0 && !s->basic_len)
		r = bad(s, -EBADMSG, "the extended info has no vcpu block, expected one");
	return r;
}

static int p2m_frames(struct state *s)
{
	uint32_t fpp = RPL_STREAM_PAGE / s->guest_width, n = (uint32_t)((s->p2m_size - 1) / fpp) + 1;
	uint8_t head[16];
	struct rpl_out o = rpl_out(head, sizeof(head));
	int r;

	rpl_stream_put_record_head(&o, RPL_LIBXC_X86_PV_P2M_FRAMES, 8 + 8 * n);
	rpl_out_le32(&o, 0);
	rpl_out_le32(&o, (uint32_t)(s->p2m_size - 1));
	r = put(s, &o);
	for (uint32_t i = 0; r == 0 && i < n; i++) {
		uint64_t pfn;

		r = get_ulong(s, &pfn, "the p2m frame list");
		if (r == 0)
			r = put_bytes(s, &pfn, sizeof(pfn));
	}
	return r;
}

/* ---- chunks */
static bool twice(const uint64_t *descs, uint32_t n)
{
	enum { SLOTS = 2 * BATCH_MAX };
	uint64_t slots[SLOTS] = { 0 };

	for (uint32_t i = 0; i < n; i++) {
		uint64_t key = rpl_desc_pfn(descs[i]) + 1;
		size_t at = (key * UINT64_C(0x9e3779b97f4a7c15)) >> 53;

		while (slots[at] && slots[at] != key)
			at = (at + 1) % SLOTS;
		if (slots[at] == key)
			return true;
		slots[at] = key;
	}
	return false;
}

static int batch(struct state *s, uint32_t count)
{
	uint8_t head[RPL_STREAM_RECORD_HEAD + 8 + 8 * BATCH_MAX];
	struct rpl_out o = rpl_out(head, sizeof(head));
	uint32_t kept = 0, pages = 0;
	int r = 0;

	if (count > BATCH_MAX)
		return bad(s, -EBADMSG, "a batch of %u pages, expected %u at most (or a chunk type)", count, BATCH_MAX);
	for (uint32_t i = 0; i < count; i++) {
		uint64_t d;

		r = get_ulong(s, &d, "a batch's descriptors");
		if (r < 0)
			return r;
		if (d == DESC_DROPPED)
			continue;
		if (d > UINT32_MAX || !rpl_page_type_valid((unsigned)(d >> 28)))
			return bad(s, -EBADMSG, "descriptor %u is 0x%" PRIx64 ", expected type 0-4 or 9-15 above a 28-bit pfn",
				   i, d);
		s->descs[kept++] = rpl_desc(d & 0x0fffffff, (unsigned)(d >> 28));
	}
	if (kept == 0)
		return 0;
	if (twice(s->descs, kept))
		return bad(s, -EBADMSG, "a pfn for the second time in a batch of %u", count);
	rpl_stream_put_page_data_head(&o, s->descs, kept, &pages);
	r = put(s, &o);
	return r ? r : copy(s, (uint64_t)pages * RPL_STREAM_PAGE, 0, "a batch's pages");
}

static int vcpu_chunk(struct state *s)
{
	uint32_t max;
	int r = get_u32(s, &max, "the vCPU chunk");

	if (r < 0)
		return r;
	if (max > VCPU_ID_MAX)
		return bad(s, -EBADMSG, "highest vCPU id %u, expected %u at most", max, VCPU_ID_MAX);
	memset(s->vcpus, 0, sizeof(s->vcpus));
	return get(s, s->vcpus, (max / 64 + 1) * sizeof(uint64_t), "the vCPU chunk");
}

static int tsc_chunk(struct state *s)
{
	struct rpl_stream_tsc t = { 0 };
	uint8_t buf[32];
	struct rpl_out o = rpl_out(buf, sizeof(buf));
	int r = get_u32(s, &t.mode, "the TSC chunk");

	if (r == 0)
		r = get_u64(s, &t.nsec, "the TSC chunk");
	if (r == 0)
		r = get_u32(s, &t.khz, "the TSC chunk");
	if (r == 0)
		r = get_u32(s, &t.incarnation, "the TSC chunk");
	rpl_stream_put_tsc(&o, &t);
	return r ? r : put(s, &o);
}

static int param_chunk(struct state *s, uint64_t index)
{
	struct { uint32_t pad; uint64_t value; } __attribute__((packed)) v;
	int r = get(s, &v, sizeof(v), "an HVM parameter chunk");

	if (r < 0)
		return r;
	if (s->n_params == PARAMS_MAX)
		return bad(s, -EBADMSG, "more than %u HVM parameters", PARAMS_MAX);
	s->params[s->n_params++] = (struct rpl_stream_param){ index, v.value };
	return 0;
}

/* physmap/<offset>/{start_addr,size,name}, each key and value with its NUL */
static int store_pair(struct state *s, uint64_t offset, const char *leaf, const char *value)
{
	char pair[400];
	int n = snprintf(pair, sizeof(pair), "physmap/%" PRIx64 "/%s%c%s", offset, leaf, 0, value);

	if (n < 0 || (size_t)n + 1 > sizeof(pair) || s->store_len + (size_t)n + 1 > sizeof(s->store))
		return bad(s, -EBADMSG, "toolstack data makes more than %zu bytes of xenstore data", sizeof(s->store));
	memcpy(s->store + s->store_len, pair, (size_t)n + 1);
	s->store_len += (size_t)n + 1;
	return 0;
}

static int toolstack_entry(struct state *s, struct rpl_cur *c)
{
	uint64_t offset = rpl_cur_le64(c), start = rpl_cur_le64(c), size = rpl_cur_le64(c);
	uint32_t len = rpl_cur_le32(c);
	const char *name = rpl_cur_bytes(c, len);
	char hex[20];
	int r;

	if (!name || len == 0 || len > 256 || memchr(name, 0, len) != name + len - 1)
		return bad(s, -EBADMSG, "toolstack data: a name of %u bytes, expected 1 to 256 with a NUL at the end", len);
	if (s->width == 8)
		(void)rpl_cur_bytes(c, 4); /* 64-bit writers leak the padding of a structure */
	(void)snprintf(hex, sizeof(hex), "%" PRIx64, start);
	r = store_pair(s, offset, "start_addr", hex);
	(void)snprintf(hex, sizeof(hex), "%" PRIx64, size);
	if (r == 0)
		r = store_pair(s, offset, "size", hex);
	return r ? r : store_pair(s, offset, "name", name);
}

static int toolstack_chunk(struct state *s)
{
	uint8_t *data = s->toolstack;
	uint32_t size, version, count;
	struct rpl_cur c;
	int r = get_u32(s, &size, "the toolstack chunk");

	if (r == 0 && size > sizeof(s->toolstack))
		return bad(s, -EBADMSG, "toolstack data of %u bytes, expected %zu at most", size, sizeof(s->toolstack));
	if (r == 0)
		r = get(s, data, size, "the toolstack chunk");
	if (r < 0)
		return r;
	c = rpl_cur(data, size);
	version = rpl_cur_le32(&c);
	count = rpl_cur_le32(&c);
	if (c.bad || version != 1)
		return bad(s, -EBADMSG, "toolstack data of version %u, expected 1", version);
	for (uint32_t i = 0; r == 0 && i < count; i++)
		r = toolstack_entry(s, &c);
	if (r == 0 && (c.bad || c.left))
		r = bad(s, -EBADMSG, "toolstack data of %u bytes does not hold just %u entries", size, count);
	return r;
}

static int flush_params(struct state *s)
{
	uint8_t buf[16 + 16 * PARAMS_MAX];
	struct rpl_out o = rpl_out(buf, sizeof(buf));

	if (s->n_params == 0)
		return 0;
	rpl_stream_put_hvm_params(&o, s->params, s->n_params);
	s->n_params = 0;
	return put(s, &o);
}

static int other_chunk(struct state *s, int32_t type)
{
	static const struct { int8_t chunk; uint8_t param; } params[] = {
		{ -3, 12 }, { -4, 15 }, { -8, 17 }, { -10, 19 }, { -11, 9 }, { -14, 34 }, { -15, 27 }, { -16, 28 },
		{ -17, 29 }, { -19, 32 }, { -20, 33 }, { -21, 36 },
	};

	for (size_t i = 0; i < RPL_ARRAY_LEN(params); i++)
		if (params[i].chunk == type)
			return param_chunk(s, params[i].param);
	switch (type) {
	case CHUNK_VERIFY:
	case CHUNK_LAST_CHECKPOINT:
		return 0;
	case CHUNK_VCPUS:
		return vcpu_chunk(s);
	case CHUNK_TSC:
		return tsc_chunk(s);
	case CHUNK_TOOLSTACK:
		return toolstack_chunk(s);
	case CHUNK_TMEM:
	case CHUNK_TMEM_EXTRA:
		return bad(s, -EOPNOTSUPP, "transcendent memory (chunk %d), which no current Xen has", type);
	case CHUNK_COMPRESSED:
	case CHUNK_COMPRESSION:
		return bad(s, -EOPNOTSUPP, "compressed pages (chunk %d): save without Remus compression", type);
	default:
		return bad(s, -EBADMSG, "chunk type %d is not defined", type);
	}
}

static int chunks(struct state *s)
{
	for (;;) {
		uint32_t v;
		int32_t type;
		int r = get_u32(s, &v, "a chunk's type");

		if (r < 0)
			return r;
		type = (int32_t)v;
		if (type == CHUNK_END)
			return flush_params(s);
		r = type > 0 ? batch(s, (uint32_t)type) : other_chunk(s, type);
		if (r < 0)
			return r;
	}
}

/* ---- tails */
static int vcpu_record(struct state *s, uint32_t type, uint32_t vcpu, uint64_t len, const char *what)
{
	uint8_t head[16];
	struct rpl_out o = rpl_out(head, sizeof(head));
	int r;

	rpl_stream_put_record_head(&o, type, (uint32_t)(8 + len));
	rpl_out_le32(&o, vcpu);
	rpl_out_le32(&o, 0);
	r = put(s, &o);
	return r ? r : copy(s, len, rpl_stream_padding((uint32_t)len), what);
}

static int vcpu_tail(struct state *s, uint32_t vcpu)
{
	int r = vcpu_record(s, RPL_LIBXC_X86_PV_VCPU_BASIC, vcpu, s->basic_len, "a vCPU context");
	uint64_t mask, size;

	if (r == 0 && s->extv)
		r = vcpu_record(s, RPL_LIBXC_X86_PV_VCPU_EXTENDED, vcpu, 128, "an extended vCPU context");
	if (r < 0 || !s->xsave_len)
		return r;
	r = get_u64(s, &mask, "an xsave header");
	if (r == 0)
		r = get_u64(s, &size, "an xsave header");
	if (r == 0 && size != s->xsave_len - 16)
		return bad(s, -EBADMSG, "xsave area of %" PRIu64 " bytes, expected %" PRIu64, size, s->xsave_len - 16);
	return r ? r : vcpu_record(s, RPL_LIBXC_X86_PV_VCPU_XSAVE, vcpu, size, "an xsave area");
}

static int pv_tail(struct state *s)
{
	uint8_t head[RPL_STREAM_RECORD_HEAD];
	struct rpl_out o = rpl_out(head, sizeof(head));
	uint32_t unmapped;
	uint64_t pfn;
	int r = get_u32(s, &unmapped, "the unmapped pfns");

	for (uint32_t i = 0; r == 0 && i < unmapped; i++)
		r = get_ulong(s, &pfn, "the unmapped pfns");
	for (uint32_t v = 0; r == 0 && v <= VCPU_ID_MAX; v++)
		if (s->vcpus[v / 64] >> (v % 64) & 1)
			r = vcpu_tail(s, v);
	rpl_stream_put_record_head(&o, RPL_LIBXC_SHARED_INFO, RPL_STREAM_PAGE);
	if (r == 0)
		r = put(s, &o);
	return r ? r : copy(s, RPL_STREAM_PAGE, 0, "the shared info page");
}

static int hvm_tail(struct state *s)
{
	static const uint8_t order[3] = { RPL_HVM_PARAM_IOREQ_PFN, RPL_HVM_PARAM_BUFIOREQ_PFN, RPL_HVM_PARAM_STORE_PFN };
	uint8_t head[RPL_STREAM_RECORD_HEAD];
	struct rpl_out o = rpl_out(head, sizeof(head));
	uint32_t len;
	int r = 0;

	for (size_t i = 0; r == 0 && i < RPL_ARRAY_LEN(order); i++) {
		s->params[i].index = order[i];
		r = get_u64(s, &s->params[i].value, "the HVM pfns");
	}
	s->n_params = RPL_ARRAY_LEN(order);
	if (r == 0)
		r = flush_params(s);
	if (r == 0)
		r = get_u32(s, &len, "the HVM context");
	if (r < 0)
		return r;
	if (len == 0 || len > CONTEXT_MAX)
		return bad(s, -EBADMSG, "HVM context of %u bytes, expected 1 to %u", len, CONTEXT_MAX);
	rpl_stream_put_record_head(&o, RPL_LIBXC_HVM_CONTEXT, len);
	r = put(s, &o);
	return r ? r : copy(s, len, rpl_stream_padding(len), "the HVM context");
}

/* ---- the device model, and the end */
static int put_store(struct state *s)
{
	uint8_t head[16];
	struct rpl_out o = rpl_out(head, sizeof(head));
	static const uint8_t zeros[8];
	int r;

	if (!s->store_len || s->l->to == RPL_FORMAT_LIBXC)
		return 0;
	rpl_stream_put_emulator_head(&o, RPL_LIBXL_EMULATOR_XENSTORE_DATA, RPL_EMULATOR_UNKNOWN, (uint32_t)s->store_len);
	r = put(s, &o);
	if (r == 0)
		r = put_bytes(s, s->store, s->store_len);
	return r ? r : put_bytes(s, zeros, rpl_stream_padding((uint32_t)s->store_len));
}

static int drop_device_model(struct state *s, uint64_t len)
{
	int r = 0;

	s->ret_dropped++;
	while (r == 0 && len) {
		size_t n = len < sizeof(s->page) ? (size_t)len : sizeof(s->page);

		r = get(s, s->page, n, "the device-model record");
		len -= n;
	}
	return r;
}

/* With the libxl layer it becomes a record. Without, it is left out: nothing may stand behind a libxc image's END (stock
 * converters put it there all the same). */
static int device_model(struct state *s)
{
	uint8_t sig[QEMU_SIGNATURE_LEN], head[16];
	struct rpl_out o = rpl_out(head, sizeof(head));
	uint32_t len;
	size_t got;
	int r = get_some(s, sig, sizeof(sig), &got);

	if (r < 0)
		return rpl_fail_errno(s->err, -r, "read the legacy stream at byte %" PRIu64, s->offset);
	if (got == 0)
		return 0;
	if (got < sizeof(sig) || memcmp(sig, QEMU_SIGNATURE, sizeof(sig)))
		return bad(s, -EOPNOTSUPP, "%zu bytes behind the tail, expected a %s or nothing", got, QEMU_SIGNATURE);
	r = get_u32(s, &len, "the device-model record");
	if (r == 0 && (len == 0 || len > RPL_STREAM_BODY_MAX - 8))
		return bad(s, -EBADMSG, "device-model record of %u bytes, expected 1 to %u", len, RPL_STREAM_BODY_MAX - 8);
	if (r < 0)
		return r;
	if (s->l->to == RPL_FORMAT_LIBXC)
		return drop_device_model(s, len);
	rpl_stream_put_emulator_head(&o, RPL_LIBXL_EMULATOR_CONTEXT, RPL_EMULATOR_UNKNOWN, len);
	r = put(s, &o);
	return r ? r : copy(s, len, rpl_stream_padding(len), "the device-model record");
}

static int nothing_left(struct state *s)
{
	uint8_t byte;
	size_t got;
	int r = get_some(s, &byte, 1, &got);

	if (r < 0)
		return rpl_fail_errno(s->err, -r, "read the legacy stream at byte %" PRIu64, s->offset);
	return got ? bad(s, -EBADMSG, "bytes behind the end; later checkpoints of a legacy Remus stream are not supported") : 0;
}

static int put_digest(struct state *s)
{
	uint8_t buf[RPL_STREAM_RECORD_HEAD + 32];
	struct rpl_out o = rpl_out(buf, sizeof(buf));
	uint64_t bytes, low, high;

	if (!s->l->sink->digest)
		return 0;
	s->l->sink->digest(s->l->sink->ctx, &bytes, &low, &high);
	rpl_stream_put_digest(&o, bytes, low, high);
	return put(s, &o);
}

static int tail_and_end(struct state *s)
{
	int r = s->pv ? pv_tail(s) : hvm_tail(s);

	if (r == 0)
		r = put_digest(s);
	if (r == 0)
		r = put_empty(s, RPL_LIBXC_END);
	if (r == 0)
		r = put_store(s);
	if (r == 0 && !s->pv)
		r = device_model(s);
	if (r == 0 && s->l->to != RPL_FORMAT_LIBXC)
		r = put_empty(s, RPL_LIBXL_END);
	return r ? r : nothing_left(s);
}

static int convert(struct state *s)
{
	int r = guess(s);

	if (r < 0)
		return r;
	r = get_ulong(s, &s->p2m_size, "the size of the p2m");
	if (r == 0 && (s->p2m_size == 0 || s->p2m_size > UINT32_MAX))
		return bad(s, -EBADMSG, "p2m size 0x%" PRIx64 ", expected 1 to 0x%x; this may be no Xen stream at all",
			   s->p2m_size, UINT32_MAX);
	if (r == 0 && s->pv)
		r = extended_info(s);
	if (r == 0)
		r = put_headers(s);
	if (r == 0 && s->pv)
		r = p2m_frames(s);
	if (r == 0)
		r = chunks(s);
	return r ? r : tail_and_end(s);
}

int rpl_legacy_convert(const struct rpl_legacy *l, uint64_t *ret_dropped_emulator, struct rpl_err *err)
{
	RPL_AUTO_FREE struct state *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return rpl_fail(err, -ENOMEM, "legacy: no memory for %zu bytes", sizeof(*s));
	s->l = l;
	s->err = err;
	s->vcpus[0] = 1;
	r = convert(s);
	if (r == 0)
		*ret_dropped_emulator = s->ret_dropped + (s->store_len && l->to == RPL_FORMAT_LIBXC);
	return r;
}
