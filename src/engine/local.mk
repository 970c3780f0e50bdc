# The names of the messages, for both ends of the mover's socket.
noinst_LTLIBRARIES += src/engine/libmovermsg.la
src_engine_libmovermsg_la_SOURCES = src/engine/msg.c

# The mover without its main(): both roles.
noinst_LTLIBRARIES += src/engine/libengine.la
src_engine_libengine_la_SOURCES = src/engine/engine.h src/engine/connection.c src/engine/sandbox.c src/engine/sandbox.h \
	src/engine/arena.c src/engine/arena.h src/engine/sent.c src/engine/sent.h src/engine/primary.c src/engine/primary.h src/engine/stage.c src/engine/send.c \
	src/engine/backup.c src/engine/backup.h src/engine/apply.c
src_engine_libengine_la_CFLAGS = $(AM_CFLAGS) $(SECCOMP_CFLAGS) $(CAPNG_CFLAGS)

pkglibexec_PROGRAMS += replicad-mover
replicad_mover_SOURCES = src/engine/main.c
replicad_mover_LDFLAGS = $(AM_LDFLAGS) $(RPL_PIE_LDFLAGS)
replicad_mover_LDADD = src/engine/libengine.la src/engine/libmovermsg.la src/replica/libreplica.la src/stream/libstream.la \
	src/guest/libmemory.la src/link/liblink.la src/base/libcalls.la src/base/libbase.la $(CAPNG_LIBS) $(EV_LIBS)

# Two real movers, scripted keepers, a simulated guest's memory.
noinst_HEADERS += tests/lib/mover_rig.h
check_PROGRAMS += tests/unit/mover
TESTS += tests/unit/mover
tests_unit_mover_SOURCES = tests/unit/mover.c tests/lib/mover_rig.c src/guest/uffd.c
tests_unit_mover_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)
tests_unit_mover_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_mover_LDADD = src/engine/libmovermsg.la src/replica/libreplica.la src/guest/libmemory.la src/base/libbase.la $(CMOCKA_LIBS)

check_PROGRAMS += tests/unit/mover_keys
TESTS += tests/unit/mover_keys
tests_unit_mover_keys_SOURCES = tests/unit/mover_keys.c tests/lib/mover_rig.c tests/lib/pki.c
tests_unit_mover_keys_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)
tests_unit_mover_keys_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS) $(GNUTLS_CFLAGS)
tests_unit_mover_keys_LDADD = src/engine/libmovermsg.la src/link/libwire.la src/base/libbase.la $(GNUTLS_LIBS) $(CMOCKA_LIBS)

check_PROGRAMS += tests/unit/mover_orders
TESTS += tests/unit/mover_orders
tests_unit_mover_orders_SOURCES = tests/unit/mover_orders.c tests/lib/mover_rig.c
tests_unit_mover_orders_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)
tests_unit_mover_orders_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_mover_orders_LDADD = src/engine/libmovermsg.la src/base/libbase.la $(CMOCKA_LIBS)

noinst_HEADERS += tests/lib/raw_peer.h
check_PROGRAMS += tests/unit/mover_hostile
TESTS += tests/unit/mover_hostile
tests_unit_mover_hostile_SOURCES = tests/unit/mover_hostile.c tests/lib/mover_rig.c tests/lib/raw_peer.c
tests_unit_mover_hostile_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)
tests_unit_mover_hostile_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_mover_hostile_LDADD = src/engine/libmovermsg.la src/link/libwire.la src/stream/libstream.la src/base/libbase.la \
	$(CMOCKA_LIBS)

check_PROGRAMS += tests/unit/apply
TESTS += tests/unit/apply
tests_unit_apply_SOURCES = tests/unit/apply.c
tests_unit_apply_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)
tests_unit_apply_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_apply_LDADD = src/engine/libengine.la src/replica/libreplica.la src/stream/libstream.la src/guest/libmemory.la \
	src/link/libwire.la src/base/libbase.la $(CMOCKA_LIBS)

check_PROGRAMS += tests/unit/sandbox tests/unit/arena
TESTS += tests/unit/sandbox tests/unit/arena
tests_unit_sandbox_SOURCES = tests/unit/sandbox.c tests/lib/attempt.c tests/lib/attempt.h
tests_unit_sandbox_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)
tests_unit_sandbox_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_sandbox_LDADD = src/engine/libengine.la src/base/libcalls.la src/base/libbase.la $(CAPNG_LIBS) $(CMOCKA_LIBS)
tests_unit_arena_SOURCES = tests/unit/arena.c
tests_unit_arena_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)
tests_unit_arena_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_arena_LDADD = src/engine/libengine.la src/base/libbase.la $(CMOCKA_LIBS)

check_PROGRAMS += tests/unit/sent
TESTS += tests/unit/sent
tests_unit_sent_SOURCES = tests/unit/sent.c tests/lib/draw.h
tests_unit_sent_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)
tests_unit_sent_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_sent_LDADD = src/engine/libengine.la src/replica/libreplica.la src/guest/libmemory.la src/link/libwire.la \
	src/base/libbase.la $(CMOCKA_LIBS)

# a benchmark: built with the tests, run by hand
check_PROGRAMS += tests/bench/engine
tests_bench_engine_SOURCES = tests/bench/engine.c tests/lib/mover_rig.c
tests_bench_engine_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)
tests_bench_engine_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_bench_engine_LDADD = src/engine/libmovermsg.la src/base/libbase.la $(CMOCKA_LIBS)

fuzz_targets += tests/fuzz/fuzz_apply
tests_fuzz_fuzz_apply_SOURCES = tests/fuzz/fuzz_apply.c $(fuzz_main)
tests_fuzz_fuzz_apply_LDFLAGS = $(fuzz_ldflags)
tests_fuzz_fuzz_apply_LDADD = src/engine/libengine.la src/replica/libreplica.la src/stream/libstream.la \
	src/guest/libmemory.la src/link/libwire.la src/base/libbase.la
EXTRA_DIST += tests/fuzz/corpus/apply
