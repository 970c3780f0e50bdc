"""One round: boot, protect, drive, kill, take over, drive on, judge, leave nothing behind."""
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
import uuid

import control
import machine
import oracle
import patience
import report
import ring
from hosts import VM, Host, credentials
from topology import GUEST_ADDR, Topology

HERE = os.path.dirname(os.path.abspath(__file__))
RAM_FS = "/dev/shm"           # tmpfs: the guests' RAM, sockets
PROTECT_TIMEOUT_S = 60
TRAFFIC_TIMEOUT_S = 90        # for the replies on one side of the kill
TAKEOVER_TIMEOUT_S = 30
CLIENT_STOP_S = 5
CONNECT_TIMEOUT_S = 1          # of each of the client's tries
REPLIES_WANTED = 80           # on either side; the oracle needs fewer
SETTLED_EPOCHS = 20           # before the kill
DRIVE_ON_S = 3                # at least, after the takeover
THINK_MS = 2                  # of the client, so that an unprotected guest is not asked thousands of times a second
KILL_EPOCHS_MAX = 5           # the kill comes within so many epochs
FAULT_CHECKPOINT = 200        # negative control: this one is sent without its pages; the kill comes soon after, since
                              # each page that the guest writes anew heals what was dropped
POLL_S = 0.02
LEFTOVER_WAIT_S = 5


class RoundError(Exception):
    """The round could not be played to its end."""


def wait_until(what, check, timeout, alive=lambda: None):
    """The first true value of check(); alive() raises when waiting is pointless."""
    timeout = patience.seconds(timeout)
    end = time.monotonic() + timeout
    while True:
        value = check()
        if value:
            return value
        alive()
        if time.monotonic() > end:
            raise RoundError(f"{what}: not within {timeout} s")
        time.sleep(POLL_S)


class Client:
    """The process that holds the connection, and its log."""

    def __init__(self, net, path, stderr_path):
        self.path = path
        with open(stderr_path, "wb") as err:
            argv = [sys.executable, os.path.join(HERE, "client.py"), "--host", GUEST_ADDR, "--log", path,
                    "--think-ms", str(THINK_MS), "--connect-timeout", str(patience.seconds(CONNECT_TIMEOUT_S))]
            self.process = net.spawn("client", argv, stdout=err, stderr=err)
        self.offset, self.records = 0, []

    def poll(self):
        """Read what the log has more."""
        try:
            with open(self.path, encoding="utf-8") as f:
                f.seek(self.offset)
                lines = f.readlines()
        except FileNotFoundError:
            return self.records
        for text in lines:
            if text.endswith("\n"):
                self.offset += len(text.encode())
                self.records.append(json.loads(text))
        return self.records

    def replies_since(self, when):
        return sum(1 for r in self.poll() if r["e"] == "recv" and r["t"] >= when)

    def check(self):
        if self.process.poll() is not None:
            last = self.poll()[-1] if self.poll() else {}
            raise RoundError(f"the client ended: {last.get('what', self.process.returncode)}")

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(patience.seconds(CLIENT_STOP_S))
            except Exception:
                self.process.kill()
                self.process.wait()
                raise
        return self.poll()


class Watcher(threading.Thread):
    """Polls the backup's status and keeps the moment at which the guest was first seen to run there."""

    def __init__(self, host):
        super().__init__(daemon=True)
        self.host = host
        self.running_at = None
        self.stop = threading.Event()

    def run(self):
        while not self.stop.is_set() and self.running_at is None:
            try:
                if self.host.status().get("takeovers"):
                    self.running_at = time.monotonic_ns()
            except (control.ControlError, ValueError):
                pass
            time.sleep(0.005)


class Round:
    def __init__(self, number, options, image, accel, programs, work):
        self.number, self.options, self.image, self.accel, self.programs = number, options, image, accel, programs
        self.base = os.path.join(work, f"round-{number}")
        self.random = random.Random(f"{options.seed}/{number}")
        self.vm_uuid = str(uuid.UUID(int=self.random.getrandbits(128), version=4))
        self.tag = f"rpl{os.getpid()}"
        self.ram_dir = os.path.join(RAM_FS, self.tag)
        self.net = Topology(self.tag)
        self.result = {"round": number, "uuid": self.vm_uuid, "leftovers": []}
        self.marks = {}
        self.client = None
        self.alpha = self.beta = self.qemu = None

    def play(self):
        os.makedirs(self.base)
        os.makedirs(os.path.join(self.base, "arbiter"))
        os.makedirs(self.ram_dir)
        try:
            with self.net:
                self._prepare()
                self._protect()
                self._kill()
                self._take_over()
                self._drive_on()
                self._judge()
                self._end()
        finally:
            try:
                for host in (self.alpha, self.beta):
                    if host:
                        host.save_logs()
            finally:  # logs that cannot be kept must not keep the guests' memory
                shutil.rmtree(self.ram_dir, ignore_errors=True)
        self.result["leftovers"] += self.net.leftovers()
        return self.result

    def say(self, text):
        self.options.progress(f"round {self.number}/{self.options.rounds}: {text}")

    # ---- before

    def _prepare(self):
        who = credentials(getattr(self.options, "tls", "psk"), self.base)
        extra = dict(self.options.vm_keys)
        for node in ("alpha", "beta"):
            host = Host(node, self.net, self.base, self.ram_dir, self.base, self.programs, self.options.interval_ms,
                        self.vm_uuid, extra)
            host.write_config(who, node == "alpha", self.image, self.accel)
            host.start_relay("open" if node == "alpha" else "closed")
            setattr(self, node, host)
        paths = self.alpha.vm_paths()
        started = time.monotonic_ns()
        self.qemu, seconds, failed = machine.boot(
            lambda argv: self.alpha.spawn("qemu", argv), self.alpha.arguments(self.image, self.accel), paths["serial_path"],
            remove=[paths["ram_path"]])
        self.result["boot_ns"] = time.monotonic_ns() - started
        self.result["boots_failed"] = failed
        self.say(f"guest runs on alpha (booted in {seconds:.1f} s); a client holds one connection")
        self.client = Client(self.net, os.path.join(self.base, "client.log"), os.path.join(self.base, "client.err"))
        wait_until("first replies", lambda: self.client.replies_since(0) >= 10, TRAFFIC_TIMEOUT_S, self.client.check)

    def _protect(self):
        fault = {"RPL_FAULT": f"drop_epoch_pages:{FAULT_CHECKPOINT}"} if self.options.negative_control else {}
        self.beta.start_agent()
        self.alpha.start_agent(fault)
        asked = time.monotonic_ns()
        self.alpha.command("protect", VM, "--no-wait")
        wait_until("protection", self._protected, PROTECT_TIMEOUT_S, self._alive)
        self.marks["protected"] = time.monotonic_ns()
        self.result["protect_ns"] = self.marks["protected"] - asked
        self.say(f"protected after {report.ms(self.result['protect_ns'], 0)}; checkpoints every {self.options.interval_ms} ms")

    def _protected(self):
        status = self.alpha.status()
        if status.get("refused"):
            raise RoundError(f"protection refused: {status['refused']}")
        return status.get("state") == "P_PROTECTED"

    def _alive(self):
        self.client.check()
        for host in (self.alpha, self.beta):
            for name, process in host.processes.items():
                if process.poll() is not None:
                    raise RoundError(f"{name} on {host.node} ended with {process.returncode}; see {host.log(name)}")

    # ---- the kill

    def _kill(self):
        since = self.marks["protected"]
        wait_until(f"{REPLIES_WANTED} replies while protected", lambda: self.client.replies_since(since) >= REPLIES_WANTED,
                   TRAFFIC_TIMEOUT_S, self._alive)
        if self.options.negative_control:
            since, needed = 0, FAULT_CHECKPOINT
        else:
            needed = SETTLED_EPOCHS
        wait_until(f"{needed} committed checkpoints", lambda: self._committed(since) >= needed, TRAFFIC_TIMEOUT_S, self._alive)
        self.result["before"] = self.alpha.status()
        begin, end, killed = self.net.kill_host("alpha", self._draw_instant())
        self.alpha.reap()
        self.marks.update(kill=begin, kill_end=end)
        epochs = self.alpha.trace()
        self.result.update(killed=killed, step=ring.step_at(epochs, begin), phase=ring.phase_at(epochs, begin))
        self.result["kill_burst_ns"] = end - begin
        self.say(f"alpha killed: {len(killed)} processes within {report.ms(end - begin)}, in step {self.result['step']}")
        self._account(epochs)

    def _committed(self, since):
        return sum(1 for e in self.alpha.trace() if e.times.get("acked", 0) > since)

    def _draw_instant(self):
        """A moment drawn from the seed, uniform over an epoch, counted from a checkpoint that was seen to begin."""
        epochs = self.alpha.trace()
        period = ring.period_ns(epochs) or self.options.interval_ms * report.MS
        share = self.random.random()
        whole = 1 if self.options.negative_control else self.random.randrange(1, KILL_EPOCHS_MAX)
        begun = max((e.times["begun"] for e in epochs if "begun" in e.times), default=time.monotonic_ns())
        self.result["kill_drawn"] = share
        return begun + int((whole + share) * period)

    def _account(self, epochs):
        """What the primary did until it died, from its trace and its last status."""
        done = [e for e in epochs if "acked" in e.times]
        status = self.result["before"]
        self.result.update(
            checkpoints=len(done), dirty_pages=sum(e.pages for e in done),
            pauses_ns=[e.pause_ns for e in epochs if e.pause_ns is not None],
            pauses=[(e.times["begun"], e.pause_ns) for e in epochs if e.pause_ns is not None],
            raw_bytes=status.get("raw_bytes"), wire_bytes=status.get("wire_bytes"))

    # ---- after

    def _take_over(self):
        watcher = Watcher(self.beta)
        watcher.start()
        try:
            wait_until("takeover", lambda: watcher.running_at, TAKEOVER_TIMEOUT_S)
        except RoundError as error:
            self.result["no_takeover"] = str(error)
        finally:
            watcher.stop.set()
            watcher.join()
        self.marks["takeover"] = watcher.running_at
        times = self.beta.status().get("takeover", {})
        self.result["takeover_status"] = times
        self.result["takeover_ns"] = times["run_us"] * 1000 if "run_us" in times else None
        self.result["detect_ns"] = None
        if watcher.running_at:
            self.result["detect_ns"] = watcher.running_at - self.marks["kill"] - (self.result["takeover_ns"] or 0)
            self.say(f"beta runs the guest {report.ms(watcher.running_at - self.marks['kill'], 0)} after the kill")

    def _drive_on(self):
        """Until enough was seen, or it is clear that nothing more comes: the oracle then says what was missing."""
        takeover = self.marks["takeover"]
        if takeover is None:
            return
        facts = self._facts()

        def enough():
            if self.client.process.poll() is not None:
                return True
            if self.client.replies_since(takeover) < REPLIES_WANTED or time.monotonic_ns() < takeover + DRIVE_ON_S * 1e9:
                return False
            verdict = oracle.judge(self.client.poll(), facts)
            return verdict.rounds_after >= oracle.ROUNDS_AFTER_MIN
        try:
            wait_until("traffic after the takeover", enough, TRAFFIC_TIMEOUT_S)
        except RoundError as error:
            self.say(str(error))

    def _facts(self):
        return oracle.Facts(kill_begin=self.marks["kill"], kill_end=self.marks["kill_end"], takeover=self.marks["takeover"])

    def _judge(self):
        records = self.client.stop()
        verdict = oracle.judge(records, self._facts())
        received = [r["t"] for r in records if r["e"] == "recv"]
        before = [t for t in received if t < self.marks["kill"]]
        after = [t for t in received if t >= self.marks["kill_end"]]
        self.result.update(
            state=verdict.state, violations=verdict.violations, invalid=verdict.invalid, lost=verdict.lost,
            replies_before=verdict.replies_before, replies_after=verdict.replies_after, in_flight=verdict.in_flight,
            outage_ns=after[0] - before[-1] if before and after else None, marks=self.marks,
            latencies=[(t, latency) for t, latency, _ in verdict.latencies])
        self.result["verdict"] = verdict

    def _end(self):
        """Shut the guest down on purpose, stop what was started, then look what is still there."""
        for pid in self._guests("beta"):  # its monitor has one client, and that is the keeper
            os.kill(pid, signal.SIGTERM)
        wait_until("the guest's end", lambda: not self._guests("beta"), LEFTOVER_WAIT_S)
        self._wait_for_keeper()
        self.beta.stop("agent")
        self.beta.stop("relay")
        for path in self.beta.owners_files():
            if os.path.exists(path):
                os.unlink(path)
        end = time.monotonic() + patience.seconds(LEFTOVER_WAIT_S)
        while (left := self._left_on_beta()) and time.monotonic() < end:
            time.sleep(POLL_S)
        self.result["leftovers"] += left

    def _wait_for_keeper(self):
        """A guest that was shut down needs no keeper: it ends and its directory goes, while the agent is there to see it."""
        end = time.monotonic() + patience.seconds(LEFTOVER_WAIT_S)
        while os.path.exists(self.beta.vm_dir) and time.monotonic() < end:
            time.sleep(POLL_S)

    def _guests(self, node):
        return [pid for pid in self.net.pids(node) if "qemu" in machine_name(pid)]

    def _left_on_beta(self):
        left = [f"process {pid} ({machine_name(pid)}) on beta" for pid in self.net.pids("beta")]
        for directory, _, names in os.walk(self.beta.run):
            left += [f"file {os.path.join(directory, name)}" for name in names]
        return left


def machine_name(pid):
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as f:
            return f.read().strip()
    except OSError:
        return "?"
