/* xen_helper_impl.h - the parts of replicad-xen-helper */
#ifndef RPL_GUEST_XEN_HELPER_IMPL_H
#define RPL_GUEST_XEN_HELPER_IMPL_H

#include <stdbool.h>

#include <xenctrl.h>

#include <replicad/err.h>

#include "xen_helper.h"
#include "xen_helper_msgs.h"
#include "xen_shared.h"

struct xen_helper {
	struct xen_helper_args args;
	xc_interface *xc;
	bool pv;
	bool alone; /* libxl has its domain, we wait on for ourselves (xen_helper_early.c) */
	bool watched;

	/* the domain's memory, once a layout is known */
	bool laid_out;
	struct rpl_ram_layout layout;
	uint64_t pages;          /* the guest's; file pages are counted as in the layout */
	uint64_t max_kib_was;    /* what the toolstack allowed it */
	uint64_t *p2m;           /* PV: machine frame of each page. Not the shared one, which a mover can write */
	int shared_fd;
	struct xen_shared shared;

	/* what libxl is told in the end */
	uint64_t store_gfn, console_gfn;
};

/* ---- xen_helper_main.c: the conversation with libxl */
void xen_helper_log(enum xen_helper_level level, const char *fmt, ...) RPL_PRINTF(2, 3);
/* Ask libxl, and be answered. 0, or -EPROTO if it does not answer or refuses. */
int xen_helper_static_data_done(unsigned missing, struct rpl_err *err);

/* ---- xen_helper_memory.c */
/* Give the domain memory for this layout, in place of what it has. */
int xen_helper_lay_out(struct xen_helper *h, const struct rpl_ram_layout *l, struct rpl_err *err);
/* Give back what the guest did not have at the end: pages whose type is XTAB. */
int xen_helper_trim(struct xen_helper *h, struct rpl_err *err);

/* ---- xen_helper_early.c: a domain that gets its devices while it waits */
/* What libxl and the daemons of dom0 look at in a domain that is complete: its two rings. */
int xen_helper_put_rings(struct xen_helper *h, uint64_t store_gfn, uint64_t console_gfn, struct rpl_err *err);
/* After the fork: handles of our own, and nothing of libxl's. */
int xen_helper_be_alone(struct xen_helper *h, struct rpl_err *err);
/* Wait until the keeper says something. -ESRCH: the domain is gone. */
struct xs_handle;
int xen_helper_wait(struct xen_helper *h, int sock, struct xs_handle *xs, struct rpl_err *err);

/* ---- completing the domain; the device state is a plain libxl stream without memory, in `fd` from offset 0 */
int xen_helper_complete_hvm(struct xen_helper *h, int fd, struct rpl_err *err); /* PVH */

#endif
