/* cmd_events.c - `replicad events`: what happened */
#include "config.h"

#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

#define LIMIT_MAX 1024

static const char help_text[] =
	"usage: replicad events [OPTION]... [VM]\n"
	"Show the last events of this node, or of one VM.\n\n"
	"  -f, --follow           then wait for more, until interrupted\n"
	"  -j, --json             one JSON object a line\n"
	"  -n, --limit N          at most the last N (default 100, at most 1024)\n" RPL_CLI_TARGET_HELP
	"  -h, --help\n\n"
	"examples:\n"
	"  replicad events web1\n"
	"  replicad events --follow --json | jq 'select(.event == \"takeover\")'\n";

static const struct option options[] = {
	{ "follow", no_argument, NULL, 'f' },
	{ "json", no_argument, NULL, 'j' },
	{ "limit", required_argument, NULL, 'n' },
	RPL_CLI_TARGET_OPTIONS,
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

static void print_text(const json_t *e)
{
	static const char *const said[] = { "seq", "time", "node", "vm", "event", "message", "from", "to", "reason" };
	const char *reason = rpl_cli_text(e, "reason"), *key;
	json_t *v;

	(void)printf("%s %s %s %s", rpl_cli_text(e, "time"), rpl_cli_text(e, "node"),
		     rpl_cli_text(e, "vm")[0] ? rpl_cli_text(e, "vm") : "-", rpl_cli_text(e, "event"));
	if (rpl_cli_text(e, "to")[0])
		(void)printf(" %s -> %s", rpl_cli_text(e, "from"), rpl_cli_text(e, "to"));
	json_object_foreach((json_t *)(uintptr_t)e, key, v) {
		bool known = false;
		char *text;

		for (size_t i = 0; i < sizeof(said) / sizeof(said[0]); i++)
			known |= strcmp(key, said[i]) == 0;
		text = known ? NULL : json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
		if (text)
			(void)printf(" %s=%s", key, text);
		free(text);
	}
	if (rpl_cli_text(e, "message")[0])
		(void)printf(": %s", rpl_cli_text(e, "message"));
	if (reason[0] && strcmp(reason, rpl_cli_text(e, "message")) != 0)
		(void)printf(": %s", reason);
	(void)putchar('\n');
}

static void print_event(const json_t *e, bool json)
{
	if (json) {
		(void)json_dumpf(e, stdout, JSON_COMPACT);
		(void)putchar('\n');
	} else {
		print_text(e);
	}
}

static int follow_on(const struct rpl_cli_target *t, struct rpl_client *c, bool json)
{
	for (;;) {
		struct rpl_err err;
		json_t *e;
		int r;

		if (fflush(stdout) == EOF)
			return RPL_EXIT_FAILED;
		r = rpl_client_event(c, 0, &e, &err);
		if (r < 0)
			return rpl_cli_fail(t->command, RPL_EXIT_UNREACHABLE, "%s", err.msg);
		print_event(e, json);
		json_decref(e);
	}
}

static int show(const struct rpl_cli_target *t, const char *vm, json_int_t limit, bool json, bool follow)
{
	json_t *request = json_pack("{s:s, s:I, s:b}", "cmd", "events", "limit", limit, "follow", follow), *reply, *e;
	int status = RPL_EXIT_DONE;
	struct rpl_client *c = rpl_cli_connect(t, &status);
	size_t i;

	if (vm)
		(void)json_object_set_new(request, "vm", json_string(vm));
	if (!c) {
		json_decref(request);
		return status;
	}
	status = rpl_cli_ask(t, c, request, RPL_CLI_TIMEOUT_MS, &reply);
	if (status == RPL_EXIT_DONE) {
		json_array_foreach(json_object_get(reply, "events"), i, e)
			print_event(e, json);
		json_decref(reply);
		if (follow)
			status = follow_on(t, c, json);
	}
	rpl_client_close(c);
	return status;
}

int rpl_cmd_events(int argc, char **argv)
{
	struct rpl_cli_target target = { .command = "events" };
	bool json = false, follow = false;
	json_int_t limit = 100;
	const char *vm;
	int opt, r;

	while ((opt = getopt_long(argc, argv, "fjn:s:c:h", options, NULL)) != -1) {
		switch (opt) {
		case 'f':
			follow = true;
			break;
		case 'j':
			json = true;
			break;
		case 'n':
			r = rpl_cli_number("events", "limit", optarg, 0, LIMIT_MAX, &limit);
			if (r != RPL_EXIT_DONE)
				return r;
			break;
		case 's':
		case 'c':
			r = rpl_cli_target(&target, opt, optarg);
			if (r != RPL_EXIT_DONE)
				return r;
			break;
		case 'h':
			(void)fputs(help_text, stdout);
			return RPL_EXIT_DONE;
		default:
			return rpl_cli_usage("events", "the call is wrong");
		}
	}
	r = rpl_cli_vm("events", argc, argv, false, &vm);
	return r == RPL_EXIT_DONE ? show(&target, vm, limit, json, follow) : r;
}
