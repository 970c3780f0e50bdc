#include <replicad/log.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <replicad/auto.h>

static struct {
	char ident[64];
	enum rpl_log_level max;
	bool journal;
} log_conf = { .ident = "replicad", .max = RPL_LOG_INFO };

void rpl_log_init(const char *ident, enum rpl_log_level max)
{
	(void)snprintf(log_conf.ident, sizeof(log_conf.ident), "%s", ident);
	log_conf.max = max;
	log_conf.journal = getenv("JOURNAL_STREAM") != NULL;
}

void rpl_log_limit(enum rpl_log_level max)
{
	log_conf.max = max;
}

int rpl_log_level(const char *word)
{
	static const struct {
		const char *word;
		enum rpl_log_level level;
	} levels[] = { { "error", RPL_LOG_ERROR }, { "warning", RPL_LOG_WARNING }, { "info", RPL_LOG_INFO }, { "debug", RPL_LOG_DEBUG } };

	for (size_t i = 0; i < RPL_ARRAY_LEN(levels); i++)
		if (strcmp(levels[i].word, word) == 0)
			return (int)levels[i].level;
	return -EINVAL;
}

bool rpl_log_on(enum rpl_log_level level)
{
	return level <= log_conf.max;
}

static size_t put_prefix(char *line, size_t cap, enum rpl_log_level level)
{
	struct timespec ts;
	struct tm tm;
	char when[32];
	int n;

	if (log_conf.journal) {
		n = snprintf(line, cap, "<%d>%s: ", (int)level, log_conf.ident);
		return (size_t)n;
	}
	(void)clock_gettime(CLOCK_REALTIME, &ts);
	(void)gmtime_r(&ts.tv_sec, &tm);
	(void)strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", &tm);
	n = snprintf(line, cap, "%s.%03ldZ %s[%d]: ", when, ts.tv_nsec / 1000000, log_conf.ident, (int)getpid());
	return (size_t)n;
}

void rpl_log_line(enum rpl_log_level level, const char *fmt, ...)
{
	char line[1024];
	size_t used = put_prefix(line, sizeof(line), level);
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line + used, sizeof(line) - used - 1, fmt, ap);
	va_end(ap);
	if (n > 0)
		used += (size_t)n;
	if (used > sizeof(line) - 2)
		used = sizeof(line) - 2;
	line[used++] = '\n';
	/* One write a line, so that lines of several processes on one descriptor do not mix. A log that cannot
	 * be written is no reason to stop protecting. */
	if (write(STDERR_FILENO, line, used) < 0)
		return;
}
