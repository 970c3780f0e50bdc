# failover/arbiter
