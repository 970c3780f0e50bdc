/* The relay's ports: frames between QEMU's datagram sockets and the outside.
 *
 * Out: the guest's frames are read in batches and offered to the hold, which says pass, keep or gone. Kept frames that
 * may leave are sent by pump(), oldest first. A tap takes every frame at once; a wire (tests) may be full, then pump()
 * is called again every OUT_RETRY_MS, and after OUT_STALL_MS without progress the port's frames are dropped until one
 * goes through: a network may lose packets, and a queue must not wait for ever.
 *
 * In: frames are read from the outside only while the batch before them has been taken by QEMU, so a paused guest
 * backs up into the tap's own queue, which is bounded. Sending uses a socket of its own, connected to QEMU's:
 * connected, poll tells truly when there is room, and no path is looked up for each frame.
 *
 * The socket on which we receive is connected to QEMU's as well. Unix datagram queues take only
 * net.unix.max_dgram_qlen + 1 datagrams (10 + 1 by default) from a sender, *unless the receiver is connected to that
 * sender*: then only its send buffer limits it. (What still waits inside QEMU when the guest is paused is thrown away
 * by QEMU, so a short queue would cost frames at each checkpoint.) It also means that nobody but this QEMU can put
 * frames in. The price: a QEMU that was restarted is refused (EPERM) until we have connected to its new socket, so a
 * timer looks every PEER_CHECK_MS whether the socket's file is another one; a failed send finds out at once.
 */
#define _GNU_SOURCE
#include "relayd.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <ev.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/io.h>
#include <replicad/log.h>

#define BATCH 32
#define DRAIN_BATCHES_MAX 4096 /* a paused guest's sockets are empty long before */
#define PUMP_FRAMES 64 /* at a time: a seal, for which a guest stands paused, must not wait for a whole epoch to leave */
#define OUT_RETRY_MS 1
#define OUT_STALL_MS 1000
#define PEER_CHECK_MS 100
#define SOCKET_BUFFER (4 * 1024 * 1024)

struct batch {
	uint8_t *bytes; /* BATCH frames of RPL_HOLD_FRAME_MAX */
	struct mmsghdr msg[BATCH];
	struct iovec iov[BATCH];
};

/* One direction's way out: a connected datagram socket that survives the other side's restart. */
struct way {
	int fd;
	const char *path;
	int receiver; /* of ours, to be connected there too; or -1 */
	struct stat file; /* the socket file to which we are connected */
};

struct port {
	struct rpl_relay_io *io;
	struct rpl_relay_port_conf conf;
	uint32_t index;
	int guest;           /* bound at conf.local: the guest's frames arrive here */
	struct way to_guest; /* connected to conf.peer */
	int outside;         /* the tap, or bound at conf.wire */
	struct way to_wire;
	struct ev_io guest_in, outside_in, guest_room;
	struct batch in;
	unsigned in_first, in_count; /* frames of `in` still to be sent to the guest */
	uint64_t stalled_since;      /* 0: the outside takes frames */
	bool stalled;                /* since longer than OUT_STALL_MS: drop instead of waiting */
};

struct rpl_relay_io {
	struct ev_loop *loop;
	struct rpl_hold *hold;
	const char *vm;
	void (*moved)(void *arg);
	void *arg;
	struct rpl_relay_counters n;
	struct batch out;
	struct ev_timer retry, check;
	uint32_t n_ports;
	struct port *port[RPL_RELAY_PORTS_MAX];
};

/* ---- batches and ways */

static int batch_init(struct batch *b)
{
	b->bytes = malloc((size_t)BATCH * RPL_HOLD_FRAME_MAX);
	if (!b->bytes)
		return -ENOMEM;
	for (unsigned i = 0; i < BATCH; i++) {
		b->iov[i].iov_base = b->bytes + (size_t)i * RPL_HOLD_FRAME_MAX;
		b->iov[i].iov_len = RPL_HOLD_FRAME_MAX;
		b->msg[i].msg_hdr.msg_iov = &b->iov[i];
		b->msg[i].msg_hdr.msg_iovlen = 1;
	}
	return 0;
}

static void batch_fini(struct batch *b)
{
	free(b->bytes);
}

/* Receive up to BATCH datagrams; sizes in msg[i].msg_len. The count, or a negative errno. */
static int batch_receive(struct batch *b, int fd)
{
	int n;

	for (unsigned i = 0; i < BATCH; i++)
		b->iov[i].iov_len = RPL_HOLD_FRAME_MAX;
	do
		n = recvmmsg(fd, b->msg, BATCH, MSG_DONTWAIT, NULL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

/* Read up to BATCH frames of a tap. */
static int batch_read(struct batch *b, int fd)
{
	int n = 0;

	while (n < BATCH) {
		ssize_t len = read(fd, b->iov[n].iov_base, RPL_HOLD_FRAME_MAX);

		if (len < 0 && errno == EINTR)
			continue;
		if (len < 0)
			return n ? n : -errno;
		b->msg[n].msg_hdr.msg_flags = 0;
		b->msg[n++].msg_len = (unsigned)len;
	}
	return n;
}

/* To another peer than before, connect() throws away what is in the receiver's queue: the last frames of a QEMU that is
 * gone. */
static void connect_receiver(const struct way *w)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };

	if (w->receiver < 0)
		return;
	memcpy(sa.sun_path, w->path, strlen(w->path) + 1); /* rpl_unix_connect() has checked the length */
	/* If that fails QEMU has just gone, and the next check or send tries again. */
	(void)connect(w->receiver, (struct sockaddr *)&sa, sizeof(sa));
}

static int way_connect(struct way *w)
{
	int bytes = SOCKET_BUFFER;

	rpl_close(&w->fd);
	if (stat(w->path, &w->file) < 0) /* before connecting: replaced in between, it differs at the next check */
		return -ENOTCONN;
	w->fd = rpl_unix_connect(w->path, SOCK_DGRAM | SOCK_NONBLOCK, NULL);
	if (w->fd < 0)
		return -ENOTCONN;
	/* Capped by net.core.wmem_max; a smaller buffer costs throughput only. */
	(void)setsockopt(w->fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	connect_receiver(w);
	return 0;
}

/* Is another socket file there than the one to which we are connected? Inode numbers are used again; ctime tells. */
static bool way_is_stale(const struct way *w)
{
	struct stat now;

	if (stat(w->path, &now) < 0)
		return false; /* nothing to connect to; what we have may still live */
	return w->fd < 0 || now.st_dev != w->file.st_dev || now.st_ino != w->file.st_ino ||
	       now.st_ctim.tv_sec != w->file.st_ctim.tv_sec || now.st_ctim.tv_nsec != w->file.st_ctim.tv_nsec;
}

static bool peer_is_gone(int e)
{
	return e == ECONNREFUSED || e == ENOTCONN || e == ECONNRESET || e == EPIPE || e == ENOENT || e == EBADF;
}

/* Send messages; the count sent (at least 1), -EAGAIN, or another negative errno for the first of them. */
static int way_send(struct way *w, struct mmsghdr *msg, unsigned count)
{
	for (int attempt = 0;; attempt++) {
		int n = w->fd < 0 ? -1 : sendmmsg(w->fd, msg, count, MSG_DONTWAIT | MSG_NOSIGNAL);
		int e = w->fd < 0 ? ENOTCONN : errno;

		if (n > 0)
			return n;
		if (n < 0 && e == EINTR)
			continue;
		if (!peer_is_gone(e) || attempt)
			return -e;
		if (way_connect(w) < 0)
			return -ENOTCONN;
	}
}

/* ---- out */

/* Pump again, after the loop has looked at everything else. */
static void start_retry(struct rpl_relay_io *io, unsigned delay_ms)
{
	if (ev_is_active(&io->retry))
		return;
	ev_timer_set(&io->retry, delay_ms / 1000.0, 0);
	ev_timer_start(io->loop, &io->retry);
}

/* One frame to the outside: 0 (it left or is lost), or -EAGAIN: try again later. */
static int send_outside(struct port *p, struct iovec *piece, int pieces)
{
	struct rpl_relay_io *io = p->io;
	size_t len = piece[0].iov_len + (pieces > 1 ? piece[1].iov_len : 0);
	int r = 0;

	if (p->conf.tap) {
		if (writev(p->outside, piece, pieces) < 0)
			r = -errno;
	} else {
		struct mmsghdr m = { .msg_hdr = { .msg_iov = piece, .msg_iovlen = (size_t)pieces } };

		r = way_send(&p->to_wire, &m, 1);
	}
	if (r == -EAGAIN || r == -ENOBUFS || r == -EINTR) {
		uint64_t now = rpl_now_ns();

		if (!p->stalled_since)
			p->stalled_since = now;
		p->stalled |= now - p->stalled_since > OUT_STALL_MS * RPL_MS;
		if (!p->stalled)
			return -EAGAIN;
		io->n.lost_frames++;
		return 0;
	}
	p->stalled_since = 0;
	p->stalled = false;
	if (r < 0) {
		io->n.lost_frames++;
		return 0;
	}
	io->n.passed_frames++;
	io->n.passed_bytes += len;
	return 0;
}

void rpl_relay_io_pump(struct rpl_relay_io *io)
{
	struct iovec piece[2];
	unsigned sent = 0;
	uint32_t port;
	int pieces;

	while ((pieces = rpl_hold_next(io->hold, piece, &port)) > 0) {
		if (sent++ == PUMP_FRAMES) {
			start_retry(io, 0);
			return;
		}
		if (send_outside(io->port[port], piece, pieces) < 0) {
			start_retry(io, OUT_RETRY_MS);
			return;
		}
		rpl_hold_pop(io->hold);
	}
}

static void retry_cb(struct ev_loop *loop, struct ev_timer *w, int revents)
{
	struct rpl_relay_io *io = w->data;

	(void)loop;
	(void)revents;
	rpl_relay_io_pump(io);
	io->moved(io->arg);
}

static void take_frame(struct port *p, void *frame, size_t len, bool cut)
{
	struct rpl_relay_io *io = p->io;
	struct iovec piece = { .iov_base = frame, .iov_len = len };

	if (cut || len == 0 || len > RPL_HOLD_FRAME_MAX) {
		io->n.lost_frames++;
		return;
	}
	if (rpl_hold_push(io->hold, p->index, frame, len) != RPL_HOLD_PASS)
		return;
	if (send_outside(p, &piece, 1) < 0) {
		(void)rpl_hold_keep(io->hold, p->index, frame, len);
		start_retry(io, OUT_RETRY_MS);
	}
}

/* One batch of the guest's frames. The count, or a negative errno. */
static int take_batch(struct port *p)
{
	struct batch *b = &p->io->out;
	int n = batch_receive(b, p->guest);

	for (int i = 0; i < n; i++)
		take_frame(p, b->iov[i].iov_base, b->msg[i].msg_len, b->msg[i].msg_hdr.msg_flags & MSG_TRUNC);
	return n;
}

static void guest_in_cb(struct ev_loop *loop, struct ev_io *w, int revents)
{
	struct port *p = w->data;

	(void)loop;
	(void)revents;
	(void)take_batch(p); /* an error of a bound datagram socket leaves it usable: the next event tries again */
	p->io->moved(p->io->arg);
}

int rpl_relay_io_drain(struct rpl_relay_io *io)
{
	for (uint32_t i = 0; i < io->n_ports; i++) {
		unsigned batches = 0;

		while (take_batch(io->port[i]) > 0)
			if (++batches == DRAIN_BATCHES_MAX)
				return -EBUSY;
	}
	return 0;
}

/* ---- in */

static void inbound_done(struct port *p)
{
	p->in_count = 0;
	if (ev_is_active(&p->guest_room))
		ev_io_stop(p->io->loop, &p->guest_room);
	if (p->outside >= 0)
		ev_io_start(p->io->loop, &p->outside_in);
}

static void inbound_wait(struct port *p)
{
	ev_io_stop(p->io->loop, &p->outside_in);
	if (ev_is_active(&p->guest_room) && p->guest_room.fd == p->to_guest.fd)
		return;
	ev_io_stop(p->io->loop, &p->guest_room);
	ev_io_set(&p->guest_room, p->to_guest.fd, EV_WRITE);
	ev_io_start(p->io->loop, &p->guest_room);
}

static void inbound_send(struct port *p)
{
	struct rpl_relay_io *io = p->io;
	int kept = p->to_guest.fd;

	while (p->in_count) {
		int n = way_send(&p->to_guest, &p->in.msg[p->in_first], p->in_count);

		if (p->to_guest.fd != kept) { /* connected anew: the watcher must not stay with a closed descriptor */
			ev_io_stop(io->loop, &p->guest_room);
			kept = p->to_guest.fd;
		}
		if (n == -EAGAIN) {
			inbound_wait(p);
			return;
		}
		if (n < 0) { /* nobody there, or a frame that QEMU's socket refuses */
			io->n.lost_frames++;
			n = 1;
		} else {
			io->n.inbound_frames += (unsigned)n;
			for (int i = 0; i < n; i++)
				io->n.inbound_bytes += p->in.msg[p->in_first + (unsigned)i].msg_len;
		}
		p->in_first += (unsigned)n;
		p->in_count -= (unsigned)n;
	}
	inbound_done(p);
}

static void check_cb(struct ev_loop *loop, struct ev_timer *w, int revents)
{
	struct rpl_relay_io *io = w->data;

	(void)loop;
	(void)revents;
	for (uint32_t i = 0; i < io->n_ports; i++) {
		struct port *p = io->port[i];

		if (!way_is_stale(&p->to_guest))
			continue;
		ev_io_stop(io->loop, &p->guest_room); /* its descriptor is about to be closed */
		(void)way_connect(&p->to_guest);
		if (p->in_count)
			inbound_send(p);
	}
}

static void guest_room_cb(struct ev_loop *loop, struct ev_io *w, int revents)
{
	(void)loop;
	(void)revents;
	inbound_send(w->data);
}

/* The tap was deleted under us: without this the loop would spin on it. */
static void outside_lost(struct port *p, int r)
{
	rpl_log(RPL_LOG_ERROR, "vm=%s port=%u tap=%s reason=\"the device is gone (%s): the guest has no network here; restart the relay\"",
		p->io->vm, p->index, p->conf.tap ? p->conf.tap : p->conf.wire, strerror(-r));
	ev_io_stop(p->io->loop, &p->outside_in);
	rpl_close(&p->outside);
}

static void outside_in_cb(struct ev_loop *loop, struct ev_io *w, int revents)
{
	struct port *p = w->data;
	int n = p->conf.tap ? batch_read(&p->in, p->outside) : batch_receive(&p->in, p->outside);

	(void)loop;
	(void)revents;
	if (n == -EAGAIN || n == 0)
		return;
	if (n < 0) {
		if (p->conf.tap && n != -EIO) /* EIO: it is down just now */
			outside_lost(p, n);
		return;
	}
	if (!rpl_hold_inbound(p->io->hold)) {
		p->io->n.lost_frames += (unsigned)n;
		return;
	}
	for (int i = 0; i < n; i++)
		p->in.iov[i].iov_len = p->in.msg[i].msg_len;
	p->in_first = 0;
	p->in_count = (unsigned)n;
	inbound_send(p);
}

void rpl_relay_io_discard_inbound(struct rpl_relay_io *io)
{
	for (uint32_t i = 0; i < io->n_ports; i++) {
		io->n.lost_frames += io->port[i]->in_count;
		inbound_done(io->port[i]);
	}
}

/* ---- setting up */

struct rpl_relay_io *rpl_relay_io_new(struct ev_loop *loop, struct rpl_hold *hold, const char *vm,
				      void (*moved)(void *arg), void *arg, struct rpl_err *err)
{
	struct rpl_relay_io *io = calloc(1, sizeof(*io));

	if (!io || batch_init(&io->out) < 0) {
		free(io);
		(void)rpl_fail(err, -ENOMEM, "vm %s: no memory for the relay's batches", vm);
		return NULL;
	}
	io->loop = loop;
	io->hold = hold;
	io->vm = vm;
	io->moved = moved;
	io->arg = arg;
	ev_init(&io->retry, retry_cb);
	ev_timer_init(&io->check, check_cb, 0, PEER_CHECK_MS / 1000.0);
	io->retry.data = io->check.data = io;
	ev_timer_start(loop, &io->check);
	return io;
}

static void port_free(struct port *p)
{
	if (!p)
		return;
	ev_io_stop(p->io->loop, &p->guest_in);
	ev_io_stop(p->io->loop, &p->outside_in);
	ev_io_stop(p->io->loop, &p->guest_room);
	if (p->guest >= 0)
		(void)unlink(p->conf.local);
	if (p->outside >= 0 && p->conf.wire)
		(void)unlink(p->conf.wire);
	rpl_close(&p->guest);
	rpl_close(&p->outside);
	rpl_close(&p->to_guest.fd);
	rpl_close(&p->to_wire.fd);
	batch_fini(&p->in);
	free(p);
}

static int open_outside(struct port *p, struct rpl_err *err)
{
	p->outside = p->conf.tap ? rpl_relay_tap_open(p->conf.tap, p->conf.bridge, err) :
				   rpl_unix_listen(p->conf.wire, SOCK_DGRAM | SOCK_NONBLOCK, err);
	return p->outside < 0 ? p->outside : 0;
}

int rpl_relay_io_add(struct rpl_relay_io *io, const struct rpl_relay_port_conf *conf, struct rpl_err *err)
{
	struct port *p;
	int r;

	if (io->n_ports == RPL_RELAY_PORTS_MAX)
		return rpl_fail(err, -E2BIG, "vm %s: more than %d ports", io->vm, RPL_RELAY_PORTS_MAX);
	p = calloc(1, sizeof(*p));
	if (!p)
		return rpl_fail(err, -ENOMEM, "vm %s: no memory for port %s", io->vm, conf->local);
	p->io = io;
	p->conf = *conf;
	p->index = io->n_ports;
	p->guest = p->outside = p->to_guest.fd = p->to_wire.fd = -1;
	p->to_guest.receiver = p->to_wire.receiver = -1;
	p->to_guest.path = conf->peer;
	p->to_wire.path = conf->wire_peer;
	ev_init(&p->guest_in, guest_in_cb);
	ev_init(&p->outside_in, outside_in_cb);
	ev_init(&p->guest_room, guest_room_cb);
	p->guest_in.data = p->outside_in.data = p->guest_room.data = p;
	r = batch_init(&p->in);
	if (r < 0) {
		(void)rpl_fail(err, r, "vm %s: no memory for port %s", io->vm, conf->local);
		goto fail;
	}
	r = open_outside(p, err);
	if (r < 0)
		goto fail;
	r = p->guest = rpl_unix_listen(conf->local, SOCK_DGRAM | SOCK_NONBLOCK, err);
	if (r < 0)
		goto fail;
	if (conf->owned && chown(conf->local, conf->owner, (gid_t)-1) < 0) {
		r = rpl_fail_errno(err, errno, "vm %s: give %s to user %u", io->vm, conf->local, conf->owner);
		goto fail;
	}
	p->to_guest.receiver = p->guest;
	ev_io_set(&p->guest_in, p->guest, EV_READ);
	ev_io_set(&p->outside_in, p->outside, EV_READ);
	ev_io_start(io->loop, &p->guest_in);
	ev_io_start(io->loop, &p->outside_in);
	io->port[io->n_ports++] = p;
	return 0;
fail:
	port_free(p);
	return r;
}

uint32_t rpl_relay_io_ports(const struct rpl_relay_io *io)
{
	return io->n_ports;
}

const struct rpl_relay_counters *rpl_relay_io_counters(const struct rpl_relay_io *io)
{
	return &io->n;
}

void rpl_relay_io_free(struct rpl_relay_io *io)
{
	if (!io)
		return;
	ev_timer_stop(io->loop, &io->retry);
	ev_timer_stop(io->loop, &io->check);
	for (uint32_t i = 0; i < io->n_ports; i++)
		port_free(io->port[i]);
	batch_fini(&io->out);
	free(io);
}
