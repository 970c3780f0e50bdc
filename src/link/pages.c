/* pages.c - page contents in a PAGES body (pages.h) */
#include <replicad/pages.h>

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <replicad/cur.h>

#define HEAD 16
#define DESC 8
#define BASE 4
#define PFN_MASK ((UINT64_C(1) << 52) - 1)
#define ENCODING_SHIFT 60
#define RESERVED_MASK (UINT64_C(0xff) << 52)

const uint8_t rpl_zero_page[RPL_PAGE_SIZE] __attribute__((aligned(RPL_PAGE_SIZE)));

/* Most pages that are not zero show it in their first words; the rest is read in blocks that the compiler turns into
 * wide loads, with one branch a block. */
bool rpl_page_is_zero(const void *page)
{
	enum { BLOCK = 32 }; /* words of 8 bytes */
	const uint8_t *p = page;
	uint64_t w[BLOCK];

	memcpy(w, p, sizeof(uint64_t));
	if (w[0])
		return false;
	for (size_t at = 0; at < RPL_PAGE_SIZE; at += sizeof(w)) {
		uint64_t any = 0;

		memcpy(w, p + at, sizeof(w));
		for (size_t i = 0; i < BLOCK; i++)
			any |= w[i];
		if (any)
			return false;
	}
	return true;
}

static void put_head(struct rpl_out *o, size_t n)
{
	rpl_assert(n >= 1 && n <= RPL_PAGES_PER_FRAME);
	rpl_out_le32(o, RPL_PAGES_VERSION);
	rpl_out_le32(o, (uint32_t)n);
	rpl_out_le64(o, 0);
}

/* ---- page by page */

void rpl_pages_begin(struct rpl_pages_out *o, uint8_t *body, size_t n)
{
	struct rpl_out head = rpl_out(body, HEAD);

	put_head(&head, n);
	*o = (struct rpl_pages_out){ .body = body, .len = HEAD + n * DESC, .n = (uint32_t)n };
}

static void describe(struct rpl_pages_out *o, uint64_t pfn, enum rpl_page_encoding encoding, size_t len)
{
	struct rpl_out desc = rpl_out(o->body + HEAD + (size_t)o->put * DESC, DESC);

	rpl_assert(pfn <= PFN_MASK);
	rpl_assert(o->put < o->n);
	rpl_out_le64(&desc, pfn | (uint64_t)encoding << ENCODING_SHIFT);
	o->put++;
	o->len += len;
	rpl_assert(o->len <= RPL_PAGES_BODY_MAX);
}

static void put_base(struct rpl_pages_out *o, uint32_t base)
{
	memcpy(o->body + o->len, &base, sizeof(base));
}

void rpl_pages_put_raw(struct rpl_pages_out *o, uint64_t pfn, const void *page)
{
	memcpy(o->body + o->len, page, RPL_PAGE_SIZE);
	describe(o, pfn, RPL_PAGE_RAW, RPL_PAGE_SIZE);
}

void rpl_pages_put_zero(struct rpl_pages_out *o, uint64_t pfn)
{
	describe(o, pfn, RPL_PAGE_ZERO, 0);
}

void rpl_pages_put_same(struct rpl_pages_out *o, uint64_t pfn, uint32_t base)
{
	put_base(o, base);
	describe(o, pfn, RPL_PAGE_SAME, BASE);
}

uint8_t *rpl_pages_delta_room(const struct rpl_pages_out *o)
{
	return o->body + o->len + BASE;
}

void rpl_pages_put_delta(struct rpl_pages_out *o, uint64_t pfn, uint32_t base, size_t len)
{
	rpl_assert(len <= RPL_DELTA_MAX);
	put_base(o, base);
	describe(o, pfn, RPL_PAGE_DELTA, BASE + len);
}

/* ---- whole pages */

int rpl_pages_gather(const uint64_t *pfns, const void *pages, size_t n, uint8_t head[RPL_PAGES_HEAD_MAX],
		     struct iovec iov[RPL_PAGES_SPANS_MAX], uint32_t *ret_zero)
{
	struct rpl_out o = rpl_out(head, RPL_PAGES_HEAD_MAX);
	const uint8_t *p = pages;
	uint32_t zero = 0;
	int spans = 1;
	bool open = false; /* the last span ends right before this page */

	put_head(&o, n);
	for (size_t i = 0; i < n; i++, p += RPL_PAGE_SIZE) {
		uint64_t encoding = rpl_page_is_zero(p) ? RPL_PAGE_ZERO : RPL_PAGE_RAW;

		rpl_assert(pfns[i] <= PFN_MASK);
		rpl_out_le64(&o, pfns[i] | encoding << ENCODING_SHIFT);
		if (encoding == RPL_PAGE_ZERO) {
			zero++;
			open = false;
			continue;
		}
		if (open)
			iov[spans - 1].iov_len += RPL_PAGE_SIZE;
		else
			iov[spans++] = (struct iovec){ .iov_base = (void *)(uintptr_t)p, .iov_len = RPL_PAGE_SIZE };
		open = true;
	}
	rpl_assert(!o.bad && spans <= RPL_PAGES_SPANS_MAX);
	iov[0] = (struct iovec){ .iov_base = head, .iov_len = o.len };
	*ret_zero = zero;
	return spans;
}

size_t rpl_pages_encode(const uint64_t *pfns, const void *pages, size_t n, uint8_t *body, uint32_t *ret_zero)
{
	struct iovec iov[RPL_PAGES_SPANS_MAX];
	int spans = rpl_pages_gather(pfns, pages, n, body, iov, ret_zero);
	size_t len = iov[0].iov_len;

	for (int i = 1; i < spans; i++) {
		memcpy(body + len, iov[i].iov_base, iov[i].iov_len);
		len += iov[i].iov_len;
	}
	return len;
}

/* ---- decoding */

static int no_bytes(const struct rpl_pages *p, uint32_t i, const struct rpl_cur *data, unsigned needs, struct rpl_err *err)
{
	return rpl_fail(err, -EBADMSG, "PAGES: page %" PRIu32 " of %" PRIu32 ": %zu bytes left, needs %u", i, p->n, data->left,
			needs);
}

static int decode_delta(uint32_t i, struct rpl_cur *data, struct rpl_pages *ret, struct rpl_err *err)
{
	size_t len = rpl_delta_check(data->p, data->left, err);

	if (len == 0)
		return rpl_prefix(err, "PAGES: page %" PRIu32 " of %" PRIu32, i, ret->n);
	ret->page[i] = rpl_cur_bytes(data, len);
	ret->len[i] = (uint16_t)len;
	ret->delta++;
	return 0;
}

/* One descriptor and what it says about the bytes at `data`. */
static int decode_page(uint64_t desc, uint32_t i, struct rpl_cur *data, struct rpl_pages *ret, struct rpl_err *err)
{
	uint64_t encoding = desc >> ENCODING_SHIFT;

	if (desc & RESERVED_MASK)
		return rpl_fail(err, -EBADMSG, "PAGES: page %" PRIu32 ": reserved bits set in descriptor 0x%" PRIx64, i, desc);
	ret->pfn[i] = desc & PFN_MASK;
	ret->encoding[i] = (uint8_t)encoding;
	ret->page[i] = NULL;
	ret->base[i] = 0;
	ret->len[i] = 0;
	if (encoding == RPL_PAGE_DELTA || encoding == RPL_PAGE_SAME)
		ret->base[i] = rpl_cur_le32(data);
	if (data->bad)
		return no_bytes(ret, i, data, BASE, err);
	switch (encoding) {
	case RPL_PAGE_ZERO:
		ret->page[i] = rpl_zero_page;
		ret->zero++;
		return 0;
	case RPL_PAGE_RAW:
		ret->page[i] = rpl_cur_bytes(data, RPL_PAGE_SIZE);
		return ret->page[i] ? 0 : no_bytes(ret, i, data, RPL_PAGE_SIZE, err);
	case RPL_PAGE_DELTA:
		return decode_delta(i, data, ret, err);
	case RPL_PAGE_SAME:
		ret->same++;
		return 0;
	}
	return rpl_fail(err, -EBADMSG, "PAGES: page %" PRIu32 ": encoding %" PRIu64 " is not in version %d", i, encoding,
			RPL_PAGES_VERSION);
}

int rpl_pages_decode(const uint8_t *body, size_t len, struct rpl_pages *ret, struct rpl_err *err)
{
	struct rpl_cur c = rpl_cur(body, len), data;
	uint32_t version = rpl_cur_le32(&c), n = rpl_cur_le32(&c);
	uint64_t flags = rpl_cur_le64(&c);

	if (c.bad)
		return rpl_fail(err, -EBADMSG, "PAGES: %zu bytes, the head alone is %d", len, HEAD);
	if (version != RPL_PAGES_VERSION)
		return rpl_fail(err, -EBADMSG, "PAGES: encoding version %" PRIu32 ", ours is %d", version, RPL_PAGES_VERSION);
	if (flags)
		return rpl_fail(err, -EBADMSG, "PAGES: flags 0x%" PRIx64 ", none are known", flags);
	if (n == 0 || n > RPL_PAGES_PER_FRAME)
		return rpl_fail(err, -EBADMSG, "PAGES: %" PRIu32 " pages, allowed 1 to %d", n, RPL_PAGES_PER_FRAME);
	if (c.left / DESC < n)
		return rpl_fail(err, -EBADMSG, "PAGES: %zu bytes for %" PRIu32 " descriptors", c.left, n);
	ret->n = n;
	ret->zero = ret->delta = ret->same = 0;
	data = rpl_cur(c.p + (size_t)n * DESC, c.left - (size_t)n * DESC);
	for (uint32_t i = 0; i < n; i++) {
		int r = decode_page(rpl_cur_le64(&c), i, &data, ret, err);

		if (r < 0)
			return r;
	}
	if (data.left)
		return rpl_fail(err, -EBADMSG, "PAGES: %zu bytes after the last of %" PRIu32 " pages", data.left, n);
	return 0;
}
