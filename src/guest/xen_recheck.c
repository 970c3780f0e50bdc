#include "xen_recheck.h"

bool xen_recheck_cleans(const struct xen_recheck *r, enum xen_recheck_set of)
{
	if (of != XEN_SET_EPOCH)
		return of == XEN_SET_LIVE;
	return !r->keeping || r->epochs + 1 >= XEN_RECHECK_RUN;
}

bool xen_recheck_cleans_round(struct xen_recheck *r, uint64_t pages, uint64_t all)
{
	*r = (struct xen_recheck){ .round = true, .keeping = pages <= XEN_RECHECK_ROUND && pages <= all / XEN_RECHECK_PART };
	return !r->keeping;
}

void xen_recheck_cleaned(struct xen_recheck *r)
{
	r->epochs = 0;
	r->base = r->extra = 0;
}

static void learn(struct xen_recheck *r, uint64_t pages, uint64_t again)
{
	r->keeping = r->compared && again * 100 >= pages * XEN_RECHECK_SAME;
	r->compared = true;
	xen_recheck_cleaned(r);
}

/* Keeping, and it was read by PEEK: has looking in vain cost as much as faults would? */
static bool is_due(struct xen_recheck *r, uint64_t pages)
{
	if (r->epochs++ == 0)
		r->base = pages > XEN_RECHECK_FEW ? pages : XEN_RECHECK_FEW;
	else if (pages > r->base)
		r->extra += pages - r->base;
	return r->extra >= r->base * XEN_RECHECK_PRICE || pages * 100 > r->base * XEN_RECHECK_GROWN;
}

bool xen_recheck_seen(struct xen_recheck *r, enum xen_recheck_set of, uint64_t pages, uint64_t again)
{
	bool cleaned = xen_recheck_cleans(r, of), first = r->round;

	if (of == XEN_SET_LIVE) {
		*r = (struct xen_recheck){ 0 };
		return false;
	}
	r->round = false;
	if (!r->keeping) {
		learn(r, pages, again);
		return false;
	}
	if (first) {
		r->epochs = XEN_RECHECK_RUN - 1;
		return false;
	}
	if (!cleaned && !is_due(r, pages))
		return false;
	if (r->epochs < XEN_RECHECK_SHORT)
		*r = (struct xen_recheck){ 0 };
	xen_recheck_cleaned(r);
	return !cleaned;
}
