#include "mover_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/fault.h>
#include <replicad/io.h>

static int memfd(uint64_t bytes, void **ret_map)
{
	int fd = memfd_create("rig", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	if (ret_map) {
		*ret_map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		assert_true(*ret_map != MAP_FAILED);
	}
	return fd;
}

void rig_init(struct rig *r, uint64_t pages)
{
	struct rpl_mover_conf *c = &r->conf;
	struct rpl_ram_layout *l = &c->memory.layout;
	void *p;

	*r = (struct rig){ .pages = pages, .staging_bytes = 64 << 20, .rng = 42, .dirty_fd = -1, .cut_fd = -1,
			   .p = { .sock = -1 }, .b = { .sock = -1 } };
	rpl_uuid_random(&c->vm);
	(void)snprintf(c->vm_name, sizeof(c->vm_name), "rig");
	(void)snprintf(c->node, sizeof(c->node), "here");
	(void)snprintf(c->producer, sizeof(c->producer), "sim");
	(void)snprintf(c->machine, sizeof(c->machine), "sim-1");
	c->heartbeat_ms = 20;
	c->handshake_timeout_ms = RIG_WAIT_MS;
	c->arena_bytes = 16 << 20;
	c->delta_cache_bytes = 2 << 20;
	c->max_uncommitted = 4;
	l->count = 2;
	l->pages = pages;
	l->region[0] = (struct rpl_ram_region){ .pfn = 0, .pages = pages / 4 * 3, .file_page = 0 };
	l->region[1] = (struct rpl_ram_region){ .pfn = RIG_HIGH_PFN, .pages = pages - pages / 4 * 3,
						.file_page = pages / 4 * 3 };
	l->pfn_limit = RIG_HIGH_PFN + l->region[1].pages;
	r->p.ram_fd = memfd(pages * RPL_PAGE_SIZE, &p);
	r->p.ram = p;
	r->b.ram_fd = memfd(pages * RPL_PAGE_SIZE, &p);
	r->b.ram = p;
	r->dirty_fd = memfd((pages + 63) / 64 * 8, &p);
	r->dirty = p;
	r->state_len = 5000;
	c->memory.kind = RPL_MEMORY_SIM;
	r->memory_fd[0] = r->dirty_fd;
	r->n_memory_fds = 1;
}

static pid_t spawn(int sock, const char *fault)
{
	char path[4096];
	pid_t self = getpid(), pid;

	(void)snprintf(path, sizeof(path), "%s/replicad-mover", getenv("top_builddir") ? getenv("top_builddir") : ".");
	pid = fork();
	if (pid)
		return pid;
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != self || dup2(sock, STDIN_FILENO) < 0)
		_exit(126);
	if (fault)
		(void)setenv(RPL_FAULT_ENV, fault, 1);
	(void)execl(path, "replicad-mover", (char *)NULL);
	_exit(127);
}

static void start_side(struct rig *r, struct side *s, uint32_t role, const char *fault)
{
	struct rpl_mover_msg msg = { .size = sizeof(msg), .type = RPL_MOVER_CONF, .conf = r->conf };
	bool primary = role == RPL_ROLE_PRIMARY;
	static const char definition[] = "machine=sim-1\nram=whatever\n";
	static const char keys[] = "rig:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";
	uint64_t extra = primary ? RIG_STATE_MAX : r->staging_bytes;
	int sv[2], fds[RPL_FDS_MAX];
	void *p;

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
	s->sock = sv[0];
	s->pid = spawn(sv[1], fault);
	assert_true(s->pid > 0);
	(void)close(sv[1]);
	if (!s->counters) {
		s->counters_fd = memfd(sizeof(*s->counters), &p);
		s->counters = p;
		s->text_fd = memfd(RPL_MOVER_TEXT_SIZE, &p);
		s->text = p;
		s->extra_fd = memfd(extra, NULL);
	}
	memset(s->counters, 0, sizeof(*s->counters));
	memcpy(s->text, definition, sizeof(definition));
	msg.conf.role = role;
	msg.conf.keys_len = r->keys[!primary] ? r->keys_len[!primary] : sizeof(keys) - 1;
	memcpy(s->text + RPL_MOVER_TEXT_KEYS, r->keys[!primary] ? r->keys[!primary] : keys, msg.conf.keys_len);
	if (!msg.conf.definition_len)
		msg.conf.definition_len = sizeof(definition) - 1;
	msg.conf.staging_bytes = r->staging_bytes;
	if (!primary)
		msg.conf.memory = (struct rpl_memory_desc){ .kind = RPL_MEMORY_REPLICA, .layout = r->conf.memory.layout };
	msg.conf.n_memory_fds = primary ? 1 + r->n_memory_fds : 1;
	(void)snprintf(msg.conf.identity, sizeof(msg.conf.identity), "rig");
	fds[0] = s->counters_fd;
	fds[1] = s->text_fd;
	fds[2] = s->extra_fd;
	fds[3] = s->ram_fd;
	memcpy(fds + 4, r->memory_fd, r->n_memory_fds * sizeof(*fds));
	assert_int_equal(rpl_send_fds(s->sock, &msg, sizeof(msg), fds, 3 + msg.conf.n_memory_fds), 0);
	(void)side_expect(s, r->conf_refused ? RPL_MOVER_FAILED : RPL_MOVER_READY);
}

void rig_start_primary(struct rig *r)
{
	start_side(r, &r->p, RPL_ROLE_PRIMARY, r->fault[0]);
}

void rig_start_backup(struct rig *r)
{
	start_side(r, &r->b, RPL_ROLE_BACKUP, r->fault[1]);
}

void rig_start(struct rig *r)
{
	rig_start_primary(r);
	rig_start_backup(r);
}

void rig_stop_side(struct side *s)
{
	if (s->pid > 0) {
		(void)kill(s->pid, SIGKILL);
		(void)waitpid(s->pid, NULL, 0);
	}
	s->pid = 0;
	rpl_close(&s->sock);
}

static void release(struct side *s, uint64_t pages)
{
	rig_stop_side(s);
	(void)munmap(s->ram, pages * RPL_PAGE_SIZE);
	(void)close(s->ram_fd);
	if (!s->counters)
		return;
	(void)munmap(s->counters, sizeof(*s->counters));
	(void)munmap(s->text, RPL_MOVER_TEXT_SIZE);
	(void)close(s->counters_fd);
	(void)close(s->text_fd);
	(void)close(s->extra_fd);
}

void rig_fini(struct rig *r)
{
	release(&r->p, r->pages);
	release(&r->b, r->pages);
	(void)munmap((void *)r->dirty, (r->pages + 63) / 64 * 8);
	(void)close(r->dirty_fd);
	rpl_close(&r->cut_fd);
	for (int i = 0; i < RIG_EPOCHS; i++)
		free(r->image[i]);
}

/* ---- the guest */

uint64_t rig_random(struct rig *r, uint64_t below)
{
	uint64_t x;

	r->rng ^= r->rng << 13;
	r->rng ^= r->rng >> 7;
	r->rng ^= r->rng << 17;
	x = r->rng * UINT64_C(0x2545f4914f6cdd1d); /* or one draw's low bits would foretell the next one's */
	return (x ^ x >> 32) % below;
}

void rig_write(struct rig *r, uint64_t page)
{
	uint64_t *w = (uint64_t *)(r->p.ram + page * RPL_PAGE_SIZE);

	if (rig_random(r, 8) == 0)
		memset(w, 0, RPL_PAGE_SIZE);
	else
		for (int i = 0; i < 512; i += 1 + (int)rig_random(r, 100))
			w[i] = rig_random(r, UINT64_MAX);
	atomic_fetch_or(&r->dirty[page / 64], UINT64_C(1) << (page % 64));
}

void rig_run(struct rig *r, uint64_t writes)
{
	while (writes--)
		rig_write(r, rig_random(r, r->pages));
}

/* ---- the keepers */

void side_send(struct side *s, enum rpl_mover_type type, uint64_t epoch, uint64_t value, uint64_t generation,
	       const struct rpl_uuid *uuid, int fd)
{
	struct rpl_mover_msg msg = { .size = sizeof(msg), .type = type, .epoch = epoch, .value = value,
				     .generation = generation };

	if (uuid)
		msg.uuid = *uuid;
	(void)rpl_send_fds(s->sock, &msg, sizeof(msg), &fd, fd >= 0);
	if (fd >= 0)
		(void)close(fd);
}

static void count(struct side *s)
{
	const struct rpl_mover_msg *m = &s->last;

	if (m->type == RPL_MOVER_EPOCH_STAGED)
		s->staged = m->epoch;
	if (m->type == RPL_MOVER_ACKED)
		s->acked = m->epoch;
	if (m->type == RPL_MOVER_FOLDED)
		s->folded = m->epoch;
	s->full += m->type == RPL_MOVER_FULL;
}

bool side_receive(struct side *s, int ms)
{
	struct pollfd pfd = { .fd = s->sock, .events = POLLIN };

	if (s->sock < 0 || poll(&pfd, 1, ms) != 1)
		return false;
	if (rpl_recv_fds(s->sock, &s->last, sizeof(s->last), NULL, NULL) != (ssize_t)sizeof(s->last))
		return false;
	count(s);
	return true;
}

static bool progress(enum rpl_mover_type t)
{
	return t == RPL_MOVER_FOLDED || t == RPL_MOVER_FULL || t == RPL_MOVER_ACKED ||
	       t == RPL_MOVER_EPOCH_STAGED;
}

struct rpl_mover_msg *side_expect_past(struct side *s, enum rpl_mover_type type, enum rpl_mover_type past)
{
	uint64_t until = rpl_now_ns() + RIG_WAIT_MS * RPL_MS;

	while (rpl_now_ns() < until) {
		enum rpl_mover_type t;

		if (!side_receive(s, RIG_WAIT_MS))
			fail_msg("waited for %s: nothing came, or the mover is gone", rpl_mover_type_name(type));
		t = (enum rpl_mover_type)s->last.type;
		if (t == type)
			return &s->last;
		if (progress(t) || t == past)
			continue;
		fail_msg("waited for %s, got %s: %s", rpl_mover_type_name(type), rpl_mover_type_name(t),
			 t == RPL_MOVER_LINK_DOWN || t == RPL_MOVER_FAILED ? s->last.text : "");
	}
	fail_msg("waited for %s in vain", rpl_mover_type_name(type));
	return NULL;
}

struct rpl_mover_msg *side_expect(struct side *s, enum rpl_mover_type type)
{
	return side_expect_past(s, type, type);
}

bool side_gone(struct side *s)
{
	uint64_t until = rpl_now_ns() + RIG_WAIT_MS * RPL_MS;

	while (rpl_now_ns() < until) {
		struct pollfd pfd = { .fd = s->sock, .events = POLLIN };

		if (poll(&pfd, 1, RIG_WAIT_MS) == 1 && rpl_recv_fds(s->sock, &s->last, sizeof(s->last), NULL, NULL) <= 0)
			return true;
	}
	return false;
}

void rig_connect(struct rig *r)
{
	int sv[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv), 0);
	rpl_close(&r->cut_fd);
	r->cut_fd = fcntl(sv[0], F_DUPFD_CLOEXEC, 0);
	side_send(&r->p, RPL_MOVER_LINK, 0, 0, 0, NULL, sv[0]);
	side_send(&r->b, RPL_MOVER_LINK, 0, 0, 0, NULL, sv[1]);
	(void)side_expect_past(&r->p, RPL_MOVER_LINK_UP, RPL_MOVER_LINK_DOWN);
}

void rig_cut(struct rig *r)
{
	(void)shutdown(r->cut_fd, SHUT_RDWR);
}

void rig_new_session(struct rig *r)
{
	rpl_uuid_random(&r->session);
	r->epoch = 100;
	r->p.acked = r->b.staged = r->b.folded = 0;
}

struct rpl_mover_msg *rig_call(struct rig *r)
{
	struct rpl_mover_msg *m;

	rig_connect(r);
	side_send(&r->p, RPL_MOVER_SESSION, r->epoch + 1, 0, 7, &r->session, -1);
	m = side_expect_past(&r->b, RPL_MOVER_LINK_UP, RPL_MOVER_LINK_DOWN);
	assert_true(rpl_uuid_equal(&m->hello.session, &r->session));
	assert_int_equal(m->hello.generation, 7);
	assert_int_equal(m->value, strlen(r->b.text));
	assert_non_null(strstr(r->b.text, "machine=sim-1"));
	return m;
}

void rig_session(struct rig *r, bool fresh)
{
	struct rpl_mover_msg *m;

	if (fresh)
		rig_new_session(r);
	(void)rig_call(r);
	side_send(&r->b, RPL_MOVER_ACCEPT, 0, 0, 0, &r->session, -1);
	m = side_expect_past(&r->p, RPL_MOVER_PEER_READY, RPL_MOVER_ACKED);
	assert_int_equal(m->value, !fresh);
}

uint64_t rig_round(struct rig *r)
{
	side_send(&r->p, RPL_MOVER_ROUND, 0, 0, 0, NULL, -1);
	return side_expect(&r->p, RPL_MOVER_ROUND_DONE)->value;
}

void rig_stage(struct rig *r)
{
	uint64_t e = r->epoch + 1;
	uint8_t *state = malloc(r->state_len);

	assert_non_null(state);
	for (uint64_t i = 0; i < r->state_len; i++)
		state[i] = (uint8_t)(e * 31 + i * 7);
	assert_int_equal(pwrite(r->p.extra_fd, state, r->state_len, 0), r->state_len);
	free(state);
	if (!r->image[e % RIG_EPOCHS])
		r->image[e % RIG_EPOCHS] = malloc(r->pages * RPL_PAGE_SIZE);
	assert_non_null(r->image[e % RIG_EPOCHS]);
	memcpy(r->image[e % RIG_EPOCHS], r->p.ram, r->pages * RPL_PAGE_SIZE);
	r->epoch = e;
	side_send(&r->p, RPL_MOVER_STAGE, e, r->state_len, 0, NULL, -1);
	assert_int_equal(side_expect_past(&r->p, RPL_MOVER_STAGED, RPL_MOVER_ACKED)->epoch, e);
}

void rig_commit(struct rig *r)
{
	while (r->b.staged < r->epoch)
		(void)side_expect(&r->b, RPL_MOVER_EPOCH_STAGED);
	side_send(&r->b, RPL_MOVER_ACK, r->epoch, 0, 0, &r->session, -1);
	while (r->p.acked < r->epoch)
		assert_true(rpl_uuid_equal(&side_expect(&r->p, RPL_MOVER_ACKED)->uuid, &r->session));
	assert_int_equal(r->b.staged, r->epoch);
	assert_int_equal(r->p.acked, r->epoch);
}

void rig_wait_folded(struct rig *r, uint64_t epoch)
{
	uint64_t until = rpl_now_ns() + RIG_WAIT_MS * RPL_MS;

	while (rig_count(&r->b.counters->folded) < epoch) {
		assert_true(rpl_now_ns() < until);
		(void)usleep(200);
	}
}

void rig_protect(struct rig *r)
{
	rig_session(r, true);
	assert_int_equal(rig_round(r), r->pages);
	rig_run(r, 20);
	(void)rig_round(r);
	rig_stage(r);
	rig_commit(r);
	rig_wait_folded(r, r->epoch);
}

void rig_checkpoint(struct rig *r, uint64_t writes)
{
	rig_run(r, writes);
	rig_stage(r);
	rig_commit(r);
	rig_wait_folded(r, r->epoch);
	assert_int_equal(rig_differs(r, r->epoch), -1);
}

void rig_expect_text(const struct rpl_mover_msg *m, const char *part)
{
	if (!strstr(m->text, part))
		fail_msg("%s says '%s', expected '%s'", rpl_mover_type_name((enum rpl_mover_type)m->type), m->text, part);
}

int64_t rig_differs(struct rig *r, uint64_t epoch)
{
	for (uint64_t i = 0; i < r->pages; i++)
		if (memcmp(r->b.ram + i * RPL_PAGE_SIZE, r->image[epoch % RIG_EPOCHS] + i * RPL_PAGE_SIZE, RPL_PAGE_SIZE))
			return (int64_t)i;
	return -1;
}

uint64_t rig_count(_Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}
