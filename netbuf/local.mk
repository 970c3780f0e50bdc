# libnetbuf: what the keeper uses. librelay: the parts of the relay's own process.
noinst_LTLIBRARIES += netbuf/libnetbuf.la netbuf/librelay.la
netbuf_libnetbuf_la_SOURCES = netbuf/netbuf.c netbuf/netbuf_ops.h netbuf/relay.c netbuf/relay_proto.c \
	netbuf/relay_proto.h netbuf/none.c netbuf/plug_standin.c
netbuf_librelay_la_SOURCES = netbuf/hold.c netbuf/hold.h netbuf/relayd_io.c netbuf/relayd_tap.c netbuf/relayd_ctl.c \
	netbuf/relayd.h

pkglibexec_PROGRAMS += replicad-relay
replicad_relay_SOURCES = netbuf/relayd.c
replicad_relay_LDFLAGS = $(RPL_PIE_LDFLAGS)
replicad_relay_LDADD = netbuf/librelay.la netbuf/libnetbuf.la src/base/libbase.la $(EV_LIBS)
