/* memory_domain.c - a replica that is the memory of a domain: frames mapped writable through privcmd
 *
 * The domain is paused and has never run; the toolstack gave it memory for every page of the layout (xen_helper.h). The type
 * table, and the p2m that says which machine frames a PV domain has, are in memory shared with the helper (xen_shared.h). Page tables of
 * a PV domain are ordinary pages as long as it does not run, and are stored in the stream's form.
 *
 * A chunk of RPL_CHUNK_PAGES frames is mapped for good when KEEP_AFTER pages of it were stored: the mover has soon mapped all
 * that the guest writes. Whoever stores only the last epoch, the activator, maps just its pages, WINDOW at a time, so
 * that what this costs depends on the epoch and not on the guest's size. A mapping holds its frames, and Xen takes no page
 * table into use that is mapped writable: the domain is completed when all of these are gone.
 */
#include "memory_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "uapi_privcmd.h"
#include "xen_shared.h"

#define KEEP_AFTER 32u
#define WINDOW 64u

/* What is to be stored in a page. */
struct content {
	uint64_t pfn, p;   /* frame; page of the layout */
	const void *bytes; /* NULL: zeroes */
	bool delta;
};

struct rpl_memory_in_domain {
	struct xen_shared shared;
	uint64_t pages;         /* the guest's; the table's come behind */
	struct rpl_bitmap kept; /* chunks */
	uint8_t *stores;        /* into a chunk, up to KEEP_AFTER */
	uint8_t *window;        /* addresses for pages of chunks that are not kept */
	struct content waiting[WINDOW]; /* for the window */
	size_t n_waiting;
	uint64_t gfn[RPL_CHUNK_PAGES];
	int map_err[RPL_CHUNK_PAGES];
};

/* ---- opening */

static void *reserve(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static int domain_open(struct rpl_memory *m, struct rpl_err *err)
{
	struct rpl_memory_in_domain *d = calloc(1, sizeof(*d));
	uint64_t chunks;

	m->domain = d;
	if (!d)
		return rpl_fail(err, -ENOMEM, "domain memory: no memory");
	if (!rpl_xen_layout_check(&m->desc.layout, err))
		return -EINVAL;
	d->pages = rpl_xen_guest_pages(&m->desc.layout);
	chunks = (d->pages + RPL_CHUNK_PAGES - 1) / RPL_CHUNK_PAGES;
	if (xen_shared_map(&d->shared, m->fd[1], &m->desc.layout, m->desc.xen_pv, err) < 0)
		return err ? err->code : -EINVAL;
	if (d->shared.head->magic != XEN_SHARED_MAGIC || d->shared.head->pv != m->desc.xen_pv)
		return rpl_fail(err, -EINVAL, "domain memory: what was shared is not a helper's");
	d->stores = calloc(chunks, 1);
	if (!d->stores || rpl_bitmap_init(&d->kept, chunks) < 0)
		return rpl_fail(err, -ENOMEM, "domain memory: no memory for a map of %" PRIu64 " chunks", chunks);
	m->map = reserve(m->bytes);
	d->window = reserve((size_t)WINDOW << RPL_PAGE_SHIFT);
	return m->map && d->window ? 0 : rpl_fail_errno(err, errno, "domain memory: reserve %zu bytes of addresses", m->bytes);
}

static void domain_close(struct rpl_memory *m)
{
	struct rpl_memory_in_domain *d = m->domain;

	if (!d)
		return;
	if (d->window)
		(void)munmap(d->window, (size_t)WINDOW << RPL_PAGE_SHIFT);
	xen_shared_unmap(&d->shared);
	rpl_bitmap_fini(&d->kept);
	free(d->stores);
	free(d);
}

/* ---- mapping */

static uint64_t frame(const struct rpl_memory *m, uint64_t p)
{
	uint64_t pfn = 0;

	if (m->domain->shared.p2m)
		return m->domain->shared.p2m[p];
	rpl_assert(rpl_layout_pfn(&m->desc.layout, p, &pfn));
	return pfn;
}

static void unmap(uint8_t *at, size_t n)
{
	/* cannot fail: it takes the place of a mapping as large */
	(void)mmap(at, n << RPL_PAGE_SHIFT, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

/* The frames d->gfn[0..n) at `at`: all of them, or none. */
static int map(struct rpl_memory *m, uint8_t *at, size_t n, struct rpl_err *err)
{
	struct rpl_memory_in_domain *d = m->domain;
	struct privcmd_map arg = { .num = (unsigned)n, .dom = (uint16_t)d->shared.head->domid, .addr = (uintptr_t)at,
				   .arr = d->gfn, .err = d->map_err };
	int e = 0;

	memset(d->map_err, 0, n * sizeof(d->map_err[0]));
	if (mmap(at, n << RPL_PAGE_SHIFT, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, m->fd[0], 0) == MAP_FAILED)
		return rpl_fail_errno(err, errno, "domain memory: map %zu frames", n);
	if (ioctl(m->fd[0], PRIVCMD_MAP, &arg) < 0)
		e = errno;
	for (size_t i = 0; i < n; i++) {
		if (!d->map_err[i])
			continue;
		unmap(at, n);
		return rpl_fail_errno(err, -d->map_err[i], "domain memory: map frame 0x%" PRIx64 " of domain %u", d->gfn[i],
				      d->shared.head->domid);
	}
	if (!e)
		return 0;
	unmap(at, n);
	return rpl_fail_errno(err, e, "domain memory: map %zu frames of domain %u", n, d->shared.head->domid);
}

static int keep_chunk(struct rpl_memory *m, uint64_t chunk, struct rpl_err *err)
{
	struct rpl_memory_in_domain *d = m->domain;
	uint64_t first = chunk * RPL_CHUNK_PAGES, n = d->pages - first < RPL_CHUNK_PAGES ? d->pages - first : RPL_CHUNK_PAGES;
	int r;

	for (uint64_t i = 0; i < n; i++)
		d->gfn[i] = frame(m, first + i);
	r = map(m, m->map + (first << RPL_PAGE_SHIFT), n, err);
	if (r == 0)
		rpl_bitmap_set(&d->kept, chunk);
	return r;
}

/* ---- stores */

static int store(uint8_t *at, const struct content *c, struct rpl_err *err)
{
	if (c->delta)
		return rpl_memory_store_delta(c->pfn, at, c->bytes, err);
	if (c->bytes)
		memcpy(at, c->bytes, RPL_PAGE_SIZE);
	else
		memset(at, 0, RPL_PAGE_SIZE);
	return 0;
}

static int store_waiting(struct rpl_memory *m, struct rpl_err *err)
{
	struct rpl_memory_in_domain *d = m->domain;
	size_t n = d->n_waiting;
	int r;

	d->n_waiting = 0;
	if (n == 0)
		return 0;
	for (size_t i = 0; i < n; i++)
		d->gfn[i] = frame(m, d->waiting[i].p);
	r = map(m, d->window, n, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n && r == 0; i++)
		r = store(d->window + (i << RPL_PAGE_SHIFT), &d->waiting[i], err);
	unmap(d->window, n);
	return r;
}

static int store_page(struct rpl_memory *m, const struct content *c, struct rpl_err *err)
{
	struct rpl_memory_in_domain *d = m->domain;
	uint64_t chunk = c->p / RPL_CHUNK_PAGES;
	int r;

	if (c->p >= d->pages)
		return store(d->shared.types + ((c->p - d->pages) << RPL_PAGE_SHIFT), c, err);
	if (!rpl_bitmap_get(&d->kept, chunk) && ++d->stores[chunk] >= KEEP_AFTER) {
		r = store_waiting(m, err); /* what waits is older, and may be of this chunk */
		if (r == 0)
			r = keep_chunk(m, chunk, err);
		if (r < 0)
			return r;
	}
	if (rpl_bitmap_get(&d->kept, chunk))
		return store(m->map + (c->p << RPL_PAGE_SHIFT), c, err);
	d->waiting[d->n_waiting++] = *c;
	return d->n_waiting < WINDOW ? 0 : store_waiting(m, err);
}

/* One of those that xenstored and xenconsoled look at already (xen_helper_early.c): they get no contents. */
static bool is_ring(const struct rpl_memory *m, uint64_t pfn)
{
	const struct xen_shared_head *head = m->domain->shared.head;

	return pfn && (pfn == head->ring[0] || pfn == head->ring[1]);
}

static int domain_patch(struct rpl_memory *m, const uint64_t *pfns, const void *const *pages, const bool *delta, size_t n,
			struct rpl_err *err)
{
	int r = 0;

	m->domain->n_waiting = 0; /* of a call that failed */
	for (size_t i = 0; i < n && r == 0; i++) {
		struct content c = { .pfn = pfns[i], .bytes = pages[i], .delta = delta && delta[i] };

		if (is_ring(m, pfns[i]))
			continue;
		if (!rpl_layout_file_page(&m->desc.layout, pfns[i], &c.p))
			return rpl_fail(err, -ERANGE, "replica: frame %" PRIu64 " is outside the RAM (limit %" PRIu64 ")", pfns[i],
					m->desc.layout.pfn_limit);
		r = store_page(m, &c, err);
	}
	return r == 0 ? store_waiting(m, err) : r;
}

static int domain_copy_out(struct rpl_memory *m, const uint64_t *pfns, size_t n, void *dst, struct rpl_err *err)
{
	(void)pfns;
	(void)n;
	(void)dst;
	return rpl_fail(err, -EOPNOTSUPP, "%s memory: a replica is not read, it becomes the guest", m->ops->name);
}

const struct rpl_memory_kind_ops rpl_memory_domain = {
	.name = "domain", .n_fds = 2, .own_map = true, .writable = true, .open = domain_open, .copy_out = domain_copy_out,
	.patch = domain_patch, .close = domain_close,
};
