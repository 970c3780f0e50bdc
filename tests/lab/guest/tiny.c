/* tiny.c - a PVH guest without a system in it: 4 MB of memory are enough
 *
 * Every TICK_NS it writes a counter into the next of PAGES pages, so that a stream of it is small and still has checkpoints
 * with dirty pages. It has no Xen drivers, but xl suspends a PVH guest only by asking it: by the suspend event channel,
 * whose port the toolstack finds in the guest's xenstore node device/suspend/event-channel. The guest offers port
 * SUSPEND_PORT (1 is xenstore's, 2 the console's, the next free one is it) and the lab writes the node.
 *
 * 32-bit, flat, no paging, entered by the PVH boot protocol: gcc -m32 -ffreestanding, no library.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define TICK_NS 50000000u
#define PAGES 16
#define PAGE 4096
#define SUSPEND_PORT 3

#define DOMID_SELF 0x7ff0
#define HYPERCALL_MSR 0x40000000u
#define MEMORY_OP 12
#define SCHED_OP 29
#define EVENT_CHANNEL_OP 32
#define XENMEM_ADD_TO_PHYSMAP 7
#define SCHEDOP_SHUTDOWN 2
#define SCHEDOP_POLL 3
#define SHUTDOWN_SUSPEND 2
#define EVTCHNOP_STATUS 5
#define EVTCHNOP_ALLOC_UNBOUND 6
#define SHARED_INFO_PENDING 2048        /* bytes to the pending bits; ports below 32: the same for 32 and 64 bits */

struct add_to_physmap { u16 domid, size; u32 space, idx, gpfn; };
struct alloc_unbound { u16 dom, remote; u32 port; };
struct status { u16 dom; u32 port, status, vcpu, union_words[2]; };
struct poll { const u32 *ports; u32 n_ports; u64 timeout; };

__asm__(".section .note.Xen, \"a\", @note\n"
	".align 4\n"
	".long 4, 4, 18\n"              /* XEN_ELFNOTE_PHYS32_ENTRY */
	".asciz \"Xen\"\n"
	".long start\n"
	".text\n"
	".globl start\n"
	"start: movl $stack + 4096, %esp\n"
	"       cld\n"
	"       call tiny\n");

static u8 stack[PAGE] __asm__("stack") __attribute__((aligned(PAGE), used));
static u8 hypercall_page[PAGE] __attribute__((aligned(PAGE)));
static u8 shared_info[PAGE] __attribute__((aligned(PAGE)));
static volatile u32 counters[PAGES][PAGE / 4] __attribute__((aligned(PAGE)));

static u32 hypercall(u32 op, u32 command, const volatile void *argument)
{
	u32 result;

	__asm__ volatile("call *%[entry]" : "=a"(result), "+b"(command), "+c"(argument)
			 : [entry] "r"(hypercall_page + 32 * op) : "memory");
	return result;
}

/* Offer the event channel and see it: also after a restore, into a domain that knows nothing of what was set up before. */
static void set_up(void)
{
	struct add_to_physmap map = { .domid = DOMID_SELF, .gpfn = (u32)shared_info / PAGE };
	struct status status = { .dom = DOMID_SELF, .port = SUSPEND_PORT };
	struct alloc_unbound port = { .dom = DOMID_SELF };

	__asm__ volatile("wrmsr" :: "c"(HYPERCALL_MSR), "a"(hypercall_page), "d"(0) : "memory");
	hypercall(MEMORY_OP, XENMEM_ADD_TO_PHYSMAP, &map);
	hypercall(EVENT_CHANNEL_OP, EVTCHNOP_STATUS, &status);
	if (status.status == 0)
		hypercall(EVENT_CHANNEL_OP, EVTCHNOP_ALLOC_UNBOUND, &port);
}

void tiny(void);
void tiny(void)
{
	static const u32 ports[1] = { SUSPEND_PORT };
	static const u32 reason[1] = { SHUTDOWN_SUSPEND };
	volatile u32 *pending = (volatile u32 *)(shared_info + SHARED_INFO_PENDING);
	struct poll poll = { .ports = ports, .n_ports = 1 };

	set_up();
	for (u32 n = 1;; n++) {
		counters[n % PAGES][0] = n;
		poll.timeout += TICK_NS;        /* the first ones are long past and return at once */
		hypercall(SCHED_OP, SCHEDOP_POLL, &poll);
		if (*pending & 1u << SUSPEND_PORT) {
			__asm__ volatile("lock andl %1, %0" : "+m"(*pending) : "r"(~(1u << SUSPEND_PORT)) : "memory");
			hypercall(SCHED_OP, SCHEDOP_SHUTDOWN, reason);
			set_up();
		}
	}
}
