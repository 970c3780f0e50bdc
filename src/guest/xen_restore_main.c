/* replicad-xen-restore - ask xl what a keeper must not wait for: is this standby possible; make a domain of the replica
 *
 *   check CONFIG [domain]                             facts as "key=value" lines
 *   standby CONFIG SOCKET_FD                      have a domain made that waits for a helper of ours; it ends when that runs
 *   activate CONFIG RAM_FD STATE_FD DESC_FD LEN   build the domain and let it run
 *
 * The last line is "done" (a keeper's loop may reap us before the exit status is read), or the reason of a failure; then the
 * exit status is 1.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>
#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/io.h>
#include <replicad/log.h>
#include <replicad/memory.h>
#include <replicad/xen.h>

#include "xen_helper.h"
#include "xen_standby.h"
#include "xen_standby_conf.h"
#include "xen_standby_image.h"
#include "xen_standby_xl.h"

/* ---- the replica in a memfd */

struct replica {
	struct rpl_memory *memory;
	const struct rpl_ram_layout *layout;
	uint8_t *types; /* a copy of the table: one byte for each guest page of the file */
};

static unsigned type_of(void *ctx, uint64_t pfn)
{
	const struct replica *rep = ctx;
	uint64_t page;

	if (!rpl_layout_file_page(rep->layout, pfn, &page))
		return XEN_IMAGE_ABSENT;
	return rep->types[page];
}

static int copy_pages(void *ctx, const uint64_t *pfns, size_t n, void *dst, struct rpl_err *err)
{
	return rpl_memory_copy_out(((const struct replica *)ctx)->memory, pfns, n, dst, err);
}

static int read_types(struct replica *rep, struct rpl_err *err)
{
	uint64_t pages = rpl_xen_guest_pages(rep->layout), table = rep->layout->region[rep->layout->count - 1].pages;

	rep->types = malloc(table << RPL_PAGE_SHIFT);
	if (!rep->types)
		return rpl_fail(err, -ENOMEM, "no memory for the types of %" PRIu64 " pages", pages);
	for (uint64_t i = 0; i < table; i++) {
		uint64_t pfn = rpl_xen_types_pfn(rep->layout) + i;
		int r = rpl_memory_copy_out(rep->memory, &pfn, 1, rep->types + (i << RPL_PAGE_SHIFT), err);

		if (r < 0)
			return r;
	}
	return 0;
}

static int open_replica(struct replica *rep, int ram_fd, int desc_fd, struct rpl_err *err)
{
	struct rpl_memory_desc desc;
	int r;

	if (pread(desc_fd, &desc, sizeof(desc), 0) != (ssize_t)sizeof(desc) || desc.kind != RPL_MEMORY_REPLICA)
		return rpl_fail(err, -EINVAL, "the description of the memory");
	if (!rpl_xen_layout_check(&desc.layout, err))
		return err->code;
	rep->memory = rpl_memory_new(&desc, &ram_fd, 1, err);
	if (!rep->memory)
		return err->code;
	rep->layout = rpl_memory_layout(rep->memory);
	r = read_types(rep, err);
	return r;
}

static int to_xl(void *ctx, const void *bytes, size_t len, struct rpl_err *err)
{
	return xl_feed(ctx, bytes, len, err);
}

/* xl takes the definition from the file of this host; the stream brings none. It unpauses the domain itself when the last
 * device is there, which saves the start of another xl. */
static int feed(const char *config, struct xen_image *im, struct rpl_err *err)
{
	char *argv[] = { (char *)"xl", (char *)"restore", (char *)(uintptr_t)config, (char *)XL_STDIN, NULL };
	uint64_t begun = rpl_now_ns(), fed_at;
	struct rpl_err fed = { 0 };
	struct xl_run xl;
	int r = xl_start(&xl, argv, true, err), r_fed;

	if (r < 0)
		return r;
	r_fed = xen_image_write(im, NULL, to_xl, &xl, NULL, &fed);
	fed_at = rpl_now_ns();
	r = xl_end(&xl, NULL, err);
	(void)printf("fed_ms=%" PRIu64 "\nrestored_ms=%" PRIu64 "\n", (fed_at - begun) / RPL_MS, (rpl_now_ns() - begun) / RPL_MS);
	if (r == 0 && r_fed < 0)
		*err = fed;
	return r < 0 ? r : r_fed;
}

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

/* As long as the domain waits, and then until it runs. */
static int standby(const char *config, const char *sock, struct rpl_err *err)
{
	char *argv[] = { (char *)"xl", (char *)"restore", (char *)(uintptr_t)config, (char *)XL_STDIN, NULL };
	struct rpl_err fed = { 0 };
	struct xl_run xl;
	int r = name_helper(err), r_fed;

	if (r < 0)
		return r;
	if (setenv(XEN_HELPER_SOCKET_ENV, sock, 1) < 0)
		return rpl_fail_errno(err, errno, "environment");
	r = xl_start(&xl, argv, true, err);
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

static int activate(const char *config, int ram_fd, int state_fd, int desc_fd, size_t len, struct rpl_err *err)
{
	struct replica rep = { 0 };
	struct xen_image im = { .type = type_of, .copy = copy_pages, .ctx = &rep };
	const void *blob;
	size_t at;
	int r;

	blob = len ? mmap(NULL, len, PROT_READ, MAP_SHARED, state_fd, 0) : MAP_FAILED;
	if (blob == MAP_FAILED)
		return rpl_fail_errno(err, errno, "map %zu bytes of device state", len);
	r = xen_image_split(blob, len, &at, err);
	if (r == 0)
		r = open_replica(&rep, ram_fd, desc_fd, err);
	if (r < 0)
		return r;
	im.head = blob;
	im.head_len = at;
	im.rest = (const uint8_t *)blob + at;
	im.rest_len = len - at;
	im.pfns = rpl_xen_types_pfn(rep.layout);
	r = feed(config, &im, err);
	rpl_memory_free(rep.memory);
	free(rep.types);
	return r;
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
		r = standby(argv[2], argv[3], &err);
	} else if (argc == 7 && strcmp(argv[1], "activate") == 0) {
		r = activate(argv[2], atoi(argv[3]), atoi(argv[4]), atoi(argv[5]), strtoul(argv[6], NULL, 10), &err);
	} else {
		(void)fprintf(stderr, "usage: replicad-xen-restore check CONFIG [domain]\n"
			      "       replicad-xen-restore standby CONFIG SOCKET_FD\n"
			      "       replicad-xen-restore activate CONFIG RAM_FD STATE_FD DESC_FD LEN\n"
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
