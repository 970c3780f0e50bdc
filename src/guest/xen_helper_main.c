/* replicad-xen-helper - libxl's save helper for a domain that is a replica
 *
 * libxl starts it in the place of libxl-save-helper when LIBXL_SAVE_HELPER names it, which replicad-xen-restore sets for the
 * one xl that it starts. What it does is in xen_helper.h; how it talks to libxl in xen_helper_msgs.h.
 *
 * Before it says READY it has found that the program which runs it has the one libxl whose protocol it speaks, that the
 * arguments are that libxl's, and that libxl answered a message. (static_data_done with nothing missing: libxl does nothing
 * for it but answer.)
 */
#include "xen_helper_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <xenstore.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/guest.h>
#include <replicad/io.h>
#include <replicad/log.h>

#include "xen_compat.h"
#include "xen_standby_image.h"
#include "xen_standby_xl.h"

#define PROGRAM XEN_HELPER_PROGRAM
#define MAPS_MAX (4u << 20)
#define PATH_TEXT 64

/* ---- to libxl */

static bool listening = true;

static void say(const struct rpl_out *o)
{
	rpl_assert(!o->bad);
	if (rpl_write_full(STDOUT_FILENO, o->p, o->len) < 0)
		exit(EXIT_FAILURE); /* nobody listens any more: libxl has given up */
}

void xen_helper_log(enum xen_helper_level level, const char *fmt, ...)
{
	uint8_t buf[XEN_HELPER_MSG_MAX];
	struct rpl_out o = rpl_out(buf, sizeof(buf));
	char text[XEN_HELPER_TEXT_MAX];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (!listening) {
		rpl_log(RPL_LOG_INFO, "%s", text);
		return;
	}
	xen_helper_put_log(&o, level, -1, PROGRAM, text);
	say(&o);
}

static int answer(const char *to, struct rpl_err *err)
{
	int value;
	int r = rpl_read_full(STDIN_FILENO, &value, sizeof(value));

	if (r < 0)
		return rpl_fail_errno(err, -r, "libxl's answer to %s", to);
	return value == 0 ? 0 : rpl_fail(err, -EPROTO, "libxl answered %s with %d", to, value);
}

int xen_helper_static_data_done(unsigned missing, struct rpl_err *err)
{
	uint8_t buf[XEN_HELPER_MSG_MAX];
	struct rpl_out o = rpl_out(buf, sizeof(buf));

	if (!listening) /* it had its turn when it made the domain */
		return missing ? rpl_fail(err, -ENOTSUP, "the device state has no CPU policy (0x%x)", missing) : 0;
	xen_helper_put_static_data_done(&o, missing);
	say(&o);
	return answer("static_data_done", err);
}

static int complete(const struct xen_helper *h, int retval, int errnoval, struct rpl_err *err)
{
	uint8_t buf[XEN_HELPER_MSG_MAX];
	struct rpl_out o = rpl_out(buf, sizeof(buf));

	xen_helper_put_restore_results(&o, h->store_gfn, h->console_gfn);
	xen_helper_put_complete(&o, retval, errnoval);
	say(&o);
	return answer("complete", err);
}

/* ---- to the keeper */

static int tell(int sock, const struct xen_helper_say *m, const int *fds, size_t n, struct rpl_err *err)
{
	int r = rpl_send_fds(sock, m, sizeof(*m), fds, n);

	return r < 0 ? rpl_fail_errno(err, -r, "tell the keeper") : 0;
}

/* The next order; ECONNRESET: the keeper is gone, or has no use for the domain. *ret_fd: -1 if no descriptor came. */
static int order(int sock, struct xen_helper_say *ret, int *ret_fd, struct rpl_err *err)
{
	size_t n = 1;
	ssize_t len = rpl_recv_fds(sock, ret, sizeof(*ret), ret_fd, &n);

	if (n == 0)
		*ret_fd = -1;
	if (len == 0)
		return rpl_fail(err, -ECONNRESET, "its keeper has no use for this replica any more");
	if (len < 0)
		return rpl_fail_errno(err, (int)-len, "hear from the keeper");
	if (len == (ssize_t)sizeof(*ret))
		return 0;
	rpl_close(ret_fd);
	return rpl_fail(err, -EBADMSG, "%zd bytes from the keeper, a message has %zu", len, sizeof(*ret));
}

static int lay_out(struct xen_helper *h, const struct rpl_ram_layout *l, struct rpl_err *err)
{
	uint64_t begin = rpl_now_ns();

	if (h->alone)
		return rpl_fail(err, -EBUSY, "domain %u is laid out for another primary's memory already", h->args.domid);
	if (xen_helper_lay_out(h, l, err) < 0)
		return err->code;
	xen_helper_log(XEN_LEVEL_INFO, "%" PRIu64 " pages given in %" PRIu64 " ms", h->pages, (rpl_now_ns() - begin) / RPL_MS);
	return 0;
}

static int tell_laid_out(struct xen_helper *h, int sock, struct rpl_err *err)
{
	struct xen_helper_say m = { .kind = XEN_HELPER_LAID_OUT, .pid = h->alone ? (uint32_t)getpid() : 0 };
	int fds[2], r;

	fds[0] = xen_compat_privcmd(h->args.domid, err);
	if (fds[0] < 0)
		return err->code;
	fds[1] = h->shared_fd;
	r = tell(sock, &m, fds, RPL_ARRAY_LEN(fds), err);
	(void)close(fds[0]);
	return r;
}

/* ---- activation */

static int complete_domain(struct xen_helper *h, int fd, void *blob, size_t len, struct rpl_err *err)
{
	size_t at;

	if (xen_image_split(blob, len, &at, err) < 0 || xen_helper_trim(h, err) < 0)
		return err->code;
	return h->pv ? xen_helper_complete_pv(h, blob, len, err) : xen_helper_complete_hvm(h, fd, err);
}

static int activate(struct xen_helper *h, int fd, uint64_t len, struct rpl_err *err)
{
	void *blob;
	int r;

	if (fd < 0 || !h->laid_out)
		return rpl_fail(err, -EPROTO, "told to activate, but %s", h->laid_out ? "without a device state" : "there is no memory yet");
	blob = len && len <= RPL_GUEST_STATE_MAX ? mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
	if (blob == MAP_FAILED)
		return rpl_fail(err, -EINVAL, "%" PRIu64 " bytes of device state, from 1 to %d are possible", len, RPL_GUEST_STATE_MAX);
	r = complete_domain(h, fd, blob, len, err);
	(void)munmap(blob, len);
	return r;
}

/* ---- standing by */

static int mark(struct xs_handle *xs, uint32_t domid, bool on, struct rpl_err *err)
{
	char path[PATH_TEXT];
	bool done;

	(void)snprintf(path, sizeof(path), RPL_XEN_STANDBY_NODE, domid);
	done = on ? xs_write(xs, XBT_NULL, path, "1", 1) : xs_rm(xs, XBT_NULL, path);
	return done ? 0 : rpl_fail_errno(err, errno, "xenstore: %s %s", on ? "write" : "remove", path);
}

static int become_guest(struct xen_helper *h, int sock, struct xs_handle *xs, int fd, uint64_t len, struct rpl_err *err)
{
	struct xen_helper_say m = { .kind = XEN_HELPER_COMPLETED };
	uint64_t begin = rpl_now_ns();

	if (activate(h, fd, len, err) < 0 || mark(xs, h->args.domid, false, err) < 0)
		return err->code;
	if (h->alone && xc_domain_unpause(h->xc, h->args.domid) < 0)
		return rpl_fail_errno(err, errno, "domain %u: unpause", h->args.domid);
	m.len = (rpl_now_ns() - begin) / 1000;
	(void)rpl_send_fds(sock, &m, sizeof(m), NULL, 0); /* a keeper that ended meanwhile does not stop it */
	return 0;
}

static int stay(struct xen_helper *h, int sock);

/* libxl is told that the domain is complete, by us; who waits for the keeper from now on is a child, which libxl does not know. */
static int part(struct xen_helper *h, int sock, const struct xen_helper_say *m, struct rpl_err *err)
{
	pid_t pid;

	if (xen_helper_put_rings(h, m->store_gfn, m->console_gfn, err) < 0)
		return err->code;
	pid = fork();
	if (pid == 0)
		exit(stay(h, sock));
	return pid < 0 ? rpl_fail_errno(err, errno, "fork") : 0;
}

/* Until there is nothing left to do: 0. */
static int obey(struct xen_helper *h, int sock, struct xs_handle *xs, struct rpl_err *err)
{
	for (;;) {
		RPL_AUTO_FD int fd = -1;
		struct xen_helper_say m;
		int r = h->alone ? xen_helper_wait(h, sock, xs, err) : 0;

		if (r == 0)
			r = order(sock, &m, &fd, err);
		if (r < 0)
			return r;
		if (m.kind == XEN_HELPER_ACTIVATE)
			return become_guest(h, sock, xs, fd, m.len, err);
		if (m.kind != XEN_HELPER_LAYOUT)
			return rpl_fail(err, -EPROTO, "order %u from the keeper", m.kind);
		if (lay_out(h, &m.layout, err) < 0)
			return err->code;
		if (m.store_gfn)
			return part(h, sock, &m, err);
		if (tell_laid_out(h, sock, err) < 0)
			return err->code;
	}
}

static void tell_failed(int sock, const struct rpl_err *err)
{
	struct xen_helper_say failed = { .kind = XEN_HELPER_FAILED };

	(void)snprintf(failed.reason, sizeof(failed.reason), "%s", err->msg);
	(void)rpl_send_fds(sock, &failed, sizeof(failed), NULL, 0);
}

/* Alone: nobody else would take a domain away that does not become the guest. */
static int stay(struct xen_helper *h, int sock)
{
	struct rpl_err err = { 0 }, none;
	struct xs_handle *xs;
	int r;

	listening = false;
	r = xen_helper_be_alone(h, &err);
	xs = xs_open(0);
	if (r == 0 && !xs)
		r = rpl_fail_errno(&err, errno, "connect to xenstored");
	if (r == 0)
		r = tell_laid_out(h, sock, &err);
	if (r == 0)
		r = obey(h, sock, xs, &err);
	if (r == 0)
		return EXIT_SUCCESS;
	tell_failed(sock, &err);
	if (r != -ESRCH)
		(void)xl_destroy(h->args.domid, &none);
	return EXIT_FAILURE;
}

static int stand_by(struct xen_helper *h, int sock, struct rpl_err *err)
{
	struct xen_helper_say m = { .kind = XEN_HELPER_READY, .domid = h->args.domid, .pv = h->pv };
	struct xs_handle *xs = xs_open(0);
	int r;

	if (!xs)
		return rpl_fail_errno(err, errno, "connect to xenstored");
	r = mark(xs, h->args.domid, true, err);
	if (r == 0)
		r = tell(sock, &m, NULL, 0, err);
	if (r == 0)
		r = obey(h, sock, xs, err);
	xs_close(xs);
	return r;
}

/* ---- the start */

static int check_toolstack(struct rpl_err *err)
{
	RPL_AUTO_FREE char *maps = NULL;
	char path[PATH_TEXT];

	(void)snprintf(path, sizeof(path), "/proc/%d/maps", (int)getppid());
	if (rpl_read_file(path, MAPS_MAX, &maps, NULL, err) < 0)
		return err->code;
	return xen_helper_gate(maps, err) ? xen_helper_static_data_done(0, err) : err->code;
}

static int open_domain(struct xen_helper *h, struct rpl_err *err)
{
	struct xen_dominfo d;
	int r;

	h->xc = xc_interface_open(NULL, NULL, 0);
	if (!h->xc)
		return rpl_fail_errno(err, errno, "open the hypervisor's interface");
	r = xen_compat_dominfo(h->xc, h->args.domid, &d);
	if (r < 0)
		return rpl_fail_errno(err, -r, "domain %u", h->args.domid);
	h->pv = !d.hvm;
	return 0;
}

static int keepers_socket(int *ret, struct rpl_err *err)
{
	const char *text = getenv(XEN_HELPER_SOCKET_ENV);

	*ret = text ? atoi(text) : -1;
	if (*ret <= STDERR_FILENO || fcntl(*ret, F_SETFD, FD_CLOEXEC) < 0)
		return rpl_fail(err, -EINVAL, XEN_HELPER_SOCKET_ENV " is '%.20s': replicad-xen-restore starts the toolstack that starts us",
				text ? text : "");
	return 0;
}

static int run(struct xen_helper *h, int sock, struct rpl_err *err)
{
	if (check_toolstack(err) < 0 || open_domain(h, err) < 0)
		return err->code;
	return stand_by(h, sock, err);
}

int main(int argc, char **argv)
{
	struct xen_helper h = { .shared_fd = -1 };
	struct rpl_err err = { 0 };
	int sock = -1, r;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* without its toolstack nothing can come of the domain */
	rpl_log_init("xen-helper", RPL_LOG_WARNING);
	if (argc == 2 && strcmp(argv[1], "--help") == 0) {
		(void)puts("usage: " PROGRAM " --restore-domain ...\nStarted by libxl in place of its save helper; see replicad-xen(7).");
		return EXIT_SUCCESS;
	}
	r = keepers_socket(&sock, &err);
	if (r == 0)
		r = xen_helper_args(argc, argv, &h.args, &err);
	if (r == 0)
		r = run(&h, sock, &err);
	if (r == 0)
		r = complete(&h, 0, 0, &err);
	if (r == 0)
		return EXIT_SUCCESS; /* the domain's memory is its own */
	if (sock >= 0)
		tell_failed(sock, &err);
	(void)fprintf(stderr, PROGRAM ": error: %s\n", err.msg); /* xl's own; its last words are what is reported */
	return EXIT_FAILURE;
}
