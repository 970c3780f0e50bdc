/* memory_xen.c - a Xen domain's memory: frames mapped through privcmd, the dirty set as the keeper collected it
 *
 * Mappings are kept across epochs, in chunks of RPL_CHUNK_PAGES frames (the kernel maps an area of privcmd as a whole,
 * and a mapping for each page would soon exceed what a process may have). A chunk is mapped when a page of it is first
 * copied, and dropped when a frame in it went away or is another one: a PV guest's p2m says so, for others the keeper
 * (the type of the page, or head->remap). A kept mapping holds a reference to its frames, so a guest's memory is free
 * again only when its mover is gone.
 *
 * What the keeper shares (xen_shared.h) is copied when a set is taken: an epoch may still be waiting for its turn to be
 * encoded while the keeper collects for the next one.
 *
 * A page table of a running PV guest can point at frames that are not its own at the moment. In a live round such a
 * page is given as zeroes and remembered (`deferred`): the next take reports it again. With the guest paused it is an
 * error, so nothing deferred is ever forgotten.
 */
#include "memory_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <replicad/log.h>

#include "uapi_privcmd.h"
#include "xen_shared.h"

struct rpl_memory_xen {
	struct xen_shared shared;
	uint64_t pages;         /* the guest's; the table's come behind */
	uint8_t *types;         /* the table as of the last take, whole pages */
	size_t types_bytes;
	uint64_t *p2m;          /* PV: as of the last take */
	struct xen_reverse reverse;
	bool running;           /* the guest was, when the last set was collected */
	uint64_t remap;
	struct rpl_bitmap mapped, deferred; /* file pages */
	uint64_t gfn[RPL_CHUNK_PAGES];
	int map_err[RPL_CHUNK_PAGES];
};

/* ---- opening */

static int copy_tables(struct rpl_memory *m, struct rpl_err *err)
{
	struct rpl_memory_xen *x = m->xen;

	x->types_bytes = (m->desc.layout.pages - x->pages) << RPL_PAGE_SHIFT;
	x->types = calloc(1, x->types_bytes);
	if (!x->types)
		return rpl_fail(err, -ENOMEM, "xen memory: no memory for %zu bytes of page types", x->types_bytes);
	memcpy(x->types, x->shared.types, x->pages);
	if (!x->shared.p2m)
		return 0;
	x->p2m = malloc(x->pages * sizeof(*x->p2m));
	if (!x->p2m)
		return rpl_fail(err, -ENOMEM, "xen memory: no memory for a p2m of %" PRIu64 " pages", x->pages);
	if (xen_reverse_init(&x->reverse, x->shared.head->max_mfn, err) < 0)
		return err->code;
	for (uint64_t p = 0; p < x->pages; p++) {
		x->p2m[p] = x->shared.p2m[p];
		xen_reverse_change(&x->reverse, p, XEN_NO_FRAME, x->p2m[p]);
	}
	return 0;
}

static int xen_open(struct rpl_memory *m, struct rpl_err *err)
{
	struct rpl_memory_xen *x = calloc(1, sizeof(*x));
	void *area;

	m->xen = x;
	if (!x)
		return rpl_fail(err, -ENOMEM, "xen memory: no memory");
	if (!rpl_xen_layout_check(&m->desc.layout, err))
		return -EINVAL;
	if (m->desc.audit)
		return rpl_fail(err, -EOPNOTSUPP, "xen memory: there is no audit of Xen's dirty bitmap");
	x->pages = rpl_xen_guest_pages(&m->desc.layout);
	if (xen_shared_map(&x->shared, m->fd[1], &m->desc.layout, m->desc.xen_pv, err) < 0)
		return err->code;
	if (x->shared.head->magic != XEN_SHARED_MAGIC || x->shared.head->pv != m->desc.xen_pv)
		return rpl_fail(err, -EINVAL, "xen memory: what was shared is not a keeper's");
	x->remap = x->shared.head->remap;
	x->running = x->shared.head->running;
	if (copy_tables(m, err) < 0)
		return err->code;
	if (rpl_bitmap_init(&x->mapped, x->pages) < 0 || rpl_bitmap_init(&x->deferred, x->pages) < 0)
		return rpl_fail(err, -ENOMEM, "xen memory: no memory for bitmaps of %" PRIu64 " pages", x->pages);
	/* only addresses; the frames come chunk by chunk */
	area = mmap(NULL, m->bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (area == MAP_FAILED)
		return rpl_fail_errno(err, errno, "xen memory: reserve %zu bytes of addresses", m->bytes);
	m->map = area;
	return 0;
}

static void xen_close(struct rpl_memory *m)
{
	struct rpl_memory_xen *x = m->xen;

	if (!x)
		return;
	xen_shared_unmap(&x->shared);
	xen_reverse_fini(&x->reverse);
	rpl_bitmap_fini(&x->mapped);
	rpl_bitmap_fini(&x->deferred);
	free(x->types);
	free(x->p2m);
	free(x);
}

/* ---- mappings */

static uint64_t chunk_pages(const struct rpl_memory_xen *x, uint64_t first)
{
	return x->pages - first < RPL_CHUNK_PAGES ? x->pages - first : RPL_CHUNK_PAGES;
}

/* The chunk's frames are let go. */
static void drop_chunk(struct rpl_memory *m, uint64_t file_page)
{
	struct rpl_memory_xen *x = m->xen;
	uint64_t first = file_page / RPL_CHUNK_PAGES * RPL_CHUNK_PAGES, n = chunk_pages(x, first);

	for (uint64_t p = first; p < first + n; p++)
		rpl_bitmap_clear(&x->mapped, p);
	/* cannot fail: it takes the place of a mapping as large */
	(void)mmap(m->map + (first << RPL_PAGE_SHIFT), n << RPL_PAGE_SHIFT, PROT_NONE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

static void drop_all(struct rpl_memory *m)
{
	for (uint64_t p = rpl_bitmap_next(&m->xen->mapped, 0); p < m->xen->pages; p = rpl_bitmap_next(&m->xen->mapped, p))
		drop_chunk(m, p);
}

/* Map what can be mapped of the chunk that holds this page. */
static int map_chunk(struct rpl_memory *m, uint64_t file_page, struct rpl_err *err)
{
	struct rpl_memory_xen *x = m->xen;
	uint64_t first = file_page / RPL_CHUNK_PAGES * RPL_CHUNK_PAGES, n = chunk_pages(x, first);
	uint8_t *at = m->map + (first << RPL_PAGE_SHIFT);
	struct privcmd_map arg = { .num = (unsigned)n, .dom = (uint16_t)x->shared.head->domid, .addr = (uintptr_t)at,
				   .arr = x->gfn, .err = x->map_err };

	drop_chunk(m, first);
	for (uint64_t i = 0; i < n; i++) {
		x->gfn[i] = XEN_NO_FRAME;
		if (!rpl_page_type_has_data(x->types[first + i]))
			continue;
		if (x->p2m)
			x->gfn[i] = x->p2m[first + i];
		else
			rpl_assert(rpl_layout_pfn(&m->desc.layout, first + i, &x->gfn[i]));
	}
	memset(x->map_err, 0, sizeof(x->map_err));
	if (mmap(at, n << RPL_PAGE_SHIFT, PROT_READ, MAP_SHARED | MAP_FIXED, m->fd[0], 0) == MAP_FAILED)
		return rpl_fail_errno(err, errno, "xen memory: map %" PRIu64 " frames at file page %" PRIu64, n, first);
	if (ioctl(m->fd[0], PRIVCMD_MAP, &arg) < 0 && errno != ENOENT) {
		int e = errno;

		drop_chunk(m, first);
		return rpl_fail_errno(err, e, "xen memory: map %" PRIu64 " frames of domain %u at file page %" PRIu64, n,
				      x->shared.head->domid, first);
	}
	for (uint64_t i = 0; i < n; i++)
		if (!x->map_err[i])
			rpl_bitmap_set(&x->mapped, first + i);
	return 0;
}

/* ---- the dirty set */

static void take_page(struct rpl_memory *m, uint64_t p)
{
	struct rpl_memory_xen *x = m->xen;
	bool moved = false;

	x->types[p] = x->shared.types[p];
	if (x->p2m && x->p2m[p] != x->shared.p2m[p]) {
		xen_reverse_change(&x->reverse, p, x->p2m[p], x->shared.p2m[p]);
		x->p2m[p] = x->shared.p2m[p];
		moved = true;
	}
	if (rpl_bitmap_get(&x->mapped, p) && (moved || !rpl_page_type_has_data(x->types[p])))
		drop_chunk(m, p);
}

static int xen_take(struct rpl_memory *m, struct rpl_bitmap *dirty, uint64_t *ret_new, struct rpl_err *err)
{
	struct rpl_memory_xen *x = m->xen;

	(void)err; /* cannot fail */
	if (x->remap != x->shared.head->remap)
		drop_all(m);
	x->remap = x->shared.head->remap;
	x->running = x->shared.head->running;
	for (uint64_t i = 0; i < RPL_BITMAP_WORDS(m->desc.layout.pages); i++) {
		uint64_t w = atomic_load_explicit(&x->shared.dirty[i], memory_order_relaxed);

		if (!w)
			continue;
		for (w = atomic_exchange(&x->shared.dirty[i], 0); w; w &= w - 1) {
			uint64_t p = i * 64 + (uint64_t)__builtin_ctzll(w);

			if (p >= m->desc.layout.pages)
				break;
			if (p < x->pages)
				take_page(m, p);
			rpl_memory_found(m, p, 1, dirty, ret_new);
		}
	}
	for (uint64_t p = rpl_bitmap_next(&x->deferred, 0); p < x->pages; p = rpl_bitmap_next(&x->deferred, p + 1)) {
		rpl_bitmap_clear(&x->deferred, p);
		rpl_memory_found(m, p, 1, dirty, ret_new);
	}
	return 0;
}

static int xen_peek(struct rpl_memory *m, uint64_t *ret, struct rpl_err *err)
{
	(void)m;
	(void)ret;
	return rpl_fail(err, -EOPNOTSUPP, "xen memory: only the keeper can ask Xen how much is dirty");
}

/* ---- copies */

/* The page cannot be given now. While the guest runs it will be dirty again, or is made so. */
static int cannot_copy(struct rpl_memory *m, uint64_t p, uint8_t *dst, const char *why, struct rpl_err *err)
{
	struct rpl_memory_xen *x = m->xen;
	uint64_t pfn = 0;

	if (x->running) {
		rpl_bitmap_set(&x->deferred, p);
		memset(dst, 0, RPL_PAGE_SIZE);
		return 0;
	}
	(void)rpl_layout_pfn(&m->desc.layout, p, &pfn);
	return rpl_fail(err, -EFAULT, "xen memory: frame 0x%" PRIx64 " of type 0x%x: %s", pfn, x->types[p], why);
}

static int copy_page(struct rpl_memory *m, uint64_t p, uint8_t *dst, struct rpl_err *err)
{
	struct rpl_memory_xen *x = m->xen;

	if (p >= x->pages) {
		memcpy(dst, x->types + ((p - x->pages) << RPL_PAGE_SHIFT), RPL_PAGE_SIZE);
		return 0;
	}
	if (!rpl_page_type_has_data(x->types[p])) {
		memset(dst, 0, RPL_PAGE_SIZE);
		return 0;
	}
	if (!rpl_bitmap_get(&x->mapped, p) && map_chunk(m, p, err) < 0)
		return err->code;
	if (!rpl_bitmap_get(&x->mapped, p))
		return cannot_copy(m, p, dst, strerror(-x->map_err[p % RPL_CHUNK_PAGES]), err);
	memcpy(dst, m->map + (p << RPL_PAGE_SHIFT), RPL_PAGE_SIZE);
	return 0;
}

static int xen_copy_out(struct rpl_memory *m, const uint64_t *pfns, size_t n, void *dst, struct rpl_err *err)
{
	struct rpl_err local = { 0 };

	for (size_t i = 0; i < n; i++) {
		uint64_t p;

		rpl_assert(rpl_layout_file_page(&m->desc.layout, pfns[i], &p));
		if (copy_page(m, p, (uint8_t *)dst + (i << RPL_PAGE_SHIFT), err ? err : &local) < 0)
			return err ? err->code : local.code;
	}
	return 0;
}

/* Is it sent in another form than the guest has it in? */
static bool is_page_table(const struct rpl_memory_xen *x, uint64_t p)
{
	unsigned level = x->p2m && p < x->pages ? x->types[p] & ~RPL_PAGE_PINNED : 0;

	return level >= RPL_PAGE_L1TAB && level <= RPL_PAGE_L4TAB;
}

static const void *xen_look(const struct rpl_memory *m, uint64_t p)
{
	const struct rpl_memory_xen *x = m->xen;

	if (p >= x->pages)
		return x->types + ((p - x->pages) << RPL_PAGE_SHIFT);
	if (is_page_table(x, p) || !rpl_page_type_has_data(x->types[p]) || !rpl_bitmap_get(&x->mapped, p))
		return NULL;
	return m->map + (p << RPL_PAGE_SHIFT);
}

static int finish_page(struct rpl_memory *m, uint64_t p, uint8_t *page, struct rpl_err *err)
{
	struct rpl_memory_xen *x = m->xen;
	char why[96];
	unsigned entry = 0;

	switch (xen_normalise((uint64_t *)(void *)page, x->types[p] & ~RPL_PAGE_PINNED, &x->reverse, x->p2m, &entry)) {
	case XEN_NORMAL_OK:
		return 0;
	case XEN_NORMAL_LARGE:
		return rpl_fail(err, -EOPNOTSUPP, "xen memory: page table 0x%" PRIx64 ", entry %u is a superpage: PV guests with "
				"superpages cannot be copied", p, entry);
	default:
		(void)snprintf(why, sizeof(why), "entry %u of this page table maps a machine frame that is not the guest's", entry);
		return cannot_copy(m, p, page, why, err);
	}
}

static int xen_finish(struct rpl_memory *m, const uint64_t *pfns, size_t n, void *pages, struct rpl_err *err)
{
	struct rpl_memory_xen *x = m->xen;
	struct rpl_err local = { 0 };

	for (size_t i = 0; x->p2m && i < n; i++) {
		uint64_t p = pfns[i]; /* the layout of a PV guest begins at 0: pfn and file page are the same */

		if (!is_page_table(x, p) || rpl_bitmap_get(&x->deferred, p))
			continue;
		if (finish_page(m, p, (uint8_t *)pages + (i << RPL_PAGE_SHIFT), err ? err : &local) < 0)
			return err ? err->code : local.code;
	}
	return 0;
}

unsigned rpl_xen_page_type(const struct rpl_memory *m, uint64_t pfn)
{
	uint64_t p;

	rpl_assert(m->desc.kind == RPL_MEMORY_XEN);
	if (!rpl_layout_file_page(&m->desc.layout, pfn, &p) || p >= m->xen->pages)
		return RPL_PAGE_XTAB;
	return m->xen->types[p];
}

const struct rpl_memory_kind_ops rpl_memory_xen = {
	.name = "xen", .n_fds = 2, .own_map = true, .open = xen_open, .take = xen_take, .peek = xen_peek,
	.copy_out = xen_copy_out, .look = xen_look, .finish = xen_finish, .close = xen_close,
};
