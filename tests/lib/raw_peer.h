/* raw_peer.h - a peer that says whatever a test wants, frame by frame, in clear
 *
 * It keeps the books of an honest sender (sequence, digest, counts), so that a test lies about one thing at a time.
 */
#ifndef TESTS_RAW_PEER_H
#define TESTS_RAW_PEER_H

#include <stddef.h>
#include <stdint.h>

#include <replicad/cur.h>
#include <replicad/link.h>

#include "mover_rig.h"

struct raw {
	int fd;
	uint64_t sequence;
	struct rpl_digest *digest;
	uint64_t bytes, pages; /* of the stream since the last raw_begin() */
};

/* Connect to the backup's mover (says the preamble) or to the primary's (reads it). */
void raw_client(struct raw *p, struct rig *r);
void raw_server(struct raw *p, struct rig *r);
void raw_close(struct raw *p);
void raw_send(struct raw *p, enum rpl_frame type, const void *body, size_t len);
/* Skip frames until one of this type; its body (at most cap bytes are kept). */
size_t raw_expect(struct raw *p, enum rpl_frame type, void *body, size_t cap);

/* ---- as a primary */
struct rpl_hello raw_hello_of(const struct rig *r, enum rpl_role role);
void raw_hello(struct raw *p, const struct rpl_hello *h);
void raw_session(struct raw *p, struct rig *r); /* hello, definition, keeper accepts, READY; r->session is new */
void raw_begin(struct raw *p, uint64_t epoch, uint32_t flags, uint64_t pages);
void raw_stream(struct raw *p, const void *data, size_t len);
void raw_pages(struct raw *p, uint64_t pfn, size_t n); /* consecutive frames of some content */
void raw_headers(struct raw *p, const struct rig *r);
void raw_tail(struct raw *p, size_t state_len);        /* CHECKPOINT, EMULATOR_CONTEXT, CHECKPOINT_END */
void raw_end(struct raw *p, uint64_t epoch);
void raw_bulk(struct raw *p, struct rig *r);           /* round 1: headers and every page */
void raw_epoch(struct raw *p, uint64_t epoch);         /* an honest small checkpoint */

#endif
