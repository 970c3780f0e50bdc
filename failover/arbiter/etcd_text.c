#include "etcd_text.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include <replicad/auto.h>

#include "base64.h"

#define SAID_MAX 120 /* bytes of etcd's own words in a message of ours */

/* What etcd says about itself that an operator can mend. */
static const struct {
	const char *said, *mend;
} mends[] = {
	{ "database space exceeded", "compact and defragment it, then `etcdctl alarm disarm`" },
	{ "no leader", "most of its members are away" },
	{ "request timed out", "its disk or network is too slow, or most of its members are away" },
	{ "user name is empty", "its gateway takes no certificate for a user name: use an etcd without `auth enable`" },
	{ "not capable", "it is older than 3.4" },
};

void rpl_etcd_key(const char *cluster, const struct rpl_uuid *vm, char ret[RPL_ETCD_KEY_MAX])
{
	char text[RPL_UUID_TEXT];
	int n = snprintf(ret, RPL_ETCD_KEY_MAX, "replicad/%s/%s", cluster, rpl_uuid_text(vm, text));

	rpl_assert(n > 0 && n < RPL_ETCD_KEY_MAX); /* rpl_arbiter_new() has checked the cluster's length */
}

/* ---- requests */

int rpl_etcd_write_range(const char *key, char ret[RPL_ETCD_REQUEST_MAX], struct rpl_err *err)
{
	char k[RPL_BASE64_TEXT(RPL_ETCD_KEY_MAX)];
	int n;

	rpl_base64_encode(key, strlen(key), k);
	n = snprintf(ret, RPL_ETCD_REQUEST_MAX, "{\"key\":\"%s\"}", k);
	return n < RPL_ETCD_REQUEST_MAX ? n : rpl_fail(err, -EMSGSIZE, "etcd: a request of %d bytes", n);
}

int rpl_etcd_write_txn(const char *key, const struct rpl_etcd_value *expect, const struct rpl_record *want,
		       char ret[RPL_ETCD_REQUEST_MAX], struct rpl_err *err)
{
	char k[RPL_BASE64_TEXT(RPL_ETCD_KEY_MAX)], old[RPL_BASE64_TEXT(RPL_RECORD_TEXT_MAX)];
	char new[RPL_BASE64_TEXT(RPL_RECORD_TEXT_MAX)], text[RPL_RECORD_TEXT_MAX];
	char value_too[sizeof(k) + sizeof(old) + 64] = "";
	int n = rpl_record_encode(want, text, err);

	if (n < 0)
		return n;
	rpl_base64_encode(key, strlen(key), k);
	rpl_base64_encode(text, (size_t)n, new);
	if (expect->present) {
		rpl_base64_encode(expect->text, strlen(expect->text), old);
		(void)snprintf(value_too, sizeof(value_too),
			       ",{\"key\":\"%s\",\"target\":\"VALUE\",\"result\":\"EQUAL\",\"value\":\"%s\"}", k, old);
	}
	n = snprintf(ret, RPL_ETCD_REQUEST_MAX,
		     "{\"compare\":[{\"key\":\"%s\",\"target\":\"MOD\",\"result\":\"EQUAL\",\"mod_revision\":\"%" PRId64 "\"}%s],"
		     "\"success\":[{\"request_put\":{\"key\":\"%s\",\"value\":\"%s\"}}],"
		     "\"failure\":[{\"request_range\":{\"key\":\"%s\"}}]}",
		     k, expect->present ? expect->mod_revision : 0, value_too, k, new, k);
	return n < RPL_ETCD_REQUEST_MAX ? n : rpl_fail(err, -EMSGSIZE, "etcd: a request of %d bytes", n);
}

/* ---- answers */

/* The gateway writes 64-bit numbers as strings, and leaves out those that are 0. */
static int take_number(const json_t *o, const char *name, uint64_t max, uint64_t *ret, struct rpl_err *err)
{
	const char *text = json_string_value(json_object_get(o, name));
	char *end;
	uint64_t v;

	errno = 0;
	v = text && isdigit((unsigned char)*text) ? strtoull(text, &end, 10) : 0;
	if (!text || !isdigit((unsigned char)*text) || *end || errno || v == 0 || v > max)
		return rpl_fail(err, -EBADMSG, "etcd's answer: %s '%.40s' is not a number from 1 to %" PRIu64, name,
				text ? text : "", max);
	*ret = v;
	return 0;
}

static int take_value(const json_t *kv, const struct rpl_uuid *vm, struct rpl_etcd_value *ret, struct rpl_err *err)
{
	const json_t *v = json_object_get(kv, "value");
	uint64_t revision;
	int r = take_number(kv, "mod_revision", INT64_MAX, &revision, err);

	if (r < 0)
		return r;
	ret->mod_revision = (int64_t)revision;
	if (json_object_get(kv, "lease"))
		return rpl_fail(err, -EBADMSG, "the record has a lease, so it would vanish: write it again without one");
	r = rpl_base64_decode(json_string_value(v) ? json_string_value(v) : "", json_string_length(v), ret->text,
			      sizeof(ret->text) - 1);
	if (r < 0)
		return rpl_fail(err, -EBADMSG, "the value, %zu bytes of base64, is not a record of at most %zu",
				json_string_length(v), sizeof(ret->text) - 1);
	ret->text[r] = '\0';
	r = rpl_record_decode(ret->text, (size_t)r, &ret->record, err);
	if (r < 0)
		return r;
	if (!rpl_uuid_equal(&ret->record.vm, vm)) {
		char has[RPL_UUID_TEXT];

		return rpl_fail(err, -EBADMSG, "holds the record of %s", rpl_uuid_text(&ret->record.vm, has));
	}
	ret->present = true;
	return 0;
}

/* A RangeResponse for our one key. */
static int take_range(const json_t *range, const char *key, const struct rpl_uuid *vm, struct rpl_etcd_value *ret,
		      struct rpl_err *err)
{
	const json_t *kvs = json_object_get(range, "kvs"), *more = json_object_get(range, "more");
	char k[RPL_BASE64_TEXT(RPL_ETCD_KEY_MAX)];
	const char *is;
	int r;

	*ret = (struct rpl_etcd_value){ 0 };
	if (!json_is_object(range) || (kvs && !json_is_array(kvs)) || json_array_size(kvs) > 1 || more)
		return rpl_fail(err, -EBADMSG, "etcd's answer: want at most one key in a list 'kvs', got %zu",
				json_array_size(kvs));
	if (json_array_size(kvs) == 0) {
		if (json_object_get(range, "count")) /* left out when it is 0 */
			return rpl_fail(err, -EBADMSG, "etcd's answer: a count without keys");
		return 0;
	}
	rpl_base64_encode(key, strlen(key), k);
	is = json_string_value(json_object_get(json_array_get(kvs, 0), "key"));
	if (!is || strcmp(is, k) != 0)
		return rpl_fail(err, -EBADMSG, "etcd's answer: another key than %.100s was asked for", key);
	r = take_value(json_array_get(kvs, 0), vm, ret, err);
	return r < 0 ? rpl_prefix(err, "key %s", key) : 0;
}

static int take_header(const json_t *o, uint64_t *ret_cluster, uint64_t *ret_revision, struct rpl_err *err)
{
	const json_t *header = json_object_get(o, "header");
	int r = take_number(header, "cluster_id", UINT64_MAX, ret_cluster, err);

	return r < 0 ? r : take_number(header, "revision", INT64_MAX, ret_revision, err);
}

static json_t *parse(const char *text, size_t len, struct rpl_err *err)
{
	json_error_t why;
	json_t *o = NULL;

	if (len > RPL_ETCD_ANSWER_MAX)
		(void)rpl_fail(err, -EBADMSG, "etcd's answer: %zu bytes, at most %d", len, RPL_ETCD_ANSWER_MAX);
	else if (!(o = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why)))
		(void)rpl_fail(err, -EBADMSG, "etcd's answer is not JSON: %.80s at byte %d: is something else listening "
			       "there?", why.text, why.position);
	return o;
}

int rpl_etcd_read_range(const char *text, size_t len, const char *key, const struct rpl_uuid *vm,
			struct rpl_etcd_answer *ret, struct rpl_err *err)
{
	struct rpl_etcd_answer got = { 0 };
	json_t *o = parse(text, len, err);
	uint64_t revision;
	int r;

	if (!o)
		return -EBADMSG;
	r = take_header(o, &got.cluster_id, &revision, err);
	if (r == 0)
		r = take_range(o, key, vm, &got.now, err);
	if (r == 0 && got.now.present && (uint64_t)got.now.mod_revision > revision)
		r = rpl_fail(err, -EBADMSG, "etcd's answer: mod_revision %" PRId64 " after revision %" PRIu64,
			     got.now.mod_revision, revision);
	json_decref(o);
	if (r == 0)
		*ret = got;
	return r;
}

static int take_swap(const json_t *response, uint64_t revision, const struct rpl_record *want,
		     struct rpl_etcd_value *ret, struct rpl_err *err)
{
	if (!json_is_object(json_object_get(response, "response_put")))
		return rpl_fail(err, -EBADMSG, "etcd's answer: a transaction that succeeded without a put");
	ret->present = true;
	ret->mod_revision = (int64_t)revision;
	ret->record = *want;
	return rpl_record_encode(want, ret->text, err) < 0 ? -EBADMSG : 0;
}

int rpl_etcd_read_txn(const char *text, size_t len, const char *key, const struct rpl_record *want,
		      struct rpl_etcd_answer *ret, struct rpl_err *err)
{
	struct rpl_etcd_answer got = { 0 };
	json_t *o = parse(text, len, err);
	const json_t *succeeded, *responses, *response;
	uint64_t revision;
	int r;

	if (!o)
		return -EBADMSG;
	succeeded = json_object_get(o, "succeeded"); /* left out when it is false */
	responses = json_object_get(o, "responses");
	response = json_array_get(responses, 0);
	r = take_header(o, &got.cluster_id, &revision, err);
	if (r == 0 && ((succeeded && !json_is_boolean(succeeded)) || json_array_size(responses) != 1))
		r = rpl_fail(err, -EBADMSG, "etcd's answer: a transaction with %zu responses, want 1",
			     json_array_size(responses));
	got.swapped = json_is_true(succeeded);
	if (r == 0 && got.swapped)
		r = take_swap(response, revision, want, &got.now, err);
	else if (r == 0)
		r = take_range(json_object_get(response, "response_range"), key, &want->vm, &got.now, err);
	json_decref(o);
	if (r == 0)
		*ret = got;
	return r;
}

/* Another program's words in a message of ours: printable, and not too many. */
static void quote(const char *said, size_t len, char ret[SAID_MAX])
{
	size_t n = 0;

	for (; n < len && n < SAID_MAX - 1; n++)
		ret[n] = said[n] >= ' ' && said[n] < 0x7f ? said[n] : '.';
	ret[n] = '\0';
}

int rpl_etcd_read_refusal(long status, const char *text, size_t len, struct rpl_err *err)
{
	json_t *o = len <= RPL_ETCD_ANSWER_MAX ? json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL) : NULL;
	const json_t *message = json_object_get(o, "message");
	const char *mend = NULL;
	char said[SAID_MAX];

	if (!json_is_string(message))
		message = json_object_get(o, "error");
	if (json_is_string(message))
		quote(json_string_value(message), json_string_length(message), said);
	else
		quote(text, len, said);
	json_decref(o);
	for (size_t i = 0; i < RPL_ARRAY_LEN(mends); i++)
		if (strstr(said, mends[i].said))
			mend = mends[i].mend;
	return rpl_fail(err, -EREMOTEIO, "HTTP status %ld, '%s'%s%s", status, said, mend ? ": " : "", mend ? mend : "");
}
