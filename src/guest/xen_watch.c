/* xen_watch.c - was a device plugged in or out?
 *
 * What was inspected, and what the backup compared, is the domain with the devices that it had then. libxl keeps a node for each
 * device, /libxl/DOMID/device/KIND/NUMBER. When the device comes it writes what stands in it, "backend" among that, which never
 * changes; when it goes it removes the node. Of these xenstored tells (of a node that is only made because something is written
 * below it, it tells nothing). A domain that is being taken apart loses its devices too: that is told as its end. Whoever pauses
 * the domain first is told nothing then, but no checkpoint is taken of it until it was looked at again.
 */
#include "xen_impl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define DEVICES_TOKEN "replicad-devices"

static void devices_path(const struct xen *x, char ret[XEN_PATH])
{
	(void)snprintf(ret, XEN_PATH, "/libxl/%u/device", x->domid);
}

int xen_watch(struct xen *x, struct rpl_err *err)
{
	char path[XEN_PATH];

	devices_path(x, path);
	return xs_watch(x->xs, path, DEVICES_TOKEN) ? 0 : rpl_fail_errno(err, errno, "xenstore: watch %s", path);
}

/* Is it KIND/NUMBER, or KIND/NUMBER/backend? Other things in it may change while it is used. */
static bool came_or_went(const char *below)
{
	const char *number = *below == '/' ? strchr(below + 1, '/') : NULL, *in = number ? strchr(number + 1, '/') : NULL;

	return number && number[1] && (!in || strcmp(in, "/backend") == 0);
}

bool xen_watch_heard(struct xen *x, char *const *event)
{
	const char *path = event[XS_WATCH_PATH];
	char devices[XEN_PATH];
	size_t len;

	if (!event[XS_WATCH_TOKEN] || strcmp(event[XS_WATCH_TOKEN], DEVICES_TOKEN) != 0)
		return false;
	devices_path(x, devices);
	len = strlen(devices);
	if (strncmp(path, devices, len) == 0 && came_or_went(path + len))
		x->plugged = true;
	return true;
}

void xen_watch_tell(struct xen *x)
{
	struct xen_dominfo d;

	if (!x->plugged || x->plugged_told || !x->attached || x->over || x->g->phase != RPL_GP_LIVE)
		return;
	if (xen_compat_dominfo(x->xc, x->domid, &d) < 0 || d.dying || d.paused || (d.shutdown && d.reason != SHUTDOWN_suspend))
		return;
	x->plugged_told = true;
	rpl_guest_tell(x->g, RPL_GUEST_CHANGED, "a device of domain %u was plugged in or out", x->domid); /* the handle may be gone */
}
