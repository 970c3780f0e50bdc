/* lead.h - how much earlier than the interval ends a guest is asked to stand still
 *
 * A guest that is asked, as Xen's are, runs on until it does: the interval ends when it stands, so it is asked as much earlier as
 * it took of late.
 */
#ifndef KEEPER_LEAD_H
#define KEEPER_LEAD_H

#include <stdint.h>

/* Note that it took `took_ns` from the question until the guest stood still. *handshake_ns: what it takes of late, smoothed; 0:
 * nothing is known. Returns how long to wait from one checkpoint until the next question: never less than a quarter of the
 * interval, which the guest has to itself. Nanoseconds, all of them. */
uint64_t lead_learn(uint64_t *handshake_ns, uint64_t took_ns, uint64_t interval_ns);

#endif
