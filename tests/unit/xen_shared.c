/* PV page tables in the stream's form, the reverse of a p2m, and a collection taken by the memory half. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include <replicad/stream_format.h>

#include "src/guest/xen_shared.h"

#define PAGES 1024u
#define MAX_MFN 0x9000u
#define PTE_FLAGS UINT64_C(0x8000000000000067) /* no-execute, accessed, dirty, user, writable, present */

/* A guest whose frames are scattered backwards over the host. */
static uint64_t mfn_of(uint64_t pfn)
{
	return 0x8000 - pfn * 3;
}

struct pv {
	uint64_t p2m[PAGES];
	struct xen_reverse r;
};

static int setup(void **state)
{
	struct pv *g = test_calloc(1, sizeof(*g));
	struct rpl_err err;

	assert_int_equal(xen_reverse_init(&g->r, MAX_MFN, &err), 0);
	for (uint64_t pfn = 0; pfn < PAGES; pfn++) {
		g->p2m[pfn] = pfn == 9 ? XEN_NO_FRAME : mfn_of(pfn);
		xen_reverse_change(&g->r, pfn, XEN_NO_FRAME, g->p2m[pfn]);
	}
	*state = g;
	return 0;
}

static int teardown(void **state)
{
	struct pv *g = *state;

	xen_reverse_fini(&g->r);
	test_free(g);
	return 0;
}

static void test_reverse(void **state)
{
	struct pv *g = *state;
	uint64_t pfn;

	assert_true(xen_reverse_pfn(&g->r, g->p2m, mfn_of(77), &pfn));
	assert_int_equal(pfn, 77);
	assert_false(xen_reverse_pfn(&g->r, g->p2m, mfn_of(9), &pfn));   /* ballooned out */
	assert_false(xen_reverse_pfn(&g->r, g->p2m, 0x8001, &pfn));      /* somebody else's */
	assert_false(xen_reverse_pfn(&g->r, g->p2m, MAX_MFN + 1, &pfn));
	assert_false(xen_reverse_pfn(&g->r, g->p2m, UINT64_MAX >> 12, &pfn));
}

static void test_moves(void **state)
{
	struct pv *g = *state;
	uint64_t pfn;

	/* two pages change places, in the order in which a scan of the p2m would see it */
	xen_reverse_change(&g->r, 3, mfn_of(3), mfn_of(5));
	g->p2m[3] = mfn_of(5);
	xen_reverse_change(&g->r, 5, mfn_of(5), mfn_of(3));
	g->p2m[5] = mfn_of(3);
	assert_true(xen_reverse_pfn(&g->r, g->p2m, mfn_of(5), &pfn));
	assert_int_equal(pfn, 3);
	assert_true(xen_reverse_pfn(&g->r, g->p2m, mfn_of(3), &pfn));
	assert_int_equal(pfn, 5);
	/* a page is given back; another frame takes its place later */
	xen_reverse_change(&g->r, 7, mfn_of(7), XEN_NO_FRAME);
	g->p2m[7] = XEN_NO_FRAME;
	assert_false(xen_reverse_pfn(&g->r, g->p2m, mfn_of(7), &pfn));
	xen_reverse_change(&g->r, 7, XEN_NO_FRAME, 0x8fff);
	g->p2m[7] = 0x8fff;
	assert_true(xen_reverse_pfn(&g->r, g->p2m, 0x8fff, &pfn));
	assert_int_equal(pfn, 7);
	/* the p2m has the last word over a reverse that was not told */
	g->p2m[7] = XEN_NO_FRAME;
	assert_false(xen_reverse_pfn(&g->r, g->p2m, 0x8fff, &pfn));
}

static void test_every_entry(void **state)
{
	uint64_t table[XEN_PT_ENTRIES];
	struct pv *g = *state;
	unsigned entry;

	for (unsigned i = 0; i < XEN_PT_ENTRIES; i++)
		table[i] = i == 9 ? 0 : mfn_of(i) << RPL_PAGE_SHIFT | PTE_FLAGS;
	assert_int_equal(xen_normalise(table, 1, &g->r, g->p2m, &entry), XEN_NORMAL_OK);
	for (unsigned i = 0; i < XEN_PT_ENTRIES; i++)
		assert_int_equal(table[i], i == 9 ? 0 : (uint64_t)i << RPL_PAGE_SHIFT | PTE_FLAGS);
}

static void test_absent_entries_stay(void **state)
{
	uint64_t table[XEN_PT_ENTRIES] = { [3] = UINT64_C(0x123456789abcd000) & ~UINT64_C(1), [4] = 0x8001ull << 12 };
	struct pv *g = *state;
	unsigned entry;

	assert_int_equal(xen_normalise(table, 1, &g->r, g->p2m, &entry), XEN_NORMAL_OK);
	assert_int_equal(table[3], UINT64_C(0x123456789abcd000));
	assert_int_equal(table[4], 0x8001ull << 12);
}

static void test_xen_slots(void **state)
{
	uint64_t table[XEN_PT_ENTRIES] = { 0 }, copy[XEN_PT_ENTRIES];
	struct pv *g = *state;
	unsigned entry = 0;

	table[255] = mfn_of(1) << RPL_PAGE_SHIFT | 1;
	for (unsigned i = XEN_L4_XEN_FIRST; i <= XEN_L4_XEN_LAST; i++)
		table[i] = UINT64_C(0x8001) << RPL_PAGE_SHIFT | 0x63; /* Xen's */
	table[272] = mfn_of(2) << RPL_PAGE_SHIFT | 1;
	memcpy(copy, table, sizeof(copy));
	assert_int_equal(xen_normalise(table, 4, &g->r, g->p2m, &entry), XEN_NORMAL_OK);
	assert_int_equal(table[255], 1 << RPL_PAGE_SHIFT | 1);
	assert_int_equal(table[256], 0);
	assert_int_equal(table[271], 0);
	assert_int_equal(table[272], 2 << RPL_PAGE_SHIFT | 1);
	/* in any other table such an entry is a foreign frame, and is named */
	assert_int_equal(xen_normalise(copy, 3, &g->r, g->p2m, &entry), XEN_NORMAL_FOREIGN);
	assert_int_equal(entry, 256);
}

static void test_refused_entries(void **state)
{
	uint64_t table[XEN_PT_ENTRIES] = { 0 };
	struct pv *g = *state;
	unsigned entry = 0;

	table[17] = mfn_of(9) << RPL_PAGE_SHIFT | 1; /* a frame that the guest gave back */
	assert_int_equal(xen_normalise(table, 1, &g->r, g->p2m, &entry), XEN_NORMAL_FOREIGN);
	assert_int_equal(entry, 17);
	table[17] = mfn_of(1) << RPL_PAGE_SHIFT | XEN_PTE_LARGE | 1;
	assert_int_equal(xen_normalise(table, 2, &g->r, g->p2m, &entry), XEN_NORMAL_LARGE);
	table[17] = mfn_of(1) << RPL_PAGE_SHIFT | XEN_PTE_LARGE | 1; /* in level 1 the bit means something else */
	assert_int_equal(xen_normalise(table, 1, &g->r, g->p2m, &entry), XEN_NORMAL_OK);
	assert_int_equal(table[17], 1 << RPL_PAGE_SHIFT | XEN_PTE_LARGE | 1);
}

/* ---- the memory half, with a descriptor that maps nothing, or only what a file has */

static bool maps;

/* In the place of libc's: Xen's driver for a file's sake. */
int ioctl(int fd, unsigned long request, ...)
{
	(void)fd;
	(void)request;
	errno = ENOTTY;
	return maps ? 0 : -1;
}

struct half {
	struct rpl_ram_layout l;
	struct xen_shared s;
	struct rpl_memory *m;
	struct rpl_bitmap taken;
};

static void open_half(struct half *h, bool pv)
{
	struct rpl_memory_desc d = { .kind = RPL_MEMORY_XEN, .xen_pv = pv };
	int fds[2] = { memfd_create("no-privcmd", MFD_CLOEXEC), memfd_create("shared", MFD_CLOEXEC) };
	struct rpl_err err = { 0 };

	*h = (struct half){ .taken = { 0 } };
	assert_true(rpl_layout_add(&h->l, 0, PAGES, 0));
	assert_true(pv || rpl_layout_add(&h->l, 0xff8, 8, PAGES));
	assert_true(rpl_xen_layout_add_types(&h->l));
	assert_int_equal(ftruncate(fds[1], (off_t)xen_shared_size(&h->l, pv)), 0);
	assert_int_equal(ftruncate(fds[0], PAGES * RPL_PAGE_SIZE), 0);
	assert_int_equal(xen_shared_map(&h->s, fds[1], &h->l, pv, &err), 0);
	h->s.head->magic = XEN_SHARED_MAGIC;
	h->s.head->running = 1;
	h->s.head->pv = pv;
	h->s.head->max_mfn = PAGES;
	memset(h->s.types, RPL_PAGE_XTAB, rpl_xen_guest_pages(&h->l));
	for (uint64_t p = 0; pv && p < PAGES; p++)
		h->s.p2m[p] = XEN_NO_FRAME;
	d.layout = h->l;
	h->m = rpl_memory_new(&d, fds, 2, &err);
	if (!h->m)
		fail_msg("%s", err.msg);
	assert_int_equal(rpl_bitmap_init(&h->taken, h->l.pfn_limit), 0);
}

static void close_half(struct half *h)
{
	rpl_memory_free(h->m);
	xen_shared_unmap(&h->s);
	rpl_bitmap_fini(&h->taken);
}

static uint64_t take(struct half *h)
{
	struct rpl_err err;
	uint64_t found = 0;

	rpl_bitmap_zero(&h->taken);
	assert_int_equal(rpl_memory_take_dirty(h->m, &h->taken, &found, &err), 0);
	return found;
}

static void test_types_are_pages(void **state)
{
	uint64_t table = 0x1000;
	uint8_t page[RPL_PAGE_SIZE];
	struct rpl_err err;
	struct half h;

	(void)state;
	open_half(&h, false);
	assert_int_equal(rpl_xen_types_pfn(&h.l), table);
	/* a type changes without being reported: an epoch under way must not see it */
	h.s.types[5] = RPL_PAGE_NOTAB;
	assert_int_equal(take(&h), 0);
	assert_int_equal(rpl_xen_page_type(h.m, 5), RPL_PAGE_XTAB);
	/* reported: page and table page */
	xen_shared_set_dirty(&h.s, 5);
	xen_shared_set_dirty(&h.s, rpl_xen_guest_pages(&h.l));
	assert_int_equal(take(&h), 2);
	assert_true(rpl_bitmap_get(&h.taken, 5) && rpl_bitmap_get(&h.taken, table));
	assert_int_equal(rpl_xen_page_type(h.m, 5), RPL_PAGE_NOTAB);
	assert_int_equal(rpl_memory_copy_out(h.m, &table, 1, page, &err), 0);
	assert_int_equal(page[5], RPL_PAGE_NOTAB);
	assert_int_equal(page[6], RPL_PAGE_XTAB);
	assert_memory_equal(rpl_memory_look(h.m, table), page, sizeof(page));
	assert_int_equal(take(&h), 0); /* taken once */
	close_half(&h);
}

static void test_no_memory_is_zeroes(void **state)
{
	uint64_t pfns[] = { 7, 0xffa };
	uint8_t pages[2 * RPL_PAGE_SIZE];
	struct rpl_err err;
	struct half h;

	(void)state;
	open_half(&h, false);
	memset(pages, 0xaa, sizeof(pages));
	assert_int_equal(rpl_memory_copy_out(h.m, pfns, 2, pages, &err), 0);
	for (size_t i = 0; i < sizeof(pages); i++)
		assert_int_equal(pages[i], 0);
	close_half(&h);
}

/* Mapping fails for the whole area: that is our trouble, not a page's, and is an error at any time. */
static void test_cannot_map(void **state)
{
	uint8_t page[RPL_PAGE_SIZE];
	uint64_t pfn = 5;
	struct rpl_err err = { 0 };
	struct half h;

	(void)state;
	open_half(&h, false);
	h.s.types[5] = RPL_PAGE_NOTAB;
	xen_shared_set_dirty(&h.s, 5);
	assert_int_equal(take(&h), 1);
	assert_true(rpl_memory_copy_out(h.m, &pfn, 1, page, &err) < 0);
	assert_non_null(strstr(err.msg, "of domain 0 at file page 0"));
	close_half(&h);
}

static const void *look_at(struct half *h, uint64_t pfn, uint8_t type)
{
	h->s.types[pfn] = type;
	xen_shared_set_dirty(&h->s, pfn);
	assert_int_equal(take(h), 1);
	return rpl_memory_look(h->m, pfn);
}

/* A page that was filled before it became a page table is as it was, and yet is not what is sent of it: machine frames. */
static void test_page_tables_are_not_looked_at(void **state)
{
	static const uint8_t zeroes[RPL_PAGE_SIZE];
	uint8_t page[RPL_PAGE_SIZE];
	uint64_t pfn = 5;
	struct rpl_err err;
	struct half h;

	(void)state;
	open_half(&h, true);
	h.s.p2m[pfn] = 9;
	assert_null(look_at(&h, pfn, RPL_PAGE_NOTAB)); /* it is not mapped */
	maps = true;
	assert_int_equal(rpl_memory_copy_out(h.m, &pfn, 1, page, &err), 0);
	assert_memory_equal(look_at(&h, pfn, RPL_PAGE_NOTAB), zeroes, RPL_PAGE_SIZE);
	for (uint8_t level = RPL_PAGE_L1TAB; level <= RPL_PAGE_L4TAB; level++) {
		assert_null(look_at(&h, pfn, level));
		assert_null(look_at(&h, pfn, level | RPL_PAGE_PINNED));
	}
	assert_memory_equal(look_at(&h, pfn, RPL_PAGE_NOTAB), zeroes, RPL_PAGE_SIZE);
	assert_null(look_at(&h, pfn, RPL_PAGE_XTAB));
	maps = false;
	close_half(&h);
}

static void test_refuses_what_is_not_shared(void **state)
{
	struct rpl_memory_desc d = { .kind = RPL_MEMORY_XEN };
	struct rpl_err err = { 0 };
	int fds[2];

	(void)state;
	assert_true(rpl_layout_add(&d.layout, 0, PAGES, 0));
	assert_true(rpl_xen_layout_add_types(&d.layout));
	for (int i = 0; i < 2; i++) {
		fds[0] = memfd_create("no-privcmd", MFD_CLOEXEC);
		fds[1] = memfd_create("shared", MFD_CLOEXEC);
		assert_int_equal(ftruncate(fds[1], i ? (off_t)xen_shared_size(&d.layout, false) : 100), 0);
		assert_null(rpl_memory_new(&d, fds, 2, &err)); /* too short; no keeper's */
		assert_non_null(strstr(err.msg, i ? "not a keeper's" : "100 bytes are shared"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_reverse, setup, teardown),
		cmocka_unit_test_setup_teardown(test_moves, setup, teardown),
		cmocka_unit_test_setup_teardown(test_every_entry, setup, teardown),
		cmocka_unit_test_setup_teardown(test_absent_entries_stay, setup, teardown),
		cmocka_unit_test_setup_teardown(test_xen_slots, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused_entries, setup, teardown),
		cmocka_unit_test(test_types_are_pages),
		cmocka_unit_test(test_no_memory_is_zeroes),
		cmocka_unit_test(test_cannot_map),
		cmocka_unit_test(test_page_tables_are_not_looked_at),
		cmocka_unit_test(test_refuses_what_is_not_shared),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
