#include "uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <replicad/auto.h>

#include "uapi_pagemap.h"

#define FEATURES                                                                                              \
	(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_WP_UNPOPULATED | \
	 UFFD_FEATURE_WP_ASYNC)

bool uffd_kernel_can(void)
{
	RPL_AUTO_FD int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	struct pm_scan_arg arg = { .size = sizeof(arg), .return_mask = PAGE_IS_WRITTEN };

	/* An empty range: nothing is read, but an unknown ioctl is refused. Both features came with Linux 6.7. */
	return fd >= 0 && ioctl(fd, PAGEMAP_SCAN, &arg) >= 0;
}

int uffd_api(int uffd, struct rpl_err *err)
{
	struct uffdio_api api = { .api = UFFD_API, .features = FEATURES };

	if (ioctl(uffd, UFFDIO_API, &api) < 0)
		return rpl_fail(err, errno == EINVAL ? -EOPNOTSUPP : -errno,
				"userfaultfd: the kernel lacks asynchronous write protection (Linux 6.7 has it): use tracker=compare");
	return 0;
}

/* Protect what is there; what is not there yet counts as clean until it is written. */
static int protect(int pagemap, uint64_t vaddr, uint64_t bytes, struct rpl_err *err)
{
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
		.end = vaddr + bytes,
		.category_mask = PAGE_IS_WRITTEN,
	};

	for (arg.start = vaddr; arg.start < arg.end; arg.start = arg.walk_end) {
		if (ioctl(pagemap, PAGEMAP_SCAN, &arg) < 0)
			return rpl_fail_errno(err, errno, "PAGEMAP_SCAN at 0x%" PRIx64, (uint64_t)arg.start);
		if (arg.walk_end <= arg.start)
			return rpl_fail(err, -ESRCH, "PAGEMAP_SCAN: the guest's process is gone");
	}
	return 0;
}

int uffd_register(int uffd, uint64_t vaddr, uint64_t bytes, struct rpl_err *err)
{
	struct uffdio_register reg = {
		.range = { .start = vaddr, .len = bytes },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};

	if (ioctl(uffd, UFFDIO_REGISTER, &reg) < 0)
		return rpl_fail_errno(err, errno, "userfaultfd: register 0x%" PRIx64 " bytes at 0x%" PRIx64, bytes, vaddr);
	return 0;
}

int uffd_arm(int uffd, int pagemap, uint64_t vaddr, uint64_t bytes, struct rpl_err *err)
{
	int r = uffd_register(uffd, vaddr, bytes, err);

	return r < 0 ? r : protect(pagemap, vaddr, bytes, err);
}

int uffd_disarm(int uffd, uint64_t vaddr, uint64_t bytes, struct rpl_err *err)
{
	struct uffdio_range range = { .start = vaddr, .len = bytes };

	if (ioctl(uffd, UFFDIO_UNREGISTER, &range) < 0)
		return rpl_fail_errno(err, errno, "userfaultfd: unregister 0x%" PRIx64 " bytes at 0x%" PRIx64, bytes, vaddr);
	return 0;
}
