/* Golden bytes of every record of both layers, both ways: values are written as these bytes, and these bytes are read as
 * the same values. The bytes were put together from Xen's specification, by hand.
 */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <replicad/auto.h>
#include <replicad/stream.h>

#include "../lib/hex.h"
#include "../lib/stream_records.h"

#define BYTES_MAX 8192
#define NUMBERS 6
#define FILL 0xaa /* what pages hold */

/* A record: the numbers of its fixed head (in the order of put()), and what follows it. */
struct golden {
	enum rpl_stream_layer layer;
	uint32_t type;
	const char *hex; /* the record, but for `fill` bytes at its end */
	uint32_t fill;
	uint64_t n[NUMBERS];
	const char *body; /* behind the fixed head, but for the fill; NULL: nothing */
};

#define LIBXC(name) RPL_LAYER_LIBXC, (uint32_t)RPL_LIBXC_##name
#define LIBXL(name) RPL_LAYER_LIBXL, (uint32_t)RPL_LIBXL_##name

static const struct golden golden[] = {
	{ LIBXC(END), "00000000 00000000" },
	{ LIBXC(PAGE_DATA), "01000000 18100000 02000000 00000000 1000000000000090 11000000000000f0", 4096,
	  { 0x9000000000000010, 0xf000000000000011 } },
	{ LIBXC(X86_PV_INFO), "02000000 08000000 04 03 000000000000", 0, { 4, 3 } },
	{ LIBXC(X86_PV_P2M_FRAMES), "03000000 18000000 01000000 00020000 5500000000000000 5600000000000000", 0, { 1, 0x200 },
	  "5500000000000000 5600000000000000" },
	{ LIBXC(X86_PV_VCPU_BASIC), "04000000 0c000000 07000000 00000000 01020304 00000000", 0, { 7 }, "01020304" },
	{ LIBXC(X86_PV_VCPU_EXTENDED), "05000000 0b000000 01000000 00000000 010203 0000000000", 0, { 1 }, "010203" },
	{ LIBXC(X86_PV_VCPU_XSAVE), "06000000 18000000 02010000 00000000 0300000000000000 0700000000000000", 0, { 0x102 },
	  "0300000000000000 0700000000000000" },
	{ LIBXC(SHARED_INFO), "07000000 00100000", 4096 },
	{ LIBXC(X86_TSC_INFO), "08000000 18000000 02000000 009f2400 15cd5b0700000000 03000000 00000000", 0,
	  { 2, 2400000, 123456789, 3 } },
	{ LIBXC(HVM_CONTEXT), "09000000 03000000 010203 0000000000", 0, { 0 }, "010203" },
	{ LIBXC(HVM_PARAMS), "0a000000 28000000 02000000 00000000 1100000000000000 feef0f0000000000 0100000000000000"
			     "fcef0f0000000000", 0, { 2 }, "1100000000000000 feef0f0000000000 0100000000000000 fcef0f0000000000" },
	{ LIBXC(TOOLSTACK), "0b000000 04000000 01020304 00000000", 0, { 0 }, "01020304" },
	{ LIBXC(X86_PV_VCPU_MSRS), "0c000000 18000000 05000000 00000000 030100c0 00000000 8877665544332211", 0, { 5 },
	  "030100c0 00000000 8877665544332211" },
	{ LIBXC(VERIFY), "0d000000 00000000" },
	{ LIBXC(CHECKPOINT), "0e000000 00000000" },
	{ LIBXC(CHECKPOINT_DIRTY_PFN_LIST), "0f000000 10000000 0500000000000000 0400000000000000", 0, { 0 },
	  "0500000000000000 0400000000000000" },
	{ LIBXC(STATIC_DATA_END), "10000000 00000000" },
	{ LIBXC(X86_CPUID_POLICY), "11000000 18000000 0d000000 01000000 0f000000 40030000 40030000 00000000", 0, { 0 },
	  "0d000000 01000000 0f000000 40030000 40030000 00000000" },
	{ LIBXC(X86_MSR_POLICY), "12000000 10000000 ce000000 00000000 0000008000000000", 0, { 0 },
	  "ce000000 00000000 0000008000000000" },
	{ LIBXC(RPL_PRODUCER), "01505280 2c000000 01000000 01000000 0100 0200 0200 0000 0000100000000000 0200000000000000"
			       "0000008000000000 5137 7063 00000000", 0, { 1, 0x100000, 2, 0x80000000 } },
	{ LIBXC(RPL_DIGEST), "02505280 20000000 01000000 00000000 0010000000000000 0100000000000000 0200000000000000", 0,
	  { 1, 0x1000, 1, 2 } },
	{ LIBXL(END), "00000000 00000000" },
	{ LIBXL(LIBXC_CONTEXT), "01000000 00000000" },
	{ LIBXL(EMULATOR_XENSTORE_DATA), "02000000 25000000 02000000 00000000 706879736d61702f 6630303030303030"
					 "2f73697a65003830 3030303000 000000", 0, { 2, 0 },
	  "706879736d61702f 6630303030303030 2f73697a65003830 3030303000" },
	{ LIBXL(EMULATOR_CONTEXT), "03000000 0c000000 01000000 00000000 5145564d 00000000", 0, { 1, 0 }, "5145564d" },
	{ LIBXL(CHECKPOINT_END), "04000000 00000000" },
	{ LIBXL(CHECKPOINT_STATE), "05000000 04000000 03000000 00000000", 0, { 3 } },
};

static size_t golden_bytes(const struct golden *g, const char *hex, uint8_t *ret)
{
	size_t n = from_hex(hex, ret, BYTES_MAX);

	memset(ret + n, FILL, g->fill);
	return n + g->fill;
}

/* ---- values to bytes */
static void put_producer(struct rpl_out *o, const uint64_t *n)
{
	struct rpl_stream_producer p = { .kind = (uint32_t)n[0], .n_ranges = 1, .ranges = { { n[1], n[2], n[3] } },
					 .name = "Q7", .machine = "pc" };

	rpl_stream_put_producer(o, &p);
}

static void put_params(struct rpl_out *o, const uint8_t *body, uint32_t n)
{
	struct rpl_stream_param params[8];

	memcpy(params, body, n * sizeof(params[0]));
	rpl_stream_put_hvm_params(o, params, n);
}

static void put_pages(struct rpl_out *o, const uint64_t *n)
{
	static uint8_t page[RPL_STREAM_PAGE];
	const void *const where[] = { page, page };

	memset(page, FILL, sizeof(page));
	rpl_stream_put_page_data(o, n, 2, where);
}

static void put_libxc(struct rpl_out *o, const struct golden *g, const uint8_t *body, uint32_t len)
{
	const uint64_t *n = g->n;
	uint64_t frames[8];

	switch ((int)g->type) {
	case RPL_LIBXC_PAGE_DATA:
		put_pages(o, n);
		break;
	case RPL_LIBXC_X86_PV_INFO:
		rpl_stream_put_pv_info(o, (uint8_t)n[0], (uint8_t)n[1]);
		break;
	case RPL_LIBXC_X86_PV_P2M_FRAMES:
		memcpy(frames, body, len);
		rpl_stream_put_p2m_frames(o, (uint32_t)n[0], (uint32_t)n[1], frames, len / 8);
		break;
	case RPL_LIBXC_X86_PV_VCPU_BASIC:
	case RPL_LIBXC_X86_PV_VCPU_EXTENDED:
	case RPL_LIBXC_X86_PV_VCPU_XSAVE:
	case RPL_LIBXC_X86_PV_VCPU_MSRS:
		rpl_stream_put_vcpu(o, g->type, (uint32_t)n[0], body, len);
		break;
	case RPL_LIBXC_X86_TSC_INFO:
		rpl_stream_put_tsc(o, &(struct rpl_stream_tsc){ .mode = (uint32_t)n[0], .khz = (uint32_t)n[1], .nsec = n[2],
								 .incarnation = (uint32_t)n[3] });
		break;
	case RPL_LIBXC_HVM_PARAMS:
		put_params(o, body, (uint32_t)n[0]);
		break;
	case RPL_LIBXC_RPL_PRODUCER:
		put_producer(o, n);
		break;
	case RPL_LIBXC_RPL_DIGEST:
		rpl_stream_put_digest(o, n[1], n[2], n[3]);
		break;
	default:
		rpl_stream_put_record(o, g->type, body, len);
	}
}

static void put_libxl(struct rpl_out *o, const struct golden *g, const uint8_t *body, uint32_t len)
{
	switch ((int)g->type) {
	case RPL_LIBXL_EMULATOR_XENSTORE_DATA:
	case RPL_LIBXL_EMULATOR_CONTEXT:
		rpl_stream_put_emulator_head(o, g->type, (uint32_t)g->n[0], len);
		rpl_out_bytes(o, body, len);
		rpl_stream_put_padding(o, len);
		break;
	case RPL_LIBXL_CHECKPOINT_STATE:
		rpl_stream_put_checkpoint_state(o, (uint32_t)g->n[0]);
		break;
	default:
		rpl_stream_put_record(o, g->type, body, len);
	}
}

static void every_record_is_written_as_its_golden_bytes(void **state)
{
	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(golden); i++) {
		const struct golden *g = &golden[i];
		uint8_t want[BYTES_MAX], body[BYTES_MAX], got[BYTES_MAX];
		size_t n = golden_bytes(g, g->hex, want);
		uint32_t len = (uint32_t)golden_bytes(g, g->body, body);
		struct rpl_out o = rpl_out(got, sizeof(got));

		if (g->layer == RPL_LAYER_LIBXL)
			put_libxl(&o, g, body, len);
		else
			put_libxc(&o, g, body, len);
		if (o.bad || o.len != n || memcmp(got, want, n))
			fail_msg("%s %s: %zu bytes written differ from the %zu golden ones", rpl_stream_layer_name(g->layer),
				 rpl_stream_record_name(g->layer, g->type), o.len, n);
	}
}

/* ---- bytes to values */
struct value {
	uint64_t n[NUMBERS];
	uint8_t body[BYTES_MAX];
	size_t len;
	unsigned records;
};

static void take_producer(struct value *v)
{
	struct rpl_stream_producer p;
	struct rpl_err err;

	assert_int_equal(rpl_stream_get_producer(v->body, v->len, &p, &err), 0);
	assert_int_equal(p.n_ranges, 1);
	assert_string_equal(p.name, "Q7");
	assert_string_equal(p.machine, "pc");
	*v = (struct value){ .n = { p.kind, p.ranges[0].pfn, p.ranges[0].pages, p.ranges[0].offset }, .records = v->records };
}

static void take_libxc_head(struct value *v, const struct rpl_stream_event *ev)
{
	switch ((int)ev->rec.type) {
	case RPL_LIBXC_X86_PV_INFO:
		v->n[0] = ev->pv_info.width;
		v->n[1] = ev->pv_info.levels;
		break;
	case RPL_LIBXC_X86_PV_P2M_FRAMES:
		v->n[0] = ev->p2m.first;
		v->n[1] = ev->p2m.last;
		break;
	case RPL_LIBXC_X86_PV_VCPU_BASIC:
	case RPL_LIBXC_X86_PV_VCPU_EXTENDED:
	case RPL_LIBXC_X86_PV_VCPU_XSAVE:
	case RPL_LIBXC_X86_PV_VCPU_MSRS:
		v->n[0] = ev->vcpu;
		break;
	case RPL_LIBXC_X86_TSC_INFO:
		v->n[0] = ev->tsc.mode;
		v->n[1] = ev->tsc.khz;
		v->n[2] = ev->tsc.nsec;
		v->n[3] = ev->tsc.incarnation;
		break;
	case RPL_LIBXC_HVM_PARAMS:
		v->n[0] = ev->n_params;
		break;
	case RPL_LIBXC_RPL_DIGEST:
		v->n[0] = ev->digest.algorithm;
		v->n[1] = ev->digest.bytes;
		v->n[2] = ev->digest.low;
		v->n[3] = ev->digest.high;
		break;
	}
}

static void take(struct value *v, const struct rpl_stream_event *ev)
{
	if (ev->kind == RPL_EV_RECORD && ev->rec.layer == RPL_LAYER_LIBXC)
		take_libxc_head(v, ev);
	if (ev->kind == RPL_EV_RECORD && ev->rec.layer == RPL_LAYER_LIBXL) {
		v->n[0] = ev->rec.type == RPL_LIBXL_CHECKPOINT_STATE ? ev->colo_state : ev->emulator.id;
		v->n[1] = ev->rec.type == RPL_LIBXL_CHECKPOINT_STATE ? 0 : ev->emulator.index;
		if (ev->rec.len < 4)
			v->n[0] = v->n[1] = 0; /* no head */
	}
	if (ev->kind == RPL_EV_PFNS) {
		assert_int_equal(ev->pfns.count, 2);
		memcpy(v->n, ev->pfns.descs, 16);
	}
	if (ev->kind == RPL_EV_BODY || ev->kind == RPL_EV_PAGES) {
		assert_true(v->len + ev->len <= sizeof(v->body));
		memcpy(v->body + v->len, ev->bytes, ev->len);
		v->len += ev->len;
	}
	if (ev->kind == RPL_EV_RECORD_END) {
		assert_int_equal(ev->remarks & ~RPL_REMARK_UNKNOWN, 0);
		v->records++;
	}
}

/* The headers that bring the reader to where such a record may stand. */
static size_t before(const struct golden *g, uint8_t *buf, size_t cap)
{
	static const struct rpl_stream_domain_header hvm = { RPL_DOMAIN_HVM, 12, 4, 17 };
	struct rpl_out o = rpl_out(buf, cap);
	bool libxl = g->layer == RPL_LAYER_LIBXL;

	if (libxl)
		rpl_stream_put_libxl_header(&o, 0);
	if (libxl && g->type == RPL_LIBXL_LIBXC_CONTEXT)
		return o.len;
	if (libxl)
		rpl_stream_put_record(&o, RPL_LIBXL_LIBXC_CONTEXT, NULL, 0);
	rpl_stream_put_image_header(&o, 3);
	rpl_stream_put_domain_header(&o, &hvm);
	if (libxl)
		rpl_stream_put_record(&o, g->type == RPL_LIBXL_CHECKPOINT_END ? RPL_LIBXC_CHECKPOINT : RPL_LIBXC_END, NULL, 0);
	assert_false(o.bad);
	return o.len;
}

static struct value read_golden(const struct golden *g, size_t span)
{
	static struct rpl_stream_reader r;
	static uint64_t descs[16];
	uint8_t buf[BYTES_MAX];
	size_t start = before(g, buf, sizeof(buf)), len = start + golden_bytes(g, g->hex, buf + start);
	struct value v = { .len = 0 };
	struct rpl_stream_event ev;
	struct rpl_err err;
	int ret;

	rpl_stream_reader_init(&r, g->layer == RPL_LAYER_LIBXL ? RPL_FORMAT_LIBXL : RPL_FORMAT_LIBXC, descs, RPL_ARRAY_LEN(descs));
	for (size_t at = 0; at < len;) {
		struct rpl_stream_in in = { buf + at, len - at < span ? len - at : span };
		size_t n = in.len;

		while ((ret = rpl_stream_next(&r, &in, &ev, &err)) > 0)
			if (ev.kind >= RPL_EV_RECORD && ev.rec.offset >= start)
				take(&v, &ev);
		if (ret < 0)
			fail_msg("%s: %s", rpl_stream_record_name(g->layer, g->type), err.msg);
		at += n;
	}
	assert_int_equal(r.offset, len);
	if (g->layer == RPL_LAYER_LIBXC && g->type == (uint32_t)RPL_LIBXC_RPL_PRODUCER)
		take_producer(&v);
	return v;
}

static void every_record_is_read_as_its_golden_values(void **state)
{
	static const size_t spans[] = { BYTES_MAX, 1, 7 };

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(golden) * RPL_ARRAY_LEN(spans); i++) {
		const struct golden *g = &golden[i / RPL_ARRAY_LEN(spans)];
		const char *name = rpl_stream_record_name(g->layer, g->type);
		struct value v = read_golden(g, spans[i % RPL_ARRAY_LEN(spans)]);
		uint8_t body[BYTES_MAX];
		size_t len = golden_bytes(g, g->body, body);

		if (v.records != 1 || v.len != len || memcmp(v.body, body, len))
			fail_msg("%s: %u records with a body of %zu bytes, the golden one has %zu others", name, v.records, v.len, len);
		for (unsigned k = 0; k < NUMBERS; k++)
			if (v.n[k] != g->n[k])
				fail_msg("%s: number %u is 0x%" PRIx64 ", the golden one 0x%" PRIx64, name, k, v.n[k], g->n[k]);
	}
}

static bool has_golden(enum rpl_stream_layer layer, uint32_t type)
{
	for (size_t i = 0; i < RPL_ARRAY_LEN(golden); i++)
		if (golden[i].layer == layer && golden[i].type == type)
			return true;
	return false;
}

static void no_record_is_without_golden_bytes(void **state)
{
	(void)state;
	assert_has_every_record(has_golden);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_record_is_written_as_its_golden_bytes),
		cmocka_unit_test(every_record_is_read_as_its_golden_values),
		cmocka_unit_test(no_record_is_without_golden_bytes),
	};

	return cmocka_run_group_tests_name("stream_golden", tests, NULL, NULL);
}
