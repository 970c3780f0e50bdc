/* `replicad save`: a running Xen domain into an xl save file, copied while it runs; only the rest needs it to stand still */
#include "cli.h"
#include "xen_send.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/exit.h>

struct save {
	const char *name, *path;
	char temp[PATH_MAX];
	bool checkpoint, force, quiet;
	struct xen_send_policy policy;
};

static void usage(void)
{
	(void)printf("usage: replicad save [OPTION]... VM FILE\n"
		     "Write a running Xen domain into FILE, which xl restore and replicad restore read, and destroy it.\n"
		     "  -c, --checkpoint    let it run on instead\n"
		     "  -f, --force         replace FILE if it exists\n"
		     "  -n, --rounds N      copy at most N times while it runs (default %d)\n"
		     "  -q, --quiet         no progress\n"
		     "  -h, --help          this text\n", XEN_SEND_ROUNDS);
}

static void show_progress(void *arg, unsigned round, uint64_t done, uint64_t total)
{
	(void)arg;
	if (isatty(STDERR_FILENO))
		(void)fprintf(stderr, "\rround %u: %" PRIu64 " of %" PRIu64 " pages", round, done, total);
}

static void show_report(const struct save *sv, const struct xen_send_report *r)
{
	if (isatty(STDERR_FILENO) && !sv->quiet)
		(void)fprintf(stderr, "\r\033[K");
	(void)printf("%s: saved in %s: %" PRIu64 " bytes, %u rounds, %" PRIu64 " pages, %" PRIu64 " of them paused; "
		     "its own suspend took %" PRIu64 " ms, the rest of the pause %" PRIu64 " ms\n", sv->name, sv->path, r->bytes,
		     r->rounds, r->pages, r->pages_paused, r->suspend_ns / 1000000, r->pause_ns / 1000000);
}

/* The file appears under its name when it is whole. */
static int open_file(struct save *sv, struct rpl_err *err)
{
	int fd;

	if (!sv->force && access(sv->path, F_OK) == 0)
		return rpl_fail(err, -EEXIST, "%.180s exists: --force replaces it", sv->path);
	if ((size_t)snprintf(sv->temp, sizeof(sv->temp), "%s.XXXXXX", sv->path) >= sizeof(sv->temp))
		return rpl_fail(err, -ENAMETOOLONG, "%.180s: the path is too long", sv->path);
	fd = mkostemp(sv->temp, O_CLOEXEC);
	return fd >= 0 ? fd : rpl_fail_errno(err, errno, "make %.180s", sv->temp);
}

static int settle_file(struct save *sv, int fd, struct rpl_err *err)
{
	if (fsync(fd) < 0)
		return rpl_fail_errno(err, errno, "%.180s: write it to the disk", sv->path);
	if (rename(sv->temp, sv->path) < 0)
		return rpl_fail_errno(err, errno, "rename %.100s to %.100s", sv->temp, sv->path);
	sv->temp[0] = '\0';
	return 0;
}

/* From here on the guest is suspended, and the file is whole. */
static int end_guest(const struct save *sv, struct xen_send *s, struct rpl_err *err)
{
	return sv->checkpoint ? xen_send_resume(s, err) : xen_send_destroy(s, err);
}

static int save(struct save *sv, struct rpl_err *err)
{
	RPL_AUTO_FD int fd = open_file(sv, err);
	struct xen_send_report report;
	struct rpl_err undo;
	struct xen_send *s;
	int r;

	if (fd < 0)
		return err->code;
	s = xen_send_open(sv->name, &sv->policy, err);
	r = s ? xen_send_stream(s, fd, &report, err) : err->code;
	if (r == 0) {
		r = settle_file(sv, fd, err);
		if (r < 0)
			(void)xen_send_resume(s, &undo);
	}
	if (r == 0) {
		show_report(sv, &report);
		r = end_guest(sv, s, err);
	}
	xen_send_free(s);
	if (r < 0 && sv->temp[0])
		(void)unlink(sv->temp);
	return r;
}

static int options(struct save *sv, int argc, char **argv)
{
	static const struct option known[] = {
		{ "checkpoint", no_argument, NULL, 'c' }, { "force", no_argument, NULL, 'f' }, { "rounds", required_argument, NULL, 'n' },
		{ "quiet", no_argument, NULL, 'q' }, { "help", no_argument, NULL, 'h' }, { NULL, 0, NULL, 0 },
	};
	json_int_t rounds;
	int c, r;

	while ((c = getopt_long(argc, argv, "cfn:qh", known, NULL)) != -1) {
		switch (c) {
		case 'c':
			sv->checkpoint = true;
			break;
		case 'f':
			sv->force = true;
			break;
		case 'n':
			r = rpl_cli_number("save", "rounds", optarg, 1, XEN_SEND_ROUNDS_MAX, &rounds);
			if (r != RPL_EXIT_DONE)
				return r;
			sv->policy.rounds_max = (unsigned)rounds;
			break;
		case 'q':
			sv->quiet = true;
			break;
		case 'h':
			usage();
			return -1;
		default:
			return rpl_cli_usage("save", "the call is wrong");
		}
	}
	if (optind + 2 != argc)
		return rpl_cli_usage("save", "%d arguments given, expected VM and FILE", argc - optind);
	sv->name = argv[optind];
	sv->path = argv[optind + 1];
	return 0;
}

int rpl_cmd_save(int argc, char **argv)
{
	struct save sv = { .policy = { .rounds_max = XEN_SEND_ROUNDS, .pages_enough = XEN_SEND_PAGES_ENOUGH,
				       .suspend_timeout_ms = XEN_SEND_SUSPEND_MS, .stall_ms = XEN_SEND_STALL_MS } };
	struct rpl_err err = { 0 };
	int r = options(&sv, argc, argv);

	if (r)
		return r < 0 ? RPL_EXIT_DONE : r;
	if (!sv.quiet)
		sv.policy.progress = show_progress;
	(void)signal(SIGPIPE, SIG_IGN);
	r = save(&sv, &err);
	if (r == -ENOTSUP || r == -EEXIST)
		return rpl_cli_fail("save", RPL_EXIT_REFUSED, "%s", err.msg);
	return r < 0 ? rpl_cli_fail("save", RPL_EXIT_FAILED, "%s", err.msg) : RPL_EXIT_DONE;
}
