/* `replicad stream verify`: one line per finding, then one that sums up. */
#include "cli.h"
#include "stream_cli.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>
#include <replicad/auto.h>

#define FINDINGS_MAX 1000u /* lines; all are counted */

struct verify {
	struct stream_run run;
	struct rpl_stream_check check;
	enum rpl_stream_format format;
	bool allow_cut, json, warnings, strict, quiet, want_digest, digest_found;
	uint64_t shown;
	struct stream_config config;
	uint32_t domain_type;
	/* what the configuration says of the guest; 0 and empty: nothing */
	json_int_t max_vcpus;
	char type[8];
	bool pvh_said;
};

static void usage(void)
{
	(void)printf("usage: replicad stream verify [--format xl|libxl|libxc] [--allow-cut] [--digest] [--warnings] [--strict]\n"
		     "                              [--json] [--quiet] FILE|-\n"
		     "One line per finding: offset, record, rule, what was expected and found. Exit status: 0 clean, 1 findings,\n"
		     "2 usage or I/O. Warnings are shown with --warnings and count as findings with --strict.\n");
}

static const char *severity_name(enum rpl_stream_severity s)
{
	return s == RPL_SEV_WARNING ? "warning" : s == RPL_SEV_ERROR ? "error" : "refused";
}

static void print_json(const struct rpl_stream_finding *f)
{
	(void)printf("{\"kind\":\"finding\",\"offset\":%" PRIu64 ",\"rule\":\"%s\",\"severity\":\"%s\",\"checkpoint\":%" PRIu64,
		     f->offset, rpl_stream_rule_def(f->rule)->name, severity_name(f->severity), f->checkpoint);
	if (f->in_record)
		(void)printf(",\"layer\":\"%s\",\"record\":%" PRIu64 ",\"type\":\"%s\"", rpl_stream_layer_name(f->rec.layer),
			     f->rec.nr, rpl_stream_record_name(f->rec.layer, f->rec.type));
	(void)printf(",\"text\":");
	stream_json_string(f->text);
	(void)printf("}\n");
}

static void print_text(const struct rpl_stream_finding *f)
{
	(void)printf("%" PRIu64 ": ", f->offset);
	if (f->in_record)
		(void)printf("%s record %" PRIu64 " %s: ", rpl_stream_layer_name(f->rec.layer), f->rec.nr,
			     rpl_stream_record_name(f->rec.layer, f->rec.type));
	(void)printf("%s%s: %s\n", f->severity == RPL_SEV_WARNING ? "warning " : "", rpl_stream_rule_def(f->rule)->name,
		     f->text);
}

static void report(void *ctx, const struct rpl_stream_finding *f)
{
	struct verify *v = ctx;

	if (v->quiet || (f->severity == RPL_SEV_WARNING && !v->warnings && !v->strict))
		return;
	if (v->shown++ >= FINDINGS_MAX)
		return;
	if (v->json)
		print_json(f);
	else
		print_text(f);
}

static void check_config(struct verify *v, const struct rpl_stream_event *ev)
{
	json_error_t jerr;
	const char *type;
	json_t *root;

	if (!v->config.text)
		return;
	root = json_loads(v->config.text, 0, &jerr);
	if (!json_is_object(root))
		rpl_stream_check_say(&v->check, NULL, ev->offset, RPL_RULE_XL_CONFIG_JSON, "%s",
				     root ? "JSON, but not an object" : jerr.text);
	v->max_vcpus = json_integer_value(json_object_get(json_object_get(root, "b_info"), "max_vcpus"));
	type = json_string_value(json_object_get(json_object_get(root, "c_info"), "type"));
	(void)snprintf(v->type, sizeof(v->type), "%s", type ? type : "");
	json_decref(root);
	stream_config_fini(&v->config);
}

/* libxl builds the domain after the configuration; then libxc refuses an image that is not for such a one. */
static void check_guest(struct verify *v, const struct rpl_stream_event *ev)
{
	bool libxl = ev->rec.layer == RPL_LAYER_LIBXL;

	if (ev->kind == RPL_EV_DOMAIN_HEADER && v->type[0] && (strcmp(v->type, "pv") == 0) != (ev->domain.type == RPL_DOMAIN_PV))
		rpl_stream_check_say(&v->check, ev, ev->offset, RPL_RULE_XL_CONFIG_GUEST,
				     "domain type %u, but the configuration's guest is of type %s", ev->domain.type, v->type);
	if (ev->kind != RPL_EV_RECORD)
		return;
	if (libxl && (ev->rec.type == RPL_LIBXL_EMULATOR_CONTEXT || ev->rec.type == RPL_LIBXL_EMULATOR_XENSTORE_DATA) &&
	    strcmp(v->type, "pvh") == 0 && !v->pvh_said) {
		v->pvh_said = true;
		rpl_stream_check_say(&v->check, ev, ev->rec.offset, RPL_RULE_XL_CONFIG_GUEST,
				     "of a device model, but the configuration's guest is of type pvh and has none");
	}
	if (!libxl && ev->rec.type == RPL_LIBXC_X86_PV_VCPU_BASIC && v->max_vcpus > 0 && ev->vcpu >= v->max_vcpus)
		rpl_stream_check_say(&v->check, ev, ev->rec.offset + 8, RPL_RULE_XL_CONFIG_GUEST,
				     "vCPU %u, but the configuration has %" JSON_INTEGER_FORMAT " (max_vcpus)", ev->vcpu,
				     v->max_vcpus);
}

static void check_digest(struct verify *v, const struct rpl_stream_event *ev)
{
	uint64_t bytes, low, high;

	v->digest_found = true;
	if (!v->run.digest)
		return;
	stream_digest_get(v->run.digest, false, &bytes, &low, &high);
	if (ev->digest.algorithm != RPL_DIGEST_XXH3_128 || ev->digest.bytes != bytes || ev->digest.low != low ||
	    ev->digest.high != high)
		rpl_stream_check_say(&v->check, ev, ev->rec.offset + 8, RPL_RULE_DIGEST,
				     "%016" PRIx64 "%016" PRIx64 " over %" PRIu64 " bytes, found %016" PRIx64 "%016" PRIx64
				     " over %" PRIu64, ev->digest.high, ev->digest.low, ev->digest.bytes, high, low, bytes);
}

static int on_event(void *ctx, const struct rpl_stream_event *ev)
{
	struct verify *v = ctx;

	rpl_stream_check(&v->check, ev);
	if (ev->kind == RPL_EV_PAGES || ev->kind == RPL_EV_BODY) /* nearly all of them */
		return 0;
	if (ev->kind == RPL_EV_XL_CONFIG)
		stream_config_add(&v->config, ev);
	if (ev->kind == RPL_EV_LIBXL_HEADER || ev->kind == RPL_EV_LEGACY)
		check_config(v, ev);
	if (ev->kind == RPL_EV_DOMAIN_HEADER)
		v->domain_type = ev->domain.type;
	check_guest(v, ev);
	if (ev->kind == RPL_EV_RECORD && ev->rec.layer == RPL_LAYER_LIBXC &&
	    ev->rec.type == (uint32_t)RPL_LIBXC_RPL_DIGEST)
		check_digest(v, ev);
	return 0;
}

/* Only page tables of PV guests are looked into, and everything when there is a digest to compute. */
static bool want_pages(void *ctx, const struct rpl_stream_event *ev)
{
	const struct verify *v = ctx;

	if (v->run.digest)
		return true;
	if (v->domain_type != RPL_DOMAIN_PV)
		return false;
	for (uint32_t i = 0; i < ev->pfns.count; i++)
		if (rpl_desc_type(ev->pfns.descs[i]) != RPL_PAGE_NOTAB && rpl_page_type_has_data(rpl_desc_type(ev->pfns.descs[i])))
			return true;
	return false;
}

static int on_refusal(void *ctx, const struct rpl_stream_reader *r, const struct rpl_err *err)
{
	struct verify *v = ctx;

	rpl_stream_check_refused(&v->check, r, err);
	return 1;
}

static const char *ending_text(enum rpl_stream_ending e)
{
	static const char *const texts[] = { "complete", "checkpoint", "cut", "nothing", "refused" };

	return texts[e];
}

static const char *guest_text(uint32_t domain_type)
{
	return domain_type == RPL_DOMAIN_PV ? "PV" : domain_type == RPL_DOMAIN_HVM ? "HVM" : "unknown";
}

static void sum_up(const struct verify *v, bool clean)
{
	const struct rpl_stream_check *c = &v->check;
	const struct rpl_stream_reader *r = &v->run.reader;

	if (v->json) {
		(void)printf("{\"kind\":\"summary\",\"format\":\"%s\",\"guest\":\"%s\",\"clean\":%s,\"errors\":%" PRIu64
			     ",\"warnings\":%" PRIu64 ",\"records\":%" PRIu64 ",\"checkpoints\":%" PRIu64 ",\"bytes\":%" PRIu64
			     ",\"ending\":\"%s\",\"digest\":\"%s\"}\n", stream_format_name(v->run.format),
			     guest_text(v->domain_type), clean ? "true" : "false", c->errors, c->warnings, r->nr,
			     r->checkpoints, v->run.in.offset, ending_text(rpl_stream_ending(r)),
			     !v->digest_found ? "none" : v->run.digest ? "checked" : "not checked");
		return;
	}
	if (v->quiet)
		return;
	if (v->shown > FINDINGS_MAX)
		(void)printf("%" PRIu64 " more findings are not shown\n", v->shown - FINDINGS_MAX);
	(void)printf("%s: %s: %s stream of %s guest, %" PRIu64 " records, %" PRIu64 " complete checkpoints, %" PRIu64
		     " bytes; %" PRIu64 " errors, %" PRIu64 " warnings%s%s\n", v->run.in.name, clean ? "clean" : "NOT clean",
		     stream_format_name(v->run.format), guest_text(v->domain_type), r->nr, r->checkpoints,
		     v->run.in.offset, c->errors, c->warnings,
		     c->warnings && !v->warnings && !v->strict ? " (--warnings shows them)" : "",
		     v->digest_found && !v->run.digest ? "; its digest was not checked (--digest does)" : "");
}

static int options(struct verify *v, int argc, char **argv)
{
	static const struct option longs[] = {
		{ "format", required_argument, NULL, 'f' }, { "allow-cut", no_argument, NULL, 'c' },
		{ "digest", no_argument, NULL, 'd' },       { "warnings", no_argument, NULL, 'w' },
		{ "strict", no_argument, NULL, 's' },       { "json", no_argument, NULL, 'j' },
		{ "quiet", no_argument, NULL, 'q' },        { "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int o;

	while ((o = getopt_long(argc, argv, "hq", longs, NULL)) != -1) {
		switch (o) {
		case 'f':
			v->format = stream_format_by_name(optarg);
			if (v->format == RPL_FORMAT_UNKNOWN || v->format == RPL_FORMAT_LEGACY)
				return rpl_cli_usage("stream verify", "--format %s: expected xl, libxl or libxc", optarg);
			break;
		case 'c':
			v->allow_cut = true;
			break;
		case 'd':
			v->want_digest = true;
			break;
		case 'w':
			v->warnings = true;
			break;
		case 's':
			v->strict = true;
			break;
		case 'j':
			v->json = true;
			break;
		case 'q':
			v->quiet = true;
			break;
		case 'h':
			usage();
			return -1;
		default:
			return rpl_cli_usage("stream verify", "the call is wrong");
		}
	}
	if (optind + 1 != argc)
		return rpl_cli_usage("stream verify", "%d files given, expected one", argc - optind);
	return 0;
}

static int verify(struct verify *v, const char *path)
{
	struct rpl_err err;
	bool clean;
	int r;

	r = stream_run_open(&v->run, path, v->format, &err);
	if (r < 0)
		return rpl_cli_fail("stream verify", STREAM_EXIT_TROUBLE, "%s", err.msg);
	if (v->want_digest)
		v->run.digest = stream_digest_new();
	v->run.want_pages = want_pages;
	rpl_stream_check_init(&v->check, report, v);
	v->check.types = calloc(STREAM_TYPES_MAX / 2, 1); /* touched only where a PV guest has pages */
	v->check.n_types = v->check.types ? STREAM_TYPES_MAX : 0;
	r = stream_run_events(&v->run, on_event, on_refusal, v, &err);
	if (r < 0 && r != -EBADMSG)
		return rpl_cli_fail("stream verify", STREAM_EXIT_TROUBLE, "%s", err.msg);
	if (r == 0)
		rpl_stream_check_end(&v->check, &v->run.reader, v->allow_cut);
	if (v->want_digest && !v->digest_found)
		rpl_stream_check_say(&v->check, NULL, v->run.in.offset, RPL_RULE_DIGEST, "no digest record, expected one");
	clean = v->check.errors == 0 && !(v->strict && v->check.warnings);
	stream_input_fini(&v->run.in);
	sum_up(v, clean);
	return clean ? STREAM_EXIT_CLEAN : STREAM_EXIT_FINDINGS;
}

int stream_verify(int argc, char **argv)
{
	static struct verify v;
	int r;

	memset(&v, 0, sizeof(v));
	r = options(&v, argc, argv);
	if (r)
		return r < 0 ? STREAM_EXIT_CLEAN : STREAM_EXIT_TROUBLE;
	r = verify(&v, argv[optind]);
	stream_digest_free(v.run.digest);
	stream_run_fini(&v.run);
	stream_config_fini(&v.config);
	free(v.check.types);
	return r;
}
