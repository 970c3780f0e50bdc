/* Any bytes into the reader, the checker and the converters. FUZZ_FORMAT names the outermost layer.
 *
 * What must hold for every input, besides no crash and no bad access:
 *  - cut into other spans, the same bytes give the same events and the same verdict;
 *  - what the checker accepts without an error converts, and what comes out is accepted with the same contents;
 *  - what the legacy converter makes is a v2 stream that the reader takes.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <replicad/stream.h>
#include <replicad/stream_check.h>
#include <replicad/stream_convert.h>

#include "fuzz.h"

#define DESCS_MAX 2048
#define TYPES_MAX 8192

struct verdict {
	int last;
	enum rpl_stream_rule rule;
	enum rpl_stream_ending ending;
	uint64_t bad_offset, checkpoints, errors, warnings, sum, skipped;
};

struct memory {
	uint8_t *bytes;
	size_t len, cap;
};

static void must(bool ok)
{
	if (!ok)
		abort();
}

static uint64_t mix(uint64_t sum, uint64_t v)
{
	return (sum ^ v) * UINT64_C(0x100000001b3);
}

static uint64_t mix_bytes(uint64_t sum, const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		sum = mix(sum, p[i]);
	return sum;
}

static void on_finding(void *ctx, const struct rpl_stream_finding *f)
{
	must(f->rule > RPL_RULE_NONE && f->rule < RPL_RULES);
	must(f->text[0]);
	(void)ctx;
}

/* Body bytes are summed so that where a span cuts them does not show. */
static void sum_event(struct verdict *v, const struct rpl_stream_event *ev)
{
	for (size_t at = 0; ev->kind == RPL_EV_PAGES && at < ev->len; at += RPL_STREAM_PAGE)
		v->sum = mix_bytes(mix_bytes(v->sum, ev->bytes + at, 8), ev->bytes + at + RPL_STREAM_PAGE - 8, 8);
	if (ev->kind == RPL_EV_PAGES)
		return; /* pages are never cut: their ends will do */
	if (ev->kind == RPL_EV_BODY || ev->kind == RPL_EV_XL_CONFIG) {
		v->sum = mix_bytes(v->sum, ev->bytes, ev->len);
		return;
	}
	if (ev->kind == RPL_EV_XL_EXTRA)
		return;
	v->sum = mix(v->sum, ev->kind);
	if (ev->kind == RPL_EV_RECORD)
		v->sum = mix(mix(v->sum, ev->rec.type), ev->rec.len);
	for (uint32_t i = 0; ev->kind == RPL_EV_PFNS && i < ev->pfns.count; i++)
		v->sum = mix(v->sum, ev->pfns.descs[i]);
}

static struct verdict read_all(const uint8_t *data, size_t len, enum rpl_stream_format format, unsigned span_seed)
{
	static struct rpl_stream_reader r;
	static struct rpl_stream_check c;
	static uint64_t descs[DESCS_MAX];
	static uint8_t types[TYPES_MAX];
	struct verdict v = { 0 };
	size_t at = 0;

	rpl_stream_reader_init(&r, format, descs, DESCS_MAX);
	rpl_stream_check_init(&c, on_finding, NULL);
	memset(types, 0, sizeof(types));
	c.types = types;
	c.n_types = TYPES_MAX;
	while (at < len) {
		size_t n = span_seed ? 1 + (span_seed = span_seed * 1103515245u + 12345u) % 97 : len;
		struct rpl_stream_in in = { data + at, n < len - at ? n : len - at };
		struct rpl_stream_event ev;
		struct rpl_err err;
		const uint8_t *start = in.p;

		while ((v.last = rpl_stream_next(&r, &in, &ev, &err)) > 0) {
			sum_event(&v, &ev);
			rpl_stream_check(&c, &ev);
		}
		at += (size_t)(in.p - start);
		if (v.last == 0)
			continue;
		must(r.rule > RPL_RULE_NONE && r.rule < RPL_RULES && err.msg[0]);
		v.rule = r.rule;
		v.bad_offset = r.bad_offset;
		rpl_stream_check_refused(&c, &r, &err);
		if (rpl_stream_skip_record(&r) < 0)
			break;
		v.skipped++;
		v.last = 0;
	}
	v.ending = rpl_stream_ending(&r);
	rpl_stream_check_end(&c, &r, true);
	v.checkpoints = r.checkpoints;
	v.errors = c.errors;
	v.warnings = c.warnings;
	return v;
}

static int to_memory(void *ctx, const void *bytes, size_t len)
{
	struct memory *m = ctx;

	if (m->cap - m->len < len) {
		m->cap = (m->len + len) * 2;
		m->bytes = realloc(m->bytes, m->cap);
		must(m->bytes);
	}
	memcpy(m->bytes + m->len, bytes, len);
	m->len += len;
	return 0;
}

/* A stream with no error converts to itself, and into a libxc image that is accepted too. */
static void convert(const uint8_t *data, size_t len, enum rpl_stream_format from, enum rpl_stream_format to,
		    const struct verdict *was)
{
	static struct rpl_stream_reader r;
	static uint64_t descs[DESCS_MAX];
	struct memory m = { 0 };
	struct rpl_stream_sink sink = { .ctx = &m, .write = to_memory };
	struct rpl_stream_convert c = { .to = to, .sink = &sink };
	struct rpl_stream_in in = { data, len };
	struct rpl_stream_event ev;
	struct rpl_err err;
	struct verdict now;

	rpl_stream_reader_init(&r, from, descs, DESCS_MAX);
	while (rpl_stream_next(&r, &in, &ev, &err) > 0) {
		int ret = rpl_stream_convert(&c, &ev, &err);

		if (ret == -EINVAL) { /* an xl header whose configuration is not JSON */
			free(m.bytes);
			return;
		}
		must(ret == 0);
	}
	must(rpl_stream_convert_end(&c, rpl_stream_ending(&r), &err) == 0);
	now = read_all(m.bytes, m.len, to, 0);
	must(now.last == 0 && now.errors == 0 && now.ending == was->ending && now.checkpoints == was->checkpoints);
	if (from == to && c.dropped_digests == 0)
		must(now.sum == was->sum);
	free(m.bytes);
}

static void fuzz_v2(const uint8_t *data, size_t len, enum rpl_stream_format format)
{
	struct verdict whole = read_all(data, len, format, 0), cut = read_all(data, len, format, 1 + (unsigned)len);

	must(whole.last == cut.last && whole.rule == cut.rule && whole.bad_offset == cut.bad_offset);
	must(whole.sum == cut.sum && whole.ending == cut.ending && whole.checkpoints == cut.checkpoints);
	must(whole.errors == cut.errors && whole.warnings == cut.warnings && whole.skipped == cut.skipped);
	if (whole.errors || (whole.ending != RPL_ENDING_COMPLETE && whole.ending != RPL_ENDING_CHECKPOINT))
		return;
	convert(data, len, format, format, &whole);
	convert(data, len, format, RPL_FORMAT_LIBXC, &whole);
}

struct source {
	const uint8_t *p;
	size_t len;
};

static int from_memory(void *ctx, void *buf, size_t len, size_t *ret_got)
{
	struct source *s = ctx;
	size_t n = len < s->len ? len : s->len;

	if (n)
		memcpy(buf, s->p, n);
	s->p += n;
	s->len -= n;
	*ret_got = n;
	return n == len;
}

static void fuzz_legacy(const uint8_t *data, size_t len)
{
	static const enum rpl_stream_format to[] = { RPL_FORMAT_LIBXC, RPL_FORMAT_LIBXL };

	for (unsigned i = 0; i < 2; i++) {
		struct memory m = { 0 };
		struct source src = { data, len };
		struct rpl_stream_sink sink = { .ctx = &m, .write = to_memory };
		struct rpl_legacy l = { .to = to[i], .version = 2 + (len & 1), .sink = &sink, .read = from_memory,
					.read_ctx = &src };
		struct rpl_err err;
		uint64_t dropped;

		if (rpl_legacy_convert(&l, &dropped, &err) == 0) {
			struct verdict v = read_all(m.bytes, m.len, to[i], 0);

			must(v.last == 0 && v.skipped == 0 && v.ending == RPL_ENDING_COMPLETE);
		}
		free(m.bytes);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	if (FUZZ_FORMAT == RPL_FORMAT_LEGACY)
		fuzz_legacy(data, len);
	else
		fuzz_v2(data, len, FUZZ_FORMAT);
	return 0;
}
