/* qemu_facts.h - what a QEMU says about itself, and what follows from it; pure
 *
 * The facts are QMP answers, collected by qemu_attach.c or recorded in a test. qemu_inspect() turns them into the
 * guest's description, or refuses with a sentence that says what to change.
 */
#ifndef RPL_GUEST_QEMU_FACTS_H
#define RPL_GUEST_QEMU_FACTS_H

#include <jansson.h>

#include <replicad/guest.h>

#define QEMU_OLDEST_MAJOR 7
#define QEMU_OLDEST_MINOR 2
#define QEMU_STREAM_RECONNECTS_MAJOR 8 /* -netdev stream,reconnect= appeared in 8.0 */

/* name, key in recorded files, HMP command line or NULL, QMP command */
#define QEMU_FACTS(X)                                                   \
	X(STATUS, "status", NULL, "query-status")                       \
	X(UUID, "uuid", NULL, "query-uuid")                             \
	X(MACHINE, "machine", NULL, "qom-get /machine type")            \
	X(MEMDEV, "memdev", NULL, "query-memdev")                       \
	X(RAMBLOCK, "ramblock", "info ramblock", NULL)                  \
	X(MTREE, "mtree", "info mtree -f", NULL)                        \
	X(BLOCK, "block", NULL, "query-block")                          \
	X(CPUS, "cpus", NULL, "query-cpus-fast")                        \
	X(KVM, "kvm", NULL, "query-kvm")                                \
	X(NETWORK, "network", "info network", NULL)                     \
	X(QTREE, "qtree", "info qtree", NULL)                           \
	/* these depend on answers above */                             \
	X(MEMTYPE, "memtype", NULL, "qom-get $ram type")                \
	X(MEMPATH, "mempath", NULL, "qom-get $ram mem-path")            \
	X(CPUTYPE, "cputype", NULL, "qom-get $cpu type")                \
	X(CPUWORDS, "cpuwords", NULL, "qom-get $cpu feature-words")

enum qemu_fact {
#define X(name, key, hmp, qmp) QF_##name,
	QEMU_FACTS(X)
#undef X
	QF_N
};

struct qemu_facts {
	json_t *version;    /* the greeting's */
	json_t *fact[QF_N]; /* NULL: not asked, or the command failed (only MEMPATH and CPUWORDS may) */
};

struct qemu_ram {
	char id[64];         /* of the memory backend */
	char path[256];      /* its mem-path; "" for memfd */
	bool memfd;
};

/* Send-ready form of fact `f`: *ret_command and *ret_args (new). Needs the facts it depends on. */
int qemu_fact_command(const struct qemu_facts *facts, enum qemu_fact f, const char **ret_command, json_t **ret_args,
		      struct rpl_err *err);
const char *qemu_fact_key(enum qemu_fact f);
bool qemu_fact_optional(enum qemu_fact f);
void qemu_facts_fini(struct qemu_facts *facts);

/* Refuse, or fill *ret (definition is new and the caller's) and *ret_ram. */
int qemu_inspect(const char *vm, const struct qemu_facts *facts, bool any_netdev, struct rpl_guest_info *ret,
		 struct qemu_ram *ret_ram, struct rpl_err *err);

/* The same checks, all of them, with a verdict each: r is 0 or what it is refused with. For `doctor`. */
typedef void qemu_verdict_fn(void *arg, const char *name, int r, const char *sentence, const char *mend);
void qemu_examine(const char *vm, const struct qemu_facts *facts, bool any_netdev, qemu_verdict_fn *fn, void *arg);

/* ---- parts of it, for tests */

/* The frames of RAM `name` from `info mtree -f`; `bytes` is the backend's size. */
int qemu_layout(const char *mtree, const char *name, uint64_t bytes, struct rpl_ram_layout *ret, struct rpl_err *err);
/* Every RAM block beside the backend's must be one that a guest cannot write, or that QEMU makes anew. */
int qemu_check_ramblocks(const char *text, const char *ram_id, bool flash_read_only, struct rpl_err *err);
/* Every network backend must be one whose output we can hold. */
int qemu_check_network(const char *text, unsigned qemu_major, bool any_netdev, struct rpl_err *err);

/* The lines of a definition under construction. */
struct qemu_text {
	char *line[512];
	size_t lines;
	bool failed; /* no memory, or too many */
};
void qemu_text_add(struct qemu_text *t, const char *key, const char *fmt, ...) RPL_PRINTF(3, 4);
/* The devices of `info qtree`: refuse those that cannot be tracked, add a line for each other. */
int qemu_devices(const char *qtree, struct qemu_text *out, struct rpl_err *err);
int qemu_network_lines(const char *text, struct qemu_text *out, struct rpl_err *err);
/* Sorted and joined; NULL and *err if it got too long. Frees the lines. */
char *qemu_text_join(struct qemu_text *t, struct rpl_err *err);

/* FNV-1a, over more bytes; it begins with QEMU_HASH_BEGIN. In definitions, which hosts compare: not to be changed. */
#define QEMU_HASH_BEGIN UINT64_C(0xcbf29ce484222325)
static inline uint64_t qemu_hash(uint64_t h, const void *data, size_t n)
{
	for (const uint8_t *p = data; n--; p++)
		h = (h ^ *p) * UINT64_C(0x100000001b3);
	return h;
}

/* qemu_sections.c: a number for which devices, by name, instance and version, have a section in a device state; 0: it is not of
 * the form that is known. */
uint64_t qemu_sections(const uint8_t *state, size_t len);

#endif
