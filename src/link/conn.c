/* conn.c - one connection: preamble, TLS, frames, bounded queue (see link.h)
 *
 * Theory of operation. The socket is written in flush() and send_direct() only. Whatever is sent goes through the send
 * queue; it is written in the loop's next turn (on_kick, a timer of 0 s: it may be set from anywhere, the loop will not
 * sleep over it), or at once when FLUSH_BYTES wait. While the kernel takes no more, the write watcher is armed, otherwise
 * never: arming it for each small frame would cost two system calls. Large bodies in clear are handed to the kernel
 * straight from the caller's memory, and only what it does not take is copied.
 *
 * Callbacks go out from the loop only, never from inside rpl_link_send() and its like: an error found there is kept in
 * `broken` and reported by on_kick(). `depth` counts the callbacks we are inside of: a free in there marks the link
 * `doomed`, and the outermost frame of ours releases it.
 *
 * State: START (client: preamble and first flight are to be sent) or PREAMBLE (server: 32 bytes are due) -> TLS -> UP ->
 * FINISH (sending the rest, then waiting for the peer's close) -> DOWN. In clear, TLS is skipped. All bytes of a socket read are worked off before the next read, so the only
 * data that may wait elsewhere is in the kernel, and the level-triggered watcher tells of it.
 */
#include <replicad/link.h>

#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <ev.h>

#include <replicad/clock.h>
#include <replicad/io.h>
#include <replicad/log.h>

#include "frame.h"
#include "sendq.h"
#include "tls.h"

#define FLUSH_BYTES (256 * 1024)       /* so many waiting bytes are written without waiting for the loop */
#define DIRECT_BYTES (64 * 1024)       /* smaller bodies are not worth a system call of their own */
#define QUEUE_SPANS 32                 /* blocks in one write */
#define TURN_BYTES (4 * 1024 * 1024)   /* read in one turn of the loop, so that others get theirs */
#define CIPHER_BYTES (256 * 1024)      /* encrypted bytes read at once */
#define TLS_SLACK 512                  /* a key update and the like */

_Static_assert(RPL_FRAME_MAX + (RPL_FRAME_MAX / RPL_TLS_RECORD + 1) * RPL_TLS_OVERHEAD + TLS_SLACK <= RPL_LINK_QUEUE_MIN,
	       "the largest frame fits the smallest queue, encrypted too");

enum state { ST_START, ST_PREAMBLE, ST_TLS, ST_UP, ST_FINISH, ST_DOWN };

struct rpl_link {
	/* configuration */
	struct ev_loop *loop;
	const struct rpl_link_ops *ops;
	void *arg;
	struct rpl_uuid vm;
	unsigned handshake_timeout_ms;
	size_t queue_max;

	/* state */
	enum state state;
	int fd;
	ev_io rd, wr;
	ev_timer kick, deadline;
	struct rpl_err broken;     /* found outside the loop, to be reported from it */
	struct rpl_tls_conn *tls;
	struct rpl_framer rx;
	struct rpl_sendq q;
	uint64_t tx_seq, last_heard_ns, bytes_sent, bytes_received;
	bool starved;              /* somebody waits for writable() */
	bool wr_shut;              /* our direction is closed */
	bool got_eof;
	unsigned depth;            /* callbacks under way */
	bool doomed;               /* freed inside one */
	uint8_t preamble[RPL_PREAMBLE_SIZE];
	size_t preamble_len;
	size_t turn_left;          /* what may still be read in this turn */
	bool drained;              /* a read of this turn found less than it asked for: another one would find nothing */
	bool heard;                /* last_heard_ns is of what was read last */
	uint8_t *cipher;           /* CIPHER_BYTES, with TLS */
	size_t cipher_off, cipher_len;
};

/* ---- life */

static void stop_watchers(struct rpl_link *l)
{
	ev_io_stop(l->loop, &l->rd);
	ev_io_stop(l->loop, &l->wr);
	ev_timer_stop(l->loop, &l->kick);
	ev_timer_stop(l->loop, &l->deadline);
}

/* A keeper holds a copy of the descriptor, for cutting the connection itself: closing ours alone would tell nobody. */
static void hang_up(struct rpl_link *l)
{
	if (l->fd < 0)
		return;
	(void)shutdown(l->fd, SHUT_RDWR);
	(void)close(l->fd);
	l->fd = -1;
}

static void release(struct rpl_link *l)
{
	stop_watchers(l);
	rpl_tls_free(l->tls);
	rpl_framer_fini(&l->rx);
	rpl_sendq_fini(&l->q);
	free(l->cipher);
	hang_up(l);
	free(l);
}

static void enter(struct rpl_link *l)
{
	l->depth++;
}

/* A callback ends; after the outermost one the link may be gone. */
static void leave(struct rpl_link *l)
{
	rpl_assert(l->depth > 0);
	if (--l->depth == 0 && l->doomed)
		release(l);
}

/* The end of the connection, from the loop only. */
static void go_down(struct rpl_link *l, const struct rpl_err *err)
{
	struct rpl_err why = *err;

	if (l->state == ST_DOWN || l->doomed)
		return;
	l->state = ST_DOWN;
	stop_watchers(l);
	hang_up(l);
	rpl_log(RPL_LOG_DEBUG, "link down reason=\"%s\"", why.msg);
	l->ops->down(l->arg, &why);
}

static bool over(const struct rpl_link *l)
{
	return l->state == ST_DOWN || l->doomed;
}

/* Have on_kick() called in the loop's next turn. */
static void wake(struct rpl_link *l)
{
	if (over(l) || ev_is_active(&l->kick))
		return;
	ev_timer_set(&l->kick, 0., 0.);
	ev_timer_start(l->loop, &l->kick);
}

/* ---- sending */

static void break_link(struct rpl_link *l, const struct rpl_err *err)
{
	if (!l->broken.code)
		l->broken = *err;
	wake(l);
}

/* Write spans; returns how many bytes the kernel took, or a negative errno (never -EAGAIN: that is 0). */
static ssize_t write_spans(struct rpl_link *l, struct iovec *iov, int n)
{
	struct msghdr mh = { .msg_iov = iov, .msg_iovlen = (size_t)n };
	ssize_t sent;

	do
		sent = sendmsg(l->fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (sent < 0 && errno == EINTR);
	if (sent < 0)
		return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
	l->bytes_sent += (uint64_t)sent;
	return sent;
}

static int send_failed(int r, struct rpl_err *err)
{
	return rpl_fail_errno(err, rpl_hung_up(r) ? EPIPE : -r, "link: send");
}

/* Write what waits, as far as the kernel takes it. */
static int flush(struct rpl_link *l, struct rpl_err *err)
{
	while (l->q.bytes) {
		struct iovec iov[QUEUE_SPANS];
		int n = rpl_sendq_spans(&l->q, iov, QUEUE_SPANS);
		ssize_t sent = write_spans(l, iov, n);

		if (sent < 0)
			return send_failed((int)sent, err);
		if (sent == 0) {
			ev_io_start(l->loop, &l->wr);
			return 0;
		}
		rpl_sendq_take(&l->q, (size_t)sent);
	}
	ev_io_stop(l->loop, &l->wr);
	return 0;
}

void rpl_link_push(struct rpl_link *l)
{
	struct rpl_err err = { 0 };

	if (l->state != ST_UP || l->broken.code || l->doomed || !l->q.bytes || ev_is_active(&l->wr))
		return;
	if (flush(l, &err) < 0)
		break_link(l, &err);
	else if (!l->starved)
		ev_timer_stop(l->loop, &l->kick); /* there is nothing left for it; what the kernel did not take has its watcher */
}

static int enqueue(struct rpl_link *l, const void *data, size_t len)
{
	return rpl_sendq_put(&l->q, data, len);
}

/* Queue what lies beyond the first `skip` bytes of the spans. */
static int enqueue_spans(struct rpl_link *l, const struct iovec *iov, int n, size_t skip)
{
	for (int i = 0; i < n; i++) {
		size_t cut = skip < iov[i].iov_len ? skip : iov[i].iov_len;
		int r = enqueue(l, (const uint8_t *)iov[i].iov_base + cut, iov[i].iov_len - cut);

		if (r < 0)
			return r;
		skip -= cut;
	}
	return 0;
}

/* Clear, large: the queue's bytes and then the frame's own go to the kernel in one call. */
static int send_direct(struct rpl_link *l, const struct iovec *frame, int n)
{
	struct iovec iov[QUEUE_SPANS + 1 + RPL_LINK_SPANS_MAX];
	int queued = rpl_sendq_spans(&l->q, iov, QUEUE_SPANS);
	size_t waiting = l->q.bytes, in_spans = 0;
	ssize_t sent;

	for (int i = 0; i < queued; i++)
		in_spans += iov[i].iov_len;
	if (in_spans < waiting || ev_is_active(&l->wr)) /* the kernel is full already: wait in line */
		return enqueue_spans(l, frame, n, 0);
	memcpy(iov + queued, frame, (size_t)n * sizeof(*frame));
	sent = write_spans(l, iov, queued + n);
	if (sent < 0)
		return (int)sent;
	if ((size_t)sent < waiting) {
		rpl_sendq_take(&l->q, (size_t)sent);
		return enqueue_spans(l, frame, n, 0);
	}
	rpl_sendq_take(&l->q, waiting);
	return enqueue_spans(l, frame, n, (size_t)sent - waiting);
}

/* What a body costs in the queue. */
static size_t cost(const struct rpl_link *l, size_t body)
{
	size_t len = RPL_FRAME_HEADER + body;

	return l->tls ? len + (len / RPL_TLS_RECORD + 1) * RPL_TLS_OVERHEAD + TLS_SLACK : len;
}

static bool fits(struct rpl_link *l, size_t body, bool bulk)
{
	size_t max = l->queue_max + (bulk ? 0 : RPL_LINK_RESERVE);

	if (l->q.bytes + cost(l, body) <= max)
		return true;
	l->starved = true;
	wake(l);
	return false;
}

static int send_frame(struct rpl_link *l, const struct iovec *iov, int n, size_t body, struct rpl_err *err)
{
	int r;

	if (l->tls)
		return rpl_tls_send(l->tls, iov, n, err);
	if (body >= DIRECT_BYTES)
		r = send_direct(l, iov, n);
	else
		r = enqueue_spans(l, iov, n, 0);
	if (r == -ENOMEM)
		return rpl_fail(err, r, "link: out of memory for the send queue");
	return r < 0 ? send_failed(r, err) : 0;
}

int rpl_link_send(struct rpl_link *l, enum rpl_frame type, const struct iovec *iov, int n)
{
	struct iovec all[1 + RPL_LINK_SPANS_MAX];
	uint8_t header[RPL_FRAME_HEADER];
	struct rpl_err err = { 0 };
	uint32_t min, max;
	size_t body = 0;
	int r;

	rpl_assert(n >= 0 && n <= RPL_LINK_SPANS_MAX);
	for (int i = 0; i < n; i++)
		body += iov[i].iov_len;
	rpl_assert(rpl_frame_bounds((uint16_t)type, &min, &max));
	rpl_assert(body >= min && body <= max);
	if (l->state != ST_UP || l->broken.code || l->doomed)
		return -ENOTCONN;
	rpl_assert(l->tx_seq || type == RPL_FRAME_HELLO || type == RPL_FRAME_REFUSE);
	if (!fits(l, body, rpl_frame_is_bulk((uint16_t)type)))
		return -ENOBUFS;
	rpl_frame_header_encode((uint16_t)type, (uint32_t)body, l->tx_seq++, header);
	all[0] = (struct iovec){ .iov_base = header, .iov_len = sizeof(header) };
	if (n)
		memcpy(all + 1, iov, (size_t)n * sizeof(*iov));
	r = send_frame(l, all, n + 1, body, &err);
	if (r == 0 && l->q.bytes >= FLUSH_BYTES && !ev_is_active(&l->wr))
		r = flush(l, &err);
	if (r < 0)
		break_link(l, &err);
	if (l->q.bytes > l->queue_max / 2)
		l->starved = true;
	if (l->q.bytes || l->starved)
		wake(l);
	return 0;
}

bool rpl_link_room(struct rpl_link *l, size_t body)
{
	return l->state == ST_UP && !l->broken.code && !l->doomed && fits(l, body, true);
}

int rpl_link_fd(const struct rpl_link *l)
{
	return l->fd;
}

size_t rpl_link_queued(const struct rpl_link *l)
{
	return l->q.bytes;
}

/* ---- receiving */

static void begin_turn(struct rpl_link *l)
{
	l->turn_left = TURN_BYTES;
	l->drained = false;
}

/* What comes behind a short read, an end for instance, has the watcher call again. */
static ssize_t read_socket(struct rpl_link *l, void *buf, size_t len)
{
	ssize_t n;

	if (l->turn_left == 0 || l->drained)
		return -EAGAIN;
	if (len > l->turn_left)
		len = l->turn_left;
	do
		n = recv(l->fd, buf, len, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EWOULDBLOCK ? -EAGAIN : -errno;
	if (n == 0)
		l->got_eof = true;
	l->drained = (size_t)n < len && !l->broken.code; /* the last words of a broken one are waited for by nobody */
	l->heard = false;
	l->turn_left -= (size_t)n;
	l->bytes_received += (uint64_t)n;
	return n;
}

/* TLS asks for encrypted bytes: from the buffer, which is filled in large reads. */
static ssize_t pull(void *arg, void *data, size_t len)
{
	struct rpl_link *l = arg;

	if (l->cipher_off == l->cipher_len) {
		ssize_t n = read_socket(l, l->cipher, CIPHER_BYTES);

		if (n <= 0)
			return n;
		l->cipher_off = 0;
		l->cipher_len = (size_t)n;
	}
	if (len > l->cipher_len - l->cipher_off)
		len = l->cipher_len - l->cipher_off;
	memcpy(data, l->cipher + l->cipher_off, len);
	l->cipher_off += len;
	return (ssize_t)len;
}

static int push(void *arg, const void *data, size_t len)
{
	struct rpl_link *l = arg;
	int r = rpl_sendq_put(&l->q, data, len);

	wake(l);
	return r;
}

static int eof_error(struct rpl_link *l, struct rpl_err *err)
{
	if (rpl_framer_pending(&l->rx))
		return rpl_fail(err, -EPIPE, "link: cut in frame %" PRIu64 ", after %zu of its bytes", l->rx.seq,
				rpl_framer_pending(&l->rx));
	return rpl_fail(err, -ESHUTDOWN, "link: the peer closed the connection");
}

/* Plain bytes of the connection into `buf`: > 0, -EAGAIN, or another negative errno with *err set (also at the end). */
static ssize_t read_plain(struct rpl_link *l, void *buf, size_t len, struct rpl_err *err)
{
	ssize_t n;

	if (l->tls) {
		n = rpl_tls_recv(l->tls, buf, len, err);
		return n == 0 ? eof_error(l, err) : n;
	}
	n = read_socket(l, buf, len);
	if (n > 0 || n == -EAGAIN)
		return n;
	if (n == 0)
		return eof_error(l, err);
	return n == -ECONNRESET ? rpl_fail(err, -EPIPE, "link: the connection was reset") :
				  rpl_fail_errno(err, (int)-n, "link: receive");
}

/* A whole frame came. One look at the clock is enough for what was read at once. */
static void hear(struct rpl_link *l)
{
	if (!l->heard)
		l->last_heard_ns = rpl_now_ns();
	l->heard = true;
}

/* Hand out all whole frames. 0, or a negative errno; the caller looks at over() too. */
static int deliver(struct rpl_link *l, struct rpl_err *err)
{
	while (!over(l) && l->state == ST_UP) {
		const uint8_t *body;
		uint16_t type;
		size_t len;
		int r = rpl_framer_next(&l->rx, &type, &body, &len, err);

		if (r <= 0)
			return r;
		hear(l);
		r = l->ops->frame(l->arg, (enum rpl_frame)type, body, len, err);
		if (r < 0)
			return err->code ? err->code : rpl_fail(err, r, "link: frame %s refused", rpl_frame_name(type));
	}
	return 0;
}

static int receive_frames(struct rpl_link *l, struct rpl_err *err)
{
	while (!over(l) && l->state == ST_UP) {
		uint8_t *where;
		size_t room = rpl_framer_space(&l->rx, &where);
		ssize_t n = read_plain(l, where, room, err);
		int r;

		if (n == -EAGAIN)
			return 0;
		if (n < 0)
			return (int)n;
		rpl_framer_filled(&l->rx, (size_t)n);
		r = deliver(l, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- coming up */

static void set_up(struct rpl_link *l)
{
	l->state = ST_UP;
	l->last_heard_ns = rpl_now_ns();
	ev_timer_stop(l->loop, &l->deadline);
	l->ops->up(l->arg, l->tls ? rpl_tls_identity(l->tls) : "");
}

static int do_handshake(struct rpl_link *l, struct rpl_err *err)
{
	int r = rpl_tls_handshake(l->tls, err);

	if (r > 0)
		set_up(l);
	return r < 0 ? r : 0;
}

static int preamble_done(struct rpl_link *l, struct rpl_err *err)
{
	char ours[RPL_UUID_TEXT], theirs[RPL_UUID_TEXT];
	struct rpl_uuid vm;
	int one = 1, r = rpl_preamble_decode(l->preamble, &vm, err);

	if (r < 0)
		return r;
	if (!rpl_uuid_equal(&vm, &l->vm))
		return rpl_fail(err, -EBADMSG, "preamble: for VM %s, this link is for %s", rpl_uuid_text(&vm, theirs),
				rpl_uuid_text(&l->vm, ours));
	/* whoever peeked may have raised it */
	(void)setsockopt(l->fd, SOL_SOCKET, SO_RCVLOWAT, &one, sizeof(one));
	if (l->tls)
		l->state = ST_TLS;
	else
		set_up(l);
	return 0;
}

static int receive_preamble(struct rpl_link *l, struct rpl_err *err)
{
	while (l->preamble_len < RPL_PREAMBLE_SIZE) {
		ssize_t n = read_socket(l, l->preamble + l->preamble_len, RPL_PREAMBLE_SIZE - l->preamble_len);

		if (n == -EAGAIN)
			return 0;
		if (n == 0)
			return rpl_fail(err, -EPIPE, "preamble: closed after %zu of %d bytes", l->preamble_len,
					RPL_PREAMBLE_SIZE);
		if (n < 0)
			return rpl_fail_errno(err, (int)-n, "preamble: receive");
		l->preamble_len += (size_t)n;
	}
	return preamble_done(l, err);
}

/* ---- finishing */

/* Our direction ends when everything is written; the connection when the peer has ended its own too. Closing earlier,
 * with bytes unread, would reset the connection and might destroy our last frame on its way. */
static int finish_step(struct rpl_link *l, struct rpl_err *err)
{
	uint8_t discard[16 * 1024];

	if (!l->q.bytes && !l->wr_shut) {
		(void)shutdown(l->fd, SHUT_WR);
		l->wr_shut = true;
	}
	while (!l->got_eof) {
		ssize_t n = read_socket(l, discard, sizeof(discard));

		if (n == -EAGAIN)
			return 0;
		if (n < 0)
			return rpl_fail_errno(err, (int)-n, "link: closing");
	}
	if (!l->wr_shut)
		return rpl_fail(err, -EPIPE, "link: closing: the peer closed with %zu bytes unsent", l->q.bytes);
	err->code = 0;
	(void)strcpy(err->msg, "closed as asked");
	go_down(l, err);
	return 0;
}

void rpl_link_finish(struct rpl_link *l)
{
	if (over(l) || l->state == ST_FINISH)
		return;
	if (l->tls && l->state == ST_UP)
		rpl_tls_bye(l->tls);
	l->state = ST_FINISH;
	ev_timer_stop(l->loop, &l->deadline);
	ev_timer_set(&l->deadline, RPL_LINK_LINGER_MS / 1e3, 0.);
	ev_timer_start(l->loop, &l->deadline);
	wake(l);
}

/* ---- the loop's callbacks */

static int read_step(struct rpl_link *l, struct rpl_err *err)
{
	int r = 0;

	if (l->state == ST_PREAMBLE)
		r = receive_preamble(l, err);
	if (r == 0 && l->state == ST_TLS)
		r = do_handshake(l, err);
	if (r == 0 && l->state == ST_UP)
		r = receive_frames(l, err);
	if (r == 0 && l->state == ST_FINISH)
		r = finish_step(l, err);
	return r;
}

/* Nothing can be sent any more. Who hung up may have said why before (a REFUSE, an alert), and that waits in the socket: it is
 * read as if it had been looked at first, and its reason counts. That the connection ended is known. */
static void hear_last_words(struct rpl_link *l, struct rpl_err *err)
{
	struct rpl_err said = { 0 };
	int r;

	l->broken = *err; /* what is heard is not answered */
	do {
		begin_turn(l);
		r = read_step(l, &said);
	} while (r == 0 && !over(l) && l->turn_left == 0);
	if (r < 0 && r != -EPIPE && r != -ESHUTDOWN)
		*err = said;
}

/* A peer that is refused is told so (an alert waits in the queue) as far as the kernel takes it now. */
static void fail_now(struct rpl_link *l, const struct rpl_err *err)
{
	struct rpl_err ignored;

	if (over(l))
		return;
	(void)flush(l, &ignored); /* best effort: the connection ends in any case */
	go_down(l, err);
}

static void tell_writable(struct rpl_link *l)
{
	if (!l->starved || l->state != ST_UP || l->q.bytes > l->queue_max / 2)
		return;
	l->starved = false;
	if (l->ops->writable)
		l->ops->writable(l->arg);
}

/* Write what waits, tell who waits. */
static void write_step(struct rpl_link *l)
{
	struct rpl_err err = l->broken;
	int r = err.code;

	if (r == 0)
		r = flush(l, &err);
	if (r == 0 && l->state == ST_FINISH) {
		begin_turn(l);
		r = finish_step(l, &err);
	}
	if (r == -EPIPE)
		hear_last_words(l, &err);
	if (r < 0)
		go_down(l, &err);
	else
		tell_writable(l);
}

static void on_readable(struct ev_loop *loop, ev_io *w, int revents)
{
	struct rpl_link *l = w->data;
	struct rpl_err err = { 0 };
	int r;

	(void)loop;
	(void)revents;
	enter(l);
	begin_turn(l);
	r = read_step(l, &err);
	if (r < 0 && !over(l))
		fail_now(l, &err);
	/* answers leave now, not a turn of the loop later: an ack is what the primary's clients wait for */
	if (!over(l) && l->state != ST_START && ev_is_active(&l->kick)) {
		ev_timer_stop(l->loop, &l->kick);
		write_step(l);
	}
	leave(l);
}

static void on_writable(struct ev_loop *loop, ev_io *w, int revents)
{
	struct rpl_link *l = w->data;

	(void)loop;
	(void)revents;
	enter(l);
	write_step(l);
	leave(l);
}

/* The client starts its handshake here, so that nothing is called back from inside rpl_link_new(). */
static int start_step(struct rpl_link *l, struct rpl_err *err)
{
	rpl_preamble_encode(&l->vm, l->preamble);
	if (enqueue(l, l->preamble, RPL_PREAMBLE_SIZE) < 0)
		return rpl_fail(err, -ENOMEM, "link: out of memory");
	if (!l->tls) {
		set_up(l);
		return 0;
	}
	l->state = ST_TLS;
	l->turn_left = 0; /* nothing is read yet: the first flight only */
	return do_handshake(l, err);
}

static void on_kick(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct rpl_link *l = w->data;
	struct rpl_err err = { 0 };
	int r = 0;

	(void)loop;
	(void)revents;
	enter(l);
	if (l->state == ST_START)
		r = start_step(l, &err);
	if (r < 0 && !over(l))
		fail_now(l, &err);
	if (!over(l))
		write_step(l);
	leave(l);
}

static void on_deadline(struct ev_loop *loop, ev_timer *w, int revents)
{
	static const char *const waiting[] = { [ST_START] = "start", [ST_PREAMBLE] = "preamble", [ST_TLS] = "TLS handshake" };
	struct rpl_link *l = w->data;
	struct rpl_err err = { 0 };

	(void)loop;
	(void)revents;
	enter(l);
	if (l->state == ST_FINISH)
		(void)rpl_fail(&err, -ETIMEDOUT, "link: closing: the peer did not close within %d ms", RPL_LINK_LINGER_MS);
	else
		(void)rpl_fail(&err, -ETIMEDOUT, "link: %s not complete after %u ms", waiting[l->state],
			       l->handshake_timeout_ms);
	go_down(l, &err);
	leave(l);
}

/* ---- setup */

static void setup_socket(int fd)
{
	int one = 1;

	/* fails on unix sockets, where it is not needed */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static int setup_buffers(struct rpl_link *l, const struct rpl_link_conf *conf, struct rpl_err *err)
{
	struct rpl_tls_io io = { .push = push, .pull = pull, .arg = l };

	if (rpl_framer_init(&l->rx) < 0)
		return rpl_fail(err, -ENOMEM, "link: out of memory");
	if (conf->tls == RPL_TLS_NONE)
		return 0;
	l->cipher = malloc(CIPHER_BYTES);
	if (!l->cipher)
		return rpl_fail(err, -ENOMEM, "link: out of memory");
	return rpl_tls_new(conf, &io, &l->tls, err);
}

static int check_conf(const struct rpl_link_conf *conf, struct rpl_err *err)
{
	if (conf->queue_bytes_max < RPL_LINK_QUEUE_MIN)
		return rpl_fail(err, -EINVAL, "link: a queue of %zu bytes cannot hold the largest frame, at least %d",
				conf->queue_bytes_max, RPL_LINK_QUEUE_MIN);
	if (conf->handshake_timeout_ms == 0)
		return rpl_fail(err, -EINVAL, "link: no handshake time-out");
	if (rpl_uuid_is_zero(&conf->vm))
		return rpl_fail(err, -EINVAL, "link: no VM uuid");
	return 0;
}

static void start(struct rpl_link *l)
{
	ev_io_init(&l->rd, on_readable, l->fd, EV_READ);
	ev_io_init(&l->wr, on_writable, l->fd, EV_WRITE);
	ev_timer_init(&l->kick, on_kick, 0., 0.);
	ev_timer_init(&l->deadline, on_deadline, l->handshake_timeout_ms / 1e3, 0.);
	ev_set_priority(&l->deadline, EV_MINPRI); /* when we are late ourselves, what has come counts */
	l->rd.data = l->wr.data = l->kick.data = l->deadline.data = l;
	ev_io_start(l->loop, &l->rd);
	ev_now_update(l->loop); /* the timer counts from now, not from when the loop last looked */
	ev_timer_start(l->loop, &l->deadline);
	wake(l);
}

struct rpl_link *rpl_link_new(const struct rpl_link_conf *conf, struct ev_loop *loop, const struct rpl_link_ops *ops,
			      void *arg, struct rpl_err *err)
{
	struct rpl_link *l = calloc(1, sizeof(*l));
	int r = check_conf(conf, err);

	if (!l || r < 0) {
		if (!l)
			(void)rpl_fail(err, -ENOMEM, "link: out of memory");
		free(l);
		(void)close(conf->fd);
		return NULL;
	}
	*l = (struct rpl_link){ .loop = loop, .ops = ops, .arg = arg, .vm = conf->vm,
				.handshake_timeout_ms = conf->handshake_timeout_ms,
				.queue_max = conf->queue_bytes_max, .fd = conf->fd, .state = conf->server ? ST_PREAMBLE : ST_START };
	r = rpl_nonblock(l->fd, true);
	if (r < 0)
		(void)rpl_fail_errno(err, -r, "link: socket");
	else
		r = setup_buffers(l, conf, err);
	if (r < 0) {
		release(l);
		return NULL;
	}
	setup_socket(l->fd);
	start(l);
	return l;
}

void rpl_link_free(struct rpl_link *l)
{
	if (!l)
		return;
	if (l->depth) {
		l->doomed = true;
		stop_watchers(l);
		return;
	}
	release(l);
}

uint64_t rpl_link_last_heard_ns(const struct rpl_link *l)
{
	return l->last_heard_ns;
}

uint64_t rpl_link_bytes_sent(const struct rpl_link *l)
{
	return l->bytes_sent;
}

uint64_t rpl_link_bytes_received(const struct rpl_link *l)
{
	return l->bytes_received;
}
