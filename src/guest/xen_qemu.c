/* xen_qemu.c - HVM: the device model, a QEMU that libxl started
 *
 * libxl gives each QEMU two monitors. The first is libxl's own, which it locks and uses for moments; the second was meant for
 * statistics, and no part of libxl needs it while a guest runs: that one is ours, for as long as we are attached.
 *
 * The order is the hypervisor's and libxl's: the domain stops first, then QEMU (whose writes into the guest's memory end
 * with that), then the dirty bitmap is taken. On the way back QEMU goes first, since a domain whose device model stands
 * still reads ones from its ports and loses what it writes to them.
 *
 * QEMU writes its state into a memfd of ours. It has that descriptor as a set (add-fd) and duplicates it, which works for
 * a QEMU without privilege in an empty root too, but leaves the place to write at and the length to us.
 */
#include "xen_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/log.h>
#include <replicad/stream.h>

#include "qmp.h"

#define MONITOR "/var/run/xen/qmp-libxenstat-%u"
#define TRACK_MS 4000  /* the bound of switching its tracking on; QEMU answers within one turn of its loop */
#define LEAVE_MS 1000  /* of the last words */
#define RESUME_SHARE 2 /* a part of the time of an operation: for what the device model does before the domain goes on */
#define PHYSMAP_MAX 64 /* entries; QEMU makes one for each piece of video memory that was moved */

struct xen_qemu {
	struct xen *x;
	struct qmp *qmp;
	int read_fd, write_fd; /* of the memfd; the second is what QEMU has */
	int fdset;
	bool tracking;         /* QEMU was told to, and not yet told to end it */
	bool closed;           /* the monitor */
	xen_qemu_fn *then;     /* of the step under way; NULL: nobody waits for one */
	ev_timer patience;     /* with a step that the domain's going on waits for */
	bool answered;         /* xen_qemu_track() */
	struct rpl_err answer;
};

/* ---- steps */

static void finish(struct xen_qemu *q, const struct rpl_err *err)
{
	xen_qemu_fn *then = q->then;

	q->then = NULL;
	ev_timer_stop(q->x->g->loop, &q->patience);
	if (then)
		then(q->x, err ? err->code : 0, err);
}

static unsigned patience_ms(const struct xen_qemu *q)
{
	return q->x->g->conf.op_timeout_ms / RESUME_SHARE;
}

/* It neither answers nor dies. What it was told it does when it wakes up. */
static void on_silent(EV_P_ ev_timer *w, int revents)
{
	struct xen_qemu *q = w->data;
	struct rpl_err err;

	(void)loop;
	(void)revents;
	qmp_abandon(q->qmp);
	q->closed |= q->fdset < 0; /* what it says of that connection later is no answer to anything else */
	(void)rpl_fail(&err, -ETIMEDOUT, "device model: no answer within %u ms", patience_ms(q));
	finish(q, &err);
}

/* The operation began with the first of its steps. */
static void bound(struct xen_qemu *q)
{
	struct rpl_guest *g = q->x->g;
	double gone = (rpl_now_ns() - g->op_started_ns) / 1e9, all = patience_ms(q) / 1e3;

	ev_timer_set(&q->patience, gone < all ? all - gone : 0., 0.);
	ev_timer_start(g->loop, &q->patience);
}

static void on_step(void *arg, json_t *ret, const struct rpl_err *err)
{
	(void)ret;
	finish(arg, err);
}

/* It was never opened, or that failed. */
static int not_open(const char *what, struct rpl_err *err)
{
	return rpl_fail(err, -ENOTCONN, "device model: %s: its monitor is not open", what);
}

static int step(struct xen_qemu *q, const char *command, json_t *args, xen_qemu_fn *then, struct rpl_err *err)
{
	if (!q || !q->qmp) {
		json_decref(args);
		return not_open(command, err);
	}
	rpl_assert(!q->then);
	if (qmp_call(q->qmp, command, args, -1, on_step, err) < 0)
		return rpl_prefix(err, "device model");
	q->then = then;
	return 0;
}

int xen_qemu_stop(struct xen *x, xen_qemu_fn *then, struct rpl_err *err)
{
	return step(x->qemu, "stop", NULL, then, err);
}

int xen_qemu_cont(struct xen *x, xen_qemu_fn *then, struct rpl_err *err)
{
	int r = step(x->qemu, "cont", NULL, then, err);

	if (r == 0)
		bound(x->qemu);
	return r;
}

int xen_qemu_save(struct xen *x, xen_qemu_fn *then, struct rpl_err *err)
{
	struct xen_qemu *q = x->qemu;
	char path[32];

	if (q && (ftruncate(q->write_fd, 0) < 0 || lseek(q->write_fd, 0, SEEK_SET) < 0))
		return rpl_fail_errno(err, errno, "device model: the file for its state");
	(void)snprintf(path, sizeof(path), "/dev/fdset/%d", q ? q->fdset : -1);
	/* live: it lets go of the locks on disk images, for the one who moves the guest; "cont" takes them again */
	return step(q, "xen-save-devices-state", json_pack("{s:s, s:b}", "filename", path, "live", x->g->conf.any_disk), then, err);
}

void xen_qemu_abandon(struct xen *x)
{
	if (!x->qemu || !x->qemu->qmp)
		return;
	qmp_abandon(x->qemu->qmp);
	x->qemu->then = NULL;
	ev_timer_stop(x->g->loop, &x->qemu->patience);
}

/* ---- connecting */

static void on_fdset(void *arg, json_t *ret, const struct rpl_err *err)
{
	struct xen_qemu *q = arg;
	json_t *id = json_object_get(ret, "fdset-id");
	struct rpl_err why;

	if (!err && !json_is_integer(id)) {
		(void)rpl_fail(&why, -EPROTO, "device model: add-fd answered without a set of descriptors");
		err = &why;
	}
	if (!err)
		q->fdset = (int)json_integer_value(id);
	finish(q, err);
}

static void on_ready(void *arg, json_t *version)
{
	struct xen_qemu *q = arg;
	struct rpl_err err;

	(void)version;
	if (qmp_call(q->qmp, "add-fd", NULL, q->write_fd, on_fdset, &err) < 0)
		finish(q, &err);
}

/* It died, or is dying with its domain, which is told by Xen. What is under way fails, and all that comes later. */
static void on_closed(void *arg, const struct rpl_err *err)
{
	struct xen_qemu *q = arg;
	struct rpl_err why = *err;

	q->closed = true;
	q->answered = true;
	q->answer = why;
	(void)rpl_prefix(&why, "device model");
	finish(q, &why);
}

static int open_files(struct xen_qemu *q, struct rpl_err *err)
{
	char path[32];

	q->read_fd = memfd_create("replicad-device-model", MFD_CLOEXEC);
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", q->read_fd);
	/* a set gives out only descriptors with just the access that is asked for */
	q->write_fd = q->read_fd < 0 ? -1 : open(path, O_WRONLY | O_CLOEXEC);
	return q->write_fd < 0 ? rpl_fail_errno(err, errno, "room for the device model's state") : 0;
}

int xen_qemu_open(struct xen *x, xen_qemu_fn *then, struct rpl_err *err)
{
	static const struct qmp_callbacks cb = { .ready = on_ready, .closed = on_closed };
	struct xen_qemu *q = calloc(1, sizeof(*q));
	char path[64];

	if (!q)
		return rpl_fail(err, -ENOMEM, "no memory for its device model");
	*q = (struct xen_qemu){ .x = x, .read_fd = -1, .write_fd = -1, .fdset = -1, .then = then };
	ev_init(&q->patience, on_silent);
	ev_set_priority(&q->patience, EV_MINPRI); /* when we are late ourselves, an answer that has come counts */
	q->patience.data = q;
	x->qemu = q;
	if (open_files(q, err) < 0)
		return err->code;
	(void)snprintf(path, sizeof(path), MONITOR, x->domid);
	q->qmp = qmp_open(path, x->g->loop, &cb, q, err);
	return q->qmp ? 0 : rpl_prefix(err, "device model: its second monitor");
}

bool xen_qemu_alive(const struct xen *x)
{
	return x->qemu && x->qemu->qmp && !x->qemu->closed;
}

int xen_qemu_reopen(struct xen *x, xen_qemu_fn *then, struct rpl_err *err)
{
	bool tracking = x->qemu && x->qemu->tracking;
	int r;

	xen_qemu_close(x);
	r = xen_qemu_open(x, then, err);
	if (x->qemu)
		x->qemu->tracking = tracking;
	if (r == 0)
		bound(x->qemu);
	return r;
}

/* ---- tracking */

static void on_tracking(void *arg, json_t *ret, const struct rpl_err *err)
{
	struct xen_qemu *q = arg;

	(void)ret;
	q->answered = true;
	q->answer = err ? *err : (struct rpl_err){ 0 };
}

static int say_tracking(struct xen_qemu *q, bool on, qmp_reply_fn *fn, struct rpl_err *err)
{
	return qmp_call(q->qmp, "xen-set-global-dirty-log", json_pack("{s:b}", "enable", on), -1, fn, err);
}

int xen_qemu_track(struct xen *x, struct rpl_err *err)
{
	struct xen_qemu *q = x->qemu;

	if (!q || !q->qmp)
		return not_open("log its writes", err);
	q->answered = false;
	if (say_tracking(q, true, on_tracking, err) < 0)
		return rpl_prefix(err, "device model");
	qmp_settle(q->qmp, TRACK_MS);
	if (!q->answered) {
		qmp_abandon(q->qmp);
		return rpl_fail(err, -ETIMEDOUT, "device model: it did not log its writes within %d ms", TRACK_MS);
	}
	if (q->answer.code) {
		*err = q->answer;
		return rpl_prefix(err, "device model");
	}
	q->tracking = true;
	return 0;
}

/* QEMU forgets commands whose client has gone, so the answers are waited for. It aborts if it is told to end a tracking
 * that somebody else ended before: a stock save or migration that was tried meanwhile does. So it is begun once more first. */
static void last_words(struct xen_qemu *q)
{
	struct rpl_err err = { 0 };
	int r = 0;

	if (q->tracking) {
		r = say_tracking(q, true, on_tracking, &err);
		if (r == 0)
			r = say_tracking(q, false, on_tracking, &err);
	}
	if (r == 0 && q->fdset >= 0)
		r = qmp_call(q->qmp, "remove-fd", json_pack("{s:i}", "fdset-id", q->fdset), -1, on_tracking, &err);
	if (r == 0)
		qmp_settle(q->qmp, LEAVE_MS);
	else
		rpl_log(RPL_LOG_DEBUG, "vm=%s device_model=\"%s\"", q->x->g->conf.name, err.msg);
}

void xen_qemu_close(struct xen *x)
{
	struct xen_qemu *q = x->qemu;

	if (!q)
		return;
	x->qemu = NULL;
	q->then = NULL;
	ev_timer_stop(x->g->loop, &q->patience);
	if (q->qmp) {
		qmp_abandon(q->qmp);
		if (!x->over)
			last_words(q);
		qmp_free(q->qmp);
	}
	rpl_close(&q->read_fd);
	rpl_close(&q->write_fd);
	free(q);
}

/* ---- records */

/* What stock libxl carries of the device model's xenstore directory: where video memory was moved to. QEMUs built for Xen
 * 4.11 and newer write none of it. */
static void put_physmap(struct xen *x, char *const *starts, unsigned n, struct rpl_out *o)
{
	static const char *const keys[] = { "start_addr", "size", "name" };

	for (unsigned i = 0; i < n; i++) {
		for (size_t k = 0; k < RPL_ARRAY_LEN(keys); k++) {
			RPL_AUTO_FREE char *value = xen_read(x, "/local/domain/0/device-model/%u/physmap/%.40s/%s", x->domid,
							     starts[i], keys[k]);
			char key[XEN_PATH];

			if (!value)
				continue;
			(void)snprintf(key, sizeof(key), "physmap/%.40s/%s", starts[i], keys[k]);
			rpl_out_bytes(o, key, strlen(key) + 1);
			rpl_out_bytes(o, value, strlen(value) + 1);
		}
	}
}

static int put_xenstore(struct xen *x, struct rpl_out *o, struct rpl_err *err)
{
	struct rpl_out body = rpl_out(x->scratch, XEN_SCRATCH);
	char path[XEN_PATH];
	unsigned n = 0;
	char **starts;

	(void)snprintf(path, sizeof(path), "/local/domain/0/device-model/%u/physmap", x->domid);
	starts = xs_directory(x->xs, XBT_NULL, path, &n);
	if (n <= PHYSMAP_MAX)
		put_physmap(x, starts, n, &body);
	free(starts);
	if (n > PHYSMAP_MAX || body.bad)
		return rpl_fail(err, -E2BIG, "device model: %u pieces of moved memory, at most %d are possible", n, PHYSMAP_MAX);
	if (!body.len)
		return 0;
	rpl_stream_put_emulator_head(o, RPL_LIBXL_EMULATOR_XENSTORE_DATA, RPL_EMULATOR_QEMU, (uint32_t)body.len);
	rpl_out_bytes(o, body.p, body.len);
	rpl_stream_put_padding(o, (uint32_t)body.len);
	return 0;
}

int xen_qemu_put(struct xen *x, struct rpl_out *o, struct rpl_err *err)
{
	struct xen_qemu *q = x->qemu;
	struct stat st = { 0 };

	if (put_xenstore(x, o, err) < 0)
		return err->code;
	if (fstat(q->read_fd, &st) < 0 || st.st_size <= 0 || st.st_size > RPL_GUEST_STATE_MAX)
		return rpl_fail(err, -EMSGSIZE, "device model: a state of %jd bytes; 1 to %d are possible", (intmax_t)st.st_size,
				RPL_GUEST_STATE_MAX);
	rpl_stream_put_emulator_head(o, RPL_LIBXL_EMULATOR_CONTEXT, RPL_EMULATOR_QEMU, (uint32_t)st.st_size);
	if (o->bad || o->cap - o->len < (size_t)st.st_size)
		return rpl_fail(err, -EMSGSIZE, "device model: its state of %jd bytes does not fit", (intmax_t)st.st_size);
	if (pread(q->read_fd, o->p + o->len, (size_t)st.st_size, 0) != st.st_size)
		return rpl_fail_errno(err, errno, "device model: read its state");
	o->len += (size_t)st.st_size;
	rpl_stream_put_padding(o, (uint32_t)st.st_size);
	return 0;
}
