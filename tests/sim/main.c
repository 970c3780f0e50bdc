/* sim - run the protection core against seeded faults and check I1 .. I11
 *
 * sim --seed S [--verbose]        replay one run exactly
 * sim --seeds N [--from S]        N runs, and what they met: faults, claims, every (state, event) pair
 * sim ... --expect I3             succeed at the first run that breaks I3 (for builds with a rule taken out)
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

static struct sim sim;

struct options {
	uint64_t from, seeds;
	bool verbose, quiet;
	enum invariant expect;
};

/* Pairs that mean something to the core and that runs here do not, or hardly, meet; and why. */
#define ST(name) (UINT32_C(1) << RPL_ST_##name)
#define EVERY UINT32_MAX
static const struct {
	enum rpl_event_kind event;
	uint32_t states;
	const char *reason;
} unreachable[] = {
	{ RPL_EV_RECORD_ABSENT, EVERY, "nobody deletes a record here; handled as unknown" },
	{ RPL_EV_CLAIM_REFUSED, ST(START), "only one host has a guest at first use" },
	{ RPL_EV_CLAIM_REFUSED, ST(P_ARM), "nobody but the owner may claim from {SOLO, owner}; operators do not lie here" },
	{ RPL_EV_HELD, ST(P_PROTECTED) | ST(P_STALLED) | ST(P_DRAIN), "R4: nothing is armed before HELD" },
	{ RPL_EV_HELD, ST(P_CLAIM), "output is not found open under PROTECTED: it fails closed" },
	{ RPL_EV_RECORD, ST(P_DEPOSED) | ST(B_SEED), "no read is under way when this state is entered" },
	{ RPL_EV_RECORD_UNKNOWN, ST(P_DEPOSED) | ST(B_SEED), "no read is under way when this state is entered" },
	{ RPL_EV_GUEST_DIED, ST(P_LOST) | ST(P_DEPOSED), "a race of a few ms with its killing" },
	{ RPL_EV_GUEST_DIED, ST(B_PROMOTE) | ST(C_REPLAY), "a race of a few ms with its start" },
	{ RPL_EV_GUEST_SHUTDOWN, ST(P_DOWN), "it shuts down once" },
	{ RPL_EV_PEER_FLUSHED, ST(B_SEED), "nothing is flushed before an ack" },
	{ RPL_EV_REDO_APPLIED, ST(B_SEED), "nothing is applied before an ack" },
	{ RPL_EV_HANDOVER, ST(B_SEED) | ST(B_SUSPECT), "the connection is cut by then; handled all the same" },
};

static const char *reason_for(enum rpl_state st, enum rpl_event_kind e)
{
	for (size_t i = 0; i < sizeof(unreachable) / sizeof(unreachable[0]); i++)
		if (unreachable[i].event == e && unreachable[i].states >> st & 1)
			return unreachable[i].reason;
	return "rare: not met in these runs";
}

static void report(uint64_t runs)
{
	unsigned handled = 0, met = 0;

	printf("runs %" PRIu64 ", steps %" PRIu64 ", takeovers %" PRIu64 ", cold boots %" PRIu64 ", recovered %" PRIu64
	       ", nothing left to recover %" PRIu64 ", one host away in the quiet %" PRIu64 "\n",
	       runs, sim_stats.steps, sim_stats.takeovers, sim_stats.cold_boots, sim_stats.recovered, sim_stats.hopeless,
	       sim_stats.quiet_alone);
	for (int k = 0; k < RPL_CLAIM_N; k++)
		printf("claim %-16s %10" PRIu64 "\n", rpl_claim_name((enum rpl_claim_kind)k), sim_stats.claims[k]);
	for (int f = 0; f < F_N; f++)
		printf("fault %-16s %10" PRIu64 "\n", sim_fault_name((enum fault)f), sim_stats.faults[f]);
	for (int st = 0; st < RPL_ST_N; st++)
		for (int e = 0; e < RPL_EV_N; e++) {
			enum rpl_verdict v = rpl_core_verdict((enum rpl_state)st, (enum rpl_event_kind)e);

			handled += v == RPL_HANDLED;
			met += v == RPL_HANDLED && sim_stats.pairs[st][e];
			if (sim_stats.pairs[st][e])
				printf("pair %-12s %-16s %10" PRIu64 "%s\n", rpl_state_name((enum rpl_state)st),
				       rpl_event_name((enum rpl_event_kind)e), sim_stats.pairs[st][e],
				       v == RPL_IGNORED ? " ignored" : v == RPL_REFUSED ? " refused" : "");
		}
	for (int st = 0; st < RPL_ST_N; st++)
		for (int e = 0; e < RPL_EV_N; e++)
			if (rpl_core_verdict((enum rpl_state)st, (enum rpl_event_kind)e) == RPL_HANDLED && !sim_stats.pairs[st][e])
				printf("unmet %-12s %-16s %s\n", rpl_state_name((enum rpl_state)st),
				       rpl_event_name((enum rpl_event_kind)e),
				       reason_for((enum rpl_state)st, (enum rpl_event_kind)e));
	printf("pairs of state and event that mean something: %u, met %u\n", handled, met);
}

static enum invariant invariant_named(const char *name)
{
	for (int i = 1; i < INV_N; i++)
		if (strcmp(name, sim_invariant_name((enum invariant)i)) == 0)
			return (enum invariant)i;
	fprintf(stderr, "sim: no invariant '%s'\n", name);
	exit(2);
}

static void parse(int argc, char **argv, struct options *o)
{
	static const struct option longopts[] = {
		{ "seed", required_argument, NULL, 's' },  { "seeds", required_argument, NULL, 'n' },
		{ "from", required_argument, NULL, 'f' },  { "verbose", no_argument, NULL, 'v' },
		{ "quiet", no_argument, NULL, 'q' },       { "expect", required_argument, NULL, 'e' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	*o = (struct options){ .from = 1, .seeds = 1000 };
	while ((c = getopt_long(argc, argv, "", longopts, NULL)) != -1) {
		if (c == 's') {
			o->from = strtoull(optarg, NULL, 0);
			o->seeds = 1;
		} else if (c == 'n') {
			o->seeds = strtoull(optarg, NULL, 0);
		} else if (c == 'f') {
			o->from = strtoull(optarg, NULL, 0);
		} else if (c == 'v') {
			o->verbose = true;
		} else if (c == 'q') {
			o->quiet = true;
		} else if (c == 'e') {
			o->expect = invariant_named(optarg);
		} else {
			fprintf(stderr, "usage: sim [--seed S | --seeds N --from S] [--verbose] [--quiet] [--expect I1]\n");
			exit(2);
		}
	}
}

int main(int argc, char **argv)
{
	uint64_t others[INV_N] = { 0 };
	struct options o;

	parse(argc, argv, &o);
	for (uint64_t seed = o.from; seed < o.from + o.seeds; seed++) {
		enum invariant i = sim_run(&sim, seed, o.verbose, !o.expect);

		others[i]++;
		if (i == INV_NONE || (o.expect && i != o.expect))
			continue;
		printf("seed %" PRIu64 ": %s broken at %.3f ms: %s\n", seed, sim_invariant_name(i), (double)sim.now / 1e6, sim.why);
		return o.expect ? 0 : 1;
	}
	if (o.expect) {
		printf("%s not broken in %" PRIu64 " runs\n", sim_invariant_name(o.expect), o.seeds);
		for (int i = 1; i < INV_N; i++)
			if (others[i])
				printf("  %s broken %" PRIu64 " times\n", sim_invariant_name((enum invariant)i), others[i]);
		return 1;
	}
	if (!o.quiet)
		report(o.seeds);
	return 0;
}
