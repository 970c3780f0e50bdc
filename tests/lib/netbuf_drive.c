/* netbuf_drive BACKEND VM [-l LIMIT] [INTERFACE]...: a netbuf driven by lines, for tests
 *
 * Reads "attach", "hold", "seal N", "release N", "open", "drop", "shut", "status", "interfaces NAME..."; the end of input
 * frees the netbuf. Writes "done OP EPOCH RESULT SENTENCE", "event RESULT SENTENCE" and "status KEY=VALUE...", one a line.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <ev.h>

#include <replicad/netbuf.h>

#include "netbuf/relay_proto.h"

struct drive {
	struct rpl_netbuf *n;
	char line[4096];
	size_t len;
};

static void on_done(void *arg, enum rpl_netbuf_op op, uint64_t epoch, int r, const struct rpl_err *err)
{
	(void)arg;
	(void)printf("done %s %" PRIu64 " %d %s\n", rpl_netbuf_op_name(op), epoch, r, err->msg);
}

static void on_event(void *arg, int r, const char *msg)
{
	(void)arg;
	(void)printf("event %d %s\n", r, msg);
}

static void print_status(const struct rpl_netbuf_status *s)
{
	(void)printf("status attached=%d holding=%d shut=%d ports=%u held_frames=%" PRIu64 " held_bytes=%" PRIu64
		     " sealed=%" PRIu64 " released=%" PRIu64 " passed_frames=%" PRIu64 " dropped_frames=%" PRIu64 "\n",
		     s->attached, s->holding, s->shut, s->ports, s->held_frames, s->held_bytes, s->sealed_epoch,
		     s->released_epoch, s->passed_frames, s->dropped_frames);
}

static void interfaces(struct drive *d, char *words)
{
	const char *names[RPL_NETBUF_INTERFACES_MAX + 2] = { NULL };
	struct rpl_err err = { 0 };
	char *save = NULL;
	size_t n = 0;
	int r;

	for (char *w = strtok_r(words, " ", &save); w && n <= RPL_NETBUF_INTERFACES_MAX; w = strtok_r(NULL, " ", &save))
		names[n++] = w;
	r = rpl_netbuf_interfaces(d->n, names, &err);
	(void)printf("done interfaces 0 %d %s\n", r, err.msg);
}

static int command(struct drive *d, char *line)
{
	char *rest = strchr(line, ' ');
	uint64_t epoch;

	if (rest)
		*rest++ = '\0';
	epoch = rest ? strtoull(rest, NULL, 10) : 0;
	if (strcmp(line, "attach") == 0)
		rpl_netbuf_attach(d->n);
	else if (strcmp(line, "hold") == 0)
		rpl_netbuf_hold(d->n);
	else if (strcmp(line, "seal") == 0)
		rpl_netbuf_seal(d->n, epoch);
	else if (strcmp(line, "release") == 0)
		rpl_netbuf_release(d->n, epoch);
	else if (strcmp(line, "open") == 0)
		rpl_netbuf_open(d->n);
	else if (strcmp(line, "drop") == 0)
		rpl_netbuf_drop(d->n);
	else if (strcmp(line, "shut") == 0)
		rpl_netbuf_shut(d->n);
	else if (strcmp(line, "status") == 0)
		print_status(rpl_netbuf_status(d->n));
	else if (strcmp(line, "interfaces") == 0)
		interfaces(d, rest ? rest : line + strlen(line));
	else
		return -EINVAL;
	return 0;
}

static void on_input(struct ev_loop *loop, struct ev_io *w, int revents)
{
	struct drive *d = w->data;
	ssize_t got = read(STDIN_FILENO, d->line + d->len, sizeof(d->line) - 1 - d->len);
	char *end;

	(void)revents;
	if (got <= 0) {
		ev_break(loop, EVBREAK_ALL);
		return;
	}
	d->len += (size_t)got;
	d->line[d->len] = '\0';
	while ((end = strchr(d->line, '\n'))) {
		*end++ = '\0';
		if (command(d, d->line) < 0) {
			(void)fprintf(stderr, "netbuf_drive: '%s'?\n", d->line);
			exit(2);
		}
		d->len -= (size_t)(end - d->line);
		memmove(d->line, end, d->len + 1);
	}
}

int main(int argc, char **argv)
{
	struct rpl_netbuf_conf conf = { 0 };
	struct ev_loop *loop = ev_default_loop(0);
	struct rpl_err err = { 0 };
	struct drive d = { .len = 0 };
	struct ev_io io;
	int at = 3;

	if (argc < 3) {
		(void)fprintf(stderr, "usage: netbuf_drive BACKEND VM [-l LIMIT] [INTERFACE]...\n");
		return 2;
	}
	conf.backend = argv[1];
	conf.vm = argv[2];
	if (argc > 4 && strcmp(argv[3], "-l") == 0) {
		conf.hold_bytes_max = (uint32_t)strtoul(argv[4], NULL, 10);
		at = 5;
	}
	conf.interfaces = at < argc ? (const char *const *)&argv[at] : NULL;
	(void)setvbuf(stdout, NULL, _IOLBF, 0);
	d.n = rpl_netbuf_new(&conf, loop, on_done, on_event, &d, &err);
	if (!d.n) {
		(void)printf("refused %s\n", err.msg);
		return 1;
	}
	ev_io_init(&io, on_input, STDIN_FILENO, EV_READ);
	io.data = &d;
	ev_io_start(loop, &io);
	(void)ev_run(loop, 0);
	rpl_netbuf_free(d.n);
	ev_loop_destroy(loop);
	return 0;
}
