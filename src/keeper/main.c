/* main.c - replicad-keeper: one VM's keeper, started by the agent and outliving it */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <replicad/fault.h>
#include <replicad/log.h>

#include "keeper.h"

static int usage(FILE *out, int status)
{
	(void)fprintf(out, "usage: replicad-keeper --vm NAME --dir DIR\n"
			   "Keeps one VM; started by `replicad agent`, which wrote DIR/keeper.json.\n");
	return status;
}

static void on_signal(EV_P_ ev_signal *w, int revents)
{
	(void)revents;
	rpl_log(RPL_LOG_INFO, "signal=%d action=end", w->signum);
	ev_break(loop, EVBREAK_ALL);
}

static int run(const char *dir)
{
	static struct keeper k;
	struct ev_loop *loop = ev_default_loop(EVFLAG_AUTO);
	struct rpl_err err = { 0 };
	ev_signal term;
	int r;

	r = keeper_open(&k, dir, loop, &err);
	if (r < 0) {
		rpl_log(RPL_LOG_ERROR, "dir=%s error=\"%s\"", dir, err.msg);
		keeper_close(&k);
		return EXIT_FAILURE;
	}
	ev_signal_init(&term, on_signal, SIGTERM);
	ev_signal_start(loop, &term);
	(void)ev_run(loop, 0);
	keeper_close(&k);
	return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	static const struct option options[] = { { "vm", required_argument, NULL, 'v' },
						 { "dir", required_argument, NULL, 'd' },
						 { "help", no_argument, NULL, 'h' },
						 { 0 } };
	const char *vm = NULL, *dir = NULL;
	struct rpl_err err;
	char ident[64];
	int o;

	while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (o == 'v')
			vm = optarg;
		else if (o == 'd')
			dir = optarg;
		else
			return usage(o == 'h' ? stdout : stderr, o == 'h' ? 0 : 2);
	}
	if (!vm || !dir || optind != argc)
		return usage(stderr, 2);
	(void)snprintf(ident, sizeof(ident), "keeper %s", vm);
	rpl_log_init(ident, RPL_LOG_INFO); /* until keeper.json says */
	if (rpl_fault_init(getenv(RPL_FAULT_ENV), &err) < 0) {
		rpl_log(RPL_LOG_ERROR, "%s", err.msg);
		return 2;
	}
	(void)signal(SIGPIPE, SIG_IGN);
	return run(dir);
}
