/* session.c - the primary's side of a session: connect, copy in rounds, keep the connection, report acks
 *
 * The core wants a session from SESSION_START to SESSION_END. In between the connection may come and go: the mover
 * holds the session's state, this file makes the connections. The loop never waits for the peer's name: it is looked up
 * while the address that it had last is tried. When the bulk copy has converged is rounds.h's affair.
 */
#include "keeper.h"
#include "rounds.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/log.h>

#define RECONNECT_MS 50            /* after the first failure; each further one doubles it */
#define RECONNECT_MS_MAX 800

static void connect_now(struct keeper *k);
static int start_mover(struct keeper *k, struct rpl_err *err);

static void stop_connecting(struct keeper *k)
{
	struct session *s = &k->session;

	s->wants_address = false;
	ev_timer_stop(k->loop, &s->retry);
	if (s->connecting_fd >= 0)
		ev_io_stop(k->loop, &s->connecting);
	rpl_close(&s->connecting_fd);
	rpl_close(&s->waiting_fd);
}

static void on_retry(EV_P_ ev_timer *w, int revents)
{
	struct keeper *k = w->data;

	(void)loop;
	(void)revents;
	connect_now(k);
}

static void connect_later(struct keeper *k)
{
	struct session *s = &k->session;

	stop_connecting(k);
	if (!s->wanted)
		return;
	s->retry_ms = s->retry_ms ? s->retry_ms * 2 : RECONNECT_MS;
	if (s->retry_ms > RECONNECT_MS_MAX)
		s->retry_ms = RECONNECT_MS_MAX;
	ev_timer_init(&s->retry, on_retry, s->retry_ms / 1e3, 0.);
	s->retry.data = k;
	ev_timer_start(k->loop, &s->retry);
}

static void pass_link(struct keeper *k)
{
	struct session *s = &k->session;
	struct rpl_err err;

	if (s->waiting_fd < 0)
		return;
	if (movers_link(k->movers, rpl_steal_fd(&s->waiting_fd), &err) == 0)
		return;
	rpl_log(RPL_LOG_WARNING, "vm=%s link=failed reason=\"%s\"", k->conf.vm, err.msg);
	keeper_say(k, RPL_EV_LINK_DOWN);
}

static void say_lost(struct keeper *k, bool gone)
{
	keeper_event(k, &(struct rpl_event){ .kind = RPL_EV_SESSION_LOST, .u.lost = { .session = k->session.id, .gone = gone } });
}

/* Watching the guest's memory costs it something: only for a peer that is there. */
static void on_reached(struct keeper *k)
{
	struct session *s = &k->session;
	struct rpl_err err;

	keeper_say(k, RPL_EV_CONNECTED); /* bounded by the mover's patience with a handshake */
	if (s->ready) {
		pass_link(k);
		return;
	}
	if (movers_running(k->movers) || start_mover(k, &err) == 0)
		return; /* READY goes on */
	stop_connecting(k);
	if (strcmp(k->refused, err.msg) != 0) /* it is tried again at once, perhaps for hours: said once */
		keeper_alarm(k, err.msg);
	(void)snprintf(k->refused, sizeof(k->refused), "%s", err.msg);
	say_lost(k, false);
}

static void on_connected(EV_P_ ev_io *w, int revents)
{
	struct keeper *k = w->data;
	struct session *s = &k->session;
	socklen_t len = sizeof(int);
	int problem = 0, one = 1, fd;

	(void)revents;
	ev_io_stop(loop, w);
	fd = rpl_steal_fd(&s->connecting_fd);
	(void)getsockopt(fd, SOL_SOCKET, SO_ERROR, &problem, &len);
	if (problem) {
		rpl_log(RPL_LOG_DEBUG, "vm=%s peer=%s connect=\"%s\"", k->conf.vm, k->conf.peer_name, strerror(problem));
		(void)close(fd);
		connect_later(k);
		return;
	}
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	rpl_close(&s->waiting_fd);
	s->waiting_fd = fd;
	on_reached(k);
}

/* Split "host:port" or "[v6]:port" (the agent filled in defaults). */
static int split_address(const char *text, char *host, char *port, size_t size)
{
	const char *colon = strrchr(text, ':');
	size_t n = colon ? (size_t)(colon - text) : 0;

	if (!colon || n == 0 || n >= size || strlen(colon + 1) >= size || !colon[1])
		return -EINVAL;
	if (text[0] == '[' && n > 2 && text[n - 1] == ']') {
		text++;
		n -= 2;
	}
	(void)snprintf(host, size, "%.*s", (int)n, text);
	(void)snprintf(port, size, "%s", colon + 1);
	return 0;
}

/* Returns a socket whose connect() is under way, or a negative errno with *err. */
static int begin_connect(struct keeper *k, struct rpl_err *err)
{
	const struct resolve_address *peer = &k->session.peer;
	const struct sockaddr *at = (const struct sockaddr *)&peer->at;
	int fd, r = keeper_cleartext_check(k, at, err);

	if (r < 0)
		return r;
	fd = socket(at->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return rpl_fail_errno(err, errno, "socket");
	if (connect(fd, at, peer->len) < 0 && errno != EINPROGRESS) {
		r = rpl_fail_errno(err, errno, "connect to %s", k->conf.peer_address);
		rpl_close(&fd);
		return r;
	}
	return fd;
}

static void cannot_connect(struct keeper *k, const struct rpl_err *err)
{
	rpl_log(RPL_LOG_DEBUG, "vm=%s peer=%s connect=\"%s\"", k->conf.vm, k->conf.peer_name, err->msg);
	if (err->code == -EACCES || err->code == -EDESTADDRREQ)
		(void)snprintf(k->refused, sizeof(k->refused), "%s", err->msg);
	connect_later(k);
}

static void connect_to_peer(struct keeper *k)
{
	struct session *s = &k->session;
	struct rpl_err err = { 0 };

	stop_connecting(k);
	s->connecting_fd = begin_connect(k, &err);
	if (s->connecting_fd < 0) {
		cannot_connect(k, &err);
		return;
	}
	ev_io_init(&s->connecting, on_connected, s->connecting_fd, EV_WRITE);
	s->connecting.data = k;
	ev_io_start(k->loop, &s->connecting);
}

static int leads_nowhere(const struct keeper *k, const char *why, struct rpl_err *err)
{
	return rpl_fail(err, -EDESTADDRREQ, "the address of %s, '%s', leads nowhere: %s", k->conf.peer_name, k->conf.peer_address,
			why);
}

/* Where it has moved, a connection under way to where it was could take minutes to fail. */
static void on_resolved(void *arg, const char *problem, const struct resolve_address *found)
{
	struct keeper *k = arg;
	struct session *s = &k->session;
	struct rpl_err err = { 0 };
	bool moved = !problem && (found->len != s->peer.len || memcmp(&found->at, &s->peer.at, found->len) != 0);

	if (problem) {
		(void)leads_nowhere(k, problem, &err);
		if (s->wants_address)
			cannot_connect(k, &err);
		else /* where it was last is tried meanwhile */
			rpl_log(RPL_LOG_DEBUG, "vm=%s peer=%s resolve=\"%s\"", k->conf.vm, k->conf.peer_name, err.msg);
		return;
	}
	s->peer = *found;
	if (s->wants_address || (moved && s->connecting_fd >= 0))
		connect_to_peer(k);
}

/* 0: session.peer is where to connect to; -EINPROGRESS: on_resolved() goes on; else what is wrong. */
static int find_peer(struct keeper *k, struct rpl_err *err)
{
	char host[RESOLVE_TEXT], port[RESOLVE_TEXT];
	struct session *s = &k->session;
	int r;

	if (split_address(k->conf.peer_address, host, port, sizeof(host)) < 0)
		return leads_nowhere(k, "it is not HOST:PORT", err);
	if (resolve_numeric(host, port, &s->peer) == 0)
		return 0;
	r = resolve_ask(&s->resolve, k->loop, host, port, on_resolved, k, err);
	if (s->peer.len)
		return 0;
	return r < 0 ? r : -EINPROGRESS;
}

static void connect_now(struct keeper *k)
{
	struct rpl_err err = { 0 };
	int r;

	stop_connecting(k);
	r = find_peer(k, &err);
	if (r == 0)
		connect_to_peer(k);
	else if (r == -EINPROGRESS)
		k->session.wants_address = true;
	else
		cannot_connect(k, &err);
}

static int start_mover(struct keeper *k, struct rpl_err *err)
{
	const struct rpl_guest_info *info = rpl_guest_info(k->guest);
	struct rpl_mover_conf conf;
	int fds[RPL_MEMORY_FDS_MAX], r;
	size_t n = 0;

	r = keeper_mover_conf(k, k->movers, RPL_ROLE_PRIMARY, &conf, err);
	if (r < 0)
		return r;
	conf.definition_len = (uint32_t)movers_put_text(k->movers, info->definition);
	(void)snprintf(conf.machine, sizeof(conf.machine), "%s", info->machine);
	(void)snprintf(conf.producer, sizeof(conf.producer), "%s", info->producer);
	r = rpl_guest_memory(k->guest, &conf.memory, fds, &n, err);
	if (r < 0)
		return r;
	r = movers_start(k->movers, &conf, rpl_guest_state_fd(k->guest), fds, n, err);
	while (n)
		(void)close(fds[--n]);
	return r;
}

void session_start(struct keeper *k, const struct rpl_uuid *id, uint64_t generation)
{
	struct session *s = &k->session;

	movers_kill(k->movers);
	stop_connecting(k);
	s->wanted = true;
	s->telling = s->up = s->ready = false;
	s->round = s->retry_ms = 0;
	s->early_ack = 0;
	s->id = *id;
	s->generation = generation;
	k->heard_ns = 0;
	connect_now(k);
}

void session_end(struct keeper *k)
{
	k->session.wanted = k->session.telling = k->session.up = k->session.ready = false;
	stop_connecting(k);
	movers_retire(k->movers);
	checkpoint_on_mover_gone(&k->checkpoint, "the session ended");
}

/* An heir whose peer is not to be its backup is heard by nobody. But a peer that handed over waits to hear what became of it,
 * and with the arbiter manual one that was only cut off learns from nobody else that it is deposed. Our hello says all that. */
void session_tell_owner(struct keeper *k, const struct rpl_action *a)
{
	bool heir = a->u.state.from == RPL_ST_B_PROMOTE && k->at.handover;
	struct rpl_uuid id;

	if (k->session.telling)
		session_end(k);
	if (a->u.state.to != RPL_ST_P_SOLO || k->core.want || k->leaving || !*k->conf.peer_address ||
	    !(heir || (k->conf.manual && k->core.rec.generation > 1)))
		return;
	rpl_uuid_random(&id);
	session_start(k, &id, k->core.rec.generation);
	k->session.telling = true;
}

/* It has heard it, and wants a session or does not. */
static void told(struct keeper *k)
{
	movers_send(k->movers, RPL_MOVER_SEND, 0, RPL_FRAME_FORGET, 0, &k->session.id);
	session_end(k);
	k->refused[0] = '\0';
}

static void lost(struct keeper *k, const char *why, bool gone)
{
	struct session *s = &k->session;

	s->up = s->ready = false;
	stop_connecting(k);
	checkpoint_on_mover_gone(&k->checkpoint, why);
	if (s->wanted)
		say_lost(k, gone);
}

void session_on_gone(struct keeper *k, const char *why)
{
	lost(k, why, false);
}

/* The backup says that it holds nothing of the session. One that knows of a newer generation than we do has held it, and may
 * have run what it held. */
static bool gave_up(const struct keeper *k, const struct rpl_mover_msg *msg)
{
	return msg->epoch == ESTALE && k->core.rec_known && msg->generation <= k->core.rec.generation;
}

static void on_link_down(struct keeper *k, const struct rpl_mover_msg *msg)
{
	rpl_log(RPL_LOG_INFO, "vm=%s link=down void=%d reason=\"%s\"", k->conf.vm, (int)msg->value, msg->text);
	/* Trying again changes nothing about who we are: the operator hears of it, and the attempts go on meanwhile. */
	if (!k->session.up && (msg->epoch == EACCES || msg->epoch == ENOKEY || msg->epoch == EINVAL))
		(void)snprintf(k->refused, sizeof(k->refused), "link to %s: %s", k->conf.peer_name, msg->text);
	k->session.up = false;
	if (msg->value) {
		lost(k, msg->text, gave_up(k, msg));
		return;
	}
	keeper_say(k, RPL_EV_LINK_DOWN);
	connect_later(k);
}

static bool collect(struct keeper *k, uint64_t *ret_pages)
{
	struct rpl_err err;

	if (rpl_guest_collect(k->guest, ret_pages, &err) == 0)
		return true;
	if (err.code == -ESTALE) {
		life_on_event(k, RPL_GUEST_CHANGED, err.msg);
	} else {
		keeper_alarm(k, err.msg);
		(void)snprintf(k->refused, sizeof(k->refused), "%s", err.msg);
	}
	movers_kill(k->movers);
	lost(k, err.msg, false);
	return false;
}

/* manual: the backup can be ordered to take over only if it knows that it may. Told again whenever it may have been missed. */
void session_tell_record(struct keeper *k)
{
	const struct rpl_record *r = &k->core.rec;

	if (k->conf.manual && k->session.up && k->core.rec_known && r->mode == RPL_MODE_PROTECTED &&
	    rpl_uuid_equal(&r->session, &k->session.id))
		movers_send(k->movers, RPL_MOVER_SEND, r->generation, RPL_FRAME_PROTECTED, 0, &r->session);
}

static void on_peer_ready(struct keeper *k, const struct rpl_mover_msg *msg)
{
	struct session *s = &k->session;
	bool first = s->round == 0;
	uint64_t pages;

	if (s->telling) {
		told(k);
		return;
	}
	s->up = true;
	s->retry_ms = 0;
	k->refused[0] = '\0';
	keeper_say_link(k, RPL_EV_LINK_UP, &s->id, msg->epoch);
	session_tell_record(k);
	if (first && s->wanted && collect(k, &pages))
		movers_send(k->movers, RPL_MOVER_ROUND, 0, 0, 0, NULL);
}

static void on_round_done(struct keeper *k, const struct rpl_mover_msg *msg)
{
	struct session *s = &k->session;
	uint64_t dirty;

	s->round++;
	if (!collect(k, &dirty))
		return;
	if (dirty == UINT64_MAX) /* the mover knows */
		dirty = msg->epoch;
	rpl_log(RPL_LOG_DEBUG, "vm=%s round=%u sent=%llu dirty=%llu", k->conf.vm, s->round,
		(unsigned long long)msg->value, (unsigned long long)dirty);
	if (!rounds_converged(s->round, msg->value, dirty)) {
		movers_send(k->movers, RPL_MOVER_ROUND, 0, 0, 0, NULL);
		return;
	}
	keeper_say_session(k, RPL_EV_SYNC_READY, &s->id);
}

/* The page that both share tells, to whoever comes by. */
static void trace_sent(struct keeper *k, uint64_t epoch)
{
	uint64_t ns = atomic_load_explicit(&movers_counters(k->movers)->sent_ns[epoch % RPL_MOVER_SENT_EPOCHS], memory_order_relaxed);

	if (ns)
		rpl_trace_mark_at(k->trace, epoch, RPL_TRACE_SENT, ns);
}

void session_look(struct keeper *k)
{
	uint64_t newest = k->session.up ? k->core.sealed : 0;

	for (uint64_t e = newest; e > k->core.acked && e + RPL_MOVER_SENT_EPOCHS > newest; e--)
		trace_sent(k, e);
}

/* A quick backup acks while the guest is still being resumed. The core hears of it after CAPTURED: before, it does not
 * know that the epoch was sealed at all. */
static void on_acked(struct keeper *k, const struct rpl_mover_msg *msg)
{
	struct session *s = &k->session;

	k->acked_at_ns = rpl_recent_ns();
	trace_sent(k, msg->epoch);
	rpl_trace_mark_at(k->trace, msg->epoch, RPL_TRACE_ACKED, k->acked_at_ns);
	if (checkpoint_busy(&k->checkpoint) && k->checkpoint.epoch == msg->epoch) {
		s->early_ack = msg->epoch;
		s->early_ack_session = msg->uuid;
		return;
	}
	keeper_say_link(k, RPL_EV_ACK, &msg->uuid, msg->epoch);
	keeper_look_around(k);
}

void session_after_capture(struct keeper *k)
{
	uint64_t epoch = k->session.early_ack;

	k->session.early_ack = 0;
	if (epoch)
		keeper_say_link(k, RPL_EV_ACK, &k->session.early_ack_session, epoch);
}

void session_on_report(struct keeper *k, const struct rpl_mover_msg *msg)
{
	struct session *s = &k->session;

	switch ((enum rpl_mover_type)msg->type) {
	case RPL_MOVER_READY:
		s->ready = true;
		pass_link(k);
		break;
	case RPL_MOVER_LINK_UP:
		movers_send(k->movers, RPL_MOVER_SESSION, k->core.epoch, k->blackout_us, s->generation, &s->id);
		break;
	case RPL_MOVER_PEER_READY:
		on_peer_ready(k, msg);
		break;
	case RPL_MOVER_PEER_REFUSED:
		if (s->telling) {
			told(k);
			break;
		}
		rpl_log(RPL_LOG_WARNING, "vm=%s peer=%s refused=\"%s\"", k->conf.vm, k->conf.peer_name, msg->text);
		(void)snprintf(k->refused, sizeof(k->refused), "%s refuses: %s", k->conf.peer_name, msg->text);
		break;
	case RPL_MOVER_LINK_DOWN:
		on_link_down(k, msg);
		break;
	case RPL_MOVER_ROUND_DONE:
		on_round_done(k, msg);
		break;
	case RPL_MOVER_STAGED:
		rpl_trace_mark_at(k->trace, msg->epoch, RPL_TRACE_STAGED, rpl_recent_ns());
		rpl_trace_pages(k->trace, msg->epoch, msg->value);
		(void)checkpoint_on_staged(&k->checkpoint, msg->epoch, msg->value);
		break;
	case RPL_MOVER_ACKED:
		on_acked(k, msg);
		break;
	case RPL_MOVER_FULL:
		keeper_say(k, RPL_EV_BUFFER_FULL);
		break;
	case RPL_MOVER_FAILED:
		keeper_alarm(k, msg->text);
		break;
	default:
		break;
	}
}

void session_fini(struct keeper *k)
{
	stop_connecting(k);
	resolve_stop(&k->session.resolve, k->loop);
}
