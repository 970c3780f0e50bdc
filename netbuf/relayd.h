/* relayd.h - the parts of replicad-relay: ports (relayd_io.c, relayd_tap.c), control socket (relayd_ctl.c) */
#ifndef RPL_NETBUF_RELAYD_H
#define RPL_NETBUF_RELAYD_H

#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <replicad/err.h>

#include "hold.h"

struct ev_loop;

#define RPL_RELAY_PORTS_MAX 16

/* One NIC of the guest and where it leads. Strings are the caller's and stay valid. */
struct rpl_relay_port_conf {
	const char *local;     /* our datagram socket: what QEMU's netdev calls remote.path */
	const char *peer;      /* QEMU's: what its netdev calls local.path */
	const char *tap;       /* outside: a tap device; or NULL */
	const char *bridge;    /* to which the tap is added; or NULL */
	const char *wire;      /* outside instead of a tap (tests): our datagram socket and the other side's */
	const char *wire_peer;
	bool owned;            /* QEMU runs as user `owner`, so `local` is made that user's */
	uid_t owner;
};

/* Read "LOCAL,PEER,tap=IF[,bridge=BR][,owner=USER]" or "LOCAL,PEER,wire=PATH,wire-peer=PATH"; `text` is cut up. */
int rpl_relay_port_parse(char *text, struct rpl_relay_port_conf *ret, struct rpl_err *err);

struct rpl_relay_counters {
	uint64_t passed_frames, passed_bytes; /* output that left */
	uint64_t inbound_frames, inbound_bytes;
	uint64_t lost_frames;                 /* either direction: nobody there, device down, frame too large */
};

/* ---- ports */
struct rpl_relay_io;

/* `moved` is called after frames came in or left. */
struct rpl_relay_io *rpl_relay_io_new(struct ev_loop *loop, struct rpl_hold *hold, const char *vm,
				      void (*moved)(void *arg), void *arg, struct rpl_err *err);
int rpl_relay_io_add(struct rpl_relay_io *io, const struct rpl_relay_port_conf *conf, struct rpl_err *err);
/* Take all that the guest has sent into the hold. 0 when its sockets are empty, -EBUSY when it goes on sending. */
int rpl_relay_io_drain(struct rpl_relay_io *io);
/* Send what may leave, as far as the outside takes it; the rest follows from the loop. */
void rpl_relay_io_pump(struct rpl_relay_io *io);
/* After the hold was shut: frames on their way to the guest are thrown away. */
void rpl_relay_io_discard_inbound(struct rpl_relay_io *io);
uint32_t rpl_relay_io_ports(const struct rpl_relay_io *io);
const struct rpl_relay_counters *rpl_relay_io_counters(const struct rpl_relay_io *io);
void rpl_relay_io_free(struct rpl_relay_io *io); /* closes and unlinks the sockets; NULL is fine */

/* A tap device of this network namespace, non-blocking, up, on `bridge` if that is not NULL. One that does not exist
 * is made and goes when the descriptor does. The descriptor or a negative errno. */
int rpl_relay_tap_open(const char *ifname, const char *bridge, struct rpl_err *err);

/* Once everything is open: no new privileges, of root's capabilities only the one that connects to a socket of the user
 * that QEMU runs as, and of the system calls only those that a relay makes. */
int rpl_relay_confine(struct rpl_err *err);

/* ---- control */
struct rpl_relay_ctl;

/* While output is held the file CONTROL.held exists, so that a relay that was killed and is started again begins held
 * and not open: it would let out what the record, PROTECTED, forbids. */
bool rpl_relay_was_held(const char *control);

/* Refuses (-EADDRINUSE) when a relay answers at `path` already. */
struct rpl_relay_ctl *rpl_relay_ctl_new(struct ev_loop *loop, struct rpl_hold *hold, struct rpl_relay_io *io,
					const char *vm, const char *path, struct rpl_err *err);
/* Frames came in or left: answer what is complete, warn of a filling queue. */
void rpl_relay_ctl_moved(struct rpl_relay_ctl *c);
void rpl_relay_ctl_free(struct rpl_relay_ctl *c);

#endif
