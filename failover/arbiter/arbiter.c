#include "arbiter_ops.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <replicad/auto.h>
#include <replicad/log.h>

struct rpl_arbiter {
	const struct rpl_arbiter_ops *ops;
	void *self;
	rpl_arbiter_done_fn *done;
	void *arg;
	bool busy;
	bool withheld; /* a swap that only an operator may decide: it is a read, and will be answered as refused */
	struct rpl_arbiter_ask ask;
};

static const struct rpl_arbiter_ops *const backends[] = { &rpl_arbiter_file, &rpl_arbiter_etcd, &rpl_arbiter_manual };
static const char *const outcome_name[] = { "ok", "none", "refused", "unknown" };
_Static_assert(RPL_ARRAY_LEN(outcome_name) == RPL_ARBITER_UNKNOWN + 1, "a name for each outcome");

/* One name below a directory, a key or a resource: nothing that could lead elsewhere. */
static bool cluster_is_fine(const char *name)
{
	size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.");

	return len > 0 && len <= RPL_ARBITER_CLUSTER_MAX && name[len] == '\0' && name[0] != '.';
}

struct rpl_arbiter *rpl_arbiter_new(const struct rpl_arbiter_conf *conf, struct ev_loop *loop,
				    rpl_arbiter_done_fn *done, void *arg, struct rpl_err *err)
{
	struct rpl_arbiter *a;
	const struct rpl_arbiter_ops *ops = NULL;

	for (size_t i = 0; i < RPL_ARRAY_LEN(backends); i++)
		if (strcmp(backends[i]->name, conf->backend) == 0)
			ops = backends[i];
	if (!ops) {
		(void)rpl_fail(err, -EINVAL, "arbiter '%.40s' is unknown: use file, etcd or manual", conf->backend);
		return NULL;
	}
	if (!cluster_is_fine(conf->cluster)) {
		(void)rpl_fail(err, -EINVAL, "arbiter: cluster '%.80s': want 1 to %d letters, digits, '-', '_' or '.', "
			       "not beginning with '.'", conf->cluster, RPL_ARBITER_CLUSTER_MAX);
		return NULL;
	}
	if (conf->timeout_ms == 0) {
		(void)rpl_fail(err, -EINVAL, "arbiter %s: a time-out of 0 ms", conf->backend);
		return NULL;
	}
	a = calloc(1, sizeof(*a));
	if (!a) {
		(void)rpl_fail(err, -ENOMEM, "arbiter %s: no memory", conf->backend);
		return NULL;
	}
	a->ops = ops;
	a->done = done;
	a->arg = arg;
	if (ops->init(a, conf, loop, &a->self, err) < 0) {
		free(a);
		return NULL;
	}
	return a;
}

static int start(struct rpl_arbiter *a, const struct rpl_arbiter_ask *ask, struct rpl_err *err)
{
	if (a->busy)
		return rpl_fail(err, -EALREADY, "arbiter %s: an operation is under way", a->ops->name);
	a->busy = true;
	a->ask = *ask;
	a->withheld = ask->cas && !ask->permitted && a->ops->may_decide && !a->ops->may_decide(ask);
	if (a->withheld)
		a->ask.cas = false;
	a->ops->start(a->self, &a->ask);
	return 0;
}

int rpl_arbiter_read(struct rpl_arbiter *a, const struct rpl_uuid *vm, struct rpl_err *err)
{
	struct rpl_arbiter_ask ask = { .vm = *vm };

	return start(a, &ask, err);
}

static int swap(struct rpl_arbiter *a, const struct rpl_record *expect, const struct rpl_record *want, bool permitted,
		struct rpl_err *err)
{
	struct rpl_arbiter_ask ask = { .cas = true, .permitted = permitted, .vm = want->vm, .absent = !expect, .want = *want };

	if (expect) {
		ask.expect = *expect;
		if (!rpl_uuid_equal(&expect->vm, &want->vm))
			return rpl_fail(err, -EINVAL, "arbiter: a swap from one vm's record to another's");
		if (want->generation <= expect->generation) /* I4 */
			return rpl_fail(err, -EINVAL, "arbiter: a swap from generation %" PRIu64 " to %" PRIu64
					": generations only grow", expect->generation, want->generation);
	}
	return start(a, &ask, err);
}

int rpl_arbiter_cas(struct rpl_arbiter *a, const struct rpl_record *expect, const struct rpl_record *want,
		    struct rpl_err *err)
{
	return swap(a, expect, want, false, err);
}

int rpl_arbiter_cas_permitted(struct rpl_arbiter *a, const struct rpl_record *expect, const struct rpl_record *want,
			      struct rpl_err *err)
{
	return swap(a, expect, want, true, err);
}

int rpl_arbiter_learn(struct rpl_arbiter *a, const struct rpl_record *record, struct rpl_err *err)
{
	struct rpl_arbiter_ask ask = { .learn = true, .vm = record->vm, .want = *record };

	if (!a->ops->learns)
		return rpl_fail(err, -EOPNOTSUPP, "arbiter %s: is told nothing by a peer", a->ops->name);
	return start(a, &ask, err);
}

/* What a read shows is the answer to a swap that was withheld: refused, and here is what is there. */
static enum rpl_arbiter_outcome withhold(struct rpl_arbiter *a, enum rpl_arbiter_outcome outcome, struct rpl_err *err)
{
	a->withheld = false;
	a->ask.cas = true;
	if (outcome == RPL_ARBITER_OK)
		return RPL_ARBITER_REFUSED;
	if (outcome == RPL_ARBITER_NONE)
		(void)rpl_fail(err, -ENOENT, "arbiter %s: the record is gone: was it removed by hand?", a->ops->name);
	return RPL_ARBITER_UNKNOWN;
}

/* The backend's duty, checked at the one door that all answers pass. */
static void check_answer(const struct rpl_arbiter *a, enum rpl_arbiter_outcome outcome,
			 const struct rpl_record *record, const struct rpl_err *err)
{
	rpl_assert(a->busy);
	rpl_assert((outcome == RPL_ARBITER_OK || outcome == RPL_ARBITER_REFUSED) == (record != NULL));
	rpl_assert(outcome != RPL_ARBITER_UNKNOWN || (err && err->code < 0 && err->msg[0]));
	rpl_assert(outcome != RPL_ARBITER_NONE || !a->ask.cas);
	rpl_assert(outcome != RPL_ARBITER_REFUSED || a->ask.cas);
	rpl_assert(!record || rpl_uuid_equal(&record->vm, &a->ask.vm));
	rpl_assert(outcome != RPL_ARBITER_OK || !a->ask.cas || rpl_record_equal(record, &a->ask.want));
}

void rpl_arbiter_finish(struct rpl_arbiter *a, enum rpl_arbiter_outcome outcome, const struct rpl_record *record,
			const struct rpl_err *err)
{
	struct rpl_err fine = { 0 };
	char vm[RPL_UUID_TEXT];

	if (a->withheld) {
		if (err)
			fine = *err;
		err = &fine;
		outcome = withhold(a, outcome, &fine);
	}
	check_answer(a, outcome, record, err);
	if (!err)
		err = &fine;
	rpl_log(RPL_LOG_DEBUG, "arbiter=%s uuid=%s op=%s outcome=%s gen=%" PRIu64 " owner=%s reason=\"%s\"",
		a->ops->name, rpl_uuid_text(&a->ask.vm, vm), a->ask.cas ? "cas" : "read", outcome_name[outcome],
		record ? record->generation : 0, record ? record->owner : "", err->msg);
	a->busy = false;
	a->done(a->arg, outcome, record, err); /* may start the next operation, or free us */
}

void rpl_arbiter_free(struct rpl_arbiter *a)
{
	if (!a)
		return;
	a->ops->fini(a->self);
	free(a);
}
