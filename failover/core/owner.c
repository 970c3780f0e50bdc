/* The owner without a session: solo, claiming it, having lost the guest, going down, being deposed. */
#include "core_int.h"

/* The guest runs here by our own right: stop holding. The only way to OPEN (R2). */
void rpl_core_become_solo(struct rpl_core *c, struct rpl_actions *out, enum rpl_reason why)
{
	rpl_core_enter(c, out, RPL_ST_P_SOLO, why);
	if (c->output != RPL_OUT_OPEN && c->output != RPL_OUT_OPENING) {
		c->output = RPL_OUT_OPENING;
		(void)rpl_core_act(out, RPL_ACT_OPEN);
	}
	if (c->paused || c->throttled) {
		c->paused = c->throttled = false;
		(void)rpl_core_act(out, RPL_ACT_GUEST_RESUME);
	}
	c->handover = false;
}

void rpl_core_on_opened(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	(void)ev;
	(void)out;
	if (c->output == RPL_OUT_OPENING)
		c->output = RPL_OUT_OPEN;
}

/* Output is open although the record does not say {SOLO, us}: close it before anything else. */
void rpl_core_close_output(struct rpl_core *c, struct rpl_actions *out)
{
	if (c->output != RPL_OUT_OPEN && c->output != RPL_OUT_OPENING)
		return;
	c->output = RPL_OUT_HOLDING;
	c->must_ack = c->epoch;
	rpl_core_act_epoch(out, RPL_ACT_HOLD, c->epoch);
}

/* Leave protection through the arbiter. Output stays held until the claim is won. */
void rpl_core_want_solo(struct rpl_core *c, struct rpl_actions *out, enum rpl_reason why)
{
	if (in_states(c, ST(P_DRAIN)) && !c->handover && c->paused) {
		c->paused = false;
		(void)rpl_core_act(out, RPL_ACT_GUEST_RESUME); /* nobody was told to take over: run on, held */
	}
	rpl_core_enter(c, out, RPL_ST_P_CLAIM, why);
}

/* What happened to the guest while a claim was unresolved is acted on now. Returns whether something was. */
bool rpl_core_overtaken(struct rpl_core *c, struct rpl_actions *out)
{
	if (c->died_pending) {
		rpl_core_guest_lost(c, out);
		return true;
	}
	if (c->down_pending) {
		rpl_core_guest_down(c, out);
		return true;
	}
	return false;
}

void rpl_core_armed(struct rpl_core *c, struct rpl_actions *out)
{
	rpl_core_enter(c, out, RPL_ST_P_PROTECTED, RPL_WHY_CLAIM_WON);
	if (rpl_core_overtaken(c, out))
		return;
	if (c->unfit)
		rpl_core_want_solo(c, out, RPL_WHY_GUEST_CHANGED);
	else if (!c->want || c->session_dead)
		rpl_core_want_solo(c, out, c->want ? RPL_WHY_SESSION_LOST : RPL_WHY_OPERATOR);
}

static void drop_output(struct rpl_core *c, struct rpl_actions *out)
{
	c->output = RPL_OUT_CLOSED;
	(void)rpl_core_act(out, RPL_ACT_DROP_OUTPUT);
}

/* SOLO was won from {PROTECTED, our session}, nothing was released since, and the backup still listens. */
static bool may_yield(const struct rpl_core *c)
{
	return c->expect.mode == RPL_MODE_PROTECTED && c->link_up && !c->session_dead &&
	       rpl_uuid_equal(&c->expect.session, &c->session);
}

/* R2b, noticed too late: the right that was won is of no use here, and the replica is as good as it was. */
static void yield(struct rpl_core *c, struct rpl_actions *out)
{
	rpl_core_enter(c, out, RPL_ST_P_LOST, RPL_WHY_GUEST_LOST);
	c->yielding = true;
	c->guest = c->memory_ours = c->paused = c->throttled = false;
	(void)rpl_core_act(out, RPL_ACT_GUEST_KILL);
	drop_output(c, out);
}

void rpl_core_pump_claim(struct rpl_core *c, struct rpl_actions *out)
{
	rpl_core_commit(c, out);
	if (c->won && c->died_pending && may_yield(c)) {
		yield(c, out);
		return;
	}
	if (RPL_RULE(R2, c->won)) {
		rpl_core_end_session(c, out, true);
		rpl_core_become_solo(c, out, RPL_WHY_CLAIM_WON);
		if (!rpl_core_overtaken(c, out))
			rpl_core_retry_later(c);
		return;
	}
	if (rpl_core_unresolved(c) || rpl_core_overtaken(c, out) || c->reading || !rpl_core_due(c))
		return;
	if (!RPL_RULE(R8, !peer_owns(c)))
		rpl_core_depose(c, out, RPL_WHY_PEER_OWNS);
	else if (!RPL_RULE(R2b, c->guest && c->memory_ours))
		rpl_core_guest_lost(c, out);
	else
		rpl_core_claim(c, out, RPL_CLAIM_SOLO);
}

/* ---- the guest's own fate */
static bool cold_possible(const struct rpl_core *c)
{
	return has_store(c) && c->conf.auto_cold;
}

/* Its memory is gone. While the record may say PROTECTED the backup has the better copy: hand over (R2b). */
void rpl_core_guest_lost(struct rpl_core *c, struct rpl_actions *out)
{
	bool alone = in_states(c, ST(P_SOLO) | ST(P_SYNC) | ST(P_ARM)) ||
		     (c->rec_known && c->rec.mode != RPL_MODE_PROTECTED);

	c->guest = c->memory_ours = c->paused = c->throttled = c->died_pending = c->down_pending = false;
	if (alone) {
		rpl_core_end_session(c, out, true);
		drop_output(c, out);
		if (cold_possible(c))
			rpl_core_cold_start(c, out, RPL_WHY_GUEST_LOST);
		else
			rpl_core_enter(c, out, RPL_ST_IDLE, RPL_WHY_GUEST_LOST);
		return;
	}
	rpl_core_enter(c, out, RPL_ST_P_LOST, RPL_WHY_GUEST_LOST);
	(void)rpl_core_act(out, RPL_ACT_GUEST_KILL);
	if (!rpl_uuid_is_zero(&c->session))
		rpl_core_act_link(c, out, RPL_ACT_SEND_HANDOVER, c->acked);
	rpl_core_end_session(c, out, false);
	drop_output(c, out);
}

void rpl_core_on_guest_died(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	(void)ev;
	if (!c->guest || c->down_pending) /* after a shutdown its process ends, of course */
		return;
	if (in_states(c, ST(START)) || rpl_core_unresolved(c)) {
		c->guest = c->memory_ours = false;
		c->died_pending = rpl_core_unresolved(c);
	} else if (in_states(c, ST(P_LOST) | ST(P_DEPOSED) | ST(P_DOWN)) || c->handover) {
		c->guest = c->memory_ours = false; /* its fate is decided elsewhere already */
	} else {
		rpl_core_guest_lost(c, out);
	}
}

/* A backup must never resurrect what was shut down on purpose (I11): DOWN is claimed while the session still lives. */
void rpl_core_guest_down(struct rpl_core *c, struct rpl_actions *out)
{
	c->down_pending = false;
	rpl_core_enter(c, out, RPL_ST_P_DOWN, RPL_WHY_GUEST_DOWN);
}

void rpl_core_on_guest_shutdown(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	(void)ev;
	if (!c->guest || c->handover || in_states(c, ST(P_LOST) | ST(P_DEPOSED) | ST(P_DOWN)))
		return;
	if (in_states(c, ST(START)) || rpl_core_unresolved(c))
		c->down_pending = true;
	else
		rpl_core_guest_down(c, out);
}

void rpl_core_on_guest_crashed(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	if (!c->guest)
		return;
	rpl_core_alarm(c, out, RPL_WHY_GUEST_CRASHED);
	if (c->conf.on_crash == RPL_CRASH_DOWN)
		rpl_core_on_guest_shutdown(c, ev, out);
}

static void gone(struct rpl_core *c, struct rpl_actions *out)
{
	c->guest = c->memory_ours = c->paused = c->throttled = c->died_pending = c->start_down = false;
	c->output = RPL_OUT_CLOSED;
	rpl_core_enter(c, out, RPL_ST_IDLE, RPL_WHY_GUEST_DOWN);
}

void rpl_core_pump_down(struct rpl_core *c, struct rpl_actions *out)
{
	if (!rpl_core_unresolved(c))
		c->died_pending = false; /* it was to end anyway */
	if (c->won) { /* nobody will run it again: its last words may leave, its last writes must reach the store */
		if (c->doing == RPL_ACT_GUEST_KILL) {
			return;
		} else if (c->output == RPL_OUT_OPEN || c->start_down) { /* found dead: nobody is left to hold or open for */
			rpl_core_end_session(c, out, true);
			rpl_core_begin(c, out, RPL_ACT_GUEST_KILL);
		} else if (c->output != RPL_OUT_OPENING) {
			c->output = RPL_OUT_OPENING;
			(void)rpl_core_act(out, RPL_ACT_OPEN);
		}
		return;
	}
	rpl_core_commit(c, out);
	if (rpl_core_unresolved(c) || c->reading || !rpl_core_due(c))
		return;
	if (!RPL_RULE(R8, !peer_owns(c)))
		rpl_core_depose(c, out, RPL_WHY_PEER_OWNS);
	else
		rpl_core_claim(c, out, RPL_CLAIM_DOWN);
}

/* A checkpoint of the changed guest may not load at the peer: protection ends as if an operator had ended it, but
 * stays wanted. A handover under way goes on: its last epoch was taken before. */
void rpl_core_on_guest_changed(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	(void)ev;
	c->unfit = true;
	if (in_states(c, ST(P_SYNC))) {
		rpl_core_end_session(c, out, true);
		rpl_core_become_solo(c, out, RPL_WHY_GUEST_CHANGED);
	} else if (in_states(c, ST(P_ARM)) && !rpl_core_unresolved(c)) {
		rpl_core_disarm(c, out, RPL_WHY_GUEST_CHANGED);
	} else if (in_states(c, ST(P_PROTECTED) | ST(P_STALLED)) || (in_states(c, ST(P_DRAIN)) && !c->handover)) {
		rpl_core_want_solo(c, out, RPL_WHY_GUEST_CHANGED);
	}
}

bool rpl_core_look_first(struct rpl_core *c, struct rpl_actions *out)
{
	if (c->unfit && (c->failed || c->doing != RPL_ACT_GUEST_LOOK))
		rpl_core_begin(c, out, RPL_ACT_GUEST_LOOK);
	return c->unfit;
}

void rpl_core_on_guest_fit(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	(void)ev;
	(void)out;
	if (rpl_core_done(c, RPL_ACT_GUEST_LOOK))
		c->unfit = false;
}

void rpl_core_on_guest_unfit(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	(void)ev;
	if (c->doing != RPL_ACT_GUEST_LOOK || c->failed)
		return;
	c->failed = true;
	c->retry_at_ns = c->now_ns + RPL_LOOK_RETRY_NS;
	rpl_core_alarm(c, out, RPL_WHY_GUEST_UNFIT);
}

/* ---- P_LOST: the record names us, the memory is not here; only the peer, a cold start or an operator can help */
static uint64_t lost_cold_at(const struct rpl_core *c)
{
	return cold_possible(c) && !c->guest ? c->since_ns + c->conf.cold_delay_ns : UINT64_MAX;
}

/* The record says PROTECTED again, or somebody else's hand was quicker: hand over, and wait as ever. */
static void yielded(struct rpl_core *c, struct rpl_actions *out)
{
	if (c->won)
		rpl_core_act_link(c, out, RPL_ACT_SEND_HANDOVER, c->acked);
	rpl_core_end_session(c, out, false);
	c->yielding = c->won = c->refused = false;
	rpl_core_retry_later(c);
}

void rpl_core_pump_lost(struct rpl_core *c, struct rpl_actions *out)
{
	if (c->yielding && (c->won || c->refused))
		yielded(c, out);
	if (c->yielding) {
		if (!rpl_core_unresolved(c) && !c->reading && rpl_core_due(c))
			rpl_core_claim(c, out, RPL_CLAIM_ARM);
		return;
	}
	if (c->fresh) {
		c->fresh = false;
		if (peer_owns(c)) {
			rpl_core_depose(c, out, RPL_WHY_PEER_OWNS);
			return;
		}
	}
	if (c->reading)
		return;
	if (c->now_ns >= lost_cold_at(c)) {
		rpl_core_cold_start(c, out, RPL_WHY_COLD);
	} else if (rpl_core_due(c)) {
		rpl_core_retry_later(c);
		rpl_core_read(c, out);
	}
}

/* ---- P_DEPOSED (R8): kill, drop, discard, in that order */
void rpl_core_depose(struct rpl_core *c, struct rpl_actions *out, enum rpl_reason why)
{
	rpl_core_enter(c, out, RPL_ST_P_DEPOSED, c->handover ? RPL_WHY_HANDED_OVER : why);
	rpl_core_end_session(c, out, false);
	(void)rpl_core_act(out, RPL_ACT_GUEST_KILL);
	c->down_pending = c->died_pending = c->handover = false;
}

static void clean(struct rpl_core *c, struct rpl_actions *out)
{
	rpl_core_enter(c, out, RPL_ST_IDLE, RPL_WHY_DONE);
}

void rpl_core_on_guest_killed(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	(void)ev;
	if (in_states(c, ST(P_DOWN))) {
		if (rpl_core_done(c, RPL_ACT_GUEST_KILL))
			gone(c, out);
		return;
	}
	if (c->won)
		return; /* the second answer, if P_LOST had it killed before */
	c->guest = c->memory_ours = c->paused = c->throttled = false;
	drop_output(c, out);
	c->won = true; /* the guest is surely gone */
	if (has_store(c) && peer_owns(c)) /* I9 */
		rpl_core_begin(c, out, RPL_ACT_STORE_DISCARD);
	else
		clean(c, out);
}

void rpl_core_on_store_discarded(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	(void)ev;
	if (rpl_core_done(c, RPL_ACT_STORE_DISCARD))
		clean(c, out);
}

uint64_t rpl_core_owner_deadline(const struct rpl_core *c)
{
	switch (c->state) {
	case RPL_ST_P_LOST:
		if (c->reading || rpl_core_unresolved(c))
			return UINT64_MAX;
		if (c->yielding)
			return c->retry_at_ns;
		return c->retry_at_ns < lost_cold_at(c) ? c->retry_at_ns : lost_cold_at(c);
	case RPL_ST_P_CLAIM:
	case RPL_ST_P_DOWN:
		return c->won || c->reading || rpl_core_unresolved(c) ? UINT64_MAX : c->retry_at_ns;
	default:
		return UINT64_MAX;
	}
}
