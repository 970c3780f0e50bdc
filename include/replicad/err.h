/* err.h - what went wrong, as a code for the program and a sentence for the person
 *
 * A function that can fail returns 0 (or a count) or a negative errno, and fills *err with a sentence that
 * names the object, the operation and the values that disagreed. Callers add context by prefixing.
 */
#ifndef REPLICAD_ERR_H
#define REPLICAD_ERR_H

#include <stdarg.h>

#define RPL_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define RPL_NORETURN __attribute__((noreturn))

struct rpl_err {
	int code;      /* negative errno, 0 while nothing failed */
	char msg[240]; /* one sentence, no newline; cut if too long, and then it ends in "..." */
};

/* Fill *err (which may be NULL) and return `code`, a negative errno. */
int rpl_fail(struct rpl_err *err, int code, const char *fmt, ...) RPL_PRINTF(3, 4);

/* As rpl_fail() with code = -errno_value; ": strerror" is appended. */
int rpl_fail_errno(struct rpl_err *err, int errno_value, const char *fmt, ...) RPL_PRINTF(3, 4);

/* Put "prefix: " before an error that is already set; returns err->code. */
int rpl_prefix(struct rpl_err *err, const char *fmt, ...) RPL_PRINTF(2, 3);

/* Our own broken invariant: log and abort. Stays on in release builds. */
RPL_NORETURN void rpl_assert_failed(const char *expr, const char *file, int line, const char *func);
#define rpl_assert(e) ((e) ? (void)0 : rpl_assert_failed(#e, __FILE__, __LINE__, __func__))

#endif
