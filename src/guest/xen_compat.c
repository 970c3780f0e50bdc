#include "xen_compat.h"

#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "uapi_privcmd.h"

#if HAVE_DECL_XS_DAEMON_SOCKET
#include <xenstore_lib.h>
#endif

#if !HAVE_DECL_XC_GET_PFN_TYPE_BATCH
/* Exported by every libxenctrl; declared in a private header up to 4.21. */
int xc_get_pfn_type_batch(xc_interface *xch, uint32_t dom, unsigned int num, xen_pfn_t *pfns);
#endif

/* xc_domain_getinfo() is gone from 4.18 and xc_domain_getinfo_single() is new there; the list is in all of them. */
int xen_compat_dominfo(xc_interface *xc, uint32_t domid, struct xen_dominfo *ret)
{
	xc_domaininfo_t i;
	int r;

	memset(&i, 0, sizeof(i));
	r = xc_domain_getinfolist(xc, domid, 1, &i);
	if (r < 0)
		return -errno;
	if (r == 0 || i.domain != domid)
		return -ESRCH;
	*ret = (struct xen_dominfo){
		.hvm = i.flags & XEN_DOMINF_hvm_guest,
		.dying = i.flags & XEN_DOMINF_dying,
		.shutdown = i.flags & XEN_DOMINF_shutdown,
		.paused = i.flags & XEN_DOMINF_paused,
		.hap = i.flags & XEN_DOMINF_hap,
		.reason = i.flags >> XEN_DOMINF_shutdownshift & XEN_DOMINF_shutdownmask,
		.tot_pages = i.tot_pages, .max_pages = i.max_pages, .shared_info_frame = i.shared_info_frame,
		.max_vcpu_id = i.max_vcpu_id, .emulation = i.arch_config.emulation_flags,
	};
	_Static_assert(sizeof(i.handle) == sizeof(ret->uuid), "a domain's handle is a uuid");
	memcpy(ret->uuid, i.handle, sizeof(ret->uuid));
	return 0;
}

int xen_compat_page_types(xc_interface *xc, uint32_t domid, unsigned n, uint64_t *inout)
{
	_Static_assert(sizeof(xen_pfn_t) == sizeof(uint64_t), "64-bit toolstack");
	if (xc_get_pfn_type_batch(xc, domid, n, inout) < 0)
		return -errno;
	for (unsigned i = 0; i < n; i++)
		inout[i] = inout[i] >> XEN_DOMCTL_PFINFO_LTAB_SHIFT & 0xf;
	return 0;
}

const char *xen_compat_xenstored(void)
{
#if HAVE_DECL_XS_DAEMON_SOCKET
	return xs_daemon_socket();
#else
	return NULL;
#endif
}

int xen_compat_privcmd(uint32_t domid, struct rpl_err *err)
{
	int fd = open(PRIVCMD_PATH, O_RDWR | O_CLOEXEC);
	uint16_t id = (uint16_t)domid;

	if (fd < 0)
		return rpl_fail_errno(err, errno, "open " PRIVCMD_PATH);
	if (ioctl(fd, PRIVCMD_RESTRICT, &id) < 0) {
		int e = errno;

		(void)close(fd);
		return rpl_fail_errno(err, e, "restrict " PRIVCMD_PATH " to domain %u", domid);
	}
	return fd;
}
