/* clock.h - time for intervals: CLOCK_MONOTONIC, never a date */
#ifndef REPLICAD_CLOCK_H
#define REPLICAD_CLOCK_H

#include <stdint.h>

#define RPL_MS UINT64_C(1000000) /* nanoseconds in a millisecond */

uint64_t rpl_now_ns(void);

/* What rpl_now_ns() said last in this process: no earlier than any time that was taken before. A look at the clock is a system call
 * where the kernel cannot let programs read it (a Xen control domain), so a program with a loop looks when it wakes up and where a
 * time is to be exact, and is content with this one elsewhere.
 */
uint64_t rpl_recent_ns(void);

#endif
