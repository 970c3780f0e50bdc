#include <replicad/stats.h>

#define SUB_BITS 5 /* 32 buckets per power of two */

static unsigned bucket_of(uint64_t ns)
{
	unsigned msb, shift;

	if (ns < 32)
		return (unsigned)ns;
	msb = 63 - (unsigned)__builtin_clzll(ns);
	shift = msb - SUB_BITS;
	return (shift + 1) * 32 + (unsigned)(ns >> shift & 31);
}

/* The largest duration that falls into a bucket. */
static uint64_t bucket_top(unsigned b)
{
	unsigned shift;

	if (b < 32)
		return b;
	shift = b / 32 - 1;
	return ((UINT64_C(32) + b % 32 + 1) << shift) - 1;
}

void rpl_hist_add(struct rpl_hist *h, uint64_t ns)
{
	unsigned b = bucket_of(ns);

	h->count++;
	h->sum_ns += ns;
	if (ns > h->max_ns)
		h->max_ns = ns;
	h->bucket[b < RPL_HIST_BUCKETS ? b : RPL_HIST_BUCKETS - 1]++;
}

uint64_t rpl_hist_quantile(const struct rpl_hist *h, unsigned permille)
{
	uint64_t want = (h->count * permille + 999) / 1000, seen = 0;

	for (unsigned b = 0; h->count && b < RPL_HIST_BUCKETS; b++) {
		seen += h->bucket[b];
		if (seen >= want && seen)
			return bucket_top(b) < h->max_ns ? bucket_top(b) : h->max_ns;
	}
	return h->max_ns;
}
