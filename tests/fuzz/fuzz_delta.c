/* fuzz_delta.c - deltas from a peer, and deltas of any two pages
 *
 * The input is taken for a delta as it is, and once more with the one thing right that bytes cannot guess, its check; and for
 * two pages. Whatever comes: a refused delta leaves the page alone, an accepted one writes its runs and nothing
 * else, and again changes nothing; what is made of two pages is accepted, and makes the one of the other.
 */
#include <errno.h>
#include <string.h>

#include <replicad/delta.h>
#include <replicad/memory.h>

#include "fuzz.h"

static uint8_t base[RPL_PAGE_SIZE];

/* What the runs say, by a second hand: 1 at each byte that is written. Only of a delta that was accepted. */
static void write_runs(const uint8_t *delta, size_t len, uint8_t *page, uint8_t *written)
{
	for (size_t at = RPL_DELTA_HEAD; at < len;) {
		size_t offset = delta[at] | (size_t)delta[at + 1] << 8, n = delta[at + 2] | (size_t)delta[at + 3] << 8;

		rpl_assert(n > 0 && offset + n <= RPL_PAGE_SIZE && at + RPL_DELTA_RUN_HEAD + n <= len);
		for (size_t i = 0; i < n; i++) {
			rpl_assert(!written[offset + i]);
			written[offset + i] = 1;
			page[offset + i] = delta[at + RPL_DELTA_RUN_HEAD + i];
		}
		at += RPL_DELTA_RUN_HEAD + n;
	}
}

static void take(const uint8_t *data, size_t avail)
{
	uint8_t page[RPL_PAGE_SIZE], expected[RPL_PAGE_SIZE], written[RPL_PAGE_SIZE] = { 0 }, delta[RPL_DELTA_MAX];
	size_t len;
	uint32_t check;
	struct rpl_err err;

	memcpy(page, base, sizeof(page));
	len = rpl_delta_check(data, avail, &err);
	if (len == 0) {
		rpl_assert(rpl_delta_apply(page, data, avail, &err) == -EBADMSG);
		rpl_assert(memcmp(page, base, sizeof(page)) == 0);
		return;
	}
	rpl_assert(len <= avail && len <= RPL_DELTA_MAX);
	memcpy(delta, data, len);
	memcpy(expected, base, sizeof(expected));
	write_runs(delta, len, expected, written);
	check = rpl_page_check(expected);
	rpl_assert((rpl_delta_apply(page, delta, len, &err) == 0) == (memcmp(delta, &check, sizeof(check)) == 0));
	memcpy(delta, &check, sizeof(check));
	memcpy(page, base, sizeof(page));
	for (int again = 0; again < 2; again++) {
		rpl_assert(rpl_delta_apply(page, delta, len, &err) == 0);
		rpl_assert(memcmp(page, expected, sizeof(page)) == 0);
	}
}

/* The second half of the input takes the place of the first. */
static void make(const uint8_t *data, size_t len)
{
	uint8_t was[RPL_PAGE_SIZE], now[RPL_PAGE_SIZE], last[RPL_PAGE_SIZE], delta[RPL_DELTA_MAX];
	size_t half = len / 2 < RPL_PAGE_SIZE ? len / 2 : RPL_PAGE_SIZE, n;
	struct rpl_err err;

	memcpy(was, base, sizeof(was));
	memcpy(now, base, sizeof(now));
	memcpy(was, data, half);
	memcpy(now, data + half, half);
	memcpy(last, was, sizeof(last));
	n = rpl_delta_make(now, last, delta);
	rpl_assert(memcmp(last, now, sizeof(now)) == 0);
	rpl_assert((n == 0) == (memcmp(was, now, sizeof(now)) == 0));
	if (n == 0 || n == RPL_DELTA_TOO_LONG)
		return;
	rpl_assert(n <= RPL_DELTA_MAX && rpl_delta_check(delta, n, &err) == n && rpl_delta_check(delta, n - 1, &err) == 0);
	rpl_assert(rpl_delta_apply(was, delta, n, &err) == 0 && memcmp(was, now, sizeof(now)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	if (!base[0])
		for (size_t i = 0; i < RPL_PAGE_SIZE; i++)
			base[i] = (uint8_t)(i * 7 + (i >> 8) + 1);
	take(data, len);
	make(data, len);
	return 0;
}
