/* Names and sentences of core.h's lists, for logs, tests and people. */
#include <replicad/core.h>

#define NAME_OF(table, i, n) ((unsigned)(i) < (unsigned)(n) ? (table)[i] : "?")

const char *rpl_state_name(enum rpl_state s)
{
	static const char *const name[] = {
#define X(n, text) #n,
		RPL_STATES(X)
#undef X
	};

	return NAME_OF(name, s, RPL_ST_N);
}

const char *rpl_event_name(enum rpl_event_kind e)
{
	static const char *const name[] = {
#define X(n, arg, text) #n,
		RPL_EVENTS(X)
#undef X
	};

	return NAME_OF(name, e, RPL_EV_N);
}

const char *rpl_action_name(enum rpl_action_kind a)
{
	static const char *const name[] = {
#define X(n, arg, text) #n,
		RPL_ACTIONS(X)
#undef X
	};

	return NAME_OF(name, a, RPL_ACT_N);
}

const char *rpl_claim_name(enum rpl_claim_kind k)
{
	static const char *const name[] = {
#define X(n, text) #n,
		RPL_CLAIMS(X)
#undef X
	};

	return NAME_OF(name, k, RPL_CLAIM_N);
}

const char *rpl_mode_name(enum rpl_mode m)
{
	static const char *const name[] = {
#define X(n, text) #n,
		RPL_MODES(X)
#undef X
	};

	return NAME_OF(name, m, RPL_MODE_N);
}

const char *rpl_reason_text(enum rpl_reason r)
{
	static const char *const text_of[] = {
#define X(n, text) text,
		RPL_REASONS(X)
#undef X
	};

	return NAME_OF(text_of, r, RPL_WHY_N);
}
