/* qemu.h - what commands ask about QEMU guests without protecting them: would it be refused, and its standby's arguments */
#ifndef REPLICAD_QEMU_H
#define REPLICAD_QEMU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include <replicad/err.h>

/* ---- doctor */

enum rpl_check_level { RPL_CHECK_OK, RPL_CHECK_WARN, RPL_CHECK_FAIL };

struct rpl_check {
	const char *name;           /* "memory", "uuid", ... */
	enum rpl_check_level level; /* WARN: it works, but not as well as it could; FAIL: protection would be refused */
	char sentence[240];         /* what was found */
	char mend[240];             /* a command, or what to change; "" if nothing is to be done */
};
typedef void rpl_check_fn(void *arg, const struct rpl_check *check);

struct rpl_doctor_conf {
	const char *vm;           /* for messages */
	const char *qmp_path;     /* NULL: only the host is looked at */
	const char *standby_path; /* NULL: none is looked at */
	const char *tracker;      /* "auto", "uffd", "compare" */
	const char *helper_path;  /* NULL: the installed one */
	bool any_netdev;          /* netbuf=none */
	unsigned timeout_ms;      /* bound of the talk with QEMU */
};

/* Look at the host, the guest and the standby file; one call of fn for each check, in a fixed order. Changes nothing.
 * Blocks, with an event loop of its own. Returns the number of FAILs, or a negative errno with *err if the guest could
 * not be asked (the checks of the host have been reported then). */
int rpl_doctor_qemu(const struct rpl_doctor_conf *conf, rpl_check_fn *fn, void *arg, struct rpl_err *err);

/* ---- qemu-args */

struct rpl_qemu_args_conf {
	bool standby;        /* adapt them for a standby; else as they are */
	const char *dir;     /* standby: its sockets and logs go here; NULL: beside the primary's */
	const char *ram_dir; /* standby: its RAM file goes here; NULL: beside the primary's */
};

/* Write the arguments of the QEMU behind the monitor at `qmp_path`, one a line, in the form that `standby =` files have.
 * The monitor is not used, only asked who listens. -ESRCH: nobody does. */
int rpl_qemu_args(const char *qmp_path, const struct rpl_qemu_args_conf *conf, FILE *out, struct rpl_err *err);
/* The same on arguments as /proc/PID/cmdline has them (each ends in NUL); pure. */
int rpl_qemu_args_write(const char *cmdline, size_t len, const struct rpl_qemu_args_conf *conf, FILE *out,
			struct rpl_err *err);

#endif
