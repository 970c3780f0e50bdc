/* relay.c - how fast replicad-relay carries frames, and how long a seal takes while the guest is paused
 *
 * Run by hand as root: tests/bench/relay [FRAMES]. In a network namespace of its own; the guest is a socket in a child
 * process, the outside a real tap. Figures are of this machine at this moment, and the child and the relay share it.
 */
#include <errno.h>
#include <inttypes.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <ev.h>
#include <linux/if_packet.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/io.h>
#include <replicad/log.h>
#include <replicad/netbuf.h>
#include <replicad/stats.h>

#define FRAMES_DEFAULT 300000u
#define BATCH 32
#define SEALS 2000
#define EPOCH_FRAMES 10000
#define WARM_UP_MS 300
#define IDLE_MS 2000
#define SKIPPED 77

static char dir[] = "/tmp/rpl-bench-relay-XXXXXX";
static char control[128], local[128], peer[128];
static struct ev_loop *loop;
static struct rpl_netbuf *n;
static unsigned answers;
static uint64_t frames = FRAMES_DEFAULT;

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	(void)fprintf(stderr, "bench relay: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void done(void *arg, enum rpl_netbuf_op op, uint64_t epoch, int r, const struct rpl_err *err)
{
	(void)arg;
	(void)op;
	(void)epoch;
	if (r < 0) {
		(void)fprintf(stderr, "bench relay: %s\n", err->msg);
		exit(1);
	}
	answers++;
}

static void event(void *arg, int r, const char *msg)
{
	(void)arg;
	if (r < 0) {
		(void)fprintf(stderr, "bench relay: %s\n", msg);
		exit(1);
	}
}

static uint64_t until_answered(unsigned before)
{
	uint64_t began = rpl_now_ns();

	while (answers == before)
		(void)ev_run(loop, EVRUN_ONCE);
	return rpl_now_ns() - began;
}

#define TIMED(call) (call, until_answered(answers))

static pid_t start_relay(void)
{
	const char *top = getenv("top_builddir");
	char program[512], port[512];
	pid_t pid;

	(void)snprintf(program, sizeof(program), "%s/replicad-relay", top ? top : ".");
	(void)snprintf(port, sizeof(port), "%s,%s,tap=tap0", local, peer);
	pid = fork();
	must(pid >= 0, "fork");
	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)execl(program, program, "--vm", "bench", "--control", control, "--port", port, "--hold-bytes-max",
			    "268435456", (char *)NULL);
		_exit(127);
	}
	return pid;
}

/* Send `count` frames as fast as the socket takes them. */
static void guest_sends(int fd, uint64_t count, size_t size)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	static uint8_t frame[65536];
	struct iovec iov = { .iov_base = frame, .iov_len = size };
	struct mmsghdr m[BATCH];

	memset(frame, 0xff, 6);
	memcpy(sa.sun_path, local, strlen(local) + 1);
	for (unsigned i = 0; i < BATCH; i++)
		m[i] = (struct mmsghdr){ .msg_hdr = { .msg_name = &sa, .msg_namelen = sizeof(sa), .msg_iov = &iov,
						      .msg_iovlen = 1 } };
	while (count) {
		int sent = sendmmsg(fd, m, count < BATCH ? (unsigned)count : BATCH, 0); /* blocks when it is full */

		if (sent < 0 && errno == EINTR)
			continue;
		must(sent > 0, "send");
		count -= (unsigned)sent;
	}
}

static uint64_t seen(void)
{
	const struct rpl_netbuf_status *s = rpl_netbuf_status(n);

	return s->passed_frames + s->dropped_frames + s->held_frames;
}

/* A child sends; until the relay has seen all of it. */
static uint64_t send_all(int fd, uint64_t count, size_t size)
{
	uint64_t want = seen() + count, began = rpl_now_ns();
	pid_t pid = fork();

	must(pid >= 0, "fork");
	if (pid == 0) {
		guest_sends(fd, count, size);
		_exit(0);
	}
	must(waitpid(pid, NULL, 0) == pid, "wait");
	while (seen() < want)
		(void)TIMED(rpl_netbuf_attach(n)); /* brings the counters */
	return rpl_now_ns() - began;
}

static void print_rate(const char *what, uint64_t count, size_t size, uint64_t ns)
{
	(void)printf("%-28s %5zu B  %9.0f frames/s  %7.2f Gbit/s\n", what, size, (double)count * 1e9 / (double)ns,
		     (double)count * (double)size * 8 / (double)ns);
}

static void bench_out(int fd, size_t size)
{
	uint64_t before = rpl_netbuf_status(n)->dropped_frames;
	uint64_t ns = send_all(fd, frames, size);

	print_rate("out, open, to a tap", frames, size, ns);
	if (rpl_netbuf_status(n)->dropped_frames != before)
		(void)printf("  dropped: %" PRIu64 "\n", rpl_netbuf_status(n)->dropped_frames - before);
}

static void bench_hold(int fd, size_t size)
{
	uint64_t ns, seal, beside, release, began;
	unsigned before;

	(void)TIMED(rpl_netbuf_hold(n));
	ns = send_all(fd, EPOCH_FRAMES, size);
	print_rate("into the hold", EPOCH_FRAMES, size, ns);
	seal = TIMED(rpl_netbuf_seal(n, 1));
	before = answers;
	began = rpl_now_ns();
	rpl_netbuf_release(n, 1);
	rpl_netbuf_seal(n, 2); /* its answer comes first */
	beside = until_answered(before);
	if (answers == before + 1)
		(void)until_answered(before + 1);
	release = rpl_now_ns() - began;
	(void)printf("%-28s %5zu B  seal %.3f ms; release until all has left %.3f ms, next seal meanwhile %.3f ms (%d frames)\n",
		     "one large epoch", size, (double)seal / 1e6, (double)release / 1e6, (double)beside / 1e6, EPOCH_FRAMES);
	(void)TIMED(rpl_netbuf_open(n));
}

static void bench_seal(int fd)
{
	static struct rpl_hist empty, full;

	(void)TIMED(rpl_netbuf_hold(n));
	for (uint64_t e = 1; e <= SEALS; e++) {
		struct rpl_hist *h = e % 2 ? &empty : &full;

		if (h == &full)
			guest_sends(fd, 20, 1514); /* still in the socket when the seal is asked for, or on the way */
		rpl_hist_add(h, TIMED(rpl_netbuf_seal(n, e)));
		(void)TIMED(rpl_netbuf_release(n, e));
	}
	(void)TIMED(rpl_netbuf_open(n));
	(void)printf("seal, socket empty           p50 %.3f ms  p99 %.3f ms  max %.3f ms\n",
		     (double)rpl_hist_quantile(&empty, 500) / 1e6, (double)rpl_hist_quantile(&empty, 990) / 1e6,
		     (double)empty.max_ns / 1e6);
	(void)printf("seal, 20 frames just sent    p50 %.3f ms  p99 %.3f ms  max %.3f ms\n",
		     (double)rpl_hist_quantile(&full, 500) / 1e6, (double)rpl_hist_quantile(&full, 990) / 1e6,
		     (double)full.max_ns / 1e6);
}

/* A child sends into the tap's network; we are QEMU and count what arrives. */
static void bench_in(int fd, size_t size)
{
	struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex("tap0") };
	uint64_t got = 0, began = rpl_now_ns(), last = began;
	static uint8_t frame[65536];
	pid_t pid = fork();

	must(pid >= 0, "fork");
	if (pid == 0) {
		int s = socket(AF_PACKET, SOCK_RAW, 0);

		for (uint64_t i = 0; i < frames; i++)
			(void)sendto(s, frame, size, 0, (struct sockaddr *)&to, sizeof(to)); /* a full tap drops */
		_exit(0);
	}
	for (struct pollfd p = { .fd = fd, .events = POLLIN }; got < frames && poll(&p, 1, IDLE_MS) == 1;) {
		while (recv(fd, frame, sizeof(frame), MSG_DONTWAIT) > 0)
			got++;
		last = rpl_now_ns();
	}
	must(waitpid(pid, NULL, 0) == pid, "wait");
	print_rate("in, from a tap", got, size, last - began);
	(void)printf("  lost before the relay (the tap's queue was full): %.1f %%\n",
		     100.0 * (double)(frames - got) / (double)frames);
}

int main(int argc, char **argv)
{
	struct rpl_netbuf_conf conf = { .backend = "relay", .vm = "bench", .control = control };
	struct rpl_err err = { 0 };
	pid_t relay;
	int fd;

	if (argc > 1)
		frames = strtoull(argv[1], NULL, 10);
	if (geteuid() != 0 || unshare(CLONE_NEWNET) < 0) {
		(void)fprintf(stderr, "bench relay: needs root, for a network namespace and a tap\n");
		return SKIPPED;
	}
	rpl_log_init("bench", RPL_LOG_WARNING);
	must(mkdtemp(dir) != NULL, "temporary directory");
	(void)snprintf(control, sizeof(control), "%s/control", dir);
	(void)snprintf(local, sizeof(local), "%s/a", dir);
	(void)snprintf(peer, sizeof(peer), "%s/q", dir);
	fd = rpl_unix_listen(peer, SOCK_DGRAM, &err);
	must(fd >= 0, "guest's socket");
	relay = start_relay();
	loop = ev_loop_new(0);
	n = rpl_netbuf_new(&conf, loop, done, event, NULL, &err);
	must(n != NULL, "netbuf");
	(void)TIMED(rpl_netbuf_attach(n));
	(void)usleep(WARM_UP_MS * 1000);
	bench_out(fd, 64);
	bench_out(fd, 1514);
	bench_out(fd, 16384);
	bench_hold(fd, 1514);
	bench_seal(fd);
	bench_in(fd, 64);
	bench_in(fd, 1514);
	rpl_netbuf_free(n);
	(void)kill(relay, SIGTERM);
	(void)waitpid(relay, NULL, 0);
	(void)unlink(peer);
	(void)rmdir(dir);
	return 0;
}
