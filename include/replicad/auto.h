/* auto.h - locals that clean up after themselves on every way out */
#ifndef REPLICAD_AUTO_H
#define REPLICAD_AUTO_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void rpl_auto_fd_(int *fd)
{
	if (*fd >= 0)
		(void)close(*fd);
}

static inline void rpl_auto_free_(void *p)
{
	free(*(void **)p);
}

static inline void rpl_auto_file_(FILE **f)
{
	if (*f)
		(void)fclose(*f);
}

#define RPL_AUTO_FD __attribute__((cleanup(rpl_auto_fd_)))
#define RPL_AUTO_FREE __attribute__((cleanup(rpl_auto_free_)))
#define RPL_AUTO_FILE __attribute__((cleanup(rpl_auto_file_)))

/* Take a descriptor out of its cleaned-up local. */
static inline int rpl_steal_fd(int *fd)
{
	int kept = *fd;

	*fd = -1;
	return kept;
}

static inline void rpl_close(int *fd)
{
	if (*fd >= 0)
		(void)close(*fd);
	*fd = -1;
}

#define RPL_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#endif
