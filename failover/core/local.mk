# failover/core
