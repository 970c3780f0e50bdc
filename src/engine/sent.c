#include "sent.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define GOLDEN UINT64_C(0x9e3779b97f4a7c15) /* spreads frame numbers over the sets */

_Static_assert((SENT_WAYS & (SENT_WAYS - 1)) == 0, "the hand wraps by a mask");

int sent_init(struct sent *s, uint64_t bytes, struct rpl_err *err)
{
	uint64_t ways = bytes / RPL_PAGE_SIZE / SENT_WAYS * SENT_WAYS;
	void *p;

	*s = (struct sent){ 0 };
	if (ways == 0)
		return 0;
	p = mmap(NULL, ways * RPL_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return rpl_fail_errno(err, errno, "%" PRIu64 " bytes for pages as last sent", bytes);
	*s = (struct sent){ .sets = ways / SENT_WAYS, .page = p };
	s->way = calloc(ways, sizeof(*s->way));
	s->hand = calloc(s->sets, sizeof(*s->hand));
	if (!s->way || !s->hand || madvise(p, ways * RPL_PAGE_SIZE, MADV_POPULATE_WRITE) < 0) {
		int e = s->way && s->hand ? errno : ENOMEM;

		sent_fini(s);
		return rpl_fail_errno(err, e, "populate %" PRIu64 " bytes for pages as last sent", bytes);
	}
	sent_forget(s); /* the tables are populated, too */
	return 0;
}

void sent_fini(struct sent *s)
{
	if (s->page)
		(void)munmap(s->page, s->sets * SENT_WAYS * RPL_PAGE_SIZE);
	free(s->way);
	free(s->hand);
	*s = (struct sent){ 0 };
}

void sent_forget(struct sent *s)
{
	for (uint64_t i = 0; i < s->sets * SENT_WAYS; i++)
		s->way[i] = (struct sent_way){ 0 };
	if (s->sets)
		memset(s->hand, 0, s->sets);
}

static uint64_t set_of(const struct sent *s, uint64_t pfn)
{
	return (uint64_t)(((unsigned __int128)(pfn * GOLDEN) * s->sets) >> 64);
}

static struct sent_way *find(const struct sent *s, uint64_t set, uint64_t pfn)
{
	struct sent_way *w = &s->way[set * SENT_WAYS];

	for (unsigned i = 0; i < SENT_WAYS; i++)
		if (w[i].base && w[i].pfn == pfn)
			return &w[i];
	return NULL;
}

static uint8_t *page_of(const struct sent *s, const struct sent_way *w)
{
	return s->page + (uint64_t)(w - s->way) * RPL_PAGE_SIZE;
}

bool sent_is(struct sent *s, uint64_t pfn, const uint8_t *page)
{
	struct sent_way *w = s->sets ? find(s, set_of(s, pfn), pfn) : NULL;

	if (!w || !rpl_page_equal(page_of(s, w), page))
		return false;
	w->met = 1;
	return true;
}

/* The first that is free, or that was not met since the hand came by. */
static struct sent_way *replace(struct sent *s, uint64_t set)
{
	struct sent_way *w = &s->way[set * SENT_WAYS];

	for (;;) {
		struct sent_way *at = &w[s->hand[set]];

		s->hand[set] = (uint8_t)((s->hand[set] + 1) & (SENT_WAYS - 1));
		if (!at->base || !at->met)
			return at;
		at->met = 0;
	}
}

static void remember(struct sent *s, uint64_t set, uint64_t pfn, const uint8_t *page, uint32_t base)
{
	struct sent_way *w = replace(s, set);

	*w = (struct sent_way){ .pfn = pfn, .base = base };
	memcpy(page_of(s, w), page, RPL_PAGE_SIZE);
}

bool sent_round(struct sent *s, uint64_t pages)
{
	if (pages / SENT_ROUND_ROOMS <= s->sets * SENT_WAYS)
		return s->sets;
	sent_forget(s);
	return false;
}

void sent_note(struct sent *s, uint64_t pfn, const uint8_t *page)
{
	uint64_t set = set_of(s, pfn);
	struct sent_way *w = find(s, set, pfn);
	bool zero = rpl_page_is_zero(page);

	if (w && zero)
		w->base = 0;
	if (zero)
		return;
	if (!w) {
		remember(s, set, pfn, page, RPL_PAGES_BASE_ROUND);
		return;
	}
	w->base = RPL_PAGES_BASE_ROUND;
	w->met = 1;
	memcpy(page_of(s, w), page, RPL_PAGE_SIZE);
}

/* What is known of a page, and the body's next content, become `page`. */
static void put_known(struct sent *s, struct rpl_pages_out *o, struct sent_way *w, const uint8_t *page, uint32_t name,
		      struct sent_counts *counts)
{
	size_t len = rpl_delta_make(page, page_of(s, w), rpl_pages_delta_room(o));

	w->met = 1;
	if (len == 0) {
		rpl_pages_put_same(o, w->pfn, w->base);
		counts->same++;
		return; /* and it stays of what it is of */
	}
	if (len == RPL_DELTA_TOO_LONG) {
		rpl_pages_put_raw(o, w->pfn, page);
	} else {
		rpl_pages_put_delta(o, w->pfn, w->base, len);
		counts->delta++;
	}
	w->base = name;
}

void sent_put(struct sent *s, struct rpl_pages_out *o, uint64_t pfn, const uint8_t *page, uint64_t epoch,
	      struct sent_counts *counts)
{
	uint64_t set = s->sets ? set_of(s, pfn) : 0;
	struct sent_way *w = s->sets ? find(s, set, pfn) : NULL;
	bool zero = rpl_page_is_zero(page);
	uint32_t name = rpl_pages_base(epoch);

	if (w && !zero && name) {
		put_known(s, o, w, page, name, counts);
		return;
	}
	if (w)
		w->base = 0;
	if (zero) {
		rpl_pages_put_zero(o, pfn);
		counts->zero++;
		return;
	}
	rpl_pages_put_raw(o, pfn, page);
	if (s->sets && name)
		remember(s, set, pfn, page, name);
}
