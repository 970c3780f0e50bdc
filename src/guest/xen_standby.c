/* xen_standby.c - a replica in a memfd or in a domain that waits, and a program that has the toolstack make the domain
 *
 * A memfd becomes a domain at the takeover (`activate`), or, when one is likely, before it, but for its end: the program feeds xl the
 * memory and waits for our word with the rest (xen_restore_build.c says why nothing runs before). A replica of kind `domain`
 * (xen_helper.h) is one from the start (`standby`): then the program runs as long as the standby does, and its end tells how the
 * activation went; early it ends when the domain has its devices, and the helper tells. Which of the two is the configuration's
 * choice; with `auto` it is the domain if it can have its devices early, and else the memfd: then libxl attaches them after the claim
 * with either, and what precedes that is done ahead for a memfd too.
 *
 * What xl has to be asked takes tenths of a second each and may block, so a short-lived program asks: `check` when the
 * standby is made, `activate` at the takeover. Its standard output is a memfd of ours, read when its pidfd says that it
 * ended; it has a session of its own, so that a domain that is being built survives us.
 */
#include "xen_standby.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/io.h>
#include <replicad/log.h>
#include <replicad/xen.h>

#include "xen_standby_domain.h"
#include "xen_standby_xl.h"

#define XL_LOCK_FILE "/var/lock/xl" /* of xl.conf(5), if that does not name another */
#define ARGS_MAX 10
#define FD_TEXT 12
#define PASSED_MAX 4 /* descriptors that the program inherits */

struct xen_standby {
	struct rpl_guest *g;
	char *facts;               /* the definition without a layout, as `check` found it */
	struct rpl_ram_layout layout;
	bool laid_out;             /* the layout is a primary's */
	int ram_fd;
	bool try_domain;           /* the replica shall be a domain */
	bool domain, pv;           /* it is one, which waits */
	uint32_t domid;
	bool early, attached;      /* its devices come while it waits; they are there */
	uint64_t rings[2];         /* early: of xenstore and console, from the primary's definition */
	bool told;                 /* its helper knows the layout */
	unsigned laying;           /* layouts that it was told and has not answered */
	int memory_fd[RPL_MEMORY_FDS_MAX];
	size_t n_memory_fds;       /* of the last one */
	int sock;                  /* to its helper */
	int helper;                /* early: its pidfd, once the toolstack has nothing to do with it any more */
	ev_io heard;
	struct rpl_err over;       /* what the helper failed with */
	/* the domain that is built of a memfd */
	int word;                  /* to the program that builds it; -1: none, or it is to take it apart */
	ev_io spoke;
	int state_fd;              /* what it is built with, or will be: ours */
	size_t state_len;
	bool ahead;                /* it was begun before the takeover */
	/* the program under way */
	pid_t pid;
	int pidfd, said;
	ev_io ended;
	void (*then)(struct xen_standby *s, const char *said, int r, const struct rpl_err *err);
	xen_activated_fn *activated;
};

struct xen_standby *xen_standby_new(struct rpl_guest *g, struct rpl_err *err)
{
	struct xen_standby *s = calloc(1, sizeof(*s));

	if (!s) {
		(void)rpl_fail(err, -ENOMEM, "%s: no memory", g->conf.name);
		return NULL;
	}
	s->g = g;
	s->ram_fd = s->pidfd = s->said = s->sock = s->helper = s->word = s->state_fd = -1;
	return s;
}

/* ---- the program */

static void forget_program(struct xen_standby *s)
{
	if (s->pidfd >= 0)
		ev_io_stop(s->g->loop, &s->ended);
	rpl_close(&s->pidfd);
	rpl_close(&s->said);
	s->pid = 0;
	s->then = NULL;
}

static void drop_memory(struct xen_standby *s)
{
	while (s->n_memory_fds)
		(void)close(s->memory_fd[--s->n_memory_fds]);
}

/* Its helper sees that, and the domain ends if it is no guest yet. */
static void forget_domain(struct xen_standby *s)
{
	if (s->sock >= 0)
		ev_io_stop(s->g->loop, &s->heard);
	rpl_close(&s->sock);
	rpl_close(&s->helper);
	drop_memory(s);
	s->laying = 0;
	s->domain = s->attached = s->told = false;
}

/* The program sees that and ends, and with it the domain, unless it was told GO. */
static void close_word(struct xen_standby *s)
{
	if (s->word >= 0)
		ev_io_stop(s->g->loop, &s->spoke);
	rpl_close(&s->word);
}

void xen_standby_free(struct xen_standby *s)
{
	if (!s)
		return;
	close_word(s);
	rpl_close(&s->state_fd);
	forget_domain(s);
	forget_program(s);
	rpl_close(&s->ram_fd);
	free(s->facts);
	free(s);
}

/* Nobody waits for it any more, so no domain may come of it: xl, or early the helper, unpauses last, and what it leaves behind
 * does not run. */
void xen_standby_abandon(struct xen_standby *s)
{
	siginfo_t si;

	if (!s)
		return;
	if (s->helper >= 0)
		(void)pidfd_send_signal(s->helper, SIGKILL, NULL, 0);
	if (s->pid) {
		(void)kill(-s->pid, SIGKILL);
		(void)pidfd_send_signal(s->pidfd, SIGKILL, NULL, 0); /* if it had no session of its own yet */
		(void)waitid(P_PIDFD, (id_t)s->pidfd, &si, WEXITED);
	}
	close_word(s);
	forget_domain(s);
	forget_program(s);
}

RPL_NORETURN static void child(char *const argv[], int said, const int *passed, size_t n)
{
	sigset_t none;
	int null = open("/dev/null", O_RDONLY);

	(void)setsid();
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	if (dup2(null, 0) < 0 || dup2(said, 1) < 0 || dup2(said, 2) < 0)
		_exit(126);
	for (size_t i = 0; i < n; i++)
		if (fcntl(passed[i], F_SETFD, 0) < 0)
			_exit(126);
	(void)execv(argv[0], argv);
	dprintf(2, "cannot run %s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

/* Cut the last line off *said and return it. */
static const char *last_line(char *said)
{
	char *last = strrchr(said, '\n');

	if (last)
		*last = '\0';
	return last ? last + 1 : said;
}

/* Its last line is the outcome. The exit status would be, but libev reaps every child, and may have been first. */
static void on_ended(struct ev_loop *loop, ev_io *w, int revents)
{
	struct xen_standby *s = w->data;
	RPL_AUTO_FREE char *said = calloc(1, XEN_RESTORE_SAYS_MAX + 1);
	void (*then)(struct xen_standby *, const char *, int, const struct rpl_err *) = s->then;
	struct rpl_err err = { 0 };
	ssize_t n = said ? pread(s->said, said, XEN_RESTORE_SAYS_MAX, 0) : 0;
	const char *last;
	siginfo_t si;

	(void)loop;
	(void)revents;
	(void)waitid(P_PIDFD, (id_t)s->pidfd, &si, WEXITED);
	forget_program(s);
	while (n > 0 && said[n - 1] == '\n')
		said[--n] = '\0';
	last = said ? last_line(said) : "no memory for what " XEN_RESTORE_PROGRAM " said";
	if (strcmp(last, XEN_RESTORE_DONE) == 0) {
		then(s, said, 0, NULL);
		return;
	}
	(void)rpl_fail(&err, -EIO, "%s: %.200s", s->g->conf.name, *last ? last : XEN_RESTORE_PROGRAM " ended without a word");
	then(s, said ? said : "", err.code, &err);
}

static int run(struct xen_standby *s, char *const argv[], const int *passed, size_t n,
	       void (*then)(struct xen_standby *, const char *, int, const struct rpl_err *), struct rpl_err *err)
{
	rpl_assert(s->pid == 0);
	s->said = memfd_create("xen-restore-said", MFD_CLOEXEC);
	s->pid = s->said < 0 ? -1 : fork();
	if (s->pid == 0)
		child(argv, s->said, passed, n);
	if (s->pid > 0)
		s->pidfd = pidfd_open(s->pid, 0);
	if (s->pid < 0 || s->pidfd < 0) {
		int e = errno;

		forget_program(s);
		return rpl_fail_errno(err, e, "%s: start %s", s->g->conf.name, argv[0]);
	}
	s->then = then;
	ev_io_init(&s->ended, on_ended, s->pidfd, EV_READ);
	s->ended.data = s;
	ev_io_start(s->g->loop, &s->ended);
	return 0;
}

static char *program(struct xen_standby *s)
{
	return (char *)(uintptr_t)(s->g->conf.helper_path ? s->g->conf.helper_path : RPL_LIBEXECDIR "/" XEN_RESTORE_PROGRAM);
}

/* ---- making the standby */

/* Until a primary tells its layout there is one page, and its type: a replica that cannot be anybody's. */
static int lay_out(struct xen_standby *s, const struct rpl_ram_layout *l, struct rpl_err *err)
{
	uint64_t pages = s->domain ? 0 : l->pages;
	RPL_AUTO_FD int fd = memfd_create("replicad-xen-ram", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)(pages << RPL_PAGE_SHIFT)) < 0)
		return rpl_fail_errno(err, errno, "%s: a replica of %" PRIu64 " pages", s->g->conf.name, pages);
	xen_standby_unprepare(s);
	rpl_close(&s->ram_fd);
	s->ram_fd = rpl_steal_fd(&fd);
	s->layout = s->g->info.layout = *l;
	s->g->info.ram_bytes = rpl_xen_guest_pages(l) << RPL_PAGE_SHIFT;
	return 0;
}

static int lay_out_nothing(struct xen_standby *s, struct rpl_err *err)
{
	struct rpl_ram_layout l = { 0 };

	rpl_assert(rpl_layout_add(&l, 0, 1, 0) && rpl_xen_layout_add_types(&l));
	s->laid_out = false;
	return lay_out(s, &l, err);
}

/* The program's lines: those from "backend=" on are the definition, sorted; what comes before is for us. */
static int take_facts(struct xen_standby *s, const char *said, struct rpl_err *err)
{
	struct rpl_guest_info *i = &s->g->info;
	const char *definition = strstr(said, "backend=");
	char uuid[RPL_UUID_TEXT], version[16], kind[8], early[8], name[256];

	if (!definition || !rpl_xen_definition_get(said, "early", early, sizeof(early)) || !rpl_xen_definition_get(said, "name", name, sizeof(name)) || !rpl_xen_definition_get(said, "uuid", uuid, sizeof(uuid)) ||
	    !rpl_xen_definition_get(said, "xen", version, sizeof(version)) ||
	    !rpl_xen_definition_get(said, RPL_XEN_KEY_DOMAIN, kind, sizeof(kind)))
		return rpl_fail(err, -EBADMSG, "%s: what " XEN_RESTORE_PROGRAM " found out is not complete", s->g->conf.name);
	if (strcmp(name, s->g->conf.name) != 0)
		return rpl_fail(err, -EINVAL, "%s: the standby file %.80s defines a domain called '%.60s': the names must be equal",
				s->g->conf.name, s->g->conf.standby_path, name);
	if (rpl_uuid_parse(uuid, &i->uuid, NULL) < 0)
		return rpl_fail(err, -EBADMSG, "%s: uuid '%s'", s->g->conf.name, uuid);
	free(s->facts);
	s->facts = strdup(definition);
	free(i->definition);
	i->definition = strdup(definition);
	if (!s->facts || !i->definition)
		return rpl_fail(err, -ENOMEM, "%s: no memory for its definition", s->g->conf.name);
	(void)snprintf(i->producer, sizeof(i->producer), "Xen %s", version);
	(void)snprintf(i->machine, sizeof(i->machine), "%s", kind);
	s->early = strcmp(early, "yes") == 0;
	i->running = false;
	return lay_out_nothing(s, err);
}

static int start_domain(struct xen_standby *s, struct rpl_err *err);
static void no_domain(struct xen_standby *s, const struct rpl_err *why);

static int can_be_domain(const struct xen_standby *s, struct rpl_err *err)
{
	if (strcmp(s->g->info.machine, "hvm") == 0)
		return rpl_fail(err, -ENOTSUP, "it is an HVM guest, whose device model begins with its state, at the takeover");
	if (!s->early && strcmp(s->g->conf.replica, "domain") != 0)
		return rpl_fail(err, -ENOTSUP, "it has devices other than network interfaces, which wait for the takeover");
	return 0;
}

static void on_checked(struct xen_standby *s, const char *said, int r, const struct rpl_err *err)
{
	struct rpl_err mine = { 0 };

	if (r == 0) {
		r = take_facts(s, said, &mine);
		err = &mine;
	}
	if (r < 0 || !s->try_domain)
		rpl_guest_op_done(s->g, r, err);
	else if (can_be_domain(s, &mine) < 0 || start_domain(s, &mine) < 0)
		no_domain(s, &mine);
}

/* Where the copy is to be, dom0's memory must suffice for it. */
static int start_check(struct xen_standby *s, struct rpl_err *err)
{
	char *path = (char *)(uintptr_t)s->g->conf.standby_path;
	char *argv[ARGS_MAX] = { program(s), (char *)"check", path, s->try_domain ? (char *)"domain" : NULL, NULL };

	s->g->info.replica = s->try_domain ? NULL : "memfd";
	return run(s, argv, NULL, 0, on_checked, err);
}

int xen_standby_start(struct xen_standby *s, struct rpl_err *err)
{
	const struct rpl_guest_conf *c = &s->g->conf;

	if (!c->standby_path)
		return rpl_fail(err, -EINVAL, "%s: no standby file is configured (standby=PATH): the xl configuration of the domain on "
				"this host", c->name);
	s->try_domain = c->replica && strcmp(c->replica, "memfd") != 0;
	return start_check(s, err);
}

/* ---- a domain that waits */

/* It cannot be. That is a reason to do without it, or one to do nothing. */
static void no_domain(struct xen_standby *s, const struct rpl_err *why)
{
	struct rpl_err err = { 0 };
	int r;

	if (strcmp(s->g->conf.replica, "domain") == 0) {
		(void)rpl_fail(&err, why->code, "%s: the replica cannot be a domain: %.180s", s->g->conf.name, why->msg);
		rpl_guest_op_done(s->g, err.code, &err);
		return;
	}
	rpl_log(why->code == -ENOTSUP ? RPL_LOG_INFO : RPL_LOG_WARNING, "vm=%s replica=memfd reason=\"it cannot be a domain: %.200s\"",
		s->g->conf.name, why->msg);
	s->try_domain = false;
	r = start_check(s, &err);
	if (r < 0)
		rpl_guest_op_done(s->g, r, &err);
}

static void activated(struct xen_standby *s, int r, const struct rpl_err *err);

/* The last word: the domain could not be made, or it runs, or somebody took it away. */
static void domain_over(struct xen_standby *s, int r, const struct rpl_err *err)
{
	bool waited = s->domain;
	struct rpl_err why = { 0 };

	if (r < 0)
		why = s->over.code ? s->over : *err;
	else if (!s->activated)
		(void)rpl_fail(&why, -EPROTO, "the toolstack made a guest of it, and nobody had told it to");
	if (r == 0)
		s->g->info.life = s->domid;
	forget_domain(s);
	if (!waited)
		no_domain(s, &why);
	else if (s->activated)
		activated(s, r, &why);
	else
		rpl_guest_tell(s->g, RPL_GUEST_LOST, "the domain that was the replica is gone: %.160s", why.msg);
}

/* There is memory for movers, and a takeover would find a domain with all its devices. */
static bool memory_is_there(const struct xen_standby *s)
{
	return s->n_memory_fds && (s->attached || !s->early);
}

static void tell_memory(struct xen_standby *s)
{
	if (memory_is_there(s))
		rpl_guest_tell(s->g, RPL_GUEST_LAID_OUT, "domain %u has memory for %" PRIu64 " pages", s->domid,
			       rpl_xen_guest_pages(&s->layout));
}

static bool is_readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, 0) > 0;
}

/* The helper's own reason, if it gave one that was not read yet: the program ends by it, and both are there at once. */
static void hear_reason(struct xen_standby *s)
{
	int fds[RPL_MEMORY_FDS_MAX], r = 0;
	struct xen_helper_say m;

	while (r == 0 && !s->over.code && is_readable(s->sock)) {
		size_t n = RPL_ARRAY_LEN(fds);

		r = xen_domain_hear(s->sock, &m, fds, &n, &s->over);
		while (r == 0 && n)
			(void)close(fds[--n]);
	}
	if (s->over.code == -ECONNRESET)
		s->over.code = 0; /* the program's own last words are better */
}

/* The program has ended. */
static void on_domain_over(struct xen_standby *s, const char *said, int r, const struct rpl_err *err)
{
	bool waits = s->early && (s->laying || s->n_memory_fds);

	(void)said;
	if (r < 0)
		hear_reason(s);
	if (r < 0 || !waits) {
		domain_over(s, r, err);
		return;
	}
	if (s->over.code) { /* its helper ended before the toolstack did, and nobody else would say so */
		struct rpl_err why = s->over;

		domain_over(s, why.code, &why);
		return;
	}
	s->attached = true;
	tell_memory(s);
}

/* xl has a lock against others while it makes room for a domain by taking it from dom0; here that would be for hours. */
static int check_lock(const struct xen_standby *s, struct rpl_err *err)
{
	RPL_AUTO_FD int fd = open(XL_LOCK_FILE, O_RDWR | O_CLOEXEC);
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	if (fd < 0 || fcntl(fd, F_GETLK, &l) < 0 || l.l_type == F_UNLCK || getsid(l.l_pid) != s->pid)
		return 0;
	return rpl_fail(err, -EBUSY, "xl would keep its lock " XL_LOCK_FILE " for as long as the domain waits, because it balloons dom0: "
			"give dom0 a fixed size (dom0_mem=), or set autoballoon=\"off\" in xl.conf");
}

static int on_ready(struct xen_standby *s, const struct xen_helper_say *m)
{
	if (check_lock(s, &s->over) < 0)
		return s->over.code;
	s->domain = true;
	s->pv = m->pv;
	s->domid = m->domid;
	s->g->info.replica = "domain";
	rpl_log(RPL_LOG_INFO, "vm=%s replica=domain domain=%u early=%d", s->g->conf.name, m->domid, s->early);
	rpl_guest_op_done(s->g, 0, NULL);
	return 0;
}

/* The descriptors are ours now. Those of a layout that another one followed are of no use. */
static void on_laid_out(struct xen_standby *s, const struct xen_helper_say *m, const int *fds, size_t n)
{
	drop_memory(s);
	memcpy(s->memory_fd, fds, n * sizeof(*fds));
	s->n_memory_fds = n;
	rpl_close(&s->helper);
	s->helper = m->pid ? pidfd_open((pid_t)m->pid, 0) : -1;
	if (--s->laying)
		drop_memory(s);
	tell_memory(s);
}

static void on_completed(struct xen_standby *s, const struct xen_helper_say *m)
{
	rpl_log(RPL_LOG_INFO, "vm=%s domain=%u completed_us=%" PRIu64, s->g->conf.name, s->domid, m->len);
	if (s->attached)
		domain_over(s, 0, NULL);
}

/* Does it fit what was said before? Descriptors that nobody takes are closed. */
static int on_message(struct xen_standby *s, const struct xen_helper_say *m, int *fds, size_t n)
{
	if (m->kind == XEN_HELPER_LAID_OUT && n == 2 && s->laying) {
		on_laid_out(s, m, fds, n);
		return 0;
	}
	for (size_t i = 0; i < n; i++)
		(void)close(fds[i]);
	if (m->kind == XEN_HELPER_READY && !s->domain)
		return on_ready(s, m);
	if (m->kind != XEN_HELPER_COMPLETED || !s->activated)
		return rpl_fail(&s->over, -EPROTO, XEN_HELPER_PROGRAM ": message %u with %zu descriptors", m->kind, n);
	on_completed(s, m);
	return 0;
}

static void on_heard(EV_P_ ev_io *w, int revents)
{
	struct xen_standby *s = w->data;
	int fds[RPL_MEMORY_FDS_MAX];
	size_t n = RPL_ARRAY_LEN(fds);
	struct xen_helper_say m;
	int r = xen_domain_hear(s->sock, &m, fds, &n, &s->over);

	(void)revents;
	if (r > 0 || (r == 0 && on_message(s, &m, fds, n) == 0))
		return;
	if (s->attached) { /* nothing else is left that could say it */
		struct rpl_err why = s->over;

		domain_over(s, why.code, &why);
		return;
	}
	/* what runs ends by that, and on_domain_over() has the last word */
	ev_io_stop(loop, w);
	(void)shutdown(s->sock, SHUT_RDWR);
}

static int start_domain(struct xen_standby *s, struct rpl_err *err)
{
	char fd_text[FD_TEXT];
	char *argv[ARGS_MAX] = { program(s), (char *)"standby", (char *)(uintptr_t)s->g->conf.standby_path, fd_text,
				 s->early ? (char *)"early" : NULL, NULL };
	int pair[2], r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return rpl_fail_errno(err, errno, "%s: a socket to " XEN_HELPER_PROGRAM, s->g->conf.name);
	(void)snprintf(fd_text, sizeof(fd_text), "%d", pair[1]);
	s->over = (struct rpl_err){ 0 };
	s->sock = pair[0];
	ev_io_init(&s->heard, on_heard, s->sock, EV_READ);
	s->heard.data = s;
	r = run(s, argv, &pair[1], 1, on_domain_over, err);
	(void)close(pair[1]);
	if (r == 0)
		ev_io_start(s->g->loop, &s->heard);
	else
		rpl_close(&s->sock);
	return r;
}

/* ---- the primary's definition */

/* A definition, which is sorted, with one line more. */
static char *with_line(const char *facts, const char *key, const char *value)
{
	size_t key_len = strlen(key), len = strlen(facts) + key_len + strlen(value) + 3;
	char *text = malloc(len);
	const char *at = facts;

	while (*at && strncmp(at, key, key_len) < 0) {
		at = strchrnul(at, '\n');
		at += *at == '\n';
	}
	if (text)
		(void)snprintf(text, len, "%.*s%s=%s\n%s", (int)(at - facts), facts, key, value, at);
	return text;
}

/* Ours, with what the primary's says of its memory. */
static char *whole_definition(struct xen_standby *s, const char *primary, const char *layout)
{
	char *whole = with_line(s->facts, RPL_XEN_KEY_LAYOUT, layout), *more;
	char rings[RPL_XEN_RINGS_TEXT];

	if (!whole || !rpl_xen_definition_get(primary, RPL_XEN_KEY_RINGS, rings, sizeof(rings)))
		return whole;
	more = with_line(whole, RPL_XEN_KEY_RINGS, rings);
	free(whole);
	return more;
}

int xen_standby_fit(struct xen_standby *s, const char *primary, struct rpl_err *err)
{
	char layout[RPL_XEN_LAYOUT_TEXT];
	struct rpl_ram_layout l;
	char *whole;
	int r;

	if (!rpl_xen_definition_get(primary, RPL_XEN_KEY_LAYOUT, layout, sizeof(layout)))
		return rpl_fail(err, -EINVAL, RPL_XEN_KEY_LAYOUT ": the primary's definition has no usable one");
	r = rpl_xen_definition_layout(primary, &l, err);
	if (r < 0)
		return r;
	if (s->domain && s->early && rpl_xen_definition_rings(primary, &l, s->rings, err) < 0)
		return err->code;
	whole = whole_definition(s, primary, layout);
	r = whole ? rpl_definition_compare(whole, primary, err) : rpl_fail(err, -ENOMEM, "no memory for a definition");
	if (r < 0) {
		free(whole);
		return r;
	}
	free(s->g->info.definition);
	s->g->info.definition = whole;
	if (s->laid_out && rpl_layout_equal(&l, &s->layout))
		return 0;
	r = lay_out(s, &l, err);
	drop_memory(s);
	s->told = false;
	s->laid_out = r == 0;
	return r < 0 ? r : 1;
}

/* The helper gives the domain its memory, which takes as long as the guest is large: nobody waits for that. */
static int domain_memory(struct xen_standby *s, struct rpl_memory_desc *ret, int *fds, size_t *ret_n, struct rpl_err *err)
{
	if (!s->told && xen_domain_lay_out(s->sock, &s->layout, s->early ? s->rings : NULL, err) < 0)
		return err->code;
	s->laying += !s->told;
	s->told = true;
	if (!memory_is_there(s))
		return rpl_fail(err, -EAGAIN, "%s: domain %u is being given its memory", s->g->conf.name, s->domid);
	for (size_t i = 0; i < s->n_memory_fds; i++)
		fds[i] = fcntl(s->memory_fd[i], F_DUPFD_CLOEXEC, 0); /* one that is missing is refused by who takes it */
	*ret = (struct rpl_memory_desc){ .kind = RPL_MEMORY_DOMAIN, .xen_pv = s->pv, .layout = s->layout };
	*ret_n = s->n_memory_fds;
	return 0;
}

int xen_standby_memory(struct xen_standby *s, struct rpl_memory_desc *ret, int *fds, size_t *ret_n, struct rpl_err *err)
{
	if (s->domain && s->laid_out)
		return domain_memory(s, ret, fds, ret_n, err);
	fds[0] = fcntl(s->ram_fd, F_DUPFD_CLOEXEC, 0);
	if (fds[0] < 0)
		return rpl_fail_errno(err, errno, "%s: the replica's memory", s->g->conf.name);
	ret->kind = RPL_MEMORY_REPLICA;
	ret->provisional = !s->laid_out;
	ret->layout = s->layout;
	*ret_n = 1;
	return 0;
}

/* ---- a domain of a memfd */

/* The description of the memory, for a program of the same build. */
static int put_desc(struct xen_standby *s, int *ret_fd, struct rpl_err *err)
{
	struct rpl_memory_desc desc = { .kind = RPL_MEMORY_REPLICA, .layout = s->layout };
	int r;

	*ret_fd = memfd_create("xen-layout", MFD_CLOEXEC);
	if (*ret_fd < 0)
		return rpl_fail_errno(err, errno, "%s: memfd", s->g->conf.name);
	r = rpl_write_full(*ret_fd, &desc, sizeof(desc));
	return r < 0 ? rpl_fail_errno(err, -r, "%s: the layout", s->g->conf.name) : 0;
}

static void activated(struct xen_standby *s, int r, const struct rpl_err *err)
{
	xen_activated_fn *done = s->activated;

	s->activated = NULL;
	if (r == 0)
		rpl_close(&s->ram_fd); /* the domain has it now */
	done(s->g, r, err);
}

static void on_spoke(EV_P_ ev_io *w, int revents)
{
	struct xen_standby *s = w->data;
	struct xen_build_say m;
	size_t n = 0;
	ssize_t len = rpl_recv_fds(s->word, &m, sizeof(m), NULL, &n);

	(void)revents;
	if (len == -EAGAIN)
		return;
	if (len != (ssize_t)sizeof(m)) {
		ev_io_stop(loop, w); /* its last line says why, and comes */
		return;
	}
	rpl_log(RPL_LOG_INFO, "vm=%s domain=%u built=%s ms=%" PRIu64 " ahead=%d", s->g->conf.name, m.domid,
		m.kind == XEN_BUILD_RUNS ? "runs" : "fed", m.ms, s->ahead);
	if (m.kind != XEN_BUILD_RUNS || !s->activated)
		return;
	s->g->info.life = m.domid;
	activated(s, 0, NULL);
}

static int begin_building(struct xen_standby *s, bool ahead, struct rpl_err *err);

/* A program that has just ended cannot be told: its last line says why, and comes. */
static int say_go(struct xen_standby *s, struct rpl_err *err)
{
	const struct xen_build_say m = { .kind = XEN_BUILD_GO };
	int r = rpl_send_fds(s->word, &m, sizeof(m), NULL, 0);

	if (rpl_hung_up(r))
		return 0;
	return r < 0 ? rpl_fail_errno(err, -r, "%s: tell " XEN_RESTORE_PROGRAM " to go on", s->g->conf.name) : 0;
}

static int build_now(struct xen_standby *s, struct rpl_err *err)
{
	int r = begin_building(s, false, err);

	return r < 0 ? r : say_go(s, err);
}

/* What was begun ahead and failed is done anew when it is needed; then a reason is final. */
static void on_built(struct xen_standby *s, const char *said, int r, const struct rpl_err *err)
{
	struct rpl_err mine = { 0 };

	(void)said;
	close_word(s);
	if (s->ahead && r < 0) {
		rpl_log(RPL_LOG_INFO, "vm=%s built_ahead=no reason=\"%s\"", s->g->conf.name, err->msg);
		(void)snprintf(s->g->info.ahead, sizeof(s->g->info.ahead), "no: %.140s", err->msg);
		if (!s->activated)
			return;
		r = build_now(s, &mine);
		err = &mine;
		if (r == 0)
			return;
	}
	if (s->activated)
		activated(s, r, err);
}

static int begin_building(struct xen_standby *s, bool ahead, struct rpl_err *err)
{
	RPL_AUTO_FD int desc_fd = -1, theirs = -1;
	char fd_text[PASSED_MAX][FD_TEXT], len_text[24];
	char *argv[ARGS_MAX] = { program(s), (char *)"activate", (char *)(uintptr_t)s->g->conf.standby_path, (char *)(uintptr_t)s->g->conf.name,
				 fd_text[0], fd_text[1], fd_text[2], len_text, fd_text[3], NULL };
	int pair[2], r;

	r = put_desc(s, &desc_fd, err);
	if (r < 0)
		return r;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return rpl_fail_errno(err, errno, "%s: a socket to " XEN_RESTORE_PROGRAM, s->g->conf.name);
	s->word = pair[0];
	theirs = pair[1];
	int passed[PASSED_MAX] = { s->ram_fd, s->state_fd, desc_fd, theirs };

	for (size_t i = 0; i < PASSED_MAX; i++)
		(void)snprintf(fd_text[i], FD_TEXT, "%d", passed[i]);
	(void)snprintf(len_text, sizeof(len_text), "%zu", s->state_len);
	s->ahead = ahead;
	ev_io_init(&s->spoke, on_spoke, s->word, EV_READ);
	s->spoke.data = s;
	r = run(s, argv, passed, PASSED_MAX, on_built, err);
	if (r == 0)
		ev_io_start(s->g->loop, &s->spoke);
	else
		rpl_close(&s->word);
	return r;
}

/* The device state, for as long as it is needed here. */
static int keep_state(struct xen_standby *s, int state_fd, size_t len, struct rpl_err *err)
{
	rpl_close(&s->state_fd);
	s->state_fd = fcntl(state_fd, F_DUPFD_CLOEXEC, 0);
	s->state_len = len;
	return s->state_fd < 0 ? rpl_fail_errno(err, errno, "%s: the device state", s->g->conf.name) : 0;
}

int xen_standby_prepare(struct xen_standby *s, int state_fd, size_t len, struct rpl_err *err)
{
	int r;

	if (s->domain || !s->laid_out)
		return rpl_fail(err, -ENOTSUP, "%s: %s", s->g->conf.name, s->domain ? "its domain is there already" : "no primary ever filled this replica");
	if (s->pid)
		return rpl_fail(err, -EBUSY, "%s: the domain that was begun before is still being taken apart", s->g->conf.name);
	r = keep_state(s, state_fd, len, err);
	if (r == 0)
		r = begin_building(s, true, err);
	if (r == 0)
		(void)snprintf(s->g->info.ahead, sizeof(s->g->info.ahead), "yes");
	return r;
}

void xen_standby_unprepare(struct xen_standby *s)
{
	close_word(s);
	s->g->info.ahead[0] = '\0';
}

int xen_standby_needs_mib(const struct xen_standby *s, uint64_t *ret, struct rpl_err *err)
{
	const uint64_t mib = UINT64_C(1) << 20;

	*ret = 0;
	if (s->domain || !s->laid_out)
		return 0;
	if (s->pid)
		return rpl_fail(err, -EBUSY, "%s: a domain is being made of it, or taken apart", s->g->conf.name);
	*ret = (s->g->info.ram_bytes + mib - 1) / mib + XL_DOMAIN_OVERHEAD_MIB;
	return 0;
}

/* ---- activation */

static int activate_domain(struct xen_standby *s, int state_fd, size_t len, xen_activated_fn *done, struct rpl_err *err)
{
	int r = xen_domain_activate(s->sock, state_fd, len, err);

	if (r == 0)
		s->activated = done;
	return r;
}

static bool same_bytes(int a, int b, size_t len)
{
	const void *x = mmap(NULL, len, PROT_READ, MAP_SHARED, a, 0), *y = mmap(NULL, len, PROT_READ, MAP_SHARED, b, 0);
	bool same = x != MAP_FAILED && y != MAP_FAILED && memcmp(x, y, len) == 0;

	if (x != MAP_FAILED)
		(void)munmap((void *)(uintptr_t)x, len);
	if (y != MAP_FAILED)
		(void)munmap((void *)(uintptr_t)y, len);
	return same;
}

int xen_standby_activate(struct xen_standby *s, int state_fd, size_t len, xen_activated_fn *done, struct rpl_err *err)
{
	bool built = s->word >= 0 && len == s->state_len && same_bytes(state_fd, s->state_fd, len);
	int r;

	if (!s->laid_out)
		return rpl_fail(err, -ENODATA, "%s: no primary ever filled this replica", s->g->conf.name);
	if (s->domain)
		return activate_domain(s, state_fd, len, done, err);
	r = keep_state(s, state_fd, len, err);
	if (r == 0 && built)
		r = say_go(s, err);
	else if (r == 0 && !s->pid)
		r = build_now(s, err);
	else if (r == 0)
		xen_standby_unprepare(s); /* on_built() begins anew when it is gone */
	if (r == 0)
		s->activated = done;
	return r;
}
