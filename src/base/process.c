#include <replicad/process.h>

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>

#include <replicad/auto.h>
#include <replicad/io.h>

#define STAT_BYTES_MAX 4096
#define STAT_COMM 2       /* fields of /proc/PID/stat */
#define STAT_START_TIME 22

uint64_t rpl_process_start_time(pid_t pid)
{
	RPL_AUTO_FREE char *text = NULL;
	char path[64], *p;

	if (pid <= 0)
		return 0;
	(void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	if (rpl_read_file(path, STAT_BYTES_MAX, &text, NULL, NULL) < 0)
		return 0;
	p = strrchr(text, ')'); /* the name may hold anything; it ends its field */
	for (int f = STAT_COMM; p && f < STAT_START_TIME; f++)
		p = strchr(p + 1, ' ');
	return p ? strtoull(p + 1, NULL, 10) : 0;
}

bool rpl_process_gone(int pidfd, int wait_ms)
{
	struct pollfd p = { .fd = pidfd, .events = POLLIN };

	return poll(&p, 1, wait_ms) == 1;
}

int rpl_process_open(pid_t pid, uint64_t started)
{
	int fd = pid > 0 && started ? pidfd_open(pid, 0) : -1;

	if (fd >= 0 && (rpl_process_start_time(pid) != started || rpl_process_gone(fd, 0)))
		rpl_close(&fd);
	return fd;
}

bool rpl_process_lives(pid_t pid, uint64_t started)
{
	RPL_AUTO_FD int fd = rpl_process_open(pid, started);

	return fd >= 0;
}

bool rpl_process_end(pid_t pid, uint64_t started, int wait_ms)
{
	RPL_AUTO_FD int fd = rpl_process_open(pid, started);

	if (fd < 0)
		return true;
	(void)pidfd_send_signal(fd, SIGKILL, NULL, 0);
	return rpl_process_gone(fd, wait_ms);
}
