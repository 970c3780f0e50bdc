/* The keeper's end of the relay's control socket.
 *
 * ATTACH connects (again and again until the relay is there or RELAY_ATTACH_MS have passed) and learns the state that
 * the relay is in: whatever an earlier keeper left held is still held. A relay that dies, answers nonsense or does
 * not answer in RELAY_ANSWER_MS is gone: every operation under way ends with that error, then the event is reported.
 * ATTACH may be asked for again after that.
 */
#include "netbuf_ops.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <ev.h>

#include <replicad/auto.h>
#include <replicad/io.h>

#include "hold.h"
#include "relay_proto.h"

#define RELAY_ATTACH_MS 2000
#define RELAY_RETRY_MS 20
#define RELAY_ANSWER_MS 3000
#define RELAY_PENDING_MAX (RPL_NETBUF_NOPS * RPL_NETBUF_PENDING_MAX)

struct pending {
	uint32_t id;
	enum rpl_netbuf_op op;
	uint64_t epoch;
};

struct relay {
	struct rpl_netbuf *n;
	struct ev_loop *loop;
	char *vm, *path;

	int fd;
	uint32_t next_id, n_pending;
	struct pending pending[RELAY_PENDING_MAX]; /* oldest first */
	struct rpl_netbuf_status status;
	struct rpl_err send_failed; /* noticed while starting an operation; handled from the loop */
	struct ev_io io;
	struct ev_timer retry, answer;
	double attach_until;
};

static void arm_answer(struct relay *c)
{
	ev_timer_stop(c->loop, &c->answer);
	if (c->fd < 0 || c->n_pending == 0)
		return;
	ev_now_update(c->loop); /* the caller may have been busy for long: its time is not the relay's fault */
	ev_timer_set(&c->answer, RELAY_ANSWER_MS / 1000.0, 0);
	ev_timer_start(c->loop, &c->answer);
}

static void disconnect(struct relay *c)
{
	ev_io_stop(c->loop, &c->io);
	ev_timer_stop(c->loop, &c->retry);
	ev_timer_stop(c->loop, &c->answer);
	rpl_close(&c->fd);
	c->send_failed.code = 0;
	c->status.attached = false;
	rpl_netbuf_set_status(c->n, &c->status);
}

static void finish_all(struct relay *c, const struct rpl_err *why)
{
	uint32_t count = c->n_pending;

	c->n_pending = 0;
	for (uint32_t i = 0; i < count; i++)
		rpl_netbuf_finish(c->n, c->pending[i].op, c->pending[i].epoch, why->code, why);
}

/* The relay is gone. The report comes last: it may free us. */
static void lose(struct relay *c, const struct rpl_err *why)
{
	struct rpl_err kept = *why;
	bool attached = c->status.attached;

	disconnect(c);
	finish_all(c, &kept);
	if (attached)
		rpl_netbuf_report(c->n, kept.code, kept.msg);
}

static int send_request(struct relay *c, const struct pending *p, struct rpl_err *err)
{
	struct rpl_relay_req q = { .magic = RPL_RELAY_MAGIC, .version = RPL_RELAY_VERSION, .size = sizeof(q),
				   .op = (uint16_t)p->op, .id = p->id, .epoch = p->epoch };
	int r = rpl_send_fds(c->fd, &q, sizeof(q), NULL, 0);

	if (rpl_hung_up(r)) /* the reader finds what it answered before it hung up, and then the end */
		return 0;
	if (r < 0)
		return rpl_fail_errno(err, -r, "vm %s: send %s to the relay at %s", c->vm, rpl_netbuf_op_name(p->op),
				      c->path);
	return 0;
}

static void fail_from_loop(struct relay *c, const struct rpl_err *why)
{
	c->send_failed = *why;
	ev_feed_event(c->loop, &c->io, EV_READ);
}

static void try_connect(struct relay *c)
{
	struct rpl_err err = { 0 };
	int fd = rpl_unix_connect(c->path, SOCK_SEQPACKET | SOCK_NONBLOCK, &err);

	if (fd < 0) {
		if (ev_now(c->loop) >= c->attach_until ||
		    (fd != -ENOENT && fd != -ECONNREFUSED && fd != -EAGAIN)) {
			(void)rpl_prefix(&err, "vm %s: attach its relay", c->vm);
			disconnect(c);
			finish_all(c, &err);
			return;
		}
		ev_timer_set(&c->retry, RELAY_RETRY_MS / 1000.0, 0);
		ev_timer_start(c->loop, &c->retry);
		return;
	}
	c->fd = fd;
	ev_io_set(&c->io, fd, EV_READ);
	ev_io_start(c->loop, &c->io);
	for (uint32_t i = 0; i < c->n_pending; i++)
		if (send_request(c, &c->pending[i], &err) < 0) {
			fail_from_loop(c, &err);
			return;
		}
	arm_answer(c);
}

static void retry_cb(struct ev_loop *loop, struct ev_timer *w, int revents)
{
	(void)loop;
	(void)revents;
	try_connect(w->data);
}

static void answer_cb(struct ev_loop *loop, struct ev_timer *w, int revents)
{
	struct relay *c = w->data;
	struct rpl_err err = { 0 };
	uint8_t probe;

	(void)loop;
	(void)revents;
	if (recv(c->fd, &probe, sizeof(probe), MSG_PEEK | MSG_DONTWAIT) >= 0 || errno != EAGAIN) {
		arm_answer(c); /* it is we who were late: io_cb comes next */
		return;
	}
	(void)rpl_fail(&err, -ETIMEDOUT, "vm %s: the relay at %s did not answer %s within %d ms", c->vm, c->path,
		       rpl_netbuf_op_name(c->pending[0].op), RELAY_ANSWER_MS);
	lose(c, &err);
}

static void take_status(struct relay *c, const struct rpl_relay_msg *m)
{
	c->status = (struct rpl_netbuf_status){
		.attached = c->status.attached,
		.holding = m->mode != RPL_HOLD_OPEN,
		.shut = m->mode == RPL_HOLD_SHUT,
		.ports = m->ports,
		.held_frames = m->held_frames,
		.held_bytes = m->held_bytes,
		.sealed_epoch = m->sealed_epoch,
		.released_epoch = m->released_epoch,
		.passed_frames = m->passed_frames,
		.passed_bytes = m->passed_bytes,
		.dropped_frames = m->dropped_frames,
	};
	rpl_netbuf_set_status(c->n, &c->status);
}

static int take_answer(struct relay *c, const struct rpl_relay_msg *m, struct rpl_err *err)
{
	struct rpl_err why = { .code = m->result };
	struct pending p = { 0 };
	uint32_t at;

	for (at = 0; at < c->n_pending && c->pending[at].id != m->id; at++)
		;
	if (at == c->n_pending || c->pending[at].op != m->op || c->pending[at].epoch != m->epoch)
		return rpl_fail(err, -EBADMSG, "vm %s: the relay at %s answered a %s (id %u, epoch %" PRIu64
				") that was not asked", c->vm, c->path, rpl_netbuf_op_name(m->op), m->id, m->epoch);
	p = c->pending[at];
	c->n_pending--;
	memmove(&c->pending[at], &c->pending[at + 1], (c->n_pending - at) * sizeof(p));
	if (at == 0)
		arm_answer(c);
	if (m->result < 0)
		(void)rpl_fail(&why, m->result, "vm %s: relay: %s", c->vm, m->text[0] ? m->text : strerror(-m->result));
	else if (p.op == RPL_NETBUF_ATTACH)
		c->status.attached = true;
	take_status(c, m);
	rpl_netbuf_finish(c->n, p.op, p.epoch, m->result, &why);
	return 0;
}

/* One packet. Returns 1 when a warning is to be reported (last, as it may free us), 0, or an error. */
static int receive(struct relay *c, struct rpl_relay_msg *m, struct rpl_err *err)
{
	uint8_t packet[sizeof(*m) + 1];
	ssize_t len = rpl_recv_fds(c->fd, packet, sizeof(packet), NULL, NULL);
	int r;

	if (len == -EAGAIN)
		return -EAGAIN;
	if (len == 0)
		return rpl_fail(err, -ECONNRESET, "vm %s: the relay at %s closed its control connection: it died, or "
				"another keeper attached; what it holds is not emitted", c->vm, c->path);
	if (len < 0)
		return rpl_fail_errno(err, (int)-len, "vm %s: read from the relay at %s", c->vm, c->path);
	r = rpl_relay_msg_decode(packet, (size_t)len, m, err);
	if (r < 0)
		return rpl_prefix(err, "vm %s", c->vm);
	if (m->kind == RPL_RELAY_ANSWER)
		return take_answer(c, m, err);
	take_status(c, m);
	return m->kind == RPL_RELAY_NEARLY_FULL;
}

static void io_cb(struct ev_loop *loop, struct ev_io *w, int revents)
{
	struct relay *c = w->data;
	struct rpl_relay_msg m;
	struct rpl_err err = { 0 };
	bool warn = false;
	int r = 0;

	(void)loop;
	(void)revents;
	if (c->send_failed.code) {
		lose(c, &c->send_failed);
		return;
	}
	while (r >= 0 && !warn) {
		r = receive(c, &m, &err);
		warn = r == 1;
	}
	if (warn)
		rpl_netbuf_report(c->n, 0, m.text);
	else if (r != -EAGAIN)
		lose(c, &err);
}

static void relay_start(void *self, enum rpl_netbuf_op op, uint64_t epoch)
{
	struct relay *c = self;
	struct pending p = { .id = c->next_id++, .op = op, .epoch = epoch };
	struct rpl_err err = { 0 };

	if (op == RPL_NETBUF_ATTACH && c->fd < 0 && c->n_pending == 0) {
		c->pending[c->n_pending++] = p;
		ev_now_update(c->loop);
		c->attach_until = ev_now(c->loop) + RELAY_ATTACH_MS / 1000.0;
		ev_timer_set(&c->retry, 0, 0);
		ev_timer_start(c->loop, &c->retry);
		return;
	}
	if (c->fd < 0 && c->n_pending == 0) {
		(void)rpl_fail(&err, -ENOTCONN, "vm %s: %s: the relay at %s is not attached", c->vm,
			       rpl_netbuf_op_name(op), c->path);
		rpl_netbuf_finish(c->n, op, epoch, err.code, &err);
		return;
	}
	c->pending[c->n_pending++] = p; /* netbuf.c bounds the number of each kind */
	if (c->fd < 0)
		return; /* sent once connected, after ATTACH */
	if (c->n_pending == 1)
		arm_answer(c);
	if (!c->send_failed.code && send_request(c, &p, &err) < 0)
		fail_from_loop(c, &err);
}

static int relay_init(struct rpl_netbuf *n, const struct rpl_netbuf_conf *conf, struct ev_loop *loop, void **ret_self,
		      struct rpl_err *err)
{
	struct relay *c;

	if (!conf->control || !conf->control[0])
		return rpl_fail(err, -EINVAL, "vm %s: netbuf relay needs the path of the relay's control socket",
				conf->vm);
	c = calloc(1, sizeof(*c));
	if (c) {
		c->vm = strdup(conf->vm);
		c->path = strdup(conf->control);
	}
	if (!c || !c->vm || !c->path) {
		if (c) {
			free(c->vm);
			free(c->path);
		}
		free(c);
		return rpl_fail(err, -ENOMEM, "vm %s: no memory for its relay", conf->vm);
	}
	c->n = n;
	c->loop = loop;
	c->fd = -1;
	c->next_id = 1;
	ev_init(&c->io, io_cb);
	ev_init(&c->retry, retry_cb);
	ev_init(&c->answer, answer_cb);
	c->io.data = c->retry.data = c->answer.data = c;
	*ret_self = c;
	return 0;
}

static void relay_fini(void *self)
{
	struct relay *c = self;

	ev_clear_pending(c->loop, &c->io);
	ev_io_stop(c->loop, &c->io);
	ev_timer_stop(c->loop, &c->retry);
	ev_timer_stop(c->loop, &c->answer);
	rpl_close(&c->fd);
	free(c->vm);
	free(c->path);
	free(c);
}

const struct rpl_netbuf_ops rpl_netbuf_relay = {
	.name = "relay",
	.max_uncommitted = RPL_HOLD_EPOCHS_MAX,
	.init = relay_init,
	.start = relay_start,
	.fini = relay_fini,
};
