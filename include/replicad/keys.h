/* keys.h - the text of a keys.psk file: who may speak, and with which key
 *
 * One "name:hexkey" a line, as GnuTLS psktool writes and QEMU reads. Pure: text in, a table out; reading the file is
 * the caller's. Empty lines are skipped; anything else that is not understood is refused with its line number, never
 * with its text: what looks like a broken line may be half a key.
 */
#ifndef REPLICAD_KEYS_H
#define REPLICAD_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <replicad/err.h>

#define RPL_KEYS_TEXT_MAX (64 * 1024) /* bytes of a key file */
#define RPL_KEYS_MAX 256              /* keys in a file */
#define RPL_KEY_MIN 16                /* bytes of one key */
#define RPL_KEY_MAX 64

struct rpl_keys;

/* Returns 0 and the table (freed by the caller), or -EINVAL (malformed), -E2BIG (a limit), -EEXIST (a name twice),
 * -ENOMEM. A file without a key is -EINVAL. */
int rpl_keys_parse(const void *text, size_t len, struct rpl_keys **ret, struct rpl_err *err);
/* The key of `name`; it lives as long as the table. False if there is none. */
bool rpl_keys_find(const struct rpl_keys *k, const char *name, const uint8_t **ret_key, size_t *ret_len);
size_t rpl_keys_count(const struct rpl_keys *k);
/* Overwrites the keys, then frees. Accepts NULL. */
void rpl_keys_free(struct rpl_keys *k);

/* May this stand for a node: 1 to RPL_IDENTITY_MAX - 1 printable ASCII characters without space, colon, comma, and
 * no '#' in front (GnuTLS takes that for a name in hexadecimal)? */
bool rpl_identity_valid(const char *name, size_t len);
/* Is `name` one of the comma-separated `list`? Spaces around names are ignored. An empty list holds nobody. */
bool rpl_identity_listed(const char *list, const char *name);

#endif
