/* plug_port.h - one interface of a guest: its output led through a plug on an ifb device of ours
 *
 *   frames of the guest -> vif -- clsact, matchall: redirect --> ifb -- plug: hold or let go --> back to vif, as received
 *
 * What is ours is found again by name: the ifb's name follows from the interface's, its alias says whose it is, and the
 * one filter on the interface leads to it. A missing or broken part never lets frames through: a redirect to an ifb that
 * is down or gone drops. The queue:
 *
 * sch_plug counts frames, not bytes, and tells nobody its counts. It knows those since the last BUFFER ("current"), those
 * of the BUFFER before ("last", what RELEASE_ONE adds to what may go) and what may still go. Three things follow.
 *
 *  - Frames that no count covers (from before a RELEASE_INDEFINITE ended, or from before our crash) stand at the head and
 *    shift every later release: each would come late, by that many frames, for ever. So a hold starts with a queue that
 *    is new and empty, and counts that an earlier keeper left are never built upon.
 *  - Neither BUFFER nor RELEASE_ONE takes the queue's lock. A frame that arrives in the very moment of BUFFER can be
 *    counted twice, and the next release would let go a frame too many. The guest is paused when we seal, so that
 *    nothing should arrive; and what was enqueued (bytes sent + bytes waiting, which the kernel does tell, and exactly)
 *    must be the same before and after, or all that is held is thrown away: a network may lose frames, it may not say
 *    what nobody remembers. For the same reason RELEASE_ONE waits until the release before it has drained.
 *  - A dequeue that ends in the very moment of RELEASE_ONE may shut the queue again. Then nothing moves, and the
 *    command is given once more.
 *
 * Bytes that left are compared with bytes that might: a kernel whose plug lets go more is found out.
 */
#ifndef NETBUF_PLUG_PORT_H
#define NETBUF_PLUG_PORT_H

#include "plug_nl.h"

struct plug_port {
	char vif[IF_NAMESIZE], ifb[IF_NAMESIZE];
	uint32_t limit_bytes;
	int vif_index, ifb_index; /* 0: there is none */
	bool redirected;          /* our filter is there */
	bool shut;                /* so is the one that drops what goes to the guest */
	bool counted;             /* every frame in the queue is in its counts */
	uint32_t restless;        /* so many seals yet look whether the queue stands still */
	uint32_t handle;          /* of the plug; 0: none */
	struct plug_qdisc now;    /* as measured last */
	uint64_t enqueued_last;   /* bytes ever put into this plug, as measured last: never less */
	uint64_t sealed_bytes;    /* bytes that it had been given when it was sealed last */
	uint64_t may_leave_bytes; /* bytes that releases cover so far */
	/* over all plugs of this port */
	uint64_t passed_frames, passed_bytes, thrown_frames, dropped_frames;
};

/* 0, or -EINVAL for a name that is none. */
int plug_port_init(struct plug_port *p, const char *vif, uint32_t limit_bytes, struct rpl_err *err);

/* Look what is there. An interface that is missing is no error (vif_index 0). What an earlier keeper left redirected is
 * closed at once, its counts not relied on. Refused: an interface with filters of somebody else, one of a kind whose
 * output does not pass here, an ifb of ours that is not. */
int plug_port_find(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err);
/* Have an ifb with a new, empty, closed plug, its kind read back; and prove that the kernel has the filters needed. */
int plug_port_prepare(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err);
/* From now on output goes into a new, closed plug. -ENODEV if the interface is not there. */
int plug_port_hold(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err);
/* As hold, and nothing goes to the guest. An interface that is not there (any more, yet) is shut as it is. */
int plug_port_shut(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err);
/* Throw away what is held. */
int plug_port_drop(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err);
/* The guest is paused. Returns 1 if all that was held had to be thrown away (see above), with *err saying why. */
int plug_port_seal(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err);
/* What was sealed last may leave. */
int plug_port_release(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err);
int plug_port_open(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err);
/* Frames go straight on again; those under way still pass the open plug. */
int plug_port_unredirect(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err);
/* Nothing of ours remains. Only what is not redirected. */
int plug_port_remove(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err);

/* Read the queue's counters. -EPROTO: more left than was released, and the port has been made to drop. */
int plug_port_measure(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err);
/* Has all that was released left? (as measured last) */
bool plug_port_drained(const struct plug_port *p);
/* Is there nothing under way at all, neither in the queue nor in the ifb? Measures. */
int plug_port_empty(struct plug_port *p, struct plug_nl *nl, bool *ret, struct rpl_err *err);
/* Is the redirect what it should be? -ENOENT if somebody removed it. A vanished interface is fine: nothing comes. */
int plug_port_verify(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err);

#endif
