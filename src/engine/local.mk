# The names of the messages, for both ends of the mover's socket.
noinst_LTLIBRARIES += src/engine/libmovermsg.la
src_engine_libmovermsg_la_SOURCES = src/engine/msg.c
