#include "record_text.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <jansson.h>

#include <replicad/auto.h>

static const char *const mode_name[] = {
#define X(name, text) #name,
	RPL_MODES(X)
#undef X
};
_Static_assert(RPL_ARRAY_LEN(mode_name) == RPL_MODE_N, "a name for each mode");

static int check(const struct rpl_record *r, struct rpl_err *err)
{
	if (r->format != RPL_RECORD_FORMAT)
		return rpl_fail(err, -EINVAL, "record: format %u, this build writes %d", r->format, RPL_RECORD_FORMAT);
	if (r->mode >= RPL_MODE_N)
		return rpl_fail(err, -EINVAL, "record: mode %u, the highest is %d", r->mode, RPL_MODE_N - 1);
	if (r->generation == 0 || r->generation > INT64_MAX)
		return rpl_fail(err, -EINVAL, "record: generation %" PRIu64 ", want 1 to 2^63 - 1", r->generation);
	if (!r->owner[0] || memchr(r->owner, '\0', sizeof(r->owner)) == NULL)
		return rpl_fail(err, -EINVAL, "record: the owner's name is empty or longer than %d bytes",
				RPL_NODE_NAME - 1);
	if (rpl_uuid_is_zero(&r->vm))
		return rpl_fail(err, -EINVAL, "record: the vm's uuid is zero");
	return 0;
}

int rpl_record_encode(const struct rpl_record *record, char text[RPL_RECORD_TEXT_MAX], struct rpl_err *err)
{
	char vm[RPL_UUID_TEXT], session[RPL_UUID_TEXT], nonce[RPL_UUID_TEXT];
	json_t *o;
	size_t len = 0;
	int r = check(record, err);

	if (r < 0)
		return r;
	o = json_pack("{s:i, s:s, s:I, s:s, s:s, s:s, s:s}", "format", (int)record->format, "vm",
		      rpl_uuid_text(&record->vm, vm), "generation", (json_int_t)record->generation, "owner",
		      record->owner, "mode", mode_name[record->mode], "session",
		      rpl_uuid_text(&record->session, session), "nonce", rpl_uuid_text(&record->nonce, nonce));
	if (o)
		len = json_dumpb(o, text, RPL_RECORD_TEXT_MAX - 2, JSON_COMPACT);
	json_decref(o);
	if (len == 0 || len > RPL_RECORD_TEXT_MAX - 2) /* an owner that is not UTF-8 cannot be packed */
		return rpl_fail(err, -EINVAL, "record: cannot be written: is the owner's name UTF-8?");
	text[len] = '\n';
	text[len + 1] = '\0';
	return (int)len + 1;
}

static int take_uuid(const json_t *o, const char *key, struct rpl_uuid *ret, struct rpl_err *err)
{
	const char *text = json_string_value(json_object_get(o, key));

	if (!text)
		return rpl_fail(err, -EBADMSG, "record: no text '%s'", key);
	if (rpl_uuid_parse(text, ret, err) < 0)
		return rpl_fail(err, -EBADMSG, "record: %s '%.40s' is not a uuid", key, text);
	return 0;
}

static int take_mode(const json_t *o, uint32_t *ret, struct rpl_err *err)
{
	const char *text = json_string_value(json_object_get(o, "mode"));

	for (uint32_t i = 0; text && i < RPL_MODE_N; i++)
		if (strcmp(text, mode_name[i]) == 0) {
			*ret = i;
			return 0;
		}
	return rpl_fail(err, -EBADMSG, "record: mode '%.40s' is not SOLO, PROTECTED or DOWN", text ? text : "");
}

static int take_owner(const json_t *o, char ret[RPL_NODE_NAME], struct rpl_err *err)
{
	const json_t *v = json_object_get(o, "owner");
	size_t len = json_string_length(v);

	if (!json_is_string(v) || len == 0 || len >= RPL_NODE_NAME)
		return rpl_fail(err, -EBADMSG, "record: owner of %zu bytes, want 1 to %d", len, RPL_NODE_NAME - 1);
	memcpy(ret, json_string_value(v), len); /* jansson refuses a NUL inside */
	return 0;
}

static int take_all(const json_t *o, struct rpl_record *ret, struct rpl_err *err)
{
	const json_t *generation = json_object_get(o, "generation");
	int r;

	if (json_object_size(o) != 7)
		return rpl_fail(err, -EBADMSG, "record: %zu keys, format %d has 7", json_object_size(o),
				RPL_RECORD_FORMAT);
	if (!json_is_integer(generation) || json_integer_value(generation) < 1)
		return rpl_fail(err, -EBADMSG, "record: generation %lld, want 1 or more",
				(long long)json_integer_value(generation));
	ret->generation = (uint64_t)json_integer_value(generation);
	r = take_uuid(o, "vm", &ret->vm, err);
	if (r == 0)
		r = take_uuid(o, "session", &ret->session, err);
	if (r == 0)
		r = take_uuid(o, "nonce", &ret->nonce, err);
	if (r == 0)
		r = take_mode(o, &ret->mode, err);
	if (r == 0)
		r = take_owner(o, ret->owner, err);
	return r;
}

int rpl_record_decode(const char *text, size_t len, struct rpl_record *ret, struct rpl_err *err)
{
	struct rpl_record got = { .format = RPL_RECORD_FORMAT };
	json_error_t why;
	json_t *o, *format;
	int r;

	if (len >= RPL_RECORD_TEXT_MAX)
		return rpl_fail(err, -EBADMSG, "record: %zu bytes, at most %d", len, RPL_RECORD_TEXT_MAX - 1);
	o = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
	if (!o)
		return rpl_fail(err, -EBADMSG, "record: not JSON: %.100s at byte %d", why.text, why.position);
	format = json_object_get(o, "format");
	if (!json_is_integer(format))
		r = rpl_fail(err, -EBADMSG, "record: no format number");
	else if (json_integer_value(format) != RPL_RECORD_FORMAT)
		r = rpl_fail(err, -EPROTONOSUPPORT, "record: format %lld, this replicad knows %d: upgrade this host",
			     (long long)json_integer_value(format), RPL_RECORD_FORMAT);
	else
		r = take_all(o, &got, err);
	if (r == 0 && check(&got, err) < 0)
		r = err ? (err->code = -EBADMSG) : -EBADMSG;
	json_decref(o);
	if (r == 0)
		*ret = got;
	return r;
}
