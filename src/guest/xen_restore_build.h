/* xen_restore_build.h - replicad-xen-restore: a domain of the replica in a memfd, all but its end before anybody needs it */
#ifndef RPL_GUEST_XEN_RESTORE_BUILD_H
#define RPL_GUEST_XEN_RESTORE_BUILD_H

#include <stddef.h>

#include <replicad/err.h>

struct xen_build {
	const char *config, *name;
	int ram_fd, state_fd, desc_fd; /* ram_fd is taken, the others stay the caller's */
	size_t len;                    /* of the device state */
	int sock;                      /* to the keeper (xen_standby.h) */
};

/* Feed xl all but the last part, wait for the keeper's word, feed that. 0: the domain runs, and xl has ended; -ECANCELED: the
 * keeper has no use for it, or is gone: what there was of the domain is gone too. */
int xen_build(const struct xen_build *b, struct rpl_err *err);

#endif
