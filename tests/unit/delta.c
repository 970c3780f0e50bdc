/* Deltas of pages: what is made of two pages makes the one of the other, once and again, and of no third; what is no delta
 * writes nothing. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <replicad/auto.h>
#include <replicad/delta.h>
#include <replicad/memory.h>

#include "../lib/draw.h"

#define ROUNDS 20000

static void fill(uint8_t *page)
{
	for (size_t i = 0; i < RPL_PAGE_SIZE; i++)
		page[i] = (uint8_t)draw(256);
}

/* Some bytes, near each other or far apart, few or many; some become what they were. */
static void edit(uint8_t *page)
{
	uint64_t edits = draw(3) ? draw(8) : draw(600), longest = 1 + draw(draw(4) ? 16 : 2000);

	for (; edits; edits--) {
		size_t n = 1 + draw(longest), at = draw(RPL_PAGE_SIZE);

		for (size_t i = at; i < at + n && i < RPL_PAGE_SIZE; i++)
			page[i] = draw(4) ? (uint8_t)draw(256) : page[i];
	}
}

static void a_delta_makes_the_page_again_and_again(void **state)
{
	uint8_t was[RPL_PAGE_SIZE], now[RPL_PAGE_SIZE], base[RPL_PAGE_SIZE], delta[RPL_DELTA_MAX];
	unsigned same = 0, too_long = 0, made = 0;
	struct rpl_err err;

	(void)state;
	draw_seed("DELTA_SEED");
	fill(was);
	for (int i = 0; i < ROUNDS; i++) {
		size_t n;

		memcpy(now, was, sizeof(now));
		edit(now);
		memcpy(base, was, sizeof(base));
		n = rpl_delta_make(now, base, delta);
		assert_memory_equal(base, now, sizeof(now));
		assert_int_equal(n == 0, memcmp(was, now, sizeof(now)) == 0);
		same += n == 0;
		too_long += n == RPL_DELTA_TOO_LONG;
		if (n != 0 && n != RPL_DELTA_TOO_LONG) {
			assert_int_equal(rpl_delta_check(delta, n, &err), n);
			for (int again = 0; again < 2; again++) {
				assert_int_equal(rpl_delta_apply(was, delta, n, &err), 0);
				assert_memory_equal(was, now, sizeof(now));
			}
			made++;
		}
		memcpy(was, now, sizeof(was));
	}
	assert_true(made > ROUNDS / 10 && same > 0 && too_long > 0);
}

/* Stored in part, as by a mover that is killed, then as a whole. */
static void a_store_that_was_cut_short_is_done_again(void **state)
{
	uint8_t was[RPL_PAGE_SIZE], now[RPL_PAGE_SIZE], base[RPL_PAGE_SIZE], delta[RPL_DELTA_MAX];
	struct rpl_err err;

	(void)state;
	draw_seed("DELTA_SEED");
	fill(was);
	for (int i = 0; i < ROUNDS / 10; i++) {
		size_t n;

		memcpy(now, was, sizeof(now));
		edit(now);
		memcpy(base, was, sizeof(base));
		n = rpl_delta_make(now, base, delta);
		if (n == 0 || n == RPL_DELTA_TOO_LONG)
			continue;
		for (size_t at = 0; at < RPL_PAGE_SIZE; at++)
			if (draw(2))
				was[at] = now[at];
		assert_int_equal(rpl_delta_apply(was, delta, n, &err), 0);
		assert_memory_equal(was, now, sizeof(now));
	}
}

static void another_base_is_found(void **state)
{
	uint8_t was[RPL_PAGE_SIZE], now[RPL_PAGE_SIZE], base[RPL_PAGE_SIZE], delta[RPL_DELTA_MAX];
	struct rpl_err err;

	(void)state;
	draw_seed("DELTA_SEED");
	fill(was);
	memcpy(now, was, sizeof(now));
	now[100]++;
	memcpy(base, was, sizeof(base));
	assert_true(rpl_delta_make(now, base, delta) == RPL_DELTA_HEAD + RPL_DELTA_RUN_HEAD + 1);
	for (size_t bit = 0; bit < RPL_PAGE_SIZE * 8; bit++) {
		if (bit / 8 == 100)
			continue; /* what is replaced may have been anything */
		memcpy(base, was, sizeof(base));
		base[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(rpl_delta_apply(base, delta, RPL_DELTA_MAX, &err), -EBADMSG);
		assert_non_null(strstr(err.msg, "made from another page"));
	}
}

/* Runs begin and end at the byte, and what lies between two is sent only where a head would cost as much. */
static void runs_are_as_short_as_they_can_be(void **state)
{
	static const struct {
		uint16_t at[3];
		size_t bytes;
	} rows[] = {
		{ { 0, 0, 0 }, 1 * RPL_DELTA_RUN_HEAD + 1 },
		{ { 4095, 4095, 4095 }, 1 * RPL_DELTA_RUN_HEAD + 1 },
		{ { 0, 4095, 2000 }, 3 * (RPL_DELTA_RUN_HEAD + 1) },
		{ { 7, 8, 9 }, RPL_DELTA_RUN_HEAD + 3 },       /* over a word's end */
		{ { 60, 65, 70 }, RPL_DELTA_RUN_HEAD + 11 },   /* gaps of 4, over a block's end */
		{ { 60, 66, 72 }, 3 * (RPL_DELTA_RUN_HEAD + 1) }, /* gaps of 5 */
	};
	uint8_t now[RPL_PAGE_SIZE], base[RPL_PAGE_SIZE], delta[RPL_DELTA_MAX];

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(rows); i++) {
		memset(now, 0, sizeof(now));
		memset(base, 0, sizeof(base));
		for (size_t k = 0; k < 3; k++)
			now[rows[i].at[k]] = 1;
		assert_int_equal(rpl_delta_make(now, base, delta), RPL_DELTA_HEAD + rows[i].bytes);
	}
}

/* The longest that is made, and one byte more. */
static void the_limit_is_exact(void **state)
{
	const size_t most = RPL_DELTA_MAX - RPL_DELTA_HEAD - RPL_DELTA_RUN_HEAD;
	uint8_t now[RPL_PAGE_SIZE], base[RPL_PAGE_SIZE], delta[RPL_DELTA_MAX];

	(void)state;
	memset(now, 1, sizeof(now));
	memset(base, 1, sizeof(base));
	memset(base, 0, most);
	assert_int_equal(rpl_delta_make(now, base, delta), RPL_DELTA_MAX);
	memset(base, 0, most + 1);
	assert_true(rpl_delta_make(now, base, delta) == RPL_DELTA_TOO_LONG);
	assert_memory_equal(base, now, sizeof(now));
}

static size_t put_run(uint8_t *at, uint16_t offset, uint16_t n, size_t bytes)
{
	memcpy(at, &offset, 2);
	memcpy(at + 2, &n, 2);
	memset(at + 4, 0x11, bytes);
	return RPL_DELTA_RUN_HEAD + bytes;
}

static void what_is_no_delta_writes_nothing(void **state)
{
	static const struct {
		uint16_t offset[2], n[2];
		size_t runs, bytes[2];
	} rows[] = {
		{ { 0 }, { 0 }, 1, { 0 } },                   /* an empty run */
		{ { 4096 }, { 1 }, 1, { 1 } },                /* outside */
		{ { 4090 }, { 7 }, 1, { 7 } },                /* over the end */
		{ { 65535 }, { 65535 }, 1, { 8 } },
		{ { 100 }, { 9 }, 1, { 8 } },                 /* longer than what there is */
		{ { 100, 50 }, { 4, 4 }, 2, { 4, 4 } },       /* not in order */
		{ { 100, 103 }, { 4, 4 }, 2, { 4, 4 } },      /* overlap */
		{ { 100, 104 }, { 4, 4 }, 2, { 4, 4 } },      /* touch */
		{ { 100, 100 }, { 4, 4 }, 2, { 4, 4 } },
	};
	uint8_t page[RPL_PAGE_SIZE], before[RPL_PAGE_SIZE], delta[RPL_PAGE_SIZE];
	struct rpl_err err;

	(void)state;
	memset(before, 0x77, sizeof(before));
	for (size_t i = 0; i < RPL_ARRAY_LEN(rows); i++) {
		size_t len = 0;
		uint16_t runs;

		memset(delta, 0, sizeof(delta));
		for (size_t k = 0; k < rows[i].runs; k++)
			len += put_run(delta + RPL_DELTA_HEAD + len, rows[i].offset[k], rows[i].n[k], rows[i].bytes[k]);
		runs = (uint16_t)len;
		memcpy(delta + 4, &runs, sizeof(runs));
		memcpy(page, before, sizeof(page));
		assert_int_equal(rpl_delta_check(delta, sizeof(delta), &err), 0);
		assert_int_equal(rpl_delta_apply(page, delta, sizeof(delta), &err), -EBADMSG);
		assert_memory_equal(page, before, sizeof(page));
	}
	/* every end but the right one */
	memset(page, 0, sizeof(page));
	memcpy(before, page, sizeof(page));
	before[5] = before[500] = 1;
	assert_int_equal(rpl_delta_make(before, page, delta), RPL_DELTA_HEAD + 10);
	for (size_t cut = 0; cut < RPL_DELTA_HEAD + 10; cut++)
		assert_int_equal(rpl_delta_check(delta, cut, &err), 0);
	for (unsigned runs = 0; runs <= UINT16_MAX; runs++) {
		uint16_t v = (uint16_t)runs;

		memcpy(delta + 4, &v, sizeof(v));
		assert_int_equal(rpl_delta_check(delta, RPL_DELTA_HEAD + 10, &err), runs == 10 ? 16 : runs == 5 ? 11 : 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_delta_makes_the_page_again_and_again),
		cmocka_unit_test(a_store_that_was_cut_short_is_done_again),
		cmocka_unit_test(another_base_is_found),
		cmocka_unit_test(runs_are_as_short_as_they_can_be),
		cmocka_unit_test(the_limit_is_exact),
		cmocka_unit_test(what_is_no_delta_writes_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
