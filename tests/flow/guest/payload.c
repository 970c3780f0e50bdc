/* payload.c - a guest without an operating system: writes its memory at random and checks it
 *
 * A 32-bit multiboot kernel (qemu -kernel payload.elf). It keeps ARENA_PAGES pages at ARENA, and as many above 4 GiB if
 * there is RAM there (PAE maps the fourth GiB of addresses to it). Each step writes a step number to the first and the
 * last word of a random page and keeps the sum over all pages in `report.sum`; a full check now and then adds the
 * pages up again. A page whose last version is missing, or that is torn, makes report.bad grow.
 *
 * The report lies at a fixed physical address, where a test reads it through the guest's RAM file.
 */
#include <stdint.h>

#include "payload.h"

struct multiboot_header {
	uint32_t magic, flags, checksum;
};
__attribute__((section(".multiboot"), used)) static const struct multiboot_header header = {
	0x1badb002, 0x00000002, 0u - 0x1badb002u - 0x00000002u
};

struct multiboot_info {
	uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4], mmap_length, mmap_addr;
};

struct mmap_entry {
	uint32_t size;
	uint64_t addr, len;
	uint32_t type;
} __attribute__((packed));

#define report ((volatile struct payload_report *)PAYLOAD_REPORT)
#define HIGH_WINDOW 0xc0000000u /* virtual address of physical 4 GiB */

static uint64_t pdpt[4] __attribute__((aligned(4096)));
static uint64_t pd[4][512] __attribute__((aligned(4096)));

/* Large pages of 2 MiB: three GiB identity, then the window. */
static void paging_on(void)
{
	for (unsigned i = 0; i < 4; i++) {
		pdpt[i] = (uint64_t)(uintptr_t)pd[i] | 1;
		for (unsigned k = 0; k < 512; k++)
			pd[i][k] = (i < 3 ? (uint64_t)i << 30 : UINT64_C(1) << 32) + ((uint64_t)k << 21) + 0x83;
	}
	__asm__ volatile("mov %%cr4, %%eax; or $0x20, %%eax; mov %%eax, %%cr4; mov %0, %%cr3;"
			 "mov %%cr0, %%eax; or $0x80000000, %%eax; mov %%eax, %%cr0; jmp 1f; 1:"
			 :: "r"(pdpt) : "eax", "memory");
}

static int has_high_ram(const struct multiboot_info *mi)
{
	uint32_t at = mi->mmap_addr;

	while ((mi->flags & 0x40) && at < mi->mmap_addr + mi->mmap_length) {
		const struct mmap_entry *e = (const struct mmap_entry *)(uintptr_t)at;

		if (e->type == 1 && e->addr == UINT64_C(1) << 32 && e->len >= (uint64_t)PAYLOAD_PAGES * 4096)
			return 1;
		at += e->size + 4;
	}
	return 0;
}

static volatile uint32_t *page(uint32_t i)
{
	uint32_t base = i < PAYLOAD_PAGES ? PAYLOAD_ARENA : HIGH_WINDOW;

	return (volatile uint32_t *)(uintptr_t)(base + (i % PAYLOAD_PAGES) * 4096);
}

static void check(uint32_t pages)
{
	uint32_t sum = 0;

	for (uint32_t i = 0; i < pages; i++) {
		volatile uint32_t *p = page(i);

		if (p[0] != p[1023])
			report->bad++;
		sum += p[0];
	}
	if (sum != report->sum)
		report->bad++;
	report->checks++;
}

/* The stack is in our own .bss; multiboot promises none. */
static uint8_t stack[16384] __attribute__((aligned(16), used));

__attribute__((used)) void payload_main(const struct multiboot_info *mi)
{
	uint32_t x = 12345, pages = PAYLOAD_PAGES;
	int high = has_high_ram(mi);

	paging_on();
	if (high)
		pages *= 2;
	for (uint32_t i = 0; i < pages; i++)
		page(i)[0] = page(i)[1023] = 0;
	report->sum = report->bad = report->checks = 0;
	report->pages = pages;
	report->magic = PAYLOAD_MAGIC;
	for (uint32_t step = 1;; step++) {
		volatile uint32_t *p;

		x = x * 1664525u + 1013904223u;
		p = page((x >> 8) % pages);
		report->sum += step - p[0];
		p[0] = step;
		p[1023] = step;
		report->step = step;
		if (step % 256 == 0)
			check(pages);
		for (volatile uint32_t i = 0; i < PAYLOAD_DELAY; i++)
			;
	}
}

__asm__(".globl _start; .section .text.start, \"ax\"; _start: cli; mov $stack + 16384, %esp; push %ebx; call payload_main;"
	"1: hlt; jmp 1b; .text");
