/* stream_rules.h - every rule that a stream is judged by: number, name, what it asks
 *
 * The name is what `replicad stream verify` prints and what replicad-stream(7) lists with the test that proves it.
 * `reader` rules are enforced by rpl_stream_next(): a stream that breaks one is refused. `error` and `warning` rules are
 * findings of rpl_stream_check(): an error is what stock Xen or its verifier would refuse, or restore wrongly; a warning
 * is what both tolerate though no current writer does it.
 */
#ifndef REPLICAD_STREAM_RULES_H
#define REPLICAD_STREAM_RULES_H

enum rpl_stream_severity { RPL_SEV_READER, RPL_SEV_ERROR, RPL_SEV_WARNING };

#define RPL_STREAM_RULES(X)                                                                                     \
	X(NONE, "none", WARNING, "no rule is broken")                                                           \
	/* ---- xl header */                                                                                    \
	X(XL_MAGIC, "xl-magic", READER, "32 bytes of magic")                                                    \
	X(XL_BYTEORDER, "xl-byteorder", READER, "byte order mark 0x01020304 in this machine's order")           \
	X(XL_FLAGS, "xl-flags", READER, "no unknown mandatory flag")                                            \
	X(XL_OPTIONAL, "xl-optional", READER, "optional data within 16 MiB, its configuration within it")       \
	X(XL_CONFIG_NUL, "xl-config-nul", ERROR, "a configuration ends in a NUL and has no other")              \
	X(XL_CONFIG_JSON, "xl-config-json", ERROR, "the configuration is a JSON object, and flagged as one")     \
	X(XL_RESERVED, "xl-reserved", WARNING, "optional flags are 0")                                          \
	/* ---- libxl layer */                                                                                  \
	X(LIBXL_IDENT, "libxl-ident", READER, "ident LibxlFmt")                                                 \
	X(LIBXL_VERSION, "libxl-version", READER, "version 2")                                                  \
	X(LIBXL_ENDIAN, "libxl-endian", READER, "little-endian")                                                \
	X(LIBXL_OPTIONS, "libxl-options", ERROR, "option bits 2-31 are 0")                                      \
	X(LIBXL_TYPE, "libxl-type", READER, "a defined record type")                                            \
	X(LIBXL_OPTIONAL, "libxl-optional", ERROR, "no optional record: stock libxl refuses every unknown type") \
	X(LIBXL_LAYER, "libxl-layer", READER, "LIBXC_CONTEXT once; CHECKPOINT_END only inside a checkpoint")    \
	X(LIBXL_ORDER, "libxl-order", ERROR, "LIBXC_CONTEXT first; each emulator record once, XENSTORE_DATA first") \
	X(LIBXL_EMULATOR, "libxl-emulator", ERROR, "emulator id 0-2, index 0, and only in a stream of an HVM guest") \
	X(LIBXL_EMU_EMPTY, "libxl-emulator-empty", WARNING, "an emulator record has content")                   \
	X(LIBXL_XENSTORE, "libxl-xenstore", ERROR, "NUL-terminated pairs; keys relative and not empty")         \
	X(LIBXL_COLO, "libxl-colo", ERROR, "CHECKPOINT_STATE id 0-3, only 0 towards the secondary, HVM only")   \
	/* ---- libxc headers */                                                                                \
	X(IMAGE_MARKER, "image-marker", READER, "marker of 64 ones")                                            \
	X(IMAGE_ID, "image-id", READER, "id XENF")                                                              \
	X(IMAGE_VERSION, "image-version", READER, "version 2 or 3")                                             \
	X(IMAGE_ENDIAN, "image-endian", READER, "little-endian")                                                \
	X(IMAGE_RESERVED, "image-reserved", ERROR, "option bits 1-15 and both reserved fields are 0")           \
	X(DOMAIN_TYPE, "domain-type", READER, "domain type 1 (PV) or 2 (HVM)")                                  \
	X(DOMAIN_SHIFT, "domain-page-shift", READER, "page shift 12")                                           \
	X(DOMAIN_RESERVED, "domain-reserved", ERROR, "the reserved field is 0")                                 \
	/* ---- framing */                                                                                      \
	X(RECORD_LIMIT, "record-limit", READER, "a body of at most 128 MiB")                                    \
	X(RECORD_LENGTH, "record-length", READER, "the length that the type demands")                           \
	X(RECORD_PADDING, "record-padding", ERROR, "padding is zero")                                           \
	X(RECORD_RESERVED, "record-reserved", ERROR, "reserved fields of a body are zero")                      \
	X(RECORD_TYPE, "record-type", READER, "a defined mandatory record type")                                \
	X(RECORD_OPTIONAL, "record-optional", WARNING, "no optional record of unknown type")                    \
	X(RECORD_TOOLSTACK, "record-toolstack", ERROR, "no TOOLSTACK record: no reader takes it")               \
	X(RECORD_BACKCHANNEL, "record-back-channel", ERROR, "no CHECKPOINT_DIRTY_PFN_LIST in a forward stream") \
	/* ---- memory */                                                                                       \
	X(PAGE_COUNT, "page-count", READER, "count at least 1, room for that many descriptors")                 \
	X(PAGE_LIMIT, "page-limit", READER, "no more descriptors than this reader has room for")                \
	X(PAGE_TYPE, "page-type", READER, "page types 0-4 and 9-15")                                            \
	X(PAGE_LENGTH, "page-length", READER, "length 8 + 8 x count + 4096 x pages with data")                  \
	X(PAGE_RESERVED, "page-reserved", ERROR, "descriptor bits 52-59 are 0")                                 \
	X(PAGE_BATCH, "page-batch", WARNING, "at most 1024 descriptors, as every stock writer keeps to")        \
	X(PAGE_PFN, "page-pfn", ERROR, "a PV pfn within P2M_FRAMES; an HVM pfn below 2^40")                     \
	X(PAGE_TABLE, "page-table-type", WARNING, "page-table types only in PV streams")                        \
	X(PAGE_TABLE_LEVEL, "page-table-level", ERROR, "no L4 page in a 32-bit guest")                          \
	X(PAGE_PTE, "page-table-entry", ERROR, "present entries name pfns within P2M_FRAMES; no superpage")     \
	X(PAGE_DUPLICATE, "page-duplicate", WARNING, "a pfn once per record")                                   \
	/* ---- order */                                                                                        \
	X(ORDER_STATIC, "order-static", ERROR, "v3: STATIC_DATA_END before P2M_FRAMES, pages and the tail; once") \
	X(ORDER_STATIC_REC, "order-static-record", ERROR, "static records before STATIC_DATA_END, each once")   \
	X(ORDER_V2, "order-v2", ERROR, "a v2 image holds no v3 record")                                         \
	X(ORDER_PV_INFO, "order-pv-info", ERROR, "X86_PV_INFO once, before P2M_FRAMES, SHARED_INFO and pages")  \
	X(ORDER_P2M, "order-p2m", ERROR, "PV: P2M_FRAMES once, before pages")                                   \
	X(ORDER_TAIL, "order-tail", WARNING, "no pages behind tail records of the same checkpoint")             \
	X(ORDER_TAIL_ONCE, "order-tail-once", ERROR, "each tail record once per checkpoint")                    \
	X(ORDER_PARAMS, "order-hvm-params", WARNING, "HVM_PARAMS before HVM_CONTEXT (libxc writes the opposite)") \
	X(ORDER_VERIFY, "order-verify", ERROR, "VERIFY once, in a plain stream, between pages")                 \
	X(ORDER_CHECKPOINT, "order-checkpoint", ERROR, "no END behind a CHECKPOINT")                            \
	X(GUEST_RECORD, "guest-record", ERROR, "PV records in PV streams, HVM records in HVM streams")          \
	/* ---- contents */                                                                                     \
	X(PV_WIDTH, "pv-width", ERROR, "width 8 with 4 levels, or width 4 with 3")                              \
	X(PV_INFO_LONG, "pv-info-long", WARNING, "X86_PV_INFO of 8 bytes")                                      \
	X(P2M_RANGE, "p2m-range", ERROR, "first pfn <= last pfn")                                               \
	X(P2M_PAGES, "p2m-pages", ERROR, "the p2m's frames are ordinary pages of the stream, in each checkpoint") \
	X(P2M_FRAMES, "p2m-frames", ERROR, "last/fpp + 1 - first/fpp frames, each within the range")            \
	X(VCPU_ID, "vcpu-id", ERROR, "vCPU ids below 8192, each record once per checkpoint")                    \
	X(VCPU_BASIC, "vcpu-basic", ERROR, "BASIC of 5168 bytes (64-bit) or 2800 (32-bit)")                     \
	X(VCPU_FRAMES, "vcpu-frames", ERROR,                                                                     \
	  "CR3 and CR1 name top-level tables, start_info and GDT ordinary pages, all in the stream")            \
	X(VCPU_GDT, "vcpu-gdt", ERROR, "at most 7168 GDT entries")                                              \
	X(VCPU_NO_BASIC, "vcpu-no-basic", WARNING, "EXTENDED, XSAVE and MSRS only of a vCPU with BASIC")          \
	X(VCPU_XSAVE, "vcpu-xsave", ERROR, "XSAVE of at least 16 bytes")                                        \
	X(VCPU_EMPTY, "vcpu-empty", WARNING, "a vCPU record has content (Xen 4.6-4.8 wrote empty ones)")        \
	X(VCPU_MSRS, "vcpu-msrs", ERROR, "MSR entries with reserved 0")                                         \
	X(TSC_MODE, "tsc-mode", ERROR, "TSC mode 0-2")                                                          \
	X(HVM_PARAM_COUNT, "hvm-param-count", READER, "length 8 + 16 x count")                                  \
	X(HVM_PARAM_EMPTY, "hvm-param-empty", WARNING, "at least one parameter (Xen 4.6-4.8 wrote none)")       \
	X(HVM_PARAM, "hvm-param", ERROR, "parameter indices that Xen takes from a stream, each once")           \
	X(HVM_CONTEXT, "hvm-context", ERROR, "a chain of entries from HEADER to END that fills the blob exactly") \
	X(HVM_CONTEXT_SIZE, "hvm-context-size", WARNING, "entries of the types, sizes and instances of Xen 4.17") \
	X(CPUID_POLICY, "cpuid-policy", WARNING, "leaves in ascending order, none twice")                         \
	X(MSR_POLICY, "msr-policy", ERROR, "flags 0, no index twice")                                           \
	X(PRODUCER, "producer", ERROR, "a well-formed RPL_PRODUCER, once, before STATIC_DATA_END")              \
	X(DIGEST, "digest", ERROR, "RPL_DIGEST matches the bytes before it")                                    \
	/* ---- completeness */                                                                                 \
	X(TAIL_MISSING, "tail-missing", ERROR, "PV: SHARED_INFO and vCPU 0; HVM: HVM_CONTEXT; in each checkpoint") \
	X(MEMORY_MISSING, "memory-missing", ERROR, "at least one PAGE_DATA in the first checkpoint")            \
	X(EMULATOR_MISSING, "emulator-missing", WARNING, "EMULATOR_CONTEXT in every checkpoint once it was in one") \
	X(ENDING, "ending", ERROR, "END, or the end of the bytes right behind a checkpoint")                    \
	X(TRAILING, "trailing", READER, "nothing behind the final END")                                         \
	X(LEGACY, "legacy", READER, "a v2 stream (convert a legacy one first)")                                 \
	X(XL_CONFIG_GUEST, "xl-config-guest", ERROR, "the configuration's guest is of the image's type, with as many vCPUs")

enum rpl_stream_rule {
#define RPL_X(id, name, severity, text) RPL_RULE_##id,
	RPL_STREAM_RULES(RPL_X)
#undef RPL_X
	RPL_RULES
};

struct rpl_stream_rule_def {
	const char *name, *text;
	enum rpl_stream_severity severity;
};
/* Never NULL. */
const struct rpl_stream_rule_def *rpl_stream_rule_def(enum rpl_stream_rule rule);

#endif
