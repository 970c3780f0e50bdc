/* core.c - step(): one event in, the actions that follow out
 *
 * Theory of operation
 *
 * One machine stands for one VM on one node, whichever role the node has. Its life, with the files that hold it:
 *
 *   start.c    START: read the record, look at what an earlier life left, decide. Commands of the operator.
 *   owner.c    P_SOLO, P_CLAIM, P_LOST, P_DOWN, P_DEPOSED: the owner by itself
 *   primary.c  P_SYNC -> P_ARM -> P_PROTECTED <-> P_STALLED, P_DRAIN: the owner with a session
 *   backup.c   IDLE -> B_SEED -> B_READY -> B_SUSPECT -> B_CLAIM -> B_PROMOTE -> P_SOLO
 *   cold.c     IDLE -> C_COLLECT -> C_CLAIM -> C_REPLAY -> P_SOLO
 *   work.c     slow work on store and guest, repeated while it fails
 *   claim.c    one claim at a time on the arbiter's record; its outcome is settled before anything else (R6)
 *
 * A step has two halves. First the event's handler notes what happened; which handler, if any, is in the table below
 * and depends on the state. Then the state's pump looks at the whole state and does whatever is now due: release what
 * is acked, take the next checkpoint, claim, give up. Pumps need no event: that the deadline has come, that a claim was
 * won (c->won), that a record was read (c->fresh) are facts in the state. So a timer only has to make step() run,
 * and rpl_core_deadline() is computed from the same facts: nobody starts or stops a timer.
 *
 * Safety rests on the record alone. A state is left for one with more rights (P_CLAIM -> P_SOLO, P_ARM -> P_PROTECTED,
 * B_CLAIM -> B_PROMOTE, C_CLAIM -> C_REPLAY) only behind a granted claim of that state; time-outs decide when to claim.
 * Each rule of replicad-protocol(7) is a guard RPL_RULE(Rn, ...) at the place where it bites.
 *
 * Whatever is not in the table is ignored (stale answers, messages of finished sessions) or, for a command, refused.
 */
#include "core_int.h"

#include <errno.h>
#include <inttypes.h>

/* ---- which events mean something in which states */
#define P_SESSION (ST(P_SYNC) | ST(P_ARM) | ST(P_PROTECTED) | ST(P_STALLED) | ST(P_CLAIM) | ST(P_DRAIN) | ST(P_DOWN))
#define P_EPOCHS (P_SESSION & ~ST(P_SYNC))
#define P_OWNER (P_SESSION | ST(P_SOLO))
#define P_ALL (P_OWNER | ST(P_LOST) | ST(P_DEPOSED))
#define B_SESSION (ST(B_SEED) | ST(B_READY))
#define B_REPLICA (B_SESSION | ST(B_SUSPECT) | ST(B_CLAIM))
#define CLAIMING (ST(START) | ST(P_ARM) | ST(P_CLAIM) | ST(P_LOST) | ST(P_DOWN) | ST(B_CLAIM) | ST(C_CLAIM))
#define READING                                                                                             \
	(ST(START) | ST(IDLE) | ST(P_SOLO) | ST(P_SYNC) | ST(P_ARM) | ST(P_PROTECTED) | ST(P_STALLED) |      \
	 ST(P_CLAIM) | ST(P_DRAIN) | ST(P_LOST) | ST(P_DOWN) | ST(P_DEPOSED) | ST(B_READY) | ST(B_SUSPECT) | \
	 ST(B_CLAIM) | ST(B_SEED) | ST(C_COLLECT) | ST(C_CLAIM))
#define ANY ((UINT32_C(1) << RPL_ST_N) - 1)

#define HANDLERS_MAX 2

struct row {
	uint32_t states;
	rpl_core_handler *handler;
};

static rpl_core_handler on_timer;

static const struct row table[RPL_EV_N][HANDLERS_MAX] = {
	[RPL_EV_START] = { { ST(START), rpl_core_on_start } },
	[RPL_EV_TIMER] = { { ANY, on_timer } },

	[RPL_EV_CMD_PROTECT] = { { ANY & ~(ST(P_DOWN) | ST(P_LOST) | ST(P_DEPOSED)), rpl_core_on_command } },
	[RPL_EV_CMD_UNPROTECT] = { { ST(START) | ST(IDLE) | ST(P_SOLO) | ST(P_SYNC) | ST(P_ARM) | ST(P_PROTECTED) |
				     ST(P_STALLED) | ST(P_CLAIM), rpl_core_on_command } },
	[RPL_EV_CMD_SWITCHOVER] = { { ST(P_PROTECTED), rpl_core_on_command } },
	[RPL_EV_CMD_SOLO] = { { ST(P_PROTECTED) | ST(P_STALLED) | ST(P_CLAIM), rpl_core_on_command } },
	[RPL_EV_CMD_TAKEOVER] = { { ST(B_READY) | ST(B_SUSPECT) | ST(B_CLAIM), rpl_core_on_command } },
	[RPL_EV_CMD_ACCEPT_LOSS] = { { ST(IDLE) | ST(P_LOST), rpl_core_on_command } },
	[RPL_EV_CMD_SHUTDOWN] = { { P_OWNER & ~(ST(P_DOWN) | ST(P_DRAIN)), rpl_core_on_command } },
	[RPL_EV_CMD_START] = { { ST(IDLE), rpl_core_on_command } },

	[RPL_EV_RECORD] = { { READING, rpl_core_on_record } },
	[RPL_EV_RECORD_ABSENT] = { { READING, rpl_core_on_record_absent } },
	[RPL_EV_RECORD_UNKNOWN] = { { READING, rpl_core_on_record_unknown } },
	[RPL_EV_CLAIM_GRANTED] = { { CLAIMING, rpl_core_on_claim_granted } },
	[RPL_EV_CLAIM_REFUSED] = { { CLAIMING, rpl_core_on_claim_refused } },
	[RPL_EV_CLAIM_UNKNOWN] = { { CLAIMING, rpl_core_on_claim_unknown } },

	[RPL_EV_CAPTURED] = { { P_EPOCHS, rpl_core_on_captured } },
	[RPL_EV_CAPTURE_FAILED] = { { P_EPOCHS, rpl_core_on_capture_failed } },
	[RPL_EV_GUEST_RUNNING] = { { ST(B_PROMOTE) | ST(C_REPLAY), rpl_core_on_guest_running } },
	[RPL_EV_GUEST_FAILED] = { { ST(B_PROMOTE) | ST(C_REPLAY), rpl_core_on_guest_failed } },
	[RPL_EV_GUEST_SHUTDOWN] = { { ST(START) | P_OWNER, rpl_core_on_guest_shutdown } },
	[RPL_EV_GUEST_CRASHED] = { { ST(START) | P_OWNER, rpl_core_on_guest_crashed } },
	[RPL_EV_GUEST_CHANGED] = { { ST(START) | P_OWNER, rpl_core_on_guest_changed } },
	[RPL_EV_GUEST_FIT] = { { ST(P_SOLO), rpl_core_on_guest_fit } },
	[RPL_EV_GUEST_UNFIT] = { { ST(P_SOLO), rpl_core_on_guest_unfit } },
	[RPL_EV_GUEST_DIED] = { { ST(START) | P_ALL, rpl_core_on_guest_died },
				{ ST(B_PROMOTE) | ST(C_REPLAY), rpl_core_on_guest_stillborn } },
	[RPL_EV_GUEST_KILLED] = { { ST(P_DEPOSED) | ST(P_DOWN), rpl_core_on_guest_killed } },

	[RPL_EV_HELD] = { { P_EPOCHS, rpl_core_on_held } },
	[RPL_EV_OPENED] = { { ST(P_SOLO) | ST(P_DOWN), rpl_core_on_opened } },
	[RPL_EV_BUFFER_FULL] = { { P_EPOCHS & ~ST(P_DOWN), rpl_core_on_buffer_full } },
	[RPL_EV_JOURNALED] = { { P_EPOCHS, rpl_core_on_journaled } },
	[RPL_EV_FLUSHED] = { { P_EPOCHS, rpl_core_on_flushed } },

	[RPL_EV_CONNECTED] = { { ST(P_SYNC), rpl_core_on_connected } },
	[RPL_EV_LINK_UP] = { { P_SESSION, rpl_core_on_link_up } },
	[RPL_EV_LINK_DOWN] = { { P_SESSION, rpl_core_on_link_down },
			       { ST(IDLE) | B_SESSION, rpl_core_on_link_down_backup } },
	[RPL_EV_SESSION_LOST] = { { P_SESSION, rpl_core_on_session_lost } },
	[RPL_EV_SYNC_READY] = { { ST(P_SYNC), rpl_core_on_sync_ready } },
	[RPL_EV_ACK] = { { P_EPOCHS, rpl_core_on_ack } },
	[RPL_EV_HEARD] = { { P_SESSION, rpl_core_on_heard_primary }, { B_SESSION, rpl_core_on_heard_backup } },
	[RPL_EV_PEER_GENERATION] = { { ST(P_SOLO) | ST(P_SYNC) | ST(P_ARM) | ST(P_PROTECTED) | ST(P_STALLED) |
				       ST(P_DRAIN), rpl_core_on_peer_generation } },

	[RPL_EV_SESSION_OPEN] = { { ANY, rpl_core_on_session_open } },
	[RPL_EV_STAGED] = { { B_SESSION, rpl_core_on_staged } },
	[RPL_EV_PEER_FLUSHED] = { { B_SESSION, rpl_core_on_peer_flushed } },
	[RPL_EV_REDO_APPLIED] = { { B_REPLICA, rpl_core_on_redo_applied } },
	[RPL_EV_HANDOVER] = { { B_SESSION | ST(B_SUSPECT), rpl_core_on_handover } },
	[RPL_EV_FORGET] = { { B_SESSION | ST(B_SUSPECT), rpl_core_on_forget } },
	[RPL_EV_REPLICA_LOST] = { { ST(START) | B_REPLICA | ST(B_PROMOTE), rpl_core_on_replica_lost } },
	[RPL_EV_FROZEN] = { { ST(B_SUSPECT), rpl_core_on_frozen } },

	[RPL_EV_STORE_PROMOTED] = { { ST(B_PROMOTE), rpl_core_on_store_promoted } },
	[RPL_EV_STORE_FAILED] = { { ST(P_DEPOSED) | ST(B_PROMOTE) | ST(C_COLLECT) | ST(C_REPLAY),
				    rpl_core_on_store_failed } },
	[RPL_EV_STORE_DISCARDED] = { { ST(P_DEPOSED), rpl_core_on_store_discarded } },
	[RPL_EV_COLLECTED] = { { ST(C_COLLECT), rpl_core_on_collected } },
	[RPL_EV_REPLAYED] = { { ST(C_REPLAY), rpl_core_on_replayed } },
};

static rpl_core_pump *const pump_of[RPL_ST_N] = {
	[RPL_ST_START] = rpl_core_pump_start,         [RPL_ST_IDLE] = rpl_core_pump_idle,
	[RPL_ST_P_SOLO] = rpl_core_pump_solo,         [RPL_ST_P_SYNC] = rpl_core_pump_sync,
	[RPL_ST_P_ARM] = rpl_core_pump_arm,           [RPL_ST_P_PROTECTED] = rpl_core_pump_protected,
	[RPL_ST_P_STALLED] = rpl_core_pump_stalled,   [RPL_ST_P_CLAIM] = rpl_core_pump_claim,
	[RPL_ST_P_DRAIN] = rpl_core_pump_drain,       [RPL_ST_P_LOST] = rpl_core_pump_lost,
	[RPL_ST_P_DOWN] = rpl_core_pump_down,         [RPL_ST_P_DEPOSED] = rpl_core_pump_work,
	[RPL_ST_B_SEED] = rpl_core_pump_backup,       [RPL_ST_B_READY] = rpl_core_pump_backup,
	[RPL_ST_B_SUSPECT] = rpl_core_pump_suspect,   [RPL_ST_B_CLAIM] = rpl_core_pump_takeover,
	[RPL_ST_B_PROMOTE] = rpl_core_pump_work,   [RPL_ST_C_COLLECT] = rpl_core_pump_collect,
	[RPL_ST_C_CLAIM] = rpl_core_pump_cold_claim,  [RPL_ST_C_REPLAY] = rpl_core_pump_work,
};

static bool is_command(enum rpl_event_kind kind)
{
	return kind >= RPL_EV_CMD_PROTECT && kind <= RPL_EV_CMD_START;
}

static rpl_core_handler *handler_of(enum rpl_state state, enum rpl_event_kind kind)
{
	for (unsigned i = 0; i < HANDLERS_MAX; i++)
		if (table[kind][i].states >> state & 1)
			return table[kind][i].handler;
	return NULL;
}

enum rpl_verdict rpl_core_verdict(enum rpl_state state, enum rpl_event_kind kind)
{
	if (handler_of(state, kind))
		return RPL_HANDLED;
	return is_command(kind) ? RPL_REFUSED : RPL_IGNORED;
}

/* ---- one step */
static void on_timer(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	(void)c;
	(void)ev;
	(void)out;
}

void rpl_core_step(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	enum rpl_state before;
	rpl_core_handler *handler;

	out->n = 0;
	if ((unsigned)ev->kind >= RPL_EV_N)
		return;
	if (ev->now_ns > c->now_ns)
		c->now_ns = ev->now_ns;
	handler = handler_of(c->state, ev->kind);
	if (handler)
		handler(c, ev, out);
	else if (is_command(ev->kind))
		rpl_core_reply(out, false, RPL_WHY_WRONG_STATE);
	rpl_core_pump_unresolved(c, out);
	do {
		before = c->state;
		pump_of[before](c, out);
	} while (c->state != before);
}

static uint64_t earliest(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

uint64_t rpl_core_deadline(const struct rpl_core *c)
{
	uint64_t t = UINT64_MAX;

	if (!c->started)
		return t;
	if (c->claim == RPL_CLAIM_WAITING && !c->reading)
		t = c->retry_at_ns;
	if (c->state == RPL_ST_START && !rpl_core_unresolved(c) && !c->reading)
		t = c->retry_at_ns;
	t = earliest(t, rpl_core_session_deadline(c));
	t = earliest(t, rpl_core_work_deadline(c));
	t = earliest(t, rpl_core_owner_deadline(c));
	t = earliest(t, rpl_core_backup_deadline(c));
	return earliest(t, rpl_core_cold_deadline(c));
}

/* ---- beginnings */
int rpl_core_conf_check(const struct rpl_core_conf *f, struct rpl_err *err)
{
	if (!f->self[0] || !f->peer[0] || f->self[RPL_NODE_NAME - 1] || f->peer[RPL_NODE_NAME - 1])
		return rpl_fail(err, -EINVAL, "protection needs the names of both nodes, shorter than %d bytes", RPL_NODE_NAME);
	if (strncmp(f->self, f->peer, RPL_NODE_NAME) == 0)
		return rpl_fail(err, -EINVAL, "node and peer are both called '%s'", f->self);
	if (rpl_uuid_is_zero(&f->vm))
		return rpl_fail(err, -EINVAL, "the VM has no uuid");
	if (f->max_uncommitted < 1 || f->max_held < 1 || f->interval_ns == 0 || f->retry_ns == 0)
		return rpl_fail(err, -EINVAL, "max_uncommitted %" PRIu32 ", max_held %" PRIu32 ", interval %" PRIu64
				" ns and retry %" PRIu64 " ns must not be 0", f->max_uncommitted, f->max_held, f->interval_ns,
				f->retry_ns);
	if (f->stall_ns >= f->suspect_ns)
		return rpl_fail(err, -EINVAL, "stall %" PRIu64 " ns must be below suspect %" PRIu64 " ns", f->stall_ns,
				f->suspect_ns);
	if (f->takeover_delay_ns < RPL_TAKEOVER_DELAY_MIN_NS)
		return rpl_fail(err, -EINVAL, "takeover_delay %" PRIu64 " ns must be at least %" PRIu64 " ns",
				f->takeover_delay_ns, RPL_TAKEOVER_DELAY_MIN_NS);
	if (f->arm_timeout_ns == 0 || f->drain_timeout_ns == 0 || f->cold_delay_ns == 0)
		return rpl_fail(err, -EINVAL, "arm_timeout, drain_timeout and cold_delay must not be 0");
	return 0;
}

void rpl_core_init(struct rpl_core *c, const struct rpl_core_conf *conf, const struct rpl_uuid *seed)
{
	memset(c, 0, sizeof(*c));
	c->conf = *conf;
	c->seed = *seed;
	c->epoch = 1;
	c->doing = RPL_ACT_N;
}

/* ---- the small change */
struct rpl_action *rpl_core_act(struct rpl_actions *out, enum rpl_action_kind kind)
{
	struct rpl_action *a;

	rpl_assert(out->n < RPL_ACTIONS_MAX);
	a = &out->a[out->n++];
	memset(a, 0, sizeof(*a));
	a->kind = kind;
	return a;
}

void rpl_core_act_epoch(struct rpl_actions *out, enum rpl_action_kind kind, uint64_t epoch)
{
	rpl_core_act(out, kind)->u.epoch.epoch = epoch;
}

void rpl_core_act_link(struct rpl_core *c, struct rpl_actions *out, enum rpl_action_kind kind, uint64_t epoch)
{
	struct rpl_action *a = rpl_core_act(out, kind);

	a->u.link.session = c->session;
	a->u.link.epoch = epoch;
}

void rpl_core_act_session(struct rpl_core *c, struct rpl_actions *out, enum rpl_action_kind kind,
			  const struct rpl_uuid *session)
{
	struct rpl_action *a = rpl_core_act(out, kind);

	a->u.session.session = *session;
	a->u.session.generation = c->rec_known ? c->rec.generation : 0;
}

void rpl_core_enter(struct rpl_core *c, struct rpl_actions *out, enum rpl_state to, enum rpl_reason why)
{
	struct rpl_action *a = rpl_core_act(out, RPL_ACT_STATE);

	a->u.state.from = c->state;
	a->u.state.to = to;
	a->u.state.reason = why;
	c->state = to;
	c->since_ns = c->retry_at_ns = c->now_ns;
	c->won = c->refused = c->fresh = c->failed = c->yielding = false;
	c->doing = RPL_ACT_N;
	if (to == RPL_ST_IDLE || to == RPL_ST_P_LOST || to == RPL_ST_P_DEPOSED)
		c->died_pending = c->down_pending = c->unfit = false;
	c->last_alarm = RPL_WHY_NONE;
}

void rpl_core_alarm(struct rpl_core *c, struct rpl_actions *out, enum rpl_reason why)
{
	if (c->last_alarm == why)
		return;
	c->last_alarm = why;
	rpl_core_act(out, RPL_ACT_ALARM)->u.reason.reason = why;
}

void rpl_core_reply(struct rpl_actions *out, bool ok, enum rpl_reason why)
{
	struct rpl_action *a = rpl_core_act(out, RPL_ACT_REPLY);

	a->u.reply.ok = ok;
	a->u.reply.reason = why;
}

void rpl_core_draw(struct rpl_core *c, struct rpl_uuid *ret)
{
	uint64_t n = ++c->drawn;

	*ret = c->seed;
	for (unsigned i = 0; i < sizeof(n); i++)
		ret->b[15 - i] ^= (uint8_t)(n >> (8 * i));
}

bool rpl_core_due(const struct rpl_core *c)
{
	return c->now_ns >= c->retry_at_ns;
}

void rpl_core_retry_later(struct rpl_core *c)
{
	c->retry_at_ns = c->now_ns + c->conf.retry_ns;
}
