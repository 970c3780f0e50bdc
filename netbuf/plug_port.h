/* plug_port.h - one interface of a guest: its output led through a queue on an ifb device of ours
 *
 *   frames of the guest -> vif -- clsact, matchall: redirect --> ifb -- plug_queue.h: hold or let go --> back to vif, as received
 *
 * What is ours is found again by name: the ifb's name follows from the interface's, its alias says whose it is, and the
 * one filter on the interface leads to it. A missing or broken part never lets frames through: a redirect to an ifb that
 * is down or gone drops. That is how a queue is closed that is not what we made: its ifb is set down.
 */
#ifndef NETBUF_PLUG_PORT_H
#define NETBUF_PLUG_PORT_H

#include "plug_queue.h"

struct plug_port {
	char vif[IF_NAMESIZE], ifb[IF_NAMESIZE];
	int vif_index, ifb_index; /* 0: there is none */
	bool redirected;          /* our filter is there */
	bool shut;                /* so is the one that drops what goes to the guest */
	struct plug_queue queue;
};

/* 0, or -EINVAL for a name that is none. */
int plug_port_init(struct plug_port *p, const char *vif, uint32_t limit_bytes, struct rpl_err *err);

/* Look what is there. An interface that is missing is no error (vif_index 0). What an earlier keeper left redirected is
 * closed at once, and which epochs its frames belong to is not known. Refused: an interface with filters of somebody else, one
 * of a kind whose output does not pass here, an ifb of ours that is not. */
int plug_port_find(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err);
/* Have an ifb with a new, empty, closed queue, read back; and prove that the kernel has the filters needed. */
int plug_port_prepare(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err);
/* From now on output goes into an empty, closed queue. -ENODEV if the interface is not there. */
int plug_port_hold(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err);
/* As hold, and nothing goes to the guest. An interface that is not there (any more, yet) is shut as it is. */
int plug_port_shut(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err);
/* Throw away what is held. */
int plug_port_drop(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err);
/* May it be sealed, or must something released drain first? */
bool plug_port_room(const struct plug_port *p);
/* The guest is paused. Returns 1 if all that was held had to be thrown away, since nobody knows which epochs it belongs to,
 * with *err saying so. */
int plug_port_seal(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err);
/* So many more of the epochs sealed first may leave; or all, and then what comes passes. plug_port_step() sees to it. */
void plug_port_release(struct plug_port *p, uint32_t epochs);
int plug_port_open(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err);
/* Returns 1 while what was released has not left: to be called again. */
int plug_port_step(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err);
/* It takes too long: all of it leaves as it may. */
int plug_port_burst(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err);
/* Frames go straight on again; those under way still pass the open queue. */
int plug_port_unredirect(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err);
/* Nothing of ours remains. Only what is not redirected. */
int plug_port_remove(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err);

/* Read the queue's counters. -EPROTO: it is not ours, or more left than was released; nothing passes any more then. */
int plug_port_measure(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err);
/* Is there nothing under way at all, neither in the queue nor in the ifb? Measures. */
int plug_port_empty(struct plug_port *p, struct plug_nl *nl, bool *ret, struct rpl_err *err);
/* Are redirect and queue what they should be? -ENOENT if somebody removed the redirect. A vanished interface is fine: nothing
 * comes. */
int plug_port_verify(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err);

#endif
