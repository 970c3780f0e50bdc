/* xen_shared.c - what keeper and mover share of a Xen guest, and PV page tables in the stream's form */
#include "xen_shared.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <replicad/bitmap.h>

static size_t page_round(size_t n)
{
	return (n + RPL_PAGE_SIZE - 1) & ~(size_t)(RPL_PAGE_SIZE - 1);
}

static size_t bitmap_bytes(const struct rpl_ram_layout *l)
{
	return page_round(RPL_BITMAP_WORDS(l->pages) * sizeof(uint64_t));
}

size_t xen_shared_size(const struct rpl_ram_layout *l, bool pv)
{
	uint64_t pages = rpl_xen_guest_pages(l);

	return RPL_PAGE_SIZE + bitmap_bytes(l) + page_round(pages) + (pv ? page_round(pages * sizeof(uint64_t)) : 0);
}

int xen_shared_map(struct xen_shared *s, int fd, const struct rpl_ram_layout *l, bool pv, struct rpl_err *err)
{
	size_t bytes = xen_shared_size(l, pv);
	struct stat st;
	uint8_t *p;

	if (fstat(fd, &st) < 0 || st.st_size < 0 || (uint64_t)st.st_size < bytes)
		return rpl_fail(err, -EINVAL, "xen memory: %jd bytes are shared, the layout needs %zu", (intmax_t)st.st_size, bytes);
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return rpl_fail_errno(err, errno, "xen memory: map %zu shared bytes", bytes);
	s->head = (void *)p;
	s->bytes = bytes;
	p += RPL_PAGE_SIZE;
	s->dirty = (void *)p;
	p += bitmap_bytes(l);
	s->types = p;
	p += page_round(rpl_xen_guest_pages(l));
	s->p2m = pv ? (void *)p : NULL;
	return 0;
}

void xen_shared_unmap(struct xen_shared *s)
{
	if (s->head)
		(void)munmap(s->head, s->bytes);
	*s = (struct xen_shared){ 0 };
}

/* ---- the reverse of the p2m */

int xen_reverse_init(struct xen_reverse *r, uint64_t max_mfn, struct rpl_err *err)
{
	void *p;

	if (max_mfn >= RPL_RAM_PAGES_MAX * 64)
		return rpl_fail(err, -EINVAL, "xen memory: highest machine frame 0x%" PRIx64 " is beyond 0x%" PRIx64, max_mfn,
				RPL_RAM_PAGES_MAX * 64);
	r->bytes = (max_mfn + 1) * sizeof(uint32_t);
	p = mmap(NULL, r->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return rpl_fail_errno(err, errno, "xen memory: room for the reverse of the p2m, %zu bytes", r->bytes);
	r->pfn_plus_one = p;
	r->max_mfn = max_mfn;
	return 0;
}

void xen_reverse_fini(struct xen_reverse *r)
{
	if (r->pfn_plus_one)
		(void)munmap(r->pfn_plus_one, r->bytes);
	*r = (struct xen_reverse){ 0 };
}

void xen_reverse_change(struct xen_reverse *r, uint64_t pfn, uint64_t was, uint64_t now)
{
	if (was <= r->max_mfn && r->pfn_plus_one[was] == pfn + 1)
		r->pfn_plus_one[was] = 0;
	if (now <= r->max_mfn)
		r->pfn_plus_one[now] = (uint32_t)(pfn + 1);
}
_Static_assert(RPL_RAM_PAGES_MAX < UINT32_MAX, "a pfn and one more fit the reverse table");

/* ---- page tables */

enum xen_normal xen_normalise(uint64_t *table, unsigned level, const struct xen_reverse *r, const uint64_t *p2m,
			      unsigned *ret_entry)
{
	if (level == 4) /* Xen's own, which it puts there again when the table is validated on the other side */
		memset(&table[XEN_L4_XEN_FIRST], 0, (XEN_L4_XEN_LAST - XEN_L4_XEN_FIRST + 1) * sizeof(table[0]));
	for (unsigned i = 0; i < XEN_PT_ENTRIES; i++) {
		uint64_t e = table[i], pfn;

		if (!(e & XEN_PTE_PRESENT))
			continue;
		*ret_entry = i;
		if (level > 1 && (e & XEN_PTE_LARGE))
			return XEN_NORMAL_LARGE;
		if (!xen_reverse_pfn(r, p2m, (e & XEN_PTE_FRAMES) >> RPL_PAGE_SHIFT, &pfn))
			return XEN_NORMAL_FOREIGN;
		table[i] = (e & ~XEN_PTE_FRAMES) | pfn << RPL_PAGE_SHIFT;
	}
	return XEN_NORMAL_OK;
}
