/* spawn.c - keeper.json, and starting a keeper so that it outlives the agent */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/close_range.h>

#include <replicad/auto.h>
#include <replicad/io.h>

#define KEEPER_PROGRAM "replicad-keeper"
#define EXIT_EXEC_FAILED 127

static json_t *section_json(enum rpl_conf_section section, const void *base)
{
	size_t n;
	const struct rpl_conf_key *k = rpl_conf_keys(section, &n);
	json_t *o = json_object();

	for (size_t i = 0; i < n; i++) {
		const char *p = (const char *)base + k[i].offset;
		json_t *v;

		if (k[i].type == RPL_CONF_INT)
			v = json_integer(*(const int64_t *)(const void *)p);
		else if (k[i].type == RPL_CONF_BOOL)
			v = json_boolean(*(const bool *)p);
		else
			v = json_string(p);
		(void)json_object_set_new(o, k[i].name, v);
	}
	return o;
}

/* The peer that `backup` names; where nothing is named and there is only one, that one. */
static const struct rpl_conf_peer *peer_of(const struct rpl_conf *c, const struct rpl_conf_vm *vm)
{
	if (vm->backup[0])
		return rpl_conf_peer(c, vm->backup);
	return c->n_peers == 1 ? &c->peers[0] : NULL;
}

/* All "" if there is no peer. */
static json_t *peer_json(const struct rpl_conf *c, const struct rpl_conf_vm *vm)
{
	const struct rpl_conf_peer *p = peer_of(c, vm);
	const char *address = p ? p->address : vm->backup;
	char host[RPL_CONF_TEXT_MAX] = "", port[6] = "", text[RPL_CONF_TEXT_MAX + 16] = "";

	if (address[0] && rpl_conf_address(address, host, port, NULL) == 0)
		(void)snprintf(text, sizeof(text), strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
	return json_pack("{s:s, s:s, s:s}", "name", p ? p->name : host, "address", text, "identity", p ? p->identity : "");
}

/* Whole or not at all, but not through a power failure: run_dir does not outlive one, and a keeper that has to be started
 * again within moments should not wait for a disk. */
static int replace_file(const char *path, const char *text, struct rpl_err *err)
{
	RPL_AUTO_FD int fd = -1;
	char tmp[PATH_MAX];
	int r = rpl_path(tmp, sizeof(tmp), err, "%s.new", path);

	if (r < 0)
		return r;
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return rpl_fail_errno(err, errno, "create %s", tmp);
	r = rpl_write_full(fd, text, strlen(text));
	if (r == 0 && rename(tmp, path) < 0)
		r = -errno;
	return r < 0 ? rpl_fail_errno(err, -r, "write %s", path) : 0;
}

int rpl_spawn_write_conf(const struct rpl_agent *a, const struct rpl_conf_vm *vm, const char *dir, const char *role,
			 unsigned restarts, struct rpl_err *err)
{
	RPL_AUTO_FREE char *text = NULL;
	char path[PATH_MAX];
	json_t *o;
	int r;

	o = json_pack("{s:i, s:s, s:s, s:s, s:s, s:i, s:o, s:o, s:o}", "v", RPL_CONTROL_VERSION, "vm", vm->name, "dir", dir,
		      "libexec_dir", a->args.libexec_dir, "role", role, "restarts", (int)restarts, "agent",
		      section_json(RPL_CONF_AGENT, &a->conf->agent), "peer", peer_json(a->conf, vm), "config",
		      section_json(RPL_CONF_VM, vm));
	if (o) { /* what --debug and a 0 stand for is decided here, once */
		(void)json_object_set_new(json_object_get(o, "agent"), "log_level", json_string(rpl_agent_log_level(a)));
		(void)json_object_set_new(json_object_get(o, "config"), "stall_ms", json_integer(rpl_conf_stall_ms(vm)));
	}
	text = o ? json_dumps(o, JSON_INDENT(1)) : NULL;
	json_decref(o);
	if (!text)
		return rpl_fail(err, -ENOMEM, "[vm %s]: no memory for %s", vm->name, RPL_KEEPER_CONF);
	r = rpl_path(path, sizeof(path), err, "%s/%s", dir, RPL_KEEPER_CONF);
	return r < 0 ? r : replace_file(path, text, err);
}

/* In the child: nothing of the agent's but stdin, and stderr for the log. */
static void become(const char *program, const char *const *argv, int log_fd)
{
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	sigset_t none;

	(void)setsid();
	(void)sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)signal(SIGPIPE, SIG_DFL);
	(void)dup2(null_fd, STDIN_FILENO);
	(void)dup2(null_fd, STDOUT_FILENO);
	if (log_fd >= 0)
		(void)dup2(log_fd, STDERR_FILENO);
	(void)close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
	if (chdir("/") < 0)
		_exit(EXIT_EXEC_FAILED);
	(void)execv(program, (char *const *)(uintptr_t)argv);
	(void)dprintf(STDERR_FILENO, "run %s: %s\n", program, strerror(errno));
	_exit(EXIT_EXEC_FAILED);
}

pid_t rpl_spawn(const struct rpl_agent *a, const char *log, const char *const *argv, struct rpl_err *err)
{
	RPL_AUTO_FD int log_fd = -1;
	char program[PATH_MAX];
	pid_t pid;
	int r = rpl_path(program, sizeof(program), err, "%s/%s", a->args.libexec_dir, argv[0]);

	if (r < 0)
		return r;
	if (access(program, X_OK) < 0)
		return rpl_fail_errno(err, errno, "run %s", program);
	if (!getenv("JOURNAL_STREAM")) {
		log_fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
		if (log_fd < 0)
			return rpl_fail_errno(err, errno, "open %s", log);
	}
	pid = fork();
	if (pid < 0)
		return rpl_fail_errno(err, errno, "fork for %s", argv[0]);
	if (pid == 0)
		become(program, argv, log_fd);
	return pid;
}

pid_t rpl_spawn_keeper(const struct rpl_agent *a, const char *vm, const char *dir, struct rpl_err *err)
{
	const char *argv[] = { KEEPER_PROGRAM, "--vm", vm, "--dir", dir, NULL };
	char log[PATH_MAX];
	int r = rpl_path(log, sizeof(log), err, "%s/" RPL_KEEPER_LOG, dir);

	return r < 0 ? r : rpl_spawn(a, log, argv, err);
}
