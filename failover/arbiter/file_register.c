#include "file_register.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/io.h>

#include "record_text.h"

#define LOCK_POLL_NS 1000000 /* a blocking flock could not be given up */

static void unknown(struct rpl_register_answer *a)
{
	a->outcome = RPL_ARBITER_UNKNOWN;
	a->has_record = false;
	if (a->err.code >= 0)
		(void)rpl_fail(&a->err, -EIO, "arbiter file: no reason known");
}

static void known(struct rpl_register_answer *a, enum rpl_arbiter_outcome outcome, const struct rpl_record *record)
{
	*a = (struct rpl_register_answer){ .outcome = outcome, .has_record = record != NULL };
	if (record)
		a->record = *record;
}

/* The directory itself must be there already: made here, a mistyped or unmounted one would look like a register without
 * records, and two nodes would each create "the first". What is below it is ours. */
static int open_register(const char *dir, const char *sub, struct rpl_err *err)
{
	struct stat st;
	int fd, r;

	if (stat(dir, &st) < 0)
		return rpl_fail_errno(err, errno, "arbiter file: directory %s, which both nodes must reach (arbiter_location)", dir);
	r = rpl_mkdir_p(sub, 0700, err);
	if (r < 0)
		return r;
	fd = open(sub, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return rpl_fail_errno(err, errno, "arbiter file: open %s", sub);
	return fd;
}

static int lock_register(int fd, const char *sub, bool (*abandoned)(void *arg), void *arg, struct rpl_err *err)
{
	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		const struct timespec pause = { .tv_nsec = LOCK_POLL_NS };

		if (errno != EWOULDBLOCK && errno != EINTR)
			return rpl_fail_errno(err, errno, "arbiter file: lock %s", sub);
		if (abandoned(arg))
			break;
		(void)nanosleep(&pause, NULL);
	}
	if (abandoned(arg))
		return rpl_fail(err, -ETIMEDOUT, "arbiter file: %s is locked by another process for too long", sub);
	return 0;
}

/* 0 and *ret, -ENOENT when there is none, or another error. */
static int read_record(int dirfd, const char *path, const struct rpl_uuid *vm, struct rpl_record *ret,
		       struct rpl_err *err)
{
	RPL_AUTO_FREE char *text = NULL;
	struct rpl_record got;
	size_t len;
	int r;

	/* What is read here may be acted on, so it must survive a power cut, also if its writer died before its own
	 * fsync of the directory. */
	if (fsync(dirfd) < 0)
		return rpl_fail_errno(err, errno, "arbiter file: sync the directory of %s", path);
	r = rpl_read_file(path, RPL_RECORD_TEXT_MAX, &text, &len, err);
	if (r < 0)
		return r;
	r = rpl_record_decode(text, len, &got, err);
	if (r < 0)
		return rpl_prefix(err, "arbiter file %s", path);
	if (!rpl_uuid_equal(&got.vm, vm)) {
		char has[RPL_UUID_TEXT];

		return rpl_fail(err, -EBADMSG, "arbiter file %s: holds the record of %s", path,
				rpl_uuid_text(&got.vm, has));
	}
	*ret = got;
	return 0;
}

static void swap(const char *path, const struct rpl_arbiter_ask *ask, bool present, const struct rpl_record *now,
		 struct rpl_register_answer *a)
{
	char text[RPL_RECORD_TEXT_MAX];
	int len;

	if (present && (ask->absent || !rpl_record_equal(now, &ask->expect))) {
		known(a, RPL_ARBITER_REFUSED, now);
		return;
	}
	if (!present && !ask->absent) {
		(void)rpl_fail(&a->err, -ENOENT, "arbiter file %s: is gone, although generation %llu was expected: was it "
			       "removed by hand?", path, (unsigned long long)ask->expect.generation);
		unknown(a);
		return;
	}
	len = rpl_record_encode(&ask->want, text, &a->err);
	if (len < 0 || rpl_write_file_durably(path, text, (size_t)len, 0600, &a->err) < 0) {
		unknown(a);
		return;
	}
	known(a, RPL_ARBITER_OK, &ask->want);
}

/* The peer's word about its own record: the greater generation is the later one. */
static void learn(const char *path, const struct rpl_arbiter_ask *ask, bool present, const struct rpl_record *now,
		  struct rpl_register_answer *a)
{
	uint64_t here = present ? now->generation : 0;
	char text[RPL_RECORD_TEXT_MAX];
	int len;

	if (present && now->generation >= ask->want.generation) {
		known(a, RPL_ARBITER_OK, now);
		return;
	}
	if (ask->want.generation - here > RPL_GENERATION_LEAP_MAX) {
		(void)rpl_fail(&a->err, -ERANGE, "arbiter manual: %.63s says that its record is of generation %llu, and here it is of "
			       "%llu: so many changes cannot have been missed, so it is not believed", ask->want.owner,
			       (unsigned long long)ask->want.generation, (unsigned long long)here);
		unknown(a);
		return;
	}
	len = rpl_record_encode(&ask->want, text, &a->err);
	if (len < 0 || rpl_write_file_durably(path, text, (size_t)len, 0600, &a->err) < 0)
		unknown(a);
	else
		known(a, RPL_ARBITER_OK, &ask->want);
}

void rpl_register_run(const char *dir, const char *cluster, const struct rpl_arbiter_ask *ask,
		      bool (*abandoned)(void *arg), void *arg, struct rpl_register_answer *ret)
{
	RPL_AUTO_FD int fd = -1; /* closing it releases the lock */
	char sub[PATH_MAX], path[PATH_MAX + RPL_UUID_TEXT + 1], vm[RPL_UUID_TEXT];
	struct rpl_record now;
	int r;

	*ret = (struct rpl_register_answer){ .outcome = RPL_ARBITER_UNKNOWN };
	if ((size_t)snprintf(sub, sizeof(sub), "%s/replicad/%s", dir, cluster) >= sizeof(sub)) {
		(void)rpl_fail(&ret->err, -ENAMETOOLONG, "arbiter file: directory '%.100s...' is too long", dir);
		return;
	}
	(void)snprintf(path, sizeof(path), "%s/%s", sub, rpl_uuid_text(&ask->vm, vm));
	fd = open_register(dir, sub, &ret->err);
	if (fd < 0 || lock_register(fd, sub, abandoned, arg, &ret->err) < 0)
		return;
	r = read_record(fd, path, &ask->vm, &now, &ret->err);
	if (r < 0 && r != -ENOENT)
		unknown(ret);
	else if (ask->learn)
		learn(path, ask, r == 0, &now, ret);
	else if (ask->cas)
		swap(path, ask, r == 0, &now, ret);
	else
		known(ret, r == 0 ? RPL_ARBITER_OK : RPL_ARBITER_NONE, r == 0 ? &now : NULL);
}
