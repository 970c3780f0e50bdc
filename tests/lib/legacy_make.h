/* legacy_make.h - streams as Xen 4.5 wrote them, for tests */
#ifndef TESTS_LEGACY_MAKE_H
#define TESTS_LEGACY_MAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Fill buf with a legacy stream of a toolstack whose unsigned long has `width` bytes. Returns its length. */
size_t make_legacy(bool pv, unsigned width, uint64_t seed, void *buf, size_t cap);

#endif
