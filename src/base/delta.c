/* delta.c - what changed in a page (delta.h)
 *
 * Most of a page is as it was, and often all of it: it is looked at in blocks, with one branch a block, and a block that differs word
 * by word; a run begins and ends at the very byte. Runs with a gap not larger than a run's head are one.
 *
 * Words, and not memcmp(): its wide instructions are a third faster on pages that the cache has (0.30 us a page against 0.41), and
 * cost twice as much where each of them is emulated (9.4 us against 4.4), as on hosts that are guests themselves.
 */
#include <replicad/delta.h>

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <replicad/cur.h>
#include <replicad/memory.h>

enum { BLOCK = 8 }; /* words of 8 bytes */

#define SHORT 16 /* bytes of a run */

_Static_assert(RPL_DELTA_MAX < RPL_PAGE_SIZE, "a delta is shorter than a page");
_Static_assert(RPL_PAGE_SIZE % (BLOCK * sizeof(uint64_t)) == 0, "a page is of whole blocks");
_Static_assert(RPL_PAGE_SIZE <= UINT16_MAX, "offsets in a page have 16 bits");

uint32_t rpl_page_check(const void *page)
{
	return (uint32_t)XXH64(page, RPL_PAGE_SIZE, 0);
}

/* ---- comparing */

static inline uint64_t differing(const uint8_t *a, const uint8_t *b)
{
	uint64_t v, w;

	memcpy(&v, a, sizeof(v));
	memcpy(&w, b, sizeof(w));
	return v ^ w;
}

/* Written out: as a loop a compiler makes wide instructions of it. */
static inline bool block_equal(const uint8_t *a, const uint8_t *b)
{
	_Static_assert(BLOCK == 8, "as many words as are compared here");
	return !(differing(a, b) | differing(a + 8, b + 8) | differing(a + 16, b + 16) | differing(a + 24, b + 24) |
		 differing(a + 32, b + 32) | differing(a + 40, b + 40) | differing(a + 48, b + 48) | differing(a + 56, b + 56));
}

bool rpl_page_equal(const void *a, const void *b)
{
	for (size_t at = 0; at < RPL_PAGE_SIZE; at += BLOCK * sizeof(uint64_t))
		if (!block_equal((const uint8_t *)a + at, (const uint8_t *)b + at))
			return false;
	return true;
}

/* ---- making */

struct maker {
	const uint8_t *page;
	uint8_t *base, *ret;
	size_t len;        /* of what is in `ret` */
	size_t from, to;   /* the run under way; from == to: none */
};

static bool fits(const struct maker *m)
{
	return m->len + RPL_DELTA_RUN_HEAD + (m->to - m->from) <= RPL_DELTA_MAX;
}

/* Most runs are short: a copy of fixed size needs no call, and what it brings too much the next run writes over. */
static void end_run(struct maker *m)
{
	uint16_t offset = (uint16_t)m->from, n = (uint16_t)(m->to - m->from);
	uint8_t *at = m->ret + m->len;

	memcpy(at, &offset, sizeof(offset));
	memcpy(at + sizeof(offset), &n, sizeof(n));
	at += RPL_DELTA_RUN_HEAD;
	if (n <= SHORT && m->from + SHORT <= RPL_PAGE_SIZE && m->len + RPL_DELTA_RUN_HEAD + SHORT <= RPL_DELTA_MAX)
		memcpy(at, m->page + m->from, SHORT);
	else
		memcpy(at, m->page + m->from, n);
	m->len += RPL_DELTA_RUN_HEAD + n;
}

/* Bytes [from, to) differ. False: too much to be worth it. */
static bool add(struct maker *m, size_t from, size_t to)
{
	if (m->from != m->to && from - m->to > RPL_DELTA_RUN_HEAD) {
		end_run(m);
		m->from = from;
	} else if (m->from == m->to) {
		m->from = from;
	}
	m->to = to;
	return fits(m);
}

static bool compare_block(struct maker *m, size_t at)
{
	for (size_t word = at; word < at + BLOCK * sizeof(uint64_t); word += sizeof(uint64_t)) {
		uint64_t x = differing(m->page + word, m->base + word);

		/* little-endian: the lowest byte comes first */
		if (x && !add(m, word + (size_t)__builtin_ctzll(x) / 8, word + sizeof(x) - (size_t)__builtin_clzll(x) / 8))
			return false;
	}
	memcpy(m->base + at, m->page + at, BLOCK * sizeof(uint64_t));
	return true;
}

size_t rpl_delta_make(const void *page, void *base, uint8_t *ret)
{
	struct maker m = { .page = page, .base = base, .ret = ret, .len = RPL_DELTA_HEAD };
	struct rpl_out o = rpl_out(ret, RPL_DELTA_HEAD);

	for (size_t at = 0; at < RPL_PAGE_SIZE; at += BLOCK * sizeof(uint64_t))
		if (!block_equal(m.page + at, m.base + at) && !compare_block(&m, at)) {
			memcpy(base, page, RPL_PAGE_SIZE);
			return RPL_DELTA_TOO_LONG;
		}
	if (m.from == m.to)
		return 0;
	end_run(&m);
	rpl_out_le32(&o, rpl_page_check(page));
	rpl_out_le16(&o, (uint16_t)(m.len - RPL_DELTA_HEAD));
	rpl_assert(!o.bad && m.len <= RPL_DELTA_MAX);
	return m.len;
}

/* ---- storing */

size_t rpl_delta_check(const void *delta, size_t avail, struct rpl_err *err)
{
	struct rpl_cur c = rpl_cur(delta, avail);
	size_t end = 0, runs;

	(void)rpl_cur_le32(&c);
	runs = rpl_cur_le16(&c);
	if (c.bad || runs == 0 || runs > c.left || runs > RPL_DELTA_MAX - RPL_DELTA_HEAD) {
		(void)rpl_fail(err, -EBADMSG, "delta: %zu bytes of runs in %zu bytes, allowed 1 to %d", runs, avail,
			       RPL_DELTA_MAX - RPL_DELTA_HEAD);
		return 0;
	}
	c.left = runs;
	while (c.left) {
		size_t offset = rpl_cur_le16(&c), n = rpl_cur_le16(&c);

		if (c.bad || n == 0 || offset > RPL_PAGE_SIZE || n > RPL_PAGE_SIZE - offset || (end && offset <= end)) {
			(void)rpl_fail(err, -EBADMSG, "delta: a run of %zu bytes at %zu behind one that ends at %zu", n, offset, end);
			return 0;
		}
		if (!rpl_cur_bytes(&c, n)) {
			(void)rpl_fail(err, -EBADMSG, "delta: a run of %zu bytes at %zu, %zu are left", n, offset, c.left);
			return 0;
		}
		end = offset + n;
	}
	return RPL_DELTA_HEAD + runs;
}

int rpl_delta_apply(void *page, const void *delta, size_t avail, struct rpl_err *err)
{
	struct rpl_cur c = rpl_cur(delta, rpl_delta_check(delta, avail, err));
	uint32_t want, got;

	if (c.left == 0)
		return -EBADMSG;
	want = rpl_cur_le32(&c);
	(void)rpl_cur_le16(&c);
	while (c.left) {
		size_t offset = rpl_cur_le16(&c), n = rpl_cur_le16(&c);

		memcpy((uint8_t *)page + offset, rpl_cur_bytes(&c, n), n);
	}
	got = rpl_page_check(page);
	return got == want ? 0 : rpl_fail(err, -EBADMSG, "delta: makes a page whose check is %08" PRIx32 ", meant was %08" PRIx32
					  ": it was made from another page", got, want);
}
