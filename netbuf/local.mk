# libnetbuf: what the keeper uses. librelay: the parts of the relay's own process.
noinst_LTLIBRARIES += netbuf/libnetbuf.la netbuf/librelay.la
netbuf_libnetbuf_la_SOURCES = netbuf/netbuf.c netbuf/netbuf_ops.h netbuf/relay.c netbuf/relay_proto.c \
	netbuf/relay_proto.h netbuf/none.c
if HAVE_NL
netbuf_libnetbuf_la_SOURCES += netbuf/plug.c netbuf/plug_port.c netbuf/plug_port.h netbuf/plug_queue.c \
	netbuf/plug_queue.h netbuf/plug_nl.c netbuf/plug_nl.h \
	netbuf/plug_msg.c netbuf/plug_msg.h
netbuf_libnetbuf_la_CFLAGS = $(AM_CFLAGS) $(NL_CFLAGS)
netbuf_libnetbuf_la_LIBADD = $(NL_LIBS)
else
netbuf_libnetbuf_la_SOURCES += netbuf/plug_standin.c
endif
netbuf_librelay_la_SOURCES = netbuf/hold.c netbuf/hold.h netbuf/relayd_io.c netbuf/relayd_tap.c netbuf/relayd_ctl.c \
	netbuf/relayd_confine.c netbuf/relayd.h

pkglibexec_PROGRAMS += replicad-relay
replicad_relay_SOURCES = netbuf/relayd.c
replicad_relay_LDFLAGS = $(RPL_PIE_LDFLAGS)
replicad_relay_LDADD = netbuf/librelay.la netbuf/libnetbuf.la src/base/libcalls.la src/base/libbase.la $(EV_LIBS) $(CAPNG_LIBS)

check_PROGRAMS += tests/unit/netbuf_relay
TESTS += tests/unit/netbuf_relay
tests_unit_netbuf_relay_SOURCES = tests/unit/netbuf_relay.c
tests_unit_netbuf_relay_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)
tests_unit_netbuf_relay_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_netbuf_relay_LDADD = netbuf/libnetbuf.la src/base/libbase.la $(CMOCKA_LIBS) $(EV_LIBS)
tests_unit_netbuf_relay_DEPENDENCIES = netbuf/libnetbuf.la src/base/libbase.la replicad-relay

dist_man_MANS += man/replicad-relay.8 man/replicad-netbuf.7

check_PROGRAMS += tests/unit/netbuf_hold
TESTS += tests/unit/netbuf_hold
tests_unit_netbuf_hold_SOURCES = tests/unit/netbuf_hold.c
tests_unit_netbuf_hold_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)
tests_unit_netbuf_hold_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_netbuf_hold_LDADD = netbuf/librelay.la src/base/libbase.la $(CMOCKA_LIBS)

fuzz_targets += tests/fuzz/fuzz_relay
tests_fuzz_fuzz_relay_SOURCES = tests/fuzz/fuzz_relay.c $(fuzz_main)
tests_fuzz_fuzz_relay_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)
tests_fuzz_fuzz_relay_LDFLAGS = $(fuzz_ldflags)
tests_fuzz_fuzz_relay_LDADD = netbuf/librelay.la netbuf/libnetbuf.la src/base/libbase.la
EXTRA_DIST += tests/fuzz/corpus/relay

# a benchmark: built with the tests, run by hand
check_PROGRAMS += tests/bench/relay
tests_bench_relay_SOURCES = tests/bench/relay.c
tests_bench_relay_LDADD = netbuf/libnetbuf.la src/base/libbase.la $(EV_LIBS)

check_PROGRAMS += tests/unit/netbuf
TESTS += tests/unit/netbuf
tests_unit_netbuf_SOURCES = tests/unit/netbuf.c
tests_unit_netbuf_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_netbuf_LDADD = netbuf/libnetbuf.la src/base/libbase.la $(CMOCKA_LIBS) $(EV_LIBS)

# a netbuf driven by lines, for tests/flow/netbuf-plug
check_PROGRAMS += tests/lib/netbuf_drive
tests_lib_netbuf_drive_SOURCES = tests/lib/netbuf_drive.c
tests_lib_netbuf_drive_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)
tests_lib_netbuf_drive_LDADD = netbuf/libnetbuf.la src/base/libbase.la $(EV_LIBS)

if HAVE_NL
check_PROGRAMS += tests/unit/netbuf_plug
TESTS += tests/unit/netbuf_plug
tests_unit_netbuf_plug_SOURCES = tests/unit/netbuf_plug.c
tests_unit_netbuf_plug_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)
tests_unit_netbuf_plug_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS) $(NL_CFLAGS)
tests_unit_netbuf_plug_LDADD = netbuf/libnetbuf.la src/base/libbase.la $(CMOCKA_LIBS) $(EV_LIBS) $(NL_LIBS)
endif

check_PROGRAMS += tests/unit/relay_confine
TESTS += tests/unit/relay_confine
tests_unit_relay_confine_SOURCES = tests/unit/relay_confine.c tests/lib/attempt.c tests/lib/attempt.h
tests_unit_relay_confine_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)
tests_unit_relay_confine_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_relay_confine_LDADD = netbuf/librelay.la src/base/libcalls.la src/base/libbase.la $(CMOCKA_LIBS) $(CAPNG_LIBS)
