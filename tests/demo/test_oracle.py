#!/usr/bin/env python3
"""The oracle catches each violation that it names, and passes a round that is in order."""
import copy
import os
import sys
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import oracle  # noqa: E402

MS = 1_000_000
STEP = 10 * MS          # from one request to the next
ANSWER = 4 * MS
KILL = 3_001 * MS       # inside request 300, which is an INCR under way
OUTAGE = 2_000 * MS


def probe(n, uptime):
    return {"bad": 0, "rounds": n // 10, "first": "none", "boot": "b-1", "run_id": "r-1", "uptime": uptime, "inode": 77}


def good_round(requests=600):
    """A log of one request each STEP, with a silence of OUTAGE from the kill on, and the facts beside it."""
    records = [{"t": 0, "e": "connect", "local": "10.77.0.1:40000", "inode": 77}]
    value, shift = 0, 0
    for n in range(1, requests + 1):
        t = n * STEP + shift
        cmd = "PROBE" if n % 25 == 1 else "GET" if n % 8 == 0 else "INCR"
        if n == 300:
            cmd = "INCR"
        records.append({"t": t, "e": "send", "n": n, "cmd": cmd})
        if t <= KILL < t + ANSWER:
            shift = OUTAGE
        if cmd == "INCR":
            value += 1
        answer = probe(n, t / 1e9) if cmd == "PROBE" else value
        records.append({"t": n * STEP + shift + ANSWER, "e": "recv", "n": n, "val": answer})
    records.append({"t": requests * STEP + shift + STEP, "e": "end"})
    facts = oracle.Facts(kill_begin=KILL, kill_end=KILL + MS, after=KILL + OUTAGE - 5 * MS)
    return records, facts


def commands(records):
    return {r["n"]: r["cmd"] for r in records if r["e"] == "send"}


def receives(records, cmd, after=0):
    cmds = commands(records)
    return [r for r in records if r["e"] == "recv" and cmds[r["n"]] == cmd and r["t"] > after]


def shift_values(records, after, by):
    """All counter values answered after a moment, moved: what a rollback or a phantom write looks like."""
    cmds = commands(records)
    for r in records:
        if r["e"] == "recv" and r["t"] > after and cmds[r["n"]] != "PROBE":
            r["val"] += by


class Oracle(unittest.TestCase):
    def setUp(self):
        self.records, self.facts = good_round()

    def judge(self):
        return oracle.judge(self.records, self.facts)

    def assert_caught(self, name, lost=None):
        verdict = self.judge()
        self.assertEqual(verdict.state, "failed")
        self.assertIn(name, [v[0] for v in verdict.violations])
        if lost is not None:
            self.assertEqual(verdict.lost, lost)
        self.assertEqual(oracle.caught(verdict), name not in ("unsettled", "outcome"))

    def test_good_round_passes(self):
        verdict = self.judge()
        self.assertEqual((verdict.state, verdict.violations, verdict.invalid), ("passed", [], []))
        self.assertEqual(verdict.lost, 0)
        self.assertTrue(verdict.in_flight)
        self.assertEqual(verdict.replies_before, 299)
        self.assertEqual(verdict.replies_after, 301)
        self.assertGreater(max(latency for _, latency, _ in verdict.latencies), OUTAGE)

    def test_lost(self):
        shift_values(self.records, KILL, -3)
        self.assert_caught("lost", lost=3)

    def test_one_lost_shows_as_repeated(self):
        shift_values(self.records, KILL, -1)
        self.assert_caught("repeated", lost=1)

    def test_repeated_before_the_kill(self):
        reply = receives(self.records, "INCR")[30]
        reply["val"] -= 1
        self.assert_caught("repeated")

    def test_gap(self):
        shift_values(self.records, KILL, 1)
        self.assert_caught("gap", lost=0)

    def test_counter_not_fresh(self):
        shift_values(self.records, 0, 5)
        self.assert_caught("gap")

    def test_get_behind(self):
        receives(self.records, "GET", KILL)[0]["val"] -= 2
        self.assert_caught("get")

    def test_get_ahead(self):
        receives(self.records, "GET", KILL)[0]["val"] += 2
        self.assert_caught("get")

    def test_no_get_after(self):
        drop = {r["n"] for r in receives(self.records, "GET", KILL)}
        self.records = [r for r in self.records if r.get("n") not in drop]
        self.assert_caught("get-after")

    def test_reconnect(self):
        at = next(i for i, r in enumerate(self.records) if r["t"] > KILL)
        self.records.insert(at + 2, {"t": self.records[at]["t"], "e": "connect", "local": "10.77.0.1:40001", "inode": 78})
        self.assert_caught("reconnect")

    def test_other_socket(self):
        receives(self.records, "PROBE", KILL)[0]["val"]["inode"] = 78
        self.assert_caught("reconnect")

    def test_no_connection(self):
        self.records = self.records[1:]
        self.assert_caught("reconnect")

    def test_error(self):
        self.records.append({"t": self.records[-1]["t"] + 1, "e": "error", "what": "ConnectionResetError"})
        self.assert_caught("error")

    def test_two_requests_at_once(self):
        at = next(i for i, r in enumerate(self.records) if r["e"] == "recv")
        del self.records[at]
        self.assert_caught("order")

    def test_reply_to_nothing(self):
        self.records.append({"t": self.records[-1]["t"] + 1, "e": "recv", "n": 4711, "val": 1})
        self.assert_caught("order")

    def test_reboot_by_each_sign(self):
        for key, other in (("boot", "b-2"), ("run_id", "r-2"), ("uptime", 0.5)):
            with self.subTest(key):
                self.records, self.facts = good_round()
                for r in receives(self.records, "PROBE", KILL):
                    r["val"][key] = other
                self.assert_caught("reboot")

    def test_bad_page(self):
        for r in receives(self.records, "PROBE", KILL)[3:]:
            r["val"]["bad"] = 1
            r["val"]["first"] = "page_7_word_2"
        self.assert_caught("bad-page")

    def test_checker_stands_still(self):
        after = receives(self.records, "PROBE", KILL)
        for r in after:
            r["val"]["rounds"] = after[0]["val"]["rounds"] + 1
        self.assert_caught("no-checker")

    def test_checker_not_there(self):
        for r in receives(self.records, "PROBE"):
            r["val"]["bad"] = None
        self.assert_caught("no-checker")

    def test_no_takeover(self):
        self.facts.after = None
        self.assert_caught("unsettled")

    def test_silent_after_takeover(self):
        self.records = [r for r in self.records if r["t"] <= KILL]
        self.assert_caught("silent")

    def test_every_violation_is_provoked_here(self):
        with open(os.path.abspath(__file__), encoding="utf-8") as f:
            source = f.read()
        with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "test_faults.py"), encoding="utf-8") as f:
            source += f.read()
        for name in oracle.VIOLATIONS:
            self.assertIn(f'assert_caught("{name}"', source)

    def test_too_few_before_is_invalid(self):
        self.facts.kill_begin = self.facts.kill_end = 40 * STEP + MS
        verdict = self.judge()
        self.assertEqual(verdict.state, "invalid")
        self.assertFalse(oracle.caught(verdict))

    def test_too_few_after_is_invalid(self):
        end = self.facts.after
        kept = [r for r in self.records if r["t"] <= end] + [r for r in self.records if r["t"] > end][:2 * 45]
        for r in receives(kept, "PROBE", KILL):
            r["val"]["rounds"] += r["n"]
        self.records = kept
        verdict = self.judge()
        self.assertEqual((verdict.state, verdict.violations), ("invalid", []))

    def test_identity_unread_before_is_invalid(self):
        drop = {r["n"] for r in receives(self.records, "PROBE") if r["t"] < KILL}
        self.records = [r for r in self.records if r.get("n") not in drop]
        self.assertEqual(self.judge().state, "invalid")

    def test_half_a_line_is_not_read(self):
        self.assertEqual(oracle.parse(['{"t":1,"e":"end"}\n', '{"t":2,"e"']), [{"t": 1, "e": "end"}])

    def test_in_flight_only_incr(self):
        self.assertTrue(oracle.incr_under_way(self.records, KILL))
        between = 200 * STEP + ANSWER + MS
        self.assertFalse(oracle.incr_under_way(self.records, between))
        self.assertFalse(oracle.incr_under_way(self.records, 296 * STEP + MS))  # a GET

    def test_run_needs_in_flight_share(self):
        good = self.judge()
        idle = copy.copy(good)
        idle.in_flight = False
        self.assertEqual(oracle.judge_all([good, idle, idle, idle]), [])
        self.assertEqual(len(oracle.judge_all([good, idle, idle, idle, idle])), 1)
        self.assertEqual(len(oracle.judge_all([])), 1)

    def test_run_names_the_round(self):
        good = self.judge()
        shift_values(self.records, KILL, -3)
        reasons = oracle.judge_all([good, self.judge()])
        self.assertTrue(reasons[0].startswith("round 2 failed: "))


if __name__ == "__main__":
    unittest.main()
