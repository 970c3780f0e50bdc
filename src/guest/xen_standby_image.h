/* xen_standby_image.h - a stored guest as one plain stream that `xl restore` reads: state, memory, state
 *
 * A replica holds pages by frame number and, as its device state, a complete plain stream without any memory. Between
 * the stream's static part and its tail is the place where the pages belong.
 */
#ifndef RPL_XEN_STANDBY_IMAGE_H
#define RPL_XEN_STANDBY_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include <replicad/err.h>
#include <replicad/stream.h>

/* A frame that never was in the stream: no descriptor is written. Not a page type of Xen's. */
#define XEN_IMAGE_ABSENT 0xffu

struct xen_image {
	/* before the memory: libxl header ... STATIC_DATA_END, for PV P2M_FRAMES. Behind it: the tail ... libxl END */
	const void *head, *rest;
	size_t head_len, rest_len;
	uint64_t pfns;  /* one more than the highest frame */
	/* the page type of a frame (RPL_PAGE_*), or XEN_IMAGE_ABSENT */
	unsigned (*type)(void *ctx, uint64_t pfn);
	/* copy `n` frames, all with data, to dst */
	int (*copy)(void *ctx, const uint64_t *pfns, size_t n, void *dst, struct rpl_err *err);
	void *ctx;
};

/* Where in `blob`, a complete plain libxl stream without memory, the pages belong. -EBADMSG: it is not that, or it does
 * not hold what a restorable guest needs (everything that stream_check.h asks for except memory). */
int xen_image_split(const void *blob, size_t len, size_t *ret_at, struct rpl_err *err);

/* The stream, behind an xl header, into `sink` (0 or a negative errno; *err is set by it). `config` is the domain's JSON,
 * NUL-terminated; NULL: none, for an xl that is given a configuration file. *ret_pages (may be NULL) counts pages with data. */
typedef int xen_image_sink(void *ctx, const void *bytes, size_t len, struct rpl_err *err);
/* The same without `rest`: no toolstack makes a guest of that. */
int xen_image_write_memory(const struct xen_image *im, const char *config, xen_image_sink *sink, void *sink_ctx,
			   uint64_t *ret_pages, struct rpl_err *err);
int xen_image_write(const struct xen_image *im, const char *config, xen_image_sink *sink, void *sink_ctx,
		    uint64_t *ret_pages, struct rpl_err *err);

#endif
