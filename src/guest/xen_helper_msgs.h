/* xen_helper_msgs.h - how libxl and its save helper talk, as of Xen 4.17; private to src/guest
 *
 * libxl runs the libxc part of a restore in a program (LIBXL_SAVE_HELPER), with a pipe to its standard input and one from
 * its standard output. The program speaks: a 16-bit length, then so many bytes: a 16-bit number that says which message it
 * is, and its arguments, in the machine's byte order and C's sizes. A text is a 32-bit length that counts the NUL, and the
 * bytes. Some messages are answered with one int.
 *
 * The protocol is private to a release of Xen: RPL_XEN_LIBXL is the only libxl that this is spoken with
 * (xen_helper_gate()). The numbers follow from the order of a table in libxl_save_msgs_gen.pl.
 */
#ifndef RPL_GUEST_XEN_HELPER_MSGS_H
#define RPL_GUEST_XEN_HELPER_MSGS_H

#include <stdbool.h>
#include <stdint.h>

#include <replicad/cur.h>
#include <replicad/err.h>

#define RPL_XEN_LIBXL "libxenlight.so.4.17" /* the name under which the toolstack has it mapped begins so */

enum xen_helper_msg {
	XEN_MSG_LOG = 1,
	XEN_MSG_STATIC_DATA_DONE = 8, /* answered */
	XEN_MSG_RESTORE_RESULTS = 9,
	XEN_MSG_COMPLETE = 10,        /* answered */
};

/* Callbacks that libxl offers for a plain restore, one bit for each message; neither more nor less. */
#define XEN_HELPER_CALLBACKS (1u << XEN_MSG_STATIC_DATA_DONE | 1u << XEN_MSG_RESTORE_RESULTS)

#define XEN_HELPER_ARGS 11     /* of the command line, the program's name counted */
#define XEN_HELPER_TEXT_MAX 1024
#define XEN_HELPER_MSG_MAX (2 * XEN_HELPER_TEXT_MAX + 64)

enum xen_helper_level { XEN_LEVEL_INFO = 5, XEN_LEVEL_ERROR = 8 }; /* of xentoollog */

/* Of `--restore-domain`. */
struct xen_helper_args {
	int io_fd, back_fd;
	uint32_t domid, store_port, store_domid, console_port, console_domid;
	uint32_t callbacks, stream_type;
};

/* -EINVAL: not the arguments that libxl 4.17 gives for a plain restore; *err says which. */
int xen_helper_args(int argc, char *const argv[], struct xen_helper_args *ret, struct rpl_err *err);

/* Append one message, with its length. Texts are cut at XEN_HELPER_TEXT_MAX. */
void xen_helper_put_log(struct rpl_out *o, enum xen_helper_level level, int errnoval, const char *context, const char *text);
void xen_helper_put_static_data_done(struct rpl_out *o, uint32_t missing);
void xen_helper_put_restore_results(struct rpl_out *o, uint64_t store_gfn, uint64_t console_gfn);
void xen_helper_put_complete(struct rpl_out *o, int retval, int errnoval);

/* Is the toolstack that runs us (its process's mappings, as /proc/PID/maps shows them) the one whose protocol this is? */
bool xen_helper_gate(const char *maps, struct rpl_err *err);

#endif
