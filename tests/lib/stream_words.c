/* stream_words.h has what this is for. */
#include "stream_words.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <replicad/auto.h>
#include <replicad/stream_check.h>

#define DESCS_MAX 2000

uint8_t stream[STREAM_MAX];
uint8_t *types;

/* ---- words */
static void put_image(struct rpl_out *o, uint32_t version)
{
	rpl_stream_put_image_header(o, version);
}

static void put_domain(struct rpl_out *o, uint32_t type, uint32_t major)
{
	struct rpl_stream_domain_header d = { type, 12, major, 17 };

	rpl_stream_put_domain_header(o, &d);
}

static void put_page(struct rpl_out *o, uint64_t desc)
{
	static uint64_t page[512];
	const void *where = page;

	page[0] = 0x5067; /* as a page table: present, pfn 5 */
	rpl_stream_put_page_data(o, &desc, 1, &where);
}

void put_vcpu(struct rpl_out *o, uint32_t type, uint32_t len)
{
	static const uint8_t zeros[RPL_PV_BASIC_64];

	rpl_stream_put_vcpu(o, type, 0, zeros, len);
}

void put_shared(struct rpl_out *o)
{
	static const uint8_t zeros[RPL_STREAM_PAGE];

	rpl_stream_put_record(o, RPL_LIBXC_SHARED_INFO, zeros, sizeof(zeros));
}

void put_hvm_context(struct rpl_out *o)
{
	uint8_t ctx[64] = { 1, 0, 0, 0, 24, 0, 0, 0, 0x86, 0x12, 0x38, 0x54, 1 };

	rpl_stream_put_record(o, RPL_LIBXC_HVM_CONTEXT, ctx, 8 + 24 + 8); /* HEADER, END */
}

void put_params(struct rpl_out *o)
{
	static const struct rpl_stream_param p = { 17, 0xfeffe };

	rpl_stream_put_hvm_params(o, &p, 1);
}

/* Another one: the pfns that a converter finds behind the first. */
static void put_more_params(struct rpl_out *o)
{
	static const struct rpl_stream_param p[] = { { 5, 0xfeffd }, { 6, 0xfeffb }, { 1, 0xfeffc } };

	rpl_stream_put_hvm_params(o, p, RPL_ARRAY_LEN(p));
}

static void put_emulator(struct rpl_out *o)
{
	rpl_stream_put_emulator_head(o, RPL_LIBXL_EMULATOR_CONTEXT, RPL_EMULATOR_QEMU, 8);
	rpl_out_bytes(o, "QEVMdata", 8);
}

static void put_store(struct rpl_out *o)
{
	rpl_stream_put_emulator_head(o, RPL_LIBXL_EMULATOR_XENSTORE_DATA, RPL_EMULATOR_QEMU, 8);
	rpl_out_bytes(o, "key\0val", 8);
}

static void put_producer(struct rpl_out *o)
{
	struct rpl_stream_producer p = { .kind = RPL_PRODUCER_QEMU, .name = "q", .machine = "m" };

	rpl_stream_put_producer(o, &p);
}

static void put_xl(struct rpl_out *o, const char *config, uint32_t len)
{
	rpl_stream_put_xl_header(o, 3, len);
	rpl_out_bytes(o, config, len);
}

static void put_p2m(struct rpl_out *o)
{
	static const uint64_t frames[] = { 7, 8 };

	rpl_stream_put_p2m_frames(o, 0, 1023, frames, 2);
}

static void put_p2m_32(struct rpl_out *o)
{
	static const uint64_t frame = 7;

	rpl_stream_put_p2m_frames(o, 0, 1023, &frame, 1);
}

static void put_cpuid(struct rpl_out *o)
{
	static const uint32_t leaves[] = { 1, 0xffffffff, 2, 3, 4, 5, 7, 0, 6, 7, 8, 9 };

	rpl_stream_put_record(o, RPL_LIBXC_X86_CPUID_POLICY, leaves, sizeof(leaves));
}

static void put_msrs(struct rpl_out *o)
{
	static const uint64_t msrs[] = { 0xce, 1, 0x10a, 2 };

	rpl_stream_put_record(o, RPL_LIBXC_X86_MSR_POLICY, msrs, sizeof(msrs));
}

static void put_vcpu_msr(struct rpl_out *o)
{
	static const uint64_t msr[] = { 0xc0000103, 7 };

	rpl_stream_put_vcpu(o, RPL_LIBXC_X86_PV_VCPU_MSRS, 0, msr, sizeof(msr));
}

/* HEADER, LAPIC of vCPU 0, END. */
static void put_hvm_lapic(struct rpl_out *o)
{
	uint8_t ctx[8 + 24 + 8 + 24 + 8] = { 1, 0, 0, 0, 24, 0, 0, 0, 0x86, 0x12, 0x38, 0x54, 1, [32] = 5, [36] = 24 };

	rpl_stream_put_record(o, RPL_LIBXC_HVM_CONTEXT, ctx, sizeof(ctx));
}

static void put_xl_more(struct rpl_out *o)
{
	rpl_stream_put_xl_header(o, 3, 3);
	rpl_out_bytes(o, "{}\0more", 7);
	o->p[44] = 11; /* 4 of the length, 3 of the configuration, 4 more */
}

static void put_xl_empty(struct rpl_out *o)
{
	rpl_stream_put_xl_header(o, 3, 0);
	rpl_out_le32(o, 0);
	o->p[44] = 4; /* the length of the configuration is all there is */
}

static void put_zeros(struct rpl_out *o, size_t n)
{
	while (n--)
		rpl_out_u8(o, 0);
}

static size_t put_hex(struct rpl_out *o, const char *hex)
{
	size_t start = o->len;

	for (; *hex && *hex != ' '; hex += 2) {
		unsigned v;

		assert_int_equal(sscanf(hex, "%2x", &v), 1);
		rpl_out_u8(o, (uint8_t)v);
	}
	return o->len - start;
}

static void patch(struct rpl_out *o, const char *word)
{
	char *hex;
	size_t at = strtoul(word, &hex, 10);
	struct rpl_out there = rpl_out(o->p + at, o->len - at);

	assert_int_equal(*hex, '=');
	(void)put_hex(&there, hex + 1);
	assert_false(there.bad);
}

bool is_word(const char *word, const char *name)
{
	size_t n = strlen(name);

	return strncmp(word, name, n) == 0 && (word[n] == ' ' || word[n] == '\0');
}

static bool libxl_word(struct rpl_out *o, const char *w)
{
	if (is_word(w, "XL"))
		put_xl(o, "{}", 3);
	else if (is_word(w, "XLn"))
		put_xl(o, "{}", 2);
	else if (is_word(w, "XL0"))
		put_xl_empty(o);
	else if (is_word(w, "XLx"))
		put_xl_more(o);
	else if (is_word(w, "CS"))
		rpl_stream_put_checkpoint_state(o, RPL_COLO_NEW);
	else if (is_word(w, "L"))
		rpl_stream_put_libxl_header(o, 0);
	else if (is_word(w, "LX"))
		rpl_stream_put_record(o, RPL_LIBXL_LIBXC_CONTEXT, NULL, 0);
	else if (is_word(w, "LE"))
		rpl_stream_put_record(o, RPL_LIBXL_END, NULL, 0);
	else if (is_word(w, "LC"))
		rpl_stream_put_record(o, RPL_LIBXL_CHECKPOINT_END, NULL, 0);
	else if (is_word(w, "EM"))
		put_emulator(o);
	else if (is_word(w, "ES"))
		put_store(o);
	else
		return false;
	return true;
}

static bool head_word(struct rpl_out *o, const char *w)
{
	if (is_word(w, "I3"))
		put_image(o, 3);
	else if (is_word(w, "I2"))
		put_image(o, 2);
	else if (is_word(w, "DH"))
		put_domain(o, RPL_DOMAIN_HVM, 4);
	else if (is_word(w, "DQ"))
		put_domain(o, RPL_DOMAIN_HVM, RPL_XEN_MAJOR_NONE);
	else if (is_word(w, "DP"))
		put_domain(o, RPL_DOMAIN_PV, 4);
	else if (is_word(w, "PR"))
		put_producer(o);
	else if (is_word(w, "V8"))
		rpl_stream_put_pv_info(o, 8, 4);
	else if (is_word(w, "V4"))
		rpl_stream_put_pv_info(o, 4, 3);
	else if (is_word(w, "S"))
		rpl_stream_put_record(o, RPL_LIBXC_STATIC_DATA_END, NULL, 0);
	else if (is_word(w, "F"))
		put_p2m(o);
	else if (is_word(w, "F4"))
		put_p2m_32(o);
	else if (is_word(w, "CP"))
		put_cpuid(o);
	else if (is_word(w, "MP"))
		put_msrs(o);
	else
		return false;
	return true;
}

static bool record_word(struct rpl_out *o, const char *w)
{
	if (is_word(w, "P"))
		put_page(o, 1);
	else if (is_word(w, "P4"))
		put_page(o, rpl_desc(1, 4));
	else if (is_word(w, "T"))
		rpl_stream_put_tsc(o, &(struct rpl_stream_tsc){ .khz = 1 });
	else if (is_word(w, "SI"))
		put_shared(o);
	else if (is_word(w, "B8"))
		put_vcpu(o, RPL_LIBXC_X86_PV_VCPU_BASIC, RPL_PV_BASIC_64);
	else if (is_word(w, "B4"))
		put_vcpu(o, RPL_LIBXC_X86_PV_VCPU_BASIC, RPL_PV_BASIC_32);
	else if (is_word(w, "X"))
		put_vcpu(o, RPL_LIBXC_X86_PV_VCPU_XSAVE, 16);
	else if (is_word(w, "XT"))
		put_vcpu(o, RPL_LIBXC_X86_PV_VCPU_EXTENDED, 128);
	else if (is_word(w, "MS"))
		put_vcpu_msr(o);
	else if (is_word(w, "HL"))
		put_hvm_lapic(o);
	else if (is_word(w, "HP"))
		put_params(o);
	else if (is_word(w, "HP2"))
		put_more_params(o);
	else if (is_word(w, "HC"))
		put_hvm_context(o);
	else if (is_word(w, "Z4096"))
		put_zeros(o, 4096);
	else if (is_word(w, "VF"))
		rpl_stream_put_record(o, RPL_LIBXC_VERIFY, NULL, 0);
	else if (is_word(w, "C"))
		rpl_stream_put_record(o, RPL_LIBXC_CHECKPOINT, NULL, 0);
	else if (is_word(w, "E"))
		rpl_stream_put_record(o, RPL_LIBXC_END, NULL, 0);
	else
		return false;
	return true;
}

size_t build(const char *words)
{
	struct rpl_out o = rpl_out(stream, sizeof(stream));

	for (const char *w = words; w; w = strchr(w, ' ')) {
		w += *w == ' ';
		if (strncmp(w, "x:", 2) == 0)
			(void)put_hex(&o, w + 2);
		else if (*w == '@')
			patch(&o, w + 1);
		else if (!libxl_word(&o, w) && !head_word(&o, w) && !record_word(&o, w))
			fail_msg("unknown word at '%s'", w);
	}
	assert_false(o.bad);
	return o.len;
}

const struct clean_stream clean_streams[] = {
	{ XC, HVM }, { XC, PV }, { XLI, LIBXL }, { XLI, "L LX " PV " LE" },
	{ XC, "I2 DH P T HP HC E" }, { XC, "I2 DP V8 F P T SI B8 E" },
	{ XC, "I3 DP V4 S F4 P SI B4 E" },
	{ XC, "I3 DP V8 S x:0300000018000000" "00000000ff030000" "ff03000000000000" "0000000000000000 P SI B8 E" }, /* the last pfn */
	{ XL, "XL " LIBXL }, { XL, "XLx " LIBXL }, /* with optional data that nobody knows */
	{ XC, "I3 DH CP MP S P T HP HL E" },
	{ XC, "I3 DP V8 CP MP S F P T SI B8 XT X MS E" },
	{ XC, "I3 DH S P T HP HC C T HP HC C" }, /* the second checkpoint has no pages */
	{ XLI, "L LX I3 DH S P T HP HC C ES EM LC P T HP HC C ES EM LC" },
	{ XLI, "L LX I3 DH S P T HP HC C EM LC CS P T HP HC C EM LC" },
	{ XLI, "L LX I3 DQ PR S P C EM LC" },
	{ XC, "I3 DH S P VF P T HP HC E" },
};
const size_t n_clean_streams = RPL_ARRAY_LEN(clean_streams);

/* ---- running the checker */
static void on_finding(void *ctx, const struct rpl_stream_finding *f)
{
	struct seen *s = ctx;

	if (!s->count[f->rule])
		s->at[f->rule] = f->offset;
	if (!s->total++)
		(void)snprintf(s->first, sizeof(s->first), "%s: %.200s", rpl_stream_rule_def(f->rule)->name, f->text);
	s->count[f->rule]++;
	assert_int_equal(f->severity, rpl_stream_rule_def(f->rule)->severity);
}

struct seen judge(enum rpl_stream_format format, size_t len, bool allow_cut)
{
	static struct rpl_stream_reader r;
	static struct rpl_stream_check c;
	static uint64_t descs[DESCS_MAX];
	struct rpl_stream_in in = { stream, len };
	struct rpl_stream_event ev;
	struct rpl_err err;
	struct seen seen = { 0 };
	int ret;

	rpl_stream_reader_init(&r, format, descs, DESCS_MAX);
	rpl_stream_check_init(&c, on_finding, &seen);
	c.types = types;
	c.n_types = types ? 1024 : 0;
	do {
		while ((ret = rpl_stream_next(&r, &in, &ev, &err)) > 0)
			rpl_stream_check(&c, &ev);
		if (ret < 0)
			rpl_stream_check_refused(&c, &r, &err);
	} while (ret < 0 && rpl_stream_skip_record(&r) == 0);
	if (ret == 0)
		rpl_stream_check_end(&c, &r, allow_cut);
	assert_int_equal(seen.total, c.errors + c.warnings);
	seen.errors = c.errors;
	return seen;
}
