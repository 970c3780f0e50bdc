/* A replica that is a domain's memory: whole pages and what changed of pages, stored through mappings that come and go, are what the
 * domain then has. privcmd is a memfd of machine memory here, and its ioctl maps that. */
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
#include <replicad/io.h>
#include <replicad/memory.h>
#include <replicad/xen.h>

#include "src/guest/uapi_privcmd.h"
#include "src/guest/xen_shared.h"
#include "tests/lib/draw.h"

#define LOW 0x10u
#define LOW_PAGES 1100u
#define HIGH 0x1000u
#define HIGH_PAGES 90u
#define PAGES (LOW_PAGES + HIGH_PAGES)
#define FRAMES (HIGH + HIGH_PAGES)
#define MFN_FIRST 7u /* PV: machine frames are others than the guest's */
#define DOMID 9
#define NONE UINT64_MAX
#define BATCH_MAX 150u
#define MAPS_MAX (1u << 20)

static struct rig {
	struct rpl_memory_desc desc;
	struct rpl_memory *m;
	struct xen_shared shared;
	int machine_fd, shared_fd;
	uint8_t *machine;              /* all of it, as the domain has it */
	uint8_t (*want)[RPL_PAGE_SIZE]; /* by page of the layout, its types behind */
	uint64_t bad;                   /* this frame cannot be mapped */
} rig;

int __real_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, void *arg)
{
	const struct privcmd_map *m = arg;
	bool failed = false;

	if (request != PRIVCMD_MAP)
		return __real_ioctl(fd, request, arg);
	assert_int_equal(m->dom, DOMID);
	for (unsigned i = 0; i < m->num; i++) {
		uint8_t *at = (uint8_t *)(uintptr_t)m->addr + ((size_t)i << RPL_PAGE_SHIFT);

		m->err[i] = m->arr[i] == rig.bad ? -ENOENT : 0;
		failed |= m->err[i] < 0;
		if (m->err[i] == 0)
			assert_ptr_equal(mmap(at, RPL_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
					      (off_t)(m->arr[i] << RPL_PAGE_SHIFT)), at);
	}
	errno = ENOENT;
	return failed ? -1 : 0;
}

static uint64_t mfn_of(uint64_t p)
{
	return MFN_FIRST + (p * 7919) % PAGES;
}

static uint64_t pfn_of(uint64_t p)
{
	uint64_t pfn;

	assert_true(rpl_layout_pfn(&rig.desc.layout, p, &pfn));
	return pfn;
}

static uint8_t *frame_of(uint64_t p)
{
	return rig.machine + ((rig.desc.xen_pv ? mfn_of(p) : pfn_of(p)) << RPL_PAGE_SHIFT);
}

static void open_rig(bool pv)
{
	struct rpl_ram_layout *l = &rig.desc.layout;
	struct rpl_err err = { 0 };

	rig = (struct rig){ .desc = { .kind = RPL_MEMORY_DOMAIN, .xen_pv = pv }, .bad = NONE };
	assert_true(rpl_layout_add(l, LOW, LOW_PAGES, 0) && rpl_layout_add(l, HIGH, HIGH_PAGES, LOW_PAGES) && rpl_xen_layout_add_types(l));
	rig.machine_fd = memfd_create("machine", MFD_CLOEXEC);
	rig.shared_fd = memfd_create("shared", MFD_CLOEXEC);
	assert_int_equal(ftruncate(rig.machine_fd, (off_t)FRAMES << RPL_PAGE_SHIFT), 0);
	assert_int_equal(ftruncate(rig.shared_fd, (off_t)xen_shared_size(l, pv)), 0);
	rig.machine = mmap(NULL, (size_t)FRAMES << RPL_PAGE_SHIFT, PROT_READ | PROT_WRITE, MAP_SHARED, rig.machine_fd, 0);
	assert_true(rig.machine != MAP_FAILED);
	rig.want = calloc(l->pages, RPL_PAGE_SIZE);
	assert_non_null(rig.want);
	assert_int_equal(xen_shared_map(&rig.shared, rig.shared_fd, l, pv, &err), 0);
	*rig.shared.head = (struct xen_shared_head){ .magic = XEN_SHARED_MAGIC, .domid = DOMID, .pv = pv };
	for (uint64_t p = 0; pv && p < PAGES; p++)
		rig.shared.p2m[p] = mfn_of(p);
	rig.m = rpl_memory_new(&rig.desc, (int[]){ dup(rig.machine_fd), dup(rig.shared_fd) }, 2, &err);
	if (!rig.m)
		fail_msg("%s", err.msg);
}

/* Mappings of the domain's frames beside our own. */
static unsigned mappings(void)
{
	RPL_AUTO_FREE char *maps = NULL;
	unsigned n = 0;

	assert_int_equal(rpl_read_file("/proc/self/maps", MAPS_MAX, &maps, NULL, NULL), 0);
	for (const char *at = maps; (at = strstr(at, "memfd:machine")); at++)
		n++;
	return n - 1;
}

static void close_rig(void)
{
	rpl_memory_free(rig.m);
	assert_int_equal(mappings(), 0); /* else Xen would not let the domain run */
	xen_shared_unmap(&rig.shared);
	(void)munmap(rig.machine, (size_t)FRAMES << RPL_PAGE_SHIFT);
	(void)close(rig.machine_fd);
	(void)close(rig.shared_fd);
	free(rig.want);
}

static const uint8_t *there(uint64_t p)
{
	return p < PAGES ? frame_of(p) : rig.shared.types + ((p - PAGES) << RPL_PAGE_SHIFT);
}

static void check_all(void)
{
	for (uint64_t p = 0; p < rig.desc.layout.pages; p++)
		if (memcmp(there(p), rig.want[p], RPL_PAGE_SIZE) != 0)
			fail_msg("page %u is another one", (unsigned)p);
}

/* One call's worth of pages, with what they are to become. */
struct batch {
	uint64_t pfn[BATCH_MAX];
	const void *page[BATCH_MAX];
	bool delta[BATCH_MAX];
	uint8_t bytes[BATCH_MAX][RPL_PAGE_SIZE];
	size_t n;
};

/* The page becomes another one, whole or by what changes. */
static void add(struct batch *b, uint64_t p, bool by_delta)
{
	uint8_t *want = rig.want[p], base[RPL_PAGE_SIZE];
	size_t i = b->n++, len;

	b->pfn[i] = pfn_of(p);
	b->page[i] = b->bytes[i];
	b->delta[i] = false;
	memcpy(base, want, RPL_PAGE_SIZE);
	for (unsigned k = 1 + (unsigned)draw(20); k; k--)
		want[draw(RPL_PAGE_SIZE)]++;
	if (!by_delta && draw(4) == 0) {
		memset(want, 0, RPL_PAGE_SIZE);
		b->page[i] = NULL;
		return;
	}
	len = by_delta ? rpl_delta_make(want, base, b->bytes[i]) : 0;
	b->delta[i] = len > 0 && len <= RPL_DELTA_MAX;
	if (!b->delta[i])
		memcpy(b->bytes[i], want, RPL_PAGE_SIZE);
}

static int patch(const struct batch *b, struct rpl_err *err)
{
	return rpl_memory_patch(rig.m, b->pfn, b->page, b->delta, b->n, err);
}

/* Epoch upon epoch of a working set: pages of chunks that are kept mapped, and of others. */
static void epochs(void)
{
	static struct batch b;
	struct rpl_err err = { 0 };

	for (unsigned epoch = 0; epoch < 60; epoch++) {
		b.n = 0;
		for (size_t n = 1 + draw(BATCH_MAX); n; n--) /* few at first, of all of it; more of less later */
			add(&b, draw(epoch % 3 ? 200 : rig.desc.layout.pages), draw(3) > 0);
		if (patch(&b, &err) < 0)
			fail_msg("epoch %u: %s", epoch, err.msg);
		check_all();
	}
	assert_true(mappings() > 0);
}

static void what_changed_is_stored(void **state)
{
	(void)state;
	for (int pv = 0; pv < 2; pv++) {
		open_rig(pv);
		epochs();
		close_rig();
	}
}

/* A frame that cannot be mapped, in the window and in a chunk that is to be kept: the call fails, and is made again, as folding is. */
static void a_failed_call_is_made_again(void **state)
{
	static const unsigned first[] = { 5, 20, 65 }; /* all in the window; a chunk is kept with the second call, with the first */
	static struct batch b;
	struct rpl_err err = { 0 };

	(void)state;
	for (size_t k = 0; k < RPL_ARRAY_LEN(first); k++) {
		unsigned n = first[k];

		open_rig(false);
		b.n = 0;
		for (uint64_t p = 0; p < n; p++)
			add(&b, p, false);
		assert_int_equal(patch(&b, &err), 0);
		b.n = 0;
		for (uint64_t p = 0; p < n; p++)
			add(&b, p + n / 2, p % 2);
		rig.bad = pfn_of(n - 1);
		assert_int_equal(mappings() > 0, n == 65);
		if (n == 65) { /* it is mapped */
			assert_int_equal(patch(&b, &err), 0);
		} else {
			assert_int_equal(patch(&b, &err), -ENOENT);
			assert_non_null(strstr(err.msg, "map frame 0x"));
			assert_int_equal(mappings(), 0);
		}
		rig.bad = NONE;
		assert_int_equal(patch(&b, &err), 0);
		check_all();
		close_rig();
	}
}

static void others_than_they_were_made_of_are_found(void **state)
{
	static struct batch b;
	struct rpl_err err = { 0 };

	(void)state;
	open_rig(false);
	b.n = 0;
	add(&b, 3, false);
	assert_int_equal(patch(&b, &err), 0);
	b.n = 0;
	rig.want[3][9] = 1;
	add(&b, 3, true);
	assert_true(b.delta[0]);
	frame_of(3)[4095] ^= 1;
	assert_int_equal(patch(&b, &err), -EBADMSG);
	close_rig();
}

/* What waited when a page outside the layout ended the call is not stored by the next one, whose caller has let go of it. */
static void a_refused_call_leaves_nothing_behind(void **state)
{
	static struct batch b;
	struct rpl_err err = { 0 };

	(void)state;
	open_rig(false);
	b.n = 0;
	add(&b, 5, false);
	add(&b, 6, false);
	b.pfn[1] = LOW - 1;
	assert_int_equal(patch(&b, &err), -ERANGE);
	memset(rig.want[5], 0, RPL_PAGE_SIZE);
	memset(rig.want[6], 0, RPL_PAGE_SIZE);
	memset(b.bytes, 0x5a, sizeof(b.bytes));
	b.n = 1;
	add(&b, 7, true);
	b.pfn[0] = pfn_of(6);
	b.page[0] = NULL;
	assert_int_equal(patch(&b, &err), 0);
	check_all();
	close_rig();
}

/* What xenstored and xenconsoled look at already gets no contents, whole or in part. */
static void rings_are_left_alone(void **state)
{
	static struct batch b;
	struct rpl_err err = { 0 };

	(void)state;
	open_rig(false);
	rig.shared.head->ring[0] = pfn_of(20);
	rig.shared.head->ring[1] = pfn_of(LOW_PAGES + 1);
	b.n = 0;
	for (uint64_t p = 18; p < 23; p++)
		add(&b, p, p % 2);
	add(&b, LOW_PAGES + 1, true);
	assert_int_equal(patch(&b, &err), 0);
	memset(rig.want[20], 0, RPL_PAGE_SIZE);
	memset(rig.want[LOW_PAGES + 1], 0, RPL_PAGE_SIZE);
	check_all();
	close_rig();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_changed_is_stored),
		cmocka_unit_test(a_failed_call_is_made_again),
		cmocka_unit_test(others_than_they_were_made_of_are_found),
		cmocka_unit_test(a_refused_call_leaves_nothing_behind),
		cmocka_unit_test(rings_are_left_alone),
	};

	draw_seed("MEMORY_DOMAIN_SEED");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
