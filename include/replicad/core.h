/* core.h - the protection state machine: step(state, event) -> state, actions
 *
 * Pure: no socket, no clock, no allocation, no pointer in the state (it may be copied with memcpy and compared).
 * The shell around it (the keeper) carries out the actions and reports what happened as events. The same code runs
 * in production and in the simulator. States, rules (R1..R10), invariants (I1..I11): replicad-protocol(7).
 *
 * The contract between core and shell:
 *  - Events are delivered one at a time, with the current monotonic time in now_ns. Time never goes back.
 *  - The actions of one step are begun in the order given. An action with an answer ("-> EV_X") completes later;
 *    the others are complete (or queued so that nothing overtakes them) before the next one begins.
 *  - Every READ_RECORD and CLAIM is answered exactly once; the arbiter's client bounds the wait (-> ..._UNKNOWN).
 *  - Timers are derived: after each step the shell arms one timer for rpl_core_deadline() and sends EV_TIMER then.
 *    An early or late EV_TIMER is harmless.
 *  - Answers of work that the core has meanwhile called off may still arrive: they are recognised and ignored.
 *  - Heartbeats are the shell's (the mover's) job while a session is open; after SESSION_END and FREEZE none is sent.
 */
#ifndef REPLICAD_CORE_H
#define REPLICAD_CORE_H

#include <stdbool.h>
#include <stdint.h>

#include <replicad/durability.h>
#include <replicad/record.h>

/* ---- states */
#define RPL_STATES(X)                                                                                        \
	X(START, "started; the record is being read before anything else is decided")                       \
	X(IDLE, "nothing here: no guest, no replica; ready to become a backup or to cold start")             \
	X(P_SOLO, "the guest runs here, unprotected; output and FLUSH go straight through")                  \
	X(P_SYNC, "a session copies store and RAM; output and store writes still flow")                      \
	X(P_ARM, "output held; waits for the first ack, then for the record to say PROTECTED")               \
	X(P_PROTECTED, "checkpoints flow; output leaves on acks only")                                       \
	X(P_STALLED, "an ack is overdue; nothing is sealed beyond what the buffers allow")                          \
	X(P_CLAIM, "SOLO is being claimed; output stays held until it is won (\"awaiting arbiter\")")        \
	X(P_DRAIN, "planned switchover: paused, final epoch acked and flushed, then the backup claims")      \
	X(P_LOST, "the guest's memory is gone while the record says PROTECTED here: the backup is to claim") \
	X(P_DOWN, "the guest shut down on purpose: DOWN is being claimed")                                   \
	X(P_DEPOSED, "the peer owns a newer generation: kill, drop, discard (R8)")                           \
	X(B_SEED, "backup, replica not yet complete")                                                        \
	X(B_READY, "backup with one complete replica")                                                       \
	X(B_SUSPECT, "the primary is silent or handed over: frozen, never acks again")                       \
	X(B_CLAIM, "the takeover is being claimed")                                                          \
	X(B_PROMOTE, "takeover won: store promoted, guest activated")                                        \
	X(C_COLLECT, "cold start: finding out whether the disk here holds all that was acknowledged")        \
	X(C_CLAIM, "cold start: claiming from the exact record that was read")                               \
	X(C_REPLAY, "cold start won: redo is replayed, the guest boots")

enum rpl_state {
#define X(name, text) RPL_ST_##name,
	RPL_STATES(X)
#undef X
	RPL_ST_N
};

/* ---- events: X(NAME, argument of struct rpl_event used, meaning) */
#define RPL_EVENTS(X)                                                                                                  \
	X(START, start, "the shell is up and says what it found; the first event, once")                             \
	X(TIMER, none, "the deadline has come")                                                                      \
	/* the operator; each is answered by REPLY in the same step */                                               \
	X(CMD_PROTECT, none, "protection is wanted from now on")                                                     \
	X(CMD_UNPROTECT, none, "protection is no longer wanted")                                                     \
	X(CMD_SWITCHOVER, none, "hand the guest over to the backup")                                                 \
	X(CMD_SOLO, cmd, "the peer is dead, says the operator: claim SOLO from that generation")                     \
	X(CMD_TAKEOVER, cmd, "the peer is dead, says the operator: take over from that generation")                  \
	X(CMD_ACCEPT_LOSS, cmd, "run from what is here although acknowledged data may be lost")                      \
	X(CMD_SHUTDOWN, none, "shut the guest down for good")                                                        \
	X(CMD_START, none, "boot a guest that is down")                                                              \
	/* the arbiter */                                                                                            \
	X(RECORD, record, "the record as just read")                                                                 \
	X(RECORD_ABSENT, none, "read: there is no record yet")                                                       \
	X(RECORD_UNKNOWN, none, "the read failed: arbiter away, or a format that we do not know")                    \
	X(CLAIM_GRANTED, record, "our claim succeeded; the record as it now stands")                                 \
	X(CLAIM_REFUSED, record, "our claim did not and will not succeed; the record as it stands")                  \
	X(CLAIM_UNKNOWN, none, "no answer: the claim may have succeeded, may still do so, or neither (R6)")          \
	/* the guest */                                                                                              \
	X(CAPTURED, epoch, "checkpoint `epoch` is in the arena and the guest resumed (unless it was to stay paused)") \
	X(CAPTURE_FAILED, epoch, "it could not be taken; the guest runs, the tracker's knowledge is void")           \
	X(GUEST_RUNNING, none, "answer to GUEST_ACTIVATE and GUEST_BOOT")                                            \
	X(GUEST_FAILED, none, "activation or boot failed; may be tried again")                                       \
	X(GUEST_SHUTDOWN, none, "the guest powered itself off, or an operator had it do so")                         \
	X(GUEST_CRASHED, none, "the guest's system crashed (panic event); its process lives")                        \
	X(GUEST_RESET, none, "the guest rebooted; protection goes on")                                               \
	X(GUEST_CHANGED, none, "a device was plugged or changed: its checkpoints fit the standby no more")            \
	X(GUEST_FIT, none, "answer to GUEST_LOOK: as it is now it may be protected")                                  \
	X(GUEST_UNFIT, none, "answer to GUEST_LOOK: it may not, or changed again; may be tried again")                \
	X(GUEST_DIED, none, "its process ended without a shutdown event, or lost its overlay: the memory is gone")   \
	X(GUEST_KILLED, none, "answer to GUEST_KILL: surely gone")                                                   \
	/* output and disk of the primary */                                                                         \
	X(HELD, held, "answer to HOLD: from this point of `epoch` on output and disk writes are held")               \
	X(OPENED, none, "answer to OPEN: overlay drained and synced, held output sent, both pass straight through")  \
	X(BUFFER_FULL, none, "a buffer that may not drop is at its cap")                                             \
	X(JOURNALED, epoch, "durability=both: redo <= `epoch` is on this host's own disk")                           \
	X(FLUSHED, flushed, "answer to FLUSH: our store holds epochs <= `epoch`, synced")                            \
	/* the session, seen from the primary */                                                                     \
	X(CONNECTED, none, "the peer's host took the connection; the peer itself has not answered on it yet")          \
	X(LINK_UP, link, "connected; the backup says it holds `session` and acked `epoch` (0: nothing yet)")         \
	X(LINK_DOWN, none, "the connection is gone; the shell reconnects by itself until SESSION_END. The backup's, too") \
	X(SESSION_LOST, lost, "the peer refused the session or no longer holds its state")                           \
	X(SYNC_READY, session, "store resynced and RAM rounds converged: time to arm")                               \
	X(ACK, link, "the backup's ack of `epoch`, decoded")                                                         \
	X(HEARD, heard, "something came from the peer (heartbeats count)")                                           \
	X(PEER_GENERATION, cmd, "the peer spoke of this generation")                                                 \
	/* the session, seen from the backup */                                                                      \
	X(SESSION_OPEN, open, "the primary begins or continues `session` -> SESSION_ACCEPT, _CONTINUE, _REFUSE")     \
	X(STAGED, staged, "epoch `epoch` arrived; `checks` says how far it is safe")                                 \
	X(PEER_FLUSHED, link, "the primary says: both stores hold epochs <= `epoch` (store=drbd)")                   \
	X(REDO_APPLIED, epoch, "answer to REDO_APPLY: our store holds epochs <= `epoch`, synced (store=plain)")      \
	X(HANDOVER, link, "the primary gives the guest away: take over from `epoch` now")                            \
	X(FORGET, session, "the primary says: this session will never be needed")                                    \
	X(REPLICA_LOST, none, "the standby guest or its memory is gone")                                             \
	X(FROZEN, none, "answer to FREEZE: connections shut, mover reaped, store link cut")                          \
	/* promotion, demotion, cold start */                                                                        \
	X(STORE_PROMOTED, none, "answer to STORE_PROMOTE")                                                           \
	X(STORE_FAILED, failed, "STORE_PROMOTE, STORE_DISCARD, COLLECT or REPLAY failed; may be tried again")          \
	X(STORE_DISCARDED, none, "answer to STORE_DISCARD")                                                          \
	X(COLLECTED, collected, "answer to COLLECT: what a cold start here would boot from")                         \
	X(REPLAYED, none, "answer to REPLAY")

enum rpl_event_kind {
#define X(name, arg, text) RPL_EV_##name,
	RPL_EVENTS(X)
#undef X
	RPL_EV_N
};

/* ---- actions: X(NAME, argument of struct rpl_action used, meaning) */
#define RPL_ACTIONS(X)                                                                                                 \
	/* the arbiter */                                                                                            \
	X(READ_RECORD, none, "read the record -> RECORD, RECORD_ABSENT, RECORD_UNKNOWN")                             \
	X(CLAIM, claim, "compare-and-swap `expect` to `want` -> CLAIM_GRANTED, _REFUSED, _UNKNOWN")                  \
	/* the session, primary */                                                                                   \
	X(SESSION_START, session, "connect, hello with `session` and `generation`, resync store, copy RAM in rounds " \
				  "until converged -> LINK_UP, then SYNC_READY, or SESSION_LOST")                    \
	X(SESSION_RESEND, epoch, "resumed after a reconnect: send the arena's epochs > `epoch` again, in order")     \
	X(SESSION_END, session, "close connections, end the mover, stop heartbeats; nothing of `session` is used again") \
	X(SEND_HANDOVER, link, "tell the backup to take over from `epoch` now; precedes SESSION_END")                \
	X(SEND_FORGET, session, "tell the backup that `session` will never be needed; precedes SESSION_END")         \
	X(TELL_FLUSHED, link, "tell the backup that both stores hold epochs <= `epoch`")                             \
	/* epochs, primary */                                                                                        \
	X(HOLD, epoch, "close the output, wait until its old backlog is 0, start the overlay; the guest may run -> HELD") \
	X(CHECKPOINT, checkpoint, "pause; drain block I/O; seal overlay and output as `epoch`; stage dirty pages and " \
				  "device state; resume unless stay_paused; then send -> CAPTURED, CAPTURE_FAILED")  \
	X(RELEASE, epoch, "send held output of epochs <= `epoch`")                                                   \
	X(OPEN, none, "stop holding: drain the overlay into the store and sync it, then send all held output in order, " \
		      "then pass straight through; calls off HOLD -> OPENED")                                        \
	X(DROP_OUTPUT, none, "throw held output away; stay closed")                                                  \
	X(FLUSH, epoch, "write sealed overlay epochs <= `epoch` to the store and sync it -> FLUSHED")                \
	/* the guest */                                                                                              \
	X(GUEST_PAUSE, none, "pause it, noting \"paused by us\"")                                                    \
	X(GUEST_RESUME, none, "resume it (harmless if it runs)")                                                     \
	X(GUEST_KILL, none, "end its process for sure -> GUEST_KILLED, also if there is none")                       \
	X(GUEST_POWERDOWN, none, "ask it to shut down -> GUEST_SHUTDOWN, in its own time")                           \
	X(GUEST_ACTIVATE, epoch, "fold staged epochs <= `epoch`, start output open, run the standby "                \
				 "-> GUEST_RUNNING, GUEST_FAILED")                                                   \
	X(GUEST_BOOT, none, "boot it from its disk, output open -> GUEST_RUNNING, GUEST_FAILED")                     \
	X(GUEST_LOOK, none, "inspect the running guest anew, as for a first protection -> GUEST_FIT, GUEST_UNFIT")     \
	X(ANNOUNCE, none, "gratuitous ARP and unsolicited neighbour advertisements")                                 \
	/* the backup */                                                                                             \
	X(SESSION_ACCEPT, session, "make room for a fresh replica and let the primary send")                         \
	X(SESSION_CONTINUE, link, "a reconnect of the session that we hold: go on, and say that we acked `epoch`")   \
	X(SESSION_REFUSE, session, "send the peer away that offered `session`; it may try again")                    \
	X(ACK, link, "send the ack of `epoch`")                                                                      \
	X(REDO_APPLY, epoch, "store=plain: write redo <= `epoch` to our store, sync -> REDO_APPLIED")                \
	X(REDO_TRIM, epoch, "forget redo <= `epoch`, in memory and journal")                                         \
	X(FREEZE, none, "shut the connections, kill and reap the mover, cut the store link -> FROZEN")               \
	X(FORGET_REPLICA, none, "end session and mover, throw replica and staged epochs away, drop the standby guest; redo " \
				 "on disk stays until the next SESSION_ACCEPT: a cold start of the peer may need it") \
	/* promotion, demotion, cold start */                                                                        \
	X(STORE_PROMOTE, epoch, "promote our store, apply redo <= `epoch`, sync -> STORE_PROMOTED, STORE_FAILED")    \
	X(STORE_DISCARD, none, "demote our store and give up its content for the peer's -> STORE_DISCARDED, STORE_FAILED") \
	X(COLLECT, session, "look at store and journal here, fetch what the peer has of `session`, the record's. A clean " \
			    "store gets no redo; an overlay that outlived its guest is redo of its session "         \
			    "-> COLLECTED, STORE_FAILED")                                                    \
	X(REPLAY, none, "promote our store, apply the collected redo, sync -> REPLAYED, STORE_FAILED")               \
	/* telling people */                                                                                         \
	X(REPLY, reply, "answer to the command of this step")                                                        \
	X(STATE, state, "log and publish the change; every change of state, before the actions that follow from it") \
	X(ALARM, reason, "log and publish: something an operator should know, state unchanged")

enum rpl_action_kind {
#define X(name, arg, text) RPL_ACT_##name,
	RPL_ACTIONS(X)
#undef X
	RPL_ACT_N
};

enum rpl_found { /* what the shell found at its start */
	RPL_FOUND_NONE,
	RPL_FOUND_RUNNING,
	RPL_FOUND_PAUSED, /* paused by an earlier life of this shell: it is resumed at once */
};

/* STAGED.checks (R9): an ack needs all of them; JOURNALED only with durability journal or both and a disk */
#define RPL_STAGED_WHOLE 1u     /* every byte of the epoch arrived */
#define RPL_STAGED_DIGEST 2u    /* its digest matched */
#define RPL_STAGED_SEALED 4u    /* it lies where the activator finds it, header sealed */
#define RPL_STAGED_JOURNALED 8u /* its redo is synced on this host's disk */

struct rpl_event {
	enum rpl_event_kind kind;
	uint64_t now_ns; /* CLOCK_MONOTONIC, or virtual */
	union {
		struct {
			enum rpl_found guest;
			bool memory_ours;  /* that guest process is the one that ran here under the last record we knew */
			bool output_open;  /* the output buffer lives and passes straight through; false: held or unknown */
			bool want;         /* protection is wanted */
			bool down;         /* an earlier life of this shell saw the guest shut down on purpose */
			bool replica;      /* a complete replica is here, whole and never yet activated */
			struct rpl_uuid session;  /* the replica's session */
			uint64_t epoch;    /* the replica's last acked epoch; else the highest epoch anything here knows */
		} start;
		struct {
			struct rpl_record record;
		} record;
		struct {
			uint64_t generation;
			bool peer_is_dead; /* CMD_ACCEPT_LOSS: the operator vouches that nothing of the peer still runs */
		} cmd;
		struct {
			uint64_t epoch;
		} epoch;
		struct {
			uint64_t epoch;
			uint64_t resumed_ns; /* when the guest was told to go on, which the interval counts from; 0: now */
		} captured;
		struct {
			uint64_t epoch;
			bool in_sync; /* the peer's store holds every write that ours held at that point; true without a disk */
		} held;
		struct {
			uint64_t epoch;
			bool peer_has; /* drbd: Connected and peer UpToDate without a break from the first write to the flush */
		} flushed;
		struct {
			struct rpl_uuid session;
		} session;
		struct {
			struct rpl_uuid session;
			bool gone; /* the peer itself says that it holds nothing of it, and it has heard of no generation newer than ours */
		} lost;
		struct {
			struct rpl_uuid session;
			uint64_t epoch;
		} link;
		struct {
			struct rpl_uuid session;
			uint64_t generation;
			bool resume; /* the primary has been connected in this session before: it can only be continued */
		} open;
		struct {
			uint64_t progress; /* checkpoint bytes the peer has received in this session; 0 if unknown */
		} heard;
		struct {
			struct rpl_uuid session;
			uint64_t epoch;
			uint32_t checks; /* RPL_STAGED_* */
		} staged;
		struct {
			enum rpl_action_kind action; /* which of the four */
		} failed;
		struct {
			bool store_clean;        /* own store alone is complete: when it stopped no overlay was in use, or
						  * one of another session than COLLECT's, whose arming was never won */
			bool redo_complete;      /* store and journal, own or the peer's, hold all that was ever acked of ... */
			struct rpl_uuid session; /* ... this session */
		} collected;
	} u;
};

#define RPL_CLAIMS(X)                                                                              \
	X(CREATE, "first use: there must be no record yet; `expect` is not looked at")             \
	X(SOLO, "from a record that we own")                                                       \
	X(TAKEOVER, "from {PROTECTED, our session, owner peer}; cold start: from a record of the peer's") \
	X(ARM, "from {SOLO, owner us} to PROTECTED")                                               \
	X(DOWN, "from a record that we own")

enum rpl_claim_kind {
#define X(name, text) RPL_CLAIM_##name,
	RPL_CLAIMS(X)
#undef X
	RPL_CLAIM_N
};

#define RPL_REASONS(X)                                                          \
	X(NONE, "as asked")                                                     \
	X(STARTED, "started")                                                   \
	X(FIRST_USE, "first use of this VM")                                    \
	X(OPERATOR, "an operator asked for it")                                 \
	X(WANTED, "protection is wanted")                                       \
	X(SYNCED, "copy converged")                                             \
	X(CLAIM_WON, "claim won")                                               \
	X(CLAIM_LOST, "claim lost")                                             \
	X(ARBITER_AWAY, "awaiting arbiter")                                     \
	X(ARM_TIMEOUT, "no ack or no claim within arm_timeout")                 \
	X(STORE_OUT_OF_SYNC, "the peer's store is not in sync")                 \
	X(ACK_OVERDUE, "ack overdue")                                           \
	X(ACKED, "acks flow again")                                             \
	X(SUSPECT, "peer silent beyond suspect")                                \
	X(SESSION_LOST, "session lost")                                         \
	X(LINK_DOWN, "connection lost while copying")                           \
	X(CAPTURE_FAILED, "a checkpoint could not be taken")                    \
	X(GUEST_LOST, "the guest's process or memory is gone")                  \
	X(GUEST_DOWN, "the guest shut down on purpose")                         \
	X(GUEST_CRASHED, "the guest's system crashed")                          \
	X(GUEST_FAILED, "the guest could not be started; trying again")         \
	X(GUEST_CHANGED, "a device of the guest changed")                       \
	X(GUEST_UNFIT, "the guest as it is now cannot be protected; looking again") \
	X(HANDOVER, "handed over by the primary")                               \
	X(HANDED_OVER, "handed over to the backup")                             \
	X(DRAIN_TIMEOUT, "switchover not finished in time")                     \
	X(PEER_OWNS, "the peer owns a newer generation")                        \
	X(FORGET, "the primary needs this replica no more")                     \
	X(REPLICA_LOST, "the standby guest is gone")                            \
	X(PRIMARY_LIVES, "the primary lives and goes on without this replica")  \
	X(NO_REPLICA, "no complete replica here (R7)")                          \
	X(NO_MEMORY, "the running guest's memory is not here (R2b)")            \
	X(COLD, "cold start")                                                   \
	X(REDO_MISSING, "acknowledged writes are not all in hand (R10); --accept-loss would give them up") \
	X(STORE_FAILED, "the store refused; trying again")                      \
	X(BUFFER_FULL, "guest paused: a buffer is full and no ack comes")       \
	X(BUSY, "another session or change is under way here")                  \
	X(WRONG_STATE, "not possible in this state")                            \
	X(WRONG_GENERATION, "the generation given is not the record's")         \
	X(DONE, "done")

enum rpl_reason {
#define X(name, text) RPL_WHY_##name,
	RPL_REASONS(X)
#undef X
	RPL_WHY_N
};

struct rpl_action {
	enum rpl_action_kind kind;
	union {
		struct {
			enum rpl_claim_kind kind;
			bool operator_ordered; /* an operator's word; the arbiter `manual` waits for it */
			bool handed_over;      /* TAKEOVER: the owner itself asked for it, and holds still */
			bool given_up;         /* SOLO: the backup itself says that it holds nothing to take over with */
			struct rpl_record expect, want;
		} claim;
		struct {
			struct rpl_uuid session;
			uint64_t generation; /* SESSION_START only */
		} session;
		struct {
			uint64_t epoch;
		} epoch;
		struct {
			uint64_t epoch;
			bool stay_paused;
		} checkpoint;
		struct {
			struct rpl_uuid session;
			uint64_t epoch;
		} link;
		struct {
			bool ok;
			enum rpl_reason reason;
		} reply;
		struct {
			enum rpl_state from, to;
			enum rpl_reason reason;
		} state;
		struct {
			enum rpl_reason reason;
		} reason;
	} u;
};

#define RPL_ACTIONS_MAX 16 /* per step; rpl_core_check() knows that no step comes near */

struct rpl_actions {
	unsigned n;
	struct rpl_action a[RPL_ACTIONS_MAX];
};

/* ---- configuration and state */
enum rpl_store { RPL_STORE_NONE, RPL_STORE_PLAIN, RPL_STORE_DRBD };
enum rpl_on_crash { RPL_CRASH_KEEP, RPL_CRASH_DOWN }; /* a panicked guest: protected as it is, or claimed DOWN */
#define RPL_CORE_ARM_NS UINT64_C(20000000) /* the guest runs so long between its first two checkpoints, if an interval is no shorter */

struct rpl_core_conf {
	char self[RPL_NODE_NAME], peer[RPL_NODE_NAME]; /* NUL-padded */
	struct rpl_uuid vm;
	enum rpl_durability durability;
	enum rpl_store store;
	enum rpl_on_crash on_crash;
	bool auto_claim;  /* claim on suspicion; false with the arbiter `manual` */
	bool auto_cold;   /* cold start without being asked when R10 allows it */
	bool reprotect;   /* protection stays wanted after a takeover */
	uint32_t max_uncommitted; /* epochs sealed and not committed, >= 1 */
	uint32_t max_held;        /* epochs sealed and not released, >= 1: what the output buffer can tell apart */
	uint64_t interval_ns;
	uint64_t stall_ns;          /* P_PROTECTED -> P_STALLED, alarm */
	uint64_t suspect_ns;        /* the primary claims SOLO; the backup freezes */
	uint64_t takeover_delay_ns; /* the backup claims this much after freezing */
	uint64_t arm_timeout_ns;
	uint64_t drain_timeout_ns;  /* planned switchover: guest paused at most so long before SOLO is claimed */
	uint64_t retry_ns;          /* arbiter away, session refused, store or guest failed: try again */
	uint64_t cold_delay_ns;     /* a host without its guest leaves it to the peer so long; the non-owner twice that */
};

#define RPL_LOOK_RETRY_NS (5 * UINT64_C(1000000000)) /* between two looks at a guest that cannot be protected */
#define RPL_SEED_PATIENCE 5 /* times suspect: how long either end of a connection may be silent in the first copy */
#define RPL_TAKEOVER_DELAY_MIN_NS (200 * UINT64_C(1000000))

enum rpl_claim_phase { RPL_CLAIM_NONE, RPL_CLAIM_SENT, RPL_CLAIM_READING, RPL_CLAIM_WAITING };
enum rpl_output { RPL_OUT_CLOSED, RPL_OUT_OPEN, RPL_OUT_OPENING, RPL_OUT_HOLDING, RPL_OUT_HELD };

struct rpl_core {
	struct rpl_core_conf conf; /* never changes after init, but for interval_ns, which the shell may set at any time */

	enum rpl_state state;
	uint64_t now_ns, since_ns;  /* the last event's time; when this state was entered */
	struct rpl_uuid seed;       /* fresh per shell start; nonces and session ids are drawn from it */
	uint64_t drawn;
	bool started, want;         /* protection is wanted */
	uint64_t ordered_generation; /* the claim under way is an operator's word, about this generation; else 0 */
	bool accept_loss;           /* an operator accepted loss for the cold start under way */
	bool peer_is_dead;          /* ... and vouched that the peer, which runs it in SOLO, does so no more */
	bool boot_ordered;          /* an operator wants a guest booted that is down */
	bool start_replica;         /* START: a complete replica was found */
	bool start_down;            /* START: the guest had shut down, and is gone; DOWN may not have been claimed */
	bool offered;               /* IDLE: the peer offers `session`; the record is being read before we accept */
	uint64_t offered_generation;

	/* the record and our claim on it */
	bool rec_known;
	struct rpl_record rec;      /* as last seen */
	bool reading;               /* a READ_RECORD is unanswered */
	enum rpl_claim_phase claim; /* SENT: unanswered; READING: outcome unknown, record being read; WAITING: to be read */
	enum rpl_claim_kind claim_kind;
	struct rpl_record expect, claimed;
	bool won, refused, fresh;   /* in this state: our claim was granted; was refused; `rec` was read */
	uint64_t retry_at_ns;       /* whatever this state repeats is not repeated before */

	/* the guest */
	bool guest, memory_ours;    /* it runs (or is paused) here; its memory is the authoritative one */
	bool paused;                /* by us */
	bool down_pending, died_pending; /* seen while a claim was unresolved: acted on as soon as it is */
	bool yielding;              /* P_LOST: SOLO was won too late; PROTECTED is claimed again for the backup's sake */
	bool capturing;             /* a CHECKPOINT is unanswered */
	bool unfit;                 /* it changed: looked at anew before the next session */

	/* epochs; the primary's unless said otherwise */
	uint64_t epoch;             /* the one being executed */
	uint64_t sealed;            /* last captured, in this session */
	uint64_t acked, journaled, released;
	uint64_t flush_asked, flushed; /* of our store */
	uint64_t must_ack;          /* R4: the epoch in which HOLD was asked for */
	uint64_t replica;           /* backup: last acked epoch */
	uint64_t redo_applied;      /* backup: asked for or done */
	uint64_t redo_trimmed;      /* backup */
	bool complete;              /* backup: one complete replica in this session (R7) */
	bool frozen, freezing;      /* backup: never ack again in this session */
	bool handover;              /* backup: the primary asked for it; primary: it was sent */
	bool store_ok;              /* P_ARM: the peer's store held all that ours did when HOLD took effect */
	enum rpl_output output;

	/* the session */
	struct rpl_uuid session;    /* zero: none */
	bool connected;             /* P_SYNC: the peer's host took a connection that the peer has not answered yet */
	bool link_up, session_dead; /* dead: will not come back; claim without waiting for silence */
	bool given_up;              /* ... since the backup holds nothing of it, as it says itself */
	unsigned sync_failures;     /* sessions in a row that ended before the copy converged */
	uint64_t heard_ns;          /* the peer, last */
	uint64_t progress, progress_ns; /* what the peer had received, and when that last grew (or an ack came) */
	uint64_t captured_ns;       /* when the guest went on after the last checkpoint */
	uint64_t overdue_ns;        /* since when an ack is owed; 0: none is */
	bool throttled;             /* guest paused because a buffer is full */

	/* slow work on store and guest (work.c) */
	enum rpl_action_kind doing; /* under way; RPL_ACT_N: none */
	bool failed;                /* it failed and will be asked for again at retry_at_ns */

	/* cold start */
	bool store_clean, redo_complete;
	struct rpl_uuid redo_session;
	enum rpl_reason last_alarm; /* so that a retried failure alarms once per state */
};

/* Whether a configuration is one the protocol can live with: 0, or -EINVAL with the two values that disagree. */
int rpl_core_conf_check(const struct rpl_core_conf *conf, struct rpl_err *err);

/* Make *c a machine in START. `seed` is fresh and random: it makes nonces and session ids unique. */
void rpl_core_init(struct rpl_core *c, const struct rpl_core_conf *conf, const struct rpl_uuid *seed);

/* Feed one event; *out is overwritten with what to do about it. Any event is safe in any state. */
void rpl_core_step(struct rpl_core *c, const struct rpl_event *ev, struct rpl_actions *out);

/* When the next EV_TIMER is due (ns, same clock as now_ns), or UINT64_MAX for never. */
uint64_t rpl_core_deadline(const struct rpl_core *c);

/* The machine's own invariants: NULL, or a sentence naming the broken one. */
const char *rpl_core_check(const struct rpl_core *c);

/* What a pair means: acted on, ignored as stale or meaningless, or (commands) answered with a refusal. */
enum rpl_verdict { RPL_IGNORED, RPL_HANDLED, RPL_REFUSED };
enum rpl_verdict rpl_core_verdict(enum rpl_state state, enum rpl_event_kind kind);

const char *rpl_state_name(enum rpl_state s);
const char *rpl_event_name(enum rpl_event_kind e);
const char *rpl_action_name(enum rpl_action_kind a);
const char *rpl_claim_name(enum rpl_claim_kind k);
const char *rpl_mode_name(enum rpl_mode m);
const char *rpl_reason_text(enum rpl_reason r);

#endif
