# The demo: an orchestrator that `replicad demo` runs, and the programs inside its guest.
demodir = $(pkglibexecdir)/demo
dist_demo_SCRIPTS = tests/demo/client.py tests/demo/demo.py
dist_demo_DATA = tests/demo/arbiters.py tests/demo/campaign.py tests/demo/control.py tests/demo/etcd.py tests/demo/faults.py tests/demo/hosts.py tests/demo/image.py tests/demo/machine.py \
	tests/demo/oracle.py tests/demo/pair.py tests/demo/patience.py tests/demo/pki.py tests/demo/report.py tests/demo/ring.py tests/demo/rounds.py tests/demo/topology.py
demoguestdir = $(demodir)/guest
dist_demoguest_SCRIPTS = tests/demo/guest/init
demoguest_PROGRAMS = tests/demo/guest/memcheck
tests_demo_guest_memcheck_SOURCES = tests/demo/guest/memcheck.c
# Static, and never instrumented: the guest has neither libraries nor the sanitizers' address space.
tests_demo_guest_memcheck_LDFLAGS = -all-static
if SANITIZED
tests_demo_guest_memcheck_CFLAGS = -std=gnu11 -Wall -Wextra
else
tests_demo_guest_memcheck_CFLAGS = $(RPL_CFLAGS)
endif

demo_tests = tests/demo/test_demo.py tests/demo/test_faults.py tests/demo/test_oracle.py tests/demo/test_report.py tests/demo/test_ring.py
TESTS += $(demo_tests)
EXTRA_DIST += $(demo_tests)
dist_man_MANS += man/replicad-demo.8
