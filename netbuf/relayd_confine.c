/* What a relay that is taken over could still do: read and write the frames it carries anyway. */
#include "relayd.h"

#include <errno.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cap-ng.h>

int rpl_relay_confine(struct rpl_err *err)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return rpl_fail_errno(err, errno, "relay: set no_new_privs");
	if (geteuid() != 0)
		return 0; /* had none */
	capng_clear(CAPNG_SELECT_BOTH);
	if (capng_update(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED, CAP_DAC_OVERRIDE) < 0 ||
	    capng_apply(CAPNG_SELECT_BOTH) < 0)
		return rpl_fail(err, -EPERM, "relay: drop capabilities");
	return 0;
}
