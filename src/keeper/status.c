/* status.c - what people and scripts are told: the status document, events, log lines */
#include "keeper.h"

#include <stdio.h>
#include <time.h>

#include <replicad/clock.h>
#include <replicad/control.h>
#include <replicad/fault.h>
#include <replicad/log.h>

static void time_text(char ret[32])
{
	time_t now = time(NULL);
	struct tm tm;

	(void)gmtime_r(&now, &tm);
	(void)strftime(ret, 32, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

static bool primary_state(enum rpl_state s)
{
	return s >= RPL_ST_P_SOLO && s <= RPL_ST_P_DEPOSED;
}

static const char *role(const struct keeper *k)
{
	if (!k->started || k->core.state <= RPL_ST_IDLE)
		return k->standby.ready || k->standby.starting ? "backup" : "none";
	return primary_state(k->core.state) ? "primary" : "backup";
}

static void put(json_t *doc, const char *key, uint64_t value)
{
	(void)json_object_set_new(doc, key, json_integer((json_int_t)value));
}

static void put_text(json_t *doc, const char *key, const char *value)
{
	if (value && *value)
		(void)json_object_set_new(doc, key, json_string(value));
}

static void put_yes(json_t *doc, const char *key, bool value)
{
	(void)json_object_set_new(doc, key, json_boolean(value));
}

static uint64_t ms_between(uint64_t from, uint64_t to)
{
	return from && to > from ? (to - from) / RPL_MS : 0;
}

/* Generations only grow: the greater of the two is the later. */
static uint64_t generation(const struct keeper *k)
{
	uint64_t read = k->core.rec_known ? k->core.rec.generation : 0;

	return read > k->told_generation ? read : k->told_generation;
}

static void put_identity(const struct keeper *k, json_t *doc)
{
	char uuid[RPL_UUID_TEXT];

	put_text(doc, "vm", k->conf.vm);
	if (!rpl_uuid_is_zero(&k->conf.core.vm))
		put_text(doc, "uuid", rpl_uuid_text(&k->conf.core.vm, uuid));
	put_text(doc, "node", k->conf.core.self);
	put_text(doc, "peer", k->conf.core.peer);
	put_text(doc, "role", role(k));
	put_text(doc, "state", k->started ? rpl_state_name(k->core.state) : k->refused[0] ? "REFUSED" : "STARTING");
	put_text(doc, "since", k->since);
	put_text(doc, "reason", k->reason);
	put_text(doc, "refused", k->refused);
	put_yes(doc, "wanted", k->core.want);
	if (!rpl_uuid_is_zero(&k->core.session))
		put_text(doc, "session", rpl_uuid_text(&k->core.session, uuid));
	put(doc, "generation", generation(k));
	put(doc, "epoch", k->core.epoch);
	put(doc, "acked", primary_state(k->core.state) ? k->core.acked : k->core.replica);
}

int keeper_bulk_percent(const struct keeper *k)
{
	const struct rpl_mover_counters *c = movers_counters(k->movers);
	uint64_t total = c->bulk_pages_total, sent = c->bulk_pages;

	if (k->core.state != RPL_ST_P_SYNC && k->core.state != RPL_ST_B_SEED)
		return -1;
	return total == 0 || !movers_running(k->movers) ? 0 : sent >= total ? 100 : (int)(sent * 100 / total);
}

static void put_checkpoints(const struct keeper *k, json_t *doc)
{
	const struct rpl_mover_counters *c = movers_counters(k->movers);
	const struct rpl_hist *h = &k->checkpoint.pauses;
	int percent = keeper_bulk_percent(k);

	put(doc, "checkpoints", k->checkpoints);
	if (h->count) {
		put(doc, "pause_p50_us", rpl_hist_quantile(h, 500) / 1000);
		put(doc, "pause_p99_us", rpl_hist_quantile(h, 990) / 1000);
		put(doc, "pause_max_us", h->max_ns / 1000);
		put(doc, "dirty_pages_avg", k->dirty_pages_sum / h->count);
	}
	put(doc, "dirty_pages_last", c->last_dirty_pages);
	put(doc, "scan_us", c->scan_ns / 1000);
	put(doc, "copy_us", c->copy_ns / 1000);
	put(doc, "encode_us", c->encode_ns / 1000);
	put(doc, "raw_bytes", c->raw_bytes);
	put(doc, "wire_bytes", c->wire_bytes);
	if (primary_state(k->core.state)) {
		put(doc, "delta_pages", c->delta_pages);
		put(doc, "same_pages", c->same_pages);
	}
	if (percent >= 0)
		put(doc, "bulk_percent", (uint64_t)percent);
	if (k->acked_at_ns && primary_state(k->core.state))
		put(doc, "lag_ms", ms_between(k->acked_at_ns, rpl_now_ns()));
}

static void put_safety(const struct keeper *k, json_t *doc)
{
	static const char *const tls[] = { [RPL_TLS_NONE] = "none", [RPL_TLS_PSK] = "psk", [RPL_TLS_X509] = "x509" };
	static const char *const durability[] = { [RPL_DURABLE_MEMORY] = "memory", [RPL_DURABLE_JOURNAL] = "journal",
						  [RPL_DURABLE_BOTH] = "both" };
	const struct rpl_netbuf_status *n = rpl_netbuf_status(k->netbuf);
	enum rpl_state s = k->core.state;
	bool covered = s == RPL_ST_P_PROTECTED || (s == RPL_ST_B_READY && !k->standby.no_room[0]);

	if (k->guest_here)
		put_text(doc, "guest", k->paused_by_others ? "stopped" : k->paused ? "paused" : "running");
	put(doc, "held_frames", n->held_frames);
	put(doc, "dropped_frames", n->dropped_frames);
	put_text(doc, "tracker", k->conf.tracker);
	if (k->standby.ready && rpl_guest_info(k->guest)->replica)
		put_text(doc, "replica", rpl_guest_info(k->guest)->replica);
	if (k->standby.ready)
		put_text(doc, "ahead", rpl_guest_info(k->guest)->ahead);
	if (k->standby.ready)
		put_text(doc, "no_room", k->standby.no_room);
	put_text(doc, "netbuf", k->conf.netbuf);
	put_text(doc, "tls", tls[k->conf.tls]);
	put_text(doc, "durability", durability[k->conf.core.durability]);
	if (k->unprotected_ns)
		put(doc, "unprotected_ms", (rpl_now_ns() - k->unprotected_ns) / RPL_MS);
	put_yes(doc, "awaiting_arbiter", s == RPL_ST_P_CLAIM && k->core.claim != RPL_CLAIM_SENT);
	(void)json_object_set_new(doc, "survives",
				  json_pack("{s:b, s:b, s:b}", "primary_crash", covered, "backup_crash",
					    primary_state(s) && s != RPL_ST_P_LOST && s != RPL_ST_P_DEPOSED ? 1 :
													     covered,
					    "both_lose_power", 0));
}

/* 0: the claim was granted to an earlier keeper, or the guest ran when this one came. */
static uint64_t run_us(const struct moments *at)
{
	return at->claim_granted && at->running > at->claim_granted ? (at->running - at->claim_granted) / 1000 : 0;
}

static json_t *takeover(const struct keeper *k)
{
	const struct moments *at = &k->took_over;
	json_t *doc = json_pack("{s:I, s:I, s:I, s:I}", "detect_ms", (json_int_t)ms_between(at->heard, at->suspect), "claim_ms",
			 (json_int_t)ms_between(at->claim_sent, at->claim_granted), "run_ms",
			 (json_int_t)ms_between(at->claim_granted, at->running), "run_us",
			 (json_int_t)run_us(at));

	if (k->blackout_us)
		put(doc, "blackout_us", k->blackout_us);
	return doc;
}

json_t *keeper_status(const struct keeper *k)
{
	json_t *doc = json_object();

	put_identity(k, doc);
	put(doc, "interval_ms", k->conf.core.interval_ns / RPL_MS);
	put_checkpoints(k, doc);
	put_safety(k, doc);
	put(doc, "takeovers", k->takeovers);
	if (k->takeovers)
		(void)json_object_set_new(doc, "takeover", takeover(k));
	return doc;
}

void keeper_tell(struct keeper *k, const char *event, json_t *fields)
{
	json_t *doc = json_pack("{s:s, s:s}", "event", event, "vm", k->conf.vm);

	if (fields)
		(void)json_object_update(doc, fields);
	json_decref(fields);
	control_event(k->control, doc);
}

void keeper_alarm(struct keeper *k, const char *reason)
{
	rpl_log(RPL_LOG_WARNING, "vm=%s state=%s alarm=\"%s\"", k->conf.vm, rpl_state_name(k->core.state), reason);
	if (k->control)
		keeper_tell(k, "alarm", json_pack("{s:s, s:s}", "reason", reason, "message", reason));
}

/* A takeover is told when the guest runs, with what it took. */
static void tell_takeover(struct keeper *k)
{
	json_t *fields;

	k->took_over = k->at;
	fields = takeover(k);
	k->takeovers++;
	(void)json_object_set_new(fields, "generation", json_integer((json_int_t)k->core.rec.generation));
	rpl_log(RPL_LOG_INFO, "vm=%s gen=%llu takeover=done run_us=%llu", k->conf.vm,
		(unsigned long long)k->core.rec.generation, (unsigned long long)run_us(&k->took_over));
	keeper_tell(k, "takeover", fields);
}

/* How long a guest that is to be protected is not: told when that ends, shown while it lasts. */
static void tell_protected(struct keeper *k, enum rpl_state to)
{
	uint64_t now = rpl_now_ns();

	if (to == RPL_ST_P_SOLO && k->core.want) {
		k->unprotected_ns = k->unprotected_ns ? k->unprotected_ns : now;
	} else if (to == RPL_ST_P_PROTECTED && k->unprotected_ns) {
		keeper_tell(k, "protected", json_pack("{s:I}", "unprotected_ms",
						      (json_int_t)((now - k->unprotected_ns) / RPL_MS)));
		k->unprotected_ns = 0;
	} else if (to != RPL_ST_P_SYNC && to != RPL_ST_P_ARM) {
		k->unprotected_ns = 0;
	}
}

void keeper_tell_state(struct keeper *k, const struct rpl_action *a)
{
	enum rpl_state from = a->u.state.from, to = a->u.state.to;
	char session[RPL_UUID_TEXT];

	k->reason = rpl_reason_text(a->u.state.reason);
	time_text(k->since);
	(void)rpl_uuid_text(&k->core.session, session);
	rpl_log(RPL_LOG_INFO, "vm=%s gen=%llu sess=%.8s epoch=%llu from=%s to=%s reason=\"%s\"", k->conf.vm,
		(unsigned long long)k->core.rec.generation, session, (unsigned long long)k->core.epoch,
		rpl_state_name(from), rpl_state_name(to), k->reason);
	keeper_tell(k, "state",
		    json_pack("{s:s, s:s, s:s, s:b, s:I, s:s, s:I, s:s}", "from", rpl_state_name(from), "to",
			      rpl_state_name(to), "role", role(k), "wanted", (int)k->core.want, "gen",
			      (json_int_t)k->core.rec.generation, "sess", session, "epoch", (json_int_t)k->core.epoch,
			      "reason", k->reason));
	if (to == RPL_ST_P_DEPOSED && a->u.state.reason == RPL_WHY_HANDED_OVER)
		k->handed_generation = k->core.rec.generation - 1; /* the heir's claim is the one after */
	if (to == RPL_ST_P_DEPOSED && k->heard_blackout_us)
		standby_tell_switchover(k, k->heard_blackout_us);
	k->heard_blackout_us = to == RPL_ST_P_DRAIN ? k->heard_blackout_us : 0;
	if ((from == RPL_ST_B_PROMOTE || k->heir) && to == RPL_ST_P_SOLO) {
		k->heir = false;
		tell_takeover(k);
	}
	tell_protected(k, to);
	keeper_past_save(k);
	if (to == RPL_ST_P_DRAIN)
		rpl_fault_die(RPL_FAULT_DIE_DRAIN);
	if (to == RPL_ST_IDLE && (from != RPL_ST_START || (!k->conf.standby_role && !k->guest_here)))
		keeper_rest(k, a->u.state.reason);
}
