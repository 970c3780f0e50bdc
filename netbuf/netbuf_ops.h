/* netbuf_ops.h - what a backend of the netbuf room provides; netbuf.c is the only caller
 *
 * start() begins one operation; the backend ends it with exactly one rpl_netbuf_finish(), which may be called at
 * once: the callback runs from the loop, never inside the caller's own call.
 */
#ifndef RPL_NETBUF_OPS_H
#define RPL_NETBUF_OPS_H

#include <replicad/netbuf.h>

struct rpl_netbuf_ops {
	const char *name;
	uint32_t max_uncommitted;
	/* Returns 0 and sets *ret_self (anything, also NULL), or an error. */
	int (*init)(struct rpl_netbuf *n, const struct rpl_netbuf_conf *conf, struct ev_loop *loop, void **ret_self,
		    struct rpl_err *err);
	void (*start)(void *self, enum rpl_netbuf_op op, uint64_t epoch);
	int (*interfaces)(void *self, const char *const *names, struct rpl_err *err); /* NULL: it has no use for them */
	void (*fini)(void *self);
};

extern const struct rpl_netbuf_ops rpl_netbuf_relay, rpl_netbuf_none, rpl_netbuf_plug;

void rpl_netbuf_finish(struct rpl_netbuf *n, enum rpl_netbuf_op op, uint64_t epoch, int r, const struct rpl_err *err);
void rpl_netbuf_report(struct rpl_netbuf *n, int r, const char *msg);
void rpl_netbuf_set_status(struct rpl_netbuf *n, const struct rpl_netbuf_status *s);

#endif
