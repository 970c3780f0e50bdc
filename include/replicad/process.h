/* process.h - a process that was seen before: told from one that has its number now by when it started */
#ifndef REPLICAD_PROCESS_H
#define REPLICAD_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Clock ticks after boot at which it started, field 22 of /proc/PID/stat (proc(5)); 0: no such process. */
uint64_t rpl_process_start_time(pid_t pid);
/* A descriptor of that very process, the caller's; -1: it is gone, a zombie included, or was never known (0). */
int rpl_process_open(pid_t pid, uint64_t started);
/* Wait so long for its end: true, it is gone. */
bool rpl_process_gone(int pidfd, int wait_ms);
bool rpl_process_lives(pid_t pid, uint64_t started);
/* Kill it and wait so long for its end: true, it is gone. */
bool rpl_process_end(pid_t pid, uint64_t started, int wait_ms);

#endif
