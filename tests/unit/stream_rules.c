/* Every rule of stream_rules.h is broken once, alone, and found; and streams that break none are clean.
 *
 * Streams are written as words, see stream_words.h.
 */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <replicad/auto.h>
#include <replicad/stream.h>
#include <replicad/stream_check.h>

#include "../lib/stream_words.h"

#define SHOULD_BE_CLEAN RPL_RULE_NONE

#define HVM_HEADER "0100000018000000" "8612385401000000" "0000000000000000" "0000000000000000"

struct rule_case {
	enum rpl_stream_rule rule;
	enum rpl_stream_format format;
	const char *words;
	bool alone;  /* one finding, of this rule */
	uint64_t at; /* the offset that the finding names */
};

static const struct rule_case broken[] = {
	/* xl */
	{ RPL_RULE_XL_MAGIC, XL, "XL " LIBXL " @31=0a", true, 0 },
	{ RPL_RULE_XL_BYTEORDER, XL, "XL " LIBXL " @32=01020304", true, 32 },
	{ RPL_RULE_XL_FLAGS, XL, "XL " LIBXL " @36=07", true, 36 },
	{ RPL_RULE_XL_OPTIONAL, XL, "XL " LIBXL " @44=ffffffff", true, 44 },
	{ RPL_RULE_XL_OPTIONAL, XL, "XL " LIBXL " @44=03", true, 44 },
	{ RPL_RULE_XL_OPTIONAL, XL, "XL " LIBXL " @48=04", true, 48 },
	{ RPL_RULE_XL_CONFIG_NUL, XL, "XLn " LIBXL, true, 54 },
	{ RPL_RULE_XL_CONFIG_NUL, XL, "XL " LIBXL " @53=00", true, 53 },
	{ RPL_RULE_XL_CONFIG_JSON, XL, "XL " LIBXL " @36=02", true, 36 },
	{ RPL_RULE_XL_RESERVED, XL, "XL " LIBXL " @40=01", true, 40 },
	/* libxl */
	{ RPL_RULE_LIBXL_IDENT, XLI, LIBXL " @7=75", true, 0 },
	{ RPL_RULE_LIBXL_VERSION, XLI, LIBXL " @11=01", true, 8 },
	{ RPL_RULE_LIBXL_ENDIAN, XLI, LIBXL " @15=01", true, 12 },
	{ RPL_RULE_LIBXL_OPTIONS, XLI, LIBXL " @15=04", true, 12 },
	{ RPL_RULE_LIBXL_TYPE, XLI, "L LX " HVM " x:0600000000000000 LE", true, 4312 },
	{ RPL_RULE_LIBXL_OPTIONAL, XLI, "L LX " HVM " x:0600008000000000 LE", true, 4312 },
	{ RPL_RULE_LIBXL_LAYER, XLI, "L LX " HVM " LX LE", true, 4312 },
	{ RPL_RULE_LIBXL_LAYER, XLI, "L LX " HVM " LC", true, 4312 },
	{ RPL_RULE_LIBXL_LAYER, XLI, "L LX I3 DH S P T HP HC C LE", true, 4312 },
	{ RPL_RULE_LIBXL_ORDER, XLI, "L LX " HVM " EM ES LE", true, 4336 },
	{ RPL_RULE_LIBXL_ORDER, XLI, "L LX " HVM " EM EM LE", true, 4336 },
	{ RPL_RULE_LIBXL_ORDER, XLI, "L ES LX " HVM " LE", false, 16 },
	{ RPL_RULE_LIBXL_EMULATOR, XLI, "L LX " PV " EM LE", true, 13568 },
	{ RPL_RULE_LIBXL_EMULATOR, XLI, "L LX " HVM " x:0300000009000000" "0300000000000000" "0100000000000000 LE", true, 4320 },
	{ RPL_RULE_LIBXL_EMULATOR, XLI, "L LX " HVM " x:0300000009000000" "0200000001000000" "0100000000000000 LE", true, 4320 },
	{ RPL_RULE_LIBXL_EMU_EMPTY, XLI, "L LX " HVM " x:0300000008000000" "0200000000000000 LE", true, 4312 },
	{ RPL_RULE_LIBXL_XENSTORE, XLI, "L LX " HVM " x:020000000a000000" "0200000000000000" "6b00000000000000 LE", true, 4316 },
	{ RPL_RULE_LIBXL_XENSTORE, XLI, "L LX " HVM " x:020000000b000000" "0200000000000000" "0076000000000000 LE", true, 4328 },
	{ RPL_RULE_LIBXL_XENSTORE, XLI, "L LX " HVM " x:020000000c000000" "0200000000000000" "2f00760000000000 LE", true, 4328 },
	{ RPL_RULE_LIBXL_XENSTORE, XLI, "L LX " HVM " x:020000000b000000" "0200000000000000" "6b00760000000000 LE", true, 4316 },
	{ RPL_RULE_LIBXL_COLO, XLI, "L LX I3 DH S P HP HC C EM LC x:0500000004000000" "0100000000000000 P HP HC C EM LC", true, 4320 },
	/* libxc headers */
	{ RPL_RULE_IMAGE_MARKER, XC, HVM " @0=fe", true, 0 },
	{ RPL_RULE_IMAGE_ID, XC, HVM " @8=59", true, 8 },
	{ RPL_RULE_IMAGE_VERSION, XC, HVM " @15=01", true, 12 },
	{ RPL_RULE_IMAGE_VERSION, XC, HVM " @15=04", true, 12 },
	{ RPL_RULE_IMAGE_ENDIAN, XC, HVM " @17=01", true, 16 },
	{ RPL_RULE_IMAGE_RESERVED, XC, HVM " @17=02", true, 16 },
	{ RPL_RULE_IMAGE_RESERVED, XC, HVM " @19=01", true, 16 },
	{ RPL_RULE_IMAGE_RESERVED, XC, HVM " @23=01", true, 16 },
	{ RPL_RULE_DOMAIN_TYPE, XC, HVM " @24=03", true, 24 },
	{ RPL_RULE_DOMAIN_TYPE, XC, HVM " @24=00", true, 24 },
	{ RPL_RULE_DOMAIN_SHIFT, XC, HVM " @28=0d", true, 28 },
	{ RPL_RULE_DOMAIN_RESERVED, XC, HVM " @30=01", true, 30 },
	/* framing */
	{ RPL_RULE_RECORD_LIMIT, XC, "I3 DH S x:0900000001000008", true, 52 },
	{ RPL_RULE_RECORD_LIMIT, XC, "I3 DH S x:01000000ffffffff", true, 52 },
	{ RPL_RULE_RECORD_LIMIT, XC, "I3 DH S x:01000080ffffffff", true, 52 },
	{ RPL_RULE_RECORD_LENGTH, XC, "I3 DH S P T HP HC x:0000000008000000" "0000000000000000", false, 4284 },
	{ RPL_RULE_RECORD_LENGTH, XC, "I3 DH S P T HP HC x:0900000000000000 E", true, 4284 },
	{ RPL_RULE_RECORD_LENGTH, XC, "I3 DH x:1000000001000000" "0000000000000000 S P T HP HC E", true, 44 },
	{ RPL_RULE_RECORD_LENGTH, XC, "I3 DH x:1100000000000000 S P HP HC E", true, 44 },
	{ RPL_RULE_RECORD_LENGTH, XC, "I3 DH x:1100000019000000 Z4096 @56=00", false, 44 },
	{ RPL_RULE_RECORD_PADDING, XLI, "L LX " HVM " x:0300000009000000" "0200000000000000" "0100000000000001 LE", true, 4329 },
	{ RPL_RULE_RECORD_RESERVED, XC, HVM " @60=01", true, 56 },  /* PAGE_DATA */
	{ RPL_RULE_RECORD_RESERVED, XC, "I3 DH S P x:0a00000008000000" "0000000001000000 HC E", false, 4176 },
	{ RPL_RULE_RECORD_TYPE, XC, "I3 DH S P T HP HC x:1300000000000000 E", true, 4280 },
	{ RPL_RULE_RECORD_OPTIONAL, XC, "I3 DH S P T HP HC x:1300008004000000" "0000000000000000 E", true, 4280 },
	{ RPL_RULE_RECORD_TOOLSTACK, XC, "I3 DH S P T HP HC x:0b00000000000000 E", true, 4280 },
	{ RPL_RULE_RECORD_BACKCHANNEL, XC, "I3 DH S P T HP HC x:0f00000008000000" "0000000000000000 E", true, 4280 },
	/* memory */
	{ RPL_RULE_PAGE_COUNT, XC, "I3 DH S P T HP HC x:0100000008000000" "0000000000000000 E", false, 4284 },
	{ RPL_RULE_PAGE_COUNT, XC, "I3 DH S x:0100000010000000" "0000000000000000" "0000000000000000 P T HP HC E", true, 56 },
	{ RPL_RULE_PAGE_COUNT, XC, "I3 DH S x:0100000010000000" "ffffffff00000000" "0000000000000000 P T HP HC E", true, 56 },
	{ RPL_RULE_PAGE_LIMIT, XC, "I3 DH S P x:0100000010400000" "0108000000000000", false, 4176 },
	{ RPL_RULE_PAGE_TYPE, XC, "I3 DH S P x:0100000010000000" "0100000000000000" "0000000000000050 T HP HC E", false, 4184 },
	{ RPL_RULE_PAGE_TYPE, XC, "I3 DH S P x:0100000010000000" "0100000000000000" "0000000000000080 T HP HC E", false, 4184 },
	{ RPL_RULE_PAGE_LENGTH, XC, "I3 DH S P x:0100000010000000" "0100000000000000" "0000000000000000 T HP HC E", false, 4172 },
	{ RPL_RULE_PAGE_LENGTH, XC, "I3 DH S P x:0100000010100000" "0100000000000000" "00000000000000f0 Z4096 T HP HC E", false, 4172 },
	{ RPL_RULE_PAGE_RESERVED, XC, "I3 DH S P T HP HC E @70=f0", true, 64 },
	{ RPL_RULE_PAGE_RESERVED, XC, "I3 DH S x:0100000018000000" "0200000000000000" "00000000000000f0" "010000000000f0ff"
				      " P T HP HC E", true, 72 },
	{ RPL_RULE_PAGE_PFN, XC, HVM " @64=0000000000010000", true, 64 }, /* pfn 2^40 */
	{ RPL_RULE_PAGE_PFN, XC, HVM " @64=ffffffffffff0f00", true, 64 }, /* the highest there is */
	{ RPL_RULE_PAGE_PFN, XC, "I3 DP V8 S F x:0100000010000000" "0100000000000000" "00040000000000f0 P T SI B8 E", true, 112 },
	{ RPL_RULE_PAGE_TABLE, XC, "I3 DH S P4 HP HC E", true, 64 },
	{ RPL_RULE_PAGE_TABLE_LEVEL, XC, "I3 DP V4 S x:0300000010000000" "00000000ff030000" "0700000000000000 P4 SI B4 E", true, 104 },
	{ RPL_RULE_PAGE_DUPLICATE, XC, "I3 DH S P x:0100000018000000" "0200000000000000" "05000000000000f0"
				       "05000000000000f0 T HP HC E", true, 4192 },
	/* order */
	{ RPL_RULE_ORDER_STATIC, XC, "I3 DH P T HP HC E", true, 40 },
	{ RPL_RULE_ORDER_STATIC, XC, "I3 DH S S P T HP HC E", true, 48 },
	{ RPL_RULE_ORDER_STATIC_REC, XC, "I3 DH S x:1200000010000000" "ce00000000000000" "0000000000000000 P T HP HC E", true, 48 },
	{ RPL_RULE_ORDER_STATIC_REC, XC, "I3 DH x:1200000010000000" "ce00000000000000" "0000000000000000 x:1200000010000000"
					 "ce00000000000000" "0000000000000000 S P T HP HC E", true, 64 },
	{ RPL_RULE_ORDER_V2, XC, "I2 DH S P T HP HC E", true, 40 },
	{ RPL_RULE_ORDER_PV_INFO, XC, "I3 DP S F P SI B8 E", false, 40 },
	{ RPL_RULE_ORDER_PV_INFO, XC, "I3 DP V8 V8 S F P SI B8 E", true, 56 },
	{ RPL_RULE_ORDER_P2M, XC, "I3 DP V8 S P SI B8 E", true, 64 },
	{ RPL_RULE_ORDER_P2M, XC, "I3 DP V8 S F F P SI B8 E", true, 96 },
	{ RPL_RULE_ORDER_TAIL, XC, "I3 DH S P T P HP HC E", true, 4200 },
	{ RPL_RULE_ORDER_TAIL_ONCE, XC, "I3 DH S P T T HP HC E", true, 4200 },
	{ RPL_RULE_ORDER_TAIL_ONCE, XC, "I3 DH S P HC HC E", true, 4216 },
	{ RPL_RULE_ORDER_TAIL_ONCE, XC, "I3 DP V8 S F P SI SI B8 E", true, 8320 },
	{ RPL_RULE_ORDER_TAIL_ONCE, XC, "I3 DH S P HP HP HC E", false, 4200 },
	{ RPL_RULE_ORDER_PARAMS, XC, "I3 DH S P T HC HP E", true, 4248 },
	{ RPL_RULE_ORDER_VERIFY, XC, "I3 DH S VF P T HP HC E", true, 48 },
	{ RPL_RULE_ORDER_VERIFY, XC, "I3 DH S P VF P VF P T HP HC E", true, 8296 },
	{ RPL_RULE_ORDER_CHECKPOINT, XC, "I3 DH S P HP HC C P HP HC E", true, 8456 },
	{ RPL_RULE_GUEST_RECORD, XC, "I3 DH S P SI HP HC E", true, 4168 },
	{ RPL_RULE_GUEST_RECORD, XC, "I3 DP V8 S F P HP SI B8 E", true, 4216 },
	/* contents */
	{ RPL_RULE_PV_WIDTH, XC, "I3 DP x:0200000008000000" "0803000000000000 S F P SI B8 E", true, 48 },
	{ RPL_RULE_PV_INFO_LONG, XC, "I3 DP x:0200000010000000" "0804000000000000" "0000000000000000 S F P SI B8 E", true, 44 },
	{ RPL_RULE_P2M_RANGE, XC, "I3 DP V8 S x:0300000010000000" "01000000" "00000000" "0000000000000000 SI B8 P E", false, 72 },
	{ RPL_RULE_P2M_FRAMES, XC, "I3 DP V8 S x:0300000010000000" "00000000" "ff030000" "0000000000000000 P SI B8 E", true, 68 },
	{ RPL_RULE_P2M_FRAMES, XC, "I3 DP V8 S x:0300000010000000" "00000000" "ff010000" "0002000000000000 P SI B8 E", true, 80 },
	/* one finding for each record, however often it breaks the rule */
	{ RPL_RULE_P2M_FRAMES, XC, "I3 DP V8 S x:0300000018000000" "00000000" "ff030000" "0004000000000000" "0104000000000000"
				   " P SI B8 E", true, 80 },
	{ RPL_RULE_PAGE_PFN, XC, "I3 DP V8 S F x:0100000018000000" "0200000000000000" "00040000000000f0" "01040000000000f0"
				 " P SI B8 E", true, 112 },
	{ RPL_RULE_CPUID_POLICY, XC, "I3 DH x:1100000048000000" "0100000000000000" "0000000000000000" "0000000000000000"
				     "0000000000000000" "0000000000000000" "0000000000000000" "0000000000000000"
				     "0000000000000000" "0000000000000000 S P T HP HC E", true, 72 },
	{ RPL_RULE_ORDER_STATIC, XC, "I3 DH P P T HP HC E", true, 40 },
	{ RPL_RULE_VCPU_ID, XC, "I3 DP V8 S F P SI B8 B8 E", true, 13512 },
	{ RPL_RULE_VCPU_ID, XC, "I3 DP V8 S F P SI B8 x:0600000018000000" "0020000000000000" "0000000000000000"
				"0000000000000000 E", true, 13512 },
	{ RPL_RULE_VCPU_BASIC, XC, "I3 DP V8 S F P SI B4 E", true, 8324 },
	{ RPL_RULE_VCPU_BASIC, XC, "I3 DP V4 S x:0300000010000000" "00000000ff030000" "0700000000000000 P SI B8 E", true, 8316 },
	{ RPL_RULE_VCPU_NO_BASIC, XC, "I3 DP V8 S F P SI B8 x:0600000018000000" "0100000000000000" "0000000000000000"
				      "0000000000000000 E", true, 13536 },
	{ RPL_RULE_VCPU_XSAVE, XC, "I3 DP V8 S F P SI B8 x:0600000010000000" "0000000000000000" "0000000000000000 E", true, 13508 },
	{ RPL_RULE_VCPU_EMPTY, XC, "I3 DP V8 S F P SI B8 x:0600000008000000" "0000000000000000 E", true, 13508 },
	{ RPL_RULE_VCPU_MSRS, XC, "I3 DP V8 S F P SI B8 x:0c00000018000000" "0000000000000000" "0100000001000000"
				  "0000000000000000 E", true, 13524 },
	{ RPL_RULE_TSC_MODE, XC, "I3 DH S P x:0800000018000000" "0300000001000000" "0000000000000000" "0000000000000000"
				 " HP HC E", true, 4176 },
	{ RPL_RULE_HVM_PARAM_COUNT, XC, "I3 DH S P x:0a00000018000000" "0200000000000000" "0100000000000000"
					"0100000000000000 HC E", true, 4176 },
	{ RPL_RULE_HVM_PARAM_COUNT, XC, "I3 DH S P x:0a00000009000000" "0000000000000000" "0000000000000000 HC E", true, 4172 },
	{ RPL_RULE_HVM_PARAM_EMPTY, XC, "I3 DH S P x:0a00000008000000" "0000000000000000 HC E", true, 4168 },
	{ RPL_RULE_HVM_PARAM, XC, "I3 DH S P x:0a00000018000000" "0100000000000000" "0000000000000000"
				  "0100000000000000 HC E", true, 4184 },
	{ RPL_RULE_HVM_PARAM, XC, "I3 DH S P x:0a00000028000000" "0200000000000000" "0100000000000000" "0100000000000000"
				  "0100000000000000" "0100000000000000 HC E", true, 4200 },
	{ RPL_RULE_HVM_PARAM, XC, "I3 DH S P x:0a00000018000000" "0100000000000000" "ffffffffffffffff"
				  "0100000000000000 HC E", true, 4184 },
	{ RPL_RULE_HVM_CONTEXT, XC, "I3 DH S P HP x:0900000008000000" "0000000000000000 E", true, 4208 },
	{ RPL_RULE_HVM_CONTEXT, XC, "I3 DH S P HP x:0900000004000000" "0100000000000000 E", true, 4212 },
	{ RPL_RULE_HVM_CONTEXT, XC, "I3 DH S P HP HC E @4216=87", true, 4208 },
	{ RPL_RULE_HVM_CONTEXT, XC, "I3 DH S P HP x:0900000030000000" HVM_HEADER "0000000000000000" "0000000000000000 E", true, 4248 },
	{ RPL_RULE_HVM_CONTEXT, XC, "I3 DH S P HP x:0900000030000000" HVM_HEADER "0000000008000000" "0000000000000000 E", true, 4240 },
	{ RPL_RULE_HVM_CONTEXT, XC, "I3 DH S P HP x:0900000048000000" HVM_HEADER HVM_HEADER "0000000000000000 E", true, 4240 },
	{ RPL_RULE_HVM_CONTEXT, XC, "I3 DH S P HP x:0900000020000000" HVM_HEADER " E", true, 4240 },
	{ RPL_RULE_HVM_CONTEXT_SIZE, XC, "I3 DH S P HP x:0900000030000000" HVM_HEADER "1500000000000000" "0000000000000000 E", true, 4240 },
	{ RPL_RULE_HVM_CONTEXT_SIZE, XC, "I3 DH S P HP x:0900000031000000" "0100000018000000" "8612385401000000"
					 "0000000000000000" "0000000000000000" "0a00000001000000" "00" "0000000000000000"
					 "00000000000000 E", true, 4240 },
	{ RPL_RULE_CPUID_POLICY, XC, "I3 DH x:1100000030000000" "00000000ffffffff" "0000000000000000" "0000000000000000"
				     "00000000ffffffff" "0000000000000000" "0000000000000000 S P HP HC E", true, 72 },
	{ RPL_RULE_MSR_POLICY, XC, "I3 DH x:1200000010000000" "ce00000001000000" "0000000000000000 S P HP HC E", true, 48 },
	{ RPL_RULE_MSR_POLICY, XC, "I3 DH x:1200000020000000" "ce00000000000000" "0000000000000000" "ce00000000000000"
				   "0000000000000000 S P HP HC E", true, 64 },
	{ RPL_RULE_PRODUCER, XLI, "L LX I3 DQ PR PR S P C EM LC", true, 96 },
	{ RPL_RULE_PRODUCER, XLI, "L LX I3 DQ S PR P C EM LC", true, 72 },
	{ RPL_RULE_PRODUCER, XLI, "L LX I3 DQ PR S P C EM LC @72=02", true, 72 },
	{ RPL_RULE_PRODUCER, XLI, "L LX I3 DQ PR S P C EM LC @80=01", true, 72 },
	/* completeness */
	{ RPL_RULE_TAIL_MISSING, XC, "I3 DH S P T HP E", true, 4232 },
	{ RPL_RULE_TAIL_MISSING, XC, "I3 DP V8 S F P B8 E", true, 9400 },
	{ RPL_RULE_TAIL_MISSING, XC, "I3 DP V8 S F P SI E", true, 8320 },
	{ RPL_RULE_TAIL_MISSING, XC, "I3 DH S P HP HC C P C", false, 8376 },
	{ RPL_RULE_TAIL_MISSING, XLI, "L LX I3 DQ PR S P C LC", true, 4232 },
	{ RPL_RULE_MEMORY_MISSING, XC, "I3 DH S T HP HC E", true, 160 },
	{ RPL_RULE_EMULATOR_MISSING, XLI, "L LX I3 DH S P HP HC C EM LC P HP HC C LC", true, 8520 },
	{ RPL_RULE_ENDING, XC, "I3 DH S P T HP HC", true, 4280 },
	{ RPL_RULE_ENDING, XC, "I3 DH S P HP HC C P", true, 8376 },
	{ RPL_RULE_ENDING, XLI, "L LX I3 DH S P HP HC C", true, 4280 },
	{ RPL_RULE_ENDING, XLI, "L LX " HVM, true, 4312 },
	{ RPL_RULE_ENDING, XLI, "L", true, 16 },
	{ RPL_RULE_TRAILING, XC, HVM " x:00", true, 4288 },
	{ RPL_RULE_TRAILING, XLI, LIBXL " x:00", true, 4344 },
	{ RPL_RULE_LEGACY, RPL_FORMAT_LEGACY, "x:0010000000000000", true, 0 },
};

static void good_streams_are_clean(void **state)
{
	(void)state;
	for (size_t i = 0; i < n_clean_streams; i++) {
		struct seen s = judge(clean_streams[i].format, build(clean_streams[i].words), false);

		if (s.total)
			fail_msg("'%s': %s", clean_streams[i].words, s.first);
	}
}

static void each_broken_rule_is_found(void **state)
{
	unsigned failed = 0;

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(broken); i++) {
		const struct rule_case *b = &broken[i];
		const char *name = rpl_stream_rule_def(b->rule)->name;
		struct seen s = judge(b->format, build(b->words), false);

		if (s.count[b->rule] && s.at[b->rule] == b->at && (!b->alone || s.total == 1))
			continue;
		failed++;
		print_message("%s: '%s': expected %sit at %" PRIu64 ", found at %" PRIu64 "; %" PRIu64 " findings, the first is %s\n",
			      name, b->words, b->alone ? "only " : "", b->at, s.at[b->rule], s.total, s.total ? s.first : "none");
	}
	assert_int_equal(failed, 0);
}

/* Rules whose broken streams are too big for the table, or which need a library that the checker does without. */
static const struct {
	enum rpl_stream_rule rule;
	const char *label, *test; /* what replicad-stream(7) calls it; a function here, or a script beside */
} elsewhere[] = {
	{ RPL_RULE_PAGE_BATCH, "batches", "batches_above_1024_are_remarked" },
	{ RPL_RULE_PAGE_PTE, "tables", "page_table_entries_must_resolve" },
	{ RPL_RULE_VCPU_FRAMES, "vcpus", "what_a_vcpu_names_must_be_there" },
	{ RPL_RULE_VCPU_GDT, "vcpus", "what_a_vcpu_names_must_be_there" },
	{ RPL_RULE_P2M_PAGES, "p2m", "the_frames_of_the_p2m_must_be_there" },
	{ RPL_RULE_XL_CONFIG_GUEST, "commands", "stream-commands" },
	{ RPL_RULE_DIGEST, "commands", "stream-commands" },
};

/* The test that shows a rule: "case" for the table's. NULL: none. */
static const char *test_of(enum rpl_stream_rule rule, const char **ret_label)
{
	*ret_label = "case";
	for (size_t i = 0; i < RPL_ARRAY_LEN(broken); i++)
		if (broken[i].rule == rule)
			return *ret_label;
	for (size_t i = 0; i < RPL_ARRAY_LEN(elsewhere); i++) {
		*ret_label = elsewhere[i].label;
		if (elsewhere[i].rule == rule)
			return elsewhere[i].test;
	}
	return NULL;
}

static void no_rule_is_without_a_case(void **state)
{
	const char *label;

	(void)state;
	for (unsigned i = RPL_RULE_NONE + 1; i < RPL_RULES; i++)
		if (!test_of((enum rpl_stream_rule)i, &label))
			fail_msg("rule %s has no case", rpl_stream_rule_def((enum rpl_stream_rule)i)->name);
}

/* What old senders, the converter and libxc itself write against the specification is no error. */
static void what_xen_has_written_is_no_error(void **state)
{
	static const struct {
		const char *words;
		unsigned findings;
	} cases[] = {
		{ "I3 DH S P T HC HP E", 1 },                                     /* libxc's order of context and parameters */
		{ "I3 DH S P T HP HC E", 0 },                                     /* the specification's */
		{ "I2 DH P T HC x:0a00000008000000" "0000000000000000 E", 2 },    /* 4.6 to 4.8: no parameter */
		{ "I2 DP V8 F P T SI B8 x:0500000008000000" "0000000000000000"    /* and empty vCPU records */
		  " x:0600000008000000" "0000000000000000 x:0c00000008000000" "0000000000000000 E", 3 },
		{ "I3 DP x:0200000010000000" "0804000000000000" "0000000000000000 S F P T SI B8 E", 1 },
		{ "I3 DH S P4 T HP HC E", 1 },                                    /* a page-table type in an HVM stream */
		{ "I3 DH @32=00 S P T HP HP2 HC E", 0 },                          /* a converter's two HVM_PARAMS */
		{ "I3 DH S x:0100000010000000" "0100000000000000" "01000000000000f0 P T HP HC E", 0 }, /* deferred: hole first */
		{ "I3 DH x:0500008004000000" "0102030400000000 S P T HP HC E", 1 }, /* an optional record of tomorrow */
	};

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(cases); i++) {
		struct seen s = judge(XC, build(cases[i].words), false);

		if (s.errors || s.total != cases[i].findings)
			fail_msg("'%s': %" PRIu64 " errors, %" PRIu64 " findings, expected 0 and %u: %s", cases[i].words, s.errors,
				 s.total, cases[i].findings, s.first);
	}
	assert_int_equal(judge(XL, build("XL0 " LIBXL), false).total, 0); /* optional data without a configuration */
}

static void batches_above_1024_are_remarked(void **state)
{
	struct rpl_out o = rpl_out(stream, sizeof(stream));
	size_t len = build("I3 DH S");
	struct seen s;

	(void)state;
	o.len = len;
	rpl_stream_put_record_head(&o, RPL_LIBXC_PAGE_DATA, 8 + 8 * 1025);
	rpl_out_le64(&o, 1025);
	for (uint64_t i = 0; i < 1025; i++)
		rpl_out_le64(&o, rpl_desc(i, RPL_PAGE_XTAB));
	put_params(&o);
	put_hvm_context(&o);
	rpl_stream_put_record(&o, RPL_LIBXC_END, NULL, 0);
	s = judge(XC, o.len, false);
	assert_int_equal(s.total, 1);
	assert_int_equal(s.count[RPL_RULE_PAGE_BATCH], 1);
}

/* One page table, one entry after the other: only what resolves within the p2m (1024 pfns) passes. */
static void page_table_entries_must_resolve(void **state)
{
	static const struct { unsigned type; uint64_t entry; bool good; } cases[] = {
		{ 1, 0x3ff067, true },    { 1, 0x400067, false },    { 1, 0x400066, true },
		{ 1, 0x3ff0e7, true },    { 2, 0x3ff0e7, false },    { 9, 0x8000000000400067, false },
		{ 12, 0x80000000003ff067, true }, { 4, 0x000ffffffffff001, false }, { 0, 0x000ffffffffff001, true },
	};

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(cases); i++) {
		static uint64_t page[512];
		const void *where = page;
		uint64_t desc = rpl_desc(3, cases[i].type);
		struct rpl_out o = rpl_out(stream, sizeof(stream));
		struct seen s;

		o.len = build("I3 DP V8 S F");
		page[511] = cases[i].entry;
		rpl_stream_put_page_data(&o, &desc, 1, &where);
		put_shared(&o);
		put_vcpu(&o, RPL_LIBXC_X86_PV_VCPU_BASIC, RPL_PV_BASIC_64);
		rpl_stream_put_record(&o, RPL_LIBXC_END, NULL, 0);
		s = judge(XC, o.len, false);
		assert_int_equal(s.total, cases[i].good ? 0 : 1);
		assert_int_equal(s.count[RPL_RULE_PAGE_PTE], s.total);
	}
}

/* Completes a PV stream behind its pages with this vCPU, and has page types judged, too. */
static struct seen judge_with_vcpu(struct rpl_out *o, const uint8_t *basic, uint32_t len)
{
	uint8_t room[1024 / 2] = { 0 }; /* half a byte for each pfn of the p2m */
	struct seen s;

	put_shared(o);
	rpl_stream_put_vcpu(o, RPL_LIBXC_X86_PV_VCPU_BASIC, 0, basic, len);
	rpl_stream_put_record(o, RPL_LIBXC_END, NULL, 0);
	types = room;
	s = judge(XC, o->len, false);
	types = NULL;
	return s;
}

/* Pages: 1 ordinary, 2 a pinned L4 table, 3 an L3 table, 4 broken, 5 ordinary; 6 never in the stream; 7 and 8 the p2m. */
static void what_a_vcpu_names_must_be_there(void **state)
{
	static const struct { uint64_t start_info, cr3, cr1, ents, gdt; enum rpl_stream_rule rule; } cases[] = {
		{ 1, 2 << 12, 0, 0, 0, SHOULD_BE_CLEAN },        { 1, 2 << 12, 2 << 12 | 1, 16, 5, SHOULD_BE_CLEAN },
		{ 1, 2 << 12, 3 << 12, 0, 9, SHOULD_BE_CLEAN },  { 2, 2 << 12, 0, 0, 0, RPL_RULE_VCPU_FRAMES },
		{ 6, 2 << 12, 0, 0, 0, RPL_RULE_VCPU_FRAMES },   { 1, 3 << 12, 0, 0, 0, RPL_RULE_VCPU_FRAMES },
		{ 1, 1 << 12, 0, 0, 0, RPL_RULE_VCPU_FRAMES },   { 1, 6 << 12, 0, 0, 0, RPL_RULE_VCPU_FRAMES },
		{ 1, 2 << 12, 1 << 12 | 1, 0, 0, RPL_RULE_VCPU_FRAMES }, { 1, 2 << 12, 0, 1, 4, RPL_RULE_VCPU_FRAMES },
		{ 1, 2 << 12, 0, 1, 6, RPL_RULE_VCPU_FRAMES },   { 1, 2 << 12, 0, 7169, 5, RPL_RULE_VCPU_GDT },
		{ 1, UINT64_MAX, 0, 0, 0, RPL_RULE_VCPU_FRAMES }, { UINT64_MAX, 2 << 12, 0, 0, 0, RPL_RULE_VCPU_FRAMES },
	};
	static const uint64_t descs[] = { 1, 0xc000000000000002, 0x3000000000000003, 0xd000000000000004, 5, 7, 8 };
	static const uint8_t page[RPL_STREAM_PAGE];
	static const void *const where[] = { page, page, page, page, page, page, page };

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(cases); i++) {
		uint8_t basic[RPL_PV_BASIC_64] = { 0 };
		struct rpl_out o = rpl_out(stream, sizeof(stream));
		struct seen s;

		o.len = build("I3 DP V8 S F");
		rpl_stream_put_page_data(&o, descs, RPL_ARRAY_LEN(descs), where);
		memcpy(basic + 616, &cases[i].start_info, 8);
		memcpy(basic + 4984 + 24, &cases[i].cr3, 8);
		memcpy(basic + 4984 + 8, &cases[i].cr1, 8);
		memcpy(basic + 4960, &cases[i].ents, 8);
		memcpy(basic + 4832, &cases[i].gdt, 8);
		s = judge_with_vcpu(&o, basic, sizeof(basic));
		if (s.total != (cases[i].rule != SHOULD_BE_CLEAN) || s.count[cases[i].rule] != s.total)
			fail_msg("case %zu: %s", i, s.total ? s.first : "nothing found");
	}
}

/* A 32-bit guest's CR3 has the high bits of its frame in the low twelve. Page 2 is the pinned L3 table, 7 the p2m. */
static void the_cr3_of_a_32_bit_guest_is_folded(void **state)
{
	static const struct { uint32_t cr3; unsigned findings; } cases[] = {
		{ 2 << 12, 0 }, { 2 << 12 | 1, 1 }, { 1 << 12, 1 }, { 2, 1 },
	};
	static const uint64_t descs[] = { 0, 0xb000000000000002, 7 };
	static const uint8_t page[RPL_STREAM_PAGE];
	static const void *const where[] = { page, page, page };

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(cases); i++) {
		uint8_t basic[RPL_PV_BASIC_32] = { 0 };
		struct rpl_out o = rpl_out(stream, sizeof(stream));
		struct seen s;

		o.len = build("I3 DP V4 S F4");
		rpl_stream_put_page_data(&o, descs, RPL_ARRAY_LEN(descs), where);
		memcpy(basic + 2716 + 12, &cases[i].cr3, 4);
		s = judge_with_vcpu(&o, basic, sizeof(basic));
		if (s.total != cases[i].findings || s.count[RPL_RULE_VCPU_FRAMES] != s.total)
			fail_msg("CR3 0x%x: %s", cases[i].cr3, s.total ? s.first : "nothing found");
	}
}

/* The p2m's frames are 7 and 8. */
static void the_frames_of_the_p2m_must_be_there(void **state)
{
	static const struct { uint64_t descs[2]; unsigned findings; } cases[] = {
		{ { 7, 8 }, 0 }, { { 7, 9 }, 1 }, { { 7, 0xf000000000000008 }, 1 }, { { 0x1000000000000007, 8 }, 1 },
	};
	static const uint8_t page[RPL_STREAM_PAGE];
	static const void *const where[] = { page, page };

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(cases); i++) {
		static const uint64_t named[] = { 0, 0xc000000000000001 };
		uint8_t basic[RPL_PV_BASIC_64] = { [4984 + 25] = 0x10 };
		struct rpl_out o = rpl_out(stream, sizeof(stream));
		struct seen s;

		o.len = build("I3 DP V8 S F");
		rpl_stream_put_page_data(&o, named, 2, where);
		rpl_stream_put_page_data(&o, cases[i].descs, 2, where);
		s = judge_with_vcpu(&o, basic, sizeof(basic));
		if (s.total != cases[i].findings || s.count[RPL_RULE_P2M_PAGES] != s.total)
			fail_msg("case %zu: %s", i, s.total ? s.first : "nothing found");
	}
}

static void a_cut_is_accepted_on_request(void **state)
{
	size_t len = build("L LX I3 DH S P HP HC C EM LC P HP");

	(void)state;
	assert_int_equal(judge(XLI, len, false).count[RPL_RULE_ENDING], 1);
	assert_int_equal(judge(XLI, len, true).total, 0);
	len = build("L LX I3 DH S P HP HC C EM");
	assert_int_equal(judge(XLI, len, true).count[RPL_RULE_ENDING], 1); /* no complete one before */
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_streams_are_clean),
		cmocka_unit_test(each_broken_rule_is_found),
		cmocka_unit_test(no_rule_is_without_a_case),
		cmocka_unit_test(what_xen_has_written_is_no_error),
		cmocka_unit_test(batches_above_1024_are_remarked),
		cmocka_unit_test(page_table_entries_must_resolve),
		cmocka_unit_test(what_a_vcpu_names_must_be_there),
		cmocka_unit_test(the_cr3_of_a_32_bit_guest_is_folded),
		cmocka_unit_test(the_frames_of_the_p2m_must_be_there),
		cmocka_unit_test(a_cut_is_accepted_on_request),
	};

	if (argc > 1 && strcmp(argv[1], "--list") == 0) { /* for the check of the manual page */
		for (unsigned i = RPL_RULE_NONE + 1; i < RPL_RULES; i++) {
			const struct rpl_stream_rule_def *d = rpl_stream_rule_def((enum rpl_stream_rule)i);

			const char *label, *test = test_of((enum rpl_stream_rule)i, &label);

			(void)printf("%s\t%d\t%s\t%s\t%s\n", d->name, d->severity, label, test ? test : "none", d->text);
		}
		return 0;
	}
	return cmocka_run_group_tests_name("stream_rules", tests, NULL, NULL);
}
