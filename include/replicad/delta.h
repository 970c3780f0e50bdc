/* delta.h - a page as what changed in it since it was last sent
 *
 * A delta is u32 check, u16 length of its runs in bytes, then the runs: u16 offset, u16 length, and so many bytes that take
 * the place of the page's own. Little-endian. There is at least one run; they ascend and do not touch.
 *
 * Runs replace bytes and do not combine with them, so storing a delta again, or after a store that was cut short, gives
 * the same page: folding stays idempotent. `check` is of the whole page as it is to become: a delta that is stored
 * over another page than the one it was made from is found.
 */
#ifndef REPLICAD_DELTA_H
#define REPLICAD_DELTA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <replicad/err.h>

#define RPL_DELTA_HEAD 6
#define RPL_DELTA_RUN_HEAD 4
#define RPL_DELTA_MAX 3072 /* the longest, with its head: a page with more changes than this is sent whole */
#define RPL_DELTA_TOO_LONG SIZE_MAX

/* 32 bits of XXH64: finds damage and mistakes, not forgery. */
uint32_t rpl_page_check(const void *page);

bool rpl_page_equal(const void *a, const void *b);

/* What changed from *base to *page, into `ret` of RPL_DELTA_MAX bytes; *base becomes *page, whatever is returned: the length;
 * 0 if nothing changed; RPL_DELTA_TOO_LONG. The two pages do not overlap. */
size_t rpl_delta_make(const void *page, void *base, uint8_t *ret);

/* Is there a delta at the beginning of these `avail` bytes? Its length, or 0 and *err. */
size_t rpl_delta_check(const void *delta, size_t avail, struct rpl_err *err);

/* Store it over `page`. -EBADMSG: no delta (the page is untouched), or the page that results is not the one that was
 * meant (it is wrong then, and so is whatever it belongs to). */
int rpl_delta_apply(void *page, const void *delta, size_t avail, struct rpl_err *err);

#endif
