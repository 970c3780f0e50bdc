/* The trace of checkpoints: what was marked is in the file, as replicad-trace(7) draws it, without closing anything. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/io.h>
#include <replicad/trace.h>

#define HEADER_BYTES 64u
#define RECORD_BYTES 112u
#define FILE_MAX (1024 * 1024)
#define READER_NS (300 * RPL_MS)

static char path[] = "/tmp/rpl-trace-XXXXXX";

static int make_path(void **state)
{
	int fd = mkstemp(path);

	(void)state;
	return fd < 0 ? -1 : close(fd);
}

static int remove_path(void **state)
{
	(void)state;
	return unlink(path);
}

static uint64_t word(const char *file, uint64_t epoch, size_t index)
{
	uint64_t v;

	memcpy(&v, file + HEADER_BYTES + epoch % RPL_TRACE_EPOCHS * RECORD_BYTES + index * sizeof(v), sizeof(v));
	return v;
}

static char *contents(size_t *len)
{
	struct rpl_err err = { 0 };
	char *file = NULL;

	assert_int_equal(rpl_read_file(path, FILE_MAX, &file, len, &err), 0);
	return file;
}

static void marks_are_in_the_file_at_once(void **state)
{
	struct rpl_err err = { 0 };
	uint64_t before = rpl_now_ns(), after;
	struct rpl_trace *t = rpl_trace_open(path, &err);
	RPL_AUTO_FREE char *file = NULL;
	uint32_t head[4];
	size_t len = 0;

	(void)state;
	assert_non_null(t);
	rpl_trace_mark(t, 7, RPL_TRACE_BEGUN);
	rpl_trace_mark(t, 7, RPL_TRACE_RESUMED);
	rpl_trace_pages(t, 7, 123);
	after = rpl_now_ns();
	file = contents(&len);
	assert_int_equal(len, HEADER_BYTES + RPL_TRACE_EPOCHS * RECORD_BYTES);
	assert_memory_equal(file, "RPLTRACE", 8);
	memcpy(head, file + 8, sizeof(head));
	assert_int_equal(head[0], 1);
	assert_int_equal(head[1], RECORD_BYTES);
	assert_int_equal(head[2], RPL_TRACE_EPOCHS);
	assert_int_equal(head[3], RPL_TRACE_NSTEPS);
	assert_int_equal(word(file, 7, 0), 7);
	assert_int_equal(word(file, 7, 1), 123);
	assert_true(word(file, 7, 2 + RPL_TRACE_BEGUN) >= before);
	assert_true(word(file, 7, 2 + RPL_TRACE_RESUMED) <= after);
	assert_true(word(file, 7, 2 + RPL_TRACE_BEGUN) <= word(file, 7, 2 + RPL_TRACE_RESUMED));
	assert_int_equal(word(file, 7, 2 + RPL_TRACE_ACKED), 0);
	rpl_trace_close(t);
}

static void a_newer_epoch_takes_the_slot_clean(void **state)
{
	struct rpl_err err = { 0 };
	struct rpl_trace *t = rpl_trace_open(path, &err);
	uint64_t newer = 7 + RPL_TRACE_EPOCHS;
	RPL_AUTO_FREE char *file = NULL;
	size_t len = 0;

	(void)state;
	assert_non_null(t);
	rpl_trace_mark(t, 7, RPL_TRACE_ACKED);
	rpl_trace_pages(t, 7, 123);
	rpl_trace_mark(t, newer, RPL_TRACE_BEGUN);
	rpl_trace_pages(t, 7, 99); /* gone: nothing is noted under the newer epoch */
	file = contents(&len);
	assert_int_equal(word(file, newer, 0), newer);
	assert_int_equal(word(file, newer, 1), 0);
	assert_int_equal(word(file, newer, 2 + RPL_TRACE_ACKED), 0);
	rpl_trace_close(t);
}

static void epoch_zero_and_no_trace_are_nothing(void **state)
{
	struct rpl_err err = { 0 };
	struct rpl_trace *t = rpl_trace_open(path, &err);
	RPL_AUTO_FREE char *file = NULL;
	size_t len = 0;

	(void)state;
	assert_non_null(t);
	rpl_trace_mark(t, 0, RPL_TRACE_BEGUN);
	rpl_trace_mark(NULL, 3, RPL_TRACE_BEGUN);
	rpl_trace_pages(NULL, 3, 1);
	file = contents(&len);
	for (size_t i = HEADER_BYTES; i < len; i++)
		assert_int_equal(file[i], 0);
	rpl_trace_close(t);
	rpl_trace_close(NULL);
}

static bool magic_is_there(void)
{
	char magic[8] = { 0 };
	RPL_AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);

	return fd >= 0 && read(fd, magic, sizeof(magic)) == (ssize_t)sizeof(magic) && memcmp(magic, "RPLTRACE", sizeof(magic)) == 0;
}

/* A keeper that begins anew while somebody reads. */
static void a_reader_always_finds_a_trace(void **state)
{
	struct rpl_err err = { 0 };
	pid_t reader;
	int status;

	(void)state;
	rpl_trace_close(rpl_trace_open(path, &err));
	reader = fork();
	if (reader == 0) {
		uint64_t end = rpl_now_ns() + READER_NS;

		while (rpl_now_ns() < end)
			if (!magic_is_there())
				_exit(1);
		_exit(0);
	}
	assert_true(reader > 0);
	while (waitpid(reader, &status, WNOHANG) == 0)
		rpl_trace_close(rpl_trace_open(path, &err));
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void a_path_that_cannot_be_made_is_named(void **state)
{
	struct rpl_err err = { 0 };

	(void)state;
	assert_null(rpl_trace_open("/nonexistent/trace", &err));
	assert_true(err.code < 0);
	assert_non_null(strstr(err.msg, "/nonexistent/trace"));
}

static void what_stands_in_the_way_is_named(void **state)
{
	struct rpl_err err = { 0 };
	char beside[sizeof(path) + 8];

	(void)state;
	(void)snprintf(beside, sizeof(beside), "%s.new", path);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_null(rpl_trace_open(path, &err));
	assert_non_null(strstr(err.msg, path));
	assert_int_equal(access(beside, F_OK), -1);
	assert_int_equal(rmdir(path), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(marks_are_in_the_file_at_once, make_path, remove_path),
		cmocka_unit_test(a_path_that_cannot_be_made_is_named),
		cmocka_unit_test_setup_teardown(a_newer_epoch_takes_the_slot_clean, NULL, NULL),
		cmocka_unit_test_setup_teardown(epoch_zero_and_no_trace_are_nothing, NULL, remove_path),
		cmocka_unit_test(what_stands_in_the_way_is_named),
		cmocka_unit_test_setup_teardown(a_reader_always_finds_a_trace, NULL, remove_path),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
