/* movers_conf.c - what both roles tell their mover */
#include "keeper.h"

#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/io.h>

#define KEYS_BYTES_MAX (32 * 1024)
#define PEM_BYTES_MAX (20 * 1024) /* three of them fit into the mover's text area */
_Static_assert(3 * (PEM_BYTES_MAX + 1) <= RPL_MOVER_TEXT_SIZE - RPL_MOVER_TEXT_KEYS, "the area holds three texts");
#define HANDSHAKE_TIMEOUT_MS 5000
#define DEFAULT_USER "replicad-mover" /* conf/replicad.sysusers makes it */

static int put_psk(struct keeper *k, struct movers *movers, struct rpl_mover_conf *m, struct rpl_err *err)
{
	RPL_AUTO_FREE char *text = NULL;
	size_t len;
	int r = rpl_read_file(k->conf.keys, KEYS_BYTES_MAX, &text, &len, err);

	if (r < 0)
		return rpl_prefix(err, "keys for the link to %s", k->conf.peer_name);
	movers_put_keys(movers, 0, text, len);
	m->keys_len = (uint32_t)len;
	explicit_bzero(text, len);
	return 0;
}

/* One PEM file, with a NUL behind it. */
static int put_pem(struct keeper *k, struct movers *movers, const char *name, struct rpl_mover_conf *m, struct rpl_err *err)
{
	RPL_AUTO_FREE char *text = NULL;
	char path[PATH_MAX];
	size_t len;
	int r = rpl_path(path, sizeof(path), err, "%s/%s", k->conf.x509_dir, name);

	if (r == 0)
		r = rpl_read_file(path, PEM_BYTES_MAX, &text, &len, err);
	if (r < 0)
		return r;
	if (len == 0 || strlen(text) != len)
		r = rpl_fail(err, -EINVAL, "%s is no PEM file: %s", path, len ? "it holds a zero byte" : "it is empty");
	else
		movers_put_keys(movers, m->keys_len, text, len + 1);
	m->keys_len += (uint32_t)len + 1;
	explicit_bzero(text, len);
	return r;
}

/* The primary connects, so it is the client of TLS. QEMU's names, so that one directory serves both. */
static int put_x509(struct keeper *k, struct movers *movers, enum rpl_role role, struct rpl_mover_conf *m, struct rpl_err *err)
{
	bool client = role == RPL_ROLE_PRIMARY;
	int r = 0;

	if (!m->peers[0])
		r = rpl_fail(err, -EINVAL, "with tls = x509 any certificate of the authority would do: name the peer of %s in a [peer] "
			     "section", k->conf.vm);
	if (r == 0)
		r = put_pem(k, movers, "ca-cert.pem", m, err);
	if (r == 0)
		r = put_pem(k, movers, client ? "client-cert.pem" : "server-cert.pem", m, err);
	if (r == 0)
		r = put_pem(k, movers, client ? "client-key.pem" : "server-key.pem", m, err);
	return r < 0 ? rpl_prefix(err, "certificates for the link to %s", k->conf.peer_name) : 0;
}

static int put_keys(struct keeper *k, struct movers *movers, enum rpl_role role, struct rpl_mover_conf *m, struct rpl_err *err)
{
	if (m->tls == RPL_TLS_PSK)
		return put_psk(k, movers, m, err);
	return m->tls == RPL_TLS_X509 ? put_x509(k, movers, role, m, err) : 0;
}

/* Without a name: a user of ours if the system has it, and we may become it. */
static int put_user(const char *name, struct rpl_mover_conf *m, struct rpl_err *err)
{
	bool asked = *name != '\0';
	struct passwd *pw;

	if (!asked && geteuid() != 0)
		return 0;
	pw = getpwnam(asked ? name : DEFAULT_USER);
	if (!pw && asked)
		return rpl_fail(err, -ENOENT, "mover_user: there is no user '%s'", name);
	if (!pw)
		return 0;
	if (pw->pw_uid == 0 || pw->pw_gid == 0)
		return rpl_fail(err, -EINVAL, "mover_user: '%s' is user %u, group %u: a mover's user must not be root", pw->pw_name,
				(unsigned)pw->pw_uid, (unsigned)pw->pw_gid);
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

int keeper_check_caller(const struct keeper *k, int fd, struct rpl_err *err)
{
	struct sockaddr_storage peer = { 0 };
	socklen_t len = sizeof(peer);

	if (getpeername(fd, (struct sockaddr *)&peer, &len) < 0)
		return rpl_fail_errno(err, errno, "link: the peer of the connection");
	return keeper_cleartext_check(k, (struct sockaddr *)&peer, err);
}

int keeper_mover_conf(struct keeper *k, struct movers *movers, enum rpl_role role, struct rpl_mover_conf *ret,
		      struct rpl_err *err)
{
	const struct keeper_conf *c = &k->conf;
	struct rpl_mover_conf m = {
		.role = role, .tls = c->tls, .vm = c->core.vm, .heartbeat_ms = c->heartbeat_ms,
		.handshake_timeout_ms = HANDSHAKE_TIMEOUT_MS, .arena_bytes = (uint64_t)c->arena_mb << 20,
		.delta_cache_bytes = (uint64_t)c->delta_cache_mb << 20, .max_uncommitted = c->core.max_uncommitted,
	};
	int r;

	(void)snprintf(m.vm_name, sizeof(m.vm_name), "%s", c->vm);
	(void)snprintf(m.node, sizeof(m.node), "%s", c->core.self);
	(void)snprintf(m.identity, sizeof(m.identity), "%s", c->identity);
	(void)snprintf(m.peers, sizeof(m.peers), "%s", c->peer_identity);
	r = put_keys(k, movers, role, &m, err);
	if (r == 0)
		r = put_user(c->mover_user, &m, err);
	if (r == 0)
		*ret = m;
	return r;
}
