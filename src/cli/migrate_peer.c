#include "migrate_peer.h"
#include "xl_handshake.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/io.h>

#define PIPE_BYTES (1 << 20)  /* asked for */
#define MESSAGE_MAX 64        /* bytes of a fixed message */
#define SHOWN_MAX 40          /* of what came instead */

_Static_assert(sizeof(XL_GO) <= PIPE_BUF, "it goes into the pipe as a whole or not at all");

RPL_NORETURN static void child(const char *command, int in, int out)
{
	sigset_t none;

	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)signal(SIGPIPE, SIG_DFL);
	if (dup2(in, 0) >= 0 && dup2(out, 1) >= 0)
		(void)execl("/bin/sh", "sh", "-c", command, (char *)NULL);
	dprintf(2, "cannot run the shell: %s\n", strerror(errno));
	_exit(127);
}

int migrate_peer_start(struct migrate_peer *p, const char *command, struct rpl_err *err)
{
	int in[2] = { -1, -1 }, out[2] = { -1, -1 }, r = 0;

	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0) {
		r = rpl_fail_errno(err, errno, "pipes to the far end");
	} else {
		(void)fcntl(in[1], F_SETPIPE_SZ, PIPE_BYTES);
		p->pid = fork();
		if (p->pid == 0)
			child(command, in[0], out[1]);
		if (p->pid < 0)
			r = rpl_fail_errno(err, errno, "start '%.100s'", command);
	}
	rpl_close(&in[0]);
	rpl_close(&out[1]);
	p->to = in[1];
	p->from = out[0];
	return r;
}

/* A program that speaks where only the far end should: the usual reason why a migration does not begin. */
static int unexpected(const char *got, size_t len, const char *what, struct rpl_err *err)
{
	char shown[SHOWN_MAX + 1];
	size_t n = 0;

	for (; n < len && n < SHOWN_MAX; n++)
		shown[n] = got[n] >= ' ' && got[n] < 0x7f ? got[n] : '.';
	shown[n] = '\0';
	return rpl_fail(err, -EPROTO, "waited for %s, the far end said \"%s\" instead; nothing but `xl migrate-receive` or "
			"`replicad receive` may write to the command's standard output", what, shown);
}

int migrate_peer_expect(struct migrate_peer *p, struct xen_send *s, const char *bytes, size_t len, unsigned ms,
			const char *what, struct rpl_err *err)
{
	char got[MESSAGE_MAX];
	size_t have = 0;

	rpl_assert(len <= sizeof(got));
	while (have < len) {
		int r = xen_send_await(s, p->from, ms, err);
		ssize_t n = r < 0 ? 0 : read(p->from, got + have, len - have);

		if (r < 0)
			return rpl_prefix(err, "waiting for %s", what);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return rpl_fail(err, -EPIPE, "the far end closed the connection before %s", what);
		have += (size_t)n;
		if (memcmp(got, bytes, have) != 0)
			return unexpected(got, have, what, err);
	}
	return 0;
}

int migrate_peer_say_go(struct migrate_peer *p, struct rpl_err *err)
{
	ssize_t n;

	do
		n = write(p->to, XL_GO, sizeof(XL_GO));
	while (n < 0 && errno == EINTR);
	rpl_assert(n < 0 || n == (ssize_t)sizeof(XL_GO));
	return n < 0 ? rpl_fail_errno(err, errno, "tell the far end that the domain is its own") : 0;
}

void migrate_peer_end(struct migrate_peer *p, unsigned ms)
{
	RPL_AUTO_FD int fd = p->pid > 0 ? pidfd_open(p->pid, 0) : -1;
	struct pollfd wait = { .fd = fd, .events = POLLIN };
	int status;

	rpl_close(&p->to);
	rpl_close(&p->from);
	if (p->pid <= 0)
		return;
	if (fd >= 0 && poll(&wait, 1, (int)ms) <= 0)
		(void)kill(p->pid, SIGKILL);
	while (waitpid(p->pid, &status, 0) < 0 && errno == EINTR)
		;
	p->pid = 0;
}
