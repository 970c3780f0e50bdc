/* keeper.h - one VM's keeper: the shell around the protection state machine
 *
 * One process per VM and role, one libev loop; threads only wait for what cannot be polled (a name's address, the arbiter's
 * file). It owns the guest's control connection, the output buffer, the disk, the arbiter's client and the mover, and does with
 * them what rpl_core_step() says, nothing else.
 *
 *   something happens ──► keeper_event() ──► queue ──► rpl_core_step() ──► actions.c ──► the rooms
 *         ▲                                                                                  │
 *         └──────────────── completions: guest, netbuf, disk, arbiter, mover ◄───────────────┘
 *
 * Completions may come from inside an action; the queue keeps steps apart. session.c is the primary's side of the
 * link, standby.c the backup's, roles.c goes from one to the other, checkpoint.c one pause, hold.c the beginning of holding, life.c what the guest itself
 * does; status.c tells people, persist.c tells the next keeper, adopt.c and remains.c take over what that one left.
 */
#ifndef KEEPER_H
#define KEEPER_H

#include <sys/socket.h>

#include <ev.h>

#include <replicad/arbiter.h>
#include <replicad/core.h>
#include <replicad/disk.h>
#include <replicad/guest.h>
#include <replicad/netbuf.h>
#include <replicad/trace.h>

#include "checkpoint.h"
#include "conf.h"
#include "control.h"
#include "movers.h"
#include "resolve.h"

#define EVENT_QUEUE_MAX 256
#define ARBITER_QUEUE_MAX 8

/* The primary's side of a session, while the core wants one. */
struct session {
	bool wanted;              /* between SESSION_START and SESSION_END, or while telling */
	bool telling;             /* not the core's: the peer is called to hear who owns the VM, nothing else */
	bool ready;               /* the mover is */
	bool up;                  /* the peer is ready on a live connection */
	struct rpl_uuid id;
	uint64_t generation;
	int connecting_fd;        /* -1, or a connect() under way */
	int waiting_fd;           /* -1, or connected while the mover is being started */
	struct resolve resolve;   /* the peer's name, at each attempt */
	struct resolve_address peer; /* the last that was found behind it */
	bool wants_address;       /* an attempt waits for the first one */
	unsigned round, retry_ms;
	uint64_t early_ack;       /* an ack of the epoch whose capture has not ended yet; 0: none */
	struct rpl_uuid early_ack_session;
	ev_io connecting;
	ev_timer retry;           /* the next connection attempt */
};

/* The backup's side. */
struct standby {
	bool ready;               /* the standby guest exists and its RAM is ours to fill */
	bool starting;
	bool laying;              /* its memory is being made: who calls waits */
	bool adopting;            /* ... what an earlier keeper started */
	bool mover_gone;          /* its mover */
	bool found;               /* at our start: a replica, of `session` and up to found_epoch */
	uint64_t found_epoch;
	bool accepted;
	uint64_t room_looked_ns;  /* when it was seen last whether a takeover would have room */
	char no_room[RPL_MOVER_REASON_MAX]; /* it would not: why; else "" */
	char refusal[RPL_MOVER_REASON_MAX]; /* why somebody's connection was refused last, as it was told */
	struct rpl_uuid session;  /* of the replica */
	uint64_t hello_generation; /* of who called last */
	int waiting_fd;           /* a connection that came before the standby was ready; -1: none */
	int staging_fd;
	uint64_t staging_bytes;
	struct rpl_memory_desc memory;
	int memory_fd[RPL_MEMORY_FDS_MAX];
	size_t n_memory_fds;
};

/* A takeover that is likely, begun (ahead.c). */
struct ahead {
	uint64_t epoch;          /* with this one; 0: it is not */
	uint64_t heard_ns;       /* when the peer had been heard last then */
	uint64_t began_ns;       /* the last time; 0: never */
	struct rpl_uuid session; /* of which the replica's RAM is ... */
	uint64_t folded;         /* ... as of this epoch, and of none after it that was acked */
};

/* When what happened, for people (CLOCK_MONOTONIC ns, 0: not yet). */
struct moments {
	uint64_t heard, suspect, claim_sent, claim_granted, running;
	uint64_t handover; /* it was decoded here */
};

/* What the core asked of the guest and the output and could not be begun at once: the guest does one thing at a time,
 * and the buffer's process may be away for a moment. Carried out by keeper_pursue(). */
struct wishes {
	bool kill, activate, announce, look, capture, hold;
	bool paused;              /* how it should be, outside a checkpoint */
	bool capture_resumes;     /* ... until the checkpoint that was asked for last is over: the guest runs behind it */
	bool open;                /* output should flow straight through */
	enum checkpoint_kind capture_kind;
	uint64_t capture_epoch, hold_epoch;
};

/* Output and disk writes are being held (hold.c). */
struct hold {
	uint64_t epoch, begun_ns;
	unsigned waiting; /* answers still to come */
	bool failed;
};

/* What was made here with a process, by whichever keeper: persist.c keeps it. */
struct keeper_made {
	pid_t pid;        /* 0: nothing */
	uint64_t started; /* as keeper_past.guest_started */
	size_t n;
	struct made_file {
		char path[256];
		dev_t dev;
		ino_t ino;
	} file[RPL_GUEST_MADE_MAX];
};

/* The process that an earlier keeper watched, while it lives. */
struct remains {
	pid_t pid;
	int pidfd;     /* -1: none, or it is gone */
	bool ran;      /* it was the guest; false: a standby that was never activated */
	bool down;     /* ... and shut down on purpose */
	bool asked;    /* its end answers GUEST_KILL */
	ev_io gone;
};

struct keeper_past;

enum arbiter_asker {
	ASKS_CORE,  /* the core: its answer is an event */
	ASKS_LOOK,  /* -> keeper_looked() */
	ASKS_IDLE,  /* -> keeper_idle_record() */
	ASKS_LEARN, /* manual: nobody; `want` is what the peer says */
};

struct arbiter_op {
	enum arbiter_asker asker;
	enum rpl_claim_kind claim; /* with cas */
	bool cas, create;
	bool permitted;           /* cas: an operator's word, or the peer itself handed over or gave up */
	struct rpl_record expect, want;
};

struct keeper {
	struct keeper_conf conf;
	struct ev_loop *loop;
	struct rpl_core core;
	bool started;             /* EV_START was delivered */
	char refused[320]; /* why protection cannot be; "" otherwise */

	struct rpl_guest *guest;
	struct rpl_netbuf *netbuf;
	struct rpl_disk *disk;
	struct rpl_arbiter *arbiter;
	struct movers *movers;
	struct movers *listener;  /* hears who calls while there is nothing to be a backup with (listener.c) */
	bool turning_away;        /* and tells it why: k->refused */
	struct checkpoint checkpoint;
	struct control *control;
	struct rpl_trace *trace;
	struct session session;
	struct standby standby;
	struct ahead ahead;
	struct keeper_made made;
	struct remains remains;

	struct rpl_event queue[EVENT_QUEUE_MAX];
	unsigned queue_from, queue_n;
	bool stepping;
	struct arbiter_op arbiter_queue[ARBITER_QUEUE_MAX];
	unsigned arbiter_n;
	bool arbiter_busy;        /* the first of them is under way */
	uint64_t told_generation; /* manual: of the record as the peer's word left it; the core may not have read it yet */

	struct wishes wish;
	struct hold hold;
	bool heir;                /* the guest was found here after a takeover that an earlier keeper won */
	bool guest_used;          /* this handle was attached or made a standby: it is replaced, not used again */
	bool guest_here;          /* ATTACH, STANDBY or ACTIVATE succeeded, and it was not lost since */
	bool guest_process;       /* ... or it was lost, and its process may live on without a monitor */
	bool guest_busy;          /* an operation that is not the checkpoint's is under way */
	bool killing;             /* ... and it is the last one of this handle */
	bool paused;              /* by us, outside a checkpoint */
	uint64_t left_paused_ns;  /* since then the guest stands still, left so by the keeper before; 0: it does not */
	bool paused_by_others;    /* no checkpoint is taken: it would resume what somebody wants paused */
	bool changed;             /* since the look under way began */
	bool netbuf_here;
	bool leaving;             /* unprotect was asked for: end when SOLO and let go */
	bool ending;
	struct rpl_err not_found; /* why there is no guest, while the record is looked at */
	bool finishing;           /* there is none since it shut down: what the keeper before us saw is to be finished */
	struct control_call protect_call, unprotect_call, shutdown_call;
	struct {                  /* an operator's word that waits for the record */
		struct control_call call;
		enum rpl_event_kind kind;
		uint64_t generation;
	} word;
	json_t *reply;            /* of the command being stepped */

	ev_timer deadline, poll, quit, netbuf_retry, rest, lull;
	ev_check wake;
	uint64_t woke_ns;   /* when the loop last woke up */
	uint64_t armed_due; /* what `deadline` is set for */
	uint64_t heard_ns;        /* newest last_heard_ns that the core knows of */
	uint64_t acked_at_ns;
	uint64_t dirty_pages_sum, checkpoints, takeovers;
	uint64_t handshake_ns;    /* what it takes of late until the guest stands still */
	char since[32];
	const char *reason;
	struct moments at;
	struct moments took_over;   /* as they were when the guest ran here: claims and suspicions go on after that */
	uint64_t paused_us;         /* a handover: how long the guest had stood still on the peer before it */
	uint64_t blackout_us;       /* the guest came here by a switchover that cost so much; 0: it did not */
	uint64_t unprotected_ns;    /* since when the guest runs here without the protection that is wanted; 0: it does not */
	uint64_t handed_generation; /* we gave it away under this one, and the heir has not called yet; 0: no */
	uint64_t heard_blackout_us; /* the heir has called before we knew that it is one */
	unsigned progress_shown;
	uint64_t progress_at_ns;
};

/* shell.c */
int keeper_open(struct keeper *k, const char *dir, struct ev_loop *loop, struct rpl_err *err);
void keeper_close(struct keeper *k);
/* Queue an event and, unless a step is under way, work the queue off. now_ns is filled in. */
void keeper_event(struct keeper *k, const struct rpl_event *ev);
/* Events without arguments, with an epoch, with a session. */
void keeper_say(struct keeper *k, enum rpl_event_kind kind);
void keeper_say_epoch(struct keeper *k, enum rpl_event_kind kind, uint64_t epoch);
void keeper_say_session(struct keeper *k, enum rpl_event_kind kind, const struct rpl_uuid *session);
void keeper_say_link(struct keeper *k, enum rpl_event_kind kind, const struct rpl_uuid *session, uint64_t epoch);
/* What a timer does where nothing else wakes the keeper up, and puts off. */
void keeper_look_around(struct keeper *k);
/* Everything that the core must know at its start is known: deliver EV_START. */
void keeper_start_core(struct keeper *k, enum rpl_found found, bool memory_ours);
/* Attach the guest, or, where there is none and a backup is asked for, make a standby. */
void keeper_begin_without(struct keeper *k, bool ran_here);
/* Leave the loop soon; replies and events get out first. */
void keeper_end(struct keeper *k);

/* actions.c */
void keeper_perform(struct keeper *k, const struct rpl_action *a);
/* The fault points of a claim, in the order of fault.h. */
enum claim_moment { CLAIM_UNSENT, CLAIM_SENT, CLAIM_GRANTED };
void keeper_claim_fault(enum rpl_claim_kind kind, enum claim_moment moment);

/* roles.c */
bool keeper_owns(const struct keeper *k, const struct rpl_record *r); /* ... the VM, says this record */
/* IDLE was reached: what the machine had here is over. Become the peer's backup, or end. */
void keeper_rest(struct keeper *k, enum rpl_reason why);
/* Make the standby from the loop, if the state is still IDLE then and nothing else is under way. */
void keeper_rest_soon(struct keeper *k);
/* From now on, whenever this keeper has waited in IDLE for a while: is there a VM to be the backup of? */
void keeper_watch_idle(struct keeper *k);
void keeper_idle_record(struct keeper *k, const struct rpl_record *record); /* as keeper_looked() */
/* The guest is not here: look at the record; refuse protection, or leave the VM to the peer that owns it. */
void keeper_not_found(struct keeper *k, const struct rpl_err *why);
void keeper_looked(struct keeper *k, const struct rpl_record *record); /* NULL: there is none, or it cannot be read */

/* remains.c */
void remains_find(struct keeper *k, const struct keeper_past *past); /* at the start: what is there is watched or removed */
void remains_note(struct keeper *k);   /* the guest's process and what was made with it, for the keepers to come */
void remains_forget(struct keeper *k); /* the handle put away what was made, if the process is gone */
bool remains_kill(struct keeper *k);   /* true: it lives, and its end says GUEST_KILLED */
bool remains_lives(const struct keeper *k);
bool remains_is_standby(const struct keeper *k); /* it lives, and was never activated */
void remains_end(struct keeper *k);              /* kill it: nobody needs it */
bool remains_in_the_way(struct keeper *k); /* an old guest hangs here: no standby can take its place until it is gone */
void remains_close(struct keeper *k);

/* interfaces.c: tell the netbuf which they are; info: a guest that is there, or NULL. 0, or what is wrong with them */
int keeper_interfaces(struct keeper *k, const struct rpl_guest_info *info, struct rpl_err *err);

/* rooms.c: completions of guest, netbuf, disk, arbiter, mover */
int keeper_rooms_open(struct keeper *k, struct rpl_err *err);
void keeper_arbiter_read(struct keeper *k);
void keeper_arbiter_look(struct keeper *k); /* -> keeper_looked() */
void keeper_arbiter_look_idle(struct keeper *k); /* -> keeper_idle_record(), unless the arbiter has other work */
void keeper_arbiter_learn(struct keeper *k, enum rpl_mode mode, uint64_t generation, const struct rpl_uuid *session);
void keeper_arbiter_claim(struct keeper *k, const struct rpl_action *a);
/* Begin whatever is wished for and possible now. */
void keeper_pursue(struct keeper *k);
/* The checkpoint that was asked for last was taken, failed or is no longer wanted. */
void keeper_capture_over(struct keeper *k);
/* A handle attaches, or is made a standby, once: put a new one in the place of a used one. */
void keeper_fresh_guest(struct keeper *k);
/* Try (again) to attach the guest, the output buffer and the disk; ends in keeper_start_core() or a refusal. */
void keeper_attach(struct keeper *k);

/* hold.c: hold output and disk writes from now on, while the guest runs; ends in EV_HELD if both are. Completions: true if they
 * belonged to it. */
void hold_begin(struct keeper *k, uint64_t epoch);
void hold_tell(const struct keeper *k); /* arming is over: how long it took goes into the log */
bool hold_on_netbuf(struct keeper *k, enum rpl_netbuf_op op, int r, const struct rpl_err *err);
bool hold_on_disk(struct keeper *k, enum rpl_disk_op op, int r, const struct rpl_err *err);

/* life.c: what happens to the guest by its own or by other hands */
void life_on_event(void *arg, enum rpl_guest_event event, const char *msg);
void life_on_left_paused(struct keeper *k); /* the guest runs again: say how long it stood, if the keeper before left it so */
void life_look(struct keeper *k); /* the guest is free: inspect it anew */
void life_on_looked(struct keeper *k, int r, const struct rpl_err *err);

/* session.c */
void session_start(struct keeper *k, const struct rpl_uuid *id, uint64_t generation);
void session_tell_record(struct keeper *k);
/* The guest runs here since a moment ago, and no protection is wanted: should the peer, which cannot know, be called all the
 * same? Else end a call under way. */
void session_tell_owner(struct keeper *k, const struct rpl_action *a);
void session_end(struct keeper *k);
void session_on_report(struct keeper *k, const struct rpl_mover_msg *msg);
void session_on_gone(struct keeper *k, const char *why);
void session_after_capture(struct keeper *k);
void session_look(struct keeper *k); /* now and then: how far is the mover? */
void session_fini(struct keeper *k);

/* adopt.c */
bool adopt_begin(struct keeper *k, const struct keeper_past *past); /* true: under way; ends in keeper_start_core() or a refusal */
void adopt_on_done(struct keeper *k, int r, const struct rpl_err *err);

/* ahead.c */
void ahead_look(struct keeper *k); /* often */
void ahead_folded(struct keeper *k, const struct rpl_uuid *session, uint64_t epoch); /* the mover said so */
void ahead_drop(struct keeper *k, const char *why); /* harmless if there is nothing */
void ahead_use(struct keeper *k, uint64_t epoch); /* the guest is about to be activated with this epoch */

/* standby.c */
#define STAGING_NAME "replicad-staging"
struct rpl_replica;
/* The replica's two halves, for reading; both are closed by the caller, also after a failure (then NULL or not). */
int standby_open_replica(struct standby *b, struct rpl_replica **ret, struct rpl_memory **ret_ram, struct rpl_err *err);
/* Take a peer's connection: 0, or an error and `fd` stays the caller's. */
int standby_link(struct keeper *k, int fd, struct rpl_err *err);
bool standby_possible(const struct keeper *k); /* nothing of another life is here any more */
bool standby_to_be_told(const struct keeper *k); /* the record, which is being read, says whether this is a backup */
void standby_start(struct keeper *k);
void standby_look(struct keeper *k); /* often; now and then: is there room for a takeover? */
void standby_on_state(struct keeper *k);
void standby_on_started(struct keeper *k, int r, const struct rpl_err *err);
void standby_on_report(struct keeper *k, const struct rpl_mover_msg *msg);
void standby_on_gone(struct keeper *k, const char *why);
void standby_on_laid_out(struct keeper *k);
void standby_on_lost(struct keeper *k); /* the standby guest itself is gone */
void standby_abandon(struct keeper *k); /* its process ends: nothing can be staged for it any more. Harmless if there is none */
void standby_drop(struct keeper *k);    /* what only a replica needs: staging area, its RAM's descriptors */
void standby_accept(struct keeper *k, const struct rpl_uuid *session);
void standby_refuse(struct keeper *k, const char *why);
/* It is not to be begun or gone on with here: says what is. */
void standby_refuse_session(struct keeper *k, const struct rpl_uuid *session);
void standby_freeze(struct keeper *k);
void standby_forget(struct keeper *k);
void standby_activate(struct keeper *k, uint64_t epoch);
void standby_tell_switchover(struct keeper *k, uint64_t blackout_us);
void standby_fini(struct keeper *k);

/* listener.c */
/* With the arbiter manual: the peer may know better than we do, and can only be heard. */
bool listener_wanted(const struct keeper *k);
/* Hear what a connection of the peer's says: 0, or an error and `fd` stays the caller's. */
int listener_link(struct keeper *k, int fd, struct rpl_err *err);
void listener_turn_away(struct keeper *k, int fd); /* steals fd */
void listener_turned_away(struct keeper *k);       /* that is over; harmless if it was not begun */
void listener_on_state(struct keeper *k); /* ends it where it is not wanted any more */
void listener_refuse(struct keeper *k, const char *why);
/* Its movers handle, without a process; NULL on failure. */
struct movers *listener_new(struct keeper *k, const char *program, struct rpl_err *err);
/* The peer owns the VM in SOLO, it says when it begins a session. */
void keeper_peer_owns(struct keeper *k, uint64_t generation);
/* When the peer was heard last, by whichever mover (CLOCK_MONOTONIC ns); 0: by none that still lives. */
uint64_t keeper_heard_at(const struct keeper *k);

/* movers, both roles: what CONF has in common; keys are placed in the text area of `movers` */
/* A link in clear stays on the loopback interface unless the configuration says insecure = yes: 0, or -EACCES. */
int keeper_cleartext_check(const struct keeper *k, const struct sockaddr *peer, struct rpl_err *err);
/* The same for a connection that came. */
int keeper_check_caller(const struct keeper *k, int fd, struct rpl_err *err);
int keeper_mover_conf(struct keeper *k, struct movers *movers, enum rpl_role role, struct rpl_mover_conf *ret,
		      struct rpl_err *err);

/* status.c */
json_t *keeper_status(const struct keeper *k);
int keeper_bulk_percent(const struct keeper *k); /* of the first copy under way; -1: none is */
void keeper_tell(struct keeper *k, const char *event, json_t *fields); /* steals fields */
void keeper_tell_state(struct keeper *k, const struct rpl_action *a);
void keeper_alarm(struct keeper *k, const char *reason);

/* command.c: what the control socket asks for */
json_t *keeper_command(void *arg, const char *cmd, const json_t *request, int fd, struct control_call call);
/* The record, for an operator's word about a generation of it; NULL: it cannot be read. */
void keeper_judge_word(struct keeper *k, const struct rpl_record *record);
/* A state was reached that answers a waiting command. */
void keeper_answer_waiting(struct keeper *k);
void keeper_refuse(struct keeper *k, const struct rpl_err *err);

/* persist.c: what the next keeper of this VM must know */
struct keeper_past {
	bool known;
	pid_t guest_pid;
	uint64_t guest_started; /* rpl_process_start_time() */
	uint64_t guest_life;    /* of a guest that is no process: rpl_guest_info; 0: none ran */
	uint64_t epoch;
	bool want;
	bool down; /* it saw the guest shut down on purpose */
	bool promoting; /* it had won the takeover, and was at making a guest of the standby */
	pid_t mover_pid; /* a backup's, which writes to the replica */
	uint64_t mover_started;
	struct keeper_made made;
};
void keeper_past_load(const char *dir, struct keeper_past *ret);
void keeper_past_save(const struct keeper *k);
void keeper_past_forget(const struct keeper *k);

#endif
