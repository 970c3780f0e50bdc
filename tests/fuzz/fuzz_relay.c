/* fuzz_relay.c - the relay's control messages, both directions, and what they do to a hold
 *
 * The input is a sequence of packets, each a length byte and so many bytes (the last may be shorter). A request that is
 * accepted acts on a hold with frames in it, whose own checks (hold.c) then judge. */
#include "netbuf/relay_proto.h"

#include <string.h>

#include "fuzz.h"
#include "netbuf/hold.h"

#define FRAMES_BETWEEN 3

static void act(struct rpl_hold *h, const struct rpl_relay_req *q)
{
	static const uint8_t frame[60];
	struct iovec piece[2];
	struct rpl_err err = { 0 };
	uint64_t mark;
	uint32_t port;

	for (int i = 0; i < FRAMES_BETWEEN; i++)
		(void)rpl_hold_push(h, 0, frame, sizeof(frame));
	if (q->op == RPL_NETBUF_HOLD)
		(void)rpl_hold_hold(h);
	else if (q->op == RPL_NETBUF_OPEN)
		(void)rpl_hold_open(h);
	else if (q->op == RPL_NETBUF_DROP)
		rpl_hold_drop(h);
	else if (q->op == RPL_NETBUF_SHUT)
		rpl_hold_shut(h);
	else if (q->op == RPL_NETBUF_SEAL)
		rpl_assert(rpl_hold_seal(h, q->epoch, &err) == 0 || err.msg[0]);
	else if (q->op == RPL_NETBUF_RELEASE)
		rpl_assert(rpl_hold_release(h, q->epoch, &mark, &err) == 0 || err.msg[0]);
	while (rpl_hold_next(h, piece, &port))
		rpl_hold_pop(h);
}

static void decode(struct rpl_hold *h, const uint8_t *packet, size_t len)
{
	struct rpl_err err = { 0 };
	struct rpl_relay_req q;
	struct rpl_relay_msg m;

	if (rpl_relay_req_decode(packet, len, &q, &err) == 0) {
		rpl_assert(len == sizeof(q));
		act(h, &q);
	} else {
		rpl_assert(err.code < 0 && err.msg[0]);
	}
	err = (struct rpl_err){ 0 };
	if (rpl_relay_msg_decode(packet, len, &m, &err) == 0) {
		rpl_assert(len == sizeof(m));
		rpl_assert(memchr(m.text, '\0', sizeof(m.text)));
	} else {
		rpl_assert(err.code < 0 && err.msg[0]);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct rpl_hold *h = rpl_hold_new(1000, 20, RPL_HOLD_OPEN, NULL);

	if (!h)
		return 0;
	while (len) {
		size_t n = data[0];

		/* 0 stands for the one length that does not fit a byte: a message's */
		n = n ? n : sizeof(struct rpl_relay_msg);
		data++;
		len--;
		n = n < len ? n : len;
		decode(h, data, n);
		data += n;
		len -= n;
	}
	rpl_hold_free(h);
	return 0;
}
