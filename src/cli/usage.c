/* usage.c - what commands say of a wrong call, and what they read alike from a call */
#include "cli.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

int rpl_cli_fail(const char *command, int status, const char *fmt, ...)
{
	va_list ap;

	(void)fflush(stdout);
	(void)fprintf(stderr, "replicad %s: ", command);
	va_start(ap, fmt);
	(void)vfprintf(stderr, fmt, ap);
	va_end(ap);
	(void)fputc('\n', stderr);
	return status;
}

int rpl_cli_usage(const char *command, const char *fmt, ...)
{
	va_list ap;

	(void)fprintf(stderr, "replicad %s: ", command);
	va_start(ap, fmt);
	(void)vfprintf(stderr, fmt, ap);
	va_end(ap);
	(void)fprintf(stderr, "; see `replicad %s --help`\n", command);
	return RPL_EXIT_USAGE;
}

int rpl_cli_vm(const char *command, int argc, char **argv, bool needed, const char **ret)
{
	if (needed && optind == argc)
		return rpl_cli_usage(command, "which VM?");
	if (argc - optind > 1)
		return rpl_cli_usage(command, "'%s' is one argument too many", argv[optind + 1]);
	*ret = argv[optind];
	return RPL_EXIT_DONE;
}

int rpl_cli_number(const char *command, const char *option, const char *text, json_int_t min, json_int_t max, json_int_t *ret)
{
	char *end;

	errno = 0;
	*ret = strtoll(text, &end, 10);
	if (*end || end == text || errno || *ret < min || *ret > max)
		return rpl_cli_usage(command, "--%s %s: allowed is a number from %" JSON_INTEGER_FORMAT " to %" JSON_INTEGER_FORMAT,
				     option, text, min, max);
	return RPL_EXIT_DONE;
}
