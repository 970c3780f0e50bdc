/* The plug backend's messages, byte for byte as the kernel's headers say, and what is read from the kernel's answers;
 * names of interfaces and of the devices made for them. The queue itself is tested in tests/flow/netbuf-plug. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <ev.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <netlink/attr.h>
#include <netlink/msg.h>

#include <replicad/netbuf.h>

#include "netbuf/plug_msg.h"
#include "netbuf/plug_port.h"

static const struct tcmsg *tc_of(struct nl_msg *m, int type, int flags)
{
	const struct nlmsghdr *h = nlmsg_hdr(m);

	assert_int_equal(h->nlmsg_type, type);
	assert_int_equal(h->nlmsg_flags, flags);
	return nlmsg_data(h);
}

static struct nlattr *attr_of(struct nl_msg *m, size_t head, int type)
{
	return nlmsg_find_attr(nlmsg_hdr(m), (int)head, type);
}

static void a_plug_is_made_and_told(void **state)
{
	struct nl_msg *m = plug_msg_plug_new(7, 0x52500002, 0x52510000, 4096);
	const struct tcmsg *t = tc_of(m, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE);
	const struct tc_plug_qopt *opt = nla_data(attr_of(m, sizeof(*t), TCA_OPTIONS));

	(void)state;
	assert_int_equal(t->tcm_ifindex, 7);
	assert_int_equal(t->tcm_parent, 0x52500002);
	assert_int_equal(t->tcm_handle, 0x52510000);
	assert_string_equal(nla_get_string(attr_of(m, sizeof(*t), TCA_KIND)), "plug");
	assert_int_equal(opt->limit, 4096);
	nlmsg_free(m);

	for (int action = TCQ_PLUG_BUFFER; action <= TCQ_PLUG_RELEASE_INDEFINITE; action++) {
		m = plug_msg_plug_do(7, 0x52500002, 0x52510000, action);
		t = tc_of(m, RTM_NEWQDISC, 0); /* without CREATE: it never makes one */
		opt = nla_data(attr_of(m, sizeof(*t), TCA_OPTIONS));
		assert_string_equal(nla_get_string(attr_of(m, sizeof(*t), TCA_KIND)), "plug");
		assert_int_equal(t->tcm_parent, 0x52500002);
		assert_int_equal(t->tcm_handle, 0x52510000);
		assert_int_equal(opt->action, action);
		nlmsg_free(m);
	}
}

static void all_frames_go_into_one_band(void **state)
{
	struct nl_msg *m = plug_msg_prio_new(7, 0x52500000, 6, 0);
	const struct tcmsg *t = tc_of(m, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE);
	struct tc_prio_qopt *opt;
	struct plug_qdisc q;

	(void)state;
	assert_int_equal(t->tcm_parent, TC_H_ROOT);
	assert_int_equal(t->tcm_handle, 0x52500000);
	nlmsg_free(m);

	m = plug_msg_prio_into(7, 0x52500000, 6, 4);
	t = tc_of(m, RTM_NEWQDISC, NLM_F_ECHO); /* the kernel tells what it is then, in the same shape */
	assert_int_equal(t->tcm_parent, TC_H_ROOT);
	opt = nla_data(attr_of(m, sizeof(*t), TCA_OPTIONS));
	assert_int_equal(opt->bands, 6);
	for (int i = 0; i <= TC_PRIO_MAX; i++)
		assert_int_equal(opt->priomap[i], 4);
	assert_int_equal(plug_msg_read_qdisc(nlmsg_hdr(m), &q), 0);
	assert_string_equal(q.kind, "prio");
	assert_int_equal(q.handle, 0x52500000);
	assert_int_equal(q.bands, 6);
	assert_int_equal(q.into, 4);
	for (int i = 0; i <= TC_PRIO_MAX; i++) {
		opt->priomap[i] = 3;
		assert_int_equal(plug_msg_read_qdisc(nlmsg_hdr(m), &q), 0);
		assert_int_equal(q.into, -1);
		opt->priomap[i] = 4;
	}
	nlmsg_free(m);
	m = plug_msg_root_del(7);
	t = tc_of(m, RTM_DELQDISC, 0);
	assert_int_equal(t->tcm_parent, TC_H_ROOT);
	nlmsg_free(m);
}

static void filters_take_every_protocol(void **state)
{
	struct plug_filter f;
	struct nl_msg *m = plug_msg_redirect_new(5, 9);

	(void)state;
	/* the kernel tells a filter in the same shape in which it is given one */
	assert_int_equal(nlmsg_hdr(m)->nlmsg_flags, NLM_F_CREATE | NLM_F_EXCL);
	assert_int_equal(plug_msg_read_filter(nlmsg_hdr(m), &f), 0);
	assert_int_equal(f.index, 5);
	assert_int_equal(f.parent, 0xfffffff2);
	assert_int_equal(f.prio, PLUG_FILTER_PRIO);
	assert_int_equal(f.protocol, ETH_P_ALL);
	assert_string_equal(f.kind, "matchall");
	assert_int_equal(f.redirect_to, 9);
	assert_false(f.drops);
	nlmsg_free(m);

	m = plug_msg_drop_new(5);
	assert_int_equal(plug_msg_read_filter(nlmsg_hdr(m), &f), 0);
	assert_int_equal(f.parent, 0xfffffff3);
	assert_int_equal(f.protocol, ETH_P_ALL);
	assert_int_equal(f.redirect_to, 0);
	assert_true(f.drops);
	nlmsg_free(m);
}

static void links_and_the_rest(void **state)
{
	struct nl_msg *m = plug_msg_ifb_new("rp-vif1.0");
	struct plug_link link;
	const struct tcmsg *t;

	(void)state;
	assert_int_equal(plug_msg_read_link(nlmsg_hdr(m), &link), 0);
	assert_string_equal(link.name, "rp-vif1.0");
	assert_string_equal(link.kind, "ifb");
	assert_int_equal(nlmsg_hdr(m)->nlmsg_flags, NLM_F_CREATE | NLM_F_EXCL);
	nlmsg_free(m);
	m = plug_msg_ifb_up(3, "replicad: output of vif1.0");
	assert_int_equal(plug_msg_read_link(nlmsg_hdr(m), &link), 0);
	assert_int_equal(link.index, 3);
	assert_true(link.up);
	assert_string_equal(link.alias, "replicad: output of vif1.0");
	nlmsg_free(m);
	m = plug_msg_ifb_down(3);
	assert_int_equal(plug_msg_read_link(nlmsg_hdr(m), &link), 0);
	assert_false(link.up);
	assert_int_equal(((const struct ifinfomsg *)nlmsg_data(nlmsg_hdr(m)))->ifi_change, IFF_UP);
	nlmsg_free(m);
	m = plug_msg_clsact_new(3);
	t = tc_of(m, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL);
	assert_int_equal(t->tcm_parent, TC_H_CLSACT);
	assert_string_equal(nla_get_string(attr_of(m, sizeof(*t), TCA_KIND)), "clsact");
	nlmsg_free(m);
	m = plug_msg_qdisc_get(3, TC_H_ROOT);
	(void)tc_of(m, RTM_GETQDISC, NLM_F_ECHO);
	nlmsg_free(m);
}

/* What the kernel says of a queue, put together as it does it. */
static struct nl_msg *queue_answer(const char *kind, uint64_t bytes, uint32_t backlog)
{
	struct tcmsg t = { .tcm_ifindex = 4, .tcm_handle = 0x52510000, .tcm_parent = TC_H_ROOT };
	struct { uint64_t bytes; uint32_t packets, pad; } basic = { bytes, 3, 0 };
	uint32_t queue[5] = { 2, backlog, 6, 0, 0 };
	struct nl_msg *m = nlmsg_alloc_simple(RTM_NEWQDISC, 0);
	struct nlattr *stats;

	assert_int_equal(nlmsg_append(m, &t, sizeof(t), NLMSG_ALIGNTO), 0);
	assert_int_equal(nla_put_string(m, TCA_KIND, kind), 0);
	stats = nla_nest_start(m, TCA_STATS2);
	assert_int_equal(nla_put(m, 1, 12, &basic), 0); /* TCA_STATS_BASIC, without its padding as old kernels give it */
	assert_int_equal(nla_put(m, 3, sizeof(queue), queue), 0); /* TCA_STATS_QUEUE */
	nla_nest_end(m, stats);
	return m;
}

static void a_queue_is_read_whole_or_not(void **state)
{
	struct nl_msg *m = queue_answer("plug", 1ull << 40, 1500);
	struct nlmsghdr *h = nlmsg_hdr(m);
	struct plug_qdisc q;
	uint32_t whole = h->nlmsg_len;

	(void)state;
	assert_int_equal(plug_msg_read_qdisc(h, &q), 0);
	assert_string_equal(q.kind, "plug");
	assert_int_equal(q.index, 4);
	assert_int_equal(q.handle, 0x52510000);
	assert_true(q.sent_bytes == 1ull << 40);
	assert_int_equal(q.sent_packets, 3);
	assert_int_equal(q.queued, 2);
	assert_int_equal(q.backlog_bytes, 1500);
	assert_int_equal(q.dropped, 6);
	for (h->nlmsg_len = NLMSG_HDRLEN; h->nlmsg_len < whole; h->nlmsg_len++)
		(void)plug_msg_read_qdisc(h, &q); /* cut anywhere: nothing beyond is read */
	h->nlmsg_len = NLMSG_HDRLEN + 4;
	assert_int_equal(plug_msg_read_qdisc(h, &q), -EBADMSG);
	h->nlmsg_type = RTM_NEWLINK;
	assert_int_equal(plug_msg_read_qdisc(h, &q), -ENOMSG);
	nlmsg_free(m);
}

static void names(void **state)
{
	struct plug_port p, other;
	struct rpl_err err;

	(void)state;
	assert_int_equal(plug_port_init(&p, "vif1.0", 1, &err), 0);
	assert_string_equal(p.ifb, "rp-vif1.0");
	assert_int_equal(plug_port_init(&p, "vif12345.0-e", 1, &err), 0); /* 12: as long as it fits */
	assert_string_equal(p.ifb, "rp-vif12345.0-e");
	assert_int_equal(plug_port_init(&p, "vif12345.0-emu", 1, &err), 0);
	assert_int_equal(plug_port_init(&other, "vif12346.0-emu", 1, &err), 0);
	assert_int_equal(strlen(p.ifb), 11);
	assert_string_not_equal(p.ifb, other.ifb);
	assert_int_equal(plug_port_init(&p, "", 1, &err), -EINVAL);
	assert_int_equal(plug_port_init(&p, "1234567890123456", 1, &err), -EINVAL);
	assert_int_equal(plug_port_init(&p, "a/b", 1, &err), -EINVAL);
	assert_int_equal(plug_port_init(&p, "..", 1, &err), -EINVAL);
}

static void never(void *arg, enum rpl_netbuf_op op, uint64_t epoch, int r, const struct rpl_err *err)
{
	(void)arg;
	(void)op;
	(void)epoch;
	(void)r;
	(void)err;
	fail();
}

static void never_event(void *arg, int r, const char *msg)
{
	(void)arg;
	(void)r;
	fail_msg("%s", msg);
}

static void the_list_of_interfaces(void **state)
{
	static const char *const twice[] = { "vif1.0", "vif1.1", "vif1.0", NULL }, *const good[] = { "vif1.0", NULL };
	const char *many[RPL_NETBUF_INTERFACES_MAX + 2] = { NULL };
	char text[RPL_NETBUF_INTERFACES_MAX + 1][8];
	struct rpl_netbuf_conf conf = { .backend = "plug", .vm = "web1", .interfaces = good };
	struct ev_loop *loop = ev_loop_new(0);
	struct rpl_err err = { 0 };
	struct rpl_netbuf *n = rpl_netbuf_new(&conf, loop, never, never_event, NULL, &err);

	(void)state;
	assert_non_null(n);
	assert_int_equal(rpl_netbuf_max_uncommitted(n), PLUG_SEALED_MAX);
	assert_int_equal(rpl_netbuf_interfaces(n, twice, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "vif1.0 is named twice"));
	for (size_t i = 0; i <= RPL_NETBUF_INTERFACES_MAX; i++) {
		(void)snprintf(text[i], sizeof(text[i]), "v%zu", i);
		many[i] = text[i];
	}
	assert_int_equal(rpl_netbuf_interfaces(n, many, &err), -E2BIG);
	many[RPL_NETBUF_INTERFACES_MAX] = NULL;
	assert_int_equal(rpl_netbuf_interfaces(n, many, &err), 0);
	rpl_netbuf_free(n);
	conf.interfaces = twice;
	assert_null(rpl_netbuf_new(&conf, loop, never, never_event, NULL, &err));
	ev_loop_destroy(loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_plug_is_made_and_told), cmocka_unit_test(all_frames_go_into_one_band),
		cmocka_unit_test(filters_take_every_protocol),
		cmocka_unit_test(links_and_the_rest),	   cmocka_unit_test(a_queue_is_read_whole_or_not),
		cmocka_unit_test(names),		   cmocka_unit_test(the_list_of_interfaces),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
