/* Requests on the control socket: what is one, what is answered to what is none. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <replicad/auto.h>

#include "../../src/agent/request.h"

static void refuses(const char *line, size_t len, enum rpl_control_error want, const char *part)
{
	enum rpl_control_error code = RPL_CE_COUNT;
	struct rpl_err err = { 0 };
	const char *cmd;
	json_t *request = rpl_request_parse(line, len, &cmd, &code, &err);

	assert_null(request);
	assert_int_equal(code, want);
	if (!strstr(err.msg, part))
		fail_msg("'%s', expected a message with '%s'", err.msg, part);
}

static void what_is_no_request_is_refused(void **state)
{
	static const struct {
		const char *line;
		enum rpl_control_error code;
		const char *part;
	} rows[] = {
		{ "", RPL_CE_bad_request, "not JSON at byte 0" },
		{ "{\"v\":1,", RPL_CE_bad_request, "not JSON" },
		{ "{\"v\":1,\"cmd\":\"ping\"} {}", RPL_CE_bad_request, "not JSON" },
		{ "{\"v\":1,\"cmd\":\"ping\",\"cmd\":\"protect\"}", RPL_CE_bad_request, "duplicate" },
		{ "[1]", RPL_CE_bad_request, "a JSON object" },
		{ "{\"cmd\":\"ping\"}", RPL_CE_bad_version, "\"v\" is missing" },
		{ "{\"v\":true,\"cmd\":\"ping\"}", RPL_CE_bad_version, "\"v\" is missing or no number" },
		{ "{\"v\":0,\"cmd\":\"ping\"}", RPL_CE_bad_version, "version 0; this agent speaks version 1" },
		{ "{\"v\":1}", RPL_CE_bad_request, "\"cmd\" is missing" },
		{ "{\"v\":1,\"cmd\":null}", RPL_CE_bad_request, "\"cmd\" is missing or no string" },
	};
	char *big = malloc(RPL_CONTROL_LINE_MAX + 1);

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(rows); i++)
		refuses(rows[i].line, strlen(rows[i].line), rows[i].code, rows[i].part);
	refuses("{\"v\":1,\"cmd\":\"a\0b\"}", 19, RPL_CE_bad_request, "not JSON");
	assert_non_null(big);
	memset(big, ' ', RPL_CONTROL_LINE_MAX + 1);
	memcpy(big, "{\"v\":1,\"cmd\":\"ping\"}", 20);
	refuses(big, RPL_CONTROL_LINE_MAX + 1, RPL_CE_bad_request, "more than 65536 bytes");
	free(big);
}

static json_t *parse(const char *line, const char **cmd)
{
	enum rpl_control_error code;
	json_t *request = rpl_request_parse(line, strlen(line), cmd, &code, NULL);

	assert_non_null(request);
	return request;
}

static void fields_are_read_with_their_types(void **state)
{
	const char *cmd;
	json_t *request = parse("{\"v\":1,\"cmd\":\"protect\",\"vm\":\"web1\",\"force\":true,\"n\":5,\"x\":[]}", &cmd);
	struct rpl_err err = { 0 };

	(void)state;
	assert_string_equal(cmd, "protect");
	assert_string_equal(rpl_request_vm(request, &err), "web1");
	assert_string_equal(rpl_request_string(request, "qmp", "none", &err), "none");
	assert_null(rpl_request_string(request, "n", "", &err));
	assert_string_equal(err.msg, "\"n\" is no string");
	assert_int_equal(rpl_request_bool(request, "force", &err), 1);
	assert_int_equal(rpl_request_bool(request, "absent", &err), 0);
	assert_int_equal(rpl_request_bool(request, "n", &err), -EINVAL);
	json_decref(request);
}

static void only_names_name_a_vm(void **state)
{
	static const char *const bad[] = { "{\"v\":1,\"cmd\":\"x\"}", "{\"v\":1,\"cmd\":\"x\",\"vm\":\"\"}",
					   "{\"v\":1,\"cmd\":\"x\",\"vm\":\"../etc\"}", "{\"v\":1,\"cmd\":\"x\",\"vm\":\".x\"}",
					   "{\"v\":1,\"cmd\":\"x\",\"vm\":\"a b\"}", "{\"v\":1,\"cmd\":\"x\",\"vm\":7}",
					   "{\"v\":1,\"cmd\":\"x\",\"vm\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}" };
	struct rpl_err err;
	const char *cmd;

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(bad); i++) {
		json_t *request = parse(bad[i], &cmd);

		err = (struct rpl_err){ 0 };
		assert_null(rpl_request_vm(request, &err));
		assert_int_equal(err.code, -EINVAL);
		json_decref(request);
	}
}

static void an_error_is_an_answer_whatever_it_quotes(void **state)
{
	const char *code, *message;
	json_t *reply;
	int ok = 1;

	(void)state;
	for (int e = 0; e < RPL_CE_COUNT; e++) {
		reply = rpl_reply_error((enum rpl_control_error)e, "why \xc3\xa9");
		assert_int_equal(json_unpack(reply, "{s:b, s:{s:s, s:s}}", "ok", &ok, "error", "code", &code, "message", &message), 0);
		assert_false(ok);
		assert_string_equal(code, rpl_control_error_name((enum rpl_control_error)e));
		assert_string_equal(message, "why \xc3\xa9");
		json_decref(reply);
	}
	reply = rpl_reply_error(RPL_CE_failed, "cut in the middle of a letter: \xc3");
	assert_non_null(reply);
	assert_int_equal(json_unpack(reply, "{s:{s:s}}", "error", "message", &message), 0);
	assert_true(message[0]);
	json_decref(reply);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_no_request_is_refused),
		cmocka_unit_test(fields_are_read_with_their_types),
		cmocka_unit_test(only_names_name_a_vm),
		cmocka_unit_test(an_error_is_an_answer_whatever_it_quotes),
	};

	return cmocka_run_group_tests_name("request", tests, NULL, NULL);
}
