/* receive_migrate.c - the far end of `xl migrate`: what arrives is checked and goes on to `xl restore` at once
 *
 *   banner ->            <- xl header, configuration, stream up to END
 *   ready ->             <- go                      from here on the domain is ours
 *   report, status ->
 *
 * Until "go" the domain is NAME--incoming and paused. A failure after "go" destroys our copy before the sender is told
 * that it may go on with its own.
 */
#include "cli.h"
#include "receive.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <replicad/auto.h>
#include <replicad/exit.h>
#include <replicad/stream_convert.h>

#include "../guest/xen_standby_xl.h"

#define OUT_BYTES (256u << 10)

struct migration {
	struct receive *rx;
	struct xl_run xl;
	struct rpl_stream_convert conv;
	struct rpl_stream_sink sink;
	char incoming[RECEIVE_NAME_MAX + sizeof(RECEIVE_INCOMING)];
	char *config;
	struct rpl_err err; /* of the sink */
	uint8_t *buf;
	size_t len;
	bool started, over;
};

static int flush(struct migration *m)
{
	int r = m->len ? xl_feed(&m->xl, m->buf, m->len, &m->err) : 0;

	m->len = 0;
	return r;
}

static int on_bytes(void *ctx, const void *bytes, size_t len)
{
	struct migration *m = ctx;
	const uint8_t *p = bytes;

	while (len) {
		size_t n = OUT_BYTES - m->len;
		int r;

		if (n > len)
			n = len;
		memcpy(m->buf + m->len, p, n);
		m->len += n;
		p += n;
		len -= n;
		r = m->len == OUT_BYTES ? flush(m) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

/* The configuration is complete: xl may begin. */
static int begin(struct migration *m, struct rpl_err *err)
{
	char *const monitor[] = { (char *)"xl", (char *)"restore", (char *)"-p", (char *)XL_STDIN, NULL };
	char *const alone[] = { (char *)"xl", (char *)"restore", (char *)"-p", (char *)"-e", (char *)XL_STDIN, NULL };
	struct rpl_err none;
	uint32_t domid;
	int r = receive_config_check(m->rx, err);

	if (r < 0)
		return r;
	(void)snprintf(m->incoming, sizeof(m->incoming), "%s%s", m->rx->name, RECEIVE_INCOMING);
	if (xl_domid(m->incoming, &domid, &none) == 0)
		return rpl_fail(err, -EEXIST, "domain %u is called %.150s already: what an earlier migration left; destroy it "
				"(xl destroy %u)", domid, m->incoming, domid);
	m->config = receive_config_named(m->rx, m->incoming, err);
	if (!m->config)
		return err->code;
	m->conv.config = m->config;
	m->conv.config_len = strlen(m->config) + 1;
	m->started = true;
	return xl_start(&m->xl, m->rx->no_monitor ? alone : monitor, true, err);
}

static int on_event(void *ctx, const struct rpl_stream_event *ev)
{
	struct migration *m = ctx;
	struct receive *rx = m->rx;
	int r = 0;

	if (ev->kind == RPL_EV_XL_CONFIG)
		stream_config_add(&rx->config, ev);
	if (ev->kind == RPL_EV_LIBXL_HEADER)
		r = begin(m, &m->err);
	rpl_stream_check(&rx->check, ev);
	if (r == 0 && rx->bad.code) {
		m->err = rx->bad;
		return rx->bad.code;
	}
	if (r == 0 && ev->kind == RPL_EV_RECORD && ev->rec.layer == RPL_LAYER_LIBXC && ev->rec.type == RPL_LIBXC_CHECKPOINT)
		r = rpl_fail(&m->err, -EINVAL, "the stream is checkpointed (xl remus), and --remus is not given");
	/* What lies in front of the libxl header is written anew, with the other name. */
	if (r == 0 && ev->kind != RPL_EV_XL_HEADER && ev->kind != RPL_EV_XL_CONFIG)
		r = rpl_stream_convert(&m->conv, ev, &m->err);
	if (r < 0)
		return r;
	/* The sender now waits for us: there is nothing to read. */
	m->over = ev->kind == RPL_EV_RECORD_END && rpl_stream_ending(&rx->run.reader) == RPL_ENDING_COMPLETE;
	return m->over;
}

static int receive_stream(struct migration *m, struct rpl_err *err)
{
	struct receive *rx = m->rx;
	int r = stream_run_events(&rx->run, on_event, NULL, m, err);

	if (r < 0 && m->err.code) {
		*err = m->err; /* ours says more than the loop's */
		return r;
	}
	if (r < 0)
		return r;
	if (!m->over)
		return rpl_fail(err, -EPIPE, "the stream ends at byte %llu without its END: the sender gave up or died",
				(unsigned long long)rx->run.in.offset);
	rpl_stream_check_end(&rx->check, &rx->run.reader, false);
	if (rx->bad.code) {
		*err = rx->bad;
		return err->code;
	}
	r = flush(m);
	if (r < 0)
		*err = m->err;
	return r;
}

/* A stream that xl did not like ends its input: then xl's own words say why. */
static int build(struct migration *m, struct rpl_err *err)
{
	struct rpl_err xl_err;
	int r = receive_stream(m, err);

	if (r == -EPIPE && m->xl.pid > 0 && m->err.code == -EPIPE) {
		if (xl_end(&m->xl, NULL, &xl_err) < 0)
			*err = xl_err;
		return r;
	}
	if (r < 0) {
		xl_abort(&m->xl);
		return r;
	}
	return xl_end(&m->xl, NULL, err);
}

static int take_over(struct migration *m, uint32_t domid, struct rpl_err *err)
{
	int r = receive_await_go(m->rx, err);

	if (r == 0)
		r = xl_rename(domid, m->rx->name, err);
	if (r == 0 && !m->rx->paused)
		r = xl_unpause(domid, err);
	return r;
}

static int hand_over(struct migration *m, struct rpl_err *err)
{
	struct rpl_err late = { 0 };
	uint32_t domid;
	bool gone;
	int r = xl_domid(m->incoming, &domid, err);

	if (r < 0)
		return r;
	r = receive_say_ready(err);
	if (r == 0)
		r = take_over(m, domid, err);
	if (r == 0) {
		/* It runs here, whether the sender hears of it or not. */
		if (receive_say_outcome(0, false, &late) < 0)
			(void)fprintf(stderr, "replicad receive: domain %u runs here, but: %s\n", domid, late.msg);
		return 0;
	}
	gone = xl_destroy(domid, &late) == 0;
	if (!gone)
		(void)fprintf(stderr, "replicad receive: our copy, domain %u, is still there: %s\n", domid, late.msg);
	(void)receive_say_outcome(r, gone, &late);
	return r;
}

int receive_migration(struct receive *rx)
{
	struct migration m = { .rx = rx, .xl = XL_RUN_NONE };
	struct rpl_err err = { 0 };
	int r;

	rx->run.in.silence_ms = rx->silence_ms;
	m.sink = (struct rpl_stream_sink){ .ctx = &m, .write = on_bytes };
	m.conv = (struct rpl_stream_convert){ .to = RPL_FORMAT_XL, .sink = &m.sink };
	m.buf = malloc(OUT_BYTES);
	r = m.buf ? build(&m, &err) : rpl_fail(&err, -ENOMEM, "no memory for %u bytes", OUT_BYTES);
	if (r < 0) {
		uint32_t domid;
		struct rpl_err late;

		/* xl destroys what it could not build; one that was killed did not come so far. */
		if (m.started && xl_domid(m.incoming, &domid, &late) == 0)
			(void)xl_destroy(domid, &late);
	} else {
		r = hand_over(&m, &err);
	}
	if (r == 0)
		(void)fprintf(stderr, "replicad receive: domain %s is here%s\n", rx->name, rx->paused ? ", paused" : " and runs");
	free(m.config);
	free(m.buf);
	return r == 0 ? RPL_EXIT_DONE : rpl_cli_fail("receive", RPL_EXIT_FAILED, "%s", err.msg);
}
