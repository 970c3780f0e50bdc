/* read.h - between read.c (the machine), read_header.c and read_fixed.c (what single pieces mean) */
#ifndef STREAM_READ_INTERNAL_H
#define STREAM_READ_INTERNAL_H

#include <replicad/stream_read.h>

enum phase {
	PH_XL_HEAD, PH_XL_CONFIG_LEN, PH_XL_CONFIG, PH_XL_EXTRA,
	PH_LIBXL_HEAD, PH_IMAGE_HEAD, PH_DOMAIN_HEAD,
	PH_RECORD, PH_FIXED, PH_PFNS, PH_PAGES, PH_BODY, PH_PADDING, PH_RECORD_OVER,
	PH_SKIP, PH_LEGACY, PH_LEGACY_DONE, PH_DONE, PH_REFUSED,
};

#define MORE 0   /* the span is used up */
#define EVENT 1
#define AGAIN 2  /* the phase changed without an event */

/* The next n bytes (n <= sizeof(r->buf)) in one piece, or NULL when the span ended before. */
const uint8_t *rpl_read_need(struct rpl_stream_reader *r, struct rpl_stream_in *in, uint32_t n);
/* Up to `most` bytes in whole elements, at least one; 0 when the span holds less. */
uint32_t rpl_read_some(struct rpl_stream_reader *r, struct rpl_stream_in *in, uint32_t elem, uint32_t most,
		       const uint8_t **ret);
/* Prepare an event of this kind; returns EVENT. */
int rpl_read_event(struct rpl_stream_reader *r, struct rpl_stream_event *ev, enum rpl_stream_event_kind kind,
		   uint64_t offset);
/* Refuse the stream because of the bytes at `offset`; returns `code`. */
int rpl_read_refuse(struct rpl_stream_reader *r, struct rpl_err *err, enum rpl_stream_rule rule, uint64_t offset,
		    int code, const char *fmt, ...) RPL_PRINTF(6, 7);

/* A header, or a piece of the xl configuration, in phase r->phase. */
int rpl_read_header(struct rpl_stream_reader *r, struct rpl_stream_in *in, struct rpl_stream_event *ev,
		    struct rpl_err *err);
/* The fixed head of r->rec at `bytes`, into the event's union. */
int rpl_read_fixed(struct rpl_stream_reader *r, struct rpl_stream_event *ev, const uint8_t *bytes, struct rpl_err *err);

#endif
