/* What must be true of a machine between two steps, whatever happened to it. */
#include "core_int.h"

#define MUST(cond)                \
	do {                      \
		if (!(cond))      \
			return #cond; \
	} while (0)

static const char *check_epochs(const struct rpl_core *c)
{
	MUST(c->released <= c->acked);           /* R1 */
	MUST(c->flush_asked <= c->acked);        /* R5 */
	MUST(c->acked <= c->sealed);
	MUST(c->flushed <= c->flush_asked);
	MUST(c->sealed < c->epoch);
	MUST(c->sealed - c->acked <= c->conf.max_uncommitted || c->conf.durability == RPL_DURABLE_BOTH);
	MUST(c->sealed - c->released <= c->conf.max_held);
	return NULL;
}

static const char *check_primary(const struct rpl_core *c)
{
	MUST(c->rec_known);
	MUST(!peer_owns(c) || c->fresh == false);
	if (in_states(c, ST(P_PROTECTED) | ST(P_STALLED))) {
		MUST(c->rec.mode == RPL_MODE_PROTECTED);
		MUST(rpl_uuid_equal(&c->rec.session, &c->session));
		MUST(c->output == RPL_OUT_HELD);
		MUST(c->guest && c->memory_ours);
		MUST(c->claim == RPL_CLAIM_NONE);
		MUST(c->acked >= c->must_ack);   /* R4 */
	}
	if (c->yielding)
		MUST(in_states(c, ST(P_LOST)) && !c->guest && !rpl_uuid_is_zero(&c->session));
	if (in_states(c, ST(P_SYNC)))
		MUST(c->output == RPL_OUT_OPEN);
	if (in_states(c, ST(P_SOLO)))
		MUST(c->output == RPL_OUT_OPEN || c->output == RPL_OUT_OPENING);
	if (in_states(c, ST(P_CLAIM) | ST(P_LOST) | ST(P_DRAIN)))
		MUST(c->output != RPL_OUT_OPEN && c->output != RPL_OUT_OPENING);
	if (in_states(c, ST(P_SOLO) | ST(P_SYNC)))
		MUST(!peer_owns(c) && c->rec.mode == RPL_MODE_SOLO && c->claim == RPL_CLAIM_NONE); /* R2 */
	return NULL;
}

static const char *check_backup(const struct rpl_core *c)
{
	MUST(!c->guest);
	if (in_states(c, ST(B_SEED) | ST(B_READY)))
		MUST(!c->frozen && !c->freezing);
	if (in_states(c, ST(B_READY)))
		MUST(c->complete);
	if (in_states(c, ST(B_SEED)))
		MUST(!c->complete);
	if (in_states(c, ST(B_CLAIM)))
		MUST(c->frozen);                 /* R3 */
	if (in_states(c, ST(B_PROMOTE)))
		MUST(!peer_owns(c) && c->rec.mode == RPL_MODE_SOLO);
	MUST(c->redo_trimmed <= c->replica);
	return NULL;
}

const char *rpl_core_check(const struct rpl_core *c)
{
	const char *bad = NULL;

	MUST((unsigned)c->state < RPL_ST_N);
	MUST(!c->started || rpl_core_deadline(c) > c->now_ns);
	MUST(!(c->reading && c->claim == RPL_CLAIM_SENT));
	MUST(c->claim != RPL_CLAIM_READING || c->reading);
	MUST(c->claim == RPL_CLAIM_NONE || /* R6: no state is left with a claim unresolved */
	     in_states(c, ST(START) | ST(P_ARM) | ST(P_CLAIM) | ST(P_DOWN) | ST(B_CLAIM) | ST(C_CLAIM)) || c->yielding);
	MUST(!(c->died_pending || c->down_pending) || c->claim != RPL_CLAIM_NONE || in_states(c, ST(START)));
	if (in_states(c, ST(P_ARM) | ST(P_PROTECTED) | ST(P_STALLED) | ST(P_CLAIM) | ST(P_DRAIN)))
		bad = check_epochs(c);
	if (!bad && in_states(c, ST(P_SOLO) | ST(P_SYNC) | ST(P_ARM) | ST(P_PROTECTED) | ST(P_STALLED) | ST(P_CLAIM) |
				 ST(P_DRAIN) | ST(P_LOST) | ST(P_DOWN) | ST(P_DEPOSED)))
		bad = check_primary(c);
	if (!bad && in_states(c, ST(B_SEED) | ST(B_READY) | ST(B_SUSPECT) | ST(B_CLAIM) | ST(B_PROMOTE)))
		bad = check_backup(c);
	return bad;
}
