/* attach_main.c - replicad-attach PID ADDRESS BYTES: track the writes to a process's memory
 *
 * Short-lived, and the only part that needs ptrace. Makes one userfaultfd in the process (it is the process's memory
 * that is tracked), takes it over with pidfd_getfd and closes it there, registers the range for asynchronous write
 * protection, and answers on standard input (a SOCK_SEQPACKET socket) with struct uffd_answer and two descriptors:
 * the userfaultfd and the process's pagemap. A registration that an earlier tracker left in the process is removed.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/io.h>

#include "inject.h"
#include "uapi_pagemap.h"
#include "uffd.h"

struct target {
	pid_t pid;
	uint64_t vaddr, bytes;
	int pidfd, uffd, pagemap;
};

/* Make it there; without privilege the kernel grants one for faults from user mode only, which is no loss: with
 * asynchronous protection no fault is ever handed to us. */
static int make_uffd(struct inject *in, int64_t *ret, struct rpl_err *err)
{
	uint64_t arg[3] = { O_CLOEXEC | O_NONBLOCK, 0, 0 };
	int r = inject_syscall(in, SYS_userfaultfd, arg, ret, err);

	if (r == 0 && *ret == -EPERM) {
		arg[0] |= UFFD_USER_MODE_ONLY;
		r = inject_syscall(in, SYS_userfaultfd, arg, ret, err);
	}
	if (r == 0 && *ret < 0)
		r = rpl_fail_errno(err, (int)-*ret, "userfaultfd in process %d (or use tracker=compare)", (int)in->pid);
	return r;
}

static int take_uffd(struct target *t, struct inject *in, struct rpl_err *err)
{
	uint64_t arg[3] = { 0 };
	int64_t fd = -1, closed;
	int r = make_uffd(in, &fd, err);

	if (r < 0)
		return r;
	t->uffd = pidfd_getfd(t->pidfd, (int)fd, 0);
	if (t->uffd < 0)
		r = rpl_fail_errno(err, errno, "take userfaultfd %d of process %d", (int)fd, (int)t->pid);
	arg[0] = (uint64_t)fd;
	if (inject_syscall(in, SYS_close, arg, &closed, r < 0 ? NULL : err) < 0 && r == 0)
		r = err->code;
	return r;
}

/* Unregister the range from every userfaultfd that the process itself holds: one of ours whose helper died early. */
static void clear_old(struct target *t)
{
	char dir[64], path[384], what[64];
	struct dirent *e;
	DIR *d;

	(void)snprintf(dir, sizeof(dir), "/proc/%d/fd", (int)t->pid);
	d = opendir(dir);
	while (d && (e = readdir(d)) != NULL) {
		ssize_t n;
		int fd;

		(void)snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		n = readlink(path, what, sizeof(what) - 1);
		if (n < 0)
			continue;
		what[n] = '\0';
		if (strcmp(what, "anon_inode:[userfaultfd]") != 0)
			continue;
		fd = pidfd_getfd(t->pidfd, atoi(e->d_name), 0);
		if (fd >= 0) {
			(void)uffd_disarm(fd, t->vaddr, t->bytes, NULL);
			(void)close(fd);
		}
	}
	if (d)
		(void)closedir(d);
}

static int track(struct target *t, struct rpl_err *err)
{
	char path[64];
	int r;

	(void)snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)t->pid);
	t->pagemap = open(path, O_RDONLY | O_CLOEXEC);
	if (t->pagemap < 0)
		return rpl_fail_errno(err, errno, "open %s", path);
	r = uffd_api(t->uffd, err);
	if (r == 0)
		r = uffd_register(t->uffd, t->vaddr, t->bytes, err);
	if (r != -EBUSY)
		return r;
	clear_old(t);
	r = uffd_register(t->uffd, t->vaddr, t->bytes, err);
	if (r == -EBUSY)
		return rpl_fail(err, r, "another program tracks the memory of process %d: is a second replicad protecting this guest?",
				(int)t->pid);
	return r;
}

static int attach(struct target *t, struct rpl_err *err)
{
	struct inject in;
	int r;

	if (!uffd_kernel_can())
		return rpl_fail(err, -EOPNOTSUPP, "the kernel has no PAGEMAP_SCAN (Linux 6.7 has it): use tracker=compare");
	t->pidfd = pidfd_open(t->pid, 0);
	if (t->pidfd < 0)
		return rpl_fail_errno(err, errno, "open process %d", (int)t->pid);
	r = inject_begin(&in, t->pid, err);
	if (r < 0)
		return r;
	r = take_uffd(t, &in, err);
	inject_end(&in);
	return r < 0 ? r : track(t, err);
}

/* Nothing but SIGKILL may end us while a process runs on our registers. */
static void block_signals(void)
{
	sigset_t all;

	sigfillset(&all);
	(void)sigprocmask(SIG_SETMASK, &all, NULL);
}

int main(int argc, char **argv)
{
	struct target t = { .pidfd = -1, .uffd = -1, .pagemap = -1 };
	struct uffd_answer a = { .magic = UFFD_ANSWER_MAGIC };
	int fds[2], r;

	if (argc != 4) {
		(void)fprintf(stderr, "usage: replicad-attach PID ADDRESS BYTES   (started by replicad, with a socket as standard input)\n");
		return 2;
	}
	t.pid = atoi(argv[1]);
	t.vaddr = strtoull(argv[2], NULL, 0);
	t.bytes = strtoull(argv[3], NULL, 0);
	block_signals();
	a.r = attach(&t, &a.err);
	fds[0] = t.uffd;
	fds[1] = t.pagemap;
	r = rpl_send_fds(STDIN_FILENO, &a, sizeof(a), fds, a.r == 0 ? 2 : 0);
	return a.r == 0 && r == 0 ? 0 : 1;
}
