/* wanted.c - what must be protected, kept across restarts: state_dir/wanted/NAME, and conf.d/NAME.conf for a VM
 * that `replicad protect` was told about */
#include "agent.h"

#include <dirent.h>
#include <errno.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/io.h>

#define CONF_MARK "# written by `replicad protect`; `replicad unprotect` removes it\n"

static int wanted_path(const struct rpl_agent *a, const char *vm, char path[PATH_MAX], struct rpl_err *err)
{
	return rpl_path(path, PATH_MAX, err, "%s/wanted/%s", a->conf->agent.state_dir, vm);
}

int rpl_wanted_set(const struct rpl_agent *a, const char *vm, bool wanted, struct rpl_err *err)
{
	char path[PATH_MAX];
	int r = wanted_path(a, vm, path, err);

	if (r < 0)
		return r;
	if (wanted)
		return rpl_write_file_durably(path, "", 0, 0600, err);
	if (unlink(path) < 0 && errno != ENOENT)
		return rpl_fail_errno(err, errno, "remove %s", path);
	return 0;
}

bool rpl_wanted(const struct rpl_agent *a, const char *vm)
{
	char path[PATH_MAX];

	return wanted_path(a, vm, path, NULL) == 0 && access(path, F_OK) == 0;
}

void rpl_wanted_each(struct rpl_agent *a, void (*fn)(struct rpl_agent *a, const char *vm))
{
	char path[PATH_MAX];
	struct dirent **names;
	int n = wanted_path(a, "", path, NULL) == 0 ? scandir(path, &names, NULL, alphasort) : -1;

	for (int i = 0; i < n; i++) {
		if (rpl_conf_name_ok(names[i]->d_name))
			fn(a, names[i]->d_name);
		free(names[i]);
	}
	if (n >= 0)
		free(names);
}

static int conf_dir(const struct rpl_agent *a, char path[PATH_MAX], struct rpl_err *err)
{
	char copy[PATH_MAX];
	int r = rpl_path(copy, sizeof(copy), err, "%s", a->args.conf_path);

	return r < 0 ? r : rpl_path(path, PATH_MAX, err, "%s/conf.d", dirname(copy));
}

/* What an earlier `protect` wrote: 1; a file of somebody else's: 0; none: -ENOENT. */
static int is_ours(const char *path)
{
	RPL_AUTO_FREE char *text = NULL;
	int r = rpl_read_file(path, RPL_CONF_FILE_MAX, &text, NULL, NULL);

	return r < 0 ? r : strncmp(text, CONF_MARK, strlen(CONF_MARK)) == 0;
}

static char *conf_text(const char *vm, const json_t *set, struct rpl_err *err)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);
	const char *key;
	json_t *value;

	if (!f) {
		(void)rpl_fail(err, -ENOMEM, "no memory");
		return NULL;
	}
	(void)fprintf(f, "%s[vm %s]\n", CONF_MARK, vm);
	json_object_foreach((json_t *)(uintptr_t)set, key, value)
		(void)fprintf(f, "%s = %s\n", key, json_string_value(value));
	if (fclose(f) != 0) {
		free(text);
		(void)rpl_fail(err, -ENOMEM, "no memory");
		return NULL;
	}
	return text;
}

/* One `key = value` each: a line break in one would smuggle in another. */
static int check_set(const json_t *set, struct rpl_err *err)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)set, key, value) {
		if (!json_is_string(value))
			return rpl_fail(err, -EINVAL, "\"set\": %.60s is no string", key);
		if (strpbrk(key, "\r\n=[]") || strpbrk(json_string_value(value), "\r\n"))
			return rpl_fail(err, -EINVAL, "\"set\": %.60s holds a line break", key);
	}
	return 0;
}

int rpl_wanted_write_conf(const struct rpl_agent *a, const char *vm, const json_t *set, bool *ret_new,
			  struct rpl_err *err)
{
	RPL_AUTO_FREE char *text = NULL, *before = NULL;
	char dir[PATH_MAX], path[PATH_MAX];
	struct rpl_conf *tried;
	int r = check_set(set, err);

	if (r == 0)
		r = conf_dir(a, dir, err);
	if (r == 0)
		r = rpl_path(path, sizeof(path), err, "%s/%s.conf", dir, vm);
	if (r == 0)
		r = rpl_mkdir_p(dir, 0755, err);
	if (r < 0)
		return r;
	if (is_ours(path) == 0)
		return rpl_fail(err, -EEXIST, "%s is somebody else's: change it there, then protect without options", path);
	*ret_new = rpl_read_file(path, RPL_CONF_FILE_MAX, &before, NULL, NULL) < 0;
	text = conf_text(vm, set, err);
	if (!text)
		return -ENOMEM;
	r = rpl_write_file_durably(path, text, strlen(text), 0644, err);
	if (r < 0)
		return r;
	tried = rpl_conf_load(a->args.conf_path, err);
	if (tried) {
		rpl_conf_free(tried);
		return 0;
	}
	r = err->code;
	if (*ret_new)
		(void)unlink(path);
	else
		(void)rpl_write_file_durably(path, before, strlen(before), 0644, NULL);
	return r;
}

int rpl_wanted_drop_conf(const struct rpl_agent *a, const char *vm)
{
	char dir[PATH_MAX], path[PATH_MAX];

	if (conf_dir(a, dir, NULL) < 0 || rpl_path(path, sizeof(path), NULL, "%s/%s.conf", dir, vm) < 0)
		return 0;
	return is_ours(path) == 1 && unlink(path) == 0;
}
