/* payload.h - what payload.c and the tests that read its memory agree on */
#ifndef TESTS_FLOW_GUEST_PAYLOAD_H
#define TESTS_FLOW_GUEST_PAYLOAD_H

#include <stdint.h>

#define PAYLOAD_MAGIC 0x70c0ffeeu
#define PAYLOAD_REPORT 0x00200000u /* physical addresses */
#define PAYLOAD_ARENA 0x00400000u
#define PAYLOAD_PAGES 2048u        /* in the arena, and again above 4 GiB */
#define PAYLOAD_DELAY 20000u       /* turns of an empty loop between two writes */

struct payload_report {
	uint32_t magic, step, sum, bad, checks, pages;
};

#endif
