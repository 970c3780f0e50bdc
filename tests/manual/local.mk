# What a user can meet is in the manual.
check_PROGRAMS += tests/manual/names
tests_manual_names_SOURCES = tests/manual/names.c
tests_manual_names_LDADD = src/agent/libconf.la
TESTS += tests/manual/test_manual.py
EXTRA_DIST += tests/manual/test_manual.py
