# failover/arbiter
noinst_LTLIBRARIES += failover/arbiter/libarbiter.la
failover_arbiter_libarbiter_la_SOURCES = failover/arbiter/arbiter.c failover/arbiter/arbiter_ops.h \
	failover/arbiter/record_text.c failover/arbiter/record_text.h failover/arbiter/file.c \
	failover/arbiter/file_register.c failover/arbiter/file_register.h
failover_arbiter_libarbiter_la_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS) -pthread

check_PROGRAMS += tests/unit/arbiter
TESTS += tests/unit/arbiter
tests_unit_arbiter_SOURCES = tests/unit/arbiter.c
tests_unit_arbiter_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)
tests_unit_arbiter_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_arbiter_LDFLAGS = -pthread
tests_unit_arbiter_LDADD = failover/arbiter/libarbiter.la src/base/libbase.la $(CMOCKA_LIBS) $(JANSSON_LIBS) $(EV_LIBS)

fuzz_targets += tests/fuzz/fuzz_record
tests_fuzz_fuzz_record_SOURCES = tests/fuzz/fuzz_record.c $(fuzz_main)
tests_fuzz_fuzz_record_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)
tests_fuzz_fuzz_record_LDFLAGS = $(fuzz_ldflags)
tests_fuzz_fuzz_record_LDADD = failover/arbiter/libarbiter.la src/base/libbase.la $(JANSSON_LIBS) $(EV_LIBS)
EXTRA_DIST += tests/fuzz/corpus/record

dist_man_MANS += man/replicad-arbiter.7
