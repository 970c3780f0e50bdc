/* run.c - protect a real QEMU guest by hand: checkpoints into a standby, then a takeover
 *
 *   run [--tracker uffd|compare] [--epochs N] [--ram MB] [--machine q35|pc] [--accel tcg|kvm] [--interval MS]
 *       [--drop] [--kill] [--no-audit] [--bench] [--debug] --payload FILE --helper FILE --dir DIR
 *
 * Starts a primary and, through the guest room, a standby; then N epochs: pause, take the dirty set, audit it, copy
 * the pages, save the device state, resume; the pages are stored in the standby's RAM. Last the primary is killed
 * (or, without --kill, paused) and the standby activated with the last state. What must hold: the audit finds no
 * missed page, the payload in the standby goes on from the last checkpoint, and its own check of its memory stays
 * clean. With --drop the pages of one epoch are thrown away, and then the check must fail.
 * --bench prints how long each phase of the pause took.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ev.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/guest.h>
#include <replicad/io.h>
#include <replicad/log.h>
#include <replicad/stats.h>

#include "../../lib/run_for.h"
#include "payload.h"

#define BATCH 256
#define UUID "6ba7b810-9dad-11d1-80b4-00c04fd430c8"

static struct {
	const char *tracker, *machine, *accel, *payload, *helper, *dir;
	unsigned epochs, ram_mb, interval_ms;
	bool drop, kill, bench, audit;
} opt = { .tracker = "auto", .machine = "q35", .accel = "tcg", .epochs = 40, .ram_mb = 256, .interval_ms = 25, .audit = true };

struct side {
	struct rpl_guest *g;
	bool done;
	int r;
	struct rpl_err err;
	unsigned lost;
};

static struct side primary, standby;
static pid_t qemu_pid;

RPL_NORETURN static void give_up(const char *what, const struct rpl_err *err)
{
	(void)fprintf(stderr, "FAILED: %s: %s\n", what, err->msg);
	if (qemu_pid)
		(void)kill(qemu_pid, SIGKILL);
	if (standby.g && rpl_guest_pid(standby.g) > 0)
		(void)kill(rpl_guest_pid(standby.g), SIGKILL);
	exit(1);
}

static void check(bool ok, const char *what)
{
	struct rpl_err err = { .msg = "this does not hold" };

	if (!ok)
		give_up(what, &err);
}

/* ---- operations, one after the other */

static void on_done(void *arg, enum rpl_guest_op op, int r, const struct rpl_err *err)
{
	struct side *s = arg;

	(void)op;
	s->done = true;
	s->r = r;
	if (r < 0)
		s->err = *err;
}

static void on_event(void *arg, enum rpl_guest_event event, const char *msg)
{
	struct side *s = arg;

	(void)printf("event: %s: %s\n", rpl_guest_event_name(event), msg);
	s->lost += event == RPL_GUEST_LOST;
}

static uint64_t finish(struct side *s, const char *what)
{
	uint64_t start = rpl_now_ns();

	while (!s->done)
		ev_run(EV_DEFAULT, EVRUN_ONCE);
	s->done = false;
	if (s->r < 0)
		give_up(what, &s->err);
	return rpl_now_ns() - start;
}

static uint64_t op(struct side *s, void (*fn)(struct rpl_guest *), const char *what)
{
	uint64_t start = rpl_now_ns();

	fn(s->g);
	(void)finish(s, what);
	return rpl_now_ns() - start;
}

/* ---- the two QEMUs */

static char *text(const char *fmt, ...) RPL_PRINTF(1, 2);
static char *text(const char *fmt, ...)
{
	va_list ap;
	char *s;

	va_start(ap, fmt);
	if (vasprintf(&s, fmt, ap) < 0)
		abort();
	va_end(ap);
	return s;
}

/* The arguments that both sides share, and their own paths; NULL-terminated. */
static char **arguments(const char *side)
{
	char **a = calloc(40, sizeof(*a));
	size_t n = 0;

	a[n++] = text("qemu-system-x86_64");
	a[n++] = text("-nodefaults");
	a[n++] = text("-no-user-config");
	a[n++] = text("-display");
	a[n++] = text("none");
	a[n++] = text("-accel");
	a[n++] = text("%s", opt.accel);
	a[n++] = text("-uuid");
	a[n++] = text(UUID);
	a[n++] = text("-m");
	a[n++] = text("%u", opt.ram_mb);
	a[n++] = text("-M");
	a[n++] = text("%s,memory-backend=ram0", opt.machine);
	a[n++] = text("-object");
	a[n++] = text("memory-backend-file,id=ram0,size=%uM,mem-path=%s/%s.ram,share=on", opt.ram_mb, opt.dir, side);
	a[n++] = text("-netdev");
	a[n++] = text("dgram,id=n0,local.type=unix,local.path=%s/%s.q,remote.type=unix,remote.path=%s/%s.a", opt.dir, side,
		      opt.dir, side);
	a[n++] = text("-device");
	a[n++] = text("virtio-net-pci,netdev=n0,romfile=,mac=52:54:00:12:34:56");
	a[n++] = text("-kernel");
	a[n++] = text("%s", opt.payload);
	a[n++] = text("-qmp");
	a[n++] = text("unix:%s/%s.qmp,server=on,wait=off", opt.dir, side);
	return a;
}

static void start_primary(void)
{
	char **a = arguments("primary");

	qemu_pid = fork();
	if (qemu_pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)execvp(a[0], a);
		_exit(127);
	}
	for (size_t i = 0; a[i]; i++)
		free(a[i]);
	free(a);
}

static char *write_standby_file(void)
{
	char **a = arguments("standby"), *path = text("%s/standby.argv", opt.dir);
	FILE *f = fopen(path, "we");

	(void)fprintf(f, "# the standby of a test\n");
	for (size_t i = 0; a[i]; i++) {
		(void)fprintf(f, "%s\n", a[i]);
		free(a[i]);
	}
	free(a);
	(void)fprintf(f, "-S\n-incoming\ndefer\n");
	(void)fclose(f);
	return path;
}

static void attach_primary(void)
{
	RPL_AUTO_FREE char *qmp = text("%s/primary.qmp", opt.dir);
	struct rpl_guest_conf conf = { .backend = "qemu", .name = "primary", .qmp_path = qmp, .run_dir = opt.dir,
				       .tracker = opt.tracker, .helper_path = opt.helper, .audit = opt.audit, .op_timeout_ms = PATIENT_TURNS * TURN_MS };
	struct rpl_err err;

	for (int i = 0, fd = -1; i < PATIENT_TURNS && fd < 0; i++) { /* its file is there before it listens */
		run_for(TURN_MS);
		fd = rpl_unix_connect(qmp, SOCK_STREAM, NULL);
		if (fd >= 0)
			(void)close(fd);
	}
	primary.g = rpl_guest_new(&conf, EV_DEFAULT, on_done, on_event, &primary, &err);
	if (!primary.g)
		give_up("primary", &err);
	(void)op(&primary, rpl_guest_attach, "attach");
}

static void start_standby(void)
{
	RPL_AUTO_FREE char *argv = write_standby_file();
	struct rpl_guest_conf conf = { .backend = "qemu", .name = "standby", .standby_path = argv, .run_dir = opt.dir,
				       .tracker = opt.tracker, .helper_path = opt.helper, .op_timeout_ms = PATIENT_TURNS * TURN_MS };
	struct rpl_err err;

	standby.g = rpl_guest_new(&conf, EV_DEFAULT, on_done, on_event, &standby, &err);
	if (!standby.g)
		give_up("standby", &err);
	(void)op(&standby, rpl_guest_standby, "standby");
	if (rpl_guest_compare(standby.g, rpl_guest_info(primary.g)->definition, &err) < 0)
		give_up("compare the definitions", &err);
}

/* ---- memory */

static struct rpl_memory *open_memory(struct side *s)
{
	int fds[RPL_MEMORY_FDS_MAX];
	struct rpl_memory_desc desc;
	struct rpl_memory *m;
	struct rpl_err err;
	uint64_t start = rpl_now_ns();
	size_t n;

	if (rpl_guest_memory(s->g, &desc, fds, &n, &err) < 0)
		give_up("memory", &err);
	(void)printf("memory: kind %u armed in %.2f ms\n", desc.kind, (double)(rpl_now_ns() - start) / 1e6);
	m = rpl_memory_new(&desc, fds, n, &err);
	if (!m)
		give_up("open memory", &err);
	return m;
}

static struct payload_report *map_report(const char *side)
{
	RPL_AUTO_FREE char *path = text("%s/%s.ram", opt.dir, side);
	RPL_AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	void *p = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, PAYLOAD_REPORT);

	check(fd >= 0 && p != MAP_FAILED, "map the payload's report");
	return p;
}

struct move {
	struct rpl_memory *from, *to;
	uint64_t pfn[BATCH];
	uint8_t page[BATCH][RPL_PAGE_SIZE];
	const void *ptr[BATCH];
	uint64_t n;
	uint8_t *arena; /* what the pause copies into */
	uint64_t *arena_pfn;
	uint64_t arena_n, arena_max;
};

static void store(struct move *mv, const uint64_t *pfns, const uint8_t *pages, size_t n)
{
	static const uint8_t zero[RPL_PAGE_SIZE];
	const void *ptr[BATCH];
	struct rpl_err err;

	for (size_t i = 0; i < n; i++) {
		const uint8_t *p = pages + i * RPL_PAGE_SIZE;

		ptr[i] = memcmp(p, zero, RPL_PAGE_SIZE) == 0 ? NULL : p;
	}
	if (rpl_memory_copy_in(mv->to, pfns, ptr, n, &err) < 0)
		give_up("store pages", &err);
}

/* All pages, as a session begins. */
static void bulk(struct move *mv)
{
	const struct rpl_ram_layout *l = rpl_memory_layout(mv->from);
	struct rpl_err err;

	for (uint32_t i = 0; i < l->count; i++)
		for (uint64_t k = 0; k < l->region[i].pages; k += BATCH) {
			size_t n = l->region[i].pages - k < BATCH ? l->region[i].pages - k : BATCH;

			for (size_t j = 0; j < n; j++)
				mv->pfn[j] = l->region[i].pfn + k + j;
			if (rpl_memory_copy_out(mv->from, mv->pfn, n, mv->page, &err) < 0)
				give_up("read pages", &err);
			store(mv, mv->pfn, mv->page[0], n);
		}
}

static void copy_dirty(struct move *mv, struct rpl_bitmap *dirty)
{
	struct rpl_err err;

	mv->arena_n = 0;
	for (uint64_t p = rpl_bitmap_next(dirty, 0); p < dirty->bits; p = rpl_bitmap_next(dirty, p + 1)) {
		check(mv->arena_n < mv->arena_max, "the arena holds all dirty pages");
		mv->arena_pfn[mv->arena_n++] = p;
	}
	if (rpl_memory_copy_out(mv->from, mv->arena_pfn, mv->arena_n, mv->arena, &err) < 0)
		give_up("copy pages", &err);
}

static void store_arena(struct move *mv)
{
	for (uint64_t i = 0; i < mv->arena_n; i += BATCH)
		store(mv, mv->arena_pfn + i, mv->arena + i * RPL_PAGE_SIZE,
		      mv->arena_n - i < BATCH ? mv->arena_n - i : BATCH);
}

/* ---- the story */

enum phase { STOP, SCAN, COPY, SAVE, CONT, TOTAL, NPHASES };
static const char *const phase_names[] = { "stop", "scan", "copy", "save", "cont", "total" };
static struct rpl_hist hist[NPHASES];
static uint64_t dirty_total, missed_total;

static void epoch(struct move *mv, struct rpl_bitmap *dirty, unsigned e)
{
	uint64_t start = rpl_now_ns(), t, found, missed = 0, audit = 0;
	struct rpl_err err;

	rpl_hist_add(&hist[STOP], op(&primary, rpl_guest_pause, "pause"));
	t = rpl_now_ns();
	rpl_bitmap_zero(dirty);
	if (rpl_memory_take_dirty(mv->from, dirty, &found, &err) < 0)
		give_up("take", &err);
	rpl_hist_add(&hist[SCAN], rpl_now_ns() - t);
	t = rpl_now_ns();
	copy_dirty(mv, dirty);
	rpl_hist_add(&hist[COPY], rpl_now_ns() - t);
	rpl_hist_add(&hist[SAVE], op(&primary, rpl_guest_save, "save"));
	if (opt.audit) {
		t = rpl_now_ns();
		if (rpl_memory_audit(mv->from, dirty, &missed, &err) < 0)
			give_up("audit", &err);
		audit = rpl_now_ns() - t;
	}
	rpl_hist_add(&hist[CONT], op(&primary, rpl_guest_resume, "resume"));
	rpl_hist_add(&hist[TOTAL], rpl_now_ns() - start - audit);
	dirty_total += found;
	missed_total += missed;
	if (!(opt.drop && e == opt.epochs / 2))
		store_arena(mv);
}

static void kill_primary(void)
{
	if (!opt.kill) {
		(void)op(&primary, rpl_guest_pause, "pause");
		return;
	}
	(void)kill(qemu_pid, SIGKILL);
	for (int i = 0; i < PATIENT_TURNS && !primary.lost; i++)
		run_for(TURN_MS);
	check(primary.lost == 1, "the killed guest is reported lost, once");
}

static void take_over(const struct payload_report *pr, uint32_t step_saved)
{
	struct payload_report *sr = map_report("standby");
	uint64_t start = rpl_now_ns();
	int state = fcntl(rpl_guest_state_fd(primary.g), F_DUPFD_CLOEXEC, 3);
	uint32_t checks;

	(void)pr;
	rpl_guest_activate(standby.g, state, rpl_guest_state_len(primary.g));
	(void)finish(&standby, "activate");
	(void)printf("activated in %.1f ms\n", (double)(rpl_now_ns() - start) / 1e6);
	(void)close(state);
	(void)op(&standby, rpl_guest_announce, "announce");
	checks = sr->checks;
	for (int i = 0; i < PATIENT_TURNS && sr->checks < checks + 3 && !sr->bad; i++)
		run_for(TURN_MS);
	(void)printf("payload: step %u at the checkpoint, now %u; %u checks since, %u bad, %u pages\n", step_saved, sr->step,
		     sr->checks - checks, sr->bad, sr->pages);
	check(standby.lost == 0, "the activated guest lives");
	if (opt.drop) {
		check(sr->bad != 0, "the dropped epoch is noticed");
		(void)munmap(sr, 4096);
		return;
	}
	check(sr->checks >= checks + 3 && sr->step > step_saved, "the payload goes on");
	check(sr->bad == 0 && sr->magic == PAYLOAD_MAGIC, "the payload's memory is whole");
	(void)munmap(sr, 4096);
}

static void wait_payload(const struct payload_report *r)
{
	for (int i = 0; i < PATIENT_TURNS && (r->magic != PAYLOAD_MAGIC || r->checks < 2); i++)
		run_for(TURN_MS);
	check(r->magic == PAYLOAD_MAGIC && r->checks >= 2, "the payload boots");
}

static void second_life(void)
{
	struct rpl_err err;
	struct rpl_memory *m;

	/* the activated guest is an ordinary one: it can be paused, tracked, saved, resumed */
	(void)op(&standby, rpl_guest_pause, "pause the heir");
	(void)op(&standby, rpl_guest_save, "save the heir");
	m = open_memory(&standby);
	check(rpl_memory_copy_in(m, NULL, NULL, 0, &err) == -EPERM, "an activated guest's RAM is no replica any more");
	rpl_memory_free(m);
	(void)op(&standby, rpl_guest_resume, "resume the heir");
	(void)op(&standby, rpl_guest_quit, "quit the heir");
}

static void story(void)
{
	static struct move mv;
	struct payload_report *pr;
	struct rpl_bitmap dirty;
	uint32_t step = 0;
	uint64_t t;

	start_primary();
	attach_primary();
	pr = map_report("primary");
	wait_payload(pr);
	start_standby();
	mv.from = open_memory(&primary);
	mv.to = open_memory(&standby);
	mv.arena_max = 32768;
	mv.arena = malloc(mv.arena_max * RPL_PAGE_SIZE);
	mv.arena_pfn = malloc(mv.arena_max * sizeof(uint64_t));
	check(mv.arena && mv.arena_pfn && rpl_bitmap_init(&dirty, rpl_memory_layout(mv.from)->pfn_limit) == 0, "memory");
	t = rpl_now_ns();
	{
		struct rpl_err err;
		uint64_t found;

		if (rpl_memory_take_dirty(mv.from, &dirty, &found, &err) < 0)
			give_up("first take", &err);
	}
	bulk(&mv);
	(void)printf("bulk: %.0f ms for %" PRIu64 " pages\n", (double)(rpl_now_ns() - t) / 1e6,
		     rpl_memory_layout(mv.from)->pages);
	for (unsigned e = 0; e < opt.epochs; e++) {
		epoch(&mv, &dirty, e);
		step = pr->step;
		run_for(opt.interval_ms);
	}
	(void)printf("%u epochs, %" PRIu64 " dirty pages an epoch, %" PRIu64 " missed by the tracker\n", opt.epochs,
		     dirty_total / opt.epochs, missed_total);
	check(missed_total == 0, "the tracker missed nothing");
	kill_primary();
	rpl_memory_free(mv.to);
	take_over(pr, step);
	second_life();
	rpl_memory_free(mv.from);
	rpl_bitmap_fini(&dirty);
	free(mv.arena);
	free(mv.arena_pfn);
	(void)munmap(pr, 4096);
}

static void print_bench(void)
{
	for (int i = 0; i < NPHASES; i++)
		(void)printf("%-6s p50 %6.2f  p99 %6.2f  max %6.2f ms\n", phase_names[i],
			     (double)rpl_hist_quantile(&hist[i], 500) / 1e6, (double)rpl_hist_quantile(&hist[i], 990) / 1e6,
			     (double)hist[i].max_ns / 1e6);
}

static void parse(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "tracker", 1, NULL, 't' }, { "epochs", 1, NULL, 'e' },  { "ram", 1, NULL, 'r' },
		{ "machine", 1, NULL, 'm' }, { "payload", 1, NULL, 'p' }, { "helper", 1, NULL, 'h' },
		{ "dir", 1, NULL, 'd' },     { "drop", 0, NULL, 'D' },    { "kill", 0, NULL, 'k' },
		{ "bench", 0, NULL, 'b' },   { "no-audit", 0, NULL, 'A' }, { "interval", 1, NULL, 'i' },
		{ "debug", 0, NULL, 'v' },   { "accel", 1, NULL, 'a' },   { NULL, 0, NULL, 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 't': opt.tracker = optarg; break;
		case 'e': opt.epochs = (unsigned)atoi(optarg); break;
		case 'r': opt.ram_mb = (unsigned)atoi(optarg); break;
		case 'm': opt.machine = optarg; break;
		case 'p': opt.payload = optarg; break;
		case 'h': opt.helper = optarg; break;
		case 'd': opt.dir = optarg; break;
		case 'a': opt.accel = optarg; break;
		case 'i': opt.interval_ms = (unsigned)atoi(optarg); break;
		case 'D': opt.drop = true; break;
		case 'k': opt.kill = true; break;
		case 'b': opt.bench = true; break;
		case 'A': opt.audit = false; break;
		case 'v': rpl_log_init("guest", RPL_LOG_DEBUG); break;
		default: exit(2);
		}
	}
	if (!opt.payload || !opt.helper || !opt.dir || !opt.epochs)
		exit(2);
}

int main(int argc, char **argv)
{
	(void)setvbuf(stdout, NULL, _IOLBF, 0);
	rpl_log_init("guest", RPL_LOG_INFO);
	parse(argc, argv);
	story();
	if (opt.bench)
		print_bench();
	(void)op(&primary, rpl_guest_quit, "quit the primary"); /* also if it was killed */
	rpl_guest_free(primary.g);
	rpl_guest_free(standby.g);
	while (waitpid(qemu_pid, NULL, 0) < 0 && errno == EINTR)
		;
	(void)puts("ok");
	return 0;
}
