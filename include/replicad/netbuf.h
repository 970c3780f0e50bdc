/* netbuf.h - hold a guest's network output until the epoch that made it is committed
 *
 * Backends: relay (a process of its own between QEMU's datagram sockets and tap devices), plug (the kernel's queues sch_prio
 * and sch_plug), none (holds nothing: loudly unsafe). Frames *to* the guest are never held.
 *
 * The hold fails closed: when the keeper or the buffer's process dies, held frames are never emitted.
 * Operations end in exactly one call of the callback given to rpl_netbuf_new(), from the loop, never inside the
 * caller's own call; at most RPL_NETBUF_PENDING_MAX of a kind are under way (asserted). Hold, release and open are
 * answered in the order they were asked; a seal's answer may overtake them. Both callbacks may free the netbuf.
 */
#ifndef REPLICAD_NETBUF_H
#define REPLICAD_NETBUF_H

#include <stdbool.h>
#include <stdint.h>

#include <replicad/err.h>

struct ev_loop;
struct rpl_netbuf;

#define RPL_NETBUF_PENDING_MAX 128 /* more than the epochs of any buffer */
#define RPL_NETBUF_INTERFACES_MAX 16
#define RPL_NETBUF_HOLD_BYTES (64u << 20)

enum rpl_netbuf_op {
	RPL_NETBUF_ATTACH,  /* connected to the buffer; its state is known */
	RPL_NETBUF_HOLD,    /* from now on output is held; what was sent before has left (backlog 0) */
	RPL_NETBUF_SEAL,    /* everything the paused guest sent belongs to epoch `epoch` or an earlier one */
	RPL_NETBUF_RELEASE, /* output of all epochs <= `epoch` has left */
	RPL_NETBUF_OPEN,    /* all held output has left, and output flows straight through */
	RPL_NETBUF_DROP,    /* all held output was thrown away; still holding */
	RPL_NETBUF_SHUT,    /* thrown away, and nothing passes in either direction: the guest is not ours */
	RPL_NETBUF_NOPS
};

struct rpl_netbuf_conf {
	const char *backend; /* "relay", "plug", "none" */
	const char *vm;
	const char *control; /* relay: path of its control socket */
	const char *const *interfaces; /* plug: the guest's, ended by NULL; NULL: told later (rpl_netbuf_interfaces) */
	/* plug: held for one interface, of each epoch; nearly full is three quarters of it in all. 0: RPL_NETBUF_HOLD_BYTES */
	uint32_t hold_bytes_max;
};

struct rpl_netbuf_status {
	bool attached;
	bool holding; /* output does not flow freely: held, or shut */
	bool shut;    /* nothing passes in either direction */
	uint32_t ports;
	uint64_t held_frames, held_bytes, sealed_epoch, released_epoch;
	uint64_t passed_frames, passed_bytes; /* output that has left, since the buffer's process started */
	uint64_t dropped_frames;              /* either direction, whatever the reason */
};

/* epoch: the operation's epoch (SEAL, RELEASE), else 0. */
typedef void rpl_netbuf_done_fn(void *arg, enum rpl_netbuf_op op, uint64_t epoch, int r, const struct rpl_err *err);
/* The buffer's process is gone or hangs (r < 0; every operation under way ends with that error, and attach may be asked
 * for again: what was held in a dead process is lost, never emitted), or its memory is nearly full and the epoch
 * should end early (r = 0). */
typedef void rpl_netbuf_event_fn(void *arg, int r, const char *msg);

struct rpl_netbuf *rpl_netbuf_new(const struct rpl_netbuf_conf *conf, struct ev_loop *loop, rpl_netbuf_done_fn *done,
				  rpl_netbuf_event_fn *event, void *arg, struct rpl_err *err);
/* plug: the host's interfaces that carry this guest's output from now on, ended by NULL; none: it has no network. They
 * may not exist yet (a standby's), but must when output is to be held. -EBUSY while output is held. Others: no effect. */
int rpl_netbuf_interfaces(struct rpl_netbuf *n, const char *const *names, struct rpl_err *err);
/* First. Waits up to 2 s for the buffer's process to be there. Then rpl_netbuf_status() tells what an earlier keeper
 * left: holding or not, the last sealed and released epochs, the backlog. */
void rpl_netbuf_attach(struct rpl_netbuf *n);
/* Epoch numbers start anew with each hold that follows open or shut, and grow from there. Holding already: nothing
 * changes. */
void rpl_netbuf_hold(struct rpl_netbuf *n);
/* The guest is paused. */
void rpl_netbuf_seal(struct rpl_netbuf *n, uint64_t epoch);
/* An epoch that was never sealed is refused; one that was released already is fine. */
void rpl_netbuf_release(struct rpl_netbuf *n, uint64_t epoch);
void rpl_netbuf_open(struct rpl_netbuf *n);
void rpl_netbuf_drop(struct rpl_netbuf *n);
void rpl_netbuf_shut(struct rpl_netbuf *n);
/* Epochs that may be sealed and not yet released: plug 4, relay 64, none UINT32_MAX. */
uint32_t rpl_netbuf_max_uncommitted(const struct rpl_netbuf *n);
const struct rpl_netbuf_status *rpl_netbuf_status(const struct rpl_netbuf *n);
/* Closes the connection; what is held stays held. Accepts NULL. */
void rpl_netbuf_free(struct rpl_netbuf *n);

/* Could `plug` work here? Tries it out on a device of its own, which is gone again afterwards. */
int rpl_netbuf_check_plug(struct rpl_err *err);

#endif
