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

static int put_xsave(struct xen *x, unsigned vcpu, struct rpl_out *o, struct rpl_err *err)
{
	struct xen_domctl op = { .cmd = XEN_DOMCTL_getvcpuextstate, .domain = (domid_t)x->domid };
	DECLARE_HYPERCALL_BUFFER(void, buffer);
	uint64_t size;
	int r = 0;

	op.u.vcpuextstate.vcpu = vcpu;
	if (xc_domctl(x->xc, &op) < 0)
		return rpl_fail_errno(err, errno, "vCPU %u: the length of its XSAVE state", vcpu);
	size = op.u.vcpuextstate.size;
	if (size == 0)
		return 0;
	if (size > XEN_SCRATCH)
		return rpl_fail(err, -EMSGSIZE, "vCPU %u: XSAVE state of %" PRIu64 " bytes, at most %u are possible", vcpu, size,
				XEN_SCRATCH);
	buffer = xc_hypercall_buffer_alloc(x->xc, buffer, size);
	if (!buffer)
		return rpl_fail(err, -ENOMEM, "vCPU %u: room for %" PRIu64 " bytes of XSAVE state", vcpu, size);
	set_xen_guest_handle(op.u.vcpuextstate.buffer, buffer);
	if (xc_domctl(x->xc, &op) < 0)
		r = rpl_fail_errno(err, errno, "vCPU %u: its XSAVE state", vcpu);
	else if (op.u.vcpuextstate.size && op.u.vcpuextstate.size <= size) /* the first answer is a maximum */
		rpl_stream_put_vcpu(o, RPL_LIBXC_X86_PV_VCPU_XSAVE, vcpu, buffer, (uint32_t)op.u.vcpuextstate.size);
	xc_hypercall_buffer_free(x->xc, buffer);
	return r;
}

static int put_msrs(struct xen *x, unsigned vcpu, struct rpl_out *o, struct rpl_err *err)
{
	struct xen_domctl op = { .cmd = XEN_DOMCTL_get_vcpu_msrs, .domain = (domid_t)x->domid };
	DECLARE_HYPERCALL_BUFFER(void, buffer);
	size_t size;
	int r = 0;

	op.u.vcpu_msrs.vcpu = vcpu;
	if (xc_domctl(x->xc, &op) < 0)
		return rpl_fail_errno(err, errno, "vCPU %u: the number of its MSRs", vcpu);
	size = op.u.vcpu_msrs.msr_count * sizeof(xen_domctl_vcpu_msr_t);
	if (size == 0)
		return 0;
	if (size > XEN_SCRATCH)
		return rpl_fail(err, -EMSGSIZE, "vCPU %u: %zu bytes of MSRs, at most %u are possible", vcpu, size, XEN_SCRATCH);
	buffer = xc_hypercall_buffer_alloc(x->xc, buffer, size);
	if (!buffer)
		return rpl_fail(err, -ENOMEM, "vCPU %u: room for %zu bytes of MSRs", vcpu, size);
	memset(buffer, 0, size);
	set_xen_guest_handle(op.u.vcpu_msrs.msrs, buffer);
	if (xc_domctl(x->xc, &op) < 0)
		r = rpl_fail_errno(err, errno, "vCPU %u: its MSRs", vcpu);
	else if (op.u.vcpu_msrs.msr_count && op.u.vcpu_msrs.msr_count * sizeof(xen_domctl_vcpu_msr_t) <= size)
		rpl_stream_put_vcpu(o, RPL_LIBXC_X86_PV_VCPU_MSRS, vcpu, buffer,
				    op.u.vcpu_msrs.msr_count * (uint32_t)sizeof(xen_domctl_vcpu_msr_t));
	xc_hypercall_buffer_free(x->xc, buffer);
	return r;
}

static int put_vcpu(struct xen *x, unsigned vcpu, struct rpl_out *o, struct rpl_err *err)
{
	xc_vcpuinfo_t info;

	if (xc_vcpu_getinfo(x->xc, x->domid, vcpu, &info) < 0)
		return rpl_fail_errno(err, errno, "vCPU %u", vcpu);
	if (!info.online)
		return 0;
	if (put_basic(x, vcpu, o, err) < 0 || put_extended(x, vcpu, o, err) < 0 || put_xsave(x, vcpu, o, err) < 0)
		return err->code;
	return put_msrs(x, vcpu, o, err);
}

int xen_put_pv_tail(struct xen *x, struct rpl_out *o, struct rpl_err *err)
{
	rpl_stream_put_record(o, RPL_LIBXC_SHARED_INFO, x->p2m.shinfo, RPL_STREAM_PAGE);
	for (unsigned i = 0; i < x->vcpus; i++)
		if (put_vcpu(x, i, o, err) < 0)
			return err->code;
	return 0;
}
