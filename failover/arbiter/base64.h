/* base64.h - bytes as the text that JSON carries them in (RFC 4648, with padding) */
#ifndef RPL_ARBITER_BASE64_H
#define RPL_ARBITER_BASE64_H

#include <stddef.h>

#define RPL_BASE64_TEXT(n) (((n) + 2) / 3 * 4 + 1) /* with the NUL */

void rpl_base64_encode(const void *data, size_t len, char *ret);
/* Decode into at most `size` bytes. Returns the length; -EMSGSIZE if it would be more, -EBADMSG for anything but the
 * one encoding of some bytes. */
int rpl_base64_decode(const char *text, size_t len, void *ret, size_t size);

#endif
