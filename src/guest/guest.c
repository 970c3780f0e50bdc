/* guest.c - the only way through the ops table: one operation at a time, bounded, timed, with a sentence on failure
 *
 * An operation that was started is ended by exactly one of: the backend's rpl_guest_op_done(), a negative return of
 * its start, the time-out, quit taking its place, or rpl_guest_free() (then no callback comes). The callback always
 * comes from the loop, never from within the starting call, so a caller need not be reentrant.
 */
#include "guest_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/log.h>

static const struct rpl_guest_ops *const backends[] = { &rpl_guest_qemu, &rpl_guest_sim, &rpl_guest_xen };

static const char *const op_names[] = { "attach", "look", "pause", "save", "resume", "standby", "activate", "announce", "quit" };
_Static_assert(RPL_ARRAY_LEN(op_names) == RPL_GUEST_NOPS, "a name per operation");

static const char *const event_names[] = { "shutdown", "reboot", "crash", "lost", "replaced", "changed", "stopped", "resumed",
					   "io-error", "laid-out" };
_Static_assert(RPL_ARRAY_LEN(event_names) == RPL_GUEST_NEVENTS, "a name per event");

const char *rpl_guest_op_name(enum rpl_guest_op op)
{
	return (unsigned)op < RPL_GUEST_NOPS ? op_names[op] : "?";
}

const char *rpl_guest_event_name(enum rpl_guest_event event)
{
	return (unsigned)event < RPL_GUEST_NEVENTS ? event_names[event] : "?";
}

/* ---- the handle */

static const char **conf_strings(struct rpl_guest_conf *c, size_t i)
{
	const char **const all[] = { &c->backend, &c->name, &c->qmp_path, &c->standby_path, &c->run_dir, &c->tracker,
				     &c->replica, &c->helper_path, &c->standby_user, &c->sim };

	return i < RPL_ARRAY_LEN(all) ? all[i] : NULL;
}

static void free_conf(struct rpl_guest_conf *c)
{
	for (size_t i = 0; conf_strings(c, i); i++)
		free((char *)(uintptr_t)*conf_strings(c, i));
}

static int copy_conf(struct rpl_guest_conf *to, const struct rpl_guest_conf *from, struct rpl_err *err)
{
	bool lost = false;

	*to = *from;
	for (size_t i = 0; conf_strings(to, i); i++) {
		const char **s = conf_strings(to, i);

		if (!*s || !**s) { /* unset in a configuration */
			*s = NULL;
			continue;
		}
		*s = strdup(*s);
		lost |= !*s;
	}
	if (!to->op_timeout_ms)
		to->op_timeout_ms = RPL_GUEST_OP_TIMEOUT_MS;
	return lost ? rpl_fail(err, -ENOMEM, "guest: no memory for its configuration") : 0;
}

static const struct rpl_guest_ops *find_backend(const char *name, struct rpl_err *err)
{
	for (size_t i = 0; name && i < RPL_ARRAY_LEN(backends); i++)
		if (strcmp(backends[i]->name, name) == 0)
			return backends[i];
	(void)rpl_fail(err, -EINVAL, "guest backend '%s': qemu, sim and xen are possible", name ? name : "");
	return NULL;
}

static void on_timeout(struct ev_loop *loop, ev_timer *w, int revents);
static void on_finish(struct ev_loop *loop, ev_prepare *w, int revents);

static int guest_init(struct rpl_guest *g, const struct rpl_guest_conf *conf, struct rpl_err *err)
{
	int r = copy_conf(&g->conf, conf, err);

	if (r < 0)
		return r;
	if (!g->conf.name)
		return rpl_fail(err, -EINVAL, "guest: it has no name");
	g->state_fd = memfd_create("replicad-device-state", MFD_CLOEXEC);
	if (g->state_fd < 0)
		return rpl_fail_errno(err, errno, "%s: memfd for the device state", g->conf.name);
	return g->ops->init(g, err);
}

struct rpl_guest *rpl_guest_new(const struct rpl_guest_conf *conf, struct ev_loop *loop, rpl_guest_done_fn *done,
				rpl_guest_event_fn *event, void *arg, struct rpl_err *err)
{
	const struct rpl_guest_ops *ops = find_backend(conf->backend, err);
	struct rpl_guest *g;

	if (!ops)
		return NULL;
	g = calloc(1, sizeof(*g));
	if (!g) {
		(void)rpl_fail(err, -ENOMEM, "guest: no memory");
		return NULL;
	}
	g->ops = ops;
	g->loop = loop;
	g->done = done;
	g->event = event;
	g->arg = arg;
	g->state_fd = -1;
	ev_init(&g->timeout, on_timeout);
	ev_set_priority(&g->timeout, EV_MINPRI); /* when we are late ourselves, an answer that has come counts */
	ev_init(&g->finish, on_finish);
	g->timeout.data = g->finish.data = g;
	if (guest_init(g, conf, err) < 0) {
		rpl_guest_free(g);
		return NULL;
	}
	return g;
}

static void release(struct rpl_guest *g, bool keep_standby)
{
	if (!g)
		return;
	ev_timer_stop(g->loop, &g->timeout);
	(void)ev_clear_pending(g->loop, &g->finish);
	g->ops->fini(g, keep_standby);
	rpl_close(&g->state_fd);
	free(g->info.definition);
	free(g->info.interfaces);
	free_conf(&g->conf);
	free(g);
}

void rpl_guest_free(struct rpl_guest *g)
{
	release(g, false);
}

void rpl_guest_leave(struct rpl_guest *g)
{
	release(g, true);
}

/* ---- one operation */

static void set_phase(struct rpl_guest *g, enum rpl_guest_phase phase)
{
	g->phase = phase;
}

static void phase_after(struct rpl_guest *g, enum rpl_guest_op op)
{
	switch (op) {
	case RPL_GUEST_ATTACH:
	case RPL_GUEST_ACTIVATE:
		set_phase(g, RPL_GP_LIVE);
		break;
	case RPL_GUEST_STANDBY:
		set_phase(g, RPL_GP_STANDBY);
		break;
	case RPL_GUEST_QUIT:
		set_phase(g, RPL_GP_GONE);
		break;
	default:
		break;
	}
	if (op == RPL_GUEST_PAUSE)
		g->info.running = false;
	if (op == RPL_GUEST_RESUME || op == RPL_GUEST_ACTIVATE) {
		g->info.running = true;
		g->info.paused_by_us = false;
		g->info.paused_ns = 0;
	}
}

static void end_op(struct rpl_guest *g, int r, const struct rpl_err *err)
{
	enum rpl_guest_op op = g->op;

	rpl_assert(g->busy);
	rpl_assert(r <= 0);
	rpl_assert(r == 0 || (err && err->msg[0]));
	g->busy = false;
	ev_timer_stop(g->loop, &g->timeout);
	(void)ev_clear_pending(g->loop, &g->finish);
	rpl_log(RPL_LOG_DEBUG, "vm=%s op=%s us=%" PRIu64 " r=%d%s%s", g->conf.name, rpl_guest_op_name(op),
		(rpl_now_ns() - g->op_started_ns) / 1000, r, r ? " reason=" : "", r ? err->msg : "");
	if (r == 0)
		phase_after(g, op);
	g->done(g->arg, op, r, r ? err : NULL);
}

static void on_finish(struct ev_loop *loop, ev_prepare *w, int revents)
{
	struct rpl_guest *g = w->data;
	struct rpl_err err = g->result_err;

	(void)loop;
	(void)revents;
	end_op(g, g->result, &err);
}

void rpl_guest_op_done(struct rpl_guest *g, int r, const struct rpl_err *err)
{
	rpl_assert(g->busy);
	rpl_assert(!ev_is_pending(&g->finish));
	g->result = r;
	if (r < 0)
		g->result_err = *err;
	ev_timer_stop(g->loop, &g->timeout);
	ev_feed_event(g->loop, &g->finish, EV_CUSTOM);
}

static unsigned op_bound_ms(const struct rpl_guest *g, enum rpl_guest_op op)
{
	bool builds = op == RPL_GUEST_STANDBY || op == RPL_GUEST_ACTIVATE;

	return builds && g->ops->standby_ms > g->conf.op_timeout_ms ? g->ops->standby_ms : g->conf.op_timeout_ms;
}

static void arm_timeout(struct rpl_guest *g, uint64_t ms)
{
	ev_timer_set(&g->timeout, (double)ms / 1e3, 0.);
	ev_timer_start(g->loop, &g->timeout);
}

/* The loop counts from when it last woke up, and what it did until the operation began may have taken a while. */
static bool early(struct rpl_guest *g)
{
	uint64_t ms = (rpl_now_ns() - g->op_started_ns) / RPL_MS, bound = op_bound_ms(g, g->op);

	if (ms < bound)
		arm_timeout(g, bound - ms);
	return ms < bound;
}

static void on_timeout(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct rpl_guest *g = w->data;
	struct rpl_err err;

	(void)loop;
	(void)revents;
	if (early(g))
		return;
	g->ops->abandon(g);
	(void)rpl_fail(&err, -ETIMEDOUT, "%s: %s: no answer within %u ms%s", g->conf.name, rpl_guest_op_name(g->op),
		       op_bound_ms(g, g->op),
		       g->op == RPL_GUEST_ATTACH ? "; is another program holding this monitor?" : "");
	end_op(g, -ETIMEDOUT, &err);
}

static void begin_op(struct rpl_guest *g, enum rpl_guest_op op)
{
	rpl_assert(!g->busy);
	g->busy = true;
	g->op = op;
	g->op_started_ns = rpl_now_ns();
	arm_timeout(g, op_bound_ms(g, op));
}

/* The start failed: it ends like any other operation. */
static void began(struct rpl_guest *g, int r, const struct rpl_err *err)
{
	if (r < 0)
		rpl_guest_op_done(g, r, err);
}

static bool is_gone(struct rpl_guest *g, struct rpl_err *err)
{
	if (g->phase != RPL_GP_GONE)
		return false;
	(void)rpl_fail(err, -ESRCH, "%s: %s: the guest is gone", g->conf.name, rpl_guest_op_name(g->op));
	return true;
}

static void start(struct rpl_guest *g, enum rpl_guest_op op, int (*fn)(struct rpl_guest *, struct rpl_err *))
{
	struct rpl_err err = { 0 };
	int r;

	begin_op(g, op);
	if (is_gone(g, &err))
		r = err.code;
	else if (!fn)
		r = rpl_fail(&err, -ENOTSUP, "%s: %s: the backend %s cannot do that", g->conf.name, rpl_guest_op_name(op), g->ops->name);
	else
		r = fn(g, &err);
	began(g, r, &err);
}

void rpl_guest_attach(struct rpl_guest *g)
{
	rpl_assert(g->phase == RPL_GP_NEW);
	start(g, RPL_GUEST_ATTACH, g->ops->attach);
}

static int nothing_changes(struct rpl_guest *g, struct rpl_err *err)
{
	(void)err;
	rpl_guest_op_done(g, 0, NULL);
	return 0;
}

void rpl_guest_look(struct rpl_guest *g)
{
	rpl_assert(g->phase == RPL_GP_LIVE || g->phase == RPL_GP_GONE);
	start(g, RPL_GUEST_LOOK, g->ops->look ? g->ops->look : nothing_changes);
}

void rpl_guest_standby(struct rpl_guest *g)
{
	rpl_assert(g->phase == RPL_GP_NEW);
	g->adopt = false;
	start(g, RPL_GUEST_STANDBY, g->ops->standby);
}

void rpl_guest_adopt(struct rpl_guest *g)
{
	rpl_assert(g->phase == RPL_GP_NEW);
	g->adopt = true;
	start(g, RPL_GUEST_STANDBY, g->ops->entrust ? g->ops->standby : NULL);
}

void rpl_guest_pause(struct rpl_guest *g)
{
	rpl_assert(g->phase == RPL_GP_LIVE || g->phase == RPL_GP_GONE);
	start(g, RPL_GUEST_PAUSE, g->ops->pause);
}

void rpl_guest_save(struct rpl_guest *g)
{
	struct rpl_err err = { 0 };

	rpl_assert(g->phase == RPL_GP_LIVE || g->phase == RPL_GP_GONE);
	if (!g->info.running || g->phase == RPL_GP_GONE) {
		start(g, RPL_GUEST_SAVE, g->ops->save);
		return;
	}
	begin_op(g, RPL_GUEST_SAVE);
	began(g, rpl_fail(&err, -EBUSY, "%s: save: the guest runs: was it resumed by another program?", g->conf.name), &err);
}

void rpl_guest_resume(struct rpl_guest *g)
{
	rpl_assert(g->phase == RPL_GP_LIVE || g->phase == RPL_GP_GONE);
	start(g, RPL_GUEST_RESUME, g->ops->resume);
}

void rpl_guest_announce(struct rpl_guest *g)
{
	rpl_assert(g->phase == RPL_GP_LIVE || g->phase == RPL_GP_GONE);
	start(g, RPL_GUEST_ANNOUNCE, g->ops->announce);
}

void rpl_guest_activate(struct rpl_guest *g, int state_fd, size_t len)
{
	struct rpl_err err = { 0 };
	int r;

	rpl_assert(g->phase == RPL_GP_STANDBY || g->phase == RPL_GP_GONE);
	begin_op(g, RPL_GUEST_ACTIVATE);
	if (is_gone(g, &err))
		r = err.code;
	else if (len == 0 || len > RPL_GUEST_STATE_MAX)
		r = rpl_fail(&err, -EINVAL, "%s: activate: %zu bytes of device state; 1 to %d are possible", g->conf.name,
			     len, RPL_GUEST_STATE_MAX);
	else
		r = g->ops->activate(g, state_fd, len, &err);
	began(g, r, &err);
}

int rpl_guest_prepare(struct rpl_guest *g, int state_fd, size_t len, struct rpl_err *err)
{
	rpl_assert(!g->busy);
	if (!g->ops->prepare || g->phase != RPL_GP_STANDBY)
		return rpl_fail(err, -ENOTSUP, "%s: there is nothing to be done before an activation", g->conf.name);
	if (len == 0 || len > RPL_GUEST_STATE_MAX)
		return rpl_fail(err, -EINVAL, "%s: prepare: %zu bytes of device state; 1 to %d are possible", g->conf.name, len,
				RPL_GUEST_STATE_MAX);
	return g->ops->prepare(g, state_fd, len, err);
}

void rpl_guest_unprepare(struct rpl_guest *g)
{
	if (g->ops->unprepare && g->phase == RPL_GP_STANDBY)
		g->ops->unprepare(g);
}

int rpl_guest_room(struct rpl_guest *g, struct rpl_err *err)
{
	return g->ops->room && g->phase == RPL_GP_STANDBY && !g->busy ? g->ops->room(g, err) : 0;
}

void rpl_guest_quit(struct rpl_guest *g)
{
	struct rpl_err err = { 0 };

	if (g->busy) {
		g->ops->abandon(g);
		(void)rpl_fail(&err, -ECANCELED, "%s: %s: the guest is being killed", g->conf.name, rpl_guest_op_name(g->op));
		end_op(g, -ECANCELED, &err);
	}
	begin_op(g, RPL_GUEST_QUIT);
	began(g, g->ops->quit(g, &err), &err);
}

void rpl_guest_tell(struct rpl_guest *g, enum rpl_guest_event event, const char *fmt, ...)
{
	char msg[240];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	rpl_log(RPL_LOG_DEBUG, "vm=%s event=%s reason=\"%s\"", g->conf.name, rpl_guest_event_name(event), msg);
	if (event == RPL_GUEST_LOST)
		set_phase(g, RPL_GP_GONE);
	if (event == RPL_GUEST_STOPPED || event == RPL_GUEST_IO_ERROR)
		g->info.running = false;
	if (event == RPL_GUEST_RESUMED)
		g->info.running = true;
	g->event(g->arg, event, msg);
}

/* ---- questions */

const struct rpl_guest_info *rpl_guest_info(const struct rpl_guest *g)
{
	rpl_assert(g->phase != RPL_GP_NEW);
	return &g->info;
}

int rpl_guest_state_fd(const struct rpl_guest *g)
{
	return g->state_fd;
}

size_t rpl_guest_state_len(const struct rpl_guest *g)
{
	return g->state_len;
}

pid_t rpl_guest_pid(const struct rpl_guest *g)
{
	return g->ops->pid(g);
}

size_t rpl_guest_made(const struct rpl_guest *g, const char *ret[RPL_GUEST_MADE_MAX])
{
	return g->ops->made ? g->ops->made(g, ret) : 0;
}

int rpl_guest_compare(const struct rpl_guest *g, const char *peer_definition, struct rpl_err *err)
{
	rpl_assert(g->info.definition);
	return rpl_definition_compare(g->info.definition, peer_definition, err);
}

int rpl_guest_fit(struct rpl_guest *g, const char *peer_definition, struct rpl_err *err)
{
	if (!g->ops->fit || g->phase != RPL_GP_STANDBY)
		return rpl_guest_compare(g, peer_definition, err);
	if (strnlen(peer_definition, RPL_GUEST_DEFINITION_MAX) == RPL_GUEST_DEFINITION_MAX)
		return rpl_fail(err, -EINVAL, "%s: the primary's definition is not text of less than %d bytes", g->conf.name,
				RPL_GUEST_DEFINITION_MAX);
	return g->ops->fit(g, peer_definition, err);
}

int rpl_guest_memory(struct rpl_guest *g, struct rpl_memory_desc *ret, int fds[RPL_MEMORY_FDS_MAX], size_t *ret_n,
		     struct rpl_err *err)
{
	uint64_t started = rpl_now_ns();
	struct rpl_err local = { 0 };
	int r;

	rpl_assert(g->phase != RPL_GP_NEW);
	if (g->phase == RPL_GP_GONE)
		return rpl_fail(err, -ESRCH, "%s: memory: the guest is gone", g->conf.name);
	memset(ret, 0, sizeof(*ret));
	r = g->ops->memory(g, ret, fds, ret_n, &local);
	rpl_log(RPL_LOG_DEBUG, "vm=%s op=memory us=%" PRIu64 " r=%d kind=%u", g->conf.name,
		(rpl_now_ns() - started) / 1000, r, ret->kind);
	rpl_assert(r == 0 || local.msg[0]);
	if (r < 0 && err)
		*err = local;
	return r;
}

int rpl_guest_entrust(struct rpl_guest *g, const char *name, int fd, struct rpl_err *err)
{
	rpl_assert(g->phase == RPL_GP_STANDBY || g->phase == RPL_GP_GONE);
	if (!g->ops->entrust || g->phase == RPL_GP_GONE)
		return rpl_fail(err, -ENOTSUP, "%s: there is no process that could hold %s", g->conf.name, name);
	return g->ops->entrust(g, name, fd, err);
}

int rpl_guest_entrusted(const struct rpl_guest *g, const char *name, struct rpl_err *err)
{
	if (!g->ops->entrusted || g->phase != RPL_GP_STANDBY)
		return rpl_fail(err, -ENOENT, "%s: there is no process that could hold %s", g->conf.name, name);
	return g->ops->entrusted(g, name, err);
}

int rpl_guest_collect(struct rpl_guest *g, uint64_t *ret_pages, struct rpl_err *err)
{
	uint64_t started = rpl_now_ns();
	int r;

	*ret_pages = UINT64_MAX;
	if (!g->ops->collect || g->phase == RPL_GP_GONE)
		return 0;
	r = g->ops->collect(g, ret_pages, err);
	rpl_log(RPL_LOG_DEBUG, "vm=%s op=collect us=%" PRIu64 " r=%d pages=%" PRIu64, g->conf.name,
		(rpl_now_ns() - started) / 1000, r, *ret_pages);
	return r;
}
