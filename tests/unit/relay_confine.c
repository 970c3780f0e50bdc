/* What a confined relay can and cannot do: each thing is tried for real, in a child. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include <replicad/auto.h>

#include "netbuf/relayd.h"
#include "tests/lib/attempt.h"

#define MUST_NOT_EXIST "/tmp/rpl-confine-must-not-exist"

static char dir[] = "/tmp/rpl-confine-XXXXXX", path[64];

static int try_read_file(void)
{
	return attempt_met(open("/dev/null", O_RDONLY | O_CLOEXEC));
}

static int try_read_and_write(void)
{
	return attempt_met(open("/dev/null", O_RDWR | O_CLOEXEC));
}

static int try_inet(void)
{
	return attempt_met(socket(AF_INET, SOCK_STREAM, 0));
}

static int try_netlink(void)
{
	return attempt_met(socket(AF_NETLINK, SOCK_RAW, 0));
}

static int try_packet(void)
{
	return attempt_met(socket(AF_PACKET, SOCK_RAW, 0));
}

static int try_ioctl(void)
{
	int n;

	return attempt_met(ioctl(STDIN_FILENO, FIONREAD, &n));
}

static int try_rename(void)
{
	return attempt_met(rename(path, path));
}

static int try_mkdir(void)
{
	return attempt_met(mkdir(MUST_NOT_EXIST, 0700));
}

static int try_chmod(void)
{
	return attempt_met(chmod(path, 0777));
}

static int try_chown(void)
{
	return attempt_met(chown(path, 0, 0));
}

static const struct attempt forbidden[] = {
	{ "open to read", try_read_file }, { "open to read and write", try_read_and_write }, { "AF_INET", try_inet },
	{ "AF_NETLINK", try_netlink }, { "AF_PACKET", try_packet }, { "exec", attempt_exec }, { "fork", attempt_fork },
	{ "ptrace", attempt_trace }, { "signal", attempt_signal }, { "tgkill", attempt_tgkill }, { "process_vm_readv", attempt_peer_memory },
	{ "executable mmap", attempt_exec_memory }, { "unshare", attempt_namespace }, { "ioctl", try_ioctl }, { "rename", try_rename },
	{ "mkdir", try_mkdir }, { "chmod", try_chmod }, { "chown", try_chown }, { "mount", attempt_mount },
	{ "io_uring_setup", attempt_io_uring },
};

static void what_no_relay_needs_is_refused(void **state)
{
	(void)state;
	attempts_are_refused(forbidden, RPL_ARRAY_LEN(forbidden), rpl_relay_confine);
	assert_int_equal(rmdir(MUST_NOT_EXIST), 0); /* made outside */
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
	assert_int_equal(attempt_in_child(what_it_does, rpl_relay_confine), 0);
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

	attempt_parent = getpid();
	if (!mkdtemp(dir))
		return 1;
	(void)snprintf(path, sizeof(path), "%s/note", dir);
	r = cmocka_run_group_tests(tests, NULL, NULL);
	(void)rmdir(dir);
	return r;
}
