/* plug_queue.h - the queue on one ifb: several sealed epochs, told apart, each let go when it may
 *
 *   prio --- band 1: plug   sealed, may leave: drains        One band fills at a time: all 16 entries of prio's map say the
 *        |-- band 2: plug   sealed                            same. A seal is one change of that map, which the kernel makes
 *        |-- band 3: plug   fills                             under the queue's lock: every frame is in one band or in the
 *        '-- ...            free: empty and closed            next, never between, and a sealed band never grows.
 *
 * Bands are used in turn, round and round, so their order is the order of epochs, also for one who finds the queue. prio
 * empties lower bands first, whatever their age: so only the oldest is ever open, and the next one is opened when all of the
 * one before has left. An emptied band is closed again (BUFFER) before it is free.
 *
 * sch_plug itself could tell one sealed epoch from the running one by counting frames (RELEASE_ONE); those counts are
 * not relied on here, since what changes them does not take the queue's lock. A band is closed (as made, or BUFFER) or open
 * (RELEASE_INDEFINITE), no more; a dequeue that ends in the very moment of that may close it again, and then nothing moves and
 * the command is given once more. To close an open band while frames may leave, a change of the map to what it is follows: when
 * that has had the lock, no dequeue that saw it open is left.
 *
 * A new prio has bands that hold nothing, so it is built while the ifb is down, where every frame is dropped.
 * Bytes that left are compared with bytes that might: a kernel that lets go more is found out.
 */
#ifndef NETBUF_PLUG_QUEUE_H
#define NETBUF_PLUG_QUEUE_H

#include "plug_nl.h"

#define PLUG_SEALED_MAX 4                /* epochs sealed and not released */
#define PLUG_BANDS (PLUG_SEALED_MAX + 2) /* these, one that fills, one that drains */

struct plug_queue {
	int index; /* of the ifb */
	uint32_t limit_bytes; /* of each band */
	bool built;           /* it is there, as described above */
	bool known;           /* which epoch each frame belongs to; false: an earlier keeper's */
	uint32_t handle[PLUG_BANDS];
	bool empty[PLUG_BANDS]; /* sealed with nothing in it */
	uint32_t first;       /* the band sealed first; the `sealed`-th after it fills */
	uint32_t sealed, may; /* bands sealed; the first so many of them may leave */
	bool draining;        /* the first is open */
	bool opening, open;   /* all may leave, and what comes passes straight through: asked for, and so it is */
	uint32_t stalled;     /* looks without a frame leaving */
	uint64_t may_leave_bytes;     /* of `now.sent_bytes` */
	struct plug_qdisc now;        /* all bands, as measured last */
	/* of queues before this one */
	uint64_t passed_frames, passed_bytes, dropped_frames;
};

/* On an ifb that is down: a new, empty, closed queue, read back, in the place of whatever is there. */
int plug_queue_build(struct plug_queue *q, struct plug_nl *nl, struct rpl_err *err);
/* Look what there is on ifb `index`, which may be up. If it is one of ours it is closed, what is in it counts as sealed and
 * of epochs unknown; else `built` is false. */
int plug_queue_find(struct plug_queue *q, int index, struct plug_nl *nl, struct rpl_err *err);
/* It is gone, with its ifb or without. */
void plug_queue_forget(struct plug_queue *q);

/* All of these on a queue that is built. -EPROTO or -ENOENT: it is not what we made, or lets go more than it may, and
 * must be taken for open. */
int plug_queue_measure(struct plug_queue *q, struct plug_nl *nl, struct rpl_err *err);
/* Measure, and look at each band. */
int plug_queue_check(struct plug_queue *q, struct plug_nl *nl, struct rpl_err *err);
/* Throw away all that is held; it is closed then. */
int plug_queue_clear(struct plug_queue *q, struct plug_nl *nl, struct rpl_err *err);
/* Still as build or clear left it? (as measured last) */
bool plug_queue_unused(const struct plug_queue *q);
/* Is there a free band? Else one must have drained before a seal. */
bool plug_queue_room(const struct plug_queue *q);
/* What was sent so far is an epoch of its own. Needs room, and a queue that is `known`. */
int plug_queue_seal(struct plug_queue *q, struct plug_nl *nl, struct rpl_err *err);
/* So many more of the epochs sealed first may leave: plug_queue_step() sees to it. */
void plug_queue_release(struct plug_queue *q, uint32_t epochs);
/* All may leave, in order, and then what comes passes. */
void plug_queue_open(struct plug_queue *q);
/* Go on with what release and open asked for. Returns 1 while that is not done: to be called again. */
int plug_queue_step(struct plug_queue *q, struct plug_nl *nl, struct rpl_err *err);
/* As step, without waiting: all bands are open at once, and frames of different epochs may change places. */
int plug_queue_burst(struct plug_queue *q, struct plug_nl *nl, struct rpl_err *err);

#endif
