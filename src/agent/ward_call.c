/* ward_call.c - a keeper's socket: requests with ids, their answers and time-outs, events in between */
#include "ward.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <replicad/auto.h>
#include <replicad/io.h>
#include <replicad/log.h>

static void unlink_call(struct rpl_ward_call *call)
{
	struct rpl_ward_call **p = &call->ward->calls;

	while (*p != call)
		p = &(*p)->next;
	*p = call->next;
	call->ward->n_calls--;
}

/* The one way in which a call ends. */
static void end_call(struct rpl_ward_call *call, const json_t *reply, const struct rpl_err *err)
{
	unlink_call(call);
	ev_timer_stop(call->ward->agent->loop, &call->timer);
	if (call->fn)
		call->fn(call->arg, reply, err);
	rpl_close(&call->fd);
	free(call->text);
	free(call);
}

void rpl_ward_fail_calls(struct rpl_ward *w, bool only_sent, const struct rpl_err *why)
{
	struct rpl_ward_call *call, *next;
	uint64_t last = w->next_id; /* a callback may ask again: those are not meant */

	for (call = w->calls; call; call = next) {
		next = call->next;
		if (call->id < last && (call->sent || !only_sent)) {
			end_call(call, NULL, why);
			next = w->calls; /* the list may have changed in the callback */
		}
	}
}

static void on_timeout(struct ev_loop *loop, ev_timer *timer, int revents)
{
	struct rpl_ward_call *call = timer->data;
	struct rpl_err err;

	(void)loop, (void)revents;
	(void)rpl_fail(&err, -ETIMEDOUT, "the keeper of %s gave no answer to '%s' in %.0f ms%s", call->ward->name, call->cmd,
		       timer->repeat * 1000, call->sent ? "" : " (it does not listen yet)");
	end_call(call, NULL, &err);
}

/* Send what waits, until the socket is full. */
static void send_calls(struct rpl_ward *w)
{
	struct rpl_ward_call *call = w->calls;

	ev_io_stop(w->agent->loop, &w->write_w);
	for (; call; call = call->next) {
		int r;

		if (call->sent)
			continue;
		r = rpl_send_fds(w->sock, call->text, strlen(call->text), &call->fd, call->fd >= 0);
		if (r == -EAGAIN) {
			ev_io_start(w->agent->loop, &w->write_w);
			return;
		}
		if (r < 0) /* the reader will find the connection ended */
			return;
		call->sent = true;
		rpl_close(&call->fd);
	}
}

void rpl_ward_call(struct rpl_ward *w, const char *cmd, const json_t *fields, int fd, unsigned timeout_ms,
		   rpl_ward_reply_fn *fn, void *arg)
{
	struct rpl_ward_call *call = calloc(1, sizeof(*call)), **tail = &w->calls;
	json_t *o = fields ? json_copy((json_t *)(uintptr_t)fields) : json_object();
	struct rpl_err err;

	(void)json_object_set_new(o, "v", json_integer(RPL_CONTROL_VERSION));
	(void)json_object_set_new(o, "id", json_integer((json_int_t)w->next_id));
	(void)json_object_set_new(o, "cmd", json_string(cmd));
	if (call)
		call->text = json_dumps(o, JSON_COMPACT);
	json_decref(o);
	if (!call || !call->text || w->n_calls == RPL_WARD_CALLS_MAX || strlen(call->text) > RPL_KEEPER_MSG_MAX) {
		(void)rpl_fail(&err, -EBUSY, "the keeper of %s has %zu requests under way", w->name, w->n_calls);
		if (fn)
			fn(arg, NULL, &err);
		rpl_close(&fd);
		if (call)
			free(call->text);
		free(call);
		return;
	}
	call->ward = w;
	call->id = w->next_id++;
	call->fd = fd;
	call->fn = fn;
	call->arg = arg;
	(void)snprintf(call->cmd, sizeof(call->cmd), "%s", cmd);
	ev_timer_init(&call->timer, on_timeout, timeout_ms / 1000.0, timeout_ms / 1000.0);
	ev_set_priority(&call->timer, EV_MINPRI); /* when we are late ourselves, an answer that has come counts */
	call->timer.data = call;
	/* the loop's idea of now may be old if what came before took long */
	ev_now_update(w->agent->loop);
	ev_timer_start(w->agent->loop, &call->timer);
	while (*tail)
		tail = &(*tail)->next;
	*tail = call;
	w->n_calls++;
	if (w->sock >= 0)
		send_calls(w);
}

void rpl_ward_make_way(struct rpl_ward *w, const char *cmd, size_t most)
{
	struct rpl_ward_call *oldest = NULL;
	struct rpl_err err;
	size_t n = 0;

	for (struct rpl_ward_call *call = w->calls; call; call = call->next)
		if (strcmp(call->cmd, cmd) == 0) {
			oldest = oldest ? oldest : call; /* new ones are put behind */
			n++;
		}
	if (n < most)
		return;
	(void)rpl_fail(&err, -EBUSY, "the keeper of %s has not answered to %zu times '%s': the oldest gave way", w->name, n, cmd);
	end_call(oldest, NULL, &err);
}

bool rpl_ward_has_call(const struct rpl_ward *w, const char *cmd)
{
	for (const struct rpl_ward_call *call = w->calls; call; call = call->next)
		if (strcmp(call->cmd, cmd) == 0)
			return true;
	return false;
}

static void on_reply(struct rpl_ward *w, const json_t *message)
{
	json_int_t id = json_integer_value(json_object_get(message, "id"));

	for (struct rpl_ward_call *call = w->calls; call; call = call->next)
		if (call->sent && (json_int_t)call->id == id) {
			end_call(call, message, NULL);
			return;
		}
	rpl_log(RPL_LOG_DEBUG, "vm=%s msg=\"answer %lld, which nobody waits for any more\"", w->name, (long long)id);
}

static void on_message(struct rpl_ward *w, const char *data, size_t len)
{
	json_t *message = json_loadb(data, len, 0, NULL);

	if (!json_is_object(message)) {
		rpl_log(RPL_LOG_WARNING, "vm=%s msg=\"the keeper sent %zu bytes that are no JSON object\"", w->name, len);
		json_decref(message);
		return;
	}
	if (json_object_get(message, "event")) {
		rpl_ward_on_event(w, message);
		return;
	}
	on_reply(w, message);
	json_decref(message);
}

/* Take what has come. false: the connection is at its end. */
static bool take_messages(struct rpl_ward *w)
{
	static char buf[RPL_KEEPER_MSG_MAX]; /* one loop, one reader */

	while (w->sock >= 0) {
		ssize_t n = rpl_recv_fds(w->sock, buf, sizeof(buf), NULL, NULL);

		if (n == -EAGAIN)
			return true;
		if (n <= 0)
			return false;
		on_message(w, buf, (size_t)n);
	}
	return true;
}

static void on_readable(struct ev_loop *loop, ev_io *io, int revents)
{
	struct rpl_ward *w = io->data;

	(void)loop, (void)revents;
	if (!take_messages(w))
		rpl_ward_on_eof(w);
}

void rpl_ward_last_messages(struct rpl_ward *w)
{
	(void)take_messages(w);
}

static void on_writable(struct ev_loop *loop, ev_io *io, int revents)
{
	(void)loop, (void)revents;
	send_calls(io->data);
}

int rpl_ward_connect(struct rpl_ward *w)
{
	char path[PATH_MAX];
	int r = rpl_path(path, sizeof(path), NULL, "%s/" RPL_KEEPER_SOCK, w->dir), fd;

	if (r < 0)
		return r;
	fd = rpl_unix_connect(path, SOCK_SEQPACKET | SOCK_NONBLOCK, NULL);
	if (fd < 0)
		return fd;
	w->sock = fd;
	ev_io_init(&w->read_w, on_readable, fd, EV_READ);
	ev_io_init(&w->write_w, on_writable, fd, EV_WRITE);
	w->read_w.data = w->write_w.data = w;
	ev_io_start(w->agent->loop, &w->read_w);
	for (struct rpl_ward_call *call = w->calls; call; call = call->next)
		rpl_assert(!call->sent);
	send_calls(w);
	return 0;
}

void rpl_ward_disconnect(struct rpl_ward *w)
{
	if (w->sock < 0)
		return;
	ev_io_stop(w->agent->loop, &w->read_w);
	ev_io_stop(w->agent->loop, &w->write_w);
	rpl_close(&w->sock);
}
