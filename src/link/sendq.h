/* sendq.h - bytes that wait to be sent, in blocks that are used again and again */
#ifndef RPL_LINK_SENDQ_H
#define RPL_LINK_SENDQ_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define RPL_SENDQ_BLOCK (256 * 1024)

struct rpl_sendq_block;
struct rpl_sendq {
	struct rpl_sendq_block *head, *tail, *spare;
	size_t head_off; /* bytes of the head block that were sent */
	size_t bytes;    /* waiting */
};

void rpl_sendq_fini(struct rpl_sendq *q);
/* Append a copy. 0, or -ENOMEM (then nothing was appended). */
int rpl_sendq_put(struct rpl_sendq *q, const void *data, size_t len);
/* The first bytes as at most `max` spans; returns their number. */
int rpl_sendq_spans(const struct rpl_sendq *q, struct iovec *iov, int max);
/* `n` bytes were sent. */
void rpl_sendq_take(struct rpl_sendq *q, size_t n);

#endif
