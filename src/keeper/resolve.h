/* resolve.h - the address behind a name. A resolver that does not answer may take half a minute: it is asked in a thread */
#ifndef KEEPER_RESOLVE_H
#define KEEPER_RESOLVE_H

#include <sys/socket.h>

#include <ev.h>

#include <replicad/err.h>

#define RESOLVE_TEXT 128 /* bytes of a host or a port, with the NUL */

struct resolve_address {
	socklen_t len; /* 0: not known */
	struct sockaddr_storage at;
};

/* From the loop, once a question. `problem`: why there is none, or NULL. May ask again. */
typedef void resolve_done_fn(void *arg, const char *problem, const struct resolve_address *found);

struct resolve {
	ev_io answered; /* active while a question is open */
	resolve_done_fn *done;
	void *arg;
};

/* Of an address that is written as one: at once. -EINVAL: it is a name. */
int resolve_numeric(const char *host, const char *port, struct resolve_address *ret);
/* Ask, unless a question is open already. */
int resolve_ask(struct resolve *v, struct ev_loop *loop, const char *host, const char *port, resolve_done_fn *done, void *arg,
		struct rpl_err *err);
/* Nobody wants the answer any more; without a question nothing happens. */
void resolve_stop(struct resolve *v, struct ev_loop *loop);

#endif
