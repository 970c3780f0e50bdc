#include "xen_recheck.h"

bool xen_recheck_cleans(const struct xen_recheck *r, enum xen_recheck_set of)
{
	if (of == XEN_SET_LIVE || (of == XEN_SET_ROUND && !r->rounds))
		return true;
	return !r->keeping || r->epochs + 1 >= XEN_RECHECK_RUN;
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

/* The first set is what was written before anything was copied, the second what was while all memory was: of rounds after that
 * one knows how long they take by how many pages they begin with. */
static void begin_round(struct xen_recheck *r, unsigned rounds, uint64_t pages)
{
	*r = (struct xen_recheck){ .rounds = rounds, .keeping = rounds > 1 && pages <= XEN_RECHECK_ROUND };
}

bool xen_recheck_seen(struct xen_recheck *r, enum xen_recheck_set of, uint64_t pages, uint64_t again)
{
	bool cleaned = xen_recheck_cleans(r, of);
	unsigned rounds = of == XEN_SET_ROUND ? r->rounds + 1 : 0;

	if (of == XEN_SET_LIVE || (of == XEN_SET_ROUND && (rounds == 1 || !r->keeping))) {
		begin_round(r, rounds, pages);
		return false;
	}
	if (r->rounds && !rounds) /* the first checkpoint: an epoch is not as long as a round was */
		xen_recheck_cleaned(r);
	r->rounds = rounds;
	if (!r->keeping) {
		learn(r, pages, again);
		return false;
	}
	if (r->epochs++ == 0)
		r->base = pages > XEN_RECHECK_FEW ? pages : XEN_RECHECK_FEW;
	else if (pages > r->base)
		r->extra += pages - r->base;
	if (!cleaned && r->extra < r->base * XEN_RECHECK_PRICE && pages * 100 <= r->base * XEN_RECHECK_GROWN)
		return false;
	if (of == XEN_SET_ROUND) { /* the guest runs on: what is written between two reads has its type looked at after neither */
		*r = (struct xen_recheck){ .rounds = rounds };
		return false;
	}
	if (r->epochs < XEN_RECHECK_SHORT)
		*r = (struct xen_recheck){ 0 };
	xen_recheck_cleaned(r);
	return !cleaned;
}
