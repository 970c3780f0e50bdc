/* What a primary says of its rings, which lets a backup attach the domain's devices before a takeover: against a stand-in for Xen's
 * libraries. A PV guest's are machine frames in xenstore; a frame that is not the guest's is never named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <ev.h>
#include <xen/hvm/params.h>

#include <replicad/guest.h>
#include <replicad/xen.h>

#include "xen_fake.h"
#include "xen_stage.h"

#define STORE_PFN 40
#define CONSOLE_PFN 41
#define STORE_NODE "/local/domain/5/store/ring-ref"
#define CONSOLE_NODE "/local/domain/5/console/ring-ref"

static char dir[] = "/tmp/xen-rings-XXXXXX";
static bool attached;

static void on_done(void *arg, enum rpl_guest_op op, int r, const struct rpl_err *err)
{
	(void)arg;
	assert_int_equal(op, RPL_GUEST_ATTACH);
	if (r < 0)
		fail_msg("%s", err->msg);
	attached = true;
	ev_break(EV_DEFAULT, EVBREAK_ONE);
}

static void on_event(void *arg, enum rpl_guest_event event, const char *msg)
{
	(void)arg;
	fail_msg("event %d: %s", (int)event, msg);
}

/* What the line says; NULL: there is none. */
static const char *rings(void)
{
	static char text[RPL_XEN_RINGS_TEXT];
	struct rpl_guest_conf c = { .backend = "xen", .name = FAKE_NAME, .run_dir = dir, .any_netdev = true };
	struct rpl_err err = { 0 };
	struct rpl_guest *g = rpl_guest_new(&c, EV_DEFAULT, on_done, on_event, NULL, &err);
	bool found;

	if (!g)
		fail_msg("%s", err.msg);
	attached = false;
	rpl_guest_attach(g);
	while (!attached)
		(void)ev_run(EV_DEFAULT, 0);
	found = rpl_xen_definition_get(rpl_guest_info(g)->definition, RPL_XEN_KEY_RINGS, text, sizeof(text));
	rpl_guest_free(g);
	assert_int_equal(fake.handles, 0);
	assert_int_equal(fake.mappings, 0);
	return found ? text : NULL;
}

static void put_frame(const char *node, uint64_t mfn)
{
	char text[24];

	(void)snprintf(text, sizeof(text), "%llu", (unsigned long long)mfn);
	xen_fake_put_node(node, text);
}

static void test_pvh(void **state)
{
	char expected[RPL_XEN_RINGS_TEXT];

	(void)state;
	xen_fake_start(false);
	(void)snprintf(expected, sizeof(expected), "0x%x,0x%x", HVM_PARAM_STORE_PFN + 1, HVM_PARAM_CONSOLE_PFN + 1);
	assert_string_equal(rings(), expected);
	xen_fake_end();
}

static void test_pv(void **state)
{
	(void)state;
	xen_fake_start(true);
	assert_null(rings());
	put_frame(STORE_NODE, xen_fake_mfn(STORE_PFN));
	assert_null(rings());
	put_frame(CONSOLE_NODE, FAKE_FOREIGN_MFN);
	assert_null(rings());
	put_frame(CONSOLE_NODE, UINT64_MAX);
	assert_null(rings());
	put_frame(CONSOLE_NODE, xen_fake_mfn(CONSOLE_PFN));
	assert_string_equal(rings(), "0x28,0x29");
	xen_fake_end();
}

static int start(void **state)
{
	(void)state;
	stage_dir(dir);
	return 0;
}

static int finish(void **state)
{
	(void)state;
	return stage_xl_end(dir, FAKE_NAME);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_pvh), cmocka_unit_test(test_pv) };

	return cmocka_run_group_tests(tests, start, finish);
}
