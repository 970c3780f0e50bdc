#include "show.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <replicad/auto.h>
#include <replicad/control.h>

/* States of the protection machine that count as protected, or as a VM that is down; every other one is degraded. */
static const char *const protected_states[] = { "P_PROTECTED", "B_READY" };
static const char *const down_states[] = { "P_LOST", "P_DEPOSED", "C_COLLECT", "C_CLAIM", "C_REPLAY" };

static bool is_one_of(const char *state, const char *const *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(state, list[i]) == 0)
			return true;
	return false;
}

int rpl_show_judge(const json_t *vm)
{
	const char *state = rpl_cli_text(vm, "state"), *keeper = rpl_cli_text(vm, "keeper");

	if (strcmp(state, "unknown") == 0 || !state[0])
		return RPL_EXIT_UNKNOWN;
	if (strcmp(state, "IDLE") == 0) /* nothing of it here: a fault only where it is wanted */
		return json_is_true(json_object_get(vm, "wanted")) || strcmp(keeper, "none") != 0 ? RPL_EXIT_DOWN
												    : RPL_EXIT_DEGRADED;
	if (is_one_of(state, protected_states, RPL_ARRAY_LEN(protected_states)))
		return RPL_EXIT_PROTECTED;
	return is_one_of(state, down_states, RPL_ARRAY_LEN(down_states)) ? RPL_EXIT_DOWN : RPL_EXIT_DEGRADED;
}

static bool number(const json_t *vm, const char *field, json_int_t *ret)
{
	const json_t *v = json_object_get(vm, field);

	*ret = json_integer_value(v);
	return json_is_integer(v);
}

void rpl_show_state(const json_t *vm, char *buf, size_t size)
{
	const char *state = rpl_cli_text(vm, "state");
	json_int_t percent;

	if (strcmp(state, "P_SYNC") == 0 && number(vm, "bulk_percent", &percent))
		(void)snprintf(buf, size, "%s, first copy %" JSON_INTEGER_FORMAT " %%", state, percent);
	else if (json_is_true(json_object_get(vm, "awaiting_arbiter")))
		(void)snprintf(buf, size, "%s, awaiting arbiter", state);
	else
		(void)snprintf(buf, size, "%s", state);
}

static const char *yes_no(const json_t *survives, const char *field)
{
	const json_t *v = json_object_get(survives, field);

	return json_is_boolean(v) ? json_is_true(v) ? "YES" : "NO" : "?";
}

/* A time in microseconds as people say it. */
static void put_us(const json_t *vm, const char *field, char *buf, size_t size)
{
	json_int_t us;

	if (!number(vm, field, &us))
		(void)snprintf(buf, size, "-");
	else
		(void)snprintf(buf, size, "%.1f ms", (double)us / 1000);
}

void rpl_show_table(const json_t *vms)
{
	size_t i;
	json_t *vm;

	if (!json_array_size(vms)) {
		(void)printf("no VM is known here; `replicad protect NAME --qmp PATH --backup HOST` begins\n");
		return;
	}
	(void)printf("%-16s %-8s %-28s %-12s %9s %9s  %s\n", "VM", "ROLE", "STATE", "PEER", "PAUSE P50", "P99",
		     "SURVIVES PRIMARY/BACKUP CRASH");
	json_array_foreach((json_t *)(uintptr_t)vms, i, vm) {
		const json_t *survives = json_object_get(vm, "survives");
		char state[64], p50[24], p99[24];

		rpl_show_state(vm, state, sizeof(state));
		put_us(vm, "pause_p50_us", p50, sizeof(p50));
		put_us(vm, "pause_p99_us", p99, sizeof(p99));
		(void)printf("%-16s %-8s %-28s %-12s %9s %9s  %s/%s\n", rpl_cli_text(vm, "vm"), rpl_cli_text(vm, "role"), state,
			     rpl_cli_text(vm, "peer")[0] ? rpl_cli_text(vm, "peer") : "-", p50, p99,
			     yes_no(survives, "primary_crash"), yes_no(survives, "backup_crash"));
		if (rpl_cli_text(vm, "refused")[0])
			(void)printf("  refused: %s\n", rpl_cli_text(vm, "refused"));
		if (rpl_cli_text(vm, "no_room")[0])
			(void)printf("  no room for a takeover: %s\n", rpl_cli_text(vm, "no_room"));
	}
}

/* ---- one VM */

static void put_bytes(double n, char *buf, size_t size)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	size_t u = 0;

	for (; n >= 1024 && u + 1 < RPL_ARRAY_LEN(units); u++)
		n /= 1024;
	(void)snprintf(buf, size, u ? "%.1f %s" : "%.0f %s", n, units[u]);
}

static void put_object(const json_t *o, char *buf, size_t size)
{
	const char *key;
	json_t *v;
	size_t used = 0;

	buf[0] = '\0';
	json_object_foreach((json_t *)(uintptr_t)o, key, v) {
		RPL_AUTO_FREE char *text = json_dumps(v, JSON_ENCODE_ANY);
		int n = snprintf(buf + used, size - used, "%s%s %s", used ? ", " : "", key, text ? text : "?");

		if (n < 0 || (size_t)n >= size - used)
			return;
		used += (size_t)n;
	}
}

static void put_value(const json_t *v, const char *unit, char *buf, size_t size)
{
	if (json_is_string(v))
		(void)snprintf(buf, size, "%s", json_string_value(v));
	else if (json_is_boolean(v))
		(void)snprintf(buf, size, "%s", json_is_true(v) ? "yes" : "no");
	else if (json_is_object(v))
		put_object(v, buf, size);
	else if (strcmp(unit, "us") == 0)
		(void)snprintf(buf, size, "%.3f ms", (double)json_integer_value(v) / 1000);
	else if (strcmp(unit, "bytes") == 0)
		put_bytes((double)json_integer_value(v), buf, size);
	else
		(void)snprintf(buf, size, "%" JSON_INTEGER_FORMAT "%s%s", json_integer_value(v), unit[0] ? " " : "", unit);
}

static void show_field(const json_t *vm, const char *name, const char *unit)
{
	const json_t *v = json_object_get(vm, name);
	char text[300], label[32];

	if (!v || strcmp(name, "survives") == 0 || strcmp(name, "no_room") == 0) /* they have sentences of their own */
		return;
	if (json_is_string(v) && !json_string_value(v)[0])
		return;
	(void)snprintf(label, sizeof(label), "%s", name);
	for (char *p = label; *p; p++)
		if (*p == '_')
			*p = ' ';
	put_value(v, unit, text, sizeof(text));
	(void)printf("%-18s %s\n", label, text);
}

void rpl_show_vm(const json_t *vm)
{
	const json_t *survives = json_object_get(vm, "survives");
	const char *durability = rpl_cli_text(vm, "durability");

#define X(name, type, unit, meaning) show_field(vm, #name, unit);
	RPL_STATUS_FIELDS(X)
#undef X
	if (strcmp(rpl_cli_text(vm, "tls"), "none") == 0)
		(void)printf("WARNING: the link is NOT ENCRYPTED and its peer NOT PROVEN (tls = none)\n");
	if (strcmp(rpl_cli_text(vm, "netbuf"), "none") == 0)
		(void)printf("WARNING: output is NOT HELD (netbuf = none): a takeover may forget what clients were told\n");
	if (rpl_cli_text(vm, "no_room")[0])
		(void)printf("WARNING: a takeover now would find NO ROOM: %s\n", rpl_cli_text(vm, "no_room"));
	(void)printf("would survive: primary crash %s, backup crash %s, both lose power %s (durability=%s)\n",
		     yes_no(survives, "primary_crash"), yes_no(survives, "backup_crash"), yes_no(survives, "both_lose_power"),
		     durability[0] ? durability : "?");
}

void rpl_show_agent(const json_t *agent)
{
	if (strcmp(rpl_cli_text(agent, "tls"), "none") == 0)
		(void)printf("WARNING: tls = none: links of this node are NOT ENCRYPTED\n");
	else if (json_is_true(json_object_get(agent, "insecure")))
		(void)printf("WARNING: insecure = yes: this node would replicate in clear if tls = none were set\n");
}
