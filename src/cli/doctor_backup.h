/* doctor_backup.h - what the keeper of a VM knows of a takeover by this host */
#ifndef CLI_DOCTOR_BACKUP_H
#define CLI_DOCTOR_BACKUP_H

#include <stdbool.h>

#include <replicad/conf.h>
#include <replicad/qemu.h>

/* One check, "takeover", if this node's agent says that it is the backup of `vm`; *ret_backup says whether it is. Returns the number
 * of FAILs. Without an agent that answers nothing is said: doctor is for the time before there is one, too. */
int rpl_doctor_backup(const struct rpl_conf_agent *agent, const char *vm, rpl_check_fn *fn, void *arg, bool *ret_backup);

#endif
