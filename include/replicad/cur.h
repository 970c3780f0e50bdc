/* cur.h - read and write little- and big-endian fields of a buffer without ever leaving it
 *
 * After one access outside the buffer `bad` is set and all later reads give 0 and all later writes are dropped,
 * so a decoder reads a whole structure and checks once.
 */
#ifndef REPLICAD_CUR_H
#define REPLICAD_CUR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct rpl_cur { /* reading */
	const uint8_t *p;
	size_t left;
	bool bad;
};

static inline struct rpl_cur rpl_cur(const void *data, size_t len)
{
	return (struct rpl_cur){ .p = data, .left = len };
}

/* The next `len` bytes, or NULL (and bad). */
static inline const void *rpl_cur_bytes(struct rpl_cur *c, size_t len)
{
	const uint8_t *p = c->p;

	if (c->bad || c->left < len) {
		c->bad = true;
		return NULL;
	}
	c->p += len;
	c->left -= len;
	return p;
}

#define RPL_CUR_READ(name, type, bytes, swap)                                    \
	static inline type rpl_cur_##name(struct rpl_cur *c)                     \
	{                                                                        \
		type v = 0;                                                      \
		const void *p = rpl_cur_bytes(c, bytes);                         \
                                                                                 \
		if (p)                                                           \
			memcpy(&v, p, bytes);                                    \
		return swap(v);                                                  \
	}
RPL_CUR_READ(u8, uint8_t, 1, )
RPL_CUR_READ(le16, uint16_t, 2, )
RPL_CUR_READ(le32, uint32_t, 4, )
RPL_CUR_READ(le64, uint64_t, 8, )
RPL_CUR_READ(be16, uint16_t, 2, __builtin_bswap16)
RPL_CUR_READ(be32, uint32_t, 4, __builtin_bswap32)
RPL_CUR_READ(be64, uint64_t, 8, __builtin_bswap64)
#undef RPL_CUR_READ

/* Skip `len` bytes that must be zero; anything else is bad. */
static inline void rpl_cur_zero(struct rpl_cur *c, size_t len)
{
	const uint8_t *p = rpl_cur_bytes(c, len);

	for (size_t i = 0; p && i < len; i++)
		if (p[i])
			c->bad = true;
}

struct rpl_out { /* writing */
	uint8_t *p;
	size_t len, cap;
	bool bad;
};

static inline struct rpl_out rpl_out(void *data, size_t cap)
{
	return (struct rpl_out){ .p = data, .cap = cap };
}

static inline void rpl_out_bytes(struct rpl_out *o, const void *data, size_t len)
{
	if (o->bad || o->cap - o->len < len) {
		o->bad = true;
		return;
	}
	if (len)
		memcpy(o->p + o->len, data, len);
	o->len += len;
}

#define RPL_OUT_WRITE(name, type, swap)                                          \
	static inline void rpl_out_##name(struct rpl_out *o, type v)             \
	{                                                                        \
		v = swap(v);                                                     \
		rpl_out_bytes(o, &v, sizeof(v));                                 \
	}
RPL_OUT_WRITE(u8, uint8_t, )
RPL_OUT_WRITE(le16, uint16_t, )
RPL_OUT_WRITE(le32, uint32_t, )
RPL_OUT_WRITE(le64, uint64_t, )
RPL_OUT_WRITE(be16, uint16_t, __builtin_bswap16)
RPL_OUT_WRITE(be32, uint32_t, __builtin_bswap32)
RPL_OUT_WRITE(be64, uint64_t, __builtin_bswap64)
#undef RPL_OUT_WRITE

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "cur.h swaps big-endian fields only");

#endif
