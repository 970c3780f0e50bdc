/* The fixed head of each record's body, as values; and RPL_PRODUCER's body. */
#include "read.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <replicad/cur.h>

static int page_data_fixed(struct rpl_stream_reader *r, struct rpl_stream_event *ev, struct rpl_cur *c,
			   struct rpl_err *err)
{
	ev->pfns.count = rpl_cur_le32(c);
	if (rpl_cur_le32(c))
		r->remarks |= RPL_REMARK_RESERVED;
	if (ev->pfns.count == 0 || ev->pfns.count > r->left / 8)
		return rpl_read_refuse(r, err, RPL_RULE_PAGE_COUNT, r->rec.offset + 8, -EBADMSG,
			      "%u descriptors, %u bytes have room for 1 to %u", ev->pfns.count, r->left, r->left / 8);
	if (ev->pfns.count > r->descs_max)
		return rpl_read_refuse(r, err, RPL_RULE_PAGE_LIMIT, r->rec.offset + 8, -EMSGSIZE,
			      "%u descriptors, this reader takes at most %u", ev->pfns.count, r->descs_max);
	r->count = ev->pfns.count;
	r->got = r->pages = r->pages_done = 0;
	return EVENT;
}

static int vcpu_fixed(struct rpl_stream_reader *r, struct rpl_stream_event *ev, struct rpl_cur *c)
{
	ev->vcpu = rpl_cur_le32(c);
	if (rpl_cur_le32(c))
		r->remarks |= RPL_REMARK_RESERVED;
	return EVENT;
}

static int params_fixed(struct rpl_stream_reader *r, struct rpl_stream_event *ev, struct rpl_cur *c,
			struct rpl_err *err)
{
	ev->n_params = rpl_cur_le32(c);
	if (rpl_cur_le32(c))
		r->remarks |= RPL_REMARK_RESERVED;
	if (ev->n_params != r->left / 16)
		return rpl_read_refuse(r, err, RPL_RULE_HVM_PARAM_COUNT, r->rec.offset + 8, -EBADMSG,
			      "count %u, but %u bytes hold %u", ev->n_params, r->left, r->left / 16);
	return EVENT;
}

static void tsc_fixed(struct rpl_stream_reader *r, struct rpl_stream_event *ev, struct rpl_cur *c)
{
	ev->tsc.mode = rpl_cur_le32(c);
	ev->tsc.khz = rpl_cur_le32(c);
	ev->tsc.nsec = rpl_cur_le64(c);
	ev->tsc.incarnation = rpl_cur_le32(c);
	if (rpl_cur_le32(c))
		r->remarks |= RPL_REMARK_RESERVED;
}

static void pv_info_fixed(struct rpl_stream_reader *r, struct rpl_stream_event *ev, struct rpl_cur *c)
{
	ev->pv_info.width = rpl_cur_u8(c);
	ev->pv_info.levels = rpl_cur_u8(c);
	rpl_cur_zero(c, 6);
	if (c->bad)
		r->remarks |= RPL_REMARK_RESERVED;
}

static void digest_fixed(struct rpl_stream_reader *r, struct rpl_stream_event *ev, struct rpl_cur *c)
{
	ev->digest.algorithm = rpl_cur_le32(c);
	if (rpl_cur_le32(c))
		r->remarks |= RPL_REMARK_RESERVED;
	ev->digest.bytes = rpl_cur_le64(c);
	ev->digest.low = rpl_cur_le64(c);
	ev->digest.high = rpl_cur_le64(c);
}

static int libxc_fixed(struct rpl_stream_reader *r, struct rpl_stream_event *ev, struct rpl_cur *c,
		       struct rpl_err *err)
{
	switch ((int)r->rec.type) {
	case RPL_LIBXC_PAGE_DATA:
		return page_data_fixed(r, ev, c, err);
	case RPL_LIBXC_X86_PV_INFO:
		pv_info_fixed(r, ev, c);
		break;
	case RPL_LIBXC_X86_PV_P2M_FRAMES:
		ev->p2m.first = rpl_cur_le32(c);
		ev->p2m.last = rpl_cur_le32(c);
		break;
	case RPL_LIBXC_X86_PV_VCPU_BASIC:
	case RPL_LIBXC_X86_PV_VCPU_EXTENDED:
	case RPL_LIBXC_X86_PV_VCPU_XSAVE:
	case RPL_LIBXC_X86_PV_VCPU_MSRS:
		return vcpu_fixed(r, ev, c);
	case RPL_LIBXC_X86_TSC_INFO:
		tsc_fixed(r, ev, c);
		break;
	case RPL_LIBXC_HVM_PARAMS:
		return params_fixed(r, ev, c, err);
	case RPL_LIBXC_RPL_DIGEST:
		digest_fixed(r, ev, c);
		break;
	default:
		break;
	}
	return EVENT;
}

static int libxl_fixed(struct rpl_stream_reader *r, struct rpl_stream_event *ev, struct rpl_cur *c)
{
	if (r->rec.type == RPL_LIBXL_EMULATOR_CONTEXT || r->rec.type == RPL_LIBXL_EMULATOR_XENSTORE_DATA) {
		ev->emulator.id = rpl_cur_le32(c);
		ev->emulator.index = rpl_cur_le32(c);
	}
	if (r->rec.type == RPL_LIBXL_CHECKPOINT_STATE)
		ev->colo_state = rpl_cur_le32(c);
	return EVENT;
}

int rpl_read_fixed(struct rpl_stream_reader *r, struct rpl_stream_event *ev, const uint8_t *bytes, struct rpl_err *err)
{
	struct rpl_cur c = rpl_cur(bytes, r->head);

	return r->rec.layer == RPL_LAYER_LIBXL ? libxl_fixed(r, ev, &c) : libxc_fixed(r, ev, &c, err);
}

static int producer_text(struct rpl_cur *c, size_t len, char *ret)
{
	const char *p = rpl_cur_bytes(c, len);

	if (!p || memchr(p, 0, len))
		return -EBADMSG;
	memcpy(ret, p, len);
	ret[len] = '\0';
	return 0;
}

int rpl_stream_get_producer(const void *data, size_t len, struct rpl_stream_producer *ret, struct rpl_err *err)
{
	struct rpl_cur c = rpl_cur(data, len);
	struct rpl_stream_producer p = { 0 };
	uint16_t name_len, machine_len;
	uint32_t version = rpl_cur_le32(&c);

	p.kind = rpl_cur_le32(&c);
	p.n_ranges = rpl_cur_le16(&c);
	name_len = rpl_cur_le16(&c);
	machine_len = rpl_cur_le16(&c);
	rpl_cur_zero(&c, 2);
	if (c.bad || version != RPL_PRODUCER_VERSION)
		return rpl_fail(err, -EBADMSG, "RPL_PRODUCER: version %u in %zu bytes, expected version %u in 16 or more",
				version, len, RPL_PRODUCER_VERSION);
	if (p.n_ranges > RPL_PRODUCER_RANGES_MAX || name_len > RPL_PRODUCER_TEXT_MAX ||
	    machine_len > RPL_PRODUCER_TEXT_MAX || len != 16u + 24u * p.n_ranges + name_len + machine_len)
		return rpl_fail(err, -EBADMSG, "RPL_PRODUCER: %u ranges and texts of %u and %u bytes do not make %zu bytes",
				p.n_ranges, name_len, machine_len, len);
	for (unsigned i = 0; i < p.n_ranges; i++) {
		p.ranges[i].pfn = rpl_cur_le64(&c);
		p.ranges[i].pages = rpl_cur_le64(&c);
		p.ranges[i].offset = rpl_cur_le64(&c);
	}
	if (producer_text(&c, name_len, p.name) < 0 || producer_text(&c, machine_len, p.machine) < 0)
		return rpl_fail(err, -EBADMSG, "RPL_PRODUCER: a text of %u or %u bytes holds a NUL", name_len,
				machine_len);
	*ret = p;
	return 0;
}
