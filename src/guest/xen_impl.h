/* xen_impl.h - the Xen backend's parts, one file each; private to src/guest
 *
 *   xen.c            life: domain found, events, suspend, resume, quit; the ops table
 *   xen_inspect.c    what kind of domain is it, where is its memory, what stands against copying it
 *   xen_interfaces.c which interfaces of the host carry its output
 *   xen_dirty.c      log-dirty, page types, what the mover is told (xen_shared.h)
 *   xen_recheck.c    when pages are protected again, when their marks are kept
 *   xen_p2m.c        PV: the guest's p2m, found and followed
 *   xen_ask.c        the request to suspend, and nothing else that xenstored is told
 *   xen_resume.c     going on after it; memory that Xen reads and writes
 *   xen_state.c      the device state: static records, tail; xen_vcpu.c the PV part of it
 *   xen_qemu.c       HVM: the device model
 *   xen_compat.c     what differs between releases of Xen
 */
#ifndef RPL_GUEST_XEN_IMPL_H
#define RPL_GUEST_XEN_IMPL_H

#include <xenctrl.h>
#include <xenevtchn.h>
#include <xenforeignmemory.h>
#include <xenstore.h>

#include <replicad/cur.h>

#include "guest_impl.h"
#include "note.h"
#include "xen_ask.h"
#include "xen_compat.h"
#include "xen_recheck.h"
#include "xen_shared.h"
#include "xen_standby.h"

#define XEN_PATH 256       /* of a xenstore node */
#define XEN_HEAD_MAX (8u << 20) /* static records; p2m frames dominate: 8 bytes for each 2 MiB of a PV guest */

#define XEN_PARAMS 16u     /* HVM parameters that a stream holds */

enum xen_kind { XEN_PV, XEN_PVH, XEN_HVM };

/* PV: where the guest keeps its p2m. */
struct xen_p2m {
	const void *shinfo;     /* its shared info page, mapped */
	uint64_t count;         /* entries that it says it has */
	uint64_t generation;    /* of the list, when it was walked */
	uint64_t pages;         /* entries that we follow: a whole number of leaves */
	uint64_t n_leaves;
	uint64_t *leaf_pfn;     /* pages of the guest that hold the list */
	const uint64_t *list;   /* all of them mapped, one behind the other */
	struct xen_reverse reverse;
};

/* Memory that Xen reads and writes. One that is made for each call costs two changes of the address space. */
struct xen_room {
	xc_hypercall_buffer_t buffer;
	void *p;
	unsigned pages;
};

/* PV: a piece of each virtual CPU's state. What is known of it is known of all of them. */
enum xen_piece_kind { XEN_XSAVE, XEN_MSRS, XEN_PIECES };
struct xen_piece {
	struct xen_room room;
	size_t most;         /* bytes it can have; 0: not asked yet, or it has none */
};

struct xen_qemu;

struct xen {
	struct rpl_guest *g;
	xc_interface *xc;
	xenforeignmemory_handle *fmem; /* xc's */
	struct xs_handle *xs;
	struct xen_ask ask; /* requests to suspend go this way, while it is open */
	xenevtchn_handle *evtchn;
	ev_io xs_io, evtchn_io;
	struct note note;
	struct xen_standby *standby; /* a backup's: NULL after the activation */

	/* the domain */
	uint32_t domid;
	enum xen_kind kind;
	unsigned vcpus;      /* as many ids */
	uint64_t max_mfn;    /* of the host */
	int lock;            /* held while attached: nobody else follows its writes */
	int suspend_port;    /* ours: fires when the domain has suspended; -1: xenstore tells */
	int suspend_lock;    /* libxenguest's, with the port: keeps stock's saves and migrations out */
	bool offers;         /* the port is what xenstore offers for suspends */
	bool inherited;      /* it was before we came: somebody of ours was killed, and its log may be on */
	bool attached;
	bool unattached;     /* it runs since a takeover, and do_announce() is to attach to it */
	bool over;           /* shut down, lost or destroyed: nothing more is told */
	bool asked;          /* a suspend request of ours is not answered yet, */
	bool drivers;        /* PVH: it has drivers that must be asked; known from when it has answered, until it does not */
	bool answered;       /* it suspended itself, since it was asked */
	bool stands;         /* `stood` is it as it was seen to be suspended, just now */
	struct xen_dominfo stood;
	int destroyer;       /* pidfd of `xl destroy` */
	ev_io destroyed;
	struct xen_qemu *qemu; /* HVM: its device model */
	bool wanted;         /* somebody wants it suspended; one that comes late is undone */
	bool plugged;        /* a device came or went since it was inspected, */
	bool plugged_told;   /* and who has the handle knows */
	bool xs_saw;         /* xenstored may take it for shut down, and is told otherwise when it runs */

	/* memory */
	struct xen_p2m p2m;
	struct xen_shared shared;
	bool logging;        /* log-dirty is on */
	uint64_t tot_pages;  /* when types were last looked up for all pages */
	uint64_t outside;    /* pages of these that the layout did not have when the session began */
	bool recount;        /* tot_pages changed since: look whether those became more */
	uint64_t log_pages;  /* bits of Xen's dirty bitmap */
	struct xen_room log; /* that bitmap, as it was read last */
	uint64_t *last_log;  /* the set that was read before */
	struct xen_recheck recheck;
	bool gained;         /* this collection found memory where there was none */

	/* device state */
	uint8_t *head;       /* static records that do not change in a session */
	size_t head_len;
	uint8_t *state;      /* the state memfd, mapped */
	size_t state_len;    /* HVM: so much of it is there, the device model's part is not */
	uint8_t *scratch;    /* XEN_SCRATCH bytes for one record */
	int context_max;     /* HVM: bytes of its context, at most; 0: not asked yet */
	uint64_t param[XEN_PARAMS];
	struct xen_room context, registers; /* HVM context; of the first virtual CPU */
	struct xen_piece piece[XEN_PIECES];
	uint64_t xsave_mask; /* what Xen said with the length of XSAVE state, and is told with each read */
};

#define XEN_SCRATCH (1u << 20)
#define XEN_MOVED_PAGES 256u /* a MiB: video memory has at least so much, pages shared with a device model are fewer */

static inline struct xen *xen_of(const struct rpl_guest *g)
{
	return g->priv;
}

/* ---- xen_inspect.c */
int xen_find(struct xen *x, const char *name, struct rpl_err *err); /* sets domid */
int xen_inspect(struct xen *x, struct rpl_err *err);                /* fills g->info */
/* How many of n frames' types are of memory. */
uint64_t xen_with_memory(const uint8_t *types, uint64_t n);
/* Read a node; NULL if it is not there. Free it. */
char *xen_read(struct xen *x, const char *fmt, ...) RPL_PRINTF(2, 3);

/* ---- xen_watch.c */
/* Before it is inspected: from then on xenstored tells of its devices. */
int xen_watch(struct xen *x, struct rpl_err *err);
/* Was that such an event? */
bool xen_watch_heard(struct xen *x, char *const *event);
/* RPL_GUEST_CHANGED, if it is to be told. */
void xen_watch_tell(struct xen *x);

/* ---- xen_channel.c */
int xen_subscribe(struct xen *x, struct rpl_err *err);
void xen_unsubscribe(struct xen *x);
void xen_forget_port(const struct xen *x); /* the domain is gone, and the port with it */

/* ---- xen_interfaces.c */
int xen_interfaces(struct xen *x, struct rpl_err *err); /* fills g->info.interfaces */

/* ---- xen_p2m.c; all need a guest whose shared info is set up */
int xen_p2m_open(struct xen *x, struct rpl_err *err);
void xen_p2m_close(struct xen *x);
/* Did the list move or grow since it was opened? 0; 1: open it again; -EAGAIN: a change is under way. */
int xen_p2m_moved(struct xen *x);
/* Bring shared.p2m up to date from the leaves marked in `log` (NULL: from all); what changed becomes dirty. */
void xen_p2m_update(struct xen *x, const uint8_t *log);
bool xen_p2m_pfn(const struct xen *x, uint64_t mfn, uint64_t *ret);

/* ---- xen_dirty.c */
int xen_memory(struct rpl_guest *g, struct rpl_memory_desc *ret, int *fds, size_t *ret_n, struct rpl_err *err);
/* What was written since the last collection goes to the mover. `suspended`: the domain as it stands still; NULL: it runs. */
int xen_collect(struct xen *x, const struct xen_dominfo *suspended, uint64_t *ret_pages, struct rpl_err *err);
void xen_log_off(struct xen *x);
/* The types of these frames, any number. */
int xen_types(struct xen *x, const uint64_t *gfns, uint64_t n, uint8_t *ret, struct rpl_err *err);

/* ---- xen_state.c */
int xen_head_make(struct xen *x, struct rpl_err *err);
/* The whole device state into the state memfd; the domain is suspended. HVM: without the device model's part. */
int xen_state_save(struct xen *x, struct rpl_err *err);
/* HVM: that part too. */
int xen_state_finish(struct xen *x, struct rpl_err *err);
void xen_put_head(struct xen *x, struct rpl_out *o); /* up to where pages belong */

/* ---- xen_qemu.c: HVM only. Steps end in one call of `then`, if they could be begun; one at a time. */
typedef void xen_qemu_fn(struct xen *x, int r, const struct rpl_err *err);
int xen_qemu_open(struct xen *x, xen_qemu_fn *then, struct rpl_err *err); /* also after a failure: close */
int xen_qemu_stop(struct xen *x, xen_qemu_fn *then, struct rpl_err *err);
int xen_qemu_save(struct xen *x, xen_qemu_fn *then, struct rpl_err *err); /* it is stopped */
/* Nothing happens if it runs. This and the next end before the operation does, so that a domain whose device model hangs goes on. */
int xen_qemu_cont(struct xen *x, xen_qemu_fn *then, struct rpl_err *err);
bool xen_qemu_alive(const struct xen *x);                                 /* its monitor is open, as far as is known */
int xen_qemu_reopen(struct xen *x, xen_qemu_fn *then, struct rpl_err *err); /* close and open, the tracking as it was */
void xen_qemu_abandon(struct xen *x);                                     /* nobody waits for the step any more */
/* From the return on its writes to the guest's memory are logged by Xen, when Xen logs; until it is closed. Blocks for as
 * long as QEMU takes. */
int xen_qemu_track(struct xen *x, struct rpl_err *err);
int xen_qemu_put(struct xen *x, struct rpl_out *o, struct rpl_err *err); /* its records, after a save */
void xen_qemu_close(struct xen *x);                                      /* may block for a second */

/* ---- xen_resume.c */
int xen_room_make(struct xen *x, struct xen_room *r, size_t bytes, const char *what, struct rpl_err *err); /* keeps one that is large enough */
void xen_room_free(struct xen *x, struct xen_room *r);
/* The first virtual CPU's, valid until the next call; NULL on failure. */
const vcpu_guest_context_t *xen_registers(struct xen *x, struct rpl_err *err);
int xen_resume(struct xen *x); /* 0, or -1 with errno: nothing has changed */

/* ---- xen_vcpu.c */
int xen_put_pv_tail(struct xen *x, struct rpl_out *o, struct rpl_err *err);
void xen_forget_pieces(struct xen *x); /* of a domain that is left */

#endif
