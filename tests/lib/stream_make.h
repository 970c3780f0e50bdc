/* stream_make.h - whole streams for tests, made with the writer from a seed */
#ifndef TESTS_STREAM_MAKE_H
#define TESTS_STREAM_MAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <replicad/stream.h>

enum make_guest { MAKE_PV64, MAKE_PV32, MAKE_HVM, MAKE_PVH, MAKE_GUESTS };

struct make_plan {
	enum make_guest guest;
	enum rpl_stream_format format;
	uint32_t version;     /* image version */
	unsigned checkpoints; /* 0: a plain stream, ended by END */
	unsigned records;     /* PAGE_DATA records per checkpoint */
	unsigned pages;       /* most descriptors in one of them */
	unsigned vcpus;
	bool colo;            /* CHECKPOINT_STATE between checkpoints */
	bool producer;        /* made by no Xen: RPL_PRODUCER */
	bool bare;            /* PV: without the pages that the vCPUs' contexts name */
	uint64_t seed;
};

/* What the stream holds, for comparison: end offsets of complete checkpoints and a sum over pages and blobs. */
#define MAKE_CHECKPOINTS_MAX 16
struct make_result {
	size_t len;
	size_t checkpoint_end[MAKE_CHECKPOINTS_MAX];
	uint64_t records, pages, descs, sum;
};

/* A small pseudo-random generator; never 0 twice in a row for a non-zero state. */
uint64_t make_random(uint64_t *state);
/* A random plan for property tests. */
struct make_plan make_random_plan(uint64_t *state);
/* Fill buf; the test dies if `cap` is too small. */
struct make_result make_stream(const struct make_plan *plan, void *buf, size_t cap);
/* The sum that make_result.sum counts, over one run of bytes. */
uint64_t make_sum(uint64_t sum, const void *bytes, size_t len);

/* Read a whole stream back, in spans of `span` bytes (0: one span). Fills *ret as make_stream() does.
 * Returns what rpl_stream_next() returned last: 0 or negative. */
int make_read_back(const void *buf, size_t len, enum rpl_stream_format format, size_t span,
		   struct rpl_stream_reader *r, struct make_result *ret, struct rpl_err *err);

#endif
