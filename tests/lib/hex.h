/* hex.h - bytes out of hexadecimal digits, for golden bytes in tests
 *
 * Spaces between bytes are passed. NULL is no bytes. Anything else, or more than `cap` bytes, fails the test. Needs cmocka.h.
 */
#ifndef TESTS_HEX_H
#define TESTS_HEX_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* The number of bytes written to `ret`. */
static inline size_t from_hex(const char *hex, uint8_t *ret, size_t cap)
{
	size_t n = 0;

	for (; hex && *hex; hex++) {
		unsigned v;

		if (*hex == ' ')
			continue;
		assert_int_equal(sscanf(hex, "%2x", &v), 1);
		assert_true(n < cap);
		ret[n++] = (uint8_t)v;
		hex++;
	}
	return n;
}

#endif
