/* Order matters: ids and capabilities need privilege to be changed, the system call filter comes last because it would
 * forbid the rest. A refused call fails with EPERM instead of killing, so that a library that merely looks for its
 * configuration file goes on without. */
#include "sandbox.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cap-ng.h>
#include <seccomp.h>

#include <replicad/auto.h>

/* PAGEMAP_SCAN of <linux/fs.h>, which older headers lack. */
#define IOCTL_PAGEMAP_SCAN 0xc0606610u

static const int allowed[] = {
	/* descriptors that we have */
	SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(pread64), SCMP_SYS(pwrite64),
	SCMP_SYS(recvfrom), SCMP_SYS(sendto), SCMP_SYS(recvmsg), SCMP_SYS(sendmsg), SCMP_SYS(shutdown), SCMP_SYS(close),
	SCMP_SYS(fcntl), SCMP_SYS(fstat), SCMP_SYS(lseek), SCMP_SYS(getsockopt),
	SCMP_SYS(setsockopt), SCMP_SYS(getsockname), SCMP_SYS(getpeername),
	/* the loop; libev makes a new epoll descriptor when a closed socket lives on elsewhere (the keeper has a copy) */
	SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait), SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_create1), SCMP_SYS(poll), SCMP_SYS(ppoll),
	SCMP_SYS(clock_gettime), SCMP_SYS(clock_nanosleep), SCMP_SYS(gettimeofday), SCMP_SYS(time), SCMP_SYS(restart_syscall),
	/* memory; nothing executable, see below */
	SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(brk), SCMP_SYS(getrandom),
	/* ourselves */
	SCMP_SYS(futex), SCMP_SYS(getpid), SCMP_SYS(gettid), SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigreturn), SCMP_SYS(sigaltstack), SCMP_SYS(sched_yield), SCMP_SYS(exit), SCMP_SYS(exit_group),
};

static int allow_with_arguments(scmp_filter_ctx f)
{
	scmp_datum_t self = (scmp_datum_t)getpid();
	int r = 0;

	r |= seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	r |= seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	r |= seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, IOCTL_PAGEMAP_SCAN));
	/* abort(), and the fault points */
	r |= seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(kill), 1, SCMP_A0(SCMP_CMP_EQ, self));
	r |= seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, SCMP_A0(SCMP_CMP_EQ, self));
	return r ? -EINVAL : 0;
}

static int filter_calls(struct rpl_err *err)
{
	scmp_filter_ctx f = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	int r = f ? 0 : -ENOMEM;

	for (size_t i = 0; i < RPL_ARRAY_LEN(allowed) && r == 0; i++)
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, allowed[i], 0);
	if (r == 0)
		r = allow_with_arguments(f);
	if (r == 0)
		r = seccomp_load(f);
	if (f)
		seccomp_release(f);
	return r < 0 ? rpl_fail_errno(err, -r, "sandbox: load the system call filter") : 0;
}

static int drop_identity(uint32_t uid, uint32_t gid, struct rpl_err *err)
{
	int r;

	capng_clear(CAPNG_SELECT_BOTH);
	if (uid || gid) {
		r = capng_change_id(uid ? (int)uid : -1, gid ? (int)gid : -1, CAPNG_DROP_SUPP_GRP);
		if (r < 0)
			return rpl_fail(err, -EPERM, "sandbox: become user %u, group %u: step %d was refused", uid, gid, -r);
		return 0;
	}
	r = capng_apply(CAPNG_SELECT_CAPS);
	return r < 0 ? rpl_fail(err, -EPERM, "sandbox: give up capabilities: step %d was refused", -r) : 0;
}

int sandbox_enter(uint32_t uid, uint32_t gid, struct rpl_err *err)
{
	const struct rlimit none = { 0, 0 };
	int r;

	if (setrlimit(RLIMIT_CORE, &none) < 0)
		return rpl_fail_errno(err, errno, "sandbox: no core dumps");
	r = drop_identity(uid, gid, err);
	if (r < 0)
		return r;
	/* A change of user forgets what the keeper asked for when it started us. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    prctl(PR_SET_DUMPABLE, 0) < 0)
		return rpl_fail_errno(err, errno, "sandbox: give up new privileges");
	return filter_calls(err);
}
