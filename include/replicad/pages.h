/* pages.h - how page contents travel in a PAGES frame
 *
 * Body: u32 version (2), u32 count, u64 flags (0), then `count` descriptors u64 {bits 0-51 pfn, bits 60-63 encoding},
 * then the encoded contents in the same order. Bits 52-59 are zero. Encodings: 0 raw (4096 bytes); 1 zero (no bytes); 2 delta
 * (u32 base, then what changed: delta.h); 4 same (u32 base); 3, LZ4, has its number and is refused until a version says
 * otherwise. A base is the low half of the epoch in which this session sent the page last, other than as the
 * same, or RPL_PAGES_BASE_ROUND; deltas are for checkpoints alone, and the receiver compares.
 */
#ifndef REPLICAD_PAGES_H
#define REPLICAD_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include <replicad/delta.h>
#include <replicad/err.h>
#include <replicad/memory.h>

#define RPL_PAGES_VERSION 2
#define RPL_PAGES_PER_FRAME 128 /* most pages in one PAGES frame; 128 raw pages stay below RPL_FRAME_BODY_MAX */
#define RPL_PAGES_BODY_MAX (16 + RPL_PAGES_PER_FRAME * (8 + (size_t)RPL_PAGE_SIZE))

/* No epoch sent it yet, but bulk rounds did: as the last of them brought it. An epoch with this low half is nobody's base, like one
 * with 0. For a backup that says RPL_FEATURE_ROUND_BASE. */
#define RPL_PAGES_BASE_ROUND UINT32_MAX

/* The number by which an epoch can be named as a base; 0: it cannot. */
static inline uint32_t rpl_pages_base(uint64_t epoch)
{
	return (uint32_t)epoch == RPL_PAGES_BASE_ROUND ? 0 : (uint32_t)epoch;
}

enum rpl_page_encoding { RPL_PAGE_RAW, RPL_PAGE_ZERO, RPL_PAGE_DELTA, RPL_PAGE_LZ4, RPL_PAGE_SAME };

/* A body, page by page: begin with their number (1..RPL_PAGES_PER_FRAME), put each of them. `body` has RPL_PAGES_BODY_MAX bytes. */
struct rpl_pages_out {
	uint8_t *body;
	size_t len;         /* of the body so far */
	uint32_t n, put;
};
void rpl_pages_begin(struct rpl_pages_out *o, uint8_t *body, size_t n);
void rpl_pages_put_raw(struct rpl_pages_out *o, uint64_t pfn, const void *page);
void rpl_pages_put_zero(struct rpl_pages_out *o, uint64_t pfn);
void rpl_pages_put_same(struct rpl_pages_out *o, uint64_t pfn, uint32_t base);
/* Where the next page's delta may be made (RPL_DELTA_MAX bytes); it counts when it is put. */
uint8_t *rpl_pages_delta_room(const struct rpl_pages_out *o);
void rpl_pages_put_delta(struct rpl_pages_out *o, uint64_t pfn, uint32_t base, size_t len);

/* Encode `n` (1..RPL_PAGES_PER_FRAME) pages at `pages`, one after the other, raw or zero, into `body` of RPL_PAGES_BODY_MAX bytes.
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

/* Decode a body: n pfns, and for each page a pointer into `body`. Checks everything that does not depend on the guest or on
 * what was sent before: version, count, encodings, the runs of deltas, exact length. */
struct rpl_pages {
	uint32_t n;
	uint64_t pfn[RPL_PAGES_PER_FRAME];
	uint8_t encoding[RPL_PAGES_PER_FRAME];    /* enum rpl_page_encoding */
	/* raw: 4096 readable bytes; zero: rpl_zero_page; delta: a delta that was checked; same: NULL */
	const uint8_t *page[RPL_PAGES_PER_FRAME];
	uint32_t base[RPL_PAGES_PER_FRAME];       /* delta, same */
	uint16_t len[RPL_PAGES_PER_FRAME];        /* of the delta; else 0 */
	uint32_t zero, delta, same;               /* how many there are */
};
int rpl_pages_decode(const uint8_t *body, size_t len, struct rpl_pages *ret, struct rpl_err *err);

extern const uint8_t rpl_zero_page[RPL_PAGE_SIZE];

#endif
