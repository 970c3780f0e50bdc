/* memory_impl.h - what the kinds of guest memory share; private to src/guest */
#ifndef RPL_GUEST_MEMORY_IMPL_H
#define RPL_GUEST_MEMORY_IMPL_H

#include <replicad/memory.h>

struct rpl_memory {
	/* configuration */
	const struct rpl_memory_kind_ops *ops;
	struct rpl_memory_desc desc;
	int fd[RPL_MEMORY_FDS_MAX];
	size_t n_fds, bytes;

	/* state */
	uint8_t *map;                /* the RAM file */
	uint8_t *shadow;             /* compare: RAM as of the last take */
	uint8_t *audit;              /* audit: RAM as of the last audit */
	struct rpl_bitmap known;     /* file pages that exist in the RAM file for sure */
	struct rpl_bitmap audited;   /* file pages that a take reported since the last audit */
	struct rpl_bitmap in_shadow; /* compare and audit: chunks whose shadow is not all zero */
	struct rpl_bitmap in_audit;
	_Atomic uint64_t *dirty;     /* sim: the guest's bitmap */
	size_t dirty_bytes;
	struct page_region *vec;     /* uffd: results of one scan call */
	struct rpl_memory_xen *xen;
	struct rpl_memory_in_domain *domain;
	uint64_t hole_from, hole_to; /* replica: file pages in here are a hole */
};

struct rpl_memory_kind_ops {
	const char *name;
	size_t n_fds;
	bool writable;
	bool own_map; /* fd[0] is no RAM file: open() makes m->map, of m->bytes */
	int (*open)(struct rpl_memory *m, struct rpl_err *err);
	/* NULL: the kind has no dirty set */
	int (*take)(struct rpl_memory *m, struct rpl_bitmap *dirty, uint64_t *ret_new, struct rpl_err *err);
	/* NULL: would cost as much as a take */
	int (*peek)(struct rpl_memory *m, uint64_t *ret, struct rpl_err *err);
	/* NULL: from the RAM file */
	int (*copy_out)(struct rpl_memory *m, const uint64_t *pfns, size_t n, void *dst, struct rpl_err *err);
	/* Of one of the layout's file pages; NULL: in the RAM file */
	const void *(*look)(const struct rpl_memory *m, uint64_t file_page);
	/* NULL: a page is sent as it is */
	int (*finish)(struct rpl_memory *m, const uint64_t *pfns, size_t n, void *pages, struct rpl_err *err);
	/* NULL: into the RAM file */
	int (*patch)(struct rpl_memory *m, const uint64_t *pfns, const void *const *pages, const bool *delta, size_t n,
		     struct rpl_err *err);
	void (*close)(struct rpl_memory *m);
};

extern const struct rpl_memory_kind_ops rpl_memory_sim, rpl_memory_uffd, rpl_memory_compare, rpl_memory_replica, rpl_memory_xen,
	rpl_memory_domain;

/* A take found file pages [from, from + n) written: set their frames' bits, remember them for the audit. */
void rpl_memory_found(struct rpl_memory *m, uint64_t from, uint64_t n, struct rpl_bitmap *dirty, uint64_t *new_pages);

/* Walk the parts of the RAM file that are not holes, plus the chunks (RPL_CHUNK_PAGES pages) marked in `also`, in
 * ascending order and as ranges of file pages. `now` is the first page of a range in the mapping; NULL: a hole, all
 * zeroes. fn returns 0 or a negative errno, which ends the walk. */
#define RPL_CHUNK_PAGES 512
typedef int rpl_memory_walk_fn(struct rpl_memory *m, const uint8_t *now, uint64_t from, uint64_t to, void *arg);
int rpl_memory_walk(struct rpl_memory *m, const struct rpl_bitmap *also, rpl_memory_walk_fn *fn, void *arg,
		    struct rpl_err *err);
/* Bring page `p` of a shadow up to `now` (NULL: zeroes). True if it differed. */
bool rpl_memory_refresh(uint8_t *shadow, struct rpl_bitmap *in_shadow, uint64_t p, const uint8_t *now);
/* Store a delta for page `pfn` of a replica over what is at `at`. */
int rpl_memory_store_delta(uint64_t pfn, void *at, const void *delta, struct rpl_err *err);
/* Zero-filled private memory, given out by the kernel only where it is written. NULL: *err is set. */
uint8_t *rpl_memory_shadow_new(size_t bytes, struct rpl_err *err);

#endif
