/* lead.c - see lead.h */
#include "lead.h"

#define SMOOTH 4 /* a checkpoint counts for a quarter */
#define LEFT 4   /* and a quarter of the interval is the guest's */

uint64_t lead_learn(uint64_t *handshake_ns, uint64_t took_ns, uint64_t interval_ns)
{
	uint64_t most = interval_ns - interval_ns / LEFT;

	*handshake_ns = *handshake_ns ? *handshake_ns - *handshake_ns / SMOOTH + took_ns / SMOOTH : took_ns;
	return interval_ns - (*handshake_ns < most ? *handshake_ns : most);
}
