/* conf_priv.h - between the files of the configuration's archive */
#ifndef RPL_CONF_PRIV_H
#define RPL_CONF_PRIV_H

#include <replicad/conf.h>

/* Check `value` and store it into the field of `k` in the section's struct at `base`. -EINVAL: what is allowed. */
int rpl_conf_store(const struct rpl_conf_key *k, void *base, const char *value, struct rpl_err *err);

/* The section of that name, made with defaults if it is new; NULL and *err if there are too many. */
struct rpl_conf_vm *rpl_conf_add_vm(struct rpl_conf *c, const char *name, struct rpl_err *err);
struct rpl_conf_peer *rpl_conf_add_peer(struct rpl_conf *c, const char *name, struct rpl_err *err);

#endif
