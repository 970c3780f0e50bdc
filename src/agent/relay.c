/* relay.c - relays that the agent starts: one for each VM whose relay_ports say how
 *
 * A relay belongs to the VM, not to its protection or to this agent: it is there from the agent's start on, goes on when the
 * agent ends, and the next one finds it again at its control socket, whose listener's pid the kernel tells. One that
 * died is started again at once, later after failures in a row; a socket that answers is left alone, whoever started it.
 *
 * One that hangs is killed, and is then one that died: what it held was not emitted and never will be (R2). A keeper has
 * taken it for dead long before; the guest's network stands still until there is another. To see whether it runs we connect
 * and hang up, which makes it hang up in return and disturbs no keeper. Looks without that count, not the clock: an
 * agent that stood still itself, with its whole host perhaps, has not looked.
 *
 * Begun `closed` wherever a keeper is at work or will be: the keeper attaches within moments and knows whether output
 * may flow. Nobody else may say so, for what the record says may have changed while no relay was there. Where nobody
 * protects the VM it begins open (or held, if its predecessor was: see replicad-relay(8)).
 */
#include "agent.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/io.h>
#include <replicad/log.h>

#define RELAY_PROGRAM "replicad-relay"
#define RELAY_PORTS_MAX 16  /* as the relay itself */
#define FIXED_ARGUMENTS 9
#define BACKOFF_FIRST_S 0.1
#define BACKOFF_MAX_S 5.0
#define BACKOFF_STEPS_MAX 6
#define LIVED_NS (2000 * RPL_MS) /* one that lived this long did not fail at starting */
#define LOOK_S 2.0
#define LOOKS_MAX 5         /* in a row without an answer: it hangs. Three times as long as a keeper waits */
#define MIB_SHIFT 20

struct rpl_relay {
	struct rpl_relay *next;
	struct rpl_agent *agent;
	char vm[RPL_VM_NAME_MAX];
	pid_t pid;
	int pidfd; /* -1: there is none */
	bool is_child;
	uint64_t started_ns;
	unsigned failures; /* in a row */
	int probe;         /* -1, or a connection that it is to close */
	unsigned looks;    /* without an answer, in a row */
	ev_io gone;
	ev_timer again, look;
};

static void ensure(struct rpl_relay *y);

/* Its section, if it still is a relay of ours to look after. */
static const struct rpl_conf_vm *section_of(const struct rpl_relay *y)
{
	const struct rpl_conf_vm *vm = rpl_conf_vm(y->agent->conf, y->vm);

	return vm && vm->relay_ports[0] && strcmp(vm->netbuf, "relay") == 0 ? vm : NULL;
}

static void again_in(struct rpl_relay *y, double seconds)
{
	ev_timer_stop(y->agent->loop, &y->again);
	ev_now_update(y->agent->loop);
	ev_timer_set(&y->again, seconds, 0);
	ev_timer_start(y->agent->loop, &y->again);
}

static void again_later(struct rpl_relay *y)
{
	unsigned steps = y->failures < BACKOFF_STEPS_MAX ? y->failures : BACKOFF_STEPS_MAX;
	double wait = steps ? BACKOFF_FIRST_S * (double)(1u << (steps - 1)) : 0;

	y->failures++;
	again_in(y, wait < BACKOFF_MAX_S ? wait : BACKOFF_MAX_S);
}

static void on_again(struct ev_loop *loop, ev_timer *w, int revents)
{
	(void)loop, (void)revents;
	ensure(w->data);
}

static void end_look(struct rpl_relay *y)
{
	rpl_close(&y->probe);
	y->looks = 0;
}

static void forget(struct rpl_relay *y)
{
	end_look(y);
	ev_timer_stop(y->agent->loop, &y->look);
	if (y->pidfd >= 0)
		ev_io_stop(y->agent->loop, &y->gone);
	rpl_close(&y->pidfd);
	y->pid = 0;
}

static void on_gone(struct ev_loop *loop, ev_io *io, int revents)
{
	struct rpl_relay *y = io->data;
	char how[64] = "ended";
	pid_t pid = y->pid;
	int status;

	(void)loop, (void)revents;
	if (y->is_child && waitpid(pid, &status, WNOHANG) == pid)
		(void)snprintf(how, sizeof(how), WIFSIGNALED(status) ? "was killed by signal %d" : "ended with status %d",
			       WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	if (rpl_now_ns() - y->started_ns > LIVED_NS)
		y->failures = 0;
	forget(y);
	rpl_agent_note(y->agent, "relay-died", y->vm, "relay %d %s", (int)pid, how);
	again_later(y);
}

/* ---- does it run? */

static pid_t listener_of(int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 ? -errno : peer.pid;
}

/* 0, -EAGAIN when it accepts nobody, or another negative errno: it is not there that this one listens. */
static int begin_look(struct rpl_relay *y)
{
	const struct rpl_conf_vm *vm = section_of(y);

	y->probe = vm ? rpl_unix_connect(vm->relay, SOCK_SEQPACKET | SOCK_NONBLOCK, NULL) : -ENOENT;
	if (y->probe < 0)
		return y->probe;
	if (listener_of(y->probe) != y->pid || shutdown(y->probe, SHUT_WR) < 0) {
		rpl_close(&y->probe);
		return -ESRCH;
	}
	return 0;
}

static bool has_answered(const struct rpl_relay *y)
{
	char none;

	return recv(y->probe, &none, sizeof(none), MSG_DONTWAIT) >= 0 || (errno != EAGAIN && errno != EINTR);
}

static void on_look(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct rpl_relay *y = w->data;

	(void)loop, (void)revents;
	if (y->probe >= 0 && has_answered(y))
		end_look(y);
	if (y->probe < 0 && begin_look(y) != -EAGAIN)
		return;
	if (++y->looks != LOOKS_MAX)
		return;
	rpl_agent_note(y->agent, "alarm", y->vm, "relay %d has not answered for %d s: it is killed, for another in its place",
		       (int)y->pid, (int)(LOOKS_MAX * LOOK_S));
	(void)pidfd_send_signal(y->pidfd, SIGKILL, NULL, 0);
}

/* ---- having one */

static int watch(struct rpl_relay *y, pid_t pid, bool is_child)
{
	y->pidfd = pidfd_open(pid, 0);
	if (y->pidfd < 0)
		return -errno;
	y->pid = pid;
	y->is_child = is_child;
	y->started_ns = rpl_now_ns();
	ev_io_init(&y->gone, on_gone, y->pidfd, EV_READ);
	y->gone.data = y;
	ev_io_start(y->agent->loop, &y->gone);
	ev_now_update(y->agent->loop);
	ev_timer_set(&y->look, LOOK_S, LOOK_S);
	ev_timer_start(y->agent->loop, &y->look);
	return 0;
}

/* Does one answer at the control socket? Its pid, 0, or a negative errno. */
static pid_t who_listens(const char *path)
{
	RPL_AUTO_FD int fd = rpl_unix_connect(path, SOCK_SEQPACKET | SOCK_NONBLOCK, NULL);

	return fd < 0 ? 0 : listener_of(fd);
}

static const char *state_for(const struct rpl_relay *y, const struct rpl_conf_vm *vm)
{
	const struct rpl_ward *w = rpl_ward_find(y->agent, y->vm);
	bool kept = strcmp(vm->role, "auto") != 0 || rpl_wanted(y->agent, y->vm) ||
		    (w && rpl_ward_keeper(w) != RPL_WARD_NONE);

	return kept ? "closed" : "open";
}

/* `ports` is cut up. The number of arguments, or -E2BIG. */
static int arguments(char *ports, const struct rpl_conf_vm *vm, const char *state, const char *bytes, const char **argv)
{
	const char *const fixed[FIXED_ARGUMENTS] = { RELAY_PROGRAM, "--vm", vm->name, "--control", vm->relay, "--state", state,
						     "--hold-bytes-max", bytes };
	char *save = NULL;
	int n = FIXED_ARGUMENTS;

	memcpy(argv, fixed, sizeof(fixed));
	for (char *port = strtok_r(ports, " ", &save); port; port = strtok_r(NULL, " ", &save)) {
		if (n == FIXED_ARGUMENTS + 2 * RELAY_PORTS_MAX)
			return -E2BIG;
		argv[n++] = "--port";
		argv[n++] = port;
	}
	argv[n] = NULL;
	return n;
}

static int launch(struct rpl_relay *y, const struct rpl_conf_vm *vm, struct rpl_err *err)
{
	const char *argv[FIXED_ARGUMENTS + 2 * RELAY_PORTS_MAX + 1], *state = state_for(y, vm);
	char ports[RPL_CONF_TEXT_MAX], bytes[24], log[PATH_MAX];
	pid_t pid;
	int r;

	(void)snprintf(ports, sizeof(ports), "%s", vm->relay_ports);
	(void)snprintf(bytes, sizeof(bytes), "%llu", (unsigned long long)vm->hold_mb << MIB_SHIFT);
	if (arguments(ports, vm, state, bytes, argv) < 0)
		return rpl_fail(err, -E2BIG, "relay_ports: more than %d", RELAY_PORTS_MAX);
	r = rpl_path(log, sizeof(log), err, "%s/" RPL_RELAY_LOG, y->agent->conf->agent.run_dir, y->vm);
	if (r < 0)
		return r;
	pid = rpl_spawn(y->agent, log, argv, err);
	if (pid < 0)
		return (int)pid;
	r = watch(y, pid, true);
	if (r < 0)
		return rpl_fail_errno(err, -r, "watch relay %d", (int)pid);
	rpl_agent_note(y->agent, "relay-start", y->vm, "relay %d, %s%s", (int)pid, state, y->failures ? ", again" : "");
	return 0;
}

static void ensure(struct rpl_relay *y)
{
	const struct rpl_conf_vm *vm = section_of(y);
	struct rpl_err err;
	pid_t pid;

	if (!vm || y->pidfd >= 0)
		return;
	pid = who_listens(vm->relay);
	if (pid > 0 && watch(y, pid, false) == 0) {
		rpl_agent_note(y->agent, "adopted", y->vm, "relay %d goes on", (int)pid);
		return;
	}
	if (launch(y, vm, &err) == 0)
		return;
	rpl_agent_note(y->agent, "alarm", y->vm, "no relay: %s", err.msg);
	again_later(y);
}

static struct rpl_relay *find(const struct rpl_agent *a, const char *vm)
{
	for (struct rpl_relay *y = a->relays; y; y = y->next)
		if (strcmp(y->vm, vm) == 0)
			return y;
	return NULL;
}

static struct rpl_relay *get(struct rpl_agent *a, const char *vm)
{
	struct rpl_relay *y = find(a, vm);

	if (y)
		return y;
	y = calloc(1, sizeof(*y));
	if (!y)
		return NULL;
	y->agent = a;
	y->pidfd = y->probe = -1;
	(void)snprintf(y->vm, sizeof(y->vm), "%s", vm);
	ev_timer_init(&y->again, on_again, 0, 0);
	ev_timer_init(&y->look, on_look, 0, 0);
	y->again.data = y->look.data = y;
	y->next = a->relays;
	a->relays = y;
	return y;
}

void rpl_relays_ensure(struct rpl_agent *a)
{
	for (size_t i = 0; i < a->conf->n_vms; i++) {
		const struct rpl_conf_vm *vm = &a->conf->vms[i];
		struct rpl_relay *y = vm->relay_ports[0] ? get(a, vm->name) : NULL;

		if (y && !ev_is_active(&y->again))
			ensure(y);
	}
}

void rpl_relays_free(struct rpl_agent *a)
{
	while (a->relays) {
		struct rpl_relay *y = a->relays;

		forget(y);
		ev_timer_stop(a->loop, &y->again);
		a->relays = y->next;
		free(y);
	}
}
