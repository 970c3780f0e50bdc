/* tiny_pv.c - a 64-bit PV guest without a system in it: tiny.c's brother, in 4 MB
 *
 * It does what a PV guest owes the toolstack that saves it: its p2m table is published (max_pfn, frame list list), shared
 * info is not mapped while it is suspended, its start_info page holds pfns instead of mfns then, and all of that is
 * made again when it runs as a new domain. Suspended by event channel SUSPEND_PORT, as tiny.c is.
 */
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long u64;

#define TICK_NS 50000000u
#define PAGES 16
#define PAGE 4096
#define WORDS (PAGE / 8)
#define SUSPEND_PORT 3

#define DOMID_SELF 0x7ff0
#define UPDATE_VA_MAPPING 14
#define SCHED_OP 29
#define EVENT_CHANNEL_OP 32
#define UVMF_INVLPG 2
#define SCHEDOP_SHUTDOWN 2
#define SCHEDOP_POLL 3
#define SHUTDOWN_SUSPEND 2
#define EVTCHNOP_STATUS 5
#define EVTCHNOP_ALLOC_UNBOUND 6
#define PTE_FLAGS 0x63          /* present, writable, accessed, dirty */

/* words of the page shared_info */
#define SHARED_PENDING (2048 / 8)
#define SHARED_MAX_PFN (3088 / 8)
#define SHARED_FRAME_LIST_LIST (3096 / 8)

struct start_info {
	char magic[32];
	u64 nr_pages, shared_info;
	u32 flags;
	u64 store_mfn;
	u32 store_evtchn;
	u64 console_mfn;
	u32 console_evtchn;
	u64 pt_base, nr_pt_frames, mfn_list;
};

struct alloc_unbound { u16 dom, remote; u32 port; };
struct status { u16 dom; u32 port, status, vcpu, union_words[2]; };
struct poll { const u32 *ports; u32 n_ports; u64 timeout; };

__asm__(".macro note type, words:vararg\n"
	"       .align 4\n"
	"       .long 4, 2f - 1f, \\type\n"
	"       .asciz \"Xen\"\n"
	"1:     \\words\n"
	"2:\n"
	".endm\n"
	".section .note.Xen, \"a\", @note\n"
	"note 1, .quad start\n"
	"note 2, .quad hypercall_page\n"
	"note 3, .quad 0\n"             /* where pfn 0 is seen */
	"note 5, .asciz \"xen-3.0\"\n"
	"note 6, .asciz \"tiny\"\n"
	"note 8, .asciz \"generic\"\n"
	".text\n"
	".globl start\n"
	"start: cld\n"
	"       movq %rsi, %rdi\n"
	"       leaq stack + 4096, %rsp\n"
	"       call tiny\n");

static char stack[PAGE] __asm__("stack") __attribute__((aligned(PAGE), used));
static char hypercall_page[PAGE] __asm__("hypercall_page") __attribute__((aligned(PAGE), section(".text")));
static volatile u64 shared_info[WORDS] __attribute__((aligned(PAGE)));
static u64 frame_list_list[WORDS] __attribute__((aligned(PAGE)));
static u64 frame_list[WORDS] __attribute__((aligned(PAGE)));
static volatile u32 counters[PAGES][PAGE / 4] __attribute__((aligned(PAGE)));

static u64 hypercall(u64 op, u64 a, u64 b, u64 c)
{
	u64 result;

	__asm__ volatile("call *%[entry]" : "=a"(result), "+D"(a), "+S"(b), "+d"(c)
			 : [entry] "r"(hypercall_page + 32 * op) : "memory", "rcx", "r8", "r9", "r10", "r11");
	return result;
}

static u64 pfn_of(const volatile void *p) { return (u64)p / PAGE; }

static u64 mfn_of(const struct start_info *si, const volatile void *p) { return ((u64 *)si->mfn_list)[pfn_of(p)]; }

static u64 pfn_with(const struct start_info *si, u64 mfn)
{
	for (u64 pfn = 0; pfn < si->nr_pages; pfn++)
		if (((u64 *)si->mfn_list)[pfn] == mfn)
			return pfn;
	return 0;
}

static void map_shared_info(u64 pte) { hypercall(UPDATE_VA_MAPPING, (u64)shared_info, pte, UVMF_INVLPG); }

static void set_up(const struct start_info *si)
{
	struct status status = { .dom = DOMID_SELF, .port = SUSPEND_PORT };
	struct alloc_unbound port = { .dom = DOMID_SELF };

	map_shared_info(si->shared_info | PTE_FLAGS);
	for (u64 i = 0; i * WORDS < si->nr_pages; i++)
		frame_list[i] = mfn_of(si, (u64 *)si->mfn_list + i * WORDS);
	frame_list_list[0] = mfn_of(si, frame_list);
	shared_info[SHARED_MAX_PFN] = si->nr_pages;
	shared_info[SHARED_FRAME_LIST_LIST] = mfn_of(si, frame_list_list);
	hypercall(EVENT_CHANNEL_OP, EVTCHNOP_STATUS, (u64)&status, 0);
	if (status.status == 0)
		hypercall(EVENT_CHANNEL_OP, EVTCHNOP_ALLOC_UNBOUND, (u64)&port, 0);
}

/* Returns as this domain, or as another one made from this one's image: the hypercall tells. */
static void suspend(struct start_info *si)
{
	static const u32 reason[1] = { SHUTDOWN_SUSPEND };
	u64 store = si->store_mfn, console = si->console_mfn;

	si->store_mfn = pfn_with(si, store);
	si->console_mfn = pfn_with(si, console);
	map_shared_info(0);
	if (hypercall(SCHED_OP, SCHEDOP_SHUTDOWN, (u64)reason, mfn_of(si, si)) != 0) {
		si->store_mfn = store;
		si->console_mfn = console;
	}
	set_up(si);
}

void tiny(struct start_info *si);
void tiny(struct start_info *si)
{
	static const u32 ports[1] = { SUSPEND_PORT };
	struct poll poll = { .ports = ports, .n_ports = 1 };

	set_up(si);
	for (u32 n = 1;; n++) {
		counters[n % PAGES][0] = n;
		poll.timeout += TICK_NS;        /* the first ones are long past and return at once */
		hypercall(SCHED_OP, SCHEDOP_POLL, (u64)&poll, 0);
		if (shared_info[SHARED_PENDING] & 1u << SUSPEND_PORT) {
			__asm__ volatile("lock andq %1, %0" : "+m"(shared_info[SHARED_PENDING]) : "r"(~(1ul << SUSPEND_PORT)) : "memory");
			suspend(si);
		}
	}
}
