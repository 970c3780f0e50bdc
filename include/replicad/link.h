/* link.h - one connection between the movers of a VM's two sides: TLS, frames, flow control
 *
 * A *session* (protocol) may span several connections; this is one connection. It starts with a clear preamble of
 * RPL_PREAMBLE_SIZE bytes that names the VM, then TLS 1.3 with PSK or x509, or nothing where cleartext is allowed, then
 * frames. The agent finds the right mover for an accepted socket by *peeking* at the preamble (MSG_PEEK, with SO_RCVLOWAT
 * = RPL_PREAMBLE_SIZE so that it is woken once): the bytes stay in the socket and the link reads and checks them again.
 *
 * Frame: 16-byte little-endian header {u32 body length, u16 type, u16 zero, u64 sequence}, then the body. The
 * sequence counts frames of this direction from 0; a gap or a repeat ends the connection. Bodies are bounded per
 * type (RPL_FRAMES below); lengths are checked before the body is stored. The first frame is HELLO (or REFUSE).
 *
 * What the frames carry is the Xen migration stream (stream.h) plus what the stream has no place for: hello,
 * digests, acks, heartbeats, redo. STREAM frames carry stream bytes as they are; a PAGES frame is one PAGE_DATA
 * record whose pages were encoded (pages.h) and are restored bit by bit at the far end, when they are stored. The digest of an
 * epoch is over the bodies of its STREAM and PAGES frames; what a delta makes of a page has a check of its own.
 */
#ifndef REPLICAD_LINK_H
#define REPLICAD_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include <replicad/err.h>
#include <replicad/record.h>
#include <replicad/uuid.h>

struct ev_loop;
struct rpl_link;

#define RPL_LINK_MAJOR 1
#define RPL_LINK_MINOR 0
#define RPL_LINK_PORT 7887
#define RPL_FRAME_HEADER 16
#define RPL_FRAME_BODY_MAX (1024 * 1024)
#define RPL_PREAMBLE_SIZE 32 /* "REPLICAD" u16 major u16 minor u32 zero, vm uuid; big-endian */
#define RPL_IDENTITY_MAX 128 /* with the final NUL */
#define RPL_HELLO_SIZE 200
#define RPL_DIGEST_SIZE 16

/* name, number, smallest and largest body */
#define RPL_FRAMES(X)                                                                                                 \
	X(HELLO, 1, RPL_HELLO_SIZE, RPL_HELLO_SIZE)  /* first frame of each side */                                    \
	X(DEFINITION, 2, 1, 16 * 1024)               /* primary: the guest's definition text */                        \
	X(READY, 3, 16, 16)                          /* backup: session accepted or resumed; {last staged, last acked} */ \
	X(REFUSE, 4, 1, 240)                         /* either: why not, a sentence; the connection ends */            \
	X(HEARTBEAT, 5, 0, 0)                                                                                          \
	X(STREAM, 16, 1, RPL_FRAME_BODY_MAX)         /* bytes of the record stream */                                  \
	X(PAGES, 17, 16, RPL_FRAME_BODY_MAX)         /* one encoded PAGE_DATA record (pages.h) */                      \
	X(EPOCH_BEGIN, 18, 24, 24)                   /* {epoch, flags: bulk round or checkpoint, pages to come} */     \
	X(EPOCH_END, 19, 40, 40)                     /* {epoch, stream bytes, pages, digest} */                        \
	X(ACK, 20, 24, 24)                           /* backup: {session, epoch} */                                    \
	X(REDO, 21, 24, RPL_FRAME_BODY_MAX)          /* {epoch, device, offset, flags} and a disk write's bytes */     \
	X(FLUSHED, 22, 24, 24)                       /* primary: {session, epoch} durably in the backup's store */     \
	X(HANDOVER, 23, 32, 32)                      /* primary: {session, epoch, paused us}: claim it */                 \
	X(FORGET, 24, 16, 16)                        /* primary: {session}: protection ended on purpose */             \
	X(PROTECTED, 25, 24, 24)                     /* primary, arbiter manual: {session, generation}: its record says so */

enum rpl_frame {
#define X(name, number, min, max) RPL_FRAME_##name = (number),
	RPL_FRAMES(X)
#undef X
};
const char *rpl_frame_name(uint16_t type); /* "?" for an unknown one */

/* ---- hello: what each side says first. Majors must match, features intersect, limits: the smaller holds. */
struct rpl_hello {
	uint16_t major, minor;
	uint32_t features;             /* RPL_FEATURE_* */
	struct rpl_uuid vm;
	struct rpl_uuid session;       /* primary: the session it wants; backup: the one it holds state of, or zero */
	uint64_t generation;           /* of the record, as this side knows it */
	uint64_t last_staged;          /* backup: last epoch staged in `session` */
	uint64_t epoch_bytes_max;      /* largest epoch it can stage */
	uint64_t ram_pages;
	uint32_t max_uncommitted;
	uint32_t role;                 /* RPL_ROLE_* */
	char node[RPL_NODE_NAME];
	uint64_t blackout_us;          /* primary: what the switchover cost by which the guest came to it, for people; 0: none */
	uint32_t flags;                /* RPL_HELLO_* */
};
#define RPL_GENERATION_UNKNOWN UINT64_MAX /* hello of a backup that has not read its record */
#define RPL_HELLO_RESUME 0x1u /* primary: `session` has a first checkpoint on its way or there: it can only go on */
enum rpl_role { RPL_ROLE_PRIMARY = 1, RPL_ROLE_BACKUP = 2 };
/* The PAGES encoding version 2, and a digest over the frames. Bit 0 was version 1 with a digest over what the frames stand for,
 * which nobody says any more: two that have no bit in common refuse each other. */
#define RPL_FEATURE_PAGES 0x2u
/* Backup: what changed in a page since the bulk rounds brought it is understood (RPL_PAGES_BASE_ROUND, pages.h). */
#define RPL_FEATURE_ROUND_BASE 0x4u

void rpl_hello_encode(const struct rpl_hello *h, uint8_t ret[RPL_HELLO_SIZE]);
/* Decode and check on its own; -EBADMSG with the field that is wrong. */
int rpl_hello_decode(const void *body, size_t len, struct rpl_hello *ret, struct rpl_err *err);
/* May these two work together? -EPROTO with both values: version, VM, roles, RAM size, a common page encoding. */
int rpl_hello_match(const struct rpl_hello *ours, const struct rpl_hello *theirs, struct rpl_err *err);

void rpl_preamble_encode(const struct rpl_uuid *vm, uint8_t ret[RPL_PREAMBLE_SIZE]);
int rpl_preamble_decode(const uint8_t bytes[RPL_PREAMBLE_SIZE], struct rpl_uuid *ret_vm, struct rpl_err *err);

/* ---- fixed bodies, one struct each (values; the wire form is little-endian, packed in field order) */
struct rpl_epoch_begin { uint64_t epoch; uint32_t flags, reserved; uint64_t pages; };
#define RPL_EPOCH_BULK 0x1u       /* a round while the guest runs: not a consistent state, never acked */
#define RPL_EPOCH_BULK_LAST 0x2u  /* the next epoch is the session's first checkpoint */
struct rpl_epoch_end { uint64_t epoch, stream_bytes, pages; uint8_t digest[RPL_DIGEST_SIZE]; };
struct rpl_session_epoch { struct rpl_uuid session; uint64_t epoch; }; /* ACK, FLUSHED; PROTECTED with a generation */
struct rpl_handover { struct rpl_uuid session; uint64_t epoch; uint64_t paused_us; }; /* for people: stood still so long */

void rpl_epoch_begin_encode(const struct rpl_epoch_begin *v, uint8_t ret[24]);
void rpl_epoch_begin_decode(const uint8_t body[24], struct rpl_epoch_begin *ret);
void rpl_epoch_end_encode(const struct rpl_epoch_end *v, uint8_t ret[40]);
void rpl_epoch_end_decode(const uint8_t body[40], struct rpl_epoch_end *ret);
void rpl_session_epoch_encode(const struct rpl_session_epoch *v, uint8_t ret[24]);
void rpl_session_epoch_decode(const uint8_t body[24], struct rpl_session_epoch *ret);
void rpl_handover_encode(const struct rpl_handover *v, uint8_t ret[32]);
void rpl_handover_decode(const uint8_t body[32], struct rpl_handover *ret);

/* ---- the connection */
enum rpl_tls { RPL_TLS_NONE, RPL_TLS_PSK, RPL_TLS_X509 };

struct rpl_link_conf {
	int fd;                        /* connected TCP (or unix stream) socket; the link's from now on, also on failure */
	bool server;                   /* accepted (backup) or connecting (primary); only the client sends a preamble */
	enum rpl_tls tls;
	struct rpl_uuid vm;            /* for the preamble: sent, or checked against */
	const char *identity;          /* PSK: the name we present (client); must have a line in `keys` */
	const void *keys; size_t keys_len; /* PSK: text of a keys.psk file (keys.h), copied */
	const char *x509_ca, *x509_cert, *x509_key; /* x509: PEM texts, QEMU's PKI file contents */
	/* Comma-separated identities. Server: who may connect for this VM; NULL or "": any that has a key (PSK) or a
	 * certificate of the CA (x509). Client, x509: the names of which the server's certificate must carry one; required.
	 * Client, PSK: unused, the server proves itself by the key. */
	const char *peers;
	unsigned handshake_timeout_ms; /* for preamble and TLS together */
	size_t queue_bytes_max;        /* bytes that may wait to be sent, >= RPL_LINK_QUEUE_MIN; see rpl_link_send() */
	uint64_t rekey_bytes;          /* TLS: new keys after so many bytes sent (a peer takes 8 a second); 0: RPL_LINK_REKEY_BYTES */
};

#define RPL_LINK_QUEUE_MIN (RPL_FRAME_BODY_MAX + 64 * 1024) /* the largest frame fits, encrypted too */
#define RPL_LINK_RESERVE (64 * 1024) /* beyond queue_bytes_max, for frames other than STREAM, PAGES and REDO */
#define RPL_LINK_REKEY_BYTES (UINT64_C(1) << 36) /* far below the 2^24.5 records that AES-GCM allows a key */
#define RPL_LINK_SPANS_MAX 192 /* spans in one send */
#define RPL_LINK_LINGER_MS 2000 /* rpl_link_finish() waits at most this long for the peer */

struct rpl_link_ops {
	/* Preamble and TLS are done; `identity` is the peer's proven name ("" in clear). PSK: the name of the key that both
	 * hold, on both sides. */
	void (*up)(void *arg, const char *identity);
	/* One whole frame, validated as above. The body is gone after the return. A negative return ends the link. */
	int (*frame)(void *arg, enum rpl_frame type, const uint8_t *body, size_t len, struct rpl_err *err);
	/* The queue fell below half of queue_bytes_max, or is below it after a send or a room question was refused. */
	void (*writable)(void *arg);
	/* The connection ended; called exactly once, never from inside a call of ours into the link. err->code: 0 after
	 * rpl_link_finish(), -ESHUTDOWN the peer closed in order, -EPIPE it was cut, -EBADMSG the peer broke the rules,
	 * -EACCES identity or key refused, -ETIMEDOUT handshake, others as the system or the frame callback said. */
	void (*down)(void *arg, const struct rpl_err *err);
};

/* Nothing is called back before the loop runs. NULL on failure (conf->fd is closed then too). */
struct rpl_link *rpl_link_new(const struct rpl_link_conf *conf, struct ev_loop *loop, const struct rpl_link_ops *ops,
			      void *arg, struct rpl_err *err);
/* Queue one frame made of `n` spans (copied or encrypted before the return): 0, -ENOBUFS (nothing queued), -ENOTCONN
 * (not up yet, or down). A body outside the type's bounds is the caller's defect (asserted). Small frames that are sent
 * in one turn of the loop travel together. Frames other than STREAM, PAGES and REDO have RPL_LINK_RESERVE beyond
 * queue_bytes_max, so that a queue full of pages does not stop an ack or a heartbeat. */
int rpl_link_send(struct rpl_link *l, enum rpl_frame type, const struct iovec *iov, int n);
/* Hand what is queued to the kernel now, as far as it takes it, and not in the loop's next turn. Nothing is called back. */
void rpl_link_push(struct rpl_link *l);
/* Room for a STREAM, PAGES or REDO body of this size now? If not, writable() will be called. */
bool rpl_link_room(struct rpl_link *l, size_t body);
size_t rpl_link_queued(const struct rpl_link *l); /* bytes not yet handed to the kernel; 0 = all were */
/* Send what is queued, then close in order; frames that still arrive are dropped. down() follows, with code 0 when the
 * peer closed too, within RPL_LINK_LINGER_MS. Use it after REFUSE and FORGET, so that they arrive. */
void rpl_link_finish(struct rpl_link *l);
int rpl_link_fd(const struct rpl_link *l); /* to be polled: what comes is read in the loop's next turn; -1 when down */
uint64_t rpl_link_last_heard_ns(const struct rpl_link *l); /* when a frame was last decoded */
uint64_t rpl_link_bytes_sent(const struct rpl_link *l);
uint64_t rpl_link_bytes_received(const struct rpl_link *l);
/* Closes at once, without another callback; may be called inside any callback. Accepts NULL. */
void rpl_link_free(struct rpl_link *l);

/* ---- digest of an epoch's STREAM and PAGES bodies: XXH3, 128 bits, canonical byte order */
struct rpl_digest;
struct rpl_digest *rpl_digest_new(void);
void rpl_digest_reset(struct rpl_digest *d);
void rpl_digest_add(struct rpl_digest *d, const void *data, size_t len);
void rpl_digest_end(struct rpl_digest *d, uint8_t ret[RPL_DIGEST_SIZE]);
void rpl_digest_free(struct rpl_digest *d);

#endif
