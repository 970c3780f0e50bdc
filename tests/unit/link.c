/* Connections over real sockets: both TLS modes and clear, who is let in, what a hostile peer can do, queue limits.
 *
 * One loop drives both ends. A test with a scripted peer holds the other socket itself and writes raw bytes.
 */
#include <errno.h>
#include <fcntl.h>
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
#define TEST_TIMEOUT_S 20.

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
				   .handshake_timeout_ms = 5000, .queue_bytes_max = QUEUE };

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

static void socket_pair(int fds[2])
{
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_sides_prove_themselves),
		cmocka_unit_test(bulk_data_arrives_in_order),
	};
	int r;

	loop = ev_loop_new(EVFLAG_AUTO);
	r = cmocka_run_group_tests(tests, NULL, NULL);
	pki_free();
	ev_loop_destroy(loop);
	return r;
}
