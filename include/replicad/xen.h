/* xen.h - what the two halves of the Xen backend agree on: replica layout, page types, device state
 *
 * The RAM layout of a Xen guest is its populated frame ranges and, above its highest pfn, one region more: the type
 * table. It holds one byte per page of the regions below it, at the index of that page in the RAM file: the page's
 * type as migration streams number it (RPL_PAGE_*, stream_format.h). So a page whose type changed dirties a table page,
 * travels like any other, and is committed with its epoch. Frames outside the layout have type XTAB.
 *
 * In the RAM file (a replica) pages of PV page tables are in the stream's form: their entries hold the guest's own
 * frame numbers. Pages whose type carries no data (rpl_page_type_has_data()) are zeroes there and mean nothing.
 *
 * The device state that rpl_guest_save() writes is a complete plain libxl stream without any PAGE_DATA: libxl header,
 * LIBXC_CONTEXT, image and domain header, static records to STATIC_DATA_END, for PV X86_PV_P2M_FRAMES, [pages belong
 * here], the tail records of the epoch, libxc END, EMULATOR_ records (HVM), libxl END. replicad-xen(7) draws it.
 */
#ifndef REPLICAD_XEN_H
#define REPLICAD_XEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <replicad/err.h>
#include <replicad/memory.h>

/* ---- the type table */

/* Append the region of the table to a layout that holds the guest's regions, each with file pages in order and without a
 * gap. False if there is no room. */
bool rpl_xen_layout_add_types(struct rpl_ram_layout *l);

/* Pages of the RAM file before the table; the table has a byte for each. */
static inline uint64_t rpl_xen_guest_pages(const struct rpl_ram_layout *l)
{
	return l->count ? l->region[l->count - 1].file_page : 0;
}

/* The first pfn of the table, and one more than the guest's highest. */
static inline uint64_t rpl_xen_types_pfn(const struct rpl_ram_layout *l)
{
	return l->count ? l->region[l->count - 1].pfn : 0;
}

/* The pfn in the table region of the page that holds the type of file page `file_page`. */
static inline uint64_t rpl_xen_type_pfn(const struct rpl_ram_layout *l, uint64_t file_page)
{
	return rpl_xen_types_pfn(l) + file_page / RPL_PAGE_SIZE;
}

/* For foreign input: is this a layout of guest regions with a table as above? */
bool rpl_xen_layout_check(const struct rpl_ram_layout *l, struct rpl_err *err);

/* ---- the definition: sorted "key=value" lines. Those that need an explanation:
 *   domain=pv|pvh|hvm
 *   emulated=...             HVM: what the device model emulates (src/guest/xen_emulated.h)
 *   layout=FIRST+PAGES,...   the guest's regions, hexadecimal, without the table
 *   xen=4.17                 the hypervisor's version: a context of a newer one may be refused by an older one
 */
#define RPL_XEN_KEY_DOMAIN "domain"
#define RPL_XEN_KEY_LAYOUT "layout"
#define RPL_XEN_KEY_RINGS "rings" /* PV and PVH: the frames of xenstore's and the console's ring */

#define RPL_XEN_LAYOUT_TEXT 512 /* longer than the line's value for RPL_RAM_REGIONS_MAX regions */
#define RPL_XEN_RINGS_TEXT 48   /* and than that of the rings */

/* The layout that a definition tells of, with the table. -EBADMSG if its line is missing or makes no sense. */
int rpl_xen_definition_layout(const char *definition, struct rpl_ram_layout *ret, struct rpl_err *err);
/* The frames of xenstore's and the console's ring in the line `rings=`, which must have memory in this layout. -EINVAL: not so. */
int rpl_xen_definition_rings(const char *definition, const struct rpl_ram_layout *l, uint64_t ret[2], struct rpl_err *err);
/* The other direction: the line's value. At most `size` bytes with the NUL; false if they do not suffice. */
bool rpl_xen_layout_text(const struct rpl_ram_layout *l, char *buf, size_t size);
/* Copy the value of one line of a definition; false if there is none or it does not fit. */
bool rpl_xen_definition_get(const char *definition, const char *key, char *buf, size_t size);

/* ---- sending without a mover (`replicad save`, `replicad migrate`) */

struct rpl_guest;

/* The start of the device state, up to where pages belong; of a guest whose rpl_guest_memory() was called. -EMSGSIZE if `size`
 * does not suffice. */
int rpl_xen_head(struct rpl_guest *g, void *buf, size_t size, size_t *ret_len, struct rpl_err *err);
/* Xenstore alone calls the attached domain so, which is what xl looks at; the configuration that libxl keeps does not follow. For a
 * name that does not last: a guest stands still meanwhile. */
int rpl_xen_call_it(struct rpl_guest *g, const char *name, struct rpl_err *err);
/* The type of a page as of the last take; XTAB outside the layout. The memory must be of kind RPL_MEMORY_XEN. */
unsigned rpl_xen_page_type(const struct rpl_memory *m, uint64_t pfn);

#endif
