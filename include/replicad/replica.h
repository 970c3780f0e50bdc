/* replica.h - the backup's copy: RAM that is complete, and epochs that are staged above it
 *
 * The staging area is one memfd, mapped by the backup's mover (which writes it) and by the keeper (which reads it
 * after the mover was killed and reaped: "where the activator finds it", R9). The standby's process holds it too, so that a
 * keeper after this one finds it, as long as the RAM below it exists. A sealed header per epoch
 * {magic, session, epoch, digest, where, state} is written last, so a torn epoch is never taken for a whole one.
 * States: EMPTY, STAGED (whole and verified), ACKED, FOLDED (its pages are in RAM; its device state is still needed
 * until the next epoch is folded). Only whole epochs are folded, in order; folding again is harmless.
 *
 * A page may be staged as what changed in it (delta.h). An epoch's pages are folded when every epoch before it is, so that the
 * RAM holds then what this session sent last for the page: what the delta was made from. That this is so is
 * proven twice. Before the epoch is sealed, from the number of the epoch that each delta names: the page must have come in that one
 * last. When it is folded, from the check of the page that results: -EBADMSG, and no takeover, where it is another. Folding again
 * (also after a mover that was killed in the middle) stores the same bytes in the same places.
 *
 * Pages and device state lie in a ring of 4096-byte slots, oldest epoch first. Nothing is allocated after open; the
 * whole area is populated by a fresh open, so a host without the memory says so then, not in the middle of an epoch.
 */
#ifndef REPLICAD_REPLICA_H
#define REPLICAD_REPLICA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <replicad/err.h>
#include <replicad/link.h>
#include <replicad/memory.h>
#include <replicad/uuid.h>

#define RPL_REPLICA_EPOCHS 128                      /* staged epochs at a time, the last folded one included */
#define RPL_REPLICA_STATE_MAX (16 * 1024 * 1024)    /* bytes of device state in an epoch */
#define RPL_REPLICA_BYTES_MIN (48ull * 1024 * 1024) /* smallest staging area: two of the largest device states and some */

struct rpl_replica;

/* Map a staging area of `bytes` in `fd` (kept open by the caller; its size must be `bytes`) above `ram` (the
 * caller's). `fresh`: format and populate it (the mover). Otherwise only rpl_replica_folded(), and rpl_replica_newest() and
 * rpl_replica_activate() (the activator), are legal: what the file says is checked before it is believed. */
struct rpl_replica *rpl_replica_open(int fd, uint64_t bytes, struct rpl_memory *ram, bool fresh, struct rpl_err *err);
void rpl_replica_close(struct rpl_replica *r); /* accepts NULL */

/* ---- mover: a session starts: everything staged is forgotten; RAM is filled by bulk rounds */
void rpl_replica_session(struct rpl_replica *r, const struct rpl_uuid *session);
/* A bulk page goes straight to RAM (there is no complete replica yet, R7): -EPROTO once an epoch was sealed. */
int rpl_replica_bulk(struct rpl_replica *r, const uint64_t *pfns, const void *const *pages, size_t n,
		     struct rpl_err *err);
/* One epoch: begin, pages and device state in any order, then seal (the digest was verified by the caller). Epochs
 * of a session follow each other without a gap, from whatever number the first has: -EPROTO otherwise. When the area
 * is full, epochs that are ACKED are folded to make room; -ENOSPC when that does not help. seal: -EPROTO without
 * device state, or when the first epoch leaves a page of the RAM that was never sent. */
int rpl_replica_begin(struct rpl_replica *r, uint64_t epoch, struct rpl_err *err);
int rpl_replica_pages(struct rpl_replica *r, const uint64_t *pfns, const void *const *pages, size_t n,
		      struct rpl_err *err);
/* A page as what changed in it since epoch `base` (its low half), in `len` bytes that rpl_delta_check() found good; `delta` NULL: as
 * it was then, which takes no room. -EPROTO when that is not the epoch before this one in which the page came last. */
int rpl_replica_delta(struct rpl_replica *r, uint64_t pfn, uint32_t base, const void *delta, size_t len, struct rpl_err *err);
/* Append to the epoch's device state; the pieces of one state follow each other with no page between. */
int rpl_replica_state(struct rpl_replica *r, const void *data, size_t len, struct rpl_err *err);
int rpl_replica_seal(struct rpl_replica *r, const uint8_t digest[RPL_DIGEST_SIZE], struct rpl_err *err);
void rpl_replica_abort(struct rpl_replica *r); /* the epoch under way, if any, is forgotten */
/* All epochs up to `epoch` may be folded. -EPROTO if that one is not staged. */
int rpl_replica_acked(struct rpl_replica *r, uint64_t epoch, struct rpl_err *err);
/* Fold ACKED epochs into RAM, oldest first, at most `pages_max` pages now. 1: there is more to do; 0: all folded; -EBADMSG: a
 * delta was made from another page, the replica is of no use. */
int rpl_replica_fold(struct rpl_replica *r, uint64_t pages_max, struct rpl_err *err);

struct rpl_replica_where {
	struct rpl_uuid session;
	uint64_t staged, acked, folded; /* highest epoch of each; 0: none (epochs count from 1) */
	uint64_t missing;               /* pages of the RAM that this session has not sent yet */
};
void rpl_replica_where(const struct rpl_replica *r, struct rpl_replica_where *ret);
/* Room for pages and device state (each rounded up to 4096 bytes) in epochs that are not yet acked. */
uint64_t rpl_replica_free_bytes(const struct rpl_replica *r);
/* What can be in flight at most: a fresh area's free bytes, less one folded epoch's device state. */
uint64_t rpl_replica_capacity(const struct rpl_replica *r);

/* ---- beside a mover that lives: the device state of `epoch` of `session`, as a copy that is valid until close. The caller has heard from
 * the mover that this epoch is folded and knows that none after it was acked: so the RAM is as of it, and stays so until another
 * is. -ENODATA if the area does not say the same. */
int rpl_replica_folded(struct rpl_replica *r, const struct rpl_uuid *session, uint64_t epoch, const void **ret_state,
		       size_t *ret_state_len, struct rpl_err *err);

/* ---- activator (the mover is dead): fold every whole epoch of `session` up to the newest, in order, and find its
 * device state (valid until close). -ENODATA if the area holds no complete replica of that session (R7); -EBADMSG if
 * what is there contradicts itself: then nothing was folded. May be repeated. */
int rpl_replica_activate(struct rpl_replica *r, const struct rpl_uuid *session, uint64_t *ret_epoch,
			 const void **ret_state, size_t *ret_state_len, struct rpl_err *err);
/* What an activation would find: the session, and its newest whole epoch. Nothing is folded. Errors as above. */
int rpl_replica_newest(struct rpl_replica *r, struct rpl_uuid *ret_session, uint64_t *ret_epoch, struct rpl_err *err);
/* The area in `fd`, which no mover has any more, holds no replica from now on: whoever finds it later must not take what it
 * says for the RAM of then. */
int rpl_replica_void(int fd, struct rpl_err *err);

#endif
