#include <replicad/clock.h>

#include <stdatomic.h>
#include <time.h>

static _Atomic uint64_t recent;

uint64_t rpl_now_ns(void)
{
	struct timespec ts;
	uint64_t ns;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	ns = (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
	atomic_store_explicit(&recent, ns, memory_order_relaxed);
	return ns;
}

uint64_t rpl_recent_ns(void)
{
	uint64_t ns = atomic_load_explicit(&recent, memory_order_relaxed);

	return ns ? ns : rpl_now_ns();
}
