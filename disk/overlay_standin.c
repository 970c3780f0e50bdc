/* In the place of the nbdkit overlay in a build that does not have it. */
#include "disk_ops.h"

#include <errno.h>

static int overlay_init(struct rpl_disk *d, const struct rpl_disk_conf *conf, struct ev_loop *loop, void **ret_self,
			struct rpl_err *err)
{
	(void)d;
	(void)loop;
	(void)ret_self;
	return rpl_fail(err, -EOPNOTSUPP, "vm %s: disk overlay is not in this build of replicad: use disk=none, and "
			"give the guest no writable disk", conf->vm);
}

static void overlay_start(struct rpl_disk *d, void *self, enum rpl_disk_op op, uint64_t epoch)
{
	(void)d;
	(void)self;
	(void)op;
	(void)epoch;
	rpl_assert(!"overlay_init() refuses, so nothing can be started");
}

static void overlay_fini(void *self)
{
	(void)self;
}

const struct rpl_disk_ops rpl_disk_overlay = {
	.name = "overlay",
	.max_uncommitted = 1,
	.init = overlay_init,
	.start = overlay_start,
	.fini = overlay_fini,
};
