/* cmd_protect.c - `replicad protect` and `replicad unprotect`: ask, then tell how it goes until it is reached */
#include "config.h"

#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <replicad/clock.h>

#include "show.h"

#define PROTECT_TIMEOUT_S 300 /* default; a first copy takes as long as memory and network make it */
#define ASK_TIMEOUT_MS 20000  /* longer than the agent waits for the keeper */
#define UNPROTECT_TIMEOUT_S 90
#define TIMEOUT_MAX_S 86400
#define REFUSAL_MS 100        /* with --no-wait: so long for a word that it cannot be */
#define LOOK_MS 1000          /* at how far the copy is, if nothing happens before: a look is work for the host that copies */

static const char protect_help[] =
	"usage: replicad protect [OPTION]... VM\n"
	"Keep a running copy of VM on a second host from now on, also after a restart of the agent.\n"
	"Waits until it is protected, or refused.\n\n"
	"      --qmp PATH         QEMU's monitor socket\n"
	"      --backup HOST      the node that holds the copy: a [peer] section, or host[:port]\n"
	"      --relay PATH       control socket of the relay that the guest's network goes through\n"
	"      --interval MS      time from checkpoint to checkpoint\n"
	"  -o, --set KEY=VALUE    any other key of replicad.conf(5)'s [vm] section; may be repeated\n"
	"      --no-wait          return when it has begun\n"
	"      --timeout S        wait at most S seconds (default 300); protection goes on being set up\n"
	"  -q, --quiet            no progress\n" RPL_CLI_TARGET_HELP
	"  -h, --help\n\n"
	"Without --qmp and the like VM needs a section [vm VM] in the configuration; with them conf.d/VM.conf is written.\n"
	"exit status: 0 protected, 1 failed, 2 usage, 3 refused as unsafe (nothing was changed), 4 no agent answers\n\n"
	"examples:\n"
	"  replicad protect web1 --qmp /run/web1.qmp --relay /run/web1.relay --backup beta\n"
	"  replicad protect web1 --backup 192.0.2.7:7887 --interval 25 -o tracker=compare\n";

static const char unprotect_help[] =
	"usage: replicad unprotect [OPTION]... VM\n"
	"Stop protecting VM, which goes on running here; nothing is left on it or on its backup.\n\n"
	"      --force            on the backup: give up the copy although the primary may count on it\n"
	"      --no-wait          return when it was asked for\n"
	"      --timeout S        wait at most S seconds (default 90)\n" RPL_CLI_TARGET_HELP
	"  -h, --help\n\n"
	"exit status: 0 done, 1 failed, 2 usage, 3 refused as unsafe, 4 no agent answers\n\n"
	"examples:\n"
	"  replicad unprotect web1\n";

enum { OPT_QMP = 256, OPT_BACKUP, OPT_RELAY, OPT_INTERVAL, OPT_NO_WAIT, OPT_TIMEOUT, OPT_FORCE };

static const struct option protect_options[] = {
	{ "qmp", required_argument, NULL, OPT_QMP },
	{ "backup", required_argument, NULL, OPT_BACKUP },
	{ "relay", required_argument, NULL, OPT_RELAY },
	{ "interval", required_argument, NULL, OPT_INTERVAL },
	{ "set", required_argument, NULL, 'o' },
	{ "no-wait", no_argument, NULL, OPT_NO_WAIT },
	{ "timeout", required_argument, NULL, OPT_TIMEOUT },
	{ "quiet", no_argument, NULL, 'q' },
	RPL_CLI_TARGET_OPTIONS,
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

static const struct option unprotect_options[] = {
	{ "force", no_argument, NULL, OPT_FORCE },
	{ "no-wait", no_argument, NULL, OPT_NO_WAIT },
	{ "timeout", required_argument, NULL, OPT_TIMEOUT },
	RPL_CLI_TARGET_OPTIONS,
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

struct call {
	struct rpl_cli_target target;
	const char *vm;
	json_t *set;
	bool no_wait, quiet, force;
	json_int_t timeout_s;
};

/* "key=value" */
static int take_set(struct call *c, const char *text)
{
	const char *eq = strchr(text, '=');
	char key[64];

	if (!eq || eq == text || (size_t)(eq - text) >= sizeof(key))
		return rpl_cli_usage(c->target.command, "--set %s: KEY=VALUE is meant", text);
	(void)snprintf(key, sizeof(key), "%.*s", (int)(eq - text), text);
	(void)json_object_set_new(c->set, key, json_string(eq + 1));
	return RPL_EXIT_DONE;
}

static int take_option(struct call *c, int opt, const char *value)
{
	static const struct {
		int opt;
		const char *key;
	} keys[] = { { OPT_QMP, "qmp" }, { OPT_BACKUP, "backup" }, { OPT_RELAY, "relay" }, { OPT_INTERVAL, "interval_ms" } };

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (keys[i].opt == opt) {
			(void)json_object_set_new(c->set, keys[i].key, json_string(value));
			return RPL_EXIT_DONE;
		}
	switch (opt) {
	case 'o':
		return take_set(c, value);
	case 's':
	case 'c':
		return rpl_cli_target(&c->target, opt, value);
	case OPT_TIMEOUT:
		return rpl_cli_number(c->target.command, "timeout", value, 1, TIMEOUT_MAX_S, &c->timeout_s);
	case OPT_NO_WAIT:
		c->no_wait = true;
		return RPL_EXIT_DONE;
	case OPT_FORCE:
		c->force = true;
		return RPL_EXIT_DONE;
	case 'q':
		c->quiet = true;
		return RPL_EXIT_DONE;
	default:
		return rpl_cli_usage(c->target.command, "the call is wrong");
	}
}

/* RPL_EXIT_DONE: go on; -1: help was printed. */
static int read_call(struct call *c, int argc, char **argv, const struct option *options, const char *shorts,
		     const char *help)
{
	int opt, r;

	while ((opt = getopt_long(argc, argv, shorts, options, NULL)) != -1) {
		if (opt == 'h') {
			(void)fputs(help, stdout);
			return -1;
		}
		r = take_option(c, opt, optarg);
		if (r != RPL_EXIT_DONE)
			return r;
	}
	return rpl_cli_vm(c->target.command, argc, argv, true, &c->vm);
}

/* The VM's status; RPL_EXIT_DONE, or it was said why not. */
static int fetch(const struct call *c, json_t **ret_reply, const json_t **ret_vm)
{
	int status = rpl_cli_call(&c->target, json_pack("{s:s, s:s}", "cmd", "status", "vm", c->vm), RPL_CLI_TIMEOUT_MS,
				  ret_reply);

	*ret_vm = status == RPL_EXIT_DONE ? json_array_get(json_object_get(*ret_reply, "vms"), 0) : NULL;
	return status;
}

static void progress(const struct call *c, const json_t *vm, char last[128])
{
	char state[64], line[128];

	rpl_show_state(vm, state, sizeof(state));
	(void)snprintf(line, sizeof(line), "%s", state);
	if (c->quiet || strcmp(line, last) == 0 || strcmp(rpl_cli_text(vm, "state"), "unknown") == 0)
		return;
	(void)printf("%s: %s\n", c->vm, line);
	(void)fflush(stdout);
	memcpy(last, line, sizeof(line));
}

/* Until something happened to it, or for a moment. */
static int wait_for_news(struct rpl_client *events)
{
	struct rpl_err err;
	json_t *e = NULL;
	int r = rpl_client_event(events, LOOK_MS, &e, &err);

	if (r < 0 && r != -ETIMEDOUT)
		return rpl_cli_fail("protect", RPL_EXIT_UNREACHABLE, "%s", err.msg);
	json_decref(e);
	return RPL_EXIT_DONE;
}

static void report_protected(const struct call *c, const json_t *vm, uint64_t began_ns)
{
	if (c->quiet)
		return;
	(void)printf("%s: protected towards %s after %.1f s\n", c->vm, rpl_cli_text(vm, "peer"),
		     (double)(rpl_now_ns() - began_ns) / 1e9);
}

/* Look until it is protected, refused or too late. */
static int look_until_protected(const struct call *c, struct rpl_client *events, uint64_t began_ns)
{
	uint64_t deadline = began_ns + (uint64_t)c->timeout_s * 1000 * RPL_MS;
	char last[128] = "", reason[300] = "";

	while (rpl_now_ns() < deadline) {
		json_t *reply;
		const json_t *vm;
		int status = fetch(c, &reply, &vm);

		if (status != RPL_EXIT_DONE)
			return status;
		progress(c, vm, last);
		(void)snprintf(reason, sizeof(reason), "%s", rpl_cli_text(vm, "reason"));
		if (strcmp(rpl_cli_text(vm, "state"), "P_PROTECTED") == 0) {
			report_protected(c, vm, began_ns);
			json_decref(reply);
			return RPL_EXIT_DONE;
		}
		if (rpl_cli_text(vm, "refused")[0]) {
			status = rpl_cli_fail("protect", RPL_EXIT_REFUSED, "%s: refused: %s", c->vm, rpl_cli_text(vm, "refused"));
			json_decref(reply);
			return status;
		}
		if (strcmp(rpl_cli_text(vm, "role"), "backup") == 0) {
			status = rpl_cli_fail("protect", RPL_EXIT_REFUSED, "%s: refused: it runs on %s, says the arbiter: protect it there",
					      c->vm, rpl_cli_text(vm, "peer"));
			json_decref(reply);
			return status;
		}
		status = json_is_true(json_object_get(vm, "wanted"));
		json_decref(reply);
		if (!status)
			return rpl_cli_fail("protect", RPL_EXIT_FAILED, "%s: protection was taken back meanwhile", c->vm);
		status = wait_for_news(events);
		if (status != RPL_EXIT_DONE)
			return status;
	}
	return rpl_cli_fail("protect", RPL_EXIT_FAILED, "%s: not protected after %ld s (%s%s%s); it goes on being set up, see `replicad "
			    "status %s`", c->vm, (long)c->timeout_s, last[0] ? last : "no state yet", reason[0] ? ": " : "", reason, c->vm);
}

static int wait_protected(const struct call *c, uint64_t began_ns)
{
	int status;
	struct rpl_client *events = rpl_cli_follow(&c->target, c->vm, &status);

	if (!events)
		return status;
	status = look_until_protected(c, events, began_ns);
	rpl_client_close(events);
	return status;
}

static int protect(struct call *c)
{
	uint64_t began = rpl_now_ns();
	json_t *reply;
	int status = rpl_cli_call(&c->target, json_pack("{s:s, s:s, s:O}", "cmd", "protect", "vm", c->vm, "set", c->set),
				  ASK_TIMEOUT_MS, &reply);

	json_decref(reply);
	if (status != RPL_EXIT_DONE || c->no_wait)
		return status;
	return wait_protected(c, began);
}

int rpl_cmd_protect(int argc, char **argv)
{
	struct call c = { .target.command = "protect", .timeout_s = PROTECT_TIMEOUT_S, .set = json_object() };
	int r = read_call(&c, argc, argv, protect_options, "o:qs:c:h", protect_help);

	if (r == RPL_EXIT_DONE)
		r = protect(&c);
	json_decref(c.set);
	return r < 0 ? RPL_EXIT_DONE : r;
}

/* The agent answers when everything is let go, or at once if nobody waits: the connection's end undoes nothing. */
static int unprotect(const struct call *c)
{
	json_t *request = json_pack("{s:s, s:s, s:b}", "cmd", "unprotect", "vm", c->vm, "force", c->force), *reply = NULL;
	struct rpl_client *client;
	struct rpl_err err;
	int status = RPL_EXIT_DONE;

	if (!c->no_wait) {
		status = rpl_cli_call(&c->target, request, (unsigned)c->timeout_s * 1000, &reply);
		json_decref(reply);
		if (status == RPL_EXIT_DONE)
			(void)printf(c->force ? "%s: what was here of it was given up\n" : "%s: not protected any more\n", c->vm);
		return status;
	}
	client = rpl_cli_connect(&c->target, &status);
	if (!client) {
		json_decref(request);
		return status;
	}
	/* a refusal that comes at once is worth telling */
	if (rpl_client_call(client, request, REFUSAL_MS, &reply, NULL, &err) == 0)
		json_decref(reply);
	else if (err.code != -ETIMEDOUT)
		status = rpl_cli_fail("unprotect", err.code == -EREMOTEIO ? RPL_EXIT_REFUSED : RPL_EXIT_UNREACHABLE, "%s", err.msg);
	rpl_client_close(client);
	return status;
}

int rpl_cmd_unprotect(int argc, char **argv)
{
	struct call c = { .target.command = "unprotect", .timeout_s = UNPROTECT_TIMEOUT_S };
	int r = read_call(&c, argc, argv, unprotect_options, "s:c:h", unprotect_help);

	if (r == RPL_EXIT_DONE)
		r = unprotect(&c);
	return r < 0 ? RPL_EXIT_DONE : r;
}
