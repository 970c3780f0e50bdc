/* keys.c - the text of a keys.psk file (keys.h) */
#include <replicad/hex.h>
#include <replicad/keys.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <replicad/link.h>

struct key {
	char name[RPL_IDENTITY_MAX];
	uint8_t key[RPL_KEY_MAX];
	size_t len;
};

struct rpl_keys {
	size_t n, cap;
	struct key *key;
};

bool rpl_identity_valid(const char *name, size_t len)
{
	if (len == 0 || len >= RPL_IDENTITY_MAX || name[0] == '#')
		return false;
	for (size_t i = 0; i < len; i++)
		if (name[i] <= ' ' || name[i] > '~' || name[i] == ':' || name[i] == ',')
			return false;
	return true;
}

bool rpl_identity_listed(const char *list, const char *name)
{
	size_t len = strlen(name);

	while (len && *list) {
		size_t item;

		list += strspn(list, " ,");
		item = strcspn(list, " ,");
		if (item == len && memcmp(list, name, len) == 0)
			return true;
		list += item;
	}
	return false;
}

static int parse_key(const char *hex, size_t len, unsigned line, struct key *ret, struct rpl_err *err)
{
	if (len % 2 || len / 2 < RPL_KEY_MIN || len / 2 > RPL_KEY_MAX)
		return rpl_fail(err, -EINVAL, "keys, line %u: %zu characters after the colon: a key is %d to %d bytes, two "
				"hexadecimal digits each", line, len, RPL_KEY_MIN, RPL_KEY_MAX);
	ret->len = len / 2;
	for (size_t i = 0; i < len / 2; i++) {
		int hi = rpl_hex_value(hex[2 * i]), lo = rpl_hex_value(hex[2 * i + 1]);

		if (hi < 0 || lo < 0)
			return rpl_fail(err, -EINVAL, "keys, line %u: character %zu of the key is no hexadecimal digit", line,
					2 * i + (hi < 0 ? 1 : 2));
		ret->key[i] = (uint8_t)(hi << 4 | lo);
	}
	return 0;
}

static int parse_line(struct rpl_keys *k, const char *p, size_t len, unsigned line, struct rpl_err *err)
{
	const char *colon = memchr(p, ':', len);
	const uint8_t *other;
	size_t name_len, other_len;
	struct key *e;
	int r;

	if (!colon)
		return rpl_fail(err, -EINVAL, "keys, line %u: no colon: a line is name:hexkey", line);
	name_len = (size_t)(colon - p);
	if (!rpl_identity_valid(p, name_len))
		return rpl_fail(err, -EINVAL, "keys, line %u: the name is not 1 to %d printable characters without space, comma "
				"and leading #", line, RPL_IDENTITY_MAX - 1);
	if (k->n == RPL_KEYS_MAX)
		return rpl_fail(err, -E2BIG, "keys, line %u: more than %d keys", line, RPL_KEYS_MAX);
	rpl_assert(k->n < k->cap);
	e = &k->key[k->n];
	memcpy(e->name, p, name_len);
	e->name[name_len] = 0;
	r = parse_key(colon + 1, len - name_len - 1, line, e, err);
	if (r < 0)
		return r;
	if (rpl_keys_find(k, e->name, &other, &other_len))
		return rpl_fail(err, -EEXIST, "keys, line %u: %s has a key already", line, e->name);
	k->n++;
	return 0;
}

static size_t count_lines(const char *p, size_t len)
{
	size_t n = 1;

	for (size_t i = 0; i < len; i++)
		n += p[i] == '\n';
	return n;
}

static int parse_text(struct rpl_keys *k, const char *p, size_t len, struct rpl_err *err)
{
	for (unsigned line = 1; len; line++) {
		const char *nl = memchr(p, '\n', len);
		size_t line_len = nl ? (size_t)(nl - p) : len;
		int r = line_len ? parse_line(k, p, line_len, line, err) : 0;

		if (r < 0)
			return r;
		p += line_len + (nl != NULL);
		len -= line_len + (nl != NULL);
	}
	return k->n ? 0 : rpl_fail(err, -EINVAL, "keys: no key in it: make one with psktool -u NAME -p keys.psk");
}

int rpl_keys_parse(const void *text, size_t len, struct rpl_keys **ret, struct rpl_err *err)
{
	struct rpl_keys *k;
	int r;

	if (len > RPL_KEYS_TEXT_MAX)
		return rpl_fail(err, -E2BIG, "keys: %zu bytes, at most %d", len, RPL_KEYS_TEXT_MAX);
	k = calloc(1, sizeof(*k));
	if (!k)
		return rpl_fail(err, -ENOMEM, "keys: out of memory");
	k->cap = len ? count_lines(text, len) : 1;
	if (k->cap > RPL_KEYS_MAX)
		k->cap = RPL_KEYS_MAX;
	k->key = calloc(k->cap, sizeof(*k->key));
	r = k->key ? parse_text(k, text, len, err) : rpl_fail(err, -ENOMEM, "keys: out of memory");
	if (r < 0) {
		rpl_keys_free(k);
		return r;
	}
	*ret = k;
	return 0;
}

bool rpl_keys_find(const struct rpl_keys *k, const char *name, const uint8_t **ret_key, size_t *ret_len)
{
	for (size_t i = 0; i < k->n; i++) {
		if (strcmp(k->key[i].name, name) != 0)
			continue;
		*ret_key = k->key[i].key;
		*ret_len = k->key[i].len;
		return true;
	}
	return false;
}

size_t rpl_keys_count(const struct rpl_keys *k)
{
	return k->n;
}

void rpl_keys_free(struct rpl_keys *k)
{
	if (!k)
		return;
	if (k->key)
		explicit_bzero(k->key, k->cap * sizeof(*k->key));
	free(k->key);
	free(k);
}
