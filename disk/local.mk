# disk
noinst_LTLIBRARIES += disk/libdisk.la
disk_libdisk_la_SOURCES = disk/disk.c disk/disk_ops.h disk/none.c disk/overlay_standin.c

check_PROGRAMS += tests/unit/disk
TESTS += tests/unit/disk
tests_unit_disk_SOURCES = tests/unit/disk.c
tests_unit_disk_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_unit_disk_LDADD = disk/libdisk.la src/base/libbase.la $(CMOCKA_LIBS) $(EV_LIBS)

dist_man_MANS += man/replicad-disk.7
