#include "conf.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <replicad/auto.h>
#include <replicad/clock.h>
#include <replicad/control.h>
#include <replicad/io.h>

#define CONF_BYTES_MAX (256 * 1024)
#define RETRY_MS 500       /* arbiter away, session refused, guest failed: ask again */
#define DRAIN_TIMEOUT_MS 5000
#define COLD_DELAY_MS 10000

/* Reads fields and remembers the first that is missing or of the wrong type. */
struct reader {
	const json_t *object;
	const char *section;
	struct rpl_err *err;
	int r;
};

static const json_t *field(struct reader *rd, const char *name, bool right_type)
{
	const json_t *v = json_object_get(rd->object, name);

	if (v && right_type)
		return v;
	if (!rd->r)
		rd->r = rpl_fail(rd->err, -EINVAL, "keeper.json: %s.%s is %s", rd->section, name,
				 v ? "of the wrong type" : "missing");
	return NULL;
}

static const char *string(struct reader *rd, const char *name)
{
	const json_t *v = field(rd, name, json_is_string(json_object_get(rd->object, name)));

	return v ? json_string_value(v) : "";
}

static unsigned number(struct reader *rd, const char *name)
{
	const json_t *v = field(rd, name, json_is_integer(json_object_get(rd->object, name)));

	return v ? (unsigned)json_integer_value(v) : 0;
}

static bool yes(struct reader *rd, const char *name)
{
	const json_t *v = field(rd, name, json_is_boolean(json_object_get(rd->object, name)));

	return v && json_boolean_value(v);
}

static uint64_t ms(struct reader *rd, const char *name)
{
	return number(rd, name) * RPL_MS;
}

/* One of the words of a fixed list; its index. */
static unsigned word(struct reader *rd, const char *name, const char *const *words, unsigned n)
{
	const char *v = string(rd, name);

	for (unsigned i = 0; i < n; i++)
		if (!strcmp(v, words[i]))
			return i;
	if (!rd->r)
		rd->r = rpl_fail(rd->err, -EINVAL, "keeper.json: %s.%s is '%s'", rd->section, name, v);
	return 0;
}

static void read_vm(struct keeper_conf *c, struct reader *rd)
{
	static const char *const durabilities[] = { "memory", "journal", "both" };
	static const char *const on_crash[] = { "keep", "down" };
	const char *uuid;

	c->backend = string(rd, "backend");
	c->qmp = string(rd, "qmp");
	c->standby = string(rd, "standby");
	c->replica = string(rd, "replica");
	c->standby_user = string(rd, "standby_user");
	c->tracker = string(rd, "tracker");
	c->audit = yes(rd, "audit");
	c->netbuf = string(rd, "netbuf");
	c->relay = string(rd, "relay");
	c->interfaces = string(rd, "interfaces");
	c->hold_mb = number(rd, "hold_mb");
	c->disk = string(rd, "disk");
	c->core.reprotect = yes(rd, "reprotect");
	c->insecure = yes(rd, "insecure");
	c->heartbeat_ms = number(rd, "heartbeat_ms");
	c->arena_mb = number(rd, "arena_mb");
	c->delta_cache_mb = number(rd, "delta_cache_mb");
	c->op_timeout_ms = number(rd, "op_timeout_ms");
	c->core.durability = word(rd, "durability", durabilities, RPL_ARRAY_LEN(durabilities));
	c->core.on_crash = word(rd, "on_crash", on_crash, RPL_ARRAY_LEN(on_crash));
	c->core.max_uncommitted = number(rd, "max_uncommitted");
	c->core.max_held = UINT32_MAX; /* until the buffer is there, which says */
	c->core.interval_ns = ms(rd, "interval_ms");
	c->core.stall_ns = ms(rd, "stall_ms");
	c->core.suspect_ns = ms(rd, "suspect_ms");
	c->core.takeover_delay_ns = ms(rd, "takeover_delay_ms");
	c->core.arm_timeout_ns = ms(rd, "arm_timeout_ms");
	uuid = string(rd, "uuid"); /* "": whatever the guest says */
	if (!rd->r && *uuid && rpl_uuid_parse(uuid, &c->core.vm, rd->err) < 0)
		rd->r = rpl_prefix(rd->err, "keeper.json: %s.uuid", rd->section);
}

static void read_agent(struct keeper_conf *c, struct reader *rd)
{
	static const char *const tls[] = { "none", "psk", "x509" };
	const char *level = string(rd, "log_level");

	c->arbiter = string(rd, "arbiter");
	c->arbiter_location = string(rd, "arbiter_location");
	c->arbiter_ca = string(rd, "arbiter_ca");
	c->arbiter_cert = string(rd, "arbiter_cert");
	c->arbiter_key = string(rd, "arbiter_key");
	c->arbiter_insecure = yes(rd, "insecure");
	c->arbiter_timeout_ms = number(rd, "arbiter_timeout_ms");
	c->cluster = string(rd, "cluster");
	c->keys = string(rd, "keys");
	c->x509_dir = string(rd, "x509_dir");
	c->identity = string(rd, "identity");
	c->mover_user = string(rd, "mover_user");
	c->tls = (enum rpl_tls)word(rd, "tls", tls, RPL_ARRAY_LEN(tls));
	c->insecure = c->insecure || yes(rd, "insecure");
	if (!rd->r && rpl_log_level(level) < 0)
		rd->r = rpl_fail(rd->err, -EINVAL, "keeper.json: %s.log_level is '%s'", rd->section, level);
	c->log_level = (enum rpl_log_level)rpl_log_level(level);
	(void)snprintf(c->core.self, sizeof(c->core.self), "%s", string(rd, "node"));
}

static void read_peer(struct keeper_conf *c, struct reader *rd)
{
	c->peer_name = string(rd, "name");
	c->peer_address = string(rd, "address");
	c->peer_identity = string(rd, "identity");
	(void)snprintf(c->core.peer, sizeof(c->core.peer), "%s", c->peer_name);
}

int keeper_conf_load(const char *dir, struct keeper_conf *ret, struct rpl_err *err)
{
	RPL_AUTO_FREE char *path = NULL, *text = NULL;
	struct keeper_conf c = { 0 };
	struct reader rd = { .section = "top", .err = err };
	json_error_t je;
	int r;

	if (asprintf(&path, "%s/" RPL_KEEPER_CONF, dir) < 0)
		return rpl_fail(err, -ENOMEM, "keeper.json: no memory");
	r = rpl_read_file(path, CONF_BYTES_MAX, &text, NULL, err);
	if (r < 0)
		return r;
	c.doc = json_loads(text, JSON_REJECT_DUPLICATES, &je);
	if (!c.doc)
		return rpl_fail(err, -EINVAL, "%s: line %d: %s", path, je.line, je.text);
	rd.object = c.doc;
	c.vm = string(&rd, "vm");
	c.dir = string(&rd, "dir");
	c.standby_role = !strcmp(string(&rd, "role"), "backup");
	rd = (struct reader){ json_object_get(c.doc, "agent"), "agent", err, rd.r };
	read_agent(&c, &rd);
	rd = (struct reader){ json_object_get(c.doc, "config"), "config", err, rd.r };
	read_vm(&c, &rd);
	rd = (struct reader){ json_object_get(c.doc, "peer"), "peer", err, rd.r };
	read_peer(&c, &rd);
	c.core.store = RPL_STORE_NONE;
	c.manual = !strcmp(c.arbiter, "manual");
	c.core.auto_claim = !c.manual; /* nothing comes of suspicion: an operator says who is dead */
	c.core.retry_ns = RETRY_MS * RPL_MS;
	c.core.drain_timeout_ns = DRAIN_TIMEOUT_MS * RPL_MS;
	c.core.cold_delay_ns = COLD_DELAY_MS * RPL_MS;
	r = rd.r ? rd.r : rpl_core_conf_check(&c.core, err);
	if (r < 0) {
		json_decref(c.doc);
		return r;
	}
	*ret = c;
	return 0;
}

void keeper_conf_fini(struct keeper_conf *c)
{
	json_decref(c->doc);
	*c = (struct keeper_conf){ 0 };
}
