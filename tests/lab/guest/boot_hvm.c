/* boot_hvm.c - a Linux kernel in an HVM guest without waiting for a BIOS
 *
 * Under emulation every access to a port or register of a device that QEMU serves takes milliseconds, and a BIOS with its
 * option ROMs makes many thousands. So this takes the place of hvmloader (firmware_override=). What the toolstack would hand
 * to hvmloader is something else then: the "BIOS" (bios_path_override=) is an unpacked kernel, the "ACPI tables"
 * (acpi_firmware=) are struct words with its command line, the "SMBIOS tables" (smbios_firmware=) its initrd. They lie in
 * memory in this order, each from a page's start; only the first is told of other than in xenstore. The kernel is entered by
 * the PVH boot protocol; it finds neither ACPI nor, with pci=off, a PCI bus, but QEMU's ISA devices and Xen's own.
 *
 * 32-bit, flat, no paging: gcc -m32 -ffreestanding, no library.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define PAGE 4096u
#define MAGIC 0x336ec578u
#define RAM 1u
#define HVM_INFO 0x9f800u       /* struct hvm_info_table; its low_mem_pgend */
#define LOW_MEM_PGEND (HVM_INFO + 20)
#define LOW_RAM_END 0x9f000u
#define HIGH_RAM 0x100000u
#define NOTE_PHYS32_ENTRY 18u
#define PT_LOAD 1u
#define PT_NOTE 4u
#define CMDLINE_MAX 1024u
#define WORDS_MAGIC 0x4c505257u /* "WRPL" */

struct start_info { u32 magic, version, flags, nr_modules; u64 modlist, cmdline, rsdp, memmap; u32 memmap_entries, reserved; };
struct words { u32 magic, initrd_size, size; char text[]; };
struct module { u64 paddr, size, cmdline, reserved; };
struct memmap { u64 addr, size; u32 type, reserved; };
struct elf { u8 ident[16]; u16 type, machine; u32 version; u64 entry, phoff, shoff; u32 flags; u16 ehsize, phentsize, phnum; };
struct segment { u32 type, flags; u64 offset, vaddr, paddr, filesz, memsz, align; };
struct note { u32 namesz, descsz, type; };

__asm__(".text\n"
	".globl start\n"
	"start: movl $stack + 4096, %esp\n"
	"       cld\n"
	"       pushl %ebx\n"
	"       call boot\n"            /* eax: the kernel's entry */
	"       movl $ours, %ebx\n"
	"       jmp *%eax\n");

static u8 stack[PAGE] __asm__("stack") __attribute__((aligned(PAGE), used));
static struct start_info ours __asm__("ours") __attribute__((aligned(8), used));
static struct memmap map[2] __attribute__((aligned(8)));
static struct module initrd __attribute__((aligned(8)));
static char cmdline[CMDLINE_MAX];

static void *at(u64 paddr)
{
	return (void *)(u32)paddr;
}

/* From the end: what is moved up may overlap itself. */
static void move_up(u64 to, u64 from, u64 n)
{
	u32 d = (u32)(to + n) - 1, s = (u32)(from + n) - 1, count = (u32)n;

	__asm__ volatile("std; rep movsb; cld" : "+D"(d), "+S"(s), "+c"(count) : : "memory");
}

static int is(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

static u64 next_page(u64 paddr)
{
	return (paddr + PAGE - 1) & ~(u64)(PAGE - 1);
}

static u32 entry_of(const u8 *kernel, const struct segment *s)
{
	for (u64 p = s->offset; p < s->offset + s->filesz;) {
		const struct note *n = (const void *)(kernel + (u32)p);
		u32 name = (n->namesz + 3) & ~3u;

		if (n->type == NOTE_PHYS32_ENTRY && is((const char *)(n + 1), "Xen"))
			return *(const u32 *)((const u8 *)(n + 1) + name);
		p += sizeof(*n) + name + ((n->descsz + 3) & ~3u);
	}
	return 0;
}

/* The file lies below where its segments belong, so the last of them goes first. */
static u32 load(const struct module *file)
{
	const u8 *kernel = at(file->paddr);
	const struct elf *e = (const void *)kernel;
	const struct segment *s = (const void *)(kernel + (u32)e->phoff);
	struct segment copy[16];
	u32 n = e->phnum, entry = 0;

	for (u32 i = 0; i < n && i < 16; i++) {
		copy[i] = s[i];
		if (s[i].type == PT_NOTE)
			entry = entry_of(kernel, &s[i]);
	}
	while (n-- > 0)
		if (copy[n].type == PT_LOAD)
			move_up(copy[n].paddr, file->paddr + copy[n].offset, copy[n].filesz);
	return entry;
}

u32 boot(const struct start_info *theirs);
u32 boot(const struct start_info *theirs)
{
	struct module kernel = *(const struct module *)at(theirs->modlist);
	const struct words *words = at(next_page(kernel.paddr + kernel.size));
	u32 top = *(const u32 *)at(LOW_MEM_PGEND) * PAGE;

	if (words->magic != WORDS_MAGIC || words->size >= CMDLINE_MAX)
		for (;;) /* nothing to go on with, and nobody to tell */
			__asm__ volatile("cli; hlt");
	for (u32 i = 0; i < words->size; i++)
		cmdline[i] = words->text[i];
	initrd.size = words->initrd_size;
	initrd.paddr = (top - initrd.size) & ~(u64)(PAGE - 1);
	move_up(initrd.paddr, next_page((u32)words->text + words->size), initrd.size);
	map[0] = (struct memmap){ 0, LOW_RAM_END, RAM, 0 };
	map[1] = (struct memmap){ HIGH_RAM, top - HIGH_RAM, RAM, 0 };
	ours = (struct start_info){ .magic = MAGIC, .version = 1, .nr_modules = 1, .modlist = (u32)&initrd, .cmdline = (u32)cmdline,
				    .memmap = (u32)map, .memmap_entries = 2 };
	return load(&kernel);
}
