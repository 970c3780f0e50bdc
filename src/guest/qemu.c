/* qemu.c - a stock QEMU by its monitor: life-cycle, events, the operations of each epoch
 *
 * What ends a guest. SHUTDOWN comes before the monitor closes when somebody meant it; a monitor that closes, or a
 * process that dies, without it means LOST. The process's death (pidfd) and the monitor's end are seen in either
 * order; the monitor's last bytes are read first, because a SHUTDOWN may be among them.
 *
 * Who paused it. A STOP that comes while our own `stop` is under way is ours; any other is somebody else's. Before
 * each `stop` a note is set (note.h), after each `cont` it is cleared, so that whoever restarts us knows a guest that
 * we left paused.
 *
 * Device state goes to one memfd, passed to QEMU once with add-fd; QEMU opens it anew by /proc/self/fd/N and truncates
 * it for each save. live:false matters: the default would run bdrv_inactivate_all.
 */
#include "qemu_impl.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/log.h>

/* ---- ends */

void qemu_op_failed(struct qemu *q, const struct rpl_err *err)
{
	struct rpl_err local = *err;

	if (!q->g->busy)
		return;
	ev_timer_stop(q->g->loop, &q->poll);
	qemu_activate_stop(q);
	(void)rpl_prefix(&local, "%s: %s", q->g->conf.name, rpl_guest_op_name(q->g->op));
	rpl_guest_op_done(q->g, local.code, &local);
}

static bool is_dead(const struct qemu *q)
{
	struct pollfd p = { .fd = q->pidfd, .events = POLLIN };

	return poll(&p, 1, 0) == 1;
}

/* The guest is no more. An operation under way fails with the reason. */
static void ended(struct qemu *q, const struct rpl_err *why)
{
	struct rpl_err err = *why;
	bool told = q->over || q->meant || q->quitting;

	if (q->over)
		return;
	q->over = true;
	if (q->standby)
		qemu_standby_died(q, &err);
	if (q->g->busy && q->g->op != RPL_GUEST_QUIT && !ev_is_pending(&q->g->finish))
		qemu_op_failed(q, &err);
	if (told || q->g->phase == RPL_GP_NEW) {
		if (q->g->phase != RPL_GP_NEW)
			q->g->phase = RPL_GP_GONE;
		return;
	}
	rpl_guest_tell(q->g, RPL_GUEST_LOST, "process %d %s (%s)", (int)q->pid, is_dead(q) ? "is dead" : "closed its monitor",
		       err.msg);
}

static void on_closed(void *arg, const struct rpl_err *err)
{
	struct qemu *q = arg;

	ev_timer_stop(q->g->loop, &q->grace);
	ended(q, err);
}

static void process_ended(struct qemu *q)
{
	struct rpl_err err;

	(void)rpl_fail(&err, -EPIPE, "its process ended");
	ended(q, &err);
}

static void on_grace(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct qemu *q = w->data;

	(void)loop;
	(void)revents;
	process_ended(q);
}

static void reap(struct qemu *q)
{
	siginfo_t si;

	/* ECHILD if it is not our child, or the loop has reaped it */
	(void)waitid(P_PIDFD, (id_t)q->pidfd, &si, WEXITED | WNOHANG);
}

static void on_exited(struct ev_loop *loop, ev_io *w, int revents)
{
	struct qemu *q = w->data;

	(void)revents;
	ev_io_stop(loop, w);
	reap(q);
	if (q->quitting) {
		q->over = true;
		qmp_free(q->qmp);
		q->qmp = NULL;
		if (q->g->busy && q->g->op == RPL_GUEST_QUIT)
			rpl_guest_op_done(q->g, 0, NULL);
		return;
	}
	if (q->over)
		return;
	if (!q->qmp) {
		process_ended(q);
		return;
	}
	ev_timer_set(&q->grace, QEMU_EOF_GRACE_MS / 1000., 0.);
	ev_timer_start(loop, &q->grace);
}

int qemu_watch_process(struct qemu *q, pid_t pid, struct rpl_err *err)
{
	if (q->watched)
		return 0;
	q->pidfd = pidfd_open(pid, 0);
	if (q->pidfd < 0)
		return rpl_fail_errno(err, errno, "open process %d", (int)pid);
	q->pid = pid;
	ev_io_init(&q->exited, on_exited, q->pidfd, EV_READ);
	q->exited.data = q;
	ev_io_start(q->g->loop, &q->exited);
	q->watched = true;
	return 0;
}

/* ---- events */

static const char *str(json_t *data, const char *key, const char *otherwise)
{
	const char *s = json_string_value(json_object_get(data, key));

	return s ? s : otherwise;
}

static void on_shutdown(struct qemu *q, json_t *data)
{
	const char *reason = str(data, "reason", "unknown");

	if (strcmp(reason, "host-error") == 0)
		return; /* its end follows, and is a loss */
	q->shutdown_seen = true;
	note_set(&q->note, false);
	q->meant = strcmp(reason, "guest-panic") != 0; /* else its end is a loss, whatever the crash is taken for */
	if (!q->meant)
		rpl_guest_tell(q->g, RPL_GUEST_CRASH, "the guest panicked and QEMU ends");
	else
		rpl_guest_tell(q->g, RPL_GUEST_SHUTDOWN, "%s (%s)", json_is_true(json_object_get(data, "guest")) ?
			       "powered off from inside" : "ended by its operator", reason);
}

static void on_io_error(struct qemu *q, json_t *data)
{
	const char *action = str(data, "action", "report");

	if (strcmp(action, "stop") == 0)
		rpl_guest_tell(q->g, RPL_GUEST_IO_ERROR, "device %s, %s: %s", str(data, "device", "?"),
			       str(data, "operation", "?"), str(data, "reason", "unknown reason"));
}

static void on_event(void *arg, const char *name, json_t *data)
{
	struct qemu *q = arg;
	bool live = q->g->phase == RPL_GP_LIVE;

	if (strcmp(name, "MIGRATION") == 0)
		qemu_migration_event(q, data);
	else if (strcmp(name, "SHUTDOWN") == 0)
		on_shutdown(q, data);
	else if (!live)
		return;
	else if (strcmp(name, "RESET") == 0)
		rpl_guest_tell(q->g, RPL_GUEST_REBOOT, "reset (%s)", str(data, "reason", "unknown"));
	else if (strcmp(name, "GUEST_PANICKED") == 0 && !q->shutdown_seen)
		rpl_guest_tell(q->g, RPL_GUEST_CRASH, "the guest's kernel panicked (action %s)", str(data, "action", "?"));
	else if (strcmp(name, "STOP") == 0 && !q->stopping && !q->shutdown_seen)
		rpl_guest_tell(q->g, RPL_GUEST_STOPPED, "another program paused it");
	else if (strcmp(name, "RESUME") == 0 && !q->continuing)
		rpl_guest_tell(q->g, RPL_GUEST_RESUMED, "another program resumed it");
	else if (strcmp(name, "DEVICE_DELETED") == 0)
		rpl_guest_tell(q->g, RPL_GUEST_CHANGED, "device %s was unplugged", str(data, "device", str(data, "path", "?")));
	else if (strcmp(name, "BLOCK_IO_ERROR") == 0)
		on_io_error(q, data);
}

/* ---- connection */

static void on_ready(void *arg, json_t *version)
{
	struct qemu *q = arg;

	json_decref(q->facts.version);
	q->facts.version = json_incref(version);
	if (q->g->busy && q->g->op == RPL_GUEST_STANDBY)
		qemu_standby_ready(q, version);
	else
		qemu_collect(q);
}

int qemu_connect(struct qemu *q, const char *path, struct rpl_err *err)
{
	static const struct qmp_callbacks cb = { .ready = on_ready, .event = on_event, .closed = on_closed };

	qmp_free(q->qmp);
	q->qmp = qmp_open(path, q->g->loop, &cb, q, err);
	return q->qmp ? 0 : err->code;
}

void qemu_step(struct qemu *q, const char *command, json_t *args, qmp_reply_fn *fn)
{
	struct rpl_err err;

	if (qmp_call(q->qmp, command, args, -1, fn, &err) < 0)
		qemu_op_failed(q, &err);
}

/* ---- operations of each epoch */

static int call(struct rpl_guest *g, const char *command, json_t *args, qmp_reply_fn *fn, struct rpl_err *err)
{
	int r = qmp_call(qemu_of(g)->qmp, command, args, -1, fn, err);

	if (r < 0)
		(void)rpl_prefix(err, "%s: %s", g->conf.name, rpl_guest_op_name(g->op));
	return r;
}

static void on_stopped(void *arg, json_t *ret, const struct rpl_err *err)
{
	struct qemu *q = arg;

	(void)ret;
	q->stopping = q->continuing = false;
	if (err)
		qemu_op_failed(q, err);
	else
		rpl_guest_op_done(q->g, 0, NULL);
}

static int do_pause(struct rpl_guest *g, struct rpl_err *err)
{
	struct qemu *q = qemu_of(g);
	int r;

	note_set(&q->note, true);
	q->stopping = true;
	r = call(g, "stop", NULL, on_stopped, err);
	if (r < 0)
		q->stopping = false;
	return r;
}

static void on_continued(void *arg, json_t *ret, const struct rpl_err *err)
{
	struct qemu *q = arg;

	(void)ret;
	q->stopping = q->continuing = false;
	if (err) {
		qemu_op_failed(q, err);
		return;
	}
	note_set(&q->note, false);
	qemu_watch(q);
	rpl_guest_op_done(q->g, 0, NULL);
}

static int do_resume(struct rpl_guest *g, struct rpl_err *err)
{
	struct qemu *q = qemu_of(g);
	int r;

	q->continuing = true;
	r = call(g, "cont", NULL, on_continued, err);
	if (r < 0)
		q->continuing = false;
	return r;
}

static void on_saved(void *arg, json_t *ret, const struct rpl_err *err)
{
	struct qemu *q = arg;
	struct rpl_guest *g = q->g;
	struct rpl_err why;
	struct stat st;

	(void)ret;
	if (err) {
		qemu_op_failed(q, err);
		return;
	}
	if (fstat(g->state_fd, &st) < 0 || st.st_size <= 8 || st.st_size > RPL_GUEST_STATE_MAX) {
		(void)rpl_fail(&why, -EMSGSIZE, "device state of %jd bytes; 9 to %d are possible", (intmax_t)st.st_size,
			       RPL_GUEST_STATE_MAX);
		qemu_op_failed(q, &why);
		return;
	}
	g->state_len = (size_t)st.st_size;
	qemu_watch_saved(q);
}

static void send_save(struct qemu *q)
{
	char path[64];

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", q->fdset_fd);
	qemu_step(q, "xen-save-devices-state", json_pack("{s:s, s:b}", "filename", path, "live", 0), on_saved);
}

static void on_fd_added(void *arg, json_t *ret, const struct rpl_err *err)
{
	struct qemu *q = arg;
	json_t *fd = json_object_get(ret, "fd");
	struct rpl_err why;

	if (!err && !json_is_integer(fd)) {
		(void)rpl_fail(&why, -EPROTO, "add-fd answered without a descriptor");
		err = &why;
	}
	if (err) {
		qemu_op_failed(q, err);
		return;
	}
	q->fdset_fd = (int)json_integer_value(fd);
	send_save(q);
}

static int do_save(struct rpl_guest *g, struct rpl_err *err)
{
	struct qemu *q = qemu_of(g);

	g->state_len = 0;
	if (q->fdset_fd >= 0) {
		char path[64];

		(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", q->fdset_fd);
		return call(g, "xen-save-devices-state", json_pack("{s:s, s:b}", "filename", path, "live", 0), on_saved, err);
	}
	return qmp_call(q->qmp, "add-fd", NULL, g->state_fd, on_fd_added, err);
}

static void on_announced(void *arg, json_t *ret, const struct rpl_err *err)
{
	struct qemu *q = arg;

	(void)ret;
	if (err)
		qemu_op_failed(q, err);
	else
		rpl_guest_op_done(q->g, 0, NULL);
}

static int do_announce(struct rpl_guest *g, struct rpl_err *err)
{
	/* ms: five rounds within 300 ms, QEMU's own form after a migration but quicker */
	json_t *args = json_pack("{s:i, s:i, s:i, s:i}", "initial", 10, "max", 100, "rounds", 5, "step", 20);

	return call(g, "announce-self", args, on_announced, err);
}

static int do_quit(struct rpl_guest *g, struct rpl_err *err)
{
	struct qemu *q = qemu_of(g);

	if (!q->watched)
		return rpl_fail(err, -ESRCH, "%s: quit: its process is not known", g->conf.name);
	q->quitting = true;
	note_set(&q->note, false);
	if (pidfd_send_signal(q->pidfd, SIGKILL, NULL, 0) < 0 && errno != ESRCH)
		return rpl_fail_errno(err, errno, "%s: quit: kill process %d", g->conf.name, (int)q->pid);
	/* on_exited ends it; if it ended before, the descriptor is readable still */
	ev_io_start(g->loop, &q->exited);
	return 0;
}

/* ---- attach, handle */

static int do_attach(struct rpl_guest *g, struct rpl_err *err)
{
	struct qemu *q = qemu_of(g);
	const char *path = g->conf.qmp_path;
	int r = 0;

	if (!path && !g->conf.standby_path)
		return rpl_fail(err, -EINVAL, "%s: attach: no monitor socket is configured (qmp=PATH)", g->conf.name);
	qemu_facts_fini(&q->facts);
	q->over = false;
	if (!path) { /* it was a standby once, and runs now */
		r = qemu_load_argv(q, err);
		path = q->qmp_path;
	}
	if (r == 0)
		r = qemu_connect(q, path, err);
	return r < 0 ? rpl_prefix(err, "%s: attach", g->conf.name) : 0;
}

static int do_look(struct rpl_guest *g, struct rpl_err *err)
{
	struct qemu *q = qemu_of(g);

	(void)err;
	qemu_collect(q);
	return 0;
}

static void do_abandon(struct rpl_guest *g)
{
	struct qemu *q = qemu_of(g);

	if (q->qmp)
		qmp_abandon(q->qmp);
	/* A late STOP or RESUME of ours stays ours: both flags are cleared when the next stop or cont is answered. */
	ev_timer_stop(g->loop, &q->poll);
	qemu_activate_stop(q);
	if (g->phase == RPL_GP_NEW && q->qmp) {
		qmp_free(q->qmp);
		q->qmp = NULL;
	}
}

static int do_init(struct rpl_guest *g, struct rpl_err *err)
{
	struct qemu *q = calloc(1, sizeof(*q));

	g->priv = q;
	if (!q)
		return rpl_fail(err, -ENOMEM, "%s: no memory", g->conf.name);
	q->g = g;
	q->pidfd = q->stream = q->uffd = q->pagemap = q->fdset_fd = -1;
	ev_init(&q->grace, on_grace);
	ev_init(&q->poll, NULL);
	q->grace.data = q;
	return g->conf.run_dir ? note_open(&q->note, g->conf.run_dir, g->conf.name, err) : 0;
}

static void do_fini(struct rpl_guest *g, bool keep_standby)
{
	struct qemu *q = qemu_of(g);

	if (!q)
		return;
	qemu_disarm(q);
	qmp_free(q->qmp);
	q->qmp = NULL;
	ev_timer_stop(g->loop, &q->grace);
	ev_timer_stop(g->loop, &q->poll);
	qemu_activate_stop(q);
	if (q->watched)
		ev_io_stop(g->loop, &q->exited);
	if (!keep_standby)
		qemu_standby_fini(q);
	/* a guest that is still paused by us needs its note, also one that was no standby any more when it was to be adopted */
	note_close(&q->note, !q->note.page || q->over || g->info.running ||
			     (g->phase != RPL_GP_LIVE && !g->info.paused_by_us));
	for (size_t i = 0; q->argv[i]; i++)
		free(q->argv[i]);
	rpl_close(&q->pidfd);
	rpl_close(&q->uffd);
	rpl_close(&q->pagemap);
	qemu_facts_fini(&q->facts);
	free(q->saved);
	free(q);
}

static pid_t do_pid(const struct rpl_guest *g)
{
	const struct qemu *q = qemu_of(g);

	return q->over ? 0 : q->pid;
}

const struct rpl_guest_ops rpl_guest_qemu = {
	.name = "qemu",
	.init = do_init,
	.attach = do_attach,
	.look = do_look,
	.pause = do_pause,
	.save = do_save,
	.resume = do_resume,
	.announce = do_announce,
	.quit = do_quit,
	.standby = qemu_start_standby,
	.activate = qemu_activate,
	.abandon = do_abandon,
	.memory = qemu_memory,
	.entrust = qemu_entrust,
	.entrusted = qemu_entrusted,
	.pid = do_pid,
	.made = qemu_standby_made,
	.fini = do_fini,
};
