# failover/core
noinst_HEADERS += include/replicad/record.h include/replicad/core.h
