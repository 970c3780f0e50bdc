/* main.c - the agent's life: configuration, one agent per run_dir, signals, reload */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/io.h>
#include <replicad/log.h>

#define LOCK_TRIES 10
#define LOCK_RETRY_MS 50

const char *rpl_agent_log_level(const struct rpl_agent *a)
{
	return a->args.debug ? "debug" : a->conf->agent.log_level;
}

static void set_log(const struct rpl_agent *a)
{
	char ident[96];

	(void)snprintf(ident, sizeof(ident), "agent %.48s", a->conf->agent.node);
	rpl_log_init(ident, (enum rpl_log_level)rpl_log_level(rpl_agent_log_level(a)));
}

json_t *rpl_agent_describe(const struct rpl_agent *a)
{
	const struct rpl_conf_agent *c = &a->conf->agent;

	return json_pack("{s:s, s:s, s:s, s:i, s:o, s:s, s:b}", "node", c->node, "version", a->args.version, "cluster",
			 c->cluster, "pid", (int)getpid(), "listen", rpl_acceptor_addresses(a->acceptor), "tls", c->tls,
			 "insecure", c->insecure);
}

/* A ward for each VM of the configuration, so that status shows it. */
static void know_configured(struct rpl_agent *a)
{
	struct rpl_err err;

	for (size_t i = 0; i < a->conf->n_vms; i++)
		if (!rpl_ward_get(a, a->conf->vms[i].name, &err))
			rpl_log(RPL_LOG_ERROR, "vm=%s msg=\"%s\"", a->conf->vms[i].name, err.msg);
}

/* What `role` asks for when the agent starts. */
static void start_roles(struct rpl_agent *a)
{
	struct rpl_err err;

	for (size_t i = 0; i < a->conf->n_vms; i++) {
		const struct rpl_conf_vm *vm = &a->conf->vms[i];
		struct rpl_ward *w = rpl_ward_find(a, vm->name);

		if (!w || strcmp(vm->role, "auto") == 0)
			continue;
		if (strcmp(vm->role, "primary") == 0)
			rpl_ward_want(w, true);
		if (rpl_ward_start(w, vm->role, &err) < 0)
			rpl_log(RPL_LOG_ERROR, "vm=%s msg=\"%s\"", vm->name, err.msg);
	}
}

static void resume_wanted(struct rpl_agent *a, const char *vm)
{
	struct rpl_err err;
	struct rpl_ward *w = rpl_ward_get(a, vm, &err);

	if (w) {
		rpl_ward_want(w, true);
		if (rpl_ward_start(w, "primary", &err) == 0)
			return;
	}
	rpl_agent_note(a, "alarm", vm, "protection is wanted but cannot be resumed: %s", err.msg);
}

int rpl_agent_reload(struct rpl_agent *a, struct rpl_err *err)
{
	struct rpl_conf *old = a->conf, *new = rpl_conf_load(a->args.conf_path, err);

	if (!new)
		return err->code;
	/* what applies at start only stays as it is, so that everything goes on agreeing about it */
#define KEEP(name) memcpy(new->agent.name, old->agent.name, sizeof(new->agent.name));
	KEEP(node) KEEP(cluster) KEEP(listen) KEEP(run_dir) KEEP(state_dir) KEEP(control_group)
#undef KEEP
	a->conf = new;
	rpl_conf_free(old);
	set_log(a);
	know_configured(a);
	rpl_relays_ensure(a);
	for (struct rpl_ward *w = a->wards; w; w = rpl_ward_next(w))
		rpl_ward_reload(w);
	return 0;
}

static void on_hup(struct ev_loop *loop, ev_signal *w, int revents)
{
	struct rpl_agent *a = w->data;
	struct rpl_err err;

	(void)loop, (void)revents;
	if (rpl_agent_reload(a, &err) < 0)
		rpl_agent_note(a, "reload", NULL, "the configuration in effect stays: %s", err.msg);
	else
		rpl_agent_note(a, "reload", NULL, "the configuration was read anew");
}

static void on_term(struct ev_loop *loop, ev_signal *w, int revents)
{
	(void)w, (void)revents;
	ev_break(loop, EVBREAK_ALL);
}

/* One agent per run_dir: two would both believe to own the keepers. The lock is on the directory: it leaves no file. */
static int lock_run_dir(struct rpl_agent *a, struct rpl_err *err)
{
	const struct timespec pause = { .tv_nsec = LOCK_RETRY_MS * (long)RPL_MS };

	a->lock_fd = open(a->conf->agent.run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (a->lock_fd < 0)
		return rpl_fail_errno(err, errno, "open %s", a->conf->agent.run_dir);
	/* One that was killed while it started a keeper left the lock with that child, until it is the keeper's program. */
	for (int tries = 1; flock(a->lock_fd, LOCK_EX | LOCK_NB) < 0; tries++) {
		if (tries < LOCK_TRIES && errno == EWOULDBLOCK) {
			(void)nanosleep(&pause, NULL);
			continue;
		}
		return rpl_fail(err, -EBUSY, "another agent uses run_dir %s; stop it, or give this one a run_dir of its own",
				a->conf->agent.run_dir);
	}
	return 0;
}

static int make_dirs(const struct rpl_agent *a, struct rpl_err *err)
{
	char path[PATH_MAX];
	int r = rpl_path(path, sizeof(path), err, "%s/vm", a->conf->agent.run_dir);

	if (r == 0)
		r = rpl_mkdir_p(path, 0755, err);
	if (r == 0)
		r = rpl_path(path, sizeof(path), err, "%s/wanted", a->conf->agent.state_dir);
	return r < 0 ? r : rpl_mkdir_p(path, 0755, err);
}

static void watch_signal(struct rpl_agent *a, ev_signal *w, void (*fn)(struct ev_loop *, ev_signal *, int), int number)
{
	ev_signal_init(w, fn, number);
	w->data = a;
	ev_signal_start(a->loop, w);
}

static int start(struct rpl_agent *a, struct rpl_err *err)
{
	int r = make_dirs(a, err);

	if (r == 0)
		r = lock_run_dir(a, err);
	if (r < 0)
		return r;
	a->journal = rpl_journal_open(a->conf->agent.state_dir, err);
	if (!a->journal)
		return err->code;
	a->acceptor = rpl_acceptor_new(a, err);
	if (!a->acceptor)
		return err->code;
	rpl_ward_adopt_all(a);
	rpl_relays_ensure(a); /* before the keepers that look for them */
	rpl_wanted_each(a, resume_wanted);
	know_configured(a);
	start_roles(a);
	/* last: who can connect finds everything in its place */
	a->server = rpl_server_new(a, err);
	if (!a->server)
		return err->code;
	rpl_agent_note(a, "agent-start", NULL, "replicad %s", a->args.version);
	return 0;
}

static void stop(struct rpl_agent *a)
{
	if (a->server)
		rpl_agent_note(a, "agent-stop", NULL, "keepers go on");
	rpl_ward_free_all(a);
	rpl_relays_free(a);
	rpl_server_free(a->server);
	rpl_acceptor_free(a->acceptor);
	rpl_journal_close(a->journal);
	rpl_conf_free(a->conf);
	rpl_close(&a->lock_fd);
	ev_loop_destroy(a->loop);
}

int rpl_agent_run(const struct rpl_agent_args *args, struct rpl_err *err)
{
	struct rpl_agent a = { .args = *args, .lock_fd = -1 };
	int r;

	a.conf = rpl_conf_load(args->conf_path, err);
	if (!a.conf)
		return err->code;
	set_log(&a);
	(void)signal(SIGPIPE, SIG_IGN);
	/* not the default loop: that one would reap our keepers before we read their status */
	a.loop = ev_loop_new(EVFLAG_AUTO);
	rpl_assert(a.loop);
	watch_signal(&a, &a.term, on_term, SIGTERM);
	watch_signal(&a, &a.intr, on_term, SIGINT);
	watch_signal(&a, &a.hup, on_hup, SIGHUP);
	r = start(&a, err);
	if (r == 0)
		(void)ev_run(a.loop, 0);
	stop(&a);
	return r;
}
