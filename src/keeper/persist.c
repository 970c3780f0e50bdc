/* persist.c - DIR/past.json: what the next keeper of this VM must know */
#include "keeper.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/control.h>
#include <replicad/io.h>
#include <replicad/log.h>
#include <replicad/process.h>

#define PAST_BYTES_MAX 4096

static char *past_path(const char *dir)
{
	char *path;

	return asprintf(&path, "%s/" RPL_KEEPER_PAST, dir) < 0 ? NULL : path;
}

static bool in_state(const json_t *doc, enum rpl_state state)
{
	const char *text = json_string_value(json_object_get(doc, "state"));

	return text && strcmp(text, rpl_state_name(state)) == 0;
}

/* All of it or nothing: half a list would leave the rest for good. */
static void load_made(const json_t *doc, struct keeper_made *ret)
{
	const json_t *made = json_object_get(doc, "made"), *files = json_object_get(made, "files"), *o;
	struct keeper_made m = { .pid = (pid_t)json_integer_value(json_object_get(made, "pid")),
				 .started = (uint64_t)json_integer_value(json_object_get(made, "started")) };
	size_t i;

	json_array_foreach(files, i, o) {
		const char *path = json_string_value(json_object_get(o, "path"));
		struct made_file *f = &m.file[m.n];

		if (m.n == RPL_GUEST_MADE_MAX || !path || rpl_path(f->path, sizeof(f->path), NULL, "%s", path) < 0)
			return;
		f->dev = (dev_t)json_integer_value(json_object_get(o, "dev"));
		f->ino = (ino_t)json_integer_value(json_object_get(o, "ino"));
		m.n++;
	}
	*ret = m;
}

static json_t *dump_made(const struct keeper_made *m)
{
	json_t *files = json_array();

	for (size_t i = 0; i < m->n; i++)
		(void)json_array_append_new(files, json_pack("{s:s, s:I, s:I}", "path", m->file[i].path, "dev",
							     (json_int_t)m->file[i].dev, "ino", (json_int_t)m->file[i].ino));
	return json_pack("{s:i, s:I, s:o}", "pid", (int)m->pid, "started", (json_int_t)m->started, "files", files);
}

void keeper_past_load(const char *dir, struct keeper_past *ret)
{
	RPL_AUTO_FREE char *path = past_path(dir), *text = NULL;
	json_t *doc;

	*ret = (struct keeper_past){ 0 };
	if (!path || rpl_read_file(path, PAST_BYTES_MAX, &text, NULL, NULL) < 0)
		return;
	doc = json_loads(text, 0, NULL);
	if (json_is_object(doc)) {
		ret->known = true;
		ret->guest_pid = (pid_t)json_integer_value(json_object_get(doc, "guest_pid"));
		ret->guest_started = (uint64_t)json_integer_value(json_object_get(doc, "guest_started"));
		ret->guest_life = (uint64_t)json_integer_value(json_object_get(doc, "guest_life"));
		ret->epoch = (uint64_t)json_integer_value(json_object_get(doc, "epoch"));
		load_made(doc, &ret->made);
		ret->want = json_is_true(json_object_get(doc, "want"));
		ret->down = in_state(doc, RPL_ST_P_DOWN);
		ret->promoting = in_state(doc, RPL_ST_B_PROMOTE);
		ret->mover_pid = (pid_t)json_integer_value(json_object_get(doc, "mover_pid"));
		ret->mover_started = (uint64_t)json_integer_value(json_object_get(doc, "mover_started"));
	}
	json_decref(doc);
}

void keeper_past_save(const struct keeper *k)
{
	RPL_AUTO_FREE char *path = past_path(k->conf.dir), *text = NULL;
	pid_t pid = k->standby.ready ? 0 : rpl_guest_pid(k->guest);
	pid_t mover = k->standby.ready ? movers_pid(k->movers) : 0;
	uint64_t life = k->guest_here && !k->standby.ready ? rpl_guest_info(k->guest)->life : 0;
	json_t *doc = json_pack("{s:i, s:s, s:I, s:I, s:I, s:I, s:b, s:I, s:I, s:o}", "v", 1, "state", rpl_state_name(k->core.state),
				"guest_pid", (json_int_t)pid, "guest_started", (json_int_t)rpl_process_start_time(pid),
				"guest_life", (json_int_t)life, "epoch", (json_int_t)k->core.epoch, "want", k->core.want ? 1 : 0,
				"mover_pid", (json_int_t)mover, "mover_started",
				(json_int_t)rpl_process_start_time(mover), "made", dump_made(&k->made));
	struct rpl_err err;

	text = json_dumps(doc, JSON_COMPACT);
	json_decref(doc);
	/* The directory is on tmpfs: this is about the next keeper, not about the next boot. */
	if (path && text && rpl_write_file_durably(path, text, strlen(text), 0600, &err) < 0)
		rpl_log(RPL_LOG_WARNING, "vm=%s past=lost reason=\"%s\"", k->conf.vm, err.msg);
}

void keeper_past_forget(const struct keeper *k)
{
	RPL_AUTO_FREE char *path = past_path(k->conf.dir);

	if (path)
		(void)unlink(path);
}
