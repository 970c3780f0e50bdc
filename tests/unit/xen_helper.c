/* The private protocol between libxl and its save helper: what Xen 4.17.5's own helper said during a real restore
 * (tests/data/xen-helper), taken apart and said again with our words, must be the same bytes. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <replicad/auto.h>
#include <replicad/io.h>

#include "../../src/guest/xen_helper_msgs.h"

#define RECORDED "tests/data/xen-helper/restore-pvh"
#define FILE_MAX 65536

static char *recorded(const char *ext, size_t *ret_len)
{
	const char *top = getenv("top_srcdir");
	struct rpl_err err = { 0 };
	char path[512], *text = NULL;

	(void)snprintf(path, sizeof(path), "%s/" RECORDED ".%s", top ? top : ".", ext);
	if (rpl_read_file(path, FILE_MAX, &text, ret_len, &err) < 0)
		fail_msg("%s", err.msg);
	return text;
}

static const char *text_of(struct rpl_cur *c)
{
	uint32_t len = rpl_cur_le32(c);
	const char *p = rpl_cur_bytes(c, len);

	assert_non_null(p);
	assert_true(len > 0 && p[len - 1] == '\0');
	return p;
}

/* One message of theirs, in our words. Returns its number. */
static unsigned say_again(struct rpl_cur *c, struct rpl_out *o)
{
	unsigned msg = rpl_cur_le16(c);
	uint32_t level, errnoval;
	uint64_t gfn;
	const char *context;

	switch (msg) {
	case XEN_MSG_LOG:
		level = rpl_cur_le32(c);
		errnoval = rpl_cur_le32(c);
		context = text_of(c);
		xen_helper_put_log(o, (enum xen_helper_level)level, (int)errnoval, context, text_of(c));
		break;
	case XEN_MSG_STATIC_DATA_DONE:
		xen_helper_put_static_data_done(o, rpl_cur_le32(c));
		break;
	case XEN_MSG_RESTORE_RESULTS:
		gfn = rpl_cur_le64(c);
		xen_helper_put_restore_results(o, gfn, rpl_cur_le64(c));
		break;
	case XEN_MSG_COMPLETE:
		level = rpl_cur_le32(c);
		xen_helper_put_complete(o, (int)level, (int)rpl_cur_le32(c));
		break;
	default:
		(void)rpl_cur_bytes(c, c->left); /* progress: for a terminal, we say none */
		return msg;
	}
	assert_false(c->bad);
	assert_int_equal(c->left, 0);
	return msg;
}

static void test_the_recorded_conversation(void **state)
{
	unsigned said[XEN_MSG_COMPLETE + 1] = { 0 };
	RPL_AUTO_FREE char *bytes = NULL;
	uint8_t buf[XEN_HELPER_MSG_MAX];
	struct rpl_cur all;
	size_t len;

	(void)state;
	bytes = recorded("out", &len);
	all = rpl_cur(bytes, len);
	while (all.left) {
		const uint8_t *whole = all.p;
		size_t n = rpl_cur_le16(&all);
		struct rpl_cur body = rpl_cur(rpl_cur_bytes(&all, n), n);
		struct rpl_out o = rpl_out(buf, sizeof(buf));
		unsigned msg;

		assert_false(all.bad);
		msg = say_again(&body, &o);
		assert_in_range(msg, XEN_MSG_LOG, XEN_MSG_COMPLETE);
		said[msg]++;
		if (!o.len)
			continue;
		assert_false(o.bad);
		assert_int_equal(o.len, n + sizeof(uint16_t));
		assert_memory_equal(o.p, whole, o.len);
	}
	assert_true(said[XEN_MSG_LOG] > 5);
	assert_int_equal(said[XEN_MSG_STATIC_DATA_DONE], 1);
	assert_int_equal(said[XEN_MSG_RESTORE_RESULTS], 1);
	assert_int_equal(said[XEN_MSG_COMPLETE], 1);
}

static void test_the_recorded_answers(void **state)
{
	RPL_AUTO_FREE char *bytes = NULL;
	int answer[2];
	size_t len;

	(void)state;
	bytes = recorded("in", &len);
	assert_int_equal(len, sizeof(answer)); /* to static_data_done and to complete */
	memcpy(answer, bytes, sizeof(answer));
	assert_int_equal(answer[0], 0);
	assert_int_equal(answer[1], 0);
}

/* ---- the command line */

static int split(char *text, char *argv[XEN_HELPER_ARGS + 2])
{
	char *save = NULL;
	int argc = 1;

	argv[0] = (char *)(uintptr_t)"helper";
	for (char *p = strtok_r(text, "\n", &save); p && argc <= XEN_HELPER_ARGS; p = strtok_r(NULL, "\n", &save))
		argv[argc++] = p;
	return argc;
}

static void test_the_recorded_arguments(void **state)
{
	RPL_AUTO_FREE char *text = NULL;
	char *argv[XEN_HELPER_ARGS + 2];
	struct xen_helper_args a;
	struct rpl_err err = { 0 };

	(void)state;
	text = recorded("args", NULL);
	assert_int_equal(xen_helper_args(split(text, argv), argv, &a, &err), 0);
	assert_int_equal(a.io_fd, 12);
	assert_int_equal(a.back_fd, -1);
	assert_int_equal(a.domid, 3);
	assert_int_equal(a.store_port, 1);
	assert_int_equal(a.store_domid, 0);
	assert_int_equal(a.console_port, 2);
	assert_int_equal(a.console_domid, 0);
}

static void refused(const char *said, const char *why)
{
	char text[256], *argv[XEN_HELPER_ARGS + 2];
	struct xen_helper_args a;
	struct rpl_err err = { 0 };

	(void)snprintf(text, sizeof(text), "%s", said);
	assert_true(xen_helper_args(split(text, argv), argv, &a, &err) < 0);
	if (!strstr(err.msg, why))
		fail_msg("'%s' does not speak of '%s'", err.msg, why);
}

static void test_other_arguments_are_refused(void **state)
{
	(void)state;
	refused("", "only --restore-domain");
	refused("--save-domain\n1\n2\n3\n4\n5\n6", "only --restore-domain");
	refused("--restore-domain\n12\n-1\n3\n1\n0\n2\n0\n768", "arguments");
	refused("--restore-domain\n12\n-1\n3\n1\n0\n2\n0\n768\n0\n7", "arguments");
	refused("--restore-domain\n12\n-1\nx\n1\n0\n2\n0\n768\n0", "'x'");
	refused("--restore-domain\n12\n-2\n3\n1\n0\n2\n0\n768\n0", "'-2'");
	refused("--restore-domain\n12\n-1\n3\n1\n0\n2\n0\n4294967296\n0", "'4294967296'");
	refused("--restore-domain\n12\n-1\n3\n1\n0\n2\n0\n1792\n0", "callbacks 0x700");
	refused("--restore-domain\n12\n-1\n3\n1\n0\n2\n0\n768\n1", "stream type 1");
}

/* ---- the gate */

static bool gate(const char *library)
{
	struct rpl_err err = { 0 };
	char maps[256];
	bool good;

	(void)snprintf(maps, sizeof(maps), "7f00-7f01 r-xp 0 fe:00 1 /usr/lib/libc.so.6\n7f02-7f03 r--p 0 fe:00 2 /usr/lib/%s\n", library);
	good = xen_helper_gate(maps, &err);
	assert_true(good == !err.code);
	return good;
}

static void test_gate(void **state)
{
	(void)state;
	assert_true(gate("libxenlight.so.4.17.0"));
	assert_true(gate("libxenlight.so.4.17"));
	assert_false(gate("libxenlight.so.4.18.0"));
	assert_false(gate("libxenlight.so.4.170"));
	assert_false(gate("libxenlight.so.4.1"));
	assert_false(gate("libxl.so"));
}

static void test_long_texts_are_cut(void **state)
{
	char text[3 * XEN_HELPER_TEXT_MAX];
	uint8_t buf[XEN_HELPER_MSG_MAX];
	struct rpl_out o = rpl_out(buf, sizeof(buf));
	struct rpl_cur c;
	size_t len;

	(void)state;
	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	xen_helper_put_log(&o, XEN_LEVEL_ERROR, ENOMEM, text, text);
	assert_false(o.bad);
	c = rpl_cur(o.p, o.len);
	len = rpl_cur_le16(&c);
	assert_int_equal(len, c.left);
	assert_int_equal(rpl_cur_le16(&c), XEN_MSG_LOG);
	assert_int_equal(rpl_cur_le32(&c), XEN_LEVEL_ERROR);
	assert_int_equal(rpl_cur_le32(&c), ENOMEM);
	assert_int_equal(strlen(text_of(&c)), XEN_HELPER_TEXT_MAX - 1);
	assert_int_equal(strlen(text_of(&c)), XEN_HELPER_TEXT_MAX - 1);
	assert_int_equal(c.left, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_recorded_conversation), cmocka_unit_test(test_the_recorded_answers),
		cmocka_unit_test(test_the_recorded_arguments),    cmocka_unit_test(test_other_arguments_are_refused),
		cmocka_unit_test(test_gate),                      cmocka_unit_test(test_long_texts_are_cut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
