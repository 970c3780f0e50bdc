#include "vm_conf.h"

#include "cli.h"

int rpl_cli_vm_conf(const char *command, const char *file, const char *name, struct rpl_conf **ret_conf,
		    const struct rpl_conf_vm **ret_vm)
{
	struct rpl_err err;
	struct rpl_conf *c = rpl_conf_load(file, &err);
	const struct rpl_conf_vm *vm;

	if (!c)
		return rpl_cli_fail(command, RPL_EXIT_FAILED, "%s; name the monitor with --qmp PATH instead", err.msg);
	vm = rpl_conf_vm(c, name);
	if (!vm) {
		rpl_conf_free(c);
		return rpl_cli_fail(command, RPL_EXIT_FAILED, "no [vm %s] in %s; name its monitor with --qmp PATH", name, file);
	}
	*ret_conf = c;
	*ret_vm = vm;
	return RPL_EXIT_DONE;
}
