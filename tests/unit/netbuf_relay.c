/* The relay as a process, over sockets that stand for QEMU ("guest") and for the network ("wire"): what leaves, when,
 * and what never does. The keeper's side is the real client. Nothing waits for a time: "quiet" is a look at the wire
 * after the relay has answered a later request, when everything it wanted to emit is already there.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <ev.h>

#include <replicad/auto.h>
#include <replicad/io.h>
#include <replicad/netbuf.h>

#include "netbuf/hold.h"
#include "netbuf/relay_proto.h"

#define WAIT_MS 60000 /* for what must happen; a loaded machine may be slow */
#define ATTACH_TRIES 10
#define PORTS 2

struct rig {
	char dir[64], control[96], local[PORTS][96], peer[PORTS][96], wire[PORTS][96], wire_peer[PORTS][96];
	pid_t pid;
	int guest[PORTS], out[PORTS]; /* QEMU's socket, the network's socket */
	struct ev_loop *loop;
	struct rpl_netbuf *n;
	uint32_t next; /* serial number of the next frame */

	unsigned done[RPL_NETBUF_NOPS], events;
	uint64_t done_epoch;
	int result, result_of[RPL_NETBUF_NOPS], event_result;
	struct rpl_err err;
	char event[240];
};

/* ---- the rig */

static void on_done(void *arg, enum rpl_netbuf_op op, uint64_t epoch, int r, const struct rpl_err *err)
{
	struct rig *g = arg;

	g->done[op]++;
	g->done_epoch = epoch;
	g->result = g->result_of[op] = r;
	g->err = *err;
	ev_break(g->loop, EVBREAK_ALL);
}

static void on_event(void *arg, int r, const char *msg)
{
	struct rig *g = arg;

	g->events++;
	g->event_result = r;
	(void)snprintf(g->event, sizeof(g->event), "%s", msg);
	ev_break(g->loop, EVBREAK_ALL);
}

static void late_cb(struct ev_loop *loop, struct ev_timer *w, int revents)
{
	(void)loop;
	(void)w;
	(void)revents;
	fail_msg("nothing happened for %d ms", WAIT_MS);
}

static void spin(struct rig *g, const unsigned *counter, unsigned want)
{
	struct ev_timer late;

	ev_timer_init(&late, late_cb, WAIT_MS / 1000.0, 0);
	ev_timer_start(g->loop, &late);
	while (*counter < want)
		(void)ev_run(g->loop, EVRUN_ONCE);
	ev_timer_stop(g->loop, &late);
}

/* Run one operation to its end; its result. */
#define DO(g, OP, call)                                                 \
	(call, spin(g, &(g)->done[RPL_NETBUF_##OP], (g)->done[RPL_NETBUF_##OP] + 1), (g)->result)

static void keeper_open(struct rig *g)
{
	struct rpl_netbuf_conf conf = { .backend = "relay", .vm = "web1", .control = g->control };

	g->n = rpl_netbuf_new(&conf, g->loop, on_done, on_event, g, &g->err);
	assert_non_null(g->n);
}

static void attach(struct rig *g)
{
	if (!g->n)
		keeper_open(g);
	/* a relay that has just been started may need longer on a loaded machine than a keeper waits at once */
	for (int i = 0; DO(g, ATTACH, rpl_netbuf_attach(g->n)) < 0; i++)
		if (i == ATTACH_TRIES)
			fail_msg("attach: %s", g->err.msg);
	assert_true(rpl_netbuf_status(g->n)->attached);
}

static void keeper_dies(struct rig *g)
{
	rpl_netbuf_free(g->n);
	g->n = NULL;
}

static void relay_start(struct rig *g, const char *state, const char *bytes_max)
{
	char port[PORTS][512], program[512];
	const char *top = getenv("top_builddir");

	(void)snprintf(program, sizeof(program), "%s/replicad-relay", top ? top : ".");
	for (int i = 0; i < PORTS; i++)
		(void)snprintf(port[i], sizeof(port[i]), "%s,%s,wire=%s,wire-peer=%s", g->local[i], g->peer[i],
			       g->wire[i], g->wire_peer[i]);
	g->pid = fork();
	assert_true(g->pid >= 0);
	if (g->pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)execl(program, program, "--vm", "web1", "--control", g->control, "--port", port[0], "--port",
			    port[1], "--state", state, "--hold-bytes-max", bytes_max, (char *)NULL);
		_exit(127);
	}
}

static int relay_stop(struct rig *g, int signal_number)
{
	int status = 0;

	if (g->pid <= 0)
		return 0;
	(void)kill(g->pid, signal_number);
	assert_int_equal(waitpid(g->pid, &status, 0), g->pid);
	g->pid = 0;
	return status;
}

static int set_up(void **state)
{
	struct rig *g = calloc(1, sizeof(*g));

	assert_non_null(g);
	(void)strcpy(g->dir, "/tmp/rpl-relay-XXXXXX");
	assert_non_null(mkdtemp(g->dir));
	(void)snprintf(g->control, sizeof(g->control), "%s/control", g->dir);
	for (int i = 0; i < PORTS; i++) {
		(void)snprintf(g->local[i], sizeof(g->local[i]), "%s/a%d", g->dir, i);
		(void)snprintf(g->peer[i], sizeof(g->peer[i]), "%s/q%d", g->dir, i);
		(void)snprintf(g->wire[i], sizeof(g->wire[i]), "%s/w%d", g->dir, i);
		(void)snprintf(g->wire_peer[i], sizeof(g->wire_peer[i]), "%s/x%d", g->dir, i);
		g->guest[i] = rpl_unix_listen(g->peer[i], SOCK_DGRAM | SOCK_NONBLOCK, NULL);
		g->out[i] = rpl_unix_listen(g->wire_peer[i], SOCK_DGRAM | SOCK_NONBLOCK, NULL);
		assert_true(g->guest[i] >= 0 && g->out[i] >= 0);
	}
	g->loop = ev_loop_new(0);
	g->next = 1;
	*state = g;
	return 0;
}

static int tear_down(void **state)
{
	struct rig *g = *state;

	rpl_netbuf_free(g->n);
	(void)relay_stop(g, SIGKILL);
	for (int i = 0; i < PORTS; i++) {
		rpl_close(&g->guest[i]);
		rpl_close(&g->out[i]);
		(void)unlink(g->local[i]);
		(void)unlink(g->peer[i]);
		(void)unlink(g->wire[i]);
		(void)unlink(g->wire_peer[i]);
	}
	(void)unlink(g->control);
	(void)strcat(g->control, ".held");
	(void)unlink(g->control);
	ev_loop_destroy(g->loop);
	assert_int_equal(rmdir(g->dir), 0);
	free(g);
	return 0;
}

/* ---- frames */

struct frame {
	uint8_t mac[12];
	uint8_t type[2];
	uint32_t serial;
	uint8_t rest[46];
} __attribute__((packed));

static void send_bytes(int fd, const char *to, const void *data, size_t len)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };

	(void)snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", to);
	for (int i = 0; i < WAIT_MS; i++) {
		if (sendto(fd, data, len, 0, (struct sockaddr *)&sa, sizeof(sa)) == (ssize_t)len)
			return;
		/* EPERM: the relay is still connected to the QEMU before this one */
		assert_true(errno == EAGAIN || errno == ENOENT || errno == ECONNREFUSED || errno == EPERM);
		(void)usleep(1000);
	}
	fail_msg("nobody takes frames at %s", to);
}

/* Frames of the guest's NIC `port`; returns the serial number of the first. */
static uint32_t guest_sends(struct rig *g, int port, unsigned count)
{
	uint32_t first = g->next;

	for (unsigned i = 0; i < count; i++) {
		struct frame f = { .type = { 0x08, 0x00 }, .serial = g->next++ };

		send_bytes(g->guest[port], g->local[port], &f, sizeof(f));
	}
	return first;
}

/* The next frame on the wire, or 0 if there is none now. */
static uint32_t wire_has(struct rig *g, int port)
{
	struct frame f;
	ssize_t n = recv(g->out[port], &f, sizeof(f), MSG_DONTWAIT);

	if (n < 0) {
		assert_int_equal(errno, EAGAIN);
		return 0;
	}
	assert_int_equal(n, sizeof(f));
	return f.serial;
}

static void wire_gives(struct rig *g, int port, uint32_t first, unsigned count)
{
	for (uint32_t s = first; s < first + count; s++) {
		struct pollfd p = { .fd = g->out[port], .events = POLLIN };
		uint32_t got;

		if (poll(&p, 1, WAIT_MS) != 1)
			fail_msg("frame %u did not come", s);
		got = wire_has(g, port);
		if (got != s)
			fail_msg("frame %u came, want %u", got, s);
	}
}

static void wire_is_quiet(struct rig *g)
{
	for (int i = 0; i < PORTS; i++) {
		uint32_t got = wire_has(g, i);

		if (got)
			fail_msg("frame %u leaked on port %d", got, i);
	}
}

/* ---- stories */

static void frames_leave_with_their_epoch(void **state)
{
	struct rig *g = *state;
	uint32_t e1, e2, e3;

	relay_start(g, "open", "1048576");
	attach(g);
	assert_false(rpl_netbuf_status(g->n)->holding);
	assert_int_equal(rpl_netbuf_status(g->n)->ports, PORTS);
	wire_gives(g, 0, guest_sends(g, 0, 3), 3); /* open: straight through */
	assert_int_equal(DO(g, HOLD, rpl_netbuf_hold(g->n)), 0);
	assert_true(rpl_netbuf_status(g->n)->holding);
	e1 = guest_sends(g, 0, 5);
	assert_int_equal(DO(g, SEAL, rpl_netbuf_seal(g->n, 1)), 0);
	assert_int_equal(rpl_netbuf_status(g->n)->held_frames, 5); /* sealed means: taken from the socket */
	e2 = guest_sends(g, 0, 4);
	assert_int_equal(DO(g, SEAL, rpl_netbuf_seal(g->n, 2)), 0);
	e3 = guest_sends(g, 0, 2);
	wire_is_quiet(g);
	assert_int_equal(DO(g, RELEASE, rpl_netbuf_release(g->n, 1)), 0);
	assert_int_equal(g->done_epoch, 1);
	wire_gives(g, 0, e1, 5);
	wire_is_quiet(g);
	assert_int_equal(DO(g, RELEASE, rpl_netbuf_release(g->n, 1)), 0); /* the ack once more: nothing more leaves */
	wire_is_quiet(g);
	assert_int_equal(DO(g, RELEASE, rpl_netbuf_release(g->n, 2)), 0);
	wire_gives(g, 0, e2, 4);
	wire_is_quiet(g);
	assert_int_equal(DO(g, OPEN, rpl_netbuf_open(g->n)), 0);
	wire_gives(g, 0, e3, 2);
	assert_int_equal(rpl_netbuf_status(g->n)->passed_frames, 14);
	assert_int_equal(rpl_netbuf_status(g->n)->dropped_frames, 0);
}

static void a_lost_ack_is_made_up_by_the_next(void **state)
{
	struct rig *g = *state;
	uint32_t first;

	relay_start(g, "held", "1048576");
	attach(g);
	first = guest_sends(g, 0, 3);
	for (uint64_t e = 10; e <= 30; e += 10) { /* numbers may have gaps */
		(void)guest_sends(g, 0, 2);
		assert_int_equal(DO(g, SEAL, rpl_netbuf_seal(g->n, e)), 0);
	}
	(void)guest_sends(g, 0, 1);
	assert_int_equal(DO(g, RELEASE, rpl_netbuf_release(g->n, 25)), 0); /* between marks: 10 and 20 */
	wire_gives(g, 0, first, 7);
	wire_is_quiet(g);
	assert_int_equal(DO(g, RELEASE, rpl_netbuf_release(g->n, 10)), 0); /* a late one */
	wire_is_quiet(g);
	assert_int_equal(DO(g, RELEASE, rpl_netbuf_release(g->n, 30)), 0);
	wire_gives(g, 0, first + 7, 2);
	assert_int_equal(DO(g, RELEASE, rpl_netbuf_release(g->n, 31)), -EINVAL); /* never sealed */
	assert_non_null(strstr(g->err.msg, "only epoch 30 is sealed"));
	assert_int_equal(DO(g, SEAL, rpl_netbuf_seal(g->n, 29)), -EINVAL);
	assert_int_equal(DO(g, SEAL, rpl_netbuf_seal(g->n, 30)), 0); /* again: what came later is not in it */
	assert_int_equal(DO(g, RELEASE, rpl_netbuf_release(g->n, 30)), 0);
	wire_is_quiet(g);
	assert_int_equal(rpl_netbuf_status(g->n)->held_frames, 1);
}

static void all_protocols_are_held(void **state)
{
	static const uint8_t type[][2] = { { 0x08, 0x00 }, { 0x08, 0x06 }, { 0x86, 0xdd }, { 0x81, 0x00 }, /* VLAN */
					   { 0x88, 0xa8 }, { 0x88, 0xcc }, { 0x00, 0x26 }, /* LLDP, 802.3 length */
					   { 0xff, 0xff } };
	struct rig *g = *state;

	relay_start(g, "held", "1048576");
	attach(g);
	for (size_t i = 0; i < RPL_ARRAY_LEN(type); i++) {
		struct frame f = { .serial = g->next++ };

		memcpy(f.type, type[i], 2);
		memset(f.mac, i % 2 ? 0xff : 0x52, 6);
		send_bytes(g->guest[i % PORTS], g->local[i % PORTS], &f, sizeof(f));
	}
	assert_int_equal(DO(g, SEAL, rpl_netbuf_seal(g->n, 1)), 0);
	assert_int_equal(rpl_netbuf_status(g->n)->held_frames, RPL_ARRAY_LEN(type));
	wire_is_quiet(g);
	assert_int_equal(DO(g, RELEASE, rpl_netbuf_release(g->n, 1)), 0);
	for (uint32_t i = 0; i < RPL_ARRAY_LEN(type); i++)
		wire_gives(g, (int)(i % PORTS), 1 + i, 1);
}

static void open_drains_in_order_while_frames_go_on_coming(void **state)
{
	struct rig *g = *state;
	unsigned before = 60, after = 20;
	uint32_t first;

	relay_start(g, "held", "1048576");
	attach(g);
	first = guest_sends(g, 1, before); /* more than the wire's queue takes at once */
	rpl_netbuf_open(g->n);
	(void)ev_run(g->loop, EVRUN_NOWAIT);
	(void)guest_sends(g, 1, after);
	wire_gives(g, 1, first, before + after);
	spin(g, &g->done[RPL_NETBUF_OPEN], 1);
	assert_int_equal(g->result, 0);
}

static void hold_is_complete_when_the_old_backlog_has_left(void **state)
{
	struct rig *g = *state;
	unsigned count = 40; /* the wire takes about ten */
	uint32_t first, second;

	relay_start(g, "open", "1048576");
	attach(g);
	first = guest_sends(g, 0, count);
	rpl_netbuf_hold(g->n);
	for (int i = 0; i < 20; i++)
		(void)ev_run(g->loop, EVRUN_NOWAIT);
	assert_int_equal(g->done[RPL_NETBUF_HOLD], 0);
	wire_gives(g, 0, first, 1);
	second = 0;
	while (second < count - 1) { /* read slowly; the answer comes before the last are read, never before they are sent */
		wire_gives(g, 0, first + 1 + second++, 1);
		(void)ev_run(g->loop, EVRUN_NOWAIT);
	}
	spin(g, &g->done[RPL_NETBUF_HOLD], 1);
	assert_int_equal(g->result, 0);
	(void)guest_sends(g, 0, 3);
	assert_int_equal(DO(g, SEAL, rpl_netbuf_seal(g->n, 1)), 0);
	assert_int_equal(rpl_netbuf_status(g->n)->held_frames, 3);
	wire_is_quiet(g);
}

static void drop_and_shut_throw_away(void **state)
{
	struct rig *g = *state;
	struct frame f = { .serial = 1 };

	relay_start(g, "held", "1048576");
	attach(g);
	(void)guest_sends(g, 0, 5);
	assert_int_equal(DO(g, SEAL, rpl_netbuf_seal(g->n, 1)), 0);
	(void)guest_sends(g, 1, 5);
	assert_int_equal(DO(g, DROP, rpl_netbuf_drop(g->n)), 0);
	assert_true(rpl_netbuf_status(g->n)->holding);
	assert_int_equal(rpl_netbuf_status(g->n)->held_frames, 0);
	assert_int_equal(rpl_netbuf_status(g->n)->dropped_frames, 10);
	assert_int_equal(DO(g, RELEASE, rpl_netbuf_release(g->n, 1)), 0);
	wire_is_quiet(g);
	(void)guest_sends(g, 0, 2);
	assert_int_equal(DO(g, SHUT, rpl_netbuf_shut(g->n)), 0);
	assert_true(rpl_netbuf_status(g->n)->shut);
	assert_int_equal(DO(g, SEAL, rpl_netbuf_seal(g->n, 2)), -EINVAL);
	assert_int_equal(DO(g, RELEASE, rpl_netbuf_release(g->n, 1)), -ESHUTDOWN);
	(void)guest_sends(g, 0, 2);
	send_bytes(g->out[0], g->wire[0], &f, sizeof(f)); /* inbound does not pass either */
	assert_int_equal(DO(g, OPEN, rpl_netbuf_open(g->n)), 0); /* whatever was sent before open: either way */
	assert_false(rpl_netbuf_status(g->n)->shut);
	g->next = 1000;
	(void)guest_sends(g, 0, 1);
	for (uint32_t s = 0; s != 1000;) {
		struct pollfd p = { .fd = g->out[0], .events = POLLIN };

		assert_int_equal(poll(&p, 1, WAIT_MS), 1);
		s = wire_has(g, 0);
		assert_true(s > 12); /* of the first twelve nothing comes back */
	}
}

static void inbound_is_never_held_but_shut_out(void **state)
{
	struct rig *g = *state;
	struct frame f = { .type = { 0x08, 0x06 }, .serial = 77 }, got;
	struct pollfd p = { .fd = g->guest[0], .events = POLLIN };
	uint64_t gone;

	relay_start(g, "held", "1048576");
	attach(g);
	send_bytes(g->out[0], g->wire[0], &f, sizeof(f));
	assert_int_equal(poll(&p, 1, WAIT_MS), 1);
	assert_int_equal(recv(g->guest[0], &got, sizeof(got), 0), sizeof(got));
	assert_int_equal(got.serial, 77);
	assert_int_equal(DO(g, SHUT, rpl_netbuf_shut(g->n)), 0);
	gone = rpl_netbuf_status(g->n)->dropped_frames;
	send_bytes(g->out[0], g->wire[0], &f, sizeof(f));
	while (rpl_netbuf_status(g->n)->dropped_frames == gone) /* its status follows by itself */
		(void)ev_run(g->loop, EVRUN_ONCE);
	assert_int_equal(recv(g->guest[0], &got, sizeof(got), MSG_DONTWAIT), -1);
}

static void a_keeper_that_dies_leaves_the_hold_as_it_is(void **state)
{
	struct rig *g = *state;
	uint32_t first;

	relay_start(g, "open", "1048576");
	attach(g);
	assert_int_equal(DO(g, HOLD, rpl_netbuf_hold(g->n)), 0);
	first = guest_sends(g, 0, 3);
	assert_int_equal(DO(g, SEAL, rpl_netbuf_seal(g->n, 7)), 0);
	(void)guest_sends(g, 0, 2);
	assert_int_equal(DO(g, SEAL, rpl_netbuf_seal(g->n, 8)), 0);
	keeper_dies(g);
	(void)guest_sends(g, 0, 4);
	attach(g); /* the next keeper learns what is there */
	assert_true(rpl_netbuf_status(g->n)->holding);
	assert_int_equal(rpl_netbuf_status(g->n)->sealed_epoch, 8);
	assert_int_equal(rpl_netbuf_status(g->n)->released_epoch, 0);
	wire_is_quiet(g);
	assert_int_equal(DO(g, RELEASE, rpl_netbuf_release(g->n, 7)), 0);
	wire_gives(g, 0, first, 3);
	keeper_dies(g);
	attach(g);
	assert_int_equal(rpl_netbuf_status(g->n)->released_epoch, 7);
	assert_int_equal(DO(g, OPEN, rpl_netbuf_open(g->n)), 0); /* CLAIM_SOLO was won */
	wire_gives(g, 0, first + 3, 6);
}

static void a_new_keeper_replaces_the_old(void **state)
{
	struct rig *g = *state;
	struct rig second;
	struct rpl_netbuf *old;

	relay_start(g, "held", "1048576");
	attach(g);
	old = g->n;
	second = *g;
	second.n = NULL;
	attach(&second);
	spin(g, &g->events, 1); /* the old one is told */
	assert_true(g->event_result < 0);
	assert_non_null(strstr(g->event, "another keeper attached"));
	assert_false(rpl_netbuf_status(old)->attached);
	assert_int_equal(DO(g, RELEASE, rpl_netbuf_release(old, 1)), -ENOTCONN);
	assert_int_equal(DO(&second, SEAL, rpl_netbuf_seal(second.n, 1)), 0);
	rpl_netbuf_free(second.n);
}

static void a_relay_that_is_killed_takes_the_frames_with_it(void **state)
{
	struct rig *g = *state;
	uint32_t after;

	relay_start(g, "held", "1048576");
	attach(g);
	(void)guest_sends(g, 0, 5);
	assert_int_equal(DO(g, SEAL, rpl_netbuf_seal(g->n, 1)), 0);
	(void)relay_stop(g, SIGKILL);
	spin(g, &g->events, 1);
	assert_true(g->event_result < 0);
	assert_int_equal(DO(g, RELEASE, rpl_netbuf_release(g->n, 1)), -ENOTCONN);
	relay_start(g, "open", "1048576"); /* the sockets are made anew; QEMU's and the wire's survive */
	attach(g);
	assert_true(rpl_netbuf_status(g->n)->holding); /* whatever the launcher said */
	(void)guest_sends(g, 0, 3);
	assert_int_equal(DO(g, SEAL, rpl_netbuf_seal(g->n, 1)), 0);
	assert_int_equal(rpl_netbuf_status(g->n)->held_frames, 3);
	wire_is_quiet(g);
	assert_int_equal(DO(g, DROP, rpl_netbuf_drop(g->n)), 0);
	assert_int_equal(DO(g, OPEN, rpl_netbuf_open(g->n)), 0);
	(void)relay_stop(g, SIGKILL);
	spin(g, &g->events, 2);
	relay_start(g, "open", "1048576"); /* killed while open: open again */
	attach(g);
	assert_false(rpl_netbuf_status(g->n)->holding);
	after = guest_sends(g, 0, 1);
	wire_gives(g, 0, after, 1);
	wire_is_quiet(g);
	(void)relay_stop(g, SIGTERM);
	spin(g, &g->events, 3);
	assert_int_equal(access(g->control, F_OK), -1); /* it cleaned up */
	assert_int_equal(access(g->local[0], F_OK), -1);
}

static void operations_under_way_fail_when_the_relay_dies(void **state)
{
	struct rig *g = *state;

	relay_start(g, "held", "1048576");
	attach(g);
	(void)kill(g->pid, SIGSTOP);
	rpl_netbuf_seal(g->n, 1);
	rpl_netbuf_release(g->n, 1);
	(void)ev_run(g->loop, EVRUN_NOWAIT);
	(void)relay_stop(g, SIGKILL);
	spin(g, &g->done[RPL_NETBUF_RELEASE], 1);
	assert_int_equal(g->done[RPL_NETBUF_SEAL], 1);
	assert_true(g->result < 0);
	assert_int_equal(g->events, 1);
}

static void a_relay_that_hangs_is_given_up(void **state)
{
	struct rig *g = *state;

	relay_start(g, "held", "1048576");
	attach(g);
	(void)kill(g->pid, SIGSTOP);
	assert_int_equal(DO(g, SEAL, rpl_netbuf_seal(g->n, 1)), -ETIMEDOUT);
	assert_non_null(strstr(g->err.msg, "did not answer seal"));
	(void)kill(g->pid, SIGCONT);
}

static void attach_without_a_relay_fails_in_time(void **state)
{
	struct rig *g = *state;

	keeper_open(g);
	assert_int_equal(DO(g, ATTACH, rpl_netbuf_attach(g->n)), -ENOENT);
	assert_non_null(strstr(g->err.msg, g->control));
	assert_int_equal(g->events, 0);
}

static void a_full_hold_warns_then_drops_and_counts(void **state)
{
	struct rig *g = *state;
	uint8_t big[32 * 1024] = { 0 }; /* 1 MiB holds 32 */
	unsigned i;

	relay_start(g, "held", "1048576");
	attach(g);
	for (i = 0; i < 25; i++)
		send_bytes(g->guest[0], g->local[0], big, sizeof(big));
	spin(g, &g->events, 1);
	assert_int_equal(g->event_result, 0); /* a warning, and nothing is lost yet */
	assert_non_null(strstr(g->event, "3/4"));
	assert_int_equal(rpl_netbuf_status(g->n)->dropped_frames, 0);
	for (; i < 40; i++)
		send_bytes(g->guest[0], g->local[0], big, sizeof(big));
	assert_int_equal(DO(g, SEAL, rpl_netbuf_seal(g->n, 1)), 0);
	assert_int_equal(rpl_netbuf_status(g->n)->held_frames, 32);
	assert_int_equal(rpl_netbuf_status(g->n)->dropped_frames, 8);
	assert_int_equal(g->events, 1);
	wire_is_quiet(g);
}

static void qemu_may_come_late_and_come_again(void **state)
{
	struct rig *g = *state;
	struct frame f = { .serial = 5 }, got;

	rpl_close(&g->guest[0]);
	(void)unlink(g->peer[0]);
	relay_start(g, "open", "1048576");
	attach(g);
	send_bytes(g->out[0], g->wire[0], &f, sizeof(f)); /* nobody there: lost */
	for (int round = 0; round < 2; round++) {
		ssize_t n = -1;

		g->guest[0] = rpl_unix_listen(g->peer[0], SOCK_DGRAM | SOCK_NONBLOCK, NULL);
		wire_gives(g, 0, guest_sends(g, 0, 1), 1);
		for (int i = 0; n < 0 && i < WAIT_MS; i++) {
			send_bytes(g->out[0], g->wire[0], &f, sizeof(f));
			(void)usleep(1000);
			n = recv(g->guest[0], &got, sizeof(got), MSG_DONTWAIT);
		}
		assert_int_equal(n, sizeof(got));
		rpl_close(&g->guest[0]);
	}
}

static void only_this_qemu_may_put_frames_in(void **state)
{
	struct rig *g = *state;
	RPL_AUTO_FD int stranger = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	struct frame f = { .serial = 9 };

	relay_start(g, "open", "1048576");
	attach(g);
	wire_gives(g, 0, guest_sends(g, 0, 1), 1);
	(void)snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", g->local[0]);
	assert_int_equal(sendto(stranger, &f, sizeof(f), 0, (struct sockaddr *)&sa, sizeof(sa)), -1);
	assert_int_equal(errno, EPERM);
	/* and this one is not bound by net.unix.max_dgram_qlen: nobody reads meanwhile, and nothing blocks */
	(void)kill(g->pid, SIGSTOP);
	(void)guest_sends(g, 0, 40);
	(void)kill(g->pid, SIGCONT);
	wire_gives(g, 0, 2, 40);
}

/* ---- the control socket, by hand */

static int raw_connect(struct rig *g)
{
	for (int i = 0; i < WAIT_MS; i++) {
		int fd = rpl_unix_connect(g->control, SOCK_SEQPACKET, NULL);

		if (fd >= 0)
			return fd;
		(void)usleep(1000);
	}
	fail_msg("no control socket");
	return -1;
}

static void nonsense_is_refused_and_changes_nothing(void **state)
{
	struct rig *g = *state;
	struct rpl_relay_req q = { .magic = RPL_RELAY_MAGIC, .version = RPL_RELAY_VERSION, .size = sizeof(q) };
	struct rpl_relay_msg m;
	struct {
		struct rpl_relay_req q;
		size_t len;
		int code;
	} row[] = { { q, sizeof(q) - 1, -EBADMSG },   { q, 3, -EBADMSG },	{ q, sizeof(q), -EBADMSG },
		    { q, sizeof(q), -EPROTONOSUPPORT }, { q, sizeof(q), -EBADMSG }, { q, sizeof(q), -EBADMSG },
		    { q, sizeof(q), -EPROTO } };

	row[2].q.magic++;
	row[3].q.version++;
	row[4].q.op = RPL_NETBUF_NOPS;
	row[5].q.epoch = 1; /* attach has none */
	row[6].q.op = RPL_NETBUF_OPEN; /* before attach */
	relay_start(g, "held", "1048576");
	attach(g);
	(void)guest_sends(g, 0, 3);
	for (size_t i = 0; i < RPL_ARRAY_LEN(row); i++) {
		int fd = raw_connect(g);

		assert_int_equal(rpl_send_fds(fd, &row[i].q, row[i].len, NULL, 0), 0);
		assert_int_equal(recv(fd, &m, sizeof(m), 0), sizeof(m));
		if (m.result != row[i].code)
			fail_msg("row %zu: %d, want %d: %s", i, m.result, row[i].code, m.text);
		(void)close(fd);
	}
	assert_int_equal(DO(g, SEAL, rpl_netbuf_seal(g->n, 1)), 0); /* the keeper was not disturbed */
	assert_int_equal(rpl_netbuf_status(g->n)->held_frames, 3);
	wire_is_quiet(g);
}

static void a_second_relay_for_the_same_guest_is_refused(void **state)
{
	struct rig *g = *state;
	pid_t first;
	int status;

	relay_start(g, "held", "1048576");
	attach(g);
	first = g->pid;
	relay_start(g, "open", "1048576");
	assert_int_equal(waitpid(g->pid, &status, 0), g->pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
	g->pid = first;
	(void)guest_sends(g, 0, 1);
	assert_int_equal(DO(g, SEAL, rpl_netbuf_seal(g->n, 1)), 0); /* still served by the first */
	assert_int_equal(rpl_netbuf_status(g->n)->held_frames, 1);
}

/* Its answer is in the socket, it has hung up, and the keeper asks for more before it looks. */
static void an_answer_is_heard_by_who_asks_more_first(void **state)
{
	struct rig *g = *state;
	RPL_AUTO_FD int listener = rpl_unix_listen(g->control, SOCK_SEQPACKET | SOCK_NONBLOCK, NULL);
	struct rpl_relay_msg m = { .magic = RPL_RELAY_MAGIC, .version = RPL_RELAY_VERSION, .size = sizeof(m),
				   .kind = RPL_RELAY_ANSWER, .mode = RPL_HOLD_HOLD, .epochs_max = 4 };
	struct rpl_relay_req q;
	int fd = -1;

	assert_true(listener >= 0);
	keeper_open(g);
	rpl_netbuf_attach(g->n);
	rpl_netbuf_seal(g->n, 7);
	while (fd < 0) {
		(void)ev_run(g->loop, EVRUN_NOWAIT);
		fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	}
	for (int i = 0; i < 2; i++) {
		assert_int_equal(recv(fd, &q, sizeof(q), 0), sizeof(q));
		m.op = q.op;
		m.id = q.id;
		m.epoch = q.epoch;
		assert_int_equal(send(fd, &m, sizeof(m), 0), sizeof(m));
	}
	(void)close(fd);
	rpl_netbuf_release(g->n, 7);
	spin(g, &g->events, 1);
	assert_int_equal(g->result_of[RPL_NETBUF_ATTACH], 0);
	assert_int_equal(g->result_of[RPL_NETBUF_SEAL], 0);
	assert_int_equal(g->result_of[RPL_NETBUF_RELEASE], -ECONNRESET);
	assert_non_null(strstr(g->err.msg, "closed its control connection"));
	assert_int_equal(unlink(g->control), 0);
}

#define STORY(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		STORY(frames_leave_with_their_epoch),
		STORY(a_lost_ack_is_made_up_by_the_next),
		STORY(all_protocols_are_held),
		STORY(open_drains_in_order_while_frames_go_on_coming),
		STORY(hold_is_complete_when_the_old_backlog_has_left),
		STORY(drop_and_shut_throw_away),
		STORY(inbound_is_never_held_but_shut_out),
		STORY(a_keeper_that_dies_leaves_the_hold_as_it_is),
		STORY(a_new_keeper_replaces_the_old),
		STORY(a_relay_that_is_killed_takes_the_frames_with_it),
		STORY(operations_under_way_fail_when_the_relay_dies),
		STORY(a_relay_that_hangs_is_given_up),
		STORY(attach_without_a_relay_fails_in_time),
		STORY(a_full_hold_warns_then_drops_and_counts),
		STORY(qemu_may_come_late_and_come_again),
		STORY(only_this_qemu_may_put_frames_in),
		STORY(nonsense_is_refused_and_changes_nothing),
		STORY(a_second_relay_for_the_same_guest_is_refused),
		STORY(an_answer_is_heard_by_who_asks_more_first),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
