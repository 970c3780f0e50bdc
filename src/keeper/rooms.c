/* rooms.c - the rooms that a keeper drives, and what they answer: guest, output, disk, arbiter, mover */
#include "keeper.h"
#include "lead.h"
#include "programs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/fault.h>
#include <replicad/log.h>
#include <replicad/process.h>

#define LEARN_SPARE 4          /* places that are left for what the core and operators ask */
#define NETBUF_RETRY_MS 200    /* the buffer's process is gone: look for a new one this often */

/* ---- the guest */

static bool guest_free_now(const struct keeper *k)
{
	return k->guest_here && !k->guest_busy && !checkpoint_busy(&k->checkpoint);
}

/* It waits for nothing: an operation under way, or a whole checkpoint, ends here. */
static void kill_now(struct keeper *k)
{
	k->wish = (struct wishes){ .open = k->wish.open };
	k->paused = false;
	checkpoint_abort(&k->checkpoint);
	if (!k->guest_process) {
		k->killing = remains_kill(k);
		if (!k->killing)
			keeper_say(k, RPL_EV_GUEST_KILLED);
		return;
	}
	standby_abandon(k);
	k->killing = k->guest_busy = true;
	rpl_guest_quit(k->guest);
}

void keeper_pursue(struct keeper *k)
{
	struct wishes *w = &k->wish;

	if (k->killing)
		return;
	if (w->kill) {
		kill_now(k);
		return;
	}
	if (w->hold && !checkpoint_busy(&k->checkpoint)) { /* one that is left of an earlier session still seals */
		w->hold = false;
		hold_begin(k, w->hold_epoch);
	}
	if (!guest_free_now(k))
		return;
	k->guest_busy = true;
	if (w->paused && !k->paused) {
		rpl_guest_pause(k->guest);
	} else if (!w->paused && k->paused) {
		rpl_guest_resume(k->guest);
	} else if (w->announce) {
		w->announce = false;
		rpl_guest_announce(k->guest);
	} else if (w->look) {
		life_look(k);
	} else {
		k->guest_busy = false;
		if (w->capture && !k->paused_by_others) {
			w->capture = false;
			rpl_trace_mark_at(k->trace, w->capture_epoch, RPL_TRACE_BEGUN, rpl_recent_ns());
			checkpoint_begin(&k->checkpoint, w->capture_epoch, w->capture_kind);
		}
	}
}

static void trace_capture(struct keeper *k, const struct checkpoint_times *t)
{
	uint64_t suspended = t->begun_ns + t->pause;

	rpl_trace_mark_at(k->trace, t->epoch, RPL_TRACE_RESUMED, t->begun_ns + t->total);
	rpl_trace_mark_at(k->trace, t->epoch, RPL_TRACE_SUSPENDED, suspended);
	rpl_trace_mark_at(k->trace, t->epoch, RPL_TRACE_SEALED, suspended + t->seal);
	rpl_trace_mark_at(k->trace, t->epoch, RPL_TRACE_SAVED, suspended + t->guest);
	rpl_trace_mark_at(k->trace, t->epoch, RPL_TRACE_TOLD, t->resumed_ns);
}

/* A guest that was paused because its output found no more room runs behind the checkpoint, unless it was told to pause again. */
void keeper_capture_over(struct keeper *k)
{
	if (k->wish.capture_resumes)
		k->wish.paused = false;
	k->wish.capture_resumes = false;
}

static void on_captured(void *arg, enum checkpoint_kind kind, const struct checkpoint_times *t, int r,
			const struct rpl_err *err)
{
	struct keeper *k = arg;

	keeper_capture_over(k);
	if (r < 0) {
		rpl_log(RPL_LOG_WARNING, "vm=%s epoch=%llu capture=failed reason=\"%s\"", k->conf.vm,
			(unsigned long long)t->epoch, err->msg);
		if (r == -ESTALE)
			life_on_event(k, RPL_GUEST_CHANGED, err->msg);
		keeper_say_epoch(k, RPL_EV_CAPTURE_FAILED, t->epoch);
	} else {
		k->paused = kind == CHECKPOINT_TAKE_LAST;
		k->wish.paused = k->wish.paused || k->paused;
		k->checkpoints++;
		k->dirty_pages_sum += t->pages;
		trace_capture(k, t);
		k->core.conf.interval_ns = lead_learn(&k->handshake_ns, t->pause, k->conf.core.interval_ns);
		rpl_fault_die(RPL_FAULT_DIE_KEEPER_S3);
		keeper_event(k, &(struct rpl_event){ .kind = RPL_EV_CAPTURED,
						     .u.captured = { .epoch = t->epoch, .resumed_ns = t->resumed_ns } });
		session_after_capture(k);
	}
	keeper_pursue(k);
	keeper_look_around(k);
}

/* The configuration may name the VM that it means; then nothing else will do. A guest that somebody else paused is
 * left alone: to protect it would be to resume it. */
static int check_found(struct keeper *k, struct rpl_err *err)
{
	const struct rpl_guest_info *info = rpl_guest_info(k->guest);
	const struct rpl_uuid *found = &info->uuid;
	char a[RPL_UUID_TEXT], b[RPL_UUID_TEXT];

	if (!info->running && !info->paused_by_us)
		return rpl_fail(err, -EBUSY, "%s is paused, and not by us: resume it (QMP `cont`), then protect it",
				k->conf.vm);

	if (rpl_uuid_is_zero(&k->conf.core.vm))
		k->conf.core.vm = *found;
	if (rpl_uuid_equal(&k->conf.core.vm, found))
		return 0;
	return rpl_fail(err, -EINVAL, "%s runs VM %s, the configuration of %s says %s: correct one of them", k->conf.qmp,
			rpl_uuid_text(found, a), k->conf.vm, rpl_uuid_text(&k->conf.core.vm, b));
}

static void on_attached(struct keeper *k, int r, const struct rpl_err *err)
{
	struct rpl_err mine;

	if (r < 0) {
		keeper_not_found(k, err);
		return;
	}
	if (check_found(k, &mine) < 0) {
		keeper_refuse(k, &mine);
		return;
	}
	k->guest_here = k->guest_process = true;
	k->left_paused_ns = rpl_guest_info(k->guest)->paused_ns;
	if (keeper_interfaces(k, rpl_guest_info(k->guest), &mine) < 0) {
		keeper_refuse(k, &mine);
		return;
	}
	rpl_netbuf_attach(k->netbuf);
}

static void on_activated(struct keeper *k, int r, const struct rpl_err *err)
{
	if (r < 0) {
		keeper_alarm(k, err->msg);
		keeper_say(k, RPL_EV_GUEST_FAILED);
		return;
	}
	rpl_fault_die(RPL_FAULT_DIE_PROMOTE_RUNS);
	k->at.running = rpl_now_ns();
	k->blackout_us = k->at.handover && k->paused_us ? k->paused_us + (k->at.running - k->at.handover) / 1000 : 0;
	standby_drop(k);
	keeper_say(k, RPL_EV_GUEST_RUNNING);
}

/* From here on all is known of it, its interfaces too. */
static void on_announced(struct keeper *k)
{
	struct rpl_err err;

	if (keeper_interfaces(k, rpl_guest_info(k->guest), &err) < 0)
		keeper_alarm(k, err.msg); /* it runs; to protect it again will be refused */
}

/* A process that does not die of SIGKILL hangs in the kernel: asked again until it is gone, since all that follows
 * relies on that. */
static void on_killed(struct keeper *k, int r, const struct rpl_err *err)
{
	k->killing = false;
	if (r == -ETIMEDOUT) {
		keeper_alarm(k, err->msg);
		k->wish.kill = true;
		return;
	}
	k->guest_here = k->guest_process = false;
	keeper_say(k, RPL_EV_GUEST_KILLED);
	keeper_rest_soon(k);
}

static void on_guest_done(void *arg, enum rpl_guest_op op, int r, const struct rpl_err *err)
{
	struct keeper *k = arg;

	if (r < 0)
		rpl_log(RPL_LOG_WARNING, "vm=%s guest=%s failed reason=\"%s\"", k->conf.vm, rpl_guest_op_name(op),
			err->msg);
	if (k->killing && op != RPL_GUEST_QUIT)
		return; /* what it takes the place of */
	if (!k->guest_busy && checkpoint_on_guest(&k->checkpoint, op, r, err)) {
		keeper_pursue(k);
		return;
	}
	k->guest_busy = false;
	switch (op) {
	case RPL_GUEST_ATTACH:
		on_attached(k, r, err);
		break;
	case RPL_GUEST_LOOK:
		life_on_looked(k, r, err);
		break;
	case RPL_GUEST_STANDBY:
		standby_on_started(k, r, err);
		break;
	case RPL_GUEST_ACTIVATE:
		on_activated(k, r, err);
		break;
	case RPL_GUEST_PAUSE:
	case RPL_GUEST_RESUME:
		if (r == 0 && op == RPL_GUEST_RESUME)
			life_on_left_paused(k);
		if (r == 0)
			k->paused = op == RPL_GUEST_PAUSE;
		else
			k->wish.paused = k->paused; /* its loss, if it is lost, comes as an event */
		break;
	case RPL_GUEST_QUIT:
		on_killed(k, r, err);
		break;
	case RPL_GUEST_ANNOUNCE:
		on_announced(k);
		break;
	default:
		break;
	}
	keeper_pursue(k);
}

/* ---- output */

static void retry_netbuf(EV_P_ ev_timer *w, int revents)
{
	struct keeper *k = w->data;

	(void)loop;
	(void)revents;
	rpl_netbuf_attach(k->netbuf);
}

static void retry_netbuf_later(struct keeper *k)
{
	k->netbuf_here = false;
	ev_timer_stop(k->loop, &k->netbuf_retry);
	ev_timer_init(&k->netbuf_retry, retry_netbuf, NETBUF_RETRY_MS / 1e3, 0.);
	k->netbuf_retry.data = k;
	ev_timer_start(k->loop, &k->netbuf_retry);
}

static enum rpl_found what_was_found(const struct keeper *k)
{
	return rpl_guest_info(k->guest)->running ? RPL_FOUND_RUNNING : RPL_FOUND_PAUSED;
}

/* The guest's memory is what it was for the keeper before: the same process, or the same domain. */
static bool same_life(const struct keeper *k)
{
	pid_t pid = rpl_guest_pid(k->guest);
	struct keeper_past past;

	keeper_past_load(k->conf.dir, &past);
	return past.guest_pid == pid && past.guest_started == rpl_process_start_time(pid) &&
	       past.guest_life == rpl_guest_info(k->guest)->life;
}

static void on_netbuf_attached(struct keeper *k, int r, const struct rpl_err *err)
{
	if (!k->started && k->finishing) {
		k->netbuf_here = r == 0;
		keeper_start_core(k, RPL_FOUND_NONE, false);
		return;
	}
	if (r < 0 && !k->started && !k->standby.starting && !k->standby.ready) {
		keeper_refuse(k, err);
		return;
	}
	if (r < 0) {
		retry_netbuf_later(k);
		return;
	}
	k->netbuf_here = true;
	if (k->started) { /* a buffer that came back knows nothing of what we had told the one before */
		if (k->wish.open)
			rpl_netbuf_open(k->netbuf);
		else if (k->core.state <= RPL_ST_IDLE || k->standby.ready)
			rpl_netbuf_shut(k->netbuf);
		else
			rpl_netbuf_hold(k->netbuf);
		return;
	}
	k->wish.open = !rpl_netbuf_status(k->netbuf)->holding;
	k->paused = k->wish.paused = !rpl_guest_info(k->guest)->running;
	keeper_start_core(k, what_was_found(k), same_life(k));
}

static void on_netbuf_done(void *arg, enum rpl_netbuf_op op, uint64_t epoch, int r, const struct rpl_err *err)
{
	struct keeper *k = arg;

	if (r < 0)
		rpl_log(RPL_LOG_WARNING, "vm=%s netbuf_op=%d epoch=%llu failed reason=\"%s\"", k->conf.vm, (int)op,
			(unsigned long long)epoch, err->msg);
	if (checkpoint_on_netbuf(&k->checkpoint, op, r, err) || hold_on_netbuf(k, op, r, err))
		return;
	if (op == RPL_NETBUF_ATTACH)
		on_netbuf_attached(k, r, err);
	else if (op == RPL_NETBUF_OPEN && r == 0 && k->wish.open)
		keeper_say(k, RPL_EV_OPENED);
	else if (op == RPL_NETBUF_RELEASE && r == 0)
		rpl_trace_mark(k->trace, epoch, RPL_TRACE_RELEASED);
}

static void on_netbuf_event(void *arg, int r, const char *msg)
{
	struct keeper *k = arg;

	if (r < 0) {
		keeper_alarm(k, msg);
		retry_netbuf_later(k);
	} else {
		keeper_say(k, RPL_EV_BUFFER_FULL);
	}
}

/* ---- disk */

/* A failure names the action it answers, so that a late one is not taken for the answer to another. */
static void say_store(struct keeper *k, bool ok, enum rpl_event_kind done, enum rpl_action_kind action)
{
	if (ok)
		keeper_say(k, done);
	else
		keeper_event(k, &(struct rpl_event){ .kind = RPL_EV_STORE_FAILED, .u.failed.action = action });
}

static void on_disk_done(void *arg, enum rpl_disk_op op, uint64_t epoch, int r, const struct rpl_err *err)
{
	struct keeper *k = arg;
	bool ok = r == 0;

	if (checkpoint_on_disk(&k->checkpoint, op, r, err) || hold_on_disk(k, op, r, err))
		return;
	if (!ok)
		keeper_alarm(k, err->msg);
	switch (op) {
	case RPL_DISK_DRAIN:
		if (ok && k->wish.open && k->netbuf_here)
			rpl_netbuf_open(k->netbuf);
		break;
	case RPL_DISK_FLUSH:
		if (ok)
			keeper_event(k, &(struct rpl_event){ .kind = RPL_EV_FLUSHED, .u.flushed = { epoch, false } });
		break;
	case RPL_DISK_PROMOTE:
		say_store(k, ok, RPL_EV_STORE_PROMOTED, RPL_ACT_STORE_PROMOTE);
		break;
	case RPL_DISK_DEMOTE:
		say_store(k, ok, RPL_EV_STORE_DISCARDED, RPL_ACT_STORE_DISCARD);
		break;
	case RPL_DISK_CUT:
		if (ok)
			keeper_say(k, RPL_EV_FROZEN);
		break;
	default:
		break;
	}
}

/* ---- arbiter: one operation at a time, the rest waits in order */

static void on_arbiter_done(void *arg, enum rpl_arbiter_outcome outcome, const struct rpl_record *record,
			    const struct rpl_err *err);

static void arbiter_next(struct keeper *k)
{
	const struct arbiter_op *op = &k->arbiter_queue[0];
	struct rpl_err err;
	int r;

	if (!k->arbiter_n || k->arbiter_busy)
		return;
	k->arbiter_busy = true;
	if (op->asker == ASKS_LEARN)
		r = rpl_arbiter_learn(k->arbiter, &op->want, &err);
	else if (op->cas && op->permitted)
		r = rpl_arbiter_cas_permitted(k->arbiter, op->create ? NULL : &op->expect, &op->want, &err);
	else if (op->cas)
		r = rpl_arbiter_cas(k->arbiter, op->create ? NULL : &op->expect, &op->want, &err);
	else
		r = rpl_arbiter_read(k->arbiter, &k->conf.core.vm, &err);
	if (r < 0)
		on_arbiter_done(k, RPL_ARBITER_UNKNOWN, NULL, &err);
}

static void arbiter_queue(struct keeper *k, const struct arbiter_op *op)
{
	rpl_assert(k->arbiter_n < ARBITER_QUEUE_MAX);
	k->arbiter_queue[k->arbiter_n++] = *op;
	arbiter_next(k);
}

void keeper_arbiter_read(struct keeper *k)
{
	arbiter_queue(k, &(struct arbiter_op){ .cas = false });
}

void keeper_arbiter_look(struct keeper *k)
{
	arbiter_queue(k, &(struct arbiter_op){ .asker = ASKS_LOOK });
}

void keeper_arbiter_look_idle(struct keeper *k)
{
	if (!k->arbiter_n)
		arbiter_queue(k, &(struct arbiter_op){ .asker = ASKS_IDLE });
}

void keeper_arbiter_claim(struct keeper *k, const struct rpl_action *a)
{
	arbiter_queue(k, &(struct arbiter_op){ .cas = true,
					       .claim = a->u.claim.kind,
					       .create = a->u.claim.kind == RPL_CLAIM_CREATE,
					       .permitted = a->u.claim.operator_ordered || a->u.claim.handed_over ||
							    a->u.claim.given_up,
					       .expect = a->u.claim.expect,
					       .want = a->u.claim.want });
}

/* manual: the peer, who proved to be that, says what its record is. Only about what is its own. */
void keeper_arbiter_learn(struct keeper *k, enum rpl_mode mode, uint64_t generation, const struct rpl_uuid *session)
{
	struct arbiter_op op = { .asker = ASKS_LEARN,
				 .want = { .format = RPL_RECORD_FORMAT, .mode = mode, .generation = generation,
					   .vm = k->conf.core.vm } };

	if (!k->conf.manual)
		return;
	if (k->arbiter_n + LEARN_SPARE > ARBITER_QUEUE_MAX) {
		keeper_alarm(k, "the peer's record comes faster than it can be written; it will be told again");
		return;
	}
	if (session)
		op.want.session = *session;
	rpl_uuid_random(&op.want.nonce);
	memcpy(op.want.owner, k->conf.core.peer, sizeof(op.want.owner));
	arbiter_queue(k, &op);
}

static enum rpl_event_kind arbiter_event(bool cas, enum rpl_arbiter_outcome outcome)
{
	switch (outcome) {
	case RPL_ARBITER_OK:
		return cas ? RPL_EV_CLAIM_GRANTED : RPL_EV_RECORD;
	case RPL_ARBITER_NONE:
		return RPL_EV_RECORD_ABSENT;
	case RPL_ARBITER_REFUSED:
		return RPL_EV_CLAIM_REFUSED;
	default:
		return cas ? RPL_EV_CLAIM_UNKNOWN : RPL_EV_RECORD_UNKNOWN;
	}
}

static void on_learnt(struct keeper *k, enum rpl_arbiter_outcome outcome, const struct rpl_record *record,
		      const struct rpl_err *err)
{
	if (outcome == RPL_ARBITER_UNKNOWN)
		keeper_alarm(k, err->msg);
	if (record)
		k->told_generation = record->generation;
	rpl_log(RPL_LOG_INFO, "vm=%s peer=%s gen=%llu owner=%.63s: the record, as the peer says", k->conf.vm, k->conf.core.peer,
		record ? (unsigned long long)record->generation : 0, record ? record->owner : "");
}

static void on_arbiter_done(void *arg, enum rpl_arbiter_outcome outcome, const struct rpl_record *record,
			    const struct rpl_err *err)
{
	struct keeper *k = arg;
	struct rpl_event ev = { .kind = arbiter_event(k->arbiter_queue[0].cas, outcome) };
	enum arbiter_asker asker = k->arbiter_queue[0].asker;

	rpl_assert(k->arbiter_n > 0 && k->arbiter_busy);
	if (ev.kind == RPL_EV_CLAIM_GRANTED)
		keeper_claim_fault(k->arbiter_queue[0].claim, CLAIM_GRANTED);
	k->arbiter_busy = false;
	memmove(k->arbiter_queue, k->arbiter_queue + 1, --k->arbiter_n * sizeof(k->arbiter_queue[0]));
	if (record) {
		ev.u.record.record = *record;
		movers_generation(k->movers, record->generation);
	} else if (outcome == RPL_ARBITER_NONE) {
		movers_generation(k->movers, 0);
	}
	if (outcome == RPL_ARBITER_UNKNOWN)
		rpl_log(RPL_LOG_WARNING, "vm=%s arbiter=%s outcome=unknown reason=\"%s\"", k->conf.vm,
			k->conf.arbiter, err->msg);
	if (ev.kind == RPL_EV_CLAIM_GRANTED)
		k->at.claim_granted = rpl_now_ns();
	switch (asker) {
	case ASKS_LEARN:
		on_learnt(k, outcome, record, err);
		break;
	case ASKS_LOOK:
		keeper_looked(k, outcome == RPL_ARBITER_OK ? record : NULL);
		break;
	case ASKS_IDLE:
		keeper_idle_record(k, outcome == RPL_ARBITER_OK ? record : NULL);
		break;
	case ASKS_CORE:
		keeper_event(k, &ev);
		break;
	}
	arbiter_next(k);
}

/* ---- mover */

static bool is_backup(const struct keeper *k)
{
	return k->standby.ready;
}

static void on_report(void *arg, const struct rpl_mover_msg *msg)
{
	struct keeper *k = arg;

	if (is_backup(k))
		standby_on_report(k, msg);
	else
		session_on_report(k, msg);
}

static void on_mover_gone(void *arg, const char *why)
{
	struct keeper *k = arg;

	rpl_log(RPL_LOG_WARNING, "vm=%s mover=gone reason=\"%s\"", k->conf.vm, why);
	if (is_backup(k))
		standby_on_gone(k, why);
	else
		session_on_gone(k, why);
}

/* ---- all of them */

static struct rpl_guest *new_guest(struct keeper *k, struct rpl_err *err)
{
	const struct keeper_conf *c = &k->conf;
	char helper[PATH_MAX];
	struct rpl_guest_conf gc = {
		.backend = c->backend, .name = c->vm, .qmp_path = c->qmp, .standby_path = c->standby,
		.run_dir = c->dir, .replica = c->replica, .tracker = c->tracker, .helper_path = program_path(strcmp(c->backend, "xen") ? PROGRAM_ATTACH : PROGRAM_XEN_RESTORE, helper),
		.standby_user = *c->standby_user ? c->standby_user : NULL, .audit = c->audit, .checkpoints = true, .any_netdev = !strcmp(c->netbuf, "none"),
		.op_timeout_ms = c->op_timeout_ms,
	};

	return rpl_guest_new(&gc, k->loop, on_guest_done, life_on_event, k, err);
}

void keeper_fresh_guest(struct keeper *k)
{
	struct rpl_err err = { .code = -EINVAL };

	if (!k->guest_used)
		return;
	rpl_guest_free(k->guest); /* first: the files that it puts away have the names of the next one's */
	remains_forget(k);
	k->guest = new_guest(k, &err);
	if (!k->guest) {
		rpl_log(RPL_LOG_ERROR, "vm=%s error=\"%s\" next=exit", k->conf.vm, err.msg);
		_exit(EXIT_FAILURE); /* the agent starts another */
	}
	k->checkpoint.guest = k->guest;
	k->guest_used = k->guest_here = k->guest_process = k->paused = k->paused_by_others = false;
}

/* Look at the guest, again after a refusal. */
void keeper_attach(struct keeper *k)
{
	if (k->guest_busy || k->started)
		return;
	keeper_fresh_guest(k);
	k->refused[0] = '\0';
	k->guest_busy = k->guest_used = true;
	rpl_guest_attach(k->guest);
}

int keeper_rooms_open(struct keeper *k, struct rpl_err *err)
{
	const struct keeper_conf *c = &k->conf;
	struct rpl_netbuf_conf nc = { .backend = c->netbuf, .vm = c->vm, .control = c->relay,
				       .hold_bytes_max = c->hold_mb << 20 };
	struct rpl_disk_conf dc = { .backend = c->disk, .vm = c->vm, .durability = c->core.durability };
	struct rpl_arbiter_conf ac = { .backend = c->arbiter, .location = c->arbiter_location,
				       .cluster = c->cluster, .timeout_ms = c->arbiter_timeout_ms,
				       .ca = c->arbiter_ca, .cert = c->arbiter_cert, .key = c->arbiter_key,
				       .insecure = c->arbiter_insecure };
	char mover[PATH_MAX];

	err->code = -EINVAL;
	k->guest = new_guest(k, err);
	k->netbuf = k->guest ? rpl_netbuf_new(&nc, k->loop, on_netbuf_done, on_netbuf_event, k, err) : NULL;
	if (k->netbuf)
		k->conf.core.max_held = rpl_netbuf_max_uncommitted(k->netbuf);
	if (k->netbuf && keeper_interfaces(k, NULL, err) < 0)
		return err->code;
	k->disk = k->netbuf ? rpl_disk_new(&dc, k->loop, on_disk_done, k, err) : NULL;
	k->arbiter = k->disk ? rpl_arbiter_new(&ac, k->loop, on_arbiter_done, k, err) : NULL;
	k->movers = k->arbiter ? movers_new(program_path(PROGRAM_MOVER, mover), k->loop, on_report, on_mover_gone, k, err) :
				 NULL;
	k->listener = k->movers ? listener_new(k, program_path(PROGRAM_MOVER, mover), err) : NULL;
	if (!k->listener)
		return err->code;
	k->checkpoint = (struct checkpoint){ .guest = k->guest, .netbuf = k->netbuf, .disk = k->disk,
					     .movers = k->movers, .done = on_captured, .arg = k };
	return 0;
}
