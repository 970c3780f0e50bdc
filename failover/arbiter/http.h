/* http.h - one bounded HTTP POST at a time, in the loop
 *
 * A request has its own connection: one kept from before that is dead by now would cost a time-out just when it matters.
 * Nothing is repeated, redirected or sent through a proxy. Whatever happens, the caller learns whether any of the body
 * left our hands.
 */
#ifndef RPL_ARBITER_HTTP_H
#define RPL_ARBITER_HTTP_H

#include <stdbool.h>
#include <stddef.h>

#include <replicad/err.h>

struct ev_loop;
struct rpl_http;

struct rpl_http_conf {
	const char *ca, *cert, *key; /* PEM files for https; "" or NULL: the system's authorities, no certificate */
	size_t answer_max;           /* bytes of headers, and of a body */
};

struct rpl_http_answer {
	int r;            /* 0: `status` and `body` are whole; else a negative errno, and err */
	bool maybe_sent;  /* r < 0: the other side may have got the request */
	long status;
	const char *body; /* NUL-terminated; valid in the callback */
	size_t len;
	struct rpl_err err;
};

/* From the loop, once a request. May start the next one or free the client. */
typedef void rpl_http_done_fn(void *arg, const struct rpl_http_answer *answer);

/* Strings are copied. NULL and *err: a file that cannot be read, no memory. */
struct rpl_http *rpl_http_new(const struct rpl_http_conf *conf, struct ev_loop *loop, rpl_http_done_fn *done, void *arg,
			      struct rpl_err *err);
/* `body` must stay until the answer. Connecting (name, TCP, TLS) may take connect_ms of the total. */
int rpl_http_post(struct rpl_http *h, const char *url, const char *body, size_t len, long connect_ms, long total_ms,
		  struct rpl_err *err);
/* Give up the request under way, if any, without an answer. true: some of its body may have left. */
bool rpl_http_cancel(struct rpl_http *h);
void rpl_http_free(struct rpl_http *h); /* accepts NULL */

#endif
