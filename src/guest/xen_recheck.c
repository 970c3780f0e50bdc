#include "xen_recheck.h"

bool xen_recheck_cleans(const struct xen_recheck *r, bool live)
{
	return live || !r->keeping || r->epochs + 1 >= XEN_RECHECK_RUN;
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

bool xen_recheck_seen(struct xen_recheck *r, bool live, uint64_t pages, uint64_t again)
{
	bool cleaned = xen_recheck_cleans(r, live);

	if (live) {
		*r = (struct xen_recheck){ 0 };
		return false;
	}
	if (!r->keeping) {
		learn(r, pages, again);
		return false;
	}
	if (r->epochs++ == 0)
		r->base = pages > XEN_RECHECK_FEW ? pages : XEN_RECHECK_FEW;
	else if (pages > r->base)
		r->extra += pages - r->base;
	if (!cleaned && r->extra < r->base && pages * 100 <= r->base * XEN_RECHECK_GROWN)
		return false;
	if (r->epochs < XEN_RECHECK_SHORT)
		*r = (struct xen_recheck){ 0 };
	xen_recheck_cleaned(r);
	return !cleaned;
}
