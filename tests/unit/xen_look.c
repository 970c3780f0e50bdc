/* A Xen guest that is not what was inspected any more, against a stand-in for Xen's libraries: that is told, no checkpoint is taken of it,
 * and a look finds what it is now.
 */
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
#include <ev.h>

#include <xen/sched.h>

#include <replicad/guest.h>

#include "xen_fake.h"
#include "xen_stage.h"

#define VIF "/libxl/5/device/vif/1"
#define BACKEND "/local/domain/0/backend/vif/5/1"

static char dir[] = "/tmp/xen-look-XXXXXX";

struct seen {
	struct rpl_guest *guest;
	bool waiting;
	int result;
	struct rpl_err err;
	unsigned changes, ends;
};

static void on_done(void *arg, enum rpl_guest_op op, int r, const struct rpl_err *err)
{
	struct seen *s = arg;

	(void)op;
	s->waiting = false;
	s->result = r;
	if (r < 0)
		s->err = *err;
	ev_break(EV_DEFAULT, EVBREAK_ONE);
}

static void on_event(void *arg, enum rpl_guest_event event, const char *msg)
{
	struct seen *s = arg;

	(void)msg;
	if (event == RPL_GUEST_CHANGED)
		s->changes++;
	else
		s->ends++;
}

static int perform(struct seen *s, void (*op)(struct rpl_guest *))
{
	s->waiting = true;
	op(s->guest);
	while (s->waiting)
		(void)ev_run(EV_DEFAULT, 0);
	return s->result;
}

static void succeed(struct seen *s, void (*op)(struct rpl_guest *))
{
	if (perform(s, op) < 0)
		fail_msg("%s", s->err.msg);
}

/* A session begins. */
static void follow(struct seen *s)
{
	int fds[RPL_MEMORY_FDS_MAX];
	struct rpl_memory_desc desc;
	struct rpl_err err;
	size_t n = 0;

	if (rpl_guest_memory(s->guest, &desc, fds, &n, &err) < 0)
		fail_msg("%s", err.msg);
	while (n)
		(void)close(fds[--n]);
}

static void begin(struct seen *s, bool pv)
{
	struct rpl_guest_conf conf = { .backend = "xen", .name = FAKE_NAME, .run_dir = dir, .checkpoints = true };
	struct rpl_err err;

	xen_fake_start(pv);
	*s = (struct seen){ .guest = rpl_guest_new(&conf, EV_DEFAULT, on_done, on_event, s, &err) };
	assert_non_null(s->guest);
	succeed(s, rpl_guest_attach);
	(void)ev_run(EV_DEFAULT, EVRUN_NOWAIT); /* each new watch fires once */
	follow(s);
}

static void end(struct seen *s)
{
	rpl_guest_free(s->guest);
	xen_fake_end();
}

static void checkpoint(struct seen *s)
{
	succeed(s, rpl_guest_pause);
	succeed(s, rpl_guest_save);
	succeed(s, rpl_guest_resume);
}

static void plug(void)
{
	xen_fake_put_node(VIF "/backend", BACKEND);
	xen_fake_put_node(VIF "/mac", "00:16:3e:00:00:01");
	xen_fake_plug(VIF "/backend"); /* as xenstored tells of it: not of the node that is made above it */
}

static void test_plugged(void **state)
{
	const struct rpl_guest_info *info;
	struct seen s;

	(void)state;
	begin(&s, false);
	info = rpl_guest_info(s.guest);
	checkpoint(&s);
	assert_string_equal(info->interfaces, "");
	plug();
	(void)ev_run(EV_DEFAULT, EVRUN_NOWAIT);
	xen_fake_plug("/libxl/5/device/vif/2/backend"); /* another comes before anybody looks: told once */
	(void)ev_run(EV_DEFAULT, EVRUN_NOWAIT);
	assert_int_equal(s.changes, 1);
	assert_int_equal(perform(&s, rpl_guest_pause), -ESTALE);
	assert_false(fake.suspended);
	succeed(&s, rpl_guest_look);
	assert_string_equal(info->interfaces, "vif5.1");
	assert_non_null(strstr(info->definition, "mac.1=00:16:3e:00:00:01\n"));
	assert_true(info->running && info->life == FAKE_DOMID);
	follow(&s);
	checkpoint(&s);
	/* out, and in again under its old name: it looks as before */
	xen_fake_plug(VIF);
	(void)ev_run(EV_DEFAULT, EVRUN_NOWAIT);
	assert_int_equal(s.changes, 2);
	assert_int_equal(s.ends, 0);
	end(&s);
}

/* What stands below a device changes while it is used. */
static void test_used(void **state)
{
	struct seen s;

	(void)state;
	begin(&s, false);
	xen_fake_plug(VIF "/state");
	(void)ev_run(EV_DEFAULT, EVRUN_NOWAIT);
	xen_fake_plug("/libxl/5/device");
	(void)ev_run(EV_DEFAULT, EVRUN_NOWAIT);
	assert_int_equal(s.changes, 0);
	checkpoint(&s);
	end(&s);
}

/* A domain that is taken apart is paused, loses its devices, and is gone then: that is its end and nothing else. */
static void test_taken_apart(void **state)
{
	struct seen s;

	(void)state;
	begin(&s, false);
	fake.paused = true;
	xen_fake_plug("/libxl/5/device/console/0");
	(void)ev_run(EV_DEFAULT, EVRUN_NOWAIT);
	assert_int_equal(s.changes, 0);
	fake.paused = false; /* it was not: but no checkpoint is taken of it as it is now */
	assert_int_equal(perform(&s, rpl_guest_pause), -ESTALE);
	xen_fake_destroy();
	(void)ev_run(EV_DEFAULT, EVRUN_NOWAIT);
	assert_int_equal(s.changes, 0);
	assert_int_equal(s.ends, 1);
	end(&s);
}

/* One that can no longer be protected stays as it was known, and is looked at again. */
static void test_unfit(void **state)
{
	struct seen s;

	(void)state;
	begin(&s, false);
	xen_fake_put_node("/libxl/5/device/pci/0", "");
	xen_fake_plug("/libxl/5/device/pci/0/backend");
	(void)ev_run(EV_DEFAULT, EVRUN_NOWAIT);
	assert_int_equal(s.changes, 1);
	assert_int_equal(perform(&s, rpl_guest_look), -ENOTSUP);
	assert_non_null(strstr(s.err.msg, "PCI"));
	assert_non_null(strstr(rpl_guest_info(s.guest)->definition, "backend=xen\n"));
	xen_fake_remove_node("/libxl/5/device/pci/0");
	succeed(&s, rpl_guest_look);
	follow(&s);
	checkpoint(&s);
	end(&s);
}

/* Frames that were not there when it was inspected have no place in the layout. */
static void test_grown(void **state)
{
	struct seen s;

	(void)state;
	begin(&s, false);
	fake.gpfns += 64;
	succeed(&s, rpl_guest_pause);
	assert_int_equal(perform(&s, rpl_guest_save), -ESTALE);
	succeed(&s, rpl_guest_resume);
	follow(&s);
	succeed(&s, rpl_guest_pause);
	assert_int_equal(perform(&s, rpl_guest_save), -ESTALE); /* another session alone changes nothing */
	succeed(&s, rpl_guest_resume);
	succeed(&s, rpl_guest_look);
	follow(&s);
	checkpoint(&s);
	end(&s);
}

static bool in_layout(const struct seen *s, uint64_t pfn)
{
	const struct rpl_ram_layout *l = &rpl_guest_info(s->guest)->layout;

	for (uint32_t i = 0; i + 1 < l->count; i++)
		if (pfn >= l->region[i].pfn && pfn < l->region[i].pfn + l->region[i].pages)
			return true;
	return false;
}

/* Its balloon was inflated, and not with its last frames: what it may have now says nothing of where it has memory. */
static void test_shrunk(void **state)
{
	struct seen s;

	(void)state;
	begin(&s, false);
	for (uint64_t pfn = 100; pfn < 400; pfn++)
		xen_fake_lose(pfn);
	fake.max_pages = FAKE_PAGES - 300;
	succeed(&s, rpl_guest_look);
	assert_true(in_layout(&s, FAKE_PAGES - 1)); /* pages were missing */
	xen_fake_put_node("/local/domain/5/memory/static-max", "8192");
	succeed(&s, rpl_guest_look);
	assert_true(in_layout(&s, FAKE_PAGES - 1));
	assert_true(in_layout(&s, 2047) && !in_layout(&s, 2048)); /* it may grow to there */
	follow(&s);
	checkpoint(&s);
	end(&s);
}

/* Memory that no frame of the layout shows is noticed in the pause, also if it came while the guest ran. */
static void test_grown_elsewhere(void **state)
{
	struct seen s;
	struct rpl_err err;
	uint64_t pages;

	(void)state;
	begin(&s, false);
	fake.elsewhere = 16; /* as come and go with a device model */
	checkpoint(&s);
	fake.elsewhere = 600;
	assert_int_equal(rpl_guest_collect(s.guest, &pages, &err), 0);
	succeed(&s, rpl_guest_pause);
	assert_int_equal(perform(&s, rpl_guest_save), -ESTALE);
	succeed(&s, rpl_guest_resume);
	succeed(&s, rpl_guest_look);
	follow(&s);
	checkpoint(&s);
	fake.elsewhere = 1200;
	succeed(&s, rpl_guest_pause);
	assert_int_equal(perform(&s, rpl_guest_save), -ESTALE);
	succeed(&s, rpl_guest_resume);
	end(&s);
}

/* It ends while it is copied: what is still asked of it is refused. */
static void test_ends(void **state)
{
	struct seen s;
	struct rpl_err err;
	uint64_t pages;

	(void)state;
	begin(&s, true);
	assert_int_equal(rpl_guest_collect(s.guest, &pages, &err), 0);
	xen_fake_shutdown(SHUTDOWN_poweroff);
	(void)ev_run(EV_DEFAULT, EVRUN_NOWAIT);
	assert_int_equal(s.ends, 1);
	assert_int_equal(rpl_guest_collect(s.guest, &pages, &err), -ESRCH);
	end(&s);
}

/* A p2m that could not be found again is looked for when the next session begins; one that is larger is none of that session. */
static void test_p2m(void **state)
{
	int fds[RPL_MEMORY_FDS_MAX];
	struct rpl_memory_desc desc;
	struct rpl_err err;
	uint64_t pages;
	struct seen s;
	size_t n = 0;

	(void)state;
	begin(&s, true);
	xen_fake_p2m_generation(4);
	fake.fail_name = "xenforeignmemory_map";
	fake.error = ENOMEM;
	assert_true(rpl_guest_collect(s.guest, &pages, &err) < 0);
	fake.fail_name = NULL;
	follow(&s);
	checkpoint(&s);
	xen_fake_p2m_count(FAKE_PAGES / 2);
	xen_fake_p2m_generation(6);
	assert_int_equal(rpl_guest_collect(s.guest, &pages, &err), -ESTALE);
	assert_int_equal(rpl_guest_memory(s.guest, &desc, fds, &n, &err), -ESTALE);
	succeed(&s, rpl_guest_look);
	follow(&s);
	checkpoint(&s);
	end(&s);
}

/* A PV guest's p2m is found again. */
static void test_pv(void **state)
{
	struct seen s;

	(void)state;
	begin(&s, true);
	checkpoint(&s);
	plug();
	(void)ev_run(EV_DEFAULT, EVRUN_NOWAIT);
	assert_int_equal(s.changes, 1);
	succeed(&s, rpl_guest_look);
	follow(&s);
	checkpoint(&s);
	end(&s);
	assert_int_equal(fake.mappings, 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plugged),
		cmocka_unit_test(test_used),
		cmocka_unit_test(test_taken_apart),
		cmocka_unit_test(test_unfit),
		cmocka_unit_test(test_grown),
		cmocka_unit_test(test_shrunk),
		cmocka_unit_test(test_grown_elsewhere),
		cmocka_unit_test(test_ends),
		cmocka_unit_test(test_p2m),
		cmocka_unit_test(test_pv),
	};
	int r;

	stage_dir(dir);
	r = cmocka_run_group_tests(tests, NULL, NULL);
	return stage_xl_end(dir, FAKE_NAME) < 0 ? 1 : r;
}
