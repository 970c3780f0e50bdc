/* Whether a takeover would find room in this Xen: the backend's standby against a stand-in for libxenctrl and one for xl. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <ev.h>

#include <replicad/guest.h>

#include "xen_fake.h"
#include "xen_stage.h"

#define MIB_PAGES 256

static const char definition[] = "backend=xen\ndomain=pvh\nlayout=0x10+0x30,0x100+0x8\nrings=0x101,0x104\nvcpus=2\nxen=4.17";
static const char create_json[] =
	"{ \"c_info\": { \"type\": \"pvh\", \"name\": \"web1\", \"uuid\": \"7c3a7a3e-0000-4000-8000-000000000001\" },"
	" \"b_info\": { \"max_vcpus\": 2, \"max_memkb\": 8192 } }\n";

static char dir[] = "/tmp/xen-room-XXXXXX";
static struct stage_fake_xl stage;

static int stage_up(void **state)
{
	(void)state;
	stage_fake_xl(dir, "name = \"web1\"\nuuid = \"7c3a7a3e-0000-4000-8000-000000000001\"\n", create_json, &stage);
	return 0;
}

static int stage_down(void **state)
{
	(void)state;
	return stage_fake_xl_end(dir);
}

static bool done;

static void on_done(void *arg, enum rpl_guest_op op, int r, const struct rpl_err *err)
{
	(void)arg;
	(void)op;
	if (r < 0)
		fail_msg("%s", err->msg);
	done = true;
}

static void on_event(void *arg, enum rpl_guest_event event, const char *msg)
{
	(void)arg;
	fail_msg("event %d: %s", (int)event, msg);
}

/* It needs one MiB, and 32 beside it. */
static void room_is_what_xen_has_free_and_nobody_claimed(void **state)
{
	struct rpl_guest_conf c = { .backend = "xen", .name = "web1", .standby_path = stage.conf, .helper_path = stage.helper };
	struct rpl_err err = { 0 };
	struct rpl_guest *g;

	(void)state;
	xen_fake_start(false);
	g = rpl_guest_new(&c, EV_DEFAULT, on_done, on_event, NULL, &err);
	assert_non_null(g);
	rpl_guest_standby(g);
	while (!done)
		ev_run(EV_DEFAULT, EVRUN_ONCE);
	fake.free_pages = 1;
	assert_int_equal(rpl_guest_room(g, &err), 0); /* how much it is going to be is not known */
	assert_int_equal(rpl_guest_fit(g, definition, &err), 1);
	fake.free_pages = 33 * MIB_PAGES;
	assert_int_equal(rpl_guest_room(g, &err), 0);
	fake.free_pages--;
	assert_int_equal(rpl_guest_room(g, &err), -ENOMEM);
	assert_non_null(strstr(err.msg, "a takeover of web1 needs 33 MiB, Xen has 32 MiB free"));
	fake.free_pages = 50 * MIB_PAGES;
	fake.claimed_pages = 18 * MIB_PAGES;
	assert_int_equal(rpl_guest_room(g, &err), -ENOMEM);
	fake.claimed_pages = 17 * MIB_PAGES;
	assert_int_equal(rpl_guest_room(g, &err), 0);
	fake.fail_name = "xc_physinfo";
	fake.error = EPERM;
	assert_int_equal(rpl_guest_room(g, &err), -EPERM);
	fake.fail_name = NULL;
	rpl_guest_free(g);
	assert_int_equal(fake.handles, 0);
	xen_fake_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(room_is_what_xen_has_free_and_nobody_claimed) };

	return cmocka_run_group_tests_name("xen_room", tests, stage_up, stage_down);
}
