/* An HVM guest's device model as replicad drives it, against a thread that answers as QEMU does: the order of the commands, the
 * state that comes through a descriptor, and what is said last. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <ev.h>

#include <replicad/clock.h>
#include <replicad/stream.h>

#include "../../src/guest/xen_impl.h"
#include "qemu_fake.h"

#define OUT_MAX 65536

/* ---- xenstore */

static const char *physmap; /* one entry, or NULL */

char **xs_directory(struct xs_handle *h, xs_transaction_t t, const char *path, unsigned int *num)
{
	size_t len = physmap ? strlen(physmap) + 1 : 0;
	char **list = len ? malloc(sizeof(*list) + len) : NULL;

	(void)h;
	(void)t;
	assert_string_equal(path, "/local/domain/0/device-model/5/physmap");
	*num = list ? 1 : 0;
	if (list) {
		list[0] = (char *)(list + 1);
		memcpy(list[0], physmap, len);
	}
	return list;
}

char *xen_read(struct xen *x, const char *fmt, ...)
{
	char path[XEN_PATH];
	va_list ap;

	(void)x;
	va_start(ap, fmt);
	(void)vsnprintf(path, sizeof(path), fmt, ap);
	va_end(ap);
	return strstr(path, "/name") ? NULL : strdup(strstr(path, "/size") ? "800000" : "f0000000");
}

/* ---- our side */

static struct rpl_guest guest;
static struct xen xen;
static int result;
static char why[sizeof(((struct rpl_err *)NULL)->msg)];
static bool done;

static void on_step(struct xen *x, int r, const struct rpl_err *err)
{
	assert_ptr_equal(x, &xen);
	result = r;
	(void)snprintf(why, sizeof(why), "%s", err ? err->msg : "");
	done = true;
	ev_break(guest.loop, EVBREAK_ONE);
}

static int waited(int began)
{
	assert_int_equal(began, 0);
	while (!done)
		(void)ev_run(guest.loop, 0);
	done = false;
	return result;
}

static int set_up(void **state)
{
	(void)state;
	qemu_fake_start();
	memset(&xen, 0, sizeof(xen));
	memset(&guest, 0, sizeof(guest));
	physmap = NULL;
	done = false;
	guest.conf.name = "web1";
	guest.conf.op_timeout_ms = 60000;
	guest.op_started_ns = rpl_now_ns();
	guest.loop = ev_loop_new(EVFLAG_AUTO);
	xen.g = &guest;
	xen.domid = 5;
	xen.kind = XEN_HVM;
	xen.scratch = malloc(XEN_SCRATCH);
	return !guest.loop || !xen.scratch;
}

static int tear_down(void **state)
{
	(void)state;
	xen_qemu_close(&xen);
	qemu_fake_end();
	free(xen.scratch);
	ev_loop_destroy(guest.loop);
	return 0;
}

static void assert_seen(unsigned n, const char *const *commands)
{
	assert_int_equal(qemu.n_seen, n);
	for (unsigned i = 0; i < n; i++)
		assert_string_equal(qemu.seen[i], commands[i]);
}

static void save(const char *state)
{
	struct rpl_err err;

	qemu.state_len = strlen(state);
	memcpy(qemu.state, state, qemu.state_len);
	assert_int_equal(waited(xen_qemu_save(&xen, on_step, &err)), 0);
}

static void assert_records(const void *expected, size_t len)
{
	static uint8_t buf[OUT_MAX];
	struct rpl_out o = rpl_out(buf, sizeof(buf));
	struct rpl_err err = { 0 };

	assert_int_equal(xen_qemu_put(&xen, &o, &err), 0);
	assert_false(o.bad);
	assert_int_equal(o.len, len);
	assert_memory_equal(buf, expected, len);
}

/* ---- tests */

static void test_a_checkpoint_and_the_last_words(void **state)
{
	static const char *const commands[] = {
		"qmp_capabilities", "add-fd", "xen-set-global-dirty-log on", "stop", "xen-save-devices-state", "cont",
		"xen-set-global-dirty-log on", "xen-set-global-dirty-log off", "remove-fd",
	};
	struct rpl_err err = { 0 };

	(void)state;
	assert_int_equal(waited(xen_qemu_open(&xen, on_step, &err)), 0);
	assert_int_equal(xen_qemu_track(&xen, &err), 0);
	assert_int_equal(waited(xen_qemu_stop(&xen, on_step, &err)), 0);
	save("QEVM");
	assert_int_equal(waited(xen_qemu_cont(&xen, on_step, &err)), 0);
	xen_qemu_close(&xen);
	assert_null(xen.qemu);
	assert_seen(9, commands);
}

/* B22: of a longer state before, nothing is left. */
static void test_states_of_any_length(void **state)
{
	static const uint8_t eleven[] = "\3\0\0\0\x13\0\0\0\2\0\0\0\0\0\0\0QEVM-longer\0\0\0\0", five[] = "\3\0\0\0\xd\0\0\0\2\0\0\0\0\0\0\0QEVM!\0\0";
	struct rpl_err err = { 0 };

	(void)state;
	assert_int_equal(waited(xen_qemu_open(&xen, on_step, &err)), 0);
	save("QEVM-longer");
	assert_records(eleven, 32);
	save("QEVM!");
	assert_records(five, 24);
}

static void test_moved_memory_is_told(void **state)
{
	static const char strings[] = "physmap/f0000000/start_addr\0f0000000\0physmap/f0000000/size\000800000";
	uint8_t expected[OUT_MAX];
	struct rpl_out o = rpl_out(expected, sizeof(expected));
	struct rpl_err err = { 0 };

	(void)state;
	physmap = "f0000000";
	assert_int_equal(waited(xen_qemu_open(&xen, on_step, &err)), 0);
	save("QEVM");
	rpl_stream_put_emulator_head(&o, RPL_LIBXL_EMULATOR_XENSTORE_DATA, RPL_EMULATOR_QEMU, sizeof(strings));
	rpl_out_bytes(&o, strings, sizeof(strings));
	rpl_stream_put_padding(&o, sizeof(strings));
	rpl_stream_put_emulator_head(&o, RPL_LIBXL_EMULATOR_CONTEXT, RPL_EMULATOR_QEMU, 4);
	rpl_out_bytes(&o, "QEVM", 4);
	rpl_stream_put_padding(&o, 4);
	assert_records(expected, o.len);
}

static void test_an_empty_state_is_none(void **state)
{
	uint8_t buf[64];
	struct rpl_out o = rpl_out(buf, sizeof(buf));
	struct rpl_err err = { 0 };

	(void)state;
	assert_int_equal(waited(xen_qemu_open(&xen, on_step, &err)), 0);
	save("");
	assert_int_equal(xen_qemu_put(&xen, &o, &err), -EMSGSIZE);
	save("a state that is longer than the room that there is for it, which is 64 bytes");
	o = rpl_out(buf, sizeof(buf));
	assert_int_equal(xen_qemu_put(&xen, &o, &err), -EMSGSIZE);
}

static void test_refusals_are_told(void **state)
{
	struct rpl_err err = { 0 };

	(void)state;
	assert_int_equal(waited(xen_qemu_open(&xen, on_step, &err)), 0);
	qemu.refuses = "xen-set-global-dirty-log";
	assert_true(xen_qemu_track(&xen, &err) < 0);
	assert_non_null(strstr(err.msg, "not today"));
	qemu.refuses = "stop";
	assert_true(waited(xen_qemu_stop(&xen, on_step, &err)) < 0);
	assert_non_null(strstr(why, "not today"));
}

/* Nothing was tracked, so nothing is said of it at the end: QEMU would abort. */
static void test_no_word_of_what_did_not_begin(void **state)
{
	static const char *const commands[] = { "qmp_capabilities", "add-fd", "remove-fd" };
	struct rpl_err err = { 0 };

	(void)state;
	assert_int_equal(waited(xen_qemu_open(&xen, on_step, &err)), 0);
	xen_qemu_close(&xen);
	assert_seen(3, commands);
}

static void test_it_dies(void **state)
{
	struct rpl_err err = { 0 };

	(void)state;
	qemu.hangs_up = "stop";
	assert_int_equal(waited(xen_qemu_open(&xen, on_step, &err)), 0);
	assert_int_equal(xen_qemu_track(&xen, &err), 0);
	assert_true(waited(xen_qemu_stop(&xen, on_step, &err)) < 0);
	assert_non_null(strstr(why, "device model"));
	assert_true(xen_qemu_cont(&xen, on_step, &err) < 0);
	assert_true(xen_qemu_track(&xen, &err) < 0);
	xen_qemu_close(&xen);
	assert_true(xen_qemu_cont(&xen, on_step, &err) < 0); /* and after that it is not even open */
}

/* Its monitor can be lost while it lives on, and it still tracks then. */
static void test_it_comes_back(void **state)
{
	static const char *const commands[] = {
		"qmp_capabilities", "add-fd", "cont", "xen-set-global-dirty-log on", "xen-set-global-dirty-log off", "remove-fd",
	};
	struct rpl_err err = { 0 };

	(void)state;
	qemu.hangs_up = "stop";
	assert_false(xen_qemu_alive(&xen));
	assert_int_equal(waited(xen_qemu_open(&xen, on_step, &err)), 0);
	assert_int_equal(xen_qemu_track(&xen, &err), 0);
	assert_true(xen_qemu_alive(&xen));
	assert_true(waited(xen_qemu_stop(&xen, on_step, &err)) < 0);
	assert_false(xen_qemu_alive(&xen));
	qemu_fake_ended();
	qemu.hangs_up = NULL;
	qemu.n_seen = 0;
	assert_int_equal(waited(xen_qemu_reopen(&xen, on_step, &err)), 0);
	assert_int_equal(waited(xen_qemu_cont(&xen, on_step, &err)), 0);
	xen_qemu_close(&xen);
	assert_seen(6, commands);
}

/* It is dead for good: the domain goes on without it, and whatever is asked for later is refused. */
static void test_it_does_not_come_back(void **state)
{
	struct rpl_err err = { 0 };

	(void)state;
	qemu.hangs_up = "stop";
	assert_int_equal(waited(xen_qemu_open(&xen, on_step, &err)), 0);
	assert_int_equal(xen_qemu_track(&xen, &err), 0);
	assert_true(waited(xen_qemu_stop(&xen, on_step, &err)) < 0);
	qemu.gone = true;
	assert_int_equal(xen_qemu_reopen(&xen, on_step, &err), -ECONNREFUSED);
	assert_false(xen_qemu_alive(&xen));
	assert_int_equal(xen_qemu_track(&xen, &err), -ENOTCONN);
	assert_int_equal(xen_qemu_stop(&xen, on_step, &err), -ENOTCONN);
	assert_int_equal(xen_qemu_save(&xen, on_step, &err), -ENOTCONN);
	xen_qemu_abandon(&xen); /* the domain has ended */
	assert_false(done);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_a_checkpoint_and_the_last_words, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_states_of_any_length, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_moved_memory_is_told, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_an_empty_state_is_none, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_refusals_are_told, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_no_word_of_what_did_not_begin, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_it_dies, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_it_comes_back, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_it_does_not_come_back, set_up, tear_down),
	};

	(void)signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
