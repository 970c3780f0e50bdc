#include <replicad/fault.h>

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/log.h>

static const char *const fault_name[] = {
#define RPL_X(id, name) [RPL_FAULT_##id] = name,
	RPL_FAULTS(RPL_X)
#undef RPL_X
};
_Static_assert(RPL_ARRAY_LEN(fault_name) == RPL_NFAULTS, "a name for each point");

static struct {
	uint64_t at[RPL_NFAULTS]; /* 0: never */
	uint64_t passed[RPL_NFAULTS];
} faults;

const char *rpl_fault_name(enum rpl_fault point)
{
	rpl_assert((unsigned)point < RPL_NFAULTS);
	return fault_name[point];
}

bool rpl_fault_in_mover(enum rpl_fault point)
{
#define RPL_X(id, name) +1
	const unsigned movers = 0 RPL_MOVER_FAULTS(RPL_X);
#undef RPL_X

	return (unsigned)point < movers;
}

int rpl_fault_read(const char *text, size_t len, enum rpl_fault *ret_point, uint64_t *ret_nth, struct rpl_err *err)
{
	const char *colon = memchr(text, ':', len);
	size_t name_len = colon ? (size_t)(colon - text) : len, i;
	uint64_t nth = colon ? 0 : 1;

	for (i = 0; i < RPL_NFAULTS; i++)
		if (strlen(fault_name[i]) == name_len && memcmp(fault_name[i], text, name_len) == 0)
			break;
	if (i == RPL_NFAULTS)
		return rpl_fail(err, -EINVAL, RPL_FAULT_ENV ": '%.*s' is no fault point (see replicad-fault(7))",
				(int)name_len, text);
	for (const char *p = colon ? colon + 1 : text + len; p < text + len; p++) {
		if (*p < '0' || *p > '9' || nth > UINT32_MAX)
			return rpl_fail(err, -EINVAL, RPL_FAULT_ENV ": '%.*s': the passage must be a number",
					(int)len, text);
		nth = nth * 10 + (uint64_t)(*p - '0');
	}
	if (nth == 0)
		return rpl_fail(err, -EINVAL, RPL_FAULT_ENV ": '%.*s': passages count from 1", (int)len, text);
	*ret_point = (enum rpl_fault)i;
	*ret_nth = nth;
	return 0;
}

void rpl_fault_arm(enum rpl_fault point, uint64_t nth)
{
	rpl_assert((unsigned)point < RPL_NFAULTS && nth > 0);
	faults.at[point] = nth;
	faults.passed[point] = 0;
}

int rpl_fault_init(const char *spec, struct rpl_err *err)
{
	enum rpl_fault point;
	uint64_t nth;
	int r;

	memset(&faults, 0, sizeof(faults));
	while (spec && *spec) {
		size_t len = strcspn(spec, ",");

		r = rpl_fault_read(spec, len, &point, &nth, err);
		if (r < 0) {
			memset(&faults, 0, sizeof(faults));
			return r;
		}
		rpl_fault_arm(point, nth);
		spec += len + (spec[len] == ',');
	}
	return 0;
}

bool rpl_fault_hit(enum rpl_fault point)
{
	rpl_assert((unsigned)point < RPL_NFAULTS);
	return faults.at[point] && ++faults.passed[point] == faults.at[point];
}

void rpl_fault_die(enum rpl_fault point)
{
	if (!rpl_fault_hit(point))
		return;
	rpl_log(RPL_LOG_WARNING, "fault=%s effect=SIGKILL", fault_name[point]);
	(void)kill(getpid(), SIGKILL);
	abort();
}
