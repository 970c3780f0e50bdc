/* client.c - an arbiter's operations from standard input, their outcomes as lines of JSON
 *
 *   client BACKEND LOCATION TIMEOUT_MS [CA CERT KEY]
 *
 * Commands, one a line; the record that was read or won last is what a claim starts from:
 *   read            read
 *   claim OWNER     swap to the next generation, with a fresh nonce
 *   again           the very claim that was made last, once more
 *   stranger        swap from a record that nobody ever wrote
 * Each is answered by {"outcome","ms","gap_ms","error"} and, if there is a record, "generation", "owner" and "ours": it is
 * the one that we tried to write last. gap_ms is the longest time in which the loop did not turn, without
 * that in which this process had to wait for a processor.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ev.h>
#include <jansson.h>

#include <replicad/arbiter.h>
#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/io.h>

#define LINE_MAX_BYTES 256
#define TICK_S 0.002

struct client {
	struct ev_loop *loop;
	struct rpl_arbiter *arbiter;
	struct ev_timer tick;
	uint64_t begun_ns, ticked_ns, waited_ns, gap_ns;
	bool present;
	struct rpl_record last, expect, want;
	bool want_absent;
};

/* For a processor, since the process began; 0 where the kernel does not count that. */
static uint64_t waited_ns(void)
{
	RPL_AUTO_FREE char *text = NULL;
	uint64_t ran = 0, waited = 0;

	if (rpl_read_file("/proc/self/schedstat", LINE_MAX_BYTES, &text, NULL, NULL) < 0 ||
	    sscanf(text, "%" SCNu64 " %" SCNu64, &ran, &waited) != 2)
		return 0;
	return waited;
}

static void on_tick(struct ev_loop *loop, struct ev_timer *w, int revents)
{
	struct client *c = w->data;
	uint64_t waited = waited_ns(), now = rpl_now_ns(), gap = now - c->ticked_ns;

	(void)loop;
	(void)revents;
	gap -= waited - c->waited_ns < gap ? waited - c->waited_ns : gap;
	if (gap > c->gap_ns)
		c->gap_ns = gap;
	c->ticked_ns = now;
	c->waited_ns = waited;
}

static void on_done(void *arg, enum rpl_arbiter_outcome outcome, const struct rpl_record *record,
		    const struct rpl_err *err)
{
	static const char *const names[] = { "ok", "none", "refused", "unknown" };
	struct client *c = arg;
	json_t *o;

	on_tick(c->loop, &c->tick, 0);
	o = json_pack("{s:s, s:I, s:I, s:s}", "outcome", names[outcome], "ms",
		      (json_int_t)((rpl_now_ns() - c->begun_ns) / RPL_MS), "gap_ms", (json_int_t)(c->gap_ns / RPL_MS), "error",
		      outcome == RPL_ARBITER_UNKNOWN ? err->msg : "");
	if (record) {
		(void)json_object_set_new(o, "generation", json_integer((json_int_t)record->generation));
		(void)json_object_set_new(o, "owner", json_string(record->owner));
		(void)json_object_set_new(o, "ours", json_boolean(rpl_record_equal(record, &c->want)));
		c->last = *record;
	}
	if (outcome != RPL_ARBITER_UNKNOWN)
		c->present = record != NULL;
	(void)json_dumpf(o, stdout, JSON_COMPACT);
	(void)putchar('\n');
	(void)fflush(stdout);
	json_decref(o);
	ev_break(c->loop, EVBREAK_ALL);
}

static void make_claim(struct client *c, const char *owner, bool stranger)
{
	c->want_absent = !c->present && !stranger;
	c->expect = c->last;
	if (stranger)
		rpl_uuid_random(&c->expect.nonce);
	c->want = c->expect;
	c->want.generation = c->want_absent ? 1 : c->expect.generation + 1;
	rpl_uuid_random(&c->want.nonce);
	memset(c->want.owner, 0, sizeof(c->want.owner));
	(void)snprintf(c->want.owner, sizeof(c->want.owner), "%s", owner);
}

static int command(struct client *c, char *line, struct rpl_err *err)
{
	line[strcspn(line, "\n")] = '\0';
	if (strcmp(line, "read") == 0)
		return rpl_arbiter_read(c->arbiter, &c->last.vm, err);
	if (strncmp(line, "claim ", 6) == 0)
		make_claim(c, line + 6, false);
	else if (strcmp(line, "stranger") == 0)
		make_claim(c, "stranger", true);
	else if (strcmp(line, "again") != 0)
		return rpl_fail(err, -1, "no such command: %s", line);
	return rpl_arbiter_cas(c->arbiter, c->want_absent ? NULL : &c->expect, &c->want, err);
}

int main(int argc, char **argv)
{
	struct client c = { .loop = ev_loop_new(0) };
	struct rpl_arbiter_conf conf = { .cluster = "test" };
	struct rpl_err err = { 0 };
	char line[LINE_MAX_BYTES];

	if (argc != 4 && argc != 7) {
		(void)fprintf(stderr, "usage: client BACKEND LOCATION TIMEOUT_MS [CA CERT KEY]\n");
		return 2;
	}
	conf.backend = argv[1];
	conf.location = argv[2];
	conf.timeout_ms = (unsigned)atoi(argv[3]);
	if (argc == 7) {
		conf.ca = argv[4];
		conf.cert = argv[5];
		conf.key = argv[6];
	}
	c.last = (struct rpl_record){ .format = RPL_RECORD_FORMAT, .mode = RPL_MODE_SOLO, .generation = 1 };
	memset(c.last.vm.b, 0x11, sizeof(c.last.vm.b));
	c.arbiter = rpl_arbiter_new(&conf, c.loop, on_done, &c, &err);
	if (!c.arbiter) {
		(void)fprintf(stderr, "%s\n", err.msg);
		return 1;
	}
	ev_timer_init(&c.tick, on_tick, TICK_S, TICK_S);
	c.tick.data = &c;
	while (fgets(line, sizeof(line), stdin)) {
		c.begun_ns = c.ticked_ns = rpl_now_ns();
		c.waited_ns = waited_ns();
		c.gap_ns = 0;
		if (command(&c, line, &err) < 0) {
			(void)fprintf(stderr, "%s\n", err.msg);
			return 1;
		}
		ev_now_update(c.loop);
		ev_timer_start(c.loop, &c.tick);
		(void)ev_run(c.loop, 0);
		ev_timer_stop(c.loop, &c.tick);
	}
	rpl_arbiter_free(c.arbiter);
	ev_loop_destroy(c.loop);
	return 0;
}
