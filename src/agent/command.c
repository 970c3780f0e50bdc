/* command.c - what each command on the control socket does */
#include "agent.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <replicad/auto.h>
#include <replicad/log.h>

#define STATUS_TIMEOUT_MS 1000
#define PROTECT_TIMEOUT_MS 45000   /* until the keeper has found the guest; the rest is told by status and events */
#define UNPROTECT_TIMEOUT_MS 60000 /* until everything is let go; claims are bounded themselves */
#define EVENTS_DEFAULT 100
#define EVENTS_LIMIT 1024

/* A request that waits for keepers. Connections are named by number: they may be gone when the answer comes. */
struct job {
	struct rpl_agent *agent;
	struct rpl_ward *ward;
	uint64_t id;
	bool force;
};

static struct job *new_job(struct rpl_agent *a, struct rpl_ward *w, uint64_t id)
{
	struct job *job = malloc(sizeof(*job));

	rpl_assert(job);
	*job = (struct job){ .agent = a, .ward = w, .id = id };
	return job;
}

static enum rpl_control_error code_of(const struct rpl_err *err)
{
	switch (err->code) {
	case -ETIMEDOUT:
		return RPL_CE_timeout;
	case -EBUSY:
		return RPL_CE_busy;
	case -ENOENT:
		return RPL_CE_not_found;
	default:
		return RPL_CE_failed;
	}
}

static bool is_ok(const json_t *reply)
{
	return reply && json_is_true(json_object_get(reply, "ok"));
}

/* A keeper's answer, without the id that was ours. */
static void pass_on(struct job *job, const json_t *reply, const struct rpl_err *err)
{
	if (reply) {
		json_t *copy = json_deep_copy(reply);

		(void)json_object_del(copy, "id");
		rpl_server_reply(job->agent->server, job->id, copy);
	} else {
		rpl_server_error(job->agent->server, job->id, code_of(err), err->msg);
	}
}

/* ---- status */

struct gather {
	struct rpl_agent *agent;
	uint64_t id;
	size_t left;
	json_t *vms; /* in the wards' order, null where an answer is awaited */
};

struct gather_one {
	struct gather *all;
	struct rpl_ward *ward;
	size_t at;
};

static void gather_done(struct gather *g)
{
	json_t *reply = rpl_reply_ok();

	(void)json_object_set_new(reply, "agent", rpl_agent_describe(g->agent));
	(void)json_object_set_new(reply, "vms", g->vms);
	rpl_server_reply(g->agent->server, g->id, reply);
	free(g);
}

static void on_status(void *arg, const json_t *reply, const struct rpl_err *err)
{
	struct gather_one *one = arg;
	struct gather *g = one->all;

	(void)err; /* the answer says unresponsive */
	if (is_ok(reply))
		rpl_ward_learn(one->ward, json_object_get(reply, "status"));
	(void)json_array_set_new(g->vms, one->at, rpl_ward_status(one->ward, is_ok(reply)));
	free(one);
	if (--g->left == 0)
		gather_done(g);
}

static void ask_ward(struct gather *g, struct rpl_ward *w)
{
	struct gather_one *one;

	if (rpl_ward_keeper(w) != RPL_WARD_RUNNING) {
		(void)json_array_append_new(g->vms, rpl_ward_status(w, false));
		return;
	}
	one = malloc(sizeof(*one));
	rpl_assert(one);
	*one = (struct gather_one){ .all = g, .ward = w, .at = json_array_size(g->vms) };
	(void)json_array_append_new(g->vms, json_null());
	g->left++;
	rpl_ward_call(w, "status", NULL, -1, STATUS_TIMEOUT_MS, on_status, one);
}

static void cmd_status(struct rpl_agent *a, uint64_t id, const json_t *request)
{
	struct rpl_err err;
	const char *vm = rpl_request_string(request, "vm", "", &err);
	const struct rpl_ward *named;
	struct gather *g;

	if (!vm) {
		rpl_server_error(a->server, id, RPL_CE_bad_request, err.msg);
		return;
	}
	named = vm[0] ? rpl_ward_find(a, vm) : NULL;
	if (vm[0] && (!named || !rpl_ward_shown(named))) {
		(void)rpl_fail(&err, -ENOENT, "there is no VM '%.60s' here: no [vm] section, and nothing runs", vm);
		rpl_server_error(a->server, id, RPL_CE_not_found, err.msg);
		return;
	}
	g = malloc(sizeof(*g));
	rpl_assert(g);
	*g = (struct gather){ .agent = a, .id = id, .left = 1, .vms = json_array() };
	for (struct rpl_ward *w = a->wards; w; w = rpl_ward_next(w))
		if (vm[0] ? strcmp(vm, rpl_ward_name(w)) == 0 : rpl_ward_shown(w))
			ask_ward(g, w);
	if (--g->left == 0)
		gather_done(g);
}

/* ---- protect */

static void on_protect(void *arg, const json_t *reply, const struct rpl_err *err)
{
	struct job *job = arg;
	const char *code = "";

	if (!is_ok(reply)) {
		if (reply)
			(void)json_unpack((json_t *)(uintptr_t)reply, "{s:{s:s}}", "error", "code", &code);
		/* A new wish ends with a no, or with a keeper that died over it. A time-out does not end it (it may still
		 * happen), nor does the agent's own end. */
		if (reply ? strcmp(code, "timeout") != 0 : err->code != -ETIMEDOUT && err->code != -ESHUTDOWN)
			rpl_ward_withdraw_fresh(job->ward);
	}
	pass_on(job, reply, err);
	free(job);
}

static int complete_conf(const struct rpl_conf_vm *vm, struct rpl_err *err)
{
	if (strcmp(vm->backend, "qemu") == 0 && !vm->qmp[0])
		return rpl_fail(err, -EINVAL, "[vm %s]: qmp is not set; say --qmp PATH", vm->name);
	if (!vm->backup[0])
		return rpl_fail(err, -EINVAL, "[vm %s]: backup is not set; say --backup HOST", vm->name);
	return 0;
}

/* Bring the wish into the configuration. *ret_new: there was no file of ours before. */
static int settle_conf(struct rpl_agent *a, const char *vm, const json_t *set, bool *ret_new, struct rpl_err *err)
{
	const struct rpl_conf_vm *conf;
	int r;

	*ret_new = false;
	if (set && json_object_size(set)) {
		r = rpl_wanted_write_conf(a, vm, set, ret_new, err);
		if (r < 0)
			return r;
		r = rpl_agent_reload(a, err);
		if (r < 0)
			return r;
	}
	conf = rpl_conf_vm(a->conf, vm);
	if (!conf)
		return rpl_fail(err, -ENOENT, "there is no section [vm %s]; say --backup HOST, and of a QEMU guest --qmp PATH", vm);
	return complete_conf(conf, err);
}

static void undo_conf(struct rpl_agent *a, const char *vm)
{
	struct rpl_err err;

	if (rpl_wanted_drop_conf(a, vm) && rpl_agent_reload(a, &err) < 0)
		rpl_log(RPL_LOG_ERROR, "msg=\"%s\"", err.msg);
}

static void cmd_protect(struct rpl_agent *a, uint64_t id, const json_t *request)
{
	const json_t *set = json_object_get(request, "set");
	struct rpl_err err;
	const char *vm = rpl_request_vm(request, &err);
	struct rpl_ward *w = vm ? rpl_ward_find(a, vm) : NULL;
	bool conf_new = false;
	int r;

	if (!vm || (set && !json_is_object(set))) {
		rpl_server_error(a->server, id, RPL_CE_bad_request, vm ? "\"set\" is no object" : err.msg);
		return;
	}
	if (w && strcmp(rpl_ward_role(w), "backup") == 0) {
		(void)rpl_fail(&err, -EEXIST, "%s is backed up here: protect it where it runs", vm);
		rpl_server_error(a->server, id, RPL_CE_refused, err.msg);
		return;
	}
	if (w && rpl_ward_wanted(w) && set && json_object_size(set)) {
		(void)rpl_fail(&err, -EEXIST, "%s is protected already; to protect it otherwise, unprotect it first", vm);
		rpl_server_error(a->server, id, RPL_CE_refused, err.msg);
		return;
	}
	r = settle_conf(a, vm, set, &conf_new, &err);
	if (r == 0 && !(w = rpl_ward_get(a, vm, &err)))
		r = err.code;
	if (r == 0)
		r = rpl_wanted_set(a, vm, true, &err);
	if (r < 0) {
		if (conf_new)
			undo_conf(a, vm);
		rpl_server_error(a->server, id, r == -ENOENT ? RPL_CE_not_found : RPL_CE_config, err.msg);
		return;
	}
	if (!rpl_ward_wanted(w)) /* again: a no-change, not a new attempt */
		rpl_ward_fresh(w, conf_new);
	rpl_ward_want(w, true);
	rpl_ward_call(w, "protect", NULL, -1, PROTECT_TIMEOUT_MS, on_protect, new_job(a, w, id));
	if (rpl_ward_start(w, "primary", &err) < 0)
		rpl_ward_give_up(w, &err);
}

/* ---- unprotect */

static void on_unprotect(void *arg, const json_t *reply, const struct rpl_err *err)
{
	struct job *job = arg;

	if (is_ok(reply)) {
		rpl_ward_want(job->ward, false); /* no longer fresh either: the file goes in any case */
		rpl_ward_withdraw(job->ward);
	}
	pass_on(job, reply, err);
	free(job);
}

static void on_release(void *arg, const json_t *reply, const struct rpl_err *err)
{
	struct job *job = arg;

	pass_on(job, reply, err);
	free(job);
}

/* A backup's replica is given up: by force only, since what the peer counts on is lost. */
static void release_backup(struct rpl_agent *a, uint64_t id, struct rpl_ward *w, bool force)
{
	struct rpl_err err;
	json_t *fields;

	if (!force) {
		(void)rpl_fail(&err, -EPERM, "%s runs elsewhere and is backed up here: unprotect it there (--force gives up this copy)",
			       rpl_ward_name(w));
		rpl_server_error(a->server, id, RPL_CE_refused, err.msg);
		return;
	}
	fields = json_pack("{s:b}", "force", 1);
	rpl_ward_end(w, fields, on_release, new_job(a, w, id));
	json_decref(fields);
}

static void cmd_unprotect(struct rpl_agent *a, uint64_t id, const json_t *request)
{
	struct rpl_err err;
	const char *vm = rpl_request_vm(request, &err);
	struct rpl_ward *w = vm ? rpl_ward_find(a, vm) : NULL;
	int force = rpl_request_bool(request, "force", &err);

	if (!vm || force < 0) {
		rpl_server_error(a->server, id, RPL_CE_bad_request, err.msg);
	} else if (!w || (rpl_ward_keeper(w) == RPL_WARD_NONE && !rpl_ward_wanted(w))) {
		(void)rpl_fail(&err, -ENOENT, "%s is not protected here", vm);
		rpl_server_error(a->server, id, RPL_CE_not_found, err.msg);
	} else if (strcmp(rpl_ward_role(w), "backup") == 0) {
		release_backup(a, id, w, force);
	} else if (rpl_ward_keeper(w) == RPL_WARD_NONE) {
		rpl_ward_withdraw(w); /* wanted, but nothing was ever started */
		rpl_server_reply(a->server, id, rpl_reply_ok());
	} else {
		rpl_ward_call(w, "unprotect", NULL, -1, UNPROTECT_TIMEOUT_MS, on_unprotect, new_job(a, w, id));
	}
}

/* ---- the rest */

static void on_forwarded(void *arg, const json_t *reply, const struct rpl_err *err)
{
	struct job *job = arg;

	pass_on(job, reply, err);
	free(job);
}

/* What the keeper alone decides: the agent only finds it. */
static void forward(struct rpl_agent *a, uint64_t id, const char *cmd, const json_t *request)
{
	const json_t *generation = json_object_get(request, "generation");
	struct rpl_err err;
	const char *vm = rpl_request_vm(request, &err);
	struct rpl_ward *w = vm ? rpl_ward_find(a, vm) : NULL;
	json_t *fields;

	if (!vm || (generation && !json_is_integer(generation))) {
		rpl_server_error(a->server, id, RPL_CE_bad_request, vm ? "\"generation\" is no number" : err.msg);
	} else if (!w || rpl_ward_keeper(w) == RPL_WARD_NONE) {
		(void)rpl_fail(&err, -ENOENT, "%s has no keeper here", vm);
		rpl_server_error(a->server, id, RPL_CE_not_found, err.msg);
	} else {
		fields = generation ? json_pack("{s:O}", "generation", generation) : json_object();
		rpl_ward_call(w, cmd, fields, -1, UNPROTECT_TIMEOUT_MS, on_forwarded, new_job(a, w, id));
		json_decref(fields);
	}
}

#define FORWARDED(name)                                                                    \
	static void cmd_##name(struct rpl_agent *a, uint64_t id, const json_t *request)    \
	{                                                                                  \
		forward(a, id, #name, request);                                            \
	}
FORWARDED(switchover)
FORWARDED(solo)
FORWARDED(takeover)
FORWARDED(accept_loss)
#undef FORWARDED

static void cmd_events(struct rpl_agent *a, uint64_t id, const json_t *request)
{
	struct rpl_err err;
	const char *vm = rpl_request_string(request, "vm", "", &err);
	const json_t *limit_field = json_object_get(request, "limit");
	json_int_t limit = limit_field ? json_integer_value(limit_field) : EVENTS_DEFAULT;
	int follow = rpl_request_bool(request, "follow", &err);
	json_t *reply;

	if (limit_field && (!json_is_integer(limit_field) || limit < 0 || limit > EVENTS_LIMIT)) {
		(void)rpl_fail(&err, -EINVAL, "\"limit\": allowed is a whole number from 0 to %d", EVENTS_LIMIT);
		limit = -1;
	}
	if (!vm || follow < 0 || limit < 0) {
		rpl_server_error(a->server, id, RPL_CE_bad_request, err.msg);
		return;
	}
	if (vm[0] && !rpl_conf_name_ok(vm)) {
		rpl_server_error(a->server, id, RPL_CE_bad_request, "\"vm\" is no VM's name");
		return;
	}
	reply = rpl_reply_ok();
	(void)json_object_set_new(reply, "events", rpl_journal_tail(a->journal, vm, (size_t)limit));
	rpl_server_reply(a->server, id, reply);
	if (follow)
		rpl_server_follow(a->server, id, vm);
}

static void cmd_reload(struct rpl_agent *a, uint64_t id, const json_t *request)
{
	struct rpl_err err;

	(void)request;
	if (rpl_agent_reload(a, &err) < 0)
		rpl_server_error(a->server, id, RPL_CE_config, err.msg);
	else
		rpl_server_reply(a->server, id, rpl_reply_ok());
}

static void cmd_ping(struct rpl_agent *a, uint64_t id, const json_t *request)
{
	json_t *reply = rpl_reply_ok();

	(void)request;
	(void)json_object_set_new(reply, "agent", rpl_agent_describe(a));
	rpl_server_reply(a->server, id, reply);
}

static const struct {
	const char *name;
	void (*fn)(struct rpl_agent *a, uint64_t id, const json_t *request);
} commands[] = {
#define X(name) { #name, cmd_##name },
	RPL_AGENT_COMMANDS(X)
#undef X
};

void rpl_command(struct rpl_agent *a, uint64_t id, const char *cmd, const json_t *request)
{
	struct rpl_err err;

	for (size_t i = 0; i < RPL_ARRAY_LEN(commands); i++)
		if (strcmp(commands[i].name, cmd) == 0) {
			commands[i].fn(a, id, request);
			return;
		}
	(void)rpl_fail(&err, -EINVAL, "there is no command '%.40s'", cmd);
	rpl_server_error(a->server, id, RPL_CE_unknown_command, err.msg);
}
