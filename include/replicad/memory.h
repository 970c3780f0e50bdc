/* memory.h - the memory half of a guest: which pages were written, and their bytes
 *
 * Lives in the mover, which has no privilege: everything here works on descriptors that the keeper handed over.
 * A pfn is a guest frame number; a page is 4096 bytes. The layout maps pfns to pages of the RAM file (QEMU splits
 * RAM above 3 GiB, so the two differ).
 */
#ifndef REPLICAD_MEMORY_H
#define REPLICAD_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <replicad/bitmap.h>
#include <replicad/err.h>

#define RPL_PAGE_SIZE 4096u
#define RPL_PAGE_SHIFT 12
#define RPL_RAM_REGIONS_MAX 8
#define RPL_MEMORY_FDS_MAX 4
#define RPL_RAM_PAGES_MAX (UINT64_C(1) << 30) /* 4 TiB; also the highest pfn's bound */

/* Guest frames [pfn, pfn + pages) are pages [file_page, file_page + pages) of the RAM file. */
struct rpl_ram_region {
	uint64_t pfn, pages, file_page;
};

struct rpl_ram_layout {
	uint32_t count;
	uint32_t reserved;
	uint64_t pages;     /* sum over the regions */
	uint64_t pfn_limit; /* one more than the highest pfn */
	struct rpl_ram_region region[RPL_RAM_REGIONS_MAX]; /* ascending, not overlapping */
};

enum rpl_memory_kind {
	RPL_MEMORY_SIM,     /* fds: ram, dirty bitmap (file-page-indexed, set by the guest, atomic 64-bit words) */
	RPL_MEMORY_UFFD,    /* fds: ram, userfaultfd of the guest's process, its pagemap */
	RPL_MEMORY_COMPARE, /* fds: ram; a private shadow copy finds the dirty pages */
	RPL_MEMORY_REPLICA, /* fds: ram, writable: the backup's copy; has no dirty set */
	RPL_MEMORY_XEN,     /* fds: privcmd, restricted to the domain; what the keeper shares (xen.h) */
	RPL_MEMORY_DOMAIN,  /* fds: as xen; writable: the backup's copy is the memory of a domain that does not run yet */
	RPL_MEMORY_NKINDS
};

/* Sent from keeper to mover as it is: same machine, same build. */
struct rpl_memory_desc {
	uint32_t kind;  /* enum rpl_memory_kind */
	uint32_t audit; /* check each dirty set against a full comparison */
	uint32_t provisional; /* replica: the layout will be the primary's, as soon as that is known (rpl_guest_fit()) */
	uint32_t xen_pv;  /* xen: a PV guest: there is a p2m, and page tables are sent in the stream's form */
	uint64_t vaddr; /* uffd: address of the RAM file's page 0 in the guest's process */
	struct rpl_ram_layout layout;
};

struct rpl_memory;

/* Take over the descriptors (closed by rpl_memory_free, also on failure) and map the RAM. NULL on failure.
 * This may come before or after privileges are dropped: it needs fstat, mmap, munmap and madvise, nothing else.
 * Later calls need, by kind:
 *   all      pread64 (a page that nobody touched yet is read so: reading a hole through the mapping would fill it)
 *   sim      nothing more
 *   uffd     ioctl(pagemap, PAGEMAP_SCAN)
 *   compare  lseek (holes of the RAM file are skipped)
 *   replica  lseek, fallocate is not used
 *   xen, domain  mmap, ioctl(privcmd, MMAPBATCH_V2)
 * UFFDIO_* are never issued here: arming and disarming is the keeper's (rpl_guest_memory(), rpl_guest_free()). */
struct rpl_memory *rpl_memory_new(const struct rpl_memory_desc *desc, const int *fds, size_t n_fds,
				  struct rpl_err *err);
void rpl_memory_free(struct rpl_memory *m);

const struct rpl_ram_layout *rpl_memory_layout(const struct rpl_memory *m);

/* True if most of a take's work is a comparison of the RAM (then peek is refused, and a take takes long). */
bool rpl_memory_compares(const struct rpl_memory *m);

/* Set in *dirty (pfn-indexed, layout.pfn_limit bits) the bit of every page written since the last take (or since
 * the tracker was armed) and start anew. Bits already set stay. *ret_new counts the pages found. The first take may
 * report pages that were written before the tracker was armed. Take first, copy afterwards: never the reverse. */
int rpl_memory_take_dirty(struct rpl_memory *m, struct rpl_bitmap *dirty, uint64_t *ret_new, struct rpl_err *err);
/* About how many pages are dirty now, without starting anew; -EOPNOTSUPP if that would cost as much as a take. */
int rpl_memory_peek_dirty(struct rpl_memory *m, uint64_t *ret, struct rpl_err *err);
/* Audit: *ret_missed counts pages that changed since the last audit (or since rpl_memory_new) although no take since
 * then reported them; each is named in a log line at debug. Only with desc.audit, only while the guest is paused,
 * right after a take. `taken` may be NULL: the takes are remembered here. Reads all populated RAM. */
int rpl_memory_audit(struct rpl_memory *m, const struct rpl_bitmap *taken, uint64_t *ret_missed,
		     struct rpl_err *err);

/* Copy `n` pages to dst, one after the other. The pfns must be in the layout (asserted). With the compare tracker
 * these are the pages as the last take saw them, so that a page which changes and changes back between take and
 * copy is not sent in a state that no later take would correct. */
int rpl_memory_copy_out(struct rpl_memory *m, const uint64_t *pfns, size_t n, void *dst, struct rpl_err *err);
/* The page itself, where it can be looked at without a copy and is what rpl_memory_copy_out() and rpl_memory_finish() would give; else
 * NULL. Only while the guest is paused, after the take that reported it, and for no longer. */
const void *rpl_memory_look(const struct rpl_memory *m, uint64_t pfn);
/* Bring copied pages into the form that is sent. It is a step of its own because it need not be done while the guest
 * waits: between a copy_out and the next take. Page tables of Xen PV guests hold machine frames, which become the guest's
 * own numbers; all else stays as it is. A page that has no such form fails the call if the guest was paused when its set
 * was taken; else it becomes zeroes and the next take reports it again. */
int rpl_memory_finish(struct rpl_memory *m, const uint64_t *pfns, size_t n, void *pages, struct rpl_err *err);
/* Replica only: store pages; a NULL page means 4096 zero bytes. A pfn outside the layout is refused: -ERANGE. */
int rpl_memory_copy_in(struct rpl_memory *m, const uint64_t *pfns, const void *const *pages, size_t n,
		       struct rpl_err *err);
/* The same, but where delta[i] is set pages[i] is a delta (delta.h) to what the replica holds, in RPL_PAGE_SIZE readable bytes.
 * -EBADMSG: one of them is none, or was made from another page; the replica is of no use then. */
int rpl_memory_patch(struct rpl_memory *m, const uint64_t *pfns, const void *const *pages, const bool *delta, size_t n,
		     struct rpl_err *err);
/* The mapped page (for compare: of the shadow); NULL for a pfn outside the layout, and with xen. Looking at a page that nobody ever
 * touched allocates it in the RAM file: prefer rpl_memory_copy_out(). */
void *rpl_memory_page(struct rpl_memory *m, uint64_t pfn);

/* layout helpers, pure */
bool rpl_layout_check(const struct rpl_ram_layout *l, struct rpl_err *err); /* for foreign input: false and why */
bool rpl_layout_file_page(const struct rpl_ram_layout *l, uint64_t pfn, uint64_t *ret);
bool rpl_layout_pfn(const struct rpl_ram_layout *l, uint64_t file_page, uint64_t *ret);
bool rpl_layout_equal(const struct rpl_ram_layout *a, const struct rpl_ram_layout *b);
/* Add a region after those that are there and keep the sums; false if there is no room or it overlaps. */
bool rpl_layout_add(struct rpl_ram_layout *l, uint64_t pfn, uint64_t pages, uint64_t file_page);

#endif
