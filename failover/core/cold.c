/* Idle, and the cold start: both hosts lost power, or the guest its process, and only disks are left (R10).
 *
 * Who may boot from disk is settled like everything else, by a claim from the exact record that was read. Whether the
 * disk here is good enough is settled before: the owner of a SOLO record has it all in its store once the overlay was
 * drained, or an arming was begun and never won (store_clean); in every other case the redo of the record's session, up to the last ack, must be in hand.
 * The record keeps the session's name for that purpose also after SOLO was claimed.
 */
#include "core_int.h"

/* How long to leave the VM to others before thinking of its disk; 0: this record is no business of ours. */
static uint64_t patience_ns(const struct rpl_core *c)
{
	if (!c->rec_known || !has_store(c) || !c->conf.auto_cold || c->rec.mode == RPL_MODE_DOWN)
		return 0;
	if (!peer_owns(c))
		return c->conf.cold_delay_ns;
	return c->rec.mode == RPL_MODE_PROTECTED ? 2 * c->conf.cold_delay_ns : 0;
}

void rpl_core_pump_idle(struct rpl_core *c, struct rpl_actions *out)
{
	uint64_t wait = patience_ns(c);

	if (c->reading)
		return;
	if (c->offered) {
		rpl_core_offer_decide(c, out);
		if (!in_states(c, ST(IDLE)))
			return;
	}
	if (c->fresh) {
		c->fresh = false;
		if (wait && c->now_ns >= c->since_ns + wait) {
			rpl_core_cold_start(c, out, RPL_WHY_COLD);
			return;
		}
	}
	if (has_store(c) && c->conf.auto_cold && rpl_core_due(c)) {
		rpl_core_read(c, out);
		c->retry_at_ns = c->now_ns + c->conf.cold_delay_ns;
	}
}

/* ---- C_COLLECT */
void rpl_core_cold_start(struct rpl_core *c, struct rpl_actions *out, enum rpl_reason why)
{
	bool loss = c->accept_loss, boot = c->boot_ordered;

	if (c->offered) {
		c->offered = false;
		rpl_core_act_session(c, out, RPL_ACT_SESSION_REFUSE, &c->session);
		memset(&c->session, 0, sizeof(c->session));
	}
	rpl_core_enter(c, out, RPL_ST_C_COLLECT, why);
	c->accept_loss = loss;
	c->boot_ordered = boot;
	rpl_core_read(c, out);
}

static void give_up(struct rpl_core *c, struct rpl_actions *out, enum rpl_reason why)
{
	c->accept_loss = c->peer_is_dead = c->boot_ordered = false;
	c->ordered_generation = 0;
	rpl_core_enter(c, out, RPL_ST_IDLE, why);
	c->retry_at_ns = c->now_ns + c->conf.cold_delay_ns;
}

static bool may_start(const struct rpl_core *c)
{
	if (c->ordered_generation && c->ordered_generation != c->rec.generation)
		return false;
	if (c->rec.mode == RPL_MODE_DOWN)
		return c->boot_ordered && !peer_owns(c);
	return !peer_owns(c) || c->rec.mode == RPL_MODE_PROTECTED || (c->accept_loss && c->peer_is_dead);
}

static bool all_in_hand(const struct rpl_core *c)
{
	if (c->rec.mode != RPL_MODE_PROTECTED && !peer_owns(c) && c->store_clean)
		return true;
	return c->redo_complete && rpl_uuid_equal(&c->redo_session, &c->rec.session);
}

void rpl_core_pump_collect(struct rpl_core *c, struct rpl_actions *out)
{
	rpl_core_pump_work(c, out);
	if (c->doing != RPL_ACT_N || c->reading || !rpl_core_due(c))
		return;
	if (!c->fresh)
		rpl_core_read(c, out);
	else if (may_start(c))
		rpl_core_begin(c, out, RPL_ACT_COLLECT); /* what have we got for this record? */
	else
		give_up(c, out, RPL_WHY_PEER_OWNS);
}

void rpl_core_on_collected(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	if (!rpl_core_done(c, RPL_ACT_COLLECT))
		return;
	c->store_clean = ev->u.collected.store_clean;
	c->redo_complete = ev->u.collected.redo_complete;
	c->redo_session = ev->u.collected.session;
	if (RPL_RULE(R10, all_in_hand(c) || c->accept_loss)) {
		rpl_core_enter(c, out, RPL_ST_C_CLAIM, RPL_WHY_COLD);
	} else {
		rpl_core_alarm(c, out, RPL_WHY_REDO_MISSING);
		give_up(c, out, RPL_WHY_REDO_MISSING);
	}
}

/* ---- C_CLAIM: from exactly the record for which the disk was judged */
void rpl_core_pump_cold_claim(struct rpl_core *c, struct rpl_actions *out)
{
	if (c->won) {
		rpl_core_enter(c, out, RPL_ST_C_REPLAY, RPL_WHY_CLAIM_WON);
		rpl_core_begin(c, out, RPL_ACT_REPLAY);
	} else if (rpl_core_unresolved(c) || c->reading || !rpl_core_due(c)) {
		return;
	} else if (c->refused) {
		give_up(c, out, RPL_WHY_CLAIM_LOST);
	} else {
		rpl_core_claim(c, out, peer_owns(c) ? RPL_CLAIM_TAKEOVER : RPL_CLAIM_SOLO);
	}
}

/* ---- C_REPLAY */
void rpl_core_on_replayed(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	(void)ev;
	if (rpl_core_done(c, RPL_ACT_REPLAY))
		rpl_core_begin(c, out, RPL_ACT_GUEST_BOOT);
}

uint64_t rpl_core_cold_deadline(const struct rpl_core *c)
{
	switch (c->state) {
	case RPL_ST_IDLE:
		return has_store(c) && c->conf.auto_cold && !c->reading ? c->retry_at_ns : UINT64_MAX;
	case RPL_ST_C_COLLECT:
		return c->reading || c->doing != RPL_ACT_N ? UINT64_MAX : c->retry_at_ns;
	case RPL_ST_C_CLAIM:
		return c->won || c->reading || rpl_core_unresolved(c) ? UINT64_MAX : c->retry_at_ns;
	default:
		return UINT64_MAX;
	}
}
