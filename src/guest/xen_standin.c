/* xen_standin.c - in the place of the Xen backend in builds that have none: refuses with the reason */
#include <errno.h>

#include <replicad/xen.h>
#include <replicad/xen_doctor.h>

#include "guest_impl.h"

static int refuse_init(struct rpl_guest *g, struct rpl_err *err)
{
	return rpl_fail(err, -ENOTSUP, "%s: this build has no backend for Xen guests", g->conf.name);
}

static void nothing_to_end(struct rpl_guest *g, bool keep_standby)
{
	(void)g;
	(void)keep_standby;
}

/* rpl_guest_new() never gets past init, so no other operation is ever called. */
const struct rpl_guest_ops rpl_guest_xen = { .name = "xen", .init = refuse_init, .fini = nothing_to_end };

/* No handle of this backend can exist. */
int rpl_xen_head(struct rpl_guest *g, void *buf, size_t size, size_t *ret_len, struct rpl_err *err)
{
	(void)g;
	(void)buf;
	(void)size;
	*ret_len = 0;
	return rpl_fail(err, -ENOTSUP, "this build has no backend for Xen guests");
}

int rpl_xen_call_it(struct rpl_guest *g, const char *name, struct rpl_err *err)
{
	(void)g;
	(void)name;
	return rpl_fail(err, -ENOTSUP, "this build has no backend for Xen guests");
}

int rpl_xen_facts(json_t **ret, struct rpl_err *err)
{
	*ret = NULL;
	return rpl_fail(err, -ENOTSUP, "this build has no backend for Xen guests");
}

int rpl_xen_domain_facts(struct rpl_guest *g, json_t **ret, struct rpl_err *err)
{
	(void)g;
	return rpl_xen_facts(ret, err);
}
