/* `replicad stream show`: headers, configuration, records, and per checkpoint what its memory and device state are. */
#include "cli.h"
#include "stream_cli.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>
#include <replicad/auto.h>
#include <replicad/cur.h>

#define PARAMS_MAX 64u /* kept for display, per checkpoint */
#define VCPUS_MAX 64u
#define NAME_SHOWN 256u /* of a text in the stream, with its NUL */
#define PV_PEEK RPL_PV_BASIC_64

struct vcpu_registers {
	uint32_t id;
	uint64_t ip, sp, cr3;
};

struct checkpoint_stats {
	uint64_t records, page_records, descs, zero, bytes, body_bytes;
	uint64_t types[16];
	uint64_t pfn_min, pfn_max;
	uint64_t vcpus, emulator_bytes, store_bytes, hvm_bytes;
	uint64_t hvm_entries[RPL_HVM_CODES + 1], hvm_sizes[RPL_HVM_CODES + 1]; /* the last: types nobody defined */
	bool hvm_bad, tsc_seen;
	struct rpl_stream_tsc tsc;
	unsigned n_params, n_regs;
	struct rpl_stream_param params[PARAMS_MAX];
	struct vcpu_registers regs[VCPUS_MAX];
};

struct show {
	struct stream_run run;
	enum rpl_stream_format format;
	bool json, records, want_pfn;
	uint64_t pfn;
	struct stream_config config;
	struct checkpoint_stats st;
	uint64_t start; /* offset where this checkpoint began */
	struct rpl_hvm_walk hvm;
	const uint64_t *descs;
	uint32_t n_descs, desc_at;
	uint32_t vcpu;
	uint8_t basic[PV_PEEK];
	uint8_t producer[RPL_PRODUCER_MAX];
};

static void usage(void)
{
	(void)printf("usage: replicad stream show [--format xl|libxl|libxc] [--records] [--pages PFN] [--json] FILE|-\n"
		     "What a stream holds; --json prints one object per line. Exit status: 0 shown, 1 the stream is broken (what\n"
		     "came before is shown), 2 usage or I/O.\n");
}

/* One line of text, or one JSON object of the same: `json` is printed in JSON mode, `fmt` else. */
static void line(const struct show *s, const char *json, const char *fmt, ...) RPL_PRINTF(3, 4);
static void line(const struct show *s, const char *json, const char *fmt, ...)
{
	va_list ap;

	if (s->json) {
		(void)printf("%s\n", json);
		return;
	}
	va_start(ap, fmt);
	(void)vprintf(fmt, ap);
	va_end(ap);
	(void)putchar('\n');
}

/* ---- headers and configuration */
/* A text out of the stream, for a terminal: what could steer one becomes '?'. */
static const char *printable(char buf[NAME_SHOWN], const char *text)
{
	size_t i;

	for (i = 0; text && text[i] && i < NAME_SHOWN - 1; i++)
		buf[i] = (unsigned char)text[i] < ' ' || text[i] == 0x7f ? '?' : text[i];
	buf[i] = '\0';
	return text ? buf : "-";
}

static json_int_t number(const json_t *o, const char *key)
{
	return json_integer_value(json_object_get(o, key));
}

static void show_config(struct show *s)
{
	json_t *root = s->config.text ? json_loads(s->config.text, 0, NULL) : NULL, *c = json_object_get(root, "c_info"),
	       *b = json_object_get(root, "b_info");
	const char *name = json_string_value(json_object_get(c, "name")), *type, *uuid;

	if (!s->config.text)
		return;
	type = json_string_value(json_object_get(c, "type"));
	uuid = json_string_value(json_object_get(c, "uuid"));
	if (s->json && root) {
		(void)printf("{\"kind\":\"configuration\",\"config\":");
		(void)json_dumpf(root, stdout, JSON_COMPACT);
		(void)printf("}\n");
	} else if (root) {
		char texts[3][NAME_SHOWN];

		(void)printf("  configuration     %zu bytes: name %s, type %s, uuid %s, %" JSON_INTEGER_FORMAT " vCPUs, "
			     "%" JSON_INTEGER_FORMAT " KiB, %zu disks, %zu nics\n", s->config.len, printable(texts[0], name),
			     printable(texts[1], type), printable(texts[2], uuid), number(b, "max_vcpus"), number(b, "max_memkb"),
			     json_array_size(json_object_get(root, "disks")), json_array_size(json_object_get(root, "nics")));
	} else {
		(void)fprintf(stderr, "replicad stream show: the configuration of %zu bytes is not JSON\n", s->config.len);
	}
	json_decref(root);
	stream_config_fini(&s->config);
}

static void show_header(struct show *s, const struct rpl_stream_event *ev)
{
	char json[200];

	switch ((int)ev->kind) {
	case RPL_EV_XL_HEADER:
		(void)snprintf(json, sizeof(json), "{\"kind\":\"xl_header\",\"offset\":%" PRIu64
			       ",\"mandatory_flags\":%u,\"optional_flags\":%u,\"optional_bytes\":%u}", ev->offset,
			       ev->xl.mandatory_flags, ev->xl.optional_flags, ev->xl.optional_len);
		line(s, json, "xl save-file header: flags 0x%x%s%s, %u bytes of optional data", ev->xl.mandatory_flags,
		     ev->xl.mandatory_flags & RPL_XL_FLAG_JSON ? " JSON" : "",
		     ev->xl.mandatory_flags & RPL_XL_FLAG_STREAM_V2 ? " v2" : " legacy stream", ev->xl.optional_len);
		break;
	case RPL_EV_LIBXL_HEADER:
		show_config(s);
		(void)snprintf(json, sizeof(json), "{\"kind\":\"libxl_header\",\"offset\":%" PRIu64 ",\"options\":%u}",
			       ev->offset, ev->libxl_options);
		line(s, json, "libxl header: version 2, options 0x%x%s", ev->libxl_options,
		     ev->libxl_options & RPL_LIBXL_OPT_LEGACY ? " (converted from a legacy stream)" : "");
		break;
	case RPL_EV_IMAGE_HEADER:
		(void)snprintf(json, sizeof(json), "{\"kind\":\"image_header\",\"offset\":%" PRIu64 ",\"version\":%u}",
			       ev->offset, ev->image_version);
		line(s, json, "libxc image: version %u", ev->image_version);
		break;
	case RPL_EV_DOMAIN_HEADER:
		(void)snprintf(json, sizeof(json), "{\"kind\":\"domain_header\",\"offset\":%" PRIu64
			       ",\"type\":\"%s\",\"xen_major\":%u,\"xen_minor\":%u}", ev->offset,
			       ev->domain.type == RPL_DOMAIN_PV ? "PV" : "HVM", ev->domain.xen_major, ev->domain.xen_minor);
		if (ev->domain.xen_major == RPL_XEN_MAJOR_NONE)
			line(s, json, "  %s guest, made by no Xen", ev->domain.type == RPL_DOMAIN_PV ? "PV" : "HVM");
		else
			line(s, json, "  %s guest, saved by Xen %u.%u%s", ev->domain.type == RPL_DOMAIN_PV ? "PV" : "HVM",
			     ev->domain.xen_major, ev->domain.xen_minor,
			     ev->domain.xen_major == RPL_XEN_MAJOR_CONVERTED ? " (a converter)" : "");
		break;
	case RPL_EV_LEGACY:
		line(s, "{\"kind\":\"legacy\"}", "a legacy stream follows: convert it first");
		break;
	}
}

/* ---- records */
static void show_record(const struct show *s, const struct rpl_stream_event *ev)
{
	const char *layer = rpl_stream_layer_name(ev->rec.layer);
	const char *name = rpl_stream_record_name(ev->rec.layer, ev->rec.type);
	char json[240];

	if (!s->records)
		return;
	(void)snprintf(json, sizeof(json), "{\"kind\":\"record\",\"nr\":%" PRIu64 ",\"offset\":%" PRIu64
		       ",\"layer\":\"%s\",\"type\":%u,\"name\":\"%s\",\"length\":%u,\"checkpoint\":%" PRIu64 "}", ev->rec.nr,
		       ev->rec.offset, layer, ev->rec.type, name, ev->rec.len, s->run.reader.checkpoints);
	line(s, json, "%12" PRIu64 " %6" PRIu64 "  %-5s 0x%08x %-26s %10u", ev->rec.offset, ev->rec.nr, layer, ev->rec.type,
	     name, ev->rec.len);
}

static void static_value(const struct show *s, const struct rpl_stream_event *ev)
{
	char json[200];

	switch ((int)ev->rec.type) {
	case RPL_LIBXC_X86_PV_INFO:
		(void)snprintf(json, sizeof(json), "{\"kind\":\"pv_info\",\"width\":%u,\"levels\":%u}", ev->pv_info.width,
			       ev->pv_info.levels);
		line(s, json, "  PV: %u-bit, %u page-table levels", ev->pv_info.width * 8u, ev->pv_info.levels);
		break;
	case RPL_LIBXC_X86_PV_P2M_FRAMES:
		(void)snprintf(json, sizeof(json), "{\"kind\":\"p2m\",\"first\":%u,\"last\":%u,\"frames\":%u}",
			       ev->p2m.first, ev->p2m.last, (ev->rec.len - 8) / 8);
		line(s, json, "  p2m: pfns 0x%x to 0x%x in %u frames", ev->p2m.first, ev->p2m.last, (ev->rec.len - 8) / 8);
		break;
	case RPL_LIBXC_X86_CPUID_POLICY:
		(void)snprintf(json, sizeof(json), "{\"kind\":\"cpuid_policy\",\"leaves\":%u}", ev->rec.len / 24);
		line(s, json, "  CPUID policy: %u leaves", ev->rec.len / 24);
		break;
	case RPL_LIBXC_X86_MSR_POLICY:
		(void)snprintf(json, sizeof(json), "{\"kind\":\"msr_policy\",\"msrs\":%u}", ev->rec.len / 16);
		line(s, json, "  MSR policy: %u MSRs", ev->rec.len / 16);
		break;
	case RPL_LIBXC_RPL_DIGEST:
		(void)snprintf(json, sizeof(json), "{\"kind\":\"digest\",\"bytes\":%" PRIu64 ",\"xxh3\":\"%016" PRIx64
			       "%016" PRIx64 "\"}", ev->digest.bytes, ev->digest.high, ev->digest.low);
		line(s, json, "  digest: XXH3 %016" PRIx64 "%016" PRIx64 " over %" PRIu64 " bytes", ev->digest.high,
		     ev->digest.low, ev->digest.bytes);
		break;
	}
}

static void begin_record(struct show *s, const struct rpl_stream_event *ev)
{
	struct checkpoint_stats *st = &s->st;

	st->records++;
	st->body_bytes += ev->rec.len;
	show_record(s, ev);
	rpl_hvm_walk_init(&s->hvm);
	if (ev->rec.layer == RPL_LAYER_LIBXL) {
		if (ev->rec.type == RPL_LIBXL_EMULATOR_CONTEXT)
			st->emulator_bytes = ev->rec.len - 8;
		if (ev->rec.type == RPL_LIBXL_EMULATOR_XENSTORE_DATA)
			st->store_bytes = ev->rec.len - 8;
		return;
	}
	switch ((int)ev->rec.type) {
	case RPL_LIBXC_PAGE_DATA:
		st->page_records++;
		break;
	case RPL_LIBXC_X86_PV_VCPU_BASIC:
		st->vcpus++;
		s->vcpu = ev->vcpu;
		break;
	case RPL_LIBXC_X86_TSC_INFO:
		st->tsc = ev->tsc;
		st->tsc_seen = true;
		break;
	case RPL_LIBXC_HVM_CONTEXT:
		st->hvm_bytes = ev->rec.len;
		break;
	default:
		static_value(s, ev);
	}
}

/* ---- memory */
static void on_pfns(struct show *s, const struct rpl_stream_event *ev)
{
	struct checkpoint_stats *st = &s->st;

	for (uint32_t i = 0; i < ev->pfns.count; i++) {
		uint64_t pfn = rpl_desc_pfn(ev->pfns.descs[i]);

		st->types[rpl_desc_type(ev->pfns.descs[i])]++;
		if (st->descs + i == 0 || pfn < st->pfn_min)
			st->pfn_min = pfn;
		if (pfn > st->pfn_max)
			st->pfn_max = pfn;
	}
	st->descs += ev->pfns.count;
	s->descs = ev->pfns.descs;
	s->n_descs = ev->pfns.count;
	s->desc_at = 0;
}

static bool is_zero(const uint8_t *page)
{
	uint64_t v;

	memcpy(&v, page, sizeof(v));
	return v == 0 && memcmp(page, page + sizeof(v), RPL_STREAM_PAGE - sizeof(v)) == 0;
}

static void page_json(const struct show *s, const struct rpl_stream_event *ev, uint64_t desc, const uint8_t *page,
		      uint64_t offset)
{
	bool zero = page && is_zero(page);

	(void)printf("{\"kind\":\"page\",\"pfn\":%" PRIu64 ",\"checkpoint\":%" PRIu64 ",\"record\":%" PRIu64
		     ",\"type\":\"%s\",\"offset\":%" PRIu64 ",\"data\":%s,\"zero\":%s", rpl_desc_pfn(desc),
		     s->run.reader.checkpoints, ev->rec.nr, rpl_stream_page_type_name(rpl_desc_type(desc)), offset,
		     page ? "true" : "false", zero ? "true" : "false");
	if (page && !zero) {
		(void)printf(",\"contents\":\"");
		for (unsigned i = 0; i < RPL_STREAM_PAGE; i++)
			(void)printf("%02x", page[i]);
		(void)putchar('"');
	}
	(void)printf("}\n");
}

static void show_page(const struct show *s, const struct rpl_stream_event *ev, uint64_t desc, const uint8_t *page)
{
	uint64_t offset = page ? ev->offset + (uint64_t)(page - ev->bytes) : 0;

	if (s->json) {
		page_json(s, ev, desc, page, offset);
		return;
	}
	(void)printf("pfn 0x%" PRIx64 ": checkpoint %" PRIu64 " record %" PRIu64 " %s%s\n", rpl_desc_pfn(desc),
		     s->run.reader.checkpoints, ev->rec.nr, rpl_stream_page_type_name(rpl_desc_type(desc)),
		     page ? is_zero(page) ? ", zero" : ", contents:" : ", no data");
	for (unsigned i = 0; page && !is_zero(page) && i < RPL_STREAM_PAGE; i += 16) {
		(void)printf("%12" PRIu64 " ", offset + i);
		for (unsigned k = 0; k < 16; k++)
			(void)printf(" %02x", page[i + k]);
		(void)putchar('\n');
	}
}

/* Descriptors up to the next one with data: those in between have nothing to show but themselves. */
static void pass_dataless(struct show *s, const struct rpl_stream_event *ev)
{
	while (s->desc_at < s->n_descs && !rpl_page_type_has_data(rpl_desc_type(s->descs[s->desc_at]))) {
		if (s->want_pfn && rpl_desc_pfn(s->descs[s->desc_at]) == s->pfn)
			show_page(s, ev, s->descs[s->desc_at], NULL);
		s->desc_at++;
	}
}

static void on_pages(struct show *s, const struct rpl_stream_event *ev)
{
	for (size_t at = 0; at < ev->len; at += RPL_STREAM_PAGE) {
		s->st.zero += is_zero(ev->bytes + at);
		pass_dataless(s, ev);
		if (s->want_pfn && rpl_desc_pfn(s->descs[s->desc_at]) == s->pfn)
			show_page(s, ev, s->descs[s->desc_at], ev->bytes + at);
		s->desc_at++;
	}
}

/* ---- bodies */
static uint64_t field(const uint8_t *bytes, unsigned at, unsigned width)
{
	uint64_t v = 0;

	memcpy(&v, bytes + at, width);
	return v;
}

static void keep_registers(struct show *s, uint32_t id, uint64_t ip, uint64_t sp, uint64_t cr3)
{
	if (s->st.n_regs < VCPUS_MAX)
		s->st.regs[s->st.n_regs++] = (struct vcpu_registers){ id, ip, sp, cr3 };
}

/* user_regs and ctrlreg[3] of vcpu_guest_context, by its length 64-bit or 32-bit. */
static void pv_registers(struct show *s, uint32_t len)
{
	const uint8_t *b = s->basic;

	if (len == RPL_PV_BASIC_64)
		keep_registers(s, s->vcpu, field(b, 648, 8), field(b, 672, 8), field(b, 5008, 8));
	else if (len == RPL_PV_BASIC_32)
		keep_registers(s, s->vcpu, field(b, 548, 4), field(b, 560, 4), field(b, 2728, 4));
}

static void on_hvm(struct show *s, const struct rpl_stream_event *ev)
{
	const uint8_t *p = ev->bytes;
	size_t left = ev->len;
	struct rpl_hvm_entry e;
	int r;

	while (!s->st.hvm_bad && (r = rpl_hvm_walk_next(&s->hvm, &p, &left, &e)) != 0) {
		unsigned code = r > 0 && e.code < RPL_HVM_CODES ? e.code : RPL_HVM_CODES;

		s->st.hvm_bad = r < 0;
		if (r < 0)
			continue;
		s->st.hvm_entries[code]++;
		s->st.hvm_sizes[code] += e.len;
		if (code == RPL_HVM_CPU)
			s->st.vcpus++;
		if (code == RPL_HVM_CPU && e.n_peek == RPL_HVM_PEEK)
			keep_registers(s, e.instance, field(e.peek, RPL_HVM_CPU_RIP, 8), field(e.peek, RPL_HVM_CPU_RSP, 8),
				       field(e.peek, RPL_HVM_CPU_CR3, 8));
	}
}

static void on_body(struct show *s, const struct rpl_stream_event *ev)
{
	struct rpl_cur c = rpl_cur(ev->bytes, ev->len);

	if (ev->rec.layer != RPL_LAYER_LIBXC)
		return;
	if (ev->rec.type == RPL_LIBXC_HVM_CONTEXT)
		on_hvm(s, ev);
	while (ev->rec.type == RPL_LIBXC_HVM_PARAMS && c.left && s->st.n_params < PARAMS_MAX) {
		struct rpl_stream_param *p = &s->st.params[s->st.n_params++];

		p->index = rpl_cur_le64(&c);
		p->value = rpl_cur_le64(&c);
	}
	if (ev->rec.type == RPL_LIBXC_X86_PV_VCPU_BASIC && ev->first + ev->len <= sizeof(s->basic))
		memcpy(s->basic + ev->first, ev->bytes, ev->len);
	if (ev->rec.type == (uint32_t)RPL_LIBXC_RPL_PRODUCER)
		memcpy(s->producer + ev->first, ev->bytes, ev->len);
}

static void show_producer(const struct show *s, const struct rpl_stream_event *ev)
{
	struct rpl_stream_producer p;
	char texts[2][NAME_SHOWN];
	struct rpl_err err;

	if (rpl_stream_get_producer(s->producer, ev->rec.len, &p, &err) < 0) {
		(void)fprintf(stderr, "replicad stream show: %s\n", err.msg);
		return;
	}
	if (s->json) {
		(void)printf("{\"kind\":\"producer\",\"name\":");
		stream_json_string(p.name);
		(void)printf(",\"machine\":");
		stream_json_string(p.machine);
		(void)printf(",\"ranges\":[");
		for (unsigned i = 0; i < p.n_ranges; i++)
			(void)printf("%s{\"pfn\":%" PRIu64 ",\"pages\":%" PRIu64 ",\"offset\":%" PRIu64 "}", i ? "," : "",
				     p.ranges[i].pfn, p.ranges[i].pages, p.ranges[i].offset);
		(void)printf("]}\n");
		return;
	}
	(void)printf("  producer: %s, machine %s\n", printable(texts[0], p.name), printable(texts[1], p.machine));
	for (unsigned i = 0; i < p.n_ranges; i++)
		(void)printf("    RAM: pfn 0x%" PRIx64 ", %" PRIu64 " pages, at byte %" PRIu64 " of the RAM file\n",
			     p.ranges[i].pfn, p.ranges[i].pages, p.ranges[i].offset);
}

/* ---- the end of a checkpoint */
static void checkpoint_json(const struct show *s, const char *how)
{
	const struct checkpoint_stats *st = &s->st;
	bool first = true;

	(void)printf("{\"kind\":\"checkpoint\",\"nr\":%" PRIu64 ",\"end\":\"%s\",\"start\":%" PRIu64 ",\"bytes\":%" PRIu64
		     ",\"records\":%" PRIu64 ",\"page_records\":%" PRIu64 ",\"pfns\":%" PRIu64 ",\"zero_pages\":%" PRIu64
		     ",\"pfn_min\":%" PRIu64 ",\"pfn_max\":%" PRIu64 ",\"vcpus\":%" PRIu64 ",\"emulator_bytes\":%" PRIu64
		     ",\"types\":{", s->run.reader.checkpoints, how, s->start, s->run.reader.offset - s->start, st->records,
		     st->page_records, st->descs, st->zero, st->pfn_min, st->pfn_max, st->vcpus, st->emulator_bytes);
	for (unsigned i = 0; i < 16; i++) {
		if (st->types[i]) {
			(void)printf("%s\"%s\":%" PRIu64, first ? "" : ",", rpl_stream_page_type_name(i), st->types[i]);
			first = false;
		}
	}
	(void)printf("},\"registers\":[");
	for (unsigned i = 0; i < st->n_regs; i++)
		(void)printf("%s{\"vcpu\":%u,\"ip\":%" PRIu64 ",\"sp\":%" PRIu64 ",\"cr3\":%" PRIu64 "}", i ? "," : "",
			     st->regs[i].id, st->regs[i].ip, st->regs[i].sp, st->regs[i].cr3);
	(void)printf("],\"hvm_params\":{");
	for (unsigned i = 0; i < st->n_params; i++)
		(void)printf("%s\"%" PRIu64 "\":%" PRIu64, i ? "," : "", st->params[i].index, st->params[i].value);
	(void)printf("},\"hvm_context\":{");
	first = true;
	for (unsigned i = 0; i < RPL_HVM_CODES; i++) {
		if (st->hvm_entries[i]) {
			(void)printf("%s\"%s\":%" PRIu64, first ? "" : ",", rpl_hvm_entry_def(i)->name, st->hvm_entries[i]);
			first = false;
		}
	}
	(void)printf("}}\n");
}

static void hvm_text(const struct checkpoint_stats *st)
{
	(void)printf("  HVM context: %" PRIu64 " bytes%s:", st->hvm_bytes, st->hvm_bad ? ", BROKEN" : "");
	for (unsigned i = 0; i < RPL_HVM_CODES; i++)
		if (st->hvm_entries[i] > 1)
			(void)printf(" %s x %" PRIu64, rpl_hvm_entry_def(i)->name, st->hvm_entries[i]);
		else if (st->hvm_entries[i])
			(void)printf(" %s", rpl_hvm_entry_def(i)->name);
	if (st->hvm_entries[RPL_HVM_CODES])
		(void)printf(" unknown x %" PRIu64, st->hvm_entries[RPL_HVM_CODES]);
	(void)putchar('\n');
}

static void checkpoint_text(const struct show *s, const char *how)
{
	const struct checkpoint_stats *st = &s->st;

	(void)printf("%s", how);
	if (strcmp(how, "checkpoint") == 0)
		(void)printf(" %" PRIu64, s->run.reader.checkpoints);
	(void)printf(": %" PRIu64 " bytes, %" PRIu64 " records\n", s->run.reader.offset - s->start, st->records);
	(void)printf("  memory: %" PRIu64 " pfns in %" PRIu64 " records", st->descs, st->page_records);
	if (st->descs)
		(void)printf(", 0x%" PRIx64 " to 0x%" PRIx64 ", %" PRIu64 " zero pages", st->pfn_min, st->pfn_max, st->zero);
	(void)printf("\n");
	for (unsigned i = 0; i < 16; i++)
		if (st->types[i])
			(void)printf("    %-14s %10" PRIu64 "\n", rpl_stream_page_type_name(i), st->types[i]);
	if (st->vcpus)
		(void)printf("  vCPUs: %" PRIu64 "\n", st->vcpus);
	for (unsigned i = 0; i < st->n_regs; i++)
		(void)printf("    vCPU %u: ip 0x%" PRIx64 ", sp 0x%" PRIx64 ", cr3 0x%" PRIx64 "\n", st->regs[i].id,
			     st->regs[i].ip, st->regs[i].sp, st->regs[i].cr3);
	if (st->tsc_seen)
		(void)printf("  TSC: mode %u, %u kHz, %" PRIu64 " ns, incarnation %u\n", st->tsc.mode, st->tsc.khz,
			     st->tsc.nsec, st->tsc.incarnation);
	for (unsigned i = 0; i < st->n_params; i++)
		(void)printf("  HVM parameter %2" PRIu64 " %-22s 0x%" PRIx64 "\n", st->params[i].index,
			     rpl_stream_hvm_param_name(st->params[i].index), st->params[i].value);
	if (st->hvm_bytes)
		hvm_text(st);
	if (st->emulator_bytes || st->store_bytes)
		(void)printf("  emulator: %" PRIu64 " bytes of device state, %" PRIu64 " of xenstore data\n",
			     st->emulator_bytes, st->store_bytes);
}

static void checkpoint_over(struct show *s, const char *how)
{
	if (s->json)
		checkpoint_json(s, how);
	else
		checkpoint_text(s, how);
	memset(&s->st, 0, sizeof(s->st));
	s->start = s->run.reader.offset;
}

static void end_record(struct show *s, const struct rpl_stream_event *ev)
{
	bool libxl = ev->rec.layer == RPL_LAYER_LIBXL;

	if (!libxl && ev->rec.type == RPL_LIBXC_PAGE_DATA)
		pass_dataless(s, ev);
	if (!libxl && ev->rec.type == RPL_LIBXC_X86_PV_VCPU_BASIC)
		pv_registers(s, ev->rec.len - 8);
	if (!libxl && ev->rec.type == (uint32_t)RPL_LIBXC_RPL_PRODUCER)
		show_producer(s, ev);
	if ((libxl && ev->rec.type == RPL_LIBXL_CHECKPOINT_END) ||
	    (!libxl && ev->rec.type == RPL_LIBXC_CHECKPOINT && !s->run.reader.has_libxl))
		checkpoint_over(s, "checkpoint");
	if (rpl_stream_ending(&s->run.reader) == RPL_ENDING_COMPLETE)
		checkpoint_over(s, "image");
}

static int on_event(void *ctx, const struct rpl_stream_event *ev)
{
	struct show *s = ctx;

	switch (ev->kind) {
	case RPL_EV_XL_CONFIG:
		stream_config_add(&s->config, ev);
		break;
	case RPL_EV_XL_EXTRA:
		break;
	case RPL_EV_RECORD:
		begin_record(s, ev);
		break;
	case RPL_EV_PFNS:
		on_pfns(s, ev);
		break;
	case RPL_EV_PAGES:
		on_pages(s, ev);
		break;
	case RPL_EV_BODY:
		on_body(s, ev);
		break;
	case RPL_EV_RECORD_END:
		end_record(s, ev);
		break;
	default:
		show_header(s, ev);
	}
	return 0;
}

static int options(struct show *s, int argc, char **argv)
{
	static const struct option longs[] = {
		{ "format", required_argument, NULL, 'f' }, { "records", no_argument, NULL, 'r' },
		{ "pages", required_argument, NULL, 'p' },  { "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },         { NULL, 0, NULL, 0 },
	};
	char *end;
	int o;

	while ((o = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		switch (o) {
		case 'f':
			s->format = stream_format_by_name(optarg);
			if (s->format == RPL_FORMAT_UNKNOWN || s->format == RPL_FORMAT_LEGACY)
				return rpl_cli_usage("stream show", "--format %s: expected xl, libxl or libxc", optarg);
			break;
		case 'r':
			s->records = true;
			break;
		case 'p':
			errno = 0;
			s->pfn = strtoull(optarg, &end, 0);
			s->want_pfn = true;
			if (errno || *end || end == optarg || s->pfn > RPL_STREAM_PFN_MAX)
				return rpl_cli_usage("stream show", "--pages %s: expected a pfn", optarg);
			break;
		case 'j':
			s->json = true;
			break;
		case 'h':
			usage();
			return -1;
		default:
			return rpl_cli_usage("stream show", "the call is wrong");
		}
	}
	if (optind + 1 != argc)
		return rpl_cli_usage("stream show", "%d files given, expected one", argc - optind);
	return 0;
}

static int show(struct show *s, const char *path)
{
	enum rpl_stream_ending e;
	struct rpl_err err;
	int r;

	r = stream_run_open(&s->run, path, s->format, &err);
	if (r < 0)
		return rpl_cli_fail("stream show", STREAM_EXIT_TROUBLE, "%s", err.msg);
	r = stream_run_events(&s->run, on_event, NULL, s, &err);
	stream_input_fini(&s->run.in);
	e = rpl_stream_ending(&s->run.reader);
	if (e != RPL_ENDING_COMPLETE && e != RPL_ENDING_CHECKPOINT)
		checkpoint_over(s, "incomplete");
	if (r < 0)
		return rpl_cli_fail("stream show", r == -EBADMSG ? STREAM_EXIT_FINDINGS : STREAM_EXIT_TROUBLE, "%s", err.msg);
	if (e == RPL_ENDING_CUT || e == RPL_ENDING_NOTHING)
		return rpl_cli_fail("stream show", STREAM_EXIT_FINDINGS, "%s ends inside %s at byte %" PRIu64,
				    s->run.in.name, e == RPL_ENDING_CUT ? "a checkpoint" : "the stream", s->run.in.offset);
	return STREAM_EXIT_CLEAN;
}

int stream_show(int argc, char **argv)
{
	static struct show s;
	int r;

	memset(&s, 0, sizeof(s));
	r = options(&s, argc, argv);
	if (r)
		return r < 0 ? STREAM_EXIT_CLEAN : STREAM_EXIT_TROUBLE;
	r = show(&s, argv[optind]);
	stream_run_fini(&s.run);
	stream_config_fini(&s.config);
	return r;
}
