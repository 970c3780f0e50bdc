/* rounds.c - see rounds.h */
#include "rounds.h"

#define SHRINKS 4 /* a round is worth it that leaves less than three quarters of what it sent */

bool rounds_converged(unsigned round, uint64_t sent, uint64_t dirty)
{
	if (dirty <= ROUND_PAGES_FEW || round >= ROUNDS_MAX)
		return true;
	return dirty <= ROUND_PAGES_ENOUGH && dirty >= sent - sent / SHRINKS;
}
