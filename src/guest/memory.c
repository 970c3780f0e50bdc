/* memory.c - the memory half of a guest, common to all kinds of tracker
 *
 * Holes. A RAM file on tmpfs starts as one big hole; reading a hole through a mapping allocates it, which would let a
 * 64 GiB guest that uses 2 take 64 on both hosts. So pages that no take has reported yet are read with pread (which
 * does not allocate), comparisons and audits skip holes by lseek, and a page of zeroes is stored over a hole by
 * leaving it.
 *
 * Shadows (compare, audit) are private, zero-filled, lazily allocated memory; per chunk of 512 pages a bit says
 * whether anything was stored there, so that a page which became a hole again is still compared.
 */
#include "memory_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <replicad/delta.h>
#include <replicad/log.h>

static const struct rpl_memory_kind_ops *const kinds[RPL_MEMORY_NKINDS] = {
	[RPL_MEMORY_SIM] = &rpl_memory_sim,
	[RPL_MEMORY_UFFD] = &rpl_memory_uffd,
	[RPL_MEMORY_COMPARE] = &rpl_memory_compare,
	[RPL_MEMORY_REPLICA] = &rpl_memory_replica,
	[RPL_MEMORY_XEN] = &rpl_memory_xen,
	[RPL_MEMORY_DOMAIN] = &rpl_memory_domain,
};

/* ---- opening */

static int map_ram(struct rpl_memory *m, struct rpl_err *err)
{
	int prot = m->ops->writable ? PROT_READ | PROT_WRITE : PROT_READ;
	struct stat st;
	void *p;

	if (fstat(m->fd[0], &st) < 0)
		return rpl_fail_errno(err, errno, "%s memory: fstat of the RAM file", m->ops->name);
	if (st.st_size < 0 || (uint64_t)st.st_size < m->bytes)
		return rpl_fail(err, -EINVAL, "%s memory: the RAM file has %jd bytes, the layout needs %zu", m->ops->name,
				(intmax_t)st.st_size, m->bytes);
	p = mmap(NULL, m->bytes, prot, MAP_SHARED, m->fd[0], 0);
	if (p == MAP_FAILED)
		return rpl_fail_errno(err, errno, "%s memory: map %zu bytes of RAM", m->ops->name, m->bytes);
	m->map = p;
	return 0;
}

uint8_t *rpl_memory_shadow_new(size_t bytes, struct rpl_err *err)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED) {
		(void)rpl_fail_errno(err, errno, "map a shadow of %zu bytes", bytes);
		return NULL;
	}
	(void)madvise(p, bytes, MADV_HUGEPAGE); /* fewer faults; without it only slower */
	return p;
}

static int audit_chunk(struct rpl_memory *m, const uint8_t *now, uint64_t from, uint64_t to, void *arg);

static int open_audit(struct rpl_memory *m, struct rpl_err *err)
{
	m->audit = rpl_memory_shadow_new(m->bytes, err);
	if (!m->audit)
		return err ? err->code : -ENOMEM;
	if (rpl_bitmap_init(&m->audited, m->desc.layout.pages) < 0 ||
	    rpl_bitmap_init(&m->in_audit, m->desc.layout.pages / RPL_CHUNK_PAGES + 1) < 0)
		return rpl_fail(err, -ENOMEM, "%s memory: no memory for the audit", m->ops->name);
	/* The guest may be running: a page that changes after its baseline was copied is still to be reported. */
	return rpl_memory_walk(m, NULL, audit_chunk, NULL, err);
}

static int open_kind(struct rpl_memory *m, struct rpl_err *err)
{
	int r;

	if (!rpl_layout_check(&m->desc.layout, err))
		return -EINVAL;
	if (m->n_fds != m->ops->n_fds)
		return rpl_fail(err, -EINVAL, "%s memory: %zu descriptors came, %zu are needed", m->ops->name, m->n_fds,
				m->ops->n_fds);
	m->bytes = m->desc.layout.pages << RPL_PAGE_SHIFT;
	r = m->ops->own_map ? 0 : map_ram(m, err);
	if (r < 0)
		return r;
	if (rpl_bitmap_init(&m->known, m->desc.layout.pages) < 0)
		return rpl_fail(err, -ENOMEM, "%s memory: no memory for a bitmap", m->ops->name);
	r = m->ops->open(m, err);
	if (r < 0)
		return r;
	return m->desc.audit && m->ops->take ? open_audit(m, err) : 0;
}

struct rpl_memory *rpl_memory_new(const struct rpl_memory_desc *desc, const int *fds, size_t n_fds, struct rpl_err *err)
{
	struct rpl_memory *m = calloc(1, sizeof(*m));

	if (!m || desc->kind >= RPL_MEMORY_NKINDS || n_fds == 0 || n_fds > RPL_MEMORY_FDS_MAX) {
		(void)rpl_fail(err, m ? -EINVAL : -ENOMEM, "guest memory: kind %u with %zu descriptors", desc->kind, n_fds);
		for (size_t i = 0; i < n_fds; i++)
			(void)close(fds[i]);
		free(m);
		return NULL;
	}
	m->ops = kinds[desc->kind];
	m->desc = *desc;
	m->n_fds = n_fds;
	memcpy(m->fd, fds, n_fds * sizeof(fds[0]));
	if (open_kind(m, err) < 0) {
		rpl_memory_free(m);
		return NULL;
	}
	return m;
}

void rpl_memory_free(struct rpl_memory *m)
{
	if (!m)
		return;
	if (m->ops->close)
		m->ops->close(m);
	if (m->map)
		(void)munmap(m->map, m->bytes);
	if (m->shadow)
		(void)munmap(m->shadow, m->bytes);
	if (m->audit)
		(void)munmap(m->audit, m->bytes);
	rpl_bitmap_fini(&m->known);
	rpl_bitmap_fini(&m->audited);
	rpl_bitmap_fini(&m->in_shadow);
	rpl_bitmap_fini(&m->in_audit);
	for (size_t i = 0; i < m->n_fds; i++)
		(void)close(m->fd[i]);
	free(m);
}

const struct rpl_ram_layout *rpl_memory_layout(const struct rpl_memory *m)
{
	return &m->desc.layout;
}

bool rpl_memory_compares(const struct rpl_memory *m)
{
	return m->ops->take && !m->ops->peek;
}

/* ---- the dirty set */

void rpl_memory_found(struct rpl_memory *m, uint64_t from, uint64_t n, struct rpl_bitmap *dirty, uint64_t *new_pages)
{
	rpl_bitmap_set_range(&m->known, from, n);
	if (m->audit)
		rpl_bitmap_set_range(&m->audited, from, n);
	for (uint32_t i = 0; i < m->desc.layout.count; i++) {
		const struct rpl_ram_region *r = &m->desc.layout.region[i];
		uint64_t lo = from > r->file_page ? from : r->file_page;
		uint64_t hi = from + n < r->file_page + r->pages ? from + n : r->file_page + r->pages;

		if (lo >= hi)
			continue;
		rpl_bitmap_set_range(dirty, r->pfn + (lo - r->file_page), hi - lo);
		*new_pages += hi - lo;
	}
}

int rpl_memory_take_dirty(struct rpl_memory *m, struct rpl_bitmap *dirty, uint64_t *ret_new, struct rpl_err *err)
{
	uint64_t found = 0;
	int r;

	rpl_assert(dirty->bits >= m->desc.layout.pfn_limit);
	if (!m->ops->take)
		return rpl_fail(err, -EOPNOTSUPP, "%s memory has no dirty set", m->ops->name);
	r = m->ops->take(m, dirty, &found, err);
	if (r == 0)
		*ret_new = found;
	return r;
}

int rpl_memory_peek_dirty(struct rpl_memory *m, uint64_t *ret, struct rpl_err *err)
{
	if (!m->ops->peek)
		return rpl_fail(err, -EOPNOTSUPP, "%s memory cannot tell how much is dirty without taking it", m->ops->name);
	return m->ops->peek(m, ret, err);
}

/* ---- walking the file */

static uint64_t next_marked(const struct rpl_bitmap *also, uint64_t page, uint64_t pages)
{
	uint64_t chunk, first;

	if (!also)
		return pages;
	chunk = rpl_bitmap_next(also, page / RPL_CHUNK_PAGES);
	if (chunk >= also->bits)
		return pages;
	first = chunk * RPL_CHUNK_PAGES;
	return first > page ? first : page;
}

/* The next page at or after `page` that is data in the file; `pages` if there is none. */
static int next_data(struct rpl_memory *m, uint64_t page, uint64_t pages, uint64_t *ret)
{
	off_t at = lseek(m->fd[0], (off_t)(page << RPL_PAGE_SHIFT), SEEK_DATA);

	if (at < 0 && errno != ENXIO)
		return -errno;
	*ret = at < 0 ? pages : (uint64_t)at >> RPL_PAGE_SHIFT;
	if (*ret > pages)
		*ret = pages;
	return 0;
}

static uint64_t data_end(struct rpl_memory *m, uint64_t page, uint64_t pages)
{
	off_t at = lseek(m->fd[0], (off_t)(page << RPL_PAGE_SHIFT), SEEK_HOLE);
	uint64_t end = at < 0 ? pages : ((uint64_t)at + RPL_PAGE_SIZE - 1) >> RPL_PAGE_SHIFT;

	return end > pages ? pages : end;
}

int rpl_memory_walk(struct rpl_memory *m, const struct rpl_bitmap *also, rpl_memory_walk_fn *fn, void *arg,
		    struct rpl_err *err)
{
	uint64_t pages = m->desc.layout.pages, page = 0, data = 0, end;
	int r;

	while (page < pages) {
		uint64_t marked = next_marked(also, page, pages);

		r = next_data(m, page, pages, &data);
		if (r < 0)
			return rpl_fail_errno(err, -r, "%s memory: seek data after page %" PRIu64, m->ops->name, page);
		page = data < marked ? data : marked;
		if (page >= pages)
			break;
		if (page == data)
			end = data_end(m, page, pages);
		else
			end = (page / RPL_CHUNK_PAGES + 1) * RPL_CHUNK_PAGES < data ?
				      (page / RPL_CHUNK_PAGES + 1) * RPL_CHUNK_PAGES : data;
		if (end <= page)
			end = page + 1; /* a hole appeared between the two questions */
		r = fn(m, page < data ? NULL : m->map + (page << RPL_PAGE_SHIFT), page, end, arg);
		if (r < 0)
			return rpl_fail_errno(err, -r, "%s memory: pages %" PRIu64 " to %" PRIu64, m->ops->name, page, end);
		page = end;
	}
	return 0;
}

/* ---- audit */

struct audit_arg {
	const struct rpl_bitmap *taken;
	uint64_t missed;
};

bool rpl_memory_refresh(uint8_t *shadow, struct rpl_bitmap *in_shadow, uint64_t p, const uint8_t *now)
{
	static const uint8_t zeroes[RPL_PAGE_SIZE];
	uint8_t *was = shadow + (p << RPL_PAGE_SHIFT);

	if (!now)
		now = zeroes;
	if (memcmp(now, was, RPL_PAGE_SIZE) == 0)
		return false;
	memcpy(was, now, RPL_PAGE_SIZE);
	rpl_bitmap_set(in_shadow, p / RPL_CHUNK_PAGES);
	return true;
}

/* Without arg: only take the baseline. */
static int audit_chunk(struct rpl_memory *m, const uint8_t *now, uint64_t from, uint64_t to, void *arg)
{
	struct audit_arg *a = arg;

	for (uint64_t p = from; p < to; p++) {
		uint64_t pfn;

		if (!rpl_memory_refresh(m->audit, &m->in_audit, p, now ? now + ((p - from) << RPL_PAGE_SHIFT) : NULL))
			continue;
		if (!a || !rpl_layout_pfn(&m->desc.layout, p, &pfn))
			continue;
		if (rpl_bitmap_get(&m->audited, p) || (a->taken && rpl_bitmap_get(a->taken, pfn)))
			continue;
		a->missed++;
		rpl_log(RPL_LOG_DEBUG, "audit: %s tracker missed pfn=%" PRIu64 " file_page=%" PRIu64, m->ops->name, pfn, p);
	}
	return 0;
}

int rpl_memory_audit(struct rpl_memory *m, const struct rpl_bitmap *taken, uint64_t *ret_missed, struct rpl_err *err)
{
	struct audit_arg a = { .taken = taken };
	int r;

	rpl_assert(m->audit);
	r = rpl_memory_walk(m, &m->in_audit, audit_chunk, &a, err);
	if (r < 0)
		return r;
	rpl_bitmap_zero(&m->audited);
	*ret_missed = a.missed;
	return 0;
}

/* ---- copies */

static int read_page(struct rpl_memory *m, uint64_t file_page, size_t pages, uint8_t *dst)
{
	size_t len = pages << RPL_PAGE_SHIFT;
	off_t at = (off_t)(file_page << RPL_PAGE_SHIFT);

	while (len) {
		ssize_t n = pread(m->fd[0], dst, len, at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		dst += n;
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

/* The file page itself; NULL: it may be a hole, which a look would fill. */
static const uint8_t *page_in_file(const struct rpl_memory *m, uint64_t p)
{
	if (m->shadow)
		return m->shadow + (p << RPL_PAGE_SHIFT);
	return rpl_bitmap_get(&m->known, p) ? m->map + (p << RPL_PAGE_SHIFT) : NULL;
}

int rpl_memory_copy_out(struct rpl_memory *m, const uint64_t *pfns, size_t n, void *dst, struct rpl_err *err)
{
	uint8_t *to = dst;
	size_t i = 0;

	if (m->ops->copy_out)
		return m->ops->copy_out(m, pfns, n, dst, err);
	while (i < n) {
		const uint8_t *page;
		uint64_t first, next;
		size_t run = 1;
		int r;

		rpl_assert(rpl_layout_file_page(&m->desc.layout, pfns[i], &first));
		page = page_in_file(m, first);
		if (page) {
			memcpy(to + (i << RPL_PAGE_SHIFT), page, RPL_PAGE_SIZE);
			i++;
			continue;
		}
		while (i + run < n && rpl_layout_file_page(&m->desc.layout, pfns[i + run], &next) &&
		       next == first + run && !rpl_bitmap_get(&m->known, next))
			run++;
		r = read_page(m, first, run, to + (i << RPL_PAGE_SHIFT));
		if (r < 0)
			return rpl_fail_errno(err, -r, "%s memory: read %zu pages of RAM at file page %" PRIu64,
					      m->ops->name, run, first);
		i += run;
	}
	return 0;
}

const void *rpl_memory_look(const struct rpl_memory *m, uint64_t pfn)
{
	uint64_t p;

	rpl_assert(rpl_layout_file_page(&m->desc.layout, pfn, &p));
	return m->ops->look ? m->ops->look(m, p) : page_in_file(m, p);
}

int rpl_memory_finish(struct rpl_memory *m, const uint64_t *pfns, size_t n, void *pages, struct rpl_err *err)
{
	return m->ops->finish ? m->ops->finish(m, pfns, n, pages, err) : 0;
}

static bool page_is_zero(const uint8_t *p)
{
	return p[0] == 0 && memcmp(p, p + 1, RPL_PAGE_SIZE - 1) == 0;
}

/* Is this page of the replica's file a hole? Holes are remembered as one range: bulk rounds ascend. */
static bool in_hole(struct rpl_memory *m, uint64_t p)
{
	uint64_t data = 0;

	if (rpl_bitmap_get(&m->known, p))
		return false;
	if (p >= m->hole_from && p < m->hole_to)
		return true;
	if (next_data(m, p, m->desc.layout.pages, &data) < 0 || data <= p)
		return false;
	m->hole_from = p;
	m->hole_to = data;
	return true;
}

int rpl_memory_store_delta(uint64_t pfn, void *at, const void *delta, struct rpl_err *err)
{
	int r = rpl_delta_apply(at, delta, RPL_PAGE_SIZE, err);

	return r < 0 ? rpl_prefix(err, "replica: frame %" PRIu64, pfn) : 0;
}

static void note_data(struct rpl_memory *m, uint64_t p)
{
	rpl_bitmap_set(&m->known, p);
	if (p >= m->hole_from && p < m->hole_to)
		m->hole_from = m->hole_to = 0;
}

static void store_page(struct rpl_memory *m, uint64_t p, const void *page)
{
	uint8_t *at = m->map + (p << RPL_PAGE_SHIFT);

	if (!page && in_hole(m, p))
		return;
	if (page)
		memcpy(at, page, RPL_PAGE_SIZE);
	else if (!page_is_zero(at))
		memset(at, 0, RPL_PAGE_SIZE);
	note_data(m, p);
}

int rpl_memory_copy_in(struct rpl_memory *m, const uint64_t *pfns, const void *const *pages, size_t n,
		       struct rpl_err *err)
{
	return rpl_memory_patch(m, pfns, pages, NULL, n, err);
}

int rpl_memory_patch(struct rpl_memory *m, const uint64_t *pfns, const void *const *pages, const bool *delta, size_t n,
		     struct rpl_err *err)
{
	int r = 0;

	if (!m->ops->writable)
		return rpl_fail(err, -EPERM, "%s memory: it is a guest's, not a replica", m->ops->name);
	if (m->ops->patch)
		return m->ops->patch(m, pfns, pages, delta, n, err);
	for (size_t i = 0; i < n && r == 0; i++) {
		uint64_t p;

		if (!rpl_layout_file_page(&m->desc.layout, pfns[i], &p))
			return rpl_fail(err, -ERANGE, "replica: frame %" PRIu64 " is outside the RAM (limit %" PRIu64 ")",
					pfns[i], m->desc.layout.pfn_limit);
		if (delta && delta[i]) {
			r = rpl_memory_store_delta(pfns[i], m->map + (p << RPL_PAGE_SHIFT), pages[i], err);
			note_data(m, p);
		} else {
			store_page(m, p, pages[i]);
		}
	}
	return r;
}

void *rpl_memory_page(struct rpl_memory *m, uint64_t pfn)
{
	uint64_t p;

	if (m->ops->own_map || !rpl_layout_file_page(&m->desc.layout, pfn, &p))
		return NULL;
	return (m->shadow ? m->shadow : m->map) + (p << RPL_PAGE_SHIFT);
}
