/* In the place of the sch_plug backend in a build without libnl-3. */
#include "netbuf_ops.h"

#include <errno.h>

static int plug_init(struct rpl_netbuf *n, const struct rpl_netbuf_conf *conf, struct ev_loop *loop, void **ret_self,
		     struct rpl_err *err)
{
	(void)n;
	(void)loop;
	(void)ret_self;
	return rpl_fail(err, -EOPNOTSUPP, "vm %s: netbuf plug (sch_plug) is not in this build of replicad: use "
			"netbuf=relay", conf->vm);
}

static void plug_start(void *self, enum rpl_netbuf_op op, uint64_t epoch)
{
	(void)self;
	(void)op;
	(void)epoch;
	rpl_assert(!"plug_init() refuses, so nothing can be started");
}

static void plug_fini(void *self)
{
	(void)self;
}

int rpl_netbuf_check_plug(struct rpl_err *err)
{
	return rpl_fail(err, -EOPNOTSUPP, "netbuf plug (sch_plug) is not in this build of replicad: build it with libnl-3-dev");
}

const struct rpl_netbuf_ops rpl_netbuf_plug = {
	.name = "plug",
	.max_uncommitted = 1,
	.init = plug_init,
	.start = plug_start,
	.fini = plug_fini,
};
