/* delta.c - a page as it is, and as what changed in it: time and bytes a page, at several densities of change
 *
 * usage: tests/bench/delta [pages] [rounds]
 *
 * Each line: so many 8-byte words of each page changed, at random places. `raw` is what a page costs that is sent as it is
 * (a copy, and its share of the epoch's digest), `delta` what it costs by comparison with the page as last sent (with
 * the digest of what is sent then), `store` what storing the delta costs the other side beside `copy`, a whole
 * page. Medians over the rounds, in one run: their ratios say something, the figures are this machine's.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <replicad/auto.h>
#include <replicad/delta.h>
#include <replicad/link.h>
#include <replicad/memory.h>

#include "median.h"

#define ROUNDS_MAX 101

static uint8_t *now, *last, *replica, *wire;
static size_t *lens;
static size_t pages;

static uint64_t draw(void)
{
	static uint64_t x = 88172645463325252;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x;
}

static void change(unsigned words)
{
	for (size_t p = 0; p < pages; p++)
		for (unsigned i = 0; i < words; i++) {
			uint64_t v = draw();

			memcpy(now + p * RPL_PAGE_SIZE + draw() % (RPL_PAGE_SIZE / 8) * 8, &v, sizeof(v));
		}
}

/* The processor's time: others may want the machine, too. */
static uint64_t cpu_ns(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static double per_page(uint64_t since)
{
	return (double)(cpu_ns() - since) / (double)pages;
}

static double raw(struct rpl_digest *d)
{
	uint64_t t = cpu_ns();

	rpl_digest_reset(d);
	for (size_t p = 0; p < pages; p++) {
		memcpy(wire + p * RPL_PAGE_SIZE, now + p * RPL_PAGE_SIZE, RPL_PAGE_SIZE);
		rpl_digest_add(d, wire + p * RPL_PAGE_SIZE, RPL_PAGE_SIZE);
	}
	return per_page(t);
}

static double delta(struct rpl_digest *d, double *ret_bytes)
{
	uint64_t t = cpu_ns(), bytes = 0;

	rpl_digest_reset(d);
	for (size_t p = 0; p < pages; p++) {
		uint8_t *to = wire + p * RPL_PAGE_SIZE;

		lens[p] = rpl_delta_make(now + p * RPL_PAGE_SIZE, last + p * RPL_PAGE_SIZE, to);
		if (lens[p] == RPL_DELTA_TOO_LONG) {
			memcpy(to, now + p * RPL_PAGE_SIZE, RPL_PAGE_SIZE);
			lens[p] = RPL_PAGE_SIZE;
		}
		rpl_digest_add(d, to, lens[p]);
		bytes += lens[p];
	}
	*ret_bytes = (double)bytes / (double)pages;
	return per_page(t);
}

static double store(void)
{
	uint64_t t = cpu_ns();
	struct rpl_err err;

	for (size_t p = 0; p < pages; p++) {
		uint8_t *to = replica + p * RPL_PAGE_SIZE, *from = wire + p * RPL_PAGE_SIZE;

		if (lens[p] == RPL_PAGE_SIZE)
			memcpy(to, from, RPL_PAGE_SIZE);
		else if (lens[p] && rpl_delta_apply(to, from, lens[p], &err) < 0)
			exit(1);
	}
	return per_page(t);
}

static double copy(void)
{
	uint64_t t = cpu_ns();

	memcpy(replica, now, pages * RPL_PAGE_SIZE);
	return per_page(t);
}

int main(int argc, char **argv)
{
	static const unsigned words[] = { 0, 1, 4, 16, 64, 128, 256, 512 };
	int rounds = argc > 2 ? atoi(argv[2]) : 21;
	struct rpl_digest *d = rpl_digest_new();

	pages = argc > 1 ? strtoull(argv[1], NULL, 10) : 4096;
	if (!pages || pages > SIZE_MAX / RPL_PAGE_SIZE || rounds < 1 || rounds > ROUNDS_MAX) {
		fprintf(stderr, "usage: %s [pages] [rounds, 1 to %d]\n", argv[0], ROUNDS_MAX);
		return 2;
	}
	now = calloc(pages, RPL_PAGE_SIZE);
	last = calloc(pages, RPL_PAGE_SIZE);
	replica = calloc(pages, RPL_PAGE_SIZE);
	wire = calloc(pages, RPL_PAGE_SIZE);
	lens = calloc(pages, sizeof(*lens));
	if (!now || !last || !replica || !wire || !lens)
		return 1;
	change(512);
	memcpy(last, now, pages * RPL_PAGE_SIZE);
	memcpy(replica, now, pages * RPL_PAGE_SIZE);
	printf("%6s %9s %9s %6s %9s %9s %9s\n", "words", "raw ns", "delta ns", "ratio", "bytes", "copy ns", "store ns");
	for (size_t i = 0; i < RPL_ARRAY_LEN(words); i++) {
		double v[4][ROUNDS_MAX], m[4], bytes = 0;

		for (int r = 0; r < rounds; r++) {
			change(words[i]);
			v[0][r] = raw(d);
			v[1][r] = delta(d, &bytes);
			v[3][r] = store();
			if (memcmp(replica, now, pages * RPL_PAGE_SIZE) != 0)
				return 1;
			v[2][r] = copy();
		}
		for (int k = 0; k < 4; k++)
			m[k] = median(v[k], rounds);
		printf("%6u %9.0f %9.0f %6.2f %9.0f %9.0f %9.0f\n", words[i], m[0], m[1], m[1] / m[0], bytes, m[2], m[3]);
	}
	rpl_digest_free(d);
	free(now);
	free(last);
	free(replica);
	free(wire);
	free(lens);
	return 0;
}
