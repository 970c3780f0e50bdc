/* log.h - one event, one line of key=value
 *
 *   rpl_log(RPL_LOG_INFO, "vm=%s gen=%" PRIu64 " from=%s to=%s reason=\"%s\"", ...);
 *
 * Lines go to stderr, with "<N>" syslog priorities in front when the journal reads it (JOURNAL_STREAM set),
 * else with a time stamp and the program's name. Library rooms log at RPL_LOG_DEBUG only.
 */
#ifndef REPLICAD_LOG_H
#define REPLICAD_LOG_H

#include <stdbool.h>

#include <replicad/err.h>

enum rpl_log_level { RPL_LOG_ERROR = 3, RPL_LOG_WARNING = 4, RPL_LOG_INFO = 6, RPL_LOG_DEBUG = 7 };

/* `ident` names the process in each line ("keeper web1"); it is copied. */
void rpl_log_init(const char *ident, enum rpl_log_level max);
/* Of "error", "warning", "info", "debug"; another word: -EINVAL. */
int rpl_log_level(const char *word);
/* From now on. */
void rpl_log_limit(enum rpl_log_level max);
bool rpl_log_on(enum rpl_log_level level);
void rpl_log_line(enum rpl_log_level level, const char *fmt, ...) RPL_PRINTF(2, 3);
#define rpl_log(level, ...) (rpl_log_on(level) ? rpl_log_line((level), __VA_ARGS__) : (void)0)

#endif
