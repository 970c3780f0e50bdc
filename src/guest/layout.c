/* layout.c - where a guest frame's bytes lie in the RAM file; pure */
#include <replicad/memory.h>

#include <errno.h>
#include <inttypes.h>
#include <string.h>

bool rpl_layout_add(struct rpl_ram_layout *l, uint64_t pfn, uint64_t pages, uint64_t file_page)
{
	if (l->count >= RPL_RAM_REGIONS_MAX || pages == 0 || pfn < l->pfn_limit || pfn > RPL_RAM_PAGES_MAX ||
	    pages > RPL_RAM_PAGES_MAX - pfn || file_page > RPL_RAM_PAGES_MAX - pages)
		return false;
	l->region[l->count++] = (struct rpl_ram_region){ .pfn = pfn, .pages = pages, .file_page = file_page };
	l->pages += pages;
	l->pfn_limit = pfn + pages;
	return true;
}

/* File pages must be a bijection too: each page of the file belongs to at most one frame, and none lies beyond the
 * file, whose length is the number of pages. */
static bool check_file_pages(const struct rpl_ram_layout *l, struct rpl_err *err)
{
	for (uint32_t i = 0; i < l->count; i++) {
		const struct rpl_ram_region *a = &l->region[i];

		if (a->file_page > l->pages - a->pages) {
			(void)rpl_fail(err, -EINVAL, "RAM layout: region %u ends at file page %" PRIu64 " of %" PRIu64, i,
				       a->file_page + a->pages, l->pages);
			return false;
		}
		for (uint32_t k = 0; k < i; k++) {
			const struct rpl_ram_region *b = &l->region[k];

			if (a->file_page >= b->file_page + b->pages || b->file_page >= a->file_page + a->pages)
				continue;
			(void)rpl_fail(err, -EINVAL, "RAM layout: regions %u and %u share file pages", k, i);
			return false;
		}
	}
	return true;
}

bool rpl_layout_check(const struct rpl_ram_layout *l, struct rpl_err *err)
{
	struct rpl_ram_layout again = { 0 };

	if (l->count == 0 || l->count > RPL_RAM_REGIONS_MAX || l->reserved != 0) {
		(void)rpl_fail(err, -EINVAL, "RAM layout: %u regions, reserved %u; 1 to %d and 0 are possible", l->count,
			       l->reserved, RPL_RAM_REGIONS_MAX);
		return false;
	}
	for (uint32_t i = 0; i < l->count; i++) {
		const struct rpl_ram_region *r = &l->region[i];

		if (!rpl_layout_add(&again, r->pfn, r->pages, r->file_page)) {
			(void)rpl_fail(err, -EINVAL,
				       "RAM layout: region %u (frame %" PRIu64 ", %" PRIu64 " pages) is empty, out of order or too large",
				       i, r->pfn, r->pages);
			return false;
		}
	}
	if (again.pages != l->pages || again.pfn_limit != l->pfn_limit) {
		(void)rpl_fail(err, -EINVAL, "RAM layout: says %" PRIu64 " pages below frame %" PRIu64 ", its regions %" PRIu64 " below %" PRIu64,
			       l->pages, l->pfn_limit, again.pages, again.pfn_limit);
		return false;
	}
	return check_file_pages(l, err);
}

bool rpl_layout_file_page(const struct rpl_ram_layout *l, uint64_t pfn, uint64_t *ret)
{
	for (uint32_t i = 0; i < l->count; i++) {
		const struct rpl_ram_region *r = &l->region[i];

		if (pfn >= r->pfn && pfn - r->pfn < r->pages) {
			*ret = r->file_page + (pfn - r->pfn);
			return true;
		}
	}
	return false;
}

bool rpl_layout_pfn(const struct rpl_ram_layout *l, uint64_t file_page, uint64_t *ret)
{
	for (uint32_t i = 0; i < l->count; i++) {
		const struct rpl_ram_region *r = &l->region[i];

		if (file_page >= r->file_page && file_page - r->file_page < r->pages) {
			*ret = r->pfn + (file_page - r->file_page);
			return true;
		}
	}
	return false;
}

bool rpl_layout_equal(const struct rpl_ram_layout *a, const struct rpl_ram_layout *b)
{
	return a->count == b->count && a->count <= RPL_RAM_REGIONS_MAX &&
	       memcmp(a->region, b->region, a->count * sizeof(a->region[0])) == 0;
}
