/* hold.c - P_ARM's first step: from some moment on the guest's output and disk writes are held
 *
 * The guest runs on meanwhile. R4 wants an ack of everything that was released before: the checkpoint that this ack
 * belongs to is begun after HELD, so whatever the guest sent until then, in whatever order interfaces and disk were closed, is of an
 * epoch that the checkpoint contains. To stop the guest for it would cost its clients a whole pause, behind closed output the more so.
 */
#include "keeper.h"

#include <replicad/clock.h>
#include <replicad/log.h>

#define PARTS 2 /* output and disk */

void hold_begin(struct keeper *k, uint64_t epoch)
{
	k->hold = (struct hold){ .epoch = epoch, .waiting = PARTS, .begun_ns = rpl_now_ns() };
	rpl_netbuf_hold(k->netbuf);
	rpl_disk_start(k->disk, RPL_DISK_DEFER, 0);
}

/* One that failed is not told: the core gives up after arm_timeout and opens what may be closed. */
static bool arrived(struct keeper *k, int r, const struct rpl_err *err)
{
	if (!k->hold.waiting)
		return false;
	if (r < 0 && !k->hold.failed) {
		k->hold.failed = true;
		rpl_log(RPL_LOG_WARNING, "vm=%s epoch=%llu hold=failed reason=\"%s\"", k->conf.vm,
			(unsigned long long)k->hold.epoch, err->msg);
	}
	/* Without a disk the stores cannot differ; with an overlay its backend will tell. */
	if (--k->hold.waiting == 0 && !k->hold.failed)
		keeper_event(k, &(struct rpl_event){ .kind = RPL_EV_HELD,
						     .u.held = { .epoch = k->hold.epoch, .in_sync = true } });
	return true;
}

void hold_tell(const struct keeper *k)
{
	rpl_log(RPL_LOG_INFO, "vm=%s epoch=%llu rounds=%u held_ms=%llu claim_ms=%llu reason=\"protected: what was held leaves\"",
		k->conf.vm, (unsigned long long)k->hold.epoch, k->session.round,
		(unsigned long long)((rpl_now_ns() - k->hold.begun_ns) / RPL_MS),
		(unsigned long long)((k->at.claim_granted - k->at.claim_sent) / RPL_MS));
}

bool hold_on_netbuf(struct keeper *k, enum rpl_netbuf_op op, int r, const struct rpl_err *err)
{
	return op == RPL_NETBUF_HOLD && arrived(k, r, err);
}

bool hold_on_disk(struct keeper *k, enum rpl_disk_op op, int r, const struct rpl_err *err)
{
	return op == RPL_DISK_DEFER && arrived(k, r, err);
}
