/* qemu_impl.h - the QEMU backend's parts, one file each; private to src/guest
 *
 *   qemu.c           life: connection, events, process; pause, save, resume, announce, quit
 *   qemu_attach.c    collect the facts, judge them (qemu_inspect.c)
 *   qemu_standby.c   start or adopt the standby instance
 *   qemu_activate.c  feed it the device state and run it
 *   qemu_memory.c    RAM file and tracker descriptors
 *   qemu_watch.c     devices that are plugged in or out
 *   note.c           "paused by us"
 */
#ifndef RPL_GUEST_QEMU_IMPL_H
#define RPL_GUEST_QEMU_IMPL_H

#include "guest_impl.h"
#include "note.h"
#include "procmem.h"
#include "qemu_facts.h"
#include "qmp.h"

#define QEMU_POLL_MS 5             /* between tries to reach a monitor that is not there yet */
#define QEMU_EOF_GRACE_MS 200      /* the process is dead, its monitor's last bytes are still to be read */
#define QEMU_HELPER_TIMEOUT_MS 2000
#define QEMU_WATCH_MS 1000         /* between two looks for plugged devices */
#define QEMU_WATCHED 2             /* containers of devices */
#define QEMU_ARGS_MAX 256          /* arguments of a standby */
#define QEMU_ARGV_FILE_MAX 65536

struct qemu {
	struct rpl_guest *g;
	struct qmp *qmp;
	struct note note;

	/* the process */
	pid_t pid;
	int pidfd;
	ev_io exited;
	ev_timer grace;
	bool watched;
	bool quitting;
	bool over;          /* shut down, lost or killed: nothing more is told */
	bool shutdown_seen; /* it will end */
	bool meant;         /* ... on purpose */

	/* inspection */
	struct qemu_facts facts;
	unsigned next_fact;
	struct qemu_ram ram;

	/* operations */
	bool stopping;   /* our stop is under way: its STOP event is not somebody else's */
	bool continuing;
	int fdset_fd;    /* number of our state memfd in QEMU, by add-fd; -1: not passed yet */

	/* plugged devices */
	uint64_t watched_ns, watched_names[QEMU_WATCHED];
	uint64_t sections; /* of the last saved device state; 0: none yet, or not known */
	uint8_t *saved;    /* room to read it into */
	size_t saved_cap;
	bool plugged;      /* SAVE: other names were found */

	/* standby */
	bool standby;    /* waiting for device state */
	bool ours;       /* we started it, or adopted one: quit when freed, remove its RAM file */
	char *argv[QEMU_ARGS_MAX + 1];
	char qmp_path[256], ram_path[256], log_path[256];
	ev_timer poll;

	/* activation */
	int stream;      /* our end of the migration socket */
	ev_io stream_out;
	uint8_t *bytes;
	size_t bytes_len, bytes_sent;

	/* tracker */
	int uffd, pagemap;
	uint64_t vaddr;
	bool armed;
};

static inline struct qemu *qemu_of(const struct rpl_guest *g)
{
	return g->priv;
}

/* The operation under way failed for the reason in *err. */
void qemu_op_failed(struct qemu *q, const struct rpl_err *err);
/* Send a command as a step of the operation under way; a failure to send ends it. */
void qemu_step(struct qemu *q, const char *command, json_t *args, qmp_reply_fn *fn);
int qemu_connect(struct qemu *q, const char *path, struct rpl_err *err);
int qemu_watch_process(struct qemu *q, pid_t pid, struct rpl_err *err);

/* qemu_attach.c: ask for all facts, then judge; ends the operation (ATTACH, LOOK), or goes on (STANDBY). */
void qemu_collect(struct qemu *q);
/* qemu_standby.c */
int qemu_load_argv(struct qemu *q, struct rpl_err *err); /* of conf.standby_path: argv, qmp_path, ram_path */
int qemu_start_standby(struct rpl_guest *g, struct rpl_err *err);
void qemu_standby_ready(struct qemu *q, json_t *version); /* greeting */
void qemu_standby_inspected(struct qemu *q);
void qemu_standby_died(struct qemu *q, struct rpl_err *err); /* say why, from its log */
/* A guest that was attached may be the standby of an earlier keeper that took over since: its files go when it does. */
void qemu_standby_reclaim(struct qemu *q, pid_t pid);
void qemu_standby_fini(struct qemu *q);
size_t qemu_standby_made(const struct rpl_guest *g, const char *ret[RPL_GUEST_MADE_MAX]);
int qemu_entrust(struct rpl_guest *g, const char *name, int fd, struct rpl_err *err);
int qemu_entrusted(const struct rpl_guest *g, const char *name, struct rpl_err *err);
/* qemu_activate.c */
int qemu_activate(struct rpl_guest *g, int state_fd, size_t len, struct rpl_err *err);
void qemu_migration_event(struct qemu *q, json_t *data);
void qemu_activate_stop(struct qemu *q);
/* qemu_watch.c: after a resume; before an inspection; after a save, which it ends */
void qemu_watch(struct qemu *q);
void qemu_watch_anew(struct qemu *q);
void qemu_watch_saved(struct qemu *q);
/* qemu_memory.c */
int qemu_memory(struct rpl_guest *g, struct rpl_memory_desc *ret, int *fds, size_t *ret_n, struct rpl_err *err);
void qemu_disarm(struct qemu *q);

/* The migration stream that -incoming takes, around a blob of xen-save-devices-state; pure. *ret is new. */
int qemu_wrap_state(const char *machine, const uint8_t *blob, size_t len, uint8_t **ret, size_t *ret_len,
		    struct rpl_err *err);
/* Add QEMU's system call filter, -sandbox, unless the arguments have one. -E2BIG without room for it. */
int qemu_confine_argv(char *argv[QEMU_ARGS_MAX + 1], struct rpl_err *err);
/* The standby's argv file: one argument a line, '#' comments, empty lines skipped; pure. Cuts `text` in place. */
int qemu_parse_argv(char *text, char *argv[QEMU_ARGS_MAX + 1], struct rpl_err *err);
/* It must wait for us (-S, -incoming defer) and have a monitor and a RAM file; pure. */
int qemu_check_argv(char *const argv[], const char *conf_qmp, char qmp_path[256], char ram_path[256], struct rpl_err *err);

#endif
