# Fuzz targets: one per parser, each linked with the parser's archive alone. A room adds
#   fuzz_targets += tests/fuzz/fuzz_NAME
#   tests_fuzz_fuzz_NAME_SOURCES = tests/fuzz/fuzz_NAME.c $(fuzz_main)
#   tests_fuzz_fuzz_NAME_LDFLAGS = $(fuzz_ldflags)
#   tests_fuzz_fuzz_NAME_LDADD = its archive
#   EXTRA_DIST += tests/fuzz/corpus/NAME
# and inputs in tests/fuzz/corpus/NAME, which `make check` replays. --enable-fuzzers makes them libFuzzer programs with
# clang, and programs for AFL++ (which have a persistent loop) with afl-clang-fast; otherwise main.c feeds them files.
fuzz_targets =
if FUZZERS
fuzz_main = tests/fuzz/fuzz.h
fuzz_ldflags = -fsanitize=fuzzer
else
fuzz_main = tests/fuzz/main.c tests/fuzz/fuzz.h
fuzz_ldflags =
endif
check_PROGRAMS += $(fuzz_targets)
TESTS += tests/fuzz/replay.sh
EXTRA_DIST += tests/fuzz/replay.sh tests/fuzz/main.c
