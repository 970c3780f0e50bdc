#include "netbuf_ops.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <ev.h>

#include <replicad/auto.h>
#include <replicad/log.h>

#include "relay_proto.h"

/* Completions wait here until the loop delivers them, so that no callback runs inside a caller's own call. A count
 * per kind bounds them: an operation is either with the backend or here. */
struct completion {
	enum rpl_netbuf_op op;
	uint64_t epoch;
	struct rpl_err err;
};

#define COMPLETIONS_MAX (RPL_NETBUF_NOPS * RPL_NETBUF_PENDING_MAX)

struct rpl_netbuf {
	const struct rpl_netbuf_ops *ops;
	void *self;
	struct ev_loop *loop;
	rpl_netbuf_done_fn *done;
	rpl_netbuf_event_fn *event;
	void *arg;
	char *vm;
	struct rpl_netbuf_status status;
	uint32_t pending[RPL_NETBUF_NOPS];
	struct ev_timer deliver;
	struct completion queue[COMPLETIONS_MAX];
	uint32_t first, count;
};

static const struct rpl_netbuf_ops *const backends[] = { &rpl_netbuf_relay, &rpl_netbuf_plug, &rpl_netbuf_none };

static void deliver_cb(struct ev_loop *loop, struct ev_timer *w, int revents)
{
	struct rpl_netbuf *n = w->data;
	struct completion c;

	(void)revents;
	if (n->count == 0) {
		ev_timer_stop(loop, w);
		return;
	}
	c = n->queue[n->first];
	n->first = (n->first + 1) % COMPLETIONS_MAX;
	n->count--;
	n->pending[c.op]--;
	if (n->count == 0)
		ev_timer_stop(loop, w);
	else
		ev_feed_event(loop, w, EV_TIMER);
	n->done(n->arg, c.op, c.epoch, c.err.code, &c.err); /* may free n: nothing after this */
}

void rpl_netbuf_finish(struct rpl_netbuf *n, enum rpl_netbuf_op op, uint64_t epoch, int r, const struct rpl_err *err)
{
	struct completion *c = &n->queue[(n->first + n->count) % COMPLETIONS_MAX];

	rpl_assert(n->count < COMPLETIONS_MAX);
	rpl_assert(n->pending[op] > 0);
	rpl_assert(r <= 0);
	*c = (struct completion){ .op = op, .epoch = epoch };
	if (r < 0) {
		rpl_assert(err && err->msg[0]);
		c->err = *err;
		c->err.code = r;
	}
	rpl_log(RPL_LOG_DEBUG, "vm=%s netbuf=%s op=%s epoch=%" PRIu64 " result=%d reason=\"%s\"", n->vm, n->ops->name,
		rpl_netbuf_op_name(op), epoch, r, c->err.msg);
	n->count++;
	ev_feed_event(n->loop, &n->deliver, EV_TIMER);
}

void rpl_netbuf_report(struct rpl_netbuf *n, int r, const char *msg)
{
	n->event(n->arg, r, msg);
}

void rpl_netbuf_set_status(struct rpl_netbuf *n, const struct rpl_netbuf_status *s)
{
	n->status = *s;
}

struct rpl_netbuf *rpl_netbuf_new(const struct rpl_netbuf_conf *conf, struct ev_loop *loop, rpl_netbuf_done_fn *done,
				  rpl_netbuf_event_fn *event, void *arg, struct rpl_err *err)
{
	const struct rpl_netbuf_ops *ops = NULL;
	struct rpl_netbuf *n;

	for (size_t i = 0; i < RPL_ARRAY_LEN(backends); i++)
		if (strcmp(backends[i]->name, conf->backend) == 0)
			ops = backends[i];
	if (!ops) {
		(void)rpl_fail(err, -EINVAL, "vm %s: no netbuf backend '%.40s': use relay, plug or none", conf->vm,
			       conf->backend);
		return NULL;
	}
	n = calloc(1, sizeof(*n));
	if (!n || !(n->vm = strdup(conf->vm))) {
		free(n);
		(void)rpl_fail(err, -ENOMEM, "vm %s: no memory for its netbuf", conf->vm);
		return NULL;
	}
	n->ops = ops;
	n->loop = loop;
	n->done = done;
	n->event = event;
	n->arg = arg;
	ev_init(&n->deliver, deliver_cb);
	n->deliver.data = n;
	if (ops->init(n, conf, loop, &n->self, err) < 0) {
		free(n->vm);
		free(n);
		return NULL;
	}
	return n;
}

void rpl_netbuf_free(struct rpl_netbuf *n)
{
	if (!n)
		return;
	n->ops->fini(n->self);
	ev_clear_pending(n->loop, &n->deliver);
	free(n->vm);
	free(n);
}

static void start(struct rpl_netbuf *n, enum rpl_netbuf_op op, uint64_t epoch)
{
	rpl_assert(n->pending[op] < RPL_NETBUF_PENDING_MAX);
	n->pending[op]++;
	n->ops->start(n->self, op, epoch);
}

void rpl_netbuf_attach(struct rpl_netbuf *n)
{
	start(n, RPL_NETBUF_ATTACH, 0);
}

void rpl_netbuf_hold(struct rpl_netbuf *n)
{
	start(n, RPL_NETBUF_HOLD, 0);
}

void rpl_netbuf_seal(struct rpl_netbuf *n, uint64_t epoch)
{
	rpl_assert(epoch > 0);
	start(n, RPL_NETBUF_SEAL, epoch);
}

void rpl_netbuf_release(struct rpl_netbuf *n, uint64_t epoch)
{
	rpl_assert(epoch > 0);
	start(n, RPL_NETBUF_RELEASE, epoch);
}

void rpl_netbuf_open(struct rpl_netbuf *n)
{
	start(n, RPL_NETBUF_OPEN, 0);
}

void rpl_netbuf_drop(struct rpl_netbuf *n)
{
	start(n, RPL_NETBUF_DROP, 0);
}

void rpl_netbuf_shut(struct rpl_netbuf *n)
{
	start(n, RPL_NETBUF_SHUT, 0);
}

int rpl_netbuf_interfaces(struct rpl_netbuf *n, const char *const *names, struct rpl_err *err)
{
	return n->ops->interfaces ? n->ops->interfaces(n->self, names, err) : 0;
}

uint32_t rpl_netbuf_max_uncommitted(const struct rpl_netbuf *n)
{
	return n->ops->max_uncommitted;
}

const struct rpl_netbuf_status *rpl_netbuf_status(const struct rpl_netbuf *n)
{
	return &n->status;
}
