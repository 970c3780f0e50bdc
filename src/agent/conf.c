/* conf.c - the lists of keys, defaults, look-ups, and checks between keys; conf_parse.c reads text, conf_load.c files */
#include <replicad/conf.h>

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/host.h>
#include <replicad/io.h>

#include "conf_priv.h"

#define KEY(struct_, section_, name_, type_, default_, min_, max_, choices_, apply_, help_)                  \
	{ #name_, RPL_CONF_##section_, RPL_CONF_##type_, default_, min_, max_, choices_, RPL_CONF_##apply_, help_, \
	  offsetof(struct struct_, name_) },
#define AGENT_KEY(...) KEY(rpl_conf_agent, AGENT, __VA_ARGS__)
#define PEER_KEY(...) KEY(rpl_conf_peer, PEER, __VA_ARGS__)
#define VM_KEY(...) KEY(rpl_conf_vm, VM, __VA_ARGS__)

static const struct rpl_conf_key agent_keys[] = { RPL_CONF_AGENT_KEYS(AGENT_KEY) };
static const struct rpl_conf_key peer_keys[] = { RPL_CONF_PEER_KEYS(PEER_KEY) };
static const struct rpl_conf_key vm_keys[] = { RPL_CONF_VM_KEYS(VM_KEY) };

static const struct {
	const char *name;
	const struct rpl_conf_key *keys;
	size_t n;
} sections[RPL_CONF_NSECTIONS] = {
	[RPL_CONF_AGENT] = { "agent", agent_keys, RPL_ARRAY_LEN(agent_keys) },
	[RPL_CONF_PEER] = { "peer", peer_keys, RPL_ARRAY_LEN(peer_keys) },
	[RPL_CONF_VM] = { "vm", vm_keys, RPL_ARRAY_LEN(vm_keys) },
};

const struct rpl_conf_key *rpl_conf_keys(enum rpl_conf_section section, size_t *ret_n)
{
	*ret_n = sections[section].n;
	return sections[section].keys;
}

const char *rpl_conf_section_name(enum rpl_conf_section section)
{
	return sections[section].name;
}

static void set_defaults(enum rpl_conf_section section, void *base)
{
	for (size_t i = 0; i < sections[section].n; i++) {
		const struct rpl_conf_key *k = &sections[section].keys[i];
		struct rpl_err err;

		/* A default that its own key refuses is a fault in the list above. */
		rpl_assert(rpl_conf_store(k, base, k->default_value, &err) == 0);
	}
}

struct rpl_conf *rpl_conf_new(void)
{
	struct rpl_conf *c = calloc(1, sizeof(*c));

	if (c)
		set_defaults(RPL_CONF_AGENT, &c->agent);
	return c;
}

void rpl_conf_free(struct rpl_conf *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->n_files; i++)
		free(c->files[i]);
	free(c->files);
	free(c->peers);
	free(c->vms);
	free(c);
}

const struct rpl_conf_vm *rpl_conf_vm(const struct rpl_conf *c, const char *name)
{
	for (size_t i = 0; i < c->n_vms; i++)
		if (strcmp(c->vms[i].name, name) == 0)
			return &c->vms[i];
	return NULL;
}

const struct rpl_conf_vm *rpl_conf_vm_by_uuid(const struct rpl_conf *c, const struct rpl_uuid *uuid)
{
	struct rpl_uuid u;

	for (size_t i = 0; i < c->n_vms; i++)
		if (c->vms[i].uuid[0] && rpl_uuid_parse(c->vms[i].uuid, &u, NULL) == 0 && rpl_uuid_equal(&u, uuid))
			return &c->vms[i];
	return NULL;
}

const struct rpl_conf_peer *rpl_conf_peer(const struct rpl_conf *c, const char *name)
{
	for (size_t i = 0; i < c->n_peers; i++)
		if (strcmp(c->peers[i].name, name) == 0)
			return &c->peers[i];
	return NULL;
}

struct rpl_conf_vm *rpl_conf_add_vm(struct rpl_conf *c, const char *name, struct rpl_err *err)
{
	struct rpl_conf_vm *vm = (struct rpl_conf_vm *)(uintptr_t)rpl_conf_vm(c, name), *more;

	if (vm)
		return vm;
	if (c->n_vms == RPL_CONF_VMS_MAX) {
		(void)rpl_fail(err, -E2BIG, "[vm %s]: more than %d VMs", name, RPL_CONF_VMS_MAX);
		return NULL;
	}
	more = realloc(c->vms, (c->n_vms + 1) * sizeof(*more));
	if (!more) {
		(void)rpl_fail(err, -ENOMEM, "[vm %s]: no memory", name);
		return NULL;
	}
	c->vms = more;
	vm = &c->vms[c->n_vms++];
	memset(vm, 0, sizeof(*vm));
	(void)snprintf(vm->name, sizeof(vm->name), "%s", name);
	set_defaults(RPL_CONF_VM, vm);
	return vm;
}

struct rpl_conf_peer *rpl_conf_add_peer(struct rpl_conf *c, const char *name, struct rpl_err *err)
{
	struct rpl_conf_peer *p = (struct rpl_conf_peer *)(uintptr_t)rpl_conf_peer(c, name), *more;

	if (p)
		return p;
	if (c->n_peers == RPL_CONF_PEERS_MAX) {
		(void)rpl_fail(err, -E2BIG, "[peer %s]: more than %d peers", name, RPL_CONF_PEERS_MAX);
		return NULL;
	}
	more = realloc(c->peers, (c->n_peers + 1) * sizeof(*more));
	if (!more) {
		(void)rpl_fail(err, -ENOMEM, "[peer %s]: no memory", name);
		return NULL;
	}
	c->peers = more;
	p = &c->peers[c->n_peers++];
	memset(p, 0, sizeof(*p));
	(void)snprintf(p->name, sizeof(p->name), "%s", name);
	set_defaults(RPL_CONF_PEER, p);
	return p;
}

bool rpl_conf_name_ok(const char *name)
{
	size_t len = strlen(name);

	if (len == 0 || len >= RPL_VM_NAME_MAX || !isalnum((unsigned char)name[0]))
		return false;
	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)name[i]) && !strchr("._-", name[i]))
			return false;
	return true;
}

int64_t rpl_conf_stall_ms(const struct rpl_conf_vm *vm)
{
	int64_t a = RPL_CONF_STALL_INTERVALS * vm->interval_ms, b = vm->suspect_ms / 3;

	if (vm->stall_ms)
		return vm->stall_ms;
	return a > b ? a : b;
}

/* "file:line: [vm NAME]" of a VM's first section. */
static int vm_fault(const struct rpl_conf *c, const struct rpl_conf_vm *vm, struct rpl_err *err)
{
	return rpl_prefix(err, "%s:%d: [vm %s]", c->n_files ? c->files[vm->at.file] : "?", vm->at.line, vm->name);
}

static int check_timing(const struct rpl_conf_vm *vm, struct rpl_err *err)
{
	int64_t stall = rpl_conf_stall_ms(vm);

	if (stall >= vm->suspect_ms && !vm->stall_ms)
		return rpl_fail(err, -EINVAL, "stall %" PRId64 " ms (%d x interval_ms = %" PRId64 ") is not below suspect_ms = %"
				PRId64 "; raise suspect_ms or set stall_ms", stall, RPL_CONF_STALL_INTERVALS,
				vm->interval_ms, vm->suspect_ms);
	if (stall >= vm->suspect_ms)
		return rpl_fail(err, -EINVAL, "stall_ms = %" PRId64 " is not below suspect_ms = %" PRId64, stall,
				vm->suspect_ms);
	if (vm->heartbeat_ms * 3 > vm->suspect_ms)
		return rpl_fail(err, -EINVAL, "heartbeat_ms = %" PRId64 " is more than a third of suspect_ms = %" PRId64
				"; one late heartbeat would look like death", vm->heartbeat_ms, vm->suspect_ms);
	return 0;
}

static int check_vm(const struct rpl_conf *c, const struct rpl_conf_vm *vm, struct rpl_err *err)
{
	size_t path_len = strlen(c->agent.run_dir) + strlen("/vm//" RPL_KEEPER_SOCK) + strlen(vm->name);
	char host[RPL_CONF_TEXT_MAX], port[6];
	int r = check_timing(vm, err);

	if (r < 0)
		return r;
	if (path_len >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
		return rpl_fail(err, -EINVAL, "run_dir '%s' and the VM's name make a socket path of %zu bytes, at most %zu; "
				"shorten one", c->agent.run_dir, path_len,
				sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1);
	if (vm->backup[0] && !rpl_conf_peer(c, vm->backup)) {
		r = rpl_conf_address(vm->backup, host, port, err);
		if (r < 0)
			return rpl_prefix(err, "backup: no [peer] section of that name, and as an address");
	}
	if (strcmp(vm->role, "backup") == 0 && (!vm->standby[0] || !vm->uuid[0]))
		return rpl_fail(err, -EINVAL, "role = backup needs %s; `replicad qemu-args NAME --standby` writes it",
				vm->standby[0] ? "uuid" : "standby");
	if (vm->standby[0] && !vm->uuid[0])
		return rpl_fail(err, -EINVAL, "standby needs uuid, or nothing that arrives could be told to be this VM");
	if (strcmp(vm->netbuf, "none") == 0 && !vm->insecure)
		return rpl_fail(err, -EINVAL, "netbuf = none holds no output: clients may be told what a takeover forgets; "
				"use relay, or add insecure = yes");
	if (vm->relay_ports[0] && (strcmp(vm->netbuf, "relay") != 0 || !vm->relay[0]))
		return rpl_fail(err, -EINVAL, "relay_ports needs netbuf = relay and relay = PATH, where that relay will listen");
	return 0;
}

static int check_arbiter(const struct rpl_conf *c, struct rpl_err *err)
{
	const struct rpl_conf_agent *a = &c->agent;
	bool etcd = strcmp(a->arbiter, "etcd") == 0;

	if (!etcd && a->arbiter_location[0] != '/')
		return rpl_fail(err, -EINVAL, "[agent]: arbiter = %.8s needs an absolute path in arbiter_location, not '%.100s'",
				a->arbiter, a->arbiter_location);
	if (etcd && strncmp(a->arbiter_location, "http", 4) != 0)
		return rpl_fail(err, -EINVAL, "[agent]: arbiter = etcd needs arbiter_location = https://HOST:PORT, with commas "
				"between several, not '%.80s'", a->arbiter_location);
	if (!a->arbiter_cert[0] != !a->arbiter_key[0])
		return rpl_fail(err, -EINVAL, "[agent]: arbiter_cert and arbiter_key go together; %s is not set",
				a->arbiter_cert[0] ? "arbiter_key" : "arbiter_cert");
	return 0;
}

/* The first name of this list that is in the other one, too: its length, or 0. */
static size_t shared_name(const char *list, const char *other, const char *between, const char **ret_name)
{
	for (const char *a = list + strspn(list, between); *a; a += strspn(a, between)) {
		size_t len = strcspn(a, between);

		for (const char *b = other + strspn(other, between); *b; b += strspn(b, between)) {
			if (strcspn(b, between) == len && memcmp(a, b, len) == 0) {
				*ret_name = a;
				return len;
			}
			b += strcspn(b, between);
		}
		a += len;
	}
	return 0;
}

/* What each VM needs for itself: the keeper of one would open what that of the other holds (R1), or order its guest about. */
static int check_not_shared(const struct rpl_conf_vm *vm, const struct rpl_conf_vm *other, struct rpl_err *err)
{
	const struct {
		const char *key, *mine, *theirs, *between; /* "": it is one value */
	} own[] = {
		{ "qmp", vm->qmp, other->qmp, "" },
		{ "relay", vm->relay, other->relay, "" },
		{ "interfaces", vm->interfaces, other->interfaces, ", " },
	};

	for (size_t i = 0; i < RPL_ARRAY_LEN(own); i++) {
		const char *name;
		size_t len = shared_name(own[i].mine, own[i].theirs, own[i].between, &name);

		if (len)
			return rpl_fail(err, -EINVAL, "%s: %.*s is [vm %s]'s already", own[i].key, (int)len, name, other->name);
	}
	if (vm->uuid[0] && strcasecmp(vm->uuid, other->uuid) == 0)
		return rpl_fail(err, -EINVAL, "uuid %s is [vm %s]'s already", vm->uuid, other->name);
	return 0;
}

static int check_all_have_their_own(const struct rpl_conf *c, struct rpl_err *err)
{
	for (size_t i = 0; i < c->n_vms; i++)
		for (size_t j = 0; j < i; j++)
			if (check_not_shared(&c->vms[i], &c->vms[j], err) < 0)
				return vm_fault(c, &c->vms[i], err);
	return 0;
}

static void fill_in(struct rpl_conf *c)
{
	struct rpl_conf_agent *a = &c->agent;

	if (!a->node[0]) {
		if (gethostname(a->node, RPL_NODE_NAME) < 0 || !a->node[0])
			(void)snprintf(a->node, sizeof(a->node), "localhost");
		a->node[RPL_NODE_NAME - 1] = '\0';
	}
	if (!a->identity[0])
		memcpy(a->identity, a->node, sizeof(a->identity));
	if (!a->arbiter_location[0] && strcmp(a->arbiter, "etcd") != 0)
		(void)rpl_path(a->arbiter_location, sizeof(a->arbiter_location), NULL, "%s/arbiter", a->state_dir);
	for (size_t i = 0; i < c->n_peers; i++) {
		struct rpl_conf_peer *p = &c->peers[i];

		if (!p->identity[0])
			memcpy(p->identity, p->name, sizeof(p->name));
		if (!p->address[0])
			memcpy(p->address, p->name, sizeof(p->name));
	}
}

/* What `auto` stands for here. */
static void settle_vm(struct rpl_conf_vm *vm, bool on_xen)
{
	if (strcmp(vm->backend, "auto") == 0)
		(void)snprintf(vm->backend, sizeof(vm->backend), on_xen && !vm->qmp[0] ? "xen" : "qemu");
	if (strcmp(vm->netbuf, "auto") == 0)
		(void)snprintf(vm->netbuf, sizeof(vm->netbuf), strcmp(vm->backend, "xen") == 0 && !vm->relay[0] ? "plug" : "relay");
}

int rpl_conf_finish(struct rpl_conf *c, struct rpl_err *err)
{
	bool on_xen = rpl_host_controls_xen();
	int r;

	fill_in(c);
	for (size_t i = 0; i < c->n_vms; i++)
		settle_vm(&c->vms[i], on_xen);
	r = check_arbiter(c, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < c->n_vms; i++)
		if (check_vm(c, &c->vms[i], err) < 0)
			return vm_fault(c, &c->vms[i], err);
	return check_all_have_their_own(c, err);
}

static void print_value(const struct rpl_conf_key *k, const void *base, FILE *out)
{
	const char *p = (const char *)base + k->offset;

	if (k->type == RPL_CONF_INT)
		(void)fprintf(out, "%" PRId64, *(const int64_t *)(const void *)p);
	else if (k->type == RPL_CONF_BOOL)
		(void)fputs(*(const bool *)p ? "yes" : "no", out);
	else
		(void)fputs(p, out);
}

static void print_section(const struct rpl_conf *c, enum rpl_conf_section s, const char *name, const void *base,
			  const struct rpl_conf_origin *origin, FILE *out)
{
	static const char *const when[] = { "on reload", "when protection starts next", "at agent start" };

	(void)fprintf(out, "\n[%s%s%s]\n", sections[s].name, name ? " " : "", name ? name : "");
	for (size_t i = 0; i < sections[s].n; i++) {
		const struct rpl_conf_key *k = &sections[s].keys[i];

		(void)fprintf(out, "# %s", k->help);
		if (k->type == RPL_CONF_INT)
			(void)fprintf(out, " (%" PRId64 " to %" PRId64 ")", k->min, k->max);
		if (k->type == RPL_CONF_ENUM)
			(void)fprintf(out, " (%s)", k->choices);
		if (origin[i].line)
			(void)fprintf(out, "; from %s:%d", c->files[origin[i].file], origin[i].line);
		(void)fprintf(out, "; applies %s\n%s = ", when[k->apply], k->name);
		print_value(k, base, out);
		(void)fputc('\n', out);
	}
}

void rpl_conf_print(const struct rpl_conf *c, FILE *out)
{
	(void)fprintf(out, "# configuration in effect\n");
	print_section(c, RPL_CONF_AGENT, NULL, &c->agent, c->agent.origin, out);
	for (size_t i = 0; i < c->n_peers; i++)
		print_section(c, RPL_CONF_PEER, c->peers[i].name, &c->peers[i], c->peers[i].origin, out);
	for (size_t i = 0; i < c->n_vms; i++)
		print_section(c, RPL_CONF_VM, c->vms[i].name, &c->vms[i], c->vms[i].origin, out);
}
