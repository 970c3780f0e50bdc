/* qemu_args.c - the arguments of a running QEMU, as they are or adapted for its standby
 *
 * A standby must have the same machine and devices, but its own files: RAM, monitor, sockets, logs. Every path that an
 * option of QEMU creates or listens at is given the prefix "standby-" (and another directory, if asked), so that a
 * standby on the same machine never meets its primary. Options that make a guest run, load or detach by itself go.
 */
#include <replicad/qemu.h>

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/io.h>

#include "qemu_impl.h"

#define CMDLINE_MAX (256 * 1024)
#define PREFIX "standby-"

/* Options that a standby must not have, or gets in its own form. */
static const struct {
	const char *name;
	bool value;
} dropped[] = {
	{ "S", false }, { "incoming", true }, { "daemonize", false }, { "pidfile", true }, { "loadvm", true },
};

/* Keys whose value is a path that the option's QEMU creates, or that belongs to its side only. */
static const char *const path_keys[] = { "mem-path", "path", "local.path", "remote.path" };

/* Options whose whole value is "unix:PATH,..." or "file:PATH" or a path. */
static const char *const path_options[] = { "qmp", "qmp-pretty", "monitor", "serial", "D", "debugcon" };

static const char *option_name(const char *arg)
{
	if (*arg != '-')
		return NULL;
	return arg[1] == '-' ? arg + 2 : arg + 1;
}

static bool is_one_of(const char *s, size_t len, const char *const *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strlen(list[i]) == len && memcmp(s, list[i], len) == 0)
			return true;
	return false;
}

static void put_path(FILE *out, const char *path, size_t len, const char *dir)
{
	const char *slash = memrchr(path, '/', len);
	size_t head = slash ? (size_t)(slash - path) + 1 : 0;

	if (dir)
		(void)fprintf(out, "%s/", dir);
	else
		(void)fwrite(path, 1, head, out);
	(void)fprintf(out, "%s%.*s", PREFIX, (int)(len - head), path + head);
}

/* "driver,key=value,..." with the values of path keys changed. A backend's id=ram0,mem-path=... is of this form too. */
static void put_keyed(FILE *out, const char *value, const struct rpl_qemu_args_conf *conf)
{
	while (*value) {
		size_t len = strcspn(value, ","), key = strcspn(value, "=,");

		if (key < len && is_one_of(value, key, path_keys, RPL_ARRAY_LEN(path_keys))) {
			bool ram = key == strlen("mem-path");

			(void)fprintf(out, "%.*s=", (int)key, value);
			put_path(out, value + key + 1, len - key - 1, ram ? conf->ram_dir : conf->dir);
		} else {
			(void)fprintf(out, "%.*s", (int)len, value);
		}
		value += len;
		if (*value == ',')
			(void)fputc(*value++, out);
	}
}

/* Where in "unix:PATH,server=on", "file:PATH" or "PATH" the path begins; false: there is none ("stdio", "tcp:..."). */
static bool path_in(const char *value, size_t *ret_at)
{
	*ret_at = strncmp(value, "unix:", 5) == 0 || strncmp(value, "file:", 5) == 0 ? 5 : 0;
	return value[*ret_at] == '/';
}

static void put_value(FILE *out, const char *option, const char *value, const struct rpl_qemu_args_conf *conf)
{
	size_t at, len;

	if (!is_one_of(option, strlen(option), path_options, RPL_ARRAY_LEN(path_options))) {
		put_keyed(out, value, conf);
		return;
	}
	if (!path_in(value, &at)) {
		(void)fputs(value, out);
		return;
	}
	len = strcspn(value + at, ",");
	(void)fprintf(out, "%.*s", (int)at, value);
	put_path(out, value + at, len, conf->dir);
	(void)fputs(value + at + len, out);
}

static int check_argument(const char *arg, struct rpl_err *err)
{
	if (strchr(arg, '\n'))
		return rpl_fail(err, -EINVAL, "an argument holds a line break, which the file cannot: '%.80s'", arg);
	if (*arg && (isspace((unsigned char)arg[0]) || arg[0] == '#' || isspace((unsigned char)arg[strlen(arg) - 1])))
		return rpl_fail(err, -EINVAL, "an argument begins or ends with a space, or begins with '#': '%.80s'", arg);
	return 0;
}

/* How many arguments from here (an option, and its value) are to be left out. */
static size_t dropped_here(const char *arg)
{
	const char *name = option_name(arg);

	for (size_t i = 0; name && i < RPL_ARRAY_LEN(dropped); i++)
		if (strcmp(name, dropped[i].name) == 0)
			return dropped[i].value ? 2 : 1;
	return 0;
}

static int put_argument(FILE *out, const char *arg, const char *option, const struct rpl_qemu_args_conf *conf,
			struct rpl_err *err)
{
	int r = check_argument(arg, err);

	if (r < 0)
		return r;
	if (!*arg)
		(void)fputs("\"\"", out);
	else if (conf->standby && option)
		put_value(out, option, arg, conf);
	else
		(void)fputs(arg, out);
	(void)fputc('\n', out);
	return 0;
}

int rpl_qemu_args_write(const char *cmdline, size_t len, const struct rpl_qemu_args_conf *conf, FILE *out,
			struct rpl_err *err)
{
	const char *arg = cmdline, *end = cmdline + len, *option = NULL;
	size_t skip = 0;
	int r;

	if (len == 0 || cmdline[len - 1] != '\0')
		return rpl_fail(err, -ESRCH, "the process has no arguments: it is ending");
	for (; arg < end; arg += strlen(arg) + 1) {
		if (!skip && conf->standby && arg != cmdline)
			skip = dropped_here(arg);
		if (skip) {
			skip--;
			option = NULL;
			continue;
		}
		r = put_argument(out, arg, option, conf, err);
		if (r < 0)
			return r;
		option = arg != cmdline ? option_name(arg) : NULL;
	}
	if (conf->standby)
		(void)fputs("-S\n-incoming\ndefer\n", out);
	return 0;
}

/* The process behind a listening socket, without a word to it. */
static int find_listener(const char *qmp_path, pid_t *ret, struct rpl_err *err)
{
	RPL_AUTO_FD int fd = rpl_unix_connect(qmp_path, SOCK_STREAM | SOCK_NONBLOCK, err);
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (fd < 0)
		return fd == -ECONNREFUSED ? rpl_fail(err, -ESRCH, "%s: nobody listens there: the guest is not running", qmp_path)
					   : fd;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return rpl_fail_errno(err, errno, "%s: who listens there", qmp_path);
	if (cred.pid <= 0)
		return rpl_fail(err, -ESRCH, "%s: the process that listens there is not visible from here", qmp_path);
	*ret = cred.pid;
	return 0;
}

int rpl_qemu_args(const char *qmp_path, const struct rpl_qemu_args_conf *conf, FILE *out, struct rpl_err *err)
{
	RPL_AUTO_FREE char *cmdline = NULL;
	char path[64];
	size_t len;
	pid_t pid = 0;
	int r;

	r = find_listener(qmp_path, &pid, err);
	if (r < 0)
		return r;
	(void)snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
	r = rpl_read_file(path, CMDLINE_MAX, &cmdline, &len, err);
	if (r < 0)
		return r;
	if (conf->standby)
		(void)fprintf(out, "# The standby of the guest at %s, made by replicad qemu-args; one argument a line.\n"
				   "# Check the paths: each must be possible on the host that holds the standby, and\n"
				   "# the netdev's remote.path must be the relay's socket there.\n", qmp_path);
	return rpl_qemu_args_write(cmdline, len, conf, out, err);
}
