/* The backup's role: it stages what comes, says so to its keeper, and acks when the keeper says so (R9; a frozen
 * keeper says nothing any more, R3). Folding is done in slices between frames. */
#include "backup.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <replicad/cur.h>
#include <replicad/fault.h>

struct backup {
	struct rpl_replica *replica;
	struct apply apply;
	bool definition_known;
	uint64_t folded_told;
	ev_timer fold;
};

static void on_fold(EV_P_ ev_timer *w, int revents);

static int backup_setup(struct mover *m, int extra_fd, struct rpl_err *err)
{
	struct backup *b = calloc(1, sizeof(*b));

	if (!b) {
		(void)close(extra_fd);
		return rpl_fail(err, -ENOMEM, "backup: no memory");
	}
	m->backup = b;
	b->replica = rpl_replica_open(extra_fd, m->conf.staging_bytes, m->memory, true, err);
	(void)close(extra_fd); /* the mapping stays */
	if (!b->replica)
		return err->code;
	ev_timer_init(&b->fold, on_fold, 0., 0.);
	ev_set_priority(&b->fold, EV_MINPRI); /* behind the link, which has an ack to say: that is waited for */
	b->fold.data = m;
	return apply_init(&b->apply, b->replica, rpl_memory_layout(m->memory), err);
}

static bool same_session(const struct mover *m, const struct rpl_uuid *session)
{
	struct rpl_replica_where w;

	rpl_replica_where(m->backup->replica, &w);
	return rpl_uuid_equal(&w.session, session);
}

/* ---- folding */

/* In this turn of the loop, behind what is being handled. */
static void kick_fold(struct mover *m)
{
	struct backup *b = m->backup;

	if (!ev_is_active(&b->fold) && !ev_is_pending(&b->fold))
		ev_feed_event(m->loop, &b->fold, EV_TIMER);
}

/* When others had their turn. */
static void fold_later(struct mover *m)
{
	struct backup *b = m->backup;

	ev_timer_set(&b->fold, 0., 0.);
	ev_timer_start(m->loop, &b->fold);
}

static void tell_folded(struct mover *m)
{
	struct rpl_replica_where w;

	rpl_replica_where(m->backup->replica, &w);
	if (w.folded <= m->backup->folded_told)
		return;
	m->backup->folded_told = w.folded;
	mover_set(&m->counters->folded, w.folded);
	mover_report(m, RPL_MOVER_FOLDED, w.folded, 0, &w.session);
}

static void on_fold(EV_P_ ev_timer *w, int revents)
{
	struct mover *m = w->data;
	struct rpl_err err;
	int r;

	(void)loop;
	(void)revents;
	ev_timer_stop(m->loop, w);
	r = rpl_replica_fold(m->backup->replica, MOVER_FOLD_SLICE, &err);
	if (r < 0) {
		mover_fail(m, &err);
		return;
	}
	tell_folded(m);
	if (r > 0) {
		rpl_fault_die(RPL_FAULT_DIE_AT_S8);
		fold_later(m);
	}
}

/* ---- commands */

static void send_ready(struct mover *m)
{
	struct rpl_replica_where w;
	uint8_t body[16];
	struct rpl_out o = rpl_out(body, sizeof(body));

	rpl_replica_where(m->backup->replica, &w);
	rpl_out_le64(&o, w.staged);
	rpl_out_le64(&o, w.acked);
	if (connection_send(m, RPL_FRAME_READY, body, sizeof(body)) == 0)
		connection_ready(m);
}

static void accept_session(struct mover *m, const struct rpl_mover_msg *msg)
{
	struct backup *b = m->backup;
	struct rpl_replica_where w;

	/* A newer connection may have taken the place of the one that it was said for. */
	if (!b->definition_known || m->ready || !rpl_uuid_equal(&msg->uuid, &m->peer.session))
		return;
	rpl_replica_where(b->replica, &w);
	if (!rpl_uuid_equal(&w.session, &msg->uuid) || w.staged == 0) {
		rpl_replica_session(b->replica, &msg->uuid);
		apply_session(&b->apply);
		b->folded_told = 0;
		mover_set(&m->counters->bulk_pages, 0);
		mover_set(&m->counters->bulk_pages_total, 0);
		mover_set(&m->counters->staged, 0);
		mover_set(&m->counters->acked, 0);
		mover_set(&m->counters->folded, 0);
	}
	send_ready(m);
}

static void refuse_session(struct mover *m, uint64_t len)
{
	char why[RPL_MOVER_REASON_MAX];

	if (!m->peer_known || m->ready)
		return;
	if (len > RPL_MOVER_TEXT_KEYS)
		len = RPL_MOVER_TEXT_KEYS;
	mover_printable(why, sizeof(why), m->text, len);
	if (why[0] == '\0')
		(void)strcpy(why, "refused");
	(void)connection_send(m, RPL_FRAME_REFUSE, why, strlen(why));
	rpl_link_finish(m->link);
}

static int ack(struct mover *m, const struct rpl_mover_msg *msg, struct rpl_err *err)
{
	struct backup *b = m->backup;
	struct rpl_session_epoch v = { .session = msg->uuid, .epoch = msg->epoch };
	struct rpl_replica_where w;
	uint8_t body[24];
	int r;

	rpl_replica_where(b->replica, &w);
	if (!rpl_uuid_equal(&w.session, &msg->uuid) || (w.acked && msg->epoch <= w.acked))
		return 0; /* decided before a new session began, or said before: an ack that does not grow would be a lie */
	r = rpl_replica_acked(b->replica, msg->epoch, err);
	if (r < 0)
		return r;
	mover_set(&m->counters->acked, msg->epoch);
	kick_fold(m);
	if (!m->ready)
		return 0;
	if (rpl_fault_hit(RPL_FAULT_CUT_AT_S4)) {
		connection_drop(m, "fault cut_at_s4");
		return 0;
	}
	rpl_session_epoch_encode(&v, body);
	(void)connection_send(m, RPL_FRAME_ACK, body, sizeof(body));
	connection_push(m); /* before anything is folded: it is what the primary's clients wait for */
	return 0;
}

static int backup_command(struct mover *m, const struct rpl_mover_msg *msg, struct rpl_err *err)
{
	switch (msg->type) {
	case RPL_MOVER_ACCEPT:
		accept_session(m, msg);
		return 0;
	case RPL_MOVER_REFUSE:
		refuse_session(m, msg->value);
		return 0;
	case RPL_MOVER_ACK:
		return ack(m, msg, err);
	default:
		return rpl_fail(err, -EINVAL, "%s is no command for a backup's mover",
				rpl_mover_type_name((enum rpl_mover_type)msg->type));
	}
}

/* ---- frames */

static int on_definition(struct mover *m, const uint8_t *body, size_t len, struct rpl_err *err)
{
	struct rpl_mover_msg msg = { .type = RPL_MOVER_LINK_UP, .value = len };

	if (m->backup->definition_known)
		return rpl_fail(err, -EPROTO, "a second DEFINITION");
	for (size_t i = 0; i < len; i++)
		if (body[i] != '\n' && (body[i] < ' ' || body[i] > '~'))
			return rpl_fail(err, -EPROTO, "DEFINITION: byte 0x%02x at %zu, expected printable text", body[i], i);
	m->backup->definition_known = true;
	connection_heard(m);
	memcpy(m->text, body, len);
	m->text[len] = '\0';
	msg.hello = m->peer;
	msg.uuid = m->peer.session;
	mover_report_msg(m, &msg);
	return 0;
}

static int on_epoch_end(struct mover *m, const uint8_t *body, struct rpl_err *err)
{
	struct rpl_mover_counters *c = m->counters;
	struct backup *b = m->backup;
	struct rpl_replica_where w;
	uint64_t epoch;
	int r = apply_end(&b->apply, body, &epoch, err);

	if (r < 0)
		return r;
	mover_count(&c->raw_bytes, b->apply.bytes);
	if (r == 0) {
		mover_set(&c->bulk_rounds, epoch);
		mover_count(&c->bulk_pages, b->apply.pages);
		mover_count(&c->bulk_pages_total, b->apply.pages);
		return 0;
	}
	rpl_fault_die(RPL_FAULT_DIE_AT_S4_SEALED);
	mover_count(&c->epochs, 1);
	mover_count(&c->pages, b->apply.pages);
	mover_set(&c->last_dirty_pages, b->apply.pages);
	mover_set(&c->staged, epoch);
	tell_folded(m); /* making room may have folded */
	rpl_replica_where(b->replica, &w);
	mover_report(m, RPL_MOVER_EPOCH_STAGED, epoch, b->apply.pages, &w.session);
	return 0;
}

/* HANDOVER, FLUSHED, FORGET, PROTECTED: for the keeper, if they are of this session. */
static int pass_on(struct mover *m, enum rpl_frame type, const uint8_t *body, struct rpl_err *err)
{
	struct rpl_mover_msg msg = { .type = RPL_MOVER_PEER_FRAME, .value = type };
	struct rpl_session_epoch e = { 0 };
	struct rpl_handover h;
	char text[RPL_UUID_TEXT];

	if (type == RPL_FRAME_HANDOVER) {
		rpl_handover_decode(body, &h);
		msg.uuid = h.session;
		msg.epoch = h.epoch;
		msg.generation = h.paused_us;
	} else if (type == RPL_FRAME_FLUSHED || type == RPL_FRAME_PROTECTED) {
		rpl_session_epoch_decode(body, &e);
		msg.uuid = e.session;
		msg.epoch = e.epoch;
	} else {
		memcpy(msg.uuid.b, body, sizeof(msg.uuid.b));
	}
	if (!same_session(m, &msg.uuid))
		return rpl_fail(err, -EPROTO, "%s of session %s, which is not ours", rpl_frame_name((uint16_t)type),
				rpl_uuid_text(&msg.uuid, text));
	mover_report_msg(m, &msg);
	return 0;
}

static int backup_frame(struct mover *m, enum rpl_frame type, const uint8_t *body, size_t len, struct rpl_err *err)
{
	struct backup *b = m->backup;
	char text[RPL_MOVER_REASON_MAX];

	if (type == RPL_FRAME_HELLO) {
		int r = connection_hello(m, body, len, err);

		return r == 0 && rpl_uuid_is_zero(&m->peer.session) ? rpl_fail(err, -EPROTO, "HELLO without a session") : r;
	}
	if (type == RPL_FRAME_DEFINITION)
		return on_definition(m, body, len, err);
	if (type == RPL_FRAME_REFUSE) {
		mover_printable(text, sizeof(text), body, len);
		return rpl_fail(err, -ECONNREFUSED, "the primary refused: %.180s", text);
	}
	if (!m->ready)
		return rpl_fail(err, -EPROTO, "%s before the session is accepted", rpl_frame_name((uint16_t)type));
	switch (type) {
	case RPL_FRAME_EPOCH_BEGIN:
	case RPL_FRAME_STREAM:
	case RPL_FRAME_PAGES:
		return apply_frame(&b->apply, type, body, len, err);
	case RPL_FRAME_EPOCH_END:
		return on_epoch_end(m, body, err);
	case RPL_FRAME_HANDOVER:
	case RPL_FRAME_FLUSHED:
	case RPL_FRAME_FORGET:
	case RPL_FRAME_PROTECTED:
		return pass_on(m, type, body, err);
	default:
		return rpl_fail(err, -EPROTO, "%s from a primary", rpl_frame_name((uint16_t)type));
	}
}

/* ---- the connection */

static void backup_up(struct mover *m)
{
	struct rpl_hello h = { .epoch_bytes_max = rpl_replica_capacity(m->backup->replica),
			       .generation = atomic_load_explicit(&m->counters->generation, memory_order_relaxed) };
	struct rpl_replica_where w;

	if (m->conf.memory.provisional)
		return; /* the primary's definition is all that is wanted: a mover with its layout takes our place then */
	rpl_replica_where(m->backup->replica, &w);
	if (w.staged) {
		h.session = w.session;
		h.last_staged = w.staged;
	}
	connection_greet(m, &h);
}

static void backup_writable(struct mover *m)
{
	(void)m; /* what a backup sends is small, and has the link's reserve */
}

static bool backup_down(struct mover *m)
{
	struct rpl_replica_where w;

	m->backup->definition_known = false;
	apply_cut(&m->backup->apply);
	rpl_replica_where(m->backup->replica, &w);
	return w.staged == 0 && !rpl_uuid_is_zero(&w.session);
}

const struct mover_role mover_backup = {
	.setup = backup_setup, .command = backup_command, .up = backup_up, .frame = backup_frame,
	.writable = backup_writable, .down = backup_down,
};
