/* xen_helper.h - a replica that is a domain from the start: what the keeper and replicad-xen-helper say to each other
 *
 * The replica of kind `domain` is a domain that the toolstack has begun to restore: `xl restore` made it, paused, and waits
 * for its save helper, which is ours (LIBXL_SAVE_HELPER). The helper gives the domain its memory, as soon as the primary's
 * layout is known, and hands the keeper what a mover needs to write it. It then waits, for hours. At the takeover it is given the
 * device state, completes the domain as libxc would, and tells libxl so; libxl attaches the devices, and xl unpauses.
 *
 * Early: where nothing but network interfaces is to be attached, the helper tells libxl that the domain is complete as soon as
 * it has memory. libxl attaches the devices, xl leaves the domain paused, and a fork of the helper stays behind alone. At
 * the takeover it gives the domain its device state and unpauses it, so that nothing is left of the toolstack's part. For
 * that it has to know where the rings of xenstore and console are, which the primary's definition says.
 *
 *   keeper                                 helper
 *                                     <-   READY         the domain exists; libxl answered
 *   LAYOUT    early: with the rings    ->
 *                                     <-   LAID_OUT      with two descriptors: privcmd, restricted to the domain; what is shared
 *   ACTIVATE  with the device state    ->                (xen_shared.h: types and p2m)
 *                                     <-   COMPLETED     with the time it took; libxl goes on. Early: it runs
 *                                     <-   FAILED        instead of any answer, with the reason; it ends
 *
 * One SOCK_SEQPACKET socket; same machine, same build. When the keeper's end closes before ACTIVATE, the helper fails, and
 * with that libxl takes the domain apart; early, the helper has xl do it. xl's exit tells how an activation went, or, early, how
 * attaching the devices did.
 *
 * A node in xenstore, RPL_XEN_STANDBY_NODE, marks the domain as long as it is nobody's guest.
 */
#ifndef RPL_GUEST_XEN_HELPER_H
#define RPL_GUEST_XEN_HELPER_H

#include <stdint.h>

#include <replicad/memory.h>

#define XEN_HELPER_PROGRAM "replicad-xen-helper"
#define XEN_HELPER_SOCKET_ENV "REPLICAD_STANDBY_FD" /* number of the inherited descriptor */
#define XEN_HELPER_REASON_MAX 256
#define RPL_XEN_STANDBY_NODE "/libxl/%u/replicad-standby"

enum xen_helper_kind { XEN_HELPER_READY = 1, XEN_HELPER_LAYOUT, XEN_HELPER_LAID_OUT, XEN_HELPER_ACTIVATE, XEN_HELPER_COMPLETED, XEN_HELPER_FAILED };

struct xen_helper_say {
	uint32_t kind;  /* enum xen_helper_kind */
	uint32_t domid; /* READY */
	uint32_t pv;    /* READY: it is a PV domain */
	uint32_t pid;   /* LAID_OUT, early: of who waits on */
	uint64_t len;   /* ACTIVATE: bytes of device state, from offset 0 of the descriptor. COMPLETED: microseconds */
	uint64_t store_gfn, console_gfn;    /* LAYOUT, early; else 0 */
	struct rpl_ram_layout layout;       /* LAYOUT */
	char reason[XEN_HELPER_REASON_MAX]; /* FAILED */
};

#endif
