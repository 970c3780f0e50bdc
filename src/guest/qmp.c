/* qmp.c - see qmp.h
 *
 * Oddities of the peer: QEMU serves one client of a monitor socket at a time; a second one connects, but its greeting
 * comes only when the first has gone (hence the time-out's hint in guest.c). Descriptors belong to the command whose
 * first byte they came with. Events may come between a command and its answer. Answers come in the order of commands,
 * but are matched by id.
 */
#include "qmp.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/io.h>

#include "qmp_parse.h"

struct qmp_call {
	uint64_t id;
	qmp_reply_fn *fn; /* NULL: abandoned */
	char name[48];
};

struct qmp {
	struct ev_loop *loop;
	struct qmp_callbacks cb;
	void *arg;
	int fd;
	ev_io in, out;
	struct qmp_parser parser;

	/* bytes of the command being written; one at a time, so that a descriptor goes with its first byte */
	char *text;
	size_t text_len, text_sent;

	struct qmp_call call[QMP_CALLS_MAX]; /* oldest first */
	size_t calls;
	uint64_t next_id;
	bool greeted, closed;
	unsigned busy; /* callbacks of ours on the stack */
	bool dead;     /* qmp_free() was called meanwhile */
};

static void destroy(struct qmp *q)
{
	qmp_parser_fini(&q->parser);
	free(q->text);
	free(q);
}

static void shut(struct qmp *q)
{
	ev_io_stop(q->loop, &q->in);
	ev_io_stop(q->loop, &q->out);
	rpl_close(&q->fd);
}

void qmp_free(struct qmp *q)
{
	if (!q)
		return;
	shut(q);
	q->dead = true;
	if (!q->busy)
		destroy(q);
}

/* The connection is useless. */
static void fail(struct qmp *q, const struct rpl_err *err)
{
	if (q->closed || q->dead)
		return;
	q->closed = true;
	shut(q);
	q->cb.closed(q->arg, err);
}

/* ---- commands */

/* A monitor that hung up may have said why before: the reader finds that, and the end. */
static int write_some(struct qmp *q, int fd)
{
	int r;

	while (q->text_sent < q->text_len) {
		struct iovec iov = { .iov_base = q->text + q->text_sent, .iov_len = q->text_len - q->text_sent };
		struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };
		ssize_t n;

		if (fd >= 0) { /* small: a unix socket takes it whole or not at all */
			r = rpl_send_fds(q->fd, iov.iov_base, iov.iov_len, &fd, 1);
			if (r < 0 && !rpl_hung_up(r))
				return r;
			break;
		}
		n = sendmsg(q->fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			ev_io_start(q->loop, &q->out);
			return 0;
		}
		if (n < 0 && rpl_hung_up(-errno))
			break;
		if (n < 0)
			return -errno;
		q->text_sent += (size_t)n;
	}
	q->text_len = q->text_sent = 0;
	ev_io_stop(q->loop, &q->out);
	return 0;
}

static int append_command(struct qmp *q, const char *command, json_t *args, uint64_t id)
{
	RPL_AUTO_FREE char *line = NULL;
	json_t *o = json_pack("{s:s, s:I}", "execute", command, "id", (json_int_t)id);
	char *bigger;
	size_t len;

	if (o && args && json_object_set_new(o, "arguments", args) < 0) {
		json_decref(o);
		return -ENOMEM;
	}
	if (!o)
		json_decref(args);
	line = o ? json_dumps(o, JSON_COMPACT) : NULL;
	json_decref(o);
	if (!line)
		return -ENOMEM;
	len = strlen(line);
	bigger = realloc(q->text, q->text_len + len + 1);
	if (!bigger)
		return -ENOMEM;
	q->text = bigger;
	memcpy(q->text + q->text_len, line, len);
	q->text[q->text_len + len] = '\n';
	q->text_len += len + 1;
	return 0;
}

int qmp_call(struct qmp *q, const char *command, json_t *args, int fd, qmp_reply_fn *fn, struct rpl_err *err)
{
	struct qmp_call *c = &q->call[q->calls];
	const char *why = q->fd < 0 ? "the monitor is closed" : q->calls == QMP_CALLS_MAX ? "too many unanswered commands" :
			  fd >= 0 && q->text_len ? "the monitor does not read" : NULL;
	int r;

	if (why) {
		json_decref(args);
		return rpl_fail(err, -EPIPE, "QMP %s: %s", command, why);
	}
	*c = (struct qmp_call){ .id = q->next_id++, .fn = fn };
	(void)snprintf(c->name, sizeof(c->name), "%s", command);
	r = append_command(q, command, args, c->id);
	if (r < 0)
		return rpl_fail_errno(err, -r, "QMP %s", command);
	q->calls++;
	r = write_some(q, fd);
	if (r < 0) {
		q->calls--;
		q->text_len = q->text_sent = 0;
		return rpl_fail_errno(err, -r, "QMP %s: send", command);
	}
	return 0;
}

void qmp_abandon(struct qmp *q)
{
	for (size_t i = 0; i < q->calls; i++)
		q->call[i].fn = NULL;
}

static void on_writable(struct ev_loop *loop, ev_io *w, int revents)
{
	struct qmp *q = w->data;
	struct rpl_err err;
	int r = write_some(q, -1);

	(void)loop;
	(void)revents;
	if (r == 0)
		return;
	(void)rpl_fail_errno(&err, -r, "QMP: send");
	q->busy++;
	fail(q, &err);
	if (--q->busy == 0 && q->dead)
		destroy(q);
}

/* ---- answers */

static void on_capabilities(void *arg, json_t *ret, const struct rpl_err *err)
{
	(void)arg;
	(void)ret;
	(void)err;
}

static void got_greeting(struct qmp *q, struct qmp_msg *m)
{
	struct rpl_err err;

	if (q->greeted) {
		(void)rpl_fail(&err, -EPROTO, "QMP: a second greeting");
		fail(q, &err);
		return;
	}
	q->greeted = true;
	if (qmp_call(q, "qmp_capabilities", NULL, -1, on_capabilities, &err) < 0)
		fail(q, &err);
	else
		q->cb.ready(q->arg, json_object_get(m->data, "version"));
}

static void got_answer(struct qmp *q, struct qmp_msg *m)
{
	struct qmp_call c = { 0 };
	struct rpl_err err;
	size_t i;

	for (i = 0; i < q->calls && m->has_id; i++)
		if (q->call[i].id == m->id)
			break;
	if (!m->has_id || i == q->calls) {
		(void)rpl_fail(&err, -EPROTO, "QMP: an answer to no command of ours%s%.100s", m->name ? ": " : "",
			       m->name ? m->name : "");
		fail(q, &err);
		return;
	}
	c = q->call[i];
	memmove(&q->call[i], &q->call[i + 1], (q->calls - i - 1) * sizeof(c));
	q->calls--;
	if (!c.fn)
		return;
	if (m->kind == QMP_ERROR) {
		(void)rpl_fail(&err, -EREMOTEIO, "QMP %s: %.160s", c.name, m->name);
		c.fn(q->arg, NULL, &err);
	} else {
		c.fn(q->arg, m->data, NULL);
	}
}

static void dispatch(struct qmp *q, struct qmp_msg *m)
{
	if (m->kind == QMP_GREETING)
		got_greeting(q, m);
	else if (m->kind != QMP_EVENT)
		got_answer(q, m);
	else if (q->cb.event)
		q->cb.event(q->arg, m->name, m->data);
}

static void parse_all(struct qmp *q)
{
	struct qmp_msg m;
	struct rpl_err err;

	while (!q->dead && !q->closed) {
		int r = qmp_parser_next(&q->parser, &m, &err);

		if (r == 0)
			return;
		if (r < 0) {
			fail(q, &err);
			return;
		}
		dispatch(q, &m);
		qmp_msg_fini(&m);
	}
}

static void on_readable(struct ev_loop *loop, ev_io *w, int revents)
{
	struct qmp *q = w->data;
	static char buf[65536];
	struct rpl_err err;
	ssize_t n = read(q->fd, buf, sizeof(buf));

	(void)loop;
	(void)revents;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	q->busy++;
	if (n < 0 && !rpl_hung_up(-errno)) {
		(void)rpl_fail_errno(&err, errno, "QMP: receive");
		fail(q, &err);
	} else if (n <= 0) {
		(void)rpl_fail(&err, -EPIPE, "QMP: the monitor was closed");
		fail(q, &err);
	} else if (qmp_parser_feed(&q->parser, buf, (size_t)n, &err) < 0) {
		fail(q, &err);
	} else {
		parse_all(q);
	}
	if (--q->busy == 0 && q->dead)
		destroy(q);
}

void qmp_settle(struct qmp *q, unsigned timeout_ms)
{
	uint64_t now = rpl_now_ns(), end = now + timeout_ms * RPL_MS;

	q->busy++;
	for (; q->calls && q->fd >= 0 && !q->dead && now < end; now = rpl_now_ns()) {
		struct pollfd p = { .fd = q->fd, .events = q->text_len ? POLLIN | POLLOUT : POLLIN };
		int n = poll(&p, 1, (int)((end - now) / RPL_MS) + 1);

		if (n < 0 && errno != EINTR)
			break;
		if (n > 0 && p.revents & POLLOUT)
			on_writable(q->loop, &q->out, EV_WRITE);
		if (n > 0 && p.revents & ~POLLOUT && q->fd >= 0)
			on_readable(q->loop, &q->in, EV_READ);
	}
	if (--q->busy == 0 && q->dead)
		destroy(q);
}

struct qmp *qmp_open(const char *path, struct ev_loop *loop, const struct qmp_callbacks *cb, void *arg, struct rpl_err *err)
{
	struct qmp *q;
	int fd = rpl_unix_connect(path, SOCK_STREAM | SOCK_NONBLOCK, err);

	if (fd < 0)
		return NULL;
	q = calloc(1, sizeof(*q));
	if (!q) {
		(void)close(fd);
		(void)rpl_fail(err, -ENOMEM, "QMP: no memory");
		return NULL;
	}
	q->loop = loop;
	q->cb = *cb;
	q->arg = arg;
	q->fd = fd;
	ev_io_init(&q->in, on_readable, fd, EV_READ);
	ev_io_init(&q->out, on_writable, fd, EV_WRITE);
	q->in.data = q->out.data = q;
	ev_io_start(loop, &q->in);
	return q;
}

pid_t qmp_peer_pid(const struct qmp *q)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (q->fd < 0 || getsockopt(q->fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return 0;
	return cred.pid;
}
