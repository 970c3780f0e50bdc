/* xen_interfaces.c - the host's interfaces that carry a domain's output, as netbuf=plug must hold all of them
 *
 * netback names them vif<domain>.<device>, or as the backend's node `vifname` says. A device of the type "vif_ioemu", the
 * default of HVM guests, has a second one: the tap of the emulated card, with "-emu" behind the name. Which of the two the
 * guest sends through is its own choice, and stock Remus holds the wrong one if it has PV drivers.
 */
#include "xen_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <replicad/auto.h>
#include <replicad/netbuf.h>

#define LIST_MAX (RPL_NETBUF_INTERFACES_MAX * 40)

static int add(char *list, const char *name, const char *suffix, struct rpl_err *err)
{
	size_t at = strlen(list);
	int n = snprintf(list + at, LIST_MAX - at, "%s%s%s", at ? "," : "", name, suffix);

	return n < 0 || (size_t)n >= LIST_MAX - at ? rpl_fail(err, -E2BIG, "its network interfaces have too many names") : 0;
}

static int add_device(struct xen *x, const char *id, char *list, struct rpl_err *err)
{
	RPL_AUTO_FREE char *backend = xen_read(x, "/libxl/%u/device/vif/%.20s/backend", x->domid, id);
	RPL_AUTO_FREE char *name = backend ? xen_read(x, "%.160s/vifname", backend) : NULL;
	RPL_AUTO_FREE char *type = backend ? xen_read(x, "%.160s/type", backend) : NULL;
	char usual[48];
	int r;

	if (!backend)
		return rpl_fail(err, -ENOENT, "network device %.20s has no backend in xenstore", id);
	if (strncmp(backend, "/local/domain/0/", 16) != 0)
		return rpl_fail(err, -ENOTSUP, "network device %.20s is driven by another domain (%.80s): its output cannot be held "
				"here", id, backend);
	(void)snprintf(usual, sizeof(usual), "vif%u.%.20s", x->domid, id);
	r = add(list, name ? name : usual, "", err);
	return r == 0 && type && strcmp(type, "vif_ioemu") == 0 ? add(list, name ? name : usual, "-emu", err) : r;
}

int xen_interfaces(struct xen *x, struct rpl_err *err)
{
	char path[XEN_PATH], *list = calloc(1, LIST_MAX), **ids;
	unsigned n = 0;
	int r = 0;

	if (!list)
		return rpl_fail(err, -ENOMEM, "no memory for the names of its interfaces");
	(void)snprintf(path, sizeof(path), "/libxl/%u/device/vif", x->domid);
	ids = xs_directory(x->xs, XBT_NULL, path, &n); /* NULL: it has none */
	for (unsigned i = 0; i < n && r == 0; i++)
		r = add_device(x, ids[i], list, err);
	free(ids);
	if (r < 0) {
		free(list);
		return r;
	}
	free(x->g->info.interfaces);
	x->g->info.interfaces = list;
	return 0;
}
