/* accept.c - connections of peers: look at the preamble, hand the socket to the keeper of that VM
 *
 * The preamble is only looked at (MSG_PEEK): the keeper's mover reads it itself, with everything behind it. The agent
 * parses nothing else of a peer's. A connection that has not sent its 32 bytes in time is closed; of too many the oldest is.
 */
#include "agent.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/link.h>
#include <replicad/log.h>

#define LISTEN_MAX 8       /* addresses of one host name */
#define LISTEN_BACKLOG 16
#define PENDING_MAX 32     /* connections whose preamble we wait for */
#define LINKS_MAX 4        /* connections that one keeper has not taken yet: as many as its mover has wait for their handshake */
/* Before a first session the caller starts its mover meanwhile, and we the keeper: on a busy host that takes as long as the handshake
 * that follows, for which the movers have 30 s. The caller ends what it does not want to wait for; and whoever waits gives way to
 * who comes later, so that a longer wait keeps nobody out. */
#define PREAMBLE_TIMEOUT_S 30.0
#define LINK_TIMEOUT_MS 30000

struct pending {
	struct pending *next;
	struct rpl_acceptor *acceptor;
	int fd;
	ev_io read_w;
	ev_timer timer;
	char from[64];
};

struct rpl_acceptor {
	struct rpl_agent *agent;
	struct listener {
		int fd;
		ev_io accept_w;
	} listeners[LISTEN_MAX];
	size_t n_listeners;
	struct pending *pending;
	size_t n_pending;
};

static void numeric(const struct sockaddr *sa, socklen_t len, char *buf, size_t size)
{
	char host[INET6_ADDRSTRLEN + 16], port[8];

	if (getnameinfo(sa, len, host, sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		(void)snprintf(buf, size, "?");
	else
		(void)snprintf(buf, size, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
}

static void end_pending(struct pending *p)
{
	struct pending **at = &p->acceptor->pending;

	while (*at != p)
		at = &(*at)->next;
	*at = p->next;
	p->acceptor->n_pending--;
	ev_io_stop(p->acceptor->agent->loop, &p->read_w);
	ev_timer_stop(p->acceptor->agent->loop, &p->timer);
	if (p->fd >= 0)
		(void)close(p->fd);
	free(p);
}

static void on_linked(void *arg, const json_t *reply, const struct rpl_err *err)
{
	const struct rpl_ward *w = arg;
	const char *message = "";

	if (reply && json_is_true(json_object_get(reply, "ok")))
		return;
	if (reply)
		(void)json_unpack((json_t *)(uintptr_t)reply, "{s:{s:s}}", "error", "message", &message);
	rpl_log(RPL_LOG_WARNING, "vm=%s event=link-refused reason=\"%s\"", rpl_ward_name(w), reply ? message : err->msg);
}

/* The ward of that uuid; if there is none but the configuration knows it, a new one. */
static struct rpl_ward *ward_of(struct rpl_agent *a, const struct rpl_uuid *uuid, struct rpl_err *err)
{
	const struct rpl_conf_vm *vm = rpl_conf_vm_by_uuid(a->conf, uuid);
	char text[RPL_UUID_TEXT];

	for (struct rpl_ward *w = a->wards; w; w = rpl_ward_next(w))
		if (rpl_ward_has_uuid(w, uuid))
			return w;
	if (vm)
		return rpl_ward_get(a, vm->name, err);
	(void)rpl_fail(err, -ENOENT, "no [vm] section has uuid %s", rpl_uuid_text(uuid, text));
	return NULL;
}

static int hand_over(struct rpl_agent *a, const struct rpl_uuid *uuid, int *fd, struct rpl_err *err)
{
	struct rpl_ward *w = ward_of(a, uuid, err);
	const struct rpl_conf_vm *vm;
	int r;

	if (!w)
		return -ENOENT;
	vm = rpl_conf_vm(a->conf, rpl_ward_name(w));
	if (rpl_ward_keeper(w) == RPL_WARD_NONE && (!vm || !vm->standby[0]))
		return rpl_fail(err, -ENOENT, "[vm %s] has no standby: this node is no backup of it", rpl_ward_name(w));
	r = rpl_ward_start(w, "backup", err);
	if (r < 0)
		return r;
	rpl_ward_make_way(w, "link", LINKS_MAX);
	rpl_ward_call(w, "link", NULL, *fd, LINK_TIMEOUT_MS, on_linked, w);
	*fd = -1;
	return 0;
}

static void on_preamble(struct ev_loop *loop, ev_io *io, int revents)
{
	uint8_t bytes[RPL_PREAMBLE_SIZE];
	struct pending *p = io->data;
	struct rpl_uuid uuid;
	struct rpl_err err;
	ssize_t n = recv(p->fd, bytes, sizeof(bytes), MSG_PEEK | MSG_DONTWAIT);
	int one = 1, r;

	(void)loop, (void)revents;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	/* SO_RCVLOWAT wakes us for a whole preamble, or for the end of the connection */
	if (n != (ssize_t)sizeof(bytes))
		r = rpl_fail(&err, -EPIPE, "it ended after %zd bytes of a preamble of %d", n < 0 ? 0 : n, RPL_PREAMBLE_SIZE);
	else
		r = rpl_preamble_decode(bytes, &uuid, &err);
	if (r == 0) {
		(void)setsockopt(p->fd, SOL_SOCKET, SO_RCVLOWAT, &one, sizeof(one));
		r = hand_over(p->acceptor->agent, &uuid, &p->fd, &err);
	}
	if (r < 0)
		rpl_log(RPL_LOG_WARNING, "event=link-refused peer=%s reason=\"%s\"", p->from, err.msg);
	end_pending(p);
}

static void give_up(struct pending *p, const char *why)
{
	uint8_t bytes[RPL_PREAMBLE_SIZE];

	if (recv(p->fd, bytes, sizeof(bytes), MSG_PEEK | MSG_DONTWAIT) == (ssize_t)sizeof(bytes)) { /* it is us who are late */
		on_preamble(p->acceptor->agent->loop, &p->read_w, EV_READ);
		return;
	}
	rpl_log(RPL_LOG_WARNING, "event=link-refused peer=%s reason=\"%s\"", p->from, why);
	end_pending(p);
}

static void on_late(struct ev_loop *loop, ev_timer *timer, int revents)
{
	char why[64];

	(void)loop, (void)revents;
	(void)snprintf(why, sizeof(why), "no preamble in %.0f s", PREAMBLE_TIMEOUT_S);
	give_up(timer->data, why);
}

static struct pending *oldest(const struct rpl_acceptor *x)
{
	struct pending *p = x->pending;

	while (p->next)
		p = p->next;
	return p;
}

static void wait_for_preamble(struct rpl_acceptor *x, int fd, const char *from)
{
	struct pending *p = calloc(1, sizeof(*p));
	int whole = RPL_PREAMBLE_SIZE, on = 1;

	if (!p) {
		rpl_log(RPL_LOG_WARNING, "event=link-refused peer=%s reason=\"no memory\"", from);
		(void)close(fd);
		return;
	}
	if (x->n_pending == PENDING_MAX)
		give_up(oldest(x), "without a preamble it gave way to a later connection");
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &whole, sizeof(whole));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	p->acceptor = x;
	p->fd = fd;
	(void)snprintf(p->from, sizeof(p->from), "%s", from);
	p->next = x->pending;
	x->pending = p;
	x->n_pending++;
	ev_io_init(&p->read_w, on_preamble, fd, EV_READ);
	ev_timer_init(&p->timer, on_late, PREAMBLE_TIMEOUT_S, 0);
	p->read_w.data = p->timer.data = p;
	ev_io_start(x->agent->loop, &p->read_w);
	ev_timer_start(x->agent->loop, &p->timer);
}

static void on_accept(struct ev_loop *loop, ev_io *io, int revents)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	char from[64];
	int fd = accept4(io->fd, (struct sockaddr *)&sa, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)loop, (void)revents;
	if (fd < 0)
		return;
	numeric((struct sockaddr *)&sa, len, from, sizeof(from));
	wait_for_preamble(io->data, fd, from);
}

static int listen_on(const struct addrinfo *ai, struct rpl_err *err)
{
	RPL_AUTO_FD int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	char text[64];
	int on = 1;

	numeric(ai->ai_addr, ai->ai_addrlen, text, sizeof(text));
	if (fd < 0)
		return rpl_fail_errno(err, errno, "socket for %s", text);
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (ai->ai_family == AF_INET6) /* IPv4 has a socket of its own */
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, LISTEN_BACKLOG) < 0)
		return rpl_fail_errno(err, errno, "listen on %s", text);
	return rpl_steal_fd(&fd);
}

static void add_listener(struct rpl_acceptor *x, int fd)
{
	struct listener *l = &x->listeners[x->n_listeners++];

	l->fd = fd;
	ev_io_init(&l->accept_w, on_accept, fd, EV_READ);
	l->accept_w.data = x;
	ev_io_start(x->agent->loop, &l->accept_w);
}

/* All addresses of the host; one that this machine does not have (IPv6 switched off) is no fault while another works. */
static int listen_all(struct rpl_acceptor *x, const char *text, struct rpl_err *err)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE }, *list;
	char host[RPL_CONF_TEXT_MAX], port[6];
	int r = rpl_conf_address(text, host, port, err);

	if (r < 0)
		return r;
	r = getaddrinfo(host[0] ? host : NULL, port, &hints, &list);
	if (r != 0)
		return rpl_fail(err, -EINVAL, "listen = %s: %s", text, gai_strerror(r));
	r = 0;
	for (struct addrinfo *ai = list; ai && x->n_listeners < LISTEN_MAX; ai = ai->ai_next) {
		int fd = listen_on(ai, err);

		if (fd >= 0) {
			add_listener(x, fd);
		} else if (fd != -EAFNOSUPPORT && fd != -EADDRNOTAVAIL) {
			r = fd;
			break;
		}
	}
	freeaddrinfo(list);
	if (r == 0 && !x->n_listeners)
		r = err->code;
	return r < 0 ? rpl_prefix(err, "listen = %s", text) : 0;
}

struct rpl_acceptor *rpl_acceptor_new(struct rpl_agent *a, struct rpl_err *err)
{
	struct rpl_acceptor *x = calloc(1, sizeof(*x));

	if (!x) {
		(void)rpl_fail(err, -ENOMEM, "no memory to listen");
		return NULL;
	}
	x->agent = a;
	if (a->conf->agent.listen[0] && listen_all(x, a->conf->agent.listen, err) < 0) {
		rpl_acceptor_free(x);
		return NULL;
	}
	return x;
}

void rpl_acceptor_free(struct rpl_acceptor *x)
{
	if (!x)
		return;
	while (x->pending)
		end_pending(x->pending);
	for (size_t i = 0; i < x->n_listeners; i++) {
		ev_io_stop(x->agent->loop, &x->listeners[i].accept_w);
		(void)close(x->listeners[i].fd);
	}
	free(x);
}

json_t *rpl_acceptor_addresses(const struct rpl_acceptor *x)
{
	json_t *list = json_array();

	for (size_t i = 0; i < x->n_listeners; i++) {
		struct sockaddr_storage sa;
		socklen_t len = sizeof(sa);
		char text[64];

		if (getsockname(x->listeners[i].fd, (struct sockaddr *)&sa, &len) < 0)
			continue;
		numeric((struct sockaddr *)&sa, len, text, sizeof(text));
		(void)json_array_append_new(list, json_string(text));
	}
	return list;
}
