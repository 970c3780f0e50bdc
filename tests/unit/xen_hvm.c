/* An HVM domain that is left in a pause, against stand-ins for Xen's libraries and for its device model: that dies or hangs in the
 * middle of a pause, or the suspend that an earlier keeper asked for ends while we still attach. What must hold each time: the
 * domain runs again. The real thing is tests/lab. */
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
#include <jansson.h>

#include "../../src/guest/guest_impl.h"
#include "qemu_fake.h"
#include "xen_fake.h"
#include "xen_stage.h"

#define SHUTDOWN_SUSPEND 2u
#define PATIENT_MS 60000u /* an answer comes, whatever else the machine does */
#define HASTY_MS 300u     /* none comes */

static char dir[] = "/tmp/xen-hvm-XXXXXX";
static struct rpl_guest *guest;
static int result;
static char why[sizeof(((struct rpl_err *)NULL)->msg)];
static bool done;

/* The configuration that libxl keeps of the domain: all is as by default. */
json_t *__wrap_json_load_file(const char *path, size_t flags, json_error_t *error);
json_t *__wrap_json_load_file(const char *path, size_t flags, json_error_t *error)
{
	(void)flags;
	(void)error;
	assert_non_null(strstr(path, "/userdata-d.5."));
	return json_object();
}

static void on_done(void *arg, enum rpl_guest_op op, int r, const struct rpl_err *err)
{
	(void)arg;
	(void)op;
	result = r;
	(void)snprintf(why, sizeof(why), "%s", err ? err->msg : "");
	done = true;
	ev_break(EV_DEFAULT, EVBREAK_ONE);
}

static void on_event(void *arg, enum rpl_guest_event event, const char *msg)
{
	(void)arg;
	fail_msg("event %d: %s", (int)event, msg);
}

/* ---- steps */

static void start(void)
{
	const struct rpl_guest_conf c = { .backend = "xen", .name = FAKE_NAME, .run_dir = dir, .any_netdev = true,
					  .op_timeout_ms = PATIENT_MS };
	struct rpl_err err = { 0 };

	guest = rpl_guest_new(&c, EV_DEFAULT, on_done, on_event, NULL, &err);
	if (!guest)
		fail_msg("%s", err.msg);
	done = false;
	rpl_guest_attach(guest);
}

static void end(void)
{
	rpl_guest_free(guest);
	guest = NULL;
	assert_int_equal(fake.handles, 0);
	assert_int_equal(fake.mappings, 0);
}

static int waited(void)
{
	while (!done)
		(void)ev_run(EV_DEFAULT, 0);
	done = false;
	return result;
}

static void succeeds(void)
{
	if (waited() < 0)
		fail_msg("%s", why);
}

/* Code 0: any. */
static void fails(int code, const char *text)
{
	if (waited() >= 0 || (code && result != code) || !strstr(why, text))
		fail_msg("%d (%s), expected %d and '%s'", result, why, code, text);
}

static void attach(void)
{
	start();
	succeeds();
	assert_true(rpl_guest_info(guest)->running);
}

static void attach_to_one_that_dies_in_a_pause(void)
{
	qemu.hangs_up = "stop";
	attach();
	rpl_guest_pause(guest);
	fails(0, "device model: QMP: ");
	assert_true(fake.suspended);
}

static void resume(void)
{
	rpl_guest_resume(guest);
	succeeds();
	assert_false(fake.suspended);
	assert_int_equal(fake.resumes, fake.suspends);
	assert_true(rpl_guest_info(guest)->running);
}

static bool was_told(const char *command)
{
	qemu_fake_ended();
	for (unsigned i = 0; i < qemu.n_seen; i++)
		if (strcmp(qemu.seen[i], command) == 0)
			return true;
	return false;
}

/* ---- its device model fails in the middle of a pause */

static void test_a_pause(void **state)
{
	(void)state;
	attach();
	for (unsigned i = 0; i < 3; i++) {
		rpl_guest_pause(guest);
		succeeds();
		assert_true(fake.suspended);
		resume();
	}
	end();
	assert_true(was_told("stop"));
	assert_true(was_told("cont"));
}

/* It dies as the pause ends: that shows when it is told to go on. No other pause is tried. */
static void test_dies_at_the_end(void **state)
{
	(void)state;
	qemu.hangs_up = "cont";
	attach();
	rpl_guest_pause(guest);
	succeeds();
	resume();
	rpl_guest_pause(guest);
	fails(-ENOTCONN, "device model");
	assert_false(fake.suspended);
	assert_int_equal(fake.suspends, 1);
	end();
}

/* It dies as the pause begins. */
static void test_dies_at_the_beginning(void **state)
{
	(void)state;
	attach_to_one_that_dies_in_a_pause();
	qemu.gone = true;
	resume();
	end();
}

/* The same, and for a moment more its monitor can be connected to. */
static void test_dies_slowly(void **state)
{
	static const char *const last[] = { "qmp_capabilities", "add-fd", "cont" };

	(void)state;
	for (size_t i = 0; i < sizeof(last) / sizeof(last[0]); i++) {
		attach_to_one_that_dies_in_a_pause();
		qemu_fake_ended();
		qemu.hangs_up = last[i];
		resume();
		end();
		qemu_fake_ended();
	}
}

/* It lives, but will not. */
static void test_refuses(void **state)
{
	(void)state;
	qemu.refuses = "cont";
	attach();
	rpl_guest_pause(guest);
	succeeds();
	resume();
	end();
}

/* It neither dies nor answers, from the beginning of the pause or its end on. */
static void test_hangs(void **state)
{
	static const char *const silent[] = { "stop", "cont" };

	(void)state;
	for (size_t i = 0; i < sizeof(silent) / sizeof(silent[0]); i++) {
		qemu.silent = silent[i];
		attach();
		if (i == 0)
			guest->conf.op_timeout_ms = HASTY_MS;
		rpl_guest_pause(guest);
		if (i == 0)
			fails(-ETIMEDOUT, "pause");
		else
			succeeds();
		guest->conf.op_timeout_ms = HASTY_MS;
		resume();
		end();
		qemu_fake_ended();
	}
}

/* Its monitor was lost; it takes the next connection and says nothing. */
static void test_hangs_up_and_hangs(void **state)
{
	static const char *const silent[] = { "qmp_capabilities", "add-fd", "cont" };

	(void)state;
	for (size_t i = 0; i < sizeof(silent) / sizeof(silent[0]); i++) {
		attach_to_one_that_dies_in_a_pause();
		qemu_fake_ended();
		guest->conf.op_timeout_ms = HASTY_MS;
		qemu.silent = silent[i];
		resume();
		end();
		qemu_fake_ended();
		qemu.silent = NULL;
	}
}

/* Without it and without Xen's help: then it is said what Xen said. */
static void test_cannot_be_resumed(void **state)
{
	(void)state;
	qemu.hangs_up = "cont";
	attach();
	rpl_guest_pause(guest);
	succeeds();
	fake.fail_name = "xc_domain_resume";
	fake.error = EPERM;
	rpl_guest_resume(guest);
	fails(-EPERM, "resume: domain 5");
	fake.fail_name = NULL;
	qemu.gone = true;
	resume();
	end();
}

/* ---- asked by a keeper that was killed */

/* Its device model has not yet said a word to us when the suspend ends. */
static void test_suspends_while_we_attach(void **state)
{
	(void)state;
	qemu.waits = true;
	start();
	xen_fake_shutdown(SHUTDOWN_SUSPEND);
	while (!fake.resumes)
		(void)ev_run(EV_DEFAULT, EVRUN_ONCE);
	assert_false(fake.suspended);
	assert_false(done);
	qemu_fake_greet();
	succeeds();
	assert_true(rpl_guest_info(guest)->running);
	assert_false(rpl_guest_info(guest)->paused_by_us);
	end();
	assert_false(was_told("stop"));
}

static unsigned looks;

static void suspend_at_the_second_look(void)
{
	if (looks++ == 1)
		xen_fake_shutdown(SHUTDOWN_SUSPEND);
}

/* It has been seen running, and nobody is told of suspends yet. */
static void test_suspends_before_we_listen(void **state)
{
	(void)state;
	looks = 0;
	fake.on_look = suspend_at_the_second_look;
	qemu.waits = true;
	start();
	while (!fake.resumes)
		(void)ev_run(EV_DEFAULT, EVRUN_ONCE);
	assert_false(fake.suspended);
	qemu_fake_greet();
	succeeds();
	assert_true(rpl_guest_info(guest)->running);
	end();
}

/* The keeper that was killed has noted its pause: what stands still is left to the next one's order. */
static void test_found_suspended(void **state)
{
	(void)state;
	attach();
	rpl_guest_pause(guest);
	succeeds();
	rpl_guest_leave(guest);
	start();
	succeeds();
	assert_false(rpl_guest_info(guest)->running);
	assert_true(rpl_guest_info(guest)->paused_by_us);
	assert_int_equal(fake.resumes, 0);
	resume();
	end();
}

/* Nobody waits for it any more. */
static void test_suspends_too_late(void **state)
{
	(void)state;
	fake.refuses = true;
	attach();
	guest->conf.op_timeout_ms = HASTY_MS;
	rpl_guest_pause(guest);
	fails(-ETIMEDOUT, "pause");
	xen_fake_shutdown(SHUTDOWN_SUSPEND);
	while (!fake.resumes)
		(void)ev_run(EV_DEFAULT, EVRUN_ONCE);
	assert_false(fake.suspended);
	end();
	assert_false(was_told("stop"));
}

static int set_up(void **state)
{
	(void)state;
	xen_fake_start(false);
	fake.hvm = true;
	qemu_fake_start();
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	rpl_guest_free(guest);
	guest = NULL;
	qemu_fake_end();
	xen_fake_end();
	return 0;
}

static int stage(void **state)
{
	(void)state;
	stage_dir(dir);
	return 0;
}

static int unstage(void **state)
{
	(void)state;
	return stage_xl_end(dir, FAKE_NAME);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_a_pause, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_dies_at_the_end, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_dies_at_the_beginning, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_dies_slowly, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_refuses, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_hangs, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_hangs_up_and_hangs, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_cannot_be_resumed, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_suspends_while_we_attach, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_suspends_before_we_listen, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_found_suspended, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_suspends_too_late, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, stage, unstage);
}
