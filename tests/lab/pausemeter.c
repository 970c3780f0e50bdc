/* pausemeter.c - how often and for how long a domain stands suspended, seen from beside
 *
 * pausemeter floor DOMID SECONDS: nobody protects the domain; asks it to suspend, lets it go on at once, asks again, all the
 * time. What that costs is the guest's own, and no checkpoint can come more often. An event channel tells that it stands still.
 *
 * pausemeter DOMID SECONDS [LOOK_US]: looks at the domain's state every LOOK_US microseconds (default 1000), whoever it is that
 * suspends it, and prints one JSON object. A period has three parts, which it tells apart:
 *
 *   handshake  from the request in xenstore (control/shutdown, which it watches) to the guest's own last act
 *   pause      as long as Xen says "shut down, to be suspended": what the toolstack does to the guest that stands still
 *   run        from then to the next request: the interval, and whatever else is waited for
 *
 * Each look is a hypercall, and on an emulated host those that come often take the processor from whom they look at: the time
 * spent in looks is printed too.
 *
 * Runs in the lab's dom0s.
 */
#include <poll.h>
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
	long long requested, taken, suspended, resumed; /* of this period; 0: not yet */
	long long begun;                                /* the pause before */
	long long looking;                              /* ns spent in looks */
	long looks;
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
	size_t n = m->part[PAUSE].n;

	printf("{\"seconds\": %.3f, \"looks\": %ld, \"looking_percent\": %.1f, \"pauses\": %zu, \"per_s\": %.2f",
	       (double)took / NS_IN_S, m->looks, (double)m->looking * 100 / (double)took, n, (double)n * NS_IN_S / (double)took);
	for (unsigned i = 0; i < N_PARTS; i++) {
		struct values *v = &m->part[i];

		qsort(v->ns, v->n, sizeof(*v->ns), by_value);
		printf(", \"%s\": {\"p50\": %.2f, \"p90\": %.2f, \"max\": %.2f}", part_names[i], ms(v, 50), ms(v, 90), ms(v, 100));
	}
	printf("}\n");
}

/* The first event of a period is the request, the next one the guest's own, when it takes it. */
static void on_xenstore(struct meter *m)
{
	long long now = now_ns();
	char **event;

	while ((event = xs_check_watch(m->xs))) {
		free(event);
		if (m->suspended || !m->resumed)
			continue;
		if (!m->requested)
			m->requested = now;
		else
			m->taken = now;
	}
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
		note(m, PERIOD, m->begun, now);
		note(m, HANDSHAKE, m->requested, now);
		if (m->taken)
			note(m, TAKEN, m->requested, m->taken);
		if (m->requested)
			note(m, RUN, m->resumed, m->requested);
		m->begun = now;
	} else if (!suspended && m->suspended) {
		note(m, PAUSE, m->suspended, now);
		m->resumed = now;
		m->requested = m->taken = m->suspended = 0;
	}
	return 0;
}

static int measure(struct meter *m, long seconds, long look_us)
{
	const struct timespec wait = { .tv_nsec = look_us * NS_IN_US };
	struct pollfd fd = { .fd = xs_fileno(m->xs), .events = POLLIN };
	long long begin = now_ns(), end = begin + seconds * NS_IN_S;

	while (now_ns() < end) {
		if (ppoll(&fd, 1, &wait, NULL) > 0)
			on_xenstore(m);
		if (look(m))
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
static int round_trip(struct meter *m, const char *path, xenevtchn_handle *evtchn)
{
	m->requested = now_ns();
	if (!xs_write(m->xs, XBT_NULL, path, "suspend", strlen("suspend")) || !wait_suspended(m, evtchn)) {
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
	note(m, HANDSHAKE, m->requested, m->suspended);
	note(m, PAUSE, m->suspended, m->resumed);
	note(m, PERIOD, m->begun, m->suspended);
	m->begun = m->suspended;
	return 0;
}

static int floor_of(struct meter *m, const char *path, long seconds)
{
	long long begin = now_ns(), end = begin + seconds * NS_IN_S;
	xenevtchn_handle *evtchn = xenevtchn_open(NULL, 0);
	int r = evtchn ? subscribe(m, evtchn) : -1;

	while (r >= 0 && now_ns() < end)
		r = round_trip(m, path, evtchn);
	(void)xc_domain_subscribe_for_suspend(m->xc, m->domid, 0);
	if (evtchn)
		xenevtchn_close(evtchn);
	if (r >= 0)
		print(m, now_ns() - begin);
	return r < 0;
}

int main(int argc, char **argv)
{
	static struct meter m;
	bool floor;
	char path[64];
	int r;

	floor = argc == 4 && strcmp(argv[1], "floor") == 0;
	argv += floor;
	argc -= floor;
	if (argc != 3 && argc != 4) {
		fprintf(stderr, "usage: pausemeter [floor] DOMID SECONDS [LOOK_US]\n");
		return 2;
	}
	m.domid = (uint32_t)strtoul(argv[1], NULL, 10);
	m.xc = xc_interface_open(NULL, NULL, 0);
	m.xs = xs_open(0);
	if (!m.xc || !m.xs) {
		perror("pausemeter: xenctrl, xenstore");
		return 1;
	}
	(void)snprintf(path, sizeof(path), "/local/domain/%u/control/shutdown", m.domid);
	if (!floor && !xs_watch(m.xs, path, "pausemeter")) {
		perror("pausemeter: watch");
		return 1;
	}
	if (floor)
		r = floor_of(&m, path, strtol(argv[2], NULL, 10));
	else
		r = measure(&m, strtol(argv[2], NULL, 10), argc == 4 ? strtol(argv[3], NULL, 10) : LOOK_US);
	xs_close(m.xs);
	xc_interface_close(m.xc);
	return r;
}
