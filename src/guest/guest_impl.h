/* guest_impl.h - the ops table and what its backends share; private to src/guest
 *
 * Calls come only from guest.c. start-like operations return 0 when they are under way and end in one call of
 * rpl_guest_op_done(), at once or later; a negative return (with *err set) ends them too. `abandon` says that the
 * operation under way has ended for the caller (time-out, or quit took its place): late answers must be dropped.
 */
#ifndef RPL_GUEST_IMPL_H
#define RPL_GUEST_IMPL_H

#include <ev.h>

#include <replicad/guest.h>

enum rpl_guest_phase {
	RPL_GP_NEW,     /* nothing contacted, or attach/standby failed */
	RPL_GP_LIVE,    /* attached, or activated */
	RPL_GP_STANDBY, /* waiting for device state */
	RPL_GP_GONE,    /* lost or quit: only quit and free */
};

/* NULL where a backend has no such operation: it ends in -ENOTSUP. */
struct rpl_guest_ops {
	const char *name;
	int (*init)(struct rpl_guest *g, struct rpl_err *err);
	int (*attach)(struct rpl_guest *g, struct rpl_err *err);
	int (*look)(struct rpl_guest *g, struct rpl_err *err); /* NULL: its devices cannot change */
	int (*pause)(struct rpl_guest *g, struct rpl_err *err);
	int (*save)(struct rpl_guest *g, struct rpl_err *err);
	int (*resume)(struct rpl_guest *g, struct rpl_err *err);
	int (*announce)(struct rpl_guest *g, struct rpl_err *err);
	int (*quit)(struct rpl_guest *g, struct rpl_err *err);
	int (*standby)(struct rpl_guest *g, struct rpl_err *err);
	int (*activate)(struct rpl_guest *g, int state_fd, size_t len, struct rpl_err *err);
	/* NULL: nothing can be done before; see rpl_guest_prepare() */
	int (*prepare)(struct rpl_guest *g, int state_fd, size_t len, struct rpl_err *err);
	void (*unprepare)(struct rpl_guest *g);
	int (*room)(struct rpl_guest *g, struct rpl_err *err); /* NULL: it is there; see rpl_guest_room() */
	void (*abandon)(struct rpl_guest *g);
	/* NULL: nothing to do; see rpl_guest_collect() */
	int (*collect)(struct rpl_guest *g, uint64_t *ret_pages, struct rpl_err *err);
	int (*memory)(struct rpl_guest *g, struct rpl_memory_desc *ret, int *fds, size_t *ret_n, struct rpl_err *err);
	int (*fit)(struct rpl_guest *g, const char *primary, struct rpl_err *err); /* NULL: the definitions are compared */
	unsigned standby_ms; /* standby and activate may take so long, if that is longer than an operation's usual bound */
	/* NULL: what a standby is made of ends with its keeper, and nothing is to be adopted */
	int (*entrust)(struct rpl_guest *g, const char *name, int fd, struct rpl_err *err);
	int (*entrusted)(const struct rpl_guest *g, const char *name, struct rpl_err *err);
	pid_t (*pid)(const struct rpl_guest *g);
	size_t (*made)(const struct rpl_guest *g, const char *ret[RPL_GUEST_MADE_MAX]); /* NULL: it makes no files */
	void (*fini)(struct rpl_guest *g, bool keep_standby); /* exactly once, also after a failed init */
};

struct rpl_guest {
	/* configuration */
	const struct rpl_guest_ops *ops;
	struct rpl_guest_conf conf; /* strings are ours */
	struct ev_loop *loop;
	rpl_guest_done_fn *done;
	rpl_guest_event_fn *event;
	void *arg;

	/* state */
	enum rpl_guest_phase phase;
	bool busy;
	enum rpl_guest_op op;
	bool adopt; /* STANDBY: only one that is there */
	uint64_t op_started_ns;
	ev_timer timeout;
	ev_prepare finish; /* never started, only fed: delivers an operation's end from the loop, not from within the call */
	int result;
	struct rpl_err result_err;
	struct rpl_guest_info info;
	int state_fd;
	size_t state_len;
	void *priv; /* the backend's */
};

extern const struct rpl_guest_ops rpl_guest_qemu, rpl_guest_sim, rpl_guest_xen;

/* For backends: the operation under way is over. */
void rpl_guest_op_done(struct rpl_guest *g, int r, const struct rpl_err *err);
/* For backends: tell of an event. After LOST the guest is GONE. */
void rpl_guest_tell(struct rpl_guest *g, enum rpl_guest_event event, const char *fmt, ...) RPL_PRINTF(3, 4);

#endif
