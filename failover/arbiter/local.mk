# failover/arbiter
noinst_LTLIBRARIES += failover/arbiter/libarbiter.la
failover_arbiter_libarbiter_la_SOURCES = failover/arbiter/arbiter.c failover/arbiter/arbiter_ops.h \
	failover/arbiter/record_text.c failover/arbiter/record_text.h failover/arbiter/file.c \
	failover/arbiter/file_register.c failover/arbiter/file_register.h failover/arbiter/base64.c \
	failover/arbiter/base64.h failover/arbiter/etcd_text.c failover/arbiter/etcd_text.h failover/arbiter/endpoints.c \
	failover/arbiter/endpoints.h failover/arbiter/http.h failover/arbiter/manual.c
if HAVE_CURL
failover_arbiter_libarbiter_la_SOURCES += failover/arbiter/etcd.c failover/arbiter/http.c \
	failover/arbiter/curl_late.c failover/arbiter/curl_late.h
else
failover_arbiter_libarbiter_la_SOURCES += failover/arbiter/etcd_standin.c
endif
failover_arbiter_libarbiter_la_CPPFLAGS = $(AM_CPPFLAGS) -DRPL_CURL_SONAME='"$(CURL_SONAME)"'
failover_arbiter_libarbiter_la_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS) $(CURL_CFLAGS) -pthread

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

# etcd: its texts alone, and against real ones
check_PROGRAMS += tests/unit/etcd_text tests/flow/arbiter/client tests/lib/pki-write
TESTS += tests/unit/etcd_text
tests_unit_etcd_text_SOURCES = tests/unit/etcd_text.c
tests_unit_etcd_text_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)
tests_unit_etcd_text_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_etcd_text_LDADD = failover/arbiter/libarbiter.la src/base/libbase.la $(CMOCKA_LIBS) $(JANSSON_LIBS) $(EV_LIBS)
tests_flow_arbiter_client_SOURCES = tests/flow/arbiter/client.c
tests_flow_arbiter_client_LDFLAGS = -pthread
tests_flow_arbiter_client_LDADD = failover/arbiter/libarbiter.la src/base/libbase.la $(JANSSON_LIBS) $(EV_LIBS)
tests_lib_pki_write_SOURCES = tests/lib/pki_write.c tests/lib/pki.c tests/lib/pki.h
tests_lib_pki_write_CFLAGS = $(AM_CFLAGS) $(GNUTLS_CFLAGS)
tests_lib_pki_write_LDADD = src/base/libbase.la $(GNUTLS_LIBS)

fuzz_targets += tests/fuzz/fuzz_etcd
tests_fuzz_fuzz_etcd_SOURCES = tests/fuzz/fuzz_etcd.c $(fuzz_main)
tests_fuzz_fuzz_etcd_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)
tests_fuzz_fuzz_etcd_LDFLAGS = $(fuzz_ldflags)
tests_fuzz_fuzz_etcd_LDADD = failover/arbiter/libarbiter.la src/base/libbase.la $(JANSSON_LIBS) $(EV_LIBS)
EXTRA_DIST += tests/fuzz/corpus/etcd
