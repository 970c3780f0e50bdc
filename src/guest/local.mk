# src/guest: two archives, because the mover links the memory half only and must not hold any QMP code.
noinst_LTLIBRARIES += src/guest/libmemory.la src/guest/libguest.la
src_guest_libmemory_la_SOURCES = src/guest/layout.c src/guest/xen_layout.c src/guest/xen_shared.c src/guest/memory.c \
	src/guest/memory_kinds.c src/guest/memory_xen.c src/guest/memory_domain.c
src_guest_libguest_la_SOURCES = src/guest/guest.c src/guest/definition.c src/guest/sim.c \
	src/guest/qmp_parse.c src/guest/qmp.c src/guest/qemu.c src/guest/qemu_attach.c src/guest/qemu_inspect.c \
	src/guest/qemu_text.c src/guest/qemu_standby.c src/guest/qemu_activate.c src/guest/qemu_watch.c src/guest/qemu_sections.c src/guest/qemu_memory.c \
	src/guest/note.c src/guest/procmem.c src/guest/uffd.c src/guest/qemu_args.c src/guest/qemu_doctor.c \
	src/guest/xen_standby.c src/guest/xen_standby_domain.c src/guest/xen_cpu.c
if XEN
src_guest_libguest_la_SOURCES += src/guest/xen.c src/guest/xen_inspect.c src/guest/xen_interfaces.c src/guest/xen_p2m.c src/guest/xen_dirty.c \
	src/guest/xen_recheck.c src/guest/xen_state.c src/guest/xen_vcpu.c src/guest/xen_qemu.c src/guest/xen_emulated.c src/guest/xen_compat.c src/guest/xen_facts.c src/guest/xen_channel.c src/guest/xen_watch.c \
	src/guest/xen_ask.c src/guest/xen_resume.c
else
src_guest_libguest_la_SOURCES += src/guest/xen_standin.c
endif
src_guest_libguest_la_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS) $(XEN_CFLAGS)
src_guest_libguest_la_LIBADD = src/stream/libstream.la $(JANSSON_LIBS) $(XEN_LIBS) $(EV_LIBS)
noinst_HEADERS += include/replicad/qemu.h include/replicad/xen.h include/replicad/xen_doctor.h src/guest/memory_impl.h src/guest/xen_shared.h src/guest/uapi_privcmd.h src/guest/xen_impl.h src/guest/xen_ask.h src/guest/xen_recheck.h src/guest/xen_emulated.h src/guest/xen_compat.h src/guest/uapi_pagemap.h src/guest/guest_impl.h src/guest/sim.h \
	src/guest/qmp_parse.h src/guest/qmp.h src/guest/qemu_impl.h src/guest/qemu_facts.h src/guest/note.h \
	src/guest/procmem.h src/guest/uffd.h src/guest/inject.h

# the only part that needs ptrace
pkglibexec_PROGRAMS += replicad-attach
replicad_attach_SOURCES = src/guest/attach_main.c src/guest/inject.c src/guest/uffd.c src/guest/procmem.c
replicad_attach_LDADD = src/base/libbase.la
replicad_attach_LDFLAGS = $(RPL_PIE_LDFLAGS)

# a real QEMU under checkpoints: run by the scripts tests/flow/guest-*, and the benchmark
check_PROGRAMS += tests/flow/guest/run
tests_flow_guest_run_SOURCES = tests/flow/guest/run.c tests/flow/guest/payload.h tests/lib/run_for.h
tests_flow_guest_run_LDADD = src/guest/libguest.la src/guest/libmemory.la disk/libdisk.la src/base/libbase.la $(EV_LIBS)
check_PROGRAMS += tests/flow/guest/life
tests_flow_guest_life_SOURCES = tests/flow/guest/life.c tests/flow/guest/payload.h tests/lib/run_for.h
tests_flow_guest_life_LDADD = $(tests_flow_guest_run_LDADD)
EXTRA_DIST += tests/flow/guest/payload.c tests/flow/guest/payload.ld

guest_test_libs = src/guest/libguest.la src/guest/libmemory.la disk/libdisk.la src/base/libbase.la $(CMOCKA_LIBS) \
	$(JANSSON_LIBS) $(EV_LIBS)
check_PROGRAMS += tests/unit/qemu tests/unit/guest tests/unit/memory
TESTS += tests/unit/qemu tests/unit/guest tests/unit/memory
tests_unit_qemu_SOURCES = tests/unit/qemu.c
tests_unit_qemu_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS) $(JANSSON_CFLAGS)
tests_unit_qemu_LDADD = $(guest_test_libs)
tests_unit_guest_SOURCES = tests/unit/guest.c tests/lib/run_for.h
tests_unit_guest_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS) $(JANSSON_CFLAGS)
tests_unit_guest_LDADD = $(guest_test_libs)
tests_unit_memory_SOURCES = tests/unit/memory.c
tests_unit_memory_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_memory_LDADD = src/guest/libmemory.la src/base/libbase.la $(CMOCKA_LIBS)
check_PROGRAMS += tests/unit/memory_domain
TESTS += tests/unit/memory_domain
tests_unit_memory_domain_SOURCES = tests/unit/memory_domain.c tests/lib/draw.h
tests_unit_memory_domain_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_memory_domain_LDFLAGS = -Wl,--wrap=ioctl
tests_unit_memory_domain_LDADD = src/guest/libmemory.la src/base/libbase.la $(CMOCKA_LIBS)
EXTRA_DIST += tests/data/qmp
check_PROGRAMS += tests/unit/xen_layout
TESTS += tests/unit/xen_layout
tests_unit_xen_layout_SOURCES = tests/unit/xen_layout.c
tests_unit_xen_layout_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_xen_layout_LDADD = src/guest/libmemory.la src/base/libbase.la $(CMOCKA_LIBS)
check_PROGRAMS += tests/unit/xen_shared
TESTS += tests/unit/xen_shared
tests_unit_xen_shared_SOURCES = tests/unit/xen_shared.c
tests_unit_xen_shared_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)
tests_unit_xen_shared_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_xen_shared_LDADD = src/guest/libmemory.la src/base/libbase.la $(CMOCKA_LIBS)
dist_man_MANS += man/replicad-xen.7 man/replicad-save.8 man/replicad-migrate.8

fuzz_targets += tests/fuzz/fuzz_qmp
tests_fuzz_fuzz_qmp_SOURCES = tests/fuzz/fuzz_qmp.c $(fuzz_main)
tests_fuzz_fuzz_qmp_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS)
tests_fuzz_fuzz_qmp_LDFLAGS = $(fuzz_ldflags)
tests_fuzz_fuzz_qmp_LDADD = src/guest/libguest.la src/base/libbase.la $(JANSSON_LIBS)
fuzz_targets += tests/fuzz/fuzz_qemu_text
tests_fuzz_fuzz_qemu_text_SOURCES = tests/fuzz/fuzz_qemu_text.c $(fuzz_main)
tests_fuzz_fuzz_qemu_text_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS)
tests_fuzz_fuzz_qemu_text_LDFLAGS = $(fuzz_ldflags)
tests_fuzz_fuzz_qemu_text_LDADD = src/guest/libguest.la src/guest/libmemory.la disk/libdisk.la src/base/libbase.la \
	$(JANSSON_LIBS) $(EV_LIBS)
EXTRA_DIST += tests/fuzz/corpus/qmp tests/fuzz/corpus/qemu_text

# The Xen backup's half that commands and short-lived programs share: a stored guest as a stream, and xl to read it.
noinst_LTLIBRARIES += src/guest/libxenstandby.la
src_guest_libxenstandby_la_SOURCES = src/guest/xen_standby_xl.h src/guest/xen_standby_xl.c src/guest/xen_standby_image.h \
	src/guest/xen_standby_image.c

pkglibexec_PROGRAMS += replicad-xen-restore
replicad_xen_restore_SOURCES = src/guest/xen_restore_main.c src/guest/xen_restore_build.h src/guest/xen_restore_build.c src/guest/xen_unborn.h \
	src/guest/xen_standby_conf.h src/guest/xen_standby_conf.c src/guest/xen_emulated.c
if XEN
replicad_xen_restore_SOURCES += src/guest/xen_unborn.c src/guest/xen_compat.c
else
replicad_xen_restore_SOURCES += src/guest/xen_unborn_none.c
endif
replicad_xen_restore_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS) $(XEN_CFLAGS)
replicad_xen_restore_LDADD = src/guest/libxenstandby.la src/guest/libmemory.la src/stream/libstream.la src/base/libbase.la $(JANSSON_LIBS) $(XEN_LIBS)
replicad_xen_restore_LDFLAGS = $(RPL_PIE_LDFLAGS)
noinst_HEADERS += src/guest/xen_standby.h src/guest/xen_standby_domain.h src/guest/xen_helper.h

# libxl's save helper for a replica that is a domain
noinst_HEADERS += src/guest/xen_helper_msgs.h src/guest/xen_helper_impl.h
if XEN_HELPER
pkglibexec_PROGRAMS += replicad-xen-helper
replicad_xen_helper_SOURCES = src/guest/xen_helper_main.c src/guest/xen_helper_msgs.c src/guest/xen_helper_memory.c \
	src/guest/xen_helper_hvm.c src/guest/xen_helper_pv.c src/guest/xen_helper_vcpu.c src/guest/xen_helper_early.c src/guest/xen_compat.c
replicad_xen_helper_CFLAGS = $(AM_CFLAGS) $(XEN_CFLAGS)
replicad_xen_helper_LDADD = src/guest/libxenstandby.la src/guest/libmemory.la src/stream/libstream.la src/base/libbase.la $(XEN_LIBS)
replicad_xen_helper_LDFLAGS = $(RPL_PIE_LDFLAGS)
endif
check_PROGRAMS += tests/unit/xen_helper
TESTS += tests/unit/xen_helper
tests_unit_xen_helper_SOURCES = tests/unit/xen_helper.c src/guest/xen_helper_msgs.c
tests_unit_xen_helper_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_xen_helper_LDADD = src/base/libbase.la $(CMOCKA_LIBS)
EXTRA_DIST += tests/data/xen-helper
if XEN_HELPER
check_PROGRAMS += tests/unit/xen_helper_pv
TESTS += tests/unit/xen_helper_pv
tests_unit_xen_helper_pv_SOURCES = tests/unit/xen_helper_pv.c src/guest/xen_helper_pv.c src/guest/xen_helper_vcpu.c \
	src/guest/xen_helper_memory.c src/guest/xen_helper_early.c src/guest/xen_compat.c
tests_unit_xen_helper_pv_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS) $(XEN_CFLAGS)
tests_unit_xen_helper_pv_LDADD = src/guest/libmemory.la src/stream/libstream.la src/base/libbase.la $(CMOCKA_LIBS) $(XEN_LIBS)
endif
if XEN
check_PROGRAMS += tests/unit/xen_room
TESTS += tests/unit/xen_room
tests_unit_xen_room_SOURCES = tests/unit/xen_room.c tests/unit/xen_fake.h tests/unit/xen_fake.c tests/unit/xen_stage.h tests/unit/xen_stage.c
tests_unit_xen_room_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS) $(XEN_CFLAGS)
tests_unit_xen_room_LDFLAGS = -Wl,--wrap=open,--wrap=ioctl
tests_unit_xen_room_LDADD = $(guest_test_libs) src/stream/libstream.la
check_PROGRAMS += tests/unit/xen_rings
TESTS += tests/unit/xen_rings
tests_unit_xen_rings_SOURCES = tests/unit/xen_rings.c tests/unit/xen_fake.h tests/unit/xen_fake.c tests/unit/xen_stage.h tests/unit/xen_stage.c
tests_unit_xen_rings_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS) $(XEN_CFLAGS)
tests_unit_xen_rings_LDFLAGS = -Wl,--wrap=open,--wrap=ioctl
tests_unit_xen_rings_LDADD = $(guest_test_libs) src/stream/libstream.la
# Epochs of a domain, against the stand-in for Xen's libraries.
check_PROGRAMS += tests/unit/xen_dirty
TESTS += tests/unit/xen_dirty
tests_unit_xen_dirty_SOURCES = tests/unit/xen_dirty.c tests/unit/xen_fake.h tests/unit/xen_fake.c tests/unit/xen_stage.h tests/unit/xen_stage.c
tests_unit_xen_dirty_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS) $(XEN_CFLAGS)
tests_unit_xen_dirty_LDFLAGS = -Wl,--wrap=open,--wrap=ioctl
tests_unit_xen_dirty_LDADD = $(guest_test_libs) src/stream/libstream.la
# What a look finds.
check_PROGRAMS += tests/unit/xen_look
TESTS += tests/unit/xen_look
tests_unit_xen_look_SOURCES = tests/unit/xen_look.c tests/unit/xen_fake.h tests/unit/xen_fake.c tests/unit/xen_stage.h tests/unit/xen_stage.c
tests_unit_xen_look_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS) $(XEN_CFLAGS)
tests_unit_xen_look_LDFLAGS = -Wl,--wrap=open,--wrap=ioctl
tests_unit_xen_look_LDADD = $(guest_test_libs) src/stream/libstream.la
check_PROGRAMS += tests/unit/xen_ask
TESTS += tests/unit/xen_ask
tests_unit_xen_ask_SOURCES = tests/unit/xen_ask.c src/guest/xen_ask.c
tests_unit_xen_ask_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_xen_ask_LDADD = src/base/libbase.la $(CMOCKA_LIBS)
check_PROGRAMS += tests/unit/xen_qemu
TESTS += tests/unit/xen_qemu
tests_unit_xen_qemu_SOURCES = tests/unit/xen_qemu.c tests/unit/qemu_fake.h tests/unit/qemu_fake.c src/guest/xen_qemu.c src/guest/qmp.c src/guest/qmp_parse.c
tests_unit_xen_qemu_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS) $(JANSSON_CFLAGS) $(XEN_CFLAGS)
tests_unit_xen_qemu_LDFLAGS = -Wl,--wrap=rpl_unix_connect
tests_unit_xen_qemu_LDADD = src/stream/libstream.la src/base/libbase.la $(CMOCKA_LIBS) $(JANSSON_LIBS) $(EV_LIBS) -lpthread
check_PROGRAMS += tests/unit/xen_hvm
TESTS += tests/unit/xen_hvm
tests_unit_xen_hvm_SOURCES = tests/unit/xen_hvm.c tests/unit/qemu_fake.h tests/unit/qemu_fake.c tests/unit/xen_fake.h tests/unit/xen_fake.c tests/unit/xen_stage.h tests/unit/xen_stage.c
tests_unit_xen_hvm_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS) $(JANSSON_CFLAGS) $(XEN_CFLAGS)
tests_unit_xen_hvm_LDFLAGS = -Wl,--wrap=open,--wrap=ioctl,--wrap=rpl_unix_connect,--wrap=json_load_file
tests_unit_xen_hvm_LDADD = $(guest_test_libs) src/stream/libstream.la -lpthread
endif
check_PROGRAMS += tests/unit/xen_recheck
TESTS += tests/unit/xen_recheck
tests_unit_xen_recheck_SOURCES = tests/unit/xen_recheck.c src/guest/xen_recheck.c
tests_unit_xen_recheck_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_xen_recheck_LDADD = $(CMOCKA_LIBS)
check_PROGRAMS += tests/unit/xen_emulated
TESTS += tests/unit/xen_emulated
tests_unit_xen_emulated_SOURCES = tests/unit/xen_emulated.c src/guest/xen_emulated.c
tests_unit_xen_emulated_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS) $(JANSSON_CFLAGS)
tests_unit_xen_emulated_LDADD = src/base/libbase.la $(CMOCKA_LIBS) $(JANSSON_LIBS)
check_PROGRAMS += tests/unit/xen_standby
TESTS += tests/unit/xen_standby
tests_unit_xen_standby_SOURCES = tests/unit/xen_standby.c tests/unit/xen_stage.h tests/unit/xen_stage.c tests/lib/stream_make.c
tests_unit_xen_standby_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_xen_standby_LDADD = $(guest_test_libs) src/stream/libstream.la
