/* xen_vcpu.c - the tail records of a PV guest: shared info, and each virtual CPU's four
 *
 * Machine frames in a CPU's context become the guest's own numbers: CR3, the user half's CR3 (in CR1), the GDT, and on
 * CPU 0 the start info page, which the guest left in rdx when it suspended.
 */
#include "xen_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <replicad/stream.h>

#define GDT_ENTRIES_PER_FRAME 512u
#define GDT_ENTRIES_MAX 7168u
#define EXTENDED_MAX 128u

static int to_pfn(const struct xen *x, uint64_t mfn, unsigned vcpu, const char *what, uint64_t *ret, struct rpl_err *err)
{
	if (xen_p2m_pfn(x, mfn, ret))
		return 0;
	return rpl_fail(err, -EINVAL, "vCPU %u: its %s is machine frame 0x%" PRIx64 ", which is not the guest's", vcpu, what, mfn);
}

static int normalise_context(const struct xen *x, unsigned vcpu, vcpu_guest_context_t *c, struct rpl_err *err)
{
	unsigned gdt_frames = (unsigned)((c->gdt_ents + GDT_ENTRIES_PER_FRAME - 1) / GDT_ENTRIES_PER_FRAME);
	uint64_t pfn;

	if (vcpu == 0) {
		if (to_pfn(x, c->user_regs.rdx, vcpu, "start info page", &pfn, err) < 0)
			return err->code;
		c->user_regs.rdx = pfn;
	}
	if (c->gdt_ents > GDT_ENTRIES_MAX)
		return rpl_fail(err, -EINVAL, "vCPU %u: a GDT of %lu entries, at most %u are possible", vcpu, c->gdt_ents,
				GDT_ENTRIES_MAX);
	for (unsigned i = 0; i < gdt_frames; i++) {
		if (to_pfn(x, c->gdt_frames[i], vcpu, "GDT", &pfn, err) < 0)
			return err->code;
		c->gdt_frames[i] = pfn;
	}
	if (to_pfn(x, c->ctrlreg[3] >> RPL_PAGE_SHIFT, vcpu, "CR3", &pfn, err) < 0)
		return err->code;
	c->ctrlreg[3] = pfn << RPL_PAGE_SHIFT;
	if (!c->ctrlreg[1])
		return 0;
	if (to_pfn(x, c->ctrlreg[1] >> RPL_PAGE_SHIFT, vcpu, "user CR3", &pfn, err) < 0)
		return err->code;
	c->ctrlreg[1] = pfn << RPL_PAGE_SHIFT | 1;
	return 0;
}

static int put_basic(struct xen *x, unsigned vcpu, struct rpl_out *o, struct rpl_err *err)
{
	static vcpu_guest_context_any_t any; /* large */

	if (vcpu == 0) { /* there is room for them, for the resume */
		const vcpu_guest_context_t *c = xen_registers(x, err);

		if (!c)
			return err->code;
		any.c = *c;
	} else {
		memset(&any, 0, sizeof(any));
		if (xc_vcpu_getcontext(x->xc, x->domid, vcpu, &any) < 0)
			return rpl_fail_errno(err, errno, "vCPU %u: its context", vcpu);
	}
	if (normalise_context(x, vcpu, &any.c, err) < 0)
		return err->code;
	_Static_assert(sizeof(any.c) == RPL_PV_BASIC_64, "a 64-bit toolstack's own context is the guest's");
	rpl_stream_put_vcpu(o, RPL_LIBXC_X86_PV_VCPU_BASIC, vcpu, &any.c, sizeof(any.c));
	return 0;
}

static int put_extended(struct xen *x, unsigned vcpu, struct rpl_out *o, struct rpl_err *err)
{
	struct xen_domctl op = { .cmd = XEN_DOMCTL_get_ext_vcpucontext, .domain = (domid_t)x->domid };

	op.u.ext_vcpucontext.vcpu = vcpu;
	if (xc_domctl(x->xc, &op) < 0)
		return rpl_fail_errno(err, errno, "vCPU %u: its extended context", vcpu);
	if (op.u.ext_vcpucontext.size > EXTENDED_MAX)
		return rpl_fail(err, -EMSGSIZE, "vCPU %u: an extended context of %u bytes, at most %u are possible", vcpu,
				op.u.ext_vcpucontext.size, EXTENDED_MAX);
	if (op.u.ext_vcpucontext.size)
		rpl_stream_put_vcpu(o, RPL_LIBXC_X86_PV_VCPU_EXTENDED, vcpu, &op.u.ext_vcpucontext, op.u.ext_vcpucontext.size);
	return 0;
}

/* ---- pieces whose length is Xen's to say
 *
 * Asked without room for it, Xen says how long a piece can be for any virtual CPU of a PV guest on this host: with all components of
 * XSAVE state that it found when it booted (xfeature_mask), with all MSRs that it saves. How much of that a guest uses may grow
 * while it runs (xcr0_accum), but is not what the question is answered by; the read says it, and takes our length for the room
 * there is. So one answer, of whichever virtual CPU, holds for as long as the domain lives, and is kept with the room. A Xen for which that is not
 * so refuses the read (EINVAL; ENOBUFS for MSRs), and is asked again. */

/* Read it: `*len` is how much room there is at `to`, then how much of it was filled. To NULL: how much it can be. -1 with errno. */
typedef int get_fn(struct xen *x, unsigned vcpu, void *to, size_t *len);

static int get_xsave(struct xen *x, unsigned vcpu, void *to, size_t *len)
{
	struct xen_domctl op = { .cmd = XEN_DOMCTL_getvcpuextstate, .domain = (domid_t)x->domid };

	op.u.vcpuextstate.vcpu = vcpu;
	op.u.vcpuextstate.size = to ? *len : 0;
	op.u.vcpuextstate.xfeature_mask = to ? x->xsave_mask : 0;
	set_xen_guest_handle_raw(op.u.vcpuextstate.buffer, to);
	if (xc_domctl(x->xc, &op) < 0)
		return -1;
	x->xsave_mask = op.u.vcpuextstate.xfeature_mask;
	*len = op.u.vcpuextstate.size;
	return 0;
}

static int get_msrs(struct xen *x, unsigned vcpu, void *to, size_t *len)
{
	struct xen_domctl op = { .cmd = XEN_DOMCTL_get_vcpu_msrs, .domain = (domid_t)x->domid };

	op.u.vcpu_msrs.vcpu = vcpu;
	op.u.vcpu_msrs.msr_count = to ? (uint32_t)(*len / sizeof(xen_domctl_vcpu_msr_t)) : 0;
	set_xen_guest_handle_raw(op.u.vcpu_msrs.msrs, to);
	if (to)
		memset(to, 0, *len);
	if (xc_domctl(x->xc, &op) < 0)
		return -1;
	*len = op.u.vcpu_msrs.msr_count * sizeof(xen_domctl_vcpu_msr_t);
	return 0;
}

static const struct kind {
	get_fn *get;
	uint32_t record;
	const char *name;
} kinds[XEN_PIECES] = {
	[XEN_XSAVE] = { get_xsave, RPL_LIBXC_X86_PV_VCPU_XSAVE, "XSAVE state" },
	[XEN_MSRS] = { get_msrs, RPL_LIBXC_X86_PV_VCPU_MSRS, "MSRs" },
};

static int make_room(struct xen *x, unsigned vcpu, const struct kind *k, struct xen_piece *p, struct rpl_err *err)
{
	size_t most = 0;

	p->most = 0;
	if (k->get(x, vcpu, NULL, &most) < 0)
		return rpl_fail_errno(err, errno, "vCPU %u: the length of its %s", vcpu, k->name);
	if (most > XEN_SCRATCH)
		return rpl_fail(err, -EMSGSIZE, "vCPU %u: %s of %zu bytes, at most %u are possible", vcpu, k->name, most, XEN_SCRATCH);
	if (xen_room_make(x, &p->room, most, k->name, err) < 0)
		return err->code;
	p->most = most;
	return 0;
}

/* There is none of what has no room. */
static int read_piece(struct xen *x, unsigned vcpu, const struct kind *k, struct xen_piece *p, size_t *ret)
{
	*ret = p->most;
	return p->most ? k->get(x, vcpu, p->room.p, ret) : 0;
}

static int put_piece(struct xen *x, unsigned vcpu, enum xen_piece_kind kind, struct rpl_out *o, struct rpl_err *err)
{
	const struct kind *k = &kinds[kind];
	struct xen_piece *p = &x->piece[kind];
	size_t len;
	int r = read_piece(x, vcpu, k, p, &len);

	if (!p->most || (r < 0 && (errno == EINVAL || errno == ENOBUFS))) {
		if (make_room(x, vcpu, k, p, err) < 0)
			return err->code;
		r = read_piece(x, vcpu, k, p, &len);
	}
	if (r < 0)
		return rpl_fail_errno(err, errno, "vCPU %u: its %s", vcpu, k->name);
	if (len && len <= p->most)
		rpl_stream_put_vcpu(o, k->record, vcpu, p->room.p, (uint32_t)len);
	return 0;
}

void xen_forget_pieces(struct xen *x)
{
	for (unsigned i = 0; i < XEN_PIECES; i++) {
		xen_room_free(x, &x->piece[i].room);
		x->piece[i].most = 0;
	}
}

/* ---- all of it */

static int put_vcpu(struct xen *x, unsigned vcpu, struct rpl_out *o, struct rpl_err *err)
{
	xc_vcpuinfo_t info;

	if (xc_vcpu_getinfo(x->xc, x->domid, vcpu, &info) < 0)
		return rpl_fail_errno(err, errno, "vCPU %u", vcpu);
	if (!info.online)
		return 0;
	if (put_basic(x, vcpu, o, err) < 0 || put_extended(x, vcpu, o, err) < 0 ||
	    put_piece(x, vcpu, XEN_XSAVE, o, err) < 0)
		return err->code;
	return put_piece(x, vcpu, XEN_MSRS, o, err);
}

int xen_put_pv_tail(struct xen *x, struct rpl_out *o, struct rpl_err *err)
{
	rpl_stream_put_record(o, RPL_LIBXC_SHARED_INFO, x->p2m.shinfo, RPL_STREAM_PAGE);
	for (unsigned i = 0; i < x->vcpus; i++)
		if (put_vcpu(x, i, o, err) < 0)
			return err->code;
	return 0;
}
