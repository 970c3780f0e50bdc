/* resolve.c - a question is one detached thread and one pipe, whose ends each belong to one side: there is nothing to lock, and
 * a thread that comes back late writes to nobody */
#include "resolve.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/thread.h>

struct question {
	int fd; /* where the answer goes */
	char host[RESOLVE_TEXT], port[RESOLVE_TEXT];
};

struct answer {
	int problem; /* of getaddrinfo() */
	struct resolve_address found;
};
_Static_assert(sizeof(struct answer) <= PIPE_BUF, "it is written and read in one piece");

static int look_up(const char *host, const char *port, int flags, struct resolve_address *ret)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | flags }, *list;
	int problem = getaddrinfo(host, port, &hints, &list);

	if (problem)
		return problem;
	rpl_assert(list->ai_addrlen <= sizeof(ret->at));
	*ret = (struct resolve_address){ .len = list->ai_addrlen };
	memcpy(&ret->at, list->ai_addr, list->ai_addrlen);
	freeaddrinfo(list);
	return 0;
}

int resolve_numeric(const char *host, const char *port, struct resolve_address *ret)
{
	return look_up(host, port, AI_NUMERICHOST, ret) == 0 ? 0 : -EINVAL;
}

static void *ask(void *arg)
{
	struct question *q = arg;
	struct answer a;

	memset(&a, 0, sizeof(a)); /* what lies between its fields is written, too */
	a.problem = look_up(q->host, q->port, 0, &a.found);
	if (write(q->fd, &a, sizeof(a)) < 0)
		rpl_assert(errno == EPIPE); /* nobody waits any more; SIGPIPE is blocked here */
	(void)close(q->fd);
	free(q);
	return NULL;
}

void resolve_stop(struct resolve *v, struct ev_loop *loop)
{
	if (!ev_is_active(&v->answered))
		return;
	ev_io_stop(loop, &v->answered);
	(void)close(v->answered.fd);
}

static void on_answered(EV_P_ ev_io *w, int revents)
{
	struct resolve *v = w->data;
	struct answer a;

	(void)revents;
	if (read(w->fd, &a, sizeof(a)) != sizeof(a))
		a = (struct answer){ .problem = EAI_AGAIN };
	resolve_stop(v, loop);
	v->done(v->arg, a.problem ? gai_strerror(a.problem) : NULL, &a.found);
}

static struct question *question_new(const char *host, const char *port, int fd)
{
	struct question *q = calloc(1, sizeof(*q));

	if (!q)
		return NULL;
	(void)snprintf(q->host, sizeof(q->host), "%s", host);
	(void)snprintf(q->port, sizeof(q->port), "%s", port);
	q->fd = fd;
	return q;
}

int resolve_ask(struct resolve *v, struct ev_loop *loop, const char *host, const char *port, resolve_done_fn *done, void *arg,
		struct rpl_err *err)
{
	struct question *q;
	int fds[2], r;

	if (ev_is_active(&v->answered))
		return 0;
	if (pipe2(fds, O_CLOEXEC) < 0)
		return rpl_fail_errno(err, errno, "look up %s: pipe", host);
	q = question_new(host, port, fds[1]);
	r = q ? rpl_thread_detached(ask, q) : -ENOMEM;
	if (r < 0) {
		free(q);
		(void)close(fds[0]);
		(void)close(fds[1]);
		return rpl_fail_errno(err, -r, "look up %s: start a thread", host);
	}
	v->done = done;
	v->arg = arg;
	ev_io_init(&v->answered, on_answered, fds[0], EV_READ);
	v->answered.data = v;
	ev_io_start(loop, &v->answered);
	return 0;
}
