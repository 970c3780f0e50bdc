/* attempt.h - what a confined process must not be able to do, tried for real, in a child */
#ifndef ATTEMPT_H
#define ATTEMPT_H

#include <stddef.h>

#include <sys/types.h>

#include <replicad/err.h>

struct attempt {
	const char *name;
	int (*attempt)(void); /* the errno it met, 0 if it was allowed */
};

/* Of a call's result. */
int attempt_met(long r);

extern pid_t attempt_parent; /* to be set: the process that some of these reach for */
int attempt_exec(void);
int attempt_fork(void);
int attempt_trace(void);
int attempt_signal(void);
int attempt_tgkill(void);
int attempt_peer_memory(void);
int attempt_exec_memory(void);
int attempt_namespace(void);
int attempt_mount(void);
int attempt_io_uring(void);

#define ATTEMPT_NOT_CONFINED 255
/* The exit status of a child that confines itself, unless that is NULL, and then does this. */
int attempt_in_child(int (*what)(void), int (*confine)(struct rpl_err *err));

/* Each meets EPERM inside. Half of them at least meet something else outside, or that would prove nothing. */
void attempts_are_refused(const struct attempt *a, size_t n, int (*confine)(struct rpl_err *err));

#endif
