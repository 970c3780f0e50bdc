/* What `save` and `migrate` send of a domain, against a stand-in for Xen's libraries: every call that can fail does, the domain
 * changes under the copy in every way that is known to hurt. What must hold each time: a sentence, the guest runs, nothing is
 * logged, nothing is left open. The real thing is tests/lab. */
#include <errno.h>
#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include <replicad/stream_format.h>

#include "../../src/cli/xen_send.h"
#include "xen_fake.h"
#include "xen_stage.h"

#define PAGE 4096u
#define SLOTS (FAKE_PAGES + FAKE_SPECIALS)
#define NONE UINT64_MAX
#define SHUTDOWN_POWEROFF 0u
#define SHUTDOWN_CRASH 3u

static char dir[] = "/tmp/xen-send-XXXXXX";

static const char xl_script[] =
	"#!/bin/sh\n"
	"case \"$1 $3\" in\n"
	"'domid ') [ \"$2\" = " FAKE_NAME " ] && echo 5 ;;\n"
	"'list " FAKE_NAME "') echo '[{\"domid\": 5, \"config\": {\"c_info\": {\"type\": \"'$FAKE_TYPE'\", \"name\": \"" FAKE_NAME "\", \"domid\": 5},"
	" \"b_info\": {\"max_memkb\": 4128, \"max_vcpus\": 1}}}]' ;;\n"
	"*) exit 1 ;;\n"
	"esac\n";

/* ---- one sending */

struct sent {
	int r;
	struct rpl_err err;
	struct xen_send_report report;
	int fd; /* memfd with the stream */
	int fds_before;
};

static int open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	while (readdir(d))
		n++;
	(void)closedir(d);
	return n;
}

static struct xen_send_policy policy(void)
{
	return (struct xen_send_policy){ .run_dir = dir, .rounds_max = 5, .pages_enough = 4, .suspend_timeout_ms = 2000,
					 .stall_ms = 2000 };
}

static void send_with(struct sent *t, const struct xen_send_policy *p)
{
	struct xen_send *s;

	memset(t, 0, sizeof(*t));
	t->fds_before = open_fds();
	t->fd = memfd_create("stream", MFD_CLOEXEC);
	s = xen_send_open(FAKE_NAME, p, &t->err);
	t->r = s ? xen_send_stream(s, t->fd, &t->report, &t->err) : t->err.code;
	if (t->r == 0) {
		assert_true(fake.suspended);
		t->r = xen_send_resume(s, &t->err);
	}
	xen_send_free(s);
}

static void send_it(struct sent *t)
{
	const struct xen_send_policy p = policy();

	send_with(t, &p);
}

/* What must hold after every sending, whatever happened. */
static void check_clean(const struct sent *t)
{
	assert_int_equal(fake.handles, 0);
	assert_int_equal(fake.mappings, 0);
	assert_int_equal(fake.buffers, 0);
	(void)close(t->fd);
	assert_int_equal(open_fds(), t->fds_before);
	if (t->r < 0) {
		assert_true(strlen(t->err.msg) > 20);
		assert_int_equal(t->r, t->err.code);
	}
}

/* Sending failed, for this reason; the guest runs as if nothing had been. */
static void check_failed(const struct sent *t, int code, const char *text)
{
	if (t->r != code || !strstr(t->err.msg, text))
		fail_msg("%d (%s), expected %d and '%s'", t->r, t->err.msg, code, text);
	check_clean(t);
	assert_false(fake.suspended);
	assert_false(fake.logging);
}

/* ---- the stream, as a reader would apply it */

struct image {
	uint8_t *bytes;
	size_t len;
	uint8_t *page[SLOTS]; /* into bytes; NULL: none came */
	uint8_t type[SLOTS];
	bool ended;
};

static size_t slot_of(uint64_t pfn)
{
	if (pfn < FAKE_PAGES)
		return pfn;
	assert_in_range(pfn, FAKE_SPECIAL, FAKE_SPECIAL + FAKE_SPECIALS - 1);
	return FAKE_PAGES + pfn - FAKE_SPECIAL;
}

static void apply_pages(struct image *im, uint8_t *body, uint32_t len)
{
	uint8_t *data;
	uint64_t desc;
	uint32_t n;

	memcpy(&n, body, sizeof(n));
	data = body + 8 + (size_t)n * 8;
	for (uint32_t i = 0; i < n; i++) {
		memcpy(&desc, body + 8 + (size_t)i * 8, sizeof(desc));
		im->type[slot_of(desc << 4 >> 4)] = (uint8_t)(desc >> 60);
		im->page[slot_of(desc << 4 >> 4)] = rpl_page_type_has_data((unsigned)(desc >> 60)) ? data : NULL;
		data += rpl_page_type_has_data((unsigned)(desc >> 60)) ? PAGE : 0;
	}
	assert_ptr_equal(data, body + len);
}

static void read_image(struct image *im, int fd)
{
	uint32_t optional, head[2];
	struct stat st;
	size_t at;

	memset(im, 0, sizeof(*im));
	memset(im->type, 0xf, sizeof(im->type));
	assert_int_equal(fstat(fd, &st), 0);
	im->len = (size_t)st.st_size;
	im->bytes = malloc(im->len);
	assert_int_equal(pread(fd, im->bytes, im->len, 0), (ssize_t)im->len);
	memcpy(&optional, im->bytes + 44, sizeof(optional));
	assert_null(strstr((char *)im->bytes + 52, "domid")); /* a number is not to be insisted on elsewhere */
	for (at = 48 + optional + 16 + 8 + 24 + 16; at + 8 <= im->len && !im->ended;) {
		memcpy(head, im->bytes + at, sizeof(head));
		if (head[0] == RPL_LIBXC_PAGE_DATA)
			apply_pages(im, im->bytes + at + 8, head[1]);
		im->ended = head[0] == RPL_LIBXC_END;
		at += 8 + ((head[1] + 7u) & ~7u);
	}
	assert_true(im->ended);
}

static void check_page(const struct image *im, size_t slot, uint64_t pfn)
{
	uint64_t want[PAGE / 8];
	unsigned level = fake.type[slot] & 7;

	assert_int_equal(im->type[slot], fake.type[slot]);
	if (!rpl_page_type_has_data(fake.type[slot])) {
		assert_null(im->page[slot]);
		return;
	}
	if (!im->page[slot])
		fail_msg("page 0x%lx never came", (unsigned long)pfn);
	if (level >= 1 && level <= 4)
		xen_fake_normalised(pfn, want);
	else
		memcpy(want, xen_fake_page(pfn), PAGE);
	if (memcmp(im->page[slot], want, PAGE) != 0)
		fail_msg("page 0x%lx is not what the guest had", (unsigned long)pfn);
}

/* Sent, and what a reader of the stream holds in the end is the guest when it suspended. */
static void check_sent(const struct sent *t)
{
	struct image im;

	if (t->r < 0)
		fail_msg("%s", t->err.msg);
	read_image(&im, t->fd);
	for (unsigned i = 0; i < (fake.pv ? FAKE_PAGES : SLOTS); i++)
		check_page(&im, i, i < FAKE_PAGES ? i : FAKE_SPECIAL + i - FAKE_PAGES);
	free(im.bytes);
	check_clean(t);
	assert_false(fake.suspended);
	assert_false(fake.logging);
}

/* ---- one guest, sent once */

/* What it does the while. */
static void begin(bool pv, void (*on_clean)(unsigned n), void (*on_suspend)(void))
{
	xen_fake_start(pv);
	(void)setenv("FAKE_TYPE", pv ? "pv" : "pvh", 1);
	fake.on_clean = on_clean;
	fake.on_suspend = on_suspend;
}

static void is_sent(void)
{
	struct sent t;

	send_it(&t);
	check_sent(&t);
	xen_fake_end();
}

static void is_not_sent(int code, const char *text)
{
	struct sent t;

	send_it(&t);
	check_failed(&t, code, text);
	xen_fake_end();
}

/* ---- both kinds, nothing goes wrong; the guest writes all the time */

/* Less each time: there are as many rounds as there may be. */
static void write_some(unsigned n)
{
	for (unsigned i = 0; i < 160u >> n; i++)
		xen_fake_write(100 + i, 8, n * 1000 + i);
}

static void write_last(void)
{
	xen_fake_write(200, 16, 99);
}

static void verify(int fd)
{
	char path[64], command[256];
	const char *build = getenv("top_builddir");

	(void)snprintf(path, sizeof(path), "/proc/%d/fd/%d", getpid(), fd);
	(void)snprintf(command, sizeof(command), "%s/replicad stream verify %s >&2", build ? build : ".", path);
	assert_int_equal(system(command), 0);
}

static void test_sent(void **state)
{
	struct sent t;

	(void)state;
	for (int pv = 0; pv < 2; pv++) {
		begin(pv, write_some, write_last);
		send_it(&t);
		assert_int_equal(t.r, 0);
		verify(t.fd);
		check_sent(&t);
		assert_int_equal(t.report.rounds, 5);
		assert_true(t.report.pages_paused > 0 && t.report.pages_paused < 200);
		assert_int_equal(fake.suspends, 1);
		xen_fake_end();
	}
}

static unsigned called(const char *name)
{
	unsigned n = 0;

	for (unsigned i = 0; i < fake.calls && i < FAKE_CALLS; i++)
		n += strcmp(fake.call[i], name) == 0;
	return n;
}

/* ---- every call, once */

static bool tried_before(const char *const *calls, unsigned i)
{
	return i >= 2 && strcmp(calls[i], calls[i - 1]) == 0 && strcmp(calls[i], calls[i - 2]) == 0;
}

static void fail_call(bool pv, unsigned i, const char *name)
{
	struct sent t;

	begin(pv, write_some, write_last);
	fake.fail_at = i + 1;
	send_it(&t);
	if (t.r == 0) {
		check_sent(&t);
	} else {
		check_clean(&t);
		/* the one thing that cannot be made good is said */
		if (strcmp(name, "xc_domain_resume") == 0 ? !fake.suspended : fake.suspended)
			fail_msg("call %u, %s: %s: the guest is %s", i, name, t.err.msg, fake.suspended ? "suspended" : "running");
		assert_false(fake.logging);
	}
	xen_fake_end();
}

static void test_each_call_fails(void **state)
{
	static const char *calls[FAKE_CALLS];
	struct sent t;
	unsigned n;

	(void)state;
	for (int pv = 0; pv < 2; pv++) {
		begin(pv, write_some, write_last);
		send_it(&t);
		check_sent(&t);
		n = fake.calls;
		assert_in_range(n, 50, FAKE_CALLS);
		memcpy(calls, fake.call, sizeof(calls));
		xen_fake_end();
		for (unsigned i = 0; i < n; i++)
			if (!tried_before(calls, i))
				fail_call(pv, i, calls[i]);
	}
}

/* ---- calls that fail each time: the words */

static const struct {
	bool pv;
	const char *call;
	int error, code;
	const char *text;
} failing[] = {
	{ false, "xc_interface_open", EACCES, -EACCES, "is this a Xen control domain?" },
	{ false, "xs_open", ENOENT, -ENOENT, "connect to xenstored" },
	{ false, "xenevtchn_open", ENODEV, -ENODEV, "event channel device" },
	{ false, "xs_watch", ENOMEM, -ENOMEM, "watch the ends of domains" },
	{ false, "open", ENOENT, -ENOENT, "/dev/xen/privcmd" },
	{ false, "xc_get_pfn_type_batch", EFAULT, -EFAULT, "domain 5: types of" },
	{ false, "xc_domain_nr_gpfns", EINVAL, -EINVAL, "its highest frame" },
	{ false, "xc_shadow_control", ENOMEM, -ENOMEM, "domain 5: log its writes" },
	{ true, "xc_shadow_control", EOPNOTSUPP, -EOPNOTSUPP, "no shadow paging" },
	{ false, "xc_logdirty_control", ENOMEM, -ENOMEM, "shadow_memory=" },
	{ false, "xc_logdirty_control", EINVAL, -EINVAL, "take its dirty bitmap" },
	{ false, "PRIVCMD_MAP", ENOMEM, -ENOMEM, "xen memory: map" },
	{ false, "PRIVCMD_RESTRICT", EPERM, -EPERM, "restrict /dev/xen/privcmd to domain 5" },
	{ false, "xc_cpu_policy_serialise", ENOBUFS, -ENOBUFS, "its CPU policy" },
	{ false, "xc_domain_hvm_getcontext", EBUSY, -EBUSY, "an HVM context of" },
	{ false, "xc_domain_get_tsc_info", EINVAL, -EINVAL, "time stamp counter" },
	{ false, "xs_write", EACCES, -EACCES, "device/suspend" },
	{ false, "xs_directory", EIO, -EIO, "xenstore: list" },
	{ true, "xenforeignmemory_map", ENOMEM, -ENOMEM, "domain 5: map its shared info" },
	{ false, "gethvmcontext", EBUSY, -EBUSY, "an HVM context of" },
	{ true, "getvcpucontext", ESRCH, -ESRCH, "vCPU 0: its context" },
	{ true, "xc_vcpu_getinfo", ESRCH, -ESRCH, "vCPU 0" },
	{ true, "xc_domctl", EINVAL, -EINVAL, "vCPU 0: its extended context" },
	{ true, "getvcpuextstate", EINVAL, -EINVAL, "vCPU 0: the length of its XSAVE state" },
	{ true, "get_vcpu_msrs", ESRCH, -ESRCH, "vCPU 0: the length of its MSRs" },
	{ true, "xc_physinfo", EPERM, -EPERM, "what this host's Xen can do" },
};

static void test_words(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(failing) / sizeof(failing[0]); i++) {
		xen_fake_start(failing[i].pv);
		fake.fail_name = failing[i].call;
		fake.error = failing[i].error;
		is_not_sent(failing[i].code, failing[i].text);
	}
}

/* ---- the suspend */

static void test_suspend_refused(void **state)
{
	struct xen_send_policy p = policy();
	struct sent t;

	(void)state;
	for (int pv = 0; pv < 2; pv++) {
		xen_fake_start(pv);
		fake.refuses = true;
		p.suspend_timeout_ms = 100;
		send_with(&t, &p);
		check_failed(&t, -ETIMEDOUT, FAKE_NAME ": pause");
		assert_int_equal(fake.suspends, 0);
		xen_fake_end();
	}
}

static void test_ends_instead(void **state)
{
	(void)state;
	xen_fake_start(false);
	fake.reason = SHUTDOWN_POWEROFF;
	is_not_sent(-ESRCH, "powered off from inside");
	assert_int_equal(fake.resumes, 0);
	xen_fake_start(true);
	fake.reason = SHUTDOWN_CRASH;
	is_not_sent(-ESRCH, "crashed");
}

static void destroy_it(unsigned n)
{
	write_some(n);
	if (n == 1)
		xen_fake_destroy();
}

static void test_vanishes(void **state)
{
	(void)state;
	for (int pv = 0; pv < 2; pv++) {
		begin(pv, destroy_it, NULL);
		is_not_sent(-ESRCH, "was destroyed");
	}
	xen_fake_start(false);
	fake.gone = true;
	is_not_sent(-ESRCH, "domain 5");
}

/* ---- memory that changes */

static void change_types(unsigned n)
{
	write_some(n);
	if (n == 0) { /* one becomes a page table that maps another; one becomes something else, and ends that */
		xen_fake_set_type(400, 1);
		xen_fake_write(400, 0, xen_fake_mfn(401) << 12 | 1);
		xen_fake_set_type(402, 2);
	} else if (n == 2) {
		xen_fake_set_type(402, 0);
		xen_fake_set_type(400, 0x9);
	}
}

static void test_types_change(void **state)
{
	(void)state;
	begin(true, change_types, NULL);
	is_sent();
}

static void balloon(unsigned n)
{
	write_some(n);
	if (n != 1)
		return;
	xen_fake_set_mfn(FAKE_BALLOON, 1500); /* comes */
	xen_fake_write(FAKE_BALLOON, 0, 42);
	xen_fake_set_mfn(500, NONE);          /* goes */
	xen_fake_set_mfn(600, 1501);          /* is another one */
	xen_fake_write(600, 0, 43);
}

static void test_balloons(void **state)
{
	(void)state;
	begin(true, balloon, NULL);
	is_sent();
}

/* B5: a page table that points at a frame that is not the guest's cannot be sent; later it can. */
static void foreign_then_not(unsigned n)
{
	write_some(n);
	if (n > 2)
		return;
	xen_fake_set_type(400, 1);
	xen_fake_write(400, 0, (n < 2 ? (uint64_t)FAKE_FOREIGN_MFN : xen_fake_mfn(401)) << 12 | 1);
}

static void foreign_from_now_on(unsigned n)
{
	write_some(n);
	xen_fake_set_type(400, 1);
	xen_fake_write(400, 0, (uint64_t)FAKE_FOREIGN_MFN << 12 | 1);
}

/* It is not written again: only what was put off brings it into a later round. */
static void foreign_that_mends_itself(void)
{
	uint64_t good = xen_fake_mfn(401) << 12 | 1;

	memcpy(xen_fake_page(400), &good, sizeof(good));
}

static void foreign_once(unsigned n)
{
	if (n == 0)
		foreign_from_now_on(n);
	else
		write_some(n);
}

static void test_deferred(void **state)
{
	(void)state;
	begin(true, foreign_then_not, NULL);
	is_sent();
	begin(true, foreign_once, foreign_that_mends_itself);
	is_sent();
	begin(true, foreign_from_now_on, NULL);
	is_not_sent(-EFAULT, "entry 0 of this page table maps a machine frame that is not the guest's");
}

/* B16: a page that cannot be mapped while the guest runs; in the pause it can, or not. */
static void mend_map(void)
{
	fake.bad_map = NONE;
}

static void test_map_fails(void **state)
{
	(void)state;
	for (int pv = 0; pv < 2; pv++) {
		begin(pv, NULL, mend_map);
		fake.bad_map = 700;
		is_sent();
		xen_fake_start(pv);
		fake.bad_map = 700;
		is_not_sent(-EFAULT, "frame 0x2bc of type 0x0: Invalid argument");
	}
}

/* ---- the p2m list: moves, is being changed, grows (B12, B13, B56) */

static void move_list(unsigned n)
{
	write_some(n);
	if (n == 1)
		xen_fake_p2m_generation(4);
}

static void change_list(void)
{
	xen_fake_p2m_generation(3);
}

static void grow_list(void)
{
	xen_fake_p2m_generation(4);
	xen_fake_p2m_count(FAKE_PAGES + 512);
}

static void test_p2m(void **state)
{
	(void)state;
	begin(true, move_list, NULL); /* found again, at the same place */
	is_sent();
	begin(true, NULL, change_list);
	is_not_sent(-EAGAIN, "in the middle of a change of its p2m list");
	begin(true, NULL, grow_list); /* what it says is not there */
	is_not_sent(-EINVAL, "p2m: leaf 2");
	xen_fake_start(true);
	xen_fake_p2m_count(0);
	is_not_sent(-E2BIG, "0 entries");
	xen_fake_start(true);
	fake.no_shadow = true;
	is_not_sent(-ENOTSUP, "CONFIG_SHADOW_PAGING");
}

/* ---- stopped from outside */

static void interrupt_it(unsigned n)
{
	write_some(n);
	if (n == 1)
		(void)kill(getpid(), SIGTERM);
}

static void test_signal(void **state)
{
	(void)state;
	for (int pv = 0; pv < 2; pv++) {
		begin(pv, interrupt_it, NULL);
		is_not_sent(-EINTR, "stopped by signal 15");
	}
}

static void send_to_nobody(int fd, int code, const char *text)
{
	struct xen_send_policy p = policy();
	struct rpl_err err = { 0 };
	struct xen_send_report report;
	struct xen_send *s;

	xen_fake_start(false);
	p.stall_ms = 100;
	s = xen_send_open(FAKE_NAME, &p, &err);
	assert_non_null(s);
	assert_int_equal(xen_send_stream(s, fd, &report, &err), code);
	assert_non_null(strstr(err.msg, text));
	xen_send_free(s);
	assert_false(fake.suspended);
	assert_false(fake.logging);
	xen_fake_end();
}

static void test_nobody_reads(void **state)
{
	int pipes[2];

	(void)state;
	assert_int_equal(pipe(pipes), 0);
	send_to_nobody(pipes[1], -ETIMEDOUT, "nobody took any for");
	(void)close(pipes[0]);
	send_to_nobody(pipes[1], -EPIPE, "write the stream at byte");
	(void)close(pipes[1]);
}

/* A pause that takes longer than it may: the guest waits for nobody. */
static void test_downtime(void **state)
{
	struct xen_send_policy p = policy();
	struct rpl_err err = { 0 };
	struct xen_send_report report;
	struct xen_send *s;
	int pipes[2], fd, r;

	(void)state;
	xen_fake_start(false);
	p.downtime_max_ms = 1000;
	fd = memfd_create("stream", MFD_CLOEXEC);
	assert_int_equal(pipe(pipes), 0);
	s = xen_send_open(FAKE_NAME, &p, &err);
	assert_non_null(s);
	r = xen_send_stream(s, fd, &report, &err); /* on a very busy machine it ends here */
	if (r == 0) {
		r = xen_send_await(s, pipes[0], 60000, &err); /* the far end does not say "ready" */
		assert_int_equal(xen_send_commit(s, &err), -ETIME);
		assert_int_equal(xen_send_resume(s, &err), 0);
	}
	assert_int_equal(r, -ETIME);
	assert_non_null(strstr(err.msg, "--max-downtime"));
	xen_send_free(s);
	assert_false(fake.suspended);
	(void)close(fd);
	(void)close(pipes[0]);
	(void)close(pipes[1]);
	xen_fake_end();
}

/* ---- one at a time, and after one that was killed */

static void test_one_at_a_time(void **state)
{
	const struct xen_send_policy p = policy();
	struct rpl_err err = { 0 };
	struct xen_send *s;
	(void)state;
	xen_fake_start(false);
	s = xen_send_open(FAKE_NAME, &p, &err);
	assert_non_null(s);
	assert_null(xen_send_open(FAKE_NAME, &p, &err));
	assert_non_null(strstr(err.msg, "protected, saved or migrated by replicad already"));
	xen_send_free(s);
	is_sent();
}

/* Stock's saves and migrations: kept out by the lock that they take, noticed by what they do. */
static void test_stock(void **state)
{
	static const char node[] = "/local/domain/5/device/suspend/event-channel";
	const struct xen_send_policy p = policy();
	struct rpl_err err = { 0 };
	struct xen_send_report report;
	struct xen_send *s;
	struct sent t;
	int fd;

	(void)state;
	for (int pv = 0; pv < 2; pv++) {
		xen_fake_start(pv);
		xen_fake_put_node(node, "");
		s = xen_send_open(FAKE_NAME, &p, &err);
		assert_non_null(s);
		assert_true(atoi(xen_fake_node(node)) > 0); /* where libxl looks before it takes the lock */
		xen_send_free(s);
		assert_string_equal(xen_fake_node(node), "");
		fake.locked = true;
		send_it(&t);
		check_failed(&t, -EBUSY, "xl save, xl migrate");
		fake.locked = false;
		fake.logging = true; /* one that began before us */
		send_it(&t);
		assert_int_equal(t.r, -EBUSY);
		assert_non_null(strstr(t.err.msg, "for another program"));
		assert_true(fake.logging);
		check_clean(&t);
		xen_fake_put_node(node, "7"); /* one of ours that was killed */
		is_sent();
		xen_fake_start(pv);
		fd = memfd_create("stream", MFD_CLOEXEC);
		s = xen_send_open(FAKE_NAME, &p, &err);
		assert_non_null(s);
		assert_int_equal(xen_send_stream(s, fd, &report, &err), 0);
		xen_fake_resume();
		assert_int_equal(xen_send_resume(s, &err), -EBUSY);
		assert_non_null(strstr(err.msg, "another program resumed"));
		assert_int_equal(called("setvcpucontext"), 0); /* it runs: its registers are its own */
		xen_send_free(s);
		(void)close(fd);
		xen_fake_end();
	}
}

/* Sent, and then resumed while every call of this name fails; NULL: none does. */
static void send_and_resume(bool pv, const char *fails)
{
	const struct xen_send_policy p = policy();
	struct rpl_err err = { 0 };
	struct xen_send_report report;
	struct xen_send *s;
	int fd = memfd_create("stream", MFD_CLOEXEC);

	xen_fake_start(pv);
	s = xen_send_open(FAKE_NAME, &p, &err);
	assert_non_null(s);
	assert_int_equal(xen_send_stream(s, fd, &report, &err), 0);
	assert_true(fake.suspended);
	fake.calls = 0;
	fake.fail_name = fails;
	assert_int_equal(xen_send_resume(s, &err), 0);
	assert_false(fake.suspended);
	fake.fail_name = NULL;
	xen_send_free(s);
	(void)close(fd);
}

/* By the few calls that a guest which suspended itself needs, and if one of them fails in Xen's own way. */
static void test_resume(void **state)
{
	static const char *const few[] = { "xc_domain_getinfolist", "getvcpucontext", "setvcpucontext", "resumedomain" };

	(void)state;
	for (int pv = 0; pv < 2; pv++) {
		send_and_resume(pv, NULL);
		for (size_t i = 0; i < sizeof(few) / sizeof(few[0]); i++)
			assert_int_equal(called(few[i]), 1);
		assert_int_equal(called("xc_domain_resume"), 0);
		xen_fake_end();
		for (size_t i = 0; i < sizeof(few) / sizeof(few[0]); i++) {
			send_and_resume(pv, few[i]);
			assert_int_equal(called("xc_domain_resume"), 1);
			xen_fake_end();
		}
	}
}

static void test_found_suspended(void **state)
{
	const struct xen_send_policy p = policy();
	struct rpl_err err = { 0 };
	struct xen_send_report report;
	struct xen_send *s;
	struct sent t;
	int fd;

	(void)state;
	xen_fake_start(false);
	fd = memfd_create("stream", MFD_CLOEXEC);
	s = xen_send_open(FAKE_NAME, &p, &err);
	assert_non_null(s);
	assert_int_equal(xen_send_stream(s, fd, &report, &err), 0);
	xen_send_free(s); /* as one that is killed: suspended it stays */
	assert_true(fake.suspended);
	send_it(&t);      /* known by its note */
	check_sent(&t);
	xen_fake_shutdown(2); /* somebody else's */
	send_it(&t);
	assert_int_equal(t.r, -EBUSY);
	assert_non_null(strstr(t.err.msg, "suspended already"));
	assert_true(fake.suspended);
	(void)close(t.fd);
	assert_int_equal(xen_send_wake(FAKE_NAME, &err), 0);
	assert_false(fake.suspended);
	assert_int_equal(xen_send_wake(FAKE_NAME, &err), -EALREADY);
	(void)close(fd);
	xen_fake_end();
}

static int start(void **state)
{
	(void)state;
	(void)signal(SIGPIPE, SIG_IGN);
	stage_xl(dir, xl_script);
	return 0;
}

static int finish(void **state)
{
	(void)state;
	return stage_xl_end(dir, FAKE_NAME);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sent),
		cmocka_unit_test(test_each_call_fails),
		cmocka_unit_test(test_words),
		cmocka_unit_test(test_suspend_refused),
		cmocka_unit_test(test_ends_instead),
		cmocka_unit_test(test_vanishes),
		cmocka_unit_test(test_types_change),
		cmocka_unit_test(test_balloons),
		cmocka_unit_test(test_deferred),
		cmocka_unit_test(test_map_fails),
		cmocka_unit_test(test_p2m),
		cmocka_unit_test(test_signal),
		cmocka_unit_test(test_nobody_reads),
		cmocka_unit_test(test_downtime),
		cmocka_unit_test(test_one_at_a_time),
		cmocka_unit_test(test_stock),
		cmocka_unit_test(test_resume),
		cmocka_unit_test(test_found_suspended),
	};

	return cmocka_run_group_tests(tests, start, finish);
}
