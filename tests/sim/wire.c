/* The replication connection, the store link and the arbiter. */
#include <string.h>

#include "sim.h"

#define ARBITER_TIMEOUT (80 * MS)
#define ANSWER_TIMEOUT (2000 * MS) /* the mover's patience with a handshake */

static struct rpl_event event(enum rpl_event_kind kind)
{
	struct rpl_event ev;

	memset(&ev, 0, sizeof(ev));
	ev.kind = kind;
	return ev;
}

static uint64_t wire_time(struct sim *s)
{
	return MS / 5 + sim_rand(s, sim_chance(s, 5) ? 40 * MS : 2 * MS);
}

/* ---- the connection: messages of one direction stay in order; one that is lost breaks it, as TCP would */
static struct item *put_on_wire(struct sim *s, int from, enum message msg, const struct rpl_uuid *session, uint64_t epoch,
				uint64_t ver, uint64_t t)
{
	struct item *it = sim_after(s, t - s->now, IT_WIRE, !from);

	it->msg = (uint8_t)msg;
	it->conn = s->conn;
	it->session = *session;
	it->epoch = epoch;
	it->a = ver;
	it->b = s->node[from].session_gen;
	it->flag = s->node[from].linked;
	return it;
}

void wire_send(struct sim *s, int from, enum message msg, const struct rpl_uuid *session, uint64_t epoch, uint64_t ver)
{
	uint64_t t = s->now + wire_time(s);

	if (!s->conn_up)
		return;
	if (s->cut[from]) {
		struct item *it = sim_after(s, (40 + sim_rand(s, 200)) * MS, IT_CONN_DEAD, from);

		it->conn = s->conn;
		it->flag = true;
		it->msg = M_BEAT;
		return;
	}
	if (t <= s->wire_free[from])
		t = s->wire_free[from] + 1;
	s->wire_free[from] = t;
	(void)put_on_wire(s, from, msg, session, epoch, ver, t);
	if (s->duplicate && sim_chance(s, 30))
		(void)put_on_wire(s, from, msg, session, epoch, ver, t + sim_rand(s, 60 * MS));
}

/* The connection is no more; each end notices in its own time. */
void wire_break(struct sim *s, bool at_once)
{
	s->node[0].mirror = s->node[1].mirror = false;
	if (!s->conn_up)
		return;
	s->conn_up = false;
	for (int i = 0; i < 2; i++) {
		struct item *it = sim_after(s, sim_rand(s, at_once ? 3 * MS : 30 * MS), IT_CONN_DEAD, i);

		it->conn = s->conn;
		it->flag = false;
	}
}

static void try_to_connect(struct sim *s, int node, uint64_t delay)
{
	sim_after(s, delay, IT_CONNECT, node)->session = s->node[node].session;
}

void wire_dead(struct sim *s, const struct item *it)
{
	struct node *n = &s->node[it->node];
	struct rpl_event ev = event(RPL_EV_LINK_DOWN);

	if (it->flag) { /* a message was lost for good, or (M_ACCEPT) the first answer did not come */
		if (it->conn == s->conn && (it->msg != M_ACCEPT || !n->linked))
			wire_break(s, false);
		return;
	}
	if (n->keeper_up && !n->trying && it->inc == n->inc && it->conn == s->conn)
		sim_event(s, it->node, 0, &ev); /* the backup's end */
	if (!n->keeper_up || !n->trying)
		return;
	if (it->inc == n->inc)
		sim_event(s, it->node, 0, &ev);
	try_to_connect(s, it->node, (10 + sim_rand(s, 40)) * MS);
}

void wire_connect(struct sim *s, const struct item *it)
{
	struct node *n = &s->node[it->node], *p = &s->node[!it->node];
	struct rpl_event ev = event(RPL_EV_CONNECTED);
	struct item *patience;

	if (!n->trying || !rpl_uuid_equal(&it->session, &n->session) || (s->conn_up && s->conn))
		return;
	if (s->cut[0] || s->cut[1] || !p->keeper_up || p->stopped_until > s->now) {
		try_to_connect(s, it->node, (20 + sim_rand(s, 40)) * MS);
		return;
	}
	s->conn = ++s->conns;
	s->conn_up = true;
	s->wire_free[0] = s->wire_free[1] = s->now;
	sim_event(s, it->node, 0, &ev);
	patience = sim_after(s, ANSWER_TIMEOUT, IT_CONN_DEAD, it->node);
	patience->conn = s->conn;
	patience->flag = true;
	patience->msg = M_ACCEPT;
	wire_send(s, it->node, M_OPEN, &n->session, 0, 0);
}

void wire_beat(struct sim *s, const struct item *it)
{
	static const struct rpl_uuid none;
	struct node *n = &s->node[it->node];

	sim_after(s, 60 * MS, IT_BEAT, it->node);
	if (n->trying || n->core.state == RPL_ST_B_SEED || n->core.state == RPL_ST_B_READY)
		wire_send(s, it->node, M_BEAT, &none, 0, 0);
}

/* ---- the backup's mover: stage epochs in order */
static void stage(struct sim *s, const struct item *it)
{
	struct node *n = &s->node[it->node];
	uint64_t t = s->now + MS / 2 + sim_rand(s, 3 * MS);
	struct item *done;

	if (n->rep_frozen || !rpl_uuid_equal(&it->session, &n->rep_session))
		return;
	if (n->core.conf.durability != RPL_DURABLE_MEMORY && s->store && n->slow_disk)
		t += sim_rand(s, 200 * MS);
	if (t <= n->stage_free)
		t = n->stage_free + 1;
	n->stage_free = t;
	done = sim_after(s, t - s->now, IT_DO, it->node);
	done->act = RPL_ACT_ACK;
	done->session = it->session;
	done->epoch = it->epoch;
	done->a = it->a;
	done->b = 0;
	done->conn = it->conn;
}

static void say_staged(struct sim *s, const struct item *it, uint32_t checks)
{
	struct rpl_event ev = event(RPL_EV_STAGED);

	ev.u.staged.session = it->session;
	ev.u.staged.epoch = it->epoch;
	ev.u.staged.checks = checks;
	sim_event(s, it->node, 0, &ev);
}

static void keep_epoch(struct sim *s, struct node *n, const struct item *it)
{
	if (n->rep_branch < 0) { /* the first one makes the copy whole; writes before it reached our store directly */
		n->rep_branch = s->node[!it->node].branch;
		n->rep_from = it->a < n->disk.lo ? it->a : n->disk.lo;
	}
	n->rep_ver[it->epoch % EPOCHS] = it->a;
	n->rep_valid[it->epoch % EPOCHS] = true;
	n->rep_staged = it->epoch;
	if (n->core.conf.durability == RPL_DURABLE_MEMORY || !s->store)
		return;
	if (!n->journal.any)
		n->journal = (struct journal){ .any = true, .session = it->session, .branch = n->rep_branch,
					       .from = n->rep_from };
	n->journal.to = n->journal.synced = it->a;
}

void wire_staged(struct sim *s, const struct item *it)
{
	struct node *n = &s->node[it->node];
	uint32_t all = RPL_STAGED_WHOLE | RPL_STAGED_DIGEST | RPL_STAGED_SEALED | RPL_STAGED_JOURNALED;

	if (n->rep_frozen || !rpl_uuid_equal(&it->session, &n->rep_session) || (n->rep_staged && it->epoch != n->rep_staged + 1))
		return;
	if (!n->rep_base) {
		say_staged(s, it, all & ~RPL_STAGED_WHOLE);
		return;
	}
	if (n->partial) { /* cut short, or damaged: the mover says so and breaks the connection */
		n->partial = false;
		say_staged(s, it, sim_chance(s, 50) ? all & ~RPL_STAGED_WHOLE : all & ~RPL_STAGED_DIGEST);
		wire_break(s, true);
		return;
	}
	if (sim_chance(s, 3)) /* memory first, the journal later */
		say_staged(s, it, all & ~RPL_STAGED_JOURNALED);
	keep_epoch(s, n, it);
	say_staged(s, it, all);
}

/* ---- the primary's mover */
void wire_copied(struct sim *s, const struct item *it)
{
	struct node *n = &s->node[it->node], *p = &s->node[!it->node];
	struct rpl_event ev = event(RPL_EV_SYNC_READY);

	if (!n->trying || n->synced || it->conn != s->conn || !s->conn_up || !rpl_uuid_equal(&it->session, &n->session))
		return;
	if (s->store == RPL_STORE_DRBD && (s->store_cut || p->store_cut)) {
		struct item *again = sim_after(s, 50 * MS, IT_DO, it->node);
		uint64_t t = again->t;
		uint32_t seq = again->seq;

		*again = *it;
		again->t = t;
		again->seq = seq;
		return;
	}
	if (s->store && rpl_uuid_equal(&p->rep_session, &n->session) && !p->rep_frozen) {
		p->disk.branch = n->branch;
		p->disk.lo = p->disk.synced = p->disk.hi = n->disk.lo;
		p->disk.dirty = true;
		n->mirror = true;
	}
	p->rep_base = rpl_uuid_equal(&p->rep_session, &n->session) && !p->rep_frozen;
	n->synced = true;
	ev.u.session.session = n->session;
	sim_step(s, it->node, &ev);
}

static void connected(struct sim *s, const struct item *it)
{
	struct node *n = &s->node[it->node];
	struct rpl_event ev = event(RPL_EV_LINK_UP);
	bool copying = n->core.state == RPL_ST_P_SYNC;
	struct item *copy;

	ev.u.link.session = it->session;
	ev.u.link.epoch = it->epoch;
	n->linked = true;
	sim_step(s, it->node, &ev);
	if (!copying || !n->keeper_up)
		return;
	n->synced = false;
	copy = sim_after(s, (10 + sim_rand(s, 90)) * MS, IT_DO, it->node);
	copy->act = RPL_ACT_SESSION_START;
	copy->session = n->session;
	copy->conn = s->conn;
}

static bool stale(struct sim *s, const struct item *it)
{
	if (it->conn == s->conn && s->conn_up)
		return false;
	/* the mover had it before the connection broke, its keeper reads it only now */
	return !(s->late && it->msg != M_ACCEPT && it->msg != M_CONTINUE && it->msg != M_REFUSE && sim_chance(s, 50));
}

void wire_arrives(struct sim *s, const struct item *it)
{
	struct node *n = &s->node[it->node];
	struct rpl_event ev = event(RPL_EV_HEARD);

	if (stale(s, it))
		return;
	ev.u.link.session = it->session;
	ev.u.link.epoch = it->epoch;
	switch ((enum message)it->msg) {
	case M_OPEN:
		ev.kind = RPL_EV_SESSION_OPEN;
		ev.u.open.generation = it->b;
		ev.u.open.resume = it->flag;
		break;
	case M_ACCEPT:
	case M_CONTINUE:
		if (n->trying)
			connected(s, it);
		return;
	case M_REFUSE:
		if (!n->trying || !rpl_uuid_equal(&it->session, &n->session))
			return;
		ev.kind = RPL_EV_SESSION_LOST;
		ev.u.lost.session = it->session;
		ev.u.lost.gone = it->epoch != 0;
		break;
	case M_CHECKPOINT:
		stage(s, it);
		break; /* ... and the peer was heard */
	case M_ACK:
		ev.kind = RPL_EV_ACK;
		break;
	case M_FLUSHED:
		ev.kind = RPL_EV_PEER_FLUSHED;
		break;
	case M_HANDOVER:
		ev.kind = RPL_EV_HANDOVER;
		break;
	case M_FORGET:
		ev.kind = RPL_EV_FORGET;
		break;
	case M_BEAT:
		break;
	}
	if (ev.kind == RPL_EV_HEARD)
		ev.u.heard.progress = s->node[!it->node].rep_staged;
	sim_step(s, it->node, &ev);
}

/* ---- the store link (drbd): while it is cut the peer's store stays behind; when it returns it is resynced */
void wire_store_cut(struct sim *s, bool cut)
{
	s->store_breaks++;
	s->store_cut = cut;
	if (s->store == RPL_STORE_DRBD)
		s->node[0].mirror = s->node[1].mirror = false;
	for (int i = 0; i < 2 && !cut && s->store == RPL_STORE_DRBD; i++) {
		struct node *n = &s->node[i], *p = &s->node[!i];

		if (n->guest == GUEST_GONE || !p->host_up || p->store_cut || p->disk.branch != n->branch ||
		    n->disk.branch != n->branch)
			continue;
		if (p->disk.hi < n->disk.hi)
			p->disk.hi = n->disk.hi;
		if (p->disk.lo < n->disk.lo)
			p->disk.lo = p->disk.synced = n->disk.lo;
	}
}

/* ---- the arbiter: linearizable, reached over a network that delays and loses */
void arbiter_ask(struct sim *s, int node, const struct rpl_action *a)
{
	uint32_t id = s->next_req++ % REQUESTS;
	struct request *r = &s->req[id];
	uint64_t delay = s->arb_slow && sim_chance(s, 40) ? sim_rand(s, 300 * MS) : MS / 2 + sim_rand(s, 2 * MS);

	memset(r, 0, sizeof(*r));
	r->node = (uint8_t)node;
	r->inc = s->node[node].inc;
	r->claim = a->kind == RPL_ACT_CLAIM;
	if (r->claim) {
		r->kind = a->u.claim.kind;
		r->create = r->kind == RPL_CLAIM_CREATE;
		r->expect = a->u.claim.expect;
		r->want = a->u.claim.want;
		r->loss = s->node[node].core.accept_loss;
		r->ordered = s->node[node].core.boot_ordered || r->want.mode == RPL_MODE_DOWN;
		r->lose_reply = s->lose_replies > 0 && sim_chance(s, 60);
		if (r->lose_reply)
			s->lose_replies--;
		sim_stats.claims[r->kind]++;
		god_claim_sent(s, node, a);
	}
	sim_after(s, delay, IT_ARBITER, node)->a = id;
	{
		struct item *it = sim_after(s, ARBITER_TIMEOUT, IT_ARB_REPLY, node);

		it->a = id;
		it->b = 1;
	}
}

void arbiter_serve(struct sim *s, const struct item *it)
{
	struct request *r = &s->req[it->a];
	struct item *reply;

	if (!s->arb_up || s->arb_cut[r->node])
		return;
	if (r->claim) {
		bool matches = r->create ? !s->have_record : s->have_record && rpl_record_equal(&s->record, &r->expect);

		if (matches) {
			god_claim_landed(s, r);
			s->record = r->want;
			s->have_record = true;
		}
		r->answer = matches ? RPL_EV_CLAIM_GRANTED : RPL_EV_CLAIM_REFUSED;
	} else {
		r->answer = s->have_record ? RPL_EV_RECORD : RPL_EV_RECORD_ABSENT;
	}
	r->record = s->record;
	if (r->lose_reply || s->arb_cut[r->node])
		return;
	reply = sim_after(s, MS / 2 + sim_rand(s, s->arb_slow ? 60 * MS : 2 * MS), IT_ARB_REPLY, r->node);
	reply->a = it->a;
	reply->b = 0;
	reply->inc = r->inc;
}

void arbiter_reply(struct sim *s, const struct item *it)
{
	struct request *r = &s->req[it->a];
	struct rpl_event ev;

	if (r->done || r->inc != s->node[it->node].inc || r->node != it->node)
		return;
	r->done = true;
	ev = event(it->b ? (r->claim ? RPL_EV_CLAIM_UNKNOWN : RPL_EV_RECORD_UNKNOWN) : r->answer);
	ev.u.record.record = r->record;
	sim_step(s, it->node, &ev);
}
