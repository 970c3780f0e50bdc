/* fuzz_apply.c - a primary's frames into a backup's staging area
 *
 * Input: operations {u8 what, u16 length, that many bytes}. Frames carry their bytes as they are; "fixed" frames get the
 * one thing right that bytes cannot guess (an epoch's end with its count and digest, a page record of consecutive
 * frames). Whatever comes: what the area says about itself stays true, and an activation afterwards finds the newest
 * sealed epoch or, without one, nothing.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <replicad/auto.h>

#include "../../src/engine/backup.h"
#include "fuzz.h"

#define RAM_PAGES 8
#define STAGING RPL_REPLICA_BYTES_MIN
#define ACKS 0x3

static struct {
	int staging_fd;
	struct rpl_memory *memory;
	struct rpl_replica *replica;
	struct apply apply;
	struct rpl_uuid session;
	uint64_t sealed; /* newest epoch that apply_end() called staged */
	bool misfit;     /* a delta that does not fit was found */
} box;

static void set_up(void)
{
	struct rpl_memory_desc desc = { .kind = RPL_MEMORY_REPLICA };
	struct rpl_err err;
	int ram = memfd_create("ram", MFD_CLOEXEC);

	box.staging_fd = memfd_create("staging", MFD_CLOEXEC);
	rpl_assert(ram >= 0 && box.staging_fd >= 0);
	rpl_assert(ftruncate(ram, RAM_PAGES * RPL_PAGE_SIZE) == 0 && ftruncate(box.staging_fd, STAGING) == 0);
	rpl_assert(rpl_layout_add(&desc.layout, 0, RAM_PAGES / 2, 0));
	rpl_assert(rpl_layout_add(&desc.layout, 16, RAM_PAGES / 2, RAM_PAGES / 2));
	box.memory = rpl_memory_new(&desc, &ram, 1, &err);
	rpl_assert(box.memory);
	box.replica = rpl_replica_open(box.staging_fd, STAGING, box.memory, true, &err);
	rpl_assert(box.replica);
	rpl_assert(apply_init(&box.apply, box.replica, rpl_memory_layout(box.memory), &err) == 0);
	memset(&box.session, 7, sizeof(box.session));
}

static int end(const uint8_t *p, size_t len, bool fixed, struct rpl_err *err)
{
	struct rpl_epoch_end v = { .epoch = box.apply.begin.epoch, .stream_bytes = box.apply.bytes,
				   .pages = box.apply.pages };
	uint8_t body[40] = { 0 };
	uint64_t epoch = 0;
	int r;

	memcpy(body, p, len < sizeof(body) ? len : sizeof(body));
	if (fixed) {
		rpl_digest_end(box.apply.digest, v.digest);
		rpl_epoch_end_encode(&v, body);
	}
	r = apply_end(&box.apply, body, &epoch, err);
	if (r == 1) {
		rpl_assert(box.sealed == 0 || epoch == box.sealed + 1);
		box.sealed = epoch;
	}
	return r;
}

/* First frame number, count: zero pages, all but for what the bytes change. */
static int pages(const uint8_t *p, size_t len, struct rpl_err *err)
{
	static uint8_t content[RPL_PAGES_PER_FRAME * RPL_PAGE_SIZE], body[RPL_PAGES_BODY_MAX];
	uint64_t pfns[RPL_PAGES_PER_FRAME];
	size_t n = len > 1 ? p[1] % RPL_PAGES_PER_FRAME + 1 : 1;
	uint32_t zero;

	for (size_t i = 0; i < n; i++)
		pfns[i] = (len ? p[0] : 0) + i;
	content[0] = len > 2 ? p[2] : 0;
	return apply_frame(&box.apply, RPL_FRAME_PAGES, body, rpl_pages_encode(pfns, content, n, body, &zero), err);
}

/* Frame number, base, where it changes, to what: a page as what changed in it since an epoch that may or may not be the right one. */
static int differs(const uint8_t *p, size_t len, struct rpl_err *err)
{
	static uint8_t page[RPL_PAGE_SIZE], last[RPL_PAGE_SIZE], body[RPL_PAGES_BODY_MAX];
	struct rpl_pages_out o;
	size_t n;

	if (len < 4)
		return 0;
	memset(page, 0, sizeof(page));
	memset(last, 0, sizeof(last));
	page[p[2] * 16] = p[3];
	rpl_pages_begin(&o, body, 1);
	n = rpl_delta_make(page, last, rpl_pages_delta_room(&o));
	if (n)
		rpl_pages_put_delta(&o, p[0], (uint32_t)box.sealed - p[1], n);
	else
		rpl_pages_put_same(&o, p[0], (uint32_t)box.sealed - p[1]);
	return apply_frame(&box.apply, RPL_FRAME_PAGES, body, o.len, err);
}

static int frame(enum rpl_frame type, const uint8_t *p, size_t len, size_t least, struct rpl_err *err)
{
	uint8_t padded[64] = { 0 };

	if (len >= least)
		return apply_frame(&box.apply, type, p, type == RPL_FRAME_EPOCH_BEGIN ? least : len, err);
	memcpy(padded, p, len);
	return apply_frame(&box.apply, type, padded, least, err);
}

static int ack(uint64_t back, struct rpl_err *err)
{
	struct rpl_replica_where w;

	rpl_replica_where(box.replica, &w);
	return w.staged > back ? rpl_replica_acked(box.replica, w.staged - back, err) : 0;
}

static bool misfit(int r)
{
	box.misfit |= r == -EBADMSG;
	return box.misfit;
}

/* A delta that was made from another page is found here, and the replica is of no use from then on. */
static int fold(struct rpl_err *err)
{
	int r = rpl_replica_fold(box.replica, 1, err);

	rpl_assert(r >= 0 || misfit(r));
	return 0;
}

static int operation(uint8_t what, const uint8_t *p, size_t len, struct rpl_err *err)
{
	switch (what % 10) {
	case 0:
		return frame(RPL_FRAME_EPOCH_BEGIN, p, len, 24, err);
	case 1:
		return frame(RPL_FRAME_STREAM, p, len, 1, err);
	case 2:
		return frame(RPL_FRAME_PAGES, p, len, 16, err);
	case 3:
		return end(p, len, false, err);
	case 4:
		return end(p, len, true, err);
	case 5:
		return pages(p, len, err);
	case 6:
		return ack(len & ACKS, err);
	case 7:
		return fold(err);
	case 9:
		return differs(p, len, err);
	default:
		apply_cut(&box.apply); /* the connection was lost; the session goes on */
		return 0;
	}
}

static void check(void)
{
	struct rpl_replica_where w;

	rpl_replica_where(box.replica, &w);
	rpl_assert(w.staged == box.sealed);
	rpl_assert(w.acked <= w.staged && w.folded <= w.acked);
	rpl_assert(w.staged == 0 || w.missing == 0);
	rpl_assert(rpl_replica_free_bytes(box.replica) <= STAGING);
}

static void activate(void)
{
	struct rpl_replica *found;
	const void *state;
	uint64_t epoch;
	size_t len;
	struct rpl_err err;
	int r;

	found = rpl_replica_open(box.staging_fd, STAGING, box.memory, false, &err);
	rpl_assert(found);
	r = rpl_replica_activate(found, &box.session, &epoch, &state, &len, &err);
	if (box.sealed && r < 0)
		rpl_assert(r == -EBADMSG && strstr(err.msg, "made from another page"));
	else
		rpl_assert(box.sealed ? epoch == box.sealed && len > 0 && !box.misfit : r == -ENODATA);
	rpl_replica_close(found);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct rpl_err err;

	if (!box.memory)
		set_up();
	box.sealed = 0;
	box.misfit = false;
	rpl_replica_session(box.replica, &box.session);
	apply_cut(&box.apply);
	apply_session(&box.apply);
	while (len >= 3) {
		size_t n = (size_t)data[1] | (size_t)data[2] << 8;
		uint8_t what = data[0];

		data += 3;
		len -= 3;
		if (n > len)
			n = len;
		if (operation(what, data, n, &err) < 0)
			apply_cut(&box.apply);
		check();
		data += n;
		len -= n;
	}
	activate();
	return 0;
}
