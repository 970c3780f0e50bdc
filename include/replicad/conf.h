/* conf.h - the configuration: every key once, as a list that drives parser, `agent --show-config`, keeper.json
 * and the check that replicad.conf(5) describes each
 *
 * INI: [agent], [peer NAME], [vm NAME]. Units stand in key names. Files are read in order, a later file wins; a key
 * that is not in the lists, twice in one file, or out of its range is refused with file, line, value and what is allowed.
 */
#ifndef REPLICAD_CONF_H
#define REPLICAD_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <replicad/control.h>
#include <replicad/err.h>
#include <replicad/link.h>
#include <replicad/record.h>
#include <replicad/uuid.h>

#define RPL_CONF_FILE_MAX (256 * 1024)   /* bytes of one file */
#define RPL_CONF_FILES_MAX 256           /* files in conf.d */
#define RPL_CONF_VMS_MAX 256
#define RPL_CONF_PEERS_MAX 64
#define RPL_CONF_TEXT_MAX 160            /* bytes of one value, with the final NUL */
#define RPL_CONF_DELAY_MIN_MS 200        /* least takeover_delay_ms: the primary's lead in a race for the claim */
#define RPL_CONF_STALL_INTERVALS 10      /* stall_ms = 0: the larger of this many intervals and suspect_ms / 3 */

/* Types: TEXT any printable text, NAME letters, digits, '.', '_' and '-', PATH absolute or empty, ADDR host:port, UUID,
 * INT, BOOL yes or no, ENUM one of `choices`, LIST comma-separated names.
 * apply: RELOAD on SIGHUP; PROTECT when the VM's keeper starts next; START when the agent starts.
 * name, type, default, smallest (INT) or 0, largest (INT) or bytes (text), choices, apply, meaning */
#define RPL_CONF_AGENT_KEYS(X)                                                                                         \
	X(node, NAME, "", 0, RPL_NODE_NAME - 1, NULL, START, "this node's name; default: the host's name")          \
	X(cluster, NAME, "default", 1, 63, NULL, START, "keeps two installations apart that share an arbiter")          \
	X(listen, ADDR, ":7887", 0, 128, NULL, START, "where peers connect to; empty: nowhere")                         \
	X(run_dir, PATH, RPL_RUNDIR, 1, 60, NULL, START, "sockets and what dies with the machine")                      \
	X(state_dir, PATH, RPL_STATEDIR, 1, 128, NULL, START, "what has to survive: wanted protection, events")         \
	X(arbiter, ENUM, "file", 0, 0, "file|etcd|manual", PROTECT, "who settles which node may run a VM")              \
	X(arbiter_location, TEXT, "", 0, RPL_CONF_TEXT_MAX - 1, NULL, PROTECT, "file: a directory that both nodes reach, manual: one of this node, default: arbiter in state_dir; etcd: https://host:port, with commas between several") \
	X(arbiter_ca, PATH, "", 0, 128, NULL, PROTECT, "etcd: the authority that signed its certificate; empty: the system's") \
	X(arbiter_cert, PATH, "", 0, 128, NULL, PROTECT, "etcd: the certificate that we show it")                       \
	X(arbiter_key, PATH, "", 0, 128, NULL, PROTECT, "etcd: that certificate's private key")                         \
	X(arbiter_timeout_ms, INT, "1000", 100, 60000, NULL, PROTECT, "after this a claim's outcome counts as unknown") \
	X(tls, ENUM, "psk", 0, 0, "psk|x509|none", PROTECT, "how links are protected")                                  \
	X(keys, PATH, RPL_SYSCONFDIR "/keys.psk", 0, 128, NULL, PROTECT, "psk: file of name:hexkey lines")              \
	X(x509_dir, PATH, RPL_SYSCONFDIR "/pki", 0, 128, NULL, PROTECT, "x509: directory with QEMU's PKI file names")   \
	X(identity, NAME, "", 0, RPL_IDENTITY_MAX - 1, NULL, PROTECT, "the name we prove to peers; default: node")      \
	X(insecure, BOOL, "no", 0, 1, NULL, PROTECT, "allow tls = none, and an etcd in clear, beyond the loopback interface") \
	X(mover_user, NAME, "", 0, 31, NULL, PROTECT, "movers run as this user; empty: replicad-mover if there is one, else as the agent")                   \
	X(control_users, LIST, "", 0, 128, NULL, RELOAD, "users who may use the control socket besides root")           \
	X(control_group, NAME, "", 0, 31, NULL, START, "a group whose members may use the control socket")              \
	X(log_level, ENUM, "info", 0, 0, "error|warning|info|debug", RELOAD, "what is logged")

#define RPL_CONF_PEER_KEYS(X)                                                                                        \
	X(address, ADDR, "", 0, 128, NULL, PROTECT, "host:port of its agent; default port 7887")                      \
	X(identity, NAME, "", 0, RPL_IDENTITY_MAX - 1, NULL, PROTECT, "the name it proves to us; default: the section's name")

#define RPL_CONF_VM_KEYS(X)                                                                                          \
	X(uuid, UUID, "", 0, 36, NULL, PROTECT, "the VM; needed where it may arrive from a peer")                     \
	X(backend, ENUM, "auto", 0, 0, "auto|qemu|sim|xen", PROTECT, "what runs the guest; auto: qemu where there is a qmp or no Xen") \
	X(qmp, PATH, "", 0, 107, NULL, PROTECT, "qemu: the running guest's monitor socket")                           \
	X(standby, PATH, "", 0, 128, NULL, PROTECT, "file that defines the standby guest; without it we are no backup") \
	X(replica, ENUM, "auto", 0, 0, "auto|memfd|domain", PROTECT, "xen: what the backup keeps the copy in")            \
	X(standby_user, NAME, "", 0, 31, NULL, PROTECT, "a standby runs as this user; empty: as the agent")           \
	X(backup, TEXT, "", 0, 128, NULL, PROTECT, "the other node of this VM: a [peer] or host:port; default: the only [peer]")             \
	X(role, ENUM, "auto", 0, 0, "auto|primary|backup", START, "primary: protect it at start; backup: be ready from the start") \
	X(interval_ms, INT, "50", 5, 10000, NULL, RELOAD, "time from checkpoint to checkpoint")                       \
	X(heartbeat_ms, INT, "50", 10, 1000, NULL, PROTECT, "a silent link says it lives this often")                 \
	X(stall_ms, INT, "0", 0, 60000, NULL, PROTECT, "an ack later than this raises an alarm; 0: from interval and suspect") \
	X(suspect_ms, INT, "1000", 100, 600000, NULL, PROTECT, "silence after which the peer is held for dead")       \
	X(takeover_delay_ms, INT, "500", RPL_CONF_DELAY_MIN_MS, 600000, NULL, PROTECT, "the backup claims this much later than the primary") \
	X(arm_timeout_ms, INT, "1000", 100, 60000, NULL, PROTECT, "bound of the change to protected")                 \
	X(op_timeout_ms, INT, "5000", 500, 60000, NULL, PROTECT, "bound of one request to the hypervisor")            \
	X(max_uncommitted, INT, "2", 1, 64, NULL, PROTECT, "epochs under way without an ack")                         \
	X(arena_mb, INT, "128", 8, 65536, NULL, PROTECT, "memory for checkpoints under way, on each side")            \
	X(delta_cache_mb, INT, "64", 0, 65536, NULL, PROTECT, "primary: memory for pages as last sent, so that only changes are; 0: all") \
	X(tracker, ENUM, "auto", 0, 0, "auto|uffd|compare", PROTECT, "how written pages are found")                   \
	X(audit, BOOL, "no", 0, 1, NULL, PROTECT, "prove at each checkpoint that no written page was missed; slow")   \
	X(netbuf, ENUM, "auto", 0, 0, "auto|relay|plug|none", PROTECT, "what holds the guest's output; auto: plug for xen, else relay") \
	X(relay, PATH, "", 0, 107, NULL, PROTECT, "relay: its control socket")                                        \
	X(relay_ports, TEXT, "", 0, 159, NULL, START, "relay: the agent starts it, with these as its --port")         \
	X(interfaces, LIST, "", 0, 128, NULL, PROTECT, "plug: the host's interfaces that carry this guest's output")  \
	X(hold_mb, INT, "64", 1, 4095, NULL, PROTECT, "the most that is held (plug: for one interface)")               \
	X(durability, ENUM, "memory", 0, 0, "memory|journal|both", PROTECT, "what an ack promises about disk writes") \
	X(disk, ENUM, "none", 0, 0, "none", PROTECT, "what carries the guest's disk writes")                          \
	X(on_crash, ENUM, "keep", 0, 0, "keep|down", PROTECT, "a guest kernel's panic: go on, or count it as a shutdown") \
	X(reprotect, BOOL, "yes", 0, 1, NULL, PROTECT, "after a takeover or switchover the heir protects it again by itself") \
	X(insecure, BOOL, "no", 0, 1, NULL, PROTECT, "allow tls = none beyond loopback, and netbuf = none")

enum rpl_conf_type {
	RPL_CONF_TEXT, RPL_CONF_NAME, RPL_CONF_PATH, RPL_CONF_ADDR, RPL_CONF_UUID, RPL_CONF_INT, RPL_CONF_BOOL,
	RPL_CONF_ENUM, RPL_CONF_LIST,
};
enum rpl_conf_apply { RPL_CONF_RELOAD, RPL_CONF_PROTECT, RPL_CONF_START };
enum rpl_conf_section { RPL_CONF_AGENT, RPL_CONF_PEER, RPL_CONF_VM, RPL_CONF_NSECTIONS };

struct rpl_conf_key {
	const char *name;
	enum rpl_conf_section section;
	enum rpl_conf_type type;
	const char *default_value;
	int64_t min, max;
	const char *choices; /* ENUM: a|b|c */
	enum rpl_conf_apply apply;
	const char *help;
	size_t offset;       /* of the field in its section's struct */
};

/* The keys of one section, in the order of the list. */
const struct rpl_conf_key *rpl_conf_keys(enum rpl_conf_section section, size_t *ret_n);
const char *rpl_conf_section_name(enum rpl_conf_section section);

#define RPL_CONF_C_TEXT(name) char name[RPL_CONF_TEXT_MAX];
#define RPL_CONF_C_NAME RPL_CONF_C_TEXT
#define RPL_CONF_C_PATH RPL_CONF_C_TEXT
#define RPL_CONF_C_ADDR RPL_CONF_C_TEXT
#define RPL_CONF_C_UUID RPL_CONF_C_TEXT
#define RPL_CONF_C_ENUM RPL_CONF_C_TEXT
#define RPL_CONF_C_LIST RPL_CONF_C_TEXT
#define RPL_CONF_C_INT(name) int64_t name;
#define RPL_CONF_C_BOOL(name) bool name;
#define RPL_CONF_FIELD(name, type, ...) RPL_CONF_C_##type(name)
#define RPL_CONF_ONE(...) +1

/* Where a value was set; line 0: it is the default. */
struct rpl_conf_origin {
	int file; /* index into rpl_conf.files */
	int line;
};

struct rpl_conf_agent {
	RPL_CONF_AGENT_KEYS(RPL_CONF_FIELD)
	struct rpl_conf_origin origin[0 RPL_CONF_AGENT_KEYS(RPL_CONF_ONE)];
};

struct rpl_conf_peer {
	char name[RPL_VM_NAME_MAX];
	RPL_CONF_PEER_KEYS(RPL_CONF_FIELD)
	struct rpl_conf_origin at; /* of its first section heading */
	struct rpl_conf_origin origin[0 RPL_CONF_PEER_KEYS(RPL_CONF_ONE)];
};

struct rpl_conf_vm {
	char name[RPL_VM_NAME_MAX];
	RPL_CONF_VM_KEYS(RPL_CONF_FIELD)
	struct rpl_conf_origin at;
	struct rpl_conf_origin origin[0 RPL_CONF_VM_KEYS(RPL_CONF_ONE)];
};

struct rpl_conf {
	struct rpl_conf_agent agent;
	struct rpl_conf_peer *peers;
	size_t n_peers;
	struct rpl_conf_vm *vms;
	size_t n_vms;
	char **files; /* names as given, for messages */
	size_t n_files;
};

/* Everything at its default. NULL without memory. */
struct rpl_conf *rpl_conf_new(void);
void rpl_conf_free(struct rpl_conf *c); /* accepts NULL */

/* Read one file's text (pure: no file is touched) on top of what is there. `file` is its name in messages. -EINVAL with
 * the first fault; *c is then half changed: throw it away. */
int rpl_conf_parse(struct rpl_conf *c, const char *file, const char *text, size_t len, struct rpl_err *err);
/* After the last file: fill in defaults that depend on others, check what must agree. -EINVAL and the fault. */
int rpl_conf_finish(struct rpl_conf *c, struct rpl_err *err);
/* `path`, then conf.d/ *.conf beside it in the order of their names; parsed and finished. A missing `path` is an error,
 * a missing conf.d is not. NULL on failure. */
struct rpl_conf *rpl_conf_load(const char *path, struct rpl_err *err);

const struct rpl_conf_vm *rpl_conf_vm(const struct rpl_conf *c, const char *name);
const struct rpl_conf_vm *rpl_conf_vm_by_uuid(const struct rpl_conf *c, const struct rpl_uuid *uuid);
const struct rpl_conf_peer *rpl_conf_peer(const struct rpl_conf *c, const char *name);

/* stall_ms, or what 0 stands for. */
int64_t rpl_conf_stall_ms(const struct rpl_conf_vm *vm);

/* Is this a name that a VM or a peer may have? (a letter or digit, then letters, digits, '.', '_', '-'; at most
 * RPL_VM_NAME_MAX - 1.) */
bool rpl_conf_name_ok(const char *name);

/* "host", "host:port", "[v6]:port", ":port" into host and port ("7887" if none is named). Text of RPL_CONF_TEXT_MAX
 * and 6 bytes. -EINVAL and why. */
int rpl_conf_address(const char *text, char *ret_host, char *ret_port, struct rpl_err *err);

/* All values as a configuration that could be read again, each with its meaning and origin as a comment. */
void rpl_conf_print(const struct rpl_conf *c, FILE *out);

#endif
