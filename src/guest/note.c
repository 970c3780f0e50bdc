#include "note.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/process.h>

#define NOTE_MAGIC "rplPAUS2"

struct note_page {
	char magic[8];
	uint64_t pid, start_time;
	uint64_t paused_ns; /* 0: it is not */
};

int note_open(struct note *n, const char *run_dir, const char *name, struct rpl_err *err)
{
	RPL_AUTO_FD int fd = -1;
	void *p;

	if ((size_t)snprintf(n->path, sizeof(n->path), "%s/%s.paused", run_dir, name) >= sizeof(n->path))
		return rpl_fail(err, -ENAMETOOLONG, "note for %s: the path is too long", name);
	fd = open(n->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return rpl_fail_errno(err, errno, "open %s", n->path);
	if (ftruncate(fd, sizeof(*n->page)) < 0)
		return rpl_fail_errno(err, errno, "size %s", n->path);
	p = mmap(NULL, sizeof(*n->page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return rpl_fail_errno(err, errno, "map %s", n->path);
	n->page = p;
	return 0;
}

bool note_claim(struct note *n, pid_t pid)
{
	return n->page && note_claim_id(n, (uint64_t)pid, rpl_process_start_time(pid));
}

bool note_claim_id(struct note *n, uint64_t id, uint64_t which)
{
	struct note_page now = { .magic = NOTE_MAGIC, .pid = id, .start_time = which };

	if (!n->page)
		return false;
	if (memcmp(n->page->magic, now.magic, sizeof(now.magic)) == 0 && n->page->pid == now.pid &&
		 n->page->start_time == now.start_time)
		now.paused_ns = n->page->paused_ns;
	*n->page = now;
	return now.paused_ns != 0;
}

void note_set(struct note *n, bool paused)
{
	if (n->page && !paused)
		n->page->paused_ns = 0;
	else if (n->page && !n->page->paused_ns)
		n->page->paused_ns = rpl_now_ns();
}

uint64_t note_since(const struct note *n)
{
	return n->page ? n->page->paused_ns : 0;
}

void note_close(struct note *n, bool remove)
{
	if (!n->page)
		return;
	(void)munmap(n->page, sizeof(*n->page));
	n->page = NULL;
	if (remove)
		(void)unlink(n->path);
}
