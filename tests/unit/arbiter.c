/* The arbiter room: the record's text, the register as a file, and the operations of `file`.
 *
 * Races: two processes swap from the same record, in rounds; exactly one wins each. Crashes: a child that swaps is
 * killed at its nth system call, for every n until it survives; afterwards the record is the old or the new one, whole.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <ev.h>

#include <replicad/arbiter.h>
#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/io.h>

#include "failover/arbiter/file_register.h"
#include "failover/arbiter/record_text.h"

#define RACE_ROUNDS 200
#define SYSCALLS_MAX 400 /* one swap makes far fewer */
#define REMOVE_MS 60000
#define PATIENT_MS 60000 /* only reached by a failure */

static char dir[64];

static bool never(void *arg)
{
	(void)arg;
	return false;
}

static struct rpl_record sample(uint64_t generation)
{
	struct rpl_record r = { .format = RPL_RECORD_FORMAT, .mode = RPL_MODE_PROTECTED, .generation = generation,
				.owner = "alpha" };

	memset(r.vm.b, 0x11, sizeof(r.vm.b));
	memset(r.session.b, 0x22, sizeof(r.session.b));
	rpl_uuid_random(&r.nonce);
	return r;
}

static struct rpl_register_answer swap(const struct rpl_record *expect, const struct rpl_record *want)
{
	struct rpl_arbiter_ask ask = { .cas = true, .vm = want->vm, .absent = !expect, .want = *want };
	struct rpl_register_answer a;

	if (expect)
		ask.expect = *expect;
	rpl_register_run(dir, "test", &ask, never, NULL, &a);
	return a;
}

static struct rpl_register_answer look(void)
{
	struct rpl_arbiter_ask ask = { .vm = sample(1).vm };
	struct rpl_register_answer a;

	rpl_register_run(dir, "test", &ask, never, NULL, &a);
	return a;
}

static void record_path(char path[128])
{
	struct rpl_uuid vm = sample(1).vm;
	char text[RPL_UUID_TEXT];

	(void)snprintf(path, 128, "%s/replicad/test/%s", dir, rpl_uuid_text(&vm, text));
}

static void forget_record(void)
{
	char path[128];

	record_path(path);
	(void)unlink(path);
	(void)strcat(path, ".new");
	(void)unlink(path);
}

/* ---- text */

static void text_round_trips(void **state)
{
	char text[RPL_RECORD_TEXT_MAX];

	(void)state;
	for (uint32_t mode = 0; mode < RPL_MODE_N; mode++) {
		struct rpl_record r = sample(INT64_MAX - mode), back;
		struct rpl_err err = { 0 };
		int len;

		r.mode = mode;
		memset(r.owner, 'x', RPL_NODE_NAME - 1);
		len = rpl_record_encode(&r, text, &err);
		assert_true(len > 0);
		assert_int_equal(strlen(text), len);
		assert_int_equal(strcspn(text, "\n"), len - 1); /* one line */
		assert_int_equal(rpl_record_decode(text, (size_t)len, &back, &err), 0);
		assert_true(rpl_record_equal(&r, &back));
	}
}

static void what_must_not_be_stored_is_refused(void **state)
{
	char text[RPL_RECORD_TEXT_MAX];
	struct rpl_record r;
	struct rpl_err err;

	(void)state;
#define REFUSED(change)                                                    \
	do {                                                               \
		r = sample(7);                                             \
		change;                                                    \
		assert_int_equal(rpl_record_encode(&r, text, &err), -EINVAL); \
	} while (0)
	REFUSED(r.format = 2);
	REFUSED(r.mode = RPL_MODE_N);
	REFUSED(r.generation = 0);
	REFUSED(r.generation = UINT64_MAX);
	REFUSED(r.owner[0] = '\0');
	REFUSED(memset(r.owner, 'x', sizeof(r.owner)));
	REFUSED(memset(&r.vm, 0, sizeof(r.vm)));
	REFUSED(r.owner[0] = (char)0xff);
#undef REFUSED
}

#define V "\"vm\":\"11111111-1111-1111-1111-111111111111\""
#define S "\"session\":\"22222222-2222-2222-2222-222222222222\""
#define N "\"nonce\":\"33333333-3333-3333-3333-333333333333\""
#define G "\"generation\":7"
#define O "\"owner\":\"alpha\""
#define M "\"mode\":\"SOLO\""

static void other_text_is_never_a_record(void **state)
{
	static const struct {
		const char *text;
		int code;
	} row[] = {
		{ "{\"format\":1," V "," G "," O "," M "," S "," N "}", 0 },
		{ "{\"format\":2," V "," G "," O "," M "," S "," N "}", -EPROTONOSUPPORT },
		{ "{\"format\":2,\"new\":true}", -EPROTONOSUPPORT },
		{ "{\"format\":\"1\"," V "," G "," O "," M "," S "," N "}", -EBADMSG },
		{ "{" V "," G "," O "," M "," S "," N "}", -EBADMSG },
		{ "{\"format\":1," V "," G "," O "," M "," S "}", -EBADMSG },
		{ "{\"format\":1," V "," G "," O "," M "," S "," N ",\"more\":1}", -EBADMSG },
		{ "{\"format\":1," V "," G "," O "," M "," S "," S "}", -EBADMSG },
		{ "{\"format\":1," V ",\"generation\":0," O "," M "," S "," N "}", -EBADMSG },
		{ "{\"format\":1," V ",\"generation\":-1," O "," M "," S "," N "}", -EBADMSG },
		{ "{\"format\":1," V ",\"generation\":1.5," O "," M "," S "," N "}", -EBADMSG },
		{ "{\"format\":1," V ",\"generation\":99999999999999999999," O "," M "," S "," N "}", -EBADMSG },
		{ "{\"format\":1," V "," G ",\"owner\":\"\"," M "," S "," N "}", -EBADMSG },
		{ "{\"format\":1," V "," G ",\"owner\":\"a\\u0000b\"," M "," S "," N "}", -EBADMSG },
		{ "{\"format\":1," V "," G "," O ",\"mode\":\"solo\"," S "," N "}", -EBADMSG },
		{ "{\"format\":1,\"vm\":\"11\"," G "," O "," M "," S "," N "}", -EBADMSG },
		{ "{\"format\":1,\"vm\":\"00000000-0000-0000-0000-000000000000\"," G "," O "," M "," S "," N "}", -EBADMSG },
		{ "[1]", -EBADMSG },
		{ "", -EBADMSG },
		{ "{\"format\":1," V "," G "," O "," M "," S "," N, -EBADMSG },
	};

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(row); i++) {
		struct rpl_record r;
		struct rpl_err err = { 0 };

		if (rpl_record_decode(row[i].text, strlen(row[i].text), &r, &err) != row[i].code)
			fail_msg("row %zu: %d, want %d: %s", i, err.code, row[i].code, err.msg);
	}
}

/* ---- the register */

static void a_register_swaps_only_from_what_is_there(void **state)
{
	struct rpl_record one = sample(1), two = sample(2), other = sample(2);
	struct rpl_register_answer a;

	(void)state;
	forget_record();
	assert_int_equal(look().outcome, RPL_ARBITER_NONE);
	a = swap(&one, &two); /* expected, but gone: not "refused by something" */
	assert_int_equal(a.outcome, RPL_ARBITER_UNKNOWN);
	assert_non_null(strstr(a.err.msg, "removed by hand"));
	assert_int_equal(swap(NULL, &one).outcome, RPL_ARBITER_OK);
	a = swap(NULL, &other);
	assert_int_equal(a.outcome, RPL_ARBITER_REFUSED);
	assert_true(rpl_record_equal(&a.record, &one));
	a = swap(&one, &two);
	assert_int_equal(a.outcome, RPL_ARBITER_OK);
	assert_true(rpl_record_equal(&a.record, &two));
	a = swap(&one, &other);
	assert_int_equal(a.outcome, RPL_ARBITER_REFUSED);
	assert_true(rpl_record_equal(&a.record, &two));
	a = look();
	assert_int_equal(a.outcome, RPL_ARBITER_OK);
	assert_true(rpl_record_equal(&a.record, &two));
}

static void write_record_file(const char *text, size_t len)
{
	char path[128];

	record_path(path);
	assert_int_equal(rpl_write_file_durably(path, text, len, 0600, NULL), 0);
}

static void a_corrupt_file_is_unknown_and_stays(void **state)
{
	static const char *const text[] = { "", "{", "{\"format\":9}\n" };
	struct rpl_record want = sample(1);
	char path[128], line[RPL_RECORD_TEXT_MAX];
	struct rpl_register_answer a;
	struct rpl_record stranger = sample(3);

	(void)state;
	record_path(path);
	for (size_t i = 0; i < RPL_ARRAY_LEN(text); i++) {
		write_record_file(text[i], strlen(text[i]));
		a = look();
		assert_int_equal(a.outcome, RPL_ARBITER_UNKNOWN);
		assert_non_null(strstr(a.err.msg, "test/11111111"));
		a = swap(NULL, &want); /* never "absent" */
		assert_int_equal(a.outcome, RPL_ARBITER_UNKNOWN);
	}
	memset(stranger.vm.b, 0x77, sizeof(stranger.vm.b));
	write_record_file(line, (size_t)rpl_record_encode(&stranger, line, NULL));
	a = look();
	assert_int_equal(a.outcome, RPL_ARBITER_UNKNOWN);
	assert_non_null(strstr(a.err.msg, "77777777"));
	forget_record();
}

static void a_missing_directory_is_not_an_empty_register(void **state)
{
	struct rpl_arbiter_ask ask = { .vm = sample(1).vm };
	struct rpl_register_answer a;

	(void)state;
	rpl_register_run("/nonexistent/arbiter", "test", &ask, never, NULL, &a);
	assert_int_equal(a.outcome, RPL_ARBITER_UNKNOWN);
	assert_int_equal(a.err.code, -ENOENT);
	assert_non_null(strstr(a.err.msg, "/nonexistent/arbiter"));
}

/* One racer: waits for the round to begin, then swaps from the round's record to its own. */
static void race(volatile uint64_t *round, volatile uint64_t *done, struct rpl_record *from, uint32_t *won, char name)
{
	for (uint64_t r = 1; r <= RACE_ROUNDS; r++) {
		struct rpl_record want;
		struct rpl_register_answer a;

		while (__atomic_load_n(round, __ATOMIC_ACQUIRE) < r)
			(void)usleep(50);
		want = sample(from->generation + 1);
		want.owner[0] = name;
		a = swap(from, &want);
		if (a.outcome == RPL_ARBITER_OK)
			won[r]++;
		else if (a.outcome != RPL_ARBITER_REFUSED || a.record.generation != want.generation ||
			 a.record.owner[0] == name)
			won[r] += 100; /* neither won nor rightly lost */
		(void)__atomic_add_fetch(done, 1, __ATOMIC_ACQ_REL);
	}
}

static void two_processes_race_and_exactly_one_wins(void **state)
{
	struct shared {
		volatile uint64_t round, done;
		struct rpl_record from;
		uint32_t won[2][RACE_ROUNDS + 1];
	} *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pid[2];
	uint32_t wins[2] = { 0 };

	(void)state;
	assert_ptr_not_equal(s, MAP_FAILED);
	forget_record();
	s->from = sample(1);
	assert_int_equal(swap(NULL, &s->from).outcome, RPL_ARBITER_OK);
	for (int i = 0; i < 2; i++) {
		pid[i] = fork();
		if (pid[i] == 0) {
			race(&s->round, &s->done, &s->from, s->won[i], i ? 'B' : 'A');
			_exit(0);
		}
		assert_true(pid[i] > 0);
	}
	for (uint64_t r = 1; r <= RACE_ROUNDS; r++) {
		__atomic_store_n(&s->round, r, __ATOMIC_RELEASE);
		while (__atomic_load_n(&s->done, __ATOMIC_ACQUIRE) < 2 * r)
			(void)usleep(50);
		assert_int_equal(s->won[0][r] + s->won[1][r], 1);
		wins[0] += s->won[0][r];
		wins[1] += s->won[1][r];
		s->from = look().record;
	}
	for (int i = 0; i < 2; i++)
		assert_int_equal(waitpid(pid[i], NULL, 0), pid[i]);
	assert_int_equal(s->from.generation, RACE_ROUNDS + 1);
	print_message("wins: %u and %u\n", wins[0], wins[1]);
	(void)munmap(s, sizeof(*s));
	forget_record();
}

/* A child that swaps, killed on entry to its nth system call after it has raised SIGSTOP. true: it lived. */
static bool swap_killed_at(unsigned n, const struct rpl_record *from, const struct rpl_record *want)
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0) {
		(void)ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		(void)raise(SIGSTOP);
		_exit(swap(from, want).outcome == RPL_ARBITER_OK ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (!WIFSTOPPED(status))
		skip(); /* no ptrace here */
	(void)ptrace(PTRACE_SETOPTIONS, pid, NULL, (void *)(PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL));
	for (unsigned stops = 0;; stops++) {
		if (stops == n) {
			(void)kill(pid, SIGKILL);
			assert_int_equal(waitpid(pid, &status, 0), pid);
			return false;
		}
		(void)ptrace(PTRACE_SYSCALL, pid, NULL, NULL);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (WIFEXITED(status)) {
			assert_int_equal(WEXITSTATUS(status), 0);
			return true;
		}
		assert_true(WIFSTOPPED(status));
	}
}

static void a_crash_at_any_system_call_leaves_a_whole_record(void **state)
{
	struct rpl_record from = sample(1), want = sample(2);
	unsigned n, old = 0, new = 0;

	(void)state;
	for (n = 1; n < SYSCALLS_MAX; n++) {
		struct rpl_register_answer a;
		bool lived;

		forget_record();
		assert_int_equal(swap(NULL, &from).outcome, RPL_ARBITER_OK);
		lived = swap_killed_at(n, &from, &want);
		a = look();
		assert_int_equal(a.outcome, RPL_ARBITER_OK);
		if (rpl_record_equal(&a.record, &want))
			new++;
		else if (rpl_record_equal(&a.record, &from))
			old++;
		else
			fail_msg("killed at stop %u: generation %" PRIu64 " is neither the old nor the new record", n,
				 a.record.generation);
		assert_true(!lived || new);
		if (lived)
			break;
		/* and the register goes on from there, whatever temporary file was left */
		want = sample(a.record.generation + 1);
		assert_int_equal(swap(&a.record, &want).outcome, RPL_ARBITER_OK);
		want = sample(2);
	}
	assert_true(n < SYSCALLS_MAX);
	assert_true(old > 10);
	assert_true(new > 1);
	print_message("%u places to crash: old record after %u, new after %u\n", n, old, new);
	forget_record();
}

/* ---- the operations, in a loop */

struct client {
	struct ev_loop *loop;
	struct rpl_arbiter *a;
	unsigned answers;
	enum rpl_arbiter_outcome outcome;
	struct rpl_record record;
	struct rpl_err err;
};

static void client_done(void *arg, enum rpl_arbiter_outcome outcome, const struct rpl_record *record,
			const struct rpl_err *err)
{
	struct client *c = arg;

	c->answers++;
	c->outcome = outcome;
	if (record)
		c->record = *record;
	c->err = *err;
	ev_break(c->loop, EVBREAK_ALL);
}

static void client_open(struct client *c, unsigned timeout_ms)
{
	struct rpl_arbiter_conf conf = { .backend = "file", .location = dir, .cluster = "test",
					 .timeout_ms = timeout_ms };

	*c = (struct client){ .loop = ev_loop_new(0) };
	c->a = rpl_arbiter_new(&conf, c->loop, client_done, c, &c->err);
	assert_non_null(c->a);
}

static enum rpl_arbiter_outcome client_wait(struct client *c)
{
	unsigned before = c->answers;

	assert_int_equal(ev_run(c->loop, 0) != 0 || c->answers, 1);
	assert_int_equal(c->answers, before + 1);
	return c->outcome;
}

static void client_close(struct client *c)
{
	rpl_arbiter_free(c->a);
	ev_loop_destroy(c->loop);
}

static void operations_answer_from_the_loop_one_at_a_time(void **state)
{
	struct rpl_record one = sample(1), two = sample(2), other = sample(2), third = sample(3);
	struct client c;

	(void)state;
	forget_record();
	client_open(&c, PATIENT_MS);
	assert_int_equal(rpl_arbiter_read(c.a, &one.vm, &c.err), 0);
	assert_int_equal(rpl_arbiter_read(c.a, &one.vm, &c.err), -EALREADY);
	assert_int_equal(c.answers, 0);
	assert_int_equal(client_wait(&c), RPL_ARBITER_NONE);
	assert_int_equal(rpl_arbiter_cas(c.a, NULL, &one, &c.err), 0);
	assert_int_equal(client_wait(&c), RPL_ARBITER_OK);
	assert_int_equal(rpl_arbiter_cas(c.a, &one, &two, &c.err), 0);
	assert_int_equal(client_wait(&c), RPL_ARBITER_OK);
	assert_int_equal(rpl_arbiter_cas(c.a, &one, &other, &c.err), 0);
	assert_int_equal(client_wait(&c), RPL_ARBITER_REFUSED);
	assert_true(rpl_record_equal(&c.record, &two));
	assert_int_equal(rpl_arbiter_read(c.a, &one.vm, &c.err), 0);
	assert_int_equal(client_wait(&c), RPL_ARBITER_OK);
	assert_true(rpl_record_equal(&c.record, &two));
	assert_int_equal(rpl_arbiter_cas(c.a, &two, &one, &c.err), -EINVAL); /* I4 */
	memset(third.vm.b, 0x55, sizeof(third.vm.b));
	assert_int_equal(rpl_arbiter_cas(c.a, &two, &third, &c.err), -EINVAL);
	client_close(&c);
	forget_record();
}

/* Another process keeps the lock: the answer is UNKNOWN in time, the abandoned swap never happens, and a read after the
 * lock is free tells the truth (R6). */
static void a_stuck_register_is_unknown_in_time(void **state)
{
	struct rpl_record one = sample(1), two = sample(2);
	RPL_AUTO_FD int fd = -1;
	char sub[96];
	uint64_t began;
	struct client c;

	(void)state;
	forget_record();
	assert_int_equal(swap(NULL, &one).outcome, RPL_ARBITER_OK);
	(void)snprintf(sub, sizeof(sub), "%s/replicad/test", dir);
	fd = open(sub, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	client_open(&c, 100);
	began = rpl_now_ns();
	assert_int_equal(rpl_arbiter_cas(c.a, &one, &two, &c.err), 0);
	assert_int_equal(client_wait(&c), RPL_ARBITER_UNKNOWN);
	assert_int_equal(c.err.code, -ETIMEDOUT);
	assert_true(rpl_now_ns() - began < PATIENT_MS * RPL_MS);
	for (int i = 0; i < 8; i++) { /* abandoned operations come back by themselves: there is always room again */
		assert_int_equal(rpl_arbiter_read(c.a, &one.vm, &c.err), 0);
		assert_int_equal(client_wait(&c), RPL_ARBITER_UNKNOWN);
	}
	assert_int_equal(flock(fd, LOCK_UN), 0);
	do {
		assert_int_equal(rpl_arbiter_read(c.a, &one.vm, &c.err), 0);
	} while (client_wait(&c) == RPL_ARBITER_UNKNOWN); /* a loaded machine may need more than 100 ms */
	assert_int_equal(c.outcome, RPL_ARBITER_OK);
	assert_true(rpl_record_equal(&c.record, &one));
	client_close(&c);
	forget_record();
}

static void an_arbiter_may_be_freed_with_an_operation_under_way(void **state)
{
	struct rpl_record one = sample(1);

	(void)state;
	for (int i = 0; i < 20; i++) {
		struct client c;

		client_open(&c, PATIENT_MS);
		assert_int_equal(rpl_arbiter_read(c.a, &one.vm, &c.err), 0);
		if (i % 2)
			(void)usleep(500);
		client_close(&c);
	}
	rpl_arbiter_free(NULL);
}

static void a_wrong_configuration_is_named(void **state)
{
	struct rpl_arbiter_conf conf = { .backend = "file", .location = dir, .cluster = "test", .timeout_ms = 100 };
	struct rpl_err err = { 0 };

	(void)state;
#define REFUSED(change, word)                                                      \
	do {                                                                       \
		struct rpl_arbiter_conf kept = conf;                               \
		change;                                                            \
		assert_null(rpl_arbiter_new(&conf, EV_DEFAULT, client_done, NULL, &err)); \
		assert_int_equal(err.code, -EINVAL);                               \
		assert_non_null(strstr(err.msg, word));                            \
		conf = kept;                                                       \
	} while (0)
	REFUSED(conf.backend = "zookeeper", "zookeeper");
	REFUSED(conf.cluster = "../other", "../other");
	REFUSED(conf.cluster = "..", "..");
	REFUSED(conf.cluster = "", "cluster");
	REFUSED(conf.timeout_ms = 0, "time-out");
	REFUSED(conf.location = "relative", "relative");
	REFUSED(conf.location = NULL, "absolute");
#undef REFUSED
}

/* ---- manual: what a node may decide alone, and what waits for a word */

static void manual_open(struct client *c)
{
	struct rpl_arbiter_conf conf = { .backend = "manual", .location = dir, .cluster = "test", .timeout_ms = 20000 };

	*c = (struct client){ .loop = ev_loop_new(0) };
	c->a = rpl_arbiter_new(&conf, c->loop, client_done, c, &c->err);
	assert_non_null(c->a);
}

static enum rpl_arbiter_outcome claim(struct client *c, const struct rpl_record *expect, const struct rpl_record *want,
				      bool permitted)
{
	int r = permitted ? rpl_arbiter_cas_permitted(c->a, expect, want, &c->err) :
			    rpl_arbiter_cas(c->a, expect, want, &c->err);

	assert_int_equal(r, 0);
	return client_wait(c);
}

static bool holds(const struct rpl_record *r)
{
	struct rpl_record now = look().record;

	return rpl_record_equal(&now, r);
}

static struct rpl_record of(const char *owner, enum rpl_mode mode, uint64_t generation)
{
	struct rpl_record r = sample(generation);

	r.mode = mode;
	memset(r.owner, 0, sizeof(r.owner));
	(void)strcpy(r.owner, owner);
	return r;
}

/* From each record to each next one: granted alone, or refused with the record as it was and granted with leave. */
static void manual_grants_alone_what_cannot_let_two_run(void **state)
{
	static const struct {
		const char *owner;
		enum rpl_mode mode, to;
		bool alone;
	} row[] = {
		{ "alpha", RPL_MODE_SOLO, RPL_MODE_SOLO, true },           { "alpha", RPL_MODE_SOLO, RPL_MODE_PROTECTED, true },
		{ "alpha", RPL_MODE_SOLO, RPL_MODE_DOWN, true },           { "alpha", RPL_MODE_PROTECTED, RPL_MODE_SOLO, false },
		{ "alpha", RPL_MODE_PROTECTED, RPL_MODE_PROTECTED, false }, { "alpha", RPL_MODE_PROTECTED, RPL_MODE_DOWN, true },
		{ "alpha", RPL_MODE_DOWN, RPL_MODE_SOLO, false },          { "beta", RPL_MODE_SOLO, RPL_MODE_SOLO, false },
		{ "beta", RPL_MODE_PROTECTED, RPL_MODE_SOLO, false },      { "beta", RPL_MODE_DOWN, RPL_MODE_SOLO, false },
	};
	struct client c;

	(void)state;
	manual_open(&c);
	for (size_t i = 0; i < RPL_ARRAY_LEN(row); i++) {
		struct rpl_record from = of(row[i].owner, row[i].mode, 7), to = of("alpha", row[i].to, 8);

		forget_record();
		assert_int_equal(claim(&c, NULL, &from, false), RPL_ARBITER_OK);
		if (!row[i].alone) {
			assert_int_equal(claim(&c, &from, &to, false), RPL_ARBITER_REFUSED);
			assert_true(rpl_record_equal(&c.record, &from));
			assert_true(holds(&from));
		}
		assert_int_equal(claim(&c, &from, &to, !row[i].alone), RPL_ARBITER_OK);
		assert_true(holds(&to));
		/* leave is for this generation: what follows from a stale one is refused for what it is */
		assert_int_equal(claim(&c, &from, &to, true), RPL_ARBITER_REFUSED);
		assert_true(rpl_record_equal(&c.record, &to));
	}
	forget_record();
	assert_int_equal(claim(&c, &(struct rpl_record){ .format = 1, .vm = sample(1).vm, .generation = 1, .owner = "beta" },
			       &(struct rpl_record){ .format = 1, .vm = sample(1).vm, .generation = 2, .owner = "alpha" }, false),
			 RPL_ARBITER_UNKNOWN); /* gone: not refused by anything */
	client_close(&c);
}

static void manual_learns_only_what_is_newer(void **state)
{
	struct rpl_record mine = of("alpha", RPL_MODE_PROTECTED, 7), same = of("beta", RPL_MODE_SOLO, 7);
	struct rpl_record older = of("beta", RPL_MODE_SOLO, 6), newer = of("beta", RPL_MODE_SOLO, 8);
	struct client c;

	(void)state;
	forget_record();
	manual_open(&c);
	assert_int_equal(rpl_arbiter_learn(c.a, &mine, &c.err), 0);
	assert_int_equal(client_wait(&c), RPL_ARBITER_OK);
	assert_true(holds(&mine));
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(rpl_arbiter_learn(c.a, i ? &same : &older, &c.err), 0);
		assert_int_equal(client_wait(&c), RPL_ARBITER_OK);
		assert_true(rpl_record_equal(&c.record, &mine));
	}
	assert_int_equal(rpl_arbiter_learn(c.a, &newer, &c.err), 0);
	assert_int_equal(client_wait(&c), RPL_ARBITER_OK);
	assert_true(rpl_record_equal(&c.record, &newer));
	assert_true(holds(&newer));
	/* what no honest peer says is not written down, and what an honest one says afterwards is */
	for (unsigned i = 0; i < 3; i++) {
		static const uint64_t leap[] = { 9 + RPL_GENERATION_LEAP_MAX, INT64_MAX, UINT64_MAX };
		struct rpl_record absurd = newer;

		absurd.generation = leap[i];
		assert_int_equal(rpl_arbiter_learn(c.a, &absurd, &c.err), 0);
		assert_int_equal(client_wait(&c), RPL_ARBITER_UNKNOWN);
		assert_non_null(strstr(c.err.msg, "not believed"));
		assert_true(holds(&newer));
	}
	newer.generation += RPL_GENERATION_LEAP_MAX;
	assert_int_equal(rpl_arbiter_learn(c.a, &newer, &c.err), 0);
	assert_int_equal(client_wait(&c), RPL_ARBITER_OK);
	assert_true(holds(&newer));
	client_close(&c);
	client_open(&c, PATIENT_MS);
	assert_int_equal(rpl_arbiter_learn(c.a, &newer, &c.err), -EOPNOTSUPP);
	client_close(&c);
	forget_record();
}

/* Threads of abandoned operations may still be at work there. What is left after them is a failure. */
static int remove_dir(void **state)
{
	char sub[96], top[96];

	(void)state;
	forget_record();
	(void)snprintf(sub, sizeof(sub), "%s/replicad/test", dir);
	(void)snprintf(top, sizeof(top), "%s/replicad", dir);
	for (int i = 0; i < REMOVE_MS; i++) {
		(void)rmdir(sub);
		(void)rmdir(top);
		if (rmdir(dir) == 0)
			return 0;
		(void)usleep(1000);
	}
	print_error("%s: more than the records was left\n", dir);
	return -1;
}

static int make_dir(void **state)
{
	(void)state;
	(void)strcpy(dir, "/tmp/rpl-arbiter-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(text_round_trips),
		cmocka_unit_test(what_must_not_be_stored_is_refused),
		cmocka_unit_test(other_text_is_never_a_record),
		cmocka_unit_test(a_register_swaps_only_from_what_is_there),
		cmocka_unit_test(a_corrupt_file_is_unknown_and_stays),
		cmocka_unit_test(a_missing_directory_is_not_an_empty_register),
		cmocka_unit_test(two_processes_race_and_exactly_one_wins),
		cmocka_unit_test(a_crash_at_any_system_call_leaves_a_whole_record),
		cmocka_unit_test(operations_answer_from_the_loop_one_at_a_time),
		cmocka_unit_test(a_stuck_register_is_unknown_in_time),
		cmocka_unit_test(an_arbiter_may_be_freed_with_an_operation_under_way),
		cmocka_unit_test(a_wrong_configuration_is_named),
		cmocka_unit_test(manual_grants_alone_what_cannot_let_two_run),
		cmocka_unit_test(manual_learns_only_what_is_newer),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
