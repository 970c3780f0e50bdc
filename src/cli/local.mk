# One program. A command: its file here, its line in cli.h, its page in man/.
bin_PROGRAMS += replicad
noinst_HEADERS += include/replicad/exit.h
replicad_SOURCES = src/cli/cli.h src/cli/main.c src/cli/usage.c src/cli/call.c src/cli/show.h src/cli/show.c \
	src/cli/cmd_agent.c src/cli/cmd_demo.c src/cli/cmd_events.c src/cli/cmd_failover.c src/cli/cmd_protect.c src/cli/cmd_status.c \
	src/cli/vm_conf.h src/cli/vm_conf.c src/cli/cmd_doctor.c src/cli/doctor_arbiter.h src/cli/doctor_arbiter.c src/cli/doctor_backup.h src/cli/doctor_backup.c src/cli/doctor_xen.h src/cli/doctor_xen.c src/cli/cmd_qemu_args.c \
	src/cli/cmd_stream.c src/cli/stream_cli.h src/cli/stream_input.c src/cli/stream_digest.c \
	src/cli/stream_verify.c src/cli/stream_show.c src/cli/stream_convert.c \
	src/cli/cmd_restore.c src/cli/cmd_receive.c src/cli/receive.h src/cli/receive.c src/cli/receive_migrate.c src/cli/receive_remus.c \
	src/cli/cmd_save.c src/cli/cmd_migrate.c src/cli/xen_send.h src/cli/xen_send.c src/cli/xl_handshake.h \
	src/cli/migrate_peer.h src/cli/migrate_peer.c
replicad_CPPFLAGS = $(AM_CPPFLAGS) -DRPL_SRCDIR='"$(abs_top_srcdir)"'
replicad_LDFLAGS = $(RPL_PIE_LDFLAGS)
replicad_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS) $(XXHASH_CFLAGS)
replicad_LDADD = netbuf/libnetbuf.la failover/arbiter/libarbiter.la src/guest/libxenstandby.la src/guest/libguest.la src/guest/libmemory.la disk/libdisk.la src/agent/libagent.la src/agent/libclient.la src/stream/libstream.la src/base/libbase.la \
	$(JANSSON_LIBS) $(XXHASH_LIBS) $(EV_LIBS)

TESTS += tests/unit/xen-commands
EXTRA_DIST += tests/unit/xen-commands tests/lib/fake_xl.py

if XEN
# Sending, against a stand-in for Xen's libraries that fails where it is told to.
check_PROGRAMS += tests/unit/xen_send
TESTS += tests/unit/xen_send
tests_unit_xen_send_SOURCES = tests/unit/xen_send.c tests/unit/xen_fake.h tests/unit/xen_fake.c \
	tests/unit/xen_stage.h tests/unit/xen_stage.c src/cli/xen_send.c
tests_unit_xen_send_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS) $(JANSSON_CFLAGS) $(XEN_CFLAGS)
tests_unit_xen_send_LDFLAGS = -Wl,--wrap=open,--wrap=ioctl
tests_unit_xen_send_LDADD = src/guest/libxenstandby.la $(guest_test_libs) src/stream/libstream.la
check_PROGRAMS += tests/unit/xen_doctor
TESTS += tests/unit/xen_doctor
tests_unit_xen_doctor_SOURCES = tests/unit/xen_doctor.c tests/unit/xen_fake.h tests/unit/xen_fake.c \
	tests/unit/xen_stage.h tests/unit/xen_stage.c src/cli/doctor_xen.c src/cli/xen_send.c
tests_unit_xen_doctor_CFLAGS = $(tests_unit_xen_send_CFLAGS)
tests_unit_xen_doctor_LDFLAGS = $(tests_unit_xen_send_LDFLAGS)
tests_unit_xen_doctor_LDADD = $(tests_unit_xen_send_LDADD)
check_PROGRAMS += tests/unit/xen_migrate
tests_unit_xen_migrate_SOURCES = tests/unit/xen_migrate.c tests/unit/xen_fake.h tests/unit/xen_fake.c src/cli/xen_send.c \
	src/cli/cmd_migrate.c src/cli/migrate_peer.c src/cli/usage.c
tests_unit_xen_migrate_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS) $(XEN_CFLAGS)
tests_unit_xen_migrate_LDFLAGS = $(tests_unit_xen_send_LDFLAGS)
tests_unit_xen_migrate_LDADD = $(tests_unit_xen_send_LDADD)
endif
