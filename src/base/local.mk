noinst_LTLIBRARIES += src/base/libbase.la
src_base_libbase_la_SOURCES = src/base/err.c src/base/log.c src/base/clock.c src/base/uuid.c \
	src/base/bitmap.c src/base/stats.c src/base/io.c src/base/fault.c \
	src/base/trace.c src/base/process.c src/base/host.c src/base/delta.c src/base/thread.c
src_base_libbase_la_CFLAGS = $(AM_CFLAGS) $(XXHASH_CFLAGS) -pthread
# For those that confine themselves.
noinst_LTLIBRARIES += src/base/libcalls.la
src_base_libcalls_la_SOURCES = src/base/calls.c include/replicad/calls.h
src_base_libcalls_la_CFLAGS = $(AM_CFLAGS) $(SECCOMP_CFLAGS)
src_base_libcalls_la_LIBADD = $(SECCOMP_LIBS)
noinst_HEADERS += include/replicad/err.h include/replicad/log.h include/replicad/auto.h include/replicad/clock.h \
	include/replicad/uuid.h include/replicad/cur.h include/replicad/bitmap.h include/replicad/stats.h \
	include/replicad/io.h include/replicad/hex.h include/replicad/fault.h include/replicad/trace.h \
	include/replicad/process.h include/replicad/host.h include/replicad/delta.h include/replicad/thread.h
# What rooms show each other: one concept a header.
noinst_HEADERS += include/replicad/guest.h include/replicad/memory.h include/replicad/netbuf.h include/replicad/disk.h include/replicad/durability.h \
	include/replicad/arbiter.h include/replicad/link.h include/replicad/pages.h include/replicad/mover.h \
	include/replicad/replica.h
check_PROGRAMS += tests/unit/fault
TESTS += tests/unit/fault
tests_unit_fault_SOURCES = tests/unit/fault.c
tests_unit_fault_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_fault_LDADD = src/base/libbase.la $(CMOCKA_LIBS)
check_PROGRAMS += tests/unit/delta
TESTS += tests/unit/delta
tests_unit_delta_SOURCES = tests/unit/delta.c tests/lib/draw.h
tests_unit_delta_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_delta_LDADD = src/base/libbase.la $(CMOCKA_LIBS)

fuzz_targets += tests/fuzz/fuzz_delta
tests_fuzz_fuzz_delta_SOURCES = tests/fuzz/fuzz_delta.c $(fuzz_main)
tests_fuzz_fuzz_delta_LDFLAGS = $(fuzz_ldflags)
tests_fuzz_fuzz_delta_LDADD = src/base/libbase.la
EXTRA_DIST += tests/fuzz/corpus/delta

# a benchmark: built with the tests, run by hand
check_PROGRAMS += tests/bench/delta
tests_bench_delta_SOURCES = tests/bench/delta.c tests/bench/median.h
tests_bench_delta_LDADD = src/link/libwire.la src/base/libbase.la
