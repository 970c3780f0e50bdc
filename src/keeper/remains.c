/* remains.c - what an earlier keeper of this VM left: the process that it watched, and the files that it made
 *
 * A standby's QEMU outlives the keeper that started it, be it a standby still or the guest since. So do its RAM file, its
 * monitor's socket and its log, which go when the process does. While one keeper lives the guest's handle sees to that;
 * a keeper that was killed is followed by one whose handle may never meet that process: it died in between, or it hangs
 * and answers no monitor. So each keeper writes down what was made (persist.c), and the next one removes exactly that as
 * soon as the process is gone, whatever the record says and whether there is anything else left to do. A file is what it
 * was only as long as its inode is: somebody may have booted another guest with the same paths.
 */
#include "keeper.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/io.h>
#include <replicad/log.h>
#include <replicad/process.h>

#define CLOSE_WAIT_MS 1000 /* for a killed process, when this keeper ends: its memory takes a moment to be freed */

void remains_note(struct keeper *k)
{
	const char *files[RPL_GUEST_MADE_MAX];
	struct keeper_made *m = &k->made;
	size_t n = rpl_guest_made(k->guest, files);
	pid_t pid = rpl_guest_pid(k->guest);
	struct stat st;

	if (!n || !pid)
		return;
	*m = (struct keeper_made){ .pid = pid, .started = rpl_process_start_time(pid) };
	for (size_t i = 0; i < n; i++) {
		struct made_file *f = &m->file[m->n];

		if (lstat(files[i], &st) < 0 || rpl_path(f->path, sizeof(f->path), NULL, "%s", files[i]) < 0)
			continue; /* not made yet; noted again when the standby is ready */
		f->dev = st.st_dev;
		f->ino = st.st_ino;
		m->n++;
	}
}

void remains_forget(struct keeper *k)
{
	if (!rpl_process_lives(k->made.pid, k->made.started))
		k->made = (struct keeper_made){ 0 };
}

static void sweep(struct keeper *k)
{
	struct keeper_made *m = &k->made;
	struct stat st;

	for (size_t i = 0; i < m->n; i++) {
		const struct made_file *f = &m->file[i];

		if (lstat(f->path, &st) < 0 || st.st_dev != f->dev || st.st_ino != f->ino || S_ISDIR(st.st_mode))
			continue;
		if (unlink(f->path) == 0)
			rpl_log(RPL_LOG_INFO, "vm=%s removed=%s made_for=%d", k->conf.vm, f->path, (int)m->pid);
	}
	*m = (struct keeper_made){ 0 };
}

static void let_go(struct keeper *k)
{
	struct remains *r = &k->remains;

	if (r->pidfd < 0)
		return;
	ev_io_stop(k->loop, &r->gone);
	rpl_close(&r->pidfd);
}

static void on_gone(EV_P_ ev_io *w, int revents)
{
	struct keeper *k = w->data;
	bool asked = k->remains.asked;

	(void)loop;
	(void)revents;
	let_go(k);
	k->remains.asked = false;
	if (k->made.pid == k->remains.pid) /* else there is another standby by now */
		sweep(k);
	if (asked) {
		k->killing = false;
		keeper_say(k, RPL_EV_GUEST_KILLED);
	}
	keeper_rest_soon(k); /* a standby may have waited for that */
	keeper_pursue(k);
}

void remains_find(struct keeper *k, const struct keeper_past *past)
{
	struct remains *r = &k->remains;
	bool made = past->made.pid != 0;

	k->made = past->made;
	r->pid = made ? past->made.pid : past->guest_pid;
	r->ran = past->guest_pid != 0;
	r->down = past->down;
	r->pidfd = rpl_process_open(r->pid, made ? past->made.started : past->guest_started);
	if (r->pidfd < 0) {
		sweep(k);
		return;
	}
	ev_io_init(&r->gone, on_gone, r->pidfd, EV_READ);
	r->gone.data = k;
	ev_io_start(k->loop, &r->gone);
}

static void kill_it(struct keeper *k)
{
	rpl_log(RPL_LOG_WARNING, "vm=%s pid=%d action=kill: its monitor was not reached, and it is to be gone", k->conf.vm,
		(int)k->remains.pid);
	(void)pidfd_send_signal(k->remains.pidfd, SIGKILL, NULL, 0);
}

bool remains_lives(const struct keeper *k)
{
	return k->remains.pidfd >= 0;
}

bool remains_is_standby(const struct keeper *k)
{
	return k->remains.pidfd >= 0 && k->made.pid == k->remains.pid && !k->remains.ran;
}

void remains_end(struct keeper *k)
{
	if (k->remains.pidfd < 0)
		return;
	kill_it(k);
	if (!rpl_process_gone(k->remains.pidfd, CLOSE_WAIT_MS))
		return; /* on_gone() */
	sweep(k);
	let_go(k);
}

bool remains_kill(struct keeper *k)
{
	if (k->remains.pidfd < 0)
		return false;
	kill_it(k);
	k->remains.asked = true;
	return true;
}

/* It may be the only copy: nothing but a record that names the peer makes it worthless. */
bool remains_in_the_way(struct keeper *k)
{
	if (k->remains.pidfd < 0 || !k->remains.ran)
		return false;
	if (k->core.state == RPL_ST_IDLE && k->core.rec_known && !keeper_owns(k, &k->core.rec))
		kill_it(k);
	return true;
}

void remains_close(struct keeper *k)
{
	struct remains *r = &k->remains;
	bool end = r->pidfd >= 0 && k->made.pid && (r->down || !r->ran); /* it shut down, or is a standby that nobody needs */

	if (end)
		(void)pidfd_send_signal(r->pidfd, SIGKILL, NULL, 0);
	if (r->pidfd >= 0 && rpl_process_gone(r->pidfd, end ? CLOSE_WAIT_MS : 0))
		sweep(k);
	let_go(k);
}
