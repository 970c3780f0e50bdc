/* xen_doctor.h - what `replicad doctor` asks of a Xen host and of a domain, and the comparison of CPUs
 *
 * Facts are JSON, so that one host's can be taken to another:
 *   host   {"v":1, "host":NAME, "xen":"4.17.5", "major":4, "minor":17, "hap":BOOL, "shadow":BOOL, "free_mib":N,
 *           "cpu":{"pv":CPU, "hvm":CPU}}   what Xen can give to guests of that kind at most; a kind that it cannot run is missing
 *   domain {"kind":"pv"|"pvh"|"hvm", "memory_mib":N, "vcpus":N, "cpu":CPU}
 *   CPU    {"1.ecx":N, "7.0.ebx":N, ...}   the words of CPUID that hold feature bits
 */
#ifndef REPLICAD_XEN_DOCTOR_H
#define REPLICAD_XEN_DOCTOR_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include <replicad/err.h>

struct rpl_guest;

#define RPL_XEN_FACTS_MAX 65536 /* bytes of them as text */

/* This host's; the caller's reference. -EACCES, -ENOENT, ...: this is no Xen control domain. */
int rpl_xen_facts(json_t **ret, struct rpl_err *err);
/* Of an attached domain. */
int rpl_xen_domain_facts(struct rpl_guest *g, json_t **ret, struct rpl_err *err);

/* Are these a host's facts? For what came from elsewhere. */
int rpl_xen_facts_check(const json_t *facts, struct rpl_err *err);
/* Features that this CPU of a domain has and that of a host has not: their number, and their names ("avx2, 7.0.edx bit 9"), cut short
 * with "..." if `size` does not suffice. Pure. */
unsigned rpl_xen_cpu_missing(const json_t *domain, const json_t *host, char *buf, size_t size);

/* ---- for src/guest: the words, and where they are */
enum rpl_cpuid_reg { RPL_EAX, RPL_EBX, RPL_ECX, RPL_EDX };
#define RPL_CPUID_NO_SUBLEAF UINT32_MAX
struct rpl_cpu_word {
	const char *name;
	uint32_t leaf, subleaf;
	enum rpl_cpuid_reg reg;
	uint32_t ignore;    /* bits that follow the guest's own settings */
	const char *bits;   /* names, from bit 0 on; "-": none */
};
extern const struct rpl_cpu_word rpl_cpu_words[];
extern const size_t rpl_cpu_words_n;

#endif
