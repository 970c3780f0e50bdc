/* listener.c - hear the peer while there is nothing here to be a backup with
 *
 * For two reasons. One: no standby can be made here (its file is missing, or memory); then who calls is to be told why, since the
 * operator who waits for the protection sits there. The other, with the arbiter manual:
 *
 * Each node has a record of its own there, and learns of a newer one from the peer alone, which says so when it calls. But a
 * frozen backup takes no call, since nothing may enter its replica any more, and neither does a primary, which has the guest
 * to lose. So in the states in which the peer may have been told to go on without us, a mover is kept that has nothing: one
 * page of memory that is nobody's, a staging area that nobody looks at, and no word that would let a session begin. All that
 * it can do is to prove who calls, and to hear its hello: that it owns the VM in a newer generation, or, to a frozen backup,
 * that it lives and wants to go on with the session that is over here. It is ended before anything is claimed.
 */
#include "keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/io.h>
#include <replicad/log.h>
#include <replicad/replica.h>

#define SCRATCH_PAGES 1

bool listener_wanted(const struct keeper *k)
{
	if (!k->conf.manual || !k->started || k->ending)
		return false;
	switch (k->core.state) {
	case RPL_ST_B_SUSPECT:
	case RPL_ST_P_STALLED:
	case RPL_ST_P_CLAIM:
	case RPL_ST_P_DRAIN:
	case RPL_ST_P_LOST:
		return true;
	default:
		return false;
	}
}

void keeper_peer_owns(struct keeper *k, uint64_t generation)
{
	keeper_arbiter_learn(k, RPL_MODE_SOLO, generation, NULL);
}

uint64_t keeper_heard_at(const struct keeper *k)
{
	uint64_t session = movers_running(k->movers) ? movers_counters(k->movers)->last_heard_ns : 0;
	uint64_t listener = movers_running(k->listener) ? movers_counters(k->listener)->last_heard_ns : 0;

	return session > listener ? session : listener;
}

void listener_refuse(struct keeper *k, const char *why)
{
	movers_send(k->listener, RPL_MOVER_REFUSE, 0, movers_put_text(k->listener, why), 0, NULL);
}

/* What the hello says is written down first; then the core is asked, which reads. */
static void on_hello(struct keeper *k, const struct rpl_hello *hello)
{
	bool resume = hello->flags & RPL_HELLO_RESUME;

	if (k->turning_away) {
		listener_refuse(k, k->refused[0] ? k->refused : "no backup now: try again");
		return;
	}
	rpl_log(RPL_LOG_INFO, "vm=%s heard=%s gen=%llu resume=%d state=%s", k->conf.vm, hello->node,
		(unsigned long long)hello->generation, (int)resume, rpl_state_name(k->core.state));
	if (strcmp(hello->node, k->conf.core.peer) != 0) {
		listener_refuse(k, "this VM has another peer here");
		return;
	}
	if (!resume)
		keeper_peer_owns(k, hello->generation);
	if (k->core.state == RPL_ST_B_SUSPECT) { /* -> SESSION_REFUSE */
		keeper_event(k, &(struct rpl_event){ .kind = RPL_EV_SESSION_OPEN,
						     .u.open = { .session = hello->session,
								 .generation = hello->generation, .resume = resume } });
		return;
	}
	listener_refuse(k, "the VM is still this node's, by its own record: that is looked at now");
	if (k->core.state == RPL_ST_P_DRAIN && !resume)
		k->heard_blackout_us = hello->blackout_us;
	if (!resume)
		keeper_event(k, &(struct rpl_event){ .kind = RPL_EV_PEER_GENERATION, .u.cmd.generation = hello->generation });
}

static void on_report(void *arg, const struct rpl_mover_msg *msg)
{
	struct keeper *k = arg;

	if (msg->type == RPL_MOVER_LINK_UP)
		on_hello(k, &msg->hello);
	else if (msg->type == RPL_MOVER_LINK_DOWN || msg->type == RPL_MOVER_LINK_REFUSED)
		rpl_log(RPL_LOG_INFO, "vm=%s heard=down reason=\"%s\"", k->conf.vm, msg->text);
	if (msg->type == RPL_MOVER_LINK_DOWN)
		listener_turned_away(k);
}

static void on_gone(void *arg, const char *why)
{
	struct keeper *k = arg;

	rpl_log(RPL_LOG_WARNING, "vm=%s listener=gone reason=\"%s\"", k->conf.vm, why);
}

struct movers *listener_new(struct keeper *k, const char *program, struct rpl_err *err)
{
	return movers_new(program, k->loop, on_report, on_gone, k, err);
}

static int scratch(const char *name, uint64_t bytes, struct rpl_err *err)
{
	int fd = memfd_create(name, MFD_CLOEXEC);

	if (fd >= 0 && ftruncate(fd, (off_t)bytes) == 0)
		return fd;
	(void)rpl_fail_errno(err, errno, "%s of %llu bytes", name, (unsigned long long)bytes);
	rpl_close(&fd);
	return err->code;
}

static int start(struct keeper *k, struct rpl_err *err)
{
	RPL_AUTO_FD int memory = scratch("replicad-listener", SCRATCH_PAGES * RPL_PAGE_SIZE, err);
	RPL_AUTO_FD int staging = memory < 0 ? -1 : scratch("replicad-listener", RPL_REPLICA_BYTES_MIN, err);
	struct rpl_mover_conf conf;
	int r = staging < 0 ? err->code : keeper_mover_conf(k, k->listener, RPL_ROLE_BACKUP, &conf, err);

	if (r < 0)
		return r;
	conf.staging_bytes = RPL_REPLICA_BYTES_MIN;
	conf.memory.kind = RPL_MEMORY_REPLICA;
	conf.memory.provisional = true; /* it says no hello of its own: only what the peer says is wanted */
	(void)rpl_layout_add(&conf.memory.layout, 0, SCRATCH_PAGES, 0);
	return movers_start(k->listener, &conf, staging, &memory, 1, err);
}

int listener_link(struct keeper *k, int fd, struct rpl_err *err)
{
	int r = keeper_check_caller(k, fd, err);

	if (r == 0 && !movers_running(k->listener))
		r = start(k, err);
	if (r < 0)
		return r;
	if (movers_link(k->listener, fd, err) < 0) /* the descriptor is gone, its mover soon as well */
		rpl_log(RPL_LOG_WARNING, "vm=%s listener=failed reason=\"%s\"", k->conf.vm, err->msg);
	return 0;
}

void listener_turn_away(struct keeper *k, int fd)
{
	struct rpl_err err;

	k->turning_away = true;
	if (listener_link(k, fd, &err) == 0)
		return;
	(void)close(fd);
	rpl_log(RPL_LOG_WARNING, "vm=%s listener=failed reason=\"%s\"", k->conf.vm, err.msg);
	listener_turned_away(k);
}

void listener_turned_away(struct keeper *k)
{
	if (k->turning_away && movers_running(k->listener))
		movers_kill(k->listener);
	k->turning_away = false;
}

void listener_on_state(struct keeper *k)
{
	if (movers_running(k->listener) && !listener_wanted(k) && !k->turning_away)
		movers_kill(k->listener);
}
