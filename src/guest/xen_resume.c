/* xen_resume.c - a guest that suspended itself goes on in place, by no more hypercalls than that takes
 *
 * Its suspend returns 1, "cancelled", because a register of its first virtual CPU is changed while it stands still. That is what
 * xc_domain_resume(.., 1) does; but it asks each time what kind of domain this is, what its drivers do and what Xen can, and makes
 * room for the registers twice: six hypercalls and four changes of the address space, while the guest waits. All of that is known here, and the room is
 * kept. What is not left out is the look whether the domain is still suspended: to write registers of one that another program
 * resumed would be its end.
 *
 * For whatever is not so plain (a domain that did not suspend itself, one with a device model, a failure on the way) there is
 * xc_domain_resume(), which begins anew and changes nothing if it fails.
 */
#include "xen_impl.h"

#include <errno.h>
#include <string.h>

#include <xenguest.h>

/* ---- room that hypercalls can reach, kept */

int xen_room_make(struct xen *x, struct xen_room *r, size_t bytes, const char *what, struct rpl_err *err)
{
	static const xc_hypercall_buffer_t none = { .ubuf = (void *)-1 };
	unsigned pages = (unsigned)((bytes + RPL_PAGE_SIZE - 1) / RPL_PAGE_SIZE);

	if (r->pages >= pages)
		return 0;
	xen_room_free(x, r);
	r->buffer = none;
	r->p = xc__hypercall_buffer_alloc_pages(x->xc, &r->buffer, (int)pages);
	if (!r->p)
		return rpl_fail_errno(err, errno, "domain %u: room for %zu bytes of %s", x->domid, bytes, what);
	r->pages = pages;
	return 0;
}

void xen_room_free(struct xen *x, struct xen_room *r)
{
	if (r->p)
		xc__hypercall_buffer_free_pages(x->xc, &r->buffer, (int)r->pages);
	*r = (struct xen_room){ .p = NULL };
}

/* ---- the first virtual CPU's registers */

static int registers(struct xen *x, uint32_t cmd)
{
	struct xen_domctl op = { .cmd = cmd, .domain = (domid_t)x->domid };

	op.u.vcpucontext.vcpu = 0;
	set_xen_guest_handle_raw(op.u.vcpucontext.ctxt, x->registers.p);
	return xc_domctl(x->xc, &op);
}

const vcpu_guest_context_t *xen_registers(struct xen *x, struct rpl_err *err)
{
	if (xen_room_make(x, &x->registers, sizeof(vcpu_guest_context_t), "registers", err) < 0)
		return NULL;
	if (registers(x, XEN_DOMCTL_getvcpucontext) == 0)
		return x->registers.p;
	(void)rpl_fail_errno(err, errno, "vCPU 0: its context");
	return NULL;
}

/* ---- the resume */

static bool is_suspended(struct xen *x)
{
	struct xen_dominfo d;

	return xen_compat_dominfo(x->xc, x->domid, &d) == 0 && d.shutdown && d.reason == SHUTDOWN_suspend;
}

static bool go_on(struct xen *x)
{
	struct xen_domctl op = { .cmd = XEN_DOMCTL_resumedomain, .domain = (domid_t)x->domid };
	struct rpl_err unused_err;
	vcpu_guest_context_t *c;

	if (!x->answered || x->kind == XEN_HVM || !is_suspended(x))
		return false;
	if (!xen_registers(x, &unused_err)) /* as they are now, whatever was saved */
		return false;
	c = x->registers.p;
	c->user_regs.rax = 1;
	return registers(x, XEN_DOMCTL_setvcpucontext) == 0 && xc_domctl(x->xc, &op) == 0;
}

int xen_resume(struct xen *x)
{
	int r = go_on(x) ? 0 : xc_domain_resume(x->xc, x->domid, 1);

	x->answered = x->stands = false;
	return r;
}
