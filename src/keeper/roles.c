/* roles.c - between two roles: a keeper whose guest is gone from here, or was not found when it started
 *
 * Who owns the VM says the record, and it alone. Is it the peer's, then what is to be done here is to be its backup: a
 * deposed or handed-over primary puts away what it had (the core's P_DEPOSED) and makes a standby, on the guest handle
 * of a new life. Is it ours, the guest may come back (an operator boots it), and a standby would only be in its way.
 */
#include "keeper.h"

#include <string.h>

#include <replicad/log.h>

#define LULL_S 2. /* between two looks at the record while nothing is asked of this keeper */

bool keeper_owns(const struct keeper *k, const struct rpl_record *r)
{
	return strncmp(r->owner, k->conf.core.self, sizeof(r->owner)) == 0;
}

/* From the loop, not from the callback of a guest whose handle is replaced here. */
static void on_rest(EV_P_ ev_timer *w, int revents)
{
	struct keeper *k = w->data;

	(void)loop;
	(void)revents;
	if (k->core.state != RPL_ST_IDLE || k->ending || !standby_possible(k))
		return; /* a connection that came first has begun it, or an operation ends and this comes again */
	standby_start(k);
}

void keeper_rest(struct keeper *k, enum rpl_reason why)
{
	bool ours = k->core.rec_known && keeper_owns(k, &k->core.rec);

	if (k->netbuf_here && k->finishing && ours && k->core.rec.mode == RPL_MODE_DOWN)
		rpl_netbuf_open(k->netbuf); /* nobody will run it again: its last words may leave, and nothing is held any more */
	if (k->netbuf_here && !ours)
		rpl_netbuf_shut(k->netbuf); /* whatever still sends here is not the guest that clients talk to */
	/* DOWN: the owner would have told us to forget, had it lived long enough; nobody needs a standby of that */
	if (ours || why == RPL_WHY_FORGET || !*k->conf.standby || (k->core.rec_known && k->core.rec.mode == RPL_MODE_DOWN)) {
		keeper_end(k);
		return;
	}
	k->wish = (struct wishes){ 0 };
	k->at = (struct moments){ 0 };
	k->blackout_us = k->paused_us = 0;
	k->checkpoints = k->dirty_pages_sum = k->acked_at_ns = 0;
	memset(&k->checkpoint.pauses, 0, sizeof(k->checkpoint.pauses));
	keeper_rest_soon(k);
}

void keeper_rest_soon(struct keeper *k)
{
	if (k->core.state != RPL_ST_IDLE || k->ending || k->standby.ready || !*k->conf.standby)
		return;
	ev_timer_stop(k->loop, &k->rest);
	ev_timer_init(&k->rest, on_rest, 0., 0.);
	k->rest.data = k;
	ev_timer_start(k->loop, &k->rest);
}

static void on_lull(EV_P_ ev_timer *w, int revents)
{
	struct keeper *k = w->data;

	(void)loop;
	(void)revents;
	if (k->started && k->core.state == RPL_ST_IDLE && !k->ending)
		keeper_arbiter_look_idle(k);
}

void keeper_watch_idle(struct keeper *k)
{
	ev_timer_init(&k->lull, on_lull, LULL_S, LULL_S);
	k->lull.data = k;
	ev_timer_start(k->loop, &k->lull);
}

/* The primary tells its backup when the guest is down for good; one that could not be reached then would wait for ever. */
void keeper_idle_record(struct keeper *k, const struct rpl_record *record)
{
	if (!record || record->mode != RPL_MODE_DOWN || k->core.state != RPL_ST_IDLE || k->core.offered || k->ending)
		return;
	rpl_log(RPL_LOG_INFO, "vm=%s gen=%llu mode=DOWN owner=%.63s action=end: nothing here is needed", k->conf.vm,
		(unsigned long long)record->generation, record->owner);
	keeper_end(k);
}

/* A host that was dead comes back, and with it the wish to protect what ran on it. */
void keeper_not_found(struct keeper *k, const struct rpl_err *why)
{
	k->not_found = *why;
	if (k->started || !*k->conf.standby || rpl_uuid_is_zero(&k->conf.core.vm))
		keeper_refuse(k, why);
	else
		keeper_arbiter_look(k);
}

void keeper_looked(struct keeper *k, const struct rpl_record *record)
{
	bool left_to_peer = record && (!keeper_owns(k, record) || record->mode == RPL_MODE_PROTECTED);
	struct keeper_past past;

	if (k->started) {
		keeper_judge_word(k, record);
		return;
	}
	keeper_past_load(k->conf.dir, &past);
	if (!left_to_peer && !(record && past.down)) { /* down: what an earlier keeper saw is to be finished */
		keeper_refuse(k, &k->not_found);
		return;
	}
	rpl_log(RPL_LOG_INFO, "vm=%s gen=%llu mode=%s owner=%.63s guest=\"%s\"", k->conf.vm,
		(unsigned long long)record->generation, rpl_mode_name((enum rpl_mode)record->mode), record->owner,
		k->not_found.msg);
	k->finishing = past.down && keeper_owns(k, record);
	if (k->finishing)
		rpl_netbuf_attach(k->netbuf); /* it holds what the guest said last */
	else
		keeper_start_core(k, RPL_FOUND_NONE, false);
}
