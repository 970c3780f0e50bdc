#!/bin/sh
# Each fuzz target takes every input of its corpus, and (without libFuzzer) a few mutations of each.
#
# FUZZ_PROGRAMS lists the targets, tests/fuzz/fuzz_NAME with the corpus tests/fuzz/corpus/NAME.
set -eu
: "${FUZZ_PROGRAMS:?}" "${top_srcdir:?}" "${top_builddir:?}"
for program in $FUZZ_PROGRAMS; do
	corpus=$top_srcdir/tests/fuzz/corpus/${program##*/fuzz_}
	echo "$program"
	[ -n "$(ls "$corpus")" ] || { echo "$corpus: no inputs"; exit 1; }
	"$top_builddir/$program" -runs=0 -mutate=100 "$corpus"
done
