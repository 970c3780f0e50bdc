/* doctor_arbiter.h - can the arbiter be asked, and how long does it take */
#ifndef CLI_DOCTOR_ARBITER_H
#define CLI_DOCTOR_ARBITER_H

#include <replicad/conf.h>
#include <replicad/qemu.h>

/* One check, "arbiter", from some reads. `vm`: whose record is shown; NULL or without a uuid: none is. Returns the number
 * of FAILs. */
int rpl_doctor_arbiter(const struct rpl_conf_agent *agent, const struct rpl_conf_vm *vm, rpl_check_fn *fn, void *arg);

#endif
