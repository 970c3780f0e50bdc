/* xen_ask.c - the request to suspend reaches xenstored whole, in one piece, and no answer of its stops us
 *
 * Both ends are in this process: what is read here was sent before.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <xen/io/xs_wire.h>

#include <replicad/io.h>

#include "../../src/guest/xen_ask.h"

#define NODE "/local/domain/5/control/shutdown"

static char dir[] = "/tmp/xen-ask-XXXXXX", path[64];
static int listener, theirs;
static struct xen_ask ask;

static int begin(void **state)
{
	struct rpl_err err;

	(void)state;
	listener = rpl_unix_listen(path, SOCK_STREAM, &err);
	assert_true(listener >= 0);
	xen_ask_open(&ask, path);
	assert_true(ask.sock >= 0);
	theirs = accept(listener, NULL, NULL);
	assert_true(theirs >= 0);
	return 0;
}

static int end(void **state)
{
	(void)state;
	xen_ask_close(&ask);
	(void)close(theirs);
	(void)close(listener);
	return 0;
}

static void expect_request(void)
{
	struct xsd_sockmsg h;
	char buf[256];
	ssize_t n = recv(theirs, buf, sizeof(buf), MSG_DONTWAIT);

	assert_int_equal(n, sizeof(h) + sizeof(NODE) + strlen("suspend"));
	memcpy(&h, buf, sizeof(h));
	assert_int_equal(h.type, XS_WRITE);
	assert_int_equal(h.tx_id, 0);
	assert_int_equal(h.len, (size_t)n - sizeof(h));
	assert_memory_equal(buf + sizeof(h), NODE "\0suspend", h.len);
}

static void ask_one(void)
{
	assert_int_equal(xen_ask_write(&ask, NODE, "suspend"), 0);
	expect_request();
}

static size_t put_answer(char *to, uint32_t type, const char *text)
{
	struct xsd_sockmsg h = { .type = type, .len = (uint32_t)strlen(text) + 1 };

	memcpy(to, &h, sizeof(h));
	memcpy(to + sizeof(h), text, h.len);
	return sizeof(h) + h.len;
}

static void answer(uint32_t type, const char *text)
{
	char buf[256];
	size_t n = put_answer(buf, type, text);

	assert_int_equal(send(theirs, buf, n, 0), n);
}

static void test_answered(void **state)
{
	(void)state;
	for (int i = 0; i < 100; i++) {
		ask_one();
		assert_int_equal(ask.unanswered, 1);
		answer(XS_WRITE, "OK");
	}
	xen_ask_settle(&ask);
	assert_int_equal(ask.unanswered, 0);
}

static void test_in_pieces(void **state)
{
	char buf[256];
	size_t n = put_answer(buf, XS_WRITE, "OK");

	(void)state;
	for (size_t cut = 1; cut < n; cut++) {
		ask_one();
		assert_int_equal(send(theirs, buf, cut, 0), cut);
		ask_one();
		assert_int_equal(ask.unanswered, 2);
		assert_int_equal(send(theirs, buf + cut, n - cut, 0), n - cut);
		answer(XS_WRITE, "OK");
		xen_ask_settle(&ask);
		assert_int_equal(ask.unanswered, 0);
	}
}

static void test_refused(void **state)
{
	(void)state;
	ask_one();
	answer(XS_ERROR, "ENOSPC");
	ask_one(); /* it is in the log, and the next one may do better */
	answer(XS_WRITE, "OK");
	xen_ask_settle(&ask);
	assert_int_equal(ask.unanswered, 0);
	assert_true(ask.sock >= 0);
}

/* Then libxenstore does what it can: not in silence for ever. */
static void test_never_answered(void **state)
{
	int r = 0, n = 0;

	(void)state;
	for (; n < 1000 && r == 0; n++)
		r = xen_ask_write(&ask, NODE, "suspend");
	assert_int_equal(r, -ENOTCONN);
	assert_in_range(n, 2, 100);
	assert_true(ask.sock < 0);
	xen_ask_settle(&ask);
}

static void test_gone(void **state)
{
	(void)state;
	ask_one();
	(void)close(theirs);
	theirs = -1;
	assert_true(xen_ask_write(&ask, NODE, "suspend") < 0);
	assert_true(ask.sock < 0);
	assert_int_equal(xen_ask_write(&ask, NODE, "suspend"), -ENOTCONN);
}

static void test_nonsense(void **state)
{
	static const struct xsd_sockmsg bad[] = { { .type = XS_WATCH_EVENT, .len = 4 }, { .type = XS_WRITE, .len = UINT32_MAX },
						  { .type = XS_ERROR, .len = 1000 } };

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		ask_one();
		assert_int_equal(send(theirs, &bad[i], sizeof(bad[i]), 0), sizeof(bad[i]));
		xen_ask_settle(&ask);
		assert_true(ask.sock < 0);
		assert_int_equal(end(NULL), 0);
		assert_int_equal(begin(NULL), 0);
	}
}

static void test_too_long(void **state)
{
	char path_of[1024];

	(void)state;
	memset(path_of, 'x', sizeof(path_of) - 1);
	path_of[sizeof(path_of) - 1] = '\0';
	assert_int_equal(xen_ask_write(&ask, path_of, "suspend"), -ENOTCONN);
}

static void test_no_socket(void **state)
{
	struct xen_ask a;
	char nowhere[80];

	(void)state;
	(void)snprintf(nowhere, sizeof(nowhere), "%s/nowhere", dir);
	xen_ask_open(&a, nowhere);
	assert_int_equal(a.sock, -1);
	assert_int_equal(xen_ask_write(&a, NODE, "suspend"), -ENOTCONN);
	xen_ask_settle(&a);
	xen_ask_close(&a);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_answered, begin, end),
		cmocka_unit_test_setup_teardown(test_in_pieces, begin, end),
		cmocka_unit_test_setup_teardown(test_refused, begin, end),
		cmocka_unit_test_setup_teardown(test_never_answered, begin, end),
		cmocka_unit_test_setup_teardown(test_gone, begin, end),
		cmocka_unit_test_setup_teardown(test_nonsense, begin, end),
		cmocka_unit_test_setup_teardown(test_too_long, begin, end),
		cmocka_unit_test(test_no_socket),
	};
	int r;

	if (!mkdtemp(dir))
		return 1;
	(void)snprintf(path, sizeof(path), "%s/socket", dir);
	r = cmocka_run_group_tests(tests, NULL, NULL);
	(void)unlink(path);
	(void)rmdir(dir);
	return r;
}
