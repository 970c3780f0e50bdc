/* stats.h - a fixed-size histogram of durations, good to 3 %: logarithmic buckets, 32 per power of two */
#ifndef REPLICAD_STATS_H
#define REPLICAD_STATS_H

#include <stdint.h>

#define RPL_HIST_BUCKETS (32 * 60)

struct rpl_hist {
	uint64_t count, sum_ns, max_ns;
	uint32_t bucket[RPL_HIST_BUCKETS];
};

void rpl_hist_add(struct rpl_hist *h, uint64_t ns);
/* The duration that `permille` of the samples do not exceed (500 = median); 0 without samples. */
uint64_t rpl_hist_quantile(const struct rpl_hist *h, unsigned permille);

#endif
