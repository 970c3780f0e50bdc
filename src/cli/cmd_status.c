/* cmd_status.c - `replicad status`: what is protected, and what would survive */
#include "config.h"

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "show.h"

#define WATCH_DEFAULT_S 1.0

static const char help_text[] =
	"usage: replicad status [OPTION]... [VM]\n"
	"Show all VMs of this node, or everything about one.\n\n"
	"  -j, --json             for programs: the fields of replicad-control(7)\n"
	"  -w, --watch            again and again, until interrupted\n" RPL_CLI_TARGET_HELP
	"  -h, --help\n\n"
	"exit status: 0 protected, 1 degraded, 2 down, 3 unknown (also: no such VM), 4 no agent answers; of several\n"
	"VMs the worst\n\n"
	"examples:\n"
	"  replicad status\n"
	"  replicad status web1 --json | jq .vms[0].survives\n";

static const struct option options[] = {
	{ "json", no_argument, NULL, 'j' },
	{ "watch", no_argument, NULL, 'w' },
	RPL_CLI_TARGET_OPTIONS,
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

static int worst(const json_t *vms)
{
	int status = RPL_EXIT_PROTECTED;
	size_t i;
	json_t *vm;

	json_array_foreach((json_t *)(uintptr_t)vms, i, vm) {
		int one = rpl_show_judge(vm);

		if (one > status)
			status = one;
	}
	return status;
}

static void print_json(const json_t *reply)
{
	json_t *copy = json_copy((json_t *)(uintptr_t)reply);

	(void)json_object_del(copy, "ok");
	(void)json_dumpf(copy, stdout, JSON_INDENT(2));
	(void)putchar('\n');
	json_decref(copy);
}

static int show_once(const struct rpl_cli_target *t, const char *vm, bool json)
{
	json_t *reply, *request = json_pack("{s:s}", "cmd", "status");
	int status;

	if (vm)
		(void)json_object_set_new(request, "vm", json_string(vm));
	status = rpl_cli_call(t, request, RPL_CLI_TIMEOUT_MS, &reply);
	if (status != RPL_EXIT_DONE)
		return status == RPL_EXIT_UNREACHABLE ? status : RPL_EXIT_UNKNOWN;
	status = worst(json_object_get(reply, "vms"));
	if (json) {
		print_json(reply);
	} else {
		rpl_show_agent(json_object_get(reply, "agent"));
		if (vm)
			rpl_show_vm(json_array_get(json_object_get(reply, "vms"), 0));
		else
			rpl_show_table(json_object_get(reply, "vms"));
	}
	json_decref(reply);
	return status;
}

static int watch(const struct rpl_cli_target *t, const char *vm, bool json)
{
	const struct timespec pause = { .tv_sec = (time_t)WATCH_DEFAULT_S };
	bool screen = !json && isatty(STDOUT_FILENO);

	for (;;) {
		if (screen)
			(void)fputs("\033[H\033[2J", stdout);
		(void)show_once(t, vm, json); /* an agent that is being restarted is worth watching too */
		if (fflush(stdout) == EOF)
			return RPL_EXIT_UNKNOWN;
		(void)nanosleep(&pause, NULL);
	}
}

int rpl_cmd_status(int argc, char **argv)
{
	struct rpl_cli_target target = { .command = "status" };
	bool json = false, again = false;
	const char *vm;
	int opt, r;

	while ((opt = getopt_long(argc, argv, "jws:c:h", options, NULL)) != -1) {
		switch (opt) {
		case 'j':
			json = true;
			break;
		case 'w':
			again = true;
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
			return rpl_cli_usage("status", "the call is wrong");
		}
	}
	r = rpl_cli_vm("status", argc, argv, false, &vm);
	if (r != RPL_EXIT_DONE)
		return r;
	return again ? watch(&target, vm, json) : show_once(&target, vm, json);
}
