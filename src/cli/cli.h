/* cli.h - what the commands of `replicad` share
 *
 * A command is a function `int rpl_cmd_NAME(int argc, char **argv)`, argv[0] being the command's own name. It reads its
 * options with getopt_long() (already reset for it), prints results to stdout and complaints to stderr, and returns
 * an exit status of the list below. To add one: a line in RPL_COMMANDS, a file cmd_NAME.c, a page replicad-NAME(8).
 */
#ifndef RPL_CLI_H
#define RPL_CLI_H

#include <stddef.h>

#include <replicad/err.h>
#include <replicad/exit.h>

/* name, one-line help; in the order in which `replicad --help` lists them */
#define RPL_COMMANDS(X)                                                     \
	X(demo, "watch a real VM survive the death of its host")            \
	X(stream, "verify, show or convert a Xen save file or migration stream")

#define RPL_COMMAND_NAME_MAX 16

#define X(name, help) int rpl_cmd_##name(int argc, char **argv);
RPL_COMMANDS(X)
#undef X

/* Print "replicad NAME: sentence" to stderr and return `status`. */
int rpl_cli_fail(const char *command, int status, const char *fmt, ...) RPL_PRINTF(3, 4);

/* What a command says to a wrong call: the sentence, how to get help; returns RPL_EXIT_USAGE. */
int rpl_cli_usage(const char *command, const char *fmt, ...) RPL_PRINTF(2, 3);

/* The running program's own directory ("/usr/sbin"; in a build tree the tree's), or -errno. For finding a build
 * tree's files beside it; an installed program uses the configured directories. */
int rpl_cli_program_dir(char *buf, size_t size);

#endif
