/* legacy_make.h - streams as Xen 4.5 wrote them, for tests */
#ifndef TESTS_LEGACY_MAKE_H
#define TESTS_LEGACY_MAKE_H

#include <stddef.h>
#include <stdint.h>

/* Fill buf with a legacy stream of a toolstack whose unsigned long has `width` bytes, of a PV guest as wide as `guest`
 * says (a 32-bit one of a 64-bit toolstack was common) or, with 0, of an HVM guest. Returns its length. */
size_t make_legacy(unsigned guest, unsigned width, uint64_t seed, void *buf, size_t cap);

#endif
