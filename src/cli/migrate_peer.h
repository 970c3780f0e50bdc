/* migrate_peer.h - the far end of our migration: a command that connects to it, and what it says
 *
 * The command gets the stream on its standard input and says the messages of xl_handshake.h on its standard output; its
 * standard error is ours.
 */
#ifndef RPL_CLI_MIGRATE_PEER_H
#define RPL_CLI_MIGRATE_PEER_H

#include <stddef.h>
#include <sys/types.h>

#include <replicad/err.h>

#include "xen_send.h"

struct migrate_peer {
	pid_t pid; /* 0: not running */
	int to, from;
};
#define MIGRATE_PEER_NONE { .pid = 0, .to = -1, .from = -1 }

/* Run `command` by the shell. The caller ignores SIGPIPE. */
int migrate_peer_start(struct migrate_peer *p, const char *command, struct rpl_err *err);
/* Wait for exactly these bytes; anything else, and the end, is an error. `what` says for what they stand. */
int migrate_peer_expect(struct migrate_peer *p, struct xen_send *s, const char *bytes, size_t len, unsigned ms,
			const char *what, struct rpl_err *err);
/* Tell it that the domain is its own. After a failure not a byte of that has left us. */
int migrate_peer_say_go(struct migrate_peer *p, struct rpl_err *err);
/* Close the connection and wait for the command's end, which shows what the far end has to say; it is killed after `ms`. */
void migrate_peer_end(struct migrate_peer *p, unsigned ms);

#endif
