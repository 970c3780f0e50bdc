/* `replicad receive`: the far end of a stock `xl migrate` or `xl remus`, on standard input and output. */
#include "cli.h"
#include "receive.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/exit.h>

#define STAGING_MIB 1024u /* address space; memory is used as checkpoints need it */
#define STAGING_MIB_MAX (1u << 20)
#define SILENCE_S 120u /* twice what our own sender waits for one that takes nothing */
#define SILENCE_S_MAX 86400u

static void usage(void)
{
	(void)printf("usage: replicad receive [--remus] [--paused] [--no-monitor] [--staging MIB] [-- WORD...]\n"
		     "Takes a domain from a stock `xl migrate` or, with --remus, keeps the copy of a stock `xl remus` and\n"
		     "activates it when the stream ends. Standard input and output are the sender's.\n"
		     "  -r, --remus        a checkpointed stream\n"
		     "  -p, --paused       leave the domain paused\n"
		     "  -e, --no-monitor   leave no xl behind that carries out on_poweroff, on_reboot and on_crash\n"
		     "  -S, --staging MIB  room for one checkpoint (%u)\n"
		     "  -t, --silence S    give up a migration whose sender says nothing for S seconds (%u; 0: never)\n"
		     "  -h, --help         this text\n"
		     "Words behind -- are what xl puts behind its -s command (HOST xl migrate-receive -r ...); their options count.\n"
		     "  xl migrate -s 'ssh beta replicad receive --' web1 beta\n"
		     "  xl remus -s 'ssh beta replicad receive --' -F -n -d web1 beta\n", STAGING_MIB, SILENCE_S);
}

/* "HOST xl [-t] [-T] [-v]... migrate-receive [OPTION]...", as xl composes it. */
static int xl_words(struct receive *rx, int argc, char **argv)
{
	int i = 0;

	while (i < argc && strcmp(argv[i], "migrate-receive") != 0)
		i++;
	if (argc > 0 && i == argc)
		return rpl_cli_usage("receive", "'%s': expected the words of xl, with migrate-receive among them", argv[0]);
	for (i++; i < argc; i++) {
		if (strcmp(argv[i], "-r") == 0)
			rx->remus = true;
		else if (strcmp(argv[i], "-p") == 0)
			rx->paused = true;
		else if (strcmp(argv[i], "-e") == 0)
			rx->no_monitor = true;
		else if (strstr(argv[i], "colo"))
			return rpl_cli_fail("receive", RPL_EXIT_REFUSED, "%s: COLO is not supported: use plain Remus", argv[i]);
		else if (strcmp(argv[i], "-d") != 0 && strcmp(argv[i], "-F") != 0)
			return rpl_cli_usage("receive", "xl asks for %s, which is not known", argv[i]);
	}
	return 0;
}

static int options(struct receive *rx, int argc, char **argv)
{
	static const struct option longs[] = {
		{ "remus", no_argument, NULL, 'r' },         { "paused", no_argument, NULL, 'p' },
		{ "no-monitor", no_argument, NULL, 'e' },    { "staging", required_argument, NULL, 'S' },
		{ "silence", required_argument, NULL, 't' }, { "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	json_int_t mib = STAGING_MIB, seconds = SILENCE_S;
	int o, r;

	while ((o = getopt_long(argc, argv, "rpeS:t:h", longs, NULL)) != -1) {
		switch (o) {
		case 'r':
			rx->remus = true;
			break;
		case 'p':
			rx->paused = true;
			break;
		case 'e':
			rx->no_monitor = true;
			break;
		case 'S':
			r = rpl_cli_number("receive", "staging", optarg, 1, STAGING_MIB_MAX, &mib);
			if (r)
				return r;
			break;
		case 't':
			r = rpl_cli_number("receive", "silence", optarg, 0, SILENCE_S_MAX, &seconds);
			if (r)
				return r;
			break;
		case 'h':
			usage();
			return -1;
		default:
			return rpl_cli_usage("receive", "the call is wrong");
		}
	}
	rx->staging_bytes = (uint64_t)mib << 20;
	rx->silence_ms = (unsigned)seconds * 1000;
	return xl_words(rx, argc - optind, argv + optind);
}

static int receive(struct receive *rx)
{
	struct rpl_err err = { 0 };
	int r;

	if (isatty(STDIN_FILENO))
		return rpl_cli_usage("receive", "standard input is a terminal, not a sender");
	(void)signal(SIGPIPE, SIG_IGN);
	r = receive_say_banner(&err);
	if (r == 0)
		r = stream_run_open(&rx->run, "-", RPL_FORMAT_XL, &err);
	if (r < 0)
		return rpl_cli_fail("receive", RPL_EXIT_FAILED, "%s", err.msg);
	rpl_stream_check_init(&rx->check, receive_finding, rx);
	rx->check.types = calloc(STREAM_TYPES_MAX / 2, 1); /* touched only where a PV guest has pages */
	rx->check.n_types = rx->check.types ? STREAM_TYPES_MAX : 0;
	return rx->remus ? receive_remus(rx) : receive_migration(rx);
}

int rpl_cmd_receive(int argc, char **argv)
{
	struct receive *rx = calloc(1, sizeof(*rx));
	int r;

	if (!rx)
		return rpl_cli_fail("receive", RPL_EXIT_FAILED, "no memory");
	r = options(rx, argc, argv);
	if (r == 0)
		r = receive(rx);
	else if (r < 0)
		r = RPL_EXIT_DONE;
	stream_run_fini(&rx->run);
	stream_config_fini(&rx->config);
	free(rx->check.types);
	free(rx);
	return r;
}
