/* A stranger's program: only installed headers, only the installed library. Prints the ABI; with an argument it reads that
 * stream. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <replicad/stream.h>
#include <replicad/stream_check.h>
#include <replicad/stream_convert.h>
#include <replicad/stream_hvm.h>

#define DESCS 1024

static void on_finding(void *ctx, const struct rpl_stream_finding *f)
{
	(void)ctx;
	(void)printf("%s: %s\n", rpl_stream_rule_def(f->rule)->name, f->text);
}

static int read_file(const char *path)
{
	static struct rpl_stream_reader r;
	static struct rpl_stream_check c;
	static uint64_t descs[DESCS];
	static uint8_t buf[65536];
	struct rpl_err err = { 0 };
	FILE *f = fopen(path, "rb");
	uint64_t pages = 0;
	size_t n;
	int ret = 0;

	if (!f)
		return 2;
	rpl_stream_reader_init(&r, RPL_FORMAT_LIBXL, descs, DESCS);
	rpl_stream_check_init(&c, on_finding, NULL);
	while (ret == 0 && (n = fread(buf, 1, sizeof(buf), f)) > 0) {
		struct rpl_stream_in in = { buf, n };
		struct rpl_stream_event ev;

		while ((ret = rpl_stream_next(&r, &in, &ev, &err)) > 0) {
			rpl_stream_check(&c, &ev);
			if (ev.kind == RPL_EV_PAGES)
				pages += ev.len / RPL_STREAM_PAGE;
		}
	}
	(void)fclose(f);
	rpl_stream_check_end(&c, &r, false);
	(void)printf("ending %d, %llu records, %llu pages, %llu errors %s\n", rpl_stream_ending(&r),
		     (unsigned long long)r.nr, (unsigned long long)pages, (unsigned long long)c.errors, err.msg);
	return ret < 0 || c.errors;
}

#define SIZE(t) (void)printf("size %s %zu\n", #t, sizeof(struct t))
#define AT(t, m) (void)printf("offset %s.%s %zu\n", #t, #m, offsetof(struct t, m))
#define VALUE(v) (void)printf("value %s %lld\n", #v, (long long)(v))

static int print_abi(void)
{
	SIZE(rpl_err);
	SIZE(rpl_out);
	SIZE(rpl_stream_domain_header);
	SIZE(rpl_stream_producer);
	SIZE(rpl_stream_tsc);
	SIZE(rpl_stream_param);
	SIZE(rpl_stream_record);
	SIZE(rpl_stream_event);
	SIZE(rpl_stream_in);
	SIZE(rpl_stream_reader);
	SIZE(rpl_stream_finding);
	SIZE(rpl_stream_check);
	SIZE(rpl_stream_convert);
	SIZE(rpl_stream_sink);
	SIZE(rpl_legacy);
	SIZE(rpl_hvm_walk);
	SIZE(rpl_hvm_entry);
	AT(rpl_stream_event, rec);
	AT(rpl_stream_event, bytes);
	AT(rpl_stream_event, pfns);
	AT(rpl_stream_reader, checkpoints);
	AT(rpl_stream_reader, good_offset);
	AT(rpl_stream_reader, rule);
	AT(rpl_stream_finding, text);
	AT(rpl_stream_check, errors);
	VALUE(RPL_FORMAT_LEGACY);
	VALUE(RPL_EV_LEGACY);
	VALUE(RPL_ENDING_REFUSED);
	VALUE(RPL_RULES);
	VALUE(RPL_RULE_LEGACY);
	VALUE(RPL_HVM_CUT);
	return 0;
}

int main(int argc, char **argv)
{
	return argc > 1 ? read_file(argv[1]) : print_abi();
}
