/* xen_helper_memory.c - memory for a domain that is a replica
 *
 * All pages of the layout get memory at once, in superpages where they fit: which of them the guest really has is known only
 * when the first epoch is whole. The toolstack allows the domain what its configuration says; a layout may span a few pages more
 * (holes between the special pages, room for the balloon), so the limit is raised meanwhile, and put back when what the
 * guest does not have was given back (trim).
 */
#include "xen_helper_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <replicad/auto.h>

#include "xen_compat.h"

#define BATCH 1024u
#define SUPERPAGE_ORDER 9u
#define SUPERPAGE (1u << SUPERPAGE_ORDER)
#define KIB_PER_PAGE (RPL_PAGE_SIZE / 1024)

/* ---- giving memory */

/* `n` extents of 2^order pages; `gfn` holds their first frames and, of a PV domain, gets the machine frames. Returns how many. */
static int populate(struct xen_helper *h, unsigned n, unsigned order, xen_pfn_t *gfn)
{
	int done = xc_domain_populate_physmap(h->xc, h->args.domid, n, order, 0, gfn);

	return done < 0 ? 0 : done;
}

static int populate_singly(struct xen_helper *h, uint64_t pfn, uint64_t page, uint64_t n, struct rpl_err *err)
{
	xen_pfn_t gfn[BATCH];

	for (uint64_t at = 0; at < n;) {
		unsigned m = n - at < BATCH ? (unsigned)(n - at) : BATCH;
		int done;

		for (unsigned i = 0; i < m; i++)
			gfn[i] = pfn + at + i;
		done = populate(h, m, 0, gfn);
		if ((unsigned)done < m)
			return rpl_fail(err, -ENOMEM, "domain %u: no memory for page %" PRIu64 " of %" PRIu64 " of its layout: is "
					"there enough free in Xen (xl info)?", h->args.domid, page + at + (uint64_t)done, h->pages);
		for (unsigned i = 0; h->pv && i < m; i++)
			h->p2m[page + at + i] = gfn[i];
		at += m;
	}
	return 0;
}

/* Superpages as far as Xen has them; returns how many pages were given. */
static uint64_t populate_large(struct xen_helper *h, uint64_t pfn, uint64_t n)
{
	xen_pfn_t gfn[BATCH];
	uint64_t at = 0;

	while (n - at >= SUPERPAGE) {
		uint64_t m = (n - at) / SUPERPAGE;
		int done;

		if (m > BATCH)
			m = BATCH;
		for (uint64_t i = 0; i < m; i++)
			gfn[i] = pfn + at + i * SUPERPAGE;
		done = populate(h, (unsigned)m, SUPERPAGE_ORDER, gfn);
		at += (uint64_t)done * SUPERPAGE;
		if ((uint64_t)done < m)
			break;
	}
	return at;
}

static int populate_region(struct xen_helper *h, const struct rpl_ram_region *r, struct rpl_err *err)
{
	uint64_t before = -r->pfn % SUPERPAGE, large;

	if (h->pv) /* frames of a PV guest need not be contiguous, and are written one by one into its p2m */
		return populate_singly(h, r->pfn, r->file_page, r->pages, err);
	if (before > r->pages)
		before = r->pages;
	if (populate_singly(h, r->pfn, r->file_page, before, err) < 0)
		return err->code;
	large = before + populate_large(h, r->pfn + before, r->pages - before);
	return populate_singly(h, r->pfn + large, r->file_page + large, r->pages - large, err);
}

static int allow(struct xen_helper *h, uint64_t pages, struct rpl_err *err)
{
	struct xen_dominfo d;
	int r = xen_compat_dominfo(h->xc, h->args.domid, &d);

	if (r < 0)
		return rpl_fail_errno(err, -r, "domain %u", h->args.domid);
	if (!h->max_kib_was)
		h->max_kib_was = d.max_pages * KIB_PER_PAGE;
	if (d.max_pages < d.tot_pages + pages && xc_domain_setmaxmem(h->xc, h->args.domid, (d.tot_pages + pages) * KIB_PER_PAGE) < 0)
		return rpl_fail_errno(err, errno, "domain %u: allow it %" PRIu64 " pages", h->args.domid, d.tot_pages + pages);
	return 0;
}

/* ---- taking it back */

static int take_back(struct xen_helper *h, xen_pfn_t *gfn, unsigned n, struct rpl_err *err)
{
	if (n && xc_domain_decrease_reservation_exact(h->xc, h->args.domid, n, 0, gfn) < 0)
		return rpl_fail_errno(err, errno, "domain %u: take back %u pages", h->args.domid, n);
	return 0;
}

/* Give back the pages that `unwanted` says. */
static int give_back(struct xen_helper *h, bool (*unwanted)(const struct xen_helper *h, uint64_t page), struct rpl_err *err)
{
	xen_pfn_t gfn[BATCH];
	unsigned n = 0;

	for (uint64_t p = 0; p < h->pages; p++) {
		uint64_t pfn;

		if (!unwanted(h, p) || (h->pv && h->p2m[p] == XEN_NO_FRAME))
			continue;
		rpl_assert(rpl_layout_pfn(&h->layout, p, &pfn));
		gfn[n++] = h->pv ? h->p2m[p] : pfn;
		if (h->pv)
			h->p2m[p] = XEN_NO_FRAME;
		if (n == BATCH) {
			if (take_back(h, gfn, n, err) < 0)
				return err->code;
			n = 0;
		}
	}
	return take_back(h, gfn, n, err);
}

static bool all(const struct xen_helper *h, uint64_t page)
{
	(void)h;
	(void)page;
	return true;
}

static bool is_hole(const struct xen_helper *h, uint64_t page)
{
	return h->shared.types[page] == RPL_PAGE_XTAB;
}

int xen_helper_trim(struct xen_helper *h, struct rpl_err *err)
{
	struct xen_dominfo d;
	int r;

	if (give_back(h, is_hole, err) < 0)
		return err->code;
	r = xen_compat_dominfo(h->xc, h->args.domid, &d);
	if (r < 0)
		return rpl_fail_errno(err, -r, "domain %u", h->args.domid);
	/* A guest that has more than its configuration here allows keeps it: it is the primary's that counts. */
	if (d.tot_pages * KIB_PER_PAGE <= h->max_kib_was)
		(void)xc_domain_setmaxmem(h->xc, h->args.domid, h->max_kib_was);
	return 0;
}

/* ---- layout */

static void forget(struct xen_helper *h)
{
	xen_shared_unmap(&h->shared);
	rpl_close(&h->shared_fd);
	free(h->p2m);
	h->p2m = NULL;
	h->laid_out = false;
}

static int make_shared(struct xen_helper *h, struct rpl_err *err)
{
	h->shared_fd = memfd_create("replicad-xen-standby", MFD_CLOEXEC);
	if (h->shared_fd < 0 || ftruncate(h->shared_fd, (off_t)xen_shared_size(&h->layout, h->pv)) < 0)
		return rpl_fail_errno(err, errno, "memory to share with a mover");
	if (xen_shared_map(&h->shared, h->shared_fd, &h->layout, h->pv, err) < 0)
		return err->code;
	*h->shared.head = (struct xen_shared_head){ .magic = XEN_SHARED_MAGIC, .domid = h->args.domid, .pv = h->pv };
	memset(h->shared.types, RPL_PAGE_XTAB, h->pages);
	return 0;
}

static int make_p2m(struct xen_helper *h, struct rpl_err *err)
{
	if (!h->pv)
		return 0;
	h->p2m = malloc(h->pages * sizeof(*h->p2m));
	if (!h->p2m)
		return rpl_fail(err, -ENOMEM, "no memory for a p2m of %" PRIu64 " pages", h->pages);
	memset(h->p2m, 0xff, h->pages * sizeof(*h->p2m));
	return 0;
}

static int fill(struct xen_helper *h, struct rpl_err *err)
{
	for (uint32_t i = 0; i + 1 < h->layout.count; i++)
		if (populate_region(h, &h->layout.region[i], err) < 0)
			return err->code;
	if (h->pv)
		memcpy(h->shared.p2m, h->p2m, h->pages * sizeof(*h->p2m));
	return 0;
}

int xen_helper_lay_out(struct xen_helper *h, const struct rpl_ram_layout *l, struct rpl_err *err)
{
	if (!rpl_xen_layout_check(l, err))
		return err->code;
	if (h->pv && (l->count != 2 || l->region[0].pfn != 0))
		return rpl_fail(err, -EINVAL, "a PV guest's layout has one region, from frame 0; this has %u", l->count - 1);
	if (h->laid_out && rpl_layout_equal(l, &h->layout))
		return 0;
	if (h->laid_out && give_back(h, all, err) < 0)
		return err->code;
	forget(h);
	h->layout = *l;
	h->pages = rpl_xen_guest_pages(l);
	if (allow(h, h->pages, err) < 0 || make_p2m(h, err) < 0 || make_shared(h, err) < 0 || fill(h, err) < 0)
		return err->code;
	h->laid_out = true;
	return 0;
}
