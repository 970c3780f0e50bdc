/* qemu_memory.c - the RAM file and the tracker's descriptors, for the mover
 *
 * The userfaultfd is made once per QEMU by the attach helper; we keep it (and the pagemap) and re-arm it for each
 * session. The mover gets duplicates. When all of them are closed the kernel removes the registration by itself, so
 * a crash of ours leaves nothing in the guest.
 */
#include "qemu_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/io.h>
#include <replicad/log.h>

#include "uffd.h"

void qemu_disarm(struct qemu *q)
{
	struct rpl_err err;

	/* fails only if the process is gone, and its registration with it */
	if (q->armed && uffd_disarm(q->uffd, q->vaddr, q->g->info.ram_bytes, &err) < 0)
		rpl_log(RPL_LOG_DEBUG, "vm=%s reason=\"%s\"", q->g->conf.name, err.msg);
	q->armed = false;
}

/* ---- the helper */

static pid_t spawn_helper(const char *path, char *const argv[], int sock)
{
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	if (dup2(sock, STDIN_FILENO) < 0)
		_exit(126);
	(void)execv(path, argv);
	_exit(127);
}

static int wait_helper(pid_t pid, struct rpl_err *err)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return 0; /* reaped by the loop */
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		return rpl_fail(err, -ENOENT, "it could not be started");
	return 0;
}

/* Its answer; it bounds its own work well below our limit, so it is never killed in the middle. */
static int read_answer(int sock, int fds[2], struct rpl_err *err)
{
	struct pollfd p = { .fd = sock, .events = POLLIN };
	struct uffd_answer a;
	size_t n = 2;
	ssize_t len;

	if (poll(&p, 1, QEMU_HELPER_TIMEOUT_MS) <= 0)
		return rpl_fail(err, -ETIMEDOUT, "no answer within %d ms", QEMU_HELPER_TIMEOUT_MS);
	len = rpl_recv_fds(sock, &a, sizeof(a), fds, &n);
	if (len < 0)
		return rpl_fail_errno(err, (int)-len, "its answer");
	if ((size_t)len != sizeof(a) || a.magic != UFFD_ANSWER_MAGIC || (a.r == 0) != (n == 2) || a.r > 0) {
		while (n)
			(void)close(fds[--n]);
		return rpl_fail(err, -EPROTO, "it ended without an answer");
	}
	a.err.msg[sizeof(a.err.msg) - 1] = '\0';
	return a.r < 0 ? rpl_fail(err, a.r, "%s", a.err.msg) : 0;
}

static int run_helper(struct qemu *q, struct rpl_err *err)
{
	const char *path = q->g->conf.helper_path ? q->g->conf.helper_path : RPL_LIBEXECDIR "/replicad-attach";
	char pid_text[16], addr[24], bytes[24];
	char *argv[] = { (char *)(uintptr_t)"replicad-attach", pid_text, addr, bytes, NULL };
	struct rpl_err why = { 0 };
	int sv[2], fds[2] = { -1, -1 }, r;
	pid_t pid;

	(void)snprintf(pid_text, sizeof(pid_text), "%d", (int)q->pid);
	(void)snprintf(addr, sizeof(addr), "0x%" PRIx64, q->vaddr);
	(void)snprintf(bytes, sizeof(bytes), "0x%" PRIx64, q->g->info.ram_bytes);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0)
		return rpl_fail_errno(err, errno, "attach helper: socketpair");
	pid = spawn_helper(path, argv, sv[1]);
	(void)close(sv[1]);
	if (pid < 0) {
		(void)close(sv[0]);
		return rpl_fail_errno(err, errno, "attach helper: fork");
	}
	r = read_answer(sv[0], fds, &why);
	(void)close(sv[0]);
	if (r != -ETIMEDOUT && wait_helper(pid, &why) < 0)
		r = why.code;
	if (r < 0)
		return rpl_fail(err, r, "%s: %.180s", path, why.msg);
	q->uffd = fds[0];
	q->pagemap = fds[1];
	return 0;
}

/* ---- trackers */

static int choose(const char *tracker, uint32_t *ret_kind, struct rpl_err *err)
{
	if (!tracker || strcmp(tracker, "auto") == 0)
		*ret_kind = uffd_kernel_can() ? RPL_MEMORY_UFFD : RPL_MEMORY_COMPARE;
	else if (strcmp(tracker, "uffd") == 0)
		*ret_kind = RPL_MEMORY_UFFD;
	else if (strcmp(tracker, "compare") == 0)
		*ret_kind = RPL_MEMORY_COMPARE;
	else
		return rpl_fail(err, -EINVAL, "tracker '%.20s': auto, uffd and compare are possible", tracker);
	return 0;
}

static int arm(struct qemu *q, struct rpl_err *err)
{
	int r = 0;

	qemu_disarm(q);
	if (q->uffd < 0)
		r = run_helper(q, err); /* registers too, to clear away what an earlier one left */
	if (r == 0)
		r = uffd_arm(q->uffd, q->pagemap, q->vaddr, q->g->info.ram_bytes, err);
	q->armed = r == 0;
	return r;
}

static int add_dup(int fd, int *fds, size_t *n, struct rpl_err *err)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);

	if (copy < 0)
		return rpl_fail_errno(err, errno, "duplicate a tracker's descriptor");
	fds[(*n)++] = copy;
	return 0;
}

static int gather(struct qemu *q, struct rpl_memory_desc *d, int *fds, size_t *n, struct rpl_err *err)
{
	int r, ram;

	r = procmem_find_ram(q->pid, q->ram.path, q->g->info.ram_bytes, &q->vaddr, &ram, err);
	if (r < 0)
		return r;
	fds[(*n)++] = ram;
	d->layout = q->g->info.layout;
	d->vaddr = q->vaddr;
	d->audit = q->g->conf.audit;
	if (q->g->phase == RPL_GP_STANDBY) {
		d->kind = RPL_MEMORY_REPLICA;
		return 0;
	}
	r = choose(q->g->conf.tracker, &d->kind, err);
	if (r < 0 || d->kind == RPL_MEMORY_COMPARE)
		return r;
	r = arm(q, err);
	if (r == 0)
		r = add_dup(q->uffd, fds, n, err);
	if (r == 0)
		r = add_dup(q->pagemap, fds, n, err);
	return r;
}

int qemu_memory(struct rpl_guest *g, struct rpl_memory_desc *ret, int *fds, size_t *ret_n, struct rpl_err *err)
{
	size_t n = 0;
	struct qemu *q = qemu_of(g);
	int r = gather(q, ret, fds, &n, err);

	q->watched_ns = q->sections = 0; /* a session begins: are the devices still those that were compared? */

	if (r < 0) {
		while (n)
			(void)close(fds[--n]);
		return rpl_prefix(err, "%s: memory", g->conf.name);
	}
	*ret_n = n;
	return 0;
}
