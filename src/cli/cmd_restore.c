/* `replicad restore`: a saved domain, verified whole before anything is created, goes to `xl restore`. */
#include "cli.h"
#include "stream_cli.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/exit.h>

#include "../guest/xen_standby_xl.h"

#define COPY_BYTES (256u << 10)

struct restore {
	/* wishes */
	char config[PATH_MAX]; /* absolute; "": the one in the file */
	bool paused, no_monitor;
	/* what verifying found */
	struct stream_run run;
	struct rpl_stream_check check;
	struct rpl_err bad;
	bool has_config, json, foreign, checkpointed;
};

static void usage(void)
{
	(void)printf("usage: replicad restore [--config XLCFG] [--paused] [--no-monitor] FILE\n"
		     "Verifies what `replicad save` or `xl save` wrote, then has xl build the domain from it.\n"
		     "  -C, --config XLCFG  this xl configuration instead of the one in FILE\n"
		     "  -p, --paused        leave the domain paused\n"
		     "  -e, --no-monitor    leave no xl behind that carries out on_poweroff, on_reboot and on_crash\n"
		     "  -h, --help          this text\n");
}

/* ---- verifying */

static void on_finding(void *ctx, const struct rpl_stream_finding *f)
{
	struct restore *rs = ctx;

	if (f->severity != RPL_SEV_WARNING && !rs->bad.code)
		(void)rpl_fail(&rs->bad, -EBADMSG, "byte %" PRIu64 ": %s: %.150s", f->offset,
			       rpl_stream_rule_def(f->rule)->name, f->text);
}

static int on_event(void *ctx, const struct rpl_stream_event *ev)
{
	struct restore *rs = ctx;

	rpl_stream_check(&rs->check, ev);
	if (ev->kind == RPL_EV_XL_HEADER) {
		rs->has_config = ev->xl.config_len > 0;
		rs->json = ev->xl.mandatory_flags & RPL_XL_FLAG_JSON;
	}
	if (ev->kind == RPL_EV_DOMAIN_HEADER)
		rs->foreign = ev->domain.xen_major == RPL_XEN_MAJOR_NONE;
	if (ev->kind == RPL_EV_RECORD && ev->rec.layer == RPL_LAYER_LIBXC && ev->rec.type == RPL_LIBXC_CHECKPOINT)
		rs->checkpointed = true;
	return 0;
}

static int on_refusal(void *ctx, const struct rpl_stream_reader *r, const struct rpl_err *err)
{
	struct restore *rs = ctx;

	rpl_stream_check_refused(&rs->check, r, err);
	return 0;
}

/* Why this file is not for Xen, or not yet; NULL if it is. */
static const char *other_kind(const struct restore *rs)
{
	if (rs->run.format != RPL_FORMAT_XL && rs->run.format != RPL_FORMAT_LIBXL)
		return "neither an xl save file nor a libxl stream: `replicad stream convert --to xl` makes one";
	if (rs->foreign)
		return "the guest was not Xen's: no Xen can restore it";
	if (rs->checkpointed)
		return "a checkpointed stream: `replicad stream convert --checkpoint last` makes a plain one";
	if (!*rs->config && !rs->has_config)
		return "it brings no configuration: give one with --config";
	return NULL;
}

static int verify(struct restore *rs, const char *path, struct rpl_err *err)
{
	int r = stream_run_open(&rs->run, path, RPL_FORMAT_UNKNOWN, err);

	if (r < 0)
		return r;
	if (rs->run.in.size == 0)
		return rpl_fail(err, -EINVAL, "%.150s: not a regular file, or empty: it is read twice", path);
	rpl_stream_check_init(&rs->check, on_finding, rs);
	rs->check.types = calloc(STREAM_TYPES_MAX / 2, 1); /* touched only where a PV guest has pages */
	rs->check.n_types = rs->check.types ? STREAM_TYPES_MAX : 0;
	r = stream_run_events(&rs->run, on_event, on_refusal, rs, err);
	if (r < 0 && r != -EBADMSG)
		return r;
	if (r == 0)
		rpl_stream_check_end(&rs->check, &rs->run.reader, false);
	if (other_kind(rs))
		return rpl_fail(err, -EINVAL, "%.120s: %s", path, other_kind(rs));
	if (rs->bad.code) {
		*err = rs->bad;
		(void)rpl_prefix(err, "%.80s: %" PRIu64 " errors (`replicad stream verify` lists them), the first at", path,
				 rs->check.errors);
		return err->code;
	}
	return 0;
}

/* ---- restoring */

static int feed_header(struct xl_run *xl, struct rpl_err *err)
{
	uint8_t buf[RPL_XL_HEADER];
	struct rpl_out o = rpl_out(buf, sizeof(buf));

	rpl_stream_put_xl_header(&o, RPL_XL_FLAG_STREAM_V2, 0);
	rpl_assert(!o.bad);
	return xl_feed(xl, buf, o.len, err);
}

static int feed_file(struct restore *rs, struct xl_run *xl, struct rpl_err *err)
{
	RPL_AUTO_FREE uint8_t *buf = malloc(COPY_BYTES);
	int r = 0;

	if (!buf)
		return rpl_fail(err, -ENOMEM, "no memory for %u bytes", COPY_BYTES);
	if (rs->run.format == RPL_FORMAT_LIBXL)
		r = feed_header(xl, err);
	for (off_t at = 0; r == 0;) {
		ssize_t n = pread(rs->run.in.fd, buf, COPY_BYTES, at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return rpl_fail_errno(err, errno, "read %s at byte %lld", rs->run.in.name, (long long)at);
		if (n == 0)
			break;
		r = xl_feed(xl, buf, (size_t)n, err);
		at += n;
	}
	return r;
}

static int restore(struct restore *rs, struct rpl_err *err)
{
	char *argv[8];
	struct rpl_err fed = { 0 };
	RPL_AUTO_FREE char *said = NULL;
	struct xl_run xl;
	int n = 0, r, r_fed;

	argv[n++] = (char *)"xl";
	argv[n++] = (char *)"restore";
	if (rs->paused)
		argv[n++] = (char *)"-p";
	if (rs->no_monitor)
		argv[n++] = (char *)"-e";
	if (*rs->config)
		argv[n++] = rs->config;
	argv[n++] = (char *)XL_STDIN;
	argv[n] = NULL;
	r = xl_start(&xl, argv, true, err);
	if (r < 0)
		return r;
	r_fed = feed_file(rs, &xl, &fed);
	r = xl_end(&xl, &said, err);
	if (r < 0 && said)
		(void)fprintf(stderr, "%s\n", said);
	if (r == 0 && r_fed < 0)
		*err = fed;
	return r < 0 ? r : r_fed;
}

static int options(struct restore *rs, int argc, char **argv)
{
	static const struct option longs[] = {
		{ "config", required_argument, NULL, 'C' }, { "paused", no_argument, NULL, 'p' },
		{ "no-monitor", no_argument, NULL, 'e' },   { "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int o;

	while ((o = getopt_long(argc, argv, "C:peh", longs, NULL)) != -1) {
		switch (o) {
		case 'C':
			if (!realpath(optarg, rs->config))
				return rpl_cli_usage("restore", "--config %s: %s", optarg, strerror(errno));
			break;
		case 'p':
			rs->paused = true;
			break;
		case 'e':
			rs->no_monitor = true;
			break;
		case 'h':
			usage();
			return -1;
		default:
			return rpl_cli_usage("restore", "the call is wrong");
		}
	}
	if (optind + 1 != argc)
		return rpl_cli_usage("restore", "%d files given, expected one", argc - optind);
	return 0;
}

static int run(struct restore *rs, const char *path)
{
	struct rpl_err err = { 0 };
	int r;

	(void)signal(SIGPIPE, SIG_IGN);
	r = verify(rs, path, &err);
	if (r < 0)
		return rpl_cli_fail("restore", r == -EINVAL || r == -EBADMSG ? RPL_EXIT_REFUSED : RPL_EXIT_FAILED, "%s", err.msg);
	r = restore(rs, &err);
	return r == 0 ? RPL_EXIT_DONE : rpl_cli_fail("restore", RPL_EXIT_FAILED, "%s", err.msg);
}

int rpl_cmd_restore(int argc, char **argv)
{
	struct restore *rs = calloc(1, sizeof(*rs));
	int r;

	if (!rs)
		return rpl_cli_fail("restore", RPL_EXIT_FAILED, "no memory");
	r = options(rs, argc, argv);
	if (r == 0)
		r = run(rs, argv[optind]);
	else if (r < 0)
		r = RPL_EXIT_DONE;
	stream_run_fini(&rs->run);
	free(rs->check.types);
	free(rs);
	return r;
}
