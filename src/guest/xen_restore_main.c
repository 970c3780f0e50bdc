/* replicad-xen-restore - ask xl what a keeper must not wait for: is this standby possible; make a domain of the replica
 *
 *   check CONFIG                                  facts as "key=value" lines
 *   activate CONFIG RAM_FD STATE_FD DESC_FD LEN   build the domain and let it run; "domid=N"
 *
 * The last line is "done" (a keeper's loop may reap us before the exit status is read), or the reason of a failure; then the
 * exit status is 1.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <jansson.h>
#include <replicad/auto.h>
#include <replicad/io.h>
#include <replicad/log.h>
#include <replicad/memory.h>
#include <replicad/xen.h>

#include "xen_standby.h"
#include "xen_standby_conf.h"
#include "xen_standby_image.h"
#include "xen_standby_xl.h"

/* ---- activate */

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
	struct rpl_err fed = { 0 };
	struct xl_run xl;
	int r = xl_start(&xl, argv, true, err), r_fed;

	if (r < 0)
		return r;
	r_fed = xen_image_write(im, NULL, to_xl, &xl, NULL, &fed);
	r = xl_end(&xl, NULL, err);
	if (r == 0 && r_fed < 0)
		*err = fed;
	return r < 0 ? r : r_fed;
}

static int activate(const char *config, int ram_fd, int state_fd, int desc_fd, size_t len, struct rpl_err *err)
{
	struct replica rep = { 0 };
	struct xen_image im = { .type = type_of, .copy = copy_pages, .ctx = &rep };
	struct xen_conf conf = { 0 };
	const void *blob;
	uint32_t domid;
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
	if (r == 0)
		r = xen_conf_read(&conf, config, err);
	if (r == 0)
		r = xl_domid(conf.name, &domid, err);
	if (r == 0)
		(void)printf("domid=%" PRIu32 "\n", domid);
	xen_conf_fini(&conf);
	rpl_memory_free(rep.memory);
	free(rep.types);
	return r;
}

/* ---- check */

static int check(const char *config, struct rpl_err *err)
{
	struct xen_conf conf = { 0 };
	int r = xen_conf_read(&conf, config, err);

	if (r == 0)
		r = xen_conf_check_host(&conf, err);
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
		r = check(argv[2], &err);
	} else if (argc == 7 && strcmp(argv[1], "activate") == 0) {
		r = activate(argv[2], atoi(argv[3]), atoi(argv[4]), atoi(argv[5]), strtoul(argv[6], NULL, 10), &err);
	} else {
		(void)fprintf(stderr, "usage: replicad-xen-restore check CONFIG\n"
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
