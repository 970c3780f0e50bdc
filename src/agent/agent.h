/* agent.h - between the files of the daemon
 *
 * The agent owns no guest and holds no output: it starts one keeper per VM and role, hands it connections and
 * requests, and finds it again after its own restart. So an agent may die at any time.
 *
 *   main.c    life: configuration, lock, signals, reload          ward.c    one VM here: its keeper's life, calls to it
 *   server.c  control socket: lines, credentials, bounds          spawn.c   keeper.json, starting the process
 *   command.c what each command does                              wanted.c  what must be protected, conf.d/NAME.conf
 *   accept.c  peers' connections: preamble, hand-over             journal.c events: kept, written, followed
 *   relay.c   relays that it starts and looks after
 */
#ifndef RPL_AGENT_H
#define RPL_AGENT_H

#include <stdbool.h>
#include <limits.h>
#include <stdint.h>
#include <sys/types.h>

#include <ev.h>
#include <jansson.h>

#include <replicad/agent.h>
#include <replicad/conf.h>
#include <replicad/control.h>

#include "request.h"

struct rpl_server;
struct rpl_acceptor;
struct rpl_journal;
struct rpl_ward;
struct rpl_relay;

#define RPL_WARDS_MAX RPL_CONF_VMS_MAX
#define RPL_RELAY_LOG "relay-%s.log" /* in run_dir */

struct rpl_agent {
	struct ev_loop *loop;
	struct rpl_agent_args args;
	struct rpl_conf *conf;
	int lock_fd;
	struct rpl_server *server;
	struct rpl_acceptor *acceptor;
	struct rpl_journal *journal;
	struct rpl_ward *wards; /* list */
	struct rpl_relay *relays; /* list */
	ev_signal term, intr, hup;
};

int rpl_agent_reload(struct rpl_agent *a, struct rpl_err *err);
/* What log_level says, or --debug. */
const char *rpl_agent_log_level(const struct rpl_agent *a);
/* {"node", "pid", ...}: what status tells of the agent itself. */
json_t *rpl_agent_describe(const struct rpl_agent *a);

/* ---- server.c */
struct rpl_server *rpl_server_new(struct rpl_agent *a, struct rpl_err *err);
void rpl_server_free(struct rpl_server *s); /* accepts NULL */
/* Answer the request that connection `id` waits for (the reference is taken); nothing if it is gone by now. */
void rpl_server_reply(struct rpl_server *s, uint64_t id, json_t *reply);
void rpl_server_error(struct rpl_server *s, uint64_t id, enum rpl_control_error code, const char *message);
/* From now on connection `id` gets the events of `vm` ("" = all). */
void rpl_server_follow(struct rpl_server *s, uint64_t id, const char *vm);
void rpl_server_event(struct rpl_server *s, const char *vm, json_t *event);

/* ---- command.c: carry out one request of connection `id`; answers now or later, exactly once */
void rpl_command(struct rpl_agent *a, uint64_t id, const char *cmd, const json_t *request);

/* ---- accept.c */
struct rpl_acceptor *rpl_acceptor_new(struct rpl_agent *a, struct rpl_err *err);
void rpl_acceptor_free(struct rpl_acceptor *x); /* accepts NULL */
json_t *rpl_acceptor_addresses(const struct rpl_acceptor *x); /* ["[::]:7887", ...] */

/* ---- journal.c */
struct rpl_journal *rpl_journal_open(const char *state_dir, struct rpl_err *err);
void rpl_journal_close(struct rpl_journal *j); /* accepts NULL */
/* Add "seq", "time" and "node" to `event` (the reference is taken), keep, write and send it to followers. */
void rpl_agent_event(struct rpl_agent *a, json_t *event);
/* An event of the agent's own. */
void rpl_agent_note(struct rpl_agent *a, const char *event, const char *vm, const char *fmt, ...) RPL_PRINTF(4, 5);
/* The last `limit` events of `vm` ("" = all), oldest first. */
json_t *rpl_journal_tail(const struct rpl_journal *j, const char *vm, size_t limit);

/* ---- wanted.c */
int rpl_wanted_set(const struct rpl_agent *a, const char *vm, bool wanted, struct rpl_err *err);
bool rpl_wanted(const struct rpl_agent *a, const char *vm);
/* conf.d/VM.conf as `protect` writes it from {"key": "value"}; *ret_new: there was none. The configuration with it is
 * tried first: on failure nothing was changed. */
int rpl_wanted_write_conf(const struct rpl_agent *a, const char *vm, const json_t *set, bool *ret_new,
			  struct rpl_err *err);
/* Remove conf.d/VM.conf if `protect` wrote it; 1 if it did. */
int rpl_wanted_drop_conf(const struct rpl_agent *a, const char *vm);
/* Names in the directory of wanted VMs: call `fn` for each. */
void rpl_wanted_each(struct rpl_agent *a, void (*fn)(struct rpl_agent *a, const char *vm));

/* ---- spawn.c */
/* Write keeper.json for `vm` into `dir`. */
int rpl_spawn_write_conf(const struct rpl_agent *a, const struct rpl_conf_vm *vm, const char *dir, const char *role,
			 unsigned restarts, struct rpl_err *err);
/* Start a program of ours, argv[0] in the directory for those, in a session of its own; it writes to `log` (or, below
 * systemd, to the journal). Returns its pid or a negative errno. */
pid_t rpl_spawn(const struct rpl_agent *a, const char *log, const char *const *argv, struct rpl_err *err);
/* Start the keeper in a session of its own. Returns its pid or a negative errno. */
pid_t rpl_spawn_keeper(const struct rpl_agent *a, const char *vm, const char *dir, struct rpl_err *err);

/* ---- relay.c */
/* Each VM with relay_ports has a relay: adopted or started now, and again whenever it dies. */
void rpl_relays_ensure(struct rpl_agent *a);
void rpl_relays_free(struct rpl_agent *a); /* they go on */

/* ---- ward.c, ward_call.c */
enum rpl_ward_keeper { RPL_WARD_NONE, RPL_WARD_STARTING, RPL_WARD_RUNNING, RPL_WARD_DEAD };

/* The answer of a keeper (reply, borrowed) or why there is none (reply NULL, err set). */
typedef void rpl_ward_reply_fn(void *arg, const json_t *reply, const struct rpl_err *err);

struct rpl_ward *rpl_ward_find(struct rpl_agent *a, const char *vm);
struct rpl_ward *rpl_ward_get(struct rpl_agent *a, const char *vm, struct rpl_err *err); /* makes it if need be */
struct rpl_ward *rpl_ward_next(const struct rpl_ward *w);
const char *rpl_ward_name(const struct rpl_ward *w);
const char *rpl_ward_role(const struct rpl_ward *w); /* as the keeper last said: none, primary, backup */
enum rpl_ward_keeper rpl_ward_keeper(const struct rpl_ward *w);
bool rpl_ward_has_uuid(const struct rpl_ward *w, const struct rpl_uuid *uuid);
/* Have a keeper in that role ("primary", "backup"); nothing happens if one lives or is being restarted. */
int rpl_ward_start(struct rpl_ward *w, const char *role, struct rpl_err *err);
/* It could not be started: every request that waits for it fails with `why`, and a fresh wish is withdrawn. */
void rpl_ward_give_up(struct rpl_ward *w, const struct rpl_err *why);
/* Protection of this VM, whose guest runs here, is (no longer) wanted. */
void rpl_ward_want(struct rpl_ward *w, bool wanted);
bool rpl_ward_wanted(const struct rpl_ward *w);
/* It was asked for by a request just now: if it is refused before it was reached once, take the wish back; with
 * `conf_new` the file in conf.d as well. */
void rpl_ward_fresh(struct rpl_ward *w, bool conf_new);
/* Send {"cmd":cmd} (plus `fields`, borrowed, may be NULL) as soon as the keeper listens; exactly one call of `fn` (which
 * may be NULL) follows, within timeout_ms. A descriptor rides along if fd >= 0; it is the ward's from now on. */
void rpl_ward_call(struct rpl_ward *w, const char *cmd, const json_t *fields, int fd, unsigned timeout_ms,
		   rpl_ward_reply_fn *fn, void *arg);
/* End the oldest call of that command if so many are under way. */
void rpl_ward_make_way(struct rpl_ward *w, const char *cmd, size_t most);
/* The keeper is no longer needed: ask it to end ("shutdown" with `fields`); it is not started again. `fn` as above. */
void rpl_ward_end(struct rpl_ward *w, const json_t *fields, rpl_ward_reply_fn *fn, void *arg);
/* Protection is wanted no more, on disk as well: the keeper is asked to end, and conf.d/NAME.conf goes if `protect`
 * wrote it (a wish that was refused at once: only if it wrote it for that). */
void rpl_ward_withdraw(struct rpl_ward *w);
void rpl_ward_withdraw_fresh(struct rpl_ward *w); /* only if it is a new wish, not yet reached once */
/* Is there anything to tell of it? (not a VM that left the configuration long ago) */
bool rpl_ward_shown(const struct rpl_ward *w);
/* What is known of the VM (the caller's reference). `answered`: the keeper told it just now. */
json_t *rpl_ward_status(const struct rpl_ward *w, bool answered);
/* A status that the keeper gave. */
void rpl_ward_learn(struct rpl_ward *w, const json_t *status);
/* The configuration was read anew: write keeper.json again and tell the keeper. */
void rpl_ward_reload(struct rpl_ward *w);
/* Find keepers that live from before, by their sockets; remove what dead ones left. */
void rpl_ward_adopt_all(struct rpl_agent *a);
/* Let go of all keepers without ending them. */
void rpl_ward_free_all(struct rpl_agent *a);

#endif
