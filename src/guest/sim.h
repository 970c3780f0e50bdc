/* sim.h - a simulated guest: RAM of any size, written at a chosen rate and pattern from a seed, that checks itself
 *
 * Conf "ram_mb=64,high_mb=0,rate=1000,pattern=uniform,seed=1": MiB of RAM below and above 4 GiB, page writes a second,
 * where they go (uniform, hot: nine in ten to a tenth of the pages, sequential), and the seed of it all. Two guests of
 * one text that made the same number of writes are equal, byte by byte.
 *
 * Each written page carries its frame number and a version, and the device state the sum over all pages' versions, so
 * a replica that lacks one page's last version is found when it is activated. A standby is a sim guest too.
 */
#ifndef RPL_GUEST_SIM_H
#define RPL_GUEST_SIM_H

#include <stdint.h>

#include <replicad/guest.h>

#define SIM_DEFAULT "ram_mb=64,high_mb=0,rate=1000,pattern=uniform,seed=1"
#define SIM_RAM_MB_MAX (1024 * 1024)
#define SIM_RATE_MAX 10000000
#define SIM_TICK_MS 2 /* a running guest writes in bursts of rate * this */

/* Make `n` page writes now, running or not (tests without a clock). */
void rpl_sim_write(struct rpl_guest *g, uint64_t n);
uint64_t rpl_sim_writes(const struct rpl_guest *g);
/* Is its RAM what its state says? Counts the pages that are not. */
uint64_t rpl_sim_bad_pages(const struct rpl_guest *g);
/* Pretend that somebody else did it. */
void rpl_sim_event(struct rpl_guest *g, enum rpl_guest_event event);

#endif
