/* plug_nl.h - one rtnetlink socket: a question, or a few at once, and the answer, given by the kernel within the call
 *
 * rtnetlink does its work inside sendmsg(), so nothing here waits for anybody but the kernel's own lock.
 */
#ifndef NETBUF_PLUG_NL_H
#define NETBUF_PLUG_NL_H

#include <errno.h>

#include <replicad/err.h>

#include "plug_msg.h"

struct plug_nl;

struct plug_nl *plug_nl_open(struct rpl_err *err);
void plug_nl_close(struct plug_nl *nl);

/* Called for each message of the answer. */
typedef void plug_nl_take_fn(void *arg, const struct nlmsghdr *h);

/* All consume m, which may be NULL (then -ENOMEM). A failure is the kernel's errno, with its own words. */
int plug_nl_do(struct plug_nl *nl, struct nl_msg *m, struct rpl_err *err);
int plug_nl_get(struct plug_nl *nl, struct nl_msg *m, plug_nl_take_fn *take, void *arg, struct rpl_err *err);

struct plug_nl_ask {
	struct nl_msg *m;
	plug_nl_take_fn *take; /* NULL: it has no answer but done, or an error */
	void *arg;
};

/* Several in one message, done in this order and with nothing of ours between; the later ones also if an earlier one fails.
 * The first failure is what is returned. */
int plug_nl_batch(struct plug_nl *nl, const struct plug_nl_ask *ask, uint32_t n, struct rpl_err *err);

/* -ENODEV: there is none of this name. */
int plug_nl_link(struct plug_nl *nl, const char *name, struct plug_link *ret, struct rpl_err *err);
/* -ENOENT: there is none. */
int plug_nl_qdisc(struct plug_nl *nl, int index, uint32_t parent, struct plug_qdisc *ret, struct rpl_err *err);
/* For the `take` and `arg` of a question about a queue, or of a change that tells it. r: -ENOENT unless it was told. */
struct plug_nl_queue {
	struct plug_qdisc q;
	int r;
};

#define PLUG_NL_QUEUE ((struct plug_nl_queue){ .r = -ENOENT })
plug_nl_take_fn plug_nl_take_queue;

#endif
