/* record_text.h - the record as the arbiter stores it: one line of JSON with a format number
 *
 *   {"format":1,"vm":"6ba7…","generation":7,"owner":"alpha","mode":"PROTECTED","session":"…","nonce":"…"}
 *
 * Exactly these keys. Another format number is refused, never guessed at: a newer replicad knows more than we do.
 */
#ifndef RPL_ARBITER_RECORD_TEXT_H
#define RPL_ARBITER_RECORD_TEXT_H

#include <stddef.h>

#include <replicad/err.h>
#include <replicad/record.h>

#define RPL_RECORD_TEXT_MAX 1024 /* with the newline */

/* Write the line with its newline and a NUL. Returns its length or -EINVAL for a record that must not be stored. */
int rpl_record_encode(const struct rpl_record *record, char text[RPL_RECORD_TEXT_MAX], struct rpl_err *err);
/* Returns 0, -EPROTONOSUPPORT for another format, or -EBADMSG. */
int rpl_record_decode(const char *text, size_t len, struct rpl_record *ret, struct rpl_err *err);

#endif
