/* checkpoint.h - one pause of the guest: from "stop" to "running again", step by step
 *
 *   pause -> seal output + seal disk + save device state (together) -> stage (mover) -> resume
 *
 * Protocol steps s1 and s2. The guest is resumed before anything is encoded or sent. Whatever fails on the way, the
 * guest is resumed (but for TAKE_LAST once it was staged), and the checkpoint is reported
 * as failed: an epoch number that failed is never sent, so nothing can be released under it.
 */
#ifndef KEEPER_CHECKPOINT_H
#define KEEPER_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include <replicad/disk.h>
#include <replicad/guest.h>
#include <replicad/netbuf.h>
#include <replicad/stats.h>

#include "movers.h"

enum checkpoint_kind {
	CHECKPOINT_TAKE,
	CHECKPOINT_TAKE_LAST, /* planned switchover: the guest is not resumed */
};

/* What one pause cost, in nanoseconds. */
struct checkpoint_times {
	uint64_t epoch, begun_ns; /* begun_ns: rpl_now_ns() when the pause was asked for */
	uint64_t pause, seal, save, stage, resume, total; /* save: until seal, disk and guest were all done */
	uint64_t guest;           /* of `save`: the guest's own part */
	uint64_t resumed_ns;      /* rpl_now_ns() when the guest was told to go on */
	uint64_t pages;
};

/* r < 0: failed, the guest runs (or could not be resumed: *err says so). */
typedef void checkpoint_done_fn(void *arg, enum checkpoint_kind kind, const struct checkpoint_times *t, int r, const struct rpl_err *err);

struct checkpoint {
	/* set once */
	struct rpl_guest *guest;
	struct rpl_netbuf *netbuf;
	struct rpl_disk *disk;
	struct movers *movers;
	checkpoint_done_fn *done;
	void *arg;
	/* changing */
	enum { CK_IDLE, CK_PAUSING, CK_SEALING, CK_STAGING, CK_RESUMING } step;
	enum checkpoint_kind kind;
	unsigned waiting;         /* completions that this step still waits for */
	uint64_t epoch, step_began_ns;
	struct checkpoint_times times;
	struct rpl_err failure;   /* code 0: none so far */
	struct rpl_hist pauses;
};

/* Begin; ends in one call of done(). Only when idle (asserted). */
void checkpoint_begin(struct checkpoint *c, uint64_t epoch, enum checkpoint_kind kind);
bool checkpoint_busy(const struct checkpoint *c);
/* Its guest is to be killed: forget it, without a call of done(). What still comes of it belongs to nobody. */
void checkpoint_abort(struct checkpoint *c);
/* Every completion that may belong to it; true if it did. */
bool checkpoint_on_guest(struct checkpoint *c, enum rpl_guest_op op, int r, const struct rpl_err *err);
bool checkpoint_on_netbuf(struct checkpoint *c, enum rpl_netbuf_op op, int r, const struct rpl_err *err);
bool checkpoint_on_disk(struct checkpoint *c, enum rpl_disk_op op, int r, const struct rpl_err *err);
bool checkpoint_on_staged(struct checkpoint *c, uint64_t epoch, uint64_t pages);
/* The mover or the link's session is gone: a checkpoint that waits for STAGED fails. */
void checkpoint_on_mover_gone(struct checkpoint *c, const char *why);

#endif
