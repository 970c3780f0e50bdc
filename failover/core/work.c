/* Slow work on store and guest: promote, activate, discard, collect, replay, boot. One piece at a time; what fails is
 * tried again after retry_ns for as long as the state lasts. An answer counts only for the piece under way: those of
 * work that was called off arrive late and must not be taken for it.
 */
#include "core_int.h"

static void ask(struct rpl_core *c, struct rpl_actions *out)
{
	if (c->doing == RPL_ACT_STORE_PROMOTE || c->doing == RPL_ACT_GUEST_ACTIVATE)
		rpl_core_act_epoch(out, c->doing, c->replica);
	else if (c->doing == RPL_ACT_COLLECT)
		rpl_core_act_session(c, out, c->doing, &c->rec.session);
	else
		(void)rpl_core_act(out, c->doing);
}

void rpl_core_begin(struct rpl_core *c, struct rpl_actions *out, enum rpl_action_kind work)
{
	c->doing = work;
	c->failed = false;
	ask(c, out);
}

bool rpl_core_done(struct rpl_core *c, enum rpl_action_kind work)
{
	if (c->doing != work || c->failed)
		return false;
	c->doing = RPL_ACT_N;
	return true;
}

static void failed(struct rpl_core *c, struct rpl_actions *out, enum rpl_reason why)
{
	c->failed = true;
	rpl_core_retry_later(c);
	rpl_core_alarm(c, out, why);
}

void rpl_core_on_store_failed(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	if (c->doing == ev->u.failed.action && c->doing != RPL_ACT_N)
		failed(c, out, RPL_WHY_STORE_FAILED);
}

void rpl_core_on_guest_failed(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	(void)ev;
	if (c->doing == RPL_ACT_GUEST_ACTIVATE || c->doing == RPL_ACT_GUEST_BOOT)
		failed(c, out, RPL_WHY_GUEST_FAILED);
}

void rpl_core_pump_work(struct rpl_core *c, struct rpl_actions *out)
{
	if (!c->failed || !rpl_core_due(c))
		return;
	c->failed = false;
	ask(c, out);
}

uint64_t rpl_core_work_deadline(const struct rpl_core *c)
{
	return c->failed && !in_states(c, ST(P_SOLO)) ? c->retry_at_ns : UINT64_MAX; /* GUEST_LOOK waits for being wanted */
}
