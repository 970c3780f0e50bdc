/* plug_msg.h - the rtnetlink messages of the plug backend: built and read here, sent by plug_nl.c
 *
 * Only what the backend needs: an ifb device, a prio with plugs on it, a clsact with filters that take *every* frame (protocol
 * ETH_P_ALL: stock Remus' filter takes IPv4 only, so IPv6, ARP and VLAN frames get round it). Written with libnl's
 * message builder and not with the objects of libnl-route: these cannot say "replace" or "only if there is none" where
 * it matters, keep caches of all of a host's queues, and turn the kernel's errors into fewer of their own.
 *
 * A builder returns a message that plug_nl_do() or plug_nl_get() consumes; NULL: no memory.
 */
#ifndef NETBUF_PLUG_MSG_H
#define NETBUF_PLUG_MSG_H

#include <stdbool.h>
#include <stdint.h>

#include <net/if.h>

#define PLUG_KIND_MAX 16
#define PLUG_ALIAS_MAX 80
#define PLUG_FILTER_PRIO 1 /* first of all */

struct nl_msg;
struct nlmsghdr;

enum plug_direction {
	PLUG_FROM_GUEST, /* what the interface receives: the guest's output */
	PLUG_TO_GUEST,
};

struct plug_link {
	int index;
	bool up;
	char name[IF_NAMESIZE], kind[PLUG_KIND_MAX]; /* kind "": none that rtnetlink knows, as Xen's vif */
	char alias[PLUG_ALIAS_MAX];
	uint64_t rx_packets, tx_packets, rx_dropped, tx_dropped;
};

struct plug_qdisc {
	int index;
	uint32_t handle, parent;
	char kind[PLUG_KIND_MAX];
	uint64_t sent_bytes;
	uint32_t sent_packets, queued, dropped;
	uint64_t backlog_bytes;
	int bands, into; /* of a prio: its bands, and the one that all frames go into, from 0; -1: they go into several */
};

struct plug_filter {
	int index;
	uint32_t parent, handle;
	uint16_t prio, protocol;     /* protocol: host order */
	char kind[PLUG_KIND_MAX];
	int redirect_to;             /* its first action sends to this interface and ends there; 0: it does not */
	bool drops;                  /* its first action drops */
};

struct nl_msg *plug_msg_link_get(const char *name);
struct nl_msg *plug_msg_ifb_new(const char *name);
/* Up, and with the alias that tells whose it is. */
struct nl_msg *plug_msg_ifb_up(int index, const char *alias);
struct nl_msg *plug_msg_ifb_down(int index);
struct nl_msg *plug_msg_link_del(int index);

/* As the root queue, in the place of whatever is there (whose frames are dropped); its bands hold nothing yet. */
struct nl_msg *plug_msg_prio_new(int index, uint32_t handle, int bands, int into);
/* All frames go into band `into` from now on; told as it is then. The kernel refuses if the root queue is no prio, or has
 * another handle. */
struct nl_msg *plug_msg_prio_into(int index, uint32_t handle, int bands, int into);
struct nl_msg *plug_msg_root_del(int index);
/* A closed plug, in the place of what is there (whose frames are dropped). */
struct nl_msg *plug_msg_plug_new(int index, uint32_t parent, uint32_t handle, uint32_t limit_bytes);
/* action: TCQ_PLUG_BUFFER, ... The kernel refuses if the queue there is no plug, or has another handle. */
struct nl_msg *plug_msg_plug_do(int index, uint32_t parent, uint32_t handle, int action);
struct nl_msg *plug_msg_qdisc_get(int index, uint32_t parent);

/* Both fail if there is one already. */
struct nl_msg *plug_msg_clsact_new(int index);
struct nl_msg *plug_msg_redirect_new(int index, int to);
struct nl_msg *plug_msg_drop_new(int index);
struct nl_msg *plug_msg_clsact_del(int index);
struct nl_msg *plug_msg_filter_del(int index, enum plug_direction direction);
struct nl_msg *plug_msg_filter_dump(int index, enum plug_direction direction);

/* What an answer says. 0, -ENOMSG for a message of another type, -EBADMSG for one that cannot be read. */
int plug_msg_read_link(const struct nlmsghdr *h, struct plug_link *ret);
int plug_msg_read_qdisc(const struct nlmsghdr *h, struct plug_qdisc *ret);
int plug_msg_read_filter(const struct nlmsghdr *h, struct plug_filter *ret);

#endif
