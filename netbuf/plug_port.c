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
#define HAVE_PLUG "use netbuf=relay, or a kernel with ifb, sch_prio, sch_plug, cls_matchall, act_mirred (linux-image-amd64, not -cloud)"

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
	*p = (struct plug_port){ .queue = { .limit_bytes = limit_bytes } };
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
	struct plug_link link = { 0 };
	int r = plug_nl_link(nl, p->ifb, &link, err);

	if (r < 0 && r != -ENODEV)
		return r;
	p->ifb_index = link.index;
	p->queue.built = false;
	if (r == -ENODEV)
		return 0;
	alias_of(p, want);
	if (strcmp(link.kind, "ifb") != 0 || (link.alias[0] && strcmp(link.alias, want) != 0))
		return rpl_fail(err, -EEXIST, "interface %s is a %s with the alias '%s', not an ifb with '%s': remove it (ip "
				"link del %s)", p->ifb, link.kind[0] ? link.kind : "device", link.alias, want, p->ifb);
	return 0;
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

/* ---- the queue */

/* Nothing passes: what is led to a device that is down is dropped. */
static int close_ifb(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	int r = plug_nl_do(nl, plug_msg_ifb_down(p->ifb_index), err);

	plug_queue_forget(&p->queue);
	return r < 0 ? rpl_prefix(err, "set down %s", p->ifb) : 0;
}

/* What an operation on the queue returned. A queue that is not ours, or none, lets everything pass: closed at once. What goes
 * wrong there tells less. */
static int judge(struct plug_port *p, struct plug_nl *nl, int r, struct rpl_err *err)
{
	struct rpl_err later;

	if (r < 0)
		(void)rpl_prefix(err, "queue of %s on %s", p->vif, p->ifb);
	if (r == -EPROTO || r == -ENOENT)
		(void)close_ifb(p, nl, &later);
	return r;
}

int plug_port_measure(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	return p->queue.built ? judge(p, nl, plug_queue_measure(&p->queue, nl, err), err) : 0;
}

/* A new, empty, closed queue, and only then up: at no time does it pass frames on by itself. */
static int raise_ifb(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	char alias[PLUG_ALIAS_MAX];
	int r = close_ifb(p, nl, err);

	if (r < 0)
		return r;
	p->queue.index = p->ifb_index;
	r = plug_queue_build(&p->queue, nl, err);
	if (r < 0)
		return rpl_prefix(err, "put a queue on %s", p->ifb);
	alias_of(p, alias);
	r = plug_nl_do(nl, plug_msg_ifb_up(p->ifb_index, alias), err);
	return r < 0 ? rpl_prefix(err, "set up %s", p->ifb) : 0;
}

int plug_port_find(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	int r = find_ifb(p, nl, err);

	if (r == 0)
		r = find_vif(p, nl, err);
	p->redirected = p->shut = false;
	if (r == 0 && p->vif_index)
		r = find_redirect(p, nl, err);
	if (r < 0 || !p->redirected)
		return r;
	r = judge(p, nl, plug_queue_find(&p->queue, p->ifb_index, nl, err), err);
	/* somebody took it away, or it is one of another version of us */
	return r < 0 || p->queue.built ? r : raise_ifb(p, nl, err);
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
	return raise_ifb(p, nl, err);
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
		r = p->queue.built ? plug_port_measure(p, nl, err) : plug_port_prepare(p, nl, err);
	if (r == 0 && !plug_queue_unused(&p->queue)) /* a guest may stand still: nothing that need not be done */
		r = plug_port_drop(p, nl, err);
	if (r == 0 && !p->redirected)
		r = redirect(p, nl, err);
	return r == 0 ? let_in(p, nl, err) : r;
}

int plug_port_shut(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	int r = find_vif(p, nl, err);

	if (r < 0 || !p->vif_index)
		return r;
	r = p->queue.built ? plug_port_drop(p, nl, err) : plug_port_prepare(p, nl, err);
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
	return p->queue.built ? judge(p, nl, plug_queue_clear(&p->queue, nl, err), err) : 0;
}

/* ---- epochs */

bool plug_port_room(const struct plug_port *p)
{
	return !p->queue.built || !p->queue.known || plug_queue_room(&p->queue);
}

int plug_port_seal(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	uint32_t thrown = 0;
	int r = 0;

	if (!p->queue.built)
		return 0;
	if (!p->queue.known) {
		r = plug_port_measure(p, nl, err);
		thrown = p->queue.now.queued;
		if (r == 0)
			r = plug_port_drop(p, nl, err);
	}
	if (r == 0)
		r = judge(p, nl, plug_queue_seal(&p->queue, nl, err), err);
	if (r == 0 && thrown)
		(void)rpl_fail(err, -ESTALE, "%s: %u held frames were thrown away: no keeper knows which epochs they belong to",
			       p->vif, thrown);
	return r < 0 ? r : thrown > 0;
}

void plug_port_release(struct plug_port *p, uint32_t epochs)
{
	if (p->queue.built)
		plug_queue_release(&p->queue, epochs);
}

int plug_port_step(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	return p->queue.built ? judge(p, nl, plug_queue_step(&p->queue, nl, err), err) : 0;
}

/* ---- the way out */

int plug_port_open(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	int r = let_in(p, nl, err);

	if (r == 0 && p->queue.built)
		plug_queue_open(&p->queue);
	return r;
}

int plug_port_burst(struct plug_port *p, struct plug_nl *nl, struct rpl_err *err)
{
	return p->queue.built ? judge(p, nl, plug_queue_burst(&p->queue, nl, err), err) : 0;
}

int plug_port_empty(struct plug_port *p, struct plug_nl *nl, bool *ret, struct rpl_err *err)
{
	struct plug_link link;
	int r = plug_port_measure(p, nl, err);

	*ret = true;
	if (r == 0 && p->queue.built)
		r = plug_nl_link(nl, p->ifb, &link, err);
	if (r < 0 || !p->queue.built)
		return r;
	/* an ifb "receives" what it is given and "transmits" what it hands back */
	*ret = p->queue.now.queued == 0 && link.rx_packets <= link.tx_packets;
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
	plug_queue_forget(&p->queue);
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
	return p->queue.built ? judge(p, nl, plug_queue_check(&p->queue, nl, err), err) : 0;
}
