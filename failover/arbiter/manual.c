/* Arbiter `manual`: two hosts and nothing else. Each node keeps the record for itself, durably, as `file` does; nobody
 * settles a race between them, so whatever could let both run the guest waits for an operator's word.
 *
 * What a node decides alone: to create the first record of a guest that runs here; as the owner in SOLO, to go on, to give
 * up the right to serve without its backup (ARM), to shut down; as the owner in PROTECTED, to shut down. Each leaves the peer
 * with no more than it had, which is nothing without a word. What it may not: to leave PROTECTED, since the peer may have been ordered
 * to take over; to take what is the peer's, unless the peer itself handed over and holds still; to run what was shut down.
 *
 * The two copies are kept together by the owner telling (rpl_arbiter_learn): a greater generation wins. The argument is in
 * replicad-arbiter(7).
 */
#include "arbiter_ops.h"

#include <string.h>

static bool may_decide(const struct rpl_arbiter_ask *ask)
{
	if (ask->absent)
		return true;
	if (strncmp(ask->expect.owner, ask->want.owner, sizeof(ask->want.owner)) != 0)
		return false;
	return ask->expect.mode == RPL_MODE_SOLO || (ask->expect.mode == RPL_MODE_PROTECTED && ask->want.mode == RPL_MODE_DOWN);
}

static int manual_init(struct rpl_arbiter *a, const struct rpl_arbiter_conf *conf, struct ev_loop *loop, void **ret_self,
		       struct rpl_err *err)
{
	return rpl_arbiter_file.init(a, conf, loop, ret_self, err);
}

static void manual_start(void *self, const struct rpl_arbiter_ask *ask)
{
	rpl_arbiter_file.start(self, ask);
}

static void manual_fini(void *self)
{
	rpl_arbiter_file.fini(self);
}

const struct rpl_arbiter_ops rpl_arbiter_manual = {
	.name = "manual",
	.init = manual_init,
	.may_decide = may_decide,
	.learns = true,
	.start = manual_start,
	.fini = manual_fini,
};
