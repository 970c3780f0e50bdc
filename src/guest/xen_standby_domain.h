/* xen_standby_domain.h - the keeper's end of the conversation with replicad-xen-helper; private to src/guest
 *
 * The replica of kind `domain` (xen_helper.h). Orders are small and the helper waits for them; only laying out takes long,
 * and is waited for, because it happens before there is anything to protect.
 */
#ifndef RPL_GUEST_XEN_STANDBY_DOMAIN_H
#define RPL_GUEST_XEN_STANDBY_DOMAIN_H

#include <replicad/memory.h>

#include "xen_helper.h"

#define XEN_LAY_OUT_TIMEOUT_MS 30000 /* giving a domain its memory */

/* What the helper said. 0; 1: nothing yet; -ECONNRESET: it has ended; another negative errno: what it failed with. */
int xen_domain_hear(int sock, struct xen_helper_say *ret, int *fds, size_t *n_fds, struct rpl_err *err);
/* Have the domain given memory for this layout; *ret and fds (two) are for a mover. Waits. */
int xen_domain_lay_out(int sock, const struct rpl_ram_layout *l, bool pv, struct rpl_memory_desc *ret, int *fds, size_t *ret_n,
		       struct rpl_err *err);
/* Make a guest of it. The toolstack's end tells how that went. */
int xen_domain_activate(int sock, int state_fd, size_t len, struct rpl_err *err);

#endif
