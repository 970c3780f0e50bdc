/* fault.h - named points where a test may make a process fail, always compiled in
 *
 * RPL_FAULT=<point>[:nth][,<point>[:nth]...] in the environment: at the nth passage (1 if not said) of the point its
 * effect happens, once. A keeper that runs already is told by its control command "fault" and hands it on to its mover.
 * Points are named after the protocol's steps (s0 ... s8) and claims; die_* ends the process by SIGKILL, cut_* ends the
 * connection, the others say what they do. The list is in replicad-fault(7).
 */
#ifndef REPLICAD_FAULT_H
#define REPLICAD_FAULT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <replicad/err.h>

#define RPL_MOVER_FAULTS(X)                                                                                        \
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

/* A claim: not yet sent; on the wire; granted, and not acted on. */
#define RPL_CLAIM_FAULTS(X, CLAIM, claim)                           \
	X(DIE_##CLAIM##_UNSENT, "die_claim_" claim "_unsent")       \
	X(DIE_##CLAIM##_SENT, "die_claim_" claim "_sent")           \
	X(DIE_##CLAIM##_GRANTED, "die_claim_" claim "_granted")

#define RPL_KEEPER_FAULTS(X)                                                                                \
	/* the primary's keeper */                                                                            \
	X(DIE_KEEPER_S0, "die_keeper_s0")             /* the epoch ends: the guest is about to be paused */   \
	X(DIE_KEEPER_S0_ASKED, "die_keeper_s0_asked") /* the guest was asked to stand still, and may not yet */ \
	X(DIE_KEEPER_S1, "die_keeper_s1")             /* the guest is paused, nothing is sealed */            \
	X(DIE_KEEPER_S1_SEALED, "die_keeper_s1_sealed") /* output sealed, device state saved, no page staged */ \
	X(DIE_KEEPER_S2, "die_keeper_s2")             /* staged, and the guest still paused */                \
	X(DIE_KEEPER_S3, "die_keeper_s3")             /* the guest runs again, the core was not told */       \
	X(DIE_KEEPER_S5, "die_keeper_s5")             /* acked, the output not released */                    \
	X(DIE_KEEPER_S5_RELEASED, "die_keeper_s5_released") /* released, the next epoch not begun */          \
	X(DIE_DRAIN, "die_drain")                     /* a switchover begins */                               \
	X(DIE_HANDOVER_UNSENT, "die_handover_unsent") /* drained, the backup not told */                      \
	X(DIE_HANDOVER_SENT, "die_handover_sent")     /* told, or on its way */                               \
	/* the backup's keeper */                                                                             \
	X(DIE_KEEPER_S4, "die_keeper_s4")             /* an epoch is staged, its ack not ordered */           \
	X(DIE_KEEPER_S4_ACKED, "die_keeper_s4_acked") /* its ack is ordered */                                \
	X(DIE_KEEPER_S8, "die_keeper_s8")             /* an epoch was folded */                               \
	X(DIE_HANDOVER_HEARD, "die_handover_heard")   /* asked to take over, not suspecting yet */            \
	X(DIE_PROMOTE_FOLDED, "die_promote_folded")   /* taken over, the replica folded, the standby not told */ \
	X(DIE_PROMOTE_LOADING, "die_promote_loading") /* the standby was told to load its state */            \
	X(DIE_PROMOTE_LOADED, "die_promote_loaded")   /* it has, and stands still */                          \
	X(DIE_PROMOTE_RUNS, "die_promote_runs")       /* it runs, the core was not told */                    \
	/* either */                                                                                          \
	RPL_CLAIM_FAULTS(X, CLAIM_SOLO, "solo")                                                               \
	RPL_CLAIM_FAULTS(X, CLAIM_TAKEOVER, "takeover")                                                       \
	RPL_CLAIM_FAULTS(X, CLAIM_ARM, "arm")                                                                 \
	RPL_CLAIM_FAULTS(X, CLAIM_DOWN, "down")

#define RPL_FAULTS(X) RPL_MOVER_FAULTS(X) RPL_KEEPER_FAULTS(X)

enum rpl_fault {
#define RPL_X(id, name) RPL_FAULT_##id,
	RPL_FAULTS(RPL_X)
#undef RPL_X
	RPL_NFAULTS
};

#define RPL_FAULT_ENV "RPL_FAULT"

/* Read `spec` (NULL or "": no fault). 0, or -EINVAL naming what is not a point or not a number. Counting starts anew. */
int rpl_fault_init(const char *spec, struct rpl_err *err);
/* Read one "<point>[:nth]" of `len` bytes; 0 or -EINVAL as above. */
int rpl_fault_read(const char *text, size_t len, enum rpl_fault *ret_point, uint64_t *ret_nth, struct rpl_err *err);
/* From now on: at the nth passage (> 0) of this point. Others stay as they are. */
void rpl_fault_arm(enum rpl_fault point, uint64_t nth);
/* One of a mover's points, not of a keeper's? */
bool rpl_fault_in_mover(enum rpl_fault point);
/* Count one passage; true exactly at the chosen one. */
bool rpl_fault_hit(enum rpl_fault point);
/* As rpl_fault_hit(), and when true: log it and end this process by SIGKILL. */
void rpl_fault_die(enum rpl_fault point);
const char *rpl_fault_name(enum rpl_fault point);

#endif
