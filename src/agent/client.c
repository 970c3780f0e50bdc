#include <replicad/client.h>

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/control.h>
#include <replicad/io.h>

struct rpl_client {
	int fd;
	char *buf; /* received, not yet taken */
	size_t len, cap;
};

const char *rpl_client_path(const char *path)
{
	const char *env = getenv("REPLICAD_SOCKET");

	if (path)
		return path;
	return env && env[0] ? env : RPL_RUNDIR "/" RPL_AGENT_SOCK;
}

struct rpl_client *rpl_client_open(const char *path, struct rpl_err *err)
{
	struct rpl_client *c;
	int fd = rpl_unix_connect(path, SOCK_STREAM, err);

	if (fd < 0) {
		(void)rpl_prefix(err, "no agent answers; is `replicad agent` running?");
		return NULL;
	}
	c = calloc(1, sizeof(*c));
	if (!c) {
		(void)close(fd);
		(void)rpl_fail(err, -ENOMEM, "no memory");
		return NULL;
	}
	c->fd = fd;
	return c;
}

void rpl_client_close(struct rpl_client *c)
{
	if (!c)
		return;
	(void)close(c->fd);
	free(c->buf);
	free(c);
}

static int send_line(struct rpl_client *c, json_t *request, struct rpl_err *err)
{
	RPL_AUTO_FREE char *text = json_dumps(request, JSON_COMPACT);
	size_t len = text ? strlen(text) : 0;

	if (!text)
		return rpl_fail(err, -ENOMEM, "no memory for a request");
	if (len + 1 > RPL_CONTROL_LINE_MAX)
		return rpl_fail(err, -EMSGSIZE, "a request of %zu bytes, allowed are %d", len + 1, RPL_CONTROL_LINE_MAX);
	text[len++] = '\n';
	for (size_t at = 0; at < len;) {
		ssize_t n = send(c->fd, text + at, len - at, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) /* the agent may have said why before it closed: let the reader find out */
			return rpl_hung_up(-errno) ? 0 : rpl_fail_errno(err, errno, "send to the agent");
		at += (size_t)n;
	}
	return 0;
}

static int make_room(struct rpl_client *c, struct rpl_err *err)
{
	size_t cap = c->cap ? c->cap * 2 : 16384;
	char *more;

	if (c->len < c->cap)
		return 0;
	if (c->len >= RPL_CONTROL_REPLY_MAX)
		return rpl_fail(err, -EPROTO, "the agent's answer is longer than %d bytes", RPL_CONTROL_REPLY_MAX);
	more = realloc(c->buf, cap);
	if (!more)
		return rpl_fail(err, -ENOMEM, "no memory for an answer of %zu bytes", cap);
	c->buf = more;
	c->cap = cap;
	return 0;
}

/* Wait for more bytes until `deadline_ns` (0: for ever). */
static int receive(struct rpl_client *c, uint64_t deadline_ns, struct rpl_err *err)
{
	struct pollfd pfd = { .fd = c->fd, .events = POLLIN };
	uint64_t now = rpl_now_ns();
	int wait = -1, r = make_room(c, err);
	ssize_t n;

	if (r < 0)
		return r;
	if (deadline_ns)
		wait = now >= deadline_ns ? 0 : (int)((deadline_ns - now) / RPL_MS + 1);
	r = poll(&pfd, 1, wait);
	if (r < 0)
		return errno == EINTR ? 0 : rpl_fail_errno(err, errno, "wait for the agent");
	if (r == 0)
		return rpl_fail(err, -ETIMEDOUT, "the agent gave no answer in time");
	n = recv(c->fd, c->buf + c->len, c->cap - c->len, 0);
	if (n == 0 || (n < 0 && errno == ECONNRESET))
		return rpl_fail(err, -ECONNRESET, "the agent closed the connection");
	if (n < 0)
		return errno == EINTR ? 0 : rpl_fail_errno(err, errno, "receive from the agent");
	c->len += (size_t)n;
	return 0;
}

static int next_message(struct rpl_client *c, uint64_t deadline_ns, json_t **ret, struct rpl_err *err)
{
	char *eol;
	int r = 0;

	while (!(eol = c->len ? memchr(c->buf, '\n', c->len) : NULL)) {
		r = receive(c, deadline_ns, err);
		if (r < 0)
			return r;
	}
	*ret = json_loadb(c->buf, (size_t)(eol - c->buf), 0, NULL);
	c->len -= (size_t)(eol + 1 - c->buf);
	memmove(c->buf, eol + 1, c->len);
	if (!json_is_object(*ret)) {
		json_decref(*ret);
		*ret = NULL;
		return rpl_fail(err, -EPROTO, "the agent's answer is no JSON object");
	}
	return 0;
}

static int judge(json_t *reply, char code[RPL_CLIENT_CODE], struct rpl_err *err)
{
	const char *name = "", *message = "";

	if (json_is_true(json_object_get(reply, "ok")))
		return 0;
	if (json_unpack(reply, "{s:{s:s, s:s}}", "error", "code", &name, "message", &message) < 0)
		return rpl_fail(err, -EPROTO, "the agent's answer has neither \"ok\" nor \"error\"");
	if (code)
		(void)snprintf(code, RPL_CLIENT_CODE, "%s", name);
	return rpl_fail(err, -EREMOTEIO, "%s", message);
}

int rpl_client_call(struct rpl_client *c, json_t *request, unsigned timeout_ms, json_t **ret,
		    char code[RPL_CLIENT_CODE], struct rpl_err *err)
{
	uint64_t deadline = rpl_now_ns() + timeout_ms * RPL_MS;
	json_t *reply = NULL;
	int r;

	if (code)
		code[0] = '\0';
	*ret = NULL;
	(void)json_object_set_new(request, "v", json_integer(RPL_CONTROL_VERSION));
	r = send_line(c, request, err);
	json_decref(request);
	while (r == 0) {
		r = next_message(c, deadline, &reply, err);
		if (r < 0 || !json_object_get(reply, "event"))
			break;
		json_decref(reply); /* an event between; callers that follow do not call */
	}
	if (r < 0)
		return r;
	r = judge(reply, code, err);
	if (r < 0)
		json_decref(reply);
	else
		*ret = reply;
	return r;
}

int rpl_client_event(struct rpl_client *c, unsigned timeout_ms, json_t **ret, struct rpl_err *err)
{
	uint64_t deadline = timeout_ms ? rpl_now_ns() + timeout_ms * RPL_MS : 0;
	json_t *message;
	int r = next_message(c, deadline, &message, err);

	if (r < 0)
		return r;
	*ret = json_incref(json_object_get(message, "event"));
	json_decref(message);
	return *ret ? 0 : rpl_fail(err, -EPROTO, "the agent sent something that is no event");
}
