/* A peer that lies about one thing at a time. Whatever it is: the connection ends with a reason that names it, the
 * mover lives, and an honest session works afterwards. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <replicad/auto.h>
#include <replicad/pages.h>
#include <replicad/stream.h>

#include "tests/lib/raw_peer.h"

#define PAGES 64
#define FIRST 10 /* the first checkpoint's number */

enum depth { BEFORE_HELLO, BEFORE_READY, AT_READY, AFTER_BULK, AFTER_EPOCH };

struct lie {
	const char *name;
	enum depth depth;
	void (*tell)(struct raw *p, struct rig *r);
	const char *why; /* in LINK_DOWN's text */
};

/* ---- hello */

static void not_hello_first(struct raw *p, struct rig *r)
{
	(void)r;
	raw_send(p, RPL_FRAME_HEARTBEAT, NULL, 0);
}

static void other_vm(struct raw *p, struct rig *r)
{
	struct rpl_hello h = raw_hello_of(r, RPL_ROLE_PRIMARY);

	rpl_uuid_random(&h.session);
	rpl_uuid_random(&h.vm);
	raw_hello(p, &h);
}

static void other_ram(struct raw *p, struct rig *r)
{
	struct rpl_hello h = raw_hello_of(r, RPL_ROLE_PRIMARY);

	rpl_uuid_random(&h.session);
	h.ram_pages++;
	raw_hello(p, &h);
}

static void same_role(struct raw *p, struct rig *r)
{
	struct rpl_hello h = raw_hello_of(r, RPL_ROLE_BACKUP);

	raw_hello(p, &h);
}

static void no_session(struct raw *p, struct rig *r)
{
	struct rpl_hello h = raw_hello_of(r, RPL_ROLE_PRIMARY);

	memset(&h.session, 0, sizeof(h.session));
	raw_hello(p, &h);
}

static void second_hello(struct raw *p, struct rig *r)
{
	struct rpl_hello h = raw_hello_of(r, RPL_ROLE_PRIMARY);

	raw_hello(p, &h);
}

static void binary_definition(struct raw *p, struct rig *r)
{
	(void)r;
	raw_send(p, RPL_FRAME_DEFINITION, "a=\033[2J", 6);
}

static void epoch_before_ready(struct raw *p, struct rig *r)
{
	(void)r;
	raw_begin(p, 1, RPL_EPOCH_BULK, 1);
}

/* ---- frames */

static void ack_from_primary(struct raw *p, struct rig *r)
{
	uint8_t body[24];

	rpl_session_epoch_encode(&(struct rpl_session_epoch){ .session = r->session, .epoch = FIRST }, body);
	raw_send(p, RPL_FRAME_ACK, body, sizeof(body));
}

static void handover_of_another_session(struct raw *p, struct rig *r)
{
	struct rpl_handover v = { .epoch = FIRST };
	uint8_t body[32];

	(void)r;
	rpl_uuid_random(&v.session);
	rpl_handover_encode(&v, body);
	raw_send(p, RPL_FRAME_HANDOVER, body, sizeof(body));
}

static void stream_outside(struct raw *p, struct rig *r)
{
	(void)r;
	raw_stream(p, "12345678", 8);
}

static void begin_inside(struct raw *p, struct rig *r)
{
	(void)r;
	raw_begin(p, FIRST + 1, 0, 1);
	raw_begin(p, FIRST + 2, 0, 1);
}

static void end_outside(struct raw *p, struct rig *r)
{
	(void)r;
	raw_end(p, FIRST);
}

static void unknown_flags(struct raw *p, struct rig *r)
{
	(void)r;
	raw_begin(p, FIRST + 1, 0x80, 1);
}

static void too_many_pages_announced(struct raw *p, struct rig *r)
{
	raw_begin(p, FIRST + 1, 0, r->pages + 1);
}

static void more_pages_than_announced(struct raw *p, struct rig *r)
{
	(void)r;
	raw_begin(p, FIRST + 1, 0, 2);
	raw_pages(p, 0, 3);
}

static void fewer_pages_than_announced(struct raw *p, struct rig *r)
{
	(void)r;
	raw_begin(p, FIRST + 1, 0, 4);
	raw_pages(p, 0, 3);
	raw_tail(p, 100);
	raw_end(p, FIRST + 1);
}

static void page_outside_layout(struct raw *p, struct rig *r)
{
	raw_begin(p, FIRST + 1, 0, 1);
	raw_pages(p, r->conf.memory.layout.region[0].pages, 1); /* the hole between the regions */
}

static void page_far_outside_layout(struct raw *p, struct rig *r)
{
	(void)r;
	raw_begin(p, FIRST + 1, 0, 1);
	raw_pages(p, (UINT64_C(1) << 52) - 2, 1);
}

static void bulk_page_outside_layout(struct raw *p, struct rig *r)
{
	raw_begin(p, 1, RPL_EPOCH_BULK, 1);
	raw_headers(p, r);
	raw_pages(p, RIG_HIGH_PFN + r->pages, 1);
}

/* ---- epochs */

static void epoch_gap(struct raw *p, struct rig *r)
{
	(void)r;
	raw_epoch(p, FIRST + 2);
}

static void epoch_replayed(struct raw *p, struct rig *r)
{
	(void)r;
	raw_epoch(p, FIRST);
}

static void epoch_zero(struct raw *p, struct rig *r)
{
	(void)r;
	raw_begin(p, 0, 0, 1);
}

static void end_of_another_epoch(struct raw *p, struct rig *r)
{
	(void)r;
	raw_begin(p, FIRST + 1, 0, 1);
	raw_pages(p, 0, 1);
	raw_tail(p, 100);
	raw_end(p, FIRST + 2);
}

static void wrong_digest(struct raw *p, struct rig *r)
{
	(void)r;
	raw_begin(p, FIRST + 1, 0, 1);
	raw_pages(p, 0, 1);
	raw_tail(p, 100);
	rpl_digest_add(p->digest, "x", 1);
	raw_end(p, FIRST + 1);
}

static void wrong_length(struct raw *p, struct rig *r)
{
	(void)r;
	raw_begin(p, FIRST + 1, 0, 1);
	raw_pages(p, 0, 1);
	raw_tail(p, 100);
	p->bytes++;
	raw_end(p, FIRST + 1);
}

static void bulk_after_checkpoint(struct raw *p, struct rig *r)
{
	(void)r;
	raw_begin(p, 2, RPL_EPOCH_BULK, 1);
	raw_pages(p, 0, 1);
}

static void checkpoint_without_bulk(struct raw *p, struct rig *r)
{
	raw_begin(p, FIRST, 0, 3);
	raw_headers(p, r);
	raw_pages(p, 0, 3);
	raw_tail(p, 100);
	raw_end(p, FIRST);
}

/* Fills the staging area with one epoch after the other, never acked (nobody told the keeper to). */
static void too_many_epochs(struct raw *p, struct rig *r)
{
	uint64_t e = FIRST + 1;

	for (; e < FIRST + RPL_REPLICA_EPOCHS - 1; e++) {
		raw_epoch(p, e);
		(void)side_expect(&r->b, RPL_MOVER_EPOCH_STAGED);
	}
	raw_epoch(p, e);
}

static void too_much_in_flight(struct raw *p, struct rig *r)
{
	(void)r;
	for (uint64_t e = FIRST + 1; e < FIRST + 8; e++) {
		raw_begin(p, e, 0, 0);
		raw_tail(p, 12 << 20);
		raw_end(p, e);
	}
}

/* ---- device state and records */

static void state_too_large(struct raw *p, struct rig *r)
{
	(void)r;
	raw_begin(p, FIRST + 1, 0, 0);
	raw_tail(p, RPL_REPLICA_STATE_MAX + 1);
}

static void state_missing(struct raw *p, struct rig *r)
{
	uint8_t bytes[64];
	struct rpl_out o = rpl_out(bytes, sizeof(bytes));

	(void)r;
	raw_begin(p, FIRST + 1, 0, 0);
	rpl_stream_put_record(&o, RPL_LIBXC_CHECKPOINT, NULL, 0);
	rpl_stream_put_record(&o, RPL_LIBXL_CHECKPOINT_END, NULL, 0);
	raw_stream(p, bytes, o.len);
}

static void state_empty(struct raw *p, struct rig *r)
{
	(void)r;
	raw_begin(p, FIRST + 1, 0, 0);
	raw_tail(p, 0);
	raw_end(p, FIRST + 1);
}

static void state_twice(struct raw *p, struct rig *r)
{
	uint8_t bytes[256] = { 0 };
	struct rpl_out o = rpl_out(bytes, sizeof(bytes));

	(void)r;
	raw_begin(p, FIRST + 1, 0, 0);
	rpl_stream_put_record(&o, RPL_LIBXC_CHECKPOINT, NULL, 0);
	for (int i = 0; i < 2; i++) {
		rpl_stream_put_emulator_head(&o, RPL_LIBXL_EMULATOR_CONTEXT, RPL_EMULATOR_QEMU, 16);
		o.len += 16;
	}
	raw_stream(p, bytes, o.len);
}

static void two_checkpoints_in_one(struct raw *p, struct rig *r)
{
	(void)r;
	raw_begin(p, FIRST + 1, 0, 0);
	raw_tail(p, 100);
	raw_tail(p, 100);
}

static void pages_behind_the_checkpoint(struct raw *p, struct rig *r)
{
	(void)r;
	raw_begin(p, FIRST + 1, 0, 1);
	raw_tail(p, 100);
	raw_pages(p, 0, 1);
}

static void end_without_checkpoint(struct raw *p, struct rig *r)
{
	(void)r;
	raw_begin(p, FIRST + 1, 0, 1);
	raw_pages(p, 0, 1);
	raw_end(p, FIRST + 1);
}

static void checkpoint_in_a_round(struct raw *p, struct rig *r)
{
	(void)r;
	raw_begin(p, 2, RPL_EPOCH_BULK, 0);
	raw_tail(p, 100);
}

/* The libxl layer comes before the libxc image: state there, outside any epoch's place. */
static void state_before_the_image(struct raw *p, struct rig *r)
{
	uint8_t bytes[256] = { 0 };
	struct rpl_out o = rpl_out(bytes, sizeof(bytes));

	(void)r;
	raw_begin(p, 1, RPL_EPOCH_BULK, 1);
	rpl_stream_put_libxl_header(&o, 0);
	rpl_stream_put_emulator_head(&o, RPL_LIBXL_EMULATOR_CONTEXT, RPL_EMULATOR_QEMU, 16);
	o.len += 16;
	raw_stream(p, bytes, o.len);
}

static void pages_before_headers(struct raw *p, struct rig *r)
{
	(void)r;
	raw_begin(p, 1, RPL_EPOCH_BULK, 1);
	raw_pages(p, 0, 1);
}

static void a_xen_stream(struct raw *p, struct rig *r)
{
	struct rpl_stream_domain_header d = { .type = RPL_DOMAIN_PV, .page_shift = RPL_STREAM_PAGE_SHIFT, .xen_major = 4 };
	uint8_t bytes[256];
	struct rpl_out o = rpl_out(bytes, sizeof(bytes));

	(void)r;
	raw_begin(p, 1, RPL_EPOCH_BULK, 1);
	rpl_stream_put_libxl_header(&o, 0);
	rpl_stream_put_record(&o, RPL_LIBXL_LIBXC_CONTEXT, NULL, 0);
	rpl_stream_put_image_header(&o, RPL_IMAGE_V3);
	rpl_stream_put_domain_header(&o, &d);
	raw_stream(p, bytes, o.len);
}

static void another_layout(struct raw *p, struct rig *r)
{
	struct rig other = *r;

	other.conf.memory.layout.region[1].pfn += 1;
	raw_begin(p, 1, RPL_EPOCH_BULK, 1);
	raw_headers(p, &other);
}

static void page_data_in_stream(struct raw *p, struct rig *r)
{
	static uint8_t bytes[RPL_PAGE_SIZE + 64];
	struct rpl_out o = rpl_out(bytes, sizeof(bytes));
	uint64_t pfn = 1;

	(void)r;
	raw_begin(p, FIRST + 1, 0, 1);
	rpl_stream_put_page_data_head(&o, &pfn, 1, NULL);
	raw_stream(p, bytes, o.len + RPL_PAGE_SIZE);
}

static void pages_inside_a_record(struct raw *p, struct rig *r)
{
	uint8_t bytes[8];
	struct rpl_out o = rpl_out(bytes, sizeof(bytes));

	(void)r;
	raw_begin(p, FIRST + 1, 0, 1);
	rpl_stream_put_record_head(&o, RPL_LIBXC_HVM_CONTEXT, 4096);
	raw_stream(p, bytes, o.len);
	raw_pages(p, 0, 1);
}

static void half_a_head_then_pages(struct raw *p, struct rig *r)
{
	(void)r;
	raw_begin(p, FIRST + 1, 0, 1);
	raw_stream(p, "\x0e\0\0\0", 4);
	raw_pages(p, 0, 1);
}

static void garbage(struct raw *p, struct rig *r)
{
	static uint8_t bytes[5000];

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)rig_random(r, 256);
	raw_begin(p, FIRST + 1, 0, 1);
	raw_stream(p, bytes, sizeof(bytes));
}

static const struct lie lies_to_backup[] = {
	{ "not hello first", BEFORE_HELLO, not_hello_first, "HELLO" },
	{ "another VM", BEFORE_HELLO, other_vm, "" },
	{ "another RAM size", BEFORE_HELLO, other_ram, "65" },
	{ "two backups", BEFORE_HELLO, same_role, "one side must be" },
	{ "no session", BEFORE_HELLO, no_session, "session" },
	{ "second hello", BEFORE_READY, second_hello, "HELLO" },
	{ "binary definition", BEFORE_READY, binary_definition, "byte 0x1b at 2" },
	{ "epoch before READY", BEFORE_READY, epoch_before_ready, "before the session is accepted" },
	{ "ack from a primary", AT_READY, ack_from_primary, "ACK from a primary" },
	{ "foreign handover", AFTER_EPOCH, handover_of_another_session, "which is not ours" },
	{ "stream outside", AT_READY, stream_outside, "STREAM outside an epoch" },
	{ "begin inside", AFTER_EPOCH, begin_inside, "inside" },
	{ "end outside", AFTER_EPOCH, end_outside, "EPOCH_END 10 outside an epoch" },
	{ "flags", AFTER_EPOCH, unknown_flags, "flags 0x80" },
	{ "too many announced", AFTER_EPOCH, too_many_pages_announced, "65 pages, the guest has 64" },
	{ "more than announced", AFTER_EPOCH, more_pages_than_announced, "more than the 2 pages" },
	{ "fewer than announced", AFTER_EPOCH, fewer_pages_than_announced, "4 announced, 3" },
	{ "page outside", AFTER_EPOCH, page_outside_layout, "outside the guest's RAM" },
	{ "page far outside", AFTER_EPOCH, page_far_outside_layout, "outside the guest's RAM" },
	{ "bulk page outside", AT_READY, bulk_page_outside_layout, "outside the guest's RAM" },
	{ "epoch gap", AFTER_EPOCH, epoch_gap, "epoch 12 after epoch 10" },
	{ "epoch replayed", AFTER_EPOCH, epoch_replayed, "epoch 10 after epoch 10" },
	{ "epoch zero", AFTER_BULK, epoch_zero, "epoch 0" },
	{ "another end", AFTER_EPOCH, end_of_another_epoch, "EPOCH_END 12 in epoch 11" },
	{ "wrong digest", AFTER_EPOCH, wrong_digest, "digest" },
	{ "wrong length", AFTER_EPOCH, wrong_length, "bytes said" },
	{ "bulk after checkpoint", AFTER_EPOCH, bulk_after_checkpoint, "bulk pages after epoch 10" },
	{ "checkpoint without bulk", AT_READY, checkpoint_without_bulk, "61 of 64 pages were never sent" },
	{ "too many epochs", AFTER_EPOCH, too_many_epochs, "epochs are staged and not acked" },
	{ "too much in flight", AFTER_EPOCH, too_much_in_flight, "is full" },
	{ "state too large", AFTER_EPOCH, state_too_large, "more than" },
	{ "state missing", AFTER_EPOCH, state_missing, "CHECKPOINT_END record out of place" },
	{ "state empty", AFTER_EPOCH, state_empty, "no device state" },
	{ "state twice", AFTER_EPOCH, state_twice, "EMULATOR_CONTEXT record out of place" },
	{ "two checkpoints", AFTER_EPOCH, two_checkpoints_in_one, "CHECKPOINT record out of place" },
	{ "pages behind", AFTER_EPOCH, pages_behind_the_checkpoint, "PAGE_DATA record out of place" },
	{ "no checkpoint", AFTER_EPOCH, end_without_checkpoint, "not at the end of a checkpoint" },
	{ "checkpoint in a round", AFTER_BULK, checkpoint_in_a_round, "CHECKPOINT record out of place" },
	{ "state before the image", AT_READY, state_before_the_image, "EMULATOR_CONTEXT record out of place" },
	{ "pages before headers", AT_READY, pages_before_headers, "" },
	{ "a Xen stream", AT_READY, a_xen_stream, "expected a guest without Xen" },
	{ "another layout", AT_READY, another_layout, "RPL_PRODUCER: range 1" },
	{ "PAGE_DATA in STREAM", AFTER_EPOCH, page_data_in_stream, "outside a PAGES frame" },
	{ "pages inside a record", AFTER_EPOCH, pages_inside_a_record, "" },
	{ "half a head", AFTER_EPOCH, half_a_head_then_pages, "" },
	{ "garbage", AFTER_EPOCH, garbage, "" },
};

static void prepare(struct raw *p, struct rig *r, enum depth depth)
{
	struct rpl_hello h;

	if (depth <= BEFORE_READY) {
		rpl_uuid_random(&r->session);
		raw_client(p, r);
		h = raw_hello_of(r, RPL_ROLE_PRIMARY);
		if (depth == BEFORE_READY)
			raw_hello(p, &h);
		return;
	}
	raw_session(p, r);
	if (depth >= AFTER_BULK)
		raw_bulk(p, r);
	if (depth >= AFTER_EPOCH)
		raw_epoch(p, FIRST);
}

static void every_lie_to_a_backup_ends_the_connection(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, PAGES);
	rig_start_primary(&r);
	rig_start_backup(&r);
	for (size_t i = 0; i < RPL_ARRAY_LEN(lies_to_backup); i++) {
		const struct lie *lie = &lies_to_backup[i];
		const struct rpl_mover_msg *m = &r.b.last;
		struct raw p;

		prepare(&p, &r, lie->depth);
		lie->tell(&p, &r);
		do
			if (!side_receive(&r.b, RIG_WAIT_MS))
				fail_msg("%s: the connection lives on, or the mover is gone", lie->name);
		while (m->type != RPL_MOVER_LINK_DOWN);
		if (!strstr(m->text, lie->why) || m->text[0] == '\0')
			fail_msg("%s: says '%s', expected '%s'", lie->name, m->text, lie->why);
		raw_close(&p);
	}
	rig_protect(&r);
	rig_run(&r, 50);
	rig_stage(&r);
	rig_commit(&r);
	rig_wait_folded(&r, r.epoch);
	assert_int_equal(rig_differs(&r, r.epoch), -1);
	rig_fini(&r);
}

/* Every frame type with a body of noise, at every depth: no matter what comes, the mover says LINK_DOWN and lives. */
static void noise_never_kills_a_backup(void **state)
{
	static uint8_t body[RPL_PAGES_BODY_MAX];
	static const struct { enum rpl_frame type; size_t min, max; } types[] = {
#define X(name, number, min, max) { RPL_FRAME_##name, min, max },
		RPL_FRAMES(X)
#undef X
	};
	struct rig r;

	(void)state;
	rig_init(&r, PAGES);
	rig_start_backup(&r);
	for (int round = 0; round < 150; round++) {
		struct raw p;

		prepare(&p, &r, (enum depth)rig_random(&r, 5));
		if (rig_random(&r, 2))
			raw_begin(&p, FIRST + 1, 0, 5);
		for (int i = 0; i < 20; i++) {
			size_t t = rig_random(&r, RPL_ARRAY_LEN(types)), max = types[t].max < 2000 ? types[t].max : 2000;
			size_t len = types[t].min + rig_random(&r, max - types[t].min + 1);

			for (size_t k = 0; k < len; k++)
				body[k] = (uint8_t)(rig_random(&r, 4) ? 0 : rig_random(&r, 256));
			raw_send(&p, types[t].type, body, len);
		}
		raw_close(&p);
		while (r.b.last.type != RPL_MOVER_LINK_DOWN)
			if (!side_receive(&r.b, RIG_WAIT_MS))
				fail_msg("round %d: the mover fell silent", round);
		r.b.last.type = RPL_MOVER_NTYPES;
	}
	rig_start_primary(&r);
	rig_protect(&r);
	rig_fini(&r);
}

/* ---- a backup that lies to a primary */

static void raw_ready(struct raw *p, uint64_t staged, uint64_t acked)
{
	uint8_t body[16];
	struct rpl_out o = rpl_out(body, sizeof(body));

	rpl_out_le64(&o, staged);
	rpl_out_le64(&o, acked);
	raw_send(p, RPL_FRAME_READY, body, sizeof(body));
}

static void raw_ack(struct raw *p, const struct rpl_uuid *session, uint64_t epoch)
{
	uint8_t body[24];

	rpl_session_epoch_encode(&(struct rpl_session_epoch){ .session = *session, .epoch = epoch }, body);
	raw_send(p, RPL_FRAME_ACK, body, sizeof(body));
}

/* As a backup: up to the primary's hello. */
static void serve(struct raw *p, struct rig *r, bool fresh, const struct rpl_uuid *held, uint64_t staged)
{
	struct rpl_hello h = raw_hello_of(r, RPL_ROLE_BACKUP);
	uint8_t body[RPL_HELLO_SIZE];

	if (fresh)
		rpl_uuid_random(&r->session);
	if (held)
		h.session = *held;
	h.last_staged = staged;
	raw_server(p, r);
	(void)side_expect_past(&r->p, RPL_MOVER_LINK_UP, RPL_MOVER_LINK_DOWN);
	side_send(&r->p, RPL_MOVER_SESSION, FIRST, 0, 1, &r->session, -1);
	(void)raw_expect(p, RPL_FRAME_HELLO, body, sizeof(body));
	raw_hello(p, &h);
}

/* In a session in which epochs FIRST and FIRST + 1 were sent, and FIRST was acked. */
static void serve_two_epochs(struct raw *p, struct rig *r)
{
	uint8_t body[40];

	serve(p, r, true, NULL, 0);
	raw_ready(p, 0, 0);
	(void)side_expect(&r->p, RPL_MOVER_PEER_READY);
	(void)rig_round(r);
	r->epoch = FIRST - 1;
	rig_stage(r);
	rig_stage(r);
	for (int i = 0; i < 3; i++)
		(void)raw_expect(p, RPL_FRAME_EPOCH_END, body, sizeof(body));
	raw_ack(p, &r->session, FIRST);
	assert_int_equal(side_expect(&r->p, RPL_MOVER_ACKED)->epoch, FIRST);
}

static void expect_reason(struct rig *r, uint64_t value, const char *why)
{
	struct rpl_mover_msg *m = side_expect(&r->p, RPL_MOVER_LINK_DOWN);

	if (!strstr(m->text, why) || m->value != value)
		fail_msg("LINK_DOWN %d says '%s', expected %d and '%s'", (int)m->value, m->text, (int)value, why);
}

static void a_false_ack_ends_the_connection(void **state)
{
	struct rpl_uuid other;
	struct rig r;
	struct raw p;

	(void)state;
	rig_init(&r, PAGES);
	rig_start_primary(&r);
	rpl_uuid_random(&other);
	for (int i = 0; i < 5; i++) {
		static const char *const why[] = { "ACK of session", "ACK of epoch 12", "ACK of epoch 10", "ACK of epoch 0",
						   "ACK of epoch 18446744073709551615" };
		static const uint64_t epoch[] = { FIRST + 1, FIRST + 2, FIRST, 0, UINT64_MAX };

		serve_two_epochs(&p, &r);
		raw_ack(&p, i == 0 ? &other : &r.session, epoch[i]);
		expect_reason(&r, 0, why[i]);
		assert_int_equal(r.p.acked, FIRST);
		assert_int_equal(rig_count(&r.p.counters->acked), FIRST);
		raw_close(&p);
	}
	serve_two_epochs(&p, &r);
	raw_ack(&p, &r.session, FIRST + 1);
	assert_int_equal(side_expect(&r.p, RPL_MOVER_ACKED)->epoch, FIRST + 1);
	raw_close(&p);
	rig_fini(&r);
}

/* An epoch whose frames are still on their way out of the arena cannot be acked. */
static void an_ack_of_what_was_not_sent_is_false(void **state)
{
	struct rig r;
	struct raw p;

	(void)state;
	rig_init(&r, 4096); /* more than the socket and the queue take: nobody reads */
	r.conf.arena_bytes = 32 << 20;
	rig_start_primary(&r);
	serve_two_epochs(&p, &r);
	for (uint64_t page = 0; page < r.pages; page++) {
		memset(r.p.ram + page * RPL_PAGE_SIZE, 0x55, RPL_PAGE_SIZE);
		atomic_fetch_or(&r.dirty[page / 64], UINT64_C(1) << (page % 64));
	}
	rig_stage(&r);
	raw_ack(&p, &r.session, FIRST + 2);
	expect_reason(&r, 0, "ACK of epoch 12, but 10 is acked and 11 sent");
	raw_close(&p);
	rig_fini(&r);
}

static void false_positions_end_a_resumption(void **state)
{
	static const struct {
		uint64_t staged, acked, value;
		bool other;
		const char *why;
	} cases[] = {
		{ FIRST + 2, FIRST, 0, false, "staged 12 and acked 10, but 11 were sent" },
		{ FIRST - 1, FIRST - 1, 0, false, "staged 9 and acked 9" },
		{ FIRST, FIRST + 1, 0, false, "acked 11" },
		{ FIRST + 1, FIRST - 1, 0, false, "acked 9" },
		{ 0, 0, 1, false, "no complete replica" },
		{ FIRST + 1, FIRST, 1, true, "no complete replica of this session" },
	}; /* READY's; the hello says something else, which is never worse */
	struct rig r;
	struct raw p;

	(void)state;
	rig_init(&r, PAGES);
	rig_start_primary(&r);
	for (size_t i = 0; i < RPL_ARRAY_LEN(cases); i++) {
		struct rpl_uuid other;

		rpl_uuid_random(&other);
		serve_two_epochs(&p, &r);
		raw_close(&p);
		(void)side_expect(&r.p, RPL_MOVER_LINK_DOWN);
		serve(&p, &r, false, cases[i].other ? &other : &r.session, FIRST);
		if (!cases[i].other)
			raw_ready(&p, cases[i].staged, cases[i].acked);
		expect_reason(&r, cases[i].value, cases[i].why);
		raw_close(&p);
	}
	rig_fini(&r);
}

static void other_lies_to_a_primary(void **state)
{
	struct rpl_mover_msg *m;
	struct rig r;
	struct raw p;

	(void)state;
	rig_init(&r, PAGES);
	rig_start_primary(&r);

	/* a session of which nothing was sent goes on over one more connection (0) */
	serve(&p, &r, true, NULL, 0);
	raw_ready(&p, 5, 5);
	expect_reason(&r, 0, "of a new session");
	raw_close(&p);

	serve(&p, &r, true, NULL, 0);
	raw_ready(&p, 0, 0);
	raw_ready(&p, 0, 0);
	(void)side_expect(&r.p, RPL_MOVER_PEER_READY);
	expect_reason(&r, 0, "a second one");
	raw_close(&p);

	serve_two_epochs(&p, &r);
	raw_begin(&p, 1, 0, 1);
	expect_reason(&r, 0, "EPOCH_BEGIN from a backup");
	raw_close(&p);

	serve(&p, &r, true, NULL, 0);
	raw_send(&p, RPL_FRAME_REFUSE, "no\033[2J\nfake=line", 16);
	m = side_expect(&r.p, RPL_MOVER_PEER_REFUSED);
	assert_string_equal(m->text, "no?[2J?fake=line");
	expect_reason(&r, 1, "refused");
	raw_close(&p);
	rig_fini(&r);
}

/* Silence: the connection is up and no hello comes. */
static void a_peer_that_says_nothing_is_dropped(void **state)
{
	struct rig r;
	struct raw p;

	(void)state;
	rig_init(&r, PAGES);
	r.conf.handshake_timeout_ms = 100;
	rig_start_backup(&r);
	raw_client(&p, &r);
	if (!strstr(side_expect(&r.b, RPL_MOVER_LINK_DOWN)->text, "no hello"))
		fail_msg("says '%s'", r.b.last.text);
	raw_close(&p);
	rig_fini(&r);
}

/* Half a greeting: the peer has proven its name, says hello, beats, and hangs. Then it is dropped, unless it is our keeper who is late. */
static void a_peer_that_hangs_behind_its_hello_is_dropped(void **state)
{
	struct rpl_hello h;
	struct rig r;
	struct raw p;

	(void)state;
	rig_init(&r, PAGES);
	r.conf.handshake_timeout_ms = 250;
	rig_start(&r);
	serve(&p, &r, true, NULL, 0);
	raw_send(&p, RPL_FRAME_HEARTBEAT, NULL, 0);
	expect_reason(&r, 0, "no READY behind its hello from the peer within 1500 ms");
	raw_close(&p);
	raw_client(&p, &r);
	h = raw_hello_of(&r, RPL_ROLE_PRIMARY);
	raw_hello(&p, &h);
	raw_send(&p, RPL_FRAME_HEARTBEAT, NULL, 0);
	rig_expect_text(side_expect(&r.b, RPL_MOVER_LINK_DOWN), "no DEFINITION behind its hello");
	raw_close(&p);
	raw_client(&p, &r);
	raw_hello(&p, &h);
	raw_send(&p, RPL_FRAME_DEFINITION, "x=y\n", 4);
	(void)side_expect(&r.b, RPL_MOVER_LINK_UP);
	(void)usleep(1800 * 1000);
	side_send(&r.b, RPL_MOVER_ACCEPT, 0, 0, 0, &r.session, -1);
	(void)raw_expect(&p, RPL_FRAME_READY, &h, sizeof(h));
	raw_close(&p);
	rig_fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_lie_to_a_backup_ends_the_connection),
		cmocka_unit_test(noise_never_kills_a_backup),
		cmocka_unit_test(a_false_ack_ends_the_connection),
		cmocka_unit_test(an_ack_of_what_was_not_sent_is_false),
		cmocka_unit_test(false_positions_end_a_resumption),
		cmocka_unit_test(other_lies_to_a_primary),
		cmocka_unit_test(a_peer_that_says_nothing_is_dropped),
		cmocka_unit_test(a_peer_that_hangs_behind_its_hello_is_dropped),
	};

	cmocka_set_test_filter(getenv("TEST")); /* a pattern; unset: all */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
