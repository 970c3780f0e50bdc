/* xen_state.c - the device state of a checkpoint: a complete stream without pages
 *
 * Static records (CPU policies) are read once a session; the tail is read in each pause. Written into the mapped state
 * memfd in one go.
 */
#include "xen_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <xen/hvm/params.h>
#include <xenguest.h>

#include <replicad/auto.h>
#include <replicad/stream.h>

#define PV_LEVELS 4
#define PV_WIDTH 8

/* ---- static records */

static int put_policies(struct xen *x, struct rpl_out *o, struct rpl_err *err)
{
	RPL_AUTO_FREE xen_cpuid_leaf_t *leaves = NULL;
	RPL_AUTO_FREE xen_msr_entry_t *msrs = NULL;
	xc_cpu_policy_t *policy = xc_cpu_policy_init();
	uint32_t n_leaves = 0, n_msrs = 0;
	int r = -1;

	if (policy && xc_cpu_policy_get_size(x->xc, &n_leaves, &n_msrs) == 0) {
		leaves = calloc(n_leaves, sizeof(*leaves));
		msrs = calloc(n_msrs, sizeof(*msrs));
		if (leaves && msrs && xc_cpu_policy_get_domain(x->xc, x->domid, policy) == 0)
			r = xc_cpu_policy_serialise(x->xc, policy, leaves, &n_leaves, msrs, &n_msrs);
	}
	if (policy)
		xc_cpu_policy_destroy(policy);
	if (r < 0)
		return rpl_fail_errno(err, errno, "domain %u: its CPU policy", x->domid);
	if (n_leaves)
		rpl_stream_put_record(o, RPL_LIBXC_X86_CPUID_POLICY, leaves, n_leaves * (uint32_t)sizeof(*leaves));
	if (n_msrs)
		rpl_stream_put_record(o, RPL_LIBXC_X86_MSR_POLICY, msrs, n_msrs * (uint32_t)sizeof(*msrs));
	return 0;
}
_Static_assert(sizeof(xen_cpuid_leaf_t) == 24 && sizeof(xen_msr_entry_t) == 16, "policies are written as Xen gives them");

/* As stock streams do it: these, in this order, unless they are zero. Those that a guest may set are read in each pause; the
 * others are what the toolstack and the device model made of the domain before it ran, and are read once a session. */
static const struct {
	unsigned index;
	bool by_guest;
} params[XEN_PARAMS] = {
	{ HVM_PARAM_STORE_PFN, false }, { HVM_PARAM_IOREQ_PFN, false }, { HVM_PARAM_BUFIOREQ_PFN, false },
	{ HVM_PARAM_PAGING_RING_PFN, false }, { HVM_PARAM_MONITOR_RING_PFN, false }, { HVM_PARAM_SHARING_RING_PFN, false },
	{ HVM_PARAM_VM86_TSS_SIZED, true }, { HVM_PARAM_CONSOLE_PFN, false }, { HVM_PARAM_ACPI_IOPORTS_LOCATION, true },
	{ HVM_PARAM_VIRIDIAN, false }, { HVM_PARAM_IDENT_PT, false }, { HVM_PARAM_VM_GENERATION_ID_ADDR, true },
	{ HVM_PARAM_IOREQ_SERVER_PFN, false }, { HVM_PARAM_NR_IOREQ_SERVER_PAGES, false }, { HVM_PARAM_X87_FIP_WIDTH, true },
	{ HVM_PARAM_MCA_CAP, false },
};

static int read_params(struct xen *x, bool by_guest, struct rpl_err *err)
{
	for (size_t i = 0; i < XEN_PARAMS; i++)
		if (params[i].by_guest == by_guest && xc_hvm_param_get(x->xc, x->domid, params[i].index, &x->param[i]) < 0)
			return rpl_fail_errno(err, errno, "domain %u: HVM parameter %u", x->domid, params[i].index);
	return 0;
}

int xen_head_make(struct xen *x, struct rpl_err *err)
{
	int version = xc_version(x->xc, XENVER_version, NULL);
	struct rpl_stream_domain_header d = {
		.type = x->kind == XEN_PV ? RPL_DOMAIN_PV : RPL_DOMAIN_HVM, .page_shift = RPL_STREAM_PAGE_SHIFT,
		.xen_major = (uint32_t)version >> 16, .xen_minor = (uint32_t)version & 0xffff,
	};
	struct rpl_out o;

	free(x->head);
	x->head = malloc(XEN_SCRATCH);
	if (!x->head)
		return rpl_fail(err, -ENOMEM, "no memory for the static records");
	o = rpl_out(x->head, XEN_SCRATCH);
	rpl_stream_put_libxl_header(&o, 0);
	rpl_stream_put_record(&o, RPL_LIBXL_LIBXC_CONTEXT, NULL, 0);
	rpl_stream_put_image_header(&o, RPL_IMAGE_V3);
	rpl_stream_put_domain_header(&o, &d);
	if (x->kind == XEN_PV)
		rpl_stream_put_pv_info(&o, PV_WIDTH, PV_LEVELS);
	if (put_policies(x, &o, err) < 0 || (x->kind != XEN_PV && read_params(x, false, err) < 0))
		return err->code;
	x->context_max = 0;
	rpl_stream_put_record(&o, RPL_LIBXC_STATIC_DATA_END, NULL, 0);
	x->head_len = o.len;
	return o.bad ? rpl_fail(err, -E2BIG, "domain %u: its static records are longer than %u bytes", x->domid, XEN_SCRATCH) : 0;
}

void xen_put_head(struct xen *x, struct rpl_out *o)
{
	rpl_out_bytes(o, x->head, x->head_len);
	if (x->kind == XEN_PV) /* here and not with the static records: the list may move between epochs */
		rpl_stream_put_p2m_frames(o, 0, (uint32_t)(x->p2m.pages - 1), x->p2m.leaf_pfn, (uint32_t)x->p2m.n_leaves);
}

/* ---- tail */

static int put_tsc(struct xen *x, struct rpl_out *o, struct rpl_err *err)
{
	struct rpl_stream_tsc t = { 0 };

	if (xc_domain_get_tsc_info(x->xc, x->domid, &t.mode, &t.nsec, &t.khz, &t.incarnation) < 0)
		return rpl_fail_errno(err, errno, "domain %u: its time stamp counter", x->domid);
	rpl_stream_put_tsc(o, &t);
	return 0;
}

/* What xc_domain_hvm_getcontext() does, into memory that is kept. */
static int get_context(struct xen *x, uint32_t room)
{
	struct xen_domctl op = { .cmd = XEN_DOMCTL_gethvmcontext, .domain = (domid_t)x->domid };

	op.u.hvmcontext.size = room;
	set_xen_guest_handle_raw(op.u.hvmcontext.buffer, x->context.p);
	return xc_domctl(x->xc, &op) < 0 ? -1 : (int)op.u.hvmcontext.size;
}

/* How long it can be is Xen's to say once; it does not change while the domain lives. */
static int put_hvm_context(struct xen *x, struct rpl_out *o, struct rpl_err *err)
{
	int n = x->context_max ? x->context_max : xc_domain_hvm_getcontext(x->xc, x->domid, NULL, 0);

	x->context_max = n > 0 ? n : 0;
	if (n > 0 && n <= (int)XEN_SCRATCH) {
		if (xen_room_make(x, &x->context, (size_t)n, "HVM context", err) < 0)
			return err->code;
		n = get_context(x, (uint32_t)n);
	}
	if (n <= 0)
		x->context_max = 0;
	if (n <= 0 || n > (int)XEN_SCRATCH)
		return rpl_fail(err, n < 0 ? -errno : -EMSGSIZE, "domain %u: an HVM context of %d bytes; 1 to %u are possible", x->domid,
				n, XEN_SCRATCH);
	rpl_stream_put_record(o, RPL_LIBXC_HVM_CONTEXT, x->context.p, (uint32_t)n);
	return 0;
}

static int put_hvm_params(struct xen *x, struct rpl_out *o, struct rpl_err *err)
{
	struct rpl_stream_param p[XEN_PARAMS];
	uint32_t n = 0;

	if (read_params(x, true, err) < 0)
		return err->code;
	for (size_t i = 0; i < XEN_PARAMS; i++)
		if (x->param[i])
			p[n++] = (struct rpl_stream_param){ params[i].index, x->param[i] };
	if (n)
		rpl_stream_put_hvm_params(o, p, n);
	return 0;
}

static int put_state(struct xen *x, struct rpl_out *o, struct rpl_err *err)
{
	xen_put_head(x, o);
	if (put_tsc(x, o, err) < 0)
		return err->code;
	if (x->kind == XEN_PV) {
		if (xen_put_pv_tail(x, o, err) < 0)
			return err->code;
	} else if (put_hvm_context(x, o, err) < 0 || put_hvm_params(x, o, err) < 0) {
		return err->code;
	}
	rpl_stream_put_record(o, RPL_LIBXC_END, NULL, 0);
	if (x->kind != XEN_HVM)
		rpl_stream_put_record(o, RPL_LIBXL_END, NULL, 0);
	return o->bad ? rpl_fail(err, -EMSGSIZE, "domain %u: its device state is longer than %d bytes", x->domid,
				 RPL_GUEST_STATE_MAX) : 0;
}

int xen_state_save(struct xen *x, struct rpl_err *err)
{
	struct rpl_out o = rpl_out(x->state, RPL_GUEST_STATE_MAX);
	int r = put_state(x, &o, err);

	x->state_len = r == 0 ? o.len : 0;
	x->g->state_len = x->kind == XEN_HVM ? 0 : x->state_len;
	return r;
}

int xen_state_finish(struct xen *x, struct rpl_err *err)
{
	struct rpl_out o = { .p = x->state, .len = x->state_len, .cap = RPL_GUEST_STATE_MAX };

	if (xen_qemu_put(x, &o, err) < 0)
		return err->code;
	rpl_stream_put_record(&o, RPL_LIBXL_END, NULL, 0);
	if (o.bad)
		return rpl_fail(err, -EMSGSIZE, "domain %u: its device state is longer than %d bytes", x->domid, RPL_GUEST_STATE_MAX);
	x->g->state_len = o.len;
	return 0;
}

int rpl_xen_head(struct rpl_guest *g, void *buf, size_t size, size_t *ret_len, struct rpl_err *err)
{
	struct rpl_out o = rpl_out(buf, size);
	struct xen *x = xen_of(g);

	rpl_assert(g->ops == &rpl_guest_xen && x->head);
	xen_put_head(x, &o);
	*ret_len = o.len;
	return o.bad ? rpl_fail(err, -EMSGSIZE, "%s: its static records are longer than %zu bytes", g->conf.name, size) : 0;
}
