/* stream_convert.h - from one format, version or layer to another, in constant memory
 *
 * Bytes leave through a sink; nothing else is touched. A conversion that fails leaves a useless beginning in the sink.
 */
#ifndef REPLICAD_STREAM_CONVERT_H
#define REPLICAD_STREAM_CONVERT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <replicad/err.h>
#include <replicad/stream_read.h>

struct rpl_stream_sink {
	void *ctx;
	int (*write)(void *ctx, const void *bytes, size_t len); /* 0 or a negative errno */
	/* For RPL_DIGEST, both NULL otherwise: the libxc image begins with the next byte; its hash so far. */
	void (*image)(void *ctx);
	void (*digest)(void *ctx, uint64_t *ret_bytes, uint64_t *ret_low, uint64_t *ret_high);
};

struct rpl_stream_convert {
	/* the caller's wishes; zero: as the input is */
	enum rpl_stream_format to; /* RPL_FORMAT_XL, _LIBXL or _LIBXC */
	uint32_t version;          /* image version: 2, 3, or 0 */
	uint64_t checkpoint;       /* 0: all of the stream; n: a plain stream of the guest at the n-th checkpoint, from 1 */
	const char *config;        /* to RPL_FORMAT_XL: JSON with its NUL counted in config_len; NULL: the input's own */
	size_t config_len;
	const struct rpl_stream_sink *sink;
	/* what was left out, for the caller to say */
	uint64_t dropped_policies, dropped_emulator, dropped_digests;
	/* its own */
	bool xl_written, from_libxl, over, pass, static_end;
	uint32_t out_version;
	uint64_t checkpoints;
};

/* Fill in the wishes, zero the rest. Feed every event of the input. 0; 1 when the output is complete (the rest of the
 * input is not wanted); -EINVAL for a wish that this input cannot fulfil; or the sink's error. */
int rpl_stream_convert(struct rpl_stream_convert *c, const struct rpl_stream_event *ev, struct rpl_err *err);
/* The input ended as `ending`. 0 if the output is whole, else -EBADMSG. */
int rpl_stream_convert_end(const struct rpl_stream_convert *c, enum rpl_stream_ending ending, struct rpl_err *err);

/* ---- streams from before Xen 4.6 */
enum rpl_legacy_guest { RPL_LEGACY_GUESS, RPL_LEGACY_PV, RPL_LEGACY_HVM };

struct rpl_legacy {
	/* the caller's wishes */
	enum rpl_stream_format to; /* RPL_FORMAT_LIBXC, _LIBXL or _XL (then with `config`) */
	enum rpl_legacy_guest guest;
	unsigned width;            /* of the toolstack's unsigned long: 4, 8, or 0 to guess */
	uint32_t version;          /* 2 or 3 */
	const char *config;
	size_t config_len;
	const struct rpl_stream_sink *sink;
	/* Exactly `len` bytes of the legacy stream: 1; 0 when it ends before (*ret_got says with how many); negative errno. */
	int (*read)(void *ctx, void *buf, size_t len, size_t *ret_got);
	void *read_ctx;
};

/* Convert all of it. 0, -EBADMSG, -EOPNOTSUPP (tmem, compression), or an error of read or sink.
 * *ret_dropped_emulator counts device-model records that a bare libxc image has no place for. */
int rpl_legacy_convert(const struct rpl_legacy *l, uint64_t *ret_dropped_emulator, struct rpl_err *err);

#endif
