/* standby: the backup's half alone, on a real Xen host: a saved guest becomes a replica, and the replica a guest
 *
 *   standby REPLICA CONFIG IMAGE [PAGES]
 *
 * IMAGE is a plain stream of `xl save` (behind xl's header). What a keeper and its mover do with the epochs of a session is done
 * with it: a standby of kind REPLICA (memfd, domain, auto) for the configuration CONFIG, its memory laid out and filled by one
 * opening of the memory, the PAGES first pages (default 400) once more by another, as the activator does with the last
 * epoch, and the activation. One line of JSON tells what took how long; "running_ms" is the moment that counts for a client: the
 * domain's processors are let go. Everything behind it competes with the guest for the host. With $STANDBY_AHEAD seconds the
 * activation is begun so long before (guest.h: rpl_guest_prepare()), and there is no last epoch.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ev.h>
#include <xenctrl.h>
#include <xen/hvm/params.h>

#include <replicad/clock.h>
#include <replicad/guest.h>
#include <replicad/io.h>
#include <replicad/log.h>
#include <replicad/memory.h>
#include <replicad/stream.h>
#include <replicad/xen.h>

#define XL_HEADER 48u   /* with the length of what follows it in its last four bytes */
#define PAGES_DEFAULT 400
#define GAP 64u         /* frames: a hole up to so large does not split a region */
#define BATCH 64
#define DOMAINS_MAX 64
#define LOOK_S 0.005    /* while it is activated */
#define TEXT_MAX 32768

static struct {
	struct ev_loop *loop;
	struct rpl_guest *guest;
	const char *config, *replica;
	uint32_t domid;
	/* the image, taken apart */
	const uint8_t *map, *end;
	const void **page;      /* by frame; NULL: none with contents */
	uint8_t *type;          /* by frame */
	uint64_t frames;
	uint8_t *state;
	size_t state_len;
	int state_fd;
	bool pv;
	uint64_t rings[2];      /* of xenstore and console */
	struct rpl_ram_layout layout;
	/* moments */
	uint64_t began, stood, laid_out, filled, folded, told, running, activated;
	size_t again;
	xc_interface *xc;
	ev_timer look;
} run;

RPL_NORETURN static void die(const char *what, const char *why)
{
	(void)fprintf(stderr, "standby: %s: %s\n", what, why);
	exit(EXIT_FAILURE);
}

static uint32_t le32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static uint64_t le64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

/* ---- the image */

static void keep(const uint8_t *from, size_t len)
{
	memcpy(run.state + run.state_len, from, len);
	run.state_len += len;
}

static void need_frames(uint64_t n)
{
	if (n <= run.frames)
		return;
	run.page = realloc(run.page, n * sizeof(*run.page));
	run.type = realloc(run.type, n);
	if (!run.page || !run.type)
		die("image", "no memory");
	for (uint64_t i = run.frames; i < n; i++) {
		run.page[i] = NULL;
		run.type[i] = RPL_PAGE_XTAB;
	}
	run.frames = n;
}

static void take_pages(const uint8_t *body)
{
	uint32_t n = le32(body);
	const uint8_t *page = body + 8 + (size_t)n * 8;

	for (uint32_t i = 0; i < n; i++) {
		uint64_t d = le64(body + 8 + (size_t)i * 8), pfn = d & UINT64_C(0xfffffffffffff);
		unsigned type = (unsigned)(d >> 60);

		need_frames(pfn + 1);
		run.type[pfn] = (uint8_t)type;
		if (!rpl_page_type_has_data(type))
			continue;
		run.page[pfn] = page;
		page += RPL_PAGE_SIZE;
	}
}

static void take_params(const uint8_t *body)
{
	uint32_t n = le32(body);

	for (uint32_t i = 0; i < n; i++) {
		uint64_t index = le64(body + 8 + (size_t)i * 16), value = le64(body + 16 + (size_t)i * 16);

		if (index == HVM_PARAM_STORE_PFN || index == HVM_PARAM_CONSOLE_PFN)
			run.rings[index == HVM_PARAM_CONSOLE_PFN] = value;
	}
}

/* vCPU 0 of a PV guest names its start info, which names the rings. The page may come later in the stream. */
static uint64_t start_info_pfn;

static void take_context(const uint8_t *body)
{
	if (le32(body) == 0)
		start_info_pfn = le64(body + 8 + offsetof(vcpu_guest_context_t, user_regs.rdx));
}

static void find_pv_rings(void)
{
	start_info_t si;

	if (start_info_pfn >= run.frames || !run.page[start_info_pfn])
		die("image", "its start info is not in it");
	memcpy(&si, run.page[start_info_pfn], sizeof(si));
	run.rings[0] = si.store_mfn;
	run.rings[1] = si.console.domU.mfn;
}

/* One record; its type. */
static uint32_t take_record(const uint8_t **at, bool libxc)
{
	const uint8_t *p = *at;
	uint32_t type = le32(p), len = le32(p + 4);

	*at += 8 + ((len + 7) & ~7u);
	if (*at > run.end)
		die("image", "it ends inside a record");
	if (libxc && type == RPL_LIBXC_PAGE_DATA)
		take_pages(p + 8);
	else
		keep(p, (size_t)(*at - p));
	if (libxc && type == RPL_LIBXC_HVM_PARAMS)
		take_params(p + 8);
	if (libxc && type == RPL_LIBXC_X86_PV_VCPU_BASIC)
		take_context(p + 8);
	if (libxc && type == RPL_LIBXC_X86_PV_P2M_FRAMES) {
		run.pv = true;
		need_frames((uint64_t)le32(p + 12) + 1);
	}
	return type;
}

static void read_image(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	const uint8_t *p;

	if (fd < 0 || fstat(fd, &st) < 0)
		die(path, strerror(errno));
	p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	run.state = malloc(RPL_GUEST_STATE_MAX);
	if (p == MAP_FAILED || !run.state || st.st_size < 4096)
		die(path, "cannot be an image");
	run.map = p;
	run.end = p + st.st_size;
	p += XL_HEADER + le32(p + XL_HEADER - 4);
	keep(p, 16 + 8 + 24 + 16); /* libxl header, LIBXC_CONTEXT, image and domain header */
	p += 16 + 8 + 24 + 16;
	while (take_record(&p, true) != RPL_LIBXC_END)
		;
	while (take_record(&p, false) != RPL_LIBXL_END)
		;
	if (run.pv)
		find_pv_rings();
	run.state_fd = memfd_create("state", MFD_CLOEXEC);
	if (run.state_fd < 0 || rpl_write_full(run.state_fd, run.state, run.state_len) < 0)
		die("device state", strerror(errno));
}

static void find_layout(void)
{
	uint64_t first = 0, end = 0;

	if (run.pv) { /* a PV guest's layout is a whole number of pages of its p2m */
		need_frames((run.frames + 511) / 512 * 512);
		(void)rpl_layout_add(&run.layout, 0, run.frames, 0);
	}
	for (uint64_t pfn = 0; !run.pv && pfn < run.frames; pfn++) {
		if (run.type[pfn] == RPL_PAGE_XTAB)
			continue;
		if (end && pfn - end >= GAP) {
			if (!rpl_layout_add(&run.layout, first, end - first, run.layout.pages))
				die("image", "its memory has more pieces than a layout can have");
			end = 0;
		}
		if (!end)
			first = pfn;
		end = pfn + 1;
	}
	if (end && !rpl_layout_add(&run.layout, first, end - first, run.layout.pages))
		die("image", "its memory has more pieces than a layout can have");
	if (!rpl_xen_layout_add_types(&run.layout))
		die("image", "no room for a type table");
}

/* ---- what a primary's definition would be: ours, with what is said of the memory */

static const char *after(const char *at, const char *key)
{
	while (*at && strcmp(at, key) < 0)
		at = strchr(at, '\n') + 1;
	return at;
}

static char *definition(void)
{
	static char text[TEXT_MAX];
	const char *ours = rpl_guest_info(run.guest)->definition, *one = after(ours, "layout="), *two = after(one, "rings=");
	char layout[RPL_XEN_LAYOUT_TEXT], rings[64];

	if (!rpl_xen_layout_text(&run.layout, layout, sizeof(layout)))
		die("layout", "too long");
	(void)snprintf(rings, sizeof(rings), "rings=0x%" PRIx64 ",0x%" PRIx64 "\n", run.rings[0], run.rings[1]);
	(void)snprintf(text, sizeof(text), "%.*slayout=%s\n%.*s%s%s", (int)(one - ours), ours, layout, (int)(two - one), one, rings, two);
	return text;
}

/* ---- filling */

/* NULL: it is not there yet. */
static struct rpl_memory *open_memory(void)
{
	struct rpl_memory_desc desc;
	int fds[RPL_MEMORY_FDS_MAX];
	struct rpl_err err = { 0 };
	struct rpl_memory *m;
	size_t n;
	int r = rpl_guest_memory(run.guest, &desc, fds, &n, &err);

	if (r == -EAGAIN)
		return NULL;
	if (r < 0)
		die("memory", err.msg);
	m = rpl_memory_new(&desc, fds, n, &err);
	if (!m)
		die("memory", err.msg);
	return m;
}

static void store(struct rpl_memory *m, const uint64_t *pfns, const void *const *pages, size_t n)
{
	struct rpl_err err = { 0 };

	if (n && rpl_memory_copy_in(m, pfns, pages, n, &err) < 0)
		die("store", err.msg);
}

/* At most `max` pages with contents, and the type table. */
static void fill(struct rpl_memory *m, uint64_t max)
{
	uint64_t pfns[BATCH], guest = rpl_xen_guest_pages(&run.layout);
	const void *pages[BATCH];
	uint8_t table[RPL_PAGE_SIZE];
	const void *content = table;
	size_t n = 0;

	for (uint64_t p = 0; p < guest && max; p++) {
		uint64_t pfn = 0;

		(void)rpl_layout_pfn(&run.layout, p, &pfn);
		pfns[n] = pfn;
		pages[n++] = run.page[pfn];
		max -= run.page[pfn] != NULL;
		if (n < BATCH)
			continue;
		store(m, pfns, pages, n);
		n = 0;
	}
	store(m, pfns, pages, n);
	for (uint64_t p = 0; p < guest; p++) {
		uint64_t pfn = 0, table_pfn = rpl_xen_type_pfn(&run.layout, p);

		(void)rpl_layout_pfn(&run.layout, p, &pfn);
		table[p % RPL_PAGE_SIZE] = run.type[pfn];
		if (p % RPL_PAGE_SIZE == RPL_PAGE_SIZE - 1 || p == guest - 1)
			store(m, &table_pfn, &content, 1);
	}
}

/* ---- the story */

static unsigned ms(uint64_t from, uint64_t to)
{
	return (unsigned)((to - from) / 1000000);
}

/* Is there a domain with the guest's uuid, and not paused? */
static void on_look(EV_P_ ev_timer *w, int revents)
{
	static xc_domaininfo_t all[DOMAINS_MAX];
	const struct rpl_uuid *uuid = &rpl_guest_info(run.guest)->uuid;
	int n = xc_domain_getinfolist(run.xc, 1, DOMAINS_MAX, all);

	(void)revents;
	for (int i = 0; i < n; i++) {
		if (memcmp(all[i].handle, uuid->b, sizeof(uuid->b)) != 0 || all[i].flags & (XEN_DOMINF_paused | XEN_DOMINF_dying))
			continue;
		run.running = rpl_now_ns();
		ev_timer_stop(EV_A_ w);
		return;
	}
}

static void activate(void)
{
	run.told = rpl_now_ns();
	ev_timer_init(&run.look, on_look, LOOK_S, LOOK_S);
	ev_timer_start(run.loop, &run.look);
	rpl_guest_activate(run.guest, run.state_fd, run.state_len);
}

static void take_over(EV_P_ ev_timer *w, int revents)
{
	(void)loop;
	(void)w;
	(void)revents;
	run.folded = rpl_now_ns();
	rpl_log(RPL_LOG_INFO, "activation=begins");
	activate();
}

static void begin_ahead(const char *seconds)
{
	static ev_timer later;
	struct rpl_err err = { 0 };

	if (rpl_guest_prepare(run.guest, run.state_fd, run.state_len, &err) < 0)
		die("prepare", err.msg);
	ev_now_update(run.loop);
	ev_timer_init(&later, take_over, atof(seconds), 0.);
	ev_timer_start(run.loop, &later);
}

static void laid_out(void)
{
	const char *ahead = getenv("STANDBY_AHEAD");
	struct rpl_memory *m = open_memory();

	if (!m)
		return;
	run.laid_out = rpl_now_ns();
	fill(m, UINT64_MAX);
	rpl_memory_free(m);
	run.filled = rpl_now_ns();
	if (getenv("STANDBY_WAIT")) /* for who wants to look at it, or to break it */
		(void)sleep((unsigned)atoi(getenv("STANDBY_WAIT")));
	if (ahead) {
		begin_ahead(ahead);
		return;
	}
	m = open_memory();
	run.folded = rpl_now_ns();
	fill(m, run.again);
	rpl_memory_free(m);
	activate();
}

static void stood(void)
{
	struct rpl_err err = { 0 };

	run.stood = rpl_now_ns();
	if (rpl_guest_fit(run.guest, definition(), &err) != 1)
		die("fit", err.msg);
	laid_out();
}

/* What a PV guest's takeover grows with. */
static unsigned tables(void)
{
	unsigned n = 0;

	for (uint64_t pfn = 0; pfn < run.frames; pfn++) {
		unsigned level = run.type[pfn] & ~RPL_PAGE_PINNED;

		n += level >= RPL_PAGE_L1TAB && level <= RPL_PAGE_L4TAB;
	}
	return n;
}

static void done(void *arg, enum rpl_guest_op op, int r, const struct rpl_err *err)
{
	(void)arg;
	if (r < 0)
		die(rpl_guest_op_name(op), err->msg);
	if (op == RPL_GUEST_STANDBY) {
		stood();
		return;
	}
	run.activated = rpl_now_ns();
	rpl_log(RPL_LOG_INFO, "activation=done");
	(void)printf("{\"replica\": \"%s\", \"pages\": %" PRIu64 ", \"tables\": %u, \"stand_ms\": %u, \"lay_out_ms\": %u, \"fill_ms\": %u, "
		     "\"again\": %zu, \"fold_ms\": %u, \"running_ms\": %u, \"takeover_ms\": %u}\n", run.replica, rpl_xen_guest_pages(&run.layout), tables(), ms(run.began, run.stood),
		     ms(run.stood, run.laid_out), ms(run.laid_out, run.filled), run.again, ms(run.folded, run.told),
		     run.running ? ms(run.folded, run.running) : 0, ms(run.folded, run.activated));
	(void)fflush(stdout);
	ev_break(run.loop, EVBREAK_ALL);
}

static void event(void *arg, enum rpl_guest_event e, const char *msg)
{
	(void)arg;
	(void)fprintf(stderr, "standby: %s: %s\n", rpl_guest_event_name(e), msg);
	if (e == RPL_GUEST_LAID_OUT)
		laid_out();
	if (e == RPL_GUEST_LOST)
		exit(EXIT_FAILURE);
}

/* The domain's name is the VM's. */
static void name_of(const char *config, char *ret, size_t size)
{
	struct rpl_err err = { 0 };
	char *text, *at;

	if (rpl_read_file(config, TEXT_MAX, &text, NULL, &err) < 0)
		die("configuration", err.msg);
	at = strstr(text, "name");
	at = at ? strchr(at, '"') : NULL;
	if (!at)
		die(config, "it has no name=\"...\"");
	(void)snprintf(ret, size, "%.*s", (int)strcspn(at + 1, "\""), at + 1);
	free(text);
}

int main(int argc, char **argv)
{
	struct rpl_guest_conf conf = { .backend = "xen", .run_dir = "/tmp", .any_netdev = true };
	char name[64], helper[512];
	struct rpl_err err = { 0 };

	if (argc < 4)
		die("usage", "standby REPLICA CONFIG IMAGE [PAGES]");
	(void)signal(SIGPIPE, SIG_IGN);
	rpl_log_init("standby", RPL_LOG_INFO);
	run.replica = argv[1];
	run.config = argv[2];
	run.again = argc > 4 ? strtoul(argv[4], NULL, 10) : PAGES_DEFAULT;
	read_image(argv[3]);
	find_layout();
	name_of(run.config, name, sizeof(name));
	(void)snprintf(helper, sizeof(helper), "%s/replicad-xen-restore", getenv("STANDBY_PROGRAMS") ? getenv("STANDBY_PROGRAMS") : RPL_LIBEXECDIR);
	conf.name = name;
	conf.standby_path = run.config;
	conf.replica = run.replica;
	conf.helper_path = helper;
	run.loop = ev_default_loop(0);
	run.xc = xc_interface_open(NULL, NULL, 0);
	if (!run.xc)
		die("hypervisor", strerror(errno));
	run.guest = rpl_guest_new(&conf, run.loop, done, event, NULL, &err);
	if (!run.guest)
		die("guest", err.msg);
	run.began = rpl_now_ns();
	rpl_guest_standby(run.guest);
	(void)ev_run(run.loop, 0);
	run.replica = NULL;
	rpl_guest_free(run.guest);
	return EXIT_SUCCESS;
}
