/* sandbox.h - what the mover gives up before it hears a peer
 *
 * Its own user if one was named, every capability, new privileges, core dumps and being traced; every path; and all
 * system calls but those that work on descriptors it has: nothing can be opened, connected, executed, traced or signalled.
 */
#ifndef ENGINE_SANDBOX_H
#define ENGINE_SANDBOX_H

#include <stdint.h>

#include <replicad/err.h>

/* `uid` and `gid`: 0 stays what it is. For good; a failure leaves the process in between: end it. */
int sandbox_enter(uint32_t uid, uint32_t gid, struct rpl_err *err);

/* The part of it that is about paths: an empty root (with CAP_SYS_CHROOT) and Landlock (where the kernel has it); no new
 * privileges either. sandbox_enter() does it. */
int sandbox_leave_paths(struct rpl_err *err);

#endif
