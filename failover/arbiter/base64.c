#include "base64.h"

#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void rpl_base64_encode(const void *data, size_t len, char *ret)
{
	const uint8_t *p = data;

	for (; len >= 3; p += 3, len -= 3) {
		*ret++ = alphabet[p[0] >> 2];
		*ret++ = alphabet[(p[0] & 3) << 4 | p[1] >> 4];
		*ret++ = alphabet[(p[1] & 15) << 2 | p[2] >> 6];
		*ret++ = alphabet[p[2] & 63];
	}
	if (len) {
		uint8_t second = len == 2 ? p[1] : 0;

		*ret++ = alphabet[p[0] >> 2];
		*ret++ = alphabet[(p[0] & 3) << 4 | second >> 4];
		*ret++ = len == 2 ? alphabet[(second & 15) << 2] : '=';
		*ret++ = '=';
	}
	*ret = '\0';
}

/* 0 to 63, or -1. */
static int digit(char c)
{
	const char *p = c ? strchr(alphabet, c) : NULL;

	return p ? (int)(p - alphabet) : -1;
}

int rpl_base64_decode(const char *text, size_t len, void *ret, size_t size)
{
	size_t padding = 0, bytes;
	uint8_t *out = ret;
	uint32_t bits = 0;

	if (len % 4 || len / 4 > INT_MAX / 3)
		return -EBADMSG;
	while (padding < 2 && padding < len && text[len - 1 - padding] == '=')
		padding++;
	bytes = len / 4 * 3 - padding;
	if (bytes > size)
		return -EMSGSIZE;
	for (size_t i = 0; i < len - padding; i++) {
		int d = digit(text[i]);

		if (d < 0)
			return -EBADMSG;
		bits = bits << 6 | (uint32_t)d;
		if (i % 4) /* 6 new bits after 2, 4 or 6 left ones: always a whole byte */
			*out++ = (uint8_t)(bits >> (2 * (3 - i % 4)));
	}
	if ((padding == 1 && bits & 3) || (padding == 2 && bits & 15)) /* left-over bits: another text of the same bytes */
		return -EBADMSG;
	return (int)bytes;
}
