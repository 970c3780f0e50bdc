/* frame.h - frames out of bytes: header checks and the incremental stream parser. Pure; private to the link room */
#ifndef RPL_LINK_FRAME_H
#define RPL_LINK_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include <replicad/err.h>
#include <replicad/link.h>

#define RPL_FRAME_MAX (RPL_FRAME_HEADER + RPL_FRAME_BODY_MAX)

/* Smallest and largest body of a type; false if there is no such type. */
bool rpl_frame_bounds(uint16_t type, uint32_t *ret_min, uint32_t *ret_max);
/* STREAM, PAGES, REDO: what may fill the queue. */
bool rpl_frame_is_bulk(uint16_t type);

void rpl_frame_header_encode(uint16_t type, uint32_t len, uint64_t seq, uint8_t ret[RPL_FRAME_HEADER]);
/* Check a header against the sequence number that is due; -EBADMSG with the field that is wrong. */
int rpl_frame_header_decode(const uint8_t h[RPL_FRAME_HEADER], uint64_t seq, uint16_t *ret_type, uint32_t *ret_len,
			    struct rpl_err *err);

/* Bytes of one direction, cut into frames. The buffer holds at most one largest frame; a header is checked as soon as
 * it is there, and a frame that will be refused is never waited for. */
struct rpl_framer {
	uint8_t *buf;        /* RPL_FRAME_MAX bytes, allocated once */
	size_t start, end;   /* what is in it */
	uint64_t seq;        /* of the frame that is due */
	bool bad;            /* a header was refused: nothing more comes out */
};

int rpl_framer_init(struct rpl_framer *f);
void rpl_framer_fini(struct rpl_framer *f);
/* Where the next bytes belong, and how many may be put there now (never 0 while all frames were taken out): what the
 * frame under way lacks, or a batch of small ones. */
size_t rpl_framer_space(struct rpl_framer *f, uint8_t **ret_where);
void rpl_framer_filled(struct rpl_framer *f, size_t n);
/* Take the next whole frame: 1, or 0 if there is none yet, or -EBADMSG. The body is valid until the next call. */
int rpl_framer_next(struct rpl_framer *f, uint16_t *ret_type, const uint8_t **ret_body, size_t *ret_len,
		    struct rpl_err *err);
/* Bytes of an unfinished frame. */
size_t rpl_framer_pending(const struct rpl_framer *f);

#endif
