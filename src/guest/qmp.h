/* qmp.h - a QMP client on libev: commands with an answer each, descriptors beside them, events; never blocks */
#ifndef RPL_GUEST_QMP_H
#define RPL_GUEST_QMP_H

#include <sys/types.h>

#include <ev.h>
#include <jansson.h>

#include <replicad/err.h>

#define QMP_CALLS_MAX 32 /* commands without an answer yet, abandoned ones included */

struct qmp;

/* The answer: ret (borrowed) and err NULL, or ret NULL and *err. May call qmp_free(). */
typedef void qmp_reply_fn(void *arg, json_t *ret, const struct rpl_err *err);
struct qmp_callbacks {
	/* the greeting came and capabilities are negotiated; version is the greeting's "version" object */
	void (*ready)(void *arg, json_t *version);
	void (*event)(void *arg, const char *name, json_t *data); /* data may be NULL. NULL: events are dropped */
	/* the connection is useless: closed, or what came was not QMP. No answer comes any more. Called once. */
	void (*closed)(void *arg, const struct rpl_err *err);
};

/* Connect to the unix socket at `path`. NULL: *err is set. */
struct qmp *qmp_open(const char *path, struct ev_loop *loop, const struct qmp_callbacks *cb, void *arg, struct rpl_err *err);
/* Drop everything; no callback comes any more. Accepts NULL. Allowed from within a callback. */
void qmp_free(struct qmp *q);

/* Send a command. `args` (may be NULL) is taken over; `fd` (-1: none) goes beside it and stays the caller's. The answer
 * comes to fn. 0, or a negative errno and *err: then fn is not called. */
int qmp_call(struct qmp *q, const char *command, json_t *args, int fd, qmp_reply_fn *fn, struct rpl_err *err);
/* Answers to all commands sent so far are dropped when they come. Later commands keep their order after them. */
void qmp_abandon(struct qmp *q);

/* Block until all commands sent so far are answered, the connection ends or the time is over; callbacks come from in here. For
 * moments in which there is no way back to the loop. */
void qmp_settle(struct qmp *q, unsigned timeout_ms);

/* The process at the other end (it made the listening socket); 0 if unknown. */
pid_t qmp_peer_pid(const struct qmp *q);

#endif
