/* interfaces.c - netbuf=plug must know every interface that carries the guest's output: those of the configuration, or
 * those that the guest itself names once it is there (a Xen domain's vifs have its number in their names) */
#include "keeper.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <replicad/auto.h>

/* "a, b" into pointers into `text`, ended by NULL. */
static int split(char *text, const char *names[RPL_NETBUF_INTERFACES_MAX + 1], struct rpl_err *err)
{
	char *save = NULL;
	size_t n = 0;

	for (char *w = strtok_r(text, ", ", &save); w; w = strtok_r(NULL, ", ", &save)) {
		if (n == RPL_NETBUF_INTERFACES_MAX)
			return rpl_fail(err, -E2BIG, "more than %d network interfaces", RPL_NETBUF_INTERFACES_MAX);
		names[n++] = w;
	}
	names[n] = NULL;
	return 0;
}

int keeper_interfaces(struct keeper *k, const struct rpl_guest_info *info, struct rpl_err *err)
{
	const char *names[RPL_NETBUF_INTERFACES_MAX + 1], *list = k->conf.interfaces;
	RPL_AUTO_FREE char *text = NULL;
	int r;

	if (!*list)
		list = info ? info->interfaces : NULL;
	if (!list)
		return 0;
	text = strdup(list);
	if (!text)
		return rpl_fail(err, -ENOMEM, "no memory for the names of interfaces");
	r = split(text, names, err);
	if (r == 0)
		r = rpl_netbuf_interfaces(k->netbuf, names, err);
	return r == -EBUSY ? 0 : r; /* held under these names: an earlier keeper's, found again by attach */
}
