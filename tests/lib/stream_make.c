#include "stream_make.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <replicad/auto.h>
#include <replicad/stream_hvm.h>

#define DESCS_MAX 4096
#define MAX_PFN 1023u
#define START_INFO_PFN 1000u /* of PV guests; random pages stay below */
#define TOP_TABLE_PFN 1001u
#define P2M_PFN 1002u /* and 1003 in a 64-bit guest */

uint64_t make_random(uint64_t *state)
{
	uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

uint64_t make_sum(uint64_t sum, const void *bytes, size_t len)
{
	const uint8_t *p = bytes;

	for (size_t i = 0; i < len; i++)
		sum = (sum ^ p[i]) * UINT64_C(0x100000001b3);
	return sum;
}

struct make_plan make_random_plan(uint64_t *state)
{
	struct make_plan p = {
		.guest = (enum make_guest)(make_random(state) % MAKE_GUESTS),
		.format = RPL_FORMAT_XL + make_random(state) % 3,
		.version = make_random(state) % 4 ? RPL_IMAGE_V3 : RPL_IMAGE_V2,
		.checkpoints = (unsigned)(make_random(state) % 4),
		.records = 1 + (unsigned)(make_random(state) % 3),
		.pages = 1 + (unsigned)(make_random(state) % 12),
		.vcpus = 1 + (unsigned)(make_random(state) % 3),
		.seed = make_random(state),
	};

	p.colo = p.guest == MAKE_HVM && p.checkpoints > 1 && p.format != RPL_FORMAT_LIBXC && make_random(state) % 2;
	p.producer = p.guest == MAKE_HVM && p.version == RPL_IMAGE_V3 && make_random(state) % 4 == 0;
	return p;
}

struct maker {
	const struct make_plan *plan;
	struct rpl_out *o;
	struct make_result *res;
	uint64_t rnd;
	uint64_t max_pfn;
	bool pv;
};

static void blob(struct maker *m, uint8_t *buf, size_t len)
{
	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)make_random(&m->rnd);
	m->res->sum = make_sum(m->res->sum, buf, len);
}

static void end_record(struct maker *m)
{
	m->res->records++;
}

static void empty_record(struct maker *m, uint32_t type)
{
	rpl_stream_put_record(m->o, type, NULL, 0);
	end_record(m);
}

/* A page of PV page-table entries that resolve, or of anything. */
static void fill_page(struct maker *m, uint8_t *page, unsigned type)
{
	bool table = m->pv && (type & 7) >= 1 && (type & 7) <= 4;

	memset(page, 0, RPL_STREAM_PAGE);
	if (!table && make_random(&m->rnd) % 3 == 0)
		return;
	for (size_t i = 0; i < RPL_STREAM_PAGE / 8; i++) {
		uint64_t v = make_random(&m->rnd);

		if (table)
			v = v & 1 ? (v % (m->max_pfn + 1)) << 12 | 0x67 : 0;
		memcpy(page + i * 8, &v, 8);
	}
}

static unsigned random_type(struct maker *m)
{
	static const uint8_t pv64[] = { 0, 0, 0, 1, 2, 3, 4, 9, 10, 11, 12, 13, 14, 15 };
	static const uint8_t pv32[] = { 0, 0, 0, 1, 2, 3, 9, 10, 11, 15 };
	static const uint8_t hvm[] = { 0, 0, 0, 0, 0, 0, 0, 13, 15 };
	uint64_t v = make_random(&m->rnd);

	if (m->plan->guest == MAKE_PV64)
		return pv64[v % sizeof(pv64)];
	return m->plan->guest == MAKE_PV32 ? pv32[v % sizeof(pv32)] : hvm[v % sizeof(hvm)];
}

static void page_data(struct maker *m)
{
	static uint8_t pages[DESCS_MAX][RPL_STREAM_PAGE];
	const void *where[DESCS_MAX];
	uint64_t descs[DESCS_MAX];
	uint32_t n = 1 + (uint32_t)(make_random(&m->rnd) % m->plan->pages);
	uint64_t pfn = make_random(&m->rnd) % 64;

	for (uint32_t i = 0; i < n; i++) {
		unsigned type = random_type(m);

		pfn += 1 + make_random(&m->rnd) % 3; /* ascending: none twice */
		descs[i] = rpl_desc(pfn, type);
		where[i] = pages[i];
		if (!rpl_page_type_has_data(type))
			continue;
		fill_page(m, pages[i], type);
		m->res->sum = make_sum(m->res->sum, pages[i], RPL_STREAM_PAGE);
		m->res->pages++;
	}
	m->res->descs += n;
	rpl_stream_put_page_data(m->o, descs, n, where);
	end_record(m);
}

/* What every vCPU's context names, start_info and the top-level page table, and the p2m's frames. */
static void pv_named_pages(struct maker *m)
{
	static const uint8_t empty[RPL_STREAM_PAGE];
	bool wide = m->plan->guest == MAKE_PV64;
	const void *where[4] = { empty, empty, empty, empty };
	uint64_t descs[4] = { START_INFO_PFN, rpl_desc(TOP_TABLE_PFN, wide ? 0xc : 0xb), P2M_PFN, P2M_PFN + 1 };
	uint32_t n = wide ? 4 : 3;

	if (!m->pv || m->plan->bare)
		return;
	rpl_stream_put_page_data(m->o, descs, n, where);
	for (uint32_t i = 0; i < n; i++)
		m->res->sum = make_sum(m->res->sum, empty, sizeof(empty));
	m->res->pages += n;
	m->res->descs += n;
	end_record(m);
}

/* A context of random bytes, but for the frames that it names. */
static void pv_basic(struct maker *m, uint8_t *buf, uint32_t len)
{
	bool wide = m->plan->guest == MAKE_PV64;
	uint64_t zero = 0, start_info = START_INFO_PFN, cr3 = TOP_TABLE_PFN << 12;

	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)make_random(&m->rnd);
	memcpy(buf + (wide ? 4960 : 2704), &zero, wide ? 8 : 4); /* no GDT */
	memcpy(buf + (wide ? 616 : 524), &start_info, wide ? 8 : 4);
	memcpy(buf + (wide ? 4984 + 24 : 2716 + 12), &cr3, wide ? 8 : 4);
	memcpy(buf + (wide ? 4984 + 8 : 2716 + 4), &zero, wide ? 8 : 4);
	m->res->sum = make_sum(m->res->sum, buf, len);
}

static void pv_tail(struct maker *m)
{
	uint8_t buf[RPL_PV_BASIC_64];
	uint32_t basic = m->plan->guest == MAKE_PV64 ? RPL_PV_BASIC_64 : RPL_PV_BASIC_32;

	blob(m, buf, RPL_STREAM_PAGE);
	rpl_stream_put_record(m->o, RPL_LIBXC_SHARED_INFO, buf, RPL_STREAM_PAGE);
	end_record(m);
	for (uint32_t v = 0; v < m->plan->vcpus; v++) {
		struct { uint32_t index, zero; uint64_t value; } msr = { 0xc0000103u + v, 0, make_random(&m->rnd) };

		pv_basic(m, buf, basic);
		rpl_stream_put_vcpu(m->o, RPL_LIBXC_X86_PV_VCPU_BASIC, v, buf, basic);
		blob(m, buf, 128);
		rpl_stream_put_vcpu(m->o, RPL_LIBXC_X86_PV_VCPU_EXTENDED, v, buf, 128);
		blob(m, buf, 16 + 27);
		rpl_stream_put_vcpu(m->o, RPL_LIBXC_X86_PV_VCPU_XSAVE, v, buf, 16 + 27);
		m->res->sum = make_sum(m->res->sum, &msr, sizeof(msr));
		rpl_stream_put_vcpu(m->o, RPL_LIBXC_X86_PV_VCPU_MSRS, v, &msr, sizeof(msr));
		m->res->records += 4;
	}
}

/* One entry of an HVM context. */
static void hvm_entry(struct rpl_out *o, uint16_t code, uint16_t instance, const void *data, uint32_t len)
{
	rpl_out_le16(o, code);
	rpl_out_le16(o, instance);
	rpl_out_le32(o, len);
	rpl_out_bytes(o, data, len);
}

static void hvm_tail(struct maker *m)
{
	static const struct rpl_stream_param params[] = { { 1, 0xfeffc }, { 5, 0xfeffd }, { 17, 0xfeffe } };
	uint8_t ctx[8192], cpu[1032] = { [RPL_HVM_CPU_RIP] = 0x78, [RPL_HVM_CPU_RIP + 1] = 0x56 };
	struct rpl_out o = rpl_out(ctx, sizeof(ctx));
	struct { uint32_t magic, version; uint64_t changeset; uint32_t cpuid, khz; } head = {
		0x54381286, 1, 0, 0x306c3, 2400000 };

	hvm_entry(&o, 1, 0, &head, sizeof(head));
	for (unsigned v = 0; v < m->plan->vcpus; v++)
		hvm_entry(&o, 2, (uint16_t)v, cpu, sizeof(cpu));
	hvm_entry(&o, 0, 0, NULL, 0);
	rpl_stream_put_hvm_params(m->o, params, RPL_ARRAY_LEN(params));
	m->res->sum = make_sum(m->res->sum, params, sizeof(params));
	rpl_stream_put_record(m->o, RPL_LIBXC_HVM_CONTEXT, ctx, (uint32_t)o.len);
	m->res->sum = make_sum(m->res->sum, ctx, o.len);
	m->res->records += 2;
}

static void memory_and_tail(struct maker *m)
{
	struct rpl_stream_tsc tsc = { .khz = 2400000, .nsec = make_random(&m->rnd) };

	pv_named_pages(m);
	for (unsigned i = 0; i < m->plan->records; i++)
		page_data(m);
	rpl_stream_put_tsc(m->o, &tsc);
	end_record(m);
	if (m->pv)
		pv_tail(m);
	else
		hvm_tail(m);
}

static void emulator(struct maker *m)
{
	static const char keys[] = "physmap/f0000000/size\0" "800000";
	uint8_t state[700];

	if (m->plan->guest != MAKE_HVM || m->plan->format == RPL_FORMAT_LIBXC)
		return;
	rpl_stream_put_emulator_head(m->o, RPL_LIBXL_EMULATOR_XENSTORE_DATA, RPL_EMULATOR_QEMU, sizeof(keys));
	rpl_out_bytes(m->o, keys, sizeof(keys));
	rpl_stream_put_padding(m->o, sizeof(keys));
	m->res->sum = make_sum(m->res->sum, keys, sizeof(keys));
	rpl_stream_put_emulator_head(m->o, RPL_LIBXL_EMULATOR_CONTEXT, RPL_EMULATOR_QEMU, sizeof(state) - 3);
	blob(m, state, sizeof(state) - 3);
	rpl_out_bytes(m->o, state, sizeof(state) - 3);
	rpl_stream_put_padding(m->o, sizeof(state) - 3);
	m->res->records += 2;
}

static void static_part(struct maker *m)
{
	static const uint32_t leaves[] = { 0, 0xffffffff, 0xd, 0x756e6547, 0x6c65746e, 0x49656e69,
					   1, 0xffffffff, 0x306c3, 0, 0, 0 };
	static const struct { uint32_t index, flags; uint64_t value; } msrs[] = { { 0xce, 0, 1u << 31 } };

	if (m->pv) {
		rpl_stream_put_pv_info(m->o, m->plan->guest == MAKE_PV64 ? 8 : 4, m->plan->guest == MAKE_PV64 ? 4 : 3);
		end_record(m);
	}
	if (m->plan->version == RPL_IMAGE_V2)
		return;
	if (m->plan->producer) {
		struct rpl_stream_producer p = { .kind = RPL_PRODUCER_SIM, .n_ranges = 1, .ranges = { { 0, 256, 0 } },
						 .name = "test", .machine = "none" };

		rpl_stream_put_producer(m->o, &p);
		end_record(m);
	}
	rpl_stream_put_record(m->o, RPL_LIBXC_X86_CPUID_POLICY, leaves, sizeof(leaves));
	rpl_stream_put_record(m->o, RPL_LIBXC_X86_MSR_POLICY, msrs, sizeof(msrs));
	m->res->sum = make_sum(m->res->sum, leaves, sizeof(leaves));
	m->res->sum = make_sum(m->res->sum, msrs, sizeof(msrs));
	m->res->records += 2;
	empty_record(m, RPL_LIBXC_STATIC_DATA_END);
}

static void p2m_frames(struct maker *m)
{
	uint32_t fpp = m->plan->guest == MAKE_PV64 ? 512 : 1024, n = (uint32_t)(m->max_pfn / fpp) + 1;
	uint64_t frames[32];

	if (!m->pv)
		return;
	for (uint32_t i = 0; i < n; i++)
		frames[i] = P2M_PFN + i;
	rpl_stream_put_p2m_frames(m->o, 0, (uint32_t)m->max_pfn, frames, n);
	m->res->sum = make_sum(m->res->sum, frames, n * sizeof(frames[0]));
	end_record(m);
}

static void headers(struct maker *m)
{
	static const char config[] = "{\"c_info\": {\"name\": \"test\"}, \"b_info\": {\"max_vcpus\": 3}}";
	struct rpl_stream_domain_header d = { .type = m->pv ? RPL_DOMAIN_PV : RPL_DOMAIN_HVM, .page_shift = 12,
					      .xen_major = 4, .xen_minor = 17 };

	if (m->plan->format == RPL_FORMAT_XL) {
		rpl_stream_put_xl_header(m->o, 3, sizeof(config));
		rpl_out_bytes(m->o, config, sizeof(config));
		m->res->sum = make_sum(m->res->sum, config, sizeof(config));
	}
	if (m->plan->format != RPL_FORMAT_LIBXC) {
		rpl_stream_put_libxl_header(m->o, 0);
		empty_record(m, RPL_LIBXL_LIBXC_CONTEXT);
	}
	if (m->plan->producer)
		d.xen_major = RPL_XEN_MAJOR_NONE;
	rpl_stream_put_image_header(m->o, m->plan->version);
	rpl_stream_put_domain_header(m->o, &d);
}

static void colo_state(struct maker *m)
{
	rpl_stream_put_checkpoint_state(m->o, RPL_COLO_NEW);
	end_record(m);
}

struct make_result make_stream(const struct make_plan *plan, void *buf, size_t cap)
{
	struct make_result res = { 0 };
	struct rpl_out o = rpl_out(buf, cap);
	struct maker m = { .plan = plan, .o = &o, .res = &res, .rnd = plan->seed,
			   .max_pfn = MAX_PFN, .pv = plan->guest == MAKE_PV64 || plan->guest == MAKE_PV32 };
	bool libxl = plan->format != RPL_FORMAT_LIBXC;

	headers(&m);
	static_part(&m);
	p2m_frames(&m);
	for (unsigned i = 0; i < plan->checkpoints; i++) {
		if (i && plan->colo)
			colo_state(&m);
		memory_and_tail(&m);
		empty_record(&m, RPL_LIBXC_CHECKPOINT);
		emulator(&m);
		if (libxl)
			empty_record(&m, RPL_LIBXL_CHECKPOINT_END);
		res.checkpoint_end[i] = o.len;
	}
	if (plan->checkpoints == 0) {
		memory_and_tail(&m);
		empty_record(&m, RPL_LIBXC_END);
		emulator(&m);
		if (libxl)
			empty_record(&m, RPL_LIBXL_END);
	}
	if (o.bad) {
		(void)fprintf(stderr, "make_stream: %zu bytes are too few, or the plan is invalid\n", cap);
		abort();
	}
	res.len = o.len;
	return res;
}

static void count_event(const struct rpl_stream_event *ev, const struct rpl_stream_reader *r, struct make_result *ret)
{
	if (ev->kind == RPL_EV_BODY && ev->rec.layer == RPL_LAYER_LIBXC &&
	    ev->rec.type == (uint32_t)RPL_LIBXC_RPL_PRODUCER)
		return;
	if (ev->kind == RPL_EV_BODY || ev->kind == RPL_EV_PAGES || ev->kind == RPL_EV_XL_CONFIG)
		ret->sum = make_sum(ret->sum, ev->bytes, ev->len);
	if (ev->kind == RPL_EV_PAGES)
		ret->pages += ev->len / RPL_STREAM_PAGE;
	if (ev->kind == RPL_EV_PFNS)
		ret->descs += ev->pfns.count;
	if (ev->kind == RPL_EV_RECORD_END) {
		ret->records++;
		if (r->checkpoints && r->checkpoints <= MAKE_CHECKPOINTS_MAX)
			ret->checkpoint_end[r->checkpoints - 1] = r->good_offset;
	}
}

int make_read_back(const void *buf, size_t len, enum rpl_stream_format format, size_t span,
		   struct rpl_stream_reader *r, struct make_result *ret, struct rpl_err *err)
{
	static uint64_t descs[DESCS_MAX];
	const uint8_t *p = buf;
	int last = 0;

	*ret = (struct make_result){ 0 };
	rpl_stream_reader_init(r, format, descs, DESCS_MAX);
	while (last >= 0 && ret->len < len) {
		size_t n = span && span < len - ret->len ? span : len - ret->len;
		uint8_t *piece = malloc(n); /* its own allocation, so that a sanitizer sees a step outside */
		struct rpl_stream_in in = { piece, n };
		struct rpl_stream_event ev;

		if (!piece)
			abort();
		memcpy(piece, p + ret->len, n);
		while ((last = rpl_stream_next(r, &in, &ev, err)) > 0)
			count_event(&ev, r, ret);
		ret->len += n - in.len;
		free(piece);
	}
	return last;
}
