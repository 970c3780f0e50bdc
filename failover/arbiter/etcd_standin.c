/* Arbiter `etcd` in a build without libcurl: refused, with what to do. */
#include "arbiter_ops.h"

#include <errno.h>

static int etcd_init(struct rpl_arbiter *a, const struct rpl_arbiter_conf *conf, struct ev_loop *loop, void **ret_self,
		     struct rpl_err *err)
{
	(void)a;
	(void)conf;
	(void)loop;
	(void)ret_self;
	return rpl_fail(err, -EOPNOTSUPP, "arbiter etcd: this replicad was built without libcurl 7.87 or newer: install "
			"libcurl4-gnutls-dev and build it again");
}

static void etcd_start(void *self, const struct rpl_arbiter_ask *ask)
{
	(void)self;
	(void)ask;
	rpl_assert(!"an arbiter that init refused");
}

static void etcd_fini(void *self)
{
	(void)self;
}

const struct rpl_arbiter_ops rpl_arbiter_etcd = {
	.name = "etcd",
	.init = etcd_init,
	.start = etcd_start,
	.fini = etcd_fini,
};
