/* qemu_inspect.c - may this QEMU be protected, and what is it? pure: from recorded answers to a verdict */
#include "qemu_facts.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <replicad/auto.h>
#include <replicad/disk.h>

static const struct {
	const char *key, *hmp, *qmp;
} queries[QF_N] = {
#define X(name, k, h, q) [QF_##name] = { .key = k, .hmp = h, .qmp = q },
	QEMU_FACTS(X)
#undef X
};

const char *qemu_fact_key(enum qemu_fact f)
{
	return queries[f].key;
}

bool qemu_fact_optional(enum qemu_fact f)
{
	return f == QF_MEMPATH || f == QF_CPUWORDS;
}

void qemu_facts_fini(struct qemu_facts *facts)
{
	json_decref(facts->version);
	for (int i = 0; i < QF_N; i++)
		json_decref(facts->fact[i]);
	memset(facts, 0, sizeof(*facts));
}

static const char *text_of(const struct qemu_facts *f, enum qemu_fact which)
{
	const char *s = json_string_value(f->fact[which]);

	return s ? s : "";
}

static const char *member(json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

/* ---- asking */

/* The one memory backend; refused if there is none, or several. */
static int memory_backend(const struct qemu_facts *f, json_t **ret, struct rpl_err *err)
{
	size_t n = json_array_size(f->fact[QF_MEMDEV]);

	if (n == 0)
		return rpl_fail(err, -ENOTSUP, "its RAM is not in a shared backend: start it with -object memory-backend-file,id=ram0,size=...,mem-path=/dev/shm/NAME.ram,share=on -machine ...,memory-backend=ram0");
	if (n > 1)
		return rpl_fail(err, -ENOTSUP, "it has %zu memory backends ('%.40s', '%.40s', ...): put all RAM into one", n,
				member(json_array_get(f->fact[QF_MEMDEV], 0), "id"),
				member(json_array_get(f->fact[QF_MEMDEV], 1), "id"));
	*ret = json_array_get(f->fact[QF_MEMDEV], 0);
	return 0;
}

static int qom_path(const struct qemu_facts *f, const char *what, char *path, size_t cap, struct rpl_err *err)
{
	json_t *dev;
	int r;

	if (strcmp(what, "$cpu") == 0) {
		(void)snprintf(path, cap, "%s", member(json_array_get(f->fact[QF_CPUS], 0), "qom-path"));
		return 0;
	}
	if (strcmp(what, "$ram") != 0) {
		(void)snprintf(path, cap, "%s", what);
		return 0;
	}
	r = memory_backend(f, &dev, err);
	if (r < 0)
		return r;
	(void)snprintf(path, cap, "/objects/%s", member(dev, "id"));
	return 0;
}

int qemu_fact_command(const struct qemu_facts *facts, enum qemu_fact f, const char **ret_command, json_t **ret_args,
		      struct rpl_err *err)
{
	char path[256], what[32], prop[32];
	json_t *args = NULL;
	int r;

	if (queries[f].hmp) {
		*ret_command = "human-monitor-command";
		args = json_pack("{s:s}", "command-line", queries[f].hmp);
	} else if (sscanf(queries[f].qmp, "qom-get %31s %31s", what, prop) == 2) {
		r = qom_path(facts, what, path, sizeof(path), err);
		if (r < 0)
			return r;
		*ret_command = "qom-get";
		args = json_pack("{s:s, s:s}", "path", path, "property", prop);
	} else {
		*ret_command = queries[f].qmp;
	}
	*ret_args = args;
	return 0;
}

/* ---- judging */

struct version {
	unsigned major, minor, micro;
};

static struct version version_of(const struct qemu_facts *f)
{
	json_t *q = json_object_get(f->version, "qemu");

	return (struct version){
		.major = (unsigned)json_integer_value(json_object_get(q, "major")),
		.minor = (unsigned)json_integer_value(json_object_get(q, "minor")),
		.micro = (unsigned)json_integer_value(json_object_get(q, "micro")),
	};
}

static int check_version(const struct version *v, struct rpl_err *err)
{
	if (v->major > QEMU_OLDEST_MAJOR || (v->major == QEMU_OLDEST_MAJOR && v->minor >= QEMU_OLDEST_MINOR))
		return 0;
	return rpl_fail(err, -ENOTSUP, "it is QEMU %u.%u.%u; replicad needs %d.%d or newer: upgrade and restart the guest",
			v->major, v->minor, v->micro, QEMU_OLDEST_MAJOR, QEMU_OLDEST_MINOR);
}

static int get_uuid(const struct qemu_facts *f, struct rpl_uuid *ret, struct rpl_err *err)
{
	int r = rpl_uuid_parse(member(f->fact[QF_UUID], "UUID"), ret, err);

	if (r < 0)
		return r;
	if (rpl_uuid_is_zero(ret))
		return rpl_fail(err, -ENOTSUP, "it has no uuid, by which a VM is known: start it with -uuid $(uuidgen), on both hosts the same");
	return 0;
}

static int get_machine(const struct qemu_facts *f, char *ret, size_t cap, struct rpl_err *err)
{
	const char *type = text_of(f, QF_MACHINE);
	size_t len = strlen(type), tail = strlen("-machine");

	if (len > tail && strcmp(type + len - tail, "-machine") == 0)
		len -= tail;
	if (len == 0 || len >= cap)
		return rpl_fail(err, -EPROTO, "its machine type is '%.80s'", type);
	memcpy(ret, type, len);
	ret[len] = '\0';
	if (strncmp(ret, "pc-q35-", 7) != 0 && strncmp(ret, "pc-i440fx-", 10) != 0)
		return rpl_fail(err, -ENOTSUP, "machine type %.40s is not known to work: use -machine q35 or pc", ret);
	return 0;
}

static int get_ram(const struct qemu_facts *f, struct qemu_ram *ret, uint64_t *ret_bytes, struct rpl_err *err)
{
	const char *type = text_of(f, QF_MEMTYPE);
	json_t *dev = NULL;
	int r = memory_backend(f, &dev, err);

	if (r < 0)
		return r;
	*ret = (struct qemu_ram){ .memfd = strcmp(type, "memory-backend-memfd") == 0 };
	(void)snprintf(ret->id, sizeof(ret->id), "%s", member(dev, "id"));
	(void)snprintf(ret->path, sizeof(ret->path), "%s", text_of(f, QF_MEMPATH));
	*ret_bytes = (uint64_t)json_integer_value(json_object_get(dev, "size"));
	if (!ret->memfd && strcmp(type, "memory-backend-file") != 0)
		return rpl_fail(err, -ENOTSUP, "backend '%.40s' is %.40s, which no other process can open: use memory-backend-file (on tmpfs) or memory-backend-memfd, with share=on",
				ret->id, type);
	if (!json_is_true(json_object_get(dev, "share")))
		return rpl_fail(err, -ENOTSUP, "memory backend '%.40s' is not shared: add share=on to its -object", ret->id);
	return 0;
}

static int check_disks(const char *vm, const struct qemu_facts *f, bool *ret_flash_ro, struct rpl_err *err)
{
	size_t i;
	json_t *b;

	*ret_flash_ro = true;
	json_array_foreach (f->fact[QF_BLOCK], i, b) {
		json_t *in = json_object_get(b, "inserted");
		const char *name = member(b, "device");
		bool ro = json_is_true(json_object_get(in, "ro"));
		int r;

		if (!in)
			continue; /* an empty drive */
		if (!name[0])
			name = member(b, "qdev");
		if (strncmp(name, "pflash", 6) == 0 && !ro)
			*ret_flash_ro = false;
		r = rpl_disk_admit(vm, name, !ro, false, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- describing */

static void add_cpu(const struct qemu_facts *f, struct qemu_text *t)
{
	char words[600] = "";
	size_t i, used = 0;
	json_t *w;

	json_array_foreach (f->fact[QF_CPUWORDS], i, w) {
		if (used + 10 > sizeof(words))
			break;
		used += (size_t)snprintf(words + used, sizeof(words) - used, "%s%" JSON_INTEGER_FORMAT, i ? "," : "",
					 json_integer_value(json_object_get(w, "features")));
	}
	qemu_text_add(t, "accelerator", "%s", json_is_true(json_object_get(f->fact[QF_KVM], "enabled")) ? "kvm" : "other");
	qemu_text_add(t, "cpu.count", "%zu", json_array_size(f->fact[QF_CPUS]));
	qemu_text_add(t, "cpu.model", "%s", text_of(f, QF_CPUTYPE));
	qemu_text_add(t, "cpu.features", "%s", words);
}

static void add_ram(const struct rpl_guest_info *info, struct qemu_text *t)
{
	char key[32];

	qemu_text_add(t, "ram.bytes", "%" PRIu64, info->ram_bytes);
	for (uint32_t i = 0; i < info->layout.count; i++) {
		const struct rpl_ram_region *r = &info->layout.region[i];

		(void)snprintf(key, sizeof(key), "ram.region%u", i);
		qemu_text_add(t, key, "pfn 0x%" PRIx64 " pages 0x%" PRIx64 " file_page 0x%" PRIx64, r->pfn, r->pages,
			      r->file_page);
	}
}

static int describe(const struct qemu_facts *f, struct rpl_guest_info *info, struct rpl_err *err)
{
	struct qemu_text t = { .lines = 0 };
	struct rpl_err first = { 0 };
	char uuid[RPL_UUID_TEXT];
	int r;

	qemu_text_add(&t, "producer", "%s", info->producer);
	qemu_text_add(&t, "machine", "%s", info->machine);
	qemu_text_add(&t, "uuid", "%s", rpl_uuid_text(&info->uuid, uuid));
	add_cpu(f, &t);
	add_ram(info, &t);
	r = qemu_devices(text_of(f, QF_QTREE), &t, &first);
	if (r == 0)
		r = qemu_network_lines(text_of(f, QF_NETWORK), &t, &first);
	info->definition = qemu_text_join(&t, err);
	if (r == 0)
		return info->definition ? 0 : -E2BIG;
	free(info->definition);
	info->definition = NULL;
	return rpl_fail(err, r, "%s", first.msg);
}

/* ---- the checks, in the order in which they are made; later ones use what earlier ones found */

struct subject {
	const char *vm;
	const struct qemu_facts *f;
	bool any_netdev, flash_ro;
	struct version v;
	struct rpl_guest_info info;
	struct qemu_ram ram;
};

static int look_version(struct subject *s, struct rpl_err *err)
{
	s->v = version_of(s->f);
	(void)snprintf(s->info.producer, sizeof(s->info.producer), "QEMU %u.%u.%u", s->v.major, s->v.minor, s->v.micro);
	s->info.running = json_is_true(json_object_get(s->f->fact[QF_STATUS], "running"));
	return check_version(&s->v, err);
}

static int look_uuid(struct subject *s, struct rpl_err *err)
{
	return get_uuid(s->f, &s->info.uuid, err);
}

static int look_machine(struct subject *s, struct rpl_err *err)
{
	return get_machine(s->f, s->info.machine, sizeof(s->info.machine), err);
}

static int look_memory(struct subject *s, struct rpl_err *err)
{
	return get_ram(s->f, &s->ram, &s->info.ram_bytes, err);
}

static int look_disks(struct subject *s, struct rpl_err *err)
{
	return check_disks(s->vm, s->f, &s->flash_ro, err);
}

static int look_ramblocks(struct subject *s, struct rpl_err *err)
{
	return qemu_check_ramblocks(text_of(s->f, QF_RAMBLOCK), s->ram.id, s->flash_ro, err);
}

static int look_network(struct subject *s, struct rpl_err *err)
{
	return qemu_check_network(text_of(s->f, QF_NETWORK), s->v.major, s->any_netdev, err);
}

static int look_layout(struct subject *s, struct rpl_err *err)
{
	return qemu_layout(text_of(s->f, QF_MTREE), s->ram.id, s->info.ram_bytes, &s->info.layout, err);
}

static int look_devices(struct subject *s, struct rpl_err *err)
{
	return describe(s->f, &s->info, err);
}

static const struct {
	const char *name;
	int (*look)(struct subject *s, struct rpl_err *err);
	bool needs_ram;
	const char *fine, *mend;
} checks[] = {
	{ "version", look_version, false, "its QEMU is new enough", "apt-get install qemu-system-x86, then restart the guest" },
	{ "uuid", look_uuid, false, "it has a uuid", "start it with: -uuid $(uuidgen)" },
	{ "machine", look_machine, false, "its machine type is known to work", "start it with: -machine q35,memory-backend=ram0" },
	{ "memory", look_memory, false, "its RAM is one shared backend",
	  "start it with: -object memory-backend-file,id=ram0,size=SIZE,mem-path=/dev/shm/NAME.ram,share=on -machine q35,memory-backend=ram0" },
	{ "disks", look_disks, false, "it has no disk that nothing carries", "detach the disk, or attach it read-only" },
	{ "ramblocks", look_ramblocks, true, "it has no memory outside that backend", "start it with: -nodefaults -display none" },
	{ "network", look_network, false, "what its network cards send can be held",
	  "start it with: -netdev dgram,id=n0,local.type=unix,local.path=QEMU-SOCKET,remote.type=unix,remote.path=RELAY-SOCKET" },
	{ "layout", look_layout, true, "the place of its RAM in the address space is understood",
	  "start it with: -machine q35 and RAM given by -m alone" },
	{ "devices", look_devices, false, "no device writes its memory unseen", "remove or replace the device" },
};

void qemu_examine(const char *vm, const struct qemu_facts *facts, bool any_netdev, qemu_verdict_fn *fn, void *arg)
{
	struct subject s = { .vm = vm, .f = facts, .any_netdev = any_netdev };
	bool ram = false;

	for (size_t i = 0; i < RPL_ARRAY_LEN(checks); i++) {
		struct rpl_err err = { 0 };
		int r;

		if (checks[i].needs_ram && !ram)
			continue;
		r = checks[i].look(&s, &err);
		if (checks[i].look == look_memory)
			ram = r == 0;
		fn(arg, checks[i].name, r, r ? err.msg : checks[i].fine, r ? checks[i].mend : "");
	}
	free(s.info.definition);
}

int qemu_inspect(const char *vm, const struct qemu_facts *facts, bool any_netdev, struct rpl_guest_info *ret,
		 struct qemu_ram *ret_ram, struct rpl_err *err)
{
	struct subject s = { .vm = vm, .f = facts, .any_netdev = any_netdev };

	for (size_t i = 0; i < RPL_ARRAY_LEN(checks); i++) {
		int r = checks[i].look(&s, err);

		if (r < 0) {
			free(s.info.definition);
			(void)rpl_prefix(err, "%s", vm);
			return r;
		}
	}
	*ret = s.info;
	*ret_ram = s.ram;
	return 0;
}
