/* The control half: operations on the sim guest, a QMP peer that misbehaves, the userfaultfd tracker on ourselves. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>
#include <ev.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/guest.h>
#include <replicad/io.h>

#include "../../src/guest/note.h"
#include "../../src/guest/sim.h"
#include "../../src/guest/uapi_pagemap.h"
#include "../../src/guest/uffd.h"
#include "../lib/run_for.h"

struct seen {
	struct rpl_guest *g;
	enum rpl_guest_op op;
	int r;
	struct rpl_err err;
	unsigned done, events;
	enum rpl_guest_event event;
};

static void on_done(void *arg, enum rpl_guest_op op, int r, const struct rpl_err *err)
{
	struct seen *s = arg;

	s->op = op;
	s->r = r;
	s->done++;
	if (err)
		s->err = *err;
}

static void on_event(void *arg, enum rpl_guest_event event, const char *msg)
{
	struct seen *s = arg;

	assert_true(msg[0] != '\0');
	s->event = event;
	s->events++;
}

static int wait_done(struct seen *s)
{
	unsigned before = s->done;

	while (s->done == before)
		ev_run(EV_DEFAULT, EVRUN_ONCE);
	assert_int_equal(s->done, before + 1);
	return s->r;
}

static void make(struct seen *s, const struct rpl_guest_conf *conf)
{
	struct rpl_err err = { 0 };

	*s = (struct seen){ .done = 0 };
	s->g = rpl_guest_new(conf, EV_DEFAULT, on_done, on_event, s, &err);
	if (!s->g)
		fail_msg("%s", err.msg);
}

/* ---- sim: checkpoints from one to the other, then a takeover */

struct pair {
	struct seen a, b;
	struct rpl_memory *from, *to;
	struct rpl_bitmap dirty;
};

static struct rpl_memory *memory_of(struct seen *s, enum rpl_memory_kind want)
{
	int fds[RPL_MEMORY_FDS_MAX];
	struct rpl_memory_desc d;
	struct rpl_err err;
	struct rpl_memory *m;
	size_t n;

	assert_int_equal(rpl_guest_memory(s->g, &d, fds, &n, &err), 0);
	assert_int_equal(d.kind, want);
	m = rpl_memory_new(&d, fds, n, &err);
	assert_non_null(m);
	return m;
}

static void open_pair(struct pair *p, const char *sim, const char *tracker)
{
	struct rpl_guest_conf conf = { .backend = "sim", .name = "a", .sim = sim, .tracker = tracker, .audit = true };

	make(&p->a, &conf);
	conf.name = "b";
	make(&p->b, &conf);
	rpl_guest_attach(p->a.g);
	assert_int_equal(wait_done(&p->a), 0);
	rpl_guest_standby(p->b.g);
	assert_int_equal(wait_done(&p->b), 0);
	assert_int_equal(rpl_guest_compare(p->b.g, rpl_guest_info(p->a.g)->definition, NULL), 0);
	p->from = memory_of(&p->a, tracker && strcmp(tracker, "compare") == 0 ? RPL_MEMORY_COMPARE : RPL_MEMORY_SIM);
	p->to = memory_of(&p->b, RPL_MEMORY_REPLICA);
	assert_int_equal(rpl_bitmap_init(&p->dirty, rpl_memory_layout(p->from)->pfn_limit), 0);
}

static void close_pair(struct pair *p)
{
	rpl_memory_free(p->from);
	rpl_memory_free(p->to);
	rpl_bitmap_fini(&p->dirty);
	rpl_guest_free(p->a.g);
	rpl_guest_free(p->b.g);
}

static void move_dirty(struct pair *p, uint64_t skip)
{
	static uint8_t page[RPL_PAGE_SIZE];
	const void *ptr = page;
	struct rpl_err err;

	for (uint64_t pfn = rpl_bitmap_next(&p->dirty, 0); pfn < p->dirty.bits; pfn = rpl_bitmap_next(&p->dirty, pfn + 1)) {
		assert_int_equal(rpl_memory_copy_out(p->from, &pfn, 1, page, &err), 0);
		if (skip-- != 0)
			assert_int_equal(rpl_memory_copy_in(p->to, &pfn, &ptr, 1, &err), 0);
	}
}

/* The first round: take, then all pages. */
static void bulk(struct pair *p)
{
	const struct rpl_ram_layout *l = rpl_memory_layout(p->from);
	uint64_t found;

	rpl_bitmap_zero(&p->dirty);
	assert_int_equal(rpl_memory_take_dirty(p->from, &p->dirty, &found, NULL), 0);
	for (uint32_t i = 0; i < l->count; i++)
		rpl_bitmap_set_range(&p->dirty, l->region[i].pfn, l->region[i].pages);
	move_dirty(p, UINT64_MAX);
}

static void checkpoint(struct pair *p, uint64_t skip)
{
	uint64_t found, missed = 1;
	struct rpl_err err;

	rpl_guest_pause(p->a.g);
	assert_int_equal(wait_done(&p->a), 0);
	rpl_bitmap_zero(&p->dirty);
	assert_int_equal(rpl_memory_take_dirty(p->from, &p->dirty, &found, &err), 0);
	assert_int_equal(rpl_memory_audit(p->from, &p->dirty, &missed, &err), 0);
	assert_int_equal(missed, 0);
	rpl_guest_save(p->a.g);
	assert_int_equal(wait_done(&p->a), 0);
	move_dirty(p, skip);
	rpl_guest_resume(p->a.g);
	assert_int_equal(wait_done(&p->a), 0);
}

static void sim_story(const char *sim, const char *tracker, uint64_t skip, int want)
{
	struct pair p = { .from = NULL };
	int fd;

	open_pair(&p, sim, tracker);
	bulk(&p);
	for (int i = 0; i < 5; i++) {
		rpl_sim_write(p.a.g, 300);
		checkpoint(&p, i == 2 ? skip : UINT64_MAX);
	}
	fd = fcntl(rpl_guest_state_fd(p.a.g), F_DUPFD_CLOEXEC, 3);
	rpl_sim_write(p.a.g, 50); /* an epoch that never gets across */
	rpl_guest_activate(p.b.g, fd, rpl_guest_state_len(p.a.g));
	assert_int_equal(wait_done(&p.b), want);
	if (want == 0) {
		assert_int_equal(rpl_sim_bad_pages(p.b.g), 0);
		assert_true(rpl_guest_info(p.b.g)->running);
		rpl_sim_write(p.b.g, 10);
		assert_int_equal(rpl_sim_bad_pages(p.b.g), 0);
	}
	(void)close(fd);
	close_pair(&p);
}

static void a_sim_guest_is_taken_over(void **state)
{
	(void)state;
	sim_story("ram_mb=4,rate=0,seed=7", NULL, UINT64_MAX, 0);
	sim_story("ram_mb=4,rate=0,seed=7", "compare", UINT64_MAX, 0);
	sim_story("ram_mb=2,high_mb=2,rate=5000,pattern=hot,seed=9", NULL, UINT64_MAX, 0);
	sim_story("ram_mb=2,high_mb=2,rate=0,pattern=sequential,seed=9", NULL, UINT64_MAX, 0);
}

static void a_lost_page_is_noticed_by_the_sim_guest(void **state)
{
	(void)state;
	sim_story("ram_mb=4,rate=0,pattern=sequential,seed=7", NULL, 5, -EIO);
}

static void a_guest_that_others_resume_is_not_saved(void **state)
{
	struct rpl_guest_conf conf = { .backend = "sim", .name = "x", .sim = "", .qmp_path = "" };
	struct seen s;

	(void)state;
	make(&s, &conf);
	rpl_guest_attach(s.g);
	assert_int_equal(wait_done(&s), 0);
	rpl_guest_save(s.g);
	assert_int_equal(wait_done(&s), -EBUSY);
	rpl_guest_pause(s.g);
	assert_int_equal(wait_done(&s), 0);
	rpl_sim_event(s.g, RPL_GUEST_RESUMED);
	rpl_guest_save(s.g);
	assert_int_equal(wait_done(&s), -EBUSY);
	rpl_sim_event(s.g, RPL_GUEST_LOST);
	assert_int_equal(s.events, 2);
	rpl_guest_save(s.g);
	assert_int_equal(wait_done(&s), -ESRCH);
	rpl_guest_pause(s.g);
	assert_int_equal(wait_done(&s), -ESRCH);
	rpl_guest_free(s.g);
}

static void sim_guests_of_one_seed_are_equal(void **state)
{
	struct rpl_guest_conf conf = { .backend = "sim", .name = "x", .sim = "ram_mb=1,rate=0,seed=3" };
	uint8_t a[RPL_PAGE_SIZE], b[RPL_PAGE_SIZE];
	struct rpl_memory *ma, *mb;
	struct seen x, y;

	(void)state;
	make(&x, &conf);
	make(&y, &conf);
	rpl_guest_attach(x.g);
	(void)wait_done(&x);
	rpl_guest_attach(y.g);
	(void)wait_done(&y);
	ma = memory_of(&x, RPL_MEMORY_SIM);
	mb = memory_of(&y, RPL_MEMORY_SIM);
	rpl_sim_write(x.g, 1000);
	rpl_sim_write(y.g, 1000);
	for (uint64_t p = 0; p < 256; p++) {
		assert_int_equal(rpl_memory_copy_out(ma, &p, 1, a, NULL), 0);
		assert_int_equal(rpl_memory_copy_out(mb, &p, 1, b, NULL), 0);
		assert_memory_equal(a, b, sizeof(a));
	}
	rpl_memory_free(ma);
	rpl_memory_free(mb);
	rpl_guest_free(x.g);
	rpl_guest_free(y.g);
}

static void bad_configurations_are_refused(void **state)
{
	static const char *const sims[] = { "ram_mb=0", "ram_mb", "rate=x", "pattern=odd", "what=1", "rate=99999999999" };
	struct rpl_guest_conf conf = { .backend = "vmware", .name = "x" };
	struct rpl_err err = { 0 };

	(void)state;
	assert_null(rpl_guest_new(&conf, EV_DEFAULT, on_done, on_event, NULL, &err));
	assert_non_null(strstr(err.msg, "vmware"));
	conf.backend = "sim";
	for (size_t i = 0; i < RPL_ARRAY_LEN(sims); i++) {
		conf.sim = sims[i];
		err.msg[0] = '\0';
		assert_null(rpl_guest_new(&conf, EV_DEFAULT, on_done, on_event, NULL, &err));
		assert_true(err.msg[0] != '\0');
	}
}

/* A build without Xen's libraries refuses at once, one with them where no Xen runs. */
static void xen_needs_xen(void **state)
{
	struct rpl_guest_conf conf = { .backend = "xen", .name = "x" };
	struct rpl_err err = { 0 };
	struct seen s = { 0 };
	struct rpl_guest *g;

	(void)state;
	if (access("/dev/xen/privcmd", F_OK) == 0 || access("/proc/xen/privcmd", F_OK) == 0)
		skip();
	g = rpl_guest_new(&conf, EV_DEFAULT, on_done, on_event, &s, &err);
	if (g) {
		rpl_guest_attach(g);
		assert_true(wait_done(&s) < 0);
		err = s.err;
		rpl_guest_free(g);
	}
	assert_non_null(strstr(err.msg, "Xen"));
}

/* ---- a QMP peer that misbehaves; this process plays QEMU */

struct peer {
	char dir[64], path[96];
	int listener, fd;
};

static void open_peer(struct peer *p)
{
	(void)snprintf(p->dir, sizeof(p->dir), "/tmp/rpl-guest-XXXXXX");
	assert_non_null(mkdtemp(p->dir));
	(void)snprintf(p->path, sizeof(p->path), "%s/qmp", p->dir);
	p->listener = rpl_unix_listen(p->path, SOCK_STREAM, NULL);
	assert_true(p->listener >= 0);
	p->fd = -1;
}

/* An attach of a guest whose monitor it is. */
static void attach_at(struct peer *p, struct seen *s, unsigned op_timeout_ms)
{
	struct rpl_guest_conf conf = { .backend = "qemu", .name = "web1", .qmp_path = p->path, .op_timeout_ms = op_timeout_ms };

	open_peer(p);
	make(s, &conf);
	rpl_guest_attach(s->g);
}

static void close_peer(struct peer *p)
{
	rpl_close(&p->fd);
	rpl_close(&p->listener);
	(void)unlink(p->path);
	assert_int_equal(rmdir(p->dir), 0);
}

static void say(struct peer *p, const char *text)
{
	if (p->fd < 0)
		p->fd = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC);
	assert_int_equal(rpl_write_full(p->fd, text, strlen(text)), 0);
}

#define GREETING "{\"QMP\": {\"version\": {\"qemu\": {\"major\": 7, \"minor\": 2, \"micro\": 22}}, \"capabilities\": []}}\r\n"

#define PATIENCE_MS 60000 /* only reached by a failure */

static void attach_to(const char *text, bool hang_up, int want, const char *word)
{
	struct peer p;
	struct seen s;

	attach_at(&p, &s, want == -ETIMEDOUT ? 150 : PATIENCE_MS);
	if (text)
		say(&p, text);
	if (hang_up)
		rpl_close(&p.fd);
	assert_int_equal(wait_done(&s), want);
	if (!strstr(s.err.msg, word))
		fail_msg("'%s' does not say '%s'", s.err.msg, word);
	run_for(20);
	assert_int_equal(s.done, 1);
	assert_int_equal(s.events, 0);
	rpl_guest_free(s.g);
	close_peer(&p);
}

static void a_monitor_that_hangs_dies_or_lies_ends_the_attach(void **state)
{
	(void)state;
	attach_to(NULL, false, -ETIMEDOUT, "another program");
	attach_to(GREETING, false, -ETIMEDOUT, "150 ms");
	attach_to(GREETING, true, -EPIPE, "the monitor was closed"); /* our commands meet a closed socket first */
	attach_to(GREETING "{\"error\": {\"class\": \"c\", \"desc\": \"locked\"}, \"id\": 0}"
		  "{\"error\": {\"class\": \"c\", \"desc\": \"no\"}, \"id\": 1}{\"return\": [], \"id\": 2}"
		  "{\"error\": {\"class\": \"c\", \"desc\": \"locked\"}, \"id\": 3}", true, -EREMOTEIO, "locked");
	attach_to("HTTP/1.0 200 OK\r\n", false, -EPROTO, "where a message should begin");
	attach_to(GREETING GREETING, false, -EPROTO, "second greeting");
	attach_to(GREETING "{\"return\": {}, \"id\": 99}\r\n", false, -EPROTO, "no command of ours");
	/* 1 and 2 are about devices that need not be there */
	attach_to(GREETING "{\"return\": {}, \"id\": 0}{\"error\": {\"class\": \"c\", \"desc\": \"no\"}, \"id\": 1}{\"return\": [], \"id\": 2}"
		  "{\"error\": {\"class\": \"c\", \"desc\": \"locked\"}, \"id\": 3}", false, -EREMOTEIO, "locked");
	/* a greeting without a version, and every answer empty: refused, not crashed */
	attach_to("{\"QMP\": {}}{\"return\": 0, \"id\": 0}{\"return\": 0, \"id\": 1}{\"return\": 0, \"id\": 2}"
		  "{\"return\": 0, \"id\": 3}{\"return\": 0, \"id\": 4}{\"return\": 0, \"id\": 5}{\"return\": 0, \"id\": 6}"
		  "{\"return\": 0, \"id\": 7}{\"return\": 0, \"id\": 8}{\"return\": 0, \"id\": 9}{\"return\": 0, \"id\": 10}"
		  "{\"return\": 0, \"id\": 11}{\"return\": 0, \"id\": 12}{\"return\": 0, \"id\": 13}", false, -ENOTSUP, "shared backend");
}

/* Both are due: the answer, and the end of the time for it. */
static void an_answer_that_has_come_is_not_too_late(void **state)
{
	struct peer p;
	struct seen s;

	(void)state;
	attach_at(&p, &s, 10);
	say(&p, GREETING GREETING);
	(void)usleep(50 * 1000); /* as if somebody else had the processor */
	assert_int_equal(wait_done(&s), -EPROTO);
	rpl_guest_free(s.g);
	close_peer(&p);
}

static void attaching_to_nothing_says_so(void **state)
{
	struct rpl_guest_conf conf = { .backend = "qemu", .name = "web1", .qmp_path = "/nonexistent/qmp" };
	struct seen s;

	(void)state;
	make(&s, &conf);
	rpl_guest_attach(s.g);
	assert_int_equal(s.done, 0); /* never from within the call */
	assert_int_equal(wait_done(&s), -ENOENT);
	assert_non_null(strstr(s.err.msg, "/nonexistent/qmp"));
	rpl_guest_free(s.g);
}

static void a_handle_may_be_freed_in_the_middle(void **state)
{
	struct peer p;
	struct seen s;

	(void)state;
	attach_at(&p, &s, PATIENCE_MS);
	say(&p, GREETING);
	run_for(10);
	rpl_guest_free(s.g);
	run_for(10);
	assert_int_equal(s.done, 0);
	close_peer(&p);
}

/* ---- the note */

static void the_note_speaks_about_one_process_only(void **state)
{
	struct note n = { .page = NULL };
	char dir[] = "/tmp/rpl-note-XXXXXX";
	uint64_t before = rpl_now_ns(), since;

	(void)state;
	assert_non_null(mkdtemp(dir));
	assert_int_equal(note_open(&n, dir, "web1", NULL), 0);
	assert_false(note_claim(&n, getpid()));
	note_set(&n, true);
	since = note_since(&n);
	assert_in_range(since, before, rpl_now_ns());
	note_close(&n, false); /* we crash */
	assert_int_equal(note_open(&n, dir, "web1", NULL), 0);
	assert_true(note_claim(&n, getpid()));
	note_set(&n, true); /* paused by us still */
	assert_int_equal(note_since(&n), since);
	assert_false(note_claim(&n, getppid()));
	assert_int_equal(note_since(&n), 0);
	assert_false(note_claim(&n, getpid())); /* the other one's claim took it over */
	note_close(&n, true);
	assert_int_equal(rmdir(dir), 0);
}

/* ---- userfaultfd, on ourselves */

static void the_kernels_tracker_sees_every_write(void **state)
{
	const size_t pages = 2048;
	struct rpl_memory_desc d = { .kind = RPL_MEMORY_UFFD, .audit = 1 };
	struct rpl_err err = { 0 };
	struct rpl_bitmap taken;
	struct rpl_memory *m;
	uint64_t n, missed;
	uint8_t *map;
	int ram, uffd, pagemap;

	(void)state;
	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	if (!uffd_kernel_can() || uffd < 0) {
		rpl_close(&uffd);
		print_message("this kernel has no PAGEMAP_SCAN, or no userfaultfd for us\n");
		skip();
	}
	ram = memfd_create("ram", MFD_CLOEXEC);
	assert_int_equal(ftruncate(ram, (off_t)(pages * RPL_PAGE_SIZE)), 0);
	map = mmap(NULL, pages * RPL_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, ram, 0);
	assert_true(map != MAP_FAILED);
	memset(map, 1, 100 * RPL_PAGE_SIZE);
	pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	assert_int_equal(uffd_api(uffd, &err), 0);
	assert_int_equal(uffd_arm(uffd, pagemap, (uintptr_t)map, pages * RPL_PAGE_SIZE, &err), 0);
	assert_true(rpl_layout_add(&d.layout, 0, pages, 0));
	assert_int_equal(rpl_bitmap_init(&taken, pages), 0);
	d.vaddr = (uintptr_t)map;
	m = rpl_memory_new(&d, (int[]){ dup(ram), dup(uffd), dup(pagemap) }, 3, &err);
	assert_non_null(m);
	assert_int_equal(rpl_memory_take_dirty(m, &taken, &n, &err), 0);
	assert_int_equal(n, 0);
	for (size_t i = 0; i < pages; i += 3)
		map[i * RPL_PAGE_SIZE + i % RPL_PAGE_SIZE] = 2;
	/* a page that was not there may be reported without a write, when the kernel maps its neighbours too */
	assert_int_equal(rpl_memory_peek_dirty(m, &n, &err), 0);
	assert_in_range(n, (pages + 2) / 3, pages);
	assert_int_equal(rpl_memory_take_dirty(m, &taken, &n, &err), 0);
	assert_in_range(n, (pages + 2) / 3, pages);
	for (size_t i = 0; i < pages; i++)
		if (i % 3 == 0 || i < 99)
			assert_int_equal(rpl_bitmap_get(&taken, i), i % 3 == 0);
	assert_int_equal(rpl_memory_audit(m, &taken, &missed, &err), 0);
	assert_int_equal(missed, 0);
	/* a write past the mapping is what it cannot see: the audit has to say so */
	assert_int_equal(pwrite(ram, "x", 1, 7 * RPL_PAGE_SIZE), 1);
	rpl_bitmap_zero(&taken);
	assert_int_equal(rpl_memory_take_dirty(m, &taken, &n, &err), 0);
	assert_int_equal(n, 0);
	assert_int_equal(rpl_memory_audit(m, &taken, &missed, &err), 0);
	assert_int_equal(missed, 1);
	rpl_memory_free(m);
	assert_int_equal(uffd_disarm(uffd, (uintptr_t)map, pages * RPL_PAGE_SIZE, &err), 0);
	rpl_bitmap_fini(&taken);
	(void)munmap(map, pages * RPL_PAGE_SIZE);
	(void)close(ram);
	(void)close(uffd);
	(void)close(pagemap);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_sim_guest_is_taken_over),
		cmocka_unit_test(a_lost_page_is_noticed_by_the_sim_guest),
		cmocka_unit_test(a_guest_that_others_resume_is_not_saved),
		cmocka_unit_test(sim_guests_of_one_seed_are_equal),
		cmocka_unit_test(bad_configurations_are_refused),
		cmocka_unit_test(xen_needs_xen),
		cmocka_unit_test(a_monitor_that_hangs_dies_or_lies_ends_the_attach),
		cmocka_unit_test(an_answer_that_has_come_is_not_too_late),
		cmocka_unit_test(attaching_to_nothing_says_so),
		cmocka_unit_test(a_handle_may_be_freed_in_the_middle),
		cmocka_unit_test(the_note_speaks_about_one_process_only),
		cmocka_unit_test(the_kernels_tracker_sees_every_write),
	};

	(void)signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
