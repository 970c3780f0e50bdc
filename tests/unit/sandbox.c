/* What a process in the mover's sandbox can and cannot do: each forbidden thing is tried for real, in a child. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <replicad/auto.h>
#include <replicad/clock.h>

#include "src/engine/sandbox.h"

static int inherited[2]; /* a connected pair, as the mover's descriptors are */
static pid_t parent;

/* Each returns the errno it met, 0 if it was allowed. */
static int met(long r)
{
	return r < 0 ? errno : 0;
}

static int try_open(void)
{
	return met(open("/dev/null", O_RDONLY | O_CLOEXEC));
}

static int try_create(void)
{
	return met(open("/tmp/rpl-sandbox-must-not-exist", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
}

static int try_unlink(void)
{
	return met(unlink("/tmp/rpl-sandbox-must-not-exist"));
}

static int try_socket(void)
{
	return met(socket(AF_INET, SOCK_STREAM, 0));
}

static int try_connect(void)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX, .sun_path = "/nowhere" };

	return met(connect(inherited[0], (struct sockaddr *)&sa, sizeof(sa)));
}

static int try_bind(void)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };

	return met(bind(inherited[0], (struct sockaddr *)&sa, sizeof(sa.sun_family)));
}

static int try_exec(void)
{
	return met(execl("/bin/true", "true", (char *)NULL));
}

static int try_fork(void)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	return met(pid);
}

static int try_trace(void)
{
	return met(ptrace(PTRACE_SEIZE, parent, NULL, NULL));
}

static int try_signal(void)
{
	return met(kill(parent, 0));
}

static int try_peer_memory(void)
{
	char c;
	struct iovec here = { &c, 1 }, there = { &parent, 1 };

	return met(process_vm_readv(parent, &here, 1, &there, 1, 0));
}

static int try_exec_memory(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? errno : 0;
}

static int try_exec_protection(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return met(mprotect(p, 4096, PROT_READ | PROT_EXEC));
}

static int try_namespace(void)
{
	return met(unshare(CLONE_NEWUSER));
}

static int try_ioctl(void)
{
	int n;

	return met(ioctl(inherited[0], FIONREAD, &n));
}

static int try_memfd(void)
{
	return met(memfd_create("x", MFD_CLOEXEC));
}

static int try_openat2(void)
{
	uint64_t how[3] = { O_RDONLY, 0, 0 };

	return met(syscall(SYS_openat2, AT_FDCWD, "/dev/null", how, sizeof(how)));
}

static int try_execveat(void)
{
	char *const argv[] = { NULL };

	return met(syscall(SYS_execveat, AT_FDCWD, "/bin/true", argv, argv, 0));
}

static int try_open_by_handle(void)
{
	struct file_handle h = { .handle_bytes = 0 };

	return met(syscall(SYS_open_by_handle_at, inherited[0], &h, O_RDONLY));
}

static int try_pidfd(void)
{
	return met(syscall(SYS_pidfd_open, parent, 0));
}

static int try_tgkill(void)
{
	return met(syscall(SYS_tgkill, parent, parent, 0));
}

static int try_write_memory(void)
{
	char c = 0;
	struct iovec here = { &c, 1 }, there = { &c, 1 };

	return met(process_vm_writev(parent, &here, 1, &there, 1, 0));
}

static int try_io_uring(void)
{
	char params[256] = { 0 };

	return met(syscall(SYS_io_uring_setup, 1, params));
}

static int try_userfaultfd(void)
{
	return met(syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* UFFD_USER_MODE_ONLY */));
}

static int try_mount(void)
{
	return met(syscall(SYS_mount, "none", "/nowhere", "tmpfs", 0, NULL)); /* nor outside: it is not there */
}

static int try_chroot(void)
{
	return met(chroot("."));
}

static int try_keys(void)
{
	return met(syscall(SYS_keyctl, 0 /* KEYCTL_GET_KEYRING_ID */, -3, 0));
}

static int try_dumpable(void)
{
	return met(prctl(PR_SET_DUMPABLE, 1));
}

static int try_socketpair(void)
{
	int sv[2];

	return met(socketpair(AF_UNIX, SOCK_STREAM, 0, sv));
}

static int try_setuid(void)
{
	return met(setuid(12345));
}

static int try_bpf(void)
{
	return met(syscall(SYS_bpf, 0, NULL, 0));
}

static const struct {
	const char *name;
	int (*attempt)(void);
} forbidden[] = {
	{ "open", try_open }, { "create", try_create }, { "unlink", try_unlink }, { "socket", try_socket },
	{ "connect", try_connect }, { "bind", try_bind }, { "exec", try_exec }, { "fork", try_fork }, { "ptrace", try_trace },
	{ "signal", try_signal }, { "process_vm_readv", try_peer_memory }, { "executable mmap", try_exec_memory },
	{ "executable mprotect", try_exec_protection }, { "unshare", try_namespace }, { "ioctl", try_ioctl },
	{ "memfd_create", try_memfd }, { "setuid", try_setuid }, { "bpf", try_bpf },
	{ "openat2", try_openat2 }, { "execveat", try_execveat }, { "open_by_handle_at", try_open_by_handle },
	{ "pidfd_open", try_pidfd }, { "tgkill", try_tgkill }, { "process_vm_writev", try_write_memory },
	{ "io_uring_setup", try_io_uring }, { "userfaultfd", try_userfaultfd }, { "mount", try_mount }, { "chroot", try_chroot },
	{ "keyctl", try_keys }, { "prctl", try_dumpable }, { "socketpair", try_socketpair },
};

/* Run in a child; its exit status is the answer. */
static int in_sandbox(int (*what)(void), uint32_t uid, uint32_t gid)
{
	int status = 0;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		struct rpl_err err;

		if (sandbox_enter(uid, gid, &err) < 0) {
			(void)dprintf(STDERR_FILENO, "%s\n", err.msg);
			_exit(255);
		}
		_exit(what());
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void what_reaches_beyond_its_descriptors_is_refused(void **state)
{
	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(forbidden); i++) {
		int r = in_sandbox(forbidden[i].attempt, 0, 0);

		if (r != EPERM)
			fail_msg("%s: errno %d, expected EPERM (%d)", forbidden[i].name, r, EPERM);
	}
	assert_int_equal(access("/tmp/rpl-sandbox-must-not-exist", F_OK), -1);
}

/* The same attempts do something else outside, or the test above would prove nothing. */
static void outside_they_are_not_refused_alike(void **state)
{
	int differing = 0;

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(forbidden); i++) {
		int status = 0;
		pid_t pid = fork();

		if (pid == 0)
			_exit(forbidden[i].attempt());
		assert_int_equal(waitpid(pid, &status, 0), pid);
		differing += !(WIFEXITED(status) && WEXITSTATUS(status) == EPERM);
	}
	(void)unlink("/tmp/rpl-sandbox-must-not-exist");
	assert_true(differing >= (int)RPL_ARRAY_LEN(forbidden) / 2);
}

/* The layers below the filter, each alone: without it a path still leads nowhere. */
static int paths_lead_nowhere(void)
{
	struct rpl_err err;

	if (sandbox_leave_paths(&err) < 0) {
		(void)dprintf(STDERR_FILENO, "%s\n", err.msg);
		return 1;
	}
	if (try_open() == 0 || try_create() == 0 || open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) >= 0 || try_exec() == 0)
		return 2;
	return mkdir("x", 0700) == 0 || open("/proc/self/status", O_RDONLY | O_CLOEXEC) >= 0 ? 3 : 0;
}

static int exit_of(int (*what)(void))
{
	int status = 0;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0)
		_exit(what());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void an_empty_root_holds_nothing(void **state)
{
	(void)state;
	if (geteuid() != 0)
		skip();
	assert_int_equal(exit_of(paths_lead_nowhere), 0);
}

static int as_nobody(void)
{
	return setgid(65534) < 0 || setuid(65534) < 0 ? 9 : paths_lead_nowhere();
}

static void landlock_alone_denies_paths(void **state)
{
	(void)state;
	if (syscall(444 /* landlock_create_ruleset */, NULL, 0, 1) < 1)
		skip();
	assert_int_equal(exit_of(geteuid() == 0 ? as_nobody : paths_lead_nowhere), 0);
}

static int work(void)
{
	static char bytes[4096];
	uint8_t random[16];
	void *p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || munmap(p, 1 << 20) < 0 || rpl_now_ns() == 0)
		return 1;
	if (write(inherited[0], bytes, 100) != 100 || read(inherited[1], bytes, sizeof(bytes)) != 100)
		return 2;
	if (syscall(SYS_getrandom, random, sizeof(random), 0) != sizeof(random))
		return 3;
	free(malloc(1 << 24));
	return 0;
}

static void its_work_goes_on(void **state)
{
	(void)state;
	assert_int_equal(in_sandbox(work, 0, 0), 0);
}

/* /proc cannot be opened inside: look at the child from here. */
static void no_capability_is_left(void **state)
{
	int pipefd[2], status;
	char path[64], line[256], c = 0;
	bool seen = false, nnp = false;
	FILE *f;
	pid_t pid;

	(void)state;
	assert_int_equal(pipe(pipefd), 0);
	pid = fork();
	if (pid == 0) {
		struct rpl_err err;

		if (sandbox_enter(0, 0, &err) < 0)
			_exit(255);
		_exit(write(pipefd[1], "x", 1) != 1 || read(inherited[1], &c, 1) != 1);
	}
	assert_int_equal(read(pipefd[0], &c, 1), 1);
	(void)snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	f = fopen(path, "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		if (strncmp(line, "CapEff:", 7) == 0 || strncmp(line, "CapPrm:", 7) == 0 || strncmp(line, "CapInh:", 7) == 0) {
			assert_int_equal(strtoull(line + 7, NULL, 16), 0);
			seen = true;
		}
		nnp = nnp || strcmp(line, "NoNewPrivs:\t1\n") == 0;
		if (strncmp(line, "Seccomp:", 8) == 0)
			assert_int_equal(atoi(line + 8), 2);
	}
	(void)fclose(f);
	assert_true(seen && nnp);
	assert_int_equal(write(inherited[0], "x", 1), 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	(void)close(pipefd[0]);
	(void)close(pipefd[1]);
}

static int is_nobody(void)
{
	/* getuid() is not among the calls that a mover needs, and so is refused: ask the credentials of a message. */
	struct ucred cred = { 0 };
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(struct ucred))];
	} control;
	char c = 'x';
	struct iovec iov = { &c, 1 };
	struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf,
			     .msg_controllen = sizeof(control.buf) };

	if (send(inherited[0], &c, 1, 0) != 1 || recvmsg(inherited[1], &mh, 0) != 1 || !CMSG_FIRSTHDR(&mh))
		return 1;
	memcpy(&cred, CMSG_DATA(CMSG_FIRSTHDR(&mh)), sizeof(cred));
	return cred.uid == 65534 && cred.gid == 65534 ? 0 : 2;
}

static void it_becomes_the_user_that_was_named(void **state)
{
	int on = 1;

	(void)state;
	if (getuid() != 0)
		skip();
	assert_int_equal(setsockopt(inherited[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)), 0);
	assert_int_equal(in_sandbox(is_nobody, 65534, 65534), 0);
}

static int set_up(void **state)
{
	(void)state;
	parent = getpid();
	return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, inherited);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_reaches_beyond_its_descriptors_is_refused),
		cmocka_unit_test(outside_they_are_not_refused_alike),
		cmocka_unit_test(an_empty_root_holds_nothing),
		cmocka_unit_test(landlock_alone_denies_paths),
		cmocka_unit_test(its_work_goes_on),
		cmocka_unit_test(no_capability_is_left),
		cmocka_unit_test(it_becomes_the_user_that_was_named),
	};

	return cmocka_run_group_tests(tests, set_up, NULL);
}
