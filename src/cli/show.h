/* show.h - a VM's status as people read it */
#ifndef RPL_SHOW_H
#define RPL_SHOW_H

#include <jansson.h>

#include "cli.h"

/* What `replicad status` exits with for this VM (RPL_EXIT_PROTECTED ... RPL_EXIT_UNKNOWN). */
int rpl_show_judge(const json_t *vm);
/* One line for a state: "P_SYNC, first copy 42 %". */
void rpl_show_state(const json_t *vm, char *buf, size_t size);
/* A table of all VMs, one line each. */
void rpl_show_table(const json_t *vms);
/* Everything about one VM, with the line on what would survive. */
void rpl_show_vm(const json_t *vm);
/* What is unsafe about the agent's configuration, loudly. */
void rpl_show_agent(const json_t *agent);

#endif
