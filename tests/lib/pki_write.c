/* pki_write.c - the certificates of pki.h as files, for programs that want files: pki-write DIRECTORY NAME...
 *
 * Makes DIRECTORY/ca.pem, and NAME.pem and NAME.key for each name.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include <replicad/io.h>

#include "pki.h"

static int put(const char *dir, const char *name, const char *end, const char *text)
{
	char path[PATH_MAX];
	struct rpl_err err;

	if (rpl_path(path, sizeof(path), &err, "%s/%s.%s", dir, name, end) == 0 &&
	    rpl_write_file_durably(path, text, strlen(text), 0600, &err) == 0)
		return 0;
	(void)fprintf(stderr, "%s\n", err.msg);
	return -1;
}

int main(int argc, char **argv)
{
	if (argc < 3) {
		(void)fprintf(stderr, "usage: pki-write DIRECTORY NAME...\n");
		return 2;
	}
	if (put(argv[1], "ca", "pem", pki_ca()) < 0)
		return 1;
	for (int i = 2; i < argc; i++)
		if (put(argv[1], argv[i], "pem", pki_cert(argv[i])) < 0 || put(argv[1], argv[i], "key", pki_key(argv[i])) < 0)
			return 1;
	pki_free();
	return 0;
}
