/* What a confined relay can and cannot do: each thing is tried for real, in a child. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <replicad/auto.h>

#include "netbuf/relayd.h"

static pid_t parent;
static char dir[] = "/tmp/rpl-confine-XXXXXX", path[64];

/* Each returns the errno it met, 0 if it was allowed. */
static int met(long r)
{
	return r < 0 ? errno : 0;
}

static int try_read_file(void)
{
	return met(open("/dev/null", O_RDONLY | O_CLOEXEC));
}

static int try_read_and_write(void)
{
	return met(open("/dev/null", O_RDWR | O_CLOEXEC));
}

static int try_inet(void)
{
	return met(socket(AF_INET, SOCK_STREAM, 0));
}

static int try_netlink(void)
{
	return met(socket(AF_NETLINK, SOCK_RAW, 0));
}

static int try_packet(void)
{
	return met(socket(AF_PACKET, SOCK_RAW, 0));
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

static int try_tgkill(void)
{
	return met(syscall(SYS_tgkill, parent, parent, 0));
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

static int try_namespace(void)
{
	return met(unshare(CLONE_NEWUSER));
}

static int try_ioctl(void)
{
	int n;

	return met(ioctl(STDIN_FILENO, FIONREAD, &n));
}

static int try_rename(void)
{
	return met(rename(path, path));
}

static int try_mkdir(void)
{
	return met(mkdir("/tmp/rpl-confine-must-not-exist", 0700));
}

static int try_chmod(void)
{
	return met(chmod(path, 0777));
}

static int try_chown(void)
{
	return met(chown(path, 0, 0));
}

static int try_mount(void)
{
	return met(syscall(SYS_mount, "none", "/nowhere", "tmpfs", 0, NULL));
}

static int try_io_uring(void)
{
	char params[256] = { 0 };

	return met(syscall(SYS_io_uring_setup, 1, params));
}

static const struct {
	const char *name;
	int (*attempt)(void);
} forbidden[] = {
	{ "open to read", try_read_file }, { "open to read and write", try_read_and_write }, { "AF_INET", try_inet },
	{ "AF_NETLINK", try_netlink }, { "AF_PACKET", try_packet }, { "exec", try_exec }, { "fork", try_fork },
	{ "ptrace", try_trace }, { "signal", try_signal }, { "tgkill", try_tgkill }, { "process_vm_readv", try_peer_memory },
	{ "executable mmap", try_exec_memory }, { "unshare", try_namespace }, { "ioctl", try_ioctl }, { "rename", try_rename },
	{ "mkdir", try_mkdir }, { "chmod", try_chmod }, { "chown", try_chown }, { "mount", try_mount },
	{ "io_uring_setup", try_io_uring },
};

/* Run in a child; its exit status is the answer. */
static int in_child(int (*what)(void), bool confined)
{
	int status = 0;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		struct rpl_err err;

		if (confined && rpl_relay_confine(&err) < 0) {
			(void)dprintf(STDERR_FILENO, "%s\n", err.msg);
			_exit(255);
		}
		_exit(what());
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void what_no_relay_needs_is_refused(void **state)
{
	int differing = 0;

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(forbidden); i++) {
		int r = in_child(forbidden[i].attempt, true);

		if (r != EPERM)
			fail_msg("%s: errno %d, expected EPERM (%d)", forbidden[i].name, r, EPERM);
	}
	assert_int_equal(access("/tmp/rpl-confine-must-not-exist", F_OK), -1);
	for (size_t i = 0; i < RPL_ARRAY_LEN(forbidden); i++)
		differing += in_child(forbidden[i].attempt, false) != EPERM;
	(void)rmdir("/tmp/rpl-confine-must-not-exist");
	assert_true(differing >= (int)RPL_ARRAY_LEN(forbidden) / 2); /* or the refusals prove nothing */
}

/* Connect anew, look whether a socket is another one, note that output is held, take the note away. */
static int what_it_does(void)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	struct stat st;
	int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), fd;

	(void)snprintf(sa.sun_path, sizeof(sa.sun_path), "%s/socket", dir);
	if (s < 0 || stat(sa.sun_path, &st) < 0 || connect(s, (struct sockaddr *)&sa, sizeof(sa)) < 0 || send(s, "x", 1, 0) != 1)
		return 1;
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || close(fd) < 0 || unlink(path) < 0 || close(s) < 0)
		return 2;
	return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ? 4 : 0; /* prctl itself is refused */
}

static void what_a_relay_does_it_can(void **state)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	(void)state;
	(void)snprintf(sa.sun_path, sizeof(sa.sun_path), "%s/socket", dir);
	assert_int_equal(bind(s, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(in_child(what_it_does, true), 0);
	assert_int_equal(close(s), 0);
	assert_int_equal(unlink(sa.sun_path), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_no_relay_needs_is_refused),
		cmocka_unit_test(what_a_relay_does_it_can),
	};
	int r;

	parent = getpid();
	if (!mkdtemp(dir))
		return 1;
	(void)snprintf(path, sizeof(path), "%s/note", dir);
	r = cmocka_run_group_tests(tests, NULL, NULL);
	(void)rmdir(dir);
	return r;
}
