/* No buffer: output leaves at once. Every operation succeeds and holds nothing, so a takeover can lose answers that
 * clients have seen. rpl_netbuf_new() says so; `status` shows holding=false. */
#include "netbuf_ops.h"

#include <errno.h>
#include <stdlib.h>

#include <replicad/log.h>

struct none {
	struct rpl_netbuf *n;
	struct rpl_netbuf_status status;
};

static int none_init(struct rpl_netbuf *n, const struct rpl_netbuf_conf *conf, struct ev_loop *loop, void **ret_self,
		     struct rpl_err *err)
{
	struct none *s = calloc(1, sizeof(*s));

	(void)loop;
	if (!s)
		return rpl_fail(err, -ENOMEM, "vm %s: no memory for netbuf none", conf->vm);
	s->n = n;
	*ret_self = s;
	rpl_log(RPL_LOG_WARNING, "vm=%s netbuf=none reason=\"UNSAFE: output is not held; a takeover may lose what clients were told\"",
		conf->vm);
	return 0;
}

static void none_start(void *self, enum rpl_netbuf_op op, uint64_t epoch)
{
	struct none *s = self;

	if (op == RPL_NETBUF_ATTACH)
		s->status.attached = true;
	else if (op == RPL_NETBUF_SEAL)
		s->status.sealed_epoch = epoch;
	else if (op == RPL_NETBUF_RELEASE)
		s->status.released_epoch = epoch;
	rpl_netbuf_set_status(s->n, &s->status);
	rpl_netbuf_finish(s->n, op, epoch, 0, NULL);
}

const struct rpl_netbuf_ops rpl_netbuf_none = {
	.name = "none",
	.max_uncommitted = UINT32_MAX,
	.init = none_init,
	.start = none_start,
	.fini = free,
};
