/* stream_format.h - the numbers of Xen's migration v2 formats, and of the two optional records of our own
 *
 * Three layers, each optional towards the outside: the xl save-file header, the libxl stream, the libxc image.
 * All fields are little-endian unless said otherwise; every record is {u32 type, u32 body length}, the body, and zero
 * bytes up to a multiple of 8. replicad-stream(7) draws every structure.
 */
#ifndef REPLICAD_STREAM_FORMAT_H
#define REPLICAD_STREAM_FORMAT_H

#include <stdbool.h>
#include <stdint.h>

enum rpl_stream_layer { RPL_LAYER_XL, RPL_LAYER_LIBXL, RPL_LAYER_LIBXC, RPL_LAYER_LEGACY };

/* ---- sizes and limits */
#define RPL_STREAM_PAGE 4096u
#define RPL_STREAM_PAGE_SHIFT 12u
#define RPL_STREAM_RECORD_HEAD 8u
#define RPL_STREAM_BODY_MAX 0x08000000u      /* body length in either layer; the limit of the stock libxc reader */
#define RPL_STREAM_PAGES_PER_RECORD 1024u    /* what stock writers put into one PAGE_DATA, and so do we */
#define RPL_STREAM_PFN_MAX UINT64_C(0x000fffffffffffff)
#define RPL_XL_HEADER 48u
#define RPL_XL_OPTIONAL_MAX (16u << 20)      /* configuration and whatever else follows the xl header */
#define RPL_LIBXL_HEADER 16u
#define RPL_IMAGE_HEADER 24u
#define RPL_DOMAIN_HEADER 16u
#define RPL_STREAM_HEADERS_MAX 128u          /* libxl header, LIBXC_CONTEXT, image header, domain header, STATIC_DATA_END */

/* ---- the xl save-file header */
#define RPL_XL_MAGIC "Xen saved domain, xl format\n \0 \r" /* 32 bytes without the terminator */
#define RPL_XL_MAGIC_LEN 32u
#define RPL_XL_BYTEORDER 0x01020304u
#define RPL_XL_FLAG_JSON 1u
#define RPL_XL_FLAG_STREAM_V2 2u

/* ---- the libxl header (big-endian) */
#define RPL_LIBXL_IDENT UINT64_C(0x4c6962786c466d74) /* LibxlFmt */
#define RPL_LIBXL_VERSION 2u
#define RPL_LIBXL_OPT_BIG_ENDIAN 1u
#define RPL_LIBXL_OPT_LEGACY 2u /* made by a converter */

/* ---- the libxc image header (big-endian) and domain header */
#define RPL_IMAGE_MARKER UINT64_C(0xffffffffffffffff)
#define RPL_IMAGE_ID 0x58454e46u /* XENF */
#define RPL_IMAGE_V2 2u
#define RPL_IMAGE_V3 3u
#define RPL_IMAGE_OPT_BIG_ENDIAN 1u
#define RPL_DOMAIN_PV 1u
#define RPL_DOMAIN_HVM 2u            /* also PVH, and guests of other hypervisors */
#define RPL_XEN_MAJOR_CONVERTED 0u   /* domain header, major: made by a legacy converter */
#define RPL_XEN_MAJOR_NONE 0xffffffffu /* domain header, major: no Xen made this; a PRODUCER record says who did */

#define RPL_RECORD_OPTIONAL 0x80000000u /* type bit: a reader that does not know it may skip it */

/* ---- records: name, number, smallest body, largest body, fixed head, size of the elements after it
 * Bodies with elements must be the head plus a whole number of them (1: any bytes).
 */
#define RPL_LIBXC_RECORDS(X)                                                         \
	X(END, 0x00, 0, 0, 0, 1)                                                     \
	X(PAGE_DATA, 0x01, 16, RPL_STREAM_BODY_MAX, 8, 8)                            \
	X(X86_PV_INFO, 0x02, 8, RPL_STREAM_BODY_MAX, 8, 1)                           \
	X(X86_PV_P2M_FRAMES, 0x03, 16, RPL_STREAM_BODY_MAX, 8, 8)                    \
	X(X86_PV_VCPU_BASIC, 0x04, 8, RPL_STREAM_BODY_MAX, 8, 1)                     \
	X(X86_PV_VCPU_EXTENDED, 0x05, 8, 8 + 128, 8, 1)                              \
	X(X86_PV_VCPU_XSAVE, 0x06, 8, RPL_STREAM_BODY_MAX, 8, 1)                     \
	X(SHARED_INFO, 0x07, RPL_STREAM_PAGE, RPL_STREAM_PAGE, 0, 1)                 \
	X(X86_TSC_INFO, 0x08, 24, 24, 24, 1)                                         \
	X(HVM_CONTEXT, 0x09, 1, RPL_STREAM_BODY_MAX, 0, 1)                           \
	X(HVM_PARAMS, 0x0a, 8, RPL_STREAM_BODY_MAX, 8, 16)                           \
	X(TOOLSTACK, 0x0b, 0, RPL_STREAM_BODY_MAX, 0, 1)                             \
	X(X86_PV_VCPU_MSRS, 0x0c, 8, RPL_STREAM_BODY_MAX, 8, 16)                     \
	X(VERIFY, 0x0d, 0, 0, 0, 1)                                                  \
	X(CHECKPOINT, 0x0e, 0, 0, 0, 1)                                              \
	X(CHECKPOINT_DIRTY_PFN_LIST, 0x0f, 0, RPL_STREAM_BODY_MAX, 0, 8)             \
	X(STATIC_DATA_END, 0x10, 0, 0, 0, 1)                                         \
	X(X86_CPUID_POLICY, 0x11, 24, RPL_STREAM_BODY_MAX, 0, 24)                    \
	X(X86_MSR_POLICY, 0x12, 16, RPL_STREAM_BODY_MAX, 0, 16)                      \
	X(RPL_PRODUCER, 0x80525001, 16, RPL_PRODUCER_MAX, 0, 1)                      \
	X(RPL_DIGEST, 0x80525002, 32, 32, 32, 1)

#define RPL_LIBXL_RECORDS(X)                                                         \
	X(END, 0x00, 0, 0, 0, 1)                                                     \
	X(LIBXC_CONTEXT, 0x01, 0, 0, 0, 1)                                           \
	X(EMULATOR_XENSTORE_DATA, 0x02, 8, RPL_STREAM_BODY_MAX, 8, 1)                \
	X(EMULATOR_CONTEXT, 0x03, 8, RPL_STREAM_BODY_MAX, 8, 1)                      \
	X(CHECKPOINT_END, 0x04, 0, 0, 0, 1)                                          \
	X(CHECKPOINT_STATE, 0x05, 4, 8, 4, 1)

/* RPL_LIBXC_PAGE_DATA, RPL_LIBXL_EMULATOR_CONTEXT, ...; our own: RPL_LIBXC_RPL_PRODUCER, RPL_LIBXC_RPL_DIGEST */
enum rpl_libxc_type {
#define RPL_X(name, nr, min, max, head, elem) RPL_LIBXC_##name = (int)(nr),
	RPL_LIBXC_RECORDS(RPL_X)
#undef RPL_X
};

enum rpl_libxl_type {
#define RPL_X(name, nr, min, max, head, elem) RPL_LIBXL_##name = (int)(nr),
	RPL_LIBXL_RECORDS(RPL_X)
#undef RPL_X
};

/* ---- PAGE_DATA descriptors: bits 63-60 page type, 59-52 zero, 51-0 pfn */
#define RPL_PAGE_NOTAB 0x0u
#define RPL_PAGE_L1TAB 0x1u
#define RPL_PAGE_L4TAB 0x4u
#define RPL_PAGE_PINNED 0x8u /* bit in the type of a page table */
#define RPL_PAGE_BROKEN 0xdu
#define RPL_PAGE_XALLOC 0xeu
#define RPL_PAGE_XTAB 0xfu
#define RPL_DESC_RESERVED UINT64_C(0x0ff0000000000000)

static inline uint64_t rpl_desc(uint64_t pfn, unsigned type)
{
	return (uint64_t)type << 60 | pfn;
}

static inline uint64_t rpl_desc_pfn(uint64_t desc)
{
	return desc & RPL_STREAM_PFN_MAX;
}

static inline unsigned rpl_desc_type(uint64_t desc)
{
	return (unsigned)(desc >> 60);
}

static inline bool rpl_page_type_valid(unsigned type)
{
	return type <= 0x4 || (type >= 0x9 && type <= 0xf);
}

/* Does a page of this type follow in the record? */
static inline bool rpl_page_type_has_data(unsigned type)
{
	return type < RPL_PAGE_BROKEN;
}

/* ---- PV guests */
#define RPL_PV_BASIC_64 5168u /* vcpu_guest_context of a 64-bit guest */
#define RPL_PV_BASIC_32 2800u
#define RPL_PV_VCPUS_MAX 8192u /* highest vCPU id we follow, plus one: Xen's own bound for a PV guest */

/* ---- HVM parameters by index */
#define RPL_HVM_PARAM_STORE_PFN 1u
#define RPL_HVM_PARAM_IOREQ_PFN 5u
#define RPL_HVM_PARAM_BUFIOREQ_PFN 6u
#define RPL_HVM_PARAM_MAX 38u /* highest index of Xen 4.17 */

/* ---- CHECKPOINT_STATE ids (COLO) and emulator ids */
#define RPL_COLO_NEW 0u
#define RPL_COLO_STATES 4u
#define RPL_EMULATOR_UNKNOWN 0u
#define RPL_EMULATOR_QEMU_TRADITIONAL 1u
#define RPL_EMULATOR_QEMU 2u

/* ---- RPL_PRODUCER, optional: who made a stream that Xen cannot restore. Before STATIC_DATA_END.
 * u32 version 1; u32 kind; u16 ranges n; u16 length of producer; u16 length of machine; u16 0;
 * n x {u64 first pfn, u64 pages, u64 offset in the RAM file}; producer; machine (UTF-8, no NUL)
 */
#define RPL_PRODUCER_VERSION 1u
#define RPL_PRODUCER_QEMU 1u
#define RPL_PRODUCER_SIM 2u
#define RPL_PRODUCER_XEN 3u /* on a link: pages with a type table, and a stream of its own as device state */
#define RPL_PRODUCER_RANGES_MAX 32u
#define RPL_PRODUCER_TEXT_MAX 255u
#define RPL_PRODUCER_MAX (16u + 24u * RPL_PRODUCER_RANGES_MAX + 2 * RPL_PRODUCER_TEXT_MAX)

/* ---- RPL_DIGEST, optional: XXH3-128 over all bytes of the image before this record. Last before END.
 * u32 algorithm 1; u32 0; u64 bytes covered; u64 low half; u64 high half
 */
#define RPL_DIGEST_XXH3_128 1u

/* What a record of this layer must look like; NULL for a type that nobody defined. */
struct rpl_stream_record_def {
	const char *name;
	uint32_t type, min, max, head, elem;
};
const struct rpl_stream_record_def *rpl_stream_record_def(enum rpl_stream_layer layer, uint32_t type);

/* Names for people: a static string, "unknown" (or "unknown optional") for what nobody defined. */
const char *rpl_stream_record_name(enum rpl_stream_layer layer, uint32_t type);
const char *rpl_stream_layer_name(enum rpl_stream_layer layer);
const char *rpl_stream_page_type_name(unsigned type);
const char *rpl_stream_hvm_param_name(uint64_t index);

/* Zero bytes after a body of this length. */
static inline unsigned rpl_stream_padding(uint32_t body_len)
{
	return -body_len & 7u;
}

#endif
