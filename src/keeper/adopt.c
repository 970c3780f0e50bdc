/* adopt.c - the keeper of a backup that follows one that was killed
 *
 * The replica is the standby's RAM and the staging area above it. The RAM is a file that QEMU maps; the area is a memfd that
 * was entrusted to the same process, so both halves outlive a keeper, and neither the other. The session does not: what the
 * mover knew of it died with it. But what was staged is whole and may still be needed: nobody runs the VM if the keeper died
 * with its takeover granted, and nobody will if the primary died meanwhile. So the core is told at its start what is here
 * (START.replica), and the record says what it is worth.
 *
 * Nothing of it is believed before the old mover is surely dead: it may have been in the middle of an epoch or of a fold. An
 * epoch that was not sealed has no header and does not count; one that was half folded is folded anew (replica.h).
 */
#include "keeper.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include <replicad/auto.h>
#include <replicad/log.h>
#include <replicad/process.h>
#include <replicad/replica.h>

#define MOVER_END_MS 5000 /* a mover is killed with its keeper; freeing its memory takes a moment */

bool adopt_begin(struct keeper *k, const struct keeper_past *past)
{
	/* One that had been given device state may run by now: the attempt says. */
	if (!remains_is_standby(k) && !(remains_lives(k) && past->promoting))
		return false;
	k->standby.mover_gone = rpl_process_end(past->mover_pid, past->mover_started, MOVER_END_MS);
	k->standby.adopting = k->standby.starting = true;
	k->guest_busy = k->guest_used = true;
	rpl_guest_adopt(k->guest);
	return true;
}

static int find_replica(struct keeper *k, struct rpl_err *err)
{
	struct standby *b = &k->standby;
	struct rpl_replica *replica;
	struct rpl_memory *ram;
	struct stat st;
	int r;

	if (!b->mover_gone)
		return rpl_fail(err, -EBUSY, "the mover that writes to it does not die");
	b->staging_fd = rpl_guest_entrusted(k->guest, STAGING_NAME, err);
	if (b->staging_fd < 0)
		return b->staging_fd;
	if (fstat(b->staging_fd, &st) < 0)
		return rpl_fail_errno(err, errno, "staging area");
	b->staging_bytes = (uint64_t)st.st_size;
	r = standby_open_replica(b, &replica, &ram, err);
	if (r == 0)
		r = rpl_replica_newest(replica, &b->session, &b->found_epoch, err);
	rpl_replica_close(replica);
	rpl_memory_free(ram);
	return r;
}

static void adopted(struct keeper *k)
{
	struct standby *b = &k->standby;
	char session[RPL_UUID_TEXT];
	struct rpl_err err = { 0 };

	if (find_replica(k, &err) == 0) {
		b->found = true;
		rpl_log(RPL_LOG_INFO, "vm=%s replica=adopted sess=%.8s epoch=%llu", k->conf.vm, rpl_uuid_text(&b->session, session),
			(unsigned long long)b->found_epoch);
	} else {
		rpl_log(RPL_LOG_WARNING, "vm=%s replica=none standby=adopted reason=\"%s\"", k->conf.vm, err.msg);
		rpl_close(&b->staging_fd);
	}
	keeper_start_core(k, RPL_FOUND_NONE, false);
	rpl_netbuf_attach(k->netbuf);
}

void adopt_on_done(struct keeper *k, int r, const struct rpl_err *err)
{
	struct keeper_past past;

	k->standby.adopting = false;
	rpl_close(&k->standby.waiting_fd); /* who called meanwhile calls again: the record comes first */
	if (r == 0) {
		adopted(k);
		return;
	}
	rpl_log(RPL_LOG_WARNING, "vm=%s standby=left reason=\"%s\"", k->conf.vm, err->msg);
	keeper_past_load(k->conf.dir, &past);
	keeper_fresh_guest(k);
	if (!past.promoting || !remains_lives(k))
		remains_end(k); /* it never ran, and is of no use */
	keeper_begin_without(k, past.promoting && remains_lives(k));
}
