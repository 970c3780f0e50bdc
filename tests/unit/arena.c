/* The primary's ring of staged pages, against a model that remembers every byte. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "src/engine/arena.h"

#define BYTES RPL_MOVER_ARENA_MIN
#define SLOTS (BYTES / RPL_PAGE_SIZE)

static void write_epoch(struct arena *a, const struct arena_epoch *e)
{
	for (uint64_t done = 0; done < e->need;) {
		uint64_t *pfn;
		size_t n;
		uint8_t *p = arena_run(a, e->start + done, e->need - done, &pfn, &n);

		assert_true(n >= 1 && n <= ARENA_RUN_MAX && n <= e->need - done);
		for (size_t i = 0; i < n; i++) {
			pfn[i] = e->epoch * 1000 + done + i;
			memset(p + i * RPL_PAGE_SIZE, (int)(e->epoch + done + i), RPL_PAGE_SIZE);
		}
		done += n;
	}
}

static void check_epoch(struct arena *a, const struct arena_epoch *e)
{
	for (uint64_t i = 0; i < e->need; i++) {
		uint64_t *pfn;
		size_t n;
		const uint8_t *p = arena_run(a, e->start + i, 1, &pfn, &n);

		assert_int_equal(n, 1);
		assert_int_equal(*pfn, e->epoch * 1000 + i);
		assert_int_equal(p[0], (uint8_t)(e->epoch + i));
		assert_int_equal(p[RPL_PAGE_SIZE - 1], (uint8_t)(e->epoch + i));
	}
}

static void what_is_queued_stays_until_released(void **state)
{
	uint64_t next = 1, oldest = 1;
	struct rpl_err err;
	struct arena a;

	(void)state;
	assert_int_equal(arena_init(&a, BYTES, &err), 0);
	srand(7);
	for (int i = 0; i < 3000; i++) {
		uint64_t pages = (uint64_t)rand() % 300, state_len = 1 + (uint64_t)rand() % 20000;
		uint64_t need = arena_slots_for(pages, state_len), free_before = arena_free(&a);
		struct arena_epoch *e = arena_push(&a, next, pages, state_len, false);

		assert_int_equal(e != NULL, need <= free_before && next - oldest < RPL_MOVER_UNCOMMITTED_MAX);
		if (e) {
			assert_int_equal(arena_free(&a), free_before - need);
			write_epoch(&a, e);
			next++;
		}
		if (!e || rand() % 3 == 0) {
			oldest += 1 + (uint64_t)rand() % 3;
			if (oldest > next)
				oldest = next;
			arena_release(&a, oldest - 1);
		}
		assert_null(arena_find(&a, oldest - 1));
		assert_null(arena_find(&a, next));
		for (uint64_t k = oldest; k < next; k++)
			check_epoch(&a, arena_find(&a, k));
	}
	assert_true(next > 500);
	arena_release(&a, UINT64_MAX);
	assert_int_equal(arena_free(&a), SLOTS);
	arena_fini(&a);
}

/* An epoch that is too large takes no slots here, but counts at the backup. */
static void direct_epochs_take_a_place_only(void **state)
{
	struct rpl_err err;
	struct arena a;

	(void)state;
	assert_int_equal(arena_init(&a, BYTES, &err), 0);
	assert_non_null(arena_push(&a, 5, 100, 1, false));
	assert_false(arena_has_direct(&a));
	assert_null(arena_push(&a, 6, SLOTS, 1, false));
	assert_non_null(arena_push(&a, 6, SLOTS * 4, 1, true));
	assert_non_null(arena_push(&a, 7, 10, 1, false));
	assert_true(arena_has_direct(&a));
	assert_int_equal(arena_free(&a), SLOTS - 101 - 11);
	assert_int_equal(arena_in_flight(&a), 101 + SLOTS * 4 + 1 + 11);
	arena_release(&a, 6);
	assert_false(arena_has_direct(&a));
	assert_int_equal(arena_free(&a), SLOTS - 11);
	arena_clear(&a);
	assert_int_equal(arena_free(&a), SLOTS);
	assert_null(arena_find(&a, 7));
	arena_fini(&a);
}

static void too_small_is_refused(void **state)
{
	struct rpl_err err;
	struct arena a;

	(void)state;
	assert_int_equal(arena_init(&a, BYTES - RPL_PAGE_SIZE, &err), -EINVAL);
	arena_fini(&a);
}

static void an_empty_one_begins_anew(void **state)
{
	struct rpl_err err;
	struct arena a;

	(void)state;
	assert_int_equal(arena_init(&a, BYTES, &err), 0);
	assert_int_equal(arena_push(&a, 1, 10, 1, false)->start, 0);
	assert_int_equal(arena_push(&a, 2, 10, 1, false)->start, 11);
	arena_release(&a, 1);
	assert_int_equal(arena_push(&a, 3, 10, 1, false)->start, 22);
	arena_release(&a, 3);
	assert_int_equal(arena_free(&a), SLOTS);
	assert_int_equal(arena_push(&a, 4, 10, 1, false)->start, 0);
	arena_fini(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_queued_stays_until_released),
		cmocka_unit_test(direct_epochs_take_a_place_only),
		cmocka_unit_test(an_empty_one_begins_anew),
		cmocka_unit_test(too_small_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
