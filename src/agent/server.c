/* server.c - the control socket: who may, one request at a time per connection, bounds on everything */
#include "agent.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/io.h>
#include <replicad/log.h>

#define CONNS_MAX 64
#define OUT_MAX RPL_CONTROL_REPLY_MAX /* bytes that may wait for a caller who does not read; then it is dropped */
#define GROUPS_MAX 256

struct conn {
	struct conn *next;
	struct rpl_server *server;
	uint64_t id;
	int fd;
	ev_io read_w, write_w;
	char in[RPL_CONTROL_LINE_MAX];
	size_t in_len;
	char *out;
	size_t out_len, out_cap;
	bool busy;    /* a request is being carried out */
	bool closing; /* once everything is written */
	bool follows;
	char follow_vm[RPL_VM_NAME_MAX];
};

struct rpl_server {
	struct rpl_agent *agent;
	int fd;
	ev_io accept_w;
	struct conn *conns;
	size_t n_conns;
	uint64_t next_id;
	char path[PATH_MAX];
};

static void close_conn(struct conn *c)
{
	struct conn **p = &c->server->conns;

	while (*p != c)
		p = &(*p)->next;
	*p = c->next;
	c->server->n_conns--;
	ev_io_stop(c->server->agent->loop, &c->read_w);
	ev_io_stop(c->server->agent->loop, &c->write_w);
	(void)close(c->fd);
	free(c->out);
	free(c);
}

static struct conn *find_conn(struct rpl_server *s, uint64_t id)
{
	for (struct conn *c = s->conns; c; c = c->next)
		if (c->id == id)
			return c;
	return NULL;
}

/* Write what waits. false: the connection is gone. */
static bool flush(struct conn *c)
{
	while (c->out_len) {
		ssize_t n = send(c->fd, c->out, c->out_len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
			ev_io_start(c->server->agent->loop, &c->write_w);
			return true;
		}
		if (n < 0) {
			close_conn(c);
			return false;
		}
		c->out_len -= (size_t)n;
		memmove(c->out, c->out + n, c->out_len);
	}
	ev_io_stop(c->server->agent->loop, &c->write_w);
	if (c->closing) {
		close_conn(c);
		return false;
	}
	return true;
}

static bool queue(struct conn *c, const char *text, size_t len)
{
	size_t need = c->out_len + len + 1;

	if (need > OUT_MAX) {
		rpl_log(RPL_LOG_WARNING, "msg=\"a caller does not read its %zu bytes of answers; dropped\"", c->out_len);
		close_conn(c);
		return false;
	}
	if (need > c->out_cap) {
		char *more = realloc(c->out, need * 2);

		if (!more) {
			close_conn(c);
			return false;
		}
		c->out = more;
		c->out_cap = need * 2;
	}
	memcpy(c->out + c->out_len, text, len);
	c->out[c->out_len + len] = '\n';
	c->out_len = need;
	return flush(c);
}

/* false: the connection is gone. */
static bool send_json(struct conn *c, json_t *o)
{
	RPL_AUTO_FREE char *text = json_dumps(o, JSON_COMPACT);

	json_decref(o);
	if (!text) {
		close_conn(c);
		return false;
	}
	return queue(c, text, strlen(text));
}

static void on_line(struct conn *c, const char *line, size_t len)
{
	enum rpl_control_error code;
	struct rpl_err err;
	const char *cmd;
	json_t *request = rpl_request_parse(line, len, &cmd, &code, &err);

	if (!request) {
		(void)send_json(c, rpl_reply_error(code, err.msg));
		return;
	}
	c->busy = true;
	rpl_command(c->server->agent, c->id, cmd, request);
	json_decref(request);
}

/* Carry out whole lines, one after the other; called again when a late answer has gone out. */
static void take_lines(struct rpl_server *s, uint64_t id)
{
	static const char too_long[] = "a request of more bytes than RPL_CONTROL_LINE_MAX (65536)";
	struct conn *c;
	char *eol;

	_Static_assert(RPL_CONTROL_LINE_MAX == 65536, "said in words above");
	while ((c = find_conn(s, id)) && !c->busy && !c->closing && (eol = memchr(c->in, '\n', c->in_len))) {
		char line[RPL_CONTROL_LINE_MAX];
		size_t len = (size_t)(eol - c->in);

		memcpy(line, c->in, len);
		c->in_len -= len + 1;
		memmove(c->in, eol + 1, c->in_len);
		on_line(c, line, len);
	}
	if (c && !c->busy && !c->closing && c->in_len == sizeof(c->in)) {
		c->closing = true;
		if (send_json(c, rpl_reply_error(RPL_CE_bad_request, too_long)))
			ev_io_stop(s->agent->loop, &c->read_w);
	}
}

static void on_readable(struct ev_loop *loop, ev_io *io, int revents)
{
	struct conn *c = io->data;
	ssize_t n;

	(void)revents;
	if (c->in_len == sizeof(c->in)) { /* a request is under way and more wait: later */
		ev_io_stop(loop, io);
		return;
	}
	n = recv(c->fd, c->in + c->in_len, sizeof(c->in) - c->in_len, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		close_conn(c);
		return;
	}
	c->in_len += (size_t)n;
	take_lines(c->server, c->id);
}

static void on_writable(struct ev_loop *loop, ev_io *io, int revents)
{
	(void)loop, (void)revents;
	(void)flush(io->data);
}

void rpl_server_reply(struct rpl_server *s, uint64_t id, json_t *reply)
{
	struct conn *c = find_conn(s, id);

	if (!c) {
		json_decref(reply);
		return;
	}
	rpl_assert(c->busy); /* one answer per request */
	c->busy = false;
	if (!send_json(c, reply))
		return;
	ev_io_start(s->agent->loop, &c->read_w);
	/* lines that came meanwhile: from the loop, not from inside a keeper's answer */
	if (memchr(c->in, '\n', c->in_len))
		ev_feed_event(s->agent->loop, &s->accept_w, EV_CUSTOM);
}

void rpl_server_error(struct rpl_server *s, uint64_t id, enum rpl_control_error code, const char *message)
{
	rpl_server_reply(s, id, rpl_reply_error(code, message));
}

void rpl_server_follow(struct rpl_server *s, uint64_t id, const char *vm)
{
	struct conn *c = find_conn(s, id);

	if (!c)
		return;
	c->follows = true;
	(void)snprintf(c->follow_vm, sizeof(c->follow_vm), "%s", vm);
}

void rpl_server_event(struct rpl_server *s, const char *vm, json_t *event)
{
	struct conn *c, *next;

	for (c = s->conns; c; c = next) {
		next = c->next;
		if (c->follows && (!c->follow_vm[0] || strcmp(c->follow_vm, vm) == 0))
			(void)send_json(c, json_pack("{s:i, s:O}", "v", RPL_CONTROL_VERSION, "event", event));
	}
}

/* ---- who may */

static bool user_listed(const char *users, uid_t uid)
{
	char copy[RPL_CONF_TEXT_MAX], *save = NULL;

	(void)snprintf(copy, sizeof(copy), "%s", users);
	for (char *name = strtok_r(copy, ", ", &save); name; name = strtok_r(NULL, ", ", &save)) {
		const struct passwd *pw = getpwnam(name);

		if (pw && pw->pw_uid == uid)
			return true;
	}
	return false;
}

static bool in_group(int fd, const struct ucred *peer, const char *group)
{
	const struct group *gr = group[0] ? getgrnam(group) : NULL;
	gid_t gids[GROUPS_MAX];
	socklen_t len = sizeof(gids);

	if (!gr)
		return false;
	if (peer->gid == gr->gr_gid)
		return true;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, gids, &len) < 0)
		return false;
	for (size_t i = 0; i < len / sizeof(gids[0]); i++)
		if (gids[i] == gr->gr_gid)
			return true;
	return false;
}

static bool may(const struct rpl_agent *a, int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return false;
	if (peer.uid == 0 || peer.uid == geteuid() || user_listed(a->conf->agent.control_users, peer.uid) ||
	    in_group(fd, &peer, a->conf->agent.control_group))
		return true;
	rpl_log(RPL_LOG_WARNING, "event=denied reason=\"user %u, process %d may not use the control socket\"",
		(unsigned)peer.uid, (int)peer.pid);
	return false;
}

static void turn_away(int fd, enum rpl_control_error code, const char *message)
{
	json_t *o = rpl_reply_error(code, message);
	RPL_AUTO_FREE char *text = json_dumps(o, JSON_COMPACT);

	json_decref(o);
	if (text) { /* a fresh socket has room; if not, the end of the connection says it too */
		(void)!send(fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT);
		(void)!send(fd, "\n", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	}
	(void)close(fd);
}

static void admit(struct rpl_server *s, int fd)
{
	struct conn *c;

	if (!may(s->agent, fd)) {
		turn_away(fd, RPL_CE_denied, "only root, the agent's own user, control_users and control_group may use this socket");
		return;
	}
	c = s->n_conns < CONNS_MAX ? calloc(1, sizeof(*c)) : NULL;
	if (!c) {
		turn_away(fd, RPL_CE_busy, "too many callers; try again");
		return;
	}
	c->server = s;
	c->id = ++s->next_id;
	c->fd = fd;
	c->next = s->conns;
	s->conns = c;
	s->n_conns++;
	ev_io_init(&c->read_w, on_readable, fd, EV_READ);
	ev_io_init(&c->write_w, on_writable, fd, EV_WRITE);
	c->read_w.data = c->write_w.data = c;
	ev_io_start(s->agent->loop, &c->read_w);
}

/* A request may close any connection, so first note whose turn it is. */
static void take_all_lines(struct rpl_server *s)
{
	uint64_t ids[CONNS_MAX];
	size_t n = 0;

	for (struct conn *c = s->conns; c; c = c->next)
		ids[n++] = c->id;
	while (n)
		take_lines(s, ids[--n]);
}

static void on_accept(struct ev_loop *loop, ev_io *io, int revents)
{
	struct rpl_server *s = io->data;

	(void)loop;
	if (revents & EV_CUSTOM)
		take_all_lines(s);
	if (revents & EV_READ) {
		int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC);

		if (fd >= 0)
			admit(s, fd);
	}
}

/* Who may connect at all; may() decides then. */
static int listen_here(const struct rpl_server *s, struct rpl_err *err)
{
	const struct rpl_conf_agent *conf = &s->agent->conf->agent;
	const struct group *gr = conf->control_group[0] ? getgrnam(conf->control_group) : NULL;
	mode_t mode = conf->control_users[0] ? 0666 : gr ? 0660 : 0600;

	if (conf->control_group[0] && !gr)
		return rpl_fail(err, -EINVAL, "control_group = %s: there is no such group", conf->control_group);
	return rpl_unix_listen_for(s->path, SOCK_STREAM | SOCK_NONBLOCK, gr ? gr->gr_gid : (gid_t)-1, mode, err);
}

struct rpl_server *rpl_server_new(struct rpl_agent *a, struct rpl_err *err)
{
	struct rpl_server *s = calloc(1, sizeof(*s));

	if (!s) {
		(void)rpl_fail(err, -ENOMEM, "no memory for the control socket");
		return NULL;
	}
	s->agent = a;
	s->fd = rpl_path(s->path, sizeof(s->path), err, "%s/" RPL_AGENT_SOCK, a->conf->agent.run_dir);
	if (s->fd == 0)
		s->fd = listen_here(s, err);
	if (s->fd < 0) {
		free(s);
		return NULL;
	}
	ev_io_init(&s->accept_w, on_accept, s->fd, EV_READ);
	s->accept_w.data = s;
	ev_io_start(a->loop, &s->accept_w);
	return s;
}

void rpl_server_free(struct rpl_server *s)
{
	if (!s)
		return;
	while (s->conns)
		close_conn(s->conns);
	ev_io_stop(s->agent->loop, &s->accept_w);
	(void)close(s->fd);
	(void)unlink(s->path);
	free(s);
}
