/* arbiter_ops.h - what a backend of the arbiter room provides; arbiter.c is the only caller
 *
 * start() begins the one operation; the backend ends it with exactly one rpl_arbiter_finish(), from the loop and within
 * the configured time, with RPL_ARBITER_UNKNOWN when nothing else is certain.
 */
#ifndef RPL_ARBITER_OPS_H
#define RPL_ARBITER_OPS_H

#include <stdbool.h>

#include <replicad/arbiter.h>

struct rpl_arbiter_ask {
	bool cas;
	bool permitted;                 /* cas: an operator's word, or the owner handed over */
	bool learn;                     /* write `want` if it is of a greater generation than what is there, then read */
	struct rpl_uuid vm;
	bool absent;                    /* cas: expect no record; else expect == *expect */
	struct rpl_record expect, want; /* cas, learn: want */
};

struct rpl_arbiter_ops {
	const char *name;
	/* Strings of conf are copied by the backend. Returns 0 and *ret_self, or an error. */
	int (*init)(struct rpl_arbiter *a, const struct rpl_arbiter_conf *conf, struct ev_loop *loop, void **ret_self,
		    struct rpl_err *err);
	/* Optional: may this node decide this swap alone? Those it may not are answered as refused, unless permitted. */
	bool (*may_decide)(const struct rpl_arbiter_ask *ask);
	bool learns;                    /* it takes rpl_arbiter_learn() */
	void (*start)(void *self, const struct rpl_arbiter_ask *ask);
	void (*fini)(void *self);
};

extern const struct rpl_arbiter_ops rpl_arbiter_file;
extern const struct rpl_arbiter_ops rpl_arbiter_etcd; /* etcd.c, or etcd_standin.c without libcurl */

extern const struct rpl_arbiter_ops rpl_arbiter_manual;

void rpl_arbiter_finish(struct rpl_arbiter *a, enum rpl_arbiter_outcome outcome, const struct rpl_record *record,
			const struct rpl_err *err);

#endif
