/* stream_read.h - read migration streams of every layer, incrementally
 *
 * Bytes go in as spans of any length, events come out one by one. Nothing is allocated and nothing is copied except what a
 * span boundary cut in two; pointers in an event lead into the caller's span (or into the reader, for such a remainder) and
 * hold until the next call. Pages are always whole, elements of arrays never cut.
 *
 *   struct rpl_stream_in in = { data, len };
 *   while ((r = rpl_stream_next(&reader, &in, &ev, &err)) > 0)
 *           use(&ev);
 *   r == 0: the span is used up, give the next one; r < 0: the stream is refused, err says why and where
 *
 * The reader follows the layers: libxl → libxc at LIBXC_CONTEXT, back at CHECKPOINT or END, and to libxc again at
 * CHECKPOINT_END. It refuses what cannot be followed or what no reader could use: a wrong length, an unknown mandatory type, a
 * page type 5-8, a big-endian stream. It is as lax as Xen's own readers about reserved fields and padding (they are
 * reported as remarks) and knows nothing about order: rpl_stream_check() (stream_check.h) judges that.
 */
#ifndef REPLICAD_STREAM_READ_H
#define REPLICAD_STREAM_READ_H

#include <stddef.h>
#include <stdint.h>

#include <replicad/err.h>
#include <replicad/stream_format.h>
#include <replicad/stream_rules.h>
#include <replicad/stream_write.h>

/* What the first bytes of a stream say. */
enum rpl_stream_format {
	RPL_FORMAT_UNKNOWN, /* fewer bytes than it takes */
	RPL_FORMAT_XL,
	RPL_FORMAT_LIBXL,
	RPL_FORMAT_LIBXC,
	RPL_FORMAT_LEGACY, /* before Xen 4.6, or no Xen stream at all: such streams have no magic */
};
#define RPL_STREAM_DETECT 8u /* bytes that settle it */
enum rpl_stream_format rpl_stream_detect(const void *first, size_t len);

enum rpl_stream_event_kind {
	RPL_EV_XL_HEADER,     /* ev->xl; complete with the length of the configuration */
	RPL_EV_XL_CONFIG,     /* ev->bytes, len: a piece of the configuration */
	RPL_EV_XL_EXTRA,      /* optional data behind the configuration */
	RPL_EV_LIBXL_HEADER,  /* ev->libxl_options */
	RPL_EV_IMAGE_HEADER,  /* ev->image_version */
	RPL_EV_DOMAIN_HEADER, /* ev->domain */
	RPL_EV_RECORD,        /* a record began: ev->rec, its fixed head in the union, and raw at ev->bytes, len */
	RPL_EV_PFNS,          /* PAGE_DATA: all descriptors: ev->pfns */
	RPL_EV_PAGES,         /* PAGE_DATA: ev->len / 4096 whole pages at ev->bytes; ev->first counts data pages before */
	RPL_EV_BODY,          /* what follows the fixed head: ev->bytes, len; ev->first bytes came before */
	RPL_EV_RECORD_END,    /* body and padding are complete */
	RPL_EV_LEGACY,        /* the xl header announced a legacy stream: the bytes that follow are not for this reader */
};

/* Tolerated by stock readers, reported by verifiers. */
#define RPL_REMARK_RESERVED 1u /* a reserved field or bit is not zero */
#define RPL_REMARK_PADDING 2u  /* padding is not zero */
#define RPL_REMARK_UNKNOWN 4u  /* an optional record of unknown type; its body is passed on */

struct rpl_stream_record {
	enum rpl_stream_layer layer;
	uint32_t type, len;
	uint64_t offset; /* of its first byte, in the stream */
	uint64_t nr;     /* counts records of both layers, from 0 */
};

struct rpl_stream_event {
	enum rpl_stream_event_kind kind;
	unsigned remarks;
	uint64_t offset; /* of the event's first byte, in the stream */
	struct rpl_stream_record rec;
	const uint8_t *bytes;
	size_t len;
	uint64_t first;
	union {
		struct {
			uint32_t mandatory_flags, optional_flags, optional_len, config_len;
		} xl;
		uint32_t libxl_options;
		uint32_t image_version;
		struct rpl_stream_domain_header domain;
		struct {
			uint32_t count;        /* RECORD: descriptors to come; PFNS: descriptors */
			uint32_t pages;        /* PFNS: those with data */
			const uint64_t *descs; /* PFNS: host order */
		} pfns;
		struct {
			uint8_t width, levels;
		} pv_info;
		struct {
			uint32_t first, last;
		} p2m;
		uint32_t vcpu;
		struct rpl_stream_tsc tsc;
		uint32_t n_params;
		struct {
			uint32_t id, index;
		} emulator;
		uint32_t colo_state;
		struct {
			uint32_t algorithm;
			uint64_t bytes, low, high;
		} digest;
	};
};

struct rpl_stream_in {
	const uint8_t *p;
	size_t len;
};

struct rpl_stream_reader {
	/* set by init */
	enum rpl_stream_format format;
	uint64_t *descs;
	uint32_t descs_max;
	/* where we are */
	unsigned phase;
	enum rpl_stream_layer layer;
	uint64_t offset; /* of the next byte */
	bool has_libxl, seen_image, after_checkpoint_end, libxc_over;
	uint64_t checkpoints; /* complete ones */
	uint64_t good_offset; /* behind the last complete checkpoint */
	struct rpl_stream_record rec;
	uint32_t left;        /* bytes of the body (or of optional data) not yet passed on */
	uint32_t pad;
	uint32_t head, elem;
	uint32_t xl_flags, xl_optional_flags, xl_config, xl_config_left;
	uint32_t count, got;  /* PAGE_DATA: descriptors, those read */
	uint32_t pages, pages_done;
	uint64_t nr;
	unsigned remarks;
	/* why it was refused */
	enum rpl_stream_rule rule;
	uint64_t bad_offset;
	bool can_skip;
	/* a field, element or page that a span boundary cut */
	uint32_t have;
	uint8_t buf[RPL_STREAM_PAGE];
};

/* `format` names the outermost layer (RPL_FORMAT_LEGACY is refused at the first byte). `descs` is room for the descriptors
 * of one PAGE_DATA record, the caller's for the reader's lifetime; a record with more is refused. */
void rpl_stream_reader_init(struct rpl_stream_reader *r, enum rpl_stream_format format, uint64_t *descs,
			    uint32_t descs_max);

/* Take bytes from *in until there is an event. 1: *ev is filled; 0: *in is empty; negative (-EBADMSG, -EMSGSIZE when a limit of
 * ours was met): refused, for good. r->rule and r->bad_offset tell which rule, where. */
int rpl_stream_next(struct rpl_stream_reader *r, struct rpl_stream_in *in, struct rpl_stream_event *ev,
		    struct rpl_err *err);

/* The next `pages` data pages of the PAGE_DATA record reached its reader on another way (in a link frame of their own):
 * count them as read. Legal between PFNS and the record's end; -EINVAL if so many are not outstanding. */
int rpl_stream_pages_elsewhere(struct rpl_stream_reader *r, uint32_t pages, struct rpl_err *err);

/* After a refusal inside a record's body: go on behind that record, for tools that want every finding. -EINVAL when the
 * stream cannot be followed any further. */
int rpl_stream_skip_record(struct rpl_stream_reader *r);

enum rpl_stream_ending {
	RPL_ENDING_COMPLETE,   /* a plain stream, up to its END */
	RPL_ENDING_CHECKPOINT, /* a checkpointed stream, right behind a complete checkpoint: the way these end */
	RPL_ENDING_CUT,        /* inside a checkpoint; r->checkpoints earlier ones are complete, up to r->good_offset */
	RPL_ENDING_NOTHING,    /* not even one complete checkpoint */
	RPL_ENDING_REFUSED,
};
/* What it means that the bytes end here. */
enum rpl_stream_ending rpl_stream_ending(const struct rpl_stream_reader *r);

/* A complete RPL_PRODUCER body. 0 or -EBADMSG. */
int rpl_stream_get_producer(const void *body, size_t len, struct rpl_stream_producer *ret, struct rpl_err *err);

#endif
