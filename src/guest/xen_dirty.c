/* xen_dirty.c - log-dirty, page types, and what the mover is told
 *
 * A collection: take Xen's bitmap, bring the p2m up to date (PV), look up the type of every page that was
 * written, and put all of it into the memory that is shared with the mover. A page whose type changed makes its page of
 * the type table dirty.
 *
 * Which pages' types can have changed? Xen marks a PV page dirty when it becomes a page table, stops to be one, is
 * pinned or unpinned, so looking at dirty pages is enough. HVM and PVH guests only gain and lose pages, which changes the
 * number of the domain's pages: then all types are looked up again, and all mappings remade. What the bitmap does not
 * show is a frame that was given back and taken again between two collections; replicad-xen(7) says what that means.
 *
 * CLEAN or PEEK. CLEAN reads the bitmap, empties it and has Xen protect all pages again; PEEK only reads it, so what it gives is
 * all that was written since the last CLEAN. When which is due is xen_recheck.h's affair. Of a guest that runs, what is written after
 * a PEEK keeps its bit for the next read, and so does a page whose type changes after it was looked at. Why PEEK misses nothing (Xen 4.17: paging.c, hap.c, p2m.c, shadow/):
 *
 *  - A page is written without a fault only if its bit is set: the fault that makes it writable sets the bit, and nothing but CLEAN, OFF
 *    and ENABLE takes a bit away, all of them with write access. (The tracking of a device model's video memory protects pages
 *    again and leaves their bits. A PV page that Xen marked for another reason is writable by that mark, and stays marked.)
 *    What processors log by themselves is flushed by either call, and FINAL marks what Xen has mapped itself with either.
 *  - The one exception: a frame that an HVM or PVH guest gets while its writes are logged is writable and not marked, until a
 *    CLEAN protects it. So where a look at types finds a page that had no memory before, a CLEAN follows in the same collection,
 *    and no type is looked at after it: a page that is gained later is found later. PV guests have no such frames: a new frame is mapped by
 *    nothing, and the first mapping that may write to it is the fault; a frame that becomes another page's is marked as that.
 *  - What was taken earlier and not fetched by the mover, pages it put off, pages whose p2m entry or type changed, stand in the
 *    shared bitmap and not in Xen's: sets are merged there, whatever they were read by.
 *  - ENOMEM (Xen could not mark a page) stays: both calls fail from then on, the session ends, the next one begins with ENABLE,
 *    which protects all, and with the policy's state anew.
 *  - Where a round's PEEK is followed by a CLEAN, types are looked at after both, and the p2m is followed by what the second said,
 *    which has all that the first had.
 *  - A set with pages that were not written is as good: what is sent is what they hold. Types are looked up and p2m leaves
 *    followed for all of a set.
 */
#include "xen_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/mman.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/log.h>

#define MOVED_TAIL 64u /* MiB at the end of a region: as much video memory as there may be */
#define ALONE_MS 50 /* enough to fault in what a guest uses all the time */
#define MOVE_TRIES 3 /* live: the guest is changing its p2m list */

int xen_types(struct xen *x, const uint64_t *gfns, uint64_t n, uint8_t *ret, struct rpl_err *err)
{
	uint64_t batch[XEN_TYPES_MAX], from[XEN_TYPES_MAX];
	uint64_t at = 0;

	while (at < n) {
		unsigned k = 0;
		int r;

		for (; k < XEN_TYPES_MAX && at < n; at++) {
			uint64_t gfn = gfns ? gfns[at] : at;

			ret[at] = RPL_PAGE_XTAB;
			if (gfn == XEN_NO_FRAME)
				continue;
			batch[k] = gfn;
			from[k++] = at;
		}
		r = k ? xen_compat_page_types(x->xc, x->domid, k, batch) : 0;
		if (r < 0)
			return rpl_fail_errno(err, -r, "domain %u: types of %u pages from frame 0x%" PRIx64, x->domid, k, batch[0]);
		for (unsigned i = 0; i < k; i++) {
			if (!rpl_page_type_valid((unsigned)batch[i]))
				return rpl_fail(err, -EPROTO, "domain %u: a page of type 0x%x", x->domid, (unsigned)batch[i]);
			ret[from[i]] = (uint8_t)batch[i];
		}
	}
	return 0;
}

/* ---- types of many pages of the layout */

struct batch {
	uint64_t page[XEN_TYPES_MAX], gfn[XEN_TYPES_MAX];
	uint8_t type[XEN_TYPES_MAX];
	unsigned n;
};

static void set_type(struct xen *x, uint64_t file_page, uint8_t type)
{
	if (x->shared.types[file_page] == type)
		return;
	x->gained |= rpl_page_type_has_data(type) && !rpl_page_type_has_data(x->shared.types[file_page]);
	x->shared.types[file_page] = type;
	xen_shared_set_dirty(&x->shared, file_page);
	xen_shared_set_dirty(&x->shared, rpl_xen_guest_pages(&x->g->info.layout) + file_page / RPL_PAGE_SIZE);
}

static int flush(struct xen *x, struct batch *b, struct rpl_err *err)
{
	int r = xen_types(x, b->gfn, b->n, b->type, err);

	for (unsigned i = 0; i < b->n && r == 0; i++)
		set_type(x, b->page[i], b->type[i]);
	b->n = 0;
	return r;
}

static int add(struct xen *x, struct batch *b, uint64_t file_page, uint64_t pfn, struct rpl_err *err)
{
	b->page[b->n] = file_page;
	b->gfn[b->n++] = x->kind == XEN_PV ? x->shared.p2m[pfn] : pfn;
	return b->n == XEN_TYPES_MAX ? flush(x, b, err) : 0;
}

/* The types of all pages in regions of less than `limit` pages. */
static int types_of_regions(struct xen *x, uint64_t limit, struct rpl_err *err)
{
	const struct rpl_ram_layout *l = &x->g->info.layout;
	struct batch b = { .n = 0 };

	for (uint32_t i = 0; i + 1 < l->count; i++) {
		const struct rpl_ram_region *r = &l->region[i];

		for (uint64_t k = 0; r->pages < limit && k < r->pages; k++)
			if (add(x, &b, r->file_page + k, r->pfn + k, err) < 0)
				return err->code;
	}
	return flush(x, &b, err);
}

static int all_types(struct xen *x, struct rpl_err *err)
{
	return types_of_regions(x, UINT64_MAX, err);
}

/* ---- a collection */

struct set {
	uint64_t pages, again; /* in it; and in the one that was read before, too */
};

/* Xen's bitmap of one region into ours. */
static void merge_region(struct xen *x, const struct rpl_ram_region *r, struct set *set)
{
	uint64_t end = r->pfn + r->pages < x->log_pages ? r->pfn + r->pages : x->log_pages;
	const uint64_t *log = x->log.p;

	for (uint64_t i = r->pfn / 64; i * 64 < end; i++) {
		uint64_t mask = UINT64_MAX, w;

		if (i * 64 < r->pfn)
			mask &= UINT64_MAX << r->pfn % 64;
		if (end - i * 64 < 64)
			mask &= (UINT64_C(1) << (end - i * 64)) - 1;
		w = log[i] & mask;
		set->pages += (uint64_t)__builtin_popcountll(w);
		set->again += (uint64_t)__builtin_popcountll(w & x->last_log[i]);
		x->last_log[i] = (x->last_log[i] & ~mask) | w;
		for (; w; w &= w - 1)
			xen_shared_set_dirty(&x->shared, r->file_page + i * 64 + (uint64_t)__builtin_ctzll(w) - r->pfn);
	}
}

static int read_log(struct xen *x, bool clean, bool final, struct set *ret, struct rpl_err *err)
{
	const struct rpl_ram_layout *l = &x->g->info.layout;
	xc_shadow_op_stats_t stats;
	long long n = xc_logdirty_control(x->xc, x->domid, clean ? XEN_DOMCTL_SHADOW_OP_CLEAN : XEN_DOMCTL_SHADOW_OP_PEEK, &x->log.buffer,
					  x->log_pages, final ? XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL : 0, &stats);

	*ret = (struct set){ 0 };
	if (n < 0)
		return rpl_fail_errno(err, errno, "domain %u: take its dirty bitmap%s", x->domid,
				      errno == ENOMEM ? ": its paging pool is too small; begin anew with a larger shadow_memory=" : "");
	if ((uint64_t)n != x->log_pages)
		return rpl_fail(err, -EPROTO, "domain %u: a dirty bitmap of %lld pages, %" PRIu64 " were asked for", x->domid, n,
				x->log_pages);
	for (uint32_t i = 0; i + 1 < l->count; i++)
		merge_region(x, &l->region[i], ret);
	return 0;
}

/* The types of all pages that are dirty in the shared bitmap, also of those not taken since an earlier collection. */
static int dirty_types(struct xen *x, bool known_is_enough, struct rpl_err *err)
{
	const struct rpl_ram_layout *l = &x->g->info.layout;
	uint64_t pages = rpl_xen_guest_pages(l);
	struct batch b = { .n = 0 };

	for (uint64_t i = 0; i < RPL_BITMAP_WORDS(pages); i++) {
		uint64_t w = atomic_load_explicit(&x->shared.dirty[i], memory_order_relaxed);

		for (; w; w &= w - 1) {
			uint64_t p = i * 64 + (uint64_t)__builtin_ctzll(w), pfn;

			if (p >= pages)
				break;
			if (known_is_enough && x->shared.types[p] == RPL_PAGE_NOTAB)
				continue;
			rpl_assert(rpl_layout_pfn(l, p, &pfn));
			if (add(x, &b, p, pfn, err) < 0)
				return err->code;
		}
	}
	return flush(x, &b, err);
}

/* What it covers must be what the layout says: the memory that is shared with the mover is as large. */
static int check_p2m(const struct xen *x, struct rpl_err *err)
{
	uint64_t pages = rpl_xen_guest_pages(&x->g->info.layout);

	return x->p2m.pages == pages ? 0 : rpl_fail(err, -ESTALE, "the guest's p2m had %" PRIu64 " entries and has %" PRIu64
						    ": it must be inspected anew", pages, x->p2m.pages);
}

/* The p2m list moved: find it again. */
static int follow_p2m(struct xen *x, bool final, struct rpl_err *err)
{
	int moved = xen_p2m_moved(x);

	for (int i = 0; moved == -EAGAIN && !final && i < MOVE_TRIES; i++)
		moved = xen_p2m_moved(x);
	if (moved == 0)
		return 0;
	if (moved < 0 && final)
		return rpl_fail(err, -EAGAIN, "the guest suspended in the middle of a change of its p2m list");
	if (moved < 0)
		return 0; /* this round is repeated anyway, and the final one looks again */
	if (xen_p2m_open(x, err) < 0 || check_p2m(x, err) < 0)
		return err->code;
	/* from all leaves; the reverse table was made from the new list already */
	xen_p2m_update(x, NULL);
	return 0;
}

static int check_growth(struct xen *x, struct rpl_err *err)
{
	xen_pfn_t n = 0;

	if (xc_domain_nr_gpfns(x->xc, x->domid, &n) < 0)
		return rpl_fail_errno(err, errno, "domain %u: its highest frame", x->domid);
	return n <= x->log_pages ? 0 : rpl_fail(err, -ESTALE, "the guest had %" PRIu64 " frames and has %" PRIu64
						": it must be inspected anew", x->log_pages, (uint64_t)n);
}

/* HVM: a device model moves video memory (its frames go from one place to another when the guest moves a BAR), which neither
 * the dirty bitmap nor the number of pages shows. It has at least a MiB of them, they lie behind all memory of the guest or in
 * the hole below 4 GiB, and the two places are not both in the layout as they are: so looking at one frame of each MiB of the
 * end of each region shows it. */
static int look_moved(struct xen *x, struct rpl_err *err)
{
	const struct rpl_ram_layout *l = &x->g->info.layout;
	struct batch b = { .n = 0 };

	for (uint32_t i = 0; i + 1 < l->count; i++) {
		const struct rpl_ram_region *r = &l->region[i];

		for (uint64_t k = 1; k <= MOVED_TAIL && k * XEN_MOVED_PAGES <= r->pages && b.n < XEN_TYPES_MAX; k++) {
			b.page[b.n] = r->file_page + r->pages - k * XEN_MOVED_PAGES;
			b.gfn[b.n++] = r->pfn + r->pages - k * XEN_MOVED_PAGES;
		}
	}
	if (xen_types(x, b.gfn, b.n, b.type, err) < 0)
		return err->code;
	for (unsigned i = 0; i < b.n; i++)
		if (rpl_page_type_has_data(b.type[i]) != rpl_page_type_has_data(x->shared.types[b.page[i]]))
			return rpl_fail(err, -ESTALE, "frame 0x%" PRIx64 " was of type 0x%x and is of type 0x%x: the guest moved its video "
					"memory and must be inspected anew", b.gfn[i], x->shared.types[b.page[i]], b.type[i]);
	return 0;
}

/* HVM: the pages that it shares with its device model come and go with the device model's stops. */
static int look_special(struct xen *x, struct rpl_err *err)
{
	return types_of_regions(x, XEN_MOVED_PAGES, err);
}

/* Memory that the domain has, and no page of the layout. */
static uint64_t outside(const struct xen *x)
{
	uint64_t inside = xen_with_memory(x->shared.types, rpl_xen_guest_pages(&x->g->info.layout));

	return x->tot_pages > inside ? x->tot_pages - inside : 0;
}

/* It gained pages: where? A guest may add memory behind all that it was built for. Pages that it shares with a device model come
 * and go, in numbers that are no memory's. */
static int look_outside(struct xen *x, struct rpl_err *err)
{
	uint64_t now = outside(x);

	x->recount = false;
	return now <= x->outside + XEN_MOVED_PAGES ? 0 : rpl_fail(err, -ESTALE, "the guest has %" PRIu64 " pages where it had no memory "
								   "before: it must be inspected anew", now - x->outside);
}

static int collect_hvm(struct xen *x, const struct xen_dominfo *suspended, struct rpl_err *err)
{
	struct xen_dominfo d;
	bool final = suspended;
	int r = 0;

	if (final)
		d = *suspended;
	else
		r = xen_compat_dominfo(x->xc, x->domid, &d);
	if (r < 0)
		return rpl_fail_errno(err, -r, "domain %u", x->domid);
	if (final && check_growth(x, err) < 0)
		return err->code;
	if (d.tot_pages == x->tot_pages && final && x->kind == XEN_HVM && (look_moved(x, err) < 0 || look_special(x, err) < 0))
		return err->code;
	if (d.tot_pages == x->tot_pages) {
		r = dirty_types(x, true, err);
	} else {
		rpl_log(RPL_LOG_INFO, "vm=%s pages_were=%" PRIu64 " pages=%" PRIu64 " reason=\"the guest gained or lost pages\"",
			x->g->conf.name, x->tot_pages, d.tot_pages);
		x->tot_pages = d.tot_pages;
		x->shared.head->remap++;
		x->recount = true; /* in the pause: what runs takes more meanwhile */
		r = all_types(x, err);
	}
	return r == 0 && final && x->recount ? look_outside(x, err) : r;
}

/* What is new beside the set: p2m, types. */
static int look(struct xen *x, const struct xen_dominfo *suspended, struct rpl_err *err)
{
	if (x->kind != XEN_PV)
		return collect_hvm(x, suspended, err);
	if (follow_p2m(x, suspended, err) < 0)
		return err->code;
	xen_p2m_update(x, x->log.p);
	return dirty_types(x, false, err);
}

/* The set was read, what is new was looked at: are the pages to be protected again? */
static int protect_again(struct xen *x, enum xen_recheck_set of, bool cleaned, const struct set *set, struct rpl_err *err)
{
	bool due = of != XEN_SET_ROUND && xen_recheck_seen(&x->recheck, of, set->pages, set->again);
	bool final = of == XEN_SET_EPOCH, gained = x->kind != XEN_PV && x->gained;
	struct set same;

	if (gained && !(cleaned && final))
		xen_recheck_cleaned(&x->recheck);
	else if (!due)
		return 0;
	rpl_log(RPL_LOG_DEBUG, "vm=%s dirty=%" PRIu64 " protect=again reason=\"%s\"", x->g->conf.name, set->pages,
		gained ? "it gained pages" : "too many of them were written by earlier epochs");
	return read_log(x, true, final, &same, err);
}

int xen_collect(struct xen *x, const struct xen_dominfo *suspended, uint64_t *ret_pages, struct rpl_err *err)
{
	enum xen_recheck_set of = suspended ? XEN_SET_EPOCH : x->g->conf.checkpoints ? XEN_SET_ROUND : XEN_SET_LIVE;
	bool final = suspended, clean = xen_recheck_cleans(&x->recheck, of);
	uint64_t pages = 0;
	struct set set;
	int r;

	if (x->over)
		return rpl_fail(err, -ESRCH, "domain %u has ended", x->domid);
	rpl_assert(x->logging);
	x->shared.head->running = !final;
	x->gained = false;
	r = read_log(x, clean, final, &set, err);
	if (r == 0 && of == XEN_SET_ROUND && xen_recheck_cleans_round(&x->recheck, set.pages, rpl_xen_guest_pages(&x->g->info.layout)))
		r = read_log(x, true, final, &set, err);
	if (r == 0)
		r = look(x, suspended, err);
	if (r == 0)
		r = protect_again(x, of, clean, &set, err);
	for (uint64_t i = 0; ret_pages && i < RPL_BITMAP_WORDS(x->g->info.layout.pages); i++)
		pages += (uint64_t)__builtin_popcountll(atomic_load_explicit(&x->shared.dirty[i], memory_order_relaxed));
	if (ret_pages)
		*ret_pages = pages;
	return r;
}

/* ---- on and off */

void xen_log_off(struct xen *x)
{
	/* fails only if the domain is gone, and its log with it */
	if (x->logging && xc_shadow_control(x->xc, x->domid, XEN_DOMCTL_SHADOW_OP_OFF, NULL, 0) < 0)
		rpl_log(RPL_LOG_DEBUG, "vm=%s log_dirty_off=\"%s\"", x->g->conf.name, strerror(errno));
	x->logging = false;
	xen_room_free(x, &x->log);
	free(x->last_log);
	x->last_log = NULL;
	xen_shared_unmap(&x->shared);
}

static int make_log_buffer(struct xen *x, struct rpl_err *err)
{
	if (xen_room_make(x, &x->log, RPL_BITMAP_WORDS(x->log_pages) * sizeof(*x->last_log), "dirty bitmap", err) < 0)
		return err->code;
	x->recheck = (struct xen_recheck){ 0 };
	x->last_log = calloc(x->log.pages, RPL_PAGE_SIZE);
	return x->last_log ? 0 : rpl_fail(err, -ENOMEM, "no memory for a dirty bitmap of %" PRIu64 " pages", x->log_pages);
}

static int log_on(struct xen *x, struct rpl_err *err)
{
	int r = xc_shadow_control(x->xc, x->domid, XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY, NULL, 0);

	if (r < 0 && errno == EINVAL && x->kind != XEN_HVM && x->suspend_port >= 0 && !x->inherited)
		return rpl_fail(err, -EBUSY, "domain %u: its writes are logged for another program already: wait for the end of xl migrate or "
				"xl remus (if none runs, one was killed: xl save -c ends what it left)", x->domid);
	if (r < 0 && errno != EOPNOTSUPP) { /* the rest of an earlier session, or tracking of its video memory */
		(void)xc_shadow_control(x->xc, x->domid, XEN_DOMCTL_SHADOW_OP_OFF, NULL, 0);
		r = xc_shadow_control(x->xc, x->domid, XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY, NULL, 0);
	}
	if (r < 0)
		return rpl_fail_errno(err, errno, "domain %u: log its writes%s", x->domid, errno == EOPNOTSUPP ?
				      ": this Xen has no shadow paging, which PV guests need" : "");
	x->logging = true;
	return 0;
}

static int fill(struct xen *x, struct rpl_err *err)
{
	struct xen_shared_head *h = x->shared.head;
	uint64_t pages = rpl_xen_guest_pages(&x->g->info.layout);
	struct xen_dominfo d;
	int r = xen_compat_dominfo(x->xc, x->domid, &d);

	if (r < 0)
		return rpl_fail_errno(err, -r, "domain %u", x->domid);
	x->tot_pages = d.tot_pages;
	*h = (struct xen_shared_head){ .magic = XEN_SHARED_MAGIC, .domid = x->domid, .pv = x->kind == XEN_PV,
				       .max_mfn = x->max_mfn, .running = 1 };
	memset(x->shared.types, RPL_PAGE_XTAB, pages);
	if (x->kind == XEN_PV) {
		memset(x->shared.p2m, 0xff, pages * sizeof(*x->shared.p2m));
		xen_p2m_update(x, NULL);
	}
	r = all_types(x, err);
	x->outside = outside(x);
	x->recount = false;
	/* all of that is the state that the first round, which takes all pages, begins with */
	memset((void *)x->shared.dirty, 0, RPL_BITMAP_WORDS(x->g->info.layout.pages) * sizeof(uint64_t));
	return r;
}

/* From here on the guest takes a fault at each page that it uses. Where it shares its processor with us, what we have to do next would
 * keep it from that, and its clients from their answers. */
static void leave_it_alone(void)
{
	const struct timespec rest = { .tv_nsec = ALONE_MS * (long)RPL_MS };

	(void)nanosleep(&rest, NULL);
}

static int arm(struct xen *x, int fd, struct rpl_err *err)
{
	const struct rpl_ram_layout *l = &x->g->info.layout;

	xen_log_off(x);
	if (x->kind == XEN_PV && !x->p2m.list && xen_p2m_open(x, err) < 0) /* finding it again failed in the session before */
		return err->code;
	if (x->kind == XEN_PV && check_p2m(x, err) < 0)
		return err->code;
	if (ftruncate(fd, (off_t)xen_shared_size(l, x->kind == XEN_PV)) < 0)
		return rpl_fail_errno(err, errno, "memory to share with a mover");
	if (xen_shared_map(&x->shared, fd, l, x->kind == XEN_PV, err) < 0 || make_log_buffer(x, err) < 0)
		return err->code;
	/* first the log, then what it starts from; a device model tells Xen what it writes, so it begins before Xen */
	if (x->kind == XEN_HVM && xen_qemu_track(x, err) < 0)
		return err->code;
	if (log_on(x, err) < 0)
		return err->code;
	leave_it_alone();
	if (fill(x, err) < 0)
		return err->code;
	return xen_head_make(x, err);
}

int xen_memory(struct rpl_guest *g, struct rpl_memory_desc *ret, int *fds, size_t *ret_n, struct rpl_err *err)
{
	RPL_AUTO_FD int shared = memfd_create("replicad-xen", MFD_CLOEXEC);
	struct xen *x = xen_of(g);
	uint64_t begun = rpl_now_ns(), armed;
	int privcmd, r;

	r = shared < 0 ? rpl_fail_errno(err, errno, "memory to share with a mover") : arm(x, shared, err);
	privcmd = r == 0 ? xen_compat_privcmd(x->domid, err) : r;
	if (privcmd < 0) {
		xen_log_off(x);
		return rpl_prefix(err, "%s: memory", g->conf.name);
	}
	armed = rpl_now_ns();
	rpl_log(RPL_LOG_INFO, "vm=%s domain=%u pages=%" PRIu64 " log_dirty=on ms=%" PRIu64, g->conf.name, x->domid, x->tot_pages,
		(armed - begun) / RPL_MS);
	ret->kind = RPL_MEMORY_XEN;
	ret->xen_pv = x->kind == XEN_PV;
	ret->layout = g->info.layout;
	fds[0] = privcmd;
	fds[1] = rpl_steal_fd(&shared);
	*ret_n = 2;
	return 0;
}
