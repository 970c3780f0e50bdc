noinst_LTLIBRARIES += src/replica/libreplica.la
src_replica_libreplica_la_SOURCES = src/replica/area.c src/replica/area.h src/replica/replica.c src/replica/replica.h \
	src/replica/activate.c
src_replica_libreplica_la_CFLAGS = $(AM_CFLAGS) $(XXHASH_CFLAGS)
src_replica_libreplica_la_LIBADD = $(XXHASH_LIBS)

check_PROGRAMS += tests/unit/replica
TESTS += tests/unit/replica
tests_unit_replica_SOURCES = tests/unit/replica.c
tests_unit_replica_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)
tests_unit_replica_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_replica_LDADD = src/replica/libreplica.la src/guest/libmemory.la src/base/libbase.la $(CMOCKA_LIBS)
