# failover/core: pure, so it needs nothing but the headers (and base's rpl_assert)
core_sources = failover/core/core.c failover/core/claim.c failover/core/start.c failover/core/owner.c \
	failover/core/primary.c failover/core/backup.c failover/core/cold.c failover/core/work.c failover/core/check.c failover/core/names.c
noinst_LTLIBRARIES += failover/core/libcore.la
failover_core_libcore_la_SOURCES = $(core_sources)
noinst_HEADERS += include/replicad/record.h include/replicad/core.h failover/core/core_int.h

check_PROGRAMS += tests/unit/core
TESTS += tests/unit/core
tests_unit_core_SOURCES = tests/unit/core.c
tests_unit_core_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_core_LDADD = failover/core/libcore.la src/base/libbase.la $(CMOCKA_LIBS)
