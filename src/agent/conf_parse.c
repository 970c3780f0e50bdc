/* conf_parse.c - configuration text to values
 *
 * libinih splits lines into names and values. Three of its habits are not ours and are met in read_line(), which
 * hands it one line at a time: it cuts lines, section names and keys that are too long instead of refusing them; it takes an
 * indented line for a continuation of the value above; it says nothing about a section without keys. read_line() also
 * counts the lines, since the library's handler is not told the number.
 */
#include "conf_priv.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <ini.h>

#include <replicad/auto.h>

struct parse {
	struct rpl_conf *c;
	const char *p, *end; /* text that is left */
	int file, line;
	bool failed;
	struct rpl_err *err;
	/* the section that we are in; base is NULL before the first */
	enum rpl_conf_section section;
	void *base;
	struct rpl_conf_origin *origin;
	char section_name[RPL_VM_NAME_MAX];
};

static int fault(struct parse *ps)
{
	ps->failed = true;
	return rpl_prefix(ps->err, "%s:%d", ps->c->files[ps->file], ps->line);
}

/* ---- values */

static int store_int(const struct rpl_conf_key *k, int64_t *field, const char *value, struct rpl_err *err)
{
	char *end;
	long long v;

	errno = 0;
	v = strtoll(value, &end, 10);
	if (!isdigit((unsigned char)value[value[0] == '-']) || *end || errno || v < k->min || v > k->max)
		return rpl_fail(err, -EINVAL, "%s = %.40s: allowed is a whole number from %" PRId64 " to %" PRId64, k->name,
				value, k->min, k->max);
	*field = v;
	return 0;
}

static int store_bool(const struct rpl_conf_key *k, bool *field, const char *value, struct rpl_err *err)
{
	if (strcmp(value, "yes") != 0 && strcmp(value, "no") != 0)
		return rpl_fail(err, -EINVAL, "%s = %.40s: allowed is yes or no", k->name, value);
	*field = value[0] == 'y';
	return 0;
}

static bool is_choice(const char *choices, const char *value)
{
	size_t len = strlen(value);

	for (const char *p = choices; p; p = strchr(p, '|')) {
		p += *p == '|';
		if (strncmp(p, value, len) == 0 && (p[len] == '|' || p[len] == '\0') && len)
			return true;
	}
	return false;
}

static bool all_of(const char *value, const char *more)
{
	for (; *value; value++)
		if (!isalnum((unsigned char)*value) && !strchr(more, *value))
			return false;
	return true;
}

/* What may stand in a text of this type; NULL: fine, else what is allowed. */
static const char *text_rule(const struct rpl_conf_key *k, const char *value, struct rpl_err *err)
{
	char host[RPL_CONF_TEXT_MAX], port[6];
	struct rpl_uuid u;

	for (const char *p = value; *p; p++)
		if (!isprint((unsigned char)*p))
			return "printable ASCII only";
	if (!value[0])
		return k->type == RPL_CONF_ENUM || k->min > 0 ? "it may not be empty" : NULL;
	switch (k->type) {
	case RPL_CONF_NAME:
		return all_of(value, "._-@") ? NULL : "letters, digits, '.', '_', '-' and '@' only";
	case RPL_CONF_LIST:
		return all_of(value, "._-, ") ? NULL : "names with commas between them";
	case RPL_CONF_PATH:
		return value[0] == '/' ? NULL : "an absolute path";
	case RPL_CONF_UUID:
		return rpl_uuid_parse(value, &u, err) == 0 ? NULL : "8-4-4-4-12 hexadecimal digits";
	case RPL_CONF_ADDR:
		return rpl_conf_address(value, host, port, err) == 0 ? NULL : "host, host:port or [v6]:port";
	default:
		return NULL;
	}
}

int rpl_conf_store(const struct rpl_conf_key *k, void *base, const char *value, struct rpl_err *err)
{
	void *field = (char *)base + k->offset;
	const char *rule;
	size_t len = strlen(value);

	if (k->type == RPL_CONF_INT)
		return store_int(k, field, value, err);
	if (k->type == RPL_CONF_BOOL)
		return store_bool(k, field, value, err);
	if (k->type == RPL_CONF_ENUM) {
		if (!is_choice(k->choices, value) || strchr(value, '|'))
			return rpl_fail(err, -EINVAL, "%s = %.40s: allowed is %s", k->name, value, k->choices);
	} else if (len > (size_t)k->max) {
		return rpl_fail(err, -EINVAL, "%s = %.40s...: %zu bytes, allowed are %" PRId64, k->name, value, len, k->max);
	}
	rule = text_rule(k, value, err);
	if (rule)
		return rpl_fail(err, -EINVAL, "%s = %.40s: allowed is: %s", k->name, value, rule);
	rpl_assert(len < RPL_CONF_TEXT_MAX);
	memcpy(field, value, len + 1);
	return 0;
}

int rpl_conf_address(const char *text, char *ret_host, char *ret_port, struct rpl_err *err)
{
	const char *colon = strrchr(text, ':'), *host = text, *port = NULL;
	size_t host_len = strlen(text);
	long number;
	char *end;

	if (text[0] == '[') {
		const char *close = strchr(text, ']');

		if (!close || (close[1] && close[1] != ':'))
			return rpl_fail(err, -EINVAL, "'%.64s' is no address: ']' is missing or not followed by ':'", text);
		host = text + 1;
		host_len = (size_t)(close - host);
		port = close[1] ? close + 2 : NULL;
	} else if (colon && strchr(text, ':') == colon) { /* more than one colon: a bare IPv6 address */
		host_len = (size_t)(colon - text);
		port = colon + 1;
	}
	if (host_len >= RPL_CONF_TEXT_MAX || strcspn(host, " /\t") < host_len)
		return rpl_fail(err, -EINVAL, "'%.64s' is no host name or address", text);
	if (!port) {
		(void)snprintf(ret_port, 6, "%d", RPL_LINK_PORT);
	} else {
		number = strtol(port, &end, 10);
		if (!isdigit((unsigned char)*port) || *end || number < 0 || number > 65535)
			return rpl_fail(err, -EINVAL, "'%.64s': port '%.16s' is not a number from 0 to 65535", text, port);
		(void)snprintf(ret_port, 6, "%u", (unsigned)number & 0xffffu);
	}
	memcpy(ret_host, host, host_len);
	ret_host[host_len] = '\0';
	return 0;
}

/* ---- lines */

static int enter_named(struct parse *ps, const char *kind, const char *name)
{
	struct rpl_conf_origin *at;

	if (!rpl_conf_name_ok(name))
		return rpl_fail(ps->err, -EINVAL, "[%s %.64s]: a name is at most %d letters, digits, '.', '_' and '-'", kind,
				name, RPL_VM_NAME_MAX - 1);
	if (strcmp(kind, "vm") == 0) {
		struct rpl_conf_vm *vm = rpl_conf_add_vm(ps->c, name, ps->err);

		if (!vm)
			return ps->err ? ps->err->code : -ENOMEM;
		ps->section = RPL_CONF_VM;
		ps->base = vm;
		ps->origin = vm->origin;
		at = &vm->at;
	} else {
		struct rpl_conf_peer *p = rpl_conf_add_peer(ps->c, name, ps->err);

		if (!p)
			return ps->err ? ps->err->code : -ENOMEM;
		ps->section = RPL_CONF_PEER;
		ps->base = p;
		ps->origin = p->origin;
		at = &p->at;
	}
	if (!at->line)
		*at = (struct rpl_conf_origin){ ps->file, ps->line };
	(void)snprintf(ps->section_name, sizeof(ps->section_name), "%s", name);
	return 0;
}

/* `line` begins with '['. */
static int enter_section(struct parse *ps, const char *line)
{
	const char *close = strchr(line, ']');
	char text[RPL_CONF_TEXT_MAX], *name;
	size_t len;

	if (!close)
		return rpl_fail(ps->err, -EINVAL, "'%.40s': ']' is missing", line);
	len = (size_t)(close - line - 1);
	if (close[1 + strspn(close + 1, " \t\r")] && !strchr(";#", close[1 + strspn(close + 1, " \t\r")]))
		return rpl_fail(ps->err, -EINVAL, "'%.40s': something stands behind ']'", line);
	if (len >= sizeof(text))
		return rpl_fail(ps->err, -EINVAL, "'%.40s...': a section's name has at most %d bytes", line, RPL_VM_NAME_MAX - 1);
	memcpy(text, line + 1, len);
	text[len] = '\0';
	if (strcmp(text, "agent") == 0) {
		ps->section = RPL_CONF_AGENT;
		ps->base = &ps->c->agent;
		ps->origin = ps->c->agent.origin;
		ps->section_name[0] = '\0';
		return 0;
	}
	name = strchr(text, ' ');
	if (name)
		*name++ = '\0';
	if (!name || (strcmp(text, "vm") != 0 && strcmp(text, "peer") != 0))
		return rpl_fail(ps->err, -EINVAL, "unknown section [%.60s%s%.60s]; allowed are [agent], [peer NAME] and [vm NAME]",
				text, name ? " " : "", name ? name : "");
	return enter_named(ps, text, name + strspn(name, " "));
}

/* ini_reader: one line, without leading white space; NULL at the end or after a fault. */
static char *read_line(char *buf, int size, void *arg)
{
	struct parse *ps = arg;
	const char *eol, *from = ps->p;
	size_t len;

	if (ps->failed || ps->p == ps->end)
		return NULL;
	ps->line++;
	eol = memchr(from, '\n', (size_t)(ps->end - from));
	if (!eol)
		eol = ps->end;
	ps->p = eol < ps->end ? eol + 1 : eol;
	while (from < eol && (*from == ' ' || *from == '\t'))
		from++;
	len = (size_t)(eol - from);
	if (memchr(from, '\0', len)) {
		(void)rpl_fail(ps->err, -EINVAL, "a NUL byte; a configuration is text");
		(void)fault(ps);
		return NULL;
	}
	if (len + 2 > (size_t)size) {
		/* comments may be as long as they like */
		if (*from != '#' && *from != ';') {
			(void)rpl_fail(ps->err, -EINVAL, "a line of %zu bytes, allowed are %d", len, size - 2);
			(void)fault(ps);
			return NULL;
		}
		len = 1;
	}
	memcpy(buf, from, len);
	buf[len] = '\n';
	buf[len + 1] = '\0';
	if (buf[0] == '[') {
		buf[len] = '\0';
		if (enter_section(ps, buf) < 0) {
			(void)fault(ps);
			return NULL;
		}
		buf[0] = '#'; /* the library need not see it: its section names are shorter than ours */
	}
	return buf;
}

static int set_key(struct parse *ps, const char *name, const char *value)
{
	const struct rpl_conf_key *keys;
	size_t n;

	if (!ps->base)
		return rpl_fail(ps->err, -EINVAL, "'%.40s' stands before the first section, which is [agent], [peer NAME] or [vm NAME]",
				name);
	if (value[0] == ';') /* with a space before it, it would be one: the two must not mean different things */
		return rpl_fail(ps->err, -EINVAL, "%.40s = %.60s: a value does not begin with ';', which begins a comment", name, value);
	keys = rpl_conf_keys(ps->section, &n);
	for (size_t i = 0; i < n; i++) {
		if (strcmp(keys[i].name, name) != 0)
			continue;
		if (ps->origin[i].line && ps->origin[i].file == ps->file)
			return rpl_fail(ps->err, -EINVAL, "%s is set twice in this file, before in line %d", name,
					ps->origin[i].line);
		ps->origin[i] = (struct rpl_conf_origin){ ps->file, ps->line };
		return rpl_conf_store(&keys[i], ps->base, value, ps->err);
	}
	return rpl_fail(ps->err, -EINVAL, "unknown key '%.40s' in section [%s%s%s]; see replicad.conf(5)", name,
			rpl_conf_section_name(ps->section), ps->section_name[0] ? " " : "", ps->section_name);
}

static int on_key(void *arg, const char *section, const char *name, const char *value)
{
	struct parse *ps = arg;

	(void)section; /* read_line() knows better */
	if (ps->failed)
		return 0;
	if (set_key(ps, name, value) < 0) {
		(void)fault(ps);
		return 0;
	}
	return 1;
}

static int add_file(struct rpl_conf *c, const char *file, struct rpl_err *err)
{
	char **more = realloc(c->files, (c->n_files + 1) * sizeof(*more));

	if (more)
		c->files = more;
	if (!more || !(more[c->n_files] = strdup(file)))
		return rpl_fail(err, -ENOMEM, "%s: no memory", file);
	return (int)c->n_files++;
}

int rpl_conf_parse(struct rpl_conf *c, const char *file, const char *text, size_t len, struct rpl_err *err)
{
	struct rpl_err local;
	struct parse ps = { .c = c, .p = text, .end = text + len, .err = err ? err : &local };
	int r;

	if (len > RPL_CONF_FILE_MAX)
		return rpl_fail(err, -EINVAL, "%s: %zu bytes, allowed are %d", file, len, RPL_CONF_FILE_MAX);
	ps.file = add_file(c, file, ps.err);
	if (ps.file < 0)
		return ps.file;
	r = ini_parse_stream(read_line, &ps, on_key, &ps);
	if (ps.failed)
		return ps.err->code;
	if (r > 0) {
		ps.line = r;
		(void)rpl_fail(ps.err, -EINVAL, "this is neither [section], key = value, nor a comment");
		return fault(&ps);
	}
	return r < 0 ? rpl_fail(err, -ENOMEM, "%s: no memory", file) : 0;
}
