/* sim.c - see sim.h */
#include "sim.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <replicad/auto.h>

#include "guest_impl.h"

#define FIRST_HIGH_PFN (UINT64_C(1) << (32 - RPL_PAGE_SHIFT))
#define STATE_MAGIC "rplSIM01"

enum pattern { UNIFORM, HOT, SEQUENTIAL };
static const char *const pattern_names[] = { "uniform", "hot", "sequential" };

struct sim_conf {
	uint64_t ram_mb, high_mb, rate, seed;
	enum pattern pattern;
};

/* The device state; also what a page must agree with. */
struct sim_state {
	char magic[8];
	struct rpl_uuid uuid;
	uint64_t seed, random, writes, next, sum;
};

/* The first bytes of a written page; a pattern made from them fills the rest. A page of zeroes was never written. */
struct page_head {
	uint64_t pfn, version;
};

struct sim {
	struct rpl_guest *g;
	struct sim_conf conf;
	struct sim_state s;
	uint64_t ticks_owed; /* thousandths of a write */
	ev_timer tick;
	int ram_fd, dirty_fd;
	uint8_t *ram;
	_Atomic uint64_t *dirty;
	size_t bytes, dirty_bytes;
	bool standby;
};

static struct sim *sim_of(const struct rpl_guest *g)
{
	return g->priv;
}

/* ---- what it writes */

static uint64_t mix(uint64_t x) /* splitmix64 */
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static uint64_t random_next(struct sim *m)
{
	m->s.random += UINT64_C(0x9e3779b97f4a7c15);
	return mix(m->s.random);
}

static uint64_t pages_of(const struct sim *m)
{
	return m->bytes >> RPL_PAGE_SHIFT;
}

static uint64_t choose_page(struct sim *m)
{
	uint64_t n = pages_of(m), r = random_next(m);

	if (m->conf.pattern == SEQUENTIAL)
		return m->s.next++ % n;
	if (m->conf.pattern == HOT && r % 10)
		return (r / 10) % (n / 10 + 1);
	return (r / 10) % n;
}

static uint64_t page_sum(const struct page_head *h)
{
	return h->version ? mix(h->pfn * UINT64_C(0x100000001b3) + h->version) : 0;
}

static uint64_t page_word(const struct page_head *h, size_t i)
{
	return mix(h->pfn ^ (h->version << 40) ^ i);
}

static void fill_page(uint8_t *page, const struct page_head *h)
{
	memcpy(page, h, sizeof(*h));
	for (size_t i = sizeof(*h) / 8; i < RPL_PAGE_SIZE / 8; i++) {
		uint64_t w = page_word(h, i);

		memcpy(page + i * 8, &w, 8);
	}
}

static bool page_is_whole(const uint8_t *page, uint64_t file_page)
{
	struct page_head h;

	memcpy(&h, page, sizeof(h));
	if (h.version == 0)
		return page[0] == 0 && memcmp(page, page + 1, RPL_PAGE_SIZE - 1) == 0;
	if (h.pfn != file_page)
		return false;
	for (size_t i = sizeof(h) / 8; i < RPL_PAGE_SIZE / 8; i++) {
		uint64_t w = page_word(&h, i);

		if (memcmp(page + i * 8, &w, 8) != 0)
			return false;
	}
	return true;
}

static void write_page(struct sim *m)
{
	uint64_t p = choose_page(m);
	uint8_t *page = m->ram + (p << RPL_PAGE_SHIFT);
	struct page_head h;

	memcpy(&h, page, sizeof(h));
	m->s.sum -= page_sum(&h);
	h.pfn = p;
	h.version = ++m->s.writes;
	m->s.sum += page_sum(&h);
	fill_page(page, &h);
	/* after the write: a take in between reports it next time, never too early */
	atomic_fetch_or(&m->dirty[p / 64], UINT64_C(1) << (p % 64));
}

void rpl_sim_write(struct rpl_guest *g, uint64_t n)
{
	while (n--)
		write_page(sim_of(g));
}

uint64_t rpl_sim_writes(const struct rpl_guest *g)
{
	return sim_of(g)->s.writes;
}

uint64_t rpl_sim_bad_pages(const struct rpl_guest *g)
{
	struct sim *m = sim_of(g);
	uint64_t bad = 0, sum = 0;

	for (uint64_t p = 0; p < pages_of(m); p++) {
		const uint8_t *page = m->ram + (p << RPL_PAGE_SHIFT);
		struct page_head h;

		if (!page_is_whole(page, p))
			bad++;
		memcpy(&h, page, sizeof(h));
		sum += page_sum(&h);
	}
	return bad ? bad : sum != m->s.sum; /* whole, but at least one is not the last version */
}

static void on_tick(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct sim *m = w->data;

	(void)loop;
	(void)revents;
	m->ticks_owed += m->conf.rate * SIM_TICK_MS;
	rpl_sim_write(m->g, m->ticks_owed / 1000);
	m->ticks_owed %= 1000;
}

static void set_running(struct sim *m, bool run)
{
	ev_timer_stop(m->g->loop, &m->tick);
	if (!run)
		return;
	ev_timer_init(&m->tick, on_tick, SIM_TICK_MS / 1000., SIM_TICK_MS / 1000.);
	m->tick.data = m;
	ev_timer_start(m->g->loop, &m->tick);
}

/* ---- configuration */

static int parse_pattern(const char *value, enum pattern *ret)
{
	for (size_t i = 0; i < RPL_ARRAY_LEN(pattern_names); i++)
		if (strcmp(value, pattern_names[i]) == 0) {
			*ret = (enum pattern)i;
			return 0;
		}
	return -EINVAL;
}

static int parse_one(struct sim_conf *c, const char *item, struct rpl_err *err)
{
	char key[32], value[32];
	unsigned long long n;
	bool number;

	if (sscanf(item, "%31[^=]=%31s", key, value) != 2)
		return rpl_fail(err, -EINVAL, "sim '%.60s': not key=value", item);
	number = sscanf(value, "%llu", &n) == 1;
	if (strcmp(key, "pattern") == 0 && parse_pattern(value, &c->pattern) == 0)
		return 0;
	if (strcmp(key, "ram_mb") == 0 && number && n > 0 && n <= 3072)
		c->ram_mb = n;
	else if (strcmp(key, "high_mb") == 0 && number && n <= SIM_RAM_MB_MAX)
		c->high_mb = n;
	else if (strcmp(key, "rate") == 0 && number && n <= SIM_RATE_MAX)
		c->rate = n;
	else if (strcmp(key, "seed") == 0 && number)
		c->seed = n;
	else
		return rpl_fail(err, -EINVAL, "sim '%.60s': unknown key, or not a possible value", item);
	return 0;
}

static int parse_conf(struct sim_conf *c, const char *text, struct rpl_err *err)
{
	char copy[256], *save = NULL;

	if ((size_t)snprintf(copy, sizeof(copy), "%s", text) >= sizeof(copy))
		return rpl_fail(err, -EINVAL, "sim: more than %zu bytes of configuration", sizeof(copy));
	for (char *item = strtok_r(copy, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
		int r = parse_one(c, item, err);

		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- RAM */

static int make_shared(const char *name, size_t bytes, int *ret_fd, void **ret, struct rpl_err *err)
{
	*ret_fd = memfd_create(name, MFD_CLOEXEC);
	if (*ret_fd < 0 || ftruncate(*ret_fd, (off_t)bytes) < 0)
		return rpl_fail_errno(err, errno, "sim: memfd of %zu bytes", bytes);
	*ret = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *ret_fd, 0);
	if (*ret == MAP_FAILED) {
		*ret = NULL;
		return rpl_fail_errno(err, errno, "sim: map %zu bytes", bytes);
	}
	return 0;
}

static int make_ram(struct sim *m, struct rpl_err *err)
{
	void *p = NULL;
	int r;

	m->bytes = (m->conf.ram_mb + m->conf.high_mb) << 20;
	m->dirty_bytes = RPL_BITMAP_WORDS(pages_of(m)) * sizeof(uint64_t);
	r = make_shared("sim-ram", m->bytes, &m->ram_fd, &p, err);
	m->ram = p;
	if (r < 0)
		return r;
	r = make_shared("sim-dirty", m->dirty_bytes, &m->dirty_fd, &p, err);
	m->dirty = r < 0 ? NULL : p;
	return r;
}

static int describe(struct sim *m, struct rpl_err *err)
{
	struct rpl_guest_info *i = &m->g->info;
	char uuid[RPL_UUID_TEXT];

	memset(i, 0, sizeof(*i));
	i->uuid = m->s.uuid;
	(void)snprintf(i->producer, sizeof(i->producer), "sim 1");
	(void)snprintf(i->machine, sizeof(i->machine), "sim");
	i->ram_bytes = m->bytes;
	rpl_assert(rpl_layout_add(&i->layout, 0, m->conf.ram_mb << (20 - RPL_PAGE_SHIFT), 0));
	if (m->conf.high_mb)
		rpl_assert(rpl_layout_add(&i->layout, FIRST_HIGH_PFN, m->conf.high_mb << (20 - RPL_PAGE_SHIFT),
					  m->conf.ram_mb << (20 - RPL_PAGE_SHIFT)));
	if (asprintf(&i->definition, "machine=sim\nproducer=sim 1\nram.high_mb=%" PRIu64 "\nram.low_mb=%" PRIu64 "\nuuid=%s\n",
		     m->conf.high_mb, m->conf.ram_mb, rpl_uuid_text(&i->uuid, uuid)) < 0) {
		i->definition = NULL;
		return rpl_fail(err, -ENOMEM, "sim: no memory");
	}
	return 0;
}

/* ---- ops */

static int sim_init(struct rpl_guest *g, struct rpl_err *err)
{
	struct sim *m = calloc(1, sizeof(*m));
	uint64_t half;
	int r;

	g->priv = m;
	if (!m)
		return rpl_fail(err, -ENOMEM, "%s: no memory", g->conf.name);
	m->g = g;
	m->ram_fd = m->dirty_fd = -1;
	ev_init(&m->tick, on_tick);
	r = parse_conf(&m->conf, SIM_DEFAULT, err);
	if (r == 0 && g->conf.sim)
		r = parse_conf(&m->conf, g->conf.sim, err);
	if (r < 0)
		return r;
	memcpy(m->s.magic, STATE_MAGIC, sizeof(m->s.magic));
	m->s.seed = m->s.random = m->conf.seed;
	half = mix(m->conf.seed);
	memcpy(m->s.uuid.b, &half, 8); /* known from the seed, so that both sides agree */
	half = mix(half);
	memcpy(m->s.uuid.b + 8, &half, 8);
	return make_ram(m, err);
}

static int sim_attach(struct rpl_guest *g, struct rpl_err *err)
{
	int r = describe(sim_of(g), err);

	if (r < 0)
		return r;
	g->info.running = true;
	set_running(sim_of(g), true);
	rpl_guest_op_done(g, 0, NULL);
	return 0;
}

static int sim_pause(struct rpl_guest *g, struct rpl_err *err)
{
	(void)err; /* cannot fail */
	set_running(sim_of(g), false);
	rpl_guest_op_done(g, 0, NULL);
	return 0;
}

static int sim_save(struct rpl_guest *g, struct rpl_err *err)
{
	const struct sim_state *s = &sim_of(g)->s;

	if (pwrite(g->state_fd, s, sizeof(*s), 0) != (ssize_t)sizeof(*s) || ftruncate(g->state_fd, sizeof(*s)) < 0)
		return rpl_fail_errno(err, errno, "%s: save", g->conf.name);
	g->state_len = sizeof(*s);
	rpl_guest_op_done(g, 0, NULL);
	return 0;
}

static int sim_resume(struct rpl_guest *g, struct rpl_err *err)
{
	(void)err; /* cannot fail */
	set_running(sim_of(g), true);
	rpl_guest_op_done(g, 0, NULL);
	return 0;
}

static int sim_announce(struct rpl_guest *g, struct rpl_err *err)
{
	(void)err; /* it has no network */
	rpl_guest_op_done(g, 0, NULL);
	return 0;
}

static int sim_standby(struct rpl_guest *g, struct rpl_err *err)
{
	int r = describe(sim_of(g), err);

	if (r < 0)
		return r;
	sim_of(g)->standby = true;
	rpl_guest_op_done(g, 0, NULL);
	return 0;
}

static int sim_activate(struct rpl_guest *g, int state_fd, size_t len, struct rpl_err *err)
{
	struct sim *m = sim_of(g);
	struct sim_state s;
	uint64_t bad;

	if (len != sizeof(s) || pread(state_fd, &s, sizeof(s), 0) != (ssize_t)sizeof(s) ||
	    memcmp(s.magic, STATE_MAGIC, sizeof(s.magic)) != 0 || !rpl_uuid_equal(&s.uuid, &m->s.uuid))
		return rpl_fail(err, -EBADMSG, "%s: activate: %zu bytes are no device state of this sim guest", g->conf.name, len);
	m->s = s;
	bad = rpl_sim_bad_pages(g);
	if (bad)
		return rpl_fail(err, -EIO, "%s: activate: %" PRIu64 " pages of the replica are not what the device state says",
				g->conf.name, bad);
	m->standby = false;
	set_running(m, true);
	rpl_guest_op_done(g, 0, NULL);
	return 0;
}

static int sim_quit(struct rpl_guest *g, struct rpl_err *err)
{
	(void)err; /* cannot fail */
	set_running(sim_of(g), false);
	rpl_guest_op_done(g, 0, NULL);
	return 0;
}

static void sim_abandon(struct rpl_guest *g)
{
	(void)g; /* everything ends at once */
}

static int sim_memory(struct rpl_guest *g, struct rpl_memory_desc *ret, int *fds, size_t *ret_n, struct rpl_err *err)
{
	struct sim *m = sim_of(g);
	bool compare = g->conf.tracker && strcmp(g->conf.tracker, "compare") == 0;

	ret->layout = g->info.layout;
	ret->audit = g->conf.audit;
	ret->kind = m->standby ? RPL_MEMORY_REPLICA : compare ? RPL_MEMORY_COMPARE : RPL_MEMORY_SIM;
	*ret_n = 0;
	fds[0] = dup(m->ram_fd);
	fds[1] = ret->kind == RPL_MEMORY_SIM ? dup(m->dirty_fd) : -1;
	if (fds[0] < 0 || (ret->kind == RPL_MEMORY_SIM && fds[1] < 0)) {
		rpl_close(&fds[0]);
		return rpl_fail_errno(err, errno, "%s: memory", g->conf.name);
	}
	*ret_n = ret->kind == RPL_MEMORY_SIM ? 2 : 1;
	for (size_t i = 0; ret->kind == RPL_MEMORY_SIM && i < m->dirty_bytes / sizeof(uint64_t); i++)
		atomic_store(&m->dirty[i], 0);
	return 0;
}

static pid_t sim_pid(const struct rpl_guest *g)
{
	(void)g; /* it has no process of its own */
	return 0;
}

static void sim_fini(struct rpl_guest *g, bool keep_standby)
{
	struct sim *m = sim_of(g);

	(void)keep_standby; /* it lives in this process */
	if (!m)
		return;
	ev_timer_stop(g->loop, &m->tick);
	if (m->ram)
		(void)munmap(m->ram, m->bytes);
	if (m->dirty)
		(void)munmap((void *)m->dirty, m->dirty_bytes);
	rpl_close(&m->ram_fd);
	rpl_close(&m->dirty_fd);
	free(m);
}

void rpl_sim_event(struct rpl_guest *g, enum rpl_guest_event event)
{
	if (event != RPL_GUEST_REBOOT && event != RPL_GUEST_CHANGED)
		set_running(sim_of(g), event == RPL_GUEST_RESUMED);
	rpl_guest_tell(g, event, "simulated");
}

const struct rpl_guest_ops rpl_guest_sim = {
	.name = "sim",
	.init = sim_init,
	.attach = sim_attach,
	.pause = sim_pause,
	.save = sim_save,
	.resume = sim_resume,
	.announce = sim_announce,
	.quit = sim_quit,
	.standby = sim_standby,
	.activate = sim_activate,
	.abandon = sim_abandon,
	.memory = sim_memory,
	.pid = sim_pid,
	.fini = sim_fini,
};
