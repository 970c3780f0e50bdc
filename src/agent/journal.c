/* journal.c - events: the last ones in memory, all of them in state_dir, each to those who follow */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include <replicad/auto.h>
#include <replicad/io.h>
#include <replicad/log.h>

#define EVENTS_KEPT 1024                 /* in memory */
#define JOURNAL_MAX (4 * 1024 * 1024)    /* bytes, then events.jsonl becomes events.jsonl.1 */
#define JOURNAL_LINE_MAX (RPL_KEEPER_MSG_MAX + 512)

struct rpl_journal {
	json_t *kept[EVENTS_KEPT]; /* ring: seq % EVENTS_KEPT */
	uint64_t next_seq;
	int fd;
	off_t size;
	char path[PATH_MAX];
};

static void keep(struct rpl_journal *j, json_t *event)
{
	json_t **slot = &j->kept[j->next_seq++ % EVENTS_KEPT];

	json_decref(*slot);
	*slot = event;
}

/* Take over what an earlier agent wrote. A line that was cut by a crash is left out. */
static void load(struct rpl_journal *j)
{
	RPL_AUTO_FREE char *text = NULL;
	size_t len;

	if (rpl_read_file(j->path, JOURNAL_MAX + JOURNAL_LINE_MAX, &text, &len, NULL) < 0)
		return;
	for (char *p = text, *eol; (eol = strchr(p, '\n')); p = eol + 1) {
		json_t *event = json_loadb(p, (size_t)(eol - p), 0, NULL), *seq = json_object_get(event, "seq");

		if (json_integer_value(seq) < (json_int_t)j->next_seq) {
			json_decref(event);
			continue;
		}
		j->next_seq = (uint64_t)json_integer_value(seq);
		keep(j, event);
	}
}

static int open_file(struct rpl_journal *j, struct rpl_err *err)
{
	struct stat st;

	j->fd = open(j->path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
	if (j->fd < 0 || fstat(j->fd, &st) < 0)
		return rpl_fail_errno(err, errno, "open %s", j->path);
	j->size = st.st_size;
	return 0;
}

struct rpl_journal *rpl_journal_open(const char *state_dir, struct rpl_err *err)
{
	struct rpl_journal *j = calloc(1, sizeof(*j));

	if (!j) {
		(void)rpl_fail(err, -ENOMEM, "no memory for %d events", EVENTS_KEPT);
		return NULL;
	}
	j->fd = -1;
	j->next_seq = 1;
	if (rpl_path(j->path, sizeof(j->path), err, "%s/events.jsonl", state_dir) < 0)
		goto fail;
	load(j);
	if (open_file(j, err) < 0)
		goto fail;
	return j;
fail:
	rpl_journal_close(j);
	return NULL;
}

void rpl_journal_close(struct rpl_journal *j)
{
	if (!j)
		return;
	for (size_t i = 0; i < EVENTS_KEPT; i++)
		json_decref(j->kept[i]);
	rpl_close(&j->fd);
	free(j);
}

static void rotate(struct rpl_journal *j)
{
	char old[PATH_MAX + 8];
	struct rpl_err err;

	(void)snprintf(old, sizeof(old), "%s.1", j->path);
	rpl_close(&j->fd);
	if (rename(j->path, old) < 0)
		rpl_log(RPL_LOG_WARNING, "msg=\"rename %s: %s\"", j->path, strerror(errno));
	if (open_file(j, &err) < 0)
		rpl_log(RPL_LOG_ERROR, "msg=\"%s\"", err.msg);
}

static void write_line(struct rpl_journal *j, const json_t *event)
{
	RPL_AUTO_FREE char *text = json_dumps(event, JSON_COMPACT);
	size_t len = text ? strlen(text) : 0;

	if (!text || j->fd < 0)
		return;
	text[len++] = '\n'; /* in place of the NUL, which nobody needs */
	if (j->size + (off_t)len > JOURNAL_MAX)
		rotate(j);
	/* An event that cannot be written is still told and kept; the guest's protection does not depend on it. */
	if (j->fd >= 0 && rpl_write_full(j->fd, text, len) < 0)
		rpl_log(RPL_LOG_WARNING, "msg=\"write %s: %s\"", j->path, strerror(errno));
	j->size += (off_t)len;
}

static void stamp(struct rpl_agent *a, json_t *event)
{
	struct timespec ts;
	struct tm tm;
	char day[32], text[48];

	(void)clock_gettime(CLOCK_REALTIME, &ts);
	(void)gmtime_r(&ts.tv_sec, &tm);
	(void)strftime(day, sizeof(day), "%Y-%m-%dT%H:%M:%S", &tm);
	(void)snprintf(text, sizeof(text), "%s.%03ldZ", day, ts.tv_nsec / 1000000);
	(void)json_object_set_new(event, "seq", json_integer((json_int_t)a->journal->next_seq));
	(void)json_object_set_new(event, "time", json_string(text));
	(void)json_object_set_new(event, "node", json_string(a->conf->agent.node));
}

void rpl_agent_event(struct rpl_agent *a, json_t *event)
{
	const char *vm = json_string_value(json_object_get(event, "vm"));

	if (!event)
		return;
	stamp(a, event);
	write_line(a->journal, event);
	keep(a->journal, event);
	if (a->server)
		rpl_server_event(a->server, vm ? vm : "", event);
}

void rpl_agent_note(struct rpl_agent *a, const char *event, const char *vm, const char *fmt, ...)
{
	char message[400];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	rpl_log(RPL_LOG_INFO, "%s%s%sevent=%s reason=\"%s\"", vm ? "vm=" : "", vm ? vm : "", vm ? " " : "", event, message);
	rpl_agent_event(a, vm ? json_pack("{s:s, s:s, s:s}", "event", event, "vm", vm, "message", message)
			      : json_pack("{s:s, s:s}", "event", event, "message", message));
}

json_t *rpl_journal_tail(const struct rpl_journal *j, const char *vm, size_t limit)
{
	uint64_t first = j->next_seq > EVENTS_KEPT ? j->next_seq - EVENTS_KEPT : 1;
	json_t *list = json_array();

	for (uint64_t seq = j->next_seq; seq-- > first && json_array_size(list) < limit;) {
		json_t *e = j->kept[seq % EVENTS_KEPT];
		const char *of = json_string_value(json_object_get(e, "vm"));

		if (e && (!vm[0] || (of && strcmp(of, vm) == 0)))
			(void)json_array_insert(list, 0, e);
	}
	return list;
}
