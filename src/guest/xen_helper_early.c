/* xen_helper_early.c - a domain that gets its devices while it waits (xen_helper.h)
 *
 * For libxl, xenstored and xenconsoled a domain is complete when its two rings are there: the frames are clear, granted to
 * them and named by the parameters (a PV guest's by its start info). What the guest knows of them comes with its device state; of
 * a PVH guest it has libxc do all this once more, with the same frames. Nobody writes to them meanwhile: the domain never runs, and the mover leaves them out
 * (what the guest had in them is of no use: it asks xenstore nothing while it is being suspended), since the daemons would take it for requests.
 */
#include "xen_helper_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include <xen/hvm/params.h>
#include <xenguest.h>
#include <xenstore.h>

#include <replicad/auto.h>

#include "xen_compat.h"

#define WATCH_TOKEN "replicad"

int xen_helper_grant_rings(struct xen_helper *h, struct rpl_err *err)
{
	const struct xen_helper_args *a = &h->args;

	if (xc_dom_gnttab_seed(h->xc, a->domid, !h->pv, h->console_gfn, h->store_gfn, a->console_domid, a->store_domid) < 0)
		return rpl_fail_errno(err, errno, "domain %u: seed its grant table", a->domid);
	return 0;
}

static int set_params(struct xen_helper *h, struct rpl_err *err)
{
	const struct {
		uint32_t name;
		uint64_t value;
	} params[] = { { HVM_PARAM_STORE_PFN, h->store_gfn }, { HVM_PARAM_STORE_EVTCHN, h->args.store_port },
		       { HVM_PARAM_CONSOLE_PFN, h->console_gfn }, { HVM_PARAM_CONSOLE_EVTCHN, h->args.console_port } };

	for (size_t i = 0; i < RPL_ARRAY_LEN(params); i++)
		if (xc_hvm_param_set(h->xc, h->args.domid, params[i].name, params[i].value) < 0)
			return rpl_fail_errno(err, errno, "domain %u: set its parameter %u", h->args.domid, params[i].name);
	return 0;
}

int xen_helper_put_rings(struct xen_helper *h, uint64_t store_pfn, uint64_t console_pfn, struct rpl_err *err)
{
	h->store_gfn = store_pfn;
	h->console_gfn = console_pfn;
	if (h->pv && (xen_helper_frame(h, store_pfn, "xenstore's ring", &h->store_gfn, err) < 0 ||
		      xen_helper_frame(h, console_pfn, "the console's ring", &h->console_gfn, err) < 0))
		return err->code;
	if (xc_clear_domain_page(h->xc, h->args.domid, h->store_gfn) < 0 || xc_clear_domain_page(h->xc, h->args.domid, h->console_gfn) < 0)
		return rpl_fail_errno(err, errno, "domain %u: clear its rings", h->args.domid);
	if ((!h->pv && set_params(h, err) < 0) || xen_helper_grant_rings(h, err) < 0)
		return err->code;
	h->shared.head->ring[0] = store_pfn;
	h->shared.head->ring[1] = console_pfn;
	h->has_rings = true;
	return 0;
}

/* The handle of before the fork is left as it is: its buffers are not ours to unmap. */
int xen_helper_be_alone(struct xen_helper *h, struct rpl_err *err)
{
	int null = open("/dev/null", O_RDWR);

	h->alone = true;
	(void)setsid();
	if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0)
		return rpl_fail_errno(err, errno, "/dev/null");
	(void)close(null);
	h->xc = xc_interface_open(NULL, NULL, 0);
	return h->xc ? 0 : rpl_fail_errno(err, errno, "open the hypervisor's interface");
}

static int look(const struct xen_helper *h, struct rpl_err *err)
{
	struct xen_dominfo d;
	int r = xen_compat_dominfo(h->xc, h->args.domid, &d);

	if (r < 0 || d.dying)
		return rpl_fail(err, -ESRCH, "domain %u was destroyed", h->args.domid);
	return 0;
}

int xen_helper_wait(struct xen_helper *h, int sock, struct xs_handle *xs, struct rpl_err *err)
{
	struct pollfd pfd[] = { { .fd = sock, .events = POLLIN }, { .fd = xs_fileno(xs), .events = POLLIN } };
	char **event;

	if (!h->watched && !xs_watch(xs, "@releaseDomain", WATCH_TOKEN))
		return rpl_fail_errno(err, errno, "xenstore: watch the ends of domains");
	h->watched = true;
	for (;;) {
		if (poll(pfd, RPL_ARRAY_LEN(pfd), -1) < 0 && errno != EINTR)
			return rpl_fail_errno(err, errno, "poll");
		if (pfd[0].revents)
			return 0;
		while ((event = xs_check_watch(xs)))
			free(event);
		if (look(h, err) < 0)
			return err->code;
	}
}
