#include "programs.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Ours are installed side by side, and built side by side. */
const char *program_path(const char *name, char ret[PATH_MAX])
{
	ssize_t n = readlink("/proc/self/exe", ret, PATH_MAX - NAME_MAX - 2);
	char *slash;

	ret[n > 0 ? n : 0] = '\0';
	slash = strrchr(ret, '/');
	if (slash)
		(void)snprintf(slash + 1, NAME_MAX + 1, "%s", name);
	else
		(void)snprintf(ret, PATH_MAX, RPL_LIBEXECDIR "/%s", name);
	return ret;
}
