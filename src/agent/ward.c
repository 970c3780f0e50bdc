/* ward.c - one VM on this node: its keeper's life as the agent sees it
 *
 * NONE ── start ──> STARTING ── its socket answers ──> RUNNING
 *                      │                                  │
 *                      └───── the process is gone ────────┤
 *                                                         ├── on purpose ("end", or asked to) ──> NONE, directory removed
 *                                                         └── else ──> DEAD ── backoff ──> STARTING
 * A keeper that died while no agent was there is DEAD at the next one's start: its notes say so, which one that ends on
 * purpose takes with it.
 *
 * The process is watched by pidfd, be it our child or one that an earlier agent started (SO_PEERCRED names it). A
 * connection that ends while the process lives is made again; only the pidfd says that a keeper is dead. The first
 * restart is immediate: a guest left paused is resumed by the new keeper, and has to be within 2 s.
 */
#include "ward.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/io.h>
#include <replicad/log.h>

#define CONNECT_RETRY_S 0.02
/* After this a keeper is killed and started again: one that listened and does so no more; one that never has, since on a busy
 * host a program may need many seconds until it gets that far. */
#define CLOSED_MAX_NS (10000 * RPL_MS)
#define LISTEN_MAX_NS (30000 * RPL_MS)
#define BACKOFF_FIRST_S 0.1
#define BACKOFF_MAX_S 5.0
#define LIVED_NS (10000 * RPL_MS)       /* one that lived this long did not fail at starting */
#define CALL_TIMEOUT_MS 10000
#define REFUSED_RETRY_S 2.0             /* between attempts at a protection that was wanted before it was refused */
#define LOG_TAIL 4096

static void on_retry(struct ev_loop *loop, ev_timer *timer, int revents);
static void on_pid(struct ev_loop *loop, ev_io *io, int revents);
static void on_again(struct ev_loop *loop, ev_timer *timer, int revents);
static void on_protect_again(void *arg, const json_t *reply, const struct rpl_err *err);
static void take_wish(struct rpl_ward *w, bool wanted);

struct rpl_ward *rpl_ward_find(struct rpl_agent *a, const char *vm)
{
	for (struct rpl_ward *w = a->wards; w; w = w->next)
		if (strcmp(w->name, vm) == 0)
			return w;
	return NULL;
}

struct rpl_ward *rpl_ward_get(struct rpl_agent *a, const char *vm, struct rpl_err *err)
{
	struct rpl_ward *w = rpl_ward_find(a, vm), **tail = &a->wards;
	size_t n = 0;

	if (w)
		return w;
	for (; *tail; tail = &(*tail)->next)
		n++;
	w = n < RPL_WARDS_MAX ? calloc(1, sizeof(*w)) : NULL;
	if (!w) {
		(void)rpl_fail(err, -E2BIG, "%s: there are %zu VMs already, allowed are %d", vm, n, RPL_WARDS_MAX);
		return NULL;
	}
	w->agent = a;
	w->sock = w->pidfd = -1;
	w->next_id = 1;
	(void)snprintf(w->name, sizeof(w->name), "%s", vm);
	(void)snprintf(w->role, sizeof(w->role), "none");
	(void)snprintf(w->state, sizeof(w->state), "IDLE");
	ev_timer_init(&w->retry, on_retry, 0, 0);
	ev_timer_init(&w->again, on_again, 0, 0);
	w->retry.data = w->again.data = w;
	if (rpl_path(w->dir, sizeof(w->dir), err, "%s/vm/%s", a->conf->agent.run_dir, vm) < 0) {
		free(w);
		return NULL;
	}
	*tail = w;
	return w;
}

struct rpl_ward *rpl_ward_next(const struct rpl_ward *w)
{
	return w->next;
}

const char *rpl_ward_name(const struct rpl_ward *w)
{
	return w->name;
}

const char *rpl_ward_role(const struct rpl_ward *w)
{
	return w->role;
}

enum rpl_ward_keeper rpl_ward_keeper(const struct rpl_ward *w)
{
	return w->keeper;
}

bool rpl_ward_wanted(const struct rpl_ward *w)
{
	return w->wanted;
}

void rpl_ward_want(struct rpl_ward *w, bool wanted)
{
	w->wanted = wanted;
	if (!wanted)
		w->fresh = w->conf_new = false;
}

void rpl_ward_fresh(struct rpl_ward *w, bool conf_new)
{
	w->fresh = true;
	w->conf_new = conf_new;
	w->refused[0] = '\0';
}

bool rpl_ward_has_uuid(const struct rpl_ward *w, const struct rpl_uuid *uuid)
{
	struct rpl_uuid mine;

	return w->uuid[0] && rpl_uuid_parse(w->uuid, &mine, NULL) == 0 && rpl_uuid_equal(&mine, uuid);
}

/* ---- the process */

static void watch_pid(struct rpl_ward *w, pid_t pid, bool is_child)
{
	if (w->pidfd >= 0 && w->pid == pid)
		return;
	if (w->pidfd >= 0) {
		ev_io_stop(w->agent->loop, &w->pid_w);
		rpl_close(&w->pidfd);
	}
	w->pid = pid;
	w->is_child = is_child;
	w->pidfd = pidfd_open(pid, 0);
	if (w->pidfd < 0) {
		rpl_log(RPL_LOG_WARNING, "vm=%s msg=\"pidfd of keeper %d: %s\"", w->name, (int)pid, strerror(errno));
		return;
	}
	ev_io_init(&w->pid_w, on_pid, w->pidfd, EV_READ);
	w->pid_w.data = w;
	ev_io_start(w->agent->loop, &w->pid_w);
}

static void retry_in(struct rpl_ward *w, double seconds)
{
	ev_timer_stop(w->agent->loop, &w->retry);
	ev_now_update(w->agent->loop);
	ev_timer_set(&w->retry, seconds, 0);
	ev_timer_start(w->agent->loop, &w->retry);
}

static void on_ended(void *arg, const json_t *reply, const struct rpl_err *err)
{
	struct rpl_ward *w = arg;
	const char *message = "";

	(void)err;
	if (!reply || json_is_true(json_object_get(reply, "ok")))
		return;
	w->stopping = false; /* it stays, and for a reason */
	(void)json_unpack((json_t *)(uintptr_t)reply, "{s:{s:s}}", "error", "message", &message);
	rpl_agent_note(w->agent, "alarm", w->name, "the keeper does not end: %s", message);
}

void rpl_ward_withdraw(struct rpl_ward *w)
{
	struct rpl_agent *a = w->agent;
	bool keep_conf = w->fresh && !w->conf_new;
	struct rpl_err err;

	rpl_ward_want(w, false);
	if (rpl_wanted_set(a, w->name, false, &err) < 0)
		rpl_log(RPL_LOG_ERROR, "vm=%s msg=\"%s\"", w->name, err.msg);
	rpl_ward_end(w, NULL, on_ended, w);
	if (!keep_conf && rpl_wanted_drop_conf(a, w->name) && rpl_agent_reload(a, &err) < 0)
		rpl_log(RPL_LOG_ERROR, "msg=\"%s\"", err.msg);
}

void rpl_ward_withdraw_fresh(struct rpl_ward *w)
{
	if (w->fresh)
		rpl_ward_withdraw(w);
}

bool rpl_ward_shown(const struct rpl_ward *w)
{
	return w->keeper != RPL_WARD_NONE || w->wanted || w->refused[0] || rpl_conf_vm(w->agent->conf, w->name);
}

void rpl_ward_give_up(struct rpl_ward *w, const struct rpl_err *why)
{
	if (w->keeper == RPL_WARD_NONE)
		rpl_ward_fail_calls(w, false, why);
}

static void ask_again(struct rpl_ward *w)
{
	ev_now_update(w->agent->loop);
	ev_timer_stop(w->agent->loop, &w->again);
	ev_timer_set(&w->again, REFUSED_RETRY_S, 0);
	ev_timer_start(w->agent->loop, &w->again);
}

/* A new wish ends here. An old one (the host was started again, and the guest not yet) is tried again. */
static void on_refused(struct rpl_ward *w, const char *reason)
{
	(void)snprintf(w->refused, sizeof(w->refused), "%s", reason ? reason : "no reason was given");
	rpl_ward_withdraw_fresh(w);
	if (w->wanted)
		ask_again(w);
}

static void on_again(struct ev_loop *loop, ev_timer *timer, int revents)
{
	struct rpl_ward *w = timer->data;

	(void)loop, (void)revents;
	if (w->wanted && w->keeper == RPL_WARD_RUNNING && !rpl_ward_has_call(w, "protect"))
		rpl_ward_call(w, "protect", NULL, -1, CALL_TIMEOUT_MS, on_protect_again, w);
}

static void on_protect_again(void *arg, const json_t *reply, const struct rpl_err *err)
{
	struct rpl_ward *w = arg;
	const char *code = "", *message = "";

	if (!reply) {
		rpl_log(RPL_LOG_WARNING, "vm=%s msg=\"%s\"", w->name, err->msg);
		return;
	}
	if (json_is_true(json_object_get(reply, "ok"))) {
		w->refused[0] = '\0';
		return;
	}
	(void)json_unpack((json_t *)(uintptr_t)reply, "{s:{s:s, s:s}}", "error", "code", &code, "message", &message);
	rpl_log(RPL_LOG_WARNING, "vm=%s event=refused reason=\"%s\"", w->name, message);
	if (strcmp(code, "refused") == 0)
		on_refused(w, message);
	else /* busy: it still looks at the guest */
		ask_again(w);
}

/* It may have become the heir while no agent was there to hear of it. */
static void on_first_status(void *arg, const json_t *reply, const struct rpl_err *err)
{
	const json_t *status = json_object_get(reply, "status");
	struct rpl_ward *w = arg;

	(void)err;
	rpl_ward_learn(w, status);
	if (json_is_true(json_object_get(status, "wanted")) && strcmp(w->role, "primary") == 0)
		take_wish(w, true);
}

static int try_connect(struct rpl_ward *w)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);
	int r = rpl_ward_connect(w);

	if (r < 0)
		return r;
	if (getsockopt(w->sock, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0)
		watch_pid(w, peer.pid, w->is_child && w->pid == peer.pid);
	ev_timer_stop(w->agent->loop, &w->retry);
	w->keeper = RPL_WARD_RUNNING;
	w->was_reached = true;
	rpl_ward_call(w, "subscribe", NULL, -1, CALL_TIMEOUT_MS, NULL, NULL);
	rpl_ward_call(w, "status", NULL, -1, CALL_TIMEOUT_MS, on_first_status, w);
	if (w->wanted && !rpl_ward_has_call(w, "protect"))
		rpl_ward_call(w, "protect", NULL, -1, CALL_TIMEOUT_MS, on_protect_again, w);
	return 0;
}

static void forget_process(struct rpl_ward *w)
{
	rpl_ward_disconnect(w);
	if (w->pidfd >= 0) {
		ev_io_stop(w->agent->loop, &w->pid_w);
		rpl_close(&w->pidfd);
	}
	w->pid = 0;
	ev_timer_stop(w->agent->loop, &w->retry);
}

/* Start the process, unless one is there: an agent that died just after fork() has left one that we do not know. */
static int launch(struct rpl_ward *w, struct rpl_err *err)
{
	const struct rpl_conf_vm *vm = rpl_conf_vm(w->agent->conf, w->name);
	pid_t pid;
	int r;

	if (try_connect(w) == 0)
		return 0;
	if (!vm)
		return rpl_fail(err, -ENOENT, "there is no section [vm %s]", w->name);
	r = rpl_mkdir_p(w->dir, 0755, err);
	if (r == 0)
		r = rpl_spawn_write_conf(w->agent, vm, w->dir, w->role, w->restarts, err);
	if (r < 0)
		return r;
	pid = rpl_spawn_keeper(w->agent, w->name, w->dir, err);
	if (pid < 0)
		return (int)pid;
	w->keeper = RPL_WARD_STARTING;
	w->stopping = w->was_reached = false;
	w->started_ns = w->unheard_ns = rpl_now_ns();
	w->was_heard = false;
	watch_pid(w, pid, true);
	retry_in(w, CONNECT_RETRY_S);
	rpl_agent_note(w->agent, "keeper-start", w->name, "keeper %d, role %s%s", (int)pid, w->role,
		       w->restarts ? ", again" : "");
	return 0;
}

/* The directory of a keeper that is gone on purpose, with what keeper, guest and mover noted in it. It is flat: a directory
 * in it is not ours and stays, and with it ours. */
static void remove_dir(const char *dir)
{
	char path[PATH_MAX];
	struct dirent *e;
	DIR *d = opendir(dir);

	if (!d)
		return;
	while ((e = readdir(d)) != NULL)
		if (e->d_type != DT_DIR && rpl_path(path, sizeof(path), NULL, "%s/%s", dir, e->d_name) == 0)
			(void)unlink(path);
	(void)closedir(d);
	(void)rmdir(dir);
}

/* What a keeper that did not end on purpose knew: by that the next one finds guest, standby and replica. */
static bool has_notes(const struct rpl_ward *w)
{
	char path[PATH_MAX];

	return rpl_path(path, sizeof(path), NULL, "%s/" RPL_KEEPER_PAST, w->dir) == 0 && access(path, F_OK) == 0;
}

static void reset(struct rpl_ward *w)
{
	w->keeper = RPL_WARD_NONE;
	w->stopping = false;
	(void)snprintf(w->role, sizeof(w->role), "none");
	(void)snprintf(w->state, sizeof(w->state), "IDLE");
	json_decref(w->status);
	w->status = NULL;
}

int rpl_ward_start(struct rpl_ward *w, const char *role, struct rpl_err *err)
{
	int r;

	if (w->keeper != RPL_WARD_NONE)
		return 0;
	(void)snprintf(w->role, sizeof(w->role), "%s", role);
	w->failures = w->restarts = 0;
	r = launch(w, err);
	if (r < 0) {
		if (!has_notes(w))
			remove_dir(w->dir);
		reset(w);
	}
	return r;
}

/* What the keeper said last: the reason of its end, most often. */
static void last_words(const struct rpl_ward *w, char *buf, size_t size)
{
	RPL_AUTO_FREE char *text = NULL;
	char path[PATH_MAX];
	size_t len;
	char *line;

	buf[0] = '\0';
	if (rpl_path(path, sizeof(path), NULL, "%s/" RPL_KEEPER_LOG, w->dir) < 0 ||
	    rpl_read_file(path, 64 * LOG_TAIL, &text, &len, NULL) < 0 || !len)
		return;
	if (text[len - 1] == '\n')
		text[len - 1] = '\0';
	line = strrchr(text, '\n');
	(void)snprintf(buf, size, ": %.150s", line ? line + 1 : text);
}

static void how_it_ended(const struct rpl_ward *w, char *buf, size_t size)
{
	int status;

	if (!w->is_child || waitpid(w->pid, &status, WNOHANG) != w->pid)
		(void)snprintf(buf, size, "ended");
	else if (WIFSIGNALED(status))
		(void)snprintf(buf, size, "was killed by signal %d", WTERMSIG(status));
	else
		(void)snprintf(buf, size, "ended with status %d", WEXITSTATUS(status));
}

static void restart_later(struct rpl_ward *w)
{
	double wait = w->failures ? BACKOFF_FIRST_S * (double)(1u << (w->failures < 7 ? w->failures - 1 : 6)) : 0;

	w->keeper = RPL_WARD_DEAD;
	w->restarts++;
	w->failures++;
	retry_in(w, wait < BACKOFF_MAX_S ? wait : BACKOFF_MAX_S);
}

static void on_death(struct rpl_ward *w)
{
	bool reached = w->was_reached, on_purpose;
	char how[64], said[200];
	struct rpl_err why;
	pid_t pid = w->pid;

	rpl_ward_last_messages(w); /* an answer, or that it ends on purpose */
	on_purpose = w->stopping;
	how_it_ended(w, how, sizeof(how));
	last_words(w, said, sizeof(said));
	forget_process(w);
	if (reached && rpl_now_ns() - w->started_ns > LIVED_NS)
		w->failures = 0; /* not a fault of starting: again at once */
	(void)rpl_fail(&why, -EPIPE, "the keeper of %s %s%s", w->name, how, on_purpose ? "" : said);
	if (on_purpose || (w->fresh && !reached)) {
		bool failed = !on_purpose;

		remove_dir(w->dir);
		reset(w);
		rpl_agent_note(w->agent, "keeper-end", w->name, "keeper %d %s%s", (int)pid, how, failed ? said : "");
		rpl_ward_fail_calls(w, false, &why);
		return;
	}
	rpl_agent_note(w->agent, "keeper-died", w->name, "keeper %d %s%s", (int)pid, how, said);
	restart_later(w);
	rpl_ward_fail_calls(w, true, &why);
}

static void on_pid(struct ev_loop *loop, ev_io *io, int revents)
{
	(void)loop, (void)revents;
	on_death(io->data);
}

void rpl_ward_on_eof(struct rpl_ward *w)
{
	struct rpl_err why;

	rpl_ward_disconnect(w);
	(void)rpl_fail(&why, -ECONNRESET, "the keeper of %s closed the connection", w->name);
	if (w->pidfd < 0) {
		on_death(w);
		return;
	}
	w->keeper = RPL_WARD_STARTING;
	w->unheard_ns = rpl_now_ns();
	w->was_heard = true;
	retry_in(w, CONNECT_RETRY_S);
	rpl_ward_fail_calls(w, true, &why);
}

static void on_retry(struct ev_loop *loop, ev_timer *timer, int revents)
{
	struct rpl_ward *w = timer->data;
	struct rpl_err err;

	(void)loop, (void)revents;
	if (w->keeper == RPL_WARD_DEAD) {
		if (launch(w, &err) < 0) {
			rpl_log(RPL_LOG_ERROR, "vm=%s msg=\"%s\"", w->name, err.msg);
			restart_later(w);
		}
		return;
	}
	if (w->keeper != RPL_WARD_STARTING || try_connect(w) == 0)
		return;
	if (rpl_now_ns() - w->unheard_ns > (w->was_heard ? CLOSED_MAX_NS : LISTEN_MAX_NS) && w->pidfd >= 0) {
		rpl_agent_note(w->agent, "keeper-died", w->name, "keeper %d %s; killed", (int)w->pid,
			       w->was_heard ? "closed its socket and has not ended since" : "does not listen");
		(void)pidfd_send_signal(w->pidfd, SIGKILL, NULL, 0); /* its end is seen by pidfd */
		w->unheard_ns = rpl_now_ns();
	}
	retry_in(w, CONNECT_RETRY_S);
}

void rpl_ward_end(struct rpl_ward *w, const json_t *fields, rpl_ward_reply_fn *fn, void *arg)
{
	struct rpl_err err;

	(void)rpl_fail(&err, -ENOENT, "%s has no keeper", w->name);
	/* what a dead one left is another keeper's to put away: a standby, or a guest that it had paused */
	if (w->keeper == RPL_WARD_DEAD && (!has_notes(w) || launch(w, &err) < 0)) {
		ev_timer_stop(w->agent->loop, &w->retry);
		remove_dir(w->dir);
		reset(w);
	}
	if (w->keeper == RPL_WARD_NONE) {
		fn(arg, NULL, &err);
		return;
	}
	w->stopping = true;
	rpl_ward_call(w, "shutdown", fields, -1, CALL_TIMEOUT_MS, fn, arg);
}

/* ---- what it says */

static void take_state(struct rpl_ward *w, const char *state)
{
	if (!state)
		return;
	(void)snprintf(w->state, sizeof(w->state), "%s", state);
	if (strncmp(state, "P_", 2) == 0)
		(void)snprintf(w->role, sizeof(w->role), "primary");
	else if (strncmp(state, "B_", 2) == 0)
		(void)snprintf(w->role, sizeof(w->role), "backup");
	if (strcmp(state, "P_PROTECTED") == 0) {
		w->fresh = w->conf_new = false;
		w->refused[0] = '\0';
	}
}

/* The wish to protect a VM goes with it: it is the heir's from a takeover or switchover on, and no more the wish of the
 * node that it left, which would otherwise look for a guest to protect at its next start. */
static void take_wish(struct rpl_ward *w, bool wanted)
{
	struct rpl_err err;

	if (w->wanted == wanted || w->stopping)
		return;
	rpl_ward_want(w, wanted);
	if (rpl_wanted_set(w->agent, w->name, wanted, &err) < 0)
		rpl_log(RPL_LOG_ERROR, "vm=%s msg=\"%s\"", w->name, err.msg);
}

static void take_role(struct rpl_ward *w, const char *role)
{
	/* "none" is a keeper between two roles: what it was started for still holds */
	if (role && (strcmp(role, "primary") == 0 || strcmp(role, "backup") == 0))
		(void)snprintf(w->role, sizeof(w->role), "%s", role);
}

static void take_change(struct rpl_ward *w, const json_t *event)
{
	const char *to = json_string_value(json_object_get(event, "to"));
	const char *from = json_string_value(json_object_get(event, "from"));
	const char *role = json_string_value(json_object_get(event, "role"));

	take_role(w, role);
	take_state(w, to);
	if (from && strcmp(from, "B_PROMOTE") == 0 && json_is_true(json_object_get(event, "wanted")))
		take_wish(w, true);
	else if ((to && strcmp(to, "P_DEPOSED") == 0) || strcmp(w->role, "backup") == 0)
		take_wish(w, false);
}

void rpl_ward_learn(struct rpl_ward *w, const json_t *status)
{
	const char *role = json_string_value(json_object_get(status, "role"));
	const char *uuid = json_string_value(json_object_get(status, "uuid"));
	struct rpl_uuid parsed;

	if (!json_is_object(status))
		return;
	json_decref(w->status);
	w->status = json_deep_copy(status);
	take_state(w, json_string_value(json_object_get(status, "state")));
	take_role(w, role);
	if (role && strcmp(role, "backup") == 0)
		take_wish(w, false);
	if (uuid && rpl_uuid_parse(uuid, &parsed, NULL) == 0)
		(void)rpl_uuid_text(&parsed, w->uuid);
}

static void log_event(const struct rpl_ward *w, const json_t *event, const char *name)
{
	const char *from = json_string_value(json_object_get(event, "from"));
	const char *to = json_string_value(json_object_get(event, "to"));
	const char *reason = json_string_value(json_object_get(event, "reason"));

	rpl_log(RPL_LOG_INFO, "vm=%s event=%s from=%s to=%s reason=\"%s\"", w->name, name, from ? from : "-", to ? to : "-",
		reason ? reason : "");
}

void rpl_ward_on_event(struct rpl_ward *w, json_t *event)
{
	const char *name = json_string_value(json_object_get(event, "event"));

	if (!name) {
		json_decref(event);
		return;
	}
	(void)json_object_set_new(event, "vm", json_string(w->name)); /* a keeper speaks for its own VM only */
	(void)json_object_del(event, "v");
	if (strcmp(name, "progress") != 0)
		log_event(w, event, name);
	if (strcmp(name, "state") == 0)
		take_change(w, event);
	else if (strcmp(name, "refused") == 0)
		on_refused(w, json_string_value(json_object_get(event, "reason")));
	else if (strcmp(name, "end") == 0)
		w->stopping = true;
	rpl_agent_event(w->agent, event);
}

static const char *keeper_word(const struct rpl_ward *w, bool answered)
{
	switch (w->keeper) {
	case RPL_WARD_NONE:
		return "none";
	case RPL_WARD_STARTING:
		return "starting";
	case RPL_WARD_DEAD:
		return "dead";
	default:
		return answered ? "running" : "unresponsive";
	}
}

json_t *rpl_ward_status(const struct rpl_ward *w, bool answered)
{
	const struct rpl_conf_vm *vm = rpl_conf_vm(w->agent->conf, w->name);
	json_t *o = w->status ? json_deep_copy(w->status) : json_object();

	(void)json_object_set_new(o, "vm", json_string(w->name));
	(void)json_object_set_new(o, "node", json_string(w->agent->conf->agent.node));
	if (w->uuid[0] || (vm && vm->uuid[0]))
		(void)json_object_set_new(o, "uuid", json_string(w->uuid[0] ? w->uuid : vm->uuid));
	if (!answered || !json_object_get(o, "role"))
		(void)json_object_set_new(o, "role", json_string(w->role));
	(void)json_object_set_new(o, "state",
				  json_string(w->keeper == RPL_WARD_NONE || (w->keeper == RPL_WARD_RUNNING && answered)
						      ? w->state : "unknown"));
	(void)json_object_set_new(o, "wanted", json_boolean(w->wanted));
	(void)json_object_set_new(o, "keeper", json_string(keeper_word(w, answered)));
	if (w->refused[0])
		(void)json_object_set_new(o, "refused", json_string(w->refused));
	return o;
}

void rpl_ward_reload(struct rpl_ward *w)
{
	const struct rpl_conf_vm *vm = rpl_conf_vm(w->agent->conf, w->name);
	struct rpl_err err;

	if (!vm || w->keeper != RPL_WARD_RUNNING)
		return;
	if (rpl_spawn_write_conf(w->agent, vm, w->dir, w->role, w->restarts, &err) < 0)
		rpl_log(RPL_LOG_ERROR, "vm=%s msg=\"%s\"", w->name, err.msg);
	else
		rpl_ward_call(w, "reload", NULL, -1, CALL_TIMEOUT_MS, NULL, NULL);
}

/* ---- the agent's own start and end */

/* The role of the last keeper here, as it was started; what it became since, the next one finds out. */
static void recall_role(struct rpl_ward *w)
{
	char path[PATH_MAX];
	json_t *doc = rpl_path(path, sizeof(path), NULL, "%s/" RPL_KEEPER_CONF, w->dir) == 0 ? json_load_file(path, 0, NULL) : NULL;

	take_role(w, json_string_value(json_object_get(doc, "role")));
	json_decref(doc);
}

static void adopt(struct rpl_agent *a, const char *vm)
{
	struct rpl_err err;
	struct rpl_ward *w = rpl_ward_get(a, vm, &err);

	if (!w)
		return;
	w->wanted = rpl_wanted(a, vm);
	if (try_connect(w) < 0) {
		if (w->wanted)
			return; /* started in a moment */
		if (!has_notes(w)) {
			remove_dir(w->dir);
			return;
		}
		recall_role(w);
		rpl_agent_note(a, "keeper-died", vm, "it died when no agent was there; its role was %s", w->role);
		restart_later(w);
		return;
	}
	w->started_ns = rpl_now_ns();
	rpl_agent_note(a, "adopted", vm, "keeper %d goes on", (int)w->pid);
}

void rpl_ward_adopt_all(struct rpl_agent *a)
{
	char path[PATH_MAX];
	struct dirent **names;
	int n = rpl_path(path, sizeof(path), NULL, "%s/vm", a->conf->agent.run_dir) == 0
			? scandir(path, &names, NULL, alphasort) : -1;

	for (int i = 0; i < n; i++) {
		if (rpl_conf_name_ok(names[i]->d_name))
			adopt(a, names[i]->d_name);
		free(names[i]);
	}
	if (n >= 0)
		free(names);
}

void rpl_ward_free_all(struct rpl_agent *a)
{
	struct rpl_err why;

	(void)rpl_fail(&why, -ESHUTDOWN, "the agent ends");
	while (a->wards) {
		struct rpl_ward *w = a->wards;

		forget_process(w);
		ev_timer_stop(a->loop, &w->again);
		rpl_ward_fail_calls(w, false, &why);
		a->wards = w->next;
		json_decref(w->status);
		free(w);
	}
}
