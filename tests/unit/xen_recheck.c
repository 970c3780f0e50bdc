/* When pages are protected again: guests of several habits, with a model of Xen's bitmap and of the faults that they take. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "../../src/guest/xen_recheck.h"

#define PAGES 20000u
#define SAME_END 5000u /* from here on those that a streaming writer writes */

struct model {
	struct xen_recheck r;
	bool marked[PAGES], last[PAGES]; /* Xen's bitmap; the set that was read before */
	unsigned next;                   /* page that a streaming writer writes next */
	/* of the last epoch */
	uint64_t wrote, set;
	bool cleaned, after; /* read by CLEAN; CLEAN afterwards */
	/* in all */
	uint64_t faults, sent, epochs, cleans;
};

static struct model *begin(void **state)
{
	struct model *m = *state;

	memset(m, 0, sizeof(*m));
	return m;
}

/* The pages from `first` to `end`, the at-th of them first, in a circle. */
static void write_pages(struct model *m, unsigned first, unsigned end, unsigned at, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		unsigned page = first + (at + i) % (end - first);

		m->faults += !m->marked[page];
		m->marked[page] = true;
	}
	m->wrote += n;
}

static void read_set(struct model *m, enum xen_recheck_set of)
{
	uint64_t again = 0;

	m->set = 0;
	for (unsigned i = 0; i < PAGES; i++) {
		m->set += m->marked[i];
		again += m->marked[i] && m->last[i];
	}
	memcpy(m->last, m->marked, sizeof(m->last));
	m->cleaned = xen_recheck_cleans(&m->r, of);
	m->after = false;
	if (of == XEN_SET_ROUND) {
		assert_false(m->cleaned); /* it is looked at first */
		m->cleaned = xen_recheck_cleans_round(&m->r, m->set, PAGES);
	} else {
		m->after = xen_recheck_seen(&m->r, of, m->set, again);
	}
	assert_false(m->after && of != XEN_SET_EPOCH);
	assert_false(m->cleaned && m->after);
	if (m->cleaned || m->after)
		memset(m->marked, 0, sizeof(m->marked));
	m->cleans += m->cleaned || m->after;
	m->sent += m->set;
	m->epochs++;
}

/* An epoch with so many of the pages that are always written, and so many others. */
static void epoch(struct model *m, unsigned same, unsigned others)
{
	m->wrote = 0;
	write_pages(m, 0, SAME_END, 0, same);
	write_pages(m, SAME_END, PAGES, m->next, others);
	m->next += others;
	read_set(m, XEN_SET_EPOCH);
}

/* A round of the first copy begins with what was written meanwhile. */
static void round_with(struct model *m, unsigned same, unsigned others)
{
	write_pages(m, 0, SAME_END, 0, same);
	write_pages(m, SAME_END, PAGES, m->next, others);
	m->next += others;
	read_set(m, XEN_SET_ROUND);
}

static void test_live(void **state)
{
	struct model *m = begin(state);

	for (unsigned i = 0; i < 10; i++) {
		write_pages(m, 0, SAME_END, 0, 400);
		read_set(m, XEN_SET_LIVE);
		assert_true(m->cleaned);
	}
	/* what the last round had says nothing of an epoch */
	for (unsigned i = 0; i < 2; i++) {
		epoch(m, 400, 0);
		assert_true(m->cleaned);
	}
	epoch(m, 400, 0);
	assert_false(m->cleaned);
	/* it runs again: anew */
	read_set(m, XEN_SET_LIVE);
	assert_true(m->cleaned);
	epoch(m, 400, 0);
	assert_true(m->cleaned);
}

/* A guest that runs takes no faults for rounds, nor when it is asked to suspend for the first time; then its marks are too many. */
static void test_rounds(void **state)
{
	struct model *m = begin(state);
	uint64_t faults;

	round_with(m, 400, 100); /* since writes are logged; the first round begins: all memory */
	round_with(m, 400, 1000);
	round_with(m, 400, 40);
	assert_int_equal(m->set, 1540);
	faults = m->faults;
	epoch(m, 400, 0);
	assert_int_equal(m->cleans, 0);
	assert_int_equal(m->set, 1540);
	epoch(m, 400, 0);
	assert_true(m->cleaned);
	assert_int_equal(m->faults, faults);
	for (unsigned i = 0; i < XEN_RECHECK_RUN - 1; i++) {
		epoch(m, 400, 0);
		assert_int_equal(m->set, 400);
		assert_false(m->cleaned || m->after);
	}
	assert_int_equal(m->faults, faults + 400);
}

/* Rounds that began with many pages are read by CLEAN, so that the next one begins with fewer; epochs then begin with learning. */
static void test_long_rounds(void **state)
{
	struct model *m = begin(state);

	for (unsigned i = 0; i < 6; i++) {
		round_with(m, 400, XEN_RECHECK_ROUND);
		assert_true(m->cleaned);
		assert_int_equal(m->set, 400 + XEN_RECHECK_ROUND);
	}
	epoch(m, 400, 1500);
	assert_true(m->cleaned);
	epoch(m, 400, 1500);
	assert_true(m->cleaned);
	assert_int_equal(m->set, 1900);
}

/* What is few for a large guest is a good part of a small one. */
static void test_small_guest(void **state)
{
	struct xen_recheck r = { 0 };

	(void)state;
	assert_false(xen_recheck_cleans_round(&r, XEN_RECHECK_ROUND, UINT64_C(1) << 40));
	assert_true(xen_recheck_cleans_round(&r, XEN_RECHECK_ROUND + 1, UINT64_C(1) << 40));
	assert_false(xen_recheck_cleans_round(&r, 250, 1000));
	assert_true(xen_recheck_cleans_round(&r, 251, 1000));
}

/* Short at first, and more and more. */
static void test_rounds_grow(void **state)
{
	struct model *m = begin(state);

	round_with(m, 400, 1500);
	round_with(m, 400, 1500);
	assert_int_equal(m->set, 3400);
	assert_false(m->cleaned);
	round_with(m, 400, 1500);
	assert_true(m->cleaned);
	round_with(m, 400, 0);
	assert_false(m->cleaned);
	assert_int_equal(m->set, 400);
}

/* After epochs that kept their marks a round keeps them, and the next epoch, too. */
static void test_rounds_again(void **state)
{
	struct model *m = begin(state);

	for (unsigned i = 0; i < 10; i++)
		epoch(m, 400, 0);
	assert_false(m->cleaned);
	for (unsigned i = 0; i < 3; i++) {
		round_with(m, 400, 0);
		assert_false(m->cleaned);
	}
	epoch(m, 400, 0);
	assert_false(m->cleaned);
	epoch(m, 400, 0);
	assert_true(m->cleaned);
}

/* The same pages and nothing else: faults only once in so many epochs. */
static void test_same(void **state)
{
	struct model *m = begin(state);

	for (unsigned i = 0; i < 2 + 10 * XEN_RECHECK_RUN; i++) {
		epoch(m, 400, 0);
		assert_int_equal(m->set, 400);
	}
	assert_int_equal(m->cleans, 2 + 10);
	assert_int_equal(m->faults, 12 * 400);
}

/* Nine tenths are the same: what the lab's guests do. */
static void test_mostly_same(void **state)
{
	struct model *m = begin(state);

	for (unsigned i = 0; i < 200; i++)
		epoch(m, 420, 48);
	assert_in_range(m->cleans, 25, 45);
	assert_true(m->faults < 200 * 468 * 2 / 5);  /* with a CLEAN each time it would be all of it */
	assert_true(m->sent < 200 * 468 * 4 / 3);
}

/* Nearly all are: a look is less than a fault, so one CLEAN in 18 epochs (10 pages more each time: 10 * 18^2 / 2 is 4 * 410). */
static void test_nearly_same(void **state)
{
	struct model *m = begin(state);

	for (unsigned i = 0; i < 2 + 10 * 19; i++)
		epoch(m, 400, 10);
	assert_in_range(m->cleans, 2 + 9, 2 + 11);
}

/* Other pages each time, a streaming writer: no set is ever larger than what the epoch wrote. */
static void test_streaming(void **state)
{
	struct model *m = begin(state);

	for (unsigned i = 0; i < 100; i++) {
		epoch(m, 400, 1500);
		assert_int_equal(m->set, 1900);
	}
	assert_int_equal(m->cleans, 100);
}

/* It begins to stream: one epoch with the pages of two, no more. */
static void test_begins_to_stream(void **state)
{
	struct model *m = begin(state);
	unsigned larger = 0;

	for (unsigned i = 0; i < 10; i++)
		epoch(m, 400, 10);
	for (unsigned i = 0; i < 100; i++) {
		epoch(m, 400, 1500);
		assert_true(m->set <= 400 + 2 * 1500 + 100);
		larger += m->set > 1900 + 100;
	}
	assert_int_equal(larger, 1);
}

/* It writes much, and then little: that is seen after XEN_RECHECK_RUN epochs at the latest. */
static void test_quiet_again(void **state)
{
	struct model *m = begin(state);

	for (unsigned i = 0; i < 10; i++)
		epoch(m, 4000, 0);
	for (unsigned i = 0; i < XEN_RECHECK_RUN + 1; i++)
		epoch(m, 200, 0);
	for (unsigned i = 0; i < 50; i++) {
		epoch(m, 200, 0);
		assert_int_equal(m->set, 200);
	}
}

/* A few pages are nothing to react to. */
static void test_idle(void **state)
{
	struct model *m = begin(state);

	for (unsigned i = 0; i < 100; i++)
		epoch(m, 8, 2);
	assert_true(m->cleans < 40);
	begin(state);
	for (unsigned i = 0; i < 100; i++)
		epoch(m, 0, 0);
	assert_true(m->cleans < 10);
}

/* Pages were gained: a CLEAN for that makes a new base. */
static void test_cleaned_for_another_reason(void **state)
{
	struct model *m = begin(state);

	for (unsigned i = 0; i < 10; i++)
		epoch(m, 400, 0);
	memset(m->marked, 0, sizeof(m->marked));
	xen_recheck_cleaned(&m->r);
	epoch(m, 1000, 0);
	assert_false(m->cleaned);
	assert_false(m->after);
	epoch(m, 1000, 100);
	assert_false(m->after);
}

/* Whatever it does: an epoch's set has what it wrote; what was too much since a CLEAN is bounded; so is the time to the next. */
static void test_any(void **state)
{
	struct timespec now;
	unsigned seed, same = 0, others = 0, since = 0;
	uint64_t base = 0, extra = 0;
	struct model *m = begin(state);

	(void)clock_gettime(CLOCK_REALTIME, &now);
	seed = getenv("RPL_TEST_SEED") ? (unsigned)strtoul(getenv("RPL_TEST_SEED"), NULL, 10) : (unsigned)now.tv_nsec;
	print_message("RPL_TEST_SEED=%u\n", seed);
	srandom(seed);
	for (unsigned i = 0; i < 3000; i++) {
		if (random() % 20 == 0) {
			same = (unsigned)random() % 3000;
			others = (unsigned)random() % (random() % 2 ? 30 : 3000);
		}
		epoch(m, same, others);
		assert_true(m->set >= m->wrote);
		if (since == 0)
			base = m->set > XEN_RECHECK_FEW ? m->set : XEN_RECHECK_FEW;
		else if (m->set > base)
			extra += m->set - base;
		since++;
		assert_true(since <= XEN_RECHECK_RUN);
		assert_true((extra < base * XEN_RECHECK_PRICE && m->set <= base * XEN_RECHECK_GROWN / 100) || m->cleaned || m->after);
		if (m->cleaned || m->after)
			since = 0, extra = 0;
	}
}

static int setup(void **state)
{
	*state = test_malloc(sizeof(struct model));
	return 0;
}

static int teardown(void **state)
{
	test_free(*state);
	return 0;
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_live),
		cmocka_unit_test(test_rounds),
		cmocka_unit_test(test_long_rounds),
		cmocka_unit_test(test_small_guest),
		cmocka_unit_test(test_rounds_grow),
		cmocka_unit_test(test_rounds_again),
		cmocka_unit_test(test_same),
		cmocka_unit_test(test_mostly_same),
		cmocka_unit_test(test_nearly_same),
		cmocka_unit_test(test_streaming),
		cmocka_unit_test(test_begins_to_stream),
		cmocka_unit_test(test_quiet_again),
		cmocka_unit_test(test_idle),
		cmocka_unit_test(test_cleaned_for_another_reason),
		cmocka_unit_test(test_any),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
