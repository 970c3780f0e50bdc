/* definition.c - compare two guests' definitions: sorted "key=value" lines; pure */
#include <replicad/guest.h>

#include <ctype.h>
#include <errno.h>
#include <string.h>

struct line {
	const char *key, *value;
	int key_len, value_len;
};

#define SHOWN 80 /* characters of a key or a value in a message */

/* Cut the next line off *text; false at the end. A line without '=' is all key. */
static bool next_line(const char **text, struct line *ret)
{
	const char *end, *eq;

	if (!**text)
		return false;
	end = strchrnul(*text, '\n');
	eq = memchr(*text, '=', (size_t)(end - *text));
	*ret = (struct line){ .key = *text, .key_len = (int)((eq ? eq : end) - *text), .value = eq ? eq + 1 : end };
	ret->value_len = (int)(end - ret->value);
	*text = *end ? end + 1 : end;
	return true;
}

static int shown(int len)
{
	return len > SHOWN ? SHOWN : len;
}

static int key_order(const struct line *a, const struct line *b)
{
	int n = a->key_len < b->key_len ? a->key_len : b->key_len;
	int r = memcmp(a->key, b->key, (size_t)n);

	return r ? r : a->key_len - b->key_len;
}

static bool printable(const char *text)
{
	for (; *text; text++)
		if (*text != '\n' && !isprint((unsigned char)*text))
			return false;
	return true;
}

static int one_missing(const struct line *l, const char *has, const char *lacks, struct rpl_err *err)
{
	return rpl_fail(err, -EINVAL, "%.*s: %s has %.*s, %s has none", shown(l->key_len), l->key, has,
			l->value_len ? shown(l->value_len) : 3, l->value_len ? l->value : "one", lacks);
}

int rpl_definition_compare(const char *standby, const char *primary, struct rpl_err *err)
{
	struct line p, s;
	bool more_p, more_s;

	if (strnlen(primary, RPL_GUEST_DEFINITION_MAX) == RPL_GUEST_DEFINITION_MAX || !printable(primary))
		return rpl_fail(err, -EINVAL, "the primary's definition is not printable text of less than %d bytes",
				RPL_GUEST_DEFINITION_MAX);
	for (;;) {
		int order;

		more_p = next_line(&primary, &p);
		more_s = next_line(&standby, &s);
		if (!more_p && !more_s)
			return 0;
		order = !more_p ? 1 : !more_s ? -1 : key_order(&p, &s);
		if (order < 0)
			return one_missing(&p, "primary", "standby", err);
		if (order > 0)
			return one_missing(&s, "standby", "primary", err);
		if (p.value_len != s.value_len || memcmp(p.value, s.value, (size_t)p.value_len) != 0)
			return rpl_fail(err, -EINVAL, "%.*s: primary %.*s, standby %.*s", shown(p.key_len), p.key,
					shown(p.value_len), p.value, shown(s.value_len), s.value);
	}
}
