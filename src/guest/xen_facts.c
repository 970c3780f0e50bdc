/* xen_facts.c - what this host's Xen can do, and what a domain has, as JSON */
#include "xen_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include <xenguest.h>

#include <replicad/auto.h>
#include <replicad/xen_doctor.h>

#define POLICY_LEAVES_MAX 4096 /* of one policy; Xen says some dozens */

static uint32_t word_of(const xen_cpuid_leaf_t *l, enum rpl_cpuid_reg reg)
{
	const uint32_t words[] = { [RPL_EAX] = l->a, [RPL_EBX] = l->b, [RPL_ECX] = l->c, [RPL_EDX] = l->d };

	return words[reg];
}

static json_t *words_of(const xen_cpuid_leaf_t *leaves, uint32_t n)
{
	json_t *o = json_object();

	for (size_t i = 0; i < rpl_cpu_words_n; i++) {
		const struct rpl_cpu_word *w = &rpl_cpu_words[i];
		uint32_t value = 0;

		for (uint32_t k = 0; k < n; k++)
			if (leaves[k].leaf == w->leaf && leaves[k].subleaf == w->subleaf)
				value = word_of(&leaves[k], w->reg);
		(void)json_object_set_new(o, w->name, json_integer(value));
	}
	return o;
}
_Static_assert(RPL_CPUID_NO_SUBLEAF == XEN_CPUID_NO_SUBLEAF, "as Xen counts them");

static json_t *serialise(xc_interface *xc, const xc_cpu_policy_t *policy)
{
	RPL_AUTO_FREE xen_cpuid_leaf_t *leaves = NULL;
	RPL_AUTO_FREE xen_msr_entry_t *msrs = NULL;
	uint32_t n = 0, n_msrs = 0;

	if (xc_cpu_policy_get_size(xc, &n, &n_msrs) < 0)
		return NULL;
	errno = EPROTO;
	if (n == 0 || n > POLICY_LEAVES_MAX || n_msrs > POLICY_LEAVES_MAX)
		return NULL;
	leaves = calloc(n, sizeof(*leaves));
	msrs = calloc(n_msrs, sizeof(*msrs));
	if (!leaves || !msrs || xc_cpu_policy_serialise(xc, policy, leaves, &n, msrs, &n_msrs) < 0)
		return NULL;
	return words_of(leaves, n);
}

/* What guests of one kind may have; NULL: this Xen has no such guests, or does not say. */
static json_t *system_cpu(xc_interface *xc, unsigned which)
{
	xc_cpu_policy_t *policy = xc_cpu_policy_init();
	json_t *o = NULL;

	if (!policy)
		return NULL;
	if (xc_cpu_policy_get_system(xc, which, policy) == 0)
		o = serialise(xc, policy);
	xc_cpu_policy_destroy(policy);
	return o;
}

static int gather(xc_interface *xc, json_t *o, struct rpl_err *err)
{
	int version = xc_version(xc, XENVER_version, NULL);
	xen_extraversion_t extra = "";
	xc_physinfo_t host = { 0 };
	json_t *cpu = json_object(), *pv, *hvm;
	struct utsname names = { 0 };
	char text[64];

	(void)json_object_set_new(o, "cpu", cpu);
	if (version < 0 || xc_version(xc, XENVER_extraversion, &extra) < 0 || xc_physinfo(xc, &host) < 0)
		return rpl_fail_errno(err, errno, "what this host's Xen is and can do");
	(void)uname(&names);
	(void)snprintf(text, sizeof(text), "%d.%d%.40s", version >> 16, version & 0xffff, extra);
	(void)json_object_set_new(o, "v", json_integer(1));
	(void)json_object_set_new(o, "host", json_string(names.nodename));
	(void)json_object_set_new(o, "xen", json_string(text));
	(void)json_object_set_new(o, "major", json_integer(version >> 16));
	(void)json_object_set_new(o, "minor", json_integer(version & 0xffff));
	(void)json_object_set_new(o, "hap", json_boolean(host.capabilities & XEN_SYSCTL_PHYSCAP_hap));
	(void)json_object_set_new(o, "shadow", json_boolean(host.capabilities & XEN_SYSCTL_PHYSCAP_shadow));
	(void)json_object_set_new(o, "free_mib", json_integer((json_int_t)(host.free_pages >> (20 - RPL_PAGE_SHIFT))));
	pv = system_cpu(xc, XEN_SYSCTL_cpu_policy_pv_max);
	hvm = system_cpu(xc, XEN_SYSCTL_cpu_policy_hvm_max);
	if (pv)
		(void)json_object_set_new(cpu, "pv", pv);
	if (hvm)
		(void)json_object_set_new(cpu, "hvm", hvm);
	return pv || hvm ? 0 : rpl_fail_errno(err, errno, "the CPU that this host's Xen gives to guests");
}

int rpl_xen_facts(json_t **ret, struct rpl_err *err)
{
	xc_interface *xc = xc_interface_open(NULL, NULL, 0);
	int r;

	*ret = NULL;
	if (!xc)
		return rpl_fail_errno(err, errno, "open the hypervisor's interface: this is no Xen control domain, or not root's session");
	*ret = json_object();
	r = gather(xc, *ret, err);
	(void)xc_interface_close(xc);
	if (r < 0) {
		json_decref(*ret);
		*ret = NULL;
	}
	return r;
}

int rpl_xen_domain_facts(struct rpl_guest *g, json_t **ret, struct rpl_err *err)
{
	struct xen *x = xen_of(g);
	xc_cpu_policy_t *policy = xc_cpu_policy_init();
	json_t *cpu = NULL;

	*ret = NULL;
	if (policy && xc_cpu_policy_get_domain(x->xc, x->domid, policy) == 0)
		cpu = serialise(x->xc, policy);
	if (!cpu)
		(void)rpl_fail_errno(err, errno, "domain %u: its CPU policy", x->domid);
	if (policy)
		xc_cpu_policy_destroy(policy);
	if (!cpu)
		return err->code;
	*ret = json_pack("{s:s, s:I, s:i, s:o}", "kind", g->info.machine, "memory_mib", (json_int_t)(g->info.ram_bytes >> 20), "vcpus",
			 (int)x->vcpus, "cpu", cpu);
	return 0;
}
