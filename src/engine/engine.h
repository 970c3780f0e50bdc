/* engine.h - inside the mover: one process, one role, one loop
 *
 * main.c      the process: CONF, sandbox, loop; commands come in, reports go out
 * connection.c the link of the moment: hello, heartbeats, ends
 * primary.c   sessions, acks, resumption; stage.c takes checkpoints; send.c puts rounds and epochs into frames
 * backup.c    sessions, acks, folding; apply.c turns frames into staged epochs
 *
 * Nothing here blocks the loop for longer than one bounded slice of work (MOVER_..._SLICE), except that a checkpoint is
 * staged in one go while its guest waits.
 */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>

#include <replicad/link.h>
#include <replicad/memory.h>
#include <replicad/mover.h>

#define MOVER_QUEUE_BYTES (4u * 1024 * 1024) /* waiting in the link */
#define MOVER_SEND_SLICE_US 500              /* a round's frames are encoded so long before the loop turns again */
#define MOVER_SEND_LOOK_PAGES 256            /* an epoch's, before we look whether keeper or peer want something */
#define MOVER_SEND_TURN_PAGES 2048           /* likewise, if neither does: so long a heartbeat may wait */
#define MOVER_FOLD_SLICE 256                 /* pages folded before the loop turns again */
#define MOVER_REPORT_TIMEOUT_MS 2000         /* a keeper that does not read for so long is given up */

struct mover;

/* What the two roles do differently. Calls come in the order: setup, then the others at any time. */
struct mover_role {
	int (*setup)(struct mover *m, int extra_fd, struct rpl_err *err); /* takes the descriptor over */
	/* A command from the keeper; a negative return is a defect of the keeper or of us, and ends the mover. */
	int (*command)(struct mover *m, const struct rpl_mover_msg *msg, struct rpl_err *err);
	void (*up)(struct mover *m);
	/* A frame other than HEARTBEAT; a negative return ends the connection. */
	int (*frame)(struct mover *m, enum rpl_frame type, const uint8_t *body, size_t len, struct rpl_err *err);
	void (*writable)(struct mover *m);
	bool (*down)(struct mover *m); /* the connection is gone; true: the session is void too */
};
extern const struct mover_role mover_primary, mover_backup;

/* A connection: of the moment, or waiting to become it. */
struct connection {
	struct mover *m;
	struct rpl_link *link; /* NULL: the slot is free */
	uint64_t number;       /* counts connections: the smallest is the oldest */
};

struct mover {
	struct ev_loop *loop;
	int sock;
	struct rpl_mover_conf conf;
	struct rpl_mover_counters *counters;
	char *text; /* RPL_MOVER_TEXT_SIZE bytes, shared with the keeper */
	char *keys;                             /* psk: text of the key file; x509: the texts that the next three point into */
	const char *x509_ca, *x509_cert, *x509_key;
	struct rpl_memory *memory;
	const struct mover_role *role;
	union {
		struct primary *primary;
		struct backup *backup;
	};
	struct connection connections[1 + RPL_MOVER_WAITING_MAX];
	uint64_t connections_made;
	/* the connection of the moment: its peer has proven who it is */
	struct connection *current;
	struct rpl_link *link; /* current's */
	bool greeted;     /* our hello was sent */
	bool peer_known;  /* its hello was decoded */
	bool ready;       /* the session's acceptance was said (backup) or heard (primary) */
	bool settled;     /* it was, on this connection or an earlier one: there may be something that waits for the next */
	struct rpl_hello peer;
	uint64_t wire_before; /* bytes sent on earlier connections */
	bool failed;
	bool quitting; /* told to end: only the connection's orderly end is waited for */
	ev_io commands;
	ev_timer heartbeat, greeting;
	uint64_t beats_seen; /* of the keeper, at the last heartbeat */
};

/* ---- main.c */
void mover_report(struct mover *m, enum rpl_mover_type type, uint64_t epoch, uint64_t value,
		  const struct rpl_uuid *uuid);
void mover_report_msg(struct mover *m, struct rpl_mover_msg *msg); /* fills in its size */
void mover_report_text(struct mover *m, enum rpl_mover_type type, uint64_t value, const char *text);
/* A peer's sentence as printable text; at most size - 1 characters. */
void mover_printable(char *dst, size_t size, const void *src, size_t len);
/* This mover cannot go on: FAILED, and the loop ends. */
void mover_fail(struct mover *m, const struct rpl_err *err);

/* ---- connection.c */
int connection_setup(struct mover *m, struct rpl_err *err);
int connection_take(struct mover *m, int fd, struct rpl_err *err); /* `fd` is taken over */
/* End the connection for a reason of ours, and report it. Without one: nothing, unless the session is void too. */
void connection_drop(struct mover *m, const char *why);
void connection_end(struct mover *m, const struct rpl_err *why); /* the same, with an errno for the report */
/* A connection that did not get so far as to be used. */
void connection_failed(struct mover *m, const struct rpl_err *err);
/* Send the frame; a failure is left to the link's own report of its end. */
int connection_send(struct mover *m, enum rpl_frame type, const void *body, size_t len);
/* What was sent leaves now; it follows an order of the keeper's, so the next heartbeat counts from here. */
void connection_push(struct mover *m);
void connection_count(struct mover *m); /* what was sent, in the counters */
/* Say hello, with what the role put into *h; the rest is filled in. */
void connection_greet(struct mover *m, struct rpl_hello *h);
/* Decode the peer's hello into m->peer; `ours` is what we said or would say. */
int connection_hello(struct mover *m, const uint8_t *body, size_t len, struct rpl_err *err);
void connection_our_hello(const struct mover *m, struct rpl_hello *h);
/* What was queued is sent, then the loop ends; without a connection it ends now. */
void connection_finish(struct mover *m);
void connection_heard(struct mover *m); /* what the peer owes has come, from here on it is our keeper who decides */
void connection_ready(struct mover *m); /* hello and session are settled */
void connection_fini(struct mover *m);

static inline void mover_count(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static inline void mover_set(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_store_explicit(counter, n, memory_order_relaxed);
}

#endif
