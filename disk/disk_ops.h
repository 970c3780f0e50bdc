/* disk_ops.h - what a backend of the disk room provides; disk.c is the only caller
 *
 * start() begins one operation; the backend ends it with exactly one rpl_disk_finish(), which may be called at once:
 * the callback runs from the loop, never inside the caller's own call.
 */
#ifndef RPL_DISK_OPS_H
#define RPL_DISK_OPS_H

#include <replicad/disk.h>

struct rpl_disk_ops {
	const char *name;
	uint32_t max_uncommitted;
	/* Returns 0 and sets *ret_self (anything, also NULL), or an error. */
	int (*init)(struct rpl_disk *d, const struct rpl_disk_conf *conf, struct ev_loop *loop, void **ret_self,
		    struct rpl_err *err);
	void (*start)(struct rpl_disk *d, void *self, enum rpl_disk_op op, uint64_t epoch);
	void (*fini)(void *self);
};

extern const struct rpl_disk_ops rpl_disk_none, rpl_disk_overlay;

void rpl_disk_finish(struct rpl_disk *d, enum rpl_disk_op op, uint64_t epoch, int r, const struct rpl_err *err);

#endif
