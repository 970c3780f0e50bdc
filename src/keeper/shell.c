/* shell.c - events in, steps, actions out; the two timers; birth and end of a keeper */
#include "keeper.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/control.h>
#include <replicad/log.h>
#include <replicad/process.h>

#define POLL_MS 10       /* the mover's counters are looked at so often at most, */
#define POLL_MS_MAX 50   /* and at least */
#define POLL_PART 4      /* of a heartbeat: looks between two */
#define PROGRESS_MS 1000
#define GOODBYE_MS 50    /* replies and events get out before the loop ends */

/* The counters tell when the peer was last heard. Looked at before every deadline too: a keeper that was not
 * scheduled for a while must not take its own sleep for the peer's silence. */
static void look_for_peer(struct keeper *k)
{
	uint64_t heard;

	if (!movers_running(k->movers))
		return;
	heard = atomic_load_explicit(&movers_counters(k->movers)->last_heard_ns, memory_order_relaxed);
	if (heard <= k->heard_ns)
		return;
	k->heard_ns = heard;
	k->at.heard = heard;
	keeper_say(k, RPL_EV_HEARD);
}

/* The first copy of the memory takes a while: at most one event a second says how far it is. */
static void show_progress(struct keeper *k)
{
	uint64_t now = rpl_recent_ns();
	int percent = keeper_bulk_percent(k);

	if (percent < 0 || (unsigned)percent == k->progress_shown || now < k->progress_at_ns + PROGRESS_MS * RPL_MS)
		return;
	k->progress_shown = (unsigned)percent;
	k->progress_at_ns = now;
	keeper_tell(k, "progress", json_pack("{s:i}", "bulk_percent", percent));
}

static void look_around(struct keeper *k)
{
	movers_beat(k->movers);
	look_for_peer(k);
	session_look(k);
	standby_look(k);
	ahead_look(k);
	show_progress(k);
}

static void on_poll(EV_P_ ev_timer *w, int revents)
{
	(void)loop;
	(void)revents;
	look_around(w->data);
}

void keeper_look_around(struct keeper *k)
{
	ev_timer_again(k->loop, &k->poll);
	look_around(k);
}

static void on_deadline(EV_P_ ev_timer *w, int revents)
{
	struct keeper *k = w->data;

	(void)loop;
	(void)revents;
	look_for_peer(k);
	keeper_say(k, RPL_EV_TIMER);
}

/* What the mover was told to say last (FORGET) is said before it dies with us. */
static void on_goodbye(EV_P_ ev_timer *w, int revents)
{
	struct keeper *k = w->data;

	(void)revents;
	if (!movers_retiring(k->movers)) {
		ev_break(loop, EVBREAK_ALL);
		return;
	}
	ev_timer_set(w, GOODBYE_MS / 1e3, 0.);
	ev_timer_start(loop, w);
}

/* The loop has just woken up, and looked at the clock: so do we, once for all that is done now. */
static void on_wake(EV_P_ ev_check *w, int revents)
{
	struct keeper *k = w->data;

	(void)loop;
	(void)revents;
	k->woke_ns = rpl_now_ns();
}

/* The loop counts from when it woke up, however long what it does since takes. */
static void arm_deadline(struct keeper *k)
{
	uint64_t due = rpl_core_deadline(&k->core);
	double after;

	if (due == k->armed_due && ev_is_active(&k->deadline))
		return;
	k->armed_due = due;
	ev_timer_stop(k->loop, &k->deadline);
	if (due == UINT64_MAX)
		return;
	after = due > k->woke_ns ? (double)(due - k->woke_ns) / 1e9 : 0.;
	ev_timer_set(&k->deadline, after, 0.);
	ev_timer_start(k->loop, &k->deadline);
}

/* What makes the primary's clients wait, a release or an ack, comes before people are told of the state that it comes with: a line in
 * the log, an event for each who listens, a file. Of two states in one step each is told in its turn. */
static const struct rpl_action *told_last(const struct rpl_actions *out)
{
	const struct rpl_action *state = NULL;

	for (unsigned i = 0; i < out->n; i++) {
		if (out->a[i].kind != RPL_ACT_STATE)
			continue;
		if (state)
			return NULL;
		state = &out->a[i];
	}
	return state && (state->u.state.to == RPL_ST_P_PROTECTED || state->u.state.to == RPL_ST_B_READY) ? state : NULL;
}

static void perform(struct keeper *k, const struct rpl_actions *out)
{
	const struct rpl_action *last = told_last(out);

	for (unsigned i = 0; i < out->n; i++)
		if (&out->a[i] != last)
			keeper_perform(k, &out->a[i]);
	if (last)
		keeper_perform(k, last);
}

static void step(struct keeper *k, struct rpl_event *ev)
{
	struct rpl_actions out;
	const char *broken;

	ev->now_ns = rpl_recent_ns();
	rpl_core_step(&k->core, ev, &out);
	if (rpl_log_on(RPL_LOG_DEBUG) && (out.n || (ev->kind != RPL_EV_HEARD && ev->kind != RPL_EV_TIMER)))
		rpl_log(RPL_LOG_DEBUG, "vm=%s event=%s state=%s actions=%u", k->conf.vm, rpl_event_name(ev->kind),
			rpl_state_name(k->core.state), out.n);
	broken = rpl_core_check(&k->core);
	if (broken) {
		rpl_log(RPL_LOG_ERROR, "vm=%s broken=\"%s\" event=%s state=%s", k->conf.vm, broken,
			rpl_event_name(ev->kind), rpl_state_name(k->core.state));
		abort();
	}
	perform(k, &out);
}

void keeper_event(struct keeper *k, const struct rpl_event *ev)
{
	rpl_assert(k->queue_n < EVENT_QUEUE_MAX);
	k->queue[(k->queue_from + k->queue_n++) % EVENT_QUEUE_MAX] = *ev;
	if (k->stepping)
		return;
	k->stepping = true;
	while (k->queue_n) {
		struct rpl_event next = k->queue[k->queue_from];

		k->queue_from = (k->queue_from + 1) % EVENT_QUEUE_MAX;
		k->queue_n--;
		if (k->started || next.kind == RPL_EV_START)
			step(k, &next);
	}
	k->stepping = false;
	if (!k->started)
		return;
	arm_deadline(k);
	keeper_answer_waiting(k);
}

void keeper_say(struct keeper *k, enum rpl_event_kind kind)
{
	keeper_event(k, &(struct rpl_event){ .kind = kind });
}

void keeper_say_epoch(struct keeper *k, enum rpl_event_kind kind, uint64_t epoch)
{
	keeper_event(k, &(struct rpl_event){ .kind = kind, .u.epoch.epoch = epoch });
}

void keeper_say_session(struct keeper *k, enum rpl_event_kind kind, const struct rpl_uuid *session)
{
	keeper_event(k, &(struct rpl_event){ .kind = kind, .u.session.session = *session });
}

void keeper_say_link(struct keeper *k, enum rpl_event_kind kind, const struct rpl_uuid *session, uint64_t epoch)
{
	keeper_event(k, &(struct rpl_event){ .kind = kind, .u.link = { .session = *session, .epoch = epoch } });
}

void keeper_start_core(struct keeper *k, enum rpl_found found, bool memory_ours)
{
	struct keeper_past past;
	struct rpl_event ev = { .kind = RPL_EV_START };
	struct rpl_uuid seed;

	if (k->started)
		return;
	rpl_uuid_random(&seed);
	rpl_core_init(&k->core, &k->conf.core, &seed);
	keeper_past_load(k->conf.dir, &past);
	ev.u.start.guest = found;
	ev.u.start.memory_ours = memory_ours;
	ev.u.start.output_open = k->netbuf_here && k->wish.open;
	/* the takeover was won, and the guest is here: what would have been done when it was told to run is done now */
	k->heir = k->wish.announce = past.promoting && found != RPL_FOUND_NONE;
	ev.u.start.want = past.known && (past.want || (k->heir && k->conf.core.reprotect));
	ev.u.start.epoch = past.epoch;
	ev.u.start.down = past.down;
	if (k->standby.found) {
		ev.u.start.replica = true;
		ev.u.start.session = k->standby.session;
		ev.u.start.epoch = k->standby.found_epoch;
	}
	k->started = true;
	keeper_event(k, &ev);
}

void keeper_end(struct keeper *k)
{
	if (k->ending)
		return;
	k->ending = true;
	keeper_tell(k, "end", NULL);
	ev_timer_set(&k->quit, GOODBYE_MS / 1e3, 0.);
	ev_timer_start(k->loop, &k->quit);
}

/* What is looked for comes with heartbeats, and deadlines look themselves. A keeper that woke up more often would take the
 * processor from a guest that has no other: on an emulated host a hundred times a second is a fifth of it. */
static double poll_s(const struct keeper *k)
{
	unsigned ms = k->conf.heartbeat_ms / POLL_PART;

	return (ms < POLL_MS ? POLL_MS : ms > POLL_MS_MAX ? POLL_MS_MAX : ms) / 1e3;
}

static void init_timers(struct keeper *k)
{
	ev_timer_init(&k->deadline, on_deadline, 0., 0.);
	ev_timer_init(&k->poll, on_poll, poll_s(k), poll_s(k));
	ev_timer_init(&k->quit, on_goodbye, 0., 0.);
	ev_check_init(&k->wake, on_wake);
	ev_set_priority(&k->wake, EV_MAXPRI);
	k->deadline.data = k->poll.data = k->quit.data = k->wake.data = k;
	ev_now_update(k->loop);
	k->woke_ns = rpl_now_ns();
	ev_check_start(k->loop, &k->wake);
	ev_timer_start(k->loop, &k->poll);
	keeper_watch_idle(k);
}

/* A keeper that finds its guest's process alive goes on with it, and one that finds a standby with that; else a backup makes
 * its standby and waits. */
static void begin(struct keeper *k)
{
	struct keeper_past past;

	keeper_past_load(k->conf.dir, &past);
	remains_find(k, &past);
	if (!adopt_begin(k, &past))
		keeper_begin_without(k, past.guest_life || rpl_process_lives(past.guest_pid, past.guest_started));
}

void keeper_begin_without(struct keeper *k, bool ran_here)
{
	if (k->conf.standby_role && !ran_here) {
		keeper_start_core(k, RPL_FOUND_NONE, false);
		standby_start(k);
	} else {
		keeper_attach(k);
	}
}

int keeper_open(struct keeper *k, const char *dir, struct ev_loop *loop, struct rpl_err *err)
{
	RPL_AUTO_FREE char *path = NULL, *trace = NULL;
	int r;

	*k = (struct keeper){ .loop = loop, .reason = "", .session.connecting_fd = -1,
			      .session.waiting_fd = -1, .standby.waiting_fd = -1,
			      .standby.staging_fd = -1, .remains.pidfd = -1 };
	r = keeper_conf_load(dir, &k->conf, err);
	if (r < 0)
		return r;
	rpl_log_limit(k->conf.log_level);
	init_timers(k);
	r = keeper_rooms_open(k, err);
	if (r < 0)
		return r;
	if (asprintf(&path, "%s/" RPL_KEEPER_SOCK, dir) < 0 || asprintf(&trace, "%s/" RPL_TRACE_FILE, dir) < 0)
		return rpl_fail(err, -ENOMEM, "keeper of %s: no memory", k->conf.vm);
	k->trace = rpl_trace_open(trace, NULL);
	k->control = control_new(path, loop, keeper_command, k, err);
	if (!k->control)
		return err->code;
	begin(k);
	return 0;
}

void keeper_close(struct keeper *k)
{
	if (k->loop) {
		ev_check_stop(k->loop, &k->wake);
		ev_timer_stop(k->loop, &k->deadline);
		ev_timer_stop(k->loop, &k->poll);
		ev_timer_stop(k->loop, &k->netbuf_retry);
		ev_timer_stop(k->loop, &k->rest);
		ev_timer_stop(k->loop, &k->lull);
		session_fini(k);
		standby_fini(k);
	}
	control_free(k->control);
	movers_free(k->movers);
	movers_free(k->listener);
	rpl_arbiter_free(k->arbiter);
	rpl_disk_free(k->disk);
	rpl_netbuf_free(k->netbuf);
	rpl_guest_free(k->guest);
	if (k->loop)
		remains_close(k);
	if (k->ending) /* on purpose: an agent that was not there to hear it is to start no other */
		keeper_past_forget(k);
	rpl_trace_close(k->trace);
	if (k->conf.doc)
		keeper_conf_fini(&k->conf);
}
