/* tls.c - TLS 1.3 with PSK or x509 on both sides (see tls.h)
 *
 * PSK: only with a fresh key exchange (ECDHE-PSK), so a stolen key does not open what was recorded before. The server
 * looks a name up in its own key table *and* in the VM's list of peers; a name that fails either is treated as unknown,
 * the reason stays on our side. No session tickets and no early data: a replayed first flight gets nowhere.
 *
 * x509: the server demands a certificate; both sides check chain, dates and purpose. The client checks that the
 * server's certificate carries one of the names in `peers`; the server checks the client's against its list.
 *
 * PSK in TLS 1.3 is bound to SHA-256 here, so the ciphers are those with SHA-256: AES-128-GCM first, which processors
 * with AES instructions do at memory speed, ChaCha20-Poly1305 for those without.
 */
#include "tls.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

#include <replicad/keys.h>

#define PRIORITY_COMMON "NONE:+VERS-TLS1.3:+AES-128-GCM:+CHACHA20-POLY1305:+AEAD:+GROUP-X25519:+GROUP-SECP256R1"
#define PRIORITY_PSK PRIORITY_COMMON ":+ECDHE-PSK:+SIGN-ALL" /* without signatures GnuTLS takes no list, PSK uses none */
#define PRIORITY_X509 \
	PRIORITY_COMMON ":+AES-256-GCM:+ECDHE-RSA:+ECDHE-ECDSA:+CTYPE-X509:+SIGN-ALL:-SIGN-RSA-SHA1:-SIGN-ECDSA-SHA1"

#define DIRECT_SPAN ((size_t)4 * RPL_TLS_RECORD) /* encrypted where it lies, from a record's start */

struct rpl_tls_conn {
	gnutls_session_t session;
	gnutls_psk_client_credentials_t psk_client;
	gnutls_psk_server_credentials_t psk_server;
	gnutls_certificate_credentials_t x509;
	struct rpl_keys *keys;
	struct rpl_tls_io io;
	enum rpl_tls mode;
	bool server;
	bool up;                           /* the handshake is done */
	char *peers;                       /* never NULL */
	char identity[RPL_IDENTITY_MAX];
	struct rpl_err refused;            /* why the peer's name was refused, for our side only */
	int io_error;                      /* errno of a failed push or pull */
	bool dry;                          /* the last pull found nothing: GnuTLS really waits for the peer */
	uint64_t rekey_bytes, sent_bytes;  /* since the last key update */
	uint8_t plain[RPL_TLS_RECORD];     /* small spans are gathered here, so that records are full */
	size_t plain_len;
};

static ssize_t on_push(gnutls_transport_ptr_t ptr, const void *data, size_t len)
{
	struct rpl_tls_conn *t = ptr;
	int r = t->io.push(t->io.arg, data, len);

	if (r < 0) {
		t->io_error = -r;
		gnutls_transport_set_errno(t->session, -r);
		return -1;
	}
	return (ssize_t)len;
}

static ssize_t on_pull(gnutls_transport_ptr_t ptr, void *data, size_t len)
{
	struct rpl_tls_conn *t = ptr;
	ssize_t n = t->io.pull(t->io.arg, data, len);

	if (n >= 0)
		return n;
	if (n == -EAGAIN)
		t->dry = true;
	else
		t->io_error = (int)-n;
	gnutls_transport_set_errno(t->session, (int)-n);
	return -1;
}

/* Did a handshake fail because of who the peer is (or which TLS it speaks), or because it sent nonsense? */
static int handshake_code(int g)
{
	switch (g) {
	case GNUTLS_E_DECRYPTION_FAILED: /* a PSK binder made with another key */
	case GNUTLS_E_RECEIVED_ILLEGAL_PARAMETER:
	case GNUTLS_E_NO_CERTIFICATE_FOUND:
	case GNUTLS_E_CERTIFICATE_REQUIRED:
	case GNUTLS_E_INSUFFICIENT_CREDENTIALS:
	case GNUTLS_E_NO_CIPHER_SUITES:
	case GNUTLS_E_UNSUPPORTED_VERSION_PACKET:
		return -EACCES;
	}
	return -EBADMSG;
}

/* The name was right and its key was not: the mistake that is made most, and GnuTLS speaks of a parameter. */
static bool other_key(const struct rpl_tls_conn *t, int g)
{
	return t->mode == RPL_TLS_PSK && t->server && !t->up && t->identity[0] &&
	       (g == GNUTLS_E_RECEIVED_ILLEGAL_PARAMETER || g == GNUTLS_E_DECRYPTION_FAILED);
}

/* What the peer's alert says, and what to look at. */
static int alert_fail(struct rpl_tls_conn *t, const char *what, struct rpl_err *err)
{
	const char *alert = gnutls_alert_get_name(gnutls_alert_get(t->session));

	if (t->mode == RPL_TLS_PSK && !t->server && !t->up)
		return rpl_fail(err, -EACCES, "TLS: %s: the peer refused: %s; compare the line \"%s\" of keys.psk on both hosts",
				what, alert, t->identity);
	return rpl_fail(err, -EACCES, "TLS: %s: the peer refused: %s", what, alert);
}

/* A negative errno for a fatal GnuTLS result, with what we know of the reason. */
static int tls_fail(struct rpl_tls_conn *t, int g, const char *what, struct rpl_err *err)
{
	if (t->io_error)
		return rpl_fail_errno(err, t->io_error, "TLS: %s", what);
	if (t->refused.code) {
		*err = t->refused;
		return err->code;
	}
	if (g == GNUTLS_E_PREMATURE_TERMINATION)
		return rpl_fail(err, -EPIPE, "TLS: %s: the connection was cut", what);
	if (g == GNUTLS_E_FATAL_ALERT_RECEIVED || g == GNUTLS_E_WARNING_ALERT_RECEIVED)
		return alert_fail(t, what, err);
	if (other_key(t, g))
		return rpl_fail(err, -EACCES, "TLS: %s: peer \"%s\" has another key than our line in keys.psk: make them the same",
				what, t->identity);
	if (g == GNUTLS_E_MEMORY_ERROR)
		return rpl_fail(err, -ENOMEM, "TLS: %s: out of memory", what);
	return rpl_fail(err, t->up ? -EBADMSG : handshake_code(g), "TLS: %s: %s", what, gnutls_strerror(g));
}

static int setup_fail(int g, const char *what, struct rpl_err *err)
{
	return rpl_fail(err, g == GNUTLS_E_MEMORY_ERROR ? -ENOMEM : -EINVAL, "TLS: %s: %s", what, gnutls_strerror(g));
}

/* ---- PSK */

/* A name from the network, fit for a message. */
static const char *shown(const char *name, char out[RPL_IDENTITY_MAX])
{
	size_t i;

	for (i = 0; name[i] && i < RPL_IDENTITY_MAX - 1; i++)
		out[i] = name[i] > ' ' && name[i] <= '~' ? name[i] : '?';
	out[i] = 0;
	return out;
}

static int on_psk(gnutls_session_t session, const char *name, gnutls_datum_t *ret_key)
{
	struct rpl_tls_conn *t = gnutls_session_get_ptr(session);
	char text[RPL_IDENTITY_MAX];
	const uint8_t *key;
	size_t len;

	if (!rpl_identity_valid(name, strnlen(name, RPL_IDENTITY_MAX)) || !rpl_keys_find(t->keys, name, &key, &len)) {
		(void)rpl_fail(&t->refused, -EACCES, "TLS: no key for peer \"%s\": add its line to keys.psk", shown(name, text));
		return -1;
	}
	if (t->peers[0] && !rpl_identity_listed(t->peers, name)) {
		(void)rpl_fail(&t->refused, -EACCES, "TLS: peer \"%s\" has a key but is not among this VM's peers", name);
		return -1;
	}
	ret_key->data = gnutls_malloc(len);
	if (!ret_key->data)
		return -1;
	memcpy(ret_key->data, key, len);
	ret_key->size = (unsigned)len;
	(void)snprintf(t->identity, sizeof(t->identity), "%s", name);
	t->refused.code = 0; /* an earlier name of the same hello may have been unknown */
	return 0;
}

static int setup_psk_client(struct rpl_tls_conn *t, const struct rpl_link_conf *conf, struct rpl_err *err)
{
	const char *name = conf->identity ? conf->identity : "";
	gnutls_datum_t key = { 0 };
	const uint8_t *found;
	size_t len;
	int g;

	if (!rpl_identity_valid(name, strnlen(name, RPL_IDENTITY_MAX)))
		return rpl_fail(err, -EINVAL, "TLS: our identity is not set, or not a valid name");
	if (!rpl_keys_find(t->keys, name, &found, &len))
		return rpl_fail(err, -ENOKEY, "TLS: no key for our own identity \"%s\": add its line to keys.psk", name);
	(void)snprintf(t->identity, sizeof(t->identity), "%s", name);
	key.data = (unsigned char *)(uintptr_t)found;
	key.size = (unsigned)len;
	g = gnutls_psk_allocate_client_credentials(&t->psk_client);
	if (g >= 0)
		g = gnutls_psk_set_client_credentials(t->psk_client, name, &key, GNUTLS_PSK_KEY_RAW);
	if (g >= 0)
		g = gnutls_credentials_set(t->session, GNUTLS_CRD_PSK, t->psk_client);
	return g < 0 ? setup_fail(g, "PSK credentials", err) : 0;
}

static int setup_psk(struct rpl_tls_conn *t, const struct rpl_link_conf *conf, struct rpl_err *err)
{
	int r, g;

	if (!conf->keys)
		return rpl_fail(err, -EINVAL, "TLS: PSK without keys");
	r = rpl_keys_parse(conf->keys, conf->keys_len, &t->keys, err);
	if (r < 0)
		return r;
	if (!t->server)
		return setup_psk_client(t, conf, err);
	g = gnutls_psk_allocate_server_credentials(&t->psk_server);
	if (g < 0)
		return setup_fail(g, "PSK credentials", err);
	gnutls_psk_set_server_credentials_function(t->psk_server, on_psk);
	g = gnutls_credentials_set(t->session, GNUTLS_CRD_PSK, t->psk_server);
	return g < 0 ? setup_fail(g, "PSK credentials", err) : 0;
}

/* ---- x509 */

/* The certificate's name number `want`: its DNS names, or where it has none, its common name. False: no more. A name that
 * is no identity is given as "". (GnuTLS's own check of host names takes common names from servers only.) */
static bool cert_name(gnutls_x509_crt_t crt, unsigned want, char ret[RPL_IDENTITY_MAX])
{
	unsigned dns = 0;
	size_t len;
	bool other = false;

	for (unsigned i = 0;; i++) {
		int g;

		len = RPL_IDENTITY_MAX;
		g = gnutls_x509_crt_get_subject_alt_name(crt, i, ret, &len, NULL);
		if (g == GNUTLS_E_SHORT_MEMORY_BUFFER)
			other = true; /* of whatever kind: the common name does not stand in for it */
		else if (g < 0)
			break;
		if (g != GNUTLS_SAN_DNSNAME || dns++ != want)
			continue;
		ret[rpl_identity_valid(ret, len) ? len : 0] = 0;
		return true;
	}
	len = RPL_IDENTITY_MAX;
	if (dns || other || want ||
	    gnutls_x509_crt_get_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, 0, ret, &len) < 0)
		return false;
	ret[rpl_identity_valid(ret, len) ? len : 0] = 0;
	return true;
}

/* The first name that is an identity and, if there is a list, is on it. */
static bool cert_identity(gnutls_x509_crt_t crt, const char *list, char ret[RPL_IDENTITY_MAX])
{
	for (unsigned i = 0; cert_name(crt, i, ret); i++)
		if (ret[0] && (!list[0] || rpl_identity_listed(list, ret)))
			return true;
	return false;
}

static int check_cert_name(struct rpl_tls_conn *t, gnutls_x509_crt_t crt)
{
	char name[RPL_IDENTITY_MAX];

	if (cert_identity(crt, t->peers, t->identity))
		return 0;
	if (!cert_identity(crt, "", name))
		return rpl_fail(&t->refused, -EACCES, "TLS: the peer's certificate carries no usable DNS name or common name");
	return rpl_fail(&t->refused, -EACCES, "TLS: the peer's certificate is for \"%s\", not for one of \"%.100s\"", name,
			t->peers);
}

static int verify_chain(struct rpl_tls_conn *t)
{
	const char *purpose = t->server ? GNUTLS_KP_TLS_WWW_CLIENT : GNUTLS_KP_TLS_WWW_SERVER;
	gnutls_typed_vdata_st data = { .type = GNUTLS_DT_KEY_PURPOSE_OID, .data = (void *)(uintptr_t)purpose };
	gnutls_datum_t text = { 0 };
	unsigned status = 0;
	int g = gnutls_certificate_verify_peers(t->session, &data, 1, &status);

	if (g < 0)
		return rpl_fail(&t->refused, -EACCES, "TLS: the peer's certificate: %s", gnutls_strerror(g));
	if (!status)
		return 0;
	if (gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0) < 0)
		return rpl_fail(&t->refused, -EACCES, "TLS: the peer's certificate is refused, status 0x%x", status);
	(void)rpl_fail(&t->refused, -EACCES, "TLS: the peer's certificate: %.180s", (const char *)text.data);
	gnutls_free(text.data);
	return t->refused.code;
}

static int on_verify(gnutls_session_t session)
{
	struct rpl_tls_conn *t = gnutls_session_get_ptr(session);
	const gnutls_datum_t *chain;
	gnutls_x509_crt_t crt;
	unsigned n = 0;
	int r = verify_chain(t);

	if (r < 0)
		return GNUTLS_E_CERTIFICATE_ERROR;
	chain = gnutls_certificate_get_peers(session, &n);
	if (!chain || n == 0 || gnutls_x509_crt_init(&crt) < 0)
		return GNUTLS_E_CERTIFICATE_ERROR;
	r = gnutls_x509_crt_import(crt, &chain[0], GNUTLS_X509_FMT_DER);
	if (r >= 0)
		r = check_cert_name(t, crt);
	gnutls_x509_crt_deinit(crt);
	return r < 0 ? GNUTLS_E_CERTIFICATE_ERROR : 0;
}

static gnutls_datum_t datum(const char *text)
{
	return (gnutls_datum_t){ .data = (unsigned char *)(uintptr_t)text, .size = (unsigned)strlen(text) };
}

static int setup_x509(struct rpl_tls_conn *t, const struct rpl_link_conf *conf, struct rpl_err *err)
{
	gnutls_datum_t ca, cert, key;
	int g;

	if (!conf->x509_ca || !conf->x509_cert || !conf->x509_key)
		return rpl_fail(err, -EINVAL, "TLS: x509 needs a CA certificate, a certificate and a key");
	if (!t->server && !t->peers[0])
		return rpl_fail(err, -EINVAL, "TLS: x509 needs the peer's name: any holder of a certificate of the CA would do");
	ca = datum(conf->x509_ca);
	cert = datum(conf->x509_cert);
	key = datum(conf->x509_key);
	g = gnutls_certificate_allocate_credentials(&t->x509);
	if (g < 0)
		return setup_fail(g, "x509 credentials", err);
	g = gnutls_certificate_set_x509_trust_mem(t->x509, &ca, GNUTLS_X509_FMT_PEM);
	if (g <= 0)
		return setup_fail(g ? g : GNUTLS_E_NO_CERTIFICATE_FOUND, "x509 CA certificate", err);
	g = gnutls_certificate_set_x509_key_mem(t->x509, &cert, &key, GNUTLS_X509_FMT_PEM);
	if (g < 0)
		return setup_fail(g, "x509 certificate and key", err);
	gnutls_certificate_set_verify_function(t->x509, on_verify);
	g = gnutls_credentials_set(t->session, GNUTLS_CRD_CERTIFICATE, t->x509);
	if (g < 0)
		return setup_fail(g, "x509 credentials", err);
	if (!t->server)
		return 0;
	gnutls_certificate_server_set_request(t->session, GNUTLS_CERT_REQUIRE);
	/* no list of authorities: a client of another one shows its certificate all the same, and we can say what is wrong */
	gnutls_certificate_send_x509_rdn_sequence(t->session, 1);
	return 0;
}

/* ---- the session */

static int setup_session(struct rpl_tls_conn *t, const struct rpl_link_conf *conf, struct rpl_err *err)
{
	unsigned flags = (t->server ? GNUTLS_SERVER : GNUTLS_CLIENT) | GNUTLS_NONBLOCK | GNUTLS_NO_TICKETS | GNUTLS_NO_SIGNAL;
	const char *at = NULL;
	int g = gnutls_init(&t->session, flags);

	if (g < 0)
		return setup_fail(g, "session", err);
	gnutls_session_set_ptr(t->session, t);
	g = gnutls_priority_set_direct(t->session, t->mode == RPL_TLS_PSK ? PRIORITY_PSK : PRIORITY_X509, &at);
	if (g < 0)
		return setup_fail(g, at ? at : "priorities", err);
	gnutls_transport_set_ptr(t->session, t);
	gnutls_transport_set_push_function(t->session, on_push);
	gnutls_transport_set_pull_function(t->session, on_pull);
	gnutls_handshake_set_timeout(t->session, 0); /* the link has a timer of its own */
	return t->mode == RPL_TLS_PSK ? setup_psk(t, conf, err) : setup_x509(t, conf, err);
}

int rpl_tls_new(const struct rpl_link_conf *conf, const struct rpl_tls_io *io, struct rpl_tls_conn **ret,
		struct rpl_err *err)
{
	struct rpl_tls_conn *t = calloc(1, sizeof(*t));
	int r;

	rpl_assert(conf->tls == RPL_TLS_PSK || conf->tls == RPL_TLS_X509);
	if (!t)
		return rpl_fail(err, -ENOMEM, "TLS: out of memory");
	t->io = *io;
	t->mode = conf->tls;
	t->server = conf->server;
	t->rekey_bytes = conf->rekey_bytes ? conf->rekey_bytes : RPL_LINK_REKEY_BYTES;
	t->peers = strdup(conf->peers ? conf->peers : "");
	r = t->peers ? setup_session(t, conf, err) : rpl_fail(err, -ENOMEM, "TLS: out of memory");
	if (r < 0) {
		rpl_tls_free(t);
		return r;
	}
	*ret = t;
	return 0;
}

void rpl_tls_free(struct rpl_tls_conn *t)
{
	if (!t)
		return;
	if (t->session)
		gnutls_deinit(t->session);
	if (t->psk_client)
		gnutls_psk_free_client_credentials(t->psk_client);
	if (t->psk_server)
		gnutls_psk_free_server_credentials(t->psk_server);
	if (t->x509)
		gnutls_certificate_free_credentials(t->x509);
	rpl_keys_free(t->keys);
	free(t->peers);
	explicit_bzero(t, sizeof(*t));
	free(t);
}

int rpl_tls_handshake(struct rpl_tls_conn *t, struct rpl_err *err)
{
	int g, r;

	t->dry = false;
	do
		g = gnutls_handshake(t->session);
	while (g < 0 && !gnutls_error_is_fatal(g) && !t->dry);
	if (g == GNUTLS_E_SUCCESS) {
		rpl_assert(gnutls_protocol_get_version(t->session) == GNUTLS_TLS1_3);
		rpl_assert(t->identity[0]);
		t->up = true;
		return 1;
	}
	if (!gnutls_error_is_fatal(g))
		return 0;
	r = tls_fail(t, g, "handshake", err);
	(void)gnutls_alert_send_appropriate(t->session, g); /* best effort: the connection is over */
	return r;
}

ssize_t rpl_tls_recv(struct rpl_tls_conn *t, void *buf, size_t len, struct rpl_err *err)
{
	ssize_t n;

	/* after a record without data for us, a key update for one, it says "again" although more may be there */
	t->dry = false;
	do
		n = gnutls_record_recv(t->session, buf, len);
	while ((n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED) && !t->dry);
	if (n >= 0)
		return n;
	if (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED)
		return -EAGAIN;
	return tls_fail(t, (int)n, "receive", err);
}

static int send_record(struct rpl_tls_conn *t, const void *data, size_t len, struct rpl_err *err)
{
	ssize_t n;

	if (t->sent_bytes + len > t->rekey_bytes) {
		int g = gnutls_session_key_update(t->session, 0);

		if (g < 0)
			return tls_fail(t, g, "key update", err);
		t->sent_bytes = 0;
	}
	n = gnutls_record_send(t->session, data, len);
	if (n < 0)
		return tls_fail(t, (int)n, "send", err);
	rpl_assert((size_t)n == len); /* the queue takes all, so records are never cut */
	t->sent_bytes += len;
	return 0;
}

static int send_gathered(struct rpl_tls_conn *t, struct rpl_err *err)
{
	size_t len = t->plain_len;

	t->plain_len = 0;
	return len ? send_record(t, t->plain, len, err) : 0;
}

static int send_span(struct rpl_tls_conn *t, const uint8_t *p, size_t len, struct rpl_err *err)
{
	while (len) {
		size_t n = RPL_TLS_RECORD - t->plain_len;
		int r = 0;

		if (n > len)
			n = len;
		if (n == RPL_TLS_RECORD) { /* a whole record from one place needs no copy */
			r = send_record(t, p, n, err);
		} else {
			memcpy(t->plain + t->plain_len, p, n);
			t->plain_len += n;
			if (t->plain_len == RPL_TLS_RECORD)
				r = send_gathered(t, err);
		}
		if (r < 0)
			return r;
		p += n;
		len -= n;
	}
	return 0;
}

int rpl_tls_send(struct rpl_tls_conn *t, const struct iovec *iov, int n, struct rpl_err *err)
{
	for (int i = 0; i < n; i++) {
		int r = 0;

		/* a short record now is cheaper than copying a long run of pages through ours */
		if (iov[i].iov_len >= DIRECT_SPAN)
			r = send_gathered(t, err);
		if (r == 0)
			r = send_span(t, iov[i].iov_base, iov[i].iov_len, err);
		if (r < 0)
			return r;
	}
	return send_gathered(t, err);
}

void rpl_tls_bye(struct rpl_tls_conn *t)
{
	(void)gnutls_bye(t->session, GNUTLS_SHUT_WR); /* pushes an alert; if even that fails, the close says it */
}

const char *rpl_tls_identity(const struct rpl_tls_conn *t)
{
	return t->identity;
}
