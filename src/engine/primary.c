/* The primary's role: sessions, acks, resumption. An ack is believed only if it is of this session, grows, and names an
 * epoch whose every byte we sent: all else ends the connection (R1). */
#include "primary.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/cur.h>
#include <replicad/fault.h>
#include <replicad/replica.h>

static int primary_setup(struct mover *m, int extra_fd, struct rpl_err *err)
{
	const struct rpl_mover_conf *c = &m->conf;
	struct primary *p = calloc(1, sizeof(*p));

	if (!p) {
		(void)close(extra_fd);
		return rpl_fail(err, -ENOMEM, "primary: no memory");
	}
	m->primary = p;
	p->state_fd = extra_fd;
	if (c->max_uncommitted == 0 || c->max_uncommitted > RPL_MOVER_UNCOMMITTED_MAX)
		return rpl_fail(err, -EINVAL, "max_uncommitted %u: must be 1 to %d", c->max_uncommitted,
				RPL_MOVER_UNCOMMITTED_MAX);
	if (c->definition_len == 0 || c->definition_len > RPL_MOVER_DEFINITION_MAX)
		return rpl_fail(err, -EINVAL, "a definition of %u bytes: must be 1 to %d", c->definition_len,
				RPL_MOVER_DEFINITION_MAX);
	p->definition_len = c->definition_len;
	p->definition = strndup(m->text, c->definition_len);
	if (!p->definition || rpl_bitmap_init(&p->todo, c->memory.layout.pfn_limit) < 0)
		return rpl_fail(err, -ENOMEM, "primary: no memory for the definition and a map of pages");
	p->definition_len = strlen(p->definition);
	if (arena_init(&p->arena, c->arena_bytes, err) < 0 || sent_init(&p->last, c->delta_cache_bytes, err) < 0 ||
	    stage_setup(m, err) < 0 || send_setup(m, err) < 0)
		return err->code;
	return 0;
}

/* ---- sessions */

static void begin_session(struct mover *m, const struct rpl_mover_msg *msg)
{
	struct primary *p = m->primary;

	send_reset(m);
	arena_clear(&p->arena);
	rpl_bitmap_zero(&p->todo);
	p->phase = SESSION_BULK;
	p->void_told = p->resuming = p->full_told = p->headers_sent = p->void_next = false;
	p->session = msg->uuid;
	p->rounds = 0;
	p->staged = p->sent = p->acked = msg->epoch - 1;
	p->waiting = NULL;
	mover_set(&m->counters->bulk_pages, 0);
	mover_set(&m->counters->bulk_pages_total, 0);
}

static void greet(struct mover *m)
{
	struct primary *p = m->primary;
	struct rpl_hello h = { .session = p->session, .generation = p->generation, .epoch_bytes_max = m->conf.arena_bytes,
			       .blackout_us = p->blackout_us,
			       .flags = p->resuming ? RPL_HELLO_RESUME : 0 };

	connection_greet(m, &h);
	(void)connection_send(m, RPL_FRAME_DEFINITION, p->definition, p->definition_len);
}

/* The backup's hello says what it holds before it could be asked for. One that holds nothing of this session never will
 * again: our keeper may rest on that, if the backup knows what it says. */
static int check_held(struct mover *m, struct rpl_err *err)
{
	struct primary *p = m->primary;

	if (!p->resuming || (rpl_uuid_equal(&m->peer.session, &p->session) && m->peer.last_staged))
		return 0;
	if (m->peer.generation == RPL_GENERATION_UNKNOWN)
		return rpl_fail(err, -EAGAIN, "the backup has not read its record yet");
	p->phase = SESSION_VOID;
	return rpl_fail(err, -ESTALE, "the backup holds no complete replica of this session: begin a new one");
}

/* Nothing of it was sent. A backup that is laid out for the guest that it hears of closes the first connection, and a session that
 * began anew for that would have the guest's writes tracked anew as well. */
static bool is_unsent(const struct primary *p)
{
	return p->phase == SESSION_BULK && p->rounds == 0;
}

static int on_session(struct mover *m, const struct rpl_mover_msg *msg, struct rpl_err *err)
{
	struct primary *p = m->primary;
	bool same = p->phase != SESSION_NONE && rpl_uuid_equal(&p->session, &msg->uuid);
	struct rpl_err held;

	if (rpl_uuid_is_zero(&msg->uuid) || (!same && msg->epoch == 0))
		return rpl_fail(err, -EINVAL, "SESSION: zero uuid, or first epoch 0");
	if (!m->link)
		return 0;
	if (m->greeted)
		return rpl_fail(err, -EINVAL, "SESSION: one per connection");
	p->generation = msg->generation;
	p->blackout_us = msg->value;
	if (same && p->phase != SESSION_LIVE && !is_unsent(p)) {
		p->void_told = false;
		primary_void(m, "this session cannot be resumed: begin a new one");
		return 0;
	}
	if (!same)
		begin_session(m, msg);
	p->resuming = same && p->phase == SESSION_LIVE;
	if (m->peer_known && check_held(m, &held) < 0)
		connection_end(m, &held);
	else
		greet(m);
	return 0;
}

void primary_void(struct mover *m, const char *why)
{
	m->primary->phase = SESSION_VOID;
	connection_drop(m, why);
}

static void settle_acks(struct mover *m, uint64_t epoch)
{
	struct primary *p = m->primary;

	if (epoch <= p->acked)
		return;
	p->acked = epoch;
	arena_release(&p->arena, epoch);
	mover_set(&m->counters->acked, epoch);
	connection_count(m); /* what an ack is for was sent: whoever hears of it may look */
	rpl_fault_die(RPL_FAULT_DIE_AT_S5);
	mover_report(m, RPL_MOVER_ACKED, epoch, 0, &p->session);
}

/* What the backup says it holds must lie between what it acked before and what it can have got from us. */
static int resume_session(struct mover *m, uint64_t staged, uint64_t acked, struct rpl_err *err)
{
	struct primary *p = m->primary;

	if (!rpl_uuid_equal(&m->peer.session, &p->session) || staged == 0) {
		p->phase = SESSION_VOID;
		return rpl_fail(err, -ESTALE, "the backup holds no complete replica of this session: begin a new one");
	}
	if (staged > p->sent || staged < p->acked || acked > staged || (acked && acked < p->acked))
		return rpl_fail(err, -EPROTO, "READY: staged %" PRIu64 " and acked %" PRIu64 ", but %" PRIu64
				" were sent and %" PRIu64 " acked", staged, acked, p->sent, p->acked);
	p->sent = staged;
	connection_ready(m);
	settle_acks(m, acked);
	mover_report(m, RPL_MOVER_PEER_READY, acked, 1, &p->session);
	send_kick(m);
	return 0;
}

static int on_ready(struct mover *m, const uint8_t *body, size_t len, struct rpl_err *err)
{
	struct primary *p = m->primary;
	struct rpl_cur c = rpl_cur(body, len);
	uint64_t staged = rpl_cur_le64(&c), acked = rpl_cur_le64(&c);

	if (!m->greeted || m->ready)
		return rpl_fail(err, -EPROTO, "READY: %s", m->ready ? "a second one" : "before our hello");
	p->peer_slots = m->peer.epoch_bytes_max / RPL_PAGE_SIZE;
	if (p->resuming)
		return resume_session(m, staged, acked, err);
	if (staged || acked)
		return rpl_fail(err, -EPROTO, "READY: staged %" PRIu64 " and acked %" PRIu64 " of a new session", staged,
				acked);
	connection_ready(m);
	mover_report(m, RPL_MOVER_PEER_READY, 0, 0, &p->session);
	return 0;
}

/* ---- frames */

static int on_ack(struct mover *m, const uint8_t *body, struct rpl_err *err)
{
	struct primary *p = m->primary;
	struct rpl_session_epoch v;
	char text[RPL_UUID_TEXT];

	rpl_session_epoch_decode(body, &v);
	if (!m->ready || !rpl_uuid_equal(&v.session, &p->session))
		return rpl_fail(err, -EPROTO, "ACK of session %s, which is not ours", rpl_uuid_text(&v.session, text));
	if (v.epoch <= p->acked || v.epoch > p->sent)
		return rpl_fail(err, -EPROTO, "ACK of epoch %" PRIu64 ", but %" PRIu64 " is acked and %" PRIu64 " sent",
				v.epoch, p->acked, p->sent);
	settle_acks(m, v.epoch);
	send_kick(m);
	return 0;
}

static int primary_frame(struct mover *m, enum rpl_frame type, const uint8_t *body, size_t len, struct rpl_err *err)
{
	struct primary *p = m->primary;
	char text[RPL_MOVER_REASON_MAX];
	int r;

	switch (type) {
	case RPL_FRAME_HELLO:
		r = connection_hello(m, body, len, err);
		return r == 0 && m->greeted ? check_held(m, err) : r;
	case RPL_FRAME_READY:
		return on_ready(m, body, len, err);
	case RPL_FRAME_REFUSE:
		p->void_next = true;
		mover_printable(text, sizeof(text), body, len);
		mover_report_text(m, RPL_MOVER_PEER_REFUSED, 0, text);
		return rpl_fail(err, -ECONNREFUSED, "the backup refused: %.180s", text);
	case RPL_FRAME_ACK:
		return on_ack(m, body, err);
	default:
		return rpl_fail(err, -EPROTO, "%s from a backup", rpl_frame_name((uint16_t)type));
	}
}

/* ---- commands */

static int send_message(struct mover *m, const struct rpl_mover_msg *msg, struct rpl_err *err)
{
	struct primary *p = m->primary;
	uint8_t body[32];

	if (!m->ready)
		return 0;
	switch (msg->value) {
	case RPL_FRAME_HANDOVER:
		rpl_handover_encode(&(struct rpl_handover){ .session = p->session, .epoch = msg->epoch,
							    .paused_us = msg->generation }, body);
		(void)connection_send(m, RPL_FRAME_HANDOVER, body, 32);
		return 0;
	case RPL_FRAME_FLUSHED:
	case RPL_FRAME_PROTECTED:
		rpl_session_epoch_encode(&(struct rpl_session_epoch){ .session = p->session, .epoch = msg->epoch }, body);
		(void)connection_send(m, (enum rpl_frame)msg->value, body, 24);
		return 0;
	case RPL_FRAME_FORGET:
		(void)connection_send(m, RPL_FRAME_FORGET, p->session.b, sizeof(p->session.b));
		rpl_link_finish(m->link);
		return 0;
	default:
		return rpl_fail(err, -EINVAL, "SEND of frame type %" PRIu64, msg->value);
	}
}

static int primary_command(struct mover *m, const struct rpl_mover_msg *msg, struct rpl_err *err)
{
	switch (msg->type) {
	case RPL_MOVER_SESSION:
		return on_session(m, msg, err);
	case RPL_MOVER_ROUND:
		return stage_round(m, err);
	case RPL_MOVER_STAGE:
		return stage_checkpoint(m, msg, err);
	case RPL_MOVER_SEND:
		return send_message(m, msg, err);
	default:
		return rpl_fail(err, -EINVAL, "%s is no command for a primary's mover",
				rpl_mover_type_name((enum rpl_mover_type)msg->type));
	}
}

/* ---- the connection */

static void primary_up(struct mover *m)
{
	mover_report(m, RPL_MOVER_LINK_UP, 0, 0, NULL);
}

static bool primary_down(struct mover *m)
{
	struct primary *p = m->primary;

	send_reset(m);
	if (is_unsent(p) && !p->void_next) {
		p->void_next = true;
		return false;
	}
	if (p->phase == SESSION_BULK || (p->phase == SESSION_LIVE && arena_has_direct(&p->arena)))
		p->phase = SESSION_VOID;
	if (p->phase != SESSION_VOID || p->void_told)
		return false;
	p->waiting = NULL;
	p->void_told = true;
	return true;
}

_Static_assert(RPL_MOVER_UNCOMMITTED_MAX + 1 < RPL_REPLICA_EPOCHS, "a backup has headers for all that is uncommitted");

const struct mover_role mover_primary = {
	.setup = primary_setup, .command = primary_command, .up = primary_up, .frame = primary_frame,
	.writable = send_kick, .down = primary_down,
};
