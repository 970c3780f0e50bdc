/* Who a mover's peer is: by a key, by a certificate. What is refused, each side says why; what is not, carries checkpoints. */
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

#include <cmocka.h>

#include <replicad/auto.h>
#include <replicad/io.h>

#include "tests/lib/mover_rig.h"
#include "tests/lib/pki.h"

#define PAGES 256
#define CHECKPOINTS 5
#define PEERS "first, two-names, node"

/* The three texts as a keeper passes them; the caller frees it. */
static char *certificates(const char *name, uint32_t *ret_len)
{
	const char *parts[] = { pki_ca(), pki_cert(name), pki_key(name) };
	char *text = calloc(1, RPL_MOVER_TEXT_SIZE - RPL_MOVER_TEXT_KEYS), *at = text;

	assert_non_null(text);
	for (size_t i = 0; i < RPL_ARRAY_LEN(parts); i++)
		at = stpcpy(at, parts[i]) + 1;
	*ret_len = (uint32_t)(at - text);
	return text;
}

static void with_certificates(struct rig *r, const char *primary, const char *backup)
{
	rig_init(r, PAGES);
	r->conf.tls = RPL_TLS_X509;
	(void)snprintf(r->conf.peers, sizeof(r->conf.peers), PEERS);
	r->keys[0] = certificates(primary, &r->keys_len[0]);
	r->keys[1] = certificates(backup, &r->keys_len[1]);
}

static void finish(struct rig *r)
{
	rig_fini(r);
	for (int i = 0; i < 2; i++)
		free((void *)(uintptr_t)r->keys[i]);
}

static void checkpoints_pass_over_certificates(void **state)
{
	struct rig r;

	(void)state;
	with_certificates(&r, "two-names", "node");
	rig_start(&r);
	rig_protect(&r);
	for (int i = 0; i < CHECKPOINTS; i++)
		rig_checkpoint(&r, 50);
	assert_int_equal(rig_count(&r.p.counters->tls_on), 1);
	assert_int_equal(rig_count(&r.b.counters->tls_on), 1);
	finish(&r);
}

static void connect_in_vain(struct rig *r)
{
	int sv[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv), 0);
	side_send(&r->p, RPL_MOVER_LINK, 0, 0, 0, NULL, sv[0]);
	side_send(&r->b, RPL_MOVER_LINK, 0, 0, 0, NULL, sv[1]);
}

/* With TLS 1.3 the client is done, and says LINK_UP, before the server has looked at its certificate. */
static void expect_refused(struct side *s, const char *why)
{
	struct rpl_mover_msg *m = side_expect_past(s, RPL_MOVER_LINK_DOWN, RPL_MOVER_LINK_UP);

	rig_expect_text(m, why);
	assert_int_equal(m->epoch, EACCES);
}

static void a_refused_certificate_is_told_on_both_sides(void **state)
{
	static const struct {
		const char *primary, *backup, *primary_says, *backup_says;
	} cases[] = {
		{ "other", "node", "the peer refused", "for \"other\", not for one of \"" PEERS "\"" },
		{ "stranger", "node", "the peer refused", "issuer is unknown" },
		{ "expired", "node", "the peer refused", "expired" },
		{ "server-only", "node", "the peer refused", "purpose" },
		{ "node", "other", "for \"other\", not for one of \"" PEERS "\"", "the peer refused" },
		{ "node", "stranger", "issuer is unknown", "the peer refused" },
		{ "node", "expired", "expired", "the peer refused" },
	};

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(cases); i++) {
		struct rig r;

		with_certificates(&r, cases[i].primary, cases[i].backup);
		rig_start(&r);
		connect_in_vain(&r);
		expect_refused(&r.p, cases[i].primary_says);
		expect_refused(&r.b, cases[i].backup_says);
		finish(&r);
	}
}

static void a_refused_key_is_told_on_both_sides(void **state)
{
	static const char other[] = "rig:ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n",
			  another_name[] = "gir:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";
	static const struct {
		const char *key, *peers, *backup_says;
	} cases[] = {
		{ other, "", "" },
		{ another_name, "", "no key for peer \"rig\"" },
		{ NULL, "somebody, else", "\"rig\" has a key but is not among this VM's peers" },
	};

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(cases); i++) {
		struct rig r;

		rig_init(&r, PAGES);
		r.conf.tls = RPL_TLS_PSK;
		(void)snprintf(r.conf.peers, sizeof(r.conf.peers), "%s", cases[i].peers);
		r.keys[1] = cases[i].key;
		r.keys_len[1] = sizeof(other) - 1;
		rig_start(&r);
		connect_in_vain(&r);
		expect_refused(&r.b, cases[i].backup_says);
		expect_refused(&r.p, "the peer refused");
		rig_fini(&r);
	}
}

static void our_own_name_needs_a_key(void **state)
{
	static const char another_name[] = "gir:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";
	struct rpl_mover_msg *m;
	struct rig r;

	(void)state;
	rig_init(&r, PAGES);
	r.conf.tls = RPL_TLS_PSK;
	r.keys[0] = another_name;
	r.keys_len[0] = sizeof(another_name) - 1;
	rig_start(&r);
	connect_in_vain(&r);
	m = side_expect(&r.p, RPL_MOVER_LINK_DOWN);
	rig_expect_text(m, "no key for our own identity \"rig\"");
	assert_int_equal(m->epoch, ENOKEY);
	rig_fini(&r);
}

/* Says a true preamble, then `bytes`, to the backup; stays open. */
static int stranger(struct rig *r, const void *bytes, size_t len)
{
	uint8_t preamble[RPL_PREAMBLE_SIZE];
	int sv[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	side_send(&r->b, RPL_MOVER_LINK, 0, 0, 0, NULL, sv[1]);
	rpl_preamble_encode(&r->conf.vm, preamble);
	assert_int_equal(rpl_write_full(sv[0], preamble, sizeof(preamble)), 0);
	assert_int_equal(rpl_write_full(sv[0], bytes, len), 0);
	return sv[0];
}

/* Anybody can reach the port and knows the VM's uuid from the wire. It takes a key to take a connection's place. */
static void a_connection_is_not_disturbed_by_strangers(void **state)
{
	static const char noise[] = "this is no TLS, but it is as long as a record's head at least";
	int silent[3 * RPL_MOVER_WAITING_MAX];
	struct rpl_mover_msg *m;
	struct rig r;

	(void)state;
	rig_init(&r, PAGES);
	r.conf.tls = RPL_TLS_PSK;
	rig_start(&r);
	rig_protect(&r);
	for (size_t i = 0; i < RPL_ARRAY_LEN(silent); i++) {
		silent[i] = stranger(&r, noise, i % 2 ? 3 : 0);
		rig_checkpoint(&r, 20);
	}
	(void)close(stranger(&r, noise, sizeof(noise)));
	m = side_expect(&r.b, RPL_MOVER_LINK_REFUSED);
	rig_expect_text(m, "TLS: handshake");
	rig_checkpoint(&r, 20);
	/* who has the key does, beside the strangers that still wait */
	rig_session(&r, false);
	rig_checkpoint(&r, 20);
	for (size_t i = 0; i < RPL_ARRAY_LEN(silent); i++)
		(void)close(silent[i]);
	rig_fini(&r);
}

/* What a keeper of another build might pass. */
static void texts_that_are_not_three(void **state)
{
	static const struct {
		int missing; /* texts at the end; -1: one byte too much */
		const char *why;
	} cases[] = { { 1, "text 3 of 3" }, { 2, "text 2 of 3" }, { -1, "1 bytes behind the key" } };

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(cases); i++) {
		struct rig r;

		with_certificates(&r, "node", "node");
		if (cases[i].missing < 0)
			r.keys_len[0]++;
		for (int n = cases[i].missing; n > 0; n--)
			r.keys_len[0] = (uint32_t)((const char *)memrchr(r.keys[0], '\0', r.keys_len[0] - 1) + 1 - r.keys[0]);
		r.conf_refused = true;
		rig_start_primary(&r);
		rig_expect_text(&r.p.last, cases[i].why);
		finish(&r);
	}
}

/* PEM that is none: found when the first connection wants it, and told. */
static void a_certificate_that_is_none(void **state)
{
	static const char none[] = "no\0certificate\0at all";
	struct rpl_mover_msg *m;
	struct rig r;

	(void)state;
	rig_init(&r, PAGES);
	r.conf.tls = RPL_TLS_X509;
	(void)snprintf(r.conf.peers, sizeof(r.conf.peers), PEERS);
	r.keys[0] = none;
	r.keys_len[0] = sizeof(none);
	rig_start_primary(&r);
	side_send(&r.p, RPL_MOVER_LINK, 0, 0, 0, NULL, open("/dev/null", O_RDWR | O_CLOEXEC));
	m = side_expect(&r.p, RPL_MOVER_LINK_DOWN);
	rig_expect_text(m, "x509 CA certificate");
	assert_int_equal(m->epoch, EINVAL);
	rig_fini(&r);
}

static int forget_certificates(void **state)
{
	(void)state;
	pki_free();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(checkpoints_pass_over_certificates),
		cmocka_unit_test(a_refused_certificate_is_told_on_both_sides),
		cmocka_unit_test(a_refused_key_is_told_on_both_sides),
		cmocka_unit_test(our_own_name_needs_a_key),
		cmocka_unit_test(a_connection_is_not_disturbed_by_strangers),
		cmocka_unit_test(texts_that_are_not_three),
		cmocka_unit_test(a_certificate_that_is_none),
	};

	return cmocka_run_group_tests(tests, NULL, forget_certificates);
}
