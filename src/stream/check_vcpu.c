/* What a PV vCPU's context points at. At completion stock libxc refuses a context whose CR3 is no top-level page table, or
 * whose start_info (vCPU 0) or GDT frame is no ordinary page; all that is known once memory and context went by.
 */
#include "check.h"

#include <inttypes.h>
#include <string.h>

#define GDT_ENTRIES_MAX 7168u
#define GDT_ENTRIES_PER_FRAME 512u
/* In c->types, half a byte for each pfn: what the last record that named it said. */
enum { PAGE_UNSEEN, PAGE_ORDINARY, /* then tables of level 1 to 4 */ PAGE_EMPTY = 6, PAGE_STATE = 7 };
#define PAGE_OF_P2M 8u /* a flag beside it */
#define P2M_FLAGS UINT64_C(0x8888888888888888)

/* Where the fields lie in vcpu_guest_context; all of them are as wide as the guest. */
struct layout {
	unsigned width;
	uint32_t rdx, gdt_frames, gdt_ents, ctrlreg;
};
static const struct layout layout_64 = { 8, 616, 4832, 4960, 4984 };
static const struct layout layout_32 = { 4, 524, 2640, 2704, 2716 };

static unsigned get_state(const struct rpl_stream_check *c, uint64_t pfn)
{
	return c->types[pfn / 2] >> pfn % 2 * 4 & 0xf;
}

static void set_state(struct rpl_stream_check *c, uint64_t pfn, unsigned state)
{
	unsigned shift = pfn % 2 * 4;

	c->types[pfn / 2] = (uint8_t)((c->types[pfn / 2] & ~(0xfu << shift)) | state << shift);
}

static const char *state_name(unsigned state)
{
	static const char *const names[PAGE_STATE + 1] = { "not in the stream", "NOTAB", "L1TAB", "L2TAB", "L3TAB", "L4TAB",
							   "without contents", "" };

	return names[state & PAGE_STATE];
}

void rpl_check_note_types(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	if (!c->types || c->type != RPL_DOMAIN_PV)
		return;
	for (uint32_t i = 0; i < ev->pfns.count; i++) {
		uint64_t pfn = rpl_desc_pfn(ev->pfns.descs[i]);
		unsigned type = rpl_desc_type(ev->pfns.descs[i]);
		unsigned state = rpl_page_type_has_data(type) ? PAGE_ORDINARY + (type & ~RPL_PAGE_PINNED) : PAGE_EMPTY;

		if (pfn < c->n_types)
			set_state(c, pfn, (get_state(c, pfn) & PAGE_OF_P2M) | state);
	}
}

void rpl_check_note_p2m_frame(struct rpl_stream_check *c, uint64_t pfn)
{
	if (c->types && pfn < c->n_types)
		set_state(c, pfn, get_state(c, pfn) | PAGE_OF_P2M);
}

/* Frames of the p2m are few: sixteen pfns that hold none are passed at once. */
static bool none_near(const struct rpl_stream_check *c, uint64_t pfn)
{
	uint64_t states;

	if (pfn % 16 || pfn + 16 > c->n_types)
		return false;
	memcpy(&states, c->types + pfn / 2, sizeof(states));
	return !(states & P2M_FLAGS);
}

/* At completion stock libxc writes the new p2m over these frames. */
void rpl_check_p2m_pages(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	uint64_t n = c->max_pfn < c->n_types ? c->max_pfn + 1 : c->n_types, pfn = 0;

	if (!c->types || !c->p2m)
		return;
	while (pfn < n) {
		unsigned state = get_state(c, pfn);

		if (none_near(c, pfn)) {
			pfn += 16;
			continue;
		}
		if (state & PAGE_OF_P2M && (state & PAGE_STATE) != PAGE_ORDINARY) {
			rpl_stream_check_say(c, ev, ev->rec.offset, RPL_RULE_P2M_PAGES,
					     "the p2m's frame at pfn 0x%" PRIx64 " is %s, expected an ordinary page", pfn,
					     state_name(state));
			return;
		}
		pfn++;
	}
}

static uint64_t field(const struct rpl_stream_check *c, const struct layout *l, uint32_t at)
{
	uint64_t v = 0;

	memcpy(&v, c->basic + at, l->width);
	return v;
}

/* CR3 of a 32-bit guest is folded: the frame's high bits stand in its low 12. */
static uint64_t frame_of_cr3(const struct layout *l, uint64_t cr3)
{
	return l->width == 8 ? cr3 >> RPL_STREAM_PAGE_SHIFT : (uint32_t)(cr3 >> 12 | cr3 << 20);
}

/* `level` 0: an ordinary page. */
static void judge(struct rpl_stream_check *c, const struct rpl_stream_event *ev, const char *what, uint32_t at,
		  uint64_t pfn, unsigned level)
{
	uint64_t offset = ev->rec.offset + RPL_STREAM_RECORD_HEAD + 8 + at;
	unsigned state;

	if (c->body_said || (c->p2m && pfn <= c->max_pfn && pfn >= c->n_types))
		return; /* beyond what the caller gave room for: cannot tell */
	state = pfn < c->n_types ? get_state(c, pfn) : PAGE_UNSEEN;
	if ((state & PAGE_STATE) == PAGE_ORDINARY + level)
		return;
	c->body_said = true;
	rpl_stream_check_say(c, ev, offset, RPL_RULE_VCPU_FRAMES,
			     "vCPU %u: %s is pfn 0x%" PRIx64 ", which is %s, expected %s", c->vcpu, what, pfn,
			     state_name(state), level ? "a top-level page table" : "an ordinary page");
}

void rpl_check_basic(struct rpl_stream_check *c, const struct rpl_stream_event *ev)
{
	const struct layout *l = c->width == 4 ? &layout_32 : &layout_64;
	unsigned top = c->width == 4 ? 3 : 4;
	uint64_t ents, cr1;

	if (!c->width || ev->rec.len - 8 != (c->width == 4 ? RPL_PV_BASIC_32 : RPL_PV_BASIC_64))
		return; /* said before */
	ents = field(c, l, l->gdt_ents);
	if (ents > GDT_ENTRIES_MAX) {
		rpl_stream_check_say(c, ev, ev->rec.offset + 16 + l->gdt_ents, RPL_RULE_VCPU_GDT,
				     "vCPU %u: %" PRIu64 " GDT entries, expected %u at most", c->vcpu, ents, GDT_ENTRIES_MAX);
		return;
	}
	if (!c->types)
		return;
	judge(c, ev, "CR3", l->ctrlreg + 3 * l->width, frame_of_cr3(l, field(c, l, l->ctrlreg + 3 * l->width)), top);
	cr1 = field(c, l, l->ctrlreg + l->width);
	if (l->width == 8 && cr1 & 1)
		judge(c, ev, "CR1", l->ctrlreg + l->width, cr1 >> RPL_STREAM_PAGE_SHIFT, top);
	if (c->vcpu == 0)
		judge(c, ev, "start_info", l->rdx, field(c, l, l->rdx), 0);
	for (uint32_t i = 0; i * GDT_ENTRIES_PER_FRAME < ents; i++)
		judge(c, ev, "a GDT frame", l->gdt_frames + i * l->width, field(c, l, l->gdt_frames + i * l->width), 0);
}
