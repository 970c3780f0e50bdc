#include "plug_nl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <linux/netlink.h>
#include <netlink/attr.h>
#include <netlink/errno.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>

#include <replicad/auto.h>

#define ANSWER_S 5 /* the kernel answers within the call: this only bounds a bug of ours or its */

struct plug_nl {
	struct nl_sock *sock;
	struct nl_cb *cb;
	/* the question under way */
	uint32_t seq;
	bool done;
	int result;
	plug_nl_take_fn *take;
	void *arg;
	struct rpl_err why;
};

static int on_valid(struct nl_msg *m, void *arg)
{
	struct plug_nl *nl = arg;
	const struct nlmsghdr *h = nlmsg_hdr(m);

	if (h->nlmsg_seq == nl->seq && nl->take)
		nl->take(nl->arg, h);
	return NL_OK;
}

static int on_end(struct nl_msg *m, void *arg)
{
	struct plug_nl *nl = arg;

	if (nlmsg_hdr(m)->nlmsg_seq == nl->seq)
		nl->done = true;
	return NL_OK;
}

/* The kernel's own sentence, if it gave one. */
static const char *extended(const struct nlmsghdr *h, const struct nlmsgerr *e)
{
	size_t at = NLMSG_LENGTH(sizeof(*e)), size = h->nlmsg_len;
	const struct nlattr *a;

	if (!(h->nlmsg_flags & NLM_F_ACK_TLVS))
		return NULL;
	if (!(h->nlmsg_flags & NLM_F_CAPPED))
		at += e->msg.nlmsg_len - NLMSG_HDRLEN;
	if (at >= size)
		return NULL;
	a = nla_find((const struct nlattr *)(const void *)((const char *)h + at), (int)(size - at), NLMSGERR_ATTR_MSG);
	return a && nla_len(a) > 0 && memchr(nla_data(a), 0, (size_t)nla_len(a)) ? nla_data(a) : NULL;
}

static int on_error(struct sockaddr_nl *from, struct nlmsgerr *e, void *arg)
{
	struct plug_nl *nl = arg;
	const struct nlmsghdr *h = (const struct nlmsghdr *)(const void *)((const char *)e - NLMSG_HDRLEN);
	const char *words = extended(h, e);

	(void)from;
	if (e->msg.nlmsg_seq != nl->seq)
		return NL_SKIP;
	nl->done = true;
	nl->result = e->error < 0 ? e->error : -EPROTO;
	if (words)
		(void)rpl_fail(&nl->why, nl->result, "%s: %s", strerror(-nl->result), words);
	else
		(void)rpl_fail(&nl->why, nl->result, "%s", strerror(-nl->result));
	return NL_STOP;
}

struct plug_nl *plug_nl_open(struct rpl_err *err)
{
	struct timeval bound = { .tv_sec = ANSWER_S };
	struct plug_nl *nl = calloc(1, sizeof(*nl));
	int one = 1, r = -NLE_NOMEM;

	if (nl) {
		nl->sock = nl_socket_alloc();
		nl->cb = nl_cb_alloc(NL_CB_DEFAULT);
	}
	if (nl && nl->sock && nl->cb)
		r = nl_connect(nl->sock, NETLINK_ROUTE);
	if (r < 0) {
		(void)rpl_fail(err, -EIO, "open an rtnetlink socket: %s", nl_geterror(r));
		plug_nl_close(nl);
		return NULL;
	}
	/* without these two, messages are only less clear, and bounds less tight */
	(void)setsockopt(nl_socket_get_fd(nl->sock), SOL_NETLINK, NETLINK_EXT_ACK, &one, sizeof(one));
	(void)setsockopt(nl_socket_get_fd(nl->sock), SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof(bound));
	(void)nl_cb_set(nl->cb, NL_CB_VALID, NL_CB_CUSTOM, on_valid, nl);
	(void)nl_cb_set(nl->cb, NL_CB_ACK, NL_CB_CUSTOM, on_end, nl);
	(void)nl_cb_set(nl->cb, NL_CB_FINISH, NL_CB_CUSTOM, on_end, nl);
	(void)nl_cb_err(nl->cb, NL_CB_CUSTOM, on_error, nl);
	nl_socket_disable_seq_check(nl->sock); /* the callbacks above look at it: a late answer is skipped */
	return nl;
}

void plug_nl_close(struct plug_nl *nl)
{
	if (!nl)
		return;
	if (nl->cb)
		nl_cb_put(nl->cb);
	if (nl->sock)
		nl_socket_free(nl->sock);
	free(nl);
}

int plug_nl_get(struct plug_nl *nl, struct nl_msg *m, plug_nl_take_fn *take, void *arg, struct rpl_err *err)
{
	int r;

	if (!m)
		return rpl_fail(err, -ENOMEM, "no memory for an rtnetlink message");
	nl->take = take;
	nl->arg = arg;
	nl->done = false;
	nl->result = 0;
	r = nl_send_auto(nl->sock, m);
	nl->seq = nlmsg_hdr(m)->nlmsg_seq;
	nlmsg_free(m);
	if (r < 0)
		return rpl_fail(err, -EIO, "send to rtnetlink: %s", nl_geterror(r));
	while (!nl->done) {
		r = nl_recvmsgs(nl->sock, nl->cb);
		if (r < 0 && !nl->done)
			return rpl_fail(err, -EIO, "receive from rtnetlink: %s", nl_geterror(r));
	}
	if (nl->result < 0)
		return rpl_fail(err, nl->result, "%s", nl->why.msg);
	return 0;
}

int plug_nl_do(struct plug_nl *nl, struct nl_msg *m, struct rpl_err *err)
{
	return plug_nl_get(nl, m, NULL, NULL, err);
}

struct one {
	int (*read)(const struct nlmsghdr *h, void *ret);
	void *ret;
	int r;
};

static void take_one(void *arg, const struct nlmsghdr *h)
{
	struct one *o = arg;
	int r = o->read(h, o->ret);

	if (r != -ENOMSG)
		o->r = r;
}

static int read_link(const struct nlmsghdr *h, void *ret)
{
	return plug_msg_read_link(h, ret);
}

static int read_qdisc(const struct nlmsghdr *h, void *ret)
{
	return plug_msg_read_qdisc(h, ret);
}

int plug_nl_link(struct plug_nl *nl, const char *name, struct plug_link *ret, struct rpl_err *err)
{
	struct one o = { .read = read_link, .ret = ret, .r = -ENODEV };
	int r = plug_nl_get(nl, plug_msg_link_get(name), take_one, &o, err);

	if (r == 0 && o.r < 0)
		r = rpl_fail_errno(err, -o.r, "no answer that can be read");
	return r < 0 ? rpl_prefix(err, "look for interface %s", name) : 0;
}

int plug_nl_qdisc(struct plug_nl *nl, int index, uint32_t parent, struct plug_qdisc *ret, struct rpl_err *err)
{
	struct one o = { .read = read_qdisc, .ret = ret, .r = -ENOENT };
	int r = plug_nl_get(nl, plug_msg_qdisc_get(index, parent), take_one, &o, err);

	if (r == 0 && o.r < 0)
		r = rpl_fail_errno(err, -o.r, "no answer that can be read");
	return r < 0 ? rpl_prefix(err, "read a queue of interface %d", index) : 0;
}
