/* file_register.h - the register as a file: one directory, one lock, blocking calls
 *
 * The record of a VM is DIR/replicad/<cluster>/<uuid>. Every access holds an exclusive flock on the directory
 * DIR/replicad/<cluster> itself, so nothing but the records is left there. A record is replaced by fsync of a
 * temporary file, rename, fsync of the directory: a crash anywhere leaves the old or the new one, whole. A file that
 * cannot be read as a record is an error, never "absent".
 */
#ifndef RPL_ARBITER_FILE_REGISTER_H
#define RPL_ARBITER_FILE_REGISTER_H

#include "arbiter_ops.h"

struct rpl_register_answer {
	enum rpl_arbiter_outcome outcome;
	bool has_record;
	struct rpl_record record;
	struct rpl_err err;
};

/* Carry out `ask`; blocks. While it waits for the lock, and once more when it has it, `abandoned` is asked: true ends
 * the operation without effect (UNKNOWN). After that it holds the lock until all is done, so a read that begins later
 * sees the effect (R6). */
void rpl_register_run(const char *dir, const char *cluster, const struct rpl_arbiter_ask *ask,
		      bool (*abandoned)(void *arg), void *arg, struct rpl_register_answer *ret);

#endif
