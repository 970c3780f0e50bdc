# One program. A command: its file here, its line in cli.h, its page in man/.
bin_PROGRAMS += replicad
noinst_HEADERS += include/replicad/exit.h
replicad_SOURCES = src/cli/cli.h src/cli/main.c \
	src/cli/cmd_demo.c
replicad_CPPFLAGS = $(AM_CPPFLAGS) -DRPL_SRCDIR='"$(abs_top_srcdir)"'
replicad_LDFLAGS = $(RPL_PIE_LDFLAGS)
replicad_LDADD = src/base/libbase.la
