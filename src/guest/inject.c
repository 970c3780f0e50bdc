/* inject.c - system calls in another process by ptrace, x86-64
 *
 * SEIZE and INTERRUPT stop the thread without a signal that it could notice. Its registers point into its loop, or to
 * just behind a system call that was interrupted and will be restarted. We save them and its signal mask, block all
 * signals (a handler must not run on our registers), point rip at a syscall instruction of its vdso, clear orig_rax (so
 * that the kernel does not take our call for the interrupted one), and single-step. At the end registers and mask are
 * put back; the kernel then restarts the interrupted call from the restored orig_rax and rax, as after a debugger.
 * Every wait is bounded. Known weakness: a SIGKILL to us between setting and restoring registers (well below a
 * millisecond) would let the thread run on ours; nobody sends one: our caller waits longer than our bounds.
 */
#include "inject.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/clock.h>

#include "procmem.h"

#ifdef __x86_64__

_Static_assert(sizeof(struct user_regs_struct) <= sizeof(((struct inject *)0)->saved), "room for the registers");

/* Wait until the thread stops; *ret_status as from waitpid(). */
static int wait_stop(pid_t pid, int *ret_status, struct rpl_err *err)
{
	uint64_t until = rpl_now_ns() + INJECT_WAIT_MS * RPL_MS;
	const struct timespec nap = { .tv_nsec = 100000 };

	for (;;) {
		pid_t got = waitpid(pid, ret_status, WNOHANG | __WALL);

		if (got < 0 && errno != EINTR)
			return rpl_fail_errno(err, errno, "process %d: wait for its stop", (int)pid);
		if (got == pid && WIFSTOPPED(*ret_status))
			return 0;
		if (got == pid)
			return rpl_fail(err, -ESRCH, "process %d ended", (int)pid);
		if (rpl_now_ns() > until)
			return rpl_fail(err, -ETIMEDOUT, "process %d did not stop within %d ms", (int)pid, INJECT_WAIT_MS);
		(void)nanosleep(&nap, NULL);
	}
}

static int find_vdso(pid_t pid, struct procmem_map *ret, struct rpl_err *err)
{
	RPL_AUTO_FILE FILE *f = NULL;
	char line[8192];

	(void)snprintf(line, sizeof(line), "/proc/%d/maps", (int)pid);
	f = fopen(line, "re");
	if (!f)
		return rpl_fail_errno(err, errno, "open %s", line);
	while (fgets(line, sizeof(line), f))
		if (procmem_parse_map(line, ret) && ret->exec && strcmp(ret->path, "[vdso]") == 0)
			return 0;
	return rpl_fail(err, -ENOENT, "process %d has no vdso", (int)pid);
}

static int find_entry(pid_t pid, uint64_t *ret, struct rpl_err *err)
{
	RPL_AUTO_FD int mem = -1;
	unsigned char code[16384];
	struct procmem_map m;
	char path[64];
	ssize_t n;
	int r;

	r = find_vdso(pid, &m, err);
	if (r < 0)
		return r;
	(void)snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
	mem = open(path, O_RDONLY | O_CLOEXEC);
	if (mem < 0)
		return rpl_fail_errno(err, errno, "open %s", path);
	n = pread(mem, code, m.to - m.from < sizeof(code) ? m.to - m.from : sizeof(code), (off_t)m.from);
	for (ssize_t i = 0; i + 1 < n; i++) {
		if (code[i] == 0x0f && code[i + 1] == 0x05) {
			*ret = m.from + (uint64_t)i;
			return 0;
		}
	}
	return rpl_fail(err, -ENOENT, "process %d: no syscall instruction in its vdso", (int)pid);
}

static int seize(pid_t pid, struct rpl_err *err)
{
	pid_t tracer;

	if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) == 0)
		return 0;
	tracer = procmem_tracer(pid);
	if (tracer > 0)
		return rpl_fail(err, -EBUSY, "process %d is traced by process %d (a debugger?): detach that first", (int)pid,
				(int)tracer);
	return rpl_fail_errno(err, errno, "ptrace process %d (needs its user or CAP_SYS_PTRACE; or use tracker=compare)",
			      (int)pid);
}

static int save_state(struct inject *in, struct rpl_err *err)
{
	struct user_regs_struct regs;
	uint64_t all = ~UINT64_C(0);

	if (ptrace(PTRACE_GETREGS, in->pid, NULL, &regs) < 0)
		return rpl_fail_errno(err, errno, "process %d: read its registers", (int)in->pid);
	memcpy(in->saved, &regs, sizeof(regs));
	if (ptrace(PTRACE_GETSIGMASK, in->pid, (void *)sizeof(all), &in->saved_mask) < 0 ||
	    ptrace(PTRACE_SETSIGMASK, in->pid, (void *)sizeof(all), &all) < 0)
		return rpl_fail_errno(err, errno, "process %d: change its signal mask", (int)in->pid);
	return 0;
}

int inject_begin(struct inject *in, pid_t pid, struct rpl_err *err)
{
	int status, r;

	*in = (struct inject){ .pid = pid };
	r = find_entry(pid, &in->entry, err);
	if (r < 0)
		return r;
	r = seize(pid, err);
	if (r < 0)
		return r;
	if (ptrace(PTRACE_INTERRUPT, pid, NULL, NULL) < 0)
		return rpl_fail_errno(err, errno, "process %d: interrupt", (int)pid);
	r = wait_stop(pid, &status, err);
	if (r < 0)
		return r;
	if (WSTOPSIG(status) != SIGTRAP) /* a group stop: it would not perform anything */
		r = rpl_fail(err, -EBUSY, "process %d is stopped by signal %d: continue it first (kill -CONT %d)", (int)pid,
			     WSTOPSIG(status), (int)pid);
	else
		r = save_state(in, err);
	if (r < 0)
		(void)ptrace(PTRACE_DETACH, pid, NULL, NULL);
	return r;
}

int inject_syscall(struct inject *in, long number, const uint64_t arg[3], int64_t *ret, struct rpl_err *err)
{
	struct user_regs_struct regs;
	int status, r;

	memcpy(&regs, in->saved, sizeof(regs));
	regs.rip = in->entry;
	regs.rax = (unsigned long long)number;
	regs.rdi = arg[0];
	regs.rsi = arg[1];
	regs.rdx = arg[2];
	regs.orig_rax = ~0ULL; /* not in a system call: nothing to restart */
	if (ptrace(PTRACE_SETREGS, in->pid, NULL, &regs) < 0 || ptrace(PTRACE_SINGLESTEP, in->pid, NULL, NULL) < 0)
		return rpl_fail_errno(err, errno, "process %d: start system call %ld", (int)in->pid, number);
	r = wait_stop(in->pid, &status, err);
	if (r < 0)
		return r;
	if (ptrace(PTRACE_GETREGS, in->pid, NULL, &regs) < 0)
		return rpl_fail_errno(err, errno, "process %d: read its registers", (int)in->pid);
	if (regs.rip != in->entry + 2)
		return rpl_fail(err, -EIO, "process %d: system call %ld was not performed (stopped at 0x%llx)", (int)in->pid,
				number, (unsigned long long)regs.rip);
	*ret = (int64_t)regs.rax;
	return 0;
}

void inject_end(struct inject *in)
{
	struct user_regs_struct regs;

	memcpy(&regs, in->saved, sizeof(regs));
	/* These fail only if the process is gone. */
	(void)ptrace(PTRACE_SETREGS, in->pid, NULL, &regs);
	(void)ptrace(PTRACE_SETSIGMASK, in->pid, (void *)sizeof(in->saved_mask), &in->saved_mask);
	(void)ptrace(PTRACE_DETACH, in->pid, NULL, NULL);
}

#else

int inject_begin(struct inject *in, pid_t pid, struct rpl_err *err)
{
	*in = (struct inject){ .pid = pid };
	return rpl_fail(err, -ENOTSUP, "tracker=uffd needs x86-64: use tracker=compare");
}

int inject_syscall(struct inject *in, long number, const uint64_t arg[3], int64_t *ret, struct rpl_err *err)
{
	(void)arg;
	(void)ret;
	return rpl_fail(err, -ENOTSUP, "process %d: system call %ld: x86-64 only", (int)in->pid, number);
}

void inject_end(struct inject *in)
{
	(void)in;
}

#endif
