/* standby.c - the backup's side: a standby guest, a mover that fills it, and the takeover
 *
 * The standby guest is made first, since its RAM file is the replica. A connection that arrives before it is ready
 * waits (one: the newest). Taking over: freeze (mover dead), fold what is whole (replica.h), activate.
 */
#include "keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/fault.h>
#include <replicad/io.h>
#include <replicad/log.h>
#include <replicad/replica.h>

#define ROOM_LOOK_MS 10000

/* Nothing of a guest is here, and nothing is on its way: there is room for a standby. */
static bool has_room(const struct keeper *k)
{
	return k->started && !k->guest_process && !k->guest_busy && !k->ending;
}

bool standby_possible(const struct keeper *k)
{
	return k->standby.ready || k->standby.starting || (has_room(k) && k->core.state == RPL_ST_IDLE);
}

bool standby_to_be_told(const struct keeper *k)
{
	return has_room(k) && k->core.state == RPL_ST_START && !k->standby.found;
}

void standby_start(struct keeper *k)
{
	if (k->standby.starting || k->standby.ready || !standby_possible(k))
		return;
	if (remains_in_the_way(k))
		return; /* comes again when that is gone */
	keeper_fresh_guest(k);
	k->standby.starting = k->guest_used = true;
	k->guest_busy = true;
	rpl_guest_standby(k->guest);
	remains_note(k);
	keeper_past_save(k);
	rpl_netbuf_attach(k->netbuf);
}

/* The standby's process may hold it still. */
static void drop_staging(struct standby *b)
{
	struct rpl_err err;

	if (b->staging_fd >= 0 && rpl_replica_void(b->staging_fd, &err) < 0)
		rpl_log(RPL_LOG_WARNING, "reason=\"%s\"", err.msg);
	rpl_close(&b->staging_fd);
	b->found = false;
}

static int make_staging(struct standby *b, unsigned arena_mb, struct rpl_err *err)
{
	drop_staging(b);
	b->staging_bytes = (uint64_t)arena_mb << 20;
	if (b->staging_bytes < RPL_REPLICA_BYTES_MIN)
		b->staging_bytes = RPL_REPLICA_BYTES_MIN;
	b->staging_fd = memfd_create(STAGING_NAME, MFD_CLOEXEC);
	if (b->staging_fd < 0 || ftruncate(b->staging_fd, (off_t)b->staging_bytes) < 0)
		return rpl_fail_errno(err, errno, "staging area of %llu bytes", (unsigned long long)b->staging_bytes);
	return 0;
}

static int start_mover(struct keeper *k, struct rpl_err *err)
{
	struct standby *b = &k->standby;
	struct rpl_mover_conf conf;
	int r = make_staging(b, k->conf.arena_mb, err);
	struct rpl_err why;

	if (r == 0 && rpl_guest_entrust(k->guest, STAGING_NAME, b->staging_fd, &why) < 0)
		rpl_log(RPL_LOG_DEBUG, "vm=%s reason=\"%s\": the replica ends with this keeper", k->conf.vm, why.msg);

	if (r == 0)
		r = keeper_mover_conf(k, k->movers, RPL_ROLE_BACKUP, &conf, err);
	if (r < 0)
		return r;
	conf.staging_bytes = b->staging_bytes;
	conf.memory = b->memory;
	return movers_start(k->movers, &conf, b->staging_fd, b->memory_fd, b->n_memory_fds, err);
}

/* A connection waits, or a mover is needed again: start one if everything is there. */
static void ensure_mover(struct keeper *k)
{
	struct rpl_err err;

	if (!k->standby.ready || k->standby.laying || movers_running(k->movers))
		return;
	if (start_mover(k, &err) < 0)
		keeper_alarm(k, err.msg);
	else
		keeper_past_save(k); /* who may be writing to the replica when we are gone */
}

static void drop_memory(struct standby *b)
{
	while (b->n_memory_fds)
		(void)close(b->memory_fd[--b->n_memory_fds]);
}

void standby_drop(struct keeper *k)
{
	drop_staging(&k->standby);
	drop_memory(&k->standby);
}

void standby_on_started(struct keeper *k, int r, const struct rpl_err *err)
{
	struct standby *b = &k->standby;
	struct rpl_err merr = { 0 };

	b->starting = false;
	drop_memory(b);
	if (r == 0) {
		r = rpl_guest_memory(k->guest, &b->memory, b->memory_fd, &b->n_memory_fds, &merr);
		err = &merr;
	}
	if (b->adopting) {
		k->guest_here = k->guest_process = b->ready = r == 0;
		adopt_on_done(k, r, err);
		return;
	}
	if (r < 0) {
		keeper_refuse(k, err);
		if (b->waiting_fd >= 0)
			listener_turn_away(k, rpl_steal_fd(&b->waiting_fd));
		return;
	}
	listener_turned_away(k);
	k->refused[0] = '\0';
	k->guest_here = k->guest_process = b->ready = true;
	remains_note(k);
	keeper_past_save(k);
	ensure_mover(k);
}

static void pass_link(struct keeper *k)
{
	struct standby *b = &k->standby;
	struct rpl_err err;

	if (b->waiting_fd >= 0 && movers_link(k->movers, rpl_steal_fd(&b->waiting_fd), &err) < 0)
		rpl_log(RPL_LOG_WARNING, "vm=%s link=failed reason=\"%s\"", k->conf.vm, err.msg);
}

int standby_link(struct keeper *k, int fd, struct rpl_err *err)
{
	struct standby *b = &k->standby;

	if (keeper_check_caller(k, fd, err) < 0)
		return err->code;
	rpl_close(&b->waiting_fd);
	b->waiting_fd = fd;
	if (movers_running(k->movers) && b->ready) {
		pass_link(k);
		return 0;
	}
	if (standby_to_be_told(k))
		rpl_log(RPL_LOG_INFO, "vm=%s link=waits reason=\"the record is being read\"", k->conf.vm);
	standby_start(k);
	ensure_mover(k);
	return 0;
}

void standby_on_state(struct keeper *k)
{
	if (k->standby.waiting_fd < 0 || k->standby.starting || k->standby.ready || k->core.state == RPL_ST_START)
		return;
	if (k->core.state == RPL_ST_IDLE)
		keeper_rest_soon(k);
	else
		rpl_close(&k->standby.waiting_fd); /* no backup after all: it calls again, and is told */
}

/* ---- a session begins */

/* The heir calls, as a primary now: what the switchover cost is known to it alone. */
void standby_tell_switchover(struct keeper *k, uint64_t blackout_us)
{
	k->handed_generation = 0;
	if (blackout_us)
		keeper_tell(k, "switchover", json_pack("{s:s, s:I}", "to", k->conf.core.peer, "blackout_us",
						       (json_int_t)blackout_us));
}

static void take_memory(struct keeper *k)
{
	struct standby *b = &k->standby;
	struct rpl_err err;
	int r = rpl_guest_memory(k->guest, &b->memory, b->memory_fd, &b->n_memory_fds, &err);

	b->laying = r == -EAGAIN;
	if (r < 0 && r != -EAGAIN) {
		b->ready = false;
		keeper_refuse(k, &err);
		return;
	}
	ensure_mover(k);
}

void standby_on_laid_out(struct keeper *k)
{
	if (k->standby.laying)
		take_memory(k);
}

/* The standby was laid out anew for the primary that calls: what the mover has is nothing any more. The primary, whose
 * connection ends with the mover, comes again. */
static void lay_out_anew(struct keeper *k)
{
	struct standby *b = &k->standby;

	ahead_drop(k, "the replica is laid out anew");
	rpl_log(RPL_LOG_INFO, "vm=%s standby=laid-out bytes=%llu", k->conf.vm,
		(unsigned long long)rpl_guest_info(k->guest)->ram_bytes);
	movers_kill(k->movers);
	drop_memory(b);
	if (b->accepted)
		keeper_say(k, RPL_EV_REPLICA_LOST);
	b->accepted = false;
	take_memory(k);
}

static void on_hello(struct keeper *k, const struct rpl_mover_msg *msg)
{
	RPL_AUTO_FREE char *definition = movers_get_text(k->movers, msg->value);
	struct rpl_event ev = { .kind = RPL_EV_SESSION_OPEN };
	struct rpl_err err = { 0 };
	int r = -EPERM;

	if (strcmp(msg->hello.node, k->conf.core.peer) != 0)
		(void)rpl_fail(&err, r, "node '%s' calls, the peer of %s here is '%s'", msg->hello.node, k->conf.vm,
			       k->conf.core.peer);
	else
		r = definition ? rpl_guest_fit(k->guest, definition, &err) : rpl_fail(&err, -ENOMEM, "no memory for a definition");
	if (r > 0) {
		lay_out_anew(k);
		return;
	}
	if (r == 0) {
		ev.u.open.session = msg->hello.session;
		ev.u.open.generation = k->standby.hello_generation = msg->hello.generation;
		ev.u.open.resume = msg->hello.flags & RPL_HELLO_RESUME;
		if (k->handed_generation && msg->hello.generation > k->handed_generation)
			standby_tell_switchover(k, msg->hello.blackout_us);
		if (!ev.u.open.resume) /* it owns the VM in SOLO; before the core looks at the record for itself */
			keeper_peer_owns(k, msg->hello.generation);
		keeper_event(k, &ev);
		return;
	}
	keeper_alarm(k, err.msg);
	(void)snprintf(k->refused, sizeof(k->refused), "%s", err.msg);
	standby_refuse(k, err.msg);
}

void standby_accept(struct keeper *k, const struct rpl_uuid *session)
{
	k->standby.session = *session;
	k->standby.accepted = true;
	k->refused[0] = '\0';
	movers_send(k->movers, RPL_MOVER_ACCEPT, 0, 0, 0, session);
}

void standby_refuse_session(struct keeper *k, const struct rpl_uuid *session)
{
	const struct rpl_core *c = &k->core;
	char offered[RPL_UUID_TEXT], held[RPL_UUID_TEXT], why[RPL_MOVER_REASON_MAX], record[96] = "is not known";

	if (c->rec_known)
		(void)snprintf(record, sizeof(record), "has generation %llu, %s, owner %.24s",
			       (unsigned long long)c->rec.generation, rpl_mode_name((enum rpl_mode)c->rec.mode), c->rec.owner);
	(void)snprintf(why, sizeof(why), "not now: session %s of generation %llu, but %s here in session %s, and the record, as last read here, %s",
		       rpl_uuid_text(session, offered), (unsigned long long)k->standby.hello_generation,
		       rpl_state_name((enum rpl_state)c->state), rpl_uuid_text(&c->session, held), record);
	rpl_log(RPL_LOG_INFO, "vm=%s peer=%s refused=\"%s\"", k->conf.vm, k->conf.core.peer, why);
	standby_refuse(k, why);
}

void standby_refuse(struct keeper *k, const char *why)
{
	if (movers_running(k->listener)) /* then nobody else is */
		listener_refuse(k, why);
	else
		movers_send(k->movers, RPL_MOVER_REFUSE, 0, movers_put_text(k->movers, why), 0, NULL);
}

static void on_peer_frame(struct keeper *k, const struct rpl_mover_msg *msg)
{
	if (msg->value == RPL_FRAME_HANDOVER) {
		rpl_fault_die(RPL_FAULT_DIE_HANDOVER_HEARD);
		k->at.handover = rpl_now_ns();
		k->paused_us = msg->generation;
		keeper_say_link(k, RPL_EV_HANDOVER, &msg->uuid, msg->epoch);
	} else if (msg->value == RPL_FRAME_FLUSHED) {
		keeper_say_link(k, RPL_EV_PEER_FLUSHED, &msg->uuid, msg->epoch);
	} else if (msg->value == RPL_FRAME_FORGET) {
		keeper_say_session(k, RPL_EV_FORGET, &msg->uuid);
	} else if (msg->value == RPL_FRAME_PROTECTED) {
		keeper_arbiter_learn(k, RPL_MODE_PROTECTED, msg->epoch, &msg->uuid);
	}
}

static void on_staged(struct keeper *k, const struct rpl_mover_msg *msg)
{
	struct rpl_event ev = { .kind = RPL_EV_STAGED };

	rpl_trace_mark(k->trace, msg->epoch, RPL_TRACE_RECEIVED);
	ev.u.staged.session = msg->uuid;
	ev.u.staged.epoch = msg->epoch;
	/* The mover reports an epoch only when all three hold; a journal will add the fourth. */
	ev.u.staged.checks = RPL_STAGED_WHOLE | RPL_STAGED_DIGEST | RPL_STAGED_SEALED;
	k->checkpoints++;
	rpl_fault_die(RPL_FAULT_DIE_KEEPER_S4);
	ahead_drop(k, "the primary sent an epoch");
	keeper_event(k, &ev);
}

/* Who is refused tries again and again: one alarm for each reason in a row. */
static void tell_refusal(struct keeper *k, const char *why)
{
	struct standby *b = &k->standby;

	if (strcmp(b->refusal, why) == 0)
		return;
	(void)snprintf(b->refusal, sizeof(b->refusal), "%s", why);
	keeper_alarm(k, why);
}

static void on_link_down(struct keeper *k, const struct rpl_mover_msg *msg)
{
	rpl_log(RPL_LOG_INFO, "vm=%s link=down reason=\"%s\"", k->conf.vm, msg->text);
	if (msg->epoch == EACCES) {
		tell_refusal(k, msg->text);
		(void)snprintf(k->refused, sizeof(k->refused), "%s", msg->text);
	}
	keeper_say(k, RPL_EV_LINK_DOWN);
}

void standby_on_report(struct keeper *k, const struct rpl_mover_msg *msg)
{
	switch ((enum rpl_mover_type)msg->type) {
	case RPL_MOVER_READY:
		pass_link(k);
		break;
	case RPL_MOVER_LINK_UP:
		on_hello(k, msg);
		break;
	case RPL_MOVER_LINK_DOWN:
		on_link_down(k, msg);
		break;
	case RPL_MOVER_LINK_REFUSED:
		rpl_log(RPL_LOG_INFO, "vm=%s link=refused reason=\"%s\"", k->conf.vm, msg->text);
		tell_refusal(k, msg->text);
		break;
	case RPL_MOVER_EPOCH_STAGED:
		on_staged(k, msg);
		break;
	case RPL_MOVER_FOLDED:
		rpl_trace_mark(k->trace, msg->epoch, RPL_TRACE_FOLDED);
		ahead_folded(k, &msg->uuid, msg->epoch);
		rpl_fault_die(RPL_FAULT_DIE_KEEPER_S8);
		break;
	case RPL_MOVER_PEER_FRAME:
		on_peer_frame(k, msg);
		break;
	case RPL_MOVER_FAILED:
		keeper_alarm(k, msg->text);
		break;
	default:
		break;
	}
}

/* The mover's memory of the session died with it. What is staged stays where the activator finds it, but nothing can
 * be added: for the core the replica is lost, and the primary will open a new session. */
void standby_on_gone(struct keeper *k, const char *why)
{
	keeper_alarm(k, why);
	k->standby.accepted = false;
	keeper_say(k, RPL_EV_REPLICA_LOST);
}

void standby_abandon(struct keeper *k)
{
	struct standby *b = &k->standby;

	if (!b->ready)
		return;
	ahead_drop(k, "the standby ends");
	b->ready = b->accepted = b->laying = false;
	movers_kill(k->movers);
	drop_memory(b);
}

void standby_on_lost(struct keeper *k)
{
	standby_abandon(k);
	k->wish.kill = true; /* what closed its monitor may still have its files */
	keeper_pursue(k);
}

/* ---- room for a takeover, which nothing keeps free */

static void tell_room(struct keeper *k, const struct rpl_err *none)
{
	struct standby *b = &k->standby;
	bool was = b->no_room[0] != '\0';

	(void)snprintf(b->no_room, sizeof(b->no_room), "%s", none ? none->msg : ""); /* the numbers change */
	if (none && !was) {
		keeper_alarm(k, b->no_room);
	} else if (!none && was) {
		rpl_log(RPL_LOG_INFO, "vm=%s room=again", k->conf.vm);
		keeper_tell(k, "guest", json_pack("{s:s, s:s}", "reason", "room", "message", "a takeover has room again"));
	}
}

void standby_look(struct keeper *k)
{
	struct standby *b = &k->standby;
	uint64_t now = rpl_recent_ns();
	struct rpl_err err = { 0 };
	int r;

	if (!b->ready || (k->core.state != RPL_ST_B_SEED && k->core.state != RPL_ST_B_READY)) {
		b->no_room[0] = '\0';
		b->room_looked_ns = 0;
		return;
	}
	if (b->room_looked_ns && now < b->room_looked_ns + ROOM_LOOK_MS * RPL_MS)
		return;
	b->room_looked_ns = now;
	r = rpl_guest_room(k->guest, &err);
	if (r == -ENOMEM)
		tell_room(k, &err);
	else if (r == 0)
		tell_room(k, NULL);
	else
		rpl_log(RPL_LOG_DEBUG, "vm=%s room=\"%s\"", k->conf.vm, err.msg);
}

/* ---- the end of a session, in its three ways */

void standby_freeze(struct keeper *k)
{
	k->at.suspect = rpl_now_ns();
	movers_kill(k->movers); /* when it returns nothing of ours can ack any more (R3) */
	rpl_close(&k->standby.waiting_fd);
	rpl_disk_start(k->disk, RPL_DISK_CUT, 0); /* -> FROZEN */
}

void standby_forget(struct keeper *k)
{
	ahead_drop(k, "the replica is not needed any more");
	k->standby.accepted = false;
	movers_kill(k->movers);
	drop_staging(&k->standby);
}

int standby_open_replica(struct standby *b, struct rpl_replica **ret, struct rpl_memory **ret_ram, struct rpl_err *err)
{
	int fds[RPL_MEMORY_FDS_MAX];

	*ret = NULL;
	for (size_t i = 0; i < b->n_memory_fds; i++)
		fds[i] = fcntl(b->memory_fd[i], F_DUPFD_CLOEXEC, 0);
	*ret_ram = rpl_memory_new(&b->memory, fds, b->n_memory_fds, err);
	if (*ret_ram)
		*ret = rpl_replica_open(b->staging_fd, b->staging_bytes, *ret_ram, false, err);
	return *ret ? 0 : err->code;
}

static int fold_and_extract(struct keeper *k, uint64_t epoch, int state_fd, size_t *ret_len, struct rpl_err *err)
{
	struct standby *b = &k->standby;
	struct rpl_replica *replica;
	struct rpl_memory *ram;
	const void *state;
	uint64_t got;
	int r = standby_open_replica(b, &replica, &ram, err);

	if (r == 0)
		r = rpl_replica_activate(replica, &b->session, &got, &state, ret_len, err);
	if (r == 0 && got < epoch)
		r = rpl_fail(err, -ENODATA, "the replica is at epoch %llu, epoch %llu was acknowledged",
			     (unsigned long long)got, (unsigned long long)epoch);
	if (r == 0)
		r = rpl_write_full(state_fd, state, *ret_len);
	if (r == 0)
		ahead_use(k, got); /* what read the RAM while more was folded into it comes to nothing by that */
	if (r == 0)
		rpl_log(RPL_LOG_INFO, "vm=%s activate=%llu acked=%llu state_bytes=%zu", k->conf.vm,
			(unsigned long long)got, (unsigned long long)epoch, *ret_len);
	rpl_replica_close(replica);
	rpl_memory_free(ram);
	return r;
}

void standby_activate(struct keeper *k, uint64_t epoch)
{
	RPL_AUTO_FD int state_fd = memfd_create("replicad-state", MFD_CLOEXEC);
	struct rpl_err err = { 0 };
	size_t len = 0;
	int r;

	r = state_fd < 0 ? rpl_fail_errno(&err, errno, "memfd for the device state") :
			   fold_and_extract(k, epoch, state_fd, &len, &err);
	if (r < 0) {
		keeper_alarm(k, err.msg);
		keeper_say(k, RPL_EV_GUEST_FAILED);
		return;
	}
	rpl_fault_die(RPL_FAULT_DIE_PROMOTE_FOLDED);
	/* From here on it is no standby any more: what it does is the guest's own life. */
	k->standby.ready = k->standby.accepted = false;
	keeper_past_save(k);
	k->wish.open = true;
	if (k->netbuf_here)
		rpl_netbuf_open(k->netbuf);
	k->guest_busy = true;
	rpl_guest_activate(k->guest, state_fd, len);
}

void standby_fini(struct keeper *k)
{
	rpl_close(&k->standby.waiting_fd);
	standby_drop(k);
}
