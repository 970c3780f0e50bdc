#include "doctor_xen.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <ev.h>

#include <replicad/auto.h>
#include <replicad/guest.h>
#include <replicad/io.h>
#include <replicad/xen_doctor.h>

#include "../guest/xen_standby_xl.h"

#define TRIED_MAJOR 4
#define TRIED_MINOR 17
#define NAMES_MAX 120 /* of features, in a sentence */

struct look {
	const struct doctor_xen *d;
	rpl_check_fn *fn;
	void *arg;
	int fails;
	struct ev_loop *loop;
	int attached; /* the result, after the loop */
	struct rpl_err err;
	json_t *host, *domain;
};

static void RPL_PRINTF(5, 6) say(struct look *l, const char *name, enum rpl_check_level level, const char *mend, const char *fmt, ...)
{
	struct rpl_check c = { .name = name, .level = level };
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(c.sentence, sizeof(c.sentence), fmt, ap);
	va_end(ap);
	(void)snprintf(c.mend, sizeof(c.mend), "%s", mend);
	l->fails += level == RPL_CHECK_FAIL;
	l->fn(l->arg, &c);
}

static long long number(const json_t *o, const char *key)
{
	return (long long)json_integer_value(json_object_get(o, key));
}

static const char *text(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "?";
}

static bool is(const json_t *o, const char *key)
{
	return json_is_true(json_object_get(o, key));
}

json_t *doctor_xen_peer(const char *path, struct rpl_err *err)
{
	RPL_AUTO_FREE char *said = NULL;
	json_error_t jerr;
	json_t *facts;
	size_t len;

	if (rpl_read_file(strcmp(path, "-") == 0 ? "/dev/stdin" : path, RPL_XEN_FACTS_MAX, &said, &len, err) < 0)
		return NULL;
	facts = json_loads(said, 0, &jerr);
	if (!facts)
		(void)rpl_fail(err, -EBADMSG, "no JSON: line %d: %.100s", jerr.line, jerr.text);
	else if (rpl_xen_facts_check(facts, err) == 0)
		return facts;
	json_decref(facts);
	(void)rpl_prefix(err, "--peer %.60s", path);
	return NULL;
}

/* ---- the host */

static void look_host(struct look *l)
{
	bool tried = number(l->host, "major") == TRIED_MAJOR && number(l->host, "minor") == TRIED_MINOR;
	struct rpl_err err = { 0 };
	uint64_t mib = 0;

	say(l, "xen", tried ? RPL_CHECK_OK : RPL_CHECK_WARN, tried ? "" : "try it with a guest that nobody needs",
	    "Xen %s%s", text(l->host, "xen"), tried ? "" : ": nobody has run replicad on anything but 4.17");
	if (is(l->host, "hap") && is(l->host, "shadow"))
		say(l, "logdirty", RPL_CHECK_OK, "", "writes can be logged of PVH guests (HAP) and PV guests (shadow paging)");
	else if (is(l->host, "hap"))
		say(l, "logdirty", RPL_CHECK_WARN, "use type=\"pvh\", or a hypervisor built with CONFIG_SHADOW_PAGING",
		    "writes can be logged of PVH guests (HAP); of PV guests not: this Xen has no shadow paging");
	else if (is(l->host, "shadow"))
		say(l, "logdirty", RPL_CHECK_WARN, "turn on nested paging (EPT, NPT) in the firmware",
		    "writes can be logged by shadow paging only (no HAP), which slows guests down");
	else
		say(l, "logdirty", RPL_CHECK_FAIL, "turn on nested paging (EPT, NPT) in the firmware, or use a hypervisor built with "
		    "CONFIG_SHADOW_PAGING", "this Xen can log nobody's writes: neither HAP nor shadow paging");
	if (xl_free_mib(&mib, &err) < 0)
		say(l, "toolstack", RPL_CHECK_FAIL, "see `xl info`; is xenstored running?", "%.200s", err.msg);
	else
		say(l, "toolstack", RPL_CHECK_OK, "", "xl answers; %" PRIu64 " MiB of memory are free for domains", mib);
}

/* ---- the domain: what protecting it would refuse */

static void on_done(void *arg, enum rpl_guest_op op, int r, const struct rpl_err *err)
{
	struct look *l = arg;

	(void)op;
	l->attached = r;
	if (r < 0)
		l->err = *err;
	ev_break(l->loop, EVBREAK_ALL);
}

static void on_event(void *arg, enum rpl_guest_event event, const char *msg)
{
	(void)arg;
	(void)event;
	(void)msg;
}

static void tell_domain(struct look *l, const struct rpl_guest_info *info)
{
	say(l, "domain", info->running ? RPL_CHECK_OK : RPL_CHECK_WARN, info->running ? "" : "is a save or migration under way?",
	    "%s, %lld MiB, %lld virtual CPUs, %s; nothing in it stands against a copy", text(l->domain, "kind"), number(l->domain, "memory_mib"),
	    number(l->domain, "vcpus"), info->running ? "running" : "suspended");
}

static void look_domain(struct look *l)
{
	const struct rpl_guest_conf conf = { .backend = "xen", .name = l->d->vm, .any_netdev = l->d->any_netdev };
	struct rpl_guest *g;

	l->loop = ev_loop_new(0);
	l->attached = -ENOMEM;
	g = rpl_guest_new(&conf, l->loop, on_done, on_event, l, &l->err);
	if (g) {
		rpl_guest_attach(g);
		(void)ev_run(l->loop, 0);
	}
	if (g && l->attached == 0)
		l->attached = rpl_xen_domain_facts(g, &l->domain, &l->err);
	if (g && l->attached == 0)
		tell_domain(l, rpl_guest_info(g));
	else if (l->attached == -EBUSY)
		say(l, "domain", RPL_CHECK_WARN, "nothing, if that is wanted", "%.200s", l->err.msg);
	else
		say(l, "domain", RPL_CHECK_FAIL, "", "%.230s", l->err.msg);
	rpl_guest_free(g);
	ev_loop_destroy(l->loop);
}

/* ---- the other host */

/* A newer Xen's context may be refused by an older one; the other way is what upstream promises for one release. */
static void look_version(struct look *l)
{
	long long ours = number(l->host, "major") * 1000 + number(l->host, "minor");
	long long theirs = number(l->d->peer, "major") * 1000 + number(l->d->peer, "minor");
	const char *host = text(l->d->peer, "host");

	if (ours == theirs)
		say(l, "peer-xen", RPL_CHECK_OK, "", "%.60s runs Xen %.40s too", host, text(l->d->peer, "xen"));
	else if (ours > theirs)
		say(l, "peer-xen", RPL_CHECK_FAIL, "update it first", "%.60s runs Xen %.40s, which is older than %.40s here: it may refuse this one's "
		    "guests", host, text(l->d->peer, "xen"), text(l->host, "xen"));
	else
		say(l, "peer-xen", RPL_CHECK_WARN, "update this host", "%.60s runs Xen %.40s, newer than %.40s here: there is no way back", host,
		    text(l->d->peer, "xen"), text(l->host, "xen"));
}

static void compare_cpu(struct look *l, const char *name, const char *what, const json_t *has, const json_t *gives, enum rpl_check_level bad)
{
	char names[NAMES_MAX];
	unsigned n = rpl_xen_cpu_missing(has, gives, names, sizeof(names));

	if (n == 0)
		say(l, name, RPL_CHECK_OK, "", "%.60s has every feature of %.40s", text(l->d->peer, "host"), what);
	else
		say(l, name, bad, "hide them: cpuid= in the domain's configuration, then start it anew; or cpuid= of the hypervisor here, for all",
		    "%.60s lacks %u of the features of %.40s: %s", text(l->d->peer, "host"), n, what, names);
}

static void look_cpus(struct look *l)
{
	const json_t *ours = json_object_get(l->host, "cpu"), *theirs = json_object_get(l->d->peer, "cpu");
	const char *kind = text(l->domain, "kind"), *cpu = strcmp(kind, "pv") == 0 ? "pv" : "hvm";

	if (l->domain && !json_object_get(theirs, cpu))
		say(l, "cpu", RPL_CHECK_FAIL, "", "%.60s cannot run %s guests", text(l->d->peer, "host"), kind);
	else if (l->domain)
		compare_cpu(l, "cpu", "this domain's CPU", json_object_get(l->domain, "cpu"), json_object_get(theirs, cpu), RPL_CHECK_FAIL);
	else if (json_object_get(ours, "hvm") && json_object_get(theirs, "hvm"))
		compare_cpu(l, "cpu", "this host's CPU", json_object_get(ours, "hvm"), json_object_get(theirs, "hvm"), RPL_CHECK_WARN);
}

static void look_room(struct look *l)
{
	long long needs = number(l->domain, "memory_mib"), has = number(l->d->peer, "free_mib");
	bool pv = strcmp(text(l->domain, "kind"), "pv") == 0;

	if (has < needs)
		say(l, "peer-memory", RPL_CHECK_FAIL, "destroy or shrink domains there", "%.60s has %lld MiB free for domains, this one has %lld",
		    text(l->d->peer, "host"), has, needs);
	else
		say(l, "peer-memory", RPL_CHECK_OK, "", "%.60s has %lld MiB free for domains, this one has %lld; until a takeover its copy lies in the "
		    "memory of dom0 there, besides", text(l->d->peer, "host"), has, needs);
	if (!is(l->d->peer, pv ? "shadow" : "hap"))
		say(l, "peer-logdirty", RPL_CHECK_WARN, "", "%.60s can run the domain and not log its writes: from there it cannot come back",
		    text(l->d->peer, "host"));
}

int doctor_xen(const struct doctor_xen *d, rpl_check_fn *fn, void *arg, struct rpl_err *err)
{
	struct look l = { .d = d, .fn = fn, .arg = arg };

	if (rpl_xen_facts(&l.host, err) < 0)
		return err->code;
	look_host(&l);
	if (d->vm)
		look_domain(&l);
	if (d->peer) {
		look_version(&l);
		look_cpus(&l);
		if (l.domain)
			look_room(&l);
	} else if (d->vm) {
		say(&l, "peer", RPL_CHECK_WARN, "there: replicad doctor --facts >facts; here: --peer facts", "the other host was not compared");
	}
	json_decref(l.host);
	json_decref(l.domain);
	return l.fails;
}
