/* Order and completeness of a stream. What a record's body holds is judged in check_body.c.
 *
 * The order that is demanded here is that of stock readers, laxer than what stock writers produce:
 *   static records, STATIC_DATA_END (v3), P2M_FRAMES (PV), then pages and tail records up to END or CHECKPOINT.
 * A checkpoint starts with an empty set of tail records: each must bring its own.
 */
#include "check.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void rpl_stream_check_init(struct rpl_stream_check *c, rpl_stream_report_fn *report, void *ctx)
{
	memset(c, 0, sizeof(*c));
	c->report = report;
	c->ctx = ctx;
}

static void say_va(struct rpl_stream_check *c, const struct rpl_stream_finding *f)
{
	if (f->severity == RPL_SEV_WARNING)
		c->warnings++;
	else
		c->errors++;
	c->report(c->ctx, f);
}

void rpl_stream_check_say(struct rpl_stream_check *c, const struct rpl_stream_event *ev, uint64_t offset,
			  enum rpl_stream_rule rule, const char *fmt, ...)
{
	struct rpl_stream_finding f = { .rule = rule, .severity = rpl_stream_rule_def(rule)->severity,
					.offset = offset, .checkpoint = c->checkpoints };
	va_list ap;

	if (ev && ev->kind >= RPL_EV_RECORD && ev->kind <= RPL_EV_RECORD_END) {
		f.in_record = true;
		f.rec = ev->rec;
	}
	va_start(ap, fmt);
	(void)vsnprintf(f.text, sizeof(f.text), fmt, ap);
	va_end(ap);
	say_va(c, &f);
}

void rpl_stream_check_refused(struct rpl_stream_check *c, const struct rpl_stream_reader *r, const struct rpl_err *err)
{
	struct rpl_stream_finding f = { .rule = r->rule, .severity = RPL_SEV_READER, .offset = r->bad_offset,
					.in_record = r->can_skip, .rec = r->rec, .checkpoint = c->checkpoints };
	const char *text = err->msg, *colon;

	/* the finding has fields for what the sentence begins with: offset, layer, record */
	for (int i = 0; i < 2 && (colon = strstr(text, ": ")); i++)
		text = colon + 2;
	(void)snprintf(f.text, sizeof(f.text), "%s", text);
	say_va(c, &f);
	c->refused = true;
}

/* ---- headers */
static void check_header(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	enum rpl_stream_rule rule = RPL_RULE_NONE;
	unsigned at = 0; /* of what is reserved */

	switch ((int)ev->kind) {
	case RPL_EV_XL_HEADER:
		rule = RPL_RULE_XL_RESERVED;
		at = 40;
		if (ev->xl.config_len && ev->xl.mandatory_flags == RPL_XL_FLAG_STREAM_V2)
			rpl_stream_check_say(c, ev, ev->offset + 36, RPL_RULE_XL_CONFIG_JSON,
					     "flags 0x%x in front of a v2 stream, expected 0x%x: its configuration is JSON",
					     ev->xl.mandatory_flags, RPL_XL_FLAG_STREAM_V2 | RPL_XL_FLAG_JSON);
		break;
	case RPL_EV_LIBXL_HEADER:
		c->has_libxl = true;
		rule = RPL_RULE_LIBXL_OPTIONS;
		at = 12;
		break;
	case RPL_EV_IMAGE_HEADER:
		c->version = ev->image_version;
		rule = RPL_RULE_IMAGE_RESERVED;
		at = 16;
		break;
	case RPL_EV_DOMAIN_HEADER:
		c->type = ev->domain.type;
		c->xen_major = ev->domain.xen_major;
		rule = RPL_RULE_DOMAIN_RESERVED;
		at = 6;
		break;
	}
	if (ev->remarks & RPL_REMARK_RESERVED)
		rpl_stream_check_say(c, ev, ev->offset + at, rule, "reserved bits are set, expected zero");
}

static void check_config(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	const uint8_t *nul = memchr(ev->bytes, 0, ev->len);

	c->config_seen = true;
	if (c->config_ended && !c->config_over) {
		c->config_over = true;
		rpl_stream_check_say(c, ev, ev->offset, RPL_RULE_XL_CONFIG_NUL, "bytes behind the terminating NUL");
	}
	if (!nul || c->config_ended)
		return;
	c->config_ended = true;
	if (nul != ev->bytes + ev->len - 1) {
		c->config_over = true;
		rpl_stream_check_say(c, ev, ev->offset + (uint64_t)(nul - ev->bytes), RPL_RULE_XL_CONFIG_NUL,
				     "a NUL inside the configuration, expected one at its end");
	}
}

/* ---- the static part */
static void once(struct rpl_stream_check *c, const struct rpl_stream_event *ev, bool *seen, enum rpl_stream_rule rule)
{
	if (*seen)
		rpl_stream_check_say(c, ev, ev->rec.offset, rule, "a second one, expected one");
	*seen = true;
}

static void static_record(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	enum rpl_stream_rule rule = RPL_RULE_ORDER_STATIC_REC;
	uint32_t type = ev->rec.type;

	if (type == RPL_LIBXC_X86_PV_INFO) {
		once(c, ev, &c->pv_info, RPL_RULE_ORDER_PV_INFO);
		rpl_check_pv_info(c, ev);
	}
	if (type == RPL_LIBXC_X86_CPUID_POLICY)
		once(c, ev, &c->cpuid, rule);
	if (type == RPL_LIBXC_X86_MSR_POLICY)
		once(c, ev, &c->msr, rule);
	if (type == (uint32_t)RPL_LIBXC_RPL_PRODUCER) {
		once(c, ev, &c->producer, RPL_RULE_PRODUCER);
		rule = RPL_RULE_PRODUCER;
	}
	if (c->static_end || c->all_pages || c->p2m)
		rpl_stream_check_say(c, ev, ev->rec.offset, rule, "behind the static part, expected before it ends");
}

/* Everything but static records needs the static part to be over. In a v2 image it ends by itself. */
static void need_static_end(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	if (c->version < RPL_IMAGE_V3 || c->static_end || c->static_missing_said)
		return;
	c->static_missing_said = true;
	rpl_stream_check_say(c, ev, ev->rec.offset, RPL_RULE_ORDER_STATIC,
			     "before STATIC_DATA_END in a version %u image, expected after it", c->version);
}

static void static_end(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	once(c, ev, &c->static_end, RPL_RULE_ORDER_STATIC);
	if (c->type == RPL_DOMAIN_PV && !c->pv_info)
		rpl_stream_check_say(c, ev, ev->rec.offset, RPL_RULE_ORDER_PV_INFO,
				     "no X86_PV_INFO in the static part, expected one");
}

static bool is_v3_record(uint32_t type)
{
	return type == RPL_LIBXC_STATIC_DATA_END || type == RPL_LIBXC_X86_CPUID_POLICY ||
	       type == RPL_LIBXC_X86_MSR_POLICY;
}

/* ---- which guest a record is for: 0 any */
static uint32_t guest_of(uint32_t type)
{
	switch ((int)type) {
	case RPL_LIBXC_X86_PV_INFO:
	case RPL_LIBXC_X86_PV_P2M_FRAMES:
	case RPL_LIBXC_X86_PV_VCPU_BASIC:
	case RPL_LIBXC_X86_PV_VCPU_EXTENDED:
	case RPL_LIBXC_X86_PV_VCPU_XSAVE:
	case RPL_LIBXC_X86_PV_VCPU_MSRS:
	case RPL_LIBXC_SHARED_INFO:
		return RPL_DOMAIN_PV;
	case RPL_LIBXC_HVM_CONTEXT:
	case RPL_LIBXC_HVM_PARAMS:
		return RPL_DOMAIN_HVM;
	default:
		return 0;
	}
}

/* ---- memory and tail */
static void memory_record(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	need_static_end(c, ev);
	if (c->type == RPL_DOMAIN_PV && !c->p2m && !c->p2m_missing_said) {
		c->p2m_missing_said = true;
		rpl_stream_check_say(c, ev, ev->rec.offset, RPL_RULE_ORDER_P2M, "before X86_PV_P2M_FRAMES, expected after");
	}
	if (c->in_tail && !c->tail_said && c->xen_major != RPL_XEN_MAJOR_CONVERTED) {
		c->tail_said = true;
		rpl_stream_check_say(c, ev, ev->rec.offset, RPL_RULE_ORDER_TAIL, "behind tail records, expected before");
	}
	c->pages++;
	c->all_pages++;
}

static void vcpu_record(struct rpl_stream_check *c, const struct rpl_stream_event *ev, unsigned kind)
{
	uint64_t bit = UINT64_C(1) << ev->vcpu % 64;

	if (ev->vcpu >= RPL_PV_VCPUS_MAX) {
		rpl_stream_check_say(c, ev, ev->rec.offset + 8, RPL_RULE_VCPU_ID, "vCPU id %u, expected below %u",
				     ev->vcpu, RPL_PV_VCPUS_MAX);
		return;
	}
	if (c->vcpus[kind][ev->vcpu / 64] & bit)
		rpl_stream_check_say(c, ev, ev->rec.offset + 8, RPL_RULE_VCPU_ID,
				     "vCPU %u for the second time in this checkpoint", ev->vcpu);
	c->vcpus[kind][ev->vcpu / 64] |= bit;
	rpl_check_vcpu(c, ev);
}

static void params_record(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	unsigned most = c->xen_major == RPL_XEN_MAJOR_CONVERTED ? 2 : 1; /* a converter writes two */

	if (++c->n_hvm_params > most)
		rpl_stream_check_say(c, ev, ev->rec.offset, RPL_RULE_ORDER_TAIL_ONCE, "number %u, expected %u at most",
				     c->n_hvm_params, most);
	if (c->hvm_context && most == 1)
		rpl_stream_check_say(c, ev, ev->rec.offset, RPL_RULE_ORDER_PARAMS,
				     "behind HVM_CONTEXT, the specification has it before");
	if (ev->n_params == 0)
		rpl_stream_check_say(c, ev, ev->rec.offset, RPL_RULE_HVM_PARAM_EMPTY, "no parameter");
}

static void tail_record(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	need_static_end(c, ev);
	c->in_tail = true;
	switch ((int)ev->rec.type) {
	case RPL_LIBXC_X86_TSC_INFO:
		once(c, ev, &c->tsc, RPL_RULE_ORDER_TAIL_ONCE);
		if (ev->tsc.mode > 2)
			rpl_stream_check_say(c, ev, ev->rec.offset + 8, RPL_RULE_TSC_MODE, "mode %u, expected 0-2",
					     ev->tsc.mode);
		break;
	case RPL_LIBXC_SHARED_INFO:
		once(c, ev, &c->shared_info, RPL_RULE_ORDER_TAIL_ONCE);
		if (!c->pv_info && c->type == RPL_DOMAIN_PV)
			rpl_stream_check_say(c, ev, ev->rec.offset, RPL_RULE_ORDER_PV_INFO,
					     "before X86_PV_INFO, expected after");
		break;
	case RPL_LIBXC_HVM_CONTEXT:
		once(c, ev, &c->hvm_context, RPL_RULE_ORDER_TAIL_ONCE);
		break;
	case RPL_LIBXC_HVM_PARAMS:
		params_record(c, ev);
		break;
	case RPL_LIBXC_X86_PV_VCPU_BASIC:
		vcpu_record(c, ev, 0);
		break;
	case RPL_LIBXC_X86_PV_VCPU_EXTENDED:
		vcpu_record(c, ev, 1);
		break;
	case RPL_LIBXC_X86_PV_VCPU_XSAVE:
		vcpu_record(c, ev, 2);
		break;
	case RPL_LIBXC_X86_PV_VCPU_MSRS:
		vcpu_record(c, ev, 3);
		break;
	}
}

static void p2m_record(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	need_static_end(c, ev);
	if (!c->pv_info)
		rpl_stream_check_say(c, ev, ev->rec.offset, RPL_RULE_ORDER_PV_INFO, "before X86_PV_INFO, expected after");
	once(c, ev, &c->p2m, RPL_RULE_ORDER_P2M);
	rpl_check_p2m(c, ev);
}

/* ---- the end of a checkpoint or of the image */
static void vcpus_complete(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	for (unsigned i = 0; i < RPL_PV_VCPUS_MAX / 64; i++) {
		uint64_t without = (c->vcpus[1][i] | c->vcpus[2][i] | c->vcpus[3][i]) & ~c->vcpus[0][i];

		if (without)
			rpl_stream_check_say(c, ev, ev->rec.offset, RPL_RULE_VCPU_NO_BASIC,
					     "vCPU %u has other records but no BASIC",
					     i * 64 + (unsigned)__builtin_ctzll(without));
	}
}

static void checkpoint_complete(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	const char *missing = NULL;

	need_static_end(c, ev);
	if (c->type == RPL_DOMAIN_PV) {
		if (!c->shared_info)
			missing = "SHARED_INFO";
		else if (!(c->vcpus[0][0] & 1))
			missing = "X86_PV_VCPU_BASIC of vCPU 0";
		vcpus_complete(c, ev);
		rpl_check_p2m_pages(c, ev);
	} else if (!c->hvm_context && !c->producer) {
		missing = "HVM_CONTEXT";
	}
	if (missing)
		rpl_stream_check_say(c, ev, ev->rec.offset, RPL_RULE_TAIL_MISSING, "no %s before it, expected one", missing);
	if (!c->all_pages)
		rpl_stream_check_say(c, ev, ev->rec.offset, RPL_RULE_MEMORY_MISSING, "no PAGE_DATA so far");
}

static void next_checkpoint(struct rpl_stream_check *c)
{
	c->checkpoints++;
	c->pages = 0;
	c->in_tail = c->tail_said = c->tsc = c->shared_info = c->hvm_context = false;
	c->emu_xenstore = c->emu_context = false;
	c->n_hvm_params = 0;
	c->params_seen = 0;
	memset(c->vcpus, 0, sizeof(c->vcpus));
}

static void signal_record(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	switch ((int)ev->rec.type) {
	case RPL_LIBXC_END:
		if (c->checkpoint_seen)
			rpl_stream_check_say(c, ev, ev->rec.offset, RPL_RULE_ORDER_CHECKPOINT,
					     "in a checkpointed stream, which has none");
		checkpoint_complete(c, ev);
		break;
	case RPL_LIBXC_CHECKPOINT:
		c->checkpoint_seen = true;
		checkpoint_complete(c, ev);
		break;
	case RPL_LIBXC_VERIFY:
		if (c->verify_seen || c->checkpoint_seen || c->in_tail || !c->all_pages)
			rpl_stream_check_say(c, ev, ev->rec.offset, RPL_RULE_ORDER_VERIFY,
					     "expected one between the pages of a plain stream");
		c->verify_seen = true;
		break;
	}
}

static void libxc_record(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	uint32_t type = ev->rec.type, guest = guest_of(type);

	if (guest && guest != c->type)
		rpl_stream_check_say(c, ev, ev->rec.offset, RPL_RULE_GUEST_RECORD, "in the stream of %s guest",
				     c->type == RPL_DOMAIN_PV ? "a PV" : "an HVM");
	if (c->version < RPL_IMAGE_V3 && is_v3_record(type))
		rpl_stream_check_say(c, ev, ev->rec.offset, RPL_RULE_ORDER_V2, "in a version %u image, expected version 3",
				     c->version);
	if (ev->remarks & RPL_REMARK_UNKNOWN) {
		rpl_stream_check_say(c, ev, ev->rec.offset, RPL_RULE_RECORD_OPTIONAL,
				     "type 0x%08x: stock Xen skips it in the first checkpoint and fails in later ones", type);
		return;
	}
	switch ((int)type) {
	case RPL_LIBXC_X86_PV_INFO:
	case RPL_LIBXC_X86_CPUID_POLICY:
	case RPL_LIBXC_X86_MSR_POLICY:
	case RPL_LIBXC_RPL_PRODUCER:
		static_record(c, ev);
		break;
	case RPL_LIBXC_STATIC_DATA_END:
		static_end(c, ev);
		break;
	case RPL_LIBXC_X86_PV_P2M_FRAMES:
		p2m_record(c, ev);
		break;
	case RPL_LIBXC_PAGE_DATA:
		memory_record(c, ev);
		break;
	case RPL_LIBXC_TOOLSTACK:
		rpl_stream_check_say(c, ev, ev->rec.offset, RPL_RULE_RECORD_TOOLSTACK, "a leftover that no reader takes");
		break;
	case RPL_LIBXC_CHECKPOINT_DIRTY_PFN_LIST:
		rpl_stream_check_say(c, ev, ev->rec.offset, RPL_RULE_RECORD_BACKCHANNEL,
				     "belongs to COLO's back channel, from secondary to primary");
		break;
	case RPL_LIBXC_RPL_DIGEST:
		once(c, ev, &c->digest_seen, RPL_RULE_DIGEST);
		break;
	case RPL_LIBXC_END:
	case RPL_LIBXC_CHECKPOINT:
	case RPL_LIBXC_VERIFY:
		signal_record(c, ev);
		break;
	default:
		tail_record(c, ev);
	}
}

/* ---- libxl records */
static void emulator_record(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	bool store = ev->rec.type == RPL_LIBXL_EMULATOR_XENSTORE_DATA;

	if (c->type == RPL_DOMAIN_PV)
		rpl_stream_check_say(c, ev, ev->rec.offset, RPL_RULE_LIBXL_EMULATOR, "in the stream of a PV guest");
	if (ev->emulator.id > RPL_EMULATOR_QEMU || ev->emulator.index)
		rpl_stream_check_say(c, ev, ev->rec.offset + 8, RPL_RULE_LIBXL_EMULATOR,
				     "emulator id %u index %u, expected id 0-2 and index 0", ev->emulator.id,
				     ev->emulator.index);
	if (ev->rec.len == 8)
		rpl_stream_check_say(c, ev, ev->rec.offset, RPL_RULE_LIBXL_EMU_EMPTY, "nothing behind the sub-header");
	if (store && c->emu_context)
		rpl_stream_check_say(c, ev, ev->rec.offset, RPL_RULE_LIBXL_ORDER, "behind EMULATOR_CONTEXT, expected before");
	once(c, ev, store ? &c->emu_xenstore : &c->emu_context, RPL_RULE_LIBXL_ORDER);
}

static void emulator_complete(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	bool wanted = c->had_emulator || c->producer;

	if (wanted && !c->emu_context)
		rpl_stream_check_say(c, ev, ev->rec.offset,
				     c->producer ? RPL_RULE_TAIL_MISSING : RPL_RULE_EMULATOR_MISSING,
				     "no EMULATOR_CONTEXT in this checkpoint, expected one");
	c->had_emulator |= c->emu_context;
}

static void libxl_record(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	if (ev->remarks & RPL_REMARK_UNKNOWN) {
		rpl_stream_check_say(c, ev, ev->rec.offset, RPL_RULE_LIBXL_OPTIONAL,
				     "type 0x%08x: stock libxl fails on it", ev->rec.type);
		return;
	}
	if (!c->context_seen && ev->rec.type != RPL_LIBXL_LIBXC_CONTEXT)
		rpl_stream_check_say(c, ev, ev->rec.offset, RPL_RULE_LIBXL_ORDER, "before LIBXC_CONTEXT, expected after");
	c->context_seen = true;
	switch ((int)ev->rec.type) {
	case RPL_LIBXL_EMULATOR_XENSTORE_DATA:
	case RPL_LIBXL_EMULATOR_CONTEXT:
		emulator_record(c, ev);
		break;
	case RPL_LIBXL_CHECKPOINT_END:
	case RPL_LIBXL_END:
		emulator_complete(c, ev);
		break;
	case RPL_LIBXL_CHECKPOINT_STATE:
		if (ev->colo_state != RPL_COLO_NEW || c->type != RPL_DOMAIN_HVM)
			rpl_stream_check_say(c, ev, ev->rec.offset + 8, RPL_RULE_LIBXL_COLO,
					     "state %u, expected 0 in an HVM guest's stream", ev->colo_state);
		break;
	}
}

static void begin_record(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	if (ev->remarks & RPL_REMARK_RESERVED)
		rpl_stream_check_say(c, ev, ev->rec.offset + 8, RPL_RULE_RECORD_RESERVED,
				     "a reserved field is not zero, expected zero");
	rpl_check_body_begin(c, ev);
	if (ev->rec.layer == RPL_LAYER_LIBXL)
		libxl_record(c, ev);
	else
		libxc_record(c, ev);
}

static void end_record(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	bool libxl = ev->rec.layer == RPL_LAYER_LIBXL;

	if (!c->refused)
		rpl_check_body_end(c, ev);
	c->refused = false;
	if (ev->remarks & RPL_REMARK_PADDING)
		rpl_stream_check_say(c, ev, ev->rec.offset + RPL_STREAM_RECORD_HEAD + ev->rec.len,
				     RPL_RULE_RECORD_PADDING, "padding is not zero, expected zero");
	if (libxl && ev->rec.type == RPL_LIBXL_CHECKPOINT_END)
		next_checkpoint(c);
	if (!libxl && ev->rec.type == RPL_LIBXC_CHECKPOINT && !c->has_libxl)
		next_checkpoint(c);
}

void rpl_stream_check(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	switch (ev->kind) {
	case RPL_EV_XL_CONFIG:
		check_config(c, ev);
		break;
	case RPL_EV_RECORD:
		begin_record(c, ev);
		break;
	case RPL_EV_PFNS:
		rpl_check_pfns(c, ev);
		break;
	case RPL_EV_PAGES:
		rpl_check_pages(c, ev);
		break;
	case RPL_EV_BODY:
		rpl_check_body(c, ev);
		break;
	case RPL_EV_RECORD_END:
		end_record(c, ev);
		break;
	default:
		check_header(c, ev);
	}
	if ((ev->kind == RPL_EV_LIBXL_HEADER || ev->kind == RPL_EV_LEGACY) && c->config_seen && !c->config_ended)
		rpl_stream_check_say(c, ev, ev->offset, RPL_RULE_XL_CONFIG_NUL, "the configuration has no NUL");
}

void rpl_stream_check_end(struct rpl_stream_check *c, const struct rpl_stream_reader *r, bool allow_cut)
{
	enum rpl_stream_ending e = rpl_stream_ending(r);

	if (e == RPL_ENDING_NOTHING || (e == RPL_ENDING_CUT && !allow_cut))
		rpl_stream_check_say(c, NULL, r->offset + r->have, RPL_RULE_ENDING,
				     "the bytes end inside %s, %" PRIu64 " complete checkpoint%s before; expected END or a "
				     "whole checkpoint", e == RPL_ENDING_CUT ? "a checkpoint" : "the stream", r->checkpoints,
				     r->checkpoints == 1 ? "" : "s");
}
