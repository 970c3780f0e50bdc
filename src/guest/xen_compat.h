/* xen_compat.h - the calls of Xen's libraries whose names or forms differ between releases, in one place
 *
 * Built and run with Xen 4.17. All of the backend compiles with the headers of 4.18.0, 4.19.0, 4.20.0 and 4.21.0 too; nobody
 * has run it there.
 */
#ifndef RPL_GUEST_XEN_COMPAT_H
#define RPL_GUEST_XEN_COMPAT_H

#include <stdbool.h>
#include <stdint.h>

#include <xenctrl.h>

#include <replicad/err.h>

struct xen_dominfo {
	bool hvm;            /* HVM or PVH */
	bool dying, shutdown, paused, hap;
	unsigned reason;     /* SHUTDOWN_..., if shutdown */
	uint64_t tot_pages, max_pages, shared_info_frame;
	uint32_t max_vcpu_id;
	uint32_t emulation;  /* XEN_X86_EMU_... */
	uint8_t uuid[16];
};

/* 0, -ESRCH if there is no such domain, or another negative errno. */
int xen_compat_dominfo(xc_interface *xc, uint32_t domid, struct xen_dominfo *ret);

/* Of one call: a page of numbers, which libxencall keeps. Two, Xen's own limit, it would map and unmap each time, in the pause. */
#define XEN_TYPES_MAX 512
/* In: gfns (machine frames of a PV guest); out: types as streams number them. 0 or a negative errno. */
int xen_compat_page_types(xc_interface *xc, uint32_t domid, unsigned n, uint64_t *inout);

/* Where xenstored listens, or NULL: only its library knows. */
const char *xen_compat_xenstored(void);

#define PRIVCMD_PATH "/dev/xen/privcmd"
/* A descriptor that can map frames of this domain and do nothing else: for a mover. Or a negative errno. */
int xen_compat_privcmd(uint32_t domid, struct rpl_err *err);

#define XEN_SHUTDOWN_SUSPEND 2u /* SHUTDOWN_suspend of <xen/sched.h> */

#endif
