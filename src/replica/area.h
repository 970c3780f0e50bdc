/* area.h - how the staging area lies in its memfd, and which of its epoch headers are to be believed
 *
 * page 0         superblock: magic, version, size, the session
 * pages 1 to 4   RPL_REPLICA_EPOCHS epoch headers of 128 bytes
 * then           per slot 8 bytes: the pfn of the page it holds (AREA_DELTA: what changed in it), or AREA_STATE_SLOT
 * then           the slots, 4096 bytes each, a ring
 *
 * Positions in the ring count up for ever; position p is slot p % slots. The geometry follows from the size alone.
 * A header's `state` is stored last, with release ordering, when everything it speaks of is in place.
 */
#ifndef REPLICA_AREA_H
#define REPLICA_AREA_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <replicad/replica.h>

#define AREA_STATE_SLOT UINT64_MAX
#define AREA_DELTA (UINT64_C(1) << 63) /* in a page's pfn: its slot holds a delta to the page of the epoch before (delta.h) */

enum area_state { AREA_EMPTY, AREA_STAGED, AREA_ACKED, AREA_FOLDED };

#define AREA_FIRST 0x1u /* header flag: the session's first epoch, which needs no other below it */

struct area_header {
	uint64_t magic;
	struct rpl_uuid session;
	uint64_t epoch;
	uint64_t start;    /* ring position of the epoch's first slot */
	uint64_t slots;    /* pages and device state */
	uint64_t state_at; /* slots before the device state */
	uint64_t state_len;
	uint64_t flags;
	uint8_t digest[RPL_DIGEST_SIZE];
	uint64_t check;    /* over all before */
	uint64_t reserved[3];
	_Atomic uint32_t state; /* enum area_state */
	uint32_t reserved2; /* zero */
};
_Static_assert(sizeof(struct area_header) == 128, "a header has a power of two");

struct area_super {
	uint64_t magic;
	uint32_t version, epochs;
	uint64_t bytes;
	struct rpl_uuid session; /* zero: none */
};

struct area {
	uint8_t *map;
	uint64_t bytes, slots;
	struct area_super *super;
	struct area_header *header; /* RPL_REPLICA_EPOCHS of them; epoch e has number e % RPL_REPLICA_EPOCHS */
	uint64_t *pfn;
	uint8_t *slot;
};

int area_map(struct area *a, int fd, uint64_t bytes, bool fresh, struct rpl_err *err);
void area_unmap(struct area *a);
/* For an area that somebody else wrote: -ENODATA when it is none of ours. */
int area_check_super(const struct area *a, struct rpl_err *err);

static inline uint8_t *area_slot(const struct area *a, uint64_t pos)
{
	return a->slot + pos % a->slots * RPL_PAGE_SIZE;
}

static inline uint64_t area_state_slots(uint64_t state_len)
{
	return (state_len + RPL_PAGE_SIZE - 1) / RPL_PAGE_SIZE;
}

/* Does the epoch's slot hold device state? */
static inline bool area_in_state(const struct area_header *h, uint64_t slot)
{
	return slot >= h->state_at && slot - h->state_at < area_state_slots(h->state_len);
}

static inline struct area_header *area_header(const struct area *a, uint64_t epoch)
{
	return &a->header[epoch % RPL_REPLICA_EPOCHS];
}

/* Fill in magic and check, then publish with `state`. */
void area_publish(struct area_header *h, enum area_state state);

static inline enum area_state area_state(const struct area_header *h)
{
	return (enum area_state)atomic_load_explicit(&h->state, memory_order_acquire);
}

static inline void area_set_state(struct area_header *h, enum area_state state)
{
	atomic_store_explicit(&h->state, (uint32_t)state, memory_order_release);
}

/* Does a published header agree with itself, the area and the layout? -EBADMSG with what is wrong. */
int area_check_header(const struct area *a, const struct area_header *h, const struct rpl_ram_layout *layout,
		      struct rpl_err *err);
/* Copy into RAM up to `max` slots of the epoch from its slot `from` on (device state is passed over). Returns the
 * slot to go on with (h->slots when done) or a negative errno; -EBADMSG: a delta that does
 * not fit what the RAM holds: the replica is of no use. */
int64_t area_fold(const struct area *a, const struct area_header *h, uint64_t from, uint64_t max,
		  struct rpl_memory *ram, struct rpl_err *err);

#endif
