/* What is collected of a Xen guest from epoch to epoch, against a stand-in for Xen's libraries: whatever the guest writes, takes, gives
 * back and makes a page table of, and whether its pages are protected again or their marks kept, a copy that is brought up to
 * date with each set is the guest. The stand-in logs as Xen does: a page is marked at its first write after a CLEAN, PEEK
 * changes nothing, and what a PVH guest takes is writable unmarked until the next CLEAN.
 *
 * RPL_TEST_SEED repeats a run. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <ev.h>

#include <replicad/clock.h>
#include <replicad/guest.h>
#include <replicad/memory.h>
#include <replicad/stream_format.h>
#include <replicad/xen.h>

#include "xen_fake.h"
#include "xen_stage.h"

#define PAGE 4096u
#define ALONE_MS 50
#define SLOTS (FAKE_PAGES + FAKE_SPECIALS)
#define EPOCHS 250u
/* who is where: PV page tables and p2m are below 30 */
#define HOT 100u        /* written in each epoch */
#define HOT_PAGES 100u
#define COLD 300u       /* a few of these, too */
#define COLD_PAGES 300u
#define TABLES 620u     /* PV: are made page tables and ordinary pages */
#define TABLES_PAGES 20u
#define COMES 700u      /* are taken and given back */
#define COMES_PAGES 40u
#define PV_MFN 1500u    /* PV: frames for them: mfns from here */

static char dir[] = "/tmp/xen-dirty-XXXXXX";

/* ---- a guest and the copy of it */

struct copy {
	struct ev_loop *loop;
	struct rpl_guest *guest;
	struct rpl_memory *memory;
	struct rpl_bitmap todo;
	bool waiting;
	int result;
	struct rpl_err err;
	uint64_t guest_limit;
	uint8_t type[SLOTS];
	uint8_t page[SLOTS][PAGE];
};

static void on_done(void *arg, enum rpl_guest_op op, int r, const struct rpl_err *err)
{
	struct copy *c = arg;

	(void)op;
	c->result = r;
	if (r < 0)
		c->err = *err;
	c->waiting = false;
	ev_break(c->loop, EVBREAK_ONE);
}

static void on_event(void *arg, enum rpl_guest_event event, const char *msg)
{
	(void)arg;
	fail_msg("event %s: %s", rpl_guest_event_name(event), msg);
}

static void perform(struct copy *c, void (*op)(struct rpl_guest *))
{
	c->waiting = true;
	op(c->guest);
	while (c->waiting)
		(void)ev_run(c->loop, 0);
	if (c->result < 0)
		fail_msg("%s", c->err.msg);
}

static unsigned any(unsigned n)
{
	return (unsigned)random() % n;
}

static uint64_t logged_ns, looked_ns; /* when logging began; the first look at the guest after it */

static void on_logging(unsigned n)
{
	(void)n;
	logged_ns = rpl_now_ns();
}

static void on_look(void)
{
	if (logged_ns && !looked_ns)
		looked_ns = rpl_now_ns();
}

/* Its rounds end in checkpoints, or in a move or a save. The guest is left alone for a moment when its pages have been protected. */
static struct copy *begin_for(bool pv, bool checkpoints)
{
	struct rpl_guest_conf conf = { .backend = "xen", .name = FAKE_NAME, .run_dir = dir, .checkpoints = checkpoints };
	struct copy *c = test_calloc(1, sizeof(*c));
	struct rpl_memory_desc desc;
	int fds[RPL_MEMORY_FDS_MAX];
	struct rpl_err err;
	size_t n = 0;

	xen_fake_start(pv);
	c->loop = ev_loop_new(EVFLAG_AUTO);
	c->guest = rpl_guest_new(&conf, c->loop, on_done, on_event, c, &err);
	assert_non_null(c->guest);
	perform(c, rpl_guest_attach);
	logged_ns = looked_ns = 0;
	fake.on_clean = on_logging;
	fake.on_look = on_look;
	if (rpl_guest_memory(c->guest, &desc, fds, &n, &err) < 0)
		fail_msg("%s", err.msg);
	fake.on_clean = NULL;
	fake.on_look = NULL;
	assert_true(looked_ns - logged_ns >= ALONE_MS * RPL_MS);
	c->memory = rpl_memory_new(&desc, fds, n, &err);
	assert_non_null(c->memory);
	c->guest_limit = rpl_xen_types_pfn(&desc.layout);
	assert_int_equal(rpl_bitmap_init(&c->todo, desc.layout.pfn_limit), 0);
	for (uint32_t i = 0; i + 1 < desc.layout.count; i++)
		rpl_bitmap_set_range(&c->todo, desc.layout.region[i].pfn, desc.layout.region[i].pages);
	return c;
}

static struct copy *begin(bool pv)
{
	return begin_for(pv, any(2));
}

static void end(struct copy *c)
{
	rpl_memory_free(c->memory);
	rpl_guest_free(c->guest);
	ev_loop_destroy(c->loop);
	rpl_bitmap_fini(&c->todo);
	test_free(c);
	assert_false(fake.suspended);
	assert_false(fake.logging);
	assert_int_equal(fake.buffers, 0);
	assert_int_equal(fake.mappings, 0);
	assert_int_equal(fake.handles, 0);
	xen_fake_end();
}

static void take(struct copy *c)
{
	struct rpl_err err;
	uint64_t found;

	assert_int_equal(rpl_memory_take_dirty(c->memory, &c->todo, &found, &err), 0);
}

/* SIZE_MAX: the layout has a page there, the guest does not. */
static size_t slot_of(uint64_t pfn)
{
	if (pfn < FAKE_PAGES)
		return pfn;
	return pfn >= FAKE_SPECIAL && pfn < FAKE_SPECIAL + FAKE_SPECIALS ? FAKE_PAGES + pfn - FAKE_SPECIAL : SIZE_MAX;
}

static void fetch_page(struct copy *c, uint64_t pfn)
{
	unsigned type = rpl_xen_page_type(c->memory, pfn);
	size_t slot = slot_of(pfn);
	struct rpl_err err;

	if (slot == SIZE_MAX) {
		assert_int_equal(type, RPL_PAGE_XTAB);
		return;
	}
	c->type[slot] = (uint8_t)type;
	if (rpl_memory_copy_out(c->memory, &pfn, 1, c->page[slot], &err) < 0 ||
	    rpl_memory_finish(c->memory, &pfn, 1, c->page[slot], &err) < 0)
		fail_msg("page 0x%lx: %s", (unsigned long)pfn, err.msg);
}

static void fetch(struct copy *c)
{
	for (uint64_t pfn = rpl_bitmap_next(&c->todo, 0); pfn < c->guest_limit; pfn = rpl_bitmap_next(&c->todo, pfn + 1)) {
		rpl_bitmap_clear(&c->todo, pfn);
		fetch_page(c, pfn);
	}
}

static void check(const struct copy *c, unsigned epoch)
{
	for (size_t slot = 0; slot < (fake.pv ? FAKE_PAGES : SLOTS); slot++) {
		uint64_t pfn = slot < FAKE_PAGES ? slot : FAKE_SPECIAL + slot - FAKE_PAGES, want[PAGE / 8];
		unsigned level = fake.type[slot] & 7;

		if (c->type[slot] != fake.type[slot])
			fail_msg("epoch %u: page 0x%lx is of type 0x%x, the copy's of 0x%x", epoch, (unsigned long)pfn, fake.type[slot],
				 c->type[slot]);
		if (!rpl_page_type_has_data(fake.type[slot]))
			continue;
		if (level >= 1 && level <= 4)
			xen_fake_normalised(pfn, want);
		else
			memcpy(want, xen_fake_page(pfn), PAGE);
		if (memcmp(want, c->page[slot], PAGE) != 0)
			fail_msg("epoch %u: what was written to page 0x%lx was missed", epoch, (unsigned long)pfn);
	}
}

/* ---- what the guest does */

static bool is_there(uint64_t pfn)
{
	return rpl_page_type_has_data(fake.type[pfn]);
}

static void write_page(uint64_t pfn)
{
	if (!is_there(pfn))
		return;
	if (fake.type[pfn] & 7) /* it maps one of its own pages */
		xen_fake_write(pfn, any(512) * 8, xen_fake_mfn(COLD + any(COLD_PAGES)) << 12 | 1);
	else
		xen_fake_write(pfn, any(512) * 8, (uint64_t)random() << 20 ^ (uint64_t)random());
}

static void make_table(uint64_t pfn)
{
	memset(xen_fake_page(pfn), 0, PAGE);
	xen_fake_set_type(pfn, fake.type[pfn] ? 0 : any(2) ? 1 : 0x9);
}

static void gain(uint64_t pfn)
{
	if (is_there(pfn))
		return;
	if (fake.pv)
		xen_fake_set_mfn(pfn, PV_MFN + any(2) * COMES_PAGES + pfn - COMES);
	else
		xen_fake_gain(pfn);
	write_page(pfn);
}

static void lose(uint64_t pfn)
{
	if (!is_there(pfn))
		return;
	if (fake.pv)
		xen_fake_set_mfn(pfn, UINT64_MAX);
	else
		xen_fake_lose(pfn);
}

/* An epoch's worth of it. In one epoch it takes memory or gives it back, never both (replicad-xen(7)). */
static void live_on(unsigned others)
{
	unsigned what = any(8);

	for (unsigned i = 0; i < HOT_PAGES; i++)
		write_page(HOT + i);
	for (unsigned i = 0; i < others; i++)
		write_page(COLD + any(COLD_PAGES));
	for (unsigned i = 0; i < 5; i++)
		write_page(COMES + any(COMES_PAGES));
	for (unsigned i = 0; i < 3 && what == 0; i++)
		gain(COMES + any(COMES_PAGES));
	for (unsigned i = 0; i < 3 && what == 1; i++)
		lose(COMES + any(COMES_PAGES));
	if (fake.pv && any(4) == 0)
		make_table(TABLES + any(TABLES_PAGES));
	for (unsigned i = 0; i < 5; i++)
		write_page(TABLES + any(TABLES_PAGES));
}

/* While it is looked at: it takes pages, makes page tables, and writes at once. */
static void run_on(void)
{
	if (any(3) == 0)
		gain(COMES + any(COMES_PAGES));
	if (fake.pv && any(3) == 0)
		make_table(TABLES + any(TABLES_PAGES));
	write_page(COMES + any(COMES_PAGES));
	write_page(COLD + any(COLD_PAGES));
}

static void run_on_after_clean(unsigned n)
{
	(void)n;
	run_on();
}

/* ---- */

/* In every other one on average more is written than is few for this guest. */
static void round_of(struct copy *c)
{
	struct rpl_err err;
	uint64_t pages;

	for (unsigned i = any(2) * COLD_PAGES; i > 0; i--)
		write_page(COLD + i - 1);
	fake.on_look = run_on;
	fake.on_clean = run_on_after_clean;
	assert_int_equal(rpl_guest_collect(c->guest, &pages, &err), 0);
	fake.on_look = NULL;
	fake.on_clean = NULL;
	take(c);
	run_on();
	fetch(c);
	for (unsigned i = 0; i < COMES_PAGES; i++)
		write_page(COMES + i);
	run_on();
}

static void collect(struct copy *c)
{
	perform(c, rpl_guest_pause);
	perform(c, rpl_guest_save);
}

static void checkpoint(struct copy *c, unsigned epoch)
{
	collect(c);
	take(c);
	fetch(c);
	check(c, epoch);
	perform(c, rpl_guest_resume);
}

/* What was collected is not fetched, but waits for the next. */
static void half_checkpoint(struct copy *c)
{
	collect(c);
	perform(c, rpl_guest_resume);
}

static void replicate(bool pv, bool checkpoints)
{
	struct copy *c = begin_for(pv, checkpoints);
	unsigned others;

	for (unsigned i = 0; i < COMES_PAGES; i += 2)
		lose(COMES + i);
	fetch(c);
	checkpoint(c, 0);
	for (unsigned i = 0; i < 6; i++)
		round_of(c);
	checkpoint(c, 0);
	fake.peeks = fake.cleans = 0;
	for (unsigned i = 0; i < EPOCHS; i++) {
		others = i / 25 % 3 == 2 ? 200 : 5; /* chance must not decide whether there is anything to see */
		live_on(others);
		if (any(10) == 0) {
			half_checkpoint(c);
			live_on(others);
		}
		checkpoint(c, i);
		if (i > EPOCHS / 2 && any(50) == 0) { /* live rounds in between */
			for (unsigned k = any(6); k > 0; k--)
				round_of(c);
			checkpoint(c, i);
		}
	}
	print_message("%s: %u epochs, read %u times by CLEAN, %u times by PEEK\n", pv ? "pv" : "pvh", EPOCHS, fake.cleans, fake.peeks);
	assert_true(fake.peeks > EPOCHS / 10);
	assert_true(fake.cleans > EPOCHS / 32);
	end(c);
}

static void test_pv(void **state)
{
	(void)state;
	replicate(true, true);
	replicate(true, false);
}

static void test_pvh(void **state)
{
	(void)state;
	replicate(false, true);
	replicate(false, false);
}

/* Pages that came are protected in the pause that finds them, however the set was read. */
static void test_gained(void **state)
{
	struct copy *c = begin(false);
	unsigned cleans;

	(void)state;
	for (unsigned i = 0; i < COMES_PAGES; i++)
		xen_fake_lose(COMES + i);
	fetch(c);
	for (unsigned i = 0; i < 6; i++) {
		for (unsigned k = 0; k < HOT_PAGES; k++)
			write_page(HOT + k);
		checkpoint(c, i);
	}
	assert_true(fake.peeks >= 2);
	cleans = fake.cleans;
	gain(COMES + COMES_PAGES - 1);
	checkpoint(c, 6);
	assert_int_equal(fake.cleans, cleans + 1);
	write_page(COMES + COMES_PAGES - 1);
	checkpoint(c, 7);
	end(c);
}

/* The bitmap cannot be read: a sentence, and the guest goes on. */
static void test_fails(void **state)
{
	struct copy *c = begin(false);

	(void)state;
	fetch(c);
	for (unsigned i = 0; i < 6; i++) {
		live_on(5);
		checkpoint(c, i);
	}
	assert_true(fake.peeks > 0);
	perform(c, rpl_guest_pause);
	fake.fail_name = "xc_logdirty_control";
	fake.error = ENOMEM;
	c->waiting = true;
	rpl_guest_save(c->guest);
	while (c->waiting)
		(void)ev_run(c->loop, 0);
	assert_int_equal(c->result, -ENOMEM);
	assert_non_null(strstr(c->err.msg, "larger shadow_memory="));
	fake.fail_name = NULL;
	perform(c, rpl_guest_resume);
	end(c);
}

/* The state has this record of the first virtual CPU, with all of it. */
static void has_record(const struct copy *c, uint32_t type, const void *data, uint32_t len)
{
	const uint32_t head[] = { type, 8 + len, 0, 0 };
	size_t state_len = rpl_guest_state_len(c->guest);
	char *state = test_malloc(state_len), *record = test_malloc(sizeof(head) + len);

	assert_int_equal(pread(rpl_guest_state_fd(c->guest), state, state_len, 0), (ssize_t)state_len);
	memcpy(record, head, sizeof(head));
	memcpy(record + sizeof(head), data, len);
	if (!memmem(state, state_len, record, sizeof(head) + len))
		fail_msg("no record of type 0x%x with %u bytes, as it is now", type, len);
	test_free(record);
	test_free(state);
}

static void saves_vcpu(struct copy *c, uint32_t xsave, uint32_t msrs)
{
	struct {
		uint32_t index, reserved;
		uint64_t value;
	} msr[16];
	uint8_t area[4096];

	fake.xsave = xsave;
	fake.msrs = msrs;
	checkpoint(c, fake.suspends);
	memset(area, (int)fake.suspends, sizeof(area));
	has_record(c, RPL_LIBXC_X86_PV_VCPU_XSAVE, area, xsave);
	for (uint32_t i = 0; i < msrs; i++) {
		msr[i].index = i + 1;
		msr[i].reserved = 0;
		msr[i].value = fake.suspends;
	}
	has_record(c, RPL_LIBXC_X86_PV_VCPU_MSRS, msr, msrs * (uint32_t)sizeof(msr[0]));
}

/* A guest begins to use more of its processor: Xen is asked once what there can be, room is made once, and what there is is
 * saved; also if there is more than Xen said. */
static void test_vcpu_grows(void **state)
{
	struct copy *c = begin(true);

	(void)state;
	fetch(c);
	fake.xsave_most = 1088;
	saves_vcpu(c, 592, 1);
	assert_int_equal(fake.asks, 2);
	fake.fail_name = "xc__hypercall_buffer_alloc";
	saves_vcpu(c, 592, 1);
	saves_vcpu(c, 1088, 7);
	saves_vcpu(c, 832, 3);
	assert_int_equal(fake.asks, 2);
	fake.fail_name = NULL;
	fake.xsave_most = 2696;
	saves_vcpu(c, 2696, 3);
	assert_int_equal(fake.asks, 3);
	fake.msrs_most = 11;
	saves_vcpu(c, 2696, 11);
	assert_int_equal(fake.asks, 4);
	end(c);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pv),
		cmocka_unit_test(test_pvh),
		cmocka_unit_test(test_gained),
		cmocka_unit_test(test_fails),
		cmocka_unit_test(test_vcpu_grows),
	};
	struct timespec now;
	unsigned seed;
	int r;

	(void)clock_gettime(CLOCK_REALTIME, &now);
	seed = getenv("RPL_TEST_SEED") ? (unsigned)strtoul(getenv("RPL_TEST_SEED"), NULL, 10) : (unsigned)now.tv_nsec;
	printf("RPL_TEST_SEED=%u\n", seed);
	srandom(seed);
	stage_dir(dir);
	r = cmocka_run_group_tests(tests, NULL, NULL);
	return stage_xl_end(dir, FAKE_NAME) < 0 ? 1 : r;
}
