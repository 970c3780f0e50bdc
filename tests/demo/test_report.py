#!/usr/bin/env python3
"""The figures and the picture follow from the facts."""
import os
import sys
import unittest
from xml.etree import ElementTree

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import report  # noqa: E402

MS = report.MS
SVG = "{http://www.w3.org/2000/svg}"


def a_round(**changes):
    r = {"round": 1, "kind": "all-primary", "outcome": "takeover", "state": "passed", "in_flight": True, "step": "s4", "detect_ns": 1500 * MS, "takeover_ns": 12 * MS,
         "outage_ns": 1800 * MS, "replies_before": 100, "replies_after": 120, "lost": 0, "pauses_ns": [4 * MS, 6 * MS, 5 * MS],
         "boot_ns": 3800 * MS, "protect_ns": 900 * MS, "checkpoints": 3, "dirty_pages": 600, "raw_bytes": 2_500_000,
         "wire_bytes": 1_400}
    r.update(changes)
    return r


def a_run(rounds):
    return {"rounds": rounds, "accel": "tcg", "accel_why": "no KVM", "qemu": "QEMU 7.2", "kernel": "6.1", "interval_ms": 50}


class Figures(unittest.TestCase):
    def test_quantile_is_a_value_that_was_measured(self):
        self.assertEqual(report.quantile([3, 1, 2], 0.5), 2)
        self.assertEqual(report.quantile([1, 2, 3, 4], 0.5), 2)
        self.assertEqual(report.quantile(list(range(1, 101)), 0.99), 99)
        self.assertEqual(report.quantile([7], 0.99), 7)
        self.assertIsNone(report.quantile([], 0.5))

    def test_sizes(self):
        self.assertEqual([report.size(n) for n in (999, 1400, 2_500_000, 3_210_000_000, None)],
                         ["999 B", "1.4 kB", "2.5 MB", "3.21 GB", "–"])

    def test_table_adds_up_over_rounds(self):
        rows = dict(report.table(a_run([a_round(), a_round(round=2, step="s0", in_flight=False, pauses_ns=[9 * MS])])))
        self.assertEqual(rows["pause"], "p50 5.0 ms, p99 9.0 ms, max 9.0 ms")
        self.assertTrue(rows["checkpoints"].startswith("6,"))
        self.assertEqual(rows["dirty pages"], "200 a checkpoint")
        self.assertEqual(rows["bytes"], "5.0 MB of stream, 2.8 kB on the wire")
        self.assertEqual(rows["replies"], "200 before, 240 after the kill")
        self.assertEqual(rows["killed during"], "s0 1×, s4 1×; an INCR under way in 1 of 2 rounds")

    def test_unknown_figures_are_said_to_be_unknown(self):
        unknown = dict.fromkeys(("detect_ns", "takeover_ns", "outage_ns", "boot_ns", "protect_ns", "checkpoints", "dirty_pages",
                                 "raw_bytes", "wire_bytes", "step"))
        r = a_round(**unknown, state="failed", pauses_ns=[])
        rows = dict(report.table(a_run([r])))
        self.assertEqual(rows["taken over"].split(" ")[0], "–")
        self.assertEqual(rows["dirty pages"], "–")
        self.assertIn("unknown step", report.round_line(r, 1))

    def test_last_line(self):
        self.assertEqual(report.last_line(0), "acknowledged writes lost: 0")


class Picture(unittest.TestCase):
    def draw(self, **changes):
        facts = {"kill": 10_000 * MS, "takeover": 11_600 * MS, "protected": 6_000 * MS, "title": "a < b & c", "note": "n",
                 "latencies": [(t * MS, 30 * MS) for t in range(5_000, 15_000, 40)] + [(9_990 * MS, 1_800 * MS)],
                 "pauses": [(t * MS, 5 * MS) for t in range(6_000, 10_000, 50)]}
        facts.update(changes)
        return ElementTree.fromstring(report.picture(facts))

    def test_every_request_and_pause_is_drawn(self):
        svg = self.draw()
        self.assertEqual(len([n for n in svg.findall(f"{SVG}circle") if n.get("fill") == report.BLUE]), 251)
        pauses = [n for n in svg.findall(f"{SVG}line") if n.get("stroke") == report.ORANGE]
        self.assertEqual(len(pauses), 80)

    def test_marks(self):
        words = [n.text for n in self.draw().findall(f"{SVG}text")]
        for mark in ("a < b & c", "alpha killed (SIGKILL)", "beta runs the guest", "protected"):
            self.assertIn(mark, words)

    def test_no_takeover_no_mark(self):
        words = [n.text for n in self.draw(takeover=None, pauses=[]).findall(f"{SVG}text")]
        self.assertNotIn("beta runs the guest", words)

    def test_inside_the_frame(self):
        for n in self.draw().findall(f"{SVG}circle"):
            self.assertTrue(report.LEFT - 1 <= float(n.get("cx")) <= report.WIDTH - report.RIGHT + 1)
            self.assertTrue(report.TOP - 1 <= float(n.get("cy")) <= report.TOP + report.LATENCY_H + 1)

    def test_thinning_keeps_the_slow_ones(self):
        points = [(t, 10) for t in range(50_000)] + [(60_000, 99_999)]
        kept = report.thin(points)
        self.assertLessEqual(len(kept), report.POINTS_MAX + 1)
        self.assertIn((60_000, 99_999), kept)


if __name__ == "__main__":
    unittest.main()
