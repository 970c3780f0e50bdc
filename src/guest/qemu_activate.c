/* qemu_activate.c - load device state into the standby and run it
 *
 * xen-load-devices-state aborts a stock 7.2 started with -S, so the saved blob is wrapped as a migration stream
 * without RAM and fed to -incoming through a socket: QEMU's magic and version, a configuration section with the
 * machine's name, the blob's sections (they end with the end mark), an empty description.
 *
 * The whole stream is in the socket before QEMU is told to read it, if the socket takes it: a keeper that is killed meanwhile
 * leaves a QEMU that loads its state and stands still, noted as paused by us, not one that ends for want of the rest. The
 * keeper after it is told that the load "has already been started", and has nothing to do but let it run.
 */
#include "qemu_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/fault.h>
#include <replicad/cur.h>
#include <replicad/io.h>

#define STREAM_MAGIC 0x5145564d /* "QEVM" */
#define STREAM_VERSION 3
#define SECTION_CONFIGURATION 7
#define SECTION_DESCRIPTION 6
#define ALREADY_STARTED "already been started" /* of QEMU's migrate-incoming, when it was told before */
#define BLOB_HEADER 8 /* the blob begins with magic and version too */

int qemu_wrap_state(const char *machine, const uint8_t *blob, size_t len, uint8_t **ret, size_t *ret_len,
		    struct rpl_err *err)
{
	struct rpl_cur c = rpl_cur(blob, len);
	uint32_t magic = rpl_cur_be32(&c), version = rpl_cur_be32(&c);
	size_t name = strlen(machine), cap = len + name + 32;
	struct rpl_out o;
	uint8_t *bytes;

	if (c.bad || c.left == 0 || magic != STREAM_MAGIC || version != STREAM_VERSION)
		return rpl_fail(err, -EBADMSG, "device state of %zu bytes begins with 0x%08x version %u, not 0x%08x version %d",
				len, magic, version, STREAM_MAGIC, STREAM_VERSION);
	bytes = malloc(cap);
	if (!bytes)
		return rpl_fail(err, -ENOMEM, "device state: no memory for %zu bytes", cap);
	o = rpl_out(bytes, cap);
	rpl_out_be32(&o, STREAM_MAGIC);
	rpl_out_be32(&o, STREAM_VERSION);
	rpl_out_u8(&o, SECTION_CONFIGURATION);
	rpl_out_be32(&o, (uint32_t)name);
	rpl_out_bytes(&o, machine, name);
	rpl_out_bytes(&o, blob + BLOB_HEADER, len - BLOB_HEADER);
	rpl_out_u8(&o, SECTION_DESCRIPTION);
	rpl_out_be32(&o, 2);
	rpl_out_bytes(&o, "{}", 2);
	rpl_assert(!o.bad);
	*ret = bytes;
	*ret_len = o.len;
	return 0;
}

void qemu_activate_stop(struct qemu *q)
{
	if (q->stream >= 0)
		ev_io_stop(q->g->loop, &q->stream_out);
	rpl_close(&q->stream);
	free(q->bytes);
	q->bytes = NULL;
}

static bool activating(const struct qemu *q)
{
	return q->g->busy && q->g->op == RPL_GUEST_ACTIVATE;
}

/* ---- after the load */

static void on_running(void *arg, json_t *ret, const struct rpl_err *err)
{
	struct qemu *q = arg;

	(void)ret;
	if (err) {
		qemu_op_failed(q, err);
		return;
	}
	q->standby = false;
	q->continuing = false;
	note_set(&q->note, false);
	rpl_guest_op_done(q->g, 0, NULL);
}

static void let_run(struct qemu *q)
{
	qemu_activate_stop(q);
	q->continuing = true;
	qemu_step(q, "cont", NULL, on_running);
}

void qemu_migration_event(struct qemu *q, json_t *data)
{
	const char *status = json_string_value(json_object_get(data, "status"));
	struct rpl_err err;

	if (!status || !activating(q) || ev_is_pending(&q->g->finish))
		return;
	if (strcmp(status, "completed") == 0) {
		rpl_fault_die(RPL_FAULT_DIE_PROMOTE_LOADED);
		let_run(q);
	} else if (strcmp(status, "failed") == 0) {
		(void)rpl_fail(&err, -EIO, "the standby QEMU refused the device state");
		qemu_op_failed(q, &err);
	}
}

/* ---- feeding it */

/* 1: there is nothing more to write; 0: the socket is full; or the operation failed. */
static int push_stream(struct qemu *q)
{
	struct rpl_err err;

	while (q->bytes_sent < q->bytes_len) {
		ssize_t n = send(q->stream, q->bytes + q->bytes_sent, q->bytes_len - q->bytes_sent, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n < 0 && rpl_hung_up(-errno))
			return 1; /* it reads no more: what it has to say about that comes by the monitor, or as its last line */
		if (n < 0) {
			(void)rpl_fail_errno(&err, errno, "device state: %zu of %zu bytes written", q->bytes_sent,
					     q->bytes_len);
			qemu_op_failed(q, &err);
			return err.code;
		}
		q->bytes_sent += (size_t)n;
	}
	(void)shutdown(q->stream, SHUT_WR); /* the end of the stream; a dead reader shows up as EOF of the monitor */
	return 1;
}

static void on_stream_writable(struct ev_loop *loop, ev_io *w, int revents)
{
	(void)revents;
	if (push_stream(w->data) > 0)
		ev_io_stop(loop, w);
}

static void on_incoming(void *arg, json_t *ret, const struct rpl_err *err)
{
	struct qemu *q = arg;

	(void)ret;
	if (err && strstr(err->msg, ALREADY_STARTED)) {
		let_run(q); /* at once, or when it is loaded */
		return;
	}
	if (err) {
		qemu_op_failed(q, err);
		return;
	}
	rpl_fault_die(RPL_FAULT_DIE_PROMOTE_LOADING);
	if (q->stream >= 0 && q->bytes_sent < q->bytes_len) /* else it is loading, or was loaded already */
		ev_io_start(q->g->loop, &q->stream_out);
}

static void on_got_fd(void *arg, json_t *ret, const struct rpl_err *err)
{
	struct qemu *q = arg;

	(void)ret;
	if (err)
		qemu_op_failed(q, err);
	else if (push_stream(q) >= 0)
		qemu_step(q, "migrate-incoming", json_pack("{s:s}", "uri", "fd:replicad-state"), on_incoming);
}

static int read_blob(int fd, size_t len, uint8_t **ret, struct rpl_err *err)
{
	RPL_AUTO_FREE uint8_t *blob = malloc(len);
	size_t got = 0;

	if (!blob)
		return rpl_fail(err, -ENOMEM, "device state: no memory for %zu bytes", len);
	while (got < len) {
		ssize_t n = pread(fd, blob + got, len - got, (off_t)got);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return rpl_fail_errno(err, errno, "device state: read");
		if (n == 0)
			return rpl_fail(err, -EBADMSG, "device state: %zu of %zu bytes are there", got, len);
		got += (size_t)n;
	}
	*ret = blob;
	blob = NULL;
	return 0;
}

int qemu_activate(struct rpl_guest *g, int state_fd, size_t len, struct rpl_err *err)
{
	RPL_AUTO_FREE uint8_t *blob = NULL;
	struct qemu *q = qemu_of(g);
	int sv[2], r, room;

	r = read_blob(state_fd, len, &blob, err);
	if (r == 0)
		r = qemu_wrap_state(g->info.machine, blob, len, &q->bytes, &q->bytes_len, err);
	if (r < 0)
		return rpl_prefix(err, "%s: activate", g->conf.name);
	q->bytes_sent = 0;
	note_set(&q->note, true); /* when it has loaded its state it stands still, because of us, until it is told to run */
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv) < 0)
		return rpl_fail_errno(err, errno, "%s: activate: socketpair", g->conf.name);
	room = (int)(2 * q->bytes_len); /* at most RPL_GUEST_STATE_MAX of it; more than allowed is cut down by the kernel */
	(void)setsockopt(sv[0], SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room));
	q->stream = sv[0];
	ev_io_init(&q->stream_out, on_stream_writable, q->stream, EV_WRITE);
	q->stream_out.data = q;
	r = qmp_call(q->qmp, "getfd", json_pack("{s:s}", "fdname", "replicad-state"), sv[1], on_got_fd, err);
	(void)close(sv[1]);
	if (r < 0) {
		qemu_activate_stop(q);
		return rpl_prefix(err, "%s: activate", g->conf.name);
	}
	return 0;
}
