/* core_int.h - what the files of failover/core share; see core.c for the theory of operation */
#ifndef RPL_CORE_INT_H
#define RPL_CORE_INT_H

#include <replicad/core.h>

/* A rule of replicad-protocol(7) as a guard. -DRPL_BREAK_R1 (... R10, R2b) makes exactly that guard let everything
 * pass, so that the simulator can show what the rule is for. Such a build is for tests only.
 */
#ifdef RPL_BREAK_R1
#define RPL_BROKEN_R1 1
#else
#define RPL_BROKEN_R1 0
#endif
#ifdef RPL_BREAK_R2
#define RPL_BROKEN_R2 1
#else
#define RPL_BROKEN_R2 0
#endif
#ifdef RPL_BREAK_R2b
#define RPL_BROKEN_R2b 1
#else
#define RPL_BROKEN_R2b 0
#endif
#ifdef RPL_BREAK_R3
#define RPL_BROKEN_R3 1
#else
#define RPL_BROKEN_R3 0
#endif
#ifdef RPL_BREAK_R4
#define RPL_BROKEN_R4 1
#else
#define RPL_BROKEN_R4 0
#endif
#ifdef RPL_BREAK_R5
#define RPL_BROKEN_R5 1
#else
#define RPL_BROKEN_R5 0
#endif
#ifdef RPL_BREAK_R6
#define RPL_BROKEN_R6 1
#else
#define RPL_BROKEN_R6 0
#endif
#ifdef RPL_BREAK_R7
#define RPL_BROKEN_R7 1
#else
#define RPL_BROKEN_R7 0
#endif
#ifdef RPL_BREAK_R8
#define RPL_BROKEN_R8 1
#else
#define RPL_BROKEN_R8 0
#endif
#ifdef RPL_BREAK_R9
#define RPL_BROKEN_R9 1
#else
#define RPL_BROKEN_R9 0
#endif
#ifdef RPL_BREAK_R10
#define RPL_BROKEN_R10 1
#else
#define RPL_BROKEN_R10 0
#endif
#define RPL_RULE(rule, cond) (RPL_BROKEN_##rule || (cond))

#define ST(name) (UINT32_C(1) << RPL_ST_##name)
_Static_assert(RPL_ST_N <= 32, "a set of states is one 32-bit word");

static inline bool in_states(const struct rpl_core *c, uint32_t set)
{
	return set >> c->state & 1;
}

static inline bool has_store(const struct rpl_core *c)
{
	return c->conf.store != RPL_STORE_NONE;
}

/* R8: the record says that the peer owns the VM. It can only say so in a generation newer than any of ours. */
static inline bool peer_owns(const struct rpl_core *c)
{
	return c->rec_known && strncmp(c->rec.owner, c->conf.self, RPL_NODE_NAME) != 0;
}

/* ---- core.c: the small change */
struct rpl_action *rpl_core_act(struct rpl_actions *out, enum rpl_action_kind kind);
void rpl_core_act_epoch(struct rpl_actions *out, enum rpl_action_kind kind, uint64_t epoch);
void rpl_core_act_link(struct rpl_core *c, struct rpl_actions *out, enum rpl_action_kind kind, uint64_t epoch);
void rpl_core_act_session(struct rpl_core *c, struct rpl_actions *out, enum rpl_action_kind kind,
			  const struct rpl_uuid *session);
void rpl_core_enter(struct rpl_core *c, struct rpl_actions *out, enum rpl_state to, enum rpl_reason why);
void rpl_core_alarm(struct rpl_core *c, struct rpl_actions *out, enum rpl_reason why);
void rpl_core_reply(struct rpl_actions *out, bool ok, enum rpl_reason why);
void rpl_core_draw(struct rpl_core *c, struct rpl_uuid *ret); /* a uuid never drawn before */
bool rpl_core_due(const struct rpl_core *c);                  /* retry_at_ns is set and has come */
void rpl_core_retry_later(struct rpl_core *c);

typedef void rpl_core_handler(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out);
typedef void rpl_core_pump(struct rpl_core *c, struct rpl_actions *out);

/* ---- claim.c: one claim at a time, its outcome settled before anything else is decided (R6) */
void rpl_core_read(struct rpl_core *c, struct rpl_actions *out);
bool rpl_core_unresolved(const struct rpl_core *c); /* a claim was sent and its outcome is not known */
void rpl_core_claim(struct rpl_core *c, struct rpl_actions *out, enum rpl_claim_kind kind);
rpl_core_handler rpl_core_on_record, rpl_core_on_record_absent, rpl_core_on_record_unknown;
rpl_core_handler rpl_core_on_claim_granted, rpl_core_on_claim_refused, rpl_core_on_claim_unknown;
rpl_core_pump rpl_core_pump_unresolved; /* read again when retry_at_ns has come */

/* ---- start.c: (re)start, and operator's commands */
rpl_core_handler rpl_core_on_start, rpl_core_on_command;
rpl_core_pump rpl_core_pump_start;
void rpl_core_start_decide(struct rpl_core *c, struct rpl_actions *out, bool present);

/* ---- primary.c: with a session: copy, arm, protect, stall, drain */
rpl_core_handler rpl_core_on_captured, rpl_core_on_capture_failed, rpl_core_on_held, rpl_core_on_opened;
rpl_core_handler rpl_core_on_buffer_full, rpl_core_on_journaled, rpl_core_on_flushed, rpl_core_on_connected;
rpl_core_handler rpl_core_on_link_up, rpl_core_on_link_down, rpl_core_on_session_lost, rpl_core_on_sync_ready, rpl_core_on_ack;
rpl_core_handler rpl_core_on_heard_primary, rpl_core_on_peer_generation;
rpl_core_pump rpl_core_pump_solo, rpl_core_pump_sync, rpl_core_pump_arm, rpl_core_pump_protected;
rpl_core_pump rpl_core_pump_stalled, rpl_core_pump_drain;
uint64_t rpl_core_session_deadline(const struct rpl_core *c);
void rpl_core_commit(struct rpl_core *c, struct rpl_actions *out);
void rpl_core_disarm(struct rpl_core *c, struct rpl_actions *out, enum rpl_reason why);
void rpl_core_end_session(struct rpl_core *c, struct rpl_actions *out, bool forget);

/* ---- owner.c: without one: solo, claiming, lost, down, deposed */
rpl_core_handler rpl_core_on_guest_shutdown, rpl_core_on_guest_crashed, rpl_core_on_guest_died;
rpl_core_handler rpl_core_on_guest_changed, rpl_core_on_guest_fit, rpl_core_on_guest_unfit;
rpl_core_handler rpl_core_on_guest_killed, rpl_core_on_store_discarded;
rpl_core_pump rpl_core_pump_claim, rpl_core_pump_lost, rpl_core_pump_down;
/* Whether the guest must be looked at before a session; asks for that when it is time. */
bool rpl_core_look_first(struct rpl_core *c, struct rpl_actions *out);
void rpl_core_become_solo(struct rpl_core *c, struct rpl_actions *out, enum rpl_reason why);
void rpl_core_want_solo(struct rpl_core *c, struct rpl_actions *out, enum rpl_reason why);
void rpl_core_depose(struct rpl_core *c, struct rpl_actions *out, enum rpl_reason why);
void rpl_core_guest_lost(struct rpl_core *c, struct rpl_actions *out);
void rpl_core_guest_down(struct rpl_core *c, struct rpl_actions *out);
void rpl_core_close_output(struct rpl_core *c, struct rpl_actions *out);
bool rpl_core_overtaken(struct rpl_core *c, struct rpl_actions *out);
uint64_t rpl_core_owner_deadline(const struct rpl_core *c);
void rpl_core_armed(struct rpl_core *c, struct rpl_actions *out);

/* ---- backup.c */
rpl_core_handler rpl_core_on_session_open, rpl_core_on_staged, rpl_core_on_peer_flushed, rpl_core_on_redo_applied;
rpl_core_handler rpl_core_on_handover, rpl_core_on_forget, rpl_core_on_replica_lost, rpl_core_on_frozen;
rpl_core_handler rpl_core_on_heard_backup, rpl_core_on_link_down_backup, rpl_core_on_store_promoted, rpl_core_on_guest_running;
rpl_core_handler rpl_core_on_guest_stillborn;
rpl_core_pump rpl_core_pump_backup, rpl_core_pump_suspect, rpl_core_pump_takeover;
void rpl_core_offer_decide(struct rpl_core *c, struct rpl_actions *out);
uint64_t rpl_core_backup_deadline(const struct rpl_core *c);
void rpl_core_took_over(struct rpl_core *c, struct rpl_actions *out);
void rpl_core_suspect(struct rpl_core *c, struct rpl_actions *out, enum rpl_reason why);
void rpl_core_promote(struct rpl_core *c, struct rpl_actions *out, enum rpl_reason why);
void rpl_core_forget(struct rpl_core *c, struct rpl_actions *out, enum rpl_reason why);

/* ---- work.c */
void rpl_core_begin(struct rpl_core *c, struct rpl_actions *out, enum rpl_action_kind work);
bool rpl_core_done(struct rpl_core *c, enum rpl_action_kind work); /* it was under way, and now is done */
rpl_core_handler rpl_core_on_store_failed, rpl_core_on_guest_failed;
rpl_core_pump rpl_core_pump_work;
uint64_t rpl_core_work_deadline(const struct rpl_core *c);

/* ---- cold.c */
rpl_core_handler rpl_core_on_collected, rpl_core_on_replayed;
rpl_core_pump rpl_core_pump_idle, rpl_core_pump_collect, rpl_core_pump_cold_claim;
void rpl_core_cold_start(struct rpl_core *c, struct rpl_actions *out, enum rpl_reason why);
uint64_t rpl_core_cold_deadline(const struct rpl_core *c);

#endif
