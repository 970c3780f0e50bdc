/* trace.h - when each step of each checkpoint happened, in a file that outlives the process that writes it
 *
 * A ring of fixed records, mapped shared: a mark is a store to memory, so it may be made in the pause, and after a
 * SIGKILL the file holds everything up to the last instruction. Readers (the demo, tests, people) need no
 * connection. Format: replicad-trace(7). One writer.
 */
#ifndef REPLICAD_TRACE_H
#define REPLICAD_TRACE_H

#include <stdint.h>

#include <replicad/err.h>

#define RPL_TRACE_FILE "trace"   /* in the VM's directory */
#define RPL_TRACE_EPOCHS 4096u   /* records in the ring: more than three minutes at 50 ms */

/* name, what has just happened, on which role. The order is the file's. */
#define RPL_TRACE_STEPS(X)                                                     \
	X(BEGUN)    /* primary: the pause was asked for (s1) */                \
	X(STAGED)   /* primary: pages and device state are in the arena (s2) */ \
	X(RESUMED)  /* primary: the guest runs again (s3) */                   \
	X(SENT)     /* primary: the last byte went to the kernel (s4) */       \
	X(ACKED)    /* primary: the ack was decoded (s5) */                    \
	X(RELEASED) /* primary: its output has left */                         \
	X(RECEIVED) /* backup: whole, verified, staged (s4) */                 \
	X(FOLDED)   /* backup: the replica holds it (s8) */                    \
	X(SUSPENDED) /* primary: the guest stands still */                     \
	X(SEALED)   /* primary: its output up to there is told apart */        \
	X(SAVED)    /* primary: dirty set and device state are known */        \
	X(TOLD)     /* primary: the guest was told to go on */

enum rpl_trace_step {
#define RPL_X(name) RPL_TRACE_##name,
	RPL_TRACE_STEPS(RPL_X)
#undef RPL_X
	RPL_TRACE_NSTEPS
};

struct rpl_trace;

/* Make the file, or replace it, in one step for its readers. NULL on failure. */
struct rpl_trace *rpl_trace_open(const char *path, struct rpl_err *err);
/* Note the step's time, now. The first mark of a new epoch takes the slot of the oldest. Epoch 0 is no epoch: ignored. A
 * NULL trace is fine: nothing is noted. */
void rpl_trace_mark(struct rpl_trace *t, uint64_t epoch, enum rpl_trace_step step);
/* The same for a step that was at `ns`, noted later. */
void rpl_trace_mark_at(struct rpl_trace *t, uint64_t epoch, enum rpl_trace_step step, uint64_t ns);
/* How many pages epoch has; it must be marked already, else nothing is noted. */
void rpl_trace_pages(struct rpl_trace *t, uint64_t epoch, uint64_t pages);
/* Unmap; the file stays (the VM's directory is removed as a whole). Accepts NULL. */
void rpl_trace_close(struct rpl_trace *t);

#endif
