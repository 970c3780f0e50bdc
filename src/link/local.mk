# src/link: the codec is pure (frames, hello, pages, digest, keys), the connection stands on it.
noinst_LTLIBRARIES += src/link/libwire.la src/link/liblink.la
src_link_libwire_la_SOURCES = src/link/frame.c src/link/frame.h src/link/hello.c src/link/pages.c src/link/digest.c \
	src/link/keys.c
src_link_libwire_la_CFLAGS = $(AM_CFLAGS) $(XXHASH_CFLAGS)
src_link_libwire_la_LIBADD = src/base/libbase.la $(XXHASH_LIBS)
src_link_liblink_la_SOURCES = src/link/conn.c src/link/sendq.c src/link/sendq.h src/link/tls.c src/link/tls.h
src_link_liblink_la_CFLAGS = $(AM_CFLAGS) $(GNUTLS_CFLAGS)
src_link_liblink_la_LIBADD = src/link/libwire.la $(GNUTLS_LIBS) $(EV_LIBS)
noinst_HEADERS += include/replicad/keys.h

check_PROGRAMS += tests/unit/wire tests/unit/keys
TESTS += tests/unit/wire tests/unit/keys
tests_unit_wire_SOURCES = tests/unit/wire.c
tests_unit_wire_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_wire_LDADD = src/link/libwire.la $(CMOCKA_LIBS)
tests_unit_keys_SOURCES = tests/unit/keys.c
tests_unit_keys_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_keys_LDADD = src/link/libwire.la $(CMOCKA_LIBS)
check_PROGRAMS += tests/unit/link
TESTS += tests/unit/link
tests_unit_link_SOURCES = tests/unit/link.c tests/lib/pki.c tests/lib/pki.h
tests_unit_link_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS) $(GNUTLS_CFLAGS)
tests_unit_link_LDADD = src/link/liblink.la $(CMOCKA_LIBS) $(GNUTLS_LIBS) $(EV_LIBS)

fuzz_targets += tests/fuzz/fuzz_frame tests/fuzz/fuzz_keys
tests_fuzz_fuzz_frame_SOURCES = tests/fuzz/fuzz_frame.c $(fuzz_main)
tests_fuzz_fuzz_frame_LDFLAGS = $(fuzz_ldflags)
tests_fuzz_fuzz_frame_LDADD = src/link/libwire.la
tests_fuzz_fuzz_keys_SOURCES = tests/fuzz/fuzz_keys.c $(fuzz_main)
tests_fuzz_fuzz_keys_LDFLAGS = $(fuzz_ldflags)
tests_fuzz_fuzz_keys_LDADD = src/link/libwire.la
EXTRA_DIST += tests/fuzz/corpus/frame tests/fuzz/corpus/keys

# a benchmark: built with the tests, run by hand
check_PROGRAMS += tests/bench/link
tests_bench_link_SOURCES = tests/bench/link.c tests/bench/median.h
tests_bench_link_LDADD = src/link/liblink.la $(EV_LIBS)
