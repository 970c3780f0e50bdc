/* mover.h - what a keeper and its mover say to each other
 *
 * One SOCK_SEQPACKET socketpair; each message is one struct rpl_mover_msg (fixed size, same machine, same build: the
 * first message checks the size), with descriptors where said. The mover never opens a path and never connects: the
 * keeper does, and passes the descriptors. Progress and liveness are read from a shared page of counters instead of
 * messages. The mover finds the socket on descriptor 0, logs to descriptor 2, and exits when the socket closes.
 *
 * Primary:  CONF -> READY; LINK (a connected socket) -> LINK_UP (TLS is up) -> SESSION -> PEER_READY, then live rounds:
 *           ROUND -> ROUND_DONE while the guest runs, then per epoch, with the guest paused: STAGE -> STAGED (the guest
 *           may be resumed), after which the mover encodes and sends; ACKED when the backup's ack was decoded.
 * Backup:   CONF -> READY; LINK (an accepted socket) -> LINK_UP -> ACCEPT or REFUSE -> per epoch EPOCH_STAGED -> ACK
 *           (keeper decides, R9); the mover folds what was acked.
 * Either:   LINK_DOWN, exactly once for each LINK that was not replaced by the next.
 *
 * Anybody can connect to a backup and say a VM's uuid, but only a peer that has proven its name may take the place of a
 * connection: on the backup a LINK waits beside the one in use until TLS is up, and replaces it then (in clear: at once).
 * One that does not get so far is reported as LINK_REFUSED while another is in use, else as LINK_DOWN. At most
 * RPL_MOVER_WAITING_MAX wait; the oldest goes first. The primary's keeper connects by itself: its LINK replaces at once.
 *
 * Resumption: after LINK_DOWN with value 0, a new LINK and SESSION with the same uuid go on where the backup stands:
 * PEER_READY has value 1; what the backup has not staged is sent again from the arena by itself; an ack whose frame was
 * lost is reported as ACKED before, and an epoch that is staged there but not acked waits for its ack as ever (R9). Epochs may be staged (STAGE) while no connection is up, up to
 * max_uncommitted. LINK_DOWN with value 1 means that the session cannot be resumed (the backup lost or never completed
 * it, a bulk round was cut, an epoch larger than the arena was under way): the next SESSION needs a new uuid, and the
 * memory is sent whole again. An epoch number that was not staged is not skipped: STAGE takes the numbers one by one.
 * A guest that waits for STAGED when LINK_DOWN with value 1 arrives is to be resumed: that STAGED never comes.
 *
 * SEND of FORGET closes the connection in order behind it; LINK_DOWN tells when the peer has it, or time was up.
 *
 * A command that does not fit the state (STAGE twice, ROUND without a session) is a bug of the keeper: FAILED, exit.
 * Commands that met a connection's end on their way (ROUND, SESSION, ACCEPT, REFUSE, SEND; STAGE in a void session;
 * ACCEPT of a session that the connection of the moment does not ask for) are dropped in silence, as the report that
 * explains it is on its way; an ACK is kept: the epoch is folded, and a resumed connection tells the primary.
 */
#ifndef REPLICAD_MOVER_H
#define REPLICAD_MOVER_H

#include <stdatomic.h>
#include <stdint.h>

#include <replicad/link.h>
#include <replicad/memory.h>

/* keeper to mover; [fds] */
#define RPL_MOVER_COMMANDS(X)                                                                             \
	X(CONF)      /* conf; [counters memfd, text memfd, staging memfd (backup) or state memfd (primary), memory fds...]; \
			the key text is wiped from the text memfd */                                       \
	X(LINK)      /* [socket]: use this connection; any earlier one is dropped */                       \
	X(SESSION)   /* primary: uuid, generation, epoch (first checkpoint's number): say hello and, when the peer is ready, report PEER_READY. Same uuid as before: resume */ \
	X(ROUND)     /* primary: take the dirty set (all pages in the first round) and send it as a bulk round; the guest runs */ \
	X(STAGE)     /* primary: the guest is paused; epoch, length of device state in the state memfd: stage checkpoint */ \
	X(ACCEPT)    /* backup: uuid: the definition is fine, take part in this session (fresh: forget staged epochs) */ \
	X(REFUSE)    /* backup: why, in the text memfd (length in value); the connection ends */             \
	X(ACK)       /* backup: epoch: send the ack, then fold */                                          \
	X(SEND)      /* primary: value = frame type (HANDOVER, FORGET, FLUSHED, PROTECTED), epoch (PROTECTED: generation), generation = a HANDOVER's reason */ \
	X(FAULT)     /* value = enum rpl_fault, one of a mover's; it strikes at the passage `epoch` from now */ \
	X(QUIT)      /* send what is queued, end the connection in order, exit */

/* mover to keeper */
#define RPL_MOVER_REPORTS(X)                                                                              \
	X(READY)        /* CONF was fine, privileges are gone */                                           \
	X(LINK_UP)      /* backup: hello holds the primary's; its definition is in the text memfd, NUL behind it (length in value) */ \
	X(LINK_DOWN)    /* text: why; value = 1: the session is void as well (see above); epoch = errno: EACCES, the \
			* peer's name or key was refused or ours by the peer; ENOKEY, EINVAL: ours cannot be used; ESTALE, on a \
			* primary: the backup itself said that it holds nothing of the session, generation = of its record */ \
	X(LINK_REFUSED) /* backup: text: why a LINK did not take the place of the one in use, which goes on; epoch = errno */ \
	X(PEER_READY)   /* primary: value = 1 if resumed; epoch = what the backup says it acked in this session, 0: nothing */ \
	X(PEER_REFUSED) /* text: the peer's sentence; LINK_DOWN follows */                                  \
	X(ROUND_DONE)   /* value = pages sent; epoch = pages dirty by now (estimate; a tracker that cannot tell: pages sent) */ \
	X(STAGED)       /* epoch, value = pages: the guest may be resumed */                               \
	X(ACKED)        /* epoch, uuid = session: a decoded ack */                                         \
	X(EPOCH_STAGED) /* backup: epoch, uuid = session: whole, digest right, where the activator finds it (R9) */ \
	X(FOLDED)       /* backup: epoch: the replica's RAM holds it */                                    \
	X(PEER_FRAME)   /* type in value: HANDOVER (generation = paused us), FORGET, FLUSHED, PROTECTED; epoch (PROTECTED: generation), uuid = session */ \
	X(FULL)         /* primary: the running epoch has dirtied most of what the arena has free: end it early; once an epoch */ \
	X(FAILED)       /* text: this mover cannot go on (it exits) */

enum rpl_mover_type {
#define X(name) RPL_MOVER_##name,
	RPL_MOVER_COMMANDS(X)
	RPL_MOVER_REPORTS(X)
#undef X
	RPL_MOVER_NTYPES
};
const char *rpl_mover_type_name(enum rpl_mover_type t);

#define RPL_MOVER_ARENA_MIN (4ull * 1024 * 1024)
#define RPL_MOVER_UNCOMMITTED_MAX 64 /* the largest max_uncommitted of replicad.conf(5) */
#define RPL_MOVER_WAITING_MAX 4 /* connections that have not proven who they are */
#define RPL_MOVER_DEFINITION_MAX (16 * 1024)
#define RPL_MOVER_SENT_EPOCHS 8 /* of so many, the newest, the shared page tells when they were sent */
#define RPL_MOVER_REASON_MAX 240 /* bytes of `text`, with the final NUL */

struct rpl_mover_conf {
	uint32_t role;              /* enum rpl_role */
	uint32_t tls;               /* enum rpl_tls */
	struct rpl_uuid vm;
	char vm_name[64];
	char node[RPL_NODE_NAME];
	char identity[RPL_IDENTITY_MAX]; /* psk: the name we present */
	char peers[512];            /* identities that may connect, comma-separated; psk: "" = any that has a key; x509: required */
	uint32_t heartbeat_ms, handshake_timeout_ms; /* handshake: once there was a session; before, six times that */
	uint64_t arena_bytes;       /* primary: staging for uncommitted epochs, at least RPL_MOVER_ARENA_MIN */
	uint64_t delta_cache_bytes; /* primary: for pages as they were sent last; 0: all are sent as they are */
	uint64_t staging_bytes;     /* backup: size of the staging memfd, at least RPL_REPLICA_BYTES_MIN */
	uint32_t max_uncommitted;   /* 1 ... RPL_MOVER_UNCOMMITTED_MAX */
	uint32_t n_memory_fds;
	uint32_t run_as_uid, run_as_gid; /* 0: stay */
	uint32_t keys_len;          /* key texts in the text memfd, from offset RPL_MOVER_TEXT_KEYS. psk: of a keys.psk;
				     * x509: CA certificates, our certificate, its key, in PEM, a NUL behind each */
	uint32_t definition_len;    /* primary: our definition, in the text memfd from offset 0 */
	struct rpl_memory_desc memory;
	char machine[64], producer[64]; /* for the stream's layout record */
};

#define RPL_MOVER_TEXT_SIZE (128 * 1024) /* text memfd: 0 definition or reason, RPL_MOVER_TEXT_KEYS key text */
#define RPL_MOVER_TEXT_KEYS (64 * 1024)

struct rpl_mover_msg {
	uint32_t size; /* sizeof(struct rpl_mover_msg) */
	uint32_t type; /* enum rpl_mover_type */
	uint64_t epoch, value, generation;
	struct rpl_uuid uuid;
	union {
		struct rpl_mover_conf conf;
		struct rpl_hello hello;
		char text[RPL_MOVER_REASON_MAX];
	};
};

/* The shared page. Written by the mover only, but for the first two fields; each is read alone and may be a moment old. */
struct rpl_mover_counters {
	/* Written by the keeper, which adds 1 at least once in a heartbeat while it lives: a mover whose keeper stands still
	 * sends no heartbeat, so that a host on which nobody decides is as silent as a dead one. 0: this keeper does not beat. */
	_Atomic uint64_t keeper_beats;
	/* As well: the generation of the record as this host knows it, RPL_GENERATION_UNKNOWN, or 0 if there is none. A
	 * backup's hello says it. */
	_Atomic uint64_t generation;
	_Atomic uint64_t last_heard_ns;    /* rpl_now_ns() when a frame was last decoded */
	_Atomic uint64_t link_up;          /* 1 while hello is done on a live connection */
	_Atomic uint64_t epochs, pages, zero_pages, raw_bytes, wire_bytes; /* checkpoints; raw = stream bytes */
	_Atomic uint64_t delta_pages; /* of `pages`: sent as what changed in them */
	_Atomic uint64_t same_pages;  /* reported by the tracker, and as the backup has them */
	_Atomic uint64_t bulk_rounds, bulk_pages, bulk_pages_total; /* this session's; total: of the rounds begun so far */
	_Atomic uint64_t last_dirty_pages;
	_Atomic uint64_t scan_ns, copy_ns, encode_ns; /* last epoch */
	/* Primary: rpl_now_ns() when the last byte of an epoch was in the link, at [epoch % RPL_MOVER_SENT_EPOCHS]; 0: it is not. For the
	 * trace: never a reason to release (R1), so no report that would wake the keeper up. */
	_Atomic uint64_t sent_ns[RPL_MOVER_SENT_EPOCHS];
	_Atomic uint64_t overflows;        /* epochs larger than the arena, ended with the guest paused */
	_Atomic uint64_t staged, acked, folded; /* backup: highest epoch of each */
	_Atomic uint64_t audit_missed;     /* pages a tracker missed (audit mode); anything but 0 is a defect */
	_Atomic uint64_t tls_on;
};

#endif
