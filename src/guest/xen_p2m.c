/* xen_p2m.c - the table from frame numbers to machine frames that a PV guest keeps: found by its page tables, followed
 *
 * Only guests with a linear list (Linux 3.19 and later) are taken: its generation tells when the list moved, which nothing
 * tells for the older tree. The list itself is the guest's memory, so the dirty bitmap shows which leaves changed, and a
 * changed entry makes its page dirty: the page behind it is another one, which Xen's bitmap does not say.
 *
 * How far we follow: to the leaf of the highest frame that is there, or of what the domain may grow to.
 */
#include "xen_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <replicad/auto.h>

#define LEAF_ENTRIES XEN_PT_ENTRIES /* of 8 bytes */
#define LEVELS 4

struct walk {
	uint64_t vaddr;      /* of the list */
	uint64_t n;          /* leaves wanted */
	uint64_t found;
	xen_pfn_t *leaf_mfn;
};

static const shared_info_t *shinfo(const struct xen *x)
{
	return x->p2m.shinfo;
}

static int map_shared_info(struct xen *x, struct rpl_err *err)
{
	struct xen_dominfo d;
	xen_pfn_t frame;
	int r = xen_compat_dominfo(x->xc, x->domid, &d);

	if (r < 0)
		return rpl_fail_errno(err, -r, "domain %u", x->domid);
	frame = d.shared_info_frame;
	x->p2m.shinfo = xenforeignmemory_map(x->fmem, x->domid, PROT_READ, 1, &frame, NULL);
	return x->p2m.shinfo ? 0 : rpl_fail_errno(err, errno, "domain %u: map its shared info", x->domid);
}

static int read_table(struct xen *x, uint64_t mfn, uint64_t *ret, struct rpl_err *err)
{
	xen_pfn_t frame = mfn;
	void *p;

	if (mfn == 0 || mfn > x->max_mfn)
		return rpl_fail(err, -EINVAL, "p2m: a page table at machine frame 0x%" PRIx64 " of 0x%" PRIx64, mfn, x->max_mfn);
	p = xenforeignmemory_map(x->fmem, x->domid, PROT_READ, 1, &frame, NULL);
	if (!p)
		return rpl_fail_errno(err, errno, "p2m: map a page table at machine frame 0x%" PRIx64, mfn);
	memcpy(ret, p, RPL_PAGE_SIZE);
	(void)xenforeignmemory_unmap(x->fmem, p, 1);
	return 0;
}

/* Collect the leaves below this table, which covers the list from leaf `first` on. */
static int walk_table(struct xen *x, struct walk *w, unsigned level, uint64_t mfn, struct rpl_err *err)
{
	RPL_AUTO_FREE uint64_t *table = malloc(RPL_PAGE_SIZE);
	unsigned shift = RPL_PAGE_SHIFT + 9 * (level - 1);
	uint64_t at = w->vaddr + (w->found << RPL_PAGE_SHIFT);

	if (!table)
		return rpl_fail(err, -ENOMEM, "p2m: no memory for a page table");
	if (read_table(x, mfn, table, err) < 0)
		return err->code;
	for (unsigned i = at >> shift & (XEN_PT_ENTRIES - 1); i < XEN_PT_ENTRIES && w->found < w->n; i++) {
		uint64_t e = table[i], next = (e & XEN_PTE_FRAMES) >> RPL_PAGE_SHIFT;

		if (!(e & XEN_PTE_PRESENT) || (level > 1 && (e & XEN_PTE_LARGE)))
			return rpl_fail(err, -EINVAL, "p2m: leaf %" PRIu64 ": its level %u entry is 0x%" PRIx64, w->found, level, e);
		if (level == 1)
			w->leaf_mfn[w->found++] = next;
		else if (walk_table(x, w, level - 1, next, err) < 0)
			return err->code;
	}
	return 0;
}

static bool is_canonical(uint64_t vaddr, uint64_t bytes)
{
	uint64_t end = vaddr + bytes - 1;

	if (end < vaddr || (end > UINT64_C(0x7fffffffffff) && vaddr < UINT64_C(0xffff800000000000)))
		return false;
	/* Xen's own range */
	return end < UINT64_C(0xffff800000000000) || vaddr > UINT64_C(0xffff87ffffffffff);
}

static int find_list(struct xen *x, struct walk *w, struct rpl_err *err)
{
	const arch_shared_info_t *a = &shinfo(x)->arch;
	uint64_t count = a->max_pfn; /* a count in spite of its name */

	x->p2m.generation = a->p2m_generation;
	x->p2m.count = count;
	w->vaddr = a->p2m_vaddr;
	if (a->p2m_cr3 == 0)
		return rpl_fail(err, -ENOTSUP, "the guest has no linear p2m list (Linux before 3.19, or it is still booting)");
	if (count == 0 || count > RPL_RAM_PAGES_MAX)
		return rpl_fail(err, -E2BIG, "p2m: the guest says it has %" PRIu64 " entries; 1 to %" PRIu64 " are possible", count,
				(uint64_t)RPL_RAM_PAGES_MAX);
	w->n = (count + LEAF_ENTRIES - 1) / LEAF_ENTRIES;
	if (w->vaddr % RPL_PAGE_SIZE || !is_canonical(w->vaddr, w->n << RPL_PAGE_SHIFT))
		return rpl_fail(err, -EINVAL, "p2m: a list of %" PRIu64 " entries at 0x%" PRIx64, count, w->vaddr);
	w->leaf_mfn = malloc(w->n * sizeof(*w->leaf_mfn));
	if (!w->leaf_mfn)
		return rpl_fail(err, -ENOMEM, "p2m: no memory for %" PRIu64 " leaves", w->n);
	if (walk_table(x, w, LEVELS, a->p2m_cr3 >> RPL_PAGE_SHIFT, err) < 0)
		return err->code;
	if (w->found < w->n)
		return rpl_fail(err, -EINVAL, "p2m: %" PRIu64 " of %" PRIu64 " leaves are mapped", w->found, w->n);
	return 0;
}

static uint64_t entry(const struct xen *x, uint64_t pfn)
{
	uint64_t mfn = __atomic_load_n(&x->p2m.list[pfn], __ATOMIC_RELAXED);

	/* the guest marks what is not its memory with high bits */
	return mfn > x->max_mfn ? XEN_NO_FRAME : mfn;
}

/* So many leaves hold something, or may. */
static uint64_t useful_leaves(struct xen *x, uint64_t n)
{
	uint64_t pfn = n * LEAF_ENTRIES, grow = 0;
	struct xen_dominfo d;

	if (xen_compat_dominfo(x->xc, x->domid, &d) == 0)
		grow = (d.max_pages + LEAF_ENTRIES - 1) / LEAF_ENTRIES;
	while (pfn && entry(x, pfn - 1) == XEN_NO_FRAME)
		pfn--;
	pfn = (pfn + LEAF_ENTRIES - 1) / LEAF_ENTRIES;
	if (grow > pfn)
		pfn = grow;
	return pfn < n ? pfn : n;
}

static int name_leaves(struct xen *x, const struct walk *w, struct rpl_err *err)
{
	x->p2m.leaf_pfn = malloc(x->p2m.n_leaves * sizeof(*x->p2m.leaf_pfn));
	if (!x->p2m.leaf_pfn)
		return rpl_fail(err, -ENOMEM, "p2m: no memory for %" PRIu64 " leaves", x->p2m.n_leaves);
	for (uint64_t pfn = 0; pfn < x->p2m.pages; pfn++)
		xen_reverse_change(&x->p2m.reverse, pfn, XEN_NO_FRAME, entry(x, pfn));
	for (uint64_t i = 0; i < x->p2m.n_leaves; i++) {
		uint64_t *pfn = &x->p2m.leaf_pfn[i];

		if (w->leaf_mfn[i] > x->max_mfn || !xen_reverse_pfn(&x->p2m.reverse, x->p2m.list, w->leaf_mfn[i], pfn))
			return rpl_fail(err, -EINVAL, "p2m: leaf %" PRIu64 " is machine frame 0x%" PRIx64 ", which is not the guest's", i,
					(uint64_t)w->leaf_mfn[i]);
	}
	return 0;
}

static int open_list(struct xen *x, struct walk *w, struct rpl_err *err)
{
	if (map_shared_info(x, err) < 0 || find_list(x, w, err) < 0 || xen_reverse_init(&x->p2m.reverse, x->max_mfn, err) < 0)
		return err->code;
	x->p2m.n_leaves = w->n;
	x->p2m.list = xenforeignmemory_map(x->fmem, x->domid, PROT_READ, w->n, w->leaf_mfn, NULL);
	if (!x->p2m.list)
		return rpl_fail_errno(err, errno, "p2m: map %" PRIu64 " leaves", w->n);
	w->n = useful_leaves(x, w->n);
	if (w->n < x->p2m.n_leaves) {
		(void)xenforeignmemory_unmap(x->fmem, (void *)(uintptr_t)x->p2m.list, x->p2m.n_leaves);
		x->p2m.n_leaves = w->n;
		x->p2m.list = xenforeignmemory_map(x->fmem, x->domid, PROT_READ, w->n, w->leaf_mfn, NULL);
		if (!x->p2m.list)
			return rpl_fail_errno(err, errno, "p2m: map %" PRIu64 " leaves", w->n);
	}
	x->p2m.pages = w->n * LEAF_ENTRIES;
	return name_leaves(x, w, err);
}

int xen_p2m_open(struct xen *x, struct rpl_err *err)
{
	struct walk w = { 0 };
	int r;

	xen_p2m_close(x);
	r = open_list(x, &w, err);
	free(w.leaf_mfn);
	if (r < 0)
		xen_p2m_close(x);
	return r;
}

void xen_p2m_close(struct xen *x)
{
	struct xen_p2m *p = &x->p2m;

	if (p->list)
		(void)xenforeignmemory_unmap(x->fmem, (void *)(uintptr_t)p->list, p->n_leaves);
	if (p->shinfo)
		(void)xenforeignmemory_unmap(x->fmem, (void *)(uintptr_t)p->shinfo, 1);
	xen_reverse_fini(&p->reverse);
	free(p->leaf_pfn);
	*p = (struct xen_p2m){ 0 };
}

int xen_p2m_moved(struct xen *x)
{
	const arch_shared_info_t *a = &shinfo(x)->arch;
	uint64_t generation = __atomic_load_n(&a->p2m_generation, __ATOMIC_ACQUIRE);

	if (generation & 1)
		return -EAGAIN;
	return generation != x->p2m.generation || __atomic_load_n(&a->max_pfn, __ATOMIC_RELAXED) != x->p2m.count;
}

static void update_leaf(struct xen *x, uint64_t leaf)
{
	for (uint64_t pfn = leaf * LEAF_ENTRIES; pfn < (leaf + 1) * LEAF_ENTRIES; pfn++) {
		uint64_t now = entry(x, pfn), was = x->shared.p2m[pfn];

		if (now == was)
			continue;
		xen_reverse_change(&x->p2m.reverse, pfn, was, now);
		x->shared.p2m[pfn] = now;
		xen_shared_set_dirty(&x->shared, pfn);
	}
}

void xen_p2m_update(struct xen *x, const uint8_t *log)
{
	for (uint64_t i = 0; i < x->p2m.n_leaves; i++) {
		uint64_t pfn = x->p2m.leaf_pfn[i];

		if (!log || (pfn < x->log_pages && log[pfn / 8] >> (pfn % 8) & 1))
			update_leaf(x, i);
	}
}

bool xen_p2m_pfn(const struct xen *x, uint64_t mfn, uint64_t *ret)
{
	return xen_reverse_pfn(&x->p2m.reverse, x->shared.p2m, mfn, ret);
}
