/* No writable disk: there is nothing to defer, so every operation is complete at once. rpl_disk_admit() keeps guests
 * with a writable disk away from here. */
#include "disk_ops.h"

#include <stddef.h>

static int none_init(struct rpl_disk *d, const struct rpl_disk_conf *conf, struct ev_loop *loop, void **ret_self,
		     struct rpl_err *err)
{
	(void)d;
	(void)conf;
	(void)loop;
	(void)err;
	*ret_self = NULL;
	return 0;
}

static void none_start(struct rpl_disk *d, void *self, enum rpl_disk_op op, uint64_t epoch)
{
	(void)self;
	rpl_disk_finish(d, op, epoch, 0, NULL);
}

static void none_fini(void *self)
{
	(void)self;
}

const struct rpl_disk_ops rpl_disk_none = {
	.name = "none",
	.max_uncommitted = UINT32_MAX,
	.init = none_init,
	.start = none_start,
	.fini = none_fini,
};
