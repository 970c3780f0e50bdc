#include "relay_proto.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <replicad/auto.h>

#include "hold.h"

const char *rpl_netbuf_op_name(uint32_t op)
{
	static const char *const name[] = { "attach", "hold", "seal", "release", "open", "drop", "shut" };

	_Static_assert(RPL_ARRAY_LEN(name) == RPL_NETBUF_NOPS, "a name for each operation");
	return op < RPL_NETBUF_NOPS ? name[op] : "?";
}

/* Magic and version stand at the same place in every version of both messages. */
static int check_head(const void *packet, size_t len, size_t size, struct rpl_err *err)
{
	struct {
		uint32_t magic;
		uint16_t version, size;
	} head;

	if (len < sizeof(head))
		return rpl_fail(err, -EBADMSG, "relay control: a packet of %zu bytes, want %zu", len, size);
	memcpy(&head, packet, sizeof(head));
	if (head.magic != RPL_RELAY_MAGIC)
		return rpl_fail(err, -EBADMSG, "relay control: magic %#x, want %#x", head.magic, RPL_RELAY_MAGIC);
	if (head.version != RPL_RELAY_VERSION)
		return rpl_fail(err, -EPROTONOSUPPORT,
				"relay control: the other side speaks version %u, this one %u: restart the older",
				head.version, RPL_RELAY_VERSION);
	if (len != size || head.size != size)
		return rpl_fail(err, -EBADMSG, "relay control: a packet of %zu bytes says %u, want %zu", len, head.size,
				size);
	return 0;
}

int rpl_relay_req_decode(const void *packet, size_t len, struct rpl_relay_req *ret, struct rpl_err *err)
{
	struct rpl_relay_req q;
	int r = check_head(packet, len, sizeof(q), err);

	if (r < 0)
		return r;
	memcpy(&q, packet, sizeof(q));
	if (q.op >= RPL_NETBUF_NOPS || q.zero)
		return rpl_fail(err, -EBADMSG, "relay control: operation %u, reserved %u", q.op, q.zero);
	if (q.epoch && q.op != RPL_NETBUF_SEAL && q.op != RPL_NETBUF_RELEASE)
		return rpl_fail(err, -EBADMSG, "relay control: %s with epoch %" PRIu64, rpl_netbuf_op_name(q.op),
				q.epoch);
	*ret = q;
	return 0;
}

int rpl_relay_msg_decode(const void *packet, size_t len, struct rpl_relay_msg *ret, struct rpl_err *err)
{
	struct rpl_relay_msg m;
	int r = check_head(packet, len, sizeof(m), err);

	if (r < 0)
		return r;
	memcpy(&m, packet, sizeof(m));
	if (m.kind < RPL_RELAY_ANSWER || m.kind > RPL_RELAY_STATUS || m.op >= RPL_NETBUF_NOPS ||
	    m.mode >= RPL_HOLD_NMODES || m.result > 0 || m.epochs_max == 0)
		return rpl_fail(err, -EBADMSG, "relay control: kind %u, operation %u, mode %u, result %d, epochs %u",
				m.kind, m.op, m.mode, m.result, m.epochs_max);
	m.text[sizeof(m.text) - 1] = '\0';
	*ret = m;
	return 0;
}
