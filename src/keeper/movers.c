#include "movers.h"

#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/io.h>
#include <replicad/log.h>

#define REPORTS_MAX 4 /* taken at once */
#define RETIRE_MS 1000 /* how long a retired mover may take to send its last words; on a busy host it waits for a processor */

struct movers {
	char program[PATH_MAX];
	struct ev_loop *loop;
	movers_report_fn *report;
	movers_gone_fn *gone;
	void *arg;

	pid_t pid; /* 0: none */
	uint64_t lives; /* movers so far */
	int sock;
	int link_fd; /* our copy of the connection, for shutting it down */
	int counters_fd, text_fd;
	struct rpl_mover_counters *counters;
	uint64_t generation; /* a copy of counters' that outlives a mover */
	char *text;
	ev_io readable;

	struct { /* a mover that was told to end and may still be sending */
		pid_t pid;
		int sock, link_fd;
		ev_io readable;
		ev_timer patience;
	} retired;
};

static void on_readable(EV_P_ ev_io *w, int revents);

static int shared_area(const char *name, size_t size, void **ret_map, struct rpl_err *err)
{
	int fd = memfd_create(name, MFD_CLOEXEC);

	if (fd < 0)
		return rpl_fail_errno(err, errno, "memfd %s", name);
	if (ftruncate(fd, (off_t)size) < 0)
		goto fail;
	*ret_map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (*ret_map == MAP_FAILED)
		goto fail;
	return fd;
fail:
	(void)rpl_fail_errno(err, errno, "%s of %zu bytes", name, size);
	(void)close(fd);
	return err ? err->code : -EIO;
}

struct movers *movers_new(const char *program, struct ev_loop *loop, movers_report_fn *report, movers_gone_fn *gone,
			  void *arg, struct rpl_err *err)
{
	struct movers *m = calloc(1, sizeof(*m));
	void *map;

	if (!m) {
		(void)rpl_fail(err, -ENOMEM, "mover handle: no memory");
		return NULL;
	}
	*m = (struct movers){ .loop = loop, .report = report, .gone = gone, .arg = arg,
			      .sock = -1, .link_fd = -1, .counters_fd = -1, .text_fd = -1,
			      .generation = RPL_GENERATION_UNKNOWN,
			      .retired = { .sock = -1, .link_fd = -1 } };
	(void)snprintf(m->program, sizeof(m->program), "%s", program);
	m->counters_fd = shared_area("mover-counters", sizeof(*m->counters), &map, err);
	if (m->counters_fd < 0)
		goto fail;
	m->counters = map;
	m->text_fd = shared_area("mover-text", RPL_MOVER_TEXT_SIZE, &map, err);
	if (m->text_fd < 0)
		goto fail;
	m->text = map;
	return m;
fail:
	movers_free(m);
	return NULL;
}

static void kill_and_reap(pid_t pid)
{
	(void)kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

static void end_retired(struct movers *m)
{
	if (!m->retired.pid)
		return;
	kill_and_reap(m->retired.pid);
	m->retired.pid = 0;
	ev_io_stop(m->loop, &m->retired.readable);
	ev_timer_stop(m->loop, &m->retired.patience);
	rpl_close(&m->retired.sock);
	rpl_close(&m->retired.link_fd);
}

static void exec_mover(const struct movers *m, int sock, pid_t keeper)
{
	sigset_t none;

	/* The mover must not outlive its keeper: acks and frames are sent only while somebody decides. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != keeper || dup2(sock, STDIN_FILENO) < 0)
		_exit(127);
	(void)sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)execl(m->program, "replicad-mover", (char *)NULL);
	_exit(127);
}

int movers_start(struct movers *m, const struct rpl_mover_conf *conf, int extra_fd, const int *memory_fds,
		 size_t n_memory_fds, struct rpl_err *err)
{
	struct rpl_mover_msg msg = { .size = sizeof(msg), .type = RPL_MOVER_CONF, .conf = *conf };
	int fds[RPL_FDS_MAX] = { m->counters_fd, m->text_fd, extra_fd };
	pid_t self = getpid();
	int sv[2], r;

	end_retired(m); /* the areas below are to be the new one's alone */
	rpl_assert(m->pid == 0 && n_memory_fds <= RPL_MEMORY_FDS_MAX && 3 + n_memory_fds <= RPL_FDS_MAX);
	memcpy(fds + 3, memory_fds, n_memory_fds * sizeof(*fds));
	msg.conf.n_memory_fds = (uint32_t)n_memory_fds;
	memset(m->counters, 0, sizeof(*m->counters));
	movers_beat(m);
	movers_generation(m, m->generation);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0)
		return rpl_fail_errno(err, errno, "socket pair for the mover");
	m->pid = fork();
	if (m->pid == 0)
		exec_mover(m, sv[1], self);
	(void)close(sv[1]);
	if (m->pid < 0) {
		m->pid = 0;
		(void)close(sv[0]);
		return rpl_fail_errno(err, errno, "start %s", m->program);
	}
	m->lives++;
	m->sock = sv[0];
	(void)rpl_nonblock(m->sock, true);
	ev_io_init(&m->readable, on_readable, m->sock, EV_READ);
	m->readable.data = m;
	ev_io_start(m->loop, &m->readable);
	r = rpl_send_fds(m->sock, &msg, sizeof(msg), fds, 3 + n_memory_fds);
	if (r < 0) {
		movers_kill(m);
		return rpl_fail_errno(err, -r, "configure the mover");
	}
	return 0;
}

bool movers_running(const struct movers *m)
{
	return m && m->pid != 0;
}

pid_t movers_pid(const struct movers *m)
{
	return m ? m->pid : 0;
}

/* It died or misbehaved: make sure it is gone, then tell. */
static void lost(struct movers *m, const char *why)
{
	movers_kill(m);
	m->gone(m->arg, why);
}

static bool well_formed(const struct rpl_mover_msg *msg, size_t n)
{
	return n == sizeof(*msg) && msg->size == sizeof(*msg) && msg->type >= RPL_MOVER_READY &&
	       msg->type < RPL_MOVER_NTYPES;
}

/* What is there, in one call: there is often more than one. Descriptors are not expected: the kernel closes them, and says so. */
static int receive(int sock, struct rpl_mover_msg ret[REPORTS_MAX], size_t ret_sizes[REPORTS_MAX])
{
	struct iovec iov[REPORTS_MAX];
	struct mmsghdr m[REPORTS_MAX];
	int n;

	for (int i = 0; i < REPORTS_MAX; i++) {
		iov[i] = (struct iovec){ .iov_base = &ret[i], .iov_len = sizeof(ret[i]) };
		m[i] = (struct mmsghdr){ .msg_hdr = { .msg_iov = &iov[i], .msg_iovlen = 1 } };
	}
	do
		n = recvmmsg(sock, m, REPORTS_MAX, MSG_DONTWAIT, NULL);
	while (n < 0 && (errno == EINTR || errno == ECONNRESET)); /* as rpl_recv_fds(): what it had said is still there */
	if (n < 0)
		return -errno;
	for (int i = 0; i < n; i++)
		ret_sizes[i] = m[i].msg_hdr.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ? SIZE_MAX : m[i].msg_len;
	return n;
}

/* false: it is gone. */
static bool take_report(struct movers *m, struct rpl_mover_msg *msg, size_t n)
{
	if (n == 0 || !well_formed(msg, n)) {
		lost(m, n == 0 ? "the mover ended" : "the mover sent a malformed report");
		return false;
	}
	if (msg->type == RPL_MOVER_LINK_UP)
		msg->hello.node[sizeof(msg->hello.node) - 1] = '\0';
	else
		msg->text[sizeof(msg->text) - 1] = '\0';
	m->report(m->arg, msg);
	return true;
}

static void on_readable(EV_P_ ev_io *w, int revents)
{
	struct movers *m = w->data;
	struct rpl_mover_msg reports[REPORTS_MAX];
	size_t sizes[REPORTS_MAX];
	uint64_t life = m->lives;
	int n;

	(void)loop;
	(void)revents;
	n = receive(m->sock, reports, sizes);
	if (n < 0 && n != -EAGAIN)
		lost(m, strerror(-n));
	/* The handler may kill this mover and start another: the rest is nobody's. */
	for (int i = 0; i < n && m->pid && m->lives == life; i++)
		if (!take_report(m, &reports[i], sizes[i]))
			return;
}

int movers_link(struct movers *m, int fd, struct rpl_err *err)
{
	struct rpl_mover_msg msg = { .size = sizeof(msg), .type = RPL_MOVER_LINK };
	int r;

	rpl_close(&m->link_fd);
	m->link_fd = fd;
	if (!movers_running(m))
		return rpl_fail(err, -ESRCH, "no mover to take the connection");
	r = rpl_send_fds(m->sock, &msg, sizeof(msg), &fd, 1);
	return r < 0 ? rpl_fail_errno(err, -r, "hand the connection to the mover") : 0;
}

void movers_send(struct movers *m, enum rpl_mover_type type, uint64_t epoch, uint64_t value, uint64_t generation,
		 const struct rpl_uuid *uuid)
{
	struct rpl_mover_msg msg = { .size = sizeof(msg), .type = type, .epoch = epoch, .value = value,
				     .generation = generation };
	int r;

	if (!movers_running(m))
		return;
	if (uuid)
		msg.uuid = *uuid;
	r = rpl_send_fds(m->sock, &msg, sizeof(msg), NULL, 0);
	/* A full queue means dozens of commands unread. Its death is noticed in the loop like any other, so that
	 * no caller has to expect a report from inside a send. */
	if (r < 0) {
		rpl_log(RPL_LOG_WARNING, "mover=%d command=%s error=\"%s\"", (int)m->pid, rpl_mover_type_name(type),
			strerror(-r));
		(void)kill(m->pid, SIGKILL);
	}
}

size_t movers_put_text(struct movers *m, const char *text)
{
	size_t len = strlen(text);

	if (len > RPL_MOVER_TEXT_KEYS)
		len = RPL_MOVER_TEXT_KEYS;
	memcpy(m->text, text, len);
	return len;
}

void movers_put_keys(struct movers *m, size_t offset, const char *text, size_t len)
{
	rpl_assert(offset <= RPL_MOVER_TEXT_SIZE - RPL_MOVER_TEXT_KEYS);
	rpl_assert(len <= RPL_MOVER_TEXT_SIZE - RPL_MOVER_TEXT_KEYS - offset);
	memcpy(m->text + RPL_MOVER_TEXT_KEYS + offset, text, len);
}

char *movers_get_text(const struct movers *m, size_t len)
{
	return strndup(m->text, len < RPL_MOVER_TEXT_KEYS ? len : RPL_MOVER_TEXT_KEYS);
}

const struct rpl_mover_counters *movers_counters(const struct movers *m)
{
	return m->counters;
}

void movers_beat(struct movers *m)
{
	(void)atomic_fetch_add_explicit(&m->counters->keeper_beats, 1, memory_order_relaxed);
}

void movers_generation(struct movers *m, uint64_t generation)
{
	m->generation = generation;
	atomic_store_explicit(&m->counters->generation, generation, memory_order_relaxed);
}

/* What it still reports is of no interest; the end of its socket is its own end. */
static void on_retired_readable(EV_P_ ev_io *w, int revents)
{
	struct movers *m = w->data;
	char buf[64];
	ssize_t n;

	(void)loop;
	(void)revents;
	n = recv(m->retired.sock, buf, sizeof(buf), MSG_DONTWAIT);
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		end_retired(m);
}

static void on_patience_over(EV_P_ ev_timer *w, int revents)
{
	(void)loop;
	(void)revents;
	end_retired(w->data);
}

void movers_retire(struct movers *m)
{
	if (!m->pid)
		return;
	end_retired(m);
	movers_send(m, RPL_MOVER_QUIT, 0, 0, 0, NULL);
	ev_io_stop(m->loop, &m->readable);
	m->retired.pid = m->pid;
	m->retired.sock = m->sock;
	m->retired.link_fd = m->link_fd;
	m->pid = 0;
	m->sock = m->link_fd = -1;
	ev_io_init(&m->retired.readable, on_retired_readable, m->retired.sock, EV_READ);
	ev_timer_init(&m->retired.patience, on_patience_over, RETIRE_MS / 1e3, 0.);
	m->retired.readable.data = m->retired.patience.data = m;
	ev_io_start(m->loop, &m->retired.readable);
	ev_timer_start(m->loop, &m->retired.patience);
}

bool movers_retiring(const struct movers *m)
{
	return m && m->retired.pid != 0;
}

void movers_kill(struct movers *m)
{
	end_retired(m); /* the next mover's areas are these */
	if (m->link_fd >= 0)
		(void)shutdown(m->link_fd, SHUT_RDWR);
	rpl_close(&m->link_fd);
	if (m->pid) {
		kill_and_reap(m->pid);
		m->pid = 0;
	}
	if (m->sock >= 0) {
		ev_io_stop(m->loop, &m->readable);
		rpl_close(&m->sock);
	}
}

void movers_free(struct movers *m)
{
	if (!m)
		return;
	movers_kill(m);
	if (m->counters)
		(void)munmap(m->counters, sizeof(*m->counters));
	if (m->text) {
		explicit_bzero(m->text, RPL_MOVER_TEXT_SIZE);
		(void)munmap(m->text, RPL_MOVER_TEXT_SIZE);
	}
	rpl_close(&m->counters_fd);
	rpl_close(&m->text_fd);
	free(m);
}
