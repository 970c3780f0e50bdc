#include "xen_fake.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <xenctrl.h>
#include <xenevtchn.h>
#include <xenforeignmemory.h>
#include <xenguest.h>
#include <xenstore_lib.h>
#include <xenstore.h>

#include "../../src/guest/uapi_privcmd.h"

#define PAGE 4096u
#define MFN_FIRST 100
#define MACHINE_PAGES 2048
#define SHINFO_MFN 50
#define NR_GPFNS 0xff000
#define NODES 32
#define PORT FAKE_PORT
#define LIST_VADDR UINT64_C(0xffffc90000000000)
#define NONE UINT64_MAX
#define TYPE_XTAB 0xfu
#define TYPE_BROKEN 0xdu
#define XSAVE_BYTES 592
#define XSAVE_MASK 7
#define MSRS 7

struct xen_fake fake;

static int memfd = -1, event = -1, watch = -1;
static uint8_t *machine;
static uint64_t p2m[FAKE_PAGES + FAKE_SPECIALS];
static uint8_t dirty[(FAKE_PAGES + FAKE_SPECIALS) / 8 + 1];
static bool unlogged[FAKE_PAGES + FAKE_SPECIALS]; /* PVH: writable without a mark: it came since the last CLEAN */
static struct node {
	char path[96], value[96];
} nodes[NODES];
static bool subscribed, event_pending, watch_pending, dying, shut, cancelled;
static unsigned shut_reason;
static struct {
	char path[96], token[32], told[96]; /* what is watched; what came or went below it */
} devices;
static uint64_t gone_pages; /* PVH: given back */
static uint32_t policy_7b; /* of the policy that was read last */

/* ---- the guest */

static size_t slot_of(uint64_t pfn)
{
	if (pfn < FAKE_PAGES)
		return pfn;
	return !fake.pv && pfn >= FAKE_SPECIAL && pfn < FAKE_SPECIAL + FAKE_SPECIALS ? FAKE_PAGES + pfn - FAKE_SPECIAL : SIZE_MAX;
}

/* Of a pfn that a test names: it is there. */
static size_t known_slot(uint64_t pfn)
{
	size_t slot = slot_of(pfn);

	if (slot == SIZE_MAX)
		abort();
	return slot;
}

uint64_t xen_fake_mfn(uint64_t pfn)
{
	return slot_of(pfn) == SIZE_MAX ? NONE : p2m[slot_of(pfn)];
}

uint8_t *xen_fake_page(uint64_t pfn)
{
	return machine + xen_fake_mfn(pfn) * PAGE;
}

void xen_fake_normalised(uint64_t pfn, uint64_t *table)
{
	memcpy(table, xen_fake_page(pfn), PAGE);
	for (unsigned i = 0; i < 512; i++)
		for (unsigned p = 0; table[i] & 1 && p < FAKE_PAGES; p++)
			if (xen_fake_mfn(p) == (table[i] & UINT64_C(0xffffffffff000)) >> 12) {
				table[i] = (table[i] & ~UINT64_C(0xffffffffff000)) | (uint64_t)p << 12;
				break;
			}
}

static void set_dirty(uint64_t pfn)
{
	if (fake.logging && !unlogged[known_slot(pfn)])
		dirty[known_slot(pfn) / 8] |= (uint8_t)(1u << known_slot(pfn) % 8);
}

void xen_fake_write(uint64_t pfn, size_t at, uint64_t value)
{
	memcpy(xen_fake_page(pfn) + at, &value, sizeof(value));
	set_dirty(pfn);
}

void xen_fake_set_type(uint64_t pfn, unsigned type)
{
	fake.type[known_slot(pfn)] = (uint8_t)type;
	set_dirty(pfn);
}

void xen_fake_gain(uint64_t pfn)
{
	size_t slot = known_slot(pfn);

	if (fake.type[slot] != TYPE_XTAB)
		return;
	fake.type[slot] = 0;
	p2m[slot] = p2m[slot] == slot ? slot + FAKE_PAGES + FAKE_SPECIALS : slot; /* another frame than it had */
	memset(xen_fake_page(pfn), 0, PAGE);
	unlogged[slot] = fake.logging;
	gone_pages--;
}

void xen_fake_lose(uint64_t pfn)
{
	size_t slot = known_slot(pfn);

	if (fake.type[slot])
		return;
	fake.type[slot] = TYPE_XTAB;
	gone_pages++;
}

void xen_fake_set_mfn(uint64_t pfn, uint64_t mfn)
{
	p2m[pfn] = mfn;
	fake.type[pfn] = mfn == NONE ? TYPE_XTAB : 0;
	xen_fake_write(FAKE_LEAF + pfn / 512, pfn % 512 * 8, mfn);
}

static shared_info_t *shinfo(void)
{
	return (shared_info_t *)(void *)(machine + (size_t)SHINFO_MFN * PAGE);
}

void xen_fake_p2m_generation(uint64_t generation)
{
	shinfo()->arch.p2m_generation = generation;
}

void xen_fake_p2m_count(uint64_t count)
{
	shinfo()->arch.max_pfn = count;
}

static void pte(uint64_t table, unsigned entry, uint64_t pfn)
{
	xen_fake_write(table, entry * 8, p2m[pfn] * PAGE | 1);
}

/* Page tables that map the p2m and nothing else. */
static void build_pv(void)
{
	for (unsigned i = 0; i < FAKE_PAGES; i++)
		p2m[i] = MFN_FIRST + i * 7 % FAKE_PAGES; /* all of them, none at its place */
	for (unsigned level = 4; level >= 2; level--) {
		fake.type[FAKE_L4 + 4 - level] = (uint8_t)level;
		pte(FAKE_L4 + 4 - level, LIST_VADDR >> (12 + 9 * (level - 1)) & 511, FAKE_L4 + 5 - level);
	}
	fake.type[FAKE_L4] |= 8; /* pinned */
	fake.type[FAKE_L1] = 1;
	pte(FAKE_L1, 0, FAKE_LEAF);
	pte(FAKE_L1, 1, FAKE_LEAF + 1);
	for (unsigned i = 0; i < FAKE_PAGES; i++)
		xen_fake_write(FAKE_LEAF + i / 512, i % 512 * 8, p2m[i]);
	for (unsigned i = FAKE_BALLOON; i < FAKE_BALLOON_END; i++)
		xen_fake_set_mfn(i, NONE);
	fake.type[FAKE_BROKEN] = TYPE_BROKEN;
	shinfo()->arch.max_pfn = FAKE_PAGES;
	shinfo()->arch.p2m_cr3 = p2m[FAKE_L4] * PAGE;
	shinfo()->arch.p2m_vaddr = LIST_VADDR;
	shinfo()->arch.p2m_generation = 2;
}

void xen_fake_remove_node(const char *path)
{
	for (size_t i = 0; i < NODES; i++)
		if (strcmp(nodes[i].path, path) == 0)
			memset(&nodes[i], 0, sizeof(nodes[i]));
}

void xen_fake_put_node(const char *path, const char *value)
{
	for (size_t i = 0; i < NODES; i++)
		if (!nodes[i].path[0] || strcmp(nodes[i].path, path) == 0) {
			(void)snprintf(nodes[i].path, sizeof(nodes[i].path), "%s", path);
			(void)snprintf(nodes[i].value, sizeof(nodes[i].value), "%s", value);
			return;
		}
	abort();
}

const char *xen_fake_node(const char *path)
{
	for (size_t i = 0; i < NODES; i++)
		if (strcmp(nodes[i].path, path) == 0)
			return nodes[i].value;
	return NULL;
}

const char *xen_fake_name(void)
{
	return nodes[0].value;
}

void xen_fake_set_name(const char *name)
{
	xen_fake_put_node("/local/domain/5/name", name);
}

void xen_fake_start(bool pv)
{
	memset(&fake, 0, sizeof(fake));
	memset(nodes, 0, sizeof(nodes));
	memset(dirty, 0, sizeof(dirty));
	memset(unlogged, 0, sizeof(unlogged));
	memset(&devices, 0, sizeof(devices));
	gone_pages = 0;
	subscribed = event_pending = watch_pending = dying = shut = cancelled = false;
	fake.pv = pv;
	fake.reason = SHUTDOWN_suspend;
	fake.gpfns = NR_GPFNS;
	fake.max_pages = pv ? FAKE_PAGES : FAKE_PAGES + FAKE_SPECIALS;
	fake.xsave = fake.xsave_most = XSAVE_BYTES;
	fake.msrs = 1;
	fake.msrs_most = MSRS;
	fake.bad_map = NONE;
	memfd = memfd_create("machine", MFD_CLOEXEC);
	if (memfd < 0 || ftruncate(memfd, (off_t)MACHINE_PAGES * PAGE) < 0)
		abort();
	machine = mmap(NULL, (size_t)MACHINE_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	if (machine == MAP_FAILED)
		abort();
	event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	watch = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	for (unsigned i = 0; i < FAKE_PAGES + FAKE_SPECIALS; i++)
		p2m[i] = i;
	if (pv)
		build_pv();
	for (unsigned i = 30; i < FAKE_PAGES; i++)
		if (!fake.type[i])
			xen_fake_write(i, 0, i * UINT64_C(0x9e3779b97f4a7c15));
	xen_fake_put_node("/local/domain/5/name", FAKE_NAME);
	xen_fake_put_node("/local/domain/5/control/shutdown", "");
	xen_fake_put_node("/libxl/5/device/console/0", "");
}

void xen_fake_end(void)
{
	(void)munmap(machine, (size_t)MACHINE_PAGES * PAGE);
	(void)close(memfd);
	(void)close(event);
	(void)close(watch);
}

static void ring(int fd, bool *pending)
{
	uint64_t one = 1;

	*pending = true;
	if (write(fd, &one, sizeof(one)) != (ssize_t)sizeof(one))
		abort();
}

void xen_fake_shutdown(unsigned reason)
{
	shut = true;
	shut_reason = reason;
	fake.suspended = reason == SHUTDOWN_suspend;
	if (fake.suspended && subscribed)
		ring(event, &event_pending);
	else
		ring(watch, &watch_pending);
}

void xen_fake_resume(void)
{
	shut = fake.suspended = false;
}

void xen_fake_destroy(void)
{
	dying = true;
	ring(watch, &watch_pending);
}

static void ask_to_suspend(void)
{
	if (fake.refuses || dying)
		return;
	xen_fake_put_node("/local/domain/5/control/shutdown", "");
	fake.suspends++;
	if (fake.on_suspend)
		fake.on_suspend();
	xen_fake_shutdown(fake.reason);
}

/* ---- failing */

static bool fails_here(const char *name)
{
	if (fake.calls < FAKE_CALLS)
		fake.call[fake.calls] = name;
	fake.calls++;
	if (fake.calls != fake.fail_at && (!fake.fail_name || strcmp(name, fake.fail_name) != 0))
		return false;
	errno = fake.error ? fake.error : EIO;
	return true;
}
#define FAILS fails_here(__func__)

/* Whatever is asked, the guest does not wait for the answer. */
static void run_on(void)
{
	if (!shut && fake.on_look)
		fake.on_look();
}

/* ---- libxenctrl */

xc_interface *xc_interface_open(xentoollog_logger *logger, xentoollog_logger *dombuild, unsigned flags)
{
	(void)logger;
	(void)dombuild;
	(void)flags;
	if (FAILS)
		return NULL;
	fake.handles++;
	return (xc_interface *)(void *)&fake;
}

int xc_interface_close(xc_interface *xc)
{
	(void)xc;
	fake.handles--;
	return 0;
}

struct xenforeignmemory_handle *xc_interface_fmem_handle(xc_interface *xc)
{
	return (struct xenforeignmemory_handle *)(void *)xc;
}

int xc_version(xc_interface *xc, int cmd, void *arg)
{
	(void)xc;
	if (FAILS)
		return -1;
	if (cmd == XENVER_extraversion)
		memcpy(arg, ".5", 3);
	return cmd == XENVER_version ? 4 << 16 | 17 : 0;
}

int xc_maximum_ram_page(xc_interface *xc, unsigned long *max)
{
	(void)xc;
	*max = MACHINE_PAGES - 1;
	return FAILS ? -1 : 0;
}

int xc_physinfo(xc_interface *xc, xc_physinfo_t *info)
{
	(void)xc;
	memset(info, 0, sizeof(*info));
	info->free_pages = fake.free_pages ? fake.free_pages : 1 << 18;
	info->outstanding_pages = fake.claimed_pages;
	info->capabilities = (fake.no_hap ? 0 : XEN_SYSCTL_PHYSCAP_hap) | (fake.no_shadow ? 0 : XEN_SYSCTL_PHYSCAP_shadow);
	return FAILS ? -1 : 0;
}

int xc_domain_getinfolist(xc_interface *xc, uint32_t first, unsigned max, xc_domaininfo_t *i)
{
	(void)xc;
	(void)max;
	if (FAILS)
		return -1;
	if (first != FAKE_DOMID || fake.gone)
		return 0;
	run_on();
	memset(i, 0, sizeof(*i));
	i->domain = FAKE_DOMID;
	i->flags = (fake.pv ? 0 : XEN_DOMINF_hvm_guest | XEN_DOMINF_hap) | (dying ? XEN_DOMINF_dying : 0) |
		   (shut ? XEN_DOMINF_shutdown | shut_reason << XEN_DOMINF_shutdownshift : 0) | (fake.paused ? XEN_DOMINF_paused : 0);
	i->max_pages = fake.max_pages;
	i->tot_pages = (fake.pv ? FAKE_PAGES : FAKE_PAGES + FAKE_SPECIALS) - gone_pages + fake.elsewhere;
	i->shared_info_frame = SHINFO_MFN;
	i->arch_config.emulation_flags = fake.hvm ? XEN_X86_EMU_PIC : 0;
	memset(i->handle, 0x5a, sizeof(i->handle));
	return 1;
}

int xc_get_pfn_type_batch(xc_interface *xc, uint32_t domid, unsigned num, xen_pfn_t *pfns);
int xc_get_pfn_type_batch(xc_interface *xc, uint32_t domid, unsigned num, xen_pfn_t *pfns)
{
	(void)xc;
	(void)domid;
	if (FAILS)
		return -1;
	for (unsigned i = 0; i < num; i++) {
		uint64_t type = TYPE_XTAB;

		if (!fake.pv && slot_of(pfns[i]) != SIZE_MAX)
			type = fake.type[slot_of(pfns[i])];
		for (unsigned p = 0; fake.pv && p < FAKE_PAGES; p++)
			if (p2m[p] == pfns[i])
				type = fake.type[p];
		pfns[i] = type << XEN_DOMCTL_PFINFO_LTAB_SHIFT;
	}
	run_on();
	return 0;
}

int xc_shadow_control(xc_interface *xc, uint32_t domid, unsigned op, unsigned *mb, unsigned mode)
{
	(void)xc;
	(void)domid;
	(void)mb;
	(void)mode;
	if (op == XEN_DOMCTL_SHADOW_OP_OFF) { /* cannot fail for a domain that is there */
		fake.logging = false;
		return 0;
	}
	if (FAILS)
		return -1;
	if (fake.logging) {
		errno = EINVAL;
		return -1;
	}
	fake.logging = true;
	memset(dirty, 0, sizeof(dirty));
	memset(unlogged, 0, sizeof(unlogged));
	if (fake.on_clean)
		fake.on_clean(0);
	return 0;
}

long long xc_logdirty_control(xc_interface *xc, uint32_t domid, unsigned op, xc_hypercall_buffer_t *to, unsigned long pages,
			      unsigned mode, xc_shadow_op_stats_t *stats)
{
	(void)xc;
	(void)domid;
	(void)stats;
	if (FAILS)
		return -1;
	memset(to->hbuf, 0, pages / 8);
	for (size_t i = 0; i < FAKE_PAGES + FAKE_SPECIALS; i++) {
		uint64_t pfn = i < FAKE_PAGES ? i : FAKE_SPECIAL + i - FAKE_PAGES;

		if (pfn < pages && dirty[i / 8] >> i % 8 & 1)
			((uint8_t *)to->hbuf)[pfn / 8] |= (uint8_t)(1u << pfn % 8);
	}
	if (op == XEN_DOMCTL_SHADOW_OP_PEEK) {
		fake.peeks++;
		return (long long)pages;
	}
	memset(dirty, 0, sizeof(dirty));
	memset(unlogged, 0, sizeof(unlogged));
	fake.cleans++;
	if (!(mode & XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL) && fake.on_clean)
		fake.on_clean(fake.cleans);
	return (long long)pages;
}

int xc_domain_nr_gpfns(xc_interface *xc, uint32_t domid, xen_pfn_t *n)
{
	(void)xc;
	(void)domid;
	*n = fake.gpfns;
	return FAILS ? -1 : 0;
}

int xc_domain_get_guest_width(xc_interface *xc, uint32_t domid, unsigned *width)
{
	(void)xc;
	(void)domid;
	*width = 8;
	return FAILS ? -1 : 0;
}

int xc_domain_getvnuma(xc_interface *xc, uint32_t domid, uint32_t *nodes_, uint32_t *ranges, uint32_t *vcpus, xen_vmemrange_t *r,
		       unsigned *d, unsigned *m)
{
	(void)xc;
	(void)domid;
	(void)nodes_;
	(void)ranges;
	(void)vcpus;
	(void)r;
	(void)d;
	(void)m;
	errno = EOPNOTSUPP;
	return -1;
}

/* A guest whose suspend does not return that it was cancelled takes itself for a new domain. */
static int resume(bool with_drivers)
{
	if (!fake.suspended || !with_drivers) {
		errno = EINVAL;
		return -1;
	}
	shut = fake.suspended = cancelled = false;
	fake.resumes++;
	return 0;
}

int xc_domain_resume(xc_interface *xc, uint32_t domid, int fast)
{
	(void)xc;
	(void)domid;
	(void)fast;
	return FAILS ? -1 : resume(true);
}

int xc_domain_shutdown(xc_interface *xc, uint32_t domid, int reason)
{
	(void)xc;
	(void)domid;
	(void)reason;
	if (FAILS)
		return -1;
	ask_to_suspend();
	return 0;
}

int xc_domain_pause(xc_interface *xc, uint32_t domid)
{
	(void)xc;
	(void)domid;
	return 0;
}

int xc_domain_subscribe_for_suspend(xc_interface *xc, uint32_t domid, evtchn_port_t port)
{
	(void)xc;
	(void)domid;
	if (port && FAILS)
		return -1;
	subscribed = port != 0;
	return 0;
}

int xc_evtchn_alloc_unbound(xc_interface *xc, uint32_t domid, uint32_t remote)
{
	(void)xc;
	(void)domid;
	(void)remote;
	return FAILS ? -1 : PORT;
}

int xc_hvm_param_get(xc_interface *xc, uint32_t domid, uint32_t param, uint64_t *value)
{
	(void)xc;
	(void)domid;
	if (FAILS)
		return -1;
	*value = param == HVM_PARAM_ACPI_S_STATE ? 0 : param + 1; /* one of them says that there are drivers to be asked */
	return 0;
}

static int put_context(uint8_t *to, uint32_t size)
{
	/* a header and the end: what our own checker asks of one */
	static const uint8_t context[] = { 1, 0, 0, 0, 24, 0, 0, 0, 0x86, 0x12, 0x38, 0x54, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
					   0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 };

	if (to)
		memcpy(to, context, size < sizeof(context) ? size : sizeof(context));
	return sizeof(context);
}

int xc_domain_hvm_getcontext(xc_interface *xc, uint32_t domid, uint8_t *to, uint32_t size)
{
	(void)xc;
	(void)domid;
	return FAILS ? -1 : put_context(to, size);
}

int xc_domain_get_tsc_info(xc_interface *xc, uint32_t domid, uint32_t *mode, uint64_t *nsec, uint32_t *khz, uint32_t *incarnation)
{
	(void)xc;
	(void)domid;
	*mode = 0;
	*nsec = 1;
	*khz = 1000000;
	*incarnation = 0;
	return FAILS ? -1 : 0;
}

int xc_vcpu_getinfo(xc_interface *xc, uint32_t domid, uint32_t vcpu, xc_vcpuinfo_t *info)
{
	(void)xc;
	(void)domid;
	(void)vcpu;
	memset(info, 0, sizeof(*info));
	info->online = 1;
	return FAILS ? -1 : 0;
}

static void put_registers(vcpu_guest_context_t *c)
{
	c->user_regs.rdx = p2m[2]; /* start info */
	c->gdt_ents = 512;
	c->gdt_frames[0] = p2m[3];
	c->ctrlreg[3] = p2m[FAKE_L4] * PAGE;
}

int xc_vcpu_getcontext(xc_interface *xc, uint32_t domid, uint32_t vcpu, vcpu_guest_context_any_t *c)
{
	(void)xc;
	(void)domid;
	(void)vcpu;
	put_registers(&c->c);
	return FAILS ? -1 : 0;
}

static const char *domctl_name(uint32_t cmd)
{
	switch (cmd) {
	case XEN_DOMCTL_getvcpucontext:
		return "getvcpucontext";
	case XEN_DOMCTL_setvcpucontext:
		return "setvcpucontext";
	case XEN_DOMCTL_resumedomain:
		return "resumedomain";
	case XEN_DOMCTL_gethvmcontext:
		return "gethvmcontext";
	case XEN_DOMCTL_getvcpuextstate:
		return "getvcpuextstate";
	case XEN_DOMCTL_get_vcpu_msrs:
		return "get_vcpu_msrs";
	default:
		return "xc_domctl";
	}
}

/* Without a buffer, what it can be at most. */
static int get_xsave(struct xen_domctl_vcpuextstate *e)
{
	if (!e->buffer.p) {
		fake.asks++;
		e->xfeature_mask = XSAVE_MASK;
		e->size = fake.xsave_most;
		return 0;
	}
	if (e->size < fake.xsave || e->xfeature_mask != XSAVE_MASK) {
		errno = EINVAL;
		return -1;
	}
	memset(e->buffer.p, (int)fake.suspends, fake.xsave);
	e->size = fake.xsave;
	return 0;
}

static int get_msrs(struct xen_domctl_vcpu_msrs *m)
{
	if (!m->msrs.p) {
		fake.asks++;
		m->msr_count = fake.msrs_most;
		return 0;
	}
	for (unsigned i = 0; i < fake.msrs && i < m->msr_count; i++)
		m->msrs.p[i] = (xen_domctl_vcpu_msr_t){ .index = i + 1, .value = fake.suspends };
	errno = ENOBUFS;
	if (m->msr_count < fake.msrs) {
		m->msr_count = fake.msrs;
		return -1;
	}
	m->msr_count = fake.msrs;
	return 0;
}

int xc_domctl(xc_interface *xc, struct xen_domctl *op)
{
	vcpu_guest_context_t *registers = op->u.vcpucontext.ctxt.p;

	if (fails_here(domctl_name(op->cmd)))
		return -1;
	if (op->cmd == XEN_DOMCTL_getvcpucontext) {
		memset(registers, 0, sizeof(*registers));
		put_registers(registers);
	}
	if (op->cmd == XEN_DOMCTL_setvcpucontext)
		cancelled = registers->user_regs.rax == 1 && registers->ctrlreg[3] == p2m[FAKE_L4] * PAGE;
	if (op->cmd == XEN_DOMCTL_resumedomain)
		return resume(cancelled);
	if (op->cmd == XEN_DOMCTL_gethvmcontext)
		op->u.hvmcontext.size = (uint32_t)put_context(op->u.hvmcontext.buffer.p, op->u.hvmcontext.size);
	(void)xc;
	if (op->cmd == XEN_DOMCTL_get_ext_vcpucontext)
		op->u.ext_vcpucontext.size = 64;
	if (op->cmd == XEN_DOMCTL_getvcpuextstate)
		return get_xsave(&op->u.vcpuextstate);
	if (op->cmd == XEN_DOMCTL_get_vcpu_msrs)
		return get_msrs(&op->u.vcpu_msrs);
	return 0;
}

xc_cpu_policy_t *xc_cpu_policy_init(void)
{
	if (FAILS)
		return NULL;
	fake.buffers++;
	return (xc_cpu_policy_t *)(void *)&fake;
}

void xc_cpu_policy_destroy(xc_cpu_policy_t *policy)
{
	(void)policy;
	fake.buffers--;
}

int xc_cpu_policy_get_size(xc_interface *xc, uint32_t *leaves, uint32_t *msrs)
{
	(void)xc;
	*leaves = 4;
	*msrs = 2;
	return FAILS ? -1 : 0;
}

int xc_cpu_policy_get_domain(xc_interface *xc, uint32_t domid, xc_cpu_policy_t *policy)
{
	(void)xc;
	(void)domid;
	(void)policy;
	policy_7b = fake.domain_7b;
	return FAILS ? -1 : 0;
}

int xc_cpu_policy_get_system(xc_interface *xc, unsigned which, xc_cpu_policy_t *policy)
{
	(void)xc;
	(void)which;
	(void)policy;
	policy_7b = fake.system_7b;
	return FAILS ? -1 : 0;
}

int xc_cpu_policy_serialise(xc_interface *xc, const xc_cpu_policy_t *policy, xen_cpuid_leaf_t *leaves, uint32_t *n_leaves,
			    xen_msr_entry_t *msrs, uint32_t *n_msrs)
{
	(void)xc;
	(void)policy;
	memset(leaves, 0, *n_leaves * sizeof(*leaves));
	memset(msrs, 0, *n_msrs * sizeof(*msrs));
	*n_leaves = 3;
	leaves[0].subleaf = leaves[1].subleaf = XEN_CPUID_NO_SUBLEAF;
	leaves[1].leaf = 1;
	leaves[2] = (xen_cpuid_leaf_t){ .leaf = 7, .b = policy_7b };
	*n_msrs = 1;
	msrs[0].idx = 0xce;
	return FAILS ? -1 : 0;
}

void *xc__hypercall_buffer_alloc(xc_interface *xc, xc_hypercall_buffer_t *b, size_t size)
{
	(void)xc;
	b->hbuf = FAILS ? NULL : calloc(1, size + PAGE);
	fake.buffers += b->hbuf != NULL;
	return b->hbuf;
}

void xc__hypercall_buffer_free(xc_interface *xc, xc_hypercall_buffer_t *b)
{
	(void)xc;
	fake.buffers -= b->hbuf != NULL;
	free(b->hbuf);
}

void *xc__hypercall_buffer_alloc_pages(xc_interface *xc, xc_hypercall_buffer_t *b, int n)
{
	return xc__hypercall_buffer_alloc(xc, b, (size_t)n * PAGE);
}

void xc__hypercall_buffer_free_pages(xc_interface *xc, xc_hypercall_buffer_t *b, int n)
{
	(void)n;
	xc__hypercall_buffer_free(xc, b);
}

/* ---- frames */

static bool map_frame(uint8_t *at, int prot, uint64_t frame)
{
	uint64_t mfn = fake.pv ? frame : slot_of(frame) == SIZE_MAX ? NONE : p2m[slot_of(frame)];

	return mfn < MACHINE_PAGES && mmap(at, PAGE, prot, MAP_SHARED | MAP_FIXED, memfd, (off_t)(mfn * PAGE)) != MAP_FAILED;
}

void *xenforeignmemory_map(xenforeignmemory_handle *f, uint32_t domid, int prot, size_t n, const xen_pfn_t arr[], int err[])
{
	uint8_t *at = FAILS ? MAP_FAILED : mmap(NULL, n * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)f;
	(void)domid;
	if (at == MAP_FAILED)
		return NULL;
	for (size_t i = 0; i < n; i++)
		if (!map_frame(at + i * PAGE, prot, arr[i]) && !err) {
			(void)munmap(at, n * PAGE);
			errno = EINVAL;
			return NULL;
		}
	fake.mappings++;
	return at;
}

int xenforeignmemory_unmap(xenforeignmemory_handle *f, void *at, size_t n)
{
	(void)f;
	fake.mappings--;
	return munmap(at, n * PAGE);
}

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
	char same[32];
	va_list ap;
	int mode;

	va_start(ap, flags);
	mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, int) : 0;
	va_end(ap);
	if (strcmp(path, "/dev/xen/privcmd") != 0)
		return __real_open(path, flags, mode);
	if (fails_here("open"))
		return -1;
	(void)snprintf(same, sizeof(same), "/proc/self/fd/%d", memfd);
	return __real_open(same, flags, 0);
}

static int map_frames(const struct privcmd_map *m)
{
	int r = 0;

	for (unsigned i = 0; i < m->num; i++) {
		m->err[i] = m->arr[i] == xen_fake_mfn(fake.bad_map) && fake.bad_map != NONE ? -EINVAL :
			    map_frame((uint8_t *)(uintptr_t)m->addr + (size_t)i * PAGE, PROT_READ, m->arr[i]) ? 0 : -ENOENT;
		r |= m->err[i];
	}
	errno = ENOENT;
	return r ? -1 : 0;
}

int __real_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, void *arg)
{
	if (request != PRIVCMD_MAP && request != PRIVCMD_RESTRICT)
		return __real_ioctl(fd, request, arg);
	if (fails_here(request == PRIVCMD_MAP ? "PRIVCMD_MAP" : "PRIVCMD_RESTRICT"))
		return -1;
	return request == PRIVCMD_MAP ? map_frames(arg) : 0;
}

/* ---- event channels */

xenevtchn_handle *xenevtchn_open(struct xentoollog_logger *logger, unsigned flags)
{
	(void)logger;
	(void)flags;
	if (FAILS)
		return NULL;
	fake.handles++;
	return (xenevtchn_handle *)(void *)&fake;
}

int xenevtchn_close(xenevtchn_handle *h)
{
	(void)h;
	fake.handles--;
	return 0;
}

int xenevtchn_fd(xenevtchn_handle *h)
{
	(void)h;
	return event;
}

static void drain(int fd)
{
	uint64_t n;

	if (read(fd, &n, sizeof(n)) < 0 && errno != EAGAIN)
		abort();
}

xenevtchn_port_or_error_t xenevtchn_pending(xenevtchn_handle *h)
{
	(void)h;
	drain(event);
	return event_pending ? PORT : -1;
}

int xenevtchn_unmask(xenevtchn_handle *h, evtchn_port_t port)
{
	(void)h;
	(void)port;
	event_pending = false;
	return 0;
}

int xc_suspend_evtchn_init_sane(xc_interface *xc, xenevtchn_handle *h, uint32_t domid, int port, int *lockfd)
{
	(void)h;
	errno = EINVAL;
	if (fake.locked || FAILS || xc_domain_subscribe_for_suspend(xc, domid, (evtchn_port_t)port) < 0)
		return -1;
	*lockfd = 0;
	return port;
}

int xc_suspend_evtchn_release(xc_interface *xc, xenevtchn_handle *h, uint32_t domid, int port, int *lockfd)
{
	(void)xc;
	(void)h;
	(void)domid;
	(void)port;
	*lockfd = -1;
	return 0;
}

/* ---- xenstore */

struct xs_handle *xs_open(unsigned long flags)
{
	(void)flags;
	if (FAILS)
		return NULL;
	fake.handles++;
	return (struct xs_handle *)(void *)&fake;
}

void xs_close(struct xs_handle *h)
{
	(void)h;
	fake.handles--;
}

/* It is reached by the library only. */
const char *xs_daemon_socket(void)
{
	return NULL;
}

bool xs_watch(struct xs_handle *h, const char *path, const char *token)
{
	(void)h;
	if (FAILS)
		return false;
	if (*path == '/') {
		(void)snprintf(devices.path, sizeof(devices.path), "%s", path);
		(void)snprintf(devices.token, sizeof(devices.token), "%s", token);
	}
	ring(watch, &watch_pending); /* xenstored lets each new watch fire once */
	return true;
}

int xs_fileno(struct xs_handle *h)
{
	(void)h;
	return watch;
}

/* One allocation, as the library's. */
static char **told(const char *path, const char *token)
{
	char **ret = calloc(1, 2 * sizeof(char *) + sizeof(devices));

	if (!ret)
		abort();
	ret[XS_WATCH_PATH] = strcpy((char *)(ret + 2), path);
	ret[XS_WATCH_TOKEN] = strcpy(ret[XS_WATCH_PATH] + strlen(path) + 1, token);
	return ret;
}

char **xs_check_watch(struct xs_handle *h)
{
	char **ret;

	(void)h;
	drain(watch);
	if (watch_pending) {
		watch_pending = false;
		return told("@releaseDomain", "replicad");
	}
	if (!*devices.told)
		return NULL;
	ret = told(devices.told, devices.token);
	devices.told[0] = '\0';
	return ret;
}

void xen_fake_plug(const char *path)
{
	bool any;

	if (*devices.path && strncmp(path, devices.path, strlen(devices.path)) == 0) {
		(void)snprintf(devices.told, sizeof(devices.told), "%s", path);
		ring(watch, &any);
	}
}

/* What is below this path, by the names of the next step; one allocation, as the library's. */
char **xs_directory(struct xs_handle *h, xs_transaction_t t, const char *path, unsigned *num)
{
	size_t len = strlen(path), n = 0;
	char **ret = calloc(1, NODES * (sizeof(char *) + sizeof(nodes[0].path)));
	char *at = (char *)(ret + NODES);

	(void)h;
	(void)t;
	*num = 0;
	if (!ret || FAILS) {
		free(ret);
		return NULL;
	}
	for (size_t i = 0; i < NODES; i++) {
		const char *name = nodes[i].path + len + 1;
		size_t k;

		if (strncmp(nodes[i].path, path, len) != 0 || nodes[i].path[len] != '/')
			continue;
		memcpy(at, name, strcspn(name, "/"));
		for (k = 0; k < n && strcmp(ret[k], at) != 0; k++)
			;
		if (k < n) {
			memset(at, 0, sizeof(nodes[0].path));
			continue;
		}
		ret[n++] = at;
		at += sizeof(nodes[0].path);
	}
	*num = (unsigned)n;
	if (!n) {
		errno = ENOENT;
		free(ret);
		return NULL;
	}
	return ret;
}

void *xs_read(struct xs_handle *h, xs_transaction_t t, const char *path, unsigned *len)
{
	(void)h;
	(void)t;
	for (size_t i = 0; i < NODES; i++)
		if (strcmp(nodes[i].path, path) == 0) {
			*len = (unsigned)strlen(nodes[i].value);
			return strdup(nodes[i].value);
		}
	errno = ENOENT;
	return NULL;
}

bool xs_write(struct xs_handle *h, xs_transaction_t t, const char *path, const void *data, unsigned len)
{
	char value[96];

	(void)h;
	(void)t;
	if (FAILS)
		return false;
	(void)snprintf(value, sizeof(value), "%.*s", (int)len, (const char *)data);
	xen_fake_put_node(path, value);
	if (strcmp(path, "/local/domain/5/control/shutdown") == 0 && strcmp(value, "suspend") == 0)
		ask_to_suspend();
	return true;
}

bool xs_resume_domain(struct xs_handle *h, unsigned domid)
{
	(void)h;
	(void)domid;
	return true;
}

xs_transaction_t xs_transaction_start(struct xs_handle *h)
{
	(void)h;
	return 1;
}

bool xs_transaction_end(struct xs_handle *h, xs_transaction_t t, bool abandon)
{
	(void)h;
	(void)t;
	(void)abandon;
	return true;
}
