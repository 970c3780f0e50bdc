/* memcheck.c - the guest's own witness that its memory is what it wrote
 *
 * It keeps MC_PAGES pages. A page is filled from (its index, its sequence number), and a table apart from the pages holds the
 * sequence number that each of them must have. All the time a few pages get the next number and new contents, and
 * many are verified word by word. A checkpoint that loses a page leaves old contents under a new number in the
 * table; a checkpoint that tears one leaves a word that does not follow from the header. Both are seen within one
 * pass over the area.
 *
 * The findings go to the redis server of this guest, so that a client reads them over its own connection:
 *   memcheck:bad     pages found bad since the start     memcheck:rounds  full passes
 *   memcheck:first   the first bad page, in words        guest:uptime     seconds, from /proc/uptime
 *
 * It is also the hand of a test inside the guest: guest:command, when somebody sets it, is done at the next report:
 *   poweroff, reboot  as the guest's own system would     panic  what a kernel without hope tells a pvpanic device
 *   crash             the kernel itself dies
 *
 * This program runs inside the demo's guest only and is linked statically: the guest has no compiler and few libraries.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MC_PAGE 4096u
#define MC_WORDS (MC_PAGE / sizeof(uint64_t))
#define MC_HEAD 2u                 /* words in front of the pattern: index, sequence number */
#ifdef MC_SMALL                    /* for a guest of 96 MB on an emulated machine below an emulated hypervisor */
#define MC_PAGES 1024u             /* 4 MiB */
#define MC_TICK_MS 100
#else
#define MC_PAGES 4096u             /* 16 MiB */
#define MC_TICK_MS 10
#endif
#define MC_MUTATE 16u              /* pages rewritten in a tick: few of them again within the next epochs */
#define MC_VERIFY 64u              /* pages verified in a tick: a pass takes MC_PAGES / MC_VERIFY ticks */
#define MC_REPORT_TICKS 10u        /* ticks between two reports */
#define MC_REDIS_PORT 6379
#define MC_CONNECT_TRIES 600       /* a tick apart */
#define MC_REPLY_MAX 512
#define MC_PVPANIC_PORT 0x505      /* of QEMU's ISA device; bit 0: panicked */

struct checker {
	uint64_t *area;            /* MC_PAGES pages */
	uint64_t *seq;             /* what each page must hold; in other pages than the area */
	uint64_t random;
	uint64_t rounds;
	uint64_t bad;
	uint32_t cursor;
	char first[160];
};

static uint64_t mix(uint64_t x)
{
	x ^= x >> 30;
	x *= UINT64_C(0xbf58476d1ce4e5b9);
	x ^= x >> 27;
	x *= UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static uint64_t next_random(struct checker *c)
{
	c->random += UINT64_C(0x9e3779b97f4a7c15);
	return mix(c->random);
}

static uint64_t *page_of(struct checker *c, uint32_t index)
{
	return c->area + (size_t)index * MC_WORDS;
}

static void page_write(struct checker *c, uint32_t index)
{
	uint64_t *p = page_of(c, index);
	uint64_t s = ++c->seq[index];
	uint64_t word = mix((uint64_t)index << 32 ^ s);

	p[0] = index;
	p[1] = s;
	for (uint32_t i = MC_HEAD; i < MC_WORDS; i++)
		p[i] = word += UINT64_C(0x9e3779b97f4a7c15);
}

static void found_bad(struct checker *c, uint32_t index, uint32_t word, uint64_t is, uint64_t expected)
{
	if (c->bad++ == 0)
		snprintf(c->first, sizeof(c->first),
			 "page_%u_word_%u_is_%016" PRIx64 "_expected_%016" PRIx64 "_seq_%" PRIu64, index, word, is,
			 expected, c->seq[index]);
}

/* One finding a page is enough; the page is then rewritten, so that the next pass judges it anew. */
static void page_verify(struct checker *c, uint32_t index)
{
	const uint64_t *p = page_of(c, index);
	uint64_t s = c->seq[index];
	uint64_t word = mix((uint64_t)index << 32 ^ s);

	if (p[0] != index) {
		found_bad(c, index, 0, p[0], index);
		page_write(c, index);
		return;
	}
	if (p[1] != s) {
		found_bad(c, index, 1, p[1], s);
		page_write(c, index);
		return;
	}
	for (uint32_t i = MC_HEAD; i < MC_WORDS; i++) {
		word += UINT64_C(0x9e3779b97f4a7c15);
		if (p[i] != word) {
			found_bad(c, index, i, p[i], word);
			page_write(c, index);
			return;
		}
	}
}

static void tick(struct checker *c)
{
	for (uint32_t i = 0; i < MC_MUTATE; i++)
		page_write(c, (uint32_t)(next_random(c) % MC_PAGES));
	for (uint32_t i = 0; i < MC_VERIFY; i++) {
		page_verify(c, c->cursor);
		if (++c->cursor == MC_PAGES) {
			c->cursor = 0;
			c->rounds++;
		}
	}
}

static void sleep_ms(long ms)
{
	struct timespec ts = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

	while (nanosleep(&ts, &ts) < 0 && errno == EINTR)
		;
}

static int redis_connect(void)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(MC_REDIS_PORT) };
	int fd;

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	for (int i = 0; i < MC_CONNECT_TRIES; i++) {
		fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0)
			return fd;
		if (fd >= 0)
			close(fd);
		sleep_ms(MC_TICK_MS);
	}
	return -1;
}

static double uptime(void)
{
	double up = 0;
	FILE *f = fopen("/proc/uptime", "re");

	if (f) {
		if (fscanf(f, "%lf", &up) != 1)
			up = 0;
		fclose(f);
	}
	return up;
}

/* Send a command; its reply is `lines` lines. */
static bool ask(int fd, const char *cmd, size_t n, char *reply, size_t size, unsigned lines)
{
	size_t have = 0;

	if (send(fd, cmd, n, MSG_NOSIGNAL) != (ssize_t)n)
		return false;
	while (have < size - 1) {
		ssize_t got = recv(fd, reply + have, size - 1 - have, 0);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return false;
		for (ssize_t i = 0; i < got; i++)
			lines -= reply[have + (size_t)i] == '\n' && lines;
		have += (size_t)got;
		reply[have] = '\0';
		if (!lines || strncmp(reply, "$-1", 3) == 0)
			return true;
	}
	return false;
}

static void crash(void)
{
	int fd = open("/proc/sysrq-trigger", O_WRONLY);

	if (fd < 0 || write(fd, "c", 1) != 1)
		perror("memcheck: /proc/sysrq-trigger");
}

static void obey(const char *command)
{
	if (strcmp(command, "poweroff") == 0) {
		reboot(RB_POWER_OFF);
	} else if (strcmp(command, "reboot") == 0) {
		reboot(RB_AUTOBOOT);
	} else if (strcmp(command, "panic") == 0) {
		if (ioperm(MC_PVPANIC_PORT, 1, 1) == 0)
			outb(1, MC_PVPANIC_PORT);
		else
			perror("memcheck: ioperm");
	} else if (strcmp(command, "crash") == 0) {
		crash();
	} else {
		fprintf(stderr, "memcheck: unknown command '%s'\n", command);
	}
}

static bool look_for_command(int fd)
{
	static const char get[] = "GETDEL guest:command\r\n";
	char reply[64], *text;

	if (!ask(fd, get, sizeof(get) - 1, reply, sizeof(reply), 2))
		return false;
	text = strchr(reply, '\n');
	if (reply[1] != '-' && text) {
		text[1 + strcspn(text + 1, "\r\n")] = '\0';
		obey(text + 1);
	}
	return true;
}

static bool report(struct checker *c, int fd)
{
	char cmd[MC_REPLY_MAX], reply[16];
	int n = snprintf(cmd, sizeof(cmd),
			 "MSET memcheck:bad %" PRIu64 " memcheck:rounds %" PRIu64 " memcheck:first %s guest:uptime %.2f\r\n",
			 c->bad, c->rounds, c->first[0] ? c->first : "none", uptime());

	return n > 0 && (size_t)n < sizeof(cmd) && ask(fd, cmd, (size_t)n, reply, sizeof(reply), 1) && reply[0] == '+' &&
	       look_for_command(fd);
}

int main(void)
{
	struct checker c = { .random = 1 };
	int fd;

	c.area = mmap(NULL, (size_t)MC_PAGES * MC_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	c.seq = mmap(NULL, MC_PAGES * sizeof(*c.seq), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (c.area == MAP_FAILED || c.seq == MAP_FAILED) {
		perror("memcheck: mmap");
		return 1;
	}
	for (uint32_t i = 0; i < MC_PAGES; i++)
		page_write(&c, i);
	fd = redis_connect();
	if (fd < 0) {
		perror("memcheck: no redis server on port 6379");
		return 1;
	}
	for (uint64_t n = 0;; n++) {
		tick(&c);
		if (n % MC_REPORT_TICKS == 0 && !report(&c, fd)) {
			perror("memcheck: reporting to redis");
			return 1;
		}
		sleep_ms(MC_TICK_MS);
	}
}
