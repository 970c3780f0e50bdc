/* The link of the moment, and those that wait to become it (mover.h). The primary speaks first (hello with the session it wants, its guest's definition), the
 * backup answers with its own hello (the session it holds) as soon as TLS is up; READY follows when its keeper agreed. */
#include "engine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/clock.h>

#define FIRST_PATIENCE 6 /* times the handshake's time-out, ... */
#define HELLO_PATIENCE 6 /* the same, and as much for what has to come behind the hello */

static void forget(struct mover *m)
{
	if (m->link)
		m->wire_before += rpl_link_bytes_sent(m->link);
	rpl_link_free(m->link);
	if (m->current)
		m->current->link = NULL;
	m->current = NULL;
	m->link = NULL;
	m->greeted = m->peer_known = m->ready = false;
	mover_set(&m->counters->link_up, 0);
	mover_set(&m->counters->tls_on, 0);
	ev_timer_stop(m->loop, &m->greeting);
}

static void forget_waiting(struct mover *m)
{
	for (size_t i = 0; i < RPL_ARRAY_LEN(m->connections); i++)
		if (&m->connections[i] != m->current) {
			rpl_link_free(m->connections[i].link);
			m->connections[i].link = NULL;
		}
}

static void report_end(struct mover *m, enum rpl_mover_type type, bool session_void, int code, const char *why)
{
	struct rpl_mover_msg msg = { .type = type, .value = session_void, .epoch = (uint64_t)-code,
				     .generation = code == -ESTALE ? m->peer.generation : 0 };

	(void)snprintf(msg.text, sizeof(msg.text), "%s", why);
	mover_report_msg(m, &msg);
}

static void report_down(struct mover *m, bool session_void, int code, const char *why)
{
	report_end(m, RPL_MOVER_LINK_DOWN, session_void, code, why);
}

static void drop(struct mover *m, int code, const char *why)
{
	bool had = m->link != NULL, void_too;

	forget(m);
	void_too = m->role->down(m);
	if (had || void_too)
		report_down(m, void_too, code, why);
}

void connection_drop(struct mover *m, const char *why)
{
	drop(m, 0, why);
}

void connection_end(struct mover *m, const struct rpl_err *why)
{
	drop(m, why->code, why->msg);
}

void connection_failed(struct mover *m, const struct rpl_err *err)
{
	report_end(m, m->link ? RPL_MOVER_LINK_REFUSED : RPL_MOVER_LINK_DOWN, false, err->code, err->msg);
}

/* The keeper does not want to hear of a connection that is replaced, unless the session dies with it. */
static void replace(struct mover *m)
{
	if (!m->current)
		return;
	forget(m);
	if (m->role->down(m))
		report_down(m, true, 0, "replaced by a new connection");
}

static void on_up(void *arg, const char *identity)
{
	struct connection *c = arg;
	struct mover *m = c->m;

	(void)identity; /* the link has checked it against conf.peers */
	replace(m);
	m->current = c;
	m->link = c->link;
	mover_set(&m->counters->tls_on, m->conf.tls != RPL_TLS_NONE);
	mover_set(&m->counters->last_heard_ns, rpl_now_ns());
	/* Covers the time until the keeper's own decision: a backup makes its standby in it. */
	m->greeting.repeat = m->conf.handshake_timeout_ms / 1000.0 * HELLO_PATIENCE;
	ev_timer_again(m->loop, &m->greeting);
	m->role->up(m);
}

static int on_frame(void *arg, enum rpl_frame type, const uint8_t *body, size_t len, struct rpl_err *err)
{
	const struct connection *c = arg;
	struct mover *m = c->m;

	mover_set(&m->counters->last_heard_ns, rpl_link_last_heard_ns(c->link));
	if (type != RPL_FRAME_HELLO && type != RPL_FRAME_REFUSE && !m->peer_known)
		return rpl_fail(err, -EPROTO, "%s before HELLO", rpl_frame_name((uint16_t)type));
	if (type == RPL_FRAME_HEARTBEAT)
		return 0;
	return m->role->frame(m, type, body, len, err);
}

static void on_writable(void *arg)
{
	struct mover *m = ((struct connection *)arg)->m;

	m->role->writable(m);
}

static void on_down(void *arg, const struct rpl_err *err)
{
	struct connection *c = arg;
	struct mover *m = c->m;

	if (c == m->current) {
		drop(m, err->code, err->msg);
		if (m->quitting)
			ev_break(m->loop, EVBREAK_ALL);
		return;
	}
	rpl_link_free(c->link);
	c->link = NULL;
	connection_failed(m, err);
}

static const struct rpl_link_ops link_ops = {
	.up = on_up, .frame = on_frame, .writable = on_writable, .down = on_down,
};

/* Free, or made so by dropping who waits longest. */
static struct connection *free_slot(struct mover *m)
{
	struct connection *oldest = NULL;

	for (size_t i = 0; i < RPL_ARRAY_LEN(m->connections); i++) {
		struct connection *c = &m->connections[i];

		if (!c->link)
			return c;
		if (c != m->current && (!oldest || c->number < oldest->number))
			oldest = c;
	}
	rpl_link_free(oldest->link);
	oldest->link = NULL;
	return oldest;
}

/* ... for a connection before the first session: nothing is protected yet that another attempt could save, the peer's mover may be just
 * starting, and on a busy host a handshake that is given up is one to do again, as slowly. */
static unsigned handshake_ms(const struct mover *m)
{
	return m->conf.handshake_timeout_ms * (m->settled ? 1 : FIRST_PATIENCE);
}

int connection_take(struct mover *m, int fd, struct rpl_err *err)
{
	const struct rpl_mover_conf *c = &m->conf;
	struct rpl_link_conf conf = {
		.fd = fd, .server = c->role == RPL_ROLE_BACKUP, .tls = (enum rpl_tls)c->tls, .vm = c->vm,
		.identity = c->identity, .keys = m->keys, .keys_len = c->keys_len,
		.x509_ca = m->x509_ca, .x509_cert = m->x509_cert, .x509_key = m->x509_key,
		.peers = c->peers[0] ? c->peers : NULL, .handshake_timeout_ms = handshake_ms(m),
		.queue_bytes_max = MOVER_QUEUE_BYTES,
	};
	struct connection *slot;

	if (c->role == RPL_ROLE_PRIMARY) {
		forget_waiting(m);
		replace(m);
	}
	slot = free_slot(m);
	slot->m = m;
	slot->number = ++m->connections_made;
	slot->link = rpl_link_new(&conf, m->loop, &link_ops, slot, err);
	return slot->link ? 0 : err->code;
}

int connection_send(struct mover *m, enum rpl_frame type, const void *body, size_t len)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)body, .iov_len = len };

	return m->link ? rpl_link_send(m->link, type, &iov, len ? 1 : 0) : -ENOTCONN;
}

void connection_push(struct mover *m)
{
	if (!m->link)
		return;
	rpl_link_push(m->link);
	connection_count(m);
	ev_timer_again(m->loop, &m->heartbeat);
}

void connection_our_hello(const struct mover *m, struct rpl_hello *h)
{
	h->major = RPL_LINK_MAJOR;
	h->minor = RPL_LINK_MINOR;
	h->features = RPL_FEATURE_PAGES | RPL_FEATURE_ROUND_BASE;
	h->vm = m->conf.vm;
	h->ram_pages = rpl_memory_layout(m->memory)->pages;
	h->max_uncommitted = m->conf.max_uncommitted;
	h->role = m->conf.role;
	(void)snprintf(h->node, sizeof(h->node), "%s", m->conf.node);
}

void connection_count(struct mover *m)
{
	if (m->link)
		mover_set(&m->counters->wire_bytes, m->wire_before + rpl_link_bytes_sent(m->link));
}

void connection_greet(struct mover *m, struct rpl_hello *h)
{
	uint8_t body[RPL_HELLO_SIZE];

	connection_our_hello(m, h);
	rpl_hello_encode(h, body);
	if (connection_send(m, RPL_FRAME_HELLO, body, sizeof(body)) == 0)
		m->greeted = true;
}

int connection_hello(struct mover *m, const uint8_t *body, size_t len, struct rpl_err *err)
{
	struct rpl_hello ours = { 0 };
	int r;

	if (m->peer_known)
		return rpl_fail(err, -EPROTO, "a second HELLO");
	connection_our_hello(m, &ours);
	r = rpl_hello_decode(body, len, &m->peer, err);
	if (m->conf.memory.provisional)
		ours.ram_pages = m->peer.ram_pages;
	if (r == 0)
		r = rpl_hello_match(&ours, &m->peer, err);
	m->peer_known = r == 0;
	if (m->peer_known)
		ev_timer_again(m->loop, &m->greeting); /* as long again for what comes behind it */
	return r;
}

void connection_heard(struct mover *m)
{
	ev_timer_stop(m->loop, &m->greeting);
}

void connection_ready(struct mover *m)
{
	m->ready = m->settled = true;
	mover_set(&m->counters->link_up, 1);
	connection_heard(m);
}

/* The heartbeat says that somebody decides here, not that bytes could be moved. */
static bool keeper_lives(struct mover *m)
{
	uint64_t beats = atomic_load_explicit(&m->counters->keeper_beats, memory_order_relaxed);
	bool lives = beats == 0 || beats != m->beats_seen;

	m->beats_seen = beats;
	return lives;
}

static void on_heartbeat(EV_P_ ev_timer *w, int revents)
{
	struct mover *m = w->data;

	(void)loop;
	(void)revents;
	/* A queue that has no room even for this carries bytes enough to be heard by. */
	if (keeper_lives(m) && m->greeted && connection_send(m, RPL_FRAME_HEARTBEAT, NULL, 0) == 0)
		rpl_link_push(m->link);
	connection_count(m);
}

/* A peer that proved its name and then hangs would keep a first copy waiting for ever: nothing else looks at its silence then. */
static void on_greeting(EV_P_ ev_timer *w, int revents)
{
	struct mover *m = w->data;
	const char *behind = m->conf.role == RPL_ROLE_PRIMARY ? "READY behind its hello" : "DEFINITION behind its hello";
	char why[128];

	(void)loop;
	(void)revents;
	(void)snprintf(why, sizeof(why), "no %s from the peer within %u ms", m->peer_known ? behind : "hello",
		       HELLO_PATIENCE * m->conf.handshake_timeout_ms);
	ev_timer_stop(m->loop, w);
	if (m->link)
		connection_drop(m, why);
}

int connection_setup(struct mover *m, struct rpl_err *err)
{
	const struct rpl_mover_conf *c = &m->conf;

	if (c->heartbeat_ms == 0 || c->handshake_timeout_ms == 0)
		return rpl_fail(err, -EINVAL, "heartbeat_ms %u, handshake_timeout_ms %u: both must be above 0",
				c->heartbeat_ms, c->handshake_timeout_ms);
	ev_timer_init(&m->greeting, on_greeting, 0, 0);
	ev_set_priority(&m->greeting, EV_MINPRI); /* when we are late ourselves, a hello that has come counts */
	m->greeting.data = m;
	ev_timer_init(&m->heartbeat, on_heartbeat, c->heartbeat_ms / 1000.0, c->heartbeat_ms / 1000.0);
	m->heartbeat.data = m;
	ev_timer_start(m->loop, &m->heartbeat);
	return 0;
}

void connection_finish(struct mover *m)
{
	forget_waiting(m);
	if (m->link)
		rpl_link_finish(m->link);
	else
		ev_break(m->loop, EVBREAK_ALL);
}

void connection_fini(struct mover *m)
{
	forget_waiting(m);
	rpl_link_free(m->link);
	m->current = NULL;
	m->link = NULL;
}
