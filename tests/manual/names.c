/* names.c - prints every name that a user can meet and the page that must explain it
 *
 * A line is `page TAB kind TAB name [TAB detail]...`; test_manual.py reads it. The lists are the same ones that the
 * programs are made of, so a new key, record, frame, state or field that no page describes fails `make check`.
 */
#include <stdint.h>
#include <stdio.h>

#include <replicad/auto.h>
#include <replicad/conf.h>
#include <replicad/control.h>
#include <replicad/core.h>
#include <replicad/fault.h>
#include <replicad/link.h>
#include <replicad/record.h>
#include <replicad/stream_format.h>
#include <replicad/stream_rules.h>
#include <replicad/trace.h>

static void print_keys(const char *section, const struct rpl_conf_key *k, size_t n)
{
	for (size_t i = 0; i < n; i++)
		printf("replicad.conf.5\tkey\t%s\t%s\t%s\t%s\n", k[i].name, section, k[i].default_value,
		       k[i].choices ? k[i].choices : "");
}

int main(void)
{
	size_t n;

	for (enum rpl_conf_section s = 0; s < RPL_CONF_NSECTIONS; s++) {
		const struct rpl_conf_key *k = rpl_conf_keys(s, &n);

		print_keys(rpl_conf_section_name(s), k, n);
	}
#define X(name, number, min, max) \
	printf("replicad-link.7\tframe\t%s\t%d\t%d\t%d\n", #name, (int)(number), (int)(min), (int)(max));
	RPL_FRAMES(X)
#undef X
#define X(name, ...) printf("replicad-stream.7\trecord\t%s\n", #name);
	RPL_LIBXC_RECORDS(X)
	RPL_LIBXL_RECORDS(X)
#undef X
#define X(id, name, ...) printf("replicad-stream.7\trule\t%s\n", name);
	RPL_STREAM_RULES(X)
#undef X
#define X(id, name) printf("replicad-fault.7\tfault\t%s\n", name);
	RPL_FAULTS(X)
#undef X
#define X(name, ...) printf("replicad-trace.7\tstep\t%s\n", #name);
	RPL_TRACE_STEPS(X)
#undef X
#define X(name, ...) printf("replicad-protocol.7\tstate\t%s\n", #name);
	RPL_STATES(X)
#undef X
#define X(name, ...) printf("replicad-protocol.7\tclaim\tCLAIM_%s\n", #name);
	RPL_CLAIMS(X)
#undef X
#define X(name, ...) printf("replicad-protocol.7\tmode\t%s\n", #name);
	RPL_MODES(X)
#undef X
#define X(name, ...) printf("replicad-control.7\tcommand\t%s\n", #name);
	RPL_AGENT_COMMANDS(X)
#undef X
#define X(name, ...) printf("replicad-control.7\tcommand\t%s\n", #name);
	RPL_KEEPER_COMMANDS(X)
#undef X
#define X(name, ...) printf("replicad-control.7\terror\t%s\n", #name);
	RPL_CONTROL_ERRORS(X)
#undef X
#define X(name, ...) printf("replicad-control.7\tevent\t%s\n", #name);
	RPL_KEEPER_EVENTS(X)
#undef X
#define X(name, type, unit, ...) printf("replicad-control.7\tfield\t%s\t%s%s%s\n", #name, #type, (unit)[0] ? ", " : "", unit);
	RPL_STATUS_FIELDS(X)
#undef X
	return 0;
}
