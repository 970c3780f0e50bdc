/* xen_helper_vcpu.c - the virtual CPUs of a PV guest get the state that the stream has of them
 *
 * The inverse of xen_vcpu.c. Xen takes a PV context once: a second one with other page tables is refused.
 */
#include "xen_helper_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define GDT_PER_FRAME 512u
#define GDT_ENTRIES_MAX 7168u
#define EXTENDED_MAX 128u
#define XSAVE_MAX (1u << 20)
#define VGCF_ONLINE (1ul << 5)

/* ---- start info: the guest names it in rdx of vCPU 0 when it asks to be suspended */

/* Of a domain that has its devices the daemons have the rings already. */
static int find_rings(struct xen_helper *h, const start_info_t *si, struct rpl_err *err)
{
	uint64_t store, console;

	if (xen_helper_frame(h, si->store_mfn, "xenstore's ring", &store, err) < 0 ||
	    xen_helper_frame(h, si->console.domU.mfn, "the console's ring", &console, err) < 0)
		return err->code;
	if (h->has_rings && (store != h->store_gfn || console != h->console_gfn))
		return rpl_fail(err, -EBADMSG, "domain %u: its start info names the rings 0x%" PRIx64 " and 0x%" PRIx64 ", the primary's "
				"definition named 0x%" PRIx64 " and 0x%" PRIx64, h->args.domid, store, console, h->store_gfn, h->console_gfn);
	h->store_gfn = store;
	h->console_gfn = console;
	return 0;
}

static int fill_start_info(struct xen_helper *h, start_info_t *si, struct rpl_err *err)
{
	if (find_rings(h, si, err) < 0)
		return err->code;
	si->store_mfn = h->store_gfn;
	si->store_evtchn = h->args.store_port;
	si->console.domU.mfn = h->console_gfn;
	si->console.domU.evtchn = h->args.console_port;
	si->nr_pages = h->p2m_entries;
	si->shared_info = h->shared_info << RPL_PAGE_SHIFT;
	si->flags = 0;
	return 0;
}

static int start_info(struct xen_helper *h, vcpu_guest_context_t *c, struct rpl_err *err)
{
	start_info_t *si;
	uint64_t mfn;
	int r;

	if (xen_helper_typed_frame(h, c->user_regs.rdx, RPL_PAGE_NOTAB, "start info", &mfn, err) < 0)
		return err->code;
	si = xen_helper_map(h, &mfn, 1, err);
	if (!si)
		return err->code;
	r = fill_start_info(h, si, err);
	xen_helper_unmap(h, si, 1);
	c->user_regs.rdx = mfn;
	return r;
}

/* ---- the four records */

static int localise(struct xen_helper *h, unsigned id, vcpu_guest_context_t *c, struct rpl_err *err)
{
	uint64_t mfn;

	if (id == 0 && start_info(h, c, err) < 0)
		return err->code;
	if (c->gdt_ents > GDT_ENTRIES_MAX)
		return rpl_fail(err, -EBADMSG, "vCPU %u: a GDT of %lu entries, at most %u are possible", id, c->gdt_ents,
				GDT_ENTRIES_MAX);
	for (unsigned i = 0; i < (c->gdt_ents + GDT_PER_FRAME - 1) / GDT_PER_FRAME; i++) {
		if (xen_helper_typed_frame(h, c->gdt_frames[i], RPL_PAGE_NOTAB, "GDT", &mfn, err) < 0)
			return err->code;
		c->gdt_frames[i] = mfn;
	}
	if (xen_helper_typed_frame(h, c->ctrlreg[3] >> RPL_PAGE_SHIFT, RPL_PAGE_L4TAB, "CR3", &mfn, err) < 0)
		return err->code;
	c->ctrlreg[3] = mfn << RPL_PAGE_SHIFT;
	if (!(c->ctrlreg[1] & 1))
		return 0;
	if (xen_helper_typed_frame(h, c->ctrlreg[1] >> RPL_PAGE_SHIFT, RPL_PAGE_L4TAB, "user CR3", &mfn, err) < 0)
		return err->code;
	c->ctrlreg[1] = mfn << RPL_PAGE_SHIFT;
	return 0;
}

static int set_basic(struct xen_helper *h, unsigned id, const struct xen_helper_blob *b, struct rpl_err *err)
{
	static vcpu_guest_context_any_t any; /* large */

	if (b->len != sizeof(any.c))
		return rpl_fail(err, -EBADMSG, "vCPU %u: a context of %u bytes, expected %zu", id, b->len, sizeof(any.c));
	memcpy(&any.c, b->p, sizeof(any.c));
	if (localise(h, id, &any.c, err) < 0)
		return err->code;
	any.c.flags |= VGCF_ONLINE;
	if (xc_vcpu_setcontext(h->xc, h->args.domid, id, &any) < 0)
		return rpl_fail_errno(err, errno, "vCPU %u: set its context", id);
	return 0;
}

static int set_extended(struct xen_helper *h, unsigned id, const struct xen_helper_blob *b, struct rpl_err *err)
{
	struct xen_domctl op = { .cmd = XEN_DOMCTL_set_ext_vcpucontext, .domain = (domid_t)h->args.domid };

	_Static_assert(EXTENDED_MAX <= sizeof(op.u), "it is a part of the call");
	if (b->len > EXTENDED_MAX)
		return rpl_fail(err, -EBADMSG, "vCPU %u: an extended context of %u bytes, at most %u are possible", id, b->len,
				EXTENDED_MAX);
	memcpy(&op.u, b->p, b->len);
	op.u.ext_vcpucontext.vcpu = id;
	if (xc_domctl(h->xc, &op) < 0)
		return rpl_fail_errno(err, errno, "vCPU %u: set its extended context", id);
	return 0;
}

static int set_xsave(struct xen_helper *h, unsigned id, const struct xen_helper_blob *b, struct rpl_err *err)
{
	struct xen_domctl op = { .cmd = XEN_DOMCTL_setvcpuextstate, .domain = (domid_t)h->args.domid };
	DECLARE_HYPERCALL_BUFFER(void, buffer);
	int r = 0;

	buffer = b->len <= XSAVE_MAX ? xc_hypercall_buffer_alloc(h->xc, buffer, b->len) : NULL;
	if (!buffer)
		return rpl_fail(err, -ENOMEM, "vCPU %u: room for %u bytes of XSAVE state", id, b->len);
	memcpy(buffer, b->p, b->len);
	op.u.vcpuextstate.vcpu = id;
	op.u.vcpuextstate.size = b->len;
	set_xen_guest_handle(op.u.vcpuextstate.buffer, buffer);
	if (xc_domctl(h->xc, &op) < 0)
		r = rpl_fail_errno(err, errno, "vCPU %u: set its XSAVE state", id);
	xc_hypercall_buffer_free(h->xc, buffer);
	return r;
}

static int set_msrs(struct xen_helper *h, unsigned id, const struct xen_helper_blob *b, struct rpl_err *err)
{
	struct xen_domctl op = { .cmd = XEN_DOMCTL_set_vcpu_msrs, .domain = (domid_t)h->args.domid };
	DECLARE_HYPERCALL_BUFFER(void, buffer);
	int r = 0;

	buffer = b->len <= XSAVE_MAX ? xc_hypercall_buffer_alloc(h->xc, buffer, b->len) : NULL;
	if (!buffer)
		return rpl_fail(err, -ENOMEM, "vCPU %u: room for %u bytes of MSRs", id, b->len);
	memcpy(buffer, b->p, b->len);
	op.u.vcpu_msrs.vcpu = id;
	op.u.vcpu_msrs.msr_count = b->len / (uint32_t)sizeof(xen_domctl_vcpu_msr_t);
	set_xen_guest_handle(op.u.vcpu_msrs.msrs, buffer);
	if (xc_domctl(h->xc, &op) < 0)
		r = rpl_fail_errno(err, errno, "vCPU %u: set its MSRs", id);
	xc_hypercall_buffer_free(h->xc, buffer);
	return r;
}

int xen_helper_set_vcpu(struct xen_helper *h, unsigned id, const struct xen_helper_vcpu *v, struct rpl_err *err)
{
	if (!v->basic.len)
		return id ? 0 : rpl_fail(err, -EBADMSG, "device state: vCPU 0 is not in it");
	if (set_basic(h, id, &v->basic, err) < 0)
		return err->code;
	if (v->extended.len && set_extended(h, id, &v->extended, err) < 0)
		return err->code;
	if (v->xsave.len && set_xsave(h, id, &v->xsave, err) < 0)
		return err->code;
	return v->msrs.len ? set_msrs(h, id, &v->msrs, err) : 0;
}
