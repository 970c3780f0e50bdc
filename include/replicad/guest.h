/* guest.h - one running virtual machine, as the keeper controls it
 *
 * A guest has two halves. This is the control half: pause, device state, resume, life-cycle events; it lives in
 * the keeper (trusted, libev). The memory half (memory.h: dirty set and page copies) lives in the mover, which
 * gets its descriptors from here and never a control connection.
 *
 * All operations that wait for the hypervisor are asynchronous: they return at once and end in exactly one call
 * of the callback given to rpl_guest_new(), with the operation's name, 0 or a negative errno, and a sentence.
 * At most one such operation is under way per guest; every one is bounded by a time-out of its own and ends in
 * -ETIMEDOUT then. src/guest/guest.c is the only caller through the ops table: its wrappers assert the caller's
 * duty, time the call and check that a failure set the error.
 *
 * Backends: sim (in-process, for tests and benchmarks), qemu (stock QEMU >= 7.2 by QMP), xen.
 */
#ifndef REPLICAD_GUEST_H
#define REPLICAD_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <replicad/err.h>
#include <replicad/memory.h>
#include <replicad/uuid.h>

struct ev_loop;
struct rpl_guest;

#define RPL_GUEST_DEFINITION_MAX (16 * 1024) /* bytes of definition text */
#define RPL_GUEST_OP_TIMEOUT_MS 5000
#define RPL_GUEST_MADE_MAX 3
#define RPL_GUEST_STATE_MAX (16 * 1024 * 1024) /* bytes of device state in one checkpoint */

enum rpl_guest_op {
	RPL_GUEST_ATTACH,   /* connected, inspected, found protectable */
	RPL_GUEST_LOOK,     /* inspected again, after a change: the definition is fresh */
	RPL_GUEST_PAUSE,    /* stopped; all its output and block I/O has reached us */
	RPL_GUEST_SAVE,     /* device state is in the state descriptor, *ret length known */
	RPL_GUEST_RESUME,   /* running */
	RPL_GUEST_STANDBY,  /* a standby instance exists, paused, its RAM file open */
	RPL_GUEST_ACTIVATE, /* the standby has loaded the device state and runs */
	RPL_GUEST_ANNOUNCE, /* switches were told where its addresses are now */
	RPL_GUEST_QUIT,     /* its process is gone and reaped */
	RPL_GUEST_NOPS
};

enum rpl_guest_event {
	RPL_GUEST_SHUTDOWN, /* powered off from inside, or by its operator: on purpose */
	RPL_GUEST_REBOOT,   /* reset: protection goes on */
	RPL_GUEST_CRASH,    /* the guest's kernel panicked */
	RPL_GUEST_LOST,     /* its process died, or its monitor closed, without a shutdown event; nothing follows. A guest
			     * that only does not answer gives -ETIMEDOUT from operations instead */
	RPL_GUEST_REPLACED, /* it ended in a way that may have the toolstack make another guest of it: for its protection a
			     * shutdown, and msg is for the operator */
	RPL_GUEST_CHANGED,  /* a device was plugged, unplugged or changed; msg says which */
	RPL_GUEST_STOPPED,  /* somebody else paused it */
	RPL_GUEST_RESUMED,  /* somebody else resumed it */
	RPL_GUEST_IO_ERROR, /* it stopped itself on an I/O error */
	RPL_GUEST_LAID_OUT, /* a standby's memory is there now, after rpl_guest_memory() had said -EAGAIN */
	RPL_GUEST_NEVENTS
};

struct rpl_guest_conf { /* an empty text counts as NULL */
	const char *backend;       /* "qemu", "sim", "xen" */
	const char *name;          /* alias, for messages */
	const char *qmp_path;      /* qemu: the monitor socket to attach to; NULL: the one that standby_path names */
	const char *standby_path;  /* qemu: file with the standby's argv, one argument a line */
	const char *run_dir;       /* for sockets and RAM files of a standby that we start */
	const char *tracker;       /* "auto", "uffd", "compare" */
	const char *replica;       /* xen: "memfd", "domain", or "auto": a domain if it can be one; NULL: memfd */
	const char *helper_path;   /* the attach helper program */
	const char *standby_user;  /* run a standby as this user; NULL: as ours */
	const char *sim;           /* sim: "ram_mb=64,rate=1000,pattern=uniform,seed=1" (see src/guest/sim.h); NULL: that */
	bool any_disk;             /* accept writable disks: for one who moves the guest, not for one who protects it */
	bool any_netdev;           /* netbuf=none: accept NICs that are not a dgram netdev (output is not held!) */
	bool checkpoints;          /* they follow the rounds: for one who protects the guest, not for one who moves it */
	bool audit;                /* prove at each checkpoint that the tracker missed nothing (slow) */
	unsigned op_timeout_ms;    /* bound of each asynchronous operation; 0: RPL_GUEST_OP_TIMEOUT_MS */
};

struct rpl_guest_info {
	struct rpl_uuid uuid;
	char producer[64];             /* "QEMU 7.2.22" */
	char machine[64];              /* "pc-q35-7.2" */
	uint64_t ram_bytes;
	bool running;
	bool paused_by_us;             /* found paused, and the note in run_dir says that we paused it */
	uint64_t paused_ns;            /* and since when (rpl_now_ns()), if so; else 0 */
	uint64_t life;                 /* which of its lives, where no process tells that: a Xen domain's number; else 0 */
	struct rpl_ram_layout layout;
	/* The comparable definition: sorted "key=value" lines, printable ASCII, NUL-terminated. Equal texts mean
	 * that a checkpoint of one can be loaded into the other. */
	char *definition;              /* the guest's; valid until detach */
	/* xen: the host's interfaces that carry its output, with commas between them ("": it has no network). NULL: the
	 * backend cannot tell. The guest's; valid until detach. */
	char *interfaces;
	const char *replica; /* xen, a standby: "memfd" or "domain"; else NULL */
	char ahead[160];     /* a standby that was prepared: "yes", or "no: REASON"; else "" */
};

typedef void rpl_guest_done_fn(void *arg, enum rpl_guest_op op, int r, const struct rpl_err *err);
typedef void rpl_guest_event_fn(void *arg, enum rpl_guest_event event, const char *msg);

/* Make the handle; nothing is contacted yet. conf's strings are copied. NULL on failure (*err set): unknown
 * backend, or one that this build does not have. */
struct rpl_guest *rpl_guest_new(const struct rpl_guest_conf *conf, struct ev_loop *loop, rpl_guest_done_fn *done,
				rpl_guest_event_fn *event, void *arg, struct rpl_err *err);

/* Connect to the running guest, inspect it, and refuse (with what to change) what cannot be protected. A guest that
 * is found paused gives info.running = false, and info.paused_by_us tells whether an earlier keeper with the same
 * run_dir paused it (then resume it soon) or somebody else (then leave it). */
void rpl_guest_attach(struct rpl_guest *g);
/* Inspect an attached guest once more, after RPL_GUEST_CHANGED: info.definition is made anew, or it is refused as attach
 * would refuse it and info stays as it was. It goes on running, attached. */
void rpl_guest_look(struct rpl_guest *g);
/* After -ETIMEDOUT of a pause it may still take effect later: resume then, the order is kept. */
void rpl_guest_pause(struct rpl_guest *g);
/* Write the device state of the paused guest into the state descriptor (a memfd), from offset 0. -EBUSY if it runs:
 * another program may have resumed it since. -ESTALE if a device was plugged in or out since the guest was looked at or the last
 * state was saved: no standby could load it; nothing is told by an event then. */
void rpl_guest_save(struct rpl_guest *g);
void rpl_guest_resume(struct rpl_guest *g);
void rpl_guest_announce(struct rpl_guest *g);
/* Kill the guest's process (by pidfd) and wait until it is gone. Allowed at any time, also after LOST and while no
 * monitor answers; it takes the place of an operation under way, which ends in -ECANCELED first. */
void rpl_guest_quit(struct rpl_guest *g);

/* Start the standby instance from conf.standby_path: paused, waiting for device state, never running by itself. One
 * that already listens at its monitor (an earlier keeper's) and still waits is adopted. It outlives this process. */
void rpl_guest_standby(struct rpl_guest *g);
/* The same for nothing but one that is there: it is not started anew. For a keeper that follows one that was killed. */
void rpl_guest_adopt(struct rpl_guest *g);
/* Load `len` bytes of device state (as rpl_guest_save() of the peer made them) from `state_fd` offset 0 into the
 * standby, whose RAM is complete, and run it. Beyond this point there is no undo. state_fd stays the caller's and may be
 * closed when the operation is done. It ends when the guest runs, and the next operation is rpl_guest_announce(). After that
 * the guest is an ordinary attached one: it can be paused, saved and tracked, and rpl_guest_free() leaves it running. */
void rpl_guest_activate(struct rpl_guest *g, int state_fd, size_t len);

/* For a standby whose activation is likely: begin what rpl_guest_activate() of this state would do, as far as it can be undone; the guest
 * does not run, has no device, and the RAM must not change until rpl_guest_unprepare(). An activation of the same state goes on from
 * there, any other begins anew. There is no callback: what comes to nothing is logged and stands in info.ahead. -ENOTSUP: nothing
 * can be done before; -EBUSY: not now. state_fd stays the caller's and is not written to any more. */
int rpl_guest_prepare(struct rpl_guest *g, int state_fd, size_t len, struct rpl_err *err);
/* Undo that, in the background. Harmless if there is nothing. */
void rpl_guest_unprepare(struct rpl_guest *g);

/* A standby: would an activation find the memory that it needs on this host now? 0, also if it has it, or its backend cannot tell;
 * -ENOMEM with the two numbers; another negative errno: it could not be found out. Asked of the hypervisor: now and then. */
int rpl_guest_room(struct rpl_guest *g, struct rpl_err *err);

const struct rpl_guest_info *rpl_guest_info(const struct rpl_guest *g); /* after ATTACH or STANDBY */
int rpl_guest_state_fd(const struct rpl_guest *g);     /* memfd with the last saved device state; the guest's */
size_t rpl_guest_state_len(const struct rpl_guest *g); /* after SAVE */
pid_t rpl_guest_pid(const struct rpl_guest *g);        /* the hypervisor process; 0 if there is none */
/* The files that were made together with that process and are to go with it (memory, sockets, log): absolute paths, the
 * guest's. Returns their number; 0 if it is not a standby of ours, nor was one. rpl_guest_free() removes them once the
 * process is gone; a program that dies before has to tell the one that comes after it. */
size_t rpl_guest_made(const struct rpl_guest *g, const char *ret[RPL_GUEST_MADE_MAX]);

/* Where the peer's definition differs from ours: 0 if nowhere, else -EINVAL and *err names the
 * first difference ("machine: primary pc-q35-7.2, standby pc-q35-8.0"). */
int rpl_guest_compare(const struct rpl_guest *g, const char *peer_definition, struct rpl_err *err);

/* rpl_guest_compare() for a standby that takes its memory's layout from the primary (xen): 0 it fits; 1 it fits, and the memory
 * was laid out anew for it: what rpl_guest_memory() gave before is nobody's any more. */
int rpl_guest_fit(struct rpl_guest *g, const char *peer_definition, struct rpl_err *err);

/* What the memory half needs, for the mover: a description and its descriptors (the caller closes them). Arms the
 * dirty tracker: from the return on every write is seen. Needs ptrace once, for which a short-lived helper runs.
 * For a standby it gives the replica's RAM, writable; -EAGAIN: it is being made, and RPL_GUEST_LAID_OUT tells when it is there
 * (or LOST that it will not be). May block up to a second; used when a session starts. Every tracker given out before stops
 * seeing writes: its mover must be gone. */
int rpl_guest_memory(struct rpl_guest *g, struct rpl_memory_desc *ret, int fds[RPL_MEMORY_FDS_MAX], size_t *ret_n,
		     struct rpl_err *err);

/* Let the standby's process hold `fd`, a memfd called `name`, in the place of the last one of that name. It does nothing with
 * it, but what is in it lives as long as the standby's memory does, whichever of us ends. No answer comes: until it has taken
 * it, and if it fails (logged), only we have it. -ENOTSUP where the standby is no process. */
int rpl_guest_entrust(struct rpl_guest *g, const char *name, int fd, struct rpl_err *err);
/* What a standby that was adopted holds under that name: a descriptor (the caller's), -ENOENT if nothing. */
int rpl_guest_entrusted(const struct rpl_guest *g, const char *name, struct rpl_err *err);

/* For trackers that only the keeper may ask (Xen): hand what was written since the last collection to the memory half. Once
 * before each take of a running guest's dirty set (rpl_guest_save() does it for a paused one), and never while one is under
 * way. *ret_pages: pages that the next take will report; UINT64_MAX: this backend needs no collection. */
int rpl_guest_collect(struct rpl_guest *g, uint64_t *ret_pages, struct rpl_err *err);

/* Let go: remove the tracker, close everything; the guest goes on as it is, a standby that was not activated is killed
 * (rpl_guest_leave() spares it: for a keeper that ends but will be restarted). No callback comes from here or later.
 * Both accept NULL. */
void rpl_guest_leave(struct rpl_guest *g);
void rpl_guest_free(struct rpl_guest *g);

/* rpl_guest_compare() on two texts; pure. */
int rpl_definition_compare(const char *standby, const char *primary, struct rpl_err *err);

const char *rpl_guest_op_name(enum rpl_guest_op op);
const char *rpl_guest_event_name(enum rpl_guest_event event);

#endif
