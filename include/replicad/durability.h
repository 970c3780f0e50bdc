/* durability.h - what survives when both hosts lose power */
#ifndef REPLICAD_DURABILITY_H
#define REPLICAD_DURABILITY_H

enum rpl_durability {
	RPL_DURABLE_MEMORY,  /* nothing is on disk: acknowledged data of the open epochs is lost */
	RPL_DURABLE_JOURNAL, /* the backup syncs redo before it acks */
	RPL_DURABLE_BOTH,    /* the primary journals its sealed, unflushed epochs too */
};

#endif
