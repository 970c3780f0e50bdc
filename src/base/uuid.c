#include <replicad/uuid.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include <replicad/hex.h>

int rpl_uuid_parse(const char *text, struct rpl_uuid *ret, struct rpl_err *err)
{
	struct rpl_uuid u;
	size_t at = 0;

	if (strlen(text) != RPL_UUID_TEXT - 1)
		goto bad;
	for (size_t i = 0; i < sizeof(u.b); i++) {
		int hi, lo;

		if (i == 4 || i == 6 || i == 8 || i == 10)
			if (text[at++] != '-')
				goto bad;
		hi = rpl_hex_value(text[at++]);
		lo = rpl_hex_value(text[at++]);
		if (hi < 0 || lo < 0)
			goto bad;
		u.b[i] = (uint8_t)(hi << 4 | lo);
	}
	*ret = u;
	return 0;
bad:
	return rpl_fail(err, -EINVAL, "'%.64s' is not a uuid (8-4-4-4-12 hexadecimal digits)", text);
}

char *rpl_uuid_text(const struct rpl_uuid *u, char text[RPL_UUID_TEXT])
{
	const uint8_t *b = u->b;

	(void)snprintf(text, RPL_UUID_TEXT, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
		       b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14],
		       b[15]);
	return text;
}

bool rpl_uuid_equal(const struct rpl_uuid *a, const struct rpl_uuid *b)
{
	return memcmp(a->b, b->b, sizeof(a->b)) == 0;
}

bool rpl_uuid_is_zero(const struct rpl_uuid *u)
{
	static const struct rpl_uuid zero;

	return rpl_uuid_equal(u, &zero);
}

void rpl_uuid_random(struct rpl_uuid *ret)
{
	rpl_assert(getrandom(ret->b, sizeof(ret->b), 0) == (ssize_t)sizeof(ret->b));
	ret->b[6] = (uint8_t)((ret->b[6] & 0x0f) | 0x40);
	ret->b[8] = (uint8_t)((ret->b[8] & 0x3f) | 0x80);
}
