/* replicad-xen-restore - ask xl what a keeper must not wait for: is this standby possible; make a domain of the replica
 *
 *   check CONFIG [domain]                             facts as "key=value" lines
 *   standby CONFIG SOCKET_FD [early]              have a domain made that waits for a helper of ours; it ends when that runs,
 *                                                 early: when it has its devices
 *   activate CONFIG NAME RAM_FD STATE_FD DESC_FD LEN SOCKET_FD   build the domain; when the keeper says so, let it run
 *
 * The last line is "done" (a keeper's loop may reap us before the exit status is read), or the reason of a failure; then the
 * exit status is 1.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/log.h>
#include <replicad/stream.h>
#include <replicad/xen.h>

#include "xen_helper.h"
#include "xen_restore_build.h"
#include "xen_standby.h"
#include "xen_standby_conf.h"
#include "xen_standby_xl.h"

/* ---- standby */

/* Ours are side by side. */
static int name_helper(struct rpl_err *err)
{
	char path[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - sizeof(XEN_HELPER_PROGRAM));
	char *slash;

	path[n > 0 ? n : 0] = '\0';
	slash = strrchr(path, '/');
	if (!slash)
		return rpl_fail(err, -ENOENT, "where are we? /proc/self/exe is not to be read");
	(void)strcpy(slash + 1, XEN_HELPER_PROGRAM);
	if (access(path, X_OK) < 0)
		return rpl_fail_errno(err, errno, "%.150s (this build has no replica of kind domain)", path);
	return setenv("LIBXL_SAVE_HELPER", path, 1) < 0 ? rpl_fail_errno(err, errno, "environment") : 0;
}

/* All that libxl reads itself: what precedes the image, and what ends the stream behind it. The image is the helper's. */
static int feed_frame(struct xl_run *xl, struct rpl_err *err)
{
	uint8_t buf[256];
	struct rpl_out o = rpl_out(buf, sizeof(buf));

	rpl_stream_put_xl_header(&o, RPL_XL_FLAG_STREAM_V2, 0);
	rpl_stream_put_libxl_header(&o, 0);
	rpl_stream_put_record(&o, RPL_LIBXL_LIBXC_CONTEXT, NULL, 0);
	rpl_stream_put_record(&o, RPL_LIBXL_END, NULL, 0);
	rpl_assert(!o.bad);
	return xl_feed(xl, o.p, o.len, err);
}

/* As long as the domain waits, and then until it runs. Early: until it has its devices; it stays paused. */
static int standby(const char *config, const char *sock, bool early, struct rpl_err *err)
{
	char *now[] = { (char *)"xl", (char *)"restore", (char *)"-p", (char *)(uintptr_t)config, (char *)XL_STDIN, NULL };
	char *late[] = { (char *)"xl", (char *)"restore", (char *)(uintptr_t)config, (char *)XL_STDIN, NULL };
	struct rpl_err fed = { 0 };
	struct xl_run xl;
	int r = name_helper(err), r_fed;

	if (r < 0)
		return r;
	if (setenv(XEN_HELPER_SOCKET_ENV, sock, 1) < 0)
		return rpl_fail_errno(err, errno, "environment");
	r = xl_start(&xl, early ? now : late, true, err);
	if (r < 0)
		return r;
	(void)close(atoi(sock)); /* the helper's alone. It has told the domain's number */
	r_fed = feed_frame(&xl, &fed);
	r = xl_end(&xl, NULL, err);
	if (r == 0 && r_fed < 0)
		*err = fed;
	return r < 0 ? r : r_fed;
}

/* ---- activate, from a memfd */

/* xl inherits none of them: it leaves a monitor behind, which would keep the replica's memory for as long as the guest lives. */
static int activate(char *const *arg, struct rpl_err *err)
{
	struct xen_build b = { .config = arg[0], .name = arg[1], .ram_fd = atoi(arg[2]), .state_fd = atoi(arg[3]), .desc_fd = atoi(arg[4]),
			       .len = strtoul(arg[5], NULL, 10), .sock = atoi(arg[6]) };
	const int fds[] = { b.ram_fd, b.state_fd, b.desc_fd, b.sock };

	for (size_t i = 0; i < RPL_ARRAY_LEN(fds); i++)
		if (fcntl(fds[i], F_SETFD, FD_CLOEXEC) < 0)
			return rpl_fail_errno(err, errno, "descriptor %d, which the keeper was to pass", fds[i]);
	return xen_build(&b, err);
}

/* ---- check */

static int check(const char *config, bool domain, struct rpl_err *err)
{
	struct xen_conf conf = { 0 };
	int r = xen_conf_read(&conf, config, err);

	if (r == 0)
		r = xen_conf_check_host(&conf, !domain, err);
	if (r == 0)
		xen_conf_print(&conf);
	xen_conf_fini(&conf);
	return r;
}

int main(int argc, char **argv)
{
	struct rpl_err err = { 0 };
	int r;

	(void)signal(SIGPIPE, SIG_IGN);
	rpl_log_init("xen-restore", RPL_LOG_INFO);
	if (argc == 3 && strcmp(argv[1], "check") == 0) {
		r = check(argv[2], false, &err);
	} else if (argc == 4 && strcmp(argv[1], "check") == 0 && strcmp(argv[3], "domain") == 0) {
		r = check(argv[2], true, &err);
	} else if (argc == 4 && strcmp(argv[1], "standby") == 0) {
		r = standby(argv[2], argv[3], false, &err);
	} else if (argc == 5 && strcmp(argv[1], "standby") == 0 && strcmp(argv[4], "early") == 0) {
		r = standby(argv[2], argv[3], true, &err);
	} else if (argc == 9 && strcmp(argv[1], "activate") == 0) {
		r = activate(argv + 2, &err);
	} else {
		(void)fprintf(stderr, "usage: replicad-xen-restore check CONFIG [domain]\n"
			      "       replicad-xen-restore standby CONFIG SOCKET_FD [early]\n"
			      "       replicad-xen-restore activate CONFIG NAME RAM_FD STATE_FD DESC_FD LEN SOCKET_FD\n"
			      "Started by replicad-keeper; see replicad-xen-restore(8).\n");
		return argc == 2 && strcmp(argv[1], "--help") == 0 ? 0 : 2;
	}
	if (r == 0)
		(void)puts(XEN_RESTORE_DONE);
	(void)fflush(stdout);
	if (r < 0)
		(void)fprintf(stderr, "%s\n", err.msg);
	return r < 0;
}
