"""What a protected Xen guest lives through besides power loss, in chapters that are played one after the other on one pair
of hosts, with one client that counts all the time. A chapter begins and ends protected, and returns its figures."""
import contextlib
import json
import re
import time

from labhost import LabError
from twohosts import OTHER, PROTECT_S, TwoHosts, oracle, state_is

GOES_ON_S = 60          # the guest answers again
SUSPECT_MS = 15000
GRACE_MS = 5000         # takeover_delay_ms
STOOD_MAX_MS = 60000    # a guest left in a pause, until the next keeper has it go on; see replicad-xen(7)
REPLIES = 10
PLUGGED_MAC = "00:16:3e:10:78:7f"
QUIET_EPOCHS = 3
MIGRATION_BANNER = "xl migration receiver ready, send binary domain data.\\n"
EVENT_S = 120
SILENT_SUSPECT_MS = 60000   # a quarter of it is when a takeover is begun
AHEAD_AGAIN_S = 10      # src/keeper/ahead.c
LOOK_S = 0.5
LEFT_MB = 40            # of Xen's memory on the backup, beside a guest that nobody needs


def hosts(lab, name, kind, keys=None):
    """Without a cipher, which costs an emulated processor most of the first copy's time; the takeovers' stories have it. And patient: on
    a busy machine acks come, and a primary hears and claims, many seconds late; each suspicion for nothing costs a whole copy."""
    return TwoHosts(lab, name, kind, {"insecure": "yes", "suspect_ms": SUSPECT_MS, "takeover_delay_ms": GRACE_MS, **(keys or {})},
                    tls="none")


def expect(what, got, wanted):
    if got != wanted:
        raise LabError(f"{what}: {got!r}, not {wanted!r}")


def silence_ms(pair, begin, end, what):
    """The longest time without a reply between these two moments."""
    times = [begin] + [r["t"] for r in pair.client.poll() if r["e"] == "recv" and begin <= r["t"] <= end] + [end]
    longest = max(b - a for a, b in zip(times, times[1:]))
    if longest > GOES_ON_S * 1e9:
        raise LabError(f"{what}: the guest answered nothing for {longest / 1e9:.1f} s")
    return round(longest / 1e6)


def takeovers(pair):
    """Told of by the backup's host so far; its status counts those of a keeper, which may have ended or been killed."""
    return sum(event["event"] == "takeover" for _, event in list(pair.events[OTHER[pair.home]].list))


def protected_again(pair, since):
    pair.wait_protected(since)
    pair.replies(REPLIES, time.monotonic_ns())


def keeper_fault(pair, host, point):
    ask = (f"import socket, json; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); "
           f"s.connect('/run/replicad/vm/{pair.name}/keeper.sock'); "
           f"s.send(json.dumps(dict(v=1, id=1, cmd='fault', point='{point}')).encode()); "
           "assert json.loads(s.recv(65536))['ok']")
    pair.lab.sh(host, f'python3 -c "{ask}"')


# ---- what is left

def xen_says(pair, host, key):
    """What Xen prints for a debug key."""
    return pair.lab.sh(host, f"xl dmesg -c >/dev/null; xl debug-keys {key}; xl dmesg")


def footprint(pair, host):
    """All that protection puts on a guest: nothing of it may stay. Values that move by themselves are left out."""
    lab, domid = pair.lab, pair.lab.sh(host, f"xl domid {pair.name}").strip()
    dump = xen_says(pair, host, "q").split(f"General information for domain {domid}:", 1)[1].split("General information")[0]
    paging = re.search(r"paging assistance:\s*(.*)", dump)    # not said of a PV guest without any
    channels = xen_says(pair, host, "e").split(f"Event channel information for domain {domid}:", 1)[1]
    return {
        "links": sorted(re.findall(r"^(rp-\S+)", lab.sh(host, "ip -br link"), re.MULTILINE)),
        "qdiscs": lab.sh(host, f"tc qdisc show dev vif{domid}.0").strip(),
        "filters": lab.sh(host, f"tc filter show dev vif{domid}.0 ingress").strip(),
        "paging": paging.group(1).strip() if paging else "",
        "xenstore": lab.sh(host, f"xenstore-ls -f /local/domain/{domid}; xenstore-ls -f /libxl/{domid}; "
                           f"xenstore-ls -f /local/domain/0/backend/vif/{domid}"),
        "channels": len(re.findall(r"^\(XEN\)\s+\d+ \[", channels.split("Event channel information")[0], re.MULTILINE)),
    }


def chapter_trace(pair):
    """unprotect takes everything away, but for one event channel, which is used again."""
    before = footprint(pair, "a")
    if "log" in before["paging"] or before["links"] or before["filters"]:
        raise LabError(f"not clean to begin with: {before}")
    took = [round(pair.protect(), 1)]
    during = footprint(pair, "a")
    if "log" not in during["paging"] or not during["links"] or not during["filters"]:
        raise LabError(f"the footprint of a protected guest is not seen: {during}")
    for turn in range(2):
        begin = time.monotonic()
        pair.replicad("a", "unprotect", pair.name)
        took.append(round(time.monotonic() - begin, 1))
        after = footprint(pair, "a")
        channels = after.pop("channels") - before["channels"]
        nothing_waits(pair, "b")
        for what, value in after.items():
            expect(f"{what} after unprotect {turn + 1}", value, before[what])
        if channels > 1:
            raise LabError(f"{channels} event channels are left after unprotect {turn + 1}, at most 1 may")
        pair.lab.sh("a", f"xl save -c {pair.name} /tmp/stock.save && rm /tmp/stock.save")
        pair.replies(REPLIES, time.monotonic_ns())
        took.append(round(pair.protect(), 1))
    return {"protect_unprotect_s": took, "paging": during["paging"], "event_channels_left": channels}


def nothing_waits(pair, host):
    """No domain that is a replica, no process that makes or keeps one, no mark of it, no device."""
    until(pair, f"the domain that waited on {host} is gone", lambda: not waiting(pair, host), EVENT_S)
    until(pair, f"its processes on {host} are gone",
          lambda: not pair.lab.sh(host, "pidof replicad-xen-helper replicad-xen-restore xl || true").strip(), EVENT_S)
    expect(f"marks on {host}", pair.lab.sh(host, "xenstore-ls -f /libxl | grep replicad-standby || true"), "")
    until(pair, f"its interfaces on {host} are gone", lambda: "vif" not in pair.lab.sh(host, "ip -br link"), EVENT_S)


def replica_waits(pair):
    """Where the replica is to be a domain, one of the guest's name waits: its number."""
    if pair.replica() == "memfd":
        return None
    heir = OTHER[pair.home]
    expect(f"the replica on {heir}", pair.status(heir).get("replica"), pair.replica())
    domids = waiting(pair, heir)
    expect(f"domains that wait on {heir}", len(domids), 1)
    return domids[0]


# ---- processes

PAUSES = (("keeper_asked", "die_keeper_s0_asked"), ("keeper_sealed", "die_keeper_s1_sealed"), ("keeper_staged", "die_keeper_s2"),
          ("mover_staged", "die_at_s2"))


def stood_ms(pair, host):
    """How long the guest stood still, each time that a new keeper found it left in a pause: from its log."""
    lines = pair.lab.sh(host, f"grep -h guest=resumed /run/replicad/vm/{pair.name}/*.log || true").splitlines()
    return [int(re.search(r"stood_ms=(\d+)", line).group(1)) for line in lines]


def killed_in_a_pause(pair, name, point):
    home, begin, since = pair.home, time.monotonic_ns(), pair.events_now(pair.home)
    keeper_fault(pair, home, point)     # it dies where it stands, and the guest is suspended there
    pair.events[home].wait(f"{name} dead", lambda e: e["event"] == "keeper-died" or "mover" in name and e["event"] == "state" and
                           e["from"] == "P_PROTECTED", EVENT_S, since)
    protected_again(pair, since)
    return silence_ms(pair, begin, time.monotonic_ns(), name)


def chapter_processes(pair):
    """Keeper and mover die inside a pause; so does the backup's keeper, at any time; the agent dies, checkpoints are made without it, and
    it comes back."""
    home, taken = pair.home, takeovers(pair)
    pair.replies(REPLIES, time.monotonic_ns())
    figures = {f"{name}_silence_ms": killed_in_a_pause(pair, name, point) for name, point in PAUSES}
    figures["stood_ms"] = stood_ms(pair, home)
    # asked only, it may not stand still yet when the next keeper looks; with a dead mover the keeper is there
    if not 2 <= len(figures["stood_ms"]) <= 3 or max(figures["stood_ms"]) > STOOD_MAX_MS:
        raise LabError(f"a guest left in a pause, by 3 dead keepers, stood for {figures['stood_ms']} ms")
    begin, since = time.monotonic_ns(), pair.events_now(home)   # with a Xen replica goes its keeper's end: nobody's word is needed
    pair.lab.sh(OTHER[home], "kill -9 $(pidof replicad-keeper)")
    when, _ = pair.events[home].wait("the backup's keeper dead", lambda e: e["event"] == "state" and e["from"] == "P_PROTECTED",
                                     EVENT_S, since)
    figures["backup_keeper_protected_again_s"] = round((pair.wait_protected(since) - when) / 1e9, 1)
    figures["backup_keeper_silence_ms"] = silence_ms(pair, begin, time.monotonic_ns(), "the backup's keeper")
    begin = time.monotonic_ns()
    pair.lab.sh(home, "kill -9 $(pidof replicad)")
    pair.replies(REPLIES, time.monotonic_ns())      # each was held until its epoch was acked
    figures["agent_silence_ms"] = silence_ms(pair, begin, time.monotonic_ns(), "agent")
    pair.events.pop(home).close()
    pair.start_agent(home)
    # it hears of the keeper that went on without it a moment after it answers
    until(pair, "the agent's return", lambda: pair.status(home).get("state") == "P_PROTECTED", EVENT_S)
    expect("takeovers", takeovers(pair), taken)
    return figures


def chapter_orphaned(pair):
    """Agent and keeper die, within a pause, and nobody starts them again: the backup takes over, and what stood there is removed when an
    agent comes."""
    home, heir = pair.home, OTHER[pair.home]
    pair.replies(REPLIES, time.monotonic_ns())
    since, begin = pair.events_now(heir), time.monotonic_ns()
    pair.lab.sh(home, "kill -9 $(pidof replicad)")
    keeper_fault(pair, home, "die_keeper_s2")
    pair.home = heir
    when, _ = pair.events[heir].wait("takeover", lambda e: e["event"] == "takeover", EVENT_S, since)
    pair.replies(REPLIES, when)
    figures = {"takeover_after_ms": round((when - begin) / 1e6), "silence_ms": silence_ms(pair, begin, time.monotonic_ns(), "orphaned")}
    expect(f"domains on {home}, where nobody lives who could end it", pair.running(home), [pair.name])
    pair.events.pop(home).close()
    since, begin = pair.events_now(heir), time.monotonic_ns()
    pair.start_agent(home)
    until(pair, f"the domain on {home} is gone", lambda: not pair.running(home), EVENT_S)
    figures["removed_after_ms"] = round((time.monotonic_ns() - begin) / 1e6)
    protected_again(pair, since)
    expect(f"domains that run on {heir}", pair.running(heir), [pair.name])
    return figures


# ---- the network between them

def chapter_link(pair):
    """The replication link is cut: the guest goes on alone, with the arbiter's word, and the backup's claim is refused; joined again
    it is protected again. A domain that is the replica stays the same."""
    home, figures, taken, waits = pair.home, {}, takeovers(pair), replica_waits(pair)
    since, other, cut = pair.events_now(home), pair.events_now(OTHER[home]), time.monotonic_ns()
    pair.lab.cut("repl", home, False)
    try:
        when, _ = pair.events[home].wait("SOLO", state_is("P_SOLO"), EVENT_S, since)
        figures["solo_after_ms"] = round((when - cut) / 1e6)
        pair.replies(REPLIES, when)
        figures["silence_ms"] = silence_ms(pair, cut, time.monotonic_ns(), "link cut")
        _, event = pair.events[OTHER[home]].wait("the backup lets go", state_is("IDLE"), EVENT_S, other)
        figures["backup_was"] = event["from"]
        expect("takeovers of the backup, while the primary lives", takeovers(pair), taken)
        since, joined = pair.events_now(home), time.monotonic_ns()
    finally:
        pair.lab.cut("repl", home, True)
    figures["protected_again_s"] = round((pair.wait_protected(since) - joined) / 1e9, 1)
    expect("the domain that waits", replica_waits(pair), waits)
    pair.replies(REPLIES, time.monotonic_ns())
    figures["silence_after_ms"] = silence_ms(pair, joined, time.monotonic_ns(), "link joined")
    return figures


# ---- there and back

def switched_over(pair, home):
    """Ordered until it is done, how often, and the number of the next event then: a busy host may be unprotected just now, or not be
    through in the five seconds after which the guest goes on where it is."""
    end, orders = time.monotonic() + PROTECT_S, 0
    while True:
        told, orders = pair.events_now(home), orders + 1
        status, said = pair.replicad(home, "failover", "--json", "--timeout", str(EVENT_S), pair.name, check=False)
        if status == 0:
            return orders, told
        if status not in (1, 3) or '"unknown"' in said or time.monotonic() > end:
            raise LabError(f"switchover, ordered {orders} times: exit {status}: {said}")
        until(pair, "protected after a switchover that was not to be", lambda: pair.status(home).get("state") == "P_PROTECTED", PROTECT_S)


def chapter_switchover(pair):
    figures = {"orders": [], "silence_ms": [], "blackout_ms": [], "protected_again_s": []}
    for _ in range(2):
        home, heir = pair.home, OTHER[pair.home]
        since, begin, now = pair.events_now(heir), time.monotonic(), time.monotonic_ns()
        orders, told = switched_over(pair, home)
        figures["orders"].append(orders)
        pair.home = heir
        pair.events[heir].wait("takeover", lambda e: e["event"] == "takeover", EVENT_S, since)
        pair.replies(1, time.monotonic_ns())
        figures["silence_ms"].append(pair.gap_ms(now))
        _, event = pair.events[home].wait("how long it stood still", lambda e: e["event"] == "switchover", EVENT_S, told)
        figures["blackout_ms"].append(round(event["blackout_us"] / 1000))
        protected_again(pair, since)
        figures["protected_again_s"].append(round(time.monotonic() - begin, 1))
        expect(f"domains that run on {home}", pair.running(home), [])
        expect(f"domains that run on {heir}", pair.running(heir), [pair.name])
    return figures


# ---- another program's suspends

def chapter_stock(pair):
    """Stock's save, migration and Remus of a protected domain end before they begin; afterwards they work (see trace)."""
    lab, home, figures = pair.lab, pair.home, {}
    domid = lab.sh(home, f"xl domid {pair.name}")
    lab.sh(home, "cat >/root/sink; chmod +x /root/sink", data=f"#!/bin/sh\nprintf '{MIGRATION_BANNER}'\nexec cat >/dev/null\n")
    for name, order in (("save", f"xl save {pair.name} /tmp/stock.save"), ("migrate", f"xl migrate -s '' {pair.name} /root/sink"),
                        ("remus", f"xl remus -F -n -u -i 1000 -s '' {pair.name} /root/sink")):
        now = time.monotonic_ns()
        status, said = lab.sh(home, order, check=False)
        if status == 0 or "uspend event channel" not in said:
            raise LabError(f"stock xl {name} of a protected domain: exit {status}: {said.strip()[-600:]}")
        pair.replies(REPLIES, time.monotonic_ns())
        expect(f"domain after xl {name}", lab.sh(home, f"xl domid {pair.name}"), domid)
        figures[f"{name}_longest_gap_ms"] = pair.gap_ms(now)
    expect("state after them", pair.status(home).get("state"), "P_PROTECTED")
    return figures


# ---- a takeover that is begun and does not come

def waiting(pair, host):
    """The domain that is about to become the guest there, if any: paused."""
    rows = [line.split() for line in pair.lab.sh(host, "xl list").splitlines()[1:]]
    return [row[1] for row in rows if row[0] == pair.name and "p" in row[4]]


def until(pair, what, ask, seconds):
    end = time.monotonic() + seconds
    while not ask():
        if time.monotonic() > end:
            raise LabError(f"{what}: not within {seconds} s; {pair.status(OTHER[pair.home])}")
        time.sleep(LOOK_S)


def silences(lab, kind, figures):
    """The primary's host hangs for less than the time-out. The backup has the domain ready by then, and takes it apart when the primary
    is back; when its keeper is killed; and, if everything that could do so is killed, when it gets ready again."""
    pair = TwoHosts(lab, f"{kind}s", kind, {"insecure": "yes", "suspect_ms": SILENT_SUSPECT_MS, "replica": "memfd"}, tls="none")
    try:
        pair.start()
        pair.start_client()
        pair.replies(oracle.REPLIES_MIN, 0)
        figures["protect_s"] = round(pair.protect(), 1)
        first = time.monotonic_ns()
        for end in ("heard again", "keeper killed", "all killed"):
            figures[end] = one_silence(pair, end)
        verdict = pair.judged(oracle.Facts(first, first, time.monotonic_ns(), pair.counted))
        if verdict.state != "passed":
            raise LabError(f"{verdict.state}: {verdict.violations} {verdict.invalid}")
    finally:
        pair.close()


def one_silence(pair, end):
    home, heir = pair.home, OTHER[pair.home]
    since, begin = pair.events_now(home), time.monotonic()
    pair.lab.freeze(home)
    try:
        until(pair, "a domain that waits", lambda: waiting(pair, heir), SILENT_SUSPECT_MS * 0.7 / 1000)
        figures = {"waits_after_s": round(time.monotonic() - begin, 1)}
        if end != "heard again":
            processes = "replicad-keeper" + (" replicad-xen-restore xl" if end == "all killed" else "")
            pair.lab.sh(heir, f"kill -9 $(pidof {processes})")
    finally:
        pair.lab.thaw(home)
    now = time.monotonic()
    if end == "heard again":
        expect("state", pair.status(home).get("state"), "P_PROTECTED")
    else:
        pair.wait_protected(since)
    until(pair, "the domain is gone", lambda: not waiting(pair, heir), EVENT_S)
    pair.replies(REPLIES, time.monotonic_ns())
    expect("takeovers", takeovers(pair), 0)
    time.sleep(AHEAD_AGAIN_S)
    return {**figures, "over_after_s": round(time.monotonic() - now - AHEAD_AGAIN_S, 1)}


def chapters(lab, kind, figures, names, last_end=None, keys=None):
    """One after the other; the client's replies stay strictly +1 on one connection from before the first to after the last.
    Then the guest ends."""
    pair = hosts(lab, f"{kind}l", kind, keys)
    try:
        pair.start()
        pair.start_client()
        pair.replies(oracle.REPLIES_MIN, 0)
        first = time.monotonic_ns()
        for name in names:
            begin = time.monotonic()
            if name != "trace" and not pair.status(pair.home).get("wanted"):
                figures["protect_s"] = round(pair.protect(), 1)
            figures[name] = CHAPTERS[name](pair)
            replica_waits(pair)
            figures[name]["seconds"] = round(time.monotonic() - begin)
            print(f"lab/{name}-{kind}: {json.dumps(figures[name])}", flush=True)
        verdict = pair.judged(oracle.Facts(first, first, first, pair.counted))   # each chapter asks for replies after what it did
        figures["replies"] = verdict.replies_before + verdict.replies_after
        if verdict.state != "passed":
            raise LabError(f"{verdict.state}: {verdict.violations} {verdict.invalid}")
        if last_end:
            figures[last_end] = one_end(pair, last_end)
    finally:
        pair.close()


# ---- the guest's end

def end(lab, kind, figures, name, keys=None):
    """Destroyed, powered off from inside, rebooted, crashed: the record says DOWN, and the backup has no domain. Renamed: protected as
    before."""
    pair = hosts(lab, f"{kind}e", kind, keys)
    try:
        pair.start()
        figures.update(one_end(pair, name))
    finally:
        pair.close()


def one_end(pair, name):
    home, heir = pair.home, OTHER[pair.home]
    if not pair.status(home).get("wanted"):
        pair.protect()
    since, other, taken = pair.events_now(home), pair.events_now(heir), takeovers(pair)
    if name == "renamed":
        pair.lab.sh(home, f"xl rename {pair.name} other")
        acked = pair.status(home)["acked"]
        until(pair, "epochs under the other name", lambda: pair.status(home).get("acked", 0) >= acked + QUIET_EPOCHS, EVENT_S)
        pair.lab.sh(home, f"xl rename other {pair.name}")
        return {"acked": QUIET_EPOCHS}
    begin = time.monotonic_ns()
    if name == "destroyed":
        pair.lab.sh(home, f"xl destroy {pair.name}")
    else:
        pair.tell(f"SET guest:command {COMMANDS[name]}")
    if name in ("rebooted", "crashed"):
        pair.events[home].wait(f"{name}: said aloud", lambda e: e["event"] == "alarm" and "replicad protect" in str(e), EVENT_S, since)
    when, _ = pair.events[home].wait(f"{name}: down", state_is("P_DOWN"), EVENT_S, since)
    pair.events[heir].wait(f"{name}: the backup lets go", state_is("IDLE"), EVENT_S, other)
    time.sleep((pair.keys["suspect_ms"] + pair.keys["takeover_delay_ms"]) / 1000)
    if name == "rebooted":
        pair.lab.wait_guest(pair.addr)
    expect(f"{name}: domains on the backup", pair.running(heir), [])
    nothing_waits(pair, heir)
    expect(f"{name}: takeovers of the backup", takeovers(pair), taken)
    expect(f"{name}: domains on the primary", pair.running(home), [pair.name] if name == "rebooted" else [])
    left = pair.lab.sh(home, "ip -br link").count("rp-")
    expect(f"{name}: ifb devices left", left, 0)
    if name == "rebooted":      # another domain, and another life: it has to be asked for again
        pair.protect()
    return {"down_after_ms": round((when - begin) / 1e6)}


# ---- a backup without room

@contextlib.contextmanager
def filled(lab, host):
    """Xen's memory on that host is another guest's, but for too little."""
    fill = int(re.search(r"free_memory\s*:\s*(\d+)", lab.sh(host, "xl info")).group(1)) - LEFT_MB
    lab.sh(host, f"sed s/memory=4/memory={fill}/ >/root/fill.cfg && xl create -p /root/fill.cfg", data=lab.guest_config("tinypv", "fill"))
    try:
        yield
    finally:
        lab.sh(host, "xl destroy fill")


def shortage(lab, kind, figures):
    """The memory of which the backup would make the guest goes to another one while it holds the replica. The primary's guest goes on,
    protected; when its host loses power the backup takes over and says what it lacks, until somebody makes room."""
    pair = hosts(lab, f"{kind}m", kind, {"replica": "memfd"})
    try:
        pair.start()
        pair.start_client()
        pair.replies(oracle.REPLIES_MIN, 0)
        figures["protect_s"] = round(pair.protect(), 1)
        home, heir = pair.home, OTHER[pair.home]
        with filled(lab, heir):
            pair.replies(REPLIES, time.monotonic_ns())
            expect("state without room on the backup", pair.status(home).get("state"), "P_PROTECTED")
            since, when = pair.events_now(heir), lab.kill(home)
            pair.events.pop(home).close()
            pair.home = heir
            at, alarm = pair.events[heir].wait("what the backup lacks", lambda e: e["event"] == "alarm" and "MiB" in str(e), EVENT_S, since)
            figures.update(alarm=alarm["reason"], alarm_after_ms=round((at - when) / 1e6))
            expect("domains that run without room", pair.running(heir), [])
        freed = time.monotonic_ns()
        at, _ = pair.events[heir].wait("takeover", lambda e: e["event"] == "takeover", EVENT_S, since)
        figures["running_after_room_ms"] = round((at - freed) / 1e6)
        verdict = pair.judged(oracle.Facts(when, when, at, pair.counted))
        figures.update(replies=[verdict.replies_before, verdict.replies_after], lost=verdict.lost)
        if verdict.state != "passed":
            raise LabError(f"{verdict.state}: {verdict.violations} {verdict.invalid}")
    finally:
        pair.close()


# ---- refusals

def refused(pair, what, words):
    """protect ends with a sentence about that, and is taken back: the wish would stay, and be granted when it can be."""
    status, said = pair.replicad("a", "protect", "--timeout", str(EVENT_S), pair.name, check=False, timeout=PROTECT_S)
    pair.replicad("a", "unprotect", pair.name, check=False)
    if status != 3 or words not in said:
        raise LabError(f"protect of a guest with {what}: exit {status}: {said}")
    return said.strip().splitlines()[-1][-200:]


def refusals(lab, kind, figures):
    """A passed-through device, a backup without room, one without the guest's configuration: refused before anything is copied,
    and the guest is as it was."""
    pair = hosts(lab, f"{kind}r", kind)
    try:
        pair.start()
        before = footprint(pair, "a")
        domid = lab.sh("a", f"xl domid {pair.name}").strip()
        lab.sh("a", f"xenstore-write /libxl/{domid}/device/pci/0/frontend x")
        figures["passthrough"] = refused(pair, "a passed-through device", "passed through")
        lab.sh("a", f"xenstore-rm /libxl/{domid}/device/pci")
        with filled(lab, "b"):
            figures["no_room"] = refused(pair, "a backup without memory", "MiB")
        lab.sh("b", f"mv /root/{pair.name}.cfg /root/away.cfg")
        figures["no_file"] = refused(pair, "a backup without its configuration", f"{pair.name}.cfg")
        lab.sh("b", f"mv /root/away.cfg /root/{pair.name}.cfg")
        after = footprint(pair, "a")
        for what in ("links", "qdiscs", "filters", "paging", "xenstore"):
            expect(f"{what} after the refusals", after[what], before[what])
        lab.wait_guest(pair.addr)
    finally:
        pair.close()


def chapter_plugged(pair):
    """A network device is plugged in: the backup's file has none like it, so protection ends, and the reason is told. It is taken out
    again, and the guest is protected as before."""
    home, since, begin = pair.home, pair.events_now(pair.home), time.monotonic_ns()
    pair.lab.sh(home, f"xl network-attach {pair.name} mac={PLUGGED_MAC} bridge=xenbr0")
    when, _ = pair.events[home].wait("the end of its protection", state_is("P_SOLO"), EVENT_S, since)
    pair.replies(REPLIES, when)
    until(pair, "the reason", lambda: PLUGGED_MAC in (pair.status(home).get("refused") or ""), EVENT_S)
    figures = {"solo_after_ms": round((when - begin) / 1e6), "refused": pair.status(home)["refused"]}
    since = pair.events_now(home)
    pair.lab.sh(home, f"xl network-detach {pair.name} {PLUGGED_MAC}")
    protected_again(pair, since)
    return {**figures, "silence_ms": silence_ms(pair, begin, time.monotonic_ns(), "plugged")}


CHAPTERS = {"stock": chapter_stock, "link": chapter_link, "processes": chapter_processes, "orphaned": chapter_orphaned,
            "switchover": chapter_switchover, "plugged": chapter_plugged, "trace": chapter_trace}
COMMANDS = {"powered-off": "poweroff", "rebooted": "reboot", "crashed": "crash"}      # of tests/demo/guest/memcheck.c
ENDS = ("renamed", "destroyed", "powered-off", "rebooted", "crashed")
LIFE, LAST_END = [chapter for chapter in CHAPTERS if chapter != "trace"], "rebooted"
IN_LIFE = (*LIFE, LAST_END)     # what the long story consists of
STORIES = ("life", "short", *CHAPTERS, *ENDS, "refused", "silent", "shortage")
REPLICA_STORIES = ("life", "short", *CHAPTERS, *ENDS)     # those to which it matters what the replica is


def story(lab, name, kind, figures, keys=None):
    if name == "life":
        chapters(lab, kind, figures, LIFE, LAST_END, keys)
    elif name == "short":       # what of it is short: one guest, protected once
        chapters(lab, kind, figures, ["switchover"], "destroyed", keys)
    elif name in CHAPTERS:
        chapters(lab, kind, figures, [name], keys=keys)
    elif name in ENDS:
        end(lab, kind, figures, name, keys)
    elif name == "silent":
        silences(lab, kind, figures)
    elif name == "shortage":
        shortage(lab, kind, figures)
    else:
        refusals(lab, kind, figures)
