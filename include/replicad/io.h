/* io.h - descriptors: whole reads and writes, descriptor passing, peer credentials, small files */
#ifndef REPLICAD_IO_H
#define REPLICAD_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <replicad/err.h>

#define RPL_FDS_MAX 8 /* descriptors in one message */

/* Read or write exactly `len` bytes, restarting after signals. Blocking descriptors only.
 * Returns 0, -EPIPE when a read meets the end early, or another negative errno. */
int rpl_read_full(int fd, void *buf, size_t len);
int rpl_write_full(int fd, const void *buf, size_t len);

int rpl_nonblock(int fd, bool on);

/* Does this negative errno of a send say that the other end is gone? What it said last may still be there to read. */
bool rpl_hung_up(int r);

/* One message on a SOCK_SEQPACKET or SOCK_DGRAM unix socket, with up to RPL_FDS_MAX descriptors.
 * send: 0, or a negative errno (-EAGAIN when it would block). The descriptors stay the caller's.
 * recv: the length (0 = the peer closed, and all that it sent was read), or a negative errno; *n_fds holds the room in
 * `fds` before and the number received after; received descriptors are close-on-exec and the caller's; -EMSGSIZE when
 * the message or its descriptors did not fit (then none is kept). */
int rpl_send_fds(int sock, const void *msg, size_t len, const int *fds, size_t n_fds);
ssize_t rpl_recv_fds(int sock, void *msg, size_t cap, int *fds, size_t *n_fds);

/* A unix socket of `type` (SOCK_STREAM, ...) bound to or connected to `path`; close-on-exec.
 * listen: an old socket file at `path` is replaced, and the new one is there once it can be connected to; mode is 0600.
 * Returns the descriptor or a negative errno. */
int rpl_unix_listen(const char *path, int type, struct rpl_err *err);
/* The same with another mode, and of another group ((gid_t)-1: ours), from the moment when the path is there. */
int rpl_unix_listen_for(const char *path, int type, gid_t group, mode_t mode, struct rpl_err *err);
int rpl_unix_connect(const char *path, int type, struct rpl_err *err);

/* Write `data` to `path` so that after a crash either the old or the new content is there, whole:
 * temporary file, fsync, rename, fsync of the directory. Mode is for a new file. */
int rpl_write_file_durably(const char *path, const void *data, size_t len, mode_t mode, struct rpl_err *err);
/* Read a whole file of at most `max` bytes; *ret is NUL-terminated and the caller frees it. */
int rpl_read_file(const char *path, size_t max, char **ret, size_t *ret_len, struct rpl_err *err);

/* What this machine can still give to programs without swapping: MemAvailable of /proc/meminfo. */
int rpl_available_memory(uint64_t *ret_bytes, struct rpl_err *err);

/* Put a path together, as snprintf() does. 0, or -ENAMETOOLONG (buf is then "") instead of a path cut short. */
int rpl_path(char *buf, size_t size, struct rpl_err *err, const char *fmt, ...) RPL_PRINTF(4, 5);

/* Make directories along `path`, each with `mode`; existing ones are fine. */
int rpl_mkdir_p(const char *path, mode_t mode, struct rpl_err *err);

#endif
