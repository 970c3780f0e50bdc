/* qmp_parse.h - bytes from a QMP socket become messages; pure, bounded, for a peer that may be hostile */
#ifndef RPL_GUEST_QMP_PARSE_H
#define RPL_GUEST_QMP_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include <replicad/err.h>

#define QMP_MESSAGE_MAX (8u * 1024 * 1024) /* bytes of one message; `info mtree -f` of large guests has hundreds of KiB */
#define QMP_DEPTH_MAX 64                   /* nested objects and arrays */

enum qmp_kind { QMP_GREETING, QMP_RETURN, QMP_ERROR, QMP_EVENT };

struct qmp_msg {
	enum qmp_kind kind;
	bool has_id;
	uint64_t id;       /* RETURN, ERROR */
	const char *name;  /* EVENT: its name; ERROR: the description */
	json_t *data;      /* GREETING: the QMP object; RETURN: the value; EVENT: its data or NULL */
	json_t *whole;     /* owns all of the above; qmp_msg_fini() drops it */
};

/* Messages are top-level JSON objects, found by their braces, so that both the compact and the pretty monitor work. */
struct qmp_parser {
	char *buf;
	size_t len, cap;  /* bytes held */
	size_t start;     /* where the message under way begins */
	size_t seen;      /* bytes that the scanner has looked at */
	unsigned depth;
	bool in_string, escaped;
};

void qmp_parser_fini(struct qmp_parser *p);
/* Add bytes. 0, or a negative errno: more than QMP_MESSAGE_MAX without a message's end, or no memory. */
int qmp_parser_feed(struct qmp_parser *p, const void *data, size_t len, struct rpl_err *err);
/* The next whole message: 1 and *ret (to be given to qmp_msg_fini()), 0 if bytes are missing, or a negative errno for
 * bytes that are not QMP; the connection is useless then. */
int qmp_parser_next(struct qmp_parser *p, struct qmp_msg *ret, struct rpl_err *err);
void qmp_msg_fini(struct qmp_msg *m);

#endif
