/* xl_handshake.h - the fixed messages of a stock xl migration
 *
 *   receiver                              sender
 *   XL_BANNER, without its NUL      ->
 *                                   <-    xl header, configuration, stream up to END
 *   XL_READY, with its NUL          ->
 *                                   <-    XL_GO, with its NUL: from here on the domain is the receiver's
 *   XL_REPORT, with its NUL, and a byte: 0 it runs; else an errno, and when the receiver's copy is gone
 *   XL_GO                           ->    the domain is the sender's again
 */
#ifndef RPL_CLI_XL_HANDSHAKE_H
#define RPL_CLI_XL_HANDSHAKE_H

#define XL_BANNER "xl migration receiver ready, send binary domain data.\n"
#define XL_BANNER_LEN (sizeof(XL_BANNER) - 1)
#define XL_READY "domain received, ready to unpause"
#define XL_GO "domain is yours, you are cleared to unpause"
#define XL_REPORT "my copy unpause results are as follows"
_Static_assert(XL_BANNER_LEN == 54, "banner");
_Static_assert(sizeof(XL_READY) == 34, "ready");
_Static_assert(sizeof(XL_GO) == 44, "go");
_Static_assert(sizeof(XL_REPORT) == 39, "report");

#endif
