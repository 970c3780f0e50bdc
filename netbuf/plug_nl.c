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

#define PIECE_MAX 32768
#define BATCH_BYTES 1024 /* a few questions of a hundred bytes */
#define ANSWER_S 5 /* the kernel answers within the call: this only bounds a bug of ours or its */

struct plug_nl {
	struct nl_sock *sock;
	struct nl_cb *cb;
	/* the questions under way; the last one's end is the end of all, and the first failure is what is told */
	const struct plug_nl_ask *ask;
	uint32_t n, first_seq;
	bool done;
	int result;
	struct rpl_err why;
};

/* Which of the questions is that the answer to? n: none, as a late answer. */
static uint32_t asked(const struct plug_nl *nl, uint32_t seq)
{
	return seq - nl->first_seq < nl->n ? seq - nl->first_seq : nl->n;
}

static int on_valid(struct nl_msg *m, void *arg)
{
	struct plug_nl *nl = arg;
	const struct nlmsghdr *h = nlmsg_hdr(m);
	uint32_t i = asked(nl, h->nlmsg_seq);

	if (i < nl->n && nl->ask[i].take)
		nl->ask[i].take(nl->ask[i].arg, h);
	return NL_OK;
}

static int on_end(struct nl_msg *m, void *arg)
{
	struct plug_nl *nl = arg;

	if (asked(nl, nlmsg_hdr(m)->nlmsg_seq) + 1 == nl->n)
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
	uint32_t i = asked(nl, e->msg.nlmsg_seq);

	(void)from;
	if (i == nl->n)
		return NL_SKIP;
	nl->done = i + 1 == nl->n;
	if (nl->result)
		return NL_STOP;
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
	/* else each answer is received twice, once for its length; a list comes in pieces of at most so many bytes */
	nl_socket_disable_msg_peek(nl->sock);
	(void)nl_socket_set_msg_buf_size(nl->sock, PIECE_MAX);
	nl_socket_disable_auto_ack(nl->sock);
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

/* Behind one another in *buf; only the last is to be acknowledged, since the kernel takes them in order. */
static int lay_out(struct plug_nl *nl, const struct plug_nl_ask *ask, uint32_t n, uint8_t *buf, size_t *ret_len)
{
	size_t len = 0;

	for (uint32_t i = 0; i < n; i++) {
		struct nlmsghdr *h = ask[i].m ? nlmsg_hdr(ask[i].m) : NULL;

		if (!h)
			return -ENOMEM;
		if (NLMSG_ALIGN(h->nlmsg_len) > BATCH_BYTES - len)
			return -EMSGSIZE;
		nl_complete_msg(nl->sock, ask[i].m);
		if (i + 1 == n)
			h->nlmsg_flags |= NLM_F_ACK;
		if (i == 0)
			nl->first_seq = h->nlmsg_seq;
		memcpy(buf + len, h, h->nlmsg_len);
		len += NLMSG_ALIGN(h->nlmsg_len);
	}
	*ret_len = len;
	return 0;
}

int plug_nl_batch(struct plug_nl *nl, const struct plug_nl_ask *ask, uint32_t n, struct rpl_err *err)
{
	uint8_t buf[BATCH_BYTES] __attribute__((aligned(NLMSG_ALIGNTO))) = { 0 };
	size_t len = 0;
	int r = lay_out(nl, ask, n, buf, &len);

	for (uint32_t i = 0; i < n; i++)
		if (ask[i].m)
			nlmsg_free(ask[i].m);
	if (r < 0)
		return rpl_fail(err, r, "no room for %u rtnetlink messages", n);
	nl->ask = ask;
	nl->n = n;
	nl->done = false;
	nl->result = 0;
	r = nl_sendto(nl->sock, buf, len);
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

int plug_nl_get(struct plug_nl *nl, struct nl_msg *m, plug_nl_take_fn *take, void *arg, struct rpl_err *err)
{
	return plug_nl_batch(nl, &(struct plug_nl_ask){ .m = m, .take = take, .arg = arg }, 1, err);
}

int plug_nl_do(struct plug_nl *nl, struct nl_msg *m, struct rpl_err *err)
{
	return plug_nl_get(nl, m, NULL, NULL, err);
}

struct one_link {
	struct plug_link *ret;
	int r;
};

static void take_link(void *arg, const struct nlmsghdr *h)
{
	struct one_link *o = arg;
	int r = plug_msg_read_link(h, o->ret);

	if (r != -ENOMSG)
		o->r = r;
}

int plug_nl_link(struct plug_nl *nl, const char *name, struct plug_link *ret, struct rpl_err *err)
{
	struct one_link o = { .ret = ret, .r = -ENODEV };
	int r = plug_nl_get(nl, plug_msg_link_get(name), take_link, &o, err);

	if (r == 0 && o.r < 0)
		r = rpl_fail_errno(err, -o.r, "no answer that can be read");
	return r < 0 ? rpl_prefix(err, "look for interface %s", name) : 0;
}

void plug_nl_take_queue(void *arg, const struct nlmsghdr *h)
{
	struct plug_nl_queue *t = arg;
	int r = plug_msg_read_qdisc(h, &t->q);

	if (r != -ENOMSG)
		t->r = r;
}

int plug_nl_qdisc(struct plug_nl *nl, int index, uint32_t parent, struct plug_qdisc *ret, struct rpl_err *err)
{
	struct plug_nl_queue t = PLUG_NL_QUEUE;
	int r = plug_nl_get(nl, plug_msg_qdisc_get(index, parent), plug_nl_take_queue, &t, err);

	if (r == 0 && t.r < 0)
		r = rpl_fail_errno(err, -t.r, "no answer that can be read");
	if (r < 0)
		return rpl_prefix(err, "read a queue of interface %d", index);
	*ret = t.q;
	return 0;
}
