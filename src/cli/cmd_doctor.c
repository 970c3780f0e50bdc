/* cmd_doctor.c - `replicad doctor`: would protection be refused, and what mends it */
#include "config.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include <replicad/host.h>
#include <replicad/netbuf.h>
#include <replicad/qemu.h>
#include <replicad/xen_doctor.h>

#include "cli.h"
#include "doctor_arbiter.h"
#include "doctor_backup.h"
#include "doctor_xen.h"
#include "vm_conf.h"

static const char help_text[] =
	"usage: replicad doctor [OPTION]... [VM]\n"
	"Say whether a VM can be protected, what stands against it, and what mends that. Changes nothing.\n"
	"Without a VM: look at this host only. VM is a QEMU guest, or a Xen domain where the host is a Xen control domain.\n\n"
	"  -q, --qmp PATH         the guest's monitor socket (default: what the configuration says about VM)\n"
	"  -S, --standby FILE     also check this standby file\n"
	"  -t, --tracker KIND     auto, uffd or compare, as the VM's tracker= will say\n"
	"  -n, --netbuf KIND      relay, plug or none, as the VM's netbuf= will say\n"
	"  -x, --xen              VM is a Xen domain, whatever the configuration says\n"
	"  -P, --peer FILE        Xen: compare with the host of which --facts wrote FILE (-: standard input)\n"
	"      --facts            Xen: write what another host's --peer reads\n"
	"  -j, --json             for programs\n"
	"  -c, --config FILE      configuration (default " RPL_CLI_CONF_DEFAULT ")\n"
	"  -h, --help\n\n"
	"exit status: 0 nothing stands against it, 1 the guest could not be asked, 2 usage, 3 it would be refused\n\n"
	"examples:\n"
	"  replicad doctor\n"
	"  replicad doctor web1 --qmp /run/web1.qmp\n"
	"  ssh beta replicad doctor --facts | replicad doctor --xen web1 --peer -\n"
	"  replicad doctor web1 --json | jq -r '.checks[] | select(.level == \"fail\") | .mend'\n";

enum { OPT_FACTS = 256 };

static const struct option options[] = {
	{ "qmp", required_argument, NULL, 'q' },     { "standby", required_argument, NULL, 'S' },
	{ "tracker", required_argument, NULL, 't' }, { "netbuf", required_argument, NULL, 'n' },
	{ "xen", no_argument, NULL, 'x' },           { "peer", required_argument, NULL, 'P' },
	{ "facts", no_argument, NULL, OPT_FACTS },
	{ "json", no_argument, NULL, 'j' },          { "config", required_argument, NULL, 'c' },
	{ "help", no_argument, NULL, 'h' },          { NULL, 0, NULL, 0 },
};

static const char *const levels[] = { [RPL_CHECK_OK] = "ok", [RPL_CHECK_WARN] = "warn", [RPL_CHECK_FAIL] = "fail" };

static void print_check(void *arg, const struct rpl_check *c)
{
	(void)arg;
	(void)printf("%-4s  %-12s %s\n", levels[c->level], c->name, c->sentence);
	if (c->mend[0])
		(void)printf("%20s-> %s\n", "", c->mend);
}

static void add_check(void *arg, const struct rpl_check *c)
{
	(void)json_array_append_new(arg, json_pack("{s:s, s:s, s:s, s:s}", "name", c->name, "level", levels[c->level],
						   "sentence", c->sentence, "mend", c->mend));
}

static int finish(int fails, json_t *checks, const char *vm, const struct rpl_err *err)
{
	int status = fails < 0 ? RPL_EXIT_FAILED : fails ? RPL_EXIT_REFUSED : RPL_EXIT_DONE;
	json_t *o;

	if (!checks) {
		if (fails < 0)
			return rpl_cli_fail("doctor", status, "%s", err->msg);
		(void)printf(fails ? "%d of these stand against protection\n" : "nothing stands against protection\n", fails);
		return status;
	}
	o = json_pack("{s:i, s:s?, s:b, s:o}", "v", 1, "vm", vm, "ok", fails == 0, "checks", checks);
	if (fails < 0)
		(void)json_object_set_new(o, "error", json_string(err->msg));
	(void)json_dumpf(o, stdout, JSON_INDENT(2));
	(void)putchar('\n');
	json_decref(o);
	return status;
}

/* netbuf=plug: does this kernel have what it takes? Returns the number of fails. */
static int look_plug(rpl_check_fn *fn, void *arg)
{
	struct rpl_check c = { .name = "netbuf", .level = RPL_CHECK_OK,
			       .sentence = "this kernel can hold output by sch_prio and sch_plug (a device was made for that, and removed)" };
	struct rpl_err err = { 0 };

	if (rpl_netbuf_check_plug(&err) < 0) {
		c.level = RPL_CHECK_FAIL;
		(void)snprintf(c.sentence, sizeof(c.sentence), "%s", err.msg);
		(void)snprintf(c.mend, sizeof(c.mend), "%s", err.code == -EPERM ? "run this as root" : "netbuf=relay needs no "
			       "kernel module");
	}
	fn(arg, &c);
	return c.level == RPL_CHECK_FAIL;
}

/* The arbiter is everybody's: it is looked at wherever a configuration says which it is. */
static int check_arbiter(const struct rpl_conf *conf, const char *file, const struct rpl_conf_vm *vm, rpl_check_fn *fn,
			 void *arg)
{
	struct rpl_check c = { .name = "arbiter", .level = RPL_CHECK_FAIL };
	struct rpl_conf *own = NULL;
	struct rpl_err err;
	int fails;

	if (!conf && access(file, F_OK) < 0)
		return 0;
	if (!conf)
		conf = own = rpl_conf_load(file, &err);
	if (!conf) {
		(void)snprintf(c.sentence, sizeof(c.sentence), "%s", err.msg);
		fn(arg, &c);
		return 1;
	}
	fails = rpl_doctor_arbiter(&conf->agent, vm, fn, arg);
	rpl_conf_free(own);
	return fails;
}

/* What nobody but its keeper knows: a VM that this host keeps the copy of. */
static int check_backup(const struct rpl_conf *conf, const char *vm, rpl_check_fn *fn, void *arg, bool *ret_backup)
{
	*ret_backup = false;
	return conf && vm ? rpl_doctor_backup(&conf->agent, vm, fn, arg, ret_backup) : 0;
}

static int run(struct rpl_doctor_conf *d, const struct rpl_conf *conf, const char *file, const struct rpl_conf_vm *v,
	       const char *vm, bool plug, bool json)
{
	json_t *checks = json ? json_array() : NULL;
	rpl_check_fn *fn = json ? add_check : print_check;
	struct rpl_err err = { 0 };
	char dir[PATH_MAX - 32], helper[PATH_MAX];
	bool backup;
	int fails, more;

	/* in a build tree the helper lies beside the program */
	if (rpl_cli_program_dir(dir, sizeof(dir)) == 0) {
		(void)snprintf(helper, sizeof(helper), "%s/replicad-attach", dir);
		if (access(helper, X_OK) == 0)
			d->helper_path = helper;
	}
	d->vm = vm ? vm : "guest";
	more = check_arbiter(conf, file, v, fn, checks);
	more += check_backup(conf, vm, fn, checks, &backup);
	if (backup)
		d->qmp_path = NULL; /* the guest is on the other host */
	fails = rpl_doctor_qemu(d, fn, checks, &err);
	if (plug && fails >= 0)
		fails += look_plug(fn, checks);
	return finish(fails < 0 ? fails : fails + more, checks, vm, &err);
}

static const char *given(const char *option, const char *configured)
{
	return option ? option : configured && configured[0] ? configured : NULL;
}

static int look(struct rpl_doctor_conf *d, const char *netbuf, const char *file, const char *vm, bool json)
{
	const struct rpl_conf_vm *v = NULL;
	struct rpl_conf *conf = NULL;
	int status;

	if (vm && !d->qmp_path) {
		status = rpl_cli_vm_conf("doctor", file, vm, &conf, &v);
		if (status != RPL_EXIT_DONE)
			return status;
		d->qmp_path = given(NULL, v->qmp);
		d->standby_path = given(d->standby_path, v->standby);
		d->tracker = given(d->tracker, v->tracker);
		netbuf = given(netbuf, v->netbuf);
	}
	d->any_netdev = netbuf && strcmp(netbuf, "none") == 0;
	status = run(d, conf, file, v, vm, netbuf && strcmp(netbuf, "plug") == 0, json);
	rpl_conf_free(conf);
	return status;
}

/* ---- Xen */

static int print_facts(void)
{
	struct rpl_err err;
	json_t *facts;

	if (rpl_xen_facts(&facts, &err) < 0)
		return rpl_cli_fail("doctor", RPL_EXIT_FAILED, "%s", err.msg);
	(void)json_dumpf(facts, stdout, JSON_INDENT(2));
	(void)putchar('\n');
	json_decref(facts);
	return RPL_EXIT_DONE;
}

struct xen_call {
	const char *vm, *peer, *netbuf, *file;
	bool json;
};

static int look_xen_with(const struct xen_call *call, const struct rpl_conf *conf, const struct rpl_conf_vm *v, const json_t *peer)
{
	const char *netbuf = given(call->netbuf, v ? v->netbuf : NULL);
	struct doctor_xen d = { .vm = call->vm, .peer = peer, .any_netdev = netbuf && strcmp(netbuf, "none") == 0 };
	json_t *checks = call->json ? json_array() : NULL;
	rpl_check_fn *fn = call->json ? add_check : print_check;
	struct rpl_err err = { 0 };
	int fails, more = check_arbiter(conf, call->file, v, fn, checks);
	bool backup;

	more += check_backup(conf, call->vm, fn, checks, &backup);
	if (backup)
		d.vm = NULL; /* the domain is on the other host, and this one was compared when it became ready */
	fails = doctor_xen(&d, fn, checks, &err);
	if (fails >= 0 && !d.any_netdev) /* what else holds the output of a domain */
		fails += look_plug(fn, checks);
	return finish(fails < 0 ? fails : fails + more, checks, call->vm, &err);
}

/* The configuration that may know the VM, NULL without one: why it cannot be read says check_arbiter(). */
static struct rpl_conf *conf_of(const char *file, const char *vm)
{
	struct rpl_err err;

	return vm && access(file, F_OK) == 0 ? rpl_conf_load(file, &err) : NULL;
}

static int look_xen(const struct xen_call *call)
{
	struct rpl_err err = { 0 };
	json_t *peer = call->peer ? doctor_xen_peer(call->peer, &err) : NULL;
	struct rpl_conf *conf;
	int status;

	if (call->peer && !peer)
		return rpl_cli_fail("doctor", RPL_EXIT_USAGE, "%s", err.msg);
	conf = conf_of(call->file, call->vm);
	status = look_xen_with(call, conf, conf ? rpl_conf_vm(conf, call->vm) : NULL, peer);
	json_decref(peer);
	rpl_conf_free(conf);
	return status;
}

/* Whoever gives no monitor on a Xen host means a domain. */
static bool means_xen(const struct rpl_doctor_conf *d, const char *file, const char *vm)
{
	struct rpl_conf *conf;
	const struct rpl_conf_vm *v;
	bool xen;

	if (d->qmp_path || d->standby_path)
		return false;
	conf = conf_of(file, vm);
	v = conf ? rpl_conf_vm(conf, vm) : NULL;
	xen = v ? strcmp(v->backend, "xen") == 0 : rpl_host_controls_xen();
	rpl_conf_free(conf);
	return xen;
}

/* ---- the call */

static bool one_of(const char *s, const char *a, const char *b, const char *c)
{
	return strcmp(s, a) == 0 || strcmp(s, b) == 0 || strcmp(s, c) == 0;
}

int rpl_cmd_doctor(int argc, char **argv)
{
	const char *file = RPL_CLI_CONF_DEFAULT, *netbuf = NULL;
	struct rpl_doctor_conf d = { .qmp_path = NULL };
	struct xen_call call = { .peer = NULL };
	bool json = false, xen = false;
	int opt;

	while ((opt = getopt_long(argc, argv, "q:S:t:n:xP:jc:h", options, NULL)) != -1) {
		switch (opt) {
		case 'q':
			d.qmp_path = optarg;
			break;
		case 'S':
			d.standby_path = optarg;
			break;
		case 't':
			d.tracker = optarg;
			break;
		case 'n':
			netbuf = optarg;
			break;
		case 'x':
			xen = true;
			break;
		case 'P':
			call.peer = optarg;
			xen = true;
			break;
		case OPT_FACTS:
			return print_facts();
		case 'j':
			json = true;
			break;
		case 'c':
			file = optarg;
			break;
		case 'h':
			(void)fputs(help_text, stdout);
			return RPL_EXIT_DONE;
		default:
			return RPL_EXIT_USAGE;
		}
	}
	if (argc - optind > 1)
		return rpl_cli_usage("doctor", "one VM at a time");
	if (d.tracker && !one_of(d.tracker, "auto", "uffd", "compare"))
		return rpl_cli_usage("doctor", "--tracker %s: auto, uffd or compare", d.tracker);
	if (netbuf && !one_of(netbuf, "relay", "plug", "none"))
		return rpl_cli_usage("doctor", "--netbuf %s: relay, plug or none", netbuf);
	if (xen && (d.qmp_path || d.standby_path || d.tracker))
		return rpl_cli_usage("doctor", "--qmp, --standby and --tracker are of QEMU guests");
	call.vm = argv[optind];
	call.netbuf = netbuf;
	call.file = file;
	call.json = json;
	if (xen || means_xen(&d, file, argv[optind]))
		return look_xen(&call);
	return look(&d, netbuf, file, argv[optind], json);
}
