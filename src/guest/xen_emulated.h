/* xen_emulated.h - what an HVM guest's device model emulates, as one line of text; pure
 *
 * A device model can take over another's state only if both have the same devices. libxl's configuration says which: the
 * primary has it in the file that libxl keeps for each domain, the backup from its own xl configuration. What libxl fills in
 * itself may be missing in either.
 */
#ifndef RPL_GUEST_XEN_EMULATED_H
#define RPL_GUEST_XEN_EMULATED_H

#include <jansson.h>

#include <replicad/err.h>

#define XEN_KEY_EMULATED "emulated" /* of the definition */
#define XEN_EMULATED_MAX 2048

/* `config` is a libxl domain configuration of type hvm. -ENOTSUP: something in it cannot be carried over. */
int xen_emulated_text(const json_t *config, char ret[XEN_EMULATED_MAX], struct rpl_err *err);

#endif
