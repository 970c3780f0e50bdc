/* qemu_attach.c - ask a QEMU for its facts, one after the other, and judge them */
#include "qemu_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void ask_next(struct qemu *q);

/* Refused: others (doctor, the operator) may want the monitor that we shall not use. */
static void let_go(struct qemu *q)
{
	if (q->g->op != RPL_GUEST_ATTACH)
		return;
	qmp_free(q->qmp);
	q->qmp = NULL;
}

static void finish(struct qemu *q)
{
	struct rpl_guest *g = q->g;
	pid_t pid = qmp_peer_pid(q->qmp);
	struct rpl_guest_info info = { .running = false };
	struct rpl_err err;
	int r;

	r = qemu_inspect(g->conf.name, &q->facts, g->conf.any_netdev, &info, &q->ram, &err);
	if (r == 0 && pid <= 0)
		r = rpl_fail(&err, -ESRCH, "the process behind the monitor is not visible from here (another pid namespace?)");
	if (r == 0)
		r = qemu_watch_process(q, pid, &err);
	if (r < 0) {
		free(info.definition);
		let_go(q);
		rpl_guest_op_done(g, r, &err);
		return;
	}
	free(g->info.definition);
	info.paused_by_us = g->info.paused_by_us;
	info.paused_ns = g->info.paused_ns;
	g->info = info;
	if (g->op == RPL_GUEST_LOOK) {
		rpl_guest_op_done(g, 0, NULL);
		return;
	}
	g->info.paused_by_us = note_claim(&q->note, pid) && !g->info.running;
	note_set(&q->note, g->info.paused_by_us);
	g->info.paused_ns = note_since(&q->note);
	if (g->op == RPL_GUEST_STANDBY) {
		qemu_standby_inspected(q);
		return;
	}
	qemu_standby_reclaim(q, pid);
	rpl_guest_op_done(g, 0, NULL);
}

static void on_fact(void *arg, json_t *ret, const struct rpl_err *err)
{
	struct qemu *q = arg;

	if (err && !qemu_fact_optional(q->next_fact)) {
		qemu_op_failed(q, err);
		let_go(q);
		return;
	}
	q->facts.fact[q->next_fact++] = json_incref(ret);
	if (q->next_fact == QF_N)
		finish(q);
	else
		ask_next(q);
}

static void ask_next(struct qemu *q)
{
	const char *command;
	json_t *args;
	struct rpl_err err;

	if (qemu_fact_command(&q->facts, q->next_fact, &command, &args, &err) < 0) {
		qemu_op_failed(q, &err);
		let_go(q);
	} else {
		qemu_step(q, command, args, on_fact);
	}
}

void qemu_collect(struct qemu *q)
{
	json_t *version = json_incref(q->facts.version);

	qemu_facts_fini(&q->facts);
	q->facts.version = version;
	q->next_fact = 0;
	qemu_watch_anew(q);
	ask_next(q);
}
