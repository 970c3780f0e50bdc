/* The primary with a session: copy, arm, protect, stall, drain.
 *
 * Within a session epochs are sealed one after the other; sealed, acked, journaled, released and flushed only grow:
 *
 *     released <= committed = acked (and journaled, with durability=both) <= sealed = epoch - 1
 *     flushed  <= committed: a store must not be ahead of the redo that a cold start replays over it
 *
 * rpl_core_commit() moves released and flushed as far as R1 and R5 allow, after every event; while a SOLO claim is
 * unresolved, too: what the backup has acked is safe whoever wins. Not before ARM is known to be won: until then the
 * record does not name this session, and a cold start would trust the store as it was when HOLD took effect.
 */
#include "core_int.h"

#define SYNC_BACKOFF_MAX 3 /* after sessions that came to nothing the next begins after 1, 2, 4, 8 times retry_ns */

/* ---- epochs */
static uint64_t committed(const struct rpl_core *c)
{
	if (c->conf.durability == RPL_DURABLE_BOTH && has_store(c) && c->journaled < c->acked)
		return c->journaled;
	return c->acked;
}

void rpl_core_commit(struct rpl_core *c, struct rpl_actions *out)
{
	uint64_t release = c->released, flush = c->flush_asked;

	if (c->rec.mode != RPL_MODE_PROTECTED)
		return;
	while (release < c->sealed && RPL_RULE(R1, release + 1 <= committed(c)))
		release++;
	if (release > c->released) {
		c->released = release;
		rpl_core_act_epoch(out, RPL_ACT_RELEASE, release);
		if (c->throttled) {
			c->throttled = false;
			(void)rpl_core_act(out, RPL_ACT_GUEST_RESUME);
		}
	}
	while (has_store(c) && c->flush_asked == c->flushed && flush < c->sealed && RPL_RULE(R5, flush + 1 <= committed(c)))
		flush++;
	if (flush > c->flush_asked) {
		c->flush_asked = flush;
		rpl_core_act_epoch(out, RPL_ACT_FLUSH, flush);
	}
}

static bool room(const struct rpl_core *c)
{
	return !c->capturing && c->sealed - committed(c) < c->conf.max_uncommitted &&
	       c->sealed - c->released < c->conf.max_held;
}

static void capture(struct rpl_core *c, struct rpl_actions *out, bool stay_paused)
{
	struct rpl_action *a = rpl_core_act(out, RPL_ACT_CHECKPOINT);

	c->capturing = true;
	c->paused = stay_paused;
	c->throttled = false; /* the guest resumes behind the checkpoint */
	a->u.checkpoint.epoch = c->epoch;
	a->u.checkpoint.stay_paused = stay_paused;
}

/* When the first is acknowledged the second checkpoint waits for no interval: what the guest answered while it was asked for the
 * first, to clients who are used to an open output, is in it, if it had a moment to. What both contain leaves by acks and the
 * claim as ever (R1, R4). */
static uint64_t interval(const struct rpl_core *c)
{
	bool second = c->sealed == c->must_ack && c->acked == c->must_ack;

	return second && c->conf.interval_ns > RPL_CORE_ARM_NS ? RPL_CORE_ARM_NS : c->conf.interval_ns;
}

static uint64_t capture_at(const struct rpl_core *c)
{
	if (!c->guest || !room(c) || c->down_pending)
		return UINT64_MAX;
	return c->captured_ns + interval(c);
}

static void capture_if_due(struct rpl_core *c, struct rpl_actions *out)
{
	if (c->now_ns >= capture_at(c))
		capture(c, out, false);
}

void rpl_core_on_captured(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	uint64_t resumed = ev->u.captured.resumed_ns;

	(void)out;
	if (!c->capturing || ev->u.captured.epoch != c->epoch)
		return;
	c->capturing = false;
	c->sealed = c->epoch++;
	/* A guest that runs again may keep us from hearing of it for a while: that is not added to every interval. */
	c->captured_ns = resumed && resumed < c->now_ns ? resumed : c->now_ns;
	if (!c->overdue_ns)
		c->overdue_ns = c->now_ns;
}

void rpl_core_on_capture_failed(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	if (!c->capturing || ev->u.epoch.epoch != c->epoch)
		return;
	c->capturing = false;
	if (c->paused) {
		c->paused = false;
		(void)rpl_core_act(out, RPL_ACT_GUEST_RESUME);
	}
	if (in_states(c, ST(P_ARM)) && !rpl_core_unresolved(c))
		rpl_core_disarm(c, out, RPL_WHY_CAPTURE_FAILED);
	else if (in_states(c, ST(P_PROTECTED) | ST(P_STALLED) | ST(P_DRAIN)) && !c->handover)
		rpl_core_want_solo(c, out, RPL_WHY_CAPTURE_FAILED); /* the tracker lost count: a new session must begin */
	else
		c->session_dead = true;
}

void rpl_core_on_journaled(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	(void)out;
	if (ev->u.epoch.epoch > c->journaled && ev->u.epoch.epoch <= c->sealed)
		c->journaled = ev->u.epoch.epoch;
}

void rpl_core_on_flushed(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	if (ev->u.flushed.epoch != c->flush_asked || c->flushed == c->flush_asked)
		return;
	c->flushed = c->flush_asked;
	if (c->conf.store == RPL_STORE_DRBD && RPL_RULE(R5, ev->u.flushed.peer_has))
		rpl_core_act_link(c, out, RPL_ACT_TELL_FLUSHED, c->flushed);
}

void rpl_core_on_buffer_full(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	(void)ev;
	if (in_states(c, ST(P_PROTECTED)) && room(c)) {
		capture(c, out, false); /* end the epoch early */
	} else if (!c->throttled && !c->paused && c->guest) {
		c->throttled = true;
		(void)rpl_core_act(out, RPL_ACT_GUEST_PAUSE);
		rpl_core_alarm(c, out, RPL_WHY_BUFFER_FULL);
	}
}

static void acked(struct rpl_core *c, struct rpl_actions *out, uint64_t epoch)
{
	if (epoch <= c->acked || epoch > c->sealed)
		return;
	c->acked = epoch;
	c->progress_ns = c->now_ns;
	c->overdue_ns = epoch < c->sealed ? c->now_ns : 0;
	if (in_states(c, ST(P_STALLED)) && !c->session_dead)
		rpl_core_enter(c, out, RPL_ST_P_PROTECTED, RPL_WHY_ACKED);
}

void rpl_core_on_ack(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	if (!RPL_RULE(R1, rpl_uuid_equal(&ev->u.link.session, &c->session)))
		return;
	c->heard_ns = c->now_ns;
	acked(c, out, ev->u.link.epoch);
}

/* ---- the session */
static void begin_session(struct rpl_core *c, struct rpl_actions *out)
{
	struct rpl_action *a;

	rpl_core_draw(c, &c->session);
	c->connected = c->link_up = c->session_dead = c->given_up = c->handover = c->store_ok = c->throttled = c->capturing = false;
	c->sealed = c->acked = c->journaled = c->released = c->flush_asked = c->flushed = c->epoch - 1;
	c->progress = c->overdue_ns = c->captured_ns = 0;
	c->heard_ns = c->progress_ns = c->now_ns;
	rpl_core_enter(c, out, RPL_ST_P_SYNC, RPL_WHY_WANTED);
	a = rpl_core_act(out, RPL_ACT_SESSION_START);
	a->u.session.session = c->session;
	a->u.session.generation = c->rec.generation;
}

void rpl_core_end_session(struct rpl_core *c, struct rpl_actions *out, bool forget)
{
	if (rpl_uuid_is_zero(&c->session))
		return;
	if (forget && c->link_up)
		rpl_core_act_session(c, out, RPL_ACT_SEND_FORGET, &c->session);
	rpl_core_act_session(c, out, RPL_ACT_SESSION_END, &c->session);
	memset(&c->session, 0, sizeof(c->session));
	c->link_up = c->session_dead = c->given_up = false;
	c->overdue_ns = 0;
	if (c->capturing) { /* its answer will find nobody */
		c->capturing = false;
		c->epoch++;
	}
}

static bool same_session(const struct rpl_core *c, const struct rpl_uuid *s)
{
	return !rpl_uuid_is_zero(&c->session) && rpl_uuid_equal(s, &c->session);
}

void rpl_core_on_connected(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	(void)ev;
	(void)out;
	c->connected = !c->link_up;
}

void rpl_core_on_link_up(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	if (!same_session(c, &ev->u.link.session))
		return;
	c->link_up = true;
	c->connected = false; /* from here on it speaks for itself */
	c->heard_ns = c->now_ns;
	if (in_states(c, ST(P_SYNC)))
		return;
	if (c->acked >= c->must_ack && ev->u.link.epoch < c->acked) { /* it acked more than it still holds */
		struct rpl_event lost = { .kind = RPL_EV_SESSION_LOST, .u.lost.session = c->session };

		rpl_core_on_session_lost(c, &lost, out);
		return;
	}
	acked(c, out, ev->u.link.epoch); /* the backup says so itself, in this session: as good as the ack */
	rpl_core_act_epoch(out, RPL_ACT_SESSION_RESEND, c->acked);
}

void rpl_core_on_link_down(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	(void)ev;
	(void)out;
	if (c->connected) /* that long the peer was waited for, and it may be there by the next attempt */
		c->heard_ns = c->now_ns;
	c->connected = c->link_up = false;
}

/* The peer is not there, or the guest cannot be copied: what each attempt costs both hosts is not asked of them twice a second. */
static void sync_failed(struct rpl_core *c, struct rpl_actions *out, enum rpl_reason why)
{
	rpl_core_end_session(c, out, false);
	rpl_core_become_solo(c, out, why);
	c->retry_at_ns = c->now_ns + (c->conf.retry_ns << c->sync_failures);
	if (c->sync_failures < SYNC_BACKOFF_MAX)
		c->sync_failures++;
}

void rpl_core_on_session_lost(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	if (!same_session(c, &ev->u.lost.session))
		return;
	c->session_dead = true;
	c->given_up = c->given_up || ev->u.lost.gone;
	c->link_up = false;
	if (in_states(c, ST(P_SYNC))) {
		sync_failed(c, out, RPL_WHY_SESSION_LOST);
	} else if (in_states(c, ST(P_ARM)) && !rpl_core_unresolved(c)) {
		rpl_core_disarm(c, out, RPL_WHY_SESSION_LOST);
	} else if (in_states(c, ST(P_PROTECTED) | ST(P_STALLED)) || (in_states(c, ST(P_DRAIN)) && !c->handover)) {
		if (c->conf.auto_claim || c->given_up)
			rpl_core_want_solo(c, out, RPL_WHY_SESSION_LOST);
		else if (!in_states(c, ST(P_STALLED)))
			rpl_core_enter(c, out, RPL_ST_P_STALLED, RPL_WHY_SESSION_LOST);
	}
}

void rpl_core_on_heard_primary(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	(void)out;
	c->heard_ns = c->now_ns;
	if (ev->u.heard.progress > c->progress) {
		c->progress = ev->u.heard.progress;
		c->progress_ns = c->now_ns;
	}
}

void rpl_core_on_peer_generation(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	if (c->rec_known && ev->u.cmd.generation > c->rec.generation && !rpl_core_unresolved(c))
		rpl_core_read(c, out); /* hearsay: the record itself decides */
}

/* ---- P_SOLO, P_SYNC, P_ARM */
/* The record was read again (hearsay of another generation) and is not what this state rests on. */
static bool record_moved(struct rpl_core *c, struct rpl_actions *out)
{
	bool solo = in_states(c, ST(P_SOLO) | ST(P_SYNC) | ST(P_ARM));

	if (!c->fresh || rpl_core_unresolved(c))
		return false;
	c->fresh = false;
	if (!RPL_RULE(R8, !peer_owns(c))) {
		rpl_core_depose(c, out, RPL_WHY_PEER_OWNS);
		return true;
	}
	if (solo ? c->rec.mode == RPL_MODE_SOLO :
		   c->rec.mode == RPL_MODE_PROTECTED &&
			   (c->handover || rpl_uuid_equal(&c->rec.session, &c->session)))
		return false;
	rpl_core_close_output(c, out); /* ours, but changed by another hand: settle it by a claim */
	rpl_core_want_solo(c, out, RPL_WHY_CLAIM_LOST);
	return true;
}

void rpl_core_pump_solo(struct rpl_core *c, struct rpl_actions *out)
{
	if (record_moved(c, out) || (!rpl_core_unresolved(c) && rpl_core_overtaken(c, out)))
		return;
	if (c->want && c->guest && c->output == RPL_OUT_OPEN && !c->reading && rpl_core_due(c) && !rpl_core_look_first(c, out))
		begin_session(c, out);
}

/* Before the first copy a backup makes its standby, which takes longer than suspect on a busy host: one that was reached is waited for.
 * Nothing is protected yet, and the shell bounds how long a connection may stay without an answer. Once it has answered it is as patient
 * with us as we with it: longer than it waits itself there is nothing to wait for. */
static uint64_t sync_until(const struct rpl_core *c)
{
	if (c->connected)
		return UINT64_MAX;
	return c->heard_ns + (c->link_up ? RPL_SEED_PATIENCE : 1) * c->conf.suspect_ns;
}

void rpl_core_pump_sync(struct rpl_core *c, struct rpl_actions *out)
{
	if (record_moved(c, out))
		return;
	if (c->now_ns >= sync_until(c))
		sync_failed(c, out, RPL_WHY_LINK_DOWN);
}

void rpl_core_on_sync_ready(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	if (!same_session(c, &ev->u.session.session))
		return;
	rpl_core_enter(c, out, RPL_ST_P_ARM, RPL_WHY_SYNCED);
	c->sync_failures = 0;
	c->output = RPL_OUT_HOLDING;
	c->must_ack = c->epoch;
	rpl_core_act_epoch(out, RPL_ACT_HOLD, c->epoch);
}

/* Back to where clients notice nothing. Only with no ARM unresolved: it would turn PROTECTED behind our back (R6). */
void rpl_core_disarm(struct rpl_core *c, struct rpl_actions *out, enum rpl_reason why)
{
	c->claim = RPL_CLAIM_NONE;
	rpl_core_end_session(c, out, !c->want);
	rpl_core_become_solo(c, out, why);
	rpl_core_retry_later(c);
}

void rpl_core_on_held(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	if (c->output != RPL_OUT_HOLDING || ev->u.held.epoch != c->must_ack)
		return;
	c->output = RPL_OUT_HELD;
	c->store_ok = ev->u.held.in_sync;
	if (in_states(c, ST(P_ARM)) && !RPL_RULE(R4, c->store_ok))
		rpl_core_disarm(c, out, RPL_WHY_STORE_OUT_OF_SYNC);
}

void rpl_core_pump_arm(struct rpl_core *c, struct rpl_actions *out)
{
	bool covered = c->output == RPL_OUT_HELD && c->store_ok && c->acked >= c->must_ack;

	if (c->won) {
		rpl_core_armed(c, out);
		return;
	}
	if (c->refused) {
		rpl_core_enter(c, out, RPL_ST_P_CLAIM, RPL_WHY_CLAIM_LOST);
		return;
	}
	if (record_moved(c, out))
		return;
	if (c->now_ns >= c->since_ns + c->conf.arm_timeout_ns && RPL_RULE(R6, !rpl_core_unresolved(c))) {
		rpl_core_disarm(c, out, RPL_WHY_ARM_TIMEOUT);
		return;
	}
	if (!rpl_core_unresolved(c) && !c->reading && RPL_RULE(R4, covered))
		rpl_core_claim(c, out, RPL_CLAIM_ARM);
	if (c->output == RPL_OUT_HELD)
		capture_if_due(c, out);
}

/* ---- P_PROTECTED, P_STALLED */
static uint64_t claim_at(const struct rpl_core *c) /* the peer is suspected; UINT64_MAX while nothing is owed */
{
	if (!c->overdue_ns)
		return UINT64_MAX;
	return (c->progress_ns > c->overdue_ns ? c->progress_ns : c->overdue_ns) + c->conf.suspect_ns;
}

void rpl_core_pump_protected(struct rpl_core *c, struct rpl_actions *out)
{
	if (record_moved(c, out))
		return;
	if (c->overdue_ns && c->now_ns >= c->overdue_ns + c->conf.stall_ns) {
		rpl_core_enter(c, out, RPL_ST_P_STALLED, RPL_WHY_ACK_OVERDUE);
		return;
	}
	rpl_core_commit(c, out);
	capture_if_due(c, out);
}

void rpl_core_pump_stalled(struct rpl_core *c, struct rpl_actions *out)
{
	if (record_moved(c, out))
		return;
	if (c->conf.auto_claim && (c->session_dead || c->now_ns >= claim_at(c))) {
		rpl_core_want_solo(c, out, RPL_WHY_SUSPECT);
		return;
	}
	rpl_core_commit(c, out);
	capture_if_due(c, out);
}

/* ---- P_DRAIN */
static bool drained(const struct rpl_core *c)
{
	return c->paused && !c->capturing && c->released == c->sealed && (!has_store(c) || c->flushed == c->sealed);
}

/* The guest stands still until it is known whose it is: look at the record oftener than for anything else. */
static void look_again(struct rpl_core *c)
{
	c->retry_at_ns = c->now_ns + c->conf.retry_ns / 10 + 1;
}

static void give_away(struct rpl_core *c, struct rpl_actions *out)
{
	rpl_core_act_link(c, out, RPL_ACT_SEND_HANDOVER, c->sealed);
	c->handover = true;
	rpl_core_end_session(c, out, false);
	look_again(c);
}

void rpl_core_pump_drain(struct rpl_core *c, struct rpl_actions *out)
{
	if (record_moved(c, out))
		return;
	if (c->now_ns >= c->since_ns + c->conf.drain_timeout_ns) {
		rpl_core_want_solo(c, out, RPL_WHY_DRAIN_TIMEOUT);
		return;
	}
	if (c->handover) {
		if (!c->reading && rpl_core_due(c)) {
			look_again(c);
			rpl_core_read(c, out);
		}
		return;
	}
	rpl_core_commit(c, out);
	if (!c->paused && room(c))
		capture(c, out, true);
	else if (drained(c))
		give_away(c, out);
}

/* ---- when something is due without an event */
static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

uint64_t rpl_core_session_deadline(const struct rpl_core *c)
{
	switch (c->state) {
	case RPL_ST_P_SOLO:
		if (c->doing == RPL_ACT_GUEST_LOOK && !c->failed)
			return UINT64_MAX;
		return c->want && c->guest && c->output == RPL_OUT_OPEN && !c->reading ? c->retry_at_ns : UINT64_MAX;
	case RPL_ST_P_SYNC:
		return sync_until(c);
	case RPL_ST_P_ARM:
		return earlier(rpl_core_unresolved(c) ? UINT64_MAX : c->since_ns + c->conf.arm_timeout_ns,
			       c->output == RPL_OUT_HELD ? capture_at(c) : UINT64_MAX);
	case RPL_ST_P_PROTECTED:
		return earlier(capture_at(c), c->overdue_ns ? c->overdue_ns + c->conf.stall_ns : UINT64_MAX);
	case RPL_ST_P_STALLED:
		return earlier(capture_at(c), c->conf.auto_claim ? claim_at(c) : UINT64_MAX);
	case RPL_ST_P_DRAIN:
		return earlier(c->since_ns + c->conf.drain_timeout_ns,
			       c->handover && !c->reading ? c->retry_at_ns : UINT64_MAX);
	default:
		return UINT64_MAX;
	}
}
