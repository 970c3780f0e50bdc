/* record.h - what the arbiter keeps for one VM: who may run it
 *
 * The arbiter holds one such value per VM and offers a linearizable read and compare-and-swap. The text form
 * (one line of JSON) belongs to failover/arbiter; here is only the value. Plain data, copied by assignment.
 */
#ifndef REPLICAD_RECORD_H
#define REPLICAD_RECORD_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include <replicad/uuid.h>

#define RPL_RECORD_FORMAT 1 /* any other is refused, never guessed at */
#define RPL_NODE_NAME 64    /* a node's name with its final NUL */

#define RPL_MODES(X)                                                             \
	X(SOLO, "the owner runs the guest by itself")                            \
	X(PROTECTED, "the owner runs it; the backup of `session` may take over") \
	X(DOWN, "shut down on purpose: only an operator starts it again")

enum rpl_mode {
#define X(name, text) RPL_MODE_##name,
	RPL_MODES(X)
#undef X
	RPL_MODE_N
};

struct rpl_record {
	uint32_t format;           /* RPL_RECORD_FORMAT */
	uint32_t mode;             /* enum rpl_mode */
	uint64_t generation;       /* grows with each change; 1 for the first */
	struct rpl_uuid vm;
	struct rpl_uuid session;   /* PROTECTED: the session that may take over; after a takeover: the one that did */
	struct rpl_uuid nonce;     /* fresh for each attempt: tells whose attempt it was that succeeded */
	char owner[RPL_NODE_NAME]; /* NUL-terminated and NUL-padded */
};

static inline bool rpl_record_equal(const struct rpl_record *a, const struct rpl_record *b)
{
	return a->format == b->format && a->mode == b->mode && a->generation == b->generation &&
	       rpl_uuid_equal(&a->vm, &b->vm) && rpl_uuid_equal(&a->session, &b->session) &&
	       rpl_uuid_equal(&a->nonce, &b->nonce) && strncmp(a->owner, b->owner, RPL_NODE_NAME) == 0;
}

#endif
