/* The staging area by itself: what is sealed is found, what is torn is not, what is damaged is refused, and folding
 * again changes nothing. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include <replicad/auto.h>
#include <replicad/delta.h>
#include <replicad/pages.h>
#include <replicad/replica.h>

#include "src/replica/area.h"

#define PAGES 64
#define STAGING RPL_REPLICA_BYTES_MIN
#define DIGEST ((const uint8_t[RPL_DIGEST_SIZE]){ 1, 2, 3 })

struct box {
	int ram_fd, staging_fd;
	uint8_t *ram;
	struct rpl_memory_desc desc;
	struct rpl_memory *memory;
	struct rpl_replica *replica;
	struct rpl_uuid session;
	struct rpl_err err;
	uint8_t model[PAGES]; /* the byte that fills each page of the newest sealed epoch */
};

static void open_memory(struct box *b)
{
	int fd = dup(b->ram_fd);

	b->memory = rpl_memory_new(&b->desc, &fd, 1, &b->err);
	assert_non_null(b->memory);
}

static void set_up(struct box *b)
{
	*b = (struct box){ .desc = { .kind = RPL_MEMORY_REPLICA } };
	assert_true(rpl_layout_add(&b->desc.layout, 0, PAGES / 2, 0));
	assert_true(rpl_layout_add(&b->desc.layout, 1000, PAGES / 2, PAGES / 2));
	b->ram_fd = memfd_create("ram", MFD_CLOEXEC);
	b->staging_fd = memfd_create("staging", MFD_CLOEXEC);
	assert_int_equal(ftruncate(b->ram_fd, PAGES * RPL_PAGE_SIZE), 0);
	assert_int_equal(ftruncate(b->staging_fd, STAGING), 0);
	b->ram = mmap(NULL, PAGES * RPL_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, b->ram_fd, 0);
	assert_true(b->ram != MAP_FAILED);
	open_memory(b);
	b->replica = rpl_replica_open(b->staging_fd, STAGING, b->memory, true, &b->err);
	assert_non_null(b->replica);
	rpl_uuid_random(&b->session);
	rpl_replica_session(b->replica, &b->session);
}

/* The mover dies: what it mapped is gone, the files stay. */
static void mover_dies(struct box *b)
{
	rpl_replica_close(b->replica);
	b->replica = rpl_replica_open(b->staging_fd, STAGING, b->memory, false, &b->err);
	assert_non_null(b->replica);
}

static void tear_down(struct box *b)
{
	rpl_replica_close(b->replica);
	rpl_memory_free(b->memory);
	(void)munmap(b->ram, PAGES * RPL_PAGE_SIZE);
	(void)close(b->ram_fd);
	(void)close(b->staging_fd);
}

static uint64_t pfn_of(unsigned page)
{
	return page < PAGES / 2 ? page : 1000 + page - PAGES / 2;
}

static void put_page(struct box *b, unsigned page, uint8_t fill, bool bulk)
{
	uint8_t bytes[RPL_PAGE_SIZE];
	const void *p = fill ? bytes : NULL;
	uint64_t pfn = pfn_of(page);
	int r;

	memset(bytes, fill, sizeof(bytes));
	r = bulk ? rpl_replica_bulk(b->replica, &pfn, &p, 1, &b->err) : rpl_replica_pages(b->replica, &pfn, &p, 1, &b->err);
	assert_int_equal(r, 0);
	b->model[page] = fill;
}

static void bulk(struct box *b, uint8_t fill)
{
	for (unsigned i = 0; i < PAGES; i++)
		put_page(b, i, fill, true);
}

/* Epoch e: five pages filled with e; its device state is e in `len` bytes. */
static void fill_epoch(struct box *b, uint64_t e, size_t len)
{
	uint8_t *device = malloc(len);

	assert_non_null(device);
	memset(device, (int)e, len);
	assert_int_equal(rpl_replica_begin(b->replica, e, &b->err), 0);
	for (unsigned i = 0; i < 5; i++)
		put_page(b, (unsigned)(e * 3 + i * 7) % PAGES, (uint8_t)e, false);
	for (size_t at = 0; at < len; at += 1000) /* in pieces that do not match the slots */
		assert_int_equal(rpl_replica_state(b->replica, device + at, len - at < 1000 ? len - at : 1000, &b->err), 0);
	free(device);
}

static void stage(struct box *b, uint64_t e, size_t len)
{
	fill_epoch(b, e, len);
	assert_int_equal(rpl_replica_seal(b->replica, DIGEST, &b->err), 0);
}

static void ram_is(const struct box *b, const uint8_t *model)
{
	for (unsigned i = 0; i < PAGES; i++)
		for (unsigned k = 0; k < RPL_PAGE_SIZE; k += 511)
			assert_int_equal(b->ram[i * RPL_PAGE_SIZE + k], model[i]);
}

static void activate(struct box *b, uint64_t expected, size_t len)
{
	const void *device;
	uint64_t epoch;
	size_t got;

	if (rpl_replica_activate(b->replica, &b->session, &epoch, &device, &got, &b->err) < 0)
		fail_msg("activate: %s", b->err.msg);
	assert_int_equal(epoch, expected);
	assert_int_equal(got, len);
	for (size_t i = 0; i < len; i++)
		assert_int_equal(((const uint8_t *)device)[i], (uint8_t)expected);
	ram_is(b, b->model);
}

static void expect_no_activation(struct box *b, const struct rpl_uuid *session, int code, const char *why)
{
	const void *device;
	uint64_t epoch;
	size_t len;

	assert_int_equal(rpl_replica_activate(b->replica, session, &epoch, &device, &len, &b->err), code);
	if (!strstr(b->err.msg, why))
		fail_msg("says '%s', expected '%s'", b->err.msg, why);
}

static void the_newest_whole_epoch_is_activated(void **state)
{
	struct box b;

	(void)state;
	set_up(&b);
	bulk(&b, 200);
	for (uint64_t e = 5; e < 9; e++)
		stage(&b, e, 9000 + e);
	mover_dies(&b);
	activate(&b, 8, 9008);
	activate(&b, 8, 9008); /* and again */
	tear_down(&b);
}

/* Killed at each point of folding, and before each: activation finishes it, from wherever. */
static void folding_is_idempotent(void **state)
{
	(void)state;
	for (unsigned slices = 0; slices < 14; slices++) {
		uint8_t before[PAGES];
		struct box b;
		int more = 1;

		set_up(&b);
		bulk(&b, 200);
		stage(&b, 1, 5000);
		stage(&b, 2, 5000);
		memcpy(before, b.model, PAGES);
		stage(&b, 3, 4096);
		assert_int_equal(rpl_replica_acked(b.replica, 2, &b.err), 0);
		for (unsigned i = 0; i < slices && more == 1; i++)
			more = rpl_replica_fold(b.replica, 1, &b.err);
		assert_true(more >= 0);
		if (slices >= 12) {
			assert_int_equal(more, 0);
			ram_is(&b, before); /* epoch 3 is not acked, and not folded */
		}
		mover_dies(&b);
		activate(&b, 3, 4096);
		tear_down(&b);
	}
}

/* ---- pages as what changed in them */

/* `page` of the epoch under way becomes `fill` from byte `from` on, as what changed since `base`. */
static int put_delta(struct box *b, unsigned page, uint8_t was, uint8_t fill, size_t from, uint32_t base)
{
	uint8_t last[RPL_PAGE_SIZE], now[RPL_PAGE_SIZE], delta[RPL_DELTA_MAX];
	size_t len;

	memset(last, was, sizeof(last));
	memcpy(now, last, sizeof(now));
	memset(now + from, fill, sizeof(now) - from);
	len = rpl_delta_make(now, last, delta);
	assert_true(len != RPL_DELTA_TOO_LONG);
	return rpl_replica_delta(b->replica, pfn_of(page), base, len ? delta : NULL, len, &b->err);
}

static void seal_it(struct box *b)
{
	uint8_t device[100] = { 0 };

	assert_int_equal(rpl_replica_state(b->replica, device, sizeof(device), &b->err), 0);
	assert_int_equal(rpl_replica_seal(b->replica, DIGEST, &b->err), 0);
}

#define HALF (RPL_PAGE_SIZE / 2)

/* Epochs 1 to 4: pages 3 and 40 whole, then three times what changed in them: their second half is 2, 3, 4. */
static void stage_deltas(struct box *b)
{
	bulk(b, 200);
	for (uint32_t e = 1; e <= 4; e++) {
		assert_int_equal(rpl_replica_begin(b->replica, e, &b->err), 0);
		if (e == 1) {
			put_page(b, 3, 1, false);
			put_page(b, 40, 1, false);
		} else {
			uint8_t last[RPL_PAGE_SIZE], now[RPL_PAGE_SIZE], delta[RPL_DELTA_MAX];
			size_t len;

			memset(last, 1, sizeof(last));
			memset(last + HALF, (int)e - 1, HALF);
			memcpy(now, last, sizeof(now));
			memset(now + HALF, (int)e, HALF);
			len = rpl_delta_make(now, last, delta);
			assert_int_equal(rpl_replica_delta(b->replica, pfn_of(3), e - 1, delta, len, &b->err), 0);
			assert_int_equal(rpl_replica_delta(b->replica, pfn_of(40), e - 1, delta, len, &b->err), 0);
			assert_int_equal(rpl_replica_delta(b->replica, pfn_of(41), 1, NULL, 0, &b->err), -EPROTO);
		}
		seal_it(b);
	}
}

static void deltas_are_as_of(const struct box *b, uint8_t e)
{
	static const unsigned page[] = { 3, 40 };

	for (size_t i = 0; i < RPL_ARRAY_LEN(page); i++)
		for (size_t k = 0; k < RPL_PAGE_SIZE; k++)
			assert_int_equal(b->ram[page[i] * RPL_PAGE_SIZE + k], k < HALF ? 1 : e);
}

/* Killed at each point of folding: whoever folds the rest begins with a page that may have its changes already. */
static void folding_deltas_is_idempotent(void **state)
{
	(void)state;
	for (unsigned slices = 0; slices < 12; slices++) {
		const void *device;
		uint64_t epoch;
		struct box b;
		size_t len;

		set_up(&b);
		stage_deltas(&b);
		assert_int_equal(rpl_replica_acked(b.replica, 3, &b.err), 0);
		for (unsigned i = 0; i < slices; i++)
			assert_true(rpl_replica_fold(b.replica, 1, &b.err) >= 0);
		if (slices >= 9)
			deltas_are_as_of(&b, 3); /* epoch 4 is not acked */
		mover_dies(&b);
		for (int again = 0; again < 2; again++) {
			assert_int_equal(rpl_replica_activate(b.replica, &b.session, &epoch, &device, &len, &b.err), 0);
			assert_int_equal(epoch, 4);
			deltas_are_as_of(&b, 4);
		}
		tear_down(&b);
	}
}

static void refused(struct box *b, int r, const char *why)
{
	assert_int_equal(r, -EPROTO);
	if (!strstr(b->err.msg, why))
		fail_msg("says '%s', expected '%s'", b->err.msg, why);
}

/* Before it is sealed, and so before anybody could ack it. */
static void a_delta_to_another_epoch_is_refused(void **state)
{
	struct box b;

	(void)state;
	set_up(&b);
	bulk(&b, 1);
	assert_int_equal(rpl_replica_begin(b.replica, 7, &b.err), 0);
	refused(&b, put_delta(&b, 3, 1, 5, HALF, 7), "changed since epoch 7, but it came last in a round");
	put_page(&b, 3, 1, false);
	refused(&b, put_delta(&b, 3, 1, 5, HALF, 7), "it came last in epoch 7");
	seal_it(&b);
	assert_int_equal(rpl_replica_begin(b.replica, 8, &b.err), 0);
	refused(&b, put_delta(&b, 3, 1, 5, HALF, 6), "changed since epoch 6, but it came last in epoch 7");
	refused(&b, put_delta(&b, 3, 1, 5, HALF, RPL_PAGES_BASE_ROUND), "changed since a round, but it came last in epoch 7");
	refused(&b, put_delta(&b, 4, 1, 5, HALF, 7), "changed since epoch 7, but it came last in a round");
	assert_int_equal(rpl_replica_delta(b.replica, 500, 7, NULL, 0, &b.err), -ERANGE);
	assert_int_equal(put_delta(&b, 3, 1, 5, HALF, 7), 0);
	refused(&b, put_delta(&b, 3, 1, 5, HALF, 7), "it came last in epoch 8"); /* once an epoch */
	tear_down(&b);
}

/* What the last round brought is one, until an epoch brings the page; and pages of which only that is said count for a whole replica. */
static void a_round_is_a_base(void **state)
{
	struct box b;

	(void)state;
	set_up(&b);
	assert_int_equal(rpl_replica_begin(b.replica, 1, &b.err), 0);
	refused(&b, put_delta(&b, 3, 1, 5, HALF, RPL_PAGES_BASE_ROUND), "since a round, but it came in no epoch or round");
	refused(&b, put_delta(&b, 3, 1, 5, HALF, 0), "since epoch 0, but it came in no epoch or round");
	rpl_replica_abort(b.replica);
	bulk(&b, 7);
	bulk(&b, 1);
	assert_int_equal(rpl_replica_begin(b.replica, 1, &b.err), 0);
	assert_int_equal(put_delta(&b, 3, 1, 5, HALF, RPL_PAGES_BASE_ROUND), 0);
	refused(&b, put_delta(&b, 3, 1, 5, HALF, RPL_PAGES_BASE_ROUND), "since a round, but it came last in epoch 1");
	assert_int_equal(put_delta(&b, 40, 1, 5, HALF, RPL_PAGES_BASE_ROUND), 0);
	assert_int_equal(put_delta(&b, 41, 1, 1, HALF, RPL_PAGES_BASE_ROUND), 0); /* the same: it stays the round's */
	seal_it(&b);
	assert_int_equal(rpl_replica_begin(b.replica, 2, &b.err), 0);
	assert_int_equal(put_delta(&b, 41, 1, 6, HALF, RPL_PAGES_BASE_ROUND), 0);
	seal_it(&b);
	assert_int_equal(rpl_replica_acked(b.replica, 2, &b.err), 0);
	assert_int_equal(rpl_replica_fold(b.replica, UINT64_MAX, &b.err), 0);
	for (size_t k = 0; k < RPL_PAGE_SIZE; k++) {
		assert_int_equal(b.ram[3 * RPL_PAGE_SIZE + k], k < HALF ? 1 : 5);
		assert_int_equal(b.ram[40 * RPL_PAGE_SIZE + k], k < HALF ? 1 : 5);
		assert_int_equal(b.ram[41 * RPL_PAGE_SIZE + k], k < HALF ? 1 : 6);
	}
	rpl_uuid_random(&b.session);
	rpl_replica_session(b.replica, &b.session);
	assert_int_equal(rpl_replica_begin(b.replica, 3, &b.err), 0);
	refused(&b, put_delta(&b, 41, 1, 5, HALF, RPL_PAGES_BASE_ROUND), "came in no epoch or round"); /* of another session */
	tear_down(&b);
}

/* What a first epoch says of a page that no round brought does not make the replica whole (R7). */
static void a_change_brings_no_page(void **state)
{
	uint8_t device[100] = { 0 };
	struct box b;

	(void)state;
	set_up(&b);
	for (unsigned i = 0; i < PAGES - 1; i++)
		put_page(&b, i, 1, true);
	assert_int_equal(rpl_replica_begin(b.replica, 1, &b.err), 0);
	assert_int_equal(put_delta(&b, 3, 1, 5, HALF, RPL_PAGES_BASE_ROUND), 0);
	refused(&b, put_delta(&b, PAGES - 1, 1, 5, HALF, RPL_PAGES_BASE_ROUND), "came in no epoch or round");
	assert_int_equal(rpl_replica_state(b.replica, device, sizeof(device), &b.err), 0);
	refused(&b, rpl_replica_seal(b.replica, DIGEST, &b.err), "1 of ");
	tear_down(&b);
}

/* An epoch by whose number nothing can be named: its pages come whole again. */
static void an_epoch_called_like_a_round_is_no_base(void **state)
{
	uint64_t e = RPL_PAGES_BASE_ROUND;
	struct box b;

	(void)state;
	set_up(&b);
	bulk(&b, 1);
	assert_int_equal(rpl_replica_begin(b.replica, e, &b.err), 0);
	put_page(&b, 3, 1, false);
	seal_it(&b);
	assert_int_equal(rpl_replica_begin(b.replica, e + 1, &b.err), 0);
	refused(&b, put_delta(&b, 3, 1, 5, HALF, RPL_PAGES_BASE_ROUND), "came in no epoch or round");
	assert_int_equal(put_delta(&b, 4, 1, 5, HALF, RPL_PAGES_BASE_ROUND), 0);
	tear_down(&b);
}

/* An epoch that was cut off is no base either, nor what was below it: the primary sends whole pages then. */
static void an_aborted_epoch_is_no_base(void **state)
{
	struct box b;

	(void)state;
	set_up(&b);
	bulk(&b, 1);
	assert_int_equal(rpl_replica_begin(b.replica, 1, &b.err), 0);
	put_page(&b, 3, 1, false);
	put_page(&b, 4, 1, false);
	seal_it(&b);
	assert_int_equal(rpl_replica_begin(b.replica, 2, &b.err), 0);
	assert_int_equal(put_delta(&b, 3, 1, 5, HALF, 1), 0);
	assert_int_equal(put_delta(&b, 4, 1, 1, HALF, 1), 0); /* the same */
	rpl_replica_abort(b.replica);
	assert_int_equal(rpl_replica_begin(b.replica, 2, &b.err), 0);
	refused(&b, put_delta(&b, 3, 1, 5, HALF, 1), "came in no epoch or round");
	assert_int_equal(put_delta(&b, 4, 1, 1, HALF, 1), 0);
	tear_down(&b);
}

/* A sender that mixes up its bases, or RAM that somebody else wrote to: no takeover with a wrong page. */
static void a_delta_of_another_page_is_found(void **state)
{
	const void *device;
	uint64_t epoch;
	struct box b;
	size_t len;

	(void)state;
	set_up(&b);
	stage_deltas(&b);
	b.ram[40 * RPL_PAGE_SIZE] ^= 1; /* is stored over by epoch 1 */
	assert_int_equal(rpl_replica_acked(b.replica, 2, &b.err), 0);
	assert_int_equal(rpl_replica_fold(b.replica, UINT64_MAX, &b.err), 0);
	deltas_are_as_of(&b, 2);
	b.ram[40 * RPL_PAGE_SIZE] ^= 1;
	assert_int_equal(rpl_replica_acked(b.replica, 3, &b.err), 0);
	assert_int_equal(rpl_replica_fold(b.replica, UINT64_MAX, &b.err), -EBADMSG);
	assert_non_null(strstr(b.err.msg, "made from another page"));
	mover_dies(&b);
	for (int again = 0; again < 2; again++)
		assert_int_equal(rpl_replica_activate(b.replica, &b.session, &epoch, &device, &len, &b.err), -EBADMSG);
	tear_down(&b);
}

/* The staging area was written by who parsed a peer's bytes. */
static void a_damaged_delta_folds_nothing(void **state)
{
	const void *device;
	uint64_t epoch;
	struct area area;
	struct box b;
	size_t len;

	(void)state;
	set_up(&b);
	stage_deltas(&b);
	assert_int_equal(area_map(&area, b.staging_fd, STAGING, false, &b.err), 0);
	memset(area_slot(&area, area_header(&area, 4)->start) + RPL_DELTA_HEAD, 0xff, 2); /* the first run's offset */
	area_unmap(&area);
	mover_dies(&b);
	assert_int_equal(rpl_replica_activate(b.replica, &b.session, &epoch, &device, &len, &b.err), -EBADMSG);
	assert_non_null(strstr(b.err.msg, "staged epoch 4: page 0 of it: delta: a run of"));
	for (size_t i = 0; i < PAGES; i++)
		assert_int_equal(b.ram[i * RPL_PAGE_SIZE], 200);
	tear_down(&b);
}

static void a_torn_epoch_is_not_there(void **state)
{
	uint8_t whole[PAGES];
	struct box b;

	(void)state;
	set_up(&b);
	bulk(&b, 200);
	stage(&b, 1, 100);
	stage(&b, 2, 100);
	memcpy(whole, b.model, PAGES);
	fill_epoch(&b, 3, 100); /* all of it but the seal */
	mover_dies(&b);
	memcpy(b.model, whole, PAGES);
	activate(&b, 2, 100);
	tear_down(&b);
}

static void an_aborted_epoch_leaves_no_trace(void **state)
{
	uint8_t whole[PAGES];
	uint64_t free_bytes;
	struct box b;

	(void)state;
	set_up(&b);
	bulk(&b, 200);
	stage(&b, 1, 100);
	memcpy(whole, b.model, PAGES);
	free_bytes = rpl_replica_free_bytes(b.replica);
	fill_epoch(&b, 2, 100);
	assert_true(rpl_replica_free_bytes(b.replica) < free_bytes);
	rpl_replica_abort(b.replica);
	assert_int_equal(rpl_replica_free_bytes(b.replica), free_bytes);
	memcpy(b.model, whole, PAGES);
	stage(&b, 2, 300);
	mover_dies(&b);
	activate(&b, 2, 300);
	tear_down(&b);
}

static void newest_is(struct box *b, uint64_t expected)
{
	struct rpl_uuid session;
	uint64_t epoch;

	if (rpl_replica_newest(b->replica, &session, &epoch, &b->err) < 0)
		fail_msg("newest: %s", b->err.msg);
	assert_true(rpl_uuid_equal(&session, &b->session));
	assert_int_equal(epoch, expected);
}

static void there_is_no_newest(struct box *b, const char *why)
{
	struct rpl_uuid session;
	uint64_t epoch;

	assert_int_equal(rpl_replica_newest(b->replica, &session, &epoch, &b->err), -ENODATA);
	if (!strstr(b->err.msg, why))
		fail_msg("says '%s', expected '%s'", b->err.msg, why);
}

/* Beside the mover: what it said is folded is found with its state; nothing else is, and nothing is folded by looking. */
static void what_is_folded_is_found(void **state)
{
	struct rpl_replica *look;
	const void *device;
	struct box b;
	size_t len;

	(void)state;
	set_up(&b);
	bulk(&b, 200);
	stage(&b, 1, 5000);
	stage(&b, 2, 6000);
	look = rpl_replica_open(b.staging_fd, STAGING, b.memory, false, &b.err);
	assert_non_null(look);
	assert_int_equal(rpl_replica_folded(look, &b.session, 2, &device, &len, &b.err), -ENODATA);
	assert_int_equal(rpl_replica_acked(b.replica, 2, &b.err), 0);
	while (rpl_replica_fold(b.replica, 1000, &b.err) > 0)
		;
	stage(&b, 3, 4096); /* staged, and not acked */
	assert_int_equal(rpl_replica_folded(look, &b.session, 2, &device, &len, &b.err), 0);
	assert_int_equal(len, 6000);
	for (size_t i = 0; i < len; i++)
		assert_int_equal(((const uint8_t *)device)[i], 2);
	assert_int_equal(rpl_replica_folded(look, &b.session, 3, &device, &len, &b.err), -ENODATA);
	assert_int_equal(rpl_replica_folded(look, &(struct rpl_uuid){ { 9 } }, 2, &device, &len, &b.err), -ENODATA);
	rpl_replica_close(look);
	mover_dies(&b);
	activate(&b, 3, 4096);
	tear_down(&b);
}

/* A keeper that knows nothing finds session and epoch in the area, whatever the mover was at; looking folds nothing. */
static void a_stranger_finds_what_is_whole(void **state)
{
	uint8_t before[PAGES];
	struct box b;

	(void)state;
	for (unsigned slices = 0; slices < 14; slices++) {
		set_up(&b);
		mover_dies(&b);
		there_is_no_newest(&b, "no whole epoch");
		tear_down(&b);

		set_up(&b);
		bulk(&b, 200);
		stage(&b, 1, 5000);
		stage(&b, 2, 5000);
		assert_int_equal(rpl_replica_acked(b.replica, 2, &b.err), 0);
		for (unsigned i = 0; i < slices; i++)
			assert_true(rpl_replica_fold(b.replica, 1, &b.err) >= 0);
		memcpy(before, b.model, PAGES);
		fill_epoch(&b, 3, 4096); /* never sealed */
		memcpy(b.model, before, PAGES);
		mover_dies(&b);
		newest_is(&b, 2);
		newest_is(&b, 2);
		activate(&b, 2, 5000);
		newest_is(&b, 2); /* an activation that did not come to its end is begun anew */
		assert_int_equal(rpl_replica_void(b.staging_fd, &b.err), 0);
		there_is_no_newest(&b, "never formatted");
		expect_no_activation(&b, &b.session, -ENODATA, "never formatted");
		tear_down(&b);
	}
}

static void without_a_complete_replica_there_is_nothing(void **state)
{
	struct rpl_uuid other;
	struct box b;

	(void)state;
	set_up(&b);
	bulk(&b, 200);
	mover_dies(&b);
	expect_no_activation(&b, &b.session, -ENODATA, "no whole epoch");
	rpl_uuid_random(&other);
	expect_no_activation(&b, &other, -ENODATA, "holds session");
	memset(&other, 0, sizeof(other));
	expect_no_activation(&b, &other, -ENODATA, "holds session");
	tear_down(&b);

	set_up(&b);
	bulk(&b, 200);
	stage(&b, 1, 100);
	mover_dies(&b);
	rpl_uuid_random(&other);
	expect_no_activation(&b, &other, -ENODATA, "holds session");
	activate(&b, 1, 100);
	tear_down(&b);
}

/* R7: a new session overwrites RAM, so the old session's epochs must be gone before its first page. */
static void a_new_session_forgets(void **state)
{
	struct rpl_uuid old;
	struct box b;

	(void)state;
	set_up(&b);
	bulk(&b, 200);
	stage(&b, 1, 100);
	old = b.session;
	rpl_uuid_random(&b.session);
	rpl_replica_session(b.replica, &b.session);
	put_page(&b, 0, 7, true);
	mover_dies(&b);
	expect_no_activation(&b, &old, -ENODATA, "holds session");
	expect_no_activation(&b, &b.session, -ENODATA, "no whole epoch");
	tear_down(&b);
}

static void the_first_epoch_must_complete_the_ram(void **state)
{
	struct rpl_replica_where w;
	struct box b;

	(void)state;
	set_up(&b);
	for (unsigned i = 0; i < PAGES - 1; i++)
		put_page(&b, i, 9, true);
	rpl_replica_where(b.replica, &w);
	assert_int_equal(w.missing, 1);
	assert_int_equal(rpl_replica_begin(b.replica, 1, &b.err), 0);
	assert_int_equal(rpl_replica_state(b.replica, "x", 1, &b.err), 0);
	assert_int_equal(rpl_replica_seal(b.replica, DIGEST, &b.err), -EPROTO);
	assert_non_null(strstr(b.err.msg, "1 of 64 pages were never sent"));
	rpl_replica_abort(b.replica);
	assert_int_equal(rpl_replica_begin(b.replica, 1, &b.err), 0);
	put_page(&b, PAGES - 1, 0, false); /* the checkpoint may bring what the rounds did not */
	assert_int_equal(rpl_replica_state(b.replica, "\1", 1, &b.err), 0);
	assert_int_equal(rpl_replica_seal(b.replica, DIGEST, &b.err), 0);
	mover_dies(&b);
	activate(&b, 1, 1);
	tear_down(&b);
}

static void order_is_kept(void **state)
{
	struct rpl_replica_where w;
	struct box b;

	(void)state;
	set_up(&b);
	bulk(&b, 200);
	assert_int_equal(rpl_replica_begin(b.replica, 0, &b.err), -EPROTO);
	stage(&b, 7, 100);
	assert_int_equal(rpl_replica_begin(b.replica, 7, &b.err), -EPROTO);
	assert_int_equal(rpl_replica_begin(b.replica, 9, &b.err), -EPROTO);
	assert_int_equal(rpl_replica_acked(b.replica, 8, &b.err), -EPROTO);
	rpl_replica_where(b.replica, &w);
	assert_int_equal(w.staged, 7);
	assert_int_equal(w.acked, 0);
	assert_int_equal(w.folded, 0);
	assert_int_equal(rpl_replica_acked(b.replica, 7, &b.err), 0);
	assert_int_equal(rpl_replica_fold(b.replica, UINT64_MAX, &b.err), 0);
	rpl_replica_where(b.replica, &w);
	assert_int_equal(w.acked, 7);
	assert_int_equal(w.folded, 7);
	assert_int_equal(rpl_replica_bulk(b.replica, &(uint64_t){ 0 }, &(const void *){ b.ram }, 1, &b.err), -EPROTO);
	assert_int_equal(rpl_replica_begin(b.replica, 8, &b.err), 0);
	assert_int_equal(rpl_replica_pages(b.replica, &(uint64_t){ 500 }, &(const void *){ b.ram }, 1, &b.err), -ERANGE);
	assert_int_equal(rpl_replica_state(b.replica, "x", 1, &b.err), 0);
	put_page(&b, 3, 3, false);
	assert_int_equal(rpl_replica_state(b.replica, "x", 1, &b.err), -EPROTO);
	tear_down(&b);
}

/* Around the ring many times, with device state across its end: room is made by folding what is acked. */
static void the_ring_goes_round(void **state)
{
	const size_t len = 3 << 20;
	struct box b;

	(void)state;
	set_up(&b);
	bulk(&b, 200);
	for (uint64_t e = 1; e <= 60; e++) {
		stage(&b, e, len + e);
		assert_int_equal(rpl_replica_acked(b.replica, e, &b.err), 0);
	}
	for (uint64_t e = 61; e <= 66; e++)
		stage(&b, e, len);
	mover_dies(&b);
	activate(&b, 66, len);
	tear_down(&b);
}

static void a_full_area_says_so(void **state)
{
	const size_t len = RPL_REPLICA_STATE_MAX;
	uint8_t whole[PAGES], *zeroes = calloc(1, len);
	struct box b;

	(void)state;
	set_up(&b);
	bulk(&b, 200);
	stage(&b, 1, len);
	stage(&b, 2, len);
	memcpy(whole, b.model, PAGES);
	assert_int_equal(rpl_replica_begin(b.replica, 3, &b.err), 0);
	assert_int_equal(rpl_replica_state(b.replica, zeroes, len, &b.err), -ENOSPC);
	rpl_replica_abort(b.replica);
	assert_int_equal(rpl_replica_begin(b.replica, 3, &b.err), 0);
	assert_int_equal(rpl_replica_state(b.replica, zeroes, 1000, &b.err), 0);
	assert_int_equal(rpl_replica_state(b.replica, zeroes, len - 999, &b.err), -EMSGSIZE);
	rpl_replica_abort(b.replica);
	free(zeroes);
	memcpy(b.model, whole, PAGES);
	mover_dies(&b);
	activate(&b, 2, len);
	tear_down(&b);
}

/* ---- what a mover that was taken over by its peer might leave */

static struct area_header *headers(struct box *b, struct area *ret)
{
	assert_int_equal(area_map(ret, b->staging_fd, STAGING, false, &b->err), 0);
	return ret->header;
}

static void damage(void (*how)(struct area *a), const char *why)
{
	uint8_t before[PAGES * RPL_PAGE_SIZE];
	struct area a;
	struct box b;

	set_up(&b);
	bulk(&b, 200);
	for (uint64_t e = 1; e <= 4; e++)
		stage(&b, e, 6000);
	assert_int_equal(rpl_replica_acked(b.replica, 2, &b.err), 0);
	assert_int_equal(rpl_replica_fold(b.replica, UINT64_MAX, &b.err), 0);
	(void)headers(&b, &a);
	how(&a);
	area_unmap(&a);
	mover_dies(&b);
	memcpy(before, b.ram, sizeof(before));
	expect_no_activation(&b, &b.session, -EBADMSG, why);
	assert_memory_equal(before, b.ram, sizeof(before)); /* nothing was folded */
	tear_down(&b);
}

static void republish(struct area_header *h)
{
	area_publish(h, area_state(h));
}

static void flip_digest(struct area *a) { a->header[3].digest[0] ^= 1; }
static void lose_middle(struct area *a) { area_set_state(&a->header[3], AREA_EMPTY); }
static void bad_state(struct area *a) { area_set_state(&a->header[4], (enum area_state)9); }
static void lose_base(struct area *a) { area_set_state(&a->header[2], AREA_EMPTY); }

static void many_slots(struct area *a)
{
	a->header[4].slots = a->slots + 1;
	republish(&a->header[4]);
}

static void wrapping_slots(struct area *a)
{
	a->header[4].start = UINT64_MAX - 2;
	republish(&a->header[4]);
}

static void long_state(struct area *a)
{
	a->header[4].state_len = UINT64_MAX;
	republish(&a->header[4]);
}

static void state_outside(struct area *a)
{
	a->header[4].state_at = a->header[4].slots - 1;
	republish(&a->header[4]);
}

static void no_state(struct area *a)
{
	a->header[4].state_len = 0;
	republish(&a->header[4]);
}

static void other_session(struct area *a)
{
	a->header[4].session.b[3] ^= 1;
	republish(&a->header[4]);
}

static void other_place(struct area *a)
{
	a->header[4].epoch = 5;
	republish(&a->header[4]);
}

static void foreign_pfn(struct area *a)
{
	a->pfn[a->header[4].start % a->slots] = 999;
}

static void damaged_headers_are_refused_before_anything_is_folded(void **state)
{
	(void)state;
	damage(flip_digest, "epoch 3: its header is damaged");
	damage(lose_middle, "epoch 3 is missing");
	damage(lose_base, "no folded or first epoch below");
	damage(bad_state, "of another session or in state 9");
	damage(many_slots, "slots in an area of");
	damage(wrapping_slots, "slots in an area of");
	damage(long_state, "bytes of device state");
	damage(state_outside, "bytes of device state");
	damage(no_state, "bytes of device state");
	damage(other_session, "of another session");
	damage(other_place, "its header lies in place 4");
	damage(foreign_pfn, "outside the RAM");
}

static void files_that_are_no_area_are_refused(void **state)
{
	struct box b;

	(void)state;
	set_up(&b);
	rpl_replica_close(b.replica);
	b.replica = rpl_replica_open(b.staging_fd, STAGING + RPL_PAGE_SIZE, b.memory, false, &b.err);
	assert_null(b.replica);
	b.replica = rpl_replica_open(b.ram_fd, PAGES * RPL_PAGE_SIZE, b.memory, false, &b.err);
	assert_null(b.replica);
	assert_int_equal(ftruncate(b.staging_fd, 0), 0);
	assert_int_equal(ftruncate(b.staging_fd, STAGING), 0);
	b.replica = rpl_replica_open(b.staging_fd, STAGING, b.memory, false, &b.err);
	assert_non_null(b.replica);
	expect_no_activation(&b, &b.session, -ENODATA, "never formatted");
	tear_down(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_newest_whole_epoch_is_activated),
		cmocka_unit_test(folding_is_idempotent),
		cmocka_unit_test(folding_deltas_is_idempotent),
		cmocka_unit_test(a_delta_to_another_epoch_is_refused),
		cmocka_unit_test(a_round_is_a_base),
		cmocka_unit_test(a_change_brings_no_page),
		cmocka_unit_test(an_epoch_called_like_a_round_is_no_base),
		cmocka_unit_test(an_aborted_epoch_is_no_base),
		cmocka_unit_test(a_delta_of_another_page_is_found),
		cmocka_unit_test(a_damaged_delta_folds_nothing),
		cmocka_unit_test(a_torn_epoch_is_not_there),
		cmocka_unit_test(an_aborted_epoch_leaves_no_trace),
		cmocka_unit_test(what_is_folded_is_found),
		cmocka_unit_test(a_stranger_finds_what_is_whole),
		cmocka_unit_test(without_a_complete_replica_there_is_nothing),
		cmocka_unit_test(a_new_session_forgets),
		cmocka_unit_test(the_first_epoch_must_complete_the_ram),
		cmocka_unit_test(order_is_kept),
		cmocka_unit_test(the_ring_goes_round),
		cmocka_unit_test(a_full_area_says_so),
		cmocka_unit_test(damaged_headers_are_refused_before_anything_is_folded),
		cmocka_unit_test(files_that_are_no_area_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
