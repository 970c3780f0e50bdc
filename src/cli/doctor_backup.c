#include "doctor_backup.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include <replicad/client.h>
#include <replicad/control.h>
#include <replicad/io.h>

#include "cli.h"

/* The VM's status, the caller's; NULL: nobody can be asked, or knows it. */
static json_t *status_of(const struct rpl_conf_agent *a, const char *vm)
{
	struct rpl_client *c;
	char path[PATH_MAX];
	json_t *reply = NULL, *status = NULL;
	struct rpl_err err;

	if (rpl_path(path, sizeof(path), &err, "%s/" RPL_AGENT_SOCK, a->run_dir) < 0)
		return NULL;
	c = rpl_client_open(path, &err);
	if (!c)
		return NULL;
	if (rpl_client_call(c, json_pack("{s:s, s:s}", "cmd", "status", "vm", vm), RPL_CLI_TIMEOUT_MS, &reply, NULL, &err) == 0) {
		status = json_incref(json_array_get(json_object_get(reply, "vms"), 0));
		json_decref(reply);
	}
	rpl_client_close(c);
	return status;
}

/* It holds a copy, or gets one: only then its keeper looks whether there is room. "unknown" is the state of one that does not answer. */
static bool is_backup(const json_t *status)
{
	const char *state = rpl_cli_text(status, "state");

	return strcmp(state, "B_SEED") == 0 || strcmp(state, "B_READY") == 0;
}

int rpl_doctor_backup(const struct rpl_conf_agent *a, const char *vm, rpl_check_fn *fn, void *arg, bool *ret_backup)
{
	struct rpl_check c = { .name = "takeover", .level = RPL_CHECK_OK };
	json_t *status = status_of(a, vm);
	const char *no_room = rpl_cli_text(status, "no_room");

	*ret_backup = is_backup(status);
	if (*ret_backup && no_room[0]) {
		c.level = RPL_CHECK_FAIL;
		(void)snprintf(c.sentence, sizeof(c.sentence), "%s", no_room);
		(void)snprintf(c.mend, sizeof(c.mend), "shut down or shrink domains that are needed less (xl list), or xl mem-set Domain-0; "
			       "a takeover before that waits for it");
	} else if (*ret_backup) {
		(void)snprintf(c.sentence, sizeof(c.sentence), "this host is the backup (%.20s), and knows of nothing that a takeover would lack",
			       rpl_cli_text(status, "state"));
	}
	if (*ret_backup)
		fn(arg, &c);
	json_decref(status);
	return c.level == RPL_CHECK_FAIL;
}
