/* qemu_sections.c - which sections a device state has; pure
 *
 * xen-save-devices-state writes what a migration would, without the RAM: "QEVM", a version, and for each device its section's
 * head (id, name, instance, version), fields whose length only QEMU knows, and a foot (0x7e, the id again). So a section's end
 * is looked for: the foot of its id with a head of a greater id, or the end of all, right behind it. What is not found like
 * that is no answer, and never a wrong one to rely on: who asks has another way to know.
 */
#include "qemu_facts.h"

#include <string.h>

#define FILE_HEAD 8        /* magic, version */
#define SECTION_FULL 0x04
#define SECTION_FOOT 0x7e
#define STATE_END 0x00
#define FOOT_BYTES 5       /* and the id */
#define HEAD_BYTES_MIN 15  /* kind, id, length of the name, a byte of name, instance, version */

static uint32_t be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Bytes of the section's head that stands there: 0, if none does. */
static size_t head_at(const uint8_t *p, size_t left)
{
	size_t name;

	if (left < HEAD_BYTES_MIN || p[0] != SECTION_FULL)
		return 0;
	name = p[5];
	if (name == 0 || left < HEAD_BYTES_MIN - 1 + name)
		return 0;
	for (size_t i = 0; i < name; i++)
		if (p[6 + i] < ' ' || p[6 + i] > '~')
			return 0;
	return HEAD_BYTES_MIN - 1 + name;
}

static bool ends_here(const uint8_t *p, size_t left, uint32_t id)
{
	return (left == 1 && p[0] == STATE_END) || (head_at(p, left) && be32(p + 1) > id);
}

/* Behind the foot of section `id`, which begins at `at` or later; 0: there is none. */
static size_t section_end(const uint8_t *state, size_t len, size_t at, uint32_t id)
{
	while (at + FOOT_BYTES < len) {
		const uint8_t *foot = memchr(state + at, SECTION_FOOT, len - FOOT_BYTES - at);

		if (!foot)
			return 0;
		at = (size_t)(foot - state);
		if (be32(foot + 1) == id && ends_here(foot + FOOT_BYTES, len - at - FOOT_BYTES, id))
			return at + FOOT_BYTES;
		at++;
	}
	return 0;
}

uint64_t qemu_sections(const uint8_t *state, size_t len)
{
	uint64_t h = QEMU_HASH_BEGIN;
	size_t at = FILE_HEAD, head;

	if (len <= FILE_HEAD || memcmp(state, "QEVM", 4) != 0)
		return 0;
	while ((head = head_at(state + at, len - at)) != 0) {
		uint32_t id = be32(state + at + 1);

		h = qemu_hash(h, state + at + 5, head - 5); /* not the id: it only counts */
		at = section_end(state, len, at + head, id);
		if (!at)
			return 0;
	}
	return at + 1 == len && state[at] == STATE_END ? h | 1 : 0;
}
