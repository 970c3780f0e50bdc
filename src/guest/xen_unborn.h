/* xen_unborn.h - the domain that xl is making, seen from beside: which one it is, and since when it runs
 *
 * Until the takeover is won nobody may take it for a guest: it has the mark RPL_XEN_STANDBY_NODE (xen_helper.h), by which a later
 * keeper knows what it may remove. The mark goes before xl is given the last part of the stream. xl tells nobody that it let the
 * domain run until it has cleaned up after itself, so the hypervisor is asked.
 */
#ifndef RPL_GUEST_XEN_UNBORN_H
#define RPL_GUEST_XEN_UNBORN_H

#include <stdbool.h>
#include <stdint.h>

#include <replicad/err.h>

struct xen_unborn;

/* Before xl is started. pages: so many it may have to hold, whatever the file that xl makes it from says. NULL: nothing can be asked
 * here (no Xen below us, which xl has its own words for); the other functions accept that and know of no domain. */
struct xen_unborn *xen_unborn_new(const char *name, uint64_t pages);
void xen_unborn_free(struct xen_unborn *u);

/* Look for it, if it is not known yet, mark it, and let it have its pages. */
void xen_unborn_mark(struct xen_unborn *u);
/* From here on it may become a guest. */
int xen_unborn_unmark(struct xen_unborn *u, struct rpl_err *err);
/* It has been told to run. */
bool xen_unborn_runs(struct xen_unborn *u);
/* It is there, and still has our mark. */
bool xen_unborn_remains(struct xen_unborn *u);
uint32_t xen_unborn_domid(const struct xen_unborn *u); /* 0: not known */

#endif
