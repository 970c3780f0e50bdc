# The daemon and what it shows others: the configuration (conf), and the client's side of its socket.
noinst_HEADERS += include/replicad/control.h include/replicad/conf.h
noinst_LTLIBRARIES += src/agent/libconf.la
src_agent_libconf_la_SOURCES = src/agent/conf_priv.h src/agent/conf.c src/agent/conf_parse.c src/agent/conf_load.c
src_agent_libconf_la_CFLAGS = $(AM_CFLAGS) $(INIH_CFLAGS)
src_agent_libconf_la_LIBADD = src/base/libbase.la $(INIH_LIBS)

check_PROGRAMS += tests/unit/conf
TESTS += tests/unit/conf
tests_unit_conf_SOURCES = tests/unit/conf.c
tests_unit_conf_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_conf_LDADD = src/agent/libconf.la src/base/libbase.la $(CMOCKA_LIBS)
