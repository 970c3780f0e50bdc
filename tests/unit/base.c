/* The base room: errors, uuids, cursors, bitmaps, histograms, descriptors. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <replicad/auto.h>
#include <replicad/bitmap.h>
#include <replicad/cur.h>
#include <replicad/io.h>
#include <replicad/process.h>
#include <replicad/stats.h>
#include <replicad/uuid.h>

static void errors_carry_code_and_sentence(void **state)
{
	struct rpl_err err = { 0 };

	(void)state;
	assert_int_equal(rpl_fail(&err, -EPROTO, "epoch %d of %d", 3, 4), -EPROTO);
	assert_string_equal(err.msg, "epoch 3 of 4");
	assert_int_equal(rpl_prefix(&err, "vm %s", "web1"), -EPROTO);
	assert_string_equal(err.msg, "vm web1: epoch 3 of 4");
	assert_int_equal(rpl_fail_errno(&err, ENOENT, "open %s", "x"), -ENOENT);
	assert_string_equal(err.msg, "open x: No such file or directory");
	assert_int_equal(rpl_fail(NULL, -EIO, "nobody listens"), -EIO);
}

/* The code stays, and the reader sees that there was more. */
static void a_long_sentence_is_cut_and_says_so(void **state)
{
	char text[sizeof(((struct rpl_err *)0)->msg) + 1];
	struct rpl_err err, fits;

	(void)state;
	memset(text, 'a', sizeof(text));
	text[sizeof(err.msg)] = '\0';
	assert_int_equal(rpl_fail(&err, -EPROTO, "%s", text), -EPROTO);
	assert_int_equal(strlen(err.msg), sizeof(err.msg) - 1);
	assert_string_equal(err.msg + sizeof(err.msg) - 5, "a...");
	assert_int_equal(rpl_fail(&fits, -EPROTO, "%s", text + 1), -EPROTO);
	assert_string_equal(fits.msg, text + 1);
	assert_int_equal(rpl_prefix(&fits, "vm"), -EPROTO);
	assert_memory_equal(fits.msg, "vm: aaa", 7);
	assert_string_equal(fits.msg + sizeof(fits.msg) - 5, "a...");
	assert_int_equal(rpl_fail_errno(&err, ENOENT, "%s", text + 3), -ENOENT);
	assert_string_equal(err.msg + sizeof(err.msg) - 5, "a...");
}

static void uuid_text_round_trips(void **state)
{
	static const char *const bad[] = { "", "6ba7b810-9dad-11d1-80b4-00c04fd430c", "6ba7b810-9dad-11d1-80b4-00c04fd430c8a",
					   "6ba7b810-9dad-11d1-80b4+00c04fd430c8", "6ba7b810-9dad-11d1-80b4-00c04fd430cg" };
	char text[RPL_UUID_TEXT];
	struct rpl_uuid u, v;
	struct rpl_err err;

	(void)state;
	assert_int_equal(rpl_uuid_parse("6BA7b810-9dad-11d1-80b4-00c04fd430c8", &u, &err), 0);
	assert_string_equal(rpl_uuid_text(&u, text), "6ba7b810-9dad-11d1-80b4-00c04fd430c8");
	for (size_t i = 0; i < RPL_ARRAY_LEN(bad); i++)
		assert_int_equal(rpl_uuid_parse(bad[i], &u, &err), -EINVAL);
	rpl_uuid_random(&u);
	rpl_uuid_random(&v);
	assert_false(rpl_uuid_equal(&u, &v));
	assert_false(rpl_uuid_is_zero(&u));
}

static void a_cursor_never_leaves_its_buffer(void **state)
{
	uint8_t bytes[15];
	struct rpl_out o = rpl_out(bytes, sizeof(bytes));
	struct rpl_cur c;

	(void)state;
	rpl_out_be16(&o, 0x1234);
	rpl_out_le32(&o, 0xdeadbeef);
	rpl_out_le64(&o, 7);
	assert_false(o.bad);
	rpl_out_le16(&o, 1);
	assert_true(o.bad);
	assert_int_equal(o.len, 14);
	assert_int_equal(bytes[0], 0x12);
	c = rpl_cur(bytes, o.len);
	assert_int_equal(rpl_cur_be16(&c), 0x1234);
	assert_int_equal(rpl_cur_le32(&c), 0xdeadbeef);
	assert_int_equal(rpl_cur_le64(&c), 7);
	assert_false(c.bad);
	assert_int_equal(rpl_cur_u8(&c), 0);
	assert_true(c.bad);
	c = rpl_cur("\0\0\1", 3);
	rpl_cur_zero(&c, 2);
	assert_false(c.bad);
	rpl_cur_zero(&c, 1);
	assert_true(c.bad);
}

static void bitmap_agrees_with_an_array(void **state)
{
	struct rpl_bitmap b;
	uint8_t model[1000] = { 0 };
	uint64_t n = 0;

	(void)state;
	assert_int_equal(rpl_bitmap_init(&b, 1000), 0);
	assert_int_equal(rpl_bitmap_next(&b, 0), 1000);
	for (unsigned i = 0; i < 200; i++) {
		uint64_t from = (i * 7919u) % 1000, len = (i * 104729u) % 5;

		for (uint64_t k = from; k < from + len && k < 1000; k++)
			model[k] = 1;
		rpl_bitmap_set_range(&b, from, from + len > 1000 ? 1000 - from : len);
	}
	rpl_bitmap_set_range(&b, 100, 300);
	memset(model + 100, 1, 300);
	rpl_bitmap_clear(&b, 200);
	model[200] = 0;
	for (unsigned i = 0; i < 1000; i++) {
		assert_int_equal(rpl_bitmap_get(&b, i), model[i]);
		n += model[i];
	}
	assert_int_equal(rpl_bitmap_count(&b), n);
	for (uint64_t i = rpl_bitmap_next(&b, 0); i < 1000; i = rpl_bitmap_next(&b, i + 1), n--)
		assert_int_equal(model[i], 1);
	assert_int_equal(n, 0);
	rpl_bitmap_fini(&b);
}

static void histogram_quantiles_are_good_to_three_percent(void **state)
{
	static struct rpl_hist h;

	(void)state;
	assert_int_equal(rpl_hist_quantile(&h, 500), 0);
	for (uint64_t i = 1; i <= 100000; i++)
		rpl_hist_add(&h, i * 1000);
	assert_in_range(rpl_hist_quantile(&h, 500), 50000000, 51600000);
	assert_in_range(rpl_hist_quantile(&h, 990), 99000000, 100000000);
	assert_int_equal(rpl_hist_quantile(&h, 1000), 100000000);
}

static void descriptors_travel_and_surplus_ones_are_closed(void **state)
{
	int sv[2], pipes[4], got[2];
	size_t n = 1;
	char buf[8];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sv), 0);
	assert_int_equal(pipe(pipes), 0);
	assert_int_equal(rpl_send_fds(sv[0], "hello", 5, &pipes[0], 1), 0);
	assert_int_equal(rpl_recv_fds(sv[1], buf, sizeof(buf), got, &n), 5);
	assert_int_equal(n, 1);
	assert_int_equal(write(pipes[1], "x", 1), 1);
	assert_int_equal(read(got[0], buf, 1), 1);
	(void)close(got[0]);
	assert_int_equal(rpl_send_fds(sv[0], "two", 3, pipes, 2), 0);
	n = 1;
	assert_int_equal(rpl_recv_fds(sv[1], buf, sizeof(buf), got, &n), -EMSGSIZE);
	assert_int_equal(n, 0);
	assert_int_equal(rpl_send_fds(sv[0], "much too long", 13, NULL, 0), 0);
	assert_int_equal(rpl_recv_fds(sv[1], buf, sizeof(buf), NULL, NULL), -EMSGSIZE);
	for (int i = 0; i < 2; i++) {
		(void)close(sv[i]);
		(void)close(pipes[i]);
	}
}

/* Ended, and ended with something of ours unread: both ways are its end, and what it said last is heard before that. */
static void last_words_are_heard(void **state)
{
	char buf[8];
	int sv[2];

	(void)state;
	assert_false(rpl_hung_up(0));
	assert_false(rpl_hung_up(-EAGAIN));
	assert_false(rpl_hung_up(-ENOBUFS));
	for (int i = 0; i < 4; i++) {
		bool unread = i & 1, tried = i & 2;

		assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
		if (unread)
			assert_int_equal(rpl_send_fds(sv[0], "order", 5, NULL, 0), 0);
		assert_int_equal(rpl_send_fds(sv[1], "last", 4, NULL, 0), 0);
		assert_int_equal(rpl_send_fds(sv[1], "words", 5, NULL, 0), 0);
		assert_int_equal(close(sv[1]), 0);
		if (tried)
			assert_true(rpl_hung_up(rpl_send_fds(sv[0], "more", 4, NULL, 0)));
		assert_int_equal(rpl_recv_fds(sv[0], buf, sizeof(buf), NULL, NULL), 4);
		assert_int_equal(rpl_recv_fds(sv[0], buf, sizeof(buf), NULL, NULL), 5);
		assert_memory_equal(buf, "words", 5);
		assert_int_equal(rpl_recv_fds(sv[0], buf, sizeof(buf), NULL, NULL), 0);
		assert_int_equal(close(sv[0]), 0);
	}
}

static void files_are_replaced_whole(void **state)
{
	char dir[] = "/tmp/rpl-base-XXXXXX", path[64], *text;
	struct rpl_err err;
	size_t len;

	(void)state;
	assert_non_null(mkdtemp(dir));
	(void)snprintf(path, sizeof(path), "%s/a/b", dir);
	assert_int_equal(rpl_mkdir_p(path, 0700, &err), 0);
	(void)snprintf(path, sizeof(path), "%s/a/b/f", dir);
	assert_int_equal(rpl_write_file_durably(path, "one", 3, 0600, &err), 0);
	assert_int_equal(rpl_write_file_durably(path, "second", 6, 0600, &err), 0);
	assert_int_equal(rpl_read_file(path, 6, &text, &len, &err), 0);
	assert_int_equal(len, 6);
	assert_string_equal(text, "second");
	free(text);
	assert_int_equal(rpl_read_file(path, 5, &text, &len, &err), -EFBIG);
	(void)unlink(path);
	(void)snprintf(path, sizeof(path), "%s/a/b", dir);
	(void)rmdir(path);
	(void)snprintf(path, sizeof(path), "%s/a", dir);
	(void)rmdir(path);
	assert_int_equal(rmdir(dir), 0);
}

/* ---- a socket that listens */

static const char *listened_at;
static int met; /* what a client met there just before */

int __real_listen(int fd, int backlog);
int __wrap_listen(int fd, int backlog);

int __wrap_listen(int fd, int backlog)
{
	int client = listened_at ? rpl_unix_connect(listened_at, SOCK_STREAM | SOCK_NONBLOCK, NULL) : -1;

	met = client < 0 ? client : 0;
	rpl_close(&client);
	return __real_listen(fd, backlog);
}

static const char *awaited; /* how the socket is that comes to be there by this name */
static struct stat came;

int __real_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to);

int __wrap_rename(const char *from, const char *to)
{
	if (awaited && strcmp(to, awaited) == 0)
		assert_int_equal(stat(from, &came), 0);
	return __real_rename(from, to);
}

static void connect_to(const char *path)
{
	int fd = rpl_unix_connect(path, SOCK_STREAM | SOCK_NONBLOCK, NULL);

	assert_true(fd >= 0);
	rpl_close(&fd);
}

static void a_path_that_exists_can_be_connected_to(void **state)
{
	char dir[] = "/tmp/rpl-base-XXXXXX", path[64];
	struct stat st;
	int first, second;

	(void)state;
	assert_non_null(mkdtemp(dir));
	(void)snprintf(path, sizeof(path), "%s/s", dir);
	listened_at = path;
	first = rpl_unix_listen(path, SOCK_STREAM, NULL);
	assert_true(first >= 0);
	assert_int_equal(met, -ENOENT);
	connect_to(path);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	second = rpl_unix_listen(path, SOCK_STREAM, NULL);
	assert_true(second >= 0);
	assert_int_equal(met, 0); /* the first one, to the end */
	rpl_close(&first);
	connect_to(path);
	rpl_close(&second);
	assert_int_equal(rpl_unix_connect(path, SOCK_STREAM, NULL), -ECONNREFUSED); /* one that is left is nobody's, and */
	second = rpl_unix_listen(path, SOCK_STREAM, NULL);
	assert_int_equal(met, -ECONNREFUSED); /* replaced */
	connect_to(path);
	rpl_close(&second);
	listened_at = NULL;
	assert_int_equal(unlink(path), 0);
	assert_int_equal(rmdir(dir), 0); /* and nothing else was left in it */
}

static void a_path_that_exists_is_open_to_whom_it_is_for(void **state)
{
	gid_t group = geteuid() == 0 ? 12345 : getegid();
	char dir[] = "/tmp/rpl-base-XXXXXX", path[64];
	struct rpl_err err;
	struct stat st;
	int fd;

	(void)state;
	assert_non_null(mkdtemp(dir));
	(void)snprintf(path, sizeof(path), "%s/s", dir);
	awaited = path;
	fd = rpl_unix_listen_for(path, SOCK_STREAM, group, 0660, NULL);
	awaited = NULL;
	assert_true(fd >= 0);
	assert_int_equal(came.st_gid, group);
	assert_int_equal(came.st_mode & 07777, 0660);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_gid, group);
	assert_int_equal(st.st_mode & 07777, 0660);
	connect_to(path);
	rpl_close(&fd);
	assert_int_equal(unlink(path), 0);
	if (geteuid() != 0) { /* a group that is not ours: nothing comes to be */
		assert_int_equal(rpl_unix_listen_for(path, SOCK_STREAM, 12345, 0660, &err), -EPERM);
		assert_non_null(strstr(err.msg, "to group 12345"));
	}
	assert_int_equal(rmdir(dir), 0);
}

/* As long a path as a socket can have, and a directory beside whose end there is no room. */
static void long_socket_paths(void **state)
{
	char dir[128] = "/tmp/rpl-base-XXXXXX", path[200];
	struct rpl_err err;
	int fd;

	(void)state;
	assert_non_null(mkdtemp(dir));
	(void)snprintf(path, sizeof(path), "%s/%0*d", dir, 107 - (int)strlen(dir) - 1, 0);
	fd = rpl_unix_listen(path, SOCK_STREAM, NULL);
	assert_true(fd >= 0);
	connect_to(path);
	rpl_close(&fd);
	assert_int_equal(unlink(path), 0);
	(void)snprintf(path, sizeof(path), "%s/%0*d", dir, 107 - (int)strlen(dir), 0);
	assert_int_equal(rpl_unix_listen(path, SOCK_STREAM, &err), -ENAMETOOLONG);
	assert_non_null(strstr(err.msg, "longer than 107 bytes"));
	assert_int_equal(rmdir(dir), 0);
	(void)snprintf(path, sizeof(path), "%s/%0*d/s", dir, 107 - (int)strlen(dir) - 3, 0);
	assert_int_equal(rpl_unix_listen(path, SOCK_STREAM, &err), -ENAMETOOLONG);
	assert_non_null(strstr(err.msg, "room for a temporary name"));
	(void)snprintf(path, sizeof(path), "%s/s", dir);
	assert_int_equal(rpl_unix_listen(path, SOCK_STREAM, &err), -ENOENT);
	assert_int_equal(rpl_unix_listen(path, SOCK_DGRAM, &err), -ENOENT);
	assert_non_null(strstr(err.msg, path));
}

#define END_MS 60000

static void a_process_is_told_from_one_with_its_number(void **state)
{
	uint64_t started;
	pid_t pid = fork();

	(void)state;
	assert_true(pid >= 0);
	if (pid == 0)
		for (;;)
			(void)pause();
	started = rpl_process_start_time(pid);
	assert_true(started > 0 && started >= rpl_process_start_time(getpid()));
	assert_true(rpl_process_lives(pid, started));
	assert_false(rpl_process_lives(pid, started + 1));
	assert_false(rpl_process_lives(pid, 0));
	assert_false(rpl_process_lives(0, started));
	assert_true(rpl_process_end(pid, started + 1, 0)); /* that one is gone; this one must not be hit */
	assert_true(rpl_process_lives(pid, started));
	assert_true(rpl_process_end(pid, started, END_MS));
	assert_false(rpl_process_lives(pid, started)); /* a zombie still */
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(rpl_process_start_time(pid), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(errors_carry_code_and_sentence),
		cmocka_unit_test(a_long_sentence_is_cut_and_says_so),
		cmocka_unit_test(uuid_text_round_trips),
		cmocka_unit_test(a_cursor_never_leaves_its_buffer),
		cmocka_unit_test(bitmap_agrees_with_an_array),
		cmocka_unit_test(histogram_quantiles_are_good_to_three_percent),
		cmocka_unit_test(descriptors_travel_and_surplus_ones_are_closed),
		cmocka_unit_test(last_words_are_heard),
		cmocka_unit_test(files_are_replaced_whole),
		cmocka_unit_test(a_path_that_exists_can_be_connected_to),
		cmocka_unit_test(a_path_that_exists_is_open_to_whom_it_is_for),
		cmocka_unit_test(long_socket_paths),
		cmocka_unit_test(a_process_is_told_from_one_with_its_number),
	};

	return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
