/* xen_cpu.c - which features of a domain's CPU another host has not
 *
 * A domain's policy travels in the stream, and Xen takes away what the new host cannot give without saying so: a guest that
 * uses it crashes then, perhaps days later. So the comparison is made before, bit by bit.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <replicad/auto.h>
#include <replicad/xen_doctor.h>

#define BIT(n) (UINT32_C(1) << (n))
#define NAME_MAX_LEN 24
/* AMD: bits of 1.edx once more. Xen gives them to a domain and leaves them out of what it says it can give. */
#define COMMON_1D UINT32_C(0x0183f3ff)

const struct rpl_cpu_word rpl_cpu_words[] = {
	{ "1.edx", 0x1, RPL_CPUID_NO_SUBLEAF, RPL_EDX, BIT(9) | BIT(28), /* apic, htt */
	  "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - dts acpi mmx fxsr sse sse2 ss ht tm ia64 pbe" },
	{ "1.ecx", 0x1, RPL_CPUID_NO_SUBLEAF, RPL_ECX, BIT(27), /* osxsave */
	  "sse3 pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid - fma cx16 xtpr pdcm - pcid dca sse4_1 sse4_2 x2apic movbe popcnt "
	  "tsc_deadline_timer aes xsave osxsave avx f16c rdrand hypervisor" },
	{ "7.0.ebx", 0x7, 0, RPL_EBX, 0,
	  "fsgsbase tsc_adjust sgx bmi1 hle avx2 fdp_excptn_only smep bmi2 erms invpcid rtm cqm zero_fcs_fds mpx rdt_a avx512f avx512dq rdseed adx "
	  "smap avx512ifma - clflushopt clwb intel_pt avx512pf avx512er avx512cd sha_ni avx512bw avx512vl" },
	{ "7.0.ecx", 0x7, 0, RPL_ECX, BIT(4), /* ospke */
	  "- avx512vbmi umip pku ospke waitpkg avx512_vbmi2 shstk gfni vaes vpclmulqdq avx512_vnni avx512_bitalg - avx512_vpopcntdq - la57 - - - - - rdpid "
	  "- - cldemote - movdiri movdir64b enqcmd - pks" },
	{ "7.0.edx", 0x7, 0, RPL_EDX, 0,
	  "- - avx512_4vnniw avx512_4fmaps fsrm - - - avx512_vp2intersect srbds_ctrl md_clear - - - serialize - tsxldtrk - - arch_lbr ibt - amx_bf16 - "
	  "amx_tile amx_int8 spec_ctrl stibp flush_l1d arch_capabilities core_capabilities ssbd" },
	{ "7.1.eax", 0x7, 1, RPL_EAX, 0, "- - - - avx_vnni avx512_bf16 - - - - fzrm fsrs fsrcs" },
	{ "d.1.eax", 0xd, 1, RPL_EAX, 0, "xsaveopt xsavec xgetbv1 xsaves" },
	{ "80000001.edx", 0x80000001, RPL_CPUID_NO_SUBLEAF, RPL_EDX, COMMON_1D,
	  "- - - - - - - - - - - syscall - - - - - - - mp nx - mmxext - - fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow" },
	{ "80000001.ecx", 0x80000001, RPL_CPUID_NO_SUBLEAF, RPL_ECX, BIT(1), /* cmp_legacy */
	  "lahf_lm cmp_legacy svm extapic cr8_legacy lzcnt sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt - lwp fma4 tce - nodeid_msr - tbm topoext" },
	{ "80000007.edx", 0x80000007, RPL_CPUID_NO_SUBLEAF, RPL_EDX, 0, "- - - - - - - - invtsc" },
	{ "80000008.ebx", 0x80000008, RPL_CPUID_NO_SUBLEAF, RPL_EBX, 0, "clzero - rstr_fp_err_ptrs - - - - - - wbnoinvd - - ibpb - ibrs stibp" },
	{ "80000021.eax", 0x80000021, RPL_CPUID_NO_SUBLEAF, RPL_EAX, 0, "" },
};
const size_t rpl_cpu_words_n = RPL_ARRAY_LEN(rpl_cpu_words);

static void name_bit(const struct rpl_cpu_word *w, unsigned bit, char buf[NAME_MAX_LEN])
{
	const char *at = w->bits;
	size_t len;

	for (unsigned i = 0; i < bit && *at; i++) {
		at += strcspn(at, " ");
		at += *at == ' ';
	}
	len = strcspn(at, " ");
	if (!len || *at == '-')
		(void)snprintf(buf, NAME_MAX_LEN, "%s bit %u", w->name, bit);
	else
		(void)snprintf(buf, NAME_MAX_LEN, "%.*s", (int)len, at);
}

static void append(char *buf, size_t size, const char *name)
{
	size_t at = strlen(buf), left = size - at;

	if (left > strlen(name) + 8)
		(void)snprintf(buf + at, left, "%s%s", at ? ", " : "", name);
	else if (left > 4 && (at < 3 || strcmp(buf + at - 3, "...") != 0))
		(void)snprintf(buf + at, left, "...");
}

unsigned rpl_xen_cpu_missing(const json_t *domain, const json_t *host, char *buf, size_t size)
{
	unsigned n = 0;

	buf[0] = '\0';
	for (size_t i = 0; i < rpl_cpu_words_n; i++) {
		const struct rpl_cpu_word *w = &rpl_cpu_words[i];
		uint32_t has = (uint32_t)json_integer_value(json_object_get(domain, w->name));
		uint32_t lacks = has & ~(uint32_t)json_integer_value(json_object_get(host, w->name)) & ~w->ignore;

		for (; lacks; lacks &= lacks - 1) {
			char name[NAME_MAX_LEN];

			name_bit(w, (unsigned)__builtin_ctz(lacks), name);
			append(buf, size, name);
			n++;
		}
	}
	return n;
}

static bool is_cpu(const json_t *cpu)
{
	return json_is_integer(json_object_get(cpu, rpl_cpu_words[0].name));
}

int rpl_xen_facts_check(const json_t *facts, struct rpl_err *err)
{
	const json_t *cpu = json_object_get(facts, "cpu");

	if (json_integer_value(json_object_get(facts, "v")) != 1)
		return rpl_fail(err, -EBADMSG, "not a host's facts of version 1: give what `replicad doctor --facts` says on the other host");
	if (!json_is_integer(json_object_get(facts, "major")) || !json_is_integer(json_object_get(facts, "minor")) ||
	    !json_is_integer(json_object_get(facts, "free_mib")) || !json_is_string(json_object_get(facts, "host")) ||
	    (!is_cpu(json_object_get(cpu, "pv")) && !is_cpu(json_object_get(cpu, "hvm"))))
		return rpl_fail(err, -EBADMSG, "a host's facts without host, major, minor, free_mib or cpu");
	return 0;
}
