/* stream_cli.h - what `replicad stream verify`, `show` and `convert` share: input, events, digest */
#ifndef RPL_STREAM_CLI_H
#define RPL_STREAM_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <replicad/err.h>
#include <replicad/stream.h>
#include <replicad/stream_check.h>

#define STREAM_EXIT_CLEAN 0
#define STREAM_EXIT_FINDINGS 1
#define STREAM_EXIT_TROUBLE 2 /* usage, or the file cannot be read or written */

#define STREAM_INPUT_BYTES (256u << 10)  /* one read: fits the second-level cache */
#define STREAM_INPUT_HEADS (16u << 10)   /* a read behind skipped pages: the next record's head and descriptors */
#define STREAM_DESCS_MAX (1u << 16)      /* descriptors in one PAGE_DATA; stock writers keep to 1024 */
#define STREAM_TYPES_MAX (8u << 20)      /* pfns whose page types verify remembers, half a byte each: the first 32 GiB of a PV guest */
#define STREAM_CONFIG_MAX (128u << 10)   /* an xl configuration that is looked into; parsed it takes up to 30 times that */
#define STREAM_PROGRESS_STEP (256u << 20)

int stream_verify(int argc, char **argv);
int stream_show(int argc, char **argv);
int stream_convert(int argc, char **argv);

/* ---- input: a file or standard input, read in spans */
struct stream_input {
	const char *name;
	int fd;
	uint8_t *buf;
	size_t at, len;   /* unread bytes are buf[at..len) */
	uint64_t offset;  /* of buf[at] in the input */
	uint64_t size;    /* of a regular file, else 0 */
	uint64_t said;    /* progress */
	unsigned silence_ms; /* the longest wait for a byte, then -ETIMEDOUT; 0: for ever. stream_input_open() clears it */
	bool progress, skipped;
};
/* `path` "-" is standard input. 0 or a negative errno; stream_input_fini() accepts a zeroed struct. */
int stream_input_open(struct stream_input *in, const char *path, struct rpl_err *err);
void stream_input_fini(struct stream_input *in);
/* Make at least `want` unread bytes available if the input has them. Returns how many there are, or a negative errno. */
ssize_t stream_input_peek(struct stream_input *in, size_t want, struct rpl_err *err);
/* Exactly `len` bytes: 1; 0 when the input ends before; negative errno. */
int stream_input_read(struct stream_input *in, void *buf, size_t len, struct rpl_err *err);

/* ---- events of the whole input, to a function */
/* Are the pages of this RPL_EV_PFNS event of interest? Those of a regular file that are not are never read. */
typedef bool stream_pages_fn(void *ctx, const struct rpl_stream_event *ev);

struct stream_run {
	struct stream_input in;
	stream_pages_fn *want_pages; /* NULL: always */
	enum rpl_stream_format format;
	struct rpl_stream_reader reader;
	uint64_t *descs;
	struct stream_digest *digest; /* NULL: not computed */
};
/* Returns 0 to go on, anything else stops the run and is returned by it. */
typedef int stream_event_fn(void *ctx, const struct rpl_stream_event *ev);
/* A refusal; return 0 to stop, 1 to go on behind the record if that is possible. */
typedef int stream_refused_fn(void *ctx, const struct rpl_stream_reader *r, const struct rpl_err *err);

/* `format` RPL_FORMAT_UNKNOWN: recognise it. 0 or a negative errno. */
int stream_run_open(struct stream_run *run, const char *path, enum rpl_stream_format format, struct rpl_err *err);
void stream_run_fini(struct stream_run *run);
/* Until the input ends, a refusal, or the function stops it. 0 at the end of input; negative errno for I/O trouble,
 * -EBADMSG after a refusal; else what the function returned. */
int stream_run_events(struct stream_run *run, stream_event_fn *fn, stream_refused_fn *refused, void *ctx,
		      struct rpl_err *err);

/* "xl", "libxl", "libxc", "legacy"; RPL_FORMAT_UNKNOWN for anything else. */
enum rpl_stream_format stream_format_by_name(const char *name);
const char *stream_format_name(enum rpl_stream_format format);

/* ---- an xl configuration, piece by piece; one longer than STREAM_CONFIG_MAX is not kept */
struct stream_config {
	char *text; /* NUL-terminated; NULL: none, or too long */
	size_t len;
	bool too_long;
};
void stream_config_add(struct stream_config *c, const struct rpl_stream_event *ev);
void stream_config_fini(struct stream_config *c);

/* ---- RPL_DIGEST: XXH3-128 of the image's bytes. It lags 40 bytes behind, so that a digest record does not cover itself. */
struct stream_digest *stream_digest_new(void);
void stream_digest_free(struct stream_digest *d);
void stream_digest_image(struct stream_digest *d); /* the image header was the last that went in: start there */
void stream_digest_bytes(struct stream_digest *d, const void *bytes, size_t len);
/* The hash without the last 40 bytes (`whole`: with them). */
void stream_digest_get(const struct stream_digest *d, bool whole, uint64_t *ret_bytes, uint64_t *ret_low,
		       uint64_t *ret_high);

/* ---- output of text as JSON: a quoted string */
void stream_json_string(const char *text);

#endif
