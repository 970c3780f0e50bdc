/* Values to bytes: one function writes record heads, all others build on it. */
#include <replicad/stream_write.h>

#include <string.h>

static const uint8_t zeros[8];

void rpl_stream_put_xl_header(struct rpl_out *o, uint32_t mandatory_flags, uint32_t config_len)
{
	_Static_assert(sizeof(RPL_XL_MAGIC) == RPL_XL_MAGIC_LEN + 1, "the magic has 32 bytes");

	if (config_len > RPL_XL_OPTIONAL_MAX - 4)
		o->bad = true;
	rpl_out_bytes(o, RPL_XL_MAGIC, RPL_XL_MAGIC_LEN);
	rpl_out_le32(o, RPL_XL_BYTEORDER);
	rpl_out_le32(o, mandatory_flags);
	rpl_out_le32(o, 0);
	rpl_out_le32(o, config_len ? config_len + 4 : 0);
	if (config_len)
		rpl_out_le32(o, config_len);
}

void rpl_stream_put_libxl_header(struct rpl_out *o, uint32_t options)
{
	rpl_out_be64(o, RPL_LIBXL_IDENT);
	rpl_out_be32(o, RPL_LIBXL_VERSION);
	rpl_out_be32(o, options);
}

void rpl_stream_put_image_header(struct rpl_out *o, uint32_t version)
{
	if (version != RPL_IMAGE_V2 && version != RPL_IMAGE_V3)
		o->bad = true;
	rpl_out_be64(o, RPL_IMAGE_MARKER);
	rpl_out_be32(o, RPL_IMAGE_ID);
	rpl_out_be32(o, version);
	rpl_out_be64(o, 0);
}

void rpl_stream_put_domain_header(struct rpl_out *o, const struct rpl_stream_domain_header *d)
{
	rpl_out_le32(o, d->type);
	rpl_out_le16(o, d->page_shift);
	rpl_out_le16(o, 0);
	rpl_out_le32(o, d->xen_major);
	rpl_out_le32(o, d->xen_minor);
}

void rpl_stream_put_record_head(struct rpl_out *o, uint32_t type, uint32_t len)
{
	if (len > RPL_STREAM_BODY_MAX)
		o->bad = true;
	rpl_out_le32(o, type);
	rpl_out_le32(o, len);
}

void rpl_stream_put_padding(struct rpl_out *o, uint32_t body_len)
{
	rpl_out_bytes(o, zeros, rpl_stream_padding(body_len));
}

void rpl_stream_put_record(struct rpl_out *o, uint32_t type, const void *body, uint32_t len)
{
	rpl_stream_put_record_head(o, type, len);
	rpl_out_bytes(o, body, len);
	rpl_stream_put_padding(o, len);
}

/* How many descriptors carry a page. The common case, all of them ordinary RAM, is one OR over the array. */
static uint32_t count_pages(const uint64_t *descs, uint32_t count, bool *ret_valid)
{
	uint64_t any = 0;
	uint32_t pages = 0;

	*ret_valid = true;
	for (uint32_t i = 0; i < count; i++)
		any |= descs[i];
	if (!(any & ~RPL_STREAM_PFN_MAX))
		return count;
	if (any & RPL_DESC_RESERVED)
		*ret_valid = false;
	for (uint32_t i = 0; i < count; i++) {
		if (!rpl_page_type_valid(rpl_desc_type(descs[i])))
			*ret_valid = false;
		pages += rpl_page_type_has_data(rpl_desc_type(descs[i]));
	}
	return pages;
}

void rpl_stream_put_page_data_head(struct rpl_out *o, const uint64_t *descs, uint32_t count, uint32_t *ret_pages)
{
	uint32_t pages;
	bool valid;

	if (count == 0 || count > RPL_STREAM_PAGES_PER_RECORD) {
		o->bad = true;
		return;
	}
	pages = count_pages(descs, count, &valid);
	if (!valid)
		o->bad = true;
	rpl_stream_put_record_head(o, RPL_LIBXC_PAGE_DATA, 8 + 8 * count + RPL_STREAM_PAGE * pages);
	rpl_out_le32(o, count);
	rpl_out_le32(o, 0);
	rpl_out_bytes(o, descs, (size_t)count * 8);
	if (ret_pages)
		*ret_pages = pages;
}

void rpl_stream_put_page_data(struct rpl_out *o, const uint64_t *descs, uint32_t count, const void *const *pages)
{
	rpl_stream_put_page_data_head(o, descs, count, NULL);
	for (uint32_t i = 0; i < count && !o->bad; i++)
		if (rpl_page_type_has_data(rpl_desc_type(descs[i])))
			rpl_out_bytes(o, pages[i], RPL_STREAM_PAGE);
}

void rpl_stream_put_producer(struct rpl_out *o, const struct rpl_stream_producer *p)
{
	size_t name_len = strnlen(p->name, sizeof(p->name)), machine_len = strnlen(p->machine, sizeof(p->machine));
	uint32_t len;

	if (p->n_ranges > RPL_PRODUCER_RANGES_MAX || name_len > RPL_PRODUCER_TEXT_MAX ||
	    machine_len > RPL_PRODUCER_TEXT_MAX) {
		o->bad = true;
		return;
	}
	len = (uint32_t)(16 + 24 * p->n_ranges + name_len + machine_len);
	rpl_stream_put_record_head(o, (uint32_t)RPL_LIBXC_RPL_PRODUCER, len);
	rpl_out_le32(o, RPL_PRODUCER_VERSION);
	rpl_out_le32(o, p->kind);
	rpl_out_le16(o, (uint16_t)p->n_ranges);
	rpl_out_le16(o, (uint16_t)name_len);
	rpl_out_le16(o, (uint16_t)machine_len);
	rpl_out_le16(o, 0);
	for (unsigned i = 0; i < p->n_ranges; i++) {
		rpl_out_le64(o, p->ranges[i].pfn);
		rpl_out_le64(o, p->ranges[i].pages);
		rpl_out_le64(o, p->ranges[i].offset);
	}
	rpl_out_bytes(o, p->name, name_len);
	rpl_out_bytes(o, p->machine, machine_len);
	rpl_stream_put_padding(o, len);
}

void rpl_stream_put_pv_info(struct rpl_out *o, uint8_t guest_width, uint8_t levels)
{
	rpl_stream_put_record_head(o, RPL_LIBXC_X86_PV_INFO, 8);
	rpl_out_u8(o, guest_width);
	rpl_out_u8(o, levels);
	rpl_out_bytes(o, zeros, 6);
}

void rpl_stream_put_p2m_frames(struct rpl_out *o, uint32_t first, uint32_t last, const uint64_t *frames, uint32_t n)
{
	if (n == 0 || n > (RPL_STREAM_BODY_MAX - 8) / 8 || first > last) {
		o->bad = true;
		return;
	}
	rpl_stream_put_record_head(o, RPL_LIBXC_X86_PV_P2M_FRAMES, 8 + 8 * n);
	rpl_out_le32(o, first);
	rpl_out_le32(o, last);
	rpl_out_bytes(o, frames, (size_t)n * 8);
}

void rpl_stream_put_vcpu(struct rpl_out *o, uint32_t type, uint32_t vcpu, const void *blob, uint32_t len)
{
	if (len > RPL_STREAM_BODY_MAX - 8) {
		o->bad = true;
		return;
	}
	rpl_stream_put_record_head(o, type, 8 + len);
	rpl_out_le32(o, vcpu);
	rpl_out_le32(o, 0);
	rpl_out_bytes(o, blob, len);
	rpl_stream_put_padding(o, len);
}

void rpl_stream_put_tsc(struct rpl_out *o, const struct rpl_stream_tsc *t)
{
	rpl_stream_put_record_head(o, RPL_LIBXC_X86_TSC_INFO, 24);
	rpl_out_le32(o, t->mode);
	rpl_out_le32(o, t->khz);
	rpl_out_le64(o, t->nsec);
	rpl_out_le32(o, t->incarnation);
	rpl_out_le32(o, 0);
}

void rpl_stream_put_hvm_params(struct rpl_out *o, const struct rpl_stream_param *params, uint32_t n)
{
	if (n > (RPL_STREAM_BODY_MAX - 8) / 16) {
		o->bad = true;
		return;
	}
	rpl_stream_put_record_head(o, RPL_LIBXC_HVM_PARAMS, 8 + 16 * n);
	rpl_out_le32(o, n);
	rpl_out_le32(o, 0);
	for (uint32_t i = 0; i < n; i++) {
		rpl_out_le64(o, params[i].index);
		rpl_out_le64(o, params[i].value);
	}
}

void rpl_stream_put_digest(struct rpl_out *o, uint64_t bytes, uint64_t low, uint64_t high)
{
	rpl_stream_put_record_head(o, (uint32_t)RPL_LIBXC_RPL_DIGEST, 32);
	rpl_out_le32(o, RPL_DIGEST_XXH3_128);
	rpl_out_le32(o, 0);
	rpl_out_le64(o, bytes);
	rpl_out_le64(o, low);
	rpl_out_le64(o, high);
}

void rpl_stream_put_emulator_head(struct rpl_out *o, uint32_t type, uint32_t emulator_id, uint32_t payload_len)
{
	if (payload_len > RPL_STREAM_BODY_MAX - 8) {
		o->bad = true;
		return;
	}
	rpl_stream_put_record_head(o, type, 8 + payload_len);
	rpl_out_le32(o, emulator_id);
	rpl_out_le32(o, 0);
}

void rpl_stream_put_checkpoint_state(struct rpl_out *o, uint32_t id)
{
	rpl_stream_put_record_head(o, RPL_LIBXL_CHECKPOINT_STATE, 4);
	rpl_out_le32(o, id);
	rpl_stream_put_padding(o, 4);
}
