/* arbiter.h - one linearizable compare-and-swap register per VM: who may run it
 *
 * The outcome of an operation may be unknown (RPL_ARBITER_UNKNOWN): then only a fresh read tells (R6).
 * Backends: file (a locked, fsynced record in a directory that both agents reach: one machine, demo, tests) and etcd (a
 * key of an etcd v3 on a third machine: two hosts and more); manual (a record on each of two hosts, and an operator).
 */
#ifndef REPLICAD_ARBITER_H
#define REPLICAD_ARBITER_H

#include <stdbool.h>

#include <replicad/err.h>
#include <replicad/record.h>

#define RPL_ARBITER_CLUSTER_MAX 64

struct ev_loop;
struct rpl_arbiter;

enum rpl_arbiter_outcome {
	RPL_ARBITER_OK,      /* read: *record is the register; cas: it was swapped, *record is what is there now */
	RPL_ARBITER_NONE,    /* read: there is no record yet */
	RPL_ARBITER_REFUSED, /* cas: the register was not what was expected; *record is what is there */
	RPL_ARBITER_UNKNOWN, /* no answer in time, or a failure after which either may be true; *err says why */
};

struct rpl_arbiter_conf {
	const char *backend;   /* "file", "etcd" or "manual" */
	const char *location;  /* file, manual: the directory, absolute; it must exist. etcd: https://HOST:PORT, comma-separated */
	const char *cluster;   /* keeps two installations apart; letters, digits, "-_.", at most RPL_ARBITER_CLUSTER_MAX */
	unsigned timeout_ms;   /* after this an operation ends as UNKNOWN */
	/* etcd: PEM files for https; NULL or "": the system's authorities, no certificate of ours */
	const char *ca, *cert, *key;
	bool insecure;         /* etcd: http:// is allowed beyond the loopback interface */
};

/* A swap that ended as UNKNOWN may still take effect, even after a later read: failover/core/claim.c says why that is safe.
 */
/* From the loop, exactly once an operation, within timeout_ms; may start the next operation or free the arbiter. record
 * is NULL for NONE and UNKNOWN. A swap that finds no record although one was expected ends as UNKNOWN: read again. */
typedef void rpl_arbiter_done_fn(void *arg, enum rpl_arbiter_outcome outcome, const struct rpl_record *record,
				 const struct rpl_err *err);

struct rpl_arbiter *rpl_arbiter_new(const struct rpl_arbiter_conf *conf, struct ev_loop *loop,
				    rpl_arbiter_done_fn *done, void *arg, struct rpl_err *err);
/* Never block. At most one operation is under way: a second returns -EALREADY. */
int rpl_arbiter_read(struct rpl_arbiter *a, const struct rpl_uuid *vm, struct rpl_err *err);
/* Swap the register of want->vm from exactly *expect (NULL: no record yet) to *want. Both must be of one VM, and
 * want's generation the greater (-EINVAL). */
int rpl_arbiter_cas(struct rpl_arbiter *a, const struct rpl_record *expect, const struct rpl_record *want,
		    struct rpl_err *err);
/* As rpl_arbiter_cas(), with leave: an operator ordered it, or the record's owner handed over. Only `manual` asks for leave:
 * without it what a node may not decide alone is REFUSED with the record as it is, that is *expect. */
int rpl_arbiter_cas_permitted(struct rpl_arbiter *a, const struct rpl_record *expect, const struct rpl_record *want,
			      struct rpl_err *err);
/* manual: the peer says that this is its record. It replaces ours if its generation is the greater; answered as a read.
 * A generation more than RPL_GENERATION_LEAP_MAX beyond ours is no honest peer's: it is not written down, and the outcome is
 * UNKNOWN. -EOPNOTSUPP with any other backend. */
#define RPL_GENERATION_LEAP_MAX UINT64_C(1000000)
int rpl_arbiter_learn(struct rpl_arbiter *a, const struct rpl_record *record, struct rpl_err *err);
/* An operation under way is given up without an answer. Accepts NULL. */
void rpl_arbiter_free(struct rpl_arbiter *a);

#endif
