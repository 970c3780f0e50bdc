/* The memory half: layouts, holes, the compare and sim trackers, the audit, the replica. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include <replicad/memory.h>

#define LOW 64u   /* pages */
#define SPARE 40u /* above the gap */
#define PAGES (LOW + SPARE)
#define GAP_END 1000u

struct ram {
	int fd, dirty_fd;
	uint8_t *map;
	uint64_t *dirty;
	struct rpl_memory *m;
	struct rpl_bitmap taken;
};

static struct rpl_ram_layout split_layout(void)
{
	struct rpl_ram_layout l = { 0 };

	assert_true(rpl_layout_add(&l, 0, LOW, 0));
	assert_true(rpl_layout_add(&l, GAP_END, SPARE, LOW));
	return l;
}

static void *make(int *fd, size_t len)
{
	void *p;

	*fd = memfd_create("test", MFD_CLOEXEC);
	assert_true(*fd >= 0);
	assert_int_equal(ftruncate(*fd, (off_t)len), 0);
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	assert_true(p != MAP_FAILED);
	return p;
}

static void open_ram(struct ram *r, enum rpl_memory_kind kind, bool audit)
{
	struct rpl_memory_desc d = { .kind = kind, .audit = audit, .layout = split_layout() };
	struct rpl_err err = { 0 };
	int fds[2];

	*r = (struct ram){ .dirty_fd = -1 };
	r->map = make(&r->fd, PAGES * RPL_PAGE_SIZE);
	if (kind == RPL_MEMORY_SIM)
		r->dirty = make(&r->dirty_fd, RPL_BITMAP_WORDS(PAGES) * 8);
	fds[0] = dup(r->fd);
	fds[1] = kind == RPL_MEMORY_SIM ? dup(r->dirty_fd) : -1;
	r->m = rpl_memory_new(&d, fds, kind == RPL_MEMORY_SIM ? 2 : 1, &err);
	assert_non_null(r->m);
	assert_int_equal(rpl_bitmap_init(&r->taken, GAP_END + SPARE), 0);
}

static void close_ram(struct ram *r)
{
	rpl_memory_free(r->m);
	rpl_bitmap_fini(&r->taken);
	(void)munmap(r->map, PAGES * RPL_PAGE_SIZE);
	(void)close(r->fd);
	if (r->dirty)
		(void)munmap(r->dirty, RPL_BITMAP_WORDS(PAGES) * 8);
	if (r->dirty_fd >= 0)
		(void)close(r->dirty_fd);
}

static uint64_t take(struct ram *r)
{
	struct rpl_err err = { 0 };
	uint64_t n = 0;

	rpl_bitmap_zero(&r->taken);
	assert_int_equal(rpl_memory_take_dirty(r->m, &r->taken, &n, &err), 0);
	assert_int_equal(n, rpl_bitmap_count(&r->taken));
	return n;
}

static uint64_t blocks(const struct ram *r)
{
	struct stat st;

	assert_int_equal(fstat(r->fd, &st), 0);
	return (uint64_t)st.st_blocks / 8;
}

/* ---- layout */

static void layouts_from_elsewhere_are_checked(void **state)
{
	struct rpl_ram_layout l = split_layout(), bad;
	struct rpl_err err;
	uint64_t p;

	(void)state;
	assert_true(rpl_layout_check(&l, &err));
	assert_true(rpl_layout_file_page(&l, GAP_END, &p));
	assert_int_equal(p, LOW);
	assert_true(rpl_layout_pfn(&l, LOW + 3, &p));
	assert_int_equal(p, GAP_END + 3);
	assert_false(rpl_layout_file_page(&l, LOW, &p));
	assert_false(rpl_layout_file_page(&l, GAP_END + SPARE, &p));
	assert_false(rpl_layout_pfn(&l, PAGES, &p));
#define BAD(change) (bad = l, change, assert_false(rpl_layout_check(&bad, &err)))
	BAD(bad.count = 0);
	BAD(bad.count = RPL_RAM_REGIONS_MAX + 1);
	BAD(bad.reserved = 1);
	BAD(bad.pages++);
	BAD(bad.pfn_limit++);
	BAD(bad.region[1].pfn = LOW - 1);
	BAD(bad.region[1].pages = 0);
	BAD(bad.region[1].pages = UINT64_MAX);
	BAD(bad.region[1].pfn = UINT64_MAX - 5);
	BAD(bad.region[1].file_page = LOW - 1);     /* shares a file page with the first */
	BAD(bad.region[1].file_page = LOW + 1);     /* leaves the file */
	BAD(bad.region[1].file_page = UINT64_MAX);
#undef BAD
}

static void a_description_that_does_not_fit_is_refused(void **state)
{
	struct rpl_memory_desc d = { .kind = RPL_MEMORY_COMPARE, .layout = split_layout() };
	struct rpl_err err;
	int fd;

	(void)state;
	(void)munmap(make(&fd, (PAGES - 1) * RPL_PAGE_SIZE), (PAGES - 1) * RPL_PAGE_SIZE);
	assert_null(rpl_memory_new(&d, &(int){ dup(fd) }, 1, &err));
	assert_non_null(strstr(err.msg, "the layout needs"));
	d.kind = RPL_MEMORY_UFFD;
	assert_null(rpl_memory_new(&d, &(int){ dup(fd) }, 1, &err));
	d.kind = RPL_MEMORY_NKINDS;
	assert_null(rpl_memory_new(&d, &(int){ dup(fd) }, 1, &err));
	(void)close(fd);
}

/* ---- compare */

static void compare_finds_what_changed_and_only_that(void **state)
{
	struct ram r;
	uint8_t page[2][RPL_PAGE_SIZE];
	struct rpl_err err;

	(void)state;
	open_ram(&r, RPL_MEMORY_COMPARE, false);
	assert_true(rpl_memory_compares(r.m));
	assert_int_equal(rpl_memory_peek_dirty(r.m, &(uint64_t){ 0 }, &err), -EOPNOTSUPP);
	assert_int_equal(take(&r), 0);
	r.map[5 * RPL_PAGE_SIZE + 4095] = 1;
	r.map[(LOW + 2) * RPL_PAGE_SIZE] = 2;
	assert_int_equal(take(&r), 2);
	assert_true(rpl_bitmap_get(&r.taken, 5));
	assert_true(rpl_bitmap_get(&r.taken, GAP_END + 2));
	assert_int_equal(take(&r), 0);
	assert_int_equal(rpl_memory_copy_out(r.m, (uint64_t[]){ GAP_END + 2, 5 }, 2, page, &err), 0);
	assert_int_equal(page[0][0], 2);
	assert_int_equal(page[1][4095], 1);
	close_ram(&r);
}

/* A page changes after a take, is copied, and changes back: what was copied must be what the next take builds on. */
static void compare_copies_what_its_last_take_saw(void **state)
{
	uint8_t page[RPL_PAGE_SIZE];
	struct rpl_err err;
	struct ram r;

	(void)state;
	open_ram(&r, RPL_MEMORY_COMPARE, false);
	r.map[0] = 1;
	assert_int_equal(take(&r), 1);
	r.map[0] = 2;
	assert_int_equal(rpl_memory_copy_out(r.m, &(uint64_t){ 0 }, 1, page, &err), 0);
	r.map[0] = 1;
	assert_int_equal(take(&r), 0);
	assert_int_equal(page[0], 1);
	close_ram(&r);
}

static void a_page_that_became_a_hole_is_seen(void **state)
{
	struct ram r;

	(void)state;
	open_ram(&r, RPL_MEMORY_COMPARE, true);
	memset(r.map + 7 * RPL_PAGE_SIZE, 9, RPL_PAGE_SIZE);
	assert_int_equal(take(&r), 1);
	assert_int_equal(fallocate(r.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 7 * RPL_PAGE_SIZE, RPL_PAGE_SIZE), 0);
	assert_int_equal(take(&r), 1);
	assert_true(rpl_bitmap_get(&r.taken, 7));
	close_ram(&r);
}

static void looking_does_not_fill_holes(void **state)
{
	static uint8_t pages[LOW][RPL_PAGE_SIZE];
	uint64_t pfns[LOW], missed;
	struct rpl_err err;
	struct ram r;

	(void)state;
	for (uint64_t i = 0; i < LOW; i++)
		pfns[i] = i;
	for (int kind = RPL_MEMORY_SIM; kind <= RPL_MEMORY_COMPARE; kind++) {
		if (kind == RPL_MEMORY_UFFD)
			continue; /* needs a userfaultfd: tests/unit/guest.c */
		open_ram(&r, (enum rpl_memory_kind)kind, true);
		r.map[3 * RPL_PAGE_SIZE] = 1;
		(void)take(&r);
		assert_int_equal(rpl_memory_copy_out(r.m, pfns, LOW, pages, &err), 0);
		assert_int_equal(pages[3][0], 1);
		assert_int_equal(pages[4][0], 0);
		assert_int_equal(rpl_memory_audit(r.m, &r.taken, &missed, &err), 0);
		assert_int_equal(blocks(&r), 1);
		close_ram(&r);
	}
}

/* ---- sim and audit */

static void write_marked(struct ram *r, uint64_t file_page, uint8_t v)
{
	r->map[file_page * RPL_PAGE_SIZE] = v;
	r->dirty[file_page / 64] |= UINT64_C(1) << (file_page % 64);
}

static void sim_reports_what_the_guest_marked(void **state)
{
	struct rpl_err err;
	struct ram r;
	uint64_t n;

	(void)state;
	open_ram(&r, RPL_MEMORY_SIM, false);
	write_marked(&r, 1, 1);
	write_marked(&r, LOW + SPARE - 1, 1);
	assert_int_equal(rpl_memory_peek_dirty(r.m, &n, &err), 0);
	assert_int_equal(n, 2);
	assert_int_equal(take(&r), 2);
	assert_true(rpl_bitmap_get(&r.taken, 1));
	assert_true(rpl_bitmap_get(&r.taken, GAP_END + SPARE - 1));
	assert_int_equal(take(&r), 0);
	close_ram(&r);
}

static void the_audit_catches_a_tracker_that_misses(void **state)
{
	struct rpl_err err;
	uint64_t missed;
	struct ram r;

	(void)state;
	open_ram(&r, RPL_MEMORY_SIM, true);
	write_marked(&r, 4, 1);
	(void)take(&r);
	assert_int_equal(rpl_memory_audit(r.m, &r.taken, &missed, &err), 0);
	assert_int_equal(missed, 0);
	write_marked(&r, 4, 2);
	(void)take(&r); /* a live round ... */
	r.map[5 * RPL_PAGE_SIZE] = 1; /* not marked */
	(void)take(&r);
	assert_int_equal(rpl_memory_audit(r.m, NULL, &missed, &err), 0);
	assert_int_equal(missed, 1); /* ... whose pages count as reported */
	assert_int_equal(rpl_memory_audit(r.m, NULL, &missed, &err), 0);
	assert_int_equal(missed, 0);
	close_ram(&r);
}

/* ---- replica */

static void a_replica_stores_and_leaves_holes(void **state)
{
	uint8_t page[RPL_PAGE_SIZE], back[RPL_PAGE_SIZE];
	struct rpl_err err;
	struct ram r;

	(void)state;
	open_ram(&r, RPL_MEMORY_REPLICA, false);
	memset(page, 0x5a, sizeof(page));
	for (uint64_t i = 0; i < LOW; i++)
		assert_int_equal(rpl_memory_copy_in(r.m, &i, &(const void *){ i == 9 ? page : NULL }, 1, &err), 0);
	assert_int_equal(blocks(&r), 1);
	assert_int_equal(rpl_memory_copy_in(r.m, &(uint64_t){ GAP_END }, &(const void *){ page }, 1, &err), 0);
	assert_memory_equal(r.map + LOW * RPL_PAGE_SIZE, page, RPL_PAGE_SIZE);
	assert_int_equal(rpl_memory_copy_in(r.m, &(uint64_t){ 9 }, &(const void *){ NULL }, 1, &err), 0);
	assert_int_equal(rpl_memory_copy_out(r.m, &(uint64_t){ 9 }, 1, back, &err), 0);
	assert_int_equal(back[0], 0);
	assert_int_equal(rpl_memory_copy_in(r.m, &(uint64_t){ LOW }, &(const void *){ page }, 1, &err), -ERANGE);
	assert_int_equal(rpl_memory_take_dirty(r.m, &r.taken, &(uint64_t){ 0 }, &err), -EOPNOTSUPP);
	assert_null(rpl_memory_page(r.m, LOW));
	assert_ptr_equal(rpl_memory_page(r.m, GAP_END), (uint8_t *)rpl_memory_page(r.m, 0) + LOW * RPL_PAGE_SIZE);
	close_ram(&r);
}

/* A hole that is remembered must be forgotten where it was filled: stale zeroes would stay otherwise. */
static void old_contents_are_overwritten_by_zeroes(void **state)
{
	uint8_t page[RPL_PAGE_SIZE];
	struct rpl_err err;
	struct ram r;

	(void)state;
	open_ram(&r, RPL_MEMORY_REPLICA, false);
	r.map[20 * RPL_PAGE_SIZE] = 1; /* left from an earlier session */
	memset(page, 3, sizeof(page));
	for (uint64_t i = 0; i < LOW; i++)
		assert_int_equal(rpl_memory_copy_in(r.m, &i, &(const void *){ NULL }, 1, &err), 0);
	assert_int_equal(r.map[20 * RPL_PAGE_SIZE], 0);
	assert_int_equal(rpl_memory_copy_in(r.m, &(uint64_t){ 30 }, &(const void *){ page }, 1, &err), 0);
	assert_int_equal(rpl_memory_copy_in(r.m, &(uint64_t){ 30 }, &(const void *){ NULL }, 1, &err), 0);
	assert_int_equal(r.map[30 * RPL_PAGE_SIZE], 0);
	close_ram(&r);
}

static void a_guests_ram_is_not_written(void **state)
{
	struct rpl_err err;
	struct ram r;

	(void)state;
	open_ram(&r, RPL_MEMORY_COMPARE, false);
	assert_int_equal(rpl_memory_copy_in(r.m, &(uint64_t){ 0 }, &(const void *){ NULL }, 1, &err), -EPERM);
	close_ram(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(layouts_from_elsewhere_are_checked),
		cmocka_unit_test(a_description_that_does_not_fit_is_refused),
		cmocka_unit_test(compare_finds_what_changed_and_only_that),
		cmocka_unit_test(compare_copies_what_its_last_take_saw),
		cmocka_unit_test(a_page_that_became_a_hole_is_seen),
		cmocka_unit_test(looking_does_not_fill_holes),
		cmocka_unit_test(sim_reports_what_the_guest_marked),
		cmocka_unit_test(the_audit_catches_a_tracker_that_misses),
		cmocka_unit_test(a_replica_stores_and_leaves_holes),
		cmocka_unit_test(old_contents_are_overwritten_by_zeroes),
		cmocka_unit_test(a_guests_ram_is_not_written),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
