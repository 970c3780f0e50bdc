/* xen_restore_build.c - a domain of the replica in a memfd
 *
 * Why what is built before the takeover is won cannot run, and has no device: xl reads one plain stream. Behind the guest's memory
 * comes its state, and then libxl's END; all of this is held back until the keeper says GO, which it does when the claim is won
 * and the store is promoted. libxl creates devices, which is what opens disks, when it has read END, and xl unpauses the
 * domain after the last of them. A stream that ends before is an error to libxl, by which it destroys the domain. So whoever of
 * us dies, the pipe closes and nothing is left but, if xl itself was killed, a paused domain with our mark (xen_unborn.h).
 */
#include "xen_restore_build.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/io.h>
#include <replicad/memory.h>
#include <replicad/xen.h>

#include "xen_standby.h"
#include "xen_standby_image.h"
#include "xen_standby_xl.h"
#include "xen_unborn.h"

#define LOOK_MS 10 /* between two questions whether it runs */
#define PAGES_PER_MIB (UINT64_C(1) << (20 - RPL_PAGE_SHIFT))

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

	if (pread(desc_fd, &desc, sizeof(desc), 0) != (ssize_t)sizeof(desc) || desc.kind != RPL_MEMORY_REPLICA)
		return rpl_fail(err, -EINVAL, "the description of the memory");
	if (!rpl_xen_layout_check(&desc.layout, err))
		return err->code;
	rep->memory = rpl_memory_new(&desc, &ram_fd, 1, err);
	if (!rep->memory)
		return err->code;
	rep->layout = rpl_memory_layout(rep->memory);
	return read_types(rep, err);
}

/* ---- the keeper */

struct build {
	struct xl_run xl;
	struct xen_unborn *unborn;
	int sock;
	uint64_t begun;
};

static void tell(struct build *b, enum xen_build_kind kind)
{
	const struct xen_build_say m = { .kind = kind, .domid = xen_unborn_domid(b->unborn), .ms = (rpl_now_ns() - b->begun) / RPL_MS };

	(void)rpl_send_fds(b->sock, &m, sizeof(m), NULL, 0); /* a keeper that ended is seen where its word is waited for */
}

static int no_use(struct rpl_err *err)
{
	return rpl_fail(err, -ECANCELED, "its keeper has no use for the domain");
}

/* Before anything is fed: does the keeper still want it? */
static int still_wanted(struct build *b, struct rpl_err *err)
{
	struct xen_build_say m;

	return recv(b->sock, &m, sizeof(m), MSG_PEEK | MSG_DONTWAIT) == 0 ? no_use(err) : 0;
}

static int to_xl(void *ctx, const void *bytes, size_t len, struct rpl_err *err)
{
	struct build *b = ctx;
	int r = still_wanted(b, err);

	if (r == 0)
		xen_unborn_mark(b->unborn);
	return r < 0 ? r : xl_feed(&b->xl, bytes, len, err);
}

/* GO, or the keeper's end, or xl's. */
static int wait_for_word(struct build *b, struct rpl_err *err)
{
	struct pollfd pfd[] = { { .fd = b->sock, .events = POLLIN }, { .fd = b->xl.feed } };
	struct xen_build_say m;
	size_t n = 0;
	ssize_t len;

	while (poll(pfd, RPL_ARRAY_LEN(pfd), -1) < 0)
		if (errno != EINTR)
			return rpl_fail_errno(err, errno, "wait for the keeper's word");
	if (!pfd[0].revents)
		return rpl_fail(err, -EPIPE, "xl has ended before it was told to go on");
	len = rpl_recv_fds(b->sock, &m, sizeof(m), NULL, &n);
	if (len == 0)
		return no_use(err);
	return len == (ssize_t)sizeof(m) && m.kind == XEN_BUILD_GO ? 0 : rpl_fail(err, -EPROTO, "the keeper's word: %zd bytes", len);
}

/* ---- xl */

static void watch(struct build *b)
{
	while (!xl_has_ended(&b->xl)) {
		if (xen_unborn_runs(b->unborn)) {
			tell(b, XEN_BUILD_RUNS);
			return;
		}
		(void)poll(NULL, 0, LOOK_MS);
	}
}

static int feed(struct build *b, const struct xen_image *im, struct rpl_err *err)
{
	int r = xen_image_write_memory(im, NULL, to_xl, b, NULL, err);

	if (r < 0)
		return r;
	xen_unborn_mark(b->unborn);
	tell(b, XEN_BUILD_FED);
	r = wait_for_word(b, err);
	if (r == 0)
		r = xen_unborn_unmark(b->unborn, err);
	if (r == 0)
		r = xl_feed(&b->xl, im->rest, im->rest_len, err);
	if (r < 0)
		return r;
	xl_feed_end(&b->xl);
	watch(b);
	return 0;
}

static void remove_rest(struct build *b)
{
	struct rpl_err none;

	if (xen_unborn_remains(b->unborn))
		(void)xl_destroy(xen_unborn_domid(b->unborn), &none);
}

/* What xl says when Xen's memory went to other domains while this one was only a copy speaks of anything but memory. Asked only when it
 * has failed: a takeover that can be is not kept waiting for the answer. */
static int explain(const char *name, uint64_t pages, struct rpl_err *err)
{
	struct rpl_err room, said = *err;

	if (xl_check_room(NULL, name, (pages + PAGES_PER_MIB - 1) / PAGES_PER_MIB, &room) != -ENOMEM)
		return said.code;
	return rpl_fail(err, -ENOMEM, "%.160s (%.70s)", room.msg, said.msg);
}

/* xl takes the definition from the file of this host; the stream brings none. It unpauses the domain itself when the last
 * device is there, which saves the start of another xl. */
static int build(const struct xen_build *what, const struct xen_image *im, uint64_t pages, struct rpl_err *err)
{
	char *argv[] = { (char *)"xl", (char *)"restore", (char *)(uintptr_t)what->config, (char *)XL_STDIN, NULL };
	struct build b = { .sock = what->sock, .begun = rpl_now_ns(), .unborn = xen_unborn_new(what->name, pages) };
	struct rpl_err fed = { 0 };
	int r = xl_start(&b.xl, argv, true, err), r_fed = 0;

	if (r == 0) {
		r_fed = feed(&b, im, &fed);
		r = xl_end(&b.xl, NULL, err);
		(void)printf("restored_ms=%" PRIu64 "\n", (rpl_now_ns() - b.begun) / RPL_MS);
	}
	if (r < 0)
		remove_rest(&b);
	xen_unborn_free(b.unborn);
	if (r_fed == -ECANCELED || (r == 0 && r_fed < 0)) { /* what xl says of a stream that ends is no news */
		*err = fed;
		return r_fed;
	}
	return r;
}

int xen_build(const struct xen_build *b, struct rpl_err *err)
{
	struct replica rep = { 0 };
	struct xen_image im = { .type = type_of, .copy = copy_pages, .ctx = &rep };
	const void *blob;
	size_t at;
	int r;

	blob = b->len ? mmap(NULL, b->len, PROT_READ, MAP_SHARED, b->state_fd, 0) : MAP_FAILED;
	if (blob == MAP_FAILED)
		return rpl_fail_errno(err, errno, "map %zu bytes of device state", b->len);
	r = xen_image_split(blob, b->len, &at, err);
	if (r == 0)
		r = open_replica(&rep, b->ram_fd, b->desc_fd, err);
	if (r < 0)
		return r;
	im.head = blob;
	im.head_len = at;
	im.rest = (const uint8_t *)blob + at;
	im.rest_len = b->len - at;
	im.pfns = rpl_xen_types_pfn(rep.layout);
	r = build(b, &im, rpl_xen_guest_pages(rep.layout), err);
	if (r < 0 && r != -ECANCELED)
		r = explain(b->name, rpl_xen_guest_pages(rep.layout), err);
	rpl_memory_free(rep.memory);
	free(rep.types);
	return r;
}
