/* What a keeper does: the core's actions, carried out with delays on a host that may be slow, and their answers. */
#include <string.h>

#include <replicad/err.h>

#include "sim.h"

static struct rpl_event event(enum rpl_event_kind kind)
{
	struct rpl_event ev;

	memset(&ev, 0, sizeof(ev));
	ev.kind = kind;
	return ev;
}

static void answer(struct sim *s, int node, uint64_t delay_ns, enum rpl_event_kind kind)
{
	struct rpl_event ev = event(kind);

	sim_event(s, node, delay_ns, &ev);
}

static void store_failed(struct sim *s, int node, enum rpl_action_kind action)
{
	struct rpl_event ev = event(RPL_EV_STORE_FAILED);

	ev.u.failed.action = action;
	sim_event(s, node, sim_rand(s, 8 * MS), &ev);
}

static uint64_t some_ms(struct sim *s, uint64_t from, uint64_t to)
{
	return (from + sim_rand(s, to - from + 1)) * MS + sim_rand(s, MS);
}

static uint64_t disk_time(struct sim *s, int node)
{
	return s->node[node].slow_disk ? some_ms(s, 50, 400) : some_ms(s, 0, 6);
}

/* The slow part of an action: `delay` from now, unless the keeper dies first. */
static struct item *slowly(struct sim *s, int node, uint64_t delay, const struct rpl_action *a, uint64_t epoch)
{
	struct item *it = sim_after(s, delay, IT_DO, node);

	it->act = (uint8_t)a->kind;
	it->epoch = epoch;
	it->a = it->b = 0;
	return it;
}

/* ---- the guest and its output */
static void emit_to(struct sim *s, int node, uint64_t ver)
{
	struct node *n = &s->node[node];

	if (ver <= n->emitted)
		return;
	n->emitted = ver;
	god_emit(s, n->branch, ver);
}

static void guest_begins(struct sim *s, int node, uint64_t ver)
{
	struct node *n = &s->node[node];

	n->guest = GUEST_RUNS;
	n->branch = s->auth;
	n->ver = n->emitted = ver;
	n->ours = n->out_open = true;
	n->overlay = n->down = n->death_told = false;
	n->hold_token++;
	n->life++;
	n->own.any = false;
	n->disk.branch = s->store ? n->branch : n->disk.branch;
	n->disk.lo = n->disk.synced = n->disk.hi = ver;
	n->disk.dirty = false;
	sim_after(s, some_ms(s, 1, 10), IT_TICK, node);
	answer(s, node, some_ms(s, 1, 5), RPL_EV_GUEST_RUNNING);
}

void shell_tick(struct sim *s, int node)
{
	struct node *n = &s->node[node];

	if (n->guest == GUEST_GONE || n->down)
		return;
	sim_after(s, some_ms(s, 8, 25), IT_TICK, node);
	if (n->guest == GUEST_PAUSED)
		return;
	n->ver++;
	if (n->overlay)
		return;
	if (!s->store) {
		if (n->out_open)
			emit_to(s, node, n->ver);
		return;
	}
	n->disk.lo = n->disk.hi = n->ver; /* written, in some cache; the packet waits for the guest's own FLUSH */
	if (n->mirror)
		s->node[!node].disk.lo = s->node[!node].disk.hi = n->ver;
	{
		struct item *it = sim_after(s, disk_time(s, node), IT_SYNC, node);

		it->a = n->ver;
		it->b = (uint64_t)n->branch;
		it->flag = n->mirror;
	}
}

static void sync_disk(struct disk *d, int branch, uint64_t ver)
{
	if (d->branch == branch && ver > d->synced && ver <= d->lo)
		d->synced = ver;
}

void shell_synced(struct sim *s, const struct item *it)
{
	struct node *n = &s->node[it->node];

	sync_disk(&n->disk, (int)it->b, it->a);
	if (it->flag)
		sync_disk(&s->node[!it->node].disk, (int)it->b, it->a);
	if (n->out_open && n->guest != GUEST_GONE && n->branch == (int)it->b)
		emit_to(s, it->node, it->a);
}

void shell_guest_gone(struct sim *s, int node)
{
	struct node *n = &s->node[node];

	(void)s;
	n->guest = GUEST_GONE;
	n->ours = false;
}

/* ---- dying */
static void mover_gone(struct sim *s, int node)
{
	struct node *n = &s->node[node];

	n->trying = n->mirror = false;
	if (s->node[!node].trying)
		s->node[!node].mirror = false;
}

void shell_keeper_dies(struct sim *s, int node)
{
	struct node *n = &s->node[node];

	n->keeper_up = false;
	mover_gone(s, node);
	wire_break(s, false);
}

static void power_lost(struct disk *d)
{
	if (d->lo > d->synced) {
		d->hi = d->lo > d->hi ? d->lo : d->hi; /* some of it may have reached the platters */
		d->lo = d->synced;
	}
}

void shell_host_dies(struct sim *s, int node)
{
	struct node *n = &s->node[node];

	shell_keeper_dies(s, node);
	n->host_up = false;
	n->inc++;
	n->stopped_until = 0;
	n->guest = GUEST_GONE;
	n->ours = n->out_open = n->overlay = n->rep_ok = n->down = false;
	n->rep_branch = -1;
	power_lost(&n->disk);
	n->journal.to = n->journal.synced;
	n->own.to = n->own.synced;
}

void shell_start(struct sim *s, int node)
{
	struct node *n = &s->node[node];
	struct rpl_event ev = event(RPL_EV_START);
	bool guest = n->guest != GUEST_GONE && !n->down;

	n->death_told = !guest;
	ev.u.start.guest = !guest ? RPL_FOUND_NONE : n->guest == GUEST_PAUSED ? RPL_FOUND_PAUSED : RPL_FOUND_RUNNING;
	ev.u.start.memory_ours = n->ours;
	ev.u.start.output_open = n->out_open;
	ev.u.start.want = n->want;
	ev.u.start.replica = n->rep_ok;
	ev.u.start.session = n->rep_session;
	ev.u.start.epoch = n->rep_ok ? n->rep_acked : n->top_epoch;
	sim_after(s, 50 * MS, IT_BEAT, node);
	sim_step(s, node, &ev);
}

/* ---- checkpoints */
static void captured(struct sim *s, int node, const struct item *it)
{
	struct node *n = &s->node[node];
	struct rpl_event ev = event(RPL_EV_CAPTURED);
	uint64_t e = it->epoch;

	if (n->guest == GUEST_GONE || n->down)
		return; /* another event tells */
	if (it->flag) {
		if (n->guest == GUEST_PAUSED)
			n->guest = GUEST_RUNS;
		ev.kind = RPL_EV_CAPTURE_FAILED;
	} else {
		n->ver_of[e % EPOCHS] = n->ver;
		n->top_epoch = e > n->top_epoch ? e : n->top_epoch;
		if (!it->a)
			n->guest = GUEST_RUNS;
		wire_send(s, node, M_CHECKPOINT, &n->session, e, n->ver);
		if (n->core.conf.durability == RPL_DURABLE_BOTH && s->store) {
			struct rpl_action journal = { .kind = RPL_ACT_RELEASE }; /* any tag of ours will do: see slow part */

			slowly(s, node, disk_time(s, node), &journal, e);
		}
	}
	ev.u.epoch.epoch = e;
	sim_step(s, node, &ev);
}

static void journaled(struct sim *s, int node, uint64_t e)
{
	struct node *n = &s->node[node];
	struct rpl_event ev = event(RPL_EV_JOURNALED);

	if (!n->own.any || n->ver_of[e % EPOCHS] < n->own.from)
		return;
	if (n->own.synced < n->ver_of[e % EPOCHS])
		n->own.to = n->own.synced = n->ver_of[e % EPOCHS]; /* one file: a later epoch's sync covers the earlier */
	ev.u.epoch.epoch = e;
	sim_step(s, node, &ev);
}

static void held(struct sim *s, int node, const struct item *it)
{
	struct node *n = &s->node[node];
	struct rpl_event ev = event(RPL_EV_HELD);

	if (it->a != n->hold_token)
		return;
	if (!n->overlay && n->guest != GUEST_GONE && s->store) { /* block I/O is drained first */
		n->disk.lo = n->disk.synced = n->disk.hi = n->ver;
		if (n->mirror)
			s->node[!node].disk.lo = s->node[!node].disk.synced = s->node[!node].disk.hi = n->ver;
	}
	if (n->out_open && n->guest != GUEST_GONE)
		emit_to(s, node, n->ver); /* the backlog */
	n->out_open = false;
	n->overlay = true;
	n->overlay_session = n->session;
	ev.u.held.epoch = it->epoch;
	ev.u.held.in_sync = !s->store || n->mirror;
	n->mirror = false;
	n->disk.dirty = s->store != RPL_STORE_NONE;
	n->disk.session = n->session;
	n->own = (struct journal){ .any = n->core.conf.durability == RPL_DURABLE_BOTH, .session = n->session,
				   .branch = n->branch, .from = n->ver, .to = n->ver, .synced = n->ver };
	sim_step(s, node, &ev);
}

static void opened(struct sim *s, int node, const struct item *it)
{
	struct node *n = &s->node[node];
	struct rpl_event ev = event(RPL_EV_OPENED);

	if (it->a != n->hold_token)
		return;
	if (s->store && (n->overlay || n->guest != GUEST_GONE)) /* an overlay drains without its guest, too */
		n->disk.lo = n->disk.synced = n->disk.hi = n->ver;
	n->disk.dirty = n->overlay = n->own.any = false;
	n->out_open = true;
	if (n->guest != GUEST_GONE)
		emit_to(s, node, n->ver);
	sim_step(s, node, &ev);
}

static void hold(struct sim *s, int node, const struct rpl_action *a)
{
	struct node *n = &s->node[node];
	uint64_t delay = n->fail_hold ? some_ms(s, 400, 900) : some_ms(s, 1, 10);

	n->fail_hold = false;
	slowly(s, node, delay, a, a->u.epoch.epoch)->a = ++n->hold_token;
}

/* ---- stores */
static void flush_begins(struct sim *s, int node, const struct rpl_action *a)
{
	struct node *n = &s->node[node];
	uint64_t ver = n->ver_of[a->u.epoch.epoch % EPOCHS];

	if (n->disk.hi < ver)
		n->disk.hi = ver;
	if (s->store == RPL_STORE_DRBD && !s->store_cut && !s->node[!node].store_cut) {
		struct disk *peer = &s->node[!node].disk;

		if (peer->branch == n->branch && peer->hi < ver)
			peer->hi = ver;
	}
	n->flush_broken_seq = s->store_breaks;
	slowly(s, node, disk_time(s, node), a, a->u.epoch.epoch);
}

static void flush_ends(struct sim *s, int node, const struct item *it)
{
	struct node *n = &s->node[node], *p = &s->node[!node];
	uint64_t ver = n->ver_of[it->epoch % EPOCHS];
	struct rpl_event ev = event(RPL_EV_FLUSHED);

	if (n->disk.lo < ver)
		n->disk.lo = ver;
	n->disk.synced = n->disk.lo;
	if (n->own.any && n->own.from < ver)
		n->own.from = ver;
	ev.u.flushed.epoch = it->epoch;
	if (s->store == RPL_STORE_DRBD && !s->store_cut && !p->store_cut && p->disk.branch == n->branch &&
	    n->flush_broken_seq == s->store_breaks && n->disk.branch == n->branch) {
		/* whatever an earlier break left out was resynced when the link came back: see wire_store_cut() */
		if (p->disk.lo < ver)
			p->disk.lo = ver;
		p->disk.synced = p->disk.lo;
		ev.u.flushed.peer_has = true;
	}
	sim_step(s, node, &ev);
}

static void redo_applied(struct sim *s, int node, const struct item *it)
{
	struct node *n = &s->node[node];
	struct rpl_event ev = event(RPL_EV_REDO_APPLIED);
	uint64_t ver = n->rep_ver[it->epoch % EPOCHS];

	if (n->rep_branch < 0 || !rpl_uuid_equal(&it->session, &n->rep_session))
		return;
	if (n->disk.lo < ver)
		n->disk.lo = ver;
	n->disk.synced = n->disk.lo;
	ev.u.epoch.epoch = it->epoch;
	sim_step(s, node, &ev);
}

static void redo_apply(struct sim *s, int node, const struct rpl_action *a)
{
	struct node *n = &s->node[node];
	uint64_t ver = n->rep_ver[a->u.epoch.epoch % EPOCHS];

	if (n->disk.hi < ver)
		n->disk.hi = ver;
	slowly(s, node, disk_time(s, node), a, a->u.epoch.epoch)->session = n->rep_session;
}

static void redo_trim(struct sim *s, int node, uint64_t epoch)
{
	struct node *n = &s->node[node];
	uint64_t ver = n->rep_ver[epoch % EPOCHS];

	(void)s;
	if (n->rep_from < ver)
		n->rep_from = ver;
	if (n->journal.any && rpl_uuid_equal(&n->journal.session, &n->rep_session) && n->journal.from < ver)
		n->journal.from = ver < n->journal.to ? ver : n->journal.to;
}

static bool fails(struct sim *s, bool *flag)
{
	(void)s;
	if (!*flag)
		return false;
	*flag = false;
	return true;
}

/* The version that an activation of the replica resumes from: epochs that were acked without being whole count for
 * nothing, they are what R9 is about. */
static uint64_t replica_version(const struct node *n, uint64_t epoch)
{
	uint64_t ver = 0;

	for (uint64_t e = epoch; e > 0 && e + EPOCHS / 2 > epoch; e--)
		if (n->rep_valid[e % EPOCHS]) {
			ver = n->rep_ver[e % EPOCHS];
			break;
		}
	return n->rep_branch < 0 ? 0 : ver;
}

/* The standby died under an action, and the core has not been told yet, or has turned elsewhere: the action fails. */
static bool gone_unnoticed(const struct node *n)
{
	return n->rep_branch < 0 && (n->core.complete || n->core.state != RPL_ST_B_PROMOTE);
}

static void store_promote(struct sim *s, int node, const struct item *it)
{
	struct node *n = &s->node[node];
	uint64_t ver = replica_version(n, it->epoch);

	if (fails(s, &n->fail_store) || gone_unnoticed(n)) {
		store_failed(s, node, RPL_ACT_STORE_PROMOTE);
		return;
	}
	god_promote_store(s, node, n->rep_from, ver);
	n->disk.branch = n->rep_branch;
	n->disk.lo = n->disk.synced = n->disk.hi = ver;
	answer(s, node, 0, RPL_EV_STORE_PROMOTED);
}

static void activate(struct sim *s, int node, const struct item *it)
{
	struct node *n = &s->node[node];
	uint64_t ver = replica_version(n, it->epoch);

	if (fails(s, &n->fail_guest) || gone_unnoticed(n)) {
		answer(s, node, 0, RPL_EV_GUEST_FAILED);
		return;
	}
	god_takeover(s, node, ver);
	n->rep_ok = false; /* running changes it: no copy any more */
	n->top_epoch = it->epoch;
	guest_begins(s, node, ver);
	n->rep_branch = -1;
}

/* ---- cold start: what is really on these disks? */
static bool covers(const struct journal *j, const struct disk *d)
{
	return j->any && d->branch == j->branch && d->lo >= j->from && d->hi <= j->synced;
}

bool shell_collect(struct sim *s, int node, struct rpl_event *ev, uint64_t *ret_ver, bool *ret_replaces)
{
	struct node *n = &s->node[node], *p = &s->node[!node];
	bool peer = p->host_up && p->stopped_until <= s->now && !s->cut[0] && !s->cut[1];

	*ev = event(RPL_EV_COLLECTED);
	*ret_replaces = false;
	*ret_ver = n->disk.lo;
	ev->u.collected.store_clean = n->disk.branch >= 0 &&
				      (!n->disk.dirty || !rpl_uuid_equal(&n->disk.session, &s->record.session));
	if (ev->u.collected.store_clean) {
		/* nothing to add: redo of an older session over it would undo what came later */
	} else if (n->overlay && n->disk.branch == n->branch) { /* it outlived its guest */
		ev->u.collected.redo_complete = true;
		ev->u.collected.session = n->overlay_session;
		*ret_ver = n->ver;
	} else if (covers(&n->own, &n->disk)) {
		ev->u.collected.redo_complete = true;
		ev->u.collected.session = n->own.session;
		*ret_ver = n->own.synced;
	} else if (covers(&n->journal, &n->disk)) {
		ev->u.collected.redo_complete = true;
		ev->u.collected.session = n->journal.session;
		*ret_ver = n->journal.synced;
	} else if (peer && covers(&p->journal, &p->disk)) {
		ev->u.collected.redo_complete = true;
		ev->u.collected.session = p->journal.session;
		*ret_ver = p->journal.synced;
		*ret_replaces = true;
	}
	return ev->u.collected.redo_complete || ev->u.collected.store_clean;
}

static void collect(struct sim *s, int node)
{
	struct node *n = &s->node[node];
	struct rpl_event ev;

	if (fails(s, &n->fail_store)) {
		store_failed(s, node, RPL_ACT_COLLECT);
		return;
	}
	(void)shell_collect(s, node, &ev, &n->boot_ver, &n->boot_replaces);
	sim_event(s, node, disk_time(s, node), &ev);
}

static void replay(struct sim *s, int node)
{
	struct node *n = &s->node[node];

	if (fails(s, &n->fail_store)) {
		store_failed(s, node, RPL_ACT_REPLAY);
		return;
	}
	if (n->boot_replaces)
		n->disk.branch = s->node[!node].journal.branch;
	n->disk.lo = n->disk.synced = n->disk.hi = n->boot_ver;
	answer(s, node, 0, RPL_EV_REPLAYED);
}

static void boot(struct sim *s, int node)
{
	struct node *n = &s->node[node];

	if (fails(s, &n->fail_guest)) {
		answer(s, node, 0, RPL_EV_GUEST_FAILED);
		return;
	}
	god_boot(s, node, n->boot_ver);
	n->rep_ok = false;
	n->journal.any = false;
	guest_begins(s, node, n->boot_ver);
}

/* ---- the slow parts, when their time has come */
void shell_slow_part(struct sim *s, const struct item *it)
{
	int node = it->node;
	struct node *n = &s->node[node];

	switch ((enum rpl_action_kind)it->act) {
	case RPL_ACT_CHECKPOINT:
		captured(s, node, it);
		break;
	case RPL_ACT_RELEASE: /* stands for the primary's own journal */
		journaled(s, node, it->epoch);
		break;
	case RPL_ACT_SESSION_START: /* RAM and store are copied */
		wire_copied(s, it);
		break;
	case RPL_ACT_ACK: /* stands for an epoch's last byte reaching staging and journal */
		wire_staged(s, it);
		break;
	case RPL_ACT_HOLD:
		held(s, node, it);
		break;
	case RPL_ACT_OPEN:
		opened(s, node, it);
		break;
	case RPL_ACT_FLUSH:
		flush_ends(s, node, it);
		break;
	case RPL_ACT_REDO_APPLY:
		redo_applied(s, node, it);
		break;
	case RPL_ACT_GUEST_KILL:
		if (it->a == n->life)
			shell_guest_gone(s, node);
		answer(s, node, 0, RPL_EV_GUEST_KILLED);
		break;
	case RPL_ACT_GUEST_POWERDOWN:
		if (n->guest != GUEST_GONE && !n->down) {
			n->down = true;
			answer(s, node, 0, RPL_EV_GUEST_SHUTDOWN);
		}
		break;
	case RPL_ACT_STORE_PROMOTE:
		store_promote(s, node, it);
		break;
	case RPL_ACT_GUEST_ACTIVATE:
		activate(s, node, it);
		break;
	case RPL_ACT_STORE_DISCARD:
		if (fails(s, &n->fail_store)) {
			store_failed(s, node, RPL_ACT_STORE_DISCARD);
			break;
		}
		god_discard(s, node, "STORE_DISCARD");
		n->disk.branch = -1;
		n->own.any = n->journal.any = false;
		answer(s, node, 0, RPL_EV_STORE_DISCARDED);
		break;
	case RPL_ACT_REPLAY:
		replay(s, node);
		break;
	case RPL_ACT_GUEST_BOOT:
		boot(s, node);
		break;
	case RPL_ACT_GUEST_LOOK:
		answer(s, node, 0, fails(s, &n->fail_guest) ? RPL_EV_GUEST_UNFIT : RPL_EV_GUEST_FIT);
		break;
	default:
		break;
	}
}

/* ---- the actions */
static void checkpoint(struct sim *s, int node, const struct rpl_action *a)
{
	struct node *n = &s->node[node];
	struct item *it = slowly(s, node, some_ms(s, 1, 8), a, a->u.checkpoint.epoch);

	if (n->guest == GUEST_RUNS)
		n->guest = GUEST_PAUSED;
	it->a = a->u.checkpoint.stay_paused;
	it->flag = fails(s, &n->fail_capture);
}

static void accept_session(struct sim *s, int node, const struct rpl_uuid *session)
{
	struct node *n = &s->node[node];

	if (s->store) {
		god_discard(s, node, "resync over its store");
		n->disk.branch = -1; /* until the resync is through */
		n->disk.dirty = true;
		n->disk.session = *session;
	}
	n->journal = (struct journal){ .any = false };
	n->rep_session = *session;
	n->rep_ok = n->rep_frozen = n->store_cut = n->rep_base = false;
	n->rep_branch = -1;
	n->rep_acked = n->rep_staged = n->rep_from = n->last_ack = 0;
	memset(n->rep_valid, 0, sizeof(n->rep_valid));
	wire_send(s, node, M_ACCEPT, session, 0, 0);
}

static void forget(struct sim *s, int node)
{
	struct node *n = &s->node[node];

	n->rep_ok = n->rep_frozen = false;
	n->rep_branch = -1;
	n->store_cut = true; /* nothing more reaches our store behind our back */
	wire_break(s, true);
}

static void end_session(struct sim *s, int node)
{
	struct node *n = &s->node[node];

	n->trying = n->mirror = n->synced = false;
	wire_break(s, false);
}

/* What its hello would say: the mover holds no replica of it, and the record is still of a generation that the peer knows. */
static bool holds_nothing(const struct sim *s, int node, const struct rpl_uuid *session)
{
	const struct node *n = &s->node[node];

	return !(n->rep_ok && rpl_uuid_equal(&n->rep_session, session)) && s->have_record && s->record.owner[0] == 'A' + !node;
}

void shell_act(struct sim *s, int node, const struct rpl_action *a)
{
	struct node *n = &s->node[node];
	struct item *it;

	switch (a->kind) {
	case RPL_ACT_READ_RECORD:
	case RPL_ACT_CLAIM:
		arbiter_ask(s, node, a);
		if (a->kind == RPL_ACT_CLAIM)
			fault_claim(s, node, a);
		break;
	case RPL_ACT_SESSION_START:
		n->trying = true;
		n->synced = n->linked = false;
		n->session = a->u.session.session;
		n->session_gen = a->u.session.generation;
		it = sim_after(s, some_ms(s, 1, 5), IT_CONNECT, node);
		it->session = n->session;
		break;
	case RPL_ACT_SESSION_RESEND:
		for (uint64_t e = a->u.epoch.epoch + 1; e <= n->core.sealed; e++)
			wire_send(s, node, M_CHECKPOINT, &n->session, e, n->ver_of[e % EPOCHS]);
		break;
	case RPL_ACT_SESSION_END:
		end_session(s, node);
		break;
	case RPL_ACT_SEND_HANDOVER:
		wire_send(s, node, M_HANDOVER, &a->u.link.session, a->u.link.epoch, 0);
		break;
	case RPL_ACT_SEND_FORGET:
		wire_send(s, node, M_FORGET, &a->u.session.session, 0, 0);
		break;
	case RPL_ACT_TELL_FLUSHED:
		wire_send(s, node, M_FLUSHED, &a->u.link.session, a->u.link.epoch, 0);
		break;
	case RPL_ACT_HOLD:
		hold(s, node, a);
		break;
	case RPL_ACT_CHECKPOINT:
		checkpoint(s, node, a);
		break;
	case RPL_ACT_RELEASE:
		emit_to(s, node, n->ver_of[a->u.epoch.epoch % EPOCHS]);
		break;
	case RPL_ACT_OPEN:
		slowly(s, node, s->store ? disk_time(s, node) : 0, a, 0)->a = ++n->hold_token;
		break;
	case RPL_ACT_DROP_OUTPUT:
		n->out_open = false;
		n->hold_token++;
		n->emitted = n->ver;
		break;
	case RPL_ACT_FLUSH:
		flush_begins(s, node, a);
		break;
	case RPL_ACT_GUEST_PAUSE:
		if (n->guest == GUEST_RUNS)
			n->guest = GUEST_PAUSED;
		break;
	case RPL_ACT_GUEST_RESUME:
		if (n->guest == GUEST_PAUSED)
			n->guest = GUEST_RUNS;
		break;
	case RPL_ACT_GUEST_KILL:
	case RPL_ACT_GUEST_POWERDOWN:
	case RPL_ACT_GUEST_ACTIVATE:
	case RPL_ACT_GUEST_BOOT:
	case RPL_ACT_GUEST_LOOK:
	case RPL_ACT_STORE_DISCARD:
	case RPL_ACT_REPLAY:
	case RPL_ACT_STORE_PROMOTE:
		slowly(s, node, some_ms(s, 1, 15), a, a->u.epoch.epoch)->a = n->life;
		break;
	case RPL_ACT_SESSION_ACCEPT:
		accept_session(s, node, &a->u.session.session);
		break;
	case RPL_ACT_SESSION_CONTINUE:
		wire_send(s, node, M_CONTINUE, &a->u.link.session, a->u.link.epoch, 0);
		break;
	case RPL_ACT_SESSION_REFUSE:
		wire_send(s, node, M_REFUSE, &a->u.session.session, holds_nothing(s, node, &a->u.session.session), 0);
		break;
	case RPL_ACT_ACK:
		god_ack(s, node, &a->u.link.session, a->u.link.epoch);
		n->rep_acked = n->last_ack = a->u.link.epoch;
		n->rep_ok = true;
		wire_send(s, node, M_ACK, &a->u.link.session, a->u.link.epoch, 0);
		break;
	case RPL_ACT_REDO_APPLY:
		redo_apply(s, node, a);
		break;
	case RPL_ACT_REDO_TRIM:
		redo_trim(s, node, a->u.epoch.epoch);
		break;
	case RPL_ACT_FREEZE:
		n->rep_frozen = n->store_cut = true;
		wire_break(s, true);
		answer(s, node, some_ms(s, 1, 20), RPL_EV_FROZEN);
		break;
	case RPL_ACT_FORGET_REPLICA:
		forget(s, node);
		break;
	case RPL_ACT_COLLECT:
		collect(s, node);
		break;
	case RPL_ACT_REPLY:
	case RPL_ACT_STATE:
	case RPL_ACT_ALARM:
	case RPL_ACT_ANNOUNCE:
	case RPL_ACT_N:
		break;
	}
}
