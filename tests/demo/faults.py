"""The fault matrix: what is done to whom, and what must come of it. `replicad demo --kill KIND` plays a row of it.

A row's outcome is what the two hosts show afterwards:

  takeover   the backup runs the guest; the old primary, once it can, finds itself deposed and cleans up
  back       the guest stays where it is; protection was lost and came back by itself, in another session
  same       the guest stays where it is, and so does the session: acks go on

In all of them the client's replies stay strictly +1 on the one connection; oracle.py judges that.
"""
import os
import signal
import threading
import time
from dataclasses import dataclass
from typing import Callable

import hosts
import patience
from pair import PROTECT_TIMEOUT_S, TRAFFIC_TIMEOUT_S, wait_until

TAKEOVER, BACK, SAME = "takeover", "back", "same"
NAMES = {"qemu": "qemu-system-x86", "keeper": "replicad-keeper", "mover": "replicad-mover", "relay": "replicad-relay",
         "agent": "replicad"}
PRIMARY, BACKUP = "primary", "backup"
BEYOND_S = 3.0          # longer than suspect and the delay of a takeover together
BEYOND_MONITOR_S = 7.0  # longer than op_timeout_ms, which bounds a command to QEMU
AWAY_S = 2.5            # the arbiter
SOLO_REPLIES = 40       # served while the fault lasts
SAME_EPOCHS = 20        # committed in the same session after the fault is over
FLAPS, FLAP_DOWN_S, FLAP_UP_S = 4, 0.15, 0.6
SWEEP_S = 0.02


class Scene:
    """One fault on a pair: what was done, so that it can be undone, and what was there before."""

    def __init__(self, pair):
        self.pair, self.net = pair, pair.net
        self.hosts = {PRIMARY: pair.primary, BACKUP: pair.backup}
        self.before = {side: host.look() for side, host in self.hosts.items()}
        self.begin = self.end = None     # of what was done: CLOCK_MONOTONIC ns
        self.mended = None
        self.stopped, self.dead = [], set()
        self.killed, self.seen = [], []  # processes; states and facts worth telling
        self.keep_killing = None
        self.watcher = None

    # ---- doing

    def did(self, begin, end=None):
        self.begin = self.begin or begin
        self.end = end or time.monotonic_ns()

    def pids(self, side, *names):
        node = self.hosts[side].node
        return [pid for name in names for pid in self.pair.pids(node, NAMES[name])] if names else self.net.pids(node)

    def kill(self, when, side, *names):
        """These processes of a host, or everything."""
        host = self.hosts[side]
        if not names:
            begin, end, killed = self.net.kill_host(host.node, when)
            self.dead.add(side)
            host.reap(host.processes)
        else:
            pids = self.pids(side, *names)
            killed = [(pid, " ".join(names)) for pid in pids]
            begin, end = self.net.send(pids, signal.SIGKILL, when)
            host.reap(names)
        self.killed += killed
        self.did(begin, end)

    def stop(self, when, side, *names):
        pids = self.pids(side, *names)
        self.stopped += pids
        self.did(*self.net.send(pids, signal.SIGSTOP, when))

    def go_on(self):
        """SIGCONT; what was deposed meanwhile shows how many frames it still had to say."""
        self.net.send(self.stopped, signal.SIGCONT)
        self.stopped = []

    def cut(self, when=0):
        sleep_until(when)
        begin = time.monotonic_ns()
        self.net.link(self.pair.primary.node, "repl0", "down")
        self.did(begin)

    def join(self):
        self.net.link(self.pair.primary.node, "repl0", "up")

    def arbiter_away(self):
        os.rename(self.pair.arbiter, self.pair.arbiter + ".away")

    def arbiter_back(self):
        if os.path.exists(self.pair.arbiter + ".away"):
            os.rename(self.pair.arbiter + ".away", self.pair.arbiter)

    def kill_each(self, side, name):
        """Kill whatever appears under that name until the fault is mended."""
        self.keep_killing = threading.Event()

        def sweep():
            while not self.keep_killing.wait(SWEEP_S):
                self.net.send(self.pids(side, name), signal.SIGKILL)
        threading.Thread(target=sweep, daemon=True).start()

    # ---- looking

    def state(self, side):
        return self.hosts[side].look().get("state")

    def taken(self):
        """The backup runs the guest."""
        return self.watcher is not None and self.watcher.running_at is not None

    def until(self, what, check, timeout=PROTECT_TIMEOUT_S):
        """Wait for it, or for the takeover, after which other things are worth looking at."""
        wait_until(what, lambda: self.taken() or check(), timeout)

    def saw(self, word):
        if word not in self.seen:
            self.seen.append(word)

    def committed_since(self, when):
        return sum(1 for e in self.hosts[PRIMARY].trace() if e.times.get("acked", 0) > when)

    def outcome(self):
        """What came of it so far, None while nothing is settled."""
        if self.taken():
            return TAKEOVER
        status = self.hosts[PRIMARY].look()
        if status.get("state") != "P_PROTECTED":
            return None
        if status.get("session") != self.before[PRIMARY].get("session"):
            return BACK
        return SAME if self.mended and self.committed_since(self.mended) >= SAME_EPOCHS else None


def sleep_until(when):
    while (left := when - time.monotonic_ns()) > 0:
        time.sleep(left / 1e9)


# ---- what is done

def killed(side, *names):
    return lambda scene, when: scene.kill(when, side, *names)


def stopped(side, *names):
    return lambda scene, when: scene.stop(when, side, *names)


def cut(scene, when):
    scene.cut(when)


def reset(scene, when):
    sleep_until(when)
    begin = time.monotonic_ns()
    scene.net.reset(scene.pair.primary.node, hosts.PORT)
    scene.did(begin)


def flapped(scene, when):
    for _ in range(FLAPS):
        scene.cut(when)
        time.sleep(patience.seconds(FLAP_DOWN_S))
        scene.join()
        time.sleep(patience.seconds(FLAP_UP_S))
    scene.did(scene.begin)


def killed_for_good(side, *names):
    def hit(scene, when):
        scene.kill(when, side, *names)
        scene.kill_each(side, names[-1])
    return hit


def arbiter_away_and(then=None):
    def hit(scene, when):
        scene.arbiter_away()
        if then:
            then(scene, when)
        else:
            scene.did(time.monotonic_ns())
    return hit


# ---- what is waited for while it lasts

def solo(scene):
    """The primary serves alone."""
    scene.until("the primary alone", lambda: scene.state(PRIMARY) in ("P_SOLO", "P_SYNC"))
    if not scene.taken():
        scene.saw("solo")
        since = time.monotonic_ns()
        scene.until("replies in SOLO", lambda: scene.pair.client.replies_since(since) >= SOLO_REPLIES, TRAFFIC_TIMEOUT_S)


def takeover(scene):
    wait_until("takeover", scene.taken, PROTECT_TIMEOUT_S)


def lasting(seconds):
    return lambda scene: time.sleep(patience.seconds(seconds))


def awaiting(side, state):
    """The arbiter is asked in vain, and nobody acts without it."""
    def wait(scene):
        wait_until(f"{side} in {state}", lambda: scene.state(side) == state, PROTECT_TIMEOUT_S)
        time.sleep(patience.seconds(AWAY_S))
        if scene.taken() or scene.state(side) != state:
            scene.saw(f"left {state} without the arbiter")
        else:
            scene.saw("awaiting arbiter")
    return wait


def awaiting_then_settled(scene):
    awaiting(PRIMARY, "P_CLAIM")(scene)
    scene.arbiter_back()
    scene.until("the claim's outcome", lambda: scene.state(PRIMARY) in ("P_SOLO", "P_SYNC"))


def both(*waits):
    def wait(scene):
        for one in waits:
            one(scene)
    return wait


# ---- how it is undone

def nothing(_scene):
    pass


def started(side, name):
    """As the host's service manager would: the agent or the relay is there again."""
    def mend(scene):
        host = scene.hosts[side]
        if name == "agent":
            host.start_agent()
        else:
            host.start_relay(host.relay_state)
    return mend


def go_on(scene):
    scene.go_on()


def joined(scene):
    scene.join()


def arbiter_back(scene):
    scene.arbiter_back()


def powered_on(side):
    def mend(scene):
        scene.hosts[side].power_on()
        scene.dead.discard(side)
    return mend


def no_more_killing(scene):
    scene.keep_killing.set()


@dataclass(frozen=True)
class Kind:
    name: str
    text: str
    hit: Callable
    must: str
    also: tuple = ()               # outcomes that are right as well: where timing decides, or two race for the claim
    during: Callable = nothing     # what is waited for while the fault lasts
    mend: Callable = nothing
    shows: tuple = ()              # what has to be seen meanwhile


KINDS = [
    Kind("all-primary", "everything of the primary is killed", killed(PRIMARY), TAKEOVER),
    Kind("qemu", "the guest's QEMU is killed alone", killed(PRIMARY, "qemu"), TAKEOVER),
    Kind("keeper", "the primary's keeper is killed; the agent starts another in time", killed(PRIMARY, "keeper"), BACK,
         (TAKEOVER,)),
    Kind("mover", "the primary's mover is killed", killed(PRIMARY, "mover"), BACK),
    Kind("keeper-for-good", "the primary's keeper is killed, and the agent too, which is back after the takeover",
         killed(PRIMARY, "agent", "keeper"), TAKEOVER, (), takeover, started(PRIMARY, "agent")),
    Kind("mover-for-good", "each mover of the primary is killed as it appears: the primary serves alone",
         killed_for_good(PRIMARY, "mover"), BACK, (), solo, no_more_killing, ("solo",)),
    Kind("agent", "the primary's agent is killed; another adopts the keeper", killed(PRIMARY, "agent"), SAME, (), nothing,
         started(PRIMARY, "agent")),
    Kind("relay", "the relay of the guest's network is killed and started again: what it held is lost",
         killed(PRIMARY, "relay"), SAME, (BACK,), nothing, started(PRIMARY, "relay")),
    Kind("link", "the replication link is cut; later it is back", cut, BACK, (TAKEOVER,), solo, joined, ("solo",)),
    Kind("reset", "the connection is reset", reset, SAME),
    Kind("flap", f"the link goes away {FLAPS} times for {FLAP_DOWN_S * 1000:.0f} ms", flapped, SAME, (BACK,)),
    Kind("stop-all", "everything of the primary is stopped beyond every time-out, then goes on", stopped(PRIMARY), TAKEOVER, (),
         both(takeover, lasting(1)), go_on),
    Kind("stop-keeper", "the primary's keeper alone is stopped so long", stopped(PRIMARY, "keeper"), TAKEOVER, (),
         both(takeover, lasting(1)), go_on),
    Kind("stop-mover", "the primary's mover alone is stopped so long", stopped(PRIMARY, "mover"), BACK, (TAKEOVER,),
         lasting(BEYOND_S), go_on),
    Kind("stop-qemu", "the guest's QEMU alone is stopped so long", stopped(PRIMARY, "qemu"), BACK, (TAKEOVER,),
         lasting(BEYOND_MONITOR_S), go_on),
    Kind("stop-relay", "the relay alone is stopped so long", stopped(PRIMARY, "relay"), BACK, (TAKEOVER, SAME), lasting(BEYOND_S), go_on),
    Kind("stop-agent", "the primary's agent alone is stopped so long", stopped(PRIMARY, "agent"), SAME, (), lasting(BEYOND_S), go_on),
    Kind("arbiter-away", "the arbiter cannot be reached for a while", arbiter_away_and(), SAME, (), lasting(AWAY_S), arbiter_back),
    Kind("arbiter-away-all", "the arbiter is away, and everything of the primary is killed", arbiter_away_and(killed(PRIMARY)),
         TAKEOVER, (), awaiting(BACKUP, "B_CLAIM"), arbiter_back, ("awaiting arbiter",)),
    Kind("arbiter-away-link", "the arbiter is away, and the link is cut; the arbiter is back first", arbiter_away_and(cut), BACK,
         (TAKEOVER,), awaiting_then_settled, joined, ("awaiting arbiter",)),
    Kind("arbiter-away-backup", "the arbiter is away, and the backup's mover is killed", arbiter_away_and(killed(BACKUP, "mover")), BACK, (),
         awaiting(PRIMARY, "P_CLAIM"), arbiter_back, ("awaiting arbiter",)),
    Kind("backup-all", "everything of the backup is killed; later the host is back", killed(BACKUP), BACK, (), solo,
         powered_on(BACKUP), ("solo",)),
    Kind("backup-standby", "the standby guest is killed", killed(BACKUP, "qemu"), BACK),
    Kind("backup-keeper", "the backup's keeper is killed", killed(BACKUP, "keeper"), BACK),
    Kind("backup-mover", "the backup's mover is killed", killed(BACKUP, "mover"), BACK),
    Kind("backup-agent", "the backup's agent is killed; another adopts the keeper", killed(BACKUP, "agent"), SAME, (), nothing,
         started(BACKUP, "agent")),
    Kind("backup-relay", "the standby's relay is killed and started again", killed(BACKUP, "relay"), SAME, (), nothing,
         started(BACKUP, "relay")),
    Kind("backup-stop-all", "everything of the backup is stopped beyond every time-out, then goes on", stopped(BACKUP), BACK, (),
         both(solo, lasting(1)), go_on, ("solo",)),
    Kind("backup-stop-keeper", "the backup's keeper alone is stopped so long", stopped(BACKUP, "keeper"), BACK, (), both(solo, lasting(1)),
         go_on, ("solo",)),
    Kind("backup-stop-mover", "the backup's mover alone is stopped so long", stopped(BACKUP, "mover"), BACK, (), both(solo, lasting(1)),
         go_on, ("solo",)),
    Kind("backup-stop-standby", "the standby guest alone is stopped so long", stopped(BACKUP, "qemu"), SAME, (), lasting(BEYOND_S), go_on),
    Kind("backup-stop-relay", "the standby's relay alone is stopped so long", stopped(BACKUP, "relay"), SAME, (), lasting(BEYOND_S), go_on),
]
ALIASES = {"all": "all-primary"}
MATRIX = "matrix"


def names():
    return [kind.name for kind in KINDS]


def find(name):
    name = ALIASES.get(name, name)
    return next(kind for kind in KINDS if kind.name == name)


def judge(kind, outcome, seen):
    """What is wrong with what the hosts showed: [(violation, detail)]. No outcome at all is the oracle's to report."""
    found = []
    if outcome is not None and outcome not in (kind.must, *kind.also):
        found.append(("outcome", f"{kind.name}: {outcome}, must be {' or '.join((kind.must, *kind.also))}"))
    overtaken = outcome == TAKEOVER and kind.must != TAKEOVER  # what was to be seen on the primary could not be
    found += [("states", f"{kind.name}: '{word}' was not seen") for word in kind.shows if word not in seen and not overtaken]
    found += [("states", f"{kind.name}: {word}") for word in seen if word.startswith("left ")]
    return found
