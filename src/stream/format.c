/* Names and shapes of records, and the rules by name: the tables behind stream_format.h and stream_rules.h. */
#include <replicad/stream.h>

#include <stddef.h>

#include <replicad/auto.h>

#define RPL_X(n, nr, least, most, fixed, element) \
	{ .name = #n, .type = (uint32_t)(nr), .min = (least), .max = (most), .head = (fixed), .elem = (element) },
static const struct rpl_stream_record_def libxc_defs[] = { RPL_LIBXC_RECORDS(RPL_X) };
static const struct rpl_stream_record_def libxl_defs[] = { RPL_LIBXL_RECORDS(RPL_X) };
#undef RPL_X

#define RPL_X(id, label, sev, sentence) { .name = (label), .text = (sentence), .severity = RPL_SEV_##sev },
static const struct rpl_stream_rule_def rule_defs[] = { RPL_STREAM_RULES(RPL_X) };
#undef RPL_X
_Static_assert(RPL_ARRAY_LEN(rule_defs) == RPL_RULES, "one definition per rule");

const struct rpl_stream_record_def *rpl_stream_record_def(enum rpl_stream_layer layer, uint32_t type)
{
	const struct rpl_stream_record_def *d = layer == RPL_LAYER_LIBXL ? libxl_defs : libxc_defs;
	size_t n = layer == RPL_LAYER_LIBXL ? RPL_ARRAY_LEN(libxl_defs) : RPL_ARRAY_LEN(libxc_defs);

	if (type < n && d[type].type == type) /* the numbers from 0 stand in order */
		return &d[type];
	for (size_t i = 0; i < n; i++)
		if (d[i].type == type)
			return &d[i];
	return NULL;
}

const char *rpl_stream_record_name(enum rpl_stream_layer layer, uint32_t type)
{
	const struct rpl_stream_record_def *d = rpl_stream_record_def(layer, type);

	if (d)
		return d->name;
	return type & RPL_RECORD_OPTIONAL ? "unknown optional" : "unknown";
}

const char *rpl_stream_layer_name(enum rpl_stream_layer layer)
{
	static const char *const names[] = { [RPL_LAYER_XL] = "xl", [RPL_LAYER_LIBXL] = "libxl",
					     [RPL_LAYER_LIBXC] = "libxc", [RPL_LAYER_LEGACY] = "legacy" };

	return (size_t)layer < RPL_ARRAY_LEN(names) ? names[layer] : "unknown";
}

const char *rpl_stream_page_type_name(unsigned type)
{
	static const char *const names[16] = {
		"NOTAB", "L1TAB", "L2TAB", "L3TAB", "L4TAB", "invalid 5", "invalid 6", "invalid 7", "invalid 8",
		"L1TAB pinned", "L2TAB pinned", "L3TAB pinned", "L4TAB pinned", "BROKEN", "XALLOC", "XTAB",
	};

	return type < 16 ? names[type] : "invalid";
}

const char *rpl_stream_hvm_param_name(uint64_t index)
{
	static const char *const names[RPL_HVM_PARAM_MAX + 1] = {
		[0] = "CALLBACK_IRQ", [1] = "STORE_PFN", [2] = "STORE_EVTCHN", [4] = "PAE_ENABLED", [5] = "IOREQ_PFN",
		[6] = "BUFIOREQ_PFN", [9] = "VIRIDIAN", [10] = "TIMER_MODE", [11] = "HPET_ENABLED", [12] = "IDENT_PT",
		[14] = "ACPI_S_STATE", [15] = "VM86_TSS", [16] = "VPT_ALIGN", [17] = "CONSOLE_PFN",
		[18] = "CONSOLE_EVTCHN", [19] = "ACPI_IOPORTS_LOCATION", [27] = "PAGING_RING_PFN",
		[28] = "MONITOR_RING_PFN", [29] = "SHARING_RING_PFN", [31] = "TRIPLE_FAULT_REASON",
		[32] = "IOREQ_SERVER_PFN", [33] = "NR_IOREQ_SERVER_PAGES", [34] = "VM_GENERATION_ID_ADDR",
		[35] = "ALTP2M", [36] = "X87_FIP_WIDTH", [37] = "VM86_TSS_SIZED", [38] = "MCA_CAP",
	};

	return index <= RPL_HVM_PARAM_MAX && names[index] ? names[index] : "unknown";
}

const struct rpl_stream_rule_def *rpl_stream_rule_def(enum rpl_stream_rule rule)
{
	return &rule_defs[(unsigned)rule < RPL_RULES ? rule : RPL_RULE_NONE];
}
