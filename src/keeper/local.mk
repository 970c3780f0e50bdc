# replicad-keeper: the shell around the protection state machine, one process per VM and role.
pkglibexec_PROGRAMS += replicad-keeper
replicad_keeper_SOURCES = src/keeper/main.c
replicad_keeper_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS)
replicad_keeper_LDFLAGS = $(RPL_PIE_LDFLAGS)
replicad_keeper_LDADD = $(KEEPER_LIBS)
KEEPER_LIBS = src/keeper/libkeeper.la src/keeper/liblead.la src/keeper/libmovers.la failover/core/libcore.la failover/arbiter/libarbiter.la netbuf/libnetbuf.la disk/libdisk.la \
	src/guest/libguest.la src/replica/libreplica.la src/guest/libmemory.la src/engine/libmovermsg.la \
	src/base/libbase.la $(JANSSON_LIBS) $(EV_LIBS)

noinst_LTLIBRARIES += src/keeper/libkeeper.la
src_keeper_libkeeper_la_SOURCES = src/keeper/keeper.h src/keeper/shell.c src/keeper/actions.c \
	src/keeper/life.c src/keeper/rooms.c src/keeper/session.c src/keeper/standby.c src/keeper/checkpoint.c src/keeper/checkpoint.h src/keeper/hold.c \
	src/keeper/movers_conf.c src/keeper/conf.c src/keeper/conf.h \
	src/keeper/control.c src/keeper/control.h src/keeper/command.c src/keeper/status.c src/keeper/persist.c \
	src/keeper/programs.c src/keeper/programs.h src/keeper/remains.c src/keeper/adopt.c src/keeper/roles.c src/keeper/interfaces.c src/keeper/listener.c src/keeper/ahead.c src/keeper/resolve.c src/keeper/resolve.h
src_keeper_libkeeper_la_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS)

noinst_LTLIBRARIES += src/keeper/liblead.la
src_keeper_liblead_la_SOURCES = src/keeper/lead.c src/keeper/lead.h src/keeper/rounds.c src/keeper/rounds.h

noinst_LTLIBRARIES += src/keeper/libmovers.la
src_keeper_libmovers_la_SOURCES = src/keeper/movers.c src/keeper/movers.h

check_PROGRAMS += tests/unit/lead tests/unit/rounds tests/unit/movers tests/unit/shell
TESTS += tests/unit/lead tests/unit/rounds tests/unit/movers tests/unit/shell
tests_unit_lead_SOURCES = tests/unit/lead.c
tests_unit_lead_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_lead_LDADD = src/keeper/liblead.la $(CMOCKA_LIBS)
tests_unit_rounds_SOURCES = tests/unit/rounds.c
tests_unit_rounds_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_rounds_LDADD = src/keeper/liblead.la $(CMOCKA_LIBS)
tests_unit_movers_SOURCES = tests/unit/movers.c
tests_unit_movers_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_movers_LDADD = src/keeper/libmovers.la src/engine/libmovermsg.la src/base/libbase.la $(EV_LIBS) $(CMOCKA_LIBS)
tests_unit_shell_SOURCES = tests/unit/shell.c
tests_unit_shell_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_shell_LDADD = $(KEEPER_LIBS) $(CMOCKA_LIBS)
tests_unit_shell_LDFLAGS = -Wl,--wrap=keeper_tell_state,--wrap=rpl_netbuf_release,--wrap=movers_send,--wrap=keeper_arbiter_read \
	-Wl,--wrap=keeper_arbiter_claim,--wrap=keeper_pursue,--wrap=session_start,--wrap=standby_on_state,--wrap=movers_link,--wrap=movers_kill \
	-Wl,--wrap=rpl_guest_room,--wrap=control_event,--wrap=rpl_recent_ns,--wrap=getaddrinfo
