/* xen_send.h - a running Xen domain as one plain stream: live rounds, a pause, the rest
 *
 * For `replicad save` and `replicad migrate`. Blocking: runs a loop of its own until each step is done. The stream is what
 * stock xl reads: xl header with the configuration, libxl header, image, END.
 */
#ifndef RPL_CLI_XEN_SEND_H
#define RPL_CLI_XEN_SEND_H

#include <stdbool.h>
#include <stdint.h>

#include <replicad/err.h>

struct xen_send;

struct xen_send_policy {
	unsigned rounds_max;      /* live rounds, at least 1 */
	uint64_t pages_enough;    /* so few left: pause */
	unsigned suspend_timeout_ms;
	void (*progress)(void *arg, unsigned round, uint64_t done, uint64_t total); /* may be NULL */
	void *arg;
};
#define XEN_SEND_ROUNDS 5
#define XEN_SEND_PAGES_ENOUGH 256
#define XEN_SEND_SUSPEND_MS 60000

struct xen_send_report {
	unsigned rounds;
	uint64_t pages, pages_paused, bytes;
	uint64_t suspend_ns;  /* the guest's own part: from the request to its end */
	uint64_t pause_ns;    /* from there to the end of the stream */
};

/* Find the domain and inspect it; refused ones are named. NULL: *err. */
struct xen_send *xen_send_open(const char *name, const struct xen_send_policy *policy, struct rpl_err *err);
uint32_t xen_send_domid(const struct xen_send *s);
/* Write the stream to `fd`. Returns 0 with the domain suspended; after a failure it runs, as before. */
int xen_send_stream(struct xen_send *s, int fd, struct xen_send_report *ret, struct rpl_err *err);
/* Let it run on where it is. */
int xen_send_resume(struct xen_send *s, struct rpl_err *err);
void xen_send_free(struct xen_send *s); /* accepts NULL; a suspended domain stays suspended */

#endif
