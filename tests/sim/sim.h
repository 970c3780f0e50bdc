/* sim.h - two hosts, an arbiter and the wires between them, in virtual time, around the real protection core
 *
 * A god's view of one VM. The guest is a counter: each tick is one version, which writes to the disk and sends one
 * packet; a takeover or a cold boot starts a new branch of that history at the version it resumed from. Everything
 * that moves state (checkpoints, redo, stores, replicas) carries versions, so what was lost, doubled or run ahead is
 * seen by comparing numbers. All randomness comes from one seed; a run is a function of (seed, build).
 *
 *   world.c   queue of things to come, random numbers, the run itself
 *   shell.c   what a keeper does: carries out the core's actions, with delays, and answers with events
 *   wire.c    the replication connection, the store link, the arbiter
 *   fault.c   what goes wrong, and the operator
 *   god.c     I1 .. I11
 */
#ifndef RPL_TESTS_SIM_H
#define RPL_TESTS_SIM_H

#include <stdbool.h>
#include <stdint.h>

#include <replicad/core.h>

#define MS UINT64_C(1000000)
#define NEVER UINT64_MAX
#define EPOCHS 256 /* ring of epoch -> version; far more than are ever uncommitted */
#define BRANCHES 64
#define REQUESTS 64
#define ITEMS 4096

enum item_kind {
	IT_EVENT,     /* an event for a node's core (of keeper incarnation `inc`) */
	IT_DEADLINE,  /* rpl_core_deadline() may have come */
	IT_TICK,      /* the guest runs a little */
	IT_SYNC,      /* a store's write cache reached the disk: version a of branch b */
	IT_DO,        /* a slow part of an action: act, epoch */
	IT_ARBITER,   /* request a reaches the arbiter */
	IT_ARB_REPLY, /* its answer reaches the client, or b: the client gives up waiting */
	IT_WIRE,      /* a message arrives */
	IT_CONNECT,   /* the primary's mover tries to connect */
	IT_CONN_DEAD, /* both ends have noticed that connection a is broken */
	IT_BEAT,      /* heartbeat of a node */
	IT_FAULT,     /* something goes wrong */
	IT_MEND,      /* ... and is mended: a = which */
	IT_RESTART,   /* keeper, or host and keeper, come up: a = incarnation that died */
};

enum message { M_OPEN, M_ACCEPT, M_CONTINUE, M_REFUSE, M_CHECKPOINT, M_ACK, M_FLUSHED, M_HANDOVER, M_FORGET, M_BEAT };

struct item {
	uint64_t t;
	uint32_t seq, inc, conn;
	uint8_t kind, node, msg, act;
	bool flag;
	uint64_t a, b, epoch;
	struct rpl_uuid session;
	struct rpl_event ev;
};

#define FAULTS(X)                                                                                                     \
	X(CUT_AB) X(CUT_BA) X(CUT_LINK) X(RESET) X(STORE_CUT) X(ARB_CUT) X(ARB_DOWN) X(ARB_SLOW) X(REPLY_LOST)      \
	X(KEEPER_CRASH) X(HOST_CRASH) X(BOTH_POWER) X(HOST_STOP) X(CRASH_AT_ACTION) X(GUEST_DIES) X(REPLICA_LOST)   \
	X(SLOW_DISK) X(CAPTURE_FAILS) X(HOLD_HANGS) X(PARTIAL_EPOCH) X(LATE_MESSAGES) X(DUPLICATES) X(STORE_FAILS)  \
	X(GUEST_FAILS) X(BUFFER_FULL) X(POWER_OFF) X(GUEST_PANIC) X(GUEST_RESET) X(GUEST_CHANGES) X(HEARSAY)     \
	X(CMD_PROTECT) X(CMD_UNPROTECT) X(CMD_SWITCHOVER) X(CMD_SOLO) X(CMD_TAKEOVER) X(CMD_ACCEPT_LOSS) X(CMD_SHUTDOWN)           \
	X(CMD_START) X(DIES_AT_CLAIM)

enum fault {
#define X(n) F_##n,
	FAULTS(X)
#undef X
	F_N
};

#define INVARIANTS(X) X(NONE) X(I1) X(I2) X(I3) X(I4) X(I5) X(I6) X(I7) X(I8) X(I9) X(I10) X(I11) X(CHECK)
enum invariant {
#define X(n) INV_##n,
	INVARIANTS(X)
#undef X
	INV_N
};

struct disk {
	int branch;              /* whose writes; -1: nobody's (half a resync) */
	uint64_t lo, synced, hi; /* all writes <= lo are there (<= synced even after power loss), some <= hi may be */
	struct rpl_uuid session; /* ... and whose */
	bool dirty;              /* durable mark: an overlay, or a primary elsewhere, was in use over it */
};

struct journal { /* redo (from, to] of a session, on disk */
	bool any;
	struct rpl_uuid session;
	int branch;
	uint64_t from, to, synced;
};

enum { GUEST_GONE, GUEST_RUNS, GUEST_PAUSED };

struct node {
	struct rpl_core core;
	uint32_t inc;             /* keeper incarnation */
	bool host_up, keeper_up, want;
	uint64_t stopped_until;   /* SIGSTOP */
	uint64_t armed_deadline;

	/* the guest's process, output buffer and overlay: they outlive the keeper, not the host */
	int guest, branch;
	uint64_t ver;
	bool down, ours, death_told;
	bool out_open, overlay;
	struct rpl_uuid overlay_session;
	uint64_t emitted;         /* packets up to this version have left or were dropped */
	uint64_t ver_of[EPOCHS];  /* epoch -> version at its seal */
	uint64_t top_epoch;
	uint32_t hold_token;      /* OPEN calls an earlier HOLD off */
	uint32_t life;            /* which guest process, counted */
	uint64_t flush_broken_seq; /* store link breaks seen when the flush began */
	struct journal own;       /* durability=both */

	/* the primary's mover */
	bool trying, synced, linked; /* SESSION_START until SESSION_END; SYNC_READY was said; connected once */
	struct rpl_uuid session;
	uint64_t session_gen;
	bool mirror;              /* P_SYNC: store writes reach the peer's store too */

	/* the replica */
	bool rep_ok, rep_frozen, store_cut, rep_base; /* base: the bulk copy of this session is here */
	struct rpl_uuid rep_session;
	int rep_branch;
	uint64_t rep_acked;       /* epoch */
	uint64_t rep_staged, rep_ver[EPOCHS], rep_from; /* redo in memory: (rep_from, ...] */
	bool rep_valid[EPOCHS];
	uint64_t stage_free;      /* epochs are staged one after the other */
	uint64_t last_ack;

	struct disk disk;
	struct journal journal;

	/* what is about to go wrong here */
	int trap_action;
	bool trap_before, trap_host;
	bool dies_at_claim;       /* the guest, when SOLO is asked for */
	bool slow_disk, fail_capture, fail_hold, partial, fail_store, fail_guest, crashed_in_step;
	uint64_t boot_ver;        /* cold start: what COLLECT found */
	bool boot_replaces;       /* ... by copying the peer's store */
};

struct branch {
	uint64_t base, fork;      /* first version, and where the next owner left it (NEVER: it is the authority) */
	bool exempt;              /* an operator accepted loss */
};

struct request {
	uint32_t inc;
	uint8_t node;
	bool claim, create, done, lose_reply, loss, ordered; /* ordered: by an operator, for a guest that is down */
	enum rpl_claim_kind kind;
	struct rpl_record expect, want, record;
	enum rpl_event_kind answer;
};

struct sim {
	uint64_t seed, rng[2], now;
	bool verbose, check;      /* check: rpl_core_check() too; not with a rule taken out */
	struct node node[2];
	enum rpl_store store;

	/* arbiter */
	bool have_record, arb_up, arb_cut[2], arb_slow;
	struct rpl_record record;
	struct request req[REQUESTS];
	uint32_t next_req;
	int lose_replies;

	/* replication connection: one at a time */
	uint32_t conn;            /* 0: none */
	uint32_t conns;
	bool conn_up;
	bool cut[2];              /* messages from node x do not get through */
	uint64_t wire_free[2];    /* FIFO: nothing arrives before this */
	bool late, duplicate;
	bool store_cut;
	uint64_t store_breaks;    /* how often the store link broke */

	/* god */
	struct branch br[BRANCHES];
	int brs, auth;            /* branches so far; the authoritative one */
	uint64_t maxrel;          /* highest version that a client has seen on the authoritative line */
	struct rpl_uuid acked_session; /* the last ack anyone gave ... */
	uint64_t acked_ver;
	bool vm_down;             /* DOWN was won, no operator has started it since */
	bool loss;                /* an operator accepted loss, and the claim was won; until the next boot */
	enum invariant broken;
	char why[256];

	/* the run */
	bool quiet;               /* the suffix without faults */
	int quiet_without;        /* node that stays dead in it, or -1 */
	uint64_t faults_until;
	unsigned fault_mean_ms;
	uint64_t enabled;         /* kinds of fault of this run */
	struct item items[ITEMS];
	uint32_t free[ITEMS], frees, heap[ITEMS], heaps, seq;
};

struct stats {
	uint64_t faults[F_N], pairs[RPL_ST_N][RPL_EV_N], claims[RPL_CLAIM_N], takeovers, cold_boots, steps, protected_ms;
	uint64_t recovered, hopeless, quiet_alone;
};
extern struct stats sim_stats;

/* world.c */
uint64_t sim_rand(struct sim *s, uint64_t n); /* [0, n) */
bool sim_chance(struct sim *s, unsigned percent);
struct item *sim_after(struct sim *s, uint64_t delay_ns, enum item_kind kind, int node);
void sim_event(struct sim *s, int node, uint64_t delay_ns, const struct rpl_event *ev);
void sim_step(struct sim *s, int node, const struct rpl_event *ev);
void sim_say(const struct sim *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
enum invariant sim_run(struct sim *s, uint64_t seed, bool verbose, bool check);
void sim_up(struct sim *s, int node, bool host);
const char *sim_invariant_name(enum invariant i);
const char *sim_fault_name(enum fault f);

/* shell.c */
void shell_act(struct sim *s, int node, const struct rpl_action *a);
void shell_slow_part(struct sim *s, const struct item *it);
void shell_start(struct sim *s, int node);
void shell_tick(struct sim *s, int node);
void shell_synced(struct sim *s, const struct item *it);
void shell_keeper_dies(struct sim *s, int node);
void shell_host_dies(struct sim *s, int node);
void shell_guest_gone(struct sim *s, int node);
bool shell_collect(struct sim *s, int node, struct rpl_event *ev, uint64_t *ret_ver, bool *ret_replaces);

/* wire.c */
void wire_send(struct sim *s, int from, enum message msg, const struct rpl_uuid *session, uint64_t epoch, uint64_t ver);
void wire_copied(struct sim *s, const struct item *it);
void wire_staged(struct sim *s, const struct item *it);
void wire_arrives(struct sim *s, const struct item *it);
void wire_connect(struct sim *s, const struct item *it);
void wire_break(struct sim *s, bool at_once);
void wire_dead(struct sim *s, const struct item *it);
void wire_beat(struct sim *s, const struct item *it);
void wire_store_cut(struct sim *s, bool cut);
void arbiter_ask(struct sim *s, int node, const struct rpl_action *a);
void arbiter_serve(struct sim *s, const struct item *it);
void arbiter_reply(struct sim *s, const struct item *it);

/* fault.c */
void fault_begin(struct sim *s);
void fault_happens(struct sim *s);
void fault_mend(struct sim *s, const struct item *it);
void fault_heal_all(struct sim *s);
void fault_claim(struct sim *s, int node, const struct rpl_action *a);
void fault_trap(struct sim *s, int node, const struct rpl_action *a, bool before);

/* god.c */
void god_broken(struct sim *s, enum invariant i, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void god_emit(struct sim *s, int branch, uint64_t ver);
void god_watch(struct sim *s, int node);
void god_claim_sent(struct sim *s, int node, const struct rpl_action *a);
void god_claim_landed(struct sim *s, const struct request *r);
void god_ack(struct sim *s, int node, const struct rpl_uuid *session, uint64_t epoch);
void god_discard(struct sim *s, int node, const char *what);
void god_takeover(struct sim *s, int node, uint64_t ver);
void god_promote_store(struct sim *s, int node, uint64_t from, uint64_t to);
void god_boot(struct sim *s, int node, uint64_t ver);
bool god_hope(struct sim *s);   /* I10's premise */
bool god_running(const struct sim *s);

#endif
