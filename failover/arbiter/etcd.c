/* Arbiter `etcd`: the register is a key of an etcd, spoken to over HTTP in the loop.
 *
 * A read is one range; a swap is one transaction from exactly what was read (etcd_text.h). Endpoints are tried in order,
 * beginning with the one that answered last. A request that cannot do harm is sent to the next one after any failure: a
 * read always, a transaction only while none of it has left our hands. A transaction that may have arrived and has no
 * whole answer ends the operation as UNKNOWN: the core reads again (R6), and knows that it may still land after that read.
 *
 * All endpoints must be of one etcd: two would be two registers. The first answer fixes which; no endpoint is sent a
 * transaction before a read there has shown that it is of that one.
 *
 * No leases and no locks: both end by a clock, and a clock takes no part in safety.
 */
#include "arbiter_ops.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ev.h>

#include <replicad/auto.h>
#include <replicad/clock.h>

#include "endpoints.h"
#include "etcd_text.h"
#include "http.h"

#define SHARE_MIN_MS 50 /* what an endpoint gets at least, when the time left is shared among those not yet tried */
#define ANEW_MAX 3      /* swaps begun again in one operation, since somebody wrote the same record once more */

struct etcd {
	struct rpl_arbiter *a;
	struct ev_loop *loop;
	struct rpl_http *http;
	struct rpl_endpoints endpoints;
	char cluster[RPL_ARBITER_CLUSTER_MAX + 1];
	unsigned timeout_ms;

	/* what was learnt */
	uint64_t cluster_id;               /* 0: nobody has answered yet */
	bool verified[RPL_ENDPOINTS_MAX];  /* it answered as a member of that cluster */
	unsigned first;                    /* the endpoint that answered last */
	bool seen_any;
	struct rpl_uuid seen_vm;
	struct rpl_etcd_value seen;        /* the key of seen_vm, when it was last read or written */

	/* the operation under way */
	const struct rpl_arbiter_ask *ask;
	uint64_t until_ns;
	unsigned tried, anew;
	bool swapping;                     /* the request under way is the transaction */
	char key[RPL_ETCD_KEY_MAX], request[RPL_ETCD_REQUEST_MAX];
	struct rpl_err could_not_start, last_failure;
	struct ev_timer timeout;           /* the end of the operation, whatever happens */
};

static unsigned current(const struct etcd *e)
{
	return (e->first + e->tried) % e->endpoints.n;
}

static void finish(struct etcd *e, enum rpl_arbiter_outcome outcome, const struct rpl_record *record,
		   const struct rpl_err *err)
{
	struct rpl_record kept; /* whoever is told may free us */

	ev_timer_stop(e->loop, &e->timeout);
	e->ask = NULL;
	if (record)
		kept = *record;
	rpl_arbiter_finish(e->a, outcome, record ? &kept : NULL, err);
}

static void finish_unknown(struct etcd *e, struct rpl_err *err)
{
	(void)rpl_prefix(err, "arbiter etcd %s", e->endpoints.url[current(e)]);
	finish(e, RPL_ARBITER_UNKNOWN, NULL, err);
}

/* ---- asking */

/* Do we know what is there, so that one transaction from it is enough? */
static bool knows_expected(const struct etcd *e)
{
	if (!e->seen_any || !e->verified[current(e)] || !rpl_uuid_equal(&e->seen_vm, &e->ask->vm))
		return false;
	return e->ask->absent ? !e->seen.present :
				e->seen.present && rpl_record_equal(&e->seen.record, &e->ask->expect);
}

static int send_request(struct etcd *e, struct rpl_err *err)
{
	uint64_t now = rpl_now_ns();
	long left = e->until_ns > now ? (long)((e->until_ns - now) / RPL_MS) + 1 : 1;
	long share = left / (long)(e->endpoints.n - e->tried);
	char url[RPL_ENDPOINT_MAX + 16];
	int n;

	if (share < SHARE_MIN_MS)
		share = SHARE_MIN_MS;
	e->swapping = e->ask->cas && knows_expected(e);
	if (e->swapping)
		n = rpl_etcd_write_txn(e->key, &e->seen, &e->ask->want, e->request, err);
	else
		n = rpl_etcd_write_range(e->key, e->request, err);
	if (n < 0)
		return n;
	(void)snprintf(url, sizeof(url), "%s/v3/kv/%s", e->endpoints.url[current(e)], e->swapping ? "txn" : "range");
	return rpl_http_post(e->http, url, e->request, (size_t)n, share, e->swapping ? left : share, err);
}

static void send_or_fail(struct etcd *e)
{
	struct rpl_err err = { 0 };

	if (send_request(e, &err) < 0)
		finish_unknown(e, &err);
}

/* This endpoint is of no use now: the next one, if there is one. */
static void try_next(struct etcd *e, struct rpl_err *err)
{
	e->last_failure = *err;
	if (e->tried + 1 == e->endpoints.n) {
		finish_unknown(e, err);
		return;
	}
	e->tried++;
	send_or_fail(e);
}

/* ---- answers */

static int check_cluster(struct etcd *e, uint64_t id, struct rpl_err *err)
{
	if (e->cluster_id && e->cluster_id != id)
		return rpl_fail(err, -EBADMSG, "is of etcd cluster %" PRIx64 ", another endpoint of %" PRIx64
				": arbiter_location must name members of one cluster", id, e->cluster_id);
	e->cluster_id = id;
	e->verified[current(e)] = true;
	return 0;
}

static void remember(struct etcd *e, const struct rpl_etcd_value *now)
{
	e->seen_any = true;
	e->seen_vm = e->ask->vm;
	e->seen = *now;
	e->first = current(e);
	e->tried = 0;
}

/* A swap, and what is there is in e->seen: decide, or swap from it. */
static void go_on_swapping(struct etcd *e)
{
	struct rpl_err err = { 0 };

	if (e->seen.present && rpl_record_equal(&e->seen.record, &e->ask->want)) {
		finish(e, RPL_ARBITER_OK, &e->seen.record, NULL); /* an earlier copy of this very claim landed */
	} else if (knows_expected(e) && e->anew++ < ANEW_MAX) {
		send_or_fail(e);
	} else if (knows_expected(e)) {
		(void)rpl_fail(&err, -EAGAIN, "key %s: the same record was written again %d times meanwhile", e->key,
			       ANEW_MAX);
		finish_unknown(e, &err);
	} else if (e->seen.present) {
		finish(e, RPL_ARBITER_REFUSED, &e->seen.record, NULL);
	} else {
		(void)rpl_fail(&err, -ENOENT, "key %s: is gone, although generation %" PRIu64 " was expected: was it removed "
			       "by hand?", e->key, e->ask->expect.generation);
		finish_unknown(e, &err);
	}
}

static void on_range(struct etcd *e, const struct rpl_http_answer *http)
{
	struct rpl_etcd_answer got;
	struct rpl_err err = { 0 };

	if (rpl_etcd_read_range(http->body, http->len, e->key, &e->ask->vm, &got, &err) < 0 ||
	    check_cluster(e, got.cluster_id, &err) < 0) {
		try_next(e, &err);
		return;
	}
	remember(e, &got.now);
	if (e->ask->cas)
		go_on_swapping(e);
	else
		finish(e, got.now.present ? RPL_ARBITER_OK : RPL_ARBITER_NONE, got.now.present ? &got.now.record : NULL,
		       NULL);
}

static void on_txn(struct etcd *e, const struct rpl_http_answer *http)
{
	struct rpl_etcd_answer got;
	struct rpl_err err = { 0 };

	if (rpl_etcd_read_txn(http->body, http->len, e->key, &e->ask->want, &got, &err) < 0 ||
	    check_cluster(e, got.cluster_id, &err) < 0) {
		finish_unknown(e, &err);
		return;
	}
	remember(e, &got.now);
	if (got.swapped)
		finish(e, RPL_ARBITER_OK, &got.now.record, NULL);
	else
		go_on_swapping(e);
}

static void on_answer(void *arg, const struct rpl_http_answer *http)
{
	struct rpl_err err = http->err;
	struct etcd *e = arg;

	if (http->r == 0 && http->status == 200) {
		if (e->swapping)
			on_txn(e, http);
		else
			on_range(e, http);
		return;
	}
	if (http->r == 0)
		(void)rpl_etcd_read_refusal(http->status, http->body, http->len, &err);
	if (e->swapping && (http->r == 0 || http->maybe_sent))
		finish_unknown(e, &err);
	else
		try_next(e, &err);
}

/* The time is over, or (could_not_start) nothing could be begun. */
static void timeout_cb(struct ev_loop *loop, struct ev_timer *w, int revents)
{
	struct etcd *e = w->data;
	struct rpl_err err = e->could_not_start;

	(void)loop;
	(void)revents;
	if (err.code == 0) {
		bool sent = rpl_http_cancel(e->http);

		(void)rpl_fail(&err, -ETIMEDOUT, "%s %s, no answer within %u ms%s%s", e->swapping ? "a claim" : "a read",
			       sent ? "was sent" : "could not be sent", e->timeout_ms,
			       e->last_failure.code ? "; before: " : "", e->last_failure.code ? e->last_failure.msg : "");
	}
	finish_unknown(e, &err);
}

/* ---- operations */

static void etcd_start(void *self, const struct rpl_arbiter_ask *ask)
{
	struct etcd *e = self;

	e->ask = ask;
	e->until_ns = rpl_now_ns() + e->timeout_ms * RPL_MS;
	e->tried = e->anew = 0;
	e->could_not_start.code = e->last_failure.code = 0;
	rpl_etcd_key(e->cluster, &ask->vm, e->key);
	ev_now_update(e->loop);
	ev_timer_set(&e->timeout, send_request(e, &e->could_not_start) == 0 ? e->timeout_ms / 1000.0 : 0, 0);
	ev_timer_start(e->loop, &e->timeout);
}

static void etcd_fini(void *self)
{
	struct etcd *e = self;

	ev_timer_stop(e->loop, &e->timeout);
	rpl_http_free(e->http);
	free(e);
}

static int etcd_init(struct rpl_arbiter *a, const struct rpl_arbiter_conf *conf, struct ev_loop *loop, void **ret_self,
		     struct rpl_err *err)
{
	struct rpl_http_conf hc = { .ca = conf->ca, .cert = conf->cert, .key = conf->key,
				    .answer_max = RPL_ETCD_ANSWER_MAX };
	struct etcd *e = calloc(1, sizeof(*e));

	if (!e)
		return rpl_fail(err, -ENOMEM, "arbiter etcd: no memory");
	e->a = a;
	e->loop = loop;
	e->timeout_ms = conf->timeout_ms;
	(void)snprintf(e->cluster, sizeof(e->cluster), "%s", conf->cluster);
	ev_init(&e->timeout, timeout_cb);
	e->timeout.data = e;
	if (rpl_endpoints_parse(conf->location ? conf->location : "", conf->insecure, &e->endpoints, err) == 0)
		e->http = rpl_http_new(&hc, loop, on_answer, e, err);
	if (!e->http) {
		free(e);
		return rpl_prefix(err, "arbiter etcd");
	}
	*ret_self = e;
	return 0;
}

const struct rpl_arbiter_ops rpl_arbiter_etcd = {
	.name = "etcd",
	.init = etcd_init,
	.start = etcd_start,
	.fini = etcd_fini,
};
