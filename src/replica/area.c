#include "area.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <xxhash.h>

#include <replicad/delta.h>

#define SUPER_MAGIC UINT64_C(0x524c50535441474e)  /* one of our areas */
#define HEADER_MAGIC UINT64_C(0x524c504550304348) /* a published header */
#define AREA_VERSION 2u
#define HEADERS_AT RPL_PAGE_SIZE
#define HEADERS_BYTES (RPL_REPLICA_EPOCHS * sizeof(struct area_header))
#define PFNS_AT (HEADERS_AT + HEADERS_BYTES)
#define FOLD_BATCH 64 /* pages handed to the RAM at a time */

_Static_assert(HEADERS_BYTES % RPL_PAGE_SIZE == 0, "the table of pfns begins on a page");

static uint64_t round_to_page(uint64_t n)
{
	return (n + RPL_PAGE_SIZE - 1) & ~(uint64_t)(RPL_PAGE_SIZE - 1);
}

static void set_geometry(struct area *a)
{
	uint64_t n = (a->bytes - PFNS_AT - RPL_PAGE_SIZE) / (RPL_PAGE_SIZE + sizeof(uint64_t));

	a->slots = n;
	a->super = (struct area_super *)a->map;
	a->header = (struct area_header *)(a->map + HEADERS_AT);
	a->pfn = (uint64_t *)(a->map + PFNS_AT);
	a->slot = a->map + PFNS_AT + round_to_page(n * sizeof(uint64_t));
}

static void format_area(struct area *a)
{
	memset(a->map, 0, PFNS_AT);
	*a->super = (struct area_super){ .magic = SUPER_MAGIC, .version = AREA_VERSION, .epochs = RPL_REPLICA_EPOCHS,
					 .bytes = a->bytes };
}

int area_map(struct area *a, int fd, uint64_t bytes, bool fresh, struct rpl_err *err)
{
	struct stat st;
	void *map;

	if (fstat(fd, &st) < 0)
		return rpl_fail_errno(err, errno, "staging area");
	if (bytes < RPL_REPLICA_BYTES_MIN || st.st_size < 0 || (uint64_t)st.st_size != bytes)
		return rpl_fail(err, -EINVAL, "staging area: %" PRIu64 " bytes asked for, the file has %lld, the least is %llu",
				bytes, (long long)st.st_size, RPL_REPLICA_BYTES_MIN);
	map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return rpl_fail_errno(err, errno, "map a staging area of %" PRIu64 " bytes", bytes);
	if (fresh && madvise(map, bytes, MADV_POPULATE_WRITE) < 0) {
		int e = errno;

		(void)munmap(map, bytes);
		return rpl_fail_errno(err, e, "populate a staging area of %" PRIu64 " bytes", bytes);
	}
	*a = (struct area){ .map = map, .bytes = bytes };
	set_geometry(a);
	if (fresh)
		format_area(a);
	return 0;
}

void area_unmap(struct area *a)
{
	if (a->map)
		(void)munmap(a->map, a->bytes);
	*a = (struct area){ 0 };
}

int area_check_super(const struct area *a, struct rpl_err *err)
{
	const struct area_super *s = a->super;

	if (s->magic != SUPER_MAGIC)
		return rpl_fail(err, -ENODATA, "staging area: never formatted");
	if (s->version != AREA_VERSION || s->epochs != RPL_REPLICA_EPOCHS || s->bytes != a->bytes)
		return rpl_fail(err, -ENODATA, "staging area: version %u with %u epochs in %" PRIu64
				" bytes, this program has version %u with %u in %" PRIu64, s->version, s->epochs, s->bytes,
				AREA_VERSION, RPL_REPLICA_EPOCHS, a->bytes);
	return 0;
}

static uint64_t header_check(const struct area_header *h)
{
	return XXH3_64bits(h, offsetof(struct area_header, check));
}

void area_publish(struct area_header *h, enum area_state state)
{
	h->magic = HEADER_MAGIC;
	h->check = header_check(h);
	area_set_state(h, state);
}

static int check_shape(const struct area *a, const struct area_header *h, struct rpl_err *err)
{
	if (h->magic != HEADER_MAGIC || h->check != header_check(h))
		return rpl_fail(err, -EBADMSG, "staged epoch %" PRIu64 ": its header is damaged", h->epoch);
	if (h->epoch == 0 || area_header(a, h->epoch) != h)
		return rpl_fail(err, -EBADMSG, "staged epoch %" PRIu64 ": its header lies in place %td", h->epoch,
				h - a->header);
	if (h->slots > a->slots || h->start > UINT64_MAX - h->slots)
		return rpl_fail(err, -EBADMSG, "staged epoch %" PRIu64 ": %" PRIu64 " slots in an area of %" PRIu64,
				h->epoch, h->slots, a->slots);
	if (h->state_len == 0 || h->state_len > RPL_REPLICA_STATE_MAX || h->state_at > h->slots ||
	    area_state_slots(h->state_len) > h->slots - h->state_at)
		return rpl_fail(err, -EBADMSG, "staged epoch %" PRIu64 ": %" PRIu64 " bytes of device state behind slot %" PRIu64
				" of %" PRIu64, h->epoch, h->state_len, h->state_at, h->slots);
	return 0;
}

/* One slot of a page: does it say a frame of the RAM, and hold what it says? */
static int check_slot(const struct area *a, const struct area_header *h, uint64_t slot, const struct rpl_ram_layout *layout,
		      struct rpl_err *err)
{
	uint64_t pfn = a->pfn[(h->start + slot) % a->slots], file_page;

	if (!rpl_layout_file_page(layout, pfn & ~AREA_DELTA, &file_page))
		return rpl_fail(err, -EBADMSG, "staged epoch %" PRIu64 ": page %" PRIu64 " of it has pfn %" PRIx64 ", outside the RAM",
				h->epoch, slot, pfn & ~AREA_DELTA);
	if ((pfn & AREA_DELTA) && !rpl_delta_check(area_slot(a, h->start + slot), RPL_PAGE_SIZE, err))
		return rpl_prefix(err, "staged epoch %" PRIu64 ": page %" PRIu64 " of it", h->epoch, slot);
	return 0;
}

int area_check_header(const struct area *a, const struct area_header *h, const struct rpl_ram_layout *layout,
		      struct rpl_err *err)
{
	int r = check_shape(a, h, err);

	/* A folded epoch's page slots may hold younger pages by now. */
	if (r < 0 || area_state(h) == AREA_FOLDED)
		return r;
	for (uint64_t i = 0; i < h->slots && r == 0; i++)
		if (!area_in_state(h, i))
			r = check_slot(a, h, i, layout, err);
	return r;
}

int64_t area_fold(const struct area *a, const struct area_header *h, uint64_t from, uint64_t max,
		  struct rpl_memory *ram, struct rpl_err *err)
{
	uint64_t pfns[FOLD_BATCH], i = from;
	const void *pages[FOLD_BATCH];
	bool delta[FOLD_BATCH];
	size_t n = 0;
	int r;

	for (; i < h->slots && max; i++) {
		if (area_in_state(h, i))
			continue;
		pfns[n] = a->pfn[(h->start + i) % a->slots];
		delta[n] = pfns[n] & AREA_DELTA;
		pfns[n] &= ~AREA_DELTA;
		pages[n++] = area_slot(a, h->start + i);
		max--;
		if (n < FOLD_BATCH)
			continue;
		r = rpl_memory_patch(ram, pfns, pages, delta, n, err);
		if (r < 0)
			return r;
		n = 0;
	}
	r = n ? rpl_memory_patch(ram, pfns, pages, delta, n, err) : 0;
	return r < 0 ? r : (int64_t)i;
}
