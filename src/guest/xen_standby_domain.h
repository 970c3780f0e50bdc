/* xen_standby_domain.h - the keeper's end of the conversation with replicad-xen-helper; private to src/guest
 *
 * The replica of kind `domain` (xen_helper.h). Orders are small and the helper waits for them; answers come when they come.
 */
#ifndef RPL_GUEST_XEN_STANDBY_DOMAIN_H
#define RPL_GUEST_XEN_STANDBY_DOMAIN_H

#include <replicad/memory.h>

#include "xen_helper.h"

/* What the helper said. 0; 1: nothing yet; -ECONNRESET: it has ended; another negative errno: what it failed with. */
int xen_domain_hear(int sock, struct xen_helper_say *ret, int *fds, size_t *n_fds, struct rpl_err *err);
/* Have the domain given memory for this layout: LAID_OUT comes of it. `rings`: it is to be completed early, with those of xenstore
 * and console there; NULL: not. */
int xen_domain_lay_out(int sock, const struct rpl_ram_layout *l, const uint64_t rings[2], struct rpl_err *err);
/* Make a guest of it. The toolstack's end tells how that went; early, COMPLETED does. */
int xen_domain_activate(int sock, int state_fd, size_t len, struct rpl_err *err);

#endif
