#include <replicad/trace.h>

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/clock.h>

#define TRACE_VERSION 1u

struct trace_header {
	char magic[8]; /* "RPLTRACE" */
	uint32_t version, record_size, capacity, steps;
	uint8_t reserved[40];
};

struct trace_record {
	uint64_t epoch; /* 0: empty */
	uint64_t pages;
	uint64_t ns[RPL_TRACE_NSTEPS]; /* CLOCK_MONOTONIC; 0: not yet */
};

_Static_assert(sizeof(struct trace_header) == 64, "replicad-trace(7): the header has 64 bytes");
_Static_assert(sizeof(struct trace_record) == 112, "replicad-trace(7): a record has 112 bytes");

struct trace_file {
	struct trace_header header;
	struct trace_record record[RPL_TRACE_EPOCHS];
};

struct rpl_trace {
	struct trace_file *file;
};

static const struct trace_header header = {
	.magic = { 'R', 'P', 'L', 'T', 'R', 'A', 'C', 'E' },
	.version = TRACE_VERSION,
	.record_size = sizeof(struct trace_record),
	.capacity = RPL_TRACE_EPOCHS,
	.steps = RPL_TRACE_NSTEPS,
};

/* Of a new file; NULL on failure. */
static struct trace_file *map_new(const char *path, struct rpl_err *err)
{
	RPL_AUTO_FD int fd = -1;
	struct trace_file *file;
	int r;

	(void)unlink(path);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	/* allocated in full: a store to a hole of a full tmpfs would be a SIGBUS in the pause */
	r = fd < 0 ? errno : posix_fallocate(fd, 0, sizeof(*file));
	if (r) {
		(void)rpl_fail_errno(err, r, "trace %s: create with %zu bytes", path, sizeof(*file));
		return NULL;
	}
	file = mmap(NULL, sizeof(*file), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (file == MAP_FAILED) {
		(void)rpl_fail_errno(err, errno, "trace %s: map", path);
		return NULL;
	}
	file->header = header;
	return file;
}

/* A new file each time: a reader of the old one keeps what it had. It gets its name when its header is there, so that who
 * reads at any time finds a trace, the old one or the new. */
struct rpl_trace *rpl_trace_open(const char *path, struct rpl_err *err)
{
	struct rpl_trace *t = calloc(1, sizeof(*t));
	RPL_AUTO_FREE char *beside = NULL;

	if (!t || asprintf(&beside, "%s.new", path) < 0) {
		(void)rpl_fail(err, -ENOMEM, "trace %s: no memory", path);
		free(t);
		return NULL;
	}
	t->file = map_new(beside, err);
	if (t->file && rename(beside, path) < 0) {
		(void)rpl_fail_errno(err, errno, "trace %s: replace it", path);
		(void)munmap(t->file, sizeof(*t->file));
		t->file = NULL;
	}
	if (!t->file) {
		(void)unlink(beside);
		free(t);
		return NULL;
	}
	return t;
}

/* The epoch's record; a reader that comes between sees an empty one, never another epoch's times. */
static struct trace_record *record_of(struct rpl_trace *t, uint64_t epoch)
{
	struct trace_record *r = &t->file->record[epoch % RPL_TRACE_EPOCHS];

	if (r->epoch != epoch) {
		r->epoch = 0;
		atomic_signal_fence(memory_order_seq_cst);
		r->pages = 0;
		memset(r->ns, 0, sizeof(r->ns));
		atomic_signal_fence(memory_order_seq_cst);
		r->epoch = epoch;
	}
	return r;
}

void rpl_trace_mark(struct rpl_trace *t, uint64_t epoch, enum rpl_trace_step step)
{
	rpl_trace_mark_at(t, epoch, step, rpl_now_ns());
}

void rpl_trace_mark_at(struct rpl_trace *t, uint64_t epoch, enum rpl_trace_step step, uint64_t ns)
{
	rpl_assert(step < RPL_TRACE_NSTEPS);
	if (t && epoch)
		record_of(t, epoch)->ns[step] = ns;
}

void rpl_trace_pages(struct rpl_trace *t, uint64_t epoch, uint64_t pages)
{
	struct trace_record *r;

	if (!t || !epoch)
		return;
	r = &t->file->record[epoch % RPL_TRACE_EPOCHS];
	if (r->epoch == epoch)
		r->pages = pages;
}

void rpl_trace_close(struct rpl_trace *t)
{
	if (!t)
		return;
	(void)munmap(t->file, sizeof(*t->file));
	free(t);
}
