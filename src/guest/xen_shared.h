/* xen_shared.h - the memory that a keeper and its mover share for a Xen guest; private to src/guest
 *
 * Only the keeper may ask Xen (dirty bitmap, page types); only the mover copies pages. So the keeper collects what is
 * new into this memory, tells the mover to take it (ROUND, STAGE), and collects again when that was answered: the two
 * never work on it at the same time, but for the dirty bitmap, which is cleared by atomic exchange.
 *
 *   header page | dirty bitmap | type table | p2m (PV only)
 *
 * All three are indexed by file page of the layout (xen.h); the bitmap also covers the type table's own pages.
 */
#ifndef RPL_GUEST_XEN_SHARED_H
#define RPL_GUEST_XEN_SHARED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <replicad/stream_format.h>
#include <replicad/xen.h>

#define XEN_SHARED_MAGIC UINT64_C(0x72706c58656e5348)
#define XEN_NO_FRAME UINT64_MAX /* in the p2m: nothing behind this pfn */

struct xen_shared_head {
	uint64_t magic;
	uint32_t domid;
	uint32_t pv;          /* p2m follows, page tables are to be normalised */
	uint64_t max_mfn;     /* PV: highest machine frame of the host */
	uint64_t running;     /* the guest ran while the last collection was made, and does while its pages are copied */
	uint64_t ring[2];     /* a replica that has its devices: frames that the daemons of dom0 look at; 0: none */
	uint64_t remap;       /* counts; a new value: no mapping of before may be trusted */
};

struct xen_shared {
	struct xen_shared_head *head;
	_Atomic uint64_t *dirty;
	uint8_t *types;
	uint64_t *p2m; /* NULL: not PV */
	size_t bytes;
};

/* Bytes of the whole for this layout. */
size_t xen_shared_size(const struct rpl_ram_layout *l, bool pv);
/* Map it. The descriptor stays the caller's. */
int xen_shared_map(struct xen_shared *s, int fd, const struct rpl_ram_layout *l, bool pv, struct rpl_err *err);
void xen_shared_unmap(struct xen_shared *s); /* accepts one that was never mapped */

static inline void xen_shared_set_dirty(struct xen_shared *s, uint64_t file_page)
{
	atomic_fetch_or_explicit(&s->dirty[file_page / 64], UINT64_C(1) << (file_page % 64), memory_order_relaxed);
}

/* ---- from machine frame to pfn, without Xen's own table
 *
 * A machine frame belongs to the guest if the guest's p2m says so for some pfn. Xen's machine-to-physical table would
 * name a candidate, which has to be looked up in the p2m all the same; a reverse of the p2m gives the same answer, needs no
 * privilege, and is kept up to date by the changes of the p2m that the dirty bitmap shows. Indexed by machine frame,
 * private memory that the kernel gives out only where the guest has frames.
 */
struct xen_reverse {
	uint32_t *pfn_plus_one;
	uint64_t max_mfn;
	size_t bytes;
};
int xen_reverse_init(struct xen_reverse *r, uint64_t max_mfn, struct rpl_err *err);
void xen_reverse_fini(struct xen_reverse *r);
/* pfn had machine frame `was` and has `now`; XEN_NO_FRAME: none. */
void xen_reverse_change(struct xen_reverse *r, uint64_t pfn, uint64_t was, uint64_t now);
/* The guest's pfn of this machine frame. `p2m` has the last word. False: not the guest's. */
static inline bool xen_reverse_pfn(const struct xen_reverse *r, const uint64_t *p2m, uint64_t mfn, uint64_t *ret)
{
	if (mfn > r->max_mfn || !r->pfn_plus_one[mfn])
		return false;
	*ret = r->pfn_plus_one[mfn] - 1;
	return p2m[*ret] == mfn;
}

/* ---- page tables of 64-bit PV guests */

#define XEN_PT_ENTRIES 512u
#define XEN_PTE_FRAMES UINT64_C(0x000ffffffffff000)
#define XEN_PTE_PRESENT 1u
#define XEN_PTE_LARGE 0x80u /* level 2 and up */
#define XEN_L4_XEN_FIRST 256u /* Xen's own slots of a level 4 table */
#define XEN_L4_XEN_LAST 271u

enum xen_normal {
	XEN_NORMAL_OK,
	XEN_NORMAL_FOREIGN, /* *ret_entry maps a machine frame that is not the guest's */
	XEN_NORMAL_LARGE,   /* *ret_entry is a superpage */
};
/* Turn a copy of a page table of this level (1 to 4) into the stream's form. On failure it is half done. */
enum xen_normal xen_normalise(uint64_t *table, unsigned level, const struct xen_reverse *r, const uint64_t *p2m,
			      unsigned *ret_entry);

#endif
