/* RPL_DIGEST's hash over what went by, except the last 40 bytes: the record's own head and body. */
#include "stream_cli.h"

#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#define LAG (RPL_STREAM_RECORD_HEAD + 32u)

struct stream_digest {
	XXH3_state_t *state;
	uint64_t bytes; /* hashed */
	size_t n_lag;
	uint8_t lag[LAG];
};

struct stream_digest *stream_digest_new(void)
{
	struct stream_digest *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->state = XXH3_createState();
	if (!d->state) {
		free(d);
		return NULL;
	}
	(void)XXH3_128bits_reset(d->state);
	return d;
}

void stream_digest_free(struct stream_digest *d)
{
	if (!d)
		return;
	(void)XXH3_freeState(d->state);
	free(d);
}

static void hash(struct stream_digest *d, const void *bytes, size_t len)
{
	(void)XXH3_128bits_update(d->state, bytes, len);
	d->bytes += len;
}

void stream_digest_bytes(struct stream_digest *d, const void *bytes, size_t len)
{
	const uint8_t *p = bytes;
	size_t out;

	if (len >= LAG) {
		hash(d, d->lag, d->n_lag);
		hash(d, p, len - LAG);
		memcpy(d->lag, p + len - LAG, LAG);
		d->n_lag = LAG;
		return;
	}
	out = d->n_lag + len > LAG ? d->n_lag + len - LAG : 0;
	hash(d, d->lag, out);
	memmove(d->lag, d->lag + out, d->n_lag - out);
	d->n_lag -= out;
	memcpy(d->lag + d->n_lag, p, len);
	d->n_lag += len;
}

void stream_digest_image(struct stream_digest *d)
{
	(void)XXH3_128bits_reset(d->state);
	d->bytes = 0;
	memmove(d->lag, d->lag + d->n_lag - RPL_IMAGE_HEADER, RPL_IMAGE_HEADER);
	d->n_lag = RPL_IMAGE_HEADER;
}

void stream_digest_get(const struct stream_digest *d, bool whole, uint64_t *ret_bytes, uint64_t *ret_low,
		       uint64_t *ret_high)
{
	XXH128_hash_t h;

	*ret_bytes = d->bytes;
	if (whole) {
		(void)XXH3_128bits_update(d->state, d->lag, d->n_lag);
		*ret_bytes += d->n_lag;
	}
	h = XXH3_128bits_digest(d->state);
	*ret_low = h.low64;
	*ret_high = h.high64;
}
