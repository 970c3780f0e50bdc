"""What the flow tests with a real guest on two hosts have in common: the demo's pair, something done to it that is no row of
the demo's fault matrix, and a client whose replies must stay strictly +1 on its one connection."""
import argparse
import os
import shutil
import sys
import tempfile
import time
import uuid

sys.dont_write_bytecode = True
TOP = os.environ.get("top_srcdir", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
BUILD = os.environ.get("top_builddir", os.path.join(TOP, "build"))
os.environ["RPL_BUILDDIR"] = BUILD
sys.path.insert(0, os.path.join(TOP, "tests", "demo"))
import campaign  # noqa: E402
import demo  # noqa: E402
import image  # noqa: E402
import pair  # noqa: E402

WAIT_S = 60
REPLIES = 60


class Story(pair.Pair):
    unprotected = ()  # stories that begin without protection

    def __init__(self, name, made, programs, work):
        options = argparse.Namespace(interval_ms=50, vm_keys={}, progress=lambda text: print(f"{name}: {text}", flush=True))
        super().__init__(name, options, made, "tcg", programs, work, str(uuid.uuid4()))
        self.name = name

    @property
    def alpha(self):
        return self.hosts["alpha"]

    @property
    def beta(self):
        return self.hosts["beta"]

    def play(self):
        self.open()
        try:
            if self.name not in self.unprotected:
                self.start_agents()
                self.protect()
            self.replies(REPLIES)
            getattr(self, f"play_{self.name}")()
            self.replies(REPLIES)
            self.check_client()
        finally:
            left = self.close()
        if left:
            raise SystemExit(f"FAIL: {self.name}: left behind: {left}")

    def replies(self, count):
        now = time.monotonic_ns()
        pair.wait_until(f"{count} replies", lambda: self.client.replies_since(now) >= count, WAIT_S, self.client.check)

    def check_client(self):
        """Replies to INCR are strictly +1: none lost, none twice, on the one connection."""
        records = self.client.stop()
        asked = {r["n"]: r["cmd"].split()[0] for r in records if r["e"] == "send"}
        values = [r["val"] for r in records if r["e"] == "recv" and asked.get(r["n"]) == "INCR"]
        steps = {b - a for a, b in zip(values, values[1:])}
        if len(values) < REPLIES or steps != {1}:
            raise SystemExit(f"FAIL: {self.name}: {len(values)} replies to INCR, steps {steps}")

    def until(self, host, *states):
        pair.wait_until(f"{host.node} {states}", lambda: host.look().get("state") in states, WAIT_S)


def play(kind, stories, prefix):
    """Play the stories named on the command line, or all, one after the other; 77 without root."""
    if os.geteuid() != 0:
        print("needs root")
        return 77
    work = tempfile.mkdtemp(prefix=prefix)
    programs = campaign.programs(demo.HERE)
    made = image.build(demo.cache_dir(), programs["guest"], demo.HERE)
    for name in sys.argv[1:] or stories:
        begun = time.monotonic()
        kind(name, made, programs, work).play()
        print(f"PASS: {name} ({time.monotonic() - begun:.1f} s)", flush=True)
    if os.environ.get("RPL_KEEP"):
        print(f"logs in {work}")
    else:
        shutil.rmtree(work)
    return 0
