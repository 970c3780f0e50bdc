/* replicad/calls.h - the last step of confining a process: the system calls that it may make
 *
 * An allow-list, loaded for good. What is not on it fails with EPERM instead of killing, so that a library that merely looks
 * for its configuration file goes on without.
 */
#ifndef REPLICAD_CALLS_H
#define REPLICAD_CALLS_H

#include <stddef.h>

#include <seccomp.h>

#include <replicad/err.h>

/* Beside `allowed` every process may map and protect memory that cannot be executed, and abort(). `more`, unless NULL, adds
 * rules that look at arguments; it returns 0 or a negative errno. `who` begins the error's message. Ours to be called once,
 * when all that needs other calls is done. */
int rpl_allow_calls(const int *allowed, size_t n, int (*more)(scmp_filter_ctx f), const char *who, struct rpl_err *err);

#endif
