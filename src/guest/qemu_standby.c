/* qemu_standby.c - the standby instance: a QEMU of our own that waits for device state
 *
 * Its command line is the operator's file on this host (the peer never supplies one): one argument a line. It must
 * have -S and -incoming defer, so that it never runs by itself, a monitor socket and a RAM file of its own. It loads a
 * peer's device state, so it gets QEMU's own system call filter unless the file says otherwise. It gets a
 * session of its own and outlives us; a keeper that is restarted adopts it. A RAM file that is left from earlier is
 * unlinked first, not reused: if some guest still runs on it, that guest keeps its memory.
 */
#include "qemu_impl.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/io.h>
#include <replicad/log.h>

#define LOG_TAIL_MAX 65536
#define STANDBY_RESERVE (UINT64_C(64) << 20) /* for QEMU itself and the epochs that are staged */
#define STANDBY_UMASK 077 /* RAM file, monitor and other sockets: its user's and root's alone */
#define SANDBOX "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

/* ---- the argv file */

int qemu_parse_argv(char *text, char *argv[QEMU_ARGS_MAX + 1], struct rpl_err *err)
{
	size_t n = 0;
	char *save = NULL;

	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		size_t len;

		while (isspace((unsigned char)*line))
			line++;
		len = strlen(line);
		while (len && isspace((unsigned char)line[len - 1]))
			line[--len] = '\0';
		if (!len || *line == '#')
			continue;
		if (n == QEMU_ARGS_MAX)
			return rpl_fail(err, -E2BIG, "more than %d arguments", QEMU_ARGS_MAX);
		if (strcmp(line, "\"\"") == 0)
			*line = '\0'; /* the one way to write an empty argument */
		argv[n++] = line;
	}
	argv[n] = NULL;
	return n ? 0 : rpl_fail(err, -EINVAL, "it holds no arguments (one a line)");
}

/* The value of KEY in "a,b=c,KEY=value,..."; false if it is not there or too long. */
static bool option_value(const char *opts, const char *key, char *ret, size_t cap)
{
	size_t len = strlen(key);

	for (const char *p = opts; *p; p += strcspn(p, ","), p += *p == ',') {
		if (strncmp(p, key, len) != 0 || p[len] != '=')
			continue;
		p += len + 1;
		len = strcspn(p, ",");
		if (len == 0 || len >= cap)
			return false;
		memcpy(ret, p, len);
		ret[len] = '\0';
		return true;
	}
	return false;
}

/* QEMU takes options with one dash or two. */
static bool has_option(const char *arg, const char *name)
{
	if (*arg++ != '-')
		return false;
	return strcmp(arg + (*arg == '-'), name) == 0;
}

int qemu_check_argv(char *const argv[], const char *conf_qmp, char qmp_path[256], char ram_path[256], struct rpl_err *err)
{
	bool stopped = false, deferred = false, backend = false;

	qmp_path[0] = ram_path[0] = '\0';
	for (size_t i = 1; argv[0] && argv[i]; i++) {
		const char *next = argv[i + 1] ? argv[i + 1] : "";

		if (has_option(argv[i], "S"))
			stopped = true;
		else if (has_option(argv[i], "incoming"))
			deferred = strcmp(next, "defer") == 0;
		else if (has_option(argv[i], "qmp") && strncmp(next, "unix:", 5) == 0 && !qmp_path[0])
			(void)snprintf(qmp_path, 256, "%.*s", (int)strcspn(next + 5, ","), next + 5);
		else if (has_option(argv[i], "object") && strncmp(next, "memory-backend-", 15) == 0) {
			backend = true;
			(void)option_value(next, "mem-path", ram_path, 256);
		}
	}
	if (!stopped || !deferred)
		return rpl_fail(err, -EINVAL, "%s is missing: a standby must never run by itself; add the two lines '-S' and '-incoming', 'defer'",
				stopped ? "-incoming defer" : "-S");
	if (!qmp_path[0])
		return rpl_fail(err, -EINVAL, "no '-qmp' followed by 'unix:PATH,server=on,wait=off'");
	if (conf_qmp && strcmp(conf_qmp, qmp_path) != 0)
		return rpl_fail(err, -EINVAL, "its monitor is %.80s, but %.80s is configured", qmp_path, conf_qmp);
	if (!backend)
		return rpl_fail(err, -EINVAL, "no shared RAM: add '-object' and 'memory-backend-file,id=ram0,size=...,mem-path=...,share=on'");
	return 0;
}

int qemu_confine_argv(char *argv[QEMU_ARGS_MAX + 1], struct rpl_err *err)
{
	size_t n = 0;

	for (; argv[n]; n++)
		if (n && has_option(argv[n], "sandbox"))
			return 0;
	if (n + 2 > QEMU_ARGS_MAX)
		return rpl_fail(err, -E2BIG, "%zu arguments: no room for -sandbox beside them, at most %d", n, QEMU_ARGS_MAX);
	argv[n] = (char *)(uintptr_t)"-sandbox";
	argv[n + 1] = (char *)(uintptr_t)SANDBOX;
	argv[n + 2] = NULL;
	return 0;
}

int qemu_load_argv(struct qemu *q, struct rpl_err *err)
{
	RPL_AUTO_FREE char *text = NULL;
	const char *path = q->g->conf.standby_path;
	char *argv[QEMU_ARGS_MAX + 1];
	int r;

	for (size_t i = 0; q->argv[i]; i++) {
		free(q->argv[i]);
		q->argv[i] = NULL;
	}
	r = rpl_read_file(path, QEMU_ARGV_FILE_MAX, &text, NULL, err);
	if (r < 0)
		return r;
	r = qemu_parse_argv(text, argv, err);
	if (r == 0)
		r = qemu_check_argv(argv, q->g->conf.qmp_path, q->qmp_path, q->ram_path, err);
	if (r == 0)
		r = qemu_confine_argv(argv, err);
	if (r < 0)
		return rpl_prefix(err, "standby file %.80s", path);
	for (size_t i = 0; argv[i]; i++) {
		q->argv[i] = strdup(argv[i]);
		if (!q->argv[i])
			return rpl_fail(err, -ENOMEM, "no memory for the standby's arguments");
	}
	return 0;
}

/* ---- starting it */

struct identity {
	bool change;
	char name[64];
	uid_t uid;
	gid_t gid;
};

static int find_user(const char *user, struct identity *ret, struct rpl_err *err)
{
	struct passwd *pw;

	*ret = (struct identity){ .change = false };
	if (!user)
		return 0;
	errno = 0;
	pw = getpwnam(user);
	if (!pw)
		return rpl_fail(err, -EINVAL, "standby_user %.60s does not exist", user);
	ret->change = true;
	ret->uid = pw->pw_uid;
	ret->gid = pw->pw_gid;
	(void)snprintf(ret->name, sizeof(ret->name), "%s", user);
	return 0;
}

RPL_NORETURN static void child(struct qemu *q, const struct identity *who, int log)
{
	sigset_t none;
	int null = open("/dev/null", O_RDONLY);

	(void)setsid(); /* a terminal's or our group's signals do not reach it */
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)signal(SIGPIPE, SIG_DFL);
	if (dup2(null, 0) < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0)
		_exit(126);
	(void)umask(STANDBY_UMASK);
	if (who->change && (initgroups(who->name, who->gid) < 0 || setgid(who->gid) < 0 || setuid(who->uid) < 0)) {
		dprintf(2, "cannot become user %s: %s\n", who->name, strerror(errno));
		_exit(126);
	}
	(void)execvp(q->argv[0], q->argv);
	dprintf(2, "cannot run %s: %s\n", q->argv[0], strerror(errno));
	_exit(127);
}

static int open_log(struct qemu *q, struct rpl_err *err)
{
	int fd;

	if (!q->g->conf.run_dir) {
		fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
		return fd < 0 ? rpl_fail_errno(err, errno, "open /dev/null") : fd;
	}
	fd = open(q->log_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	return fd < 0 ? rpl_fail_errno(err, errno, "open %s", q->log_path) : fd;
}

static bool remove_old(const char *path)
{
	struct stat st;

	/* only what QEMU made: sockets and plain files */
	return path[0] && lstat(path, &st) == 0 && (S_ISREG(st.st_mode) || S_ISSOCK(st.st_mode)) && unlink(path) == 0;
}

static int spawn(struct qemu *q, struct rpl_err *err)
{
	RPL_AUTO_FD int log = open_log(q, err);
	struct identity who;
	pid_t pid;
	int r;

	if (log < 0)
		return log;
	r = find_user(q->g->conf.standby_user, &who, err);
	if (r < 0)
		return r;
	(void)remove_old(q->qmp_path);
	(void)remove_old(q->ram_path);
	pid = fork();
	if (pid < 0)
		return rpl_fail_errno(err, errno, "fork");
	if (pid == 0)
		child(q, &who, log);
	q->ours = true;
	return qemu_watch_process(q, pid, err);
}

/* The last line that it wrote is usually the reason. */
void qemu_standby_died(struct qemu *q, struct rpl_err *err)
{
	RPL_AUTO_FREE char *text = NULL;
	size_t len = 0;
	char *last;

	if (!q->log_path[0] || rpl_read_file(q->log_path, LOG_TAIL_MAX, &text, &len, NULL) < 0)
		return;
	while (len && isspace((unsigned char)text[len - 1]))
		text[--len] = '\0';
	last = strrchr(text, '\n');
	last = last ? last + 1 : text;
	if (*last)
		(void)rpl_fail(err, err->code, "the standby QEMU ended: %.180s", last);
}

static void on_poll(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct qemu *q = w->data;
	struct rpl_err err;

	(void)loop;
	(void)revents;
	if (qemu_connect(q, q->qmp_path, &err) < 0)
		return; /* not there yet; its exit and the time-out end the wait */
	ev_timer_stop(q->g->loop, &q->poll);
}

int qemu_start_standby(struct rpl_guest *g, struct rpl_err *err)
{
	struct qemu *q = qemu_of(g);
	int r;

	if (!g->conf.standby_path)
		return rpl_fail(err, -EINVAL, "%s: no standby file is configured (standby=PATH); 'replicad qemu-args --standby' writes one",
				g->conf.name);
	r = qemu_load_argv(q, err);
	if (r < 0)
		return rpl_prefix(err, "%s: standby", g->conf.name);
	if (g->conf.run_dir)
		(void)snprintf(q->log_path, sizeof(q->log_path), "%.180s/%.60s.standby.log", g->conf.run_dir, g->conf.name);
	q->standby = true;
	q->over = q->quitting = q->shutdown_seen = false;
	if (qemu_connect(q, q->qmp_path, err) == 0) {
		rpl_log(RPL_LOG_DEBUG, "vm=%s adopting the standby at %s", g->conf.name, q->qmp_path);
		return 0;
	}
	r = g->adopt ? err->code : spawn(q, err);
	if (r < 0)
		return rpl_prefix(err, "%s: standby", g->conf.name);
	ev_timer_init(&q->poll, on_poll, QEMU_POLL_MS / 1000., QEMU_POLL_MS / 1000.);
	q->poll.data = q;
	ev_timer_start(g->loop, &q->poll);
	return 0;
}

/* ---- what it holds for us: QEMU keeps a descriptor that it was given by name until it is given another, or ends */

static void on_entrusted(void *arg, json_t *ret, const struct rpl_err *err)
{
	const struct qemu *q = arg;

	(void)ret;
	if (err)
		rpl_log(RPL_LOG_WARNING, "vm=%s entrust=failed reason=\"%s\"", q->g->conf.name, err->msg);
}

int qemu_entrust(struct rpl_guest *g, const char *name, int fd, struct rpl_err *err)
{
	return qmp_call(qemu_of(g)->qmp, "getfd", json_pack("{s:s}", "fdname", name), fd, on_entrusted, err);
}

int qemu_entrusted(const struct rpl_guest *g, const char *name, struct rpl_err *err)
{
	return procmem_open_memfd(qemu_of(g)->pid, name, err);
}

/* ---- readying it */

static void on_events_capability(void *arg, json_t *ret, const struct rpl_err *err)
{
	struct qemu *q = arg;

	(void)ret;
	if (err)
		qemu_op_failed(q, err);
	else
		qemu_collect(q);
}

/* Without this capability the end of an incoming migration is not announced. */
void qemu_standby_ready(struct qemu *q, json_t *version)
{
	(void)version; /* judged with the other facts */
	qemu_step(q, "migrate-set-capabilities",
		  json_pack("{s:[{s:s, s:b}]}", "capabilities", "capability", "events", "state", 1), on_events_capability);
}

/* The guest's memory will be written into this standby's: a filesystem that is full then would kill whoever writes. */
static int check_room(const struct qemu *q, struct rpl_err *err)
{
	uint64_t need = q->g->info.ram_bytes, room = 0;
	struct stat st = { .st_blocks = 0 };
	struct statvfs fs;
	int r = rpl_available_memory(&room, err);

	if (r < 0)
		return r;
	if (!q->ram.memfd && stat(q->ram_path, &st) < 0)
		return rpl_fail_errno(err, errno, "RAM file %.100s", q->ram_path);
	need -= (uint64_t)st.st_blocks * 512 < need ? (uint64_t)st.st_blocks * 512 : need; /* one that is adopted is filled */
	if (room < need + STANDBY_RESERVE)
		return rpl_fail(err, -ENOMEM, "the copy needs %" PRIu64 " MiB of this host's memory, %" PRIu64 " MiB are available: free some",
				(need + STANDBY_RESERVE) >> 20, room >> 20);
	if (q->ram.memfd)
		return 0;
	if (statvfs(q->ram_path, &fs) < 0)
		return rpl_fail_errno(err, errno, "filesystem of %.100s", q->ram_path);
	room = (uint64_t)fs.f_bavail * fs.f_bsize;
	if (room < need)
		return rpl_fail(err, -ENOSPC, "RAM file %.100s needs %" PRIu64 " MiB more, its filesystem has %" PRIu64
				" MiB free: make it larger (mount -o remount,size=...), or put the file elsewhere",
				q->ram_path, need >> 20, room >> 20);
	return 0;
}

void qemu_standby_inspected(struct qemu *q)
{
	const char *status = json_string_value(json_object_get(q->facts.fact[QF_STATUS], "status"));
	struct rpl_err err;

	if (!status || strcmp(status, "inmigrate") != 0) {
		(void)rpl_fail(&err, -EBUSY, "the QEMU at %.100s is '%.20s', not waiting for device state: it is no standby; stop it or configure another socket",
			       q->qmp_path, status ? status : "?");
		q->standby = q->ours = false; /* leave it alone */
		qemu_op_failed(q, &err);
		return;
	}
	q->ours = true;
	if (q->ram.path[0])
		(void)snprintf(q->ram_path, sizeof(q->ram_path), "%s", q->ram.path);
	if (check_room(q, &err) < 0)
		qemu_op_failed(q, &err);
	else
		rpl_guest_op_done(q->g, 0, NULL);
}

/* Are these the words of that process's command line? */
static bool was_started_with(pid_t pid, char *const argv[])
{
	RPL_AUTO_FREE char *text = NULL;
	const char *p, *end;
	char path[64];
	size_t len = 0;

	(void)snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
	if (rpl_read_file(path, QEMU_ARGV_FILE_MAX, &text, &len, NULL) < 0)
		return false;
	for (p = text, end = text + len; *argv && p < end; argv++, p += strlen(p) + 1)
		if (strcmp(p, *argv) != 0)
			return false;
	return !*argv && p >= end;
}

void qemu_standby_reclaim(struct qemu *q, pid_t pid)
{
	struct rpl_err err;

	q->ours = q->g->conf.standby_path && qemu_load_argv(q, &err) == 0 && was_started_with(pid, q->argv);
}

size_t qemu_standby_made(const struct rpl_guest *g, const char *ret[RPL_GUEST_MADE_MAX])
{
	const struct qemu *q = qemu_of(g);
	const char *all[] = { q->qmp_path, q->ram_path, q->log_path };
	size_t n = 0;

	_Static_assert(RPL_ARRAY_LEN(all) == RPL_GUEST_MADE_MAX, "room for each");
	for (size_t i = 0; q->ours && i < RPL_ARRAY_LEN(all); i++)
		if (all[i][0])
			ret[n++] = all[i];
	return n;
}

/* Let go: a standby that never ran is killed, and its files go with it; one that was activated runs on. */
void qemu_standby_fini(struct qemu *q)
{
	siginfo_t si;
	bool dead = q->over;

	if (!q->ours)
		return;
	if (q->standby && q->watched && !q->over) {
		(void)pidfd_send_signal(q->pidfd, SIGKILL, NULL, 0);
		(void)waitid(P_PIDFD, (id_t)q->pidfd, &si, WEXITED); /* ECHILD if adopted: init reaps it */
		dead = true;
	}
	if (!dead)
		return;
	(void)remove_old(q->qmp_path);
	(void)remove_old(q->ram_path);
	if (q->log_path[0])
		(void)unlink(q->log_path);
}
