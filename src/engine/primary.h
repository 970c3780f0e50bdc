/* primary.h - what the files of the primary's role share
 *
 * A session's life here:
 *   NONE --SESSION--> BULK (rounds; nothing can be resumed yet) --first STAGE--> LIVE --...--> VOID
 * and from everywhere --SESSION with a new uuid--> BULK. VOID: the keeper has been, or is being, told by LINK_DOWN 1.
 */
#ifndef ENGINE_PRIMARY_H
#define ENGINE_PRIMARY_H

#include <replicad/bitmap.h>
#include <replicad/pages.h>

#include "arena.h"
#include "engine.h"
#include "sent.h"

#define PRIMARY_PEEK_MS 10        /* shortest time between two looks at the running epoch's dirty pages */
#define PRIMARY_PEEK_SHARE 50     /* looking may cost one part in so many of our time */
#define PRIMARY_FULL_PERCENT 75   /* of the free arena: the epoch should end */
#define PRIMARY_STATE_CHUNK (256u * 1024) /* device state in one STREAM frame */

enum session_phase { SESSION_NONE, SESSION_BULK, SESSION_LIVE, SESSION_VOID };

/* What is being put into frames now: a bulk round, or the next staged epoch. */
struct job {
	enum { JOB_NONE, JOB_ROUND, JOB_EPOCH } kind;
	enum { JOB_BEGIN, JOB_HEAD, JOB_PAGES, JOB_TAIL, JOB_STATE, JOB_END } step;
	struct arena_epoch *epoch; /* JOB_EPOCH */
	uint64_t number;           /* of the round or epoch */
	uint64_t pages;            /* that it will have */
	uint64_t pages_sent, state_sent, stream_bytes, encode_ns;
	struct sent_counts forms;  /* of an epoch's pages */
	bool remembered;           /* a round's pages are */
	uint64_t cursor;           /* in `todo`, for what comes straight from guest memory */
};

struct primary {
	struct arena arena;
	int state_fd;
	char *definition;
	uint64_t definition_len;
	struct rpl_bitmap todo;     /* pfns taken from the dirty set, not yet staged or sent */

	/* session */
	enum session_phase phase;
	bool void_told;
	bool void_next;             /* by an end before anything was sent: refused, or it was so once already */
	struct rpl_uuid session;
	uint64_t generation, blackout_us; /* for the hello */
	uint64_t rounds;            /* bulk rounds begun */
	uint64_t staged, sent, acked; /* highest epochs; before the first: its number less one */
	bool resuming;              /* our hello asked for a session that the backup should hold */
	uint64_t peer_slots;        /* what the backup can stage */
	uint64_t last_state_len;
	uint64_t taken_ns;          /* when the last dirty set was taken */
	struct arena_epoch *waiting; /* the guest is paused until this direct epoch is in the link */
	bool full_told;

	/* sending */
	struct job job;
	struct sent last;           /* pages as they were sent last */
	struct rpl_digest *digest;
	uint8_t *body;              /* RPL_PAGES_BODY_MAX */
	uint8_t *bounce;            /* RPL_PAGES_PER_FRAME pages, for what is sent from guest memory */
	uint64_t bounce_pfn[RPL_PAGES_PER_FRAME];
	bool headers_sent;          /* of the session's stream */
	uint64_t turn_ns;           /* since when this turn of the pump has been with the job */
	uint64_t turn_pages;        /* that it has encoded */
	ev_timer pump, peek;
};

/* ---- stage.c */
int stage_setup(struct mover *m, struct rpl_err *err);
int stage_round(struct mover *m, struct rpl_err *err);
int stage_checkpoint(struct mover *m, const struct rpl_mover_msg *msg, struct rpl_err *err);

/* ---- send.c */
int send_setup(struct mover *m, struct rpl_err *err);
void send_kick(struct mover *m); /* there may be something to send, or room for it */
void send_reset(struct mover *m); /* the connection is gone: what was half sent begins anew */

/* ---- primary.c: the session cannot go on; tell the keeper, end the connection */
void primary_void(struct mover *m, const char *why);

/* Up to `max` set bits of `b` from *cursor on; *cursor moves behind the last. Returns how many. */
size_t primary_gather(const struct rpl_bitmap *b, uint64_t *cursor, uint64_t *pfns, size_t max);

#endif
