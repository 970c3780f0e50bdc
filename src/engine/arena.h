/* arena.h - the primary's ring of staged pages: what is not acked can be sent again
 *
 * Slots of 4096 bytes, each with the pfn of the page in it (device state has none), and a queue of epochs over them,
 * oldest first. An epoch's pages come first, its device state follows. Everything is allocated and populated at
 * arena_init(). Positions count up for ever; position p is slot p % slots. An epoch that was too large for the arena
 * ("direct") is in the queue without slots: it can not be sent again.
 */
#ifndef ENGINE_ARENA_H
#define ENGINE_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <replicad/memory.h>
#include <replicad/mover.h>

#define ARENA_RUN_MAX 256 /* most slots that one arena_run() gives */

struct arena_epoch {
	uint64_t epoch, pages, state_len;
	uint64_t dirty; /* pages of its dirty set: those, and what the backup had already */
	uint64_t start; /* position of its first slot */
	uint64_t need;  /* slots that it takes here, or would take: what it takes at the backup */
	bool direct;
	bool dropped;   /* fault drop_epoch_pages: its pages are never sent */
};

struct arena {
	uint8_t *base;
	uint64_t *pfn;
	uint64_t slots, head, tail;
	struct arena_epoch epoch[RPL_MOVER_UNCOMMITTED_MAX];
	unsigned first, count; /* the queue */
};

static inline uint64_t arena_slots_for(uint64_t pages, uint64_t state_len)
{
	return pages + (state_len + RPL_PAGE_SIZE - 1) / RPL_PAGE_SIZE;
}

int arena_init(struct arena *a, uint64_t bytes, struct rpl_err *err);
void arena_fini(struct arena *a); /* accepts a zeroed struct */
void arena_clear(struct arena *a);
uint64_t arena_free(const struct arena *a); /* slots */

/* Append an epoch; the caller fills pages and state before anything else happens to the arena. NULL when the queue is
 * full or (unless direct) the slots do not suffice. */
struct arena_epoch *arena_push(struct arena *a, uint64_t epoch, uint64_t pages, uint64_t state_len, bool direct);
/* Forget the oldest epochs up to and including `epoch`. */
void arena_release(struct arena *a, uint64_t epoch);
/* The queued epoch of that number, or NULL. */
struct arena_epoch *arena_find(struct arena *a, uint64_t epoch);
/* Slots that all queued epochs need at the backup. */
uint64_t arena_in_flight(const struct arena *a);

/* Is one of the queued epochs direct? */
bool arena_has_direct(const struct arena *a);

/* A run of consecutive slots at position `pos`: at most `max` and ARENA_RUN_MAX, cut where the ring wraps. */
uint8_t *arena_run(const struct arena *a, uint64_t pos, uint64_t max, uint64_t **ret_pfn, size_t *ret_n);

#endif
