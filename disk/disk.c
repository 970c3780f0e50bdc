#include "disk_ops.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <ev.h>

#include <replicad/auto.h>
#include <replicad/log.h>

/* Completions wait here until the loop delivers them, so that no callback runs inside a caller's own call. */
struct completion {
	enum rpl_disk_op op;
	uint64_t epoch;
	struct rpl_err err;
};

struct rpl_disk {
	const struct rpl_disk_ops *ops;
	void *self;
	struct ev_loop *loop;
	rpl_disk_done_fn *done;
	void *arg;
	char *vm;
	uint32_t pending; /* started and not delivered */
	struct ev_timer deliver;
	struct completion queue[RPL_DISK_PENDING_MAX];
	uint32_t first, count;
};

static const struct rpl_disk_ops *const backends[] = { &rpl_disk_none, &rpl_disk_overlay };

const char *rpl_disk_op_name(enum rpl_disk_op op)
{
	static const char *const name[] = { "attach", "defer",	 "seal", "flush",   "drain",
					    "cut",    "journal", "trim", "promote", "demote" };

	_Static_assert(RPL_ARRAY_LEN(name) == RPL_DISK_NOPS, "a name for each operation");
	return (unsigned)op < RPL_DISK_NOPS ? name[op] : "?";
}

static void deliver_cb(struct ev_loop *loop, struct ev_timer *w, int revents)
{
	struct rpl_disk *d = w->data;
	struct completion c;

	(void)revents;
	if (d->count == 0)
		return;
	c = d->queue[d->first];
	d->first = (d->first + 1) % RPL_DISK_PENDING_MAX;
	d->count--;
	d->pending--;
	if (d->count)
		ev_feed_event(loop, w, EV_TIMER);
	d->done(d->arg, c.op, c.epoch, c.err.code, &c.err); /* may free d: nothing after this */
}

void rpl_disk_finish(struct rpl_disk *d, enum rpl_disk_op op, uint64_t epoch, int r, const struct rpl_err *err)
{
	struct completion *c = &d->queue[(d->first + d->count) % RPL_DISK_PENDING_MAX];

	rpl_assert(d->count < d->pending);
	rpl_assert(r <= 0);
	*c = (struct completion){ .op = op, .epoch = epoch };
	if (r < 0) {
		rpl_assert(err && err->msg[0]);
		c->err = *err;
		c->err.code = r;
	}
	rpl_log(RPL_LOG_DEBUG, "vm=%s disk=%s op=%s epoch=%" PRIu64 " result=%d reason=\"%s\"", d->vm, d->ops->name,
		rpl_disk_op_name(op), epoch, r, c->err.msg);
	d->count++;
	ev_feed_event(d->loop, &d->deliver, EV_TIMER);
}

struct rpl_disk *rpl_disk_new(const struct rpl_disk_conf *conf, struct ev_loop *loop, rpl_disk_done_fn *done,
			      void *arg, struct rpl_err *err)
{
	const struct rpl_disk_ops *ops = NULL;
	struct rpl_disk *d;

	for (size_t i = 0; i < RPL_ARRAY_LEN(backends); i++)
		if (strcmp(backends[i]->name, conf->backend) == 0)
			ops = backends[i];
	if (!ops) {
		(void)rpl_fail(err, -EINVAL, "vm %s: no disk backend '%.40s': use none", conf->vm, conf->backend);
		return NULL;
	}
	d = calloc(1, sizeof(*d));
	if (!d || !(d->vm = strdup(conf->vm))) {
		free(d);
		(void)rpl_fail(err, -ENOMEM, "vm %s: no memory for its disks", conf->vm);
		return NULL;
	}
	d->ops = ops;
	d->loop = loop;
	d->done = done;
	d->arg = arg;
	ev_init(&d->deliver, deliver_cb);
	d->deliver.data = d;
	if (ops->init(d, conf, loop, &d->self, err) < 0) {
		free(d->vm);
		free(d);
		return NULL;
	}
	return d;
}

/* Which operations speak of an epoch. */
static bool has_epoch(enum rpl_disk_op op)
{
	return op == RPL_DISK_SEAL || op == RPL_DISK_FLUSH || op == RPL_DISK_JOURNAL || op == RPL_DISK_TRIM;
}

void rpl_disk_start(struct rpl_disk *d, enum rpl_disk_op op, uint64_t epoch)
{
	rpl_assert((unsigned)op < RPL_DISK_NOPS);
	rpl_assert(d->pending < RPL_DISK_PENDING_MAX);
	if (has_epoch(op))
		rpl_assert(epoch > 0);
	else if (op != RPL_DISK_PROMOTE) /* epoch 0: nothing to replay */
		rpl_assert(epoch == 0);
	d->pending++;
	d->ops->start(d, d->self, op, epoch);
}

uint32_t rpl_disk_max_uncommitted(const struct rpl_disk *d)
{
	return d->ops->max_uncommitted;
}

void rpl_disk_free(struct rpl_disk *d)
{
	if (!d)
		return;
	d->ops->fini(d->self);
	ev_clear_pending(d->loop, &d->deliver);
	free(d->vm);
	free(d);
}

int rpl_disk_admit(const char *vm, const char *device, bool writable, bool carried, struct rpl_err *err)
{
	if (!writable || carried)
		return 0;
	return rpl_fail(err, -EPERM, "vm %s: disk %.60s is writable and no overlay carries its writes: a takeover would "
			"lose or repeat them. Make it read-only, or remove it", vm, device);
}
