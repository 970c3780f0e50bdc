/* The codec: golden bytes of headers (of records: stream_golden.c), spans cut anywhere, ends anywhere, and whole random streams of every guest type. */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include <replicad/auto.h>
#include <replicad/stream.h>

#include "../lib/hex.h"
#include "../lib/stream_make.h"

static uint8_t stream[8 << 20];

static void assert_golden(const struct rpl_out *o, const char *what, const char *hex)
{
	uint8_t want[512];
	size_t n = from_hex(hex, want, sizeof(want));

	if (o->bad || o->len != n || memcmp(o->p, want, n))
		fail_msg("%s: %zu bytes written differ from the %zu golden ones", what, o->len, n);
}

#define GOLDEN_HVM_HEAD                                                                      \
	"ff ff ff ff ff ff ff ff  58 45 4e 46 00 00 00 03  00 00 00 00 00 00 00 00"          \
	"02 00 00 00 0c 00 00 00  04 00 00 00 11 00 00 00  10 00 00 00 00 00 00 00"

static void headers_have_their_golden_bytes(void **state)
{
	static const struct rpl_stream_domain_header d = { RPL_DOMAIN_HVM, 12, 4, 17 };
	uint8_t buf[512];
	struct rpl_out o = rpl_out(buf, sizeof(buf));

	(void)state;
	rpl_stream_put_image_header(&o, RPL_IMAGE_V3);
	rpl_stream_put_domain_header(&o, &d);
	rpl_stream_put_record(&o, RPL_LIBXC_STATIC_DATA_END, NULL, 0);
	assert_golden(&o, "image", GOLDEN_HVM_HEAD);
	o = rpl_out(buf, sizeof(buf));
	rpl_stream_put_image_header(&o, RPL_IMAGE_V2); /* on request */
	assert_golden(&o, "image, version 2", "ff ff ff ff ff ff ff ff  58 45 4e 46 00 00 00 02  00 00 00 00 00 00 00 00");
	o = rpl_out(buf, sizeof(buf));
	rpl_stream_put_libxl_header(&o, RPL_LIBXL_OPT_LEGACY);
	rpl_stream_put_record(&o, RPL_LIBXL_LIBXC_CONTEXT, NULL, 0);
	assert_golden(&o, "libxl", "4c 69 62 78 6c 46 6d 74 00 00 00 02 00 00 00 02 01 00 00 00 00 00 00 00");
	o = rpl_out(buf, sizeof(buf));
	rpl_stream_put_xl_header(&o, 3, 3);
	assert_golden(&o, "xl", "58656e20736176656420646f6d61696e2c20786c20666f726d61740a2000200d"
				"04 03 02 01 03 00 00 00 00 00 00 00 07 00 00 00 03 00 00 00");
}

static int read_one(const char *hex, struct rpl_stream_event *ret, unsigned n_events, struct rpl_err *err)
{
	static struct rpl_stream_reader r;
	static uint64_t descs[16];
	static uint8_t buf[512];
	size_t n = from_hex(hex, buf, sizeof(buf));
	struct rpl_stream_in in = { buf, n };
	int last = 1;

	rpl_stream_reader_init(&r, RPL_FORMAT_LIBXC, descs, RPL_ARRAY_LEN(descs));
	for (unsigned i = 0; i < n_events && last > 0; i++)
		last = rpl_stream_next(&r, &in, ret, err);
	return last;
}

static void typed_values_come_back(void **state)
{
	struct rpl_stream_event ev;
	struct rpl_err err;

	(void)state;
	/* events: image header, domain header, STATIC_DATA_END begins, ends, then the record */
	assert_int_equal(read_one(GOLDEN_HVM_HEAD, &ev, 1, &err), 1);
	assert_int_equal(ev.image_version, 3);
	assert_int_equal(read_one(GOLDEN_HVM_HEAD, &ev, 2, &err), 1);
	assert_int_equal(ev.domain.type, RPL_DOMAIN_HVM);
	assert_int_equal(ev.domain.xen_minor, 17);
	assert_int_equal(read_one(GOLDEN_HVM_HEAD "08 00 00 00 18 00 00 00 02 00 00 00 00 9f 24 00"
				  "15 cd 5b 07 00 00 00 00 03 00 00 00 00 00 00 00", &ev, 5, &err), 1);
	assert_int_equal(ev.kind, RPL_EV_RECORD);
	assert_int_equal(ev.tsc.mode, 2);
	assert_int_equal(ev.tsc.khz, 2400000);
	assert_int_equal(ev.tsc.nsec, 123456789);
	assert_int_equal(ev.tsc.incarnation, 3);
	assert_int_equal(read_one(GOLDEN_HVM_HEAD "0a 00 00 00 18 00 00 00 01 00 00 00 00 00 00 00"
				  "11 00 00 00 00 00 00 00 fe ef 0f 00 00 00 00 00", &ev, 6, &err), 1);
	assert_int_equal(ev.kind, RPL_EV_BODY);
	assert_int_equal(ev.len, 16);
	assert_int_equal(read_one(GOLDEN_HVM_HEAD "01 00 00 00 18 00 00 00 02 00 00 00 00 00 00 00"
				  "10 00 00 00 00 00 00 d0 11 00 00 00 00 00 00 f0", &ev, 6, &err), 1);
	assert_int_equal(ev.kind, RPL_EV_PFNS);
	assert_int_equal(ev.pfns.count, 2);
	assert_int_equal(ev.pfns.pages, 0);
	assert_int_equal(rpl_desc_pfn(ev.pfns.descs[1]), 0x11);
	assert_int_equal(rpl_desc_type(ev.pfns.descs[1]), RPL_PAGE_XTAB);
}

/* The record's bytes end up in the reader as `pages` whole ones that another way brought. */
static void pages_may_come_another_way(void **state)
{
	static struct rpl_stream_reader r;
	static uint64_t descs[16];
	uint8_t head[256], after[16];
	uint64_t want[] = { 5, 6, 7 };
	struct rpl_stream_domain_header d = { RPL_DOMAIN_HVM, 12, RPL_XEN_MAJOR_NONE, 0 };
	struct rpl_out o = rpl_out(head, sizeof(head)), o2 = rpl_out(after, sizeof(after));
	struct rpl_stream_event ev;
	struct rpl_stream_in in;
	struct rpl_err err;
	uint32_t pages;
	int ret;

	(void)state;
	rpl_stream_put_image_header(&o, 3);
	rpl_stream_put_domain_header(&o, &d);
	rpl_stream_put_page_data_head(&o, want, 3, &pages);
	assert_int_equal(pages, 3);
	rpl_stream_put_record(&o2, RPL_LIBXC_CHECKPOINT, NULL, 0);
	rpl_stream_reader_init(&r, RPL_FORMAT_LIBXC, descs, RPL_ARRAY_LEN(descs));
	assert_int_equal(rpl_stream_pages_elsewhere(&r, 1, &err), -EINVAL);
	in = (struct rpl_stream_in){ head, o.len };
	while ((ret = rpl_stream_next(&r, &in, &ev, &err)) > 0)
		;
	assert_int_equal(ret, 0);
	assert_int_equal(ev.kind, RPL_EV_PFNS);
	assert_int_equal(rpl_stream_pages_elsewhere(&r, 4, &err), -EINVAL);
	assert_int_equal(rpl_stream_pages_elsewhere(&r, 2, &err), 0);
	in = (struct rpl_stream_in){ stream, RPL_STREAM_PAGE };
	assert_int_equal(rpl_stream_next(&r, &in, &ev, &err), 1);
	assert_int_equal(ev.kind, RPL_EV_PAGES);
	assert_ptr_equal(ev.bytes, stream);
	assert_int_equal(ev.first, 2);
	in = (struct rpl_stream_in){ after, o2.len };
	while ((ret = rpl_stream_next(&r, &in, &ev, &err)) > 0)
		;
	assert_int_equal(ret, 0);
	assert_int_equal(r.offset, o.len + 3 * RPL_STREAM_PAGE + o2.len);
	assert_int_equal(rpl_stream_ending(&r), RPL_ENDING_CHECKPOINT);
}

/* As many ranges and as long texts as there may be, and one more. */
static void a_producer_may_be_as_large_as_its_limits(void **state)
{
	struct rpl_stream_producer p = { .kind = RPL_PRODUCER_SIM, .n_ranges = RPL_PRODUCER_RANGES_MAX }, got;
	struct rpl_out o = rpl_out(stream, sizeof(stream));
	struct rpl_err err;
	uint16_t more = RPL_PRODUCER_RANGES_MAX + 1;

	(void)state;
	for (unsigned i = 0; i < RPL_PRODUCER_RANGES_MAX; i++)
		p.ranges[i].pfn = p.ranges[i].offset = i;
	memset(p.name, 'n', RPL_PRODUCER_TEXT_MAX);
	memset(p.machine, 'm', RPL_PRODUCER_TEXT_MAX);
	rpl_stream_put_producer(&o, &p);
	assert_false(o.bad);
	assert_int_equal(rpl_stream_get_producer(stream + 8, RPL_PRODUCER_MAX, &got, &err), 0);
	assert_memory_equal(&got, &p, sizeof(p));
	memcpy(stream + 8 + 8, &more, 2);
	assert_int_equal(rpl_stream_get_producer(stream + 8, RPL_PRODUCER_MAX + 24, &got, &err), -EBADMSG);
	memcpy(stream + 8 + 8, &(uint16_t){ 0 }, 2);
	memcpy(stream + 8 + 10, &(uint16_t){ RPL_PRODUCER_TEXT_MAX + 1 }, 2);
	memcpy(stream + 8 + 12, &(uint16_t){ 0 }, 2);
	assert_int_equal(rpl_stream_get_producer(stream + 8, 16 + RPL_PRODUCER_TEXT_MAX + 1, &got, &err), -EBADMSG);
}

static void the_writer_refuses_what_no_reader_takes(void **state)
{
	uint64_t bad_type = rpl_desc(1, 5), bad_bits = UINT64_C(1) << 52, many[1025] = { 0 };
	struct rpl_stream_producer p = { .n_ranges = RPL_PRODUCER_RANGES_MAX + 1 };
	struct rpl_out o = rpl_out(stream, sizeof(stream));

	(void)state;
	rpl_stream_put_page_data_head(&o, &bad_type, 1, NULL);
	assert_true(o.bad);
	o = rpl_out(stream, sizeof(stream));
	rpl_stream_put_page_data_head(&o, &bad_bits, 1, NULL);
	assert_true(o.bad);
	o = rpl_out(stream, sizeof(stream));
	rpl_stream_put_page_data_head(&o, many, 0, NULL);
	assert_true(o.bad);
	o = rpl_out(stream, sizeof(stream));
	rpl_stream_put_page_data_head(&o, many, 1025, NULL);
	assert_true(o.bad);
	o = rpl_out(stream, sizeof(stream));
	rpl_stream_put_producer(&o, &p);
	assert_true(o.bad);
	o = rpl_out(stream, sizeof(stream));
	rpl_stream_put_image_header(&o, 1);
	assert_true(o.bad);
	o = rpl_out(stream, 15);
	rpl_stream_put_tsc(&o, &(struct rpl_stream_tsc){ 0 });
	assert_true(o.bad);
	o = rpl_out(stream, sizeof(stream));
	rpl_stream_put_record_head(&o, 9, RPL_STREAM_BODY_MAX + 1);
	assert_true(o.bad);
}

static void random_streams_round_trip_in_any_spans(void **state)
{
	static struct rpl_stream_reader r;
	const char *given = getenv("RPL_SEED");
	uint64_t seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL), rnd = seed;

	(void)state;
	print_message("seed %" PRIu64 " (RPL_SEED repeats it)\n", seed);
	for (unsigned i = 0; i < 300; i++) {
		struct make_plan plan = make_random_plan(&rnd);
		struct make_result want = make_stream(&plan, stream, sizeof(stream)), got;
		size_t span = make_random(&rnd) % 3 ? make_random(&rnd) % 9000 : 1 + make_random(&rnd) % 16;
		struct rpl_err err = { 0 };

		if (make_read_back(stream, want.len, plan.format, span, &r, &got, &err) < 0)
			fail_msg("plan %u: %s", i, err.msg);
		assert_int_equal(got.len, want.len);
		assert_int_equal(got.records, want.records);
		assert_int_equal(got.descs, want.descs);
		assert_int_equal(got.pages, want.pages);
		assert_true(got.sum == want.sum);
		assert_int_equal(r.checkpoints, plan.checkpoints);
		assert_memory_equal(got.checkpoint_end, want.checkpoint_end, sizeof(got.checkpoint_end));
		assert_int_equal(rpl_stream_ending(&r), plan.checkpoints ? RPL_ENDING_CHECKPOINT : RPL_ENDING_COMPLETE);
		assert_int_equal(rpl_stream_detect(stream, want.len), plan.format);
	}
}

/* Cut a Remus stream at every byte: exactly the checkpoints whose last byte arrived count. */
static void a_cut_leaves_the_last_complete_checkpoint(void **state)
{
	static struct rpl_stream_reader r;
	struct make_plan plan = { .guest = MAKE_HVM, .format = RPL_FORMAT_LIBXL, .version = 3, .checkpoints = 3,
				  .records = 1, .pages = 2, .vcpus = 1, .seed = 7 };
	struct make_result made = make_stream(&plan, stream, sizeof(stream)), got;
	struct rpl_err err;

	(void)state;
	for (size_t cut = 0; cut <= made.len; cut++) {
		unsigned complete = 0;

		while (complete < 3 && made.checkpoint_end[complete] <= cut)
			complete++;
		assert_int_equal(make_read_back(stream, cut, RPL_FORMAT_LIBXL, 0, &r, &got, &err), 0);
		assert_int_equal(r.checkpoints, complete);
		if (complete == 0)
			assert_int_equal(rpl_stream_ending(&r), RPL_ENDING_NOTHING);
		else if (cut == made.checkpoint_end[complete - 1])
			assert_int_equal(rpl_stream_ending(&r), RPL_ENDING_CHECKPOINT);
		else
			assert_int_equal(rpl_stream_ending(&r), RPL_ENDING_CUT);
		if (complete)
			assert_int_equal(r.good_offset, made.checkpoint_end[complete - 1]);
	}
}

static void detection_needs_eight_bytes(void **state)
{
	(void)state;
	assert_int_equal(rpl_stream_detect("LibxlFm", 7), RPL_FORMAT_UNKNOWN);
	assert_int_equal(rpl_stream_detect("LibxlFmt", 8), RPL_FORMAT_LIBXL);
	assert_int_equal(rpl_stream_detect("Xen save", 8), RPL_FORMAT_XL);
	assert_int_equal(rpl_stream_detect("\xff\xff\xff\xff\xff\xff\xff\xff", 8), RPL_FORMAT_LIBXC);
	assert_int_equal(rpl_stream_detect("\0\0\1\0\0\0\0\0", 8), RPL_FORMAT_LEGACY);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(headers_have_their_golden_bytes),
		cmocka_unit_test(typed_values_come_back),
		cmocka_unit_test(pages_may_come_another_way),
		cmocka_unit_test(a_producer_may_be_as_large_as_its_limits),
		cmocka_unit_test(the_writer_refuses_what_no_reader_takes),
		cmocka_unit_test(random_streams_round_trip_in_any_spans),
		cmocka_unit_test(a_cut_leaves_the_last_complete_checkpoint),
		cmocka_unit_test(detection_needs_eight_bytes),
	};

	return cmocka_run_group_tests_name("wire_stream", tests, NULL, NULL);
}
