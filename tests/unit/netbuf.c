/* The netbuf room's door: which backends there are, what they refuse, and that `none` answers every operation once, in
 * order, from the loop, while holding nothing and saying so. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <ev.h>

#include <replicad/log.h>
#include <replicad/netbuf.h>

struct seen {
	unsigned count;
	enum rpl_netbuf_op op[RPL_NETBUF_NOPS];
	uint64_t epoch[RPL_NETBUF_NOPS];
	int result;
	struct rpl_netbuf *free_at_first;
};

static void done(void *arg, enum rpl_netbuf_op op, uint64_t epoch, int r, const struct rpl_err *err)
{
	struct seen *s = arg;

	assert_int_equal(r, err->code);
	s->result = r;
	s->op[s->count] = op;
	s->epoch[s->count++] = epoch;
	if (s->free_at_first)
		rpl_netbuf_free(s->free_at_first);
}

static void event(void *arg, int r, const char *msg)
{
	(void)arg;
	fail_msg("an event nobody caused: %d %s", r, msg);
}

static void none_answers_each_operation_once_in_order(void **state)
{
	const struct rpl_netbuf_conf conf = { .backend = "none", .vm = "web1" };
	static const enum rpl_netbuf_op want[] = { RPL_NETBUF_ATTACH,  RPL_NETBUF_HOLD, RPL_NETBUF_SEAL, RPL_NETBUF_RELEASE,
						   RPL_NETBUF_OPEN, RPL_NETBUF_DROP, RPL_NETBUF_SHUT };
	struct ev_loop *loop = ev_loop_new(0);
	struct seen s = { 0 };
	struct rpl_netbuf *n = rpl_netbuf_new(&conf, loop, done, event, &s, NULL);

	(void)state;
	assert_non_null(n);
	assert_int_equal(rpl_netbuf_max_uncommitted(n), UINT32_MAX);
	assert_false(rpl_netbuf_status(n)->attached);
	rpl_netbuf_attach(n);
	rpl_netbuf_hold(n);
	rpl_netbuf_seal(n, 41);
	rpl_netbuf_release(n, 40);
	rpl_netbuf_open(n);
	rpl_netbuf_drop(n);
	rpl_netbuf_shut(n);
	assert_int_equal(s.count, 0); /* never inside the call */
	(void)ev_run(loop, EVRUN_NOWAIT);
	assert_int_equal(s.count, RPL_NETBUF_NOPS);
	for (unsigned i = 0; i < RPL_NETBUF_NOPS; i++)
		assert_int_equal(s.op[i], want[i]);
	assert_int_equal(s.epoch[2], 41);
	assert_int_equal(s.epoch[3], 40);
	assert_true(rpl_netbuf_status(n)->attached);
	assert_false(rpl_netbuf_status(n)->holding);
	rpl_netbuf_free(n);
	ev_loop_destroy(loop);
}

static void the_callback_may_free_the_netbuf(void **state)
{
	const struct rpl_netbuf_conf conf = { .backend = "none", .vm = "web1" };
	struct ev_loop *loop = ev_loop_new(0);
	struct seen s = { 0 };

	(void)state;
	s.free_at_first = rpl_netbuf_new(&conf, loop, done, event, &s, NULL);
	rpl_netbuf_attach(s.free_at_first);
	rpl_netbuf_hold(s.free_at_first);
	(void)ev_run(loop, EVRUN_NOWAIT);
	assert_int_equal(s.count, 1);
	ev_loop_destroy(loop);
	rpl_netbuf_free(NULL);
}

static void a_relay_that_was_never_attached_is_not_connected(void **state)
{
	const struct rpl_netbuf_conf conf = { .backend = "relay", .vm = "web1", .control = "/nonexistent/relay.ctl" };
	struct ev_loop *loop = ev_loop_new(0);
	struct seen s = { 0 };
	struct rpl_netbuf *n = rpl_netbuf_new(&conf, loop, done, event, &s, NULL);

	(void)state;
	assert_int_equal(rpl_netbuf_max_uncommitted(n), 64);
	rpl_netbuf_seal(n, 1);
	(void)ev_run(loop, EVRUN_NOWAIT);
	assert_int_equal(s.count, 1);
	assert_int_equal(s.result, -ENOTCONN);
	rpl_netbuf_free(n);
	ev_loop_destroy(loop);
}

#define NO_PLUG -1 /* whichever a plug answers */

static const char *const no_interface[] = { "not/one", NULL };

static void what_cannot_be_had_is_refused_by_name(void **state)
{
	static const struct {
		struct rpl_netbuf_conf conf;
		int code;
		const char *word;
	} row[] = {
		{ { .backend = "plug", .vm = "web1", .interfaces = no_interface }, NO_PLUG, "web1" },
		{ { .backend = "tube", .vm = "web1" }, -EINVAL, "tube" },
		{ { .backend = "relay", .vm = "web1" }, -EINVAL, "control socket" },
		{ { .backend = "relay", .vm = "web1", .control = "" }, -EINVAL, "control socket" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		struct rpl_err err = { 0 };

		assert_null(rpl_netbuf_new(&row[i].conf, EV_DEFAULT, done, event, NULL, &err));
		if (row[i].code != NO_PLUG)
			assert_int_equal(err.code, row[i].code);
		else /* it is built with libnl-3, or not */
			assert_true(err.code == -EINVAL || err.code == -EOPNOTSUPP);
		assert_non_null(strstr(err.msg, "web1"));
		assert_non_null(strstr(err.msg, row[i].word));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(none_answers_each_operation_once_in_order),
		cmocka_unit_test(the_callback_may_free_the_netbuf),
		cmocka_unit_test(a_relay_that_was_never_attached_is_not_connected),
		cmocka_unit_test(what_cannot_be_had_is_refused_by_name),
	};

	rpl_log_init("netbuf", RPL_LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
