# Tests by kind; `make check` runs those that need neither root nor minutes.
check_PROGRAMS += tests/unit/base
TESTS += tests/unit/base
tests_unit_base_SOURCES = tests/unit/base.c
tests_unit_base_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_base_LDADD = src/base/libbase.la $(CMOCKA_LIBS)
include tests/demo/local.mk
