/* What may happen to single bytes and bits: cut anywhere, any length for any record, any bit flipped.
 *
 * A flipped bit is found, or it lies in a field that may have any value. Those fields are a table here, and the same list
 * stands in replicad-stream(7), "Fields that may have any value" (compared by tests/unit/stream-manual).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <replicad/auto.h>
#include <replicad/stream.h>

#include "../lib/stream_records.h"
#include "../lib/stream_words.h"

/* ---- cut anywhere: a plain stream is never clean, a checkpointed one exactly behind its checkpoints */
static void every_truncation_is_found(void **state)
{
	(void)state;
	for (size_t i = 0; i < n_clean_streams; i++) {
		size_t len = build(clean_streams[i].words);
		unsigned ends = 0, checkpoints = 0;

		for (const char *w = clean_streams[i].words; w; w = strchr(w + 1, ' ')) {
			const char *word = w + (*w == ' ');

			/* CHECKPOINT_STATE does not begin a checkpoint: behind it is as good an end */
			checkpoints += is_word(word, clean_streams[i].format == XC ? "C" : "LC") || is_word(word, "CS");
		}
		for (size_t cut = 0; cut < len; cut++)
			ends += judge(clean_streams[i].format, cut, false).total == 0;
		assert_int_equal(ends, checkpoints ? checkpoints - 1 : 0);
	}
}

/* ---- lengths, as replicad-stream(7) has them */
#define BODY_MAX 0x08000000u
#define END_OF_LIST UINT32_MAX

static const struct {
	enum rpl_stream_layer layer;
	uint32_t type;
	uint32_t good[4], bad[8];
} lengths[] = {
#define GOOD(...) { __VA_ARGS__, END_OF_LIST }
#define BAD(...) { __VA_ARGS__, END_OF_LIST }
#define EMPTY { 0, END_OF_LIST }, BAD(1, 4, 8, 16, BODY_MAX)
	{ RPL_LAYER_LIBXC, 0x00, EMPTY },
	{ RPL_LAYER_LIBXC, 0x01, GOOD(16, 24, BODY_MAX), BAD(0, 4, 7, 8, 15, BODY_MAX + 1) },
	{ RPL_LAYER_LIBXC, 0x02, GOOD(8, 9, 16), BAD(0, 1, 4, 7, BODY_MAX + 1) },
	{ RPL_LAYER_LIBXC, 0x03, GOOD(16, 24, BODY_MAX), BAD(0, 7, 8, 15, 17, 20, BODY_MAX + 1) },
	{ RPL_LAYER_LIBXC, 0x04, GOOD(8, 2808, 5176), BAD(0, 4, 7, BODY_MAX + 1) },
	{ RPL_LAYER_LIBXC, 0x05, GOOD(8, 72, 136), BAD(0, 7, 137, 144, BODY_MAX) },
	{ RPL_LAYER_LIBXC, 0x06, GOOD(8, 24, 840), BAD(0, 4, 7, BODY_MAX + 1) },
	{ RPL_LAYER_LIBXC, 0x07, GOOD(4096), BAD(0, 4095, 4097, 8192, BODY_MAX) },
	{ RPL_LAYER_LIBXC, 0x08, GOOD(24), BAD(0, 16, 23, 25, 32, BODY_MAX) },
	{ RPL_LAYER_LIBXC, 0x09, GOOD(1, 40, BODY_MAX), BAD(0, BODY_MAX + 1, 0xfffffffe) },
	{ RPL_LAYER_LIBXC, 0x0a, GOOD(8, 24, BODY_MAX - 8), BAD(0, 7, 9, 16, 32, BODY_MAX) },
	{ RPL_LAYER_LIBXC, 0x0c, GOOD(8, 24, 40), BAD(0, 4, 7, 9, 16, 32) },
	{ RPL_LAYER_LIBXC, 0x0d, EMPTY },
	{ RPL_LAYER_LIBXC, 0x0e, EMPTY },
	{ RPL_LAYER_LIBXC, 0x10, EMPTY },
	{ RPL_LAYER_LIBXC, 0x11, GOOD(24, 48, 24 * 48), BAD(0, 1, 16, 23, 25, 32, BODY_MAX) },
	{ RPL_LAYER_LIBXC, 0x12, GOOD(16, 32, BODY_MAX), BAD(0, 1, 8, 15, 17, 24) },
	{ RPL_LAYER_LIBXC, 0x80525001, GOOD(16, 40), BAD(0, 15, 16 + 24 * 32 + 2 * 255 + 1, BODY_MAX) },
	{ RPL_LAYER_LIBXC, 0x80525002, GOOD(32), BAD(0, 24, 31, 33, 40) },
	{ RPL_LAYER_LIBXC, 0x0b, GOOD(0, 1, BODY_MAX), BAD(BODY_MAX + 1) }, /* the checker's to judge, at any length */
	{ RPL_LAYER_LIBXC, 0x0f, GOOD(0, 8, BODY_MAX), BAD(1, 4, 9) },
	{ RPL_LAYER_LIBXC, 0x80000000, GOOD(0, 1, BODY_MAX), BAD(BODY_MAX + 1, 0xfffffffe) },
	{ RPL_LAYER_LIBXC, 0x13, { END_OF_LIST }, BAD(0, 8, BODY_MAX) },
	{ RPL_LAYER_LIBXL, 0, EMPTY },
	{ RPL_LAYER_LIBXL, 1, EMPTY },
	{ RPL_LAYER_LIBXL, 2, GOOD(8, 9, BODY_MAX), BAD(0, 4, 7, BODY_MAX + 1) },
	{ RPL_LAYER_LIBXL, 3, GOOD(8, 9, BODY_MAX), BAD(0, 4, 7, BODY_MAX + 1) },
	{ RPL_LAYER_LIBXL, 4, EMPTY },
	{ RPL_LAYER_LIBXL, 5, GOOD(4, 8), BAD(0, 1, 3, 9, BODY_MAX) }, /* 8: as the specification draws it */
	{ RPL_LAYER_LIBXL, 6, { END_OF_LIST }, BAD(0, 8) },
};

/* Does the reader take a record of this type with this length, as far as its head? A count must fit, too: it is 1. */
static bool length_is_taken(enum rpl_stream_layer layer, uint32_t type, uint32_t len)
{
	static struct rpl_stream_reader r;
	static uint64_t descs[16];
	/* in libxl's END and CHECKPOINT_END the layers would not fit, which is another rule: ask where they do */
	const char *before = layer == RPL_LAYER_LIBXC ? "I3 DH S" : type == 1 ? "L" : type == 4 ? "L LX I3 DH S C" : "L LX " HVM;
	struct rpl_out o = rpl_out(stream, sizeof(stream));
	struct rpl_stream_event ev;
	struct rpl_stream_in in;
	struct rpl_err err;
	int ret;

	o.len = build(before);
	rpl_stream_put_record_head(&o, type, 0);
	memcpy(stream + o.len - 4, &len, sizeof(len));
	rpl_out_le64(&o, layer == RPL_LAYER_LIBXC && type == RPL_LIBXC_HVM_PARAMS ? (len - 8) / 16 : 1);
	rpl_out_le64(&o, 0);
	rpl_out_le64(&o, 0);
	rpl_out_le64(&o, 0);
	rpl_stream_reader_init(&r, layer == RPL_LAYER_LIBXC ? XC : XLI, descs, RPL_ARRAY_LEN(descs));
	in = (struct rpl_stream_in){ stream, o.len - (32 - (len < 32 ? (len + 7) / 8 * 8 : 32)) };
	while ((ret = rpl_stream_next(&r, &in, &ev, &err)) > 0)
		if (ev.kind == RPL_EV_RECORD && ev.rec.type == type && ev.rec.layer == layer && ev.rec.len == len &&
		    ev.rec.offset >= build(before))
			return true;
	assert_true(r.rule == RPL_RULE_RECORD_LENGTH || r.rule == RPL_RULE_RECORD_LIMIT || r.rule == RPL_RULE_PAGE_COUNT ||
		    r.rule == RPL_RULE_HVM_PARAM_COUNT || r.rule == RPL_RULE_RECORD_TYPE || r.rule == RPL_RULE_LIBXL_TYPE);
	return false;
}

static void every_length_is_judged(void **state)
{
	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(lengths); i++) {
		const char *name = rpl_stream_record_name(lengths[i].layer, lengths[i].type);

		for (const uint32_t *len = lengths[i].good; *len != END_OF_LIST; len++)
			if (!length_is_taken(lengths[i].layer, lengths[i].type, *len))
				fail_msg("%s of %u bytes is refused", name, *len);
		for (const uint32_t *len = lengths[i].bad; *len != END_OF_LIST; len++)
			if (length_is_taken(lengths[i].layer, lengths[i].type, *len))
				fail_msg("%s of %u bytes is taken", name, *len);
	}
}

static bool has_lengths(enum rpl_stream_layer layer, uint32_t type)
{
	for (size_t i = 0; i < RPL_ARRAY_LEN(lengths); i++)
		if (lengths[i].layer == layer && lengths[i].type == type)
			return true;
	return false;
}

static void no_record_is_without_lengths(void **state)
{
	(void)state;
	assert_has_every_record(has_lengths);
}

/* ---- flipped bits */
enum part { IN_XL, IN_LIBXL_HEADER, IN_IMAGE, IN_DOMAIN, IN_RECORD };

/* Fields in which a bit may flip unnoticed: bytes [from, to) of a part or of a record's body, in each element of `every`
 * bytes (0: once) behind the first `head` ones. */
static const struct value_field {
	const char *name;
	enum part part;
	enum rpl_stream_layer layer;
	uint32_t type, head, every, from, to;
} value_fields[] = {
#define XCR(name, type, head, every, from, to) { name, IN_RECORD, RPL_LAYER_LIBXC, RPL_LIBXC_##type, head, every, from, to }
#define XLR(name, type, head, every, from, to) { name, IN_RECORD, RPL_LAYER_LIBXL, RPL_LIBXL_##type, head, every, from, to }
	{ "the configuration's text", IN_XL, .from = 52, .to = 54 },
	{ "optional data behind the configuration", IN_XL, .from = 55, .to = 59 },
	{ "a converter's mark", IN_LIBXL_HEADER, .from = 15, .to = 16 },
	{ "Xen's version", IN_DOMAIN, .from = 8, .to = 16 },
	XCR("pfns within range", PAGE_DATA, 8, 0, 0, 5),
	XCR("the type of a PV page whose contents fit either", PAGE_DATA, 8, 0, 7, 8),
	XCR("page contents", PAGE_DATA, 16, 0, 0, 4096),
	XCR("a p2m's range that takes as many frames", X86_PV_P2M_FRAMES, 0, 0, 0, 8),
	XCR("pfns within range", X86_PV_P2M_FRAMES, 8, 8, 0, 2),
	XCR("blobs of vCPUs", X86_PV_VCPU_BASIC, 8, 0, 0, 5168),
	XCR("blobs of vCPUs", X86_PV_VCPU_EXTENDED, 8, 0, 0, 128),
	XCR("blobs of vCPUs", X86_PV_VCPU_XSAVE, 8, 0, 0, 16),
	XCR("indices and values of MSRs", X86_PV_VCPU_MSRS, 8, 16, 0, 4),
	XCR("indices and values of MSRs", X86_PV_VCPU_MSRS, 8, 16, 8, 16),
	XCR("the shared info page", SHARED_INFO, 0, 0, 0, 4096),
	XCR("TSC mode 0-2, kHz, nanoseconds and incarnation", X86_TSC_INFO, 0, 0, 0, 20),
	XCR("indices of HVM parameters, among those that travel", HVM_PARAMS, 8, 16, 0, 1),
	XCR("values of HVM parameters", HVM_PARAMS, 8, 16, 8, 16),
	XCR("the HVM context's payloads but for magic and version", HVM_CONTEXT, 16, 0, 0, 16),
	XCR("the HVM context's payloads but for magic and version", HVM_CONTEXT, 40, 0, 0, 24),
	XCR("the vCPU of an HVM context's entry", HVM_CONTEXT, 32, 0, 2, 4),
	XCR("leaves of the CPUID policy that still ascend, and their values", X86_CPUID_POLICY, 0, 24, 0, 24),
	XCR("indices and values of MSRs", X86_MSR_POLICY, 0, 16, 0, 4),
	XCR("indices and values of MSRs", X86_MSR_POLICY, 0, 16, 8, 16),
	{ "the producer's kind, ranges and texts", IN_RECORD, RPL_LAYER_LIBXC, (uint32_t)RPL_LIBXC_RPL_PRODUCER, 0, 0, 4, 8 },
	{ "the producer's kind, ranges and texts", IN_RECORD, RPL_LAYER_LIBXC, (uint32_t)RPL_LIBXC_RPL_PRODUCER, 16, 0, 0, 2 },
	XLR("the emulator's id, 0-2", EMULATOR_CONTEXT, 0, 0, 0, 1),
	XLR("the emulator's id, 0-2", EMULATOR_XENSTORE_DATA, 0, 0, 0, 1),
	XLR("the device model's state", EMULATOR_CONTEXT, 8, 0, 0, 8),
	XLR("characters of xenstore's keys and values", EMULATOR_XENSTORE_DATA, 8, 0, 0, 8),
};
#define VALUE_FIELDS RPL_ARRAY_LEN(value_fields)
#define GROWN_NAME "the length of a blob that grows into its zero padding, or takes in the record behind it"

/* Where each piece of the unharmed stream lies. */
struct piece {
	enum part part;
	uint64_t offset;
	struct rpl_stream_record rec;
};

static size_t pieces_of(enum rpl_stream_format format, size_t len, struct piece *ret, size_t max)
{
	static struct rpl_stream_reader r;
	static uint64_t descs[16];
	struct rpl_stream_in in = { stream, len };
	struct rpl_stream_event ev;
	struct rpl_err err;
	size_t n = 0;

	rpl_stream_reader_init(&r, format, descs, RPL_ARRAY_LEN(descs));
	while (rpl_stream_next(&r, &in, &ev, &err) > 0) {
		static const int parts[] = { [RPL_EV_XL_HEADER] = IN_XL, [RPL_EV_LIBXL_HEADER] = IN_LIBXL_HEADER,
					     [RPL_EV_IMAGE_HEADER] = IN_IMAGE, [RPL_EV_DOMAIN_HEADER] = IN_DOMAIN,
					     [RPL_EV_RECORD] = IN_RECORD };

		if (ev.kind == RPL_EV_XL_CONFIG || ev.kind == RPL_EV_XL_EXTRA || ev.kind > RPL_EV_RECORD)
			continue;
		assert_true(n < max);
		ret[n++] = (struct piece){ (enum part)parts[ev.kind], ev.offset, ev.rec };
	}
	return n;
}

static bool in_field(const struct value_field *f, const struct piece *p, uint64_t byte)
{
	uint64_t at = byte - p->offset;

	if (f->part != p->part)
		return false;
	if (f->part == IN_RECORD) {
		if (f->layer != p->rec.layer || f->type != p->rec.type || at < 8 || at - 8 >= p->rec.len)
			return false;
		at -= 8;
	}
	if (at < f->head)
		return false;
	at -= f->head;
	if (f->every)
		at %= f->every;
	return at >= f->from && at < f->to;
}

/* The index of the field in which this byte may have any value; VALUE_FIELDS for a length; more for none. */
static size_t field_of(const struct piece *p, uint64_t byte)
{
	for (size_t i = 0; i < VALUE_FIELDS; i++)
		if (in_field(&value_fields[i], p, byte))
			return i;
	if (p->part == IN_RECORD && byte == p->offset + 4 &&
	    (p->rec.len % 8 || (p->rec.layer == RPL_LAYER_LIBXC && p->rec.type == RPL_LIBXC_X86_PV_VCPU_XSAVE)))
		return VALUE_FIELDS;
	return VALUE_FIELDS + 1;
}

/* Most of a page and of a vCPU's context is like the rest: a few bytes stand for it. */
static bool is_worth_flipping(const struct piece *p, uint64_t byte)
{
	uint64_t at = byte - p->offset;

	return p->part != IN_RECORD || at < 136 || at + 2 > p->rec.len + 8 || at == 2000;
}

static unsigned flip_all(const struct clean_stream *s, size_t *used)
{
	struct piece pieces[64];
	size_t len = build(s->words), n = pieces_of(s->format, len, pieces, RPL_ARRAY_LEN(pieces)), at = 0;
	unsigned missed = 0;

	for (uint64_t byte = 0; byte < len; byte++) {
		size_t field;

		while (at + 1 < n && pieces[at + 1].offset <= byte)
			at++;
		if (!is_worth_flipping(&pieces[at], byte))
			continue;
		field = field_of(&pieces[at], byte);
		for (unsigned bit = 0; bit < 8; bit++) {
			struct seen seen;

			stream[byte] ^= (uint8_t)(1u << bit);
			seen = judge(s->format, len, false);
			stream[byte] ^= (uint8_t)(1u << bit);
			if (seen.total)
				continue;
			if (field <= VALUE_FIELDS) {
				used[field]++;
				continue;
			}
			print_message("'%s': byte %llu (%llu of %s), bit %u: nothing found\n", s->words, (unsigned long long)byte,
				      (unsigned long long)(byte - pieces[at].offset),
				      pieces[at].part == IN_RECORD ? rpl_stream_record_name(pieces[at].rec.layer, pieces[at].rec.type)
								   : "a header", bit);
			missed++;
		}
	}
	return missed;
}

static void every_flipped_bit_is_found_or_is_a_value(void **state)
{
	size_t used[VALUE_FIELDS + 1] = { 0 };
	unsigned missed = 0;

	(void)state;
	for (size_t i = 0; i < n_clean_streams; i++)
		missed += flip_all(&clean_streams[i], used);
	assert_int_equal(missed, 0);
	for (size_t i = 0; i < VALUE_FIELDS; i++)
		if (!used[i])
			fail_msg("no flip in '%s' (entry %zu) went unnoticed: it is no such field", value_fields[i].name, i);
	assert_true(used[VALUE_FIELDS] > 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_truncation_is_found),
		cmocka_unit_test(every_length_is_judged),
		cmocka_unit_test(no_record_is_without_lengths),
		cmocka_unit_test(every_flipped_bit_is_found_or_is_a_value),
	};

	if (argc > 1 && strcmp(argv[1], "--list") == 0) { /* for the check of the manual page */
		for (size_t i = 0; i < VALUE_FIELDS; i++)
			if (i == 0 || strcmp(value_fields[i].name, value_fields[i - 1].name) != 0)
				(void)printf("%s\n", value_fields[i].name);
		(void)printf("%s\n", GROWN_NAME);
		return 0;
	}
	return cmocka_run_group_tests_name("stream_bits", tests, NULL, NULL);
}
