/* The protection state machine by itself: stories as rows of (event -> state, actions), every (state, event) pair,
 * and random events of every kind in every state with the machine's own invariants checked after each.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <replicad/auto.h>
#include <replicad/core.h>

#define MS UINT64_C(1000000)

static const struct rpl_uuid vm_uuid = { { 7 } }, other_session = { { 9, 9 } };

struct bench { /* one machine, and what its last step said */
	struct rpl_core c;
	struct rpl_actions out;
	uint64_t now;
};

static struct rpl_core_conf conf(enum rpl_store store)
{
	return (struct rpl_core_conf){
		.self = "a", .peer = "b", .vm = { { 7 } }, .store = store,
		.durability = store ? RPL_DURABLE_JOURNAL : RPL_DURABLE_MEMORY,
		.auto_claim = true, .auto_cold = true, .reprotect = true, .max_uncommitted = 2,
		.max_held = UINT32_MAX,
		.interval_ns = 50 * MS, .stall_ns = 500 * MS, .suspect_ns = 1000 * MS, .takeover_delay_ns = 500 * MS,
		.arm_timeout_ns = 1000 * MS, .drain_timeout_ns = 2000 * MS, .retry_ns = 200 * MS, .cold_delay_ns = 5000 * MS,
	};
}

static void setup(struct bench *b, enum rpl_store store)
{
	struct rpl_core_conf f = conf(store);
	struct rpl_uuid seed = { { 1, 2, 3 } };
	struct rpl_err err;

	memset(b, 0, sizeof(*b));
	b->now = 1000 * MS;
	assert_int_equal(rpl_core_conf_check(&f, &err), 0);
	rpl_core_init(&b->c, &f, &seed);
}

static struct rpl_event event(enum rpl_event_kind kind)
{
	struct rpl_event ev;

	memset(&ev, 0, sizeof(ev));
	ev.kind = kind;
	return ev;
}

static void actions_text(const struct rpl_actions *out, char *text, size_t cap)
{
	text[0] = 0;
	for (unsigned i = 0; i < out->n; i++)
		if (out->a[i].kind != RPL_ACT_STATE && out->a[i].kind != RPL_ACT_ALARM)
			(void)snprintf(text + strlen(text), cap - strlen(text), "%s%s", text[0] ? " " : "",
				       rpl_action_name(out->a[i].kind));
}

/* Feed one event; the machine must then be in `state` and have asked for exactly `actions` (STATE, ALARM aside). */
static void see_at(struct bench *b, struct rpl_event ev, enum rpl_state state, const char *actions, int line)
{
	char text[512];
	const char *bad;

	ev.now_ns = b->now;
	rpl_core_step(&b->c, &ev, &b->out);
	actions_text(&b->out, text, sizeof(text));
	bad = rpl_core_check(&b->c);
	if (b->c.state != state || strcmp(text, actions) != 0 || bad)
		fail_msg("line %d: %s gave %s [%s], expected %s [%s]; check: %s", line, rpl_event_name(ev.kind),
			 rpl_state_name(b->c.state), text, rpl_state_name(state), actions, bad ? bad : "fine");
}

#define SEE(ev, state, actions) see_at(b, ev, RPL_ST_##state, actions, __LINE__)
#define EV(name) event(RPL_EV_##name)

static const struct rpl_action *find(const struct bench *b, enum rpl_action_kind kind)
{
	for (unsigned i = 0; i < b->out.n; i++)
		if (b->out.a[i].kind == kind)
			return &b->out.a[i];
	fail_msg("no action %s in the last step", rpl_action_name(kind));
	return NULL;
}

static struct rpl_event ev_start(enum rpl_found guest, bool ours, bool open, bool want)
{
	struct rpl_event ev = EV(START);

	ev.u.start.guest = guest;
	ev.u.start.memory_ours = ours;
	ev.u.start.output_open = open;
	ev.u.start.want = want;
	return ev;
}

static struct rpl_event ev_record(enum rpl_event_kind kind, const struct rpl_record *r)
{
	struct rpl_event ev = event(kind);

	ev.u.record.record = *r;
	return ev;
}

static struct rpl_record record(const char *owner, enum rpl_mode mode, uint64_t generation, const struct rpl_uuid *session)
{
	struct rpl_record r = { .format = RPL_RECORD_FORMAT, .mode = mode, .generation = generation, .vm = vm_uuid };

	(void)snprintf(r.owner, sizeof(r.owner), "%s", owner);
	if (session)
		r.session = *session;
	return r;
}

static struct rpl_event ev_epoch(enum rpl_event_kind kind, uint64_t epoch)
{
	struct rpl_event ev = event(kind);

	if (kind == RPL_EV_HELD) {
		ev.u.held.epoch = epoch;
		ev.u.held.in_sync = true;
	} else if (kind == RPL_EV_FLUSHED) {
		ev.u.flushed.epoch = epoch;
		ev.u.flushed.peer_has = true;
	} else {
		ev.u.epoch.epoch = epoch;
	}
	return ev;
}

static struct rpl_event ev_link(const struct bench *b, enum rpl_event_kind kind, uint64_t epoch)
{
	struct rpl_event ev = event(kind);

	ev.u.link.session = b->c.session; /* the first member of session, link, open and staged */
	ev.u.link.epoch = epoch;
	return ev;
}

static struct rpl_event ev_lost(const struct bench *b, bool gone)
{
	struct rpl_event ev = event(RPL_EV_SESSION_LOST);

	ev.u.lost.session = b->c.session;
	ev.u.lost.gone = gone;
	return ev;
}

static struct rpl_event ev_staged(const struct bench *b, uint64_t epoch, uint32_t checks)
{
	struct rpl_event ev = EV(STAGED);

	ev.u.staged.session = b->c.session;
	ev.u.staged.epoch = epoch;
	ev.u.staged.checks = checks;
	return ev;
}

static struct rpl_event ev_failed(enum rpl_action_kind action)
{
	struct rpl_event ev = EV(STORE_FAILED);

	ev.u.failed.action = action;
	return ev;
}

#define ALL_CHECKS (RPL_STAGED_WHOLE | RPL_STAGED_DIGEST | RPL_STAGED_SEALED | RPL_STAGED_JOURNALED)

/* The answer that the arbiter gives when nobody interferes. */
static struct rpl_event grant(const struct bench *b)
{
	return ev_record(RPL_EV_CLAIM_GRANTED, &find(b, RPL_ACT_CLAIM)->u.claim.want);
}

static void to_calling(struct bench *b)
{
	SEE(ev_start(RPL_FOUND_RUNNING, false, true, true), START, "READ_RECORD");
	SEE(EV(RECORD_ABSENT), START, "CLAIM");
	assert_int_equal(find(b, RPL_ACT_CLAIM)->u.claim.kind, RPL_CLAIM_CREATE);
	SEE(grant(b), P_SYNC, "SESSION_START");
	assert_int_equal(b->c.rec.generation, 1);
}

static void to_sync(struct bench *b)
{
	to_calling(b);
	SEE(ev_link(b, RPL_EV_LINK_UP, 0), P_SYNC, "");
}

static void to_first_captured(struct bench *b)
{
	to_sync(b);
	SEE(ev_link(b, RPL_EV_SYNC_READY, 0), P_ARM, "HOLD");
	SEE(ev_epoch(RPL_EV_HELD, 1), P_ARM, "CHECKPOINT");
	SEE(ev_epoch(RPL_EV_CAPTURED, 1), P_ARM, "");
}

static void to_arm_claim(struct bench *b)
{
	to_first_captured(b);
	SEE(ev_link(b, RPL_EV_ACK, 1), P_ARM, "CLAIM");
}

static void to_protected(struct bench *b)
{
	to_arm_claim(b);
	assert_int_equal(find(b, RPL_ACT_CLAIM)->u.claim.kind, RPL_CLAIM_ARM);
	SEE(grant(b), P_PROTECTED, b->c.conf.store ? "RELEASE FLUSH" : "RELEASE"); /* R4 */
}

static void pass(struct bench *b, uint64_t ms)
{
	b->now += ms * MS;
}

/* ---- the primary's stories */
static void epochs_flow_and_only_acks_release(void **state)
{
	struct bench bench, *b = &bench;
	struct rpl_event stale;

	(void)state;
	setup(b, RPL_STORE_NONE);
	to_protected(b);
	pass(b, 50);
	SEE(EV(TIMER), P_PROTECTED, "CHECKPOINT");
	SEE(ev_epoch(RPL_EV_CAPTURED, 2), P_PROTECTED, "");
	stale = ev_link(b, RPL_EV_ACK, 2);
	stale.u.link.session = other_session;
	SEE(stale, P_PROTECTED, "");
	SEE(ev_link(b, RPL_EV_ACK, 3), P_PROTECTED, ""); /* never sealed */
	SEE(ev_link(b, RPL_EV_ACK, 2), P_PROTECTED, "RELEASE");
	assert_int_equal(find(b, RPL_ACT_RELEASE)->u.epoch.epoch, 2);
	SEE(ev_link(b, RPL_EV_ACK, 2), P_PROTECTED, "");
	pass(b, 50);
	SEE(EV(TIMER), P_PROTECTED, "CHECKPOINT");
	SEE(ev_epoch(RPL_EV_CAPTURED, 3), P_PROTECTED, "");
	pass(b, 50);
	SEE(EV(TIMER), P_PROTECTED, "CHECKPOINT");
	SEE(ev_epoch(RPL_EV_CAPTURED, 4), P_PROTECTED, "");
	pass(b, 50);
	SEE(EV(TIMER), P_PROTECTED, ""); /* max_uncommitted 2 */
	assert_int_equal(rpl_core_deadline(&b->c), b->c.overdue_ns + 500 * MS);
	SEE(EV(BUFFER_FULL), P_PROTECTED, "GUEST_PAUSE");
	SEE(ev_link(b, RPL_EV_ACK, 3), P_PROTECTED, "RELEASE GUEST_RESUME CHECKPOINT");
}

/* Clients wait for what the second checkpoint contains as for what the first does: it is begun when that is acknowledged. An interval
 * lies between all others, though arming may take as long as the arbiter likes; and a short interval is kept. */
static void the_second_checkpoint_is_soon(void **state)
{
	struct bench bench, *b = &bench;

	(void)state;
	setup(b, RPL_STORE_NONE);
	b->c.conf.interval_ns = 200 * MS;
	to_first_captured(b);
	pass(b, 150);
	SEE(EV(TIMER), P_ARM, "");
	SEE(ev_link(b, RPL_EV_ACK, 1), P_ARM, "CLAIM CHECKPOINT");
	SEE(ev_epoch(RPL_EV_CAPTURED, 2), P_ARM, "");
	pass(b, 199);
	SEE(EV(TIMER), P_ARM, "");
	pass(b, 1);
	SEE(EV(TIMER), P_ARM, "CHECKPOINT");

	setup(b, RPL_STORE_NONE); /* a quick ack: the guest gets its moment */
	b->c.conf.interval_ns = 200 * MS;
	to_arm_claim(b);
	assert_int_equal(rpl_core_deadline(&b->c), b->now + RPL_CORE_ARM_NS);
	pass(b, RPL_CORE_ARM_NS / MS - 1);
	SEE(EV(TIMER), P_ARM, "");
	pass(b, 1);
	SEE(EV(TIMER), P_ARM, "CHECKPOINT");

	setup(b, RPL_STORE_NONE);
	b->c.conf.interval_ns = 5 * MS;
	to_first_captured(b);
	pass(b, 5);
	SEE(EV(TIMER), P_ARM, "CHECKPOINT"); /* two may be under way */

	setup(b, RPL_STORE_NONE);
	b->c.conf.interval_ns = 200 * MS;
	to_protected(b);
	pass(b, RPL_CORE_ARM_NS / MS);
	SEE(EV(TIMER), P_PROTECTED, "CHECKPOINT");
	SEE(ev_epoch(RPL_EV_CAPTURED, 2), P_PROTECTED, "");
	pass(b, 199);
	SEE(EV(TIMER), P_PROTECTED, "");
	pass(b, 1);
	SEE(EV(TIMER), P_PROTECTED, "CHECKPOINT");
}

/* A guest that runs again may keep its keeper from hearing of it: the interval is the guest's, not the keeper's. */
static void the_interval_counts_from_the_guest(void **state)
{
	struct bench bench, *b = &bench;
	struct rpl_event late = EV(CAPTURED);

	(void)state;
	setup(b, RPL_STORE_NONE);
	to_protected(b);
	pass(b, 50);
	SEE(EV(TIMER), P_PROTECTED, "CHECKPOINT");
	late.u.captured.epoch = 2;
	late.u.captured.resumed_ns = b->now + 10 * MS;
	pass(b, 40);
	SEE(late, P_PROTECTED, "");
	assert_int_equal(b->c.captured_ns, b->now - 30 * MS);
	pass(b, 19);
	SEE(EV(TIMER), P_PROTECTED, "");
	pass(b, 1);
	SEE(EV(TIMER), P_PROTECTED, "CHECKPOINT");
	late.u.captured.epoch = 3;
	late.u.captured.resumed_ns = b->now + 1; /* of a clock that is not ours */
	SEE(late, P_PROTECTED, "");
	assert_int_equal(b->c.captured_ns, b->now);
}

/* Nothing is sealed over what has not been released, also while ARM is claimed for an epoch that is acked. */
static void a_buffer_that_knows_one_epoch_is_not_sealed_twice(void **state)
{
	struct bench bench, *b = &bench;
	struct rpl_event granted;

	(void)state;
	setup(b, RPL_STORE_NONE);
	b->c.conf.max_held = 1;
	to_arm_claim(b);
	granted = grant(b);
	pass(b, 50);
	SEE(EV(TIMER), P_ARM, "");
	SEE(granted, P_PROTECTED, "RELEASE CHECKPOINT");
	SEE(ev_epoch(RPL_EV_CAPTURED, 2), P_PROTECTED, "");
	pass(b, 50);
	SEE(EV(TIMER), P_PROTECTED, "");
	SEE(ev_link(b, RPL_EV_ACK, 2), P_PROTECTED, "RELEASE CHECKPOINT");
}

/* netbuf plug tells several apart: the next checkpoint is taken while the last is on its way. */
static void a_buffer_that_knows_more_epochs_is_sealed_again(void **state)
{
	struct bench bench, *b = &bench;

	(void)state;
	setup(b, RPL_STORE_NONE);
	b->c.conf.max_uncommitted = 3;
	b->c.conf.max_held = 2;
	to_protected(b);
	pass(b, 50);
	SEE(EV(TIMER), P_PROTECTED, "CHECKPOINT");
	SEE(ev_epoch(RPL_EV_CAPTURED, 2), P_PROTECTED, "");
	pass(b, 50);
	SEE(EV(TIMER), P_PROTECTED, "CHECKPOINT");
	SEE(ev_epoch(RPL_EV_CAPTURED, 3), P_PROTECTED, "");
	pass(b, 50);
	SEE(EV(TIMER), P_PROTECTED, ""); /* two are held */
	SEE(ev_link(b, RPL_EV_ACK, 2), P_PROTECTED, "RELEASE CHECKPOINT");
	SEE(ev_link(b, RPL_EV_ACK, 3), P_PROTECTED, "RELEASE");
	SEE(ev_epoch(RPL_EV_CAPTURED, 4), P_PROTECTED, "");
}

static void a_silent_backup_costs_a_claim(void **state)
{
	struct bench bench, *b = &bench;
	struct rpl_record r;

	(void)state;
	setup(b, RPL_STORE_NONE);
	to_protected(b);
	pass(b, 50);
	SEE(EV(TIMER), P_PROTECTED, "CHECKPOINT");
	SEE(ev_epoch(RPL_EV_CAPTURED, 2), P_PROTECTED, "");
	SEE(EV(LINK_DOWN), P_PROTECTED, "");
	pass(b, 500);
	SEE(EV(TIMER), P_STALLED, "CHECKPOINT");
	SEE(ev_epoch(RPL_EV_CAPTURED, 3), P_STALLED, "");
	SEE(ev_link(b, RPL_EV_LINK_UP, 2), P_PROTECTED, "SESSION_RESEND RELEASE"); /* the same session goes on */
	SEE(EV(LINK_DOWN), P_PROTECTED, "");
	pass(b, 500);
	SEE(EV(TIMER), P_STALLED, "CHECKPOINT");
	pass(b, 500);
	SEE(EV(TIMER), P_CLAIM, "CLAIM");
	SEE(EV(CLAIM_UNKNOWN), P_CLAIM, "READ_RECORD");
	SEE(EV(RECORD_UNKNOWN), P_CLAIM, "");
	pass(b, 200);
	SEE(EV(TIMER), P_CLAIM, "READ_RECORD");
	r = b->c.expect;
	SEE(ev_record(RPL_EV_RECORD, &r), P_CLAIM, "CLAIM"); /* had not landed: the same claim again */
	SEE(EV(CLAIM_UNKNOWN), P_CLAIM, "READ_RECORD");
	r = b->c.claimed;
	SEE(ev_record(RPL_EV_RECORD, &r), P_SOLO, "SESSION_END OPEN"); /* it had */
	assert_int_equal(b->c.rec.generation, 3);
	SEE(EV(OPENED), P_SOLO, "");
	pass(b, 200);
	SEE(EV(TIMER), P_SYNC, "SESSION_START");
}

static void an_arm_of_unknown_outcome_is_fenced(void **state)
{
	struct bench bench, *b = &bench;
	struct rpl_record r;

	(void)state;
	setup(b, RPL_STORE_NONE);
	to_arm_claim(b);
	pass(b, 5000);
	SEE(EV(TIMER), P_ARM, "CHECKPOINT"); /* neither abandoned nor released (R6) */
	SEE(EV(CLAIM_UNKNOWN), P_ARM, "READ_RECORD");
	r = b->c.expect;
	SEE(ev_record(RPL_EV_RECORD, &r), P_CLAIM, "CLAIM");
	assert_int_equal(find(b, RPL_ACT_CLAIM)->u.claim.kind, RPL_CLAIM_SOLO);
	r.mode = RPL_MODE_PROTECTED; /* the stray ARM lands first */
	r.generation++;
	r.session = b->c.session;
	SEE(ev_record(RPL_EV_CLAIM_REFUSED, &r), P_CLAIM, "RELEASE CLAIM"); /* protected after all */
	SEE(grant(b), P_SOLO, "SEND_FORGET SESSION_END OPEN");
	assert_int_equal(b->c.rec.generation, 3);
}

static void arming_is_bounded(void **state)
{
	struct bench bench, *b = &bench;
	struct rpl_event ev;

	(void)state;
	setup(b, RPL_STORE_NONE);
	to_sync(b);
	SEE(ev_link(b, RPL_EV_SYNC_READY, 0), P_ARM, "HOLD");
	assert_int_equal(rpl_core_deadline(&b->c), b->now + 1000 * MS);
	pass(b, 1000);
	SEE(EV(TIMER), P_SOLO, "SESSION_END OPEN");
	SEE(EV(OPENED), P_SOLO, "");
	pass(b, 200);
	SEE(EV(TIMER), P_SYNC, "SESSION_START");
	SEE(ev_link(b, RPL_EV_SYNC_READY, 0), P_ARM, "HOLD");
	ev = ev_epoch(RPL_EV_HELD, 1);
	ev.u.held.in_sync = false; /* R4: the peer's store lacks something */
	SEE(ev, P_SOLO, "SESSION_END OPEN");
}

static void a_deposed_primary_cleans_up(void **state)
{
	struct bench bench, *b = &bench;
	struct rpl_record r;

	(void)state;
	setup(b, RPL_STORE_DRBD);
	to_protected(b);
	SEE(ev_epoch(RPL_EV_FLUSHED, 1), P_PROTECTED, "TELL_FLUSHED");
	SEE(ev_link(b, RPL_EV_SESSION_LOST, 0), P_CLAIM, "CLAIM");
	r = record("b", RPL_MODE_SOLO, 3, &b->c.session);
	SEE(ev_record(RPL_EV_CLAIM_REFUSED, &r), P_DEPOSED, "SESSION_END GUEST_KILL");
	SEE(EV(GUEST_KILLED), P_DEPOSED, "DROP_OUTPUT STORE_DISCARD");
	SEE(ev_failed(RPL_ACT_STORE_PROMOTE), P_DEPOSED, ""); /* of older work: not ours */
	assert_false(b->c.failed);
	SEE(ev_failed(RPL_ACT_STORE_DISCARD), P_DEPOSED, "");
	pass(b, 200);
	SEE(EV(TIMER), P_DEPOSED, "STORE_DISCARD");
	SEE(EV(STORE_DISCARDED), IDLE, "READ_RECORD");
}

/* The arbiter manual: leaving PROTECTED waits for a word, or for the backup's own that it holds nothing any more. */
static void what_the_backup_gave_up_needs_no_word(void **state)
{
	struct bench bench, *b = &bench;
	struct rpl_record r;

	(void)state;
	setup(b, RPL_STORE_NONE);
	b->c.conf.auto_claim = false;
	to_protected(b);
	r = b->c.rec;
	SEE(ev_lost(b, false), P_STALLED, "");
	pass(b, 60000);
	SEE(EV(TIMER), P_STALLED, "CHECKPOINT"); /* the guest runs on into what may be held */
	SEE(ev_lost(b, true), P_CLAIM, "CLAIM");
	assert_true(find(b, RPL_ACT_CLAIM)->u.claim.given_up);
	SEE(ev_record(RPL_EV_CLAIM_UNKNOWN, &r), P_CLAIM, "READ_RECORD");
	SEE(ev_record(RPL_EV_RECORD, &r), P_CLAIM, "CLAIM");
	assert_true(find(b, RPL_ACT_CLAIM)->u.claim.given_up); /* the repetition too */
	SEE(grant(b), P_SOLO, "SESSION_END OPEN");
	SEE(EV(OPENED), P_SOLO, "");
	assert_false(b->c.given_up);

	setup(b, RPL_STORE_NONE); /* a claim that waits already is let through */
	b->c.conf.auto_claim = false;
	to_protected(b);
	r = b->c.rec;
	SEE(EV(CMD_UNPROTECT), P_CLAIM, "REPLY CLAIM");
	assert_false(find(b, RPL_ACT_CLAIM)->u.claim.given_up);
	SEE(ev_record(RPL_EV_CLAIM_REFUSED, &r), P_CLAIM, "");
	SEE(ev_lost(b, true), P_CLAIM, "");
	pass(b, 1000);
	SEE(EV(TIMER), P_CLAIM, "CLAIM");
	assert_true(find(b, RPL_ACT_CLAIM)->u.claim.given_up);
}

static void unprotect_power_off_and_process_death(void **state)
{
	struct bench bench, *b = &bench;
	struct rpl_record r;

	(void)state;
	setup(b, RPL_STORE_NONE);
	to_protected(b);
	SEE(EV(CMD_UNPROTECT), P_CLAIM, "REPLY CLAIM");
	SEE(grant(b), P_SOLO, "SEND_FORGET SESSION_END OPEN");
	SEE(EV(OPENED), P_SOLO, "");
	SEE(EV(GUEST_SHUTDOWN), P_DOWN, "CLAIM");
	assert_int_equal(find(b, RPL_ACT_CLAIM)->u.claim.want.mode, RPL_MODE_DOWN);
	SEE(grant(b), P_DOWN, "GUEST_KILL");
	SEE(EV(GUEST_KILLED), IDLE, "");
	SEE(EV(CMD_START), IDLE, "REPLY"); /* diskless: nothing to boot from */
	assert_false(find(b, RPL_ACT_REPLY)->u.reply.ok);

	setup(b, RPL_STORE_NONE);
	to_protected(b);
	SEE(EV(GUEST_SHUTDOWN), P_DOWN, "CLAIM");
	SEE(grant(b), P_DOWN, "OPEN"); /* the last words may leave, the session still lives */
	SEE(EV(OPENED), P_DOWN, "SEND_FORGET SESSION_END GUEST_KILL");
	SEE(EV(GUEST_KILLED), IDLE, "");

	setup(b, RPL_STORE_NONE);
	to_protected(b);
	SEE(EV(GUEST_DIED), P_LOST, "GUEST_KILL SEND_HANDOVER SESSION_END DROP_OUTPUT READ_RECORD");
	r = b->c.rec;
	SEE(ev_record(RPL_EV_RECORD, &r), P_LOST, "");
	pass(b, 200);
	SEE(EV(TIMER), P_LOST, "READ_RECORD");
	r = record("b", RPL_MODE_SOLO, 3, NULL);
	SEE(ev_record(RPL_EV_RECORD, &r), P_DEPOSED, "GUEST_KILL");
	SEE(EV(GUEST_KILLED), IDLE, "DROP_OUTPUT");
}

/* The guest dies while SOLO is on its way, and SOLO is won: the backup gets its right back. */
static void a_solo_that_was_won_too_late_is_given_back(void **state)
{
	struct bench bench, *b = &bench;
	struct rpl_event won;
	struct rpl_record r;

	(void)state;
	setup(b, RPL_STORE_NONE);
	to_protected(b);
	SEE(EV(CMD_UNPROTECT), P_CLAIM, "REPLY CLAIM");
	won = grant(b);
	SEE(EV(GUEST_DIED), P_CLAIM, "");
	SEE(won, P_LOST, "GUEST_KILL DROP_OUTPUT CLAIM");
	r = find(b, RPL_ACT_CLAIM)->u.claim.want;
	assert_int_equal(r.mode, RPL_MODE_PROTECTED);
	assert_true(rpl_uuid_equal(&r.session, &b->c.session));
	SEE(EV(CLAIM_UNKNOWN), P_LOST, "READ_RECORD"); /* it did not land: the same again */
	r = b->c.expect;
	SEE(ev_record(RPL_EV_RECORD, &r), P_LOST, "CLAIM");
	SEE(grant(b), P_LOST, "SEND_HANDOVER SESSION_END");
	pass(b, 200);
	SEE(EV(TIMER), P_LOST, "READ_RECORD");
	r = record("b", RPL_MODE_SOLO, 5, NULL);
	SEE(ev_record(RPL_EV_RECORD, &r), P_DEPOSED, "GUEST_KILL");

	/* a backup that does not listen any more has forgotten, or will: nothing to give back */
	setup(b, RPL_STORE_NONE);
	to_protected(b);
	SEE(EV(CMD_UNPROTECT), P_CLAIM, "REPLY CLAIM");
	won = grant(b);
	SEE(EV(LINK_DOWN), P_CLAIM, "");
	SEE(EV(GUEST_DIED), P_CLAIM, "");
	SEE(won, IDLE, "SESSION_END OPEN DROP_OUTPUT");
}

static void a_changed_guest_is_looked_at_first(void **state)
{
	struct bench bench, *b = &bench;

	(void)state;
	setup(b, RPL_STORE_NONE);
	to_protected(b);
	SEE(EV(GUEST_CHANGED), P_CLAIM, "CLAIM"); /* by the arbiter, as every end of protection */
	SEE(grant(b), P_SOLO, "SEND_FORGET SESSION_END OPEN");
	SEE(EV(OPENED), P_SOLO, "");
	pass(b, 200);
	SEE(EV(TIMER), P_SOLO, "GUEST_LOOK"); /* protection is still wanted */
	pass(b, 200);
	SEE(EV(TIMER), P_SOLO, ""); /* it takes what it takes */
	assert_true(rpl_core_deadline(&b->c) == UINT64_MAX);
	SEE(EV(GUEST_UNFIT), P_SOLO, "");
	assert_int_equal(rpl_core_deadline(&b->c), b->c.now_ns + RPL_LOOK_RETRY_NS);
	SEE(EV(CMD_PROTECT), P_SOLO, "REPLY GUEST_LOOK"); /* an operator need not wait */
	SEE(EV(GUEST_CHANGED), P_SOLO, "");
	SEE(EV(GUEST_FIT), P_SYNC, "SESSION_START");
	SEE(EV(GUEST_CHANGED), P_SOLO, "SESSION_END GUEST_LOOK");
}

static void a_switchover_waits_for_the_backup(void **state)
{
	struct bench bench, *b = &bench;

	(void)state;
	setup(b, RPL_STORE_PLAIN);
	to_protected(b);
	SEE(ev_epoch(RPL_EV_FLUSHED, 1), P_PROTECTED, "");
	SEE(EV(CMD_SWITCHOVER), P_DRAIN, "REPLY CHECKPOINT");
	assert_true(find(b, RPL_ACT_CHECKPOINT)->u.checkpoint.stay_paused);
	SEE(ev_epoch(RPL_EV_CAPTURED, 2), P_DRAIN, "");
	SEE(ev_link(b, RPL_EV_ACK, 2), P_DRAIN, "RELEASE FLUSH");
	SEE(ev_epoch(RPL_EV_FLUSHED, 2), P_DRAIN, "SEND_HANDOVER SESSION_END");
	pass(b, 200);
	SEE(EV(TIMER), P_DRAIN, "READ_RECORD");
	SEE(ev_record(RPL_EV_RECORD, &b->c.rec), P_DRAIN, "");
	pass(b, 1800); /* nobody claims: take it back */
	SEE(EV(TIMER), P_CLAIM, "CLAIM");
	SEE(grant(b), P_SOLO, "OPEN GUEST_RESUME");
}

/* A peer that took the connection may be making its standby; one that cannot be reached is not there. */
static void a_peer_that_was_reached_is_waited_for(void **state)
{
	struct bench bench, *b = &bench;

	(void)state;
	setup(b, RPL_STORE_NONE);
	to_calling(b);
	pass(b, 900);
	SEE(EV(CONNECTED), P_SYNC, "");
	pass(b, 20000);
	SEE(EV(TIMER), P_SYNC, "");
	assert_int_equal(rpl_core_deadline(&b->c), UINT64_MAX);
	SEE(EV(LINK_DOWN), P_SYNC, ""); /* no answer: it is called again */
	pass(b, 999);
	SEE(EV(TIMER), P_SYNC, "");
	assert_int_equal(rpl_core_deadline(&b->c), b->now + MS);
	pass(b, 1);
	SEE(EV(TIMER), P_SOLO, "SESSION_END");
	pass(b, 200);
	SEE(EV(TIMER), P_SYNC, "SESSION_START"); /* of the next one nothing is known */
	pass(b, 1000);
	SEE(EV(TIMER), P_SOLO, "SESSION_END");
	pass(b, 400);
	SEE(EV(TIMER), P_SYNC, "SESSION_START");
	SEE(EV(CONNECTED), P_SYNC, "");
	SEE(ev_link(b, RPL_EV_LINK_UP, 0), P_SYNC, "");
	SEE(EV(LINK_DOWN), P_SYNC, ""); /* it had spoken: its silence counts from then */
	pass(b, 1000);
	SEE(EV(TIMER), P_SOLO, "SESSION_END");
}

/* What keeps a guest from being copied may last: each attempt costs both hosts a session. */
static void sessions_that_come_to_nothing_begin_ever_later(void **state)
{
	static const uint64_t after_ms[] = { 200, 400, 800, 1600, 1600 };
	struct bench bench, *b = &bench;

	(void)state;
	setup(b, RPL_STORE_NONE);
	to_calling(b);
	for (size_t i = 0; i < RPL_ARRAY_LEN(after_ms); i++) {
		SEE(ev_link(b, RPL_EV_LINK_UP, 0), P_SYNC, "");
		SEE(ev_lost(b, false), P_SOLO, "SESSION_END");
		pass(b, after_ms[i] - 1);
		SEE(EV(TIMER), P_SOLO, "");
		pass(b, 1);
		SEE(EV(TIMER), P_SYNC, "SESSION_START");
	}
	SEE(ev_lost(b, false), P_SOLO, "SESSION_END");
	SEE(EV(CMD_PROTECT), P_SYNC, "REPLY SESSION_START"); /* an operator need not wait */
	SEE(ev_link(b, RPL_EV_LINK_UP, 0), P_SYNC, "");
	SEE(ev_link(b, RPL_EV_SYNC_READY, 0), P_ARM, "HOLD"); /* this one came to something */
	SEE(ev_lost(b, false), P_SOLO, "SESSION_END OPEN");
	SEE(EV(OPENED), P_SOLO, "");
	pass(b, 200);
	SEE(EV(TIMER), P_SYNC, "SESSION_START");
	SEE(ev_lost(b, false), P_SOLO, "SESSION_END");
	pass(b, 200);
	SEE(EV(TIMER), P_SYNC, "SESSION_START");
}

/* A backup's host that loses power in the first copy closes no connection. */
static void a_silent_backup_is_called_again_in_the_first_copy(void **state)
{
	struct bench bench, *b = &bench;

	(void)state;
	setup(b, RPL_STORE_NONE);
	to_calling(b);
	SEE(EV(CONNECTED), P_SYNC, "");
	SEE(ev_link(b, RPL_EV_LINK_UP, 0), P_SYNC, "");
	pass(b, 4000);
	SEE(EV(HEARD), P_SYNC, "");
	pass(b, 4999);
	SEE(EV(TIMER), P_SYNC, "");
	assert_int_equal(rpl_core_deadline(&b->c), b->now + MS);
	pass(b, 1);
	SEE(EV(TIMER), P_SOLO, "SESSION_END");
}

/* ---- the backup's */
static void to_seed(struct bench *b)
{
	struct rpl_record r = record("b", RPL_MODE_SOLO, 1, NULL);
	struct rpl_event ev = EV(SESSION_OPEN);

	SEE(ev_start(RPL_FOUND_NONE, false, false, false), START, "READ_RECORD");
	SEE(ev_record(RPL_EV_RECORD, &r), IDLE, b->c.conf.store ? "READ_RECORD" : "");
	if (b->c.conf.store)
		SEE(ev_record(RPL_EV_RECORD, &r), IDLE, "");
	ev.u.open.session = other_session;
	ev.u.open.generation = 1;
	SEE(ev, IDLE, "READ_RECORD");
	SEE(ev_record(RPL_EV_RECORD, &r), B_SEED, "SESSION_ACCEPT");
}

static void to_ready(struct bench *b)
{
	to_seed(b);
	SEE(ev_staged(b, 1, RPL_STAGED_WHOLE | RPL_STAGED_SEALED), B_SEED, ""); /* R9: no digest */
	SEE(ev_staged(b, 1, ALL_CHECKS), B_READY, b->c.conf.store == RPL_STORE_PLAIN ? "ACK REDO_APPLY" : "ACK");
}

/* While the first copy is under way there is nothing to take over, only something to lose. */
static void a_silent_primary_is_waited_for_in_the_first_copy(void **state)
{
	struct bench bench, *b = &bench;
	struct rpl_event again = EV(SESSION_OPEN);

	(void)state;
	setup(b, RPL_STORE_NONE);
	to_seed(b);
	pass(b, 4999);
	SEE(EV(TIMER), B_SEED, "");
	assert_int_equal(rpl_core_deadline(&b->c), b->now + MS);
	pass(b, 1);
	SEE(EV(TIMER), B_SUSPECT, "FREEZE");

	setup(b, RPL_STORE_NONE); /* without a connection it has as long as ever, to call again */
	to_seed(b);
	pass(b, 3000);
	SEE(EV(LINK_DOWN), B_SEED, "");
	pass(b, 999);
	SEE(EV(TIMER), B_SEED, "");
	again.u.open.session = other_session;
	again.u.open.resume = true;
	SEE(again, B_SEED, "SESSION_CONTINUE");
	pass(b, 4999);
	SEE(EV(TIMER), B_SEED, "");
	SEE(EV(LINK_DOWN), B_SEED, "");
	pass(b, 999);
	SEE(EV(LINK_DOWN), B_SEED, ""); /* another caller that did not get far: nothing was heard */
	pass(b, 1);
	SEE(EV(TIMER), B_SUSPECT, "FREEZE");

	setup(b, RPL_STORE_NONE); /* with a replica there is */
	to_ready(b);
	pass(b, 900);
	SEE(EV(LINK_DOWN), B_READY, "");
	pass(b, 100);
	SEE(EV(TIMER), B_SUSPECT, "FREEZE");
}

/* The connection ends while the record is being read. */
static void a_session_whose_connection_is_gone_is_not_waited_for(void **state)
{
	struct rpl_record r = record("b", RPL_MODE_SOLO, 1, NULL);
	struct rpl_event ev = EV(SESSION_OPEN);
	struct bench bench, *b = &bench;

	(void)state;
	setup(b, RPL_STORE_NONE);
	SEE(ev_start(RPL_FOUND_NONE, false, false, false), START, "READ_RECORD");
	SEE(ev_record(RPL_EV_RECORD, &r), IDLE, "");
	ev.u.open.session = other_session;
	ev.u.open.generation = 1;
	SEE(ev, IDLE, "READ_RECORD");
	SEE(EV(LINK_DOWN), IDLE, "");
	SEE(ev_record(RPL_EV_RECORD, &r), B_SEED, "SESSION_ACCEPT");
	pass(b, 1000);
	SEE(EV(TIMER), B_SUSPECT, "FREEZE");
}

static void a_takeover_freezes_claims_and_promotes(void **state)
{
	struct bench bench, *b = &bench;
	struct rpl_record r = record("b", RPL_MODE_PROTECTED, 2, &other_session);

	(void)state;
	setup(b, RPL_STORE_PLAIN);
	to_ready(b);
	SEE(ev_epoch(RPL_EV_REDO_APPLIED, 1), B_READY, "REDO_TRIM");
	SEE(ev_staged(b, 3, ALL_CHECKS), B_READY, ""); /* 2 is missing */
	SEE(ev_staged(b, 2, ALL_CHECKS), B_READY, "ACK REDO_APPLY");
	pass(b, 900);
	SEE(EV(HEARD), B_READY, "");
	pass(b, 999);
	SEE(EV(TIMER), B_READY, "");
	pass(b, 1);
	SEE(EV(TIMER), B_SUSPECT, "FREEZE");
	SEE(ev_staged(b, 3, ALL_CHECKS), B_SUSPECT, ""); /* I6 */
	pass(b, 1000);
	SEE(EV(TIMER), B_SUSPECT, ""); /* R3: the mover may still live */
	SEE(EV(FROZEN), B_CLAIM, "READ_RECORD");
	SEE(ev_record(RPL_EV_RECORD, &r), B_CLAIM, "CLAIM");
	assert_true(rpl_record_equal(&find(b, RPL_ACT_CLAIM)->u.claim.expect, &r));
	SEE(grant(b), B_PROMOTE, "STORE_PROMOTE");
	SEE(EV(STORE_PROMOTED), B_PROMOTE, "GUEST_ACTIVATE");
	assert_int_equal(find(b, RPL_ACT_GUEST_ACTIVATE)->u.epoch.epoch, 2);
	SEE(EV(GUEST_RUNNING), P_SOLO, "ANNOUNCE");
	assert_int_equal(b->c.epoch, 3);
}

static void to_promote(struct bench *b)
{
	struct rpl_record r = record("b", RPL_MODE_PROTECTED, 2, &other_session);
	struct rpl_event ev = EV(HANDOVER);

	to_ready(b);
	ev.u.link.session = other_session;
	SEE(ev, B_SUSPECT, "FREEZE");
	SEE(EV(FROZEN), B_CLAIM, "READ_RECORD");
	SEE(ev_record(RPL_EV_RECORD, &r), B_CLAIM, "CLAIM");
	SEE(grant(b), B_PROMOTE, b->c.conf.store ? "STORE_PROMOTE" : "GUEST_ACTIVATE");
}

/* Of a primary that is silent; the replica is frozen, the claim waits. */
static void to_frozen(struct bench *b, bool auto_claim)
{
	setup(b, RPL_STORE_NONE);
	b->c.conf.auto_claim = auto_claim;
	to_ready(b);
	pass(b, 1000);
	SEE(EV(TIMER), B_SUSPECT, "FREEZE");
	SEE(EV(FROZEN), B_SUSPECT, "");
}

/* The arbiter manual: nobody but the primary itself can tell a frozen backup that the guest goes on without it. */
static void a_primary_that_lives_gets_its_backups_copy_given_up(void **state)
{
	struct rpl_record solo = record("b", RPL_MODE_SOLO, 3, &other_session);
	struct bench bench, *b = &bench;
	struct rpl_event ev = EV(SESSION_OPEN);

	(void)state;
	ev.u.open.session = other_session;
	ev.u.open.resume = true;
	to_frozen(b, true);
	SEE(ev, B_SUSPECT, "SESSION_REFUSE READ_RECORD"); /* the arbiter knows */
	to_frozen(b, false);
	SEE(ev, IDLE, "SESSION_REFUSE FORGET_REPLICA");
	SEE(EV(CMD_TAKEOVER), IDLE, "REPLY");
	assert_false(find(b, RPL_ACT_REPLY)->u.reply.ok);
	/* the session that a word made it begin: what was learnt decides */
	to_frozen(b, false);
	ev.u.open.session.b[0] ^= 1;
	ev.u.open.resume = false;
	SEE(ev, B_SUSPECT, "SESSION_REFUSE READ_RECORD");
	SEE(ev_record(RPL_EV_RECORD, &solo), IDLE, "FORGET_REPLICA");
}

static void a_refused_takeover_forgets(void **state)
{
	struct bench bench, *b = &bench;
	struct rpl_record r = record("b", RPL_MODE_SOLO, 3, &other_session);
	struct rpl_event ev = EV(HANDOVER);

	(void)state;
	setup(b, RPL_STORE_NONE);
	to_ready(b);
	ev.u.link.session = other_session;
	SEE(ev, B_SUSPECT, "FREEZE");
	SEE(EV(FROZEN), B_CLAIM, "READ_RECORD"); /* at once */
	SEE(ev_record(RPL_EV_RECORD, &r), IDLE, "FORGET_REPLICA");

	setup(b, RPL_STORE_NONE);
	to_ready(b);
	SEE(EV(REPLICA_LOST), B_SUSPECT, "FREEZE");
	SEE(EV(FROZEN), IDLE, "FORGET_REPLICA"); /* R7 */
}

/* ---- restart and cold start */
static void a_restart_lets_the_record_decide(void **state)
{
	struct rpl_record mine = record("a", RPL_MODE_PROTECTED, 2, &other_session);
	struct rpl_record theirs = record("b", RPL_MODE_PROTECTED, 2, &other_session);
	struct rpl_record heir = record("a", RPL_MODE_SOLO, 3, &other_session);
	struct bench bench, *b = &bench;
	struct rpl_event ev;

	(void)state;
	setup(b, RPL_STORE_NONE); /* the guest is still here: SOLO, then release */
	SEE(ev_start(RPL_FOUND_PAUSED, true, false, true), START, "GUEST_RESUME READ_RECORD");
	SEE(ev_record(RPL_EV_RECORD, &mine), P_CLAIM, "CLAIM");
	SEE(grant(b), P_SOLO, "OPEN");

	setup(b, RPL_STORE_NONE); /* it is not: R2b */
	SEE(ev_start(RPL_FOUND_NONE, false, false, true), START, "READ_RECORD");
	SEE(ev_record(RPL_EV_RECORD, &mine), P_LOST, "READ_RECORD");

	setup(b, RPL_STORE_NONE); /* it had shut down, and whoever saw that died before claiming DOWN: I11 */
	ev = ev_start(RPL_FOUND_NONE, false, false, true);
	ev.u.start.down = true;
	SEE(ev, START, "READ_RECORD");
	SEE(ev_record(RPL_EV_RECORD, &mine), P_DOWN, "CLAIM");
	assert_int_equal(find(b, RPL_ACT_CLAIM)->u.claim.want.mode, RPL_MODE_DOWN);
	SEE(grant(b), P_DOWN, "GUEST_KILL");
	SEE(EV(GUEST_KILLED), IDLE, "");

	setup(b, RPL_STORE_NONE); /* the peer took over meanwhile */
	SEE(ev_start(RPL_FOUND_RUNNING, true, false, true), START, "READ_RECORD");
	SEE(ev_record(RPL_EV_RECORD, &theirs), P_DEPOSED, "GUEST_KILL");

	setup(b, RPL_STORE_NONE); /* a backup's replica outlived its keeper */
	ev = ev_start(RPL_FOUND_NONE, false, false, false);
	ev.u.start.replica = true;
	ev.u.start.session = other_session;
	ev.u.start.epoch = 7;
	SEE(ev, START, "READ_RECORD");
	SEE(ev_record(RPL_EV_RECORD, &theirs), B_SUSPECT, "FREEZE");
	SEE(EV(FROZEN), B_SUSPECT, ""); /* the primary may live: it is given the time to claim SOLO */
	assert_int_equal(rpl_core_deadline(&b->c), b->now + b->c.conf.suspect_ns + b->c.conf.takeover_delay_ns);

	setup(b, RPL_STORE_NONE); /* ... which had even won */
	SEE(ev, START, "READ_RECORD");
	SEE(ev_record(RPL_EV_RECORD, &heir), B_PROMOTE, "GUEST_ACTIVATE");
	assert_int_equal(find(b, RPL_ACT_GUEST_ACTIVATE)->u.epoch.epoch, 7);

	setup(b, RPL_STORE_NONE); /* SOLO with held output: a stray ARM may be under way */
	heir.session = (struct rpl_uuid){ { 0 } };
	SEE(ev_start(RPL_FOUND_RUNNING, true, false, true), START, "READ_RECORD");
	SEE(ev_record(RPL_EV_RECORD, &heir), P_CLAIM, "CLAIM");
	setup(b, RPL_STORE_NONE); /* SOLO with open output: there is none */
	SEE(ev_start(RPL_FOUND_RUNNING, true, true, false), START, "READ_RECORD");
	SEE(ev_record(RPL_EV_RECORD, &heir), P_SOLO, "");
}

static void a_cold_start_needs_the_redo(void **state)
{
	struct rpl_record mine = record("a", RPL_MODE_PROTECTED, 2, &other_session);
	struct bench bench, *b = &bench;
	struct rpl_event ev = EV(COLLECTED), loss = EV(CMD_ACCEPT_LOSS);

	(void)state;
	setup(b, RPL_STORE_PLAIN);
	SEE(ev_start(RPL_FOUND_NONE, false, false, true), START, "READ_RECORD");
	SEE(ev_record(RPL_EV_RECORD, &mine), P_LOST, "READ_RECORD");
	SEE(ev_record(RPL_EV_RECORD, &mine), P_LOST, "");
	pass(b, 5000);
	SEE(EV(TIMER), C_COLLECT, "READ_RECORD");
	SEE(ev_record(RPL_EV_RECORD, &mine), C_COLLECT, "COLLECT");
	ev.u.collected.store_clean = true; /* of an older session: not enough (R10) */
	SEE(ev, IDLE, "");
	loss.u.cmd.generation = 1;
	SEE(loss, IDLE, "REPLY");
	assert_int_equal(find(b, RPL_ACT_REPLY)->u.reply.reason, RPL_WHY_WRONG_GENERATION);
	loss.u.cmd.generation = 2;
	SEE(loss, C_COLLECT, "REPLY READ_RECORD");
	SEE(ev_record(RPL_EV_RECORD, &mine), C_COLLECT, "COLLECT");
	SEE(ev, C_CLAIM, "CLAIM");
	SEE(grant(b), C_REPLAY, "REPLAY");
	SEE(EV(REPLAYED), C_REPLAY, "GUEST_BOOT");
	SEE(EV(GUEST_RUNNING), P_SOLO, "ANNOUNCE");
}

/* ---- everything everywhere */
static struct rpl_uuid some_session(const struct bench *b)
{
	return rand() % 4 ? b->c.session : other_session;
}

static struct rpl_event random_event_of(const struct bench *b, enum rpl_event_kind kind)
{
	struct rpl_event ev = event(kind);
	uint64_t near = b->c.epoch + (uint64_t)(rand() % 5) - (b->c.epoch > 2 ? 2 : 0);
	struct rpl_uuid s = some_session(b);
	const char *owner = rand() % 3 ? "a" : "b";

	switch (ev.kind) {
	case RPL_EV_START:
		ev = ev_start((enum rpl_found)(rand() % 3), rand() & 1, rand() & 1, rand() & 1);
		ev.u.start.replica = rand() & 1;
		ev.u.start.down = rand() & 1;
		ev.u.start.session = other_session;
		ev.u.start.epoch = (uint64_t)(rand() % 9);
		break;
	case RPL_EV_RECORD:
	case RPL_EV_CLAIM_GRANTED:
	case RPL_EV_CLAIM_REFUSED:
		ev.u.record.record = rand() % 3 ? b->c.claimed :
				     rand() % 2 ? b->c.rec :
						  record(owner, (enum rpl_mode)(rand() % RPL_MODE_N),
							 b->c.rec.generation + (uint64_t)(rand() % 3), &s);
		if (ev.kind == RPL_EV_RECORD && rand() % 2)
			ev.u.record.record = b->c.expect;
		break;
	case RPL_EV_CMD_SOLO:
	case RPL_EV_CMD_TAKEOVER:
	case RPL_EV_CMD_ACCEPT_LOSS:
	case RPL_EV_PEER_GENERATION:
		ev.u.cmd.generation = b->c.rec.generation + (uint64_t)(rand() % 2);
		break;
	case RPL_EV_SESSION_LOST:
		ev.u.lost.session = s;
		ev.u.lost.gone = rand() & 1;
		break;
	case RPL_EV_HEARD:
		ev.u.heard.progress = (uint64_t)rand();
		break;
	case RPL_EV_STAGED:
		ev = ev_staged(b, rand() % 2 ? b->c.replica + 1 : near, rand() % 4 ? ALL_CHECKS : (uint32_t)rand() % 16);
		break;
	case RPL_EV_COLLECTED:
		ev.u.collected.store_clean = rand() & 1;
		ev.u.collected.redo_complete = rand() & 1;
		ev.u.collected.session = s;
		break;
	case RPL_EV_STORE_FAILED:
		ev.u.failed.action = rand() % 2 ? b->c.doing : (enum rpl_action_kind)(rand() % RPL_ACT_N);
		break;
	case RPL_EV_HELD:
	case RPL_EV_FLUSHED:
	case RPL_EV_CAPTURED:
	case RPL_EV_CAPTURE_FAILED:
	case RPL_EV_JOURNALED:
	case RPL_EV_REDO_APPLIED:
		ev = ev_epoch(ev.kind, ev.kind == RPL_EV_FLUSHED ? b->c.flush_asked : near);
		break;
	default: /* session, link and open begin alike */
		ev.u.link.session = s;
		ev.u.link.epoch = ev.kind == RPL_EV_SESSION_OPEN ? b->c.rec.generation : near;
		break;
	}
	return ev;
}

static struct rpl_event random_event(const struct bench *b)
{
	return random_event_of(b, (enum rpl_event_kind)(rand() % RPL_EV_N));
}

static unsigned seen[RPL_ST_N][RPL_EV_N];

static void try_event(struct bench *b, const struct rpl_event *ev, const char *where)
{
	enum rpl_state before = b->c.state;
	bool early = ev->now_ns < rpl_core_deadline(&b->c);
	bool command = ev->kind >= RPL_EV_CMD_PROTECT && ev->kind <= RPL_EV_CMD_START;
	const char *bad;

	rpl_core_step(&b->c, ev, &b->out);
	seen[before][ev->kind]++;
	bad = rpl_core_check(&b->c);
	if (bad)
		fail_msg("%s: %s in %s -> %s broke: %s", where, rpl_event_name(ev->kind), rpl_state_name(before),
			 rpl_state_name(b->c.state), bad);
	if (command)
		(void)find(b, RPL_ACT_REPLY);
	if (rpl_core_verdict(before, ev->kind) == RPL_REFUSED)
		assert_false(find(b, RPL_ACT_REPLY)->u.reply.ok);
	if (rpl_core_verdict(before, ev->kind) == RPL_IGNORED && early)
		assert_int_equal(b->c.state, before);
}

static void begin_somewhere(struct bench *b, unsigned run)
{
	static void (*const story[])(struct bench *) = { to_sync, to_arm_claim, to_protected, to_ready, to_promote };
	struct rpl_event ev = ev_start((enum rpl_found)(run % 3), run & 1, run & 2, run & 4);

	setup(b, (enum rpl_store)(run % 3));
	b->c.conf.auto_claim = run % 7 != 0;
	if (run % 6 < RPL_ARRAY_LEN(story)) {
		story[run % 6](b);
		b->c.conf.durability = (enum rpl_durability)(run / 3 % 3);
	} else {
		ev.u.start.replica = run & 8;
		ev.u.start.session = other_session;
		ev.now_ns = b->now;
		try_event(b, &ev, "start");
	}
}

static void any_event_in_any_state_is_safe(void **state)
{
	struct bench bench, *b = &bench;
	unsigned missing = 0;
	char where[64];

	(void)state;
	srand(1);
	for (unsigned run = 0; run < 6000; run++) {
		begin_somewhere(b, run);
		for (unsigned i = 0; i < 100; i++) {
			struct rpl_event ev = random_event(b);
			struct bench copy;

			(void)snprintf(where, sizeof(where), "run %u step %u", run, i);
			ev.now_ns = b->now += (uint64_t)(rand() % 40) * (rand() % 8 ? MS : 30 * MS);
			if (rpl_core_deadline(&b->c) < ev.now_ns && rand() % 2)
				ev = EV(TIMER);
			ev.now_ns = b->now;
			try_event(b, &ev, where);
			copy = *b; /* plain data: a copy is a machine of its own */
			for (unsigned kind = 0; i % 16 == 0 && kind < RPL_EV_N; kind++) {
				ev = random_event_of(b, (enum rpl_event_kind)kind);
				ev.now_ns = copy.now;
				try_event(&copy, &ev, where);
				copy = *b;
			}
		}
	}
	for (unsigned s = 0; s < RPL_ST_N; s++)
		for (unsigned e = 0; e < RPL_EV_N; e++)
			if (!seen[s][e] && ++missing)
				print_message("never tried: %s in %s\n", rpl_event_name((enum rpl_event_kind)e),
					      rpl_state_name((enum rpl_state)s));
	assert_int_equal(missing, 0);
}

static void bad_configurations_are_named(void **state)
{
	struct rpl_core_conf f = conf(RPL_STORE_NONE);
	struct rpl_err err;

	(void)state;
	f.stall_ns = f.suspect_ns;
	assert_int_not_equal(rpl_core_conf_check(&f, &err), 0);
	assert_non_null(strstr(err.msg, "stall 1000000000 ns must be below suspect 1000000000 ns"));
	f = conf(RPL_STORE_NONE);
	f.takeover_delay_ns = 199 * MS;
	assert_int_not_equal(rpl_core_conf_check(&f, &err), 0);
	f = conf(RPL_STORE_NONE);
	f.peer[0] = 'a';
	assert_int_not_equal(rpl_core_conf_check(&f, &err), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(epochs_flow_and_only_acks_release),
		cmocka_unit_test(the_second_checkpoint_is_soon),
		cmocka_unit_test(the_interval_counts_from_the_guest),
		cmocka_unit_test(a_buffer_that_knows_one_epoch_is_not_sealed_twice),
		cmocka_unit_test(a_buffer_that_knows_more_epochs_is_sealed_again),
		cmocka_unit_test(a_silent_backup_costs_a_claim),
		cmocka_unit_test(an_arm_of_unknown_outcome_is_fenced),
		cmocka_unit_test(arming_is_bounded),
		cmocka_unit_test(a_deposed_primary_cleans_up),
		cmocka_unit_test(unprotect_power_off_and_process_death),
		cmocka_unit_test(a_solo_that_was_won_too_late_is_given_back),
		cmocka_unit_test(a_changed_guest_is_looked_at_first),
		cmocka_unit_test(a_switchover_waits_for_the_backup),
		cmocka_unit_test(a_peer_that_was_reached_is_waited_for),
		cmocka_unit_test(a_silent_backup_is_called_again_in_the_first_copy),
		cmocka_unit_test(sessions_that_come_to_nothing_begin_ever_later),
		cmocka_unit_test(a_silent_primary_is_waited_for_in_the_first_copy),
		cmocka_unit_test(a_session_whose_connection_is_gone_is_not_waited_for),
		cmocka_unit_test(a_takeover_freezes_claims_and_promotes),
		cmocka_unit_test(a_refused_takeover_forgets),
		cmocka_unit_test(a_primary_that_lives_gets_its_backups_copy_given_up),
		cmocka_unit_test(what_the_backup_gave_up_needs_no_word),
		cmocka_unit_test(a_restart_lets_the_record_decide),
		cmocka_unit_test(a_cold_start_needs_the_redo),
		cmocka_unit_test(any_event_in_any_state_is_safe),
		cmocka_unit_test(bad_configurations_are_named),
	};

	return cmocka_run_group_tests_name("core", tests, NULL, NULL);
}
