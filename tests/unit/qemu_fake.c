#include "qemu_fake.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include <replicad/io.h>

#define LINES_MAX 8192

struct qemu_fake qemu;

static struct {
	int fd;          /* its end of the connection */
	int set_fd;      /* what add-fd brought */
	int greet;       /* an eventfd: may speak */
	pthread_t thread;
	bool connected;
} monitor;

/* Whoever has hung up does not hear it. */
static void say(const char *text)
{
	ssize_t n = send(monitor.fd, text, strlen(text), MSG_NOSIGNAL);

	assert_true(n == (ssize_t)strlen(text) || errno == EPIPE);
}

static size_t hear(char *buf, size_t size)
{
	size_t n_fds = 1;
	int fd;
	ssize_t n = rpl_recv_fds(monitor.fd, buf, size, &fd, &n_fds);

	if (n > 0 && n_fds)
		monitor.set_fd = fd;
	return n > 0 ? (size_t)n : 0;
}

static bool is(const char *command, const char *which)
{
	return which && strcmp(command, which) == 0;
}

static void reply(const char *command, json_int_t id)
{
	char text[256];

	if (is(command, qemu.refuses))
		(void)snprintf(text, sizeof(text), "{\"id\": %lld, \"error\": {\"class\": \"GenericError\", \"desc\": \"not today\"}}\n",
			       (long long)id);
	else
		(void)snprintf(text, sizeof(text), "{\"id\": %lld, \"return\": {%s}}\n", (long long)id,
			       is(command, "add-fd") ? "\"fdset-id\": 7, \"fd\": 20" : "");
	say(text);
}

/* False: it hangs up. */
static bool answer(const char *line)
{
	json_t *o = json_loads(line, 0, NULL), *args = json_object_get(o, "arguments");
	const char *command = json_string_value(json_object_get(o, "execute"));
	const json_t *enable = json_object_get(args, "enable");

	assert_non_null(command);
	if (is(command, qemu.hangs_up)) {
		json_decref(o);
		return false;
	}
	(void)snprintf(qemu.seen[qemu.n_seen++ % QEMU_FAKE_SEEN_MAX], sizeof(qemu.seen[0]), "%s%s", command,
		       !enable ? "" : json_is_true(enable) ? " on" : " off");
	if (is(command, "xen-save-devices-state"))
		assert_int_equal(write(monitor.set_fd, qemu.state, qemu.state_len), (ssize_t)qemu.state_len);
	if (!is(command, qemu.silent))
		reply(command, json_integer_value(json_object_get(o, "id")));
	json_decref(o);
	return true;
}

static void converse(void)
{
	char buf[LINES_MAX];
	size_t have = 0, n;

	say("{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, \"package\": \"\"}, \"capabilities\": []}}\n");
	while ((n = hear(buf + have, sizeof(buf) - 1 - have))) {
		char *end;

		have += n;
		buf[have] = '\0';
		while ((end = strchr(buf, '\n'))) {
			*end = '\0';
			if (!answer(buf))
				return;
			have -= (size_t)(end + 1 - buf);
			memmove(buf, end + 1, have + 1);
		}
	}
}

static void *be_qemu(void *arg)
{
	uint64_t any;

	(void)arg;
	if (qemu.waits)
		assert_int_equal(read(monitor.greet, &any, sizeof(any)), (ssize_t)sizeof(any));
	converse();
	(void)close(monitor.fd);
	return NULL;
}

/* In the place of the socket below /var/run/xen. */
int __wrap_rpl_unix_connect(const char *path, int type, struct rpl_err *err);
int __wrap_rpl_unix_connect(const char *path, int type, struct rpl_err *err)
{
	int pair[2];

	assert_string_equal(path, QEMU_FAKE_MONITOR);
	if (qemu.gone)
		return rpl_fail_errno(err, ECONNREFUSED, "connect to %s", path);
	qemu_fake_ended();
	assert_int_equal(socketpair(AF_UNIX, type, 0, pair), 0);
	monitor.fd = pair[1];
	monitor.connected = true;
	assert_int_equal(fcntl(pair[1], F_SETFL, 0), 0);
	assert_int_equal(pthread_create(&monitor.thread, NULL, be_qemu, NULL), 0);
	return pair[0];
}

void qemu_fake_start(void)
{
	memset(&qemu, 0, sizeof(qemu));
	memset(&monitor, 0, sizeof(monitor));
	monitor.set_fd = -1;
	monitor.greet = eventfd(0, EFD_CLOEXEC);
	assert_true(monitor.greet >= 0);
}

void qemu_fake_greet(void)
{
	const uint64_t one = 1;

	assert_int_equal(write(monitor.greet, &one, sizeof(one)), (ssize_t)sizeof(one));
}

void qemu_fake_ended(void)
{
	if (!monitor.connected)
		return;
	monitor.connected = false;
	assert_int_equal(pthread_join(monitor.thread, NULL), 0);
	if (monitor.set_fd >= 0)
		(void)close(monitor.set_fd);
	monitor.set_fd = -1;
}

void qemu_fake_end(void)
{
	qemu_fake_ended();
	(void)close(monitor.greet);
}
