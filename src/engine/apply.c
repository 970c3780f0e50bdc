/* From frames to staged epochs. Everything here comes from a peer that may lie: lengths before storage, counts before
 * multiplication, order before meaning; every refusal is a sentence and the end of the connection. What was staged
 * before stays as it is.
 *
 * A QEMU or simulated guest's stream holds exactly: the headers, RPL_PRODUCER, STATIC_DATA_END; then PAGE_DATA (always as
 * PAGES frames); and in a checkpoint CHECKPOINT, EMULATOR_CONTEXT, CHECKPOINT_END behind its pages.
 */
#include "backup.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <replicad/fault.h>

int apply_init(struct apply *a, struct rpl_replica *replica, const struct rpl_ram_layout *layout, struct rpl_err *err)
{
	*a = (struct apply){ .replica = replica, .layout = layout, .digest = rpl_digest_new() };
	if (!a->digest)
		return rpl_fail(err, -ENOMEM, "backup: no memory for a digest");
	apply_session(a);
	return 0;
}

void apply_session(struct apply *a)
{
	rpl_stream_reader_init(&a->reader, RPL_FORMAT_LIBXL, a->descs, RPL_STREAM_PAGES_PER_RECORD);
	a->good = a->reader;
	a->is_static = a->good_static = false;
	a->kind = APPLY_IDLE;
	a->in_record = false;
	a->producer_len = 0;
}

void apply_cut(struct apply *a)
{
	rpl_replica_abort(a->replica);
	a->reader = a->good;
	a->is_static = a->good_static;
	a->kind = APPLY_IDLE;
	a->in_record = false;
}

/* ---- begin */

static int begin(struct apply *a, const uint8_t *body, struct rpl_err *err)
{
	struct rpl_epoch_begin v;
	bool bulk;

	rpl_epoch_begin_decode(body, &v);
	bulk = v.flags & RPL_EPOCH_BULK;
	if (a->kind != APPLY_IDLE)
		return rpl_fail(err, -EPROTO, "EPOCH_BEGIN %" PRIu64 " inside %" PRIu64, v.epoch, a->begin.epoch);
	if ((v.flags & ~(RPL_EPOCH_BULK | RPL_EPOCH_BULK_LAST)) || v.reserved)
		return rpl_fail(err, -EPROTO, "EPOCH_BEGIN %" PRIu64 ": flags 0x%x, reserved %u", v.epoch, v.flags, v.reserved);
	if (v.pages > a->layout->pages)
		return rpl_fail(err, -EPROTO, "EPOCH_BEGIN %" PRIu64 ": %" PRIu64 " pages, the guest has %" PRIu64, v.epoch,
				v.pages, a->layout->pages);
	if (!bulk) {
		int r = rpl_replica_begin(a->replica, v.epoch, err);

		if (r < 0)
			return r;
	}
	a->kind = bulk ? APPLY_ROUND : APPLY_EPOCH;
	a->begin = v;
	a->bytes = a->pages = a->state_len = 0;
	a->have_state = false;
	a->checkpoints = a->reader.checkpoints;
	rpl_digest_reset(a->digest);
	return 0;
}

/* ---- records */

static int check_producer(const struct apply *a, struct rpl_err *err)
{
	struct rpl_stream_producer v;
	int r = rpl_stream_get_producer(a->producer, a->producer_len, &v, err);

	if (r < 0)
		return r;
	if (v.n_ranges != a->layout->count)
		return rpl_fail(err, -EPROTO, "RPL_PRODUCER: %u ranges of RAM, our guest has %u", v.n_ranges, a->layout->count);
	for (unsigned i = 0; i < v.n_ranges; i++)
		if (v.ranges[i].pfn != a->layout->region[i].pfn || v.ranges[i].pages != a->layout->region[i].pages)
			return rpl_fail(err, -EPROTO, "RPL_PRODUCER: range %u has pfn %" PRIx64 " and %" PRIu64
					" pages, our guest has pfn %" PRIx64 " and %" PRIu64, i, v.ranges[i].pfn, v.ranges[i].pages,
					a->layout->region[i].pfn, a->layout->region[i].pages);
	return 0;
}

static bool is_record(const struct rpl_stream_event *ev, enum rpl_stream_layer layer, uint32_t type)
{
	return ev->rec.layer == layer && ev->rec.type == type;
}

/* A record begins: is this its place? */
static int record(struct apply *a, const struct rpl_stream_event *ev, struct rpl_err *err)
{
	bool libxc = ev->rec.layer == RPL_LAYER_LIBXC, ok = false;

	if (is_record(ev, RPL_LAYER_LIBXL, RPL_LIBXL_LIBXC_CONTEXT))
		ok = true; /* once: the reader sees to it */
	else if (libxc && ev->rec.type == (uint32_t)RPL_LIBXC_RPL_PRODUCER)
		ok = !a->is_static && a->producer_len == 0;
	else if (libxc && ev->rec.type == RPL_LIBXC_STATIC_DATA_END)
		ok = !a->is_static && a->producer_len;
	else if (libxc && ev->rec.type == RPL_LIBXC_PAGE_DATA)
		ok = a->is_static && !a->have_state;
	else if (libxc && ev->rec.type == RPL_LIBXC_CHECKPOINT)
		ok = a->is_static && a->kind == APPLY_EPOCH && a->reader.checkpoints == a->checkpoints;
	else if (!libxc && ev->rec.type == RPL_LIBXL_EMULATOR_CONTEXT)
		ok = a->is_static && a->kind == APPLY_EPOCH && !a->have_state && ev->emulator.id == RPL_EMULATOR_QEMU;
	else if (!libxc && ev->rec.type == RPL_LIBXL_CHECKPOINT_END)
		ok = a->have_state;
	if (!ok)
		return rpl_fail(err, -EPROTO, "%s %s record out of place in %s %" PRIu64, rpl_stream_layer_name(ev->rec.layer),
				rpl_stream_record_name(ev->rec.layer, ev->rec.type),
				a->kind == APPLY_EPOCH ? "epoch" : "round", a->begin.epoch);
	if (ev->remarks)
		return rpl_fail(err, -EPROTO, "%s record with reserved bits set",
				rpl_stream_record_name(ev->rec.layer, ev->rec.type));
	if (!libxc && ev->rec.type == RPL_LIBXL_EMULATOR_CONTEXT)
		a->have_state = true;
	a->in_record = true;
	return 0;
}

static int body(struct apply *a, const struct rpl_stream_event *ev, struct rpl_err *err)
{
	if (is_record(ev, RPL_LAYER_LIBXL, RPL_LIBXL_EMULATOR_CONTEXT)) {
		a->state_len += ev->len;
		return rpl_replica_state(a->replica, ev->bytes, ev->len, err);
	}
	if (is_record(ev, RPL_LAYER_LIBXC, (uint32_t)RPL_LIBXC_RPL_PRODUCER)) {
		if (ev->len > sizeof(a->producer) - a->producer_len)
			return rpl_fail(err, -EPROTO, "RPL_PRODUCER: more than %zu bytes", sizeof(a->producer));
		memcpy(a->producer + a->producer_len, ev->bytes, ev->len);
		a->producer_len += (uint32_t)ev->len;
		return 0;
	}
	return rpl_fail(err, -EPROTO, "%s record with a body of %u bytes",
			rpl_stream_record_name(ev->rec.layer, ev->rec.type), ev->rec.len);
}

static int record_end(struct apply *a, const struct rpl_stream_event *ev, struct rpl_err *err)
{
	a->in_record = false;
	if (is_record(ev, RPL_LAYER_LIBXC, (uint32_t)RPL_LIBXC_RPL_PRODUCER))
		return check_producer(a, err);
	if (is_record(ev, RPL_LAYER_LIBXC, RPL_LIBXC_STATIC_DATA_END))
		a->is_static = true;
	return 0;
}

static int event(struct apply *a, const struct rpl_stream_event *ev, struct rpl_err *err)
{
	switch (ev->kind) {
	case RPL_EV_LIBXL_HEADER:
	case RPL_EV_IMAGE_HEADER:
		return 0;
	case RPL_EV_DOMAIN_HEADER:
		if (ev->domain.type != RPL_DOMAIN_HVM || ev->domain.xen_major != RPL_XEN_MAJOR_NONE)
			return rpl_fail(err, -EPROTO, "a stream of domain type %u from Xen %u, expected a guest without Xen",
					ev->domain.type, ev->domain.xen_major);
		return 0;
	case RPL_EV_RECORD:
		return record(a, ev, err);
	case RPL_EV_PFNS:
		return 0;
	case RPL_EV_BODY:
		return body(a, ev, err);
	case RPL_EV_RECORD_END:
		return record_end(a, ev, err);
	default:
		return rpl_fail(err, -EPROTO, "stream offset %" PRIu64 ": pages outside a PAGES frame", ev->offset);
	}
}

static int feed(struct apply *a, const void *data, size_t len, struct rpl_err *err)
{
	struct rpl_stream_in in = { data, len };
	struct rpl_stream_event ev;
	int r;

	a->bytes += len;
	while ((r = rpl_stream_next(&a->reader, &in, &ev, err)) > 0) {
		r = event(a, &ev, err);
		if (r < 0)
			return r;
	}
	return r;
}

/* ---- frames */

static int stream(struct apply *a, const uint8_t *data, size_t len, struct rpl_err *err)
{
	uint64_t others = a->bytes - a->pages * RPL_PAGE_SIZE;

	/* Pages are counted; of the rest only so much can be sense. */
	if (others + len > (uint64_t)RPL_REPLICA_STATE_MAX + BACKUP_STREAM_EXTRA + a->pages * 24)
		return rpl_fail(err, -EMSGSIZE, "epoch %" PRIu64 ": more than %d bytes of stream besides its pages",
				a->begin.epoch, RPL_REPLICA_STATE_MAX + BACKUP_STREAM_EXTRA);
	rpl_digest_add(a->digest, data, len);
	return feed(a, data, len, err);
}

static bool is_whole(const struct rpl_pages *d, uint32_t i)
{
	return d->encoding[i] == RPL_PAGE_RAW || d->encoding[i] == RPL_PAGE_ZERO;
}

static int store_whole(struct apply *a, uint32_t from, uint32_t to, struct rpl_err *err)
{
	const void *page[RPL_PAGES_PER_FRAME];
	struct rpl_pages *d = &a->decoded;

	for (uint32_t i = from; i < to; i++)
		page[i] = d->encoding[i] == RPL_PAGE_ZERO ? NULL : d->page[i];
	return a->kind == APPLY_ROUND ? rpl_replica_bulk(a->replica, d->pfn + from, page + from, to - from, err)
				      : rpl_replica_pages(a->replica, d->pfn + from, page + from, to - from, err);
}

/* In their order, the whole ones in as long runs as there are. */
static int store(struct apply *a, struct rpl_err *err)
{
	const struct rpl_pages *d = &a->decoded;
	int r = 0;

	if (a->kind == APPLY_ROUND && (d->delta || d->same))
		return rpl_fail(err, -EPROTO, "round %" PRIu64 ": a page as what changed in it, which only a checkpoint has",
				a->begin.epoch);
	for (uint32_t i = 0, end; i < d->n && r == 0; i = end) {
		for (end = i; end < d->n && is_whole(d, end); end++)
			;
		if (end > i) {
			r = store_whole(a, i, end, err);
		} else {
			r = rpl_replica_delta(a->replica, d->pfn[i], d->base[i], d->page[i], d->len[i], err);
			end++;
		}
	}
	return r;
}

/* The reader gets the record's head and takes the pages as read; they go where they belong all at once. */
static int pages(struct apply *a, const uint8_t *data, size_t len, struct rpl_err *err)
{
	uint8_t head[RPL_STREAM_RECORD_HEAD + 8 + RPL_PAGES_PER_FRAME * 8];
	struct rpl_out o = rpl_out(head, sizeof(head));
	struct rpl_pages *d = &a->decoded;
	int r = rpl_pages_decode(data, len, d, err);

	if (r < 0)
		return r;
	if (a->in_record)
		return rpl_fail(err, -EPROTO, "PAGES inside a record");
	if (d->n > a->begin.pages - a->pages)
		return rpl_fail(err, -EPROTO, "epoch %" PRIu64 ": more than the %" PRIu64 " pages that were announced",
				a->begin.epoch, a->begin.pages);
	rpl_stream_put_page_data_head(&o, d->pfn, d->n, NULL);
	if (o.bad)
		return rpl_fail(err, -EPROTO, "PAGES: pfns that no record can hold");
	r = feed(a, head, o.len, err);
	if (r == 0)
		r = rpl_stream_pages_elsewhere(&a->reader, d->n, err);
	rpl_digest_add(a->digest, data, len);
	a->bytes += (uint64_t)d->n * RPL_PAGE_SIZE;
	a->pages += d->n;
	if (r == 0)
		r = feed(a, head, 0, err); /* lets the reader end the record */
	return r < 0 ? r : store(a, err);
}

int apply_frame(struct apply *a, enum rpl_frame type, const uint8_t *data, size_t len, struct rpl_err *err)
{
	if (type == RPL_FRAME_EPOCH_BEGIN)
		return begin(a, data, err);
	if (a->kind == APPLY_IDLE)
		return rpl_fail(err, -EPROTO, "%s outside an epoch", rpl_frame_name((uint16_t)type));
	return type == RPL_FRAME_PAGES ? pages(a, data, len, err) : stream(a, data, len, err);
}

/* ---- end */

static int verify(struct apply *a, const struct rpl_epoch_end *v, struct rpl_err *err)
{
	uint64_t checkpoints = a->reader.checkpoints - a->checkpoints;
	uint8_t digest[RPL_DIGEST_SIZE];

	if (v->epoch != a->begin.epoch)
		return rpl_fail(err, -EPROTO, "EPOCH_END %" PRIu64 " in epoch %" PRIu64, v->epoch, a->begin.epoch);
	if (v->pages != a->pages || v->pages != a->begin.pages || v->stream_bytes != a->bytes)
		return rpl_fail(err, -EPROTO, "EPOCH_END %" PRIu64 ": %" PRIu64 " pages and %" PRIu64
				" bytes said, %" PRIu64 " announced, %" PRIu64 " and %" PRIu64 " came", v->epoch, v->pages,
				v->stream_bytes, a->begin.pages, a->pages, a->bytes);
	if (a->in_record || checkpoints != (a->kind == APPLY_EPOCH) ||
	    (a->kind == APPLY_EPOCH && a->reader.good_offset != a->reader.offset))
		return rpl_fail(err, -EPROTO, "EPOCH_END %" PRIu64 ": the stream is not at the end of a %s", v->epoch,
				a->kind == APPLY_EPOCH ? "checkpoint" : "record");
	rpl_digest_end(a->digest, digest);
	if (memcmp(digest, v->digest, sizeof(digest)) != 0)
		return rpl_fail(err, -EBADMSG, "EPOCH_END %" PRIu64 ": the digest does not match its %" PRIu64 " bytes",
				v->epoch, a->bytes);
	return 0;
}

int apply_end(struct apply *a, const uint8_t *data, uint64_t *ret_epoch, struct rpl_err *err)
{
	struct rpl_epoch_end v;
	bool epoch = a->kind == APPLY_EPOCH;
	int r;

	rpl_epoch_end_decode(data, &v);
	if (a->kind == APPLY_IDLE)
		return rpl_fail(err, -EPROTO, "EPOCH_END %" PRIu64 " outside an epoch", v.epoch);
	r = verify(a, &v, err);
	if (r == 0 && epoch) {
		rpl_fault_die(RPL_FAULT_DIE_AT_S4);
		r = rpl_replica_seal(a->replica, v.digest, err);
	}
	if (r < 0)
		return r;
	a->kind = APPLY_IDLE;
	a->good = a->reader;
	a->good_static = a->is_static;
	*ret_epoch = v.epoch;
	return epoch;
}
