#include "xen_standby_domain.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/io.h>

static void drop(int *fds, size_t n)
{
	for (size_t i = 0; i < n; i++)
		(void)close(fds[i]);
}

int xen_domain_hear(int sock, struct xen_helper_say *ret, int *fds, size_t *n_fds, struct rpl_err *err)
{
	size_t n = *n_fds;
	ssize_t len = rpl_recv_fds(sock, ret, sizeof(*ret), fds, &n);

	*n_fds = 0;
	if (len == -EAGAIN)
		return 1;
	if (len == 0)
		return rpl_fail(err, -ECONNRESET, XEN_HELPER_PROGRAM " has ended");
	if (len < 0)
		return rpl_fail_errno(err, (int)-len, "hear from " XEN_HELPER_PROGRAM);
	*n_fds = n;
	if (len == (ssize_t)sizeof(*ret) && ret->kind != XEN_HELPER_FAILED)
		return 0;
	drop(fds, n);
	*n_fds = 0;
	if (len != (ssize_t)sizeof(*ret))
		return rpl_fail(err, -EBADMSG, "%zd bytes from " XEN_HELPER_PROGRAM ", a message has %zu", len, sizeof(*ret));
	ret->reason[sizeof(ret->reason) - 1] = '\0';
	return rpl_fail(err, -EIO, XEN_HELPER_PROGRAM ": %.180s", ret->reason);
}

/* One that has just ended cannot be told: its last words are in the socket, and who listens there hears them. */
static int tell(int sock, const struct xen_helper_say *m, const int *fds, size_t n, struct rpl_err *err)
{
	int r = rpl_send_fds(sock, m, sizeof(*m), fds, n);

	if (rpl_hung_up(r))
		return 0;
	return r < 0 ? rpl_fail_errno(err, -r, "tell " XEN_HELPER_PROGRAM) : 0;
}

int xen_domain_lay_out(int sock, const struct rpl_ram_layout *l, const uint64_t rings[2], struct rpl_err *err)
{
	struct xen_helper_say m = { .kind = XEN_HELPER_LAYOUT, .layout = *l };

	if (rings) {
		m.store_gfn = rings[0];
		m.console_gfn = rings[1];
	}
	return tell(sock, &m, NULL, 0, err);
}

int xen_domain_activate(int sock, int state_fd, size_t len, struct rpl_err *err)
{
	const struct xen_helper_say m = { .kind = XEN_HELPER_ACTIVATE, .len = len };

	return tell(sock, &m, &state_fd, 1, err);
}
