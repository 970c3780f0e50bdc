/* delta.c - what changed in a page (delta.h)
 *
 * Most of a page is as it was, and often all of it: pieces are compared by memcmp(), which has the widest instructions that the
 * processor knows (an emulated one pays for each instruction). A piece that differs is looked at in blocks, with
 * one branch a block, and a block that differs word by word; a run begins and ends at the very byte. Runs with a gap not larger than a run's head are one.
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

#define PIECE 512 /* bytes */

#define SHORT 16 /* bytes of a run */

_Static_assert(RPL_DELTA_MAX < RPL_PAGE_SIZE, "a delta is shorter than a page");
_Static_assert(RPL_PAGE_SIZE % PIECE == 0 && PIECE % (BLOCK * sizeof(uint64_t)) == 0, "a page is of whole pieces and blocks");
_Static_assert(RPL_PAGE_SIZE <= UINT16_MAX, "offsets in a page have 16 bits");

uint32_t rpl_page_check(const void *page)
{
	return (uint32_t)XXH64(page, RPL_PAGE_SIZE, 0);
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
	uint64_t a[BLOCK], b[BLOCK], any = 0;

	memcpy(a, m->page + at, sizeof(a));
	memcpy(b, m->base + at, sizeof(b));
	for (size_t i = 0; i < BLOCK; i++)
		any |= a[i] ^ b[i];
	if (!any)
		return true;
	memcpy(m->base + at, a, sizeof(a));
	for (size_t i = 0; i < BLOCK; i++) {
		uint64_t x = a[i] ^ b[i];
		size_t word = at + i * sizeof(x);

		/* little-endian: the lowest byte comes first */
		if (x && !add(m, word + (size_t)__builtin_ctzll(x) / 8, word + sizeof(x) - (size_t)__builtin_clzll(x) / 8))
			return false;
	}
	return true;
}

static bool compare_piece(struct maker *m, size_t at)
{
	if (memcmp(m->page + at, m->base + at, PIECE) == 0)
		return true;
	for (size_t end = at + PIECE; at < end; at += BLOCK * sizeof(uint64_t))
		if (!compare_block(m, at))
			return false;
	return true;
}

size_t rpl_delta_make(const void *page, void *base, uint8_t *ret)
{
	struct maker m = { .page = page, .base = base, .ret = ret, .len = RPL_DELTA_HEAD };
	struct rpl_out o = rpl_out(ret, RPL_DELTA_HEAD);

	for (size_t at = 0; at < RPL_PAGE_SIZE; at += PIECE)
		if (!compare_piece(&m, at)) {
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
