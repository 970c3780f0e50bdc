/* qemu_doctor.c - say before the fact whether a guest would be refused, and what mends it */
#include <replicad/qemu.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/io.h>

#include "qemu_impl.h"
#include "uffd.h"

#define DOCTOR_TIMEOUT_MS 5000
#define YAMA "/proc/sys/kernel/yama/ptrace_scope"

struct doctor {
	const struct rpl_doctor_conf *conf;
	rpl_check_fn *fn;
	void *arg;
	int fails;

	/* asking */
	struct ev_loop *loop;
	struct qmp *qmp;
	struct qemu_facts facts;
	unsigned next;
	bool done;
	struct rpl_err err;
};

static void report(struct doctor *d, const char *name, enum rpl_check_level level, const char *mend, const char *fmt, ...)
	RPL_PRINTF(5, 6);
static void report(struct doctor *d, const char *name, enum rpl_check_level level, const char *mend, const char *fmt, ...)
{
	struct rpl_check c = { .name = name, .level = level };
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(c.sentence, sizeof(c.sentence), fmt, ap);
	va_end(ap);
	(void)snprintf(c.mend, sizeof(c.mend), "%s", level == RPL_CHECK_OK ? "" : mend);
	d->fails += level == RPL_CHECK_FAIL;
	d->fn(d->arg, &c);
}

/* ---- the host */

static bool wants(const struct doctor *d, const char *tracker)
{
	return d->conf->tracker && strcmp(d->conf->tracker, tracker) == 0;
}

static void look_kernel(struct doctor *d)
{
	if (wants(d, "compare"))
		report(d, "kernel", RPL_CHECK_OK, "", "tracker=compare works on every kernel");
	else if (uffd_kernel_can())
		report(d, "kernel", RPL_CHECK_OK, "", "the kernel tracks written pages (PAGEMAP_SCAN)");
	else
		report(d, "kernel", wants(d, "uffd") ? RPL_CHECK_FAIL : RPL_CHECK_WARN,
		       "boot Linux 6.7 or newer (Debian 12: apt-get install -t bookworm-backports linux-image-amd64)",
		       "the kernel cannot track written pages: all RAM is compared in each pause (tracker=compare)");
}

static bool uses_helper(const struct doctor *d)
{
	return !wants(d, "compare") && uffd_kernel_can();
}

static void look_helper(struct doctor *d)
{
	const char *path = d->conf->helper_path ? d->conf->helper_path : RPL_LIBEXECDIR "/replicad-attach";

	if (access(path, X_OK) == 0)
		report(d, "helper", RPL_CHECK_OK, "", "the attach helper is there");
	else
		report(d, "helper", RPL_CHECK_FAIL, "make install, or reinstall the package", "no attach helper at %s", path);
}

static void look_ptrace(struct doctor *d)
{
	RPL_AUTO_FREE char *text = NULL;
	int scope = 0;

	if (rpl_read_file(YAMA, 64, &text, NULL, NULL) == 0)
		scope = atoi(text);
	if (scope == 3)
		report(d, "ptrace", RPL_CHECK_FAIL, "set kernel.yama.ptrace_scope below 3 and reboot, or use tracker=compare",
		       "ptrace is switched off until the next boot (kernel.yama.ptrace_scope=3)");
	else if (geteuid() != 0 && scope > 0)
		report(d, "ptrace", RPL_CHECK_FAIL, "run the agent as root, or use tracker=compare",
		       "ptrace needs CAP_SYS_PTRACE here (kernel.yama.ptrace_scope=%d)", scope);
	else
		report(d, "ptrace", RPL_CHECK_OK, "", "the attach helper may ptrace%s", geteuid() ? " guests of this user" : "");
}

/* ---- asking the guest: as attach does, but what one answer refuses does not end the questions */

static void ask(struct doctor *d);

static void on_answer(void *arg, json_t *ret, const struct rpl_err *err)
{
	struct doctor *d = arg;

	d->facts.fact[d->next++] = err ? NULL : json_incref(ret);
	ask(d);
}

static void stop(struct doctor *d)
{
	d->done = true;
	ev_break(d->loop, EVBREAK_ALL);
}

static void ask(struct doctor *d)
{
	const char *command;
	json_t *args;

	while (d->next < QF_N && qemu_fact_command(&d->facts, (enum qemu_fact)d->next, &command, &args, NULL) < 0)
		d->next++; /* it depends on something that is not there */
	if (d->next == QF_N || qmp_call(d->qmp, command, args, -1, on_answer, &d->err) < 0)
		stop(d);
}

static void on_ready(void *arg, json_t *version)
{
	struct doctor *d = arg;

	d->facts.version = json_incref(version);
	ask(d);
}

static void on_closed(void *arg, const struct rpl_err *err)
{
	struct doctor *d = arg;

	d->err = *err;
	stop(d);
}

static void on_timeout(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct doctor *d = w->data;

	(void)loop;
	(void)revents;
	(void)rpl_fail(&d->err, -ETIMEDOUT, "no answer within %g ms: another program holds this monitor (a replicad that protects it already?) or QEMU hangs",
		       w->repeat * 1000);
	stop(d);
}

static int talk(struct doctor *d)
{
	static const struct qmp_callbacks cb = { .ready = on_ready, .closed = on_closed };
	unsigned ms = d->conf->timeout_ms ? d->conf->timeout_ms : DOCTOR_TIMEOUT_MS;
	ev_timer limit;

	d->qmp = qmp_open(d->conf->qmp_path, d->loop, &cb, d, &d->err);
	if (!d->qmp)
		return d->err.code;
	ev_timer_init(&limit, on_timeout, ms / 1000., ms / 1000.);
	limit.data = d;
	ev_timer_start(d->loop, &limit);
	while (!d->done)
		ev_run(d->loop, 0);
	ev_timer_stop(d->loop, &limit);
	return d->err.code;
}

/* ---- the guest */

static void on_verdict(void *arg, const char *name, int r, const char *sentence, const char *mend)
{
	report(arg, name, r ? RPL_CHECK_FAIL : RPL_CHECK_OK, mend, "%s", sentence);
}

static void look_running(struct doctor *d)
{
	json_t *status = d->facts.fact[QF_STATUS];
	const char *s = json_string_value(json_object_get(status, "status"));

	if (json_is_true(json_object_get(status, "running")))
		report(d, "running", RPL_CHECK_OK, "", "it runs");
	else
		report(d, "running", RPL_CHECK_WARN, "resume it (QMP: cont)", "it is not running (%s)", s ? s : "unknown");
}

static void look_kvm(struct doctor *d)
{
	if (json_is_true(json_object_get(d->facts.fact[QF_KVM], "enabled")))
		report(d, "accelerator", RPL_CHECK_WARN, "measure the pauses on your own machine first: replicad status",
		       "it runs on KVM, which replicad's own figures do not cover yet");
	else
		report(d, "accelerator", RPL_CHECK_OK, "", "it runs without KVM, as replicad was measured");
}

/* A RAM file on a disk makes every page that is written a disk write. */
static void look_ram_file(struct doctor *d)
{
	const char *path = json_string_value(d->facts.fact[QF_MEMPATH]);
	struct statfs fs;

	if (!path || !*path || statfs(path, &fs) < 0)
		return;
	if (fs.f_type == 0x01021994 || fs.f_type == 0x958458f6) /* TMPFS_MAGIC, HUGETLBFS_MAGIC */
		report(d, "ramfile", RPL_CHECK_OK, "", "its RAM file lies in memory (%.100s)", path);
	else
		report(d, "ramfile", RPL_CHECK_WARN, "start it with mem-path below /dev/shm", "its RAM file %.100s lies on a disk: slow", path);
}

static int look_guest(struct doctor *d, struct rpl_err *err)
{
	int r = talk(d);

	if (r < 0)
		return rpl_fail(err, r, "%s: %.200s", d->conf->qmp_path, d->err.msg);
	look_running(d);
	qemu_examine(d->conf->vm, &d->facts, d->conf->any_netdev, on_verdict, d);
	look_ram_file(d);
	look_kvm(d);
	if (d->conf->any_netdev)
		report(d, "netbuf", RPL_CHECK_WARN, "use netbuf=relay", "netbuf=none: clients may see answers that a takeover takes back");
	return 0;
}

/* ---- the standby file */

static void look_standby(struct doctor *d)
{
	RPL_AUTO_FREE char *text = NULL;
	char *argv[QEMU_ARGS_MAX + 1], qmp[256], ram[256];
	struct rpl_err err;
	int r;

	r = rpl_read_file(d->conf->standby_path, QEMU_ARGV_FILE_MAX, &text, NULL, &err);
	if (r == 0)
		r = qemu_parse_argv(text, argv, &err);
	if (r == 0)
		r = qemu_check_argv(argv, NULL, qmp, ram, &err);
	if (r < 0)
		report(d, "standby", RPL_CHECK_FAIL, "on the primary: replicad qemu-args NAME --standby, then put the file on the backup",
		       "%s: %.180s", d->conf->standby_path, err.msg);
	else
		report(d, "standby", RPL_CHECK_OK, "", "%s waits for device state at %s", d->conf->standby_path, qmp);
}

int rpl_doctor_qemu(const struct rpl_doctor_conf *conf, rpl_check_fn *fn, void *arg, struct rpl_err *err)
{
	struct doctor d = { .conf = conf, .fn = fn, .arg = arg };
	int r = 0;

	look_kernel(&d);
	if (uses_helper(&d)) {
		look_helper(&d);
		look_ptrace(&d);
	}
	if (conf->standby_path)
		look_standby(&d);
	if (conf->qmp_path) {
		d.loop = ev_loop_new(EVFLAG_AUTO);
		if (!d.loop)
			return rpl_fail(err, -ENOMEM, "no event loop");
		r = look_guest(&d, err);
		qmp_free(d.qmp);
		qemu_facts_fini(&d.facts);
		ev_loop_destroy(d.loop);
	}
	return r < 0 ? r : d.fails;
}
