/* command.c - what the control socket asks of this keeper */
#include "keeper.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <replicad/control.h>
#include <replicad/auto.h>
#include <replicad/fault.h>
#include <replicad/clock.h>
#include <replicad/log.h>

static json_t *done(void)
{
	return json_pack("{s:b}", "ok", 1);
}

static void answer(struct keeper *k, struct control_call *waiting, json_t *reply)
{
	if (waiting->client)
		control_answer(k->control, *waiting, reply);
	else
		json_decref(reply);
	*waiting = (struct control_call){ 0 };
}

void keeper_refuse(struct keeper *k, const struct rpl_err *err)
{
	rpl_log(RPL_LOG_ERROR, "vm=%s refused=\"%s\"", k->conf.vm, err->msg);
	(void)snprintf(k->refused, sizeof(k->refused), "%s", err->msg);
	if (!k->control)
		return;
	keeper_tell(k, "refused", json_pack("{s:s, s:s}", "reason", err->msg, "message", err->msg));
	answer(k, &k->protect_call, control_refusal("refused", err->msg));
}

/* The command's answer is the core's, given in the same step. */
static json_t *ask_core_about(struct keeper *k, enum rpl_event_kind kind, uint64_t generation)
{
	json_t *reply;

	if (!k->started)
		return control_refusal("busy", "still starting; try again");
	json_decref(k->reply);
	k->reply = NULL;
	keeper_event(k, &(struct rpl_event){ .kind = kind, .u.cmd.generation = generation });
	reply = k->reply;
	k->reply = NULL;
	return reply ? reply : control_refusal("failed", "the keeper gave no answer");
}

static json_t *ask_core(struct keeper *k, enum rpl_event_kind kind)
{
	return ask_core_about(k, kind, 0);
}

static json_t *refusal(const char *fmt, ...) RPL_PRINTF(1, 2);

static json_t *refusal(const char *fmt, ...)
{
	char text[320];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return control_refusal("refused", text);
}

/* ---- an operator's word stands for what nobody can ask; it holds for the generation that it names, and no other */

/* Whoever was heard a moment ago is not dead, whatever an operator says. NULL: not heard. */
static json_t *peer_lives(const struct keeper *k)
{
	uint64_t heard = keeper_heard_at(k), now = rpl_now_ns();

	if (!heard || now > heard + k->conf.core.suspect_ns)
		return NULL;
	return refusal("%s is not dead: it was heard %llu ms ago", k->conf.core.peer, (unsigned long long)((now - heard) / RPL_MS));
}

static json_t *operators_word(struct keeper *k, enum rpl_event_kind kind, const json_t *request,
			      struct control_call call)
{
	const json_t *generation = json_object_get(request, "generation");
	json_t *no;

	if (!json_is_integer(generation) || json_integer_value(generation) < 1)
		return control_refusal("bad_request", "say which generation this is about (\"generation\": N, as status "
						      "shows it)");
	if (!k->started || k->word.call.client)
		return control_refusal("busy", k->started ? "another operator's word is being looked into" :
							    "still starting; try again");
	if (rpl_core_verdict(k->core.state, kind) != RPL_HANDLED)
		return refusal("%s is in state %s here (%s): there is nothing to decide", k->conf.vm,
			       rpl_state_name(k->core.state), k->reason);
	no = peer_lives(k);
	if (no)
		return no;
	k->word.call = call;
	k->word.kind = kind;
	k->word.generation = (uint64_t)json_integer_value(generation);
	keeper_arbiter_look(k);
	return NULL;
}

void keeper_judge_word(struct keeper *k, const struct rpl_record *record)
{
	struct control_call call = k->word.call;

	k->word.call = (struct control_call){ 0 };
	if (!record)
		answer(k, &call, refusal("the record of %s cannot be read: without the arbiter nobody may decide", k->conf.vm));
	else if (record->generation != k->word.generation)
		answer(k, &call, refusal("the record of %s is of generation %llu now (%s, owner %.63s), not %llu: look again, then "
					 "decide about that", k->conf.vm, (unsigned long long)record->generation,
					 rpl_mode_name((enum rpl_mode)record->mode), record->owner,
					 (unsigned long long)k->word.generation));
	else if (k->word.kind == RPL_EV_CMD_TAKEOVER && record->mode != RPL_MODE_PROTECTED)
		answer(k, &call, refusal("the record of %s says %s, owner %.63s, in generation %llu: nobody may take over from that", k->conf.vm,
					 rpl_mode_name((enum rpl_mode)record->mode), record->owner,
					 (unsigned long long)record->generation));
	else
		answer(k, &call, ask_core_about(k, k->word.kind, k->word.generation));
}

/* ---- planned switchover */

static json_t *switch_over(struct keeper *k)
{
	enum rpl_state s = k->started ? k->core.state : RPL_ST_START;
	const char *vm = k->conf.vm, *peer = k->conf.core.peer;

	if (s >= RPL_ST_B_SEED && s <= RPL_ST_B_PROMOTE)
		return refusal("%s is backed up here: ask for it on %s, where it runs; if %s is dead, `replicad failover --force "
			       "--generation N --peer-is-dead %s` here", vm, peer, peer, vm);
	if (s == RPL_ST_IDLE || s == RPL_ST_START)
		return refusal("%s does not run here (state %s: %s)", vm, rpl_state_name(s), k->reason);
	if (s == RPL_ST_P_SOLO && !k->core.want)
		return refusal("%s is not protected, so there is no copy to switch to: `replicad protect %s` first", vm, vm);
	if (s == RPL_ST_P_SOLO || s == RPL_ST_P_SYNC || s == RPL_ST_P_ARM)
		return refusal("%s has no complete copy on %s yet (state %s: %s%s%s): wait for P_PROTECTED in `replicad status %s`",
			       vm, peer, rpl_state_name(s), k->reason, k->refused[0] ? "; " : "", k->refused, vm);
	if (s != RPL_ST_P_PROTECTED)
		return refusal("%s is in state %s (%s): a switchover begins from P_PROTECTED", vm, rpl_state_name(s), k->reason);
	return ask_core(k, RPL_EV_CMD_SWITCHOVER);
}

static json_t *protect(struct keeper *k, struct control_call call)
{
	if (!*k->conf.peer_address)
		return control_refusal("refused", "no peer is configured to hold the copy: say --backup HOST, with a "
						  "[peer HOST] section or host:port");
	if (k->started) {
		json_t *reply = ask_core(k, RPL_EV_CMD_PROTECT);

		k->refused[0] = '\0'; /* whoever asks again has mended it, or is told anew at the next attempt */
		keeper_past_save(k);
		return reply;
	}
	k->protect_call = call; /* answered when the guest was looked at */
	if (k->refused[0])
		keeper_attach(k);
	return NULL;
}

static bool let_go(const struct keeper *k)
{
	return !k->started || k->core.state == RPL_ST_IDLE ||
	       (k->core.state == RPL_ST_P_SOLO && k->core.output == RPL_OUT_OPEN && !k->core.want);
}

static void leave(struct keeper *k)
{
	answer(k, &k->unprotect_call, done());
	answer(k, &k->shutdown_call, done());
	if (k->core.state != RPL_ST_IDLE)
		keeper_tell(k, "unprotected", NULL);
	keeper_end(k);
}

static json_t *unprotect(struct keeper *k, struct control_call call)
{
	json_t *reply = k->started ? ask_core(k, RPL_EV_CMD_UNPROTECT) : NULL;

	if (reply && !json_is_true(json_object_get(reply, "ok")))
		return reply;
	json_decref(reply);
	k->unprotect_call = call;
	k->leaving = true;
	keeper_answer_waiting(k);
	return NULL;
}

static json_t *shut_down(struct keeper *k, const json_t *request, struct control_call call)
{
	bool force = json_is_true(json_object_get(request, "force"));
	enum rpl_state s = k->core.state;

	if (k->started && s >= RPL_ST_P_ARM && s <= RPL_ST_P_DEPOSED && !force)
		return control_refusal("refused", "the guest's output is held here: unprotect it first");
	if (k->ending)
		return done();
	k->shutdown_call = call;
	leave(k);
	return NULL;
}

void keeper_answer_waiting(struct keeper *k)
{
	if (k->protect_call.client && k->started) {
		struct control_call call = k->protect_call;

		k->protect_call = (struct control_call){ 0 }; /* asking comes back here */
		answer(k, &call, ask_core(k, RPL_EV_CMD_PROTECT));
	}
	if (k->leaving && !k->ending && let_go(k))
		leave(k);
}

/* A mover of the backup's writes to the staging area: none may be started while what is staged is needed. */
static const char *no_backup_now(struct keeper *k)
{
	enum rpl_state s = k->started ? k->core.state : RPL_ST_START;

	if (!*k->conf.standby)
		return "this VM has no standby= here: it cannot be a backup";
	if (s == RPL_ST_START && k->standby.found)
		return "the replica that an earlier keeper left is being judged";
	if (!standby_possible(k) && !standby_to_be_told(k))
		return "the guest runs here, or what it left is being put away: it is no backup now";
	if (s == RPL_ST_START || s == RPL_ST_IDLE || s == RPL_ST_B_SEED || s == RPL_ST_B_READY)
		return NULL;
	if (s == RPL_ST_B_SUSPECT) /* the primary lives, it seems: what does the record say? */
		keeper_event(k, &(struct rpl_event){ .kind = RPL_EV_SESSION_OPEN });
	return "a takeover is under way here";
}

static json_t *with_descriptor(struct keeper *k, int fd)
{
	struct rpl_err err;
	const char *no;
	bool listen;

	if (fd < 0)
		return control_refusal("bad_request", "link: no connection came along");
	listen = listener_wanted(k);
	no = listen ? NULL : no_backup_now(k);
	if (no && !k->started && k->refused[0]) { /* whether the guest runs here cannot be known: who calls hears why */
		listener_turn_away(k, fd);
		return done();
	}
	if (no) {
		(void)close(fd);
		return control_refusal("refused", no);
	}
	if ((listen ? listener_link(k, fd, &err) : standby_link(k, fd, &err)) < 0) {
		(void)close(fd);
		return control_refusal("refused", err.msg);
	}
	return done();
}

/* What replicad.conf(5) says applies live; the rest of the file waits for the next keeper. */
static json_t *reload(struct keeper *k)
{
	struct keeper_conf fresh;
	struct rpl_err err;

	if (keeper_conf_load(k->conf.dir, &fresh, &err) < 0)
		return control_refusal("config", err.msg);
	k->conf.core.interval_ns = k->core.conf.interval_ns = fresh.core.interval_ns;
	rpl_log_limit(fresh.log_level);
	keeper_conf_fini(&fresh);
	return done();
}

/* For tests: make this process, or its mover, fail at a named point from now on. */
static json_t *arm_fault(struct keeper *k, const json_t *request)
{
	const char *text = json_string_value(json_object_get(request, "point"));
	enum rpl_fault point;
	struct rpl_err err;
	uint64_t nth;

	if (!text || rpl_fault_read(text, strlen(text), &point, &nth, &err) < 0)
		return control_refusal("bad_request", text ? err.msg : "say which point (\"point\": \"NAME[:nth]\")");
	rpl_log(RPL_LOG_WARNING, "vm=%s fault=%s passage=%llu armed=%s", k->conf.vm, rpl_fault_name(point),
		(unsigned long long)nth, rpl_fault_in_mover(point) ? "mover" : "keeper");
	if (!rpl_fault_in_mover(point))
		rpl_fault_arm(point, nth);
	else if (movers_running(k->movers))
		movers_send(k->movers, RPL_MOVER_FAULT, nth, (uint64_t)point, 0, NULL);
	else
		return control_refusal("failed", "there is no mover now");
	return done();
}

json_t *keeper_command(void *arg, const char *cmd, const json_t *request, int fd, struct control_call call)
{
	struct keeper *k = arg;

	if (!strcmp(cmd, "link"))
		return with_descriptor(k, fd);
	rpl_close(&fd);
	if (!strcmp(cmd, "status"))
		return json_pack("{s:b, s:o}", "ok", 1, "status", keeper_status(k));
	if (!strcmp(cmd, "protect"))
		return protect(k, call);
	if (!strcmp(cmd, "unprotect"))
		return unprotect(k, call);
	if (!strcmp(cmd, "switchover"))
		return switch_over(k);
	if (!strcmp(cmd, "reload"))
		return reload(k);
	if (!strcmp(cmd, "solo"))
		return operators_word(k, RPL_EV_CMD_SOLO, request, call);
	if (!strcmp(cmd, "takeover"))
		return operators_word(k, RPL_EV_CMD_TAKEOVER, request, call);
	if (!strcmp(cmd, "accept_loss"))
		return operators_word(k, RPL_EV_CMD_ACCEPT_LOSS, request, call);
	if (!strcmp(cmd, "shutdown"))
		return shut_down(k, request, call);
	if (!strcmp(cmd, "fault"))
		return arm_fault(k, request);
	return control_refusal("unknown_command", cmd);
}
