#include "qmp_parse.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void qmp_parser_fini(struct qmp_parser *p)
{
	free(p->buf);
	*p = (struct qmp_parser){ 0 };
}

static void drop_consumed(struct qmp_parser *p)
{
	if (p->start == 0)
		return;
	memmove(p->buf, p->buf + p->start, p->len - p->start);
	p->len -= p->start;
	p->seen -= p->start;
	p->start = 0;
}

int qmp_parser_feed(struct qmp_parser *p, const void *data, size_t len, struct rpl_err *err)
{
	size_t cap = p->cap ? p->cap : 16384;
	char *bigger;

	drop_consumed(p);
	if (len > QMP_MESSAGE_MAX || p->len > QMP_MESSAGE_MAX - len)
		return rpl_fail(err, -EMSGSIZE, "QMP: a message of more than %u bytes", QMP_MESSAGE_MAX);
	while (cap < p->len + len)
		cap *= 2;
	if (cap != p->cap) {
		bigger = realloc(p->buf, cap);
		if (!bigger)
			return rpl_fail(err, -ENOMEM, "QMP: no memory for %zu bytes", cap);
		p->buf = bigger;
		p->cap = cap;
	}
	if (len)
		memcpy(p->buf + p->len, data, len);
	p->len += len;
	return 0;
}

/* Look at one byte; true when it ends a top-level object. */
static bool scan_byte(struct qmp_parser *p, char c)
{
	if (p->in_string) {
		if (p->escaped)
			p->escaped = false;
		else if (c == '\\')
			p->escaped = true;
		else if (c == '"')
			p->in_string = false;
		return false;
	}
	if (c == '"')
		p->in_string = true;
	else if (c == '{' || c == '[')
		p->depth++;
	else if (c == '}' || c == ']')
		return --p->depth == 0;
	return false;
}

static bool is_space(char c)
{
	return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

/* 1: [start, seen) is one object; 0: bytes are missing; negative: not QMP. */
static int find_object(struct qmp_parser *p, struct rpl_err *err)
{
	while (p->seen < p->len) {
		char c = p->buf[p->seen];

		if (p->depth == 0) {
			if (is_space(c)) {
				p->start = ++p->seen;
				continue;
			}
			if (c != '{')
				return rpl_fail(err, -EPROTO, "QMP: byte 0x%02x where a message should begin",
						(unsigned char)c);
			p->start = p->seen;
		}
		p->seen++;
		if (scan_byte(p, c))
			return 1;
		if (p->depth > QMP_DEPTH_MAX)
			return rpl_fail(err, -EPROTO, "QMP: more than %d nested values", QMP_DEPTH_MAX);
	}
	return 0;
}

static int classify_error(json_t *error, struct qmp_msg *m, struct rpl_err *err)
{
	m->kind = QMP_ERROR;
	m->name = json_string_value(json_object_get(error, "desc"));
	if (!m->name)
		return rpl_fail(err, -EPROTO, "QMP: an error without a description");
	return 1;
}

static int classify(struct qmp_msg *m, struct rpl_err *err)
{
	json_t *id = json_object_get(m->whole, "id"), *v;

	m->has_id = json_is_integer(id) && json_integer_value(id) >= 0;
	m->id = m->has_id ? (uint64_t)json_integer_value(id) : 0;
	v = json_object_get(m->whole, "error");
	if (v)
		return classify_error(v, m, err);
	m->data = json_object_get(m->whole, "return");
	m->kind = QMP_RETURN;
	if (m->data)
		return 1;
	m->name = json_string_value(json_object_get(m->whole, "event"));
	m->data = json_object_get(m->whole, "data");
	m->kind = QMP_EVENT;
	if (m->name)
		return 1;
	m->data = json_object_get(m->whole, "QMP");
	m->kind = QMP_GREETING;
	if (m->data)
		return 1;
	return rpl_fail(err, -EPROTO, "QMP: a message that is no greeting, return, error or event");
}

int qmp_parser_next(struct qmp_parser *p, struct qmp_msg *ret, struct rpl_err *err)
{
	struct qmp_msg m = { 0 };
	json_error_t why;
	int r = find_object(p, err);

	if (r <= 0)
		return r;
	m.whole = json_loadb(p->buf + p->start, p->seen - p->start, 0, &why);
	p->start = p->seen;
	if (!m.whole)
		return rpl_fail(err, -EPROTO, "QMP: not JSON: %.100s", why.text);
	r = classify(&m, err);
	if (r < 0) {
		qmp_msg_fini(&m);
		return r;
	}
	*ret = m;
	return 1;
}

void qmp_msg_fini(struct qmp_msg *m)
{
	json_decref(m->whole);
	*m = (struct qmp_msg){ 0 };
}
