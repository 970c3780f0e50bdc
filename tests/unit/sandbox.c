/* What a process in the mover's sandbox can and cannot do: each forbidden thing is tried for real, in a child. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
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
#include "tests/lib/attempt.h"

#define MUST_NOT_EXIST "/tmp/rpl-sandbox-must-not-exist"

static int inherited[2]; /* a connected pair, as the mover's descriptors are */

static int try_open(void)
{
	return attempt_met(open("/dev/null", O_RDONLY | O_CLOEXEC));
}

static int try_create(void)
{
	return attempt_met(open(MUST_NOT_EXIST, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
}

static int try_unlink(void)
{
	return attempt_met(unlink(MUST_NOT_EXIST));
}

static int try_socket(void)
{
	return attempt_met(socket(AF_INET, SOCK_STREAM, 0));
}

static int try_connect(void)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX, .sun_path = "/nowhere" };

	return attempt_met(connect(inherited[0], (struct sockaddr *)&sa, sizeof(sa)));
}

static int try_bind(void)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };

	return attempt_met(bind(inherited[0], (struct sockaddr *)&sa, sizeof(sa.sun_family)));
}

static int try_exec_protection(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return attempt_met(mprotect(p, 4096, PROT_READ | PROT_EXEC));
}

static int try_ioctl(void)
{
	int n;

	return attempt_met(ioctl(inherited[0], FIONREAD, &n));
}

static int try_memfd(void)
{
	return attempt_met(memfd_create("x", MFD_CLOEXEC));
}

static int try_openat2(void)
{
	uint64_t how[3] = { O_RDONLY, 0, 0 };

	return attempt_met(syscall(SYS_openat2, AT_FDCWD, "/dev/null", how, sizeof(how)));
}

static int try_execveat(void)
{
	char *const argv[] = { NULL };

	return attempt_met(syscall(SYS_execveat, AT_FDCWD, "/bin/true", argv, argv, 0));
}

static int try_open_by_handle(void)
{
	struct file_handle h = { .handle_bytes = 0 };

	return attempt_met(syscall(SYS_open_by_handle_at, inherited[0], &h, O_RDONLY));
}

static int try_pidfd(void)
{
	return attempt_met(syscall(SYS_pidfd_open, attempt_parent, 0));
}

static int try_write_memory(void)
{
	char c = 0;
	struct iovec here = { &c, 1 }, there = { &c, 1 };

	return attempt_met(process_vm_writev(attempt_parent, &here, 1, &there, 1, 0));
}

static int try_userfaultfd(void)
{
	return attempt_met(syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* UFFD_USER_MODE_ONLY */));
}

static int try_chroot(void)
{
	return attempt_met(chroot("."));
}

static int try_keys(void)
{
	return attempt_met(syscall(SYS_keyctl, 0 /* KEYCTL_GET_KEYRING_ID */, -3, 0));
}

static int try_dumpable(void)
{
	return attempt_met(prctl(PR_SET_DUMPABLE, 1));
}

static int try_socketpair(void)
{
	int sv[2];

	return attempt_met(socketpair(AF_UNIX, SOCK_STREAM, 0, sv));
}

static int try_setuid(void)
{
	return attempt_met(setuid(12345));
}

static int try_bpf(void)
{
	return attempt_met(syscall(SYS_bpf, 0, NULL, 0));
}

static const struct attempt forbidden[] = {
	{ "open", try_open }, { "create", try_create }, { "unlink", try_unlink }, { "socket", try_socket },
	{ "connect", try_connect }, { "bind", try_bind }, { "exec", attempt_exec }, { "fork", attempt_fork }, { "ptrace", attempt_trace },
	{ "signal", attempt_signal }, { "process_vm_readv", attempt_peer_memory }, { "executable mmap", attempt_exec_memory },
	{ "executable mprotect", try_exec_protection }, { "unshare", attempt_namespace }, { "ioctl", try_ioctl },
	{ "memfd_create", try_memfd }, { "setuid", try_setuid }, { "bpf", try_bpf },
	{ "openat2", try_openat2 }, { "execveat", try_execveat }, { "open_by_handle_at", try_open_by_handle },
	{ "pidfd_open", try_pidfd }, { "tgkill", attempt_tgkill }, { "process_vm_writev", try_write_memory },
	{ "io_uring_setup", attempt_io_uring }, { "userfaultfd", try_userfaultfd }, { "mount", attempt_mount }, { "chroot", try_chroot },
	{ "keyctl", try_keys }, { "prctl", try_dumpable }, { "socketpair", try_socketpair },
};

static int enter(struct rpl_err *err)
{
	return sandbox_enter(0, 0, err);
}

static void what_reaches_beyond_its_descriptors_is_refused(void **state)
{
	(void)state;
	attempts_are_refused(forbidden, RPL_ARRAY_LEN(forbidden), enter);
	assert_int_equal(access(MUST_NOT_EXIST, F_OK), -1);
}

/* The layers below the filter, each alone: without it a path still leads nowhere. */
static int paths_lead_nowhere(void)
{
	struct rpl_err err;

	if (sandbox_leave_paths(&err) < 0) {
		(void)dprintf(STDERR_FILENO, "%s\n", err.msg);
		return 1;
	}
	if (try_open() == 0 || try_create() == 0 || open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) >= 0 || attempt_exec() == 0)
		return 2;
	return mkdir("x", 0700) == 0 || open("/proc/self/status", O_RDONLY | O_CLOEXEC) >= 0 ? 3 : 0;
}

static void an_empty_root_holds_nothing(void **state)
{
	(void)state;
	if (geteuid() != 0)
		skip();
	assert_int_equal(attempt_in_child(paths_lead_nowhere, NULL), 0);
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
	assert_int_equal(attempt_in_child(geteuid() == 0 ? as_nobody : paths_lead_nowhere, NULL), 0);
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
	assert_int_equal(attempt_in_child(work, enter), 0);
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

static int enter_as_nobody(struct rpl_err *err)
{
	return sandbox_enter(65534, 65534, err);
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
	assert_int_equal(attempt_in_child(is_nobody, enter_as_nobody), 0);
}

static int set_up(void **state)
{
	(void)state;
	attempt_parent = getpid();
	return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, inherited);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_reaches_beyond_its_descriptors_is_refused),
		cmocka_unit_test(an_empty_root_holds_nothing),
		cmocka_unit_test(landlock_alone_denies_paths),
		cmocka_unit_test(its_work_goes_on),
		cmocka_unit_test(no_capability_is_left),
		cmocka_unit_test(it_becomes_the_user_that_was_named),
	};

	return cmocka_run_group_tests(tests, set_up, NULL);
}
