#include "attempt.h"

#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

pid_t attempt_parent;

int attempt_met(long r)
{
	return r < 0 ? errno : 0;
}

int attempt_exec(void)
{
	return attempt_met(execl("/bin/true", "true", (char *)NULL));
}

int attempt_fork(void)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	return attempt_met(pid);
}

int attempt_trace(void)
{
	return attempt_met(ptrace(PTRACE_SEIZE, attempt_parent, NULL, NULL));
}

int attempt_signal(void)
{
	return attempt_met(kill(attempt_parent, 0));
}

int attempt_tgkill(void)
{
	return attempt_met(syscall(SYS_tgkill, attempt_parent, attempt_parent, 0));
}

int attempt_peer_memory(void)
{
	char c;
	struct iovec here = { &c, 1 }, there = { &attempt_parent, 1 };

	return attempt_met(process_vm_readv(attempt_parent, &here, 1, &there, 1, 0));
}

int attempt_exec_memory(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? errno : 0;
}

int attempt_namespace(void)
{
	return attempt_met(unshare(CLONE_NEWUSER));
}

int attempt_mount(void)
{
	return attempt_met(syscall(SYS_mount, "none", "/nowhere", "tmpfs", 0, NULL));
}

int attempt_io_uring(void)
{
	char params[256] = { 0 };

	return attempt_met(syscall(SYS_io_uring_setup, 1, params));
}

int attempt_in_child(int (*what)(void), int (*confine)(struct rpl_err *err))
{
	int status = 0;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		struct rpl_err err;

		if (confine && confine(&err) < 0) {
			(void)dprintf(STDERR_FILENO, "%s\n", err.msg);
			_exit(ATTEMPT_NOT_CONFINED);
		}
		_exit(what());
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

void attempts_are_refused(const struct attempt *a, size_t n, int (*confine)(struct rpl_err *err))
{
	size_t differing = 0;

	for (size_t i = 0; i < n; i++) {
		int r = attempt_in_child(a[i].attempt, confine);

		if (r != EPERM)
			fail_msg("%s: errno %d, expected EPERM (%d)", a[i].name, r, EPERM);
	}
	for (size_t i = 0; i < n; i++)
		differing += attempt_in_child(a[i].attempt, NULL) != EPERM;
	assert_true(differing >= n / 2);
}
