/* Fault points: what may be asked for, and that each strikes exactly once, at the passage named. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <replicad/auto.h>
#include <replicad/fault.h>
#include <replicad/io.h>

static void a_point_strikes_once_at_its_passage(void **state)
{
	struct rpl_err err;

	(void)state;
	assert_int_equal(rpl_fault_init("cut_at_s3:3,drop_epoch_pages", &err), 0);
	assert_false(rpl_fault_hit(RPL_FAULT_CUT_AT_S3));
	assert_true(rpl_fault_hit(RPL_FAULT_DROP_EPOCH_PAGES));
	assert_false(rpl_fault_hit(RPL_FAULT_DROP_EPOCH_PAGES));
	assert_false(rpl_fault_hit(RPL_FAULT_CUT_AT_S3));
	assert_true(rpl_fault_hit(RPL_FAULT_CUT_AT_S3));
	assert_false(rpl_fault_hit(RPL_FAULT_CUT_AT_S3));
	assert_false(rpl_fault_hit(RPL_FAULT_DIE_AT_S2));
	assert_int_equal(rpl_fault_init(NULL, &err), 0);
	assert_false(rpl_fault_hit(RPL_FAULT_CUT_AT_S3));
}

static void what_is_no_point_is_refused(void **state)
{
	static const char *const bad[] = { "die", "die_at_s3:", "die_at_s3:0", "die_at_s3:x", "die_at_s3:1:2", ",die_at_s3",
					   "die_at_s33", "cut_at_s3:99999999999999999999" };
	struct rpl_err err;

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(bad); i++) {
		assert_int_equal(rpl_fault_init(bad[i], &err), -EINVAL);
		assert_non_null(strstr(err.msg, "RPL_FAULT"));
	}
}

/* What a running process is told: passages count from then on, and other points stay as they are. */
static void a_point_is_armed_later(void **state)
{
	static const char text[] = "cut_at_s4:2 and more";
	enum rpl_fault point;
	struct rpl_err err;
	uint64_t nth;

	(void)state;
	assert_int_equal(rpl_fault_init("cut_at_s3:2", &err), 0);
	assert_false(rpl_fault_hit(RPL_FAULT_CUT_AT_S4));
	assert_int_equal(rpl_fault_read(text, strlen("cut_at_s4:2"), &point, &nth, &err), 0);
	assert_int_equal(point, RPL_FAULT_CUT_AT_S4);
	assert_int_equal(nth, 2);
	assert_int_equal(rpl_fault_read(text, strlen(text), &point, &nth, &err), -EINVAL);
	rpl_fault_arm(RPL_FAULT_CUT_AT_S4, nth);
	assert_false(rpl_fault_hit(RPL_FAULT_CUT_AT_S4));
	assert_true(rpl_fault_hit(RPL_FAULT_CUT_AT_S4));
	assert_false(rpl_fault_hit(RPL_FAULT_CUT_AT_S3));
	assert_true(rpl_fault_hit(RPL_FAULT_CUT_AT_S3));
	assert_true(rpl_fault_in_mover(RPL_FAULT_DIE_AT_S8));
	assert_false(rpl_fault_in_mover(RPL_FAULT_DIE_KEEPER_S0));
}

static void a_death_is_by_sigkill(void **state)
{
	int status;
	pid_t pid;

	(void)state;
	pid = fork();
	if (pid == 0) {
		struct rpl_err err;

		if (rpl_fault_init("die_at_s8:2", &err) < 0)
			_exit(1);
		rpl_fault_die(RPL_FAULT_DIE_AT_S8);
		rpl_fault_die(RPL_FAULT_DIE_AT_S8);
		_exit(2);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void every_point_is_in_the_manual(void **state)
{
	RPL_AUTO_FREE char *page = NULL;
	const char *src = getenv("top_srcdir");
	char path[4096], item[64];
	struct rpl_err err;

	(void)state;
	if (!src)
		skip();
	(void)snprintf(path, sizeof(path), "%s/man/replicad-fault.7", src);
	assert_int_equal(rpl_read_file(path, 1 << 20, &page, NULL, &err), 0);
	for (int i = 0; i < RPL_NFAULTS; i++) {
		(void)snprintf(item, sizeof(item), ".It Ic %s\n", rpl_fault_name((enum rpl_fault)i));
		assert_non_null(strstr(page, item));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_point_strikes_once_at_its_passage),
		cmocka_unit_test(what_is_no_point_is_refused),
		cmocka_unit_test(a_point_is_armed_later),
		cmocka_unit_test(a_death_is_by_sigkill),
		cmocka_unit_test(every_point_is_in_the_manual),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
