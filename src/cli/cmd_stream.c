/* `replicad stream`: look into, judge and convert Xen's migration streams. One file per verb. */
#include "cli.h"
#include "stream_cli.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void help(void)
{
	(void)printf("usage: replicad stream verify  [OPTION]... FILE|-     is it what Xen could restore?\n"
		     "       replicad stream show    [OPTION]... FILE|-     what is in it?\n"
		     "       replicad stream convert [OPTION]... IN OUT     from one format, version or layer to another\n"
		     "\nFILE is an xl save file, a libxl stream, a libxc image or (convert only) a stream from before Xen 4.6.\n"
		     "Each takes --help; replicad-stream(8) and replicad-stream(7) say more.\n");
}

/* What could not be written was not said: that is no verdict on the stream. */
static int said(const char *verb, int status)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return status;
	clearerr(stdout);
	return rpl_cli_fail(verb, STREAM_EXIT_TROUBLE, "write standard output: %s", strerror(errno));
}

int rpl_cmd_stream(int argc, char **argv)
{
	static const struct {
		const char *name, *full;
		int (*fn)(int argc, char **argv);
	} verbs[] = { { "verify", "stream verify", stream_verify }, { "show", "stream show", stream_show },
		      { "convert", "stream convert", stream_convert } };
	const char *verb = argc > 1 ? argv[1] : "";

	if (strcmp(verb, "--help") == 0 || strcmp(verb, "-h") == 0) {
		help();
		return STREAM_EXIT_CLEAN;
	}
	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
		if (strcmp(verb, verbs[i].name) == 0)
			return said(verbs[i].full, verbs[i].fn(argc - 1, argv + 1));
	return rpl_cli_usage("stream", "'%s' is none of verify, show, convert", verb);
}
