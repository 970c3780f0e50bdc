#include "legacy_make.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <replicad/cur.h>
#include <replicad/stream_format.h>

#include "stream_make.h"

#define P2M_SIZE 600u /* pfns: one frame of p2m in a 32-bit guest, two in a 64-bit one */
#define FIRST_PFN 10u
#define SECOND_PFN 100u

struct maker {
	struct rpl_out o;
	unsigned width, guest; /* of the toolstack's unsigned long, of the PV guest */
	bool pv;
	uint64_t rnd;
};

static void ulong_(struct maker *m, uint64_t v)
{
	if (m->width == 8)
		rpl_out_le64(&m->o, v);
	else
		rpl_out_le32(&m->o, (uint32_t)v);
}

static void random_bytes(struct maker *m, size_t len)
{
	while (len--)
		rpl_out_u8(&m->o, (uint8_t)make_random(&m->rnd));
}

static void pv_head(struct maker *m)
{
	uint32_t basic = m->guest == 8 ? RPL_PV_BASIC_64 : RPL_PV_BASIC_32, fpp = RPL_STREAM_PAGE / m->guest;

	ulong_(m, UINT64_MAX);
	rpl_out_le32(&m->o, 8 + basic + 8 + 8 + 4);
	rpl_out_bytes(&m->o, "vcpu", 4);
	rpl_out_le32(&m->o, basic);
	random_bytes(m, basic);
	rpl_out_bytes(&m->o, "extv", 4);
	rpl_out_le32(&m->o, 0);
	rpl_out_bytes(&m->o, "xcnt", 4);
	rpl_out_le32(&m->o, 4);
	rpl_out_le32(&m->o, 16 + 40);
	for (uint32_t i = 0; i < (P2M_SIZE - 1) / fpp + 1; i++)
		ulong_(m, i ? SECOND_PFN : FIRST_PFN + 4); /* ordinary pages of the two batches */
}

/* Contexts name the first batch's first two pages: start_info and the top-level page table. */
static void basic(struct maker *m)
{
	bool wide = m->guest == 8;
	size_t len = wide ? RPL_PV_BASIC_64 : RPL_PV_BASIC_32, rdx = wide ? 616 : 524, cr3 = wide ? 4984 + 24 : 2716 + 12;

	for (size_t i = 0; i < len; i++)
		rpl_out_u8(&m->o, (uint8_t)(i == rdx ? FIRST_PFN : i == cr3 + 1 ? (FIRST_PFN + 1) << 4 : 0));
}

static void batch(struct maker *m, uint32_t first)
{
	uint32_t table = !m->pv ? 0 : m->guest == 8 ? 0xc : 0xb;
	uint32_t types[] = { 0, table, 0xd, 0xf, 0, 0xe };

	rpl_out_le32(&m->o, 8);
	for (uint32_t i = 0; i < 6; i++)
		ulong_(m, types[i] << 28 | (first + i));
	ulong_(m, 0xf0000000);
	ulong_(m, 0xf0000000);
	random_bytes(m, RPL_STREAM_PAGE);
	for (uint32_t i = 0; i < RPL_STREAM_PAGE; i++)
		rpl_out_u8(&m->o, 0);
	random_bytes(m, RPL_STREAM_PAGE);
}

static void param(struct maker *m, int32_t chunk, uint64_t value)
{
	rpl_out_le32(&m->o, (uint32_t)chunk);
	rpl_out_le32(&m->o, 0);
	rpl_out_le64(&m->o, value);
}

static void chunks(struct maker *m)
{
	batch(m, FIRST_PFN);
	batch(m, SECOND_PFN);
	rpl_out_le32(&m->o, (uint32_t)-2); /* vCPUs 0 and 1 */
	rpl_out_le32(&m->o, 1);
	rpl_out_le64(&m->o, 3);
	rpl_out_le32(&m->o, (uint32_t)-7);
	rpl_out_le32(&m->o, 0);
	rpl_out_le64(&m->o, 123456789);
	rpl_out_le32(&m->o, 2400000);
	rpl_out_le32(&m->o, 1);
	if (m->pv) {
		rpl_out_le32(&m->o, 0);
		return;
	}
	param(m, -3, 0xfeffe000);
	param(m, -8, 0xfeffe);
	param(m, -10, 1);
	param(m, -14, 0xfc00);
	rpl_out_le32(&m->o, (uint32_t)-18); /* toolstack: one entry of the physmap */
	rpl_out_le32(&m->o, 8 + 28 + 9 + (m->width == 8 ? 4 : 0));
	rpl_out_le32(&m->o, 1);
	rpl_out_le32(&m->o, 1);
	rpl_out_le64(&m->o, 0xf0000000);
	rpl_out_le64(&m->o, 0xf0000000);
	rpl_out_le64(&m->o, 0x800000);
	rpl_out_le32(&m->o, 9);
	rpl_out_bytes(&m->o, "vga.vram", 9);
	if (m->width == 8)
		rpl_out_le32(&m->o, 0);
	rpl_out_le32(&m->o, 0);
}

static void pv_tail(struct maker *m)
{
	rpl_out_le32(&m->o, 2);
	ulong_(m, 7);
	ulong_(m, 8);
	for (unsigned v = 0; v < 2; v++) {
		basic(m);
		random_bytes(m, 128);
		rpl_out_le64(&m->o, 7);
		rpl_out_le64(&m->o, 40);
		random_bytes(m, 40);
	}
	random_bytes(m, RPL_STREAM_PAGE);
}

static void hvm_tail(struct maker *m)
{
	struct { uint16_t code, instance; uint32_t len, magic, version; uint64_t changeset; uint32_t cpuid, khz; } head = {
		1, 0, 24, 0x54381286, 1, 0, 0x306c3, 2400000 };

	rpl_out_le64(&m->o, 0xfeffd);
	rpl_out_le64(&m->o, 0xfeffb);
	rpl_out_le64(&m->o, 0xfeffc);
	rpl_out_le32(&m->o, sizeof(head) + 8);
	rpl_out_bytes(&m->o, &head, sizeof(head));
	rpl_out_le64(&m->o, 0); /* END */
	rpl_out_bytes(&m->o, "DeviceModelRecord0002", 21);
	rpl_out_le32(&m->o, 333);
	random_bytes(m, 333);
}

size_t make_legacy(unsigned guest, unsigned width, uint64_t seed, void *buf, size_t cap)
{
	bool pv = guest != 0;
	struct maker m = { .o = rpl_out(buf, cap), .width = width, .guest = guest, .pv = pv, .rnd = seed };

	ulong_(&m, P2M_SIZE);
	if (pv)
		pv_head(&m);
	chunks(&m);
	if (pv)
		pv_tail(&m);
	else
		hvm_tail(&m);
	if (m.o.bad)
		abort();
	return m.o.len;
}
