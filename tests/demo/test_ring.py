#!/usr/bin/env python3
"""The reader of checkpoint traces, against bytes laid out by hand from replicad-trace(7)."""
import os
import struct
import sys
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ring  # noqa: E402

CAPACITY = 16
PERIOD = 50


def a_trace(epochs):
    """epochs: {epoch: (pages, [8 times])}"""
    records = [bytes(80)] * CAPACITY
    for epoch, (pages, times) in epochs.items():
        records[epoch % CAPACITY] = struct.pack("<QQ8Q", epoch, pages, *times)
    return b"RPLTRACE" + struct.pack("<4I", 1, 80, CAPACITY, 8) + bytes(40) + b"".join(records)


def steady(first, last):
    """Epochs that begin each PERIOD: staged +3, resumed +5, sent +8, acked +12, released +13."""
    return {e: (100 + e, [e * PERIOD + d for d in (0, 3, 5, 8, 12, 13)] + [0, 0]) for e in range(first, last + 1)}


class Trace(unittest.TestCase):
    def setUp(self):
        self.epochs = ring.parse(a_trace(steady(10, 20)))

    def test_oldest_first_across_the_ring(self):
        self.assertEqual([e.epoch for e in self.epochs], list(range(10, 21)))
        self.assertEqual(self.epochs[0].pages, 110)
        self.assertEqual(self.epochs[0].pause_ns, 5)
        self.assertNotIn("received", self.epochs[0].times)

    def test_unfinished_epoch_has_no_pause(self):
        epochs = ring.parse(a_trace({1: (0, [77, 0, 0, 0, 0, 0, 0, 0])}))
        self.assertIsNone(epochs[0].pause_ns)
        self.assertEqual(ring.step_at(epochs, 80), "s1")

    def test_each_step(self):
        for after, step in ((0, "s1"), (2, "s1"), (3, "s2"), (5, "s3"), (8, "s4"), (12, "s5"), (13, "s0"), (49, "s0")):
            self.assertEqual(ring.step_at(self.epochs, 15 * PERIOD + after), step, after)

    def test_before_the_first_epoch(self):
        self.assertIsNone(ring.step_at(self.epochs, 10 * PERIOD - 1))
        self.assertIsNone(ring.phase_at(self.epochs, 10 * PERIOD - 1))

    def test_period_and_phase(self):
        self.assertEqual(ring.period_ns(self.epochs), PERIOD)
        self.assertAlmostEqual(ring.phase_at(self.epochs, 15 * PERIOD + 20), 0.4)

    def test_what_is_no_trace_is_refused(self):
        good = a_trace(steady(1, 2))
        for bad in (b"", good[:63], b"X" + good[1:], good[:8] + struct.pack("<I", 2) + good[12:],
                    good[:12] + struct.pack("<I", 8) + good[16:], good[:20] + struct.pack("<I", 9) + good[24:]):
            with self.assertRaises(ValueError):
                ring.parse(bad)

    def test_a_cut_file_gives_what_is_whole(self):
        self.assertEqual([e.epoch for e in ring.parse(a_trace(steady(1, 5))[:64 + 80 * 3 + 40])], [1, 2])


if __name__ == "__main__":
    unittest.main()
