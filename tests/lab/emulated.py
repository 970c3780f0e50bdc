"""An HVM guest whose device model dies while it is protected. The guest needs it for nothing but its emulated devices, so it goes
on; but no checkpoint can be made any more, which the status has to say, and the copy of before must not come to life. A guest that
suspends just then looks at its emulated devices, which no longer answer: so it is killed between two checkpoints."""
import time

from labhost import LabError
from protected import EVENT_S, REPLIES, expect, footprint
from twohosts import CONF, OTHER, TwoHosts, oracle

SETTLE_S = 10
SLOW = {"interval_ms": 10000, "stall_ms": 5000}
CHECKPOINT_S = 60
# Kill process %(model)s just after a checkpoint. What looks for it runs there: two orders from outside took a busy host all of the interval.
KILL = """n() { replicad status --json --config %(conf)s | sed -n 's/.*"checkpoints": *\\([0-9]*\\).*/\\1/p'; }
made=$(n); end=$(($(date +%%s) + %(seconds)d))
until [ "$(n)" -gt "$made" ]; do [ "$(date +%%s)" -lt $end ] || { echo "no checkpoint within %(seconds)d s" >&2; exit 1; }; sleep 0.2; done
kill -9 %(model)s"""


def held(pair, host):
    """Both interfaces of its network device are held: that of the PV driver and that of the emulated card."""
    domid = pair.lab.sh(host, f"xl domid {pair.name}").strip()
    expect("interfaces that are held", footprint(pair, host)["links"], [f"rp-vif{domid}.0", f"rp-vif{domid}.0-emu"])


def without_model(pair, figures):
    home, since = pair.home, pair.events_now(pair.home)
    domid = pair.lab.sh(home, f"xl domid {pair.name}").strip()
    model = pair.lab.sh(home, f"xenstore-read /local/domain/{domid}/image/device-model-pid").strip()
    pair.lab.sh(home, KILL % {"conf": CONF, "seconds": CHECKPOINT_S, "model": model})
    now = time.monotonic_ns()
    pair.events[home].wait("no longer protected", lambda e: e["event"] == "state" and e["from"] == "P_PROTECTED", EVENT_S, since)
    pair.replies(REPLIES, now)
    figures["longest_gap_ms"] = pair.gap_ms(now)
    time.sleep(SETTLE_S)
    status = pair.status(home)
    figures["state"], figures["reason"] = status["state"], status.get("refused") or status["reason"]
    if status["state"] == "P_PROTECTED" or "device model" not in figures["reason"]:
        raise LabError(f"a guest without a device model: {status}")
    pair.replies(REPLIES, time.monotonic_ns())
    expect("domains that run on the backup", pair.running(OTHER[home]), [])
    if pair.status(OTHER[home]).get("takeovers"):
        raise LabError("the backup took over")


def story(lab, figures):
    pair = TwoHosts(lab, "hvmd", "hvm", SLOW)
    try:
        pair.start()
        pair.start_client()
        pair.replies(oracle.REPLIES_MIN, 0)
        before = footprint(pair, "a")
        pair.protect()
        held(pair, "a")
        first = time.monotonic_ns()
        without_model(pair, figures)
        pair.replicad("a", "unprotect", pair.name)
        after = footprint(pair, "a")
        for what in ("links", "qdiscs", "filters", "paging"):
            expect(f"{what} after unprotect", after[what], before[what])
        verdict = pair.judged(oracle.Facts(first, first, time.monotonic_ns(), pair.counted))
        if verdict.state != "passed":
            raise LabError(f"{verdict.state}: {verdict.violations} {verdict.invalid}")
    finally:
        pair.close()
