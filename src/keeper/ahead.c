/* ahead.c - what a backup does of a takeover before it is one
 *
 * Some backends need long to make a guest of a replica, most of it before anything could run (guest.h: rpl_guest_prepare()). So
 * that is begun when the primary has been silent for a part of the time-out, with the newest epoch, and undone as soon as the
 * primary is heard again, or the replica is nothing to be taken over any more.
 *
 * Nothing uncommitted gets in: it begins only while the mover has folded all that was acked, and the mover folds nothing that we do
 * not ack. An epoch that is staged undoes it before its ack is told, and an activation of any other epoch begins anew.
 */
#include "keeper.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/io.h>
#include <replicad/log.h>
#include <replicad/replica.h>

#define DOUBT_PART 4     /* of suspect: a silence that is none of a heartbeat or two */
#define AGAIN_MS 10000   /* a primary that stutters does not keep this host building and taking apart */

void ahead_folded(struct keeper *k, const struct rpl_uuid *session, uint64_t epoch)
{
	k->ahead.session = *session;
	k->ahead.folded = epoch;
}

static bool silent(const struct keeper *k)
{
	const struct rpl_core *c = &k->core;
	uint64_t now = k->woke_ns;

	return c->state == RPL_ST_B_READY && now >= c->heard_ns + c->conf.suspect_ns / DOUBT_PART &&
	       (!k->ahead.began_ns || now >= k->ahead.began_ns + AGAIN_MS * RPL_MS);
}

/* There is a guest to be made of memory here, and all that was acked is in that. */
static bool possible(const struct keeper *k)
{
	const char *replica = k->standby.ready && !k->guest_busy ? rpl_guest_info(k->guest)->replica : NULL;
	uint64_t newest = k->core.replica;

	return replica && strcmp(replica, "memfd") == 0 && newest && k->ahead.folded == newest &&
	       rpl_uuid_equal(&k->ahead.session, &k->core.session);
}

static int extract(struct keeper *k, int state_fd, size_t *ret_len, struct rpl_err *err)
{
	struct standby *b = &k->standby;
	struct rpl_replica *replica;
	struct rpl_memory *ram;
	const void *state;
	int r = standby_open_replica(b, &replica, &ram, err);

	if (r == 0)
		r = rpl_replica_folded(replica, &k->ahead.session, k->ahead.folded, &state, ret_len, err);
	if (r == 0)
		r = rpl_write_full(state_fd, state, *ret_len);
	rpl_replica_close(replica);
	rpl_memory_free(ram);
	return r;
}

static void begin(struct keeper *k)
{
	RPL_AUTO_FD int state_fd = memfd_create("replicad-state-ahead", MFD_CLOEXEC);
	struct rpl_err err = { 0 };
	size_t len = 0;
	int r;

	k->ahead.began_ns = rpl_now_ns();
	k->ahead.heard_ns = k->core.heard_ns;
	r = state_fd < 0 ? rpl_fail_errno(&err, errno, "memfd for the device state") : extract(k, state_fd, &len, &err);
	if (r == 0)
		r = rpl_guest_prepare(k->guest, state_fd, len, &err);
	if (r == 0)
		k->ahead.epoch = k->ahead.folded;
	if (r != -ENOTSUP)
		rpl_log(RPL_LOG_INFO, "vm=%s ahead=%s epoch=%llu reason=\"%s\"", k->conf.vm, r == 0 ? "begun" : "no",
			(unsigned long long)k->ahead.folded, r == 0 ? "the primary is silent" : err.msg);
}

void ahead_drop(struct keeper *k, const char *why)
{
	if (!k->ahead.epoch)
		return;
	k->ahead.epoch = 0;
	rpl_guest_unprepare(k->guest);
	rpl_log(RPL_LOG_INFO, "vm=%s ahead=dropped reason=\"%s\"", k->conf.vm, why);
}

void ahead_use(struct keeper *k, uint64_t epoch)
{
	if (k->ahead.epoch != epoch)
		ahead_drop(k, "another epoch is taken over");
	k->ahead.epoch = 0;
}

void ahead_look(struct keeper *k)
{
	enum rpl_state s = k->core.state;

	if (!k->ahead.epoch) {
		if (silent(k) && possible(k))
			begin(k);
	} else if (k->core.heard_ns != k->ahead.heard_ns) {
		ahead_drop(k, "the primary is heard again");
	} else if (s != RPL_ST_B_READY && s != RPL_ST_B_SUSPECT && s != RPL_ST_B_CLAIM && s != RPL_ST_B_PROMOTE) {
		ahead_drop(k, rpl_state_name(s));
	}
}
