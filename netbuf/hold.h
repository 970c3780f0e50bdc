/* hold.h - which frames may leave, and when: the decisions of the relay, without sockets
 *
 * Frames of all ports stand in one queue in the order in which the guest sent them; each has a sequence number.
 * Everything below `free_to` may leave; a seal notes where an epoch ends; a release moves `free_to` to the end of the
 * released epoch. All memory is allocated by rpl_hold_new(); nothing else here allocates, blocks or reads a clock.
 *
 *   OPEN   free_to = infinity: a frame leaves as soon as those before it have left
 *   HOLD   frames stay until the epoch that contains them is released
 *   SHUT   nothing is kept and nothing passes: the guest is not ours (R8), or is not running yet
 *
 * A new series of epochs begins with each OPEN -> HOLD or SHUT -> HOLD: sealed and released are 0 again.
 */
#ifndef RPL_NETBUF_HOLD_H
#define RPL_NETBUF_HOLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include <replicad/err.h>

#define RPL_HOLD_BYTES_MIN (1024u * 1024)
#define RPL_HOLD_BYTES_DEFAULT (64u * 1024 * 1024)
#define RPL_HOLD_BYTES_MAX (4096ull * 1024 * 1024)
#define RPL_HOLD_FRAMES_MAX 65536u
#define RPL_HOLD_EPOCHS_MAX 64u       /* sealed and not yet released: the relay's max_uncommitted */
#define RPL_HOLD_FRAME_MAX (68u * 1024) /* the largest frame that QEMU sends */

enum rpl_hold_mode { RPL_HOLD_OPEN, RPL_HOLD_HOLD, RPL_HOLD_SHUT, RPL_HOLD_NMODES };

enum rpl_hold_verdict {
	RPL_HOLD_PASS, /* nothing is before it and output is open: emit it now, it was not kept */
	RPL_HOLD_KEPT, /* in the queue; may leave later, or at once (rpl_hold_next) */
	RPL_HOLD_FULL, /* did not fit: dropped and counted */
	RPL_HOLD_GONE, /* SHUT: dropped and counted */
};

struct rpl_hold_status {
	enum rpl_hold_mode mode;
	uint64_t held_frames, held_bytes;  /* in the queue, free to leave or not */
	uint64_t free_frames;              /* of these, free to leave */
	uint64_t sealed_epoch, released_epoch;
	uint64_t full_frames, gone_frames; /* dropped by a full queue; by SHUT or DROP */
};

struct rpl_hold;

/* NULL without memory. bytes_max and frames_max bound the queue. */
struct rpl_hold *rpl_hold_new(size_t bytes_max, uint32_t frames_max, enum rpl_hold_mode mode, struct rpl_err *err);
void rpl_hold_free(struct rpl_hold *h);

/* A frame from the guest's NIC `port`; len <= RPL_HOLD_FRAME_MAX. */
enum rpl_hold_verdict rpl_hold_push(struct rpl_hold *h, uint32_t port, const void *frame, size_t len);
/* A frame with verdict PASS could not be sent at once: queue it after all (KEPT or FULL). */
enum rpl_hold_verdict rpl_hold_keep(struct rpl_hold *h, uint32_t port, const void *frame, size_t len);
/* The oldest frame if it may leave: its pieces (1 or 2, valid until rpl_hold_pop) and its port; 0 pieces if none may. */
int rpl_hold_next(const struct rpl_hold *h, struct iovec piece[2], uint32_t *ret_port);
/* That frame has left, or could not be sent and is lost. */
void rpl_hold_pop(struct rpl_hold *h);

/* A mark says when the operation is complete: once rpl_hold_left(h) >= mark. seal and release: 0, or a refusal after
 * which nothing has changed. */
uint64_t rpl_hold_hold(struct rpl_hold *h);
uint64_t rpl_hold_open(struct rpl_hold *h);
/* Epoch numbers grow. Sealing the last sealed epoch again changes nothing: later frames stay with the next one. */
int rpl_hold_seal(struct rpl_hold *h, uint64_t epoch, struct rpl_err *err);
/* Epochs <= `epoch` may leave; an epoch that was not sealed is refused, one already released is fine. */
int rpl_hold_release(struct rpl_hold *h, uint64_t epoch, uint64_t *ret_mark, struct rpl_err *err);
/* Throw away all that is in the queue. drop: output is held afterwards, unless shut. */
void rpl_hold_drop(struct rpl_hold *h);
void rpl_hold_shut(struct rpl_hold *h);

/* How many frames have left the queue since the start, one way or the other. */
uint64_t rpl_hold_left(const struct rpl_hold *h);
bool rpl_hold_inbound(const struct rpl_hold *h); /* may frames pass to the guest? */
/* More than 3/4 of a bound is used: the epoch should end early. */
bool rpl_hold_nearly_full(const struct rpl_hold *h);
void rpl_hold_get_status(const struct rpl_hold *h, struct rpl_hold_status *ret);
const char *rpl_hold_mode_name(enum rpl_hold_mode mode);

#endif
