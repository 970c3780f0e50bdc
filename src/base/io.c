#include <replicad/io.h>

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <stdint.h>

#include <replicad/auto.h>

#define MEMINFO_MAX 65536
#define LISTEN_BACKLOG 16

int rpl_read_full(int fd, void *buf, size_t len)
{
	char *p = buf;

	while (len) {
		ssize_t n = read(fd, p, len);

		if (n == 0)
			return -EPIPE;
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int rpl_write_full(int fd, const void *buf, size_t len)
{
	const char *p = buf;

	while (len) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int rpl_nonblock(int fd, bool on)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) < 0)
		return -errno;
	return 0;
}

bool rpl_hung_up(int r)
{
	return r == -EPIPE || r == -ECONNRESET; /* the latter if it left something unread */
}

union fd_control {
	char buf[CMSG_SPACE(sizeof(int) * RPL_FDS_MAX)];
	struct cmsghdr align;
};

int rpl_send_fds(int sock, const void *msg, size_t len, const int *fds, size_t n_fds)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)msg, .iov_len = len };
	struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };
	union fd_control control;
	ssize_t n;

	rpl_assert(n_fds <= RPL_FDS_MAX);
	if (n_fds) {
		struct cmsghdr *c;

		memset(&control, 0, sizeof(control));
		mh.msg_control = control.buf;
		mh.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
		c = CMSG_FIRSTHDR(&mh);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
	}
	do
		n = sendmsg(sock, &mh, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	return (size_t)n == len ? 0 : -EMSGSIZE;
}

static void take_fds(const struct msghdr *mh, int *fds, size_t room, size_t *ret_n, bool *overflow)
{
	*ret_n = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR((struct msghdr *)(uintptr_t)mh, c)) {
		size_t count;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (*ret_n < room) {
				fds[(*ret_n)++] = fd;
			} else {
				(void)close(fd);
				*overflow = true;
			}
		}
	}
}

ssize_t rpl_recv_fds(int sock, void *msg, size_t cap, int *fds, size_t *n_fds)
{
	struct iovec iov = { .iov_base = msg, .iov_len = cap };
	union fd_control control;
	struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf,
			     .msg_controllen = sizeof(control.buf) };
	size_t room = n_fds ? *n_fds : 0, got;
	bool overflow = false;
	ssize_t n;

	/* A peer that closed with something of ours unread is told as ECONNRESET, once and before what it sent, which is
	 * there still; then comes the end like any other. */
	do
		n = recvmsg(sock, &mh, MSG_CMSG_CLOEXEC);
	while (n < 0 && (errno == EINTR || errno == ECONNRESET));
	if (n < 0)
		return -errno;
	take_fds(&mh, fds, room, &got, &overflow);
	if (overflow || (mh.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) {
		while (got)
			(void)close(fds[--got]);
		n = -EMSGSIZE;
	}
	if (n_fds)
		*n_fds = got;
	return n;
}

static int unix_address(const char *path, struct sockaddr_un *ret, struct rpl_err *err)
{
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof(ret->sun_path))
		return rpl_fail(err, -ENAMETOOLONG, "socket path '%s': longer than %zu bytes", path,
				sizeof(ret->sun_path) - 1);
	memcpy(ret->sun_path, path, strlen(path) + 1);
	return 0;
}

/* Another name in the same directory, of this process alone. The last name of `path` is cut as far as that needs. */
static int address_beside(const char *path, struct sockaddr_un *ret, struct rpl_err *err)
{
	const char *slash = strrchr(path, '/');
	size_t directory = slash ? (size_t)(slash + 1 - path) : 0, keep = strlen(path), room;
	char suffix[16];

	(void)snprintf(suffix, sizeof(suffix), ".%d", (int)getpid());
	room = sizeof(ret->sun_path) - 1 - strlen(suffix);
	if (directory > room)
		return rpl_fail(err, -ENAMETOOLONG, "socket path '%s': its directory has %zu bytes, with room for a temporary "
				"name it may have %zu", path, directory, room);
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	memcpy(ret->sun_path, path, keep < room ? keep : room);
	memcpy(ret->sun_path + (keep < room ? keep : room), suffix, strlen(suffix) + 1);
	return 0;
}

static int bind_privately(int fd, const struct sockaddr_un *sa)
{
	mode_t old;
	int r;

	(void)unlink(sa->sun_path);
	old = umask(0177);
	r = bind(fd, (const struct sockaddr *)sa, sizeof(*sa)) < 0 ? -errno : 0;
	(void)umask(old);
	return r;
}

/* Who may connect; never more than are meant to, on the way. */
static int admit(const char *path, gid_t group, mode_t mode, struct rpl_err *err)
{
	if (group != (gid_t)-1 && chown(path, (uid_t)-1, group) < 0)
		return rpl_fail_errno(err, errno, "give %s to group %u", path, (unsigned)group);
	if (mode == 0600) /* it is */
		return 0;
	return chmod(path, mode) < 0 ? rpl_fail_errno(err, errno, "change mode of %s", path) : 0;
}

/* Under another name until it listens, to those whom it is for: whoever finds the path can connect. */
static int bind_and_listen(int fd, const char *path, gid_t group, mode_t mode, struct rpl_err *err)
{
	struct sockaddr_un beside;
	int r = address_beside(path, &beside, err);

	if (r < 0)
		return r;
	r = bind_privately(fd, &beside);
	if (r < 0)
		return rpl_fail_errno(err, -r, "bind %s", beside.sun_path);
	if (listen(fd, LISTEN_BACKLOG) < 0)
		r = rpl_fail_errno(err, errno, "listen on %s", path);
	else
		r = admit(beside.sun_path, group, mode, err);
	if (r == 0 && rename(beside.sun_path, path) < 0)
		r = rpl_fail_errno(err, errno, "rename %s to %s", beside.sun_path, path);
	if (r < 0)
		(void)unlink(beside.sun_path);
	return r;
}

int rpl_unix_listen_for(const char *path, int type, gid_t group, mode_t mode, struct rpl_err *err)
{
	RPL_AUTO_FD int fd = -1;
	struct sockaddr_un sa;
	int r = unix_address(path, &sa, err);

	if (r < 0)
		return r;
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return rpl_fail_errno(err, errno, "socket for %s", path);
	if ((type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)) != SOCK_DGRAM) {
		r = bind_and_listen(fd, path, group, mode, err);
	} else { /* takes datagrams as soon as it is bound, and its senders know it by this name */
		r = bind_privately(fd, &sa);
		if (r < 0)
			(void)rpl_fail_errno(err, -r, "bind %s", path);
		else
			r = admit(path, group, mode, err);
	}
	return r < 0 ? r : rpl_steal_fd(&fd);
}

int rpl_unix_listen(const char *path, int type, struct rpl_err *err)
{
	return rpl_unix_listen_for(path, type, (gid_t)-1, 0600, err);
}

int rpl_unix_connect(const char *path, int type, struct rpl_err *err)
{
	RPL_AUTO_FD int fd = -1;
	struct sockaddr_un sa;
	int r = unix_address(path, &sa, err);

	if (r < 0)
		return r;
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return rpl_fail_errno(err, errno, "socket for %s", path);
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		return rpl_fail_errno(err, errno, "connect to %s", path);
	return rpl_steal_fd(&fd);
}

static int sync_directory_of(const char *path)
{
	RPL_AUTO_FD int fd = -1;
	char dir[PATH_MAX];

	(void)snprintf(dir, sizeof(dir), "%s", path);
	fd = open(dirname(dir), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) < 0)
		return -errno;
	return 0;
}

int rpl_write_file_durably(const char *path, const void *data, size_t len, mode_t mode, struct rpl_err *err)
{
	RPL_AUTO_FD int fd = -1;
	char tmp[PATH_MAX];
	int r;

	if ((size_t)snprintf(tmp, sizeof(tmp), "%s.new", path) >= sizeof(tmp))
		return rpl_fail(err, -ENAMETOOLONG, "path '%.100s...' is too long", path);
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
	if (fd < 0)
		return rpl_fail_errno(err, errno, "create %s", tmp);
	r = rpl_write_full(fd, data, len);
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	if (r == 0 && rename(tmp, path) < 0)
		r = -errno;
	if (r == 0)
		r = sync_directory_of(path);
	if (r < 0) {
		(void)unlink(tmp);
		return rpl_fail_errno(err, -r, "write %s", path);
	}
	return 0;
}

int rpl_read_file(const char *path, size_t max, char **ret, size_t *ret_len, struct rpl_err *err)
{
	RPL_AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	RPL_AUTO_FREE char *buf = NULL;
	size_t len = 0, cap = 4096;

	if (fd < 0)
		return rpl_fail_errno(err, errno, "open %s", path);
	for (;;) {
		char *bigger = realloc(buf, cap + 1);
		ssize_t n;

		if (!bigger)
			return rpl_fail(err, -ENOMEM, "read %s: no memory for %zu bytes", path, cap);
		buf = bigger;
		n = read(fd, buf + len, cap - len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return rpl_fail_errno(err, errno, "read %s", path);
		len += (size_t)n;
		if (len > max)
			return rpl_fail(err, -EFBIG, "read %s: larger than %zu bytes", path, max);
		if (n == 0)
			break;
		if (len == cap)
			cap *= 2;
	}
	buf[len] = '\0';
	*ret = buf;
	buf = NULL;
	if (ret_len)
		*ret_len = len;
	return 0;
}

int rpl_path(char *buf, size_t size, struct rpl_err *err, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(buf, size, fmt, ap);
	va_end(ap);
	if (n >= 0 && (size_t)n < size)
		return 0;
	(void)rpl_fail(err, -ENAMETOOLONG, "path '%.100s...' is too long", buf);
	buf[0] = '\0';
	return -ENAMETOOLONG;
}

int rpl_available_memory(uint64_t *ret_bytes, struct rpl_err *err)
{
	RPL_AUTO_FREE char *text = NULL;
	const char *at;
	int r = rpl_read_file("/proc/meminfo", MEMINFO_MAX, &text, NULL, err);

	if (r < 0)
		return r;
	at = strstr(text, "MemAvailable:");
	if (!at || sscanf(at, "MemAvailable: %" SCNu64, ret_bytes) != 1)
		return rpl_fail(err, -EBADMSG, "/proc/meminfo: no MemAvailable");
	*ret_bytes <<= 10;
	return 0;
}

int rpl_mkdir_p(const char *path, mode_t mode, struct rpl_err *err)
{
	char dir[PATH_MAX];

	if ((size_t)snprintf(dir, sizeof(dir), "%s", path) >= sizeof(dir))
		return rpl_fail(err, -ENAMETOOLONG, "path '%.100s...' is too long", path);
	for (char *p = dir + 1;; p++) {
		char kept = *p;

		if (kept != '/' && kept != '\0')
			continue;
		*p = '\0';
		if (mkdir(dir, mode) < 0 && errno != EEXIST)
			return rpl_fail_errno(err, errno, "make directory %s", dir);
		*p = kept;
		if (kept == '\0')
			return 0;
	}
}
