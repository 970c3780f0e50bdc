/* How fast checkpoints pass through two movers, by dirty pages an epoch and by size of the guest: the cost must grow
 * with what was dirtied, not with what there is. Run by hand: tests/bench/engine [--tls] [--seconds S] */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/stats.h>

#include "tests/lib/mover_rig.h"

static const uint64_t ram_mib[] = { 64, 256, 1024 };
static const uint64_t dirty_pages[] = { 10, 100, 1000, 4000 };
static double seconds = 1.0;
static enum rpl_tls tls = RPL_TLS_NONE;

struct figures {
	uint64_t epochs, ns;
	struct rpl_hist stage, commit; /* STAGE to STAGED (the guest waits), STAGE to ACKED */
	uint64_t scan_ns, copy_ns, encode_ns, raw;
};

/* Every word of a page, so that pages are dense; no image is kept, this is no test of contents. */
static void dirty(struct rig *r, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++) {
		uint64_t page = rig_random(r, r->pages), *w = (uint64_t *)(r->p.ram + page * RPL_PAGE_SIZE);

		for (unsigned k = 0; k < 512; k++)
			w[k] = r->rng + k;
		atomic_fetch_or(&r->dirty[page / 64], UINT64_C(1) << (page % 64));
	}
}

static void one_epoch(struct rig *r, struct figures *f)
{
	uint64_t t = rpl_now_ns(), epoch = ++r->epoch;

	side_send(&r->p, RPL_MOVER_STAGE, epoch, 80000, 0, NULL, -1);
	(void)side_expect(&r->p, RPL_MOVER_STAGED);
	rpl_hist_add(&f->stage, rpl_now_ns() - t);
	while (r->b.staged < epoch)
		(void)side_expect(&r->b, RPL_MOVER_EPOCH_STAGED);
	side_send(&r->b, RPL_MOVER_ACK, epoch, 0, 0, &r->session, -1);
	while (r->p.acked < epoch)
		(void)side_expect(&r->p, RPL_MOVER_ACKED);
	rpl_hist_add(&f->commit, rpl_now_ns() - t);
	f->epochs++;
	f->scan_ns += rig_count(&r->p.counters->scan_ns);
	f->copy_ns += rig_count(&r->p.counters->copy_ns);
	f->encode_ns += rig_count(&r->p.counters->encode_ns);
}

static double us(uint64_t sum_ns, uint64_t n)
{
	return n ? (double)sum_ns / (double)n / 1000 : 0;
}

static void measure(struct rig *r, uint64_t pages)
{
	struct figures f = { 0 };
	uint64_t raw = rig_count(&r->p.counters->raw_bytes), begun = rpl_now_ns(), until = begun + (uint64_t)(seconds * 1e9);

	while (rpl_now_ns() < until) {
		uint64_t t;

		dirty(r, pages);
		t = rpl_now_ns();
		one_epoch(r, &f);
		f.ns += rpl_now_ns() - t;
	}
	f.raw = rig_count(&r->p.counters->raw_bytes) - raw;
	printf("%6llu %7llu %9.0f %8.1f %9.0f %9.0f %8.0f %8.0f %8.0f %9.0f\n", (unsigned long long)(r->pages >> 8),
	       (unsigned long long)pages, (double)f.epochs * 1e9 / (double)f.ns, (double)f.raw * 1e3 / (double)f.ns,
	       (double)rpl_hist_quantile(&f.stage, 500) / 1000, (double)rpl_hist_quantile(&f.stage, 990) / 1000,
	       us(f.scan_ns, f.epochs), us(f.copy_ns, f.epochs), us(f.encode_ns, f.epochs),
	       (double)rpl_hist_quantile(&f.commit, 500) / 1000);
}

static void bench(void **state)
{
	(void)state;
	printf("   RAM   dirty   epochs/s     MB/s  pause p50  pause p99     scan     copy   encode  commit p50\n"
	       "   MiB   pages                           us         us       us       us       us          us\n");
	for (size_t i = 0; i < RPL_ARRAY_LEN(ram_mib); i++) {
		struct rig r;
		uint64_t t;

		rig_init(&r, ram_mib[i] << 8);
		r.conf.tls = tls;
		r.conf.arena_bytes = 64 << 20;
		r.staging_bytes = 128 << 20;
		rig_start_primary(&r);
		rig_start_backup(&r);
		dirty(&r, r.pages);
		rig_session(&r, true);
		t = rpl_now_ns();
		(void)rig_round(&r);
		printf("%6llu    bulk: %.0f MB/s\n", (unsigned long long)ram_mib[i],
		       (double)(r.pages * RPL_PAGE_SIZE) * 1e3 / (double)(rpl_now_ns() - t));
		assert_int_equal(ftruncate(r.p.extra_fd, RIG_STATE_MAX), 0);
		for (size_t k = 0; k < RPL_ARRAY_LEN(dirty_pages); k++)
			measure(&r, dirty_pages[k]);
		assert_int_equal(rig_count(&r.p.counters->overflows), 0);
		rig_fini(&r);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(bench) };

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--tls") == 0) {
			tls = RPL_TLS_PSK;
		} else if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc) {
			seconds = strtod(argv[++i], NULL);
		} else {
			(void)fprintf(stderr, "usage: %s [--tls] [--seconds S]   (top_builddir names the build tree)\n", argv[0]);
			return 2;
		}
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
