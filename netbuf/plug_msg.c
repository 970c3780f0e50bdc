#include "plug_msg.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/gen_stats.h>
#include <linux/if_link.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/tc_act/tc_gact.h>
#include <linux/tc_act/tc_mirred.h>
#include <netlink/attr.h>
#include <netlink/msg.h>

#define CLSACT_HANDLE 0xffff0000u
#define FILTER_HANDLE 1u
#define ACTION_FIRST 1 /* actions are numbered from 1 */

static uint32_t filter_parent(enum plug_direction direction)
{
	return TC_H_MAKE(TC_H_CLSACT, direction == PLUG_FROM_GUEST ? TC_H_MIN_INGRESS : TC_H_MIN_EGRESS);
}

/* ---- building: a failed put (no room) ends in a NULL message */

static struct nl_msg *finish(struct nl_msg *m, int r)
{
	if (r == 0)
		return m;
	nlmsg_free(m);
	return NULL;
}

static struct nl_msg *link_msg(int type, int flags, int index, unsigned up, unsigned change)
{
	struct ifinfomsg i = { .ifi_family = AF_UNSPEC, .ifi_index = index, .ifi_flags = up, .ifi_change = change };
	struct nl_msg *m = nlmsg_alloc_simple(type, flags);

	return m ? finish(m, nlmsg_append(m, &i, sizeof(i), NLMSG_ALIGNTO)) : NULL;
}

static struct nl_msg *tc_msg(int type, int flags, int index, uint32_t parent, uint32_t handle, uint32_t info)
{
	struct tcmsg t = { .tcm_family = AF_UNSPEC, .tcm_ifindex = index, .tcm_parent = parent, .tcm_handle = handle,
			   .tcm_info = info };
	struct nl_msg *m = nlmsg_alloc_simple(type, flags);

	return m ? finish(m, nlmsg_append(m, &t, sizeof(t), NLMSG_ALIGNTO)) : NULL;
}

struct nl_msg *plug_msg_link_get(const char *name)
{
	struct nl_msg *m = link_msg(RTM_GETLINK, 0, 0, 0, 0);

	return m ? finish(m, nla_put_string(m, IFLA_IFNAME, name)) : NULL;
}

struct nl_msg *plug_msg_ifb_new(const char *name)
{
	struct nl_msg *m = link_msg(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 0, 0, 0);
	struct nlattr *info;
	int r;

	if (!m)
		return NULL;
	r = nla_put_string(m, IFLA_IFNAME, name);
	info = nla_nest_start(m, IFLA_LINKINFO);
	if (!info || r < 0)
		return finish(m, -ENOMEM);
	r = nla_put_string(m, IFLA_INFO_KIND, "ifb");
	nla_nest_end(m, info);
	return finish(m, r);
}

struct nl_msg *plug_msg_ifb_up(int index, const char *alias)
{
	struct nl_msg *m = link_msg(RTM_NEWLINK, 0, index, IFF_UP, IFF_UP);

	return m ? finish(m, nla_put_string(m, IFLA_IFALIAS, alias)) : NULL;
}

struct nl_msg *plug_msg_ifb_down(int index)
{
	return link_msg(RTM_NEWLINK, 0, index, 0, IFF_UP);
}

struct nl_msg *plug_msg_link_del(int index)
{
	return link_msg(RTM_DELLINK, 0, index, 0, 0);
}

static struct nl_msg *put_prio(struct nl_msg *m, int bands, int into)
{
	struct tc_prio_qopt opt = { .bands = bands };

	memset(opt.priomap, into, sizeof(opt.priomap));
	if (!m || nla_put_string(m, TCA_KIND, "prio") < 0)
		return m ? finish(m, -ENOMEM) : NULL;
	return finish(m, nla_put(m, TCA_OPTIONS, sizeof(opt), &opt));
}

struct nl_msg *plug_msg_prio_new(int index, uint32_t handle, int bands, int into)
{
	return put_prio(tc_msg(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, index, TC_H_ROOT, handle, 0), bands, into);
}

struct nl_msg *plug_msg_prio_into(int index, uint32_t handle, int bands, int into)
{
	return put_prio(tc_msg(RTM_NEWQDISC, NLM_F_ECHO, index, TC_H_ROOT, handle, 0), bands, into);
}

struct nl_msg *plug_msg_root_del(int index)
{
	return tc_msg(RTM_DELQDISC, 0, index, TC_H_ROOT, 0, 0);
}

static struct nl_msg *put_plug(struct nl_msg *m, int action, uint32_t limit_bytes)
{
	struct tc_plug_qopt opt = { .action = action, .limit = limit_bytes };

	if (!m || nla_put_string(m, TCA_KIND, "plug") < 0)
		return m ? finish(m, -ENOMEM) : NULL;
	return finish(m, nla_put(m, TCA_OPTIONS, sizeof(opt), &opt));
}

struct nl_msg *plug_msg_plug_new(int index, uint32_t parent, uint32_t handle, uint32_t limit_bytes)
{
	/* a new plug reads the limit only, whatever the action */
	return put_plug(tc_msg(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, index, parent, handle, 0), TCQ_PLUG_LIMIT,
			limit_bytes);
}

struct nl_msg *plug_msg_plug_do(int index, uint32_t parent, uint32_t handle, int action)
{
	return put_plug(tc_msg(RTM_NEWQDISC, 0, index, parent, handle, 0), action, 0);
}

struct nl_msg *plug_msg_qdisc_get(int index, uint32_t parent)
{
	/* the kernel answers a single question by a notification: only NLM_F_ECHO brings it to the one who asked */
	return tc_msg(RTM_GETQDISC, NLM_F_ECHO, index, parent, 0, 0);
}

struct nl_msg *plug_msg_clsact_new(int index)
{
	struct nl_msg *m = tc_msg(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, index, TC_H_CLSACT, CLSACT_HANDLE, 0);

	return m ? finish(m, nla_put_string(m, TCA_KIND, "clsact")) : NULL;
}

struct nl_msg *plug_msg_clsact_del(int index)
{
	return tc_msg(RTM_DELQDISC, 0, index, TC_H_CLSACT, CLSACT_HANDLE, 0);
}

/* Every frame, whatever its protocol, and one action. */
static struct nl_msg *all_frames(int index, enum plug_direction direction, const char *action, int attr,
				 const void *parms, int len)
{
	uint32_t info = TC_H_MAKE(PLUG_FILTER_PRIO << 16, htons(ETH_P_ALL));
	struct nl_msg *m = tc_msg(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, index, filter_parent(direction),
				  FILTER_HANDLE, info);
	struct nlattr *options, *actions, *one, *inner;

	if (!m || nla_put_string(m, TCA_KIND, "matchall") < 0)
		return m ? finish(m, -ENOMEM) : NULL;
	options = nla_nest_start(m, TCA_OPTIONS);
	actions = options ? nla_nest_start(m, TCA_MATCHALL_ACT) : NULL;
	one = actions ? nla_nest_start(m, ACTION_FIRST) : NULL;
	if (!one || nla_put_string(m, TCA_ACT_KIND, action) < 0)
		return finish(m, -ENOMEM);
	inner = nla_nest_start(m, TCA_ACT_OPTIONS);
	if (!inner || nla_put(m, attr, len, parms) < 0)
		return finish(m, -ENOMEM);
	nla_nest_end(m, inner);
	nla_nest_end(m, one);
	nla_nest_end(m, actions);
	nla_nest_end(m, options);
	return m;
}

struct nl_msg *plug_msg_redirect_new(int index, int to)
{
	struct tc_mirred parms = { .action = TC_ACT_STOLEN, .eaction = TCA_EGRESS_REDIR, .ifindex = (uint32_t)to };

	return all_frames(index, PLUG_FROM_GUEST, "mirred", TCA_MIRRED_PARMS, &parms, sizeof(parms));
}

struct nl_msg *plug_msg_drop_new(int index)
{
	struct tc_gact parms = { .action = TC_ACT_SHOT };

	return all_frames(index, PLUG_TO_GUEST, "gact", TCA_GACT_PARMS, &parms, sizeof(parms));
}

struct nl_msg *plug_msg_filter_del(int index, enum plug_direction direction)
{
	uint32_t info = TC_H_MAKE(PLUG_FILTER_PRIO << 16, htons(ETH_P_ALL));
	struct nl_msg *m = tc_msg(RTM_DELTFILTER, 0, index, filter_parent(direction), FILTER_HANDLE, info);

	return m ? finish(m, nla_put_string(m, TCA_KIND, "matchall")) : NULL;
}

struct nl_msg *plug_msg_filter_dump(int index, enum plug_direction direction)
{
	return tc_msg(RTM_GETTFILTER, NLM_F_DUMP, index, filter_parent(direction), 0, 0);
}

/* ---- reading: lengths are checked although the kernel is trusted, as its structs grow with its versions */

static void copy_text(const struct nlattr *a, char *to, size_t room)
{
	int len = a ? nla_len(a) : 0;

	(void)snprintf(to, room, "%.*s", len, a ? (const char *)nla_data(a) : "");
}

/* As much of a fixed struct as the kernel gave; the rest is zero. */
static void copy_struct(const struct nlattr *a, void *to, size_t size)
{
	size_t len = a ? (size_t)nla_len(a) : 0;

	memset(to, 0, size);
	if (len)
		memcpy(to, nla_data(a), len < size ? len : size);
}

int plug_msg_read_link(const struct nlmsghdr *h, struct plug_link *ret)
{
	struct nlattr *tb[IFLA_MAX + 1], *info[IFLA_INFO_MAX + 1] = { NULL };
	const struct ifinfomsg *i = nlmsg_data(h);
	struct rtnl_link_stats64 s;

	if (h->nlmsg_type != RTM_NEWLINK)
		return -ENOMSG;
	if (nlmsg_parse((struct nlmsghdr *)(uintptr_t)h, sizeof(*i), tb, IFLA_MAX, NULL) < 0 ||
	    (tb[IFLA_LINKINFO] && nla_parse_nested(info, IFLA_INFO_MAX, tb[IFLA_LINKINFO], NULL) < 0))
		return -EBADMSG;
	*ret = (struct plug_link){ .index = i->ifi_index, .up = i->ifi_flags & IFF_UP };
	copy_text(tb[IFLA_IFNAME], ret->name, sizeof(ret->name));
	copy_text(tb[IFLA_IFALIAS], ret->alias, sizeof(ret->alias));
	copy_text(info[IFLA_INFO_KIND], ret->kind, sizeof(ret->kind));
	copy_struct(tb[IFLA_STATS64], &s, sizeof(s));
	ret->rx_packets = s.rx_packets;
	ret->tx_packets = s.tx_packets;
	ret->rx_dropped = s.rx_dropped;
	ret->tx_dropped = s.tx_dropped;
	return 0;
}

static void read_prio(const struct nlattr *a, struct plug_qdisc *ret)
{
	struct tc_prio_qopt opt;

	copy_struct(a, &opt, sizeof(opt));
	ret->bands = opt.bands;
	ret->into = opt.priomap[0];
	for (size_t i = 1; i < sizeof(opt.priomap); i++)
		if (opt.priomap[i] != opt.priomap[0])
			ret->into = -1;
}

int plug_msg_read_qdisc(const struct nlmsghdr *h, struct plug_qdisc *ret)
{
	struct nlattr *tb[TCA_MAX + 1], *stats[TCA_STATS_MAX + 1] = { NULL };
	const struct tcmsg *t = nlmsg_data(h);
	struct gnet_stats_basic basic;
	struct gnet_stats_queue queue;

	if (h->nlmsg_type != RTM_NEWQDISC)
		return -ENOMSG;
	if (nlmsg_parse((struct nlmsghdr *)(uintptr_t)h, sizeof(*t), tb, TCA_MAX, NULL) < 0 ||
	    (tb[TCA_STATS2] && nla_parse_nested(stats, TCA_STATS_MAX, tb[TCA_STATS2], NULL) < 0))
		return -EBADMSG;
	*ret = (struct plug_qdisc){ .index = t->tcm_ifindex, .handle = t->tcm_handle, .parent = t->tcm_parent };
	copy_text(tb[TCA_KIND], ret->kind, sizeof(ret->kind));
	copy_struct(stats[TCA_STATS_BASIC], &basic, sizeof(basic));
	copy_struct(stats[TCA_STATS_QUEUE], &queue, sizeof(queue));
	ret->sent_bytes = basic.bytes;
	ret->sent_packets = basic.packets;
	ret->queued = queue.qlen;
	ret->backlog_bytes = queue.backlog;
	ret->dropped = queue.drops;
	if (strcmp(ret->kind, "prio") == 0)
		read_prio(tb[TCA_OPTIONS], ret);
	return 0;
}

static int read_action(struct nlattr *actions, struct plug_filter *f)
{
	struct nlattr *list[ACTION_FIRST + 1], *act[TCA_ACT_MAX + 1], *opt[TCA_MIRRED_MAX + 1];
	struct tc_mirred mirred;
	struct tc_gact gact;
	char kind[PLUG_KIND_MAX];

	/* beyond the first they do not matter: what is stolen or dropped goes no further */
	if (nla_parse_nested(list, ACTION_FIRST, actions, NULL) < 0)
		return -EBADMSG;
	if (!list[ACTION_FIRST])
		return 0;
	if (nla_parse_nested(act, TCA_ACT_MAX, list[ACTION_FIRST], NULL) < 0 || !act[TCA_ACT_OPTIONS] ||
	    nla_parse_nested(opt, TCA_MIRRED_MAX, act[TCA_ACT_OPTIONS], NULL) < 0)
		return -EBADMSG;
	copy_text(act[TCA_ACT_KIND], kind, sizeof(kind));
	if (strcmp(kind, "mirred") == 0) {
		copy_struct(opt[TCA_MIRRED_PARMS], &mirred, sizeof(mirred));
		if (mirred.eaction == TCA_EGRESS_REDIR && mirred.action == TC_ACT_STOLEN)
			f->redirect_to = (int)mirred.ifindex;
	} else if (strcmp(kind, "gact") == 0) {
		copy_struct(opt[TCA_GACT_PARMS], &gact, sizeof(gact));
		f->drops = gact.action == TC_ACT_SHOT;
	}
	return 0;
}

int plug_msg_read_filter(const struct nlmsghdr *h, struct plug_filter *ret)
{
	struct nlattr *tb[TCA_MAX + 1], *opt[TCA_MATCHALL_MAX + 1];
	const struct tcmsg *t = nlmsg_data(h);

	if (h->nlmsg_type != RTM_NEWTFILTER)
		return -ENOMSG;
	if (nlmsg_parse((struct nlmsghdr *)(uintptr_t)h, sizeof(*t), tb, TCA_MAX, NULL) < 0)
		return -EBADMSG;
	*ret = (struct plug_filter){ .index = t->tcm_ifindex, .parent = t->tcm_parent, .handle = t->tcm_handle,
				     .prio = (uint16_t)(t->tcm_info >> 16), .protocol = ntohs((uint16_t)t->tcm_info) };
	copy_text(tb[TCA_KIND], ret->kind, sizeof(ret->kind));
	if (strcmp(ret->kind, "matchall") != 0 || !tb[TCA_OPTIONS])
		return 0;
	if (nla_parse_nested(opt, TCA_MATCHALL_MAX, tb[TCA_OPTIONS], NULL) < 0)
		return -EBADMSG;
	return opt[TCA_MATCHALL_ACT] ? read_action(opt[TCA_MATCHALL_ACT], ret) : 0;
}
