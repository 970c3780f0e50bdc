/* The mover's half: stage epochs as they arrive, fold them when they are acked.
 *
 * The ring holds, from tail to head: the device state of the last folded epoch, the staged epochs in order, and the
 * epoch under way. Folding an epoch frees what its predecessor still held, and the pages before its own device state.
 */
#include "replica.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <replicad/delta.h>
#include <replicad/pages.h>

#define BASE_TEXT 24 /* "epoch " and a number of 32 bits */

/* Not populated: what no epoch brings costs nothing. */
static int map_came(struct rpl_replica *r, struct rpl_err *err)
{
	void *p = mmap(NULL, r->missing * sizeof(*r->came), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		       -1, 0);

	if (p == MAP_FAILED)
		return rpl_fail_errno(err, errno, "replica: map a table of %" PRIu64 " pages", r->missing);
	r->came = p;
	return 0;
}

struct rpl_replica *rpl_replica_open(int fd, uint64_t bytes, struct rpl_memory *ram, bool fresh, struct rpl_err *err)
{
	struct rpl_replica *r = calloc(1, sizeof(*r));

	if (!r) {
		(void)rpl_fail(err, -ENOMEM, "replica: no memory");
		return NULL;
	}
	r->ram = ram;
	r->fresh = fresh;
	if (area_map(&r->area, fd, bytes, fresh, err) < 0)
		goto fail;
	if (fresh && rpl_bitmap_init(&r->have, rpl_memory_layout(ram)->pfn_limit) < 0) {
		(void)rpl_fail(err, -ENOMEM, "replica: no memory for a map of %" PRIu64 " pages",
			       rpl_memory_layout(ram)->pfn_limit);
		goto fail;
	}
	r->missing = rpl_memory_layout(ram)->pages;
	if (fresh && map_came(r, err) < 0)
		goto fail;
	return r;
fail:
	rpl_replica_close(r);
	return NULL;
}

void rpl_replica_close(struct rpl_replica *r)
{
	if (!r)
		return;
	area_unmap(&r->area);
	rpl_bitmap_fini(&r->have);
	if (r->came)
		(void)munmap(r->came, rpl_memory_layout(r->ram)->pages * sizeof(*r->came));
	free(r->state);
	free(r);
}

void rpl_replica_session(struct rpl_replica *r, const struct rpl_uuid *session)
{
	rpl_assert(r->fresh);
	/* Forget first: RAM is about to be overwritten by another session's pages (R7). */
	for (unsigned i = 0; i < RPL_REPLICA_EPOCHS; i++)
		area_set_state(&r->area.header[i], AREA_EMPTY);
	atomic_thread_fence(memory_order_seq_cst);
	r->area.super->session = *session;
	r->head = r->tail = 0;
	r->staged = r->acked = r->folded = r->fold_at = 0;
	r->open = false;
	rpl_bitmap_zero(&r->have);
	r->missing = rpl_memory_layout(r->ram)->pages;
	/* zeroes again, and nothing is populated */
	rpl_assert(madvise(r->came, r->missing * sizeof(*r->came), MADV_DONTNEED) == 0);
}

static int check_pfns(const struct rpl_replica *r, const uint64_t *pfns, size_t n, struct rpl_err *err)
{
	uint64_t file_page;

	for (size_t i = 0; i < n; i++)
		if (!rpl_layout_file_page(rpl_memory_layout(r->ram), pfns[i], &file_page))
			return rpl_fail(err, -ERANGE, "pfn %" PRIx64 ": outside the guest's RAM (limit %" PRIx64 ")", pfns[i],
					rpl_memory_layout(r->ram)->pfn_limit);
	return 0;
}

static uint32_t *came(struct rpl_replica *r, uint64_t pfn)
{
	uint64_t file_page = 0;

	rpl_assert(rpl_layout_file_page(rpl_memory_layout(r->ram), pfn, &file_page));
	return &r->came[file_page];
}

static void note_have(struct rpl_replica *r, const uint64_t *pfns, size_t n)
{
	for (size_t i = 0; i < n && r->missing; i++) {
		if (rpl_bitmap_get(&r->have, pfns[i]))
			continue;
		rpl_bitmap_set(&r->have, pfns[i]);
		r->missing--;
	}
}

int rpl_replica_bulk(struct rpl_replica *r, const uint64_t *pfns, const void *const *pages, size_t n,
		     struct rpl_err *err)
{
	int ret;

	if (r->staged || r->open)
		return rpl_fail(err, -EPROTO, "bulk pages after epoch %" PRIu64 " of the session",
				r->open ? r->next.epoch : r->staged);
	ret = check_pfns(r, pfns, n, err);
	if (ret == 0)
		ret = rpl_memory_copy_in(r->ram, pfns, pages, n, err);
	if (ret < 0)
		return ret;
	note_have(r, pfns, n);
	for (size_t i = 0; i < n; i++)
		*came(r, pfns[i]) = RPL_PAGES_BASE_ROUND;
	return 0;
}

int rpl_replica_begin(struct rpl_replica *r, uint64_t epoch, struct rpl_err *err)
{
	if (rpl_uuid_is_zero(&r->area.super->session))
		return rpl_fail(err, -EPROTO, "epoch %" PRIu64 " outside a session", epoch);
	if (r->open)
		return rpl_fail(err, -EPROTO, "epoch %" PRIu64 " begins inside epoch %" PRIu64, epoch, r->next.epoch);
	if (epoch == 0 || epoch == UINT64_MAX || (r->staged && epoch != r->staged + 1))
		return rpl_fail(err, -EPROTO, "epoch %" PRIu64 " after epoch %" PRIu64, epoch, r->staged);
	/* The folded one keeps its header too. */
	while (r->staged && r->staged - r->folded + 2 > RPL_REPLICA_EPOCHS) {
		if (r->folded == r->acked)
			return rpl_fail(err, -ENOSPC, "epoch %" PRIu64 ": %d epochs are staged and not acked", epoch,
					RPL_REPLICA_EPOCHS - 1);
		if (rpl_replica_fold(r, UINT64_MAX, err) < 0)
			return err ? err->code : -EIO;
	}
	r->next = (struct area_header){ .session = r->area.super->session, .epoch = epoch, .start = r->head,
					.flags = r->staged ? 0 : AREA_FIRST };
	r->open = true;
	return 0;
}

/* Make room for one more slot, by folding what may be folded. */
static int reserve(struct rpl_replica *r, struct rpl_err *err)
{
	int ret;

	if (r->head - r->tail < r->area.slots)
		return 0;
	ret = rpl_replica_fold(r, UINT64_MAX, err);
	if (ret < 0)
		return ret;
	if (r->head - r->tail < r->area.slots)
		return 0;
	return rpl_fail(err, -ENOSPC, "epoch %" PRIu64 ": the staging area of %" PRIu64
			" pages is full (acked %" PRIu64 ", staged %" PRIu64 "): raise staging_mb", r->next.epoch,
			r->area.slots, r->acked, r->staged);
}

static void take_slot(struct rpl_replica *r, uint64_t pfn, uint64_t flags)
{
	r->area.pfn[r->head % r->area.slots] = pfn | flags;
	r->head++;
	*came(r, pfn) = rpl_pages_base(r->next.epoch);
}

static const char *base_text(uint32_t base, char ret[BASE_TEXT])
{
	(void)snprintf(ret, BASE_TEXT, base == RPL_PAGES_BASE_ROUND ? "a round" : "epoch %" PRIu32, base);
	return ret;
}

static int check_base(struct rpl_replica *r, uint64_t pfn, uint32_t base, struct rpl_err *err)
{
	char since[BASE_TEXT], is[BASE_TEXT];
	uint32_t last;
	int ret = check_pfns(r, &pfn, 1, err);

	if (ret < 0)
		return ret;
	last = *came(r, pfn);
	if (last == base && base && last != (uint32_t)r->next.epoch)
		return 0;
	return rpl_fail(err, -EPROTO, "epoch %" PRIu64 ": pfn %" PRIx64 ": what changed since %s, but it came %s%s", r->next.epoch, pfn,
			base_text(base, since), last ? "last in " : "in no epoch or round of this session",
			last ? base_text(last, is) : "");
}

int rpl_replica_delta(struct rpl_replica *r, uint64_t pfn, uint32_t base, const void *delta, size_t len, struct rpl_err *err)
{
	int ret;

	rpl_assert(r->open);
	rpl_assert(len <= RPL_DELTA_MAX);
	ret = check_base(r, pfn, base, err);
	if (ret < 0 || !delta)
		return ret;
	ret = reserve(r, err);
	if (ret < 0)
		return ret;
	memcpy(area_slot(&r->area, r->head), delta, len);
	take_slot(r, pfn, AREA_DELTA);
	return 0;
}

int rpl_replica_pages(struct rpl_replica *r, const uint64_t *pfns, const void *const *pages, size_t n,
		      struct rpl_err *err)
{
	int ret;

	rpl_assert(r->open);
	ret = check_pfns(r, pfns, n, err);
	for (size_t i = 0; i < n && ret == 0; i++) {
		ret = reserve(r, err);
		if (ret < 0)
			break;
		if (pages[i])
			memcpy(area_slot(&r->area, r->head), pages[i], RPL_PAGE_SIZE);
		else
			memset(area_slot(&r->area, r->head), 0, RPL_PAGE_SIZE);
		take_slot(r, pfns[i], 0);
	}
	return ret;
}

/* The state's next piece goes right behind the last one: no page may have come between. */
static bool state_is_contiguous(const struct rpl_replica *r)
{
	return r->next.state_len == 0 || r->next.start + r->next.state_at + area_state_slots(r->next.state_len) == r->head;
}

int rpl_replica_state(struct rpl_replica *r, const void *data, size_t len, struct rpl_err *err)
{
	const uint8_t *p = data;

	rpl_assert(r->open);
	if (len > RPL_REPLICA_STATE_MAX - r->next.state_len)
		return rpl_fail(err, -EMSGSIZE, "epoch %" PRIu64 ": more than %d bytes of device state", r->next.epoch,
				RPL_REPLICA_STATE_MAX);
	if (!state_is_contiguous(r))
		return rpl_fail(err, -EPROTO, "epoch %" PRIu64 ": a second device state", r->next.epoch);
	while (len) {
		size_t at = r->next.state_len % RPL_PAGE_SIZE, n = RPL_PAGE_SIZE - at;

		if (at == 0) {
			int ret = reserve(r, err);

			if (ret < 0)
				return ret;
			if (r->next.state_len == 0)
				r->next.state_at = r->head - r->next.start;
			r->area.pfn[r->head % r->area.slots] = AREA_STATE_SLOT;
			r->head++;
		}
		if (n > len)
			n = len;
		memcpy(area_slot(&r->area, r->head - 1) + at, p, n);
		r->next.state_len += n;
		p += n;
		len -= n;
	}
	return 0;
}

/* What came as what changed in it came before. */
static void note_whole(struct rpl_replica *r, uint64_t slot)
{
	if (!(slot & AREA_DELTA))
		note_have(r, &slot, 1);
}

/* The first epoch completes the replica: with the bulk rounds it must have brought every page (R7). */
static int check_complete(struct rpl_replica *r, struct rpl_err *err)
{
	for (uint64_t i = 0; i < r->head - r->next.start && r->missing; i++)
		if (!area_in_state(&r->next, i))
			note_whole(r, r->area.pfn[(r->next.start + i) % r->area.slots]);
	if (r->missing)
		return rpl_fail(err, -EPROTO, "epoch %" PRIu64 ": first of its session, but %" PRIu64
				" of %" PRIu64 " pages were never sent", r->next.epoch, r->missing,
				rpl_memory_layout(r->ram)->pages);
	return 0;
}

int rpl_replica_seal(struct rpl_replica *r, const uint8_t digest[RPL_DIGEST_SIZE], struct rpl_err *err)
{
	struct area_header *h = area_header(&r->area, r->next.epoch);

	rpl_assert(r->open);
	if (r->next.state_len == 0)
		return rpl_fail(err, -EPROTO, "epoch %" PRIu64 ": no device state in it", r->next.epoch);
	if (r->staged == 0 && check_complete(r, err) < 0)
		return err ? err->code : -EPROTO;
	rpl_assert(area_state(h) == AREA_EMPTY);
	memcpy(r->next.digest, digest, RPL_DIGEST_SIZE);
	r->next.slots = r->head - r->next.start;
	memcpy(h, &r->next, offsetof(struct area_header, state));
	area_publish(h, AREA_STAGED);
	r->staged = r->next.epoch;
	if (r->next.flags & AREA_FIRST)
		r->acked = r->folded = r->staged - 1;
	r->open = false;
	return 0;
}

/* What it brought is forgotten: until they come again, its pages are the base of nothing. */
void rpl_replica_abort(struct rpl_replica *r)
{
	for (uint64_t i = 0; r->open && i < r->head - r->next.start; i++)
		if (!area_in_state(&r->next, i))
			*came(r, r->area.pfn[(r->next.start + i) % r->area.slots] & ~AREA_DELTA) = 0;
	if (r->open)
		r->head = r->next.start;
	r->open = false;
}

int rpl_replica_acked(struct rpl_replica *r, uint64_t epoch, struct rpl_err *err)
{
	if (r->staged == 0 || epoch > r->staged)
		return rpl_fail(err, -EPROTO, "ack of epoch %" PRIu64 ", staged is %" PRIu64, epoch, r->staged);
	for (uint64_t e = r->acked + 1; e <= epoch; e++)
		area_set_state(area_header(&r->area, e), AREA_ACKED);
	if (epoch > r->acked)
		r->acked = epoch;
	return 0;
}

/* Epoch `e` is in RAM: its predecessor is needed no more. */
static void mark_folded(struct rpl_replica *r, struct area_header *h)
{
	area_set_state(h, AREA_FOLDED);
	if (!(h->flags & AREA_FIRST))
		area_set_state(area_header(&r->area, h->epoch - 1), AREA_EMPTY);
	r->tail = h->start + h->state_at;
	r->folded = h->epoch;
	r->fold_at = 0;
}

int rpl_replica_fold(struct rpl_replica *r, uint64_t pages_max, struct rpl_err *err)
{
	while (r->folded < r->acked) {
		struct area_header *h = area_header(&r->area, r->folded + 1);
		int64_t at = area_fold(&r->area, h, r->fold_at, pages_max, r->ram, err);

		if (at < 0)
			return (int)at;
		pages_max -= (uint64_t)at - r->fold_at < pages_max ? (uint64_t)at - r->fold_at : pages_max;
		r->fold_at = (uint64_t)at;
		if (r->fold_at < h->slots)
			return 1;
		mark_folded(r, h);
		if (pages_max == 0)
			return r->folded < r->acked;
	}
	return 0;
}

void rpl_replica_where(const struct rpl_replica *r, struct rpl_replica_where *ret)
{
	*ret = (struct rpl_replica_where){ .session = r->area.super->session, .staged = r->staged, .missing = r->missing };
	if (r->staged) {
		const struct area_header *h = area_header(&r->area, r->acked);

		/* Before the first ack these stand one below the session's first epoch, which is no epoch of it. */
		ret->acked = r->acked && (area_state(h) == AREA_ACKED || area_state(h) == AREA_FOLDED) ? r->acked : 0;
		h = area_header(&r->area, r->folded);
		ret->folded = r->folded && area_state(h) == AREA_FOLDED ? r->folded : 0;
	}
}

uint64_t rpl_replica_free_bytes(const struct rpl_replica *r)
{
	return (r->area.slots - (r->head - r->tail)) * RPL_PAGE_SIZE;
}

uint64_t rpl_replica_capacity(const struct rpl_replica *r)
{
	return (r->area.slots - area_state_slots(RPL_REPLICA_STATE_MAX)) * RPL_PAGE_SIZE;
}
