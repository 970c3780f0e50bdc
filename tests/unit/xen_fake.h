/* xen_fake.h - stands in for Xen's libraries: one domain in this process, whose calls fail when they are told to
 *
 * For the error paths of what follows a domain; it proves nothing about Xen. Machine memory is a memfd; /dev/xen/privcmd is that
 * memfd (the program is linked with --wrap=open,--wrap=open64,--wrap=ioctl).
 */
#ifndef XEN_FAKE_H
#define XEN_FAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FAKE_DOMID 5
#define FAKE_NAME "web1"
#define FAKE_PAGES 1024          /* pfns from 0 */
#define FAKE_SPECIAL 0xfeff8     /* PVH: eight pages more from here */
#define FAKE_SPECIALS 8
#define FAKE_FOREIGN_MFN 2000    /* PV: machine memory that is not the guest's */
/* PV: what the guest keeps where */
#define FAKE_L4 10
#define FAKE_L1 13
#define FAKE_LEAF 14             /* of the p2m, and the next */
#define FAKE_BALLOON 900         /* no memory from here */
#define FAKE_BALLOON_END 920
#define FAKE_BROKEN 21
#define FAKE_PORT 7              /* of the event channel that tells of suspends */
#define FAKE_CALLS 1000

struct xen_fake {
	bool pv;
	bool hvm;                    /* not PVH: the test has its device model (qemu_fake.h) */
	/* what the test changes */
	bool gone, refuses;          /* the domain is destroyed; does not answer a request to suspend */
	bool locked;                 /* another program has the lock of its suspends */
	bool no_shadow, no_hap;      /* this Xen cannot log a PV guest's, a PVH guest's writes */
	uint32_t domain_7b, system_7b; /* CPUID 7.0, ebx, of the domain and of what this Xen can give */
	uint64_t free_pages, claimed_pages; /* of this Xen; claimed: for domains that are being made */
	uint64_t gpfns;              /* its highest frame, and one */
	uint64_t max_pages;          /* what Xen says that it may have */
	uint64_t elsewhere;          /* pages that it has where nobody looks */
	bool paused;                 /* somebody else paused it */
	unsigned reason;             /* with which it shuts down when asked to suspend */
	uint32_t xsave, msrs;        /* PV: bytes of XSAVE state and number of MSRs that there are, */
	uint32_t xsave_most, msrs_most; /* and how many Xen says there can be */
	uint64_t bad_map;            /* this pfn cannot be mapped by the mover; UINT64_MAX: all can */
	void (*on_clean)(unsigned n);  /* the guest runs on after the nth look at the bitmap; 0: logging has begun */
	void (*on_look)(void);       /* it runs on while somebody looks at the domain or at types */
	void (*on_suspend)(void);    /* the last thing that it does */
	/* one call that fails: the nth of all, or every one of this name */
	unsigned fail_at;
	const char *fail_name;
	int error;
	/* what is seen; names of functions */
	unsigned calls, cleans, peeks, suspends, resumes;
	unsigned asks;               /* for those most */
	const char *call[FAKE_CALLS]; /* their names, in order */
	bool suspended, logging;
	int handles, mappings, buffers; /* open */
	uint8_t type[FAKE_PAGES + FAKE_SPECIALS];
};
extern struct xen_fake fake;

void xen_fake_start(bool pv);
void xen_fake_end(void);
/* The guest's page as it is now. */
uint8_t *xen_fake_page(uint64_t pfn);
uint64_t xen_fake_mfn(uint64_t pfn);
/* A page table of the guest as it is to be in a stream. */
void xen_fake_normalised(uint64_t pfn, uint64_t *table);
/* The guest writes: the page is dirty. */
void xen_fake_write(uint64_t pfn, size_t at, uint64_t value);
void xen_fake_set_type(uint64_t pfn, unsigned type);
/* PVH: it gives a page back; takes it again, which no write shows until the next CLEAN. Nothing happens to one that is so already. */
void xen_fake_lose(uint64_t pfn);
void xen_fake_gain(uint64_t pfn);
/* PV: the guest's p2m says this of a page; Xen believes it too. ~0: none. */
void xen_fake_set_mfn(uint64_t pfn, uint64_t mfn);
void xen_fake_p2m_generation(uint64_t generation);
void xen_fake_p2m_count(uint64_t count);
void xen_fake_put_node(const char *path, const char *value); /* in xenstore */
void xen_fake_remove_node(const char *path);
void xen_fake_plug(const char *path);                        /* this node of a device was made or removed: who watches is told */
const char *xen_fake_node(const char *path);                 /* NULL: none */
const char *xen_fake_name(void);
void xen_fake_set_name(const char *name);
/* It shuts down by itself. */
void xen_fake_shutdown(unsigned reason);
void xen_fake_destroy(void);
/* Another program has it go on. */
void xen_fake_resume(void);

#endif
