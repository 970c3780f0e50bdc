/* `replicad migrate` of the domain that xen_fake.c is; run by tests/unit/xen-commands
 *
 *   xen_migrate pv|pvh ARGUMENT...
 *
 * Ends as the command does; before that a line on standard error says how it left the domain. $XEN_FAKE_RUN_DIR, $XEN_FAKE_NAME
 * (instead of the usual name), $XEN_FAKE_SUSPENDED, $XEN_FAKE_WRITES (the guest never stops to write), $XEN_FAKE_DESTROYED (in its
 * first round).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../src/cli/cli.h"
#include "xen_fake.h"

static void write_always(unsigned n)
{
	for (unsigned i = 0; i < 900; i++)
		xen_fake_write(100 + i, 0, n);
}

static void end_it(unsigned n)
{
	write_always(n);
	if (n == 0)
		xen_fake_destroy();
}

int main(int argc, char **argv)
{
	static char name[] = "migrate";
	int r;

	if (argc < 2)
		return RPL_EXIT_USAGE;
	xen_fake_start(strcmp(argv[1], "pv") == 0);
	if (getenv("XEN_FAKE_NAME"))
		xen_fake_set_name(getenv("XEN_FAKE_NAME"));
	if (getenv("XEN_FAKE_SUSPENDED"))
		xen_fake_shutdown(2);
	if (getenv("XEN_FAKE_WRITES"))
		fake.on_clean = write_always;
	if (getenv("XEN_FAKE_DESTROYED"))
		fake.on_clean = end_it;
	argv[1] = name;
	r = rpl_cmd_migrate(argc - 1, argv + 1);
	(void)fflush(stdout);
	(void)fprintf(stderr, "domain: name=%s suspended=%d suspends=%u logging=%d open=%d\n", xen_fake_name(), fake.suspended,
		      fake.suspends, fake.logging, fake.handles + fake.mappings + fake.buffers);
	xen_fake_end();
	return r;
}
