/* xen_channel.c - the event channel that tells of a finished suspend, and how it keeps others from suspending the domain
 *
 * libxl's save, migration and Remus first look whether the domain offers an event channel for suspends, in xenstore's
 * device/suspend/event-channel, as guests did that Linux' own suspend has replaced. If there is one they take libxenguest's lock
 * of that domain, and go no further without it. So the channel that tells us is offered there as well, and we hold the lock:
 * what would suspend the domain and follow its writes beside us is refused before it begins.
 *
 * A keeper that is killed leaves the offer, and the lock is free. Who finds the offer to be our own channel knows that.
 */
#include "xen_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xenguest.h>

#include <replicad/auto.h>
#include <replicad/io.h>

#define PORT_TEXT 64
#define OFFER "/local/domain/%u/device/suspend/event-channel"

/* A port cannot be closed from outside the guest, so the one of an earlier attach to this domain is used again. Its number
 * is kept in a file, which says for which domain. A keeper's run directory, .../vm/NAME, goes with the protection; the file
 * stays in .../xen, where those keep their notes who save or move a domain. */
static void port_dir(const struct xen *x, char path[XEN_PATH])
{
	const char *run = x->g->conf.run_dir, *last = strrchr(run, '/');

	(void)snprintf(path, XEN_PATH, last && strcmp(last + 1, x->g->conf.name) == 0 ? "%s/../../xen" : "%s", run);
}

static void port_path(const struct xen *x, char path[XEN_PATH])
{
	char dir[XEN_PATH];

	port_dir(x, dir);
	(void)rpl_path(path, XEN_PATH, NULL, "%s/%s.suspend-port", dir, x->g->conf.name); /* too long: there is no such file */
}

static int old_port(const struct xen *x)
{
	char path[XEN_PATH], uuid[RPL_UUID_TEXT], said[RPL_UUID_TEXT] = "";
	RPL_AUTO_FREE char *text = NULL;
	unsigned domid = 0;
	int port = -1;
	size_t len;

	port_path(x, path);
	if (rpl_read_file(path, PORT_TEXT, &text, &len, NULL) < 0)
		return -1;
	if (sscanf(text, "%36s %u %d", said, &domid, &port) != 3 || domid != x->domid ||
	    strcmp(said, rpl_uuid_text(&x->g->info.uuid, uuid)) != 0)
		return -1;
	return port;
}

static void keep_port(const struct xen *x, int port)
{
	char path[XEN_PATH], uuid[RPL_UUID_TEXT];
	FILE *f;

	port_dir(x, path);
	(void)mkdir(path, 0755);
	port_path(x, path);
	f = fopen(path, "we");
	if (!f)
		return; /* the next attach makes a new one */
	(void)fprintf(f, "%s %u %d\n", rpl_uuid_text(&x->g->info.uuid, uuid), x->domid, port);
	(void)fclose(f);
}

/* The domain is gone, and the port with it. */
void xen_forget_port(const struct xen *x)
{
	char path[XEN_PATH];

	port_path(x, path);
	(void)unlink(path);
}

/* 0: the domain offers none. */
static int offered_port(const struct xen *x)
{
	RPL_AUTO_FREE char *text = xen_read((struct xen *)x, OFFER, x->domid);

	return text ? atoi(text) : 0;
}

static int write_offer(const struct xen *x, const char *text, struct rpl_err *err)
{
	char path[XEN_PATH];

	(void)snprintf(path, sizeof(path), OFFER, x->domid);
	if (!xs_write(x->xs, XBT_NULL, path, text, (unsigned)strlen(text)))
		return rpl_fail_errno(err, errno, "xenstore: write %s", path);
	return 0;
}

/* A guest that offers a channel itself is left at that: the lock is the same. */
static int offer(struct xen *x, int port, struct rpl_err *err)
{
	int now = offered_port(x);
	char text[16];

	x->inherited = now == port;
	x->offers = now == port || now <= 0;
	(void)snprintf(text, sizeof(text), "%d", port);
	return x->offers && !x->inherited ? write_offer(x, text, err) : 0;
}

/* The lock, the channel, and the news of suspends. */
static int take(struct xen *x, int port)
{
	x->suspend_port = port > 0 ? xc_suspend_evtchn_init_sane(x->xc, x->evtchn, x->domid, port, &x->suspend_lock) : -1;
	if (x->suspend_port < 0)
		x->suspend_lock = -1;
	return x->suspend_port;
}

int xen_subscribe(struct xen *x, struct rpl_err *err)
{
	int port = old_port(x);

	if (take(x, port) < 0) {
		port = xc_evtchn_alloc_unbound(x->xc, x->domid, 0);
		if (port < 0)
			return rpl_fail_errno(err, errno, "domain %u: make an event channel", x->domid);
		keep_port(x, port);
		if (take(x, port) < 0)
			return rpl_fail(err, -EBUSY, "domain %u: its suspends are another program's (xl save, xl migrate, xl remus?): "
					"event channel %d: %s", x->domid, port, strerror(errno));
	}
	return offer(x, port, err);
}

/* Xenstored is told of suspends again; what a stock save or migration waits for. */
void xen_unsubscribe(struct xen *x)
{
	if (x->suspend_port < 0)
		return;
	if (x->offers && !x->over && offered_port(x) > 0) /* a write would make the node of a domain that is gone */
		(void)write_offer(x, "", NULL);
	(void)xc_domain_subscribe_for_suspend(x->xc, x->domid, 0);
	(void)xc_suspend_evtchn_release(x->xc, x->evtchn, x->domid, x->suspend_port, &x->suspend_lock);
	x->suspend_port = -1;
}
