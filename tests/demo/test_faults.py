#!/usr/bin/env python3
"""The table of faults is whole, and its rows are judged by what they must lead to."""
import os
import sys
import unittest

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import demo  # noqa: E402
import faults  # noqa: E402
import oracle  # noqa: E402


class Table(unittest.TestCase):
    def test_names_are_unique_and_outcomes_known(self):
        self.assertEqual(len(set(faults.names())), len(faults.KINDS))
        for kind in faults.KINDS:
            for outcome in (kind.must, *kind.also):
                self.assertIn(outcome, (faults.TAKEOVER, faults.BACK, faults.SAME, faults.ENDED))
            self.assertTrue(kind.text)

    def test_every_kind_is_in_the_manual(self):
        with open(os.path.join(HERE, "..", "..", "man", "replicad-demo.8"), encoding="utf-8") as f:
            page = f.read()
        for name in faults.names():
            self.assertIn(f".It Cm {name}\n", page)

    def test_what_is_asked_for_is_played_in_an_order_of_the_seed(self):
        options = demo.parser().parse_args(["--kill", "mover,link,agent", "--rounds", "7", "--seed", "x"])
        played = [kind.name for kind in demo.order(options)]
        self.assertEqual(len(played), 7)
        self.assertEqual(sorted(played[:3]), ["agent", "link", "mover"])
        self.assertEqual(sorted(played[3:6]), ["agent", "link", "mover"])
        self.assertEqual(played, [kind.name for kind in demo.order(options)])

    def test_matrix_is_all_of_them(self):
        self.assertEqual(demo.kinds("matrix"), faults.KINDS)
        self.assertEqual([kind.name for kind in demo.kinds("all,mover")], ["all-primary", "mover"])


class Judgement(unittest.TestCase):
    def assert_caught(self, name, kind, outcome, seen):
        found = faults.judge(faults.find(kind), outcome, seen)
        self.assertIn(name, [n for n, _ in found])
        self.assertIn(name, oracle.VIOLATIONS)

    def test_right(self):
        for kind in faults.KINDS:
            for outcome in (kind.must, *kind.also):
                self.assertEqual(faults.judge(kind, outcome, list(kind.shows)), [])

    def test_another_outcome(self):
        self.assert_caught("outcome", "agent", faults.BACK, [])
        self.assert_caught("outcome", "all-primary", faults.SAME, [])
        self.assert_caught("outcome", "mover", faults.TAKEOVER, [])

    def test_a_state_not_seen(self):
        self.assert_caught("states", "link", faults.BACK, [])
        self.assert_caught("states", "arbiter-away-all", faults.TAKEOVER, [])
        self.assertEqual(faults.judge(faults.find("link"), faults.TAKEOVER, []), [])  # it could not be

    def test_a_state_left_too_early(self):
        self.assert_caught("states", "arbiter-away-all", faults.TAKEOVER, ["awaiting arbiter", "left B_CLAIM without the arbiter"])


if __name__ == "__main__":
    unittest.main()
