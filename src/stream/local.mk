# The migration-v2 codec: bytes in, values out. Pure; an archive for our own programs.
noinst_LTLIBRARIES += src/stream/libstream.la
src_stream_libstream_la_SOURCES = src/stream/format.c src/stream/write.c src/stream/read.c src/stream/read.h src/stream/read_header.c \
	src/stream/read_fixed.c src/stream/hvm.c \
	src/stream/check.c src/stream/check_body.c src/stream/check_vcpu.c src/stream/check.h \
	src/stream/convert.c src/stream/legacy.c
src_stream_libstream_la_CFLAGS = $(AM_CFLAGS) -Wconversion
pkginclude_HEADERS = include/replicad/err.h include/replicad/cur.h include/replicad/stream.h include/replicad/stream_format.h include/replicad/stream_rules.h \
	include/replicad/stream_write.h include/replicad/stream_read.h \
	include/replicad/stream_hvm.h include/replicad/stream_check.h \
	include/replicad/stream_convert.h

# The same for everybody: libreplicad-stream(3). Its ABI is compared by tests/unit/stream-library; a change there means a
# new -version-info.
lib_LTLIBRARIES += libreplicad-stream.la
libreplicad_stream_la_SOURCES =
libreplicad_stream_la_LIBADD = src/stream/libstream.la src/base/libbase.la
libreplicad_stream_la_LDFLAGS = $(AM_LDFLAGS) -version-info 1:0:1 -no-undefined -Wl,-z,relro -Wl,-z,now \
	-export-symbols-regex '^rpl_(stream|hvm|legacy)_'
pkgconfig_DATA += libreplicad-stream.pc
CLEANFILES += libreplicad-stream.pc
libreplicad-stream.pc: Makefile
	$(AM_V_GEN)printf '%s\n' 'prefix=$(prefix)' 'libdir=$(libdir)' 'includedir=$(includedir)' '' \
		'Name: libreplicad-stream' 'Description: Xen migration v2 streams: read, write, verify, convert' \
		'Version: $(PACKAGE_VERSION)' 'Libs: -L$${libdir} -lreplicad-stream' 'Cflags: -I$${includedir}' > $@
dist_man_MANS += man/libreplicad-stream.3
TESTS += tests/unit/stream-library
EXTRA_DIST += tests/unit/stream-library tests/unit/stream_library.c tests/data/libreplicad-stream.abi

noinst_HEADERS += tests/lib/stream_make.h tests/lib/hex.h
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

check_PROGRAMS += tests/lib/peak_memory
tests_lib_peak_memory_SOURCES = tests/lib/peak_memory.c

check_PROGRAMS += tests/unit/stream_rules
TESTS += tests/unit/stream_rules
tests_unit_stream_rules_SOURCES = tests/unit/stream_rules.c tests/lib/stream_words.c
tests_unit_stream_rules_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_stream_rules_LDADD = src/stream/libstream.la src/base/libbase.la $(CMOCKA_LIBS)

check_PROGRAMS += tests/unit/stream_legacy
TESTS += tests/unit/stream_legacy
tests_unit_stream_legacy_SOURCES = tests/unit/stream_legacy.c tests/lib/legacy_make.c tests/lib/stream_make.c
tests_unit_stream_legacy_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_stream_legacy_LDADD = src/stream/libstream.la src/base/libbase.la $(CMOCKA_LIBS)

noinst_HEADERS += tests/lib/stream_words.h tests/lib/stream_records.h
check_PROGRAMS += tests/unit/stream_bits tests/unit/stream_golden
TESTS += tests/unit/stream_bits tests/unit/stream_golden
tests_unit_stream_bits_SOURCES = tests/unit/stream_bits.c tests/lib/stream_words.c
tests_unit_stream_bits_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_stream_bits_LDADD = src/stream/libstream.la src/base/libbase.la $(CMOCKA_LIBS)
tests_unit_stream_golden_SOURCES = tests/unit/stream_golden.c
tests_unit_stream_golden_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_stream_golden_LDADD = src/stream/libstream.la src/base/libbase.la $(CMOCKA_LIBS)

TESTS += tests/unit/stream-commands tests/unit/stream-manual
EXTRA_DIST += tests/unit/stream-commands tests/unit/stream-manual tests/lib/stream_reader.py

# Files of stock Xen, recorded in the lab.
TESTS += tests/unit/stream-files
EXTRA_DIST += tests/unit/stream-files tests/data/xen

# Fuzz targets, one source for each outermost layer.
fuzz_targets += tests/fuzz/fuzz_libxc tests/fuzz/fuzz_libxl tests/fuzz/fuzz_xl tests/fuzz/fuzz_legacy
tests_fuzz_fuzz_libxc_SOURCES = tests/fuzz/fuzz_stream.c $(fuzz_main)
tests_fuzz_fuzz_libxc_CPPFLAGS = $(AM_CPPFLAGS) -DFUZZ_FORMAT=RPL_FORMAT_LIBXC
tests_fuzz_fuzz_libxc_LDFLAGS = $(fuzz_ldflags)
tests_fuzz_fuzz_libxc_LDADD = src/stream/libstream.la src/base/libbase.la
tests_fuzz_fuzz_libxl_SOURCES = tests/fuzz/fuzz_stream.c $(fuzz_main)
tests_fuzz_fuzz_libxl_CPPFLAGS = $(AM_CPPFLAGS) -DFUZZ_FORMAT=RPL_FORMAT_LIBXL
tests_fuzz_fuzz_libxl_LDFLAGS = $(fuzz_ldflags)
tests_fuzz_fuzz_libxl_LDADD = src/stream/libstream.la src/base/libbase.la
tests_fuzz_fuzz_xl_SOURCES = tests/fuzz/fuzz_stream.c $(fuzz_main)
tests_fuzz_fuzz_xl_CPPFLAGS = $(AM_CPPFLAGS) -DFUZZ_FORMAT=RPL_FORMAT_XL
tests_fuzz_fuzz_xl_LDFLAGS = $(fuzz_ldflags)
tests_fuzz_fuzz_xl_LDADD = src/stream/libstream.la src/base/libbase.la
tests_fuzz_fuzz_legacy_SOURCES = tests/fuzz/fuzz_stream.c $(fuzz_main)
tests_fuzz_fuzz_legacy_CPPFLAGS = $(AM_CPPFLAGS) -DFUZZ_FORMAT=RPL_FORMAT_LEGACY
tests_fuzz_fuzz_legacy_LDFLAGS = $(fuzz_ldflags)
tests_fuzz_fuzz_legacy_LDADD = src/stream/libstream.la src/base/libbase.la
EXTRA_DIST += tests/fuzz/corpus/libxc tests/fuzz/corpus/libxl tests/fuzz/corpus/xl tests/fuzz/corpus/legacy

# Benchmarks: tests/bench/stream runs both.
EXTRA_PROGRAMS += tests/bench/stream_encode
tests_bench_stream_encode_SOURCES = tests/bench/stream_encode.c
tests_bench_stream_encode_LDADD = src/stream/libstream.la src/base/libbase.la
EXTRA_DIST += tests/bench/stream tests/RESULTS.md
