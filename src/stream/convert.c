/* Conversions between v2 streams: each event of the input is passed on, changed, or left out.
 *
 * A plain stream of checkpoint n is what the checkpoints up to n leave in memory: all their PAGE_DATA records in order
 * (the last occurrence of a pfn wins, as in any stream), and the tail and emulator records of n alone.
 */
#include <replicad/stream_convert.h>

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <replicad/cur.h>

static int put(const struct rpl_stream_convert *c, const struct rpl_out *o, struct rpl_err *err)
{
	int r;

	rpl_assert(!o->bad);
	r = c->sink->write(c->sink->ctx, o->p, o->len);
	return r < 0 ? rpl_fail_errno(err, -r, "write the converted stream") : 0;
}

static int put_bytes(const struct rpl_stream_convert *c, const void *bytes, size_t len, struct rpl_err *err)
{
	int r = len ? c->sink->write(c->sink->ctx, bytes, len) : 0;

	return r < 0 ? rpl_fail_errno(err, -r, "write the converted stream") : 0;
}

static int put_empty(const struct rpl_stream_convert *c, uint32_t type, struct rpl_err *err)
{
	uint8_t buf[RPL_STREAM_RECORD_HEAD];
	struct rpl_out o = rpl_out(buf, sizeof(buf));

	rpl_stream_put_record(&o, type, NULL, 0);
	return put(c, &o, err);
}

/* ---- headers */
static int put_xl(struct rpl_stream_convert *c, uint32_t config_len, struct rpl_err *err)
{
	uint8_t buf[RPL_XL_HEADER + 4];
	struct rpl_out o = rpl_out(buf, sizeof(buf));

	if (config_len > RPL_XL_OPTIONAL_MAX - 4)
		return rpl_fail(err, -EINVAL, "a configuration of %u bytes, the limit is %u", config_len,
				RPL_XL_OPTIONAL_MAX - 4);
	c->xl_written = true;
	rpl_stream_put_xl_header(&o, RPL_XL_FLAG_STREAM_V2 | (config_len ? RPL_XL_FLAG_JSON : 0), config_len);
	return put(c, &o, err);
}

static int xl_header(struct rpl_stream_convert *c, const struct rpl_stream_event *ev, struct rpl_err *err)
{
	if (c->to != RPL_FORMAT_XL || c->config)
		return 0;
	if (ev->xl.config_len && !(ev->xl.mandatory_flags & RPL_XL_FLAG_JSON))
		return rpl_fail(err, -EINVAL, "the configuration is not JSON: give one that is");
	return put_xl(c, ev->xl.config_len, err);
}

static int xl_config(const struct rpl_stream_convert *c, const struct rpl_stream_event *ev, struct rpl_err *err)
{
	return c->to == RPL_FORMAT_XL && !c->config ? put_bytes(c, ev->bytes, ev->len, err) : 0;
}

static int libxl_header(struct rpl_stream_convert *c, uint32_t options, struct rpl_err *err)
{
	uint8_t buf[RPL_LIBXL_HEADER];
	struct rpl_out o = rpl_out(buf, sizeof(buf));
	int r = 0;

	if (c->to == RPL_FORMAT_XL && !c->xl_written) {
		if (!c->config)
			return rpl_fail(err, -EINVAL, "an xl save file needs a configuration, this stream has none");
		r = put_xl(c, (uint32_t)c->config_len, err);
		if (r == 0)
			r = put_bytes(c, c->config, c->config_len, err);
	}
	if (r < 0 || c->to == RPL_FORMAT_LIBXC)
		return r;
	rpl_stream_put_libxl_header(&o, options);
	return put(c, &o, err);
}

static int image_header(struct rpl_stream_convert *c, const struct rpl_stream_event *ev, struct rpl_err *err)
{
	uint8_t buf[RPL_IMAGE_HEADER];
	struct rpl_out o = rpl_out(buf, sizeof(buf));
	int r = 0;

	if (!c->from_libxl) {
		r = libxl_header(c, 0, err);
		if (r == 0 && c->to != RPL_FORMAT_LIBXC)
			r = put_empty(c, RPL_LIBXL_LIBXC_CONTEXT, err);
	}
	if (r < 0)
		return r;
	if (c->sink->image)
		c->sink->image(c->sink->ctx);
	c->out_version = c->version ? c->version : ev->image_version;
	c->static_end = ev->image_version >= RPL_IMAGE_V3; /* it brings its own */
	rpl_stream_put_image_header(&o, c->out_version);
	return put(c, &o, err);
}

static int domain_header(const struct rpl_stream_convert *c, const struct rpl_stream_event *ev, struct rpl_err *err)
{
	uint8_t buf[RPL_DOMAIN_HEADER];
	struct rpl_out o = rpl_out(buf, sizeof(buf));

	rpl_stream_put_domain_header(&o, &ev->domain);
	return put(c, &o, err);
}

/* ---- records */
static bool is_static(uint32_t type)
{
	return type == RPL_LIBXC_X86_PV_INFO || type == RPL_LIBXC_X86_CPUID_POLICY ||
	       type == RPL_LIBXC_X86_MSR_POLICY || type == RPL_LIBXC_STATIC_DATA_END ||
	       type == (uint32_t)RPL_LIBXC_RPL_PRODUCER;
}

static bool is_tail(uint32_t type)
{
	return !is_static(type) && type != RPL_LIBXC_PAGE_DATA && type != RPL_LIBXC_X86_PV_P2M_FRAMES;
}

/* The wanted checkpoint is the one that is being read. */
static bool is_wanted(const struct rpl_stream_convert *c)
{
	return c->checkpoint == 0 || c->checkpoints + 1 == c->checkpoint;
}

static bool pass_libxc(struct rpl_stream_convert *c, uint32_t type)
{
	if (type == (uint32_t)RPL_LIBXC_RPL_DIGEST) {
		c->dropped_digests++;
		return false; /* it covers other bytes */
	}
	if (c->out_version < RPL_IMAGE_V3) {
		bool policy = type == RPL_LIBXC_X86_CPUID_POLICY || type == RPL_LIBXC_X86_MSR_POLICY;

		c->dropped_policies += policy;
		if (policy || type == RPL_LIBXC_STATIC_DATA_END)
			return false;
	}
	return is_wanted(c) || !is_tail(type);
}

static bool pass_libxl(struct rpl_stream_convert *c, uint32_t type)
{
	bool emulator = type == RPL_LIBXL_EMULATOR_CONTEXT || type == RPL_LIBXL_EMULATOR_XENSTORE_DATA;

	if (emulator && is_wanted(c) && c->to == RPL_FORMAT_LIBXC)
		c->dropped_emulator++;
	if (c->to == RPL_FORMAT_LIBXC)
		return false;
	if (type == RPL_LIBXL_LIBXC_CONTEXT)
		return true;
	return is_wanted(c) && !(c->checkpoint && type == RPL_LIBXL_CHECKPOINT_STATE);
}

static int put_digest(const struct rpl_stream_convert *c, struct rpl_err *err)
{
	uint8_t buf[RPL_STREAM_RECORD_HEAD + 32];
	struct rpl_out o = rpl_out(buf, sizeof(buf));
	uint64_t bytes, low, high;

	if (!c->sink->digest)
		return 0;
	c->sink->digest(c->sink->ctx, &bytes, &low, &high);
	rpl_stream_put_digest(&o, bytes, low, high);
	return put(c, &o, err);
}

/* Records that change on the way: CHECKPOINT and CHECKPOINT_END of the wanted checkpoint become END. */
static uint32_t out_type(const struct rpl_stream_convert *c, const struct rpl_stream_record *rec)
{
	if (c->checkpoint && rec->layer == RPL_LAYER_LIBXC && rec->type == RPL_LIBXC_CHECKPOINT)
		return RPL_LIBXC_END;
	if (c->checkpoint && rec->layer == RPL_LAYER_LIBXL && rec->type == RPL_LIBXL_CHECKPOINT_END)
		return RPL_LIBXL_END;
	return rec->type;
}

static int begin_record(struct rpl_stream_convert *c, const struct rpl_stream_event *ev, struct rpl_err *err)
{
	bool libxc = ev->rec.layer == RPL_LAYER_LIBXC;
	uint8_t buf[RPL_STREAM_RECORD_HEAD];
	struct rpl_out o = rpl_out(buf, sizeof(buf));
	uint32_t type = out_type(c, &ev->rec);
	int r = 0;

	c->pass = libxc ? pass_libxc(c, ev->rec.type) : pass_libxl(c, ev->rec.type);
	if (!c->pass)
		return 0;
	if (libxc && !c->static_end && c->out_version >= RPL_IMAGE_V3 && !is_static(type)) {
		c->static_end = true; /* a v2 image became v3: what it leaves to be inferred is written here */
		r = put_empty(c, RPL_LIBXC_STATIC_DATA_END, err);
	}
	if (r == 0 && libxc && type == RPL_LIBXC_END)
		r = put_digest(c, err);
	if (r < 0)
		return r;
	rpl_stream_put_record_head(&o, type, ev->rec.len);
	r = put(c, &o, err);
	return r < 0 ? r : put_bytes(c, ev->bytes, ev->len, err);
}

static int end_record(struct rpl_stream_convert *c, const struct rpl_stream_event *ev, struct rpl_err *err)
{
	static const uint8_t zeros[8];
	bool libxc = ev->rec.layer == RPL_LAYER_LIBXC, add_libxl = !c->from_libxl && c->to != RPL_FORMAT_LIBXC;
	bool image_over = libxc && (ev->rec.type == RPL_LIBXC_END || ev->rec.type == RPL_LIBXC_CHECKPOINT);
	bool checkpoint_over = libxc ? !c->from_libxl && ev->rec.type == RPL_LIBXC_CHECKPOINT
				     : ev->rec.type == RPL_LIBXL_CHECKPOINT_END;
	bool plain = c->checkpoint || ev->rec.type == RPL_LIBXC_END;
	int r = 0;

	if (c->pass)
		r = put_bytes(c, zeros, rpl_stream_padding(ev->rec.len), err);
	if (r == 0 && image_over && add_libxl && c->pass)
		r = put_empty(c, plain ? RPL_LIBXL_END : RPL_LIBXL_CHECKPOINT_END, err);
	if (r < 0)
		return r;
	if (!checkpoint_over)
		return 0;
	c->checkpoints++;
	c->over = c->checkpoint && c->checkpoints == c->checkpoint;
	return c->over;
}

static int pfns(const struct rpl_stream_convert *c, const struct rpl_stream_event *ev, struct rpl_err *err)
{
	return c->pass ? put_bytes(c, ev->pfns.descs, (size_t)ev->pfns.count * 8, err) : 0;
}

int rpl_stream_convert(struct rpl_stream_convert *c, const struct rpl_stream_event *ev, struct rpl_err *err)
{
	if (c->over)
		return 1;
	switch (ev->kind) {
	case RPL_EV_XL_HEADER:
		return xl_header(c, ev, err);
	case RPL_EV_XL_CONFIG:
		return xl_config(c, ev, err);
	case RPL_EV_XL_EXTRA:
		return 0;
	case RPL_EV_LIBXL_HEADER:
		c->from_libxl = true;
		return libxl_header(c, ev->libxl_options & RPL_LIBXL_OPT_LEGACY, err);
	case RPL_EV_IMAGE_HEADER:
		return image_header(c, ev, err);
	case RPL_EV_DOMAIN_HEADER:
		return domain_header(c, ev, err);
	case RPL_EV_RECORD:
		return begin_record(c, ev, err);
	case RPL_EV_PFNS:
		return pfns(c, ev, err);
	case RPL_EV_PAGES:
	case RPL_EV_BODY:
		return c->pass ? put_bytes(c, ev->bytes, ev->len, err) : 0;
	case RPL_EV_RECORD_END:
		return end_record(c, ev, err);
	case RPL_EV_LEGACY:
		break;
	}
	return rpl_fail(err, -EINVAL, "a legacy stream goes through the legacy converter");
}

int rpl_stream_convert_end(const struct rpl_stream_convert *c, enum rpl_stream_ending ending, struct rpl_err *err)
{
	if (c->over)
		return 0;
	if (c->checkpoint)
		return rpl_fail(err, -EBADMSG, "checkpoint %" PRIu64 " is wanted, the stream has %" PRIu64 " complete ones",
				c->checkpoint, c->checkpoints);
	if (ending == RPL_ENDING_COMPLETE || ending == RPL_ENDING_CHECKPOINT)
		return 0;
	return rpl_fail(err, -EBADMSG, "the input ends inside %s, behind %" PRIu64 " complete checkpoints",
			ending == RPL_ENDING_CUT ? "a checkpoint: --checkpoint takes an earlier one out" : "the stream",
			c->checkpoints);
}
