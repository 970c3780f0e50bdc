/* sent.h - pages as this connection sent them last, so that a checkpoint can send what changed since alone
 *
 * A cache of pages in sets of SENT_WAYS: a page's frame number says its set, and in a set the hand of a clock finds whom a new
 * page replaces: pages that were met again since the hand came by stay. Everything is allocated and populated by
 * sent_init(), and nothing here makes a system call afterwards.
 *
 * What is remembered of a page is what the backup has of it: with an epoch's number, its contents as they were sent in that epoch,
 * and no later epoch sent it; with RPL_PAGES_BASE_ROUND, as a bulk round brought it, and no later round or epoch. The caller puts
 * every page of a checkpoint through sent_put(), in the order in which they are
 * sent, and forgets all with the connection: what was sent of an epoch that was cut off is no base (replica.h), and which
 * epochs of those before the backup has is then a question that need not be asked. Of a round it gives all pages to
 * sent_note(), or none: then what was remembered is forgotten, since the round may bring any of that anew.
 */
#ifndef ENGINE_SENT_H
#define ENGINE_SENT_H

#include <stdint.h>

#include <replicad/pages.h>

#define SENT_WAYS 8
#define SENT_ROUND_ROOMS 2 /* a round of more than so many times what is remembered would mostly push out itself */

struct sent_way {
	uint64_t pfn;
	uint32_t base;  /* what it is named by (pages.h); 0: nothing is in here */
	uint32_t met;   /* since the hand came by */
};

struct sent_counts {
	uint64_t zero, delta, same; /* the rest went as they are */
};

struct sent {
	uint64_t sets;         /* 0: off, all pages go as they are */
	struct sent_way *way;  /* sets * SENT_WAYS */
	uint8_t *page;         /* theirs */
	uint8_t *hand;         /* of each set */
};

int sent_init(struct sent *s, uint64_t bytes, struct rpl_err *err); /* 0: off */
void sent_fini(struct sent *s); /* accepts a zeroed struct */
void sent_forget(struct sent *s);

/* A bulk round of so many pages begins: is each to go through sent_note()? If not, all is forgotten. */
bool sent_round(struct sent *s, uint64_t pages);

/* A page of the round is sent as it is. */
void sent_note(struct sent *s, uint64_t pfn, const uint8_t *page);

/* Is this, but for what is still to be put, what the backup has of the page? Then it was met again, and stays. */
bool sent_is(struct sent *s, uint64_t pfn, const uint8_t *page);

/* Put one page of a checkpoint into a PAGES body, in the shortest form that the backup can make it from. */
void sent_put(struct sent *s, struct rpl_pages_out *o, uint64_t pfn, const uint8_t *page, uint64_t epoch,
	      struct sent_counts *counts);

#endif
