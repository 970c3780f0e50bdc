/* What a relay that is taken over could still do: read and write the frames it carries anyway, and connect to unix sockets.
 *
 * The filter is an allow-list, as the mover's (src/engine/sandbox.c). A relay goes on needing some calls that take a path: it
 * connects to QEMU's sockets again whenever QEMU is there anew (socket, connect, stat), notes that it holds (open to write,
 * unlink) and removes its sockets at its end. Nothing can be opened to be read.
 */
#include "relayd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cap-ng.h>

#include <replicad/auto.h>
#include <replicad/calls.h>

static const int allowed[] = {
	/* frames and requests */
	SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(recvfrom), SCMP_SYS(sendto), SCMP_SYS(recvmsg),
	SCMP_SYS(sendmsg), SCMP_SYS(recvmmsg), SCMP_SYS(sendmmsg), SCMP_SYS(accept4), SCMP_SYS(connect), SCMP_SYS(shutdown),
	SCMP_SYS(close), SCMP_SYS(fcntl), SCMP_SYS(getsockopt), SCMP_SYS(setsockopt), SCMP_SYS(getsockname),
	/* paths: whose socket is there, and ours at the end */
	SCMP_SYS(stat), SCMP_SYS(fstat), SCMP_SYS(newfstatat), SCMP_SYS(statx), SCMP_SYS(unlink), SCMP_SYS(unlinkat),
	/* the loop; libev makes what it needs when it is first needed */
	SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait), SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_create1), SCMP_SYS(eventfd2),
	SCMP_SYS(timerfd_create), SCMP_SYS(timerfd_settime), SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(clock_gettime),
	SCMP_SYS(clock_nanosleep), SCMP_SYS(gettimeofday), SCMP_SYS(time), SCMP_SYS(restart_syscall),
	/* memory; nothing executable, see below */
	SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(brk), SCMP_SYS(getrandom),
	/* ourselves */
	SCMP_SYS(futex), SCMP_SYS(getpid), SCMP_SYS(gettid), SCMP_SYS(geteuid), SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigreturn), SCMP_SYS(sigaltstack), SCMP_SYS(sched_yield), SCMP_SYS(exit), SCMP_SYS(exit_group),
};

static int allow_with_arguments(scmp_filter_ctx f)
{
	scmp_datum_t made = O_WRONLY | O_CREAT | O_CLOEXEC;
	int r = 0;

	r |= seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_EQ, AF_UNIX));
	r |= seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(openat), 1, SCMP_A2(SCMP_CMP_EQ, made)); /* the note that we hold */
	return r ? -EINVAL : 0;
}

int rpl_relay_confine(struct rpl_err *err)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return rpl_fail_errno(err, errno, "relay: set no_new_privs");
	if (geteuid() == 0) { /* else it had none */
		capng_clear(CAPNG_SELECT_BOTH);
		if (capng_update(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED, CAP_DAC_OVERRIDE) < 0 ||
		    capng_apply(CAPNG_SELECT_BOTH) < 0)
			return rpl_fail(err, -EPERM, "relay: drop capabilities");
	}
	return rpl_allow_calls(allowed, RPL_ARRAY_LEN(allowed), allow_with_arguments, "relay", err);
}
