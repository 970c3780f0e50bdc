/* replicad-mover: moves one VM's checkpoints in one direction, and may do nothing else.
 *
 * Started by a keeper with a socket as descriptor 0 (mover.h). It configures itself from the first message, gives up
 * every privilege (sandbox.h), says READY, and serves until the socket closes.
 */
#include <config.h>

#include "engine.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/fault.h>
#include <replicad/io.h>
#include <replicad/log.h>

#include "sandbox.h"

#define FIRST_FDS 3        /* counters, text, staging or state; the memory's descriptors follow */

/* ---- reports */

void mover_report_msg(struct mover *m, struct rpl_mover_msg *msg)
{
	struct pollfd pfd = { .fd = m->sock, .events = POLLOUT };
	int r;

	msg->size = sizeof(*msg);
	r = rpl_send_fds(m->sock, msg, sizeof(*msg), NULL, 0);
	if (r == -EAGAIN && poll(&pfd, 1, MOVER_REPORT_TIMEOUT_MS) == 1)
		r = rpl_send_fds(m->sock, msg, sizeof(*msg), NULL, 0);
	if (r == 0)
		return;
	/* Nobody decides any more: without a keeper there must be no mover. */
	rpl_log(RPL_LOG_ERROR, "report=%s error=\"%s\" next=exit", rpl_mover_type_name((enum rpl_mover_type)msg->type),
		strerror(-r));
	_exit(EXIT_FAILURE);
}

void mover_report(struct mover *m, enum rpl_mover_type type, uint64_t epoch, uint64_t value,
		  const struct rpl_uuid *uuid)
{
	struct rpl_mover_msg msg = { .type = type, .epoch = epoch, .value = value };

	if (uuid)
		msg.uuid = *uuid;
	mover_report_msg(m, &msg);
}

void mover_report_text(struct mover *m, enum rpl_mover_type type, uint64_t value, const char *text)
{
	struct rpl_mover_msg msg = { .type = type, .value = value };

	(void)snprintf(msg.text, sizeof(msg.text), "%s", text);
	mover_report_msg(m, &msg);
}

void mover_fail(struct mover *m, const struct rpl_err *err)
{
	rpl_log(RPL_LOG_ERROR, "error=\"%s\" next=exit", err->msg);
	mover_report_text(m, RPL_MOVER_FAILED, 0, err->msg);
	m->failed = true;
	if (m->loop)
		ev_break(m->loop, EVBREAK_ALL);
}

void mover_printable(char *dst, size_t size, const void *src, size_t len)
{
	const unsigned char *p = src;
	size_t n = 0;

	for (; n < len && n + 1 < size && p[n]; n++)
		dst[n] = (char)(p[n] >= ' ' && p[n] <= '~' ? p[n] : '?');
	dst[n] = '\0';
}

/* ---- commands */

static int take_link(struct mover *m, int *fds, size_t n, struct rpl_err *err)
{
	int r;

	if (n != 1)
		return rpl_fail(err, -EINVAL, "LINK with %zu descriptors, expected 1", n);
	r = connection_take(m, rpl_steal_fd(&fds[0]), err);
	if (r < 0) /* the connection's fault, not ours: it might be gone already */
		connection_failed(m, err);
	return 0;
}

/* What was said last (a HANDOVER, a FORGET) has to reach the peer: the connection ends in order first. The keeper's own
 * patience bounds this. */
static void quit(struct mover *m)
{
	m->quitting = true;
	connection_finish(m);
}

static int arm_fault(const struct rpl_mover_msg *msg, struct rpl_err *err)
{
	if (msg->value >= RPL_NFAULTS || !rpl_fault_in_mover((enum rpl_fault)msg->value) || msg->epoch == 0)
		return rpl_fail(err, -EINVAL, "FAULT %llu at passage %llu: no fault point of a mover",
				(unsigned long long)msg->value, (unsigned long long)msg->epoch);
	rpl_fault_arm((enum rpl_fault)msg->value, msg->epoch);
	return 0;
}

static int command(struct mover *m, const struct rpl_mover_msg *msg, int *fds, size_t n, struct rpl_err *err)
{
	if (msg->size != sizeof(*msg))
		return rpl_fail(err, -EPROTO, "a command of %u bytes, expected %zu: keeper and mover are of different builds",
				msg->size, sizeof(*msg));
	if (msg->type == RPL_MOVER_LINK)
		return take_link(m, fds, n, err);
	if (n)
		return rpl_fail(err, -EINVAL, "%s with %zu descriptors",
				rpl_mover_type_name((enum rpl_mover_type)msg->type), n);
	if (msg->type == RPL_MOVER_QUIT) {
		quit(m);
		return 0;
	}
	if (msg->type == RPL_MOVER_FAULT)
		return arm_fault(msg, err);
	return m->role->command(m, msg, err);
}

/* One at a time: they come one at a time, and if another waits, the loop calls again. */
static void on_commands(EV_P_ ev_io *w, int revents)
{
	struct mover *m = w->data;
	struct rpl_mover_msg msg = { 0 };
	int fds[RPL_FDS_MAX];
	size_t n = RPL_FDS_MAX;
	struct rpl_err err;
	ssize_t got = rpl_recv_fds(m->sock, &msg, sizeof(msg), fds, &n);
	int r;

	(void)revents;
	if (got == -EAGAIN)
		return;
	if (got <= 0) {
		ev_break(loop, EVBREAK_ALL);
		return;
	}
	if (got != (ssize_t)sizeof(msg))
		msg.size = (uint32_t)got;
	r = command(m, &msg, fds, n, &err);
	while (n)
		rpl_close(&fds[--n]);
	if (r < 0)
		mover_fail(m, &err);
}

/* ---- start */

static void *map_shared(int fd, size_t size, const char *what, struct rpl_err *err)
{
	struct stat st;
	void *p;

	if (fstat(fd, &st) < 0 || st.st_size < (off_t)size) {
		(void)rpl_fail(err, -EINVAL, "%s: smaller than %zu bytes", what, size);
		return NULL;
	}
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED) {
		(void)rpl_fail_errno(err, errno, "map %s", what);
		return NULL;
	}
	return p;
}

/* Three texts, each with its NUL inside keys_len. */
static int split_x509(struct mover *m, struct rpl_err *err)
{
	const char **const texts[] = { &m->x509_ca, &m->x509_cert, &m->x509_key };
	size_t left = m->conf.keys_len;
	const char *at = m->keys;

	for (size_t i = 0; i < RPL_ARRAY_LEN(texts); i++) {
		size_t len = strnlen(at, left);

		if (len == 0 || len == left)
			return rpl_fail(err, -EINVAL, "x509: text %zu of %zu (CA, certificate, key) is missing in %u bytes", i + 1,
					RPL_ARRAY_LEN(texts), m->conf.keys_len);
		*texts[i] = at;
		at += len + 1;
		left -= len + 1;
	}
	return left ? rpl_fail(err, -EINVAL, "x509: %zu bytes behind the key", left) : 0;
}

static int take_keys(struct mover *m, struct rpl_err *err)
{
	const struct rpl_mover_conf *c = &m->conf;

	if (c->tls == RPL_TLS_NONE)
		return 0;
	if (c->tls != RPL_TLS_PSK && c->tls != RPL_TLS_X509)
		return rpl_fail(err, -EINVAL, "tls mode %u: a mover knows none (%d), psk (%d) and x509 (%d)", c->tls, RPL_TLS_NONE,
				RPL_TLS_PSK, RPL_TLS_X509);
	if (c->keys_len == 0 || c->keys_len > RPL_MOVER_TEXT_SIZE - RPL_MOVER_TEXT_KEYS)
		return rpl_fail(err, -EINVAL, "%u bytes of keys: must be 1 to %d", c->keys_len,
				RPL_MOVER_TEXT_SIZE - RPL_MOVER_TEXT_KEYS);
	m->keys = malloc(c->keys_len);
	if (!m->keys)
		return rpl_fail(err, -ENOMEM, "no memory for keys");
	memcpy(m->keys, m->text + RPL_MOVER_TEXT_KEYS, c->keys_len);
	explicit_bzero(m->text + RPL_MOVER_TEXT_KEYS, RPL_MOVER_TEXT_SIZE - RPL_MOVER_TEXT_KEYS);
	return c->tls == RPL_TLS_X509 ? split_x509(m, err) : 0;
}

static void end_texts(struct rpl_mover_conf *c)
{
	c->vm_name[sizeof(c->vm_name) - 1] = c->node[sizeof(c->node) - 1] = '\0';
	c->identity[sizeof(c->identity) - 1] = c->peers[sizeof(c->peers) - 1] = '\0';
	c->machine[sizeof(c->machine) - 1] = c->producer[sizeof(c->producer) - 1] = '\0';
}

/* Everything that needs memory, paths or privilege; the descriptors are taken over. */
static int configure(struct mover *m, int *fds, size_t n, struct rpl_err *err)
{
	struct rpl_mover_conf *c = &m->conf;
	char ident[80];
	int r;

	end_texts(c);
	(void)snprintf(ident, sizeof(ident), "mover %s", c->vm_name);
	rpl_log_init(ident, RPL_LOG_INFO);
	if (n < FIRST_FDS || c->n_memory_fds > RPL_MEMORY_FDS_MAX || n != FIRST_FDS + c->n_memory_fds)
		return rpl_fail(err, -EINVAL, "CONF with %zu descriptors, expected %d and %u for the memory", n, FIRST_FDS,
				c->n_memory_fds);
	if (c->role != RPL_ROLE_PRIMARY && c->role != RPL_ROLE_BACKUP)
		return rpl_fail(err, -EINVAL, "CONF with role %u", c->role);
	m->counters = map_shared(fds[0], sizeof(*m->counters), "counters", err);
	m->text = m->counters ? map_shared(fds[1], RPL_MOVER_TEXT_SIZE, "text", err) : NULL;
	rpl_close(&fds[0]);
	rpl_close(&fds[1]);
	if (!m->text || take_keys(m, err) < 0)
		return err->code;
	m->memory = rpl_memory_new(&c->memory, fds + FIRST_FDS, c->n_memory_fds, err);
	for (size_t i = FIRST_FDS; i < n; i++)
		fds[i] = -1;
	if (!m->memory)
		return err->code;
	m->role = c->role == RPL_ROLE_PRIMARY ? &mover_primary : &mover_backup;
	r = connection_setup(m, err);
	return r < 0 ? r : m->role->setup(m, rpl_steal_fd(&fds[2]), err);
}

static int receive_conf(struct mover *m, struct rpl_err *err)
{
	struct rpl_mover_msg msg = { 0 };
	int fds[RPL_FDS_MAX];
	size_t n = RPL_FDS_MAX;
	ssize_t got = rpl_recv_fds(m->sock, &msg, sizeof(msg), fds, &n);
	int r;

	if (got < 0)
		return rpl_fail_errno(err, (int)-got, "receive CONF on descriptor 0");
	if (got != (ssize_t)sizeof(msg) || msg.size != sizeof(msg) || msg.type != RPL_MOVER_CONF) {
		while (n)
			rpl_close(&fds[--n]);
		return rpl_fail(err, -EPROTO, "the first message has %zd bytes (type %u), expected a CONF of %zu: keeper and mover "
				"are of different builds", got, msg.type, sizeof(msg));
	}
	m->conf = msg.conf;
	r = configure(m, fds, n, err);
	while (r < 0 && n)
		rpl_close(&fds[--n]);
	return r;
}

static int start(struct mover *m, struct rpl_err *err)
{
	int r = rpl_fault_init(getenv(RPL_FAULT_ENV), err);

	if (r == 0)
		r = receive_conf(m, err);
	if (r == 0)
		r = sandbox_enter(m->conf.run_as_uid, m->conf.run_as_gid, err);
	if (r == 0)
		r = rpl_nonblock(m->sock, true);
	return r;
}

static bool is_our_socket(int fd)
{
	int type = 0;
	socklen_t len = sizeof(type);

	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_SEQPACKET;
}

int main(int argc, char **argv)
{
	static struct mover mover;
	struct mover *m = &mover;
	struct rpl_err err = { 0 };

	(void)argc;
	rpl_log_init("mover", RPL_LOG_INFO);
	if (!is_our_socket(STDIN_FILENO)) {
		(void)fprintf(stderr, "%s: is started by replicad's keeper, with a socket as descriptor 0; see replicad-mover(8)\n",
			      argv[0]);
		return 2;
	}
	(void)close_range(STDERR_FILENO + 1, ~0u, 0);
	(void)signal(SIGPIPE, SIG_IGN);
	m->loop = ev_loop_new(EVBACKEND_EPOLL | EVFLAG_NOENV);
	if (!m->loop) {
		rpl_log(RPL_LOG_ERROR, "error=\"no event loop\"");
		return EXIT_FAILURE;
	}
	if (start(m, &err) < 0) {
		mover_fail(m, &err);
		return EXIT_FAILURE;
	}
	ev_io_init(&m->commands, on_commands, m->sock, EV_READ);
	m->commands.data = m;
	ev_io_start(m->loop, &m->commands);
	mover_report(m, RPL_MOVER_READY, 0, 0, NULL);
	ev_run(m->loop, 0);
	connection_fini(m);
	return m->failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#ifdef RPL_SANITIZED
/* The leak checker traces its own process, which the sandbox forbids. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "detect_leaks=0";
}
#endif
