/* replicad-relay - holds a guest's network output, in a process that outlives everything that may crash around it.
 *
 * Started with the VM and independent of its protection: see replicad-relay(8). It parses nothing that comes from the
 * network: a frame is a length and bytes. */
#include "config.h"
#include "relayd.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ev.h>

#include <replicad/auto.h>
#include <replicad/log.h>

#define EXIT_USAGE 2

struct options {
	const char *vm, *control;
	uint64_t bytes_max;
	enum rpl_hold_mode mode;
	uint32_t n_ports;
	struct rpl_relay_port_conf port[RPL_RELAY_PORTS_MAX];
};

static const struct option longopts[] = {
	{ "vm", required_argument, NULL, 'n' },
	{ "control", required_argument, NULL, 'c' },
	{ "port", required_argument, NULL, 'p' },
	{ "hold-bytes-max", required_argument, NULL, 'b' },
	{ "state", required_argument, NULL, 's' },
	{ "verbose", no_argument, NULL, 'v' },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'V' },
	{ NULL, 0, NULL, 0 },
};

static void usage(FILE *f)
{
	(void)fprintf(f, "usage: replicad-relay --vm NAME --control PATH --port LOCAL,PEER,tap=IFNAME[,bridge=NAME][,owner=USER] ...\n"
		      "                      [--state open|held|closed] [--hold-bytes-max BYTES] [--verbose] [--version]\n"
		      "See replicad-relay(8).\n");
}

static int parse_owner(const char *text, struct rpl_relay_port_conf *p, struct rpl_err *err)
{
	const struct passwd *pw = getpwnam(text);
	unsigned long uid;
	char *end;

	p->owned = true;
	if (pw) {
		p->owner = pw->pw_uid;
		return 0;
	}
	errno = 0;
	uid = strtoul(text, &end, 10);
	if (errno || *end || end == text || *text == '-' || uid >= UINT32_MAX)
		return rpl_fail(err, -EINVAL, "port: owner '%.40s' is neither a user nor a number", text);
	p->owner = (uid_t)uid;
	return 0;
}

static int take_word(char *word, struct rpl_relay_port_conf *p, struct rpl_err *err)
{
	const struct {
		const char *key;
		const char **value;
	} path[] = { { "tap=", &p->tap }, { "bridge=", &p->bridge }, { "wire=", &p->wire },
		     { "wire-peer=", &p->wire_peer } };

	for (size_t i = 0; i < RPL_ARRAY_LEN(path); i++)
		if (strncmp(word, path[i].key, strlen(path[i].key)) == 0) {
			*path[i].value = word + strlen(path[i].key);
			return 0;
		}
	if (strncmp(word, "owner=", 6) == 0)
		return parse_owner(word + 6, p, err);
	return rpl_fail(err, -EINVAL, "port: unknown word '%.60s' (tap= bridge= owner= wire= wire-peer=)", word);
}

int rpl_relay_port_parse(char *text, struct rpl_relay_port_conf *ret, struct rpl_err *err)
{
	struct rpl_relay_port_conf p = { 0 };
	char *save = NULL;
	int r = 0;

	p.local = strtok_r(text, ",", &save);
	p.peer = strtok_r(NULL, ",", &save);
	for (char *word = strtok_r(NULL, ",", &save); word && r == 0; word = strtok_r(NULL, ",", &save))
		r = take_word(word, &p, err);
	if (r < 0)
		return r;
	if (!p.local || !p.peer)
		return rpl_fail(err, -EINVAL, "port: want LOCAL,PEER,tap=IFNAME");
	if (!p.tap == !p.wire || !p.wire != !p.wire_peer || (p.bridge && !p.tap))
		return rpl_fail(err, -EINVAL, "port %.100s: want either tap=IFNAME [bridge=NAME] or wire=PATH with "
				"wire-peer=PATH", p.local);
	*ret = p;
	return 0;
}

static int parse_state(const char *text, enum rpl_hold_mode *ret)
{
	static const char *const word[] = { "open", "held", "closed" };

	_Static_assert(RPL_ARRAY_LEN(word) == RPL_HOLD_NMODES, "a word for each mode");
	for (unsigned i = 0; i < RPL_HOLD_NMODES; i++)
		if (strcmp(text, word[i]) == 0) {
			*ret = (enum rpl_hold_mode)i;
			return 0;
		}
	return -EINVAL;
}

static int parse_bytes(const char *text, uint64_t *ret)
{
	char *end;

	errno = 0;
	*ret = strtoull(text, &end, 10);
	if (errno || *end || end == text || *text == '-' || *ret < RPL_HOLD_BYTES_MIN || *ret > RPL_HOLD_BYTES_MAX)
		return -EINVAL;
	return 0;
}

static int add_port(struct options *o, char *text, struct rpl_err *err)
{
	if (o->n_ports == RPL_RELAY_PORTS_MAX)
		return rpl_fail(err, -E2BIG, "port: more than %d", RPL_RELAY_PORTS_MAX);
	return rpl_relay_port_parse(text, &o->port[o->n_ports++], err);
}

static int take_option(struct options *o, int c, struct rpl_err *err)
{
	switch (c) {
	case 'n':
		o->vm = optarg;
		return 0;
	case 'c':
		o->control = optarg;
		return 0;
	case 'p':
		return add_port(o, optarg, err);
	case 'b':
		if (parse_bytes(optarg, &o->bytes_max) < 0)
			return rpl_fail(err, -EINVAL, "hold-bytes-max '%.40s': want %u to %llu bytes", optarg,
					RPL_HOLD_BYTES_MIN, RPL_HOLD_BYTES_MAX);
		return 0;
	case 's':
		if (parse_state(optarg, &o->mode) < 0)
			return rpl_fail(err, -EINVAL, "state '%.40s': want open, held or closed", optarg);
		return 0;
	case 'v':
		rpl_log_init("replicad-relay", RPL_LOG_DEBUG);
		return 0;
	case 'h':
		usage(stdout);
		exit(EXIT_SUCCESS);
	case 'V':
		(void)puts("replicad-relay " PACKAGE_VERSION);
		exit(EXIT_SUCCESS);
	default:
		return rpl_fail(err, -EINVAL, "see replicad-relay(8)");
	}
}

static int parse_options(int argc, char **argv, struct options *o, struct rpl_err *err)
{
	int c, r;

	while ((c = getopt_long(argc, argv, "n:c:p:b:s:vhV", longopts, NULL)) != -1) {
		r = take_option(o, c, err);
		if (r < 0)
			return r;
	}
	if (optind != argc)
		return rpl_fail(err, -EINVAL, "unexpected argument '%.60s'", argv[optind]);
	if (!o->vm || !o->control || !o->n_ports)
		return rpl_fail(err, -EINVAL, "--vm, --control and at least one --port are needed");
	return 0;
}

/* ---- running */

struct relayd {
	struct rpl_hold *hold;
	struct rpl_relay_io *io;
	struct rpl_relay_ctl *ctl;
};

static void moved(void *arg)
{
	struct relayd *d = arg;

	rpl_relay_ctl_moved(d->ctl);
}

static void signal_cb(struct ev_loop *loop, struct ev_signal *w, int revents)
{
	(void)w;
	(void)revents;
	ev_break(loop, EVBREAK_ALL);
}

static int set_up(struct relayd *d, struct ev_loop *loop, const struct options *o, struct rpl_err *err)
{
	d->hold = rpl_hold_new(o->bytes_max, RPL_HOLD_FRAMES_MAX, o->mode, err);
	if (!d->hold)
		return err->code;
	d->io = rpl_relay_io_new(loop, d->hold, o->vm, moved, d, err);
	if (!d->io)
		return err->code;
	/* First: when another relay serves this guest we stop here, before its sockets are taken from it. A request
	 * is read once the loop runs, when the ports are there. */
	d->ctl = rpl_relay_ctl_new(loop, d->hold, d->io, o->vm, o->control, err);
	if (!d->ctl)
		return err->code;
	for (uint32_t i = 0; i < o->n_ports; i++)
		if (rpl_relay_io_add(d->io, &o->port[i], err) < 0)
			return err->code;
	return rpl_relay_confine(err);
}

/* The launcher may not know that the guest is protected; the relay before us did. */
static void consider_the_past(struct options *o)
{
	if (o->mode != RPL_HOLD_OPEN || !rpl_relay_was_held(o->control))
		return;
	o->mode = RPL_HOLD_HOLD;
	rpl_log(RPL_LOG_WARNING, "vm=%s relay=%s reason=\"the relay before this one held output when it ended, so this one "
				 "begins held; its keeper opens it. If nobody protects this guest any more: remove %s.held "
				 "and start again\"", o->vm, o->control, o->control);
}

static int run(struct ev_loop *loop, const struct options *o, struct rpl_err *err)
{
	struct relayd d = { 0 };
	struct ev_signal term, intr;
	int r = set_up(&d, loop, o, err);

	if (r == 0) {
		ev_signal_init(&term, signal_cb, SIGTERM);
		ev_signal_init(&intr, signal_cb, SIGINT);
		ev_signal_start(loop, &term);
		ev_signal_start(loop, &intr);
		rpl_log(RPL_LOG_INFO, "vm=%s relay=%s ports=%u state=%s hold_bytes_max=%" PRIu64
			" reason=\"ready\"", o->vm, o->control, o->n_ports, rpl_hold_mode_name(o->mode), o->bytes_max);
		ev_run(loop, 0);
		rpl_log(RPL_LOG_INFO, "vm=%s relay=%s reason=\"stopped; held frames are lost, not emitted\"", o->vm,
			o->control);
	}
	rpl_relay_ctl_free(d.ctl);
	rpl_relay_io_free(d.io);
	rpl_hold_free(d.hold);
	return r;
}

#ifdef RPL_SANITIZED
/* The leak checker traces its own process, which the filter forbids. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "detect_leaks=0";
}
#endif

int main(int argc, char **argv)
{
	struct options o = { .bytes_max = RPL_HOLD_BYTES_DEFAULT, .mode = RPL_HOLD_OPEN };
	struct rpl_err err = { 0 };
	struct ev_loop *loop;

	rpl_log_init("replicad-relay", RPL_LOG_INFO);
	if (parse_options(argc, argv, &o, &err) < 0) {
		(void)fprintf(stderr, "replicad-relay: %s\n", err.msg);
		usage(stderr);
		return EXIT_USAGE;
	}
	consider_the_past(&o);
	(void)signal(SIGPIPE, SIG_IGN);
	loop = ev_default_loop(EVFLAG_AUTO);
	rpl_assert(loop);
	if (run(loop, &o, &err) < 0) {
		rpl_log(RPL_LOG_ERROR, "vm=%s reason=\"%s\"", o.vm, err.msg);
		return EXIT_FAILURE;
	}
	return EXIT_SUCCESS;
}
