/* When the first copy ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../../src/keeper/rounds.h"

#define ALL UINT64_C(24576)

/* The rounds of a guest that writes `rate` pages in the time in which one page is sent, and some in every round however short. */
static unsigned rounds_of(uint64_t rate_percent, uint64_t always, uint64_t *ret_left)
{
	uint64_t sent = ALL;

	for (unsigned round = 1;; round++) {
		uint64_t dirty = sent * rate_percent / 100 + always;

		if (dirty > ALL)
			dirty = ALL;
		if (rounds_converged(round, sent, dirty)) {
			*ret_left = dirty;
			return round;
		}
		sent = dirty;
	}
}

static void a_guest_at_rest_needs_one(void **state)
{
	uint64_t left;

	(void)state;
	assert_int_equal(rounds_of(0, 10, &left), 1);
	assert_int_equal(left, 10);
}

/* What is left is what it always writes, or little more; and not what fits into a pause, if a round or two make it less. */
static void they_go_on_while_they_help(void **state)
{
	uint64_t left;

	(void)state;
	assert_in_range(rounds_of(5, 100, &left), 2, 4);
	assert_in_range(left, 100, 150);
	assert_in_range(rounds_of(50, 0, &left), 2, ROUNDS_MAX);
	assert_in_range(left, 1, 2 * ROUND_PAGES_FEW);
}

/* Nor for ever: a guest that writes the same pages all the time is armed once that shows. */
static void they_end_when_they_do_not_help(void **state)
{
	uint64_t left;

	(void)state;
	assert_int_equal(rounds_of(0, 1500, &left), 2);
	assert_int_equal(left, 1500);
	assert_true(rounds_converged(2, 400, 300));
	assert_false(rounds_converged(2, 400, 299));
}

/* More than fits into a pause: every round there is, then all the same. */
static void a_guest_that_is_too_quick_is_armed_in_the_end(void **state)
{
	uint64_t left;

	(void)state;
	assert_int_equal(rounds_of(100, 0, &left), ROUNDS_MAX);
	assert_int_equal(left, ALL);
	assert_false(rounds_converged(ROUNDS_MAX - 1, ROUND_PAGES_ENOUGH + 1, ROUND_PAGES_ENOUGH + 1));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_guest_at_rest_needs_one),
		cmocka_unit_test(they_go_on_while_they_help),
		cmocka_unit_test(they_end_when_they_do_not_help),
		cmocka_unit_test(a_guest_that_is_too_quick_is_armed_in_the_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
