/* life.c - a real QEMU's ups and downs: life --payload FILE --helper FILE --dir DIR
 *
 * Each story starts QEMUs of its own. What must hold: each way in which a guest ends or is touched by others gives the
 * right event and only that; a time-out ends an operation and the next one works; a keeper that died with the guest
 * paused leaves a note; nothing of a tracker stays in QEMU; a standby survives its keeper and is adopted; what cannot
 * be done is said in a sentence and leaves QEMU running.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ev.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/guest.h>
#include <replicad/io.h>
#include <replicad/log.h>

#include "../../../src/guest/uffd.h"
#include "../../lib/run_for.h"
#include "payload.h"

#define UUID "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
#define RAM_MB 64
#define HANGS_MS 5000 /* this is waited for, and a busy QEMU must answer within it */

static const char *payload, *helper, *dir, *story, *more_arguments = "", *ram = "memory-backend-file,mem-path=", *ram_in = "";
static pid_t running[8];

struct side {
	struct rpl_guest *g;
	pid_t pid;
	bool done;
	int r;
	struct rpl_err err;
	unsigned events[RPL_GUEST_NEVENTS];
};

RPL_NORETURN static void stop_here(void)
{
	for (size_t i = 0; i < RPL_ARRAY_LEN(running); i++)
		if (running[i])
			(void)kill(running[i], SIGKILL);
	exit(1);
}

static void check(bool ok, const char *fmt, ...) RPL_PRINTF(2, 3);
static void check(bool ok, const char *fmt, ...)
{
	va_list ap;

	if (ok)
		return;
	(void)fprintf(stderr, "FAILED: %s: ", story);
	va_start(ap, fmt);
	(void)vfprintf(stderr, fmt, ap);
	va_end(ap);
	(void)fputc('\n', stderr);
	stop_here();
}

/* ---- running things */

static void on_done(void *arg, enum rpl_guest_op op, int r, const struct rpl_err *err)
{
	struct side *s = arg;

	(void)op;
	s->done = true;
	s->r = r;
	s->err = err ? *err : (struct rpl_err){ 0 };
}

static void on_event(void *arg, enum rpl_guest_event event, const char *msg)
{
	struct side *s = arg;

	(void)printf("  event %s: %s\n", rpl_guest_event_name(event), msg);
	s->events[event]++;
}

static int op(struct side *s, void (*fn)(struct rpl_guest *))
{
	s->done = false;
	fn(s->g);
	while (!s->done)
		ev_run(EV_DEFAULT, EVRUN_ONCE);
	return s->r;
}

static void must(struct side *s, void (*fn)(struct rpl_guest *), const char *what)
{
	(void)op(s, fn);
	check(s->r == 0, "%s: %s", what, s->err.msg);
}

static unsigned total(const struct side *s)
{
	unsigned n = 0;

	for (int i = 0; i < RPL_GUEST_NEVENTS; i++)
		n += s->events[i];
	return n;
}

static void expect_event(struct side *s, enum rpl_guest_event e)
{
	for (int i = 0; i < PATIENT_TURNS && !s->events[e]; i++)
		run_for(TURN_MS);
	run_for(50);
	check(s->events[e] == 1 && total(s) == 1, "event %s: %u times, %u events in all", rpl_guest_event_name(e),
	      s->events[e], total(s));
	s->events[e] = 0;
}

/* ---- QEMUs */

static char path_buf[4][200];

static const char *in_dir(int slot, const char *name)
{
	(void)snprintf(path_buf[slot], sizeof(path_buf[0]), "%s/%s", dir, name);
	return path_buf[slot];
}

static void write_arguments(FILE *f, const char *side)
{
	bool file = strchr(ram, '='); /* else a memfd */
	char ram_name[32];

	(void)snprintf(ram_name, sizeof(ram_name), "%s%s.ram", ram_in, side);
	(void)fprintf(f, "qemu-system-x86_64\n-nodefaults\n-no-user-config\n-display\nnone\n-accel\ntcg\n-uuid\n%s\n-m\n%d\n"
			 "-M\nq35,memory-backend=ram0\n-object\n%s%s%s%s,id=ram0,size=%dM,share=on\n"
			 "-kernel\n%s\n-device\nqemu-xhci,id=usb\n-qmp\nunix:%s/%s.qmp,server=on,wait=off\n-qmp\nunix:%s/%s.second,server=on,wait=off\n%s",
		      UUID, RAM_MB, ram, file ? dir : "", file ? "/" : "", file ? ram_name : "", RAM_MB, payload, dir, side, dir, side, more_arguments);
}

static pid_t start_qemu(const char *side)
{
	char *argv[40], *text = NULL, *save = NULL;
	size_t len, n = 0;
	FILE *f = open_memstream(&text, &len);
	pid_t pid;

	write_arguments(f, side);
	(void)fclose(f);
	for (char *a = strtok_r(text, "\n", &save); a; a = strtok_r(NULL, "\n", &save))
		argv[n++] = a;
	argv[n] = NULL;
	pid = fork();
	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)execvp(argv[0], argv);
		_exit(127);
	}
	free(text);
	running[0] = pid;
	(void)snprintf(path_buf[3], sizeof(path_buf[3]), "%s/%s.second", dir, side); /* made behind the first */
	for (int i = 0, fd = -1; fd < 0; i++) {
		check(i < PATIENT_TURNS, "QEMU does not listen at %s", path_buf[3]);
		run_for(TURN_MS);
		fd = rpl_unix_connect(path_buf[3], SOCK_STREAM, NULL);
		if (fd >= 0)
			(void)close(fd);
	}
	return pid;
}

static void end_qemu(pid_t pid)
{
	if (kill(pid, SIGKILL) == 0)
		(void)waitpid(pid, NULL, 0);
	running[0] = 0;
	(void)unlink(in_dir(0, "p.qmp"));
	(void)unlink(in_dir(0, "p.second"));
	(void)unlink(in_dir(0, "p.ram"));
}

/* A command by the guest's other monitor: somebody else's hand. */
static void other_hand(const char *side, const char *command)
{
	char name[64], text[160], buf[4096] = "";
	size_t have = 0;
	ssize_t n = 1;
	int fd;

	(void)snprintf(name, sizeof(name), "%s.second", side);
	fd = rpl_unix_connect(in_dir(0, name), SOCK_STREAM, NULL);
	check(fd >= 0, "the second monitor");
	(void)snprintf(text, sizeof(text), "{\"execute\":\"qmp_capabilities\"}{\"execute\":\"%s\"}", command);
	check(rpl_write_full(fd, text, strlen(text)) == 0, "write to the second monitor");
	/* it hears who hangs up before it has read what was said: both answers, or its end */
	for (const char *at = NULL; n > 0 && !(at && strstr(at + 1, "\"return\"")); at = strstr(buf, "\"return\"")) {
		n = read(fd, buf + have, sizeof(buf) - 1 - have);
		have += n > 0 ? (size_t)n : 0;
		buf[have] = '\0';
	}
	check(strstr(buf, "\"return\""), "the second monitor says '%s'", buf);
	(void)close(fd);
	run_for(100);
}

static void make(struct side *s, const char *name, const char *qmp, const char *standby, unsigned timeout_ms)
{
	struct rpl_guest_conf conf = { .backend = "qemu", .name = name, .qmp_path = qmp, .standby_path = standby, .run_dir = dir,
				       .helper_path = helper, .tracker = "auto", .op_timeout_ms = timeout_ms ? timeout_ms : PATIENT_TURNS * TURN_MS };
	struct rpl_err err;

	*s = (struct side){ .done = false };
	s->g = rpl_guest_new(&conf, EV_DEFAULT, on_done, on_event, s, &err);
	check(s->g, "%s", err.msg);
}

static void begin(struct side *s, unsigned timeout_ms)
{
	pid_t pid = start_qemu("p");

	make(s, "p", in_dir(1, "p.qmp"), NULL, timeout_ms);
	must(s, rpl_guest_attach, "attach");
	s->pid = pid;
	check(rpl_guest_pid(s->g) == pid, "the monitor's process is %d, not %d", (int)rpl_guest_pid(s->g), (int)pid);
	check(rpl_guest_info(s->g)->running, "it runs");
}

static void finish(struct side *s)
{
	rpl_guest_free(s->g);
	end_qemu(s->pid);
	check(access(in_dir(0, "p.paused"), F_OK) < 0, "no note is left");
}

static char state_of(pid_t pid)
{
	RPL_AUTO_FREE char *text = NULL;
	char path[64];

	(void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	return rpl_read_file(path, 4096, &text, NULL, NULL) == 0 && strrchr(text, ')') ? strrchr(text, ')')[2] : '?';
}

/* ---- stories */

static void killed(void)
{
	struct side s;

	begin(&s, 0);
	(void)kill(s.pid, SIGKILL);
	expect_event(&s, RPL_GUEST_LOST);
	check(op(&s, rpl_guest_pause) == -ESRCH, "pause of a dead guest: %s", s.err.msg);
	must(&s, rpl_guest_quit, "quit of a dead guest");
	finish(&s);
}

static void shut_down(void)
{
	struct side s;

	begin(&s, 0);
	(void)kill(s.pid, SIGTERM);
	expect_event(&s, RPL_GUEST_SHUTDOWN);
	check(op(&s, rpl_guest_pause) < 0, "pause of a guest that was shut down");
	finish(&s);
}

static void other_hands(void)
{
	struct side s;

	begin(&s, 0);
	other_hand("p", "stop");
	expect_event(&s, RPL_GUEST_STOPPED);
	check(!rpl_guest_info(s.g)->running, "it is known to be stopped");
	other_hand("p", "cont");
	expect_event(&s, RPL_GUEST_RESUMED);
	other_hand("p", "system_reset");
	for (unsigned before = 1; before != s.events[RPL_GUEST_REBOOT] || !before;) { /* SeaBIOS may reset it once more */
		before = s.events[RPL_GUEST_REBOOT];
		run_for(2000);
	}
	check(total(&s) == s.events[RPL_GUEST_REBOOT], "only reboots");
	must(&s, rpl_guest_pause, "pause");
	must(&s, rpl_guest_save, "save");
	must(&s, rpl_guest_save, "save again");
	must(&s, rpl_guest_resume, "resume");
	run_for(50);
	check(total(&s) == s.events[RPL_GUEST_REBOOT], "our own stop and cont are nobody else's");
	s.events[RPL_GUEST_REBOOT] = 0;
	other_hand("p", "quit");
	expect_event(&s, RPL_GUEST_SHUTDOWN);
	finish(&s);
}

static void plugged(void)
{
	struct side s;

	begin(&s, 0);
	for (int i = 0; i < 2; i++) { /* what is there is learnt at the first resume */
		must(&s, rpl_guest_pause, "pause");
		must(&s, rpl_guest_resume, "resume");
		run_for(1100);
	}
	check(total(&s) == 0, "nothing has changed");
	must(&s, rpl_guest_pause, "pause");
	must(&s, rpl_guest_save, "save");
	must(&s, rpl_guest_save, "save again");
	must(&s, rpl_guest_resume, "resume");
	other_hand("p", "device_add\",\"arguments\":{\"driver\":\"usb-kbd\",\"id\":\"kbd\"},\"id\":\"");
	must(&s, rpl_guest_pause, "pause");
	check(op(&s, rpl_guest_save) == -ESTALE && strstr(s.err.msg, "plugged"), "a state with another device: %d, %s", s.r, s.err.msg);
	must(&s, rpl_guest_resume, "resume");
	must(&s, rpl_guest_look, "look");
	must(&s, rpl_guest_pause, "pause");
	must(&s, rpl_guest_save, "save of what was looked at");
	must(&s, rpl_guest_resume, "resume");
	run_for(1100);
	check(total(&s) == 0, "what the save told is told once");
	other_hand("p", "device_add\",\"arguments\":{\"driver\":\"usb-tablet\",\"id\":\"tab\"},\"id\":\"");
	run_for(1000);
	must(&s, rpl_guest_pause, "pause");
	must(&s, rpl_guest_resume, "resume");
	expect_event(&s, RPL_GUEST_CHANGED);
	check(strstr(rpl_guest_info(s.g)->definition, "usb-tablet") == NULL, "known since the last inspection");
	must(&s, rpl_guest_look, "look");
	check(strstr(rpl_guest_info(s.g)->definition, "usb-tablet") != NULL, "the definition is fresh");
	check(rpl_guest_info(s.g)->running, "it runs");
	run_for(1100);
	must(&s, rpl_guest_pause, "pause");
	must(&s, rpl_guest_resume, "resume");
	run_for(200);
	check(total(&s) == 0, "what was looked at is no change");
	finish(&s);
}

/* A refusal leaves the guest as it was, and its monitor free. */
static void refused(void)
{
	struct side s, t;

	more_arguments = "-device\nvirtio-balloon-pci\n";
	(void)start_qemu("p");
	more_arguments = "";
	make(&s, "p", in_dir(1, "p.qmp"), NULL, 0);
	check(op(&s, rpl_guest_attach) == -ENOTSUP && strstr(s.err.msg, "balloon"), "%s", s.err.msg);
	make(&t, "p", in_dir(1, "p.qmp"), NULL, 0);
	check(op(&t, rpl_guest_attach) == -ENOTSUP, "the monitor is free: %s", t.err.msg);
	check(op(&s, rpl_guest_attach) == -ENOTSUP, "it may be tried again: %s", s.err.msg);
	check(total(&s) == 0 && total(&t) == 0, "no events");
	rpl_guest_free(t.g);
	rpl_guest_free(s.g);
	check(state_of(running[0]) != 'Z', "it runs");
	end_qemu(running[0]);
}

static void hanging(void)
{
	struct side s;

	begin(&s, HANGS_MS);
	(void)kill(s.pid, SIGSTOP);
	check(op(&s, rpl_guest_pause) == -ETIMEDOUT, "pause of a hanging QEMU: %s", s.err.msg);
	check(op(&s, rpl_guest_resume) == -ETIMEDOUT, "resume of a hanging QEMU: %s", s.err.msg);
	(void)kill(s.pid, SIGCONT);
	must(&s, rpl_guest_resume, "resume"); /* after the late stop and the late cont */
	check(rpl_guest_info(s.g)->running, "it runs again");
	check(total(&s) == 0, "late answers are no events: %u", total(&s));
	must(&s, rpl_guest_pause, "pause");
	must(&s, rpl_guest_save, "save");
	must(&s, rpl_guest_resume, "resume");
	(void)kill(s.pid, SIGSTOP);
	s.done = false;
	rpl_guest_pause(s.g);
	rpl_guest_quit(s.g); /* takes its place */
	check(s.done && s.r == -ECANCELED, "the pause ends first");
	s.done = false;
	while (!s.done)
		ev_run(EV_DEFAULT, EVRUN_ONCE);
	check(s.r == 0 && total(&s) == 0, "quit a hanging QEMU: %s", s.err.msg);
	finish(&s);
}

/* In a process of its own, which dies without cleaning up. */
static void in_a_child(void (*fn)(void))
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		ev_loop_fork(EV_DEFAULT);
		running[0] = 0;
		fn();
		_exit(0);
	}
	check(waitpid(pid, &status, 0) == pid && status == 0, "the child: status %d", status);
}

static void attach_and_pause(void)
{
	struct side s;

	make(&s, "p", in_dir(1, "p.qmp"), NULL, 0);
	must(&s, rpl_guest_attach, "attach");
	must(&s, rpl_guest_pause, "pause");
}

static void a_keeper_dies(void)
{
	struct side s;
	pid_t pid = start_qemu("p");
	uint64_t before = rpl_now_ns();

	in_a_child(attach_and_pause);
	make(&s, "p", in_dir(1, "p.qmp"), NULL, 0);
	must(&s, rpl_guest_attach, "attach");
	check(!rpl_guest_info(s.g)->running && rpl_guest_info(s.g)->paused_by_us, "found paused by us");
	check(rpl_guest_info(s.g)->paused_ns > before && rpl_guest_info(s.g)->paused_ns < rpl_now_ns(), "and since when");
	must(&s, rpl_guest_resume, "resume");
	check(rpl_guest_info(s.g)->running && !rpl_guest_info(s.g)->paused_by_us, "it runs");
	rpl_guest_free(s.g);
	run_for(50);
	other_hand("p", "stop");
	make(&s, "p", in_dir(1, "p.qmp"), NULL, 0);
	must(&s, rpl_guest_attach, "attach again");
	check(!rpl_guest_info(s.g)->running && !rpl_guest_info(s.g)->paused_by_us, "paused, but not by us");
	s.pid = pid;
	must(&s, rpl_guest_quit, "quit");
	finish(&s);
}

/* ---- trackers */

static bool has_tracker(pid_t pid)
{
	RPL_AUTO_FREE char *text = NULL;
	char path[64];

	(void)snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
	check(rpl_read_file(path, 16 << 20, &text, NULL, NULL) == 0, "read %s", path);
	for (char *p = text; (p = strstr(p, "VmFlags:")) != NULL; p++) {
		char *uw = strstr(p, " uw");

		if (uw && uw < strchrnul(p, '\n'))
			return true;
	}
	return false;
}

static bool holds_userfaultfd(pid_t pid)
{
	char path[64], link[320], what[64];
	struct dirent *e;
	bool found = false;
	DIR *d;

	(void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	d = opendir(path);
	while (d && (e = readdir(d)) != NULL) {
		ssize_t n;

		(void)snprintf(link, sizeof(link), "%s/%s", path, e->d_name);
		n = readlink(link, what, sizeof(what) - 1);
		what[n > 0 ? n : 0] = '\0';
		found |= strcmp(what, "anon_inode:[userfaultfd]") == 0;
	}
	if (d)
		(void)closedir(d);
	return found;
}

static int arm(struct side *s, struct rpl_memory_desc *d, int *fds, size_t *n)
{
	int r = rpl_guest_memory(s->g, d, fds, n, &s->err);

	check(!holds_userfaultfd(s->pid), "the descriptor is not left in QEMU");
	return r;
}

static void attach_and_arm(void)
{
	struct rpl_memory_desc d;
	int fds[RPL_MEMORY_FDS_MAX];
	struct side s;
	size_t n;

	make(&s, "p", in_dir(1, "p.qmp"), NULL, 0);
	must(&s, rpl_guest_attach, "attach");
	s.pid = rpl_guest_pid(s.g);
	check(arm(&s, &d, fds, &n) == 0, "%s", s.err.msg);
	check(d.kind == RPL_MEMORY_UFFD && has_tracker(s.pid), "armed");
}

/* The helper alone, as if by a second replicad. */
static struct uffd_answer second_tracker(pid_t pid, uint64_t vaddr)
{
	char a[3][24], *argv[] = { (char *)(uintptr_t)"replicad-attach", a[0], a[1], a[2], NULL };
	struct uffd_answer answer = { .r = -1 };
	int sv[2], fds[2];
	size_t n = 2;
	pid_t child;

	(void)snprintf(a[0], sizeof(a[0]), "%d", (int)pid);
	(void)snprintf(a[1], sizeof(a[1]), "%" PRIu64, vaddr);
	(void)snprintf(a[2], sizeof(a[2]), "%" PRIu64, (uint64_t)RAM_MB << 20);
	check(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) == 0, "socketpair");
	child = fork();
	if (child == 0) {
		(void)dup2(sv[1], 0);
		(void)execv(helper, argv);
		_exit(127);
	}
	(void)close(sv[1]);
	check(rpl_recv_fds(sv[0], &answer, sizeof(answer), fds, &n) == (ssize_t)sizeof(answer), "an answer");
	while (n)
		(void)close(fds[--n]);
	(void)close(sv[0]);
	(void)waitpid(child, NULL, 0);
	return answer;
}

static void tracked(void)
{
	struct rpl_memory_desc d;
	struct uffd_answer a;
	int fds[RPL_MEMORY_FDS_MAX];
	struct side s;
	size_t n;

	if (!uffd_kernel_can()) {
		(void)puts("  this kernel cannot track");
		return;
	}
	(void)start_qemu("p");
	in_a_child(attach_and_arm);
	check(!has_tracker(running[0]), "nothing of a dead keeper's tracker stays");
	make(&s, "p", in_dir(1, "p.qmp"), NULL, 0);
	must(&s, rpl_guest_attach, "attach");
	s.pid = running[0];
	check(arm(&s, &d, fds, &n) == 0 && n == 3, "arm: %s", s.err.msg);
	a = second_tracker(s.pid, d.vaddr);
	check(a.r == -EBUSY && strstr(a.err.msg, "second replicad"), "a second tracker: %d %s", a.r, a.err.msg);
	while (n)
		(void)close(fds[--n]);
	check(arm(&s, &d, fds, &n) == 0 && n == 3, "arm again: %s", s.err.msg);
	while (n)
		(void)close(fds[--n]);
	check(has_tracker(s.pid), "armed");
	must(&s, rpl_guest_pause, "it lives");
	must(&s, rpl_guest_resume, "it lives");
	rpl_guest_free(s.g);
	check(!has_tracker(s.pid), "nothing stays");
	check(state_of(s.pid) != 't' && state_of(s.pid) != 'T', "it is not stopped");
	end_qemu(s.pid);
}

/* RAM that has no name: a memfd, and a file that was unlinked. */
static void nameless(void)
{
	struct rpl_memory_desc d;
	int fds[RPL_MEMORY_FDS_MAX];
	struct side s;
	uint32_t magic = 0;
	size_t n;

	for (int i = 0; i < 2; i++) {
		ram = i ? "memory-backend-memfd" : "memory-backend-file,mem-path=";
		begin(&s, 0);
		ram = "memory-backend-file,mem-path=";
		if (!i)
			check(unlink(in_dir(0, "p.ram")) == 0, "unlink the RAM file");
		check(arm(&s, &d, fds, &n) == 0, "%s", s.err.msg);
		for (int k = 0; k < PATIENT_TURNS && magic != PAYLOAD_MAGIC; k++, run_for(TURN_MS))
			check(pread(fds[0], &magic, sizeof(magic), PAYLOAD_REPORT) == (ssize_t)sizeof(magic), "read RAM");
		check(magic == PAYLOAD_MAGIC, "the descriptor is the guest's RAM");
		magic = 0;
		while (n)
			(void)close(fds[--n]);
		finish(&s);
	}
}

static void traced(void)
{
	struct rpl_memory_desc d;
	int fds[RPL_MEMORY_FDS_MAX], status;
	struct side s;
	size_t n;

	if (!uffd_kernel_can())
		return;
	begin(&s, 0);
	check(ptrace(PTRACE_SEIZE, s.pid, NULL, NULL) == 0, "trace it");
	check(arm(&s, &d, fds, &n) == -EBUSY && strstr(s.err.msg, "is traced by process"), "%s", s.err.msg);
	check(ptrace(PTRACE_INTERRUPT, s.pid, NULL, NULL) == 0 && waitpid(s.pid, &status, __WALL) == s.pid, "stop it");
	check(ptrace(PTRACE_DETACH, s.pid, NULL, NULL) == 0, "let it go");
	check(arm(&s, &d, fds, &n) == 0, "%s", s.err.msg);
	while (n)
		(void)close(fds[--n]);
	/* stopped by a signal: it must be armed or refused, and go on afterwards */
	rpl_guest_free(s.g);
	make(&s, "p", in_dir(1, "p.qmp"), NULL, 0);
	must(&s, rpl_guest_attach, "attach");
	s.pid = running[0];
	(void)kill(s.pid, SIGSTOP);
	run_for(50);
	if (arm(&s, &d, fds, &n) == 0)
		while (n)
			(void)close(fds[--n]);
	else
		check(strstr(s.err.msg, "kill -CONT"), "%s", s.err.msg);
	(void)kill(s.pid, SIGCONT);
	must(&s, rpl_guest_pause, "pause after SIGCONT");
	must(&s, rpl_guest_resume, "resume after SIGCONT");
	finish(&s);
}

/* ---- standbys */

static void write_file(const char *path, const char *more)
{
	FILE *f = fopen(path, "we");

	write_arguments(f, "s");
	(void)fprintf(f, "-S\n-incoming\ndefer\n%s", more);
	(void)fclose(f);
}

static void check_gone(void)
{
	static const char *const names[] = { "s.qmp", "s.ram", "s.standby.log", "s.paused" };

	for (size_t i = 0; i < RPL_ARRAY_LEN(names); i++)
		check(access(in_dir(0, names[i]), F_OK) < 0, "%s is left", names[i]);
}

static void standbys(void)
{
	struct side s;
	pid_t pid;

	write_file(in_dir(2, "s.argv"), "");
	make(&s, "s", NULL, in_dir(2, "s.argv"), 0);
	must(&s, rpl_guest_standby, "standby");
	running[1] = pid = rpl_guest_pid(s.g);
	rpl_guest_leave(s.g);
	run_for(50);
	make(&s, "s", NULL, in_dir(2, "s.argv"), 0);
	must(&s, rpl_guest_standby, "adopt");
	check(rpl_guest_pid(s.g) == pid, "the same process is adopted");
	(void)kill(pid, SIGKILL);
	expect_event(&s, RPL_GUEST_LOST);
	rpl_guest_free(s.g);
	check_gone();
	make(&s, "s", NULL, in_dir(2, "s.argv"), 0);
	must(&s, rpl_guest_standby, "a new one");
	running[1] = pid = rpl_guest_pid(s.g);
	rpl_guest_free(s.g);
	check(kill(pid, 0) < 0, "it went with its keeper");
	running[1] = 0;
	check_gone();
}

/* A small filesystem of our own: what does not fit there is refused before anything is copied. */
static void no_room(void)
{
	struct side s;

	check(mkdir(in_dir(0, "small"), 0700) == 0, "mkdir");
	check(mount("replicad", in_dir(0, "small"), "tmpfs", 0, "size=8m") == 0, "mount: %s", strerror(errno));
	ram_in = "small/";
	write_file(in_dir(2, "s.argv"), "");
	ram_in = "";
	make(&s, "s", NULL, in_dir(2, "s.argv"), 0);
	check(op(&s, rpl_guest_standby) == -ENOSPC && strstr(s.err.msg, "MiB free"), "%s", s.err.msg);
	(void)printf("  %s\n", s.err.msg);
	rpl_guest_free(s.g);
	check(umount2(in_dir(0, "small"), MNT_DETACH) == 0 && rmdir(in_dir(0, "small")) == 0, "umount");
	check_gone();
}

static void bad_standbys(void)
{
	struct side s;
	pid_t pid;

	write_file(in_dir(2, "s.argv"), "-device\nno-such-device\n");
	make(&s, "s", NULL, in_dir(2, "s.argv"), 0);
	check(op(&s, rpl_guest_standby) < 0 && strstr(s.err.msg, "no-such-device"), "QEMU's own words: %s", s.err.msg);
	rpl_guest_free(s.g);
	check_gone();
	/* at its monitor a guest runs already */
	pid = start_qemu("s");
	write_file(in_dir(2, "s.argv"), "");
	make(&s, "s", NULL, in_dir(2, "s.argv"), 0);
	check(op(&s, rpl_guest_standby) == -EBUSY && strstr(s.err.msg, "running"), "%s", s.err.msg);
	rpl_guest_free(s.g);
	check(kill(pid, 0) == 0 && access(in_dir(0, "s.ram"), F_OK) == 0, "it is left alone");
	end_qemu(pid);
	(void)unlink(in_dir(0, "s.qmp"));
	(void)unlink(in_dir(0, "s.ram"));
	/* torn device state */
	make(&s, "s", NULL, in_dir(2, "s.argv"), 0);
	must(&s, rpl_guest_standby, "standby");
	{
		static const char torn[] = "QEVM\0\0\0\3\4\0\0\0\1\5timer";
		int fd = open(in_dir(0, "torn"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);

		check(write(fd, torn, sizeof(torn)) == (ssize_t)sizeof(torn), "write");
		s.done = false;
		rpl_guest_activate(s.g, fd, sizeof(torn));
		while (!s.done)
			ev_run(EV_DEFAULT, EVRUN_ONCE);
		check(s.r < 0, "torn device state is refused");
		(void)printf("  torn state: %s\n", s.err.msg);
		(void)close(fd);
		(void)unlink(in_dir(0, "torn"));
	}
	rpl_guest_free(s.g);
	check_gone();
}

static void other_user(void)
{
	struct rpl_guest_conf conf = { .backend = "qemu", .name = "s", .standby_path = in_dir(2, "s.argv"), .run_dir = dir,
				       .standby_user = "nobody" };
	struct passwd *pw = getpwnam("nobody");
	struct stat st;
	struct rpl_err err;
	struct side s = { .done = false };
	char proc[64];

	if (geteuid() != 0 || !pw)
		return;
	check(chmod(dir, 0777) == 0 && chmod(payload, 0644) == 0, "chmod");
	write_file(in_dir(2, "s.argv"), "-sandbox\non\n");
	s.g = rpl_guest_new(&conf, EV_DEFAULT, on_done, on_event, &s, &err);
	must(&s, rpl_guest_standby, "standby");
	(void)snprintf(proc, sizeof(proc), "/proc/%d", (int)rpl_guest_pid(s.g));
	check(stat(proc, &st) == 0 && st.st_uid == pw->pw_uid, "it runs as nobody");
	rpl_guest_free(s.g);
	check_gone();
}

static void parse(int argc, char **argv)
{
	for (int i = 1; i + 1 < argc; i += 2) {
		if (strcmp(argv[i], "--payload") == 0)
			payload = argv[i + 1];
		else if (strcmp(argv[i], "--helper") == 0)
			helper = argv[i + 1];
		else if (strcmp(argv[i], "--dir") == 0)
			dir = argv[i + 1];
	}
	if (!payload || !helper || !dir)
		exit(2);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*fn)(void);
	} stories[] = {
		{ "killed", killed },       { "shut down", shut_down }, { "other hands", other_hands },
		{ "plugged", plugged },     { "refused", refused },     { "hanging", hanging },     { "a keeper dies", a_keeper_dies }, { "tracked", tracked },
		{ "nameless", nameless },   { "traced", traced },       { "standbys", standbys },   { "bad standbys", bad_standbys }, { "no room", no_room },
		{ "other user", other_user },
	};

	(void)setvbuf(stdout, NULL, _IOLBF, 0);
	rpl_log_init("life", getenv("LIFE_DEBUG") ? RPL_LOG_DEBUG : RPL_LOG_INFO);
	parse(argc, argv);
	for (size_t i = 0; i < RPL_ARRAY_LEN(stories); i++) {
		story = stories[i].name;
		(void)printf("== %s\n", story);
		stories[i].fn();
	}
	(void)puts("ok");
	return 0;
}
