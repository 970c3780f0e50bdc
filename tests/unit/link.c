/* Connections over real sockets: both TLS modes and clear, who is let in, what a hostile peer can do, queue limits.
 *
 * One loop drives both ends. A test with a scripted peer holds the other socket itself and writes raw bytes.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <ev.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/link.h>

#include "../../src/link/frame.h"
#include "../lib/pki.h"

#define KEY_A "000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f"
#define KEY_B "100102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f"
#define QUEUE (2 * 1024 * 1024)
#define TEST_TIMEOUT_S 120. /* only reached by a failure */

static const struct rpl_uuid vm = { { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 } };
static struct ev_loop *loop;

/* One end of a connection and what happened to it. */
struct end {
	struct rpl_link *link;
	int ups, downs, writables;
	unsigned frames;
	uint64_t body_bytes;
	uint8_t last[64];
	enum rpl_frame last_type;
	struct rpl_err why;
	char identity[RPL_IDENTITY_MAX];
	struct rpl_digest *digest;
	int refuse_frame;        /* the callback returns this */
	bool finish_on_frame, free_on_frame, free_on_up, hello_on_up;
	unsigned echo;           /* answer so many frames */
};

static const uint8_t hello_body[RPL_HELLO_SIZE] = { 1 };

static void send_hello(struct rpl_link *l)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)hello_body, .iov_len = sizeof(hello_body) };

	assert_int_equal(rpl_link_send(l, RPL_FRAME_HELLO, &iov, 1), 0);
}

static void on_up(void *arg, const char *identity)
{
	struct end *e = arg;

	e->ups++;
	strcpy(e->identity, identity);
	if (e->hello_on_up)
		send_hello(e->link);
	if (e->free_on_up) {
		rpl_link_free(e->link);
		e->link = NULL;
	}
}

static int on_frame(void *arg, enum rpl_frame type, const uint8_t *body, size_t len, struct rpl_err *err)
{
	struct end *e = arg;

	e->frames++;
	e->body_bytes += len;
	e->last_type = type;
	memcpy(e->last, body, len < sizeof(e->last) ? len : sizeof(e->last));
	if (e->digest)
		rpl_digest_add(e->digest, body, len);
	if (e->echo) {
		e->echo--;
		assert_int_equal(rpl_link_send(e->link, RPL_FRAME_HEARTBEAT, NULL, 0), 0);
	}
	if (e->finish_on_frame)
		rpl_link_finish(e->link);
	if (e->free_on_frame) {
		rpl_link_free(e->link);
		e->link = NULL;
	}
	return e->refuse_frame ? rpl_fail(err, e->refuse_frame, "the test refuses frame %u", e->frames) : 0;
}

static void on_writable(void *arg)
{
	((struct end *)arg)->writables++;
}

static void on_down(void *arg, const struct rpl_err *err)
{
	struct end *e = arg;

	e->downs++;
	e->why = *err;
}

static const struct rpl_link_ops ops = { .up = on_up, .frame = on_frame, .writable = on_writable, .down = on_down };

static void on_test_timeout(struct ev_loop *l, ev_timer *w, int revents)
{
	(void)l;
	(void)w;
	(void)revents;
	fail_msg("nothing more happens");
}

#define run_until(condition)                                                   \
	do {                                                                   \
		ev_timer limit;                                                \
                                                                               \
		ev_timer_init(&limit, on_test_timeout, TEST_TIMEOUT_S, 0.);    \
		ev_now_update(loop);                                           \
		ev_timer_start(loop, &limit);                                  \
		while (!(condition))                                           \
			ev_run(loop, EVRUN_ONCE);                              \
		ev_timer_stop(loop, &limit);                                   \
	} while (0)

static struct rpl_link_conf conf_of(enum rpl_tls tls, bool server)
{
	static const char keys[] = "alpha:" KEY_A "\n";
	struct rpl_link_conf c = { .fd = -1, .server = server, .tls = tls, .vm = vm, .identity = server ? NULL : "alpha",
				   .handshake_timeout_ms = 60000, .queue_bytes_max = QUEUE };

	if (tls == RPL_TLS_PSK) {
		c.keys = keys;
		c.keys_len = sizeof(keys) - 1;
	} else if (tls == RPL_TLS_X509) {
		c.x509_ca = pki_ca();
		c.x509_cert = pki_cert(server ? "beta" : "alpha");
		c.x509_key = pki_key(server ? "beta" : "alpha");
		c.peers = server ? NULL : "beta";
	}
	return c;
}

static void attach(struct end *e, struct rpl_link_conf *c, int fd)
{
	struct rpl_err err = { 0 };

	c->fd = fd;
	e->link = rpl_link_new(c, loop, &ops, e, &err);
	if (!e->link)
		fail_msg("%s", err.msg);
}

static bool over_tcp; /* the tests run twice: over unix sockets, and over TCP, which resets what was not read */

static void tcp_pair(int fds[2])
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(l >= 0);
	assert_int_equal(bind(l, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(l, 1), 0);
	assert_int_equal(getsockname(l, (struct sockaddr *)&a, &len), 0);
	fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fds[0], (struct sockaddr *)&a, sizeof(a)), 0);
	fds[1] = accept(l, NULL, NULL);
	assert_true(fds[1] >= 0);
	close(l);
}

static void socket_pair(int fds[2])
{
	if (over_tcp)
		tcp_pair(fds);
	else
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
}

static void connect_ends(struct end *client, struct rpl_link_conf *cc, struct end *server, struct rpl_link_conf *sc)
{
	int fds[2];

	socket_pair(fds);
	attach(client, cc, fds[0]);
	attach(server, sc, fds[1]);
}

static void fini(struct end *e)
{
	rpl_link_free(e->link);
	rpl_digest_free(e->digest);
}

/* Both ends up, hellos exchanged. */
static void bring_up(struct end *client, struct end *server, enum rpl_tls tls)
{
	struct rpl_link_conf cc = conf_of(tls, false), sc = conf_of(tls, true);

	client->hello_on_up = server->hello_on_up = true;
	connect_ends(client, &cc, server, &sc);
	run_until((client->frames == 1 && server->frames == 1) || client->downs || server->downs);
	if (client->downs || server->downs)
		fail_msg("client: %s; server: %s", client->why.msg, server->why.msg);
}

static const enum rpl_tls modes[] = { RPL_TLS_NONE, RPL_TLS_PSK, RPL_TLS_X509 };

/* ---- data */

static void both_sides_prove_themselves(void **state)
{
	static const char *const client_sees[] = { "", "alpha", "beta" }, *const server_sees[] = { "", "alpha", "alpha" };

	(void)state;
	for (size_t m = 0; m < RPL_ARRAY_LEN(modes); m++) {
		struct end client = { 0 }, server = { 0 };

		bring_up(&client, &server, modes[m]);
		assert_true(client.ups == 1 && server.ups == 1);
		assert_string_equal(client.identity, client_sees[m]);
		assert_string_equal(server.identity, server_sees[m]);
		assert_int_equal(server.last_type, RPL_FRAME_HELLO);
		assert_true(rpl_link_last_heard_ns(server.link) > 0);
		fini(&client);
		run_until(server.downs);
		assert_int_equal(server.why.code, modes[m] == RPL_TLS_NONE ? -ESHUTDOWN : -EPIPE);
		fini(&server);
	}
}

/* Bulk frames of all sizes through a queue that is smaller than they are together; every byte is the same over there. */
static void bulk_data_arrives_in_order(void **state)
{
	RPL_AUTO_FREE uint8_t *data = malloc(RPL_FRAME_BODY_MAX);
	uint8_t ours[RPL_DIGEST_SIZE], theirs[RPL_DIGEST_SIZE];

	(void)state;
	for (size_t i = 0; i < RPL_FRAME_BODY_MAX; i++)
		data[i] = (uint8_t)(i * 31 >> 3);
	for (size_t m = 0; m < RPL_ARRAY_LEN(modes); m++) {
		struct end client = { 0 }, server = { .digest = rpl_digest_new() };
		struct rpl_digest *d = rpl_digest_new();
		unsigned refused = 0;

		bring_up(&client, &server, modes[m]);
		rpl_digest_add(d, hello_body, sizeof(hello_body));
		for (unsigned k = 1; k <= 60; k++) {
			size_t len = k % 20 ? k * 7919u * 13 % RPL_FRAME_BODY_MAX + 1 : RPL_FRAME_BODY_MAX, cut = len / 3;
			struct iovec iov[3] = { { data, cut }, { data + cut, 0 }, { data + cut, len - cut } };

			while (rpl_link_send(client.link, RPL_FRAME_STREAM, iov, 3) == -ENOBUFS) {
				int before = client.writables;

				refused++;
				run_until(client.writables > before);
			}
			rpl_digest_add(d, data, len);
		}
		assert_true(refused > 0);
		run_until(server.frames == 61 || server.downs || client.downs);
		rpl_digest_end(d, ours);
		rpl_digest_end(server.digest, theirs);
		assert_memory_equal(ours, theirs, sizeof(ours));
		assert_int_equal(rpl_link_queued(client.link), 0);
		assert_true(rpl_link_bytes_sent(client.link) == rpl_link_bytes_received(server.link));
		rpl_digest_free(d);
		fini(&client);
		fini(&server);
	}
}


/* Both directions at once, each side's queue full: nobody waits for the other to read first. */
static void both_directions_flow_at_once(void **state)
{
	static uint8_t data[100000];

	(void)state;
	for (size_t m = 0; m < RPL_ARRAY_LEN(modes); m++) {
		struct end e[2] = { { 0 }, { 0 } };
		struct iovec iov = { data, sizeof(data) };
		unsigned sent[2] = { 0, 0 };

		bring_up(&e[0], &e[1], modes[m]);
		while (sent[0] < 200 || sent[1] < 200) {
			for (int i = 0; i < 2; i++)
				while (sent[i] < 200 && rpl_link_send(e[i].link, RPL_FRAME_STREAM, &iov, 1) == 0)
					sent[i]++;
			ev_run(loop, EVRUN_ONCE);
		}
		run_until(e[0].frames == 201 && e[1].frames == 201);
		fini(&e[0]);
		fini(&e[1]);
	}
}

/* What is pushed is the kernel's before the loop turns; what the kernel has no room for arrives all the same. */
static void what_is_pushed_leaves_at_once(void **state)
{
	static uint8_t data[60000];

	(void)state;
	for (size_t m = 0; m < RPL_ARRAY_LEN(modes); m++) {
		struct end client = { 0 }, server = { 0 };
		struct iovec iov = { data, sizeof(data) };
		unsigned sent = 0;
		uint64_t before;

		bring_up(&client, &server, modes[m]);
		before = rpl_link_bytes_sent(client.link);
		rpl_link_push(client.link);
		assert_true(rpl_link_bytes_sent(client.link) == before);
		assert_int_equal(rpl_link_send(client.link, RPL_FRAME_HEARTBEAT, NULL, 0), 0);
		assert_true(rpl_link_bytes_sent(client.link) == before);
		rpl_link_push(client.link);
		assert_true(rpl_link_bytes_sent(client.link) > before && rpl_link_queued(client.link) == 0);
		while (rpl_link_send(client.link, RPL_FRAME_STREAM, &iov, 1) == 0) {
			rpl_link_push(client.link);
			sent++;
		}
		assert_true(rpl_link_queued(client.link) > 0);
		run_until(server.frames == 2 + sent);
		assert_int_equal(rpl_link_queued(client.link), 0);
		run_until(client.writables > 0);
		fini(&client);
		fini(&server);
	}
}

/* 40 frames each way; returns what one side sent. */
static uint64_t traffic(uint64_t rekey_bytes)
{
	static uint8_t data[60000];
	struct end client = { .hello_on_up = true }, server = { .hello_on_up = true };
	struct rpl_link_conf cc = conf_of(RPL_TLS_PSK, false), sc = conf_of(RPL_TLS_PSK, true);
	struct iovec iov = { data, sizeof(data) };
	uint64_t sent;

	cc.rekey_bytes = sc.rekey_bytes = rekey_bytes;
	connect_ends(&client, &cc, &server, &sc);
	run_until(client.frames == 1 && server.frames == 1);
	for (unsigned k = 1; k <= 40; k++) {
		assert_int_equal(rpl_link_send(client.link, RPL_FRAME_STREAM, &iov, 1), 0);
		assert_int_equal(rpl_link_send(server.link, RPL_FRAME_STREAM, &iov, 1), 0);
		run_until((client.frames == k + 1 && server.frames == k + 1) || client.downs || server.downs);
		if (client.downs || server.downs)
			fail_msg("frame %u: client: %s; server: %s", k, client.why.msg, server.why.msg);
	}
	sent = rpl_link_bytes_sent(client.link);
	fini(&client);
	fini(&server);
	return sent;
}

/* New keys every 400 kB on both sides (each costs a record of its own), unnoticed by what is carried. */
static void keys_change_under_way(void **state)
{
	uint64_t without = traffic(0), with = traffic(400000);

	(void)state;
	assert_in_range(with - without, 5 * 22, 6 * 64);
}

/* ---- who is let in */

/* Connect with these two configurations; neither may come up on the server's side. */
static void expect_refusal(struct rpl_link_conf *cc, struct rpl_link_conf *sc, int server_code, const char *server_says,
			   const char *client_says)
{
	struct end client = { 0 }, server = { 0 };

	connect_ends(&client, cc, &server, sc);
	run_until(client.downs && server.downs);
	assert_int_equal(server.ups, 0);
	assert_int_equal(server.frames, 0);
	if (server.why.code != server_code || !strstr(server.why.msg, server_says) || !strstr(client.why.msg, client_says))
		fail_msg("server %d \"%s\", client %d \"%s\"", server.why.code, server.why.msg, client.why.code, client.why.msg);
	assert_null(strstr(server.why.msg, "0001020304"));
	assert_null(strstr(client.why.msg, "0001020304"));
	fini(&client);
	fini(&server);
}

static void set_keys(struct rpl_link_conf *c, const char *text)
{
	c->keys = text;
	c->keys_len = strlen(text);
}

static void psk_peers_without_the_right_name_and_key_stay_out(void **state)
{
	struct rpl_link_conf cc = conf_of(RPL_TLS_PSK, false), sc = conf_of(RPL_TLS_PSK, true);

	(void)state;
	set_keys(&cc, "alpha:" KEY_B);
	expect_refusal(&cc, &sc, -EACCES, "peer \"alpha\" has another key than our line in keys.psk",
		       "compare the line \"alpha\" of keys.psk on both hosts");

	cc = conf_of(RPL_TLS_PSK, false);
	cc.identity = "gamma";
	set_keys(&cc, "gamma:" KEY_A);
	expect_refusal(&cc, &sc, -EACCES, "no key for peer \"gamma\"", "the peer refused");

	cc = conf_of(RPL_TLS_PSK, false);
	set_keys(&sc, "alpha:" KEY_A "\ngamma:" KEY_B);
	sc.peers = "beta, gamma";
	expect_refusal(&cc, &sc, -EACCES, "\"alpha\" has a key but is not among", "the peer refused");

	cc.identity = "gamma";
	set_keys(&cc, "gamma:" KEY_A);
	expect_refusal(&cc, &sc, -EACCES, "handshake", "the peer refused");
}

static void a_listed_psk_peer_gets_in(void **state)
{
	struct end client = { 0 }, server = { 0 };
	struct rpl_link_conf cc = conf_of(RPL_TLS_PSK, false), sc = conf_of(RPL_TLS_PSK, true);

	(void)state;
	sc.peers = "beta, alpha";
	connect_ends(&client, &cc, &server, &sc);
	run_until(client.ups && server.ups);
	assert_string_equal(server.identity, "alpha");
	fini(&client);
	fini(&server);
}

static void x509_peers_with_wrong_certificates_stay_out(void **state)
{
	static const struct { const char *who, *says; } bad[] = {
		{ "stranger", "issuer is unknown" }, { "expired", "expired" }, { "server-only", "certificate" },
	};
	struct rpl_link_conf cc = conf_of(RPL_TLS_X509, false), sc = conf_of(RPL_TLS_X509, true);

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(bad); i++) {
		cc.x509_cert = pki_cert(bad[i].who);
		cc.x509_key = pki_key(bad[i].who);
		expect_refusal(&cc, &sc, -EACCES, bad[i].says, "the peer refused");
	}
	cc = conf_of(RPL_TLS_X509, false);
	sc.peers = "gamma,delta";
	expect_refusal(&cc, &sc, -EACCES, "is for \"alpha\", not for one of \"gamma,delta\"", "the peer refused");

	cc.x509_cert = pki_cert("two-names"); /* its common name does not count beside DNS names */
	cc.x509_key = pki_key("two-names");
	sc.peers = "two-names";
	expect_refusal(&cc, &sc, -EACCES, "is for \"first\"", "the peer refused");
	sc.peers = NULL;
	cc.x509_cert = pki_cert("no name");
	cc.x509_key = pki_key("no name");
	expect_refusal(&cc, &sc, -EACCES, "no usable DNS name", "the peer refused");
	cc = conf_of(RPL_TLS_X509, false);

	/* the server is checked just so: its name, and its authority */
	sc = conf_of(RPL_TLS_X509, true);
	cc.peers = "gamma";
	expect_refusal(&cc, &sc, -EACCES, "the peer refused", "is for \"beta\", not for one of \"gamma\"");
	cc.peers = "stranger";
	sc.x509_cert = pki_cert("stranger");
	sc.x509_key = pki_key("stranger");
	expect_refusal(&cc, &sc, -EACCES, "the peer refused", "NOT trusted");
}

static void x509_names_are_found(void **state)
{
	static const struct { const char *who, *peers, *identity; } good[] = {
		{ "alpha", "beta, alpha", "alpha" }, { "cn-only", NULL, "cn-only" }, { "cn-only", "cn-only", "cn-only" },
		{ "two-names", "second", "second" }, { "two-names", "second,first", "first" }, { "two-names", "", "first" },
	};

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(good); i++) {
		struct rpl_link_conf cc = conf_of(RPL_TLS_X509, false), sc = conf_of(RPL_TLS_X509, true);
		struct end client = { 0 }, server = { 0 };

		cc.x509_cert = pki_cert(good[i].who);
		cc.x509_key = pki_key(good[i].who);
		sc.peers = good[i].peers;
		connect_ends(&client, &cc, &server, &sc);
		run_until((client.ups && server.ups) || server.downs);
		assert_string_equal(server.identity, good[i].identity);
		fini(&client);
		fini(&server);
	}
}

static void configurations_that_cannot_work_are_refused_at_once(void **state)
{
	struct rpl_link_conf bad[12];
	static const char *const says[12] = { "at least", "time-out", "uuid", "without keys", "line 1", "no key for our own",
					      "identity is not set", "peer's name", "x509 certificate", "needs a CA",
					      "CA certificate", "CA certificate" };
	struct rpl_err err;

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(bad); i++)
		bad[i] = conf_of(i < 7 ? RPL_TLS_PSK : RPL_TLS_X509, false);
	bad[0].queue_bytes_max = RPL_LINK_QUEUE_MIN - 1;
	bad[1].handshake_timeout_ms = 0;
	memset(&bad[2].vm, 0, sizeof(bad[2].vm));
	bad[3].keys = NULL;
	set_keys(&bad[4], "alpha" KEY_A);
	bad[5].identity = "beta";
	bad[6].identity = NULL;
	bad[7].peers = NULL;
	bad[8].x509_key = pki_key("gamma");
	bad[9].x509_cert = NULL;
	bad[10].x509_ca = "";
	bad[11].x509_ca = pki_key("alpha"); /* no certificate */
	for (size_t i = 0; i < RPL_ARRAY_LEN(bad); i++) {
		struct end e = { 0 };
		int fds[2];

		socket_pair(fds);
		bad[i].fd = fds[0];
		assert_null(rpl_link_new(&bad[i], loop, &ops, &e, &err));
		if (!strstr(err.msg, says[i]))
			fail_msg("\"%s\" lacks \"%s\"", err.msg, says[i]);
		assert_int_equal(fcntl(fds[0], F_GETFD), -1); /* the socket is closed on failure too */
		close(fds[1]);
	}
}

static void clear_and_tls_do_not_mix(void **state)
{
	struct end client = { .hello_on_up = true }, server = { 0 };
	struct rpl_link_conf cc = conf_of(RPL_TLS_NONE, false), sc = conf_of(RPL_TLS_PSK, true);

	(void)state;
	connect_ends(&client, &cc, &server, &sc);
	run_until(client.downs && server.downs);
	assert_true(server.ups == 0 && server.why.code == -EBADMSG);
	fini(&client);
	fini(&server);
	client = (struct end){ 0 };
	server = (struct end){ 0 };
	cc = conf_of(RPL_TLS_PSK, false);
	sc = conf_of(RPL_TLS_NONE, true);
	connect_ends(&client, &cc, &server, &sc);
	run_until(client.downs && server.downs);
	assert_true(client.ups == 0 && server.frames == 0 && server.why.code == -EBADMSG);
	fini(&client);
	fini(&server);
}

/* A peer that speaks TLS by GnuTLS itself, with other rules than ours. */
static ssize_t raw_pull(gnutls_transport_ptr_t p, void *buf, size_t len)
{
	return recv((int)(intptr_t)p, buf, len, MSG_DONTWAIT);
}

static int raw_handshake(int fd, const char *priority, bool with_psk)
{
	static unsigned char key[32] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
					 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };
	gnutls_datum_t k = { key, sizeof(key) };
	gnutls_psk_client_credentials_t psk;
	gnutls_certificate_credentials_t cert;
	gnutls_session_t s;
	char byte;
	ssize_t n;
	int g;

	assert_int_equal(gnutls_init(&s, GNUTLS_CLIENT | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL), 0);
	assert_int_equal(gnutls_priority_set_direct(s, priority, NULL), 0);
	assert_int_equal(gnutls_psk_allocate_client_credentials(&psk), 0);
	assert_int_equal(gnutls_psk_set_client_credentials(psk, "alpha", &k, GNUTLS_PSK_KEY_RAW), 0);
	assert_int_equal(gnutls_certificate_allocate_credentials(&cert), 0);
	assert_int_equal(gnutls_credentials_set(s, with_psk ? GNUTLS_CRD_PSK : GNUTLS_CRD_CERTIFICATE,
						with_psk ? (void *)psk : (void *)cert), 0);
	gnutls_transport_set_ptr(s, (gnutls_transport_ptr_t)(intptr_t)fd);
	gnutls_transport_set_pull_function(s, raw_pull);
	while ((g = gnutls_handshake(s)) < 0 && !gnutls_error_is_fatal(g))
		ev_run(loop, EVRUN_NOWAIT);
	/* a TLS 1.3 client is done before the server judged it: what comes next tells */
	while (g == 0 && ((n = gnutls_record_recv(s, &byte, 1)) == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED))
		ev_run(loop, EVRUN_NOWAIT);
	if (g == 0)
		g = n < 0 ? (int)n : 0;
	gnutls_deinit(s);
	gnutls_psk_free_client_credentials(psk);
	gnutls_certificate_free_credentials(cert);
	return g;
}

static void attach_server(struct end *server, enum rpl_tls tls, int *ret_peer)
{
	struct rpl_link_conf sc = conf_of(tls, true);
	int fds[2];

	socket_pair(fds);
	attach(server, &sc, fds[1]);
	*ret_peer = fds[0];
}

static void write_all(int fd, const void *bytes, size_t len)
{
	assert_int_equal(send(fd, bytes, len, MSG_NOSIGNAL), len);
}

static void send_preamble(int fd)
{
	uint8_t p[RPL_PREAMBLE_SIZE];

	rpl_preamble_encode(&vm, p);
	write_all(fd, p, sizeof(p));
}

static void older_or_weaker_tls_is_refused(void **state)
{
	static const struct { enum rpl_tls mode; const char *priority; bool psk; } bad[] = {
		{ RPL_TLS_PSK, "NORMAL:-VERS-ALL:+VERS-TLS1.2:-KX-ALL:+ECDHE-PSK:+DHE-PSK:+PSK", true },
		{ RPL_TLS_PSK, "NORMAL:-VERS-ALL:+VERS-TLS1.3:-KX-ALL:+PSK", true }, /* no forward secrecy */
		{ RPL_TLS_PSK, "NORMAL:-VERS-ALL:+VERS-TLS1.3", false },             /* no key at all */
		{ RPL_TLS_X509, "NORMAL:-VERS-ALL:+VERS-TLS1.2", false },
		{ RPL_TLS_X509, "NORMAL:-VERS-ALL:+VERS-TLS1.3", false },            /* no certificate */
	};

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(bad); i++) {
		struct end server = { 0 };
		int fd;

		attach_server(&server, bad[i].mode, &fd);
		send_preamble(fd);
		if (raw_handshake(fd, bad[i].priority, bad[i].psk) == 0 || server.ups)
			fail_msg("case %zu got in", i);
		close(fd);
		run_until(server.downs);
		if (server.why.code != -EACCES && server.why.code != -EBADMSG)
			fail_msg("case %zu: %d %s", i, server.why.code, server.why.msg);
		fini(&server);
	}
	/* the same scripted peer with our rules does get in, so the refusals above are not its own faults */
	{
		struct end server = { .hello_on_up = true };
		int fd;

		attach_server(&server, RPL_TLS_PSK, &fd);
		send_preamble(fd);
		assert_int_equal(raw_handshake(fd, "NORMAL:-VERS-ALL:+VERS-TLS1.3:-KX-ALL:+ECDHE-PSK", true), 0);
		assert_int_equal(server.ups, 1);
		close(fd);
		fini(&server);
	}
}

/* ---- preamble and time-outs */

static void a_wrong_preamble_ends_it(void **state)
{
	struct { size_t at; uint8_t x; const char *says; } bad[] = {
		{ 31, 1, "this link is for" }, { 0, 1, "magic" }, { 9, 2, "upgrade" }, { 15, 1, "reserved" },
	};

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(bad); i++) {
		uint8_t p[RPL_PREAMBLE_SIZE];
		struct end server = { 0 };
		int fd;

		attach_server(&server, RPL_TLS_PSK, &fd);
		rpl_preamble_encode(&vm, p);
		p[bad[i].at] ^= bad[i].x;
		write_all(fd, p, sizeof(p));
		run_until(server.downs);
		assert_int_equal(server.why.code, -EBADMSG);
		assert_non_null(strstr(server.why.msg, bad[i].says));
		close(fd);
		fini(&server);
	}
}

static void a_preamble_that_is_cut_ends_it(void **state)
{
	struct end server = { 0 };
	int fd;

	(void)state;
	attach_server(&server, RPL_TLS_PSK, &fd);
	write_all(fd, "REPLICAD", 8);
	shutdown(fd, SHUT_WR);
	run_until(server.downs);
	assert_int_equal(server.why.code, -EPIPE);
	assert_string_equal(server.why.msg, "preamble: closed after 8 of 32 bytes");
	close(fd);
	fini(&server);
}

static void a_preamble_may_come_in_pieces(void **state)
{
	uint8_t p[RPL_PREAMBLE_SIZE];
	struct end server = { 0 };
	int fd;

	(void)state;
	attach_server(&server, RPL_TLS_NONE, &fd);
	rpl_preamble_encode(&vm, p);
	for (size_t i = 0; i < sizeof(p); i++) {
		assert_int_equal(server.ups, 0);
		write_all(fd, p + i, 1);
		for (int k = 0; k < 3; k++)
			ev_run(loop, EVRUN_NOWAIT);
	}
	assert_int_equal(server.ups, 1);
	close(fd);
	run_until(server.downs);
	assert_int_equal(server.why.code, -ESHUTDOWN);
	fini(&server);
}

static void stalls_before_up_are_bounded(void **state)
{
	static const uint8_t part[40] = "REPLICAD";
	static const struct { enum rpl_tls tls; size_t len; const char *says; bool preamble; } stall[] = {
		{ RPL_TLS_NONE, 0, "preamble not complete", false }, { RPL_TLS_PSK, 31, "preamble not complete", false },
		{ RPL_TLS_PSK, 0, "TLS handshake not complete", true }, { RPL_TLS_X509, 0, "TLS handshake not complete", true },
	};

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(stall); i++) {
		struct rpl_link_conf sc = conf_of(stall[i].tls, true);
		struct end server = { 0 };
		uint64_t t0 = rpl_now_ns();
		int fds[2];

		sc.handshake_timeout_ms = 60;
		socket_pair(fds);
		attach(&server, &sc, fds[1]);
		if (stall[i].preamble)
			send_preamble(fds[0]);
		if (stall[i].len)
			write_all(fds[0], part, stall[i].len);
		run_until(server.downs);
		assert_int_equal(server.why.code, -ETIMEDOUT);
		assert_non_null(strstr(server.why.msg, stall[i].says));
		assert_true(rpl_now_ns() - t0 >= 55 * RPL_MS);
		close(fds[0]);
		fini(&server);
	}
	{ /* the client waits no longer */
		struct rpl_link_conf cc = conf_of(RPL_TLS_PSK, false);
		struct end client = { 0 };
		int fds[2];

		cc.handshake_timeout_ms = 60;
		socket_pair(fds);
		attach(&client, &cc, fds[0]);
		run_until(client.downs);
		assert_int_equal(client.why.code, -ETIMEDOUT);
		close(fds[1]);
		fini(&client);
	}
}

/* Both are due: the preamble, and the end of the time for it. */
static void what_has_come_is_not_too_late(void **state)
{
	struct rpl_link_conf sc = conf_of(RPL_TLS_NONE, true);
	struct end server = { 0 };
	int fds[2];

	(void)state;
	sc.handshake_timeout_ms = 10;
	socket_pair(fds);
	attach(&server, &sc, fds[1]);
	send_preamble(fds[0]);
	(void)usleep(50 * 1000); /* as if somebody else had the processor */
	run_until(server.ups || server.downs);
	assert_int_equal(server.ups, 1);
	close(fds[0]);
	fini(&server);
}

static void nonsense_instead_of_tls_ends_it(void **state)
{
	uint8_t junk[512];

	(void)state;
	for (unsigned seed = 0; seed < 50; seed++) {
		struct end server = { 0 };
		int fd;

		attach_server(&server, seed % 2 ? RPL_TLS_PSK : RPL_TLS_X509, &fd);
		send_preamble(fd);
		for (size_t i = 0; i < sizeof(junk); i++)
			junk[i] = (uint8_t)((i + 1) * (seed * 2654435761u + 12345u) >> 11);
		if (seed % 5 == 0)
			memcpy(junk, "\x16\x03\x01\x01\xf0\x01", 6); /* looks like a client hello */
		write_all(fd, junk, sizeof(junk));
		shutdown(fd, SHUT_WR);
		run_until(server.downs);
		assert_true(server.ups == 0 && server.why.code < 0);
		close(fd);
		fini(&server);
	}
}

/* ---- hostile frames */

static void write_frame(int fd, uint16_t type, uint32_t len, uint64_t seq, size_t body)
{
	uint8_t bytes[RPL_FRAME_HEADER + 1024] = { 0 };

	rpl_frame_header_encode(type, len, seq, bytes);
	assert_true(body <= 1024);
	write_all(fd, bytes, RPL_FRAME_HEADER + body);
}

static void hostile_frames_end_the_connection(void **state)
{
	static const struct { uint16_t type; uint32_t len; uint64_t seq; size_t body; int code; const char *says; } bad[] = {
		{ RPL_FRAME_HEARTBEAT, 0, 0, 0, -EBADMSG, "frame 1 HEARTBEAT: carries sequence number 0" },
		{ RPL_FRAME_HEARTBEAT, 0, 2, 0, -EBADMSG, "sequence number 2" },
		{ RPL_FRAME_STREAM, RPL_FRAME_BODY_MAX + 1, 1, 0, -EBADMSG, "1048577 bytes, allowed 1 to 1048576" },
		{ RPL_FRAME_STREAM, UINT32_MAX, 1, 0, -EBADMSG, "4294967295 bytes" },
		{ RPL_FRAME_STREAM, 0, 1, 0, -EBADMSG, "0 bytes" },
		{ RPL_FRAME_ACK, 23, 1, 23, -EBADMSG, "23 bytes, allowed 24 to 24" },
		{ RPL_FRAME_HEARTBEAT, 1, 1, 1, -EBADMSG, "1 bytes, allowed 0 to 0" },
		{ 26, 24, 1, 24, -EBADMSG, "unknown type 26" },
		{ 0, 0, 1, 0, -EBADMSG, "unknown type 0" },
		{ RPL_FRAME_STREAM, 100, 1, 99, -EPIPE, "cut in frame 1, after 115 of its bytes" },
	};

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(bad); i++) {
		struct end server = { 0 };
		int fd;

		attach_server(&server, RPL_TLS_NONE, &fd);
		send_preamble(fd);
		write_frame(fd, RPL_FRAME_HELLO, RPL_HELLO_SIZE, 0, RPL_HELLO_SIZE);
		write_frame(fd, bad[i].type, bad[i].len, bad[i].seq, bad[i].body);
		shutdown(fd, SHUT_WR);
		run_until(server.downs);
		assert_int_equal(server.frames, 1);
		if (server.why.code != bad[i].code || !strstr(server.why.msg, bad[i].says))
			fail_msg("case %zu: %d \"%s\"", i, server.why.code, server.why.msg);
		assert_int_equal(rpl_link_send(server.link, RPL_FRAME_HEARTBEAT, NULL, 0), -ENOTCONN);
		close(fd);
		fini(&server);
	}
}

static void data_before_hello_is_refused(void **state)
{
	struct end server = { 0 };
	int fd;

	(void)state;
	attach_server(&server, RPL_TLS_NONE, &fd);
	send_preamble(fd);
	write_frame(fd, RPL_FRAME_ACK, 24, 0, 24);
	run_until(server.downs);
	assert_true(server.frames == 0 && server.why.code == -EBADMSG);
	close(fd);
	fini(&server);
}

/* Byte after byte, for ever: only whole frames count as a sign of life. */
static void a_dripping_peer_is_not_heard_from(void **state)
{
	struct end server = { 0 };
	uint8_t byte = 0;
	uint64_t heard;
	int fd;

	(void)state;
	attach_server(&server, RPL_TLS_NONE, &fd);
	send_preamble(fd);
	write_frame(fd, RPL_FRAME_HELLO, RPL_HELLO_SIZE, 0, RPL_HELLO_SIZE);
	run_until(server.frames == 1);
	heard = rpl_link_last_heard_ns(server.link);
	write_frame(fd, RPL_FRAME_STREAM, 500, 1, 0);
	for (int i = 0; i < 499; i++) {
		write_all(fd, &byte, 1);
		ev_run(loop, EVRUN_ONCE);
		assert_true(rpl_link_last_heard_ns(server.link) == heard);
	}
	write_all(fd, &byte, 1);
	run_until(server.frames == 2);
	assert_true(rpl_link_last_heard_ns(server.link) > heard);
	close(fd);
	fini(&server);
}

/* A peer that floods: each turn of the loop ends all the same, and a timer gets its turn. */
static void on_tick(struct ev_loop *l, ev_timer *w, int revents)
{
	(void)l;
	(void)revents;
	++*(unsigned *)w->data;
}

static void on_fill(struct ev_loop *l, ev_io *w, int revents)
{
	static uint8_t batch[RPL_FRAME_HEADER * 2048];
	uint64_t *seq = w->data;

	(void)l;
	(void)revents;
	for (size_t i = 0; i < 2048; i++)
		rpl_frame_header_encode(RPL_FRAME_HEARTBEAT, 0, *seq + i, batch + i * RPL_FRAME_HEADER);
	/* a socket counts as writable when a good part of its buffer is free (TCP: a third), so that a batch goes in whole */
	assert_int_equal(send(w->fd, batch, sizeof(batch), MSG_NOSIGNAL), sizeof(batch));
	*seq += 2048;
}

static void a_flooding_peer_leaves_time_for_others(void **state)
{
	struct end server = { 0 };
	unsigned ticks = 0;
	uint64_t seq = 1;
	ev_timer tick;
	ev_io fill;
	int fd, room = 4 << 20;

	(void)state;
	attach_server(&server, RPL_TLS_NONE, &fd);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)), 0);
	send_preamble(fd);
	write_frame(fd, RPL_FRAME_HELLO, RPL_HELLO_SIZE, 0, RPL_HELLO_SIZE);
	ev_timer_init(&tick, on_tick, 0., 0.001);
	tick.data = &ticks;
	ev_timer_start(loop, &tick);
	ev_io_init(&fill, on_fill, fd, EV_WRITE);
	fill.data = &seq;
	ev_io_start(loop, &fill);
	run_until((ticks >= 20 && server.frames > 100000) || server.downs);
	if (server.downs)
		fail_msg("%s", server.why.msg);
	ev_io_stop(loop, &fill);
	ev_timer_stop(loop, &tick);
	close(fd);
	fini(&server);
}

/* ---- tampering with what is encrypted: a relay between the two ends that the test drives */

struct relay {
	int a, b; /* the relay's ends of two socket pairs */
};

static void relay_up(struct relay *r, struct end *client, struct end *server)
{
	struct rpl_link_conf cc = conf_of(RPL_TLS_PSK, false), sc = conf_of(RPL_TLS_PSK, true);
	int fa[2], fb[2];

	socket_pair(fa);
	socket_pair(fb);
	attach(client, &cc, fa[0]);
	attach(server, &sc, fb[0]);
	r->a = fa[1];
	r->b = fb[1];
}

static size_t take(int fd, uint8_t *buf, size_t cap)
{
	ssize_t n = recv(fd, buf, cap, MSG_DONTWAIT);

	return n > 0 ? (size_t)n : 0;
}

static void relay_turn(struct relay *r)
{
	static uint8_t buf[1 << 16];
	size_t n;

	ev_run(loop, EVRUN_NOWAIT);
	while ((n = take(r->a, buf, sizeof(buf))))
		write_all(r->b, buf, n);
	while ((n = take(r->b, buf, sizeof(buf))))
		write_all(r->a, buf, n);
}

enum tamper { FLIP, REPLAY, SWAP, CUT, TAMPERS };

static void tampered_records_end_the_connection(void **state)
{
	static uint8_t buf[1 << 16];

	(void)state;
	for (enum tamper how = FLIP; how < TAMPERS; how++) {
		struct end client = { .hello_on_up = true }, server = { .hello_on_up = true };
		struct relay r;
		size_t n, first;

		relay_up(&r, &client, &server);
		while (client.frames + server.frames < 2)
			relay_turn(&r);
		assert_int_equal(rpl_link_send(client.link, RPL_FRAME_HEARTBEAT, NULL, 0), 0);
		while (!(first = take(r.a, buf, sizeof(buf))))
			ev_run(loop, EVRUN_NOWAIT);
		assert_int_equal(rpl_link_send(client.link, RPL_FRAME_HEARTBEAT, NULL, 0), 0);
		while (!(n = take(r.a, buf + first, sizeof(buf) - first)))
			ev_run(loop, EVRUN_NOWAIT);
		switch (how) {
		case FLIP:
			buf[first - 1] ^= 1;
			write_all(r.b, buf, first);
			break;
		case REPLAY:
			write_all(r.b, buf, first);
			write_all(r.b, buf, first);
			break;
		case SWAP:
			write_all(r.b, buf + first, n);
			write_all(r.b, buf, first);
			break;
		default:
			write_all(r.b, buf, first);
			shutdown(r.b, SHUT_WR);
		}
		run_until(server.downs);
		assert_int_equal(server.frames, how == REPLAY || how == CUT ? 2 : 1);
		assert_int_equal(server.why.code, how == CUT ? -EPIPE : -EBADMSG);
		close(r.a);
		close(r.b);
		fini(&client);
		fini(&server);
	}
}

/* ---- the queue */

/* The peer does not read. What waits is bounded, small frames still have their reserve, and reading frees all of it. */
static void a_full_queue_refuses_and_recovers(void **state)
{
	static uint8_t data[100000];
	struct iovec iov = { data, sizeof(data) };

	(void)state;
	for (size_t m = 0; m < RPL_ARRAY_LEN(modes); m++) {
		struct end client = { .hello_on_up = true }, server = { .hello_on_up = true };
		struct rpl_link_conf cc = conf_of(modes[m], false), sc = conf_of(modes[m], true);
		unsigned bulk = 0, small = 0;
		int fds[2], r, before;

		socket_pair(fds);
		attach(&client, &cc, fds[0]);
		attach(&server, &sc, fds[1]);
		run_until(client.frames == 1 && server.frames == 1);
		assert_true(rpl_link_room(client.link, RPL_FRAME_BODY_MAX));
		while ((r = rpl_link_send(client.link, RPL_FRAME_STREAM, &iov, 1)) == 0)
			bulk++;
		assert_int_equal(r, -ENOBUFS);
		assert_true(bulk > 15);
		assert_false(rpl_link_room(client.link, sizeof(data)));
		assert_in_range(rpl_link_queued(client.link), QUEUE - 2 * sizeof(data), QUEUE);
		while ((r = rpl_link_send(client.link, RPL_FRAME_HEARTBEAT, NULL, 0)) == 0)
			small++;
		assert_int_equal(r, -ENOBUFS);
		assert_in_range(small, 500, 12000);
		assert_true(rpl_link_queued(client.link) <= QUEUE + RPL_LINK_RESERVE);
		before = client.writables;
		run_until(server.frames == 1 + bulk + small);
		run_until(client.writables > before);
		assert_true(rpl_link_room(client.link, RPL_FRAME_BODY_MAX));
		fini(&client);
		fini(&server);
	}
}

/* ---- ends */

static void send_refuse(struct end *e, const char *why)
{
	struct iovec iov = { (void *)(uintptr_t)why, strlen(why) };

	assert_int_equal(rpl_link_send(e->link, RPL_FRAME_REFUSE, &iov, 1), 0);
}

/* Everything queued, and the refusal after it, arrives before the end does. */
static void finish_delivers_what_was_queued(void **state)
{
	static uint8_t data[500000];
	struct iovec iov = { data, sizeof(data) };

	(void)state;
	for (size_t m = 0; m < RPL_ARRAY_LEN(modes); m++) {
		struct end client = { 0 }, server = { 0 };

		bring_up(&client, &server, modes[m]);
		for (int i = 0; i < 3; i++)
			assert_int_equal(rpl_link_send(server.link, RPL_FRAME_STREAM, &iov, 1), 0);
		send_refuse(&server, "no such VM here");
		rpl_link_finish(server.link);
		rpl_link_finish(server.link);
		assert_int_equal(rpl_link_send(server.link, RPL_FRAME_HEARTBEAT, NULL, 0), -ENOTCONN);
		assert_int_equal(rpl_link_send(client.link, RPL_FRAME_STREAM, &iov, 1), 0); /* dropped over there */
		run_until(client.downs);
		assert_int_equal(client.why.code, -ESHUTDOWN);
		assert_int_equal(client.frames, 5);
		assert_memory_equal(client.last, "no such VM here", 15);
		run_until(server.downs);
		assert_int_equal(server.why.code, 0);
		assert_int_equal(server.frames, 1);
		fini(&client);
		fini(&server);
	}
}

static void finish_does_not_wait_for_ever(void **state)
{
	struct end server = { .hello_on_up = true };
	int fd;

	(void)state;
	attach_server(&server, RPL_TLS_NONE, &fd);
	send_preamble(fd);
	run_until(server.ups);
	rpl_link_finish(server.link);
	run_until(server.downs);
	assert_int_equal(server.why.code, -ETIMEDOUT);
	close(fd);
	fini(&server);
}

/* The peer closes its direction at once and never reads: what was not sent is said. */
static void finish_says_what_was_not_sent(void **state)
{
	static uint8_t data[100000];
	struct iovec iov = { data, sizeof(data) };
	struct end server = { .hello_on_up = true };
	int fd;

	(void)state;
	attach_server(&server, RPL_TLS_NONE, &fd);
	send_preamble(fd);
	run_until(server.ups);
	while (rpl_link_send(server.link, RPL_FRAME_STREAM, &iov, 1) == 0)
		ev_run(loop, EVRUN_NOWAIT);
	rpl_link_finish(server.link);
	shutdown(fd, SHUT_WR);
	run_until(server.downs);
	assert_int_equal(server.why.code, -EPIPE);
	assert_non_null(strstr(server.why.msg, "bytes unsent"));
	close(fd);
	fini(&server);
}

static void callbacks_may_free_and_finish(void **state)
{
	(void)state;
	for (size_t m = 0; m < RPL_ARRAY_LEN(modes); m++) {
		for (int what = 0; what < 3; what++) {
			struct end client = { .hello_on_up = true }, server = { 0 };
			struct rpl_link_conf cc = conf_of(modes[m], false), sc = conf_of(modes[m], true);

			server.free_on_up = what == 0;
			server.free_on_frame = what == 1;
			server.finish_on_frame = what == 2;
			connect_ends(&client, &cc, &server, &sc);
			run_until(client.downs);
			assert_true((server.link == NULL) == (what < 2));
			if (what == 2)
				run_until(server.downs);
			assert_int_equal(server.downs, what == 2);
			fini(&client);
			fini(&server);
		}
	}
}

static void a_refused_frame_ends_the_link_with_that_reason(void **state)
{
	struct end client = { .hello_on_up = true }, server = { .refuse_frame = -EPROTO };
	struct rpl_link_conf cc = conf_of(RPL_TLS_PSK, false), sc = conf_of(RPL_TLS_PSK, true);

	(void)state;
	connect_ends(&client, &cc, &server, &sc);
	run_until(client.downs && server.downs);
	assert_int_equal(server.why.code, -EPROTO);
	assert_string_equal(server.why.msg, "the test refuses frame 1");
	fini(&client);
	fini(&server);
}

/* A connection that dies under a sender: no call into the link calls back, and down() comes once. */
static void a_dead_peer_is_reported_from_the_loop(void **state)
{
	static uint8_t data[300000];
	struct iovec iov = { data, sizeof(data) };

	(void)state;
	for (size_t m = 0; m < RPL_ARRAY_LEN(modes); m++) {
		struct end client = { 0 }, server = { 0 };
		int r;

		bring_up(&client, &server, modes[m]);
		rpl_link_free(server.link);
		server.link = NULL;
		for (int i = 0; i < 5; i++) {
			r = rpl_link_send(client.link, RPL_FRAME_STREAM, &iov, 1);
			assert_true(r == 0 || r == -ENOTCONN);
			assert_int_equal(client.downs, 0);
		}
		run_until(client.downs);
		for (int i = 0; i < 5; i++)
			ev_run(loop, EVRUN_NOWAIT);
		assert_int_equal(client.downs, 1);
		assert_int_equal(client.why.code, -EPIPE);
		assert_int_equal(rpl_link_send(client.link, RPL_FRAME_STREAM, &iov, 1), -ENOTCONN);
		assert_false(rpl_link_room(client.link, 1));
		rpl_link_finish(client.link);
		fini(&client);
	}
	rpl_link_free(NULL);
}

/* The refusal is in the socket, the peer has hung up, and we write before we read. */
static void a_refusal_is_heard_by_who_writes_first(void **state)
{
	static uint8_t data[300000];
	struct iovec iov = { data, sizeof(data) };

	(void)state;
	for (size_t m = 0; m < RPL_ARRAY_LEN(modes); m++) {
		struct end client = { 0 }, server = { 0 };

		bring_up(&client, &server, modes[m]);
		client.refuse_frame = -ECONNREFUSED;
		send_refuse(&server, "no such VM here");
		while (rpl_link_queued(server.link))
			ev_run(loop, EVRUN_NOWAIT); /* ends with the turn that writes it: nobody has read it yet */
		rpl_link_free(server.link);
		server.link = NULL;
		assert_int_equal(client.frames, 1);
		for (int i = 0, r = 0; r == 0; i++) {
			r = rpl_link_send(client.link, RPL_FRAME_STREAM, &iov, 1);
			assert_true(i < 5 && (r == 0 || r == -ENOTCONN));
		}
		run_until(client.downs);
		assert_int_equal(client.frames, 2);
		assert_int_equal(client.last_type, RPL_FRAME_REFUSE);
		assert_memory_equal(client.last, "no such VM here", 15);
		assert_int_equal(client.why.code, -ECONNREFUSED);
		assert_int_equal(client.downs, 1);
		fini(&client);
	}
}

static void small_frames_and_answers_keep_flowing(void **state)
{
	(void)state;
	for (size_t m = 0; m < RPL_ARRAY_LEN(modes); m++) {
		struct end client = { 0 }, server = { 0 };

		bring_up(&client, &server, modes[m]);
		server.echo = client.echo = 2000;
		assert_int_equal(rpl_link_send(client.link, RPL_FRAME_HEARTBEAT, NULL, 0), 0);
		run_until(client.echo == 0 && server.echo == 0);
		fini(&client);
		fini(&server);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_sides_prove_themselves),
		cmocka_unit_test(bulk_data_arrives_in_order),
		cmocka_unit_test(both_directions_flow_at_once),
		cmocka_unit_test(what_is_pushed_leaves_at_once),
		cmocka_unit_test(keys_change_under_way),
		cmocka_unit_test(psk_peers_without_the_right_name_and_key_stay_out),
		cmocka_unit_test(a_listed_psk_peer_gets_in),
		cmocka_unit_test(x509_peers_with_wrong_certificates_stay_out),
		cmocka_unit_test(x509_names_are_found),
		cmocka_unit_test(configurations_that_cannot_work_are_refused_at_once),
		cmocka_unit_test(clear_and_tls_do_not_mix),
		cmocka_unit_test(older_or_weaker_tls_is_refused),
		cmocka_unit_test(a_wrong_preamble_ends_it),
		cmocka_unit_test(a_preamble_that_is_cut_ends_it),
		cmocka_unit_test(a_preamble_may_come_in_pieces),
		cmocka_unit_test(stalls_before_up_are_bounded),
		cmocka_unit_test(what_has_come_is_not_too_late),
		cmocka_unit_test(nonsense_instead_of_tls_ends_it),
		cmocka_unit_test(hostile_frames_end_the_connection),
		cmocka_unit_test(data_before_hello_is_refused),
		cmocka_unit_test(a_dripping_peer_is_not_heard_from),
		cmocka_unit_test(a_flooding_peer_leaves_time_for_others),
		cmocka_unit_test(tampered_records_end_the_connection),
		cmocka_unit_test(a_full_queue_refuses_and_recovers),
		cmocka_unit_test(finish_delivers_what_was_queued),
		cmocka_unit_test(finish_does_not_wait_for_ever),
		cmocka_unit_test(finish_says_what_was_not_sent),
		cmocka_unit_test(callbacks_may_free_and_finish),
		cmocka_unit_test(a_refused_frame_ends_the_link_with_that_reason),
		cmocka_unit_test(a_dead_peer_is_reported_from_the_loop),
		cmocka_unit_test(a_refusal_is_heard_by_who_writes_first),
		cmocka_unit_test(small_frames_and_answers_keep_flowing),
	};
	int r;

	loop = ev_loop_new(EVFLAG_AUTO);
	r = cmocka_run_group_tests_name("over unix sockets", tests, NULL, NULL);
	over_tcp = true;
	r |= cmocka_run_group_tests_name("over TCP", tests, NULL, NULL);
	pki_free();
	ev_loop_destroy(loop);
	return r;
}
