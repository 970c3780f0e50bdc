/* cmd_qemu_args.c - `replicad qemu-args`: the arguments of a running QEMU, as its standby needs them */
#include "config.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include <replicad/auto.h>
#include <replicad/io.h>
#include <replicad/qemu.h>

#include "cli.h"
#include "vm_conf.h"

static const char help_text[] =
	"usage: replicad qemu-args [OPTION]... [VM]\n"
	"Write the arguments of a running QEMU, one a line: the form of a VM's standby= file.\n\n"
	"  -S, --standby          as a standby of it needs them: own paths, -S, -incoming defer\n"
	"  -q, --qmp PATH         the guest's monitor socket (default: what the configuration says about VM)\n"
	"  -d, --dir DIR          the standby's sockets and logs lie here (default: beside the primary's)\n"
	"  -r, --ram-dir DIR      the standby's RAM file lies here (default: beside the primary's)\n"
	"  -o, --output FILE      write this file, whole or not at all\n"
	"  -j, --json             an array of strings\n"
	"  -c, --config FILE      configuration (default " RPL_CLI_CONF_DEFAULT ")\n"
	"  -h, --help\n\n"
	"examples:\n"
	"  replicad qemu-args --qmp /run/web1.qmp --standby -o web1.standby\n"
	"  replicad qemu-args web1 --standby --dir /run/replicad | ssh beta tee /etc/replicad/web1.standby\n";

static const struct option options[] = {
	{ "standby", no_argument, NULL, 'S' },       { "qmp", required_argument, NULL, 'q' },
	{ "dir", required_argument, NULL, 'd' },     { "ram-dir", required_argument, NULL, 'r' },
	{ "output", required_argument, NULL, 'o' },  { "json", no_argument, NULL, 'j' },
	{ "config", required_argument, NULL, 'c' },  { "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

/* The file's lines as an array, without its comments. */
static char *as_json(char *text)
{
	json_t *a = json_array();
	char *save = NULL, *out;

	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		if (*line != '#')
			(void)json_array_append_new(a, json_string(strcmp(line, "\"\"") ? line : ""));
	out = json_dumps(a, JSON_INDENT(2));
	json_decref(a);
	return out;
}

static int emit(char *text, const char *output, bool json)
{
	RPL_AUTO_FREE char *made = json ? as_json(text) : NULL;
	const char *out = json ? made : text;
	struct rpl_err err;

	if (!out)
		return rpl_cli_fail("qemu-args", RPL_EXIT_FAILED, "no memory");
	if (output) {
		if (rpl_write_file_durably(output, out, strlen(out), 0644, &err) < 0)
			return rpl_cli_fail("qemu-args", RPL_EXIT_FAILED, "%s", err.msg);
		return RPL_EXIT_DONE;
	}
	if (printf("%s%s", out, json ? "\n" : "") < 0 || fflush(stdout) == EOF)
		return rpl_cli_fail("qemu-args", RPL_EXIT_FAILED, "write: %s", strerror(errno));
	return RPL_EXIT_DONE;
}

static int write_args(const char *qmp, const struct rpl_qemu_args_conf *conf, const char *output, bool json)
{
	RPL_AUTO_FREE char *text = NULL;
	size_t len = 0;
	FILE *mem = open_memstream(&text, &len);
	struct rpl_err err;
	int r;

	if (!mem)
		return rpl_cli_fail("qemu-args", RPL_EXIT_FAILED, "no memory");
	r = rpl_qemu_args(qmp, conf, mem, &err);
	if (fclose(mem) != 0 && r == 0)
		return rpl_cli_fail("qemu-args", RPL_EXIT_FAILED, "no memory");
	if (r < 0)
		return rpl_cli_fail("qemu-args", RPL_EXIT_FAILED, "%s", err.msg);
	return emit(text, output, json);
}

static int find_and_write(const char *vm, const char *qmp, const char *file, const struct rpl_qemu_args_conf *conf,
			  const char *output, bool json)
{
	const struct rpl_conf_vm *v;
	struct rpl_conf *c = NULL;
	int status;

	if (!qmp) {
		status = rpl_cli_vm_conf("qemu-args", file, vm, &c, &v);
		if (status != RPL_EXIT_DONE)
			return status;
		qmp = v->qmp;
		if (!*qmp) {
			rpl_conf_free(c);
			return rpl_cli_fail("qemu-args", RPL_EXIT_FAILED, "[vm %s] in %s has no qmp=; use --qmp PATH", vm, file);
		}
	}
	status = write_args(qmp, conf, output, json);
	rpl_conf_free(c);
	return status;
}

int rpl_cmd_qemu_args(int argc, char **argv)
{
	const char *file = RPL_CLI_CONF_DEFAULT, *qmp = NULL, *output = NULL;
	struct rpl_qemu_args_conf conf = { .standby = false };
	bool json = false;
	int opt;

	while ((opt = getopt_long(argc, argv, "Sq:d:r:o:jc:h", options, NULL)) != -1) {
		switch (opt) {
		case 'S':
			conf.standby = true;
			break;
		case 'q':
			qmp = optarg;
			break;
		case 'd':
			conf.dir = optarg;
			break;
		case 'r':
			conf.ram_dir = optarg;
			break;
		case 'o':
			output = optarg;
			break;
		case 'j':
			json = true;
			break;
		case 'c':
			file = optarg;
			break;
		case 'h':
			(void)fputs(help_text, stdout);
			return RPL_EXIT_DONE;
		default:
			return RPL_EXIT_USAGE;
		}
	}
	if (argc - optind > 1 || (argc == optind && !qmp))
		return rpl_cli_usage("qemu-args", "name one VM, or its monitor with --qmp PATH");
	if ((conf.dir || conf.ram_dir) && !conf.standby)
		return rpl_cli_usage("qemu-args", "--dir and --ram-dir belong to --standby");
	return find_and_write(argv[optind], qmp, file, &conf, output, json);
}
