#include "plug_port.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include <linux/if_ether.h>
#include <linux/pkt_sched.h>

#include <replicad/auto.h>
#include <replicad/io.h>

#define IFB_PREFIX "rp-"
#define ALIAS_PREFIX "replicad: output of "
/* Two handles in turn: a new plug needs another one than the plug that it replaces. */
#define HANDLE_A 0x52500000u
#define HANDLE_B 0x52510000u
#define QUIET_TRIES 64 /* looks at a queue that should stand still */
#define RESTLESS_SEALS 64 /* so many seals look first, after one that frames ran into */
#define HAVE_PLUG "use netbuf=relay, or a kernel with ifb, sch_plug, cls_matchall, act_mirred (linux-image-amd64, not -cloud)"

static void alias_of(const struct plug_port *p, char *to)
{
	(void)snprintf(to, PLUG_ALIAS_MAX, ALIAS_PREFIX "%s", p->vif);
}

/* FNV-1a: a short name for an interface whose own name leaves no room for a prefix. */
static uint32_t hash_name(const char *s)
{
	uint32_t h = 2166136261u;

	for (; *s; s++)
		h = (h ^ (uint8_t)*s) * 16777619u;
	return h;
}

int plug_port_init(struct plug_port *p, const char *vif, uint32_t limit_bytes, struct rpl_err *err)
{
	size_t len = strlen(vif);

	if (len == 0 || len >= sizeof(p->vif) || strchr(vif, '/') || strcmp(vif, ".") == 0 || strcmp(vif, "..") == 0)
		return rpl_fail(err, -EINVAL, "'%.40s' is no name of an interface (1 to %zu bytes, no '/')", vif,
				sizeof(p->vif) - 1);
	*p = (struct plug_port){ .limit_bytes = limit_bytes };
	memcpy(p->vif, vif, len);
	if (sizeof(IFB_PREFIX) + len <= sizeof(p->ifb))
		(void)snprintf(p->ifb, sizeof(p->ifb), IFB_PREFIX "%.12s", p->vif);
	else
		(void)snprintf(p->ifb, sizeof(p->ifb), IFB_PREFIX "%08x", hash_name(vif));
	return 0;
}

/* ---- what is there */

struct filters {
	const struct plug_port *p;
	bool ours, drop, foreign, unreadable;
};

static void take_filter(void *arg, const struct nlmsghdr *h)
{
	struct filters *s = arg;
	struct plug_filter f;
	int r = plug_msg_read_filter(h, &f);

	if (r == -ENOMSG || (r == 0 && f.handle == 0))
		return; /* the head of a chain of filters, told apart from its members */
	if (r < 0)
		s->unreadable = true;
	else if (f.prio != PLUG_FILTER_PRIO || f.protocol != ETH_P_ALL)
		s->foreign = true;
	else if (f.redirect_to && f.redirect_to == s->p->ifb_index)
		s->ours = true;
	else if (f.drops)
		s->drop = true;
	else
		s->foreign = true;
}

static int find_filters(const struct plug_port *p, struct plug_nl *nl, struct filters *in, struct filters *out,
			struct rpl_err *err)
{
	int r;

	*in = *out = (struct filters){ .p = p };
	r = plug_nl_get(nl, plug_msg_filter_dump(p->vif_index, PLUG_FROM_GUEST), take_filter, in, err);
	if (r == 0)
		r = plug_nl_get(nl, plug_msg_filter_dump(p->vif_index, PLUG_TO_GUEST), take_filter, out, err);
	if (r == 0 && (in->unreadable || out->unreadable))
		r = rpl_fail(err, -EBADMSG, "one cannot be read");
	return r < 0 ? rpl_prefix(err, "list the filters of %s", p->vif) : 0;
}

static int find_vif(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	static const char *const passes[] = { "", "tun", "veth" };
	struct plug_link link = { 0 };
	bool ok = false;
	int r = plug_nl_link(nl, p->vif, &link, err);

	if (r < 0 && r != -ENODEV)
		return r;
	if (link.index != p->vif_index) /* another one of the same name, or none: what we had put there went with it */
		p->redirected = p->shut = false;
	p->vif_index = link.index;
	for (size_t i = 0; i < RPL_ARRAY_LEN(passes); i++)
		ok = ok || strcmp(link.kind, passes[i]) == 0;
	if (!ok)
		return rpl_fail(err, -ENOTSUP, "interface %s is a %s: what a guest sends does not come in through it; name "
				"the guest's own vif, tap or veth", p->vif, link.kind);
	return 0;
}

static int find_ifb(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	char want[PLUG_ALIAS_MAX];
	struct plug_link link;
	struct plug_qdisc q;
	int r = plug_nl_link(nl, p->ifb, &link, err);

	p->ifb_index = 0;
	p->handle = 0;
	if (r == -ENODEV)
		return 0;
	if (r < 0)
		return r;
	alias_of(p, want);
	if (strcmp(link.kind, "ifb") != 0 || (link.alias[0] && strcmp(link.alias, want) != 0))
		return rpl_fail(err, -EEXIST, "interface %s is a %s with the alias '%s', not an ifb with '%s': remove it (ip "
				"link del %s)", p->ifb, link.kind[0] ? link.kind : "device", link.alias, want, p->ifb);
	p->ifb_index = link.index;
	r = plug_nl_qdisc(nl, link.index, TC_H_ROOT, &q, err);
	if (r == 0 && strcmp(q.kind, "plug") == 0)
		p->handle = q.handle;
	return r == -ENOENT ? 0 : r;
}

/* A clsact of somebody else is refused even when it has no filters yet: one that comes later could let frames by. A bare
 * one is what a crash of ours leaves between two steps, so that one is taken. */
static int find_redirect(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	struct filters in, out;
	struct plug_qdisc q;
	int r = plug_nl_qdisc(nl, p->vif_index, TC_H_CLSACT, &q, err);

	p->redirected = p->shut = false;
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return r;
	if (strcmp(q.kind, "clsact") != 0)
		return rpl_fail(err, -EBUSY, "interface %s has a queueing discipline %s on its input: remove it (tc qdisc del "
				"dev %s %s)", p->vif, q.kind, p->vif, q.kind);
	r = find_filters(p, nl, &in, &out, err);
	if (r < 0)
		return r;
	if (in.foreign || in.drop || out.foreign || out.ours)
		return rpl_fail(err, -EBUSY, "interface %s has filters of somebody else: with them it cannot be said which "
				"frames are held; remove them (tc qdisc del dev %s clsact)", p->vif, p->vif);
	p->redirected = in.ours;
	p->shut = out.drop;
	return 0;
}

/* ---- the plug */

/* Is p->now, as read just now, our plug? */
static int is_ours(struct plug_port *p, struct rpl_err *err)
{
	uint64_t enqueued = p->now.sent_bytes + p->now.backlog_bytes;

	if (strcmp(p->now.kind, "plug") != 0 || p->now.handle != p->handle)
		return rpl_fail(err, -EPROTO, "plug of %s: the queue on %s is %s %x:, not our plug %x:: somebody replaced it",
				p->vif, p->ifb, p->now.kind, p->now.handle >> 16, p->handle >> 16);
	if (enqueued > p->enqueued_last)
		p->enqueued_last = enqueued;
	return 0;
}

static int read_queue(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	int r = plug_nl_qdisc(nl, p->ifb_index, TC_H_ROOT, &p->now, err);

	return r < 0 ? rpl_prefix(err, "plug of %s", p->vif) : is_ours(p, err);
}

/* A new, closed plug in the place of the one before, whose frames are gone. */
static int renew(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	uint32_t handle = p->handle == HANDLE_A ? HANDLE_B : HANDLE_A;
	struct rpl_err lost;
	int r;

	if (p->handle && plug_nl_qdisc(nl, p->ifb_index, TC_H_ROOT, &p->now, &lost) == 0) {
		p->passed_frames += p->now.sent_packets;
		p->passed_bytes += p->now.sent_bytes;
		p->dropped_frames += p->now.dropped;
		p->thrown_frames += p->now.queued;
	}
	p->counted = false;
	r = plug_nl_do(nl, plug_msg_plug_new(p->ifb_index, handle, p->limit_bytes), err);
	if (r < 0)
		return rpl_prefix(err, "put a plug on %s", p->ifb);
	p->handle = handle;
	p->enqueued_last = p->sealed_bytes = p->may_leave_bytes = 0;
	r = read_queue(p, nl, err); /* it is a plug, says the kernel */
	p->counted = r == 0;
	return r;
}

/* What was read, or the failure to read it: does it hold? */
static int judge(struct plug_port *p, struct plug_nl *nl, int r, struct rpl_err *err)
{
	struct rpl_err later;

	if (r == 0 && p->counted && p->now.sent_bytes > p->may_leave_bytes)
		r = rpl_fail(err, -EPROTO, "plug of %s: %llu bytes have left where %llu might: the kernel's plug does not hold",
			     p->vif, (unsigned long long)p->now.sent_bytes, (unsigned long long)p->may_leave_bytes);
	/* Another queue, or none, lets everything pass: closed again at once. What goes wrong there tells less. */
	if (r == -EPROTO || r == -ENOENT)
		(void)renew(p, nl, &later);
	return r;
}

int plug_port_measure(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	return judge(p, nl, p->handle ? read_queue(p, nl, err) : 0, err);
}

int plug_port_find(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	int r = find_ifb(p, nl, err);

	if (r == 0)
		r = find_vif(p, nl, err);
	p->redirected = p->shut = p->counted = false;
	if (r == 0 && p->vif_index)
		r = find_redirect(p, nl, err);
	if (r < 0 || !p->redirected)
		return r;
	if (!p->handle) /* somebody took the plug away */
		return renew(p, nl, err);
	/* What it was told last is not known: closed it is now. */
	r = plug_nl_do(nl, plug_msg_plug_do(p->ifb_index, p->handle, TCQ_PLUG_BUFFER), err);
	return r < 0 ? rpl_prefix(err, "close the plug on %s", p->ifb) : plug_port_measure(p, nl, err);
}

/* Still as renew() left it? To put a new one there takes the kernel milliseconds, in which a guest may stand still. */
static bool unused(const struct plug_port *p)
{
	return p->handle && p->counted && p->now.queued == 0 && p->now.sent_packets == 0 && p->may_leave_bytes == 0;
}

/* The host itself has nothing to say there: its own frames would be counted with the guest's. */
static void no_ipv6(const char *ifb)
{
	char path[64];
	RPL_AUTO_FD int fd = -1;

	(void)snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/disable_ipv6", ifb);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd >= 0)
		(void)rpl_write_full(fd, "1", 1); /* a kernel without IPv6 has no such file */
}

static int make_ifb(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	char alias[PLUG_ALIAS_MAX];
	struct plug_link link;
	int r = 0;

	if (!p->ifb_index)
		r = plug_nl_do(nl, plug_msg_ifb_new(p->ifb), err);
	if (r < 0)
		return rpl_prefix(err, "make the ifb device %s", p->ifb);
	r = plug_nl_link(nl, p->ifb, &link, err);
	if (r < 0)
		return r;
	p->ifb_index = link.index;
	no_ipv6(p->ifb);
	/* A plug before it is up: at no time does it pass frames on by itself. */
	r = renew(p, nl, err);
	if (r < 0)
		return r;
	alias_of(p, alias);
	r = plug_nl_do(nl, plug_msg_ifb_up(link.index, alias), err);
	return r < 0 ? rpl_prefix(err, "set up %s", p->ifb) : 0;
}

/* On the ifb itself, where no frame ever comes in: does the kernel have the filters? */
static int try_filters(const struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	struct rpl_err later;
	int r = plug_nl_do(nl, plug_msg_clsact_new(p->ifb_index), err);

	if (r == -EEXIST)
		r = 0;
	if (r == 0)
		r = plug_nl_do(nl, plug_msg_redirect_new(p->ifb_index, p->ifb_index), err);
	if (r == 0)
		r = plug_nl_do(nl, plug_msg_drop_new(p->ifb_index), err);
	(void)plug_nl_do(nl, plug_msg_clsact_del(p->ifb_index), &later); /* goes with the ifb at the latest */
	return r < 0 ? rpl_prefix(err, "filter every frame") : 0;
}

int plug_port_prepare(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	bool had = p->ifb_index != 0;
	struct rpl_err why;
	int r = make_ifb(p, nl, err);

	if (r == 0)
		r = try_filters(p, nl, err);
	if (r == 0)
		return 0;
	if (!had && p->ifb_index)
		(void)plug_port_remove(p, nl, &why); /* the first error tells more */
	if (r == -EPERM)
		return rpl_prefix(err, "this needs CAP_NET_ADMIN");
	if (r == -ENOENT || r == -EOPNOTSUPP) {
		why = *err;
		return rpl_fail(err, r, "%.100s: %s", why.msg, HAVE_PLUG);
	}
	return r;
}

/* ---- leading frames through it */

static int redirect(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	int r = plug_nl_do(nl, plug_msg_clsact_new(p->vif_index), err);

	if (r == -EEXIST) /* a bare one: find_redirect() has seen to it */
		r = 0;
	if (r == 0)
		r = plug_nl_do(nl, plug_msg_redirect_new(p->vif_index, p->ifb_index), err);
	if (r < 0)
		return rpl_prefix(err, "redirect the output of %s to %s", p->vif, p->ifb);
	p->redirected = true;
	return plug_port_verify(p, nl, err);
}

static int let_in(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	int r = p->shut ? plug_nl_do(nl, plug_msg_filter_del(p->vif_index, PLUG_TO_GUEST), err) : 0;

	if (r < 0 && r != -ENODEV)
		return rpl_prefix(err, "let frames in to %s", p->vif);
	p->shut = false;
	return 0;
}

int plug_port_hold(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	int r = find_vif(p, nl, err);

	if (r == 0 && !p->vif_index)
		return rpl_fail(err, -ENODEV, "there is no interface %s: its output cannot be held; correct the list of the "
				"guest's interfaces", p->vif);
	if (r == 0)
		r = p->handle ? plug_port_measure(p, nl, err) : plug_port_prepare(p, nl, err);
	if (r == 0 && !unused(p))
		r = renew(p, nl, err);
	if (r == 0 && !p->redirected)
		r = redirect(p, nl, err);
	return r == 0 ? let_in(p, nl, err) : r;
}

int plug_port_shut(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	int r = find_vif(p, nl, err);

	if (r < 0 || !p->vif_index)
		return r;
	r = p->handle ? renew(p, nl, err) : plug_port_prepare(p, nl, err);
	if (r == 0 && !p->redirected)
		r = redirect(p, nl, err);
	if (r == 0 && !p->shut) {
		r = plug_nl_do(nl, plug_msg_drop_new(p->vif_index), err);
		p->shut = r == 0;
	}
	return r < 0 ? rpl_prefix(err, "shut %s", p->vif) : 0;
}

int plug_port_drop(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	return p->handle ? renew(p, nl, err) : 0;
}

/* ---- epochs */

static int quiet(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	uint64_t before;
	int r = plug_port_measure(p, nl, err);

	for (int i = 0; r == 0 && i < QUIET_TRIES; i++) {
		before = p->now.sent_bytes + p->now.backlog_bytes;
		r = plug_port_measure(p, nl, err);
		if (r == 0 && before == p->now.sent_bytes + p->now.backlog_bytes)
			return 0;
	}
	return r; /* never still: what BUFFER was worth is seen afterwards */
}

/* BUFFER, and what had been enqueued right before and right after it, all in one message: the guest stands still meanwhile. */
static int seal_now(struct plug_port *p, struct plug_nl *nl, uint64_t *ret_before, struct rpl_err *err)
{
	struct plug_qdisc q[2] = { 0 };
	int r = plug_nl_around(nl, p->ifb_index, TC_H_ROOT, plug_msg_plug_do(p->ifb_index, p->handle, TCQ_PLUG_BUFFER), q, err);

	if (r < 0)
		(void)rpl_prefix(err, "seal the plug of %s", p->vif);
	/* what was read tells more than why BUFFER was refused */
	for (unsigned i = 0; i < RPL_ARRAY_LEN(q) && r != -EPROTO; i++) {
		if (!q[i].kind[0])
			continue;
		p->now = q[i];
		if (is_ours(p, err) < 0)
			r = err->code;
	}
	if (r == -EINVAL) /* to our caller that is a question of his that makes no sense */
		r = err->code = -EPROTO;
	*ret_before = q[0].sent_bytes + q[0].backlog_bytes;
	return judge(p, nl, r, err);
}

int plug_port_seal(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	struct rpl_err why;
	uint64_t before = 0, thrown = p->thrown_frames;
	int r = 0;

	if (!p->handle)
		return 0;
	/* A guest that stands still has nothing more to send, and what it had sent arrives while its state is saved. Where it did
	 * not, the next seals make sure of that first. */
	if (p->restless) {
		p->restless--;
		r = quiet(p, nl, err);
	}
	if (r == 0)
		r = seal_now(p, nl, &before, err);
	if (r < 0)
		return r;
	if (p->counted && before == p->now.sent_bytes + p->now.backlog_bytes) {
		p->sealed_bytes = before;
		return 0;
	}
	p->restless = RESTLESS_SEALS;
	(void)rpl_fail(&why, -ESTALE, "%s: %u held frames were thrown away: %s", p->vif, p->now.queued, p->counted ?
		       "some arrived in the moment of the seal" : "no keeper knows which epochs they belong to");
	r = renew(p, nl, err);
	if (r < 0)
		return r;
	*err = why;
	return p->thrown_frames > thrown;
}

int plug_port_release(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	int r;

	if (!p->handle)
		return 0;
	p->may_leave_bytes = p->sealed_bytes;
	r = plug_nl_do(nl, plug_msg_plug_do(p->ifb_index, p->handle, TCQ_PLUG_RELEASE_ONE), err);
	return r < 0 ? rpl_prefix(err, "release from the plug of %s", p->vif) : 0;
}

bool plug_port_drained(const struct plug_port *p)
{
	return p->now.sent_bytes >= p->may_leave_bytes;
}

/* ---- the way out */

int plug_port_open(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	int r = let_in(p, nl, err);

	p->counted = false;
	if (r == 0 && p->handle)
		r = plug_nl_do(nl, plug_msg_plug_do(p->ifb_index, p->handle, TCQ_PLUG_RELEASE_INDEFINITE), err);
	return r < 0 ? rpl_prefix(err, "open the plug of %s", p->vif) : 0;
}

int plug_port_empty(struct plug_port *p, struct plug_nl *nl, bool *ret, struct rpl_err *err)
{
	struct plug_link link;
	int r = plug_port_measure(p, nl, err);

	*ret = true;
	if (r == 0 && p->handle)
		r = plug_nl_link(nl, p->ifb, &link, err);
	if (r < 0 || !p->handle)
		return r;
	/* an ifb "receives" what it is given and "transmits" what it hands back */
	*ret = p->now.queued == 0 && link.rx_packets <= link.tx_packets;
	return 0;
}

int plug_port_unredirect(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	int r = p->redirected ? plug_nl_do(nl, plug_msg_clsact_del(p->vif_index), err) : 0;

	if (r == -ENODEV) /* it vanished, and its filters with it */
		p->vif_index = 0;
	else if (r < 0)
		return rpl_prefix(err, "lead the output of %s straight on", p->vif);
	p->redirected = p->shut = false;
	return 0;
}

int plug_port_remove(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	int r;

	rpl_assert(!p->redirected);
	r = p->ifb_index ? plug_nl_do(nl, plug_msg_link_del(p->ifb_index), err) : 0;
	if (r < 0 && r != -ENODEV)
		return rpl_prefix(err, "remove %s", p->ifb);
	p->ifb_index = 0;
	p->handle = 0;
	p->counted = false;
	return 0;
}

/* A list of the filters of an interface that is not there is empty, says the kernel, and no error. */
static bool vanished(const struct plug_port *p, struct plug_nl *nl)
{
	struct plug_link link = { 0 };
	struct rpl_err unused_err;
	int r = plug_nl_link(nl, p->vif, &link, &unused_err);

	return r == -ENODEV || (r == 0 && link.index != p->vif_index);
}

int plug_port_verify(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	struct filters in, out;
	int r = p->redirected ? find_filters(p, nl, &in, &out, err) : 0;

	/* it vanished, as a domain's do when it dies, and the filter with it */
	if (r == -ENODEV || (r == 0 && p->redirected && !in.ours && vanished(p, nl))) {
		p->vif_index = 0;
		p->redirected = p->shut = false;
		return 0;
	}
	if (r < 0 || !p->redirected)
		return r;
	if (!in.ours || in.foreign || in.drop)
		return rpl_fail(err, -ENOENT, "interface %s: the filter that leads its output to %s %s: somebody changed it",
				p->vif, p->ifb, in.ours ? "is not alone" : "is gone");
	return 0;
}
