/* inject.h - make another process's main thread perform system calls, and leave it as it was */
#ifndef RPL_GUEST_INJECT_H
#define RPL_GUEST_INJECT_H

#include <stdint.h>
#include <sys/types.h>

#include <replicad/err.h>

#define INJECT_WAIT_MS 1000 /* bound of each wait for the process to stop */

struct inject {
	pid_t pid;
	uint64_t entry;            /* address of a syscall instruction in it */
	unsigned char saved[512];  /* its registers (struct user_regs_struct) */
	uint64_t saved_mask;
};

/* Stop the thread `pid` between two instructions or in an interruptible system call. -EBUSY: it is traced already,
 * -ENOTSUP: not on this architecture. After 0, inject_end() must be called. */
int inject_begin(struct inject *in, pid_t pid, struct rpl_err *err);
/* Perform one system call there. *ret is its result, which may be a negative errno. */
int inject_syscall(struct inject *in, long number, const uint64_t arg[3], int64_t *ret, struct rpl_err *err);
/* Restore everything and let it run. If we die instead, the kernel lets it run. */
void inject_end(struct inject *in);

#endif
