/* exit.h - exit statuses of every command, settled once */
#ifndef REPLICAD_EXIT_H
#define REPLICAD_EXIT_H

enum rpl_exit {
	RPL_EXIT_DONE = 0,
	RPL_EXIT_FAILED = 1,
	RPL_EXIT_USAGE = 2,
	RPL_EXIT_REFUSED = 3,     /* it would have been unsafe; nothing was changed */
	RPL_EXIT_UNREACHABLE = 4, /* no agent answers */
};

/* `replicad status` */
enum rpl_exit_status {
	RPL_EXIT_PROTECTED = 0,
	RPL_EXIT_DEGRADED = 1,
	RPL_EXIT_DOWN = 2,
	RPL_EXIT_UNKNOWN = 3,
};

#endif
