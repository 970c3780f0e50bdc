/* What the bodies of records hold: page tables, vCPUs, parameters, policies, HVM contexts, xenstore pairs. */
#include "check.h"

#include <inttypes.h>
#include <string.h>

#include <replicad/cur.h>

#define HVM_PFN_MAX ((UINT64_C(1) << 40) - 1) /* 52 physical address bits */
#define PTE_PRESENT UINT64_C(1)
#define PTE_PSE (UINT64_C(1) << 7)
#define PTE_FRAME UINT64_C(0x000ffffffffff000)
#define PTES (RPL_STREAM_PAGE / 8)

static bool is_record(const struct rpl_stream_event *ev, enum rpl_stream_layer layer, int type)
{
	return ev->rec.layer == layer && ev->rec.type == (uint32_t)type;
}

/* ---- PV: width, p2m, vCPUs */
void rpl_check_pv_info(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	uint8_t width = ev->pv_info.width, levels = ev->pv_info.levels;

	if (!(width == 8 && levels == 4) && !(width == 4 && levels == 3))
		rpl_stream_check_say(c, ev, ev->rec.offset + 8, RPL_RULE_PV_WIDTH,
				     "width %u with %u levels, expected 8 with 4 or 4 with 3", width, levels);
	else
		c->width = width;
	if (ev->rec.len > 8)
		rpl_stream_check_say(c, ev, ev->rec.offset + 4, RPL_RULE_PV_INFO_LONG, "%u bytes, expected 8", ev->rec.len);
}

void rpl_check_p2m(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	uint32_t fpp = RPL_STREAM_PAGE / (c->width ? c->width : 8), want;
	uint32_t first = ev->p2m.first, last = ev->p2m.last, have = (ev->rec.len - 8) / 8;

	c->max_pfn = last;
	if (first > last) {
		rpl_stream_check_say(c, ev, ev->rec.offset + 8, RPL_RULE_P2M_RANGE, "first pfn 0x%x, last pfn 0x%x", first,
				     last);
		return;
	}
	want = last / fpp + 1 - first / fpp;
	if (have != want)
		rpl_stream_check_say(c, ev, ev->rec.offset + 4, RPL_RULE_P2M_FRAMES,
				     "%u frames, expected %u for pfns 0x%x to 0x%x of width %u", have, want, first, last,
				     c->width);
}

static void p2m_body(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	struct rpl_cur cur = rpl_cur(ev->bytes, ev->len);

	while (cur.left) {
		uint64_t pfn = rpl_cur_le64(&cur);

		if (pfn <= c->max_pfn)
			rpl_check_note_p2m_frame(c, pfn);
		if (pfn <= c->max_pfn || c->body_said)
			continue;
		c->body_said = true;
		rpl_stream_check_say(c, ev, ev->offset + (ev->len - cur.left) - 8, RPL_RULE_P2M_FRAMES,
				     "frame at pfn 0x%" PRIx64 ", the last pfn is 0x%" PRIx64, pfn, c->max_pfn);
	}
}

void rpl_check_vcpu(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	uint32_t len = ev->rec.len - 8, basic = c->width == 4 ? RPL_PV_BASIC_32 : RPL_PV_BASIC_64;
	uint64_t at = ev->rec.offset + 4;

	c->vcpu = ev->vcpu;
	if (ev->rec.type == RPL_LIBXC_X86_PV_VCPU_BASIC) {
		if (c->width && len != basic)
			rpl_stream_check_say(c, ev, at, RPL_RULE_VCPU_BASIC, "%u bytes, expected %u for a %u-bit guest",
					     len, basic, c->width * 8u);
	} else if (len == 0) {
		rpl_stream_check_say(c, ev, at, RPL_RULE_VCPU_EMPTY, "nothing behind the vCPU id");
	} else if (ev->rec.type == RPL_LIBXC_X86_PV_VCPU_XSAVE && len < 16) {
		rpl_stream_check_say(c, ev, at, RPL_RULE_VCPU_XSAVE, "%u bytes, expected 16 or more", len);
	}
}

static void msrs_body(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	struct rpl_cur cur = rpl_cur(ev->bytes, ev->len);

	while (cur.left) {
		uint32_t index = rpl_cur_le32(&cur), reserved = rpl_cur_le32(&cur);

		(void)rpl_cur_le64(&cur);
		if (reserved && !c->body_said) {
			c->body_said = true;
			rpl_stream_check_say(c, ev, ev->offset + (ev->len - cur.left) - 12, RPL_RULE_VCPU_MSRS,
					     "MSR 0x%x: reserved field 0x%x, expected 0", index, reserved);
		}
	}
}

/* ---- memory */
/* Descriptors nearly always ascend; only those that do not are worth a search. */
static void check_duplicates(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	enum { SLOTS = 2 * RPL_STREAM_PAGES_PER_RECORD };
	uint64_t slots[SLOTS]; /* pfn + 1 */
	bool ascending = true;

	for (uint32_t i = 1; i < ev->pfns.count && ascending; i++)
		ascending = rpl_desc_pfn(ev->pfns.descs[i]) > rpl_desc_pfn(ev->pfns.descs[i - 1]);
	if (ascending || ev->pfns.count > RPL_STREAM_PAGES_PER_RECORD)
		return;
	memset(slots, 0, sizeof(slots));
	for (uint32_t i = 0; i < ev->pfns.count; i++) {
		uint64_t key = rpl_desc_pfn(ev->pfns.descs[i]) + 1;
		size_t at = (key * UINT64_C(0x9e3779b97f4a7c15)) >> 53;

		while (slots[at] && slots[at] != key)
			at = (at + 1) % SLOTS;
		if (slots[at] == key) {
			rpl_stream_check_say(c, ev, ev->offset + (uint64_t)i * 8, RPL_RULE_PAGE_DUPLICATE,
					     "pfn 0x%" PRIx64 " for the second time in this record", key - 1);
			return;
		}
		slots[at] = key;
	}
}

/* The first descriptor that breaks a rule is reported, one per rule and record. */
static void check_descs(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	bool pv = c->type == RPL_DOMAIN_PV, said_pfn = false, said_table = false, said_level = false;
	uint64_t max = pv ? (c->p2m ? c->max_pfn : RPL_STREAM_PFN_MAX) : HVM_PFN_MAX;

	for (uint32_t i = 0; i < ev->pfns.count; i++) {
		uint64_t pfn = rpl_desc_pfn(ev->pfns.descs[i]), at = ev->offset + (uint64_t)i * 8;
		unsigned type = rpl_desc_type(ev->pfns.descs[i]), level = type & 7;

		if (pfn > max && !said_pfn) {
			said_pfn = true;
			rpl_stream_check_say(c, ev, at, RPL_RULE_PAGE_PFN,
					     "pfn 0x%" PRIx64 ", the highest possible is 0x%" PRIx64, pfn, max);
		}
		if (type == RPL_PAGE_NOTAB || type >= RPL_PAGE_BROKEN)
			continue;
		if (!pv && !said_table) {
			said_table = true;
			rpl_stream_check_say(c, ev, at, RPL_RULE_PAGE_TABLE, "%s pfn 0x%" PRIx64 " in an HVM stream",
					     rpl_stream_page_type_name(type), pfn);
		}
		if (pv && level == RPL_PAGE_L4TAB && c->width == 4 && !said_level) {
			said_level = true;
			rpl_stream_check_say(c, ev, at, RPL_RULE_PAGE_TABLE_LEVEL,
					     "L4 table pfn 0x%" PRIx64 " in a 32-bit guest, which has 3 levels", pfn);
		}
	}
}

void rpl_check_pfns(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	uint32_t i = 0;

	if (ev->remarks & RPL_REMARK_RESERVED) {
		while (i + 1 < ev->pfns.count && !(ev->pfns.descs[i] & RPL_DESC_RESERVED))
			i++;
		rpl_stream_check_say(c, ev, ev->offset + (uint64_t)i * 8, RPL_RULE_PAGE_RESERVED,
				     "descriptor %u is 0x%016" PRIx64 ", expected bits 52-59 to be zero", i, ev->pfns.descs[i]);
	}
	if (ev->pfns.count > RPL_STREAM_PAGES_PER_RECORD)
		rpl_stream_check_say(c, ev, ev->rec.offset + 8, RPL_RULE_PAGE_BATCH, "%u descriptors, expected %u at most",
				     ev->pfns.count, RPL_STREAM_PAGES_PER_RECORD);
	check_descs(c, ev);
	rpl_check_note_types(c, ev);
	check_duplicates(c, ev);
	c->descs = ev->pfns.descs;
	c->n_descs = ev->pfns.count;
	c->desc_at = 0;
}

static bool check_table(struct rpl_stream_check *c, const struct rpl_stream_event *ev, const uint8_t *page,
			uint64_t desc)
{
	unsigned level = rpl_desc_type(desc) & 7;

	for (unsigned i = 0; i < PTES; i++) {
		uint64_t e, pfn;

		memcpy(&e, page + (size_t)i * 8, 8);
		if (!(e & PTE_PRESENT))
			continue;
		pfn = (e & PTE_FRAME) >> RPL_STREAM_PAGE_SHIFT;
		if (pfn <= c->max_pfn && !(level > 1 && e & PTE_PSE))
			continue;
		rpl_stream_check_say(c, ev, ev->offset + (uint64_t)(page - ev->bytes) + i * 8u, RPL_RULE_PAGE_PTE,
				     "L%u table pfn 0x%" PRIx64 " entry %u is 0x%" PRIx64 ", expected %s", level,
				     rpl_desc_pfn(desc), i, e, pfn > c->max_pfn ? "a pfn within P2M_FRAMES" : "no superpage");
		return false;
	}
	return true;
}

void rpl_check_pages(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	if (c->type != RPL_DOMAIN_PV || !c->p2m)
		return;
	for (size_t at = 0; at < ev->len; at += RPL_STREAM_PAGE) {
		uint64_t desc;

		while (c->desc_at < c->n_descs && !rpl_page_type_has_data(rpl_desc_type(c->descs[c->desc_at])))
			c->desc_at++;
		if (c->desc_at >= c->n_descs)
			return;
		desc = c->descs[c->desc_at++];
		if (rpl_desc_type(desc) != RPL_PAGE_NOTAB && !c->body_said)
			c->body_said = !check_table(c, ev, ev->bytes + at, desc);
	}
}

/* ---- HVM: parameters and context */
static bool param_known(uint64_t index)
{
	static const uint8_t taken[] = { 1, 4, 5, 6, 9, 12, 15, 17, 19, 27, 28, 29, 32, 33, 34, 36, 37, 38 };

	return index <= RPL_HVM_PARAM_MAX && memchr(taken, (int)index, sizeof(taken));
}

static void params_body(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	struct rpl_cur cur = rpl_cur(ev->bytes, ev->len);

	while (cur.left) {
		uint64_t index = rpl_cur_le64(&cur), at = ev->offset + (ev->len - cur.left) - 8;

		(void)rpl_cur_le64(&cur);
		if (!param_known(index)) {
			rpl_stream_check_say(c, ev, at, RPL_RULE_HVM_PARAM, "parameter %" PRIu64 " (%s) does not travel in a stream",
					     index, rpl_stream_hvm_param_name(index));
			continue;
		}
		if (c->params_seen >> index & 1)
			rpl_stream_check_say(c, ev, at, RPL_RULE_HVM_PARAM,
					     "parameter %" PRIu64 " (%s) for the second time in this checkpoint", index,
					     rpl_stream_hvm_param_name(index));
		c->params_seen |= UINT64_C(1) << index;
	}
}

#define HVM_PIC 3u

/* What is odd about an entry, NULL if nothing. */
static const char *hvm_oddity(const struct rpl_hvm_entry *e, const struct rpl_hvm_entry_def *d)
{
	if (!d->name)
		return "a type that Xen 4.17 does not know and refuses";
	if (d->size && d->size != e->len)
		return "not the length of Xen 4.17";
	if (!d->per_vcpu && e->instance > (e->code == HVM_PIC ? 1 : 0))
		return "an instance that does not exist";
	return NULL;
}

static void hvm_body(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	const uint8_t *p = ev->bytes;
	size_t left = ev->len;
	struct rpl_hvm_entry e;
	int r;

	while (!c->hvm_bad && (r = rpl_hvm_walk_next(&c->hvm, &p, &left, &e)) != 0) {
		const struct rpl_hvm_entry_def *d = rpl_hvm_entry_def(r > 0 ? e.code : RPL_HVM_CODES);
		uint64_t at = ev->rec.offset + RPL_STREAM_RECORD_HEAD;

		if (r < 0) {
			c->hvm_bad = true;
			rpl_stream_check_say(c, ev, at + c->hvm.offset, RPL_RULE_HVM_CONTEXT, "%s",
					     rpl_hvm_fault_text((enum rpl_hvm_fault)-r));
		} else if (hvm_oddity(&e, d) && !c->body_said) {
			c->body_said = true;
			rpl_stream_check_say(c, ev, at + e.offset, RPL_RULE_HVM_CONTEXT_SIZE,
					     "entry of type %u %s, instance %u, %u bytes: %s", e.code, d->name ? d->name : "",
					     e.instance, e.len, hvm_oddity(&e, d));
		}
	}
}

static void hvm_end(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	enum rpl_hvm_fault fault = rpl_hvm_walk_end(&c->hvm);

	if (fault && !c->hvm_bad)
		rpl_stream_check_say(c, ev, ev->rec.offset + RPL_STREAM_RECORD_HEAD + ev->rec.len, RPL_RULE_HVM_CONTEXT,
				     "%s", rpl_hvm_fault_text(fault));
}

/* ---- policies */
static void cpuid_body(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	struct rpl_cur cur = rpl_cur(ev->bytes, ev->len);

	while (cur.left) {
		uint64_t leaf = rpl_cur_le32(&cur), key = leaf << 32 | rpl_cur_le32(&cur);

		(void)rpl_cur_bytes(&cur, 16);
		if (c->have_key && key <= c->last_key && !c->body_said) {
			c->body_said = true;
			rpl_stream_check_say(c, ev, ev->offset + (ev->len - cur.left) - 24, RPL_RULE_CPUID_POLICY,
					     "leaf 0x%x:0x%x behind 0x%x:0x%x, expected ascending ones", (uint32_t)(key >> 32),
					     (uint32_t)key, (uint32_t)(c->last_key >> 32), (uint32_t)c->last_key);
		}
		c->last_key = key;
		c->have_key = true;
	}
}

static void msr_policy_body(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	struct rpl_cur cur = rpl_cur(ev->bytes, ev->len);

	while (cur.left) {
		uint32_t index = rpl_cur_le32(&cur), flags = rpl_cur_le32(&cur);
		bool twice = c->have_key && index == c->last_key;

		(void)rpl_cur_le64(&cur);
		if ((flags || twice) && !c->body_said) {
			c->body_said = true;
			rpl_stream_check_say(c, ev, ev->offset + (ev->len - cur.left) - 16, RPL_RULE_MSR_POLICY,
					     "MSR 0x%x: %s (flags 0x%x)", index,
					     flags ? "flags are set, expected 0" : "twice, expected once", flags);
		}
		c->last_key = index;
		c->have_key = true;
	}
}

/* ---- xenstore pairs: key NUL value NUL ... */
static void store_body(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	for (size_t i = 0; i < ev->len; i++) {
		bool key = c->store_strings % 2 == 0, first = c->store_len == 0;

		if (key && first && (ev->bytes[i] == 0 || ev->bytes[i] == '/') && !c->body_said) {
			c->body_said = true;
			rpl_stream_check_say(c, ev, ev->offset + i, RPL_RULE_LIBXL_XENSTORE,
					     ev->bytes[i] ? "a key starts with '/', expected a relative one" : "an empty key");
		}
		c->store_len = ev->bytes[i] ? 1 : 0;
		if (!ev->bytes[i])
			c->store_strings++;
	}
}

static void store_end(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	if (c->store_len)
		rpl_stream_check_say(c, ev, ev->rec.offset + 4, RPL_RULE_LIBXL_XENSTORE,
				     "the last string is not NUL terminated");
	else if (c->store_strings % 2)
		rpl_stream_check_say(c, ev, ev->rec.offset + 4, RPL_RULE_LIBXL_XENSTORE,
				     "%u strings, expected pairs of key and value", c->store_strings);
}

/* ---- our own */
static void producer_end(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	struct rpl_stream_producer p;
	struct rpl_err err;

	if (rpl_stream_get_producer(c->producer_body, ev->rec.len, &p, &err) < 0)
		rpl_stream_check_say(c, ev, ev->rec.offset + 8, RPL_RULE_PRODUCER, "%s", err.msg);
}

void rpl_check_body_begin(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	(void)ev;
	c->refused = c->body_said = c->have_key = c->hvm_bad = false;
	c->store_strings = c->store_len = 0;
	c->n_descs = 0;
	rpl_hvm_walk_init(&c->hvm);
}

static void libxc_body(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	switch ((int)ev->rec.type) {
	case RPL_LIBXC_X86_PV_P2M_FRAMES:
		p2m_body(c, ev);
		break;
	case RPL_LIBXC_X86_PV_VCPU_BASIC:
		if (ev->first + ev->len <= sizeof(c->basic))
			memcpy(c->basic + ev->first, ev->bytes, ev->len);
		break;
	case RPL_LIBXC_X86_PV_VCPU_MSRS:
		msrs_body(c, ev);
		break;
	case RPL_LIBXC_HVM_CONTEXT:
		hvm_body(c, ev);
		break;
	case RPL_LIBXC_HVM_PARAMS:
		params_body(c, ev);
		break;
	case RPL_LIBXC_X86_CPUID_POLICY:
		cpuid_body(c, ev);
		break;
	case RPL_LIBXC_X86_MSR_POLICY:
		msr_policy_body(c, ev);
		break;
	case RPL_LIBXC_RPL_PRODUCER:
		memcpy(c->producer_body + ev->first, ev->bytes, ev->len); /* the reader bounds its length */
		break;
	}
}

void rpl_check_body(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	if (is_record(ev, RPL_LAYER_LIBXL, RPL_LIBXL_EMULATOR_XENSTORE_DATA))
		store_body(c, ev);
	else if (ev->rec.layer == RPL_LAYER_LIBXC)
		libxc_body(c, ev);
}

void rpl_check_body_end(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	if (is_record(ev, RPL_LAYER_LIBXL, RPL_LIBXL_EMULATOR_XENSTORE_DATA))
		store_end(c, ev);
	if (is_record(ev, RPL_LAYER_LIBXC, RPL_LIBXC_HVM_CONTEXT))
		hvm_end(c, ev);
	if (is_record(ev, RPL_LAYER_LIBXC, RPL_LIBXC_X86_PV_VCPU_BASIC))
		rpl_check_basic(c, ev);
	if (is_record(ev, RPL_LAYER_LIBXC, RPL_LIBXC_RPL_PRODUCER))
		producer_end(c, ev);
}
