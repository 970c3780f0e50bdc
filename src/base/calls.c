#include <replicad/calls.h>

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

static int allow_with_arguments(scmp_filter_ctx f)
{
	scmp_datum_t self = (scmp_datum_t)getpid();
	int r = 0;

	r |= seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	r |= seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	/* abort() */
	r |= seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, SCMP_A0(SCMP_CMP_EQ, self));
	return r ? -EINVAL : 0;
}

int rpl_allow_calls(const int *allowed, size_t n, int (*more)(scmp_filter_ctx f), const char *who, struct rpl_err *err)
{
	scmp_filter_ctx f = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	int r = f ? 0 : -ENOMEM;

	for (size_t i = 0; i < n && r == 0; i++)
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, allowed[i], 0);
	if (r == 0)
		r = allow_with_arguments(f);
	if (r == 0 && more)
		r = more(f);
	if (r == 0)
		r = seccomp_load(f);
	if (f)
		seccomp_release(f);
	return r < 0 ? rpl_fail_errno(err, -r, "%s: load the system call filter", who) : 0;
}
