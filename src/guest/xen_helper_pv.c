/* xen_helper_pv.c - completing a PV domain whose memory is in place
 *
 * The pages are where they belong, but everything that names frames still names the guest's own: entries of page tables, the
 * list that is the guest's p2m, its start info, the contexts of its virtual CPUs. They get the machine frames that this domain
 * has, in an order that Xen dictates: page tables first (they are ordinary pages until something uses them), contexts (only
 * once, xen_helper_vcpu.c), pins, the p2m, the grant table. It is the order of libxc's own restore. Nobody else may have the
 * domain's pages mapped any more: Xen takes no page as a page table that somebody can write.
 *
 * What is proportional to the guest: its page tables, and eight bytes of p2m for each page.
 */
#include "xen_helper_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

#include <xenforeignmemory.h>
#include <xenguest.h>

#include <replicad/stream.h>

#include "xen_compat.h"

#define BATCH 256u           /* frames mapped at a time */
#define PIN_BATCH 1024u      /* Xen's own limit */
#define P2M_PER_FRAME 512u
#define P2M_HEAD 8u          /* bytes of a P2M_FRAMES record before the list */
#define RECORD_ALIGN 8u
#define PV_WIDTH 8u
#define PV_LEVELS 4u

_Static_assert(MMUEXT_PIN_L4_TABLE - MMUEXT_PIN_L1_TABLE == RPL_PAGE_L4TAB - RPL_PAGE_L1TAB, "levels and commands count alike");

struct state {
	struct xen_helper_blob cpuid, msrs, p2m;
	struct xen_helper_vcpu vcpu[XEN_HELPER_VCPUS_MAX];
	unsigned vcpus; /* of the domain */
};

/* ---- frames */

int xen_helper_frame(struct xen_helper *h, uint64_t pfn, const char *what, uint64_t *ret, struct rpl_err *err)
{
	if (pfn >= h->pages || h->p2m[pfn] == XEN_NO_FRAME)
		return rpl_fail(err, -EBADMSG, "%s: frame 0x%" PRIx64 " has no memory, or is beyond the guest's 0x%" PRIx64, what, pfn,
				h->pages);
	*ret = h->p2m[pfn];
	return 0;
}

int xen_helper_typed_frame(struct xen_helper *h, uint64_t pfn, unsigned type, const char *what, uint64_t *ret, struct rpl_err *err)
{
	if (pfn < h->pages && (h->shared.types[pfn] & ~RPL_PAGE_PINNED) != type)
		return rpl_fail(err, -EBADMSG, "%s: frame 0x%" PRIx64 " has the type 0x%x, expected 0x%x", what, pfn, h->shared.types[pfn],
				type);
	return xen_helper_frame(h, pfn, what, ret, err);
}

void *xen_helper_map(struct xen_helper *h, const uint64_t *mfns, size_t n, struct rpl_err *err)
{
	void *p = xenforeignmemory_map(xc_interface_fmem_handle(h->xc), h->args.domid, PROT_READ | PROT_WRITE, n, (const xen_pfn_t *)mfns,
				       NULL);

	if (!p)
		(void)rpl_fail_errno(err, errno, "domain %u: map %zu of its frames, the first is 0x%" PRIx64, h->args.domid, n, mfns[0]);
	return p;
}

void xen_helper_unmap(struct xen_helper *h, void *p, size_t n)
{
	(void)xenforeignmemory_unmap(xc_interface_fmem_handle(h->xc), p, n);
}

/* ---- page tables */

static bool is_table(const struct xen_helper *h, uint64_t pfn)
{
	unsigned level = h->shared.types[pfn] & ~RPL_PAGE_PINNED;

	return level >= RPL_PAGE_L1TAB && level <= RPL_PAGE_L4TAB;
}

/* An entry may name a frame that was given back, since its type said that the guest has none: libxc gives it memory too. */
static int entry_frame(struct xen_helper *h, uint64_t pfn, uint64_t *ret, struct rpl_err *err)
{
	xen_pfn_t frame = pfn;

	if (pfn < h->pages && h->p2m[pfn] == XEN_NO_FRAME) {
		if (xc_domain_populate_physmap_exact(h->xc, h->args.domid, 1, 0, 0, &frame) < 0)
			return rpl_fail_errno(err, errno, "domain %u: memory for frame 0x%" PRIx64, h->args.domid, pfn);
		h->p2m[pfn] = frame;
	}
	return xen_helper_frame(h, pfn, "page table", ret, err);
}

static int localise(struct xen_helper *h, uint64_t *table, struct rpl_err *err)
{
	for (unsigned i = 0; i < XEN_PT_ENTRIES; i++) {
		uint64_t e = table[i], mfn = 0;

		if (!(e & XEN_PTE_PRESENT))
			continue;
		if (entry_frame(h, (e & XEN_PTE_FRAMES) >> RPL_PAGE_SHIFT, &mfn, err) < 0)
			return err->code;
		table[i] = (e & ~XEN_PTE_FRAMES) | mfn << RPL_PAGE_SHIFT;
	}
	return 0;
}

static int localise_batch(struct xen_helper *h, const uint64_t *mfns, unsigned n, struct rpl_err *err)
{
	uint8_t *p = n ? xen_helper_map(h, mfns, n, err) : NULL;
	int r = 0;

	if (!n)
		return 0;
	if (!p)
		return err->code;
	for (unsigned i = 0; i < n && r == 0; i++)
		r = localise(h, (uint64_t *)(void *)(p + ((size_t)i << RPL_PAGE_SHIFT)), err);
	xen_helper_unmap(h, p, n);
	return r;
}

static int localise_tables(struct xen_helper *h, uint64_t *ret_tables, struct rpl_err *err)
{
	uint64_t mfns[BATCH];
	unsigned n = 0;

	*ret_tables = 0;
	for (uint64_t pfn = 0; pfn < h->pages; pfn++) {
		if (!is_table(h, pfn))
			continue;
		if (xen_helper_frame(h, pfn, "page table", &mfns[n], err) < 0)
			return err->code;
		++*ret_tables;
		if (++n < BATCH)
			continue;
		if (localise_batch(h, mfns, n, err) < 0)
			return err->code;
		n = 0;
	}
	return localise_batch(h, mfns, n, err);
}

static int pin_batch(struct xen_helper *h, struct mmuext_op *ops, unsigned n, struct rpl_err *err)
{
	if (n && xc_mmuext_op(h->xc, ops, n, h->args.domid) < 0)
		return rpl_fail_errno(err, errno, "domain %u: pin %u page tables", h->args.domid, n);
	return 0;
}

static int pin(struct xen_helper *h, struct rpl_err *err)
{
	static struct mmuext_op ops[PIN_BATCH];
	unsigned n = 0;

	for (uint64_t pfn = 0; pfn < h->pages; pfn++) {
		if (!(h->shared.types[pfn] & RPL_PAGE_PINNED) || !is_table(h, pfn))
			continue;
		ops[n] = (struct mmuext_op){ .cmd = MMUEXT_PIN_L1_TABLE + (h->shared.types[pfn] & ~RPL_PAGE_PINNED) - RPL_PAGE_L1TAB };
		ops[n++].arg1.mfn = h->p2m[pfn];
		if (n < PIN_BATCH)
			continue;
		if (pin_batch(h, ops, n, err) < 0)
			return err->code;
		n = 0;
	}
	return pin_batch(h, ops, n, err);
}

/* ---- the guest's own p2m */

static int check_p2m(struct xen_helper *h, const struct xen_helper_blob *frames, struct rpl_err *err)
{
	struct rpl_cur c = rpl_cur(frames->p, frames->len);
	uint32_t first = rpl_cur_le32(&c), last = rpl_cur_le32(&c);

	if (c.bad || first != 0 || last >= h->pages || c.left != ((uint64_t)last / P2M_PER_FRAME + 1) * sizeof(uint64_t))
		return rpl_fail(err, -EBADMSG, "P2M_FRAMES of frames 0x%x to 0x%x in %u bytes, the guest has 0x%" PRIx64, first, last,
				frames->len, h->pages);
	h->p2m_entries = (uint64_t)last + 1;
	return 0;
}

static int write_p2m_batch(struct xen_helper *h, uint64_t first, const uint64_t *mfns, unsigned n, struct rpl_err *err)
{
	uint64_t entries = h->p2m_entries - first, most = (uint64_t)n * P2M_PER_FRAME;
	void *p = xen_helper_map(h, mfns, n, err);

	if (!p)
		return err->code;
	memcpy(p, &h->p2m[first], (entries < most ? entries : most) * sizeof(uint64_t));
	xen_helper_unmap(h, p, n);
	return 0;
}

static int write_p2m(struct xen_helper *h, const struct xen_helper_blob *frames, struct rpl_err *err)
{
	struct rpl_cur c = rpl_cur(frames->p + P2M_HEAD, frames->len - P2M_HEAD);
	uint64_t left = c.left / sizeof(uint64_t), mfns[BATCH];

	for (uint64_t at = 0; left;) {
		unsigned n = left < BATCH ? (unsigned)left : BATCH;

		for (unsigned i = 0; i < n; i++)
			if (xen_helper_typed_frame(h, rpl_cur_le64(&c), RPL_PAGE_NOTAB, "p2m", &mfns[i], err) < 0)
				return err->code;
		if (write_p2m_batch(h, at, mfns, n, err) < 0)
			return err->code;
		at += (uint64_t)n * P2M_PER_FRAME;
		left -= n;
	}
	return 0;
}

/* ---- shared info: what the guest keeps there, without events of the domain that is gone; the clock is Xen's */

static int write_shared_info(struct xen_helper *h, const struct xen_helper_blob *r, struct rpl_err *err)
{
	static shared_info_t was; /* large */
	shared_info_t *now;

	_Static_assert(sizeof(was) <= RPL_PAGE_SIZE, "it is one page");
	if (r->len != RPL_PAGE_SIZE)
		return rpl_fail(err, -EBADMSG, "SHARED_INFO of %u bytes, expected %u", r->len, RPL_PAGE_SIZE);
	now = xen_helper_map(h, &h->shared_info, 1, err);
	if (!now)
		return err->code;
	memcpy(&was, r->p, sizeof(was));
	memcpy(now->vcpu_info, was.vcpu_info, sizeof(now->vcpu_info));
	memcpy(&now->arch, &was.arch, sizeof(now->arch));
	now->arch.pfn_to_mfn_frame_list_list = 0;
	memset(now->evtchn_pending, 0, sizeof(now->evtchn_pending));
	memset(now->evtchn_mask, 0xff, sizeof(now->evtchn_mask));
	for (unsigned i = 0; i < XEN_LEGACY_MAX_VCPUS; i++)
		now->vcpu_info[i].evtchn_pending_sel = 0;
	xen_helper_unmap(h, now, 1);
	return 0;
}

/* ---- records */

static int set_policy(struct xen_helper *h, const struct state *s, struct rpl_err *err)
{
	uint32_t leaf = 0, subleaf = 0, msr = 0;

	_Static_assert(sizeof(xen_cpuid_leaf_t) == 24 && sizeof(xen_msr_entry_t) == 16, "as in the stream");
	if (s->cpuid.len % sizeof(xen_cpuid_leaf_t) || s->msrs.len % sizeof(xen_msr_entry_t))
		return rpl_fail(err, -EBADMSG, "a CPU policy of %u and %u bytes", s->cpuid.len, s->msrs.len);
	if ((s->cpuid.len || s->msrs.len) &&
	    xc_set_domain_cpu_policy(h->xc, h->args.domid, s->cpuid.len / sizeof(xen_cpuid_leaf_t), (void *)(uintptr_t)s->cpuid.p,
				     s->msrs.len / sizeof(xen_msr_entry_t), (void *)(uintptr_t)s->msrs.p, &leaf, &subleaf, &msr) < 0)
		return rpl_fail_errno(err, errno, "domain %u: its CPU policy (leaf 0x%x, subleaf 0x%x, MSR 0x%x)", h->args.domid, leaf,
				      subleaf, msr);
	return xen_helper_static_data_done((s->msrs.len ? 0 : XGR_SDD_MISSING_MSR) | (s->cpuid.len ? 0 : XGR_SDD_MISSING_CPUID), err);
}

static int set_tsc(struct xen_helper *h, const struct xen_helper_blob *r, struct rpl_err *err)
{
	struct rpl_cur c = rpl_cur(r->p, r->len);
	uint32_t mode = rpl_cur_le32(&c), khz = rpl_cur_le32(&c);
	uint64_t nsec = rpl_cur_le64(&c);
	uint32_t incarnation = rpl_cur_le32(&c);

	if (c.bad)
		return rpl_fail(err, -EBADMSG, "TSC_INFO of %u bytes", r->len);
	if (xc_domain_set_tsc_info(h->xc, h->args.domid, mode, nsec, khz, incarnation) < 0)
		return rpl_fail_errno(err, errno, "domain %u: its time stamp counter", h->args.domid);
	return 0;
}

static int check_info(const struct xen_helper_blob *r, struct rpl_err *err)
{
	if (r->len >= 2 && r->p[0] == PV_WIDTH && r->p[1] == PV_LEVELS)
		return 0;
	return rpl_fail(err, -ENOTSUP, "a PV guest whose words have %u bytes and page tables %u levels; 8 and 4 are possible",
			r->len ? r->p[0] : 0, r->len > 1 ? r->p[1] : 0);
}

static int keep_vcpu(struct state *s, uint32_t type, const struct xen_helper_blob *r, struct rpl_err *err)
{
	struct rpl_cur c = rpl_cur(r->p, r->len);
	uint32_t id = rpl_cur_le32(&c);
	struct xen_helper_blob *b;

	(void)rpl_cur_le32(&c);
	if (c.bad || id >= s->vcpus)
		return rpl_fail(err, -EBADMSG, "record 0x%x of vCPU %u, the domain has %u", type, id, s->vcpus);
	b = type == RPL_LIBXC_X86_PV_VCPU_BASIC ? &s->vcpu[id].basic : type == RPL_LIBXC_X86_PV_VCPU_EXTENDED ? &s->vcpu[id].extended :
	    type == RPL_LIBXC_X86_PV_VCPU_XSAVE ? &s->vcpu[id].xsave : &s->vcpu[id].msrs;
	*b = (struct xen_helper_blob){ .p = c.p, .len = (uint32_t)c.left };
	return 0;
}

static int take(struct xen_helper *h, struct state *s, uint32_t type, const struct xen_helper_blob *r, struct rpl_err *err)
{
	switch (type) {
	case RPL_LIBXC_X86_PV_INFO:
		return check_info(r, err);
	case RPL_LIBXC_X86_CPUID_POLICY:
		s->cpuid = *r;
		return 0;
	case RPL_LIBXC_X86_MSR_POLICY:
		s->msrs = *r;
		return 0;
	case RPL_LIBXC_STATIC_DATA_END:
		return set_policy(h, s, err);
	case RPL_LIBXC_X86_PV_P2M_FRAMES:
		s->p2m = *r;
		return check_p2m(h, r, err);
	case RPL_LIBXC_X86_TSC_INFO:
		return set_tsc(h, r, err);
	case RPL_LIBXC_SHARED_INFO:
		return write_shared_info(h, r, err);
	case RPL_LIBXC_X86_PV_VCPU_BASIC:
	case RPL_LIBXC_X86_PV_VCPU_EXTENDED:
	case RPL_LIBXC_X86_PV_VCPU_XSAVE:
	case RPL_LIBXC_X86_PV_VCPU_MSRS:
		return keep_vcpu(s, type, r, err);
	default:
		return rpl_fail(err, -EBADMSG, "record 0x%x in the device state of a PV guest", type);
	}
}

/* The stream was found sound as a whole before; here it is only walked. */
static int take_all(struct xen_helper *h, struct state *s, const uint8_t *blob, size_t len, struct rpl_err *err)
{
	struct rpl_cur c = rpl_cur(blob, len);

	(void)rpl_cur_bytes(&c, RPL_LIBXL_HEADER + RPL_STREAM_RECORD_HEAD + RPL_IMAGE_HEADER + RPL_DOMAIN_HEADER);
	*s = (struct state){ .vcpus = s->vcpus };
	for (;;) {
		uint32_t type = rpl_cur_le32(&c);
		struct xen_helper_blob r = { .len = rpl_cur_le32(&c) };

		r.p = rpl_cur_bytes(&c, r.len);
		(void)rpl_cur_bytes(&c, -r.len % RECORD_ALIGN);
		if (c.bad)
			return rpl_fail(err, -EBADMSG, "device state: %zu bytes end inside a record", len);
		if (type == RPL_LIBXC_END)
			return 0;
		if (take(h, s, type, &r, err) < 0)
			return err->code;
	}
}

static int finish(struct xen_helper *h, const struct state *s, struct rpl_err *err)
{
	uint64_t tables;

	if (localise_tables(h, &tables, err) < 0)
		return err->code;
	xen_helper_log(XEN_LEVEL_INFO, "%" PRIu64 " page tables", tables);
	for (unsigned i = 0; i < s->vcpus; i++)
		if (xen_helper_set_vcpu(h, i, &s->vcpu[i], err) < 0)
			return err->code;
	if (pin(h, err) < 0 || write_p2m(h, &s->p2m, err) < 0)
		return err->code;
	return h->has_rings ? 0 : xen_helper_grant_rings(h, err);
}

int xen_helper_complete_pv(struct xen_helper *h, const void *blob, size_t len, struct rpl_err *err)
{
	static struct state s;
	struct xen_dominfo d;
	int r = xen_compat_dominfo(h->xc, h->args.domid, &d);

	if (r < 0)
		return rpl_fail_errno(err, -r, "domain %u", h->args.domid);
	h->shared_info = d.shared_info_frame;
	s.vcpus = d.max_vcpu_id + 1;
	if (s.vcpus > XEN_HELPER_VCPUS_MAX)
		return rpl_fail(err, -E2BIG, "domain %u: %u virtual CPUs, at most %u are possible", h->args.domid, s.vcpus,
				XEN_HELPER_VCPUS_MAX);
	r = take_all(h, &s, blob, len, err);
	if (r == 0 && !s.p2m.p)
		r = rpl_fail(err, -EBADMSG, "device state: no P2M_FRAMES");
	return r == 0 ? finish(h, &s, err) : r;
}
