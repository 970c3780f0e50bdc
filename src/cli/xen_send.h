/* xen_send.h - a running Xen domain as one plain stream: live rounds, a pause, the rest
 *
 * For `replicad save` and `replicad migrate`. Blocking: runs a loop of its own until each step is done. The stream is what
 * stock xl reads: xl header with the configuration, libxl header, image, END.
 *
 * SIGINT, SIGTERM and SIGHUP, the guest's end, and a pause that lasts too long end every step with an error; then the guest
 * runs as before.
 */
#ifndef RPL_CLI_XEN_SEND_H
#define RPL_CLI_XEN_SEND_H

#include <stdbool.h>
#include <stdint.h>

#include <replicad/err.h>

struct xen_send;

#define XEN_SEND_AWAY "--migratedaway" /* behind the name of a domain that was handed over, as stock xl does */

struct xen_send_policy {
	const char *run_dir;      /* for notes; NULL: RPL_RUNDIR/xen */
	unsigned rounds_max;      /* live rounds, at least 1 */
	uint64_t pages_enough;    /* so few left: pause */
	unsigned suspend_timeout_ms;
	unsigned stall_ms;        /* pipes and sockets: nobody takes a byte for so long: give up */
	unsigned downtime_max_ms; /* do not pause if the rest needs longer, by the rate so far; let it run on if it does. 0: any */
	void (*progress)(void *arg, unsigned round, uint64_t done, uint64_t total); /* may be NULL */
	void *arg;
};
#define XEN_SEND_NAME_MAX 64
#define XEN_SEND_ROUNDS 5
#define XEN_SEND_ROUNDS_MAX 1000
#define XEN_SEND_PAGES_ENOUGH 256
#define XEN_SEND_SUSPEND_MS 60000
#define XEN_SEND_STALL_MS 60000

struct xen_send_report {
	unsigned rounds;
	uint64_t pages, pages_paused, bytes;
	uint64_t live_ns;     /* all rounds while it ran */
	uint64_t suspend_ns;  /* the guest's own part: from the request to its end */
	uint64_t pause_ns;    /* from there to the end of the stream */
	uint64_t paused_at_ns; /* when it had suspended, as rpl_now_ns() counts */
};

/* Find the domain and inspect it; refused ones are named. One that an earlier program of ours left suspended, because it was
 * killed, is resumed. NULL: *err. */
struct xen_send *xen_send_open(const char *name, const struct xen_send_policy *policy, struct rpl_err *err);
/* Write the stream to `fd`; once. Returns 0 with the domain suspended; after a failure it runs, as before. */
int xen_send_stream(struct xen_send *s, int fd, struct xen_send_report *ret, struct rpl_err *err);
/* Wait until `fd` can be read, for at most `ms`; the guest is suspended. It stays so also on failure. */
int xen_send_await(struct xen_send *s, int fd, unsigned ms, struct rpl_err *err);
/* The last chance: from success on no signal and no limit counts, since what is done then cannot be undone. */
int xen_send_commit(struct xen_send *s, struct rpl_err *err);
/* It is about to be another host's domain: NAME--migratedaway; or no more: NAME. */
int xen_send_mark_away(struct xen_send *s, bool away, struct rpl_err *err);
/* Let it run on where it is. */
int xen_send_resume(struct xen_send *s, struct rpl_err *err);
/* It is elsewhere now. */
int xen_send_destroy(struct xen_send *s, struct rpl_err *err);
/* For a domain that is suspended, on its operator's word: let it run. Nothing else may use it. */
int xen_send_wake(const char *name, struct rpl_err *err);
void xen_send_free(struct xen_send *s); /* accepts NULL; a suspended domain stays suspended */

#endif
