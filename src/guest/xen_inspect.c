/* xen_inspect.c - what kind of domain is it, where is its memory, and what stands against copying it */
#include "xen_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <replicad/auto.h>
#include <replicad/disk.h>

#include "xen_emulated.h"
#include "xen_helper.h"

#define DEVICES_MAX 64        /* of one kind */
#define GAP_FIRST 64          /* frames: holes up to so many do not split a region; more, if there are too many regions */
#define DEFINITION_LINES 80
#define LAYOUT_TEXT 512
#define PV_WIDTH 8u
#define LIBXL_CONFIG "/var/lib/xen/userdata-d.%u.%s.libxl-json"
#define SPECIAL_GROUP UINT64_C(16) /* less than GAP_FIRST, so that no two ranges grow into each other */
#define HOLE_FIRST UINT64_C(0xf0000) /* frame; memory below 4 GiB ends here at the latest, special pages begin above */

char *xen_read(struct xen *x, const char *fmt, ...)
{
	char path[XEN_PATH];
	unsigned len;
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(path, sizeof(path), fmt, ap);
	va_end(ap);
	return xs_read(x->xs, XBT_NULL, path, &len);
}

/* ---- by name */

/* A domain that waits to become a guest, or the rest of one. */
static bool is_replica(struct xen *x, const char *domid)
{
	RPL_AUTO_FREE char *marked = xen_read(x, RPL_XEN_STANDBY_NODE, (unsigned)strtoul(domid, NULL, 10));

	return marked;
}

int xen_find(struct xen *x, const char *name, struct rpl_err *err)
{
	unsigned n = 0;
	char **ids = xs_directory(x->xs, XBT_NULL, "/local/domain", &n);
	bool found = false;

	if (!ids)
		return rpl_fail_errno(err, errno, "xenstore: list the domains");
	for (unsigned i = 0; i < n && !found; i++) {
		RPL_AUTO_FREE char *has = xen_read(x, "/local/domain/%.20s/name", ids[i]);

		found = has && strcmp(has, name) == 0 && !is_replica(x, ids[i]);
		if (found)
			x->domid = (uint32_t)strtoul(ids[i], NULL, 10);
	}
	free(ids);
	if (!found)
		return rpl_fail(err, -ENOENT, "there is no domain '%s' on this host (xl list)", name);
	return x->domid ? 0 : rpl_fail(err, -EINVAL, "'%s' is this host's own control domain", name);
}

/* ---- what stands against it */

/* Kinds of device whose front ends make their state anew when they find a new domain around them. */
static bool device_allowed(const char *kind)
{
	static const char *const kinds[] = { "vif", "vbd", "console", "vkbd", "vfb" };

	for (size_t i = 0; i < RPL_ARRAY_LEN(kinds); i++)
		if (strcmp(kind, kinds[i]) == 0)
			return true;
	return false;
}

static int look_disk(struct xen *x, const char *id, struct rpl_err *err)
{
	RPL_AUTO_FREE char *mode = xen_read(x, "/libxl/%u/device/vbd/%.20s/mode", x->domid, id);
	RPL_AUTO_FREE char *dev = xen_read(x, "/libxl/%u/device/vbd/%.20s/dev", x->domid, id);

	return rpl_disk_admit(x->g->conf.name, dev ? dev : id, !mode || *mode != 'r', x->g->conf.any_disk, err);
}

static int look_devices_of(struct xen *x, const char *kind, struct rpl_err *err)
{
	char path[XEN_PATH];
	unsigned n = 0;
	char **ids;
	int r = 0;

	(void)snprintf(path, sizeof(path), "/libxl/%u/device/%.40s", x->domid, kind);
	ids = xs_directory(x->xs, XBT_NULL, path, &n);
	if (!ids && errno != ENOENT)
		return rpl_fail_errno(err, errno, "xenstore: list %s", path);
	if (n && strcmp(kind, "pci") == 0)
		r = rpl_fail(err, -ENOTSUP, "it has a PCI device passed through, whose memory accesses nobody can log: xl pci-detach");
	else if (n && !device_allowed(kind))
		r = rpl_fail(err, -ENOTSUP, "it has a device of kind '%.40s', which cannot be carried over: remove it from its "
			     "configuration", kind);
	for (unsigned i = 0; i < n && r == 0 && strcmp(kind, "vbd") == 0; i++)
		r = look_disk(x, ids[i], err);
	free(ids);
	return r;
}

static int look_devices(struct xen *x, struct rpl_err *err)
{
	char path[XEN_PATH];
	unsigned n = 0;
	char **kinds;
	int r = 0;

	(void)snprintf(path, sizeof(path), "/libxl/%u/device", x->domid);
	kinds = xs_directory(x->xs, XBT_NULL, path, &n);
	if (!kinds && errno != ENOENT)
		return rpl_fail_errno(err, errno, "xenstore: list %s", path);
	for (unsigned i = 0; i < n && r == 0; i++)
		r = look_devices_of(x, kinds[i], err);
	free(kinds);
	return r;
}

static int look_vnuma(struct xen *x, struct rpl_err *err)
{
	unsigned nodes = 0, ranges = 0, vcpus = 0;

	if (xc_domain_getvnuma(x->xc, x->domid, &nodes, &ranges, &vcpus, NULL, NULL, NULL) < 0 && errno == EOPNOTSUPP)
		return 0;
	return rpl_fail(err, -ENOTSUP, "it has virtual NUMA nodes, which no migration stream carries: remove vnuma= from its "
			"configuration");
}

static int look_pv(struct xen *x, struct rpl_err *err)
{
	xc_physinfo_t host = { 0 };
	unsigned width = 0;

	if (xc_domain_get_guest_width(x->xc, x->domid, &width) < 0)
		return rpl_fail_errno(err, errno, "domain %u: the width of its words", x->domid);
	if (width != PV_WIDTH)
		return rpl_fail(err, -ENOTSUP, "it is a PV guest of %u bits; only 64 are supported: use type=\"pvh\"", width * 8);
	if (xc_physinfo(x->xc, &host) < 0)
		return rpl_fail_errno(err, errno, "what this host's Xen can do");
	if (!(host.capabilities & XEN_SYSCTL_PHYSCAP_shadow))
		return rpl_fail(err, -ENOTSUP, "it is a PV guest, and this host's Xen has no shadow paging, which logging its writes "
				"needs: use type=\"pvh\", or a hypervisor built with CONFIG_SHADOW_PAGING");
	return 0;
}

/* A device model in a domain of its own has no second monitor, and the one of old no monitor at all. */
static int look_hvm(struct xen *x, struct rpl_err *err)
{
	RPL_AUTO_FREE char *stub = xen_read(x, "/local/domain/%u/image/device-model-domid", x->domid);
	RPL_AUTO_FREE char *version = xen_read(x, "/libxl/%u/dm-version", x->domid);

	if (stub && strtoul(stub, NULL, 10))
		return rpl_fail(err, -ENOTSUP, "its device model runs in a domain of its own (%.20s): remove "
				"device_model_stubdomain_override= from its configuration", stub);
	if (version && strcmp(version, "qemu_xen") != 0)
		return rpl_fail(err, -ENOTSUP, "its device model is %.40s, not qemu_xen: remove device_model_version= from its "
				"configuration", version);
	return 0;
}

/* libxl keeps the configuration of each domain in a file. */
static int read_emulated(struct xen *x, char ret[XEN_EMULATED_MAX], struct rpl_err *err)
{
	char path[XEN_PATH], uuid[RPL_UUID_TEXT];
	json_error_t jerr;
	json_t *config;
	int r;

	(void)snprintf(path, sizeof(path), LIBXL_CONFIG, x->domid, rpl_uuid_text(&x->g->info.uuid, uuid));
	config = json_load_file(path, JSON_REJECT_DUPLICATES | JSON_DISABLE_EOF_CHECK, &jerr); /* a NUL ends it */
	if (!config)
		return rpl_fail(err, -EINVAL, "%s: %.100s: the domain was not started by xl, or its configuration is gone", path, jerr.text);
	r = xen_emulated_text(config, ret, err);
	json_decref(config);
	return r;
}

static int look(struct xen *x, const struct xen_dominfo *d, struct rpl_err *err)
{
	int r;

	if (d->dying)
		return rpl_fail(err, -ESRCH, "domain %u is being destroyed", x->domid);
	if (d->shutdown && d->reason != XEN_SHUTDOWN_SUSPEND)
		return rpl_fail(err, -EINVAL, "domain %u has shut down (reason %u)", x->domid, d->reason);
	x->kind = !d->hvm ? XEN_PV : d->emulation & XEN_X86_EMU_PIC ? XEN_HVM : XEN_PVH;
	r = look_devices(x, err);
	if (r == 0)
		r = look_vnuma(x, err);
	if (r == 0 && x->kind == XEN_PV)
		r = look_pv(x, err);
	if (r == 0 && x->kind == XEN_HVM)
		r = look_hvm(x, err);
	return r;
}

/* ---- where its memory is */

struct range {
	uint64_t first, end;
};

/* Ranges of frames with memory, not more than a layout can hold beside the type table. A guest whose balloon is not empty may take
 * back what it has given of the frames below `own`: they belong to the first one. */
static int find_ranges(const uint8_t *types, uint64_t n, uint64_t own, uint64_t gap, struct range *ret, unsigned max)
{
	unsigned count = 0;

	for (uint64_t pfn = 0; pfn < n; pfn++) {
		if (pfn >= own && types[pfn] == RPL_PAGE_XTAB)
			continue;
		if (count && pfn - ret[count - 1].end < gap) {
			ret[count - 1].end = pfn + 1;
			continue;
		}
		if (count == max)
			return -1;
		ret[count++] = (struct range){ pfn, pfn + 1 };
	}
	return (int)count;
}

/* HVM: pages shared with a device model come and go within aligned groups, so the whole group belongs to the layout. */
static void widen_special(struct range *r, int n, uint64_t end)
{
	for (int i = 0; i < n; i++) {
		if (r[i].first < HOLE_FIRST || r[i].end - r[i].first >= XEN_MOVED_PAGES)
			continue;
		r[i].first = r[i].first & ~(SPECIAL_GROUP - 1);
		r[i].end = (r[i].end + SPECIAL_GROUP - 1) & ~(SPECIAL_GROUP - 1);
		if (r[i].end > end)
			r[i].end = end;
	}
}

static int probe(struct xen *x, uint64_t first, uint64_t end, uint8_t *types, struct rpl_err *err)
{
	uint64_t gfns[XEN_TYPES_MAX];

	for (uint64_t at = first; at < end;) {
		uint64_t n = end - at < XEN_TYPES_MAX ? end - at : XEN_TYPES_MAX;

		for (uint64_t i = 0; i < n; i++)
			gfns[i] = at + i;
		if (xen_types(x, gfns, n, types + at, err) < 0)
			return err->code;
		at += n;
	}
	return 0;
}

/* Frames below which the memory lies that it was built with. What the domain may have now (max_pages) can be less: xl mem-set lowers
 * that, and the guest chooses which of its frames it gives back. */
static uint64_t frames_built(struct xen *x, const struct xen_dominfo *d)
{
	RPL_AUTO_FREE char *kib = xen_read(x, "/local/domain/%u/memory/static-max", x->domid);
	uint64_t pages = kib ? strtoull(kib, NULL, 10) >> (RPL_PAGE_SHIFT - 10) : 0;

	return pages > d->max_pages && pages <= RPL_RAM_PAGES_MAX ? pages : d->max_pages;
}

uint64_t xen_with_memory(const uint8_t *types, uint64_t n)
{
	uint64_t pages = 0;

	for (uint64_t pfn = 0; pfn < n; pfn++)
		pages += rpl_page_type_has_data(types[pfn]);
	return pages;
}

/* A small guest usually has nothing between the end of its memory and the special pages below 4 GiB: looking there for every frame
 * takes the keeper most of a second, and is done if pages are missing, as those of a device with much memory. */
static int probe_all(struct xen *x, uint64_t n, uint64_t built_for, uint64_t has, uint8_t *types, struct rpl_err *err)
{
	uint64_t low = built_for < n ? built_for : n, high = low < HOLE_FIRST && HOLE_FIRST < n ? HOLE_FIRST : low, found;

	memset(types, RPL_PAGE_XTAB, n);
	if (probe(x, 0, low, types, err) < 0 || probe(x, high, n, types, err) < 0)
		return err->code;
	found = xen_with_memory(types, n);
	if (found < has) {
		if (probe(x, low, high, types, err) < 0)
			return err->code;
		found = xen_with_memory(types, n);
	}
	return found ? 0 : rpl_fail(err, -EINVAL, "domain %u has no memory", x->domid);
}

static int layout_hvm(struct xen *x, const struct xen_dominfo *d, struct rpl_err *err)
{
	struct rpl_ram_layout *l = &x->g->info.layout;
	struct range ranges[RPL_RAM_REGIONS_MAX - 1];
	RPL_AUTO_FREE uint8_t *types = NULL;
	uint64_t built_for = frames_built(x, d), own;
	xen_pfn_t n = 0;
	int count = -1;

	if (xc_domain_nr_gpfns(x->xc, x->domid, &n) < 0)
		return rpl_fail_errno(err, errno, "domain %u: its highest frame", x->domid);
	if (n == 0 || n > RPL_RAM_PAGES_MAX)
		return rpl_fail(err, -E2BIG, "domain %u: %" PRIu64 " frames; 1 to %" PRIu64 " are possible", x->domid, (uint64_t)n,
				(uint64_t)RPL_RAM_PAGES_MAX);
	types = malloc(n);
	if (!types)
		return rpl_fail(err, -ENOMEM, "no memory for the types of %" PRIu64 " pages", (uint64_t)n);
	if (probe_all(x, n, built_for, d->tot_pages, types, err) < 0)
		return err->code;
	own = built_for < HOLE_FIRST ? built_for : HOLE_FIRST;
	for (uint64_t gap = GAP_FIRST; count < 0; gap *= 4)
		count = find_ranges(types, n, own, gap, ranges, RPL_ARRAY_LEN(ranges));
	if (ranges[0].end < own) /* it has given back its last ones */
		ranges[0].end = own;
	if (x->kind == XEN_HVM)
		widen_special(ranges, count, n);
	x->log_pages = n > ranges[count - 1].end ? n : ranges[count - 1].end;
	for (int i = 0; i < count; i++)
		if (!rpl_layout_add(l, ranges[i].first, ranges[i].end - ranges[i].first, l->pages))
			return rpl_fail(err, -E2BIG, "domain %u: its memory does not fit a layout", x->domid);
	return 0;
}

static int layout_pv(struct xen *x, struct rpl_err *err)
{
	if (xen_p2m_open(x, err) < 0)
		return err->code;
	x->log_pages = x->p2m.pages;
	if (!rpl_layout_add(&x->g->info.layout, 0, x->p2m.pages, 0))
		return rpl_fail(err, -E2BIG, "domain %u: a p2m of %" PRIu64 " entries", x->domid, x->p2m.pages);
	return 0;
}

/* ---- the definition */

struct lines {
	char *line[DEFINITION_LINES];
	size_t n, bytes;
	bool failed;
};

static void add_line(struct lines *t, const char *fmt, ...) RPL_PRINTF(2, 3);
static void add_line(struct lines *t, const char *fmt, ...)
{
	char *s = NULL;
	va_list ap;
	int len;

	va_start(ap, fmt);
	len = vasprintf(&s, fmt, ap);
	va_end(ap);
	if (len < 0 || t->n == DEFINITION_LINES) {
		t->failed = true;
		if (len >= 0)
			free(s);
		return;
	}
	t->line[t->n++] = s;
	t->bytes += (size_t)len + 1;
}

static int by_key(const void *a, const void *b)
{
	const char *p = *(const char *const *)a, *q = *(const char *const *)b;
	size_t n = strcspn(p, "="), k = strcspn(q, "=");
	int r = memcmp(p, q, n < k ? n : k);

	return r ? r : (n > k) - (n < k);
}

static char *join(struct lines *t, struct rpl_err *err)
{
	char *text = t->failed || t->bytes >= RPL_GUEST_DEFINITION_MAX ? NULL : malloc(t->bytes + 1), *at = text;

	if (!text)
		(void)rpl_fail(err, -E2BIG, "its definition has %zu lines and %zu bytes, possible are %d and %d", t->n, t->bytes,
			       DEFINITION_LINES, RPL_GUEST_DEFINITION_MAX);
	qsort(t->line, t->n, sizeof(t->line[0]), by_key);
	for (size_t i = 0; i < t->n; i++) {
		if (text)
			at = stpcpy(stpcpy(at, t->line[i]), "\n");
		free(t->line[i]);
	}
	return text;
}

static void add_nics(struct xen *x, struct lines *t)
{
	char path[XEN_PATH];
	unsigned n = 0;
	char **ids;

	(void)snprintf(path, sizeof(path), "/libxl/%u/device/vif", x->domid);
	ids = xs_directory(x->xs, XBT_NULL, path, &n);
	for (unsigned i = 0; i < n && i < DEVICES_MAX; i++) {
		RPL_AUTO_FREE char *mac = xen_read(x, "/libxl/%u/device/vif/%.20s/mac", x->domid, ids[i]);

		add_line(t, "mac.%.20s=%.20s", ids[i], mac ? mac : "?");
	}
	free(ids);
}

static const char *kind_name(enum xen_kind kind)
{
	static const char *const names[] = { [XEN_PV] = "pv", [XEN_PVH] = "pvh", [XEN_HVM] = "hvm" };

	return names[kind];
}

/* A PV guest's rings are machine frames, which libxl notes in xenstore. */
static bool pv_ring(struct xen *x, const char *of, uint64_t *ret)
{
	RPL_AUTO_FREE char *text = xen_read(x, "/local/domain/%u/%s/ring-ref", x->domid, of);

	return text && xen_reverse_pfn(&x->p2m.reverse, x->p2m.list, strtoull(text, NULL, 10), ret);
}

/* Without them no backup can attach the domain's devices before a takeover. */
static int add_rings(struct xen *x, struct lines *t, struct rpl_err *err)
{
	uint64_t store, console;

	if (x->kind == XEN_HVM || (x->kind == XEN_PV && !(pv_ring(x, "store", &store) && pv_ring(x, "console", &console))))
		return 0;
	if (x->kind == XEN_PVH && (xc_hvm_param_get(x->xc, x->domid, HVM_PARAM_STORE_PFN, &store) < 0 ||
				   xc_hvm_param_get(x->xc, x->domid, HVM_PARAM_CONSOLE_PFN, &console) < 0))
		return rpl_fail_errno(err, errno, "domain %u: where its rings are", x->domid);
	add_line(t, RPL_XEN_KEY_RINGS "=0x%" PRIx64 ",0x%" PRIx64, store, console);
	return 0;
}

static int define(struct xen *x, int version, struct rpl_err *err)
{
	struct rpl_guest_info *i = &x->g->info;
	struct lines t = { 0 };
	char layout[LAYOUT_TEXT], emulated[XEN_EMULATED_MAX];

	if (x->kind == XEN_HVM && read_emulated(x, emulated, err) < 0)
		return err->code;
	if (!rpl_xen_layout_text(&i->layout, layout, sizeof(layout)))
		return rpl_fail(err, -E2BIG, "the text of its layout");
	if (add_rings(x, &t, err) < 0) /* first: join() frees the lines */
		return err->code;
	add_line(&t, "backend=xen");
	add_line(&t, RPL_XEN_KEY_DOMAIN "=%s", kind_name(x->kind));
	add_line(&t, RPL_XEN_KEY_LAYOUT "=%s", layout);
	if (x->kind == XEN_HVM)
		add_line(&t, XEN_KEY_EMULATED "=%s", emulated);
	add_line(&t, "vcpus=%u", x->vcpus);
	add_line(&t, "xen=%d.%d", version >> 16, version & 0xffff);
	add_nics(x, &t);
	i->definition = join(&t, err);
	return i->definition ? 0 : err->code;
}

int xen_inspect(struct xen *x, struct rpl_err *err)
{
	struct rpl_guest_info *i = &x->g->info;
	int version = xc_version(x->xc, XENVER_version, NULL), r;
	struct xen_dominfo d;
	unsigned long top = 0;

	free(i->definition);
	free(i->interfaces);
	memset(i, 0, sizeof(*i));
	r = xen_compat_dominfo(x->xc, x->domid, &d);
	if (r < 0)
		return rpl_fail_errno(err, -r, "domain %u", x->domid);
	if (version < 0 || xc_maximum_ram_page(x->xc, &top) < 0)
		return rpl_fail_errno(err, errno, "version and memory of this host's Xen");
	memcpy(i->uuid.b, d.uuid, sizeof(i->uuid.b));
	x->max_mfn = top;
	x->vcpus = d.max_vcpu_id + 1;
	r = look(x, &d, err);
	if (r == 0)
		r = x->kind == XEN_PV ? layout_pv(x, err) : layout_hvm(x, &d, err);
	if (r == 0 && !rpl_xen_layout_add_types(&i->layout))
		r = rpl_fail(err, -E2BIG, "its layout has no room for the type table");
	if (r == 0)
		r = define(x, version, err);
	if (r == 0 && !x->g->conf.any_netdev) /* else nobody holds its output */
		r = xen_interfaces(x, err);
	if (r < 0)
		return r;
	(void)snprintf(i->producer, sizeof(i->producer), "Xen %d.%d", version >> 16, version & 0xffff);
	(void)snprintf(i->machine, sizeof(i->machine), "%s", kind_name(x->kind));
	i->ram_bytes = rpl_xen_guest_pages(&i->layout) << RPL_PAGE_SHIFT;
	i->running = !d.shutdown;
	i->life = x->domid;
	return 0;
}
