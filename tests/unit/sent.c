/* What the primary remembers of pages that it sent, against the backup's staging area itself: whatever is written, forgotten,
 * cut off or sent again, the replica becomes what the guest was, and what is asked for is what is sent. */
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
#include <replicad/replica.h>

#include "src/engine/sent.h"
#include "tests/lib/draw.h"

#define PAGES 200
#define CACHE_PAGES 64
#define EPOCHS 400
#define STAGED_MAX 6
#define ROUNDS 12
#define SESSIONS 60
#define FIRST (UINT64_C(0x100000000) - 100) /* its low half comes to RPL_PAGES_BASE_ROUND and to 0 on the way */

static struct {
	uint8_t guest[PAGES][RPL_PAGE_SIZE];
	uint8_t image[STAGED_MAX + 1][PAGES][RPL_PAGE_SIZE]; /* as of epoch e, at e % (STAGED_MAX + 1) */
	uint8_t body[RPL_PAGES_BODY_MAX];
	struct rpl_pages decoded;
	struct sent sent;
	struct sent_counts counts;
	int ram_fd, staging_fd;
	uint8_t *ram;
	struct rpl_memory *memory;
	struct rpl_replica *replica;
	struct rpl_err err;
} box;

static int set_up(void **state)
{
	struct rpl_memory_desc desc = { .kind = RPL_MEMORY_REPLICA };
	struct rpl_uuid session;
	int fd;

	(void)state;
	draw_seed("SENT_SEED");
	memset(&box, 0, sizeof(box));
	assert_true(rpl_layout_add(&desc.layout, 0, PAGES / 2, 0));
	assert_true(rpl_layout_add(&desc.layout, 4096, PAGES / 2, PAGES / 2));
	box.ram_fd = memfd_create("ram", MFD_CLOEXEC);
	box.staging_fd = memfd_create("staging", MFD_CLOEXEC);
	assert_int_equal(ftruncate(box.ram_fd, PAGES * RPL_PAGE_SIZE), 0);
	assert_int_equal(ftruncate(box.staging_fd, RPL_REPLICA_BYTES_MIN), 0);
	box.ram = mmap(NULL, PAGES * RPL_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, box.ram_fd, 0);
	assert_true(box.ram != MAP_FAILED);
	fd = dup(box.ram_fd);
	box.memory = rpl_memory_new(&desc, &fd, 1, &box.err);
	assert_non_null(box.memory);
	box.replica = rpl_replica_open(box.staging_fd, RPL_REPLICA_BYTES_MIN, box.memory, true, &box.err);
	assert_non_null(box.replica);
	rpl_uuid_random(&session);
	rpl_replica_session(box.replica, &session);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	sent_fini(&box.sent);
	rpl_replica_close(box.replica);
	rpl_memory_free(box.memory);
	(void)munmap(box.ram, PAGES * RPL_PAGE_SIZE);
	(void)close(box.ram_fd);
	(void)close(box.staging_fd);
	return 0;
}

static uint64_t pfn_of(unsigned page)
{
	return page < PAGES / 2 ? page : 4096 + page - PAGES / 2;
}

/* Nothing, zeroes, everything, or here and there. */
static void write_page(uint8_t *page)
{
	uint64_t what = draw(10);

	if (what == 1)
		memset(page, 0, RPL_PAGE_SIZE);
	else if (what == 2)
		for (unsigned k = 0; k < RPL_PAGE_SIZE; k++)
			page[k] = (uint8_t)draw(256);
	else if (what > 3)
		for (uint64_t n = draw(20); n; n--)
			page[draw(RPL_PAGE_SIZE)] ^= (uint8_t)draw(256);
}

/* A round brings these pages, and is remembered if the cache has room for it. */
static void copy_in_round(const unsigned *page, unsigned n)
{
	bool remembered = sent_round(&box.sent, n);

	for (unsigned i = 0; i < n; i++) {
		const void *bytes = box.guest[page[i]];
		uint64_t pfn = pfn_of(page[i]);

		if (remembered)
			sent_note(&box.sent, pfn, bytes);
		assert_int_equal(rpl_replica_bulk(box.replica, &pfn, &bytes, 1, &box.err), 0);
	}
}

/* Everything, and then what is written meanwhile: sometimes more than is remembered. */
static void copy_all(unsigned rounds)
{
	unsigned page[PAGES], n;

	for (unsigned i = 0; i < PAGES; i++) {
		for (unsigned k = 0; k < RPL_PAGE_SIZE && i % 3; k++)
			box.guest[i][k] = (uint8_t)draw(256);
		page[i] = i;
	}
	copy_in_round(page, PAGES);
	while (rounds--) {
		uint64_t one_in = draw(10) + 1;

		n = 0;
		for (unsigned i = 0; i < PAGES; i++)
			if (draw(one_in) == 0) {
				write_page(box.guest[i]);
				page[n++] = i;
			}
		copy_in_round(page, n);
	}
}

static void receive(void)
{
	const struct rpl_pages *d = &box.decoded;

	for (uint32_t i = 0; i < d->n; i++) {
		const void *page = d->encoding[i] == RPL_PAGE_ZERO ? NULL : d->page[i];
		int r = d->encoding[i] == RPL_PAGE_RAW || d->encoding[i] == RPL_PAGE_ZERO ?
				rpl_replica_pages(box.replica, &d->pfn[i], &page, 1, &box.err) :
				rpl_replica_delta(box.replica, d->pfn[i], d->base[i], d->page[i], d->len[i], &box.err);

		if (r < 0)
			fail_msg("%s", box.err.msg);
	}
}

/* Send these pages in frames; `until`: the connection is lost behind so many, some of which may still arrive. */
static void send(uint64_t epoch, const unsigned *page, unsigned n, unsigned until)
{
	for (unsigned at = 0; at < n && at < until;) {
		unsigned count = (unsigned)draw(RPL_PAGES_PER_FRAME) + 1;
		struct rpl_pages_out o;

		if (count > n - at)
			count = n - at;
		rpl_pages_begin(&o, box.body, count);
		for (unsigned i = 0; i < count; i++)
			sent_put(&box.sent, &o, pfn_of(page[at + i]), box.guest[page[at + i]], epoch, &box.counts);
		assert_int_equal(o.put, count);
		if (rpl_pages_decode(box.body, o.len, &box.decoded, &box.err) < 0)
			fail_msg("%s", box.err.msg);
		if (until == UINT32_MAX || draw(2))
			receive();
		else
			at = n;
		at += count;
	}
}

static void seal(void)
{
	static const uint8_t digest[RPL_DIGEST_SIZE], state[100];

	assert_int_equal(rpl_replica_state(box.replica, state, sizeof(state), &box.err), 0);
	assert_int_equal(rpl_replica_seal(box.replica, digest, &box.err), 0);
}

static void fold_up_to(uint64_t epoch)
{
	struct rpl_replica_where w;

	assert_int_equal(rpl_replica_acked(box.replica, epoch, &box.err), 0);
	if (rpl_replica_fold(box.replica, UINT64_MAX, &box.err) < 0)
		fail_msg("%s", box.err.msg);
	rpl_replica_where(box.replica, &w);
	assert_int_equal(w.folded, epoch);
	assert_memory_equal(box.ram, box.image[epoch % (STAGED_MAX + 1)], sizeof(box.guest));
}

static void run_epoch(uint64_t epoch)
{
	unsigned page[PAGES], n = 0;

	/* a hot tenth, and some others */
	for (unsigned i = 0; i < PAGES; i++)
		if (draw(i % 10 ? 8 : 2) == 0) {
			write_page(box.guest[i]);
			page[n++] = i;
		}
	memcpy(box.image[epoch % (STAGED_MAX + 1)], box.guest, sizeof(box.guest));
	if (draw(8) == 0 && n) {
		/* the connection is lost in it: all is sent again, to a backup that forgot what it got of it */
		assert_int_equal(rpl_replica_begin(box.replica, epoch, &box.err), 0);
		send(epoch, page, n, (unsigned)draw(n));
		rpl_replica_abort(box.replica);
		sent_forget(&box.sent);
	}
	assert_int_equal(rpl_replica_begin(box.replica, epoch, &box.err), 0);
	send(epoch, page, n, UINT32_MAX);
	seal();
}

static void the_replica_is_what_the_guest_was(void **state)
{
	uint64_t folded = FIRST - 1;

	(void)state;
	assert_int_equal(sent_init(&box.sent, CACHE_PAGES * RPL_PAGE_SIZE, &box.err), 0);
	copy_all(ROUNDS);
	for (uint64_t e = FIRST; e < FIRST + EPOCHS; e++) {
		run_epoch(e);
		if (e - folded == STAGED_MAX || draw(3) == 0) {
			folded = e - draw(e - folded);
			fold_up_to(folded);
		}
	}
	fold_up_to(FIRST + EPOCHS - 1);
	print_message("delta %llu, same %llu, zero %llu\n", (unsigned long long)box.counts.delta,
		      (unsigned long long)box.counts.same, (unsigned long long)box.counts.zero);
	assert_true(box.counts.delta > EPOCHS && box.counts.same > 0 && box.counts.zero > 0);
}

static enum rpl_page_encoding form_of(uint64_t pfn, const uint8_t *page, uint64_t epoch)
{
	struct rpl_pages_out o;

	rpl_pages_begin(&o, box.body, 1);
	sent_put(&box.sent, &o, pfn, page, epoch, &box.counts);
	assert_int_equal(rpl_pages_decode(box.body, o.len, &box.decoded, &box.err), 0);
	return (enum rpl_page_encoding)box.decoded.encoding[0];
}

static void the_shortest_form_is_sent(void **state)
{
	uint8_t page[RPL_PAGE_SIZE] = { 1 };

	(void)state;
	assert_int_equal(sent_init(&box.sent, CACHE_PAGES * RPL_PAGE_SIZE, &box.err), 0);
	assert_int_equal(form_of(5, page, 10), RPL_PAGE_RAW);
	assert_int_equal(form_of(5, page, 11), RPL_PAGE_SAME);
	assert_int_equal(box.decoded.base[0], 10);
	page[9] = 1;
	assert_int_equal(form_of(5, page, 12), RPL_PAGE_DELTA);
	assert_int_equal(box.decoded.base[0], 10); /* the last that brought contents */
	page[9] = 2;
	assert_int_equal(form_of(5, page, 13), RPL_PAGE_DELTA);
	assert_int_equal(box.decoded.base[0], 12);
	memset(page, 7, sizeof(page));
	assert_int_equal(form_of(5, page, 14), RPL_PAGE_RAW);
	page[0] = 8;
	assert_int_equal(form_of(5, page, 15), RPL_PAGE_DELTA);
	assert_int_equal(box.decoded.base[0], 14);
	assert_int_equal(form_of(5, rpl_zero_page, 16), RPL_PAGE_ZERO);
	assert_int_equal(form_of(5, page, 17), RPL_PAGE_RAW); /* nobody remembers zeroes */
	sent_forget(&box.sent);
	assert_int_equal(form_of(5, page, 18), RPL_PAGE_RAW);
	assert_int_equal(form_of(5, page, UINT64_C(0x500000000)), RPL_PAGE_RAW); /* no base has this number */
	assert_int_equal(form_of(5, page, UINT64_C(0x500000001)), RPL_PAGE_RAW);
	assert_int_equal(form_of(5, page, UINT64_C(0x500000002)), RPL_PAGE_SAME);
}

static void what_a_round_brought_is_a_base(void **state)
{
	uint8_t page[RPL_PAGE_SIZE] = { 1 };

	(void)state;
	assert_int_equal(sent_init(&box.sent, CACHE_PAGES * RPL_PAGE_SIZE, &box.err), 0);
	assert_true(sent_round(&box.sent, SENT_ROUND_ROOMS * CACHE_PAGES));
	for (uint64_t pfn = 5; pfn < 9; pfn++)
		sent_note(&box.sent, pfn, page);
	assert_int_equal(form_of(5, page, 10), RPL_PAGE_SAME);
	assert_int_equal(box.decoded.base[0], RPL_PAGES_BASE_ROUND);
	page[9] = 1;
	assert_int_equal(form_of(5, page, 11), RPL_PAGE_DELTA);
	assert_int_equal(box.decoded.base[0], RPL_PAGES_BASE_ROUND);
	assert_int_equal(form_of(5, page, 12), RPL_PAGE_SAME);
	assert_int_equal(box.decoded.base[0], 11);
	sent_note(&box.sent, 6, page); /* a later round */
	assert_int_equal(form_of(6, page, 12), RPL_PAGE_SAME);
	sent_note(&box.sent, 7, rpl_zero_page);
	assert_int_equal(form_of(7, page, 12), RPL_PAGE_RAW);
	assert_int_equal(form_of(9, page, 12), RPL_PAGE_RAW);
	assert_true(sent_round(&box.sent, 1)); /* brings none of these anew */
	assert_int_equal(form_of(6, page, 13), RPL_PAGE_SAME);
	/* an epoch that has the number of rounds: what it brings cannot be named */
	page[9] = 2;
	assert_int_equal(form_of(5, page, UINT64_C(0x7ffffffff)), RPL_PAGE_RAW);
	assert_int_equal(form_of(5, page, UINT64_C(0x800000001)), RPL_PAGE_RAW);
	assert_int_equal(form_of(8, page, UINT64_C(0x800000001)), RPL_PAGE_DELTA);
	assert_int_equal(box.decoded.base[0], RPL_PAGES_BASE_ROUND);
	assert_false(sent_round(&box.sent, SENT_ROUND_ROOMS * (CACHE_PAGES + 1))); /* may bring any of these */
	assert_int_equal(form_of(6, page, UINT64_C(0x800000002)), RPL_PAGE_RAW);
}

/* Each first epoch of a session, against what rounds of all sizes left on both sides. */
static void first_epochs_after_rounds(void **state)
{
	struct rpl_uuid session;

	(void)state;
	assert_int_equal(sent_init(&box.sent, CACHE_PAGES * RPL_PAGE_SIZE, &box.err), 0);
	for (unsigned i = 0; i < SESSIONS; i++) {
		rpl_uuid_random(&session);
		rpl_replica_session(box.replica, &session);
		sent_forget(&box.sent);
		copy_all((unsigned)draw(ROUNDS));
		run_epoch(i + 1);
		fold_up_to(i + 1);
		run_epoch(i + 2);
		fold_up_to(i + 2);
	}
	print_message("delta %llu, same %llu\n", (unsigned long long)box.counts.delta, (unsigned long long)box.counts.same);
	assert_true(box.counts.delta > SESSIONS && box.counts.same > 0);
}

static void without_memory_all_goes_as_it_is(void **state)
{
	uint8_t page[RPL_PAGE_SIZE] = { 1 };

	(void)state;
	assert_int_equal(sent_init(&box.sent, 0, &box.err), 0);
	sent_forget(&box.sent);
	assert_false(sent_round(&box.sent, 1));
	for (uint64_t e = 1; e < 4; e++) {
		assert_int_equal(form_of(5, page, e), RPL_PAGE_RAW);
		assert_int_equal(form_of(6, rpl_zero_page, e), RPL_PAGE_ZERO);
	}
}

/* Pages that come again and again stay where a hundred times as many come once. */
static void who_is_met_again_stays(void **state)
{
	uint8_t page[RPL_PAGE_SIZE] = { 1 };
	unsigned same = 0, asked = 0;

	(void)state;
	assert_int_equal(sent_init(&box.sent, CACHE_PAGES * RPL_PAGE_SIZE, &box.err), 0);
	for (uint64_t e = 1; e <= 100; e++) {
		for (uint64_t hot = 0; hot < 16; hot++) {
			same += form_of(hot, page, e) == RPL_PAGE_SAME;
			asked++;
		}
		for (uint64_t i = 0; i < 16; i++)
			(void)form_of(1000 + e * 16 + i, page, e);
	}
	print_message("%u of %u\n", same, asked);
	assert_true(same * 10 >= asked * 8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_replica_is_what_the_guest_was, set_up, tear_down),
		cmocka_unit_test_setup_teardown(the_shortest_form_is_sent, set_up, tear_down),
		cmocka_unit_test_setup_teardown(what_a_round_brought_is_a_base, set_up, tear_down),
		cmocka_unit_test_setup_teardown(first_epochs_after_rounds, set_up, tear_down),
		cmocka_unit_test_setup_teardown(without_memory_all_goes_as_it_is, set_up, tear_down),
		cmocka_unit_test_setup_teardown(who_is_met_again_stays, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
