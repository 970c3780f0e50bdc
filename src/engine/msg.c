#include <replicad/mover.h>

#include <replicad/auto.h>

static const char *const type_name[] = {
#define X(name) [RPL_MOVER_##name] = #name,
	RPL_MOVER_COMMANDS(X)
	RPL_MOVER_REPORTS(X)
#undef X
};
_Static_assert(RPL_ARRAY_LEN(type_name) == RPL_MOVER_NTYPES, "a name for each message");

const char *rpl_mover_type_name(enum rpl_mover_type t)
{
	return (unsigned)t < RPL_MOVER_NTYPES ? type_name[t] : "?";
}
