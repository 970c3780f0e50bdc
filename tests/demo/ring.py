"""When each step of each checkpoint happened: the ring that a keeper writes (replicad-trace(7)).

A file that is mapped by the keeper outlives its SIGKILL, so the steps of the very last epochs are known. Pure but for
read(): bytes in, values out.
"""
import struct
from dataclasses import dataclass, field

MAGIC = b"RPLTRACE"
VERSION = 1
HEADER = struct.Struct("<8sIIII")
HEADER_SIZE = 64
RECORD_HEAD = struct.Struct("<QQ")
STEPS = ("begun", "staged", "resumed", "sent", "acked", "released", "received", "folded", "suspended",
         "sealed", "saved", "told")


@dataclass
class Epoch:
    epoch: int
    pages: int
    times: dict = field(default_factory=dict)   # step: CLOCK_MONOTONIC ns, only those that happened

    @property
    def pause_ns(self):
        if "begun" in self.times and "resumed" in self.times:
            return self.times["resumed"] - self.times["begun"]
        return None


def parse(data):
    """[Epoch], oldest first."""
    if len(data) < HEADER_SIZE:
        raise ValueError(f"trace: {len(data)} bytes, its header has {HEADER_SIZE}")
    magic, version, record_size, capacity, steps = HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION or steps > len(STEPS) or record_size < RECORD_HEAD.size + 8 * steps:
        raise ValueError(f"trace: magic {magic!r} version {version} record size {record_size} steps {steps}")
    found = []
    for i in range(min(capacity, (len(data) - HEADER_SIZE) // record_size)):
        at = HEADER_SIZE + i * record_size
        epoch, pages = RECORD_HEAD.unpack_from(data, at)
        if epoch:
            times = struct.unpack_from(f"<{steps}Q", data, at + RECORD_HEAD.size)
            found.append(Epoch(epoch, pages, {name: t for name, t in zip(STEPS, times) if t}))
    return sorted(found, key=lambda e: e.epoch)


def read(path):
    with open(path, "rb") as f:
        return parse(f.read())


def step_at(epochs, when):
    """The protocol step (s0 ... s5, replicad-protocol(7)) that the newest epoch begun by then was in; None without one."""
    begun = [e for e in epochs if e.times.get("begun", when + 1) <= when]
    if not begun:
        return None
    times = begun[-1].times
    for step, reached in (("s1", "staged"), ("s2", "resumed"), ("s3", "sent"), ("s4", "acked"), ("s5", "released")):
        if times.get(reached, when + 1) > when:
            return step
    return "s0"


def period_ns(epochs):
    """Median distance of the last checkpoints; None if there are too few."""
    begun = [e.times["begun"] for e in epochs[-40:] if "begun" in e.times]
    gaps = sorted(b - a for a, b in zip(begun, begun[1:]))
    return gaps[len(gaps) // 2] if gaps else None


def phase_at(epochs, when):
    """How far the epoch was at this moment, in periods since the last checkpoint began."""
    begun = [e.times["begun"] for e in epochs if e.times.get("begun", when + 1) <= when]
    period = period_ns(epochs)
    return (when - begun[-1]) / period if begun and period else None
