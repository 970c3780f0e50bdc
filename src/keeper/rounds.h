/* rounds.h - when the first copy of the memory is near enough to end in a checkpoint
 *
 * While rounds go on the guest's clients notice nothing; what the last one leaves goes into the first checkpoint, behind
 * output that is held until that is acknowledged. So rounds go on for as long as they leave less than they sent.
 */
#ifndef KEEPER_ROUNDS_H
#define KEEPER_ROUNDS_H

#include <stdbool.h>
#include <stdint.h>

#define ROUNDS_MAX 12      /* a guest that dirties faster than we send: arm all the same */
#define ROUND_PAGES_FEW 64 /* as few as that are sent in no time: not worth another look at all of the memory */
#define ROUND_PAGES_ENOUGH 4096 /* 16 MiB fit into one pause */

/* Round number `round`, counted from 1, sent `sent` pages and left `dirty` to send: is that all that rounds can do? */
bool rounds_converged(unsigned round, uint64_t sent, uint64_t dirty);

#endif
