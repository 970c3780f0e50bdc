#include "xen_standby_xl.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/io.h>
#include <replicad/log.h>

#define PIPE_BYTES (1 << 20) /* asked for; an unprivileged limit may give less */
#define DOMAIN_NAME_MAX 200
#define DOMID_TEXT 12

RPL_NORETURN static void child(char *const argv[], int in, int said)
{
	sigset_t none;

	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)signal(SIGPIPE, SIG_DFL);
	if (dup2(in, 0) < 0 || dup2(said, 1) < 0 || dup2(said, 2) < 0)
		_exit(126);
	(void)execvp(argv[0], argv);
	dprintf(2, "cannot run %s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

int xl_start(struct xl_run *x, char *const argv[], bool feed, struct rpl_err *err)
{
	int in[2] = { -1, -1 }, r = 0;

	*x = (struct xl_run)XL_RUN_NONE;
	(void)snprintf(x->what, sizeof(x->what), "xl %s", argv[1]);
	if (feed ? pipe2(in, O_CLOEXEC) < 0 : (in[0] = open("/dev/null", O_RDONLY | O_CLOEXEC)) < 0)
		return rpl_fail_errno(err, errno, "%s: its standard input", x->what);
	if (feed)
		(void)fcntl(in[1], F_SETPIPE_SZ, PIPE_BYTES);
	x->said = memfd_create("xl-said", MFD_CLOEXEC);
	x->pid = x->said < 0 ? -1 : fork();
	if (x->pid == 0)
		child(argv, in[0], x->said);
	if (x->pid < 0) {
		r = rpl_fail_errno(err, errno, "start %s", x->what);
		x->pid = 0;
		rpl_close(&in[1]);
		rpl_close(&x->said);
	}
	rpl_close(&in[0]);
	x->feed = in[1];
	return r;
}

int xl_feed(struct xl_run *x, const void *bytes, size_t len, struct rpl_err *err)
{
	int r = rpl_write_full(x->feed, bytes, len);

	return r < 0 ? rpl_fail_errno(err, -r, "feed %s", x->what) : 0;
}

/* What it said, trimmed; NULL only without memory. */
static char *read_said(int fd)
{
	char *text = calloc(1, XL_SAID_MAX + 1);
	ssize_t n;

	if (!text || fd < 0)
		return text;
	n = pread(fd, text, XL_SAID_MAX, 0);
	while (n > 0 && isspace((unsigned char)text[n - 1]))
		text[--n] = '\0';
	return text;
}

/* The line that explains a failure: the first that speaks of an error (what follows are consequences), else the last. */
static const char *telling_line(char *text)
{
	char *line = strstr(text, "rror"), *end;

	if (line) {
		while (line > text && line[-1] != '\n')
			line--;
	} else {
		line = strrchr(text, '\n');
		line = line ? line + 1 : text;
	}
	end = strchr(line, '\n');
	if (end)
		*end = '\0';
	return *line ? line : "it said nothing";
}

static int judge(const struct xl_run *x, int status, char *said, struct rpl_err *err)
{
	RPL_AUTO_FREE char *copy = said ? strdup(said) : NULL;
	const char *why = copy ? telling_line(copy) : "no memory for what it said";

	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	if (WIFSIGNALED(status))
		return rpl_fail(err, -EIO, "%s: killed by signal %d: %s", x->what, WTERMSIG(status), why);
	return rpl_fail(err, -EIO, "%s: exit status %d: %s", x->what, WEXITSTATUS(status), why);
}

static int reap(struct xl_run *x)
{
	int status = 0;

	while (waitpid(x->pid, &status, 0) < 0 && errno == EINTR)
		;
	x->pid = 0;
	return status;
}

void xl_feed_end(struct xl_run *x)
{
	rpl_close(&x->feed);
}

bool xl_has_ended(const struct xl_run *x)
{
	siginfo_t si = { .si_pid = 0 };

	return waitid(P_PID, (id_t)x->pid, &si, WEXITED | WNOHANG | WNOWAIT) < 0 || si.si_pid != 0;
}

int xl_end(struct xl_run *x, char **ret_said, struct rpl_err *err)
{
	RPL_AUTO_FREE char *said = NULL;
	int status, r;

	rpl_close(&x->feed);
	status = reap(x);
	said = read_said(x->said);
	rpl_close(&x->said);
	r = judge(x, status, said, err);
	if (ret_said) {
		*ret_said = said;
		said = NULL;
	}
	return r;
}

void xl_abort(struct xl_run *x)
{
	rpl_close(&x->feed);
	if (x->pid > 0) {
		(void)kill(x->pid, SIGKILL);
		(void)reap(x);
	}
	rpl_close(&x->said);
}

int xl_call(char *const argv[], char **ret_said, struct rpl_err *err)
{
	struct xl_run x;
	int r = xl_start(&x, argv, false, err);

	return r < 0 ? r : xl_end(&x, ret_said, err);
}

/* ---- questions and orders */

int xl_domid(const char *name, uint32_t *ret, struct rpl_err *err)
{
	char *const argv[] = { (char *)"xl", (char *)"domid", (char *)(uintptr_t)name, NULL };
	RPL_AUTO_FREE char *said = NULL;
	unsigned long id;
	char *end;
	int r = xl_call(argv, &said, err);

	if (r < 0 || !said)
		return rpl_fail(err, -ESRCH, "no domain is called '%.100s'%s%.100s", name, said ? ": " : "", said ? said : "");
	id = strtoul(said, &end, 10);
	if (end == said || *end || id > UINT16_MAX)
		return rpl_fail(err, -EBADMSG, "xl domid %.100s: '%.60s' is no domain's number", name, said);
	*ret = (uint32_t)id;
	return 0;
}

static int order(const char *what, uint32_t domid, const char *arg, struct rpl_err *err)
{
	char id[DOMID_TEXT];
	char *const argv[] = { (char *)"xl", (char *)(uintptr_t)what, id, (char *)(uintptr_t)arg, NULL };

	(void)snprintf(id, sizeof(id), "%" PRIu32, domid);
	return xl_call(argv, NULL, err);
}

int xl_rename(uint32_t domid, const char *name, struct rpl_err *err)
{
	return order("rename", domid, name, err);
}

int xl_unpause(uint32_t domid, struct rpl_err *err)
{
	return order("unpause", domid, NULL, err);
}

int xl_destroy(uint32_t domid, struct rpl_err *err)
{
	return order("destroy", domid, NULL, err);
}

int xl_free_in(const char *info, uint64_t *ret, struct rpl_err *err)
{
	const char *at = info ? strstr(info, "\nfree_memory") : NULL;

	at = at ? strchr(at, ':') : NULL;
	if (!at || sscanf(at + 1, "%" SCNu64, ret) != 1)
		return rpl_fail(err, -EBADMSG, "xl info: it does not say free_memory");
	return 0;
}

int xl_free_mib(uint64_t *ret, struct rpl_err *err)
{
	char *const argv[] = { (char *)"xl", (char *)"info", NULL };
	RPL_AUTO_FREE char *said = NULL;
	int r = xl_call(argv, &said, err);

	return r < 0 ? r : xl_free_in(said, ret, err);
}

int xl_check_room(const char *info, const char *name, uint64_t memory_mib, struct rpl_err *err)
{
	uint64_t have, need = memory_mib + XL_DOMAIN_OVERHEAD_MIB;
	int r = info ? xl_free_in(info, &have, err) : xl_free_mib(&have, err);

	if (r < 0 || have >= need)
		return r;
	return rpl_fail(err, -ENOMEM, "%.100s needs %" PRIu64 " MiB when it is activated, Xen has %" PRIu64
			" MiB free on this host: free some, or give dom0 less", name, need, have);
}

bool xl_name_is_good(const char *name)
{
	bool number = true;
	size_t len = 0;

	for (; name[len]; len++) {
		if (iscntrl((unsigned char)name[len]) || name[len] == '/' || len >= DOMAIN_NAME_MAX)
			return false;
		number &= isdigit((unsigned char)name[len]) != 0;
	}
	return len > 0 && !number && name[0] != '-';
}
