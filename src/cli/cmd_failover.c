/* cmd_failover.c - `replicad failover` and `replicad solo`: ask, then follow the events until the outcome is known
 *
 * The events are followed before anything is asked, so that none is missed. What counts is the state that the VM's
 * keeper reaches; a command that ends too early undoes nothing, and says so.
 */
#include "config.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <replicad/clock.h>

#include "show.h"

#define TIMEOUT_S 60         /* default; claims, and the time in which a switchover is given up, are bounded themselves */
#define TIMEOUT_MAX_S 86400
#define ASK_TIMEOUT_MS 20000
#define BLACKOUT_WAIT_MS 10000 /* the other node says what it cost when it calls as the new primary */

static const char failover_help[] =
	"usage: replicad failover [OPTION]... VM\n"
	"       replicad failover --force --generation N --peer-is-dead VM\n"
	"Have VM run on its backup from now on. Said on the node where it runs; nothing is lost, and if it cannot be done\n"
	"it goes on here. With --force, said on the backup: start the copy there, since its primary is dead.\n\n"
	"      --force            take over although the primary cannot be asked\n"
	"      --generation N     the record that the decision is about, as `replicad status` shows it\n"
	"      --peer-is-dead     you have made sure that the other node does not run VM, and will not\n"
	"      --no-wait          return when it has begun\n"
	"      --timeout S        wait at most S seconds for the outcome (default 60)\n"
	"  -j, --json             the outcome as JSON\n"
	"  -q, --quiet            no progress\n" RPL_CLI_TARGET_HELP
	"  -h, --help\n\n"
	"exit status: 0 it runs on the other side, 1 it does not (or not yet known), 2 usage, 3 refused as unsafe, 4 no agent\n"
	"answers\n\n"
	"examples:\n"
	"  replicad failover web1\n"
	"  replicad failover --force --generation 6 --peer-is-dead web1\n";

static const char solo_help[] =
	"usage: replicad solo --generation N --peer-is-dead [OPTION]... VM\n"
	"Have VM, which runs here and waits for a decision, go on here without its backup.\n\n"
	"      --generation N     the record that the decision is about, as `replicad status` shows it\n"
	"      --peer-is-dead     you have made sure that the other node does not run VM, and will not\n"
	"      --no-wait          return when it has begun\n"
	"      --timeout S        wait at most S seconds for the outcome (default 60)\n"
	"  -j, --json             the outcome as JSON\n"
	"  -q, --quiet            no progress\n" RPL_CLI_TARGET_HELP
	"  -h, --help\n\n"
	"exit status: 0 it runs here, alone, 1 it does not (or not yet known), 2 usage, 3 refused as unsafe, 4 no agent answers\n\n"
	"examples:\n"
	"  replicad solo --generation 6 --peer-is-dead web1\n";

enum { OPT_FORCE = 256, OPT_GENERATION, OPT_PEER_IS_DEAD, OPT_NO_WAIT, OPT_TIMEOUT };

static const struct option options[] = {
	{ "generation", required_argument, NULL, OPT_GENERATION },
	{ "peer-is-dead", no_argument, NULL, OPT_PEER_IS_DEAD },
	{ "no-wait", no_argument, NULL, OPT_NO_WAIT },
	{ "timeout", required_argument, NULL, OPT_TIMEOUT },
	{ "json", no_argument, NULL, 'j' },
	{ "quiet", no_argument, NULL, 'q' },
	RPL_CLI_TARGET_OPTIONS,
	{ "help", no_argument, NULL, 'h' },
	{ "force", no_argument, NULL, OPT_FORCE }, /* the last: `solo` has no use for it */
	{ NULL, 0, NULL, 0 },
};

struct call {
	struct rpl_cli_target target;
	const char *vm, *cmd;
	bool force, peer_is_dead, no_wait, json, quiet;
	json_int_t generation, timeout_s;
	uint64_t began_ns;
};

/* What has become of it so far. */
struct outcome {
	enum { UNDER_WAY, DONE, FAILED } what;
	json_int_t generation, blackout_us;
	char to[64], reason[300];
	bool nothing_follows; /* the keeper ended, or the blackout is known */
};

/* ---- the call */

static int take_option(struct call *c, int opt, const char *value)
{
	switch (opt) {
	case OPT_GENERATION:
		return rpl_cli_number(c->target.command, "generation", value, 1, INT64_MAX, &c->generation);
	case OPT_TIMEOUT:
		return rpl_cli_number(c->target.command, "timeout", value, 1, TIMEOUT_MAX_S, &c->timeout_s);
	case OPT_FORCE:
		c->force = true;
		return RPL_EXIT_DONE;
	case OPT_PEER_IS_DEAD:
		c->peer_is_dead = true;
		return RPL_EXIT_DONE;
	case OPT_NO_WAIT:
		c->no_wait = true;
		return RPL_EXIT_DONE;
	case 'j':
		c->json = true;
		return RPL_EXIT_DONE;
	case 'q':
		c->quiet = true;
		return RPL_EXIT_DONE;
	case 's':
	case 'c':
		return rpl_cli_target(&c->target, opt, value);
	default:
		return rpl_cli_usage(c->target.command, "the call is wrong");
	}
}

/* An operator's word is complete or none. */
static int check_word(const struct call *c, bool needed)
{
	if (!needed && (c->generation || c->peer_is_dead))
		return rpl_cli_usage(c->target.command, "--generation and --peer-is-dead belong to --force");
	if (needed && (!c->generation || !c->peer_is_dead))
		return rpl_cli_usage(c->target.command, "%s is missing: a decision that nobody can check needs both, --generation N "
				     "(as status shows it) and --peer-is-dead", c->generation ? "--peer-is-dead" : "--generation");
	return RPL_EXIT_DONE;
}

/* RPL_EXIT_DONE: go on; -1: help was printed. */
static int read_call(struct call *c, int argc, char **argv, const char *help)
{
	struct option mine[sizeof(options) / sizeof(options[0])];
	bool solo = strcmp(c->target.command, "solo") == 0;
	int opt, r = RPL_EXIT_DONE;

	memcpy(mine, options, sizeof(mine));
	if (solo)
		mine[sizeof(options) / sizeof(options[0]) - 2] = (struct option){ NULL, 0, NULL, 0 };
	while (r == RPL_EXIT_DONE && (opt = getopt_long(argc, argv, "jqs:c:h", mine, NULL)) != -1) {
		if (opt == 'h') {
			(void)fputs(help, stdout);
			return -1;
		}
		r = take_option(c, opt, optarg);
	}
	if (r == RPL_EXIT_DONE)
		r = rpl_cli_vm(c->target.command, argc, argv, true, &c->vm);
	if (r != RPL_EXIT_DONE)
		return r;
	c->cmd = solo ? "solo" : c->force ? "takeover" : "switchover";
	return check_word(c, solo || c->force);
}

/* ---- the outcome */

static void progress(const struct call *c, const char *fmt, ...) RPL_PRINTF(2, 3);

static void progress(const struct call *c, const char *fmt, ...)
{
	va_list ap;

	if (c->quiet || c->json)
		return;
	(void)printf("%s: ", c->vm);
	va_start(ap, fmt);
	(void)vprintf(fmt, ap);
	va_end(ap);
	(void)putchar('\n');
	(void)fflush(stdout);
}

static bool one_of(const char *text, const char *a, const char *b)
{
	return strcmp(text, a) == 0 || strcmp(text, b) == 0;
}

/* Which states end which wish, and how. */
static void judge_state(const struct call *c, const json_t *e, struct outcome *o)
{
	const char *from = rpl_cli_text(e, "from"), *to = rpl_cli_text(e, "to"), *reason = rpl_cli_text(e, "reason");
	bool switchover = strcmp(c->cmd, "switchover") == 0;

	if (o->what != UNDER_WAY)
		return;
	progress(c, "%s (%s)", to, reason);
	o->generation = json_integer_value(json_object_get(e, "gen"));
	if (!switchover || strcmp(from, "P_CLAIM") != 0) /* why it was given up, not how that went */
		(void)snprintf(o->reason, sizeof(o->reason), "%s", reason);
	if (strcmp(to, switchover ? "P_DEPOSED" : "P_SOLO") == 0)
		o->what = DONE;
	else if (switchover ? one_of(to, "P_SOLO", "P_LOST") || strcmp(to, "P_DOWN") == 0 :
			      one_of(to, "IDLE", "P_DEPOSED") || one_of(to, "P_LOST", "P_DOWN"))
		o->what = FAILED;
}

static void judge(const struct call *c, const json_t *e, struct outcome *o)
{
	const char *name = rpl_cli_text(e, "event");

	if (strcmp(name, "state") == 0) {
		judge_state(c, e, o);
	} else if (one_of(name, "switchover", "takeover")) {
		o->blackout_us = json_integer_value(json_object_get(e, "blackout_us"));
		(void)snprintf(o->to, sizeof(o->to), "%s", rpl_cli_text(e, "to"));
		o->nothing_follows = true;
	} else if (one_of(name, "end", "keeper-end")) {
		o->nothing_follows = true;
	} else if (strcmp(name, "alarm") == 0) {
		progress(c, "%s", rpl_cli_text(e, "reason"));
	}
}

/* Follow until it is known, and for a switchover a moment longer: what it cost is told by the other side. */
static int follow(const struct call *c, struct rpl_client *events, struct outcome *o)
{
	uint64_t deadline = c->began_ns + (uint64_t)c->timeout_s * 1000 * RPL_MS;
	bool cost = strcmp(c->cmd, "switchover") == 0;

	while (o->what == UNDER_WAY || (o->what == DONE && cost && !o->nothing_follows)) {
		uint64_t now = rpl_now_ns();
		struct rpl_err err;
		json_t *e;
		int r;

		if (now >= deadline)
			return 0;
		r = rpl_client_event(events, (unsigned)((deadline - now) / RPL_MS + 1), &e, &err);
		if (r == -ETIMEDOUT)
			return 0;
		if (r < 0)
			return o->what == DONE ? 0 : rpl_cli_fail(c->target.command, RPL_EXIT_UNREACHABLE, "%s", err.msg);
		judge(c, e, o);
		json_decref(e);
		if (o->what == DONE && deadline > rpl_now_ns() + BLACKOUT_WAIT_MS * RPL_MS)
			deadline = rpl_now_ns() + BLACKOUT_WAIT_MS * RPL_MS;
	}
	return 0;
}

static const char *outcome_word(const struct outcome *o)
{
	return o->what == DONE ? "done" : o->what == FAILED ? "failed" : "unknown";
}

static int tell_json(const struct call *c, const struct outcome *o)
{
	json_t *doc = json_pack("{s:i, s:s, s:s, s:s, s:s, s:I, s:I}", "v", 1, "vm", c->vm, "command", c->cmd, "outcome",
				outcome_word(o), "reason", o->reason, "generation", o->generation, "took_ms",
				(json_int_t)((rpl_now_ns() - c->began_ns) / RPL_MS));

	if (o->blackout_us)
		(void)json_object_set_new(doc, "blackout_us", json_integer(o->blackout_us));
	(void)json_dumpf(doc, stdout, JSON_INDENT(2));
	(void)putchar('\n');
	json_decref(doc);
	return o->what == DONE ? RPL_EXIT_DONE : RPL_EXIT_FAILED;
}

static int tell(const struct call *c, const struct outcome *o)
{
	if (c->json)
		return tell_json(c, o);
	if (o->what == UNDER_WAY)
		return rpl_cli_fail(c->target.command, RPL_EXIT_FAILED, "%s: the outcome is not known after %ld s%s%s; see `replicad status "
				    "%s`", c->vm, (long)c->timeout_s, o->reason[0] ? ": " : "", o->reason, c->vm);
	if (o->what == FAILED)
		return rpl_cli_fail(c->target.command, RPL_EXIT_FAILED, "%s: not done: %s; see `replicad status %s`", c->vm, o->reason,
				    c->vm);
	if (strcmp(c->cmd, "switchover") != 0)
		(void)printf("%s: runs here now, generation %" JSON_INTEGER_FORMAT "\n", c->vm, o->generation);
	else if (o->blackout_us)
		(void)printf("%s: runs on %s now, generation %" JSON_INTEGER_FORMAT "; blackout %.1f ms, from its pause here until it "
			     "ran there\n", c->vm, o->to, o->generation, (double)o->blackout_us / 1000);
	else
		(void)printf("%s: runs on the other node now, generation %" JSON_INTEGER_FORMAT "; the blackout stands in `replicad "
			     "status %s` there\n", c->vm, o->generation, c->vm);
	return RPL_EXIT_DONE;
}

/* ---- the command */

static json_t *request(const struct call *c)
{
	json_t *o = json_pack("{s:s, s:s}", "cmd", c->cmd, "vm", c->vm);

	if (c->generation)
		(void)json_object_set_new(o, "generation", json_integer(c->generation));
	return o;
}

static int ask_and_follow(struct call *c, struct rpl_client *events)
{
	struct outcome o = { .what = UNDER_WAY };
	json_t *reply;
	int status;

	c->began_ns = rpl_now_ns();
	status = rpl_cli_call(&c->target, request(c), ASK_TIMEOUT_MS, &reply);
	json_decref(reply);
	if (status != RPL_EXIT_DONE || c->no_wait)
		return status;
	status = follow(c, events, &o);
	return status ? status : tell(c, &o);
}

static int run(const char *command, int argc, char **argv, const char *help)
{
	struct call c = { .target.command = command, .timeout_s = TIMEOUT_S };
	struct rpl_client *events;
	int r = read_call(&c, argc, argv, help);

	if (r != RPL_EXIT_DONE)
		return r < 0 ? RPL_EXIT_DONE : r;
	events = rpl_cli_follow(&c.target, c.vm, &r);
	if (!events)
		return r;
	r = ask_and_follow(&c, events);
	rpl_client_close(events);
	return r;
}

int rpl_cmd_failover(int argc, char **argv)
{
	return run("failover", argc, argv, failover_help);
}

int rpl_cmd_solo(int argc, char **argv)
{
	return run("solo", argc, argv, solo_help);
}
