# The lab: real Xen hosts under QEMU (tests/lab/lab --help). It needs root, Debian packages from a mirror and minutes.
EXTRA_DIST += tests/lab/build tests/lab/lab tests/lab/labhost.py tests/lab/images.py tests/lab/speed.py tests/lab/dom0/init \
	tests/lab/dom0/initramfs tests/lab/dom0/vif-lab tests/lab/dom0/xl.conf tests/lab/guest/init tests/lab/guest/service.c \
	tests/lab/guest/tiny.c tests/lab/guest/tiny_pv.c tests/lab/guest/boot_hvm.c tests/lab/fpucheck.c tests/lab/record tests/lab/twohosts.py tests/lab/protected.py tests/lab/kills tests/lab/check tests/lab/test-save tests/lab/test-interop tests/lab/interop.py tests/lab/doctored.py tests/lab/emulated.py tests/lab/tcp.py \
	tests/lab/compare tests/lab/test-standby tests/lab/stall

# The lab's stories: what fits into 20 minutes of CI, and all of them (LAB_FLAGS="--record FILE --resume": what an interrupted run left). 77 from the script: not possible here, and why.
.PHONY: check-lab check-lab-full
check-lab: all
	$(top_srcdir)/tests/lab/check --build .
check-lab-full: all
	$(top_srcdir)/tests/lab/check --build . --full $(LAB_FLAGS)
	$(top_srcdir)/tests/lab/test-save --build .
	$(top_srcdir)/tests/lab/test-standby --build . --memory 96,256
	$(top_srcdir)/tests/lab/test-interop --build .

# the backup's half of the Xen backend alone, for one host
if XEN
check_PROGRAMS += tests/lab/standby
tests_lab_standby_SOURCES = tests/lab/standby.c
tests_lab_standby_CFLAGS = $(AM_CFLAGS) $(XEN_CFLAGS)
tests_lab_standby_LDADD = src/guest/libguest.la src/guest/libmemory.la disk/libdisk.la src/base/libbase.la $(EV_LIBS) $(XEN_LIBS)

# what the comparison with stock Xen looks through, in the dom0
check_PROGRAMS += tests/lab/pausemeter
tests_lab_pausemeter_SOURCES = tests/lab/pausemeter.c src/guest/xen_compat.c
tests_lab_pausemeter_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)
tests_lab_pausemeter_CFLAGS = $(AM_CFLAGS) $(XEN_CFLAGS)
tests_lab_pausemeter_LDADD = src/base/libbase.la $(XEN_LIBS)
endif
