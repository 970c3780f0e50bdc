/* frame.c - frame headers and the incremental parser (see frame.h) */
#include "frame.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <replicad/cur.h>
#include <replicad/pages.h>

#define BATCH_BYTES (256 * 1024) /* read ahead of the frame under way, so that small frames come several at a time */

_Static_assert(RPL_PAGES_BODY_MAX <= RPL_FRAME_BODY_MAX, "a full PAGES body fits a frame");
#define X(name, number, min, max)                                                                 \
	_Static_assert((min) <= (max) && (max) <= RPL_FRAME_BODY_MAX, #name ": bounds in order"); \
	_Static_assert((number) > 0 && (number) <= UINT16_MAX, #name ": number fits the header");
RPL_FRAMES(X)
#undef X

const char *rpl_frame_name(uint16_t type)
{
	switch (type) {
#define X(name, number, min, max) \
	case (number):            \
		return #name;
		RPL_FRAMES(X)
#undef X
	}
	return "?";
}

bool rpl_frame_bounds(uint16_t type, uint32_t *ret_min, uint32_t *ret_max)
{
	switch (type) {
#define X(name, number, min, max) \
	case (number):            \
		*ret_min = (min); \
		*ret_max = (max); \
		return true;
		RPL_FRAMES(X)
#undef X
	}
	return false;
}

bool rpl_frame_is_bulk(uint16_t type)
{
	return type == RPL_FRAME_STREAM || type == RPL_FRAME_PAGES || type == RPL_FRAME_REDO;
}

void rpl_frame_header_encode(uint16_t type, uint32_t len, uint64_t seq, uint8_t ret[RPL_FRAME_HEADER])
{
	struct rpl_out o = rpl_out(ret, RPL_FRAME_HEADER);

	rpl_out_le32(&o, len);
	rpl_out_le16(&o, type);
	rpl_out_le16(&o, 0);
	rpl_out_le64(&o, seq);
}

int rpl_frame_header_decode(const uint8_t h[RPL_FRAME_HEADER], uint64_t seq, uint16_t *ret_type, uint32_t *ret_len,
			    struct rpl_err *err)
{
	struct rpl_cur c = rpl_cur(h, RPL_FRAME_HEADER);
	uint32_t len = rpl_cur_le32(&c), min, max;
	uint16_t type = rpl_cur_le16(&c), zero = rpl_cur_le16(&c);
	uint64_t got = rpl_cur_le64(&c);

	if (!rpl_frame_bounds(type, &min, &max))
		return rpl_fail(err, -EBADMSG, "frame %" PRIu64 ": unknown type %u", seq, type);
	if (zero)
		return rpl_fail(err, -EBADMSG, "frame %" PRIu64 " %s: reserved field is 0x%x, not 0", seq,
				rpl_frame_name(type), zero);
	if (got != seq)
		return rpl_fail(err, -EBADMSG, "frame %" PRIu64 " %s: carries sequence number %" PRIu64, seq,
				rpl_frame_name(type), got);
	if (len < min || len > max)
		return rpl_fail(err, -EBADMSG, "frame %" PRIu64 " %s: body of %" PRIu32 " bytes, allowed %" PRIu32
				" to %" PRIu32, seq, rpl_frame_name(type), len, min, max);
	if (seq == 0 && type != RPL_FRAME_HELLO && type != RPL_FRAME_REFUSE)
		return rpl_fail(err, -EBADMSG, "frame 0: %s before HELLO", rpl_frame_name(type));
	*ret_type = type;
	*ret_len = len;
	return 0;
}

int rpl_framer_init(struct rpl_framer *f)
{
	*f = (struct rpl_framer){ .buf = malloc(RPL_FRAME_MAX) };
	return f->buf ? 0 : -ENOMEM;
}

void rpl_framer_fini(struct rpl_framer *f)
{
	free(f->buf);
	*f = (struct rpl_framer){ 0 };
}

/* What the frame at `start` still lacks: the rest of its header, or of its body. */
static size_t lacking(const struct rpl_framer *f)
{
	size_t have = f->end - f->start, whole;
	struct rpl_cur c;

	if (have < RPL_FRAME_HEADER)
		return RPL_FRAME_HEADER - have;
	c = rpl_cur(f->buf + f->start, have);
	whole = RPL_FRAME_HEADER + (size_t)rpl_cur_le32(&c);
	return whole > have ? whole - have : 0;
}

size_t rpl_framer_space(struct rpl_framer *f, uint8_t **ret_where)
{
	size_t want = lacking(f);

	rpl_assert(!f->bad);
	if (want < BATCH_BYTES)
		want = BATCH_BYTES;
	if (want > RPL_FRAME_MAX - f->end && f->start) {
		memmove(f->buf, f->buf + f->start, f->end - f->start);
		f->end -= f->start;
		f->start = 0;
	}
	if (want > RPL_FRAME_MAX - f->end)
		want = RPL_FRAME_MAX - f->end;
	*ret_where = f->buf + f->end;
	return want;
}

void rpl_framer_filled(struct rpl_framer *f, size_t n)
{
	rpl_assert(n <= RPL_FRAME_MAX - f->end);
	f->end += n;
}

int rpl_framer_next(struct rpl_framer *f, uint16_t *ret_type, const uint8_t **ret_body, size_t *ret_len,
		    struct rpl_err *err)
{
	uint16_t type;
	uint32_t len;
	int r;

	if (f->bad)
		return rpl_fail(err, -EBADMSG, "frame %" PRIu64 ": after a refused one", f->seq);
	if (f->end - f->start < RPL_FRAME_HEADER)
		return 0;
	r = rpl_frame_header_decode(f->buf + f->start, f->seq, &type, &len, err);
	if (r < 0) {
		f->bad = true;
		return r;
	}
	if (f->end - f->start - RPL_FRAME_HEADER < len)
		return 0;
	*ret_type = type;
	*ret_body = f->buf + f->start + RPL_FRAME_HEADER;
	*ret_len = len;
	f->seq++;
	f->start += RPL_FRAME_HEADER + (size_t)len;
	if (f->start == f->end)
		f->start = f->end = 0;
	return 1;
}

size_t rpl_framer_pending(const struct rpl_framer *f)
{
	return f->end - f->start;
}
