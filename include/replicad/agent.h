/* agent.h - the daemon, as the command line starts it */
#ifndef REPLICAD_AGENT_H
#define REPLICAD_AGENT_H

#include <replicad/err.h>

struct rpl_agent_args {
	const char *conf_path;   /* replicad.conf; conf.d lies beside it */
	const char *libexec_dir; /* where replicad-keeper and its helpers are */
	const char *version;
	int debug;               /* log at debug level whatever the configuration says */
};

/* Run until SIGTERM or SIGINT; keepers go on. 0, or a negative errno and *err if it could not start. */
int rpl_agent_run(const struct rpl_agent_args *args, struct rpl_err *err);

#endif
