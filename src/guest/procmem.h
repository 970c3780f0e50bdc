/* procmem.h - another process as /proc shows it: where it maps a file, who traces it */
#ifndef RPL_GUEST_PROCMEM_H
#define RPL_GUEST_PROCMEM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <replicad/err.h>

/* Who ptraces it; 0: nobody. */
pid_t procmem_tracer(pid_t pid);

struct procmem_map {
	uint64_t from, to, offset;
	uint64_t dev, ino;
	bool shared, exec;
	char path[128];
};
/* One line of /proc/PID/maps; pure. */
bool procmem_parse_map(const char *line, struct procmem_map *ret);

/* Find the one shared mapping of `bytes` from offset 0 of a file: if `path` is given, of that file, else (memfd, or
 * a file that was unlinked) of any file of exactly that size. *ret_fd is the file, opened for reading and writing. */
int procmem_find_ram(pid_t pid, const char *path, uint64_t bytes, uint64_t *ret_vaddr, int *ret_fd, struct rpl_err *err);

/* A memfd that the process holds, by the name that it was made with, opened for reading and writing. -ENOENT: none. */
int procmem_open_memfd(pid_t pid, const char *name, struct rpl_err *err);

#endif
