/* The invariants, seen from above. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "sim.h"

void god_broken(struct sim *s, enum invariant i, const char *fmt, ...)
{
	va_list ap;

	if (s->broken)
		return;
	s->broken = i;
	va_start(ap, fmt);
	(void)vsnprintf(s->why, sizeof(s->why), fmt, ap);
	va_end(ap);
	sim_say(s, "BROKEN %s: %s", sim_invariant_name(i), s->why);
}

/* A packet left: version `ver` of `branch`. */
void god_emit(struct sim *s, int branch, uint64_t ver)
{
	const struct branch *b = &s->br[branch];

	if (branch == s->auth) {
		if (ver > s->maxrel)
			s->maxrel = ver;
	} else if (ver > b->fork && !b->exempt) {
		god_broken(s, INV_I1, "deposed line %d emitted version %" PRIu64 ", its heir resumed from %" PRIu64, branch, ver,
			   b->fork);
	}
}

static bool may_output(const struct node *n)
{
	return n->host_up && n->guest == GUEST_RUNS && n->out_open && !n->down;
}

void god_watch(struct sim *s, int node)
{
	(void)node;
	if (may_output(&s->node[0]) && may_output(&s->node[1]))
		god_broken(s, INV_I2, "both may create output: A %s, B %s", rpl_state_name(s->node[0].core.state),
			   rpl_state_name(s->node[1].core.state));
}

void god_claim_sent(struct sim *s, int node, const struct rpl_action *a)
{
	const struct node *n = &s->node[node];

	if (a->u.claim.kind == RPL_CLAIM_SOLO && n->core.state != RPL_ST_C_CLAIM && n->guest == GUEST_GONE && n->death_told)
		god_broken(s, INV_I5, "%c claims SOLO without the guest's memory", 'A' + node);
}

void god_claim_landed(struct sim *s, const struct request *r)
{
	const struct node *n = &s->node[r->node];

	sim_say(s, "record: g%" PRIu64 " %s owner %c (%s)", r->want.generation, rpl_mode_name((enum rpl_mode)r->want.mode),
		r->want.owner[0], rpl_claim_name(r->kind));
	if (s->have_record && r->want.generation <= s->record.generation)
		god_broken(s, INV_I4, "generation %" PRIu64 " after %" PRIu64, r->want.generation, s->record.generation);
	if (r->want.owner[0] != 'A' + r->node)
		god_broken(s, INV_I4, "%c made %c owner", 'A' + r->node, r->want.owner[0]);
	if (r->want.mode == RPL_MODE_PROTECTED) {
		uint64_t need = s->maxrel;

		if (s->store && n->disk.branch == s->auth && n->disk.hi > need)
			need = n->disk.hi;
		if (!rpl_uuid_equal(&r->want.session, &s->acked_session) || s->acked_ver < need)
			god_broken(s, INV_I8, "PROTECTED, but %c acked only version %" PRIu64 " of %" PRIu64, 'A' + !r->node,
				   rpl_uuid_equal(&r->want.session, &s->acked_session) ? s->acked_ver : 0, need);
	}
	if (s->vm_down && !r->ordered)
		god_broken(s, INV_I11, "%c claims what was shut down on purpose", 'A' + r->node);
	s->vm_down = r->want.mode == RPL_MODE_DOWN;
	s->loss = s->loss || r->loss;
}

void god_ack(struct sim *s, int node, const struct rpl_uuid *session, uint64_t epoch)
{
	struct node *n = &s->node[node];

	if (n->rep_frozen)
		god_broken(s, INV_I6, "%c acked epoch %" PRIu64 " after it froze", 'A' + node, epoch);
	if (epoch <= n->last_ack)
		god_broken(s, INV_I7, "%c acked %" PRIu64 " after %" PRIu64, 'A' + node, epoch, n->last_ack);
	s->acked_session = *session;
	s->acked_ver = n->rep_valid[epoch % EPOCHS] ? n->rep_ver[epoch % EPOCHS] : 0;
}

void god_discard(struct sim *s, int node, const char *what)
{
	if (s->have_record && s->record.owner[0] == 'A' + node)
		god_broken(s, INV_I9, "%c: %s although the record says that it owns generation %" PRIu64, 'A' + node, what,
			   s->record.generation);
}

/* Is `branch` at version `ver` on the line that leads to the authority? */
static bool on_line(const struct sim *s, int branch)
{
	return branch == s->auth;
}

static void new_branch(struct sim *s, uint64_t ver)
{
	s->br[s->auth].fork = ver;
	if (s->brs < BRANCHES - 1)
		s->brs++;
	s->auth = s->brs - 1;
	s->br[s->auth] = (struct branch){ .base = ver, .fork = NEVER };
}

static void not_down(struct sim *s, int node)
{
	if (s->vm_down)
		god_broken(s, INV_I11, "%c starts a guest that was shut down on purpose", 'A' + node);
}

void god_takeover(struct sim *s, int node, uint64_t ver)
{
	const struct node *n = &s->node[node];

	sim_stats.takeovers++;
	sim_say(s, "%c resumes line %d at version %" PRIu64 " (clients saw %" PRIu64 ")", 'A' + node, n->rep_branch, ver, s->maxrel);
	if (n->rep_branch >= 0 && !on_line(s, n->rep_branch))
		god_broken(s, INV_I5, "%c resumes line %d, the authority is %d", 'A' + node, n->rep_branch, s->auth);
	if (ver < s->maxrel)
		god_broken(s, INV_I1, "%c resumes version %" PRIu64 ", clients saw %" PRIu64, 'A' + node, ver, s->maxrel);
	not_down(s, node);
	new_branch(s, ver);
}

/* Redo (from, to] is about to be applied to the store of the heir. */
void god_promote_store(struct sim *s, int node, uint64_t from, uint64_t to)
{
	const struct node *n = &s->node[node];

	if (n->disk.branch != n->rep_branch)
		god_broken(s, INV_I3, "%c: store of line %d under a replica of line %d", 'A' + node, n->disk.branch, n->rep_branch);
	else if (n->disk.hi > to)
		god_broken(s, INV_I3, "%c: store ahead at %" PRIu64 ", replica %" PRIu64, 'A' + node, n->disk.hi, to);
	else if (n->disk.lo < from)
		god_broken(s, INV_I3, "%c: store at %" PRIu64 ", redo begins after %" PRIu64, 'A' + node, n->disk.lo, from);
}

void god_boot(struct sim *s, int node, uint64_t ver)
{
	struct node *n = &s->node[node];

	sim_stats.cold_boots++;
	sim_say(s, "%c boots from disk, line %d at version %" PRIu64 " (clients saw %" PRIu64 ")", 'A' + node, n->disk.branch, ver,
		s->maxrel);
	if (s->loss) {
		s->br[s->auth].exempt = true;
	} else {
		if (!on_line(s, n->disk.branch))
			god_broken(s, INV_I3, "%c boots a disk of line %d, the authority is %d", 'A' + node, n->disk.branch, s->auth);
		if (ver < s->maxrel)
			god_broken(s, INV_I3, "%c boots version %" PRIu64 ", clients saw %" PRIu64, 'A' + node, ver, s->maxrel);
	}
	not_down(s, node);
	new_branch(s, ver);
	if (s->loss)
		s->maxrel = ver;
	s->loss = false;
	n->disk.branch = s->auth;
}

/* ---- I10: is there something from which the guest can go on, and does it? */
static bool present(const struct sim *s, int node)
{
	return s->node[node].keeper_up && s->quiet_without != node;
}

bool god_hope(struct sim *s)
{
	bool hope = false;

	if (s->vm_down || !s->have_record)
		return s->vm_down;
	for (int i = 0; i < 2; i++) {
		struct node *n = &s->node[i];
		bool owner = s->record.owner[0] == 'A' + i;
		struct rpl_event ev;
		uint64_t ver;
		bool replaces;

		if (!present(s, i) || !n->core.conf.auto_claim)
			continue;
		if (owner && n->guest != GUEST_GONE && n->ours && n->branch == s->auth && !n->down)
			hope = true;
		if (n->rep_ok && n->rep_branch == s->auth && rpl_uuid_equal(&n->rep_session, &s->record.session) &&
		    rpl_uuid_equal(&n->core.session, &n->rep_session) &&
		    (s->record.mode == RPL_MODE_PROTECTED) != owner && s->record.mode != RPL_MODE_DOWN)
			hope = true;
		if (!s->store || s->record.mode == RPL_MODE_DOWN || (!owner && s->record.mode != RPL_MODE_PROTECTED))
			continue;
		if (s->node[0].guest != GUEST_GONE || s->node[1].guest != GUEST_GONE || s->node[!i].rep_ok || n->rep_ok)
			continue; /* a disk is the last resort */
		if (shell_collect(s, i, &ev, &ver, &replaces) &&
		    ((ev.u.collected.redo_complete && rpl_uuid_equal(&ev.u.collected.session, &s->record.session)) ||
		     (owner && s->record.mode == RPL_MODE_SOLO && ev.u.collected.store_clean)))
			hope = true;
	}
	return hope;
}

bool god_running(const struct sim *s)
{
	for (int i = 0; i < 2; i++) {
		const struct node *n = &s->node[i];

		if (n->keeper_up && n->guest == GUEST_RUNS && !n->down && n->branch == s->auth && s->record.owner[0] == 'A' + i &&
		    (n->core.state == RPL_ST_P_SOLO || n->core.state == RPL_ST_P_SYNC || n->core.state == RPL_ST_P_PROTECTED))
			return true;
	}
	return false;
}
