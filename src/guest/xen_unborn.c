#include "xen_unborn.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xenstore.h>

#include <replicad/auto.h>

#include "xen_compat.h"
#include "xen_helper.h"

#define PATH_TEXT 64
#define NAME_TEXT 256
#define KIB_PER_PAGE 4

struct xen_unborn {
	xc_interface *xc;
	struct xs_handle *xs;
	char name[NAME_TEXT];
	uint64_t pages;
	uint32_t domid;
	bool marked;
};

static bool has_name(struct xen_unborn *u, const char *domid)
{
	char path[PATH_TEXT];
	unsigned len;
	RPL_AUTO_FREE char *name = NULL;

	(void)snprintf(path, sizeof(path), "/local/domain/%.10s/name", domid);
	name = xs_read(u->xs, XBT_NULL, path, &len);
	return name && strcmp(name, u->name) == 0;
}

/* The number of the paused domain of our name, or 0. A name of another domain keeps xl from giving it to this one. */
static uint32_t find(struct xen_unborn *u)
{
	unsigned n = 0;
	RPL_AUTO_FREE char **ids = xs_directory(u->xs, XBT_NULL, "/local/domain", &n);
	struct xen_dominfo info;

	for (unsigned i = 0; ids && i < n; i++) {
		uint32_t domid = (uint32_t)strtoul(ids[i], NULL, 10);

		if (domid && has_name(u, ids[i]) && xen_compat_dominfo(u->xc, domid, &info) == 0 && info.paused && !info.dying)
			return domid;
	}
	return 0;
}

struct xen_unborn *xen_unborn_new(const char *name, uint64_t pages)
{
	struct xen_unborn *u = calloc(1, sizeof(*u));

	if (!u)
		return NULL;
	(void)snprintf(u->name, sizeof(u->name), "%s", name);
	u->pages = pages;
	u->xs = xs_open(0);
	u->xc = u->xs ? xc_interface_open(NULL, NULL, 0) : NULL;
	if (u->xc && find(u) == 0) /* else xl will refuse, and what is there is not ours */
		return u;
	xen_unborn_free(u);
	return NULL;
}

void xen_unborn_free(struct xen_unborn *u)
{
	if (!u)
		return;
	if (u->xs)
		xs_close(u->xs);
	if (u->xc)
		(void)xc_interface_close(u->xc);
	free(u);
}

static const char *node(const struct xen_unborn *u, char path[PATH_TEXT])
{
	(void)snprintf(path, PATH_TEXT, RPL_XEN_STANDBY_NODE, u->domid);
	return path;
}

/* libxl lets a domain have what its file says (memory=); the guest may have been given more since, by xl mem-set. Where that is not
 * possible its restore fails as it would have. */
static void allow(struct xen_unborn *u)
{
	struct xen_dominfo info;

	if (xen_compat_dominfo(u->xc, u->domid, &info) == 0 && info.max_pages < u->pages)
		(void)xc_domain_setmaxmem(u->xc, u->domid, u->pages * KIB_PER_PAGE);
}

void xen_unborn_mark(struct xen_unborn *u)
{
	char path[PATH_TEXT];

	if (!u || u->domid)
		return;
	u->domid = find(u);
	u->marked = u->domid && xs_write(u->xs, XBT_NULL, node(u, path), "1", 1);
	if (u->domid)
		allow(u);
}

int xen_unborn_unmark(struct xen_unborn *u, struct rpl_err *err)
{
	char path[PATH_TEXT];

	if (!u || !u->marked)
		return 0;
	if (!xs_rm(u->xs, XBT_NULL, node(u, path)))
		return rpl_fail_errno(err, errno, "xenstore: remove %s", path);
	u->marked = false;
	return 0;
}

bool xen_unborn_runs(struct xen_unborn *u)
{
	struct xen_dominfo info;

	return u && u->domid && xen_compat_dominfo(u->xc, u->domid, &info) == 0 && !info.paused && !info.dying;
}

bool xen_unborn_remains(struct xen_unborn *u)
{
	struct xen_dominfo info;

	return u && u->marked && xen_compat_dominfo(u->xc, u->domid, &info) == 0 && !info.dying;
}

uint32_t xen_unborn_domid(const struct xen_unborn *u)
{
	return u ? u->domid : 0;
}
