/* cli.h - what the commands of `replicad` share
 *
 * A command is a function `int rpl_cmd_NAME(int argc, char **argv)`, argv[0] being the command's own name. It reads its
 * options with getopt_long() (already reset for it), prints results to stdout and complaints to stderr, and returns
 * an exit status of the list below. To add one: a line in RPL_COMMANDS, a file cmd_NAME.c, a page replicad-NAME(8).
 */
#ifndef RPL_CLI_H
#define RPL_CLI_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include <replicad/client.h>
#include <replicad/err.h>
#include <replicad/exit.h>

/* name, one-line help; in the order in which `replicad --help` lists them */
#define RPL_COMMANDS(X)                                                     \
	X(protect, "keep a running copy of a VM on a second host")              \
	X(unprotect, "stop protecting a VM, and leave nothing behind")          \
	X(failover, "have a VM run on its backup from now on")                      \
	X(solo, "go on without a backup that is dead, on your word")                \
	X(status, "what is protected, and what would survive")                  \
	X(events, "what happened")                                              \
	X(agent, "the daemon; check or show its configuration")                 \
	X(demo, "watch a real VM survive the death of its host")            \
	X(doctor, "would protection be refused, and what mends it")             \
	X(qemu_args, "the arguments that a QEMU guest's standby needs")         \
	X(save, "write a running Xen domain into an xl save file")          \
	X(restore, "build a Xen domain from what was saved, verified first")    \
	X(migrate, "move a running Xen domain to another host")                 \
	X(receive, "be the far end of a stock xl migrate or xl remus")          \
	X(stream, "verify, show or convert a Xen save file or migration stream")

#define RPL_COMMAND_NAME_MAX 16

#define X(name, help) int rpl_cmd_##name(int argc, char **argv);
RPL_COMMANDS(X)
#undef X

/* Print "replicad NAME: sentence" to stderr and return `status`. */
int rpl_cli_fail(const char *command, int status, const char *fmt, ...) RPL_PRINTF(3, 4);

/* What a command says to a wrong call: the sentence, how to get help; returns RPL_EXIT_USAGE. */
int rpl_cli_usage(const char *command, const char *fmt, ...) RPL_PRINTF(2, 3);

/* The VM that a call names behind its options, NULL if it names none and need not. RPL_EXIT_DONE, or it was said why not. */
int rpl_cli_vm(const char *command, int argc, char **argv, bool needed, const char **ret);
/* The value of --OPTION, `min` to `max`; likewise. */
int rpl_cli_number(const char *command, const char *option, const char *text, json_int_t min, json_int_t max,
		   json_int_t *ret);

/* The running program's own directory ("/usr/sbin"; in a build tree the tree's), or -errno. For finding a build
 * tree's files beside it; an installed program uses the configured directories. */
int rpl_cli_program_dir(char *buf, size_t size);

/* ---- talking to the agent */

/* Which agent: -s PATH, or -c FILE (the agent of that configuration), or the default. Put RPL_CLI_TARGET_OPTIONS into the
 * list of long options and "s:c:" into the short ones; give both to rpl_cli_target(). */
struct rpl_cli_target {
	const char *command; /* for messages */
	char socket[160];    /* "" = the default */
};
#define RPL_CLI_TARGET_OPTIONS { "socket", required_argument, NULL, 's' }, { "config", required_argument, NULL, 'c' }
#define RPL_CLI_TARGET_HELP                                                                             \
	"  -s, --socket PATH      the agent's control socket (default $REPLICAD_SOCKET, " RPL_RUNDIR "/agent.sock)\n" \
	"  -c, --config FILE      the agent of that configuration, wherever its socket is\n"
/* Returns RPL_EXIT_DONE, or says why not and returns an exit status. */
int rpl_cli_target(struct rpl_cli_target *t, int opt, const char *value);

/* NULL: it was said why, and *ret_status is what to exit with. */
struct rpl_client *rpl_cli_connect(const struct rpl_cli_target *t, int *ret_status);
/* Ask and wait. RPL_EXIT_DONE and *ret (the caller's reference), or it was said why not. The request's reference is
 * taken. */
int rpl_cli_ask(const struct rpl_cli_target *t, struct rpl_client *c, json_t *request, unsigned timeout_ms, json_t **ret);
/* The same on a connection of its own. */
int rpl_cli_call(const struct rpl_cli_target *t, json_t *request, unsigned timeout_ms, json_t **ret);
/* A connection on which rpl_client_event() tells what happens to a VM from now on. NULL as above. */
struct rpl_client *rpl_cli_follow(const struct rpl_cli_target *t, const char *vm, int *ret_status);

#define RPL_CLI_TIMEOUT_MS 10000 /* for an answer that the agent has at hand */

/* "" if the field is absent or no string */
const char *rpl_cli_text(const json_t *o, const char *field);

#endif
