/* tls.h - TLS 1.3 as a transform between plain and encrypted bytes; private to the link room
 *
 * GnuTLS never touches the socket: what it wants to send is pushed into the link's send queue, which always takes it
 * (the link asked for room before it encrypted), and what it wants to read comes from the link's input buffer. So a
 * record is never half sent, no call must be repeated with the same data, and a key update needs no care.
 */
#ifndef RPL_LINK_TLS_H
#define RPL_LINK_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

#include <replicad/err.h>
#include <replicad/link.h>

#define RPL_TLS_RECORD 16384  /* plain bytes in a record */
#define RPL_TLS_OVERHEAD 32   /* at most: record header 5, content type 1, tag 16 */

struct rpl_tls_io {
	int (*push)(void *arg, const void *data, size_t len);  /* 0 or a negative errno */
	ssize_t (*pull)(void *arg, void *data, size_t len);    /* bytes, 0 at the end, -EAGAIN, another negative errno */
	void *arg;
};

struct rpl_tls_conn;

/* Everything in conf is copied. Checks keys, names and certificates. */
int rpl_tls_new(const struct rpl_link_conf *conf, const struct rpl_tls_io *io, struct rpl_tls_conn **ret,
		struct rpl_err *err);
void rpl_tls_free(struct rpl_tls_conn *t);
/* 1: done, the peer is who it must be; 0: needs more from the peer; negative: over (an alert was pushed). */
int rpl_tls_handshake(struct rpl_tls_conn *t, struct rpl_err *err);
/* Plain bytes; 0: the peer closed in order; -EAGAIN; another negative errno with *err set. */
ssize_t rpl_tls_recv(struct rpl_tls_conn *t, void *buf, size_t len, struct rpl_err *err);
/* Encrypt all spans, as one run of full records. 0 or a negative errno. */
int rpl_tls_send(struct rpl_tls_conn *t, const struct iovec *iov, int n, struct rpl_err *err);
/* Tell the peer that nothing more comes. */
void rpl_tls_bye(struct rpl_tls_conn *t);
const char *rpl_tls_identity(const struct rpl_tls_conn *t);

#endif
