/* conf.h - what one keeper was told: keeper.json, as the agent resolved it (<replicad/control.h>) */
#ifndef KEEPER_CONF_H
#define KEEPER_CONF_H

#include <stdbool.h>
#include <sys/types.h>

#include <jansson.h>

#include <replicad/core.h>
#include <replicad/link.h>
#include <replicad/log.h>

struct keeper_conf {
	json_t *doc; /* all strings below live in it */
	const char *vm, *dir;
	bool standby_role;  /* it was asked to be the backup */
	struct rpl_core_conf core;
	enum rpl_tls tls;
	bool insecure;
	const char *backend, *qmp, *standby, *replica, *tracker, *standby_user, *netbuf, *relay, *interfaces, *disk;
	const char *arbiter, *arbiter_location, *arbiter_ca, *arbiter_cert, *arbiter_key, *cluster;
	const char *keys, *x509_dir, *identity, *mover_user;
	bool manual;           /* each node keeps the record for itself: the peer is told of changes, and we by it */
	bool arbiter_insecure; /* the agent's, not the VM's: the arbiter is everybody's */
	const char *peer_name, *peer_address, *peer_identity;
	bool audit;
	enum rpl_log_level log_level;
	unsigned arbiter_timeout_ms, heartbeat_ms, arena_mb, delta_cache_mb, op_timeout_ms, hold_mb;
};

/* Read DIR/keeper.json. 0, or -EINVAL naming the field. The caller ends with keeper_conf_fini(). */
int keeper_conf_load(const char *dir, struct keeper_conf *ret, struct rpl_err *err);
void keeper_conf_fini(struct keeper_conf *c);

#endif
