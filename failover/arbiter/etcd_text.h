/* etcd_text.h - what is said to etcd's v3 JSON gateway, and what its answers mean. Pure: text in, values out
 *
 * The record of a VM is the value of the key replicad/<cluster>/<uuid>: the line of record_text.h, nothing else. A claim
 * is one transaction: compare the key's mod_revision *and* its value with what was read, then put; else say what is
 * there. Both are compared since revisions can repeat when an etcd is restored from a copy. Create is mod_revision 0.
 * Reads are linearizable, which is what a range without "serializable" is.
 *
 * An answer is believed only if it is whole: each field that is looked at is there, of the right type, of our key and of
 * our VM. Anything else is an error with a sentence, never "absent" and never "refused".
 */
#ifndef RPL_ARBITER_ETCD_TEXT_H
#define RPL_ARBITER_ETCD_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <replicad/arbiter.h>

#include "record_text.h"

#define RPL_ETCD_KEY_MAX 128            /* bytes of a key with its NUL */
#define RPL_ETCD_REQUEST_MAX (8 * 1024) /* bytes of a request's body */
#define RPL_ETCD_ANSWER_MAX (16 * 1024) /* bytes of an answer's body, and of its headers */

struct rpl_etcd_value {
	bool present;
	int64_t mod_revision;           /* 0 while absent */
	struct rpl_record record;
	char text[RPL_RECORD_TEXT_MAX]; /* exactly what is stored, NUL-terminated */
};

struct rpl_etcd_answer {
	uint64_t cluster_id;
	bool swapped;              /* a transaction: it put what was wanted; `now` is that */
	struct rpl_etcd_value now;
};

void rpl_etcd_key(const char *cluster, const struct rpl_uuid *vm, char ret[RPL_ETCD_KEY_MAX]);
/* Write a request's body. Returns its length, or -EINVAL for a record that must not be stored. */
int rpl_etcd_write_range(const char *key, char ret[RPL_ETCD_REQUEST_MAX], struct rpl_err *err);
int rpl_etcd_write_txn(const char *key, const struct rpl_etcd_value *expect, const struct rpl_record *want,
		       char ret[RPL_ETCD_REQUEST_MAX], struct rpl_err *err);
/* Read the body of an answer with HTTP status 200. 0 and *ret; -EBADMSG, or -EPROTONOSUPPORT for a record of another
 * format. */
int rpl_etcd_read_range(const char *text, size_t len, const char *key, const struct rpl_uuid *vm,
			struct rpl_etcd_answer *ret, struct rpl_err *err);
int rpl_etcd_read_txn(const char *text, size_t len, const char *key, const struct rpl_record *want,
		      struct rpl_etcd_answer *ret, struct rpl_err *err);
/* The body of an answer with another status: a sentence of what etcd said and, where we know it, what mends it. Returns
 * a negative errno always. */
int rpl_etcd_read_refusal(long status, const char *text, size_t len, struct rpl_err *err);

#endif
