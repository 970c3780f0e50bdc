/* stream_words.h - streams written as words, and what the checker says of them
 *
 * I3 (image header, version 3), DH (domain header, HVM), P (a page), ... stream_words.c has them all. x:HEX is any bytes,
 * @OFFSET=HEX overwrites bytes of what was built so far.
 */
#ifndef STREAM_WORDS_H
#define STREAM_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <replicad/stream.h>

#define STREAM_MAX (1u << 20)

extern uint8_t stream[STREAM_MAX];
extern uint8_t *types; /* room for page types of 1024 pfns, for the tests that want them judged */

/* Writes `words` into `stream`; its length. */
size_t build(const char *words);
/* Is the word at `word` this one? */
bool is_word(const char *word, const char *name);

void put_shared(struct rpl_out *o);
void put_vcpu(struct rpl_out *o, uint32_t type, uint32_t len);
void put_params(struct rpl_out *o);
void put_hvm_context(struct rpl_out *o);

struct seen {
	uint64_t count[RPL_RULES], at[RPL_RULES]; /* findings, and the offset of the first */
	uint64_t total, errors;
	char first[240];
};
/* What the checker finds in the first `len` bytes of `stream`. */
struct seen judge(enum rpl_stream_format format, size_t len, bool allow_cut);

/* Streams that break no rule, one of every kind. */
struct clean_stream {
	enum rpl_stream_format format;
	const char *words;
};
extern const struct clean_stream clean_streams[];
extern const size_t n_clean_streams;

#define XC RPL_FORMAT_LIBXC
#define XLI RPL_FORMAT_LIBXL
#define XL RPL_FORMAT_XL

#define HVM "I3 DH S P T HP HC E"
#define PV "I3 DP V8 S F P T SI B8 E"
#define LIBXL "L LX " HVM " EM LE"

#endif
