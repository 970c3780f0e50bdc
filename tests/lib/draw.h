/* draw.h - numbers for a property test: from a seed that is printed, so that a run can be repeated (xorshift64, George Marsaglia) */
#ifndef DRAW_H
#define DRAW_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <setjmp.h>

#include <cmocka.h>

#include <replicad/clock.h>

static uint64_t rng;

static inline uint64_t draw(uint64_t below)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng % below;
}

/* The environment's VARIABLE=N repeats a run. */
static inline void draw_seed(const char *variable)
{
	const char *text = getenv(variable);

	rng = text ? strtoull(text, NULL, 10) : rpl_now_ns() | 1;
	print_message("%s=%llu\n", variable, (unsigned long long)rng);
}

#endif
