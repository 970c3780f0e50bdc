#include "checkpoint.h"

#include <errno.h>

#include <replicad/clock.h>
#include <replicad/fault.h>

/* Close the time of the step that ends now, and start the next one's. `now`: a step that ends with what woke the loop up ended
 * then, which costs no look at the clock. */
static uint64_t lap(struct checkpoint *c, uint64_t now)
{
	uint64_t took = now - c->step_began_ns;

	c->step_began_ns = now;
	return took;
}

static void finish(struct checkpoint *c)
{
	struct rpl_err failure = c->failure;

	c->times.total = rpl_recent_ns() - c->times.begun_ns;
	c->step = CK_IDLE;
	if (!failure.code && c->kind == CHECKPOINT_TAKE)
		rpl_hist_add(&c->pauses, c->times.total);
	c->done(c->arg, c->kind, &c->times, failure.code, &failure);
}

static void resume(struct checkpoint *c)
{
	c->step = CK_RESUMING;
	c->times.resumed_ns = rpl_recent_ns();
	rpl_guest_resume(c->guest);
}

static void keep_failure(struct checkpoint *c, int r, const struct rpl_err *err)
{
	if (r < 0 && !c->failure.code) {
		c->failure = *err;
		c->failure.code = r;
	}
}

static void stage_or_undo(struct checkpoint *c)
{
	c->times.save = lap(c, rpl_recent_ns());
	if (c->failure.code) {
		resume(c);
		return;
	}
	if (!movers_running(c->movers)) {
		(void)rpl_fail(&c->failure, -ESRCH, "epoch %llu: no mover to stage it", (unsigned long long)c->epoch);
		resume(c);
		return;
	}
	rpl_fault_die(RPL_FAULT_DIE_KEEPER_S1_SEALED);
	c->step = CK_STAGING;
	movers_send(c->movers, RPL_MOVER_STAGE, c->epoch, rpl_guest_state_len(c->guest), 0, NULL);
}

/* The guest stands still: everything that belongs to the epoch is gathered at the same time. */
static void seal_and_save(struct checkpoint *c)
{
	c->step = CK_SEALING;
	c->waiting = 3;
	rpl_netbuf_seal(c->netbuf, c->epoch);
	rpl_disk_start(c->disk, RPL_DISK_SEAL, c->epoch);
	rpl_guest_save(c->guest);
}

static void one_arrived(struct checkpoint *c, int r, const struct rpl_err *err)
{
	keep_failure(c, r, err);
	if (--c->waiting == 0)
		stage_or_undo(c);
}

void checkpoint_begin(struct checkpoint *c, uint64_t epoch, enum checkpoint_kind kind)
{
	rpl_assert(c->step == CK_IDLE);
	rpl_fault_die(RPL_FAULT_DIE_KEEPER_S0);
	c->step = CK_PAUSING;
	c->epoch = epoch;
	c->kind = kind;
	c->failure = (struct rpl_err){ 0 };
	c->step_began_ns = rpl_recent_ns();
	c->times = (struct checkpoint_times){ .epoch = epoch, .begun_ns = c->step_began_ns };
	rpl_guest_pause(c->guest);
	rpl_fault_die(RPL_FAULT_DIE_KEEPER_S0_ASKED);
}

bool checkpoint_busy(const struct checkpoint *c)
{
	return c->step != CK_IDLE;
}

void checkpoint_abort(struct checkpoint *c)
{
	c->step = CK_IDLE;
}

static void on_paused(struct checkpoint *c, int r, const struct rpl_err *err)
{
	c->times.pause = lap(c, rpl_recent_ns());
	keep_failure(c, r, err);
	if (r < 0) {
		resume(c); /* it may have stopped all the same */
	} else {
		rpl_fault_die(RPL_FAULT_DIE_KEEPER_S1);
		seal_and_save(c);
	}
}

static void on_saved(struct checkpoint *c, int r, const struct rpl_err *err)
{
	c->times.guest = rpl_now_ns() - c->step_began_ns;
	one_arrived(c, r, err);
}

static void on_resumed(struct checkpoint *c, int r, const struct rpl_err *err)
{
	c->times.resume = lap(c, rpl_now_ns());
	keep_failure(c, r, err);
	finish(c);
}

bool checkpoint_on_guest(struct checkpoint *c, enum rpl_guest_op op, int r, const struct rpl_err *err)
{
	if (op == RPL_GUEST_PAUSE && c->step == CK_PAUSING)
		on_paused(c, r, err);
	else if (op == RPL_GUEST_SAVE && c->step == CK_SEALING)
		on_saved(c, r, err);
	else if (op == RPL_GUEST_RESUME && c->step == CK_RESUMING)
		on_resumed(c, r, err);
	else
		return false;
	return true;
}

bool checkpoint_on_netbuf(struct checkpoint *c, enum rpl_netbuf_op op, int r, const struct rpl_err *err)
{
	if (op != RPL_NETBUF_SEAL || c->step != CK_SEALING)
		return false;
	c->times.seal = rpl_now_ns() - c->step_began_ns;
	one_arrived(c, r, err);
	return true;
}

bool checkpoint_on_disk(struct checkpoint *c, enum rpl_disk_op op, int r, const struct rpl_err *err)
{
	if (op != RPL_DISK_SEAL || c->step != CK_SEALING)
		return false;
	one_arrived(c, r, err);
	return true;
}

bool checkpoint_on_staged(struct checkpoint *c, uint64_t epoch, uint64_t pages)
{
	if (c->step != CK_STAGING || epoch != c->epoch)
		return false;
	c->times.stage = lap(c, rpl_recent_ns());
	c->times.pages = pages;
	rpl_fault_die(RPL_FAULT_DIE_KEEPER_S2);
	if (c->kind == CHECKPOINT_TAKE_LAST)
		finish(c);
	else
		resume(c);
	return true;
}

void checkpoint_on_mover_gone(struct checkpoint *c, const char *why)
{
	if (c->step != CK_STAGING)
		return;
	(void)rpl_fail(&c->failure, -EPIPE, "epoch %llu: %s", (unsigned long long)c->epoch, why);
	resume(c);
}
