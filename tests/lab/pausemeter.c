/* pausemeter.c - how often and for how long a domain stands suspended, seen from beside
 *
 * pausemeter DOMID SECONDS: looks at the domain's state every quarter of a millisecond, whoever it is that suspends it, and
 * prints one JSON object. A pause is the time in which Xen says "shut down, to be suspended": from the guest's own last act
 * to the moment in which the toolstack let it go on. What the guest does before, from the request on, is not in it.
 *
 * Runs in the lab's dom0s.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "src/guest/xen_compat.h"

#define LOOK_NS 250000
#define PAUSES_MAX 20000
#define NS_IN_S 1000000000LL

struct pauses {
	size_t n;
	long long begin[PAUSES_MAX], length[PAUSES_MAX]; /* ns */
};

static long long now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * NS_IN_S + t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
	long long x = *(const long long *)a, y = *(const long long *)b;

	return (x > y) - (x < y);
}

static double ms(long long *sorted, size_t n, unsigned percent)
{
	return n ? sorted[(n - 1) * percent / 100] / 1e6 : 0;
}

static void print(struct pauses *p, long long looked_ns, long looks)
{
	static long long period[PAUSES_MAX];
	size_t periods = p->n ? p->n - 1 : 0;

	for (size_t i = 0; i < periods; i++)
		period[i] = p->begin[i + 1] - p->begin[i];
	qsort(period, periods, sizeof(*period), by_value);
	qsort(p->length, p->n, sizeof(*p->length), by_value);
	printf("{\"seconds\": %.3f, \"looks\": %ld, \"pauses\": %zu, \"per_s\": %.2f, "
	       "\"pause_ms\": {\"p50\": %.2f, \"p90\": %.2f, \"max\": %.2f}, "
	       "\"period_ms\": {\"p50\": %.1f, \"p90\": %.1f, \"max\": %.1f}}\n",
	       (double)looked_ns / NS_IN_S, looks, p->n, (double)p->n * NS_IN_S / (double)looked_ns, ms(p->length, p->n, 50),
	       ms(p->length, p->n, 90), ms(p->length, p->n, 100), ms(period, periods, 50), ms(period, periods, 90),
	       ms(period, periods, 100));
}

int main(int argc, char **argv)
{
	static struct pauses pauses;
	const struct timespec wait = { .tv_nsec = LOOK_NS };
	long long begin, end, since = 0, now;
	struct xen_dominfo info;
	uint32_t domid;
	long looks = 0;
	xc_interface *xc;
	int err;

	if (argc != 3) {
		fprintf(stderr, "usage: pausemeter DOMID SECONDS\n");
		return 2;
	}
	domid = (uint32_t)strtoul(argv[1], NULL, 10);
	xc = xc_interface_open(NULL, NULL, 0);
	if (!xc) {
		perror("pausemeter: xenctrl");
		return 1;
	}
	begin = now_ns();
	end = begin + strtol(argv[2], NULL, 10) * NS_IN_S;
	for (now = begin; now < end && pauses.n < PAUSES_MAX; now = now_ns(), looks++) {
		bool suspended;

		err = xen_compat_dominfo(xc, domid, &info);
		if (err) {
			fprintf(stderr, "pausemeter: domain %u: %s\n", domid, strerror(-err));
			return 1;
		}
		suspended = info.shutdown && info.reason == XEN_SHUTDOWN_SUSPEND;
		if (suspended && !since) {
			since = now;
		} else if (!suspended && since) {
			pauses.begin[pauses.n] = since;
			pauses.length[pauses.n++] = now - since;
			since = 0;
		}
		nanosleep(&wait, NULL);
	}
	print(&pauses, now - begin, looks);
	xc_interface_close(xc);
	return 0;
}
