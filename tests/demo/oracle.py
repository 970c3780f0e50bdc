"""Was anything lost? A pure function over a client's log and the facts of a round.

A round is *failed* when a rule is broken, *invalid* when too little was seen to say that nothing was (it then does not
count as passed), else *passed*. Times are CLOCK_MONOTONIC nanoseconds.
"""
import json
from dataclasses import dataclass, field

REPLIES_MIN = 50             # on either side of the kill
ROUNDS_AFTER_MIN = 2         # full passes of the memory checker that must have begun and ended after the fault
IN_FLIGHT_SHARE_MIN = 0.25   # of the rounds: an INCR was under way at the kill

# Every violation that the oracle knows; a test provokes each.
VIOLATIONS = {
    "lost": "a reply went back behind an acknowledged one: acknowledged writes were lost",
    "repeated": "the same INCR reply came twice",
    "gap": "INCR replies skipped values that nobody asked for",
    "get": "GET returned something else than the last acknowledged value",
    "get-after": "no GET was answered after the fault",
    "reconnect": "the client did not stay on one connection",
    "error": "the client's connection broke",
    "order": "the log is not one request, one reply",
    "reboot": "boot id, redis run_id or uptime say that the guest was restarted",
    "bad-page": "the guest's memory checker found a bad page",
    "no-checker": "the guest's memory checker did not go on after the fault",
    "unsettled": "the two hosts came to no outcome: neither a takeover nor protection again",
    "outcome": "another outcome than this fault must have",
    "states": "a state that this fault must lead to was not seen, or was left too early",
    "silent": "the guest answered nothing after the fault",
}


@dataclass
class Facts:
    """What the demo knows of a round besides the client's log. kill_* are the fault's first and last moment, most often of
    kill(2)."""
    kill_begin: int
    kill_end: int
    after: int | None         # from here on replies come after the fault: the backup runs the guest, or nobody had to
    counter_start: int = 0    # the counter's value before the client's first INCR
    ended: bool = False       # nobody runs the guest any more, and that is right: nothing is to come after


@dataclass
class Verdict:
    violations: list = field(default_factory=list)  # (name, detail)
    invalid: list = field(default_factory=list)     # reasons
    replies_before: int = 0
    replies_after: int = 0
    lost: int = 0                                   # acknowledged INCRs that the guest does not know any more
    in_flight: bool = False                         # an INCR was under way at the kill
    latencies: list = field(default_factory=list)   # (time of the request, nanoseconds until its reply, cmd)
    rounds_after: int = 0

    @property
    def state(self):
        return "failed" if self.violations else "invalid" if self.invalid else "passed"

    def broken(self, name, detail):
        assert name in VIOLATIONS
        self.violations.append((name, detail))


def parse(lines):
    """Log lines to records; a last line without its end is still being written and left out."""
    return [json.loads(line) for line in lines if line.endswith("\n")]


def judge(records, facts):
    verdict = Verdict()
    exchanges = pair_up(records, verdict)
    check_values(exchanges, facts, verdict)
    probes = [(t, value) for _, t, cmd, value in exchanges if cmd == "PROBE"]
    check_identity(probes, facts, verdict)
    check_memory(probes, facts, verdict)
    count_replies(records, exchanges, facts, verdict)
    return verdict


def pair_up(records, verdict):
    """[(time asked, time answered, cmd, value)]; the connection is watched on the way."""
    connects = [r for r in records if r["e"] == "connect"]
    if len(connects) != 1 or records[0]["e"] != "connect":
        verdict.broken("reconnect", f"{len(connects)} connections instead of one at the start")
    inode = connects[0].get("inode") if connects else None
    exchanges, pending = [], None
    for r in records:
        if r["e"] == "error":
            verdict.broken("error", r["what"])
        elif r["e"] == "send":
            if pending:
                verdict.broken("order", f"request {r['n']} before the reply to {pending['n']}")
            pending = r
        elif r["e"] == "recv":
            if not pending or pending["n"] != r["n"]:
                verdict.broken("order", f"reply {r['n']} to a request that is not under way")
                continue
            exchanges.append((pending["t"], r["t"], pending["cmd"], r["val"]))
            if pending["cmd"] == "PROBE" and r["val"]["inode"] != inode:
                verdict.broken("reconnect", f"socket {r['val']['inode']} instead of {inode}")
            pending = None
    return exchanges


def check_values(exchanges, facts, verdict):
    """INCR replies are strictly +1; a GET in between returns the last of them, and one is answered after the fault."""
    last = facts.counter_start
    get_after = False
    for asked, answered, cmd, value in exchanges:
        if cmd == "GET":
            get_after = get_after or (facts.after is not None and asked >= facts.kill_end)
            if value != last:
                verdict.broken("get", f"GET returned {value}, acknowledged was {last}")
                verdict.lost += max(0, last - value)
                last = value
        elif cmd == "INCR":
            if value == last:
                verdict.broken("repeated", f"INCR returned {value} twice")
                verdict.lost += 1
            elif value <= last:
                verdict.broken("lost", f"INCR returned {value} after {last} at {answered}")
                verdict.lost += last - value + 1
            elif value > last + 1:
                verdict.broken("gap", f"INCR returned {value} after {last}")
            last = value
    if facts.after is not None and not get_after and not facts.ended:
        verdict.broken("get-after", "no GET asked and answered after the kill")


def check_identity(probes, facts, verdict):
    for (_, a), (_, b) in zip(probes, probes[1:]):
        for key in ("boot", "run_id"):
            if a[key] != b[key] or b[key] is None:
                verdict.broken("reboot", f"{key} changed from {a[key]} to {b[key]}")
        if a["uptime"] is not None and (b["uptime"] is None or b["uptime"] < a["uptime"]):
            verdict.broken("reboot", f"uptime went from {a['uptime']} to {b['uptime']}")
    before = any(t < facts.kill_begin for t, _ in probes)
    after = any(t >= facts.kill_end for t, _ in probes)
    if not (before and (after or facts.ended)):
        verdict.invalid.append("the guest's identity was not read on both sides of the fault")


def check_memory(probes, facts, verdict):
    bad = [p["bad"] for _, p in probes if p["bad"]]
    if bad:
        first = next(p["first"] for _, p in probes if p["bad"])
        verdict.broken("bad-page", f"{bad[-1]} bad pages, the first: {first}")
    missing = [t for t, p in probes if p["bad"] is None or p["rounds"] is None]
    if missing:
        verdict.broken("no-checker", f"{len(missing)} probes found no report of it")
        return
    after = [p["rounds"] for t, p in probes if t >= facts.kill_end]
    if after and not facts.ended:
        verdict.rounds_after = after[-1] - after[0]
        if verdict.rounds_after < ROUNDS_AFTER_MIN:
            verdict.broken("no-checker", f"{verdict.rounds_after} full passes between the first and the last probe "
                           f"after the fault, {ROUNDS_AFTER_MIN} needed")


def count_replies(records, exchanges, facts, verdict):
    verdict.latencies = [(asked, answered - asked, cmd) for asked, answered, cmd, _ in exchanges]
    verdict.replies_before = sum(1 for _, t, _, _ in exchanges if t < facts.kill_begin)
    if facts.after is None:
        verdict.broken("unsettled", "nobody is known to run the guest in order")
    else:
        verdict.replies_after = sum(1 for _, t, _, _ in exchanges if t >= facts.after)
        if verdict.replies_after == 0 and not facts.ended:
            verdict.broken("silent", "not one reply")
    verdict.in_flight = incr_under_way(records, facts.kill_begin)
    for side, count in (("before the kill", verdict.replies_before), ("after the fault", verdict.replies_after)):
        if count < REPLIES_MIN and not (facts.ended and "after" in side):
            verdict.invalid.append(f"{count} replies {side}, {REPLIES_MIN} needed")


def incr_under_way(records, when):
    """Was an INCR asked before this moment and not answered by then?"""
    asked = {r["n"]: r["cmd"] for r in records if r["e"] == "send" and r["t"] <= when}
    answered = {r["n"] for r in records if r["e"] == "recv" and r["t"] <= when}
    return any(cmd == "INCR" for n, cmd in asked.items() if n not in answered)


def judge_all(verdicts):
    """Reasons why a whole run does not hold, beyond its single rounds."""
    reasons = []
    for i, v in enumerate(verdicts, 1):
        if v.state != "passed":
            what = [f"{name}: {detail}" for name, detail in v.violations] + v.invalid
            reasons.append(f"round {i} {v.state}: {'; '.join(what)}")
    share = sum(v.in_flight for v in verdicts) / len(verdicts) if verdicts else 0
    if share < IN_FLIGHT_SHARE_MIN:
        reasons.append(f"an INCR was under way at the kill in {share:.0%} of the rounds, {IN_FLIGHT_SHARE_MIN:.0%} needed")
    return reasons


def caught(verdict):
    """A negative control counts as caught by a broken rule, never by having seen too little, nor without an outcome."""
    names = [name for name, _ in verdict.violations]
    return verdict.state == "failed" and not {"unsettled", "outcome"} & set(names)
