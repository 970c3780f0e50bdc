/* How much earlier than its interval ends a guest is asked to stand still. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../../src/keeper/lead.h"

#define MS UINT64_C(1000000)
#define NEAR 8000 /* ns: three quarters to the power of 40 of what it moves, and rounding */

static void the_first_handshake_is_believed(void **state)
{
	uint64_t h = 0;

	(void)state;
	assert_int_equal(lead_learn(&h, 60 * MS, 200 * MS), 140 * MS);
	assert_int_equal(h, 60 * MS);
}

static void one_that_stops_at_once_is_asked_when_the_interval_ends(void **state)
{
	uint64_t h = 0;

	(void)state;
	for (int i = 0; i < 8; i++)
		assert_int_equal(lead_learn(&h, 0, 50 * MS), 50 * MS);
}

static void a_quarter_of_the_interval_is_the_guests(void **state)
{
	uint64_t h = 0;

	(void)state;
	assert_int_equal(lead_learn(&h, 15 * MS, 20 * MS), 5 * MS);
	h = 0;
	assert_int_equal(lead_learn(&h, 300 * MS, 20 * MS), 5 * MS);
}

/* One slow handshake moves it by a quarter; it comes near a new value from either side, and stays. */
static void it_follows_smoothly(void **state)
{
	uint64_t h = 100 * MS;

	(void)state;
	assert_int_equal(lead_learn(&h, 20 * MS, 1000 * MS), 920 * MS);
	for (int i = 0; i < 40; i++)
		(void)lead_learn(&h, 20 * MS, 1000 * MS);
	assert_in_range(h, 20 * MS - NEAR, 20 * MS + NEAR);
	for (int i = 0; i < 40; i++)
		(void)lead_learn(&h, 400 * MS, 1000 * MS);
	assert_in_range(h, 400 * MS - NEAR, 400 * MS + NEAR);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_first_handshake_is_believed),
		cmocka_unit_test(one_that_stops_at_once_is_asked_when_the_interval_ends),
		cmocka_unit_test(a_quarter_of_the_interval_is_the_guests),
		cmocka_unit_test(it_follows_smoothly),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
