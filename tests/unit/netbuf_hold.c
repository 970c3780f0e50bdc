/* hold.c against a model that is too simple to be wrong: an array of frames, each with the epoch that sealed it.
 *
 * Random sequences of frames and operations, from a printed seed (RPL_SEED replays it). After each step: what may leave
 * is the same frame with the same bytes, the counters agree, refusals agree and change nothing.
 */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include <replicad/auto.h>

#include "netbuf/hold.h"

#define STEPS 20000
#define RUNS 30
#define MODEL_MAX (STEPS + 1)

/* ---- the model */

struct model_frame {
	uint32_t port, len, fill;
	uint64_t epoch; /* that sealed it; 0: none yet */
	bool free;      /* released, or from before the hold */
};

struct model {
	size_t bytes_max;
	uint32_t frames_max;
	enum rpl_hold_mode mode;
	struct model_frame *frame;
	size_t first, count; /* in the queue: frame[first] ... */
	uint64_t sealed, released, full, gone, left;
	uint64_t epochs[RPL_HOLD_EPOCHS_MAX]; /* sealed, not released */
	size_t n_epochs;
};

static uint64_t model_bytes(const struct model *m)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < m->count; i++)
		sum += m->frame[m->first + i].len;
	return sum;
}

static bool model_may_leave(const struct model *m)
{
	return m->count && (m->mode == RPL_HOLD_OPEN || m->frame[m->first].free);
}

static enum rpl_hold_verdict model_push(struct model *m, uint32_t port, uint32_t len, uint32_t fill)
{
	if (m->mode == RPL_HOLD_SHUT) {
		m->gone++;
		return RPL_HOLD_GONE;
	}
	if (m->mode == RPL_HOLD_OPEN && m->count == 0)
		return RPL_HOLD_PASS;
	if (m->count == m->frames_max || model_bytes(m) + len > m->bytes_max) {
		m->full++;
		return RPL_HOLD_FULL;
	}
	m->frame[m->first + m->count++] = (struct model_frame){ .port = port, .len = len, .fill = fill };
	return RPL_HOLD_KEPT;
}

static void model_begin(struct model *m, bool old_may_leave)
{
	for (size_t i = 0; i < m->count; i++)
		m->frame[m->first + i].free = old_may_leave;
	m->sealed = m->released = 0;
	m->n_epochs = 0;
	m->mode = RPL_HOLD_HOLD;
}

static int model_seal(struct model *m, uint64_t epoch)
{
	if (m->mode != RPL_HOLD_HOLD)
		return -EINVAL;
	if (epoch && epoch == m->sealed)
		return 0;
	if (epoch <= m->sealed)
		return -EINVAL;
	if (m->n_epochs == RPL_HOLD_EPOCHS_MAX)
		return -EBUSY;
	for (size_t i = 0; i < m->count; i++)
		if (!m->frame[m->first + i].epoch)
			m->frame[m->first + i].epoch = epoch;
	m->epochs[m->n_epochs++] = epoch;
	m->sealed = epoch;
	return 0;
}

static int model_release(struct model *m, uint64_t epoch)
{
	size_t kept = 0;

	if (m->mode == RPL_HOLD_SHUT)
		return -ESHUTDOWN;
	if (epoch > m->sealed)
		return -EINVAL;
	for (size_t i = 0; i < m->count; i++)
		if (m->frame[m->first + i].epoch && m->frame[m->first + i].epoch <= epoch)
			m->frame[m->first + i].free = true;
	for (size_t i = 0; i < m->n_epochs; i++)
		if (m->epochs[i] > epoch)
			m->epochs[kept++] = m->epochs[i];
	m->n_epochs = kept;
	if (epoch > m->released)
		m->released = epoch;
	return 0;
}

static void model_discard(struct model *m)
{
	m->gone += m->count;
	m->left += m->count;
	m->first += m->count;
	m->count = 0;
}

/* ---- both together */

static uint64_t rng;

static uint64_t rnd(uint64_t below)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (rng >> 11) % below;
}

static void fill_frame(uint8_t *frame, uint32_t len, uint32_t fill)
{
	for (uint32_t i = 0; i < len; i++)
		frame[i] = (uint8_t)(fill + i * 7);
}

static void same_status(const struct rpl_hold *h, const struct model *m)
{
	struct rpl_hold_status s;
	uint64_t may = 0;

	rpl_hold_get_status(h, &s);
	for (size_t i = 0; i < m->count; i++)
		may += m->mode == RPL_HOLD_OPEN || m->frame[m->first + i].free;
	assert_int_equal(s.mode, m->mode);
	assert_int_equal(s.held_frames, m->count);
	assert_int_equal(s.held_bytes, model_bytes(m));
	assert_int_equal(s.free_frames, may);
	assert_int_equal(s.sealed_epoch, m->sealed);
	assert_int_equal(s.released_epoch, m->released);
	assert_int_equal(s.full_frames, m->full);
	assert_int_equal(s.gone_frames, m->gone);
	assert_int_equal(rpl_hold_left(h), m->left);
	assert_int_equal(rpl_hold_inbound(h), m->mode != RPL_HOLD_SHUT);
	assert_int_equal(rpl_hold_nearly_full(h),
			 m->count > m->frames_max / 4 * 3 || model_bytes(m) > m->bytes_max / 4 * 3);
}

static void same_next(const struct rpl_hold *h, const struct model *m)
{
	const struct model_frame *f = &m->frame[m->first];
	static uint8_t want[RPL_HOLD_FRAME_MAX], got[RPL_HOLD_FRAME_MAX];
	struct iovec piece[2];
	uint32_t port = 99;
	int n = rpl_hold_next(h, piece, &port);

	assert_int_equal(n > 0, model_may_leave(m));
	if (!n)
		return;
	assert_int_equal(port, f->port);
	assert_int_equal(piece[0].iov_len + (n == 2 ? piece[1].iov_len : 0), f->len);
	memcpy(got, piece[0].iov_base, piece[0].iov_len);
	if (n == 2)
		memcpy(got + piece[0].iov_len, piece[1].iov_base, piece[1].iov_len);
	fill_frame(want, f->len, f->fill);
	assert_memory_equal(got, want, f->len);
}

static void step_push(struct rpl_hold *h, struct model *m)
{
	static uint8_t frame[RPL_HOLD_FRAME_MAX];
	uint32_t len = rnd(20) ? 1 + (uint32_t)rnd(1500) : 1 + (uint32_t)rnd(RPL_HOLD_FRAME_MAX);
	uint32_t port = (uint32_t)rnd(16), fill = (uint32_t)rnd(256);
	enum rpl_hold_verdict want = model_push(m, port, len, fill);

	fill_frame(frame, len, fill);
	assert_int_equal(rpl_hold_push(h, port, frame, len), want);
	if (want == RPL_HOLD_PASS && rnd(2)) { /* it could not be sent at once */
		bool fits = len <= m->bytes_max;

		if (fits)
			m->frame[m->first + m->count++] = (struct model_frame){ .port = port, .len = len, .fill = fill };
		else
			m->full++;
		assert_int_equal(rpl_hold_keep(h, port, frame, len), fits ? RPL_HOLD_KEPT : RPL_HOLD_FULL);
	}
}

static void step_pop(struct rpl_hold *h, struct model *m)
{
	for (uint64_t n = rnd(8); n && model_may_leave(m); n--) {
		same_next(h, m);
		rpl_hold_pop(h);
		m->first++;
		m->count--;
		m->left++;
	}
}

/* How many frames must have left for the operation to be complete: those before it that may leave. */
static uint64_t mark_of(const struct model *m)
{
	uint64_t mark = m->left;

	for (size_t i = 0; i < m->count && (m->mode == RPL_HOLD_OPEN || m->frame[m->first + i].free); i++)
		mark++;
	return mark;
}

static void step_release(struct rpl_hold *h, struct model *m)
{
	uint64_t epoch = rnd(10) ? m->released + rnd(m->sealed - m->released + 1) : rnd(m->sealed + 3);
	int want = model_release(m, epoch), r;
	struct rpl_err err = { 0 };
	uint64_t mark = 0;

	r = rpl_hold_release(h, epoch, &mark, &err);
	assert_int_equal(r, want);
	if (r == 0) /* a mark may lie behind what has left already */
		assert_true(mark == mark_of(m) || (mark <= m->left && mark_of(m) == m->left));
	else
		assert_true(err.msg[0]);
}

static void step_operation(struct rpl_hold *h, struct model *m)
{
	uint64_t kind = rnd(100), epoch;

	if (kind < 55) {
		epoch = rnd(10) ? m->sealed + 1 + rnd(3) : rnd(m->sealed + 2);
		int want = model_seal(m, epoch);

		assert_int_equal(rpl_hold_seal(h, epoch, NULL), want);
	} else if (kind < 85) {
		step_release(h, m);
	} else if (kind < 90) {
		m->mode = RPL_HOLD_OPEN;
		m->n_epochs = 0;
		for (size_t i = 0; i < m->count; i++)
			m->frame[m->first + i].epoch = 0;
		assert_int_equal(rpl_hold_open(h), mark_of(m));
	} else if (kind < 96) {
		if (m->mode != RPL_HOLD_HOLD)
			model_begin(m, true);
		(void)rpl_hold_hold(h);
	} else if (kind < 98) {
		rpl_hold_drop(h);
		model_discard(m);
		if (m->mode == RPL_HOLD_OPEN)
			model_begin(m, false);
	} else {
		rpl_hold_shut(h);
		model_discard(m);
		m->mode = RPL_HOLD_SHUT;
		m->n_epochs = 0;
	}
}

static void run_against_model(size_t bytes_max, uint32_t frames_max, enum rpl_hold_mode mode)
{
	struct model m = { .bytes_max = bytes_max, .frames_max = frames_max, .mode = mode };
	struct rpl_hold *h = rpl_hold_new(bytes_max, frames_max, mode, NULL);

	m.frame = calloc(MODEL_MAX, sizeof(*m.frame));
	assert_non_null(h);
	assert_non_null(m.frame);
	for (unsigned i = 0; i < STEPS; i++) {
		uint64_t kind = rnd(10);

		if (kind < 6)
			step_push(h, &m);
		else if (kind < 8)
			step_pop(h, &m);
		else
			step_operation(h, &m);
		same_status(h, &m);
		same_next(h, &m);
	}
	rpl_hold_free(h);
	free(m.frame);
}

static void hold_does_what_the_model_does(void **state)
{
	const char *given = getenv("RPL_SEED");
	uint64_t seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) * 2654435761u + (uint64_t)clock();

	(void)state;
	print_message("seed: RPL_SEED=%" PRIu64 "\n", seed);
	rng = seed | 1;
	for (unsigned i = 0; i < RUNS; i++)
		run_against_model(1000 + (size_t)rnd(200000), 1 + (uint32_t)rnd(200), (enum rpl_hold_mode)(i % 3));
}

/* ---- cases worth a name */

static const uint8_t bytes[100];

static void output_from_before_the_hold_leaves_before_anything_else(void **state)
{
	struct rpl_hold *h = rpl_hold_new(1000, 10, RPL_HOLD_OPEN, NULL);
	struct iovec piece[2];
	uint64_t mark;
	uint32_t port;

	(void)state;
	assert_int_equal(rpl_hold_push(h, 0, bytes, 100), RPL_HOLD_PASS);
	assert_int_equal(rpl_hold_keep(h, 0, bytes, 100), RPL_HOLD_KEPT); /* the wire was full */
	mark = rpl_hold_hold(h);
	assert_int_equal(mark, 1);
	assert_int_equal(rpl_hold_push(h, 1, bytes, 100), RPL_HOLD_KEPT);
	assert_int_equal(rpl_hold_next(h, piece, &port), 1);
	rpl_hold_pop(h);
	assert_true(rpl_hold_left(h) >= mark);
	assert_int_equal(rpl_hold_next(h, piece, &port), 0);
	rpl_hold_free(h);
}

static void a_new_series_begins_with_each_hold(void **state)
{
	struct rpl_hold *h = rpl_hold_new(1000, 10, RPL_HOLD_HOLD, NULL);
	struct rpl_hold_status s;
	uint64_t mark;

	(void)state;
	assert_int_equal(rpl_hold_seal(h, 4711, NULL), 0);
	(void)rpl_hold_hold(h); /* already holding: nothing begins anew, so an old epoch number stays refused */
	assert_int_equal(rpl_hold_seal(h, 1, NULL), -EINVAL);
	assert_int_equal(rpl_hold_release(h, 4711, &mark, NULL), 0);
	(void)rpl_hold_open(h);
	(void)rpl_hold_hold(h);
	rpl_hold_get_status(h, &s);
	assert_int_equal(s.sealed_epoch, 0);
	assert_int_equal(rpl_hold_release(h, 4711, &mark, NULL), -EINVAL); /* an ack of the session before (R1) */
	assert_int_equal(rpl_hold_seal(h, 1, NULL), 0);
	rpl_hold_free(h);
}

static void the_number_of_epochs_is_bounded(void **state)
{
	struct rpl_hold *h = rpl_hold_new(1000, 10, RPL_HOLD_HOLD, NULL);
	struct rpl_err err = { 0 };
	uint64_t mark;

	(void)state;
	for (uint64_t e = 1; e <= RPL_HOLD_EPOCHS_MAX; e++)
		assert_int_equal(rpl_hold_seal(h, e, NULL), 0);
	assert_int_equal(rpl_hold_seal(h, RPL_HOLD_EPOCHS_MAX + 1, &err), -EBUSY);
	assert_non_null(strstr(err.msg, "64 epochs"));
	assert_int_equal(rpl_hold_release(h, 1, &mark, NULL), 0);
	assert_int_equal(rpl_hold_seal(h, RPL_HOLD_EPOCHS_MAX + 1, NULL), 0);
	rpl_hold_free(h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(output_from_before_the_hold_leaves_before_anything_else),
		cmocka_unit_test(a_new_series_begins_with_each_hold),
		cmocka_unit_test(the_number_of_epochs_is_bounded),
		cmocka_unit_test(hold_does_what_the_model_does),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
