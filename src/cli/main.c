/* main.c - one program, `replicad`, in the manner of git: finds the command and runs it */
#include "config.h"

#include <errno.h>
#include <getopt.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <replicad/auto.h>

#include "cli.h"

static const struct command {
	const char *name;
	int (*fn)(int argc, char **argv);
	const char *help;
} commands[] = {
#define X(name, help) { #name, rpl_cmd_##name, help },
	RPL_COMMANDS(X)
#undef X
};

/* A command's name as people type it: C has no '-' in names ("qemu_args" is `replicad qemu-args`). */
static const char *typed_name(const char *name, char buf[RPL_COMMAND_NAME_MAX])
{
	(void)snprintf(buf, RPL_COMMAND_NAME_MAX, "%s", name);
	for (char *p = buf; *p; p++)
		if (*p == '_')
			*p = '-';
	return buf;
}

static void help(FILE *out)
{
	char name[RPL_COMMAND_NAME_MAX];

	(void)fprintf(out, "replicad keeps a running copy of a virtual machine on a second host and lets it take over\n"
			   "when the first dies, without losing anything a client was told.\n\n"
			   "usage: replicad COMMAND [ARGUMENT]...\n\ncommands:\n");
	for (size_t i = 0; i < RPL_ARRAY_LEN(commands); i++)
		(void)fprintf(out, "  %-12s %s\n", typed_name(commands[i].name, name), commands[i].help);
	(void)fprintf(out, "\nexamples:\n"
			   "  replicad demo                                       see it work on this machine\n"
			   "  replicad protect web1 --qmp /run/web1.qmp --backup beta\n"
			   "                                                      keep a copy of web1 on host beta\n"
			   "  replicad status                                     what is protected, what would survive\n"
			   "  replicad failover web1                              run it on beta, with nothing lost\n"
			   "  replicad unprotect web1                             stop, and leave nothing behind\n"
			   "\nexit status: 0 done, 1 failed, 2 usage, 3 refused as unsafe, 4 agent unreachable\n"
			   "`replicad COMMAND --help` and the page replicad-COMMAND(8) say more.\n");
}

static const struct command *find_command(const char *typed)
{
	char name[RPL_COMMAND_NAME_MAX];

	for (size_t i = 0; i < RPL_ARRAY_LEN(commands); i++)
		if (strcmp(typed_name(commands[i].name, name), typed) == 0)
			return &commands[i];
	return NULL;
}

int rpl_cli_program_dir(char *buf, size_t size)
{
	char path[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);
	const char *dir;

	if (n < 0)
		return -errno;
	path[n] = '\0';
	dir = dirname(path);
	/* libtool keeps the real program of a build tree in .libs */
	if (strlen(dir) > 6 && strcmp(dir + strlen(dir) - 6, "/.libs") == 0)
		path[strlen(dir) - 6] = '\0';
	if (strlen(dir) >= size)
		return -ENAMETOOLONG;
	memcpy(buf, dir, strlen(dir) + 1);
	return 0;
}

static int run(int argc, char **argv)
{
	static char help_option[] = "--help";
	const struct command *c;

	if (argc < 2) {
		help(stderr);
		return RPL_EXIT_USAGE;
	}
	if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
		(void)printf("replicad %s\n", PACKAGE_VERSION);
		return RPL_EXIT_DONE;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || (strcmp(argv[1], "help") == 0 && argc == 2)) {
		help(stdout);
		return RPL_EXIT_DONE;
	}
	if (strcmp(argv[1], "help") == 0) { /* `replicad help status` is `replicad status --help` */
		argv[1] = argv[2];
		argv[2] = help_option;
		argc = 3;
	}
	c = find_command(argv[1]);
	if (!c) {
		(void)fprintf(stderr, "replicad: '%s' is no command of replicad; see `replicad --help`\n", argv[1]);
		return RPL_EXIT_USAGE;
	}
	optind = 0; /* glibc: start anew for the command's own options */
	return c->fn(argc - 1, argv + 1);
}

int main(int argc, char **argv)
{
	int status = run(argc, argv);

	if (fflush(stdout) != EOF && !ferror(stdout))
		return status;
	(void)fprintf(stderr, "replicad: write to standard output: %s\n", strerror(errno));
	return status == RPL_EXIT_DONE ? RPL_EXIT_FAILED : status;
}
