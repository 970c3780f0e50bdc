/* clock.h - time for intervals: CLOCK_MONOTONIC, never a date */
#ifndef REPLICAD_CLOCK_H
#define REPLICAD_CLOCK_H

#include <stdint.h>

#define RPL_MS UINT64_C(1000000) /* nanoseconds in a millisecond */

uint64_t rpl_now_ns(void);

#endif
