/* link.c - how fast pages travel: through the encoding, in clear, and through TLS, alternating in one run
 *
 * usage: tests/bench/link [MiB per round] [rounds]
 *
 * Two processes on one machine, a TCP connection over loopback between them; the sender takes 128-page batches from an
 * arena of 64 MiB (larger than the caches), a tenth of the pages zero. Each line is the median over the rounds. Absolute
 * figures say something about this machine only; the ratio of TLS to clear is what to compare.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ev.h>

#include <replicad/clock.h>
#include <replicad/link.h>
#include <replicad/pages.h>

#include "median.h"

#define ARENA_PAGES (64u << 20 >> RPL_PAGE_SHIFT)
#define ROUNDS_MAX 101
#define KEYS "bench:000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f\n"

static uint8_t *arena;
static uint64_t total_pages;

static void must(int ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	exit(1);
}

static struct rpl_link_conf conf_of(enum rpl_tls tls, bool server, int fd)
{
	return (struct rpl_link_conf){ .fd = fd, .server = server, .tls = tls, .vm = { { 1 } }, .identity = "bench",
				       .keys = KEYS, .keys_len = sizeof(KEYS) - 1, .handshake_timeout_ms = 5000,
				       .queue_bytes_max = 4 << 20 };
}

static double cpu_seconds(void)
{
	struct rusage u;

	must(getrusage(RUSAGE_SELF, &u) == 0, "getrusage");
	return (double)u.ru_utime.tv_sec + (double)u.ru_stime.tv_sec + 1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

/* ---- the receiver: decodes, answers after the last page */

static struct {
	struct rpl_link *link;
	uint64_t pages;
	struct ev_loop *loop;
} rx;

static void rx_up(void *arg, const char *identity)
{
	(void)arg;
	(void)identity;
}

static int rx_frame(void *arg, enum rpl_frame type, const uint8_t *body, size_t len, struct rpl_err *err)
{
	static struct rpl_pages p;
	int r;

	(void)arg;
	if (type != RPL_FRAME_PAGES)
		return 0;
	r = rpl_pages_decode(body, len, &p, err);
	if (r < 0)
		return r;
	rx.pages += p.n;
	if (rx.pages >= total_pages) {
		uint8_t hello[RPL_HELLO_SIZE] = { 0 };
		struct iovec iov = { hello, sizeof(hello) };

		(void)rpl_link_send(rx.link, RPL_FRAME_HELLO, &iov, 1); /* any frame will do as "got it all" */
	}
	return 0;
}

static void rx_down(void *arg, const struct rpl_err *err)
{
	(void)arg;
	if (err->code != -ESHUTDOWN && err->code != -EPIPE)
		fprintf(stderr, "receiver: %s\n", err->msg);
	ev_break(rx.loop, EVBREAK_ALL);
}

static void receiver(enum rpl_tls tls, int fd)
{
	static const struct rpl_link_ops ops = { .up = rx_up, .frame = rx_frame, .down = rx_down };
	struct rpl_link_conf conf = conf_of(tls, true, fd);
	struct rpl_err err;

	rx.loop = ev_loop_new(EVFLAG_AUTO);
	rx.link = rpl_link_new(&conf, rx.loop, &ops, NULL, &err);
	must(rx.link != NULL, "receiver");
	ev_run(rx.loop, 0);
	rpl_link_free(rx.link);
	ev_loop_destroy(rx.loop);
	_exit(0);
}

/* ---- the sender */

static struct {
	struct rpl_link *link;
	struct ev_loop *loop;
	uint64_t next, started_ns, done_ns;
	bool hello;
} tx;

static void tx_more(void *arg)
{
	uint8_t head[RPL_PAGES_HEAD_MAX];
	struct iovec iov[RPL_PAGES_SPANS_MAX];
	uint64_t pfns[RPL_PAGES_PER_FRAME];
	uint32_t zero;

	(void)arg;
	while (tx.next < total_pages && rpl_link_room(tx.link, RPL_PAGES_BODY_MAX)) {
		int spans;

		for (unsigned i = 0; i < RPL_PAGES_PER_FRAME; i++)
			pfns[i] = tx.next + i;
		spans = rpl_pages_gather(pfns, arena + (tx.next % ARENA_PAGES) * RPL_PAGE_SIZE, RPL_PAGES_PER_FRAME, head, iov,
					 &zero);
		must(rpl_link_send(tx.link, RPL_FRAME_PAGES, iov, spans) == 0, "send");
		tx.next += RPL_PAGES_PER_FRAME;
	}
}

static void tx_up(void *arg, const char *identity)
{
	uint8_t hello[RPL_HELLO_SIZE] = { 0 };
	struct iovec iov = { hello, sizeof(hello) };

	(void)identity;
	tx.started_ns = rpl_now_ns();
	(void)rpl_link_send(tx.link, RPL_FRAME_HELLO, &iov, 1);
	tx_more(arg);
}

static int tx_frame(void *arg, enum rpl_frame type, const uint8_t *body, size_t len, struct rpl_err *err)
{
	(void)arg;
	(void)type;
	(void)body;
	(void)len;
	(void)err;
	tx.done_ns = rpl_now_ns();
	ev_break(tx.loop, EVBREAK_ALL);
	return 0;
}

static void tx_down(void *arg, const struct rpl_err *err)
{
	(void)arg;
	fprintf(stderr, "sender: %s\n", err->msg);
	exit(1);
}

static void tcp_pair(int fds[2])
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM, 0);

	must(l >= 0 && bind(l, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(l, 1) == 0, "listen");
	must(getsockname(l, (struct sockaddr *)&a, &len) == 0, "getsockname");
	fds[0] = socket(AF_INET, SOCK_STREAM, 0);
	must(fds[0] >= 0 && connect(fds[0], (struct sockaddr *)&a, sizeof(a)) == 0, "connect");
	fds[1] = accept(l, NULL, NULL);
	must(fds[1] >= 0, "accept");
	close(l);
}

/* GB/s of page bytes from the first to the receiver's answer; *ret_cpu: seconds of the sender per GB. */
static double transfer(enum rpl_tls tls, double *ret_cpu)
{
	static const struct rpl_link_ops ops = { .up = tx_up, .frame = tx_frame, .writable = tx_more, .down = tx_down };
	double gb = (double)total_pages * RPL_PAGE_SIZE / 1e9, cpu = cpu_seconds();
	struct rpl_link_conf conf;
	struct rpl_err err;
	int fds[2];
	pid_t pid;

	tcp_pair(fds);
	pid = fork();
	must(pid >= 0, "fork");
	if (pid == 0) {
		close(fds[0]);
		receiver(tls, fds[1]);
	}
	close(fds[1]);
	conf = conf_of(tls, false, fds[0]);
	memset(&tx, 0, sizeof(tx));
	tx.loop = ev_loop_new(EVFLAG_AUTO);
	tx.link = rpl_link_new(&conf, tx.loop, &ops, NULL, &err);
	must(tx.link != NULL, "sender");
	ev_run(tx.loop, 0);
	rpl_link_free(tx.link);
	ev_loop_destroy(tx.loop);
	must(waitpid(pid, NULL, 0) == pid, "waitpid");
	*ret_cpu = (cpu_seconds() - cpu) / gb;
	return gb / ((double)(tx.done_ns - tx.started_ns) / 1e9);
}

/* ---- memory only */

static double memory_speed(int what)
{
	uint8_t *body = malloc(RPL_PAGES_BODY_MAX);
	struct rpl_digest *d = rpl_digest_new();
	uint64_t t0 = rpl_now_ns(), pfns[RPL_PAGES_PER_FRAME] = { 0 };
	uint64_t pages = 0;
	uint32_t zero, sum = 0;

	must(body != NULL, "malloc");
	for (; pages < total_pages; pages += RPL_PAGES_PER_FRAME) {
		const uint8_t *from = arena + pages % ARENA_PAGES * RPL_PAGE_SIZE;

		if (what == 0)
			memcpy(body, from, RPL_PAGES_PER_FRAME * RPL_PAGE_SIZE);
		else if (what == 1)
			sum += (uint32_t)rpl_pages_encode(pfns, from, RPL_PAGES_PER_FRAME, body, &zero);
		else
			rpl_digest_add(d, from, RPL_PAGES_PER_FRAME * RPL_PAGE_SIZE);
		__asm__ volatile("" : : "r"(body), "r"(sum) : "memory");
	}
	free(body);
	rpl_digest_free(d);
	return (double)pages * RPL_PAGE_SIZE / (double)(rpl_now_ns() - t0);
}

int main(int argc, char **argv)
{
	static const char *const memory_names[] = { "memcpy", "encode", "digest" };
	double v[5][ROUNDS_MAX], cpu[2][ROUNDS_MAX], clear, tls;
	int rounds = argc > 2 ? atoi(argv[2]) : 7;

	total_pages = (argc > 1 ? strtoull(argv[1], NULL, 10) : 512) << 20 >> RPL_PAGE_SHIFT;
	total_pages = total_pages / RPL_PAGES_PER_FRAME * RPL_PAGES_PER_FRAME;
	if (!total_pages || rounds < 1 || rounds > ROUNDS_MAX) {
		fprintf(stderr, "usage: %s [MiB per round] [rounds, 1 to %d]\n", argv[0], ROUNDS_MAX);
		return 2;
	}
	arena = malloc((size_t)ARENA_PAGES * RPL_PAGE_SIZE);
	must(arena != NULL, "malloc");
	for (size_t i = 0; i < (size_t)ARENA_PAGES * RPL_PAGE_SIZE; i += 8)
		memcpy(arena + i, &(uint64_t){ i / RPL_PAGE_SIZE % 10 ? i * 0x9e3779b97f4a7c15 : 0 }, 8);
	for (int r = 0; r < rounds; r++) {
		for (int what = 0; what < 3; what++)
			v[2 + what][r] = memory_speed(what);
		v[0][r] = transfer(RPL_TLS_NONE, &cpu[0][r]);
		v[1][r] = transfer(RPL_TLS_PSK, &cpu[1][r]);
	}
	for (int what = 0; what < 3; what++)
		printf("%s: %.2f GB/s\n", memory_names[what], median(v[2 + what], rounds));
	clear = median(v[0], rounds);
	tls = median(v[1], rounds);
	printf("clear: %.2f GB/s, sender %.2f s/GB\n", clear, median(cpu[0], rounds));
	printf("TLS: %.2f GB/s, sender %.2f s/GB, %.2f of clear\n", tls, median(cpu[1], rounds), tls / clear);
	free(arena);
	return 0;
}
