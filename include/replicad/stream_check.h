/* stream_check.h - is this stream what Xen could restore: order, contents and completeness, while it is read
 *
 *   rpl_stream_check_init(&check, report, ctx);
 *   each event of rpl_stream_next():   rpl_stream_check(&check, &ev);
 *   when it refuses:                   rpl_stream_check_refused(&check, &reader, &err);
 *   at the end of the bytes:           rpl_stream_check_end(&check, &reader, false);
 *
 * Findings go to the callback, in the order of the stream. Fixed memory, nothing allocated.
 */
#ifndef REPLICAD_STREAM_CHECK_H
#define REPLICAD_STREAM_CHECK_H

#include <stdbool.h>
#include <stdint.h>

#include <replicad/err.h>
#include <replicad/stream_format.h>
#include <replicad/stream_hvm.h>
#include <replicad/stream_read.h>
#include <replicad/stream_rules.h>

struct rpl_stream_finding {
	enum rpl_stream_rule rule;
	enum rpl_stream_severity severity; /* RPL_SEV_READER: the stream could not be read on from here, or only behind this record */
	uint64_t offset;                   /* in the stream, of what is wrong */
	bool in_record;                    /* `rec` says in which */
	struct rpl_stream_record rec;
	uint64_t checkpoint;               /* complete checkpoints before it */
	char text[240];                    /* what was expected and found */
};
typedef void rpl_stream_report_fn(void *ctx, const struct rpl_stream_finding *f);

#define RPL_CHECK_VCPU_KINDS 4u
#define RPL_CHECK_PARAMS 64u

struct rpl_stream_check {
	rpl_stream_report_fn *report;
	void *ctx;
	/* The caller's, set after init or left NULL: room for the page types of `n_types` pfns of a PV guest, all zero. With it,
	 * the frames that vCPUs name are judged by their type. One byte a pfn. */
	uint8_t *types;
	uint64_t n_types;
	uint64_t errors, warnings; /* findings so far; a refusal counts as an error */
	uint64_t checkpoints;
	/* headers and static part */
	uint32_t version, type, xen_major;
	bool has_libxl, static_end, static_missing_said, cpuid, msr, pv_info, p2m, p2m_missing_said, producer, verify_seen;
	bool checkpoint_seen, digest_seen, had_emulator, context_seen, config_seen, config_ended, config_over;
	uint8_t width;
	uint64_t max_pfn;
	/* this checkpoint */
	uint64_t pages, all_pages;
	bool in_tail, tail_said, tsc, shared_info, hvm_context, hvm_params, emu_xenstore, emu_context;
	unsigned n_hvm_params;
	uint64_t params_seen;
	uint64_t vcpus[RPL_CHECK_VCPU_KINDS][RPL_PV_VCPUS_MAX / 64];
	/* this record */
	bool refused, hvm_bad, body_said;
	struct rpl_hvm_walk hvm;
	uint64_t last_key;    /* of the leaf or MSR before */
	bool have_key;
	const uint64_t *descs;
	uint32_t n_descs, desc_at;
	unsigned store_strings, store_len;
	uint32_t vcpu;
	union {
		uint8_t producer_body[RPL_PRODUCER_MAX];
		uint8_t basic[RPL_PV_BASIC_64];
	};
};

void rpl_stream_check_init(struct rpl_stream_check *c, rpl_stream_report_fn *report, void *ctx);
void rpl_stream_check(struct rpl_stream_check *c, const struct rpl_stream_event *ev);
void rpl_stream_check_refused(struct rpl_stream_check *c, const struct rpl_stream_reader *r, const struct rpl_err *err);
/* `allow_cut`: the bytes may end inside a checkpoint when an earlier one is complete. */
void rpl_stream_check_end(struct rpl_stream_check *c, const struct rpl_stream_reader *r, bool allow_cut);

/* For callers with rules of their own (the digest, the configuration's JSON). */
void rpl_stream_check_say(struct rpl_stream_check *c, const struct rpl_stream_event *ev, uint64_t offset,
			  enum rpl_stream_rule rule, const char *fmt, ...) RPL_PRINTF(5, 6);

#endif
