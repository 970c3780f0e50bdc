/* The backup: seed, ready, suspect, claim, promote.
 *
 * It acks an epoch when all of R9 is true, and from the moment it suspects it never acks again in that session: the
 * mover that could is dead before the record is claimed (R3). So what the primary has seen acked is never more than
 * what the heir resumes from.
 */
#include "core_int.h"

static bool ours(const struct rpl_core *c, const struct rpl_uuid *session)
{
	return !rpl_uuid_is_zero(&c->session) && rpl_uuid_equal(session, &c->session);
}

static void forget_replica(struct rpl_core *c, struct rpl_actions *out)
{
	(void)rpl_core_act(out, RPL_ACT_FORGET_REPLICA);
	memset(&c->session, 0, sizeof(c->session));
	c->complete = c->frozen = c->freezing = c->handover = c->start_replica = c->link_up = false;
	c->replica = c->redo_applied = c->redo_trimmed = 0;
}

void rpl_core_forget(struct rpl_core *c, struct rpl_actions *out, enum rpl_reason why)
{
	forget_replica(c, out);
	rpl_core_enter(c, out, RPL_ST_IDLE, why);
}

/* The takeover is won and the replica gone: what the disk here holds is all there is. */
static void heir_of_nothing(struct rpl_core *c, struct rpl_actions *out)
{
	forget_replica(c, out);
	if (has_store(c) && c->conf.auto_cold)
		rpl_core_cold_start(c, out, RPL_WHY_REPLICA_LOST);
	else
		rpl_core_enter(c, out, RPL_ST_IDLE, RPL_WHY_REPLICA_LOST);
}

/* With an arbiter that waits for words nobody tells a frozen backup that the primary lives, but the primary itself: it calls
 * to go on with the very session. That is over, frozen here; and the primary can serve again only when nobody can take over
 * from it any more. So the replica is given up: what a word could have been given for is gone before the primary hears so. */
static bool primary_lives(const struct rpl_core *c, const struct rpl_event *ev)
{
	return in_states(c, ST(B_SUSPECT)) && !c->conf.auto_claim && !c->handover && !c->ordered_generation &&
	       ev->u.open.resume && ours(c, &ev->u.open.session);
}

/* ---- a session begins, or goes on over a new connection */
void rpl_core_on_session_open(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	const struct rpl_uuid *s = &ev->u.open.session;

	bool fresh = !ev->u.open.resume && !rpl_uuid_is_zero(s); /* what we have forgotten cannot be gone on with */

	if (in_states(c, ST(IDLE)) && !c->offered && !c->reading && fresh) {
		c->session = *s;
		c->offered = c->link_up = true;
		c->offered_generation = ev->u.open.generation;
		c->fresh = false;
		rpl_core_read(c, out); /* is it really the peer's to protect? offer_decide() */
	} else if (in_states(c, ST(B_SEED) | ST(B_READY)) && ours(c, s)) {
		c->heard_ns = c->now_ns;
		c->link_up = true;
		rpl_core_act_link(c, out, RPL_ACT_SESSION_CONTINUE, c->replica);
	} else {
		rpl_core_act_session(c, out, RPL_ACT_SESSION_REFUSE, s);
		if (in_states(c, ST(B_SEED)))
			rpl_core_forget(c, out, RPL_WHY_BUSY); /* half a copy of an older session is worth nothing */
		else if (primary_lives(c, ev))
			rpl_core_forget(c, out, RPL_WHY_PRIMARY_LIVES);
		else if (in_states(c, ST(B_READY) | ST(B_SUSPECT)))
			rpl_core_read(c, out); /* a whole one only if the record still names it */
	}
}

void rpl_core_offer_decide(struct rpl_core *c, struct rpl_actions *out)
{
	bool fits = c->fresh && peer_owns(c) && c->rec.mode == RPL_MODE_SOLO &&
		    c->rec.generation == c->offered_generation;
	struct rpl_uuid s = c->session;

	c->offered = c->fresh = false;
	if (!fits) {
		memset(&c->session, 0, sizeof(c->session));
		rpl_core_act_session(c, out, RPL_ACT_SESSION_REFUSE, &s);
		return;
	}
	c->complete = c->frozen = c->freezing = c->handover = false;
	c->replica = c->redo_applied = c->redo_trimmed = 0;
	c->heard_ns = c->now_ns;
	rpl_core_enter(c, out, RPL_ST_B_SEED, RPL_WHY_WANTED);
	rpl_core_act_session(c, out, RPL_ACT_SESSION_ACCEPT, &s);
}

void rpl_core_on_heard_backup(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	(void)ev;
	(void)out;
	c->heard_ns = c->now_ns;
}

/* In the first copy the primary has as long to call again as if it had been heard at that moment. */
void rpl_core_on_link_down_backup(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	(void)ev;
	(void)out;
	if (in_states(c, ST(B_SEED)) && c->link_up)
		c->heard_ns = c->now_ns;
	c->link_up = false;
}

/* ---- epochs */
void rpl_core_on_staged(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	bool journal = c->conf.durability != RPL_DURABLE_MEMORY && has_store(c);
	uint32_t need = RPL_STAGED_WHOLE | RPL_STAGED_DIGEST | RPL_STAGED_SEALED | (journal ? RPL_STAGED_JOURNALED : 0);
	uint64_t e = ev->u.staged.epoch;

	if (!ours(c, &ev->u.staged.session) || e <= c->replica || (c->complete && e != c->replica + 1))
		return;
	if (!RPL_RULE(R9, (ev->u.staged.checks & need) == need))
		return;
	c->heard_ns = c->now_ns;
	c->replica = e;
	c->complete = true;
	if (in_states(c, ST(B_SEED)))
		rpl_core_enter(c, out, RPL_ST_B_READY, RPL_WHY_SYNCED);
	rpl_core_act_link(c, out, RPL_ACT_ACK, e);
	if (c->conf.store == RPL_STORE_PLAIN && c->redo_applied == c->redo_trimmed) {
		c->redo_applied = e;
		rpl_core_act_epoch(out, RPL_ACT_REDO_APPLY, e);
	}
}

static void trim(struct rpl_core *c, struct rpl_actions *out, uint64_t epoch)
{
	if (epoch <= c->redo_trimmed || epoch > c->replica)
		return;
	c->redo_trimmed = epoch;
	rpl_core_act_epoch(out, RPL_ACT_REDO_TRIM, epoch);
}

void rpl_core_on_peer_flushed(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	if (ours(c, &ev->u.link.session) && c->conf.store == RPL_STORE_DRBD)
		trim(c, out, ev->u.link.epoch);
}

void rpl_core_on_redo_applied(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	if (ev->u.epoch.epoch != c->redo_applied || c->redo_applied == c->redo_trimmed)
		return;
	trim(c, out, c->redo_applied);
	if (in_states(c, ST(B_READY)) && c->redo_applied < c->replica) {
		c->redo_applied = c->replica;
		rpl_core_act_epoch(out, RPL_ACT_REDO_APPLY, c->replica);
	}
}

/* ---- the end of a session */
void rpl_core_suspect(struct rpl_core *c, struct rpl_actions *out, enum rpl_reason why)
{
	rpl_core_enter(c, out, RPL_ST_B_SUSPECT, why);
	c->link_up = false;
	c->freezing = true;
	(void)rpl_core_act(out, RPL_ACT_FREEZE);
}

void rpl_core_on_frozen(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	(void)ev;
	(void)out;
	c->frozen = c->freezing;
}

void rpl_core_on_handover(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	if (!ours(c, &ev->u.link.session))
		return;
	c->handover = true;
	if (in_states(c, ST(B_SEED) | ST(B_READY)))
		rpl_core_suspect(c, out, RPL_WHY_HANDOVER);
}

void rpl_core_on_forget(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	if (ours(c, &ev->u.session.session))
		rpl_core_forget(c, out, RPL_WHY_FORGET);
}

void rpl_core_on_replica_lost(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	(void)ev;
	c->complete = c->start_replica = false;
	if (in_states(c, ST(B_SEED) | ST(B_READY)))
		rpl_core_suspect(c, out, RPL_WHY_REPLICA_LOST); /* the primary notices by the cut connection */
	else if (in_states(c, ST(B_PROMOTE)))
		heir_of_nothing(c, out);
}

/* The record as read names exactly our session as the one that may take over. */
static bool may_claim(const struct rpl_core *c)
{
	return c->rec.mode == RPL_MODE_PROTECTED && peer_owns(c) && rpl_uuid_equal(&c->rec.session, &c->session);
}

/* While the first copy is under way there is nothing to take over, and giving up would have it copied from the start: a primary on a
 * busy host is waited for while its connection stands. */
static uint64_t suspect_at(const struct rpl_core *c)
{
	bool patient = in_states(c, ST(B_SEED)) && c->link_up;

	return c->heard_ns + (patient ? RPL_SEED_PATIENCE : 1) * c->conf.suspect_ns;
}

void rpl_core_pump_backup(struct rpl_core *c, struct rpl_actions *out)
{
	if (c->fresh) { /* read because another session was offered */
		c->fresh = false;
		if (!may_claim(c)) {
			rpl_core_forget(c, out, RPL_WHY_PEER_OWNS);
			return;
		}
	}
	if (c->now_ns >= suspect_at(c))
		rpl_core_suspect(c, out, RPL_WHY_SUSPECT);
}

/* One that found its replica at its start has not heard the primary's silence: it may be as well as ever, and has just lost
 * the connection. So it gets as long to claim SOLO as if it had been heard at that moment. */
static uint64_t takeover_at(const struct rpl_core *c)
{
	uint64_t wait = c->conf.takeover_delay_ns + (c->start_replica ? c->conf.suspect_ns : 0);

	if (c->handover || c->ordered_generation || !c->complete)
		return c->since_ns;
	return c->conf.auto_claim ? c->since_ns + wait : UINT64_MAX;
}

void rpl_core_pump_suspect(struct rpl_core *c, struct rpl_actions *out)
{
	if (c->fresh) {
		c->fresh = false;
		if (!may_claim(c)) {
			rpl_core_forget(c, out, RPL_WHY_PEER_OWNS);
			return;
		}
	}
	if (c->reading || !RPL_RULE(R3, c->frozen) || c->now_ns < takeover_at(c))
		return;
	if (!RPL_RULE(R7, c->complete))
		rpl_core_forget(c, out, RPL_WHY_NO_REPLICA);
	else
		rpl_core_enter(c, out, RPL_ST_B_CLAIM, c->handover ? RPL_WHY_HANDOVER : RPL_WHY_SUSPECT);
}

void rpl_core_pump_takeover(struct rpl_core *c, struct rpl_actions *out)
{
	if (RPL_RULE(R3, c->won)) {
		if (RPL_RULE(R7, c->complete))
			rpl_core_promote(c, out, RPL_WHY_CLAIM_WON);
		else
			heir_of_nothing(c, out);
		return;
	}
	if (rpl_core_unresolved(c) || c->reading || !rpl_core_due(c))
		return;
	if (!RPL_RULE(R7, c->complete)) {
		rpl_core_forget(c, out, RPL_WHY_NO_REPLICA);
	} else if (!c->fresh) {
		rpl_core_read(c, out);
	} else if (!RPL_RULE(R3, may_claim(c))) {
		rpl_core_forget(c, out, RPL_WHY_CLAIM_LOST);
	} else if (c->ordered_generation && c->ordered_generation != c->rec.generation) {
		c->ordered_generation = 0;
		rpl_core_alarm(c, out, RPL_WHY_WRONG_GENERATION);
		rpl_core_retry_later(c);
	} else {
		rpl_core_claim(c, out, RPL_CLAIM_TAKEOVER);
	}
}

/* ---- B_PROMOTE: store, then guest; what fails is tried again, the VM is ours now */
void rpl_core_promote(struct rpl_core *c, struct rpl_actions *out, enum rpl_reason why)
{
	rpl_core_enter(c, out, RPL_ST_B_PROMOTE, why);
	rpl_core_begin(c, out, has_store(c) ? RPL_ACT_STORE_PROMOTE : RPL_ACT_GUEST_ACTIVATE);
}

void rpl_core_on_store_promoted(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	(void)ev;
	if (rpl_core_done(c, RPL_ACT_STORE_PROMOTE))
		rpl_core_begin(c, out, RPL_ACT_GUEST_ACTIVATE);
}

/* The heir runs. Also the end of a cold start. */
void rpl_core_took_over(struct rpl_core *c, struct rpl_actions *out)
{
	bool heir = in_states(c, ST(B_PROMOTE));

	c->guest = c->memory_ours = true;
	c->output = RPL_OUT_OPEN;
	if (heir) {
		c->epoch = c->replica + 1;
		c->want = c->conf.reprotect;
	}
	memset(&c->session, 0, sizeof(c->session));
	c->complete = c->frozen = c->freezing = c->handover = c->start_replica = false;
	c->paused = c->throttled = c->capturing = c->accept_loss = c->peer_is_dead = c->boot_ordered = false;
	c->start_down = false;
	rpl_core_become_solo(c, out, heir ? RPL_WHY_CLAIM_WON : RPL_WHY_COLD);
	rpl_core_retry_later(c);
	(void)rpl_core_act(out, RPL_ACT_ANNOUNCE);
}

void rpl_core_on_guest_running(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	(void)ev;
	if (rpl_core_done(c, RPL_ACT_GUEST_ACTIVATE) || rpl_core_done(c, RPL_ACT_GUEST_BOOT))
		rpl_core_took_over(c, out);
}

/* It died before we were told that it runs: a replica is used up by that, a disk is not. */
void rpl_core_on_guest_stillborn(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	if (in_states(c, ST(B_PROMOTE)))
		heir_of_nothing(c, out);
	else
		rpl_core_on_guest_failed(c, ev, out);
}

uint64_t rpl_core_backup_deadline(const struct rpl_core *c)
{
	switch (c->state) {
	case RPL_ST_B_SEED:
	case RPL_ST_B_READY:
		return suspect_at(c);
	case RPL_ST_B_SUSPECT:
		return c->frozen && !c->reading ? takeover_at(c) : UINT64_MAX;
	case RPL_ST_B_CLAIM:
		return c->reading || rpl_core_unresolved(c) ? UINT64_MAX : c->retry_at_ns;
	default:
		return UINT64_MAX;
	}
}
