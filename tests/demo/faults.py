"""The fault matrix: what is done to whom, and what must come of it. `replicad demo --kill KIND` plays a row of it.

A row's outcome is what the two hosts show afterwards:

  takeover   the backup runs the guest; the old primary, once it can, finds itself deposed and cleans up
  back       the guest stays where it is; protection was lost and came back by itself, in another session
  same       the guest stays where it is, and so does the session: acks go on
  ended      nobody runs the guest: it was shut down on purpose, or two faults at once took both copies of its memory

In all of them the client's replies stay strictly +1 on the one connection; oracle.py judges that.
"""
import signal
import threading
import time
from dataclasses import dataclass
from typing import Callable

import control
import hosts
import patience
from pair import PROTECT_TIMEOUT_S, TRAFFIC_TIMEOUT_S, wait_until

TAKEOVER, BACK, SAME, ENDED = "takeover", "back", "same", "ended"
NAMES = {"qemu": "qemu-system-x86", "keeper": "replicad-keeper", "mover": "replicad-mover", "relay": "replicad-relay",
         "agent": "replicad"}
PRIMARY, BACKUP = "primary", "backup"
BEYOND_S = 3.0          # longer than suspect and the delay of a takeover together
BEYOND_MONITOR_S = 7.0  # longer than op_timeout_ms, which bounds a command to QEMU
AWAY_S = 1.2            # the arbiter: longer than it takes to ask it again and again
STANDS_S = 0.3          # a takeover, before what was stopped goes on
SOLO_REPLIES = 40       # served while the fault lasts
SAME_EPOCHS = 20        # committed in the same session after the fault is over
ENDED_S = 3.0           # so long nobody runs it, although a takeover would have come by then
PASSAGES_MAX = 20       # of a fault point that each epoch passes: it strikes at one of so many, drawn from the seed
DIE_TIMEOUT_S = 30
FLAPS, FLAP_DOWN_S, FLAP_UP_S = 4, 0.15, 0.6
SWEEP_S = 0.02


class Scene:
    """One fault on a pair: what was done, so that it can be undone, and what was there before."""

    def __init__(self, pair, drawn):
        self.pair, self.net, self.random = pair, pair.net, drawn
        self.hosts = {PRIMARY: pair.primary, BACKUP: pair.backup}
        self.before = {side: host.look() for side, host in self.hosts.items()}
        self.begin = self.end = None     # of what was done: CLOCK_MONOTONIC ns
        self.mended = None
        self.stopped, self.dead = [], set()
        self.killed, self.seen = [], []  # processes; states and facts worth telling
        self.keep_killing = None
        self.watcher = None
        self.gone_since = None

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
            host.dead = True
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
        self.pair.arbiter.away()

    def arbiter_back(self):
        self.pair.arbiter.back()

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
        if self._ended():
            return ENDED
        status = self.hosts[PRIMARY].look()
        if status.get("state") != "P_PROTECTED":
            return None
        if status.get("session") != self.before[PRIMARY].get("session"):
            return BACK
        return SAME if self.mended and self.committed_since(self.mended) >= SAME_EPOCHS else None


    def _ended(self):
        """The primary's guest is gone, and for a while nobody has taken over."""
        if not self.mended or PRIMARY in self.dead or self.pair.guest in self.pair.guests(self.hosts[PRIMARY].node):
            self.gone_since = None
            return False
        self.gone_since = self.gone_since or time.monotonic()
        return time.monotonic() > self.gone_since + patience.seconds(ENDED_S)


def sleep_until(when):
    while (left := when - time.monotonic_ns()) > 0:
        time.sleep(left / 1e9)


# ---- what is done

def killed(side, *names):
    return lambda scene, when: scene.kill(when, side, *names)


def stopped(side, *names):
    return lambda scene, when: scene.stop(when, side, *names)


def hung_and_orphaned(scene, when):
    """QEMU does not answer, and whoever knew it is gone."""
    scene.stop(when, PRIMARY, "qemu")
    scene.kill(0, PRIMARY, "keeper")


def replica_orphaned(scene, when):
    """The backup's keeper dies while no agent is there to start another, and then everything of the primary: nobody knows of the
    replica, until the agent is back."""
    scene.kill(when, BACKUP, "agent", "keeper")
    scene.kill(0, PRIMARY)


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


def died_at(side, point, name="keeper", passages=1, then=None):
    """The process dies (or cuts its connection) at a named point; `then` brings it there, unless each epoch does."""
    def hit(scene, when):
        victims = scene.pids(side, name)
        sleep_until(when)
        begin = time.monotonic_ns()
        scene.hosts[side].arm(f"{point}:{scene.random.randint(1, passages)}")
        if then:
            then(scene)
        if point.startswith("die_"):
            wait_until(f"the {name}'s death at {point}", lambda: not set(victims) & set(scene.pids(side, name)), DIE_TIMEOUT_S)
            scene.killed += [(pid, f"{name} at {point}") for pid in victims]
        scene.did(begin)
    return hit


def lose_backup(scene):
    """A session ends, and the primary claims SOLO, then arms another."""
    scene.net.send(scene.pids(BACKUP, "mover"), signal.SIGKILL)


def stop_primary(scene):
    scene.stop(0, PRIMARY)


def power_off(scene):
    scene.net.send([scene.pair.guest], signal.SIGTERM)
    scene.hosts[PRIMARY].reap(["qemu"])


def switch_over(scene):
    try:
        control.ask(scene.hosts[PRIMARY].agent_sock, "switchover", vm=hosts.VM)
    except control.ControlError as error:
        scene.saw(f"switchover: {error}")  # the keeper that was to answer died


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
         both(takeover, lasting(STANDS_S)), go_on),
    Kind("stop-keeper", "the primary's keeper alone is stopped so long", stopped(PRIMARY, "keeper"), TAKEOVER, (),
         both(takeover, lasting(STANDS_S)), go_on),
    Kind("stop-mover", "the primary's mover alone is stopped so long", stopped(PRIMARY, "mover"), BACK, (TAKEOVER,),
         lasting(BEYOND_S), go_on),
    Kind("stop-qemu", "the guest's QEMU alone is stopped so long", stopped(PRIMARY, "qemu"), BACK, (TAKEOVER,),
         lasting(BEYOND_MONITOR_S), go_on),
    Kind("stop-qemu-keeper", "the guest's QEMU is stopped for good and the primary's keeper killed: the next one finds nobody who answers, "
         "and ends it when it finds itself deposed", hung_and_orphaned, TAKEOVER, (), takeover),
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
    Kind("backup-keeper-agent", "the backup's keeper and agent are killed, then everything of the primary; the agent is back, and starts "
         "a keeper that finds the replica", replica_orphaned, TAKEOVER, (), nothing, started(BACKUP, "agent")),
    Kind("backup-stop-all", "everything of the backup is stopped beyond every time-out, then goes on", stopped(BACKUP), BACK, (),
         both(solo, lasting(1)), go_on, ("solo",)),
    Kind("backup-stop-keeper", "the backup's keeper alone is stopped so long", stopped(BACKUP, "keeper"), BACK, (), both(solo, lasting(1)),
         go_on, ("solo",)),
    Kind("backup-stop-mover", "the backup's mover alone is stopped so long", stopped(BACKUP, "mover"), BACK, (), both(solo, lasting(1)),
         go_on, ("solo",)),
    Kind("backup-stop-standby", "the standby guest alone is stopped so long", stopped(BACKUP, "qemu"), SAME, (), lasting(BEYOND_S), go_on),
    Kind("backup-stop-relay", "the standby's relay alone is stopped so long", stopped(BACKUP, "relay"), SAME, (), lasting(BEYOND_S), go_on),
]


EITHER = (TAKEOVER,)


def _point(point, what, hit, must, also=(), during=nothing, mend=nothing):
    name = point.removeprefix("die_at_").removeprefix("die_").replace("_", "-")
    return Kind(name if point.startswith("cut_") else f"die-at-{name}", what, hit, must, also, during, mend)


def _mover(side, point, what, must=BACK, also=()):
    return _point(point, what, died_at(side, point, "mover", PASSAGES_MAX), must, also)


def _keeper(side, point, what, also=(), then=None, must=BACK, **more):
    return _point(point, what, died_at(side, point, "keeper", 1 if then else PASSAGES_MAX, then), must, also, **more)


def _heir(point, when):
    """The backup's keeper dies on the way from the primary's silence to a running guest; the next one goes on from there."""
    return _keeper(BACKUP, point, f"the primary is stopped so long, and the backup's keeper dies when {when}", (), stop_primary, TAKEOVER,
                   during=both(takeover, lasting(STANDS_S)), mend=go_on)


def _claims():
    """Each claim: not sent, on the wire, granted and not acted on."""
    moments = (("unsent", "is to be sent"), ("sent", "is on the wire"), ("granted", "was granted and is not acted on"))
    for word, when in moments:
        yield _keeper(PRIMARY, f"die_claim_solo_{word}", f"the primary's keeper dies when its claim of SOLO {when}", EITHER, lose_backup)
    for word, when in moments:
        yield _keeper(PRIMARY, f"die_claim_arm_{word}", f"the primary's keeper dies when its claim of PROTECTED {when}", EITHER,
                      lose_backup)
    for word, when in moments:
        yield _heir(f"die_claim_takeover_{word}", f"its claim {when}")
    for word, when in moments:
        yield _keeper(PRIMARY, f"die_claim_down_{word}", "the guest shuts down, and the primary's keeper dies when its claim of "
                      f"DOWN {when}", (), power_off, ENDED)


KINDS += [
    _mover(PRIMARY, "die_at_s2", "the primary's mover dies with a checkpoint staged, the keeper not told"),
    _mover(PRIMARY, "die_at_s3", "the primary's mover dies between two frames of a checkpoint"),
    _mover(PRIMARY, "die_at_s5", "the primary's mover dies with an ack decoded, the keeper not told"),
    _mover(PRIMARY, "cut_at_s3", "the primary's mover cuts the connection between two frames", SAME),
    _mover(BACKUP, "die_at_s4", "the backup's mover dies with an epoch received, not sealed"),
    _mover(BACKUP, "die_at_s4_sealed", "the backup's mover dies with an epoch sealed, the keeper not told"),
    _mover(BACKUP, "cut_at_s4", "the backup's mover cuts the connection instead of sending an ack", SAME),
    _keeper(PRIMARY, "die_keeper_s0", "the primary's keeper dies when an epoch ends", EITHER),
    _keeper(PRIMARY, "die_keeper_s0_asked", "the primary's keeper dies when it has asked the guest to stand still", EITHER),
    _keeper(PRIMARY, "die_keeper_s1", "the primary's keeper dies with the guest paused, nothing sealed", EITHER),
    _keeper(PRIMARY, "die_keeper_s1_sealed", "the primary's keeper dies with the guest paused, sealed and saved", EITHER),
    _keeper(PRIMARY, "die_keeper_s2", "the primary's keeper dies with the guest paused, its pages staged", EITHER),
    _keeper(PRIMARY, "die_keeper_s3", "the primary's keeper dies when the guest was resumed", EITHER),
    _keeper(PRIMARY, "die_keeper_s5", "the primary's keeper dies with an epoch acked, not released", EITHER),
    _keeper(PRIMARY, "die_keeper_s5_released", "the primary's keeper dies with an epoch released", EITHER),
    _keeper(BACKUP, "die_keeper_s4", "the backup's keeper dies with an epoch staged, not acked"),
    _keeper(BACKUP, "die_keeper_s4_acked", "the backup's keeper dies with an ack on its way"),
    _keeper(BACKUP, "die_keeper_s8", "the backup's keeper dies with an epoch folded"),
    _keeper(PRIMARY, "die_drain", "a switchover begins, and the primary's keeper dies", EITHER, switch_over),
    _keeper(PRIMARY, "die_handover_unsent", "a switchover, and the primary's keeper dies drained, before it hands over", EITHER,
            switch_over),
    _keeper(PRIMARY, "die_handover_sent", "a switchover, and the primary's keeper dies when it has handed over", (BACK,), switch_over,
            TAKEOVER),
    _keeper(BACKUP, "die_handover_heard", "a switchover, and the backup's keeper dies when it is to take over", EITHER, switch_over),
    _heir("die_promote_folded", "it has won and folded the replica"),
    _heir("die_promote_loading", "it has told the standby to load its state"),
    _heir("die_promote_loaded", "the standby has loaded its state"),
    _heir("die_promote_runs", "the standby runs"),
    *_claims(),
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
