/* memory_kinds.c - where the dirty set comes from: the kernel, a comparison, or the simulated guest itself */
#include "memory_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "uapi_pagemap.h"

/* ---- uffd: the kernel write-protects pages asynchronously and PAGEMAP_SCAN reads and resets that in one step */

#define SCAN_REGIONS 8192 /* of one ioctl; the scan goes on where a full vector stopped it */

static int uffd_open(struct rpl_memory *m, struct rpl_err *err)
{
	if (m->desc.vaddr == 0 || m->desc.vaddr % RPL_PAGE_SIZE || m->desc.vaddr + m->bytes < m->desc.vaddr)
		return rpl_fail(err, -EINVAL, "uffd memory: RAM at 0x%" PRIx64, m->desc.vaddr);
	m->vec = calloc(SCAN_REGIONS, sizeof(*m->vec));
	if (!m->vec)
		return rpl_fail(err, -ENOMEM, "uffd memory: no memory for %d regions", SCAN_REGIONS);
	return 0;
}

static void uffd_close(struct rpl_memory *m)
{
	free(m->vec);
}

/* One call from `start`: at most SCAN_REGIONS regions in m->vec, *ret_next where to go on. Returns their number. */
static int scan(struct rpl_memory *m, uint64_t flags, uint64_t start, uint64_t *ret_next, struct rpl_err *err)
{
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = flags,
		.start = start,
		.end = m->desc.vaddr + m->bytes,
		.vec = (uintptr_t)m->vec,
		.vec_len = SCAN_REGIONS,
		.category_mask = PAGE_IS_WRITTEN,
		.return_mask = PAGE_IS_WRITTEN,
	};
	int n = ioctl(m->fd[2], PAGEMAP_SCAN, &arg);

	if (n < 0)
		return rpl_fail_errno(err, errno, "uffd memory: PAGEMAP_SCAN from 0x%" PRIx64 " to 0x%" PRIx64,
				      (uint64_t)arg.start, (uint64_t)arg.end);
	if (arg.walk_end <= start || arg.walk_end > arg.end)
		return rpl_fail(err, -ESRCH, "uffd memory: PAGEMAP_SCAN stopped at 0x%" PRIx64 " of 0x%" PRIx64
				": the guest's process is gone", (uint64_t)arg.walk_end, (uint64_t)arg.end);
	*ret_next = arg.walk_end;
	return n;
}

static int uffd_take(struct rpl_memory *m, struct rpl_bitmap *dirty, uint64_t *ret_new, struct rpl_err *err)
{
	uint64_t base = m->desc.vaddr, at = base;

	while (at < base + m->bytes) {
		int n = scan(m, PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC, at, &at, err);

		if (n < 0)
			return n;
		for (int i = 0; i < n; i++)
			rpl_memory_found(m, (m->vec[i].start - base) >> RPL_PAGE_SHIFT,
					 (m->vec[i].end - m->vec[i].start) >> RPL_PAGE_SHIFT, dirty, ret_new);
	}
	return 0;
}

static int uffd_peek(struct rpl_memory *m, uint64_t *ret, struct rpl_err *err)
{
	uint64_t base = m->desc.vaddr, at = base, pages = 0;

	while (at < base + m->bytes) {
		int n = scan(m, PM_SCAN_CHECK_WPASYNC, at, &at, err);

		if (n < 0)
			return n;
		for (int i = 0; i < n; i++)
			pages += (m->vec[i].end - m->vec[i].start) >> RPL_PAGE_SHIFT;
	}
	*ret = pages;
	return 0;
}

const struct rpl_memory_kind_ops rpl_memory_uffd = {
	.name = "uffd", .n_fds = 3, .open = uffd_open, .take = uffd_take, .peek = uffd_peek, .close = uffd_close,
};

/* ---- compare: sees every writer, on any kernel, at the price of reading all populated RAM */

static int compare_open(struct rpl_memory *m, struct rpl_err *err)
{
	m->shadow = rpl_memory_shadow_new(m->bytes, err);
	if (!m->shadow)
		return err ? err->code : -ENOMEM;
	if (rpl_bitmap_init(&m->in_shadow, m->desc.layout.pages / RPL_CHUNK_PAGES + 1) < 0)
		return rpl_fail(err, -ENOMEM, "compare memory: no memory for a bitmap");
	return 0;
}

struct take_arg {
	struct rpl_bitmap *dirty;
	uint64_t *found;
};

/* The copy is what the next take compares with, and what copy_out() gives: so it does not matter that the guest may
 * be writing this very page. */
static int compare_chunk(struct rpl_memory *m, const uint8_t *now, uint64_t from, uint64_t to, void *arg)
{
	struct take_arg *t = arg;

	for (uint64_t p = from; p < to; p++)
		if (rpl_memory_refresh(m->shadow, &m->in_shadow, p, now ? now + ((p - from) << RPL_PAGE_SHIFT) : NULL))
			rpl_memory_found(m, p, 1, t->dirty, t->found);
	return 0;
}

static int compare_take(struct rpl_memory *m, struct rpl_bitmap *dirty, uint64_t *ret_new, struct rpl_err *err)
{
	struct take_arg arg = { .dirty = dirty, .found = ret_new };

	return rpl_memory_walk(m, &m->in_shadow, compare_chunk, &arg, err);
}

const struct rpl_memory_kind_ops rpl_memory_compare = {
	.name = "compare", .n_fds = 1, .open = compare_open, .take = compare_take,
};

/* ---- sim: the guest marks what it writes, after writing it */

static int sim_open(struct rpl_memory *m, struct rpl_err *err)
{
	struct stat st;
	void *p;

	m->dirty_bytes = RPL_BITMAP_WORDS(m->desc.layout.pages) * sizeof(uint64_t);
	if (fstat(m->fd[1], &st) < 0 || st.st_size < 0 || (uint64_t)st.st_size < m->dirty_bytes)
		return rpl_fail(err, -EINVAL, "sim memory: the dirty bitmap is shorter than %zu bytes", m->dirty_bytes);
	p = mmap(NULL, m->dirty_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd[1], 0);
	if (p == MAP_FAILED)
		return rpl_fail_errno(err, errno, "sim memory: map the dirty bitmap");
	m->dirty = p;
	return 0;
}

static void sim_close(struct rpl_memory *m)
{
	if (m->dirty)
		(void)munmap((void *)m->dirty, m->dirty_bytes);
}

static int sim_take(struct rpl_memory *m, struct rpl_bitmap *dirty, uint64_t *ret_new, struct rpl_err *err)
{
	(void)err; /* cannot fail */
	for (size_t i = 0; i < m->dirty_bytes / sizeof(uint64_t); i++) {
		uint64_t w = atomic_load_explicit(&m->dirty[i], memory_order_relaxed);

		if (!w)
			continue;
		for (w = atomic_exchange(&m->dirty[i], 0); w; w &= w - 1)
			rpl_memory_found(m, i * 64 + (uint64_t)__builtin_ctzll(w), 1, dirty, ret_new);
	}
	return 0;
}

static int sim_peek(struct rpl_memory *m, uint64_t *ret, struct rpl_err *err)
{
	uint64_t pages = 0;

	(void)err; /* cannot fail */
	for (size_t i = 0; i < m->dirty_bytes / sizeof(uint64_t); i++)
		pages += (uint64_t)__builtin_popcountll(atomic_load_explicit(&m->dirty[i], memory_order_relaxed));
	*ret = pages;
	return 0;
}

const struct rpl_memory_kind_ops rpl_memory_sim = {
	.name = "sim", .n_fds = 2, .open = sim_open, .take = sim_take, .peek = sim_peek, .close = sim_close,
};

/* ---- replica: the backup's copy; only we write it */

static int replica_open(struct rpl_memory *m, struct rpl_err *err)
{
	(void)m;
	(void)err; /* nothing beyond the mapping */
	return 0;
}

const struct rpl_memory_kind_ops rpl_memory_replica = {
	.name = "replica", .n_fds = 1, .writable = true, .open = replica_open,
};
