#include "arena.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>

int arena_init(struct arena *a, uint64_t bytes, struct rpl_err *err)
{
	void *p;

	*a = (struct arena){ .slots = bytes / RPL_PAGE_SIZE };
	if (bytes < RPL_MOVER_ARENA_MIN || bytes > SIZE_MAX)
		return rpl_fail(err, -EINVAL, "arena of %" PRIu64 " bytes: the least is %llu", bytes, RPL_MOVER_ARENA_MIN);
	p = mmap(NULL, a->slots * RPL_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return rpl_fail_errno(err, errno, "arena of %" PRIu64 " bytes", bytes);
	a->base = p;
	a->pfn = calloc(a->slots, sizeof(*a->pfn));
	if (!a->pfn || madvise(p, a->slots * RPL_PAGE_SIZE, MADV_POPULATE_WRITE) < 0) {
		int e = a->pfn ? errno : ENOMEM;

		arena_fini(a);
		return rpl_fail_errno(err, e, "populate an arena of %" PRIu64 " bytes", bytes);
	}
	return 0;
}

void arena_fini(struct arena *a)
{
	if (a->base)
		(void)munmap(a->base, a->slots * RPL_PAGE_SIZE);
	free(a->pfn);
	*a = (struct arena){ 0 };
}

void arena_clear(struct arena *a)
{
	a->head = a->tail = 0;
	a->first = a->count = 0;
}

uint64_t arena_free(const struct arena *a)
{
	return a->slots - (a->head - a->tail);
}

static struct arena_epoch *nth(struct arena *a, unsigned i)
{
	return &a->epoch[(a->first + i) % RPL_MOVER_UNCOMMITTED_MAX];
}

struct arena_epoch *arena_push(struct arena *a, uint64_t epoch, uint64_t pages, uint64_t state_len, bool direct)
{
	uint64_t need = arena_slots_for(pages, state_len);
	struct arena_epoch *e;

	if (a->count == RPL_MOVER_UNCOMMITTED_MAX || (!direct && need > arena_free(a)))
		return NULL;
	rpl_assert(a->count == 0 || nth(a, a->count - 1)->epoch + 1 == epoch); /* arena_find() counts on it */
	e = nth(a, a->count++);
	*e = (struct arena_epoch){ .epoch = epoch, .pages = pages, .state_len = state_len, .start = a->head,
				   .need = need, .direct = direct };
	if (!direct)
		a->head += need;
	return e;
}

void arena_release(struct arena *a, uint64_t epoch)
{
	while (a->count && nth(a, 0)->epoch <= epoch) {
		const struct arena_epoch *e = nth(a, 0);

		if (!e->direct)
			a->tail = e->start + e->need;
		a->first = (a->first + 1) % RPL_MOVER_UNCOMMITTED_MAX;
		a->count--;
	}
	/* Nothing is staged: the next epoch goes where the last one was, into memory that caches and page tables still know. */
	if (a->count == 0)
		a->head = a->tail = 0;
}

struct arena_epoch *arena_find(struct arena *a, uint64_t epoch)
{
	uint64_t oldest = a->count ? nth(a, 0)->epoch : 0;

	if (a->count == 0 || epoch < oldest || epoch - oldest >= a->count)
		return NULL;
	return nth(a, (unsigned)(epoch - oldest));
}

uint64_t arena_in_flight(const struct arena *a)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < a->count; i++)
		sum += a->epoch[(a->first + i) % RPL_MOVER_UNCOMMITTED_MAX].need;
	return sum;
}

uint8_t *arena_run(const struct arena *a, uint64_t pos, uint64_t max, uint64_t **ret_pfn, size_t *ret_n)
{
	uint64_t slot = pos % a->slots, n = a->slots - slot;

	if (n > max)
		n = max;
	if (n > ARENA_RUN_MAX)
		n = ARENA_RUN_MAX;
	*ret_pfn = &a->pfn[slot];
	*ret_n = (size_t)n;
	return a->base + slot * RPL_PAGE_SIZE;
}

bool arena_has_direct(const struct arena *a)
{
	for (unsigned i = 0; i < a->count; i++)
		if (a->epoch[(a->first + i) % RPL_MOVER_UNCOMMITTED_MAX].direct)
			return true;
	return false;
}
