/* digest.c - XXH3, 128 bits: finds damage and mix-ups, not forgery (TLS does that) */
#include <replicad/link.h>

#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

struct rpl_digest {
	XXH3_state_t *state;
};

_Static_assert(sizeof(XXH128_canonical_t) == RPL_DIGEST_SIZE, "a digest is 128 bits");

struct rpl_digest *rpl_digest_new(void)
{
	struct rpl_digest *d = malloc(sizeof(*d));

	rpl_assert(d);
	d->state = XXH3_createState();
	rpl_assert(d->state);
	rpl_digest_reset(d);
	return d;
}

void rpl_digest_reset(struct rpl_digest *d)
{
	rpl_assert(XXH3_128bits_reset(d->state) == XXH_OK);
}

void rpl_digest_add(struct rpl_digest *d, const void *data, size_t len)
{
	if (len)
		rpl_assert(XXH3_128bits_update(d->state, data, len) == XXH_OK);
}

void rpl_digest_end(struct rpl_digest *d, uint8_t ret[RPL_DIGEST_SIZE])
{
	XXH128_canonical_t c;

	XXH128_canonicalFromHash(&c, XXH3_128bits_digest(d->state));
	memcpy(ret, c.digest, RPL_DIGEST_SIZE);
}

void rpl_digest_free(struct rpl_digest *d)
{
	if (!d)
		return;
	(void)XXH3_freeState(d->state);
	free(d);
}
