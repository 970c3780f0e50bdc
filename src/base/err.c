#include <replicad/err.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <replicad/log.h>

#define CUT "..."

/* Of a text that had `used` bytes, so many more were wanted: whoever reads it is to see that there was more. */
static void mark_cut(struct rpl_err *err, size_t used, int more)
{
	if (more < 0 || used + (size_t)more >= sizeof(err->msg))
		memcpy(err->msg + sizeof(err->msg) - sizeof(CUT), CUT, sizeof(CUT));
}

RPL_PRINTF(3, 0) static int fail_va(struct rpl_err *err, int code, const char *fmt, va_list ap)
{
	if (err) {
		err->code = code;
		mark_cut(err, 0, vsnprintf(err->msg, sizeof(err->msg), fmt, ap));
	}
	return code;
}

int rpl_fail(struct rpl_err *err, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)fail_va(err, code, fmt, ap);
	va_end(ap);
	return code;
}

int rpl_fail_errno(struct rpl_err *err, int errno_value, const char *fmt, ...)
{
	va_list ap;
	size_t used;

	va_start(ap, fmt);
	(void)fail_va(err, -errno_value, fmt, ap);
	va_end(ap);
	if (err) {
		used = strlen(err->msg);
		mark_cut(err, used, snprintf(err->msg + used, sizeof(err->msg) - used, ": %s", strerror(errno_value)));
	}
	return -errno_value;
}

int rpl_prefix(struct rpl_err *err, const char *fmt, ...)
{
	struct rpl_err inner;
	va_list ap;
	size_t used;

	if (!err)
		return -EIO;
	inner = *err;
	va_start(ap, fmt);
	(void)fail_va(err, inner.code, fmt, ap);
	va_end(ap);
	used = strlen(err->msg);
	mark_cut(err, used, snprintf(err->msg + used, sizeof(err->msg) - used, ": %s", inner.msg));
	return err->code;
}

void rpl_assert_failed(const char *expr, const char *file, int line, const char *func)
{
	rpl_log(RPL_LOG_ERROR, "assertion=\"%s\" at=%s:%d function=%s", expr, file, line, func);
	abort();
}
