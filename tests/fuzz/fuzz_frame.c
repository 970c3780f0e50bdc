/* fuzz_frame.c - the link's decoders: byte 0 says how the rest is cut into reads, then preamble, then frames
 *
 * Beyond not crashing: what was decoded and encoded again is what came in, and how the bytes were cut does not matter.
 */
#include <stdlib.h>
#include <string.h>

#include <replicad/link.h>
#include <replicad/pages.h>

#include "../../src/link/frame.h"
#include "fuzz.h"

static void check_hello(const uint8_t *body, size_t len)
{
	uint8_t again[RPL_HELLO_SIZE];
	struct rpl_hello h, other;
	struct rpl_err err;

	if (rpl_hello_decode(body, len, &h, &err) < 0)
		return;
	rpl_hello_encode(&h, again);
	rpl_assert(h.minor > RPL_LINK_MINOR || memcmp(again, body, len) == 0);
	other = h;
	other.role = RPL_ROLE_PRIMARY + RPL_ROLE_BACKUP - h.role;
	rpl_assert(rpl_hello_match(&h, &h, &err) < 0); /* both in one role */
	rpl_assert(rpl_hello_match(&h, &other, &err) == 0 || !(h.features & RPL_FEATURE_PAGES));
}

static void put_again(struct rpl_pages_out *o, const struct rpl_pages *p, uint32_t i)
{
	switch (p->encoding[i]) {
	case RPL_PAGE_RAW:
		rpl_pages_put_raw(o, p->pfn[i], p->page[i]);
		return;
	case RPL_PAGE_ZERO:
		rpl_assert(p->page[i] == rpl_zero_page);
		rpl_pages_put_zero(o, p->pfn[i]);
		return;
	case RPL_PAGE_DELTA:
		rpl_assert(rpl_delta_check(p->page[i], p->len[i], NULL) == p->len[i]);
		memcpy(rpl_pages_delta_room(o), p->page[i], p->len[i]);
		rpl_pages_put_delta(o, p->pfn[i], p->base[i], p->len[i]);
		return;
	default:
		rpl_assert(p->encoding[i] == RPL_PAGE_SAME && !p->page[i]);
		rpl_pages_put_same(o, p->pfn[i], p->base[i]);
	}
}

static void check_pages(const uint8_t *body, size_t len)
{
	static uint8_t again[RPL_PAGES_BODY_MAX];
	static struct rpl_pages p;
	struct rpl_pages_out o;
	struct rpl_err err;

	if (rpl_pages_decode(body, len, &p, &err) < 0)
		return;
	rpl_assert(p.n >= 1 && p.n <= RPL_PAGES_PER_FRAME && p.zero + p.delta + p.same <= p.n);
	rpl_pages_begin(&o, again, p.n);
	for (uint32_t i = 0; i < p.n; i++)
		put_again(&o, &p, i);
	rpl_assert(o.len == len && memcmp(again, body, len) == 0);
}

static void check_fixed(uint16_t type, const uint8_t *body)
{
	uint8_t again[40];

	if (type == RPL_FRAME_EPOCH_BEGIN) {
		struct rpl_epoch_begin v;

		rpl_epoch_begin_decode(body, &v);
		rpl_epoch_begin_encode(&v, again);
		rpl_assert(memcmp(again, body, 24) == 0);
	} else if (type == RPL_FRAME_EPOCH_END) {
		struct rpl_epoch_end v;

		rpl_epoch_end_decode(body, &v);
		rpl_epoch_end_encode(&v, again);
		rpl_assert(memcmp(again, body, 40) == 0);
	} else if (type == RPL_FRAME_ACK || type == RPL_FRAME_FLUSHED || type == RPL_FRAME_PROTECTED) {
		struct rpl_session_epoch v;

		rpl_session_epoch_decode(body, &v);
		rpl_session_epoch_encode(&v, again);
		rpl_assert(memcmp(again, body, 24) == 0);
	} else if (type == RPL_FRAME_HANDOVER) {
		struct rpl_handover v;

		rpl_handover_decode(body, &v);
		rpl_handover_encode(&v, again);
		rpl_assert(memcmp(again, body, 32) == 0);
	}
}

/* Returns a digest of what came out; *ret_frames counts. */
static uint64_t run_frames(struct rpl_framer *f, const uint8_t *data, size_t len, size_t piece, unsigned *ret_frames)
{
	uint64_t sum = 0;

	f->start = f->end = 0;
	f->seq = 0;
	f->bad = false;
	*ret_frames = 0;
	while (len) {
		const uint8_t *body;
		struct rpl_err err;
		uint8_t *where;
		uint16_t type;
		size_t n = rpl_framer_space(f, &where), body_len;
		int r;

		rpl_assert(n > 0);
		n = n < piece ? n : piece;
		n = n < len ? n : len;
		memcpy(where, data, n);
		rpl_framer_filled(f, n);
		data += n;
		len -= n;
		while ((r = rpl_framer_next(f, &type, &body, &body_len, &err)) > 0) {
			++*ret_frames;
			sum = sum * 1000003 + type + body_len;
			if (type == RPL_FRAME_HELLO)
				check_hello(body, body_len);
			else if (type == RPL_FRAME_PAGES)
				check_pages(body, body_len);
			else
				check_fixed(type, body);
		}
		if (r < 0)
			return sum;
	}
	return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static struct rpl_framer f;
	unsigned whole, cut;
	struct rpl_uuid vm;
	struct rpl_err err;

	if (!f.buf && rpl_framer_init(&f) < 0)
		abort();
	if (len < 1 + RPL_PREAMBLE_SIZE)
		return 0;
	(void)rpl_preamble_decode(data + 1, &vm, &err);
	check_hello(data + 1, len - 1);
	check_pages(data + 1, len - 1);
	rpl_assert(run_frames(&f, data + 1 + RPL_PREAMBLE_SIZE, len - 1 - RPL_PREAMBLE_SIZE, SIZE_MAX, &whole) ==
		   run_frames(&f, data + 1 + RPL_PREAMBLE_SIZE, len - 1 - RPL_PREAMBLE_SIZE, 1 + data[0], &cut));
	rpl_assert(whole == cut);
	return 0;
}
