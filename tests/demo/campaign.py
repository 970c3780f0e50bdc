"""Rounds one after the other, each on the pair of the one before as long as that is in order."""
import os
import random
import shutil
import uuid

from faults import ENDED
from pair import Pair, RoundError
from rounds import EXPECTED, Round


def programs(demo_dir):
    """The programs of the build tree that started us, else the installed ones."""
    build = os.environ.get("RPL_BUILDDIR")
    if build:
        found = {"replicad": os.path.join(build, "replicad"), "relay": os.path.join(build, "replicad-relay"),
                 "guest": os.path.join(build, "tests", "demo", "guest")}
    else:
        libexec = os.path.dirname(demo_dir)
        found = {"replicad": shutil.which("replicad") or "/usr/bin/replicad", "relay": os.path.join(libexec, "replicad-relay"),
                 "guest": os.path.join(demo_dir, "guest")}
    for name, path in found.items():
        if not os.path.exists(path):
            raise RoundError(f"{name}: {path} does not exist; run make, or install replicad whole")
    return found



class Campaign:
    def __init__(self, options, made, accel, programs_, work):
        self.options, self.made, self.accel, self.programs, self.work = options, made, accel, programs_, work
        self.pair, self.pairs = None, 0
        self.random = random.Random(f"{options.seed}/pairs")

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        if self.pair is not None:
            self.pair.close()

    def _open(self):
        self.pairs += 1
        vm_uuid = str(uuid.UUID(int=self.random.getrandbits(128), version=4))
        self.pair = Pair(f"pair-{self.pairs}", self.options, self.made, self.accel, self.programs, self.work, vm_uuid)
        self.pair.open()

    def play(self, number, kind):
        """A round's result; one that could not be played counts as failed, with the reason."""
        r = None
        try:
            if self.pair is None:
                self._open()
            r = Round(number, self.options, kind, self.pair)
            result = r.play()
        except EXPECTED as error:
            result = unplayed(number, kind, error, r)
        if not self._goes_on(number, result):
            result["leftovers"] += self._end(result)
        return result

    def _goes_on(self, number, result):
        return (number < self.options.rounds and result["outcome"] != ENDED and result["state"] == "passed" and not result["leftovers"]
                and not self.options.fresh and not self.options.negative_control)

    def _end(self, result):
        """Take the pair down, in order if the round left it so. Returns what is left all the same."""
        old, self.pair, left = self.pair, None, []
        if old is None:
            return left
        try:
            if result["state"] != "failed" or self.options.negative_control:
                left += old.shut_down(result["outcome"] == ENDED)
        except EXPECTED as error:
            left.append(str(error))
        finally:
            left += old.close()
        if result["state"] == "passed" and not left and not self.options.keep:
            shutil.rmtree(old.base, ignore_errors=True)
        return left


def unplayed(number, kind, error, r):
    result = {"round": number, "kind": kind.name, "leftovers": [], "lost": 0, "in_flight": False, "replies_before": 0,
              "replies_after": 0, "step": None, "pauses_ns": [], "pauses": [], "latencies": [], "outcome": None, "seen": []}
    for key in ("detect_ns", "takeover_ns", "outage_ns", "checkpoints", "dirty_pages", "raw_bytes", "wire_bytes"):
        result[key] = None
    if r is not None:
        result.update(r.result)
    result.update(state="failed", violations=[*result.get("violations", []), ("played", str(error))], verdict=None,
                  marks=r.marks if r else {}, invalid=[])
    return result
