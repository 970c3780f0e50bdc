/* cmd_demo.c - `replicad demo`: hands over to the demo's own program, which orchestrates a whole small installation */
#include "config.h"

#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <replicad/auto.h>

#include "cli.h"

#define DEMO_INSTALLED RPL_LIBEXECDIR "/demo/demo.py"
#define DEMO_IN_TREE RPL_SRCDIR "/tests/demo/demo.py"

/* In a build tree the sources' demo drives the tree's own programs; an installed program never looks there. */
static int find_demo(char *path, size_t size)
{
	char dir[PATH_MAX], probe[PATH_MAX + 16];

	if (rpl_cli_program_dir(dir, sizeof(dir)) == 0) {
		(void)snprintf(probe, sizeof(probe), "%s/config.status", dir);
		if (access(probe, F_OK) == 0 && access(DEMO_IN_TREE, R_OK) == 0) {
			(void)snprintf(path, size, "%s", DEMO_IN_TREE);
			(void)setenv("RPL_BUILDDIR", dir, 1);
			return 0;
		}
	}
	(void)snprintf(path, size, "%s", DEMO_INSTALLED);
	return access(path, R_OK) < 0 ? -errno : 0;
}

int rpl_cmd_demo(int argc, char **argv)
{
	RPL_AUTO_FREE char **args = NULL;
	char path[PATH_MAX];
	int r = find_demo(path, sizeof(path));

	if (r < 0)
		return rpl_cli_fail("demo", RPL_EXIT_FAILED, "open %s: %s; install replicad whole, or run it in its build tree",
				    path, strerror(-r));
	args = calloc((size_t)argc + 2, sizeof(*args));
	if (!args)
		return rpl_cli_fail("demo", RPL_EXIT_FAILED, "no memory for %d arguments", argc);
	args[0] = (char *)(uintptr_t)"python3";
	args[1] = path;
	memcpy(args + 2, argv + 1, (size_t)argc * sizeof(*args)); /* the final NULL too */
	(void)execvp("python3", args);
	return rpl_cli_fail("demo", RPL_EXIT_FAILED, "run python3: %s; install python3", strerror(errno));
}
