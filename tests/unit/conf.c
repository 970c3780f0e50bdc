/* The configuration: every key of the lists at its bounds, faults named with file and line, timing relations,
 * files that override each other, and printed text that reads back the same. */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include <replicad/auto.h>
#include <replicad/conf.h>
#include <replicad/host.h>
#include <replicad/io.h>

#define UUID "6ba7b810-9dad-11d1-80b4-00c04fd430c8"

/* Parse and finish; the error's text, or "" when it was accepted. */
static const char *read_text(const char *text)
{
	static struct rpl_err err;
	struct rpl_conf *c = rpl_conf_new();
	int r;

	err = (struct rpl_err){ 0 };
	assert_non_null(c);
	r = rpl_conf_parse(c, "t.conf", text, strlen(text), &err);
	if (r == 0)
		r = rpl_conf_finish(c, &err);
	assert_int_equal(r, err.code);
	assert_int_equal(r == 0, err.msg[0] == '\0');
	rpl_conf_free(c);
	return err.msg;
}

#define ACCEPTS(text) assert_string_equal(read_text(text), "")
#define REFUSES(text, part)                                                                        \
	do {                                                                                       \
		const char *m_ = read_text(text);                                                  \
		if (!strstr(m_, part))                                                             \
			fail_msg("'%s' gave '%s', expected a message with '%s'", text, m_, part);  \
	} while (0)

static const char *const heading[RPL_CONF_NSECTIONS] = { "[agent]", "[peer p]", "[vm v]" };

/* One key of its section, alone; for VMs with what makes the rest consistent. */
static struct rpl_conf *with_key(const struct rpl_conf_key *k, const char *value, struct rpl_err *err)
{
	struct rpl_conf *c = rpl_conf_new();
	char text[1024];

	(void)snprintf(text, sizeof(text), "%s\n%s = %s\n", heading[k->section], k->name, value);
	if (rpl_conf_parse(c, "k.conf", text, strlen(text), err) == 0)
		return c;
	rpl_conf_free(c);
	return NULL;
}

static const void *base_of(const struct rpl_conf *c, enum rpl_conf_section s)
{
	return s == RPL_CONF_AGENT ? (const void *)&c->agent : s == RPL_CONF_PEER ? (const void *)&c->peers[0] : &c->vms[0];
}

static void refuse_number(const struct rpl_conf_key *k, const char *value)
{
	char allowed[80];
	struct rpl_err err;

	(void)snprintf(allowed, sizeof(allowed), "from %" PRId64 " to %" PRId64, k->min, k->max);
	assert_null(with_key(k, value, &err));
	assert_non_null(strstr(err.msg, "k.conf:2: "));
	assert_non_null(strstr(err.msg, allowed));
	assert_non_null(strstr(err.msg, value));
}

static void check_int_key(const struct rpl_conf_key *k)
{
	const int64_t good[] = { k->min, k->max };
	char value[32];
	struct rpl_err err;

	for (size_t i = 0; i < RPL_ARRAY_LEN(good); i++) {
		struct rpl_conf *c;

		(void)snprintf(value, sizeof(value), "%" PRId64, good[i]);
		c = with_key(k, value, &err);
		assert_non_null(c);
		assert_int_equal(*(const int64_t *)(const void *)((const char *)base_of(c, k->section) + k->offset), good[i]);
		rpl_conf_free(c);
	}
	(void)snprintf(value, sizeof(value), "%" PRId64, k->min - 1);
	refuse_number(k, value);
	(void)snprintf(value, sizeof(value), "%" PRId64, k->max + 1);
	refuse_number(k, value);
	refuse_number(k, "99999999999999999999");
	refuse_number(k, "50ms");
	refuse_number(k, "0x20");
}

static void check_text_key(const struct rpl_conf_key *k, const char *good, const char *bad)
{
	struct rpl_err err;
	struct rpl_conf *c = with_key(k, good, &err);

	if (!c)
		fail_msg("%s = %s: %s", k->name, good, err.msg);
	assert_string_equal((const char *)base_of(c, k->section) + k->offset, good);
	rpl_conf_free(c);
	if (bad) {
		if (with_key(k, bad, &err))
			fail_msg("%s = %s was accepted", k->name, bad);
		assert_non_null(strstr(err.msg, "k.conf:2: "));
		assert_non_null(strstr(err.msg, "allowed"));
	}
}

static void check_length(const struct rpl_conf_key *k, char first)
{
	char value[RPL_CONF_TEXT_MAX + 8];
	struct rpl_err err;
	struct rpl_conf *c;

	memset(value, 'a', sizeof(value));
	value[0] = first;
	value[k->max] = '\0';
	c = with_key(k, value, &err);
	assert_non_null(c);
	rpl_conf_free(c);
	value[k->max] = 'a';
	value[k->max + 1] = '\0';
	assert_null(with_key(k, value, &err));
	assert_non_null(strstr(err.msg, "allowed"));
}

static void check_key(const struct rpl_conf_key *k)
{
	char choice[64];
	struct rpl_err err;

	switch (k->type) {
	case RPL_CONF_INT:
		check_int_key(k);
		break;
	case RPL_CONF_BOOL:
		rpl_conf_free(with_key(k, "yes", &err));
		rpl_conf_free(with_key(k, "no", &err));
		assert_null(with_key(k, "true", &err));
		assert_non_null(strstr(err.msg, "yes or no"));
		break;
	case RPL_CONF_ENUM:
		for (const char *p = k->choices; *p; p += strcspn(p, "|"), p += *p == '|') {
			(void)snprintf(choice, sizeof(choice), "%.*s", (int)strcspn(p, "|"), p);
			check_text_key(k, choice, "nonsense");
		}
		choice[strlen(choice) - 1] = '\0'; /* a prefix of a choice is none */
		assert_null(with_key(k, choice, &err));
		if (strchr(k->choices, '|'))
			assert_null(with_key(k, k->choices, &err));
		break;
	case RPL_CONF_PATH:
		check_text_key(k, "/a/b", "a/b");
		check_length(k, '/');
		break;
	case RPL_CONF_UUID:
		check_text_key(k, UUID, "web1");
		break;
	case RPL_CONF_ADDR:
		check_text_key(k, "[::1]:7888", "host:99999");
		break;
	case RPL_CONF_NAME:
		check_text_key(k, "beta-1.example", "be ta");
		check_length(k, 'a');
		break;
	case RPL_CONF_LIST:
		check_text_key(k, "ada,grace", "a/b");
		break;
	case RPL_CONF_TEXT:
		check_text_key(k, "anything (printable)", "not\x01printable");
		check_length(k, 'a');
		break;
	}
}

static void every_key_keeps_its_rule(void **state)
{
	size_t seen = 0;

	(void)state;
	for (int s = 0; s < RPL_CONF_NSECTIONS; s++) {
		size_t n;
		const struct rpl_conf_key *k = rpl_conf_keys((enum rpl_conf_section)s, &n);

		for (size_t i = 0; i < n; i++, seen++)
			check_key(&k[i]);
	}
	assert_true(seen > 40);
}

static void faults_name_file_and_line(void **state)
{
	struct rpl_conf *c;
	char text[400];

	(void)state;
	REFUSES("[agent]\n\n# c\nnod = x\n", "t.conf:4: unknown key 'nod' in section [agent]");
	REFUSES("[vm web1]\nintervall_ms = 5\n", "t.conf:2: unknown key 'intervall_ms' in section [vm web1]");
	REFUSES("node = a\n", "t.conf:1: 'node' stands before the first section");
	REFUSES("[agents]\nnode = a\n", "t.conf:1: unknown section [agents]");
	REFUSES("[vmx]\n", "t.conf:1: unknown section [vmx]");
	REFUSES("[vm]\n", "t.conf:1: unknown section [vm]");
	REFUSES("[vm ]\n", "a name is at most");
	REFUSES("[vm ../x]\n", "a name is at most");
	REFUSES("[vm aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa]\n", "a name is at most 40");
	REFUSES("[agent\nnode = a\n", "t.conf:1: '[agent': ']' is missing");
	REFUSES("[agent] node = a\n", "t.conf:1: '[agent] node = a': something stands behind ']'");
	REFUSES("[agent]\njust text\n", "t.conf:2: this is neither");
	REFUSES("[agent]\nnode = a\nnode = b\n", "t.conf:3: node is set twice in this file, before in line 2");
	REFUSES("[agent]\nlisten =;1\n", "t.conf:2: listen = ;1: a value does not begin with ';'");
	REFUSES("[vm a]\nsuspect_ms = 99\n", "t.conf:2: suspect_ms = 99: allowed is a whole number from 100 to 600000");
	(void)snprintf(text, sizeof(text), "[agent]\nkeys = /%0300d\n", 0);
	REFUSES(text, "t.conf:2: a line of 308 bytes");
	(void)snprintf(text, sizeof(text), "[agent]\n# %0300d\nnode = a\n", 0);
	ACCEPTS(text);
	c = rpl_conf_new();
	assert_int_equal(rpl_conf_parse(c, "n", "[agent]\0", 8, NULL), -EINVAL);
	rpl_conf_free(c);
}

static void ordinary_spellings_are_accepted(void **state)
{
	(void)state;
	ACCEPTS("");
	ACCEPTS("[agent] # comment\n  node = alpha   ; comment\r\n\t\n[vm web1]");
	ACCEPTS("[vm a]\ninterval_ms = 25\n  suspect_ms = 500\n");
	ACCEPTS("[agent]\nnode = a\n[vm x]\n[agent]\ncluster = b\n");
}

static void timing_relations_are_checked(void **state)
{
	(void)state;
	REFUSES("\n[vm a]\ninterval_ms = 100\n", "t.conf:2: [vm a]: stall 1000 ms (10 x interval_ms = 100) is not below suspect_ms = 1000");
	ACCEPTS("[vm a]\ninterval_ms = 99\n");
	ACCEPTS("[vm a]\ninterval_ms = 100\nstall_ms = 999\n");
	REFUSES("[vm a]\nstall_ms = 1000\n", "stall_ms = 1000 is not below suspect_ms = 1000");
	REFUSES("[vm a]\ntakeover_delay_ms = 199\n", "takeover_delay_ms = 199: allowed is a whole number from 200");
	REFUSES("[vm a]\nrelay_ports = /run/a.net,/run/a.qemu,tap=a\n", "relay_ports needs netbuf = relay and relay = PATH");
	REFUSES("[vm a]\nrelay = /run/a.relay\nnetbuf = plug\nrelay_ports = /run/a.net,/run/a.qemu,tap=a\n", "relay_ports needs");
	REFUSES("[vm a]\nheartbeat_ms = 400\n", "heartbeat_ms = 400 is more than a third of suspect_ms = 1000");
}

static void what_belongs_together_is_checked(void **state)
{
	char text[300];

	(void)state;
	REFUSES("[vm a]\nnetbuf = none\n", "netbuf = none holds no output");
	ACCEPTS("[vm a]\nnetbuf = none\ninsecure = yes\n");
	REFUSES("[vm a]\nstandby = /s\n", "standby needs uuid");
	REFUSES("[vm a]\nrole = backup\nuuid = " UUID "\n", "role = backup needs standby");
	ACCEPTS("[vm a]\nrole = backup\nuuid = " UUID "\nstandby = /s\n");
	REFUSES("[vm a]\nuuid = " UUID "\n[vm b]\nuuid = 6BA7B810-9dad-11d1-80b4-00c04fd430c8\n", "t.conf:3: [vm b]: uuid");
	REFUSES("[vm a]\nbackup = h:x\n", "port 'x' is not a number");
	ACCEPTS("[peer h_x]\naddress = 10.0.0.1\n[vm a]\nbackup = h_x\n");
	(void)snprintf(text, sizeof(text), "[agent]\nrun_dir = /%055d\n[vm %040d]\n", 0, 0);
	REFUSES(text, "make a socket path of");
}

/* One keeper would release what the other holds. */
static void what_a_vm_needs_for_itself_is_not_shared(void **state)
{
	(void)state;
	REFUSES("[vm a]\nrelay = /run/r\n[vm b]\n[vm c]\nrelay = /run/r\n", "t.conf:4: [vm c]: relay: /run/r is [vm a]'s already");
	REFUSES("[vm a]\nqmp = /run/q\n[vm b]\nqmp = /run/q\n", "t.conf:3: [vm b]: qmp: /run/q is [vm a]'s already");
	REFUSES("[vm a]\ninterfaces = v0,v1\n[vm b]\ninterfaces = v11, v1,v2\n", "t.conf:3: [vm b]: interfaces: v1 is [vm a]'s already");
	REFUSES("[vm a]\ninterfaces = v1\n[vm b]\ninterfaces = v1\n", "interfaces: v1 is [vm a]'s");
	ACCEPTS("[vm a]\ninterfaces = v1, v2\n[vm b]\ninterfaces = ,v,v11,v22 ,\n[vm c]\ninterfaces = ,\n");
	ACCEPTS("[vm a]\nrelay = /run/r\nqmp = /run/q\n[vm b]\nrelay = /run/r2\nqmp = /run/r\n[vm c]\n");
	ACCEPTS("[vm a]\nrelay = /run/r\n[vm a]\nqmp = /run/q\n");
}

static struct rpl_conf *one_vm(const char *keys)
{
	struct rpl_conf *c = rpl_conf_new();
	char text[256];
	struct rpl_err err;

	(void)snprintf(text, sizeof(text), "[agent]\nnode = n\n[vm a]\n%s", keys);
	if (rpl_conf_parse(c, "t.conf", text, strlen(text), &err) < 0 || rpl_conf_finish(c, &err) < 0)
		fail_msg("%s", err.msg);
	return c;
}

static void settled(const char *keys, const char *backend, const char *netbuf)
{
	struct rpl_conf *c = one_vm(keys);

	assert_string_equal(c->vms[0].backend, backend);
	assert_string_equal(c->vms[0].netbuf, netbuf);
	rpl_conf_free(c);
}

/* A Xen host is known by what the kernel says of it, so here it is mostly what an operator's own words make of the rest. */
static void what_runs_the_guest_and_holds_its_output_is_found_out(void **state)
{
	bool xen = rpl_host_controls_xen();

	(void)state;
	settled("", xen ? "xen" : "qemu", xen ? "plug" : "relay");
	settled("qmp = /run/a.qmp\n", "qemu", "relay");
	settled("backend = xen\n", "xen", "plug");
	settled("backend = xen\nrelay = /run/a.relay\n", "xen", "relay");
	settled("backend = xen\nnetbuf = relay\n", "xen", "relay");
	settled("backend = qemu\nnetbuf = plug\n", "qemu", "plug");
	settled("backend = sim\n", "sim", "relay");
}

static void addresses_are_split(void **state)
{
	static const struct { const char *text, *host, *port; } good[] = {
		{ "beta", "beta", "7887" }, { "beta:80", "beta", "80" }, { ":0", "", "0" }, { "[::1]", "::1", "7887" },
		{ "[::1]:9", "::1", "9" }, { "fe80::1", "fe80::1", "7887" }, { "10.0.0.1:65535", "10.0.0.1", "65535" },
	};
	static const char *const bad[] = { "beta:", "beta:65536", "beta:-1", "beta: 1", "[::1", "[::1]x", "a b", "a:1x" };
	char host[RPL_CONF_TEXT_MAX], port[6];
	struct rpl_err err;

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(good); i++) {
		assert_int_equal(rpl_conf_address(good[i].text, host, port, &err), 0);
		assert_string_equal(host, good[i].host);
		assert_string_equal(port, good[i].port);
	}
	for (size_t i = 0; i < RPL_ARRAY_LEN(bad); i++)
		if (rpl_conf_address(bad[i], host, port, &err) != -EINVAL)
			fail_msg("'%s' gave '%s' and '%s'", bad[i], host, port);
}

static void dependent_defaults_are_filled_in(void **state)
{
	static const char text[] = "[agent]\nnode = alpha\nstate_dir = /s\n[peer beta]\n[vm a]\nuuid = " UUID "\n";
	struct rpl_conf *c = rpl_conf_new();
	struct rpl_uuid u;

	(void)state;
	assert_int_equal(rpl_conf_parse(c, "t", text, strlen(text), NULL), 0);
	assert_int_equal(rpl_conf_finish(c, NULL), 0);
	assert_string_equal(c->agent.identity, "alpha");
	assert_string_equal(c->agent.arbiter_location, "/s/arbiter");
	assert_string_equal(c->peers[0].address, "beta");
	assert_string_equal(c->peers[0].identity, "beta");
	assert_int_equal(rpl_conf_stall_ms(&c->vms[0]), 500);
	assert_int_equal(rpl_uuid_parse(UUID, &u, NULL), 0);
	assert_ptr_equal(rpl_conf_vm_by_uuid(c, &u), rpl_conf_vm(c, "a"));
	u.b[0] ^= 1;
	assert_null(rpl_conf_vm_by_uuid(c, &u));
	assert_null(rpl_conf_vm(c, "b"));
	rpl_conf_free(c);
}

static void put(const char *dir, const char *name, const char *text)
{
	char path[128];

	(void)snprintf(path, sizeof(path), "%s/%s", dir, name);
	assert_int_equal(rpl_write_file_durably(path, text, strlen(text), 0600, NULL), 0);
}

static void drop(const char *dir, const char *name)
{
	char path[128];

	(void)snprintf(path, sizeof(path), "%s/%s", dir, name);
	assert_int_equal(remove(path), 0);
}

static void a_later_file_wins(void **state)
{
	char dir[] = "/tmp/rpl-conf-XXXXXX", path[64], sub[64], want[128];
	struct rpl_conf *c;
	struct rpl_err err;

	(void)state;
	assert_non_null(mkdtemp(dir));
	(void)snprintf(path, sizeof(path), "%s/replicad.conf", dir);
	(void)snprintf(sub, sizeof(sub), "%s/conf.d", dir);
	assert_null(rpl_conf_load(path, &err));
	assert_int_equal(err.code, -ENOENT);
	put(dir, "replicad.conf", "[agent]\nnode = one\n[vm a]\nbackup = b1\nqmp = /q\n");
	c = rpl_conf_load(path, &err); /* no conf.d: fine */
	assert_non_null(c);
	rpl_conf_free(c);
	assert_int_equal(mkdir(sub, 0700), 0);
	put(sub, "20.conf", "[vm a]\nbackup = b20\n");
	put(sub, "10.conf", "[vm a]\nbackup = b10\ninterval_ms = 20\n");
	put(sub, "30.txt", "nonsense\n");
	c = rpl_conf_load(path, &err);
	assert_non_null(c);
	assert_string_equal(c->vms[0].backup, "b20");
	assert_string_equal(c->vms[0].qmp, "/q");
	assert_int_equal(c->vms[0].interval_ms, 20);
	rpl_conf_free(c);
	put(sub, "40.conf", "[vm a]\nx = 1\n");
	assert_null(rpl_conf_load(path, &err));
	(void)snprintf(want, sizeof(want), "%s/40.conf:2: unknown key 'x'", sub);
	assert_non_null(strstr(err.msg, want));
	drop(sub, "10.conf"), drop(sub, "20.conf"), drop(sub, "30.txt"), drop(sub, "40.conf");
	drop(dir, "conf.d"), drop(dir, "replicad.conf");
	assert_int_equal(rmdir(dir), 0);
}

static char *printed(const struct rpl_conf *c)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	rpl_conf_print(c, f);
	(void)fclose(f);
	return text;
}

/* Without comments, which tell the origin. */
static void strip_comments(char *text)
{
	char *to = text;

	for (char *p = text; *p;) {
		size_t len = strcspn(p, "\n") + 1;

		if (*p != '#') {
			memmove(to, p, len);
			to += len;
		}
		p += len;
	}
	*to = '\0';
}

static void what_is_printed_reads_back(void **state)
{
	static const char text[] = "[agent]\nnode=n\nlisten =\n[peer p]\naddress=[::1]:5\n[vm a]\nuuid=" UUID
				   "\ninterval_ms=20\naudit=yes\n";
	struct rpl_conf *c = rpl_conf_new(), *again = rpl_conf_new();
	char *one, *two;
	struct rpl_err err;

	(void)state;
	assert_int_equal(rpl_conf_parse(c, "t.conf", text, strlen(text), NULL), 0);
	assert_int_equal(rpl_conf_finish(c, NULL), 0);
	one = printed(c);
	assert_non_null(strstr(one, "from t.conf:8"));
	if (rpl_conf_parse(again, "p", one, strlen(one), &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(rpl_conf_finish(again, NULL), 0);
	two = printed(again);
	strip_comments(one);
	strip_comments(two);
	assert_string_equal(one, two);
	free(one);
	free(two);
	rpl_conf_free(c);
	rpl_conf_free(again);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_key_keeps_its_rule),
		cmocka_unit_test(faults_name_file_and_line),
		cmocka_unit_test(ordinary_spellings_are_accepted),
		cmocka_unit_test(timing_relations_are_checked),
		cmocka_unit_test(what_belongs_together_is_checked),
		cmocka_unit_test(what_a_vm_needs_for_itself_is_not_shared),
		cmocka_unit_test(what_runs_the_guest_and_holds_its_output_is_found_out),
		cmocka_unit_test(addresses_are_split),
		cmocka_unit_test(dependent_defaults_are_filled_in),
		cmocka_unit_test(a_later_file_wins),
		cmocka_unit_test(what_is_printed_reads_back),
	};

	return cmocka_run_group_tests_name("conf", tests, NULL, NULL);
}
