/* vm_conf.h - how commands that look at a guest directly find it: --qmp PATH, or a VM's name in the configuration */
#ifndef RPL_CLI_VM_CONF_H
#define RPL_CLI_VM_CONF_H

#include <stdbool.h>

#include <replicad/conf.h>

#define RPL_CLI_CONF_DEFAULT RPL_SYSCONFDIR "/replicad.conf"

/* The configuration's [vm NAME]; *ret_conf owns it (rpl_conf_free()). RPL_EXIT_DONE, or it was said why not. */
int rpl_cli_vm_conf(const char *command, const char *file, const char *name, struct rpl_conf **ret_conf,
		    const struct rpl_conf_vm **ret_vm);

#endif
