"""One round on a pair: protect, drive, do something bad, see what comes of it, drive on, judge, and be as before."""
import random
import threading
import time

import control
import etcd
import faults
import machine
import oracle
import pki
import report
import ring
from pair import PROTECT_TIMEOUT_S, TRAFFIC_TIMEOUT_S, RoundError, wait_until
from topology import TopologyError

EXPECTED = (machine.MachineError, TopologyError, control.ControlError, etcd.EtcdError, pki.PkiError, RoundError)
REPLIES_WANTED = 60           # on either side; the oracle needs fewer
SETTLED_EPOCHS = 20           # before the fault
DRIVE_ON_S = 1                # at least, after it
KILL_EPOCHS_MAX = 5           # the fault comes within so many epochs
FAULT_CHECKPOINT = 200        # negative control: this one is sent without its pages; the kill comes soon after, since
                              # each page that the guest writes anew heals what was dropped
CLEAN_TIMEOUT_S = 30
OWNS = ("P_SOLO", "P_SYNC", "P_ARM", "P_PROTECTED")  # of what was the backup: it runs the guest


class Watcher(threading.Thread):
    """Polls the backup's status and keeps the moment at which the guest was first seen to run there."""

    def __init__(self, host):
        super().__init__(daemon=True)
        self.host = host
        self.running_at = None
        self.stop = threading.Event()

    def run(self):
        while not self.stop.is_set() and self.running_at is None:
            if self.host.look().get("state") in OWNS:
                self.running_at = time.monotonic_ns()
            time.sleep(0.005)

    def end(self):
        self.stop.set()
        self.join()


class Round:
    def __init__(self, number, options, kind, pair):
        self.number, self.options, self.kind, self.pair = number, options, kind, pair
        self.random = random.Random(f"{options.seed}/{number}")
        self.result = {"round": number, "kind": kind.name, "uuid": pair.vm_uuid, "leftovers": []}
        self.marks = {}
        self.scene = None
        self.first = None         # the client's records of this round begin here
        self.begun = time.monotonic_ns()

    def play(self):
        self._protect()
        self._drive()
        self._strike()
        self._settle()
        self._clean()
        self._drive_on()
        self._judge()
        self._again()
        self.result["round_ns"] = time.monotonic_ns() - self.begun
        return self.result

    def say(self, text):
        self.options.progress(f"round {self.number}/{self.options.rounds}: {text}")

    # ---- before

    def _protect(self):
        self.result.update(self.pair.facts)
        self.pair.facts = {}      # the start belongs to the first round
        if not self.pair.protected_before:
            fault = {"RPL_FAULT": f"drop_epoch_pages:{FAULT_CHECKPOINT}"} if self.options.negative_control else {}
            self.pair.start_agents(fault)
            self.result["protect_ns"] = self.pair.protect()
            self.pair.protected_before = True
            self.say(f"protected after {report.ms(self.result['protect_ns'], 0)}; checkpoints every {self.options.interval_ms} ms")
        self.first = len(self.pair.client.poll())
        self.marks["protected"] = time.monotonic_ns()

    def _drive(self):
        since = self.marks["protected"]
        wait_until(f"{REPLIES_WANTED} replies while protected", lambda: self.pair.client.replies_since(since) >= REPLIES_WANTED,
                   TRAFFIC_TIMEOUT_S, self.pair.check)
        if self.options.negative_control:
            since, needed = 0, FAULT_CHECKPOINT
        else:
            needed = SETTLED_EPOCHS
        wait_until(f"{needed} committed checkpoints", lambda: self._committed(since) >= needed, TRAFFIC_TIMEOUT_S, self.pair.check)

    def _committed(self, since):
        return sum(1 for e in self.pair.primary.trace() if e.times.get("acked", 0) > since)

    # ---- the fault

    def _strike(self):
        self.scene = faults.Scene(self.pair, self.random)
        self.result["before"] = self.scene.before[faults.PRIMARY]
        self.result["primary"] = self.pair.primary.node
        self.scene.watcher = Watcher(self.pair.backup)
        self.kind.hit(self.scene, self._draw_instant())
        self.scene.watcher.start()
        begin, end = self.scene.begin, self.scene.end
        self.marks.update(kill=begin, kill_end=end)
        epochs = self.pair.primary.trace()
        self.result.update(killed=self.scene.killed, step=ring.step_at(epochs, begin), phase=ring.phase_at(epochs, begin),
                           kill_burst_ns=end - begin)
        self.say(f"{self.kind.name}: {self.kind.text}; in step {self.result['step']}")
        self._account(epochs)

    def _draw_instant(self):
        """A moment drawn from the seed, uniform over an epoch, counted from a checkpoint that was seen to begin."""
        epochs = self.pair.primary.trace()
        period = ring.period_ns(epochs) or self.options.interval_ms * report.MS
        share = self.random.random()
        whole = 1 if self.options.negative_control else self.random.randrange(1, KILL_EPOCHS_MAX)
        begun = max((e.times["begun"] for e in epochs if "begun" in e.times), default=time.monotonic_ns())
        self.result["kill_drawn"] = share
        return begun + int((whole + share) * period)

    def _account(self, epochs):
        """What the primary did from the round's beginning to the fault, from its trace and its last status."""
        since = self.begun
        done = [e for e in epochs if e.times.get("acked", 0) > since]
        paused = [e for e in epochs if e.pause_ns is not None and e.times["begun"] > since]
        status = self.result["before"]
        self.result.update(
            checkpoints=len(done), dirty_pages=sum(e.pages for e in done), pauses_ns=[e.pause_ns for e in paused],
            pauses=[(e.times["begun"], e.pause_ns) for e in paused], raw_bytes=status.get("raw_bytes"),
            wire_bytes=status.get("wire_bytes"))

    def _settle(self):
        scene = self.scene
        outcome = None
        try:
            self.kind.during(scene)
            self.kind.mend(scene)
            scene.mended = time.monotonic_ns()
            outcome = wait_until("an outcome", scene.outcome, PROTECT_TIMEOUT_S)
        except EXPECTED as error:
            self.result["unsettled"] = str(error)
        finally:
            scene.watcher.end()
        if outcome is None and scene.taken():
            outcome = faults.TAKEOVER
        now = time.monotonic_ns()
        self.marks["settled"] = now
        self.result["outcome"] = outcome
        self.result.update(takeover_ns=None, detect_ns=None)
        if outcome == faults.TAKEOVER:
            self._tell_takeover()
        elif outcome:
            self.say(f"{outcome}: settled {report.ms(now - self.marks['kill'], 0)} after the fault")
        else:
            self.say(f"nothing settled: {self.result.get('unsettled')}")

    def _tell_takeover(self):
        running_at = self.scene.watcher.running_at
        self.marks["takeover"] = running_at
        times = self.pair.backup.look().get("takeover", {})
        self.result["takeover_status"] = times
        self.result["takeover_ns"] = times["run_us"] * 1000 if times.get("run_us") else None  # 0: not of one keeper's life
        self.result["detect_ns"] = running_at - self.marks["kill"] - (self.result["takeover_ns"] or 0)
        self.say(f"{self.pair.backup.node} runs the guest {report.ms(running_at - self.marks['kill'], 0)} after the fault")

    def _clean(self):
        """After a takeover the old primary has no guest any more, whatever was left of it."""
        if self.result["outcome"] != faults.TAKEOVER:
            return
        old, guest = self.pair.primary, self.pair.guest
        if faults.PRIMARY not in self.scene.dead:
            try:
                wait_until("the old primary's guest ended", lambda: guest not in self.pair.guests(old.node), CLEAN_TIMEOUT_S)
            except RoundError as error:
                self.result["leftovers"].append(str(error))
            if guest not in self.pair.guests(old.node):
                old.reap(["qemu"])
        self.pair.swap()
        if faults.PRIMARY in self.scene.dead and not self._is_last():  # it comes back while the client waits for TCP to try again
            self.pair.backup.power_on()

    # ---- after

    def _facts(self):
        after = None if self.result["outcome"] is None else self.marks.get("takeover") or self.marks["kill_end"]
        return oracle.Facts(kill_begin=self.marks["kill"], kill_end=self.marks["kill_end"], after=after,
                            counter_start=self._counter_start(), ended=self.result["outcome"] == faults.ENDED)

    def _records(self):
        """The client's log from this round's first request on, its connection in front."""
        records = self.pair.client.poll()
        begin = next((i for i in range(self.first, len(records)) if records[i]["e"] == "send"), len(records))
        return [r for r in records[:begin] if r["e"] == "connect"] + records[begin:]

    def _counter_start(self):
        commands, last = {}, 0
        records = self.pair.client.poll()
        for i, r in enumerate(records):
            if r["e"] == "send":
                if i >= self.first:
                    break
                commands[r["n"]] = r["cmd"]
            elif r["e"] == "recv" and commands.get(r["n"]) == "INCR":
                last = r["val"]
        return last

    def _drive_on(self):
        """Until enough was seen, or it is clear that nothing more comes: the oracle then says what was missing."""
        if self.result["outcome"] in (None, faults.ENDED):
            return
        facts = self._facts()
        since = time.monotonic_ns()

        def enough():
            if self.pair.client.process.poll() is not None:
                return True
            if self.pair.client.replies_since(facts.after) < REPLIES_WANTED or time.monotonic_ns() < since + DRIVE_ON_S * 1e9:
                return False
            verdict = oracle.judge(self._records(), facts)
            return verdict.rounds_after >= oracle.ROUNDS_AFTER_MIN
        try:
            wait_until("traffic after the fault", enough, TRAFFIC_TIMEOUT_S)
        except RoundError as error:
            self.say(str(error))

    def _judge(self):
        records = self._records()
        verdict = oracle.judge(records, self._facts())
        for name, detail in faults.judge(self.kind, self.result["outcome"], self.scene.seen):
            verdict.broken(name, detail)
        received = [r["t"] for r in records if r["e"] == "recv"]
        before = [t for t in received if t < self.marks["kill"]]
        around = before[-1:] + [t for t in received if t >= self.marks["kill"]]
        self.result.update(
            state=verdict.state, violations=verdict.violations, invalid=verdict.invalid, lost=verdict.lost,
            replies_before=verdict.replies_before, replies_after=verdict.replies_after, in_flight=verdict.in_flight,
            outage_ns=max((b - a for a, b in zip(around, around[1:])), default=None), marks=self.marks, seen=self.scene.seen,
            latencies=[(t, latency) for t, latency, _ in verdict.latencies])
        self.result["verdict"] = verdict

    def _is_last(self):
        return self.number == self.options.rounds or self.options.negative_control

    def _again(self):
        """The guest is protected again, by the same pair, and nothing is there that was not there before."""
        if self.result["state"] == "failed" or self.result["outcome"] == faults.ENDED or self._is_last():
            return
        if self.result["outcome"] == faults.TAKEOVER:
            self.result["protect_ns"] = self.pair.protect()
            self.result["unprotected_ns"] = time.monotonic_ns() - self.marks["kill"]
        try:
            wait_until("only what belongs there", lambda: not self.pair.strays(), CLEAN_TIMEOUT_S)
        except RoundError:
            self.result["leftovers"] += self.pair.strays()
