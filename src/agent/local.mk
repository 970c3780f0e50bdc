# The daemon, and what it shows others: the configuration, requests and answers, the client's side of its socket.
noinst_HEADERS += include/replicad/control.h include/replicad/conf.h include/replicad/client.h include/replicad/agent.h
noinst_LTLIBRARIES += src/agent/libconf.la src/agent/librequest.la src/agent/libclient.la src/agent/libagent.la
src_agent_libconf_la_SOURCES = src/agent/conf_priv.h src/agent/conf.c src/agent/conf_parse.c src/agent/conf_load.c
src_agent_libconf_la_CFLAGS = $(AM_CFLAGS) $(INIH_CFLAGS)
src_agent_libconf_la_LIBADD = src/base/libbase.la $(INIH_LIBS)

src_agent_librequest_la_SOURCES = src/agent/request.h src/agent/request.c
src_agent_librequest_la_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS)
src_agent_librequest_la_LIBADD = src/agent/libconf.la src/base/libbase.la $(JANSSON_LIBS)

src_agent_libclient_la_SOURCES = src/agent/client.c
src_agent_libclient_la_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS)
src_agent_libclient_la_LIBADD = src/base/libbase.la $(JANSSON_LIBS)

src_agent_libagent_la_SOURCES = src/agent/agent.h src/agent/ward.h src/agent/main.c src/agent/server.c src/agent/command.c src/agent/accept.c \
	src/agent/journal.c src/agent/wanted.c src/agent/spawn.c src/agent/ward.c src/agent/ward_call.c src/agent/relay.c
src_agent_libagent_la_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS)
src_agent_libagent_la_LIBADD = src/agent/librequest.la src/agent/libconf.la src/link/libwire.la src/base/libbase.la $(JANSSON_LIBS) $(EV_LIBS)

check_PROGRAMS += tests/unit/conf
TESTS += tests/unit/conf
tests_unit_conf_SOURCES = tests/unit/conf.c
tests_unit_conf_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_conf_LDADD = src/agent/libconf.la src/base/libbase.la $(CMOCKA_LIBS)

check_PROGRAMS += tests/unit/request
TESTS += tests/unit/request
tests_unit_request_SOURCES = tests/unit/request.c
tests_unit_request_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS) $(JANSSON_CFLAGS)
tests_unit_request_LDADD = src/agent/librequest.la $(CMOCKA_LIBS) $(JANSSON_LIBS)

fuzz_targets += tests/fuzz/fuzz_conf tests/fuzz/fuzz_request
tests_fuzz_fuzz_conf_SOURCES = tests/fuzz/fuzz_conf.c $(fuzz_main)
tests_fuzz_fuzz_conf_LDFLAGS = $(fuzz_ldflags)
tests_fuzz_fuzz_conf_LDADD = src/agent/libconf.la
tests_fuzz_fuzz_request_SOURCES = tests/fuzz/fuzz_request.c $(fuzz_main)
tests_fuzz_fuzz_request_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS)
tests_fuzz_fuzz_request_LDFLAGS = $(fuzz_ldflags)
tests_fuzz_fuzz_request_LDADD = src/agent/librequest.la $(JANSSON_LIBS)
EXTRA_DIST += tests/fuzz/corpus/conf tests/fuzz/corpus/request

dist_man_MANS += man/replicad.8 man/replicad-agent.8 man/replicad-protect.8 man/replicad-unprotect.8 man/replicad-failover.8 man/replicad-solo.8 \
	man/replicad-status.8 man/replicad-events.8 man/replicad-control.7

agent_tests = tests/agent/test_agent.py tests/agent/test_pair.py
TESTS += $(agent_tests)
EXTRA_DIST += $(agent_tests) tests/agent/harness.py tests/agent/fake_keeper.py
