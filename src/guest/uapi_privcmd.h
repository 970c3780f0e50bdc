/* uapi_privcmd.h - the two calls of Linux's /dev/xen/privcmd that a mover needs, which Debian ships with Xen's headers only
 *
 * As in the kernel's include/uapi/xen/privcmd.h.
 */
#ifndef RPL_GUEST_UAPI_PRIVCMD_H
#define RPL_GUEST_UAPI_PRIVCMD_H

#include <stdint.h>
#include <sys/ioctl.h>

struct privcmd_map {     /* struct privcmd_mmapbatch_v2 */
	unsigned int num;    /* pages */
	uint16_t dom;
	uint64_t addr;       /* of a mapping of the device, covered wholly */
	const uint64_t *arr; /* frames: gfns; of a PV guest machine frames */
	int *err;            /* 0 or a negative errno for each */
};

#define PRIVCMD_MAP _IOC(_IOC_NONE, 'P', 4, sizeof(struct privcmd_map))
#define PRIVCMD_RESTRICT _IOC(_IOC_NONE, 'P', 6, sizeof(uint16_t))

#endif
