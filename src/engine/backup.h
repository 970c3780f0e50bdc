/* backup.h - what the files of the backup's role share */
#ifndef ENGINE_BACKUP_H
#define ENGINE_BACKUP_H

#include <replicad/pages.h>
#include <replicad/replica.h>
#include <replicad/stream.h>

#include "engine.h"

#define BACKUP_STREAM_EXTRA (64 * 1024) /* bytes that an epoch's stream may have besides pages and device state */

/* The stream, from frames to records. It is the session's: `reader` is what the frames of the round or epoch under way
 * have fed, `good` how it stood before, to begin anew after a reconnect. */
struct apply {
	struct rpl_replica *replica;
	const struct rpl_ram_layout *layout;
	struct rpl_stream_reader reader, good;
	bool good_static, is_static;  /* STATIC_DATA_END was seen */
	uint64_t descs[RPL_STREAM_PAGES_PER_RECORD];
	struct rpl_digest *digest;
	/* the round or epoch under way */
	enum { APPLY_IDLE, APPLY_ROUND, APPLY_EPOCH } kind;
	struct rpl_epoch_begin begin;
	uint64_t bytes, pages, state_len, checkpoints;
	bool in_record, have_state;
	uint8_t producer[RPL_PRODUCER_MAX];
	uint32_t producer_len;
	struct rpl_pages decoded;
};

int apply_init(struct apply *a, struct rpl_replica *replica, const struct rpl_ram_layout *layout, struct rpl_err *err);
void apply_session(struct apply *a); /* a new stream begins */
void apply_cut(struct apply *a);     /* the connection is gone: forget what is under way */
/* EPOCH_BEGIN, STREAM, PAGES. A negative return ends the connection. */
int apply_frame(struct apply *a, enum rpl_frame type, const uint8_t *body, size_t len, struct rpl_err *err);
/* EPOCH_END: verify and seal. 1: an epoch is staged (*ret_epoch); 0: a round is complete. */
int apply_end(struct apply *a, const uint8_t *body, uint64_t *ret_epoch, struct rpl_err *err);

#endif
