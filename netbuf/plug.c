/* plug.c - the backend on the kernel's sch_plug: which operation comes when; plug_port.c says how one interface is held
 *
 * Nothing of ours stands in the guest's way while it is not protected: HOLD leads the output of each interface through a
 * plug, OPEN lets go what is held, waits until it has left and takes everything away. Between them only an ifb device
 * waits, made at ATTACH so that a kernel that cannot do it is found out then.
 *
 * rtnetlink answers within the call, but frames that may leave do so in their own time: RELEASE and OPEN are looked at
 * again (STEP_MS) until they are done. Operations run in the order they were asked; only a SEAL passes RELEASEs that drain,
 * since a guest stands still meanwhile. It waits for them if the queue has no room for one epoch more (plug_queue.h).
 */
#include "netbuf_ops.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <ev.h>

#include <replicad/clock.h>
#include <replicad/log.h>

#include "plug_port.h"

#define STEP_MS 1
#define WATCH_MS 20         /* how full is it? sch_plug tells nobody. So often at most, */
#define WATCH_MS_MAX 100    /* and at least */
#define WATCH_BYTES_MS 125000 /* a gigabit a second: what a guest may begin to send at any time, */
#define WATCH_GROWN 4       /* and so many times what it sent until now */
#define VERIFY_MS 1000      /* is the redirect still there? */
#define DRAIN_MS 3000       /* what may leave has left by then */
#define SETTLE_MS 200       /* a busy guest's queue is never seen empty: then the filter goes first */
#define FULL_NUM 3          /* nearly full: three quarters */
#define FULL_DEN 4
#define OPS_MAX (RPL_NETBUF_NOPS * RPL_NETBUF_PENDING_MAX)

struct plug_op {
	enum rpl_netbuf_op op;
	uint64_t epoch;
	int stage; /* 0: not begun */
	uint64_t count; /* a release: done when so many epochs have left */
	uint64_t until_ns; /* it waits no longer, at this stage; 0: it has not waited */
};

struct plug {
	struct rpl_netbuf *n;
	struct ev_loop *loop;
	char *vm;
	struct plug_nl *nl;
	struct plug_port ports[RPL_NETBUF_INTERFACES_MAX];
	uint32_t n_ports, limit_bytes;
	bool told; /* which interfaces the guest has */

	struct rpl_netbuf_status status;
	uint64_t sealed[PLUG_SEALED_MAX]; /* epochs not released, oldest first */
	uint32_t n_sealed;
	uint64_t n_released; /* told to leave, since we are */
	struct plug_op queue[OPS_MAX];
	uint32_t count; /* oldest first */
	struct ev_timer step, watch;
	bool measured; /* by an operation of this step */
	double looked; /* by the loop's date, last; */
	unsigned verified_ms; /* so long before that the redirects were verified */
	uint64_t watch_bytes; /* held and passed at the last look */
	bool full; /* reported; again when it has become less */
};

#define WAIT 1 /* not done: look again */

typedef int port_fn(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err);

static int each(struct plug *c, port_fn *fn, struct rpl_err *err)
{
	int r = 0;

	for (uint32_t i = 0; i < c->n_ports && r >= 0; i++)
		r = fn(&c->ports[i], c->nl, err);
	return r < 0 ? r : 0;
}

static void sum_status(struct plug *c)
{
	struct rpl_netbuf_status *s = &c->status;

	s->ports = 0;
	s->held_frames = s->held_bytes = s->passed_frames = s->passed_bytes = s->dropped_frames = 0;
	for (uint32_t i = 0; i < c->n_ports; i++) {
		const struct plug_queue *q = &c->ports[i].queue;

		s->ports += c->ports[i].vif_index != 0;
		s->held_frames += q->now.queued;
		s->held_bytes += q->now.backlog_bytes;
		s->passed_frames += q->passed_frames + q->now.sent_packets;
		s->passed_bytes += q->passed_bytes + q->now.sent_bytes;
		s->dropped_frames += q->dropped_frames + q->now.dropped;
	}
	rpl_netbuf_set_status(c->n, s);
}

/* Epochs are counted anew. */
static void forget_epochs(struct plug *c)
{
	c->status.sealed_epoch = c->status.released_epoch = 0;
	c->n_sealed = 0;
}

static void set_holding(struct plug *c, bool holding, bool shut)
{
	c->status.holding = holding;
	c->status.shut = shut;
	c->full = false;
	ev_timer_stop(c->loop, &c->watch);
	if (!holding || shut)
		return;
	c->looked = ev_now(c->loop);
	ev_timer_set(&c->watch, WATCH_MS / 1e3, WATCH_MS / 1e3);
	ev_timer_start(c->loop, &c->watch);
}

/* ---- operations: 0, WAIT, or an error. What fails half done leaves the output closed. */

static int do_attach(struct plug *c, struct rpl_err *err)
{
	uint32_t redirected = 0, shut = 0;
	int r = 0;

	if (!c->nl)
		c->nl = plug_nl_open(err);
	if (!c->nl)
		return err->code;
	r = each(c, plug_port_find, err);
	for (uint32_t i = 0; r == 0 && i < c->n_ports; i++) {
		struct plug_port *p = &c->ports[i];

		redirected += p->redirected;
		shut += p->shut;
		if (!p->redirected)
			r = plug_port_prepare(p, c->nl, err);
		if (!p->vif_index)
			rpl_log(RPL_LOG_WARNING, "vm=%s netbuf=plug interface=%s reason=\"it does not exist yet\"", c->vm,
				p->vif);
	}
	if (r < 0)
		return r;
	c->status.attached = true;
	forget_epochs(c); /* the kernel knows no numbers */
	set_holding(c, redirected > 0, shut > 0);
	/* An earlier keeper got half through: closed is safe, half closed is not. */
	for (uint32_t i = 0; r == 0 && redirected && i < c->n_ports; i++)
		if (c->ports[i].vif_index && !c->ports[i].redirected)
			r = (shut ? plug_port_shut : plug_port_hold)(&c->ports[i], c->nl, err);
	return r;
}

/* What it held meanwhile is lost: the guest is not told that it is held. */
static void undo_hold(struct plug *c)
{
	struct rpl_err later;

	for (uint32_t i = 0; i < c->n_ports; i++)
		if (plug_port_open(&c->ports[i], c->nl, &later) < 0 || plug_port_burst(&c->ports[i], c->nl, &later) < 0 ||
		    plug_port_unredirect(&c->ports[i], c->nl, &later) < 0)
			rpl_log(RPL_LOG_WARNING, "vm=%s netbuf=plug op=hold undo=failed reason=\"%s\"", c->vm, later.msg);
}

static int do_hold(struct plug *c, struct rpl_err *err)
{
	bool was_shut = c->status.shut;
	int r;

	if (c->status.holding && !c->status.shut)
		return 0;
	if (!c->told)
		return rpl_fail(err, -EINVAL, "nobody said which interfaces the guest has");
	r = each(c, plug_port_hold, err);
	if (r < 0 && !was_shut)
		undo_hold(c);
	if (r < 0)
		return r;
	forget_epochs(c);
	set_holding(c, true, false);
	return 0;
}

static bool has_room(const struct plug *c)
{
	bool room = true;

	for (uint32_t i = 0; i < c->n_ports; i++)
		room = room && plug_port_room(&c->ports[i]);
	return room;
}

static int do_seal(struct plug *c, uint64_t epoch, struct rpl_err *err)
{
	struct rpl_netbuf_status *s = &c->status;
	struct rpl_err why = { 0 };
	int r = 0;

	if (!s->holding || s->shut)
		return rpl_fail(err, -EINVAL, "seal of epoch %" PRIu64 ": output is not held", epoch);
	if (epoch <= s->sealed_epoch)
		return rpl_fail(err, -EINVAL, "seal of epoch %" PRIu64 ": the last was %" PRIu64, epoch, s->sealed_epoch);
	if (c->n_sealed == PLUG_SEALED_MAX)
		return rpl_fail(err, -EBUSY, "seal of epoch %" PRIu64 ": %u epochs are sealed and not released, since %" PRIu64,
				epoch, c->n_sealed, c->sealed[0]);
	if (!has_room(c))
		return WAIT;
	for (uint32_t i = 0; r >= 0 && i < c->n_ports; i++) {
		r = plug_port_seal(&c->ports[i], c->nl, &why);
		if (r > 0)
			rpl_log(RPL_LOG_WARNING, "vm=%s netbuf=plug epoch=%" PRIu64 " reason=\"%s\"", c->vm, epoch, why.msg);
	}
	if (r < 0) {
		*err = why;
		return r;
	}
	c->sealed[c->n_sealed++] = s->sealed_epoch = epoch;
	c->measured = true;
	return 0;
}

/* WAIT until all that was asked of the ports is done. */
static int step_all(struct plug *c, struct rpl_err *err)
{
	bool wait = false;
	int r = 0;

	for (uint32_t i = 0; r >= 0 && i < c->n_ports; i++) {
		r = plug_port_step(&c->ports[i], c->nl, err);
		wait = wait || r > 0;
	}
	if (r < 0)
		return r;
	return wait ? WAIT : 0;
}

/* It waits: for so long at most from the first time on that it does, at this stage. */
static bool is_late(struct plug_op *o, unsigned ms)
{
	uint64_t now = rpl_now_ns();

	if (!o->until_ns)
		o->until_ns = now + ms * RPL_MS;
	return now > o->until_ns;
}

static void next_stage(struct plug_op *o, int stage)
{
	o->stage = stage;
	o->until_ns = 0;
}

/* Epochs up to this one may leave: noted, so that a seal has their places in the list. An epoch that was never sealed is
 * refused when its turn comes. */
static void begin_release(struct plug *c, struct plug_op *o)
{
	struct rpl_netbuf_status *s = &c->status;
	uint32_t n = 0;

	if (o->stage || o->epoch > s->sealed_epoch)
		return;
	o->stage = 1;
	while (n < c->n_sealed && c->sealed[n] <= o->epoch)
		n++;
	c->n_sealed -= n;
	memmove(c->sealed, c->sealed + n, c->n_sealed * sizeof(c->sealed[0]));
	for (uint32_t i = 0; i < c->n_ports; i++)
		plug_port_release(&c->ports[i], n);
	o->count = c->n_released += n;
	if (o->epoch > s->released_epoch)
		s->released_epoch = o->epoch;
}

/* Others may be released behind this one and not have left yet. */
static bool has_left(const struct plug *c, const struct plug_op *o)
{
	uint32_t behind = 0;

	for (uint32_t i = 0; i < c->n_ports; i++)
		if (c->ports[i].queue.may > behind)
			behind = c->ports[i].queue.may;
	return behind <= c->n_released - o->count;
}

static int do_release(struct plug *c, struct plug_op *o, struct rpl_err *err)
{
	int r;

	begin_release(c, o);
	if (!o->stage)
		return rpl_fail(err, -EINVAL, "release of epoch %" PRIu64 ": sealed were those up to %" PRIu64, o->epoch,
				c->status.sealed_epoch);
	if (o->stage == 1) /* those before have left */
		next_stage(o, 2);
	r = step_all(c, err);
	if (r == WAIT && has_left(c, o))
		return 0;
	if (r == WAIT && is_late(o, DRAIN_MS))
		return rpl_fail(err, -ETIMEDOUT, "release of epoch %" PRIu64 ": not all of it left within %d ms", o->epoch,
				DRAIN_MS);
	return r;
}

static int all_empty(struct plug *c, bool *ret, struct rpl_err *err)
{
	bool empty;
	int r = 0;

	*ret = true;
	for (uint32_t i = 0; i < c->n_ports && r == 0; i++) {
		r = plug_port_empty(&c->ports[i], c->nl, &empty, err);
		*ret = *ret && empty;
	}
	return r;
}

/* Stage 1: the sealed epochs leave, one after the other. */
static int open_sealed(struct plug *c, struct plug_op *o, struct rpl_err *err)
{
	int r = step_all(c, err);

	if (r == WAIT && !is_late(o, DRAIN_MS))
		return WAIT;
	if (r == WAIT) {
		rpl_log(RPL_LOG_WARNING, "vm=%s netbuf=plug op=open reason=\"what is sealed did not leave within %d ms: all of it "
			"may leave now, in any order\"", c->vm, DRAIN_MS);
		r = each(c, plug_port_burst, err);
	}
	next_stage(o, 2);
	return r;
}

static int do_open(struct plug *c, struct plug_op *o, struct rpl_err *err)
{
	bool empty;
	int r = 0;

	if (!c->status.holding)
		return 0;
	if (o->stage == 0) {
		o->stage = 1;
		r = each(c, plug_port_open, err);
	}
	if (r == 0)
		r = o->stage == 1 ? open_sealed(c, o, err) : step_all(c, err);
	if (r != 0)
		return r;
	r = all_empty(c, &empty, err);
	if (r < 0 || (!empty && !is_late(o, o->stage == 2 ? SETTLE_MS : DRAIN_MS)))
		return r < 0 ? r : WAIT;
	if (o->stage == 2) { /* then wait for what was between the filter and the queue */
		next_stage(o, 3);
		r = each(c, plug_port_unredirect, err);
		return r < 0 ? r : WAIT;
	}
	if (!empty)
		rpl_log(RPL_LOG_WARNING, "vm=%s netbuf=plug op=open held_frames=%" PRIu64 " reason=\"they did not leave "
			"within %d ms, and are lost\"", c->vm, c->status.held_frames, DRAIN_MS);
	set_holding(c, false, false);
	return each(c, plug_port_drop, err); /* closed for the next hold */
}

static int do_drop(struct plug *c, struct rpl_err *err)
{
	c->status.released_epoch = c->status.sealed_epoch;
	c->n_sealed = 0;
	return each(c, plug_port_drop, err);
}

static int do_shut(struct plug *c, struct rpl_err *err)
{
	int r = each(c, plug_port_shut, err);

	forget_epochs(c);
	if (r == 0)
		set_holding(c, true, true);
	return r;
}

static int run(struct plug *c, struct plug_op *o, struct rpl_err *err)
{
	if (o->op != RPL_NETBUF_ATTACH && !c->status.attached)
		return rpl_fail(err, -ENOTCONN, "not attached");
	switch (o->op) {
	case RPL_NETBUF_ATTACH:
		return do_attach(c, err);
	case RPL_NETBUF_HOLD:
		return do_hold(c, err);
	case RPL_NETBUF_SEAL:
		return do_seal(c, o->epoch, err);
	case RPL_NETBUF_RELEASE:
		return do_release(c, o, err);
	case RPL_NETBUF_OPEN:
		return do_open(c, o, err);
	case RPL_NETBUF_DROP:
		return do_drop(c, err);
	default:
		return do_shut(c, err);
	}
}

/* ---- ends */

static void end_op(struct plug *c, uint32_t at, int r, const struct rpl_err *err)
{
	struct plug_op o = c->queue[at];
	struct rpl_err why = { 0 };

	if (r < 0) {
		why = *err;
		(void)rpl_prefix(&why, "vm %s: netbuf plug", c->vm);
	}
	c->count--;
	memmove(&c->queue[at], &c->queue[at + 1], (c->count - at) * sizeof(o));
	rpl_netbuf_finish(c->n, o.op, o.epoch, r, &why);
}

/* What the kernel holds is not what we believe: everything asked ends, and ATTACH may look again. May free c. */
static void lose(struct plug *c, const struct rpl_err *why)
{
	struct rpl_err kept = *why;
	char msg[sizeof(kept.msg) + 64];

	while (c->count)
		end_op(c, 0, kept.code, &kept);
	c->status.attached = false;
	ev_timer_stop(c->loop, &c->watch);
	sum_status(c);
	(void)snprintf(msg, sizeof(msg), "vm %.40s: netbuf plug: %s", c->vm, kept.msg);
	rpl_netbuf_report(c->n, kept.code, msg);
}

/* ---- while it holds: how full is it? Each seal tells; where none comes a timer asks */

static const struct plug_port *fullest(const struct plug *c)
{
	const struct plug_port *most = NULL;

	for (uint32_t i = 0; i < c->n_ports; i++)
		if (!most || c->ports[i].queue.now.backlog_bytes > most->queue.now.backlog_bytes)
			most = &c->ports[i];
	return most;
}

static uint64_t full_bytes(const struct plug *c)
{
	return (uint64_t)c->limit_bytes / FULL_DEN * FULL_NUM;
}

/* Since the look before; the date may have been changed meanwhile. */
static unsigned since_ms(struct plug *c)
{
	double before = c->looked, ms = ((c->looked = ev_now(c->loop)) - before) * 1e3;

	return ms < 1 ? 1 : ms > VERIFY_MS ? VERIFY_MS : (unsigned)ms;
}

/* When the next look is due: before it can be full. A look takes the processor, which the guest may need for itself. */
static void look_again(struct plug *c, const struct plug_port *most)
{
	uint64_t seen = c->status.held_bytes + c->status.passed_bytes, held = most ? most->queue.now.backlog_bytes : 0;
	unsigned since = since_ms(c), verify;
	uint64_t grown = seen > c->watch_bytes ? seen - c->watch_bytes : 0, per_ms = grown / since * WATCH_GROWN, ms;

	if (per_ms < WATCH_BYTES_MS)
		per_ms = WATCH_BYTES_MS;
	ms = held < full_bytes(c) ? (full_bytes(c) - held) / per_ms : 0;
	c->watch_bytes = seen;
	c->verified_ms += since;
	verify = c->verified_ms < VERIFY_MS ? VERIFY_MS - c->verified_ms : 1; /* seals do not put that off */
	ms = ms < WATCH_MS ? WATCH_MS : ms > WATCH_MS_MAX ? WATCH_MS_MAX : ms;
	c->watch.repeat = (double)(ms < verify ? ms : verify) / 1e3;
	ev_timer_again(c->loop, &c->watch);
}

/* Its queues were measured. May free c. */
static void looked(struct plug *c)
{
	const struct plug_port *most = fullest(c);
	char msg[160];
	bool full;

	sum_status(c);
	look_again(c, most);
	full = most && most->queue.now.backlog_bytes >= full_bytes(c);
	if (full == c->full)
		return;
	c->full = full;
	if (!full)
		return;
	(void)snprintf(msg, sizeof(msg), "%s: %" PRIu64 " of %" PRIu32 " bytes are held: beyond that frames are dropped",
		       most->vif, most->queue.now.backlog_bytes, c->limit_bytes);
	rpl_netbuf_report(c->n, 0, msg); /* may free us */
}

static void watch_cb(struct ev_loop *loop, struct ev_timer *w, int revents)
{
	struct plug *c = w->data;
	struct rpl_err err = { 0 };
	int r = each(c, plug_port_measure, &err);

	(void)loop;
	(void)revents;
	if (r == 0 && c->verified_ms + WATCH_MS_MAX >= VERIFY_MS) {
		r = each(c, plug_port_verify, &err);
		c->verified_ms = 0;
	}
	if (r < 0)
		lose(c, &err);
	else
		looked(c);
}

/* ---- the queue of operations */

/* Our word against the kernel's? Not when the caller asked something impossible, or when ATTACH or HOLD, which change
 * nothing if they fail, say no. */
static bool is_loss(enum rpl_netbuf_op op, int r)
{
	return op != RPL_NETBUF_ATTACH && op != RPL_NETBUF_HOLD && r != -EINVAL && r != -EBUSY && r != -ENOTCONN;
}

static void step_cb(struct ev_loop *loop, struct ev_timer *w, int revents)
{
	struct plug *c = w->data;
	struct rpl_err err = { 0 };
	uint32_t at = 0; /* those before are releases that wait */
	int r;

	(void)revents;
	ev_timer_stop(loop, w);
	c->measured = false;
	while (at < c->count) {
		struct plug_op *o = &c->queue[at];
		enum rpl_netbuf_op op = o->op;

		if (at > 0 && op == RPL_NETBUF_RELEASE) {
			begin_release(c, o);
			at++;
			continue;
		}
		if (at > 0 && op != RPL_NETBUF_SEAL)
			break;
		err.code = 0;
		r = run(c, o, &err);
		if (r != WAIT)
			end_op(c, at, r, &err);
		if (r < 0 && is_loss(op, r)) {
			lose(c, &err);
			return;
		}
		if (r != WAIT)
			continue;
		if (op != RPL_NETBUF_RELEASE)
			break;
		at++;
	}
	if (c->count) {
		ev_timer_set(w, STEP_MS / 1e3, 0);
		ev_timer_start(loop, w);
	}
	if (c->measured && c->status.holding && !c->status.shut)
		looked(c);
	else if (c->status.attached)
		sum_status(c);
}

static void plug_start(void *self, enum rpl_netbuf_op op, uint64_t epoch)
{
	struct plug *c = self;

	c->queue[c->count++] = (struct plug_op){ .op = op, .epoch = epoch };
	ev_feed_event(c->loop, &c->step, EV_TIMER); /* netbuf.c bounds the number of each kind */
}

/* ---- which interfaces */

static int plug_interfaces(void *self, const char *const *names, struct rpl_err *err)
{
	struct plug *c = self;
	struct plug_port fresh[RPL_NETBUF_INTERFACES_MAX];
	struct rpl_err later;
	uint32_t n = 0;

	for (uint32_t i = 0; i < c->n_ports; i++)
		if (c->ports[i].redirected)
			return rpl_fail(err, -EBUSY, "vm %s: output of %s is held: its interfaces cannot be changed now", c->vm,
					c->ports[i].vif);
	for (; names[n]; n++) {
		if (n == RPL_NETBUF_INTERFACES_MAX)
			return rpl_fail(err, -E2BIG, "vm %s: more than %d network interfaces", c->vm,
					RPL_NETBUF_INTERFACES_MAX);
		if (plug_port_init(&fresh[n], names[n], c->limit_bytes, err) < 0)
			return rpl_prefix(err, "vm %s", c->vm);
		for (uint32_t i = 0; i < n; i++)
			if (strcmp(fresh[i].vif, fresh[n].vif) == 0)
				return rpl_fail(err, -EINVAL, "vm %s: interface %s is named twice", c->vm, names[n]);
	}
	for (uint32_t i = 0; c->nl && i < c->n_ports; i++)
		(void)plug_port_remove(&c->ports[i], c->nl, &later); /* an ifb that stays does no harm */
	memcpy(c->ports, fresh, n * sizeof(fresh[0]));
	c->n_ports = n;
	c->told = true;
	return 0;
}

/* ---- life */

static void plug_fini(void *self)
{
	struct plug *c = self;
	struct rpl_err later;

	ev_clear_pending(c->loop, &c->step);
	ev_timer_stop(c->loop, &c->step);
	ev_timer_stop(c->loop, &c->watch);
	for (uint32_t i = 0; c->nl && i < c->n_ports; i++) {
		/* of an interface that is gone nothing can leave: its ifb goes too */
		(void)plug_port_verify(&c->ports[i], c->nl, &later);
		if (!c->ports[i].redirected)
			(void)plug_port_remove(&c->ports[i], c->nl, &later);
	}
	plug_nl_close(c->nl);
	free(c->vm);
	free(c);
}

static int plug_init(struct rpl_netbuf *n, const struct rpl_netbuf_conf *conf, struct ev_loop *loop, void **ret_self,
		     struct rpl_err *err)
{
	struct plug *c = calloc(1, sizeof(*c));
	int r = 0;

	if (!c || !(c->vm = strdup(conf->vm))) {
		free(c);
		return rpl_fail(err, -ENOMEM, "vm %s: no memory for netbuf plug", conf->vm);
	}
	c->n = n;
	c->loop = loop;
	c->limit_bytes = conf->hold_bytes_max ? conf->hold_bytes_max : RPL_NETBUF_HOLD_BYTES;
	ev_init(&c->step, step_cb);
	ev_init(&c->watch, watch_cb);
	c->step.data = c->watch.data = c;
	if (conf->interfaces)
		r = plug_interfaces(c, conf->interfaces, err);
	if (r < 0) {
		plug_fini(c);
		return r;
	}
	*ret_self = c;
	return 0;
}

const struct rpl_netbuf_ops rpl_netbuf_plug = {
	.name = "plug",
	.max_uncommitted = PLUG_SEALED_MAX,
	.init = plug_init,
	.start = plug_start,
	.interfaces = plug_interfaces,
	.fini = plug_fini,
};

/* ---- for `replicad doctor`: an ifb of our own, gone again at once */

int rpl_netbuf_check_plug(struct rpl_err *err)
{
	struct plug_nl *nl = plug_nl_open(err);
	struct plug_port p;
	struct rpl_err later;
	char name[IF_NAMESIZE];
	int r;

	if (!nl)
		return err->code;
	(void)snprintf(name, sizeof(name), "try%d", (int)getpid());
	r = plug_port_init(&p, name, RPL_NETBUF_HOLD_BYTES, err);
	if (r == 0)
		r = plug_port_prepare(&p, nl, err);
	if (r == 0)
		(void)plug_port_remove(&p, nl, &later);
	plug_nl_close(nl);
	return r;
}
