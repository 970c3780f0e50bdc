/* Streams from before Xen 4.6: what becomes of each kind, and a cut at every byte. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <replicad/auto.h>
#include <replicad/stream.h>
#include <replicad/stream_check.h>
#include <replicad/stream_convert.h>

#include "../lib/legacy_make.h"

#define SEED 3
#define DEVICE_MODEL_BYTES (21 + 4 + 333) /* what legacy_make puts behind an HVM guest's tail */

static uint8_t legacy[1 << 20], made[1 << 20];
static size_t n_made;

static int to_made(void *ctx, const void *bytes, size_t len)
{
	(void)ctx;
	assert_true(len <= sizeof(made) - n_made);
	memcpy(made + n_made, bytes, len);
	n_made += len;
	return 0;
}

static int from_legacy(void *ctx, void *buf, size_t len, size_t *ret_got)
{
	struct rpl_stream_in *in = ctx;
	size_t n = len < in->len ? len : in->len;

	memcpy(buf, in->p, n);
	in->p += n;
	in->len -= n;
	*ret_got = n;
	return n == len;
}

static int convert(size_t len, enum rpl_stream_format to, uint32_t version, struct rpl_err *err)
{
	struct rpl_stream_in in = { legacy, len };
	struct rpl_stream_sink sink = { .write = to_made };
	struct rpl_legacy l = { .to = to, .version = version, .sink = &sink, .read = from_legacy, .read_ctx = &in,
				.config = "{}", .config_len = 3 };
	uint64_t dropped;

	n_made = 0;
	return rpl_legacy_convert(&l, &dropped, err);
}

static void on_finding(void *ctx, const struct rpl_stream_finding *f)
{
	(void)ctx;
	fail_msg("%s: %s", rpl_stream_rule_def(f->rule)->name, f->text);
}

/* Nothing is found in what was made; its records in order, one letter each. */
static void read_made(enum rpl_stream_format format, char *ret, size_t size, uint8_t *ret_width)
{
	static const char libxc[] = "ePi24x6stchTmvC", libxl[] = "EXSM";
	static struct rpl_stream_reader r;
	static struct rpl_stream_check c;
	static uint64_t descs[1024];
	struct rpl_stream_in in = { made, n_made };
	struct rpl_stream_event ev;
	struct rpl_err err;
	size_t n = 0;

	rpl_stream_reader_init(&r, format, descs, RPL_ARRAY_LEN(descs));
	rpl_stream_check_init(&c, on_finding, NULL);
	*ret_width = 0;
	while (rpl_stream_next(&r, &in, &ev, &err) > 0) {
		rpl_stream_check(&c, &ev);
		if (ev.kind == RPL_EV_DOMAIN_HEADER)
			assert_int_equal(ev.domain.xen_major, RPL_XEN_MAJOR_CONVERTED);
		if (ev.kind != RPL_EV_RECORD)
			continue;
		assert_true(n + 1 < size);
		if (ev.rec.layer == RPL_LAYER_LIBXL)
			ret[n++] = ev.rec.type < 4 ? libxl[ev.rec.type] : '?';
		else
			ret[n++] = ev.rec.type == RPL_LIBXC_STATIC_DATA_END ? '|' : ev.rec.type < 15 ? libxc[ev.rec.type] : '?';
		if (ev.rec.layer == RPL_LAYER_LIBXC && ev.rec.type == RPL_LIBXC_X86_PV_INFO)
			*ret_width = ev.pv_info.width;
	}
	ret[n] = '\0';
	rpl_stream_check_end(&c, &r, false);
	assert_int_equal(rpl_stream_ending(&r), RPL_ENDING_COMPLETE);
}

/* i X86_PV_INFO, | STATIC_DATA_END, 2 P2M_FRAMES, P PAGE_DATA, t TSC_INFO, h HVM_PARAMS (twice), 4 x 6 BASIC EXTENDED XSAVE,
 * s SHARED_INFO, c HVM_CONTEXT; X LIBXC_CONTEXT, S XENSTORE_DATA, M EMULATOR_CONTEXT, e and E the ends. */
static const struct {
	unsigned guest, width; /* 0: HVM */
	const char *image, *around;
} kinds[] = {
	{ 4, 4, "i|2PPt4x64x6se", "" },
	{ 8, 8, "i|2PPt4x64x6se", "" },
	{ 4, 8, "i|2PPt4x64x6se", "" },
	{ 0, 4, "|PPthhce", "SM" },
	{ 0, 8, "|PPthhce", "SM" },
};

static void every_kind_becomes_the_records_it_holds(void **state)
{
	static const enum rpl_stream_format formats[] = { RPL_FORMAT_LIBXC, RPL_FORMAT_LIBXL, RPL_FORMAT_XL };

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(kinds) * RPL_ARRAY_LEN(formats) * 2; i++) {
		enum rpl_stream_format to = formats[i / 2 % RPL_ARRAY_LEN(formats)];
		size_t kind = i / 2 / RPL_ARRAY_LEN(formats), len;
		uint32_t version = 2 + (uint32_t)(i % 2);
		char got[64], image[32], want[64];
		struct rpl_err err;
		uint8_t width;

		len = make_legacy(kinds[kind].guest, kinds[kind].width, SEED, legacy, sizeof(legacy));
		if (convert(len, to, version, &err) < 0)
			fail_msg("kind %zu: %s", kind, err.msg);
		read_made(to, got, sizeof(got), &width);
		(void)snprintf(image, sizeof(image), "%s", kinds[kind].image);
		if (version == 2)
			memmove(strchr(image, '|'), strchr(image, '|') + 1, strlen(strchr(image, '|')));
		(void)snprintf(want, sizeof(want), to == RPL_FORMAT_LIBXC ? "%s" : "X%s%sE", image, kinds[kind].around);
		assert_string_equal(got, want);
		assert_int_equal(width, kinds[kind].guest);
	}
}

/* Only behind an HVM guest's tail may a stream end: not every guest has a device model. */
static void every_cut_is_refused_with_its_offset(void **state)
{
	(void)state;
	for (size_t kind = 0; kind < RPL_ARRAY_LEN(kinds); kind++) {
		size_t len = make_legacy(kinds[kind].guest, kinds[kind].width, SEED, legacy, sizeof(legacy));

		for (size_t cut = 0; cut < len; cut++) {
			struct rpl_err err = { 0 };
			int r;

			if (cut > 300 && cut % 4096 > 64 && len - cut > 2048)
				continue; /* inside pages and contexts one cut is like the other */
			r = convert(cut, RPL_FORMAT_LIBXL, 3, &err);
			if (r == 0 && !kinds[kind].guest && cut == len - DEVICE_MODEL_BYTES)
				continue;
			if ((r != -EBADMSG && r != -EOPNOTSUPP) || strncmp(err.msg, "offset ", 7) != 0)
				fail_msg("kind %zu, cut at %zu: %d: %s", kind, cut, r, err.msg);
		}
	}
}

/* ---- what no legacy stream may say: each with the offset of what says it */
static struct rpl_out begin_hvm(void)
{
	struct rpl_out o = rpl_out(legacy, sizeof(legacy));

	rpl_out_le64(&o, 0x1000); /* pfns; a 64-bit toolstack */
	rpl_out_le32(&o, 1);
	rpl_out_le64(&o, 5);
	o.len += RPL_STREAM_PAGE;
	return o;
}

static void chunk(struct rpl_out *o, int32_t type, uint32_t first)
{
	rpl_out_le32(o, (uint32_t)type);
	rpl_out_le32(o, first);
}

static void end_hvm(struct rpl_out *o, uint32_t context_len, uint32_t model_len)
{
	rpl_out_le32(o, 0);
	for (unsigned i = 0; i < 3; i++)
		rpl_out_le64(o, i);
	rpl_out_le32(o, context_len);
	o->len += context_len < 4096 ? context_len : 0;
	rpl_out_bytes(o, "DeviceModelRecord0002", 21);
	rpl_out_le32(o, model_len);
	rpl_out_le32(o, 0);
}

static void toolstack(struct rpl_out *o, uint32_t size, uint32_t version, uint32_t count, uint32_t name_len)
{
	chunk(o, -18, size);
	rpl_out_le32(o, version);
	rpl_out_le32(o, count);
	rpl_out_le64(o, 1);
	rpl_out_le64(o, 2);
	rpl_out_le64(o, 3);
	rpl_out_le32(o, name_len);
	rpl_out_bytes(o, "name", 5);
	rpl_out_le32(o, 0);
}

#define TOOLSTACK_LEN (8 + 28 + 5 + 4)

static void write_bad(struct rpl_out *o, unsigned which)
{
	switch (which) {
	case 0: /* the good one */
		toolstack(o, TOOLSTACK_LEN, 1, 1, 5);
		chunk(o, -2, 4095);
		o->len += 4096 / 8;
		break;
	case 1:
		toolstack(o, (64 << 10) + 1, 1, 1, 5);
		break;
	case 2:
		toolstack(o, TOOLSTACK_LEN, 2, 1, 5);
		break;
	case 3:
		toolstack(o, TOOLSTACK_LEN, 1, 2, 5);
		break;
	case 4:
		toolstack(o, TOOLSTACK_LEN, 1, 1, 4);
		break;
	case 5:
		toolstack(o, 7, 1, 1, 5);
		break;
	case 6:
		chunk(o, -2, 4096);
		break;
	case 7:
		rpl_out_le32(o, 1025);
		break;
	case 8:
		rpl_out_le32(o, 1);
		rpl_out_le64(o, 0x50000001);
		break;
	case 9:
		rpl_out_le32(o, 1);
		rpl_out_le64(o, 0x100000001);
		break;
	case 10:
		for (unsigned i = 0; i < 33; i++) {
			chunk(o, -8, 0);
			rpl_out_le64(o, i);
		}
		break;
	}
}

static void what_is_impossible_is_refused_with_its_offset(void **state)
{
	static const struct {
		uint32_t context_len, model_len;
		unsigned which;
		const char *text; /* NULL: converted */
	} cases[] = {
		{ 8, 4, 0, NULL },
		{ 8, 4, 1, "toolstack data of 65537 bytes" },
		{ 8, 4, 2, "toolstack data of version 2" },
		{ 8, 4, 3, "toolstack data: a name of 0 bytes" },
		{ 8, 4, 4, "toolstack data: a name of 4 bytes" },
		{ 8, 4, 5, "toolstack data of version" },
		{ 8, 4, 6, "highest vCPU id 4096" },
		{ 8, 4, 7, "a batch of 1025 pages" },
		{ 8, 4, 8, "descriptor 0 is 0x50000001" },
		{ 8, 4, 9, "descriptor 0 is 0x100000001" },
		{ 8, 4, 10, "more than 32 HVM parameters" },
		{ 0, 4, 0, "HVM context of 0 bytes" },
		{ RPL_STREAM_BODY_MAX + 1, 4, 0, "HVM context of 134217729 bytes" },
		{ 8, 0, 0, "device-model record of 0 bytes" },
		{ 8, RPL_STREAM_BODY_MAX, 0, "device-model record of 134217728 bytes" },
		{ 8, 3, 0, "bytes behind the end" },
	};

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(cases); i++) {
		struct rpl_out o;
		struct rpl_err err = { 0 };
		int r;

		memset(legacy, 0, sizeof(legacy));
		o = begin_hvm();
		write_bad(&o, cases[i].which);
		end_hvm(&o, cases[i].context_len, cases[i].model_len);
		assert_false(o.bad);
		r = convert(o.len, RPL_FORMAT_LIBXL, 3, &err);
		if (cases[i].text ? r != -EBADMSG || strncmp(err.msg, "offset ", 7) || !strstr(err.msg, cases[i].text) : r != 0)
			fail_msg("case %zu: %d: %s, expected %s", i, r, err.msg, cases[i].text ? cases[i].text : "no error");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_kind_becomes_the_records_it_holds),
		cmocka_unit_test(every_cut_is_refused_with_its_offset),
		cmocka_unit_test(what_is_impossible_is_refused_with_its_offset),
	};

	return cmocka_run_group_tests_name("stream_legacy", tests, NULL, NULL);
}
