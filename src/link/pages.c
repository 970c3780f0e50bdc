/* pages.c - page contents in a PAGES body (pages.h) */
#include <replicad/pages.h>

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <replicad/cur.h>

#define HEAD 16
#define DESC 8
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

int rpl_pages_gather(const uint64_t *pfns, const void *pages, size_t n, uint8_t head[RPL_PAGES_HEAD_MAX],
		     struct iovec iov[RPL_PAGES_SPANS_MAX], uint32_t *ret_zero)
{
	struct rpl_out o = rpl_out(head, RPL_PAGES_HEAD_MAX);
	const uint8_t *p = pages;
	uint32_t zero = 0;
	int spans = 1;
	bool open = false; /* the last span ends right before this page */

	rpl_assert(n >= 1 && n <= RPL_PAGES_PER_FRAME);
	rpl_out_le32(&o, RPL_PAGES_VERSION);
	rpl_out_le32(&o, (uint32_t)n);
	rpl_out_le64(&o, 0);
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

/* One descriptor and what it says about the bytes at `data`. */
static int decode_page(uint64_t desc, uint32_t i, struct rpl_cur *data, struct rpl_pages *ret, struct rpl_err *err)
{
	uint64_t encoding = desc >> ENCODING_SHIFT;

	if (desc & RESERVED_MASK)
		return rpl_fail(err, -EBADMSG, "PAGES: page %" PRIu32 ": reserved bits set in descriptor 0x%" PRIx64, i, desc);
	ret->pfn[i] = desc & PFN_MASK;
	switch (encoding) {
	case RPL_PAGE_ZERO:
		ret->page[i] = rpl_zero_page;
		ret->zero++;
		return 0;
	case RPL_PAGE_RAW:
		ret->page[i] = rpl_cur_bytes(data, RPL_PAGE_SIZE);
		if (!ret->page[i])
			return rpl_fail(err, -EBADMSG, "PAGES: page %" PRIu32 " of %" PRIu32 ": %zu bytes left, needs %u", i,
					ret->n, data->left, RPL_PAGE_SIZE);
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
	ret->zero = 0;
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
