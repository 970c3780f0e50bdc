/* The keeper's side of its mover, against a mover that is this program again and plays the part that its environment names. */
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <ev.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/io.h>

#include "../../src/keeper/movers.h"

#define PART "RPL_TEST_MOVER"
#define PATIENCE_MS 60000 /* only reached by a failure */
#define WORD 'F'          /* what goes to the peer in the place of a FORGET */

/* ---- the mover */

static void report(enum rpl_mover_type type, uint64_t epoch, const char *text)
{
	struct rpl_mover_msg m = { .size = sizeof(m), .type = type, .epoch = epoch };

	(void)snprintf(m.text, sizeof(m.text), "%s", text);
	if (rpl_send_fds(STDIN_FILENO, &m, sizeof(m), NULL, 0) < 0)
		_exit(2);
}

/* A command, and the connection if it came with one. */
static struct rpl_mover_msg command(int *ret_fd)
{
	struct rpl_mover_msg m;
	int fds[RPL_FDS_MAX];
	size_t n = RPL_FDS_MAX;

	if (rpl_recv_fds(STDIN_FILENO, &m, sizeof(m), fds, &n) != (ssize_t)sizeof(m))
		_exit(3);
	if (m.type == RPL_MOVER_LINK)
		*ret_fd = fds[0];
	return m;
}

static int play(const char *part)
{
	struct pollfd pfd = { .fd = STDIN_FILENO, .events = POLLIN };
	static const char word = WORD;
	struct rpl_mover_msg m;
	int link = -1;

	(void)command(&link); /* CONF */
	report(RPL_MOVER_READY, 0, "");
	if (strcmp(part, "ends") == 0 || strcmp(part, "ends-unread") == 0) {
		if (strcmp(part, "ends-unread") == 0)
			(void)poll(&pfd, 1, -1);
		report(RPL_MOVER_FOLDED, 7, "");
		report(RPL_MOVER_FAILED, 0, "its last words");
		return 1;
	}
	do {
		m = command(&link);
		if (m.type == RPL_MOVER_SEND && write(link, &word, 1) != 1)
			return 4;
	} while (m.type != RPL_MOVER_QUIT);
	while (strcmp(part, "stays") == 0)
		(void)pause();
	return 0;
}

/* ---- the keeper */

struct box {
	struct movers *movers;
	unsigned ready, folded, gone;
	char failed[RPL_MOVER_REASON_MAX], why[64];
	struct ev_loop *loop;
	int peer; /* the far end of the connection */
};

static void on_report(void *arg, const struct rpl_mover_msg *m)
{
	struct box *b = arg;

	assert_int_equal(b->gone, 0);
	b->ready += m->type == RPL_MOVER_READY;
	b->folded += m->type == RPL_MOVER_FOLDED && m->epoch == 7;
	if (m->type == RPL_MOVER_FAILED)
		(void)snprintf(b->failed, sizeof(b->failed), "%s", m->text);
}

static void on_gone(void *arg, const char *why)
{
	struct box *b = arg;

	b->gone++;
	(void)snprintf(b->why, sizeof(b->why), "%s", why);
	assert_false(movers_running(b->movers));
}

static void run_until(struct box *b, bool (*done)(const struct box *b))
{
	uint64_t until = rpl_now_ns() + PATIENCE_MS * RPL_MS;

	while (!done(b)) {
		assert_true(rpl_now_ns() < until);
		(void)ev_run(b->loop, EVRUN_NOWAIT);
		(void)usleep(1000);
	}
}

static bool is_ready(const struct box *b)
{
	return b->ready;
}

static bool is_gone(const struct box *b)
{
	return b->gone;
}

static bool is_retired(const struct box *b)
{
	return !movers_retiring(b->movers);
}

static void start(struct box *b)
{
	static const struct rpl_mover_conf conf;
	struct rpl_err err;

	b->ready = 0;
	if (movers_start(b->movers, &conf, STDERR_FILENO, (int[]){ STDERR_FILENO }, 1, &err) < 0)
		fail_msg("%s", err.msg);
	run_until(b, is_ready);
}

static void open_box(struct box *b, const char *part)
{
	struct rpl_err err;

	*b = (struct box){ .loop = EV_DEFAULT, .peer = -1 };
	(void)setenv(PART, part, 1);
	b->movers = movers_new("/proc/self/exe", b->loop, on_report, on_gone, b, &err);
	assert_non_null(b->movers);
	start(b);
}

static void connect_box(struct box *b)
{
	struct rpl_err err;
	int sv[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv), 0);
	b->peer = sv[0];
	assert_int_equal(movers_link(b->movers, sv[1], &err), 0);
}

static void close_box(struct box *b)
{
	movers_free(b->movers);
	rpl_close(&b->peer);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* nobody is left */
}

/* ---- */

static void ends(const char *part)
{
	struct box b;

	open_box(&b, part);
	if (strcmp(part, "ends-unread") == 0)
		movers_send(b.movers, RPL_MOVER_ROUND, 0, 0, 0, NULL);
	run_until(&b, is_gone);
	assert_int_equal(b.folded, 1);
	assert_string_equal(b.failed, "its last words");
	assert_string_equal(b.why, "the mover ended");
	assert_int_equal(b.gone, 1);
	close_box(&b);
}

static void what_it_said_last_is_heard(void **state)
{
	(void)state;
	ends("ends");
}

static void also_when_it_leaves_a_command_unread(void **state)
{
	(void)state;
	ends("ends-unread");
}

/* It does not run when it is told to say the last word, and to end. False: it did not in time when it could. */
static bool says_the_last_word(void)
{
	struct box b;
	pid_t pid;
	char word = 0;
	bool said;

	open_box(&b, "works");
	connect_box(&b);
	pid = movers_pid(b.movers);
	assert_int_equal(kill(pid, SIGSTOP), 0);
	assert_int_equal(waitpid(pid, NULL, WUNTRACED), pid);
	movers_send(b.movers, RPL_MOVER_SEND, 0, 0, 0, NULL);
	movers_retire(b.movers);
	assert_false(movers_running(b.movers));
	assert_true(movers_retiring(b.movers));
	(void)ev_run(b.loop, EVRUN_NOWAIT);
	assert_int_equal(recv(b.peer, &word, 1, 0), -1);
	assert_int_equal(errno, EAGAIN); /* the connection stands */
	(void)kill(pid, SIGCONT);
	run_until(&b, is_retired);
	said = recv(b.peer, &word, 1, 0) == 1 && word == WORD;
	assert_int_equal(b.gone, 0);
	assert_int_equal(b.failed[0], '\0');
	close_box(&b);
	return said;
}

/* On a loaded machine it may not get the processor for as long as it is waited for. */
static void one_that_is_retired_says_the_last_word(void **state)
{
	unsigned tries = 1;

	(void)state;
	while (!says_the_last_word())
		assert_true(tries++ < 5);
}

static void but_is_not_waited_for_without_end(void **state)
{
	struct box b;
	pid_t pid;

	(void)state;
	open_box(&b, "stays");
	connect_box(&b);
	pid = movers_pid(b.movers);
	movers_retire(b.movers);
	assert_true(movers_retiring(b.movers));
	run_until(&b, is_retired);
	assert_int_equal(kill(pid, 0), -1);
	assert_int_equal(errno, ESRCH);
	assert_int_equal(b.gone, 0);
	close_box(&b);
}

/* What they share is to be the new one's alone. */
static void nor_beside_another(void **state)
{
	struct box b;
	pid_t pid;

	(void)state;
	open_box(&b, "stays");
	pid = movers_pid(b.movers);
	movers_retire(b.movers);
	start(&b);
	assert_int_equal(kill(pid, 0), -1);
	assert_false(movers_retiring(b.movers));
	assert_int_not_equal(movers_pid(b.movers), pid);
	close_box(&b);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_it_said_last_is_heard),
		cmocka_unit_test(also_when_it_leaves_a_command_unread),
		cmocka_unit_test(one_that_is_retired_says_the_last_word),
		cmocka_unit_test(but_is_not_waited_for_without_end),
		cmocka_unit_test(nor_beside_another),
	};

	(void)argc;
	if (strcmp(argv[0], "replicad-mover") == 0)
		return play(getenv(PART));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
