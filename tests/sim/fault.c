/* What goes wrong, and the operator. Each run draws which kinds it has and how dense they come. */
#include <string.h>

#include "sim.h"

/* What a mend undoes; the node is in the item. */
enum mend { MEND_CUT_FROM, MEND_STORE, MEND_ARB_CUT, MEND_ARB, MEND_SLOW, MEND_DISK, MEND_WIRE };

static uint64_t some_ms(struct sim *s, uint64_t from, uint64_t to)
{
	return (from + sim_rand(s, to - from + 1)) * MS;
}

static void mend_later(struct sim *s, enum mend what, int node, uint64_t delay)
{
	sim_after(s, delay, IT_MEND, node)->a = what;
}

void fault_mend(struct sim *s, const struct item *it)
{
	switch ((enum mend)it->a) {
	case MEND_CUT_FROM:
		s->cut[it->node] = false;
		break;
	case MEND_STORE:
		if (s->store_cut)
			wire_store_cut(s, false);
		break;
	case MEND_ARB_CUT:
		s->arb_cut[it->node] = false;
		break;
	case MEND_ARB:
		s->arb_up = true;
		break;
	case MEND_SLOW:
		s->arb_slow = false;
		break;
	case MEND_DISK:
		s->node[it->node].slow_disk = false;
		break;
	case MEND_WIRE:
		s->late = s->duplicate = false;
		break;
	}
}

static void plan_next(struct sim *s)
{
	uint64_t t = s->now + sim_rand(s, 2 * s->fault_mean_ms) * MS;

	if (t < s->faults_until || !s->faults_until)
		sim_after(s, t - s->now, IT_FAULT, 0);
}



void fault_begin(struct sim *s)
{
	s->enabled = sim_chance(s, 40) ? ~UINT64_C(0) : 0;
	while (__builtin_popcountll(s->enabled) < 5)
		s->enabled |= UINT64_C(1) << sim_rand(s, F_N);
	s->fault_mean_ms = (unsigned)(50 + sim_rand(s, 500));
	sim_after(s, some_ms(s, 0, 900), IT_FAULT, 0);
}

static void die(struct sim *s, int node, bool host, uint64_t back_in)
{
	struct node *n = &s->node[node];
	struct item *it;

	if (!n->keeper_up && (!host || !n->host_up))
		return;
	sim_say(s, "%c: %s dies", 'A' + node, host ? "host" : "keeper");
	if (host)
		shell_host_dies(s, node);
	else
		shell_keeper_dies(s, node);
	it = sim_after(s, back_in, IT_RESTART, node);
	it->a = n->inc;
	it->flag = host;
}

void fault_trap(struct sim *s, int node, const struct rpl_action *a, bool before)
{
	struct node *n = &s->node[node];

	if (n->trap_before != before)
		return;
	n->trap_action = -1;
	sim_say(s, "%c: trap %s %s", 'A' + node, before ? "before" : "after", rpl_action_name(a->kind));
	die(s, node, n->trap_host, some_ms(s, 20, n->trap_host ? 2500 : 900));
}

static void deliver(struct sim *s, int node, enum rpl_event_kind kind)
{
	struct rpl_event ev;

	memset(&ev, 0, sizeof(ev));
	ev.kind = kind;
	if (kind == RPL_EV_CMD_SOLO || kind == RPL_EV_CMD_TAKEOVER || kind == RPL_EV_CMD_ACCEPT_LOSS ||
	    kind == RPL_EV_PEER_GENERATION)
		ev.u.cmd.generation = s->record.generation + (sim_chance(s, 20) ? 1 : 0);
	ev.u.cmd.peer_is_dead = kind == RPL_EV_CMD_ACCEPT_LOSS && !s->node[!node].host_up; /* operators do not lie here */
	sim_event(s, node, sim_rand(s, 20 * MS), &ev);
}

static int who_runs(const struct sim *s)
{
	return s->node[1].guest != GUEST_GONE && !s->node[1].down;
}

static void set_trap(struct sim *s, int node)
{
	struct node *n = &s->node[node];

	n->trap_action = (int)sim_rand(s, RPL_ACT_N);
	n->trap_before = sim_chance(s, 50);
	n->trap_host = sim_chance(s, 50);
}

void fault_claim(struct sim *s, int node, const struct rpl_action *a)
{
	struct node *n = &s->node[node];

	if (!n->dies_at_claim || a->u.claim.kind != RPL_CLAIM_SOLO || n->guest == GUEST_GONE || n->down)
		return;
	n->dies_at_claim = false;
	sim_say(s, "%c: the guest dies while SOLO is claimed", 'A' + node);
	shell_guest_gone(s, node);
	deliver(s, node, RPL_EV_GUEST_DIED);
}

static void guest_fault(struct sim *s, enum fault f, int node)
{
	struct node *n = &s->node[node];

	if (n->guest == GUEST_GONE || n->down)
		return;
	if (f == F_GUEST_DIES) {
		shell_guest_gone(s, node);
		deliver(s, node, RPL_EV_GUEST_DIED);
	} else if (f == F_POWER_OFF && n->guest == GUEST_RUNS && sim_chance(s, 30)) {
		n->down = true;
		deliver(s, node, RPL_EV_GUEST_SHUTDOWN);
	} else if (f == F_GUEST_PANIC) {
		deliver(s, node, RPL_EV_GUEST_CRASHED);
	} else if (f == F_GUEST_RESET) {
		deliver(s, node, RPL_EV_GUEST_RESET);
	} else if (f == F_GUEST_CHANGES) {
		deliver(s, node, RPL_EV_GUEST_CHANGED);
	} else if (f == F_BUFFER_FULL && n->overlay) {
		deliver(s, node, RPL_EV_BUFFER_FULL);
	}
}

static void cut_link(struct sim *s, enum fault f)
{
	uint64_t d = sim_chance(s, 60) ? some_ms(s, 5, 250) : some_ms(s, 250, 1500);

	for (int i = 0; i < 2; i++)
		if (f == F_CUT_LINK || f == (i == 0 ? F_CUT_AB : F_CUT_BA)) {
			s->cut[i] = true;
			mend_later(s, MEND_CUT_FROM, i, d);
		}
}

static void arbiter_fault(struct sim *s, enum fault f, int node)
{
	uint64_t d = some_ms(s, 50, 1200);

	if (f == F_ARB_CUT) {
		s->arb_cut[node] = true;
		mend_later(s, MEND_ARB_CUT, node, d);
	} else if (f == F_ARB_DOWN) {
		s->arb_up = false;
		mend_later(s, MEND_ARB, node, d);
	} else if (f == F_ARB_SLOW) {
		s->arb_slow = true;
		mend_later(s, MEND_SLOW, node, d);
	} else {
		s->lose_replies += 1 + (int)sim_rand(s, 2);
	}
}

static void strike(struct sim *s, enum fault f)
{
	int node = sim_chance(s, 60) ? who_runs(s) : (int)sim_rand(s, 2);
	struct node *n = &s->node[node], *b = &s->node[!who_runs(s)];

	sim_say(s, "fault %s (%c)", sim_fault_name(f), 'A' + node);
	sim_stats.faults[f]++;
	switch (f) {
	case F_CUT_AB:
	case F_CUT_BA:
	case F_CUT_LINK:
		cut_link(s, f);
		break;
	case F_RESET:
		wire_break(s, true);
		break;
	case F_STORE_CUT:
		if (!s->store_cut)
			wire_store_cut(s, true);
		mend_later(s, MEND_STORE, node, some_ms(s, 5, 800));
		break;
	case F_ARB_CUT:
	case F_ARB_DOWN:
	case F_ARB_SLOW:
	case F_REPLY_LOST:
		arbiter_fault(s, f, node);
		break;
	case F_KEEPER_CRASH:
		die(s, node, false, some_ms(s, 10, 900));
		break;
	case F_HOST_CRASH:
		die(s, node, true, some_ms(s, 100, 2500));
		break;
	case F_BOTH_POWER:
		if (sim_chance(s, 40)) {
			die(s, 0, true, some_ms(s, 100, 1500));
			die(s, 1, true, some_ms(s, 100, 1500));
		}
		break;
	case F_HOST_STOP:
		if (n->host_up)
			n->stopped_until = s->now + some_ms(s, 20, 2000);
		break;
	case F_CRASH_AT_ACTION:
		set_trap(s, node);
		break;
	case F_REPLICA_LOST:
		if (b->rep_branch >= 0 && b->keeper_up) {
			b->rep_ok = false;
			b->rep_branch = -1;
			memset(b->rep_valid, 0, sizeof(b->rep_valid));
			deliver(s, !who_runs(s), RPL_EV_REPLICA_LOST);
		}
		break;
	case F_SLOW_DISK:
		n->slow_disk = true;
		mend_later(s, MEND_DISK, node, some_ms(s, 100, 1000));
		break;
	case F_CAPTURE_FAILS:
		n->fail_capture = true;
		break;
	case F_HOLD_HANGS:
		n->fail_hold = true;
		break;
	case F_PARTIAL_EPOCH:
		b->partial = true;
		break;
	case F_LATE_MESSAGES:
	case F_DUPLICATES:
		s->late |= f == F_LATE_MESSAGES;
		s->duplicate |= f == F_DUPLICATES;
		mend_later(s, MEND_WIRE, node, some_ms(s, 100, 1500));
		break;
	case F_STORE_FAILS:
		n->fail_store = true;
		break;
	case F_GUEST_FAILS:
		n->fail_guest = true;
		break;
	case F_GUEST_DIES:
	case F_BUFFER_FULL:
	case F_POWER_OFF:
	case F_GUEST_PANIC:
	case F_GUEST_RESET:
	case F_GUEST_CHANGES:
		guest_fault(s, f, node);
		break;
	case F_DIES_AT_CLAIM:
		n->dies_at_claim = true;
		if (sim_chance(s, 50)) /* ... which is soon, and while the backup listens */
			deliver(s, node, RPL_EV_CMD_UNPROTECT);
		break;
	case F_HEARSAY:
		deliver(s, node, RPL_EV_PEER_GENERATION);
		break;
	default:
		deliver(s, f == F_CMD_TAKEOVER ? !who_runs(s) : node,
			(enum rpl_event_kind)(RPL_EV_CMD_PROTECT + (int)(f - F_CMD_PROTECT)));
		if (f == F_CMD_UNPROTECT) /* or little else would happen in this run */
			deliver(s, node, RPL_EV_CMD_PROTECT);
		break;
	}
}

void fault_happens(struct sim *s)
{
	enum fault f;

	if (s->quiet)
		return;
	do
		f = (enum fault)sim_rand(s, F_N);
	while (!(s->enabled >> f & 1));
	strike(s, f);
	plan_next(s);
}

void fault_heal_all(struct sim *s)
{
	s->cut[0] = s->cut[1] = s->arb_cut[0] = s->arb_cut[1] = s->arb_slow = s->late = s->duplicate = false;
	s->arb_up = true;
	s->lose_replies = 0;
	if (s->store_cut)
		wire_store_cut(s, false);
	s->quiet_without = sim_chance(s, 30) ? (int)sim_rand(s, 2) : -1;
	for (int i = 0; i < 2; i++) {
		struct node *n = &s->node[i];

		n->trap_action = -1;
		n->dies_at_claim = false;
		n->slow_disk = n->fail_capture = n->fail_hold = n->partial = n->fail_store = n->fail_guest = false;
		n->stopped_until = 0;
		if (i == s->quiet_without) {
			sim_stats.quiet_alone++;
			if (n->host_up)
				shell_host_dies(s, i);
		} else if (!n->keeper_up) {
			sim_up(s, i, true);
		}
	}
	sim_say(s, "quiet%s", s->quiet_without < 0 ? "" : s->quiet_without ? ", B stays away" : ", A stays away");
}
