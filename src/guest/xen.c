/* xen.c - a Xen domain: found by name, suspended with its cooperation, resumed in place
 *
 * Suspending. A guest with PV drivers must do it itself: event channels, grants and rings are not in any stream, and the
 * guest has to notice where it wakes up. It is asked through xenstore (control/shutdown); Linux offers no quicker way. That it is
 * done is told by an event channel which we make in the guest's own table and subscribe: the guest never knows, xenstored
 * and xl's monitor do not see these suspends (stock's monitor would end at the first), and nothing is polled. Without one
 * (no run_dir: a single save) the watch @releaseDomain tells. A guest without PV drivers is stopped by Xen at once.
 *
 * Resuming is the fast way: the guest's suspend hypercall returns 1, "cancelled", and everything it has stays valid.
 *
 * A suspend that completes after we gave up waiting is undone as soon as it is seen.
 */
#include "xen_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <xen/hvm/params.h>
#include <xenguest.h>

#include <replicad/auto.h>
#include <replicad/io.h>
#include <replicad/log.h>

#define WATCH_TOKEN "replicad"
#define SUSPEND_REQUEST "suspend"

/* ---- ends and events */

static const char *reason_name(unsigned reason)
{
	static const char *const names[] = { "powered off from inside", "reboots", "suspended", "crashed", "watchdog fired",
					     "soft reset" };

	return reason < RPL_ARRAY_LEN(names) ? names[reason] : "shut down for an unknown reason";
}

/* xl does what the domain's configuration says of such an end. Where that is to start it again, it is another domain. */
static enum rpl_guest_event event_of(unsigned reason)
{
	return reason == SHUTDOWN_poweroff ? RPL_GUEST_SHUTDOWN : RPL_GUEST_REPLACED;
}

/* The domain has ended, or will, and not by an accident of ours. */
static void ended(struct xen *x, enum rpl_guest_event event, const char *why)
{
	struct rpl_guest *g = x->g;
	struct rpl_err err;

	if (x->over)
		return;
	x->over = true;
	note_set(&x->note, false);
	xen_p2m_close(x); /* frames that we hold would keep the dead domain */
	xen_qemu_abandon(x);
	if (g->busy && g->op != RPL_GUEST_QUIT && !ev_is_pending(&g->finish)) {
		(void)rpl_fail(&err, -ESRCH, "%s: %s: domain %u %s", g->conf.name, rpl_guest_op_name(g->op), x->domid, why);
		rpl_guest_op_done(g, -ESRCH, &err);
	}
	if (g->phase != RPL_GP_LIVE)
		return;
	if (event == RPL_GUEST_REPLACED)
		rpl_guest_tell(g, event, "domain %u %s: that ends its protection; if xl makes another domain of it: replicad protect %s",
			       x->domid, why, g->conf.name);
	else
		rpl_guest_tell(g, event, "domain %u %s", x->domid, why);
}

/* Xenstored does not see our suspends, unless it looks at all domains while ours stands still, since another one ended. Then
 * it says so (@releaseDomain), and would not say so again at the domain's real end. Told after the guest runs: it is a round
 * trip to a program that has other things to do just then. */
static void tell_xenstored(struct xen *x)
{
	if (x->xs_saw && xs_resume_domain(x->xs, x->domid))
		x->xs_saw = false;
}

static void resume_late(struct xen *x)
{
	rpl_log(RPL_LOG_WARNING, "vm=%s domain=%u reason=\"it suspended after nobody waited for it: resumed\"", x->g->conf.name,
		x->domid);
	if (xen_resume(x) < 0)
		rpl_log(RPL_LOG_ERROR, "vm=%s domain=%u resume=\"%s\"", x->g->conf.name, x->domid, strerror(errno));
	tell_xenstored(x);
}

static void on_stopped(struct xen *x, int r, const struct rpl_err *err)
{
	rpl_guest_op_done(x->g, r, err);
}

/* The domain stands still. Its device model must too: after that nobody writes to its memory. */
static void suspended(struct xen *x)
{
	struct rpl_err err;

	if (x->kind != XEN_HVM)
		rpl_guest_op_done(x->g, 0, NULL);
	else if (xen_qemu_stop(x, on_stopped, &err) < 0)
		rpl_guest_op_done(x->g, err.code, &err);
}

/* Something happened to some domain: to ours? */
static void look_again(struct xen *x)
{
	struct rpl_guest *g = x->g;
	struct xen_dominfo d;
	int r = xen_compat_dominfo(x->xc, x->domid, &d);

	if (x->over || !x->attached)
		return;
	if (r < 0 && r != -ESRCH) { /* not known: whoever waits for something does so for a time */
		rpl_log(RPL_LOG_WARNING, "vm=%s domain=%u look=\"%s\"", g->conf.name, x->domid, strerror(-r));
	} else if (r < 0 || d.dying) {
		ended(x, RPL_GUEST_SHUTDOWN, "was destroyed");
	} else if (d.shutdown && d.reason != SHUTDOWN_suspend) {
		ended(x, event_of(d.reason), reason_name(d.reason));
	} else if (d.shutdown && x->asked) {
		x->asked = false;
		x->answered = x->kind == XEN_PV || x->drivers;
		x->stands = x->kind != XEN_HVM; /* its device model takes a while to stop */
		x->stood = d;
		if (g->busy && g->op == RPL_GUEST_PAUSE && !ev_is_pending(&g->finish))
			suspended(x);
	} else if (d.shutdown && !x->wanted && g->info.running) { /* also while we still attach to it: asked by whoever was killed */
		resume_late(x);
	}
}

static void on_xenstore(EV_P_ ev_io *w, int revents)
{
	struct xen *x = w->data;
	bool any = false;
	char **event;

	(void)loop;
	(void)revents;
	while ((event = xs_check_watch(x->xs))) {
		any = !xen_watch_heard(x, event) || any;
		free(event);
	}
	if (any) {
		x->xs_saw = true;
		look_again(x);
		if (x->attached && !x->over && !x->wanted)
			tell_xenstored(x);
	}
	xen_watch_tell(x);
}

static void on_evtchn(EV_P_ ev_io *w, int revents)
{
	struct xen *x = w->data;
	xenevtchn_port_or_error_t port = xenevtchn_pending(x->evtchn);

	(void)loop;
	(void)revents;
	if (port < 0)
		return;
	(void)xenevtchn_unmask(x->evtchn, (evtchn_port_t)port);
	look_again(x);
}

/* ---- one at a time */

/* Xen has one dirty bitmap for a domain: a second reader would take what the first then misses. So whoever attaches holds a
 * lock on the byte of privcmd that has the domain's number: a protection, a save, a migration. Stock xl knows nothing of it;
 * what keeps it out is in xen_channel.c. */
static int take_lock(struct xen *x, struct rpl_err *err)
{
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = x->domid, .l_len = 1 };

	x->lock = open(PRIVCMD_PATH, O_RDWR | O_CLOEXEC);
	if (x->lock < 0)
		return rpl_fail_errno(err, errno, "open " PRIVCMD_PATH);
	if (fcntl(x->lock, F_OFD_SETLK, &l) == 0)
		return 0;
	if (errno != EAGAIN && errno != EACCES)
		return rpl_fail_errno(err, errno, "lock domain %u on " PRIVCMD_PATH, x->domid);
	return rpl_fail(err, -EBUSY, "domain %u is being protected, saved or migrated by replicad already (replicad status)", x->domid);
}

/* ---- handles */

static int open_xen(struct xen *x, struct rpl_err *err)
{
	struct ev_loop *loop = x->g->loop;

	x->xc = xc_interface_open(NULL, NULL, 0);
	if (!x->xc)
		return rpl_fail_errno(err, errno, "open the hypervisor's interface: is this a Xen control domain?");
	x->fmem = xc_interface_fmem_handle(x->xc);
	x->xs = xs_open(0);
	if (!x->xs)
		return rpl_fail_errno(err, errno, "connect to xenstored");
	xen_ask_open(&x->ask, xen_compat_xenstored());
	x->evtchn = xenevtchn_open(NULL, 0);
	if (!x->evtchn)
		return rpl_fail_errno(err, errno, "open the event channel device");
	if (!xs_watch(x->xs, "@releaseDomain", WATCH_TOKEN))
		return rpl_fail_errno(err, errno, "xenstore: watch the ends of domains");
	ev_io_init(&x->xs_io, on_xenstore, xs_fileno(x->xs), EV_READ);
	ev_io_init(&x->evtchn_io, on_evtchn, xenevtchn_fd(x->evtchn), EV_READ);
	x->xs_io.data = x->evtchn_io.data = x;
	ev_io_start(loop, &x->xs_io);
	ev_io_start(loop, &x->evtchn_io);
	return 0;
}

static void close_xen(struct xen *x)
{
	xen_qemu_close(x);
	if (ev_is_active(&x->xs_io))
		ev_io_stop(x->g->loop, &x->xs_io);
	if (ev_is_active(&x->evtchn_io))
		ev_io_stop(x->g->loop, &x->evtchn_io);
	if (x->xc) {
		xen_unsubscribe(x);
		xen_log_off(x);
		xen_p2m_close(x);
		xen_room_free(x, &x->context);
		xen_room_free(x, &x->registers);
		xen_forget_pieces(x);
	}
	xen_ask_close(&x->ask);
	if (x->evtchn)
		(void)xenevtchn_close(x->evtchn);
	if (x->xs)
		xs_close(x->xs);
	if (x->xc)
		(void)xc_interface_close(x->xc);
	rpl_close(&x->lock);
	x->evtchn = NULL;
	x->xs = NULL;
	x->xc = NULL;
	x->attached = false;
}

static int map_state(struct xen *x, struct rpl_err *err)
{
	void *p;

	if (x->state)
		return 0;
	if (ftruncate(x->g->state_fd, RPL_GUEST_STATE_MAX) < 0)
		return rpl_fail_errno(err, errno, "room for the device state");
	p = mmap(NULL, RPL_GUEST_STATE_MAX, PROT_READ | PROT_WRITE, MAP_SHARED, x->g->state_fd, 0);
	if (p == MAP_FAILED)
		return rpl_fail_errno(err, errno, "map the device state");
	x->state = p;
	x->scratch = malloc(XEN_SCRATCH);
	return x->scratch ? 0 : rpl_fail(err, -ENOMEM, "no memory for a record");
}

/* ---- operations */

static int attach(struct xen *x, struct rpl_err *err)
{
	struct rpl_guest *g = x->g;
	uint64_t half;
	int r;

	r = open_xen(x, err);
	if (r == 0)
		r = xen_find(x, g->conf.name, err);
	if (r == 0)
		r = take_lock(x, err);
	if (r == 0)
		r = xen_watch(x, err);
	if (r == 0)
		r = xen_inspect(x, err);
	if (r == 0)
		r = map_state(x, err);
	if (r == 0 && g->conf.run_dir)
		r = xen_subscribe(x, err);
	if (r < 0)
		return r;
	memcpy(&half, g->info.uuid.b, sizeof(half));
	g->info.paused_by_us = note_claim_id(&x->note, x->domid, half) && !g->info.running;
	note_set(&x->note, g->info.paused_by_us);
	g->info.paused_ns = note_since(&x->note);
	x->wanted = g->info.paused_by_us;
	x->xs_saw = true; /* what was before is not known */
	x->attached = true;
	return 0;
}

/* HVM: its device model is there, or not. */
static void on_device_model(struct xen *x, int r, const struct rpl_err *err)
{
	struct rpl_guest *g = x->g;
	struct rpl_err why = err ? *err : (struct rpl_err){ 0 };

	if (r < 0) {
		close_xen(x);
		(void)rpl_prefix(&why, "%s: attach", g->conf.name);
	}
	if (r < 0 && g->op != RPL_GUEST_ATTACH) {
		rpl_log(RPL_LOG_ERROR, "vm=%s domain=%u runs, but \"%s\"", g->conf.name, x->domid, why.msg);
		r = 0;
	}
	rpl_guest_op_done(g, r, &why);
}

/* Ends the operation under way, but for a failure. */
static int attach_all(struct xen *x, struct rpl_err *err)
{
	int r = attach(x, err);

	if (r == 0 && x->kind == XEN_HVM)
		r = xen_qemu_open(x, on_device_model, err);
	else if (r == 0)
		rpl_guest_op_done(x->g, 0, NULL);
	return r;
}

/* Of a domain that is attached to anew, or is another than before. */
static void know_nothing(struct xen *x)
{
	x->over = x->asked = x->wanted = x->drivers = x->answered = x->stands = x->plugged = x->plugged_told = false;
}

static int do_attach(struct rpl_guest *g, struct rpl_err *err)
{
	struct xen *x = xen_of(g);

	close_xen(x);
	know_nothing(x);
	if (attach_all(x, err) == 0)
		return 0;
	close_xen(x);
	return rpl_prefix(err, "%s: attach", g->conf.name);
}

/* ---- the backup's, until it is activated */

static int do_standby(struct rpl_guest *g, struct rpl_err *err)
{
	struct xen *x = xen_of(g);

	xen_standby_free(x->standby);
	x->standby = xen_standby_new(g, err);
	return x->standby ? xen_standby_start(x->standby, err) : err->code;
}

static int do_fit(struct rpl_guest *g, const char *primary, struct rpl_err *err)
{
	return xen_standby_fit(xen_of(g)->standby, primary, err);
}

/* To a domain that runs since a takeover. That it cannot be done does not undo that. */
static void attach_heir(struct xen *x)
{
	struct rpl_guest *g = x->g;
	struct rpl_err err = { 0 };

	x->unattached = false;
	if (attach_all(x, &err) == 0)
		return;
	rpl_log(RPL_LOG_ERROR, "vm=%s domain=%u runs, but attach=\"%s\"", g->conf.name, x->domid, err.msg);
	rpl_guest_op_done(g, 0, NULL);
}

/* The domain runs: from here on it is one like any other. If its number is known that is told at once; what a handle of it needs
 * takes a while beside a guest that has just woken up, and is fetched by the next operation, which is always do_announce(). */
static void on_activated(struct rpl_guest *g, int r, const struct rpl_err *err)
{
	struct xen *x = xen_of(g);

	if (r < 0) {
		rpl_guest_op_done(g, r, err);
		return;
	}
	xen_standby_free(x->standby);
	x->standby = NULL;
	know_nothing(x);
	x->domid = (uint32_t)g->info.life;
	x->unattached = x->domid != 0;
	g->info.running = true;
	if (x->unattached)
		rpl_guest_op_done(g, 0, NULL);
	else
		attach_heir(x);
}

static int do_activate(struct rpl_guest *g, int state_fd, size_t len, struct rpl_err *err)
{
	return xen_standby_activate(xen_of(g)->standby, state_fd, len, on_activated, err);
}

static int do_prepare(struct rpl_guest *g, int state_fd, size_t len, struct rpl_err *err)
{
	return xen_standby_prepare(xen_of(g)->standby, state_fd, len, err);
}

static void do_unprepare(struct rpl_guest *g)
{
	xen_standby_unprepare(xen_of(g)->standby);
}

/* Nothing keeps Xen's memory free for a domain that is still to be made. */
static int do_room(struct rpl_guest *g, struct rpl_err *err)
{
	xc_physinfo_t host = { 0 };
	uint64_t need, have;
	xc_interface *xc;
	int r = xen_standby_needs_mib(xen_of(g)->standby, &need, err);

	if (r < 0 || need == 0)
		return r;
	xc = xc_interface_open(NULL, NULL, 0);
	r = xc ? xc_physinfo(xc, &host) : -1;
	if (r < 0)
		(void)rpl_fail_errno(err, errno, "%s: how much memory Xen has free", g->conf.name);
	if (xc)
		(void)xc_interface_close(xc);
	if (r < 0)
		return err->code;
	have = (host.free_pages - host.outstanding_pages) >> (20 - RPL_PAGE_SHIFT); /* as xl counts it */
	return have >= need ? 0 : rpl_fail(err, -ENOMEM, "a takeover of %.100s needs %" PRIu64 " MiB, Xen has %" PRIu64
					   " MiB free on this host: free some, or give dom0 less", g->conf.name, need, have);
}

static int not_attached(struct rpl_guest *g, struct rpl_err *err)
{
	return rpl_fail(err, -ENOTCONN, "%s: the domain runs, and could not be attached to after its takeover: see the log", g->conf.name);
}

static int do_memory(struct rpl_guest *g, struct rpl_memory_desc *ret, int *fds, size_t *ret_n, struct rpl_err *err)
{
	struct xen *x = xen_of(g);

	if (x->standby)
		return xen_standby_memory(x->standby, ret, fds, ret_n, err);
	return x->attached ? xen_memory(g, ret, fds, ret_n, err) : not_attached(g, err);
}

/* It is not what was inspected any more. What is found now is what the next session has; its log begins anew with that. If it cannot
 * be protected as it is, what was known stays, and it is looked at again. */
static int do_look(struct rpl_guest *g, struct rpl_err *err)
{
	struct rpl_guest_info before = g->info, *i = &g->info;
	struct xen *x = xen_of(g);
	int r;

	if (!x->attached)
		return not_attached(g, err);
	xen_log_off(x);
	x->plugged = x->plugged_told = false;
	i->definition = i->interfaces = NULL;
	r = xen_inspect(x, err);
	if (r < 0) {
		free(i->definition);
		free(i->interfaces);
		*i = before;
		return rpl_prefix(err, "%s: look", g->conf.name);
	}
	free(before.definition);
	free(before.interfaces);
	i->paused_by_us = before.paused_by_us;
	i->paused_ns = before.paused_ns;
	rpl_guest_op_done(g, 0, NULL);
	return 0;
}

/* A guest whose drivers would not survive without knowing is asked; others are stopped. */
static bool must_ask(struct xen *x)
{
	uint64_t irq = 0, sleeping = 0;

	if (x->kind == XEN_PV || x->drivers)
		return true;
	if (xc_hvm_param_get(x->xc, x->domid, HVM_PARAM_CALLBACK_IRQ, &irq) < 0 ||
	    xc_hvm_param_get(x->xc, x->domid, HVM_PARAM_ACPI_S_STATE, &sleeping) < 0)
		return true; /* not known: asking harms nobody */
	x->drivers = irq && !sleeping && x->kind == XEN_PVH; /* which has no sleep to fall into */
	return irq && !sleeping;
}

static int request_suspend(struct xen *x, struct rpl_err *err)
{
	char path[XEN_PATH];

	if (!must_ask(x))
		return xc_domain_shutdown(x->xc, x->domid, SHUTDOWN_suspend) < 0 ?
		       rpl_fail_errno(err, errno, "domain %u: stop it", x->domid) : 0;
	(void)snprintf(path, sizeof(path), "/local/domain/%u/control/shutdown", x->domid);
	if (xen_ask_write(&x->ask, path, SUSPEND_REQUEST) == 0)
		return 0;
	if (!xs_write(x->xs, XBT_NULL, path, SUSPEND_REQUEST, sizeof(SUSPEND_REQUEST) - 1))
		return rpl_fail_errno(err, errno, "xenstore: write %s", path);
	return 0;
}

/* The guest did not answer: take the request back, if it has not taken it yet. */
static void withdraw_suspend(struct xen *x)
{
	xs_transaction_t t;
	char path[XEN_PATH], *now;
	unsigned len;

	x->drivers = false; /* perhaps they are gone */
	xen_ask_settle(&x->ask);
	t = xs_transaction_start(x->xs);
	if (t == XBT_NULL)
		return;
	(void)snprintf(path, sizeof(path), "/local/domain/%u/control/shutdown", x->domid);
	now = xs_read(x->xs, t, path, &len);
	if (now && strcmp(now, SUSPEND_REQUEST) == 0)
		(void)xs_write(x->xs, t, path, "", 0);
	free(now);
	/* a conflict means that the guest has just answered: it will suspend, and be resumed */
	(void)xs_transaction_end(x->xs, t, false);
}

static int do_pause(struct rpl_guest *g, struct rpl_err *err)
{
	struct xen *x = xen_of(g);
	struct xen_dominfo d;
	int r;

	if (!x->attached)
		return not_attached(g, err);
	r = xen_compat_dominfo(x->xc, x->domid, &d);
	if (r == 0 && d.paused)
		return rpl_fail(err, -EBUSY, "%s: pause: another program holds the domain paused: xl unpause", g->conf.name);
	if (x->plugged)
		return rpl_fail(err, -ESTALE, "%s: pause: a device of domain %u was plugged in or out since it was inspected",
				g->conf.name, x->domid);
	if (x->kind == XEN_HVM && !xen_qemu_alive(x)) /* before the guest is asked to stand still for nothing */
		return rpl_fail(err, -ENOTCONN, "%s: pause: the monitor of its device model was closed", g->conf.name);
	note_set(&x->note, true);
	x->wanted = true;
	x->stands = false;
	if (r == 0 && d.shutdown && d.reason == SHUTDOWN_suspend) {
		suspended(x);
		return 0;
	}
	x->asked = true;
	r = request_suspend(x, err);
	if (r < 0) {
		x->asked = false;
		return rpl_prefix(err, "%s: pause", g->conf.name);
	}
	return 0;
}

static void on_saved(struct xen *x, int r, const struct rpl_err *err)
{
	struct rpl_err why = err ? *err : (struct rpl_err){ 0 };

	if (r == 0)
		r = xen_state_finish(x, &why);
	if (r < 0)
		(void)rpl_prefix(&why, "%s: save", x->g->conf.name);
	rpl_guest_op_done(x->g, r, &why);
}

static int do_save(struct rpl_guest *g, struct rpl_err *err)
{
	struct xen *x = xen_of(g);
	struct xen_dominfo d = x->stood;
	int r = x->stands ? 0 : xen_compat_dominfo(x->xc, x->domid, &d);

	x->stands = false;
	g->state_len = 0;
	if (r == 0 && (!d.shutdown || d.reason != SHUTDOWN_suspend))
		return rpl_fail(err, -EBUSY, "%s: save: domain %u is not suspended", g->conf.name, x->domid);
	if (r < 0)
		return rpl_fail_errno(err, -r, "%s: save: domain %u", g->conf.name, x->domid);
	if (!x->logging)
		r = rpl_fail(err, -EINVAL, "its writes are not logged");
	if (r == 0 && x->kind == XEN_HVM) /* it writes its state, and nothing else, while we look at the domain */
		r = xen_qemu_save(x, on_saved, err);
	if (r == 0)
		r = xen_collect(x, &d, NULL, err);
	if (r == 0)
		r = xen_state_save(x, err);
	if (r < 0) {
		xen_qemu_abandon(x);
		return rpl_prefix(err, "%s: save", g->conf.name);
	}
	if (x->kind != XEN_HVM)
		rpl_guest_op_done(g, 0, NULL);
	return 0;
}

/* The call itself refuses a domain that is not suspended, so nothing is asked before it: each question is a piece of the pause. */
static int resume_domain(struct xen *x, struct rpl_err *err)
{
	struct rpl_guest *g = x->g;
	struct xen_dominfo d = { 0 };
	int r = 0, e = 0;

	if (xen_resume(x) < 0) {
		e = errno;
		r = xen_compat_dominfo(x->xc, x->domid, &d);
	}
	if (r == -ESRCH)
		return rpl_fail_errno(err, -r, "%s: resume: domain %u", g->conf.name, x->domid);
	x->wanted = false; /* a suspend that is still under way is undone when it comes */
	if (e && (r < 0 || (d.shutdown && d.reason == SHUTDOWN_suspend)))
		return rpl_fail_errno(err, e, "%s: resume: domain %u", g->conf.name, x->domid);
	if (e && !d.shutdown && !g->info.running && !g->info.paused_by_us) { /* what was copied is of no one moment */
		g->info.running = true;
		note_set(&x->note, false);
		return rpl_fail(err, -EBUSY, "%s: resume: another program resumed domain %u in the middle of a pause", g->conf.name,
				x->domid);
	}
	note_set(&x->note, false);
	tell_xenstored(x);
	rpl_guest_op_done(g, 0, NULL);
	return 0;
}

/* A guest with PV drivers may get along without its device model; one that stands still cannot even be shut down. */
static int resume_without(struct xen *x, const struct rpl_err *why, struct rpl_err *err)
{
	rpl_log(RPL_LOG_ERROR, "vm=%s domain=%u resumed=\"without its device model: %s\"", x->g->conf.name, x->domid, why->msg);
	return resume_domain(x, err);
}

/* The device model goes first: a domain without it reads ones from its ports and loses what it writes to them. One that dies now
 * may be connected to for a moment more, and fail only then; one that hangs gets a part of our time. */
static void on_continued(struct xen *x, int r, const struct rpl_err *err)
{
	struct rpl_err why = { 0 };

	r = r < 0 ? resume_without(x, err, &why) : resume_domain(x, &why);
	if (r < 0)
		rpl_guest_op_done(x->g, r, &why);
}

/* Its monitor was lost and is there again. */
static void on_reopened(struct xen *x, int r, const struct rpl_err *err)
{
	struct rpl_err mine = { 0 };

	if (r < 0)
		on_continued(x, r, err);
	else if (xen_qemu_cont(x, on_continued, &mine) < 0)
		on_continued(x, mine.code, &mine);
}

static int do_resume(struct rpl_guest *g, struct rpl_err *err)
{
	struct xen *x = xen_of(g);
	struct rpl_err why = { 0 };

	if (x->kind != XEN_HVM)
		return resume_domain(x, err);
	if (xen_qemu_alive(x) ? xen_qemu_cont(x, on_continued, &why) == 0 : xen_qemu_reopen(x, on_reopened, &why) == 0)
		return 0;
	return resume_without(x, &why, err);
}

static void do_abandon(struct rpl_guest *g)
{
	struct xen *x = xen_of(g);

	if (g->op == RPL_GUEST_STANDBY || g->op == RPL_GUEST_ACTIVATE)
		xen_standby_abandon(x->standby);
	xen_qemu_abandon(x);
	if (g->op == RPL_GUEST_ATTACH)
		close_xen(x);
	if (g->op == RPL_GUEST_PAUSE && x->asked) {
		x->asked = x->wanted = false;
		withdraw_suspend(x);
	}
}

/* The switches are told by Linux' own network front end, when it wakes up in a new domain. */
static int do_announce(struct rpl_guest *g, struct rpl_err *err)
{
	(void)err;
	if (xen_of(g)->unattached)
		attach_heir(xen_of(g));
	else
		rpl_guest_op_done(g, 0, NULL);
	return 0;
}

static void on_destroyed(EV_P_ ev_io *w, int revents)
{
	struct xen *x = w->data;
	siginfo_t si;

	(void)revents;
	ev_io_stop(loop, w);
	/* ECHILD if the loop has reaped it */
	(void)waitid(P_PIDFD, (id_t)x->destroyer, &si, WEXITED | WNOHANG);
	rpl_close(&x->destroyer);
	if (x->g->busy && x->g->op == RPL_GUEST_QUIT)
		rpl_guest_op_done(x->g, 0, NULL);
}

/* The toolstack's own command takes a domain apart with its devices; it fails if there is none, which is as good. */
static int destroy(struct xen *x, const char *which, struct rpl_err *err)
{
	char domain[256], xl[] = "xl", order[] = "destroy";
	char *argv[] = { xl, order, domain, NULL };
	pid_t pid;
	int r;

	(void)snprintf(domain, sizeof(domain), "%s", which);
	r = posix_spawnp(&pid, xl, NULL, NULL, argv, environ);
	if (r)
		return rpl_fail_errno(err, r, "%s: quit: start xl destroy %s", x->g->conf.name, domain);
	x->destroyer = pidfd_open(pid, 0);
	if (x->destroyer < 0)
		return rpl_fail_errno(err, errno, "%s: quit: watch xl destroy %s", x->g->conf.name, domain);
	ev_io_init(&x->destroyed, on_destroyed, x->destroyer, EV_READ);
	x->destroyed.data = x;
	ev_io_start(x->g->loop, &x->destroyed);
	return 0;
}

/* The domain stands still at once. */
static int do_quit(struct rpl_guest *g, struct rpl_err *err)
{
	struct xen *x = xen_of(g);
	char domid[16];

	if (x->standby) { /* nothing, or what an activation that was given up left, known by its name */
		xen_standby_free(x->standby);
		x->standby = NULL;
		return destroy(x, g->conf.name, err);
	}
	if (!x->domid || (!x->xc && !x->unattached))
		return rpl_fail(err, -ESRCH, "%s: quit: its domain is not known", g->conf.name);
	x->over = true;
	note_set(&x->note, false);
	xen_p2m_close(x);
	if (x->xc)
		(void)xc_domain_pause(x->xc, x->domid); /* fails if it is gone */
	(void)snprintf(domid, sizeof(domid), "%u", x->domid);
	return destroy(x, domid, err);
}

int rpl_xen_call_it(struct rpl_guest *g, const char *name, struct rpl_err *err)
{
	struct xen *x = xen_of(g);
	char path[XEN_PATH];

	rpl_assert(x->attached);
	(void)snprintf(path, sizeof(path), "/local/domain/%u/name", x->domid);
	if (!xs_write(x->xs, XBT_NULL, path, name, (unsigned)strlen(name)))
		return rpl_fail_errno(err, errno, "xenstore: write %s = %.100s", path, name);
	return 0;
}

static int do_collect(struct rpl_guest *g, uint64_t *ret_pages, struct rpl_err *err)
{
	int r = xen_collect(xen_of(g), NULL, ret_pages, err);

	return r < 0 ? rpl_prefix(err, "%s: collect", g->conf.name) : 0;
}

/* ---- the handle */

static int do_init(struct rpl_guest *g, struct rpl_err *err)
{
	struct xen *x = calloc(1, sizeof(*x));

	g->priv = x;
	if (!x)
		return rpl_fail(err, -ENOMEM, "%s: no memory", g->conf.name);
	x->g = g;
	x->suspend_port = x->suspend_lock = x->destroyer = x->lock = x->ask.sock = -1;
	return g->conf.run_dir ? note_open(&x->note, g->conf.run_dir, g->conf.name, err) : 0;
}

static void do_fini(struct rpl_guest *g, bool keep_standby)
{
	struct xen *x = xen_of(g);

	(void)keep_standby;
	if (!x)
		return;
	if (ev_is_active(&x->destroyed))
		ev_io_stop(g->loop, &x->destroyed);
	rpl_close(&x->destroyer);
	close_xen(x);
	xen_standby_free(x->standby);
	if (x->over && g->conf.run_dir)
		xen_forget_port(x);
	/* a guest that is still suspended by us needs its note */
	note_close(&x->note, !x->note.page || x->over || g->info.running || g->phase != RPL_GP_LIVE);
	if (x->state)
		(void)munmap(x->state, RPL_GUEST_STATE_MAX);
	free(x->head);
	free(x->scratch);
	free(x);
}

static pid_t do_pid(const struct rpl_guest *g)
{
	(void)g;
	return 0; /* a domain is no process */
}

const struct rpl_guest_ops rpl_guest_xen = {
	.name = "xen",
	.init = do_init,
	.attach = do_attach,
	.look = do_look,
	.pause = do_pause,
	.save = do_save,
	.resume = do_resume,
	.announce = do_announce,
	.quit = do_quit,
	.abandon = do_abandon,
	.collect = do_collect,
	.standby = do_standby,
	.fit = do_fit,
	.activate = do_activate,
	.prepare = do_prepare,
	.unprepare = do_unprepare,
	.room = do_room,
	.standby_ms = XEN_STANDBY_TIMEOUT_MS,
	.memory = do_memory,
	.pid = do_pid,
	.fini = do_fini,
};
