/* ward.h - between ward.c (a keeper's life) and ward_call.c (its socket) */
#ifndef RPL_WARD_H
#define RPL_WARD_H

#include "agent.h"

#define RPL_WARD_CALLS_MAX 64 /* requests under way to one keeper */

struct rpl_ward_call {
	struct rpl_ward_call *next;
	struct rpl_ward *ward;
	uint64_t id;
	char cmd[24];
	char *text;
	int fd;
	bool sent;
	ev_timer timer;
	rpl_ward_reply_fn *fn;
	void *arg;
};

struct rpl_ward {
	struct rpl_ward *next;
	struct rpl_agent *agent;
	char name[RPL_VM_NAME_MAX];
	char dir[PATH_MAX];
	char uuid[RPL_UUID_TEXT]; /* as the keeper said; the configuration may know it too */
	char role[16], state[32];
	char refused[240];
	bool wanted, fresh, conf_new;

	enum rpl_ward_keeper keeper;
	bool stopping;     /* its end is on purpose */
	bool was_reached;  /* this process has answered a connect */
	bool is_child;
	pid_t pid;
	int pidfd;         /* -1: none */
	ev_io pid_w;
	uint64_t started_ns, unheard_ns; /* unheard: since when nobody listens at its socket */
	bool was_heard;                  /* this keeper had listened before that: it is ending, and takes long */
	unsigned failures, restarts; /* in a row; since the agent wanted it */
	ev_timer again;    /* refused: ask again */
	ev_timer retry;    /* STARTING: connect again; DEAD: start again */

	int sock;          /* -1: none */
	ev_io read_w, write_w;
	uint64_t next_id;
	struct rpl_ward_call *calls; /* in the order of asking */
	size_t n_calls;
	json_t *status;
};

/* ---- ward_call.c */
/* Connect to the keeper's socket. 0, or a negative errno. */
int rpl_ward_connect(struct rpl_ward *w);
void rpl_ward_disconnect(struct rpl_ward *w);
/* The process is gone, which may be noticed before what it said last was read: read that. */
void rpl_ward_last_messages(struct rpl_ward *w);
bool rpl_ward_has_call(const struct rpl_ward *w, const char *cmd);
/* End calls with `why`; only_sent: those that wait for a connection go on waiting. */
void rpl_ward_fail_calls(struct rpl_ward *w, bool only_sent, const struct rpl_err *why);

/* ---- ward.c */
void rpl_ward_on_event(struct rpl_ward *w, json_t *event); /* takes the reference */
void rpl_ward_on_eof(struct rpl_ward *w);

#endif
