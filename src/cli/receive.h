/* receive.h - what the two ways of `replicad receive` share: the handshake, the configuration, the input */
#ifndef RPL_RECEIVE_H
#define RPL_RECEIVE_H

#include <stdbool.h>
#include <stdint.h>

#include <replicad/err.h>

#include "stream_cli.h"

#define RECEIVE_INCOMING "--incoming" /* behind a domain's name until it is handed over, as stock xl does */
#define RECEIVE_NAME_MAX 256

struct receive {
	/* wishes */
	bool remus, paused, no_monitor;
	unsigned silence_ms; /* of a migration's sender: then it is over; 0: none is too long */
	uint64_t staging_bytes;
	/* the stream so far */
	struct stream_run run;
	struct rpl_stream_check check;
	struct rpl_err bad;          /* the first finding that forbids to go on */
	struct stream_config config; /* JSON */
	char name[RECEIVE_NAME_MAX];
	uint64_t maxmem_kib;
};

/* ---- fixed messages of the handshake; stdin and stdout are the peer's */
int receive_say_banner(struct rpl_err *err);
int receive_say_ready(struct rpl_err *err);
int receive_await_go(struct receive *rx, struct rpl_err *err);
/* The outcome: 0 success. On failure the sender is also given its domain back (`destroyed`: our copy is gone). */
int receive_say_outcome(int r, bool destroyed, struct rpl_err *err);

/* ---- the configuration in front of the stream */
/* All of it is there: name and memory are known and sound. -EINVAL for anything that cannot be a domain's. */
int receive_config_check(struct receive *rx, struct rpl_err *err);
/* The JSON with another name; the caller's. NULL: *err is set. */
char *receive_config_named(const struct receive *rx, const char *name, struct rpl_err *err);

/* A finding of the checker: remembered if it is none to live with. For rpl_stream_check_init(). */
void receive_finding(void *ctx, const struct rpl_stream_finding *f);

/* ---- the two ways; exit status */
int receive_migration(struct receive *rx);
int receive_remus(struct receive *rx);

#endif
