/* xen_recheck.h - when to have Xen protect a guest's pages again, and when to leave them as they are; private to src/guest
 *
 * Xen learns of a write by the fault that the first write to a page takes. CLEAN reads the bitmap, empties it and protects all
 * pages again, so that each page of the next set costs the guest a fault; PEEK only reads it. Most guests write the same pages in
 * each epoch, and pay for them each time. So after a CLEAN the marks are kept for some epochs. What PEEK says is all that was
 * written since the last CLEAN: more than the epoch wrote, never less. What is too much is paid for by a look at each page: one that is
 * as the backup has it is neither copied nor sent.
 *
 * Numbers in, decision out, nothing else:
 *
 *   learning  each set is read by CLEAN, and so is what one epoch wrote. When so great a part of one (XEN_RECHECK_SAME) was in the one
 *             before as well, keeping the marks is worth it. A guest that always writes other pages never gets beyond this.
 *   keeping   the first set after a CLEAN is what one epoch writes, the base. What a later one has more than that is too much. A
 *             fault costs as much as XEN_RECHECK_PRICE looks. So when what is too much adds up to so many times the base,
 *             looking in vain has cost what the faults after a CLEAN would:
 *             that is the time for one, in the same pause, and for a new base (who does not know for how long he will need
 *             a thing rents it until he has paid its price, and pays twice as much as was needed at most). So it is when one set
 *             is XEN_RECHECK_GROWN of the base: the guest waits while a set is looked at. A guest that
 *             writes less than it did shows it only by a CLEAN, so there is one after XEN_RECHECK_RUN epochs in any case; and if
 *             the time for one came before the XEN_RECHECK_SHORT-th epoch, we learn again.
 *
 * A guest that goes over to writing other pages all the time has one epoch with the pages of two.
 *
 * Sets of a running guest that is moved or saved are read by CLEAN: there the next set is wanted small. Rounds that checkpoints
 * follow are read by PEEK, and by CLEAN behind it only if that does not say few pages. A CLEAN has the running guest
 * pay for all that it uses within moments, while its clients wait; few pages are sent once more, or looked at in the
 * first checkpoint, in less time than that. What the rounds kept is more than an epoch writes and shows nothing of a base: the first
 * checkpoint goes on with it, since clients wait for that one, and the second ends with a CLEAN.
 */
#ifndef RPL_GUEST_XEN_RECHECK_H
#define RPL_GUEST_XEN_RECHECK_H

#include <stdbool.h>
#include <stdint.h>

#define XEN_RECHECK_SAME 75u  /* per cent of a set that must have been in the one before */
#define XEN_RECHECK_RUN 32u   /* epochs from one CLEAN to the next, at most */
#define XEN_RECHECK_SHORT 3u  /* fewer were not worth it */
#define XEN_RECHECK_PRICE 4u  /* of a fault, in looks: 2 and 0.4 us on a processor, 55 and 6 on an emulated one */
#define XEN_RECHECK_GROWN 150u /* per cent of the base that no set but the one that shows it is larger than */
#define XEN_RECHECK_FEW 64u   /* pages: a base counts as so many at least, so that a few more are nothing to react to */

#define XEN_RECHECK_ROUND 4096u /* pages: so many, or fewer, may go into a round or the first checkpoint in vain */
#define XEN_RECHECK_PART 4u    /* and no more than one in so many of all */

enum xen_recheck_set {
	XEN_SET_EPOCH, /* of a guest that stands still */
	XEN_SET_ROUND, /* it runs, and checkpoints follow */
	XEN_SET_LIVE,  /* it runs, and is to be moved or saved */
};

struct xen_recheck {
	bool keeping;
	bool round;      /* the last set was a round's */
	bool compared;   /* learning: the last set, too, was one epoch's */
	unsigned epochs; /* keeping: sets since the last CLEAN */
	uint64_t base;   /* pages of the first of them */
	uint64_t extra;  /* pages that the others had too many, in all */
};

/* A set is to be read: by CLEAN, or by PEEK? Begin with all zeroes. */
bool xen_recheck_cleans(const struct xen_recheck *r, enum xen_recheck_set of);
/* A round's set, of so many pages of a guest that has `all`, was read by PEEK: is it to be read by CLEAN as well? Before anything else
 * is looked at: what is written between two reads would have its type looked at after neither. */
bool xen_recheck_cleans_round(struct xen_recheck *r, uint64_t pages, uint64_t all);
/* Another set had so many pages, and `again` of them were in the one before. True: it was read by PEEK, and a CLEAN is to follow
 * before the guest runs again; never of one that runs. */
bool xen_recheck_seen(struct xen_recheck *r, enum xen_recheck_set of, uint64_t pages, uint64_t again);
/* A CLEAN was done for another reason: what comes next is a new base. */
void xen_recheck_cleaned(struct xen_recheck *r);

#endif
