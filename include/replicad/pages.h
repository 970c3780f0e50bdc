/* pages.h - how page contents travel in a PAGES frame
 *
 * Body: u32 version (1), u32 count, u64 flags (0), then `count` descriptors u64 {bits 0-51 pfn, bits 60-63 encoding},
 * then the encoded contents in the same order. Bits 52-59 are zero. Encodings: 0 raw (4096
 * bytes), 1 zero (no bytes); 2 delta and 3 LZ4 have their numbers and are refused until a version says otherwise.
 */
#ifndef REPLICAD_PAGES_H
#define REPLICAD_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include <replicad/err.h>
#include <replicad/memory.h>

#define RPL_PAGES_VERSION 1
#define RPL_PAGES_PER_FRAME 128 /* most pages in one PAGES frame; 128 raw pages stay below RPL_FRAME_BODY_MAX */
#define RPL_PAGES_BODY_MAX (16 + RPL_PAGES_PER_FRAME * (8 + (size_t)RPL_PAGE_SIZE))

enum rpl_page_encoding { RPL_PAGE_RAW, RPL_PAGE_ZERO, RPL_PAGE_DELTA, RPL_PAGE_LZ4 };

/* Encode `n` (1..RPL_PAGES_PER_FRAME) pages at `pages`, one after the other, into `body` of RPL_PAGES_BODY_MAX bytes.
 * Returns the body's length; *ret_zero counts the elided pages. */
size_t rpl_pages_encode(const uint64_t *pfns, const void *pages, size_t n, uint8_t *body, uint32_t *ret_zero);

/* The same without copying the pages: the spans of the body, for rpl_link_send(). iov[0] is `head`, filled here; the
 * others point into `pages`. Returns the number of spans, at most RPL_PAGES_SPANS_MAX. */
#define RPL_PAGES_HEAD_MAX (16 + RPL_PAGES_PER_FRAME * 8)
#define RPL_PAGES_SPANS_MAX (1 + (RPL_PAGES_PER_FRAME + 1) / 2)
int rpl_pages_gather(const uint64_t *pfns, const void *pages, size_t n, uint8_t head[RPL_PAGES_HEAD_MAX],
		     struct iovec iov[RPL_PAGES_SPANS_MAX], uint32_t *ret_zero);

/* Is this page all zeroes? */
bool rpl_page_is_zero(const void *page);

/* Decode a body: n pfns, and for each page a pointer into `body` (or to a shared page of zeroes). Checks everything
 * that does not depend on the guest: version, count, encodings, exact length. */
struct rpl_pages {
	uint32_t n;
	uint64_t pfn[RPL_PAGES_PER_FRAME];
	const uint8_t *page[RPL_PAGES_PER_FRAME]; /* 4096 readable bytes each */
	uint32_t zero;                            /* how many of them were elided */
};
int rpl_pages_decode(const uint8_t *body, size_t len, struct rpl_pages *ret, struct rpl_err *err);

extern const uint8_t rpl_zero_page[RPL_PAGE_SIZE];

#endif
