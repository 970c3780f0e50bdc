noinst_LTLIBRARIES += src/replica/libreplica.la
src_replica_libreplica_la_SOURCES = src/replica/area.c src/replica/area.h src/replica/replica.c src/replica/replica.h \
	src/replica/activate.c
src_replica_libreplica_la_CFLAGS = $(AM_CFLAGS) $(XXHASH_CFLAGS)
src_replica_libreplica_la_LIBADD = $(XXHASH_LIBS)
