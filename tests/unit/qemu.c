/* The QEMU backend's pure parts: QMP bytes, recorded facts and what is refused, layout, definitions, argv, state. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../../src/guest/procmem.h"
#include "../../src/guest/qemu_facts.h"
#include "../../src/guest/qemu_impl.h"
#include "../../src/guest/qmp_parse.h"

#include <replicad/auto.h>
#include <replicad/cur.h>
#include <replicad/qemu.h>

#define HIGH (UINT64_C(1) << (32 - RPL_PAGE_SHIFT))

/* ---- QMP bytes */

static int parse(const char *text, size_t step, unsigned *ret_messages, struct rpl_err *err)
{
	struct qmp_parser p = { 0 };
	struct qmp_msg m;
	size_t len = strlen(text);
	int r = 0;

	*ret_messages = 0;
	for (size_t i = 0; i < len && r >= 0; i += step) {
		r = qmp_parser_feed(&p, text + i, len - i < step ? len - i : step, err);
		while (r >= 0 && (r = qmp_parser_next(&p, &m, err)) > 0) {
			(*ret_messages)++;
			qmp_msg_fini(&m);
		}
	}
	qmp_parser_fini(&p);
	return r;
}

static void messages_are_found_however_the_bytes_arrive(void **state)
{
	static const char text[] = "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n"
				   "{\"return\": {}, \"id\": 7}\r\n"
				   "{\n  \"event\": \"STOP\",\n  \"data\": {\"odd\": \"}{\\\"\\\\\"}\n}\n"
				   "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}, \"id\": 8}\n";
	struct rpl_err err = { 0 };
	unsigned n;

	(void)state;
	for (size_t step = 1; step < sizeof(text); step++) {
		assert_int_equal(parse(text, step, &n, &err), 0);
		assert_int_equal(n, 4);
	}
}

static void messages_carry_id_name_and_data(void **state)
{
	static const char text[] = "{\"error\": {\"class\": \"x\", \"desc\": \"not now\"}, \"id\": 12}"
				   "{\"event\": \"RESET\", \"data\": {\"guest\": true}} {\"return\": 5}";
	struct qmp_parser p = { 0 };
	struct qmp_msg m;
	struct rpl_err err = { 0 };

	(void)state;
	assert_int_equal(qmp_parser_feed(&p, text, strlen(text), &err), 0);
	assert_int_equal(qmp_parser_next(&p, &m, &err), 1);
	assert_int_equal(m.kind, QMP_ERROR);
	assert_true(m.has_id);
	assert_int_equal(m.id, 12);
	assert_string_equal(m.name, "not now");
	qmp_msg_fini(&m);
	assert_int_equal(qmp_parser_next(&p, &m, &err), 1);
	assert_int_equal(m.kind, QMP_EVENT);
	assert_string_equal(m.name, "RESET");
	assert_true(json_is_true(json_object_get(m.data, "guest")));
	qmp_msg_fini(&m);
	assert_int_equal(qmp_parser_next(&p, &m, &err), 1);
	assert_int_equal(m.kind, QMP_RETURN);
	assert_false(m.has_id);
	qmp_msg_fini(&m);
	assert_int_equal(qmp_parser_next(&p, &m, &err), 0);
	qmp_parser_fini(&p);
}

static void bytes_that_are_not_qmp_are_refused(void **state)
{
	static const char *const bad[] = { "hello", "[1]", "{\"x\": 1}", "{\"error\": {}}", "{\"return\"}", "{]", "\"a\"",
					   "{\"return\": \xff}" };
	char deep[QMP_DEPTH_MAX * 5 + 64];
	struct rpl_err err;
	unsigned n;

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(bad); i++) {
		err = (struct rpl_err){ 0 };
		assert_int_equal(parse(bad[i], 3, &n, &err), -EPROTO);
		assert_true(err.msg[0] != '\0');
		assert_int_equal(n, 0);
	}
	memset(deep, 0, sizeof(deep));
	for (size_t i = 0; i <= QMP_DEPTH_MAX; i++)
		memcpy(deep + i * 5, "{\"a\":", 5);
	assert_int_equal(parse(deep, sizeof(deep), &n, &err), -EPROTO);
}

static void an_endless_message_is_cut_off(void **state)
{
	static char chunk[1 << 20];
	struct qmp_parser p = { 0 };
	struct rpl_err err = { 0 };
	struct qmp_msg m;
	size_t fed = 0;
	int r = 0;

	(void)state;
	memset(chunk, 'a', sizeof(chunk));
	memcpy(chunk, "{\"x\":\"", 6);
	while (r >= 0 && fed < 4 * (size_t)QMP_MESSAGE_MAX) {
		r = qmp_parser_feed(&p, chunk, sizeof(chunk), &err);
		if (r >= 0)
			assert_true(qmp_parser_next(&p, &m, &err) <= 0);
		fed += sizeof(chunk);
		memset(chunk, 'a', 6);
	}
	assert_int_equal(r, -EMSGSIZE);
	assert_true(fed <= QMP_MESSAGE_MAX + 2 * sizeof(chunk));
	qmp_parser_fini(&p);
}

/* ---- recorded facts */

static json_t *load(const char *name)
{
	const char *dir = getenv("top_srcdir");
	char path[512];
	json_t *j;

	(void)snprintf(path, sizeof(path), "%s/tests/data/qmp/%s.json", dir ? dir : ".", name);
	j = json_load_file(path, 0, NULL);
	assert_non_null(j);
	return j;
}

static int judge(json_t *recorded, bool any_netdev, struct rpl_guest_info *info, struct rpl_err *err)
{
	struct qemu_facts facts = { .version = json_incref(json_object_get(recorded, "version")) };
	struct qemu_ram ram = { .id = "" };
	int r;

	*info = (struct rpl_guest_info){ 0 };
	*err = (struct rpl_err){ 0 };
	for (int i = 0; i < QF_N; i++)
		facts.fact[i] = json_incref(json_object_get(recorded, qemu_fact_key((enum qemu_fact)i)));
	r = qemu_inspect("web1", &facts, any_netdev, info, &ram, err);
	qemu_facts_fini(&facts);
	assert_int_equal(r, err->code);
	if (r == 0) {
		assert_string_equal(ram.id, "ram0");
		assert_string_equal(ram.path, "/run/test/ram");
	}
	return r;
}

static void a_q35_is_described(void **state)
{
	json_t *q = load("q35");
	struct rpl_guest_info info;
	struct rpl_err err;
	char uuid[RPL_UUID_TEXT];

	(void)state;
	assert_int_equal(judge(q, false, &info, &err), 0);
	assert_string_equal(info.machine, "pc-q35-7.2");
	assert_true(strncmp(info.producer, "QEMU 7.2.", 9) == 0);
	assert_string_equal(rpl_uuid_text(&info.uuid, uuid), "6ba7b810-9dad-11d1-80b4-00c04fd430c8");
	assert_int_equal(info.ram_bytes, 256u << 20);
	assert_int_equal(info.layout.count, 1);
	assert_int_equal(info.layout.pages, 65536);
	assert_false(info.running);
	assert_non_null(strstr(info.definition, "\ndevice.pcie.0/virtio-net-pci@01.0=virtio-net-pci addr=01.0 props="));
	assert_non_null(strstr(info.definition, "mac=52:54:00:12:34:56"));
	assert_non_null(strstr(info.definition, "\nnetdev.virtio-net-pci.0=dgram\n"));
	assert_null(strstr(info.definition, "/run/test"));
	assert_true(strlen(info.definition) < RPL_GUEST_DEFINITION_MAX);
	free(info.definition);
	json_decref(q);
}

static void ram_above_the_hole_is_found(void **state)
{
	json_t *q = load("pc-4g");
	struct rpl_guest_info info;
	struct rpl_err err;
	uint64_t p;

	(void)state;
	assert_int_equal(judge(q, false, &info, &err), 0);
	assert_string_equal(info.machine, "pc-i440fx-7.2");
	assert_int_equal(info.layout.count, 2);
	assert_int_equal(info.layout.pages, 4608u * 256);
	assert_int_equal(info.layout.region[0].pages, 3u << 18); /* pc: three GiB below */
	assert_int_equal(info.layout.region[1].pfn, HIGH);
	assert_int_equal(info.layout.region[1].file_page, 3u << 18);
	assert_true(rpl_layout_file_page(&info.layout, HIGH + 5, &p));
	assert_int_equal(p, (3u << 18) + 5);
	assert_false(rpl_layout_file_page(&info.layout, HIGH - 1, &p));
	free(info.definition);
	json_decref(q);
}

/* A recorded guest, changed in one place, is refused with a sentence that has this word in it. */
static void refused(const char *name, const char *key, const char *from, const char *to, const char *word)
{
	json_t *q = load(name), *v = key ? json_object_get(q, key) : NULL;
	struct rpl_guest_info info;
	struct rpl_err err;

	if (key) {
		char *text = json_dumps(v, JSON_ENCODE_ANY), *at = strstr(text, from), *changed;

		assert_non_null(at);
		assert_true(asprintf(&changed, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from)) > 0);
		assert_int_equal(json_object_set_new(q, key, json_loads(changed, JSON_DECODE_ANY, NULL)), 0);
		free(changed);
		free(text);
	}
	if (judge(q, false, &info, &err) == 0)
		fail_msg("%s with %s '%s' is not refused", name, key, to);
	if (!strstr(err.msg, word))
		fail_msg("%s: '%s' does not say '%s'", name, err.msg, word);
	assert_true(strncmp(err.msg, "web1: ", 6) == 0);
	assert_null(info.definition);
	json_decref(q);
}

static void what_cannot_be_tracked_is_refused_with_advice(void **state)
{
	(void)state;
	refused("q35-vga", NULL, NULL, NULL, "-vga none");
	refused("q35-balloon", NULL, NULL, NULL, "balloon");
	refused("q35-disk", NULL, NULL, NULL, "d0");
	refused("q35-plain-ram", NULL, NULL, NULL, "share=on");
	refused("q35-twice", NULL, NULL, NULL, "2 memory backends");
	refused("q35-user", NULL, NULL, NULL, "-netdev dgram");
	refused("q35", "version", "\"minor\": 2", "\"minor\": 1", "7.2 or newer");
	refused("q35", "uuid", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "00000000-0000-0000-0000-000000000000", "-uuid");
	refused("q35", "memdev", "\"share\": true", "\"share\": false", "share=on");
	refused("q35", "memtype", "backend-file", "backend-ram", "memory-backend-file");
	refused("q35", "machine", "pc-q35-7.2", "microvm", "q35 or pc");
	refused("q35", "ramblock", "pc.rom", "something", "something");
	refused("q35", "ramblock", " ram0 ", " pc.rom ", "memory-backend=ram0");
	refused("q35", "network", "type=dgram", "type=stream", "does not reconnect");
	refused("q35", "network", "type=dgram", "type=vhost-user", "another process");
	refused("q35", "qtree", "dev: virtio-net-pci", "dev: vfio-pci", "unseen by the tracker");
	refused("q35", "qtree", "dev: virtio-net-pci", "dev: virtio-mem-pci", "give the guest its RAM with -m");
}

static void netbuf_none_takes_other_netdevs_but_not_untracked_ones(void **state)
{
	struct rpl_err err;

	(void)state;
	assert_int_equal(qemu_check_network("x.0: index=0,type=nic,model=x\n \\ n0: index=0,type=tap,ifname=t\n", 7, true, &err), 0);
	assert_int_equal(qemu_check_network("x.0: index=0,type=nic\n \\ n0: index=0,type=tap\n", 7, false, &err), -ENOTSUP);
	assert_int_equal(qemu_check_network("x.0: index=0,type=nic\n \\ n0: index=0,type=vhost-vdpa\n", 9, true, &err), -ENOTSUP);
	assert_int_equal(qemu_check_network("x.0: index=0,type=nic\n \\ n0: index=0,type=stream\n", 7, true, &err), -ENOTSUP);
	assert_int_equal(qemu_check_network("x.0: index=0,type=nic\n \\ n0: index=0,type=stream\n", 9, true, &err), 0);
}

/* ---- layout */

#define TREE(lines) "FlatView #0\n AS \"memory\", root: system\n" lines "\nFlatView #1\n AS \"I/O\"\n  0-fff (prio 0, ram): ram0 @77\n"

static void roms_that_hide_ram_do_not_change_the_layout(void **state)
{
	struct rpl_ram_layout l;
	struct rpl_err err;

	(void)state;
	assert_int_equal(qemu_layout(TREE("  0000000000000000-000000000009ffff (prio 0, ram): ram0 KVM\n"
					  "  00000000000c0000-00000000000dffff (prio 1, rom): pc.rom\n"
					  "  0000000000100000-000000007effffff (prio 0, ram): ram0 @0000000000100000 KVM\n"
					  "  0000000100000000-000000017fffffff (prio 0, ram): ram0 @0000000080000000 KVM\n"),
				     "ram0", UINT64_C(4) << 30, &l, &err), 0);
	assert_int_equal(l.count, 2);
	assert_int_equal(l.region[0].pages, 2u << 18); /* its end is hidden by SMRAM, and still RAM */
	assert_int_equal(l.region[1].pages, 2u << 18);
	assert_int_equal(l.pfn_limit, HIGH + (2u << 18));
}

static void impossible_memory_trees_are_refused(void **state)
{
	struct rpl_ram_layout l;
	struct rpl_err err;

	(void)state;
	assert_true(qemu_layout(TREE(""), "ram0", 1 << 20, &l, &err) < 0);
	assert_true(qemu_layout(TREE("  0-fffff (prio 0, ram): ram0\n"), "ram0", 4097, &l, &err) < 0);
	assert_true(qemu_layout(TREE("  0-fffff (prio 0, ram): ram0\n  100000-1fffff (prio 0, ram): ram0 @0\n"
				     "  300000-3fffff (prio 0, ram): ram0 @0\n"), "ram0", 1 << 20, &l, &err) < 0);
	assert_true(qemu_layout(TREE("  0-fffff (prio 0, ram): ram0 @ffffffffffff0000\n"), "ram0", 1 << 20, &l, &err) < 0);
	assert_true(qemu_layout(TREE("  0-fffff (prio 0, ram): ram0\n  1000-ffffffffffffffff (prio 0, ram): ram0 @800\n"),
				"ram0", 1 << 20, &l, &err) < 0);
}

/* ---- definitions */

static void the_first_difference_is_named(void **state)
{
	struct rpl_err err = { 0 };

	(void)state;
	assert_int_equal(rpl_definition_compare("a=1\nb=2\n", "a=1\nb=2\n", &err), 0);
	assert_int_equal(rpl_definition_compare("", "", &err), 0);
	assert_int_equal(rpl_definition_compare("machine=pc-q35-8.0\nz=1\n", "machine=pc-q35-7.2\nz=2\n", &err), -EINVAL);
	assert_string_equal(err.msg, "machine: primary pc-q35-7.2, standby pc-q35-8.0");
	assert_int_equal(rpl_definition_compare("a=1\nc=3\n", "a=1\nb=2\nc=3\n", &err), -EINVAL);
	assert_string_equal(err.msg, "b: primary has 2, standby has none");
	assert_int_equal(rpl_definition_compare("a=1\nb=\n", "a=1\n", &err), -EINVAL);
	assert_string_equal(err.msg, "b: standby has one, primary has none");
	assert_int_equal(rpl_definition_compare("a=1\n", "a=1\nb=\x07\n", &err), -EINVAL);
}

static void a_definition_agrees_with_itself_and_not_with_another(void **state)
{
	json_t *a = load("q35"), *b = load("pc-4g");
	struct rpl_guest_info x, y;
	struct rpl_err err;

	(void)state;
	assert_int_equal(judge(a, false, &x, &err), 0);
	assert_int_equal(judge(b, false, &y, &err), 0);
	assert_int_equal(rpl_definition_compare(x.definition, x.definition, &err), 0);
	assert_int_equal(rpl_definition_compare(x.definition, y.definition, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "cpu.count: primary 2, standby 1"));
	free(x.definition);
	free(y.definition);
	json_decref(a);
	json_decref(b);
}

/* ---- standby file */

static int check_file(const char *text, const char *qmp, char q[256], char ram[256], struct rpl_err *err)
{
	RPL_AUTO_FREE char *copy = strdup(text);
	char *argv[QEMU_ARGS_MAX + 1];
	int r = qemu_parse_argv(copy, argv, err);

	return r < 0 ? r : qemu_check_argv(argv, qmp, q, ram, err);
}

#define GOOD "# comment\nqemu\n\n  -qmp  \nunix:/run/s.qmp,server=on,wait=off\n--object\nmemory-backend-file,id=ram0,mem-path=/dev/shm/r,share=on\n"

static void a_standby_must_wait_for_us(void **state)
{
	char q[256], ram[256];
	struct rpl_err err;

	(void)state;
	assert_int_equal(check_file(GOOD "-S\n-incoming\ndefer\n", NULL, q, ram, &err), 0);
	assert_string_equal(q, "/run/s.qmp");
	assert_string_equal(ram, "/dev/shm/r");
	assert_int_equal(check_file(GOOD "-S\n-incoming\ndefer\n", "/run/s.qmp", q, ram, &err), 0);
	assert_int_equal(check_file(GOOD "-S\n-incoming\ndefer\n", "/run/other", q, ram, &err), -EINVAL);
	assert_int_equal(check_file(GOOD "-S\n", NULL, q, ram, &err), -EINVAL);
	assert_int_equal(check_file(GOOD "-incoming\ndefer\n", NULL, q, ram, &err), -EINVAL);
	assert_int_equal(check_file(GOOD "-S\n-incoming\ntcp:0:1\n", NULL, q, ram, &err), -EINVAL);
	assert_int_equal(check_file("qemu\n-S\n-incoming\ndefer\n", NULL, q, ram, &err), -EINVAL);
	assert_int_equal(check_file("# nothing\n", NULL, q, ram, &err), -EINVAL);
}

static void too_many_arguments_are_refused(void **state)
{
	char text[(QEMU_ARGS_MAX + 1) * 2 + 1];
	char *argv[QEMU_ARGS_MAX + 1];
	struct rpl_err err;

	(void)state;
	for (size_t i = 0; i <= QEMU_ARGS_MAX; i++)
		memcpy(text + i * 2, "a\n", 3);
	assert_int_equal(qemu_parse_argv(text, argv, &err), -E2BIG);
}

static void a_standby_gets_a_system_call_filter(void **state)
{
	char text[] = GOOD "-S\n-incoming\ndefer\n", own[] = GOOD "-sandbox\noff\n", full[QEMU_ARGS_MAX * 2];
	char *argv[QEMU_ARGS_MAX + 1];
	struct rpl_err err;
	size_t n = 0;

	(void)state;
	assert_int_equal(qemu_parse_argv(text, argv, &err), 0);
	assert_int_equal(qemu_confine_argv(argv, &err), 0);
	while (argv[n])
		n++;
	assert_string_equal(argv[n - 2], "-sandbox");
	assert_int_equal(strncmp(argv[n - 1], "on,", 3), 0);
	/* whoever writes one knows why */
	assert_int_equal(qemu_parse_argv(own, argv, &err), 0);
	assert_int_equal(qemu_confine_argv(argv, &err), 0);
	for (n = 0; argv[n]; n++)
		assert_int_not_equal(strncmp(argv[n], "on,", 3), 0);
	for (size_t i = 0; i + 1 < QEMU_ARGS_MAX; i++)
		memcpy(full + i * 2, "a\n", 3);
	assert_int_equal(qemu_parse_argv(full, argv, &err), 0);
	assert_int_equal(qemu_confine_argv(argv, &err), -E2BIG);
}

/* ---- qemu-args */

static char *written(const char *cmdline, size_t len, const struct rpl_qemu_args_conf *conf, int want)
{
	struct rpl_err err = { 0 };
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	assert_int_equal(rpl_qemu_args_write(cmdline, len, conf, f, &err), want);
	assert_int_equal(err.code, want);
	(void)fclose(f);
	return text;
}

#define ARGS(text) text, sizeof(text) /* each argument ends in NUL, the literal's own ends the last */

static void a_standbys_arguments_have_paths_of_their_own(void **state)
{
	static const char cmdline[] = "/usr/bin/qemu\0-name\0a/b\0-S\0-daemonize\0-pidfile\0/run/p\0-incoming\0tcp:0\0"
				      "-object\0memory-backend-file,id=ram0,mem-path=/dev/shm/w.ram,share=on\0"
				      "-qmp\0unix:/run/w.qmp,server=on\0-serial\0file:/log/w\0-monitor\0stdio\0"
				      "-netdev\0dgram,id=n0,local.type=unix,local.path=/run/q,remote.path=r\0-append\0\0-no-reboot";
	static const char same_dir[] = "/usr/bin/qemu\n-name\na/b\n"
				       "-object\nmemory-backend-file,id=ram0,mem-path=/dev/shm/standby-w.ram,share=on\n"
				       "-qmp\nunix:/run/standby-w.qmp,server=on\n-serial\nfile:/log/standby-w\n-monitor\nstdio\n"
				       "-netdev\ndgram,id=n0,local.type=unix,local.path=/run/standby-q,remote.path=standby-r\n"
				       "-append\n\"\"\n-no-reboot\n-S\n-incoming\ndefer\n";
	struct rpl_qemu_args_conf conf = { .standby = true };
	char *text = written(ARGS(cmdline), &conf, 0), *argv[QEMU_ARGS_MAX + 1], qmp[256], ram[256];
	struct rpl_err err;

	(void)state;
	assert_string_equal(text, same_dir);
	assert_int_equal(qemu_parse_argv(text, argv, &err), 0);
	assert_int_equal(qemu_check_argv(argv, NULL, qmp, ram, &err), 0);
	assert_string_equal(argv[14], "");
	free(text);
	conf.dir = "/run/b";
	conf.ram_dir = "/mem";
	text = written(ARGS(cmdline), &conf, 0);
	assert_non_null(strstr(text, "mem-path=/mem/standby-w.ram,"));
	assert_non_null(strstr(text, "\nunix:/run/b/standby-w.qmp,server"));
	assert_non_null(strstr(text, "remote.path=/run/b/standby-r\n"));
	free(text);
	conf.standby = false;
	text = written(ARGS(cmdline), &conf, 0);
	assert_non_null(strstr(text, "-daemonize\n-pidfile\n/run/p\n-incoming\ntcp:0\n"));
	assert_null(strstr(text, "standby"));
	free(text);
}

static void arguments_that_a_file_cannot_hold_are_refused(void **state)
{
	static const struct rpl_qemu_args_conf conf = { .standby = true };

	(void)state;
	free(written(ARGS("qemu\0-append\0a\nb"), &conf, -EINVAL));
	free(written(ARGS("qemu\0-append\0 a"), &conf, -EINVAL));
	free(written(ARGS("qemu\0-append\0a "), &conf, -EINVAL));
	free(written(ARGS("qemu\0-append\0#a"), &conf, -EINVAL));
	free(written("", 0, &conf, -ESRCH));
	free(written("qemu", 4, &conf, -ESRCH));
}

/* ---- device state */

static void saved_state_becomes_a_migration_stream(void **state)
{
	static const uint8_t blob[] = "QEVM\0\0\0\3sections";
	static const uint8_t want[] = "QEVM\0\0\0\3\7\0\0\0\12pc-q35-7.2sections\6\0\0\0\2{}";
	struct rpl_err err;
	uint8_t *got;
	size_t len;

	(void)state;
	assert_int_equal(qemu_wrap_state("pc-q35-7.2", blob, sizeof(blob) - 1, &got, &len, &err), 0);
	assert_int_equal(len, sizeof(want) - 1);
	assert_memory_equal(got, want, len);
	free(got);
	assert_int_equal(qemu_wrap_state("m", blob, 8, &got, &len, &err), -EBADMSG);
	assert_int_equal(qemu_wrap_state("m", blob + 1, sizeof(blob) - 2, &got, &len, &err), -EBADMSG);
	for (size_t n = 0; n < 8; n++)
		assert_int_equal(qemu_wrap_state("m", blob, n, &got, &len, &err), -EBADMSG);
}

/* ---- /proc */

static void maps_lines_are_read(void **state)
{
	struct procmem_map m;

	(void)state;
	assert_true(procmem_parse_map("7f5a40000000-7f5a50000000 rw-s 00000000 00:19 1234                       /dev/shm/a b.ram\n", &m));
	assert_int_equal(m.to - m.from, 256u << 20);
	assert_int_equal(m.ino, 1234);
	assert_true(m.shared);
	assert_false(m.exec);
	assert_string_equal(m.path, "/dev/shm/a b.ram");
	assert_true(procmem_parse_map("7ffc0000-7ffd0000 r-xp 00000000 00:00 0                          [vdso]\n", &m));
	assert_true(m.exec);
	assert_string_equal(m.path, "[vdso]");
	assert_false(procmem_parse_map("nonsense", &m));
	assert_false(procmem_parse_map("2000-1000 rw-s 0 00:00 0\n", &m));
}

/* ---- sections of a device state */

struct state {
	uint8_t bytes[512];
	size_t len;
};

static void put_section(struct rpl_out *o, uint32_t id, const char *name, uint32_t instance, const void *fields, size_t n)
{
	rpl_out_u8(o, 0x04);
	rpl_out_be32(o, id);
	rpl_out_u8(o, (uint8_t)strlen(name));
	rpl_out_bytes(o, name, strlen(name));
	rpl_out_be32(o, instance);
	rpl_out_be32(o, 2);
	rpl_out_bytes(o, fields, n);
	rpl_out_u8(o, 0x7e);
	rpl_out_be32(o, id);
}

static struct state some_state(const char *more, const void *fields, size_t n)
{
	struct state s;
	struct rpl_out o = rpl_out(s.bytes, sizeof(s.bytes));

	rpl_out_bytes(&o, "QEVM\0\0\0\3", 8);
	put_section(&o, 0, "timer", 0, fields, n);
	put_section(&o, 4, "0000:00:1f.2/ich9_ahci", 0, fields, n);
	if (more)
		put_section(&o, 5, more, 1, "x", 1);
	rpl_out_u8(&o, 0);
	assert_false(o.bad);
	s.len = o.len;
	return s;
}

static void a_state_is_known_by_its_sections(void **state)
{
	static const char foot[] = "\x7e\0\0\0\x04\x05\x7e\0\0\0\0\x7e\0\0\0\x04\0"; /* looks like feet, with nothing behind */
	struct state plain = some_state(NULL, "abc", 3), other = some_state(NULL, foot, sizeof(foot) - 1);
	struct state more = some_state("tab", "abc", 3), named = some_state("tac", "abc", 3);
	uint64_t h = qemu_sections(plain.bytes, plain.len);

	(void)state;
	assert_true(h != 0);
	assert_true(qemu_sections(other.bytes, other.len) == h);
	assert_true(qemu_sections(more.bytes, more.len) != h && qemu_sections(more.bytes, more.len) != 0);
	assert_true(qemu_sections(more.bytes, more.len) != qemu_sections(named.bytes, named.len));
	for (size_t n = 0; n < plain.len; n++)
		assert_true(qemu_sections(plain.bytes, n) == 0);
	for (size_t i = 0; i < more.len; i++) { /* whatever it says then, it reads nothing that is not there */
		uint8_t *exact = malloc(more.len);

		assert_non_null(exact);
		memcpy(exact, more.bytes, more.len);
		exact[i] ^= 0xff;
		(void)qemu_sections(exact, more.len);
		free(exact);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(messages_are_found_however_the_bytes_arrive),
		cmocka_unit_test(messages_carry_id_name_and_data),
		cmocka_unit_test(bytes_that_are_not_qmp_are_refused),
		cmocka_unit_test(an_endless_message_is_cut_off),
		cmocka_unit_test(a_q35_is_described),
		cmocka_unit_test(ram_above_the_hole_is_found),
		cmocka_unit_test(what_cannot_be_tracked_is_refused_with_advice),
		cmocka_unit_test(netbuf_none_takes_other_netdevs_but_not_untracked_ones),
		cmocka_unit_test(roms_that_hide_ram_do_not_change_the_layout),
		cmocka_unit_test(impossible_memory_trees_are_refused),
		cmocka_unit_test(the_first_difference_is_named),
		cmocka_unit_test(a_definition_agrees_with_itself_and_not_with_another),
		cmocka_unit_test(a_standby_must_wait_for_us),
		cmocka_unit_test(too_many_arguments_are_refused),
		cmocka_unit_test(a_standby_gets_a_system_call_filter),
		cmocka_unit_test(a_standbys_arguments_have_paths_of_their_own),
		cmocka_unit_test(arguments_that_a_file_cannot_hold_are_refused),
		cmocka_unit_test(saved_state_becomes_a_migration_stream),
		cmocka_unit_test(maps_lines_are_read),
		cmocka_unit_test(a_state_is_known_by_its_sections),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
