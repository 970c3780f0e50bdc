/* Claims on the arbiter's record: one at a time, and its outcome settled before anything else is decided (R6).
 *
 * A claim is a compare-and-swap from `expect` to `claimed`; generations only grow, so `expect` never comes back once
 * it is gone, and the nonce in `claimed` tells our own success from anybody else's. That makes three things safe:
 * sending the same claim twice (the second finds `claimed`: granted), taking "refused, and the record is what we
 * wanted" for a grant, and reading instead of guessing when no answer came.
 *
 * Reading is not always enough. A compare-and-swap whose answer was lost may still be under way and land after the
 * read. For SOLO, TAKEOVER and DOWN that does no harm, the same claim is simply sent again. An ARM must not be given
 * up that way: it would land after output has been opened. So an ARM that the read does not show is fenced: P_CLAIM
 * wins a SOLO from the record as read, after which the stray ARM finds another generation.
 */
#include "core_int.h"

bool rpl_core_unresolved(const struct rpl_core *c)
{
	return c->claim != RPL_CLAIM_NONE;
}

void rpl_core_read(struct rpl_core *c, struct rpl_actions *out)
{
	if (c->reading || c->claim == RPL_CLAIM_SENT)
		return;
	c->reading = true;
	(void)rpl_core_act(out, RPL_ACT_READ_RECORD);
}

static void send_claim(struct rpl_core *c, struct rpl_actions *out)
{
	struct rpl_action *a = rpl_core_act(out, RPL_ACT_CLAIM);

	c->claim = RPL_CLAIM_SENT;
	a->u.claim.kind = c->claim_kind;
	a->u.claim.operator_ordered = c->ordered_generation != 0;
	a->u.claim.handed_over = c->claim_kind == RPL_CLAIM_TAKEOVER && c->handover;
	a->u.claim.given_up = c->claim_kind == RPL_CLAIM_SOLO && c->given_up &&
			      rpl_uuid_equal(&c->expect.session, &c->session);
	a->u.claim.expect = c->expect;
	a->u.claim.want = c->claimed;
}

void rpl_core_claim(struct rpl_core *c, struct rpl_actions *out, enum rpl_claim_kind kind)
{
	struct rpl_record *want = &c->claimed;

	if (c->claim != RPL_CLAIM_NONE || c->reading)
		return;
	if (!c->rec_known)
		memset(&c->rec, 0, sizeof(c->rec));
	c->expect = c->rec;
	c->claim_kind = kind;
	*want = c->rec; /* the session of the last protection stays in the record: a cold start asks for its redo */
	want->format = RPL_RECORD_FORMAT;
	want->vm = c->conf.vm;
	want->generation = c->rec.generation + 1;
	want->mode = kind == RPL_CLAIM_ARM ? RPL_MODE_PROTECTED : kind == RPL_CLAIM_DOWN ? RPL_MODE_DOWN : RPL_MODE_SOLO;
	memcpy(want->owner, c->conf.self, sizeof(want->owner));
	if (kind == RPL_CLAIM_ARM)
		want->session = c->session;
	rpl_core_draw(c, &want->nonce);
	send_claim(c, out);
}

static void granted(struct rpl_core *c)
{
	c->claim = RPL_CLAIM_NONE;
	c->rec = c->claimed;
	c->rec_known = c->won = true;
	c->fresh = false;
	c->ordered_generation = 0;
	c->retry_at_ns = c->now_ns;
}

static void refused(struct rpl_core *c, struct rpl_actions *out, const struct rpl_record *r)
{
	bool unchanged = rpl_record_equal(r, &c->expect);

	c->claim = RPL_CLAIM_NONE;
	c->rec = *r;
	c->rec_known = c->refused = c->fresh = true;
	c->retry_at_ns = c->now_ns;
	if (unchanged) { /* not yet, says the arbiter: a fence to be confirmed, an operator's word to be given */
		rpl_core_retry_later(c);
		rpl_core_alarm(c, out, RPL_WHY_ARBITER_AWAY);
	}
}

static bool usable(const struct rpl_core *c, const struct rpl_record *r)
{
	return r->format == RPL_RECORD_FORMAT && r->mode < RPL_MODE_N && r->generation > 0 &&
	       rpl_uuid_equal(&r->vm, &c->conf.vm) && memchr(r->owner, 0, sizeof(r->owner));
}

void rpl_core_on_record_unknown(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	bool harmless = c->claim == RPL_CLAIM_NONE && !c->guest && !c->start_replica;

	(void)ev;
	if (!c->reading)
		return;
	c->reading = false;
	if (c->claim == RPL_CLAIM_READING)
		c->claim = RPL_CLAIM_WAITING;
	rpl_core_retry_later(c);
	if (c->state == RPL_ST_START && harmless)
		rpl_core_enter(c, out, RPL_ST_IDLE, RPL_WHY_ARBITER_AWAY); /* nothing here that could do harm */
	else if (c->state == RPL_ST_IDLE && c->offered)
		rpl_core_offer_decide(c, out);
	else
		rpl_core_alarm(c, out, RPL_WHY_ARBITER_AWAY);
}

/* The claim's outcome was unknown and this is the record now. */
static void resolve(struct rpl_core *c, struct rpl_actions *out, const struct rpl_record *r)
{
	if (rpl_record_equal(r, &c->claimed)) {
		granted(c);
	} else if (!rpl_record_equal(r, &c->expect)) {
		refused(c, out, r);
	} else if (c->claim_kind == RPL_CLAIM_ARM && !c->yielding) {
		c->claim = RPL_CLAIM_NONE;
		rpl_core_enter(c, out, RPL_ST_P_CLAIM, RPL_WHY_ARM_TIMEOUT);
	} else if ((c->state == RPL_ST_P_CLAIM && (c->died_pending || c->down_pending)) ||
		   (c->state == RPL_ST_B_CLAIM && !c->complete)) {
		c->claim = RPL_CLAIM_NONE; /* R2b and R7 hold for the repetition too */
	} else {
		send_claim(c, out);
	}
}

void rpl_core_on_record(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	const struct rpl_record *r = &ev->u.record.record;

	if (!c->reading)
		return;
	if (!usable(c, r)) {
		rpl_core_on_record_unknown(c, ev, out);
		return;
	}
	c->reading = false;
	if (c->claim != RPL_CLAIM_NONE) {
		resolve(c, out, r);
		return;
	}
	if (c->rec_known && r->generation < c->rec.generation)
		return; /* no linearizable arbiter says so */
	c->rec = *r;
	c->rec_known = c->fresh = true;
	if (c->state == RPL_ST_START)
		rpl_core_start_decide(c, out, true);
}

void rpl_core_on_record_absent(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	if (!c->reading)
		return;
	if (c->state == RPL_ST_START && c->claim != RPL_CLAIM_NONE && c->claim_kind == RPL_CLAIM_CREATE) {
		c->reading = false;
		send_claim(c, out); /* the first use did not land: the same again */
	} else if (c->state == RPL_ST_START && c->claim == RPL_CLAIM_NONE && !c->rec_known) {
		c->reading = false;
		rpl_core_start_decide(c, out, false);
	} else { /* a record that was there is gone: somebody's mistake, and no ground to decide on */
		rpl_core_on_record_unknown(c, ev, out);
	}
}

void rpl_core_on_claim_granted(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	if (c->claim != RPL_CLAIM_SENT)
		return;
	if (rpl_record_equal(&ev->u.record.record, &c->claimed))
		granted(c);
	else
		rpl_core_on_claim_unknown(c, ev, out);
}

void rpl_core_on_claim_refused(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	const struct rpl_record *r = &ev->u.record.record;

	if (c->claim != RPL_CLAIM_SENT)
		return;
	if (!usable(c, r))
		rpl_core_on_claim_unknown(c, ev, out);
	else if (rpl_record_equal(r, &c->claimed))
		granted(c); /* an earlier copy of this very claim had landed */
	else
		refused(c, out, r);
}

void rpl_core_on_claim_unknown(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	(void)ev;
	if (c->claim != RPL_CLAIM_SENT)
		return;
	c->claim = RPL_CLAIM_READING;
	rpl_core_read(c, out);
}

void rpl_core_pump_unresolved(struct rpl_core *c, struct rpl_actions *out)
{
	if (c->claim == RPL_CLAIM_WAITING && !c->reading && rpl_core_due(c)) {
		c->claim = RPL_CLAIM_READING;
		rpl_core_read(c, out);
	}
}
