/* xen_unborn_none.c - in a build without Xen's libraries no domain is seen from beside: xl's end is what tells */
#include "xen_unborn.h"

#include <stddef.h>

struct xen_unborn *xen_unborn_new(const char *name, uint64_t pages)
{
	(void)name;
	(void)pages;
	return NULL;
}

void xen_unborn_free(struct xen_unborn *u)
{
	(void)u;
}

void xen_unborn_mark(struct xen_unborn *u)
{
	(void)u;
}

int xen_unborn_unmark(struct xen_unborn *u, struct rpl_err *err)
{
	(void)u;
	(void)err;
	return 0;
}

bool xen_unborn_runs(struct xen_unborn *u)
{
	(void)u;
	return false;
}

bool xen_unborn_remains(struct xen_unborn *u)
{
	(void)u;
	return false;
}

uint32_t xen_unborn_domid(const struct xen_unborn *u)
{
	(void)u;
	return 0;
}
