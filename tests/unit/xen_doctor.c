/* `replicad doctor` on a Xen host, against a stand-in for Xen's libraries: every verdict, and what it says. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <replicad/guest.h>
#include <replicad/xen_doctor.h>

#include "../../src/cli/doctor_xen.h"
#include "../../src/cli/xen_send.h"
#include "xen_fake.h"
#include "xen_stage.h"

#define CHECKS_MAX 16
#define AVX2 (1u << 5)
#define ERMS (1u << 9)

static char dir[] = "/tmp/xen-doctor-XXXXXX";

struct seen {
	struct rpl_check check[CHECKS_MAX];
	int n, fails;
	struct rpl_err err;
};

static void on_check(void *arg, const struct rpl_check *c)
{
	struct seen *s = arg;

	assert_in_range(s->n, 0, CHECKS_MAX - 1);
	assert_true(c->sentence[0] != '\0');
	s->check[s->n++] = *c;
}

static void look(struct seen *s, const char *vm, const json_t *peer)
{
	const struct doctor_xen d = { .vm = vm, .peer = peer, .any_netdev = true };

	memset(s, 0, sizeof(*s));
	s->fails = doctor_xen(&d, on_check, s, &s->err);
	assert_int_equal(fake.handles, 0);
	assert_int_equal(fake.mappings, 0);
	assert_int_equal(fake.buffers, 0);
	assert_int_equal(fake.suspends, 0);
	assert_false(fake.logging);
}

static void expect(const struct seen *s, const char *name, enum rpl_check_level level, const char *text)
{
	for (int i = 0; i < s->n; i++)
		if (strcmp(s->check[i].name, name) == 0) {
			if (s->check[i].level != level || !strstr(s->check[i].sentence, text))
				fail_msg("%s: level %d: %s", name, (int)s->check[i].level, s->check[i].sentence);
			assert_true(level != RPL_CHECK_FAIL || s->fails > 0);
			return;
		}
	fail_msg("no check %s", name);
}

static json_t *facts(void)
{
	struct rpl_err err = { 0 };
	json_t *f;

	assert_int_equal(rpl_xen_facts(&f, &err), 0);
	assert_int_equal(rpl_xen_facts_check(f, &err), 0);
	return f;
}

static void begin(bool pv)
{
	xen_fake_start(pv);
	fake.domain_7b = fake.system_7b = AVX2 | ERMS;
}

static void test_nothing_against(void **state)
{
	struct seen s;
	json_t *peer;

	(void)state;
	for (int pv = 0; pv < 2; pv++) {
		begin(pv);
		peer = facts();
		look(&s, NULL, NULL);
		assert_int_equal(s.fails, 0);
		assert_int_equal(s.n, 3);
		look(&s, FAKE_NAME, peer);
		assert_int_equal(s.fails, 0);
		expect(&s, "xen", RPL_CHECK_OK, "Xen 4.17.5");
		expect(&s, "logdirty", RPL_CHECK_OK, "PV guests");
		expect(&s, "toolstack", RPL_CHECK_OK, "4096 MiB");
		expect(&s, "domain", RPL_CHECK_OK, pv ? "pv, 4 MiB, 1 virtual CPUs, running" : "pvh, 4 MiB");
		expect(&s, "peer-xen", RPL_CHECK_OK, "too");
		expect(&s, "cpu", RPL_CHECK_OK, "has every feature of this domain's CPU");
		expect(&s, "peer-memory", RPL_CHECK_OK, "1024 MiB");
		look(&s, FAKE_NAME, NULL);
		expect(&s, "peer", RPL_CHECK_WARN, "was not compared");
		json_decref(peer);
		xen_fake_end();
	}
}

static void test_host(void **state)
{
	struct seen s;

	(void)state;
	begin(true);
	fake.no_shadow = true;
	look(&s, FAKE_NAME, NULL);
	expect(&s, "logdirty", RPL_CHECK_WARN, "of PV guests not");
	expect(&s, "domain", RPL_CHECK_FAIL, "no shadow paging");
	fake.no_hap = true;
	look(&s, NULL, NULL);
	expect(&s, "logdirty", RPL_CHECK_FAIL, "neither HAP nor shadow");
	fake.no_shadow = false;
	look(&s, NULL, NULL);
	expect(&s, "logdirty", RPL_CHECK_WARN, "no HAP");
	fake.fail_name = "xc_interface_open";
	fake.error = EACCES;
	look(&s, NULL, NULL);
	assert_int_equal(s.fails, -EACCES);
	assert_non_null(strstr(s.err.msg, "no Xen control domain"));
	fake.fail_name = "xc_cpu_policy_get_system";
	look(&s, NULL, NULL);
	assert_int_equal(s.fails, -EACCES);
	fake.fail_name = "xc_physinfo";
	look(&s, NULL, NULL);
	assert_int_equal(s.fails, -EACCES);
	xen_fake_end();
}

static void test_domain(void **state)
{
	const struct xen_send_policy p = { .run_dir = dir, .rounds_max = 1, .suspend_timeout_ms = 1000 };
	struct rpl_err err = { 0 };
	struct xen_send *other;
	struct seen s;

	(void)state;
	begin(false);
	look(&s, "web2", NULL);
	expect(&s, "domain", RPL_CHECK_FAIL, "there is no domain 'web2'");
	other = xen_send_open(FAKE_NAME, &p, &err);
	assert_non_null(other);
	memset(&s, 0, sizeof(s));
	assert_int_equal(doctor_xen(&(struct doctor_xen){ .vm = FAKE_NAME, .any_netdev = true }, on_check, &s, &s.err), 0);
	expect(&s, "domain", RPL_CHECK_WARN, "protected, saved or migrated");
	xen_send_free(other);
	fake.fail_name = "xc_cpu_policy_get_domain";
	look(&s, FAKE_NAME, NULL);
	expect(&s, "domain", RPL_CHECK_FAIL, "its CPU policy");
	fake.fail_name = NULL;
	xen_fake_put_node("/libxl/5/device/vbd/51712/mode", "w");
	look(&s, FAKE_NAME, NULL);
	expect(&s, "domain", RPL_CHECK_FAIL, "51712");
	xen_fake_put_node("/libxl/5/device/vbd/51712/mode", "r");
	look(&s, FAKE_NAME, NULL);
	expect(&s, "domain", RPL_CHECK_OK, "pvh");
	xen_fake_put_node("/libxl/5/device/pci/0", "");
	look(&s, FAKE_NAME, NULL);
	expect(&s, "domain", RPL_CHECK_FAIL, "PCI device passed through");
	xen_fake_end();
}

static void test_peer(void **state)
{
	struct rpl_err err = { 0 };
	json_t *peer, *cpu;
	struct seen s;

	(void)state;
	begin(false);
	fake.system_7b = ERMS;
	peer = facts(); /* of a host that is one feature poorer */
	fake.system_7b |= AVX2;
	look(&s, FAKE_NAME, peer);
	expect(&s, "cpu", RPL_CHECK_FAIL, "lacks 1 of the features of this domain's CPU: avx2");
	look(&s, NULL, peer);
	expect(&s, "cpu", RPL_CHECK_WARN, "avx2");
	fake.domain_7b = ERMS; /* which this domain does not see */
	look(&s, FAKE_NAME, peer);
	expect(&s, "cpu", RPL_CHECK_OK, "has every feature");
	(void)json_object_set_new(peer, "minor", json_integer(16));
	look(&s, FAKE_NAME, peer);
	expect(&s, "peer-xen", RPL_CHECK_FAIL, "which is older");
	(void)json_object_set_new(peer, "minor", json_integer(18));
	(void)json_object_set_new(peer, "free_mib", json_integer(3));
	(void)json_object_set_new(peer, "hap", json_false());
	look(&s, FAKE_NAME, peer);
	expect(&s, "peer-xen", RPL_CHECK_WARN, "newer than");
	expect(&s, "peer-memory", RPL_CHECK_FAIL, "3 MiB free for domains, this one has 4");
	expect(&s, "peer-logdirty", RPL_CHECK_WARN, "cannot come back");
	cpu = json_object_get(peer, "cpu");
	(void)json_object_del(cpu, "hvm");
	look(&s, FAKE_NAME, peer);
	expect(&s, "cpu", RPL_CHECK_FAIL, "cannot run pvh guests");
	(void)json_object_del(cpu, "pv");
	assert_int_equal(rpl_xen_facts_check(peer, &err), -EBADMSG);
	(void)json_object_set_new(peer, "v", json_integer(2));
	assert_int_equal(rpl_xen_facts_check(peer, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "doctor --facts"));
	json_decref(peer);
	xen_fake_end();
}

static void test_peer_file(void **state)
{
	struct rpl_err err = { 0 };
	char path[64];

	(void)state;
	(void)snprintf(path, sizeof(path), "%s/facts", dir);
	stage_file(path, "{\"v\": 1");
	assert_null(doctor_xen_peer(path, &err));
	assert_non_null(strstr(err.msg, "no JSON"));
	stage_file(path, "{\"v\": 1}");
	assert_null(doctor_xen_peer(path, &err));
	assert_non_null(strstr(err.msg, "without host"));
	(void)unlink(path);
	assert_null(doctor_xen_peer(path, &err));
}

static void test_names(void **state)
{
	json_t *all = json_object(), *none = json_object();
	char names[40], long_names[8192];
	unsigned bits = 0;

	(void)state;
	for (size_t i = 0; i < rpl_cpu_words_n; i++) {
		unsigned spaces = 0;

		(void)json_object_set_new(all, rpl_cpu_words[i].name, json_integer(UINT32_MAX));
		bits += 32u - (unsigned)__builtin_popcount(rpl_cpu_words[i].ignore);
		for (const char *p = rpl_cpu_words[i].bits; *p; p++)
			spaces += *p == ' ';
		assert_in_range(spaces, 0, 31); /* no more names than bits */
	}
	assert_int_equal(rpl_xen_cpu_missing(all, none, long_names, sizeof(long_names)), bits);
	assert_non_null(strstr(long_names, "avx512vl"));
	assert_non_null(strstr(long_names, "80000021.eax bit 31"));
	assert_int_equal(rpl_xen_cpu_missing(all, none, names, sizeof(names)), bits);
	assert_string_equal(names + strlen(names) - 3, "...");
	assert_int_equal(rpl_xen_cpu_missing(none, all, names, sizeof(names)), 0);
	assert_int_equal(rpl_xen_cpu_missing(all, all, names, sizeof(names)), 0);
	json_decref(all);
	json_decref(none);
}

/* A domain on an AMD host, as Xen says it: 80000001.edx repeats bits of 1.edx, which the host's policy leaves out. */
static void test_repeated_bits(void **state)
{
	json_t *domain = json_pack("{s:I}", "80000001.edx", (json_int_t)0x2bd3fbff);
	json_t *host = json_pack("{s:I}", "80000001.edx", (json_int_t)0x2a500800);
	json_t *older = json_pack("{s:I}", "80000001.edx", (json_int_t)0x0a500800);
	char names[40];

	(void)state;
	assert_int_equal(rpl_xen_cpu_missing(domain, host, names, sizeof(names)), 0);
	assert_int_equal(rpl_xen_cpu_missing(domain, older, names, sizeof(names)), 1);
	assert_string_equal(names, "lm");
	json_decref(domain);
	json_decref(host);
	json_decref(older);
}

static int start(void **state)
{
	(void)state;
	stage_xl(dir, "#!/bin/sh\ncase $1 in\ninfo) printf 'host : x\\nfree_memory : 4096\\n' ;;\ndomid) echo 5 ;;\nesac\n");
	return 0;
}

static int finish(void **state)
{
	(void)state;
	return stage_xl_end(dir, FAKE_NAME);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_against), cmocka_unit_test(test_host), cmocka_unit_test(test_domain),
		cmocka_unit_test(test_peer), cmocka_unit_test(test_peer_file), cmocka_unit_test(test_repeated_bits), cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, start, finish);
}
