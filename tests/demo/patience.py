"""How many times longer than usual everything may take: one factor for all waiting, and for the hosts' own timeouts.

For machines on which time passes slowly, such as one that is itself emulated. Set once, before the first wait.
"""
FACTOR_MAX = 60
factor = 1

# The durations of a [vm] section that bound how fast the hosts must be: (usual, most that the configuration takes).
VM_MS = {"heartbeat_ms": (50, 1000), "suspect_ms": (1000, 600000), "takeover_delay_ms": (500, 600000),
         "arm_timeout_ms": (1000, 60000), "op_timeout_ms": (5000, 60000)}
SUSPECT_INTERVALS = 15


def seconds(usual):
    return usual * factor


def vm_keys(interval_ms):
    """What a [vm] section says differently: nothing at the usual pace, so that the defaults are what is shown.

    The silence that makes a peer suspect is always longer than that after which an ack is late, ten intervals.
    """
    keys = {} if factor == 1 else {key: min(usual * factor, most) for key, (usual, most) in VM_MS.items()}
    needed = SUSPECT_INTERVALS * interval_ms
    if keys.get("suspect_ms", VM_MS["suspect_ms"][0]) < needed:
        keys["suspect_ms"] = needed
    return keys
