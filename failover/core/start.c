/* A shell starts, perhaps in the place of one that died; and an operator speaks.
 *
 * What an earlier life of this node may have left behind: a running guest, one paused by us, held output, a complete
 * replica, a claim still under way. The record decides what of it counts. Two things may not wait for the record: a
 * guest that we had paused runs again at once (its output stays as it is), and output that was open stays open: it was
 * opened in SOLO, every abandoned ARM is fenced before opening (claim.c), so nobody else can have been given the VM.
 * Output found held may belong to an ARM under way: even from {SOLO, us} it opens only behind a claim of our own.
 */
#include "core_int.h"

void rpl_core_on_start(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	if (c->started)
		return;
	c->started = true;
	c->want = ev->u.start.want;
	c->guest = ev->u.start.guest != RPL_FOUND_NONE;
	c->memory_ours = c->guest && ev->u.start.memory_ours;
	c->output = c->guest && ev->u.start.output_open ? RPL_OUT_OPEN : RPL_OUT_CLOSED;
	c->epoch = ev->u.start.epoch + 1;
	c->start_replica = ev->u.start.replica && !c->guest;
	c->start_down = ev->u.start.down && !c->guest;
	if (c->start_replica) {
		c->session = ev->u.start.session;
		c->replica = ev->u.start.epoch;
	}
	if (ev->u.start.guest == RPL_FOUND_PAUSED)
		(void)rpl_core_act(out, RPL_ACT_GUEST_RESUME);
	rpl_core_read(c, out);
}

static void forget_found(struct rpl_core *c, struct rpl_actions *out)
{
	if (c->start_replica)
		(void)rpl_core_act(out, RPL_ACT_FORGET_REPLICA);
	c->start_replica = false;
}

/* The record is ours. */
static void start_as_owner(struct rpl_core *c, struct rpl_actions *out)
{
	bool heir = c->start_replica && c->rec.mode == RPL_MODE_SOLO &&
		    rpl_uuid_equal(&c->rec.session, &c->session);

	if (heir) { /* the takeover was won, its promotion not begun */
		c->complete = c->frozen = true;
		rpl_core_promote(c, out, RPL_WHY_CLAIM_WON);
		return;
	}
	forget_found(c, out);
	if (c->rec.mode == RPL_MODE_DOWN && c->guest && c->memory_ours) { /* the very guest that went down: finish that */
		rpl_core_guest_down(c, out);
		c->won = true;
		return;
	}
	if (c->rec.mode == RPL_MODE_PROTECTED && c->start_down) { /* before the backup takes its silence for a death (I11) */
		rpl_core_guest_down(c, out);
		return;
	}
	if (c->rec.mode != RPL_MODE_SOLO)
		rpl_core_close_output(c, out);
	if (c->rec.mode == RPL_MODE_PROTECTED) {
		if (RPL_RULE(R2b, c->guest && c->memory_ours))
			rpl_core_enter(c, out, RPL_ST_P_CLAIM, RPL_WHY_STARTED);
		else
			rpl_core_enter(c, out, RPL_ST_P_LOST, RPL_WHY_NO_MEMORY);
	} else if (!c->guest || (c->rec.mode == RPL_MODE_DOWN && !c->want)) {
		rpl_core_enter(c, out, RPL_ST_IDLE, RPL_WHY_STARTED);
	} else {
		c->memory_ours = true; /* SOLO: it is. DOWN: another guest than went down, so somebody booted it */
		if (c->rec.mode == RPL_MODE_SOLO && c->output == RPL_OUT_OPEN)
			rpl_core_become_solo(c, out, RPL_WHY_STARTED);
		else
			rpl_core_enter(c, out, RPL_ST_P_CLAIM, RPL_WHY_STARTED);
	}
}

/* The record is the peer's. */
static void start_as_other(struct rpl_core *c, struct rpl_actions *out)
{
	bool usable = c->start_replica && c->rec.mode == RPL_MODE_PROTECTED &&
		      rpl_uuid_equal(&c->rec.session, &c->session);

	if (c->guest) {
		rpl_core_close_output(c, out);
		rpl_core_depose(c, out, RPL_WHY_PEER_OWNS);
	} else if (usable) { /* the session is over (we restarted), but what it made may still be needed */
		c->complete = true;
		rpl_core_suspect(c, out, RPL_WHY_STARTED);
	} else {
		forget_found(c, out);
		rpl_core_enter(c, out, RPL_ST_IDLE, RPL_WHY_STARTED);
	}
}

void rpl_core_start_decide(struct rpl_core *c, struct rpl_actions *out, bool present)
{
	if (!present && c->guest) {
		rpl_core_claim(c, out, RPL_CLAIM_CREATE);
	} else if (!present) {
		forget_found(c, out);
		rpl_core_enter(c, out, RPL_ST_IDLE, RPL_WHY_STARTED);
	} else if (peer_owns(c)) {
		start_as_other(c, out);
	} else {
		start_as_owner(c, out);
	}
	if (c->state == RPL_ST_IDLE)
		memset(&c->session, 0, sizeof(c->session));
}

void rpl_core_pump_start(struct rpl_core *c, struct rpl_actions *out)
{
	if (!c->started || rpl_core_unresolved(c))
		return;
	if (c->won) { /* first use */
		c->memory_ours = true;
		rpl_core_become_solo(c, out, RPL_WHY_FIRST_USE);
	} else if (c->refused) {
		c->refused = false;
		rpl_core_start_decide(c, out, true);
	} else if (!c->reading && rpl_core_due(c)) {
		rpl_core_read(c, out);
	}
}

/* ---- commands: each answers in its own step, with what is begun or why not */
static void cmd_unprotect(struct rpl_core *c, struct rpl_actions *out)
{
	c->want = false;
	rpl_core_reply(out, true, RPL_WHY_DONE);
	if (in_states(c, ST(P_SYNC))) {
		rpl_core_end_session(c, out, true);
		rpl_core_become_solo(c, out, RPL_WHY_OPERATOR);
	} else if (in_states(c, ST(P_ARM)) && !rpl_core_unresolved(c)) {
		rpl_core_disarm(c, out, RPL_WHY_OPERATOR);
	} else if (in_states(c, ST(P_PROTECTED) | ST(P_STALLED))) {
		rpl_core_want_solo(c, out, RPL_WHY_OPERATOR);
	}
}

static void cmd_solo(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	if (!c->rec_known || c->rec.generation != ev->u.cmd.generation) {
		rpl_core_reply(out, false, RPL_WHY_WRONG_GENERATION);
		return;
	}
	c->ordered_generation = ev->u.cmd.generation;
	c->retry_at_ns = c->now_ns;
	rpl_core_reply(out, true, RPL_WHY_DONE);
	if (!in_states(c, ST(P_CLAIM)))
		rpl_core_want_solo(c, out, RPL_WHY_OPERATOR);
}

static void cmd_takeover(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	if (!c->complete) {
		rpl_core_reply(out, false, RPL_WHY_NO_REPLICA);
		return;
	}
	c->ordered_generation = ev->u.cmd.generation; /* compared with the record before it is claimed from */
	c->retry_at_ns = c->now_ns;
	rpl_core_reply(out, true, RPL_WHY_DONE);
	if (in_states(c, ST(B_READY)))
		rpl_core_suspect(c, out, RPL_WHY_OPERATOR);
}

static void cmd_accept_loss(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	if (c->yielding) {
		rpl_core_reply(out, false, RPL_WHY_BUSY);
	} else if (!c->rec_known || c->rec.generation != ev->u.cmd.generation) {
		rpl_core_reply(out, false, RPL_WHY_WRONG_GENERATION);
	} else if (c->guest) { /* P_LOST, and the operator booted another one by hand */
		c->memory_ours = true;
		c->ordered_generation = ev->u.cmd.generation;
		rpl_core_reply(out, true, RPL_WHY_DONE);
		rpl_core_enter(c, out, RPL_ST_P_CLAIM, RPL_WHY_OPERATOR);
	} else if (!has_store(c)) {
		rpl_core_reply(out, false, RPL_WHY_NO_MEMORY);
	} else {
		rpl_core_reply(out, true, RPL_WHY_DONE);
		c->accept_loss = true;
		c->peer_is_dead = ev->u.cmd.peer_is_dead;
		c->ordered_generation = ev->u.cmd.generation;
		rpl_core_cold_start(c, out, RPL_WHY_OPERATOR);
	}
}

static void cmd_start(struct rpl_core *c, struct rpl_actions *out)
{
	if (!has_store(c)) {
		rpl_core_reply(out, false, RPL_WHY_NO_MEMORY);
		return;
	}
	rpl_core_reply(out, true, RPL_WHY_DONE);
	c->boot_ordered = true;
	rpl_core_cold_start(c, out, RPL_WHY_OPERATOR);
}

void rpl_core_on_command(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out)
{
	switch (ev->kind) {
	case RPL_EV_CMD_PROTECT:
		c->want = true;
		c->sync_failures = 0;
		if (in_states(c, ST(P_SOLO)))
			c->retry_at_ns = c->now_ns;
		rpl_core_reply(out, true, RPL_WHY_DONE);
		break;
	case RPL_EV_CMD_UNPROTECT:
		cmd_unprotect(c, out);
		break;
	case RPL_EV_CMD_SWITCHOVER:
		rpl_core_reply(out, true, RPL_WHY_DONE);
		rpl_core_enter(c, out, RPL_ST_P_DRAIN, RPL_WHY_OPERATOR);
		break;
	case RPL_EV_CMD_SOLO:
		cmd_solo(c, ev, out);
		break;
	case RPL_EV_CMD_TAKEOVER:
		cmd_takeover(c, ev, out);
		break;
	case RPL_EV_CMD_ACCEPT_LOSS:
		cmd_accept_loss(c, ev, out);
		break;
	case RPL_EV_CMD_SHUTDOWN:
		rpl_core_reply(out, true, RPL_WHY_DONE);
		(void)rpl_core_act(out, RPL_ACT_GUEST_POWERDOWN);
		break;
	case RPL_EV_CMD_START:
		cmd_start(c, out);
		break;
	default:
		rpl_core_reply(out, false, RPL_WHY_WRONG_STATE);
		break;
	}
}
