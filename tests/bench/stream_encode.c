/* The encoder against memcpy of the same pages into the same buffers, alternating in one process: the ratio is what counts.
 * Pages are scattered over a working set larger than the caches; each output buffer is one record of 1024 pages. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <replicad/stream.h>

#define SET_PAGES 65536u /* 256 MiB */
#define RECORDS 256u     /* 1 GiB per run */
#define RUNS 7u
#define BATCH RPL_STREAM_PAGES_PER_RECORD
#define BUFFERS 4u

static uint8_t *set, *out[BUFFERS];
static const void *where[RECORDS][BATCH];
static uint64_t descs[RECORDS][BATCH];

static double now(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* To the very addresses that the encoder writes to: where a page lies to a cache line matters as much as its copying. */
static double run_memcpy(void)
{
	size_t head = rpl_stream_page_data_head_size(BATCH);
	double start = now();

	for (unsigned r = 0; r < RECORDS; r++)
		for (unsigned i = 0; i < BATCH; i++)
			memcpy(out[r % BUFFERS] + head + (size_t)i * RPL_STREAM_PAGE, where[r][i],
			       RPL_STREAM_PAGE);
	return now() - start;
}

static double run_encoder(size_t cap)
{
	double start = now();

	for (unsigned r = 0; r < RECORDS; r++) {
		struct rpl_out o = rpl_out(out[r % BUFFERS], cap);

		rpl_stream_put_page_data(&o, descs[r], BATCH, where[r]);
		if (o.bad)
			abort();
	}
	return now() - start;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

int main(void)
{
	size_t cap = rpl_stream_page_data_head_size(BATCH) + (size_t)BATCH * RPL_STREAM_PAGE;
	double copy[RUNS], encode[RUNS];
	uint64_t rnd = 1;

	set = malloc((size_t)SET_PAGES * RPL_STREAM_PAGE);
	for (unsigned i = 0; i < BUFFERS; i++)
		out[i] = malloc(cap);
	if (!set || !out[BUFFERS - 1])
		return 1;
	memset(set, 1, (size_t)SET_PAGES * RPL_STREAM_PAGE);
	for (unsigned r = 0; r < RECORDS; r++) {
		for (unsigned i = 0; i < BATCH; i++) {
			rnd = rnd * UINT64_C(6364136223846793005) + 1442695040888963407u;
			descs[r][i] = (rnd >> 33) % SET_PAGES;
			where[r][i] = set + descs[r][i] * RPL_STREAM_PAGE;
		}
	}
	(void)run_memcpy();
	for (unsigned i = 0; i < RUNS; i++) {
		copy[i] = run_memcpy();
		encode[i] = run_encoder(cap);
	}
	qsort(copy, RUNS, sizeof(copy[0]), compare);
	qsort(encode, RUNS, sizeof(encode[0]), compare);
	(void)printf("memcpy %.2f GB/s, encoder %.2f GB/s, ratio %.2f (median of %u)\n", 1.073741824 / copy[RUNS / 2],
		     1.073741824 / encode[RUNS / 2], copy[RUNS / 2] / encode[RUNS / 2], RUNS);
	return copy[RUNS / 2] / encode[RUNS / 2] >= 0.8 ? 0 : 1;
}
