/* xen_helper_hvm.c - completing a PVH domain whose memory is in place
 *
 * Without page tables to translate there is nothing that libxc's own restore would do wrong: it is given a stream without
 * any PAGE_DATA, which the specification allows, and with that touches no memory but the pages of xenstore, console and device
 * model, which it clears. CPU policy, parameters, context and grant table are its work.
 */
#include "xen_helper_impl.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <xenguest.h>

#include <replicad/stream.h>

static struct rpl_err asked; /* what went wrong in the callback, which cannot say it */

static int on_static_data_done(unsigned int missing, void *data)
{
	(void)data;
	return xen_helper_static_data_done(missing, &asked) < 0 ? -1 : 0;
}

int xen_helper_complete_hvm(struct xen_helper *h, int fd, struct rpl_err *err)
{
	struct restore_callbacks callbacks = { .static_data_done = on_static_data_done };
	const struct xen_helper_args *a = &h->args;
	unsigned long store = 0, console = 0;

	/* behind the libxl header and the mark that the image follows */
	if (lseek(fd, RPL_LIBXL_HEADER + RPL_STREAM_RECORD_HEAD, SEEK_SET) < 0)
		return rpl_fail_errno(err, errno, "device state");
	if (xc_domain_restore(h->xc, fd, a->domid, a->store_port, &store, a->store_domid, a->console_port, &console, a->console_domid,
			      XC_STREAM_PLAIN, &callbacks, -1) < 0) {
		int e = errno;

		if (asked.code) {
			*err = asked;
			return asked.code;
		}
		return rpl_fail_errno(err, e ? e : EIO, "domain %u: restore its device state", a->domid);
	}
	h->store_gfn = store;
	h->console_gfn = console;
	return 0;
}
