/* call.c - asking the agent, with what a command does about each way in which that may fail */
#include "cli.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <replicad/auto.h>
#include <replicad/conf.h>
#include <replicad/control.h>
#include <replicad/io.h>

static const struct {
	const char *code;
	int status;
} statuses[] = {
#define X(name, status) { #name, status },
	RPL_CONTROL_ERRORS(X)
#undef X
};

static int status_of(const char *code)
{
	for (size_t i = 0; i < RPL_ARRAY_LEN(statuses); i++)
		if (strcmp(statuses[i].code, code) == 0)
			return statuses[i].status;
	return RPL_EXIT_FAILED;
}

static int socket_of_config(struct rpl_cli_target *t, const char *path)
{
	struct rpl_err err;
	struct rpl_conf *c = rpl_conf_load(path, &err);
	int r;

	if (!c)
		return rpl_cli_fail(t->command, RPL_EXIT_FAILED, "%s", err.msg);
	r = rpl_path(t->socket, sizeof(t->socket), &err, "%s/" RPL_AGENT_SOCK, c->agent.run_dir);
	rpl_conf_free(c);
	return r < 0 ? rpl_cli_fail(t->command, RPL_EXIT_FAILED, "%s", err.msg) : RPL_EXIT_DONE;
}

int rpl_cli_target(struct rpl_cli_target *t, int opt, const char *value)
{
	struct rpl_err err;

	if (opt == 'c')
		return socket_of_config(t, value);
	if (rpl_path(t->socket, sizeof(t->socket), &err, "%s", value) < 0)
		return rpl_cli_fail(t->command, RPL_EXIT_USAGE, "%s", err.msg);
	return RPL_EXIT_DONE;
}

struct rpl_client *rpl_cli_connect(const struct rpl_cli_target *t, int *ret_status)
{
	struct rpl_err err;
	struct rpl_client *c = rpl_client_open(rpl_client_path(t->socket[0] ? t->socket : NULL), &err);

	if (!c)
		*ret_status = rpl_cli_fail(t->command, RPL_EXIT_UNREACHABLE, "%s", err.msg);
	return c;
}

int rpl_cli_ask(const struct rpl_cli_target *t, struct rpl_client *c, json_t *request, unsigned timeout_ms, json_t **ret)
{
	char code[RPL_CLIENT_CODE];
	struct rpl_err err;
	int r = rpl_client_call(c, request, timeout_ms, ret, code, &err);

	if (r == 0)
		return RPL_EXIT_DONE;
	return rpl_cli_fail(t->command, r == -EREMOTEIO ? status_of(code) : RPL_EXIT_UNREACHABLE, "%s", err.msg);
}

int rpl_cli_call(const struct rpl_cli_target *t, json_t *request, unsigned timeout_ms, json_t **ret)
{
	int status = RPL_EXIT_DONE;
	struct rpl_client *c = rpl_cli_connect(t, &status);

	*ret = NULL;
	if (!c) {
		json_decref(request);
		return status;
	}
	status = rpl_cli_ask(t, c, request, timeout_ms, ret);
	rpl_client_close(c);
	return status;
}

struct rpl_client *rpl_cli_follow(const struct rpl_cli_target *t, const char *vm, int *ret_status)
{
	struct rpl_client *c = rpl_cli_connect(t, ret_status);
	json_t *reply = NULL;

	if (!c)
		return NULL;
	*ret_status = rpl_cli_ask(t, c, json_pack("{s:s, s:s, s:i, s:b}", "cmd", "events", "vm", vm, "limit", 0, "follow", 1),
				  RPL_CLI_TIMEOUT_MS, &reply);
	json_decref(reply);
	if (*ret_status == RPL_EXIT_DONE)
		return c;
	rpl_client_close(c);
	return NULL;
}

const char *rpl_cli_text(const json_t *o, const char *field)
{
	const char *text = json_string_value(json_object_get(o, field));

	return text ? text : "";
}
