/* stream_write.h - put the pieces of a migration stream into the caller's buffer
 *
 * Pure: no I/O, no allocation, no state. Every function appends to a struct rpl_out (cur.h); when the buffer is too small
 * `bad` is set, nothing is half written by a single field, and the caller checks once at the end. Big bodies (pages, device
 * state) need not pass through: write the head, send the body from where it is, then rpl_stream_padding(len) zero bytes.
 *
 *   session: libxl header, LIBXC_CONTEXT, image header, domain header, [PRODUCER], [policies], STATIC_DATA_END
 *   epoch:   PAGE_DATA ..., tail records, CHECKPOINT, EMULATOR_CONTEXT, CHECKPOINT_END
 *
 * Errors: arguments that no reader would accept (a page type 5-8, an empty PAGE_DATA, too many ranges) are a bug of the
 * caller and set `bad`.
 */
#ifndef REPLICAD_STREAM_WRITE_H
#define REPLICAD_STREAM_WRITE_H

#include <stddef.h>
#include <stdint.h>

#include <replicad/cur.h>
#include <replicad/stream_format.h>

struct rpl_stream_domain_header {
	uint32_t type;       /* RPL_DOMAIN_PV or RPL_DOMAIN_HVM */
	uint16_t page_shift; /* RPL_STREAM_PAGE_SHIFT */
	uint32_t xen_major, xen_minor;
};

struct rpl_stream_range {
	uint64_t pfn, pages;
	uint64_t offset; /* bytes, in the guest's RAM file */
};

struct rpl_stream_producer {
	uint32_t kind; /* RPL_PRODUCER_QEMU, ... */
	unsigned n_ranges;
	struct rpl_stream_range ranges[RPL_PRODUCER_RANGES_MAX];
	char name[RPL_PRODUCER_TEXT_MAX + 1];    /* "QEMU 7.2.22" */
	char machine[RPL_PRODUCER_TEXT_MAX + 1]; /* "pc-q35-7.2" */
};

struct rpl_stream_tsc {
	uint32_t mode, khz, incarnation;
	uint64_t nsec;
};

struct rpl_stream_param {
	uint64_t index, value;
};

/* ---- headers */
/* `config_len` counts the terminating NUL that must be in the configuration bytes, which follow; 0: no configuration. */
void rpl_stream_put_xl_header(struct rpl_out *o, uint32_t mandatory_flags, uint32_t config_len);
void rpl_stream_put_libxl_header(struct rpl_out *o, uint32_t options);
void rpl_stream_put_image_header(struct rpl_out *o, uint32_t version);
void rpl_stream_put_domain_header(struct rpl_out *o, const struct rpl_stream_domain_header *d);

/* ---- records of either layer */
/* Only the 8 bytes {type, len}; the body and its padding are the caller's. */
void rpl_stream_put_record_head(struct rpl_out *o, uint32_t type, uint32_t len);
void rpl_stream_put_padding(struct rpl_out *o, uint32_t body_len);
/* A whole record: head, body, padding. `body` may be NULL when len is 0. */
void rpl_stream_put_record(struct rpl_out *o, uint32_t type, const void *body, uint32_t len);

/* ---- PAGE_DATA: its length is a multiple of 8 by itself, so there never is padding */
/* Bytes of head and descriptors. */
static inline size_t rpl_stream_page_data_head_size(uint32_t count)
{
	return RPL_STREAM_RECORD_HEAD + 8 + (size_t)count * 8;
}

/* Record head, count and descriptors (RPL_PAGE_* << 60 | pfn; plain RAM: just the pfn). The pages of those that carry
 * data must follow, in order. *ret_pages (may be NULL) says how many. */
void rpl_stream_put_page_data_head(struct rpl_out *o, const uint64_t *descs, uint32_t count, uint32_t *ret_pages);
/* The whole record: pages[i] belongs to descs[i] and is not looked at where the type carries no data. */
void rpl_stream_put_page_data(struct rpl_out *o, const uint64_t *descs, uint32_t count, const void *const *pages);

/* ---- libxc records with fields */
void rpl_stream_put_producer(struct rpl_out *o, const struct rpl_stream_producer *p);
void rpl_stream_put_pv_info(struct rpl_out *o, uint8_t guest_width, uint8_t levels);
void rpl_stream_put_p2m_frames(struct rpl_out *o, uint32_t first, uint32_t last, const uint64_t *frames, uint32_t n);
/* `type` is one of the four X86_PV_VCPU_ types. */
void rpl_stream_put_vcpu(struct rpl_out *o, uint32_t type, uint32_t vcpu, const void *blob, uint32_t len);
void rpl_stream_put_tsc(struct rpl_out *o, const struct rpl_stream_tsc *t);
void rpl_stream_put_hvm_params(struct rpl_out *o, const struct rpl_stream_param *params, uint32_t n);
void rpl_stream_put_digest(struct rpl_out *o, uint64_t bytes, uint64_t low, uint64_t high);

/* ---- libxl records with fields */
/* EMULATOR_CONTEXT or EMULATOR_XENSTORE_DATA: record head and sub-header for `payload_len` bytes that follow, and then
 * rpl_stream_put_padding(payload_len). */
void rpl_stream_put_emulator_head(struct rpl_out *o, uint32_t type, uint32_t emulator_id, uint32_t payload_len);
void rpl_stream_put_checkpoint_state(struct rpl_out *o, uint32_t id);

#endif
