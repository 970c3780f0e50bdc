# Tests by kind; `make check` runs those that need neither root nor minutes.
check_PROGRAMS += tests/unit/base
TESTS += tests/unit/base
tests_unit_base_SOURCES = tests/unit/base.c
tests_unit_base_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_base_LDADD = src/base/libbase.la $(CMOCKA_LIBS)
tests_unit_base_LDFLAGS = -Wl,--wrap=listen,--wrap=rename
include tests/demo/local.mk
include tests/sim/local.mk

# Tests that need root or real QEMU: scripts, run by ./run-tests one after the other, 77 = skipped. One a line.
FLOW_TESTS = \
	tests/model/run \
	tests/flow/guest-checkpoint \
	tests/flow/guest-refusals \
	tests/flow/guest-life \
	tests/flow/demo-guest \
	tests/flow/fault-matrix \
	tests/flow/arbiter-etcd \
	tests/flow/arbiter-faults \
	tests/flow/arbiter-manual \
	tests/flow/demo-negative-control \
	tests/flow/netbuf-relay \
	tests/flow/netbuf-plug \
	tests/flow/relay-supervised \
	tests/flow/hostile \
	tests/flow/certified-peer \
	tests/flow/keeper-wishes \
	tests/flow/failover \
	tests/flow/supervision \
	tests/flow/guest-fate
EXTRA_DIST += $(FLOW_TESTS) tests/flow/story.py tests/flow/adversary.py tests/flow/between.py tests/model/protocol.pml tests/lib/guest.sh tests/bench/guest-pause tests/bench/copy-gap tests/lib/packages.sh tests/lib/stock-kernel tests/soak tests/coverage .ci/run
.PHONY: list-flow-tests
list-flow-tests:
	@for t in $(FLOW_TESTS); do echo "flow-test: $$t"; done

check_PROGRAMS += tests/unit/trace
TESTS += tests/unit/trace
tests_unit_trace_SOURCES = tests/unit/trace.c
tests_unit_trace_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_trace_LDADD = src/base/libbase.la $(CMOCKA_LIBS)
include tests/manual/local.mk
include tests/lab/local.mk
