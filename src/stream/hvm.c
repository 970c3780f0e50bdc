/* The entries of an HVM context, one after the other; see stream_hvm.h. */
#include <replicad/stream_hvm.h>

#include <string.h>

#include <replicad/auto.h>
#include <replicad/cur.h>

const struct rpl_hvm_entry_def *rpl_hvm_entry_def(unsigned code)
{
	static const struct rpl_hvm_entry_def defs[RPL_HVM_CODES] = {
		{ "END", 0, false },          { "HEADER", 24, false },     { "CPU", 1032, true },
		{ "PIC", 8, false },          { "IOAPIC", 400, false },    { "LAPIC", 24, true },
		{ "LAPIC_REGS", 1024, true }, { "PCI_IRQ", 16, false },    { "ISA_IRQ", 8, false },
		{ "PCI_LINK", 8, false },     { "PIT", 56, false },        { "RTC", 24, false },
		{ "HPET", 1048, false },      { "PMTIMER", 8, false },     { "MTRR", 240, true },
		{ "VIRIDIAN_DOMAIN", 32, false }, { "CPU_XSAVE", 0, true }, { "VIRIDIAN_VCPU", 216, true },
		{ "VMCE_VCPU", 32, true },    { "TSC_ADJUST", 8, true },   { "CPU_MSR", 0, true },
	};
	static const struct rpl_hvm_entry_def none = { NULL, 0, false };

	return code < RPL_HVM_CODES ? &defs[code] : &none;
}

void rpl_hvm_walk_init(struct rpl_hvm_walk *w)
{
	memset(w, 0, sizeof(*w));
}

static void copy_up_to(uint8_t *to, uint32_t *have, uint32_t want, const uint8_t **bytes, size_t *len)
{
	size_t n = want - *have;

	if (*len < n)
		n = *len;
	memcpy(to + *have, *bytes, n);
	*have += (uint32_t)n;
	*bytes += n;
	*len -= n;
}

static enum rpl_hvm_fault judge(struct rpl_hvm_walk *w)
{
	const struct rpl_hvm_entry *e = &w->entry;
	struct rpl_cur c = rpl_cur(e->peek, e->n_peek);
	bool header = e->code == RPL_HVM_HEADER;

	if (!w->started && (!header || rpl_cur_le32(&c) != RPL_HVM_MAGIC || rpl_cur_le32(&c) != 1 || c.bad))
		return RPL_HVM_NO_HEADER;
	if (w->started && header)
		return RPL_HVM_SECOND_HEADER;
	if (e->code == RPL_HVM_END && e->len)
		return RPL_HVM_END_LENGTH;
	w->started = true;
	w->ended = e->code == RPL_HVM_END;
	return RPL_HVM_OK;
}

static bool take_head(struct rpl_hvm_walk *w, const uint8_t **bytes, size_t *len)
{
	struct rpl_cur c;

	copy_up_to(w->head, &w->have, sizeof(w->head), bytes, len);
	if (w->have < sizeof(w->head))
		return false;
	c = rpl_cur(w->head, sizeof(w->head));
	w->entry.code = rpl_cur_le16(&c);
	w->entry.instance = rpl_cur_le16(&c);
	w->entry.len = rpl_cur_le32(&c);
	w->entry.offset = w->offset;
	w->entry.n_peek = 0;
	return true;
}

static uint32_t peek_size(const struct rpl_hvm_walk *w)
{
	return w->entry.len < RPL_HVM_PEEK ? w->entry.len : RPL_HVM_PEEK;
}

int rpl_hvm_walk_next(struct rpl_hvm_walk *w, const uint8_t **bytes, size_t *len, struct rpl_hvm_entry *ret)
{
	enum rpl_hvm_fault fault;
	uint32_t n_peek;

	while (w->skip && *len) {
		size_t n = *len < w->skip ? *len : w->skip;

		*bytes += n;
		*len -= n;
		w->skip -= (uint32_t)n;
	}
	if (w->ended && *len)
		return -RPL_HVM_AFTER_END;
	if (*len == 0 && w->have < sizeof(w->head))
		return 0;
	if (w->have < sizeof(w->head) && !take_head(w, bytes, len))
		return 0;
	n_peek = w->entry.n_peek;
	copy_up_to(w->entry.peek, &n_peek, peek_size(w), bytes, len);
	w->entry.n_peek = n_peek;
	if (n_peek < peek_size(w))
		return 0;
	fault = judge(w);
	if (fault)
		return -(int)fault;
	w->have = 0;
	w->skip = w->entry.len - n_peek;
	w->offset += sizeof(w->head) + w->entry.len;
	*ret = w->entry;
	return 1;
}

enum rpl_hvm_fault rpl_hvm_walk_end(const struct rpl_hvm_walk *w)
{
	return w->ended ? RPL_HVM_OK : RPL_HVM_CUT;
}

const char *rpl_hvm_fault_text(enum rpl_hvm_fault fault)
{
	static const char *const texts[] = {
		[RPL_HVM_OK] = "no fault",
		[RPL_HVM_NO_HEADER] = "no HEADER entry with magic 0x54381286 and version 1 at the start",
		[RPL_HVM_AFTER_END] = "bytes behind the END entry",
		[RPL_HVM_END_LENGTH] = "an END entry with a payload",
		[RPL_HVM_SECOND_HEADER] = "a second HEADER entry",
		[RPL_HVM_CUT] = "the blob ends inside an entry or without END",
	};

	return (size_t)fault < RPL_ARRAY_LEN(texts) ? texts[fault] : "unknown fault";
}
