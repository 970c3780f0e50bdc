/* sendq.c - see sendq.h. The number of blocks is bounded by the link's own limit on waiting bytes. */
#include "sendq.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <replicad/err.h>

struct rpl_sendq_block {
	struct rpl_sendq_block *next;
	size_t used;
	uint8_t data[RPL_SENDQ_BLOCK];
};

static void free_list(struct rpl_sendq_block *b)
{
	while (b) {
		struct rpl_sendq_block *next = b->next;

		free(b);
		b = next;
	}
}

void rpl_sendq_fini(struct rpl_sendq *q)
{
	free_list(q->head);
	free_list(q->spare);
	*q = (struct rpl_sendq){ 0 };
}

/* Make sure that `n` spare blocks exist. */
static int provide(struct rpl_sendq *q, size_t n)
{
	size_t have = 0;

	for (struct rpl_sendq_block *b = q->spare; b && have < n; b = b->next)
		have++;
	for (; have < n; have++) {
		struct rpl_sendq_block *b = malloc(sizeof(*b));

		if (!b)
			return -ENOMEM;
		b->next = q->spare;
		q->spare = b;
	}
	return 0;
}

static void append_block(struct rpl_sendq *q)
{
	struct rpl_sendq_block *b = q->spare;

	rpl_assert(b);
	q->spare = b->next;
	b->next = NULL;
	b->used = 0;
	if (q->tail)
		q->tail->next = b;
	else
		q->head = b;
	q->tail = b;
}

int rpl_sendq_put(struct rpl_sendq *q, const void *data, size_t len)
{
	size_t room = q->tail ? RPL_SENDQ_BLOCK - q->tail->used : 0;
	const uint8_t *p = data;
	int r;

	if (len > room) {
		r = provide(q, (len - room + RPL_SENDQ_BLOCK - 1) / RPL_SENDQ_BLOCK);
		if (r < 0)
			return r;
	}
	while (len) {
		size_t n;

		if (!q->tail || q->tail->used == RPL_SENDQ_BLOCK)
			append_block(q);
		n = RPL_SENDQ_BLOCK - q->tail->used;
		if (n > len)
			n = len;
		memcpy(q->tail->data + q->tail->used, p, n);
		q->tail->used += n;
		q->bytes += n;
		p += n;
		len -= n;
	}
	return 0;
}

int rpl_sendq_spans(const struct rpl_sendq *q, struct iovec *iov, int max)
{
	size_t off = q->head_off;
	int n = 0;

	for (struct rpl_sendq_block *b = q->head; b && n < max; b = b->next, off = 0)
		if (b->used > off)
			iov[n++] = (struct iovec){ .iov_base = b->data + off, .iov_len = b->used - off };
	return n;
}

void rpl_sendq_take(struct rpl_sendq *q, size_t n)
{
	rpl_assert(n <= q->bytes);
	q->bytes -= n;
	while (n) {
		struct rpl_sendq_block *b = q->head;
		size_t here = b->used - q->head_off;

		if (n < here) {
			q->head_off += n;
			return;
		}
		n -= here;
		q->head = b->next;
		q->head_off = 0;
		if (!q->head)
			q->tail = NULL;
		b->next = q->spare;
		q->spare = b;
	}
}
