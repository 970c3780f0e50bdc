/* conf_load.c - the configuration's files: replicad.conf, then conf.d beside it */
#include <replicad/conf.h>

#include <dirent.h>
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include <replicad/auto.h>
#include <replicad/io.h>

static int load_file(struct rpl_conf *c, const char *path, struct rpl_err *err)
{
	RPL_AUTO_FREE char *text = NULL;
	size_t len;
	int r = rpl_read_file(path, RPL_CONF_FILE_MAX, &text, &len, err);

	return r < 0 ? r : rpl_conf_parse(c, path, text, len, err);
}

static int is_conf(const struct dirent *d)
{
	size_t len = strlen(d->d_name);

	return d->d_name[0] != '.' && len > 5 && strcmp(d->d_name + len - 5, ".conf") == 0;
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name); /* not the locale's order: the same everywhere */
}

static int load_dir(struct rpl_conf *c, const char *dir, struct rpl_err *err)
{
	struct dirent **names;
	char path[PATH_MAX];
	int n = scandir(dir, &names, is_conf, by_bytes), r = 0;

	if (n < 0)
		return errno == ENOENT ? 0 : rpl_fail_errno(err, errno, "read directory %s", dir);
	if (n > RPL_CONF_FILES_MAX)
		r = rpl_fail(err, -E2BIG, "%s: %d files, allowed are %d", dir, n, RPL_CONF_FILES_MAX);
	for (int i = 0; i < n; i++) {
		if (r == 0) {
			r = rpl_path(path, sizeof(path), err, "%s/%s", dir, names[i]->d_name);
			if (r == 0)
				r = load_file(c, path, err);
		}
		free(names[i]);
	}
	free(names);
	return r;
}

struct rpl_conf *rpl_conf_load(const char *path, struct rpl_err *err)
{
	struct rpl_conf *c = rpl_conf_new();
	char copy[PATH_MAX], dir[PATH_MAX];
	int r;

	if (!c) {
		(void)rpl_fail(err, -ENOMEM, "%s: no memory", path);
		return NULL;
	}
	r = rpl_path(copy, sizeof(copy), err, "%s", path);
	if (r == 0)
		r = rpl_path(dir, sizeof(dir), err, "%s/conf.d", dirname(copy));
	if (r == 0)
		r = load_file(c, path, err);
	if (r == 0)
		r = load_dir(c, dir, err);
	if (r == 0)
		r = rpl_conf_finish(c, err);
	if (r < 0) {
		rpl_conf_free(c);
		return NULL;
	}
	return c;
}
