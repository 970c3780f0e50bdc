/* xen_standby_xl.h - run the toolstack's own command, `xl`, and feed it a stream
 *
 * Why the command and not libxl: the standby's definition is a file in xl's language, which only xl reads; xl leaves the
 * monitor behind that carries out on_poweroff, on_reboot and on_crash; and nothing here has to be rebuilt for another Xen.
 * `xl` is found in PATH. Blocking: for commands and short-lived programs, not for a keeper's loop.
 */
#ifndef RPL_XEN_STANDBY_XL_H
#define RPL_XEN_STANDBY_XL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <replicad/err.h>

#define XL_SAID_MAX 65536        /* bytes of what it said that are kept */
#define XL_DOMAIN_OVERHEAD_MIB 32 /* page tables, log-dirty, rings: what Xen needs for a domain beside its memory */
#define XL_STDIN "/proc/self/fd/0" /* a file name for xl that means its standard input */

struct xl_run {
	pid_t pid;
	int feed; /* its standard input, for writing; -1: it has none */
	int said; /* memfd with its standard output and error */
	char what[32];
};
#define XL_RUN_NONE { .pid = 0, .feed = -1, .said = -1 }

/* Start `xl` with argv[1..] (argv[0] is "xl"). With `feed` its standard input is a pipe, else /dev/null. The caller must
 * ignore SIGPIPE: an xl that ended shows up as -EPIPE. */
int xl_start(struct xl_run *x, char *const argv[], bool feed, struct rpl_err *err);
/* Everything to its standard input. When xl ended before: -EPIPE, and xl_end() says why. */
int xl_feed(struct xl_run *x, const void *bytes, size_t len, struct rpl_err *err);
/* Nothing more comes: close its input. */
void xl_feed_end(struct xl_run *x);
/* Without waiting; it is still to be reaped by one of the next two. */
bool xl_has_ended(const struct xl_run *x);
/* Close its input and wait for its end. 0, or -EIO with the last thing that it said; *ret_said (may be NULL; the caller's) is all of
 * it, also on failure. */
int xl_end(struct xl_run *x, char **ret_said, struct rpl_err *err);
/* Kill it, if it still runs, and reap it. */
void xl_abort(struct xl_run *x);

/* Start, wait. `argv` as above. */
int xl_call(char *const argv[], char **ret_said, struct rpl_err *err);

/* ---- questions and orders */
/* 0 and *ret, or -ESRCH: no domain has this name. */
int xl_domid(const char *name, uint32_t *ret, struct rpl_err *err);
int xl_rename(uint32_t domid, const char *name, struct rpl_err *err);
int xl_unpause(uint32_t domid, struct rpl_err *err);
int xl_destroy(uint32_t domid, struct rpl_err *err);
/* MiB that Xen could give to a new domain now. */
int xl_free_mib(uint64_t *ret, struct rpl_err *err);
int xl_free_in(const char *info, uint64_t *ret, struct rpl_err *err); /* as `xl info` says it */
/* -ENOMEM with the numbers: what `xl info` said (NULL: it is asked now) leaves no room for a domain with so much memory, and for what Xen
 * needs beside it. */
int xl_check_room(const char *info, const char *name, uint64_t memory_mib, struct rpl_err *err);

/* A name that xl takes as a name: not a number (it would be a domid), not an option, no control character, no '/'. */
bool xl_name_is_good(const char *name);

#endif
