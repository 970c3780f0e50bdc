/* The encoder against memcpy of the same pages into the same buffers, record by record in turn: the ratio is what counts.
 * Pages are scattered over a working set larger than the caches; each output buffer is one record of 1024 pages. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <replicad/stream.h>

#define SET_PAGES 65536u /* 256 MiB */
#define RECORDS 256u     /* 1 GiB per run and side */
#define RUNS 7u
#define WANTED 0.8
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
static void copy_record(unsigned r)
{
	size_t head = rpl_stream_page_data_head_size(BATCH);

	for (unsigned i = 0; i < BATCH; i++)
		memcpy(out[r % BUFFERS] + head + (size_t)i * RPL_STREAM_PAGE, where[r][i], RPL_STREAM_PAGE);
}

static void encode_record(unsigned r, size_t cap)
{
	struct rpl_out o = rpl_out(out[r % BUFFERS], cap);

	rpl_stream_put_page_data(&o, descs[r], BATCH, where[r]);
	if (o.bad)
		abort();
}

/* Every other record is copied, the others encoded; then the other way round. So whatever else the machine does within these
 * seconds is met by both. */
static void run(size_t cap, double *ret_copy, double *ret_encode)
{
	*ret_copy = *ret_encode = 0;
	for (unsigned i = 0; i < 2 * RECORDS; i++) {
		unsigned r = i % RECORDS;
		double start = now();

		if ((i / RECORDS + r) % 2) {
			copy_record(r);
			*ret_copy += now() - start;
		} else {
			encode_record(r, cap);
			*ret_encode += now() - start;
		}
	}
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

int main(void)
{
	size_t cap = rpl_stream_page_data_head_size(BATCH) + (size_t)BATCH * RPL_STREAM_PAGE;
	double copy[RUNS], encode[RUNS], ratio[RUNS];
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
	run(cap, &copy[0], &encode[0]); /* to have all of it in memory */
	for (unsigned i = 0; i < RUNS; i++) {
		run(cap, &copy[i], &encode[i]);
		ratio[i] = copy[i] / encode[i];
	}
	qsort(copy, RUNS, sizeof(copy[0]), compare);
	qsort(encode, RUNS, sizeof(encode[0]), compare);
	qsort(ratio, RUNS, sizeof(ratio[0]), compare);
	(void)printf("memcpy %.2f GB/s, encoder %.2f GB/s, ratio %.2f (median of %u, from %.2f to %.2f)\n",
		     1.073741824 / copy[RUNS / 2], 1.073741824 / encode[RUNS / 2], ratio[RUNS / 2], RUNS, ratio[0], ratio[RUNS - 1]);
	return ratio[RUNS / 2] >= WANTED ? 0 : 1;
}
