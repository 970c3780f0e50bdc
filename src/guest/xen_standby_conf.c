#include "xen_standby_conf.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <replicad/auto.h>
#include <replicad/io.h>
#include <replicad/xen.h>

#include "xen_helper.h"
#include "xen_standby_xl.h"

#define CONF_TEXT_MAX 65536
#define LEFTOVER_WAITS 20    /* for the domain of an earlier keeper to go */
#define LEFTOVER_WAIT_MS 300L
#define NICS_MAX 64
#define DOM0_RESERVE_MIB 64    /* what this host keeps for itself beside the copy */

void xen_conf_fini(struct xen_conf *c)
{
	json_decref(c->root);
	*c = (struct xen_conf){ 0 };
}

/* A uuid that is not in the file would be another one each time. */
static int has_uuid_line(const char *path, struct rpl_err *err)
{
	RPL_AUTO_FREE char *text = NULL;
	char *save = NULL;
	int r = rpl_read_file(path, CONF_TEXT_MAX, &text, NULL, err);

	if (r < 0)
		return r;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		line += strspn(line, " \t");
		if (strncmp(line, "uuid", 4) == 0 && line[4 + strspn(line + 4, " \t")] == '=')
			return 0;
	}
	return rpl_fail(err, -EINVAL, "standby file %.100s: no uuid= in it: write the one of the primary's domain there", path);
}

int xen_conf_read(struct xen_conf *c, const char *path, struct rpl_err *err)
{
	char *argv[] = { (char *)"xl", (char *)"create", (char *)"-n", (char *)"-q", (char *)(uintptr_t)path, NULL };
	RPL_AUTO_FREE char *said = NULL;
	json_t *c_info, *b_info;
	json_error_t jerr;
	const char *json;
	int r = has_uuid_line(path, err);

	if (r == 0)
		r = xl_call(argv, &said, err);
	if (r < 0)
		return r;
	json = said ? strchr(said, '{') : NULL; /* warnings may come before */
	c->root = json ? json_loads(json, JSON_DISABLE_EOF_CHECK, &jerr) : NULL;
	if (!c->root)
		return rpl_fail(err, -EBADMSG, "xl create -n %.100s: no JSON that can be read", path);
	c_info = json_object_get(c->root, "c_info");
	b_info = json_object_get(c->root, "b_info");
	c->name = json_string_value(json_object_get(c_info, "name"));
	c->uuid = json_string_value(json_object_get(c_info, "uuid"));
	c->kind = json_string_value(json_object_get(c_info, "type"));
	c->max_kib = json_integer_value(json_object_get(b_info, "max_memkb"));
	c->vcpus = json_integer_value(json_object_get(b_info, "max_vcpus"));
	if (!c->name || !xl_name_is_good(c->name) || !c->uuid || !c->kind || c->max_kib <= 0)
		return rpl_fail(err, -EINVAL, "standby file %.100s: name, uuid, type or memory is missing, or is none to use", path);
	if (c->vcpus <= 0)
		c->vcpus = 1;
	if (strcmp(c->kind, "hvm") == 0 && xen_emulated_text(c->root, c->emulated, err) < 0)
		return rpl_prefix(err, "standby file %.100s", path);
	if (json_array_size(json_object_get(c->root, "pcidevs")) > 0)
		return rpl_fail(err, -EINVAL, "standby file %.100s: a PCI device is passed through, which cannot be taken over: remove "
				"pci=", path);
	return 0;
}

/* ---- the host */

static int check_dom0(const struct xen_conf *c, struct rpl_err *err)
{
	uint64_t have, need = ((uint64_t)c->max_kib >> 10) + DOM0_RESERVE_MIB;
	int r = rpl_available_memory(&have, err);

	if (r < 0)
		return r;
	have >>= 20;
	if (have < need)
		return rpl_fail(err, -ENOMEM, "the copy of %.100s needs %" PRIu64 " MiB of dom0's memory, %" PRIu64
				" MiB are available: give dom0 more (dom0_mem)", c->name, need, have);
	return 0;
}

static int check_xen(struct xen_conf *c, struct rpl_err *err)
{
	char *argv[] = { (char *)"xl", (char *)"info", NULL };
	RPL_AUTO_FREE char *said = NULL;
	const char *major, *minor;
	int r = xl_call(argv, &said, err);

	if (r < 0)
		return r;
	major = said ? strstr(said, "\nxen_major") : NULL;
	minor = said ? strstr(said, "\nxen_minor") : NULL;
	if (!major || sscanf(major, "\nxen_major : %u", &c->xen_major) != 1 || !minor ||
	    sscanf(minor, "\nxen_minor : %u", &c->xen_minor) != 1)
		return rpl_fail(err, -EBADMSG, "xl info: it does not say which Xen this is");
	return xl_check_room(said, c->name, (uint64_t)c->max_kib >> 10, err);
}

/* What an earlier keeper left: a domain that was its replica, and that nobody ever ran. Mostly it is just going. */
static int clear_leftover(const struct xen_conf *c, struct rpl_err *err)
{
	static const struct timespec pause = { 0, LEFTOVER_WAIT_MS * 1000000L };
	char path[64];
	char *argv[] = { (char *)"xenstore-read", path, NULL };
	struct rpl_err none;
	uint32_t domid;

	for (unsigned i = 0; xl_domid(c->name, &domid, &none) == 0; i++) {
		(void)snprintf(path, sizeof(path), RPL_XEN_STANDBY_NODE, domid);
		if (i == LEFTOVER_WAITS || xl_call(argv, NULL, &none) < 0)
			return rpl_fail(err, -EEXIST, "a domain called %.100s (%" PRIu32 ") is on this host: it can be a backup only "
					"without it (xl destroy %" PRIu32 ")", c->name, domid, domid);
		if (i == LEFTOVER_WAITS / 2)
			(void)xl_destroy(domid, &none);
		(void)nanosleep(&pause, NULL);
	}
	return 0;
}

int xen_conf_check_host(struct xen_conf *c, bool copy_in_dom0, struct rpl_err *err)
{
	int r = clear_leftover(c, err);

	if (r < 0)
		return r;
	r = check_xen(c, err);
	return r < 0 || !copy_in_dom0 ? r : check_dom0(c, err);
}

/* ---- the definition */

static void print_nics(const struct xen_conf *c)
{
	const json_t *nics = json_object_get(c->root, "nics"), *nic;
	const char *mac[NICS_MAX] = { NULL };
	char key[16];
	size_t i;

	json_array_foreach(nics, i, nic) {
		const json_t *devid = json_object_get(nic, "devid");
		json_int_t id = json_is_integer(devid) && json_integer_value(devid) >= 0 ? json_integer_value(devid) : (json_int_t)i;

		if (id < NICS_MAX)
			mac[id] = json_string_value(json_object_get(nic, "mac"));
	}
	/* sorted as text: 0, 1, 10, 11, ..., 2 */
	for (unsigned tens = 0; tens < 10; tens++) {
		if (mac[tens])
			(void)printf("mac.%u=%s\n", tens, mac[tens]);
		for (unsigned ones = 0; tens && ones < 10; ones++) {
			(void)snprintf(key, sizeof(key), "%u%u", tens, ones);
			if (tens * 10 + ones < NICS_MAX && mac[tens * 10 + ones])
				(void)printf("mac.%s=%s\n", key, mac[tens * 10 + ones]);
		}
	}
}

/* Has it no devices but network interfaces? A disk must not be opened while the primary writes to it. */
static bool can_be_early(const struct xen_conf *c)
{
	const char *key;
	json_t *value;

	json_object_foreach(c->root, key, value)
		if (json_array_size(value) > 0 && strcmp(key, "nics") != 0)
			return false;
	return strcmp(c->kind, "hvm") != 0;
}

void xen_conf_print(const struct xen_conf *c)
{
	(void)printf("name=%s\nuuid=%s\nearly=%s\n", c->name, c->uuid, can_be_early(c) ? "yes" : "no");
	(void)printf("backend=xen\n" RPL_XEN_KEY_DOMAIN "=%s\n", c->kind);
	if (*c->emulated)
		(void)printf(XEN_KEY_EMULATED "=%s\n", c->emulated);
	print_nics(c);
	(void)printf("vcpus=%" JSON_INTEGER_FORMAT "\nxen=%u.%u\n", c->vcpus, c->xen_major, c->xen_minor);
}
