#include "control.h"

#include <errno.h>
#include <ev.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/control.h>
#include <replicad/io.h>

#define CLIENTS_MAX 16

struct client {
	struct control *c;
	uint64_t id; /* 0: free slot */
	int fd;
	bool subscribed;
	ev_io readable;
};

struct control {
	char *path;
	struct ev_loop *loop;
	control_handler_fn *handler;
	void *arg;
	int listen_fd;
	ev_io acceptable;
	uint64_t next_id;
	struct client client[CLIENTS_MAX];
};

static void drop(struct client *cl)
{
	ev_io_stop(cl->c->loop, &cl->readable);
	rpl_close(&cl->fd);
	cl->id = 0;
	cl->subscribed = false;
}

static void send_json(struct client *cl, json_t *doc)
{
	RPL_AUTO_FREE char *text = NULL;

	(void)json_object_set_new(doc, "v", json_integer(RPL_CONTROL_VERSION));
	text = json_dumps(doc, JSON_COMPACT);
	if (!text || rpl_send_fds(cl->fd, text, strlen(text), NULL, 0) < 0)
		drop(cl);
}

json_t *control_refusal(const char *code, const char *message)
{
	return json_pack("{s:b, s:{s:s, s:s}}", "ok", 0, "error", "code", code, "message", message);
}

static json_t *handle(struct client *cl, const char *text, size_t len, int fd)
{
	json_t *request = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL), *reply;
	const char *cmd = json_string_value(json_object_get(request, "cmd"));
	struct control_call call = { .client = cl->id, .id = json_integer_value(json_object_get(request, "id")) };

	if (!cmd) {
		rpl_close(&fd);
		reply = control_refusal("bad_request", "a command is a JSON object with \"v\", \"id\" and \"cmd\"");
	} else if (json_integer_value(json_object_get(request, "v")) != RPL_CONTROL_VERSION) {
		rpl_close(&fd);
		reply = control_refusal("bad_version", "this keeper speaks version 1");
	} else if (!strcmp(cmd, "subscribe")) {
		rpl_close(&fd);
		cl->subscribed = true;
		reply = json_pack("{s:b}", "ok", 1);
	} else {
		reply = cl->c->handler(cl->c->arg, cmd, request, fd, call);
	}
	if (reply)
		(void)json_object_set_new(reply, "id", json_integer(call.id));
	json_decref(request);
	return reply;
}

static void on_packet(EV_P_ ev_io *w, int revents)
{
	struct client *cl = w->data;
	RPL_AUTO_FREE char *buf = malloc(RPL_KEEPER_MSG_MAX);
	uint64_t id = cl->id;
	int fd = -1;
	size_t n_fds = 1;
	json_t *reply;
	ssize_t n;

	(void)loop;
	(void)revents;
	n = buf ? rpl_recv_fds(cl->fd, buf, RPL_KEEPER_MSG_MAX, &fd, &n_fds) : -ENOMEM;
	if (n == -EAGAIN)
		return;
	if (n <= 0) {
		drop(cl);
		return;
	}
	reply = handle(cl, buf, (size_t)n, n_fds ? fd : -1);
	if (reply && cl->id == id)
		send_json(cl, reply);
	json_decref(reply);
}

static bool welcome(int fd)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 && (cred.uid == 0 || cred.uid == geteuid());
}

static void on_accept(EV_P_ ev_io *w, int revents)
{
	struct control *c = w->data;
	RPL_AUTO_FD int fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct client *cl = NULL;

	(void)loop;
	(void)revents;
	for (size_t i = 0; i < CLIENTS_MAX && !cl; i++)
		if (!c->client[i].id)
			cl = &c->client[i];
	if (fd < 0 || !cl || !welcome(fd))
		return;
	*cl = (struct client){ .c = c, .id = ++c->next_id, .fd = rpl_steal_fd(&fd) };
	ev_io_init(&cl->readable, on_packet, cl->fd, EV_READ);
	cl->readable.data = cl;
	ev_io_start(c->loop, &cl->readable);
}

struct control *control_new(const char *path, struct ev_loop *loop, control_handler_fn *handler, void *arg,
			    struct rpl_err *err)
{
	struct control *c = calloc(1, sizeof(*c));

	if (!c || !(c->path = strdup(path))) {
		(void)rpl_fail(err, -ENOMEM, "control socket %s: no memory", path);
		free(c);
		return NULL;
	}
	c->loop = loop;
	c->handler = handler;
	c->arg = arg;
	c->listen_fd = rpl_unix_listen(path, SOCK_SEQPACKET | SOCK_NONBLOCK, err);
	if (c->listen_fd < 0) {
		free(c->path);
		free(c);
		return NULL;
	}
	ev_io_init(&c->acceptable, on_accept, c->listen_fd, EV_READ);
	c->acceptable.data = c;
	ev_io_start(loop, &c->acceptable);
	return c;
}

void control_answer(struct control *c, struct control_call call, json_t *reply)
{
	(void)json_object_set_new(reply, "id", json_integer(call.id));
	for (size_t i = 0; i < CLIENTS_MAX; i++)
		if (call.client && c->client[i].id == call.client)
			send_json(&c->client[i], reply);
	json_decref(reply);
}

void control_event(struct control *c, json_t *event)
{
	for (size_t i = 0; i < CLIENTS_MAX; i++)
		if (c->client[i].id && c->client[i].subscribed)
			send_json(&c->client[i], event);
	json_decref(event);
}

void control_free(struct control *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < CLIENTS_MAX; i++)
		if (c->client[i].id)
			drop(&c->client[i]);
	ev_io_stop(c->loop, &c->acceptable);
	rpl_close(&c->listen_fd);
	(void)unlink(c->path);
	free(c->path);
	free(c);
}
