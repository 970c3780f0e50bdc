/* movers_conf.c - what both roles tell their mover */
#include "keeper.h"

#include <errno.h>
#include <netinet/in.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>

#include <replicad/auto.h>
#include <replicad/io.h>

#define KEYS_BYTES_MAX (32 * 1024)
#define HANDSHAKE_TIMEOUT_MS 5000

static int put_keys(struct keeper *k, struct rpl_mover_conf *m, struct rpl_err *err)
{
	RPL_AUTO_FREE char *text = NULL;
	size_t len;
	int r = rpl_read_file(k->conf.keys, KEYS_BYTES_MAX, &text, &len, err);

	if (r < 0)
		return rpl_prefix(err, "keys for the link to %s", k->conf.peer_name);
	movers_put_keys(k->movers, text, len);
	m->keys_len = (uint32_t)len;
	explicit_bzero(text, len);
	return 0;
}

static int put_user(const char *name, struct rpl_mover_conf *m, struct rpl_err *err)
{
	struct passwd *pw;

	if (!*name)
		return 0;
	pw = getpwnam(name);
	if (!pw)
		return rpl_fail(err, -ENOENT, "mover_user: there is no user '%s'", name);
	m->run_as_uid = pw->pw_uid;
	m->run_as_gid = pw->pw_gid;
	return 0;
}

static bool is_loopback(const struct sockaddr *a)
{
	const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)(const void *)a;

	if (a->sa_family == AF_INET)
		return ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
	return a->sa_family == AF_UNIX || (a->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&six->sin6_addr));
}

int keeper_cleartext_check(const struct keeper *k, const struct sockaddr *peer, struct rpl_err *err)
{
	if (k->conf.tls != RPL_TLS_NONE || k->conf.insecure || is_loopback(peer))
		return 0;
	return rpl_fail(err, -EACCES, "tls = none would carry the memory of %s in clear to another host: use tls = psk, or say "
			"insecure = yes", k->conf.vm);
}

int keeper_mover_conf(struct keeper *k, enum rpl_role role, struct rpl_mover_conf *ret, struct rpl_err *err)
{
	const struct keeper_conf *c = &k->conf;
	struct rpl_mover_conf m = {
		.role = role, .tls = c->tls, .vm = c->core.vm, .heartbeat_ms = c->heartbeat_ms,
		.handshake_timeout_ms = HANDSHAKE_TIMEOUT_MS, .arena_bytes = (uint64_t)c->arena_mb << 20,
		.max_uncommitted = c->core.max_uncommitted,
	};
	int r = 0;

	(void)snprintf(m.vm_name, sizeof(m.vm_name), "%s", c->vm);
	(void)snprintf(m.node, sizeof(m.node), "%s", c->core.self);
	(void)snprintf(m.identity, sizeof(m.identity), "%s", c->identity);
	(void)snprintf(m.peers, sizeof(m.peers), "%s", c->peer_identity);
	if (c->tls == RPL_TLS_PSK)
		r = put_keys(k, &m, err);
	else if (c->tls == RPL_TLS_X509)
		r = rpl_fail(err, -EOPNOTSUPP, "tls = x509 is not built into movers yet: use psk");
	if (r == 0)
		r = put_user(c->mover_user, &m, err);
	if (r == 0)
		*ret = m;
	return r;
}
