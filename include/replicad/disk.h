/* disk.h - a guest's disk writes, deferred until the epoch that made them is committed
 *
 * Open and unacknowledged epochs' writes live in an overlay above the store; their redo travels beside the
 * checkpoint; after commit they go to the store (protocol R5). Backends: none (the guest has no writable disk that
 * an overlay does not carry, or protection is refused), overlay (nbdkit plugin).
 *
 * Asynchronous like netbuf.h: each operation ends in exactly one call of the callback, from the loop, never inside the
 * caller's own call; at most RPL_DISK_PENDING_MAX are under way (asserted). The callback may free the disk.
 */
#ifndef REPLICAD_DISK_H
#define REPLICAD_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include <replicad/durability.h>
#include <replicad/err.h>

struct ev_loop;
struct rpl_disk;

#define RPL_DISK_PENDING_MAX 64

enum rpl_disk_op {
	RPL_DISK_ATTACH,  /* overlay and store are there; refused otherwise */
	RPL_DISK_DEFER,   /* writes from now on stay in the overlay (PROTECTED) */
	RPL_DISK_SEAL,    /* the paused guest's writes belong to epoch `epoch` or an earlier one */
	RPL_DISK_FLUSH,   /* writes of all epochs <= `epoch` are in the store, durably */
	RPL_DISK_DRAIN,   /* overlay empty, store synced; writes go straight through (SOLO) */
	RPL_DISK_CUT,     /* backup: the store link is cut, no late flush can arrive (R3) */
	RPL_DISK_JOURNAL, /* backup: redo of epoch `epoch` is as durable as configured (R9) */
	RPL_DISK_TRIM,    /* backup: redo of epochs <= `epoch` is gone (R5) */
	RPL_DISK_PROMOTE, /* the store, with redo up to `epoch` replayed, is ours to write */
	RPL_DISK_DEMOTE,  /* the store is the peer's; local divergence is discarded (R8, I9) */
	RPL_DISK_NOPS
};
const char *rpl_disk_op_name(enum rpl_disk_op op);

struct rpl_disk_conf {
	const char *backend; /* "none", "overlay" */
	const char *vm;
	enum rpl_durability durability;
};

typedef void rpl_disk_done_fn(void *arg, enum rpl_disk_op op, uint64_t epoch, int r, const struct rpl_err *err);

struct rpl_disk *rpl_disk_new(const struct rpl_disk_conf *conf, struct ev_loop *loop, rpl_disk_done_fn *done,
			      void *arg, struct rpl_err *err);
/* Start one operation; `epoch` as above, 0 where none is meant. */
void rpl_disk_start(struct rpl_disk *d, enum rpl_disk_op op, uint64_t epoch);
/* Epochs that may be sealed and not yet flushed; none: UINT32_MAX. */
uint32_t rpl_disk_max_uncommitted(const struct rpl_disk *d);
/* May the guest have this block device? `carried`: an overlay of ours serves it. 0, or a refusal that says what to
 * change. Pure. */
int rpl_disk_admit(const char *vm, const char *device, bool writable, bool carried, struct rpl_err *err);
void rpl_disk_free(struct rpl_disk *d);

#endif
