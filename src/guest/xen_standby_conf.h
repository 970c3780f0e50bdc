/* xen_standby_conf.h - what an xl configuration of this host says, as xl itself reads it; and can this host carry it */
#ifndef RPL_XEN_STANDBY_CONF_H
#define RPL_XEN_STANDBY_CONF_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include <replicad/err.h>

#include "xen_emulated.h"

struct xen_conf {
	json_t *root;     /* what `xl create --dryrun` says */
	const char *name; /* in root, as the next */
	const char *uuid, *kind;
	json_int_t max_kib, vcpus;
	char emulated[XEN_EMULATED_MAX]; /* HVM */
	unsigned xen_major, xen_minor; /* of the host, after check_host */
};

/* 0; -EINVAL with what to change in the file. xen_conf_fini() accepts a zeroed one. */
int xen_conf_read(struct xen_conf *c, const char *path, struct rpl_err *err);
void xen_conf_fini(struct xen_conf *c);
/* No domain of that name (the rest of an earlier replica is removed, which may take seconds), enough memory for the domain
 * and, where the copy is to be in dom0, for the copy. -EEXIST, -ENOMEM with the numbers. */
int xen_conf_check_host(struct xen_conf *c, bool copy_in_dom0, struct rpl_err *err);
/* name=, uuid=, early= (may its devices be attached while it waits?), then the definition's lines from backend= on, sorted. */
void xen_conf_print(const struct xen_conf *c);

#endif
