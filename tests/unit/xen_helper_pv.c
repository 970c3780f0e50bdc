/* A PV domain that waits becomes the guest: its memory in the stream's form and a device state, both made here, against a stand-in
 * for Xen that believes nothing: it takes a page table only when nobody has it mapped and every entry names a frame of the domain.
 *
 * What must come of it: the same guest in other frames. Page tables are walked from the contexts that Xen was given, and every
 * entry must lead to the frame it led to before.
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
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include <xenctrl.h>
#include <xenforeignmemory.h>
#include <xenguest.h>

#include <replicad/stream.h>

#include "../../src/guest/xen_helper_impl.h"

#define PAGE RPL_PAGE_SIZE
#define DOMID 9u
#define PAGES 1536u         /* of the guest: three leaves of its p2m */
#define MACHINE 4096u
#define SHINFO 7u           /* machine frame */
#define MAX_PAGES 1400u     /* what the toolstack allowed it */
#define NONE UINT64_MAX
#define BLOB_MAX 65536u
/* the guest's frames */
#define START_INFO 2u
#define GDT 3u
#define STORE 4u
#define CONSOLE 5u
#define LEAF 6u             /* of the p2m, and the next two */
#define L4 10u
#define USER_L4 11u
#define L3 12u
#define L2 13u
#define L1 14u
#define MAPPED 600u         /* the L1 maps so many from here */
#define HOLE 1300u          /* no memory from here on */
#define STORE_PORT 3u
#define CONSOLE_PORT 4u
#define PRESENT 1u

/* ---- Xen, and what it was told */

static struct {
	uint8_t *machine;
	uint64_t pfn[MACHINE];   /* of a machine frame; NONE: free */
	unsigned next, owned, max_pages;
	unsigned calls, fail_at; /* the nth fails */
	int mappings, buffers, memfd;
	bool policy, tsc, pinned, granted, told_static;
	unsigned pins;
	vcpu_guest_context_t context;
	unsigned contexts, extended, xsave, msrs;
	uint64_t grant[2];
} xen;

static bool fails(void)
{
	if (++xen.calls != xen.fail_at)
		return false;
	errno = EIO;
	return true;
}

static bool owned(uint64_t mfn)
{
	return mfn < MACHINE && xen.pfn[mfn] != NONE;
}

int xc_domain_getinfolist(xc_interface *xc, uint32_t first, unsigned max, xc_domaininfo_t *i)
{
	(void)xc;
	(void)max;
	if (fails())
		return -1;
	memset(i, 0, sizeof(*i));
	i->domain = (domid_t)first;
	i->flags = XEN_DOMINF_paused;
	i->tot_pages = xen.owned;
	i->max_pages = xen.max_pages;
	i->shared_info_frame = SHINFO;
	i->max_vcpu_id = 1;
	return 1;
}

int xc_domain_setmaxmem(xc_interface *xc, uint32_t domid, uint64_t kib)
{
	(void)xc;
	(void)domid;
	xen.max_pages = (unsigned)(kib / 4);
	return fails() ? -1 : 0;
}

/* Frames far from each other, and none at the guest's place. */
static bool give(xen_pfn_t *gfn)
{
	unsigned mfn;

	if (xen.owned >= xen.max_pages)
		return false;
	do {
		mfn = 64 + xen.next++ * 37 % (MACHINE - 64);
	} while (owned(mfn));
	xen.pfn[mfn] = *gfn;
	xen.owned++;
	*gfn = mfn;
	return true;
}

int xc_domain_populate_physmap(xc_interface *xc, uint32_t domid, unsigned long n, unsigned order, unsigned flags, xen_pfn_t *gfn)
{
	unsigned long i = 0;

	(void)xc;
	(void)domid;
	(void)flags;
	assert_int_equal(order, 0);
	if (fails())
		return -1;
	while (i < n && give(&gfn[i]))
		i++;
	return (int)i;
}

int xc_domain_populate_physmap_exact(xc_interface *xc, uint32_t domid, unsigned long n, unsigned order, unsigned flags, xen_pfn_t *gfn)
{
	errno = ENOMEM;
	return xc_domain_populate_physmap(xc, domid, n, order, flags, gfn) == (int)n ? 0 : -1;
}

int xc_domain_decrease_reservation_exact(xc_interface *xc, uint32_t domid, unsigned long n, unsigned order, xen_pfn_t *gfn)
{
	(void)xc;
	(void)domid;
	assert_int_equal(order, 0);
	if (fails())
		return -1;
	for (unsigned long i = 0; i < n; i++) {
		assert_true(owned(gfn[i]));
		xen.pfn[gfn[i]] = NONE;
		xen.owned--;
	}
	return 0;
}

struct xenforeignmemory_handle *xc_interface_fmem_handle(xc_interface *xc)
{
	return (struct xenforeignmemory_handle *)(void *)xc;
}

void *xenforeignmemory_map(xenforeignmemory_handle *f, uint32_t domid, int prot, size_t n, const xen_pfn_t arr[], int err[])
{
	uint8_t *at = fails() ? MAP_FAILED : mmap(NULL, n * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)f;
	assert_int_equal(domid, DOMID);
	assert_null(err);
	if (at == MAP_FAILED)
		return NULL;
	for (size_t i = 0; i < n; i++) {
		assert_true(owned(arr[i]) || arr[i] == SHINFO);
		assert_true(mmap(at + i * PAGE, PAGE, prot, MAP_SHARED | MAP_FIXED, xen.memfd, (off_t)(arr[i] * PAGE)) != MAP_FAILED);
	}
	xen.mappings++;
	return at;
}

int xenforeignmemory_unmap(xenforeignmemory_handle *f, void *at, size_t n)
{
	(void)f;
	xen.mappings--;
	return munmap(at, n * PAGE);
}

int xc_clear_domain_pages(xc_interface *xc, uint32_t domid, unsigned long mfn, int num)
{
	(void)xc;
	(void)domid;
	assert_int_equal(num, 1);
	assert_true(owned(mfn));
	memset(xen.machine + mfn * PAGE, 0, PAGE);
	return fails() ? -1 : 0;
}

int xc_dom_gnttab_seed(xc_interface *xc, uint32_t domid, bool is_hvm, xen_pfn_t console, xen_pfn_t store, uint32_t console_domid,
		       uint32_t store_domid)
{
	(void)xc;
	(void)domid;
	(void)console_domid;
	(void)store_domid;
	assert_false(is_hvm);
	assert_false(xen.granted);
	if (fails())
		return -1;
	xen.granted = true;
	xen.grant[0] = store;
	xen.grant[1] = console;
	return 0;
}

int xc_set_domain_cpu_policy(xc_interface *xc, uint32_t domid, uint32_t n_leaves, xen_cpuid_leaf_t *leaves, uint32_t n_msrs,
			     xen_msr_entry_t *msrs, uint32_t *leaf, uint32_t *subleaf, uint32_t *msr)
{
	(void)xc;
	(void)domid;
	(void)leaf;
	(void)subleaf;
	(void)msr;
	if (fails())
		return -1;
	assert_int_equal(n_leaves, 1);
	assert_int_equal(n_msrs, 1);
	assert_int_equal(leaves[0].a, 0x17);
	assert_int_equal(msrs[0].val, 0x18);
	xen.policy = true;
	return 0;
}

int xc_domain_set_tsc_info(xc_interface *xc, uint32_t domid, uint32_t mode, uint64_t nsec, uint32_t khz, uint32_t incarnation)
{
	(void)xc;
	(void)domid;
	assert_int_equal(mode, 1);
	assert_int_equal(nsec, 2);
	assert_int_equal(khz, 3);
	assert_int_equal(incarnation, 4);
	xen.tsc = true;
	return fails() ? -1 : 0;
}

/* As Xen does when it is to use a table: all of it is looked at, and nobody may have it mapped. */
static void validate(uint64_t mfn, unsigned level)
{
	const uint64_t *table = (const uint64_t *)(const void *)(xen.machine + mfn * PAGE);

	assert_int_equal(xen.mappings, 0);
	assert_true(owned(mfn));
	for (unsigned i = 0; i < XEN_PT_ENTRIES; i++) {
		if (!(table[i] & PRESENT))
			continue;
		assert_true(owned((table[i] & XEN_PTE_FRAMES) >> RPL_PAGE_SHIFT));
		if (level > 1)
			validate((table[i] & XEN_PTE_FRAMES) >> RPL_PAGE_SHIFT, level - 1);
	}
}

int xc_vcpu_setcontext(xc_interface *xc, uint32_t domid, uint32_t vcpu, vcpu_guest_context_any_t *c)
{
	(void)xc;
	(void)domid;
	if (fails())
		return -1;
	assert_int_equal(vcpu, 0);
	assert_true(xen.policy);
	xen.context = c->c;
	validate(c->c.ctrlreg[3] >> RPL_PAGE_SHIFT, 4);
	validate(c->c.ctrlreg[1] >> RPL_PAGE_SHIFT, 4);
	xen.contexts++;
	return 0;
}

int xc_domctl(xc_interface *xc, struct xen_domctl *op)
{
	(void)xc;
	if (fails())
		return -1;
	assert_int_equal(xen.contexts, 1);
	switch (op->cmd) {
	case XEN_DOMCTL_set_ext_vcpucontext:
		assert_int_equal(op->u.ext_vcpucontext.vcpu, 0);
		assert_int_equal(op->u.ext_vcpucontext.size, 0x55);
		xen.extended++;
		return 0;
	case XEN_DOMCTL_setvcpuextstate:
		assert_int_equal(op->u.vcpuextstate.size, 48);
		xen.xsave++;
		return 0;
	case XEN_DOMCTL_set_vcpu_msrs:
		assert_int_equal(op->u.vcpu_msrs.msr_count, 1);
		xen.msrs++;
		return 0;
	default:
		fail_msg("domctl %u", op->cmd);
		return -1;
	}
}

int xc_mmuext_op(xc_interface *xc, struct mmuext_op *op, unsigned int n, uint32_t domid)
{
	(void)xc;
	(void)domid;
	if (fails())
		return -1;
	assert_int_equal(xen.contexts, 1);
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(op[i].cmd, MMUEXT_PIN_L4_TABLE);
		validate(op[i].arg1.mfn, 4);
		xen.pins++;
	}
	return 0;
}

void *xc__hypercall_buffer_alloc(xc_interface *xc, xc_hypercall_buffer_t *b, size_t size)
{
	(void)xc;
	b->hbuf = fails() ? NULL : calloc(1, size);
	xen.buffers += b->hbuf != NULL;
	return b->hbuf;
}

void xc__hypercall_buffer_free(xc_interface *xc, xc_hypercall_buffer_t *b)
{
	(void)xc;
	xen.buffers -= b->hbuf != NULL;
	free(b->hbuf);
}

/* ---- libxl, as far as completing asks it */

void xen_helper_log(enum xen_helper_level level, const char *fmt, ...)
{
	(void)level;
	(void)fmt;
}

int xen_helper_static_data_done(unsigned missing, struct rpl_err *err)
{
	xen.told_static = missing == 0;
	return fails() ? rpl_fail(err, -EPROTO, "libxl") : 0;
}

/* ---- the guest, as its primary sent it */

static struct xen_helper helper;
static uint8_t blob[BLOB_MAX];
static uint8_t content[PAGES][PAGE];   /* in the stream's form */
static uint8_t type[PAGES];
static size_t blob_len;
/* what a test makes wrong before it is sent */
static struct {
	vcpu_guest_context_t context;
	uint64_t leaf[3];
	uint32_t p2m_last, vcpu, shared_len, extended_len, xsave_len;
	uint8_t width;
	bool no_p2m;
} sent;

static void pte(unsigned table, unsigned entry, uint64_t pfn)
{
	((uint64_t *)(void *)content[table])[entry] = pfn << RPL_PAGE_SHIFT | PRESENT | UINT64_C(1) << 63;
}

static void make_tables(void)
{
	type[L4] = RPL_PAGE_L4TAB | RPL_PAGE_PINNED;
	type[USER_L4] = RPL_PAGE_L4TAB | RPL_PAGE_PINNED;
	type[L3] = 3;
	type[L2] = 2;
	type[L1] = RPL_PAGE_L1TAB;
	pte(L4, 300, L3);
	pte(USER_L4, 1, L3);
	pte(L3, 0, L2);
	pte(L2, 511, L1);
	for (unsigned i = 0; i < 500; i++)
		pte(L1, i, MAPPED + i);
	((uint64_t *)(void *)content[L1])[510] = UINT64_C(0xdead000); /* not present: the guest's own */
}

static void make_start_info(void)
{
	start_info_t *si = (void *)content[START_INFO];

	si->store_mfn = STORE;
	si->console.domU.mfn = CONSOLE;
	si->flags = 7;
	(void)snprintf((char *)si->cmd_line, sizeof(si->cmd_line), "quiet");
}

/* A guest in which nothing is wrong. */
static void make_guest(void)
{
	memset(content, 0, sizeof(content));
	memset(type, RPL_PAGE_NOTAB, sizeof(type));
	memset(type + HOLE, RPL_PAGE_XTAB, PAGES - HOLE);
	for (unsigned pfn = 20; pfn < HOLE; pfn++)
		memset(content[pfn], (int)(pfn * 31), PAGE);
	make_tables();
	make_start_info();
	memset(&sent, 0, sizeof(sent));
	sent.context.user_regs.rdx = START_INFO;
	sent.context.user_regs.rip = 0x1234;
	sent.context.gdt_ents = 512;
	sent.context.gdt_frames[0] = GDT;
	sent.context.ctrlreg[3] = (uint64_t)L4 << RPL_PAGE_SHIFT;
	sent.context.ctrlreg[1] = (uint64_t)USER_L4 << RPL_PAGE_SHIFT | 1;
	for (unsigned i = 0; i < 3; i++)
		sent.leaf[i] = LEAF + i;
	sent.p2m_last = PAGES - 1;
	sent.width = 8;
	sent.shared_len = PAGE;
	sent.extended_len = 128;
	sent.xsave_len = 48;
}

static void put_vcpu(struct rpl_out *o)
{
	static uint8_t bytes[1 << 12];
	xen_domctl_vcpu_msr_t msr = { .index = 1 };
	struct xen_domctl op = { .u.ext_vcpucontext.size = 0x55 };

	memcpy(bytes, &op.u, sizeof(op.u));
	rpl_stream_put_vcpu(o, RPL_LIBXC_X86_PV_VCPU_BASIC, sent.vcpu, &sent.context, sizeof(sent.context));
	rpl_stream_put_vcpu(o, RPL_LIBXC_X86_PV_VCPU_EXTENDED, 0, bytes, sent.extended_len);
	rpl_stream_put_vcpu(o, RPL_LIBXC_X86_PV_VCPU_XSAVE, 0, bytes, sent.xsave_len);
	rpl_stream_put_vcpu(o, RPL_LIBXC_X86_PV_VCPU_MSRS, 0, &msr, sizeof(msr));
}

static void make_state(void)
{
	static uint8_t shared[PAGE + 8];
	struct rpl_out o = rpl_out(blob, sizeof(blob));
	struct rpl_stream_domain_header d = { .type = RPL_DOMAIN_PV, .page_shift = RPL_STREAM_PAGE_SHIFT, .xen_major = 4, .xen_minor = 17 };
	xen_cpuid_leaf_t leaf = { .a = 0x17 };
	xen_msr_entry_t msr = { .val = 0x18 };
	struct rpl_stream_tsc tsc = { .mode = 1, .nsec = 2, .khz = 3, .incarnation = 4 };

	memset(shared, 0x5a, sizeof(shared));
	rpl_stream_put_libxl_header(&o, 0);
	rpl_stream_put_record(&o, RPL_LIBXL_LIBXC_CONTEXT, NULL, 0);
	rpl_stream_put_image_header(&o, RPL_IMAGE_V3);
	rpl_stream_put_domain_header(&o, &d);
	rpl_stream_put_pv_info(&o, sent.width, 4);
	rpl_stream_put_record(&o, RPL_LIBXC_X86_CPUID_POLICY, &leaf, sizeof(leaf));
	rpl_stream_put_record(&o, RPL_LIBXC_X86_MSR_POLICY, &msr, sizeof(msr));
	rpl_stream_put_record(&o, RPL_LIBXC_STATIC_DATA_END, NULL, 0);
	if (!sent.no_p2m)
		rpl_stream_put_p2m_frames(&o, 0, sent.p2m_last, sent.leaf, 3);
	rpl_stream_put_tsc(&o, &tsc);
	rpl_stream_put_record(&o, RPL_LIBXC_SHARED_INFO, shared, sent.shared_len);
	put_vcpu(&o);
	rpl_stream_put_record(&o, RPL_LIBXC_END, NULL, 0);
	assert_false(o.bad);
	blob_len = o.len;
}

/* ---- the domain that waits */

static void machine_up(void)
{
	memset(&xen, 0, sizeof(xen));
	memset(xen.pfn, 0xff, sizeof(xen.pfn));
	xen.max_pages = MAX_PAGES;
	xen.memfd = memfd_create("machine", MFD_CLOEXEC);
	assert_true(xen.memfd >= 0);
	assert_int_equal(ftruncate(xen.memfd, (off_t)MACHINE * PAGE), 0);
	xen.machine = mmap(NULL, (size_t)MACHINE * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, xen.memfd, 0);
	assert_true(xen.machine != MAP_FAILED);
}

static void machine_down(void)
{
	xen_shared_unmap(&helper.shared);
	if (helper.shared_fd >= 0)
		(void)close(helper.shared_fd);
	free(helper.p2m);
	helper = (struct xen_helper){ .shared_fd = -1 };
	(void)munmap(xen.machine, (size_t)MACHINE * PAGE);
	(void)close(xen.memfd);
}

/* What its mover does: pages where the shared p2m says, types beside them. A ring that the daemons have is left alone. */
static void fold(void)
{
	for (unsigned pfn = 0; pfn < PAGES; pfn++) {
		helper.shared.types[pfn] = type[pfn];
		if (pfn != helper.shared.head->ring[0] && pfn != helper.shared.head->ring[1])
			memcpy(xen.machine + helper.shared.p2m[pfn] * PAGE, content[pfn], PAGE);
	}
}

static int wait_and_complete(bool early, struct rpl_err *err)
{
	struct rpl_ram_layout l = { 0 };

	helper = (struct xen_helper){ .pv = true, .shared_fd = -1, .xc = (xc_interface *)(void *)&xen, .args = { .domid = DOMID,
				      .store_port = STORE_PORT, .console_port = CONSOLE_PORT } };
	assert_true(rpl_layout_add(&l, 0, PAGES, 0) && rpl_xen_layout_add_types(&l));
	if (xen_helper_lay_out(&helper, &l, err) < 0 || (early && xen_helper_put_rings(&helper, STORE, CONSOLE, err) < 0))
		return err->code;
	fold();
	make_state();
	if (xen_helper_trim(&helper, err) < 0)
		return err->code;
	return xen_helper_complete_pv(&helper, blob, blob_len, err);
}

/* ---- is it the same guest? */

static const uint8_t *page(uint64_t mfn)
{
	assert_true(owned(mfn));
	return xen.machine + mfn * PAGE;
}

static void same_table(uint64_t mfn, unsigned level)
{
	const uint64_t *now = (const uint64_t *)(const void *)page(mfn), *was = (const uint64_t *)(const void *)content[xen.pfn[mfn]];

	for (unsigned i = 0; i < XEN_PT_ENTRIES; i++) {
		uint64_t next = (now[i] & XEN_PTE_FRAMES) >> RPL_PAGE_SHIFT;

		if (!(was[i] & PRESENT)) {
			assert_int_equal(now[i], was[i]);
			continue;
		}
		assert_int_equal(now[i] & ~XEN_PTE_FRAMES, was[i] & ~XEN_PTE_FRAMES);
		assert_int_equal(xen.pfn[next], (was[i] & XEN_PTE_FRAMES) >> RPL_PAGE_SHIFT);
		if (level > 1)
			same_table(next, level - 1);
	}
}

static void same_p2m(void)
{
	for (unsigned pfn = 0; pfn < PAGES; pfn++) {
		const uint64_t *leaf = (const uint64_t *)(const void *)page(helper.p2m[LEAF + pfn / 512]);
		uint64_t mfn = leaf[pfn % 512];

		assert_true(pfn < HOLE ? owned(mfn) && xen.pfn[mfn] == pfn : mfn == NONE);
		if (pfn >= 20 && pfn < HOLE)
			assert_memory_equal(page(mfn), content[pfn], PAGE);
	}
}

static void same_start_info(void)
{
	const start_info_t *si = (const void *)page(xen.context.user_regs.rdx);

	assert_int_equal(xen.pfn[xen.context.user_regs.rdx], START_INFO);
	assert_int_equal(xen.pfn[si->store_mfn], STORE);
	assert_int_equal(xen.pfn[si->console.domU.mfn], CONSOLE);
	assert_int_equal(si->store_evtchn, STORE_PORT);
	assert_int_equal(si->console.domU.evtchn, CONSOLE_PORT);
	assert_int_equal(si->nr_pages, PAGES);
	assert_int_equal(si->shared_info, SHINFO * PAGE);
	assert_int_equal(si->flags, 0);
	assert_string_equal((const char *)si->cmd_line, "quiet");
	assert_int_equal(helper.store_gfn, si->store_mfn);
	assert_int_equal(helper.console_gfn, si->console.domU.mfn);
	assert_int_equal(xen.grant[0], si->store_mfn);
	assert_int_equal(xen.grant[1], si->console.domU.mfn);
}

static void same_shared_info(void)
{
	const shared_info_t *s = (const void *)(xen.machine + SHINFO * PAGE);

	assert_int_equal(s->arch.max_pfn, UINT64_C(0x5a5a5a5a5a5a5a5a));
	assert_int_equal(s->arch.pfn_to_mfn_frame_list_list, 0);
	assert_int_equal(s->evtchn_pending[1], 0);
	assert_int_equal(s->evtchn_mask[1], ~0ul);
	assert_int_equal(s->vcpu_info[1].evtchn_pending_sel, 0);
	assert_int_equal(s->vcpu_info[1].evtchn_upcall_mask, 0x5a);
	assert_int_equal(s->wc_sec, 0); /* the clock is this host's */
}

static void same_guest(void)
{
	assert_int_equal(xen.mappings, 0);
	assert_int_equal(xen.buffers, 0);
	assert_true(xen.policy && xen.tsc && xen.told_static && xen.granted);
	assert_int_equal(xen.pins, 2);
	assert_int_equal(xen.contexts + xen.extended + xen.xsave + xen.msrs, 4);
	assert_int_equal(xen.context.user_regs.rip, 0x1234);
	assert_int_equal(xen.pfn[xen.context.gdt_frames[0]], GDT);
	assert_int_equal(xen.pfn[xen.context.ctrlreg[3] >> RPL_PAGE_SHIFT], L4);
	assert_int_equal(xen.pfn[xen.context.ctrlreg[1] >> RPL_PAGE_SHIFT], USER_L4);
	same_table(xen.context.ctrlreg[3] >> RPL_PAGE_SHIFT, 4);
	same_table(xen.context.ctrlreg[1] >> RPL_PAGE_SHIFT, 4);
	same_p2m();
	same_start_info();
	same_shared_info();
	assert_int_equal(xen.owned, HOLE);
	assert_int_equal(xen.max_pages, MAX_PAGES);
}

static void test_the_same_guest_in_other_frames(void **state)
{
	(void)state;
	for (int early = 0; early < 2; early++) {
		struct rpl_err err = { 0 };

		machine_up();
		make_guest();
		if (wait_and_complete(early, &err) < 0)
			fail_msg("%s", err.msg);
		same_guest();
		machine_down();
	}
}

/* The daemons look at the rings while the domain waits: no fold writes there, and nothing of the completion does. */
static void test_rings_stay_clear(void **state)
{
	static const uint8_t clear[PAGE];
	struct rpl_err err = { 0 };

	(void)state;
	machine_up();
	make_guest();
	memset(content[STORE], 0x77, PAGE);
	memset(content[CONSOLE], 0x78, PAGE);
	assert_int_equal(wait_and_complete(true, &err), 0);
	assert_memory_equal(page(helper.store_gfn), clear, PAGE);
	assert_memory_equal(page(helper.console_gfn), clear, PAGE);
	machine_down();
}

/* A page table may name a frame whose type said that it has no memory: it gets some, and the p2m says so. */
static void test_entry_of_a_hole(void **state)
{
	struct rpl_err err = { 0 };
	uint64_t mfn;

	(void)state;
	machine_up();
	make_guest();
	pte(L1, 505, HOLE + 3);
	assert_int_equal(wait_and_complete(true, &err), 0);
	mfn = helper.p2m[HOLE + 3];
	assert_true(owned(mfn));
	same_table(xen.context.ctrlreg[3] >> RPL_PAGE_SHIFT, 4);
	assert_int_equal(((const uint64_t *)(const void *)page(helper.p2m[LEAF + 2]))[HOLE + 3 - 1024], mfn);
	machine_down();
}

/* Whatever fails: it is said, and nothing stays mapped. In the end none is left that could. */
static void test_every_call_fails_once(void **state)
{
	unsigned at = 0;
	int r;

	(void)state;
	do {
		struct rpl_err err = { 0 };

		machine_up();
		make_guest();
		xen.fail_at = ++at;
		r = wait_and_complete(true, &err);
		assert_true(r == err.code);
		assert_true(r == 0 || err.msg[0]);
		assert_int_equal(xen.mappings, 0);
		assert_int_equal(xen.buffers, 0);
		if (xen.calls >= at && r == 0) /* the limit could not be put back: no harm */
			r = -1;
		machine_down();
	} while (r < 0);
	assert_true(at > 20);
}

/* ---- what no primary sends */

static void refused(const char *why)
{
	struct rpl_err err = { 0 };
	int r = wait_and_complete(true, &err);

	if (r >= 0 || !strstr(err.msg, why))
		fail_msg("'%s' expected, not %d: %s", why, r, err.msg);
	assert_int_equal(xen.mappings, 0);
	machine_down();
	machine_up();
	make_guest();
}

static void test_hostile_states(void **state)
{
	(void)state;
	machine_up();
	make_guest();
	sent.width = 4;
	refused("words have 4 bytes");
	sent.no_p2m = true;
	refused("no P2M_FRAMES");
	sent.p2m_last = PAGES;
	refused("P2M_FRAMES of frames 0x0 to 0x600 in 32 bytes");
	sent.p2m_last = 1000;
	refused("P2M_FRAMES of frames 0x0 to 0x3e8 in 32 bytes");
	sent.leaf[1] = PAGES;
	refused("p2m: frame 0x600 has no memory");
	sent.leaf[1] = HOLE;
	refused("p2m: frame 0x514 has the type 0xf");
	sent.leaf[2] = L1;
	refused("p2m: frame 0xe has the type 0x1");
	sent.shared_len = PAGE - 8;
	refused("SHARED_INFO of 4088 bytes");
	sent.vcpu = 1;
	refused("vCPU 0 is not in it");
	sent.vcpu = 2;
	refused("of vCPU 2, the domain has 2");
	sent.context.gdt_ents = 8192;
	refused("a GDT of 8192 entries");
	sent.context.gdt_frames[0] = L1;
	refused("GDT: frame 0xe has the type 0x1, expected 0x0");
	sent.context.ctrlreg[3] = (uint64_t)L3 << RPL_PAGE_SHIFT;
	refused("CR3: frame 0xc has the type 0x3, expected 0x4");
	sent.context.ctrlreg[1] = UINT64_C(0xffffffff001);
	refused("user CR3: frame 0xffffffff has no memory");
	sent.context.user_regs.rdx = UINT64_MAX;
	refused("start info: frame 0xffffffffffffffff has no memory");
	((start_info_t *)(void *)content[START_INFO])->store_mfn = HOLE;
	refused("xenstore's ring: frame 0x514 has no memory");
	((start_info_t *)(void *)content[START_INFO])->store_mfn = CONSOLE;
	refused("its start info names the rings");
	pte(L1, 0, PAGES + 1);
	refused("page table: frame 0x601 has no memory");
	sent.extended_len = 136;
	refused("an extended context of 136 bytes");
	machine_down();
}

/* Cut anywhere it is refused before anything was taken into use. */
static void test_cut_states(void **state)
{
	struct rpl_err err = { 0 };

	(void)state;
	machine_up();
	make_guest();
	sent.no_p2m = true;
	assert_true(wait_and_complete(true, &err) < 0);
	sent.no_p2m = false;
	make_state();
	for (size_t cut = 1; cut < blob_len; cut++) {
		err = (struct rpl_err){ 0 };
		assert_int_equal(xen_helper_complete_pv(&helper, blob, blob_len - cut, &err), -EBADMSG);
	}
	assert_int_equal(xen.contexts + xen.pins + (unsigned)xen.mappings, 0);
	machine_down();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_same_guest_in_other_frames), cmocka_unit_test(test_rings_stay_clear),
		cmocka_unit_test(test_entry_of_a_hole),                cmocka_unit_test(test_every_call_fails_once),
		cmocka_unit_test(test_hostile_states),                 cmocka_unit_test(test_cut_states),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
