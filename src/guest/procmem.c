#include "procmem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/io.h>

#define PROC_FILE_MAX 4096

pid_t procmem_tracer(pid_t pid)
{
	RPL_AUTO_FREE char *text = NULL;
	char path[64], *p;
	int tracer = 0;

	(void)snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	if (rpl_read_file(path, PROC_FILE_MAX, &text, NULL, NULL) < 0)
		return 0;
	p = strstr(text, "\nTracerPid:");
	return p && sscanf(p, "\nTracerPid: %d", &tracer) == 1 ? tracer : 0;
}

bool procmem_parse_map(const char *line, struct procmem_map *ret)
{
	struct procmem_map m = { 0 };
	unsigned major_no, minor_no;
	char perms[5];
	int n = 0;

	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64 " %n", &m.from, &m.to, perms, &m.offset,
		   &major_no, &minor_no, &m.ino, &n) < 7 || m.to <= m.from)
		return false;
	m.dev = makedev(major_no, minor_no);
	m.shared = strchr(perms, 's') != NULL;
	m.exec = strchr(perms, 'x') != NULL;
	(void)snprintf(m.path, sizeof(m.path), "%.*s", (int)strcspn(line + n, "\n"), line + n);
	*ret = m;
	return true;
}

/* The mapping of `bytes` of one file from offset 0, which the kernel may show in several pieces. `ino` 0: any file. */
static int find_mapping(pid_t pid, uint64_t dev, uint64_t ino, uint64_t bytes, struct procmem_map *ret, struct rpl_err *err)
{
	RPL_AUTO_FILE FILE *f = NULL;
	struct procmem_map m, whole = { 0 };
	unsigned found = 0;
	char line[8192];

	(void)snprintf(line, sizeof(line), "/proc/%d/maps", (int)pid);
	f = fopen(line, "re");
	if (!f)
		return rpl_fail_errno(err, errno, "open %s", line);
	while (fgets(line, sizeof(line), f)) {
		if (!procmem_parse_map(line, &m) || !m.shared || m.ino == 0)
			continue;
		if (m.from == whole.to && m.dev == whole.dev && m.ino == whole.ino &&
		    m.offset == whole.offset + (whole.to - whole.from))
			whole.to = m.to;
		else
			whole = m;
		if (whole.offset == 0 && whole.to - whole.from == bytes && (!ino || (whole.ino == ino && whole.dev == dev))) {
			*ret = whole;
			found++;
		}
	}
	if (found == 1)
		return 0;
	return rpl_fail(err, -ENOENT, "process %d maps %u shared files of %" PRIu64 " bytes where one was expected", (int)pid,
			found, bytes);
}

/* Open a file through the process's own descriptor of it: works for memfd and for unlinked files. -ENOENT: it has none. */
typedef bool wanted_fn(const char *path, const void *arg);

static int open_through(pid_t pid, wanted_fn *wanted, const void *arg, struct rpl_err *err)
{
	char dir[64], path[384];
	struct dirent *e;
	int fd = -ENOENT;
	DIR *d;

	(void)snprintf(dir, sizeof(dir), "/proc/%d/fd", (int)pid);
	d = opendir(dir);
	if (!d)
		return rpl_fail_errno(err, errno, "open %s", dir);
	while (fd == -ENOENT && (e = readdir(d)) != NULL) {
		(void)snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		if (!wanted(path, arg))
			continue;
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			fd = rpl_fail_errno(err, errno, "open %s", path);
	}
	(void)closedir(d);
	return fd;
}

static bool is_mapped_file(const char *path, const void *arg)
{
	const struct procmem_map *m = arg;
	struct stat st;

	return stat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_ino == m->ino && st.st_dev == m->dev;
}

static int open_mapped(pid_t pid, const struct procmem_map *m, struct rpl_err *err)
{
	int fd = open_through(pid, is_mapped_file, m, err);

	if (fd == -ENOENT)
		return rpl_fail(err, -ENOENT, "process %d has no descriptor of the file that holds its RAM", (int)pid);
	return fd;
}

static bool is_memfd(const char *path, const void *arg)
{
	char target[384], name[384];
	ssize_t n = readlink(path, target, sizeof(target) - 1);

	if (n < 0)
		return false;
	target[n] = '\0';
	(void)snprintf(name, sizeof(name), "/memfd:%s (deleted)", (const char *)arg);
	return strcmp(target, name) == 0;
}

int procmem_open_memfd(pid_t pid, const char *name, struct rpl_err *err)
{
	int fd = open_through(pid, is_memfd, name, err);

	if (fd == -ENOENT)
		return rpl_fail(err, -ENOENT, "process %d holds no memfd %s", (int)pid, name);
	return fd;
}

static bool is_file(const char *path, struct stat *st)
{
	return path && path[0] && stat(path, st) == 0 && S_ISREG(st->st_mode);
}

int procmem_find_ram(pid_t pid, const char *path, uint64_t bytes, uint64_t *ret_vaddr, int *ret_fd, struct rpl_err *err)
{
	struct procmem_map m;
	struct stat st = { 0 };
	int fd, r;

	if (is_file(path, &st) && find_mapping(pid, st.st_dev, st.st_ino, bytes, &m, NULL) == 0)
		fd = open(path, O_RDWR | O_CLOEXEC);
	else {
		r = find_mapping(pid, 0, 0, bytes, &m, err);
		if (r < 0)
			return r;
		fd = open_mapped(pid, &m, err);
		if (fd < 0)
			return fd;
	}
	if (fd < 0)
		return rpl_fail_errno(err, errno, "open the RAM file %s", path);
	*ret_vaddr = m.from;
	*ret_fd = fd;
	return 0;
}
