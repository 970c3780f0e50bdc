#include "hold.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <replicad/auto.h>

/* The queue is two rings: descriptors and bytes. A frame's bytes may wrap around the end of their ring, so the byte
 * bound is exact: used bytes are the sum of the lengths. Sequence numbers never wrap (2^64 frames). */
struct frame {
	size_t at; /* offset of its first byte */
	uint32_t len, port;
};

struct mark {
	uint64_t epoch, end; /* frames below `end` belong to `epoch` or an earlier one */
};

struct rpl_hold {
	uint8_t *bytes;
	struct frame *frames;
	size_t bytes_max;
	uint32_t frames_max;

	enum rpl_hold_mode mode;
	uint64_t head, tail;  /* sequence numbers of the oldest frame and of the next one to come */
	uint64_t free_to;     /* frames below may leave; UINT64_MAX while open */
	size_t byte_tail, byte_used;
	struct mark mark[RPL_HOLD_EPOCHS_MAX];
	uint32_t mark_first, mark_count;
	uint64_t sealed, released;
	uint64_t full_frames, gone_frames;
};

const char *rpl_hold_mode_name(enum rpl_hold_mode mode)
{
	static const char *const name[] = { "open", "hold", "shut" };

	_Static_assert(RPL_ARRAY_LEN(name) == RPL_HOLD_NMODES, "a name for each mode");
	return (unsigned)mode < RPL_HOLD_NMODES ? name[mode] : "?";
}

static void check(const struct rpl_hold *h)
{
	rpl_assert(h->head <= h->tail);
	rpl_assert(h->tail - h->head <= h->frames_max);
	rpl_assert(h->byte_used <= h->bytes_max);
	rpl_assert(h->released <= h->sealed);
	rpl_assert(h->mark_count <= RPL_HOLD_EPOCHS_MAX);
	rpl_assert((h->mode == RPL_HOLD_OPEN) == (h->free_to == UINT64_MAX));
	rpl_assert(h->mode != RPL_HOLD_SHUT || h->head == h->tail);
	rpl_assert(h->mode == RPL_HOLD_HOLD || h->mark_count == 0);
	rpl_assert(h->mode != RPL_HOLD_HOLD || h->free_to <= h->tail);
}

struct rpl_hold *rpl_hold_new(size_t bytes_max, uint32_t frames_max, enum rpl_hold_mode mode, struct rpl_err *err)
{
	struct rpl_hold *h = calloc(1, sizeof(*h));

	rpl_assert(bytes_max > 0);
	rpl_assert(frames_max > 0);
	if (h) {
		h->bytes = malloc(bytes_max);
		h->frames = calloc(frames_max, sizeof(*h->frames));
	}
	if (!h || !h->bytes || !h->frames) {
		rpl_hold_free(h);
		(void)rpl_fail(err, -ENOMEM, "hold: no memory for %zu bytes and %u frames", bytes_max, frames_max);
		return NULL;
	}
	h->bytes_max = bytes_max;
	h->frames_max = frames_max;
	h->mode = mode;
	h->free_to = mode == RPL_HOLD_OPEN ? UINT64_MAX : 0;
	check(h);
	return h;
}

void rpl_hold_free(struct rpl_hold *h)
{
	if (!h)
		return;
	free(h->bytes);
	free(h->frames);
	free(h);
}

static void store(struct rpl_hold *h, const void *frame, size_t len)
{
	size_t first = h->bytes_max - h->byte_tail;

	if (first > len)
		first = len;
	memcpy(h->bytes + h->byte_tail, frame, first);
	memcpy(h->bytes, (const uint8_t *)frame + first, len - first);
	h->byte_tail = len - first ? len - first : h->byte_tail + first;
	if (h->byte_tail == h->bytes_max)
		h->byte_tail = 0;
	h->byte_used += len;
}

enum rpl_hold_verdict rpl_hold_keep(struct rpl_hold *h, uint32_t port, const void *frame, size_t len)
{
	rpl_assert(len > 0);
	rpl_assert(len <= RPL_HOLD_FRAME_MAX);
	rpl_assert(h->mode != RPL_HOLD_SHUT);
	if (h->tail - h->head == h->frames_max || h->bytes_max - h->byte_used < len) {
		h->full_frames++;
		return RPL_HOLD_FULL;
	}
	h->frames[h->tail % h->frames_max] = (struct frame){ .at = h->byte_tail, .len = (uint32_t)len, .port = port };
	store(h, frame, len);
	h->tail++;
	return RPL_HOLD_KEPT;
}

enum rpl_hold_verdict rpl_hold_push(struct rpl_hold *h, uint32_t port, const void *frame, size_t len)
{
	if (h->mode == RPL_HOLD_SHUT) {
		h->gone_frames++;
		return RPL_HOLD_GONE;
	}
	if (h->mode == RPL_HOLD_OPEN && h->head == h->tail)
		return RPL_HOLD_PASS;
	return rpl_hold_keep(h, port, frame, len);
}

int rpl_hold_next(const struct rpl_hold *h, struct iovec piece[2], uint32_t *ret_port)
{
	const struct frame *f = &h->frames[h->head % h->frames_max];
	size_t first;

	if (h->head == h->tail || h->head >= h->free_to)
		return 0;
	*ret_port = f->port;
	first = h->bytes_max - f->at;
	piece[0] = (struct iovec){ .iov_base = h->bytes + f->at, .iov_len = f->len };
	if (first >= f->len)
		return 1;
	piece[0].iov_len = first;
	piece[1] = (struct iovec){ .iov_base = h->bytes, .iov_len = f->len - first };
	return 2;
}

void rpl_hold_pop(struct rpl_hold *h)
{
	rpl_assert(h->head < h->tail);
	rpl_assert(h->head < h->free_to);
	h->byte_used -= h->frames[h->head % h->frames_max].len;
	h->head++;
	check(h);
}

static void discard_all(struct rpl_hold *h)
{
	h->gone_frames += h->tail - h->head;
	h->head = h->tail;
	h->byte_used = 0;
	for (uint32_t i = 0; i < h->mark_count; i++)
		h->mark[(h->mark_first + i) % RPL_HOLD_EPOCHS_MAX].end = h->tail;
}

uint64_t rpl_hold_hold(struct rpl_hold *h)
{
	if (h->mode != RPL_HOLD_HOLD) {
		h->free_to = h->tail;
		h->sealed = h->released = 0;
		h->mode = RPL_HOLD_HOLD;
	}
	check(h);
	return h->free_to;
}

uint64_t rpl_hold_open(struct rpl_hold *h)
{
	h->mode = RPL_HOLD_OPEN;
	h->free_to = UINT64_MAX;
	h->mark_count = 0;
	check(h);
	return h->tail;
}

int rpl_hold_seal(struct rpl_hold *h, uint64_t epoch, struct rpl_err *err)
{
	if (h->mode != RPL_HOLD_HOLD)
		return rpl_fail(err, -EINVAL, "seal of epoch %" PRIu64 ": the output is %s, not held", epoch,
				rpl_hold_mode_name(h->mode));
	if (epoch == h->sealed && epoch > 0)
		return 0;
	if (epoch <= h->sealed)
		return rpl_fail(err, -EINVAL, "seal of epoch %" PRIu64 ": epoch %" PRIu64 " is sealed already", epoch,
				h->sealed);
	if (h->mark_count == RPL_HOLD_EPOCHS_MAX)
		return rpl_fail(err, -EBUSY, "seal of epoch %" PRIu64 ": %u epochs are sealed and not released",
				epoch, h->mark_count);
	h->mark[(h->mark_first + h->mark_count++) % RPL_HOLD_EPOCHS_MAX] = (struct mark){ .epoch = epoch,
											   .end = h->tail };
	h->sealed = epoch;
	check(h);
	return 0;
}

int rpl_hold_release(struct rpl_hold *h, uint64_t epoch, uint64_t *ret_mark, struct rpl_err *err)
{
	if (h->mode == RPL_HOLD_SHUT)
		return rpl_fail(err, -ESHUTDOWN, "release of epoch %" PRIu64 ": the output is shut", epoch);
	if (epoch > h->sealed) /* an ack for what was never sealed: somebody is mistaken, so nothing leaves (R1) */
		return rpl_fail(err, -EINVAL, "release of epoch %" PRIu64 ": only epoch %" PRIu64 " is sealed", epoch,
				h->sealed);
	while (h->mark_count && h->mark[h->mark_first].epoch <= epoch) {
		h->free_to = h->mark[h->mark_first].end;
		h->mark_first = (h->mark_first + 1) % RPL_HOLD_EPOCHS_MAX;
		h->mark_count--;
	}
	if (epoch > h->released)
		h->released = epoch;
	*ret_mark = h->mode == RPL_HOLD_OPEN ? h->tail : h->free_to;
	check(h);
	return 0;
}

void rpl_hold_drop(struct rpl_hold *h)
{
	discard_all(h);
	if (h->mode == RPL_HOLD_SHUT)
		return;
	if (h->mode == RPL_HOLD_OPEN)
		h->sealed = h->released = 0;
	h->mode = RPL_HOLD_HOLD;
	h->free_to = h->tail;
	check(h);
}

void rpl_hold_shut(struct rpl_hold *h)
{
	discard_all(h);
	h->mode = RPL_HOLD_SHUT;
	h->free_to = h->tail;
	h->mark_count = 0;
	check(h);
}

uint64_t rpl_hold_left(const struct rpl_hold *h)
{
	return h->head;
}

bool rpl_hold_inbound(const struct rpl_hold *h)
{
	return h->mode != RPL_HOLD_SHUT;
}

bool rpl_hold_nearly_full(const struct rpl_hold *h)
{
	return h->tail - h->head > h->frames_max / 4 * 3 || h->byte_used > h->bytes_max / 4 * 3;
}

void rpl_hold_get_status(const struct rpl_hold *h, struct rpl_hold_status *ret)
{
	uint64_t may = h->free_to < h->tail ? h->free_to : h->tail;

	*ret = (struct rpl_hold_status){
		.mode = h->mode,
		.held_frames = h->tail - h->head,
		.held_bytes = h->byte_used,
		.free_frames = may > h->head ? may - h->head : 0,
		.sealed_epoch = h->sealed,
		.released_epoch = h->released,
		.full_frames = h->full_frames,
		.gone_frames = h->gone_frames,
	};
}
