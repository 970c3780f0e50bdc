"""What the flow tests with a real guest on two hosts have in common: a demo's round with another misfortune than the
death of everything, and a client whose replies must stay strictly +1 on its one connection."""
import argparse
import os
import sys
import tempfile
import time

sys.dont_write_bytecode = True
TOP = os.environ.get("top_srcdir", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
BUILD = os.environ.get("top_builddir", os.path.join(TOP, "build"))
os.environ["RPL_BUILDDIR"] = BUILD
sys.path.insert(0, os.path.join(TOP, "tests", "demo"))
import demo  # noqa: E402
import image  # noqa: E402
import rounds  # noqa: E402

WAIT_S = 60
REPLIES = 60


class Story(rounds.Round):
    """A demo's round with another misfortune than the death of everything."""

    def __init__(self, name, made, programs, work):
        options = argparse.Namespace(seed=1, rounds=1, interval_ms=50, vm_keys={}, negative_control=False, json=False,
                                     progress=lambda text: print(f"{name}: {text}", flush=True))
        super().__init__(name, options, made, "tcg", programs, work)
        self.survivor = "alpha"

    def play(self):
        for path in (self.base, os.path.join(self.base, "arbiter"), self.ram_dir):
            os.makedirs(path)
        try:
            with self.net:
                self._prepare()
                if self.number != "cleartext":
                    self._protect()
                self.replies(REPLIES)
                getattr(self, f"play_{self.number}")()
                self.replies(REPLIES)
                self.check_client()
        except BaseException:
            for host in (self.alpha, self.beta):
                host.save_logs()
            raise
        finally:
            rounds.shutil.rmtree(self.ram_dir, ignore_errors=True)
        left = self.net.leftovers()
        if left:
            raise SystemExit(f"FAIL: {self.number}: left behind: {left}")

    def replies(self, count):
        now = time.monotonic_ns()
        rounds.wait_until(f"{count} replies", lambda: self.client.replies_since(now) >= count, WAIT_S, self.client.check)

    def check_client(self):
        """Replies to INCR are strictly +1: none lost, none twice, on the one connection."""
        records = self.client.stop()
        asked = {r["n"]: r["cmd"].split()[0] for r in records if r["e"] == "send"}
        values = [r["val"] for r in records if r["e"] == "recv" and asked.get(r["n"]) == "INCR"]
        steps = {b - a for a, b in zip(values, values[1:])}
        if len(values) < REPLIES or steps != {1}:
            raise SystemExit(f"FAIL: {self.number}: {len(values)} replies to INCR, steps {steps}")

    def pid(self, host, role):
        """None while there is no such process, as for a moment between two keepers."""
        return next((p for p in self.net.pids(host) if rounds.machine_name(p).startswith(role)), None)

    def state(self, host):
        try:
            return host.status().get("state")
        except (rounds.control.ControlError, ValueError):
            return None

    def until(self, host, *states):
        rounds.wait_until(f"{host.node} {states}", lambda: self.state(host) in states, WAIT_S)

    def left_and_back(self):
        """Protection was lost and came back, on alpha, without a takeover."""
        rounds.wait_until("protection lost", lambda: self.state(self.alpha) != "P_PROTECTED", WAIT_S)
        self.until(self.alpha, "P_PROTECTED")
        if self.beta.status().get("takeovers"):
            raise SystemExit(f"FAIL: {self.number}: the backup took over")


def play(kind, stories, prefix):
    """Play the stories named on the command line, or all, one after the other; 77 without root."""
    if os.geteuid() != 0:
        print("needs root")
        return 77
    work = tempfile.mkdtemp(prefix=prefix)
    programs = demo.programs()
    made = image.build(demo.cache_dir(), programs["guest"], os.path.join(TOP, "tests", "demo"))
    for name in sys.argv[1:] or stories:
        begun = time.monotonic()
        kind(name, made, programs, work).play()
        print(f"PASS: {name} ({time.monotonic() - begun:.1f} s)", flush=True)
    if os.environ.get("RPL_KEEP"):
        print(f"logs in {work}")
    else:
        rounds.shutil.rmtree(work)
    return 0
