/* What a backup refuses of a stream's records, in the process: the lies that need bytes in frames which tests/unit/mover_hostile
 * does not bend. After each the epoch is cut, and an honest one is staged as if nothing had been. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include <replicad/auto.h>

#include "src/engine/backup.h"

#define RAM_PAGES 8
#define STAGING RPL_REPLICA_BYTES_MIN
#define FIRST 1 /* the first checkpoint's number */

static struct {
	struct rpl_memory *memory;
	struct rpl_replica *replica;
	struct apply apply;
	struct rpl_uuid session;
	struct rpl_err err;
} box;

static int set_up(void **state)
{
	struct rpl_memory_desc desc = { .kind = RPL_MEMORY_REPLICA };
	int ram = memfd_create("ram", MFD_CLOEXEC), staging = memfd_create("staging", MFD_CLOEXEC);

	(void)state;
	assert_true(ram >= 0 && staging >= 0);
	assert_int_equal(ftruncate(ram, RAM_PAGES * RPL_PAGE_SIZE), 0);
	assert_int_equal(ftruncate(staging, STAGING), 0);
	assert_true(rpl_layout_add(&desc.layout, 0, RAM_PAGES, 0));
	box.memory = rpl_memory_new(&desc, &ram, 1, &box.err);
	assert_non_null(box.memory);
	box.replica = rpl_replica_open(staging, STAGING, box.memory, true, &box.err);
	(void)close(staging);
	assert_non_null(box.replica);
	assert_int_equal(apply_init(&box.apply, box.replica, rpl_memory_layout(box.memory), &box.err), 0);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	rpl_digest_free(box.apply.digest);
	rpl_replica_close(box.replica);
	rpl_memory_free(box.memory);
	return 0;
}

/* ---- an honest primary */

static int begin(uint64_t epoch, uint32_t flags, uint64_t pages)
{
	uint8_t body[24];

	rpl_epoch_begin_encode(&(struct rpl_epoch_begin){ .epoch = epoch, .flags = flags, .pages = pages }, body);
	return apply_frame(&box.apply, RPL_FRAME_EPOCH_BEGIN, body, sizeof(body), &box.err);
}

static int stream(const void *bytes, size_t len)
{
	return apply_frame(&box.apply, RPL_FRAME_STREAM, bytes, len, &box.err);
}

static int all_pages(void)
{
	static const uint8_t content[RAM_PAGES * RPL_PAGE_SIZE];
	uint8_t body[RPL_PAGES_BODY_MAX];
	uint64_t pfns[RAM_PAGES];
	uint32_t zero;

	for (uint64_t i = 0; i < RAM_PAGES; i++)
		pfns[i] = i;
	return apply_frame(&box.apply, RPL_FRAME_PAGES, body, rpl_pages_encode(pfns, content, RAM_PAGES, body, &zero), &box.err);
}

static int end(uint64_t epoch)
{
	struct rpl_epoch_end v = { .epoch = epoch, .stream_bytes = box.apply.bytes, .pages = box.apply.pages };
	uint8_t body[40];
	uint64_t staged;

	rpl_digest_end(box.apply.digest, v.digest);
	rpl_epoch_end_encode(&v, body);
	return apply_end(&box.apply, body, &staged, &box.err);
}

static struct rpl_stream_producer our_producer(void)
{
	struct rpl_stream_producer v = { .kind = RPL_PRODUCER_SIM, .n_ranges = 1, .name = "raw", .machine = "raw" };

	v.ranges[0] = (struct rpl_stream_range){ 0, RAM_PAGES, 0 };
	return v;
}

/* Everything before the producer's record; then that. */
static int headers(const struct rpl_stream_producer *v)
{
	struct rpl_stream_domain_header d = { .type = RPL_DOMAIN_HVM, .page_shift = RPL_STREAM_PAGE_SHIFT,
					      .xen_major = RPL_XEN_MAJOR_NONE };
	uint8_t bytes[4096];
	struct rpl_out o = rpl_out(bytes, sizeof(bytes));

	rpl_stream_put_libxl_header(&o, 0);
	rpl_stream_put_record(&o, RPL_LIBXL_LIBXC_CONTEXT, NULL, 0);
	rpl_stream_put_image_header(&o, RPL_IMAGE_V3);
	rpl_stream_put_domain_header(&o, &d);
	if (v)
		rpl_stream_put_producer(&o, v);
	assert_false(o.bad);
	return stream(bytes, o.len);
}

static int record_of(uint32_t type)
{
	uint8_t bytes[16];
	struct rpl_out o = rpl_out(bytes, sizeof(bytes));

	rpl_stream_put_record(&o, type, NULL, 0);
	return stream(bytes, o.len);
}

/* A session up to its first checkpoint. */
static void honest_start(void)
{
	struct rpl_stream_producer v = our_producer();

	rpl_uuid_random(&box.session);
	rpl_replica_session(box.replica, &box.session);
	apply_cut(&box.apply);
	apply_session(&box.apply);
	assert_int_equal(begin(1, RPL_EPOCH_BULK, RAM_PAGES), 0);
	assert_int_equal(headers(&v), 0);
	assert_int_equal(record_of(RPL_LIBXC_STATIC_DATA_END), 0);
	assert_int_equal(all_pages(), 0);
	assert_int_equal(end(1), 0);
}

static int device_state(size_t len)
{
	uint8_t *bytes = calloc(1, len + 128);
	struct rpl_out o = rpl_out(bytes, len + 128);
	int r;

	rpl_stream_put_emulator_head(&o, RPL_LIBXL_EMULATOR_CONTEXT, RPL_EMULATOR_QEMU, (uint32_t)len);
	o.len += len;
	rpl_stream_put_padding(&o, (uint32_t)len);
	assert_false(o.bad);
	r = stream(bytes, o.len);
	free(bytes);
	return r;
}

static void honest_epoch(uint64_t epoch)
{
	assert_int_equal(begin(epoch, 0, RAM_PAGES), 0);
	assert_int_equal(all_pages(), 0);
	assert_int_equal(record_of(RPL_LIBXC_CHECKPOINT), 0);
	assert_int_equal(device_state(100), 0);
	assert_int_equal(record_of(RPL_LIBXL_CHECKPOINT_END), 0);
	assert_int_equal(end(epoch), 1);
}

static void expect(int r, int code, const char *why)
{
	if (r != code || !strstr(box.err.msg, why))
		fail_msg("%d '%s', expected %d and '%s'", r, box.err.msg, code, why);
}

/* ---- the lies */

static void another_number_of_ranges(void **state)
{
	struct rpl_stream_producer v = our_producer();

	(void)state;
	honest_start();
	apply_session(&box.apply);
	v.n_ranges = 2;
	v.ranges[1] = (struct rpl_stream_range){ 0x1000, 8, RAM_PAGES };
	assert_int_equal(begin(1, RPL_EPOCH_BULK, RAM_PAGES), 0);
	expect(headers(&v), -EPROTO, "2 ranges of RAM, our guest has 1");
	honest_start();
	honest_epoch(FIRST);
}

static void a_text_with_a_nul(void **state)
{
	struct rpl_stream_producer v = our_producer();
	uint8_t bytes[256], *nul;
	struct rpl_out o = rpl_out(bytes, sizeof(bytes));

	(void)state;
	honest_start();
	apply_session(&box.apply);
	assert_int_equal(begin(1, RPL_EPOCH_BULK, RAM_PAGES), 0);
	assert_int_equal(headers(NULL), 0);
	rpl_stream_put_producer(&o, &v);
	nul = memmem(bytes, o.len, "raw", 3);
	assert_non_null(nul);
	nul[1] = '\0';
	expect(stream(bytes, o.len), -EBADMSG, "holds a NUL");
	honest_start();
	honest_epoch(FIRST);
}

/* One page as the same as in epoch `base`. */
static int same_page(uint64_t pfn, uint32_t base)
{
	uint8_t body[64];
	struct rpl_pages_out o;

	rpl_pages_begin(&o, body, 1);
	rpl_pages_put_same(&o, pfn, base);
	return apply_frame(&box.apply, RPL_FRAME_PAGES, body, o.len, &box.err);
}

static void a_difference_where_there_is_nothing_to_differ_from(void **state)
{
	(void)state;
	honest_start();
	assert_int_equal(begin(2, RPL_EPOCH_BULK, RAM_PAGES), 0);
	expect(same_page(1, FIRST), -EPROTO, "round 2: a page as what changed in it");
	honest_start();
	assert_int_equal(begin(FIRST, 0, RAM_PAGES), 0);
	expect(same_page(1, FIRST), -EPROTO, "epoch 1: pfn 1: what changed since epoch 1, but it came last in a round");
	apply_cut(&box.apply);
	honest_epoch(FIRST);
	assert_int_equal(begin(FIRST + 1, 0, RAM_PAGES), 0);
	expect(same_page(1, FIRST + 1), -EPROTO, "but it came last in epoch 1");
	apply_cut(&box.apply);
	assert_int_equal(begin(FIRST + 1, 0, RAM_PAGES), 0);
	assert_int_equal(same_page(1, FIRST), 0);
	apply_cut(&box.apply);
	honest_epoch(FIRST + 1);
}

static void pages_inside_a_record(void **state)
{
	uint8_t bytes[64];
	struct rpl_out o = rpl_out(bytes, sizeof(bytes));

	(void)state;
	honest_start();
	assert_int_equal(begin(FIRST, 0, RAM_PAGES), 0);
	assert_int_equal(record_of(RPL_LIBXC_CHECKPOINT), 0);
	rpl_stream_put_emulator_head(&o, RPL_LIBXL_EMULATOR_CONTEXT, RPL_EMULATOR_QEMU, 100);
	assert_int_equal(stream(bytes, o.len), 0);
	expect(all_pages(), -EPROTO, "PAGES inside a record");
	apply_cut(&box.apply);
	honest_epoch(FIRST);
}

/* A record of descriptors that carry no page is legal as often as one likes, but only so many bytes of them are sense. */
static size_t empty_descriptors(uint8_t *bytes, size_t size, uint32_t reserved)
{
	uint64_t descs[RPL_STREAM_PAGES_PER_RECORD];
	struct rpl_out o = rpl_out(bytes, size);

	for (uint64_t i = 0; i < RPL_STREAM_PAGES_PER_RECORD; i++)
		descs[i] = (uint64_t)RPL_PAGE_XTAB << 60 | i;
	rpl_stream_put_page_data_head(&o, descs, RPL_STREAM_PAGES_PER_RECORD, NULL);
	rpl_stream_put_padding(&o, (uint32_t)o.len);
	assert_false(o.bad);
	memcpy(bytes + RPL_STREAM_RECORD_HEAD + 4, &reserved, sizeof(reserved));
	return o.len;
}

static void an_endless_epoch(void **state)
{
	static uint8_t bytes[16384];
	size_t len = empty_descriptors(bytes, sizeof(bytes), 0);
	uint64_t sent = 0;
	int r = 0;

	(void)state;
	honest_start();
	assert_int_equal(begin(FIRST, 0, RAM_PAGES), 0);
	while (r == 0 && sent < 2 * (uint64_t)RPL_REPLICA_STATE_MAX) {
		r = stream(bytes, len);
		sent += len;
	}
	expect(r, -EMSGSIZE, "bytes of stream besides its pages");
	apply_cut(&box.apply);
	honest_epoch(FIRST);
}

static void reserved_bits(void **state)
{
	static uint8_t bytes[16384];
	size_t len = empty_descriptors(bytes, sizeof(bytes), 1);

	(void)state;
	honest_start();
	assert_int_equal(begin(FIRST, 0, RAM_PAGES), 0);
	expect(stream(bytes, len), -EPROTO, "reserved bits set");
	apply_cut(&box.apply);
	honest_epoch(FIRST);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(another_number_of_ranges),
		cmocka_unit_test(a_text_with_a_nul),
		cmocka_unit_test(a_difference_where_there_is_nothing_to_differ_from),
		cmocka_unit_test(pages_inside_a_record),
		cmocka_unit_test(an_endless_epoch),
		cmocka_unit_test(reserved_bits),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
