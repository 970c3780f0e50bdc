/* The disk room: which guests are admitted, and that `none` answers each operation once, in order, from the loop. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <ev.h>

#include <replicad/auto.h>
#include <replicad/disk.h>

static const struct rpl_disk_conf conf_none = { .backend = "none", .vm = "web1" };

struct seen {
	unsigned count;
	enum rpl_disk_op op[64];
	uint64_t epoch[64];
	struct rpl_disk *free_at_first;
};

static void done(void *arg, enum rpl_disk_op op, uint64_t epoch, int r, const struct rpl_err *err)
{
	struct seen *s = arg;

	assert_int_equal(r, 0);
	assert_int_equal(err->code, 0);
	s->op[s->count] = op;
	s->epoch[s->count++] = epoch;
	if (s->free_at_first)
		rpl_disk_free(s->free_at_first);
}

static void a_writable_disk_without_overlay_is_refused(void **state)
{
	struct rpl_err err = { 0 };

	(void)state;
	assert_int_equal(rpl_disk_admit("web1", "virtio0", false, false, &err), 0);
	assert_int_equal(rpl_disk_admit("web1", "virtio0", false, true, &err), 0);
	assert_int_equal(rpl_disk_admit("web1", "virtio0", true, true, &err), 0);
	assert_int_equal(rpl_disk_admit("web1", "virtio0", true, false, &err), -EPERM);
	assert_non_null(strstr(err.msg, "web1"));
	assert_non_null(strstr(err.msg, "virtio0"));
	assert_non_null(strstr(err.msg, "read-only"));
}

static void none_answers_each_operation_once_in_order(void **state)
{
	struct ev_loop *loop = ev_loop_new(0);
	struct seen s = { 0 };
	struct rpl_err err = { 0 };
	struct rpl_disk *d = rpl_disk_new(&conf_none, loop, done, &s, &err);

	(void)state;
	assert_non_null(d);
	assert_int_equal(rpl_disk_max_uncommitted(d), UINT32_MAX);
	for (unsigned op = 0; op < RPL_DISK_NOPS; op++) {
		uint64_t epoch = op == RPL_DISK_SEAL || op == RPL_DISK_FLUSH || op == RPL_DISK_JOURNAL ||
						 op == RPL_DISK_TRIM || op == RPL_DISK_PROMOTE ?
					 op + 100 :
					 0;

		rpl_disk_start(d, (enum rpl_disk_op)op, epoch);
		assert_string_not_equal(rpl_disk_op_name((enum rpl_disk_op)op), "?");
	}
	assert_int_equal(s.count, 0); /* never inside the call */
	ev_run(loop, EVRUN_NOWAIT);
	assert_int_equal(s.count, RPL_DISK_NOPS);
	for (unsigned op = 0; op < RPL_DISK_NOPS; op++)
		assert_int_equal(s.op[op], op);
	assert_int_equal(s.epoch[RPL_DISK_FLUSH], RPL_DISK_FLUSH + 100);
	rpl_disk_free(d);
	ev_loop_destroy(loop);
}

static void the_callback_may_free_the_disk(void **state)
{
	struct ev_loop *loop = ev_loop_new(0);
	struct seen s = { 0 };
	struct rpl_disk *d = rpl_disk_new(&conf_none, loop, done, &s, NULL);

	(void)state;
	s.free_at_first = d;
	rpl_disk_start(d, RPL_DISK_ATTACH, 0);
	rpl_disk_start(d, RPL_DISK_DEFER, 0);
	ev_run(loop, EVRUN_NOWAIT);
	assert_int_equal(s.count, 1);
	ev_loop_destroy(loop);
}

static void what_is_not_there_says_so(void **state)
{
	struct rpl_disk_conf conf = { .backend = "overlay", .vm = "web1" };
	struct rpl_err err = { 0 };

	(void)state;
	assert_null(rpl_disk_new(&conf, EV_DEFAULT, done, NULL, &err));
	assert_int_equal(err.code, -EOPNOTSUPP);
	assert_non_null(strstr(err.msg, "disk=none"));
	conf.backend = "floppy";
	assert_null(rpl_disk_new(&conf, EV_DEFAULT, done, NULL, &err));
	assert_int_equal(err.code, -EINVAL);
	assert_non_null(strstr(err.msg, "floppy"));
	rpl_disk_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_writable_disk_without_overlay_is_refused),
		cmocka_unit_test(none_answers_each_operation_once_in_order),
		cmocka_unit_test(the_callback_may_free_the_disk),
		cmocka_unit_test(what_is_not_there_says_so),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
