/* cmd_migrate.c - `replicad migrate`: a running Xen domain to another host, copied while it runs
 *
 *   connect, banner            nothing has happened to the domain
 *   live rounds                it runs
 *   pause, the rest, "ready"   it stands still; any failure up to here lets it run on
 *   "go"                       the point of no return: one write, as a whole or not at all
 *   report                     it runs there: destroyed here. It does not: the far end gives it back. No report: nobody knows
 *
 * In the last case the domain stays as it is, suspended and called NAME--migratedaway, until its operator has looked.
 */
#include "cli.h"
#include "migrate_peer.h"
#include "xl_handshake.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/exit.h>

#include "../guest/xen_standby_xl.h"

#define ROUNDS 10
#define CONNECT_MS 120000  /* to the banner: a password may be asked for */
#define READY_MS 300000    /* devices are attached, page tables pinned */
#define REPORT_MS 120000
#define LINGER_MS 20000    /* for the far end's last words */
#define DOWNTIME_MAX_MS 3600000u
#define COMMAND_MAX 2048

enum outcome { HERE, MOVED, UNKNOWN };
static const char *const outcomes[] = { [HERE] = "here", [MOVED] = "moved", [UNKNOWN] = "unknown" };

struct migrate {
	const char *name, *host, *ssh;
	bool to_replicad, paused, no_monitor, json, quiet, wake;
	char command[COMMAND_MAX];
	struct xen_send_policy policy;
	/* what happened */
	struct xen_send_report report;
	struct migrate_peer peer;
	enum outcome outcome;
	uint64_t ready_ns, over_ns; /* rpl_now_ns(): the far end has built it; it runs there, or here again */
};

static const char help_text[] =
	"usage: replicad migrate [OPTION]... VM HOST\n"
	"       replicad migrate --resume VM\n"
	"Move a running Xen domain to HOST, copied while it runs. The far end is `xl migrate-receive` or `replicad receive`.\n"
	"If anything goes wrong before the domain is handed over, it runs on here.\n\n"
	"  -r, --replicad           the far end runs `replicad receive`\n"
	"  -s, --ssh COMMAND        connect by `COMMAND HOST xl migrate-receive` instead of ssh; '': HOST is the whole command\n"
	"  -d, --max-downtime MS    do not hold the domain for longer than this; rather give up\n"
	"  -n, --max-rounds N       copy at most N times while it runs (default 10)\n"
	"  -p, --paused             leave it paused on HOST\n"
	"  -e, --no-monitor         leave no xl in the background on HOST\n"
	"      --resume             VM was left suspended, and it is sure that HOST does not have it: run it here again\n"
	"  -j, --json               the outcome as JSON\n"
	"  -q, --quiet              no progress\n"
	"  -h, --help\n\n"
	"exit status: 0 it is on HOST, 1 it is not, or nobody knows (the message says which), 2 usage, 3 refused: it cannot be moved\n\n"
	"examples:\n"
	"  replicad migrate web1 beta\n"
	"  replicad migrate --max-downtime 500 -r web1 beta\n"
	"  replicad migrate -s 'ssh -p 2222' web1 beta\n";

/* ---- what is shown */

static void show_progress(void *arg, unsigned round, uint64_t done, uint64_t total)
{
	const struct migrate *m = arg;

	if (isatty(STDERR_FILENO))
		(void)fprintf(stderr, "\r\033[K%s: round %u: %" PRIu64 " of %" PRIu64 " pages", m->name, round, done, total);
	else if (done >= total)
		(void)fprintf(stderr, "%s: round %u: %" PRIu64 " pages\n", m->name, round, total);
}

static void show_step(const struct migrate *m, const char *step)
{
	if (!m->quiet)
		(void)fprintf(stderr, "%s%s: %s\n", isatty(STDERR_FILENO) ? "\r\033[K" : "", m->name, step);
}

static uint64_t ms_between(uint64_t from, uint64_t to)
{
	return from && to > from ? (to - from) / RPL_MS : 0;
}

static uint64_t downtime_ms(const struct migrate *m)
{
	return ms_between(m->report.paused_at_ns, m->over_ns);
}

static void print_json(const struct migrate *m, const struct rpl_err *err)
{
	const struct xen_send_report *r = &m->report;
	uint64_t sent = r->paused_at_ns + r->pause_ns;
	json_t *o = json_pack("{s:i, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "v", 1, "vm", m->name, "host", m->host,
			      "outcome", outcomes[m->outcome], "rounds", (json_int_t)r->rounds, "pages", (json_int_t)r->pages,
			      "pages_paused", (json_int_t)r->pages_paused, "bytes", (json_int_t)r->bytes, "live_ms",
			      (json_int_t)(r->live_ns / RPL_MS), "suspend_ms", (json_int_t)(r->suspend_ns / RPL_MS), "stream_ms",
			      (json_int_t)(r->pause_ns / RPL_MS), "ready_ms", (json_int_t)ms_between(r->pause_ns ? sent : 0, m->ready_ns),
			      "handover_ms", (json_int_t)(m->outcome == MOVED ? ms_between(m->ready_ns, m->over_ns) : 0), "downtime_ms",
			      (json_int_t)downtime_ms(m));

	if (err)
		(void)json_object_set_new(o, "error", json_string(err->msg));
	(void)json_dumpf(o, stdout, JSON_INDENT(2));
	(void)putchar('\n');
	json_decref(o);
}

static void print_outcome(const struct migrate *m)
{
	const struct xen_send_report *r = &m->report;

	(void)printf("%s: %s on %s: stood still for %" PRIu64 " ms (the rest of the stream %" PRIu64 ", built there %" PRIu64
		     ", handed over %" PRIu64 "), its own suspend took %" PRIu64 " ms before; %u rounds in %.1f s, %" PRIu64 " pages, %" PRIu64
		     " of them paused, %" PRIu64 " bytes\n", m->name, m->paused ? "paused" : "runs", m->host, downtime_ms(m),
		     r->pause_ns / RPL_MS, ms_between(r->paused_at_ns + r->pause_ns, m->ready_ns), ms_between(m->ready_ns, m->over_ns),
		     r->suspend_ns / RPL_MS, r->rounds, (double)r->live_ns / 1e9, r->pages, r->pages_paused, r->bytes);
}

/* ---- the phases */

static int go_back(struct migrate *m, struct xen_send *s, struct rpl_err *err)
{
	struct rpl_err undo;

	if (xen_send_mark_away(s, false, &undo) < 0 || xen_send_resume(s, &undo) < 0)
		return rpl_prefix(err, "the guest could not be resumed (%.60s; `replicad migrate --resume %.40s`); before that", undo.msg,
				  m->name);
	m->over_ns = rpl_now_ns();
	return err->code;
}

/* To the moment at which only one byte order is missing: the domain is suspended on success, runs after a failure. */
static int send(struct migrate *m, struct xen_send *s, struct rpl_err *err)
{
	int r = migrate_peer_expect(&m->peer, s, XL_BANNER, XL_BANNER_LEN, CONNECT_MS, "the receiver's banner", err);

	if (r < 0)
		return r;
	r = xen_send_stream(s, m->peer.to, &m->report, err);
	if (r < 0) {
		m->over_ns = rpl_now_ns();
		return r;
	}
	r = migrate_peer_expect(&m->peer, s, XL_READY, sizeof(XL_READY), READY_MS, "its word that the domain is built", err);
	m->ready_ns = r == 0 ? rpl_now_ns() : 0;
	if (r == 0)
		r = xen_send_mark_away(s, true, err);
	if (r == 0)
		r = xen_send_commit(s, err);
	if (r == 0)
		r = migrate_peer_say_go(&m->peer, err);
	return r < 0 ? go_back(m, s, err) : 0;
}

/* The far end says that it failed: is the domain ours again? */
static int given_back(struct migrate *m, struct xen_send *s, uint8_t status, struct rpl_err *err)
{
	int r = migrate_peer_expect(&m->peer, s, XL_GO, sizeof(XL_GO), REPORT_MS, "the domain back", err);

	if (r < 0)
		return rpl_prefix(err, "the far end could not run the domain (status %u), and did not give it back", status);
	m->outcome = HERE;
	(void)rpl_fail(err, -EREMOTEIO, "%s could not run the domain (status %u); the domain is ours again", m->host, status);
	return go_back(m, s, err);
}

static int hand_over(struct migrate *m, struct xen_send *s, struct rpl_err *err)
{
	uint8_t status;
	int r;

	m->outcome = UNKNOWN;
	r = migrate_peer_expect(&m->peer, s, XL_REPORT, sizeof(XL_REPORT), REPORT_MS, "its report", err);
	if (r == 0)
		r = xen_send_await(s, m->peer.from, REPORT_MS, err);
	if (r < 0)
		return r;
	if (read(m->peer.from, &status, 1) != 1)
		return rpl_fail(err, -EPIPE, "the far end closed the connection before the status");
	if (status)
		return given_back(m, s, status, err);
	m->over_ns = rpl_now_ns();
	m->outcome = MOVED;
	r = xen_send_destroy(s, err);
	return r < 0 ? rpl_prefix(err, "it is on %s, but what is left of it here (%s" XEN_SEND_AWAY ") could not be destroyed", m->host,
				  m->name) : 0;
}

static int migrate(struct migrate *m, struct rpl_err *err)
{
	struct xen_send *s = xen_send_open(m->name, &m->policy, err);
	int r;

	if (!s)
		return err->code;
	r = migrate_peer_start(&m->peer, m->command, err);
	if (r == 0)
		r = send(m, s, err);
	if (r == 0) {
		show_step(m, "handed over");
		r = hand_over(m, s, err);
	}
	migrate_peer_end(&m->peer, LINGER_MS);
	xen_send_free(s);
	return r;
}

/* ---- the call */

/* The command goes to a shell: a host is one word without meaning to it. */
static bool host_is_good(const char *host)
{
	if (*host == '-' || !*host)
		return false;
	for (; *host; host++)
		if (!isalnum((unsigned char)*host) && !strchr("-._:@%[]", *host))
			return false;
	return true;
}

static int make_command(struct migrate *m)
{
	const char *flags = m->paused ? m->no_monitor ? " -e -p" : " -p" : m->no_monitor ? " -e" : "";
	int len;

	if (m->ssh && !*m->ssh) {
		len = snprintf(m->command, sizeof(m->command), "%s", m->host);
	} else if (!host_is_good(m->host)) {
		return rpl_cli_usage("migrate", "'%.60s' is no name of a host", m->host);
	} else {
		len = snprintf(m->command, sizeof(m->command), "exec %s %s %s%s", m->ssh ? m->ssh : "ssh", m->host,
			       m->to_replicad ? "replicad receive" : "xl migrate-receive", flags);
	}
	return (size_t)len < sizeof(m->command) ? 0 : rpl_cli_usage("migrate", "a command of more than %d bytes", COMMAND_MAX - 1);
}

static int number(const char *name, unsigned max, unsigned *ret)
{
	json_int_t n;
	int r = rpl_cli_number("migrate", name, optarg, 1, max, &n);

	if (r == RPL_EXIT_DONE)
		*ret = (unsigned)n;
	return r;
}

enum { OPT_RESUME = 256 };

static int option(struct migrate *m, int c)
{
	switch (c) {
	case 'r':
		m->to_replicad = true;
		return 0;
	case 's':
		m->ssh = optarg;
		return 0;
	case 'd':
		return number("max-downtime", DOWNTIME_MAX_MS, &m->policy.downtime_max_ms);
	case 'n':
		return number("max-rounds", XEN_SEND_ROUNDS_MAX, &m->policy.rounds_max);
	case 'p':
		m->paused = true;
		return 0;
	case 'e':
		m->no_monitor = true;
		return 0;
	case OPT_RESUME:
		m->wake = true;
		return 0;
	case 'j':
		m->json = true;
		return 0;
	case 'q':
		m->quiet = true;
		return 0;
	case 'h':
		(void)fputs(help_text, stdout);
		return -1;
	default:
		return rpl_cli_usage("migrate", "the call is wrong");
	}
}

static int options(struct migrate *m, int argc, char **argv)
{
	static const struct option known[] = {
		{ "replicad", no_argument, NULL, 'r' },           { "ssh", required_argument, NULL, 's' },
		{ "max-downtime", required_argument, NULL, 'd' }, { "max-rounds", required_argument, NULL, 'n' },
		{ "paused", no_argument, NULL, 'p' },             { "no-monitor", no_argument, NULL, 'e' },
		{ "resume", no_argument, NULL, OPT_RESUME },      { "json", no_argument, NULL, 'j' },
		{ "quiet", no_argument, NULL, 'q' },              { "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int c, r;

	while ((c = getopt_long(argc, argv, "rs:d:n:pejqh", known, NULL)) != -1) {
		r = option(m, c);
		if (r)
			return r;
	}
	if (optind + (m->wake ? 1 : 2) != argc)
		return rpl_cli_usage("migrate", "%d arguments given, expected %s", argc - optind, m->wake ? "VM" : "VM and HOST");
	if (m->to_replicad && m->ssh && !*m->ssh)
		return rpl_cli_usage("migrate", "--replicad and --ssh '': the command is HOST, all of it");
	m->name = argv[optind];
	m->host = m->wake ? "" : argv[optind + 1];
	return m->wake ? 0 : make_command(m);
}

/* What a migration without an end left: called by one name or the other. */
static int wake(const struct migrate *m)
{
	char away[XEN_SEND_NAME_MAX + sizeof(XEN_SEND_AWAY)];
	struct rpl_err err = { 0 };
	uint32_t domid;
	int r;

	(void)snprintf(away, sizeof(away), "%.*s" XEN_SEND_AWAY, XEN_SEND_NAME_MAX, m->name);
	if (xl_domid(away, &domid, &err) == 0 && xl_rename(domid, m->name, &err) < 0)
		return rpl_cli_fail("migrate", RPL_EXIT_FAILED, "%s", err.msg);
	r = xen_send_wake(m->name, &err);
	if (r < 0)
		return rpl_cli_fail("migrate", r == -EALREADY ? RPL_EXIT_REFUSED : RPL_EXIT_FAILED, "%s", err.msg);
	(void)printf("%s: runs here again\n", m->name);
	return RPL_EXIT_DONE;
}

static int tell(const struct migrate *m, int r, const struct rpl_err *err)
{
	if (m->json)
		print_json(m, r < 0 ? err : NULL);
	else if (r == 0)
		print_outcome(m);
	if (r == 0)
		return RPL_EXIT_DONE;
	(void)rpl_cli_fail("migrate", 0, "%s%s", err->msg, m->outcome == HERE && m->report.rounds ? "; it runs on here" : "");
	if (m->outcome == UNKNOWN)
		(void)fprintf(stderr, "nobody knows where %s runs. Here it is %s" XEN_SEND_AWAY ", suspended. If %s has it: xl destroy %s"
			      XEN_SEND_AWAY "\nIf it is sure that %s has not: replicad migrate --resume %s\n", m->name, m->name, m->host,
			      m->name, m->host, m->name);
	return r == -ENOTSUP ? RPL_EXIT_REFUSED : RPL_EXIT_FAILED;
}

int rpl_cmd_migrate(int argc, char **argv)
{
	struct migrate m = { .policy = { .rounds_max = ROUNDS, .pages_enough = XEN_SEND_PAGES_ENOUGH, .stall_ms = XEN_SEND_STALL_MS,
					 .suspend_timeout_ms = XEN_SEND_SUSPEND_MS }, .peer = MIGRATE_PEER_NONE };
	struct rpl_err err = { 0 };
	int r = options(&m, argc, argv);

	if (r)
		return r < 0 ? RPL_EXIT_DONE : r;
	(void)signal(SIGPIPE, SIG_IGN);
	if (m.wake)
		return wake(&m);
	m.policy.arg = &m;
	if (!m.quiet)
		m.policy.progress = show_progress;
	return tell(&m, migrate(&m, &err), &err);
}
