/* The relay's control socket.
 *
 * A connection becomes *the keeper* with its first valid ATTACH, and the keeper before it is disconnected: one keeper
 * at a time. Until then it is a candidate that can neither see nor change anything, so that probing whether a relay is
 * alive disturbs nobody. A keeper that goes away changes nothing: what is held stays held (R2), what was released
 * goes on leaving. That output is held is also noted in a file beside the socket, for the relay that comes after a relay
 * that was killed. Requests that wait for frames to leave stand in one list, in the order they were asked.
 */
#define _GNU_SOURCE
#include "relayd.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <ev.h>

#include <replicad/auto.h>
#include <replicad/io.h>
#include <replicad/log.h>

#include "relay_proto.h"

#define CONNECTIONS_MAX 4
#define WAITERS_MAX (3 * RPL_NETBUF_PENDING_MAX)

struct waiter {
	struct rpl_relay_req q;
	uint64_t mark; /* complete once that many frames have left the hold */
};

struct connection {
	struct rpl_relay_ctl *c;
	int fd;
	struct ev_io io;
	uint64_t since; /* the oldest candidate makes room */
};

struct rpl_relay_ctl {
	struct ev_loop *loop;
	struct rpl_hold *hold;
	struct rpl_relay_io *io;
	const char *vm, *path;
	int listener;
	struct ev_io accept;
	struct ev_timer status;
	struct connection conn[CONNECTIONS_MAX];
	struct connection *keeper;
	uint64_t accepted;
	struct waiter waiter[WAITERS_MAX];
	uint32_t n_waiters;
	struct rpl_relay_msg last; /* what the keeper knows of the counters */
	bool warned;               /* of a filling queue; again after it was less than half the bound */
	bool overflowing;
	uint64_t full_seen;
};

static void close_connection(struct connection *k)
{
	struct rpl_relay_ctl *c = k->c;

	ev_io_stop(c->loop, &k->io);
	rpl_close(&k->fd);
	if (c->keeper != k)
		return;
	c->keeper = NULL;
	c->n_waiters = 0;
	rpl_log(RPL_LOG_INFO, "vm=%s relay=%s reason=\"the keeper is gone; what is held stays held\"", c->vm,
		c->path);
}

/* ---- what we say */

static void fill_status(struct rpl_relay_ctl *c, struct rpl_relay_msg *m)
{
	const struct rpl_relay_counters *n = rpl_relay_io_counters(c->io);
	struct rpl_hold_status s;

	rpl_hold_get_status(c->hold, &s);
	m->magic = RPL_RELAY_MAGIC;
	m->version = RPL_RELAY_VERSION;
	m->size = sizeof(*m);
	m->mode = s.mode;
	m->ports = rpl_relay_io_ports(c->io);
	m->epochs_max = RPL_HOLD_EPOCHS_MAX;
	m->held_frames = s.held_frames;
	m->held_bytes = s.held_bytes;
	m->sealed_epoch = s.sealed_epoch;
	m->released_epoch = s.released_epoch;
	m->passed_frames = n->passed_frames;
	m->passed_bytes = n->passed_bytes;
	m->dropped_frames = n->lost_frames + s.full_frames + s.gone_frames;
}

/* A keeper that does not read its answers hangs: it is disconnected, and finds the state again when it attaches. */
static void say(struct connection *k, struct rpl_relay_msg *m)
{
	int r;

	if (k->fd < 0)
		return;
	fill_status(k->c, m);
	r = rpl_send_fds(k->fd, m, sizeof(*m), NULL, 0);
	if (r < 0)
		close_connection(k);
	else if (k == k->c->keeper)
		k->c->last = *m;
}

static void answer(struct connection *k, const struct rpl_relay_req *q, const struct rpl_err *err)
{
	struct rpl_relay_msg m = { .kind = RPL_RELAY_ANSWER, .op = q->op, .id = q->id, .epoch = q->epoch };

	if (err && err->code < 0) {
		m.result = err->code;
		memcpy(m.text, err->msg, strnlen(err->msg, sizeof(m.text) - 1));
		rpl_log(RPL_LOG_WARNING, "vm=%s relay=%s op=%s epoch=%" PRIu64 " result=%d reason=\"%s\"", k->c->vm,
			k->c->path, rpl_netbuf_op_name(q->op), q->epoch, err->code, err->msg);
	}
	say(k, &m);
}

static void answer_complete(struct rpl_relay_ctl *c)
{
	uint32_t done = 0;

	while (c->keeper && done < c->n_waiters && rpl_hold_left(c->hold) >= c->waiter[done].mark)
		answer(c->keeper, &c->waiter[done++].q, NULL);
	if (!c->keeper)
		return; /* it went while we answered; the list is empty */
	c->n_waiters -= done;
	memmove(c->waiter, c->waiter + done, c->n_waiters * sizeof(c->waiter[0]));
}

static void cancel_waiters(struct rpl_relay_ctl *c, enum rpl_netbuf_op why)
{
	uint32_t count = c->n_waiters;
	struct rpl_err err = { 0 };

	c->n_waiters = 0;
	(void)rpl_fail(&err, -ECANCELED, "the frames were thrown away by %s", rpl_netbuf_op_name(why));
	for (uint32_t i = 0; i < count && c->keeper; i++)
		answer(c->keeper, &c->waiter[i].q, &err);
}

static void warn_nearly_full(struct rpl_relay_ctl *c)
{
	struct rpl_relay_msg m = { .kind = RPL_RELAY_NEARLY_FULL };
	struct rpl_hold_status s;

	if (!rpl_hold_nearly_full(c->hold)) {
		c->warned = false;
		return;
	}
	if (c->warned)
		return;
	c->warned = true;
	rpl_hold_get_status(c->hold, &s);
	(void)snprintf(m.text, sizeof(m.text), "vm %.60s: the relay holds %" PRIu64 " frames, %" PRIu64
		       " bytes: more than 3/4 of its limit", c->vm, s.held_frames, s.held_bytes);
	if (c->keeper)
		say(c->keeper, &m);
}

static void note_overflow(struct rpl_relay_ctl *c)
{
	struct rpl_hold_status s;
	bool now;

	rpl_hold_get_status(c->hold, &s);
	now = s.full_frames > c->full_seen;
	c->full_seen = s.full_frames;
	if (now && !c->overflowing)
		rpl_log(RPL_LOG_WARNING, "vm=%s relay=%s held_frames=%" PRIu64 " held_bytes=%" PRIu64
			" dropped=%" PRIu64 " reason=\"the hold is full: frames are dropped until an epoch is released\"",
			c->vm, c->path, s.held_frames, s.held_bytes, s.full_frames);
	c->overflowing = now || (c->overflowing && rpl_hold_nearly_full(c->hold));
}

void rpl_relay_ctl_moved(struct rpl_relay_ctl *c)
{
	answer_complete(c);
	warn_nearly_full(c);
	note_overflow(c);
}

static void status_cb(struct ev_loop *loop, struct ev_timer *w, int revents)
{
	struct rpl_relay_ctl *c = w->data;
	struct rpl_relay_msg m = { .kind = RPL_RELAY_STATUS }, *l = &c->last;

	(void)loop;
	(void)revents;
	if (!c->keeper)
		return;
	fill_status(c, &m);
	if (m.held_frames != l->held_frames || m.passed_frames != l->passed_frames ||
	    m.dropped_frames != l->dropped_frames)
		say(c->keeper, &m);
}

/* ---- the note for the relay after us */

static int held_path(const char *control, char path[PATH_MAX])
{
	return (size_t)snprintf(path, PATH_MAX, "%s.held", control) < PATH_MAX ? 0 : -ENAMETOOLONG;
}

bool rpl_relay_was_held(const char *control)
{
	char path[PATH_MAX];

	return held_path(control, path) == 0 && access(path, F_OK) == 0;
}

/* Make the file there exactly while output is held. */
static int note_held(struct rpl_relay_ctl *c, struct rpl_err *err)
{
	RPL_AUTO_FD int fd = -1;
	struct rpl_hold_status s;
	char path[PATH_MAX];

	rpl_hold_get_status(c->hold, &s);
	if (held_path(c->path, path) < 0)
		return rpl_fail(err, -ENAMETOOLONG, "control path %.100s... is too long", c->path);
	if (s.mode != RPL_HOLD_HOLD) {
		(void)unlink(path); /* most often it is not there */
		return 0;
	}
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return rpl_fail_errno(err, errno, "note in %s that output is held", path);
	return 0;
}

/* ---- what we are told */

static void become_keeper(struct connection *k)
{
	struct rpl_relay_ctl *c = k->c;
	struct rpl_hold_status s;

	if (c->keeper == k)
		return;
	if (c->keeper)
		close_connection(c->keeper);
	c->keeper = k;
	rpl_hold_get_status(c->hold, &s);
	rpl_log(RPL_LOG_INFO, "vm=%s relay=%s mode=%s sealed=%" PRIu64 " released=%" PRIu64 " held_frames=%" PRIu64
		" reason=\"a keeper attached\"", c->vm, c->path, rpl_hold_mode_name(s.mode), s.sealed_epoch,
		s.released_epoch, s.held_frames);
}

static void wait_for(struct rpl_relay_ctl *c, const struct rpl_relay_req *q, uint64_t mark)
{
	struct rpl_err err = { 0 };

	if (c->n_waiters == WAITERS_MAX) {
		(void)rpl_fail(&err, -EBUSY, "%d requests wait for frames to leave", WAITERS_MAX);
		answer(c->keeper, q, &err);
		return;
	}
	c->waiter[c->n_waiters++] = (struct waiter){ .q = *q, .mark = mark };
	rpl_relay_io_pump(c->io);
	rpl_relay_ctl_moved(c);
}

static void log_mode(struct rpl_relay_ctl *c, const char *from)
{
	struct rpl_hold_status s;

	rpl_hold_get_status(c->hold, &s);
	if (strcmp(from, rpl_hold_mode_name(s.mode)) != 0)
		rpl_log(RPL_LOG_INFO, "vm=%s relay=%s from=%s to=%s held_frames=%" PRIu64 " reason=\"the keeper asked\"",
			c->vm, c->path, from, rpl_hold_mode_name(s.mode), s.held_frames);
}

static int seal(struct rpl_relay_ctl *c, uint64_t epoch, struct rpl_err *err)
{
	if (rpl_relay_io_drain(c->io) < 0)
		return rpl_fail(err, -EBUSY, "seal of epoch %" PRIu64 ": the guest goes on sending: is it paused?",
				epoch);
	return rpl_hold_seal(c->hold, epoch, err);
}

static void discard(struct rpl_relay_ctl *c, enum rpl_netbuf_op op)
{
	/* What the guest sent before this moment goes too; a guest that goes on sending is held or shut anyway. */
	(void)rpl_relay_io_drain(c->io);
	if (op == RPL_NETBUF_SHUT) {
		rpl_hold_shut(c->hold);
		rpl_relay_io_discard_inbound(c->io);
	} else {
		rpl_hold_drop(c->hold);
	}
	cancel_waiters(c, op);
}

static void perform(struct connection *k, const struct rpl_relay_req *q)
{
	struct rpl_relay_ctl *c = k->c;
	struct rpl_err err = { 0 };
	struct rpl_hold_status s;
	uint64_t mark;

	rpl_hold_get_status(c->hold, &s);
	switch ((enum rpl_netbuf_op)q->op) {
	case RPL_NETBUF_ATTACH:
		become_keeper(k);
		answer(k, q, NULL);
		break;
	case RPL_NETBUF_HOLD:
		(void)rpl_relay_io_drain(c->io); /* sent before the hold: leaves */
		mark = rpl_hold_hold(c->hold);
		log_mode(c, rpl_hold_mode_name(s.mode));
		if (note_held(c, &err) < 0)
			answer(k, q, &err); /* it is held, but must not be relied on */
		else
			wait_for(c, q, mark);
		break;
	case RPL_NETBUF_SEAL:
		(void)seal(c, q->epoch, &err);
		answer(k, q, &err);
		rpl_relay_ctl_moved(c);
		break;
	case RPL_NETBUF_RELEASE:
		if (rpl_hold_release(c->hold, q->epoch, &mark, &err) < 0)
			answer(k, q, &err);
		else
			wait_for(c, q, mark);
		break;
	case RPL_NETBUF_OPEN:
		mark = rpl_hold_open(c->hold);
		(void)note_held(c, NULL); /* taking the file away cannot fail in a way that matters */
		log_mode(c, rpl_hold_mode_name(s.mode));
		wait_for(c, q, mark);
		break;
	case RPL_NETBUF_DROP:
	case RPL_NETBUF_SHUT:
		discard(c, (enum rpl_netbuf_op)q->op);
		(void)note_held(c, &err);
		log_mode(c, rpl_hold_mode_name(s.mode));
		answer(k, q, &err);
		break;
	case RPL_NETBUF_NOPS:
		rpl_assert(!"the decoder lets no such operation pass");
	}
}

static void request_cb(struct ev_loop *loop, struct ev_io *w, int revents)
{
	struct connection *k = w->data;
	struct rpl_relay_ctl *c = k->c;
	struct rpl_relay_req q;
	struct rpl_err err = { 0 };
	uint8_t packet[sizeof(q) + 1];
	ssize_t len = rpl_recv_fds(k->fd, packet, sizeof(packet), NULL, NULL);

	(void)loop;
	(void)revents;
	if (len == -EAGAIN)
		return;
	if (len <= 0) {
		close_connection(k);
		return;
	}
	if (rpl_relay_req_decode(packet, (size_t)len, &q, &err) < 0) {
		q = (struct rpl_relay_req){ .op = RPL_NETBUF_ATTACH };
		answer(k, &q, &err);
		if (k->fd >= 0)
			close_connection(k);
		return;
	}
	if (k != c->keeper && q.op != RPL_NETBUF_ATTACH) {
		(void)rpl_fail(&err, -EPROTO, "%s before attach", rpl_netbuf_op_name(q.op));
		answer(k, &q, &err);
		return;
	}
	perform(k, &q);
}

/* ---- connections */

static bool allowed(struct rpl_relay_ctl *c, int fd)
{
	struct ucred who;
	socklen_t len = sizeof(who);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) < 0)
		return false;
	if (who.uid == 0 || who.uid == geteuid())
		return true;
	rpl_log(RPL_LOG_WARNING, "vm=%s relay=%s uid=%u pid=%d reason=\"refused a control connection: only root and uid %u may\"",
		c->vm, c->path, who.uid, who.pid, geteuid());
	return false;
}

static struct connection *free_slot(struct rpl_relay_ctl *c)
{
	struct connection *oldest = NULL;

	for (unsigned i = 0; i < CONNECTIONS_MAX; i++) {
		struct connection *k = &c->conn[i];

		if (k->fd < 0)
			return k;
		if (k != c->keeper && (!oldest || k->since < oldest->since))
			oldest = k;
	}
	close_connection(oldest);
	return oldest;
}

static void accept_cb(struct ev_loop *loop, struct ev_io *w, int revents)
{
	struct rpl_relay_ctl *c = w->data;
	RPL_AUTO_FD int fd = accept4(c->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	struct connection *k;

	(void)revents;
	if (fd < 0 || !allowed(c, fd))
		return;
	k = free_slot(c);
	k->fd = rpl_steal_fd(&fd);
	k->since = c->accepted++;
	ev_io_set(&k->io, k->fd, EV_READ);
	ev_io_start(loop, &k->io);
}

static int listen_at(const char *path, struct rpl_err *err)
{
	RPL_AUTO_FD int probe = rpl_unix_connect(path, SOCK_SEQPACKET, NULL);

	if (probe >= 0)
		return rpl_fail(err, -EADDRINUSE, "a relay answers at %s already: it serves that guest", path);
	return rpl_unix_listen(path, SOCK_SEQPACKET | SOCK_NONBLOCK, err);
}

struct rpl_relay_ctl *rpl_relay_ctl_new(struct ev_loop *loop, struct rpl_hold *hold, struct rpl_relay_io *io,
					const char *vm, const char *path, struct rpl_err *err)
{
	struct rpl_relay_ctl *c = calloc(1, sizeof(*c));

	if (!c) {
		(void)rpl_fail(err, -ENOMEM, "vm %s: no memory for the relay's control", vm);
		return NULL;
	}
	c->loop = loop;
	c->hold = hold;
	c->io = io;
	c->vm = vm;
	c->path = path;
	c->listener = listen_at(path, err);
	if (c->listener < 0 || note_held(c, err) < 0) {
		rpl_close(&c->listener);
		free(c);
		return NULL;
	}
	for (unsigned i = 0; i < CONNECTIONS_MAX; i++) {
		c->conn[i].c = c;
		c->conn[i].fd = -1;
		ev_init(&c->conn[i].io, request_cb);
		c->conn[i].io.data = &c->conn[i];
	}
	ev_io_init(&c->accept, accept_cb, c->listener, EV_READ);
	c->accept.data = c;
	ev_io_start(loop, &c->accept);
	ev_timer_init(&c->status, status_cb, RPL_RELAY_STATUS_MS / 1000.0, RPL_RELAY_STATUS_MS / 1000.0);
	c->status.data = c;
	ev_timer_start(loop, &c->status);
	return c;
}

void rpl_relay_ctl_free(struct rpl_relay_ctl *c)
{
	if (!c)
		return;
	ev_timer_stop(c->loop, &c->status);
	ev_io_stop(c->loop, &c->accept);
	for (unsigned i = 0; i < CONNECTIONS_MAX; i++) {
		ev_io_stop(c->loop, &c->conn[i].io);
		rpl_close(&c->conn[i].fd);
	}
	(void)unlink(c->path);
	rpl_close(&c->listener);
	free(c);
}
