/* replica.h - what the two halves of the replica share */
#ifndef REPLICA_REPLICA_H
#define REPLICA_REPLICA_H

#include "area.h"

#include <replicad/bitmap.h>

struct rpl_replica {
	struct area area;
	struct rpl_memory *ram;
	bool fresh;
	/* the mover's view of the session */
	uint64_t head, tail;            /* ring positions: next free slot, oldest one in use */
	uint64_t staged, acked, folded; /* highest epochs */
	struct rpl_bitmap have;         /* pfns that this session has sent */
	uint64_t missing;               /* pages of the RAM not in `have` */
	uint32_t *came;                 /* per page of the layout: by what a delta names what came last (pages.h); 0: nothing */
	uint64_t fold_at;               /* slots of epoch folded + 1 that are folded */
	/* the epoch under way: a header that is published by the seal */
	bool open;
	struct area_header next;
	/* the activator's */
	void *state;                    /* device state, in one piece */
};

#endif
