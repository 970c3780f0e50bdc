/* mover_rig.h - two real movers with a scripted keeper each, and a simulated guest's memory between them
 *
 * The guest is a RAM file with the dirty bitmap of RPL_MEMORY_SIM; its layout has two regions, so that a frame number
 * is not a file offset. Every call that waits is bounded (RIG_WAIT_MS) and fails the test with what came instead.
 */
#ifndef TESTS_MOVER_RIG_H
#define TESTS_MOVER_RIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <replicad/mover.h>
#include <replicad/replica.h>

#define RIG_WAIT_MS 60000
#define RIG_HIGH_PFN 0x100000 /* where the second region begins */
#define RIG_STATE_MAX (1024 * 1024)
#define RIG_EPOCHS 512        /* images of staged epochs that are kept: the last so many */

struct side {
	pid_t pid;
	int sock;
	int counters_fd, text_fd, extra_fd, ram_fd;
	struct rpl_mover_counters *counters;
	char *text;
	uint8_t *ram;
	struct rpl_mover_msg last;
	uint64_t staged, acked, folded, full; /* highest epochs of EPOCH_STAGED, ACKED, FOLDED; FULLs seen */
};

struct rig {
	/* configuration */
	uint64_t pages;
	struct rpl_mover_conf conf; /* of both; role and memory kind are set per side */
	const char *fault[2];       /* RPL_FAULT of the primary and of the backup */
	const char *keys[2];        /* key texts of both, keys_len bytes; NULL: one line that both have */
	uint32_t keys_len[2];
	bool conf_refused;          /* a start ends with FAILED */
	int memory_fd[RPL_MEMORY_FDS_MAX]; /* the primary's, behind the RAM's; by default the dirty bitmap alone */
	uint32_t n_memory_fds;
	uint64_t staging_bytes;
	/* state */
	struct side p, b;
	int dirty_fd;
	int cut_fd;                 /* another name of the connection */
	_Atomic uint64_t *dirty;
	uint64_t rng;
	struct rpl_uuid session;
	uint64_t epoch;             /* last staged */
	uint64_t state_len;
	uint8_t *image[RIG_EPOCHS]; /* RAM as it was when epoch e was staged, at e % RIG_EPOCHS */
};

void rig_init(struct rig *r, uint64_t pages); /* defaults; nothing is started */
void rig_start_primary(struct rig *r);
void rig_start_backup(struct rig *r);
void rig_start(struct rig *r);                /* both */
void rig_stop_side(struct side *s);           /* kills and reaps; descriptors and memory stay for rig_fini */
void rig_fini(struct rig *r);

uint64_t rig_random(struct rig *r, uint64_t below);
void rig_write(struct rig *r, uint64_t page);  /* the guest writes one page of its RAM file */
void rig_run(struct rig *r, uint64_t writes);  /* and so many at random */

/* ---- the keepers */
void side_send(struct side *s, enum rpl_mover_type type, uint64_t epoch, uint64_t value, uint64_t generation,
	       const struct rpl_uuid *uuid, int fd);
/* The next report; false after `ms` without one, or when the mover is gone. */
bool side_receive(struct side *s, int ms);
/* Wait for a report of this type; those that struct side counts, and SENT, are passed over. */
struct rpl_mover_msg *side_expect(struct side *s, enum rpl_mover_type type);
/* The same, and passes over one more type. */
struct rpl_mover_msg *side_expect_past(struct side *s, enum rpl_mover_type type, enum rpl_mover_type past);
bool side_gone(struct side *s); /* the mover's end of the socket closed, within RIG_WAIT_MS */

void rig_connect(struct rig *r);            /* a new connection for both, up to the primary's LINK_UP */
void rig_cut(struct rig *r);                /* the network resets it; nothing is waited for */
void rig_new_session(struct rig *r);        /* another id, epochs from the start; nobody is told */
struct rpl_mover_msg *rig_call(struct rig *r); /* connect, SESSION; the backup's LINK_UP with the hello of it */
void rig_session(struct rig *r, bool fresh); /* a new session, if so; call, ACCEPT, PEER_READY */
uint64_t rig_round(struct rig *r);          /* returns the pages it sent */
void rig_stage(struct rig *r);              /* STAGE -> STAGED, keeps the image */
void rig_commit(struct rig *r);             /* until the last epoch is staged there; ack; until ACKED here */
void rig_wait_folded(struct rig *r, uint64_t epoch);
void rig_protect(struct rig *r);            /* session, rounds, first checkpoint committed */
/* The guest writes so many pages; a checkpoint of it arrives whole. After rig_protect(). */
void rig_checkpoint(struct rig *r, uint64_t writes);
void rig_expect_text(const struct rpl_mover_msg *m, const char *part); /* in a report's text */
/* Does the backup's RAM equal the image of `epoch`? The first page that differs, or -1. */
int64_t rig_differs(struct rig *r, uint64_t epoch);
uint64_t rig_count(_Atomic uint64_t *counter);

#endif
