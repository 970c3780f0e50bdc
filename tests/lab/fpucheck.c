/* fpucheck SECONDS: does this machine keep a process's floating-point registers?
 *
 * Under QEMU's TCG Xen's lazy switching of them corrupts them silently, of dom0 and of guests, unless Xen is started with
 * spec-ctrl=eager-fpu. Everything that hashes or copies with them then goes wrong at random. This fills all of XMM0-15
 * with a pattern, lets time pass (here, and in the kernel), and compares. Prints "rounds N corrupted M"; exit status 1
 * if M is not 0. Run it beside a guest that is busy.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define REGISTERS 16
#define SPIN 20000

struct registers { uint64_t word[REGISTERS][2]; };

#define EACH(x) x(0) x(1) x(2) x(3) x(4) x(5) x(6) x(7) x(8) x(9) x(10) x(11) x(12) x(13) x(14) x(15)
#define LOAD(n) "movdqu " #n "*16(%0), %%xmm" #n "\n"
#define STORE(n) "movdqu %%xmm" #n ", " #n "*16(%1)\n"
#define CLOBBER "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", \
		"xmm12", "xmm13", "xmm14", "xmm15"

/* The registers hold the pattern while this process spins, and over a sched_yield(). */
static void keep(const struct registers *in, struct registers *out)
{
	long n = SPIN, result;

	__asm__ volatile(EACH(LOAD)
			 "1: dec %2\n"
			 "jnz 1b\n"
			 "mov $24, %%eax\n"
			 "syscall\n"
			 EACH(STORE)
			 : "+r"(in), "+r"(out), "+r"(n), "=&a"(result) : : "memory", "rcx", "r11", CLOBBER);
}

int main(int argc, char **argv)
{
	time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 10);
	uint64_t rounds = 0, corrupted = 0;
	struct registers in, out;

	do {
		for (int i = 0; i < REGISTERS; i++) {
			in.word[i][0] = (rounds * 31 + (uint64_t)i) * UINT64_C(0x9e3779b97f4a7c15) ^ (uint64_t)getpid();
			in.word[i][1] = ~in.word[i][0];
		}
		memset(&out, 0, sizeof(out));
		keep(&in, &out);
		rounds++;
		corrupted += memcmp(&in, &out, sizeof(in)) != 0;
	} while (time(NULL) < end);
	printf("rounds %llu corrupted %llu\n", (unsigned long long)rounds, (unsigned long long)corrupted);
	return corrupted ? 1 : 0;
}
