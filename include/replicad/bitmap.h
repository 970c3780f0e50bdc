/* bitmap.h - one bit per page frame; word-wise, caller's storage */
#ifndef REPLICAD_BITMAP_H
#define REPLICAD_BITMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RPL_BITMAP_WORDS(bits) (((bits) + 63) / 64)

struct rpl_bitmap {
	uint64_t *w;
	uint64_t bits;
};

/* Allocate `bits` zero bits. Returns 0 or -ENOMEM. rpl_bitmap_fini() accepts a zeroed struct. */
int rpl_bitmap_init(struct rpl_bitmap *b, uint64_t bits);
void rpl_bitmap_fini(struct rpl_bitmap *b);

static inline bool rpl_bitmap_get(const struct rpl_bitmap *b, uint64_t i)
{
	return b->w[i / 64] >> (i % 64) & 1;
}

static inline void rpl_bitmap_set(struct rpl_bitmap *b, uint64_t i)
{
	b->w[i / 64] |= UINT64_C(1) << (i % 64);
}

static inline void rpl_bitmap_clear(struct rpl_bitmap *b, uint64_t i)
{
	b->w[i / 64] &= ~(UINT64_C(1) << (i % 64));
}

void rpl_bitmap_zero(struct rpl_bitmap *b);
/* Set bits [from, from + count). */
void rpl_bitmap_set_range(struct rpl_bitmap *b, uint64_t from, uint64_t count);
uint64_t rpl_bitmap_count(const struct rpl_bitmap *b);
/* The first set bit at or after `from`; b->bits if there is none. */
uint64_t rpl_bitmap_next(const struct rpl_bitmap *b, uint64_t from);

#endif
