/* uuid.h - 128-bit names: of a VM, of a session, of one compare-and-swap attempt */
#ifndef REPLICAD_UUID_H
#define REPLICAD_UUID_H

#include <stdbool.h>
#include <stdint.h>

#include <replicad/err.h>

struct rpl_uuid {
	uint8_t b[16];
};

#define RPL_UUID_TEXT 37 /* 8-4-4-4-12 and the final NUL */

/* Read 8-4-4-4-12 hexadecimal text, either case. Returns 0 or -EINVAL. */
int rpl_uuid_parse(const char *text, struct rpl_uuid *ret, struct rpl_err *err);
/* Write lower-case text; returns `text`. */
char *rpl_uuid_text(const struct rpl_uuid *u, char text[RPL_UUID_TEXT]);
bool rpl_uuid_equal(const struct rpl_uuid *a, const struct rpl_uuid *b);
bool rpl_uuid_is_zero(const struct rpl_uuid *u);
/* A fresh random uuid (version 4) from the kernel; aborts if the kernel has none to give. */
void rpl_uuid_random(struct rpl_uuid *ret);

#endif
