/* The backup's half of the Xen backend, against a stand-in for xl: what is checked before a primary may rely on it, the
 * layout that the primary brings, and that the stream of an activation holds exactly the replica. */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
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
#include <ev.h>

#include <replicad/auto.h>
#include <replicad/guest.h>
#include <replicad/io.h>
#include <replicad/stream.h>
#include <replicad/stream_check.h>
#include <replicad/xen.h>

#include "../../src/guest/xen_helper.h"
#include "../../src/guest/xen_standby.h"
#include "../lib/stream_make.h"
#include "xen_stage.h"

#define BLOB_MAX (8u << 20)

/* ---- a backend that is nothing but a standby */

static unsigned activations;

static int init(struct rpl_guest *g, struct rpl_err *err)
{
	g->priv = xen_standby_new(g, err);
	return g->priv ? 0 : err->code;
}

static int standby(struct rpl_guest *g, struct rpl_err *err)
{
	return xen_standby_start(g->priv, err);
}

static int fit(struct rpl_guest *g, const char *primary, struct rpl_err *err)
{
	return xen_standby_fit(g->priv, primary, err);
}

static int memory(struct rpl_guest *g, struct rpl_memory_desc *ret, int *fds, size_t *ret_n, struct rpl_err *err)
{
	return xen_standby_memory(g->priv, ret, fds, ret_n, err);
}

static void activated(struct rpl_guest *g, int r, const struct rpl_err *err)
{
	activations++;
	rpl_guest_op_done(g, r, err);
}

static int activate(struct rpl_guest *g, int state_fd, size_t len, struct rpl_err *err)
{
	return xen_standby_activate(g->priv, state_fd, len, activated, err);
}

static int prepare(struct rpl_guest *g, int state_fd, size_t len, struct rpl_err *err)
{
	return xen_standby_prepare(g->priv, state_fd, len, err);
}

static void unprepare(struct rpl_guest *g)
{
	xen_standby_unprepare(g->priv);
}

static void abandon(struct rpl_guest *g)
{
	xen_standby_abandon(g->priv);
}

static void fini(struct rpl_guest *g, bool keep)
{
	(void)keep;
	xen_standby_free(g->priv);
}

const struct rpl_guest_ops rpl_guest_xen = { .name = "xen", .init = init, .standby = standby, .fit = fit, .memory = memory,
					     .activate = activate, .prepare = prepare, .unprepare = unprepare,
					     .abandon = abandon, .fini = fini,
					     .standby_ms = XEN_STANDBY_TIMEOUT_MS };

/* ---- the stage */

static char dir[] = "/tmp/xen-standby-XXXXXX";
static struct stage_fake_xl stage;

static const char conf_text[] = "name = \"web1\"\nuuid = \"7c3a7a3e-0000-4000-8000-000000000001\"\n";
static const char create_json[] =
	"Parsing config\n{ \"c_info\": { \"type\": \"pvh\", \"name\": \"web1\", \"uuid\": \"7c3a7a3e-0000-4000-8000-000000000001\" },"
	" \"b_info\": { \"max_vcpus\": 2, \"max_memkb\": 8192 },"
	" \"nics\": [ { \"devid\": 0, \"mac\": \"00:16:3e:00:00:01\" }, { \"mac\": \"00:16:3e:00:00:02\" } ] }\n";
static const char primary_text[] = "backend=xen\ndomain=pvh\nlayout=0x10+0x30,0x100+0x8\nmac.0=00:16:3e:00:00:01\n"
				   "mac.1=00:16:3e:00:00:02\nrings=0x101,0x104\nvcpus=2\nxen=4.17";
static const char pv_json[] =
	"{ \"c_info\": { \"type\": \"pv\", \"name\": \"web1\", \"uuid\": \"7c3a7a3e-0000-4000-8000-000000000001\" },"
	" \"b_info\": { \"max_vcpus\": 2, \"max_memkb\": 8192 } }\n";
static const char hvm_json[] =
	"{ \"c_info\": { \"type\": \"hvm\", \"name\": \"web1\", \"uuid\": \"7c3a7a3e-0000-4000-8000-000000000001\" },"
	" \"b_info\": { \"max_vcpus\": 2, \"max_memkb\": 8192 } }\n";
static const char pv_primary[] = "backend=xen\ndomain=pv\nlayout=0x0+0x38\nrings=0x11,0x14\nvcpus=2\nxen=4.17";
/* It has a disk, which must not be opened while it waits. */
static const char disk_json[] =
	"{ \"c_info\": { \"type\": \"pvh\", \"name\": \"web1\", \"uuid\": \"7c3a7a3e-0000-4000-8000-000000000001\" },"
	" \"b_info\": { \"max_vcpus\": 2, \"max_memkb\": 8192 }, \"disks\": [ { \"vdev\": \"xvda\" } ],"
	" \"nics\": [ { \"devid\": 0, \"mac\": \"00:16:3e:00:00:01\" }, { \"mac\": \"00:16:3e:00:00:02\" } ] }\n";

static int stage_up(void **state)
{
	(void)state;
	stage_fake_xl(dir, conf_text, create_json, &stage);
	return 0;
}

static int stage_down(void **state)
{
	(void)state;
	return stage_fake_xl_end(dir);
}

struct seen {
	struct rpl_guest *g;
	enum rpl_guest_op op;
	int r;
	unsigned done;
	struct rpl_err err;
};

static void on_done(void *arg, enum rpl_guest_op op, int r, const struct rpl_err *err)
{
	struct seen *s = arg;

	s->op = op;
	s->r = r;
	s->done++;
	s->err = err ? *err : (struct rpl_err){ 0 };
}

static struct {
	bool expected, seen;
	char msg[256];
} lost;

static unsigned layouts;

static void on_event(void *arg, enum rpl_guest_event event, const char *msg)
{
	(void)arg;
	if (event == RPL_GUEST_LAID_OUT) {
		layouts++;
		return;
	}
	if (!lost.expected || event != RPL_GUEST_LOST)
		fail_msg("event %d: %s", (int)event, msg);
	lost.seen = true;
	(void)snprintf(lost.msg, sizeof(lost.msg), "%s", msg);
}

static const char *replica; /* what the next guest is configured with */

static void make(struct seen *s)
{
	struct rpl_guest_conf c = { .backend = "xen", .name = "web1", .standby_path = stage.conf, .helper_path = stage.helper, .replica = replica };
	struct rpl_err err = { 0 };

	*s = (struct seen){ .done = 0 };
	s->g = rpl_guest_new(&c, EV_DEFAULT, on_done, on_event, s, &err);
	if (!s->g)
		fail_msg("%s", err.msg);
}

static int wait_done(struct seen *s)
{
	for (unsigned before = s->done; s->done == before;)
		ev_run(EV_DEFAULT, EVRUN_ONCE);
	return s->r;
}

/* What has begun succeeds. */
static void ends_well(struct seen *s)
{
	if (wait_done(s) < 0)
		fail_msg("%s", s->err.msg);
}

/* It fails, for this reason. */
static void ends_failed(struct seen *s, const char *text)
{
	assert_int_not_equal(wait_done(s), 0);
	if (!strstr(s->err.msg, text))
		fail_msg("'%s' expected, not: %s", text, s->err.msg);
	rpl_guest_free(s->g);
}

static void refused(const char *text)
{
	struct seen s;

	make(&s);
	rpl_guest_standby(s.g);
	ends_failed(&s, text);
}

static void started(struct seen *s)
{
	make(s);
	rpl_guest_standby(s->g);
	ends_well(s);
}

/* ---- before a primary may rely on it */

static void test_refusals(void **state)
{
	(void)state;
	stage_file(stage.conf, "name = \"web1\"\n");
	refused("no uuid=");
	stage_file(stage.conf, conf_text);
	(void)setenv("FAKE_XL_FAIL", "create", 1);
	refused("told to fail: create");
	(void)unsetenv("FAKE_XL_FAIL");
	(void)setenv("FAKE_XL_FREE", "39", 1);
	refused("web1 needs 40 MiB when it is activated, Xen has 39 MiB free");
	(void)unsetenv("FAKE_XL_FREE");
	stage_create(&stage, "nothing");
	refused("no JSON");
	stage_create(&stage, "{\"c_info\": {\"name\": \"web2\", \"uuid\": \"7c3a7a3e-0000-4000-8000-000000000001\", \"type\": \"pv\"},"
		   " \"b_info\": {\"max_memkb\": 1024}}");
	refused("the names must be equal");
	stage_create(&stage, "{\"c_info\": {\"name\": \"17\", \"uuid\": \"x\", \"type\": \"pv\"}, \"b_info\": {\"max_memkb\": 1}}");
	refused("is none to use");
	stage_create(&stage, "{\"c_info\": {\"name\": \"web1\", \"uuid\": \"x\", \"type\": \"pv\"}, \"b_info\": {\"max_memkb\": 1},"
		   " \"pcidevs\": [{}]}");
	refused("passed through");
	stage_create(&stage, "{\"c_info\": {\"name\": \"web1\", \"uuid\": \"x\", \"type\": \"pv\"}, \"b_info\": {\"max_memkb\": 99999999999}}");
	refused("MiB free");
	stage_create(&stage, create_json);
}

static void test_name_in_use(void **state)
{
	char path[120];

	(void)state;
	(void)snprintf(path, sizeof(path), "%s/domain.7", stage.domains);
	stage_file(path, "{\"name\": \"web1\", \"paused\": false}");
	refused("a domain called web1 (7) is on this host");
	assert_int_equal(unlink(path), 0);
}

static void test_fit(void **state)
{
	static const struct {
		const char *primary, *text;
	} bad[] = {
		{ "backend=xen\n", "layout" },
		{ "backend=xen\ndomain=pvh\nlayout=0x10-0x30\n", "layout" },
		{ "backend=xen\ndomain=pv\nlayout=0x10+0x30\n", "domain: primary pv, standby pvh" },
		{ "backend=xen\ndomain=pvh\nlayout=0x10+0x30\nmac.0=00:16:3e:00:00:01\nvcpus=2\nxen=4.17\n", "mac.1" },
		{ "backend=xen\ndomain=pvh\nlayout=0x10+0x30\nmac.0=00:16:3e:00:00:01\nmac.1=00:16:3e:00:00:02\nvcpus=3\nxen=4.17\n",
		  "vcpus: primary 3, standby 2" },
	};
	int fds[RPL_MEMORY_FDS_MAX];
	struct rpl_memory_desc desc;
	struct rpl_err err = { 0 };
	struct seen s;
	size_t n;

	(void)state;
	started(&s);
	assert_string_equal(rpl_guest_info(s.g)->machine, "pvh");
	assert_string_equal(rpl_guest_info(s.g)->producer, "Xen 4.17");
	assert_int_equal(rpl_guest_info(s.g)->uuid.b[0], 0x7c);
	assert_int_equal(rpl_guest_memory(s.g, &desc, fds, &n, &err), 0);
	assert_int_equal(desc.provisional, 1);
	(void)close(fds[0]);
	for (size_t i = 0; i < RPL_ARRAY_LEN(bad); i++) {
		assert_true(rpl_guest_fit(s.g, bad[i].primary, &err) < 0);
		if (!strstr(err.msg, bad[i].text))
			fail_msg("'%s' expected, not: %s", bad[i].text, err.msg);
	}
	if (rpl_guest_fit(s.g, primary_text, &err) != 1)
		fail_msg("%s", err.msg);
	assert_int_equal(rpl_guest_fit(s.g, primary_text, &err), 0);
	assert_string_equal(rpl_guest_info(s.g)->definition, primary_text);
	assert_int_equal(rpl_guest_memory(s.g, &desc, fds, &n, &err), 0);
	assert_int_equal(desc.provisional, 0);
	assert_int_equal(desc.layout.pages, 0x38 + 1);
	(void)close(fds[0]);
	rpl_guest_free(s.g);
}

/* ---- activation */

/* A made-up PVH stream without its PAGE_DATA: a device state. */
static int make_state(int *ret_fd, bool whole)
{
	static uint8_t made[BLOB_MAX];
	static uint64_t descs[1024];
	struct make_plan plan = { .guest = MAKE_PVH, .format = RPL_FORMAT_LIBXL, .version = RPL_IMAGE_V3, .records = 2, .pages = 3,
				  .vcpus = 2, .seed = 3 };
	struct make_result res = make_stream(&plan, made, sizeof(made));
	struct rpl_stream_in in = { made, res.len };
	static struct rpl_stream_reader reader;
	struct rpl_stream_event ev;
	size_t from = 0, len = 0;
	struct rpl_err err = { 0 };

	*ret_fd = memfd_create("state", MFD_CLOEXEC);
	rpl_stream_reader_init(&reader, RPL_FORMAT_LIBXL, descs, RPL_ARRAY_LEN(descs));
	while (rpl_stream_next(&reader, &in, &ev, &err) > 0) {
		bool pages = ev.rec.layer == RPL_LAYER_LIBXC && ev.rec.type == RPL_LIBXC_PAGE_DATA;

		if (ev.kind == RPL_EV_RECORD && pages && !whole) {
			assert_int_equal(rpl_write_full(*ret_fd, made + from, ev.rec.offset - from), 0);
			len += ev.rec.offset - from;
		}
		if (ev.kind == RPL_EV_RECORD_END && pages && !whole)
			from = (size_t)(in.p - made);
	}
	assert_int_equal(rpl_stream_ending(&reader), RPL_ENDING_COMPLETE);
	assert_int_equal(rpl_write_full(*ret_fd, made + from, res.len - from), 0);
	return (int)(len + res.len - from);
}

static uint8_t type_at(uint64_t file_page)
{
	return file_page == 5 ? RPL_PAGE_XTAB : file_page == 9 ? RPL_PAGE_BROKEN : RPL_PAGE_NOTAB;
}

static void fill_page(uint8_t *page, uint64_t pfn)
{
	memset(page, (int)(pfn * 7 + 1), RPL_PAGE_SIZE);
	memcpy(page, &pfn, sizeof(pfn));
}

static void fill_replica(struct rpl_guest *g)
{
	uint8_t page[RPL_PAGE_SIZE], types[RPL_PAGE_SIZE] = { 0 };
	const void *one = page;
	int fds[RPL_MEMORY_FDS_MAX];
	struct rpl_memory_desc desc;
	struct rpl_err err = { 0 };
	struct rpl_memory *m;
	uint64_t pfn;
	size_t n;

	assert_int_equal(rpl_guest_memory(g, &desc, fds, &n, &err), 0);
	m = rpl_memory_new(&desc, fds, n, &err);
	assert_non_null(m);
	for (uint64_t p = 0; p < rpl_xen_guest_pages(&desc.layout); p++) {
		types[p] = type_at(p);
		assert_true(rpl_layout_pfn(&desc.layout, p, &pfn));
		fill_page(page, pfn);
		if (p % 8 != 3) /* some were never touched: zeroes, but sent */
			assert_int_equal(rpl_memory_copy_in(m, &pfn, &one, 1, &err), 0);
	}
	one = types;
	pfn = rpl_xen_types_pfn(&desc.layout);
	assert_int_equal(rpl_memory_copy_in(m, &pfn, &one, 1, &err), 0);
	rpl_memory_free(m);
}

/* It waits, and all of the replica has come. */
static void filled(struct seen *s)
{
	struct rpl_err err = { 0 };

	started(s);
	assert_int_equal(rpl_guest_fit(s->g, primary_text, &err), 1);
	fill_replica(s->g);
}

static void no_finding(void *ctx, const struct rpl_stream_finding *f)
{
	(void)ctx;
	if (f->severity != RPL_SEV_WARNING)
		fail_msg("byte %" PRIu64 ": %s", f->offset, f->text);
}

/* What reached xl: each frame of the layout but the absent one, with its page. */
static void check_stream(const char *path, const struct rpl_ram_layout *l)
{
	static uint64_t descs[1024];
	static struct rpl_stream_reader reader;
	static struct rpl_stream_check check;
	uint8_t want[RPL_PAGE_SIZE];
	RPL_AUTO_FREE char *text = NULL;
	struct rpl_stream_event ev;
	struct rpl_err err = { 0 };
	struct rpl_stream_in in;
	uint64_t frames = 0, at = 0;
	size_t len;

	assert_int_equal(rpl_read_file(path, BLOB_MAX, &text, &len, &err), 0);
	in = (struct rpl_stream_in){ (const uint8_t *)text, len };
	rpl_stream_reader_init(&reader, RPL_FORMAT_LIBXL, descs, RPL_ARRAY_LEN(descs));
	rpl_stream_check_init(&check, no_finding, NULL);
	while (rpl_stream_next(&reader, &in, &ev, &err) > 0) {
		rpl_stream_check(&check, &ev);
		if (ev.kind == RPL_EV_PFNS)
			frames += ev.pfns.count;
		for (size_t i = 0; ev.kind == RPL_EV_PAGES && i < ev.len; i += RPL_PAGE_SIZE, at++) {
			uint64_t p = at, pfn;

			p += p >= 5; /* absent */
			p += p >= 9; /* broken: a frame without a page */
			assert_true(rpl_layout_pfn(l, p, &pfn));
			memset(want, 0, sizeof(want));
			if (p % 8 != 3)
				fill_page(want, pfn);
			assert_memory_equal(ev.bytes + i, want, RPL_PAGE_SIZE);
		}
	}
	rpl_stream_check_end(&check, &reader, false);
	assert_int_equal(rpl_stream_ending(&reader), RPL_ENDING_COMPLETE);
	assert_int_equal(frames, 0x38 - 1);
	assert_int_equal(at, 0x38 - 2);
}

/* The standby ends; the domain lives on. */
static void leave_domain(struct seen *s)
{
	char path[120];

	rpl_guest_free(s->g);
	(void)snprintf(path, sizeof(path), "%s/domain.1", stage.domains);
	assert_int_equal(unlink(path), 0);
}

static void test_activate(void **state)
{
	RPL_AUTO_FD int fd = -1;
	char path[120];
	struct seen s;
	int len = make_state(&fd, false);

	(void)state;
	filled(&s);
	rpl_guest_activate(s.g, fd, (size_t)len);
	ends_well(&s);
	assert_int_equal(activations, 1);
	(void)snprintf(path, sizeof(path), "%s/stream.1", stage.domains);
	check_stream(path, &rpl_guest_info(s.g)->layout);
	leave_domain(&s);
}

static void fails(int fd, size_t len, bool fitted, const char *text)
{
	struct seen s;

	if (fitted)
		filled(&s);
	else
		started(&s);
	rpl_guest_activate(s.g, fd, len);
	ends_failed(&s, text);
}

static void test_activation_fails(void **state)
{
	RPL_AUTO_FD int fd = -1, with_pages = -1;
	int len = make_state(&fd, false), whole = make_state(&with_pages, true);

	(void)state;
	fails(fd, (size_t)len, false, "no primary ever filled");
	fails(fd, (size_t)len - 8, true, "no complete plain stream");
	fails(with_pages, (size_t)whole, true, "memory in it");
	(void)setenv("FAKE_XL_FAIL", "restore-late", 1);
	fails(fd, (size_t)len, true, "out of patience");
	(void)setenv("FAKE_XL_FAIL", "restore", 1);
	fails(fd, (size_t)len, true, "told to fail: restore");
	(void)unsetenv("FAKE_XL_FAIL");
}

/* Xen's memory went to others while the guest was only a copy here: that is the reason, whatever xl makes of it. And again, with room. */
static void test_no_room_any_more(void **state)
{
	RPL_AUTO_FD int fd = -1;
	struct seen s;
	int len = make_state(&fd, false);

	(void)state;
	filled(&s);
	(void)setenv("FAKE_XL_FREE", "31", 1);
	(void)setenv("FAKE_XL_FAIL", "restore-late", 1);
	rpl_guest_activate(s.g, fd, (size_t)len);
	assert_int_not_equal(wait_done(&s), 0);
	if (!strstr(s.err.msg, "web1 needs 33 MiB when it is activated, Xen has 31 MiB free") || !strstr(s.err.msg, "xl restore: exit status 1"))
		fail_msg("%s", s.err.msg);
	(void)unsetenv("FAKE_XL_FAIL");
	(void)unsetenv("FAKE_XL_FREE");
	rpl_guest_activate(s.g, fd, (size_t)len);
	ends_well(&s);
	leave_domain(&s);
}

/* ---- a domain that is begun before the takeover */

#define PATIENCE_MS 30000

static char *said_of(unsigned domid)
{
	static char path[120];

	(void)snprintf(path, sizeof(path), "%s/domain.%u", stage.domains, domid);
	return path;
}

/* Until xl has made the domain, or has none any more. */
static void wait_domain(unsigned domid, bool there)
{
	for (unsigned i = 0; (access(said_of(domid), F_OK) == 0) != there; i++) {
		if (i == PATIENCE_MS)
			fail_msg("%s is %sthere after %d s", said_of(domid), there ? "not " : "", PATIENCE_MS / 1000);
		(void)ev_run(EV_DEFAULT, EVRUN_NOWAIT);
		(void)usleep(1000);
	}
}

static bool is_paused(unsigned domid)
{
	RPL_AUTO_FREE char *text = NULL;

	assert_int_equal(rpl_read_file(said_of(domid), 1000, &text, NULL, NULL), 0);
	return strstr(text, "\"paused\": true");
}

static void prepared(struct seen *s, int fd, int len)
{
	struct rpl_err err = { 0 };

	filled(s);
	if (rpl_guest_prepare(s->g, fd, (size_t)len, &err) < 0)
		fail_msg("%s", err.msg);
	assert_string_equal(rpl_guest_info(s->g)->ahead, "yes");
	wait_domain(1, true);
	assert_true(is_paused(1));
}

static void runs(struct seen *s, unsigned domid)
{
	char path[120];

	ends_well(s);
	(void)snprintf(path, sizeof(path), "%s/stream.%u", stage.domains, domid);
	check_stream(path, &rpl_guest_info(s->g)->layout);
	assert_false(is_paused(domid));
	rpl_guest_free(s->g);
	assert_int_equal(unlink(said_of(domid)), 0);
}

/* The same state: what was begun is ended. One domain, with all of the stream, and not before. */
static void test_ahead(void **state)
{
	RPL_AUTO_FD int fd = -1, same = -1;
	struct seen s;
	int len = make_state(&fd, false);

	(void)state;
	(void)make_state(&same, false);
	prepared(&s, fd, len);
	(void)usleep(100000);
	assert_true(is_paused(1));
	rpl_guest_activate(s.g, same, (size_t)len);
	runs(&s, 1);
}

/* Called off; then once more. */
static void test_ahead_called_off(void **state)
{
	RPL_AUTO_FD int fd = -1;
	struct rpl_err err = { 0 };
	struct seen s;
	int len = make_state(&fd, false), r;

	(void)state;
	prepared(&s, fd, len);
	assert_int_equal(rpl_guest_prepare(s.g, fd, (size_t)len, &err), -EBUSY);
	rpl_guest_unprepare(s.g);
	assert_string_equal(rpl_guest_info(s.g)->ahead, "");
	wait_domain(1, false);
	while ((r = rpl_guest_prepare(s.g, fd, (size_t)len, &err)) == -EBUSY)
		(void)ev_run(EV_DEFAULT, EVRUN_ONCE);
	assert_int_equal(r, 0);
	wait_domain(1, true);
	rpl_guest_activate(s.g, fd, (size_t)len);
	runs(&s, 1);
}

/* Another state, or called off a moment before: the first domain has to be gone before the second is made. */
static void test_ahead_of_another(void **state)
{
	RPL_AUTO_FD int fd = -1, other = -1;
	uint8_t changed = 0x5a;
	struct seen s;
	int len = make_state(&fd, false);

	(void)state;
	(void)make_state(&other, false);
	assert_int_equal(pwrite(other, &changed, 1, len - 100), 1);
	for (unsigned called_off = 0; called_off < 2; called_off++) {
		prepared(&s, other, len);
		if (called_off)
			rpl_guest_unprepare(s.g);
		rpl_guest_activate(s.g, fd, (size_t)len);
		runs(&s, 1);
	}
}

/* It cannot be begun: the takeover does without. */
static void test_ahead_fails(void **state)
{
	RPL_AUTO_FD int fd = -1;
	struct rpl_err err = { 0 };
	struct seen s;
	int len = make_state(&fd, false);

	(void)state;
	filled(&s);
	(void)setenv("FAKE_XL_FAIL", "restore", 1);
	assert_int_equal(rpl_guest_prepare(s.g, fd, (size_t)len, &err), 0);
	while (strcmp(rpl_guest_info(s.g)->ahead, "yes") == 0)
		(void)ev_run(EV_DEFAULT, EVRUN_ONCE);
	if (!strstr(rpl_guest_info(s.g)->ahead, "no: web1: xl restore: exit status 1: libxl: error: told to fail: restore"))
		fail_msg("%s", rpl_guest_info(s.g)->ahead);
	(void)unsetenv("FAKE_XL_FAIL");
	rpl_guest_activate(s.g, fd, (size_t)len);
	runs(&s, 1);
	/* it fails when it is told to go on: begun anew once, then it is over */
	(void)setenv("FAKE_XL_FAIL", "restore-late", 1);
	prepared(&s, fd, len);
	rpl_guest_activate(s.g, fd, (size_t)len);
	ends_failed(&s, "out of patience");
	(void)unsetenv("FAKE_XL_FAIL");
	wait_domain(1, false);
}

/* The keeper ends, or is killed: nobody can say GO any more. */
static void test_ahead_alone(void **state)
{
	RPL_AUTO_FD int fd = -1;
	struct seen s;
	int len = make_state(&fd, false);

	(void)state;
	prepared(&s, fd, len);
	rpl_guest_free(s.g);
	wait_domain(1, false);
}

/* ---- a replica that is a domain */

static bool no_helper(void)
{
	const char *build = getenv("top_builddir");
	char path[512];

	(void)snprintf(path, sizeof(path), "%s/" XEN_HELPER_PROGRAM, build ? build : ".");
	if (access(path, X_OK) == 0)
		return false;
	print_message("this build has no " XEN_HELPER_PROGRAM "\n");
	return true;
}

static void laid_out(struct seen *s, const char *primary, struct rpl_memory_desc *desc)
{
	int fds[RPL_MEMORY_FDS_MAX];
	struct rpl_err err = { 0 };
	size_t n;

	assert_int_equal(rpl_guest_memory(s->g, desc, fds, &n, &err), 0);
	assert_int_equal(desc->provisional, 1); /* no primary has said what its memory is like */
	(void)close(fds[0]);
	if (rpl_guest_fit(s->g, primary, &err) != 1)
		fail_msg("%s", err.msg);
	assert_int_equal(rpl_guest_memory(s->g, desc, fds, &n, &err), -EAGAIN);
	for (layouts = 0; !layouts;)
		ev_run(EV_DEFAULT, EVRUN_ONCE);
	if (rpl_guest_memory(s->g, desc, fds, &n, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(n, 2);
	(void)close(fds[0]);
	(void)close(fds[1]);
}

/* Whether its devices come at the takeover or before. */
static void becomes_guest(const char *kind, const char *json, const char *primary, bool pv)
{
	RPL_AUTO_FREE char *told = NULL, *given = NULL;
	RPL_AUTO_FD int fd = -1;
	unsigned before = activations;
	int len = make_state(&fd, false);
	struct rpl_memory_desc desc;
	struct rpl_err err = { 0 };
	char path[120];
	struct seen s;
	size_t n;

	stage_create(&stage, json);
	replica = kind;
	started(&s);
	assert_string_equal(rpl_guest_info(s.g)->replica, "domain");
	laid_out(&s, primary, &desc);
	assert_int_equal(desc.kind, RPL_MEMORY_DOMAIN);
	assert_int_equal(desc.xen_pv, pv);
	assert_int_equal(desc.layout.pages, 0x38 + 1);
	(void)snprintf(path, sizeof(path), "%s/layout", stage.domains);
	assert_int_equal(rpl_read_file(path, BLOB_MAX, &told, &n, &err), 0);
	assert_int_equal(n, sizeof(desc.layout));
	assert_memory_equal(told, &desc.layout, n);
	rpl_guest_activate(s.g, fd, (size_t)len);
	ends_well(&s);
	assert_int_equal(activations, before + 1);
	(void)snprintf(path, sizeof(path), "%s/state", stage.domains);
	assert_int_equal(rpl_read_file(path, BLOB_MAX, &given, &n, &err), 0);
	assert_int_equal(n, len);
	leave_domain(&s);
	stage_create(&stage, create_json);
	replica = NULL;
}

static void test_domain(void **state)
{
	(void)state;
	if (no_helper())
		skip();
	becomes_guest("domain", disk_json, primary_text, false);
	becomes_guest("auto", create_json, primary_text, false);
	becomes_guest("auto", pv_json, pv_primary, true);
}

/* The domain, while this keeper is busy with something else. */
static void gone(void)
{
	for (unsigned i = 0; access(said_of(1), F_OK) == 0; i++) {
		if (i == PATIENCE_MS)
			fail_msg("%s is still there", said_of(1));
		(void)usleep(1000);
	}
}

/* Nobody but its helper is left to take it away: a keeper that ends, and a helper that dies. */
static void test_attached_domain_goes(void **state)
{
	RPL_AUTO_FD int fd = -1;
	int len = make_state(&fd, false);
	struct rpl_memory_desc desc;
	struct rpl_err err = { 0 };
	struct seen s;

	(void)state;
	if (no_helper())
		skip();
	replica = "domain";
	started(&s);
	if (rpl_guest_fit(s.g, "backend=xen\ndomain=pvh\nlayout=0x10+0x30\nmac.0=00:16:3e:00:00:01\nmac.1=00:16:3e:00:00:02\n"
			  "rings=0x11,0x40\nvcpus=2\nxen=4.17", &err) != -EINVAL || !strstr(err.msg, "frame 0x40 is not in"))
		fail_msg("%s", err.msg);
	laid_out(&s, primary_text, &desc);
	rpl_guest_free(s.g);
	gone();
	(void)setenv("FAKE_XL_HELPER", "die", 1);
	started(&s);
	laid_out(&s, primary_text, &desc);
	rpl_guest_activate(s.g, fd, (size_t)len);
	ends_failed(&s, "has ended");
	gone();
	(void)unsetenv("FAKE_XL_HELPER");
	replica = NULL;
}

static void holds_memfd(void)
{
	struct seen s;

	started(&s);
	assert_string_equal(rpl_guest_info(s.g)->replica, "memfd");
	rpl_guest_free(s.g);
}

static void test_domain_not_possible(void **state)
{
	(void)state;
	if (no_helper())
		skip();
	(void)setenv("FAKE_XL_HELPER", "refuse", 1);
	replica = "domain";
	refused("the replica cannot be a domain: " XEN_HELPER_PROGRAM ": told to refuse");
	replica = "auto";
	holds_memfd();
	(void)unsetenv("FAKE_XL_HELPER");
	(void)setenv("FAKE_XL_FAIL", "restore", 1);
	holds_memfd();
	replica = "domain";
	refused("told to fail: restore");
	(void)unsetenv("FAKE_XL_FAIL");
	stage_create(&stage, hvm_json);
	refused("device model begins with its state");
	replica = "auto";
	holds_memfd();
	stage_create(&stage, disk_json); /* it could be, and would not help */
	holds_memfd();
	stage_create(&stage, create_json);
	replica = NULL;
}

static void test_domain_is_lost(void **state)
{
	int fds[RPL_MEMORY_FDS_MAX];
	struct rpl_memory_desc desc;
	struct rpl_err err = { 0 };
	struct seen s;
	size_t n;

	(void)state;
	if (no_helper())
		skip();
	(void)setenv("FAKE_XL_HELPER", "leave", 1);
	replica = "domain";
	started(&s);
	assert_int_equal(rpl_guest_fit(s.g, primary_text, &err), 1);
	lost.expected = true;
	assert_int_equal(rpl_guest_memory(s.g, &desc, fds, &n, &err), -EAGAIN);
	while (!lost.seen)
		ev_run(EV_DEFAULT, EVRUN_ONCE);
	if (!strstr(lost.msg, "told to leave"))
		fail_msg("%s", lost.msg);
	lost.expected = lost.seen = false;
	rpl_guest_free(s.g);
	(void)unsetenv("FAKE_XL_HELPER");
	replica = NULL;
}

/* It fails while it waits, and the loss has its reason. `busy`: it is gone before this keeper looks, and is told the layout all the same. */
static void is_lost(const char *how, bool busy)
{
	int fds[RPL_MEMORY_FDS_MAX];
	struct rpl_memory_desc desc;
	struct rpl_err err = { 0 };
	struct seen s;
	size_t n;

	(void)setenv("FAKE_XL_HELPER", how, 1);
	replica = "domain";
	started(&s);
	if (busy)
		gone();
	assert_int_equal(rpl_guest_fit(s.g, primary_text, &err), 1);
	lost.expected = true;
	layouts = 0;
	assert_int_equal(rpl_guest_memory(s.g, &desc, fds, &n, &err), -EAGAIN);
	while (!lost.seen && !layouts)
		ev_run(EV_DEFAULT, EVRUN_ONCE);
	if (!lost.seen || !strstr(lost.msg, "told to fail"))
		fail_msg("%s: %s", how, lost.seen ? lost.msg : "a domain that is gone has memory");
	lost.expected = lost.seen = false;
	rpl_guest_free(s.g);
	(void)unsetenv("FAKE_XL_HELPER");
	replica = NULL;
}

static void test_reason_of_the_helper(void **state)
{
	RPL_AUTO_FD int fd = -1;
	int len = make_state(&fd, false);
	struct rpl_memory_desc desc;
	char path[120];
	struct seen s;

	(void)state;
	if (no_helper())
		skip();
	is_lost("fail", true);
	is_lost("fail-alone", false);
	/* at the takeover, of one that had all it needed */
	(void)setenv("FAKE_XL_HELPER", "fail-later", 1);
	replica = "domain";
	started(&s);
	laid_out(&s, primary_text, &desc);
	(void)snprintf(path, sizeof(path), "%s/fail", stage.domains);
	stage_file(path, "");
	gone();
	rpl_guest_activate(s.g, fd, (size_t)len);
	ends_failed(&s, "told to fail");
	assert_int_equal(unlink(path), 0);
	(void)unsetenv("FAKE_XL_HELPER");
	replica = NULL;
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_refusals), cmocka_unit_test(test_name_in_use), cmocka_unit_test(test_fit),
		cmocka_unit_test(test_activate), cmocka_unit_test(test_activation_fails), cmocka_unit_test(test_no_room_any_more),
		cmocka_unit_test(test_ahead),    cmocka_unit_test(test_ahead_called_off),
		cmocka_unit_test(test_ahead_of_another), cmocka_unit_test(test_ahead_fails),
		cmocka_unit_test(test_ahead_alone),
		cmocka_unit_test(test_domain),   cmocka_unit_test(test_domain_not_possible),
		cmocka_unit_test(test_domain_is_lost), cmocka_unit_test(test_attached_domain_goes),
		cmocka_unit_test(test_reason_of_the_helper),
	};

	return cmocka_run_group_tests(tests, stage_up, stage_down);
}
