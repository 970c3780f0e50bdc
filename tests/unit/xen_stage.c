#include "xen_stage.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include <replicad/io.h>

#define PATH_MAX_HERE 96 /* a template below /tmp, and a name in it */

static void put(const char *path, const char *text, mode_t mode)
{
	struct rpl_err err = { 0 };

	if (rpl_write_file_durably(path, text, strlen(text), mode, &err) < 0)
		fail_msg("%s", err.msg);
}

void stage_file(const char *path, const char *text)
{
	put(path, text, 0644);
}

void stage_dir(char *dir)
{
	char *search;

	assert_non_null(mkdtemp(dir));
	assert_true(asprintf(&search, "%s:%s", dir, getenv("PATH")) > 0);
	assert_int_equal(setenv("PATH", search, 1), 0);
	free(search);
}

void stage_xl(char *dir, const char *script)
{
	char path[PATH_MAX_HERE];

	stage_dir(dir);
	(void)snprintf(path, sizeof(path), "%s/xl", dir);
	put(path, script, 0755);
}

void stage_create(const struct stage_fake_xl *s, const char *create)
{
	char path[PATH_MAX_HERE];

	(void)snprintf(path, sizeof(path), "%s/create.json", s->domains);
	stage_file(path, create);
}

void stage_fake_xl(char *dir, const char *conf, const char *create, struct stage_fake_xl *ret)
{
	const char *src = getenv("top_srcdir"), *build = getenv("top_builddir");
	char to[PATH_MAX_HERE], from[512];

	stage_dir(dir);
	(void)snprintf(ret->domains, sizeof(ret->domains), "%s/domains", dir);
	(void)snprintf(ret->conf, sizeof(ret->conf), "%s/web1", dir);
	(void)snprintf(to, sizeof(to), "%s/xl", dir);
	(void)snprintf(from, sizeof(from), "%s/tests/lib/fake_xl.py", src ? src : "..");
	(void)snprintf(ret->helper, sizeof(ret->helper), "%s/replicad-xen-restore", build ? build : ".");
	assert_int_equal(mkdir(ret->domains, 0700), 0);
	assert_int_equal(symlink(from, to), 0);
	(void)setenv("FAKE_XL", ret->domains, 1);
	stage_file(ret->conf, conf);
	stage_create(ret, create);
}

int stage_fake_xl_end(const char *dir)
{
	char cmd[PATH_MAX_HERE];

	(void)snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	return system(cmd);
}

int stage_xl_end(const char *dir, const char *domain)
{
	static const char *const notes[] = { "paused", "suspend-port" };
	char path[PATH_MAX_HERE];

	(void)snprintf(path, sizeof(path), "%s/xl", dir);
	(void)unlink(path);
	for (size_t i = 0; i < sizeof(notes) / sizeof(notes[0]); i++) {
		(void)snprintf(path, sizeof(path), "%s/%s.%s", dir, domain, notes[i]);
		(void)unlink(path);
	}
	return rmdir(dir);
}
