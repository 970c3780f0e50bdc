# src/agent
noinst_HEADERS += include/replicad/control.h
