# tests/sim: the core in virtual time; sim_<rule>: without that rule
noinst_HEADERS += tests/sim/sim.h
check_LTLIBRARIES += tests/sim/libsim.la
tests_sim_libsim_la_SOURCES = tests/sim/main.c tests/sim/world.c tests/sim/shell.c tests/sim/wire.c tests/sim/fault.c \
	tests/sim/god.c
check_PROGRAMS += tests/sim/sim
tests_sim_sim_SOURCES =
tests_sim_sim_LDADD = tests/sim/libsim.la failover/core/libcore.la src/base/libbase.la
TESTS += tests/sim/report tests/sim/rules
EXTRA_DIST += tests/sim/report tests/sim/rules

check_PROGRAMS += tests/sim/sim_R1
tests_sim_sim_R1_SOURCES = tests/sim/mutant.c
tests_sim_sim_R1_CPPFLAGS = $(AM_CPPFLAGS) -DRPL_BREAK_R1
tests_sim_sim_R1_LDADD = tests/sim/libsim.la src/base/libbase.la

check_PROGRAMS += tests/sim/sim_R2
tests_sim_sim_R2_SOURCES = tests/sim/mutant.c
tests_sim_sim_R2_CPPFLAGS = $(AM_CPPFLAGS) -DRPL_BREAK_R2
tests_sim_sim_R2_LDADD = tests/sim/libsim.la src/base/libbase.la

check_PROGRAMS += tests/sim/sim_R2b
tests_sim_sim_R2b_SOURCES = tests/sim/mutant.c
tests_sim_sim_R2b_CPPFLAGS = $(AM_CPPFLAGS) -DRPL_BREAK_R2b
tests_sim_sim_R2b_LDADD = tests/sim/libsim.la src/base/libbase.la

check_PROGRAMS += tests/sim/sim_R3
tests_sim_sim_R3_SOURCES = tests/sim/mutant.c
tests_sim_sim_R3_CPPFLAGS = $(AM_CPPFLAGS) -DRPL_BREAK_R3
tests_sim_sim_R3_LDADD = tests/sim/libsim.la src/base/libbase.la

check_PROGRAMS += tests/sim/sim_R4
tests_sim_sim_R4_SOURCES = tests/sim/mutant.c
tests_sim_sim_R4_CPPFLAGS = $(AM_CPPFLAGS) -DRPL_BREAK_R4
tests_sim_sim_R4_LDADD = tests/sim/libsim.la src/base/libbase.la

check_PROGRAMS += tests/sim/sim_R5
tests_sim_sim_R5_SOURCES = tests/sim/mutant.c
tests_sim_sim_R5_CPPFLAGS = $(AM_CPPFLAGS) -DRPL_BREAK_R5
tests_sim_sim_R5_LDADD = tests/sim/libsim.la src/base/libbase.la

check_PROGRAMS += tests/sim/sim_R6
tests_sim_sim_R6_SOURCES = tests/sim/mutant.c
tests_sim_sim_R6_CPPFLAGS = $(AM_CPPFLAGS) -DRPL_BREAK_R6
tests_sim_sim_R6_LDADD = tests/sim/libsim.la src/base/libbase.la

check_PROGRAMS += tests/sim/sim_R7
tests_sim_sim_R7_SOURCES = tests/sim/mutant.c
tests_sim_sim_R7_CPPFLAGS = $(AM_CPPFLAGS) -DRPL_BREAK_R7
tests_sim_sim_R7_LDADD = tests/sim/libsim.la src/base/libbase.la

check_PROGRAMS += tests/sim/sim_R8
tests_sim_sim_R8_SOURCES = tests/sim/mutant.c
tests_sim_sim_R8_CPPFLAGS = $(AM_CPPFLAGS) -DRPL_BREAK_R8
tests_sim_sim_R8_LDADD = tests/sim/libsim.la src/base/libbase.la

check_PROGRAMS += tests/sim/sim_R9
tests_sim_sim_R9_SOURCES = tests/sim/mutant.c
tests_sim_sim_R9_CPPFLAGS = $(AM_CPPFLAGS) -DRPL_BREAK_R9
tests_sim_sim_R9_LDADD = tests/sim/libsim.la src/base/libbase.la

check_PROGRAMS += tests/sim/sim_R10
tests_sim_sim_R10_SOURCES = tests/sim/mutant.c
tests_sim_sim_R10_CPPFLAGS = $(AM_CPPFLAGS) -DRPL_BREAK_R10
tests_sim_sim_R10_LDADD = tests/sim/libsim.la src/base/libbase.la
