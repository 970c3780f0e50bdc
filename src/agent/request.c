#include "request.h"

#include <errno.h>
#include <string.h>

#include <replicad/auto.h>
#include <replicad/conf.h>

static const char *const error_names[RPL_CE_COUNT] = {
#define X(name, status) [RPL_CE_##name] = #name,
	RPL_CONTROL_ERRORS(X)
#undef X
};

const char *rpl_control_error_name(enum rpl_control_error e)
{
	return error_names[e];
}

static enum rpl_control_error check_envelope(const json_t *o, const char **ret_cmd, struct rpl_err *err)
{
	const json_t *v = json_object_get(o, "v"), *cmd = json_object_get(o, "cmd");

	if (!json_is_object(o)) {
		(void)rpl_fail(err, -EINVAL, "a request is a JSON object in one line");
		return RPL_CE_bad_request;
	}
	if (!json_is_integer(v)) {
		(void)rpl_fail(err, -EINVAL, "\"v\" is missing or no number; this agent speaks version %d", RPL_CONTROL_VERSION);
		return RPL_CE_bad_version;
	}
	if (json_integer_value(v) != RPL_CONTROL_VERSION) {
		(void)rpl_fail(err, -EINVAL, "version %lld; this agent speaks version %d", (long long)json_integer_value(v),
			       RPL_CONTROL_VERSION);
		return RPL_CE_bad_version;
	}
	if (!json_is_string(cmd)) {
		(void)rpl_fail(err, -EINVAL, "\"cmd\" is missing or no string");
		return RPL_CE_bad_request;
	}
	*ret_cmd = json_string_value(cmd);
	return RPL_CE_COUNT;
}

json_t *rpl_request_parse(const char *line, size_t len, const char **ret_cmd, enum rpl_control_error *ret_code,
			  struct rpl_err *err)
{
	json_error_t where;
	json_t *o;

	if (len > RPL_CONTROL_LINE_MAX) {
		*ret_code = RPL_CE_bad_request;
		(void)rpl_fail(err, -EMSGSIZE, "a request of more than %d bytes", RPL_CONTROL_LINE_MAX);
		return NULL;
	}
	o = json_loadb(line, len, JSON_REJECT_DUPLICATES, &where);
	if (!o) {
		*ret_code = RPL_CE_bad_request;
		(void)rpl_fail(err, -EINVAL, "not JSON at byte %d: %.120s", where.position, where.text);
		return NULL;
	}
	*ret_code = check_envelope(o, ret_cmd, err);
	if (*ret_code != RPL_CE_COUNT) {
		json_decref(o);
		return NULL;
	}
	return o;
}

const char *rpl_request_string(const json_t *request, const char *field, const char *otherwise, struct rpl_err *err)
{
	const json_t *f = json_object_get(request, field);

	if (!f)
		return otherwise;
	if (!json_is_string(f)) {
		(void)rpl_fail(err, -EINVAL, "\"%s\" is no string", field);
		return NULL;
	}
	return json_string_value(f);
}

int rpl_request_bool(const json_t *request, const char *field, struct rpl_err *err)
{
	const json_t *f = json_object_get(request, field);

	if (f && !json_is_boolean(f))
		return rpl_fail(err, -EINVAL, "\"%s\" is neither true nor false", field);
	return json_is_true(f);
}

const char *rpl_request_vm(const json_t *request, struct rpl_err *err)
{
	const char *name = rpl_request_string(request, "vm", "", err);

	if (!name)
		return NULL;
	if (!name[0]) {
		(void)rpl_fail(err, -EINVAL, "\"vm\" is missing");
		return NULL;
	}
	if (!rpl_conf_name_ok(name)) {
		(void)rpl_fail(err, -EINVAL, "'%.60s' is no VM's name: at most %d letters, digits, '.', '_' and '-'", name,
			       RPL_VM_NAME_MAX - 1);
		return NULL;
	}
	return name;
}

json_t *rpl_reply_ok(void)
{
	return json_pack("{s:i, s:b}", "v", RPL_CONTROL_VERSION, "ok", 1);
}

json_t *rpl_reply_error(enum rpl_control_error code, const char *message)
{
	/* %.*s of foreign text may have cut a UTF-8 sequence; JSON needs whole ones */
	json_t *text = json_string(message);

	if (!text)
		text = json_string("a message that is no UTF-8");
	return json_pack("{s:i, s:b, s:{s:s, s:o}}", "v", RPL_CONTROL_VERSION, "ok", 0, "error", "code", error_names[code],
			 "message", text);
}
