/* fault.h - named points where a test may make a process fail, always compiled in
 *
 * RPL_FAULT=<point>[:nth][,<point>[:nth]...] in the environment: at the nth passage (1 if not said) of the point its
 * effect happens, once. Points are named after the protocol's steps (s0 ... s8); die_* ends the process by SIGKILL,
 * cut_* ends the connection, the others say what they do. The list is in replicad-fault(7).
 */
#ifndef REPLICAD_FAULT_H
#define REPLICAD_FAULT_H

#include <stdbool.h>
#include <stdint.h>

#include <replicad/err.h>

#define RPL_FAULTS(X)                                                                                        \
	/* the primary's mover */                                                                            \
	X(DIE_AT_S2, "die_at_s2")               /* checkpoint staged in the arena, keeper not told */        \
	X(DIE_AT_S3, "die_at_s3")               /* between two frames of a checkpoint's pages */             \
	X(CUT_AT_S3, "cut_at_s3")               /* there the connection ends instead */                      \
	X(DIE_AT_S5, "die_at_s5")               /* ack decoded, keeper not told */                           \
	X(DROP_EPOCH_PAGES, "drop_epoch_pages") /* the nth checkpoint is sent without its pages, digest and count to match */ \
	/* the backup's mover */                                                                             \
	X(DIE_AT_S4, "die_at_s4")               /* all of an epoch received, its header not sealed */        \
	X(DIE_AT_S4_SEALED, "die_at_s4_sealed") /* epoch sealed, keeper not told */                          \
	X(CUT_AT_S4, "cut_at_s4")               /* the connection ends instead of carrying an ack */         \
	X(DIE_AT_S8, "die_at_s8")               /* between two slices of a fold */

enum rpl_fault {
#define RPL_X(id, name) RPL_FAULT_##id,
	RPL_FAULTS(RPL_X)
#undef RPL_X
	RPL_NFAULTS
};

#define RPL_FAULT_ENV "RPL_FAULT"

/* Read `spec` (NULL or "": no fault). 0, or -EINVAL naming what is not a point or not a number. Counting starts anew. */
int rpl_fault_init(const char *spec, struct rpl_err *err);
/* Count one passage; true exactly at the chosen one. */
bool rpl_fault_hit(enum rpl_fault point);
/* As rpl_fault_hit(), and when true: log it and end this process by SIGKILL. */
void rpl_fault_die(enum rpl_fault point);
const char *rpl_fault_name(enum rpl_fault point);

#endif
