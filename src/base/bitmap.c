#include <replicad/bitmap.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int rpl_bitmap_init(struct rpl_bitmap *b, uint64_t bits)
{
	b->w = calloc(RPL_BITMAP_WORDS(bits) ? RPL_BITMAP_WORDS(bits) : 1, sizeof(*b->w));
	b->bits = b->w ? bits : 0;
	return b->w ? 0 : -ENOMEM;
}

void rpl_bitmap_fini(struct rpl_bitmap *b)
{
	free(b->w);
	*b = (struct rpl_bitmap){ 0 };
}

void rpl_bitmap_zero(struct rpl_bitmap *b)
{
	memset(b->w, 0, RPL_BITMAP_WORDS(b->bits) * sizeof(*b->w));
}

void rpl_bitmap_set_range(struct rpl_bitmap *b, uint64_t from, uint64_t count)
{
	uint64_t to = from + count;

	while (from < to && from % 64)
		rpl_bitmap_set(b, from++);
	for (; to - from >= 64 && from < to; from += 64)
		b->w[from / 64] = UINT64_MAX;
	while (from < to)
		rpl_bitmap_set(b, from++);
}

uint64_t rpl_bitmap_count(const struct rpl_bitmap *b)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < RPL_BITMAP_WORDS(b->bits); i++)
		n += (uint64_t)__builtin_popcountll(b->w[i]);
	return n;
}

uint64_t rpl_bitmap_next(const struct rpl_bitmap *b, uint64_t from)
{
	uint64_t i = from / 64, words = RPL_BITMAP_WORDS(b->bits), w;

	if (from >= b->bits)
		return b->bits;
	w = b->w[i] & (UINT64_MAX << (from % 64));
	while (!w) {
		if (++i == words)
			return b->bits;
		w = b->w[i];
	}
	i = i * 64 + (uint64_t)__builtin_ctzll(w);
	return i < b->bits ? i : b->bits;
}
