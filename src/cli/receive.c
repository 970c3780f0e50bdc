/* receive.c - the handshake of `xl migrate-receive`, byte for byte, and the configuration that it brings */
#include "receive.h"
#include "xl_handshake.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>
#include <replicad/auto.h>
#include <replicad/io.h>

#include "../guest/xen_standby_xl.h"

static const char banner[] = XL_BANNER, ready[] = XL_READY, go[] = XL_GO, report[] = XL_REPORT;

static int say(const void *msg, size_t len, const char *what, struct rpl_err *err)
{
	int r = rpl_write_full(STDOUT_FILENO, msg, len);

	return r < 0 ? rpl_fail_errno(err, -r, "tell the sender: %s", what) : 0;
}

int receive_say_banner(struct rpl_err *err)
{
	return say(banner, XL_BANNER_LEN, "ready for the stream", err);
}

int receive_say_ready(struct rpl_err *err)
{
	return say(ready, sizeof(ready), "domain received", err);
}

int receive_await_go(struct receive *rx, struct rpl_err *err)
{
	char got[sizeof(go)];
	int r = stream_input_read(&rx->run.in, got, sizeof(got), err);

	if (r < 0)
		return r;
	if (r == 0)
		return rpl_fail(err, -EPIPE, "the sender closed the connection instead of handing the domain over");
	if (memcmp(got, go, sizeof(go)) != 0)
		return rpl_fail(err, -EPROTO, "the sender said something else than \"%s\"", go);
	return 0;
}

int receive_say_outcome(int result, bool destroyed, struct rpl_err *err)
{
	uint8_t status = result == 0 ? 0 : result < -UINT8_MAX ? UINT8_MAX : (uint8_t)-result;
	int r = say(report, sizeof(report), "the report", err);

	if (r == 0)
		r = say(&status, 1, "the status", err);
	if (r == 0 && result < 0 && destroyed)
		r = say(go, sizeof(go), "the domain is yours again", err);
	return r;
}

/* ---- the configuration */

static json_t *load(const struct receive *rx, struct rpl_err *err)
{
	json_error_t jerr;
	json_t *root;

	if (!rx->config.text) {
		(void)rpl_fail(err, -EINVAL, rx->config.too_long ? "a configuration of more than %u bytes"
								 : "no configuration in front of the stream (limit %u bytes)",
			       STREAM_CONFIG_MAX);
		return NULL;
	}
	root = json_loads(rx->config.text, 0, &jerr);
	if (!root)
		(void)rpl_fail(err, -EINVAL, "the configuration is no JSON: line %d: %.120s", jerr.line, jerr.text);
	return root;
}

int receive_config_check(struct receive *rx, struct rpl_err *err)
{
	json_t *root = load(rx, err);
	const char *name;
	json_int_t kib;

	if (!root)
		return err->code;
	name = json_string_value(json_object_get(json_object_get(root, "c_info"), "name"));
	kib = json_integer_value(json_object_get(json_object_get(root, "b_info"), "max_memkb"));
	if (!name || !xl_name_is_good(name))
		(void)rpl_fail(err, -EINVAL, "the configuration names the domain '%.60s': not a name to be used here",
			       name ? name : "");
	else if (kib <= 0)
		(void)rpl_fail(err, -EINVAL, "domain %.100s: the configuration gives it no memory", name);
	else
		err->code = 0;
	if (err->code == 0) {
		(void)snprintf(rx->name, sizeof(rx->name), "%s", name);
		rx->maxmem_kib = (uint64_t)kib;
	}
	json_decref(root);
	return err->code;
}

char *receive_config_named(const struct receive *rx, const char *name, struct rpl_err *err)
{
	json_t *root = load(rx, err);
	char *text = NULL;

	if (!root)
		return NULL;
	if (json_object_set_new(json_object_get(root, "c_info"), "name", json_string(name)) == 0)
		text = json_dumps(root, JSON_COMPACT);
	if (!text)
		(void)rpl_fail(err, -ENOMEM, "no memory for the configuration of %.100s", name);
	json_decref(root);
	return text;
}

void receive_finding(void *ctx, const struct rpl_stream_finding *f)
{
	struct receive *rx = ctx;

	if (f->severity == RPL_SEV_WARNING || rx->bad.code)
		return;
	(void)rpl_fail(&rx->bad, -EBADMSG, "byte %llu of the stream: %s: %.150s", (unsigned long long)f->offset,
		       rpl_stream_rule_def(f->rule)->name, f->text);
}
