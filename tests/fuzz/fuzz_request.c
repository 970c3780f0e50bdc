/* fuzz_request.c - a line on the agent's control socket */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <replicad/conf.h>

#include "../../src/agent/request.h"
#include "fuzz.h"

static void check_fields(const json_t *request)
{
	struct rpl_err err = { 0 };
	const char *vm = rpl_request_vm(request, &err);
	int force;

	if (vm)
		rpl_assert(rpl_conf_name_ok(vm) && strlen(vm) < RPL_VM_NAME_MAX && !strchr(vm, '/'));
	else
		rpl_assert(err.code < 0 && err.msg[0]);
	force = rpl_request_bool(request, "force", &err);
	rpl_assert(force == 0 || force == 1 || force == -EINVAL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	enum rpl_control_error code = RPL_CE_COUNT;
	struct rpl_err err = { 0 };
	const char *cmd = NULL;
	json_t *request = rpl_request_parse((const char *)data, len, &cmd, &code, &err), *reply;
	char *text;

	if (request) {
		rpl_assert(cmd && code == RPL_CE_COUNT);
		check_fields(request);
		json_decref(request);
		return 0;
	}
	rpl_assert(code < RPL_CE_COUNT && err.code < 0 && err.msg[0]);
	/* whatever the message quotes of the input: it is an answer */
	reply = rpl_reply_error(code, err.msg);
	text = json_dumps(reply, JSON_COMPACT);
	rpl_assert(text);
	free(text);
	json_decref(reply);
	return 0;
}
