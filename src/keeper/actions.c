/* actions.c - one line for each thing that the core can ask for */
#include "keeper.h"

#include <replicad/clock.h>
#include <replicad/fault.h>
#include <replicad/log.h>

static void wish_capture(struct keeper *k, enum checkpoint_kind kind, uint64_t epoch)
{
	k->wish.capture = true;
	k->wish.capture_kind = kind;
	k->wish.capture_resumes = true;
	k->wish.capture_epoch = epoch;
	keeper_pursue(k);
}

/* A guest that should run again: a capture under way resumes it by itself, even one that was to be the last. */
static void wish_running(struct keeper *k)
{
	k->wish.paused = false;
	k->wish.capture_kind = CHECKPOINT_TAKE; /* of one that still waits */
	if (checkpoint_busy(&k->checkpoint) && k->checkpoint.kind == CHECKPOINT_TAKE_LAST)
		k->checkpoint.kind = CHECKPOINT_TAKE;
	keeper_pursue(k);
}

static void wish_open(struct keeper *k)
{
	k->wish.open = true;
	keeper_capture_over(k);
	k->wish.capture = k->wish.hold = false; /* what still waits for the guest is of a session that ends */
	rpl_disk_start(k->disk, RPL_DISK_DRAIN, 0); /* the output follows when the store has everything */
}

static void do_guest(struct keeper *k, const struct rpl_action *a)
{
	switch (a->kind) {
	case RPL_ACT_HOLD:
		k->wish.open = false;
		k->wish.hold = true;
		k->wish.hold_epoch = a->u.epoch.epoch;
		keeper_pursue(k);
		break;
	case RPL_ACT_CHECKPOINT:
		wish_capture(k, a->u.checkpoint.stay_paused ? CHECKPOINT_TAKE_LAST : CHECKPOINT_TAKE,
			     a->u.checkpoint.epoch);
		break;
	case RPL_ACT_GUEST_PAUSE:
		k->wish.paused = true;
		k->wish.capture_resumes = false;
		keeper_pursue(k);
		break;
	case RPL_ACT_GUEST_RESUME:
		wish_running(k);
		break;
	case RPL_ACT_GUEST_KILL:
		k->wish.kill = true;
		keeper_pursue(k);
		break;
	case RPL_ACT_GUEST_ACTIVATE:
		standby_activate(k, a->u.epoch.epoch);
		break;
	case RPL_ACT_ANNOUNCE:
		k->wish.announce = true;
		keeper_pursue(k);
		break;
	case RPL_ACT_GUEST_LOOK:
		k->wish.look = true;
		keeper_pursue(k);
		break;
	default: /* GUEST_BOOT, GUEST_POWERDOWN */
		keeper_alarm(k, "this backend cannot start or shut down a guest by itself: use its own tools, then "
				"`replicad protect`");
		keeper_say(k, RPL_EV_GUEST_FAILED);
	}
}

/* Since the last pause began; a guest that died hands over without one. */
static uint64_t paused_us(const struct keeper *k)
{
	return k->paused ? (rpl_now_ns() - k->checkpoint.times.begun_ns) / 1000 : 0;
}

static void do_session(struct keeper *k, const struct rpl_action *a)
{
	const struct rpl_uuid *session = &a->u.session.session;

	switch (a->kind) {
	case RPL_ACT_SESSION_START:
		session_start(k, session, a->u.session.generation);
		break;
	case RPL_ACT_SESSION_RESEND: /* the mover does it by itself when the peer is ready: it knows what was staged */
		break;
	case RPL_ACT_SESSION_END:
		session_end(k);
		break;
	case RPL_ACT_SEND_HANDOVER:
		rpl_fault_die(RPL_FAULT_DIE_HANDOVER_UNSENT);
		movers_send(k->movers, RPL_MOVER_SEND, a->u.link.epoch, RPL_FRAME_HANDOVER, paused_us(k), &a->u.link.session);
		rpl_fault_die(RPL_FAULT_DIE_HANDOVER_SENT);
		break;
	case RPL_ACT_SEND_FORGET:
		movers_send(k->movers, RPL_MOVER_SEND, 0, RPL_FRAME_FORGET, 0, session);
		break;
	case RPL_ACT_TELL_FLUSHED:
		movers_send(k->movers, RPL_MOVER_SEND, a->u.link.epoch, RPL_FRAME_FLUSHED, 0, &a->u.link.session);
		break;
	case RPL_ACT_SESSION_ACCEPT:
		standby_accept(k, session);
		break;
	case RPL_ACT_SESSION_REFUSE:
		standby_refuse_session(k, session);
		break;
	case RPL_ACT_SESSION_CONTINUE: /* the mover knows what it staged and acked */
		standby_accept(k, &a->u.link.session);
		break;
	default: /* ACK */
		movers_send(k->movers, RPL_MOVER_ACK, a->u.link.epoch, 0, 0, &a->u.link.session);
		rpl_fault_die(RPL_FAULT_DIE_KEEPER_S4_ACKED);
	}
}

static void do_store(struct keeper *k, const struct rpl_action *a)
{
	switch (a->kind) {
	case RPL_ACT_FLUSH:
		rpl_disk_start(k->disk, RPL_DISK_FLUSH, a->u.epoch.epoch);
		break;
	case RPL_ACT_REDO_APPLY:
		rpl_disk_start(k->disk, RPL_DISK_FLUSH, a->u.epoch.epoch);
		break;
	case RPL_ACT_REDO_TRIM:
		rpl_disk_start(k->disk, RPL_DISK_TRIM, a->u.epoch.epoch);
		break;
	case RPL_ACT_STORE_PROMOTE:
		rpl_disk_start(k->disk, RPL_DISK_PROMOTE, a->u.epoch.epoch);
		break;
	case RPL_ACT_STORE_DISCARD:
		rpl_disk_start(k->disk, RPL_DISK_DEMOTE, 0);
		break;
	default: /* COLLECT, REPLAY: a cold start boots from a store, and the disk backend `none` has none */
		keeper_alarm(k, "there is no store here to start the guest from: boot it with its own tools, then "
				"`replicad protect`");
		keeper_event(k, &(struct rpl_event){ .kind = RPL_EV_STORE_FAILED, .u.failed.action = a->kind });
	}
}

void keeper_claim_fault(enum rpl_claim_kind kind, enum claim_moment moment)
{
	static const enum rpl_fault first[RPL_CLAIM_N] = {
		[RPL_CLAIM_CREATE] = RPL_NFAULTS, /* nothing is protected yet */
		[RPL_CLAIM_SOLO] = RPL_FAULT_DIE_CLAIM_SOLO_UNSENT,
		[RPL_CLAIM_TAKEOVER] = RPL_FAULT_DIE_CLAIM_TAKEOVER_UNSENT,
		[RPL_CLAIM_ARM] = RPL_FAULT_DIE_CLAIM_ARM_UNSENT,
		[RPL_CLAIM_DOWN] = RPL_FAULT_DIE_CLAIM_DOWN_UNSENT,
	};

	if (first[kind] != RPL_NFAULTS)
		rpl_fault_die((enum rpl_fault)(first[kind] + moment));
}

static void do_claim(struct keeper *k, const struct rpl_action *a)
{
	k->at.claim_sent = rpl_now_ns();
	rpl_log(RPL_LOG_INFO, "vm=%s claim=%s expect_gen=%llu gen=%llu", k->conf.vm, rpl_claim_name(a->u.claim.kind),
		(unsigned long long)a->u.claim.expect.generation, (unsigned long long)a->u.claim.want.generation);
	keeper_claim_fault(a->u.claim.kind, CLAIM_UNSENT);
	keeper_arbiter_claim(k, a);
	keeper_claim_fault(a->u.claim.kind, CLAIM_SENT);
}

static void do_people(struct keeper *k, const struct rpl_action *a)
{
	if (a->kind == RPL_ACT_STATE) {
		listener_on_state(k);
		standby_on_state(k);
		keeper_tell_state(k, a);
		session_tell_owner(k, a);
		if (a->u.state.to == RPL_ST_P_PROTECTED)
			session_tell_record(k);
		if (a->u.state.from == RPL_ST_P_ARM && a->u.state.to == RPL_ST_P_PROTECTED)
			hold_tell(k);
	} else if (a->kind == RPL_ACT_ALARM) {
		keeper_alarm(k, rpl_reason_text(a->u.reason.reason));
	} else {
		json_decref(k->reply);
		k->reply = a->u.reply.ok ? json_pack("{s:b}", "ok", 1) :
					   control_refusal("refused", rpl_reason_text(a->u.reply.reason));
	}
}

void keeper_perform(struct keeper *k, const struct rpl_action *a)
{
	switch (a->kind) {
	case RPL_ACT_READ_RECORD:
		keeper_arbiter_read(k);
		break;
	case RPL_ACT_CLAIM:
		do_claim(k, a);
		break;
	case RPL_ACT_RELEASE:
		rpl_fault_die(RPL_FAULT_DIE_KEEPER_S5);
		rpl_netbuf_release(k->netbuf, a->u.epoch.epoch);
		rpl_fault_die(RPL_FAULT_DIE_KEEPER_S5_RELEASED);
		break;
	case RPL_ACT_OPEN:
		wish_open(k);
		break;
	case RPL_ACT_DROP_OUTPUT:
		k->wish.open = false;
		rpl_netbuf_drop(k->netbuf);
		break;
	case RPL_ACT_HOLD:
	case RPL_ACT_CHECKPOINT:
	case RPL_ACT_GUEST_PAUSE:
	case RPL_ACT_GUEST_RESUME:
	case RPL_ACT_GUEST_KILL:
	case RPL_ACT_GUEST_POWERDOWN:
	case RPL_ACT_GUEST_ACTIVATE:
	case RPL_ACT_GUEST_BOOT:
	case RPL_ACT_GUEST_LOOK:
	case RPL_ACT_ANNOUNCE:
		do_guest(k, a);
		break;
	case RPL_ACT_SESSION_START:
	case RPL_ACT_SESSION_RESEND:
	case RPL_ACT_SESSION_END:
	case RPL_ACT_SEND_HANDOVER:
	case RPL_ACT_SEND_FORGET:
	case RPL_ACT_TELL_FLUSHED:
	case RPL_ACT_SESSION_ACCEPT:
	case RPL_ACT_SESSION_CONTINUE:
	case RPL_ACT_SESSION_REFUSE:
	case RPL_ACT_ACK:
		do_session(k, a);
		break;
	case RPL_ACT_FREEZE:
		standby_freeze(k);
		break;
	case RPL_ACT_FORGET_REPLICA:
		standby_forget(k);
		break;
	case RPL_ACT_FLUSH:
	case RPL_ACT_REDO_APPLY:
	case RPL_ACT_REDO_TRIM:
	case RPL_ACT_STORE_PROMOTE:
	case RPL_ACT_STORE_DISCARD:
	case RPL_ACT_COLLECT:
	case RPL_ACT_REPLAY:
		do_store(k, a);
		break;
	case RPL_ACT_REPLY:
	case RPL_ACT_STATE:
	case RPL_ACT_ALARM:
		do_people(k, a);
		break;
	case RPL_ACT_N:
		rpl_assert(!"an action");
	}
}
