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
	uint64_t p2m_entries;    /* PV: what its own list has, from the device state */
	uint64_t shared_info;    /* PV: machine frame; known when it is completed */
	uint64_t *p2m;           /* PV: machine frame of each page. Not the shared one, which a mover can write */
	int shared_fd;
	struct xen_shared shared;

	/* what libxl is told in the end; machine frames of a PV guest */
	uint64_t store_gfn, console_gfn;
	bool has_rings; /* and what it was told when it attached the devices */
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
/* What libxl and the daemons of dom0 look at in a domain that is complete: its two rings, in these frames of the guest. */
int xen_helper_put_rings(struct xen_helper *h, uint64_t store_pfn, uint64_t console_pfn, struct rpl_err *err);
int xen_helper_grant_rings(struct xen_helper *h, struct rpl_err *err); /* to the daemons */
/* After the fork: handles of our own, and nothing of libxl's. */
int xen_helper_be_alone(struct xen_helper *h, struct rpl_err *err);
/* Wait until the keeper says something. -ESRCH: the domain is gone. */
struct xs_handle;
int xen_helper_wait(struct xen_helper *h, int sock, struct xs_handle *xs, struct rpl_err *err);

/* ---- completing the domain; the device state is a plain libxl stream without memory, in `fd` from offset 0 */
int xen_helper_complete_hvm(struct xen_helper *h, int fd, struct rpl_err *err); /* PVH */
/* xen_helper_pv.c: the same, mapped. It was found sound as a whole (xen_image_split()). */
int xen_helper_complete_pv(struct xen_helper *h, const void *blob, size_t len, struct rpl_err *err);

/* The machine frame of a frame of a PV guest, which must have memory; and, for the other, this type (RPL_PAGE_*), pinned or not. */
int xen_helper_frame(struct xen_helper *h, uint64_t pfn, const char *what, uint64_t *ret, struct rpl_err *err);
int xen_helper_typed_frame(struct xen_helper *h, uint64_t pfn, unsigned type, const char *what, uint64_t *ret, struct rpl_err *err);
/* Map machine frames of the domain, writable. NULL: *err. */
void *xen_helper_map(struct xen_helper *h, const uint64_t *mfns, size_t n, struct rpl_err *err);
void xen_helper_unmap(struct xen_helper *h, void *p, size_t n);

/* ---- xen_helper_vcpu.c */
#define XEN_HELPER_VCPUS_MAX 128u

struct xen_helper_blob {
	const uint8_t *p;
	uint32_t len; /* 0: there was no such record */
};

struct xen_helper_vcpu {
	struct xen_helper_blob basic, extended, xsave, msrs;
};

/* For vCPU 0 it also finds the rings of xenstore and console. */
int xen_helper_set_vcpu(struct xen_helper *h, unsigned id, const struct xen_helper_vcpu *v, struct rpl_err *err);

#endif
