/* pausemeter.c - how often and for how long a domain stands suspended, seen from beside
 *
 * pausemeter floor DOMID SECONDS: nobody protects the domain; asks it to suspend, lets it go on at once, asks again, all the
 * time. What that costs is the guest's own, and no checkpoint can come more often. An event channel tells that it stands still.
 *
 * pausemeter DOMID SECONDS [LOOK_US]: whoever it is that suspends the domain; prints one JSON object. A period goes from one
 * request that the guest takes to the next. Its parts:
 *
 *   handshake  from the request in xenstore (control/shutdown, which it watches) to the guest's own last act;
 *              of that "taken": until the guest took the request
 *   pause      as long as Xen says "shut down, to be suspended": what the toolstack does to the guest that stands still
 *   run        from then to the next request: the interval, and whatever else is waited for
 *
 * Checkpoints are counted by the requests that the guest took ("checkpoints", "per_s"): xenstored tells of each of them, none can be
 * too short to be seen. When the guest stands still and when it runs again is looked up every LOOK_US microseconds (default 1000),
 * from when it took the request until it runs: before, nothing can change. A look is a hypercall, and where dom0 and the guest
 * share one emulated processor each look takes that from the guest, with all that the processor remembers of it: looks at every
 * millisecond halve the rate, and what xenstored tells costs a tenth of it alone. So a rate is to be taken from the guest's own count
 * (compare). "unseen": pauses that no look has met. So that this is 0 the meter goes before everything else in its dom0
 * (SCHED_FIFO); it sleeps but for the looks.
 *
 * Runs in the lab's dom0s.
 */
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "src/guest/xen_compat.h" /* before the others: it makes Xen's headers those of a toolstack */

#include <xenevtchn.h>
#include <xenguest.h>
#include <xenstore.h>

#define LOOK_US 1000
#define IDLE_MS 100 /* nothing to look for: only the end of the time */
#define PAUSES_MAX 20000
#define NS_IN_S 1000000000LL
#define NS_IN_US 1000
#define FLOOR_WAIT_MS 20000

enum part { HANDSHAKE, TAKEN, PAUSE, RUN, PERIOD, N_PARTS };
static const char *const part_names[N_PARTS] = { "handshake_ms", "taken_ms", "pause_ms", "run_ms", "period_ms" };

struct values {
	size_t n;
	long long ns[PAUSES_MAX];
};

struct meter {
	xc_interface *xc;
	struct xs_handle *xs;
	uint32_t domid;
	char path[64];                                  /* of its control/shutdown */
	long long requested, taken, suspended, resumed; /* of this period; 0: not yet */
	long long begun;                                /* when the request of the period before was taken */
	long long looking;                              /* ns spent in looks */
	long look_us;
	long looks, checkpoints, unseen;
	bool wanted;                                    /* the last thing that was written is a request */
	struct values part[N_PARTS];
};

static long long now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * NS_IN_S + t.tv_nsec;
}

static void note(struct meter *m, enum part part, long long from, long long to)
{
	struct values *v = &m->part[part];

	if (from && v->n < PAUSES_MAX)
		v->ns[v->n++] = to - from;
}

static int by_value(const void *a, const void *b)
{
	long long x = *(const long long *)a, y = *(const long long *)b;

	return (x > y) - (x < y);
}

static double ms(const struct values *v, unsigned percent)
{
	return v->n ? (double)v->ns[(v->n - 1) * percent / 100] / 1e6 : 0;
}

static void print(struct meter *m, long long took)
{
	printf("{\"seconds\": %.3f, \"looks\": %ld, \"looking_percent\": %.1f, \"checkpoints\": %ld, \"unseen\": %ld, \"per_s\": %.2f",
	       (double)took / NS_IN_S, m->looks, (double)m->looking * 100 / (double)took, m->checkpoints, m->unseen,
	       (double)m->checkpoints * NS_IN_S / (double)took);
	for (unsigned i = 0; i < N_PARTS; i++) {
		struct values *v = &m->part[i];

		qsort(v->ns, v->n, sizeof(*v->ns), by_value);
		printf(", \"%s\": {\"p50\": %.2f, \"p90\": %.2f, \"max\": %.2f}", part_names[i], ms(v, 50), ms(v, 90), ms(v, 100));
	}
	printf("}\n");
}

static void on_request(struct meter *m, long long now)
{
	if (m->taken && !m->resumed) { /* the next one already */
		m->unseen++;
		m->suspended = 0;
	}
	note(m, RUN, m->resumed, now);
	m->resumed = m->taken = 0;
	m->requested = now;
}

static void on_taken(struct meter *m, long long now)
{
	m->taken = now;
	m->checkpoints++;
	note(m, PERIOD, m->begun, now);
	note(m, TAKEN, m->requested, now);
	m->begun = now;
}

/* The toolstack writes what it wants, then the guest that it has seen it: two events a period, each of them told. */
static void on_xenstore(struct meter *m)
{
	long long now = now_ns();
	char **event;

	while ((event = xs_check_watch(m->xs))) {
		free(event);
		m->wanted = !m->wanted;
		if (m->wanted)
			on_request(m, now);
		else if (m->requested)
			on_taken(m, now);
	}
}

/* What has been told so far and is not looked at. */
static bool skip_told(struct meter *m)
{
	bool any = false;
	char **event;

	for (; (event = xs_check_watch(m->xs)); any = true)
		free(event);
	return any;
}

/* The first event is of no write but of the watch itself. What comes first after it: a request, or the guest's taking of one? That is
 * known once nothing was told around a reading: what was written before it is told before its answer. */
static bool watch(struct meter *m)
{
	unsigned len = 0, n = 0;
	char **event, *text;

	if (!xs_watch(m->xs, m->path, "pausemeter"))
		return false;
	event = xs_read_watch(m->xs, &n);
	do {
		text = xs_read(m->xs, XBT_NULL, m->path, &len);
		m->wanted = text && strcmp(text, "suspend") == 0;
		free(text);
	} while (skip_told(m));
	free(event);
	return event != NULL;
}

static int look(struct meter *m)
{
	struct xen_dominfo info;
	long long now = now_ns();
	bool suspended;
	int err = xen_compat_dominfo(m->xc, m->domid, &info);

	m->looking += now_ns() - now;
	m->looks++;
	if (err) {
		fprintf(stderr, "pausemeter: domain %u: %s\n", m->domid, strerror(-err));
		return 1;
	}
	suspended = info.shutdown && info.reason == XEN_SHUTDOWN_SUSPEND;
	if (suspended && !m->suspended) {
		m->suspended = now;
		note(m, HANDSHAKE, m->requested, now);
	} else if (!suspended && m->suspended) {
		note(m, PAUSE, m->suspended, now);
		m->resumed = now;
		m->suspended = 0;
	}
	return 0;
}

/* Nothing can have changed before the guest took a request, nor after it went on from it. */
static bool look_due(const struct meter *m)
{
	return m->taken && !m->resumed;
}

static int measure(struct meter *m, long seconds)
{
	const struct timespec soon = { .tv_nsec = m->look_us * NS_IN_US }, later = { .tv_nsec = IDLE_MS * NS_IN_US * 1000 };
	struct pollfd fd = { .fd = xs_fileno(m->xs), .events = POLLIN };
	long long begin = now_ns(), end = begin + seconds * NS_IN_S;

	while (now_ns() < end) {
		if (ppoll(&fd, 1, look_due(m) ? &soon : &later, NULL) > 0)
			on_xenstore(m);
		if (look_due(m) && look(m))
			return 1;
	}
	print(m, now_ns() - begin);
	return 0;
}

/* ---- the floor */

/* The event channel that tells of the domain's suspends; -1 and a message. */
static int subscribe(const struct meter *m, xenevtchn_handle *evtchn)
{
	int port = xc_evtchn_alloc_unbound(m->xc, m->domid, 0);
	int local = port < 0 ? -1 : xenevtchn_bind_interdomain(evtchn, m->domid, (evtchn_port_t)port);

	if (local < 0 || xc_domain_subscribe_for_suspend(m->xc, m->domid, (evtchn_port_t)port) < 0) {
		perror("pausemeter: event channel of its suspends");
		return -1;
	}
	return local;
}

/* An event channel fires once when it is bound, too. */
static bool wait_suspended(const struct meter *m, xenevtchn_handle *evtchn)
{
	struct pollfd fd = { .fd = xenevtchn_fd(evtchn), .events = POLLIN };
	struct xen_dominfo info = { 0 };

	while (!info.shutdown) {
		int port = poll(&fd, 1, FLOOR_WAIT_MS) == 1 ? xenevtchn_pending(evtchn) : -1;

		if (port < 0 || xenevtchn_unmask(evtchn, (evtchn_port_t)port) < 0 || xen_compat_dominfo(m->xc, m->domid, &info) < 0)
			return false;
	}
	return true;
}

/* Ask, wait, let it go on. */
static int round_trip(struct meter *m, xenevtchn_handle *evtchn)
{
	m->requested = now_ns();
	if (!xs_write(m->xs, XBT_NULL, m->path, "suspend", strlen("suspend")) || !wait_suspended(m, evtchn)) {
		fprintf(stderr, "pausemeter: domain %u does not suspend\n", m->domid);
		return -1;
	}
	m->suspended = now_ns();
	if (xc_domain_resume(m->xc, m->domid, 1) < 0) {
		perror("pausemeter: resume");
		return -1;
	}
	note(m, RUN, m->resumed, m->requested);
	m->resumed = now_ns();
	m->checkpoints++;
	note(m, HANDSHAKE, m->requested, m->suspended);
	note(m, PAUSE, m->suspended, m->resumed);
	note(m, PERIOD, m->begun, m->suspended);
	m->begun = m->suspended;
	return 0;
}

static int floor_of(struct meter *m, long seconds)
{
	long long begin = now_ns(), end = begin + seconds * NS_IN_S;
	xenevtchn_handle *evtchn = xenevtchn_open(NULL, 0);
	int r = evtchn ? subscribe(m, evtchn) : -1;

	while (r >= 0 && now_ns() < end)
		r = round_trip(m, evtchn);
	(void)xc_domain_subscribe_for_suspend(m->xc, m->domid, 0);
	if (evtchn)
		xenevtchn_close(evtchn);
	if (r >= 0)
		print(m, now_ns() - begin);
	return r < 0;
}

int main(int argc, char **argv)
{
	const struct sched_param first = { .sched_priority = 1 };
	static struct meter m;
	bool floor;
	int r;

	floor = argc == 4 && strcmp(argv[1], "floor") == 0;
	argv += floor;
	argc -= floor;
	if (argc != 3 && argc != 4) {
		fprintf(stderr, "usage: pausemeter [floor] DOMID SECONDS [LOOK_US]\n");
		return 2;
	}
	m.domid = (uint32_t)strtoul(argv[1], NULL, 10);
	m.look_us = argc == 4 ? strtol(argv[3], NULL, 10) : LOOK_US;
	if (!floor && sched_setscheduler(0, SCHED_FIFO, &first) < 0) { /* and so does the thread in which libxenstore reads */
		perror("pausemeter: SCHED_FIFO");
		return 1;
	}
	m.xc = xc_interface_open(NULL, NULL, 0);
	m.xs = xs_open(0);
	if (!m.xc || !m.xs) {
		perror("pausemeter: xenctrl, xenstore");
		return 1;
	}
	(void)snprintf(m.path, sizeof(m.path), "/local/domain/%u/control/shutdown", m.domid);
	if (!floor && !watch(&m)) {
		perror("pausemeter: watch");
		return 1;
	}
	if (floor)
		r = floor_of(&m, strtol(argv[2], NULL, 10));
	else
		r = measure(&m, strtol(argv[2], NULL, 10));
	xs_close(m.xs);
	xc_interface_close(m.xc);
	return r;
}
