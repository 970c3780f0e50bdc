/* The link's codec: golden bytes both ways, every truncation, every single-bit flip of headers and small bodies. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <replicad/auto.h>
#include <replicad/link.h>
#include <replicad/pages.h>

#include "../../src/link/frame.h"

static const struct rpl_uuid vm = { { 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17,
				      0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f } };
static const struct rpl_uuid session = { { 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27,
					   0x28, 0x29, 0x2a, 0x2b, 0x2c, 0x2d, 0x2e, 0x2f } };

static void flip(uint8_t *bytes, size_t bit)
{
	bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
}

/* ---- frames */

static void frame_headers_are_golden(void **state)
{
	static const uint8_t golden[RPL_FRAME_HEADER] = { 0x18, 0, 0, 0, 0x14, 0, 0, 0,
							  0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01 };
	uint8_t h[RPL_FRAME_HEADER];
	struct rpl_err err = { 0 };
	uint16_t type;
	uint32_t len;

	(void)state;
	rpl_frame_header_encode(RPL_FRAME_ACK, 24, 0x0102030405060708, h);
	assert_memory_equal(h, golden, sizeof(h));
	assert_int_equal(rpl_frame_header_decode(golden, 0x0102030405060708, &type, &len, &err), 0);
	assert_int_equal(type, RPL_FRAME_ACK);
	assert_int_equal(len, 24);
	assert_string_equal(rpl_frame_name(type), "ACK");
	assert_string_equal(rpl_frame_name(9999), "?");
}

static void every_type_is_bounded_both_ways(void **state)
{
	(void)state;
#define X(name, number, min, max) { number, min, max },
	static const struct { uint16_t type; uint32_t min, max; } all[] = { RPL_FRAMES(X) };
#undef X
	for (size_t i = 0; i < RPL_ARRAY_LEN(all); i++) {
		const uint32_t lens[4] = { all[i].min, all[i].max, all[i].min - 1, all[i].max + 1 };

		for (int k = 0; k < 4; k++) {
			uint8_t h[RPL_FRAME_HEADER];
			struct rpl_err err = { 0 };
			uint16_t type;
			uint32_t len;
			int r;

			rpl_frame_header_encode(all[i].type, lens[k], 7, h);
			r = rpl_frame_header_decode(h, 7, &type, &len, &err);
			assert_int_equal(r, k < 2 ? 0 : -EBADMSG);
		}
	}
}

/* No flipped header bit passes, except for another allowed length, and another type that allows the same length: TLS
 * sees those, in clear the body's own checks have to. */
static void flipped_header_bits_are_seen(void **state)
{
	uint8_t h[RPL_FRAME_HEADER];
	struct rpl_err err;
	uint16_t type;
	uint32_t len;

	(void)state;
	for (size_t bit = 0; bit < sizeof(h) * 8; bit++) {
		int r;

		rpl_frame_header_encode(RPL_FRAME_ACK, 24, 99, h);
		flip(h, bit);
		r = rpl_frame_header_decode(h, 99, &type, &len, &err);
		if (bit >= 32 && bit <= 36 && bit != 35) { /* REDO, FLUSHED, STREAM, REFUSE */
			assert_int_equal(r, 0);
			assert_true(type == (RPL_FRAME_ACK ^ 1u << (bit - 32)) && len == 24);
		} else {
			assert_int_equal(r, -EBADMSG);
		}
		rpl_frame_header_encode(RPL_FRAME_STREAM, 4096, 99, h);
		flip(h, bit);
		r = rpl_frame_header_decode(h, 99, &type, &len, &err);
		if (r == 0)
			assert_true(bit < 32 ? type == RPL_FRAME_STREAM && len == (4096u ^ 1u << bit) : bit == 32);
		else
			assert_int_equal(r, -EBADMSG);
	}
}

static size_t add_frame(uint8_t *out, uint16_t type, const void *body, uint32_t len, uint64_t seq)
{
	rpl_frame_header_encode(type, len, seq, out);
	if (len)
		memcpy(out + RPL_FRAME_HEADER, body, len);
	return RPL_FRAME_HEADER + len;
}

static size_t sample_stream(uint8_t *out)
{
	uint8_t hello[RPL_HELLO_SIZE] = { 1 }, data[3000];
	size_t len = add_frame(out, RPL_FRAME_HELLO, hello, sizeof(hello), 0);

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7);
	len += add_frame(out + len, RPL_FRAME_HEARTBEAT, NULL, 0, 1);
	len += add_frame(out + len, RPL_FRAME_STREAM, data, sizeof(data), 2);
	len += add_frame(out + len, RPL_FRAME_HEARTBEAT, NULL, 0, 3);
	return len + add_frame(out + len, RPL_FRAME_STREAM, data, 1, 4);
}

/* Feed bytes in pieces; returns how many frames came out, or the error. */
static int feed(struct rpl_framer *f, const uint8_t *bytes, size_t len, size_t piece, size_t *ret_body_bytes)
{
	struct rpl_err err;
	int frames = 0;

	*ret_body_bytes = 0;
	while (len) {
		uint8_t *where;
		size_t n = rpl_framer_space(f, &where);
		const uint8_t *body;
		uint16_t type;
		size_t body_len;
		int r;

		assert_true(n > 0);
		n = n < piece ? n : piece;
		n = n < len ? n : len;
		memcpy(where, bytes, n);
		rpl_framer_filled(f, n);
		bytes += n;
		len -= n;
		while ((r = rpl_framer_next(f, &type, &body, &body_len, &err)) > 0) {
			frames++;
			*ret_body_bytes += body_len;
		}
		if (r < 0) {
			assert_int_equal(rpl_framer_next(f, &type, &body, &body_len, &err), -EBADMSG);
			return r;
		}
	}
	return frames;
}

static void streams_come_out_whole_however_they_are_cut(void **state)
{
	static uint8_t bytes[8192];
	size_t len = sample_stream(bytes), body;
	struct rpl_framer f;

	(void)state;
	for (size_t piece = 1; piece <= len; piece += piece < 40 ? 1 : 97) {
		assert_int_equal(rpl_framer_init(&f), 0);
		assert_int_equal(feed(&f, bytes, len, piece, &body), 5);
		assert_int_equal(body, RPL_HELLO_SIZE + 3001);
		assert_int_equal(rpl_framer_pending(&f), 0);
		rpl_framer_fini(&f);
	}
	for (size_t cut = 0; cut < len; cut++) { /* a truncated stream gives fewer frames and shows the rest as pending */
		int r;

		assert_int_equal(rpl_framer_init(&f), 0);
		r = feed(&f, bytes, cut, cut ? cut : 1, &body);
		assert_in_range(r, 0, 4);
		assert_true((cut == 0) == (r == 0 && rpl_framer_pending(&f) == 0));
		rpl_framer_fini(&f);
	}
}

static void largest_frames_pass_back_to_back(void **state)
{
	RPL_AUTO_FREE uint8_t *bytes = malloc(RPL_FRAME_MAX * 3 + 4096);
	RPL_AUTO_FREE uint8_t *body = calloc(1, RPL_FRAME_BODY_MAX);
	uint8_t hello[RPL_HELLO_SIZE] = { 1 };
	size_t len = add_frame(bytes, RPL_FRAME_HELLO, hello, sizeof(hello), 0), got;

	(void)state;
	for (uint64_t seq = 1; seq < 4; seq++)
		len += add_frame(bytes + len, RPL_FRAME_STREAM, body, RPL_FRAME_BODY_MAX, seq);
	for (size_t piece = 1000; piece < 3000000; piece = piece * 3 + 1) {
		struct rpl_framer f;

		assert_int_equal(rpl_framer_init(&f), 0);
		assert_int_equal(feed(&f, bytes, len, piece, &got), 4);
		assert_int_equal(got, RPL_HELLO_SIZE + 3 * RPL_FRAME_BODY_MAX);
		rpl_framer_fini(&f);
	}
}

static void replays_gaps_and_early_frames_are_refused(void **state)
{
	static const struct { uint16_t first; uint64_t seq[3]; int frames; } bad[] = {
		{ RPL_FRAME_HELLO, { 0, 0, 1 }, -EBADMSG }, { RPL_FRAME_HELLO, { 0, 2, 3 }, -EBADMSG },
		{ RPL_FRAME_HELLO, { 1, 2, 3 }, -EBADMSG }, { RPL_FRAME_HELLO, { 0, 1, 1 }, -EBADMSG },
		{ RPL_FRAME_HELLO, { 0, 1, UINT64_MAX }, -EBADMSG }, { RPL_FRAME_HELLO, { 0, 1, 2 }, 3 },
		{ RPL_FRAME_ACK, { 0, 1, 2 }, -EBADMSG }, { RPL_FRAME_STREAM, { 0, 1, 2 }, -EBADMSG },
	};
	uint8_t body[RPL_HELLO_SIZE] = { 1 }, bytes[1024];

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(bad); i++) {
		uint32_t first_len = bad[i].first == RPL_FRAME_ACK ? 24 : RPL_HELLO_SIZE;
		size_t len = add_frame(bytes, bad[i].first, body, first_len, bad[i].seq[0]), got;
		struct rpl_framer f;

		len += add_frame(bytes + len, RPL_FRAME_HEARTBEAT, NULL, 0, bad[i].seq[1]);
		len += add_frame(bytes + len, RPL_FRAME_HEARTBEAT, NULL, 0, bad[i].seq[2]);
		assert_int_equal(rpl_framer_init(&f), 0);
		assert_int_equal(feed(&f, bytes, len, len, &got), bad[i].frames);
		rpl_framer_fini(&f);
	}
}

/* ---- preamble and hello */

static struct rpl_hello sample_hello(void)
{
	return (struct rpl_hello){ .major = 1, .minor = 0, .features = RPL_FEATURE_PAGES, .vm = vm, .session = session,
				   .generation = 0x31, .last_staged = 0x32, .epoch_bytes_max = 0x33343536, .ram_pages = 65536,
				   .max_uncommitted = 8, .role = RPL_ROLE_PRIMARY, .node = "alpha", .blackout_us = 0x3738,
				   .flags = RPL_HELLO_RESUME };
}

static const uint8_t golden_hello[RPL_HELLO_SIZE] = {
	1, 0, 0, 0, 2, 0, 0, 0,
	0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f,
	0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x2b, 0x2c, 0x2d, 0x2e, 0x2f,
	0x31, 0, 0, 0, 0, 0, 0, 0, 0x32, 0, 0, 0, 0, 0, 0, 0, 0x36, 0x35, 0x34, 0x33, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0,
	8, 0, 0, 0, 1, 0, 0, 0, 'a', 'l', 'p', 'h', 'a', [144] = 0x38, 0x37, [152] = 1,
};

static void hello_is_golden_both_ways(void **state)
{
	struct rpl_hello h = sample_hello(), back;
	uint8_t bytes[RPL_HELLO_SIZE];
	struct rpl_err err = { 0 };

	(void)state;
	rpl_hello_encode(&h, bytes);
	assert_memory_equal(bytes, golden_hello, sizeof(bytes));
	assert_int_equal(rpl_hello_decode(golden_hello, sizeof(golden_hello), &back, &err), 0);
	rpl_hello_encode(&back, bytes);
	assert_memory_equal(bytes, golden_hello, sizeof(bytes));
	assert_string_equal(back.node, "alpha");
	assert_int_equal(back.ram_pages, 65536);
	for (size_t len = 0; len < RPL_HELLO_SIZE; len++)
		assert_int_equal(rpl_hello_decode(golden_hello, len, &back, &err), -EBADMSG);
}

/* Nothing in a hello is ignored: a flipped bit is refused, or decoded to values that encode to the flipped bytes. The
 * reserved tail of a newer minor version is the one exception. */
static void flipped_hello_bits_are_seen(void **state)
{
	uint8_t bytes[RPL_HELLO_SIZE], again[RPL_HELLO_SIZE];
	struct rpl_hello h;
	struct rpl_err err;
	size_t refused = 0;

	(void)state;
	for (size_t bit = 0; bit < sizeof(bytes) * 8; bit++) {
		memcpy(bytes, golden_hello, sizeof(bytes));
		flip(bytes, bit);
		if (rpl_hello_decode(bytes, sizeof(bytes), &h, &err) < 0) {
			assert_int_equal(err.code, -EBADMSG);
			refused++;
			continue;
		}
		rpl_hello_encode(&h, again);
		assert_memory_equal(bytes, again, sizeof(bytes));
	}
	assert_true(refused >= 16 + 31 + 44 * 8); /* the major version, unknown flags and the reserved tail at least */
	memcpy(bytes, golden_hello, sizeof(bytes));
	bytes[2] = 7;
	bytes[199] = 1;
	assert_int_equal(rpl_hello_decode(bytes, sizeof(bytes), &h, &err), 0);
	assert_int_equal(h.minor, 7);
}

static void hello_values_are_checked(void **state)
{
	static const struct rpl_uuid none;
	struct rpl_hello bad[7], h;
	uint8_t bytes[RPL_HELLO_SIZE];
	struct rpl_err err;

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(bad); i++)
		bad[i] = sample_hello();
	bad[0].role = 0;
	bad[1].role = 3;
	bad[2].vm = none;
	bad[3].session = none;
	bad[4].ram_pages = 0;
	bad[5].ram_pages = UINT64_C(1) << 52;
	bad[6].role = RPL_ROLE_BACKUP;
	bad[6].session = none; /* with an epoch staged */
	for (size_t i = 0; i < RPL_ARRAY_LEN(bad); i++) {
		rpl_hello_encode(&bad[i], bytes);
		assert_int_equal(rpl_hello_decode(bytes, sizeof(bytes), &h, &err), -EBADMSG);
	}
	bad[6].last_staged = 0;
	rpl_hello_encode(&bad[6], bytes);
	assert_int_equal(rpl_hello_decode(bytes, sizeof(bytes), &h, &err), 0);
	memcpy(bytes, golden_hello, sizeof(bytes));
	memset(bytes + 80, 'x', RPL_NODE_NAME); /* no final zero */
	assert_int_equal(rpl_hello_decode(bytes, sizeof(bytes), &h, &err), -EBADMSG);
	memcpy(bytes, golden_hello, sizeof(bytes));
	bytes[81] = '\n'; /* it goes to logs */
	assert_int_equal(rpl_hello_decode(bytes, sizeof(bytes), &h, &err), -EBADMSG);
}

static void hellos_match_or_say_why(void **state)
{
	struct rpl_hello ours = sample_hello(), theirs[6];
	static const char *const says[6] = { NULL, "protocol 1.0 here, 2.0", "VM 10111213", "primary here and on beta",
					     "65536 pages here, 65535", "features 0x2 here, 0x1 on beta: upgrade" };
	struct rpl_err err;

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(theirs); i++) {
		theirs[i] = sample_hello();
		theirs[i].role = RPL_ROLE_BACKUP;
		theirs[i].minor = 3;
		strcpy(theirs[i].node, "beta");
	}
	theirs[1].major = 2;
	theirs[1].minor = 0;
	theirs[2].vm.b[0] ^= 1;
	theirs[3].role = RPL_ROLE_PRIMARY;
	theirs[4].ram_pages--;
	theirs[5].features = 1; /* whole pages, and a digest of them */
	assert_int_equal(rpl_hello_match(&ours, &theirs[0], &err), 0);
	for (size_t i = 1; i < RPL_ARRAY_LEN(theirs); i++) {
		assert_int_equal(rpl_hello_match(&ours, &theirs[i], &err), -EPROTO);
		if (!strstr(err.msg, says[i]))
			fail_msg("\"%s\" lacks \"%s\"", err.msg, says[i]);
	}
}

static void preamble_is_golden_and_flips_are_seen(void **state)
{
	static const uint8_t golden[RPL_PREAMBLE_SIZE] = { 'R', 'E', 'P', 'L', 'I', 'C', 'A', 'D', 0, 1, 0, 0, 0, 0, 0, 0,
							   0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17,
							   0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f };
	uint8_t bytes[RPL_PREAMBLE_SIZE];
	struct rpl_uuid got;
	struct rpl_err err;

	(void)state;
	rpl_preamble_encode(&vm, bytes);
	assert_memory_equal(bytes, golden, sizeof(bytes));
	assert_int_equal(rpl_preamble_decode(golden, &got, &err), 0);
	assert_true(rpl_uuid_equal(&got, &vm));
	for (size_t bit = 0; bit < sizeof(bytes) * 8; bit++) {
		int r;

		memcpy(bytes, golden, sizeof(bytes));
		flip(bytes, bit);
		r = rpl_preamble_decode(bytes, &got, &err);
		if (bit / 8 == 10 || bit / 8 == 11) /* a newer minor version is welcome */
			assert_int_equal(r, 0);
		else if (bit / 8 >= 16)
			assert_true(r == 0 && !rpl_uuid_equal(&got, &vm));
		else
			assert_int_equal(r, -EBADMSG);
	}
	memset(bytes + 16, 0, 16);
	memcpy(bytes, golden, 16);
	assert_int_equal(rpl_preamble_decode(bytes, &got, &err), -EBADMSG);
}

/* ---- bodies of fixed size */

static void fixed_bodies_are_golden_both_ways(void **state)
{
	static const uint8_t begin[24] = { 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0 };
	static const uint8_t end[40] = { 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0,
					 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19 };
	static const uint8_t handover[32] = { 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x2b, 0x2c,
					      0x2d, 0x2e, 0x2f, 0, 1, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0 };
	struct rpl_epoch_begin b;
	struct rpl_epoch_end e;
	struct rpl_session_epoch s;
	struct rpl_handover h;
	uint8_t bytes[40];

	(void)state;
	rpl_epoch_begin_decode(begin, &b);
	assert_true(b.epoch == 1 && b.flags == RPL_EPOCH_BULK_LAST && b.reserved == 0 && b.pages == 3);
	rpl_epoch_begin_encode(&b, bytes);
	assert_memory_equal(bytes, begin, sizeof(begin));
	rpl_epoch_end_decode(end, &e);
	assert_true(e.epoch == 1 && e.stream_bytes == 2 && e.pages == 3 && e.digest[0] == 4 && e.digest[15] == 19);
	rpl_epoch_end_encode(&e, bytes);
	assert_memory_equal(bytes, end, sizeof(end));
	rpl_handover_decode(handover, &h);
	assert_true(rpl_uuid_equal(&h.session, &session) && h.epoch == 256 && h.paused_us == 9);
	rpl_handover_encode(&h, bytes);
	assert_memory_equal(bytes, handover, sizeof(handover));
	rpl_session_epoch_decode(handover, &s);
	assert_true(rpl_uuid_equal(&s.session, &session) && s.epoch == 256);
	rpl_session_epoch_encode(&s, bytes);
	assert_memory_equal(bytes, handover, 24);
}

/* ---- pages */

static uint8_t page_store[RPL_PAGES_PER_FRAME * RPL_PAGE_SIZE];
static uint8_t page_body[RPL_PAGES_BODY_MAX];

static void pages_are_golden(void **state)
{
	static const uint8_t head[16 + 24] = { 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
					       5, 0, 0, 0, 0, 0, 0, 0x00, 6, 0, 0, 0, 0, 0, 0, 0x10,
					       0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x00 };
	const uint64_t pfns[3] = { 5, 6, (UINT64_C(1) << 52) - 1 };
	struct rpl_pages got;
	struct rpl_err err = { 0 };
	uint32_t zero;
	size_t len;

	(void)state;
	memset(page_store, 0, sizeof(page_store));
	page_store[4095] = 0xaa;
	page_store[2 * 4096] = 0xbb;
	len = rpl_pages_encode(pfns, page_store, 3, page_body, &zero);
	assert_int_equal(len, sizeof(head) + 2 * 4096);
	assert_int_equal(zero, 1);
	assert_memory_equal(page_body, head, sizeof(head));
	assert_int_equal(page_body[sizeof(head) + 4095], 0xaa);
	assert_int_equal(page_body[sizeof(head) + 4096], 0xbb);
	assert_int_equal(rpl_pages_decode(page_body, len, &got, &err), 0);
	assert_true(got.n == 3 && got.zero == 1 && got.page[1] == rpl_zero_page);
	for (int i = 0; i < 3; i++) {
		assert_true(got.pfn[i] == pfns[i]);
		assert_memory_equal(got.page[i], page_store + i * 4096, 4096);
	}
	for (size_t cut = 0; cut < len; cut++)
		assert_int_equal(rpl_pages_decode(page_body, cut, &got, &err), -EBADMSG);
	assert_int_equal(rpl_pages_decode(page_body, len + 1, &got, &err), -EBADMSG);
}

static void flipped_page_bits_are_seen(void **state)
{
	const uint64_t pfns[3] = { 5, 6, 7 };
	struct rpl_pages got;
	struct rpl_err err;
	uint32_t zero;
	size_t len;

	(void)state;
	memset(page_store, 0, sizeof(page_store));
	page_store[0] = page_store[8192] = 1;
	len = rpl_pages_encode(pfns, page_store, 3, page_body, &zero);
	for (size_t bit = 0; bit < 40 * 8; bit++) {
		int r;

		flip(page_body, bit);
		r = rpl_pages_decode(page_body, len, &got, &err);
		if (bit >= 128 && bit % 64 < 52) /* another pfn: the guest's layout and the digest check it */
			assert_true(r == 0 && got.pfn[(bit - 128) / 64] == (pfns[(bit - 128) / 64] ^ UINT64_C(1) << bit % 64));
		else
			assert_int_equal(r, -EBADMSG);
		flip(page_body, bit);
	}
	for (uint8_t encoding = 3; encoding < 16; encoding += encoding == 3 ? 2 : 1) {
		page_body[23] = (uint8_t)(encoding << 4);
		assert_int_equal(rpl_pages_decode(page_body, len, &got, &err), -EBADMSG);
		assert_non_null(strstr(err.msg, "encoding"));
	}
}

static void page_counts_are_bounded_before_use(void **state)
{
	static const uint32_t counts[] = { 0, RPL_PAGES_PER_FRAME + 1, 0x20000001, UINT32_MAX };
	struct rpl_pages got;
	struct rpl_err err;

	(void)state;
	memset(page_body, 0, sizeof(page_body));
	page_body[0] = RPL_PAGES_VERSION;
	for (size_t i = 0; i < RPL_ARRAY_LEN(counts); i++) {
		memcpy(page_body + 4, &counts[i], 4);
		assert_int_equal(rpl_pages_decode(page_body, sizeof(page_body), &got, &err), -EBADMSG);
	}
}

static void any_mix_of_pages_round_trips(void **state)
{
	uint64_t pfns[RPL_PAGES_PER_FRAME], seed = 0x9e3779b97f4a7c15;

	(void)state;
	for (int round = 0; round < 200; round++) {
		uint8_t head[RPL_PAGES_HEAD_MAX];
		struct iovec iov[RPL_PAGES_SPANS_MAX];
		size_t n = 1 + (size_t)round * 37 % RPL_PAGES_PER_FRAME, len, at = 0;
		uint32_t zero, zero2, want = 0;
		struct rpl_pages got;
		struct rpl_err err = { 0 };
		int spans;

		memset(page_store, 0, n * RPL_PAGE_SIZE);
		for (size_t i = 0; i < n; i++) {
			seed ^= seed << 13;
			seed ^= seed >> 7;
			seed ^= seed << 17;
			pfns[i] = seed >> 12;
			if (seed % 3 == 0 && ++want)
				continue;
			page_store[i * RPL_PAGE_SIZE + seed / 3 % RPL_PAGE_SIZE] = 1;
		}
		len = rpl_pages_encode(pfns, page_store, n, page_body, &zero);
		assert_int_equal(zero, want);
		assert_int_equal(len, 16 + n * 8 + (n - want) * RPL_PAGE_SIZE);
		spans = rpl_pages_gather(pfns, page_store, n, head, iov, &zero2);
		for (int i = 0; i < spans; at += iov[i++].iov_len)
			assert_memory_equal(page_body + at, iov[i].iov_base, iov[i].iov_len);
		assert_int_equal(at, len);
		assert_int_equal(rpl_pages_decode(page_body, len, &got, &err), 0);
		for (size_t i = 0; i < n; i++) {
			assert_true(got.pfn[i] == pfns[i]);
			assert_memory_equal(got.page[i], page_store + i * RPL_PAGE_SIZE, RPL_PAGE_SIZE);
		}
	}
}

/* One page of each encoding; the bytes of what changed are golden, too. */
static void differences_are_golden(void **state)
{
	static const uint8_t head[16 + 32] = { 2, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
					       5, 0, 0, 0, 0, 0, 0, 0x20, 6, 0, 0, 0, 0, 0, 0, 0x40,
					       7, 0, 0, 0, 0, 0, 0, 0x10, 8, 0, 0, 0, 0, 0, 0, 0x20 };
	static const uint8_t runs[] = { 17, 0, 3, 0, 1, 2, 3, 0xff, 0x0f, 1, 0, 9 };
	uint8_t base[RPL_PAGE_SIZE] = { 0 }, page[RPL_PAGE_SIZE] = { [17] = 1, 2, 3, [4095] = 9 };
	struct rpl_pages_out o;
	struct rpl_pages got;
	struct rpl_err err = { 0 };
	size_t first, len;

	(void)state;
	rpl_pages_begin(&o, page_body, 4);
	len = rpl_delta_make(page, base, rpl_pages_delta_room(&o));
	assert_int_equal(len, RPL_DELTA_HEAD + sizeof(runs));
	rpl_pages_put_delta(&o, 5, 0x01020304, len);
	rpl_pages_put_same(&o, 6, 0x0a0b0c0d);
	rpl_pages_put_zero(&o, 7);
	first = sizeof(head) + 4 + len;
	memcpy(rpl_pages_delta_room(&o), page_body + sizeof(head) + 4, len);
	rpl_pages_put_delta(&o, 8, 1, len);
	assert_int_equal(o.len, first + 4 + 4 + len);
	assert_memory_equal(page_body, head, sizeof(head));
	assert_memory_equal(page_body + sizeof(head), "\x04\x03\x02\x01", 4);
	assert_memory_equal(page_body + sizeof(head) + 4 + RPL_DELTA_HEAD, runs, sizeof(runs));
	assert_memory_equal(page_body + first, "\x0d\x0c\x0b\x0a\x01\x00\x00\x00", 8);
	assert_int_equal(rpl_pages_decode(page_body, o.len, &got, &err), 0);
	assert_true(got.n == 4 && got.delta == 2 && got.same == 1 && got.zero == 1);
	assert_true(got.base[0] == 0x01020304 && got.base[1] == 0x0a0b0c0d && got.base[3] == 1);
	assert_true(got.len[0] == len && got.page[0] == page_body + sizeof(head) + 4 && !got.page[1]);
	assert_true(got.encoding[2] == RPL_PAGE_ZERO && got.page[2] == rpl_zero_page);
	for (size_t cut = 0; cut < o.len; cut++)
		assert_int_equal(rpl_pages_decode(page_body, cut, &got, &err), -EBADMSG);
	assert_int_equal(rpl_pages_decode(page_body, o.len + 1, &got, &err), -EBADMSG);
	page_body[sizeof(head) + 4 + RPL_DELTA_HEAD + 1] = 0xff; /* a run far outside */
	assert_int_equal(rpl_pages_decode(page_body, o.len, &got, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "PAGES: page 0 of 4: delta: a run of 3 bytes at 65297"));
}

static void one_set_bit_makes_a_page_not_zero(void **state)
{
	static uint8_t page[RPL_PAGE_SIZE + 1];

	(void)state;
	for (size_t bit = 0; bit < RPL_PAGE_SIZE * 8; bit++) {
		flip(page + 1, bit); /* also when it is not aligned */
		assert_false(rpl_page_is_zero(page + 1));
		flip(page + 1, bit);
	}
	assert_true(rpl_page_is_zero(page + 1));
	page[0] = 1;
	assert_true(rpl_page_is_zero(page + 1));
}

/* ---- digest */

static void digests_are_canonical_and_incremental(void **state)
{
	/* XXH3_128bits of "", and of "abc", big-endian as xxh128sum prints them */
	static const uint8_t empty[16] = { 0x99, 0xaa, 0x06, 0xd3, 0x01, 0x47, 0x98, 0xd8,
					   0x60, 0x01, 0xc3, 0x24, 0x46, 0x8d, 0x49, 0x7f };
	static const uint8_t abc[16] = { 0x06, 0xb0, 0x5a, 0xb6, 0x73, 0x3a, 0x61, 0x85,
					 0x78, 0xaf, 0x5f, 0x94, 0x89, 0x2f, 0x39, 0x50 };
	struct rpl_digest *d = rpl_digest_new();
	uint8_t got[16], whole[16];

	(void)state;
	rpl_digest_end(d, got);
	assert_memory_equal(got, empty, 16);
	rpl_digest_add(d, "a", 1);
	rpl_digest_add(d, NULL, 0);
	rpl_digest_add(d, "bc", 2);
	rpl_digest_end(d, got);
	assert_memory_equal(got, abc, 16);
	rpl_digest_reset(d);
	rpl_digest_add(d, page_store, sizeof(page_store));
	rpl_digest_end(d, whole);
	rpl_digest_reset(d);
	for (size_t at = 0; at < sizeof(page_store); at += 64)
		rpl_digest_add(d, page_store + at, 64);
	rpl_digest_end(d, got);
	assert_memory_equal(got, whole, 16);
	rpl_digest_free(d);
	rpl_digest_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(frame_headers_are_golden),
		cmocka_unit_test(every_type_is_bounded_both_ways),
		cmocka_unit_test(flipped_header_bits_are_seen),
		cmocka_unit_test(streams_come_out_whole_however_they_are_cut),
		cmocka_unit_test(largest_frames_pass_back_to_back),
		cmocka_unit_test(replays_gaps_and_early_frames_are_refused),
		cmocka_unit_test(hello_is_golden_both_ways),
		cmocka_unit_test(flipped_hello_bits_are_seen),
		cmocka_unit_test(hello_values_are_checked),
		cmocka_unit_test(hellos_match_or_say_why),
		cmocka_unit_test(preamble_is_golden_and_flips_are_seen),
		cmocka_unit_test(fixed_bodies_are_golden_both_ways),
		cmocka_unit_test(pages_are_golden),
		cmocka_unit_test(flipped_page_bits_are_seen),
		cmocka_unit_test(page_counts_are_bounded_before_use),
		cmocka_unit_test(any_mix_of_pages_round_trips),
		cmocka_unit_test(differences_are_golden),
		cmocka_unit_test(one_set_bit_makes_a_page_not_zero),
		cmocka_unit_test(digests_are_canonical_and_incremental),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
