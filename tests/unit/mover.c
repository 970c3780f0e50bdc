/* Two real movers with a scripted keeper each: what one side's guest was at a checkpoint is what the other side's
 * replica is, whatever happens to the connection, the processes and the sizes. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <replicad/auto.h>
#include <replicad/clock.h>

#include "src/guest/uffd.h"
#include "tests/lib/mover_rig.h"

#define PAGES 1024

/* Both sides' LINK_DOWN, with the same `value`. */
static void expect_down(struct rig *r, uint64_t value)
{
	assert_int_equal(side_expect(&r->p, RPL_MOVER_LINK_DOWN)->value, value);
	(void)side_expect(&r->b, RPL_MOVER_LINK_DOWN);
}

static void run_checkpoints(struct rig *r)
{
	rig_start(r);
	rig_run(r, 300);
	rig_protect(r);
	assert_int_equal(rig_differs(r, r->epoch), -1);
	for (int i = 0; i < 40; i++) {
		r->state_len = 1 + rig_random(r, 20000);
		rig_checkpoint(r, rig_random(r, 200));
	}
	assert_int_equal(rig_count(&r->p.counters->epochs), 41);
	assert_int_equal(rig_count(&r->p.counters->overflows), 0);
	assert_int_equal(rig_count(&r->p.counters->tls_on), r->conf.tls == RPL_TLS_PSK);
	assert_int_equal(rig_count(&r->p.counters->audit_missed), 0);
	assert_true(rig_count(&r->p.counters->zero_pages) > 0);
	assert_int_equal(rig_count(&r->p.counters->raw_bytes), rig_count(&r->b.counters->raw_bytes));
	rig_fini(r);
}

static void checkpoints_arrive_whole(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, PAGES);
	run_checkpoints(&r);
}

/* From inside the sandbox: the library may not need a path or a socket of its own. */
static void and_over_tls(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, PAGES);
	r.conf.tls = RPL_TLS_PSK;
	run_checkpoints(&r);
}

/* The dirty set by comparison: of nothing but the RAM file. */
static void and_by_comparison(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, PAGES);
	r.conf.memory.kind = RPL_MEMORY_COMPARE;
	r.conf.memory.audit = 1;
	r.n_memory_fds = 0;
	run_checkpoints(&r);
}

/* By the kernel's asynchronous write protection of our own mapping: PAGEMAP_SCAN from inside the sandbox. */
static void and_by_write_protection(void **state)
{
	struct rpl_err err;
	struct rig r;

	(void)state;
	if (!uffd_kernel_can())
		skip();
	rig_init(&r, PAGES);
	r.conf.memory.kind = RPL_MEMORY_UFFD;
	r.conf.memory.audit = 1;
	r.conf.memory.vaddr = (uintptr_t)r.p.ram;
	r.n_memory_fds = 2;
	r.memory_fd[0] = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1 /* UFFD_USER_MODE_ONLY */);
	r.memory_fd[1] = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (r.memory_fd[0] < 0 || uffd_api(r.memory_fd[0], &err) < 0)
		skip();
	assert_true(r.memory_fd[1] >= 0);
	if (uffd_arm(r.memory_fd[0], r.memory_fd[1], r.conf.memory.vaddr, PAGES * RPL_PAGE_SIZE, &err) < 0)
		fail_msg("%s", err.msg);
	run_checkpoints(&r);
	(void)close(r.memory_fd[0]);
	(void)close(r.memory_fd[1]);
}

/* A write that no tracker reported is a defect, and counted. */
static void an_audit_finds_what_the_tracker_missed(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, PAGES);
	r.conf.memory.audit = 1;
	rig_start(&r);
	rig_run(&r, 300);
	rig_protect(&r);
	rig_run(&r, 100);
	r.p.ram[17 * RPL_PAGE_SIZE] ^= 1;
	r.p.ram[900 * RPL_PAGE_SIZE] ^= 1;
	atomic_store(&r.dirty[17 / 64], 0);
	atomic_store(&r.dirty[900 / 64], 0);
	rig_stage(&r);
	rig_commit(&r);
	assert_true(rig_count(&r.p.counters->audit_missed) >= 2);
	rig_fini(&r);
}

#define SILENCE_MS 1000

/* The longest silence of both, in ms. */
static unsigned silence_of_a_bulk_copy(void)
{
	const uint64_t pages = 65536;
	uint64_t worst[2] = { 0 };
	struct rig r;

	rig_init(&r, pages);
	memset(r.p.ram, 0x5a, pages * RPL_PAGE_SIZE);
	rig_start(&r);
	rig_session(&r, true);
	side_send(&r.p, RPL_MOVER_ROUND, 0, 0, 0, NULL, -1);
	while (!side_receive(&r.p, 5)) {
		uint64_t now = rpl_now_ns(), heard[2] = { rig_count(&r.p.counters->last_heard_ns),
							  rig_count(&r.b.counters->last_heard_ns) };

		for (int i = 0; i < 2; i++)
			if (now > heard[i] && now - heard[i] > worst[i])
				worst[i] = now - heard[i];
	}
	assert_int_equal(r.p.last.type, RPL_MOVER_ROUND_DONE);
	print_message("longest silence: primary heard nothing for %u ms, backup for %u ms\n",
		      (unsigned)(worst[0] / RPL_MS), (unsigned)(worst[1] / RPL_MS));
	rig_fini(&r);
	return (unsigned)((worst[0] > worst[1] ? worst[0] : worst[1]) / RPL_MS);
}

/* While gigabytes pass, each side hears the other, and the keeper hears its mover. A mover that is silent for as long as it copies
 * is so each time; one that does not get the processor, on a loaded machine, is not. */
static void heartbeats_go_on_during_a_bulk_copy(void **state)
{
	unsigned tries = 1;

	(void)state;
	while (silence_of_a_bulk_copy() >= SILENCE_MS)
		assert_true(tries++ < 5);
}

static bool heard_within(struct rig *r, unsigned ms)
{
	uint64_t before = rig_count(&r->b.counters->last_heard_ns), end = rpl_now_ns() + ms * RPL_MS;

	while (rpl_now_ns() < end) {
		(void)usleep(1000);
		if (rig_count(&r->b.counters->last_heard_ns) > before)
			return true;
	}
	return false;
}

/* A keeper that beat and stopped: its mover says nothing more. */
static void a_mover_whose_keeper_stands_still_is_silent(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, PAGES);
	rig_start(&r);
	rig_session(&r, true);
	assert_true(heard_within(&r, 5000)); /* this keeper does not beat at all */
	atomic_store(&r.p.counters->keeper_beats, 1);
	for (int i = 0; heard_within(&r, 500); i++) /* the heartbeats that the first beat was worth, and those on their way */
		assert_true(i < 20);
	atomic_store(&r.p.counters->keeper_beats, 2);
	assert_true(heard_within(&r, 5000));
	rig_fini(&r);
}

static void keys_are_wiped_from_the_shared_text(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, PAGES);
	r.conf.tls = RPL_TLS_PSK;
	rig_start_primary(&r);
	for (int i = RPL_MOVER_TEXT_KEYS; i < RPL_MOVER_TEXT_SIZE; i++)
		assert_int_equal(r.p.text[i], 0);
	rig_fini(&r);
}

/* Several epochs in flight, acked late and all at once. */
static void uncommitted_epochs_pile_up_to_their_limit(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, PAGES);
	rig_start(&r);
	rig_protect(&r);
	for (int round = 0; round < 5; round++) {
		for (unsigned i = 0; i < r.conf.max_uncommitted; i++) {
			rig_run(&r, 100);
			rig_stage(&r);
		}
		rig_commit(&r);
		rig_wait_folded(&r, r.epoch);
		assert_int_equal(rig_differs(&r, r.epoch), -1);
	}
	rig_fini(&r);
}

/* ---- what changed */

#define WORKING_SET 400 /* pages */

/* Some pages of it change a little, and some not at all. */
static void work(struct rig *r)
{
	for (uint64_t page = 0; page < WORKING_SET; page++) {
		if (rig_random(r, 3) == 0)
			continue;
		if (rig_random(r, 2))
			r->p.ram[page * RPL_PAGE_SIZE + rig_random(r, RPL_PAGE_SIZE)]++;
		atomic_fetch_or(&r->dirty[page / 64], UINT64_C(1) << (page % 64));
	}
}

/* There and back. */
static void flip(struct rig *r)
{
	for (uint64_t page = WORKING_SET; page < WORKING_SET + 50; page++)
		if (rig_random(r, 2)) {
			r->p.ram[page * RPL_PAGE_SIZE + 100] ^= 1;
			atomic_fetch_or(&r->dirty[page / 64], UINT64_C(1) << (page % 64));
		}
}

/* All of it changes a little. */
static void touch(struct rig *r)
{
	for (uint64_t page = 0; page < WORKING_SET; page++) {
		r->p.ram[page * RPL_PAGE_SIZE]++;
		atomic_fetch_or(&r->dirty[page / 64], UINT64_C(1) << (page % 64));
	}
}

static uint64_t work_through(struct rig *r, unsigned epochs)
{
	uint64_t wire;

	rig_start(r);
	rig_run(r, 3000);
	rig_protect(r);
	touch(r);
	rig_stage(r);
	rig_commit(r);
	wire = rig_count(&r->p.counters->wire_bytes);
	for (unsigned i = 0; i < epochs; i++) {
		work(r);
		rig_stage(r);
		rig_commit(r);
	}
	rig_wait_folded(r, r->epoch);
	assert_int_equal(rig_differs(r, r->epoch), -1);
	return rig_count(&r->p.counters->wire_bytes) - wire;
}

static void only_what_changed_is_sent(void **state)
{
	uint64_t whole, changed;
	struct rig r;

	(void)state;
	rig_init(&r, PAGES);
	r.conf.delta_cache_bytes = 0;
	whole = work_through(&r, 20);
	assert_int_equal(rig_count(&r.p.counters->delta_pages) + rig_count(&r.p.counters->same_pages), 0);
	rig_fini(&r);
	rig_init(&r, PAGES);
	r.conf.delta_cache_bytes = 8 << 20;
	changed = work_through(&r, 20);
	assert_true(rig_count(&r.p.counters->delta_pages) > 1000 && rig_count(&r.p.counters->same_pages) > 1000);
	print_message("%llu bytes as they are, %llu of what changed\n", (unsigned long long)whole, (unsigned long long)changed);
	assert_true(changed * 20 < whole);
	rig_fini(&r);
}

/* What the tracker reports and the backup has is neither copied nor sent; the keeper is told what was reported. */
static void what_the_backup_has_is_left_out(void **state)
{
	uint64_t sent, same;
	struct rig r;

	(void)state;
	rig_init(&r, PAGES);
	r.conf.delta_cache_bytes = 8 << 20;
	(void)work_through(&r, 1);
	sent = rig_count(&r.p.counters->pages);
	same = rig_count(&r.p.counters->same_pages);
	for (uint64_t page = 0; page < WORKING_SET; page++)
		r.dirty[page / 64] |= UINT64_C(1) << (page % 64);
	r.p.ram[7 * RPL_PAGE_SIZE]++;
	rig_stage(&r);
	assert_int_equal(r.p.last.value, WORKING_SET);
	rig_commit(&r);
	rig_wait_folded(&r, r.epoch);
	assert_int_equal(rig_differs(&r, r.epoch), -1);
	assert_int_equal(rig_count(&r.p.counters->last_dirty_pages), WORKING_SET);
	sent = rig_count(&r.p.counters->pages) - sent;
	same = rig_count(&r.p.counters->same_pages) - same;
	print_message("%llu sent, %llu left out\n", (unsigned long long)sent, (unsigned long long)same);
	assert_true(sent >= 1 && sent < WORKING_SET / 10); /* pages of zeroes have no base */
	assert_int_equal(sent + same, WORKING_SET);
	rig_fini(&r);
}

#define MANY 8192 /* more than is queued for a backup that does not read */

static void write_all(struct rig *r, uint8_t by)
{
	for (uint64_t i = 0; i < r->pages * RPL_PAGE_SIZE; i++)
		r->p.ram[i] ^= by;
	for (uint64_t i = 0; i < r->pages / 64; i++)
		r->dirty[i] = UINT64_MAX;
}

/* A page that is again as it was before an epoch that waits to be sent: the backup is about to have something else. */
static void what_is_not_sent_yet_is_not_what_the_backup_has(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, MANY);
	r.conf.arena_bytes = 128 << 20;
	r.staging_bytes = 256 << 20;
	r.conf.delta_cache_bytes = 64 << 20;
	rig_start(&r);
	rig_run(&r, MANY);
	rig_protect(&r);
	assert_int_equal(kill(r.b.pid, SIGSTOP), 0);
	write_all(&r, 0x5a);
	rig_stage(&r);
	write_all(&r, 0x5a);
	rig_stage(&r);
	assert_int_equal(rig_count(&r.p.counters->sent_ns[(r.epoch - 1) % RPL_MOVER_SENT_EPOCHS]), 0);
	assert_int_equal(kill(r.b.pid, SIGCONT), 0);
	rig_commit(&r);
	rig_wait_folded(&r, r.epoch);
	assert_int_equal(rig_differs(&r, r.epoch), -1);
	rig_fini(&r);
}

/* What the last rounds brought and what of it changed since: not the pages. */
static void the_first_checkpoint_is_what_changed_since_the_rounds(void **state)
{
	uint64_t pages, whole, changed;
	struct rig r;

	(void)state;
	rig_init(&r, PAGES);
	r.conf.delta_cache_bytes = 8 << 20;
	rig_start(&r);
	rig_session(&r, true);
	rig_run(&r, 3000);
	(void)rig_round(&r);
	touch(&r);
	(void)rig_round(&r);
	touch(&r);
	rig_stage(&r);
	rig_commit(&r);
	rig_wait_folded(&r, r.epoch);
	assert_int_equal(rig_differs(&r, r.epoch), -1);
	pages = rig_count(&r.p.counters->pages);
	changed = rig_count(&r.p.counters->delta_pages) + rig_count(&r.p.counters->same_pages);
	whole = pages - changed - rig_count(&r.p.counters->zero_pages);
	print_message("%llu pages, %llu of them whole\n", (unsigned long long)pages, (unsigned long long)whole);
	assert_true(pages >= WORKING_SET && changed >= WORKING_SET - WORKING_SET / 10);
	rig_fini(&r);
}

/* Pages are forgotten and met again, epochs pile up, connections are lost in between and in the middle. */
static void and_it_makes_the_same_replica_whatever_happens(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, PAGES);
	r.conf.delta_cache_bytes = 1 << 20;
	rig_start(&r);
	rig_run(&r, 3000);
	rig_protect(&r);
	for (int i = 0; i < 30; i++) {
		for (uint64_t n = 1 + rig_random(&r, r.conf.max_uncommitted - 1); n; n--) {
			work(&r);
			rig_run(&r, rig_random(&r, 100));
			flip(&r);
			rig_stage(&r);
		}
		if (rig_random(&r, 3) == 0) {
			(void)usleep((useconds_t)rig_random(&r, 3000));
			rig_cut(&r);
			expect_down(&r, 0);
			rig_session(&r, false);
		}
		rig_commit(&r);
		if (rig_random(&r, 2))
			continue; /* folded some other time */
		rig_wait_folded(&r, r.epoch);
		assert_int_equal(rig_differs(&r, r.epoch), -1);
	}
	rig_wait_folded(&r, r.epoch);
	assert_int_equal(rig_differs(&r, r.epoch), -1);
	assert_true(rig_count(&r.p.counters->delta_pages) > 0 && rig_count(&r.p.counters->same_pages) > 0);
	rig_fini(&r);
}

/* ---- the connection */

/* The arena and the staging area carry the session over: what was in flight is sent again, nothing else. */
static void a_reset_connection_costs_no_bulk_copy(void **state)
{
	uint64_t bulk;
	struct rig r;

	(void)state;
	rig_init(&r, PAGES);
	rig_start(&r);
	rig_run(&r, 300);
	rig_protect(&r);
	bulk = rig_count(&r.p.counters->bulk_pages);
	for (int i = 0; i < 25; i++) {
		rig_run(&r, 150);
		rig_stage(&r);
		if (i % 5 == 0)
			rig_commit(&r);
		(void)usleep((useconds_t)rig_random(&r, 1500));
		rig_cut(&r);
		expect_down(&r, 0);
		rig_run(&r, 50);
		rig_stage(&r); /* without a connection */
		rig_session(&r, false);
		rig_commit(&r);
		rig_wait_folded(&r, r.epoch);
		assert_int_equal(rig_differs(&r, r.epoch), -1);
	}
	assert_int_equal(rig_count(&r.p.counters->bulk_pages), bulk);
	rig_fini(&r);
}

static void an_epoch_cut_in_the_middle_is_sent_again(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, PAGES);
	r.fault[0] = "cut_at_s3:4";
	rig_start(&r);
	rig_protect(&r);
	rig_run(&r, 2000);
	rig_stage(&r);
	expect_down(&r, 0);
	rig_session(&r, false);
	rig_commit(&r);
	rig_wait_folded(&r, r.epoch);
	assert_int_equal(rig_differs(&r, r.epoch), -1);
	rig_checkpoint(&r, 100);
	rig_fini(&r);
}

static void a_lost_ack_is_told_on_resumption(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, PAGES);
	r.fault[1] = "cut_at_s4:2";
	rig_start(&r);
	rig_protect(&r);
	rig_run(&r, 100);
	rig_stage(&r);
	(void)side_expect(&r.b, RPL_MOVER_EPOCH_STAGED);
	side_send(&r.b, RPL_MOVER_ACK, r.epoch, 0, 0, &r.session, -1);
	expect_down(&r, 0);
	assert_int_equal(r.p.acked, r.epoch - 1);
	rig_session(&r, false);
	assert_int_equal(r.p.acked, r.epoch); /* came before PEER_READY */
	rig_wait_folded(&r, r.epoch);
	assert_int_equal(rig_differs(&r, r.epoch), -1);
	rig_checkpoint(&r, 100);
	rig_fini(&r);
}

static void an_ack_decided_without_a_connection_is_kept(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, PAGES);
	rig_start(&r);
	rig_protect(&r);
	rig_stage(&r);
	(void)side_expect(&r.b, RPL_MOVER_EPOCH_STAGED);
	rig_cut(&r);
	expect_down(&r, 0);
	side_send(&r.b, RPL_MOVER_ACK, r.epoch, 0, 0, &r.session, -1);
	rig_wait_folded(&r, r.epoch);
	rig_session(&r, false);
	assert_int_equal(r.p.acked, r.epoch);
	rig_checkpoint(&r, 100);
	rig_fini(&r);
}

static void a_cut_bulk_copy_voids_the_session(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, PAGES);
	rig_start(&r);
	rig_session(&r, true);
	(void)rig_round(&r);
	rig_cut(&r);
	expect_down(&r, 1);
	rig_run(&r, 100);
	rig_protect(&r);
	rig_checkpoint(&r, 100);
	rig_fini(&r);
}

/* A new session's SESSION and the hello that it sends; the backup's mover ends before it answers. */
static void call_in_vain(struct rig *r, uint64_t ends_void)
{
	assert_int_equal(rig_call(r)->hello.flags & RPL_HELLO_RESUME, 0);
	rig_stop_side(&r->b);
	rig_cut(r); /* as its keeper does */
	assert_int_equal(side_expect(&r->p, RPL_MOVER_LINK_DOWN)->value, ends_void);
	rig_start_backup(r);
}

/* The backup lays its standby out for the guest that it hears of, and its mover begins anew: nothing of the session is lost. */
static void a_first_call_in_vain_voids_nothing(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, PAGES);
	rig_start(&r);
	rig_new_session(&r);
	call_in_vain(&r, 0);
	assert_int_equal(rig_call(&r)->hello.flags & RPL_HELLO_RESUME, 0);
	side_send(&r.b, RPL_MOVER_ACCEPT, 0, 0, 0, &r.session, -1);
	assert_int_equal(side_expect(&r.p, RPL_MOVER_PEER_READY)->value, 0);
	assert_int_equal(rig_round(&r), PAGES);
	rig_checkpoint(&r, 100);
	rig_checkpoint(&r, 100);
	rig_fini(&r);
}

/* But one that goes on like that is over, for the keeper to hear of it. */
static void a_second_one_does(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, PAGES);
	rig_start(&r);
	rig_new_session(&r);
	call_in_vain(&r, 0);
	call_in_vain(&r, 1);
	rig_protect(&r);
	rig_checkpoint(&r, 100);
	rig_fini(&r);
}

/* The backup's mover is a new process: it holds nothing, and says so. */
static void a_backup_that_lost_its_state_voids_the_session(void **state)
{
	struct rpl_mover_msg *m;
	struct rig r;

	(void)state;
	rig_init(&r, PAGES);
	rig_start(&r);
	rig_protect(&r);
	rig_stage(&r);
	rig_stop_side(&r.b);
	rig_cut(&r); /* as its keeper does */
	assert_int_equal(side_expect(&r.p, RPL_MOVER_LINK_DOWN)->value, 0);
	rig_start_backup(&r);
	r.b.counters->generation = RPL_GENERATION_UNKNOWN; /* it may have taken over before, and not know it yet */
	rig_connect(&r);
	side_send(&r.p, RPL_MOVER_SESSION, r.epoch, 0, 7, &r.session, -1);
	m = side_expect(&r.p, RPL_MOVER_LINK_DOWN);
	assert_int_equal(m->value, 0);
	rig_expect_text(m, "has not read its record");
	(void)side_expect_past(&r.b, RPL_MOVER_LINK_DOWN, RPL_MOVER_LINK_UP);
	r.b.counters->generation = 8;
	rig_connect(&r);
	side_send(&r.p, RPL_MOVER_SESSION, r.epoch, 0, 7, &r.session, -1);
	m = side_expect(&r.p, RPL_MOVER_LINK_DOWN);
	assert_int_equal(m->value, 1);
	assert_int_equal(m->epoch, ESTALE);
	assert_int_equal(m->generation, 8);
	rig_expect_text(m, "no complete replica of this session");
	(void)side_expect_past(&r.b, RPL_MOVER_LINK_DOWN, RPL_MOVER_LINK_UP);
	side_send(&r.p, RPL_MOVER_STAGE, r.epoch + 1, 100, 0, NULL, -1); /* dropped: the report explains it */
	rig_protect(&r);
	rig_checkpoint(&r, 100);
	rig_fini(&r);
}

static void a_new_session_forgets_the_old_one(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, PAGES);
	rig_start(&r);
	rig_protect(&r);
	rig_checkpoint(&r, 500);
	for (int i = 0; i < 3; i++) {
		rig_run(&r, 500);
		rig_stage(&r);
		rig_cut(&r);
		expect_down(&r, 0);
		rig_protect(&r);
		rig_checkpoint(&r, 100);
	}
	rig_fini(&r);
}

static void a_refusal_carries_its_sentence(void **state)
{
	static const char why[] = "machine: primary sim-1, standby sim-2";
	struct rpl_mover_msg *m;
	struct rig r;

	(void)state;
	rig_init(&r, PAGES);
	rig_start(&r);
	rpl_uuid_random(&r.session);
	rig_connect(&r);
	side_send(&r.p, RPL_MOVER_SESSION, 1, 0, 1, &r.session, -1);
	(void)side_expect(&r.b, RPL_MOVER_LINK_UP);
	memcpy(r.b.text, why, sizeof(why));
	side_send(&r.b, RPL_MOVER_REFUSE, 0, strlen(why), 0, NULL, -1);
	m = side_expect(&r.p, RPL_MOVER_PEER_REFUSED);
	assert_string_equal(m->text, why);
	expect_down(&r, 1);
	rig_protect(&r);
	rig_fini(&r);
}

static void other_frames_reach_the_backups_keeper(void **state)
{
	struct rpl_mover_msg *m;
	struct rig r;

	(void)state;
	rig_init(&r, PAGES);
	rig_start(&r);
	rig_protect(&r);
	side_send(&r.p, RPL_MOVER_SEND, 17, RPL_FRAME_FLUSHED, 0, NULL, -1);
	m = side_expect(&r.b, RPL_MOVER_PEER_FRAME);
	assert_int_equal(m->value, RPL_FRAME_FLUSHED);
	assert_int_equal(m->epoch, 17);
	side_send(&r.p, RPL_MOVER_SEND, r.epoch, RPL_FRAME_HANDOVER, 3, NULL, -1);
	m = side_expect(&r.b, RPL_MOVER_PEER_FRAME);
	assert_int_equal(m->value, RPL_FRAME_HANDOVER);
	assert_int_equal(m->generation, 3);
	assert_true(rpl_uuid_equal(&m->uuid, &r.session));
	side_send(&r.p, RPL_MOVER_SEND, 0, RPL_FRAME_FORGET, 0, NULL, -1);
	m = side_expect(&r.b, RPL_MOVER_PEER_FRAME);
	assert_int_equal(m->value, RPL_FRAME_FORGET);
	expect_down(&r, 0); /* in order, behind it */
	rig_fini(&r);
}

/* ---- sizes */

#define BIG 4096

static void an_epoch_larger_than_the_arena_is_streamed(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, BIG);
	r.conf.arena_bytes = RPL_MOVER_ARENA_MIN;
	rig_start(&r);
	rig_protect(&r);
	rig_checkpoint(&r, 100);
	assert_int_equal(rig_count(&r.p.counters->overflows), 0);
	for (int i = 0; i < 3; i++) {
		for (uint64_t page = 0; page < 3000; page++)
			rig_write(&r, page);
		r.state_len = 300000 + rig_random(&r, 8);
		rig_stage(&r);
		rig_run(&r, 300); /* after STAGED the guest may write at once */
		rig_commit(&r);
		rig_wait_folded(&r, r.epoch);
		assert_int_equal(rig_differs(&r, r.epoch), -1);
	}
	assert_int_equal(rig_count(&r.p.counters->overflows), 3);
	rig_fini(&r);
}

/* It cannot be sent again. */
static void a_cut_epoch_larger_than_the_arena_voids_the_session(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, BIG);
	r.conf.arena_bytes = RPL_MOVER_ARENA_MIN;
	r.fault[0] = "cut_at_s3:12";
	rig_start(&r);
	rig_protect(&r);
	for (uint64_t page = 0; page < BIG; page++)
		rig_write(&r, page);
	side_send(&r.p, RPL_MOVER_STAGE, r.epoch + 1, 100, 0, NULL, -1);
	expect_down(&r, 1);
	rig_protect(&r);
	rig_checkpoint(&r, 100);
	rig_fini(&r);
}

static void an_epoch_beyond_the_backups_staging_is_refused_here(void **state)
{
	const uint64_t pages = 12 * 1024;
	struct rpl_mover_msg *m;
	struct rig r;

	(void)state;
	rig_init(&r, pages);
	r.conf.arena_bytes = 64 << 20;
	r.staging_bytes = RPL_REPLICA_BYTES_MIN;
	rig_start(&r);
	rig_protect(&r);
	for (uint64_t page = 0; page < pages; page++)
		rig_write(&r, page);
	side_send(&r.p, RPL_MOVER_STAGE, r.epoch + 1, 100, 0, NULL, -1);
	m = side_expect(&r.p, RPL_MOVER_LINK_DOWN);
	assert_int_equal(m->value, 1);
	rig_expect_text(m, "the backup has");
	rig_fini(&r);
}

static void the_keeper_is_told_before_the_arena_is_full(void **state)
{
	uint64_t until = rpl_now_ns() + RIG_WAIT_MS * RPL_MS;
	struct rig r;

	(void)state;
	rig_init(&r, BIG);
	r.conf.arena_bytes = RPL_MOVER_ARENA_MIN;
	rig_start(&r);
	rig_protect(&r);
	for (uint64_t page = 0; page < 400; page++)
		rig_write(&r, page);
	assert_false(side_receive(&r.p, 100) && r.p.full);
	for (uint64_t page = 400; page < 900; page++)
		rig_write(&r, page);
	while (!r.p.full && rpl_now_ns() < until)
		(void)side_receive(&r.p, 100);
	assert_int_equal(r.p.full, 1);
	rig_checkpoint(&r, 0);
	assert_int_equal(r.p.full, 1);
	assert_int_equal(rig_count(&r.p.counters->overflows), 0);
	rig_fini(&r);
}

/* ---- processes */

static void find_replica(struct rig *r, uint64_t least)
{
	struct rpl_memory_desc desc = r->conf.memory;
	struct rpl_replica *replica;
	struct rpl_memory *ram;
	struct rpl_err err = { 0 };
	const void *device;
	uint64_t epoch;
	size_t len;
	int fd = dup(r->b.ram_fd);

	desc.kind = RPL_MEMORY_REPLICA;
	ram = rpl_memory_new(&desc, &fd, 1, &err);
	assert_non_null(ram);
	replica = rpl_replica_open(r->b.extra_fd, r->staging_bytes, ram, false, &err);
	assert_non_null(replica);
	if (rpl_replica_activate(replica, &r->session, &epoch, &device, &len, &err) < 0)
		fail_msg("activate: %s", err.msg);
	assert_true(epoch >= least && epoch <= r->epoch);
	assert_int_equal(rig_differs(r, epoch), -1);
	assert_int_equal(len, r->state_len);
	for (size_t i = 0; i < len; i++)
		assert_int_equal(((const uint8_t *)device)[i], (uint8_t)(epoch * 31 + i * 7));
	rpl_replica_close(replica);
	rpl_memory_free(ram);
}

/* It gets a connection; the other end of it. */
static int half_connect(struct side *s)
{
	int sv[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv), 0);
	side_send(s, RPL_MOVER_LINK, 0, 0, 0, NULL, sv[0]);
	return sv[1];
}

/* The other one gets its end after so long. */
static void connect_slowly(struct side *first, struct side *then, unsigned ms)
{
	int end = half_connect(first);

	(void)usleep(ms * 1000);
	side_send(then, RPL_MOVER_LINK, 0, 0, 0, NULL, end);
}

/* A busy host's mover may take longer for a handshake than a working session could wait for one; a dead one is noticed all the same. */
static void a_first_handshake_may_be_slow(void **state)
{
	struct rig r;
	int silent;

	(void)state;
	rig_init(&r, PAGES);
	r.conf.tls = RPL_TLS_PSK;
	r.conf.handshake_timeout_ms = 400;
	rig_start(&r);
	connect_slowly(&r.p, &r.b, 800); /* so the backup is slow to answer ... */
	(void)side_expect(&r.p, RPL_MOVER_LINK_UP);
	connect_slowly(&r.b, &r.p, 800); /* ... and here the primary to call */
	(void)side_expect(&r.p, RPL_MOVER_LINK_UP);
	silent = half_connect(&r.p);
	rig_expect_text(side_expect(&r.p, RPL_MOVER_LINK_DOWN), "TLS handshake not complete after 2400 ms");
	(void)close(silent);
	rig_fini(&r);
}

static void a_later_handshake_may_not(void **state)
{
	struct rig r;
	int silent;

	(void)state;
	rig_init(&r, PAGES);
	r.conf.tls = RPL_TLS_PSK;
	r.conf.handshake_timeout_ms = 400;
	rig_start(&r);
	rig_protect(&r);
	rig_cut(&r);
	expect_down(&r, 0);
	silent = half_connect(&r.p);
	rig_expect_text(side_expect(&r.p, RPL_MOVER_LINK_DOWN), "TLS handshake not complete after 400 ms");
	(void)close(silent);
	rig_fini(&r);
}

/* Takeover: kill both sides' movers at any moment; the newest whole epoch is there, and it is no older than the last
 * ack that the primary heard. */
static void what_was_staged_survives_its_mover(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 12; seed++) {
		struct rig r;

		rig_init(&r, PAGES);
		r.rng = seed * 7919;
		rig_start(&r);
		rig_run(&r, 300);
		rig_protect(&r);
		for (uint64_t i = rig_random(&r, 5); i; i--) {
			rig_run(&r, 200);
			rig_stage(&r);
			rig_commit(&r);
		}
		rig_run(&r, 500);
		rig_stage(&r);
		(void)usleep((useconds_t)rig_random(&r, 1200));
		rig_stop_side(&r.p);
		rig_stop_side(&r.b);
		find_replica(&r, r.p.acked);
		rig_fini(&r);
	}
}

/* ---- any order of events */

/* After a cut: resume where that is possible, else begin a new session. */
static void recover(struct rig *r)
{
	bool session_void = side_expect(&r->p, RPL_MOVER_LINK_DOWN)->value;

	(void)side_expect(&r->b, RPL_MOVER_LINK_DOWN);
	if (session_void)
		rig_protect(r);
	else
		rig_session(r, false);
}

static bool may_stage(const struct rig *r)
{
	return r->epoch - r->p.acked < r->conf.max_uncommitted;
}

static void one_event(struct rig *r)
{
	uint64_t what = rig_random(r, 100);

	if (what < 50) {
		rig_run(r, rig_random(r, 300));
		if (!may_stage(r))
			rig_commit(r);
		r->state_len = 1 + rig_random(r, 100000);
		rig_stage(r);
	} else if (what < 75) {
		rig_commit(r);
		if (rig_random(r, 3) == 0) {
			rig_wait_folded(r, r->epoch);
			assert_int_equal(rig_differs(r, r->epoch), -1);
		}
	} else if (what < 85) {
		(void)usleep((useconds_t)rig_random(r, 1500));
		rig_cut(r);
		recover(r);
	} else if (what < 90) { /* larger than the arena */
		for (uint64_t page = 0; page < 1400; page++)
			rig_write(r, page);
		if (!may_stage(r))
			rig_commit(r);
		rig_stage(r);
	} else if (what < 95) {
		rig_stop_side(&r->b);
		rig_cut(r);
		(void)side_expect(&r->p, RPL_MOVER_LINK_DOWN);
		rig_start_backup(r);
		rig_protect(r);
	} else {
		rig_stop_side(&r->p);
		rig_cut(r);
		(void)side_expect(&r->b, RPL_MOVER_LINK_DOWN);
		rig_start_primary(r);
		rig_protect(r);
	}
}

/* RPL_SEEDS=n tells more of them. */
static void any_story_ends_with_a_true_copy(void **state)
{
	const char *more = getenv("RPL_SEEDS");
	uint64_t seeds = more ? strtoull(more, NULL, 10) : 2;

	(void)state;
	for (uint64_t seed = 1; seed <= seeds; seed++) {
		struct rig r;

		print_message("seed %u\n", (unsigned)seed);
		rig_init(&r, 2048);
		r.rng = seed * UINT64_C(0x9e3779b97f4a7c15);
		r.conf.arena_bytes = RPL_MOVER_ARENA_MIN;
		r.conf.tls = seed % 2 ? RPL_TLS_NONE : RPL_TLS_PSK;
		rig_start(&r);
		rig_run(&r, 500);
		rig_protect(&r);
		for (int i = 0; i < 60; i++)
			one_event(&r);
		rig_commit(&r);
		rig_wait_folded(&r, r.epoch);
		assert_int_equal(rig_differs(&r, r.epoch), -1);
		rig_stop_side(&r.p);
		rig_stop_side(&r.b);
		find_replica(&r, r.epoch);
		rig_fini(&r);
	}
}

static void dies_at(const char *fault, bool backup, uint64_t writes)
{
	struct rig r;
	int status;

	rig_init(&r, 8192);
	r.conf.arena_bytes = 48 << 20;
	r.fault[backup] = fault;
	rig_start(&r);
	rig_protect(&r);
	rig_run(&r, writes);
	r.epoch++;
	memcpy(r.image[(r.epoch) % RIG_EPOCHS] = malloc(r.pages * RPL_PAGE_SIZE), r.p.ram, r.pages * RPL_PAGE_SIZE);
	for (uint64_t i = 0; i < r.state_len; i++)
		assert_int_equal(pwrite(r.p.extra_fd, &(uint8_t){ (uint8_t)(r.epoch * 31 + i * 7) }, 1, (off_t)i), 1);
	side_send(&r.p, RPL_MOVER_STAGE, r.epoch, r.state_len, 0, NULL, -1);
	if (!backup || strstr(fault, "s8")) {
		if (strstr(fault, "s5") || strstr(fault, "s8")) {
			(void)side_expect(&r.b, RPL_MOVER_EPOCH_STAGED);
			side_send(&r.b, RPL_MOVER_ACK, r.epoch, 0, 0, &r.session, -1);
		}
	}
	assert_true(side_gone(backup ? &r.b : &r.p));
	assert_int_equal(waitpid(backup ? r.b.pid : r.p.pid, &status, 0), backup ? r.b.pid : r.p.pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	if (strstr(fault, "s8")) /* the ack left before anything was folded */
		assert_int_equal(side_expect_past(&r.p, RPL_MOVER_ACKED, RPL_MOVER_STAGED)->epoch, r.epoch);
	*(backup ? &r.b.pid : &r.p.pid) = 0;
	rig_stop_side(&r.p);
	rig_stop_side(&r.b);
	find_replica(&r, r.epoch - 1);
	rig_fini(&r);
}

static void death_at_any_step_leaves_a_whole_replica(void **state)
{
	(void)state;
	dies_at("die_at_s2:2", false, 500);
	dies_at("die_at_s3:4", false, 4000);
	dies_at("die_at_s5:2", false, 500);
	dies_at("die_at_s4:2", true, 500);
	dies_at("die_at_s4_sealed:2", true, 500);
	dies_at("die_at_s8", true, 4000);
}

/* The negative control of the end-to-end tests must be visible to an oracle, and to nobody else. */
static void dropped_pages_are_seen_by_comparison_only(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, PAGES);
	r.fault[0] = "drop_epoch_pages:3";
	rig_start(&r);
	rig_protect(&r);
	rig_checkpoint(&r, 100);
	rig_run(&r, 100);
	rig_stage(&r);
	rig_commit(&r);
	rig_wait_folded(&r, r.epoch);
	assert_int_not_equal(rig_differs(&r, r.epoch), -1);
	rig_fini(&r);
}

static void a_mover_ends_with_its_keeper(void **state)
{
	struct rig r;
	int status;

	(void)state;
	rig_init(&r, PAGES);
	rig_start(&r);
	rig_protect(&r);
	rpl_close(&r.p.sock);
	assert_int_equal(waitpid(r.p.pid, &status, 0), r.p.pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	r.p.pid = 0;
	side_send(&r.b, RPL_MOVER_QUIT, 0, 0, 0, NULL, -1);
	assert_int_equal(waitpid(r.b.pid, &status, 0), r.b.pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	r.b.pid = 0;
	rig_fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(checkpoints_arrive_whole),
		cmocka_unit_test(and_over_tls),
		cmocka_unit_test(and_by_comparison),
		cmocka_unit_test(and_by_write_protection),
		cmocka_unit_test(an_audit_finds_what_the_tracker_missed),
		cmocka_unit_test(heartbeats_go_on_during_a_bulk_copy),
		cmocka_unit_test(a_mover_whose_keeper_stands_still_is_silent),
		cmocka_unit_test(keys_are_wiped_from_the_shared_text),
		cmocka_unit_test(uncommitted_epochs_pile_up_to_their_limit),
		cmocka_unit_test(only_what_changed_is_sent),
		cmocka_unit_test(what_the_backup_has_is_left_out),
		cmocka_unit_test(what_is_not_sent_yet_is_not_what_the_backup_has),
		cmocka_unit_test(the_first_checkpoint_is_what_changed_since_the_rounds),
		cmocka_unit_test(and_it_makes_the_same_replica_whatever_happens),
		cmocka_unit_test(a_reset_connection_costs_no_bulk_copy),
		cmocka_unit_test(an_epoch_cut_in_the_middle_is_sent_again),
		cmocka_unit_test(a_lost_ack_is_told_on_resumption),
		cmocka_unit_test(an_ack_decided_without_a_connection_is_kept),
		cmocka_unit_test(a_cut_bulk_copy_voids_the_session),
		cmocka_unit_test(a_first_call_in_vain_voids_nothing),
		cmocka_unit_test(a_second_one_does),
		cmocka_unit_test(a_backup_that_lost_its_state_voids_the_session),
		cmocka_unit_test(a_new_session_forgets_the_old_one),
		cmocka_unit_test(a_refusal_carries_its_sentence),
		cmocka_unit_test(other_frames_reach_the_backups_keeper),
		cmocka_unit_test(an_epoch_larger_than_the_arena_is_streamed),
		cmocka_unit_test(a_cut_epoch_larger_than_the_arena_voids_the_session),
		cmocka_unit_test(an_epoch_beyond_the_backups_staging_is_refused_here),
		cmocka_unit_test(the_keeper_is_told_before_the_arena_is_full),
		cmocka_unit_test(a_first_handshake_may_be_slow),
		cmocka_unit_test(a_later_handshake_may_not),
		cmocka_unit_test(what_was_staged_survives_its_mover),
		cmocka_unit_test(any_story_ends_with_a_true_copy),
		cmocka_unit_test(death_at_any_step_leaves_a_whole_replica),
		cmocka_unit_test(dropped_pages_are_seen_by_comparison_only),
		cmocka_unit_test(a_mover_ends_with_its_keeper),
	};

	cmocka_set_test_filter(getenv("TEST")); /* a pattern; unset: all */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
