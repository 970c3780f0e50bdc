/* movers.h - the keeper's side of its mover: start it, talk to it, and make sure it is dead
 *
 * Freezing (R3) is movers_kill(): the connection is shut down, the process is killed and reaped; when it returns,
 * no byte of this side can reach the peer any more and the staging area does not change.
 */
#ifndef KEEPER_MOVERS_H
#define KEEPER_MOVERS_H

#include <stdbool.h>
#include <sys/types.h>

#include <replicad/mover.h>

struct ev_loop;
struct movers;

/* One validated report; the struct is gone after the return. */
typedef void movers_report_fn(void *arg, const struct rpl_mover_msg *msg);
/* The mover died without being told to. */
typedef void movers_gone_fn(void *arg, const char *why);

/* Make the handle and the shared areas (counters, text); no process yet. NULL on failure. */
struct movers *movers_new(const char *program, struct ev_loop *loop, movers_report_fn *report, movers_gone_fn *gone,
			  void *arg, struct rpl_err *err);
/* Spawn the program and send CONF. `extra_fd` is the state memfd (primary) or the staging memfd (backup); the
 * memory descriptors are those of rpl_guest_memory(). All stay the caller's. */
int movers_start(struct movers *m, const struct rpl_mover_conf *conf, int extra_fd, const int *memory_fds,
		 size_t n_memory_fds, struct rpl_err *err);
bool movers_running(const struct movers *m);
pid_t movers_pid(const struct movers *m);
/* Hand a connected socket over; a copy is kept so that freezing can shut it down. `fd` is closed. */
int movers_link(struct movers *m, int fd, struct rpl_err *err);
/* Send one command without descriptors; a mover that does not read is killed and reported gone. */
void movers_send(struct movers *m, enum rpl_mover_type type, uint64_t epoch, uint64_t value, uint64_t generation,
		 const struct rpl_uuid *uuid);
/* Place text for the mover (definition, reason) at offset 0 of the text area; returns its length. */
size_t movers_put_text(struct movers *m, const char *text);
/* Place key text, from `offset` of the area for keys. */
void movers_put_keys(struct movers *m, size_t offset, const char *text, size_t len);
/* What the mover placed there; NUL-terminated copy of at most `len` bytes, the caller frees it. */
char *movers_get_text(const struct movers *m, size_t len);
const struct rpl_mover_counters *movers_counters(const struct movers *m);
/* We live: to be called at least once in a heartbeat, else the mover is silent towards the peer. */
void movers_beat(struct movers *m);
/* The record's generation as this host knows it, for this mover and those to come; RPL_GENERATION_UNKNOWN until it is said. */
void movers_generation(struct movers *m, uint64_t generation);
void movers_kill(struct movers *m);
/* Let it send what is queued (a HANDOVER, a FORGET) and end by itself, for a moment at most; nothing of it is reported
 * any more, and for the caller there is no mover from now on. */
void movers_retire(struct movers *m);
bool movers_retiring(const struct movers *m); /* one still does that */
void movers_free(struct movers *m); /* kills too; accepts NULL */

#endif
