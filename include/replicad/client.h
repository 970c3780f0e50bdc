/* client.h - the caller's side of the agent's control socket (control.h, replicad-control(7)). Blocks, with bounds. */
#ifndef REPLICAD_CLIENT_H
#define REPLICAD_CLIENT_H

#include <jansson.h>

#include <replicad/err.h>

struct rpl_client;

#define RPL_CLIENT_CODE 32 /* bytes of an error code, with the final NUL */

/* Where the agent listens: `path` if not NULL, else $REPLICAD_SOCKET, else the built-in default. */
const char *rpl_client_path(const char *path);

/* NULL if no agent answers there: *err says why and what to do. */
struct rpl_client *rpl_client_open(const char *path, struct rpl_err *err);
void rpl_client_close(struct rpl_client *c); /* accepts NULL */

/* Send a request ("v" is added; the reference is taken) and wait for its reply. 0: *ret is the whole reply (the caller's
 * reference) with "ok" true. -EREMOTEIO: the agent said no, `code` and *err tell. Other negative errnos: no
 * answer (-ETIMEDOUT, -ECONNRESET, -EPROTO). `code` may be NULL. */
int rpl_client_call(struct rpl_client *c, json_t *request, unsigned timeout_ms, json_t **ret,
		    char code[RPL_CLIENT_CODE], struct rpl_err *err);

/* The next {"event":...} line after an "events" request with "follow". 0 and the event (the caller's reference), or
 * -ETIMEDOUT, -ECONNRESET, -EPROTO. timeout_ms 0: wait for ever. */
int rpl_client_event(struct rpl_client *c, unsigned timeout_ms, json_t **ret, struct rpl_err *err);

#endif
