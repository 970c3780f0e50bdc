/* xen_ask.c - see xen_ask.h
 *
 * libxenstore sends a request in three pieces and waits for the answer, which on a handle with a watch a thread takes and hands
 * over: a dozen system calls and four switches between threads and xenstored, at each checkpoint. The wire is public
 * (xen/io/xs_wire.h): one message, and the answer is read before the next request. Whoever asks waits for what the guest does,
 * not for what xenstored says; a request that was refused shows as a guest that does not answer, and is in the log.
 */
#include "xen_ask.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <xen/io/xs_wire.h>

#include <replicad/auto.h>
#include <replicad/io.h>
#include <replicad/log.h>

#define REQUEST_MAX 256
#define UNANSWERED_MAX 8 /* xenstored does not read: its own library shall find out */
#define SETTLE_S 1

void xen_ask_open(struct xen_ask *a, const char *path)
{
	RPL_AUTO_FD int fd = -1;
	struct timeval bound = { .tv_sec = SETTLE_S };
	struct rpl_err err;

	*a = (struct xen_ask){ .sock = -1 };
	fd = path ? rpl_unix_connect(path, SOCK_STREAM, &err) : -1;
	if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof(bound)) == 0)
		a->sock = rpl_steal_fd(&fd);
}

void xen_ask_close(struct xen_ask *a)
{
	rpl_close(&a->sock);
	a->unanswered = a->have = 0;
}

/* The first whole answer of what has come; false: there is none yet. */
static bool take_answer(struct xen_ask *a)
{
	struct xsd_sockmsg h;

	if (a->have < sizeof(h))
		return false;
	memcpy(&h, a->answer, sizeof(h));
	if (!a->unanswered || h.len > sizeof(a->answer) - sizeof(h) || (h.type != XS_WRITE && h.type != XS_ERROR)) {
		rpl_log(RPL_LOG_WARNING, "xenstored=%u len=%u reason=\"an answer that was not asked for\"", h.type, h.len);
		xen_ask_close(a);
		return false;
	}
	if (a->have < sizeof(h) + h.len)
		return false;
	if (h.type == XS_ERROR)
		rpl_log(RPL_LOG_WARNING, "xenstored=\"%.*s\" reason=\"it does not take a request to suspend\"", (int)h.len,
			(const char *)a->answer + sizeof(h));
	a->unanswered--;
	a->have -= (uint32_t)sizeof(h) + h.len;
	memmove(a->answer, a->answer + sizeof(h) + h.len, a->have);
	return true;
}

/* What has come; false: nothing, or it is closed now. */
static bool take(struct xen_ask *a, int flags)
{
	ssize_t n;

	do
		n = recv(a->sock, a->answer + a->have, sizeof(a->answer) - a->have, flags);
	while (n < 0 && errno == EINTR);
	if (n == 0 || (n < 0 && errno != EAGAIN))
		xen_ask_close(a);
	if (n <= 0)
		return false;
	a->have += (uint32_t)n;
	while (take_answer(a))
		;
	return a->sock >= 0;
}

int xen_ask_write(struct xen_ask *a, const char *path, const char *value)
{
	struct xsd_sockmsg h = { .type = XS_WRITE, .len = (uint32_t)(strlen(path) + 1 + strlen(value)) };
	uint8_t request[REQUEST_MAX];

	if (a->sock >= 0 && a->unanswered)
		(void)take(a, MSG_DONTWAIT);
	if (a->sock < 0 || a->unanswered == UNANSWERED_MAX || h.len > sizeof(request) - sizeof(h)) {
		xen_ask_close(a);
		return -ENOTCONN;
	}
	memcpy(request, &h, sizeof(h));
	memcpy(request + sizeof(h), path, strlen(path) + 1);
	memcpy(request + sizeof(h) + strlen(path) + 1, value, strlen(value));
	if (send(a->sock, request, sizeof(h) + h.len, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)(sizeof(h) + h.len)) {
		xen_ask_close(a); /* xenstored throws away a part of one */
		return -EPIPE;
	}
	a->unanswered++;
	return 0;
}

void xen_ask_settle(struct xen_ask *a)
{
	while (a->sock >= 0 && a->unanswered && take(a, 0))
		;
}
