/* doctor_xen.h - the checks of `replicad doctor` on a Xen host */
#ifndef CLI_DOCTOR_XEN_H
#define CLI_DOCTOR_XEN_H

#include <stdbool.h>

#include <jansson.h>

#include <replicad/qemu.h>

struct doctor_xen {
	const char *vm;        /* NULL: only the host is looked at */
	const json_t *peer;    /* the other host's facts, sound; NULL: unknown */
	bool any_netdev;       /* netbuf=none */
};

/* Facts from a file ("-": standard input), checked; the caller's. NULL: *err. */
json_t *doctor_xen_peer(const char *path, struct rpl_err *err);
/* One call of fn for each check, in a fixed order. Changes nothing. The number of FAILs, or a negative errno with *err if Xen could not
 * be asked. */
int doctor_xen(const struct doctor_xen *d, rpl_check_fn *fn, void *arg, struct rpl_err *err);

#endif
