/* cmd_agent.c - `replicad agent`: the daemon, and what helps with its configuration */
#include "config.h"

#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <replicad/agent.h>
#include <replicad/client.h>
#include <replicad/conf.h>

#include "cli.h"

#define CONF_DEFAULT RPL_SYSCONFDIR "/replicad.conf"

static const char help_text[] =
	"usage: replicad agent [OPTION]...\n"
	"Run the daemon in the foreground until SIGTERM; what it started goes on.\n\n"
	"  -c, --config FILE      configuration (default " CONF_DEFAULT "); FILE's conf.d is read after it\n"
	"      --check            read the configuration and say whether it is fine\n"
	"      --show-config      print all keys with the values in effect, their meaning and where they came from\n"
	"      --reload           have the running agent read its configuration anew\n"
	"  -s, --socket PATH      --reload: the agent's control socket (default: that of the configuration)\n"
	"      --libexec-dir DIR  where replicad-keeper is\n"
	"  -d, --debug            log everything\n"
	"  -h, --help\n\n"
	"examples:\n"
	"  replicad agent --check && systemctl reload replicad\n"
	"  replicad agent --config /tmp/a/replicad.conf    a second agent on one machine: give it a run_dir, a\n"
	"                                                  state_dir and a listen of its own\n";

enum { OPT_CHECK = 256, OPT_SHOW, OPT_RELOAD, OPT_LIBEXEC };

static const struct option options[] = {
	{ "config", required_argument, NULL, 'c' },
	{ "check", no_argument, NULL, OPT_CHECK },
	{ "show-config", no_argument, NULL, OPT_SHOW },
	{ "reload", no_argument, NULL, OPT_RELOAD },
	{ "socket", required_argument, NULL, 's' },
	{ "libexec-dir", required_argument, NULL, OPT_LIBEXEC },
	{ "debug", no_argument, NULL, 'd' },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

static int show_conf(const char *path, bool print)
{
	struct rpl_err err;
	struct rpl_conf *c = rpl_conf_load(path, &err);

	if (!c)
		return rpl_cli_fail("agent", RPL_EXIT_FAILED, "%s", err.msg);
	if (print)
		rpl_conf_print(c, stdout);
	else
		(void)printf("%s: fine, with %zu VMs and %zu peers\n", path, c->n_vms, c->n_peers);
	rpl_conf_free(c);
	return RPL_EXIT_DONE;
}

static int reload(const char *conf_path, const char *socket_path)
{
	struct rpl_cli_target target = { .command = "agent" };
	json_t *reply;
	int status = socket_path ? rpl_cli_target(&target, 's', socket_path) : rpl_cli_target(&target, 'c', conf_path);

	if (status != RPL_EXIT_DONE)
		return status;
	status = rpl_cli_call(&target, json_pack("{s:s}", "cmd", "reload"), RPL_CLI_TIMEOUT_MS, &reply);
	json_decref(reply);
	return status;
}

/* Beside the running program in a build tree, else where it was installed. */
static const char *find_libexec(char *buf, size_t size)
{
	char probe[PATH_MAX + 16];

	if (rpl_cli_program_dir(buf, size) == 0) {
		(void)snprintf(probe, sizeof(probe), "%s/config.status", buf);
		if (access(probe, F_OK) == 0)
			return buf;
	}
	return RPL_LIBEXECDIR;
}

static int run(struct rpl_agent_args *args)
{
	char dir[PATH_MAX];
	struct rpl_err err;

	if (!args->libexec_dir)
		args->libexec_dir = find_libexec(dir, sizeof(dir));
	if (rpl_agent_run(args, &err) < 0)
		return rpl_cli_fail("agent", RPL_EXIT_FAILED, "%s", err.msg);
	return RPL_EXIT_DONE;
}

int rpl_cmd_agent(int argc, char **argv)
{
	struct rpl_agent_args args = { .conf_path = CONF_DEFAULT, .version = PACKAGE_VERSION };
	const char *socket_path = NULL;
	int opt, what = 0;

	while ((opt = getopt_long(argc, argv, "c:s:dh", options, NULL)) != -1) {
		switch (opt) {
		case 'c':
			args.conf_path = optarg;
			break;
		case 's':
			socket_path = optarg;
			break;
		case 'd':
			args.debug = 1;
			break;
		case OPT_LIBEXEC:
			args.libexec_dir = optarg;
			break;
		case 'h':
			(void)fputs(help_text, stdout);
			return RPL_EXIT_DONE;
		case '?':
			return rpl_cli_usage("agent", "the call is wrong");
		default:
			what = opt;
		}
	}
	if (optind < argc)
		return rpl_cli_usage("agent", "'%s' is one argument too many", argv[optind]);
	if (what == OPT_RELOAD)
		return reload(args.conf_path, socket_path);
	if (what)
		return show_conf(args.conf_path, what == OPT_SHOW);
	return run(&args);
}
