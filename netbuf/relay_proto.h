/* relay_proto.h - what keeper and relay say to each other over the control socket
 *
 * A unix SOCK_SEQPACKET; one message a packet, fixed size, host byte order (one machine). The first request on a
 * connection is ATTACH; other versions are refused by name. Each request gets one answer with the same id; answers
 * to RELEASE, OPEN and HOLD come when the frames concerned have left, so they may be overtaken by a SEAL's.
 */
#ifndef RPL_NETBUF_RELAY_PROTO_H
#define RPL_NETBUF_RELAY_PROTO_H

#include <stddef.h>
#include <stdint.h>

#include <replicad/err.h>
#include <replicad/netbuf.h>

#define RPL_RELAY_MAGIC 0x794c5252u /* "RRLy" */
#define RPL_RELAY_VERSION 1
#define RPL_RELAY_MSG_TEXT 160 /* with the final NUL */

struct rpl_relay_req {
	uint32_t magic;
	uint16_t version, size;
	uint16_t op; /* enum rpl_netbuf_op */
	uint16_t zero;
	uint32_t id;
	uint64_t epoch;
};

enum rpl_relay_kind {
	RPL_RELAY_ANSWER = 1, /* to request `id`; result and text as in struct rpl_err */
	RPL_RELAY_NEARLY_FULL,
	RPL_RELAY_STATUS,     /* unasked, when the counters moved, at most every RPL_RELAY_STATUS_MS */
};
#define RPL_RELAY_STATUS_MS 500

struct rpl_relay_msg {
	uint32_t magic;
	uint16_t version, size;
	uint16_t kind, op;
	uint32_t id;
	uint64_t epoch;
	int32_t result;
	uint32_t mode; /* enum rpl_hold_mode */
	uint32_t ports, epochs_max;
	uint64_t held_frames, held_bytes, sealed_epoch, released_epoch;
	uint64_t passed_frames, passed_bytes, dropped_frames;
	char text[RPL_RELAY_MSG_TEXT];
};

_Static_assert(sizeof(struct rpl_relay_req) == 24, "request layout");
_Static_assert(sizeof(struct rpl_relay_msg) == 96 + RPL_RELAY_MSG_TEXT, "message layout");

/* Check and copy out one received packet: size, magic, version, ranges. -EBADMSG, or -EPROTONOSUPPORT for another
 * version, with a sentence. */
int rpl_relay_req_decode(const void *packet, size_t len, struct rpl_relay_req *ret, struct rpl_err *err);
int rpl_relay_msg_decode(const void *packet, size_t len, struct rpl_relay_msg *ret, struct rpl_err *err);

const char *rpl_netbuf_op_name(uint32_t op);

#endif
