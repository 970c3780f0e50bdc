/* replica.h - the backup's copy: RAM that is complete, and epochs that are staged above it
 *
 * The staging area is one memfd, mapped by the backup's mover (which writes it) and by the keeper (which reads it
 * after the mover was killed and reaped: "where the activator finds it", R9). A sealed header per epoch
 * {magic, session, epoch, digest, state} is written last, so a torn epoch is never taken for a whole one.
 * States: EMPTY, STAGED (whole and verified), ACKED, FOLDED (its pages are in RAM; its device state is still needed
 * until the next epoch is folded). Only whole epochs are folded, in order; folding again is harmless.
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

struct rpl_replica;

/* Map a staging area of `bytes` in `fd` (kept open by the caller) above `ram` (the caller's). `fresh`: format it. */
struct rpl_replica *rpl_replica_open(int fd, uint64_t bytes, struct rpl_memory *ram, bool fresh, struct rpl_err *err);
void rpl_replica_close(struct rpl_replica *r);

/* ---- mover: a session starts: everything staged is forgotten; RAM is filled by bulk rounds */
void rpl_replica_session(struct rpl_replica *r, const struct rpl_uuid *session);
/* A bulk page goes straight to RAM (there is no complete replica yet, R7). */
int rpl_replica_bulk(struct rpl_replica *r, const uint64_t *pfns, const void *const *pages, size_t n,
		     struct rpl_err *err);
/* One epoch: begin, pages and device state in any order, then seal (the digest was verified by the caller). */
int rpl_replica_begin(struct rpl_replica *r, uint64_t epoch, struct rpl_err *err);
int rpl_replica_pages(struct rpl_replica *r, const uint64_t *pfns, const void *const *pages, size_t n,
		      struct rpl_err *err);
int rpl_replica_state(struct rpl_replica *r, const void *data, size_t len, struct rpl_err *err);
int rpl_replica_seal(struct rpl_replica *r, const uint8_t digest[RPL_DIGEST_SIZE], struct rpl_err *err);
void rpl_replica_abort(struct rpl_replica *r); /* the epoch under way is forgotten */
void rpl_replica_acked(struct rpl_replica *r, uint64_t epoch);
/* Fold all ACKED epochs into RAM, oldest first; *ret_epoch is the last folded. */
int rpl_replica_fold(struct rpl_replica *r, uint64_t *ret_epoch, struct rpl_err *err);
uint64_t rpl_replica_free_bytes(const struct rpl_replica *r);

/* ---- activator (the mover is dead): fold every whole epoch of `session` up to the newest, in order, and find its
 * device state. -ENODATA if the area holds no complete replica of that session (R7). */
int rpl_replica_activate(struct rpl_replica *r, const struct rpl_uuid *session, uint64_t *ret_epoch,
			 const void **ret_state, size_t *ret_state_len, struct rpl_err *err);

#endif
