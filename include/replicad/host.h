/* host.h - what kind of host this is */
#ifndef REPLICAD_HOST_H
#define REPLICAD_HOST_H

#include <stdbool.h>

/* We are in a domain of Xen's that may control others. */
bool rpl_host_controls_xen(void);

#endif
