/* The queue of things to come, and the run. */
#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <replicad/auto.h>
#include <replicad/err.h>

#include "sim.h"

#define RUN_MS 5000
#define SETTLE_MS 320 /* longer than the slowest way to the arbiter: a dead host's claim may still land */
#define QUIET_MS 20000 /* I10's "eventually" */

struct stats sim_stats;

/* ---- random numbers: xorshift128+, from the seed alone */
static uint64_t splitmix(uint64_t *x)
{
	uint64_t z = *x += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

uint64_t sim_rand(struct sim *s, uint64_t n)
{
	uint64_t a = s->rng[0], b = s->rng[1];

	s->rng[0] = b;
	a ^= a << 23;
	s->rng[1] = a ^ b ^ a >> 18 ^ b >> 5;
	return (s->rng[1] + b) % n;
}

bool sim_chance(struct sim *s, unsigned percent)
{
	return sim_rand(s, 100) < percent;
}

/* ---- the queue: a heap of indices, ordered by (time, sequence) */
static bool before(const struct sim *s, uint32_t x, uint32_t y)
{
	const struct item *a = &s->items[x], *b = &s->items[y];

	return a->t != b->t ? a->t < b->t : a->seq < b->seq;
}

static void heap_push(struct sim *s, uint32_t x)
{
	uint32_t i = s->heaps++;

	while (i > 0 && before(s, x, s->heap[(i - 1) / 2])) {
		s->heap[i] = s->heap[(i - 1) / 2];
		i = (i - 1) / 2;
	}
	s->heap[i] = x;
}

static uint32_t heap_pop(struct sim *s)
{
	uint32_t top = s->heap[0], x = s->heap[--s->heaps], i = 0;

	for (;;) {
		uint32_t k = 2 * i + 1;

		if (k >= s->heaps)
			break;
		if (k + 1 < s->heaps && before(s, s->heap[k + 1], s->heap[k]))
			k++;
		if (!before(s, s->heap[k], x))
			break;
		s->heap[i] = s->heap[k];
		i = k;
	}
	s->heap[i] = x;
	return top;
}

struct item *sim_after(struct sim *s, uint64_t delay_ns, enum item_kind kind, int node)
{
	uint32_t x;
	struct item *it;

	rpl_assert(s->frees > 0);
	x = s->free[--s->frees];
	it = &s->items[x];
	it->t = s->now + delay_ns;
	it->seq = ++s->seq;
	it->kind = kind;
	it->node = (uint8_t)node;
	it->inc = s->node[node].inc;
	it->flag = false;
	heap_push(s, x);
	return it;
}

void sim_event(struct sim *s, int node, uint64_t delay_ns, const struct rpl_event *ev)
{
	sim_after(s, delay_ns, IT_EVENT, node)->ev = *ev;
}

/* ---- saying what happens */
void sim_say(const struct sim *s, const char *fmt, ...)
{
	va_list ap;

	if (!s->verbose)
		return;
	printf("%10.3f ms  ", (double)s->now / 1e6);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

const char *sim_invariant_name(enum invariant i)
{
	static const char *const name[] = {
#define X(n) #n,
		INVARIANTS(X)
#undef X
	};

	return name[i];
}

const char *sim_fault_name(enum fault f)
{
	static const char *const name[] = {
#define X(n) #n,
		FAULTS(X)
#undef X
	};

	return name[f];
}

static void say_step(const struct sim *s, int node, const struct rpl_event *ev, const struct rpl_actions *out,
		     enum rpl_state was)
{
	char text[600] = "";

	if (!s->verbose)
		return;
	for (unsigned i = 0; i < out->n; i++) {
		const struct rpl_action *a = &out->a[i];
		size_t at = strlen(text);

		if (a->kind == RPL_ACT_STATE)
			(void)snprintf(text + at, sizeof(text) - at, " ->%s (%s)", rpl_state_name(a->u.state.to),
				       rpl_reason_text(a->u.state.reason));
		else if (a->kind == RPL_ACT_CLAIM)
			(void)snprintf(text + at, sizeof(text) - at, " CLAIM_%s(g%" PRIu64 ")",
				       rpl_claim_name(a->u.claim.kind), a->u.claim.want.generation);
		else
			(void)snprintf(text + at, sizeof(text) - at, " %s", rpl_action_name(a->kind));
	}
	sim_say(s, "%c %s %s%s", 'A' + node, rpl_state_name(was), rpl_event_name(ev->kind), text);
}

/* ---- one step of a node's core, and its actions */
void sim_step(struct sim *s, int node, const struct rpl_event *event)
{
	struct node *n = &s->node[node];
	struct rpl_event ev = *event;
	enum rpl_state was = n->core.state;
	uint32_t inc = n->inc;
	struct rpl_actions out;
	const char *bad = NULL;
	uint64_t deadline;

	if (!n->keeper_up)
		return;
	ev.now_ns = s->now;
	if (ev.kind == RPL_EV_GUEST_DIED)
		n->death_told = true;
	rpl_core_step(&n->core, &ev, &out);
	sim_stats.steps++;
	sim_stats.pairs[was][ev.kind]++;
	say_step(s, node, &ev, &out, was);
	if (s->check)
		bad = rpl_core_check(&n->core);
	if (bad)
		god_broken(s, INV_CHECK, "%c in %s: %s", 'A' + node, rpl_state_name(n->core.state), bad);
	n->want = n->core.want;
	for (unsigned i = 0; i < out.n && n->keeper_up && n->inc == inc; i++) {
		if (n->trap_action == (int)out.a[i].kind)
			fault_trap(s, node, &out.a[i], true);
		if (!n->keeper_up || n->inc != inc)
			break;
		shell_act(s, node, &out.a[i]);
		if (n->trap_action == (int)out.a[i].kind)
			fault_trap(s, node, &out.a[i], false);
	}
	god_watch(s, node);
	if (!n->keeper_up || n->inc != inc)
		return;
	deadline = rpl_core_deadline(&n->core);
	if (deadline != NEVER && deadline != n->armed_deadline) {
		n->armed_deadline = deadline;
		sim_after(s, deadline > s->now ? deadline - s->now : 0, IT_DEADLINE, node);
	}
}

/* ---- what comes up */
static void deadline_comes(struct sim *s, const struct item *it)
{
	struct node *n = &s->node[it->node];
	struct rpl_event ev = { .kind = RPL_EV_TIMER };

	if (n->armed_deadline <= it->t)
		n->armed_deadline = 0;
	if (rpl_core_deadline(&n->core) <= s->now)
		sim_step(s, it->node, &ev);
}

/* A keeper's own work dies with it; a stopped host does it later. Returns false when there is nothing to do now. */
static bool belongs(struct sim *s, struct item *it)
{
	struct node *n = &s->node[it->node];

	switch (it->kind) {
	case IT_FAULT:
	case IT_MEND:
	case IT_ARBITER:
	case IT_CONN_DEAD:
		return true;
	case IT_RESTART:
		break;
	case IT_TICK:
	case IT_SYNC:
		if (!n->host_up)
			return false;
		break;
	case IT_WIRE:
		if (!n->keeper_up)
			return false;
		break;
	default:
		if (!n->keeper_up || it->inc != n->inc)
			return false;
	}
	if (n->stopped_until > s->now) {
		struct item *later = sim_after(s, n->stopped_until - s->now, (enum item_kind)it->kind, it->node);
		uint64_t t = later->t;
		uint32_t seq = later->seq;

		*later = *it;
		later->t = t;
		later->seq = seq;
		return false;
	}
	return true;
}

static void happen(struct sim *s, struct item *it)
{
	if (!belongs(s, it))
		return;
	switch ((enum item_kind)it->kind) {
	case IT_EVENT:
		sim_step(s, it->node, &it->ev);
		break;
	case IT_DEADLINE:
		deadline_comes(s, it);
		break;
	case IT_TICK:
		shell_tick(s, it->node);
		break;
	case IT_SYNC:
		shell_synced(s, it);
		break;
	case IT_DO:
		shell_slow_part(s, it);
		break;
	case IT_ARBITER:
		arbiter_serve(s, it);
		break;
	case IT_ARB_REPLY:
		arbiter_reply(s, it);
		break;
	case IT_WIRE:
		wire_arrives(s, it);
		break;
	case IT_CONNECT:
		wire_connect(s, it);
		break;
	case IT_CONN_DEAD:
		wire_dead(s, it);
		break;
	case IT_BEAT:
		wire_beat(s, it);
		break;
	case IT_FAULT:
		fault_happens(s);
		break;
	case IT_MEND:
		fault_mend(s, it);
		break;
	case IT_RESTART:
		if (s->node[it->node].inc == it->a && !s->node[it->node].keeper_up && !(s->quiet && s->quiet_without == it->node))
			sim_up(s, it->node, it->flag);
		break;
	}
}

static void run_until(struct sim *s, uint64_t t, bool (*enough)(const struct sim *))
{
	while (s->heaps && !s->broken && s->items[s->heap[0]].t <= t) {
		uint32_t x = heap_pop(s);
		struct item it = s->items[x];

		s->free[s->frees++] = x;
		s->now = it.t;
		happen(s, &it);
		if (enough && enough(s))
			return;
	}
	if (!s->broken)
		s->now = t;
}

/* ---- beginnings */
static void configure(struct sim *s, int node, struct rpl_core_conf *f)
{
	static const uint32_t held[] = { 1, 2, 4, UINT32_MAX }; /* 4: netbuf plug's */

	memset(f, 0, sizeof(*f));
	f->self[0] = (char)('A' + node);
	f->peer[0] = (char)('B' - node);
	f->vm.b[0] = 1;
	f->store = s->store;
	f->durability = s->store ? (enum rpl_durability)(s->seed / 3 % 3) : RPL_DURABLE_MEMORY;
	f->on_crash = s->seed % 5 == 0 ? RPL_CRASH_DOWN : RPL_CRASH_KEEP;
	f->auto_claim = s->seed % 16 != 7;
	f->auto_cold = true;
	f->reprotect = s->seed % 8 != 1;
	f->max_uncommitted = 1 + (uint32_t)(s->seed / 2 % 4);
	f->max_held = held[s->seed / 8 % RPL_ARRAY_LEN(held)];
	f->interval_ns = 50 * MS;
	f->stall_ns = 100 * MS;
	f->suspect_ns = 300 * MS;
	f->takeover_delay_ns = 200 * MS;
	f->arm_timeout_ns = 300 * MS;
	f->drain_timeout_ns = 500 * MS;
	f->retry_ns = 60 * MS;
	f->cold_delay_ns = 900 * MS;
}

/* A host or only its keeper comes up and finds what is left. */
void sim_up(struct sim *s, int node, bool host)
{
	struct node *n = &s->node[node];
	struct rpl_core_conf f;
	struct rpl_uuid seed = { { 0 } };
	struct rpl_err err;

	if (host)
		n->host_up = true;
	if (!n->host_up)
		return;
	n->inc++;
	n->keeper_up = true;
	n->armed_deadline = 0;
	n->trap_action = -1;
	configure(s, node, &f);
	rpl_assert(rpl_core_conf_check(&f, &err) == 0);
	seed.b[0] = (uint8_t)(0x10 + node);
	seed.b[1] = (uint8_t)n->inc;
	seed.b[2] = (uint8_t)(n->inc >> 8);
	rpl_core_init(&n->core, &f, &seed);
	n->core.now_ns = s->now;
	sim_say(s, "%c starts", 'A' + node);
	shell_start(s, node);
}

static void begin(struct sim *s, uint64_t seed, bool verbose, bool check)
{
	uint64_t x = seed;

	memset(s, 0, offsetof(struct sim, items));
	s->seed = seed;
	s->verbose = verbose;
	s->check = check;
	s->rng[0] = splitmix(&x);
	s->rng[1] = splitmix(&x);
	s->heaps = s->seq = s->frees = 0;
	for (uint32_t i = 0; i < ITEMS; i++)
		s->free[s->frees++] = i;
	s->now = 1000 * MS;
	s->store = (enum rpl_store)(seed % 3);
	s->arb_up = true;
	s->brs = 1;
	s->br[0].fork = NEVER;
	s->quiet_without = -1;
	for (int i = 0; i < 2; i++) {
		struct node *n = &s->node[i];

		n->trap_action = -1;
		n->disk.branch = i == 0 ? 0 : -1;
		n->rep_branch = -1;
	}
	s->node[0].guest = GUEST_RUNS;
	s->node[0].ours = s->node[0].out_open = s->node[0].want = true;
	sim_after(s, 5 * MS, IT_TICK, 0);
	sim_up(s, 0, true);
	sim_up(s, 1, true);
	fault_begin(s);
}

static bool recovered(const struct sim *s)
{
	return s->vm_down || god_running(s);
}

/* A claim is under way, or the guest's death is still on its way to a host that was stopped. */
static bool unsettled(const struct node *n)
{
	return n->keeper_up && (n->core.claim != RPL_CLAIM_NONE || (n->guest == GUEST_GONE && !n->death_told));
}

enum invariant sim_run(struct sim *s, uint64_t seed, bool verbose, bool check)
{
	bool hope;

	begin(s, seed, verbose, check);
	s->faults_until = s->now + (2000 + sim_rand(s, RUN_MS - 2000)) * MS;
	run_until(s, s->faults_until, NULL);
	if (s->broken)
		return s->broken;
	s->quiet = true;
	fault_heal_all(s);
	do /* what is under way arrives, claims above all */
		run_until(s, s->now + SETTLE_MS * MS, NULL);
	while (!s->broken && s->now < s->faults_until + 3000 * MS &&
	       (unsettled(&s->node[0]) || unsettled(&s->node[1])));
	hope = god_hope(s);
	if (hope && !s->broken)
		run_until(s, s->now + QUIET_MS * MS, recovered);
	if (!s->broken && hope && !recovered(s))
		god_broken(s, INV_I10, "nobody runs the guest %d ms after the last fault: A %s, B %s", QUIET_MS,
			   rpl_state_name(s->node[0].core.state), rpl_state_name(s->node[1].core.state));
	if (hope)
		sim_stats.recovered++;
	else
		sim_stats.hopeless++;
	return s->broken;
}
