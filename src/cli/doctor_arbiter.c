#include "doctor_arbiter.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <ev.h>

#include <replicad/arbiter.h>
#include <replicad/clock.h>

#define READS 5
#define SLOW_SHARE 4 /* a read that takes more than this part of arbiter_timeout_ms will one day take all of it */

static const char *const mode_names[] = {
#define X(name, text) #name,
	RPL_MODES(X)
#undef X
};

struct look {
	struct ev_loop *loop;
	struct rpl_arbiter *arbiter;
	enum rpl_arbiter_outcome outcome;
	struct rpl_record record;
	struct rpl_err err;
	uint64_t slowest_ns, quickest_ns;
};

static void on_done(void *arg, enum rpl_arbiter_outcome outcome, const struct rpl_record *record,
		    const struct rpl_err *err)
{
	struct look *l = arg;

	l->outcome = outcome;
	if (record)
		l->record = *record;
	l->err = *err;
	ev_break(l->loop, EVBREAK_ALL);
}

static bool known(const struct look *l)
{
	return l->outcome != RPL_ARBITER_UNKNOWN;
}

static void read_some(struct look *l, const struct rpl_uuid *vm)
{
	for (int i = 0; i < READS; i++) {
		uint64_t begun = rpl_now_ns(), took;

		l->outcome = RPL_ARBITER_UNKNOWN;
		if (rpl_arbiter_read(l->arbiter, vm, &l->err) < 0)
			return;
		(void)ev_run(l->loop, 0);
		if (!known(l))
			return;
		took = rpl_now_ns() - begun;
		if (took > l->slowest_ns)
			l->slowest_ns = took;
		if (!l->quickest_ns || took < l->quickest_ns)
			l->quickest_ns = took;
	}
}

static void tell(const struct look *l, const struct rpl_conf_agent *a, bool vm_known, struct rpl_check *c)
{
	char record[128] = "";

	if (vm_known && l->outcome == RPL_ARBITER_NONE)
		(void)snprintf(record, sizeof(record), "; no record of this VM yet");
	else if (vm_known)
		(void)snprintf(record, sizeof(record), "; generation %" PRIu64 ", %s, owner %s", l->record.generation,
			       mode_names[l->record.mode], l->record.owner);
	(void)snprintf(c->sentence, sizeof(c->sentence), "%.8s at %.80s: a read takes %.1f to %.1f ms%.100s", a->arbiter,
		       a->arbiter_location, (double)l->quickest_ns / RPL_MS, (double)l->slowest_ns / RPL_MS, record);
	if (l->slowest_ns / RPL_MS * SLOW_SHARE <= (uint64_t)a->arbiter_timeout_ms)
		return;
	c->level = RPL_CHECK_WARN;
	(void)snprintf(c->mend, sizeof(c->mend), "arbiter_timeout_ms is %" PRId64 ": raise it, or give the arbiter a quicker disk "
		       "or network", a->arbiter_timeout_ms);
}

int rpl_doctor_arbiter(const struct rpl_conf_agent *a, const struct rpl_conf_vm *vm, rpl_check_fn *fn, void *arg)
{
	struct rpl_arbiter_conf conf = { .backend = a->arbiter, .location = a->arbiter_location, .cluster = a->cluster,
					 .timeout_ms = (unsigned)a->arbiter_timeout_ms, .ca = a->arbiter_ca,
					 .cert = a->arbiter_cert, .key = a->arbiter_key, .insecure = a->insecure };
	struct rpl_check c = { .name = "arbiter", .level = RPL_CHECK_OK };
	struct look l = { .loop = ev_loop_new(0), .outcome = RPL_ARBITER_UNKNOWN };
	bool vm_known = vm && vm->uuid[0];
	struct rpl_uuid uuid;

	if (!vm_known || rpl_uuid_parse(vm->uuid, &uuid, NULL) < 0)
		rpl_uuid_random(&uuid);
	l.arbiter = rpl_arbiter_new(&conf, l.loop, on_done, &l, &l.err);
	if (l.arbiter)
		read_some(&l, &uuid);
	if (known(&l)) {
		tell(&l, a, vm_known, &c);
	} else {
		c.level = RPL_CHECK_FAIL;
		(void)snprintf(c.sentence, sizeof(c.sentence), "%s", l.err.msg);
		(void)snprintf(c.mend, sizeof(c.mend), "see replicad-arbiter(7); without an arbiter no VM becomes protected");
	}
	fn(arg, &c);
	rpl_arbiter_free(l.arbiter);
	ev_loop_destroy(l.loop);
	return c.level == RPL_CHECK_FAIL;
}
