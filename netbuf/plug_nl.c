#include "plug_nl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <linux/netlink.h>
#include <netlink/attr.h>
#include <netlink/errno.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>

#include <replicad/auto.h>

#define PIECE_MAX 32768 /* a list comes in pieces of at most so many bytes, */
#define PIECES 8        /* and the answers to a few questions in so many at once */
#define BATCH_BYTES 1024 /* a few questions of a hundred bytes */
#define ANSWER_S 5 /* the kernel answers within the call: this only bounds a bug of ours or its */

struct plug_nl {
	struct nl_sock *sock;
	/* the questions under way; the last one's end is the end of all, and the first failure is what is told */
	const struct plug_nl_ask *ask;
	uint32_t n, first_seq;
	bool done;
	int result;
	struct rpl_err why;
	uint8_t piece[PIECES][PIECE_MAX] __attribute__((aligned(NLMSG_ALIGNTO)));
};

/* Which of the questions is that the answer to? n: none, as a late answer. */
static uint32_t asked(const struct plug_nl *nl, uint32_t seq)
{
	return seq - nl->first_seq < nl->n ? seq - nl->first_seq : nl->n;
}

static void take_answer(struct plug_nl *nl, const struct nlmsghdr *h)
{
	uint32_t i = asked(nl, h->nlmsg_seq);

	if (i < nl->n && nl->ask[i].take)
		nl->ask[i].take(nl->ask[i].arg, h);
}

static void take_end(struct plug_nl *nl, uint32_t seq)
{
	if (asked(nl, seq) + 1 == nl->n)
		nl->done = true;
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

static void take_error(struct plug_nl *nl, const struct nlmsghdr *h, const struct nlmsgerr *e)
{
	const char *words = extended(h, e);

	if (asked(nl, e->msg.nlmsg_seq) == nl->n)
		return;
	take_end(nl, e->msg.nlmsg_seq);
	if (nl->result)
		return;
	nl->result = e->error < 0 ? e->error : -EPROTO;
	if (words)
		(void)rpl_fail(&nl->why, nl->result, "%s: %s", strerror(-nl->result), words);
	else
		(void)rpl_fail(&nl->why, nl->result, "%s", strerror(-nl->result));
}

static int take_message(struct plug_nl *nl, const struct nlmsghdr *h, struct rpl_err *err)
{
	const struct nlmsgerr *e = nlmsg_data(h);

	switch (h->nlmsg_type) {
	case NLMSG_NOOP:
		return 0;
	case NLMSG_DONE:
		take_end(nl, h->nlmsg_seq);
		return 0;
	case NLMSG_ERROR:
		if (h->nlmsg_len < NLMSG_LENGTH(sizeof(*e)))
			return rpl_fail(err, -EBADMSG, "rtnetlink: an error of %u bytes", h->nlmsg_len);
		if (e->error)
			take_error(nl, h, e);
		else
			take_end(nl, e->msg.nlmsg_seq);
		return 0;
	default:
		take_answer(nl, h);
		return 0;
	}
}

struct plug_nl *plug_nl_open(struct rpl_err *err)
{
	struct timeval bound = { .tv_sec = ANSWER_S };
	struct plug_nl *nl = calloc(1, sizeof(*nl));
	int one = 1, r = -NLE_NOMEM;

	if (nl)
		nl->sock = nl_socket_alloc();
	if (nl && nl->sock)
		r = nl_connect(nl->sock, NETLINK_ROUTE);
	if (r < 0) {
		(void)rpl_fail(err, -EIO, "open an rtnetlink socket: %s", nl_geterror(r));
		plug_nl_close(nl);
		return NULL;
	}
	/* without these two, messages are only less clear, and bounds less tight */
	(void)setsockopt(nl_socket_get_fd(nl->sock), SOL_NETLINK, NETLINK_EXT_ACK, &one, sizeof(one));
	(void)setsockopt(nl_socket_get_fd(nl->sock), SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof(bound));
	nl_socket_disable_auto_ack(nl->sock);
	return nl;
}

void plug_nl_close(struct plug_nl *nl)
{
	if (!nl)
		return;
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

/* All that has come, in one call: it came within the one that asked. */
static int receive(struct plug_nl *nl, struct rpl_err *err)
{
	struct sockaddr_nl from[PIECES];
	struct iovec iov[PIECES];
	struct mmsghdr m[PIECES];
	int n;

	for (uint32_t i = 0; i < PIECES; i++) {
		iov[i] = (struct iovec){ .iov_base = nl->piece[i], .iov_len = PIECE_MAX };
		m[i] = (struct mmsghdr){ .msg_hdr = { .msg_name = &from[i], .msg_namelen = sizeof(from[i]), .msg_iov = &iov[i],
						      .msg_iovlen = 1 } };
	}
	do
		n = recvmmsg(nl_socket_get_fd(nl->sock), m, PIECES, MSG_WAITFORONE, NULL);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return rpl_fail_errno(err, errno == EAGAIN ? ETIMEDOUT : errno, "receive from rtnetlink");
	for (int i = 0; i < n; i++) {
		const struct nlmsghdr *h = (const void *)nl->piece[i];
		int left = (int)m[i].msg_len;

		if (m[i].msg_hdr.msg_flags & MSG_TRUNC)
			return rpl_fail(err, -EMSGSIZE, "rtnetlink: an answer of more than %d bytes", PIECE_MAX);
		for (; from[i].nl_pid == 0 && nlmsg_ok(h, left); h = nlmsg_next((struct nlmsghdr *)(uintptr_t)h, &left))
			if (take_message(nl, h, err) < 0)
				return err->code;
	}
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
	while (!nl->done)
		if (receive(nl, err) < 0)
			return err->code;
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
