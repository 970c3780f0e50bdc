# The migration-v2 codec: bytes in, values out. Pure; an archive for our own programs.
noinst_LTLIBRARIES += src/stream/libstream.la
src_stream_libstream_la_SOURCES = src/stream/format.c src/stream/write.c src/stream/read.c src/stream/hvm.c \
	src/stream/check.c src/stream/check_body.c src/stream/check.h \
	src/stream/convert.c src/stream/legacy.c
src_stream_libstream_la_CFLAGS = $(AM_CFLAGS) -Wconversion
pkginclude_HEADERS = include/replicad/stream.h include/replicad/stream_format.h include/replicad/stream_rules.h \
	include/replicad/stream_write.h include/replicad/stream_read.h \
	include/replicad/stream_hvm.h include/replicad/stream_check.h \
	include/replicad/stream_convert.h

noinst_HEADERS += tests/lib/stream_make.h
check_PROGRAMS += tests/unit/wire_stream
TESTS += tests/unit/wire_stream
tests_unit_wire_stream_SOURCES = tests/unit/wire_stream.c tests/lib/stream_make.c
tests_unit_wire_stream_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_wire_stream_LDADD = src/stream/libstream.la src/base/libbase.la $(CMOCKA_LIBS)
dist_man_MANS += man/replicad-stream.7 man/replicad-stream.8

# Made-up streams, for scripts, fuzz seeds and benchmarks.
noinst_HEADERS += tests/lib/legacy_make.h
check_PROGRAMS += tests/lib/stream_gen
tests_lib_stream_gen_SOURCES = tests/lib/stream_gen.c tests/lib/stream_make.c tests/lib/legacy_make.c
tests_lib_stream_gen_LDADD = src/stream/libstream.la src/base/libbase.la
