/* control.h - the keeper's own socket: commands of the agent, events to whoever subscribed
 *
 * SOCK_SEQPACKET at DIR/keeper.sock, as <replicad/control.h> describes it. Only root and our own user are served. A client that does not read its
 * events loses the connection, not the keeper.
 */
#ifndef KEEPER_CONTROL_H
#define KEEPER_CONTROL_H

#include <stdint.h>

#include <jansson.h>

#include <replicad/err.h>

struct ev_loop;
struct control;

/* Whom a command came from, so that it can be answered later. */
struct control_call {
	uint64_t client; /* 0: nobody */
	int64_t id;
};

/* Answer one command. `fd` is a descriptor that came along (-1: none; the handler owns it). The result is a new
 * object, or NULL: then control_answer() follows. */
typedef json_t *control_handler_fn(void *arg, const char *cmd, const json_t *request, int fd, struct control_call call);

/* {"ok":false,"error":{...}} with a code of control.h in include/replicad. */
json_t *control_refusal(const char *code, const char *message);

struct control *control_new(const char *path, struct ev_loop *loop, control_handler_fn *handler, void *arg,
			    struct rpl_err *err);
/* Answer a command whose handler returned NULL. A client that is gone is no error. Steals `reply`. */
void control_answer(struct control *c, struct control_call call, json_t *reply);
/* Send to every subscriber. Steals `event`. */
void control_event(struct control *c, json_t *event);
void control_free(struct control *c); /* removes the socket; accepts NULL */

#endif
