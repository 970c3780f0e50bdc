/* hello.c - preamble, hello and the bodies of fixed size (link.h) */
#include <replicad/link.h>

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <replicad/cur.h>

/* HELLO: major, minor, features, vm, session, generation, last staged, epoch bytes, RAM pages, max uncommitted, role,
 * node, blackout, flags; the rest is zero in this minor version and ignored from a newer one. */
#define HELLO_USED (2 + 2 + 4 + 16 + 16 + 8 + 8 + 8 + 8 + 4 + 4 + RPL_NODE_NAME + 8 + 4)
#define PFN_BITS 52 /* a pfn has 52 bits, so RAM has at most 2^52 pages */
_Static_assert(HELLO_USED <= RPL_HELLO_SIZE, "hello fields fit");

static const uint8_t preamble_magic[8] = { 'R', 'E', 'P', 'L', 'I', 'C', 'A', 'D' };

static void out_uuid(struct rpl_out *o, const struct rpl_uuid *u)
{
	rpl_out_bytes(o, u->b, sizeof(u->b));
}

static struct rpl_uuid cur_uuid(struct rpl_cur *c)
{
	const void *p = rpl_cur_bytes(c, sizeof(struct rpl_uuid));
	struct rpl_uuid u = { { 0 } };

	if (p)
		memcpy(u.b, p, sizeof(u.b));
	return u;
}

void rpl_hello_encode(const struct rpl_hello *h, uint8_t ret[RPL_HELLO_SIZE])
{
	struct rpl_out o = rpl_out(ret, RPL_HELLO_SIZE);
	char node[RPL_NODE_NAME] = { 0 };
	size_t len = strnlen(h->node, RPL_NODE_NAME);

	rpl_assert(len > 0 && len < RPL_NODE_NAME);
	memcpy(node, h->node, len);
	memset(ret, 0, RPL_HELLO_SIZE);
	rpl_out_le16(&o, h->major);
	rpl_out_le16(&o, h->minor);
	rpl_out_le32(&o, h->features);
	out_uuid(&o, &h->vm);
	out_uuid(&o, &h->session);
	rpl_out_le64(&o, h->generation);
	rpl_out_le64(&o, h->last_staged);
	rpl_out_le64(&o, h->epoch_bytes_max);
	rpl_out_le64(&o, h->ram_pages);
	rpl_out_le32(&o, h->max_uncommitted);
	rpl_out_le32(&o, h->role);
	rpl_out_bytes(&o, node, sizeof(node));
	rpl_out_le64(&o, h->blackout_us);
	rpl_out_le32(&o, h->flags);
	rpl_assert(!o.bad && o.len == HELLO_USED);
}

/* Printable ASCII, then zeroes to the end: it is shown to people and written to logs. */
static bool node_valid(const char node[RPL_NODE_NAME])
{
	size_t len = strnlen(node, RPL_NODE_NAME);

	if (len == 0 || len == RPL_NODE_NAME)
		return false;
	for (size_t i = 0; i < RPL_NODE_NAME; i++)
		if (i < len ? node[i] <= ' ' || node[i] > '~' : node[i] != 0)
			return false;
	return true;
}

static int hello_check(const struct rpl_hello *h, struct rpl_err *err)
{
	if (h->role != RPL_ROLE_PRIMARY && h->role != RPL_ROLE_BACKUP)
		return rpl_fail(err, -EBADMSG, "HELLO: role %" PRIu32 ", not 1 (primary) or 2 (backup)", h->role);
	if (!node_valid(h->node))
		return rpl_fail(err, -EBADMSG, "HELLO: node name is not 1 to %d printable characters",
				RPL_NODE_NAME - 1);
	if (rpl_uuid_is_zero(&h->vm))
		return rpl_fail(err, -EBADMSG, "HELLO from %s: VM uuid is zero", h->node);
	if (h->role == RPL_ROLE_PRIMARY && rpl_uuid_is_zero(&h->session))
		return rpl_fail(err, -EBADMSG, "HELLO from %s: a primary without a session id", h->node);
	if (rpl_uuid_is_zero(&h->session) && h->last_staged)
		return rpl_fail(err, -EBADMSG, "HELLO from %s: epoch %" PRIu64 " staged in no session", h->node,
				h->last_staged);
	if (h->minor <= RPL_LINK_MINOR && (h->flags & ~RPL_HELLO_RESUME))
		return rpl_fail(err, -EBADMSG, "HELLO from %s: flags 0x%" PRIx32 ", known is 0x%x", h->node, h->flags,
				RPL_HELLO_RESUME);
	if (h->ram_pages == 0 || h->ram_pages >> PFN_BITS)
		return rpl_fail(err, -EBADMSG, "HELLO from %s: %" PRIu64 " pages of RAM, allowed 1 to 2^%d - 1", h->node,
				h->ram_pages, PFN_BITS);
	return 0;
}

int rpl_hello_decode(const void *body, size_t len, struct rpl_hello *ret, struct rpl_err *err)
{
	struct rpl_cur c = rpl_cur(body, len);
	struct rpl_hello h = { 0 };
	const void *node;
	int r;

	if (len != RPL_HELLO_SIZE)
		return rpl_fail(err, -EBADMSG, "HELLO: %zu bytes, not %d", len, RPL_HELLO_SIZE);
	h.major = rpl_cur_le16(&c);
	h.minor = rpl_cur_le16(&c);
	h.features = rpl_cur_le32(&c);
	h.vm = cur_uuid(&c);
	h.session = cur_uuid(&c);
	h.generation = rpl_cur_le64(&c);
	h.last_staged = rpl_cur_le64(&c);
	h.epoch_bytes_max = rpl_cur_le64(&c);
	h.ram_pages = rpl_cur_le64(&c);
	h.max_uncommitted = rpl_cur_le32(&c);
	h.role = rpl_cur_le32(&c);
	node = rpl_cur_bytes(&c, RPL_NODE_NAME);
	if (node)
		memcpy(h.node, node, RPL_NODE_NAME);
	h.blackout_us = rpl_cur_le64(&c);
	h.flags = rpl_cur_le32(&c);
	if (h.major != RPL_LINK_MAJOR) /* what follows may mean anything: do not read on */
		return rpl_fail(err, -EBADMSG, "HELLO: link protocol %u.%u, ours is %d.%d: upgrade the older side", h.major,
				h.minor, RPL_LINK_MAJOR, RPL_LINK_MINOR);
	if (h.minor <= RPL_LINK_MINOR)
		rpl_cur_zero(&c, c.left);
	if (c.bad)
		return rpl_fail(err, -EBADMSG, "HELLO: reserved bytes are not zero in version %u.%u", h.major, h.minor);
	r = hello_check(&h, err);
	if (r < 0)
		return r;
	*ret = h;
	return 0;
}

int rpl_hello_match(const struct rpl_hello *ours, const struct rpl_hello *theirs, struct rpl_err *err)
{
	char a[RPL_UUID_TEXT], b[RPL_UUID_TEXT];

	if (ours->major != theirs->major)
		return rpl_fail(err, -EPROTO, "link protocol %u.%u here, %u.%u on %s: upgrade the older side", ours->major,
				ours->minor, theirs->major, theirs->minor, theirs->node);
	if (!rpl_uuid_equal(&ours->vm, &theirs->vm))
		return rpl_fail(err, -EPROTO, "VM %s here, %s on %s", rpl_uuid_text(&ours->vm, a),
				rpl_uuid_text(&theirs->vm, b), theirs->node);
	if (ours->role == theirs->role)
		return rpl_fail(err, -EPROTO, "%s here and on %s: one side must be the other's backup",
				ours->role == RPL_ROLE_PRIMARY ? "primary" : "backup", theirs->node);
	if (ours->ram_pages != theirs->ram_pages)
		return rpl_fail(err, -EPROTO, "guest RAM is %" PRIu64 " pages here, %" PRIu64 " on %s: give both the same size",
				ours->ram_pages, theirs->ram_pages, theirs->node);
	if (!(ours->features & theirs->features & RPL_FEATURE_PAGES))
		return rpl_fail(err, -EPROTO, "no page encoding in common: features 0x%" PRIx32 " here, 0x%" PRIx32 " on %s: upgrade the "
				"older side",
				ours->features, theirs->features, theirs->node);
	return 0;
}

void rpl_preamble_encode(const struct rpl_uuid *vm, uint8_t ret[RPL_PREAMBLE_SIZE])
{
	struct rpl_out o = rpl_out(ret, RPL_PREAMBLE_SIZE);

	rpl_out_bytes(&o, preamble_magic, sizeof(preamble_magic));
	rpl_out_be16(&o, RPL_LINK_MAJOR);
	rpl_out_be16(&o, RPL_LINK_MINOR);
	rpl_out_be32(&o, 0);
	out_uuid(&o, vm);
	rpl_assert(!o.bad && o.len == RPL_PREAMBLE_SIZE);
}

int rpl_preamble_decode(const uint8_t bytes[RPL_PREAMBLE_SIZE], struct rpl_uuid *ret_vm, struct rpl_err *err)
{
	struct rpl_cur c = rpl_cur(bytes, RPL_PREAMBLE_SIZE);
	const void *magic = rpl_cur_bytes(&c, sizeof(preamble_magic));
	uint16_t major = rpl_cur_be16(&c), minor = rpl_cur_be16(&c);
	uint32_t zero = rpl_cur_be32(&c);
	struct rpl_uuid vm = cur_uuid(&c);

	if (memcmp(magic, preamble_magic, sizeof(preamble_magic)) != 0)
		return rpl_fail(err, -EBADMSG, "preamble: magic is wrong: this is no replicad link");
	if (major != RPL_LINK_MAJOR)
		return rpl_fail(err, -EBADMSG, "preamble: link protocol %u.%u, ours is %d.%d: upgrade the older side", major,
				minor, RPL_LINK_MAJOR, RPL_LINK_MINOR);
	if (zero && minor <= RPL_LINK_MINOR)
		return rpl_fail(err, -EBADMSG, "preamble: reserved field is 0x%" PRIx32 ", not 0", zero);
	if (rpl_uuid_is_zero(&vm))
		return rpl_fail(err, -EBADMSG, "preamble: VM uuid is zero");
	*ret_vm = vm;
	return 0;
}

void rpl_epoch_begin_encode(const struct rpl_epoch_begin *v, uint8_t ret[24])
{
	struct rpl_out o = rpl_out(ret, 24);

	rpl_out_le64(&o, v->epoch);
	rpl_out_le32(&o, v->flags);
	rpl_out_le32(&o, v->reserved);
	rpl_out_le64(&o, v->pages);
}

void rpl_epoch_begin_decode(const uint8_t body[24], struct rpl_epoch_begin *ret)
{
	struct rpl_cur c = rpl_cur(body, 24);

	ret->epoch = rpl_cur_le64(&c);
	ret->flags = rpl_cur_le32(&c);
	ret->reserved = rpl_cur_le32(&c);
	ret->pages = rpl_cur_le64(&c);
}

void rpl_epoch_end_encode(const struct rpl_epoch_end *v, uint8_t ret[40])
{
	struct rpl_out o = rpl_out(ret, 40);

	rpl_out_le64(&o, v->epoch);
	rpl_out_le64(&o, v->stream_bytes);
	rpl_out_le64(&o, v->pages);
	rpl_out_bytes(&o, v->digest, RPL_DIGEST_SIZE);
}

void rpl_epoch_end_decode(const uint8_t body[40], struct rpl_epoch_end *ret)
{
	struct rpl_cur c = rpl_cur(body, 40);

	ret->epoch = rpl_cur_le64(&c);
	ret->stream_bytes = rpl_cur_le64(&c);
	ret->pages = rpl_cur_le64(&c);
	memcpy(ret->digest, rpl_cur_bytes(&c, RPL_DIGEST_SIZE), RPL_DIGEST_SIZE);
}

void rpl_session_epoch_encode(const struct rpl_session_epoch *v, uint8_t ret[24])
{
	struct rpl_out o = rpl_out(ret, 24);

	out_uuid(&o, &v->session);
	rpl_out_le64(&o, v->epoch);
}

void rpl_session_epoch_decode(const uint8_t body[24], struct rpl_session_epoch *ret)
{
	struct rpl_cur c = rpl_cur(body, 24);

	ret->session = cur_uuid(&c);
	ret->epoch = rpl_cur_le64(&c);
}

void rpl_handover_encode(const struct rpl_handover *v, uint8_t ret[32])
{
	struct rpl_out o = rpl_out(ret, 32);

	out_uuid(&o, &v->session);
	rpl_out_le64(&o, v->epoch);
	rpl_out_le64(&o, v->paused_us);
}

void rpl_handover_decode(const uint8_t body[32], struct rpl_handover *ret)
{
	struct rpl_cur c = rpl_cur(body, 32);

	ret->session = cur_uuid(&c);
	ret->epoch = rpl_cur_le64(&c);
	ret->paused_us = rpl_cur_le64(&c);
}
