/* stream_hvm.h - walk the entries of an HVM_CONTEXT blob, incrementally
 *
 * The blob is a sequence of {u16 typecode, u16 instance, u32 length} and payload, from HEADER to END. It is opaque to
 * migration; the walk is for display and for sanity checks.
 */
#ifndef REPLICAD_STREAM_HVM_H
#define REPLICAD_STREAM_HVM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RPL_HVM_END 0u
#define RPL_HVM_HEADER 1u
#define RPL_HVM_CPU 2u
#define RPL_HVM_CODES 21u
#define RPL_HVM_MAGIC 0x54381286u

/* The names and sizes of Xen 4.17; size 0 means that it varies. NULL name: not defined there. */
struct rpl_hvm_entry_def {
	const char *name;
	uint32_t size;
	bool per_vcpu;
};
const struct rpl_hvm_entry_def *rpl_hvm_entry_def(unsigned code);

/* Payload bytes that an entry event carries, when the payload has as many: a CPU entry's registers up to CR4. */
#define RPL_HVM_PEEK 688u
/* where some of them lie in it */
#define RPL_HVM_CPU_RSP 568u
#define RPL_HVM_CPU_RIP 640u
#define RPL_HVM_CPU_CR3 672u

struct rpl_hvm_entry {
	uint16_t code, instance;
	uint32_t len;
	uint64_t offset;           /* of its descriptor in the blob */
	unsigned n_peek;
	uint8_t peek[RPL_HVM_PEEK];
};

enum rpl_hvm_fault {
	RPL_HVM_OK,
	RPL_HVM_NO_HEADER,   /* the first entry is not HEADER, or has a wrong magic or version */
	RPL_HVM_AFTER_END,   /* bytes behind END */
	RPL_HVM_END_LENGTH,  /* END with a payload */
	RPL_HVM_SECOND_HEADER,
	RPL_HVM_CUT,         /* the blob ends inside an entry, or without END */
};

struct rpl_hvm_walk {
	uint64_t offset;
	uint32_t have, skip;
	bool started, ended;
	struct rpl_hvm_entry entry;
	uint8_t head[8];
};

void rpl_hvm_walk_init(struct rpl_hvm_walk *w);
/* Feed a piece of the blob; *bytes and *len move on. 1: *ret is an entry (give the rest again); 0: the piece is used up;
 * negative: -(enum rpl_hvm_fault). */
int rpl_hvm_walk_next(struct rpl_hvm_walk *w, const uint8_t **bytes, size_t *len, struct rpl_hvm_entry *ret);
/* The blob is over. */
enum rpl_hvm_fault rpl_hvm_walk_end(const struct rpl_hvm_walk *w);
const char *rpl_hvm_fault_text(enum rpl_hvm_fault fault);

#endif
