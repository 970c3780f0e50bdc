/* life.c - what happens to the guest by its own or by other hands: it ends, reboots, crashes, is paused or changed
 *
 * Most of it is the core's to decide. Two things are kept here. A guest that somebody else paused stays paused: its next
 * checkpoint waits, nothing is overdue meanwhile, and its protection holds. A guest whose devices changed is inspected
 * anew before it is protected again, because the peer compares definitions when a session begins.
 */
#include "keeper.h"

#include <stdio.h>
#include <string.h>

#include <replicad/clock.h>
#include <replicad/log.h>

static void paused_by_others(struct keeper *k, const char *msg)
{
	char said[320];

	k->paused_by_others = true;
	(void)snprintf(said, sizeof(said), "%s: no checkpoint until it is resumed by whoever paused it", msg);
	keeper_alarm(k, said);
}

static void changed(struct keeper *k, const char *msg)
{
	const char *peer = *k->conf.core.peer ? k->conf.core.peer : "the backup";

	k->changed = true;
	if (strcmp(k->conf.backend, "xen") == 0)
		(void)snprintf(k->refused, sizeof(k->refused), "%s: make the standby file on %s match", msg, peer);
	else
		(void)snprintf(k->refused, sizeof(k->refused), "%s: make the standby file on %s match (replicad qemu-args %s --standby)",
			       msg, peer, k->conf.vm);
	keeper_alarm(k, k->refused);
	keeper_say(k, RPL_EV_GUEST_CHANGED);
}

/* What a Xen guest sent lies in its own memory until it has left: while a plug holds it, neither its interfaces nor the
 * dead domain can go away. Nobody may see it any more but by an ack that is on its way: a network may lose frames. */
static void let_interfaces_go(struct keeper *k)
{
	if (k->netbuf_here && strcmp(k->conf.netbuf, "plug") == 0 && rpl_netbuf_status(k->netbuf)->holding)
		rpl_netbuf_drop(k->netbuf);
}

void life_on_event(void *arg, enum rpl_guest_event event, const char *msg)
{
	struct keeper *k = arg;

	keeper_tell(k, "guest", json_pack("{s:s, s:s}", "reason", rpl_guest_event_name(event), "message", msg));
	switch (event) {
	case RPL_GUEST_SHUTDOWN:
		keeper_say(k, RPL_EV_GUEST_SHUTDOWN);
		break;
	case RPL_GUEST_REPLACED:
		keeper_alarm(k, msg);
		keeper_say(k, RPL_EV_GUEST_SHUTDOWN);
		break;
	case RPL_GUEST_REBOOT:
		keeper_say(k, RPL_EV_GUEST_RESET);
		break;
	case RPL_GUEST_CRASH:
		keeper_say(k, RPL_EV_GUEST_CRASHED);
		break;
	case RPL_GUEST_LOST:
		k->guest_here = k->paused_by_others = false;
		if (k->standby.ready) {
			standby_on_lost(k);
			keeper_say(k, RPL_EV_REPLICA_LOST);
		} else {
			let_interfaces_go(k);
			keeper_say(k, RPL_EV_GUEST_DIED);
		}
		break;
	case RPL_GUEST_CHANGED:
		changed(k, msg);
		break;
	case RPL_GUEST_STOPPED:
	case RPL_GUEST_IO_ERROR:
		paused_by_others(k, msg);
		break;
	case RPL_GUEST_RESUMED:
		k->paused_by_others = false;
		keeper_pursue(k);
		break;
	case RPL_GUEST_LAID_OUT:
		standby_on_laid_out(k);
		break;
	case RPL_GUEST_NEVENTS:
		break;
	}
}

void life_on_left_paused(struct keeper *k)
{
	uint64_t stood_ms = (rpl_now_ns() - k->left_paused_ns) / RPL_MS;

	if (!k->left_paused_ns)
		return;
	k->left_paused_ns = 0;
	rpl_log(RPL_LOG_INFO, "vm=%s guest=resumed stood_ms=%llu reason=\"the keeper before left it paused\"", k->conf.vm,
		(unsigned long long)stood_ms);
	keeper_tell(k, "guest", json_pack("{s:s, s:s, s:I}", "reason", "resumed", "message", "the keeper before left it paused",
					  "stood_ms", (json_int_t)stood_ms));
}

void life_look(struct keeper *k)
{
	k->wish.look = k->changed = false;
	rpl_guest_look(k->guest);
}

void life_on_looked(struct keeper *k, int r, const struct rpl_err *err)
{
	struct rpl_err mine;

	if (r == 0 && keeper_interfaces(k, rpl_guest_info(k->guest), &mine) < 0) {
		r = mine.code;
		err = &mine;
	}
	if (r < 0)
		keeper_refuse(k, err);
	keeper_say(k, r < 0 || k->changed ? RPL_EV_GUEST_UNFIT : RPL_EV_GUEST_FIT);
}
