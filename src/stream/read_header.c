/* The headers: xl save file with its configuration, libxl stream, libxc image, domain. */
#include "read.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <replicad/cur.h>

enum rpl_stream_format rpl_stream_detect(const void *first, size_t len)
{
	const uint8_t *p = first;
	struct rpl_cur c = rpl_cur(first, len);
	uint64_t be;

	if (len < RPL_STREAM_DETECT)
		return RPL_FORMAT_UNKNOWN;
	be = rpl_cur_be64(&c);
	if (be == RPL_IMAGE_MARKER)
		return RPL_FORMAT_LIBXC;
	if (be == RPL_LIBXL_IDENT)
		return RPL_FORMAT_LIBXL;
	return memcmp(p, RPL_XL_MAGIC, RPL_STREAM_DETECT) ? RPL_FORMAT_LEGACY : RPL_FORMAT_XL;
}

static int xl_head(struct rpl_stream_reader *r, struct rpl_stream_in *in, struct rpl_err *err)
{
	uint64_t at = r->offset;
	const uint8_t *p = rpl_read_need(r, in, RPL_XL_HEADER);
	struct rpl_cur c;
	uint32_t order;

	if (!p)
		return MORE;
	if (memcmp(p, RPL_XL_MAGIC, RPL_XL_MAGIC_LEN))
		return rpl_read_refuse(r, err, RPL_RULE_XL_MAGIC, at, -EBADMSG, "the 32 bytes of magic differ");
	c = rpl_cur(p + RPL_XL_MAGIC_LEN, RPL_XL_HEADER - RPL_XL_MAGIC_LEN);
	order = rpl_cur_le32(&c);
	r->xl_flags = rpl_cur_le32(&c);
	r->xl_optional_flags = rpl_cur_le32(&c);
	r->left = rpl_cur_le32(&c);
	if (order != RPL_XL_BYTEORDER)
		return rpl_read_refuse(r, err, RPL_RULE_XL_BYTEORDER, at + 32, -EBADMSG,
			      "byte order mark 0x%08x, expected 0x%08x", order, RPL_XL_BYTEORDER);
	if (r->xl_flags & ~(RPL_XL_FLAG_JSON | RPL_XL_FLAG_STREAM_V2))
		return rpl_read_refuse(r, err, RPL_RULE_XL_FLAGS, at + 36, -EBADMSG, "mandatory flags 0x%x, known are 0x3",
			      r->xl_flags);
	if (r->left > RPL_XL_OPTIONAL_MAX || (r->left > 0 && r->left < 4))
		return rpl_read_refuse(r, err, RPL_RULE_XL_OPTIONAL, at + 44, -EMSGSIZE,
			      "%u bytes of optional data, expected 0 or 4 to %u", r->left, RPL_XL_OPTIONAL_MAX);
	r->phase = PH_XL_CONFIG_LEN;
	return AGAIN;
}

static int xl_config_len(struct rpl_stream_reader *r, struct rpl_stream_in *in, struct rpl_stream_event *ev,
			 struct rpl_err *err)
{
	uint64_t at = r->offset;
	uint32_t optional = r->left;
	struct rpl_cur c;

	if (optional) {
		const uint8_t *p = rpl_read_need(r, in, 4);

		if (!p)
			return MORE;
		c = rpl_cur(p, 4);
		r->xl_config = r->xl_config_left = rpl_cur_le32(&c);
		r->left -= 4;
	}
	if (r->xl_config > r->left)
		return rpl_read_refuse(r, err, RPL_RULE_XL_OPTIONAL, at, -EBADMSG,
			      "configuration of %u bytes in %u bytes of optional data", r->xl_config, r->left);
	(void)rpl_read_event(r, ev, RPL_EV_XL_HEADER, at - RPL_XL_HEADER);
	ev->xl.mandatory_flags = r->xl_flags;
	ev->xl.optional_flags = r->xl_optional_flags;
	ev->xl.optional_len = optional;
	ev->xl.config_len = r->xl_config;
	if (r->xl_optional_flags)
		ev->remarks = RPL_REMARK_RESERVED;
	r->phase = PH_XL_CONFIG;
	return EVENT;
}

static int xl_config(struct rpl_stream_reader *r, struct rpl_stream_in *in, struct rpl_stream_event *ev)
{
	uint64_t at = r->offset;
	const uint8_t *p;
	uint32_t n;

	if (r->xl_config_left == 0) {
		r->phase = PH_XL_EXTRA;
		return AGAIN;
	}
	n = rpl_read_some(r, in, 1, r->xl_config_left, &p);
	if (n == 0)
		return MORE;
	(void)rpl_read_event(r, ev, RPL_EV_XL_CONFIG, at);
	ev->bytes = p;
	ev->len = n;
	ev->first = r->xl_config - r->xl_config_left;
	r->xl_config_left -= n;
	r->left -= n;
	return EVENT;
}

static int xl_extra(struct rpl_stream_reader *r, struct rpl_stream_in *in, struct rpl_stream_event *ev)
{
	uint64_t at = r->offset;
	const uint8_t *p;
	uint32_t n;

	if (r->left == 0) {
		bool v2 = r->xl_flags & RPL_XL_FLAG_STREAM_V2;

		r->has_libxl = v2;
		r->layer = v2 ? RPL_LAYER_LIBXL : RPL_LAYER_LEGACY;
		r->phase = v2 ? PH_LIBXL_HEAD : PH_LEGACY;
		return AGAIN;
	}
	n = rpl_read_some(r, in, 1, r->left, &p);
	if (n == 0)
		return MORE;
	(void)rpl_read_event(r, ev, RPL_EV_XL_EXTRA, at);
	ev->bytes = p;
	ev->len = n;
	r->left -= n;
	return EVENT;
}

static int libxl_head(struct rpl_stream_reader *r, struct rpl_stream_in *in, struct rpl_stream_event *ev,
		      struct rpl_err *err)
{
	uint64_t at = r->offset, ident;
	const uint8_t *p = rpl_read_need(r, in, RPL_LIBXL_HEADER);
	struct rpl_cur c;
	uint32_t version;

	if (!p)
		return MORE;
	c = rpl_cur(p, RPL_LIBXL_HEADER);
	ident = rpl_cur_be64(&c);
	version = rpl_cur_be32(&c);
	(void)rpl_read_event(r, ev, RPL_EV_LIBXL_HEADER, at);
	ev->libxl_options = rpl_cur_be32(&c);
	if (ident != RPL_LIBXL_IDENT)
		return rpl_read_refuse(r, err, RPL_RULE_LIBXL_IDENT, at, -EBADMSG,
			      "ident 0x%016" PRIx64 ", expected 0x%016" PRIx64, ident, RPL_LIBXL_IDENT);
	if (version != RPL_LIBXL_VERSION)
		return rpl_read_refuse(r, err, RPL_RULE_LIBXL_VERSION, at + 8, -EBADMSG, "version %u, expected %u", version,
			      RPL_LIBXL_VERSION);
	if (ev->libxl_options & RPL_LIBXL_OPT_BIG_ENDIAN)
		return rpl_read_refuse(r, err, RPL_RULE_LIBXL_ENDIAN, at + 12, -EBADMSG,
			      "big-endian (options 0x%x), only little-endian streams exist", ev->libxl_options);
	if (ev->libxl_options & ~(RPL_LIBXL_OPT_BIG_ENDIAN | RPL_LIBXL_OPT_LEGACY))
		ev->remarks = RPL_REMARK_RESERVED;
	r->phase = PH_RECORD;
	return EVENT;
}

static int image_head(struct rpl_stream_reader *r, struct rpl_stream_in *in, struct rpl_stream_event *ev,
		      struct rpl_err *err)
{
	uint64_t at = r->offset, marker;
	const uint8_t *p = rpl_read_need(r, in, RPL_IMAGE_HEADER);
	uint32_t id, reserved;
	uint16_t options;
	struct rpl_cur c;

	if (!p)
		return MORE;
	c = rpl_cur(p, RPL_IMAGE_HEADER);
	marker = rpl_cur_be64(&c);
	id = rpl_cur_be32(&c);
	(void)rpl_read_event(r, ev, RPL_EV_IMAGE_HEADER, at);
	ev->image_version = rpl_cur_be32(&c);
	options = rpl_cur_be16(&c);
	reserved = rpl_cur_be16(&c);
	reserved |= rpl_cur_be32(&c);
	if (marker != RPL_IMAGE_MARKER)
		return rpl_read_refuse(r, err, RPL_RULE_IMAGE_MARKER, at, -EBADMSG,
			      "marker 0x%016" PRIx64 ", expected all ones", marker);
	if (id != RPL_IMAGE_ID)
		return rpl_read_refuse(r, err, RPL_RULE_IMAGE_ID, at + 8, -EBADMSG, "id 0x%08x, expected 0x%08x", id,
			      RPL_IMAGE_ID);
	if (ev->image_version != RPL_IMAGE_V2 && ev->image_version != RPL_IMAGE_V3)
		return rpl_read_refuse(r, err, RPL_RULE_IMAGE_VERSION, at + 12, -EBADMSG, "version %u, expected 2 or 3",
			      ev->image_version);
	if (options & RPL_IMAGE_OPT_BIG_ENDIAN)
		return rpl_read_refuse(r, err, RPL_RULE_IMAGE_ENDIAN, at + 16, -EBADMSG,
			      "big-endian (options 0x%x), only little-endian images exist", options);
	if (options || reserved)
		ev->remarks = RPL_REMARK_RESERVED;
	r->phase = PH_DOMAIN_HEAD;
	return EVENT;
}

static int domain_head(struct rpl_stream_reader *r, struct rpl_stream_in *in, struct rpl_stream_event *ev,
		       struct rpl_err *err)
{
	uint64_t at = r->offset;
	const uint8_t *p = rpl_read_need(r, in, RPL_DOMAIN_HEADER);
	struct rpl_cur c;

	if (!p)
		return MORE;
	c = rpl_cur(p, RPL_DOMAIN_HEADER);
	(void)rpl_read_event(r, ev, RPL_EV_DOMAIN_HEADER, at);
	ev->domain.type = rpl_cur_le32(&c);
	ev->domain.page_shift = rpl_cur_le16(&c);
	if (rpl_cur_le16(&c))
		ev->remarks = RPL_REMARK_RESERVED;
	ev->domain.xen_major = rpl_cur_le32(&c);
	ev->domain.xen_minor = rpl_cur_le32(&c);
	if (ev->domain.type != RPL_DOMAIN_PV && ev->domain.type != RPL_DOMAIN_HVM)
		return rpl_read_refuse(r, err, RPL_RULE_DOMAIN_TYPE, at, -EBADMSG, "domain type %u, expected 1 (PV) or 2 (HVM)",
			      ev->domain.type);
	if (ev->domain.page_shift != RPL_STREAM_PAGE_SHIFT)
		return rpl_read_refuse(r, err, RPL_RULE_DOMAIN_SHIFT, at + 4, -EBADMSG, "page shift %u, expected %u",
			      ev->domain.page_shift, RPL_STREAM_PAGE_SHIFT);
	r->phase = PH_RECORD;
	return EVENT;
}

int rpl_read_header(struct rpl_stream_reader *r, struct rpl_stream_in *in, struct rpl_stream_event *ev,
		    struct rpl_err *err)
{
	switch (r->phase) {
	case PH_XL_HEAD:
		return xl_head(r, in, err);
	case PH_XL_CONFIG_LEN:
		return xl_config_len(r, in, ev, err);
	case PH_XL_CONFIG:
		return xl_config(r, in, ev);
	case PH_XL_EXTRA:
		return xl_extra(r, in, ev);
	case PH_LIBXL_HEAD:
		return libxl_head(r, in, ev, err);
	case PH_IMAGE_HEAD:
		return image_head(r, in, ev, err);
	default:
		return domain_head(r, in, ev, err);
	}
}
