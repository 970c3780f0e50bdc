/* xen_standby.h - the backup's half of the Xen backend; private to src/guest
 *
 * The standby is no domain yet: it is the operator's xl configuration, checked, and a memfd that is the replica. Its layout is
 * the primary's (xen.h): the memfd is made when the first definition arrives. Activating runs the program
 * replicad-xen-restore, which puts device state and memory together as one stream and has xl build the domain from it.
 *
 * The functions are the backend's operations of the same names (guest_impl.h), for a guest in that role.
 */
#ifndef RPL_GUEST_XEN_STANDBY_H
#define RPL_GUEST_XEN_STANDBY_H

#include "guest_impl.h"

struct xen_standby;

/* How long building a domain may take: as long as reading its memory and attaching its devices does. */
#define XEN_STANDBY_TIMEOUT_MS 120000

struct xen_standby *xen_standby_new(struct rpl_guest *g, struct rpl_err *err); /* NULL: *err */
/* Nothing that is activated ends with it, nor an activation under way (xen_standby_abandon() ends that). */
void xen_standby_free(struct xen_standby *s); /* accepts NULL */

/* Check configuration, host and memory; fills g->info but for the layout; ends in rpl_guest_op_done(). */
int xen_standby_start(struct xen_standby *s, struct rpl_err *err);
/* guest.h: rpl_guest_fit() */
int xen_standby_fit(struct xen_standby *s, const char *primary, struct rpl_err *err);
int xen_standby_memory(struct xen_standby *s, struct rpl_memory_desc *ret, int *fds, size_t *ret_n, struct rpl_err *err);
/* Ends in `done` instead, from the loop, so that the caller can attach to the domain that runs now; not after
 * xen_standby_abandon() or _free(). info.life is its number then, or 0: not known. */
typedef void xen_activated_fn(struct rpl_guest *g, int r, const struct rpl_err *err);
int xen_standby_activate(struct xen_standby *s, int state_fd, size_t len, xen_activated_fn *done, struct rpl_err *err);
/* guest.h: rpl_guest_prepare(), _unprepare() */
int xen_standby_prepare(struct xen_standby *s, int state_fd, size_t len, struct rpl_err *err);
void xen_standby_unprepare(struct xen_standby *s);
void xen_standby_abandon(struct xen_standby *s);
/* MiB of Xen's free memory that a domain made of it now would need; 0: none, it has them. -EBUSY: one that is being built, or taken
 * apart, has some of it. */
int xen_standby_needs_mib(const struct xen_standby *s, uint64_t *ret, struct rpl_err *err);

/* Exchanged with the program: "key=value" lines that it prints. */
#define XEN_RESTORE_PROGRAM "replicad-xen-restore"
#define XEN_RESTORE_SAYS_MAX 16384
#define XEN_RESTORE_DONE "done" /* its last line, if it did what it was to do */

/* Between the keeper and `activate`, over one SOCK_SEQPACKET socket; same machine, same build. The keeper's end closing before
 * GO means that there is no use for the domain. */
enum xen_build_kind {
	XEN_BUILD_FED = 1, /* program: all of the memory is with xl */
	XEN_BUILD_GO,      /* keeper: the takeover is won, the store is promoted: let it run */
	XEN_BUILD_RUNS,    /* program: the domain was unpaused; xl's end is still to come */
};

struct xen_build_say {
	uint32_t kind, domid; /* domid 0: not known */
	uint64_t ms;          /* since xl was started */
};

#endif
