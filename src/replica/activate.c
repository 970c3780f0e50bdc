/* The activator's half: the mover is dead, and what it left is read with care: it parsed a peer's bytes. */
#include "replica.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The whole epochs of one session, as far as they follow each other. */
struct chain {
	uint64_t base, newest; /* base: folded, or the session's first */
	uint64_t published;    /* headers of the session */
};

static int check_headers(const struct rpl_replica *r, const struct rpl_uuid *session, struct chain *ret,
			 struct rpl_err *err)
{
	for (unsigned i = 0; i < RPL_REPLICA_EPOCHS; i++) {
		const struct area_header *h = &r->area.header[i];
		enum area_state s = area_state(h);
		int ret_check;

		if (s == AREA_EMPTY)
			continue;
		ret_check = area_check_header(&r->area, h, rpl_memory_layout(r->ram), err);
		if (ret_check < 0)
			return ret_check;
		if (s > AREA_FOLDED || !rpl_uuid_equal(&h->session, session))
			return rpl_fail(err, -EBADMSG, "staged epoch %" PRIu64 ": of another session or in state %d", h->epoch,
					(int)s);
		ret->published++;
		if (h->epoch > ret->newest)
			ret->newest = h->epoch;
		if (s == AREA_FOLDED && h->epoch > ret->base)
			ret->base = h->epoch;
	}
	return 0;
}

static int find_chain(const struct rpl_replica *r, const struct rpl_uuid *session, struct chain *ret,
		      struct rpl_err *err)
{
	int result;

	*ret = (struct chain){ 0 };
	result = check_headers(r, session, ret, err);
	if (result < 0)
		return result;
	for (unsigned i = 0; i < RPL_REPLICA_EPOCHS && ret->base == 0; i++)
		if (area_state(&r->area.header[i]) != AREA_EMPTY && (r->area.header[i].flags & AREA_FIRST))
			ret->base = r->area.header[i].epoch;
	if (ret->published == 0)
		return rpl_fail(err, -ENODATA, "staging area: no whole epoch, so there is no complete replica");
	if (ret->base == 0)
		return rpl_fail(err, -EBADMSG, "staging area: epoch %" PRIu64 " has no folded or first epoch below it",
				ret->newest);
	for (uint64_t e = ret->base; e <= ret->newest; e++) {
		const struct area_header *h = area_header(&r->area, e);

		if (area_state(h) == AREA_EMPTY || h->epoch != e)
			return rpl_fail(err, -EBADMSG, "staging area: epoch %" PRIu64 " is missing between %" PRIu64
					" and %" PRIu64, e, ret->base, ret->newest);
	}
	return 0;
}

/* The ring may have cut it in two. */
static int collect_state(struct rpl_replica *r, const struct area_header *h, struct rpl_err *err)
{
	uint8_t *p = malloc(h->state_len);

	if (!p)
		return rpl_fail(err, -ENOMEM, "epoch %" PRIu64 ": no memory for %" PRIu64 " bytes of device state", h->epoch,
				h->state_len);
	for (uint64_t at = 0; at < h->state_len; at += RPL_PAGE_SIZE) {
		uint64_t n = h->state_len - at < RPL_PAGE_SIZE ? h->state_len - at : RPL_PAGE_SIZE;

		memcpy(p + at, area_slot(&r->area, h->start + h->state_at + at / RPL_PAGE_SIZE), n);
	}
	free(r->state);
	r->state = p;
	return 0;
}

int rpl_replica_newest(struct rpl_replica *r, struct rpl_uuid *ret_session, uint64_t *ret_epoch, struct rpl_err *err)
{
	struct chain chain;
	int result = area_check_super(&r->area, err);

	if (result < 0)
		return result;
	*ret_session = r->area.super->session;
	if (rpl_uuid_is_zero(ret_session))
		return rpl_fail(err, -ENODATA, "staging area: no session began in it");
	result = find_chain(r, ret_session, &chain, err);
	if (result == 0)
		*ret_epoch = chain.newest;
	return result;
}

int rpl_replica_folded(struct rpl_replica *r, const struct rpl_uuid *session, uint64_t epoch, const void **ret_state,
		       size_t *ret_state_len, struct rpl_err *err)
{
	const struct area_header *h = area_header(&r->area, epoch);
	int result = area_check_super(&r->area, err);

	if (result == 0 && (area_state(h) != AREA_FOLDED || h->epoch != epoch || !rpl_uuid_equal(&h->session, session)))
		result = rpl_fail(err, -ENODATA, "staging area: epoch %" PRIu64 " is not folded", epoch);
	if (result == 0)
		result = area_check_header(&r->area, h, rpl_memory_layout(r->ram), err);
	if (result == 0)
		result = collect_state(r, h, err);
	if (result < 0)
		return result;
	*ret_state = r->state;
	*ret_state_len = h->state_len;
	return 0;
}

int rpl_replica_void(int fd, struct rpl_err *err)
{
	static const struct area_super nothing;
	ssize_t n = pwrite(fd, &nothing, sizeof(nothing), 0);

	return n == (ssize_t)sizeof(nothing) ? 0 : rpl_fail_errno(err, n < 0 ? errno : EIO, "void a staging area");
}

int rpl_replica_activate(struct rpl_replica *r, const struct rpl_uuid *session, uint64_t *ret_epoch,
			 const void **ret_state, size_t *ret_state_len, struct rpl_err *err)
{
	char ours[RPL_UUID_TEXT], theirs[RPL_UUID_TEXT];
	struct area_header *h;
	struct chain chain;
	int result = area_check_super(&r->area, err);

	if (result < 0)
		return result;
	if (rpl_uuid_is_zero(session) || !rpl_uuid_equal(&r->area.super->session, session))
		return rpl_fail(err, -ENODATA, "staging area: holds session %s, not %s",
				rpl_uuid_text(&r->area.super->session, theirs), rpl_uuid_text(session, ours));
	result = find_chain(r, session, &chain, err);
	if (result < 0)
		return result;
	for (uint64_t e = chain.base; e <= chain.newest; e++) {
		int64_t at = 0;

		h = area_header(&r->area, e);
		if (area_state(h) != AREA_FOLDED)
			at = area_fold(&r->area, h, 0, UINT64_MAX, r->ram, err);
		if (at < 0)
			return (int)at;
		area_set_state(h, AREA_FOLDED);
	}
	h = area_header(&r->area, chain.newest);
	result = collect_state(r, h, err);
	if (result < 0)
		return result;
	*ret_epoch = chain.newest;
	*ret_state = r->state;
	*ret_state_len = h->state_len;
	return 0;
}
