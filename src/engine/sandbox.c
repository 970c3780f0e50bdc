/* Order matters: the empty root, ids and capabilities need privilege to be changed, the system call filter comes last
 * because it would forbid the rest.
 *
 * Paths are taken away three times, so that a hole in one is not a way out: the root is a directory that does not exist
 * any more (with privilege), Landlock denies whatever it knows (where the kernel has it), and the filter knows no call
 * that takes a path.
 */
#include "sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cap-ng.h>

#include <replicad/auto.h>
#include <replicad/calls.h>

/* PAGEMAP_SCAN of <linux/fs.h>, which older headers lack. */
#define IOCTL_PAGEMAP_SCAN 0xc0606610u
/* MMAPBATCH_V2 of <xen/privcmd.h>: map frames of the one domain that the keeper restricted the descriptor to. */
#define IOCTL_PRIVCMD_MAP 0x00205004u

/* Landlock of <linux/landlock.h>, which older headers know in part. */
#define LANDLOCK_CREATE_RULESET 444
#define LANDLOCK_RESTRICT_SELF 446
#define LANDLOCK_VERSION 1u /* flag: tell the ABI */

struct landlock_attr {
	uint64_t fs, net, scoped;
};

/* Everything that an ABI can handle, hence deny; `size`: how much of the struct it knows. */
static const struct {
	int abi;
	struct landlock_attr attr;
	size_t size;
} landlock[] = {
	{ 6, { 0xffff, 0x3, 0x3 }, 24 }, /* scoped: abstract sockets and signals */
	{ 5, { 0xffff, 0x3, 0 }, 16 },
	{ 4, { 0x7fff, 0x3, 0 }, 16 },   /* net: bind and connect */
	{ 3, { 0x7fff, 0, 0 }, 8 },
	{ 2, { 0x3fff, 0, 0 }, 8 },
	{ 1, { 0x1fff, 0, 0 }, 8 },
};

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

	r |= seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, IOCTL_PAGEMAP_SCAN));
	r |= seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, IOCTL_PRIVCMD_MAP));
	/* the fault points */
	r |= seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(kill), 1, SCMP_A0(SCMP_CMP_EQ, self));
	return r ? -EINVAL : 0;
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

/* Become rooted in a directory that was removed: nothing is found in it, nothing can be made in it. */
static int empty_root(struct rpl_err *err)
{
	static const char *const places[] = { "/run", "/tmp" };
	RPL_AUTO_FD int fd = -1;
	char path[64] = "";

	if (capng_get_caps_process() < 0 || !capng_have_capability(CAPNG_EFFECTIVE, CAP_SYS_CHROOT))
		return 0;
	for (size_t i = 0; i < RPL_ARRAY_LEN(places) && fd < 0; i++) {
		(void)snprintf(path, sizeof(path), "%s/replicad-mover-XXXXXX", places[i]);
		if (!mkdtemp(path))
			continue;
		fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (rmdir(path) < 0)
			return rpl_fail_errno(err, errno, "sandbox: remove %s", path);
	}
	if (fd < 0)
		return rpl_fail_errno(err, errno, "sandbox: make an empty directory in /run or /tmp");
	if (fchdir(fd) < 0 || chroot(".") < 0)
		return rpl_fail_errno(err, errno, "sandbox: become rooted in an empty directory");
	return 0;
}

static int deny_paths(struct rpl_err *err)
{
	int abi = (int)syscall(LANDLOCK_CREATE_RULESET, NULL, 0, LANDLOCK_VERSION);
	RPL_AUTO_FD int rules = -1;
	size_t i = 0;

	if (abi < 1)
		return 0; /* an old kernel, or not switched on */
	while (landlock[i].abi > abi)
		i++;
	rules = (int)syscall(LANDLOCK_CREATE_RULESET, &landlock[i].attr, landlock[i].size, 0);
	if (rules < 0 || syscall(LANDLOCK_RESTRICT_SELF, rules, 0) < 0)
		return rpl_fail_errno(err, errno, "sandbox: Landlock, version %d", abi);
	return 0;
}

int sandbox_leave_paths(struct rpl_err *err)
{
	int r = empty_root(err);

	if (r < 0)
		return r;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return rpl_fail_errno(err, errno, "sandbox: give up new privileges");
	return deny_paths(err);
}

int sandbox_enter(uint32_t uid, uint32_t gid, struct rpl_err *err)
{
	const struct rlimit none = { 0, 0 };
	int r;

	if (setrlimit(RLIMIT_CORE, &none) < 0)
		return rpl_fail_errno(err, errno, "sandbox: no core dumps");
	r = sandbox_leave_paths(err);
	if (r == 0)
		r = drop_identity(uid, gid, err);
	if (r < 0)
		return r;
	/* A change of user forgets what the keeper asked for when it started us. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || prctl(PR_SET_DUMPABLE, 0) < 0)
		return rpl_fail_errno(err, errno, "sandbox: be no one's to look into");
	return rpl_allow_calls(allowed, RPL_ARRAY_LEN(allowed), allow_with_arguments, "sandbox", err);
}
